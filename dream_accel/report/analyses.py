"""Drawings of the analyses, made from their rows alone: lines with their spread, boxes, places, picks."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..data import DataSplit
from ..errors import counted
from ..runtime.files import write_bytes
from .figures import matplotlib_classes

KINDS = ("png", "svg")
"""The formats every figure is written in."""
_PANEL_INCHES = 4.2


def write_figure(name: str, rows: Sequence[Any], split: DataSplit, folder: Path) -> list[Path]:
    """Draw a figure and write it as NAME.png and NAME.svg.

    The drawing does not touch pyplot, so it needs no display.

    Args:
        name: a key of :data:`FIGURES`.
        rows: the rows of that analysis, at least one.
        split: the data set, of which ``picks`` shows images.
        folder: the folder to write to.

    Returns:
        the files.
    """
    import matplotlib

    figure = FIGURES[name](rows, split)
    paths = [folder / f"{name}.{kind}" for kind in KINDS]
    # Names within an SVG file are random without a salt, and dated; the same rows are to give the same file.
    with matplotlib.rc_context({"svg.hashsalt": name}):
        for path, kind in zip(paths, KINDS, strict=True):
            buffer = io.BytesIO()
            dated = {"metadata": {"Date": None}} if kind == "svg" else {}
            figure.savefig(buffer, format=kind, dpi=120, bbox_inches="tight", **dated)
            write_bytes(path, buffer.getvalue())
    return paths


def _figure(n_panels: int, width: float = _PANEL_INCHES, height: float = 3.4) -> tuple[Any, list[Any]]:
    figure_class, canvas_class = matplotlib_classes()
    figure = figure_class(figsize=(width * n_panels, height), layout="constrained")
    canvas_class(figure)
    return figure, list(figure.subplots(1, n_panels, squeeze=False)[0])


def _unique(rows: Sequence[Any], name: str) -> list[Any]:
    return list(dict.fromkeys(getattr(row, name) for row in rows))


def lines(
    axis: Any, rows: Sequence[Any], x: str, y: str, group: Callable[[Any], str], xlabel: str, ylabel: str
) -> None:
    """Draw one line per group: the mean of all its rows at each place, and their standard deviation as bars.

    Where a place has one row that states its own deviation ``std``, over networks, that is drawn.

    Args:
        axis: to draw on.
        rows: the rows.
        x, y: the fields drawn.
        group: names the line of a row.
        xlabel, ylabel: labels of the axes.
    """
    for name in dict.fromkeys(map(group, rows)):
        at: dict[float, list[Any]] = {}
        for row in rows:
            if group(row) == name:
                at.setdefault(getattr(row, x), []).append(row)
        places = sorted(at)
        values = [[getattr(row, y) for row in at[place]] for place in places]
        spread = [
            statistics.pstdev(some) if len(some) > 1 else getattr(at[place][0], "std", 0.0)
            for place, some in zip(places, values, strict=True)
        ]
        axis.errorbar(places, list(map(statistics.fmean, values)), spread, marker="o", ms=4, capsize=3, label=name)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")


def _along_training(
    y: str,
    ylabel: str,
    x: str = "batch",
    xlabel: str = "images of a class in a batch",
    group: Callable[[Any], str] = lambda row: row.strategy,
) -> Callable[[Sequence[Any], DataSplit], Any]:
    """Panels by the training of the network: a quantity against the size of batches, one line per group of rows."""

    def draw(rows: Sequence[Any], split: DataSplit) -> Any:
        stops = _unique(rows, "trained")
        figure, axes = _figure(len(stops))
        for axis, stop in zip(axes, stops, strict=True):
            own = [row for row in rows if row.trained == stop]
            lines(axis, own, x, y, group, xlabel, ylabel)
            axis.set_title(f"network trained on {counted(stop, 'image')}", fontsize="medium")
        return figure

    return draw


def _accuracy(x: str, group: Callable[[Any], str], xlabel: str) -> Callable[[Sequence[Any], DataSplit], Any]:
    def draw(rows: Sequence[Any], split: DataSplit) -> Any:
        figure, (axis,) = _figure(1, width=5.5)
        lines(axis, rows, x, "accuracy", group, xlabel, "test accuracy, percent")
        axis.set_title(split.name, fontsize="medium")
        return figure

    return draw


def _interval(rows: Sequence[Any], split: DataSplit) -> Any:
    figure, (left, right) = _figure(2)
    label = "inner steps between two clusterings"
    lines(left, rows, "interval", "accuracy", lambda row: row.strategy, label, "test accuracy, percent")
    lines(right, rows, "interval", "seconds", lambda row: row.strategy, label, "seconds of distillation")
    for container in right.containers:  # their bars would be those of the accuracy
        container.lines[2][0].set_visible(False)
        for cap in container.lines[1]:
            cap.set_visible(False)
    return figure


def _difference(rows: Sequence[Any], split: DataSplit) -> Any:
    figure, axes = _figure(2)
    sides = {"to_batch": "from the batch's gradient", "to_class": "from the class's gradient"}
    for axis, (y, words) in zip(axes, sides.items(), strict=True):
        lines(axis, rows, "step", y, lambda row: row.strategy, "inner step", f"squared distance {words}")
        axis.set_yscale("log")
    return figure


def _norms(rows: Sequence[Any], split: DataSplit) -> Any:
    stops, strategies = _unique(rows, "trained"), _unique(rows, "strategy")
    figure, axes = _figure(len(stops))
    for axis, stop in zip(axes, stops, strict=True):
        own = [[row.norm for row in rows if row.trained == stop and row.strategy == name] for name in strategies]
        axis.boxplot(own, showmeans=True, flierprops={"markersize": 3})
        axis.set_xticks(range(1, len(strategies) + 1), strategies)
        axis.set(ylabel="gradient norm of an image", ylim=(0, None))
        axis.set_title(f"network trained on {counted(stop, 'image')}", fontsize="medium")
    return figure


def _migration(rows: Sequence[Any], split: DataSplit) -> Any:
    stages = [stage for stage in _unique(rows, "iteration") if stage >= 0]
    figure, axes = _figure(len(stages), height=4.2)
    for axis, stage in zip(axes, stages, strict=True):
        for number, label in enumerate(_unique(rows, "label")):
            colour, own = f"C{number % 10}", [row for row in rows if row.label == label]
            real = [row for row in own if row.kind == "real"]
            synthetic = [row for row in own if row.iteration == stage]
            axis.scatter([row.x for row in real], [row.y for row in real], s=6, alpha=0.3, color=colour)
            axis.scatter(
                [row.x for row in synthetic],
                [row.y for row in synthetic],
                s=60,
                marker="*",
                color=colour,
                edgecolors="black",
                linewidths=0.6,
                label=split.train.class_names[label],
            )
        axis.set(xticks=[], yticks=[], title=f"after {counted(stage, 'outer iteration')}")
    axes[0].legend(fontsize="small", title="synthetic (stars)")
    return figure


def _picks(rows: Sequence[Any], split: DataSplit) -> Any:
    strategies = _unique(rows, "strategy")
    columns = max(row.rank for row in rows) + 1
    figure_class, canvas_class = matplotlib_classes()
    figure = figure_class(figsize=(0.6 * columns + 1, 0.7 * len(strategies)), layout="constrained")
    canvas_class(figure)
    axes = figure.subplots(len(strategies), columns, squeeze=False)
    for line, name in zip(axes, strategies, strict=True):
        for axis in line:
            axis.axis("off")
        for row in rows:
            if row.strategy == name:
                image = split.train.batch([row.index])[0].cpu()
                grey = len(image) != 3
                shown = image[0] if grey else image.permute(1, 2, 0)
                line[row.rank].imshow(shown.numpy(), cmap="gray" if grey else None, vmin=0, vmax=1)
        line[0].set_title(name, loc="left", fontsize="small", pad=2)
    return figure


def _continual(rows: Sequence[Any], split: DataSplit) -> Any:
    figure, (axis,) = _figure(1, width=5.5)
    lines(axis, rows, "n_seen", "accuracy", lambda row: row.memory, "classes seen", "test accuracy on them, percent")
    axis.set_title(split.name, fontsize="medium")
    return figure


FIGURES: dict[str, Callable[[Sequence[Any], DataSplit], Any]] = {
    "gradient-norms": _norms,
    "central-boundary": _accuracy("iteration", lambda row: row.strategy, "outer iterations"),
    "sub-clusters": _accuracy("batch", lambda row: f"n = {row.per_cluster}", "real images of a class per step, N n"),
    "interval": _interval,
    "initialisation": _accuracy("iteration", lambda row: row.init, "outer iterations"),
    "feature-migration": _migration,
    "gradient-difference": _difference,
    "evenness": _along_training("touched", "share of the sub-clusters touched"),
    "refresh-images": _along_training(
        "inertia", "inertia, relative", "images", "images of a class that are clustered", lambda row: "all classes"
    ),
    "picks": _picks,
    "gradient-fidelity": _along_training("error", "relative error of the gradient"),
    "continual": _continual,
}
"""A drawing of every analysis by its name, and that of continual learning: a function of its rows and the data set."""
