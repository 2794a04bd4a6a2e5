"""Drawing the weights of a network from a stream of its own."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


@torch.no_grad()
def initialize(network: Network, seed: int) -> Network:
    """Redraw every parameter in place: PyTorch's default distributions, without the global generator.

    Weights and biases of convolutions and linear layers are uniform in ±1/sqrt(fan_in); norms become the identity.
    """
    draw = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
            for parameter in (module.weight, module.bias):
                if parameter is not None:
                    value = torch.empty(parameter.shape).uniform_(-bound, bound, generator=draw)
                    parameter.copy_(value, non_blocking=True)
        elif isinstance(module, nn.GroupNorm | nn.BatchNorm2d):
            module.reset_parameters()
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
    return network
