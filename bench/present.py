"""Tables and figures made from a benchmark's CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .harness import Measurement


def table(lines: Sequence[Measurement]) -> str:
    """A Markdown table: one row per shape, one column per provider, median times and ratios to ours."""
    providers = list(dict.fromkeys(line.provider for line in lines))
    ours = next(name for name in providers if name.startswith("dream"))
    shapes = list(dict.fromkeys(_shape(line) for line in lines))
    by_cell = {(_shape(line), line.provider): line for line in lines}
    first = lines[0]
    rows = [
        f"{first.metric}, {first.unit}, median; in brackets the ratio to `{ours}`. {first.device}, "
        f"{first.threads} threads, {first.versions}, commit {first.commit}.",
        "",
        "| shape | " + " | ".join(providers) + " | floor |",
        "|---" * (len(providers) + 2) + "|",
    ]
    for shape in shapes:
        base = by_cell[shape, ours]
        cells = [_cell(by_cell.get((shape, name)), base) for name in providers]
        rows.append(f"| {shape} | " + " | ".join(cells) + f" | {base.floor:.3g} |")
    return "\n".join(rows) + "\n"


def figure(lines: Sequence[Measurement], path: Path) -> None:
    """A bar chart of the same, p20 to p80 as error bars."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    providers = list(dict.fromkeys(line.provider for line in lines))
    shapes = list(dict.fromkeys(_shape(line) for line in lines))
    plot = Figure(figsize=(2.2 * len(shapes) + 2, 4), dpi=120)
    FigureCanvasAgg(plot)
    axis = plot.subplots()
    for i, name in enumerate(providers):
        own = [line for line in lines if line.provider == name]
        places = [shapes.index(_shape(line)) + 0.8 * i / len(providers) for line in own]
        errors = [[line.p50 - line.p20 for line in own], [line.p80 - line.p50 for line in own]]
        axis.bar(places, [line.p50 for line in own], 0.8 / len(providers), yerr=errors, label=name)
    axis.set(yscale="log", ylabel=f"{lines[0].metric}, {lines[0].unit}", title=lines[0].device)
    axis.set_xticks([i + 0.4 for i in range(len(shapes))], [shape.replace(", ", "\n") for shape in shapes])
    axis.legend()
    plot.savefig(path, bbox_inches="tight")


def _shape(line: Measurement) -> str:
    kind = line.mode.split(",")[0]
    return f"{line.groups} {kind} groups, {line.rows} x {line.features}, K {line.clusters}"


def _cell(line: Measurement | None, base: Measurement) -> str:
    if line is None:
        return "–"
    return f"{line.p50:.3g}" if line is base else f"{line.p50:.3g} ({line.p50 / base.p50:.2f}x)"
