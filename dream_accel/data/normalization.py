"""Normalisation of float batches by the per-channel mean and standard deviation of a training set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from ..errors import DreamAccelError
from .convert import rows_per_chunk


@dataclass(frozen=True)
class Normalization:
    """``(x - mean) / std`` per channel, for images in [0, 1].

    Args:
        mean: one number per channel.
        std: one positive number per channel.

    Raises:
        DreamAccelError: numbers that are not finite, not positive, or not one of each per channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    _on_device: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise DreamAccelError(
                f"normalization has {len(self.mean)} means and {len(self.std)} deviations; give one of each per channel"
            )
        if not all(map(isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise DreamAccelError(
                f"normalization has mean {list(self.mean)} and std {list(self.std)}; means must be finite "
                "and deviations finite and positive"
            )

    @classmethod
    def from_images(cls, images: Tensor) -> Normalization:
        """Compute mean and standard deviation (1/n) of images taken as values in [0, 1].

        Computed from one histogram per channel in exact integers, so the result depends neither on chunks nor on the
        device, and no float copy of the set exists. A constant channel gets std 1, which maps it to zero.

        Args:
            images: uint8 (N, C, H, W), at least one pixel.

        Raises:
            DreamAccelError: images of another form.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.numel() == 0:
            raise DreamAccelError(
                "normalization needs uint8 images (N, C, H, W) with at least one pixel; found "
                f"{images.dtype} {tuple(images.shape)}"
            )
        n, channels, height, width = images.shape
        counts = torch.zeros(channels, 256, dtype=torch.int64, device=images.device)
        step = rows_per_chunk(height * width)
        for start in range(0, n, step):
            for c in range(channels):
                counts[c] += torch.bincount(images[start : start + step, c].reshape(-1), minlength=256)
        moments = [_mean_and_std(row) for row in counts.tolist()]
        return cls(tuple(mean for mean, _ in moments), tuple(std for _, std in moments))

    def __call__(self, batch: Tensor) -> Tensor:
        """Normalise images, differentiably.

        The first call on a device copies the two vectors there; later calls cost no host round trip.

        Args:
            batch: floating point (..., C, H, W) in [0, 1].

        Returns:
            a tensor of the same shape and dtype.

        Raises:
            DreamAccelError: a batch of another dtype or number of channels.
        """
        mean, std = self._vectors(batch)
        return (batch - mean) / std

    def inverse(self, batch: Tensor) -> Tensor:
        """The images whose normalisation is ``batch``."""
        mean, std = self._vectors(batch)
        return batch * std + mean

    def to_dict(self) -> dict[str, list[float]]:
        """``{"mean": [...], "std": [...]}``, for JSON."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Sequence[float]]) -> Normalization:
        """The normalisation that :meth:`to_dict` described."""
        return cls(tuple(float(value) for value in values["mean"]), tuple(float(value) for value in values["std"]))

    def _vectors(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        if batch.ndim < 3 or batch.shape[-3] != len(self.mean) or not batch.is_floating_point():
            raise DreamAccelError(
                f"the batch is {batch.dtype} {tuple(batch.shape)}; this normalisation takes float images "
                f"(..., {len(self.mean)}, H, W)"
            )
        key = (batch.device, batch.dtype)
        if key not in self._on_device:
            # A copy to the GPU on every call would block the host, and tensors made under inference_mode
            # could not meet autograd later.
            with torch.inference_mode(False):
                pair = self._tensor(self.mean, batch), self._tensor(self.std, batch)
            if type(pair[0]) is not Tensor:  # a tracer's stand-in, not to be cached
                return pair
            self._on_device[key] = pair
        return self._on_device[key]

    def _tensor(self, values: tuple[float, ...], batch: Tensor) -> Tensor:
        return torch.tensor(values, dtype=batch.dtype, device=batch.device).reshape(-1, 1, 1)

    def __getstate__(self) -> dict[str, Any]:
        return {"mean": self.mean, "std": self.std, "_on_device": {}}


def _mean_and_std(counts: list[int]) -> tuple[float, float]:
    """Mean and standard deviation of the values 0..255, counted in ``counts``, divided by 255."""
    n = sum(counts)
    total = sum(value * count for value, count in enumerate(counts))
    squares = sum(value * value * count for value, count in enumerate(counts))
    n_squared_variance = n * squares - total * total
    if n_squared_variance == 0:
        return total / (255 * n), 1.0
    return total / (255 * n), n_squared_variance**0.5 / (255 * n)
