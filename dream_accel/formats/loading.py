"""Loading a run of this program or the result of another program."""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..data import Normalization
from ..data.sources import reading
from ..engine.checkpoint import CHECKPOINT_FILE
from ..engine.stored_run import is_checkpoint, read_checkpoint
from ..errors import DreamAccelError
from ..recipes import Recipe, recipe
from ..results import IMAGES_FILE, METRICS_FILE, Progress, Result
from ..synthetic import SyntheticSet
from .constants import DC_CONSTANTS
from .families import read


def load(
    path: str | os.PathLike[str],
    dataset: str | None = None,
    *,
    factor: int | None = None,
    normalization: Normalization | None = None,
    experiment: int = 0,
) -> Result:
    """Load a run of this program or the result of another program.

    Args:
        path: the folder of a run, its distilled.safetensors or its checkpoint.safetensors, which is read where a folder
            has no distilled.safetensors; or a foreign result in a layout that
            :mod:`dream_accel.formats` lists: a file of DC, DSA, DM, IDC, DREAM or NCFM, a folder of MTT, TESLA, FTD,
            DATM or DD-Ranking, or a folder of image files per class.
        dataset: the data set that a foreign result was made from, by a name that :func:`dream_accel.load_dataset`
            takes. Foreign files do not store it. For a run of this program: the data set to evaluate on, if it is not
            where it was.
        factor: the multi-formation factor of an IDC file, which does not store it: 1 for whole images, else the factor
            that the program was run with (2; 3 for ImageNet).
        normalization: the constants that the images of a foreign file were normalised by; default: those of DC's code
            for the data set. Whitened images (ZCA) cannot be restored by constants and must not be loaded this way.
        experiment: the experiment to read from a DC file, from 0.

    Returns:
        the result. A foreign one has the settings of the recipe ``dream`` for the data set, and
        :func:`dream_accel.evaluate` trains with these.

    Raises:
        DreamAccelError: the path does not exist, is damaged or of no known family, or a foreign file does not store a
            fact that no argument gives, or an argument contradicts one that a run of this program
            stores.
    """
    path = Path(path)
    with reading(path):
        candidates = (path / IMAGES_FILE, path / CHECKPOINT_FILE) if path.is_dir() else (path,)
        files = (file for file in candidates if file.suffix == ".safetensors" and (file == path or file.exists()))
        own = next(files, None)
    if own is not None:
        result = _load_checkpoint(own) if is_checkpoint(own) else _load_own(own)
        stored = {"factor": result.synthetic.factor, "normalization": result.normalization, "experiment": 0}
        given = {"factor": factor, "normalization": normalization, "experiment": experiment}
        for name, value in given.items():
            if value is not None and value != stored[name]:
                raise DreamAccelError(
                    f"{own} is of a run of this program and stores its {name}, {stored[name]}, not {value}: "
                    f"leave {name} out"
                )
        return result if dataset is None else replace(result, recipe=replace(result.recipe, dataset=dataset))
    return _load_foreign(path, dataset, factor, normalization, experiment)


def _load_own(file: Path) -> Result:
    synthetic = SyntheticSet.load(file)
    about = synthetic.metadata
    try:
        known = {setting.name for setting in fields(Recipe)}
        settings = Recipe(**{key: value for key, value in about["recipe"].items() if key in known})
        constants = about["normalization"]
        normalization = None if constants is None else Normalization.from_dict(constants)
        names = tuple(about["class_names"])
        interrupted, diverged = bool(about["interrupted"]), bool(about.get("diverged"))
        data, changes = about.get("data"), list(about.get("changes", ()))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DreamAccelError(
            f"{file} does not describe its run ({error}): it was not written by Result.save"
        ) from None
    history = _read_history(file.with_name(METRICS_FILE))
    return Result(synthetic, settings, normalization, names, history, interrupted, diverged, data, changes)


def _load_checkpoint(file: Path) -> Result:
    state, settings, origin = read_checkpoint(file)
    if not state.pixels.isfinite().all():
        raise DreamAccelError(f"{file} holds NaN or Inf pixels: it is damaged or of a run that diverged")
    synthetic = SyntheticSet(state.pixels.clamp(0, 1), settings.factor)
    # A checkpoint of an earlier version stores neither names nor constants.
    names = origin.class_names or tuple(str(c) for c in range(synthetic.n_classes))
    history, interrupted = list(state.history), len(state.history) < settings.iterations and not origin.diverged
    return Result(
        synthetic,
        settings,
        origin.normalization,
        names,
        history,
        interrupted,
        origin.diverged,
        origin.data,
        list(origin.changes),
    )


def _load_foreign(
    path: Path, dataset: str | None, factor: int | None, normalization: Normalization | None, experiment: int
) -> Result:
    found = read(path, experiment)
    if dataset is None:
        raise DreamAccelError(f"{path} does not say which data set it was made from: pass dataset= (--dataset)")
    if found.packed and factor is None:
        raise DreamAccelError(
            f"{path} does not say whether its images are packed: pass factor=1 (--factor 1) for whole images, or the "
            "factor the program was run with, usually 2"
        )
    constants = normalization or DC_CONSTANTS.get(dataset)
    if found.normalised and constants is None:
        raise DreamAccelError(
            f"{path} holds normalised images, and no constants are known for {dataset}: pass normalization= (--mean "
            f"and --std); known are those of {', '.join(DC_CONSTANTS)}"
        )
    rows, soft = found.by_class(path)
    settings: dict[str, Any] = {"ipc": rows.shape[1], "factor": factor or 1}
    if found.lr is not None and found.lr > 0:
        settings["network_lr"] = found.lr
    source = {"source": f"{found.family}: {path.name or path.resolve().name}"}
    synthetic = SyntheticSet(found.pixels(constants)[rows], factor or 1, source, soft)
    names = found.class_names or tuple(str(c) for c in range(len(rows)))
    return Result(synthetic, recipe("dream", dataset, **settings), constants, names)


def _read_history(file: Path) -> list[Progress]:
    if not file.exists():
        return []
    try:
        return [Progress(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines() if line]
    except (ValueError, TypeError) as error:
        raise DreamAccelError(
            f"{file} cannot be read ({error}): remove it to load the images without history"
        ) from None
