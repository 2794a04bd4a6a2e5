"""Data sets of Hugging Face's library ``datasets``, in the folder that ``save_to_disk`` writes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from ..errors import DreamAccelError
from .class_names import listed
from .labelled_files import LabelledFiles, read_split
from .sources import Reading, require
from .split import DataSplit

_TEST = ("test", "validation", "valid", "val")
_IMAGES = ("image", "img")
_LABELS = ("label", "labels", "fine_label")


def load_huggingface(path: Path, how: Reading) -> DataSplit:
    """Read a folder that ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` wrote.

    The training set is the split ``train`` and the test set ``test``, or else ``validation``; of a single split a fifth
    becomes the test set, as in an image folder. Images are the column of type Image, labels that of type ClassLabel,
    whose names name the classes; among several, ``image`` and ``label``.

    Args:
        path: the folder.
        how: its size, whether unreadable images are left out, and where the pixels are held.

    Raises:
        DreamAccelError: ``datasets`` cannot be imported; no such folder; several splits, none of them for training or
            none for testing; no column of either type, or several; labels that are missing; or images that
            :func:`read_split` refuses.
    """
    datasets = require("datasets", "datasets", "hf:PATH")
    try:
        held = datasets.load_from_disk(str(path))
    except Exception as error:  # the library raises many kinds on damaged folders
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DreamAccelError(
            f"{path} cannot be read as a data set of Hugging Face ({reason}); hf:PATH takes the folder that "
            "save_to_disk(PATH) writes"
        ) from error
    splits = dict(held) if isinstance(held, datasets.DatasetDict) else {"train": held}
    train = next(iter(splits)) if len(splits) == 1 else "train"
    test = next((name for name in _TEST if name in splits), None) if len(splits) > 1 else None
    if train not in splits or (len(splits) > 1 and test is None):
        raise DreamAccelError(f"{path} has the splits {', '.join(splits)}; needed are train, and test or validation")
    names = _class_names(datasets, path, splits[train])
    if test is not None and (others := _class_names(datasets, path, splits[test])) != names:
        raise DreamAccelError(
            f"{path} has the classes {listed(names, others)} in {train} and {listed(others, names)} in {test}; both "
            "splits must number the same classes alike, which cast_column to one ClassLabel brings about"
        )
    parts = {name: _files(datasets, path, name, splits[name]) for name in (train, test) if name is not None}
    on_disk = [file for file in sorted(path.rglob("*")) if file.is_file()]
    unread = [name for name in splits if name not in (train, test)]
    note = f"left unused: the splits {', '.join(unread)}" if unread else ""
    return read_split(f"hf:{path}", names, parts[train], parts[test] if test else None, how, on_disk, note)


class _Cell(NamedTuple):
    """An image in a column whose images are not decoded: bytes, or the path of a file."""

    name: str
    rows: Any
    column: str
    row: int

    def open(self, mode: Literal["rb"] = "rb", /) -> BinaryIO:
        held = self.rows[self.row][self.column]
        if held is None:
            raise ValueError("there is none")
        return io.BytesIO(held["bytes"]) if held["bytes"] is not None else Path(held["path"]).open(mode)

    def __str__(self) -> str:
        return f"{self.name}, row {self.row}"


def _files(datasets: Any, path: Path, split: str, rows: Any) -> LabelledFiles:
    images = _column(path, rows, datasets.Image, _IMAGES)
    label_column = _column(path, rows, datasets.ClassLabel, _LABELS)
    labels = list(rows.select_columns([label_column])[:][label_column])
    wrong = next((i for i, label in enumerate(labels) if label is None or label < 0), None)
    if wrong is not None:
        raise DreamAccelError(
            f"{path}, {split}, row {wrong} has no label ({labels[wrong]}); leave out such rows, as "
            f"dataset.filter(lambda row: row[{label_column!r}] is not None and row[{label_column!r}] >= 0)"
        )
    undecoded = rows.select_columns([images]).cast_column(images, datasets.Image(decode=False))
    cells = [_Cell(f"{path}, {split}", undecoded, images, row) for row in range(len(labels))]
    names = rows.features[label_column].names
    return LabelledFiles(path, cells, labels, {label: f"{path}, {split}: {names[label]}" for label in set(labels)})


def _class_names(datasets: Any, path: Path, rows: Any) -> tuple[str, ...]:
    return tuple(rows.features[_column(path, rows, datasets.ClassLabel, _LABELS)].names)


def _column(path: Path, rows: Any, kind: Any, preferred: tuple[str, ...]) -> str:
    found = [name for name, feature in rows.features.items() if isinstance(feature, kind)]
    chosen = next((name for name in preferred if name in found), found[0] if len(found) == 1 else None)
    if chosen is None:
        raise DreamAccelError(
            f"{path} has {', '.join(found) if found else 'no column'} of type {kind.__name__}, among the columns "
            f"{', '.join(rows.features)}; rename one to {preferred[0]!r}, or cast it with cast_column"
        )
    return chosen
