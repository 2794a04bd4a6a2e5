"""The predicted gain of changes that are planned and not made: the same formula with other work."""

from __future__ import annotations

from typing import NamedTuple

from dream_accel.kernels.tiles import AssignTile

from ..kmeans_problems import SHAPES, Shape
from . import kmeans
from .devices import Device
from .kmeans import Rows
from .step import Work, lloyd_iteration
from .work import Kernel, total

CHANGED = 0.1
"""Part of the rows that change their cluster after the first iterations; each is read for the old and the new one."""
FULL_EVERY = 8
"""Iterations between two updates that read all rows."""
STORED_TILE = AssignTile(128, 128, 64, 8, 3)


class Change(NamedTuple):
    """A planned change, on the problem where it matters most."""

    name: str
    shape: Shape
    precision: str


CIFAR10 = SHAPES["cuda"][0]
CHANGES = (
    Change("incremental update", CIFAR10, "tf32"),
    Change("centred bf16 copy, tiles of 128 rows", CIFAR10, "tf32"),
    Change("both", CIFAR10, "tf32"),
)


def rows_of(shape: Shape) -> Rows:
    """A shape of the benchmarks as the model takes it."""
    return Rows(len(shape.sizes), sum(shape.sizes), shape.features, shape.clusters)


def milliseconds(change: Change, device: Device) -> tuple[float, float]:
    """An iteration in a graph, as it is and with the change."""
    s = rows_of(change.shape)
    now = lloyd_iteration(s, device, change.precision, "farthest")
    return total([(1, now)], device, True).ms, total(_changed(change.name, s, device, now), device, True).ms


def _changed(name: str, s: Rows, device: Device, now: list[Kernel]) -> Work:
    stored = Rows(s.groups, s.rows, s.features, s.clusters, itemsize=2)
    by_copy = kmeans.assign(stored, device, "bf16", tile=STORED_TILE, centre=False)
    if name == "incremental update":
        return _incremental(now, s, device)
    if name.startswith("centred bf16 copy"):
        return [(1, _replaced(now, by_copy))]
    return _incremental(_replaced(now, by_copy), s, device)


def _incremental(now: list[Kernel], s: Rows, device: Device) -> Work:
    part = _replaced(now, kmeans.update(s, device, "farthest", share=2 * CHANGED))
    every = 1 / FULL_EVERY
    return [(every, now), (1 - every, part)]


def _replaced(now: list[Kernel], others: list[Kernel]) -> list[Kernel]:
    """The iteration with the large kernels of another."""
    large = {kernel.name: kernel for kernel in others if kernel.name.startswith("_kmeans")}
    return [large.get(kernel.name, kernel) for kernel in now]
