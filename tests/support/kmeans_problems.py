"""Rows and centroids for tests of the K-Means operators."""

import itertools

import torch


def offsets_of(sizes):
    return torch.tensor([0, *itertools.accumulate(sizes)])


def problem(sizes, D, K, dtype=torch.float32, shift=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(sum(sizes), D, generator=generator) + shift).to(dtype)
    centroids = torch.randn(len(sizes), K, D, generator=generator) + shift
    return x, offsets_of(sizes), centroids


def whole_numbers(sizes, D, K, seed=0):
    """Rows and centroids whose distances are exact in any precision, with many ties."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-2, 3, (sum(sizes), D), generator=generator).float()
    centroids = torch.randint(-2, 3, (len(sizes), K, D), generator=generator).float()
    labels = torch.randint(0, K, (sum(sizes),), generator=generator, dtype=torch.int32)
    return x, offsets_of(sizes), centroids, labels
