"""Files: one atomic write that every part of the program uses, and the cache folder."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import DreamAccelError

AnyPath = str | os.PathLike[str]


@contextmanager
def replacing(path: AnyPath) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of ``path`` when the block ends without an error.

    The bytes go to a uniquely named file in the same folder, which is flushed to the disk, renamed to ``path``, and
    the folder is flushed as well. A reader therefore finds the old file or the whole new one, also after a crash or a
    full disk, and two writers never share a temporary file. If the block raises, ``path`` is left as it was and the
    temporary file is removed. Missing parent folders are made.

    Raises:
        OSError: the folder cannot be made or written, or the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_bytes(path: AnyPath, data: bytes) -> None:
    """Write a whole file atomically; see :func:`replacing`."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: AnyPath, text: str) -> None:
    """Write a whole text file atomically, in UTF-8, line ends as they are; see :func:`replacing`."""
    write_bytes(path, text.encode())


def append_lines(path: AnyPath, lines: Iterable[str]) -> None:
    """Add lines to a text file by writing it anew atomically, so that no line is ever cut in the middle."""
    path = Path(path)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    write_text(path, before + "".join(f"{line}\n" for line in lines))


def cache_folder() -> Path:
    """The folder for compiled kernels and tuned tiles: $DREAM_ACCEL_CACHE, else dream_accel in the user's cache.

    Raises:
        DreamAccelError: it is in the home directory, which is not known, as for a user id without an entry.
    """
    own = os.environ.get("DREAM_ACCEL_CACHE")
    path = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "dream_accel")
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise DreamAccelError(
            f"{path} is in the home directory, which is not known ({error}); set the environment variable HOME or "
            "DREAM_ACCEL_CACHE"
        ) from error


def _sync_folder(folder: Path) -> None:
    """Flush the folder's entries, so that a rename outlives a power cut; not every file system offers it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
