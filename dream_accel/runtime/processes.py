"""Worker processes: the calls of one function spread over processes, each with its share of the threads.

A process that dies costs the call it was at, and the next call gets a new one. Ctrl-C reaches a worker once, so that
what it writes on its way out is not interrupted again; a worker whose parent has ended takes that for a Ctrl-C.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from ..errors import DreamAccelError

PATIENCE = 60.0
"""Seconds that interrupted workers have to write what they hold, before they are stopped."""


@dataclass(frozen=True)
class Died:
    """The outcome of a call whose process ended before it returned.

    Attributes:
        reason: a signal or an exit status, in words.
    """

    reason: str


def check_jobs(jobs: int) -> None:
    """Refuse a number of processes below 1.

    Raises:
        DreamAccelError: names the number.
    """
    if jobs < 1:
        raise DreamAccelError(f"jobs is {jobs}: name the number of processes, 1 or more")


def threads_each(jobs: int) -> int:
    """The threads of each of ``jobs`` processes: those of PyTorch in this one, divided, and at least 1."""
    return max(1, torch.get_num_threads() // jobs)


def spread(function: Callable[[Any], Any], items: Sequence[Any], jobs: int) -> Iterator[tuple[int, Any]]:
    """Call a function on every item, in ``jobs`` processes at once.

    Args:
        function: a function of a module, which a process imports. What it raises is raised here; it should catch what
            must not stop the other calls.
        items: its arguments, which are pickled from this process to its own workers.
        jobs: processes at most.

    Yields:
        the place of an item and what the function returned for it, or :class:`Died`, in the order of completion.

    Raises:
        DreamAccelError: ``jobs`` is below 1.
        KeyboardInterrupt: Ctrl-C was pressed, and the workers have ended.
    """
    check_jobs(jobs)
    left = list(enumerate(items))[::-1]
    threads = threads_each(jobs)
    workers = [_Worker(function, threads) for _ in range(min(jobs, len(items)))]
    try:
        for worker in workers:
            worker.begin(*left.pop())
        while busy := {worker.answers: worker for worker in workers if worker.place is not None}:
            for answers in wait(list(busy)):
                worker = busy[answers]  # type: ignore[index]
                place, outcome = worker.outcome()
                if isinstance(outcome, Died) and left:
                    workers[workers.index(worker)] = worker = _Worker(function, threads)
                if left and not isinstance(outcome, BaseException):
                    worker.begin(*left.pop())
                if isinstance(outcome, BaseException):
                    raise outcome
                yield place, outcome
    finally:
        # After Ctrl-C, an error, or a caller that stops early; workers without a call end at once.
        _stop(workers)


def _stop(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.interrupt()
    try:
        for worker in workers:
            worker.process.join(PATIENCE)
    finally:  # a second Ctrl-C does not wait
        for worker in workers:
            worker.process.terminate()
            worker.answers.close()


class _Worker:
    """One process, and the call it is at."""

    def __init__(self, function: Callable[[Any], Any], threads: int) -> None:
        # A forked process would inherit threads and CUDA contexts that do not work in it.
        context = multiprocessing.get_context("spawn")
        self.answers, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, theirs, threads), daemon=True)
        resource_tracker.ensure_running()  # it unblocks SIGINT when it is started
        # Until the worker can handle a Ctrl-C, it waits.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # so that the end of the process is the end of the pipe
        self.place: int | None = None

    def begin(self, place: int, item: Any) -> None:
        self.place = place
        with contextlib.suppress(OSError):  # a process that died is noticed when its answer is read
            self.answers.send(item)

    def outcome(self) -> tuple[int, Any]:
        place, self.place = self.place, None
        assert place is not None
        try:
            return place, self.answers.recv()
        except (EOFError, OSError):
            self.process.join(PATIENCE)
            return place, Died(_ending(self.process.exitcode))

    def interrupt(self) -> None:
        if self.process.is_alive() and self.process.pid is not None:
            with contextlib.suppress(OSError):
                os.kill(self.process.pid, signal.SIGINT)


def _ending(status: int | None) -> str:
    if status is None or status >= 0:
        return f"its process ended with status {status}"
    killed = " (by the system, where memory ran out, or by hand)" if -status == signal.SIGKILL else ""
    return f"its process was ended by {signal.Signals(-status).name}{killed}"


def _serve(function: Callable[[Any], Any], calls: Connection, threads: int) -> None:
    """Answer calls until the pipe is closed or a Ctrl-C comes."""
    signal.signal(signal.SIGINT, _interrupted_once)
    with contextlib.suppress(KeyboardInterrupt, EOFError, OSError):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        _answer(function, calls, threads)


def _answer(function: Callable[[Any], Any], calls: Connection, threads: int) -> None:
    threading.Thread(target=_outlive_nobody, daemon=True).start()
    torch.set_num_threads(threads)
    while True:
        item = calls.recv()
        try:
            answer = function(item)
        except Exception as error:
            answer = error
        calls.send(answer)


def _interrupted_once(number: int, frame: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _outlive_nobody() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)
