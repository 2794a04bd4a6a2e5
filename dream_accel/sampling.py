"""Which real images a matching step compares with: DREAM's representatives, and the strategies it is compared with."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import ops
from .arrays import to_tensor
from .clustering import BatchedKMeans, check_finite, finite_rows
from .errors import DreamAccelError, DreamAccelWarning, choices
from .features import Embedder, embed_rows, to_float
from .groups import first_rows, random_rows, sort_within_groups
from .random import derive_seed, generator


@dataclass(frozen=True)
class Strategy:
    """How to pick rows of every class: ``pick(features, offsets, clusters, per_cluster, seed, max_iter) -> (C, n)``."""

    pick: Callable[[Tensor, Tensor, int, int, int, int], Tensor]
    needs_features: bool = True


def _pick_dream(x: Tensor, offsets: Tensor, n_clusters: int, per_cluster: int, seed: int, max_iter: int) -> Tensor:
    km = BatchedKMeans(n_clusters, max_iter=max_iter, seed=seed).fit(x, offsets, check=False)
    return km.representatives(per_cluster)


def _pick_random(x: Tensor, offsets: Tensor, n_clusters: int, per_cluster: int, seed: int, max_iter: int) -> Tensor:
    return random_rows(offsets, len(x), n_clusters * per_cluster, seed, "random sampling")


def _pick_central(x: Tensor, offsets: Tensor, n_clusters: int, per_cluster: int, seed: int, max_iter: int) -> Tensor:
    return first_rows(sort_within_groups(_to_class_mean(x, offsets), offsets), offsets, n_clusters * per_cluster)


def _pick_boundary(x: Tensor, offsets: Tensor, n_clusters: int, per_cluster: int, seed: int, max_iter: int) -> Tensor:
    farthest_first = sort_within_groups(_to_class_mean(x, offsets), offsets, descending=True)
    return first_rows(farthest_first, offsets, n_clusters * per_cluster)


def _to_class_mean(x: Tensor, offsets: Tensor) -> Tensor:
    one_cluster = torch.zeros(len(x), dtype=torch.int32, device=x.device)
    mean, _ = ops.kmeans_update(x, offsets, one_cluster, 1)
    return ops.kmeans_assign(x, offsets, mean)[1]


STRATEGIES = {
    "dream": Strategy(_pick_dream),
    "random": Strategy(_pick_random, needs_features=False),
    "central": Strategy(_pick_central),
    "boundary": Strategy(_pick_boundary),
}
"""``dream``: the images nearest the centres of a K-Means of the class; ``random``: distinct ones, drawn anew at every
step; ``central`` and ``boundary``: those nearest and those farthest from the mean of the class."""


def find_strategy(name: str) -> Strategy:
    """Look up a strategy. Raises DreamAccelError listing those that exist."""
    if name not in STRATEGIES:
        raise choices("strategy", name, STRATEGIES)
    return STRATEGIES[name]


class RepresentativeSampler:
    """The real images of every matching step, re-clustered as the network learns.

    Each class is embedded, split into ``n_clusters`` by K-Means (all classes in one batch), and the ``per_cluster``
    images nearest each centre are its batch until the next refresh. DREAM, Liu et al., ICCV 2023.

    Args:
        images: (N, ...) uint8, or floating point as the network takes them; on the device where batches are wanted.
        labels: (N,) integers 0..C-1, every class present.
        n_clusters: N sub-clusters per class. A class with fewer images uses all of them, repeated to fill the batch.
        per_cluster: n images per sub-cluster; the batch of a class holds ``n_clusters * per_cluster`` images.
        interval: steps between two refreshes.
        strategy: ``"dream"``, ``"random"``, ``"central"`` or ``"boundary"``.
        features: a fixed network or callable from images to features; default: the network given to ``update``.
        seed: of everything drawn here.
        normalize: applied to floating point images before they are embedded; batches are returned without it.
        max_iter: K-Means iterations per refresh at most.
        chunk_size: images embedded at a time.

    Attributes:
        indices: (C, n) int64, the current picks as indices into ``images``.
        labels: (C, n) int64, their classes.

    Raises:
        DreamAccelError: images and labels that do not belong together, an unknown strategy, NaN or Inf pixels.
    """

    def __init__(
        self,
        images: Any,
        labels: Any,
        n_clusters: int = 128,
        per_cluster: int = 1,
        interval: int = 10,
        strategy: str = "dream",
        features: nn.Module | Embedder | None = None,
        seed: int = 0,
        *,
        normalize: Embedder | None = None,
        max_iter: int = 20,
        chunk_size: int = 1024,
    ) -> None:
        if min(n_clusters, per_cluster, interval, chunk_size) < 1:
            raise DreamAccelError(
                f"n_clusters is {n_clusters}, per_cluster {per_cluster}, interval {interval}, chunk_size {chunk_size}: "
                "each must be at least 1"
            )
        self.images = to_tensor(images, "images")
        if self.images.dim() < 2:
            raise DreamAccelError(f"images has shape {tuple(self.images.shape)}: they must be (N, ...), at least 2-d")
        self.strategy = find_strategy(strategy)
        self.n_clusters = n_clusters
        self.per_cluster = per_cluster
        self.interval = interval
        self.features = features
        self.seed = seed
        self.normalize = normalize
        self.max_iter = max_iter
        self.chunk_size = chunk_size

        if self.images.is_floating_point():
            check_finite(self.images.flatten(1), "images")
        self._order, self._offsets = class_order(self.images, to_tensor(labels, "labels"))
        self._sizes = self._offsets.diff().tolist()
        self._announce_small_classes()
        self.labels = torch.arange(self.n_classes, device=self.images.device).unsqueeze(1).expand(-1, self.batch_size)
        self.indices: Tensor | None = None
        self.restart()

    @property
    def n_classes(self) -> int:
        """C, the number of classes."""
        return len(self._sizes)

    @property
    def batch_size(self) -> int:
        """n, the images of one class in a batch."""
        return self.n_clusters * self.per_cluster

    def restart(self, *keys: object) -> None:
        """Count steps from zero again; ``keys`` name the random streams that follow, such as the outer iteration."""
        self._step = 0
        self._keys = keys
        self._finite = torch.ones((), dtype=torch.bool, device=self.images.device)
        self._draws = [generator(self.seed, "sample", c, *keys) for c in range(self.n_classes)]

    def update(self, network: nn.Module | Embedder | None = None) -> bool:
        """Take one step; pick anew when due. Call it once per matching step.

        Args:
            network: the network being trained, or a callable from images to features. Not needed where ``features`` was
                given or the strategy looks at none.

        Returns:
            whether the picks were renewed.
        """
        due = self._step % self.interval == 0 or not self.strategy.needs_features
        if due:
            self.refresh(network)
        self._step += 1
        return due

    @torch.no_grad()
    def refresh(self, network: nn.Module | Embedder | None = None) -> None:
        """Embed every class, pick its representatives. No host round trip on accelerators."""
        x = self._order.unsqueeze(1)
        if self.strategy.needs_features:
            source = self.features if self.features is not None else network
            if source is None:
                raise DreamAccelError("no network to embed with: pass one to update(net), or features= to the sampler")
            x = embed_rows(self.images, self._order, source, self.normalize, self.chunk_size)
            self._finite &= finite_rows(x).all()
        seed = derive_seed(self.seed, "picks", *self._keys, self._step)
        picks = self.strategy.pick(x, self._offsets, self.n_clusters, self.per_cluster, seed, self.max_iter)
        self.indices = self._order[fill_picks(picks)]

    def batch(self) -> tuple[Tensor, Tensor]:
        """Images (C, n, ...) float and labels (C, n) int64 of the current picks."""
        indices = self._picked()
        return to_float(self.images[indices]), self.labels

    def sample(self, c: int, n: int | None = None) -> Tensor:
        """Images of one class: its representatives for ``n`` equal to the batch size (or None), else ``n`` random ones.

        A class smaller than the batch gives each of its images once here, where :meth:`batch` repeats them.

        Raises:
            DreamAccelError: no such class, or more images than it has.
        """
        if not 0 <= c < self.n_classes:
            raise DreamAccelError(f"class {c} does not exist: classes are 0 to {self.n_classes - 1}")
        if n is None or n == self.batch_size:
            picks = self._picked()[c, : self._sizes[c]]
        elif 0 < n <= self._sizes[c]:
            rows = torch.randperm(self._sizes[c], generator=self._draws[c])[:n]
            picks = self._order[rows.to(self._order.device, non_blocking=True) + self._offsets[c]]
        else:
            raise DreamAccelError(f"{n} images asked of class {c}, which has {self._sizes[c]}: ask for 1 to that many")
        return to_float(self.images[picks])

    __call__ = sample

    def check(self) -> None:
        """Refuse features that were NaN or Inf at any refresh since ``restart``. Waits for the device: call it where
        you log.

        Raises:
            DreamAccelError: some were.
        """
        if not self._finite:
            raise DreamAccelError("the network's features hold NaN or Inf: it has diverged; lower its learning rate")

    def _picked(self) -> Tensor:
        if self.indices is None:
            raise DreamAccelError("no picks yet: call update(net) before taking images")
        return self.indices

    def _announce_small_classes(self) -> None:
        small = [c for c, size in enumerate(self._sizes) if size < self.n_clusters]
        if small:
            sizes = f"class {small[0]} has {self._sizes[small[0]]}"
            warnings.warn(
                f"{len(small)} of {self.n_classes} classes have fewer images than the {self.n_clusters} clusters asked "
                f"for ({sizes}): their number of clusters falls to the number of their images",
                DreamAccelWarning,
                stacklevel=3,
            )


def select(
    features: Any, labels: Any, k: int, strategy: str = "dream", *, seed: int = 0, max_iter: int = 100
) -> Tensor:
    """Pick ``k`` images of every class, once.

    Args:
        features: (N, D) floating point; torch, NumPy or CuPy.
        labels: (N,) integers 0..C-1, every class present.
        k: images per class; at most the size of the smallest class.
        strategy: ``"dream"``, ``"random"``, ``"central"`` or ``"boundary"``.
        seed: of everything drawn.
        max_iter: K-Means iterations at most.

    Returns:
        (C, k) int64 row indices, distinct.

    Raises:
        DreamAccelError: features hold NaN or Inf, an unknown strategy, or a class smaller than ``k``.
    """
    picker = find_strategy(strategy)
    x = to_tensor(features, "features").detach()
    if x.dim() < 2:
        raise DreamAccelError(f"features has shape {tuple(x.shape)}: they must be (N, D), one row per image")
    if not x.is_floating_point():
        raise DreamAccelError(f"features is {x.dtype}: they must be floating point; convert with features.float()")
    order, offsets = class_order(x, to_tensor(labels, "labels"))
    if k < 1:
        raise DreamAccelError(f"k is {k}: pick at least 1 image per class")
    smallest, size = min(enumerate(offsets.diff().tolist()), key=lambda pair: pair[1])
    if k > size:
        raise DreamAccelError(f"k is {k} and class {smallest} has {size} images: pick at most that many per class")
    x = x.flatten(1)[order]
    check_finite(x, "features")
    return order[picker.pick(x, offsets, k, 1, seed, max_iter)]


def class_order(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Row order (N,) that puts every class's rows one after another, and offsets (C+1,) into it.

    Raises:
        DreamAccelError: labels do not match the images, are no integers, or leave a class empty.
    """
    if labels.dim() != 1 or len(labels) != len(images):
        raise DreamAccelError(
            f"{len(images)} images and labels of shape {tuple(labels.shape)}: give one label per image"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise DreamAccelError(f"labels are {labels.dtype}: they must be integers 0..C-1")
    if len(labels) == 0:
        raise DreamAccelError("no images: give at least one per class")
    labels = labels.to(images.device, torch.int64)
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= len(labels):
        raise DreamAccelError(
            f"labels run from {lowest} to {highest} over {len(labels)} images: they must be 0..C-1, every class "
            "present; renumber the classes"
        )
    counts = torch.bincount(labels)
    empty = (counts == 0).nonzero().flatten().tolist()
    if empty:
        raise DreamAccelError(
            f"class {empty[0]} of 0..{len(counts) - 1} has no images: renumber the classes without gaps"
        )
    return torch.argsort(labels, stable=True), torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def fill_picks(picks: Tensor) -> Tensor:
    """Repeat a class's picks in turn where it has too few to fill its row; -1 marks what is missing."""
    exists = picks >= 0
    found_first = torch.gather(picks, 1, torch.argsort((~exists).int(), dim=1, stable=True))
    column = torch.arange(picks.shape[1], device=picks.device) % exists.sum(dim=1, keepdim=True)
    return torch.gather(found_first, 1, column)
