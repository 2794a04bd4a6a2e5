"""Forgetting events: how often a network that trains on the real set comes to misclassify an image it had right.

Toneva, Sordoni, Tachet des Combes, Trischler, Bengio and Gordon, *An empirical study of example forgetting during deep
neural network learning*, ICLR 2019, arXiv 1812.05159. An image is looked at when it is in the batch, just before the
step. It is forgotten if it is wrong there and was right the time before, and never learned if it was right at no time.
The paper looks at the augmented image of the step itself; here it is the image as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..data import ImageSet, to_float
from ..errors import DreamAccelError
from ..networks import make_network
from ..networks.training import Rows, Trainer
from ..random import generator
from ..recipes.settings import Recipe
from ..runtime.heap import retained_heap
from .compute import Compute

STEPS_AT_ONCE = 16
"""Number of network steps that are recorded in one CUDA graph."""


class ForgettingEvents:
    """The events of every image, counted on the device.

    Args:
        n: number of images.
        device: of all tensors.

    Attributes:
        forgotten: (n,) int64, the times an image was wrong after it had been right.
        learned: (n,) bool, whether an image was ever right.
    """

    def __init__(self, n: int, device: torch.device) -> None:
        self.forgotten = torch.zeros(n, dtype=torch.int64, device=device)
        self.learned = torch.zeros(n, dtype=torch.bool, device=device)
        self._right = torch.zeros(n, dtype=torch.bool, device=device)

    def observe(self, rows: Tensor, right: Tensor) -> None:
        """Count what a network says about some images.

        Args:
            rows: (m,) int64, distinct.
            right: (m,) bool, whether the network names the class of each.
        """
        self.forgotten[rows] += self._right[rows] & ~right
        self.learned[rows] |= right
        self._right[rows] = right

    def scores(self) -> Tensor:
        """(n,) int64: the times an image was forgotten; one more than the largest of all if it was never learned."""
        return torch.where(self.learned, self.forgotten, self.forgotten.max() + 1)


def check_forgetting(n_classes: int) -> None:
    """Refuse a data set on which no network errs.

    Raises:
        DreamAccelError: the data set has one class.
    """
    if n_classes == 1:
        raise DreamAccelError(
            "forgetting counts the mistakes of a network, and with one class it makes none: choose another strategy, "
            "such as herding"
        )


def forgetting_scores(
    recipe: Recipe, train: ImageSet, compute: Compute, on_epoch: Callable[[], None] | None = None
) -> Tensor:
    """Train a network on the real images and count how often it forgets each.

    The network is the recipe's, trained for ``real_epochs`` as the networks of a run are on real images (SGD with
    ``network_lr``, ``network_momentum``, ``weight_decay``, ``network_batch`` and ``train_augment``), without CutMix,
    which mixes labels.

    Args:
        recipe: the settings.
        train: the images, on the device where the network trains.
        compute: device, normalisation, numeric format and recording.
        on_epoch: called after every epoch.

    Returns:
        (N,) int64 scores of :meth:`ForgettingEvents.scores`, for :func:`dream_accel.sampling.select_by_score`.

    Raises:
        DreamAccelError: the images have one class, the network diverged, or the device is out of memory.
    """
    check_forgetting(train.n_classes)
    shape = train.shape
    network = compute.placed(
        make_network(
            recipe.network,
            shape,
            train.n_classes,
            recipe.width,
            recipe.depth_for(shape),
            recipe.seed,
            "forgetting",
            **recipe.layer_kinds,
        )
    )
    trainer = Trainer(
        network,
        compute.normalization,
        lr=recipe.network_lr,
        momentum=recipe.network_momentum,
        weight_decay=recipe.weight_decay,
        augment=recipe.train_augment,
        cutmix_probability=0.0,
        device=compute.device,
        seed=recipe.seed,
        keys=("forgetting",),
        channels_last=compute.channels_last,
    )
    events = ForgettingEvents(len(train), compute.device)

    def look_and_learn(rows: Tensor, *, images: Tensor, labels: Tensor) -> None:
        for some in rows.split(recipe.network_batch):
            batch = to_float(images[some])
            with compute.autocast():
                with torch.no_grad():
                    network.eval()
                    right = network(compute.prepared(batch)).argmax(dim=1) == labels[some]
                    network.train()
                events.observe(some, right)
                trainer.step(batch, labels[some])

    recorded = compute.recorded(look_and_learn, ("images", "labels"), [trainer.draws])
    order = Rows(len(train), generator(recipe.seed, "forgetting rows", device=compute.device))
    with compute.running(), retained_heap():
        for _ in range(recipe.real_epochs):
            for rows in order.take(len(train)).split(STEPS_AT_ONCE * recipe.network_batch):
                recorded(rows, images=train.images, labels=train.labels)
            if on_epoch is not None:
                on_epoch()
        if not all(parameter.isfinite().all() for parameter in network.parameters()):
            raise DreamAccelError(
                f"the network whose forgetting is counted diverged at network_lr {recipe.network_lr}: lower network_lr"
            )
    return events.scores()
