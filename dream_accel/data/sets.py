"""A training and a test set made from arrays or from map-style Datasets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from ..errors import DreamAccelError
from .class_names import places, places_by_name
from .image_set import ImageSet
from .map_style import class_names_of, read_dataset
from .remarks import remarks
from .sources import naming
from .stratified import hold_out_test_set


class Sets(NamedTuple):
    """Two sets, and one line about how they were made, which may be empty."""

    train: ImageSet
    test: ImageSet
    note: str = ""


def sets_from_arrays(
    train: Any,
    test: Any = None,
    *,
    class_names: Sequence[str] | None = None,
    name: str = "own data",
    layout: str = "auto",
) -> Sets:
    """See :meth:`dream_accel.data.DataSplit.from_arrays`."""
    if test is None:
        with naming(name):
            images = ImageSet.from_arrays(*_pair(train), class_names=class_names, layout=layout)
        return without_test_set(images, name)
    with naming(f"{name}, training set"):
        train_set = ImageSet.from_arrays(*_pair(train), class_names=class_names, layout=layout)
    with naming(f"{name}, test set"):
        test_set = ImageSet.from_arrays(
            *_pair(test), class_names=train_set.class_names, layout=layout, allow_empty=True
        )
    return Sets(train_set, test_set, remarks(train_set, test_set))


def sets_from_datasets(
    train: Any, test: Any = None, *, class_names: Sequence[str] | None = None, name: str = "own data"
) -> Sets:
    """See :meth:`dream_accel.data.DataSplit.from_datasets`."""
    names = class_names_of(train) if class_names is None else class_names
    if test is None:
        with naming(name):
            images, labels = read_dataset(train)
        return sets_from_arrays((images, labels), class_names=names, name=name, layout="nchw")
    test_names = class_names_of(test) if class_names is None else None
    matched: Sequence[int] | None = None
    if names is not None and test_names is not None:
        matched = places_by_name(test_names, names, some=True) or places(
            test_names, names, f"{name}: the test set", "the training set"
        )
    with naming(f"{name}, training set"):
        train_arrays = read_dataset(train)
    with naming(f"{name}, test set"):
        images, labels = read_dataset(test)
        test_arrays = images, labels if matched is None else renumbered(labels, matched)
    return sets_from_arrays(train_arrays, test_arrays, class_names=names, name=name, layout="nchw")


def without_test_set(images: ImageSet, name: str) -> Sets:
    """Cut a test set off images that come without one."""
    with naming(name):
        train, test = hold_out_test_set(images)
    note = f"{len(test):,} of {len(images):,} images, stratified by class with seed 0, are the test set"
    return Sets(train, test, remarks(train, test, note))


def of_two_sets(train: ImageSet, test: ImageSet, name: str) -> Sets:
    """Two sets whose classes are the same, with the labels of the test set in the order of the training set."""
    if train.class_names != test.class_names:
        matched = places(test.class_names, train.class_names, f"{name}: the test set", "the training set")
        labels = torch.tensor(matched, device=test.device)[test.labels]
        test = replace(test, labels=labels, class_names=train.class_names)
    return Sets(train, test, remarks(train, test))


def _pair(part: Any) -> tuple[Any, Any]:
    if not isinstance(part, (tuple, list)) or len(part) != 2:
        size = f" of {len(part)}" if isinstance(part, (tuple, list)) else ""
        raise DreamAccelError(f"found a {type(part).__name__}{size}; give a pair (images, labels)")
    return part[0], part[1]


def renumbered(labels: list[int], matched: Sequence[int]) -> list[int]:
    """Labels in another order of the classes; those that are no place in it are left for the check of the set."""
    return [matched[label] if 0 <= label < len(matched) else label for label in labels]
