"""The figure of README.md: distilled images beside accuracy against seconds of distillation.

    python -m dream_accel.bench.overview --run RUN --curve bench/results/accuracy/fashion-mnist-ipc1.csv --out PNG

The images are read from a run's folder and the curve from the CSV of ``dream-accel bench accuracy``; nothing is
measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dream_accel import Result, load
from dream_accel.errors import DreamAccelError

from . import curve
from .words import count, number

COLOURS = {"random": "#9aa0a6", "kmeans-init": "#e8710a", "dream": "#1a73e8"}
NAMES = {
    "random": "random start, random batches",
    "kmeans-init": "K-Means start, random batches",
    "dream": "K-Means start, K-Means batches (DREAM)",
}
INK = "#202124"
GAP = 2
"""Pixels between two images."""


def draw(result: Result, points: Sequence[curve.Point], path: Path, columns: int = 10) -> None:
    """Write the figure as a PNG.

    Args:
        result: a distilled set; the decoded images of every class make a row, or a column where they are few.
        points: an accuracy curve.
        path: file to write.
        columns: images shown of each class at most.

    Raises:
        DreamAccelError: the curve has no points.
    """
    if not points:
        raise DreamAccelError("the accuracy curve has no points: run `dream-accel bench accuracy` first")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    images, labels = result.synthetic.decode()
    rows = [images[labels == c][:columns] for c in range(result.synthetic.n_classes)]
    upright = len(rows[0]) < len(rows)
    plot = Figure(figsize=(13, 4) if upright else (12, 5), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(plot)
    left, right = plot.subplots(1, 2, width_ratios=(1.25, 1.0) if upright else (1.0, 1.05))
    _grid(left, rows, result.class_names, upright)
    _curves(right, points)
    settings, first = result.recipe, points[0]
    what = f"{settings.dataset} distilled to {count(settings.ipc, 'image')} per class"
    if settings.factor > 1:
        what += f", which holds {settings.factor**2} smaller ones"
    left.set_title(what, loc="left", color=INK, pad=12)
    right.set_title(f"accuracy on the {first.evaluated_on}, %", loc="left", color=INK, pad=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    plot.savefig(path, bbox_inches="tight", pad_inches=0.12)


def _grid(axis: Any, rows: Sequence[Tensor], names: Sequence[str], upright: bool) -> None:
    """One picture of all images: a row for every class, or a column."""
    channels, height, width = rows[0].shape[1:]
    n, most = len(rows), max(map(len, rows))
    cells = torch.ones(n, most, channels, height + GAP, width + GAP)
    for own, row in zip(cells, rows, strict=True):
        own[: len(row), :, :height, :width] = row.clamp(0, 1)
    if upright:
        cells = cells.transpose(0, 1)
    sheet = cells.permute(0, 3, 1, 4, 2).reshape(cells.shape[0] * (height + GAP), cells.shape[1] * (width + GAP), -1)
    pixels = sheet[:-GAP, :-GAP].numpy()
    axis.imshow(pixels if channels == 3 else pixels[:, :, 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    side = width if upright else height
    middles = [i * (side + GAP) + side / 2 for i in range(n)]
    axis.set_xticks(middles if upright else [], names if upright else [], color=INK, rotation=35, ha="right")
    axis.set_yticks([] if upright else middles, [] if upright else names, color=INK)
    axis.tick_params(length=0, pad=3)
    axis.spines[:].set_visible(False)
    axis.set_anchor("N")


def _curves(axis: Any, points: Sequence[curve.Point]) -> None:
    """Mean over seeds, a band of one standard deviation."""
    for arm, levels in curve.levels(points).items():
        colour = COLOURS.get(arm)
        seconds, mean = [level.seconds for level in levels], [level.mean for level in levels]
        axis.plot(seconds, mean, marker="o", markersize=5, linewidth=2, color=colour, label=NAMES.get(arm, arm))
        low, high = ([level.mean + sign * level.std for level in levels] for sign in (-1, 1))
        axis.fill_between(seconds, low, high, alpha=0.12, linewidth=0, color=colour)
    first = points[0]
    axis.set_xscale("symlog", linthresh=1)
    axis.xaxis.set_major_formatter(lambda along, _: number(along))
    axis.set_xlabel(f"seconds of distillation, {first.device}, {count(first.threads, 'thread')}")
    axis.grid(axis="y", color="#e8eaed")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="lower right", frameon=False)


def main(words: Sequence[str] | None = None) -> None:
    """Read the arguments and write the figure."""
    parser = argparse.ArgumentParser(prog="overview", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of a run, or its distilled.safetensors")
    parser.add_argument("--curve", type=Path, required=True, help="CSV that `dream-accel bench accuracy` wrote")
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--columns", type=int, default=10, help="images shown of each class at most")
    options = parser.parse_args(words)
    draw(load(options.run), curve.read_curve(options.curve), options.out, options.columns)


if __name__ == "__main__":
    main()
