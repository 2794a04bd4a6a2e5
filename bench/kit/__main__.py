"""One part of the GPU kit: ``python -m bench.kit --part 1 --out gpu-check [--wheels FOLDER] [--device cpu --quick]``.

The exit status is 0 if the steps that decide passed: installation, self-test, tests, and the sanitizer except
initcheck.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from . import steps, summary
from .runner import Runner

SUMMARY = "summary.md"


def main(words: Sequence[str] | None = None) -> int:
    """Run the parts asked for and write the summary; the exit status."""
    options = _parser().parse_args(words)
    # A part that is told to end leaves a record of where it was, and a summary.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    wanted = list(steps.PARTS) if options.part == "all" else [] if options.part == "summary" else [int(options.part)]
    failed = False
    try:
        for part in wanted:
            runner = Runner(part, options.out)
            failed |= runner.run(steps.of_part(part, options))
    finally:
        signal.signal(signal.SIGTERM, before)
        _sum_up(options.out, [options.out, *options.also])
    return int(failed)


def _sum_up(out: Path, folders: Sequence[Path]) -> None:
    """Print and write the summary."""
    text = summary.text(folders)
    print(text, flush=True)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / SUMMARY).write_text(text, encoding="utf-8")
    except OSError as error:
        print(f"the summary above is not written to {out}: {error}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.kit", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=[*map(str, steps.PARTS), "all", "summary"], default="all")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder for records, logs and CSV files")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="folders of other parts, for the summary")
    parser.add_argument("--wheels", type=Path, help="folder of wheels of packages that may be missing, such as peers")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small forms of every step, to see that they run")
    parser.add_argument("--sanitizer", help="path of compute-sanitizer (default: found on PATH; on a CPU none)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
