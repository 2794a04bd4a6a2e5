"""Publishing of a benchmark's measurements: the CSV, and the table and the figure beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from dream_accel.runtime.csv_rows import holds, read_rows
from dream_accel.runtime.files import write_text

from . import cells, curve, present
from .measurement import Measurement, read_csv, write_csv


def publish(measurements: Iterable[Measurement], out: Path) -> str:
    """Write the CSV after every measurement, so that an interrupted run loses none, then the table and the figure.

    Returns:
        the table.
    """
    for _ in record(measurements, out):
        pass
    return remake(out)


def record(measurements: Iterable[Measurement], out: Path) -> Iterator[Measurement]:
    """Write the CSV after every measurement, and hand the measurements on.

    A later measurement of the same thing replaces the earlier one, in its place. While the CSV cannot be written, such
    as on a full disk, the rows written before stay in it and measuring goes on.

    Raises:
        OSError: the last rows could not be written; they have been printed.
    """
    lines: dict[Measurement, Measurement] = {}
    failed = None
    for line in measurements:
        lines[line.timeless()] = line
        try:
            write_csv(out, [*lines.values()])
            failed = None
        except OSError as error:
            failed = error
            print(f"  not written to {out} ({error}): {line}", flush=True)
        yield line
    if failed is not None:
        raise failed
    if not lines:
        write_csv(out, [])


def remake(file: Path) -> str:
    """Write the table and the figure of a CSV beside it, and return the table; the figure needs matplotlib."""
    if curve.holds_curve(file):
        return curve.publish(file)
    if holds(file, cells.Row):
        write_text(file.with_suffix(".md"), table := cells.table(read_rows(file, cells.Row)))
        return table
    lines = read_csv(file)
    table = present.table(lines)
    write_text(file.with_suffix(".md"), table)
    try:
        present.figure(lines, file.with_suffix(".png"))
    except ModuleNotFoundError as missing:
        print(f"  no figure: {missing.name} is not installed")
    return table
