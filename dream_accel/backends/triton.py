"""The operators as Triton kernels, for NVIDIA GPUs from compute capability 8.0.

The kernels, and the host functions that launch them, are in ``kernels/``, one file each: ``kernels/assign.py`` for
``kmeans_assign``, ``kernels/update.py`` for ``kmeans_update``, and so on.

``TRITON_INTERPRET=1``, set before the first use, runs the same kernels in Triton's interpreter on tensors of any
device, which is slow and meant for tests. Triton is imported when there is a device to run on, never with the package.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import DISTANCE_OPERATORS, MAP_OPERATORS
from .iteration import lloyd
from .pairs import DTYPES, Pairs, Scaling

NAME = "triton"
OLDEST_TRITON = (3, 6)
OLDEST_CAPABILITY = (8, 0)
MAX_CLUSTERS = 4095
"""Most clusters per group: a program holds one counter for each."""
MAX_ROWS = 2**31 - 1
"""Most rows, and most elements in one class of a gradient: they are counted in 32 bits, addresses in 64."""
MAX_CLASSES = 65535
"""Most classes of gradients in one launch."""


def unavailable() -> str | None:
    """Return the reason why Triton kernels cannot run here; None if they can."""
    if not _interpreted():
        if not torch.cuda.is_available():
            return "there is no CUDA device; set TRITON_INTERPRET=1 to run its kernels on the CPU, for tests"
        if torch.version.hip is not None:
            return "PyTorch is built for ROCm and the kernels are tuned for NVIDIA GPUs alone"
    return _installation()


def refuses(op: str, *args: Any) -> str | None:
    """Return the reason why ``op(*args)`` cannot run; None if it can."""
    if op in MAP_OPERATORS:
        return _refuses_maps(args[0]) or _refuses_tensor(args[0])
    tensors = [*args[0], *(args[1] if isinstance(args[1], list) else [])] if isinstance(args[0], list) else [args[0]]
    reason = next(filter(None, map(_refuses_tensor, tensors)), None)
    if reason is not None:
        return reason
    if op in DISTANCE_OPERATORS:
        return _refuses_gradients(tensors, args[2] if op == "scale_gradients" else args[3])
    x, n_clusters = args[0], _clusters(op, args)
    if x.shape[1] < 1:
        return "x has no features"
    if len(x) > MAX_ROWS:
        return f"x has {len(x)} rows and the kernels count to {MAX_ROWS}"
    if n_clusters > MAX_CLUSTERS:
        return f"there are {n_clusters} clusters per group and the kernels hold {MAX_CLUSTERS}"
    return None


def _refuses_tensor(x: Tensor) -> str | None:
    if not (x.is_cuda or _interpreted()):
        return f"the tensors are on {x.device} and the kernels run on CUDA devices"
    if x.is_cuda and not _interpreted() and torch.cuda.get_device_capability(x.device) < OLDEST_CAPABILITY:
        found = ".".join(map(str, torch.cuda.get_device_capability(x.device)))
        return f"the GPU has compute capability {found} and the kernels need 8.0"
    if x.dtype not in DTYPES:
        return f"{x.dtype} input and the kernels take float32, float16 and bfloat16"
    return None


def _refuses_maps(y: Tensor) -> str | None:
    if y.dtype != torch.float32:
        return f"{y.dtype} maps and the kernels take float32"
    if y.shape[2] * y.shape[3] > MAX_ROWS:
        return f"a map has {y.shape[2]} x {y.shape[3]} pixels and the kernels count to {MAX_ROWS}"
    return None


def _refuses_gradients(tensors: list[Tensor], per_class: bool) -> str | None:
    for tensor in tensors:
        n_classes = len(tensor) if per_class else 1
        if n_classes > MAX_CLASSES:
            return f"there are {n_classes} classes and one launch takes {MAX_CLASSES}"
        if n_classes and tensor.numel() // n_classes > MAX_ROWS:
            return f"a class has {tensor.numel() // n_classes} elements and the kernels count to {MAX_ROWS}"
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
    """Nearest live centroid of every row and the squared distance to it."""
    return _kernels().kmeans_assign(x, offsets, centroids, active, labels, distance, precision, with_distance)


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
    """Mean of every cluster's members and their number; empty clusters by policy."""
    return _kernels().kmeans_update(x, offsets, labels, n_clusters, distance, previous, active, empty)


def kmeans_iterate(
    x: Tensor,
    offsets: Tensor,
    centroids: Tensor,
    max_iter: int,
    tolerance: Tensor | None,
    precision: str,
    empty: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Assignments and updates in turn, seven launches together or ten where empty clusters are filled."""
    steps = _kernels().LloydSteps(x, offsets, empty)
    return lloyd(steps, len(x), centroids, max_iter, tolerance, precision)


def nearest_members(x: Tensor, offsets: Tensor, centroids: Tensor, labels: Tensor, n: int) -> Tensor:
    """The ``n`` members nearest each centroid; free slots go to the unpicked rows nearest their own centroid."""
    return _kernels().nearest_members(x, offsets, centroids, labels, n)


def group_products(a: Tensor, a_offsets: Tensor, x: Tensor, offsets: Tensor, centre: Tensor, width: int) -> Tensor:
    """Products of the rows ``a`` of every group with its rows ``x``, both relative to ``centre``."""
    return _kernels().group_products(a, a_offsets, x, offsets, centre, width)


def gram_assign(products: Tensor, norms: Tensor, offsets: Tensor, active: Tensor, labels: Tensor) -> Tensor:
    """Nearest live centroid of every row, from products alone."""
    return _kernels().gram_assign(products, norms, offsets, active, labels)


def gradient_distance(
    real: list[Tensor], synthetic: list[Tensor], metric: str, per_class: bool, with_grads: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Distance and its derivative, two launches for every 32 tensors of one dtype."""
    return _distance(Pairs(real, synthetic, metric, per_class, with_grads), metric)


def feature_distance(
    real: list[Tensor], synthetic: list[Tensor], metric: str, per_class: bool, with_grads: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The same between batch means, which are computed as the features are read."""
    return _distance(Pairs(real, synthetic, metric, per_class, with_grads, n_averaged=1), metric)


def scale_gradients(gradients: list[Tensor], scale: Tensor, per_class: bool) -> list[Tensor]:
    """Multiply every tensor by its column of ``scale``, class by class; one launch per 32 tensors of one dtype."""
    scaling = Scaling(gradients, scale, per_class)
    _kernels().scale_gradients(scaling.table, scaling.scale)
    return scaling.scaled


def norm_relu_pool(y: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Instance norm, ReLU and 2x2 average pooling; with mean and rstd of every map."""
    return _kernels().norm_relu_pool(y, weight, bias, eps)


def norm_relu_pool_backward(
    y: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, of_pooled: Tensor
) -> Tensor:
    """Derivative by ``y``."""
    return _kernels().norm_relu_pool_backward(y, weight, bias, mean, rstd, of_pooled)


def norm_relu_pool_double_backward(
    y: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, of_pooled: Tensor, of_of_y: Tensor
) -> tuple[Tensor, Tensor]:
    """Derivatives of that by ``of_pooled`` and by ``y``."""
    return _kernels().norm_relu_pool_double_backward(y, weight, bias, mean, rstd, of_pooled, of_of_y)


def _distance(pairs: Pairs, metric: str) -> tuple[Tensor, Tensor, list[Tensor]]:
    _kernels().gradient_distance(pairs.table, pairs.n_groups, metric, pairs.distance, pairs.per_layer)
    return pairs.distance, pairs.per_layer, pairs.grads


def _clusters(op: str, args: tuple[Any, ...]) -> int:
    """Number of counters in a program of this call, one for every cluster."""
    if op == "kmeans_update":
        return args[3]
    return args[2].shape[1] if op in ("kmeans_assign", "kmeans_iterate", "nearest_members") else 0


def _kernels() -> ModuleType:
    return importlib.import_module("dream_accel.kernels")


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


@functools.cache
def _installation() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; install it with `pip install 'dream-accel[triton]'`"
    try:
        version = importlib.import_module("triton").__version__
    except Exception as error:
        return f"Triton cannot be imported ({error}); reinstall it"
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_TRITON:
        return f"Triton is {version} and the kernels need 3.6; upgrade it, or PyTorch with it"
    if importlib.util.find_spec("dream_accel.kernels") is None:
        return "dream_accel.kernels is not installed; install the package with `pip install .`"
    return None
