"""Benchmark of a whole outer iteration, one refresh and ten inner steps with a fresh network: ours and published."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from .harness import time_interleaved
from .matching_problem import Problem, make_problem, once, rates, times
from .measurement import Measurement


def run(device: torch.device, quick: bool, data_dir: str | None = None) -> Iterator[Measurement]:
    """Measure an outer iteration on both sides.

    Args:
        device: CPU or CUDA.
        quick: a tiny problem.
        data_dir: folder of the data set.
    """
    problem = make_problem(device, quick, data_dir)
    ours, theirs = problem.ours, problem.theirs
    contestants: dict[str, Callable[[], Any]] = {"dream": lambda: ours.outer_iteration(1)}
    rounds = 1 if quick else 3
    yield from _lines(problem, time_interleaved(contestants, device, rounds, _most(device)))
    if problem.differs:
        yield problem.missing("outer", "published", problem.differs)
    else:
        contestants["published"] = lambda: theirs.outer_iteration(1)
        failures: dict[str, str] = {}
        yield from _lines(problem, time_interleaved(contestants, device, rounds, _most(device), failures))
        for provider, reason in failures.items():
            del contestants[provider]
            yield problem.missing("outer", provider, reason)
    if device.type == "cuda":
        for provider, call in contestants.items():
            torch.cuda.reset_peak_memory_stats(device)
            held = torch.cuda.memory_allocated(device)
            call()
            peak = torch.cuda.max_memory_allocated(device)
            yield problem.line("outer", "most device memory in use, both sides' data held", provider, once(peak), "B")
            yield problem.line("outer", "the same above what is held between", provider, once(peak - held), "B")


def _most(device: torch.device) -> float:
    """Seconds after which a contestant is not called again: on a GPU, which is lent for minutes, few."""
    return 8.0 if device.type == "cuda" else 1e9


def _lines(problem: Problem, seconds_of: dict[str, list[float]]) -> Iterator[Measurement]:
    images = problem.ours.images_per_iteration()
    for provider, seconds in seconds_of.items():
        yield problem.line("outer", "time of an outer iteration", provider, times(seconds), "ms")
        rate = rates(seconds, images)
        yield problem.line("outer", "real images in an outer iteration", provider, rate, "images per second")
