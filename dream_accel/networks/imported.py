"""Networks of one's own, named by import path: ``package.module:factory``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import DreamAccelError
from .batchnorm import batch_norms
from .features import embedder_of
from .initialization import not_redrawn


def is_import_path(name: str) -> bool:
    """Return whether the name of a network is an import path."""
    return ":" in name


def make_imported(path: str, shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    """Import a factory, make its network and check that a run can use it.

    Args:
        path: ``package.module:factory``, installed or found from the current folder. The factory is called with
            ``(shape, n_classes)``.
        shape: (channels, height, width) of the images.
        n_classes: outputs.

    Returns:
        the network, on the CPU and in training mode.

    Raises:
        DreamAccelError: it cannot be imported or made, is no module, refuses such images, has another number of
            classes or no recognisable features, or draws numbers or keeps parameters that no seed names.
    """
    factory = _imported(path)
    try:
        network = factory(shape, n_classes)
    except Exception as error:
        raise DreamAccelError(
            f"network {path!r} fails when called with ({shape}, {n_classes}), the shape of the images and the number "
            f"of classes ({_told(error)}): correct the factory"
        ) from error
    if not isinstance(network, nn.Module):
        raise DreamAccelError(
            f"network {path!r} returns a {type(network).__name__}: the factory must return a torch.nn.Module"
        )
    _check_layers(path, network)
    _check_outputs(path, network.cpu(), shape, n_classes)
    return network.train()


def _imported(path: str) -> Callable[..., Any]:
    module, _, attribute = path.partition(":")
    here = os.getcwd()
    # A program finds what is beside itself; users expect what is beside them. What is installed comes first.
    sys.path.append(here)
    try:
        factory = reduce(getattr, attribute.split("."), importlib.import_module(module))
    except (Exception, SystemExit) as error:  # a script that ends the program when imported
        raise DreamAccelError(
            f"network {path!r} cannot be imported ({_told(error)}): give package.module:factory, installed or found "
            f"from {here}"
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(factory):
        raise DreamAccelError(
            f"network {path!r} is a {type(factory).__name__}: name a function or class that is called with the shape "
            "of the images and the number of classes"
        )
    return factory


def _check_layers(path: str, network: nn.Module) -> None:
    """Refuse layers that would make a run depend on more than its seed, or that matching cannot freeze."""
    kept = not_redrawn(network)
    if kept is not None:
        raise DreamAccelError(
            f"network {path!r} has a {kept[0]} with the parameter {kept[1]}, which no seed redraws: use convolutions, "
            "linear layers and norms of PyTorch"
        )
    frozen = set(batch_norms(network))
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module not in frozen:
            raise DreamAccelError(
                f"network {path!r} has a {type(module).__name__} without running statistics, which matching cannot "
                "freeze: leave track_running_stats on"
            )


@torch.enable_grad()
def _check_outputs(path: str, network: nn.Module, shape: tuple[int, int, int], n_classes: int) -> None:
    """Refuse a network by what it does with two images."""
    two = torch.zeros(2, *shape)
    size = "x".join(map(str, shape))
    try:
        before = torch.get_rng_state()
        network.train()(two)
        drawn = not torch.equal(torch.get_rng_state(), before)
        logits = network.eval()(two)
    except Exception as error:
        raise DreamAccelError(
            f"network {path!r} refuses images of {size} ({_told(error)}): make it for that size, or scale the images "
            "by size"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (2, n_classes):
        raise DreamAccelError(
            f"network {path!r} gives {_shown(logits)} for 2 images of {n_classes} classes: it must give (2, "
            f"{n_classes}) logits"
        )
    if drawn:
        raise DreamAccelError(
            f"network {path!r} draws random numbers in a forward pass, as dropout does, which no seed of a run names: "
            "set their probability to 0"
        )
    _check_gradients(path, network, logits)
    try:
        features = embedder_of(network)(two)
    except DreamAccelError:
        raise DreamAccelError(
            f"network {path!r} has no recognisable features: give it a method embed(images), or a last nn.Linear, "
            "whose input is taken"
        ) from None
    if not isinstance(features, Tensor) or features.dim() < 2 or len(features) != 2:
        raise DreamAccelError(f"network {path!r} gives features {_shown(features)} for 2 images: they must be (2, ...)")


def _check_gradients(path: str, network: nn.Module, logits: Tensor) -> None:
    """Refuse parameters that training and matching cannot differentiate by."""
    named = list(network.named_parameters())
    if not named:
        raise DreamAccelError(f"network {path!r} has no parameters: a run needs some to train")
    still = [name for name, parameter in named if not parameter.requires_grad]
    if not still:
        gradients = torch.autograd.grad(logits.sum(), [parameter for _, parameter in named], allow_unused=True)
        still = [name for (name, _), gradient in zip(named, gradients, strict=True) if gradient is None]
    if still:
        raise DreamAccelError(
            f"network {path!r} has the parameter {still[0]}, by which its logits have no gradient: let every parameter "
            "require gradients and take part in forward"
        )


def _told(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).split("\n")
    return f"{type(error).__name__}: {lines[0]}" if lines[0] else type(error).__name__


def _shown(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"
