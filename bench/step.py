"""Benchmark of the parts of an outer iteration (refresh, clustering, matching, network update): ours and published.

The cached step, a matching step whose real side was computed before, has no published counterpart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from dream_accel.random import derive_seed

from .harness import repeated, time_interleaved, type_and_message
from .matching_problem import Problem, as_in_a_run, make_problem, once, rates, times
from .measurement import Measurement
from .published import Published, fast_pytorch_kmeans

Part = tuple[str, int, int, dict[str, Callable[[], Any]]]
"""Name, calls per timing, images of a call, contestants."""
REPEATS = 3
"""Calls per timing. Freed memory is kept between them, as in a run."""

LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")
SYNCS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


def run(
    device: torch.device, quick: bool, data_dir: str | None = None, trace: Path | None = None
) -> Iterator[Measurement]:
    """Measure each part on both sides.

    Args:
        device: CPU or CUDA.
        quick: a tiny problem.
        data_dir: folder of the data set.
        trace: file to write our inner step to, for chrome://tracing.
    """
    problem = make_problem(device, quick, data_dir)
    rounds, in_a_row = (1, 1) if quick else (3, REPEATS)
    ours, theirs, recipe = problem.ours, problem.theirs, problem.recipe
    n_classes, synthetic = ours.split.train.n_classes, min(recipe.ipc * recipe.factor**2, recipe.max_synthetic)
    matched = n_classes * (ours.sampler.batch_size + synthetic)
    parts: tuple[tuple[str, int, int, Callable[[], Any], Callable[[], Any]], ...] = (
        ("refresh", 1, problem.images, lambda: ours.sampler.refresh(ours.network), lambda: theirs.refresh(0, 0)),
        ("matching step", in_a_row, matched, ours.match, theirs.match),
        (
            "network update",
            in_a_row,
            recipe.network_images,
            lambda: ours.train(recipe.network_images),
            theirs.train,
        ),
    )
    own = [
        (name, repeats, images, {"dream": as_in_a_run(repeated(ours_, repeats), device)})
        for name, repeats, images, ours_, _ in parts
    ]
    cached = as_in_a_run(repeated(problem.cached_match(), in_a_row), device)
    own.append(("cached step", in_a_row, n_classes * synthetic, {"dream": cached}))
    yield from _parts(problem, own, rounds)
    yield from _counts(problem, "dream", ours, trace)
    if problem.differs:
        yield problem.missing("step", "published", problem.differs)
    else:
        both = [
            (name, repeats, images, {**calls, "published": repeated(published, repeats)})
            # Nothing is cached by the published loop.
            for (name, repeats, images, calls), (*_, published) in zip(own[: len(parts)], parts, strict=True)
        ]
        yield from _parts(problem, both, rounds)
        yield from _clustering(problem, rounds)
        yield from _counts(problem, "published", theirs)
    for way in problem.other_ways():
        try:
            call = as_in_a_run(repeated(problem.by(way).match, in_a_row), device)
            seconds = time_interleaved({way: call}, device, rounds)[way]
        except Exception as error:
            yield problem.missing("step", "dream", type_and_message(error), way)
        else:
            yield problem.line("step", "time of a matching step", "dream", times(seconds, in_a_row), "ms", way=way)


def _parts(problem: Problem, parts: Sequence[Part], rounds: int) -> Iterator[Measurement]:
    """Time every part by its contestants in turn; one that raises has a row that says so."""
    for name, repeats, images, contestants in parts:
        kernel = "refresh" if name == "refresh" else "step"
        failures: dict[str, str] | None = None if len(contestants) == 1 else {}  # ours alone must not fail
        for provider, seconds in time_interleaved(contestants, problem.ours.device, rounds, failures=failures).items():
            yield problem.line(kernel, f"time of a {name}", provider, times(seconds, repeats), "ms")
            rate = rates(seconds, images * repeats)
            yield problem.line(kernel, f"images in a {name}", provider, rate, "images per second")
        for provider, reason in (failures or {}).items():
            yield problem.missing(kernel, provider, f"{name}: {reason}")


def _counts(problem: Problem, provider: str, side: Any, trace: Path | None = None) -> Iterator[Measurement]:
    device = problem.ours.device
    try:
        launches, waits = counts(_inner_step(side, problem.recipe.network_images), device, trace)
    except Exception as error:
        yield problem.missing("step", provider, f"counts of an inner step: {type_and_message(error)}")
        return
    what = "kernel launches" if device.type == "cuda" else "operator calls"
    yield problem.line("step", f"{what} in an inner step", provider, once(launches), "count")
    yield problem.line("step", "host round trips in an inner step", provider, once(waits), "count")


def _clustering(problem: Problem, rounds: int) -> Iterator[Measurement]:
    """Time the clustering of a refresh, on features that are given."""
    ours, theirs, recipe = problem.ours, problem.theirs, problem.recipe
    theirs.embed()
    x = torch.cat(theirs.features)
    offsets = torch.nn.functional.pad(torch.tensor([len(own) for own in theirs.features]).cumsum(0), (1, 0)).to(
        x.device
    )
    seed = derive_seed(recipe.seed, "picks", 0, 0)
    pick = ours.sampler.strategy.pick

    def with_peer() -> None:
        theirs.kmeans, before = fast_pytorch_kmeans, theirs.kmeans
        try:
            theirs.cluster(seed)
        finally:
            theirs.kmeans = before

    contestants = {
        "dream": as_in_a_run(lambda: pick(x, offsets, recipe.n_clusters, 1, seed, recipe.kmeans_iterations), x.device),
        "published": lambda: theirs.cluster(seed),
    }
    peer, failures = "published with fast-pytorch-kmeans", dict[str, str]()
    contestants[peer] = with_peer
    seconds_of = time_interleaved(contestants, x.device, rounds, failures=failures)
    for provider, reason in failures.items():
        yield problem.missing("refresh", provider, f"clustering: {reason}")
    for provider, seconds in seconds_of.items():
        yield problem.line("refresh", "time of the clustering in a refresh", provider, times(seconds), "ms", x.shape[1])


def _inner_step(side: Any, images: int) -> Callable[[], None]:
    def step() -> None:
        side.match()
        side.train() if isinstance(side, Published) else side.train(images)

    return step if isinstance(side, Published) else as_in_a_run(step, side.device)


def counts(step: Callable[[], None], device: torch.device, trace: Path | None = None) -> tuple[int, int]:
    """Count launches and host round trips of a call: kernels and waits on CUDA, operators and values read on a CPU."""
    cuda = device.type == "cuda"
    for _ in range(3 if cuda else 1):
        step()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as seen:
        step()
        if cuda:
            torch.cuda.synchronize(device)
    if trace is not None:
        trace.parent.mkdir(parents=True, exist_ok=True)
        seen.export_chrome_trace(str(trace))
    events = seen.events()
    if cuda:
        # The last wait is that of the measurement.
        return _named(events, LAUNCHES), sum(event.name in SYNCS for event in events) - 1
    launches = sum(_is_operator(e.name) and not (e.cpu_parent and _is_operator(e.cpu_parent.name)) for e in events)
    return launches, sum(e.name == "aten::_local_scalar_dense" for e in events)


def _named(events: Any, names: tuple[str, ...]) -> int:
    return sum(any(event.name.startswith(name) for name in names) for event in events)


def _is_operator(name: str) -> bool:
    return name.startswith(("aten::", "dream_accel::"))
