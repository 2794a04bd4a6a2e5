"""Instance norm, ReLU and 2x2 average pooling with two derivatives, in plain PyTorch: part of the reference."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def norm_relu_pool(y: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Instance norm, ReLU and 2x2 average pooling; with mean and rstd of every map."""
    variance, mean = torch.var_mean(y, dim=(2, 3), correction=0)
    rstd = (variance + eps).rsqrt()
    normed = _normed(y, mean, rstd) * _per_channel(weight) + _per_channel(bias)
    return F.avg_pool2d(normed.relu(), 2), mean, rstd


def norm_relu_pool_backward(
    y: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, of_pooled: Tensor
) -> Tensor:
    """Derivative by ``y``: that of the norm, J e, where e is the derivative by the normed maps x."""
    x = _normed(y, mean, rstd)
    e = _of_normed(x, weight, bias, of_pooled)
    return _through_norm(x, rstd, e)


def norm_relu_pool_double_backward(
    y: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, of_pooled: Tensor, of_of_y: Tensor
) -> tuple[Tensor, Tensor]:
    """Derivatives of ``sum(t J e)``, with ``t = of_of_y``, by ``of_pooled`` and by ``y``.

    With <.> the mean of a map::

        J u = rstd (u - <u> - x <x u>)
        by of_pooled:  avg_pool2d(weight [weight x + bias > 0] J t)
        by y:          -rstd^2 (<e t> - <e> <t> - <e x> <t x>) x - rstd (<t x> J e + <e x> J t)
    """
    x, t = _normed(y, mean, rstd), of_of_y
    e = _of_normed(x, weight, bias, of_pooled)
    of_e, of_t = _through_norm(x, rstd, e), _through_norm(x, rstd, t)
    ex, tx = _map_mean(e * x), _map_mean(t * x)
    along_x = rstd[:, :, None, None] ** 2 * (_map_mean(e * t) - _map_mean(e) * _map_mean(t) - ex * tx)
    of_y = -along_x * x - rstd[:, :, None, None] * (tx * of_e + ex * of_t)
    open_ = _per_channel(weight) * x + _per_channel(bias) > 0
    return F.avg_pool2d(torch.where(open_, _per_channel(weight) * of_t, 0.0), 2), of_y


def _per_channel(affine: Tensor) -> Tensor:
    return affine[:, None, None]


def _map_mean(maps: Tensor) -> Tensor:
    return maps.mean(dim=(2, 3), keepdim=True)


def _normed(y: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    return (y - mean[:, :, None, None]) * rstd[:, :, None, None]


def _of_normed(x: Tensor, weight: Tensor, bias: Tensor, of_pooled: Tensor) -> Tensor:
    """Derivative by the normed maps from the one by the pooled maps; pixels that pooling leaves out have none."""
    height, width = x.shape[2:]
    spread = of_pooled.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) / 4
    spread = F.pad(spread, (0, width % 2, 0, height % 2))
    return torch.where(_per_channel(weight) * x + _per_channel(bias) > 0, _per_channel(weight) * spread, 0.0)


def _through_norm(x: Tensor, rstd: Tensor, u: Tensor) -> Tensor:
    """The derivative of the norm times u; it is symmetric."""
    return rstd[:, :, None, None] * (u - _map_mean(u) - x * _map_mean(u * x))
