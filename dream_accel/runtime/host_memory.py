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
    """Pages of a storage in host memory that are locked until nothing refers to this."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.storage = storage
        self.addresses = range(storage.data_ptr(), storage.data_ptr() + storage.nbytes())
        runtime = torch.cuda.cudart()
        status = int(runtime.cudaHostRegister(self.addresses.start, len(self.addresses), _PORTABLE))
        if status != 0:
            raise DreamAccelError(
                f"{len(self.addresses) / 1e9:.1f} GB of host memory cannot be locked for the GPU (CUDA error "
                f"{status}): raise the limit (ulimit -l), or choose a smaller size or limit_train"
            )
        weakref.finalize(self, runtime.cudaHostUnregister, self.addresses.start).atexit = False


class _Array:
    """A tensor in host memory as an array of a GPU, by the interface that libraries share such arrays through."""

    def __init__(self, tensor: Tensor, locked: _Locked) -> None:
        self.locked = locked
        self.__cuda_array_interface__ = {
            "shape": tuple(tensor.shape),
            "typestr": "|u1",
            "data": (tensor.data_ptr(), False),
            "strides": None,
            "version": 2,
        }


_locked: weakref.WeakValueDictionary[int, _Locked] = weakref.WeakValueDictionary()
"""By the address of the storage. A page can be locked once only, and two tensors of one storage may share it."""


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
    storage = tensor.untyped_storage()
    locked = _locked.get(storage.data_ptr())
    if locked is None:
        locked = _locked[storage.data_ptr()] = _Locked(storage)
    with torch.cuda.device(device):
        array: Any = _Array(tensor, locked)
        return torch.as_tensor(array, device=device)


def is_view(tensor: Tensor) -> bool:
    """Return whether :func:`view_on` returned the tensor, so that it takes no memory of its device."""
    return any(tensor.data_ptr() in locked.addresses for locked in _locked.values())
