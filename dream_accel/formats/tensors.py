"""Reading and writing files of tensors; no other objects are unpickled."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import DreamAccelError
from ..runtime.files import replacing

_NUMBERS = (np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_)


def _numpy_scalars() -> list[Any]:
    """The types that a pickled NumPy number refers to; these files store accuracies as such numbers."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")  # NumPy 1 and 2
    return [np.dtype, *(type(np.dtype(number)) for number in _NUMBERS), *((scalar, name) for name in names)]


def load_tensors(path: str | os.PathLike[str]) -> Any:
    """Read a file written by ``torch.save``.

    Args:
        path: the file to read.

    Returns:
        its content: tensors, numbers and text in lists and dicts, on the CPU.

    Raises:
        DreamAccelError: the file is missing, damaged, or contains objects of other kinds, which are not loaded.
    """
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DreamAccelError(f"{path} does not exist: name a file or folder of results") from None
    except Exception as error:  # a damaged file can raise any exception
        reason = str(error).strip().splitlines()
        unsafe = next((line for line in reason if "Unsupported global" in line), "")
        if unsafe:
            name = unsafe.split("GLOBAL", 1)[-1].split()[0]
            raise DreamAccelError(
                f"{path} holds an object of {name}, and only tensors, numbers and text are loaded: save its tensors "
                "alone with torch.save"
            ) from None
        raise DreamAccelError(
            f"{path} cannot be read as a file of tensors ({reason[0] if reason else type(error).__name__})"
        ) from None


def save_tensors(value: Any, path: Path) -> None:
    """Write a value by ``torch.save``, atomically.

    Args:
        value: tensors, numbers and text in lists and dicts.
        path: the file to write; an existing one is replaced.
    """
    with replacing(path) as file:
        torch.save(value, file)
