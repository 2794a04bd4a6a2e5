"""Stratified choices of rows, and test sets cut off image sets that come without one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import DreamAccelError
from ..random import hash_rows
from .image_set import ImageSet, rows_by_class

TEST_SHARE = 0.2
"""Part of a set without a test set that becomes one."""


def stratified_rows(images: ImageSet, n: int, seed: int) -> Tensor:
    """A seeded choice of ``n`` rows, ascending, (n,) int64 on the CPU; :func:`dream_accel.data.subset` keeps them.

    Raises:
        DreamAccelError: n is below the number of classes or above that of the images.
    """
    if not images.n_classes <= n <= len(images):
        raise DreamAccelError(
            f"a subset of {n} images was asked for; allowed is {images.n_classes} (one per class) to "
            f"{len(images)} (all of them)"
        )
    order, offsets = images.by_class()
    return _choose(order.cpu(), offsets.cpu(), n, seed)


def held_out_rows(labels: Tensor, n_classes: int) -> Tensor:
    """The rows of a set that become its test set: a stratified fifth, at least one per class, drawn with seed 0.

    Args:
        labels: (N,) int64 on the CPU, at least two of every class.
        n_classes: C.

    Returns:
        (n,) int64, ascending.
    """
    return _choose(*rows_by_class(labels, n_classes), _test_images(len(labels), n_classes), seed=0)


def _test_images(n: int, n_classes: int) -> int:
    return max(n_classes, round(TEST_SHARE * n))


def _choose(order: Tensor, offsets: Tensor, n: int, seed: int) -> Tensor:
    keep = allocate(offsets.diff().numpy(), n)
    rows = []
    for c, members in enumerate(torch.tensor_split(order, offsets[1:-1])):
        lottery = hash_rows(torch.arange(len(members)), seed, "subset", c)
        rows.append(members[torch.argsort(lottery, stable=True)[: keep[c]]])
    return torch.cat(rows).sort().values


def allocate(counts: np.ndarray, n: int) -> np.ndarray:
    """Split n over the classes in proportion to their sizes.

    Remainders go to the classes furthest below their share, ties to the lowest class.

    Args:
        counts: (C,) images per class, each at least 1.
        n: C <= n <= sum(counts).

    Returns:
        (C,) integers 1..counts[c] that sum to n.
    """
    total = int(counts.sum())
    keep = np.minimum(np.maximum(counts * n // total, 1), counts)
    while keep.sum() < n:
        keep[np.argmax(np.where(keep < counts, counts * n - keep * total, np.iinfo(np.int64).min))] += 1
    while keep.sum() > n:
        keep[np.argmin(np.where(keep > 1, counts * n - keep * total, np.iinfo(np.int64).max))] -= 1
    return keep


def train_test_split(images: ImageSet, n_test: int) -> tuple[ImageSet, ImageSet]:
    """Cut a test set off a set that comes without one.

    Returns:
        (train, test): the test set is a stratified choice with seed 0, the rest is the training set.
    """
    test = stratified_rows(images, n_test, seed=0)
    train = torch.ones(len(images), dtype=torch.bool)
    train[test] = False
    return images.take(train.nonzero()[:, 0]), images.take(test)


def hold_out_test_set(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Cut off a stratified fifth, at least one image per class, drawn with seed 0.

    Returns:
        (train, test).

    Raises:
        DreamAccelError: a class with a single image, which cannot be in both.
    """
    counts = images.class_counts().tolist()
    lonely = next((c for c, count in enumerate(counts) if count < 2), None)
    if lonely is not None:
        raise DreamAccelError(
            f"class {lonely} ({images.class_names[lonely]!r}) has {counts[lonely]} image; cutting off a test set needs "
            "at least 2 per class, so give more images or a test set"
        )
    return train_test_split(images, _test_images(len(images), images.n_classes))
