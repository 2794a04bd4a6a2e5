"""Selection of the class-gradient implementation: timed once per run, on a GPU only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch

ROUNDS = 5
"""Timed steps per implementation."""
WARM_UP = 3
"""Steps before the timed ones, which record the graph and warm up."""


def choose_implementation(
    names: Sequence[str], device: torch.device, step_of: Callable[[str], Callable[[], object]]
) -> str:
    """Select the fastest implementation.

    On a CPU this is the loop, whose activations fit into the caches (``bench step`` times all implementations). On a
    GPU each implementation is timed.

    Args:
        names: the implementations that can serve the network, the loop first.
        device: the device of the network.
        step_of: takes a name and returns a matching step that can be repeated.

    Returns:
        the name of the implementation.
    """
    if device.type == "cpu" or len(names) == 1:
        return names[0]
    return fastest({name: seconds for name in names if (seconds := _seconds(step_of(name), device)) is not None})


def fastest(seconds: Mapping[str, float]) -> str:
    """Return the key of the smallest value; among equal values, the first key."""
    return min(seconds, key=lambda name: seconds[name])


def _seconds(step: Callable[[], object], device: torch.device) -> float | None:
    """The shortest of the timed steps, seconds; None if the device runs out of memory."""
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
