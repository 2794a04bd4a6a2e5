"""The self-test: a small call of every operator, compared between a backend and the reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..random import generator
from . import MAP_OPERATORS, backend


def devices() -> list[torch.device]:
    """The CPU, and the current CUDA device where there is one."""
    return [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]


def sample_call(op: str, device: torch.device) -> tuple[Any, ...]:
    """Arguments of a small call of an operator, drawn from a fixed seed."""
    draws = generator(0, "doctor", op)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draws).to(device)

    x, offsets = normal(200, 24), torch.tensor([0, 90, 90, 200], device=device)
    centroids = normal(3, 7, 24)
    labels = torch.randint(0, 7, (200,), generator=draws, dtype=torch.int32).to(device)
    if op == "kmeans_assign":
        return x, offsets, centroids, None, None, None, "fp32", True
    if op == "kmeans_iterate":
        return x, offsets, centroids, 5, None, "fp32", "farthest"
    if op == "kmeans_update":
        return x, offsets, labels, 9, normal(200).abs(), None, None, "farthest"
    if op == "group_products":
        return centroids.flatten(0, 1), torch.arange(4, device=device) * 7, x, offsets, normal(3, 24), 128
    if op == "gram_assign":
        active = torch.tensor([True, True, False], device=device)
        return normal(3, 7, 128), normal(3, 7).square(), offsets, active, labels
    if op == "nearest_members":
        return x, offsets, centroids, labels, 3
    if op in MAP_OPERATORS:
        y, weight, bias = normal(3, 5, 7, 6), normal(5), normal(5)
        if op == "norm_relu_pool":
            return y, weight, bias, 1e-5
        first = y, weight, bias, normal(3, 5), normal(3, 5).exp(), normal(3, 5, 3, 3)
        return first if op == "norm_relu_pool_backward" else (*first, normal(3, 5, 7, 6))
    shapes = [(4, 8, 3, 3, 3), (4, 5, 8)]
    real, synthetic = ([normal(*shape) for shape in shapes] for _ in range(2))
    if op == "scale_gradients":
        return real, normal(4, 2), True
    return real, synthetic, "cos", True, True


def agrees(name: str, op: str, args: tuple[Any, ...]) -> bool:
    """Return True if a backend gives what the reference gives."""
    expected = getattr(backend("reference"), op)(*args)
    found = getattr(backend(name), op)(*args)
    return all(
        (a.shape, a.dtype) == (b.shape, b.dtype)
        and torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5, equal_nan=True)
        for a, b in zip(_tensors(expected), _tensors(found), strict=True)
    )


def verdict(name: str, op: str, args: tuple[Any, ...]) -> str:
    """``ok``, or how the backend failed; never raises, since a diagnosis must outlive what it diagnoses."""
    try:
        return "ok" if agrees(name, op, args) else "WRONG RESULT: please report this"
    except Exception as error:
        return f"FAILS, please report this: {type(error).__name__}: {' '.join(str(error).split())}"


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    else:
        for part in value:
            yield from _tensors(part)
