"""Blocks of a network whose norm, ReLU and pooling run as one operator for a while."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from torch import Tensor, nn

from ..backends import refusal
from ..ops.norm_relu_pool import norm_relu_pool
from .forwards import replaced

Step = Callable[[Tensor], Tensor]


def fused(network: nn.Module, matched: Collection[str]) -> AbstractContextManager[None]:
    """Run instance norm, ReLU and 2x2 average pooling that follow one another in a ``Sequential`` as one operator.

    Args:
        network: the network; it is as before at the end.
        matched: names of parameters whose gradients are wanted; the norms that own one stay as they are.
    """
    sequences = fusible_sequences(network, matched)
    return replaced({sequence: partial(_in_turn, steps) for sequence, steps in sequences.items()})


def fused_where_faster(network: nn.Module) -> AbstractContextManager[None]:
    """:func:`fused` for passes without gradients on a GPU whose kernels serve the network; else nothing changes."""
    parameter = next(network.parameters(), None)
    if parameter is None or parameter.device.type != "cuda" or unserved(parameter) is not None:
        return nullcontext()
    return fused(network, ())


def unserved(parameter: Tensor) -> str | None:
    """Return the reason why no kernel serves maps like a parameter of the network, as a clause; None if one does."""
    name = {"cpu": "cpu", "cuda": "triton"}.get(parameter.device.type)
    if name is None:
        return f"its operator has no kernel for {parameter.device.type}"
    return refusal(name, "norm_relu_pool", parameter.new_empty(1, 1, 2, 2))


def fusible_sequences(network: nn.Module, matched: Collection[str]) -> dict[nn.Module, list[Step]]:
    """Find the sequences of a network that have such blocks.

    Args:
        network: the network.
        matched: as in :func:`fused`.

    Returns:
        what to call one after another in place of the modules of every sequence.
    """
    owners = {network.get_submodule(name.rpartition(".")[0]) for name in matched}
    found: dict[nn.Module, list[Step]] = {}
    for sequence in network.modules():
        # A subclass may run its modules in another order.
        if type(sequence) is nn.Sequential:
            modules = list(sequence)
            steps = _steps(modules, owners)
            if len(steps) < len(modules):
                found[sequence] = steps
    return found


def _steps(modules: list[nn.Module], owners: Collection[nn.Module]) -> list[Step]:
    steps: list[Step] = []
    i = 0
    while i < len(modules):
        norm = _norm_of_block(modules[i : i + 3])
        if norm is not None and norm not in owners:
            steps.append(partial(_run, norm))
            i += 3
        else:
            steps.append(modules[i])
            i += 1
    return steps


def _norm_of_block(modules: list[nn.Module]) -> nn.GroupNorm | None:
    """The first of three modules if the operator computes what they do."""
    if [type(module) for module in modules] != [nn.GroupNorm, nn.ReLU, nn.AvgPool2d]:
        return None
    norm, _, pooling = modules
    assert isinstance(norm, nn.GroupNorm)
    assert isinstance(pooling, nn.AvgPool2d)
    halves = all(size in (2, (2, 2)) for size in (pooling.kernel_size, pooling.stride)) and not pooling.ceil_mode
    plain = pooling.padding in (0, (0, 0)) and pooling.divisor_override is None
    by_channel = norm.affine and norm.num_groups == norm.num_channels
    # Hooks would not be called.
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    return norm if halves and plain and by_channel and not hooked else None


def _in_turn(steps: list[Step], maps: Tensor) -> Tensor:
    for step in steps:
        maps = step(maps)
    return maps


def _run(norm: nn.GroupNorm, maps: Tensor) -> Tensor:
    # Under autocast it computes in the precision of its parameters.
    return norm_relu_pool(maps.to(norm.weight.dtype), norm.weight, norm.bias, norm.eps)[0]
