"""Features of images by any network or callable, in chunks of bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..data import to_float
from ..errors import DreamAccelError
from ..runtime.heap import retained_heap

Embedder = Callable[[Tensor], Tensor]

ALL_FEATURES = 1 << 16
"""An ``idx_to`` past every layer, for which ``get_feature`` returns all feature maps, the last one last."""


def embedder_of(source: nn.Module | Embedder) -> Embedder:
    """The function from images (n, ...) to features (n, ...) of a network or callable.

    The features are those of the first of these that the network has: its ``embed(images)`` (DC, DM, DREAM); the last
    entry of its ``get_feature(images, idx_from, idx_to)`` (IDC, DANCE); the input of the last ``nn.Linear`` that runs
    in a forward pass, read by a hook. DataParallel, DistributedDataParallel and torch.compile are unwrapped first,
    since hooks do not work through them. A callable is returned unchanged.

    Args:
        source: a network, or a callable from images (n, ...) to features (n, ...).

    Raises:
        DreamAccelError: neither a network nor a callable, or a network with none of the three.
    """
    if not isinstance(source, nn.Module):
        if not callable(source):
            raise DreamAccelError(f"features come from a network or a callable, not from a {type(source).__name__}")
        return source
    network = unwrap(source)
    embed = getattr(network, "embed", None)
    if callable(embed):
        return embed
    get_feature = getattr(network, "get_feature", None)
    if callable(get_feature):
        return lambda images: get_feature(images, 0, ALL_FEATURES)[-1]
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise _no_features(network)
    return lambda images: _input_of_last(linears, network, images)


def unwrap(network: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel, torch.compile and other wrappers of a single module."""
    while True:
        if isinstance(getattr(network, "_orig_mod", None), nn.Module):
            network = network._orig_mod  # type: ignore[assignment]
        elif [name for name, _ in network.named_children()] == ["module"]:
            network = network.module  # type: ignore[assignment]
        else:
            return network


def _input_of_last(layers: list[nn.Linear], network: nn.Module, images: Tensor) -> Tensor:
    """The input of the layer that runs last, which the order of definition does not tell."""
    seen: list[Tensor] = []

    def remember(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[:] = args[:1]

    handles = [layer.register_forward_pre_hook(remember) for layer in layers]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise _no_features(network)
    return seen[0]


def _no_features(network: nn.Module) -> DreamAccelError:
    return DreamAccelError(
        f"{type(network).__name__} has no recognisable features (tried embed(images), get_feature(images, idx_from, "
        "idx_to) and the input of the last nn.Linear): pass a callable from images (n, ...) to features (n, ...) "
        "instead of the network"
    )


def images_at_a_time(device: torch.device) -> int:
    """Images of one forward pass without gradients.

    On a CPU 64: few enough for its caches, and for the allocator to reuse their memory. Elsewhere 512: enough to fill a
    GPU.
    """
    return 64 if device.type == "cpu" else 512


@torch.no_grad()
def embed_rows(
    images: Tensor,
    rows: Tensor,
    source: nn.Module | Embedder,
    normalize: Embedder | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Compute the features of chosen images, in evaluation mode and without gradients.

    Args:
        images: (N, ...) uint8, or floating point.
        rows: (n,) int64, indices into ``images``, at least one.
        source: a network or callable, as :func:`embedder_of` takes it.
        normalize: applied to floating-point images before the network; default: nothing.
        chunk_size: images in floating point at a time; default: :func:`images_at_a_time`.

    Returns:
        (n, D) features, of the dtype and on the device that the network gives.

    Raises:
        DreamAccelError: no rows, a source without features, or features that are not (n, ...).
    """
    if len(rows) == 0:
        raise DreamAccelError("no images to embed")
    embed = embedder_of(source)
    features: Tensor | None = None
    done = 0
    with _evaluation_mode(source), retained_heap():
        for some in rows.split(chunk_size or images_at_a_time(images.device)):
            out = _embed_chunk(images[some], embed, normalize)
            if features is None:
                features = torch.empty(len(rows), out.shape[1], dtype=out.dtype, device=out.device)
            features[done : done + len(out)] = out
            done += len(out)
    assert features is not None
    return features


def _embed_chunk(images: Tensor, embed: Embedder, normalize: Embedder | None) -> Tensor:
    """(n, D) features. A function of its own, so that one chunk of images is freed before the next is made."""
    chunk = to_float(images)
    out = embed(chunk if normalize is None else normalize(chunk))
    if not isinstance(out, Tensor) or out.dim() < 2 or len(out) != len(chunk):
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise DreamAccelError(f"features of {len(chunk)} images came as {found}: they must be (n, ...)")
    return out.flatten(1)


@contextmanager
def _evaluation_mode(source: object) -> Iterator[None]:
    """Keep features from moving running statistics and from depending on dropout."""
    training = [module for module in source.modules() if module.training] if isinstance(source, nn.Module) else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        # Module by module: layers the caller keeps in evaluation mode stay there.
        for module in training:
            module.training = True
