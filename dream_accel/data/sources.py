"""Parts shared by the sources of data sets: the data folder, optional imports, and refusals."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DreamAccelError
from ..runtime.files import replacing
from .pixel_cache import PixelCache


class Reading(NamedTuple):
    """Options of reading a data set, of which each source heeds those that concern it.

    Attributes:
        download: fetch a named set that is not there.
        size: scale and centre-crop every image to size x size as it is read, by sources whose images may have several
            sizes; the others are resized later. None: images as they are.
        skip_unreadable: leave out image files that cannot be read; one warning counts them and names the first.
        cache: where decoded images are held.
    """

    download: bool = False
    size: int | None = None
    skip_unreadable: bool = False
    cache: PixelCache = PixelCache()


def default_data_dir() -> Path:
    """$DREAM_ACCEL_DATA, else ~/.cache/dream_accel/data.

    Raises:
        DreamAccelError: the home directory is needed and not known.
    """
    return expanded(os.environ.get("DREAM_ACCEL_DATA") or "~/.cache/dream_accel/data")


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with ``~`` replaced by the home directory.

    Raises:
        DreamAccelError: there is a ``~`` and the home directory is not known, as for a user id without an entry.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DreamAccelError(
            f"{path} is in the home directory, which is not known ({error}); set the environment variable HOME, or "
            "name the data folder with --data-dir (data_dir=) or the environment variable DREAM_ACCEL_DATA"
        ) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Refuse what the operating system does not let be read, by its name."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise DreamAccelError(
            f"{where} cannot be read ({error.strerror or error}); allow your user to read it and the folders above it, "
            "or name another place"
        ) from error


def require(module: str, package: str, purpose: str) -> Any:
    """Import a module that only some sources need.

    Args:
        module: the name to import.
        package: the name to install.
        purpose: what needs it, the beginning of the refusal.

    Raises:
        DreamAccelError: it cannot be imported; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DreamAccelError(
            f"{purpose} needs {package}, which cannot be imported ({error}); run: pip install {package}"
        ) from error


@contextmanager
def naming(source: object) -> Iterator[None]:
    """Begin the refusals raised inside with the file or data set they are about."""
    try:
        yield
    except DreamAccelError as error:
        raise DreamAccelError(f"{source}: {error}") from error


def not_found(name: str, data_dir: Path, missing: Path) -> DreamAccelError:
    """The refusal of a set whose file ``missing`` is not in ``data_dir``."""
    return DreamAccelError(
        f"{name} was not found in {data_dir} ({missing.relative_to(data_dir)} is missing); fetch it with "
        "--download (download=True), or name the folder that has it with data_dir= or the environment "
        "variable DREAM_ACCEL_DATA"
    )


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write a .npz atomically."""
    with replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
