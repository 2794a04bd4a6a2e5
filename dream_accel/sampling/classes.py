"""Rows by class: checks images and labels, orders rows by class, and repeats the picks of small classes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..arrays import to_tensor
from ..errors import DreamAccelError, DreamAccelWarning


def as_images(images: Any) -> Tensor:
    """View an array of images of any library as a tensor.

    Args:
        images: (N, ...) uint8, or floating point.

    Raises:
        DreamAccelError: it is no array, has another dtype, or a single dimension.
    """
    tensor = to_tensor(images, "images")
    if tensor.dim() < 2:
        raise DreamAccelError(f"images has shape {tuple(tensor.shape)}: they must be (N, ...), at least 2-d")
    if not (tensor.dtype == torch.uint8 or tensor.is_floating_point()):
        raise DreamAccelError(
            f"images are {tensor.dtype}: they must be uint8, 0 to 255, or floating point as the network takes them; "
            "convert them to one of these by their range"
        )
    return tensor


def labels_beside(images: Tensor, labels: Any) -> Tensor:
    """Convert labels to a tensor on the images' device.

    Arrays of other libraries are copied to that device; a tensor must already be on it.

    Args:
        images: (N, ...), only their device is read.
        labels: (N,) tensor or array.

    Returns:
        (N,) labels on the images' device.

    Raises:
        DreamAccelError: labels are a tensor on another device, or no array.
    """
    if not isinstance(labels, Tensor):
        return to_tensor(labels, "labels").to(images.device)
    if labels.device != images.device:
        raise DreamAccelError(
            f"labels are on {labels.device} and images on {images.device}: move one with labels.to(images.device)"
        )
    return labels


def class_order(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Order the rows so that those of each class follow one another.

    Args:
        images: (N, ...).
        labels: (N,) integers 0..C-1, every class present.

    Returns:
        row indices (N,) int64, class after class and in their original order within a class; offsets (C+1,) int64, at
        which each class begins.

    Raises:
        DreamAccelError: labels do not match the images, are no integers, or leave a class empty.
    """
    if labels.dim() != 1 or len(labels) != len(images):
        raise DreamAccelError(
            f"{len(images)} images and labels of shape {tuple(labels.shape)}: give one label per image"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise DreamAccelError(f"labels are {labels.dtype}: they must be integers 0..C-1")
    if len(labels) == 0:
        raise DreamAccelError("no images: give at least one per class")
    labels = labels.to(images.device, torch.int64)
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= len(labels):
        raise DreamAccelError(
            f"labels run from {lowest} to {highest} over {len(labels)} images: they must be 0..C-1, every class "
            "present; renumber the classes"
        )
    counts = torch.bincount(labels)
    empty = (counts == 0).nonzero().flatten().tolist()
    if empty:
        raise DreamAccelError(
            f"class {empty[0]} of 0..{len(counts) - 1} has no images: renumber the classes without gaps"
        )
    return torch.argsort(labels, stable=True), torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def part_of_order(order: Tensor, offsets: Tensor, classes: range | None) -> tuple[range, Tensor, Tensor]:
    """Keep neighbouring classes of the rows that :func:`class_order` returns; None keeps all.

    Returns:
        the classes, their rows (n,) int64, and the offsets (C+1,) int64 at which each begins among these.

    Raises:
        DreamAccelError: the part is empty, leaves classes out between its ends, or goes beyond the classes there are.
    """
    n_classes = len(offsets) - 1
    if classes is None:
        return range(n_classes), order, offsets
    if classes.step != 1 or not 0 <= classes.start < classes.stop <= n_classes:
        raise DreamAccelError(f"classes is {classes} of {n_classes}: give range(first, stop) within them")
    offsets = offsets[classes.start : classes.stop + 1]
    first, stop = (int(end) for end in (offsets[0], offsets[-1]))
    return classes, order[first:stop], offsets - first


def announce_small_classes(classes: range, sizes: Sequence[int], n_clusters: int) -> None:
    """Warn of classes that have fewer images than clusters; called by a constructor."""
    small = [(c, size) for c, size in zip(classes, sizes, strict=True) if size < n_clusters]
    if small:
        warnings.warn(
            f"{len(small)} of {len(sizes)} classes have fewer images than the {n_clusters} clusters asked for (class "
            f"{small[0][0]} has {small[0][1]}): their number of clusters falls to the number of their images",
            DreamAccelWarning,
            stacklevel=4,  # past the decorator of the constructor
        )


def fill_picks(picks: Tensor) -> Tensor:
    """Fill the missing picks of a class by repeating its existing ones in turn.

    Args:
        picks: (C, n) int64 row indices; -1 marks a missing one. Every class needs at least one pick.

    Returns:
        (C, n) int64: the existing picks in order, then repeated from the first.
    """
    exists = picks >= 0
    found_first = torch.gather(picks, 1, torch.argsort((~exists).int(), dim=1, stable=True))
    column = torch.arange(picks.shape[1], device=picks.device) % exists.sum(dim=1, keepdim=True)
    return torch.gather(found_first, 1, column)
