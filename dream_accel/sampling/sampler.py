"""The sampler of a matching loop: picks the real images of every step and renews them as the network learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..arrays import whole_number
from ..clustering import check_finite, finite_rows, scaled_rows
from ..data import to_float
from ..errors import DreamAccelError
from ..networks.features import Embedder, embed_rows
from ..random import derive_seed, generator
from ..runtime.locks import Lock
from .blocks import ClassBlocks
from .classes import announce_small_classes, as_images, class_order, fill_picks, labels_beside, part_of_order
from .pool import POOL_BATCHES, NetworkPerStep, Pools
from .strategies import find_strategy

Embedding = Callable[[nn.Module | Embedder, Tensor, Tensor], Tensor]
"""``(network or callable, images (N, ...), rows (n,) int64)`` to the features (n, D) of those rows."""


class RepresentativeSampler:
    """Picks the real images of every matching step, and clusters them again as the network learns.

    Each class is embedded and split into ``n_clusters`` sub-clusters by K-Means (all classes in one batch). The
    ``per_cluster`` images nearest each centre are the batch of the class until the next refresh. Source: DREAM, Liu et
    al., ICCV 2023.

    Code that draws a network for every step, as DC does at one image per class, would embed every image for that one
    step. There a refresh reads a pool of each class, by ``pool`` or by default, and its picks serve ``interval`` steps,
    whichever networks come in between: ``interval`` counts steps.

    Threads may call one sampler at the same time: calls that change it wait for each other. It works alike in
    inference mode, under ``no_grad`` and whatever torch's default dtype.

    Args:
        images: (N, ...) uint8, or floating point as the network takes them, on the device where batches are needed.
        labels: (N,) integers 0..C-1, every class present.
        n_clusters: N sub-clusters per class. A class with fewer images uses all of them, repeated to fill the batch.
        per_cluster: n images per sub-cluster; the batch of a class has ``n_clusters * per_cluster`` images.
        interval: steps between two refreshes.
        strategy: ``"dream"``, ``"random"``, ``"central"`` or ``"boundary"``.
        features: a fixed network or callable from images to features; default: the network given to ``update``.
        seed: of every random draw of the sampler.
        normalize: applied to images, as floating point, before they are embedded; batches are returned without it.
        max_iter: maximum number of K-Means iterations per refresh.
        pool: images per class that a refresh embeds and clusters, drawn at random for every refresh. Default: all; or
            four batches, where the network is another module object than at the step before, which was its first.
        chunk_size: number of images embedded at a time; default: 64 on a CPU, else 512.
        embed: computes features, ``(network or callable, images, rows) -> (len(rows), D)``; the engine passes its
            graphed version. Default: :func:`dream_accel.networks.features.embed_rows`.
        classes: the neighbouring classes that are picked, where several processes share them; default: all. A class has
            the same picks whichever others are picked with it.

    Attributes:
        indices: (C, n) int64, the current picks as indices into ``images``; None before the first ``update``.
        labels: (C, n) int64, the classes of the picks.

    Raises:
        DreamAccelError: images and labels do not match, images are neither uint8 nor floating point, the strategy is
            unknown, a count is no whole number or below 1, ``pool`` is smaller than a batch, or pixels hold NaN or Inf.
    """

    @torch.inference_mode(False)
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
        chunk_size: int | None = None,
        embed: Embedding | None = None,
        pool: int | None = None,
        classes: range | None = None,
    ) -> None:
        self.n_clusters = whole_number(n_clusters, "n_clusters", 1)
        self.per_cluster = whole_number(per_cluster, "per_cluster", 1)
        self.interval = whole_number(interval, "interval", 1)
        self.max_iter = whole_number(max_iter, "max_iter", 0)
        self.chunk_size = None if chunk_size is None else whole_number(chunk_size, "chunk_size", 1)
        self.pool = None if pool is None else whole_number(pool, "pool", 1)
        self.images = as_images(images)
        self.strategy = find_strategy(strategy)
        self.features = features
        self.seed = whole_number(seed, "seed")
        self.normalize = normalize
        if self.pool is not None and self.pool < self.batch_size:
            raise DreamAccelError(f"pool is {self.pool}: a batch has {self.batch_size} images, give at least as many")
        if self.images.is_floating_point():
            check_finite(self.images.flatten(1), "images")
        self._embed: Embedding = self._embed_rows if embed is None else embed
        whole = class_order(self.images, labels_beside(self.images, labels))
        self.classes, self._order, self._offsets = part_of_order(*whole, classes)
        self._sizes = self._offsets.diff().tolist()
        announce_small_classes(self.classes, self._sizes, self.n_clusters)
        numbers = torch.arange(self.classes.start, self.classes.stop, device=self.images.device)
        self.labels = numbers.unsqueeze(1).expand(-1, self.batch_size)
        self._lock = Lock()
        self.indices: Tensor | None = None
        self._blocks = ClassBlocks(self._sizes)
        self._pools = Pools(self._sizes, self.pool or POOL_BATCHES * self.batch_size, self.images.device)
        self.restart()

    @property
    def n_classes(self) -> int:
        """C, the number of classes that are picked."""
        return len(self._sizes)

    @property
    def batch_size(self) -> int:
        """n, the number of images of one class in a batch."""
        return self.n_clusters * self.per_cluster

    @torch.inference_mode(False)
    def restart(self, *keys: object) -> None:
        """Count steps from zero again and start the random streams of a new part of the run.

        Args:
            keys: name the random streams that follow, for example by the outer iteration.
        """
        self._step = 0
        self._per_step = NetworkPerStep()
        self._keys = keys
        self._finite = torch.ones((), dtype=torch.bool, device=self.images.device)
        self._draws = [generator(self.seed, "sample", c, *keys) for c in self.classes]
        self._mixed_draw = generator(self.seed, "sample mixed", *keys)

    def update(self, network: nn.Module | Embedder | None = None) -> bool:
        """Count one step, and renew the picks when a refresh is due. Call it once per matching step.

        Args:
            network: the network being trained, or a callable from images to features. It is not needed if ``features``
                was given or the strategy reads no features.

        Returns:
            whether the picks were renewed.

        Raises:
            DreamAccelError: features are needed, and neither ``network`` nor ``features`` was given.
        """
        with self._lock:
            drawn = self._per_step.count(network)
            due = self._step % self.interval == 0 or not self.strategy.needs_features
            if due:
                self._refresh(network, drawn)
            self._step += 1
            return due

    def refresh(self, network: nn.Module | Embedder | None = None) -> None:
        """Embed every class and pick its images, whether or not a refresh is due.

        On an accelerator this needs no host round trip. It is no step, and reads every image unless ``pool`` was given.

        Args:
            network: as in :meth:`update`.

        Raises:
            DreamAccelError: as in :meth:`update`.
        """
        with self._lock:
            self._refresh(network, drawn=False)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _refresh(self, network: nn.Module | Embedder | None, drawn: bool) -> None:
        rows, offsets, blocks = self._order, self._offsets, self._blocks
        seed = derive_seed(self.seed, "picks", *self._keys, self._step)
        if not self.strategy.needs_features:
            self.indices = self._pick(rows.unsqueeze(1), rows, offsets, seed)
            return
        source = self.features if self.features is not None else network
        if source is None:
            raise DreamAccelError("no network to embed with: pass one to update(net), or features= to the sampler")
        if self.pool is not None or drawn:
            pool = self._pools.draw(offsets, derive_seed(self.seed, "pool", *self._keys, self._step))
            rows, offsets, blocks = rows[pool], self._pools.offsets, self._pools.blocks

        def pick(own: Tensor, offsets: Tensor) -> tuple[Tensor, int]:
            x = scaled_rows(self._embed(source, self.images, own), offsets)
            self._finite &= finite_rows(x).all()
            return self._pick(x, own, offsets, seed), x.shape[1]

        self.indices = blocks.map(rows, offsets, pick)

    def _pick(self, x: Tensor, rows: Tensor, offsets: Tensor, seed: int) -> Tensor:
        picks = self.strategy.pick(x, offsets, self.n_clusters, self.per_cluster, seed, self.max_iter)
        return rows[fill_picks(picks)]

    def _embed_rows(self, source: nn.Module | Embedder, images: Tensor, rows: Tensor) -> Tensor:
        return embed_rows(images, rows, source, self.normalize, self.chunk_size)

    @torch.inference_mode(False)
    def batch(self) -> tuple[Tensor, Tensor]:
        """Return the current picks.

        Returns:
            images (C, n, ...), floating point, uint8 scaled to [0, 1], and labels (C, n) int64.

        Raises:
            DreamAccelError: nothing has been picked yet.
        """
        indices = self._picked()
        return to_float(self.images[indices]), self.labels

    @torch.inference_mode(False)
    def sample(self, c: int, n: int | None = None, representative: bool | None = None) -> Tensor:
        """Return images of one class: its representatives if ``n`` is the batch size or None, else random images.

        A class smaller than the batch returns each of its images once here, whereas :meth:`batch` repeats them.

        Args:
            c: the class.
            n: number of images; default: all representatives, or with ``representative=False`` all images of the class.
            representative: True returns representatives for any ``n`` up to their number; False returns random images
                even if ``n`` is the batch size. Default: decided by ``n``.

        Returns:
            (n, ...) floating point images, distinct, uint8 scaled to [0, 1].

        Raises:
            DreamAccelError: the class does not exist or has fewer than ``n`` images, or representatives are requested
                before the first ``update``.
        """
        c = whole_number(c, "class")
        n = None if n is None else whole_number(n, "n")
        if c not in self.classes:
            first, last = self.classes.start, self.classes.stop - 1
            raise DreamAccelError(f"class {c} does not exist: classes are {first} to {last}")
        c -= self.classes.start
        if representative is None:
            representative = n is None or n == self.batch_size
        size = min(self._sizes[c], self.batch_size) if representative else self._sizes[c]
        if n is None or (representative and n == self.batch_size):
            n = size
        if not 0 < n <= size:
            what = "representatives" if representative else "images"
            raise DreamAccelError(f"{n} {what} requested from class {c}, which has {size}: request 1 to {size}")
        if representative:
            picks = self._picked()[c, :size]
            picks = picks if n == size else picks[self._first_shuffled(size, n, self._draws[c])]
        else:
            picks = self._order[self._first_shuffled(size, n, self._draws[c]) + self._offsets[c]]
        return to_float(self.images[picks])

    @torch.inference_mode(False)
    def sample_mixed(self, n: int) -> tuple[Tensor, Tensor]:
        """Draw distinct random images from all classes.

        Args:
            n: number of images.

        Returns:
            images (n, ...), floating point, uint8 scaled to [0, 1], and their classes (n,) int64.

        Raises:
            DreamAccelError: ``n`` is below 1 or above the number of images.
        """
        n = whole_number(n, "n")
        if not 0 < n <= len(self._order):
            raise DreamAccelError(f"{n} images requested from {len(self._order)}: request 1 to {len(self._order)}")
        rows = self._first_shuffled(len(self._order), n, self._mixed_draw)
        labels = torch.searchsorted(self._offsets, rows, right=True) - 1 + self.classes.start
        return to_float(self.images[self._order[rows]]), labels

    __call__ = sample

    def check(self) -> None:
        """Refuse features that were NaN or Inf at any refresh since ``restart``.

        This waits for the device, so call it as often as you log, not at every step.

        Raises:
            DreamAccelError: a feature was NaN or Inf.
        """
        if not self._finite:
            raise DreamAccelError("the network's features hold NaN or Inf: it has diverged; lower its learning rate")

    def _first_shuffled(self, size: int, n: int, draws: torch.Generator) -> Tensor:
        """(n,) distinct random numbers below ``size``, on the device."""
        with self._lock:
            shuffled = torch.randperm(size, generator=draws)[:n]
        return shuffled.to(self._order.device, non_blocking=True)

    def _picked(self) -> Tensor:
        if self.indices is None:
            raise DreamAccelError("no picks yet: call update(net) before taking images")
        return self.indices
