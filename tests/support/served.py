"""The backends that serve this machine, by operator family: parameters of the fixtures that force them in turn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from dream_accel.backends import (
    BACKENDS,
    DISTANCE_OPERATORS,
    GRAM_OPERATORS,
    KMEANS_OPERATORS,
    MAP_OPERATORS,
    refusal,
)
from dream_accel.backends.selftest import devices, sample_call


@dataclass(frozen=True)
class Served:
    """A backend and a device whose calls it runs."""

    name: str
    device: torch.device

    def __str__(self) -> str:
        return self.name if self.name in ("cpu", "cuda") else f"{self.name}-{self.device.type}"


@cache
def served_here(operators: tuple[str, ...]) -> list[Served]:
    return [
        Served(name, device)
        for name in BACKENDS
        for device in devices()
        if all(refusal(name, op, *sample_call(op, device)) is None for op in operators)
    ]


KMEANS_BACKENDS = served_here(KMEANS_OPERATORS)
GRADIENT_BACKENDS = served_here(DISTANCE_OPERATORS)
MAP_BACKENDS = served_here(MAP_OPERATORS)


def _repeatable(backends: list[Served]) -> list[Served]:
    # On CUDA plain PyTorch adds up rows in any order; all others give the same bits again.
    return [served for served in backends if (served.name, served.device.type) != ("reference", "cuda")]


REPEATABLE_BACKENDS = _repeatable(KMEANS_BACKENDS)
GRAM_BACKENDS = _repeatable(served_here(GRAM_OPERATORS))
