"""Benchmark of Lloyd iterations of many groups: ours beside every peer that is installed.

All start from the same centroids and are allowed the same number of iterations. A provider whose total inertia is more
than 1 % above ours computes something else and is not timed; a row says so, as for one that raises, hangs or is
missing.
Times are divided by the iterations done, because some providers, ours among them, stop a group at its fixpoint.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from dream_accel import BatchedKMeans, DreamAccelError

from .harness import commit, device_name, quantiles, time_interleaved, type_and_message, versions
from .kmeans_floor import floor
from .kmeans_problems import QUICK, SHAPES, Problem, Shape, make_problem
from .kmeans_providers import PROVIDERS
from .kmeans_trial import LIMIT, Trials, inertia, verdict
from .measurement import Measurement, not_run
from .memory import peak_memory
from .words import count

WARM_ITERATIONS = 3
RECORDED_AFTER = 3  # fits of a kind, the last of which is a graph's
WAYS: dict[str, dict[str, dict[str, object]]] = {
    "cpu": {"": {}},
    "cuda": {
        "graph, tf32": {"precision": "tf32"},
        "graph, fp32": {"precision": "fp32"},
        "eager, tf32": {"precision": "tf32", "cuda_graph": False},
    },
}
"""Ways of ours by device: tf32 as the peers that use it, and fp32 as the others; the ratios are to the first."""

Line = Callable[..., Measurement]


@dataclass(frozen=True)
class Contestant:
    """A provider that computes the same result as ours."""

    name: str
    mode: str
    fit: Callable[[], object]
    iterations: float


def run(
    device: torch.device, quick: bool, rounds: int = 7, apart: bool | None = None, limit: float = LIMIT
) -> Iterator[Measurement]:
    """Measure every shape of the device with every provider that can take it.

    Per shape: time per Lloyd iteration and peak memory of every provider; on CUDA also whole fits, from the common
    start and from the labels of a fit before, and how often a fit of ours waits for the device. Ours alone comes first,
    and is measured again in turn with the peers.

    Args:
        device: CPU or CUDA.
        quick: tiny shapes, few rounds.
        rounds: timed fits of each provider, fewer where they take long.
        apart: try every peer in a process beside this one first; None: on CUDA.
        limit: seconds a peer has there for its first fit.

    Raises:
        DreamAccelError: ours failed on a shape; the others have been measured.
    """
    iterations = 3 if quick else 20 if device.type == "cuda" else 10
    failed = []
    with Trials(device, limit, device.type == "cuda" if apart is None else apart) as trials:
        for shape in QUICK if quick else SHAPES[device.type]:
            line = _line(shape, device)
            try:
                problem = make_problem(shape, device, iterations)
                yield from _measure(shape, problem, trials, 3 if quick else rounds, line)
                del problem
            except Exception as error:
                failed.append(type_and_message(error))
                yield line(provider=f"dream-{device.type}", mode=shape.mode, **not_run(failed[-1]))
            if device.type == "cuda":
                torch.cuda.empty_cache()
    if failed:
        raise DreamAccelError(
            f"ours failed on {count(len(failed), 'shape')}, first with {failed[0]}: the others were measured"
        )


def _line(shape: Shape, device: torch.device) -> Line:
    return functools.partial(
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


def _measure(shape: Shape, problem: Problem, trials: Trials, rounds: int, line: Line) -> Iterator[Measurement]:
    device = problem.x.device
    in_fp32 = _estimator(problem, precision="fp32").fit(problem.x, problem.offsets, check=False)
    ours_inertia = inertia(problem, in_fp32.cluster_centers_)
    least = floor(problem, rounds)
    contestants = []
    for way, options in WAYS[device.type].items():
        try:
            contestants.append(_ours(problem, shape, way, options))
        except Exception as error:
            yield line(provider=f"dream-{device.type}", mode=_mode(shape, way), **not_run(type_and_message(error)))
    yield from _times(contestants, problem, rounds, least, line)
    if device.type == "cuda":
        yield from _warm(problem, shape, rounds, line)
    for provider in PROVIDERS:
        if device.type not in provider.devices:
            continue
        own: Line = functools.partial(line, provider=provider.name, mode=_mode(shape, provider.mode))
        tried = trials.run(provider, shape, problem)
        reason = tried.reason or verdict(tried.inertia, ours_inertia)
        if not tried.reason:
            above = _once(100 * (tried.inertia / ours_inertia - 1))
            what = f"total inertia above ours after {problem.iterations} iterations"
            yield own(metric=what, **above, unit="%", floor=0.0)
        try:
            if not reason:
                peer = Contestant(
                    provider.name, _mode(shape, provider.mode), provider.prepare(problem), tried.iterations
                )
                contestants.append(peer)
        except Exception as error:
            reason = type_and_message(error)
        if reason:
            print(f"  {provider.name}: not run: {reason}")
            yield own(**not_run(reason))
    yield from _times(contestants, problem, rounds, least, line)
    for c in contestants:
        try:
            peak = peak_memory(c.fit, device)
        except Exception as error:
            print(f"  {c.name}: its memory is not measured: {type_and_message(error)}")
            continue
        if peak is not None:
            same = _once(peak)
            yield line(provider=c.name, mode=c.mode, metric="peak memory above inputs", **same, unit="MB", floor=0.0)


def _times(
    contestants: list[Contestant], problem: Problem, rounds: int, least: float, line: Line
) -> Iterator[Measurement]:
    """Time contestants in turn; one that raises has a row that says so, and is taken out of the list."""
    device = problem.x.device
    keys = {f"{c.name} {c.mode}": c for c in contestants}
    failures: dict[str, str] = {}
    times = time_interleaved({key: c.fit for key, c in keys.items()}, device, rounds, seconds=2.0, failures=failures)
    least = float(f"{least * 1e3:.4g}")
    for key, c in keys.items():
        own: Line = functools.partial(line, provider=c.name, mode=c.mode)
        if key in failures:
            contestants.remove(c)
            yield own(**not_run(failures[key]))
            continue
        per_iteration = quantiles(times[key], 1e3 / c.iterations)
        yield own(metric="time per Lloyd iteration", **per_iteration, unit="ms", floor=least)
        if device.type == "cuda":
            whole = quantiles(times[key], 1e3)
            yield own(metric=f"whole fit, {problem.iterations} iterations", **whole, unit="ms", floor=0.0)


def _mode(shape: Shape, how: str) -> str:
    return f"{shape.mode}, {how}" if how else shape.mode


def _ours(problem: Problem, shape: Shape, way: str, options: dict[str, object]) -> Contestant:
    km = _estimator(problem, **options)
    fit = functools.partial(km.fit, problem.x, problem.offsets, check=False)
    for _ in range(RECORDED_AFTER if way.startswith("graph") else 1):
        fit()
    # n_iter_ leaves out the iteration that finds the fixpoint; peers count it.
    iterations = (km.n_iter_ + 1).clamp(max=problem.iterations)
    done = float((iterations * problem.offsets.diff()).sum() / len(problem.x))
    return Contestant(f"dream-{problem.x.device.type}", _mode(shape, way), fit, done)


def _warm(problem: Problem, shape: Shape, rounds: int, line: Line) -> Iterator[Measurement]:
    """Time a refresh, a few iterations from the labels of an earlier fit, and count its waits for the device."""
    own: Line = functools.partial(line, provider="dream-cuda", mode=f"{shape.mode}, graph, tf32", floor=0.0)
    try:
        km = _estimator(problem).fit(problem.x, problem.offsets, check=False)
        km.max_iter = WARM_ITERATIONS

        def refresh() -> None:
            km.fit(problem.x, problem.offsets, init="labels", check=False)

        for _ in range(RECORDED_AFTER):
            refresh()
        warm = quantiles(time_interleaved({"warm": refresh}, problem.x.device, rounds)["warm"], 1e3)
        waits = _once(float(count_waits(refresh)))
    except Exception as error:
        print(f"  a fit from labels: not run: {type_and_message(error)}")
        yield own(**not_run(f"a fit from labels: {type_and_message(error)}"))
        return
    yield own(metric=f"whole fit from labels, {WARM_ITERATIONS} iterations", **warm, unit="ms")
    yield own(metric="waits for the device per fit", **waits, unit="count")


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
    return BatchedKMeans(
        problem.start.shape[1],
        max_iter=problem.iterations,
        init=problem.start,
        empty="keep",
        **options,  # type: ignore[arg-type]
    )


def _once(value: float) -> dict[str, float]:
    return dict.fromkeys(("p20", "p50", "p80"), float(f"{value:.4g}"))
