"""One-time selection: picks real images of every class from given features, or from a score of each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..arrays import to_tensor, whole_number
from ..clustering import check_finite, scaled_rows
from ..errors import DreamAccelError, choices
from ..groups import first_rows, group_of_rows, sort_within_groups
from ..random import hash_rows
from .classes import class_order, fill_picks, labels_beside
from .coresets import herding, k_center
from .strategies import STRATEGIES, Strategy

SELECTIONS = {
    **STRATEGIES,
    "kmeans": STRATEGIES["dream"],
    "herding": Strategy(lambda x, offsets, k, per_cluster, *_: herding(x, offsets, k * per_cluster)),
    "k-center": Strategy(lambda x, offsets, k, per_cluster, *_: k_center(x, offsets, k * per_cluster)),
}
"""The rules of :func:`select`: those of a matching loop, and those that choose a set once. ``kmeans`` and ``dream`` are
one rule."""

FORGETTING = "forgetting"
"""The rule that reads a score of every image instead of features, :func:`select_by_score`."""

SELECTION_NAMES = (*SELECTIONS, FORGETTING)
"""The names of all rules that choose a set of real images once."""


@torch.inference_mode(False)
def select(
    features: Any,
    labels: Any,
    k: int,
    strategy: str = "dream",
    *,
    seed: int = 0,
    max_iter: int = 100,
    repeat: bool = False,
) -> Tensor:
    """Pick ``k`` images of every class.

    Args:
        features: (N, D) floating point array of torch, NumPy or CuPy, one row per image.
        labels: (N,) integers 0..C-1, every class present.
        k: images per class; at most the size of the smallest class.
        strategy: ``"dream"`` or ``"kmeans"``, the images nearest the centres of a K-Means of the class; ``"random"``;
            ``"central"`` and ``"boundary"``, those nearest the class mean and farthest from it; ``"herding"``, whose
            mean follows the class mean (:func:`dream_accel.sampling.coresets.herding`); ``"k-center"``, farthest first
            (:func:`dream_accel.sampling.coresets.k_center`).
        seed: of every random draw; ``central``, ``boundary``, ``herding`` and ``k-center`` draw nothing.
        max_iter: maximum number of K-Means iterations.
        repeat: whether a class smaller than ``k`` repeats its picks in turn, instead of being refused.

    Returns:
        (C, k) int64 row indices on the features' device; distinct unless a class repeats.

    Raises:
        DreamAccelError: features or labels have a wrong shape or dtype, features hold NaN or Inf, the strategy is
            unknown, or a class is smaller than ``k``.
    """
    picker = find_selection(strategy)
    x = to_tensor(features, "features").detach()
    if x.dim() < 2:
        raise DreamAccelError(f"features has shape {tuple(x.shape)}: they must be (N, D), one row per image")
    if not x.is_floating_point():
        raise DreamAccelError(f"features is {x.dtype}: they must be floating point; convert with features.float()")

    check_finite(x.flatten(1), "features")  # in the order given, so that the row it names is the caller's

    def pick(order: Tensor, offsets: Tensor, k: int) -> Tensor:
        rows = x.flatten(1)[order]
        return picker.pick(scaled_rows(rows, offsets), offsets, k, 1, seed, max_iter)

    return _by_class(x, labels, k, repeat, pick)


@torch.inference_mode(False)
def select_by_score(scores: Any, labels: Any, k: int, *, seed: int = 0, repeat: bool = False) -> Tensor:
    """Pick the ``k`` images with the highest scores of every class, ties in random order.

    With the number of times that a network forgot each image in training this is the selection by forgetting (Toneva et
    al., *An empirical study of example forgetting during deep neural network learning*, ICLR 2019, arXiv 1812.05159).

    Args:
        scores: (N,) integer or floating point array of torch, NumPy or CuPy, one score per image.
        labels: (N,) integers 0..C-1, every class present.
        k: images per class; at most the size of the smallest class.
        seed: of the order of images with the same score.
        repeat: as in :func:`select`.

    Returns:
        (C, k) int64 row indices, highest score first, on the scores' device; distinct unless a class repeats.

    Raises:
        DreamAccelError: scores or labels have a wrong shape or dtype, scores hold NaN, or a class is smaller than
            ``k``.
    """
    values = to_tensor(scores, "scores").detach()
    if values.dim() != 1 or values.dtype == torch.bool or values.is_complex():
        raise DreamAccelError(
            f"scores is {values.dtype} of shape {tuple(values.shape)}: it must be (N,) numbers, one per image"
        )
    if values.isnan().any():
        raise DreamAccelError(f"scores holds NaN in {int(values.isnan().sum())} of {len(values)} rows: repair them")

    def pick(order: Tensor, offsets: Tensor, k: int) -> Tensor:
        position = torch.arange(len(order), device=order.device) - offsets[group_of_rows(offsets, len(order))]
        shuffled = sort_within_groups(hash_rows(position, seed, "equal scores"), offsets)
        highest = sort_within_groups(values[order][shuffled], offsets, descending=True)
        return first_rows(shuffled[highest], offsets, k)

    return _by_class(values, labels, k, repeat, pick)


def find_selection(name: str) -> Strategy:
    """Return the rule of that name.

    Raises:
        DreamAccelError: no rule has that name, or it reads no features; the message lists those that do.
    """
    if name == FORGETTING:
        raise DreamAccelError(
            "strategy 'forgetting' counts what a network forgets while it trains, which features do not tell: use "
            "`dream-accel select --strategy forgetting`, sampling.select_by_score with counts of your own, or one of "
            f"{', '.join(SELECTIONS)}"
        )
    if name not in SELECTIONS:
        raise choices("strategy", name, SELECTIONS)
    return SELECTIONS[name]


def check_class_sizes(k: int, sizes: Sequence[int]) -> None:
    """Refuse more images per class than the smallest class has.

    Raises:
        DreamAccelError: a class is smaller than ``k``.
    """
    smallest, size = min(enumerate(sizes), key=lambda pair: pair[1])
    if k > size:
        raise DreamAccelError(f"k is {k} and class {smallest} has {size} images: pick at most that many per class")


def _by_class(rows: Tensor, labels: Any, k: int, repeat: bool, pick: Callable[[Tensor, Tensor, int], Tensor]) -> Tensor:
    """(C, k) rows by ``pick(order, offsets, k)``, whose picks are positions in the order by class."""
    order, offsets = class_order(rows, labels_beside(rows, labels))
    k = whole_number(k, "k", 1)
    if not repeat:
        check_class_sizes(k, offsets.diff().tolist())
    picks = pick(order, offsets, k)
    return order[fill_picks(picks) if repeat else picks]
