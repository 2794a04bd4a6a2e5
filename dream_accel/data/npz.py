"""Data sets in one .npz file with the keys x_train, y_train, x_test, y_test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import DreamAccelError
from .image_set import DataSplit, ImageSet
from .sources import naming

KEYS = ("x_train", "y_train", "x_test", "y_test")


def load_npz(path: Path, download: bool = False, size: int | None = None) -> DataSplit:
    """Images and labels in any form ImageSet.from_arrays takes.

    A further key ``class_names`` (C,) of strings may name the classes. Nothing is unpickled. The test set may
    lack some of the classes.
    """
    if not path.is_file():
        raise DreamAccelError(f"there is no file {path}; npz:PATH takes a file with the keys {', '.join(KEYS)}")
    arrays = read_npz(path)
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        found = ", ".join(arrays) if arrays else "no keys"
        raise DreamAccelError(f"{path} lacks {', '.join(missing)}: it holds {found}, and needs {', '.join(KEYS)}")
    names = [str(name) for name in arrays["class_names"]] if "class_names" in arrays else None
    with naming(f"{path}, training set"):
        train = ImageSet.from_arrays(arrays["x_train"], arrays["y_train"], class_names=names)
    with naming(f"{path}, test set"):
        test = ImageSet.from_arrays(arrays["x_test"], arrays["y_test"], class_names=train.class_names, allow_empty=True)
    return DataSplit(f"npz:{path}", train, test)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a data set's .npz file; other keys are listed with an empty array and not read."""
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            wanted = (*KEYS, "class_names")
            return {key: file[key] if key in wanted else np.empty(0) for key in file.files}
    except ValueError as error:
        if "Object arrays" in str(error):
            raise DreamAccelError(
                f"{path} holds Python objects (images of mixed sizes are saved that way), and nothing is "
                "unpickled; save plain number arrays"
            ) from error
        raise _unreadable(path, error) from error
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DreamAccelError:
    return DreamAccelError(f"{path} cannot be read as a .npz file ({type(error).__name__}: {error}); replace the file")
