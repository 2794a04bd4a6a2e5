"""The pair of a training and a test set, and what can be done with both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch

from ..errors import DreamAccelError
from .class_names import listed
from .convert import resize_and_crop
from .image_set import ImageSet
from .normalization import Normalization
from .sets import sets_from_arrays, sets_from_datasets
from .stratified import stratified_rows


@dataclass(frozen=True, eq=False)
class DataSplit:
    """A training set and a test set of the same image shape and classes.

    Args:
        name: of the data set, for messages and reports.
        train: the training set.
        test: the test set.
        note: one line about how the set was read, such as the keys of a .npz file; may be empty.

    Raises:
        DreamAccelError: the two sets differ in image shape or in class names.
    """

    name: str
    train: ImageSet
    test: ImageSet
    note: str = ""

    def __post_init__(self) -> None:
        if self.train.shape != self.test.shape:
            raise DreamAccelError(
                f"{self.name}: training images are {self.train.shape} and test images {self.test.shape} "
                "(channels, height, width); both must have one shape, so resize them alike (for a .npz file by "
                "--size N)"
            )
        if self.train.class_names != self.test.class_names:
            names, others = self.train.class_names, self.test.class_names
            raise DreamAccelError(
                f"{self.name}: the training set has {self.train.n_classes} classes and the test set "
                f"{self.test.n_classes}, or their names differ ({listed(names, others)} and {listed(others, names)}); "
                "both must have the same class names in the same order, which as_split((train, test)) brings about"
            )

    @classmethod
    def from_arrays(
        cls,
        train: Any,
        test: Any = None,
        *,
        class_names: Sequence[str] | None = None,
        name: str = "own data",
        layout: str = "auto",
    ) -> DataSplit:
        """Make a data set from arrays or tensors: NumPy, PyTorch, CuPy, or lists of images.

        Args:
            train: a pair (images, labels) as :meth:`ImageSet.from_arrays` takes them: images (N, H, W), (N, H, W, C) or
                (N, C, H, W), uint8 or floating point in [0, 1]; labels (N,) or (N, 1) integers 0..C-1.
            test: such a pair, which may lack some of the classes; default: a fifth of ``train``, stratified by class
                and drawn with seed 0, at least one image per class.
            class_names: one name per class; default: ``"0"``, ``"1"``, ...
            name: of the data set, for messages and reports.
            layout: of the images, ``"auto"``, ``"nchw"`` or ``"nhwc"``, as in :meth:`ImageSet.from_arrays`.

        Raises:
            DreamAccelError: arrays that :meth:`ImageSet.from_arrays` refuses, a test set of other classes or another
                image shape, or a class with a single image where a test set is cut off.
        """
        return cls(name, *sets_from_arrays(train, test, class_names=class_names, name=name, layout=layout))

    @classmethod
    def from_datasets(
        cls, train: Any, test: Any = None, *, class_names: Sequence[str] | None = None, name: str = "own data"
    ) -> DataSplit:
        """Make a data set from map-style torch Datasets, each read once, in order, into memory.

        Args:
            train: a map-style Dataset, Subset or ConcatDataset of pairs (image, label). Images are PIL images of 8 or
                16 bits per channel, or arrays or tensors (H, W), (H, W, C) or (C, H, W) of uint8 or of floats in
                [0, 1], as torchvision's ToTensor makes them; all of one size. Labels are integers, or arrays or tensors
                of one.
            test: such a Dataset; default: a fifth of ``train``, stratified by class and drawn with seed 0, at least one
                image per class.
            class_names: one name per class; default: ``train.classes`` where it has them and no ``target_transform``,
                else ``"0"``, ``"1"``, ...
            name: of the data set, for messages and reports.

        Raises:
            DreamAccelError: an iterable-style or empty Dataset, an item that is no pair or whose image or label has
                another form (named by its index), images of several sizes, labels that are not 0..C-1, a test set of
                other classes or another image shape, or a class with a single image where a test set is cut off.
        """
        return cls(name, *sets_from_datasets(train, test, class_names=class_names, name=name))

    @cached_property
    def normalization(self) -> Normalization:
        """Per-channel mean and standard deviation of the training set."""
        return Normalization.from_images(self.train.images)

    def to(self, device: torch.device | str) -> DataSplit:
        """Both sets on ``device``."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


SetOrSplit = TypeVar("SetOrSplit", ImageSet, DataSplit)


def subset(data: SetOrSplit, n: int, seed: int = 0) -> SetOrSplit:
    """A seeded stratified subset.

    Class shares stay as near to the full set's as whole images allow, every class keeps at least one image, and the
    images keep their order. The same seed gives the same subset on every device and in every version of PyTorch and
    NumPy.

    Args:
        data: the set to choose from.
        n: images to keep, n_classes <= n <= len(set).
        seed: names the draw.

    Returns:
        the set of n images; of a DataSplit, n training images and the whole test set.

    Raises:
        DreamAccelError: n is out of range.
    """
    if isinstance(data, DataSplit):
        return replace(data, train=subset(data.train, n, seed))
    return data.take(stratified_rows(data, n, int(seed)))


def resize(split: DataSplit, size: int | None) -> DataSplit:
    """Scale and centre-crop every image, antialiased and bilinear.

    Args:
        split: the data set.
        size: the shorter side is scaled to ``size`` pixels and the centre cut out; None changes nothing.

    Returns:
        a split of size x size images.
    """
    if size is None:
        return split
    train, test = (replace(images, images=resize_and_crop(images.images, size)) for images in (split.train, split.test))
    return replace(split, train=train, test=test)
