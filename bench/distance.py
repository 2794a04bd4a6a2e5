"""Benchmark of the gradient distance, forward and backward: ours beside eager PyTorch, written as IDC and DC write it.

Every provider computes the distance of all classes and its derivative in the synthetic gradients, of convolution
weights alone, as IDC and DREAM do. All are checked against each other before they are timed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from dream_accel import DreamAccelError, gradient_distance
from dream_accel.backends import refusal
from dream_accel.random import generator

from .distance_problems import NETWORKS, QUICK_NETWORKS, eager_distance
from .harness import commit, device_name, quantiles, time_interleaved, type_and_message, versions
from .measurement import Measurement, not_run

TOLERANCE = 1e-3
"""Relative difference between two providers' distances."""
Call = Callable[[], Any]
Key = tuple[str, str]
"""Provider and mode."""


METRICS = ("mse", "l1", "cos", "global_cos")
CLASSES = (1, 10, 100)
COMPILED = "ConvNet-3"
"""The network torch.compile is timed on: every other takes up to a minute to compile."""
COMPILED_ON_CUDA = ("mse", 10)
"""Metric and number of classes it is timed for on CUDA, where time is short."""


@dataclass(frozen=True)
class Problem:
    """Gradients of both sides, one stack per parameter."""

    network: str
    metric: str
    real: list[Tensor]
    synthetic: list[Tensor]

    @property
    def n_classes(self) -> int:
        return len(self.real[0])

    @property
    def n_bytes(self) -> int:
        """Bytes a distance moves: both sides are read and the derivative is written."""
        return 3 * sum(x.numel() * x.element_size() for x in self.real)


def run(device: torch.device, quick: bool, rounds: int = 9) -> Iterator[Measurement]:
    """Measure every network, number of classes and metric that memory allows.

    Args:
        device: CPU or CUDA.
        quick: a tiny network, few rounds.
        rounds: timed calls of each provider.
    """
    networks, classes, metrics = (QUICK_NETWORKS, (2,), METRICS[1:3]) if quick else (NETWORKS, CLASSES, METRICS)
    limit = _most_elements(device)
    for network, shapes in networks.items():
        for n in classes:
            n_elements = n * sum(torch.Size(shape).numel() for shape in shapes)
            if n_elements > limit:
                print(f"  {network} x {n}: left out, {n_elements} elements a side, memory and time allow {limit}")
                continue
            real, synthetic = ([_gradients(n, shape, device, side) for shape in shapes] for side in ("real", "other"))
            few = quick or (device.type == "cpu" and n_elements > 2**23)
            for metric in metrics:
                yield from _measure(Problem(network, metric, real, synthetic), device, 3 if few else rounds)


def _most_elements(device: torch.device) -> int:
    # Every provider has leaves of its own, and a graph the memory of its results.
    return 2**25 if device.type == "cpu" else torch.cuda.mem_get_info(device)[0] // (4 * 24)


def _gradients(n: int, shape: tuple[int, ...], device: torch.device, side: str) -> Tensor:
    return 1e-3 * torch.randn(n, *shape, generator=generator(0, "bench", side, *shape, device=device), device=device)


def _measure(problem: Problem, device: torch.device, rounds: int) -> Iterator[Measurement]:
    contestants, missing = _contestants(problem, device)
    flat = torch.cat([x.flatten() for x in problem.real])
    target = torch.empty_like(flat)
    timed = {**contestants, ("copy", "of as many bytes"): lambda: target.copy_(flat)}
    names = {f"{provider}, {mode}" if mode else provider: (provider, mode) for provider, mode in timed}
    failures: dict[str, str] = {}
    times = time_interleaved(dict(zip(names, timed.values(), strict=True)), device, rounds, failures=failures)
    missing.update({names[key]: reason for key, reason in failures.items()})
    # A copy moves two bytes for each of its own, a distance three.
    seconds = {names[key]: [1.5 * t if key.startswith("copy") else t for t in of_key] for key, of_key in times.items()}
    floor = quantiles(seconds["copy", "of as many bytes"], 1e3)["p50"]
    line = Measurement(
        kernel="distance",
        provider="",
        mode="",
        groups=problem.n_classes,
        rows=sum(x.shape[1] for x in problem.real),
        features=0,
        clusters=0,
        dtype="float32",
        metric="",
        p20=0.0,
        p50=0.0,
        p80=0.0,
        unit="",
        floor=0.0,
        device=device_name(device),
        threads=torch.get_num_threads(),
        versions=versions("triton"),
        commit=commit(),
    )
    for (provider, how), reason in missing.items():
        print(f"  {provider}: not run: {reason}")
        mode = ", ".join(filter(None, [f"{problem.network} {problem.metric}", how]))
        yield replace(line, provider=provider, mode=mode, **not_run(reason))
    for provider, how in seconds:
        mode = ", ".join(filter(None, [f"{problem.network} {problem.metric}", how]))
        own = replace(line, provider=provider, mode=mode)
        took = seconds[provider, how]
        if provider != "copy":
            yield replace(own, metric="time forward + backward", unit="ms", floor=floor, **_quantiles(took, 1e3))
        rates = [problem.n_bytes / t for t in took]
        yield replace(own, metric="bandwidth, three passes", unit="GB/s", **_quantiles(rates, 1e-9))
        # Counting operators on the CPU takes compiled functions apart, so those are not counted there.
        countable = provider != "copy" and "graph" not in how and (provider, device.type) != ("torch.compile", "cpu")
        if countable:
            n = float(_launches(timed[provider, how], device))
            what = "kernels launched" if device.type == "cuda" else "operators run"
            yield replace(own, metric=what, unit="count", p20=n, p50=n, p80=n)


def _quantiles(values: list[float], scale: float) -> dict[str, Any]:
    return {**quantiles(values, scale)}


def _contestants(problem: Problem, device: torch.device) -> tuple[dict[Key, Call], dict[Key, str]]:
    """Calls by provider and mode that run here and agree with ours, and the reasons of those that do not."""
    calls: dict[Key, Call] = {}
    missing: dict[Key, str] = {}
    for backend in ("cpu",) if device.type == "cpu" else ("cuda", "triton"):
        args = (problem.real, problem.synthetic, problem.metric, True, True)
        reason = refusal(backend, "gradient_distance", *args)
        if reason:
            missing[f"dream-{backend}", ""] = reason
            continue
        calls[f"dream-{backend}", ""] = _ours(problem, backend)
        calls[f"dream-{backend}", "through the loss"] = _through_loss(problem, backend)
    if not calls:
        raise DreamAccelError("no compiled backend runs here: `dream-accel doctor` says why")
    expected = float(next(iter(calls.values()))()[0].sum())
    others: dict[str, Callable[..., Tensor]] = {"eager": eager_distance}
    if _compiles(problem, device):
        others["torch.compile"] = torch.compile(eager_distance)
    for name, distance in others.items():
        call = _one_by_one(problem, distance)
        try:
            found = float(sum(call()))
        except Exception as error:  # whatever its compilers meet
            missing[name, ""] = type_and_message(error)
            continue
        if abs(found - expected) <= TOLERANCE * abs(expected):
            calls[name, ""] = call
        else:
            missing[name, ""] = f"it gives {found:.6g} and ours {expected:.6g}: not the same, so not timed"
    if device.type == "cuda":
        for (name, how), call in [*calls.items()]:
            key = (name, f"{how}, graph" if how else "graph")
            try:
                calls[key] = _graphed(call)
            except Exception as error:
                missing[key] = type_and_message(error)
    return calls, missing


def _compiles(problem: Problem, device: torch.device) -> bool:
    here = device.type == "cpu" or (problem.metric, problem.n_classes) == COMPILED_ON_CUDA
    return problem.network == COMPILED and here


def _ours(problem: Problem, backend: str) -> Call:
    def call() -> Any:
        with _forced(backend):
            return gradient_distance(
                problem.real, problem.synthetic, problem.metric, "all", per_class=True, return_grads=True
            )

    return call


def _through_loss(problem: Problem, backend: str) -> Call:
    leaves = [y.clone().requires_grad_() for y in problem.synthetic]

    def call() -> Any:
        with _forced(backend):
            distance = gradient_distance(problem.real, leaves, problem.metric, "all", per_class=True)
            return torch.autograd.grad(distance.sum(), leaves)

    return call


@contextmanager
def _forced(backend: str) -> Iterator[None]:
    before = os.environ.get("DREAM_ACCEL_BACKEND")
    os.environ["DREAM_ACCEL_BACKEND"] = backend
    try:
        yield
    finally:
        if before is None:
            del os.environ["DREAM_ACCEL_BACKEND"]
        else:
            os.environ["DREAM_ACCEL_BACKEND"] = before


def _one_by_one(problem: Problem, distance: Callable[[list[Tensor], list[Tensor], str], Tensor]) -> Call:
    """A call that takes one class after another, as the published loops do, and returns their distances."""
    real = [[x[c] for x in problem.real] for c in range(problem.n_classes)]
    leaves = [[y[c].clone().requires_grad_() for y in problem.synthetic] for c in range(problem.n_classes)]

    def call() -> list[Tensor]:
        distances, grads = [], []
        for xs, ys in zip(real, leaves, strict=True):
            loss = distance(xs, ys, problem.metric)
            grads.append(torch.autograd.grad(loss, ys))
            distances.append(loss.detach())
        return distances

    return call


def _graphed(call: Call) -> Call:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


class _Operators(TorchDispatchMode):
    """Counts the operators that run."""

    n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += 1
        return func(*args, **(kwargs or {}))


def _launches(call: Call, device: torch.device) -> int:
    """Number of kernels a call launches; on the CPU, of operators it runs."""
    if device.type == "cpu":
        with _Operators() as operators:
            call()
        return operators.n
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as recorded:
        call()
        torch.cuda.synchronize(device)
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in recorded.events() or ())
