"""The methods by name, and a recipe made from a method, a data set and the caller's own settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Protocol

from ..errors import DreamAccelError, choices
from ..matching.objective import Objective
from . import dream, dream_plus, idc
from .settings import SETTINGS, Recipe


class Method(Protocol):
    """The module of a method; :mod:`dream_accel.recipes.dream` shows one."""

    NAME: str
    """The name of the recipe."""
    DEFAULTS: dict[str, Any]
    """The settings it changes of :class:`Recipe`, for any data set."""
    BY_DATASET: dict[str, dict[str, Any]]
    """The settings published for each data set."""
    PACKED: dict[str, dict[str, Any]]
    """Further settings for a data set where the multi-formation factor is above 1."""
    USES: frozenset[str]
    """The settings it reads; others are refused by name."""
    SCHEDULE: str
    """The name of its schedule in :data:`dream_accel.engine.schedules.SCHEDULES`."""

    def objective(self, settings: Recipe, /) -> Objective:
        """The distance between real and synthetic images."""
        ...


_METHODS: tuple[Method, ...] = (dream, dream_plus, idc)

RECIPES: Mapping[str, Method] = {method.NAME: method for method in _METHODS}
"""Every method by name. To add one, write its module and name it in the line above."""


def recipe(name: str = dream.NAME, dataset: str = "digits", **overrides: Any) -> Recipe:
    """A complete, frozen description of a run.

    Args:
        name: a key of :data:`RECIPES`.
        dataset: a name :func:`dream_accel.data.load_dataset` takes; the method's settings for it are applied.
        overrides: other fields of :class:`Recipe`, of those the method uses.

    Raises:
        DreamAccelError: an unknown recipe or setting, one the method does not use, or a value out of range.
    """
    if name not in RECIPES:
        raise choices("recipe", name, RECIPES)
    for key in overrides:
        _check_used(key, name)
    if "clusters" in overrides and overrides.setdefault("batch", 0):
        raise DreamAccelError("batch and clusters are both given, and each determines the other: leave one out")
    prescribed = defaults(name, dataset, overrides.get("factor"))
    return Recipe(**{"recipe": name, "dataset": dataset, **prescribed, **overrides})


def defaults(name: str, dataset: str, factor: int | None = None) -> dict[str, Any]:
    """The settings a method prescribes for a data set, beyond the defaults of :class:`Recipe`.

    Args:
        name: a key of :data:`RECIPES`.
        dataset: in any spelling ``load_dataset`` takes; one's own images have the method's general settings.
        factor: the multi-formation factor, where the caller chose one.
    """
    method, key = RECIPES[name], dataset.strip().lower().replace("_", "-")
    found = {**method.DEFAULTS, **method.BY_DATASET.get(key, {})}
    if (found.get("factor", Recipe.factor) if factor is None else factor) != 1:
        found.update(method.PACKED.get(key, {}))
    return found


def setting_help(name: str) -> str:
    """The meaning of a setting, with the names it may have."""
    about = next(setting.metadata for setting in fields(Recipe) if setting.name == name)
    names = RECIPES if name == "recipe" else about["names"]
    return about["help"] if names is None else f"{about['help']}: {', '.join(names)}"


def _check_used(setting: str, name: str) -> None:
    if setting not in SETTINGS:
        close = difflib.get_close_matches(setting, sorted(SETTINGS), 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        known = ", ".join(field.name for field in fields(Recipe))
        raise DreamAccelError(f"a recipe has no setting {setting!r}: {hint}settings are {known}")
    if setting not in RECIPES[name].USES:
        users = [other for other, method in RECIPES.items() if setting in method.USES]
        raise DreamAccelError(f"recipe {name!r} does not use {setting}: leave it out, or choose {' or '.join(users)}")
