"""Data sets in one .npz file, under the key names in common use."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import DreamAccelError
from .convert import resize_and_crop
from .image_set import ImageSet
from .remarks import remarks
from .sources import Reading, naming
from .split import DataSplit

LAYOUTS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("train_x", "train_y", "test_x", "test_y"),
)
"""Known names of the training images, training labels, test images and test labels, in lower case.

The first is Keras', the second MedMNIST's.
"""
CLASS_NAMES = "class_names"
_ONE_ARRAY = b"\x93NUMPY"


def load_npz(path: Path, how: Reading) -> DataSplit:
    """Images and labels in any form that :meth:`ImageSet.from_arrays` takes, labels (N, 1) included.

    Keys are those of one of ``LAYOUTS`` in upper or lower case; a further key ``class_names`` (C,) of strings may name
    the classes. The note of the split says which keys were taken and which are left unused, such as ``val_images`` of
    MedMNIST. Nothing is unpickled. The test set may lack some of the classes.

    Args:
        path: the file.
        how: its size is.

    Raises:
        DreamAccelError: the file is missing or unreadable, holds the keys of no layout or of several, or arrays that
            :meth:`ImageSet.from_arrays` refuses.
    """
    if not path.is_file():
        raise DreamAccelError(f"there is no file {path}; npz:PATH takes a file with the keys {_known()}")
    with path.open("rb") as file:
        if file.read(len(_ONE_ARRAY)) == _ONE_ARRAY:
            raise DreamAccelError(
                f"{path} is a .npy file, which holds one array and so no labels; save images and labels together, "
                "np.savez('mine.npz', x_train=..., y_train=..., x_test=..., y_test=...)"
            )
    found = _keys(path)
    taken = _choose(path, found)
    names_key = next((key for key in found if key.lower() == CLASS_NAMES), None)
    arrays = read_npz(path, [*taken, *([names_key] if names_key else [])])
    x_train, y_train, x_test, y_test = (arrays[key] for key in taken)
    names = [str(name) for name in arrays[names_key]] if names_key else None
    with naming(f"{path}, training set"):
        train = ImageSet.from_arrays(x_train, y_train, class_names=names)
    with naming(f"{path}, test set"):
        test = ImageSet.from_arrays(x_test, y_test, class_names=train.class_names, allow_empty=True)
    if how.size:  # here, since images of two sizes make no data set
        train, test = (replace(part, images=resize_and_crop(part.images, how.size)) for part in (train, test))
    note = f"took the keys {', '.join(taken)}"
    if unused := [key for key in found if key not in arrays]:
        note += f"; left unused: {', '.join(unused)}"
    return DataSplit(f"npz:{path}", train, test, remarks(train, test, note))


def read_npz(path: Path, keys: Collection[str]) -> dict[str, np.ndarray]:
    """Those of the arrays called ``keys`` that the file holds.

    Raises:
        DreamAccelError: the file is unreadable, or holds Python objects under one of the keys.
    """
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            return {key: file[key] for key in file.files if key in keys}
    except PermissionError:
        raise
    except ValueError as error:
        if "Object arrays" in str(error):
            raise DreamAccelError(
                f"{path} holds Python objects (images of mixed sizes are saved that way), and nothing is "
                "unpickled; save plain number arrays"
            ) from error
        raise _unreadable(path, error) from error
    except Exception as error:
        raise _unreadable(path, error) from error


def _keys(path: Path) -> list[str]:
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            return list(file.files)
    except PermissionError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def _choose(path: Path, found: list[str]) -> list[str]:
    """The keys of the one layout that the file has, as the file spells them."""
    spelled: dict[str, list[str]] = {}
    for key in found:
        spelled.setdefault(key.lower(), []).append(key)
    shares = [[name for name in layout if name in spelled] for layout in LAYOUTS]
    whole = [layout for layout, share in zip(LAYOUTS, shares, strict=True) if len(share) == len(layout)]
    held = f"it holds {', '.join(found) if found else 'no keys'}"
    if len(whole) > 1:
        raise DreamAccelError(
            f"{path} has the keys of several layouts: {held}; keep those of one, {', '.join(whole[0])}, in the file"
        )
    if not whole:
        nearest = max(range(len(LAYOUTS)), key=lambda i: len(shares[i]))
        missing = [name for name in LAYOUTS[nearest] if name not in spelled]
        raise DreamAccelError(f"{path} lacks {', '.join(missing)}: {held}, and needs {_known()}")
    double = next((keys for name, keys in spelled.items() if name in (*whole[0], CLASS_NAMES) and len(keys) > 1), None)
    if double is not None:
        raise DreamAccelError(f"{path} has both {' and '.join(double)}: {held}; keep one of them in the file")
    return [spelled[name][0] for name in whole[0]]


def _known() -> str:
    return " or ".join(", ".join(layout) for layout in LAYOUTS)


def _unreadable(path: Path, error: Exception) -> DreamAccelError:
    return DreamAccelError(f"{path} cannot be read as a .npz file ({type(error).__name__}: {error}); replace the file")
