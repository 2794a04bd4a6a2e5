"""Embedding images with whatever network the caller has, in chunks of bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .errors import DreamAccelError

Embedder = Callable[[Tensor], Tensor]


def embedder_of(source: nn.Module | Embedder) -> Embedder:
    """The function from images (n, ...) to features (n, ...) of a network or callable.

    A network is asked for its ``embed`` method, else the input of its last ``nn.Linear`` is read off a forward pass;
    both also behind ``.module``, where DataParallel puts them. Anything else is called as it is.

    Raises:
        DreamAccelError: neither is there.
    """
    if not isinstance(source, nn.Module):
        if not callable(source):
            raise DreamAccelError(f"features come from a network or a callable, not from a {type(source).__name__}")
        return source
    network = getattr(source, "module", source)
    embed = getattr(network, "embed", None)
    if callable(embed):
        return embed
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise DreamAccelError(
            f"{type(network).__name__} has neither an embed method nor an nn.Linear whose input could serve as "
            "features: pass a callable from images to features"
        )
    return lambda images: _input_of(linears[-1], network, images)


def _input_of(layer: nn.Module, network: nn.Module, images: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        network(images)
    finally:
        handle.remove()
    return seen[-1]


def to_float(images: Tensor) -> Tensor:
    """uint8 pixels as float32 in [0, 1]; float images as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


@torch.no_grad()
def embed_rows(
    images: Tensor,
    rows: Tensor,
    source: nn.Module | Embedder,
    normalize: Embedder | None = None,
    chunk_size: int = 1024,
) -> Tensor:
    """(len(rows), D) features of the chosen images; ``chunk_size`` images are in floating point at a time."""
    embed = embedder_of(source)
    features = None
    with _evaluation_mode(source):
        for start in range(0, len(rows), chunk_size):
            chunk = to_float(images[rows[start : start + chunk_size]])
            out = embed(chunk if normalize is None else normalize(chunk)).flatten(1)
            if features is None:
                features = torch.empty(len(rows), out.shape[1], dtype=out.dtype, device=out.device)
            features[start : start + len(out)] = out
    if features is None:
        raise DreamAccelError("no images to embed")
    return features


@contextmanager
def _evaluation_mode(source: object) -> Iterator[None]:
    """Features must not move running statistics or depend on dropout."""
    training = [module for module in source.modules() if module.training] if isinstance(source, nn.Module) else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        # Module by module: layers the caller keeps in evaluation mode stay there.
        for module in training:
            module.training = True
