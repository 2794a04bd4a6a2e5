"""Networks of the distance benchmark by their convolution weights, and the distances as IDC and DC write them."""

from __future__ import annotations

import torch
from torch import Tensor

Shapes = tuple[tuple[int, ...], ...]


def _convnet(depth: int, width: int = 128) -> Shapes:
    return ((width, 3, 3, 3), *[(width, width, 3, 3)] * (depth - 1))


def _resnet(blocks: int) -> Shapes:
    shapes, before = [(64, 3, 7, 7)], 64
    for width in (64, 128, 256, 512):
        shapes += [(width, before, 3, 3), *[(width, width, 3, 3)] * (2 * blocks - 1)]
        shapes += [(width, before, 1, 1)] if width != before else []
        before = width
    return tuple(shapes)


NETWORKS = {"ConvNet-3": _convnet(3), "ConvNet-4": _convnet(4), "ResNet-10": _resnet(1), "ResNet-18": _resnet(2)}
QUICK_NETWORKS = {"tiny": _convnet(2, 8)}


def eager_distance(real: list[Tensor], synthetic: list[Tensor], metric: str) -> Tensor:
    """Distance of one class: IDC's sum over layers, or DC's of one concatenated vector."""
    if metric.startswith("global_"):
        x, y = (torch.cat([g.reshape(-1) for g in side]) for side in (real, synthetic))
        if metric == "global_mse":
            return torch.sum((y - x) ** 2)
        return 1 - torch.sum(x * y, dim=-1) / (torch.norm(x, dim=-1) * torch.norm(y, dim=-1) + 1e-6)
    total = torch.zeros((), device=real[0].device)
    for x, y in zip(real, synthetic, strict=True):
        total = total + _eager_layer(x, y, metric)
    return total


def _eager_layer(x: Tensor, y: Tensor, metric: str) -> Tensor:
    if metric == "mse":
        return (x - y).pow(2).sum()
    if metric == "l1":
        return (x - y).abs().sum()
    x, y = x.reshape(x.shape[0], -1), y.reshape(y.shape[0], -1)
    if metric == "l1_mean":
        return (x - y).abs().mean(-1).sum()
    return torch.sum(1 - torch.sum(x * y, dim=-1) / (torch.norm(x, dim=-1) * torch.norm(y, dim=-1) + 1e-6))
