"""Benchmark of a whole outer iteration, one refresh and ten inner steps with a fresh network: ours and published."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from .harness import Measurement, time_interleaved
from .matching_problem import make_problem, once, rates, times


def run(device: torch.device, quick: bool, data_dir: str | None = None) -> Iterator[Measurement]:
    """Measure an outer iteration on both sides.

    Args:
        device: CPU or CUDA.
        quick: a tiny problem.
        data_dir: folder of the data set.
    """
    problem = make_problem(device, quick, data_dir)
    ours, theirs = problem.ours, problem.theirs
    contestants: dict[str, Callable[[], Any]] = {
        "dream": lambda: ours.outer_iteration(1),
        "published": lambda: theirs.outer_iteration(1),
    }
    for provider, seconds in time_interleaved(contestants, device, 1 if quick else 3).items():
        yield problem.line("outer", "time of an outer iteration", provider, times(seconds), "ms")
        yield problem.line(
            "outer",
            "real images in an outer iteration",
            provider,
            rates(seconds, ours.images_per_iteration()),
            "images per second",
        )
    if device.type == "cuda":
        for provider, call in contestants.items():
            torch.cuda.reset_peak_memory_stats(device)
            held = torch.cuda.memory_allocated(device)
            call()
            peak = torch.cuda.max_memory_allocated(device)
            yield problem.line("outer", "most device memory in use, both sides' data held", provider, once(peak), "B")
            yield problem.line("outer", "the same above what is held between", provider, once(peak - held), "B")
