"""Registry of the methods, and the function that makes a recipe of a method, a data set and the caller's settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Protocol

from ..errors import DreamAccelError, choices
from ..matching.objective import Objective
from ..matching.trajectories import TrajectoryMatching
from . import dc, dm, dream, dream_plus, dsa, idc, idc_i, mtt
from .settings import SETTINGS, Recipe


class Method(Protocol):
    """The names that the module of a method defines; :mod:`dream_accel.recipes.dream` is an example.

    A method whose published settings depend on data set and images per class together also defines
    ``BY_DATASET_AND_IPC: dict[str, dict[int, dict[str, Any]]]``; those of :mod:`dream_accel.recipes.mtt` do.
    """

    NAME: str
    """The name of the recipe."""
    DEFAULTS: dict[str, Any]
    """The settings that differ from those of :class:`Recipe`, for any data set."""
    BY_DATASET: dict[str, dict[str, Any]]
    """The published settings that depend on the data set, by its name."""
    BY_IPC: dict[int, dict[str, Any]]
    """The published settings that depend on the images per class: the entry of the largest number not above IPC."""
    PACKED: dict[str, dict[str, Any]]
    """Further settings, by data set, applied if the multi-formation factor is above 1."""
    USES: frozenset[str]
    """The settings that the method reads; any other one the caller gives is refused by name."""
    SCHEDULE: str
    """The name of its schedule in :data:`dream_accel.engine.schedules.SCHEDULES`."""

    def objective(self, settings: Recipe, /) -> Objective | TrajectoryMatching:
        """Return the loss for these settings: between real and synthetic images, or between student and expert."""
        ...


_METHODS: tuple[Method, ...] = (dream, dream_plus, idc, idc_i, dc, dsa, dm, mtt)

RECIPES: Mapping[str, Method] = {method.NAME: method for method in _METHODS}
"""Every method by name. To add a method, write its module and append it to ``_METHODS``."""


def recipe(name: str = dream.NAME, dataset: str = "digits", **overrides: Any) -> Recipe:
    """Make the complete, frozen description of a run.

    Args:
        name: a key of :data:`RECIPES`.
        dataset: a name that :func:`dream_accel.data.load_dataset` takes; the method's settings for it are applied.
        overrides: fields of :class:`Recipe` that the method uses; they take precedence over all other settings.

    Returns:
        the recipe.

    Raises:
        DreamAccelError: the recipe or a setting is unknown, the method does not use a setting, or a value is out of
            range.
    """
    if name not in RECIPES:
        raise choices("recipe", name, RECIPES)
    for key in overrides:
        _check_used(key, name)
    if "clusters" in overrides and overrides.setdefault("batch", 0):
        raise DreamAccelError("batch and clusters are both given, and each determines the other: leave one out")
    prescribed = defaults(name, dataset, overrides.get("factor"), overrides.get("ipc"))
    return Recipe(**{"recipe": name, "dataset": dataset, **prescribed, **overrides})


def defaults(name: str, dataset: str, factor: int | None = None, ipc: int | None = None) -> dict[str, Any]:
    """Look up the settings that a method prescribes for a data set, beyond the defaults of :class:`Recipe`.

    Args:
        name: a key of :data:`RECIPES`.
        dataset: the name of a data set in any spelling that ``load_dataset`` takes; for the user's own images the
            method's settings for any data set apply.
        factor: the multi-formation factor, if the caller chose one.
        ipc: images per class, if the caller chose a number.

    Returns:
        values by the name of the setting.
    """
    method, key = RECIPES[name], dataset.strip().lower().replace("_", "-")
    of_dataset = method.BY_DATASET.get(key, {})
    images = of_dataset.get("ipc", Recipe.ipc) if ipc is None else ipc
    of_both = getattr(method, "BY_DATASET_AND_IPC", {}).get(key, {})
    found = {**method.DEFAULTS, **_up_to(method.BY_IPC, images), **of_dataset, **_up_to(of_both, images)}
    if (found.get("factor", Recipe.factor) if factor is None else factor) != 1:
        found.update(method.PACKED.get(key, {}))
    return found


def _up_to(by_ipc: Mapping[int, dict[str, Any]], images: Any) -> dict[str, Any]:
    """The entry of the largest number not above the images per class; empty if there is none."""
    steps = [known for known in by_ipc if isinstance(images, int) and known <= images]
    return by_ipc[max(steps)] if steps else {}


def setting_help(name: str) -> str:
    """Return the help text of a setting, followed by the names it allows, if it allows names only."""
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
