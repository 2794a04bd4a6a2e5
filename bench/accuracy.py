"""Time to accuracy: the same distillation with and without representative sampling, evaluated on the way.

Three arms at equal batch, equal everything: random sampling from random initialisation, random sampling from K-Means
initialisation, and DREAM. They separate what the initialisation gives from what the sampling of the batches gives.
Others on request: DREAM with cached steps, whose real side is that of the picks or of the whole class, and DM+. A pool
is filled in the iterations that first need it, and its time is theirs. Seconds are of the processor on a CPU, where
other work does not count, and of the wall elsewhere.

Networks are trained from scratch at iterations fixed beforehand; the accuracies of the test set are reported and decide
nothing. With ``holdout`` a part of the training set takes the test set's place, for choosing settings.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch

from dream_accel.data import DataSplit
from dream_accel.data.stratified import train_test_split
from dream_accel.engine.loop import Run
from dream_accel.engine.splits import load_split
from dream_accel.errors import DreamAccelError
from dream_accel.evaluation import Protocol, evaluate_images
from dream_accel.recipes import Recipe
from dream_accel.runtime.files import write_text

from .arms import ARMS, DEFAULT_ARMS, arm_settings, check_arm
from .curve import Point, read_curve, write_curve
from .harness import clock_of, commit, device_name, versions

QUICK = {
    "limit_train": 200,
    "ipc": 1,
    "clusters": 8,
    "inner_steps": 2,
    "width": 8,
    "network_images": 64,
    "eval_epochs": 5,
    "eval_networks": 1,
}
"""Settings that only show that everything runs."""


@dataclass(frozen=True)
class Plan:
    """The arms and seeds to run, and the iterations at which accuracies are measured."""

    recipe: Recipe
    """its init, strategy, iterations and seed are set by arm and seed"""
    at: tuple[int, ...]
    """outer iterations after which networks are trained; 0 is the initialisation"""
    seeds: tuple[int, ...]
    arms: tuple[str, ...] = DEFAULT_ARMS
    holdout: int = 0
    """training images held out and evaluated on instead of the test set; 0: the test set"""

    def __post_init__(self) -> None:
        if not self.at or not self.seeds or not self.arms or min(self.at) < 0:
            raise DreamAccelError(
                f"at {self.at}, seeds {self.seeds}, arms {self.arms}: give at least one of each, iterations from 0"
            )
        unknown = set(self.arms) - set(ARMS)
        if unknown:
            raise DreamAccelError(f"unknown arm {sorted(unknown)[0]!r}: choose among {', '.join(ARMS)}")
        for arm in self.arms:
            check_arm(self.recipe, arm)

    def settings(self, arm: str, seed: int) -> Recipe:
        """The settings of an arm and seed."""
        return replace(arm_settings(self.recipe, arm), iterations=self.points[-1], seed=seed)

    @property
    def points(self) -> tuple[int, ...]:
        """The iterations in order, 0 first, because it records the seconds of the initialisation."""
        return tuple(sorted({0, *self.at}))


def run(
    plan: Plan,
    out: Path,
    device: torch.device,
    *,
    data_dir: str | None = None,
    download: bool = False,
    seconds: float = float("inf"),
    at_most: bool = False,
    say: Callable[[str], None] = print,
) -> bool:
    """Add points to the curve in ``out`` until it is complete or the time is over. A later call continues.

    Checkpoints are written beside the curve, in a folder with the suffix ``.runs``; a run stops after an outer
    iteration. The arms of a seed advance together, so that an incomplete curve still compares them.

    Args:
        plan: what to run; continuing needs the same plan.
        out: CSV file of :class:`bench.curve.Point`.
        device: where to run.
        data_dir, download: of the data set, as in :func:`dream_accel.distill`.
        seconds: stop and save after this time.
        at_most: take fewer training images than ``limit_train`` where there are fewer.
        say: called with a line of text for every point.

    Returns:
        whether the curve is complete.

    Raises:
        DreamAccelError: the file holds points of another plan.
    """
    deadline = time.perf_counter() + seconds
    points = read_curve(out) if out.exists() else []
    _check_same_plan(points, plan, out)
    split = with_holdout(load_split(plan.recipe, device, data_dir, download, at_most=at_most), plan.holdout)
    _warm_up(plan.recipe, split)
    done = {(point.arm, point.seed, point.iteration) for point in points}
    for seed in plan.seeds:
        arms = {arm: Arm(plan, arm, seed, split, _checkpoint(out, arm, seed)) for arm in plan.arms}
        for iteration in plan.points:
            for arm in (arms[name] for name in plan.arms if (name, seed, iteration) not in done):
                if not arm.reach(iteration, deadline) or time.perf_counter() > deadline:
                    for each in arms.values():
                        each.save()
                    return False
                points.append(arm.measure())
                write_curve(out, points)
                arm.save()
                say(_line(points[-1]))
    return True


class Arm:
    """One distillation, constructed when first needed."""

    def __init__(self, plan: Plan, name: str, seed: int, split: DataSplit, checkpoint: Path) -> None:
        self.plan, self.name, self.seed, self._split, self._checkpoint = plan, name, seed, split, checkpoint
        self._settings = plan.settings(name, seed)
        self._clock = clock_of(split.train.device)
        self._run: Run | None = None
        self._seconds: list[float] = []

    def reach(self, iteration: int, deadline: float) -> bool:
        """Distil until ``iteration`` outer iterations are done; False if the time was over first."""
        run = self._started()
        while len(run.history) < iteration:
            if time.perf_counter() > deadline:
                return False
            began = self._clock()
            run.advance()
            self._seconds.append(self._clock() - began)
            write_text(self._times, json.dumps(self._seconds))
        return True

    def measure(self) -> Point:
        """Train networks on the set in its present state and test them, by the protocol of the plan's recipe."""
        run, split = self._started(), self._split
        history, settings = run.history, run.recipe
        images, labels = run.synthetic.decode()
        protocol = replace(Protocol.of(self.plan.recipe, split.test.shape), seed=self.seed)
        began = self._clock()
        found = evaluate_images(
            images.to(split.test.device), labels.to(split.test.device), split.test, split.normalization, protocol
        )
        evaluated = self._clock() - began
        return Point(
            dataset=settings.dataset,
            images=len(split.train),
            network=f"{settings.network}-{settings.depth}-{settings.width}",
            ipc=settings.ipc,
            factor=settings.factor,
            clusters=settings.n_clusters,
            per_cluster=settings.per_cluster,
            interval=settings.interval,
            inner_steps=settings.inner_steps,
            metric=settings.metric,
            pixel_lr=settings.pixel_lr,
            network_images=settings.network_images,
            match_augment=settings.match_augment,
            arm=self.name,
            seed=self.seed,
            iteration=len(history),
            distill_seconds=round(sum(self._seconds), 3),
            evaluate_seconds=round(evaluated, 3),
            evaluated_on=f"{self.plan.holdout} held-out training images" if self.plan.holdout else "test set",
            networks=protocol.networks,
            epochs=protocol.epochs,
            accuracy=round(found.mean, 3),
            std=round(found.std, 3),
            device=device_name(split.train.device),
            threads=torch.get_num_threads(),
            versions=versions(),
            commit=commit(),
            clock="processor" if split.train.device.type == "cpu" else "wall",
        )

    @property
    def _times(self) -> Path:
        """The file with the seconds of the initialisation and of every iteration; the run counts those of the wall."""
        return self._checkpoint.with_suffix(".json")

    def save(self) -> None:
        """Write the checkpoint of a run that has started."""
        if self._run is not None:
            self._run.save()

    def _started(self) -> Run:
        if self._run is None:
            began = self._clock()
            self._run = Run(self._settings, self._split, self._checkpoint)
            _wait(self._split.train.device)
            self._seconds = self._seconds_so_far(self._clock() - began)
        return self._run

    def _seconds_so_far(self, initial: float) -> list[float]:
        """What an earlier call measured; where it was cut off between two files, the run's own seconds."""
        assert self._run is not None
        wall = [0.0, *(line.seconds for line in self._run.history)]
        before: list[float] = json.loads(self._times.read_text()) if self._times.exists() else [initial]
        before = before[: len(wall)]
        return [*before, *(after - until for until, after in pairwise(wall[len(before) - 1 :]))]


def _warm_up(recipe: Recipe, split: DataSplit) -> None:
    """Load and compile everything once, so that its time is not counted in the first arm."""
    small = replace(recipe, inner_steps=1, network_images=recipe.network_batch, real="live")
    Run(small, split).advance()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def with_holdout(split: DataSplit, n: int) -> DataSplit:
    if n == 0:
        return split
    train, held_out = train_test_split(split.train, n)
    return DataSplit(split.name, train, held_out)


def _checkpoint(out: Path, arm: str, seed: int) -> Path:
    return out.with_suffix(".runs") / f"{arm}-{seed}.safetensors"


def _check_same_plan(points: Sequence[Point], plan: Plan, out: Path) -> None:
    for point in points:
        recipe = plan.settings(point.arm, point.seed) if point.arm in ARMS else plan.recipe
        for name in ("dataset", "ipc", "factor", "clusters", "inner_steps", "metric", "pixel_lr", "interval"):
            theirs, ours = getattr(point, name), recipe.n_clusters if name == "clusters" else getattr(recipe, name)
            if theirs != ours:
                raise DreamAccelError(
                    f"{out} holds a curve with {name} {theirs!r}, not {ours!r}: continue it with its own settings, or "
                    "write to another file"
                )


def _line(point: Point) -> str:
    return (
        f"{point.arm:<18} seed {point.seed}  iteration {point.iteration:>4}  {point.distill_seconds:8.1f} s  "
        f"{point.accuracy:.2f} % on the {point.evaluated_on}"
    )
