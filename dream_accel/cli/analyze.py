"""``dream-accel analyze``: one command per figure, each with the CSV behind it.

The parameters of a figure are those of its function in :mod:`dream_accel.analysis`, each an option with the default of
the function; all other options are settings of a run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperGroup

from ..analysis import ANALYSES, find_analysis
from ..analysis.registry import PARAMETERS, REPLACED
from ..errors import DreamAccelError, counted
from .options import EVALUATION, DataDir, Device, Download, OutFolder, Overwrite, Quick, option
from .output import Output, output_folder, print_data
from .recipe_options import chosen_recipe, with_recipe
from .rows import RowWriter, settings_of


class Figures(TyperGroup):
    """The figures; an unknown one is refused with those that there are."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first argument names."""
        if not args[0].startswith("-"):
            find_analysis(args[0])
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=Figures, no_args_is_help=True, help="Make a figure of the paper, and the CSV behind it.")


def analyze(name: str, settings: dict[str, Any], given: dict[str, Any], **where: Any) -> None:
    """Measure, write NAME.csv as the rows come, and draw NAME.png and NAME.svg.

    Args:
        name: a key of :data:`dream_accel.analysis.ANALYSES`.
        settings: settings of a run that were given.
        given: parameters of the figure that were given.
        where: ``out``, ``overwrite``, ``device``, ``data_dir``, ``download`` and ``quick``.
    """
    from ..engine.splits import load_split
    from ..runtime.devices import find_device

    analysis, quick = find_analysis(name), where["quick"]
    for parameter in inspect.signature(analysis.measure).parameters:
        for setting in REPLACED.get(parameter, ()):
            if setting in settings:
                raise DreamAccelError(f"{name} does not read --{setting}: give --{parameter} in its place")
    chosen = chosen_recipe(settings, quick)
    parameters = {**(analysis.quick if quick else {}), **given}
    folder_name = f"{chosen.dataset}-{name}"
    with output_folder(where["out"], folder_name, where["overwrite"], chosen.dataset) as folder:
        device = find_device(where["device"])
        at_most = quick and "limit_train" not in settings
        split = load_split(chosen, device, where["data_dir"], where["download"], at_most=at_most)
        chosen = replace(chosen, dataset=split.name, limit_train=chosen.limit_train and len(split.train))
        output = Output(folder)
        described = settings_of(split, figure=name, parameters=parameters, recipe=asdict(chosen))
        writer = RowWriter(name, analysis.row, output, described)
        print_data(split, device)
        writer.take(analysis.measure(chosen, split, **parameters))
        writer.draw(split)
    if not output.lost:
        files = f"{output.place}/{name}.csv, .png and .svg"
        print(f"{counted(len(writer.rows), 'row')} written to {files}")
    if output.status:
        raise typer.Exit(output.status)


def _command_of(name: str) -> Callable[..., None]:
    """A command whose options are the parameters of the figure's function, beside those of every command."""
    measure = ANALYSES[name].measure
    defaults = {p.name: p.default for p in inspect.signature(measure).parameters.values() if p.kind is p.KEYWORD_ONLY}
    kinds = get_type_hints(measure)
    common: dict[str, tuple[Any, Any]] = {
        "out": (OutFolder, None),
        "overwrite": (Overwrite, False),
        "device": (Device, "auto"),
        "data_dir": (DataDir, None),
        "download": (Download, False),
        "quick": (Quick, False),
    }

    def command(settings: dict[str, Any], **options: Any) -> None:
        where = {key: options.pop(key) for key in common}
        given = {key: _parsed(key, value, kinds[key]) for key, value in options.items() if value is not None}
        analyze(name, settings, given, **where)

    own = {key: (_option(key, default), None) for key, default in defaults.items()}
    keyword = partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
    parameters = [inspect.Parameter("settings", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=dict[str, Any])]
    parameters += [
        keyword(key, annotation=annotation, default=default) for key, (annotation, default) in {**own, **common}.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__doc__ = (inspect.getdoc(measure) or "").partition("\n\n")[0]
    return with_recipe(command)


def _option(key: str, default: Any) -> Any:
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    kind = str if isinstance(default, tuple) else int
    about = f"{PARAMETERS[key][0].upper()}{PARAMETERS[key][1:]}"
    several = ", joined by commas." if isinstance(default, tuple) else "."
    return Annotated[kind | None, option(help=about + several, panel=EVALUATION, default=shown or "by --iterations")]


def _parsed(key: str, value: Any, kind: Any) -> Any:
    """Convert the value of an option to the type of the function's parameter: an int, or a tuple of ints or names."""
    if kind is int:
        return value
    words = [word.strip() for word in value.split(",")]
    try:
        return tuple(words) if kind == tuple[str, ...] else tuple(map(int, words))
    except ValueError:
        flag = key.replace("_", "-")
        raise DreamAccelError(f"--{flag} is {value!r}: give whole numbers, joined by commas") from None


for _name in ANALYSES:
    app.command(_name)(_command_of(_name))
