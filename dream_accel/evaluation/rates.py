"""Measured rates of a small run: what each of its parts takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from ..data import DataSplit
from ..engine.distiller import Distiller
from ..matching.objective import Target
from ..recipes import Recipe
from ..runtime.heap import retained_heap
from .protocol import evaluate_images
from .settings import Protocol

ROUNDS = 3
"""Times that each part is measured, after the first, which warms up."""
EPOCHS = 3
"""Epochs of the network that is trained to time an evaluation."""


@dataclass(frozen=True)
class Rates:
    """Measured seconds of the parts of a small run.

    Attributes:
        refresh: a refresh of all its classes.
        step: a matching step.
        target: the targets of a cached step.
        training: the training on one image.
        epoch: an epoch of a network that is evaluated.
        test: the test of that network.
    """

    refresh: float
    step: float
    target: float
    training: float
    epoch: float
    test: float


@retained_heap()
def measured_rates(distiller: Distiller, recipe: Recipe) -> Rates:
    """Measure the parts of a run on the data set of its distiller.

    Args:
        distiller: a small run.
        recipe: the settings of the whole one.
    """
    sampler, matching, train = distiller.sampler, distiller.matching, distiller.split.train
    distiller.restart(0)

    def timed(call: Callable[[], object]) -> float:
        times = []
        for _ in range(1 + ROUNDS):
            began = time.perf_counter()
            call()
            if distiller.device.type == "cuda":
                torch.cuda.synchronize(distiller.device)
            times.append(time.perf_counter() - began)
        return statistics.median(times[1:])

    def target() -> Target:
        assert sampler.indices is not None
        return matching.target(distiller.network, sampler.images, sampler.indices, draws)

    reads_features = sampler.strategy.needs_features
    refresh = timed(partial(sampler.refresh if reads_features else sampler.update, distiller.network))
    if recipe.real == "cached":
        draws = matching.draw_augmentations(matching.draws)
        of_target = timed(target)
        step = timed(partial(distiller.match_target, target(), draws))
    else:
        of_target, step = 0.0, timed(distiller.match)
    at_once = min(2 * recipe.network_batch, len(train))
    training = timed(lambda: distiller.train(at_once)) / at_once
    epoch, test = _evaluation(recipe, distiller.split)
    return Rates(
        refresh=refresh if reads_features else 0.0,
        step=step,
        target=of_target,
        training=training,
        epoch=epoch,
        test=test,
    )


def _evaluation(recipe: Recipe, split: DataSplit) -> tuple[float, float]:
    """Seconds of an epoch over as many images as a decoded synthetic set has, and of a test."""
    decoded = split.train.n_classes * recipe.ipc * recipe.factor**2
    rows = torch.arange(decoded, device=split.train.device) % len(split.train)
    images, labels = split.train.batch(rows), split.train.labels[rows]
    ends = [time.perf_counter()]
    protocol = Protocol.of(recipe, split.train.shape, networks=1, epochs=EPOCHS)
    evaluate_images(
        images, labels, split.test, split.normalization, protocol, on_epoch=lambda: ends.append(time.perf_counter())
    )
    # The first epoch warms up.
    return (ends[-1] - ends[1]) / (EPOCHS - 1), time.perf_counter() - ends[-1]
