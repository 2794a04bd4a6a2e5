"""Values of other libraries: whole numbers, and NumPy and CuPy arrays, read without a copy on their device."""

from __future__ import annotations

import operator
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
        return _from_numpy(array, name)
    if hasattr(array, "__dlpack__"):
        return torch.from_dlpack(array)
    raise DreamAccelError(f"{name} is a {type(array).__name__}: pass a torch, NumPy or CuPy array")


def _from_numpy(array: np.ndarray, name: str) -> Tensor:
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    try:
        return torch.from_numpy(writeable(np.ascontiguousarray(array)))
    except TypeError:
        raise DreamAccelError(
            f'{name} is a NumPy array of {array.dtype}, which tensors lack: convert with {name}.astype("float32")'
        ) from None


def writeable(array: np.ndarray) -> np.ndarray:
    """View a read-only array, such as a mapped file, as one that PyTorch makes a tensor of without a warning.

    PyTorch has no read-only tensors: the caller must not write to it.

    Args:
        array: any array; one that can be written to is returned as it is.
    """
    return array if array.flags.writeable else np.asarray(_Writeable(array))


class _Writeable:
    """The memory of an array, declared to be writeable, and the array as long as the memory is in use."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


MOST = 2**31 - 1
"""The largest count: what counts can number fits an int32, in which kernels keep them."""


def whole_number(value: Any, name: str, least: int | None = None) -> int:
    """Convert a whole number of any library to an int.

    Args:
        value: a Python or NumPy integer, or an integer array or tensor of one element. Truth values and floating-point
            numbers, 2.0 included, are no whole numbers.
        name: of the argument, for the refusal.
        least: the smallest value that is allowed, which makes it a count, of :data:`MOST` at most; default: any number.

    Returns:
        the int.

    Raises:
        DreamAccelError: the value is no whole number, below ``least``, or a count above :data:`MOST`.
    """
    allowed = "it must be a whole number" + ("" if least is None else f", at least {least}")
    try:
        if isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise DreamAccelError(f"{name} is {_shown(value)}: {allowed}") from None
    if least is not None and number < least:
        raise DreamAccelError(f"{name} is {number}: {allowed}")
    if least is not None and number > MOST:
        raise DreamAccelError(f"{name} is {number}: {allowed} and at most {MOST:,}")
    return number


def _shown(value: Any) -> str:
    """A number or a short text as it is written; anything else by its type, since a repr may be long or an address."""
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        return repr(value)[:60]
    if isinstance(value, (np.generic, Tensor)) and value.ndim == 0:
        return f"{value.item()!r} ({type(value).__name__})"
    return f"a {type(value).__name__}"


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
