"""The set of images in memory that everything reads, and the pair of a training and a test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import DreamAccelError
from .convert import to_labels, to_uint8_images
from .normalization import Normalization


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Labelled images of one size, all on one device.

    ``from_arrays`` is the way in for outside data: it checks every value. The plain constructor takes tensors
    in the final form and checks only that form.
    """

    images: Tensor  # (N, C, H, W) uint8, contiguous
    labels: Tensor  # (N,) int64, each in 0..n_classes-1
    n_classes: int
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4 or not images.is_contiguous():
            raise DreamAccelError(
                f"images are {images.dtype} of shape {tuple(images.shape)}, contiguous: "
                f"{images.is_contiguous()}; an ImageSet holds contiguous torch.uint8 (N, C, H, W), which "
                "ImageSet.from_arrays makes"
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1] or labels.device != images.device:
            raise DreamAccelError(
                f"labels are {labels.dtype} of shape {tuple(labels.shape)} on {labels.device}; an ImageSet "
                f"of {len(images)} images on {images.device} holds torch.int64 ({len(images)},) there"
            )
        if len(self.class_names) != self.n_classes:
            raise DreamAccelError(
                f"there are {len(self.class_names)} class names for {self.n_classes} classes; give one name per class"
            )

    @classmethod
    def from_arrays(
        cls,
        images: Any,
        labels: Any,
        n_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        *,
        layout: str = "auto",
        allow_empty: bool = False,
    ) -> ImageSet:
        """An ImageSet from NumPy or PyTorch arrays (or CuPy, or lists of equally shaped images).

        images: (N, H, W), (N, H, W, C) or (N, C, H, W); uint8, or floating point in [0, 1], which becomes
        round(255 x). A uint8 array that already is contiguous (N, C, H, W) is shared, not copied.
        labels: (N,) or (N, 1) integers 0..n_classes-1.
        n_classes: taken from class_names, else from the highest label.
        layout: "auto" takes the axis of length 1 or 3 for the channels. Where both axis 1 and axis 3 have
        such a length, PyTorch tensors are read as (N, C, H, W) and other arrays as (N, H, W, C). "nchw" and
        "nhwc" say it outright and allow any number of channels.
        allow_empty: accept classes without an image, as a test set may have; needs n_classes or class_names.

        Raises DreamAccelError for zero images, mixed sizes, NaN or Inf pixels, float pixels outside [0, 1],
        other pixel types, labels that are not integers 0..n_classes-1 or differ in number from the images,
        and (without allow_empty) a class without an image.
        """
        if allow_empty and n_classes is None and class_names is None:
            raise DreamAccelError(
                "allow_empty=True needs n_classes or class_names: labels alone do not show an empty class"
            )
        pixels = to_uint8_images(images, layout)
        targets, names = to_labels(labels, len(pixels), n_classes, class_names, allow_empty)
        return cls(pixels, targets.to(pixels.device), len(names), names)

    def __len__(self) -> int:
        return self.images.shape[0]

    def __repr__(self) -> str:
        size = "x".join(str(side) for side in self.shape)
        return f"ImageSet({len(self)} images of {size}, {self.n_classes} classes, {self.images.device})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Where both tensors lie."""
        return self.images.device

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set on ``device``; itself where it is already there."""
        images = self.images.to(device)
        if images is self.images:
            return self
        return replace(self, images=images, labels=self.labels.to(images.device))

    def batch(self, indices: Any) -> Tensor:
        """float32 images in [0, 1] at integer ``indices`` of any shape, as (*indices.shape, C, H, W).

        Indices that are a tensor on the set's device cost no host round trip.
        """
        index = self._rows(indices)
        gathered = self.images.index_select(0, index.reshape(-1)).to(torch.float32).div_(255)
        return gathered.reshape(*index.shape, *self.shape)

    def take(self, indices: Any) -> ImageSet:
        """The set of the images at ``indices`` (n,), with the same classes."""
        index = self._rows(indices)
        return replace(self, images=self.images.index_select(0, index), labels=self.labels.index_select(0, index))

    def class_counts(self) -> Tensor:
        """Images per class, (n_classes,) int64."""
        return self.by_class()[1].diff()

    def by_class(self) -> tuple[Tensor, Tensor]:
        """Rows sorted by class, ``order`` (N,) int64, and where each class begins, ``offsets`` (C+1,) int64.

        Class c holds the rows order[offsets[c]:offsets[c+1]], in ascending order; the K-Means operators take
        the features of ``order`` and these ``offsets``.
        """
        ordered, order = torch.sort(self.labels, stable=True)
        offsets = torch.searchsorted(ordered, torch.arange(self.n_classes + 1, device=ordered.device))
        return order, offsets

    def _rows(self, indices: Any) -> Tensor:
        index = torch.as_tensor(indices, device=self.images.device)
        if index.dtype == torch.bool or index.is_floating_point():
            raise DreamAccelError(f"indices are {index.dtype}; allowed are integer row numbers 0..{len(self) - 1}")
        return index.long()


@dataclass(frozen=True, eq=False)
class DataSplit:
    """A training set and the test set it is judged on: same image shape, same classes."""

    name: str
    train: ImageSet
    test: ImageSet

    def __post_init__(self) -> None:
        if self.train.shape != self.test.shape:
            raise DreamAccelError(
                f"{self.name}: training images are {self.train.shape} and test images {self.test.shape} "
                "(channels, height, width); both must have one shape, and --size N (size=N) makes "
                "them N x N"
            )
        if self.train.class_names != self.test.class_names:
            raise DreamAccelError(
                f"{self.name}: the training set has {self.train.n_classes} classes and the test set "
                f"{self.test.n_classes}, or their names differ; both must have the same class names in the "
                "same order"
            )

    @cached_property
    def normalization(self) -> Normalization:
        """Per-channel mean and standard deviation of the training set."""
        return Normalization.from_images(self.train.images)

    def to(self, device: torch.device | str) -> DataSplit:
        """Both sets on ``device``."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))
