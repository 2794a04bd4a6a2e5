"""The result of a run, in memory and as a folder."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .data import Normalization
from .errors import DreamAccelError
from .formats.constants import DC_CONSTANTS
from .formats.families import read
from .recipes import Recipe
from .recipes import recipe as make_recipe
from .runtime.files import write_text
from .synthetic import SyntheticSet

IMAGES_FILE = "distilled.safetensors"
CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class Progress:
    """One log line of a run.

    Attributes:
        iteration: outer iterations done.
        step: inner steps done.
        loss: matching distance, summed over classes, mean over the inner steps of the iteration.
        images_per_second: real images matched or trained on.
        seconds: since the run began.
    """

    iteration: int
    step: int
    loss: float
    images_per_second: float
    seconds: float


@dataclass
class Result:
    """A distilled set with everything that led to it.

    Attributes:
        synthetic: the set itself.
        recipe: the settings of the run.
        normalization: what networks trained on the set expect, computed from the real training images; None leaves it
            to the data set the result is evaluated on.
        class_names: a name per class.
        history: one entry per outer iteration.
        interrupted: the run was ended by hand before its last iteration.
    """

    synthetic: SyntheticSet
    recipe: Recipe
    normalization: Normalization | None
    class_names: tuple[str, ...]
    history: list[Progress] = field(default_factory=list)
    interrupted: bool = False

    @property
    def images(self) -> Tensor:
        """(C * IPC, channels, H, W) float32 in [0, 1] as stored; networks train on ``synthetic.decode()``."""
        return self.synthetic.images.flatten(0, 1)

    @property
    def labels(self) -> Tensor:
        """(C * IPC,) int64."""
        return self.synthetic.labels.flatten()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write distilled.safetensors, config.json and metrics.jsonl; the first alone is enough for :func:`load`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.synthetic.metadata.update(self._description())
        self.synthetic.save(folder / IMAGES_FILE)
        config = {**self._description(), "versions": versions()}
        write_text(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")
        write_text(folder / METRICS_FILE, "".join(json.dumps(asdict(line)) + "\n" for line in self.history))
        return folder

    def _description(self) -> dict[str, Any]:
        return {
            "recipe": asdict(self.recipe),
            "normalization": None if self.normalization is None else self.normalization.to_dict(),
            "class_names": list(self.class_names),
            "iterations_done": self.history[-1].iteration if self.history else 0,
            "interrupted": self.interrupted,
        }


def load(
    path: str | os.PathLike[str],
    dataset: str | None = None,
    *,
    factor: int | None = None,
    normalization: Normalization | None = None,
    experiment: int = 0,
) -> Result:
    """Read a run, or the result of another program.

    Args:
        path: a run's folder or its distilled.safetensors; or what :mod:`dream_accel.formats` lists: a file of DC, DSA,
            DM, IDC, DREAM or NCFM, a folder of MTT, TESLA, FTD or DATM, a folder of image files per class.
        dataset: the data set a foreign result was made from, by the name of :func:`dream_accel.load_dataset`. Foreign
            files do not say it.
        factor: the multi-formation factor of an IDC file, which does not say it: 1 for whole images, else what the
            program was run with (2; 3 for ImageNet).
        normalization: what the images of a foreign file went through, where it is not the constants DC's code has for
            the data set. Whitened images (ZCA) cannot be brought back: do not read them as normalised ones.
        experiment: which experiment of a DC file.

    Returns:
        the result; a foreign one has the settings of the recipe ``dream`` for the data set, which is how
        :func:`dream_accel.evaluate` trains on it.

    Raises:
        DreamAccelError: nothing is there, it is damaged or of no known family, or a foreign file leaves open what an
            argument must say.
    """
    path = Path(path)
    own = path / IMAGES_FILE if path.is_dir() else path
    if own.suffix == ".safetensors" and (own == path or own.exists()):
        return _load_own(own)
    return _load_foreign(path, dataset, factor, normalization, experiment)


def _load_own(file: Path) -> Result:
    synthetic = SyntheticSet.load(file)
    about = synthetic.metadata
    try:
        known = {setting.name for setting in fields(Recipe)}
        recipe = Recipe(**{key: value for key, value in about["recipe"].items() if key in known})
        constants = about["normalization"]
        normalization = None if constants is None else Normalization.from_dict(constants)
        names = tuple(about["class_names"])
        interrupted = bool(about["interrupted"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DreamAccelError(
            f"{file} does not describe its run ({error}): it was not written by Result.save"
        ) from None
    return Result(synthetic, recipe, normalization, names, _read_history(file.with_name(METRICS_FILE)), interrupted)


def _load_foreign(
    path: Path, dataset: str | None, factor: int | None, normalization: Normalization | None, experiment: int
) -> Result:
    found = read(path, experiment)
    if dataset is None:
        raise DreamAccelError(f"{path} does not say which data set it was made from: pass dataset= (--dataset)")
    if found.packed and factor is None:
        raise DreamAccelError(
            f"{path} does not say whether its images are packed: pass factor=1 (--factor 1) for whole images, or the "
            "factor the program was run with, 2 as a rule"
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
    source = {"source": f"{found.family}: {path.name}"}
    synthetic = SyntheticSet(found.pixels(constants)[rows], factor or 1, source, soft)
    names = found.class_names or tuple(str(c) for c in range(len(rows)))
    return Result(synthetic, make_recipe("dream", dataset, **settings), constants, names)


def _read_history(file: Path) -> list[Progress]:
    if not file.exists():
        return []
    try:
        return [Progress(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines() if line]
    except (ValueError, TypeError) as error:
        raise DreamAccelError(
            f"{file} cannot be read ({error}): remove it to load the images without history"
        ) from None


def versions() -> dict[str, str]:
    """Versions of this package and of what it computes with."""
    import platform
    from importlib import metadata

    def version(name: str) -> str:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "not installed"

    return {"dream-accel": version("dream-accel"), "torch": torch.__version__, "python": platform.python_version()}
