"""Data sets in torchvision's folder layouts, read through the arrays of its classes without iterating over samples."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ..errors import DreamAccelError
from .image_set import ImageSet
from .sources import Reading, naming, not_found, require
from .split import DataSplit

_DIGITS = tuple("0123456789")
_CIFAR10_PARTS = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")


@dataclass(frozen=True)
class _Set:
    class_name: str  # in torchvision.datasets
    files: tuple[str, ...]  # what torchvision reads, relative to the data folder
    names: tuple[str, ...] | None  # None: torchvision's own


def _idx_files(folder: str) -> tuple[str, ...]:
    parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(f"{folder}/raw/{part}-ubyte" for part in parts)


_SETS = {
    "mnist": _Set("MNIST", _idx_files("MNIST"), _DIGITS),
    "fashion-mnist": _Set("FashionMNIST", _idx_files("FashionMNIST"), None),
    "svhn": _Set("SVHN", ("train_32x32.mat", "test_32x32.mat"), _DIGITS),
    "cifar10": _Set(
        "CIFAR10",
        tuple(f"cifar-10-batches-py/{part}" for part in _CIFAR10_PARTS),
        None,
    ),
    "cifar100": _Set("CIFAR100", tuple(f"cifar-100-python/{part}" for part in ("train", "test", "meta")), None),
}


def load_torchvision(name: str, data_dir: Path, how: Reading) -> DataSplit:
    """MNIST, FashionMNIST, SVHN, CIFAR-10 or CIFAR-100 in the official order and split.

    Args:
        name: a key of the table above.
        data_dir: torchvision's ``root``.
        how: whether files that are missing are fetched.

    Raises:
        DreamAccelError: torchvision or a file is missing, a file is damaged (named), or the download failed.
    """
    known = _SETS[name]
    datasets = require("torchvision.datasets", "torchvision", f"the {name} data set")
    missing = next((path for path in (data_dir / file for file in known.files) if not path.exists()), None)
    if missing is not None and not how.download:
        raise not_found(name, data_dir, missing)
    train, test = (
        _read(name, getattr(datasets, known.class_name), data_dir, is_train, how.download) for is_train in (True, False)
    )
    names = known.names or tuple(train.classes)
    with naming(f"{name} in {data_dir}"):
        train_set, test_set = (
            ImageSet.from_arrays(part.data, _labels(part), class_names=names) for part in (train, test)
        )
        return DataSplit(name, train_set, test_set)


def _read(name: str, dataset: Any, data_dir: Path, train: bool, download: bool) -> Any:
    which = {"split": "train" if train else "test"} if name == "svhn" else {"train": train}
    try:
        return dataset(root=str(data_dir), download=download, **which)
    except PermissionError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        damaged = _damaged(dataset, data_dir, _SETS[name].files)
        if damaged is not None:
            raise DreamAccelError(
                f"{damaged} is damaged or incomplete; delete it and fetch {name} again with --download (download=True)"
            ) from error
        if download:
            raise DreamAccelError(
                f"{name} could not be fetched to {data_dir} ({reason}); check the network and the folder, "
                "or copy the files there by hand"
            ) from error
        raise DreamAccelError(
            f"{name} in {data_dir} cannot be read ({reason}); fetch it again with --download (download=True)"
        ) from error


def _labels(dataset: Any) -> Any:
    return dataset.labels if hasattr(dataset, "labels") else dataset.targets


def _damaged(dataset: Any, data_dir: Path, files: tuple[str, ...]) -> Path | None:
    """The first file whose content disagrees with torchvision's checksum for it, or with its idx header."""
    integrity = require("torchvision.datasets.utils", "torchvision", "checking files").check_integrity
    listed = [*getattr(dataset, "train_list", ()), *getattr(dataset, "test_list", ())]
    listed += [entry[1:] for entry in getattr(dataset, "split_list", {}).values()]
    if isinstance(meta := getattr(dataset, "meta", None), dict):
        listed.append((meta["filename"], meta["md5"]))
    checksums = {entry[0]: entry[1] for entry in listed}
    for path in (data_dir / file for file in files):
        if not path.is_file():
            continue
        md5 = checksums.get(path.name)
        if (md5 is not None and not integrity(str(path), md5)) or (
            path.name.endswith("-ubyte") and not _idx_is_whole(path)
        ):
            return path
    return None


def _idx_is_whole(path: Path) -> bool:
    """An idx file of bytes: magic 0 0 8 n, then n big-endian sizes, then their product of bytes."""
    with path.open("rb") as file:
        magic = file.read(4)
        sizes = file.read(4 * magic[3]) if len(magic) == 4 else b""
    if magic[:3] != b"\0\0\x08" or len(sizes) != 4 * magic[3]:
        return False
    shape = [int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4)]
    return path.stat().st_size == 4 + len(sizes) + prod(shape)
