"""Images that come one at a time, as PIL images, arrays or tensors, stored in one uint8 tensor."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DreamAccelError
from .convert import (
    as_tensor,
    at_least_float32,
    channels_come_first,
    drop_alpha,
    dtype_name,
    found_range,
    out_of_range,
    prefers_channels_first,
    remedy_for,
)
from .pillow import SCALE_TO_8_BITS, as_seen, is_grey, without_white


def is_pil(image: Any) -> bool:
    """Return True for a Pillow image; Pillow is not imported for the answer."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def holds_pil(images: Any) -> bool:
    """Return True for a list of Pillow images, by its first one."""
    return isinstance(images, (list, tuple)) and len(images) > 0 and is_pil(images[0])


def read_images(images: Iterable[Any], n: int) -> Tensor:
    """Read n images in order.

    The set is grey (C = 1) where every image is, else RGB: grey images among coloured ones are repeated over the
    channels.

    Args:
        images: Pillow images of 8 or 16 bits per channel; or arrays and tensors (H, W), (H, W, C) or (C, H, W) of
            uint8, or of floats in [0, 1], which become round(255 x).
        n: how many there are.

    Returns:
        uint8 (n, C, H, W) on the CPU.

    Raises:
        DreamAccelError: an image of another kind, shape, dtype, range or size; the message names its index.
    """
    held = np.empty((0, 0, 0, 0), np.uint8)
    for i, image in enumerate(images):
        pixels = _to_chw(image, i)
        if i == 0:
            held = np.empty((n, *pixels.shape), np.uint8)
        elif pixels.shape != held.shape[1:]:
            held = _with_room_for(pixels, held, i)
        held[i] = pixels  # one channel is repeated over three
    return torch.from_numpy(held)


def _with_room_for(pixels: np.ndarray, held: np.ndarray, i: int) -> np.ndarray:
    """``held`` with three channels if ``pixels`` have, both having 1 or 3."""
    (channels, *size), (_, *held_size) = pixels.shape, held.shape[1:]
    if size != held_size:
        raise DreamAccelError(
            f"index {i} has an image of {size[0]}x{size[1]} pixels (height x width) and index 0 of "
            f"{held_size[0]}x{held_size[1]}; all images must have one size, so add the transform "
            f"Resize(({held_size[0]}, {held_size[1]})), or another that gives one size"
        )
    return held if channels == 1 else held.repeat(3, axis=1)


def _to_chw(image: Any, i: int) -> np.ndarray:
    """uint8 (C, H, W) of one image."""
    if is_pil(image):
        return _pil_to_chw(image, i)
    if not isinstance(image, (Tensor, np.ndarray)) and not hasattr(image, "__dlpack__"):
        raise DreamAccelError(
            f"index {i} has a {type(image).__name__} for an image; allowed are PIL images, arrays and tensors, so "
            "convert it, for example with np.asarray"
        )
    tensor = as_tensor(image, "images").as_subclass(Tensor)
    shape = tuple(tensor.shape)
    channels_first = channels_come_first(shape, prefers_channels_first(image)) if tensor.ndim == 3 else None
    if tensor.ndim == 2:
        tensor = tensor[None]
    elif channels_first is None:
        raise DreamAccelError(
            f"index {i} has an image of shape {shape}; allowed are (H, W), (C, H, W) and (H, W, C) with 1 or 3 "
            f"channels, so {drop_alpha(shape) if len(shape) == 3 else ''}"
            'stack images of other channels for DataSplit.from_arrays(..., layout="nchw")'
        )
    elif not channels_first:
        tensor = tensor.permute(2, 0, 1)
    return _to_uint8(tensor, i)


def _pil_to_chw(image: Any, i: int) -> np.ndarray:
    if without_white(image):
        raise DreamAccelError(f"index {i} has an image of 32 bits per channel (mode {image.mode}); {SCALE_TO_8_BITS}")
    pixels = np.asarray(as_seen(image, "L" if is_grey(image) else "RGB"))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _to_uint8(tensor: Tensor, i: int) -> np.ndarray:
    if tensor.dtype == torch.uint8 or tensor.numel() == 0:
        return tensor.cpu().numpy()
    if not tensor.is_floating_point():
        raise DreamAccelError(
            f"index {i} has an image of {dtype_name(tensor)}{found_range(tensor)}; allowed are uint8 (0..255) and "
            f"floating point in [0, 1], so {remedy_for(tensor)}"
        )
    # NumPy, since PyTorch starts its threads for every operation, even on one small image.
    pixels = at_least_float32(tensor).cpu().numpy()
    low, high = pixels.min(), pixels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DreamAccelError(f"index {i} has NaN or Inf pixels; every pixel must be a finite number in [0, 1]")
    if (remedy := out_of_range(float(low), float(high))) is not None:
        raise DreamAccelError(
            f"index {i} has float pixels from {low:.8g} to {high:.8g}; allowed is [0, 1], so {remedy}"
        )
    return np.rint(pixels * 255).astype(np.uint8)
