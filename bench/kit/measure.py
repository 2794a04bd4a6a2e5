"""One benchmark of the kit: ``python -m dream_accel.bench.kit.measure kmeans --device cuda --out FILE.csv``.

Like ``dream-accel bench``, with peers tried in a process beside this one on every device, and without figures: the
summary has the tables, and ``dream-accel bench render`` makes both from the CSV.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from dream_accel.errors import DreamAccelError
from dream_accel.runtime.devices import find_device

from ..kmeans_trial import LIMIT
from ..measurement import Measurement
from ..publish import record

NAMES = ("kmeans", "distance", "step", "outer")


def main(words: Sequence[str] | None = None) -> int:
    """Measure, and write and print every row as it comes; 1 if the benchmark fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--peer-seconds", type=float, default=LIMIT, help="for a peer's first fit [default: %(default)s]"
    )
    options = parser.parse_args(words)
    try:
        for line in record(_rows(options), options.out):
            value = "" if line.why_not else f" {line.p50:g} {line.unit}"
            print(f"{line.provider}, {line.mode}: {line.metric}{value}")
    except (DreamAccelError, OSError) as error:
        print(error)
        return 1
    return 0


def _rows(options: argparse.Namespace) -> Iterator[Measurement]:
    run = importlib.import_module(f"..{options.name}", __package__).run
    apart = {"apart": True, "limit": options.peer_seconds} if options.name == "kmeans" else {}
    yield from run(find_device(options.device), options.quick, **apart)


if __name__ == "__main__":
    raise SystemExit(main())
