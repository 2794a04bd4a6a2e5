"""The settings of an evaluation, and the accuracies measured with them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Any

from ..errors import DreamAccelError
from ..networks import check_settings
from ..recipes.settings import Recipe


@dataclass(frozen=True)
class Protocol:
    """The settings of an evaluation.

    Networks are trained by SGD; the learning rate is multiplied by 0.2 at 2/3 and at 5/6 of the epochs.

    Attributes:
        network: a key of :data:`dream_accel.networks.NETWORKS`, or an import path as ``make_network`` takes it.
        width: channels of every block of the ConvNet; other networks have their published channels at 128.
        depth: blocks of the ConvNet.
        networks: number of networks trained from scratch.
        epochs: epochs over the synthetic set.
        batch: batch size, images.
        lr: initial learning rate.
        momentum: momentum of SGD.
        weight_decay: weight decay of SGD.
        augment: names for :class:`dream_accel.augment.Augmentation`, applied to every training image.
        cutmix: probability of CutMix per batch.
        seed: seed of every random draw.
        norm: norm of the network.
        activation: activation of the network.
        pooling: pooling of the network.
    """

    network: str = "convnet"
    width: int = 128
    depth: int = 3
    networks: int = 3
    epochs: int = 1000
    batch: int = 64
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: str = "color_crop_flip_scale_rotate"
    cutmix: float = 0.5
    seed: int = 0
    norm: str = "instance"
    activation: str = "relu"
    pooling: str = "avg"

    @classmethod
    def of(cls, recipe: Recipe, shape: tuple[int, int, int], **overrides: Any) -> Protocol:
        """Take the protocol from a recipe.

        Args:
            recipe: the settings of a run.
            shape: (channels, height, width) of the images, pixels.
            overrides: fields that differ from those of the recipe; None keeps the recipe's value.

        Raises:
            DreamAccelError: there is no such field, or the network does not read it.
        """
        unknown = set(overrides) - set(cls.__dataclass_fields__)
        if unknown:
            raise DreamAccelError(
                f"the protocol has no setting {sorted(unknown)[0]!r}: "
                f"settings are {', '.join(cls.__dataclass_fields__)}"
            )
        given = {key: value for key, value in overrides.items() if value is not None}
        check_settings(given.get("network", recipe.network), given)
        of_recipe = cls(
            network=recipe.network,
            width=recipe.width,
            depth=recipe.depth_for(shape),
            networks=recipe.eval_networks,
            epochs=recipe.eval_epochs,
            batch=recipe.eval_batch,
            lr=recipe.network_lr,
            momentum=recipe.network_momentum,
            weight_decay=recipe.weight_decay,
            augment=recipe.train_augment,
            cutmix=recipe.cutmix,
            seed=recipe.seed,
            **recipe.layer_kinds,
        )
        return replace(of_recipe, **given)

    def check(self) -> None:
        """Refuse counts below 1.

        Raises:
            DreamAccelError: names the count.
        """
        for name in ("networks", "epochs", "batch", "width", "depth"):
            if getattr(self, name) < 1:
                raise DreamAccelError(f"{name} is {getattr(self, name)}: an evaluation needs at least 1")

    @property
    def layer_kinds(self) -> dict[str, str]:
        """Norm, activation and pooling, as :func:`dream_accel.networks.make_network` takes them."""
        return {"norm": self.norm, "activation": self.activation, "pooling": self.pooling}


@dataclass(frozen=True)
class Evaluation:
    """The test accuracies of the networks trained on a set.

    Attributes:
        accuracies: accuracy of every network after the last epoch, percent. After an interruption, those of the
            networks that were tested.
        protocol: the settings they were measured with.
    """

    accuracies: tuple[float, ...]
    protocol: Protocol

    @property
    def complete(self) -> bool:
        """True if every network of the protocol was tested."""
        return len(self.accuracies) == self.protocol.networks

    @property
    def mean(self) -> float:
        """Mean accuracy over networks, percent."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float:
        """Population standard deviation over networks, percentage points."""
        return statistics.pstdev(self.accuracies)

    def __str__(self) -> str:
        return f"{self.mean:.1f} ± {self.std:.1f}"
