"""Training of experts: networks trained on real images, whose parameters are kept after every epoch (MTT)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import DataSplit
from ..errors import DreamAccelError
from ..networks import initialize
from ..networks.batchnorm import refuse_statistics
from ..networks.training import Rows, Trainer
from ..random import derive_seed, generator
from ..recipes import RECIPES, Recipe
from ..runtime.devices import find_device
from ..runtime.heap import retained_heap
from ..runtime.modes import default_modes
from .assembly import build_network, build_sampler, matches_trajectories
from .compute import Compute
from .expert_store import FORMAT, MANIFEST_FILE, Experts, manifest_of, save_expert
from .splits import load_split


@default_modes()
@retained_heap()
def train_experts(
    recipe: Recipe,
    data: Any = None,
    *,
    out: str | os.PathLike[str],
    device: str | torch.device | None = None,
    data_dir: str | None = None,
    download: bool = False,
    on_epoch: Callable[[], None] | None = None,
) -> Experts:
    """Train the experts that trajectory matching needs, or those that a folder still lacks.

    An expert is a network trained by plain SGD on augmented real images; its file holds every parameter before the
    first epoch and after each, (epochs + 1, *parameter) float32. A file is written when its expert is trained, whole or
    not at all, so an interrupted call is continued by the same one and loses at most the expert in training. Expert i
    has the same bits whether or not the experts before it were trained in the same call.

    With the strategy ``"random"`` an epoch is one pass over the training set in random order, as published. With any
    other one, batches are drawn from the picks of that strategy, as many of every class as a matching step would take,
    which are renewed every ``interval`` steps in the features of the expert in training; an epoch has as many steps.

    Args:
        recipe: of a method that matches trajectories. Read are ``n_experts``, ``trajectory_epochs``, ``network``,
            ``width``, ``depth``, ``network_lr``, ``network_batch``, ``train_augment``, ``cutmix``, ``strategy``,
            for the picks ``batch``, ``clusters``, ``per_cluster``, ``interval``, ``kmeans_iterations`` and
            ``refresh_images``, ``seed`` and what determines the data set.
        data: the data set, as :func:`dream_accel.data.as_split` takes it; default: the one that the recipe names.
        out: the folder of the experts; if it holds some of the same settings and data, they are kept.
        device: the device to train on; default: a GPU if there is one.
        data_dir: the folder of named data sets, as in :func:`dream_accel.load_dataset`.
        download: whether to download a named data set that is not found.
        on_epoch: called after every epoch of every expert.

    Returns:
        the experts in the folder.

    Raises:
        DreamAccelError: the recipe matches no trajectories, the folder holds experts of other settings or data, an
            expert diverged, or the data set or the device cannot be used.
        OSError: a file cannot be written; the experts before it are kept.
    """
    if not matches_trajectories(recipe):
        users = " or ".join(name for name in RECIPES if matches_trajectories(replace(recipe, recipe=name)))
        raise DreamAccelError(f"recipe {recipe.recipe!r} matches no trajectories and needs no experts: choose {users}")
    split = load_split(recipe, find_device(device), data_dir, download, data)
    compute = Compute.of(recipe, split)
    folder = Path(out)
    manifest = manifest_of(recipe, split.train)
    missing = missing_experts(recipe, split, folder)
    if not (folder / MANIFEST_FILE).exists():
        manifest.write(folder / MANIFEST_FILE, FORMAT)
    with compute.running():
        training = ExpertTraining(recipe, split, compute)
        for number in missing:
            save_expert(folder, number, manifest, training.train(number, on_epoch or (lambda: None)))
    return Experts(folder)


def missing_experts(recipe: Recipe, split: DataSplit, folder: Path) -> list[int]:
    """The numbers of the experts that are still to be trained in a folder, damaged ones included.

    Raises:
        DreamAccelError: the folder holds experts of other settings or other data.
    """
    if not (folder / MANIFEST_FILE).exists():
        return list(range(recipe.n_experts))
    experts, asked = Experts(folder), manifest_of(recipe, split.train)
    elsewhere = "continue them with their own settings, or write to another folder"
    for name, ours in asked.settings.items():
        theirs = experts.manifest.settings.get(name)
        if theirs != ours:
            raise DreamAccelError(f"{folder} holds experts trained with {name} {theirs!r}, not {ours!r}: {elsewhere}")
    if asked.data != experts.manifest.data:
        raise DreamAccelError(f"{folder} holds experts trained on other data: {elsewhere}")
    return [number for number in range(recipe.n_experts) if number not in experts.numbers]


class ExpertTraining:
    """Trains experts one after another; one network serves all, so that a recorded step does as well.

    Args:
        recipe: the settings.
        split: the data set, on the device of the training.
        compute: device, numeric format, memory format and recording.
    """

    def __init__(self, recipe: Recipe, split: DataSplit, compute: Compute) -> None:
        self.recipe = recipe
        self.split = split
        self.device = compute.device
        self.network = build_network(recipe, split, compute)
        refuse_statistics(self.network)
        self.trainer = Trainer(
            self.network,
            compute.normalization,
            lr=recipe.network_lr,
            momentum=0.0,
            weight_decay=0.0,
            augment=recipe.train_augment,
            cutmix_probability=recipe.cutmix,
            device=compute.device,
            seed=recipe.seed,
            keys=("expert", "init"),
            channels_last=compute.channels_last,
        )
        self.sampler = None if recipe.strategy == "random" else build_sampler(recipe, split, compute, self.network)
        self._compute = compute
        self._update = compute.recorded(self._step, ("images", "labels"), [self.trainer.draws])

    def train(self, number: int, on_epoch: Callable[[], None]) -> dict[str, Tensor]:
        """Train an expert.

        Args:
            number: the expert's; with the seed it names every random stream.
            on_epoch: called after every epoch.

        Returns:
            its parameters by name, (epochs + 1, *parameter) float32 on the CPU.

        Raises:
            DreamAccelError: its parameters became NaN or Inf.
        """
        seed, train = self.recipe.seed, self.split.train
        initialize(self.network, derive_seed(seed, "network", "expert", number))
        self.trainer.restart(seed, "expert", number)
        if self.sampler is not None:
            self.sampler.restart("expert", number)
        picks = None if self.sampler is None else self.sampler.batch_size * self.sampler.n_classes
        order = Rows(picks or len(train), generator(seed, "expert rows", number, device=self.device))
        states = [self._state()]
        for _ in range(self.recipe.trajectory_epochs):
            for rows in self._batches(order):
                self._update(rows, images=train.images, labels=train.labels)
            states.append(self._state())
            on_epoch()
        stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
        if not all(tensor.isfinite().all() for tensor in stacked.values()):
            raise DreamAccelError(f"expert {number} diverged: its parameters hold NaN or Inf; lower network_lr")
        return stacked

    def _batches(self, order: Rows) -> Iterator[Tensor]:
        """The rows of every step of an epoch, in an order of all images or of the sampler's picks."""
        for rows in order.batches(len(self.split.train), self.recipe.network_batch):
            if self.sampler is None:
                yield rows
                continue
            self.sampler.update(self.network)
            assert self.sampler.indices is not None
            yield self.sampler.indices.flatten()[rows]

    def _state(self) -> dict[str, Tensor]:
        named = self.network.named_parameters()
        return {name: tensor.detach().to("cpu", torch.float32, copy=True).contiguous() for name, tensor in named}

    def _step(self, rows: Tensor, *, images: Tensor, labels: Tensor) -> Tensor:
        with self._compute.autocast():
            return self.trainer.steps(rows, images=images, labels=labels, batch=len(rows), lr=self.recipe.network_lr)
