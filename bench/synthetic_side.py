"""Time of a cached matching step, which computes the synthetic side alone, by every class-gradient implementation.

    OMP_NUM_THREADS=1 python -m dream_accel.bench.synthetic_side

Processor time, so that other processes disturb it little; implementations take turns, and the shortest time counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import dream_accel as da
from dream_accel.data import DataSplit, ImageSet
from dream_accel.engine.assembly import assemble
from dream_accel.engine.distiller import Distiller
from dream_accel.matching.class_gradients import CLASS_GRADIENTS
from dream_accel.runtime.heap import retained_heap

SETTINGS: dict[str, Any] = {"factor": 2, "clusters": 64, "width": 32, "trajectories": 1, "stages": 1, "inner_steps": 1}
"""DREAM's for FashionMNIST at a fourth of the width; the time does not depend on what the images show."""


def random_split(per_class: int = 100) -> DataSplit:
    """Ten classes of random grey images of 28x28 pixels."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (10 * per_class, 1, 28, 28), generator=draws, dtype=torch.uint8)
    classes = ImageSet.from_arrays(images, torch.arange(10).repeat_interleave(per_class), 10)
    return DataSplit("random", classes, classes)


def milliseconds(ipc: int, rounds: int, **settings: Any) -> dict[str, tuple[float, float]]:
    """Time a step of every implementation.

    Args:
        ipc: images per class.
        rounds: timed steps of each.
        settings: of the recipe, over :data:`SETTINGS`.

    Returns:
        by implementation the shortest processor time of a step, ms, and the relative difference of its pixel gradient
        from that of the loop.
    """
    distillers = {}
    for name in CLASS_GRADIENTS:
        choice = {**SETTINGS, **settings, "ipc": ipc, "real": "cached", "class_gradients": name}
        distillers[name] = assemble(da.recipe("dream", "fashion-mnist", **choice), random_split())
    loop = distillers["loop"]
    loop.outer_iteration(0)
    target, augmentations = loop.pool.target(0, 0, 0)

    def step(distiller: Distiller) -> Tensor:
        return distiller.matching.match(loop.network, target, augmentations, loop.pixels.pixels)[1]

    best = dict.fromkeys(distillers, float("inf"))
    with retained_heap():
        gradients = {name: step(distiller) for name, distiller in distillers.items()}
        for _ in range(rounds):
            for name, distiller in distillers.items():
                began = time.process_time()
                step(distiller)
                best[name] = min(best[name], 1e3 * (time.process_time() - began))
    expected = gradients["loop"]
    return {
        name: (best[name], float((gradient - expected).norm() / expected.norm()))
        for name, gradient in gradients.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line per number of images per class and implementation."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10], help="images per class")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of every implementation")
    options = parser.parse_args(arguments)
    print("| IPC | class_gradients | ms per step | difference of the pixel gradient from loop |\n|---|---|---|---|")
    for ipc in options.ipc:
        for name, (time_of_step, difference) in milliseconds(ipc, options.rounds).items():
            print(f"| {ipc} | {name} | {time_of_step:.0f} | {difference:.1e} |")


if __name__ == "__main__":
    main()
