"""``dream-accel convert``: converts results from the files of one program to those of another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import DreamAccelError, choices
from ..formats import FAMILIES
from .options import OUTPUT, Dataset, Experiment, Factor, Mean, Overwrite, Std, normalization_of, option

TARGETS = ("run", *FAMILIES)
"""The layouts that can be written: a run of this program, or a family of another."""


def convert(
    source: Annotated[Path, typer.Argument(help="A run's folder, or a file or folder of another program's results.")],
    out: Annotated[Path, typer.Argument(help="File (dc, idc) or folder (run, mtt, folder, ddranking) to write.")],
    to: Annotated[str, option(help=f"Layout to write: {', '.join(TARGETS)}.", panel=OUTPUT)],
    dataset: Dataset = None,
    factor: Factor = None,
    mean: Mean = None,
    std: Std = None,
    experiment: Experiment = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write a result in the layout of another program: DC, IDC, MTT, DD-Ranking, or image files.

    Reads runs of this program and every layout that it writes. Prints what the layout cannot store.
    """
    from ..formats import load, write

    if to not in TARGETS:
        raise choices("layout", to, TARGETS)
    if out.exists() and not overwrite and (out.is_file() or any(out.iterdir())):
        raise DreamAccelError(f"{out} exists: name another place, or give --overwrite")
    result = load(source, dataset, factor=factor, normalization=normalization_of(mean, std), experiment=experiment)
    if to == "run":
        result.save(out)
        said = f"{len(result.images)} images as a run"
    else:
        said = write(result, to, out)
    print(f"{said}; written to {out}")
