"""Arrays as users have them, checked and brought to the one form an ``ImageSet`` holds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import DreamAccelError

_CHANNEL_COUNTS = (1, 3)
_CHUNK_BYTES = 64 << 20


def rows_per_chunk(n_values: int) -> int:
    """Rows of ``n_values`` float32 values in 64 MiB, the chunk in which sets are read or made as floats."""
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
    """Contiguous uint8 (N, C, H, W) from whatever ``ImageSet.from_arrays`` accepts.

    The input's memory is shared where it already has that form.
    """
    channels_first = _is_torch(images)
    tensor = _to_nchw(_as_tensor(images, "images"), layout, channels_first)
    if tensor.shape[0] == 0:
        raise DreamAccelError("the set holds 0 images; at least one image per class is needed")
    if 0 in tensor.shape:
        raise DreamAccelError(f"images of {_size(tensor)} have no pixels; every side must be at least 1")
    if tensor.dtype == torch.uint8:
        return tensor.contiguous()
    if not tensor.is_floating_point():
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise DreamAccelError(
            f"images are {dtype}; allowed are uint8 (0..255) and floating point in [0, 1], so cast them to uint8"
        )
    return _quantize(tensor)


def to_labels(
    labels: Any, n_images: int, n_classes: int | None, class_names: Sequence[str] | None, allow_empty: bool
) -> tuple[Tensor, tuple[str, ...]]:
    """int64 labels (N,), checked, and one name per class."""
    tensor = _as_tensor(labels, "labels")
    if tensor.ndim == 2 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    if tensor.ndim != 1:
        raise DreamAccelError(f"labels have shape {tuple(tensor.shape)}; allowed is (N,), one class index per image")
    if tensor.shape[0] != n_images:
        raise DreamAccelError(
            f"there are {n_images} images and {tensor.shape[0]} labels; each image needs exactly one label"
        )
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise DreamAccelError(f"labels are {dtype}; allowed are integers 0..C-1, so cast them to int64")
    tensor = tensor.to(torch.int64).contiguous()

    names = None if class_names is None else tuple(str(name) for name in class_names)
    if names is not None and n_classes is not None and len(names) != n_classes:
        raise DreamAccelError(f"there are {len(names)} class names for {n_classes} classes; give one name per class")
    present = torch.unique(tensor).tolist()
    count = len(names) if names is not None else n_classes if n_classes is not None else present[-1] + 1
    if present[0] < 0 or present[-1] >= count:
        allowed = f"0..{count - 1} for {count} classes" if present[-1] >= 0 else "0..C-1"
        raise DreamAccelError(
            f"labels reach from {present[0]} to {present[-1]}; allowed are the integers {allowed}, so renumber them"
        )
    if not allow_empty:
        _refuse_empty_classes(present, count, names)
    return tensor, names if names is not None else tuple(str(c) for c in range(count))


def _refuse_empty_classes(present: list[int], count: int, names: tuple[str, ...] | None) -> None:
    if len(present) == count:
        return
    used = set(present)
    # Not all of them: one stray label of 10**12 would leave as many classes empty.
    empty = list(islice((c for c in range(count) if c not in used), 6))
    shown = [str(c) if names is None else f"{c} ({names[c]!r})" for c in empty[:5]]
    shown += ["..."] if len(empty) > 5 else []
    noun = "class" if len(empty) == 1 else "classes"
    raise DreamAccelError(
        f"no image carries the label of {noun} {', '.join(shown)}; labels must use every index "
        f"0..{count - 1}, so renumber them"
    )


def resize_and_crop(images: Tensor, size: int) -> Tensor:
    """uint8 (N, C, H, W) -> (N, C, size, size).

    The shorter side is scaled to ``size`` (bilinear, antialiased), then the centre is cut out.
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


def _is_torch(array: Any) -> bool:
    first = array[0] if isinstance(array, (list, tuple)) and len(array) else array
    return isinstance(first, Tensor)


def _as_tensor(array: Any, what: str) -> Tensor:
    if isinstance(array, Tensor):
        return array.detach()
    if isinstance(array, np.ndarray) and array.dtype == object:
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
    if not array.flags.writeable:  # torch has no read-only tensors
        array = array.copy()
    try:
        return torch.from_numpy(array)
    except TypeError:
        raise DreamAccelError(
            f"the {what} are an array of {array.dtype}, which is not a number type PyTorch knows"
        ) from None


def _stack(arrays: Sequence[Any], what: str) -> Any:
    shapes = [tuple(np.shape(array)) for array in arrays]
    odd = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
    if odd is not None:
        raise DreamAccelError(
            f"the {what} have mixed shapes: number 0 is {shapes[0]} and number {odd} is {shapes[odd]}; "
            "resize them to one shape first"
        )
    if arrays and all(isinstance(array, Tensor) for array in arrays):
        return torch.stack([array.detach() for array in arrays])
    return np.asarray(arrays)


def _to_nchw(tensor: Tensor, layout: str, prefer_channels_first: bool) -> Tensor:
    if layout not in ("auto", "nchw", "nhwc"):
        raise DreamAccelError(f'layout is {layout!r}; allowed are "auto", "nchw" and "nhwc"')
    if tensor.ndim == 3:
        return tensor[:, None]
    shape = tuple(tensor.shape)
    if tensor.ndim != 4:
        raise DreamAccelError(f"images have shape {shape}; allowed are (N, H, W), (N, H, W, C) and (N, C, H, W)")
    if layout == "auto":
        first, last = shape[1] in _CHANNEL_COUNTS, shape[3] in _CHANNEL_COUNTS
        if not (first or last):
            raise DreamAccelError(
                f"images have shape {shape} with neither axis 1 nor axis 3 of length 1 or 3; "
                'say which is the channel axis with layout="nchw" or layout="nhwc"'
            )
        layout = "nchw" if first and (prefer_channels_first or not last) else "nhwc"
    return tensor if layout == "nchw" else tensor.permute(0, 3, 1, 2)


def _quantize(images: Tensor) -> Tensor:
    quantized = torch.empty(images.shape, dtype=torch.uint8, device=images.device)
    step = rows_per_chunk(images[0].numel())
    for start in range(0, len(images), step):
        part = images[start : start + step]
        if part.dtype in (torch.float16, torch.bfloat16):
            part = part.float()
        low, high = (float(value) for value in torch.aminmax(part))  # NaN and Inf both surface here
        if not (np.isfinite(low) and np.isfinite(high)):
            row = start + int((~torch.isfinite(part)).flatten(1).any(1).int().argmax())
            raise DreamAccelError(f"image {row} has NaN or Inf pixels; every pixel must be a finite number in [0, 1]")
        if low < 0 or high > 1:
            raise DreamAccelError(
                f"float pixels reach from {low:.8g} to {high:.8g}; allowed is [0, 1], so divide by 255 or "
                "undo the normalisation"
            )
        quantized[start : start + step] = (part * 255).round().to(torch.uint8)
    return quantized


def _size(images: Tensor) -> str:
    return "x".join(str(side) for side in images.shape[1:])
