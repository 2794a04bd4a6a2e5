"""The evaluation protocol of the field: several networks are trained on the synthetic images alone and tested once.

The test set is read only after the last epoch; it selects neither an epoch nor a setting.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..data import ImageSet, Normalization
from ..engine.splits import load_split
from ..errors import DreamAccelError, DreamAccelWarning
from ..networks import make_network
from ..networks.features import images_at_a_time
from ..networks.training import Rows, Trainer
from ..random import generator
from ..results import Result
from ..runtime.determinism import repeatable
from ..runtime.devices import device_errors, find_device
from ..runtime.distributed import ALONE, Ranks
from ..runtime.graphs import GraphedFunction
from ..runtime.heap import retained_heap
from ..runtime.modes import default_modes
from .class_order import in_data_order
from .settings import Evaluation, Protocol

LR_DECAY = 0.2
"""Factor of the learning rate at 2/3 and at 5/6 of the epochs."""

STEPS_AT_ONCE = 128
"""Number of network steps that are recorded in one CUDA graph: an epoch over a distilled set, part of one over all."""


@default_modes()
def evaluate(
    result: Result,
    data: Any = None,
    *,
    networks: int | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    device: str | torch.device | None = None,
    data_dir: str | None = None,
    download: bool = False,
    on_epoch: Callable[[], None] | None = None,
    on_network: Callable[[float], None] | None = None,
    ranks: Ranks = ALONE,
    **protocol: Any,
) -> Evaluation:
    """Train networks on a distilled set and test them on the data set it was made from.

    Classes are matched by name where both sides have names, whatever their order.

    Args:
        result: from :func:`dream_accel.distill` or :func:`dream_accel.load`.
        data: the data set, in any form :func:`dream_accel.data.as_split` takes; default: the one that the recipe names.
        networks: number of networks trained from scratch; default: that of the recipe.
        epochs: epochs over the synthetic set; default: those of the recipe.
        seed: seed of every random draw; default: that of the recipe.
        device: the device to run on; default: a GPU if there is one.
        data_dir: the folder of named data sets, as in :func:`dream_accel.load_dataset`.
        download: whether to download a named data set that is not found.
        on_epoch: called after every epoch of every network.
        on_network: called with the accuracy of every network, percent, as soon as it is tested.
        ranks: the processes that share the networks; all of them call this function alike.
        protocol: other fields of :class:`Protocol` to override, such as ``width``; None keeps the recipe's value.

    Returns:
        the test accuracies after the last epoch.

    Raises:
        DreamAccelError: the data set cannot be loaded, does not fit the images or has other classes, a protocol field
            is unknown or not read by the network, or a count is below 1.
    """
    where = find_device(device)
    # The evaluation does not read the training set, so there is no need to subsample it.
    split = load_split(replace(result.recipe, limit_train=0), where, data_dir, download, data)
    if tuple(result.images.shape[1:]) != split.test.shape:
        raise DreamAccelError(
            f"the distilled images are {tuple(result.images.shape[1:])} and {split.name}'s are {split.test.shape} "
            "(channels, height, width): evaluate on the data set they were made from"
        )
    if result.synthetic.n_classes != split.test.n_classes:
        raise DreamAccelError(
            f"the distilled set has {result.synthetic.n_classes} classes and {split.name} {split.test.n_classes}: "
            "evaluate on the data set it was made from"
        )
    overrides = {"networks": networks, "epochs": epochs, "seed": seed, **protocol}
    settings = Protocol.of(result.recipe, split.test.shape, **overrides)
    images, labels = result.synthetic.decode()
    labels = in_data_order(labels, result, split)
    if split.test.n_classes == 1:
        warnings.warn(
            f"{split.name} has one class only, so that every network is right about every image", DreamAccelWarning, 2
        )
    normalization = result.normalization or split.normalization
    return evaluate_images(
        images.to(where),
        labels.to(where),
        split.test,
        normalization,
        settings,
        on_epoch=on_epoch,
        on_network=on_network,
        ranks=ranks,
    )


@default_modes()
def evaluate_images(
    images: Tensor,
    labels: Tensor,
    test: ImageSet,
    normalization: Normalization,
    protocol: Protocol,
    *,
    on_epoch: Callable[[], None] | None = None,
    on_network: Callable[[float], None] | None = None,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Train networks on images and test them. All tensors must be on one device.

    Args:
        images: (n, channels, H, W) float32 in [0, 1], or uint8.
        labels: (n,) int64 classes, or (n, C) float32 distributions over classes.
        test: the test images.
        normalization: applied to images before they enter a network.
        protocol: the settings of the evaluation.
        on_epoch: called after every epoch of every network.
        on_network: called with the accuracy of every network, percent, as soon as it is tested.
        ranks: the processes that share the networks.

    Returns:
        the test accuracies after the last epoch.

    Raises:
        DreamAccelError: a count of the protocol is below 1.
    """
    protocol.check()
    accuracies = []
    smaller = "free it, lower eval_batch or width, or evaluate on another device"
    with retained_heap(), repeatable(images.device), device_errors(images.device, smaller):
        for number in ranks.own(range(protocol.networks)):
            network = _train(images, labels, test, normalization, protocol, number, on_epoch)
            accuracies.append(_accuracy(network, test, normalization))
            if on_network is not None:
                on_network(accuracies[-1])
    return Evaluation(tuple(ranks.dealt(accuracies)), protocol)


def _train(
    images: Tensor,
    labels: Tensor,
    test: ImageSet,
    normalization: Normalization,
    protocol: Protocol,
    number: int,
    on_epoch: Callable[[], None] | None,
) -> nn.Module:
    keys = ("evaluate", number)
    network = make_network(
        protocol.network,
        test.shape,
        test.n_classes,
        protocol.width,
        protocol.depth,
        protocol.seed,
        *keys,
        **protocol.layer_kinds,
    ).to(images.device)
    trainer = Trainer(
        network,
        normalization,
        lr=protocol.lr,
        momentum=protocol.momentum,
        weight_decay=protocol.weight_decay,
        augment=protocol.augment,
        cutmix_probability=protocol.cutmix,
        device=images.device,
        seed=protocol.seed,
        keys=keys,
    )
    rows = Rows(len(images), generator(protocol.seed, "rows", *keys, device=images.device))
    train = GraphedFunction(trainer.steps, in_place=("images", "labels"), generators=(trainer.draws,))
    decays = {2 * protocol.epochs // 3, 5 * protocol.epochs // 6}
    for epoch in range(protocol.epochs):
        if epoch in decays and epoch > 0:
            trainer.decay_lr(LR_DECAY)
        for some in rows.take(len(images)).split(STEPS_AT_ONCE * protocol.batch):
            train(some, images=images, labels=labels, batch=protocol.batch, lr=trainer.lr)
        if on_epoch is not None:
            on_epoch()
    return network


@torch.no_grad()
def _accuracy(network: nn.Module, test: ImageSet, normalization: Normalization) -> float:
    network.eval()
    correct = torch.zeros((), dtype=torch.int64, device=test.device)
    for rows in torch.arange(len(test), device=test.device).split(images_at_a_time(test.device)):
        predicted = network(normalization(test.batch(rows))).argmax(dim=1)
        correct += (predicted == test.labels[rows]).sum()
    return 100 * int(correct) / len(test)
