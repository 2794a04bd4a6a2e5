"""Conversion between tensors and NumPy or CuPy arrays, without a copy, on the device of the array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import DreamAccelError


def to_tensor(array: Any, name: str = "x") -> Tensor:
    """View a torch, NumPy or CuPy array as a tensor, or any other array that supports DLPack.

    Raises:
        DreamAccelError: the object is not an array, is sparse, or holds no data.
    """
    if isinstance(array, Tensor):
        if array.layout != torch.strided:
            raise DreamAccelError(f"{name} is sparse: pass a dense array, {name}.to_dense()")
        if array.is_meta:
            raise DreamAccelError(f"{name} is on meta, which holds no data: pass an array on a device that does")
        return array
    if isinstance(array, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(array))
    if hasattr(array, "__dlpack__"):
        return torch.from_dlpack(array)
    raise DreamAccelError(f"{name} is a {type(array).__name__}: pass a torch, NumPy or CuPy array")


def converter_like(array: Any) -> Callable[[Tensor], Any]:
    """A function that converts a result tensor to the kind of array that was given. It can be pickled."""
    if isinstance(array, np.ndarray):
        return _to_numpy
    if type(array).__module__.split(".")[0] == "cupy":
        return _to_cupy
    return _unchanged


def _to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.numpy()


def _to_cupy(tensor: Tensor) -> Any:
    import cupy

    return cupy.from_dlpack(tensor)


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor
