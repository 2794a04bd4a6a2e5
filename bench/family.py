"""Accuracy of every method at an equal number of seconds: coresets, each framework with and without DREAM, and DM+.

    dream-accel bench family --data-dir DATA --out bench/results/family/fashion-mnist-ipc10.csv

A cell is a method on one seed. It distils until an outer iteration ends after the given seconds, and is evaluated once.
Cells that the file has are skipped, so the same command continues. On a CPU seconds are those of the processor, which
other work on the machine hardly changes: run it on one thread. Learning rates and lengths of iterations are for this
budget and were chosen with ``holdout``; everything else is the method's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dream_accel.data import DataSplit
from dream_accel.engine.compute import Compute
from dream_accel.engine.loop import Run
from dream_accel.engine.selection import select_rows
from dream_accel.engine.splits import load_split
from dream_accel.errors import choices
from dream_accel.evaluation import Protocol, evaluate_images
from dream_accel.recipes import Recipe, recipe
from dream_accel.synthetic import SyntheticSet

from .accuracy import with_holdout
from .cells import CORESETS, Row
from .harness import clock_of, commit, device_name, versions
from .rows import read_rows, write_rows

WITH_DREAM = {"strategy": "dream", "init": "kmeans"}
_L1 = {"metric": "l1", "pixel_lr": 0.1, "inner_steps": 10, "batch": 64}
_DC = {"batch": 64, "inner_steps": 10, "synthetic_epochs": 5, "pixel_lr": 1.0}
_DM = {"batch": 64, "inner_steps": 10, "pixel_lr": 10.0}

CELLS: dict[str, tuple[str, dict[str, Any]]] = {
    "DC": ("dc", _DC),
    "DC with DREAM": ("dc", {**_DC, **WITH_DREAM}),
    "DSA": ("dsa", _DC),
    "DSA with DREAM": ("dsa", {**_DC, **WITH_DREAM}),
    "DM": ("dm", _DM),
    "DM with DREAM": ("dm", {**_DM, **WITH_DREAM}),
    "IDC-I": ("idc-i", _L1),
    "IDC": ("idc", {**_L1, "init": "mix"}),
    "DREAM (IDC with DREAM)": ("dream", _L1),
    "DREAM+": ("dream+", _L1),
    "DM+": ("dm+", {"batch": 64, "factor": 2, "inner_steps": 20, "trajectories": 2, "stages": 4, "pixel_lr": 5.0}),
}
"""Recipe and settings of the distilled cells, beside those that all cells share."""

QUICK = {"limit_train": 200, "width": 8, "eval_epochs": 2, "eval_networks": 1, "ipc": 2}
"""Settings that only show that everything runs."""


@dataclass(frozen=True)
class Budget:
    """The settings that all cells share."""

    dataset: str
    seconds: float
    seeds: int
    cells: tuple[str, ...]
    shared: dict[str, Any]
    """settings of a recipe, by name"""
    changes: dict[str, Any]
    """settings of a recipe that replace those of the cells, for choosing them"""
    holdout: int = 0
    """training images that are held out and take the test set's place"""

    def __post_init__(self) -> None:
        for name in self.cells:
            if name not in (*CORESETS, *CELLS):
                raise choices("cell", name, (*CORESETS, *CELLS))


def run(
    budget: Budget, out: Path, device: torch.device, data_dir: str | None, say: Callable[[str], None] = print
) -> list[Row]:
    """Measure the cells that ``out`` does not have, one seed after another, writing each as it comes.

    Args:
        budget: what to measure.
        out: CSV file of :class:`Row`.
        device: where to run.
        data_dir: the folder of the data set, as in :func:`dream_accel.distill`.
        say: called with a line of text for every cell.

    Returns:
        all rows of the file.
    """
    rows = read_rows(out, Row) if out.exists() else []
    done = {(row.cell, row.seed, row.settings) for row in rows}
    for seed in range(budget.seeds):
        starts: dict[tuple[str, int], float] = {}
        for cell in budget.cells:
            if (cell, seed, _words(cell, budget)) not in done:
                rows.append(_measure(budget, cell, seed, device, data_dir, starts))
                write_rows(out, Row, rows)
                row = rows[-1]
                say(f"{cell:24} seed {seed}  {row.start:6.2f} to {row.accuracy:6.2f} %  {row.seconds:6.1f} s")
    return rows


def _measure(
    budget: Budget,
    cell: str,
    seed: int,
    device: torch.device,
    data_dir: str | None,
    starts: dict[tuple[str, int], float],
) -> Row:
    name, own = CELLS.get(cell, ("dream", {"factor": 1}))
    settings = recipe(name, budget.dataset, **{**budget.shared, **own, **budget.changes, "seed": seed})
    split = with_holdout(load_split(settings, device, data_dir), budget.holdout)

    def accuracy(images: torch.Tensor, labels: torch.Tensor) -> float:
        protocol = replace(Protocol.of(settings, split.test.shape), seed=seed)
        return evaluate_images(images.to(device), labels.to(device), split.test, split.normalization, protocol).mean

    iterations = 0
    if cell in CORESETS:
        images, labels, seconds = _chosen(settings, split, cell)
        start = reached = accuracy(images, labels)
    else:
        key = (settings.init, settings.factor)
        for iterations, seconds, synthetic in _distilled(settings, split, budget.seconds):  # noqa: B007 (of the end)
            if iterations == 0 and key not in starts:
                starts[key] = accuracy(*synthetic.decode())
        start, reached = starts[key], accuracy(*synthetic.decode())
    return Row(
        settings.dataset,
        len(split.train),
        f"{settings.network}-{settings.depth_for(split.train.shape)}-{settings.width}",
        settings.ipc,
        cell,
        _words(cell, budget),
        settings.factor,
        seed,
        iterations,
        round(seconds, 1),
        round(start, 2),
        round(reached, 2),
        f"{budget.holdout} held-out training images" if budget.holdout else "test set",
        settings.eval_networks,
        settings.eval_epochs,
        device_name(device),
        torch.get_num_threads(),
        versions(),
        commit(),
    )


def _chosen(settings: Recipe, split: DataSplit, strategy: str) -> tuple[torch.Tensor, torch.Tensor, float]:
    clock = clock_of(split.train.device)
    began = clock()
    rows = select_rows(settings, split.train, Compute.of(settings, split), strategy)
    seconds = clock() - began
    labels = torch.arange(split.train.n_classes).repeat_interleave(settings.ipc)
    return split.train.batch(rows.flatten()), labels, seconds


def _distilled(settings: Recipe, split: DataSplit, seconds: float) -> Iterator[tuple[int, float, SyntheticSet]]:
    """Yield iterations, seconds and synthetic set of the start, and of the first iteration after ``seconds``."""
    clock = clock_of(split.train.device)
    began = clock()
    run = Run(settings, split)
    spent = clock() - began
    yield 0, spent, run.synthetic
    began = clock() - spent
    while clock() - began < seconds:
        run.advance()
    yield len(run.history), clock() - began, run.synthetic


def _words(cell: str, budget: Budget) -> str:
    own = {**CELLS.get(cell, ("", {}))[1], **budget.changes}
    return " ".join(f"{key}={value}" for key, value in sorted(own.items()))
