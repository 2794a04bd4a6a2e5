"""Convolutions differentiated twice by their input alone.

PyTorch's second derivative of a convolution computes the gradient of the weight even where the weight is a constant.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks.forwards import replaced


def constant_weights(network: nn.Module) -> AbstractContextManager[None]:
    """Run every ``Conv2d`` as a function of its input alone; the network is as before at the end.

    Modules of a subclass, and those that pad with anything but a number of zeros, stay as they are.
    """
    layers = [module for module in network.modules() if type(module) is nn.Conv2d]
    plain = [layer for layer in layers if layer.padding_mode == "zeros" and not isinstance(layer.padding, str)]
    return replaced({layer: partial(_run, layer) for layer in plain})


def _run(layer: nn.Conv2d, x: Tensor) -> Tensor:
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)
    settings = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return _Convolution.apply(x.to(dtype), layer.weight.detach().to(dtype), bias, settings)


class _Convolution(torch.autograd.Function):
    """The convolution of x; differentiable by x, twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, settings: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = settings
        return F.conv2d(x, weight, bias, *settings)

    @staticmethod
    def backward(ctx: Any, of_output: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        return _OfInput.apply(of_output, x.detach(), weight, ctx.settings), None, None, None


class _OfInput(torch.autograd.Function):
    """The derivative by the input, which is linear in that by the output; of x only the shape matters."""

    @staticmethod
    def forward(ctx: Any, of_output: Tensor, x: Tensor, weight: Tensor, settings: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.settings = settings
        stride, padding, dilation, groups = settings
        of_x, _, _ = torch.ops.aten.convolution_backward(
            of_output, x, weight, None, stride, padding, dilation, False, [0, 0], groups, [True, False, False]
        )
        return of_x

    @staticmethod
    def backward(ctx: Any, of_of_x: Tensor) -> tuple[Any, ...]:
        (weight,) = ctx.saved_tensors
        return F.conv2d(of_of_x, weight, None, *ctx.settings), None, None, None
