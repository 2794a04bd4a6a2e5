"""The folder of a pool: a file per trajectory, and a manifest of what determines their content.

A file has every state of the network, the images picked in it, and for every augmentation draw the draw itself and the
real side of a matching step. It does not depend on the synthetic set, on metric and rates, or on IPC and factor.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data import DataSplit
from ..errors import DreamAccelError, DreamAccelWarning
from ..matching.objective import Target
from ..matching.trajectories import TrajectoryMatching
from ..recipes import RECIPES, Recipe
from ..runtime.files import write_bytes
from ..sampling.strategies import STRATEGIES
from .manifest import Manifest, OtherVersionError
from .splits import data_difference, fingerprint

# 2: augmentations are drawn by random.Streams. 3: batches of training may be computed in parts.
FORMAT = "dream_accel.pool/3"
MANIFEST_FILE = "pool.json"
PATTERN = "trajectory-*.safetensors"
NUMBERS = ("stages", "draws")
"""Settings of which a run may ask for less than the pool has."""

_NETWORK = ("network", "width", "depth", "norm", "activation", "pooling")
_COMPUTED = ("match_augment", "real_batch", "pool_dtype", "seed", "bf16", "channels_last")
_SGD = ("network_lr", "network_momentum", "weight_decay", "network_batch", "network_parts", "train_augment", "cutmix")
_TRAINING: dict[str, tuple[str, ...]] = {
    "trained_on_real": (*_SGD, "network_images", "pretrain_epochs"),
    "trained_pool": (*_SGD, "stage_epochs"),
    "fresh_networks": (),
}
"""Settings of the training between two states, by the method's schedule."""
_WORDS = {"real_side": "targets", "schedule": "networks", "n_clusters": "clusters"}


def file_name(number: int) -> str:
    """The name of the file of a trajectory, counted from 0."""
    return f"trajectory-{number:04d}.safetensors"


def pool_settings(recipe: Recipe, split: DataSplit) -> dict[str, Any]:
    """The settings that determine the entries of a pool, in values that JSON gives back.

    Args:
        recipe: the settings of a run that caches its real side.
        split: its data set.
    """
    method = RECIPES[recipe.recipe]
    objective = method.objective(recipe)
    assert not isinstance(objective, TrajectoryMatching)
    sampling = ("strategy", "n_clusters", "per_cluster", *sorted(STRATEGIES[recipe.strategy].uses))
    names = (*_NETWORK, *_TRAINING[method.SCHEDULE], *sampling, *_COMPUTED, *NUMBERS)
    return {
        "schedule": method.SCHEDULE,
        "real_side": objective.real_side,
        **{name: getattr(recipe, name) for name in names},
        "depth": recipe.depth_for(split.train.shape),
        "normalization": split.normalization.to_dict(),
    }


def manifest_of(recipe: Recipe, split: DataSplit) -> Manifest:
    """Describe the pool that a recipe fills from a data set."""
    return Manifest(pool_settings(recipe, split), fingerprint(split.train))


def save_trajectory(folder: Path, number: int, manifest: Manifest, entries: Mapping[str, Tensor]) -> None:
    """Write the file of a trajectory atomically.

    Args:
        folder: the folder of the pool.
        number: the trajectory's, from 0.
        manifest: the description of the pool.
        entries: of :meth:`dream_accel.engine.pool.NetworkPool.entries`.

    Raises:
        OSError: the file cannot be written.
    """
    from safetensors.torch import save

    header = {"format": FORMAT, "manifest": manifest.digest, "entries": str(len(entries))}
    write_bytes(folder / file_name(number), save(dict(entries), metadata=header))


class StoredPool:
    """The trajectories of a folder whose files are whole.

    Files are mapped into memory, so only the entry that is asked for is read. A file is looked for when its trajectory
    is first asked for, so a pool may be filled by another process meanwhile.

    Args:
        folder: a folder that :func:`dream_accel.fill_pool` wrote.

    Attributes:
        folder: the folder.
        manifest: what determines the entries.

    Raises:
        DreamAccelError: the folder has no manifest, a damaged one, or one of another version.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.manifest = load_manifest(self.folder)
        self._files: dict[int, Any] = {}
        self._tensors: dict[int, frozenset[str]] = {}
        self._lists: dict[int, frozenset[str]] = {}

    def __contains__(self, number: int) -> bool:
        """Return whether the file of a trajectory is there and whole."""
        if number not in self._files:
            file = _opened(self.folder / file_name(number), self.manifest.digest)
            if file is None:
                return False
            names = frozenset(file.keys())
            self._files[number], self._tensors[number] = file, names
            self._lists[number] = frozenset(prefix for name in names for prefix in _prefixes(name))
        return True

    def whole(self) -> list[int]:
        """The numbers of all trajectories that are whole, ascending."""
        numbers = (path.stem.removeprefix("trajectory-") for path in self.folder.glob(PATTERN))
        return sorted(int(number) for number in numbers if number.isdecimal() and int(number) in self)

    def damaged(self) -> list[str]:
        """The names of the files that are not."""
        whole = {file_name(number) for number in self.whole()}
        return sorted(path.name for path in self.folder.glob(PATTERN) if path.name not in whole)

    def keep_only(self, numbers: Collection[int]) -> None:
        """Close the files of all other trajectories."""
        self._files = {number: file for number, file in self._files.items() if number in numbers}

    def state(self, number: int, stage: int) -> list[Tensor]:
        """Read parameters and buffers of a state, in the order of the network's ``state_dict``, on the CPU."""
        return self._list(number, f"state.{stage}")

    def real(self, number: int, stage: int, draw: int) -> tuple[Target, Tensor]:
        """Read the target of a draw, in the dtype it is stored in, and its augmentations (C, k), on the CPU."""
        return self._list(number, f"target.{stage}.{draw}"), self._files[number].get_tensor(
            f"augmentations.{stage}.{draw}"
        )

    def _list(self, number: int, prefix: str) -> list[Any]:
        """The tensors ``prefix.0``, ``prefix.1``, ..., nested where the names go on."""
        found: list[Any] = []
        while True:
            name = f"{prefix}.{len(found)}"
            if name in self._tensors[number]:
                found.append(self._files[number].get_tensor(name))
            elif name in self._lists[number]:
                found.append(self._list(number, name))
            else:
                return found


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def named(prefix: str, target: Target) -> dict[str, Tensor]:
    """Name the tensors of a nested list, as :class:`StoredPool` reads them."""
    parts: dict[str, Tensor] = {}
    for i, part in enumerate(target):
        name = f"{prefix}.{i}"
        parts |= {name: part.detach().cpu().contiguous()} if isinstance(part, Tensor) else named(name, part)
    return parts


def load_manifest(folder: Path) -> Manifest:
    """Read the manifest of a pool.

    Raises:
        DreamAccelError: there is none, it is damaged, or of another version.
    """
    path, command = folder / MANIFEST_FILE, "`dream-accel pool --out DIR`"
    again = f"fill one in another folder by {command}"
    try:
        return Manifest.read(path, FORMAT, ("schedule", "real_side", "normalization", *_NETWORK, *_COMPUTED, *NUMBERS))
    except FileNotFoundError:
        raise DreamAccelError(
            f"{folder} holds no pool ({MANIFEST_FILE} is missing): name a folder that {command} wrote"
        ) from None
    except OtherVersionError as error:
        raise DreamAccelError(
            f"the pool in {folder} is of another version of the program ({error}, and this one reads {FORMAT!r}): "
            f"{again}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DreamAccelError(f"{path} cannot be read ({error}): {again}") from None


def pool_for(recipe: Recipe, split: DataSplit) -> StoredPool | None:
    """Open the pool that a recipe names and check that it fits; what it lacks is said once.

    Args:
        recipe: the settings of a run.
        split: its data set.

    Returns:
        the pool; None if the recipe names none or caches nothing.

    Raises:
        DreamAccelError: the pool is of other data, another network, other settings, another version, or has too few
            states or draws.
    """
    if not recipe.pool or recipe.real != "cached":
        return None
    pool, asked = StoredPool(recipe.pool), manifest_of(recipe, split)
    difference = pool_difference(pool.manifest, asked)
    if difference is not None:
        raise DreamAccelError(
            f"the pool in {pool.folder} does not fit this run ({difference}): run with what it was filled with, or "
            "fill another one by `dream-accel pool --out DIR`"
        )
    there, damaged = [number for number in range(recipe.trajectories) if number in pool], pool.damaged()
    if len(there) < recipe.trajectories or damaged:
        files = f", and {', '.join(damaged[:5])} damaged" if damaged else ""
        warnings.warn(
            f"{pool.folder} holds {len(there)} of the {recipe.trajectories} trajectories of this run{files}: the run "
            "computes those that are still missing when it needs them, and the command that fills the pool adds them",
            DreamAccelWarning,
            stacklevel=2,
        )
    return pool


def pool_difference(stored: Manifest, asked: Manifest, exact: bool = False) -> str | None:
    """Say in words what keeps a pool from serving a run; None if nothing does.

    Args:
        stored: of the pool.
        asked: of the run.
        exact: whether states and draws must be as many, not at least as many.
    """
    if (difference := data_difference(stored.data, asked.data)) is not None:
        return f"other data: {difference}"
    for name, ours in asked.settings.items():
        theirs = stored.settings.get(name)
        if theirs != ours and (exact or name not in NUMBERS or theirs < ours):
            return f"{_WORDS.get(name, name)} {_shown(theirs)} there and {_shown(ours)} here"
    return None


def _shown(value: Any) -> str:
    return "not read" if value is None else repr(value)


def _opened(path: Path, digest: str) -> Any:
    """The file of a trajectory, mapped into memory; None if it is not there, damaged, or of another pool."""
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="pt")
        header, entries = file.metadata() or {}, len(file.keys())
    except (SafetensorError, OSError):
        return None
    expected = (FORMAT, digest, str(entries))
    return file if (header.get("format"), header.get("manifest"), header.get("entries")) == expected else None
