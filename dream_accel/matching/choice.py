"""The choice among the implementations of per-class gradients: measured once per run, on a GPU only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch

ROUNDS = 5
WARM_UP = 3
"""Steps that record and warm up, not timed."""


def choose_implementation(
    names: Sequence[str], device: torch.device, step_of: Callable[[str], Callable[[], object]]
) -> str:
    """The name of the fastest implementation.

    On a CPU it is the loop, whose activations fit the caches (``bench step`` times all). On a GPU each is timed.

    Args:
        names: the implementations that can serve the network, the loop first.
        device: the device of the network.
        step_of: returns for a name a matching step that can be repeated.
    """
    if device.type == "cpu" or len(names) == 1:
        return names[0]
    return fastest({name: seconds for name in names if (seconds := _seconds(step_of(name), device)) is not None})


def fastest(seconds: Mapping[str, float]) -> str:
    """The key of the smallest value, the first of equals."""
    return min(seconds, key=lambda name: seconds[name])


def _seconds(step: Callable[[], object], device: torch.device) -> float | None:
    """The shortest time of a few steps; None where memory is too small."""
    times = []
    try:
        for _ in range(WARM_UP + ROUNDS):
            torch.cuda.synchronize(device)
            began = time.perf_counter()
            step()
            torch.cuda.synchronize(device)
            times.append(time.perf_counter() - began)
    except torch.cuda.OutOfMemoryError:
        return None
    return min(times[WARM_UP:])
