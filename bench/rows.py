"""CSV files of dataclass rows: one column per field, read back with the fields' types."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from dream_accel.runtime.files import write_text

Row = TypeVar("Row")
_KINDS = {"int": int, "float": float}


def write_rows(path: Path, kind: type[Row], rows: Iterable[Row]) -> None:
    """Write a header and all rows, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(kind), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)  # type: ignore[call-overload]
    write_text(path, text.getvalue())


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """Read what :func:`write_rows` wrote.

    Raises:
        OSError, KeyError, TypeError, ValueError: the file is missing or holds other rows.
    """
    kinds: dict[str, Any] = {field.name: _KINDS.get(str(field.type), str) for field in fields(kind)}  # type: ignore[arg-type]
    with open(path, newline="", encoding="utf-8") as file:
        return [kind(**{key: kinds[key](value) for key, value in row.items()}) for row in csv.DictReader(file)]


def columns(kind: type[Row]) -> list[str]:
    """The header of a file of such rows."""
    return [field.name for field in fields(kind)]  # type: ignore[arg-type]


def holds(path: Path, kind: type[Any]) -> bool:
    """Whether a CSV has the header of such rows; columns that have a default may be missing at the end."""
    needed = sum(field.default is MISSING for field in fields(kind))
    with open(path, newline="", encoding="utf-8") as file:
        header = next(csv.reader(file), [])
    return len(header) >= needed and header == columns(kind)[: len(header)]
