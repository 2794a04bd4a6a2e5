"""Checkpoints: the state of a run between two outer iterations, from which it continues to the same bits."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from torch import Tensor

from ..errors import DreamAccelError
from ..recipes.settings import Recipe
from ..results import Progress
from ..runtime.files import write_bytes

FORMAT = "dream_accel.checkpoint/1"
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
