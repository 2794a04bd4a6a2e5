"""Pillow images read as a person sees them."""

from __future__ import annotations

from typing import Any

import numpy as np

_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_GREY_MODES = frozenset(("1", "L", "LA", "La"))
SCALE_TO_8_BITS = (
    "scale it, np.uint8(np.asarray(image) / white * 255) with the value of white, since convert('L') of Pillow clips "
    "instead"
)
"""The remedy for images whose white is not known."""
ORIENTATION = 0x0112
"""The EXIF tag of the orientation, 1 (upright) to 8; 5 to 8 swap the sides."""


def is_grey(image: Any) -> bool:
    """Return whether a Pillow image is read as one channel; all others, palettes among them, become RGB."""
    return image.mode in _GREY_MODES or _has_16_bits(image)


def without_white(image: Any) -> bool:
    """Return whether a Pillow image has integers of 32 bits or floats, whose value of white is not defined."""
    return image.mode.startswith(("I", "F")) and not _has_16_bits(image)


def as_seen(image: Any, mode: str) -> Any:
    """A Pillow image as a viewer shows it: upright, in the colours of its palette, transparent parts on white.

    The orientation in an image's EXIF data is applied to images as they were opened. Images made from those, by a crop
    or a rotation, keep the data, which no longer apply to them. Of 16 bits the upper 8 are read, as Pillow does with
    colours.

    Args:
        image: any that is not :func:`without_white`.
        mode: ``"L"`` or ``"RGB"``.
    """
    from PIL import Image, ImageOps

    opened, deep = image.format is not None, _has_16_bits(image)
    image.load()  # of a TIFF file, this alone turns the image
    if opened and image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if deep:
        image = _upper_bits(image)
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def fitted(image: Any, size: int) -> Any:
    """An image scaled, bilinear and antialiased, and centre-cropped to size x size pixels."""
    from PIL import Image, ImageOps

    return ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)


def _has_16_bits(image: Any) -> bool:
    # Pillow opens deep PGM files, and before version 11 deep PNG files, as integers of 32 bits, 65535 being white.
    return image.mode in _SIXTEEN_BITS or (image.mode == "I" and image.format in ("PPM", "PNG"))


def _upper_bits(image: Any) -> Any:
    """The upper 8 of 16 bits, mode L; a grey level that the file calls transparent is white."""
    from PIL import Image

    values = np.asarray(image)
    grey = (values >> 8).astype(np.uint8)
    if isinstance(level := image.info.get("transparency"), int):
        grey[values == level] = 255
    return Image.fromarray(grey)
