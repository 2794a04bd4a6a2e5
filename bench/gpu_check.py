"""The GPU check: self-test, tests, sanitizer and benchmarks in one command, ``make gpu-check OUT=folder``.

Each part has its own time limit, nine minutes in total. A part that overruns is stopped and the others still run;
measurements that a benchmark has already written are kept. The exit status is 0 if self-test, tests and sanitizer
passed.

    python -m dream_accel.bench.gpu_check --out gpu-check [--device cpu --quick]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .publish import remake

ROOT = Path(__file__).resolve().parents[1]
SANITIZED = {"memcheck": 40, "racecheck": 40, "synccheck": 20}
"""Tools of compute-sanitizer and their seconds, each over the self-test."""
MEASURED = {"kmeans": 105, "distance": 40, "step": 40, "outer": 45}
"""Benchmarks and their seconds."""


@dataclass(frozen=True)
class Part:
    """One command of the check."""

    name: str
    command: Sequence[str]
    """empty where it cannot run here"""
    seconds: float
    decides: bool = False
    """whether the check fails with it"""
    missing: str = ""
    """why the command is empty"""


@dataclass(frozen=True)
class Outcome:
    """Result of a part."""

    name: str
    result: str
    """``passed``, or the reason it did not pass"""
    seconds: float
    decides: bool


def parts(device: str, quick: bool, out: Path) -> list[Part]:
    """The parts to run on a device."""
    python = [sys.executable, "-m"]
    doctor = [*python, "dream_accel", "doctor"]
    tests = ROOT / "tests"
    tested = [*python, "pytest", "-q", str(tests / "test_import.py" if quick else tests)] if tests.is_dir() else []
    found = [
        Part("doctor", doctor, 30, True),
        Part("tests", tested, 180, True, f"there is no {tests}"),
    ]
    on_gpu = device.startswith("cuda")
    sanitizer = shutil.which("compute-sanitizer") if on_gpu else None
    for tool, seconds in SANITIZED.items():
        command = (
            [str(sanitizer), "--tool", tool, "--error-exitcode", "1", *python, "dream_accel", "doctor"]
            if sanitizer
            else []
        )
        missing = (
            "compute-sanitizer was not found: it comes with the CUDA toolkit" if on_gpu else f"it checks no {device}"
        )
        found.append(Part(tool, command, seconds, on_gpu, missing))
    for name, seconds in MEASURED.items():
        words = ["bench", name, "--device", device, "--out", str(out / f"{name}.csv"), *["--quick"][: int(quick)]]
        command = [*python, "dream_accel", *words] if importlib.util.find_spec(f"dream_accel.bench.{name}") else []
        found.append(Part(name, command, seconds, missing="there is no such benchmark"))
    return found


def run(part: Part, log: Path) -> Outcome:
    """Run a part with its output in the log; stop it and its children when its time is over."""
    if not part.command:
        return Outcome(part.name, f"not run: {part.missing}", 0.0, part.decides)
    began = time.monotonic()
    with open(log, "w") as file:
        process = subprocess.Popen(part.command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(part.seconds)
            result = "passed" if code == 0 else f"failed with status {code}"
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            result = f"cut off after {part.seconds:g} s"
    return Outcome(part.name, result, time.monotonic() - began, part.decides)


def summary(outcomes: Sequence[Outcome], out: Path) -> str:
    """A line per part, and the folder of the rest."""
    lines = [f"  {o.name:<10} {o.seconds:6.1f} s  {o.result}" for o in outcomes]
    return "\n".join([*lines, f"logs, CSV files, tables and figures are in {out}/"])


def main(words: Sequence[str] | None = None) -> int:
    """Run all parts and return the exit status."""
    parser = argparse.ArgumentParser(prog="gpu_check", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for logs, CSV files, tables and figures")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small forms of every part, to see that they run")
    options = parser.parse_args(words)
    options.out.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for part in parts(options.device, options.quick, options.out):
        print(f"{part.name} (at most {part.seconds:g} s)", flush=True)
        outcomes.append(run(part, options.out / f"{part.name}.log"))
    for file in options.out.glob("*.csv"):
        if not file.with_suffix(".md").exists():  # cut off
            remake(file)
    print(summary(outcomes, options.out))
    return int(any(o.decides and o.result != "passed" for o in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
