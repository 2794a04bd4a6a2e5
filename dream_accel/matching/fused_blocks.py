"""Blocks of a network whose norm, ReLU and pooling run as one operator while weight gradients are computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from ..ops.norm_relu_pool import norm_relu_pool


class Block(NamedTuple):
    """Three modules that a ``Sequential`` runs one after another."""

    norm: nn.GroupNorm
    activation: nn.ReLU
    pooling: nn.AvgPool2d


def fusible_blocks(network: nn.Module, matched: Collection[str]) -> list[Block]:
    """Find instance norm, ReLU and 2x2 average pooling that follow one another in a ``Sequential``.

    Args:
        network: the network.
        matched: names of parameters whose gradients are wanted; the norms that own one are left out.

    Returns:
        the blocks; none of their modules is used in a second place or has hooks.
    """
    places = Counter(module for _, module in network.named_modules(remove_duplicate=False))
    owners = {network.get_submodule(name.rpartition(".")[0]) for name in matched}
    blocks = []
    for sequence in network.modules():
        # A subclass may run its modules in another order.
        if type(sequence) is nn.Sequential:
            children = list(sequence)
            for three in zip(children, children[1:], children[2:], strict=False):
                alone = all(places[module] == 1 and not module._forward_hooks for module in three)
                if alone and three[0] not in owners and _fits(*three):
                    blocks.append(Block(*three))
    return blocks


def _fits(norm: nn.Module, activation: nn.Module, pooling: nn.Module) -> bool:
    return (
        type(norm) is nn.GroupNorm
        and norm.affine
        and norm.num_groups == norm.num_channels
        and type(activation) is nn.ReLU
        and type(pooling) is nn.AvgPool2d
        and all(size in (2, (2, 2)) for size in (pooling.kernel_size, pooling.stride))
        and pooling.padding in (0, (0, 0))
        and not pooling.ceil_mode
        and pooling.divisor_override is None
    )


@contextmanager
def fused(blocks: Collection[Block]) -> Iterator[None]:
    """Run each block as one operator, in place of its norm; the network is as before at the end."""
    changed = [module for block in blocks for module in block]
    try:
        for block in blocks:
            block.norm.forward = partial(_run, block.norm)  # type: ignore[method-assign]
            block.activation.forward = block.pooling.forward = _identity  # type: ignore[method-assign]
        yield
    finally:
        for module in changed:
            vars(module).pop("forward", None)


def _run(norm: nn.GroupNorm, maps: Tensor) -> Tensor:
    # As group_norm does under autocast, it computes in the precision of its parameters.
    return norm_relu_pool(maps.to(norm.weight.dtype), norm.weight, norm.bias, norm.eps)[0]


def _identity(maps: Tensor) -> Tensor:
    return maps
