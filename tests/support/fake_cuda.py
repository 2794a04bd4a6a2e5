"""As much of ``torch.cuda`` as recording needs, without a GPU: which device and stream are current, and what is called.

``torch.cuda.graph`` does here what PyTorch's does: where ending the capture raises, the side stream stays current.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from types import SimpleNamespace

import torch

from dream_accel.runtime import recording


class FakeGenerator:
    """A generator that refuses to draw after a capture that failed, as in some versions of PyTorch."""

    def __init__(self, stuck: bool = False) -> None:
        self.stuck, self.offset = stuck, 8

    def get_offset(self):
        return self.offset

    def set_offset(self, offset):
        self.offset = offset

    def clone_state(self):
        return FakeGenerator()

    def graphsafe_set_state(self, state):
        self.stuck = state.stuck

    def draw(self):
        if self.stuck:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        self.offset += 4


class FakeCuda:
    """Two devices, each with its current stream.

    Args:
        monkeypatch: puts it in the place of ``torch.cuda``, and takes it away.
        end_fails: ending a capture raises, as it does after a call that cannot be captured.
    """

    def __init__(self, monkeypatch, end_fails: bool = False) -> None:
        self.end_fails = end_fails
        self.log: list[str] = []
        self.collecting: list[bool] = []
        """Whether garbage was collected when a capture began, and when it ended."""
        self.current_device = 0
        self.streams = {index: self._stream(index, "default") for index in (0, 1)}
        self.default_generators = {index: FakeGenerator() for index in (0, 1)}
        self.emptied = 0
        for name in ("device", "current_stream", "stream", "set_stream", "graph", "graph_pool_handle"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: self._stream(device.index, "side"))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", self._graph)
        monkeypatch.setattr(torch.cuda, "default_generators", self.default_generators)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", self.is_current_stream_capturing)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "empty_cache", self._empty_cache)
        for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
            monkeypatch.setattr(torch._C, name, self._logged(name), raising=False)
        monkeypatch.setattr(recording, "_draw", self._draw)

    @contextmanager
    def device(self, device):
        before, self.current_device = self.current_device, torch.device(device).index
        try:
            yield
        finally:
            self.current_device = before

    def current_stream(self, device=None):
        return self.streams[self.current_device if device is None else torch.device(device).index]

    def set_stream(self, stream):
        self.streams[stream.index] = stream
        self.current_device = stream.index

    @contextmanager
    def stream(self, stream):
        before = self.current_stream()
        self.set_stream(stream)
        try:
            yield
        finally:
            self.set_stream(before)

    def is_current_stream_capturing(self):
        return self.current_stream().capturing

    def graph_pool_handle(self):
        return (0, 7)

    @contextmanager
    def graph(self, graph, pool=None, stream=None, capture_error_mode="global"):
        before = self.current_stream()
        self.set_stream(stream)
        graph.capture_begin()
        try:
            yield
        finally:
            graph.capture_end()
            self.set_stream(before)

    def _graph(self):
        made_on = self.current_device

        def capture_end():
            self.collecting.append(gc.isenabled())
            if self.current_stream().name != "side":
                raise RuntimeError("Capture must end on the same stream it began on.")
            self.current_stream().capturing = False
            if self.end_fails:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

        def capture_begin():
            self.collecting.append(gc.isenabled())
            self.current_stream().capturing = True

        def register(generator):
            self.log.append(f"register on {self.current_device}")

        self.log.append(f"graph on {made_on}")
        return SimpleNamespace(
            capture_begin=capture_begin,
            capture_end=capture_end,
            register_generator_state=register,
            replay=lambda: self.log.append("replay"),
        )

    def _stream(self, index, name):
        return SimpleNamespace(
            index=index, name=name, capturing=False, wait_stream=lambda other: self.log.append(f"{name} waits")
        )

    def _logged(self, name):
        return lambda device, pool: self.log.append(f"{name} {device} {pool}")

    def _draw(self, generator, device):
        self.log.append(f"draw on {self.current_stream().name}")
        generator.draw()

    def _empty_cache(self):
        self.emptied += 1
