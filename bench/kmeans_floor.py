"""The least time a Lloyd iteration could take on the machine it is measured on."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .harness import time_interleaved
from .kmeans_problems import Problem

SQUARE = 4096
"""Side of the products that measure the rate of the tensor cores: large enough to be bound by arithmetic."""


def floor(problem: Problem, rounds: int) -> float:
    """Seconds that no exact iteration on the rows as they are goes below, from what is measured here and at once.

    On CUDA the longer of two: one read of the rows, at the bandwidth of a copy that moves as many bytes, and the
    products rows x centroids, at the rate of a large tf32 product. On the CPU the products themselves, in float32.
    """
    if problem.x.is_cuda:
        return max(_read_once(problem, rounds), products(problem) / _tensor_core_rate(problem.x.device, rounds))
    return _bare_products(problem, rounds)


def products(problem: Problem) -> float:
    """Floating-point operations of the products of one iteration."""
    return 2.0 * problem.x.numel() * problem.start.shape[1]


def _read_once(problem: Problem, rounds: int) -> float:
    # A copy reads and writes, so half of the rows moves as many bytes as one read of them all.
    half = problem.x.flatten()[: (problem.x.numel() + 1) // 2]
    target = torch.empty_like(half)
    return _median(lambda: target.copy_(half), problem.x.device, rounds)


def _tensor_core_rate(device: torch.device, rounds: int) -> float:
    """Operations per second of a large product of random numbers, in tf32 where the device has it."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        a, b = torch.randn(2, SQUARE, SQUARE, device=device).unbind()
        return 2.0 * SQUARE**3 / _median(lambda: torch.mm(a, b), device, rounds)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _bare_products(problem: Problem, rounds: int) -> float:
    bounds = problem.offsets.tolist()
    pairs = [(problem.x[first:last], c.T) for first, last, c in zip(bounds, bounds[1:], problem.start, strict=False)]
    out = [torch.empty(len(x), c.shape[1], device=x.device) for x, c in pairs]

    def every_group() -> None:
        for (x, c), target in zip(pairs, out, strict=True):
            torch.mm(x, c, out=target)

    return _median(every_group, problem.x.device, rounds)


def _median(call: Callable[[], object], device: torch.device, rounds: int) -> float:
    times = sorted(time_interleaved({"call": call}, device, rounds)["call"])
    return times[len(times) // 2]
