"""The problem of the benchmarks ``step`` and ``outer``: one distillation, ours and published, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

import torch

from dream_accel import DreamAccelError
from dream_accel.data import DataSplit, ImageSet
from dream_accel.engine.assembly import assemble
from dream_accel.engine.distiller import Distiller
from dream_accel.engine.splits import load_split
from dream_accel.matching.class_gradients import CLASS_GRADIENTS
from dream_accel.random import generator
from dream_accel.recipes import Recipe, recipe
from dream_accel.runtime.determinism import repeatable
from dream_accel.runtime.heap import retained_heap

from .harness import commit, device_name, quantiles, type_and_message, versions
from .measurement import Measurement, not_run
from .published import Published

P = ParamSpec("P")
T = TypeVar("T")

TOLERANCE = 1e-3
"""Largest relative difference of the first matching distances at which both sides compute the same."""

PROBLEMS: dict[str, dict[str, Any]] = {
    "cpu": {"dataset": "fashion-mnist", "limit_train": 10000, "width": 32, "clusters": 64},
    "cuda": {"dataset": "cifar10", "width": 128, "clusters": 128},
}
COMMON: dict[str, Any] = {"ipc": 10, "factor": 2, "inner_steps": 10, "interval": 10}
"""An outer iteration of the benchmarks is one refresh and ten inner steps; the published one has ten times as many."""

SHAPES = {"fashion-mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
QUICK: dict[str, Any] = {
    "dataset": "digits",
    "limit_train": 200,
    "ipc": 2,
    "clusters": 8,
    "inner_steps": 2,
    "interval": 2,
    "width": 8,
    "network_images": 64,
}


@dataclass(frozen=True)
class Problem:
    """Both sides at the beginning of the same outer iteration, after their first refresh."""

    ours: Distiller
    theirs: Published
    name: str
    differs: str = ""
    """the reason why the published side is not timed; empty where both compute the same"""

    @property
    def recipe(self) -> Recipe:
        """The settings of both."""
        return self.ours.recipe

    @property
    def images(self) -> int:
        """Training images."""
        return len(self.ours.split.train)

    def cached_match(self) -> Callable[[], torch.Tensor]:
        """Our matching step with the real side of the picks computed beforehand, as ``real="cached"`` does."""
        ours = self.ours
        assert ours.sampler.indices is not None
        augmentations = ours.matching.draw_augmentations(ours.matching.draws)
        target = as_in_a_run(ours.matching.target, ours.device)(
            ours.network, ours.sampler.images, ours.sampler.indices, augmentations
        )
        return lambda: ours.match_target(target, augmentations)

    def other_ways(self) -> list[str]:
        """The class-gradient implementations that were not chosen."""
        return [way for way in CLASS_GRADIENTS if way != self.recipe.class_gradients]

    def by(self, way: str) -> Distiller:
        """Our side by another of them, on the same picks."""
        other = assemble(replace(self.recipe, class_gradients=way), self.ours.split, self.ours.state())
        other.restart(0)
        other.sampler.indices = self.ours.sampler.indices
        return other

    def missing(self, kernel: str, provider: str, reason: str, way: str | None = None) -> Measurement:
        """A line of a provider that was not timed."""
        print(f"  {provider}: not run: {reason}")
        untimed = not_run(reason)
        return replace(self.line(kernel, "", provider, once(0.0), "", way=way), **untimed)

    def line(
        self,
        kernel: str,
        metric: str,
        provider: str,
        values: Mapping[str, float],
        unit: str,
        features: int = 0,
        way: str | None = None,
    ) -> Measurement:
        """A line of the CSV."""
        ours, device = self.ours, self.ours.device
        how = ["one class after another"]
        if provider.startswith("dream"):
            recorded = device.type == "cuda" and self.recipe.graphs
            how = [way or self.recipe.class_gradients, "graphs" if recorded else "eager"]
        return Measurement(
            kernel=kernel,
            provider=provider,
            mode=", ".join([self.name, *how]),
            groups=ours.split.train.n_classes,
            rows=self.images,
            features=features,
            clusters=self.recipe.n_clusters,
            dtype="bfloat16" if self.recipe.bf16 else "float32",
            metric=metric,
            **values,
            unit=unit,
            floor=0.0,
            device=device_name(device),
            threads=torch.get_num_threads(),
            versions=versions("fast-pytorch-kmeans"),
            commit=commit(),
        )


def make_problem(device: torch.device, quick: bool, data_dir: str | None = None) -> Problem:
    """Construct both sides with the same settings, data and start.

    Args:
        device: where to run; decides the size.
        quick: a tiny problem.
        data_dir: folder of the data set. If it is not found, made-up images of the same shape replace it.

    Returns:
        the problem; it says so where the first matching distances differ.
    """
    settings = {**COMMON, **(QUICK if quick else PROBLEMS[device.type])}
    chosen = recipe("dream", settings.pop("dataset"), **settings)
    try:
        split, what = load_split(chosen, device, data_dir), chosen.dataset
    except DreamAccelError:
        split, what = made_up(chosen, device), f"made-up images like {chosen.dataset}"
    ours = assemble(chosen, split)
    theirs = Published(chosen, split, ours.pixels.pixels)
    ours.restart(0)
    as_in_a_run(ours.sampler.update, device)(ours.network)
    differs = _difference(ours, theirs)
    depth, width = chosen.depth_for(split.train.shape), chosen.width
    name = f"{what} {len(split.train)} ConvNet-{depth} width {width} IPC {chosen.ipc} factor {chosen.factor}"
    return Problem(ours, theirs, name, differs)


def _difference(ours: Distiller, theirs: Published) -> str:
    """Bring the published side to ours, and match once on both; the reason why it cannot be timed, or nothing."""
    distance = float(as_in_a_run(ours.match, ours.device)())
    try:
        theirs.restart(0)
        theirs.refresh(0, 0)
        assert ours.sampler.indices is not None
        theirs.batches = ours.sampler.indices.tolist()
        published = theirs.match()
    except Exception as error:
        return type_and_message(error)
    if abs(distance - published) <= TOLERANCE * abs(published):
        return ""
    return (
        f"the first matching distance is {distance:.6g} ours and {published:.6g} published: not the same "
        "computation, so not timed"
    )


def as_in_a_run(call: Callable[P, T], device: torch.device) -> Callable[P, T]:
    """Make a call of our side compute as it does in a run: the same bits every time, and freed memory kept."""
    return repeatable(device)(retained_heap()(call))


def made_up(chosen: Recipe, device: torch.device) -> DataSplit:
    """Noise with a different mean for every class, in the shape of the data set."""
    shape, draws = SHAPES[chosen.dataset], generator(0, "made-up images")
    labels = torch.arange(chosen.limit_train or 50000) % 10
    level = torch.randint(60, 196, (10, *shape), generator=draws)
    images = (level[labels] + torch.randint(-60, 60, (len(labels), *shape), generator=draws)).to(torch.uint8)
    one = ImageSet.from_arrays(images, labels, 10, layout="nchw").to(device)
    return DataSplit("made-up", one, one)


def times(seconds: list[float], repeats: int = 1) -> dict[str, float]:
    """Quantiles of the milliseconds per call, of ``repeats`` calls timed together."""
    return quantiles(seconds, 1e3 / repeats)


def rates(seconds: list[float], items: float) -> dict[str, float]:
    """Quantiles of the items per second; p20 belongs to the slow calls."""
    by_time = quantiles(seconds, 1.0)
    return {name: float(f"{items / by_time[of]:.4g}") for name, of in (("p20", "p80"), ("p50", "p50"), ("p80", "p20"))}


def once(value: float) -> dict[str, float]:
    """A count as quantiles that are all equal."""
    return {"p20": value, "p50": value, "p80": value}
