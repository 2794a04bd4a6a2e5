"""Instance norm, ReLU and 2x2 average pooling in one pass over the feature maps, twice differentiable.

The three are the tail of a block of the field's standard network. Separately, their second derivatives are compositions
of some twenty operators, each of which reads and writes every pixel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import DreamAccelError
from .checks import check_device
from .registration import operator

DTYPES = (torch.float32, torch.float64)


def _check(y: Tensor, weight: Tensor, bias: Tensor) -> None:
    if y.dim() != 4:
        raise DreamAccelError(f"y has shape {tuple(y.shape)}: expected (N, channels, height, width)")
    if y.dtype not in DTYPES:
        raise DreamAccelError(f"y is {y.dtype}: expected float32 or float64; convert it with y.float()")
    if min(y.shape[2:]) < 2:
        raise DreamAccelError(f"y has maps of {y.shape[2]}x{y.shape[3]} pixels: pooling needs 2x2 or more")
    for name, affine in (("weight", weight), ("bias", bias)):
        if affine.shape != y.shape[1:2] or affine.dtype != y.dtype:
            raise DreamAccelError(
                f"{name} is {affine.dtype} of shape {tuple(affine.shape)}: expected {y.dtype}, one for each of "
                f"{y.shape[1]} channels"
            )
    check_device("y", y, weight=weight, bias=bias)


def _outputs(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    moments = y.shape[:2]
    return _pooled_like(y), y.new_empty(moments), y.new_empty(moments)


def _pooled_like(y: Tensor) -> Tensor:
    return y.new_empty(*y.shape[:2], y.shape[2] // 2, y.shape[3] // 2)


def _gradient_outputs(y: Tensor) -> Tensor:
    return torch.empty_like(y, memory_format=torch.contiguous_format)


def _second_outputs(y: Tensor) -> tuple[Tensor, Tensor]:
    return _pooled_like(y), _gradient_outputs(y)


def _second_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pass


def _third(ctx: Any, *upstream: Tensor) -> Any:
    raise DreamAccelError(
        "norm_relu_pool is differentiable twice: for a third derivative use group_norm, relu, avg_pool2d"
    )


@operator(check=_check, outputs=_second_outputs, backward=_third, setup_context=_second_setup)
def norm_relu_pool_double_backward(
    y: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, of_pooled: Tensor, of_of_y: Tensor
) -> tuple[Tensor, Tensor]:
    """Differentiate :func:`norm_relu_pool_backward`.

    Args:
        y: as in :func:`norm_relu_pool`, and so on to ``rstd``.
        weight: likewise.
        bias: likewise.
        mean: likewise.
        rstd: likewise.
        of_pooled: (N, channels, height // 2, width // 2), an argument of the function differentiated.
        of_of_y: shaped like ``y``, the derivative of a scalar by the result of that function.

    Returns:
        the derivatives of the scalar by ``of_pooled`` and by ``y``.
    """


def _first_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _second(ctx: Any, of_of_y: Tensor) -> tuple[Any, ...]:
    y, weight, bias, mean, rstd, of_pooled = ctx.saved_tensors
    of_of_pooled, of_y = norm_relu_pool_double_backward(y, weight, bias, mean, rstd, of_pooled, of_of_y)
    return of_y, None, None, None, None, of_of_pooled


@operator(check=_check, outputs=_gradient_outputs, backward=_second, setup_context=_first_setup)
def norm_relu_pool_backward(
    y: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, of_pooled: Tensor
) -> Tensor:
    """Differentiate :func:`norm_relu_pool` by its first argument.

    Args:
        y: the maps of the call, and so on to ``bias``.
        weight: likewise.
        bias: likewise.
        mean: (N, channels), a result of the call.
        rstd: likewise.
        of_pooled: (N, channels, height // 2, width // 2), the derivative of a scalar by the pooled maps.

    Returns:
        the derivative of the scalar by ``y``, contiguous; differentiable by ``y`` and ``of_pooled``.
    """


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    y, weight, bias, _ = inputs
    _, mean, rstd = output
    if any(ctx.needs_input_grad[1:3]):
        raise DreamAccelError("norm_relu_pool is differentiable by its maps alone: detach weight and bias")
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(y, weight, bias, mean, rstd)


def _first(ctx: Any, of_pooled: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if of_pooled is None:
        return None, None, None, None
    y, weight, bias, mean, rstd = ctx.saved_tensors
    return norm_relu_pool_backward(y, weight, bias, mean, rstd, of_pooled), None, None, None


@operator(check=_check, outputs=_outputs, backward=_first, setup_context=_setup)
def norm_relu_pool(y: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise every feature map of every image, apply ReLU, and pool.

    ``avg_pool2d(relu(weight (y - mean) rstd + bias), 2)`` with ``rstd = 1 / sqrt(var + eps)`` and the biased variance,
    which is ``avg_pool2d(relu(group_norm(y, channels, weight, bias, eps)), 2)``.

    Args:
        y: (N, channels, height, width) float32 or float64, of 2x2 pixels at least.
        weight: (channels,) of the same dtype, without gradient.
        bias: likewise.
        eps: added to the variance.

    Returns:
        the pooled maps (N, channels, height // 2, width // 2), twice differentiable by ``y``; mean and rstd
        (N, channels), without gradient.

    Raises:
        DreamAccelError: shapes, dtypes or devices do not fit, weight or bias require a gradient, or a third derivative
            is asked for.
    """
