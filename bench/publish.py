"""Publishing of a benchmark's measurements: the CSV, and the table and the figure beside it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dream_accel.runtime.files import write_text

from . import curve, present
from .harness import Measurement, read_csv, write_csv


def publish(measurements: Iterable[Measurement], out: Path) -> str:
    """Write the CSV after every measurement, so that an interrupted run loses none, then the table and the figure.

    Returns:
        the table.
    """
    lines = []
    for line in measurements:
        lines.append(line)
        write_csv(out, lines)
    return remake(out)


def remake(file: Path) -> str:
    """Write the table and the figure of a CSV beside it, and return the table."""
    if curve.holds_curve(file):
        return curve.publish(file)
    lines = read_csv(file)
    table = present.table(lines)
    write_text(file.with_suffix(".md"), table)
    present.figure(lines, file.with_suffix(".png"))
    return table
