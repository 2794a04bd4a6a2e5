"""Choice of the backend that computes an operator, with reasons.

``choose`` returns the first backend that can run a call, in an order meant to be by speed. ``DREAM_ACCEL_BACKEND=name``
forces one and fails loudly when it cannot serve. A fallback to plain PyTorch that was not asked for causes one
warning per operator, with the reason.

A backend is a module with ``NAME``, ``unavailable() -> str | None``, ``refuses(op, *args) -> str | None`` and one
function per operator. None means that it can run; a string is the reason why it cannot.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import warnings
from types import ModuleType
from typing import Any

from ..errors import DreamAccelError, DreamAccelWarning, choices

BACKENDS = ("triton", "cuda", "cpu", "reference")
"""Names of the backends in the order in which they are asked. A backend for another device refuses."""

KMEANS_OPERATORS = ("kmeans_assign", "kmeans_update", "kmeans_iterate", "nearest_members")
GRAM_OPERATORS = ("group_products", "gram_assign")
DISTANCE_OPERATORS = ("gradient_distance", "feature_distance", "scale_gradients")
MAP_OPERATORS = ("norm_relu_pool", "norm_relu_pool_backward", "norm_relu_pool_double_backward")
OPERATORS = (*KMEANS_OPERATORS, *GRAM_OPERATORS, *DISTANCE_OPERATORS, *MAP_OPERATORS)

# Triton multiplies on tensor cores where the CUDA K-Means does not; the CUDA distances need fewer launches.
_ASKED_FIRST = dict.fromkeys(DISTANCE_OPERATORS, "cuda")

_announced: set[str] = set()


def backend(name: str) -> ModuleType:
    """The module of one backend. Raises DreamAccelError for an unknown name."""
    if name not in BACKENDS:
        raise choices("backend", name, BACKENDS)
    module = f"{__name__}.{name}"
    # Every call of an operator comes here, and importlib takes longer to find a loaded module than the dictionary.
    return sys.modules.get(module) or importlib.import_module(module)


def refusal(name: str, op: str, *args: Any) -> str | None:
    """Return the reason why backend ``name`` cannot run ``op(*args)``; None if it can."""
    module = backend(name)
    return module.unavailable() or module.refuses(op, *args)


def choose(op: str, *args: Any) -> ModuleType:
    """The backend that runs ``op(*args)``: the one forced by DREAM_ACCEL_BACKEND, else the fastest that can."""
    forced = os.environ.get("DREAM_ACCEL_BACKEND")
    if forced:
        reason = refusal(forced, op, *args)
        if reason is not None:
            raise DreamAccelError(
                f"DREAM_ACCEL_BACKEND={forced} cannot run {op}: {reason}; unset the variable to let the library choose"
            )
        return backend(forced)

    reasons: list[str] = []
    for name in _order(BACKENDS, _ASKED_FIRST.get(op)):
        reason = refusal(name, op, *args)
        if reason is None:
            if name == "reference":
                _announce(op, reasons)
            return backend(name)
        reasons.append(f"{name}: {reason}")
    raise AssertionError("the reference backend serves every call")


@functools.cache
def _order(names: tuple[str, ...], first: str | None) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: name != first))


def _announce(op: str, reasons: list[str]) -> None:
    if op in _announced:
        return
    _announced.add(op)
    warnings.warn(
        f"{op} runs in plain PyTorch because no compiled backend can ({'; '.join(reasons)}); "
        "run `dream-accel doctor` for details",
        DreamAccelWarning,
        stacklevel=4,
    )
