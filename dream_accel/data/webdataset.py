"""Data sets in WebDataset shards: tar files in which the files of a sample share their name up to the first dot."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from ..errors import DreamAccelError
from .decode import suffixes
from .labelled_files import LabelledFiles, read_split
from .sources import Reading
from .split import DataSplit

CLASS_NAMES = "classes.txt"
"""Names of the classes beside the shards, a line each."""
_FORM = "webdataset:PATH takes a folder of train*.tar with test*.tar or val*.tar, or of *.tar, or one .tar file"
_END = bytes(2 * tarfile.BLOCKSIZE)
_GZIP = b"\x1f\x8b"


def load_webdataset(path: Path, how: Reading) -> DataSplit:
    """Read PATH/train*.tar with PATH/test*.tar (or val*.tar), or PATH/*.tar, or the one shard PATH.

    Shards may also lie in PATH/train/ and PATH/test/. Without a test set a fifth of the images becomes it, as in an
    image folder. A sample is one image beside its label: an integer in ``.cls``, or as ``label`` or ``cls`` in
    ``.json``; files of other kinds are passed over. Images are read at their place in the shard; nothing is unpacked.

    Args:
        path: PATH.
        how: its size, whether unreadable images are left out, and where the pixels are held.

    Raises:
        DreamAccelError: no shards, one that ends early or is compressed, a sample without a label or with several
            images, labels beyond ``classes.txt``, or images that :func:`read_split` refuses.
    """
    train_shards, test_shards = _shards(path)
    train = _samples(path, train_shards)
    test = _samples(path, test_shards) if test_shards else None
    highest = max(train.labels)
    listed = path / CLASS_NAMES
    names = tuple(map(str, range(highest + 1)))
    if listed.is_file():
        try:
            names = tuple(listed.read_text(encoding="utf-8").splitlines())
        except UnicodeDecodeError as error:
            raise DreamAccelError(f"{listed} is no text in UTF-8 ({error}); write a class name per line") from error
    for part in (train, test) if test else (train,):
        if max(part.labels) >= len(names):
            known = f"{listed} names {len(names)}" if listed.is_file() else f"the training set has {len(names)}"
            raise DreamAccelError(
                f"{part.classes[max(part.labels)]} is beyond the classes: {known}; labels are 0..C-1, the same in both "
                "sets"
            )
    on_disk = [*train_shards, *test_shards, *([listed] if listed.is_file() else [])]
    return read_split(f"webdataset:{path}", names, train, test, how, on_disk)


class Member(NamedTuple):
    """A file within a tar file that is not compressed."""

    shard: Path
    name: str
    start: int
    size: int

    def open(self, mode: Literal["rb"] = "rb", /) -> BinaryIO:
        """Read it into memory, as a file."""
        with self.shard.open(mode) as file:
            file.seek(self.start)
            return io.BytesIO(file.read(self.size))

    def __str__(self) -> str:
        return f"{self.shard}, {self.name}"


def _shards(path: Path) -> tuple[list[Path], list[Path]]:
    if path.is_file():
        return [path], []
    if not path.is_dir():
        raise DreamAccelError(f"there is no file or folder {path}; {_FORM}")
    train = _of_part(path, "train")
    test = next((found for part in ("test", "val") if (found := _of_part(path, part))), [])
    if train and test:
        return train, test
    shards = sorted(path.glob("*.tar"))
    if train or test or not shards:
        held = f"{'training' if train else 'test'} shards alone" if train or test else "no .tar files"
        raise DreamAccelError(f"{path} holds {held}; {_FORM}")
    return shards, []


def _of_part(path: Path, part: str) -> list[Path]:
    return [*sorted(path.glob(f"{part}*.tar")), *sorted((path / part).glob("*.tar"))]


def _samples(path: Path, shards: list[Path]) -> LabelledFiles:
    files: list[Member] = []
    labels: list[int] = []
    for shard in shards:
        for sample, members in groupby(_members(shard), key=lambda member: _sample(member.name)):
            by_kind = {member.name[len(sample) + 1 :].lower(): member for member in members}
            images = [member for kind, member in by_kind.items() if f".{kind}" in suffixes()]
            if not images:
                continue
            if len(images) > 1:
                raise DreamAccelError(
                    f"{shard}, sample {sample} has {len(images)} images ({', '.join(image.name for image in images)}); "
                    "a sample is one image and its label, so write the others with another suffix, as .seg.png"
                )
            files.append(images[0])
            labels.append(_label(shard, sample, by_kind))
    if not files:
        raise DreamAccelError(f"{shards[0]} holds no image beside a label in .cls or .json; {_FORM}")
    classes = {label: f"{path}: class {label}" for label in set(labels)}
    return LabelledFiles(path, files, labels, classes)


def _sample(name: str) -> str:
    """The name up to the first dot behind the last folder."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def _members(shard: Path) -> Iterator[Member]:
    with shard.open("rb") as file:
        file.seek(max(0, file.seek(0, io.SEEK_END) - len(_END)))
        whole = file.read() == _END
        file.seek(0)
        compressed = file.read(len(_GZIP)) == _GZIP
    if not whole:
        raise DreamAccelError(
            f"{shard} is compressed, and images are read at their place in it; unpack it to a plain .tar"
            if compressed
            else f"{shard} ends early or is no tar file: the mark at its end is missing; write or copy it again"
        )
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if member.isfile():
                    yield Member(shard, member.name, member.offset_data, member.size)
    except tarfile.TarError as error:
        raise DreamAccelError(f"{shard} cannot be read ({error}); write or copy it again") from error


def _label(shard: Path, sample: str, by_kind: dict[str, Member]) -> int:
    readers: dict[str, Callable[[str], object]] = {"cls": int, "json": _of_json}
    kind = next((kind for kind in readers if kind in by_kind), None)
    if kind is None:
        raise DreamAccelError(
            f"{shard}, sample {sample} has no label: it has {', '.join(by_kind)}; every image needs an integer beside "
            "it, in .cls or as label in .json"
        )
    try:
        label = readers[kind](by_kind[kind].open().read().decode())
    except ValueError:
        label = None
    if not isinstance(label, int) or isinstance(label, bool) or label < 0:
        raise DreamAccelError(f"{by_kind[kind]} holds no label; allowed are integers 0..C-1")
    return label


def _of_json(text: str) -> object:
    held = json.loads(text)
    return held.get("label", held.get("cls")) if isinstance(held, dict) else held
