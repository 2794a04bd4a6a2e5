"""The operators in C++ for CPU tensors. This module prepares memory; the arithmetic is in ``csrc/cpu``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import DreamAccelError
from . import _native
from .pairs import DTYPES, METRIC_CODES, Pairs, Scaling

NAME = "cpu"


def unavailable() -> str | None:
    """Return the reason why the compiled CPU kernels cannot be used; None if they can."""
    return _native.why_not()


def refuses(op: str, *args: Any) -> str | None:
    """Return the reason why this call cannot run here; None if it can."""
    tensors = [tensor for side in args[:2] if isinstance(side, list) for tensor in side] or [args[0]]
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"the tensors are on {tensor.device} and it runs on the CPU"
        if tensor.dtype not in DTYPES:
            allowed = ", ".join(sorted(str(dtype) for dtype in DTYPES))
            return f"{tensor.dtype} input and it takes {allowed}"
    return None


def kmeans_assign(
    x: Tensor,
    offsets: Tensor,
    centroids: Tensor,
    active: Tensor | None,
    labels: Tensor | None,
    distance: Tensor | None,
    precision: str,
    with_distance: bool = True,
) -> tuple[Tensor, Tensor]:
    """Nearest live centroid of every row; always in float32, whatever ``precision`` allows."""
    x, offsets, centroids = x.contiguous(), offsets.contiguous(), centroids.contiguous()
    kept = [None] * 3 if active is None else [_contiguous(t) for t in (active, labels, distance)]
    new_labels = torch.empty(len(x), dtype=torch.int32)
    new_distance = torch.empty(len(x) if with_distance else 0, dtype=torch.float32)
    _call(
        "kmeans_assign",
        *_rows(x, offsets),
        centroids.data_ptr(),
        centroids.shape[1],
        *map(_address, kept),
        new_labels.data_ptr(),
        new_distance.data_ptr() if with_distance else 0,
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


def kmeans_iterate(
    x: Tensor,
    offsets: Tensor,
    centroids: Tensor,
    max_iter: int,
    tolerance: Tensor | None,
    precision: str,
    empty: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The whole iteration in one call, which can skip centroids by bounds on the distances of every row."""
    x, offsets, start = x.contiguous(), offsets.contiguous(), centroids.contiguous()
    tolerance = _contiguous(tolerance)
    labels = torch.empty(len(x), dtype=torch.int32)
    centroids = torch.empty_like(start)
    n_iter = torch.empty(len(offsets) - 1, dtype=torch.int32)
    _call(
        "kmeans_iterate",
        *_rows(x, offsets),
        start.data_ptr(),
        start.shape[1],
        max_iter,
        _address(tolerance),
        empty == "farthest",
        labels.data_ptr(),
        centroids.data_ptr(),
        n_iter.data_ptr(),
    )
    return labels, centroids, n_iter


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


def group_products(a: Tensor, a_offsets: Tensor, x: Tensor, offsets: Tensor, centre: Tensor, width: int) -> Tensor:
    """Products of the rows ``a`` of every group with its rows ``x``, both relative to ``centre``."""
    a, a_offsets, x = a.contiguous(), a_offsets.contiguous(), x.contiguous()
    offsets, centre = offsets.contiguous(), centre.contiguous()
    out = torch.empty((len(a), width), dtype=torch.float32)
    _call(
        "group_products",
        a.data_ptr(),
        DTYPES[a.dtype],
        *a.shape,
        a_offsets.data_ptr(),
        x.data_ptr(),
        len(x),
        offsets.data_ptr(),
        len(offsets) - 1,
        centre.data_ptr(),
        width,
        out.data_ptr(),
    )
    return out


def gram_assign(products: Tensor, norms: Tensor, offsets: Tensor, active: Tensor, labels: Tensor) -> Tensor:
    """Nearest live centroid of every row, from products alone."""
    products, norms, offsets = products.contiguous(), norms.contiguous(), offsets.contiguous()
    active, labels = active.contiguous(), labels.contiguous()
    found = torch.empty_like(labels)
    _call(
        "gram_assign",
        offsets.data_ptr(),
        len(offsets) - 1,
        products.data_ptr(),
        norms.data_ptr(),
        *products.shape[1:],
        active.data_ptr(),
        labels.data_ptr(),
        found.data_ptr(),
    )
    return found


def gradient_distance(
    real: list[Tensor], synthetic: list[Tensor], metric: str, per_class: bool, with_grads: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Distance and its closed-form derivative in one pass over both lists (two for ``global_cos``)."""
    return _distance(Pairs(real, synthetic, metric, per_class, with_grads), metric)


def feature_distance(
    real: list[Tensor], synthetic: list[Tensor], metric: str, per_class: bool, with_grads: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The same between batch means, which are computed as the features are read."""
    return _distance(Pairs(real, synthetic, metric, per_class, with_grads, n_averaged=1), metric)


def scale_gradients(gradients: list[Tensor], scale: Tensor, per_class: bool) -> list[Tensor]:
    """Multiply every tensor by its column of ``scale``, class by class, in one call."""
    scaling = Scaling(gradients, scale, per_class)
    _call("scale_gradients", scaling.table, len(scaling.scale), scaling.scale.data_ptr())
    return scaling.scaled


def norm_relu_pool(y: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Three operators in one pass over every map."""
    pooled = _pooled_like(y)
    mean, rstd = y.new_empty(y.shape[:2]), y.new_empty(y.shape[:2])
    _maps_call("norm_relu_pool", [y, weight, bias], [pooled, mean, rstd], eps)
    return pooled, mean, rstd


def norm_relu_pool_backward(
    y: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, of_pooled: Tensor
) -> Tensor:
    """Derivative by ``y``, in one pass over every map."""
    of_y = torch.empty_like(y, memory_format=torch.contiguous_format)
    _maps_call("norm_relu_pool_backward", [y, weight, bias, mean, rstd, of_pooled], [of_y])
    return of_y


def norm_relu_pool_double_backward(
    y: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, of_pooled: Tensor, of_of_y: Tensor
) -> tuple[Tensor, Tensor]:
    """Both derivatives of the function above, in one pass over every map."""
    of_of_pooled, of_y = _pooled_like(y), torch.empty_like(y, memory_format=torch.contiguous_format)
    inputs = [y, weight, bias, mean, rstd, of_pooled, of_of_y]
    _maps_call("norm_relu_pool_double_backward", inputs, [of_of_pooled, of_y])
    return of_of_pooled, of_y


def _pooled_like(y: Tensor) -> Tensor:
    return y.new_empty(*y.shape[:2], y.shape[2] // 2, y.shape[3] // 2)


def _maps_call(op: str, inputs: list[Tensor], outputs: list[Tensor], *numbers: float) -> None:
    y, weight, bias, *others = (tensor.contiguous() for tensor in inputs)
    addresses = [tensor.data_ptr() for tensor in (weight, bias, *others)]
    _call(op, y.data_ptr(), y.shape, *addresses, *numbers, *(tensor.data_ptr() for tensor in outputs))


def _distance(pairs: Pairs, metric: str) -> tuple[Tensor, Tensor, list[Tensor]]:
    outputs = (pairs.distance.data_ptr(), pairs.per_layer.data_ptr())
    _call("gradient_distance", pairs.table, pairs.n_groups, METRIC_CODES[metric], *outputs)
    return pairs.distance, pairs.per_layer, pairs.grads


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
