"""Labelled images in memory, and the pair of a training and a test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import DreamAccelError
from .convert import to_uint8_images
from .items import holds_pil, read_images
from .labels import to_labels
from .placement import placed


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Labelled images of one size, all on one device.

    :meth:`from_arrays` makes one from outside data and checks every value. The plain constructor takes tensors in the
    final form and checks only that form.

    Args:
        images: uint8 (N, C, H, W), contiguous.
        labels: int64 (N,), each in 0..n_classes-1, on the device of the images.
        n_classes: C.
        class_names: one name per class.

    Raises:
        DreamAccelError: tensors of another form, or names that differ in number from the classes.
    """

    images: Tensor
    labels: Tensor
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
        """Make an ImageSet from NumPy, PyTorch or CuPy arrays, or from lists of images of one size.

        Args:
            images: (N, H, W), (N, H, W, C) or (N, C, H, W); uint8, or floating point in [0, 1], which becomes
                round(255 x). A uint8 array that already is contiguous (N, C, H, W) is shared, not copied. A list may
                hold PIL images.
            labels: (N,) or (N, 1) integers 0..n_classes-1.
            n_classes: default: the number of class names, else the highest label + 1.
            class_names: one name per class; default: ``"0"``, ``"1"``, ...
            layout: ``"auto"`` takes the axis of length 1 or 3 for the channels. Where both axis 1 and axis 3 have such
                a length, PyTorch tensors are read as (N, C, H, W) and other arrays as (N, H, W, C). ``"nchw"`` and
                ``"nhwc"`` say it outright and allow any number of channels.
            allow_empty: accept classes without an image, as a test set may have; needs n_classes or class_names.

        Raises:
            DreamAccelError: zero images, mixed sizes, NaN or Inf pixels, float pixels outside [0, 1], other pixel
                types, labels that are strings, one-hot, not integers 0..n_classes-1 or differ in number from the
                images, or (without ``allow_empty``) a class without an image.
        """
        if allow_empty and n_classes is None and class_names is None:
            raise DreamAccelError(
                "allow_empty=True needs n_classes or class_names: labels alone do not show an empty class"
            )
        if holds_pil(images):
            images, layout = read_images(images, len(images)), "nchw"
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
        """The device of both tensors."""
        return self.images.device

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set on ``device``; the set itself where it is already there.

        Images that would take more than half of the free memory of a GPU stay in host memory, which the GPU reads.
        """
        images = placed(self.images, torch.device(device))
        if images is self.images:
            return self
        return replace(self, images=images, labels=self.labels.to(images.device))

    def batch(self, indices: Any) -> Tensor:
        """Gather images as floats.

        Args:
            indices: integers 0..N-1, of any shape. A tensor on the set's device costs no host round trip.

        Returns:
            float32 (*indices.shape, C, H, W) in [0, 1].

        Raises:
            DreamAccelError: indices that are not integers, such as a mask.
        """
        index = self._rows(indices)
        gathered = self.images.index_select(0, index.reshape(-1)).to(torch.float32).div_(255)
        return gathered.reshape(*index.shape, *self.shape)

    def take(self, indices: Any) -> ImageSet:
        """The set of the images at ``indices`` (n,), with the same classes.

        Raises:
            DreamAccelError: indices that are not integers, such as a mask.
        """
        index = self._rows(indices)
        return replace(self, images=self.images.index_select(0, index), labels=self.labels.index_select(0, index))

    def class_counts(self) -> Tensor:
        """Images per class, (n_classes,) int64."""
        return self.by_class()[1].diff()

    def by_class(self) -> tuple[Tensor, Tensor]:
        """Rows sorted by class, as the K-Means operators take them.

        Returns:
            ``order`` (N,) int64 and ``offsets`` (C+1,) int64. Class c has the rows ``order[offsets[c]:offsets[c+1]]``,
            in ascending order.
        """
        return rows_by_class(self.labels, self.n_classes)

    def _rows(self, indices: Any) -> Tensor:
        index = torch.as_tensor(indices, device=self.images.device)
        if index.dtype == torch.bool or index.is_floating_point():
            raise DreamAccelError(f"indices are {index.dtype}; allowed are integer row numbers 0..{len(self) - 1}")
        return index.long()


def rows_by_class(labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """See :meth:`ImageSet.by_class`."""
    ordered, order = torch.sort(labels, stable=True)
    return order, torch.searchsorted(ordered, torch.arange(n_classes + 1, device=ordered.device))
