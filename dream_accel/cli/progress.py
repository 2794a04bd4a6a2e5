"""Progress bars, shown only if standard error is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def unwatched(name: str, total: int) -> Iterator[Callable[[], None]]:
    """Show nothing, for a process that does not print; used as :func:`watch`."""
    yield lambda: None


@contextmanager
def watch(name: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar with rate and remaining time on standard error.

    Args:
        name: a description of the work.
        total: number of ticks until the work is done.

    Yields:
        a function that advances the bar by one.
    """
    if total == 0 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(name, total=total, rate="")

        def tick() -> None:
            bars.advance(task)
            speed = bars.tasks[0].speed
            bars.update(task, rate="" if speed is None else f"{speed:.1f}/s")

        yield tick
