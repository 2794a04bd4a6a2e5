"""Weights of a network drawn from a random stream of their own."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


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
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
            for parameter in (module.weight, module.bias):
                if parameter is not None:
                    value = _on_host(parameter.shape, parameter.device).uniform_(-bound, bound, generator=draw)
                    parameter.copy_(value, non_blocking=True)
        elif isinstance(module, nn.GroupNorm | nn.BatchNorm2d):
            module.reset_parameters()
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
    return network


def _on_host(shape: torch.Size, device: torch.device) -> Tensor:
    """Memory on the CPU from which a copy to the device does not wait: PyTorch keeps it until the copy is done."""
    return torch.empty(shape, pin_memory=device.type == "cuda")
