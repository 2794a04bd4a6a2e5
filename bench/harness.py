"""Timing callables side by side, and the one CSV schema all benchmarks share."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .rows import read_rows, write_rows


@dataclass(frozen=True)
class Measurement:
    """One line of the CSV: a provider's time for a shape, with everything needed to repeat it."""

    kernel: str
    """kmeans, distance, refresh, step or outer"""
    provider: str
    """library or implementation that computes; ours begin with ``dream``"""
    mode: str
    """phrases separated by commas: first the problem, then how this provider takes it, such as ``one fit per group``,
    ``padded``, ``graph`` or ``tf32``"""
    groups: int
    rows: int
    features: int
    clusters: int
    dtype: str
    metric: str
    p20: float
    p50: float
    p80: float
    unit: str
    floor: float
    """the least time this machine could take, measured or computed; 0 where none is known"""
    device: str
    threads: int
    versions: str
    commit: str


def time_interleaved(
    contestants: Mapping[str, Callable[[], Any]], device: torch.device, rounds: int, seconds: float = 1e9
) -> dict[str, list[float]]:
    """Time contestants in turn, so that other work on the machine slows all of them alike.

    Args:
        contestants: callables by name; each is called once to warm up.
        device: where they run; calls on CUDA are timed with events.
        rounds: timed calls of each.
        seconds: a contestant that has taken this long in total is not called again, after at least one timed call.

    Returns:
        seconds of every call, by contestant.
    """
    for call in contestants.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            if sum(times[name]) < seconds:
                times[name].append(_seconds(call, device))
    return times


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


def write_csv(path: Path, measurements: Sequence[Measurement]) -> None:
    """Write all lines, with a header."""
    write_rows(path, Measurement, measurements)


def read_csv(path: Path) -> list[Measurement]:
    """Read what :func:`write_csv` wrote."""
    return read_rows(path, Measurement)


def device_name(device: torch.device) -> str:
    """The processor or GPU by its own name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "cpu"
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "cpu")
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"


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
    """The commit of the source tree of this file, with ``+`` after changes; ``unknown`` outside a repository."""
    folder = Path(__file__).resolve().parent
    try:
        name = _git(folder, "rev-parse", "--short", "HEAD")
        return name + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout.strip()
