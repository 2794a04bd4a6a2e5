"""The operators in CUDA C++. This module prepares memory; launches and arithmetic are in ``csrc/cuda``.

No function synchronises with the device, and sizes that only the device knows never leave it. So every call can be
captured in a CUDA graph once the kernels are loaded, which happens at the first call.
"""

from __future__ import annotations

import sys
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import DreamAccelError
from ..runtime import devices
from . import GRAM_OPERATORS, KMEANS_OPERATORS, MAP_OPERATORS, _cuda_image, _native
from .iteration import iterate
from .pairs import DTYPES, METRIC_CODES, Pairs, Scaling

NAME = "cuda"


class Queue(NamedTuple):
    """A device and one of its streams, where kernels are launched."""

    device: int
    stream: int
    """Address of the CUstream."""


@cache
def unavailable() -> str | None:
    """Return the reason why the CUDA kernels cannot be used; None if they can."""
    return _cuda_image.unavailable()


def refuses(op: str, *args: Any) -> str | None:
    """Return the reason why this call cannot run here; None if it can."""
    if op in GRAM_OPERATORS:
        return f"it has no kernel for {op}; fits with gram=False need none"
    if op in MAP_OPERATORS:
        return f"it has no kernel for {op}; class_gradients other than fused need none"
    tensors = [tensor for side in args[:2] if isinstance(side, list) for tensor in side] or [args[0]]
    for tensor in tensors:
        if tensor.dtype not in DTYPES:
            return f"{tensor.dtype} input and it takes {', '.join(sorted(map(str, DTYPES)))}"
    if op in KMEANS_OPERATORS:
        n_clusters = args[3] if op == "kmeans_update" else args[2].shape[1]
        if n_clusters > _module().cuda_max_clusters():
            return f"{n_clusters} clusters per group and it counts {_module().cuda_max_clusters()} in shared memory"
    return refuses_device(tensors[0].device)


def refuses_device(device: torch.device) -> str | None:
    """Load the kernels; return the reason why tensors on this device cannot be served, None if they can."""
    if device.type != "cuda":
        return f"the tensors are on {device} and it runs on CUDA devices"
    with torch.cuda.device(device):
        return _cuda_image.load(torch.cuda.current_device())


def queue_of(tensor: Tensor) -> Queue:
    """The current stream of a tensor's device."""
    return Queue(tensor.get_device(), torch.cuda.current_stream(tensor.device).cuda_stream)


def is_capturing(tensor: Tensor) -> bool:
    """Return True while launches for this tensor are captured in a CUDA graph."""
    return devices.is_capturing(tensor.device)


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
    """Nearest live centroid of every row; always in float32, whatever ``precision`` allows. Three launches."""
    x, offsets, centroids = x.contiguous(), offsets.contiguous(), centroids.contiguous()
    kept = [None] * 3 if active is None else [_contiguous(t) for t in (active, labels, distance)]
    new_labels = torch.empty(len(x), dtype=torch.int32, device=x.device)
    new_distance = torch.empty(len(x) if with_distance else 0, dtype=torch.float32, device=x.device)
    workspace = _workspace(x, _module().cuda_assign_workspace(len(offsets) - 1, centroids.shape[1], x.shape[1]))
    _call(
        "cuda_kmeans_assign",
        _rows(x, offsets),
        centroids.data_ptr(),
        centroids.shape[1],
        *map(_address, kept),
        new_labels.data_ptr(),
        new_distance.data_ptr() if with_distance else 0,
        workspace.data_ptr(),
        queue_of(x),
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
    """Means of the clusters, summed in float64 in a fixed order of their own. Two launches."""
    x, offsets, labels = x.contiguous(), offsets.contiguous(), labels.contiguous()
    distance, previous, active = _contiguous(distance), _contiguous(previous), _contiguous(active)
    n_groups, farthest = len(offsets) - 1, empty == "farthest"
    centroids = torch.empty((n_groups, n_clusters, x.shape[1]), dtype=torch.float32, device=x.device)
    counts = torch.empty((n_groups, n_clusters), dtype=torch.int32, device=x.device)
    workspace = _workspace(x, _module().cuda_update_workspace(len(x), n_groups, n_clusters, farthest))
    _call(
        "cuda_kmeans_update",
        _rows(x, offsets),
        labels.data_ptr(),
        n_clusters,
        _address(distance),
        _address(previous),
        _address(active),
        farthest,
        centroids.data_ptr(),
        counts.data_ptr(),
        workspace.data_ptr(),
        queue_of(x),
    )
    return centroids, counts


kmeans_iterate = partial(iterate, sys.modules[__name__])


def nearest_members(x: Tensor, offsets: Tensor, centroids: Tensor, labels: Tensor, n: int) -> Tensor:
    """The ``n`` members nearest each centroid, free slots filled from the rest of the group. Three launches."""
    x, offsets, labels = x.contiguous(), offsets.contiguous(), labels.contiguous()
    centroids = centroids.contiguous()
    n_groups, n_clusters, _ = centroids.shape
    picks = torch.empty((n_groups, n_clusters, n), dtype=torch.int64, device=x.device)
    workspace = _workspace(x, _module().cuda_nearest_workspace(len(x), n_groups, n_clusters))
    _call(
        "cuda_nearest_members",
        _rows(x, offsets),
        centroids.data_ptr(),
        n_clusters,
        labels.data_ptr(),
        n,
        picks.data_ptr(),
        workspace.data_ptr(),
        queue_of(x),
    )
    return picks


def gradient_distance(
    real: list[Tensor], synthetic: list[Tensor], metric: str, per_class: bool, with_grads: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Distance and derivative in one launch for up to 448 tensors and all classes; ``global_cos`` takes two."""
    return _distance(Pairs(real, synthetic, metric, per_class, with_grads), metric)


def feature_distance(
    real: list[Tensor], synthetic: list[Tensor], metric: str, per_class: bool, with_grads: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The same between batch means, which are computed as the features are read."""
    return _distance(Pairs(real, synthetic, metric, per_class, with_grads, n_averaged=1), metric)


def scale_gradients(gradients: list[Tensor], scale: Tensor, per_class: bool) -> list[Tensor]:
    """Multiply every tensor by its column of ``scale``, class by class, in one launch."""
    scaling = Scaling(gradients, scale, per_class)
    _call("cuda_scale_gradients", scaling.table, len(scaling.scale), scaling.scale.data_ptr(), queue_of(scaling.scale))
    return scaling.scaled


def _distance(pairs: Pairs, metric: str) -> tuple[Tensor, Tensor, list[Tensor]]:
    size = _call("cuda_gradient_workspace", pairs.table, pairs.n_groups, METRIC_CODES[metric])
    workspace = _workspace(pairs.distance, size)
    queue = queue_of(pairs.distance)
    tickets = _tickets(pairs.distance, pairs.n_groups, queue)
    _call(
        "cuda_gradient_distance",
        pairs.table,
        pairs.n_groups,
        METRIC_CODES[metric],
        pairs.distance.data_ptr(),
        pairs.per_layer.data_ptr(),
        tickets.data_ptr(),
        workspace.data_ptr(),
        queue,
    )
    return pairs.distance, pairs.per_layer, pairs.grads


_tickets_of: dict[Queue, Tensor] = {}


def _tickets(like: Tensor, n: int, queue: Queue) -> Tensor:
    """Counters that are zero between launches.

    Launches on one stream run one after another and can share them. Graphs recorded on one stream may be replayed on
    several at a time, so every recorded launch has its own, which are set to zero within the graph.
    """
    if is_capturing(like):
        return torch.zeros(n, dtype=torch.int32, device=like.device)
    known = _tickets_of.get(queue)
    if known is None or len(known) < n:
        known = _tickets_of[queue] = torch.zeros(max(n, 128), dtype=torch.int32, device=like.device)
    return known


def _workspace(like: Tensor, n_bytes: int) -> Tensor:
    return torch.empty(n_bytes, dtype=torch.uint8, device=like.device)


def _rows(x: Tensor, offsets: Tensor) -> tuple[int, ...]:
    n_rows, n_features = x.shape
    return x.data_ptr(), DTYPES[x.dtype], n_rows, n_features, offsets.data_ptr(), len(offsets) - 1


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _call(name: str, *args: Any) -> Any:
    try:
        return getattr(_module(), name)(*args)
    except ValueError as error:
        raise DreamAccelError(str(error)) from None


def _module() -> Any:
    return _native.load()
