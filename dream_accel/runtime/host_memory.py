"""Host memory that a GPU reads itself, for data that do not fit its own.

The pages are locked and entered into the GPU's address space, so a kernel that reads a row fetches it over the bus: in
the order of the stream, within a recorded graph as well, and without a wait of the host.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from ..errors import DreamAccelError

_PORTABLE = 1
"""cudaHostRegisterPortable: the pages are locked for every GPU."""


class _Locked:
    """Pages of a tensor in host memory that are locked until nothing refers to this."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        runtime = torch.cuda.cudart()
        status = int(runtime.cudaHostRegister(tensor.data_ptr(), tensor.nbytes, _PORTABLE))
        if status != 0:
            raise DreamAccelError(
                f"{tensor.nbytes / 1e9:.1f} GB of host memory cannot be locked for the GPU (CUDA error {status}): "
                "raise the limit (ulimit -l), or choose a smaller size or limit_train"
            )
        weakref.finalize(self, runtime.cudaHostUnregister, tensor.data_ptr()).atexit = False


class _Array:
    """A tensor in host memory as an array of a GPU, by the interface that libraries share such arrays through."""

    def __init__(self, locked: _Locked) -> None:
        self.locked = locked
        self.__cuda_array_interface__ = {
            "shape": tuple(locked.tensor.shape),
            "typestr": "|u1",
            "data": (locked.tensor.data_ptr(), False),
            "strides": None,
            "version": 2,
        }


_locked: weakref.WeakValueDictionary[tuple[int, int], _Locked] = weakref.WeakValueDictionary()
"""By address and bytes: pages can be locked once only, and serve several views."""


def view_on(tensor: Tensor, device: torch.device) -> Tensor:
    """View a tensor in host memory as one of a GPU.

    Args:
        tensor: uint8, contiguous, not empty, in host memory.
        device: a CUDA device.

    Returns:
        a tensor of the device with the same memory, which is locked as long as a view of it is used.

    Raises:
        DreamAccelError: the pages cannot be locked.
    """
    key = (tensor.data_ptr(), tensor.nbytes)
    locked = _locked.get(key)
    if locked is None:
        locked = _locked[key] = _Locked(tensor)
    with torch.cuda.device(device):
        array: Any = _Array(locked)
        return torch.as_tensor(array, device=device)


def is_view(tensor: Tensor) -> bool:
    """Return whether :func:`view_on` returned the tensor, so that it takes no memory of its device."""
    return (tensor.data_ptr(), tensor.nbytes) in _locked
