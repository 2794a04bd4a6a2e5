"""Features of images by any network or callable, in chunks of bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..data import to_float
from ..errors import DreamAccelError
from ..runtime.heap import retained_heap
from .fused_blocks import fused_where_faster

Embedder = Callable[[Tensor], Tensor]

ALL_FEATURES = 1 << 16
"""An ``idx_to`` past every layer, for which ``get_feature`` returns all feature maps, the last one last."""


_locks: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_locks_guard = threading.Lock()


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
    linears = _linear_layers(network)
    if not linears:
        raise _no_features(network)
    return lambda images: _last_linear(linears, network, images)[0]


def features_and_logits(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the features that the last linear layer of a network classifies, and its logits, in one forward pass.

    Args:
        network: a network with an ``nn.Linear``, as :func:`embedder_of` takes it.
        images: (n, ...) as the network takes them.

    Returns:
        features (n, D), the input of the ``nn.Linear`` that runs last, and logits (n, n_classes), both with autograd
        history.

    Raises:
        DreamAccelError: no ``nn.Linear`` runs in the forward pass.
    """
    network = unwrap(network)
    linears = _linear_layers(network)
    if not linears:
        raise DreamAccelError(
            f"{type(network).__name__} has no nn.Linear, whose input are the features and whose output the logits that "
            "are matched and calibrated: end the network with one, or choose another recipe"
        )
    return _last_linear(linears, network, images)


def unwrap(network: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel, torch.compile and other wrappers of a single module."""
    while True:
        if isinstance(getattr(network, "_orig_mod", None), nn.Module):
            network = network._orig_mod  # type: ignore[assignment]
        elif [name for name, _ in network.named_children()] == ["module"]:
            network = network.module  # type: ignore[assignment]
        else:
            return network


def _linear_layers(network: nn.Module) -> list[nn.Linear]:
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


def _last_linear(layers: list[nn.Linear], network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The input of the layer that runs last, which the order of definition does not tell, and the network's output."""
    seen: list[Tensor] = []
    thread = threading.get_ident()

    def remember(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        # Another thread may use the network meanwhile; its passes are not the one that is read.
        if threading.get_ident() == thread:
            seen[:] = args[:1]

    handles = [layer.register_forward_pre_hook(remember) for layer in layers]
    try:
        out = network(images)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise _no_features(network)
    return seen[0], out


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

    Threads may embed with one network, or with networks that share modules, at the same time: those modules are locked
    meanwhile, since evaluation mode is a state of the module. A thread that trains the network meanwhile is not held
    up, and would train it in evaluation mode.

    Args:
        images: (N, ...) uint8, or floating point. Where all parameters of a network have another floating-point dtype,
            images are converted to it.
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
    dtype = _parameter_dtype(source)
    with _locked(source), _evaluation_mode(source), _fused(source), retained_heap():
        for some in rows.split(chunk_size or images_at_a_time(images.device)):
            out = _embed_chunk(images[some], embed, normalize, dtype)
            if features is None:
                features = torch.empty(len(rows), out.shape[1], dtype=out.dtype, device=out.device)
            features[done : done + len(out)] = out
            done += len(out)
    assert features is not None
    return features


def _embed_chunk(
    images: Tensor, embed: Embedder, normalize: Embedder | None, dtype: torch.dtype | None = None
) -> Tensor:
    """(n, D) features. A function of its own, so that one chunk of images is freed before the next is made."""
    chunk = to_float(images)
    chunk = chunk if normalize is None else normalize(chunk)
    out = embed(chunk if dtype is None else chunk.to(dtype))
    if not isinstance(out, Tensor) or out.dim() < 2 or len(out) != len(chunk):
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise DreamAccelError(f"features of {len(chunk)} images came as {found}: they must be (n, ...)")
    return out.flatten(1)


def _fused(source: nn.Module | Embedder) -> AbstractContextManager[None]:
    network = _network_of(source)
    return nullcontext() if network is None else fused_where_faster(network)


def _network_of(source: object) -> nn.Module | None:
    """The module that is called, also by one of its bound methods; None for other callables."""
    source = source.__self__ if isinstance(source, MethodType) else source
    return source if isinstance(source, nn.Module) else None


def _parameter_dtype(source: object) -> torch.dtype | None:
    """The dtype of all floating-point parameters of a network; None where they differ or there are none.

    Autocast chooses dtypes by itself, so there it is None as well.
    """
    network = _network_of(source)
    if network is None or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return None
    dtypes = {p.dtype for p in network.parameters() if p.is_floating_point()}
    return dtypes.pop() if len(dtypes) == 1 else None


@contextmanager
def _locked(source: object) -> Iterator[None]:
    """Hold every module of a network, so that threads change modes in turn.

    Locks are taken in one order, whatever the network, so that networks with modules in common cannot block each other.
    """
    network = _network_of(source)
    modules = sorted(network.modules(), key=id) if network is not None else []
    with _locks_guard:
        locks = [_locks.setdefault(module, threading.RLock()) for module in modules]
    with ExitStack() as held:
        for lock in locks:
            held.enter_context(lock)
        yield


@contextmanager
def _evaluation_mode(source: object) -> Iterator[None]:
    """Keep features from moving running statistics and from depending on dropout."""
    network = _network_of(source)
    training = [module for module in network.modules() if module.training] if network is not None else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        # Module by module: layers the caller keeps in evaluation mode stay there.
        for module in training:
            module.training = True
