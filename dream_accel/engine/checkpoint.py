"""The state of a run between two outer iterations: enough to continue to the same bits."""

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
"""Settings that a continued run may change: they do not touch the iterations already done."""


@dataclass(frozen=True)
class Checkpoint:
    """Pixels and velocity after the last iteration in ``history``; everything else is named by seed and iteration."""

    pixels: Tensor
    velocity: Tensor
    history: tuple[Progress, ...]
    class_gradients: str = "auto"
    """how the gradients per class were had, which a continued run keeps to"""

    def save(self, path: Path, recipe: Recipe) -> None:
        """Write a safetensors file atomically."""
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
            raise DreamAccelError(f"{path} cannot be read as a checkpoint ({error}): remove it to begin anew") from None
        for setting in fields(Recipe):
            key, ours = setting.name, getattr(recipe, setting.name)
            found = theirs.get(key, setting.default)
            if key not in FREE_TO_CHANGE and found != ours and (key, ours) != ("class_gradients", "auto"):
                raise DreamAccelError(
                    f"{path} belongs to a run with {key} {found!r}, not {ours!r}: "
                    "continue it with its own settings, or write to another folder"
                )
        return cls(pixels, velocity, history, theirs.get("class_gradients", "auto"))
