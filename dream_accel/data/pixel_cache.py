"""Decoded images in memory, or in a mapped file of the cache folder where they are many."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from ..errors import DreamAccelError
from ..runtime.files import PART, cache_folder, making_folder, write_text
from .faults import Fault

IMAGE_MEMORY = 8.0
"""Decoded images of a set held in memory at most, GB; larger sets go to a mapped file."""
IMAGE_DISK = 100.0
"""Decoded images of all sets kept on disk at most, GB; those used longest ago give way."""

_FORMAT = "1"
_PIXELS, _ENTRY = "pixels.npy", "entry.json"

Fill = Callable[[np.ndarray], Mapping[int, Fault]]
"""Decodes images into the first rows of uint8 (n, C, H, W) and returns those that cannot be read by their place."""


class Images(NamedTuple):
    """The pixels of image files.

    Attributes:
        pixels: uint8 (n, C, H, W), of those that could be read, in memory or mapped from a file.
        faults: the files that could not be read, by their place in the list.
    """

    pixels: np.ndarray
    faults: Mapping[int, Fault]


@dataclass(frozen=True)
class PixelCache:
    """A store of decoded images: memory up to a budget, else files that the next run finds.

    A file is mapped into memory: its pages are read when they are needed, and the operating system drops them when it
    needs the memory, so that a set may be larger than the memory.

    Args:
        memory: budget of a set in memory, GB (1e9 bytes).
        disk: budget of all files together, GB. Sets used longest ago are deleted to make room.
        folder: of the files; default: ``images`` in the cache folder of the program.
    """

    memory: float = IMAGE_MEMORY
    disk: float = IMAGE_DISK
    folder: Path = field(default_factory=lambda: cache_folder() / "images")

    def entry(self, source: str, files: Iterable[Path], *settings: object) -> Entry:
        """The place of one set, named by a hash of its files and of all that its pixels depend on.

        Args:
            source: the name of the set, for people who look into the folder.
            files: all files that are read, of which path, size and time of the last change count.
            settings: what else determines the pixels.
        """
        import PIL

        name = hashlib.blake2b(repr((_FORMAT, PIL.__version__, settings)).encode(), digest_size=12)
        for path in files:
            with suppress(OSError):  # a file that is gone is refused when it is read
                held = path.stat()
                name.update(f"{path}\0{held.st_size}\0{held.st_mtime_ns}\0".encode())
        return Entry(self, name.hexdigest(), source)

    def make_room(self, needed: int) -> None:
        """Delete the sets used longest ago until ``needed`` bytes fit the budget, and remains of processes that died.

        Raises:
            DreamAccelError: a set of that size fits neither the budget nor the disk.
        """
        if needed > self.disk * 1e9:
            raise DreamAccelError(
                f"the decoded images take {needed / 1e9:.3g} GB, and {self.memory:g} GB may be held in memory and "
                f"{self.disk:g} GB on disk: choose a smaller --size (size=), or raise --image-disk (image_disk=)"
            )
        self._remove_remains()
        sets = sorted((path for path in self.folder.iterdir() if _is_set(path)), key=lambda path: path.stat().st_mtime)
        held = {path: (path / _PIXELS).stat().st_size for path in sets}
        for path in sets:
            if sum(held.values()) + needed <= self.disk * 1e9:
                break
            shutil.rmtree(path, ignore_errors=True)  # pages that a process has mapped stay until it ends
            del held[path]
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise DreamAccelError(
                f"the decoded images take {needed / 1e9:.3g} GB and the disk of {self.folder} has {free / 1e9:.3g} GB "
                "free: free some, choose a smaller --size (size=), or name a folder on another disk with the "
                "environment variable DREAM_ACCEL_CACHE"
            )

    def _remove_remains(self) -> None:
        for part in self.folder.glob(f"*{PART}"):
            with _locked(self.folder / f"{part.name.split('.')[0]}.lock", wait=False) as ours:
                if ours:
                    shutil.rmtree(part, ignore_errors=True)


@dataclass(frozen=True)
class Entry:
    """The place of one set in a :class:`PixelCache`."""

    cache: PixelCache
    name: str
    source: str

    def find(self) -> Images | None:
        """The images of an earlier run, mapped; None where there are none, or none that are whole."""
        place = self.cache.folder / self.name
        try:
            faults = json.loads((place / _ENTRY).read_text(encoding="utf-8"))["faults"]
            # Copied on write: nobody writes, and arrays that may not be written to cannot become tensors.
            pixels = np.load(place / _PIXELS, mmap_mode="c", allow_pickle=False)
            if pixels.dtype != np.uint8 or pixels.ndim != 4:
                return None
            found = {int(i): Fault(*fault) for i, fault in faults.items()}
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
            return None
        with suppress(OSError):
            os.utime(place)
        return Images(np.asarray(pixels), found)

    def store(self, shape: tuple[int, ...], fill: Fill) -> Images:
        """Decode images, into memory if they fit its budget, else into a file.

        Processes that store the same set at once wait for the first, and find its images.

        Args:
            shape: (n, C, H, W).
            fill: decodes them.

        Raises:
            DreamAccelError: they fit neither the memory's budget nor the disk's, or the folder cannot be written to.
        """
        if np.prod(shape, dtype=float) <= self.cache.memory * 1e9:
            pixels = np.empty(shape, np.uint8)
            faults = fill(pixels)
            return Images(pixels[: shape[0] - len(faults)], faults)
        folder = self.cache.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder / f"{self.name}.lock"):
                if found := self.find():
                    return found
                self.cache.make_room(int(np.prod(shape, dtype=np.int64)))
                self._write(shape, fill)
        except OSError as error:
            raise DreamAccelError(
                f"the decoded images cannot be written to {folder} ({error.strerror or error}): name another folder "
                "with the environment variable DREAM_ACCEL_CACHE, or hold them in memory with --image-memory GB "
                "(image_memory=)"
            ) from error
        found = self.find()
        assert found is not None
        return found

    def _write(self, shape: tuple[int, ...], fill: Fill) -> None:
        place = self.cache.folder / self.name
        shutil.rmtree(place, ignore_errors=True)  # damaged
        with making_folder(place) as part:
            pixels = np.lib.format.open_memmap(part / _PIXELS, mode="w+", dtype=np.uint8, shape=shape)
            with (part / _PIXELS).open("r+b") as file:
                if hasattr(os, "posix_fallocate"):  # a disk that fills up later would end the process by a signal
                    os.posix_fallocate(file.fileno(), 0, pixels.offset + pixels.nbytes)
                faults = fill(pixels)
                pixels.flush()
                _shorten(file, (shape[0] - len(faults), *shape[1:]))
                os.fsync(file.fileno())
            write_text(part / _ENTRY, json.dumps({"source": self.source, "faults": faults}))


def _shorten(file: IO[bytes], shape: tuple[int, ...]) -> None:
    """Write the header of fewer images, which has the length of the first one, and cut off the rest."""
    np.lib.format.write_array_header_1_0(
        file, {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
    )
    file.truncate(file.tell() + int(np.prod(shape, dtype=np.int64)))


def _is_set(path: Path) -> bool:
    return path.suffix != PART and (path / _PIXELS).is_file()


@contextmanager
def _locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a lock that ends with the process; yields whether it was free, or could be waited for."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield False
        return
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = True
        except OSError:  # held by another, or a file system without locks
            ours = False
        yield ours
