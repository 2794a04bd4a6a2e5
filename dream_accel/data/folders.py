"""Data sets in folders: one folder of image files per class."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ..errors import DreamAccelError
from .decode import common_form, decode, image_files
from .image_set import ImageSet
from .split import DataSplit
from .stratified import hold_out_test_set


def load_imagefolder(path: Path, download: bool = False, size: int | None = None) -> DataSplit:
    """Read PATH/train/CLASS/* with PATH/test/CLASS/* (or val), or PATH/CLASS/* alone.

    Without train/, a fifth of the images becomes the test set, stratified by class and drawn with seed 0 over the
    sorted paths, at least one per class. Classes are the folder names, sorted. The set is grey (C = 1) where every file
    is, else RGB. A test folder may lack some of the classes.

    Args:
        path: PATH.
        download: has no effect; there is nothing to fetch.
        size: scale and centre-crop every image to size x size; default: images as they are, all of one size.

    Raises:
        DreamAccelError: a folder that is missing or empty, an unreadable file, images of mixed sizes without ``size``,
            or a class with a single image where a test set is cut off.
    """
    if not path.is_dir():
        raise DreamAccelError(
            f"there is no folder {path}; imagefolder:PATH takes PATH/train/CLASS/* with PATH/test/CLASS/*, "
            "or PATH/CLASS/*"
        )
    name = f"imagefolder:{path}"
    if not class_folders(path / "train"):
        names, files, labels = class_listing(path)
        mode = common_form(files, any_size=size is not None)
        lonely = next((c for c, count in Counter(labels).items() if count < 2), None)
        if lonely is not None:
            raise DreamAccelError(
                f"{path / names[lonely]} holds 1 image; cutting off a test set needs at least 2 per class, "
                "or folders train/ and test/"
            )
        images = ImageSet.from_arrays(decode(files, mode, size), labels, class_names=names, layout="nchw")
        train, test = hold_out_test_set(images)
        note = f"{len(test):,} of {len(images):,} images, stratified by class with seed 0, are the test set"
        return DataSplit(name, train, test, note)

    test_path = next((path / part for part in ("test", "val") if class_folders(path / part)), None)
    if test_path is None:
        raise DreamAccelError(
            f"{path} has train/ with classes but neither test/ nor val/ with classes; add one, as test/CLASS/*"
        )
    names, files, labels = class_listing(path / "train")
    test_names, test_files, test_labels = class_listing(test_path)
    unknown = next((test_name for test_name in test_names if test_name not in names), None)
    if unknown is not None:
        raise DreamAccelError(
            f"{test_path / unknown} is a class that {path / 'train'} lacks; both must use the same class folders"
        )
    mode = common_form(files + test_files, any_size=size is not None)
    train = ImageSet.from_arrays(decode(files, mode, size), labels, class_names=names, layout="nchw")
    known = [names.index(test_names[label]) for label in test_labels]
    test = ImageSet.from_arrays(
        decode(test_files, mode, size), known, class_names=names, layout="nchw", allow_empty=True
    )
    return DataSplit(name, train, test)


def class_folders(path: Path) -> list[Path]:
    """The folders in ``path``, sorted by name, without hidden ones."""
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def class_listing(root: Path) -> tuple[list[str], list[Path], list[int]]:
    """Names of the class folders, the image files of all classes, and the label of each file."""
    folders = class_folders(root)
    if not folders:
        raise DreamAccelError(
            f"{root} holds no class folders; imagefolder:PATH takes PATH/train/CLASS/* with "
            "PATH/test/CLASS/*, or PATH/CLASS/*"
        )
    files: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = image_files(folder)
        if not found:
            raise DreamAccelError(
                f"{folder} holds no image files (subfolders do not count); every class needs at least one, "
                "so fill or remove the folder"
            )
        files += found
        labels += [label] * len(found)
    return [folder.name for folder in folders], files, labels
