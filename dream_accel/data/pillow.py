"""Pillow images read as a person sees them."""

from __future__ import annotations

from typing import Any

GREY_MODES = frozenset(("1", "L", "LA", "La"))
"""Modes of Pillow that are read as one channel; all others are converted to RGB."""
DEEP_MODES = ("I", "F")
"""Beginnings of the modes of Pillow with 16 or 32 bits per channel, which are refused."""
ORIENTATION = 0x0112
"""The EXIF tag of the orientation, 1 (upright) to 8; 5 to 8 swap the sides."""


def as_seen(image: Any, mode: str) -> Any:
    """A Pillow image as a viewer shows it: upright, in the colours of its palette, transparent parts on white.

    The orientation in an image's EXIF data is applied to images as they were opened. Images made from those, by a crop
    or a rotation, keep the data, which no longer apply to them.

    Args:
        image: 8 bits per channel.
        mode: ``"L"`` or ``"RGB"``.
    """
    from PIL import Image, ImageOps

    opened = image.format is not None
    image.load()  # of a TIFF file, this alone turns the image
    if opened and image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
