"""NVRTC, CUDA's run-time compiler, which compiles the device code where the module was built without nvcc.

CuPy's NVRTC is used where CuPy is installed, otherwise the library that PyTorch's CUDA builds include. Neither needs a
CUDA toolkit. Nothing is imported before the first use.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import DreamAccelError

LOG = 600
"""Characters of a compiler's log that are repeated; the first errors are those that matter."""

Sources = Sequence[tuple[str, str]]
"""(name in #include, text) of every file; the first is compiled, the others are its headers."""


class Compiler(NamedTuple):
    """A run-time compiler that was found."""

    name: str
    """The package that provides it, and its version."""
    compile: Callable[[Sources, Sequence[str]], bytes]
    """Compiles sources with options to machine code. Raises DreamAccelError with the compiler's log."""


def find() -> Compiler | str:
    """The run-time compiler, or why there is none."""
    reasons = []
    for candidate in (_of_cupy, _of_pytorch):
        found = candidate()
        if isinstance(found, Compiler):
            return found
        reasons.append(found)
    return f"{'; '.join(reasons)}; install CuPy (`pip install 'dream-accel[cupy13x]'`) or a CUDA build of PyTorch"


def _of_cupy() -> Compiler | str:
    if importlib.util.find_spec("cupy_backends") is None:
        return "CuPy is not installed"
    try:
        nvrtc: Any = importlib.import_module("cupy_backends.cuda.libs.nvrtc")
        version = ".".join(map(str, nvrtc.getVersion()))
    except Exception as error:  # CuPy passes on any error of its search for the library
        return f"CuPy finds no NVRTC ({' '.join(str(error).split())})"

    def compile_sources(sources: Sources, options: Sequence[str]) -> bytes:
        (name, text), *headers = sources
        program = nvrtc.createProgram(text, name, [t.encode() for _, t in headers], [n.encode() for n, _ in headers])
        try:
            nvrtc.compileProgram(program, tuple(options))
            return nvrtc.getCUBIN(program)
        except nvrtc.NVRTCError as error:
            raise _failure(str(error), nvrtc.getProgramLog(program)) from None
        finally:
            nvrtc.destroyProgram(program)

    return Compiler(f"CuPy's NVRTC {version}", compile_sources)


def _of_pytorch() -> Compiler | str:
    if torch.version.cuda is None:
        return "PyTorch is not built for CUDA"
    major, minor = torch.version.cuda.split(".")[:2]
    names = [f"libnvrtc.so.{major}", f"libnvrtc.so.{major}.{minor}"]
    for path in (*names, *(str(folder / name) for folder in _nvidia_folders() for name in names)):
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        return Compiler(f"PyTorch's NVRTC {_version(library)}", functools.partial(_compile, library))
    return f"PyTorch is built for CUDA {torch.version.cuda}, but brings no {names[0]}"


def _nvidia_folders() -> Iterator[Path]:
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec and spec.submodule_search_locations) or ():
        yield from Path(folder).glob("*/lib")


def _version(library: Any) -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def _compile(library: Any, sources: Sources, options: Sequence[str]) -> bytes:
    (name, text), *headers = sources
    program = ctypes.c_void_p()
    texts, names, arguments = (
        (ctypes.c_char_p * len(strings))(*(s.encode() for s in strings))
        for strings in ([t for _, t in headers], [n for n, _ in headers], options)
    )
    status = library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), name.encode(), len(headers), texts, names)
    if status:
        raise _failure(f"nvrtcCreateProgram gives {status}", "")
    try:
        status = library.nvrtcCompileProgram(program, len(options), arguments)
        if status:
            log = _read(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program)
            raise _failure(f"nvrtcCompileProgram gives {status}", log.decode(errors="replace"))
        return _read(library.nvrtcGetCUBINSize, library.nvrtcGetCUBIN, program)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _read(get_size: Any, get: Any, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    get_size(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    get(program, buffer)
    return buffer.raw


def _failure(what: str, log: str) -> DreamAccelError:
    return DreamAccelError(f"NVRTC does not compile the CUDA kernels ({what}): {textwrap.shorten(log, LOG)}")
