"""Options that several commands share, and the options made from the settings of a recipe."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ..data import Normalization
from ..errors import DreamAccelError
from ..recipes import RECIPES, Recipe, defaults, recipe, setting_help

DATA, NETWORKS, EVALUATION, OUTPUT = "Data", "Networks", "Evaluation", "Output"
"""Panels of ``--help``. Data, Networks and Evaluation are also panels of settings
(:data:`dream_accel.recipes.PANELS`)."""

THE_RUNS = "the run's"
"""The default of an option that overrides a setting of a run."""


def option(*flags: str, help: str, panel: str, default: str | None = None) -> Any:
    """Make an option of a command.

    Args:
        flags: the flags; default: derived from the name of the parameter.
        help: the help text.
        panel: the panel of ``--help`` that shows the option.
        default: the default in words; if None, ``--help`` shows its value.
    """
    return typer.Option(*flags, help=help, rich_help_panel=panel, show_default=True if default is None else default)


Device = Annotated[str, option(help="Where to run: auto, cpu, cuda, cuda:1.", panel=NETWORKS)]
DataDir = Annotated[
    str | None,
    option(
        help="Folder of named data sets.",
        panel=DATA,
        default="the environment variable DREAM_ACCEL_DATA, else ~/.cache/dream_accel/data",
    ),
]
Download = Annotated[bool, option("--download", help="Download a named data set that is not found.", panel=DATA)]

OutFolder = Annotated[Path | None, option(help="Folder to write.", panel=OUTPUT, default="a new one under runs/")]
Overwrite = Annotated[bool, option("--overwrite", help="Write into a folder that is not empty.", panel=OUTPUT)]
Quick = Annotated[bool, option("--quick", help="A small form of the command, to check that it runs.", panel=OUTPUT)]

Dataset = Annotated[
    str | None,
    option(
        help="Data set that a foreign result was made from, which its files do not store.", panel=DATA, default=THE_RUNS
    ),
]
Factor = Annotated[
    int | None,
    option(help="Multi-formation factor of an IDC file, which does not store it.", panel=DATA, default=THE_RUNS),
]
Experiment = Annotated[int, option(help="Experiment to read from a DC file.", panel=DATA)]
Mean = Annotated[
    str | None,
    option(
        help="Per-channel mean of the images' normalisation, as 0.49,0.48,0.45.", panel=DATA, default="DC's constants"
    ),
]
Std = Annotated[
    str | None,
    option(help="Per-channel standard deviation, given beside the mean.", panel=DATA, default="DC's constants"),
]

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
}
"""The settings of ``--quick``, with which every part of a command runs on little data."""


def normalization_of(mean: str | None, std: str | None) -> Normalization | None:
    """Parse the values of ``--mean`` and ``--std``.

    Args:
        mean: comma-separated numbers, one per channel, or None.
        std: as ``mean``.

    Returns:
        the constants; None if neither option is given.

    Raises:
        DreamAccelError: one of the two is missing, or they are not numbers.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise DreamAccelError("--mean and --std belong together: give both")
    try:
        return Normalization(*(tuple(map(float, text.split(","))) for text in (mean, std)))
    except ValueError as error:
        raise DreamAccelError(f"--mean {mean} and --std {std} are not numbers per channel ({error})") from None


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
        little = {key: value for key, value in (small or QUICK).items() if key in known}
        if given.get("batch"):
            little.pop("clusters", None)
        given = {**little, **given}
    return recipe(name, dataset, **given)


def with_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command that takes ``settings`` with one option for every setting of a recipe.

    The command receives the options that were given as the dict ``settings``, by the name of the setting.
    """
    own = inspect.signature(command, eval_str=True).parameters
    names = [setting.name for setting in fields(Recipe)]

    @functools.wraps(command)
    def wrapped(**options: Any) -> None:
        settings = {name: options.pop(name) for name in names}
        command(settings={key: value for key, value in settings.items() if value is not None}, **options)

    parameters = [_parameter(setting) for setting in fields(Recipe)]
    parameters += [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for name, parameter in own.items() if name != "settings"
    ]
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
