"""Numbers and counts as people write them, for the tables made from a benchmark's CSV."""

from __future__ import annotations

LARGEST = 1e9
"""Numbers are written out up to here; beyond, and below 1e-4, they have an exponent."""


def number(value: float) -> str:
    """Three significant digits with thousands separators: ``0.615``, ``61.7``, ``1,700``, ``14,400``."""
    rounded = float(f"{value:.3g}")
    if 1000 <= abs(rounded) <= LARGEST:
        return f"{rounded:,.0f}"
    return f"{rounded:.3g}"


def count(n: int, one: str) -> str:
    """A number of things: ``1 group``, ``10 groups``, ``50,000 groups``."""
    return f"{n:,} {one}" if n == 1 else f"{n:,} {one}s"
