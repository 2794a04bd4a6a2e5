"""Convolutions on a GPU that give the same bits in every run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_depth = 0
_before = (False, False)


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Let cuDNN use only algorithms that give the same bits in every run, and choose none by timing it.

    The settings are those of the process, ``torch.backends.cudnn.deterministic`` and ``benchmark``, and are put back at
    the end. May be nested. On other devices than CUDA ones nothing happens.

    ``torch.use_deterministic_algorithms`` is left alone: it fills all memory that is allocated, and the program avoids
    the operators that it replaces (docs/design.md, rule 2).

    Args:
        device: where the computation runs.
    """
    global _depth, _before
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    with _lock:
        if _depth == 0:
            _before = (cudnn.deterministic, cudnn.benchmark)
            cudnn.deterministic, cudnn.benchmark = True, False
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                cudnn.deterministic, cudnn.benchmark = _before
