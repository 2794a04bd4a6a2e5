"""Benchmark of Lloyd iterations of many groups: ours beside every peer that is installed.

All start from the same centroids, are allowed the same number of iterations, and must reach the same inertia before
they are timed. Times are divided by the iterations done, because some providers, ours among them, stop a group at its
fixpoint.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dream_accel import BatchedKMeans
from dream_accel.groups import sum_groups
from dream_accel.ops import kmeans_assign

from .harness import Measurement, commit, device_name, quantiles, time_interleaved, versions
from .kmeans_problems import QUICK, SHAPES, Problem, Shape, make_problem
from .kmeans_providers import PROVIDERS, Fitted, Unable
from .memory import peak_memory

INERTIA_TOLERANCE = 1e-3
WARM_ITERATIONS = 3
RECORDED_AFTER = 3  # fits of a kind, the last of which is a graph's


@dataclass(frozen=True)
class Contestant:
    """A provider that computes the same result as ours."""

    name: str
    mode: str
    fit: Callable[[], object]
    iterations: float


def run(device: torch.device, quick: bool, rounds: int = 7) -> Iterator[Measurement]:
    """Measure every shape of the device with every provider that can take it.

    Per shape: time per Lloyd iteration and peak memory of every provider; on CUDA also whole fits, from the common
    start and from the labels of a fit before, and how often a fit of ours waits for the device.

    Args:
        device: CPU or CUDA.
        quick: tiny shapes, few rounds.
        rounds: timed fits of each provider, fewer where they take long.
    """
    iterations = 3 if quick else 20 if device.type == "cuda" else 10
    for shape in QUICK if quick else SHAPES[device.type]:
        problem = make_problem(shape, device, iterations)
        yield from _measure(shape, problem, 3 if quick else rounds)
        del problem
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _measure(shape: Shape, problem: Problem, rounds: int) -> Iterator[Measurement]:
    device = problem.x.device
    line: Callable[..., Measurement] = functools.partial(
        Measurement,
        kernel="kmeans",
        groups=len(shape.sizes),
        rows=sum(shape.sizes),
        features=shape.features,
        clusters=shape.clusters,
        dtype="float32",
        device=device_name(device),
        threads=torch.get_num_threads(),
        versions=versions(*(package for provider in PROVIDERS for package in provider.packages)),
        commit=commit(),
    )
    fitted = _fit(problem)
    contestants = [*_ours(problem, shape, fitted), *_peers(problem, shape, _inertia(problem, fitted.centroids))]
    keys = {f"{c.name} {c.mode}": c for c in contestants}
    times = time_interleaved({key: c.fit for key, c in keys.items()}, device, rounds, seconds=2.0)
    floor = float(f"{_matmul_floor(problem, rounds) * 1e3:.4g}")
    for key, c in keys.items():
        own = quantiles(times[key], 1e3 / c.iterations)
        yield line(provider=c.name, mode=c.mode, metric="time per Lloyd iteration", **own, unit="ms", floor=floor)
    if device.type == "cuda":
        for key, c in keys.items():
            metric = f"whole fit, {problem.iterations} iterations"
            whole = quantiles(times[key], 1e3)
            yield line(provider=c.name, mode=c.mode, metric=metric, **whole, unit="ms", floor=0.0)
        yield from _warm(problem, shape, rounds, line)
    for c in contestants:
        peak = peak_memory(c.fit, device)
        if peak is not None:
            same = dict.fromkeys(("p20", "p50", "p80"), float(f"{peak:.4g}"))
            metric = "peak memory above inputs"
            yield line(provider=c.name, mode=c.mode, metric=metric, **same, unit="MB", floor=0.0)


def _ours(problem: Problem, shape: Shape, fitted: Fitted) -> list[Contestant]:
    """Our contestants: one on CPUs; on CUDA a recorded graph, and the same launches one by one."""
    kind = problem.x.device.type
    ways = {"graph": True, "eager": False} if kind == "cuda" else {"": True}
    found = []
    for way, cuda_graph in ways.items():
        km = _estimator(problem, cuda_graph=cuda_graph)
        fit = functools.partial(km.fit, problem.x, problem.offsets, check=False)
        for _ in range(RECORDED_AFTER if way == "graph" else 0):
            fit()
        found.append(Contestant(f"dream-{kind}", f"{shape.mode}, {way}".rstrip(", "), fit, fitted.iterations))
    return found


def _peers(problem: Problem, shape: Shape, expected: Tensor) -> Iterator[Contestant]:
    """The providers whose inertia agrees with ours. The reason is printed for each of the others."""
    for provider in PROVIDERS:
        if problem.x.device.type not in provider.devices:
            continue
        try:
            fit = provider.prepare(problem)
            fitted = fit()
            off = float((_inertia(problem, fitted.centroids) / expected - 1).abs().max())
        except Unable as reason:
            print(f"  {provider.name}: not run: {reason}")
        except Exception as error:  # a peer that breaks takes no other with it
            print(f"  {provider.name}: not run: {type(error).__name__}: {str(error).splitlines()[:1]}")
        else:
            if off <= INERTIA_TOLERANCE:
                yield Contestant(provider.name, f"{shape.mode}, {provider.mode}", fit, fitted.iterations)
            else:
                print(
                    f"  {provider.name}: not timed: it ends {off:.2%} from our inertia, allowed is "
                    f"{INERTIA_TOLERANCE:.1%}; not the same computation"
                )


def _warm(problem: Problem, shape: Shape, rounds: int, line: Callable[..., Measurement]) -> Iterator[Measurement]:
    """Time a refresh, a few iterations from the labels of an earlier fit, and count its waits for the device."""
    km = _estimator(problem)
    km.fit(problem.x, problem.offsets, check=False)
    km.max_iter = WARM_ITERATIONS

    def refresh() -> None:
        km.fit(problem.x, problem.offsets, init="labels", check=False)

    for _ in range(RECORDED_AFTER):
        refresh()
    device = problem.x.device
    warm = quantiles(time_interleaved({"warm": refresh}, device, rounds)["warm"], 1e3)
    waits = dict.fromkeys(("p20", "p50", "p80"), float(count_waits(refresh)))
    line = functools.partial(line, provider="dream-cuda", mode=f"{shape.mode}, graph", floor=0.0)
    yield line(metric=f"whole fit from labels, {WARM_ITERATIONS} iterations", **warm, unit="ms")
    yield line(metric="waits for the device per fit", **waits, unit="count")


def count_waits(call: Callable[[], object]) -> int:
    """Number of times the call makes the host wait for a CUDA device, as PyTorch reports it."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return sum("synchroniz" in str(warning.message) for warning in caught)


def _estimator(problem: Problem, **options: object) -> BatchedKMeans:
    # fp32: the products of a fit are as accurate as those of the peers.
    return BatchedKMeans(
        problem.start.shape[1],
        max_iter=problem.iterations,
        init=problem.start,
        empty="keep",
        precision="fp32",
        **options,  # type: ignore[arg-type]
    )


def _fit(problem: Problem) -> Fitted:
    km = _estimator(problem).fit(problem.x, problem.offsets, check=False)
    # n_iter_ leaves out the iteration that finds the fixpoint; peers count it.
    iterations = (km.n_iter_ + 1).clamp(max=problem.iterations)
    return Fitted(km.cluster_centers_, float((iterations * problem.offsets.diff()).sum() / len(problem.x)))


def _inertia(problem: Problem, centroids: Tensor) -> Tensor:
    """(G,) inertia of a provider's centroids, by one measure for all; empty groups count 1."""
    _, distance = kmeans_assign(problem.x, problem.offsets, centroids.float().contiguous())
    return sum_groups(distance, problem.offsets).where(problem.offsets.diff() > 0, 1.0)


def _matmul_floor(problem: Problem, rounds: int) -> float:
    """Median seconds of the bare products rows x centroids, which no exact Lloyd iteration can skip."""
    bounds = problem.offsets.tolist()
    pairs = [(problem.x[first:last], c.T) for first, last, c in zip(bounds, bounds[1:], problem.start, strict=False)]
    out = [torch.empty(len(x), c.shape[1], device=x.device) for x, c in pairs]

    def products() -> None:
        for (x, c), target in zip(pairs, out, strict=True):
            torch.mm(x, c, out=target)

    times = time_interleaved({"matmul": products}, problem.x.device, rounds)["matmul"]
    return sorted(times)[len(times) // 2]
