"""Stratified choices of rows: subsets of a set, and the train/test cut of sets that come without one."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import DreamAccelError
from ..random import hash_rows
from .convert import resize_and_crop
from .image_set import DataSplit, ImageSet

SetOrSplit = TypeVar("SetOrSplit", ImageSet, DataSplit)


def subset(data: SetOrSplit, n: int, seed: int = 0) -> SetOrSplit:
    """A seeded stratified subset of n images; of a DataSplit, n training images beside the whole test set.

    Class shares stay as near to the full set's as whole images allow, every class keeps at least one image,
    and the images keep their order. The same seed gives the same subset on every device and in every version
    of PyTorch and NumPy. Raises DreamAccelError unless n_classes <= n <= len(set).
    """
    if isinstance(data, DataSplit):
        return replace(data, train=subset(data.train, n, seed))
    return data.take(stratified_rows(data, n, int(seed)))


def resize(split: DataSplit, size: int | None) -> DataSplit:
    """The split with every image scaled and centre-cropped to ``size`` x ``size`` pixels; as it is for None."""
    if size is None:
        return split
    train, test = (replace(images, images=resize_and_crop(images.images, size)) for images in (split.train, split.test))
    return replace(split, train=train, test=test)


def stratified_rows(images: ImageSet, n: int, seed: int) -> Tensor:
    """The rows ``subset`` keeps, ascending, (n,) int64 on the CPU."""
    if not images.n_classes <= n <= len(images):
        raise DreamAccelError(
            f"a subset of {n} images was asked for; allowed is {images.n_classes} (one per class) to "
            f"{len(images)} (all of them)"
        )
    order, offsets = (tensor.cpu() for tensor in images.by_class())
    keep = allocate(offsets.diff().numpy(), n)
    rows = []
    for c, members in enumerate(torch.tensor_split(order, offsets[1:-1])):
        lottery = hash_rows(torch.arange(len(members)), seed, "subset", c)
        rows.append(members[torch.argsort(lottery, stable=True)[: keep[c]]])
    return torch.cat(rows).sort().values


def allocate(counts: np.ndarray, n: int) -> np.ndarray:
    """n split over the classes in proportion to ``counts`` (C,), each getting 1..counts[c].

    Remainders go to the classes furthest below their share, ties to the lowest class.
    """
    total = int(counts.sum())
    keep = np.minimum(np.maximum(counts * n // total, 1), counts)
    while keep.sum() < n:
        keep[np.argmax(np.where(keep < counts, counts * n - keep * total, np.iinfo(np.int64).min))] += 1
    while keep.sum() > n:
        keep[np.argmin(np.where(keep > 1, counts * n - keep * total, np.iinfo(np.int64).max))] -= 1
    return keep


def train_test_split(images: ImageSet, n_test: int) -> tuple[ImageSet, ImageSet]:
    """(train, test) of a set that has no split: subset(images, n_test, seed=0) tests, the rest trains."""
    test = stratified_rows(images, n_test, seed=0)
    train = torch.ones(len(images), dtype=torch.bool)
    train[test] = False
    return images.take(train.nonzero()[:, 0]), images.take(test)
