"""Image files decoded into one uint8 array."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DreamAccelError
from .pillow import DEEP_MODES, GREY_MODES, ORIENTATION, SCALE_TO_8_BITS, as_seen
from .sources import require

_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
)
_METADATA = frozenset(("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"))
_OPTIONAL = {"webp": (".webp",), "avif": (".avif", ".avifs"), "jpg_2000": (".jp2", ".j2k", ".jpx")}


@cache
def suffixes() -> frozenset[str]:
    """Suffixes of the image files that are read, in lower case; some depend on how Pillow was built."""
    supported = require("PIL.features", "pillow", "reading image files").get_supported()
    optional = (suffix for feature, names in _OPTIONAL.items() if feature in supported for suffix in names)
    return frozenset((*_SUFFIXES, *optional))


def image_files(folder: Path) -> list[Path]:
    """Files in ``folder`` with the suffix of an image, sorted by name, without hidden files."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(filter(is_image, found), key=lambda path: path.name)


def is_image(path: Path) -> bool:
    """Return True for the name of an image file that is read, and not hidden."""
    return path.suffix.lower() in suffixes() and not path.name.startswith(".")


def common_form(files: Sequence[Path], any_size: bool) -> str:
    """The mode that suits all files, read from their headers.

    Args:
        files: at least one.
        any_size: accept images of several sizes.

    Returns:
        ``"L"`` where every image is grey, else ``"RGB"``.

    Raises:
        DreamAccelError: mixed sizes, unless ``any_size``, found before anything is decoded; an unreadable file.
    """
    pil = require("PIL.Image", "pillow", "reading image files")
    headers: list[tuple[tuple[int, int], bool]] = [((0, 0), True)] * len(files)

    def read_header(i: int) -> None:
        with _opened(pil, files[i]) as image:
            headers[i] = (_upright_size(image, files[i]), image.mode in GREY_MODES)

    _for_each(read_header, len(files))
    odd = next((i for i, (size, _) in enumerate(headers) if size != headers[0][0]), None)
    if odd is not None and not any_size:
        raise _mixed(files[0], headers[0][0], files[odd], headers[odd][0])
    return "L" if all(grey for _, grey in headers) else "RGB"


def decode(files: Sequence[Path], mode: str, size: int | None) -> np.ndarray:
    """Decode files on up to eight threads.

    Scaling is bilinear and antialiased. Images are turned upright by their EXIF orientation, transparent parts are
    white, and of an animation the first frame is read.

    Args:
        files: at least one.
        mode: ``"L"`` or ``"RGB"``.
        size: scale and centre-crop every image to size x size; None: images as they are, all of one size.

    Returns:
        uint8 (N, C, H, W).

    Raises:
        DreamAccelError: an unreadable file, or one of another size.
    """
    pil = require("PIL.Image", "pillow", "reading image files")
    ops = require("PIL.ImageOps", "pillow", "reading image files")
    with _opened(pil, files[0]) as first:
        expected = (size, size) if size else _upright_size(first, files[0])
    pixels = np.empty((len(files), len(mode), expected[1], expected[0]), np.uint8)

    def read_pixels(i: int) -> None:
        with _opened(pil, files[i]) as image:
            upright = as_seen(image, mode)
            if size:
                upright = ops.fit(upright, (size, size), method=pil.Resampling.BILINEAR)
            elif upright.size != expected:
                raise _mixed(files[0], expected, files[i], upright.size)
            pixels[i] = np.asarray(upright).reshape(*pixels.shape[2:], len(mode)).transpose(2, 0, 1)

    _for_each(read_pixels, len(files))
    return pixels


@contextmanager
def _opened(pil: Any, path: Path) -> Iterator[Any]:
    try:
        with pil.open(path) as image:
            if image.mode.startswith(DEEP_MODES):
                raise DreamAccelError(f"{path} has more than 8 bits per channel (mode {image.mode}); {SCALE_TO_8_BITS}")
            yield image
    except DreamAccelError:
        raise
    except PermissionError as error:
        raise DreamAccelError(f"{path} cannot be read (no permission); allow your user to read it") from error
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DreamAccelError(f"{path} cannot be read as an image ({reason}); replace or remove the file") from error


def _upright_size(image: Any, path: Path) -> tuple[int, int]:
    width, height = image.size
    if width == height or image.format == "TIFF":  # Pillow swaps the sides of a TIFF file when it opens it
        return width, height
    # Asking a PNG file for its orientation decodes it whole.
    asked = image.format != "PNG" or bool(_METADATA & image.info.keys()) or _ends_in_metadata(path)
    turned = asked and image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def _ends_in_metadata(path: Path) -> bool:
    """Return True if a PNG file has metadata behind its pixels, which Pillow finds only after decoding them."""
    with path.open("rb") as file:
        file.seek(8)
        pixels = False
        while len(head := file.read(8)) == 8:
            kind = head[4:]
            if pixels and kind in (b"eXIf", b"iTXt", b"zTXt", b"tEXt"):
                return True
            pixels |= kind == b"IDAT"
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False


def _mixed(a: Path, a_size: tuple[int, int], b: Path, b_size: tuple[int, int]) -> DreamAccelError:
    return DreamAccelError(
        f"images have mixed sizes: {a} is {a_size[0]}x{a_size[1]} and {b} is {b_size[0]}x{b_size[1]} pixels; "
        "--size N (size=N) scales and centre-crops every image to N x N"
    )


def _for_each(work: Callable[[int], None], n: int) -> None:
    # Threads suffice: Pillow releases the interpreter lock while it decodes.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(work, range(n)):
            pass
