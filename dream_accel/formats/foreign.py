"""The content of a foreign file: images and labels as another program stored them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..data import Normalization
from ..errors import DreamAccelError, counted

_MOST, _LEAST = 16.0, 1.5 / 255
"""Beyond the first, pixels are not in [0, 1], nor normalised; within the second, they are divided by 255 twice."""


@dataclass(frozen=True)
class Foreign:
    """Images and labels as another program stored them.

    Attributes:
        family: the name of the layout.
        images: (n, channels, H, W) float32.
        labels: (n,) int64 classes, or (n, C) float32 soft labels: probabilities, or logits as in DATM.
        normalised: whether the images are stored as ``(x - mean) / std``.
        packed: whether each image may contain f x f smaller ones, with an f that the file does not store.
        lr: the learning rate for training on the images, if the file stores one.
        class_names: one name per class, if the file stores them.
    """

    family: str
    images: Tensor
    labels: Tensor
    normalised: bool = False
    packed: bool = False
    lr: float | None = None
    class_names: tuple[str, ...] | None = None

    def checked(self, source: object) -> Foreign:
        """Check shapes and values, and convert them.

        Args:
            source: the file or folder, for messages.

        Returns:
            the same content on the CPU: images float32, labels (n,) int64 or (n, C) float32.

        Raises:
            DreamAccelError: shapes or values contradict the layout.
        """
        images, labels = self.images.detach().cpu(), self.labels.detach().cpu()
        images = images.float() if images.is_floating_point() else images.float() / 255
        if images.dim() != 4 or labels.dim() not in (1, 2) or len(labels) != len(images) or len(images) == 0:
            raise DreamAccelError(
                f"{source} holds images of shape {tuple(images.shape)} and labels of shape {tuple(labels.shape)}: "
                "expected (n, channels, height, width) with (n,) classes or (n, classes) soft labels"
            )
        if not images.isfinite().all():
            raise DreamAccelError(f"{source} holds NaN or Inf pixels: it is the result of a run that diverged")
        if not self.normalised:
            _check_scale(images, source)
        soft = labels.dim() == 2 and labels.shape[1] > 1
        labels = labels.float() if soft else labels.flatten().round().long()
        if not soft and int(labels.min()) < 0:
            raise DreamAccelError(f"{source} holds the label {int(labels.min())}: classes are numbered from 0")
        return replace(self, images=images, labels=labels)

    def pixels(self, normalization: Normalization | None) -> Tensor:
        """Convert the images to pixels.

        Args:
            normalization: the constants that the images were normalised by; not used if they are not normalised.

        Returns:
            (n, channels, H, W) float32; values may exceed [0, 1] if the program did not clamp them.
        """
        return normalization.inverse(self.images) if self.normalised and normalization is not None else self.images

    def by_class(self, source: object) -> tuple[Tensor, Tensor | None]:
        """Order the images by class.

        Soft labels do not name the class of an image. Their images are taken to be stored class after class, as these
        programs write them.

        Args:
            source: the file or folder, for messages.

        Returns:
            row numbers (C, IPC) int64; soft labels (C, IPC, C) float32 as probabilities, or None.

        Raises:
            DreamAccelError: the classes have different numbers of images.
        """
        n, soft = len(self.images), None
        if self.labels.dim() == 2:
            n_classes = self.labels.shape[1]
            counts = torch.full((n_classes,), n // n_classes)
            order = torch.arange(n)
            equal = n % n_classes == 0 and n > 0
        else:
            n_classes = int(self.labels.max()) + 1
            if n_classes > n:
                raise DreamAccelError(
                    f"{source} holds {counted(n, 'image')} and the label {n_classes - 1}: classes are numbered from 0, "
                    "and each has an image"
                )
            counts = torch.bincount(self.labels, minlength=n_classes)
            order = torch.argsort(self.labels, stable=True)
            equal = bool((counts == counts[0]).all())
        if not equal:
            raise DreamAccelError(
                f"{source} holds {n} images of {n_classes} classes, {int(counts.min())} to {int(counts.max())} of a "
                "class: every class must have the same number"
            )
        rows = order.view(n_classes, -1)
        if self.labels.dim() == 2:
            soft = _probabilities(self.labels)[rows]
        return rows, soft


def _check_scale(pixels: Tensor, source: object) -> None:
    """Refuse pixels that are of another scale than [0, 1]; what optimisation left a little outside of it may stay."""
    low, high = (float(value) for value in torch.aminmax(pixels))
    if high > _MOST or low < -_MOST or 0 < high - min(low, 0) < _LEAST:
        remedy = "multiply them by 255" if high < 1 else "divide them by 255"
        raise DreamAccelError(
            f"{source} holds pixels from {low:.4g} to {high:.4g}, and in this layout they are in [0, 1]: {remedy} and "
            "save them again"
        )


def _probabilities(labels: Tensor) -> Tensor:
    """Probabilities (n, C) of soft labels: the softmax, unless every row already is a distribution."""
    sums = labels.sum(dim=1)
    if bool((labels >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        return labels / sums[:, None]
    return labels.softmax(dim=1)
