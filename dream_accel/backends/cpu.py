"""The operators in C++ on CPU tensors. Only memory is arranged here; the arithmetic is in ``csrc/cpu``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import _native
from ..errors import DreamAccelError

NAME = "cpu"

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
METRICS = {"mse": 0, "l1": 1, "l1_mean": 2, "cos": 3, "global_mse": 4, "global_cos": 5}


def unavailable() -> str | None:
    """Why the compiled CPU kernels cannot be used, or None."""
    return _native.why_not()


def refuses(op: str, *args: Any) -> str | None:
    """Why this call cannot run here, or None."""
    if op == "gradient_distance":
        tensors, dtypes = [*args[0], *args[1]], {torch.float32}
    else:
        tensors, dtypes = [args[0]], set(DTYPES)
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"the tensors are on {tensor.device}, it serves the CPU"
        if tensor.dtype not in dtypes:
            allowed = ", ".join(sorted(str(dtype) for dtype in dtypes))
            return f"{tensor.dtype} input, it serves {allowed}"
    return None


def kmeans_assign(
    x: Tensor,
    offsets: Tensor,
    centroids: Tensor,
    active: Tensor | None,
    labels: Tensor | None,
    distance: Tensor | None,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """Nearest live centroid of every row; always in float32, whatever ``precision`` allows."""
    x, offsets, centroids = x.contiguous(), offsets.contiguous(), centroids.contiguous()
    kept = [None] * 3 if active is None else [_contiguous(t) for t in (active, labels, distance)]
    new_labels = torch.empty(len(x), dtype=torch.int32)
    new_distance = torch.empty(len(x), dtype=torch.float32)
    _call(
        "kmeans_assign",
        *_rows(x, offsets),
        centroids.data_ptr(),
        centroids.shape[1],
        *map(_address, kept),
        new_labels.data_ptr(),
        new_distance.data_ptr(),
    )
    return new_labels, new_distance


def kmeans_update(
    x: Tensor,
    offsets: Tensor,
    labels: Tensor,
    n_clusters: int,
    distance: Tensor | None,
    previous: Tensor | None,
    active: Tensor | None,
    empty: str,
) -> tuple[Tensor, Tensor]:
    """Means of the clusters, summed in row order in float64."""
    x, offsets, labels = x.contiguous(), offsets.contiguous(), labels.contiguous()
    distance, previous, active = _contiguous(distance), _contiguous(previous), _contiguous(active)
    n_groups = len(offsets) - 1
    centroids = torch.empty((n_groups, n_clusters, x.shape[1]), dtype=torch.float32)
    counts = torch.empty((n_groups, n_clusters), dtype=torch.int32)
    _call(
        "kmeans_update",
        *_rows(x, offsets),
        labels.data_ptr(),
        n_clusters,
        _address(distance),
        _address(previous),
        _address(active),
        empty == "farthest",
        centroids.data_ptr(),
        counts.data_ptr(),
    )
    return centroids, counts


def nearest_members(x: Tensor, offsets: Tensor, centroids: Tensor, labels: Tensor, n: int) -> Tensor:
    """The ``n`` members nearest each centroid, free slots filled from the rest of the group."""
    x, offsets, labels = x.contiguous(), offsets.contiguous(), labels.contiguous()
    centroids = centroids.contiguous()
    n_groups, n_clusters, _ = centroids.shape
    picks = torch.empty((n_groups, n_clusters, n), dtype=torch.int64)
    _call(
        "nearest_members",
        *_rows(x, offsets),
        centroids.data_ptr(),
        n_clusters,
        labels.data_ptr(),
        n,
        picks.data_ptr(),
    )
    return picks


def gradient_distance(
    real: list[Tensor], synthetic: list[Tensor], metric: str, per_class: bool, with_grads: bool
) -> tuple[Tensor, list[Tensor]]:
    """Distance and its closed-form derivative in one pass over both lists (two for ``global_cos``)."""
    pairs = GradientPairs(real, synthetic, per_class, with_grads)
    _call("gradient_distance", *pairs.addresses(), *pairs.shapes(), METRICS[metric], pairs.distance.data_ptr())
    return pairs.distance, pairs.grads


class GradientPairs:
    """The arguments of a compiled gradient distance; keeps the memory they point to alive."""

    def __init__(self, real: list[Tensor], synthetic: list[Tensor], per_class: bool, with_grads: bool) -> None:
        # Rows are runs of memory, so a channels_last gradient cannot be taken as it lies beside a contiguous one.
        self.real = [t.contiguous() for t in real]
        self.synthetic = [t.contiguous() for t in synthetic]
        self.grads = [torch.empty_like(t) for t in self.synthetic] if with_grads else []
        self.params = [t.shape[1:] if per_class else t.shape for t in synthetic]
        self.n_groups = synthetic[0].shape[0] if per_class else 1
        self.distance = torch.empty(self.n_groups, dtype=torch.float32, device=synthetic[0].device)

    def addresses(self) -> tuple[list[int], list[int], list[int]]:
        """Of the real tensors, the synthetic ones, and where their derivatives go."""
        real, synthetic, grads = ([t.data_ptr() for t in side] for side in (self.real, self.synthetic, self.grads))
        return real, synthetic, grads

    def shapes(self) -> tuple[list[int], list[int], int]:
        """Rows of every parameter (its first dimension), elements of a row, and the number of classes."""
        rows = [p[0] if p else 1 for p in self.params]
        return rows, [p[1:].numel() for p in self.params], self.n_groups


def _rows(x: Tensor, offsets: Tensor) -> tuple[int, ...]:
    n_rows, n_features = x.shape
    return x.data_ptr(), DTYPES[x.dtype], n_rows, n_features, offsets.data_ptr(), len(offsets) - 1


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _call(op: str, *args: Any) -> None:
    kernel: Callable[..., None] = getattr(_native.load(), op)
    try:
        kernel(*args, torch.get_num_threads())
    except ValueError as error:
        raise DreamAccelError(str(error)) from None
