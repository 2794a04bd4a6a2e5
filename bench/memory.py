"""Peak memory of a call above what was in use before it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def peak_memory(call: Callable[[], Any], device: torch.device) -> float | None:
    """Measure the peak in megabytes (1e6 bytes), including what the call returns; None where this system cannot tell.

    On CUDA it is memory allocated by PyTorch, on Linux CPUs resident memory of the process.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed would hide what this one takes
        _CLEAR.write_text("5")  # the peak begins at the present size
        before_kb = _resident("VmRSS")
        call()
        return (_resident("VmHWM") - before_kb) * 1024 / 1e6
    except (OSError, AttributeError):
        return None


def _resident(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])
