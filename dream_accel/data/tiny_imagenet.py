"""Tiny-ImageNet in the folder layout of its official zip, decoded once and kept as one .npz beside it."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np

from ..errors import DreamAccelError, DreamAccelWarning
from .decode import image_files, read_files
from .image_set import ImageSet
from .npz import read_npz
from .sources import Reading, naming, not_found, require, write_npz
from .split import DataSplit

FOLDER = "tiny-imagenet-200"
KEYS = ("x_train", "y_train", "x_test", "y_test")
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


def load_tiny_imagenet(data_dir: Path, how: Reading) -> DataSplit:
    """200 classes, 3x64x64, 100,000 training images; the official validation images are the test set.

    The official test images have no labels. Classes are the WordNet ids, sorted, named by the first word that words.txt
    gives for them, where that file exists.

    Args:
        data_dir: contains the folder ``tiny-imagenet-200``, or its cache ``tiny-imagenet-200.npz``.
        how: whether the official zip is fetched and unpacked where neither is there.

    Raises:
        DreamAccelError: the folder is missing or incomplete, a file is damaged (named), or the download failed.
    """
    folder, cache = data_dir / FOLDER, data_dir / f"{FOLDER}.npz"
    if cache.is_file():
        arrays = read_npz(cache, (*KEYS, "class_names"))
    else:
        if not folder.is_dir() and how.download:
            _fetch(data_dir)
        if not folder.is_dir():
            raise not_found("tiny-imagenet", data_dir, folder)
        arrays = _decode_folder(folder)
        try:
            write_npz(cache, **arrays)
        except OSError as error:
            warnings.warn(
                f"{cache} cannot be written ({error}), so {folder} will be decoded again next time",
                DreamAccelWarning,
                stacklevel=2,
            )
    missing = [key for key in (*KEYS, "class_names") if key not in arrays]
    if missing:
        raise DreamAccelError(f"{cache} lacks {', '.join(missing)}; delete it to have {folder} decoded again")
    names = [str(name) for name in arrays["class_names"]]
    with naming(cache):
        train = ImageSet.from_arrays(arrays["x_train"], arrays["y_train"], class_names=names, layout="nchw")
        test = ImageSet.from_arrays(
            arrays["x_test"], arrays["y_test"], class_names=names, layout="nchw", allow_empty=True
        )
    return DataSplit("tiny-imagenet", train, test)


def _decode_folder(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of the cache. A folder with files missing, as an interrupted unzip leaves it, is refused."""
    train_folder, annotations = folder / "train", folder / "val" / "val_annotations.txt"
    if (folder / "wnids.txt").is_file():
        wnids = sorted(_lines(folder / "wnids.txt"))
    else:
        wnids = sorted(path.parent.name for path in train_folder.glob("*/images"))
    if not wnids or not annotations.is_file():
        lost = annotations if wnids else train_folder
        raise DreamAccelError(f"{folder} is incomplete: {lost} is missing; unpack {URL} again")

    train_files: list[Path] = []
    train_labels: list[int] = []
    for label, wnid in enumerate(wnids):
        files = image_files(train_folder / wnid / "images")
        boxes = train_folder / wnid / f"{wnid}_boxes.txt"
        expected = len(_lines(boxes)) if boxes.is_file() else max(1, len(files))
        if len(files) != expected:
            raise DreamAccelError(
                f"{folder} is incomplete: {train_folder / wnid / 'images'} holds {len(files)} images "
                f"instead of {expected}; unpack {URL} again"
            )
        train_files += files
        train_labels += [label] * len(files)

    index = {wnid: label for label, wnid in enumerate(wnids)}
    rows = [line.split("\t") for line in _lines(annotations)]
    bad = next((row for row in rows if len(row) < 2 or row[1] not in index), None)
    if bad is not None or not rows:
        raise DreamAccelError(
            f"{annotations} is damaged: {bad or 'no line'} is not FILE<tab>WNID of a class in train/; "
            f"unpack {URL} again"
        )
    test_files = [folder / "val" / "images" / row[0] for row in rows]
    return {
        "x_train": read_files(train_files, mode="RGB").pixels,
        "y_train": np.array(train_labels, np.int64),
        "x_test": read_files(test_files, mode="RGB").pixels,
        "y_test": np.array([index[row[1]] for row in rows], np.int64),
        "class_names": np.array(_class_names(folder, wnids)),
    }


def _class_names(folder: Path, wnids: list[str]) -> list[str]:
    path = folder / "words.txt"
    lines = _lines(path) if path.is_file() else []
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return [words.get(wnid, wnid).split(",")[0] for wnid in wnids]


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    except PermissionError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise DreamAccelError(f"{path} cannot be read ({error}); unpack {URL} again") from error


def _fetch(data_dir: Path) -> None:
    """Download, check and unpack. The folder gets its name only when it is complete."""
    utils = require("torchvision.datasets.utils", "torchvision", "downloading tiny-imagenet")
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=f".{FOLDER}.") as unpacked:
            utils.download_and_extract_archive(URL, str(data_dir), unpacked, filename=f"{FOLDER}.zip", md5=MD5)
            Path(unpacked, FOLDER).rename(data_dir / FOLDER)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DreamAccelError(
            f"tiny-imagenet could not be fetched to {data_dir} ({reason}); check the network and the "
            f"folder, or unpack {URL} there by hand"
        ) from error
