"""Selection of the class-gradient implementation: timed once per run on a GPU, by a fixed rule on a CPU."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence

import torch

from ..errors import DreamAccelError, DreamAccelWarning
from ..runtime.devices import reason_of, release_memory

ROUNDS = 5
"""Timed steps per implementation."""
WARM_UP = 3
"""Steps before the timed ones, which record the graph and warm up."""


def choose_implementation(
    names: Sequence[str], device: torch.device, step_of: Callable[[str], Callable[[], object]], cached: bool = False
) -> str:
    """Select the fastest implementation.

    On a CPU this is ``fused`` for runs with cached real sides, where the network allows it, and else the loop, whose
    bits are those of earlier versions. Neither is timed, so that the same seed gives the same bits. On a GPU each
    implementation is timed. Those that fail, because memory is too small or a library refuses, are left out
    and named in a :class:`DreamAccelWarning`.

    Args:
        names: the implementations that can serve the network, the loop first.
        device: the device of the network.
        step_of: takes a name and returns a matching step that can be repeated.
        cached: the real sides of the steps are computed once.

    Returns:
        the name of the implementation.

    Raises:
        DreamAccelError: all of them fail; the message has the reason of each.
    """
    if device.type == "cpu" or len(names) == 1:
        return "fused" if cached and "fused" in names and _runs(step_of("fused")) else names[0]
    seconds, reasons = {}, []
    for name in names:
        found = _attempt(name, device, step_of)
        if isinstance(found, float):
            seconds[name] = found
        else:
            reasons.append(f"{name}: {found}")
            # The error is gone by here, and with it the last references to what the step had made.
            release_memory()
    if not seconds:
        raise DreamAccelError(
            f"no implementation of the class gradients runs on {device} ({'; '.join(reasons)}): lower clusters, "
            "batch or max_synthetic, or run on another device"
        )
    if reasons:
        warnings.warn(
            f"left out of the choice of class_gradients on {device}: {'; '.join(reasons)}",
            DreamAccelWarning,
            stacklevel=2,
        )
    return fastest(seconds)


def _runs(step: Callable[[], object]) -> bool:
    """Take the step; return False if it is refused, as where a layer runs twice in a forward pass."""
    try:
        step()
    except DreamAccelError:
        return False
    return True


def fastest(seconds: Mapping[str, float]) -> str:
    """Return the key of the smallest value; among equal values, the first key."""
    return min(seconds, key=lambda name: seconds[name])


def _attempt(name: str, device: torch.device, step_of: Callable[[str], Callable[[], object]]) -> float | str:
    """The seconds of a step, or the reason it cannot be taken."""
    try:
        return _seconds(step_of(name), device)
    except (RuntimeError, DreamAccelError) as error:
        # A recording that fails says what recordings need; what went wrong is the error it was raised from.
        return reason_of(error.__cause__ if isinstance(error.__cause__, RuntimeError) else error)


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    """The shortest time of a few steps."""
    times = []
    for _ in range(WARM_UP + ROUNDS):
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        step()
        torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times[WARM_UP:])
