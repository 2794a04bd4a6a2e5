"""Image files decoded into one uint8 array."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol, TypeVar

import numpy as np

from ..errors import DreamAccelError
from .faults import Fault, refusal
from .pillow import ORIENTATION, SCALE_TO_8_BITS, as_seen, fitted, is_grey, without_white
from .pixel_cache import Entry, Images, PixelCache
from .sources import require

T = TypeVar("T")

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
    """Return True for an image file by its name that is not hidden; a folder is none, whatever it is called."""
    return path.suffix.lower() in suffixes() and not path.name.startswith(".") and not path.is_dir()


Order = Callable[[list[int]], list[int]]
"""Puts the places of files, ascending, in another order."""


class ImageFile(Protocol):
    """A file on the disk, or a part of one: it can be opened, and its text is its name in refusals."""

    def open(self, mode: Literal["rb"], /) -> BinaryIO:
        """Open it for reading."""


_SUBMITTED = 4096
"""Calls that wait for a thread at most, each of which takes some memory."""


class _Header(NamedTuple):
    size: tuple[int, int]  # (width, height) of the upright image
    is_grey: bool


def read_files(
    files: Sequence[ImageFile],
    size: int | None = None,
    mode: str | None = None,
    skip_unreadable: bool | None = None,
    order: Order = list,
    entry: Entry | None = None,
) -> Images:
    """Read image files on up to eight threads.

    Scaling is bilinear and antialiased. Images are turned upright by their EXIF orientation, transparent parts are
    white, of 16 bits the upper 8 are read, and of an animation the first frame.

    Args:
        files: at least one.
        size: scale and centre-crop every image to size x size; None: images as they are, all of one size.
        mode: ``"L"`` or ``"RGB"``; default: ``"L"`` where every image is grey, else ``"RGB"``.
        skip_unreadable: whether files that cannot be read are left out; None: they are refused, by a caller that offers
            no choice.
        order: the places of the files that can be read, ascending, in the order of their images.
        entry: where their pixels are kept; default: in memory.

    Raises:
        DreamAccelError: mixed sizes without ``size``, found before anything is decoded; files that cannot be read,
            unless they are left out, of which the first is named and all are counted; no file that can be read; or
            pixels that the entry has no room for.
    """
    can_skip = skip_unreadable is False
    if entry is not None and (found := entry.find()):
        if found.faults and not skip_unreadable:
            raise refusal(files, found.faults, can_skip)
        return found
    pil = require("PIL.Image", "pillow", "reading image files")
    headers: dict[int, _Header] = {}
    undecodable: dict[int, Fault] = {}
    for i, header in enumerate(_in_threads(lambda file: _header(pil, file), files)):
        if isinstance(header, Fault):
            undecodable[i] = header
        else:
            headers[i] = header
    if size is None:
        _refuse_mixed_sizes(files, headers)
    width, height = (size, size) if size else next((header.size for header in headers.values()), (0, 0))
    mode = mode or ("L" if all(header.is_grey for header in headers.values()) else "RGB")

    def decode(place: int, row: np.ndarray) -> None:
        with files[place].open("rb") as file, pil.open(file) as image:
            upright = as_seen(image, mode)
            if size:
                upright = fitted(upright, size)
            elif upright.size != (width, height):  # the file is another than a moment ago
                raise _mixed(files[next(iter(headers))], (width, height), files[place], upright.size)
            row[:] = np.asarray(upright).reshape(height, width, len(mode)).transpose(2, 0, 1)

    def fill(pixels: np.ndarray) -> dict[int, Fault]:
        faults = dict(undecodable)
        held: list[int] = []  # the place of the file whose pixels each row has
        while True:
            wanted = order([place for place in headers if place not in faults])
            # After a fault, only rows that are to have another image than they have.
            rows = [row for row, place in enumerate(wanted) if row >= len(held) or held[row] != place]
            decoded = _in_threads(decode, [wanted[row] for row in rows], map(pixels.__getitem__, rows))
            new = {wanted[row]: fault for row, fault in zip(rows, decoded, strict=True) if fault is not None}
            faults |= new
            if faults and (not skip_unreadable or len(faults) == len(files)):
                raise refusal(files, faults, can_skip)
            if not new:
                return faults
            held = wanted

    return (entry or _in_memory()).store((len(files), len(mode), height, width), fill)


def _in_memory() -> Entry:
    return PixelCache(memory=math.inf).entry("", ())


def _in_threads(work: Callable[..., T], *arguments: Iterable[Any]) -> Iterator[T | Fault]:
    """The results of calls in order, or the reasons why a file could not be read."""

    def attempt(*args: Any) -> T | Fault:
        try:
            return work(*args)
        except (DreamAccelError, MemoryError):
            raise
        except PermissionError:
            return Fault("cannot be read (no permission)", "allow your user to read it")
        except Exception as error:  # Pillow's decoders raise many kinds on damaged files
            reason = " ".join(str(error).split()) or type(error).__name__
            return Fault(f"cannot be read as an image ({reason})", "replace or remove the file")

    # Threads suffice: Pillow releases the interpreter lock while it decodes.
    calls = zip(*arguments, strict=True)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while part := list(islice(calls, _SUBMITTED)):
            yield from pool.map(attempt, *zip(*part, strict=True))


def _header(pil: Any, source: ImageFile) -> _Header | Fault:
    with source.open("rb") as file, pil.open(file) as image:
        if without_white(image):
            return Fault(f"has 32 bits per channel (mode {image.mode})", SCALE_TO_8_BITS)
        return _Header(_upright_size(image, source), is_grey(image))


def _upright_size(image: Any, source: ImageFile) -> tuple[int, int]:
    width, height = image.size
    if width == height or image.format == "TIFF":  # Pillow swaps the sides of a TIFF file when it opens it
        return width, height
    # Asking a PNG file for its orientation decodes it whole.
    asked = image.format != "PNG" or bool(_METADATA & image.info.keys()) or _ends_in_metadata(source)
    turned = asked and image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def _ends_in_metadata(source: ImageFile) -> bool:
    """Return True if a PNG file has metadata behind its pixels, which Pillow finds only after decoding them."""
    with source.open("rb") as file:
        file.seek(8)
        pixels = False
        while len(head := file.read(8)) == 8:
            kind = head[4:]
            if pixels and kind in (b"eXIf", b"iTXt", b"zTXt", b"tEXt"):
                return True
            pixels |= kind == b"IDAT"
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False


def _refuse_mixed_sizes(files: Sequence[ImageFile], headers: dict[int, _Header]) -> None:
    first = next(iter(headers), None)
    for place, header in headers.items():
        if first is not None and header.size != headers[first].size:
            raise _mixed(files[first], headers[first].size, files[place], header.size)


def _mixed(a: ImageFile, a_size: tuple[int, int], b: ImageFile, b_size: tuple[int, int]) -> DreamAccelError:
    return DreamAccelError(
        f"images have mixed sizes: {a} is {a_size[0]}x{a_size[1]} and {b} is {b_size[0]}x{b_size[1]} pixels; "
        "--size N (size=N) scales and centre-crops every image to N x N"
    )
