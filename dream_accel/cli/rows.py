"""Rows of a command, written as they come: first the CSV, then the figure drawn from it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..runtime.csv_rows import write_rows
from ..runtime.files import write_text
from .output import Output

SETTINGS_FILE = "settings.json"
SECONDS = 1.0
"""Least time between two writes of a CSV: some analyses have thousands of rows a second."""


class RowWriter:
    """Collects rows, and writes them to NAME.csv at most a second after they came.

    Args:
        name: of the files.
        kind: the dataclass of the rows.
        output: the folder of the command.
        settings: written beside the rows, as :func:`settings_of` describes them.
        rows: rows that are there already.
    """

    def __init__(
        self, name: str, kind: type, output: Output, settings: dict[str, Any], rows: Sequence[Any] = ()
    ) -> None:
        self.rows = list(rows)
        self._settings = json.dumps(settings, indent=2) + "\n"
        self._name = name
        self._kind = kind
        self._output = output
        self._written = time.monotonic()

    def take(self, rows: Iterable[Any]) -> None:
        """Take all rows of an iterator; those that came are written also if it raises or Ctrl-C ends it."""
        try:
            for row in rows:
                self.rows.append(row)
                if time.monotonic() - self._written > SECONDS:
                    self.flush()
        finally:
            if self.rows:
                self.flush()

    def flush(self) -> None:
        """Write the CSV."""
        self._output.write("the rows are", self._write)
        self._written = time.monotonic()

    def draw(self, split: Any) -> None:
        """Draw the figure of all rows, as PNG and SVG."""
        from ..report import write_figure

        self._output.write("the figure is", partial(write_figure, self._name, self.rows, split))

    def _write(self, folder: Path) -> None:
        if not (folder / SETTINGS_FILE).exists() or (folder / SETTINGS_FILE).read_text() != self._settings:
            write_text(folder / SETTINGS_FILE, self._settings)
        write_rows(folder / f"{self._name}.csv", self._kind, self.rows)


def settings_of(split: Any, **others: Any) -> dict[str, Any]:
    """Describe a command in values that JSON represents: its settings, and data, device and versions beside them."""
    from ..engine.splits import fingerprint
    from ..results import versions

    described = {
        **others,
        "data": fingerprint(split.train),
        "device": str(split.train.device),
        "versions": versions(),
    }
    # As it is read again: tuples are lists there.
    return json.loads(json.dumps(described))
