"""Memory of this process on a device: what it uses, the most that it used, and what is free."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import TracebackType

import torch

INTERVAL = 0.005
"""Seconds between two looks at the memory of the process."""
_CGROUP = Path("/sys/fs/cgroup")


def used_memory(device: torch.device) -> int:
    """Return the bytes that this process uses: resident in host memory, or allocated on a GPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:  # not Linux: the most it has used so far
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def available_memory(device: torch.device) -> int:
    """Return the bytes that this process can still take: of a GPU, or of the machine within the limit of its group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux: all that the machine has
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    try:
        limit = int((_CGROUP / "memory.max").read_text(encoding="ascii"))
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no limit, or no such file system
        return free
    return min(free, max(0, limit - used))


def mapped_memory(tensor: torch.Tensor) -> int | None:
    """Return the resident bytes of the file that a tensor is mapped from; None if it is in memory of its own.

    The operating system takes such pages back when it needs memory. Where it does not tell, None as well.
    """
    if tensor.device.type != "cpu":
        return None
    try:
        lines = Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    address, within = tensor.data_ptr(), False
    for line in lines:
        first, _, rest = line.partition(" ")
        if not first.endswith(":"):  # a mapping: its range, permissions, offset, device, inode and file
            begin, end = (int(part, 16) for part in first.split("-"))
            within = begin <= address < end
            if within and int(rest.split()[3]) == 0:
                return None
        elif within and first == "Rss:":
            return 1024 * int(rest.split()[0])
    return None


class MemoryWatch:
    """Finds the most memory that a ``with`` block used.

    Attributes:
        before: bytes at the beginning of the block.
        peak: the most bytes during it. Host memory is looked at every few milliseconds.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.before = self.peak = 0

    def __enter__(self) -> MemoryWatch:
        self.before = self.peak = used_memory(self._device)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self._device)
            return
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(INTERVAL):
            self.peak = max(self.peak, used_memory(self._device))
