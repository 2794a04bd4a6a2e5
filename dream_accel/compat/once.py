"""For code that takes real images once, to initialise: MTT, TESLA, FTD, DATM, RDED, D4M."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..arrays import to_tensor
from ..networks.features import Embedder, embed_rows
from ..sampling import select


def class_indices(
    images: Any,
    labels: Any,
    k: int,
    features: nn.Module | Embedder,
    *,
    strategy: str = "dream",
    normalize: Embedder | None = None,
    seed: int = 0,
    chunk_size: int = 1024,
) -> list[list[int]]:
    """``indices_class``, narrowed down to the ``k`` images that stand for each class.

    This code keeps a list of row numbers per class, ``indices_class``, and draws the first images of the synthetic set
    from it. Replacing that list by this one, with k = IPC, makes the draw take the images nearest the centres of a
    K-Means of each class. Trajectory matching uses real images nowhere else, so nothing else changes. With features
    already at hand, :func:`dream_accel.select` does the same.

    Args:
        images: (N, channels, H, W), uint8 or as the network takes them.
        labels: (N,) integers 0..C-1.
        k: images per class.
        features: a network (a trained expert is better than a random one) or a callable from images to features.
        strategy: as in :func:`dream_accel.select`.
        normalize: applied to the images before they are embedded.
        seed: of everything drawn.
        chunk_size: images embedded at a time.

    Returns:
        C lists of k distinct row numbers.

    Raises:
        DreamAccelError: images and labels that do not belong together, a class smaller than ``k``, no features.
    """
    pixels = to_tensor(images, "images")
    rows = torch.arange(len(pixels), device=pixels.device)
    embedded = embed_rows(pixels, rows, features, normalize, chunk_size)
    return select(embedded, labels, k, strategy, seed=seed).tolist()
