"""Calls that reach every kernel, precision, dtype and shape class, for the report of what they compile to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import torch

from .assign import PRECISIONS, kmeans_assign
from .gradient_distance import gradient_distance
from .gram import gram_assign, group_products
from .iterate import LloydSteps
from .nearest import nearest_members
from .norm_relu_pool import norm_relu_pool, norm_relu_pool_backward, norm_relu_pool_double_backward
from .scale_gradients import scale_gradients
from .update import kmeans_update


def cases() -> Iterator[tuple[str, Callable[[], object]]]:
    """A name and a call, again and again; nothing is computed where launches are recorded."""
    shapes = (
        (128, 2048, torch.float32),
        (128, 2048, torch.bfloat16),
        (100, 15, torch.float32),
        (100, 80, torch.float32),
        (64, 2048, torch.float32),
        (20, 2048, torch.float16),
    )
    for precision, (n_clusters, n_features, dtype) in itertools.product(PRECISIONS, shapes):
        x, offsets, centroids, active, labels, distance = _inputs(n_clusters, n_features, dtype)
        name = f"{precision} K={n_clusters} D={n_features}"
        for with_distance in (True, False):
            assign = partial(kmeans_assign, x, offsets, centroids, active, labels, precision=precision)
            yield name, partial(assign, distance=distance, with_distance=with_distance)
    for n_clusters, n_features, dtype in ((128, 2048, torch.float32), (4095, 15, torch.bfloat16)):
        x, offsets, centroids, active, labels, distance = _inputs(n_clusters, n_features, dtype)
        name = f"K={n_clusters} D={n_features}"
        for empty in ("keep", "farthest"):
            update = partial(kmeans_update, x, offsets, labels, n_clusters, empty=empty)
            yield f"{name} {empty}", partial(update, previous=centroids, active=active)
            yield f"{name} {empty}", partial(_iteration, x, offsets, centroids, active, labels, empty)
        yield name, partial(kmeans_update, x, offsets, labels, n_clusters)
        yield name, partial(nearest_members, x, offsets, centroids, labels, 3)
    for n_features, width in ((2048, 512), (15, 64)):
        x, offsets, _, active, labels, _ = _inputs(1, n_features, torch.float32)
        centre = torch.zeros(1, n_features)
        name = f"D={n_features} W={width}"
        yield name, partial(group_products, x, offsets, x, offsets, centre, width)
        yield name, partial(gram_assign, torch.zeros(1, 8, width), torch.zeros(1, 8), offsets, active, labels)
    yield from _map_cases()
    yield from _distance_cases()


def _iteration(
    x: torch.Tensor,
    offsets: torch.Tensor,
    centroids: torch.Tensor,
    active: torch.Tensor,
    labels: torch.Tensor,
    empty: str,
) -> None:
    steps, count = LloydSteps(x, offsets, empty), torch.zeros(1, dtype=torch.int32)
    found = steps.assign(centroids, active, labels, "fp32")
    new, going = steps.update(found, labels, centroids, active, active, count)
    again = steps.assign(new, going, found, "fp32")
    steps.update(again, found, new, going, active, count)


def _map_cases() -> Iterator[tuple[str, Callable[[], object]]]:
    for height, width in ((32, 32), (7, 9), (2, 2)):
        y, pooled = torch.zeros(2, 16, height, width), torch.zeros(2, 16, height // 2, width // 2)
        weight, bias, mean, rstd = torch.zeros(16), torch.zeros(16), torch.zeros(2, 16), torch.zeros(2, 16)
        name = f"maps of {height} x {width}"
        yield name, partial(norm_relu_pool, y, weight, bias, 1e-5)
        yield name, partial(norm_relu_pool_backward, y, weight, bias, mean, rstd, pooled)
        yield name, partial(norm_relu_pool_double_backward, y, weight, bias, mean, rstd, pooled, y)


def _distance_cases() -> Iterator[tuple[str, Callable[[], object]]]:
    """As many gradients as one launch takes, and features in half precision averaged over a batch."""
    f32, f16, bf16 = 0, 1, 2
    address = 2**46  # as on a device: a small integer would be compiled as 32 bits
    for n, batch, x_type, y_type, metrics in (
        (32, 1, f32, f32, ("mse", "l1_mean", "cos", "global_mse", "global_cos")),
        (1, 128, bf16, f16, ("l1", "cos", "global_cos")),
    ):
        pair = (address, address, address, 128, 1152, 147456, 147456, batch, batch, 9, x_type, y_type)
        for metric in metrics:
            outputs = torch.zeros(3), torch.zeros(3, 1 if metric.startswith("global_") else n)
            yield f"{metric} of {n}, batch {batch}", partial(gradient_distance, [pair] * n, 3, metric, *outputs)
        scaled = [(address, address, 147456, 147456, y_type)] * n
        yield f"{n} tensors", partial(scale_gradients, scaled, torch.zeros(3, n))


def _inputs(n_clusters: int, n_features: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    n_rows = 64
    return (
        torch.zeros(n_rows, n_features, dtype=dtype),
        torch.tensor([0, n_rows]),
        torch.zeros(1, n_clusters, n_features),
        torch.ones(1, dtype=torch.bool),
        torch.zeros(n_rows, dtype=torch.int32),
        torch.zeros(n_rows),
    )
