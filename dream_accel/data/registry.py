"""The data sets by name.

To add one, write its loader, (where, how: Reading) -> DataSplit, and a line for it in one of the two tables.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from ..errors import DreamAccelError
from .digits import load_digits
from .folders import load_imagefolder
from .huggingface import load_huggingface
from .npz import load_npz
from .pixel_cache import IMAGE_DISK, IMAGE_MEMORY, PixelCache
from .sources import Reading, default_data_dir, expanded, reading
from .split import DataSplit, resize
from .tiny_imagenet import load_tiny_imagenet
from .torchvision_sets import load_torchvision
from .webdataset import load_webdataset

Loader = Callable[[Path, Reading], DataSplit]

# In the data folder.
_NAMED: dict[str, tuple[str, Loader]] = {
    "digits": (
        "scikit-learn's handwritten digits: 1x8x8, 10 classes, 1,297 + 500 images, no download",
        load_digits,
    ),
    "mnist": (
        "handwritten digits: 1x28x28, 10 classes, 60,000 + 10,000 images",
        partial(load_torchvision, "mnist"),
    ),
    "fashion-mnist": (
        "clothing: 1x28x28, 10 classes, 60,000 + 10,000 images",
        partial(load_torchvision, "fashion-mnist"),
    ),
    "svhn": (
        "street view house numbers: 3x32x32, 10 classes, 73,257 + 26,032 images",
        partial(load_torchvision, "svhn"),
    ),
    "cifar10": (
        "objects and animals: 3x32x32, 10 classes, 50,000 + 10,000 images",
        partial(load_torchvision, "cifar10"),
    ),
    "cifar100": (
        "objects and animals: 3x32x32, 100 classes, 50,000 + 10,000 images",
        partial(load_torchvision, "cifar100"),
    ),
    "tiny-imagenet": ("ImageNet at 3x64x64, 200 classes, 100,000 + 10,000 images", load_tiny_imagenet),
}
# At a path, named KIND:PATH.
_AT_PATH: dict[str, tuple[str, Loader]] = {
    "imagefolder": (
        "a folder PATH/train/CLASS/* with PATH/test/CLASS/*, or PATH/CLASS/* (a fifth becomes the test set)",
        load_imagefolder,
    ),
    "npz": (
        "a .npz file with the keys x_train, y_train, x_test, y_test, or train_images, train_labels, ... as MedMNIST",
        load_npz,
    ),
    "webdataset": (
        "WebDataset shards PATH/train*.tar with PATH/test*.tar, or PATH/*.tar: an image and .cls or .json per sample",
        load_webdataset,
    ),
    "hf": (
        "a folder that save_to_disk of Hugging Face's datasets wrote, with columns of type Image and ClassLabel",
        load_huggingface,
    ),
}

DATASETS: Mapping[str, str] = MappingProxyType(
    {name: text for name, (text, _) in _NAMED.items()} | {f"{kind}:PATH": text for kind, (text, _) in _AT_PATH.items()}
)
"""Every name that :func:`load_dataset` takes, with a line about each (images are train + test)."""


def load_dataset(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    size: int | None = None,
    skip_unreadable: bool = False,
    *,
    image_memory: float = IMAGE_MEMORY,
    image_disk: float = IMAGE_DISK,
) -> DataSplit:
    """Load a data set by name.

    Args:
        name: a key of ``DATASETS``, with a real path for PATH. Upper and lower case, "-" and "_" are the same.
        data_dir: the folder of named sets; default: $DREAM_ACCEL_DATA, else ~/.cache/dream_accel/data.
        download: fetch a named set that is not there. Sets given by path, and digits, have nothing to fetch.
        size: scale every image so that its shorter side has ``size`` pixels and cut out the centre, size x size;
            default: images as they are.
        skip_unreadable: leave out the files of an image folder that cannot be read; one
            :class:`dream_accel.DreamAccelWarning` counts them and names the first. Other sets are read whole or not at
            all.
        image_memory: decoded images of a folder, of shards or of a Hugging Face data set held in memory at most, GB
            (1e9 bytes). Larger sets are decoded once, into a file of the cache folder that is mapped into memory.
        image_disk: such files on disk at most, GB; those used longest ago are deleted.

    Returns:
        the training and the test set, on the CPU as uint8.

    Raises:
        DreamAccelError: an unknown name, a set that is not there, unreadable files (the first named, all counted), an
            image folder of one class, images of mixed sizes without ``size``, more pixels than there is room for, or
            arrays that :meth:`ImageSet.from_arrays` refuses.
    """
    if size is not None and size < 1:
        raise DreamAccelError(f"size is {size}; it must be a number of pixels, 1 or more")
    kind, colon, path = name.partition(":")
    kind = kind.strip().lower().replace("_", "-")
    if not colon and kind in _NAMED:
        load = _NAMED[kind][1]
        # The digits need no folder, and so no home directory.
        where = Path() if load is load_digits else default_data_dir() if data_dir is None else expanded(data_dir)
    elif path.strip() and kind in _AT_PATH:
        where, load = expanded(path), _AT_PATH[kind][1]
    else:
        raise DreamAccelError(_unknown(name, kind))
    with reading(where):
        split = load(where, Reading(download, size, skip_unreadable, PixelCache(image_memory, image_disk)))
    return resize(split, size)


def _unknown(name: str, kind: str) -> str:
    known = f"choose one of {', '.join(DATASETS)}"
    if kind in _AT_PATH:
        return f"{name!r} names no path: write {kind}:PATH"
    path = Path(os.path.expanduser(name))
    if name and os.path.exists(path):
        kind = "imagefolder" if os.path.isdir(path) else "webdataset" if path.suffix == ".tar" else "npz"
        remedy = f"{kind}:{name}"
        return f"{name!r} is a path, not a data set: write {remedy}, or {known}"
    close = difflib.get_close_matches(kind, [*_NAMED, *_AT_PATH], n=1)
    hint = f" (did you mean {close[0] if close[0] in _NAMED else close[0] + ':PATH'}?)" if close else ""
    return f"unknown data set {name!r}{hint}: {known}, or pass your own data, as in evaluate(result, data)"
