"""Registry of the methods, and the function that makes a recipe of a method, a data set and the caller's settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Protocol

from ..errors import DreamAccelError, choices
from ..matching.objective import Objective
from ..matching.trajectories import TrajectoryMatching
from ..networks import check_settings
from ..sampling.strategies import STRATEGIES, STRATEGY_SETTINGS
from . import dc, dm, dm_plus, dream, dream_plus, dsa, idc, idc_i, mtt
from .declaration import checked
from .settings import CACHE, POOL, SETTINGS, Recipe


class Method(Protocol):
    """The names that the module of a method defines; :mod:`dream_accel.recipes.dream` is an example.

    Two more are optional. ``BY_DATASET_AND_IPC: dict[str, dict[int, dict[str, Any]]]`` has the published settings that
    depend on data set and images per class together, as in :mod:`dream_accel.recipes.mtt`. ``WITHOUT: dict[str, str]``
    says why the method does not use a setting, by its name, as in :mod:`dream_accel.recipes.dc`.
    """

    NAME: str
    """The name of the recipe."""
    DEFAULTS: dict[str, Any]
    """The settings that differ from those of :class:`Recipe`, for any data set."""
    BY_DATASET: dict[str, dict[str, Any]]
    """The published settings that depend on the data set, by its name."""
    BY_SIZE: dict[int, dict[str, Any]]
    """The settings of data sets that are not in ``BY_DATASET``, by the setting ``size``: the entry of the largest side
    not above it, in pixels. Without ``size`` none applies, so that a recipe is complete before the data are read."""
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


_METHODS: tuple[Method, ...] = (dream, dream_plus, idc, idc_i, dc, dsa, dm, mtt, dm_plus)

RECIPES: Mapping[str, Method] = {method.NAME: method for method in _METHODS}
"""Every method by name. To add a method, write its module and append it to ``_METHODS``."""


def recipe(name: str = dream.NAME, dataset: str = "digits", **overrides: Any) -> Recipe:
    """Make the complete, frozen description of a run.

    Args:
        name: a key of :data:`RECIPES`.
        dataset: a name that :func:`dream_accel.data.load_dataset` takes; the method's settings for it are applied.
        overrides: fields of :class:`Recipe` that the method and the strategy use; they take precedence over all other
            settings.

    Returns:
        the recipe.

    Raises:
        DreamAccelError: the recipe or a setting is unknown, the method, its strategy or its network does not use a
            setting, or a value is out of range.
    """
    if not isinstance(name, str) or name not in RECIPES:
        raise choices("recipe", name, RECIPES)
    for key in overrides:
        _check_used(key, name)
    # Each by itself, before they are compared with one another.
    settings = {setting.name: setting for setting in fields(Recipe)}
    dataset = checked(settings["dataset"], dataset)
    overrides = {key: checked(settings[key], value) for key, value in overrides.items()}
    if "clusters" in overrides and overrides.setdefault("batch", 0):
        raise DreamAccelError("batch and clusters are both given, and each determines the other: leave one out")
    prescribed = defaults(name, dataset, overrides.get("factor"), overrides.get("ipc"), overrides.get("size"))
    made = Recipe(**{"recipe": name, "dataset": dataset, **prescribed, **overrides})
    _check_pool(made, overrides)
    for key in overrides:
        _check_strategy_reads(key, made.strategy)
    check_settings(made.network, overrides)
    return made


def defaults(
    name: str, dataset: str, factor: int | None = None, ipc: int | None = None, size: int | None = None
) -> dict[str, Any]:
    """Look up the settings that a method prescribes for a data set, beyond the defaults of :class:`Recipe`.

    Args:
        name: a key of :data:`RECIPES`.
        dataset: the name of a data set in any spelling that ``load_dataset`` takes; for the user's own images the
            method's settings for any data set apply, and those for ``size``.
        factor: the multi-formation factor, if the caller chose one.
        ipc: images per class, if the caller chose a number.
        size: the side that images are resized to, pixels, if the caller chose one.

    Returns:
        values by the name of the setting.
    """
    method, key = RECIPES[name], dataset.strip().lower().replace("_", "-")
    of_dataset = method.BY_DATASET.get(key, {})
    images = of_dataset.get("ipc", Recipe.ipc) if ipc is None else ipc
    of_size = {} if key in method.BY_DATASET else _up_to(size, method.BY_SIZE)
    of_both = getattr(method, "BY_DATASET_AND_IPC", {}).get(key, {})
    of_images = _up_to(images, method.BY_IPC)
    found = {**method.DEFAULTS, **of_images, **of_size, **of_dataset, **_up_to(images, of_both)}
    if (found.get("factor", Recipe.factor) if factor is None else factor) != 1:
        found.update(method.PACKED.get(key, {}))
    return found


def changed_settings(settings: Recipe, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Find the settings of a run that are not those its method prescribes for its data set.

    What a run decides itself where nothing is asked for is no change: the depth that the images give, and the
    implementation of the class gradients.

    Args:
        settings: of the run.
        shape: (channels, height, width) of its images, pixels.

    Returns:
        the prescribed values by the name of the setting, in the order of the fields of :class:`Recipe`.
    """
    name, dataset = settings.recipe, settings.dataset
    prescribed = defaults(name, dataset, settings.factor, settings.ipc, settings.size)
    usual = Recipe(**{"recipe": name, "dataset": dataset, "factor": settings.factor, **prescribed})
    chosen = defaults(name, dataset)
    found = {}
    for field in fields(Recipe):
        # Factor and IPC choose other settings, and are measured against what the method takes for the data set.
        default = chosen.get(field.name, field.default) if field.name in ("factor", "ipc") else None
        default = getattr(usual, field.name) if default is None else default
        value = getattr(settings, field.name)
        decided = value == usual.depth_for(shape) if field.name == "depth" else field.name == "class_gradients"
        if value != default and not decided:
            found[field.name] = default
    return found


def size_remark(settings: Recipe, shape: tuple[int, int, int]) -> str:
    """Say that the method has settings for larger images, which ``size`` alone would have chosen.

    Args:
        settings: of a run.
        shape: (channels, height, width) of its images, pixels.

    Returns:
        one sentence; empty where ``size`` was given or would change nothing.
    """
    method, side = RECIPES[settings.recipe], min(shape[1:])
    known = settings.dataset.strip().lower().replace("_", "-") in method.BY_DATASET
    if settings.size or known or not _up_to(side, method.BY_SIZE):
        return ""
    return (
        f"the settings are those of small images, and these have {shape[1]}x{shape[2]} pixels: --size {side} "
        f"(size={side}) chooses the settings of that size"
    )


def setting_help(name: str) -> str:
    """Return the help text of a setting, followed by the names it allows, if it allows names only."""
    about = next(setting.metadata for setting in fields(Recipe) if setting.name == name)
    names = RECIPES if name == "recipe" else about["names"]
    return about["help"] if names is None else f"{about['help']}: {', '.join(names)}"


def _check_pool(made: Recipe, given: Mapping[str, Any]) -> None:
    """Refuse settings of a pool of networks where the run has none, or caches nothing in it."""
    if made.real == "cached":
        return
    unread = CACHE if RECIPES[made.recipe].SCHEDULE == "trained_pool" else POOL
    for setting in sorted(unread - {"real"}):
        if setting in given:
            raise DreamAccelError(f"{setting} is given and real is 'live', which does not read it: add real='cached'")


def _up_to(number: Any, table: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """The entry of the largest key not above a number; empty where there is none."""
    keys = [key for key in table if isinstance(number, int) and key <= number]
    return table[max(keys)] if keys else {}


def _check_used(setting: str, name: str) -> None:
    if setting not in SETTINGS:
        close = difflib.get_close_matches(setting, sorted(SETTINGS), 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        known = ", ".join(field.name for field in fields(Recipe))
        raise DreamAccelError(f"a recipe has no setting {setting!r}: {hint}settings are {known}")
    if setting not in RECIPES[name].USES:
        users = [other for other, method in RECIPES.items() if setting in method.USES]
        reason = getattr(RECIPES[name], "WITHOUT", {}).get(setting)
        why = "" if reason is None else f" ({reason})"
        raise DreamAccelError(
            f"recipe {name!r} does not use {setting}{why}: leave it out, or choose {' or '.join(users)}"
        )


def _check_strategy_reads(setting: str, strategy: str) -> None:
    if setting in STRATEGY_SETTINGS and setting not in STRATEGIES[strategy].uses:
        users = [name for name, other in STRATEGIES.items() if setting in other.uses]
        raise DreamAccelError(
            f"strategy {strategy!r} does not use {setting}: leave it out, or choose the strategy {' or '.join(users)}"
        )
