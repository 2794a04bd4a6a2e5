"""The figures of a report as PNG files in memory: a labelled grid of images, and the curves of a run."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..results import Progress

MAX_COLUMNS = 20
"""Maximum number of images per class in a grid."""
MAX_ROWS = 200
"""Maximum number of classes in a grid; matplotlib draws no picture higher than 65,535 pixels."""
MAX_SIDE = 128
"""Images with a longer side, in pixels, are shrunk for a grid."""
MAX_NAME = 24
"""Maximum number of characters of a class name in a grid."""


def render_grid(images: Tensor, labels: Tensor, class_names: Sequence[str]) -> bytes:
    """Draw one labelled row of images per class, with the first :data:`MAX_COLUMNS` images of each.

    At most :data:`MAX_ROWS` classes are drawn.

    Args:
        images: (n, channels, H, W) float32 in [0, 1]; unless there are 3 channels, only the first is drawn, in grey.
        labels: (n,) classes.
        class_names: one name per class.

    Returns:
        the bytes of a PNG file.
    """
    figure_class, canvas_class = _matplotlib()
    class_names = class_names[:MAX_ROWS]
    shrink = MAX_SIDE / max(images.shape[2:])
    if shrink < 1:
        sides = [max(1, round(side * shrink)) for side in images.shape[2:]]
        images = F.interpolate(images, size=sides, mode="area")
    rows = [images[labels == c][:MAX_COLUMNS] for c in range(len(class_names))]
    columns = max(len(row) for row in rows)
    channels, height, width = images.shape[1:]
    gap = max(1, width // 16)
    # All images form one picture: an axis per image takes many seconds for a hundred classes.
    canvas = torch.ones(len(rows), columns, channels, height + gap, width + gap)
    for c, row in enumerate(rows):
        canvas[c, : len(row), :, :height, :width] = row.clamp(0, 1)
    pixels = (
        canvas.permute(0, 3, 1, 4, 2).reshape(len(rows) * (height + gap), columns * (width + gap), channels).numpy()
    )

    label_inches = 0.09 * min(max(len(name) for name in class_names), MAX_NAME) + 0.3
    figure = figure_class(figsize=(max(0.7 * columns + label_inches, 3.0), 0.7 * len(rows)), dpi=100)
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


def render_curves(history: Sequence[Progress]) -> bytes:
    """Draw the matching distance and the throughput over inner steps.

    Args:
        history: one line per outer iteration.

    Returns:
        the bytes of a PNG file.
    """
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
    # The object interface does not change pyplot's global state or the user's backend.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    return Figure, FigureCanvasAgg


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()
