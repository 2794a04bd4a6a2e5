"""Declaration of a setting: its default, meaning, range and allowed names, and the check of a value."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import Field, field
from numbers import Integral, Real
from typing import Any

import numpy as np

from ..arrays import MOST
from ..errors import DreamAccelError, choices


def declared(
    default: Any,
    panel: str,
    help: str,
    *,
    least: float | None = None,
    most: float | None = None,
    names: Collection[str] | None = None,
    kind: str = "",
    unknown: Callable[[object], DreamAccelError] | None = None,
    also: Callable[[Any], bool] | None = None,
    shared: bool = True,
) -> Any:
    """Make a field of :class:`Recipe`.

    Args:
        default: the default, which also determines the type.
        panel: one of :data:`dream_accel.recipes.PANELS`.
        help: meaning and unit; help texts append the allowed names to it.
        least, most: bounds of a number, inclusive; default of ``most`` for a whole number: that of all counts.
        names: the allowed names, usually a registry.
        kind: the word for such a name in a refusal; default: ``help``.
        unknown: makes the refusal of another name; default: it lists the allowed ones.
        also: says whether a value beside the names is allowed.
        shared: whether every method reads the setting; one that is not is read by the methods that name it in ``USES``.
    """
    if most is None and type(default) is int:
        most = MOST
    about = {
        "panel": panel,
        "help": help,
        "least": least,
        "most": most,
        "names": names,
        "kind": kind or help,
        "unknown": unknown,
        "also": also,
        "shared": shared,
    }
    return field(default=default, metadata=about)


def checked(setting: Field[Any], value: Any) -> Any:
    """Convert a value to the Python type of its setting, so that JSON represents it; numbers of NumPy are numbers.

    Args:
        setting: a field that :func:`declared` made.
        value: the value given for it.

    Returns:
        the value as a plain Python object.

    Raises:
        DreamAccelError: the value is of another kind, such as a truth value or a fraction for a whole number, out of
            range, or not among the allowed names.
    """
    plain = _plain(setting, value)
    _check(setting, plain)
    return plain


def _plain(setting: Field[Any], value: Any) -> Any:
    kind, is_truth = type(setting.default), isinstance(value, (bool, np.bool_))
    if kind is bool and is_truth:
        return bool(value)
    if kind is int and isinstance(value, Integral) and not is_truth:
        return int(value)
    if kind is float and isinstance(value, Real) and not is_truth:
        return int(value) if isinstance(value, Integral) else float(value)
    if kind is str and isinstance(value, str):
        return str(value)
    raise DreamAccelError(f"{setting.name} is {value!r}: it must be of type {kind.__name__}")


def _check(setting: Field[Any], value: Any) -> None:
    about = setting.metadata
    named = about["names"] is None or value in about["names"] or (about["also"] is not None and about["also"](value))
    if not named:
        raise about["unknown"](value) if about["unknown"] else choices(about["kind"], value, about["names"])
    if about["least"] is not None and not value >= about["least"]:
        raise DreamAccelError(f"{setting.name} is {value}: it must be at least {about['least']}")
    if isinstance(value, float) and math.isinf(value):
        raise DreamAccelError(f"{setting.name} is {value}: it must be finite")
    if about["most"] is not None and not value <= about["most"]:
        raise DreamAccelError(f"{setting.name} is {value}: it must be between {about['least']} and {about['most']}")
