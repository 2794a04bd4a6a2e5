"""The one CSV schema all benchmarks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dream_accel.runtime.csv_rows import read_rows, write_rows

NOT_RUN = "not run: "
"""A line whose metric begins so has no times: the rest of the metric is the reason."""


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

    @property
    def why_not(self) -> str:
        """The reason why the provider was not timed; empty where it was."""
        return self.metric.removeprefix(NOT_RUN) if self.metric.startswith(NOT_RUN) else ""

    def timeless(self) -> Measurement:
        """The same line without what was measured: equal for two measurements of the same thing."""
        return replace(self, p20=0.0, p50=0.0, p80=0.0, floor=0.0)


def not_run(reason: str) -> dict[str, Any]:
    """Fields of a line of a provider that was not timed; the reason is put on one line and cut."""
    words = " ".join(reason.split())
    return {"metric": NOT_RUN + words[:300], "p20": 0.0, "p50": 0.0, "p80": 0.0, "unit": "", "floor": 0.0}


def write_csv(path: Path, measurements: Sequence[Measurement]) -> None:
    """Write all lines, with a header."""
    write_rows(path, Measurement, measurements)


def read_csv(path: Path) -> list[Measurement]:
    """Read what :func:`write_csv` wrote."""
    return read_rows(path, Measurement)
