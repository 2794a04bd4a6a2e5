"""The figures of a report as PNG files in memory: a labelled grid of images, and the curves of a run.

Their background is transparent and their ink grey, so that they can be read on a light page and on a dark one.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..results import Progress

MAX_COLUMNS = 20
"""Maximum number of images per class in a grid."""
MAX_ROWS = 2000
"""Maximum number of classes in a grid."""
MAX_NAME = 24
"""Maximum number of characters of a class name in a grid."""

_INK = "#808080"
_ROW_INCHES = 0.7
_MOST_INCHES = 300.0
_SHOWN_PIXELS = 64
_MOST_VALUES = 1 << 27


def render_grid(images: Tensor, labels: Tensor, class_names: Sequence[str], column_names: Sequence[str] = ()) -> bytes:
    """Draw one labelled row of images per class: the first :data:`MAX_COLUMNS` of each of the first :data:`MAX_ROWS`.

    The picture is less than 2^15 pixels high: renderers of Matplotlib before 3.10 end at 2^16, and browsers soon after
    2^15.

    Args:
        images: (n, channels, H, W) float32 in [0, 1]; unless there are 3 channels, only the first is drawn, in grey.
        labels: (n,) classes.
        class_names: one name per class.
        column_names: one name per column, written above it; may be empty.

    Returns:
        the bytes of a PNG file.
    """
    figure_class, canvas_class = matplotlib_classes()
    class_names = class_names[:MAX_ROWS]
    rows = [_shrunk(images[labels == c][:MAX_COLUMNS], len(class_names)) for c in range(len(class_names))]
    columns = max(len(row) for row in rows)
    channels, height, width = rows[0].shape[1:]
    gap = max(1, width // 16)
    # All images form one picture: an axis per image takes many seconds for a hundred classes. What lies between them is
    # white, and transparent.
    canvas = torch.full((len(rows), columns, height + gap, width + gap, 4), 255, dtype=torch.uint8)
    canvas[..., 3] = 0
    for c, row in enumerate(rows):
        place = canvas[c, : len(row), :height, :width]
        shown = row if channels == 3 else row[:, :1]
        place[..., :3] = (shown.clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1)
        place[..., 3] = 255
    pixels = canvas.transpose(1, 2).reshape(len(rows) * (height + gap), columns * (width + gap), 4).numpy()

    label_inches = 0.09 * min(max(len(name) for name in class_names), MAX_NAME) + 0.3
    inches = min(_ROW_INCHES, _MOST_INCHES / len(rows))
    figure = figure_class(figsize=(max(inches * columns + label_inches, 3.0), inches * len(rows)), dpi=100)
    canvas_class(figure)
    axis = figure.subplots()
    axis.imshow(pixels)
    places = [column * (width + gap) + width / 2 for column in range(len(column_names))]
    axis.set_xticks(places, column_names, parse_math=False)
    middles = [c * (height + gap) + height / 2 for c in range(len(rows))]
    axis.set_yticks(middles, [name[:MAX_NAME] for name in class_names], parse_math=False)
    axis.tick_params(length=0, labelcolor=_INK, labeltop=True, labelbottom=False)
    for side in axis.spines.values():
        side.set_visible(False)
    return _png(figure)


def _shrunk(images: Tensor, n_rows: int) -> Tensor:
    """Average the images of a row to about the size they are shown in, if all rows together need much memory."""
    channels, height, width = images.shape[1:]
    factor = max(1, min(height, width) // _SHOWN_PIXELS)
    if factor == 1 or n_rows * MAX_COLUMNS * channels * height * width <= _MOST_VALUES:
        return images
    return avg_pool2d(images, factor)


def render_curves(history: Sequence[Progress]) -> bytes:
    """Draw the matching distance and the throughput over inner steps.

    Args:
        history: one line per outer iteration.

    Returns:
        the bytes of a PNG file.
    """
    figure_class, canvas_class = matplotlib_classes()
    figure = figure_class(figsize=(9, 3), dpi=100, layout="constrained")
    canvas_class(figure)
    left, right = figure.subplots(1, 2)
    steps = [line.step for line in history]
    left.plot(steps, [line.loss for line in history], marker=".")
    left.set(xlabel="inner step", ylabel="matching distance, all classes")
    right.plot(steps, [line.images_per_second for line in history], marker=".")
    right.set(xlabel="inner step", ylabel="real images per second", ylim=(0, None))
    for axis in (left, right):
        axis.tick_params(colors=_INK)
        for text in (axis.xaxis.label, axis.yaxis.label):
            text.set_color(_INK)
        for side in axis.spines.values():
            side.set_color(_INK)
    return _png(figure)


def matplotlib_classes() -> tuple[Any, Any]:
    """Return Figure and the Agg canvas: they change neither pyplot's global state nor the user's backend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    return Figure, FigureCanvasAgg


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", transparent=True)
    return buffer.getvalue()
