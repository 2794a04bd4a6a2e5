"""Feature migration: synthetic images among the real ones of their class, before, during and after distillation.

One network, trained on real images and then fixed, embeds everything; t-SNE (van der Maaten and Hinton, *Visualizing
data using t-SNE*, JMLR 2008, by scikit-learn) lays out the features of all stages together, so that an image that
stands still keeps its place. The paper (Liu et al., ICCV 2023) shows that DREAM's images begin evenly spread over their
class and stay so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import DataSplit
from ..engine.loop import Run
from ..errors import DreamAccelError
from ..networks.features import embed_rows
from ..random import derive_seed
from ..recipes import Recipe
from .along_training import along_training
from .gradients import rows_of_class


@dataclass(frozen=True)
class Place:
    """The place of one image in the plane of t-SNE."""

    kind: str
    """real or synthetic"""
    iteration: int
    """outer iterations done; -1 for a real image"""
    label: int
    """the class"""
    index: int
    """row of the training set, or number of the decoded image within its class"""
    x: float
    y: float


def feature_migration(
    recipe: Recipe,
    split: DataSplit,
    *,
    labels: tuple[int, ...] = (0, 1, 2),
    shown: int = 200,
    at: tuple[int, ...] = (),
    trained: int = 5000,
) -> Iterator[Place]:
    """Lay out real and synthetic images of some classes in the plane, before, during and after distillation.

    Args:
        recipe: the run whose images are followed.
        split: the data set, on the device where the run computes.
        labels: the classes to lay out.
        shown: real images of a class at most, the first of the training set.
        at: outer iterations to show; empty for the first, the middle and the last.
        trained: real images the embedding network is trained on.

    Yields:
        the place of every real image, then those of the synthetic images of every stage.

    Raises:
        DreamAccelError: there is no such class, an iteration is negative, or there are fewer than 5 images.
    """
    for label in labels:
        if not 0 <= label < split.train.n_classes:
            raise DreamAccelError(f"class {label} does not exist: classes are 0 to {split.train.n_classes - 1}")
    stages = sorted(set(at)) or sorted({0, recipe.iterations // 2, recipe.iterations})
    if stages[0] < 0:
        raise DreamAccelError(f"at is {at}: give outer iterations from 0 on")
    ((_, network),) = along_training(recipe, split, (trained,))

    def embedded(images: Tensor) -> Tensor:
        rows = torch.arange(len(images), device=images.device)
        return embed_rows(images, rows, network, split.normalization).float().cpu()

    keys: list[tuple[str, int, int, int]] = []
    features: list[Tensor] = []
    for label in labels:
        rows = rows_of_class(split, label)[:shown]
        features.append(embedded(split.train.batch(rows)))
        keys += [("real", -1, label, row) for row in rows.tolist()]
    run = Run(recipe, split)
    for stage in stages:
        while len(run.history) < stage:
            run.advance()
        images, classes = run.synthetic.decode()
        for label in labels:
            own = images[classes == label]
            features.append(embedded(own.to(split.train.device)))
            keys += [("synthetic", stage, label, number) for number in range(len(own))]
    places = layout(torch.cat(features), recipe.seed)
    for key, (x, y) in zip(keys, places.tolist(), strict=True):
        yield Place(*key, x, y)


def layout(features: Tensor, seed: int) -> Tensor:
    """Lay out features in the plane by t-SNE, from their first two principal components.

    Args:
        features: (n, D) float32 on the CPU, n at least 5.
        seed: of its random draws.

    Returns:
        (n, 2) float32 places.

    Raises:
        DreamAccelError: there are fewer than 5 rows.
    """
    from sklearn.manifold import TSNE

    if len(features) < 5:
        raise DreamAccelError(f"{len(features)} images cannot be laid out: take more classes or images, 5 at least")
    # Perplexity has to be below the number of rows; 30 is the customary one.
    tsne = TSNE(
        perplexity=min(30.0, (len(features) - 1) / 4), init="pca", random_state=derive_seed(seed, "t-SNE") % 2**32
    )
    return torch.from_numpy(tsne.fit_transform(features.numpy()))
