"""Files: one atomic write that every part of the program uses, and the cache folder."""

from __future__ import annotations

import functools
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import DreamAccelError

AnyPath = str | os.PathLike[str]
PART = ".part"
"""Suffix of files and folders that are being written."""


class UnwritableError(DreamAccelError):
    """A place that cannot be written to: no permission, no space, or not of the kind that is written there."""


@contextmanager
def replacing(path: AnyPath) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of ``path`` when the block ends without an error.

    The bytes go to a uniquely named file in the same folder, which is flushed to the disk, renamed to ``path``, and
    the folder is flushed as well. A reader therefore finds the old file or the whole new one, also after a crash or a
    full disk, and two writers never share a temporary file. If the block raises, ``path`` is left as it was and the
    temporary file is removed. Missing parent folders are made. A symbolic link stays; the file that it names is
    replaced.

    Raises:
        UnwritableError: ``path`` is a folder, a device or anything else that is not a regular file.
        OSError: the folder cannot be created or written, or the disk is full.
    """
    path = regular_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def making_folder(path: Path) -> Iterator[Path]:
    """Make a folder that has its name when the block ends without an error; else nothing of it is left.

    Args:
        path: a folder that does not exist, in one that does.

    Yields:
        the folder to fill, ``path`` with a unique part and :data:`PART` behind it, which a killed process leaves.

    Raises:
        OSError: it cannot be created or written.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PART}")
    part.mkdir()
    try:
        yield part
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    _sync_folder(path.parent)


def regular_file(path: AnyPath) -> Path:
    """Return the place of a file that may be written: a regular file or nothing, with symbolic links followed.

    Renaming onto a device or a socket would remove it from the system, which only the superuser is not stopped from.

    Raises:
        UnwritableError: something that is not a regular file is there, or links lead in a circle.
    """
    try:
        place = Path(os.path.realpath(path))
        mode = place.stat().st_mode
    except FileNotFoundError:
        return place
    except OSError as error:
        raise UnwritableError(f"{path} cannot be written ({error.strerror}): name another file") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else None
        raise UnwritableError(
            f"{path} is {kind or 'a pipe or a socket'}: only regular files are written and replaced, name one"
        )
    return place


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

    A user without a home folder gets a temporary one.
    """
    if os.environ.get("DREAM_ACCEL_CACHE"):
        return Path(os.environ["DREAM_ACCEL_CACHE"]).expanduser()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dream_accel"
    except RuntimeError:
        return _private_folder()


@functools.cache
def _private_folder() -> Path:
    """A cache for this process, where the user has no home. Others must not be able to put kernels into it."""
    return Path(tempfile.mkdtemp(prefix="dream-accel-cache-"))


def _sync_folder(folder: Path) -> None:
    """Flush the folder's entries, so that a rename outlives a power cut; not every file system offers it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
