"""Checkpoints: the state of a run between two outer iterations, from which it continues to the same bits."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from torch import Tensor

from ..errors import DreamAccelError
from ..recipes.settings import Recipe
from ..results import Progress
from ..runtime.files import write_bytes

FORMAT = "dream_accel.checkpoint/1"
CHECKPOINT_FILE = "checkpoint.safetensors"
"""Name of the checkpoint in a run's folder."""
CHECKPOINT_SECONDS = 60.0
"""Minimum time between two automatic checkpoints, seconds."""
FREE_TO_CHANGE = ("iterations", "graphs", "eval_epochs", "eval_batch", "eval_networks")
"""Settings that a continued run may change, since completed iterations do not depend on them."""


@dataclass(frozen=True)
class Checkpoint:
    """The state after the last iteration in ``history``.

    Everything else that the next iteration needs is derived from the seed and the number of the iteration.

    Attributes:
        pixels: (C, IPC, channels, H, W) float32 synthetic images.
        velocity: velocity of the pixel optimiser, shaped like ``pixels``.
        history: one line per completed outer iteration.
        class_gradients: class-gradient implementation; a resumed run reuses it.
    """

    pixels: Tensor
    velocity: Tensor
    history: tuple[Progress, ...]
    class_gradients: str = "auto"

    def save(self, path: Path, recipe: Recipe) -> None:
        """Write a safetensors file atomically.

        Args:
            path: the file to write; an existing one is replaced.
            recipe: the settings of the run, which are stored with the state.
        """
        from safetensors.torch import save

        header = {
            "format": FORMAT,
            "recipe": json.dumps(asdict(recipe)),
            "history": json.dumps([asdict(line) for line in self.history]),
        }
        tensors = {"pixels": self.pixels.cpu().contiguous(), "velocity": self.velocity.cpu().contiguous()}
        write_bytes(path, save(tensors, metadata=header))

    @classmethod
    def load(cls, path: Path, recipe: Recipe) -> Checkpoint:
        """Read the checkpoint of a run with the same settings.

        Args:
            path: the file to read.
            recipe: the settings of the run that continues; those in :data:`FREE_TO_CHANGE` may differ.

        Returns:
            the state, on the CPU.

        Raises:
            DreamAccelError: the file is damaged, or its run had other settings.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                pixels, velocity = file.get_tensor("pixels"), file.get_tensor("velocity")
            theirs = json.loads(header["recipe"])
            history = tuple(Progress(**line) for line in json.loads(header["history"]))
        except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
            raise DreamAccelError(
                f"{path} cannot be read as a checkpoint ({error}): remove it to start again"
            ) from None
        for setting in fields(Recipe):
            key, ours = setting.name, getattr(recipe, setting.name)
            found = theirs.get(key, setting.default)
            if key not in FREE_TO_CHANGE and found != ours and (key, ours) != ("class_gradients", "auto"):
                raise DreamAccelError(
                    f"{path} belongs to a run with {key} {found!r}, not {ours!r}: "
                    "continue it with its own settings, or write to another folder"
                )
        return cls(pixels, velocity, history, theirs.get("class_gradients", "auto"))


class CheckpointFile:
    """The checkpoint file of a run: read when the run begins, written every :data:`CHECKPOINT_SECONDS` and at its end.

    Args:
        path: the file; None for a run that keeps none, which makes every method do nothing.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._path = None if path is None else Path(path)
        self._written = time.perf_counter()

    def load(self, recipe: Recipe, shape: tuple[int, ...]) -> Checkpoint | None:
        """The state to continue from; None for a new run.

        Args:
            recipe: the settings of the run.
            shape: (C, IPC, channels, H, W), that of its pixels.

        Raises:
            DreamAccelError: the file is damaged, or its run had other settings or another data set.
        """
        if self._path is None or not self._path.exists():
            return None
        state = Checkpoint.load(self._path, recipe)
        if tuple(state.pixels.shape) != shape:
            raise DreamAccelError(
                f"{self._path} holds pixels of shape {tuple(state.pixels.shape)}, and this data set needs {shape}: "
                "continue the run on its own data set"
            )
        return state

    def save(self, state: Checkpoint, recipe: Recipe) -> None:
        """Write the state."""
        if self._path is not None:
            state.save(self._path, recipe)
            self._written = time.perf_counter()

    def save_when_due(self, state: Checkpoint, recipe: Recipe) -> None:
        """Write the state if the last one is older than :data:`CHECKPOINT_SECONDS`."""
        if time.perf_counter() - self._written > CHECKPOINT_SECONDS:
            self.save(state, recipe)
