"""Labelled image files of a training set and perhaps a test set, read into a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import torch

from ..errors import DreamAccelError
from .decode import ImageFile, read_files
from .faults import Fault, refuse_classes_without_images, warn_of_skipped
from .image_set import ImageSet
from .remarks import remarks
from .sources import Reading, naming
from .split import DataSplit
from .stratified import held_out_rows


class LabelledFiles(NamedTuple):
    """The image files of a training or a test set.

    Attributes:
        source: where they are, the beginning of refusals.
        files: the images.
        labels: of the files, 0..C-1.
        classes: what a refusal calls each class, by its label.
    """

    source: object
    files: Sequence[ImageFile]
    labels: Sequence[int]
    classes: Mapping[int, object]


def read_split(
    name: str,
    class_names: Sequence[str],
    train: LabelledFiles,
    test: LabelledFiles | None,
    how: Reading,
    on_disk: Iterable[Path],
    *notes: str,
) -> DataSplit:
    """Read a data set from its image files; grey (C = 1) where every file is, else RGB.

    Args:
        name: of the data set.
        class_names: one per class.
        train: the training images, of every class.
        test: the test images, which may lack some of the classes; default: a fifth of the training images that can be
            read, stratified by class and drawn with seed 0, at least one per class.
        how: how they are read.
        on_disk: the files that all images are in, by which pixels that an earlier run has decoded are found.
        notes: lines about the set.

    Raises:
        DreamAccelError: files that cannot be read (the first named, all counted), or with ``how.skip_unreadable``
            nothing else in a class; images of mixed sizes without ``how.size``; more pixels than ``how.cache`` has
            room for; or a class with a single image where a test set is cut off.
    """
    parts = [train] if test is None else [train, test]
    files = [file for part in parts for file in part.files]
    labels = torch.tensor([label for part in parts for label in part.labels])
    if test is None:
        _refuse_lonely(train, train.labels)

    def held_out(readable: list[int]) -> list[bool]:
        """Whether each of the files that can be read is a test image."""
        if test is not None:
            return [place >= len(train.files) for place in readable]
        chosen = set(held_out_rows(labels[readable], len(class_names)).tolist())
        return [row in chosen for row in range(len(readable))]

    def training_first(readable: list[int]) -> list[int]:
        tests = held_out(readable)
        return [*compress(readable, (not is_test for is_test in tests)), *compress(readable, tests)]

    entry = how.cache.entry(name, on_disk, how.size, test is None)
    images = read_files(files, how.size, None, how.skip_unreadable, training_first, entry)
    _refuse_empty_classes(parts, images.faults)
    readable = [place for place in range(len(files)) if place not in images.faults]
    if test is None:
        _refuse_lonely(train, labels[readable].tolist())
    warn_of_skipped(files, images.faults)

    numbers, n_test = labels[training_first(readable)], sum(held_out(readable))
    rows = slice(len(readable) - n_test), slice(len(readable) - n_test, None)
    sets: list[ImageSet] = []
    for part, own in zip((train, test or train), rows, strict=True):
        pixels = torch.from_numpy(images.pixels[own])
        with naming(part.source):  # the second set may lack classes
            sets.append(
                ImageSet.from_arrays(pixels, numbers[own], None, class_names, layout="nchw", allow_empty=bool(sets))
            )
    if test is None:
        notes = (f"{n_test:,} of {len(readable):,} images, stratified by class with seed 0, are the test set", *notes)
    return DataSplit(name, sets[0], sets[1], remarks(sets[0], sets[1], *notes))


def _refuse_empty_classes(parts: Sequence[LabelledFiles], faults: Mapping[int, Fault]) -> None:
    start = 0
    for part in parts:
        own = {place - start: fault for place, fault in faults.items() if 0 <= place - start < len(part.files)}
        refuse_classes_without_images(part.classes, part.labels, part.files, own)
        start += len(part.files)


def _refuse_lonely(part: LabelledFiles, labels: Sequence[int]) -> None:
    lonely = min((label for label, count in Counter(labels).items() if count < 2), default=None)
    if lonely is not None:
        raise DreamAccelError(
            f"{part.classes[lonely]} holds 1 image; cutting off a test set needs at least 2 per class, or a test set "
            "of its own"
        )
