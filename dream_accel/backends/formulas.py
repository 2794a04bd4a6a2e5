"""Formulas of the distances and of their derivatives in plain PyTorch, with which every backend is compared."""

from __future__ import annotations

import torch
from torch import Tensor

COS_EPS = 1e-6
EXPONENTS = {torch.float32: 40, torch.float64: 330}
"""Numbers within these powers of two have squares whose sums neither over- nor underflow."""


def plain_distance(real: list[Tensor], synthetic: list[Tensor], metric: str, per_class: bool) -> Tensor:
    """The formulas themselves, differentiable by autograd to any order: (G,) distances."""
    return plain_layers(real, synthetic, metric, per_class).sum(dim=1)


def plain_layers(real: list[Tensor], synthetic: list[Tensor], metric: str, per_class: bool) -> Tensor:
    """The same for every layer: (G, L), or (G, 1) for the global metrics."""
    value = _VALUE[metric.removeprefix("global_")]
    return torch.stack([value(x, y) for x, y in _as_rows(real, synthetic, metric, per_class)], dim=1)


def derivatives(real: list[Tensor], synthetic: list[Tensor], metric: str, per_class: bool) -> list[Tensor]:
    """The derivatives in closed form, shaped like ``synthetic``."""
    pairs = _as_rows(real, synthetic, metric, per_class)
    grads = [_DERIVATIVE[metric.removeprefix("global_")](x, y) for x, y in pairs]
    if metric.startswith("global_"):
        sizes = [(y.shape[1:] if per_class else y.shape).numel() for y in synthetic]
        grads = list(grads[0].squeeze(1).split(sizes, dim=1))
    return [g.reshape(y.shape) for g, y in zip(grads, synthetic, strict=True)]


def _as_rows(real: list[Tensor], synthetic: list[Tensor], metric: str, per_class: bool) -> list[tuple[Tensor, Tensor]]:
    """Every pair as (G, rows, length of a row); one pair with one row for the global metrics."""
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in (*real, *synthetic)) else torch.float32
    pairs = []
    for x, y in zip(real, synthetic, strict=True):
        groups = y.shape[0] if per_class else 1
        params = y.shape[1:] if per_class else y.shape
        rows = params[0] if params else 1
        shape = (groups, rows, params[1:].numel())
        pairs.append((x.to(dtype).reshape(shape), y.to(dtype).reshape(shape)))
    if metric.startswith("global_"):
        whole = [torch.cat([t.flatten(1) for t in side], dim=1).unsqueeze(1) for side in zip(*pairs, strict=True)]
        return [(whole[0], whole[1])]
    return pairs


def _mse(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().sum(dim=(1, 2))


def _mse_derivative(x: Tensor, y: Tensor) -> Tensor:
    return 2 * (y - x)


def _l1(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs().sum(dim=(1, 2))


def _l1_derivative(x: Tensor, y: Tensor) -> Tensor:
    return (y - x).sign()


def _l1_mean(x: Tensor, y: Tensor) -> Tensor:
    return _l1(x, y) / max(x.shape[2], 1)


def _l1_mean_derivative(x: Tensor, y: Tensor) -> Tensor:
    return _l1_derivative(x, y) / max(x.shape[2], 1)


def _cos_parts(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Scaled rows x and y, <x,y>, |x|, |y|, |x||y| + eps of them, and the factor from scaled to given derivatives.

    Where eps is added matters: |x||y| is near 1e-5 in practice. Rows are scaled by a power of two, which changes no
    digit, where their squares would leave the format.
    """
    x_power, y_power = _power_of_rows(x), _power_of_rows(y)
    # Two powers of small rows may not make eps infinite, which keeps the derivative of such rows finite.
    y_power = torch.minimum(y_power, 2.0 ** (3 * EXPONENTS[y.dtype]) / x_power)
    x, y = x * x_power, y * y_power
    x_norm = torch.linalg.vector_norm(x, dim=2, keepdim=True)
    y_norm = torch.linalg.vector_norm(y, dim=2, keepdim=True)
    norms = x_norm * y_norm + COS_EPS * x_power * y_power
    return x, y, (x * y).sum(dim=2, keepdim=True), x_norm, y_norm, norms, y_power


def _power_of_rows(x: Tensor) -> Tensor:
    """(G, rows, 1): 1 for ordinary rows, for very large and very small ones a power towards 1."""
    if x.shape[2] == 0:
        return x.new_ones(1)
    _, exponent = torch.frexp(x.detach().abs().amax(dim=2, keepdim=True))
    ordinary = EXPONENTS[x.dtype]
    scaled = exponent.clamp(-3 * ordinary, 3 * ordinary)
    exponent = torch.where(exponent.abs() <= ordinary, 0, scaled).long()
    # From its bits: the functions of powers are not exact on every device.
    return ((1023 - exponent) << 52).view(torch.float64).to(x.dtype)


def _cos(x: Tensor, y: Tensor) -> Tensor:
    _, _, product, _, _, norms, _ = _cos_parts(x, y)
    return (1 - product / norms).sum(dim=(1, 2))


def _cos_derivative(x: Tensor, y: Tensor) -> Tensor:
    x, y, product, x_norm, y_norm, norms, y_power = _cos_parts(x, y)
    through_norm = torch.where(y_norm == 0, 0.0, product * x_norm / (y_norm * norms.square()))
    # Multiplied by what is above 1 first and by what is below 1 last, so that no factor is subnormal.
    up, down = y_power.clamp(min=1), y_power.clamp(max=1)
    return (through_norm * (y * up) - (x * up) / norms) * down


_VALUE = {"mse": _mse, "l1": _l1, "l1_mean": _l1_mean, "cos": _cos}
_DERIVATIVE = {"mse": _mse_derivative, "l1": _l1_derivative, "l1_mean": _l1_mean_derivative, "cos": _cos_derivative}


def compute_dtype(x: Tensor) -> torch.dtype:
    """Float64 stays, everything else is computed in float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
