"""Signals that ask a process to end, handled as Ctrl-C is, so that a run keeps what it has done."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""The signals: of ``kill``, of systemd, Docker and Kubernetes, and of SLURM at a time limit (SIGTERM); and the one that
SLURM is usually asked to send before it, as in ``sbatch --signal=USR1@60`` (SIGUSR1)."""


@contextmanager
def interrupting_signals() -> Iterator[None]:
    """Within the block a signal of :data:`STOPPING` raises KeyboardInterrupt in the main thread, as Ctrl-C does.

    Signals that are ignored, or that somebody else handles, are left alone.
    """
    ours = [number for number in STOPPING if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
