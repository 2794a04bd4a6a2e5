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
from .recipes.settings import Recipe
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
        normalization: what networks trained on the set expect, computed from the real training images.
        class_names: a name per class.
        history: one entry per outer iteration.
        interrupted: the run was ended by hand before its last iteration.
    """

    synthetic: SyntheticSet
    recipe: Recipe
    normalization: Normalization
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
            "normalization": self.normalization.to_dict(),
            "class_names": list(self.class_names),
            "iterations_done": self.history[-1].iteration if self.history else 0,
            "interrupted": self.interrupted,
        }


def load(path: str | os.PathLike[str]) -> Result:
    """Read a run: its folder, or its distilled.safetensors.

    Raises:
        DreamAccelError: nothing is there, or it is damaged or of another program.
    """
    path = Path(path)
    file = path / IMAGES_FILE if path.is_dir() else path
    synthetic = SyntheticSet.load(file)
    about = synthetic.metadata
    try:
        known = {setting.name for setting in fields(Recipe)}
        recipe = Recipe(**{key: value for key, value in about["recipe"].items() if key in known})
        normalization = Normalization.from_dict(about["normalization"])
        names = tuple(about["class_names"])
        interrupted = bool(about["interrupted"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DreamAccelError(
            f"{file} does not describe its run ({error}): it was not written by Result.save"
        ) from None
    return Result(synthetic, recipe, normalization, names, _read_history(file.with_name(METRICS_FILE)), interrupted)


def _read_history(file: Path) -> list[Progress]:
    if not file.exists():
        return []
    try:
        return [Progress(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines() if line]
    except (ValueError, TypeError) as error:
        raise DreamAccelError(
            f"{file} cannot be read ({error}): remove it to load the images without history"
        ) from None


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


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
