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
from torch.nn.modules.dropout import _DropoutNd

from ..errors import DreamAccelError
from .batchnorm import batch_norms
from .features import embedder_of
from .initialization import not_redrawn


def is_import_path(name: str) -> bool:
    """Whether the name of a network is an import path."""
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
    _check_outputs(path, network.cpu().eval(), shape, n_classes)
    return network.train()


def _imported(path: str) -> Callable[..., Any]:
    module, _, attribute = path.partition(":")
    here = os.getcwd()
    # A program finds what is beside itself; users expect what is beside them. What is installed comes first.
    sys.path.append(here)
    try:
        factory = reduce(getattr, attribute.split("."), importlib.import_module(module))
    except Exception as error:
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
        if isinstance(module, _DropoutNd) and module.p > 0:
            raise DreamAccelError(
                f"network {path!r} has a {type(module).__name__}, whose draws no seed of a run names: set its p to 0"
            )
        if isinstance(module, _BatchNorm) and module not in frozen:
            raise DreamAccelError(
                f"network {path!r} has a {type(module).__name__} without running statistics, which matching cannot "
                "freeze: leave track_running_stats on"
            )


@torch.no_grad()
def _check_outputs(path: str, network: nn.Module, shape: tuple[int, int, int], n_classes: int) -> None:
    two = torch.zeros(2, *shape)
    size = "x".join(map(str, shape))
    try:
        logits = network(two)
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
    try:
        features = embedder_of(network)(two)
    except DreamAccelError:
        raise DreamAccelError(
            f"network {path!r} has no recognisable features: give it a method embed(images), or a last nn.Linear, "
            "whose input is taken"
        ) from None
    if not isinstance(features, Tensor) or features.dim() < 2 or len(features) != 2:
        raise DreamAccelError(f"network {path!r} gives features {_shown(features)} for 2 images: they must be (2, ...)")


def _told(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).split("\n")
    return f"{type(error).__name__}: {lines[0]}" if lines[0] else type(error).__name__


def _shown(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"
