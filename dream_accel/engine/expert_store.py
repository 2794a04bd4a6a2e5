"""The folder of experts: their parameters after every epoch, and a manifest of what they were trained on and how."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data import ImageSet
from ..errors import DreamAccelError, DreamAccelWarning, counted
from ..recipes.settings import Recipe
from ..runtime.files import write_bytes
from .manifest import Manifest
from .splits import data_difference, fingerprint

FORMAT = "dream_accel.experts/1"
MANIFEST_FILE = "experts.json"
PATTERN = "expert-*.safetensors"
ARCHITECTURE = ("network", "width", "depth", "norm", "activation", "pooling")
"""Settings that have to be those of the run that matches the experts."""
TRAINING = (
    *("strategy", "trajectory_epochs", "network_lr", "network_batch", "train_augment", "cutmix"),
    *("seed", "bf16", "channels_last"),
)
"""Settings that determine the experts, beside architecture and data."""
SAMPLING = ("batch", "clusters", "per_cluster", "interval", "kmeans_iterations", "refresh_images")
"""Settings that determine them as well, if their batches are chosen by a strategy."""


def file_name(number: int) -> str:
    """The name of the file of an expert, counted from 0."""
    return f"expert-{number:04d}.safetensors"


def expert_settings(recipe: Recipe, shape: tuple[int, int, int]) -> dict[str, Any]:
    """The settings that determine the experts, in values that JSON gives back.

    Args:
        recipe: the settings.
        shape: (channels, height, width) of the images, from which a depth of 0 is decided.
    """
    names = (*ARCHITECTURE, *TRAINING, *(SAMPLING if recipe.strategy != "random" else ()))
    return {**{name: getattr(recipe, name) for name in names}, "depth": recipe.depth_for(shape)}


def manifest_of(recipe: Recipe, train: ImageSet) -> Manifest:
    """Describe experts that are trained by a recipe on a training set."""
    return Manifest(expert_settings(recipe, train.shape), fingerprint(train))


def load_manifest(folder: Path) -> Manifest:
    """Read the manifest of a folder.

    Raises:
        DreamAccelError: there is none, or it is damaged.
    """
    path = folder / MANIFEST_FILE
    try:
        return Manifest.read(path, FORMAT, (*ARCHITECTURE, *TRAINING))
    except FileNotFoundError:
        raise DreamAccelError(
            f"{folder} holds no experts ({MANIFEST_FILE} is missing): name a folder that `dream-accel experts --out "
            "DIR` wrote"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DreamAccelError(
            f"{path} cannot be read ({error}): train the experts into another folder by `dream-accel experts`"
        ) from None


class Experts:
    """The experts of a folder whose files are whole.

    Files are mapped into memory, so only the parameters that are asked for are read, whatever the number of experts.

    Args:
        folder: a folder that :func:`dream_accel.train_experts` wrote.
        most: maximum number of experts; default: all.

    Attributes:
        folder: the folder.
        manifest: what the experts were trained on and how.
        numbers: the numbers of the experts, ascending: the first ``most`` that are whole.
        damaged: the names of files that are not.

    Raises:
        DreamAccelError: the folder has no manifest, or a damaged one.
    """

    def __init__(self, folder: str | os.PathLike[str], most: int | None = None) -> None:
        self.folder = Path(folder)
        self.manifest = load_manifest(self.folder)
        self._files: dict[int, Any] = {}
        self.damaged: list[str] = []
        digest, epochs = self.manifest.digest, self.epochs
        for path in sorted(self.folder.glob(PATTERN)):
            file = _opened(path, digest, epochs)
            number = path.stem.removeprefix("expert-")
            if file is None or not number.isdecimal():
                self.damaged.append(path.name)
            else:
                self._files[int(number)] = file
        self.numbers = tuple(sorted(self._files)[:most])

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def epochs(self) -> int:
        """The number of epochs of every expert; there are parameters of epoch 0, before training, up to this one."""
        return int(self.manifest.settings["trajectory_epochs"])

    def state(self, number: int, epoch: int) -> dict[str, Tensor]:
        """Read the parameters of an expert after an epoch, by name, on the CPU.

        Args:
            number: one of ``numbers``.
            epoch: 0 to ``epochs``; 0 is before training.
        """
        file = self._files[number]
        arrays = {name: file.get_slice(name)[epoch : epoch + 1] for name in file.keys()}  # noqa: SIM118 (not a dict)
        return {name: torch.from_numpy(array)[0] for name, array in arrays.items()}

    def flat(self, number: int, epoch: int, network: nn.Module) -> Tensor:
        """Read the parameters of an expert after an epoch, flattened in the order of a network's own, (P,) float32.

        Raises:
            DreamAccelError: the network has parameters of other names or shapes.
        """
        state = self.state(number, epoch)
        theirs = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if theirs != {name: tuple(tensor.shape) for name, tensor in network.named_parameters()}:
            raise DreamAccelError(
                f"the experts in {self.folder} have parameters of other names or shapes than the network of this run, "
                "whose code has changed since: train experts with it in another folder"
            )
        return torch.cat([state[name].flatten() for name, _ in network.named_parameters()])

    def description(self) -> dict[str, Any]:
        """Describe the experts in the checkpoint of a run, which is then continued on the same ones."""
        return {"digest": self.manifest.digest, "numbers": list(self.numbers)}


def save_expert(folder: Path, number: int, manifest: Manifest, states: dict[str, Tensor]) -> None:
    """Write the file of an expert atomically.

    Args:
        folder: the folder of experts.
        number: the expert's, from 0.
        manifest: the description of the folder.
        states: by the name of the parameter, (epochs + 1, *parameter) float32 on the CPU.

    Raises:
        OSError: the file cannot be written.
    """
    from safetensors.torch import save

    header = {"format": FORMAT, "manifest": manifest.digest}
    write_bytes(folder / file_name(number), save(states, metadata=header))


def experts_for(recipe: Recipe, train: ImageSet) -> Experts:
    """Open the experts that a recipe names and check that they fit it; files that are damaged are named once.

    Args:
        recipe: the settings of a run.
        train: its training set.

    Raises:
        DreamAccelError: no experts are named or none is whole, or they are of another network, another data set or
            another strategy, or trained for too few epochs.
    """
    if not recipe.experts:
        raise DreamAccelError(
            f"recipe {recipe.recipe!r} matches the trajectories of experts, and experts names no folder: train them by "
            "`dream-accel experts --out DIR` with the same data set and network, and give experts (--experts DIR)"
        )
    experts = Experts(recipe.experts, recipe.n_experts)
    _check_fit(experts, recipe, train)
    again = "the command that trained them trains the rest"
    if not experts:
        raise DreamAccelError(f"{experts.folder} holds no whole expert: {again}")
    if experts.damaged:
        files = "1 file is" if len(experts.damaged) == 1 else f"{len(experts.damaged)} files are"
        warnings.warn(
            f"{experts.folder}: {files} damaged and left out ({', '.join(experts.damaged[:5])}); "
            f"{counted(len(experts), 'expert')} used, and {again}",
            DreamAccelWarning,
            stacklevel=2,
        )
    return experts


def _check_fit(experts: Experts, recipe: Recipe, train: ImageSet) -> None:
    folder, theirs, ours = experts.folder, experts.manifest.settings, expert_settings(recipe, train.shape)
    difference = data_difference(experts.manifest.data, fingerprint(train))
    if difference is not None:
        raise DreamAccelError(
            f"the experts in {folder} were trained on other data ({difference}): name experts of this data set, with "
            "the same size, limit_train and seed"
        )
    for name in (*ARCHITECTURE, "strategy"):
        if theirs[name] != ours[name]:
            raise DreamAccelError(
                f"the experts in {folder} were trained with {name} {theirs[name]!r}, and this run has {ours[name]!r}: "
                f"give {name} {theirs[name]!r}, or train experts with {ours[name]!r}"
            )
    last = recipe.max_start_epoch - 1 + recipe.expert_epochs
    if last > experts.epochs:
        raise DreamAccelError(
            f"max_start_epoch {recipe.max_start_epoch} and expert_epochs {recipe.expert_epochs} reach epoch {last}, "
            f"and the experts in {folder} were trained for {counted(experts.epochs, 'epoch')}: lower one, or train "
            "experts with more trajectory_epochs"
        )


def _opened(path: Path, digest: str, epochs: int) -> Any:
    """The file of an expert, mapped into memory; None if it is damaged or belongs to other experts."""
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="numpy")
        header = file.metadata() or {}
        lengths = {file.get_slice(name).get_shape()[0] for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, IndexError):
        return None
    whole = (header.get("format"), header.get("manifest")) == (FORMAT, digest) and lengths == {epochs + 1}
    return file if whole else None
