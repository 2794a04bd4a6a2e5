"""Tables and figures made from a benchmark's CSV.

A row of a table is a problem, described by the fields of the lines and the first phrase of their mode. A column is a
provider with the rest of its mode, which says how it was given the problem.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dream_accel.errors import DreamAccelError
from dream_accel.runtime.csv_rows import holds, read_rows

from . import cells, curve
from .measurement import Measurement, read_csv
from .words import count, number

_SECTION = re.compile(r"(<!-- bench: (?P<file>[^\s:]+)(?:: (?P<metric>[^>]+?))? -->\n).*?(<!-- end -->)", re.DOTALL)

LOGARITHMIC = 20.0
"""Ratio of the highest bar to the lowest above which an axis is logarithmic. Below it heights can be compared."""


def table(lines: Sequence[Measurement]) -> str:
    """Render Markdown: device and versions, then one table per metric with medians and their ratio to ours."""
    if not lines:
        return "Nothing was measured.\n"
    first = lines[0]
    where = f"{first.device}, {count(first.threads, 'thread')}, {first.versions}, commit {first.commit}."
    timed = [line for line in lines if not line.why_not]
    metrics = dict.fromkeys(line.metric for line in timed)
    tables = [_table_of([line for line in timed if line.metric == m]) for m in metrics]
    return "\n".join([where, *tables, *_not_run([line for line in lines if line.why_not])])


def _not_run(lines: Sequence[Measurement]) -> list[str]:
    """A line for each reason of each provider, with the number of problems where there are several."""
    problems: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        problems.setdefault((_column(line), line.why_not), []).append(_problem(line, lines))
    found = [
        f"- {column}, {of[0] if len(of) == 1 else count(len(of), 'problem')}: {reason}"
        for (column, reason), of in problems.items()
    ]
    return ["", "Not run:", "", "\n".join(found) + "\n"] if found else []


def _table_of(lines: Sequence[Measurement]) -> str:
    columns = list(dict.fromkeys(map(_column, lines)))
    by_cell = {(_problem(line, lines), _column(line)): line for line in lines}
    bases = _bases(lines)
    floors = any(line.floor for line in lines)
    names = ", ".join(f"`{name}`" for name in dict.fromkeys(base.provider for base in bases.values()))
    ratio = f"; in brackets the ratio to {names}" if names else ""
    shared = _shared_by_peers(lines)
    peers = f"; the others: {shared}" if shared else ""
    heads = [column.removesuffix(f", {shared}") for column in columns]
    rows = [
        "",
        f"{lines[0].metric}, {lines[0].unit}, median{ratio}{peers}",
        "",
        "| problem | " + " | ".join(heads) + (" | floor |" if floors else " |"),
        "|---" * (len(columns) + 1 + floors) + "|",
    ]
    for problem in dict.fromkeys(_problem(line, lines) for line in lines):
        own = [by_cell.get((problem, column)) for column in columns]
        cells = [_cell(line, bases.get(problem)) for line in own]
        if floors:
            cells.append(number(max(line.floor for line in own if line)))
        rows.append(" | ".join([f"| {problem}", *cells]) + " |")
    return "\n".join(rows) + "\n"


def figure(lines: Sequence[Measurement], path: Path) -> None:
    """Plot a bar chart per metric, with p20 to p80 as error bars."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    timed = [line for line in lines if not line.why_not]
    by_metric = {m: [line for line in timed if line.metric == m] for m in dict.fromkeys(line.metric for line in timed)}
    most = max((len({_problem(line, own) for line in own}) for own in by_metric.values()), default=1)
    plot = Figure(figsize=(2.2 * max(most, 3) + 4, 4 * max(len(by_metric), 1)), dpi=120, layout="constrained")
    FigureCanvasAgg(plot)
    for axis, own in zip(plot.subplots(max(len(by_metric), 1), squeeze=False)[:, 0], by_metric.values(), strict=False):
        _bars(axis, own)
    if lines:
        plot.suptitle(lines[0].device)
    plot.savefig(path)


def _bars(axis: Any, lines: Sequence[Measurement]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    columns = list(dict.fromkeys(map(_column, lines)))
    problems = list(dict.fromkeys(_problem(line, lines) for line in lines))
    for i, column in enumerate(columns):
        own = [line for line in lines if _column(line) == column]
        places = [problems.index(_problem(line, lines)) + 0.8 * i / len(columns) for line in own]
        errors = [[line.p50 - line.p20 for line in own], [line.p80 - line.p50 for line in own]]
        axis.bar(places, [line.p50 for line in own], 0.8 / len(columns), yerr=errors, label=column)
    heights = [line.p50 for line in lines]
    logarithmic = min(heights) > 0 and max(heights) > LOGARITHMIC * min(heights)
    axis.set(yscale="log" if logarithmic else "linear", ylabel=f"{lines[0].metric}, {lines[0].unit}")
    if logarithmic:
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(lambda height, _: number(height))
    axis.set_xticks(
        [i + 0.4 - 0.4 / len(columns) for i in range(len(problems))], [name.replace(", ", "\n") for name in problems]
    )
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))


def fill_in(document: str, folder: Path) -> str:
    """Renew every section ``<!-- bench: FILE.csv -->`` to ``<!-- end -->`` of a document from its CSV.

    Args:
        document: Markdown; ``<!-- bench: FILE.csv: METRIC -->`` takes the lines of one metric.
        folder: folder the file names are relative to.

    Returns:
        the document with new sections.

    Raises:
        DreamAccelError: a CSV is missing, or has no line of the metric.
    """

    def section(found: re.Match[str]) -> str:
        file, metric = found["file"], found["metric"]
        if not (folder / file).is_file():
            raise DreamAccelError(f"{folder / file} does not exist: run the benchmark, or name the CSV as it is called")
        if curve.holds_curve(folder / file):
            return f"{found[1]}{curve.table(curve.read_curve(folder / file))}{found[4]}"
        if holds(folder / file, cells.Row):
            return f"{found[1]}{cells.table(read_rows(folder / file, cells.Row))}{found[4]}"
        lines = [line for line in read_csv(folder / file) if metric in (None, line.metric)]
        if not lines:
            raise DreamAccelError(f"{file} has no line of metric {metric!r}: name one that its lines have")
        return f"{found[1]}{table(lines)}{found[4]}"

    return _SECTION.sub(section, document)


def _bases(lines: Sequence[Measurement]) -> dict[str, Measurement]:
    """Our line for every problem; the first if there are several."""
    ours = filter(_is_ours, lines)
    return {_problem(line, lines): line for line in reversed(list(ours))}


def _column(line: Measurement) -> str:
    how = _how(line)
    return f"{line.provider}, {how}" if how else line.provider


def _how(line: Measurement) -> str:
    return line.mode.partition(", ")[2]


def _shared_by_peers(lines: Sequence[Measurement]) -> str:
    """The way in which all of several peers were given the problem, to be said once; empty if they differ."""
    peers = {(line.provider, _how(line)) for line in lines if not _is_ours(line)}
    ways = {how for _, how in peers}
    return ways.pop() if len(peers) > 1 and len(ways) == 1 else ""


def _is_ours(line: Measurement) -> bool:
    return line.provider.startswith("dream")


def _problem(line: Measurement, beside: Sequence[Measurement]) -> str:
    """Name of a problem: its mode and sizes, with kernel and dtype where they differ between lines."""
    words = [
        line.kernel if len({other.kernel for other in beside}) > 1 else "",
        line.mode.partition(", ")[0],
        count(line.groups, "group") if line.groups else "",
        f"{line.rows:,} x {line.features:,}" if line.rows and line.features else "",
        f"K {line.clusters:,}" if line.clusters else "",
        line.dtype if len({other.dtype for other in beside}) > 1 else "",
    ]
    return ", ".join(word for word in words if word)


def _cell(line: Measurement | None, base: Measurement | None) -> str:
    if line is None:
        return "–"
    ratio = "" if base is None or line is base or not base.p50 else f" ({line.p50 / base.p50:.2f}x)"
    return f"{number(line.p50)}{ratio}"
