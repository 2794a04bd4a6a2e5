"""Timing callables side by side, and the machine they are timed on."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from dream_accel.runtime.devices import device_name as device_name

COMMIT = "DREAM_ACCEL_COMMIT"
"""Environment variable that names the commit where the tree is not a repository."""


def time_interleaved(
    contestants: Mapping[str, Callable[[], Any]],
    device: torch.device,
    rounds: int,
    seconds: float = 1e9,
    failures: dict[str, str] | None = None,
) -> dict[str, list[float]]:
    """Time contestants in turn, so that other work on the machine slows all of them alike.

    Args:
        contestants: callables by name; each is called once to warm up.
        device: where they run; calls on CUDA are timed with events.
        rounds: timed calls of each.
        seconds: a contestant that has taken this long in total is not called again, after at least one timed call.
        failures: filled with the reasons of contestants that raise, which are then left out of what is returned.
            Without it what they raise is not caught.

    Returns:
        seconds of every call, by contestant.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name in [*times]:
            if sum(times[name]) >= seconds:
                continue
            try:
                took = _seconds(contestants[name], device)
            except Exception as error:
                if failures is None:
                    raise
                failures[name] = type_and_message(error)
                del times[name]
            else:
                times[name] += [took] if turn else []  # the first call warms up
    return times


def type_and_message(error: BaseException) -> str:
    """Name and first line of what was raised."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


def repeated(call: Callable[[], Any], times: int) -> Callable[[], None]:
    """A function that makes the call ``times`` times in a row."""

    def calls() -> None:
        for _ in range(times):
            call()

    return calls


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        began = time.perf_counter()
        call()
        return time.perf_counter() - began
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record()
    call()
    end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end) / 1000


def quantiles(seconds: Sequence[float], scale: float) -> dict[str, float]:
    """p20, p50 and p80 of ``seconds * scale``, to four significant digits."""
    cuts = statistics.quantiles([*seconds] * (2 if len(seconds) == 1 else 1), n=5, method="inclusive")
    values = {"p20": cuts[0], "p50": statistics.median(seconds), "p80": cuts[3]}
    return {name: float(f"{value * scale:.4g}") for name, value in values.items()}


def clock_of(device: torch.device) -> Callable[[], float]:
    """Return a clock, seconds: of the processor for a CPU, where other work does not count, else of the wall."""
    return time.process_time if device.type == "cpu" else time.perf_counter


def versions(*packages: str) -> str:
    """``name==version`` of the packages that are installed."""
    found = []
    for name in ("torch", *packages):
        try:
            found.append(f"{name}=={metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return " ".join(found)


def commit() -> str:
    """The commit of the source tree of this file, with ``+`` after changes.

    Outside a repository it is the value of :data:`COMMIT`, or ``unknown``.
    """
    folder = Path(__file__).resolve().parent
    try:
        name = _git(folder, "rev-parse", "--short", "HEAD")
        return name + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get(COMMIT) or "unknown"


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout.strip()
