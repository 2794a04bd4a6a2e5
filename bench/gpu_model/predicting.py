"""Predictions by the names of the benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dream_accel.errors import DreamAccelError, choices
from dream_accel.matching.class_gradients import CLASS_GRADIENTS
from dream_accel.ops import EMPTY_POLICIES, PRECISIONS

from . import step
from .devices import Device, constants_of
from .kmeans import Rows
from .step import Work
from .work import Prediction, total


def predict(kind: str, device: str, *, graph: bool = True, **shape: Any) -> Prediction:
    """The time the model gives, in milliseconds, and what takes most of it.

    Args:
        kind: ``"kmeans iteration"``, ``"refresh"``, ``"matching step"``, ``"network update"``, ``"outer iteration"``.
        device: a key of :data:`.devices.DEVICES`, as :func:`.devices.known_device` returns it.
        graph: kernels are replayed from a CUDA graph; False: launched one by one.
        shape: of a K-Means iteration ``groups``, ``rows`` (of all groups), ``features``, ``clusters``, ``precision``
            (default ``"tf32"``), ``empty`` (default ``"farthest"``), ``itemsize`` (bytes of a value, default 4) and
            ``of_fit``: the mean iteration of a whole fit of so many, as the benchmark times it, instead of one alone.
            Of the others ``problem_recipe`` (a :class:`dream_accel.recipes.Recipe`; default: that of ``bench step`` on
            CUDA), ``image`` (channels, height, width), ``classes``, ``images`` (training images), and any setting of
            the recipe. Without ``class_gradients`` it is the fastest that the model predicts.

    Raises:
        DreamAccelError: an unknown kind, device, precision or policy, or a size that is missing or below 1.
    """
    constants = constants_of(device)
    found = total(_work(kind, constants, graph, shape), constants, graph)
    return found._replace(ms=found.ms / shape["of_fit"]) if shape.get("of_fit") else found


def launches(kind: str, device: str, **shape: Any) -> int:
    """Kernels that :func:`predict` counts for the same arguments."""
    work = _work(kind, constants_of(device), True, shape)
    return round(sum(times * kernel.launches for times, kernels in work for kernel in kernels))


def _work(kind: str, device: Device, graph: bool, shape: dict[str, Any]) -> Work:
    if kind not in KINDS:
        raise choices("kind of prediction", kind, KINDS)
    return KINDS[kind](device, graph, dict(shape))


def _kmeans_iteration(device: Device, graph: bool, shape: dict[str, Any]) -> Work:
    precision, empty = shape.pop("precision", "tf32"), shape.pop("empty", "farthest")
    of_fit = shape.pop("of_fit", None)
    if precision not in PRECISIONS:
        raise choices("precision", precision, PRECISIONS)
    if empty not in EMPTY_POLICIES:
        raise choices("empty-cluster policy", empty, EMPTY_POLICIES)
    needed, taken = ("groups", "rows", "features", "clusters"), ("groups", "rows", "features", "clusters", "itemsize")
    if set(needed) - set(shape) or set(shape) - set(taken) or any(not value >= 1 for value in shape.values()):
        raise DreamAccelError(
            f"the shape of a K-Means iteration is {shape}: give {', '.join(needed)} and optionally itemsize, "
            "precision, empty and of_fit, sizes of at least 1"
        )
    rows = Rows(**shape)
    if of_fit is None:
        return step.lloyd_iterations(rows, device, precision, empty)
    return step.fit(rows, device, precision, empty, of_fit, of_fit)


def _refresh(device: Device, graph: bool, shape: dict[str, Any]) -> Work:
    return step.refresh(step.make_problem(**shape), device)


def _matching_step(device: Device, graph: bool, shape: dict[str, Any]) -> Work:
    problem = step.make_problem(**shape)
    ways = CLASS_GRADIENTS if problem.way == "auto" else (problem.way,)
    return min((step.matching_step(problem, device, name) for name in ways), key=lambda w: total(w, device, graph).ms)


def _network_update(device: Device, graph: bool, shape: dict[str, Any]) -> Work:
    return step.network_update(step.make_problem(**shape), device)


def _outer_iteration(device: Device, graph: bool, shape: dict[str, Any]) -> Work:
    """Refreshes and inner steps; drawing the network is left out."""
    chosen = step.make_problem(**shape).recipe
    refreshes = -(-chosen.inner_steps // chosen.interval)
    parts = (
        (refreshes, _refresh(device, graph, dict(shape))),
        (chosen.inner_steps, _matching_step(device, graph, dict(shape))),
        (chosen.inner_steps, _network_update(device, graph, dict(shape))),
    )
    return [(outer * times, kernels) for outer, part in parts for times, kernels in part]


KINDS: dict[str, Callable[[Device, bool, dict[str, Any]], Work]] = {
    "kmeans iteration": _kmeans_iteration,
    "refresh": _refresh,
    "matching step": _matching_step,
    "network update": _network_update,
    "outer iteration": _outer_iteration,
}
