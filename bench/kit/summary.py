"""The summary of the kit, from whatever came back: any parts, whole or cut, from one folder or several."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..measurement import Measurement, read_csv
from ..present import table
from .predictions import predictions
from .runner import RUNNING, Outcome, read
from .steps import PARTS

CSVS = ("kmeans", "step", "outer", "distance")
NAMED = 20
"""Failing tests that are named; the log has them all."""
_TEST = re.compile(r"^(\S+::\S.*?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", re.MULTILINE)
_LINES = re.compile(
    r"^ *(self-test .*|cuda:\d+: .*|=+ (?:ERROR|RACECHECK) SUMMARY.*|K \d+, .*: .*|written to .*|dream_accel: .*)$",
    re.MULTILINE,
)
"""Lines of a step's output that say what it found."""


def text(folders: Sequence[Path]) -> str:
    """The whole summary, in Markdown."""
    outcomes = {part: _outcomes(folders, part) for part in PARTS}
    rows = {name: found for name in CSVS if (found := _rows(folders, name))}
    sections = [
        "# GPU check\n",
        _ran(outcomes),
        _said(folders, outcomes),
        _missing(outcomes, rows),
        *(f"## {name}\n\n{_table(own)}" for name, own in rows.items()),
        _predicted([row for own in rows.values() for row in own]),
    ]
    return "\n".join(section for section in sections if section)


def _outcomes(folders: Sequence[Path], part: int) -> list[Outcome]:
    for folder in folders:
        try:
            found = read(folder / f"part-{part}.jsonl")
        except OSError:
            continue
        if found:
            return found
    return []


def _rows(folders: Sequence[Path], name: str) -> list[Measurement]:
    for folder in folders:
        try:
            return read_csv(folder / f"{name}.csv")
        except (OSError, KeyError, TypeError, ValueError):
            continue
    return []


def _ran(outcomes: dict[int, list[Outcome]]) -> str:
    lines = [
        f"| {part} | {o.name} | {'cut off with the part' if o.result == RUNNING else o.result} "
        f"| {o.seconds:g} of {o.limit:g} | {'yes' if o.decides else ''} |\n"
        for part, own in outcomes.items()
        for o in own
    ]
    head = "## Steps\n\n| part | step | result | seconds | decides |\n|---|---|---|---|---|\n"
    return head + "".join(lines) if lines else "No part has run.\n"


def _said(folders: Sequence[Path], outcomes: dict[int, list[Outcome]]) -> str:
    """Findings of steps, by the lines that say so, and of tests, by their counts."""
    found = []
    for part, own in outcomes.items():
        for outcome in own:
            output = _section(folders, part, outcome.name)
            tests = _TEST.findall(output)
            if tests:
                found.append(_counted(outcome.name, tests))
            found += [f"- {outcome.name}: {line}\n" for line in dict.fromkeys(_LINES.findall(output))]
    return "## Found\n\n" + "".join(found) if found else ""


def _counted(name: str, tests: Sequence[tuple[str, str]]) -> str:
    results = [result for _, result in tests]
    counts = ", ".join(f"{results.count(result)} {result.lower()}" for result in dict.fromkeys(results))
    failed = [test for test, result in tests if result in ("FAILED", "ERROR")]
    return f"- {name}: {counts}\n" + "".join(f"    - {test}\n" for test in failed[:NAMED])


def _section(folders: Sequence[Path], part: int, step: str) -> str:
    for folder in folders:
        try:
            log = (folder / f"part-{part}.log").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        found = log.partition(f"==== {step} ====\n")[2]
        if found:
            return re.split(r"^==== \S+ ====$", found, maxsplit=1, flags=re.MULTILINE)[0]
    return ""


def _missing(outcomes: dict[int, list[Outcome]], rows: dict[str, list[Measurement]]) -> str:
    lines = [f"part {part}, {PARTS[part]}: it has not run" for part, own in outcomes.items() if not own]
    lines += [
        f"{o.name}: {o.result.removeprefix('not run: ')}"
        for own in outcomes.values()
        for o in own
        if o.result.startswith("not run")
    ]
    lines += [f"{name}: no rows" for name in CSVS if name not in rows]
    return "## Missing\n\n" + "".join(f"- {line}\n" for line in lines) if lines else ""


def _table(rows: list[Measurement]) -> str:
    """Tables beside the peers; a row cut on a full disk leaves the list of what there is."""
    try:
        return table(rows)
    except (ValueError, KeyError, IndexError) as error:
        return f"The rows make no table ({error}).\n"


def _predicted(rows: list[Measurement]) -> str:
    if not rows:
        return ""
    device = rows[0].device
    try:
        found = predictions(device, rows)
    except Exception as error:  # a model that fails leaves the rest
        found = f"The model failed: {type(error).__name__}: {error}\n"
    return "## Predicted\n\n" + (found if found is not None else "There is no model in this version.\n")
