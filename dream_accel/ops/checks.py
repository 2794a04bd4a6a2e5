"""Checks shared by the operators. They read shapes, dtypes and devices but no values, so they wait for nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DreamAccelError, choices

ROW_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def check_rows(x: Tensor, offsets: Tensor) -> None:
    """Refuse anything but x (N, D) floating and offsets (G+1,) int64 on the same device."""
    if x.dim() != 2:
        raise DreamAccelError(f"x has shape {tuple(x.shape)}: rows must be 2-d (N, D); flatten the features first")
    if x.shape[1] < 1:
        raise DreamAccelError(f"x has shape {tuple(x.shape)}: rows must have at least 1 feature")
    if x.dtype not in ROW_DTYPES:
        raise DreamAccelError(f"x is {x.dtype}: rows must be float32, float16 or bfloat16; convert with x.float()")
    if offsets.dim() != 1 or len(offsets) < 1 or offsets.dtype != torch.int64:
        raise DreamAccelError(
            f"offsets is {offsets.dtype} of shape {tuple(offsets.shape)}: it must be (G+1,) int64, "
            "where each group begins and where the last one ends"
        )
    check_device("x", x, offsets=offsets)


def check_device(name: str, tensor: Tensor, **others: Tensor | None) -> None:
    """Refuse tensors that do not share ``tensor``'s device."""
    for other_name, other in others.items():
        if other is not None and other.device != tensor.device:
            raise DreamAccelError(
                f"{name} is on {tensor.device} and {other_name} on {other.device}: move both to one device"
            )


def check_shape(name: str, tensor: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> None:
    """Refuse a tensor of another shape or dtype; None passes."""
    if tensor is None:
        return
    if tuple(tensor.shape) != shape:
        raise DreamAccelError(f"{name} has shape {tuple(tensor.shape)}: expected {shape}")
    if dtype is not None and tensor.dtype != dtype:
        raise DreamAccelError(f"{name} is {tensor.dtype}: expected {dtype}; convert with {name}.to({dtype})")


def check_centroids(x: Tensor, offsets: Tensor, centroids: Tensor) -> None:
    """Refuse anything but centroids (G, K, D) with K >= 1 beside x."""
    if centroids.dim() != 3 or centroids.shape[1] < 1:
        raise DreamAccelError(f"centroids has shape {tuple(centroids.shape)}: expected (G, K, D) with K >= 1")
    check_shape("centroids", centroids, (len(offsets) - 1, centroids.shape[1], x.shape[1]), result_dtype(x))
    check_device("x", x, centroids=centroids)


def check_choice(kind: str, found: str, allowed: tuple[str, ...]) -> None:
    """Refuse a name that is not in ``allowed``, listing what is."""
    if found not in allowed:
        raise choices(kind, found, allowed)


def result_dtype(x: Tensor) -> torch.dtype:
    """Dtype of centroids and distances: float64 for float64 rows, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
