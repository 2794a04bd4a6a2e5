"""Runs the steps of a part, each with its own time limit, and records what came of them as they end.

``part-N.jsonl`` has a line when a step begins and one when it ends, ``part-N.log`` a section of output for every step.
Few files, so that they are carried off easily.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from .steps import BUDGET, PARTS, ROOT, Step

PASSED, RUNNING = "passed", "running"
TAIL = 25
"""Lines of output that are printed of a step that did not pass."""
KILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


@dataclass(frozen=True)
class Outcome:
    """Outcome of a step, or that it runs."""

    part: int
    name: str
    result: str
    """``passed``, ``running``, or the reason it did not pass"""
    seconds: float
    limit: float
    decides: bool


class Runner:
    """Runs one part.

    Args:
        part: its number.
        out: folder for record and log. What cannot be written there, such as on a full disk, is printed.
        budget: seconds of the whole part; a step has at most what is left.
    """

    def __init__(self, part: int, out: Path, budget: float = BUDGET) -> None:
        self.part, self.out, self.budget = part, out, budget
        self._began = time.monotonic()
        self._unwritten = False
        self._start_file("jsonl")
        self._start_file("log")

    def run(self, steps: Sequence[Step]) -> bool:
        """Run all steps, whatever came of those before; True if one that decides did not pass."""
        print(f"part {self.part}: {PARTS[self.part]}", flush=True)
        later = [sum(step.seconds for step in steps[i + 1 :] if step.command) for i in range(len(steps))]
        outcomes = [self._run_one(step, self._limit(step, after)) for step, after in zip(steps, later, strict=True)]
        return any(outcome.decides and outcome.result != PASSED for outcome in outcomes)

    def _limit(self, step: Step, after: float) -> float:
        """Seconds of a step before others that are promised ``after`` seconds."""
        left = self.budget - (time.monotonic() - self._began)
        most = min(2 * step.seconds, left - after) if step.stretches else 0.0
        return min(max(step.seconds, most), left)

    def _run_one(self, step: Step, limit: float) -> Outcome:
        began = time.monotonic()

        def outcome(result: str) -> Outcome:
            took = round(time.monotonic() - began, 1)
            return Outcome(self.part, step.name, result, took, round(limit), step.decides)

        if not step.command or limit < 1:
            ended = outcome(f"not run: {step.missing if not step.command else 'the time of the part is over'}")
        else:
            self._record(outcome(RUNNING))
            try:
                result, tail = self._execute(step, limit)
            except BaseException as stopped:
                if not isinstance(stopped, Exception):
                    self._record(outcome("stopped with the part"))
                    raise
                result, tail = f"failed: {type(stopped).__name__}: {stopped}", ""
            ended = outcome(result)
            if result != PASSED and tail:
                print(tail, flush=True)
        self._record(ended)
        print(f"  {ended.name:<10} {ended.seconds:6.1f} s  {ended.result}", flush=True)
        return ended

    def _execute(self, step: Step, limit: float) -> tuple[str, str]:
        """Result and last lines; a step whose time is over is stopped with its children."""
        with self._log() as log:
            _write(log, f"==== {step.name} ====\n{' '.join(step.command)}\n")
            start = log.tell()
            env = {**os.environ, "PYTHONUNBUFFERED": "1", **step.env}
            process = subprocess.Popen(
                step.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=ROOT,
                env=env,
                preexec_fn=_die_with_parent,
            )
            try:
                code = process.wait(limit)
                result = PASSED if code == 0 else f"failed with status {code}"
            except subprocess.TimeoutExpired:
                result = f"cut off after {limit:.4g} s"
            finally:
                _end(process)
            log.seek(start)
            tail = log.read().decode(errors="replace").splitlines()[-TAIL:]
            log.seek(0, os.SEEK_END)
            _write(log, f"---- {step.name}: {result}\n")
        return result, "\n".join(tail)

    def _start_file(self, kind: str) -> None:
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / f"part-{self.part}.{kind}").write_bytes(b"")
        except OSError as error:
            self._complain(error)

    def _record(self, outcome: Outcome) -> None:
        try:
            with open(self.out / f"part-{self.part}.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
        except OSError as error:
            self._complain(error)

    def _log(self) -> IO[bytes]:
        try:
            log = open(self.out / f"part-{self.part}.log", "r+b")  # noqa: SIM115 (the caller closes it)
            log.seek(0, os.SEEK_END)
            # Blocks are only taken when they are written: a full disk shows itself here, before the step does.
            log.write(b"\n")
            log.flush()
            return log
        except OSError as error:
            self._complain(error)
            return tempfile.TemporaryFile()

    def _complain(self, error: OSError) -> None:
        if not self._unwritten:
            print(f"  {self.out} cannot be written: {error}; results are printed", flush=True)
        self._unwritten = True


def read(file: Path) -> list[Outcome]:
    """The last that was recorded of every step, in order; lines that were cut are passed over."""
    found: dict[str, Outcome] = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            outcome = Outcome(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[outcome.name] = outcome
    return [*found.values()]


def _write(log: IO[bytes], text: str) -> None:
    try:
        log.write(text.encode())
        log.flush()
    except OSError:  # full by what the step wrote
        log.seek(0, os.SEEK_END)


def _end(process: subprocess.Popen[Any]) -> None:
    """Kill what is left of a step, its children included."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(KILL_WITH_PARENT, signal.SIGKILL)
