"""Freed memory kept in the process while a CPU allocates the same large tensors again and again."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_LARGEST_MMAP_THRESHOLD = 32 << 20
_NEVER = (1 << 31) - 1

_lock = threading.Lock()
_depth = 0


@contextmanager
def retained_heap() -> Iterator[None]:
    """Keep freed memory for the next allocation instead of giving it back to the operating system.

    PyTorch has no cache for CPU memory: an activation of a few MB is freed, its pages go back, and the next step has
    them zeroed and mapped again, which takes up to half the time of a training step. Inside, glibc's allocator keeps
    them (one setting for the process; blocks above 32 MB are not affected). At the end unused memory is given back, and
    the thresholds are set to where glibc's own adaptation ends for a program with tensors of this size. Without glibc
    nothing happens. May be nested.
    """
    global _depth
    libc = _glibc()
    if libc is None:
        yield
        return
    with _lock:
        if _depth == 0:
            libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
            libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                libc.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_MMAP_THRESHOLD)
                libc.malloc_trim(0)


@functools.cache
def _glibc() -> Any:
    """The C library where it is glibc, else None."""
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 (raises where the symbol is missing)
    except (OSError, AttributeError, TypeError):
        return None
    return libc
