"""Benchmark of the accuracy where every step draws a network: random real batches, picks of all images, and of pools.

    python -m dream_accel.bench.network_per_step_accuracy --data-dir DATA --out curve.csv [--quick]

DC at one image per class, written as its loop is: a new network and one matching step in every iteration. The arms
differ in the real batch alone and begin with the same random real images. Networks are trained from scratch on the
pixels at the end, by the evaluation of DC's recipe.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dream_accel.compat import GetImages
from dream_accel.data import DataSplit
from dream_accel.engine.splits import load_split
from dream_accel.evaluation import Protocol, evaluate_images
from dream_accel.groups import first_rows
from dream_accel.random import generator
from dream_accel.recipes import Recipe, recipe

from .network_per_step import BLOCK, Problem, block_of_iterations

COLUMNS = ("dataset", "images_per_class", "batch", "arm", "seed", "iterations", "seconds", "networks", "accuracy")


def distilled(problem: Problem, sampler: GetImages | None, start: Tensor, iterations: int) -> tuple[Tensor, float]:
    """Distil by the loop.

    Args:
        problem: images and networks.
        sampler: chooses the real batches; None draws them at random.
        start: (C, channels, H, W) initial images, normalised; not changed.
        iterations: number of matching steps, rounded up to whole blocks.

    Returns:
        the images after the last step, and the seconds it took.
    """
    synthetic = start.clone()
    block = block_of_iterations(problem, sampler, formula=False, synthetic=synthetic)
    began = time.perf_counter()
    for _ in range(-(-iterations // BLOCK)):
        block()
    return synthetic.detach(), time.perf_counter() - began


def measure(settings: Recipe, split: DataSplit, pools: list[int], iterations: int, out: Path) -> None:
    """Run every arm for one seed, and append a row for each to ``out``."""
    torch.manual_seed(settings.seed)
    images = split.normalization(split.train.images.float() / 255)
    depth = settings.depth_for(split.train.shape)
    problem = Problem(images, split.train.labels, settings.batch, settings.width, depth, settings.seed)
    draws = generator(settings.seed, "start")
    order = torch.randperm(len(images), generator=draws)
    first = order[first_rows(*_by_class(problem.labels[order], problem.classes), 1).flatten()]
    start = problem.images[first]
    protocol = Protocol.of(settings, split.test.shape)
    samplers: dict[str, GetImages | None] = {
        "random": None,
        "all images": problem.sampler(pool=max(problem.sizes), seed=settings.seed),
        **{f"pool of {pool}": problem.sampler(pool=pool, seed=settings.seed) for pool in pools},
    }
    arms = {"start": (start, 0.0)}
    for arm, sampler in samplers.items():
        arms[arm] = distilled(problem, sampler, start, iterations)
        _append(out, settings, split, arm, iterations, *arms[arm], protocol, problem)
    _append(out, settings, split, "start", 0, *arms["start"], protocol, problem)


def _by_class(labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Rows sorted by class (N,) and the offsets of the classes (C+1,)."""
    return labels.argsort(stable=True), F.pad(torch.bincount(labels, minlength=n_classes).cumsum(0), (1, 0))


def _append(
    out: Path,
    settings: Recipe,
    split: DataSplit,
    arm: str,
    iterations: int,
    synthetic: Tensor,
    seconds: float,
    protocol: Protocol,
    problem: Problem,
) -> None:
    pixels = split.normalization.inverse(synthetic).clamp(0, 1)
    labels = torch.arange(problem.classes, device=pixels.device)
    found = evaluate_images(pixels, labels, split.test, split.normalization, protocol)
    values = (settings.dataset, problem.sizes[0], settings.batch, arm, settings.seed, iterations, round(seconds, 1))
    is_new = not out.exists()
    with out.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(COLUMNS)
        writer.writerow([*values, protocol.networks, round(found.mean, 2)])
    print(f"{arm:14} seed {settings.seed}  {found.mean:6.2f} %  {seconds:7.1f} s", flush=True)


def main() -> None:
    """Run every arm for every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist", help="a name that load_dataset takes")
    parser.add_argument("--data-dir", help="folder of named data sets")
    parser.add_argument("--limit-train", type=int, default=10_000, help="training images")
    parser.add_argument("--batch", type=int, default=64, help="real images per class and step")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--pools", type=int, nargs="*", default=[128, 256, 512], help="images per class of a refresh")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="tiny shapes, ten iterations, one seed")
    args = parser.parse_args()
    small = {"eval_epochs": 300, "eval_networks": 3}
    if args.quick:
        args.limit_train, args.width, args.batch, args.pools, args.iterations, args.seeds = 200, 8, 8, [16], 10, 1
        small = {"eval_epochs": 2, "eval_networks": 1}
    torch.set_num_threads(args.threads)
    for seed in range(args.seeds):
        settings = recipe(
            "dc",
            args.data,
            ipc=1,
            batch=args.batch,
            width=args.width,
            limit_train=args.limit_train,
            seed=seed,
            **small,
        )
        split = load_split(settings, torch.device("cpu"), args.data_dir)
        measure(settings, split, args.pools, args.iterations, args.out)


if __name__ == "__main__":
    main()
