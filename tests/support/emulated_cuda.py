"""The CUDA kernels on the CPU: builds tests/cuda_emulation and puts it in the place of the CUDA driver."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from dream_accel.backends import _native, cuda

SOURCE = Path(__file__).resolve().parents[1] / "cuda_emulation" / "driver.cpp"
MISTAKES = ["different barriers", "missing lane", "missing barrier"]
ORDERS = {"forward": 0, "backward": 1, "shuffled": 2}


def why_not() -> str | None:
    """Return the reason why the emulation cannot run here; None if it can."""
    if _native.load() is None:
        return f"no compiled host code to drive it: {_native.why_not()}"
    if not _native.load().build_info()["cuda"]:
        return "the CUDA launcher is for Linux"
    return None if compiler() else "no C++ compiler was found"


def compiler() -> list[str] | None:
    """The C++ compiler a build of the project would take."""
    words = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    return words if shutil.which(words[0]) else None


def build(folder: Path, *options: str) -> Path:
    """Compile the device code with the emulation as a driver library."""
    library = folder / "libemulated_cuda.so"
    command = [*compiler(), "-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    command += ["-Wno-unknown-pragmas", "-Wno-unused-but-set-variable", *options, str(SOURCE), "-o", str(library)]
    subprocess.run(command, check=True)
    return library


class Emulation:
    """The driver that is in place."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.emulated_launches.restype = ctypes.c_longlong
        self._library.emulated_waits.restype = ctypes.c_longlong
        self._library.emulate_mistake.restype = ctypes.c_char_p

    def order(self, name: str, seed: int = 0) -> None:
        """Set the order in which blocks and threads are taken from here on."""
        self._library.emulate(ORDERS[name], seed)

    def mistake(self, name: str) -> tuple[str, int]:
        """Run a faulty kernel; what stopped it, and what it wrote."""
        written = ctypes.c_int(-1)
        found = self._library.emulate_mistake(MISTAKES.index(name), ctypes.byref(written))
        return found.decode(), written.value

    def launches(self) -> int:
        """Launches so far."""
        return self._library.emulated_launches()

    def waits(self) -> int:
        """Number of times a thread waited for others, at a barrier or in a shuffle, so far."""
        return self._library.emulated_waits()


@contextlib.contextmanager
def in_place(library: Path) -> Iterator[Emulation]:
    """Within, the CUDA backend takes CPU tensors and its kernels run in the emulation."""
    module = _native.load()
    module.cuda_open(str(library))
    module.cuda_load(0, b"")
    try:
        with (
            mock.patch.object(cuda, "unavailable", return_value=None),
            mock.patch.object(cuda, "refuses_device", return_value=None),
            mock.patch.object(cuda, "queue_of", return_value=cuda.Queue(0, 0)),
            mock.patch.object(cuda, "is_capturing", return_value=False),
            mock.patch.dict(cuda._tickets_of, clear=True),
        ):
            yield Emulation(library)
    finally:
        module.cuda_open("")
