"""CUDA graphs: a function of tensors recorded once for every kind of input, and replayed with a single launch.

    step = GraphedFunction(update, in_place=("pixels",), generators=(draws,))
    loss = step(indices, pixels=pixels)     # first call of a kind: eager; second: recorded; then replayed

Every call runs the function exactly once, so it may change state: the first call of a kind is also the warm-up, which
compiles kernels and lets libraries allocate, and recording runs nothing by itself. On a CPU, or while an outer graph is
being recorded, the function is called eagerly.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import DreamAccelError, DreamAccelWarning, choices
from .devices import reason_of, release_memory
from .recording import CudaGraphs, GraphBackend, tensors_in

MAX_KINDS = 256
"""Kinds of input that a function remembers after their first call."""

ON_FAILURE = ("eager", "raise")
"""Consequences of a recording that failed: the function is called eagerly from then on, or an error is raised."""


class GraphedFunction:
    """A function that is recorded once per kind of input and replayed from then on.

    A kind is: shape, strides, dtype and device of every tensor, the value of every other argument, and the global
    settings that choose kernels (grad mode, autocast, float32 precision, determinism, ``DREAM_ACCEL_BACKEND``). Each
    has its own graph, input buffers and outputs; the least recently used one is dropped beyond ``max_graphs``.

    Inputs are copied into the graph's buffers, so the function must not write to them. Tensors named ``in_place`` are
    read and written at their own address instead: for state, and for inputs too large to copy. The address belongs to
    the kind, so a graph is replayed only for a tensor at the address of the recorded one; it keeps no tensor alive.
    State the function reaches in other ways, such as the parameters of a module, must stay at its address as well.

    The function must not wait for the device (``.item()``, ``nonzero``), nor draw from CUDA generators that are not
    listed (the default one always is), and must be called on one stream at a time. One that cannot be recorded is
    called eagerly from then on, which is announced once, by a :class:`DreamAccelWarning` with the reason.

    Args:
        function: called with positional and keyword arguments that are tensors, lists or tuples of tensors, or
            hashable; returns a tensor or a (nested) tuple, list or named tuple of tensors and constants.
        in_place: names of keyword arguments that are not copied.
        generators: CUDA generators the function draws from. They may be reseeded, but not replaced.
        copy_outputs: return copies. Otherwise the outputs **belong to the graph and the next call of the same kind
            overwrites them**: read or copy them before. Either way they carry no autograd history.
        max_graphs: graphs kept at most, at least 1.
        enabled: False always calls the function eagerly.
        on_failure: ``"eager"`` or ``"raise"``, where the function cannot be recorded.
        backend: records and replays; default: CUDA graphs. For tests.

    Attributes:
        enabled: whether calls are recorded; False after a recording that failed.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        in_place: Collection[str] = (),
        generators: Sequence[torch.Generator] = (),
        copy_outputs: bool = False,
        max_graphs: int = 8,
        enabled: bool = True,
        on_failure: str = "eager",
        backend: GraphBackend | None = None,
    ) -> None:
        if on_failure not in ON_FAILURE:
            raise choices("on_failure", on_failure, ON_FAILURE)
        if max_graphs < 1:
            raise DreamAccelError(
                f"max_graphs is {max_graphs}: at least 1 graph must be kept; enabled=False keeps none"
            )
        self.function = function
        self.in_place = frozenset(in_place)
        self.generators = tuple(generators)
        self.copy_outputs = copy_outputs
        self.max_graphs = max_graphs
        self.enabled = enabled
        self.on_failure = on_failure
        self.backend: GraphBackend = CudaGraphs() if backend is None else backend
        self._graphs: OrderedDict[Hashable, Graph] = OrderedDict()
        self._seen: OrderedDict[Hashable, None] = OrderedDict()
        functools.update_wrapper(self, function)

    def __len__(self) -> int:
        """Graphs recorded and kept."""
        return len(self._graphs)

    def clear(self) -> None:
        """Drop all graphs and their memory."""
        self._graphs.clear()
        self._seen.clear()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute ``function(*args, **kwargs)``, by replay where there is a recording.

        Raises:
            DreamAccelError: an argument is neither a tensor, a list of them nor hashable; or the function cannot be
                recorded, and ``on_failure`` is ``"raise"``.
        """
        device = next((tensor.device for tensor in tensors_in((args, kwargs))), None)
        if not self.enabled or device is None or not self.backend.serves(device):
            return self.function(*args, **kwargs)
        kind = self._kind(args, kwargs)
        graph = self._graphs.get(kind)
        if graph is None:
            if kind not in self._seen:
                outputs = self.backend.warm_up(lambda: self.function(*args, **kwargs), device)
                _remember(self._seen, kind, None, MAX_KINDS)
                return outputs
            graph = self._record(args, kwargs, device)
            if graph is None:
                return self.function(*args, **kwargs)
        _remember(self._graphs, kind, graph, self.max_graphs)
        outputs = graph(*args, **kwargs)
        return _map_tensors(torch.clone, outputs) if self.copy_outputs else outputs

    def _record(self, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device) -> Graph | None:
        """The recording; None where the function is called eagerly from here on."""
        try:
            return Graph(self.function, args, kwargs, device, self.in_place, self.generators, self.backend)
        except (RuntimeError, DreamAccelError) as error:
            refusal = self._refusal(error)
            if self.on_failure == "raise":
                raise DreamAccelError(f"{refusal}; turn graphs off to call it as it is") from error
        # Outside the handler, because the traceback keeps the tensors of the recording alive.
        self.enabled = False
        self.clear()
        release_memory()
        warnings.warn(f"{refusal}; it is called as it is instead, which takes longer", DreamAccelWarning, stacklevel=3)
        return None

    def _refusal(self, error: BaseException) -> str:
        name = getattr(self.function, "__qualname__", repr(self.function)).rpartition("<locals>.")[2]
        why = "it may wait for the device or use another stream"
        if isinstance(error, torch.OutOfMemoryError):
            why = "its graph needs memory of its own"
        return f"{name} cannot be recorded in a CUDA graph ({reason_of(error)}): {why}"

    def _kind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        return _signature(args, kwargs, self.in_place), _settings()


class Graph:
    """One recorded call: its input buffers, its outputs and its replay. Arguments as of :class:`GraphedFunction`."""

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        device: torch.device,
        in_place: Collection[str] = (),
        generators: Sequence[torch.Generator] = (),
        backend: GraphBackend | None = None,
    ) -> None:
        self.in_place = frozenset(in_place)
        self.signature = _signature(args, kwargs, self.in_place)
        copied = {name: value for name, value in kwargs.items() if name not in self.in_place}
        static_args, static_kwargs = _map_tensors(_buffer_like, (args, copied))
        # Only the buffers are kept; tensors used in place stay the caller's.
        self._buffers = list(tensors_in((static_args, static_kwargs)))
        call = functools.partial(function, *static_args, **{**kwargs, **static_kwargs})
        self._replay, outputs = (backend or CudaGraphs()).record(call, device, generators)
        self.outputs = _map_tensors(Tensor.detach, outputs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Copy the inputs, replay, and return the outputs, which the next call overwrites.

        Raises:
            DreamAccelError: other shapes, dtypes, devices, addresses or constants than those recorded.
        """
        signature = _signature(args, kwargs, self.in_place)
        if signature != self.signature:
            raise DreamAccelError(
                f"the graph was recorded for {self.signature} and is called with {signature}: record another one"
            )
        copied = {name: value for name, value in kwargs.items() if name not in self.in_place}
        with torch.no_grad():
            for buffer, tensor in zip(self._buffers, tensors_in((args, copied)), strict=True):
                buffer.copy_(tensor, non_blocking=True)
        self._replay()
        return self.outputs


def _signature(args: tuple[Any, ...], kwargs: dict[str, Any], in_place: Collection[str]) -> Hashable:
    named = tuple((name, _describe(kwargs[name], name in in_place)) for name in sorted(kwargs))
    return _describe(args, False), named


def _describe(value: Any, by_address: bool) -> Hashable:
    if isinstance(value, Tensor):
        address = value.data_ptr() if by_address else None
        return tuple(value.shape), value.stride(), str(value.dtype), str(value.device), value.requires_grad, address
    if isinstance(value, (tuple, list)):
        return type(value).__name__, *(_describe(item, by_address) for item in value)
    try:
        hash(value)
    except TypeError:
        raise DreamAccelError(
            f"an argument is a {type(value).__name__}: a recorded function takes tensors, lists or tuples of them, and "
            "hashable constants"
        ) from None
    return type(value).__name__, value


def _settings() -> Hashable:
    """Global settings that choose kernels, as the arguments do."""
    return (
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda"),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        os.environ.get("DREAM_ACCEL_BACKEND"),
    )


def _buffer_like(tensor: Tensor) -> Tensor:
    """A copy with the values, so that code that reads them while recording sees sensible ones."""
    return tensor.detach().clone()


def _remember(kept: OrderedDict[Hashable, Any], key: Hashable, value: Any, at_most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > at_most:
        kept.popitem(last=False)


def _map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {name: _map_tensors(function, item) for name, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map_tensors(function, item) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_map_tensors(function, item) for item in value)
    return value
