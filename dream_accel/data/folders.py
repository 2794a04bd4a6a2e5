"""Data sets in folders: one folder of image files per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import DreamAccelError
from .class_folders import Listing, class_folders, class_listing, holds_results, unread_note
from .class_names import listed, places_by_name
from .decode import image_files
from .labelled_files import LabelledFiles, read_split
from .sources import Reading
from .split import DataSplit

_PARTS = frozenset(("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"))


def load_imagefolder(path: Path, how: Reading) -> DataSplit:
    """Read PATH/train/CLASS/* with PATH/test/CLASS/* (or val), or PATH/CLASS/* alone.

    Without train/, a fifth of the images becomes the test set, stratified by class and drawn with seed 0 over the
    sorted paths, at least one per class. Classes are the folder names, sorted, numbers by value. The set is grey
    (C = 1) where every file is, else RGB. A test folder may lack some of the classes. The note says which files and
    folders were passed over; those with results of this program are.

    Args:
        path: PATH.
        how: its size, whether unreadable files are left out, and where the pixels are held.

    Raises:
        DreamAccelError: a folder that is missing, empty or of one class, images outside class folders, or files that
            :func:`read_split` refuses.
    """
    if not path.is_dir():
        raise DreamAccelError(
            f"there is no folder {path}; imagefolder:PATH takes PATH/train/CLASS/* with PATH/test/CLASS/*, "
            "or PATH/CLASS/*"
        )
    parts = _two_parts if class_folders(path / "train") else _one_part
    return parts(path, how)


def _one_part(path: Path, how: Reading) -> DataSplit:
    folders = [folder.name for folder in class_folders(path)]
    if folders and {name.lower() for name in folders} <= _PARTS:
        raise DreamAccelError(
            f"{path} has the folders {', '.join(folders)}, which are parts of a data set and no classes; write "
            "PATH/train/CLASS/* with PATH/test/CLASS/* (or val), in lower case, with a folder for every class"
        )
    found = class_listing(path)
    _refuse_one_class(path, found)
    note = unread_note(path, [found])
    return read_split(f"imagefolder:{path}", found.names, _files(path, found), None, how, found.files, note)


def _two_parts(path: Path, how: Reading) -> DataSplit:
    train_path = path / "train"
    test_path = next((path / part for part in ("test", "val") if class_folders(path / part)), None)
    if test_path is None:
        raise DreamAccelError(
            f"{path} has train/ with classes but neither test/ nor val/ with classes; add one, as test/CLASS/*"
        )
    found, tests = class_listing(train_path), class_listing(test_path)
    _refuse_one_class(train_path, found)
    places = _places(found, tests, train_path, test_path)
    beside = [folder for folder in class_folders(path) if folder not in (train_path, test_path)]
    left = Listing([], [], [], beside + image_files(path), [entry for entry in path.iterdir() if holds_results(entry)])
    return read_split(
        f"imagefolder:{path}",
        found.names,
        _files(train_path, found),
        _files(test_path, tests, places),
        how,
        found.files + tests.files,
        unread_note(path, [found, tests, left]),
    )


def _files(path: Path, found: Listing, places: Sequence[int] | None = None) -> LabelledFiles:
    """The files of a listing, with labels by the places of its classes."""
    places = range(len(found.names)) if places is None else places
    classes = {place: path / name for place, name in zip(places, found.names, strict=True)}
    return LabelledFiles(path, found.files, [places[label] for label in found.labels], classes)


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
