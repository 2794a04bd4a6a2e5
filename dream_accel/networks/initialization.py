"""Weights of a network drawn from a random stream of their own."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

Network = TypeVar("Network", bound=nn.Module)

DRAWN = (_ConvNd, nn.Linear)
"""Layers whose weights and biases are drawn."""
RESET = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, _NormBase)
"""Norms, which become the identity. ``_NormBase`` are batch and instance norms, whose statistics begin anew as well."""


@torch.no_grad()
def initialize(network: Network, seed: int) -> Network:
    """Redraw the parameters in place: PyTorch's default distributions, without the global generator.

    Weights and biases of convolutions and linear layers are uniform in ±1/sqrt(fan_in); norms become the identity.
    Parameters of other layers are left as they are.

    Args:
        network: changed in place.
        seed: of a generator on the CPU, so that a seed gives the same weights on every device.

    Returns:
        ``network``.
    """
    draw = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, DRAWN):
            bound = 1 / math.sqrt(module.weight[0].numel())
            for parameter in (module.weight, module.bias):
                if parameter is not None:
                    value = _on_host(parameter.shape, parameter.device).uniform_(-bound, bound, generator=draw)
                    parameter.copy_(value, non_blocking=True)
        elif isinstance(module, RESET):
            module.reset_parameters()
    return network


def not_redrawn(network: nn.Module) -> tuple[str, str] | None:
    """The first layer with parameters that :func:`initialize` leaves as they are, by its class and a parameter's name.

    Returns:
        None where all parameters are redrawn.
    """
    for module in network.modules():
        own = [name for name, _ in module.named_parameters(recurse=False)]
        if own and not isinstance(module, (*DRAWN, *RESET)):
            return type(module).__name__, own[0]
    return None


def _on_host(shape: torch.Size, device: torch.device) -> Tensor:
    """Memory on the CPU from which a copy to the device does not wait: PyTorch keeps it until the copy is done."""
    return torch.empty(shape, pin_memory=device.type == "cuda")
