"""Which way of having the gradients per class is fastest here: measured once per run, on a GPU only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch

ROUNDS = 5


def choose_way(ways: Sequence[str], device: torch.device, step_of: Callable[[str], Callable[[], object]]) -> str:
    """The name of the fastest way.

    On a CPU it is the loop, whose activations fit the caches (``bench step`` times all). On a GPU each is timed.

    Args:
        ways: those that can serve the network.
        device: where it runs.
        step_of: gives for a way a matching step that can be repeated.
    """
    if device.type == "cpu" or len(ways) == 1:
        return ways[0]
    return fastest({way: seconds for way in ways if (seconds := _seconds(step_of(way), device)) is not None})


def fastest(seconds: Mapping[str, float]) -> str:
    """The key of the smallest value, the first of equals."""
    return min(seconds, key=lambda way: seconds[way])


def _seconds(step: Callable[[], object], device: torch.device) -> float | None:
    """Least time of a few steps; None where memory is too small. The first three record and warm up."""
    times = []
    try:
        for _ in range(3 + ROUNDS):
            torch.cuda.synchronize(device)
            began = time.perf_counter()
            step()
            torch.cuda.synchronize(device)
            times.append(time.perf_counter() - began)
    except torch.cuda.OutOfMemoryError:
        return None
    return min(times[3:])
