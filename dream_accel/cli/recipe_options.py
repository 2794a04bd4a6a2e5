"""Options that are settings of a run, such as --interval: one for every field of ``Recipe`` in ``recipes/settings.py``.

The field determines name, type, bounds, help text and panel of its option, so a new setting is an option at once.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Annotated, Any

from ..networks import NETWORK_SETTINGS, settings_read
from ..recipes import RECIPES, Recipe, defaults, recipe, setting_help
from .options import option

QUICK: dict[str, Any] = {
    "limit_train": 200,
    "clusters": 8,
    "iterations": 1,
    "inner_steps": 2,
    "n_experts": 2,
    "trajectory_epochs": 3,
    "synthetic_steps": 2,
    "expert_epochs": 1,
    "max_start_epoch": 2,
    "width": 8,
    "network_images": 64,
    "eval_epochs": 5,
    "eval_networks": 1,
    "real_epochs": 2,
}
"""The settings of ``--quick``, with which every part of a command runs on little data."""
QUICK_POOL: dict[str, Any] = {"trajectories": 2, "stages": 2, "draws": 1}
"""More of them, where the real side of a step is cached."""


def chosen_recipe(settings: dict[str, Any], quick: bool, small: dict[str, Any] | None = None) -> Recipe:
    """Make the recipe of the options given.

    Args:
        settings: values by the name of the setting; settings that were not given are missing.
        quick: whether to apply the settings in ``small`` that the method uses; options given take precedence.
        small: settings of a small run; default: :data:`QUICK`.

    Raises:
        DreamAccelError: as :func:`dream_accel.recipe`.
    """
    given = dict(settings)
    name, dataset = given.pop("recipe", "dream"), given.pop("dataset", "digits")
    if quick:
        known = RECIPES[name].USES if name in RECIPES else ()
        small = {**(small or QUICK), **(QUICK_POOL if given.get("real") == "cached" else {})}
        little = {key: value for key, value in small.items() if key in known}
        prescribed = defaults(name, dataset) if name in RECIPES else {}
        read = settings_read(given.get("network", prescribed.get("network", Recipe.network)))
        little = {key: value for key, value in little.items() if key in read or key not in NETWORK_SETTINGS}
        if given.get("batch"):
            little.pop("clusters", None)
        given = {**little, **given}
    return recipe(name, dataset, **given)


def with_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command that takes ``settings`` with one option for every setting of a recipe.

    The command receives the options that were given as the dict ``settings``, by the name of the setting. A parameter
    of its own with the name of a setting replaces that option, and is not among the settings.
    """
    own = inspect.signature(command, eval_str=True).parameters
    names = [setting.name for setting in fields(Recipe) if setting.name not in own]

    @functools.wraps(command)
    def wrapped(**options: Any) -> None:
        settings = {name: options.pop(name) for name in names}
        command(settings={key: value for key, value in settings.items() if value is not None}, **options)

    others = {
        name: parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in own.items()
        if name != "settings"
    }
    parameters = [
        others.pop(setting.name) if setting.name in others else _parameter(setting) for setting in fields(Recipe)
    ]
    parameters += others.values()
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped


def _parameter(setting: Field[Any]) -> inspect.Parameter:
    text = setting_help(setting.name)
    digits = defaults("dream", "digits").get(setting.name, setting.default)
    beside = "" if digits == setting.default else f"; digits: {digits}"
    about = option(
        help=f"{text[0].upper()}{text[1:]}.",
        panel=setting.metadata["panel"].capitalize(),
        default=f"{setting.default if setting.default != '' else 'none'}{beside}",
    )
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[type(setting.default) | None, about],
    )
