"""Folders of image files, one per class: what is in them, what is read of it, and what is passed over."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..errors import DreamAccelError
from ..runtime.folders import LOCK_FILE
from .class_names import in_order
from .decode import image_files, is_image

_RESULTS = frozenset(("distilled.safetensors", "checkpoint.safetensors", "selected.csv", LOCK_FILE))
"""Files by which a folder is known as one that this program wrote."""
_RUNS = "runs"
"""The folder in which runs get theirs by default."""
_LITTER = frozenset(("thumbs.db", "desktop.ini"))
"""Files that file managers leave, which are not worth a word."""


class Listing(NamedTuple):
    """The classes of a folder.

    Attributes:
        names: of the class folders, in the order of the labels.
        files: the image files of all classes.
        labels: the label of each file.
        unread: files and folders that are passed over.
        results: folders with results of this program, which are passed over.
    """

    names: list[str]
    files: list[Path]
    labels: list[int]
    unread: list[Path]
    results: list[Path]


def class_folders(path: Path) -> list[Path]:
    """The folders in ``path`` in the order of their names, without hidden ones and those with results of a run."""
    folders = {entry.name: entry for entry in _entries(path) if entry.is_dir() and not holds_results(entry)}
    return [folders[name] for name in in_order(folders)]


def class_listing(root: Path) -> Listing:
    """The class folders in ``root`` and their image files.

    Raises:
        DreamAccelError: there are no class folders, or one of them holds no image files.
    """
    folders = class_folders(root)
    if not folders:
        raise DreamAccelError(
            f"{root} holds no class folders; imagefolder:PATH takes PATH/train/CLASS/* with "
            "PATH/test/CLASS/*, or PATH/CLASS/*"
        )
    files: list[Path] = []
    labels: list[int] = []
    unread = image_files(root)
    for label, folder in enumerate(folders):
        entries = _entries(folder)
        found = [entry for entry in entries if is_image(entry)]
        others = [entry for entry in entries if not is_image(entry)]
        if not found:
            raise _without_images(folder, others)
        files += found
        labels += [label] * len(found)
        unread += others
    results = [entry for entry in _entries(root) if holds_results(entry)]
    if results:  # a preview beside them is one of theirs
        unread = [path for path in unread if path.parent != root or path.name != "preview.png"]
    return Listing([folder.name for folder in folders], files, labels, unread, results)


def holds_results(folder: Path) -> bool:
    """Return True for a folder that this program wrote, and for one that holds such folders."""
    if not folder.is_dir() or folder.name.startswith("."):
        return False
    if any((folder / name).is_file() for name in _RESULTS):
        return True
    if any(map(is_image, folder.iterdir())):  # ends at the first image of a class
        return False
    # A run takes its folder before it reads the data, so that runs/ may hold nothing but an empty folder.
    inner = [entry for entry in _entries(folder) if entry.is_dir()]
    return folder.name == _RUNS or any((entry / name).is_file() for entry in inner for name in _RESULTS)


def unread_note(root: Path, listings: Iterable[Listing]) -> str:
    """Files and folders that were passed over, for the note of a data set; empty if everything was read."""
    listings = list(listings)
    unread = [path for listing in listings for path in listing.unread]
    folders = [path for path in unread if path.is_dir()]
    files = [path for path in unread if not path.is_dir()]
    results = [path for listing in listings for path in listing.results]
    parts = []
    if files:
        kinds = ", ".join(sorted({path.suffix.lower() or "no suffix" for path in files}))
        parts.append(f"{_counted(files, 'file')} ({kinds}; {_below(root, files[0])}{' first' * (len(files) > 1)})")
    if folders:
        parts.append(f"{_counted(folders, 'folder')} inside or beside class folders ({_below(root, folders[0])})")
    if results:
        parts.append(f"results of this program ({', '.join(_below(root, path) for path in results[:3])})")
    return f"passed over: {', '.join(parts)}" if parts else ""


def _entries(path: Path) -> list[Path]:
    """Entries of a folder, sorted by name, without hidden ones and those that file managers leave."""
    if not path.is_dir():
        return []
    visible = (entry for entry in path.iterdir() if not entry.name.startswith("."))
    return sorted((entry for entry in visible if entry.name.lower() not in _LITTER), key=lambda entry: entry.name)


def _without_images(folder: Path, others: list[Path]) -> DreamAccelError:
    inner = next((entry for entry in others if entry.is_dir()), None)
    if inner is not None:
        held = f"but {inner.name}/, and subfolders of a class are not read"
        remedy = "move its images up, or name the folder that holds the class folders"
    elif others:
        held, remedy = f"that can be read, but {others[0].name}", "convert them to PNG or JPEG"
    else:
        held, remedy = "at all", "put images into it or move it elsewhere"
    return DreamAccelError(f"{folder} holds no image files {held}; every class needs at least one, so {remedy}")


def _counted(paths: list[Path], noun: str) -> str:
    return f"{len(paths):,} {noun}{'s' * (len(paths) != 1)}"


def _below(root: Path, path: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name
