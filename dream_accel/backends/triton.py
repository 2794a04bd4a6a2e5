"""K-Means operators by Triton kernels, on NVIDIA GPUs from compute capability 8.0.

``TRITON_INTERPRET=1``, set before the first use, runs the same kernels in Triton's interpreter on tensors of any
device: slow, and meant for tests. Triton is imported once there is a device to run on, never with the package.
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

NAME = "triton"
OPERATORS = ("kmeans_assign", "kmeans_update", "nearest_members")
OLDEST_TRITON = (3, 6)
OLDEST_CAPABILITY = (8, 0)
MAX_CLUSTERS = 4095
"""A program holds one counter for every cluster of a group."""
MAX_ROWS = 2**31 - 1
"""Row numbers are kept in 32 bits; addresses in 64."""


def unavailable() -> str | None:
    """Why Triton kernels cannot run here, or None."""
    if not _interpreted():
        if not torch.cuda.is_available():
            return "there is no CUDA device; set TRITON_INTERPRET=1 to run its kernels on the CPU, for tests"
        if torch.version.hip is not None:
            return "PyTorch is built for ROCm and the kernels are tuned for NVIDIA GPUs alone"
    return _installation()


def refuses(op: str, *args: Any) -> str | None:
    """Why ``op(*args)`` cannot run, or None."""
    if op not in OPERATORS:
        return f"it has no {op}, only {', '.join(OPERATORS)}"
    x = args[0]
    n_clusters = args[3] if op == "kmeans_update" else args[2].shape[1]
    if not (x.is_cuda or _interpreted()):
        return f"x is on {x.device} and the kernels run on CUDA devices"
    if x.is_cuda and not _interpreted() and torch.cuda.get_device_capability(x.device) < OLDEST_CAPABILITY:
        found = ".".join(map(str, torch.cuda.get_device_capability(x.device)))
        return f"the GPU has compute capability {found} and the kernels need 8.0"
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"x is {x.dtype} and the kernels take float32, float16 and bfloat16"
    if x.shape[1] < 1:
        return "x has no features"
    if len(x) > MAX_ROWS:
        return f"x has {len(x)} rows and the kernels count to {MAX_ROWS}"
    if n_clusters > MAX_CLUSTERS:
        return f"there are {n_clusters} clusters per group and the kernels hold {MAX_CLUSTERS}"
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


def nearest_members(x: Tensor, offsets: Tensor, centroids: Tensor, labels: Tensor, n: int) -> Tensor:
    """The ``n`` members nearest each centroid; free slots go to the unpicked rows nearest their own centroid."""
    return _kernels().nearest_members(x, offsets, centroids, labels, n)


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
