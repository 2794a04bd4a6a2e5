"""Run report: writes the HTML page with accuracies, curves, images and settings, and the preview of the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import ImageSet, to_float
from ..errors import counted
from ..evaluation import Row
from ..recipes.registry import changed_settings
from ..results import Result, versions
from ..runtime.files import write_bytes, write_text
from . import markup
from .accuracy import accuracy_table
from .figures import MAX_COLUMNS, MAX_ROWS, render_curves, render_grid

PREVIEW_FILE = "preview.png"
REPORT_FILE = "report.html"

SHOWN_CLASSES = 20
"""Most classes whose changes and real images are shown."""
SHOWN_TIMES = 12
"""Most points of a run at which the images are shown."""


def write_report(
    result: Result,
    folder: Path,
    rows: Sequence[Row] = (),
    left: Sequence[str] = (),
    train: ImageSet | None = None,
) -> None:
    """Write preview.png and report.html; the page contains its images and needs no other file.

    Args:
        result: the run.
        folder: the folder to write to, which must exist.
        rows: the rows of the accuracy table; may be empty.
        left: the names of rows that are still to be measured.
        train: the images that the run was distilled from; without them the real images it matched are not shown.

    Raises:
        OSError: the folder cannot be written to.
    """
    preview = write_preview(result.images, result.labels, result.class_names, folder)
    write_text(folder / REPORT_FILE, markup.page(_title(result), _parts(result, preview, rows, left, train)))


def write_preview(images: Tensor, labels: Tensor, class_names: Sequence[str], folder: Path) -> bytes:
    """Write preview.png, the grid of :func:`dream_accel.report.render_grid`.

    Args:
        images: (n, channels, H, W) float32 in [0, 1].
        labels: (n,) classes.
        class_names: one name per class.
        folder: the folder to write to, which must exist.

    Returns:
        the bytes of the file.
    """
    preview = render_grid(images, labels, class_names)
    write_bytes(folder / PREVIEW_FILE, preview)
    return preview


def described(change: dict[str, Any]) -> str:
    """One entry of :attr:`dream_accel.Result.changes` in words."""
    settings = (f"{name} {after} (before: {before})" for name, (before, after) in change["changed"].items())
    return f"Continued after iteration {change['after_iteration']} with {', '.join(settings)}"


def _title(result: Result) -> str:
    recipe = result.recipe
    return f"{recipe.dataset}, {counted(recipe.ipc, 'image')} per class, {recipe.recipe}"


def _parts(
    result: Result, preview: bytes, rows: Sequence[Row], left: Sequence[str], train: ImageSet | None
) -> list[str]:
    parts = [markup.note(text) for text in _ends(result)]
    if rows or left:
        parts += [markup.heading("Test accuracy"), accuracy_table(rows) if rows else ""]
    if left:
        parts.append(markup.note(f"Not measured: {'; '.join(left)}."))
    parts += _progress(result)
    ipc, n_classes = result.recipe.ipc, len(result.class_names)
    shown = f", the first {MAX_COLUMNS} of each class" if ipc > MAX_COLUMNS else ""
    shown += f", the first {MAX_ROWS} classes" if n_classes > MAX_ROWS else ""
    parts += [markup.heading(f"Images as stored{shown}"), markup.image(preview, "distilled images")]
    parts += _changes_of_images(result)
    parts += _real_images(result, train)
    return parts + _settings(result)


def _ends(result: Result) -> list[str]:
    """Notes above everything else: how the run ended, and with what it was continued."""
    completed = result.history[-1].iteration if result.history else 0
    asked = result.recipe.iterations
    texts = []
    if result.interrupted:
        texts.append(f"Interrupted after {completed} of {counted(asked, 'iteration')}.")
    if result.diverged:
        texts.append(
            f"Diverged in iteration {completed + 1} of {asked}: the images are those after iteration {completed}, the "
            "last in which all values were finite."
        )
    return texts + [f"{described(change)}." for change in result.changes]


def _progress(result: Result) -> list[str]:
    if not result.history:
        return []
    done = result.history[-1]
    text = (
        f"{counted(done.iteration, 'outer iteration')}, {counted(done.step, 'matching step')}, "
        f"{done.seconds:.0f} seconds."
    )
    curves = markup.image(render_curves(result.history), "curves")
    return [markup.heading("Progress"), markup.paragraph(text), curves]


def _changes_of_images(result: Result) -> list[str]:
    """The strip of every class: its first image from the beginning of the run to its end."""
    previews = result.previews
    count = len(previews.iterations)
    if count < 2:
        return []
    steps = min(count, SHOWN_TIMES)
    places = [round(step * (count - 1) / (steps - 1)) for step in range(steps)]
    frames = torch.stack([previews.images[place][:SHOWN_CLASSES] for place in places], dim=1)
    n_classes = len(frames)
    strip = render_grid(
        to_float(frames.flatten(0, 1)),
        torch.arange(n_classes).repeat_interleave(steps),
        result.class_names[:n_classes],
        [str(previews.iterations[place]) for place in places],
    )
    of = f", the first {n_classes} classes" if n_classes < len(result.class_names) else ""
    return [
        markup.heading(f"The first image of a class along the run{of}"),
        markup.paragraph("Above every column the number of outer iterations completed."),
        markup.image(strip, "images along the run"),
    ]


def _real_images(result: Result, train: ImageSet | None) -> list[str]:
    """The real images that the last steps matched."""
    if train is None or result.picks is None:
        return []
    picks = result.picks[:SHOWN_CLASSES, :MAX_COLUMNS].to(train.device)
    n_classes, each = picks.shape
    images = to_float(train.images[picks.flatten()]).cpu()
    labels = torch.arange(n_classes).repeat_interleave(each)
    grid = render_grid(images, labels, result.class_names[:n_classes])
    shown = f", {each} of {result.picks.shape[1]} per class" if each < result.picks.shape[1] else ""
    shown += f", the first {n_classes} classes" if n_classes < len(result.picks) else ""
    return [markup.heading(f"Real images of the last refresh{shown}"), markup.image(grid, "real images")]


def _settings(result: Result) -> list[str]:
    recipe = result.recipe
    channels, height, width = result.synthetic.images.shape[2:]
    changed = changed_settings(recipe, (channels, height, width))
    settings = asdict(recipe)
    rest = [(key, str(value)) for key, value in settings.items() if key not in changed]
    parts = [markup.heading("Settings")]
    if changed:
        rows = [(key, str(settings[key]), str(default)) for key, default in changed.items()]
        parts.append(markup.table(rows, ("changed", "this run", f"default of {recipe.recipe}")))
    else:
        parts.append(markup.paragraph(f"All settings are those of {recipe.recipe} for this data set."))
    parts.append(markup.details("All other settings", markup.table(rest)))
    return [*parts, markup.heading("Versions"), markup.table(list(versions().items()))]
