"""The published loop, written plainly: the cost of a distillation without this package.

It follows the descriptions in DREAM (Liu et al., ICCV 2023) and IDC (Kim et al., ICML 2022). Images are stored as
single float tensors and stacked. A class is embedded in one pass, clustered from a cold start by a K-Means that asks
the host at every iteration whether to stop, and the image nearest each centre is sought in the whole class. Classes are
matched one after another, layers one after another, labels are made in NumPy, every loss is read by the host, and
parameter gradients that are not needed are computed. No kernel of this package is used.

The algorithm and the random draws are ours: from the same seed both compute the same images, up to rounding (the tests
compare them). The augmentations and the network are shared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dream_accel.augment import Augmentation, cutmix
from dream_accel.data import DataSplit
from dream_accel.errors import DreamAccelError
from dream_accel.networks import initialize, make_network
from dream_accel.random import Streams, derive_seed, generator, hash_rows
from dream_accel.recipes import Recipe
from dream_accel.synthetic import decode

KMeans = Callable[[Tensor, Tensor, int], Tensor]


class Published:
    """A run in progress, with the same settings as :class:`dream_accel.engine.distiller.Distiller`.

    Args:
        recipe: of the method ``dream`` with the metric ``mse`` or ``l1`` over ``conv`` layers.
        split: the data set, on the device to run on.
        pixels: (C, IPC, channels, H, W) the first synthetic images.
        kmeans: ``(features, rows to start from, iterations) -> centroids`` of one class.
    """

    def __init__(self, recipe: Recipe, split: DataSplit, pixels: Tensor, kmeans: KMeans | None = None) -> None:
        if recipe.metric not in ("mse", "l1") or recipe.layers != "conv" or recipe.per_cluster != 1:
            raise DreamAccelError(
                f"metric {recipe.metric!r}, layers {recipe.layers!r}, per_cluster {recipe.per_cluster}: the published "
                "loop is written for mse or l1 over conv layers, one image per cluster"
            )
        self.recipe = recipe
        self.kmeans = kmeans or lloyd
        self.device = split.train.device
        self.n_classes = split.train.n_classes
        self.normalize = split.normalization
        self.images = [image.float() / 255 for image in split.train.images]
        self.labels = split.train.labels.tolist()
        self.rows_of_class = [[i for i, label in enumerate(self.labels) if label == c] for c in range(self.n_classes)]
        self.network = make_network(
            recipe.network,
            split.train.shape,
            self.n_classes,
            recipe.width,
            recipe.depth_for(split.train.shape),
            0,
            **recipe.layer_kinds,
        ).to(self.device)
        self.pixels = pixels.clone().requires_grad_()
        self.pixel_optimizer = torch.optim.SGD(
            [self.pixels], lr=recipe.pixel_lr_for(split.train.shape), momentum=recipe.pixel_momentum
        )
        self.match_augment = Augmentation(recipe.match_augment)
        self.train_augment = Augmentation(recipe.train_augment)
        self.features: list[Tensor] = []
        self.batches: list[list[int]] = []

    def outer_iteration(self, iteration: int) -> float:
        """One network, ``inner_steps`` matching steps; the distance summed over classes, mean over the steps."""
        self.restart(iteration)
        total = 0.0
        for step in range(self.recipe.inner_steps):
            if step % self.recipe.interval == 0:
                self.refresh(iteration, step)
            total += self.match()
            self.train()
        return total / self.recipe.inner_steps

    def restart(self, iteration: int) -> None:
        """A new network, its optimiser, and the random streams."""
        recipe = self.recipe
        initialize(self.network, derive_seed(recipe.seed, "network", "outer", iteration))
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=recipe.network_lr,
            momentum=recipe.network_momentum,
            weight_decay=recipe.weight_decay,
        )
        self.pixels.data.clamp_(0, 1)
        self.match_draws = [Streams(1, self.device) for _ in range(self.n_classes)]
        for c, draws in enumerate(self.match_draws):
            draws.restart([derive_seed(recipe.seed, "matching", c, iteration)])
        self.train_draws = generator(recipe.seed, "training", "outer", iteration, device=self.device)
        self.batch_rows = self._shuffled(generator(recipe.seed, "rows", iteration, device=self.device))

    def refresh(self, iteration: int, step: int) -> None:
        """Embed and cluster class after class; keep the image nearest each centre."""
        self.embed()
        self.cluster(derive_seed(self.recipe.seed, "picks", iteration, step))

    def embed(self) -> None:
        """All images of a class in one forward pass."""
        with torch.no_grad():
            self.features = [
                self.network.embed(self.normalize(torch.stack([self.images[i] for i in rows])))  # type: ignore[operator]
                for rows in self.rows_of_class
            ]

    def cluster(self, seed: int) -> None:
        """K-Means of every class, and the image nearest each centre."""
        self.batches = []
        for features, rows in zip(self.features, self.rows_of_class, strict=True):
            start = first_rows(len(rows), self.recipe.n_clusters, seed)
            centroids = self.kmeans(features, start, self.recipe.kmeans_iterations)
            nearest = torch.cdist(centroids, features).argmin(dim=1).cpu().numpy()
            self.batches.append([rows[i] for i in nearest])

    def match(self) -> float:
        """One matching step of every class, each followed by a step of the one optimiser of all pixels.

        With the pixel sweep ``joint`` that step is taken once, after the last class.
        """
        total = 0.0
        parameters = list(self.network.parameters())
        for c in range(self.n_classes):
            draws = self.match_draws[c]
            real = torch.stack([self.images[i] for i in self.batches[c]])
            synthetic = decode(self.pixels[c], self.recipe.factor)
            if len(synthetic) > self.recipe.max_synthetic:
                some = draws.uniform(len(synthetic)).squeeze(0).argsort()
                synthetic = synthetic[some[: self.recipe.max_synthetic]]
            draw = draws.uniform(math.prod(self.match_augment.shape)).view(1, *self.match_augment.shape)
            real, synthetic = (self.match_augment.apply(images, draw) for images in (real, synthetic))
            loss = F.cross_entropy(self.network(self.normalize(real)), self._label(c, len(real)))
            g_real = [g.detach().clone() for g in torch.autograd.grad(loss, parameters)]
            loss = F.cross_entropy(self.network(self.normalize(synthetic)), self._label(c, len(synthetic)))
            g_synthetic = torch.autograd.grad(loss, parameters, create_graph=True)
            distance = self._distance(g_real, g_synthetic)
            if self.recipe.pixel_sweep == "per_class" or c == 0:
                self.pixel_optimizer.zero_grad()
            distance.backward()
            if self.recipe.pixel_sweep == "per_class" or c == self.n_classes - 1:
                self.pixel_optimizer.step()
            total += distance.item()
        return total

    def train(self) -> None:
        """Train the network on the next ``network_images`` images, one stacked batch after another."""
        left = self.recipe.network_images
        while left > 0:
            rows = [next(self.batch_rows) for _ in range(min(left, self.recipe.network_batch))]
            left -= len(rows)
            images = torch.stack([self.images[i] for i in rows])
            labels = torch.tensor(np.array([self.labels[i] for i in rows])).to(self.device)
            images = self.train_augment(images, self.train_draws)
            images, partners, weight = cutmix(images, labels, self.recipe.cutmix, self.train_draws)
            logits = self.network(self.normalize(images))
            loss = weight * F.cross_entropy(logits, labels) + (1 - weight) * F.cross_entropy(logits, partners)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss.item()
            for k in (1, 5):
                top = logits.topk(min(k, self.n_classes), dim=1).indices
                (top == labels.unsqueeze(1)).float().sum().item()

    def _distance(self, real: list[Tensor], synthetic: tuple[Tensor, ...]) -> Tensor:
        distance = torch.zeros((), device=self.device)
        for x, y in zip(real, synthetic, strict=True):
            if x.dim() == 4:
                distance = distance + ((x - y).square().sum() if self.recipe.metric == "mse" else (x - y).abs().sum())
        return distance

    def _label(self, c: int, n: int) -> Tensor:
        return torch.tensor(np.ones(n) * c, dtype=torch.long, device=self.device)

    def _shuffled(self, draws: torch.Generator) -> Iterator[int]:
        while True:
            yield from torch.randperm(len(self.images), generator=draws, device=self.device).tolist()


def first_rows(n: int, k: int, seed: int) -> Tensor:
    """(k,) the rows K-Means starts from: without replacement, as ours does."""
    return hash_rows(torch.arange(n), seed, "kmeans init").argsort(stable=True)[:k]


def lloyd(x: Tensor, start: Tensor, iterations: int) -> Tensor:
    """(K, D) centroids from the rows ``start``; the host is asked at every iteration whether labels still change."""
    centroids = x[start.to(x.device)]
    previous = None
    for _ in range(iterations):
        labels = torch.cdist(x, centroids).argmin(dim=1)
        if previous is not None and (labels == previous).all().item():
            break
        previous = labels
        one_hot = F.one_hot(labels, len(centroids)).to(x.dtype)
        counts = one_hot.sum(dim=0)
        sums = one_hot.T @ x
        centroids = torch.where(counts.unsqueeze(1) > 0, sums / counts.clamp(min=1).unsqueeze(1), centroids)
    return centroids


def fast_pytorch_kmeans(x: Tensor, start: Tensor, iterations: int) -> Tensor:
    """(K, D) centroids by the package the published code calls; it draws its own start and stops by a tolerance."""
    from fast_pytorch_kmeans import KMeans as Peer

    peer = Peer(n_clusters=len(start), max_iter=iterations, mode="euclidean")
    peer.fit_predict(x)
    return peer.centroids
