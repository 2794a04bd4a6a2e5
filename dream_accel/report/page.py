"""What a person looks at after a run: a labelled grid of the images, and a page with settings, curves, accuracies."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..evaluation import Row
from ..results import Progress, Result, versions
from ..runtime.files import write_bytes, write_text

PREVIEW_FILE = "preview.png"
REPORT_FILE = "report.html"
MAX_COLUMNS = 20
MAX_ROWS = 2000
MAX_NAME = 24
_ROW_INCHES = 0.7
_MOST_INCHES = 300.0
_SHOWN_PIXELS = 64
_MOST_VALUES = 1 << 27

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .2rem .8rem; text-align: left; border-bottom: 1px solid #ddd }
td.number { text-align: right; font-variant-numeric: tabular-nums } img { max-width: 100%; image-rendering: pixelated }
.note { background: #fff3cd; padding: .5rem 1rem }
"""


def write_report(result: Result, folder: Path, rows: Sequence[Row] = ()) -> None:
    """Write preview.png and report.html, which is self-contained, beside the result.

    Args:
        result: the run.
        folder: where they go; must exist.
        rows: the accuracy table; may be empty.
    """
    preview = write_preview(result.images, result.labels, result.class_names, folder)
    write_text(folder / REPORT_FILE, _page(result, preview, rows))


def write_preview(images: Tensor, labels: Tensor, class_names: Sequence[str], folder: Path) -> bytes:
    """Write preview.png, the grid of :func:`render_grid`; its bytes."""
    preview = render_grid(images, labels, class_names)
    write_bytes(folder / PREVIEW_FILE, preview)
    return preview


def render_grid(images: Tensor, labels: Tensor, class_names: Sequence[str]) -> bytes:
    """A PNG with one row of images per class, labelled; the first ``MAX_COLUMNS`` of each of the first ``MAX_ROWS``.

    Its height stays below 2^15 pixels: renderers of Matplotlib before 3.10 end at 2^16, and browsers soon after 2^15.

    Args:
        images: (n, channels, H, W) in [0, 1].
        labels: (n,) classes.
        class_names: a name per class.
    """
    figure_class, canvas_class = _matplotlib()
    class_names = class_names[:MAX_ROWS]
    rows = [_shrunk(images[labels == c][:MAX_COLUMNS], len(class_names)) for c in range(len(class_names))]
    columns = max(len(row) for row in rows)
    channels, height, width = rows[0].shape[1:]
    gap = max(1, width // 16)
    # One picture for all: an axis per image takes many seconds for a hundred classes.
    canvas = torch.ones(len(rows), columns, channels, height + gap, width + gap)
    for c, row in enumerate(rows):
        canvas[c, : len(row), :, :height, :width] = row.clamp(0, 1)
    pixels = (
        canvas.permute(0, 3, 1, 4, 2).reshape(len(rows) * (height + gap), columns * (width + gap), channels).numpy()
    )

    label_inches = 0.09 * min(max(len(name) for name in class_names), MAX_NAME) + 0.3
    inches = min(_ROW_INCHES, _MOST_INCHES / len(rows))
    figure = figure_class(figsize=(max(inches * columns + label_inches, 3.0), inches * len(rows)), dpi=100)
    canvas_class(figure)
    axis = figure.subplots()
    grey = channels != 3
    axis.imshow(pixels[:, :, 0] if grey else pixels, cmap="gray" if grey else None, vmin=0, vmax=1)
    axis.set_xticks([])
    middles = [c * (height + gap) + height / 2 for c in range(len(rows))]
    axis.set_yticks(middles, [name[:MAX_NAME] for name in class_names], parse_math=False)
    axis.tick_params(length=0)
    for side in axis.spines.values():
        side.set_visible(False)
    return _png(figure)


def _shrunk(images: Tensor, n_rows: int) -> Tensor:
    """Images of a row of the grid, averaged to about the size they are shown in where all of them need much memory."""
    channels, height, width = images.shape[1:]
    factor = max(1, min(height, width) // _SHOWN_PIXELS)
    if factor == 1 or n_rows * MAX_COLUMNS * channels * height * width <= _MOST_VALUES:
        return images
    return avg_pool2d(images, factor)


def render_curves(history: Sequence[Progress]) -> bytes:
    """A PNG of the matching distance and the throughput over inner steps."""
    figure_class, canvas_class = _matplotlib()
    figure = figure_class(figsize=(9, 3), dpi=100)
    canvas_class(figure)
    left, right = figure.subplots(1, 2)
    steps = [line.step for line in history]
    left.plot(steps, [line.loss for line in history], marker=".")
    left.set(xlabel="inner step", ylabel="matching distance, all classes")
    right.plot(steps, [line.images_per_second for line in history], marker=".")
    right.set(xlabel="inner step", ylabel="real images per second", ylim=(0, None))
    return _png(figure)


def _matplotlib() -> tuple[Any, Any]:
    # The object interface leaves pyplot's global state and the user's backend alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    return Figure, FigureCanvasAgg


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()


def _page(result: Result, preview: bytes, rows: Sequence[Row]) -> str:
    recipe = result.recipe
    title = f"{recipe.dataset}, {recipe.ipc} images per class, {recipe.recipe}"
    done = result.history[-1] if result.history else None
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if result.interrupted:
        completed = done.iteration if done else 0
        parts.append(f'<p class="note">Ended by hand after {completed} of {recipe.iterations} iterations.</p>')
    if rows:
        parts += ["<h2>Test accuracy</h2>", _accuracy_table(rows)]
    if done is not None:
        parts += [
            "<h2>Course of the run</h2>",
            f"<p>{done.iteration} outer iterations, {done.step} matching steps, {done.seconds:.0f} seconds.</p>",
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
    head = f"<p>{protocol.networks} networks each, {protocol.epochs} epochs, mean ± std of the last epoch, percent.</p>"
    return head + _table([(row.name, str(row.evaluation)) for row in rows])


def _table(cells: Sequence[tuple[str, str]]) -> str:
    lines = (f'<tr><td>{html.escape(a)}</td><td class="number">{html.escape(b)}</td></tr>' for a, b in cells)
    return "<table>" + "".join(lines) + "</table>"


def _image(png: bytes, alt: str) -> str:
    return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
