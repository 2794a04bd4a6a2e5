"""Tests that hunt: a short form in every run, a long one by ``make hunt``."""

import os

HUNTING = os.environ.get("DREAM_ACCEL_HUNT") == "1"


def times(short: int, long: int) -> int:
    """The number of tries: ``long`` when hunting."""
    return long if HUNTING else short
