"""Options that several commands share and that are no settings of a run, such as --device and --out.

Options that are settings, such as --interval, are made in :mod:`dream_accel.cli.recipe_options` from the fields of
:class:`dream_accel.recipes.Recipe`, which ``recipes/settings.py`` defines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..data import Normalization
from ..errors import DreamAccelError
from ..networks import is_import_path
from ..recipes import Recipe

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
SkipUnreadable = Annotated[
    bool,
    option(
        "--skip-unreadable",
        help="Leave out files of an image folder that cannot be read, and say how many.",
        panel=DATA,
        default=THE_RUNS,
    ),
]

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


def named_network(recipe: Recipe, given: str | None) -> str:
    """The network of a stored run, or the one named on the command line.

    Raises:
        DreamAccelError: the run names an import path and the command line does not: files of a run may come from
            anywhere, and importing runs code.
    """
    if given is None and is_import_path(recipe.network):
        raise DreamAccelError(
            f"the run's network is {recipe.network!r}, which is imported only where the command names it: add "
            f"--network {recipe.network}, if you trust it"
        )
    return recipe.network if given is None else given


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
