"""Accuracy curves: their CSV, and the table and figure made from it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dream_accel.errors import DreamAccelError
from dream_accel.runtime.csv_rows import holds, read_rows, write_rows
from dream_accel.runtime.files import write_text

from .words import count, number

REFERENCES = {"random": "Random sampling", "dream": "DREAM"}
"""Arms whose final accuracy the others are timed to, with their names in sentences: the first that was measured."""


@dataclass(frozen=True)
class Point:
    """One line of the CSV: the accuracy of one arm and seed after some outer iterations, and the settings."""

    dataset: str
    images: int
    """training images distilled"""
    network: str
    """name, depth, width"""
    ipc: int
    factor: int
    clusters: int
    """N sub-clusters; the real batch of a class is clusters * per_cluster in every arm"""
    per_cluster: int
    interval: int
    """inner steps between two clusterings; random sampling draws at every step"""
    inner_steps: int
    metric: str
    pixel_lr: float
    network_images: int
    match_augment: str
    arm: str
    seed: int
    iteration: int
    """outer iterations done"""
    distill_seconds: float
    """initialisation and distillation, without evaluation"""
    evaluate_seconds: float
    evaluated_on: str
    networks: int
    """trained from scratch for this point"""
    epochs: int
    accuracy: float
    """percent, mean over the networks of this seed"""
    std: float
    """over the same networks"""
    device: str
    threads: int
    versions: str
    commit: str
    clock: str = "wall"
    """what the seconds are of: the processor, or the wall"""


@dataclass(frozen=True)
class Level:
    """An arm after so many outer iterations, over its seeds."""

    iteration: int
    seconds: float
    mean: float
    std: float
    """population standard deviation over seeds"""
    seeds: int


def write_curve(path: Path, points: Sequence[Point]) -> None:
    """Write all points, with a header."""
    write_rows(path, Point, points)


def read_curve(path: Path) -> list[Point]:
    """Read what :func:`write_curve` wrote.

    Raises:
        DreamAccelError: the file is missing or something else.
    """
    try:
        return read_rows(path, Point)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DreamAccelError(f"{path} cannot be read as an accuracy curve ({error!r}): name another file") from None


def holds_curve(path: Path) -> bool:
    """Return True if a CSV is one of :func:`write_curve`, by its header."""
    return holds(path, Point)


def publish(path: Path) -> str:
    """Write the table (.md) and the figure (.png) beside a curve's CSV, and return the table."""
    points = read_curve(path)
    write_text(path.with_suffix(".md"), table(points))
    figure(points, path.with_suffix(".png"))
    return table(points)


def levels(points: Sequence[Point]) -> dict[str, list[Level]]:
    """The curve of every arm: mean and deviation over its seeds, at the iterations that all of them reached."""
    curves: dict[str, list[Level]] = {}
    for arm in dict.fromkeys(point.arm for point in points):
        own = [point for point in points if point.arm == arm]
        by_iteration = {i: [point for point in own if point.iteration == i] for i in sorted({p.iteration for p in own})}
        most = max(map(len, by_iteration.values()))
        curves[arm] = [_level(i, there) for i, there in by_iteration.items() if len(there) == most]
    return curves


def _level(iteration: int, points: Sequence[Point]) -> Level:
    accuracies = [point.accuracy for point in points]
    seconds = statistics.fmean(point.distill_seconds for point in points)
    return Level(iteration, seconds, statistics.fmean(accuracies), statistics.pstdev(accuracies), len(points))


def reaches(curve: Sequence[Level], accuracy: float) -> Level | None:
    """The first measured point of a curve at ``accuracy`` or above; None where it stays below."""
    return next((level for level in curve if level.mean >= accuracy), None)


def _all(points: Sequence[Point], name: str) -> str:
    """Join the different values of a field, in the order of the rows; a curve may be continued on another machine."""
    return " and ".join(dict.fromkeys(getattr(point, name) for point in points))


def table(points: Sequence[Point]) -> str:
    """Render Markdown: settings, accuracies by iteration, and the cost of reaching random sampling's final level."""
    if not points:
        return "Nothing was measured.\n"
    first, curves = points[0], levels(points)
    iterations = sorted({level.iteration for curve in curves.values() for level in curve})
    rows = [
        f"{first.dataset}, {first.images:,} training images, {first.network}, IPC {first.ipc}, factor {first.factor}, "
        f"real batch {first.clusters} x {first.per_cluster} per class, "
        f"{count(first.inner_steps, 'inner step')} per iteration, "
        f"interval {first.interval}, {first.metric} at pixel_lr {first.pixel_lr:g}, {first.network_images} images of "
        f"network training per step, augmentation {first.match_augment or 'none'}.",
        f"Accuracy on the {first.evaluated_on}, percent, mean ± std over {_seeds(points)}, "
        f"{count(first.networks, 'network')} each, {count(first.epochs, 'epoch')}. {_all(points, 'device')}, "
        f"{count(first.threads, 'thread')}, {_all(points, 'versions')}, commit {_all(points, 'commit')}.",
        "",
        "| outer iterations | " + " | ".join(map(str, iterations)) + f" | {_seconds(points)} in all |",
        "|---" * (len(iterations) + 2) + "|",
    ]
    for arm, curve in curves.items():
        by_iteration = {level.iteration: level for level in curve}
        cells = [
            f"{by_iteration[i].mean:.2f} ± {by_iteration[i].std:.2f}" if i in by_iteration else "–" for i in iterations
        ]
        rows.append(f"| {arm} | " + " | ".join(cells) + f" | {curve[-1].seconds:,.1f} |")
    return "\n".join([*rows, "", *_others(points), *_speedups(curves)]) + "\n"


def _seconds(points: Sequence[Point]) -> str:
    return "processor seconds" if points[0].clock == "processor" else "seconds"


def _others(points: Sequence[Point]) -> list[str]:
    """A line per arm that matches by other settings than the first."""
    said = {point.arm: f"{point.metric} at pixel_lr {point.pixel_lr:g}" for point in points}
    return [f"{arm}: {words}." for arm, words in said.items() if words != said[points[0].arm]]


def _seeds(points: Sequence[Point]) -> str:
    return count(len({point.seed for point in points}), "seed")


def _speedups(curves: dict[str, list[Level]]) -> list[str]:
    """A line per arm: the first point at or above the final accuracy of the reference, beside the reference's own."""
    reference = next((arm for arm in REFERENCES if arm in curves), None)
    if reference is None or list(curves) == ["dream"]:
        return []
    end = curves[reference][-1]
    first = reaches(curves[reference], end.mean) or end
    earlier = "" if first == end else f", and was there first at iteration {first.iteration}, {first.seconds:,.1f} s"
    lines = [
        f"{REFERENCES[reference]} ends at {end.mean:.2f} % after {end.iteration} iterations ({end.seconds:,.1f} s)"
        f"{earlier}."
    ]
    for arm, curve in curves.items():
        if arm == reference:
            continue
        level = reaches(curve, end.mean)
        if level is None:
            lines.append(f"{arm} does not reach it by iteration {curve[-1].iteration}.")
            continue
        savings = [_saving("iterations", first.iteration, level.iteration)] if level.iteration else []
        savings.append(_saving("seconds", first.seconds, level.seconds))
        lines.append(
            f"{arm} is there ({level.mean:.2f} %) at iteration {level.iteration}, {level.seconds:,.1f} s: "
            f"{', '.join(savings)}."
        )
    return lines


def _saving(unit: str, reference: float, arm: float) -> str:
    """Times fewer (or more) than the reference that an arm took; measured seconds are at least a millisecond."""
    ratio = reference / max(arm, 1e-3)
    if 0.95 < ratio < 1.05:
        return f"as many {unit}"
    return f"{number(ratio)} times fewer {unit}" if ratio > 1 else f"{number(1 / ratio)} times as many {unit}"


def figure(points: Sequence[Point], path: Path) -> None:
    """Plot accuracy against iterations and against seconds, with a band of ± std over seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plot = Figure(figsize=(11, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(plot)
    left, right = plot.subplots(1, 2, sharey=True)
    for arm, curve in levels(points).items():
        mean = [level.mean for level in curve]
        low, high = ([level.mean + sign * level.std for level in curve] for sign in (-1, 1))
        for axis, along in (
            (left, [level.iteration for level in curve]),
            (right, [level.seconds for level in curve]),
        ):
            axis.plot(along, mean, marker="o", label=arm)
            axis.fill_between(along, low, high, alpha=0.2)
    if points:
        first = points[0]
        left.set(xlabel="outer iterations", ylabel="accuracy, %", xscale="symlog")
        right.set(xlabel=f"{_seconds(points)} of distillation", xscale="symlog")
        left.set_xticks(sorted({point.iteration for point in points}))
        for axis in (left, right):
            axis.xaxis.set_major_formatter(lambda along, _: number(along))
        left.legend()
        plot.suptitle(
            f"{first.dataset}, {first.images:,} images, {first.network}, IPC {first.ipc}; {_seeds(points)}; "
            f"{_all(points, 'device')}, {count(first.threads, 'thread')}"
        )
    plot.savefig(path)
