"""The content of a checkpoint file: the state of a run between two outer iterations, its settings and its data.

:mod:`dream_accel.engine.checkpoint` decides when the file is written.
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data import Normalization
from ..errors import DreamAccelError, DreamAccelWarning, counted
from ..previews import Previews
from ..recipes.settings import Recipe
from ..results import Progress
from ..runtime.files import write_bytes
from .splits import data_difference

FORMAT = "dream_accel.checkpoint/1"
FREE_TO_CHANGE = (
    *("iterations", "pixel_lr", "student_lr_lr", "network_lr", "graphs", "experts", "pool"),
    *("eval_epochs", "eval_batch", "eval_networks"),
    *("image_memory", "image_disk"),
)
"""Settings that a continued run may change; its result records that it did. Experts and pool may have moved, and the
machine may be another one."""


@dataclass(frozen=True)
class Origin:
    """Data and device of a run, stored in its checkpoint.

    Attributes:
        data: fingerprint of the training set; None in a checkpoint of a version that stored none.
        class_names: one name per class; empty in a checkpoint of such a version.
        normalization: constants of the training set.
        device: the device that the run computed on.
        data_dir: the folder of named data sets, if the user gave one.
        changes: one entry per continuation with other settings, as in :class:`dream_accel.results.Result`.
        diverged: whether the next iteration made NaN or Inf.
        experts: the experts whose trajectories are matched, as :meth:`.expert_store.Experts.description` returns them;
            None if there are none.
    """

    data: dict[str, Any] | None = None
    class_names: tuple[str, ...] = ()
    normalization: Normalization | None = None
    device: str = ""
    data_dir: str | None = None
    changes: tuple[dict[str, Any], ...] = ()
    diverged: bool = False
    experts: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Convert to values that JSON represents."""
        constants = None if self.normalization is None else self.normalization.to_dict()
        return {**{each.name: getattr(self, each.name) for each in fields(self)}, "normalization": constants}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Origin:
        """Convert back; names that a later version added are passed over."""
        known = {each.name for each in fields(cls)}
        found = {key: value for key, value in values.items() if key in known}
        constants = found.get("normalization")
        found["normalization"] = None if constants is None else Normalization.from_dict(constants)
        found["class_names"] = tuple(found.get("class_names", ()))
        found["changes"] = tuple(found.get("changes", ()))
        return cls(**found)


@dataclass(frozen=True)
class Checkpoint:
    """The state after the last iteration in ``history``.

    Everything else that the next iteration needs is derived from the seed and the number of the iteration.

    Attributes:
        pixels: (C, IPC, channels, H, W) float32 synthetic images.
        velocity: velocity of the pixel optimiser, shaped like ``pixels``.
        history: one line per completed outer iteration.
        class_gradients: class-gradient implementation; a resumed run reuses it.
        step_size: (2,) float32, the state of :class:`dream_accel.matching.trajectories.StepSize`; None if no step size
            is learned.
        picks: (C, n) int64, the real images of the last refresh, for the report; None if there are none.
        previews: how the images changed so far, for the report.
    """

    pixels: Tensor
    velocity: Tensor
    history: tuple[Progress, ...]
    class_gradients: str = "auto"
    step_size: Tensor | None = None
    picks: Tensor | None = None
    previews: Previews = field(default_factory=Previews)

    def save(self, path: Path, recipe: Recipe, origin: Origin) -> None:
        """Write a safetensors file atomically.

        Args:
            path: the file to write; an existing one is replaced.
            recipe: the settings of the run, which are stored with the state.
            origin: what the run was made from, which is stored as well.

        Raises:
            OSError: the file cannot be written.
        """
        # safetensors.torch.save makes a ctypes type for every new size and never frees it, and previews grow.
        from safetensors.numpy import save

        header = {
            "format": FORMAT,
            "recipe": json.dumps(asdict(recipe)),
            "history": json.dumps([line.to_dict() for line in self.history]),
            "origin": json.dumps(origin.to_dict()),
        }
        tensors = {"pixels": self.pixels.cpu().contiguous(), "velocity": self.velocity.cpu().contiguous()}
        optional = {"step_size": self.step_size, "picks": self.picks}
        tensors |= {name: tensor.cpu() for name, tensor in optional.items() if tensor is not None}
        if self.previews.images:
            tensors["previews"] = torch.stack(self.previews.images)
            tensors["preview_iterations"] = torch.tensor(self.previews.iterations)
        write_bytes(path, save({name: tensor.numpy() for name, tensor in tensors.items()}, metadata=header))


class StoredRun(NamedTuple):
    """The content of a checkpoint file.

    Attributes:
        state: pixels, velocity and history, on the CPU.
        recipe: the settings of the run.
        origin: what it was made from.
    """

    state: Checkpoint
    recipe: Recipe
    origin: Origin


def read_checkpoint(path: str | os.PathLike[str]) -> StoredRun:
    """Read a checkpoint file.

    Args:
        path: the file to read.

    Returns:
        its content.

    Raises:
        DreamAccelError: the file is damaged or of another program.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            pixels, velocity = file.get_tensor("pixels"), file.get_tensor("velocity")
            names = ("step_size", "picks", "previews", "preview_iterations")
            there = {name: file.get_tensor(name) for name in names if name in file.keys()}  # noqa: SIM118
        settings = json.loads(header["recipe"])
        known = {setting.name for setting in fields(Recipe)}
        recipe = Recipe(**{key: value for key, value in settings.items() if key in known})
        history = tuple(Progress(**line) for line in json.loads(header["history"]))
        origin = Origin.from_dict(json.loads(header.get("origin", "{}")))
        images, iterations = there.pop("previews", ()), there.pop("preview_iterations", torch.empty(0))
        previews = Previews(tuple(iterations.tolist()), tuple(images))
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, OSError) as error:
        raise DreamAccelError(f"{path} cannot be read as a checkpoint ({error}): remove it to begin anew") from None
    if pixels.dim() != 5 or pixels.shape != velocity.shape:
        raise DreamAccelError(
            f"{path} holds pixels of shape {tuple(pixels.shape)} and velocities of shape {tuple(velocity.shape)}: "
            "expected (classes, IPC, channels, height, width) for both"
        )
    state = Checkpoint(pixels, velocity, history, recipe.class_gradients, **there, previews=previews)
    return StoredRun(state, recipe, origin)


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Return True for a safetensors file whose header says that it is a checkpoint."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return bool((file.metadata() or {}).get("format") == FORMAT)
    except (SafetensorError, OSError):
        return False


def continued(path: Path, stored: StoredRun, recipe: Recipe, origin: Origin) -> Origin:
    """Check that a stored run may continue with given settings on given data.

    Args:
        path: the checkpoint, for messages.
        stored: its content.
        recipe: the settings to continue with.
        origin: data and device to continue on.

    Returns:
        ``origin`` with the changes of the run, this one's included.

    Raises:
        DreamAccelError: the data or a setting that cannot change differ, or fewer iterations are asked for than the run
            has completed.
    """
    changed: dict[str, list[Any]] = {}
    for key in (setting.name for setting in fields(Recipe)):
        theirs, ours = getattr(stored.recipe, key), getattr(recipe, key)
        if theirs == ours or (key, ours) == ("class_gradients", "auto"):
            continue
        if key not in FREE_TO_CHANGE:
            raise DreamAccelError(
                f"{path} belongs to a run with {key} {theirs!r}, not {ours!r}: continue it with its own settings (free "
                "to change are iterations, pixel_lr and network_lr), or write to another folder"
            )
        changed[key] = [theirs, ours]
    if stored.origin.data is None:
        warnings.warn(
            f"{path} was written by a version that did not record the data, so they cannot be compared",
            DreamAccelWarning,
            stacklevel=2,
        )
    elif origin.data is not None and (difference := data_difference(stored.origin.data, origin.data)) is not None:
        raise DreamAccelError(
            f"{path} belongs to a run on other data ({difference}): continue it on the data it was begun with, or "
            "begin a run in another folder"
        )
    if stored.origin.experts != origin.experts:
        raise DreamAccelError(
            f"{path} belongs to a run on other experts: name the folder of those it was begun with, as it was then, or "
            "begin a run in another folder"
        )
    done = len(stored.state.history)
    if recipe.iterations < done:
        raise DreamAccelError(
            f"{path} belongs to a run that has completed {counted(done, 'iteration')}, and iterations is "
            f"{recipe.iterations}: ask for at least {done}"
        )
    if stored.origin.device and stored.origin.device != origin.device:
        changed["device"] = [stored.origin.device, origin.device]
    entry = ({"after_iteration": done, "changed": changed},) if changed else ()
    return replace(origin, changes=(*stored.origin.changes, *entry))
