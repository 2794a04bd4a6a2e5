"""The memory that images are in while a device computes: its own, or the host's where they would take most of it."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ..errors import DreamAccelWarning
from ..runtime.host_memory import view_on
from ..runtime.memory import available_memory

PART = 0.5
"""Part of the free memory of a GPU that a set of images takes at most."""


def placed(images: Tensor, device: torch.device) -> Tensor:
    """Return images on a device.

    A GPU reads images from host memory, where they stay, if they would take more than half of its free memory; a
    warning says so.

    Args:
        images: uint8 (N, C, H, W), contiguous.
        device: the device that computes with them.

    Raises:
        DreamAccelError: the host memory cannot be locked for the GPU.
        torch.OutOfMemoryError: the images do not fit the device.
    """
    if device.type != "cuda" or images.device.type != "cpu" or images.nbytes <= PART * available_memory(device):
        return images.to(device)
    warnings.warn(
        f"{len(images):,} images take {images.nbytes / 1e9:.1f} GB, more than half of the free memory of {device}: "
        "they stay in host memory, which the GPU reads over the bus, slower than its own",
        DreamAccelWarning,
        stacklevel=5,
    )
    return view_on(images, device)
