"""Image arrays of any library and layout, checked and converted to uint8 (N, C, H, W)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..arrays import writeable
from ..errors import DreamAccelError

_CHANNEL_COUNTS = (1, 3)
_CHUNK_BYTES = 64 << 20
_HALF_LEVEL = 0.499 / 255


def rows_per_chunk(n_values: int) -> int:
    """Rows of ``n_values`` float32 values in 64 MiB, the chunk in which sets are read or converted to floats."""
    return max(1, _CHUNK_BYTES // (4 * max(1, n_values)))


def to_float(images: Tensor) -> Tensor:
    """Pixels as floats in [0, 1].

    Args:
        images: of any shape; uint8 0..255, or floating point in [0, 1].

    Returns:
        float32 ``images / 255`` for uint8; floating-point images unchanged, not copied.
    """
    return images.float() / 255 if images.dtype == torch.uint8 else images


def to_uint8_images(images: Any, layout: str = "auto") -> Tensor:
    """Contiguous uint8 (N, C, H, W) of the arrays that :meth:`ImageSet.from_arrays` accepts.

    The input's memory is shared where it already has that form.
    """
    channels_first = prefers_channels_first(images)
    tensor = _to_nchw(as_tensor(images, "images"), layout, channels_first)
    if tensor.shape[0] == 0:
        raise DreamAccelError("the set holds 0 images; at least one image per class is needed")
    if 0 in tensor.shape:
        size = "x".join(str(side) for side in tensor.shape[1:])
        raise DreamAccelError(f"images of {size} have no pixels; every side must be at least 1")
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise DreamAccelError(
            f"images are {dtype_name(tensor)}{found_range(tensor)}; allowed are uint8 (0..255) and floating point in "
            f"[0, 1], so {remedy_for(tensor)}"
        )
    quantized = tensor.contiguous() if tensor.dtype == torch.uint8 else _quantize(tensor)
    if int(quantized.max()) <= 1 and bool(tensor.any()):
        # One grey level of 255 in a whole set is no picture, however dark.
        raise DreamAccelError(
            f"pixels are {dtype_name(tensor)}{found_range(tensor)}, so that none is brighter than 1 of 255; allowed "
            "are uint8 (0..255) and floating point in [0, 1], so divide by 255 once only, and multiply images of 0 and "
            "1 by 255"
        )
    return quantized


def resize_and_crop(images: Tensor, size: int) -> Tensor:
    """Square images: the shorter side is scaled to ``size`` (bilinear, antialiased), then the centre is cut out.

    Args:
        images: uint8 (N, C, H, W).
        size: pixels, at least 1.

    Returns:
        uint8 (N, C, size, size); ``images`` itself where they have that size.
    """
    n, channels, height, width = images.shape
    if (height, width) == (size, size):
        return images
    scale = size / min(height, width)
    tall, wide = max(size, round(height * scale)), max(size, round(width * scale))
    top, left = (tall - size) // 2, (wide - size) // 2
    resized = images.new_empty((n, channels, size, size))
    step = rows_per_chunk(channels * max(height * width, tall * wide))
    for start in range(0, n, step):
        part = images[start : start + step].float()
        part = interpolate(part, (tall, wide), mode="bilinear", antialias=True, align_corners=False)
        part = part[:, :, top : top + size, left : left + size]
        resized[start : start + step] = part.round().clamp(0, 255).to(torch.uint8)
    return resized


def as_tensor(array: Any, what: str) -> Tensor:
    """A torch, NumPy or CuPy array, or a list of equally shaped ones, as a tensor.

    Args:
        array: shared, not copied, where it is one contiguous array.
        what: "images" or "labels", for refusals.

    Raises:
        DreamAccelError: a list of mixed shapes, or a dtype that PyTorch lacks.
    """
    if isinstance(array, Tensor):
        if array.layout != torch.strided or array.is_meta:
            held = "are on meta and hold no data" if array.is_meta else f"are a tensor of layout {array.layout}"
            raise DreamAccelError(f"the {what} {held}; give a dense tensor with data, such as {what}.to_dense()")
        return array.detach()
    if isinstance(array, np.ndarray) and array.dtype == object and array.ndim > 0:
        array = list(array)
    if isinstance(array, (list, tuple)):
        array = _stack(array, what)
        if isinstance(array, Tensor):
            return array
    if not isinstance(array, np.ndarray) and hasattr(array, "__dlpack__"):
        return torch.from_dlpack(array)
    array = np.ascontiguousarray(array)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    try:
        return torch.from_numpy(writeable(array))
    except TypeError:
        raise DreamAccelError(
            f"the {what} are an array of {array.dtype}, which is not a number type PyTorch knows; "
            f"give numbers: integer labels, and images of uint8 or floats, for example by "
            f"{what}.astype({'int' if what == 'labels' else 'float'})"
        ) from None


def prefers_channels_first(array: Any) -> bool:
    """Return True if an ambiguous layout is read as channels first: for PyTorch tensors and lists of them."""
    first = array[0] if isinstance(array, (list, tuple)) and len(array) else array
    return isinstance(first, Tensor)


def channels_come_first(shape: Sequence[int], prefer_first: bool) -> bool | None:
    """Position of the channels of an image of three axes: the axis of length 1 or 3.

    Args:
        shape: three lengths.
        prefer_first: the answer where both the first and the last axis have such a length.

    Returns:
        True for (C, H, W), False for (H, W, C), None where neither axis has length 1 or 3.
    """
    first, last = shape[0] in _CHANNEL_COUNTS, shape[2] in _CHANNEL_COUNTS
    if not (first or last):
        return None
    return first and (prefer_first or not last)


def drop_alpha(shape: Sequence[int]) -> str:
    """First half of a remedy, which keeps the colours of RGBA images of this shape; empty for other images."""
    if shape[-1] == 4:
        return "keep the colours of RGBA and drop its transparency, images[..., :3], or "
    return "keep the colours of RGBA and drop its transparency, images[..., :3, :, :], or " if shape[-3] == 4 else ""


def dtype_name(tensor: Tensor) -> str:
    """The dtype as NumPy writes it, for refusals: ``"int64"``."""
    return str(tensor.dtype).removeprefix("torch.")


def at_least_float32(images: Tensor) -> Tensor:
    """float16 and narrower types as float32, in which 255 x is exact enough to round; other dtypes unchanged."""
    return images.float() if images.dtype.itemsize < 4 else images


def found_range(images: Tensor) -> str:
    """The range of the pixels, for refusals: ``" from 0 to 4095"``; empty for types without an order."""
    if images.is_complex() or images.numel() == 0:
        return ""
    low, high = _range(images)
    return f" from {low:.8g} to {high:.8g}"


def remedy_for(images: Tensor) -> str:
    """Remedy for images of integers, booleans or complex numbers, which does not change what they show."""
    if images.dtype == torch.bool:
        return "multiply them by 255 as uint8 (images.astype('uint8') * 255)"
    if images.is_complex():
        return "give one real number per pixel and channel"
    low, high = _range(images)
    if low < 0:
        return "scale them to [0, 1], (images - lowest) / (highest - lowest), since a cast to uint8 wraps negative ones"
    if high > 255:
        white = "65535 for 16 bits" if high > 4095 else "4095 for 12 bits or 65535 for 16"
        return f"divide them by the value of white, such as {white}, since a cast to uint8 wraps"
    return "cast them to uint8 (images.astype('uint8')), which they fit"


def out_of_range(low: float, high: float) -> str | None:
    """Remedy for float pixels from ``low`` to ``high``; None if all round to a level from 0 to 255.

    A resize may overshoot by the rounding of its sums. What is less than half a level outside [0, 1] rounds to 0 or
    255.
    """
    if low > -_HALF_LEVEL and high < 1 + _HALF_LEVEL:
        return None
    if low <= -_HALF_LEVEL:
        return "leave out Normalize (images are normalised later), clip what a resize overshot, or divide by 255"
    return f"divide by {255 if high <= 256 else 65535}, leave out Normalize, or clip what a resize overshot"


def _stack(arrays: Sequence[Any], what: str) -> Any:
    shapes = [_shape(array, i, what) for i, array in enumerate(arrays)]
    odd = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
    if odd is not None:
        remedy = "give one class index per image" if what == "labels" else "resize them to one shape first"
        raise DreamAccelError(
            f"the {what} have mixed shapes: number 0 is {shapes[0]} and number {odd} is {shapes[odd]}; {remedy}"
        )
    if arrays and all(isinstance(array, Tensor) for array in arrays):
        return torch.stack([array.detach() for array in arrays])
    return np.asarray(arrays)


def _shape(array: Any, i: int, what: str) -> tuple[int, ...]:
    try:
        return tuple(np.shape(array))
    except ValueError:
        held = ", ".join(type(part).__name__ for part in array[:4])
        raise DreamAccelError(
            f"number {i} of the {what} is a {type(array).__name__} of {held}, which is no array; give the {what} "
            "alone, and pairs (image, label) as a Dataset, DataSplit.from_datasets(pairs)"
        ) from None


def _to_nchw(tensor: Tensor, layout: str, prefer_channels_first: bool) -> Tensor:
    if layout not in ("auto", "nchw", "nhwc"):
        raise DreamAccelError(f'layout is {layout!r}; allowed are "auto", "nchw" and "nhwc"')
    if tensor.ndim == 3:
        return tensor[:, None]
    shape = tuple(tensor.shape)
    if tensor.ndim != 4:
        raise DreamAccelError(
            f"images have shape {shape}; allowed are (N, H, W), (N, H, W, C) and (N, C, H, W), so reshape them"
        )
    if layout == "auto":
        first = channels_come_first(shape[1:], prefer_channels_first)
        if first is None:
            raise DreamAccelError(
                f"images have shape {shape} with neither axis 1 nor axis 3 of length 1 or 3; {drop_alpha(shape)}"
                'in Python say which is the channel axis with layout="nchw" or layout="nhwc"'
            )
        layout = "nchw" if first else "nhwc"
    return tensor if layout == "nchw" else tensor.permute(0, 3, 1, 2)


def _quantize(images: Tensor) -> Tensor:
    quantized = torch.empty(images.shape, dtype=torch.uint8, device=images.device)
    step = rows_per_chunk(images[0].numel())
    for start in range(0, len(images), step):
        part = at_least_float32(images[start : start + step])
        low, high = (float(value) for value in torch.aminmax(part))  # NaN and Inf both show here
        if not (np.isfinite(low) and np.isfinite(high)):
            row = start + _first(~torch.isfinite(part))
            raise DreamAccelError(f"image {row} has NaN or Inf pixels; every pixel must be a finite number in [0, 1]")
        if (remedy := out_of_range(low, high)) is not None:
            row = start + _first((part <= -_HALF_LEVEL) | (part >= 1 + _HALF_LEVEL))
            raise DreamAccelError(
                f"float pixels reach from {low:.8g} to {high:.8g} (image {row} is the first outside); allowed is "
                f"[0, 1], so {remedy}"
            )
        quantized[start : start + step] = (part * 255).round().to(torch.uint8)
    return quantized


def _range(images: Tensor) -> tuple[float, float]:
    # NumPy, since PyTorch finds no extremes of uint16.
    values = at_least_float32(images) if images.is_floating_point() else images
    pixels = values.cpu().numpy()
    return float(pixels.min()), float(pixels.max())


def _first(faults: Tensor) -> int:
    return int(faults.flatten(1).any(1).int().argmax())
