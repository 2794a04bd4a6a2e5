"""Options that several commands of the command line share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any

import typer

from ..data import Normalization
from ..errors import DreamAccelError
from ..recipes import Recipe
from ..recipes.datasets import dataset_defaults

Device = Annotated[str, typer.Option(help="Where to run: auto, cpu, cuda, cuda:1.")]
DataDir = Annotated[
    str | None,
    typer.Option(help="Folder of named data sets. [default: $DREAM_ACCEL_DATA or ~/.cache/dream_accel/data]"),
]
Download = Annotated[bool, typer.Option("--download", help="Fetch a named data set that is not there.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")]
Quick = Annotated[bool, typer.Option("--quick", help="A small form of the command, to see that it runs.")]

Dataset = Annotated[
    str | None,
    typer.Option(help="Data set a foreign result was made from; its files do not say. [default: the run's]"),
]
Factor = Annotated[
    int | None, typer.Option(help="Multi-formation factor of an IDC file, which does not say it. [default: the run's]")
]
Experiment = Annotated[int, typer.Option(help="Which experiment of a DC file.")]
Mean = Annotated[
    str | None,
    typer.Option(help="Per-channel mean of the images' normalisation, as 0.49,0.48,0.45. [default: DC's constants]"),
]
Std = Annotated[
    str | None,
    typer.Option(help="Per-channel standard deviation, to be given beside the mean. [default: DC's constants]"),
]


def normalization_of(mean: str | None, std: str | None) -> Normalization | None:
    """The constants given as comma-separated numbers; None where none are.

    Raises:
        DreamAccelError: one of the two is missing, or they are no numbers.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise DreamAccelError("--mean and --std belong together: give both")
    try:
        return Normalization(*(tuple(map(float, text.split(","))) for text in (mean, std)))
    except ValueError as error:
        raise DreamAccelError(f"--mean {mean} and --std {std} are not numbers per channel ({error})") from None


def with_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that takes ``settings`` one option for every field of a recipe; those given arrive as a dict."""
    own = inspect.signature(command, eval_str=True).parameters
    names = [setting.name for setting in fields(Recipe)]

    @functools.wraps(command)
    def wrapped(**options: Any) -> None:
        settings = {name: options.pop(name) for name in names}
        command(settings={key: value for key, value in settings.items() if value is not None}, **options)

    parameters = [
        inspect.Parameter(
            setting.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[type(setting.default) | None, typer.Option(help=_help(setting), show_default=False)],
        )
        for setting in fields(Recipe)
    ]
    parameters += [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for name, parameter in own.items() if name != "settings"
    ]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped


def _help(setting: Any) -> str:
    text = setting.metadata["help"]
    digits = dataset_defaults("digits").get(setting.name, setting.default)
    beside = "" if digits == setting.default else f"; digits: {digits!r}".replace("'", "")
    shown = setting.default if setting.default != "" else "none"
    return f"{text[0].upper()}{text[1:]}. [default: {shown}{beside}]"
