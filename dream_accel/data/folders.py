"""Data sets in folders: one folder of image files per class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import DreamAccelError
from .class_folders import Listing, class_folders, class_listing, holds_results, unread_note
from .class_names import listed, places_by_name
from .decode import image_files, read_files
from .faults import refuse_classes_without_images, warn_of_skipped
from .image_set import ImageSet
from .remarks import remarks
from .sources import naming
from .split import DataSplit
from .stratified import hold_out_test_set

_PARTS = frozenset(("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"))


def load_imagefolder(
    path: Path, download: bool = False, size: int | None = None, skip_unreadable: bool = False
) -> DataSplit:
    """Read PATH/train/CLASS/* with PATH/test/CLASS/* (or val), or PATH/CLASS/* alone.

    Without train/, a fifth of the images becomes the test set, stratified by class and drawn with seed 0 over the
    sorted paths, at least one per class. Classes are the folder names, sorted, numbers by value. The set is grey
    (C = 1) where every file is, else RGB. A test folder may lack some of the classes. The note says which files and
    folders were passed over; those with results of this program are.

    Args:
        path: PATH.
        download: has no effect; there is nothing to fetch.
        size: scale and centre-crop every image to size x size; default: images as they are, all of one size.
        skip_unreadable: leave out files that cannot be read; one warning counts them and names the first.

    Raises:
        DreamAccelError: a folder that is missing, empty or of one class, images outside class folders, unreadable files
            (the first named, all counted) or with ``skip_unreadable`` nothing else in a class, images of mixed sizes
            without ``size``, or a class with a single image where a test set is cut off.
    """
    if not path.is_dir():
        raise DreamAccelError(
            f"there is no folder {path}; imagefolder:PATH takes PATH/train/CLASS/* with PATH/test/CLASS/*, "
            "or PATH/CLASS/*"
        )
    parts = _two_parts if class_folders(path / "train") else _one_part
    return parts(path, size, skip_unreadable)


def _one_part(path: Path, size: int | None, skip_unreadable: bool) -> DataSplit:
    folders = [folder.name for folder in class_folders(path)]
    if folders and {name.lower() for name in folders} <= _PARTS:
        raise DreamAccelError(
            f"{path} has the folders {', '.join(folders)}, which are parts of a data set and no classes; write "
            "PATH/train/CLASS/* with PATH/test/CLASS/* (or val), in lower case, with a folder for every class"
        )
    found = class_listing(path)
    _refuse_one_class(path, found)
    lonely = next((c for c, count in Counter(found.labels).items() if count < 2), None)
    if lonely is not None:
        raise DreamAccelError(
            f"{path / found.names[lonely]} holds 1 image; cutting off a test set needs at least 2 per class, "
            "or folders train/ and test/"
        )
    ((pixels, labels),) = _read(((path, found),), size, skip_unreadable)
    with naming(path):
        images = ImageSet.from_arrays(pixels, labels, class_names=found.names, layout="nchw")
    train, test = hold_out_test_set(images)
    cut = f"{len(test):,} of {len(images):,} images, stratified by class with seed 0, are the test set"
    return DataSplit(f"imagefolder:{path}", train, test, remarks(train, test, cut, unread_note(path, [found])))


def _two_parts(path: Path, size: int | None, skip_unreadable: bool) -> DataSplit:
    train_path = path / "train"
    test_path = next((path / part for part in ("test", "val") if class_folders(path / part)), None)
    if test_path is None:
        raise DreamAccelError(
            f"{path} has train/ with classes but neither test/ nor val/ with classes; add one, as test/CLASS/*"
        )
    found, tests = class_listing(train_path), class_listing(test_path)
    _refuse_one_class(train_path, found)
    places = _places(found, tests, train_path, test_path)
    (pixels, labels), (test_pixels, test_labels) = _read(
        ((train_path, found), (test_path, tests)), size, skip_unreadable
    )
    with naming(train_path):
        train = ImageSet.from_arrays(pixels, labels, class_names=found.names, layout="nchw")
    with naming(test_path):
        numbers = [places[label] for label in test_labels]
        test = ImageSet.from_arrays(test_pixels, numbers, class_names=found.names, layout="nchw", allow_empty=True)
    beside = [folder for folder in class_folders(path) if folder not in (train_path, test_path)]
    left = Listing([], [], [], beside + image_files(path), [entry for entry in path.iterdir() if holds_results(entry)])
    return DataSplit(f"imagefolder:{path}", train, test, remarks(train, test, unread_note(path, [found, tests, left])))


def _read(
    parts: Sequence[tuple[Path, Listing]], size: int | None, skip_unreadable: bool
) -> list[tuple[np.ndarray, list[int]]]:
    """Pixels and labels of every part, all grey or all RGB, of the files that can be read."""
    files = [file for _, part in parts for file in part.files]
    images = read_files(files, size, skip_unreadable=skip_unreadable)
    sets, start, row = [], 0, 0
    for folder, part in parts:
        stop = start + len(part.files)
        faults = {place - start: fault for place, fault in images.faults.items() if start <= place < stop}
        refuse_classes_without_images([folder / name for name in part.names], part.labels, part.files, faults)
        labels = [label for place, label in enumerate(part.labels) if place not in faults]
        sets.append((images.pixels[row : row + len(labels)], labels))
        start, row = stop, row + len(labels)
    warn_of_skipped(files, images.faults)
    return sets


def _refuse_one_class(path: Path, found: Listing) -> None:
    if len(found.names) == 1:
        raise DreamAccelError(
            f"{path} holds one class folder, {found.names[0]}, and every network would be right about every image; "
            "at least two classes are needed, so add the others, or name the folder that holds them all"
        )


def _places(found: Listing, tests: Listing, train_path: Path, test_path: Path) -> Sequence[int]:
    """The label in the training set of every class of the test set."""
    places = places_by_name(tests.names, found.names, some=True)
    if places is None:
        unknown = next((name for name in tests.names if name not in found.names), tests.names[0])
        raise DreamAccelError(
            f"{test_path / unknown} is a class that {train_path} lacks: it has {listed(found.names)}, and {test_path} "
            f"{listed(tests.names)}; both must use the same class folders"
        )
    return places
