"""Recording by CUDA graphs, and the protocol of whatever records functions of tensors."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .devices import is_capturing


class Recording(NamedTuple):
    """A recorded function: how to replay it, and the outputs each replay overwrites."""

    replay: Callable[[], None]
    outputs: Any


class GraphBackend(Protocol):
    """Records and replays functions; the tests use one that needs no GPU."""

    def serves(self, device: torch.device) -> bool:
        """Return True if functions of tensors on ``device`` can be recorded at this moment."""
        ...

    def warm_up(self, call: Callable[[], Any], device: torch.device) -> Any:
        """Run the function once, so that a recording can follow."""
        ...

    def record(self, call: Callable[[], Any], device: torch.device, generators: Sequence[torch.Generator]) -> Recording:
        """Record the function without running it.

        Raises what the function raises, or what recording it does; streams and generators are as they were before.
        """
        ...


class CudaGraphs:
    """Recording by ``torch.cuda.CUDAGraph``, on one side stream per device: streams do not share cached memory."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def serves(self, device: torch.device) -> bool:
        """Return True for a CUDA device whose current stream is not being recorded already."""
        return device.type == "cuda" and not is_capturing(device)

    def warm_up(self, call: Callable[[], Any], device: torch.device) -> Any:
        """Run on the side stream that records too, since autograd and cuBLAS keep state for every stream."""
        with torch.cuda.device(device):
            current = torch.cuda.current_stream()
            side = self._side_stream(device)
            side.wait_stream(current)
            try:
                with torch.cuda.stream(side):
                    outputs = call()
            finally:
                current.wait_stream(side)
            for tensor in tensors_in(outputs):
                tensor.record_stream(current)
        return outputs

    def record(self, call: Callable[[], Any], device: torch.device, generators: Sequence[torch.Generator]) -> Recording:
        """Record into memory of the graph's own. Registered generators advance with every replay."""
        # Graphs and the memory of generators belong to the device that is current when they are made.
        with torch.cuda.device(device):
            current, side = torch.cuda.current_stream(), self._side_stream(device)
            graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
            for generator in generators:
                graph.register_generator_state(generator)
            # thread_local: other threads, such as those that load data, may call CUDA meanwhile.
            recording = torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local")
            failure: BaseException | None = None
            try:
                # Outside, so that what has piled up is collected after the capture has ended.
                with _uncollected(), recording:
                    try:
                        outputs = call()
                    except BaseException as error:
                        failure = error
                        raise
            except BaseException as error:
                # Ending a capture that failed raises another error, which would hide the first.
                failure = failure or error
                self._abandon(graph, pool, device)
            finally:
                # torch.cuda.graph leaves the side stream current where the capture does not end well.
                torch.cuda.set_stream(current)
            if failure is not None:
                for generator in (*generators, torch.cuda.default_generators[device.index]):
                    _release(generator, device)
        if failure is not None:
            try:
                raise failure
            finally:
                # Its traceback refers to this frame.
                del failure
        return Recording(graph.replay, outputs)

    def _abandon(self, graph: torch.cuda.CUDAGraph, pool: Any, device: torch.device) -> None:
        """Undo what a failed capture leaves behind: a stream that records, and a pool that is filled."""
        side = self._streams.pop(device)
        with suppress(RuntimeError):
            torch.cuda.set_stream(side)
            if torch.cuda.is_current_stream_capturing():
                graph.capture_end()
        # Refused where the capture ended well enough for PyTorch to have done it.
        with suppress(RuntimeError, AttributeError):
            _end_allocation(device.index, pool)
            torch._C._cuda_releasePool(device.index, pool)

    def _side_stream(self, device: torch.device) -> torch.cuda.Stream:
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        return self._streams[device]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Collect no garbage: CUDA refuses to destroy a graph, which may be among it, during a capture, and ends that."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _end_allocation(device: int, pool: Any) -> None:
    # PyTorch 2.6 has the older name.
    names = ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool")
    next(getattr(torch._C, name) for name in names if hasattr(torch._C, name))(device, pool)


def _release(generator: torch.Generator, device: torch.device) -> None:
    """Let a generator draw again.

    In some versions of PyTorch a capture that failed leaves its generators recording, and they refuse to draw ("Offset
    increment outside graph capture encountered unexpectedly"). A copy of the state does not have that flag; graphs that
    were recorded earlier keep the former state, so they have to go.
    """
    offset = generator.get_offset()
    try:
        _draw(generator, device)
    except RuntimeError as error:
        if "capture" not in str(error):
            return
        generator.graphsafe_set_state(generator.clone_state())
    generator.set_offset(offset)


def _draw(generator: torch.Generator, device: torch.device) -> None:
    torch.empty(1, device=device).uniform_(generator=generator)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of nested dictionaries, tuples and lists, in an order that depends on their names alone."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for name in sorted(value):
            yield from tensors_in(value[name])
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
