"""Drop-in for code that reads real images only to initialise: MTT, TESLA, FTD, DATM, RDED, D4M."""

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
    """Compute ``indices_class`` restricted to the ``k`` representative images of each class.

    Such code keeps a list of row numbers per class, ``indices_class``, and draws the initial images of the synthetic
    set from it. If this list replaces it, with k = IPC, the initial images are those nearest the centres of a K-Means
    of each class. Trajectory matching uses real images nowhere else, so nothing else changes. For features that are
    already computed use :func:`dream_accel.select`.

    Args:
        images: (N, channels, H, W), uint8 or as the network takes them.
        labels: (N,) integers 0..C-1.
        k: images per class.
        features: a network (a trained expert is better than a random one) or a callable from images to features.
        strategy: as in :func:`dream_accel.select`.
        normalize: applied to the images before they are embedded.
        seed: seed of every random draw.
        chunk_size: number of images embedded at a time.

    Returns:
        C lists of k distinct row numbers.

    Raises:
        DreamAccelError: images and labels do not match, a class is smaller than ``k``, or the network yields no
            features.
    """
    pixels = to_tensor(images, "images")
    rows = torch.arange(len(pixels), device=pixels.device)
    embedded = embed_rows(pixels, rows, features, normalize, chunk_size)
    return select(embedded, labels, k, strategy, seed=seed).tolist()
