"""Run report: writes the HTML page with accuracies, curves, images and settings, and the preview of the images."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import counted
from ..evaluation import Evaluation, Row
from ..results import Result, versions
from ..runtime.files import write_bytes, write_text
from .figures import MAX_COLUMNS, MAX_ROWS, render_curves, render_grid

PREVIEW_FILE = "preview.png"
REPORT_FILE = "report.html"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .2rem .8rem; text-align: left; border-bottom: 1px solid #ddd }
td.number { text-align: right; font-variant-numeric: tabular-nums } img { max-width: 100%; image-rendering: pixelated }
.note { background: #fff3cd; padding: .5rem 1rem }
"""


def write_report(result: Result, folder: Path, rows: Sequence[Row] = (), left: Sequence[str] = ()) -> None:
    """Write preview.png and report.html; the page contains its images and needs no other file.

    Args:
        result: the run.
        folder: the folder to write to, which must exist.
        rows: the rows of the accuracy table; may be empty.
        left: the names of rows that are still to be measured.

    Raises:
        OSError: the folder cannot be written to.
    """
    preview = write_preview(result.images, result.labels, result.class_names, folder)
    write_text(folder / REPORT_FILE, _page(result, preview, rows, left))


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


def _page(result: Result, preview: bytes, rows: Sequence[Row], left: Sequence[str]) -> str:
    recipe = result.recipe
    title = f"{recipe.dataset}, {counted(recipe.ipc, 'image')} per class, {recipe.recipe}"
    done = result.history[-1] if result.history else None
    completed = done.iteration if done else 0
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if result.interrupted:
        parts.append(_note(f"Interrupted after {completed} of {counted(recipe.iterations, 'iteration')}."))
    if result.diverged:
        parts.append(
            _note(
                f"Diverged in iteration {completed + 1} of {recipe.iterations}: the images are those after iteration "
                f"{completed}, the last in which all values were finite."
            )
        )
    parts += [_note(f"{described(change)}.") for change in result.changes]
    if rows or left:
        parts += ["<h2>Test accuracy</h2>", _accuracy_table(rows) if rows else ""]
    if left:
        parts.append(_note(f"Not measured: {'; '.join(left)}."))
    if done is not None:
        parts += [
            "<h2>Progress</h2>",
            f"<p>{counted(done.iteration, 'outer iteration')}, {counted(done.step, 'matching step')}, "
            f"{done.seconds:.0f} seconds.</p>",
            _image(render_curves(result.history), "curves"),
        ]
    shown = f", the first {MAX_COLUMNS} of each class" if recipe.ipc > MAX_COLUMNS else ""
    shown += f", the first {MAX_ROWS} classes" if len(result.class_names) > MAX_ROWS else ""
    parts += [f"<h2>Images as stored{shown}</h2>", _image(preview, "distilled images")]
    settings = {**asdict(recipe), **versions()}
    parts += ["<h2>Settings</h2>", _table([(key, str(value)) for key, value in settings.items()])]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _accuracy_table(rows: Sequence[Row]) -> str:
    protocol = rows[-1].evaluation.protocol
    each = f"{counted(protocol.networks, 'network')} each, {counted(protocol.epochs, 'epoch')}"
    head = f"<p>{each}, mean ± std of the last epoch, percent.</p>"
    return head + _table([(row.name, shown_accuracy(row.evaluation)) for row in rows])


def shown_accuracy(evaluation: Evaluation) -> str:
    """The accuracy of an evaluation, followed by the number of networks where not all were tested."""
    tested, asked = len(evaluation.accuracies), evaluation.protocol.networks
    return f"{evaluation}" + ("" if evaluation.complete else f" ({tested} of {counted(asked, 'network')})")


def described(change: dict[str, Any]) -> str:
    """One entry of :attr:`dream_accel.Result.changes` in words."""
    settings = (f"{name} {after} (before: {before})" for name, (before, after) in change["changed"].items())
    return f"Continued after iteration {change['after_iteration']} with {', '.join(settings)}"


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def _table(cells: Sequence[tuple[str, str]]) -> str:
    lines = (f'<tr><td>{html.escape(a)}</td><td class="number">{html.escape(b)}</td></tr>' for a, b in cells)
    return "<table>" + "".join(lines) + "</table>"


def _image(png: bytes, alt: str) -> str:
    return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
