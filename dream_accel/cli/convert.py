"""``dream-accel convert``: converts results from the files of one program to those of another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import DreamAccelError, choices, counted
from ..formats import FAMILIES
from .options import OUTPUT, Dataset, Experiment, Factor, Mean, Overwrite, Std, normalization_of, option
from .output import remove_earlier_run

TARGETS = ("run", *FAMILIES)
"""The layouts that can be written: a run of this program, or a family of another."""
FILES = ("dc", "idc")
"""The layouts that are one file; the others are folders."""


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
    from ..results import CONFIG_FILE, IMAGES_FILE, METRICS_FILE
    from ..runtime.folders import LOCK_FILE, take_file, take_folder

    if to not in TARGETS:
        raise choices("layout", to, TARGETS)
    if to not in FILES and out.exists() and not out.is_dir():
        raise DreamAccelError(f"{out} is not a folder, and {to} is written as one: name a folder")
    if out.is_file() and not overwrite:
        raise DreamAccelError(f"{out} exists: name another place, or give --overwrite")
    with take_file(out) if to in FILES else take_folder(out):
        if out.is_dir() and not overwrite and any(entry.name != LOCK_FILE for entry in out.iterdir()):
            raise DreamAccelError(f"{out} exists: name another place, or give --overwrite")
        result = load(source, dataset, factor=factor, normalization=normalization_of(mean, std), experiment=experiment)
        try:
            if to == "run":
                result.save(out)
                if out.resolve() not in (source.resolve(), *source.resolve().parents):
                    remove_earlier_run(out, keep=(IMAGES_FILE, CONFIG_FILE, METRICS_FILE))
                said = f"{counted(len(result.images), 'image')} as a run"
            else:
                said = write(result, to, out)
        except OSError as error:
            raise DreamAccelError(
                f"{out} cannot be written ({error.strerror or error})"
                f"{'' if to in FILES else ', and what is there is incomplete'}: free the place or name another; "
                f"{source} is as it was"
            ) from None
    print(f"{said}; written to {out}")
