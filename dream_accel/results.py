"""The result of a run, in memory and as a folder of files."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from .data import Normalization
from .errors import DreamAccelError
from .previews import Previews
from .recipes import Recipe
from .runtime.files import write_text
from .synthetic import SyntheticSet

IMAGES_FILE = "distilled.safetensors"
CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class Progress:
    """One line of the log of a run, written after every outer iteration.

    Attributes:
        iteration: number of outer iterations completed.
        step: number of inner steps completed.
        loss: matching distance, summed over classes, mean over the inner steps of the iteration; of trajectories, the
            normalised distance of student and expert.
        images_per_second: real images matched or trained on, per second of the iteration.
        seconds: computing time since the run began; a continued run adds its own.
        student_lr: the learned step size of the student at the end of the iteration; None if none is learned.
    """

    iteration: int
    step: int
    loss: float
    images_per_second: float
    seconds: float
    student_lr: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Convert to values that JSON represents; a step size that is not learned is left out."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass
class Result:
    """A distilled set with the settings and the history of its run.

    Attributes:
        synthetic: the distilled set.
        recipe: the settings of the run.
        normalization: the per-channel constants that networks trained on the set expect, computed from the real
            training images; None uses those of the data set that the result is evaluated on.
        class_names: one name per class.
        history: one entry per outer iteration.
        interrupted: whether the user ended the run before its last iteration.
        diverged: whether the iteration after the last one in ``history`` made NaN or Inf, which ended the run.
        data: the fingerprint of the training set, as :func:`dream_accel.engine.splits.fingerprint` computes it; None if
            it is not known.
        changes: one entry for every continuation with other settings or on another device:
            ``{"after_iteration": 18, "changed": {"pixel_lr": [0.5, 0.1]}}``, values before and after.
        previews: how the images changed along the run; empty if the result was loaded.
        picks: (C, n) int64 on the CPU, the training images of the last refresh; None if the result was loaded or the
            method picks none.
    """

    synthetic: SyntheticSet
    recipe: Recipe
    normalization: Normalization | None
    class_names: tuple[str, ...]
    history: list[Progress] = field(default_factory=list)
    interrupted: bool = False
    diverged: bool = False
    data: dict[str, Any] | None = None
    changes: list[dict[str, Any]] = field(default_factory=list)
    previews: Previews = field(default_factory=Previews)
    picks: Tensor | None = None

    @property
    def images(self) -> Tensor:
        """The stored images (C * IPC, channels, H, W) float32 in [0, 1]; networks train on ``synthetic.decode()``."""
        return self.synthetic.images.flatten(0, 1)

    @property
    def labels(self) -> Tensor:
        """The classes (C * IPC,) int64 of the stored images."""
        return self.synthetic.labels.flatten()

    @property
    def student_lr(self) -> float | None:
        """The learned step size of trajectory matching after the last iteration; None for other methods."""
        return self.history[-1].student_lr if self.history else self.synthetic.metadata.get("student_lr")

    @property
    def source(self) -> str | None:
        """The family and name of the foreign file that the images were read from; None for a run of this program."""
        return self.synthetic.metadata.get("source")

    def dataset(self, normalized: bool = False) -> TensorDataset:
        """Make a map-style Dataset of the decoded images and labels, ready for a ``DataLoader``.

        Args:
            normalized: whether images are normalised for networks, ``(x - mean) / std``, or float32 in [0, 1].

        Returns:
            C * IPC * f² pairs: an image (channels, H, W) float32, and its class () int64, or its soft label (C,)
            float32.

        Raises:
            DreamAccelError: ``normalized`` is set and the result has no constants, which foreign files may lack.
        """
        images, labels = self.synthetic.decode()
        if normalized:
            if self.normalization is None:
                raise DreamAccelError(
                    "this result has no normalisation constants: leave normalized out, or load it with normalization="
                )
            images = self.normalization(images)
        return TensorDataset(images, labels)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write distilled.safetensors, config.json and metrics.jsonl.

        :func:`dream_accel.load` needs only the first of them; without metrics.jsonl the history is empty.

        Args:
            folder: the folder to write to; it is created if it does not exist.

        Returns:
            the folder.

        Raises:
            OSError: the folder cannot be written to, or the disk is full; the result is unchanged.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.synthetic.metadata.update(self._description())
        self.synthetic.save(folder / IMAGES_FILE)
        config = {**self._description(), "versions": versions()}
        write_text(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")
        write_text(folder / METRICS_FILE, "".join(json.dumps(line.to_dict()) + "\n" for line in self.history))
        return folder

    def _description(self) -> dict[str, Any]:
        return {
            "recipe": asdict(self.recipe),
            "normalization": None if self.normalization is None else self.normalization.to_dict(),
            "class_names": list(self.class_names),
            "iterations_done": self.history[-1].iteration if self.history else 0,
            "interrupted": self.interrupted,
            "diverged": self.diverged,
            "data": self.data,
            "changes": self.changes,
            **({} if self.student_lr is None else {"student_lr": self.student_lr}),
        }


def versions() -> dict[str, str]:
    """Return the versions of this package, of torch and of Python, by name."""
    import platform
    from importlib import metadata

    def version(name: str) -> str:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "not installed"

    return {"dream-accel": version("dream-accel"), "torch": torch.__version__, "python": platform.python_version()}
