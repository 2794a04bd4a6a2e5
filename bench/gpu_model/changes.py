"""The predicted gain of changes that are planned and not made: the same formula with other work."""

from __future__ import annotations

from typing import NamedTuple

from dream_accel.kernels.tiles import AssignTile

from ..kmeans_problems import SHAPES, Shape
from . import kmeans
from .devices import Device
from .kmeans import Rows
from .step import lloyd_iterations
from .work import Kernel, total

STORED_TILE = AssignTile(128, 128, 64, 8, 3)


class Change(NamedTuple):
    """A planned change, on the problem where it matters most."""

    name: str
    shape: Shape
    precision: str


CIFAR10 = SHAPES["cuda"][0]
CHANGES = (Change("centred bf16 copy, tiles of 128 rows", CIFAR10, "tf32"),)


def rows_of(shape: Shape) -> Rows:
    """A shape of the benchmarks as the model takes it."""
    return Rows(len(shape.sizes), sum(shape.sizes), shape.features, shape.clusters)


def milliseconds(change: Change, device: Device) -> tuple[float, float]:
    """An iteration in a graph, as it is and with the change."""
    s = rows_of(change.shape)
    now = lloyd_iterations(s, device, change.precision, "farthest")
    changed = [(times, _with_copy(s, device, kernels)) for times, kernels in now]
    return total(now, device, True).ms, total(changed, device, True).ms


def _with_copy(s: Rows, device: Device, now: list[Kernel]) -> list[Kernel]:
    stored = Rows(s.groups, s.rows, s.features, s.clusters, itemsize=2)
    return _replaced(now, kmeans.assign(stored, device, "bf16", tile=STORED_TILE, centre=False))


def _replaced(now: list[Kernel], others: list[Kernel]) -> list[Kernel]:
    """The iteration with the large kernels of another."""
    large = {kernel.name: kernel for kernel in others if kernel.name.startswith("_kmeans")}
    return [large.get(kernel.name, kernel) for kernel in now]
