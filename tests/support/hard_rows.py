"""Rows and centroids that make it hard to say which centroid is nearest."""

from __future__ import annotations

import torch
from torch import Tensor

SIZES, K, D = (37, 0, 20), 9, 33


def _random(draw):
    return draw(sum(SIZES), D), draw(len(SIZES), K, D)


def _clustered(draw):
    centroids = 8 * draw(len(SIZES), K, D)
    return _near(centroids, 0.01 * draw(sum(SIZES), D)), centroids


def _offset(draw):
    return tuple(values + 100 for values in _random(draw))


def _duplicates(draw):
    x, centroids = _random(draw)
    x[:] = x[torch.arange(len(x)) % 3]
    return x, centroids


def _equidistant(draw):
    """Halfway between two centroids, up to the last bits of every feature."""
    _, centroids = _random(draw)
    neighbours = (centroids + centroids.roll(1, dims=1)) / 2
    return _near(neighbours, 2.0**-22 * draw(sum(SIZES), D)), centroids


def _near_ties(draw):
    """Centroids in pairs that differ by one last bit of one feature."""
    x, centroids = _random(draw)
    centroids[:, 1::2] = centroids[:, : K - 1 : 2]
    centroids[:, 1::2, 5] = centroids[:, 1::2, 5].nextafter(torch.tensor(torch.inf))
    return x, centroids


def _huge_constant(draw):
    """A feature that is 2^23 everywhere: it tells no rows apart, and whoever squares it loses all that do."""
    x, centroids = _random(draw)
    x[:, 7] = centroids[:, :, 7] = 2.0**23
    return x, centroids


def _huge_feature(draw):
    x, centroids = _random(draw)
    x[:, 7] *= 1e15
    centroids[:, :, 7] *= 1e15
    return x, centroids


def _denormals(draw):
    return tuple(1e-40 * values for values in _random(draw))


def _some_denormals(draw):
    x, centroids = _random(draw)
    x[:, ::2] *= 1e-40
    centroids[:, :, ::2] *= 1e-40
    return x, centroids


def _dead(draw):
    x, centroids = _random(draw)
    centroids[:, ::2, 3] = torch.nan
    return x, centroids


HARD = {
    "random": _random,
    "clustered": _clustered,
    "100 sigma from the origin": _offset,
    "duplicates": _duplicates,
    "equidistant up to last bits": _equidistant,
    "near-tie centroids": _near_ties,
    "one huge constant feature": _huge_constant,
    "one huge feature": _huge_feature,
    "denormals": _denormals,
    "denormals beside ordinary features": _some_denormals,
    "dead centroids": _dead,
}


def hard_rows(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """x (N, D), offsets (G+1,) and centroids (G, K, D)."""
    generator = torch.Generator().manual_seed(len(name))
    x, centroids = HARD[name](lambda *shape: torch.randn(shape, generator=generator))
    return x, torch.tensor([0, *SIZES]).cumsum(0), centroids


def _near(centroids: Tensor, noise: Tensor) -> Tensor:
    """Rows around the centroids of their group in turn."""
    groups = [own[torch.arange(n) % K] for own, n in zip(centroids, SIZES, strict=True)]
    return torch.cat(groups) + noise
