"""The accuracy table of a run: mean and deviation in numbers, and every network's accuracy as a point beside them."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import counted
from ..evaluation import Evaluation, Row
from . import markup

_WIDTH, _HEIGHT, _MARGIN = 260, 22, 6
_LEAST_RANGE = 1.0


def accuracy_table(rows: Sequence[Row]) -> str:
    """Rows of a table with a drawing each: a point per network, a line over mean ± std, a bar at the mean.

    All drawings have one scale, from the lowest to the highest value of the table, so lengths compare.

    Args:
        rows: at least one.

    Returns:
        HTML.
    """
    protocol = rows[-1].evaluation.protocol
    each = f"{counted(protocol.networks, 'network')} each, {counted(protocol.epochs, 'epoch')}"
    values = [value for row in rows for value in _extent(row.evaluation)]
    low, high = min(values), max(values)
    if high - low < _LEAST_RANGE:
        low, high = (low + high - _LEAST_RANGE) / 2, (low + high + _LEAST_RANGE) / 2
    texts = [(row.name, shown_accuracy(row.evaluation)) for row in rows]
    drawings = [_drawing(row.evaluation, low, high) for row in rows]
    about = f"{each}, mean ± std of the last epoch, percent. Points are networks, from {low:.1f} to {high:.1f}."
    return markup.paragraph(about) + markup.table(texts, drawings=drawings)


def shown_accuracy(evaluation: Evaluation) -> str:
    """The accuracy of an evaluation, followed by the number of networks where not all were tested."""
    tested, asked = len(evaluation.accuracies), evaluation.protocol.networks
    return f"{evaluation}" + ("" if evaluation.complete else f" ({tested} of {counted(asked, 'network')})")


def _extent(evaluation: Evaluation) -> tuple[float, ...]:
    mean, std = evaluation.mean, evaluation.std
    return (mean - std, mean + std, *evaluation.accuracies)


def _drawing(evaluation: Evaluation, low: float, high: float) -> str:
    def x(value: float) -> str:
        return f"{_MARGIN + (value - low) / (high - low) * (_WIDTH - 2 * _MARGIN):.1f}"

    mean, std, middle = evaluation.mean, evaluation.std, _HEIGHT / 2
    points = "".join(
        f'<circle cx="{x(value)}" cy="{middle}" r="3" fill="currentColor" fill-opacity=".4"></circle>'
        for value in evaluation.accuracies
    )
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{evaluation}" stroke="currentColor">'
        f'<line x1="{x(mean - std)}" x2="{x(mean + std)}" y1="{middle}" y2="{middle}" stroke-width="2"></line>'
        f'<line x1="{x(mean)}" x2="{x(mean)}" y1="4" y2="{_HEIGHT - 4}" stroke-width="2"></line>'
        f'<g stroke="none">{points}</g></svg>'
    )
