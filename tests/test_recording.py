"""CUDA graphs whose recording fails: the first error is told, streams, pools and generators are as before, and the
function is called without a graph. A stand-in for ``torch.cuda`` shows it without a GPU."""

import contextlib
import gc
import warnings
import weakref

import pytest
import torch
from support.fake_cuda import FakeCuda, FakeGenerator
from support.fake_graphs import FakeGraphs
from support.refusals import refused

from dream_accel.backends import cuda
from dream_accel.errors import DreamAccelError, DreamAccelWarning
from dream_accel.runtime.graphs import GraphedFunction
from dream_accel.runtime.recording import CudaGraphs

OTHER = torch.device("cuda", 1)
"""Not the current device."""
FAILURES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    RuntimeError("CUDA error: operation not permitted when stream is capturing"),
    DreamAccelError("the CUDA kernels are loaded when first used"),
]
by_name = pytest.mark.parametrize("failure", FAILURES, ids=["memory", "cudnn", "host wait", "ours"])


def failing(failure):
    def call():
        raise failure

    return call


def fails_while_recorded(failure, calls):
    """A step, which is on the side stream while it is recorded."""

    def step(x):
        if torch.cuda.current_stream(OTHER).name == "side":
            raise failure
        calls.append(torch.cuda.current_stream(OTHER).name)
        return x + 1

    return step


@pytest.fixture
def fake(monkeypatch):
    return FakeCuda(monkeypatch)


class TestCudaGraphs:
    @pytest.mark.parametrize("fails", [False, True])
    def test_no_garbage_is_collected_during_a_capture(self, fake, fails):
        # CUDA ends a capture during which another graph is destroyed.
        seen = []

        def step():
            seen.append(gc.isenabled())
            if fails:
                raise FAILURES[0]

        with pytest.raises(torch.OutOfMemoryError) if fails else contextlib.nullcontext():
            CudaGraphs().record(step, OTHER, [])
        assert seen == [False]
        assert fake.collecting == [False, False]
        assert gc.isenabled()

    def test_graph_and_generators_are_of_the_device_of_the_tensors(self, fake):
        outputs = CudaGraphs().record(lambda: torch.cuda.current_stream().name, OTHER, [FakeGenerator()] * 2).outputs
        assert outputs == "side"
        assert fake.log == ["graph on 1", "register on 1", "register on 1"]
        assert (fake.current_device, fake.streams[1].name) == (0, "default")

    def test_capture_on_the_stream_of_the_tensors_is_seen_from_another_device(self, fake):
        assert CudaGraphs().serves(OTHER)
        fake.streams[1].capturing = True
        assert not CudaGraphs().serves(OTHER)
        assert CudaGraphs().serves(torch.device("cuda", 0))
        assert not CudaGraphs().serves(torch.device("cpu"))

    def test_the_kernels_ask_the_stream_of_the_tensors_too(self, fake):
        class OnOther:
            device = OTHER

        assert not cuda.is_capturing(OnOther)
        fake.streams[1].capturing = True
        assert cuda.is_capturing(OnOther)

    @by_name
    @pytest.mark.parametrize("end_fails", [False, True], ids=["capture ends", "end fails too"])
    def test_after_a_failure_the_stream_is_the_callers_and_the_first_error_is_told(self, fake, failure, end_fails):
        fake.end_fails = end_fails
        graphs, before = CudaGraphs(), fake.streams[1]
        with pytest.raises(type(failure)) as caught:
            graphs.record(failing(failure), OTHER, [])
        assert caught.value is failure
        assert fake.streams[1] is before
        assert fake.current_device == 0

    def test_an_interruption_is_not_taken_for_a_capture_that_fails(self, fake):
        fake.end_fails = True
        graphed = GraphedFunction(fails_while_recorded(KeyboardInterrupt(), []), backend=OnTheCpu())
        graphed(torch.ones(1))
        with pytest.raises(KeyboardInterrupt):
            graphed(torch.ones(1))

    def test_a_function_that_leaves_its_stream_does_not_leave_the_side_stream_recording(self, fake):
        side = []

        def wander():
            side.append(torch.cuda.current_stream())
            torch.cuda.set_stream(fake._stream(1, "another"))

        with pytest.raises(RuntimeError, match="same stream"):
            CudaGraphs().record(wander, OTHER, [])
        assert not side[0].capturing
        assert fake.streams[1].name == "default"

    def test_memory_of_a_failed_capture_goes_back_and_its_generators_draw(self, fake):
        fake.end_fails = True
        stuck, free = FakeGenerator(stuck=True), FakeGenerator()
        with pytest.raises(RuntimeError, match="cuDNN"):
            CudaGraphs().record(failing(FAILURES[1]), OTHER, [stuck, free])
        assert fake.log[-5:-3] == ["_cuda_endAllocateToPool 1 (0, 7)", "_cuda_releasePool 1 (0, 7)"]
        # The two that were registered and the default one, where the caller draws next.
        assert fake.log[-3:] == ["draw on default"] * 3
        assert stuck.get_offset() == free.get_offset() == 8
        stuck.draw()

    def test_failed_warm_up_leaves_the_callers_stream_waiting_for_the_side_stream(self, fake):
        with pytest.raises(RuntimeError, match="cuDNN"):
            CudaGraphs().warm_up(failing(FAILURES[1]), OTHER)
        assert fake.log == ["side waits", "default waits"]
        assert fake.streams[1].name == "default"


class OnTheCpu(CudaGraphs):
    """Records CPU tensors as if they were on the other device."""

    def serves(self, device):
        return True

    def warm_up(self, call, device):
        return call()

    def record(self, call, device, generators):
        return super().record(call, OTHER, generators)


class TestFallback:
    @by_name
    def test_what_cannot_be_recorded_is_called_without_a_graph_and_said_once(self, fake, failure):
        fake.end_fails = True
        calls = []
        graphed = GraphedFunction(fails_while_recorded(failure, calls), backend=OnTheCpu())
        graphed(torch.ones(1))
        with pytest.warns(DreamAccelWarning) as caught:
            assert graphed(torch.ones(1) * 2).item() == 3
        message = str(caught[0].message)
        assert len(caught) == 1
        assert str(failure).rstrip(".") in message
        assert "step cannot be recorded" in message
        assert "takes longer" in message
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert graphed(torch.ones(1) * 3).item() == 4
        assert calls == ["default"] * 3

    def test_memory_of_a_failed_recording_is_given_back(self, fake):
        kept = []

        def step(x):
            made = x + 1
            kept.append(weakref.ref(made))
            if torch.cuda.current_stream(OTHER).name == "side":
                raise FAILURES[0]
            return made

        graphed = GraphedFunction(step, backend=OnTheCpu())
        graphed(torch.ones(1))
        with pytest.warns(DreamAccelWarning, match="needs memory of its own"):
            graphed(torch.ones(1))
        assert fake.emptied == 1
        FAILURES[0].__traceback__ = None
        gc.collect()
        assert all(reference() is None for reference in kept)

    def test_where_it_is_asked_for_the_failure_is_an_error(self, fake):
        fake.end_fails = True
        graphed = GraphedFunction(fails_while_recorded(FAILURES[1], []), on_failure="raise", backend=OnTheCpu())
        graphed(torch.ones(1))
        with pytest.raises(DreamAccelError, match="CUDNN_STATUS_NOT_SUPPORTED") as caught:
            graphed(torch.ones(1))
        assert caught.value.__cause__ is FAILURES[1]
        assert fake.streams[1].name == "default"

    def test_a_failed_warm_up_is_not_followed_by_a_recording(self, monkeypatch):
        backend, failures = FakeGraphs(), [RuntimeError("first")]

        def step(x):
            if failures:
                raise failures.pop()
            return x

        graphed = GraphedFunction(step, backend=backend)
        with pytest.raises(RuntimeError, match="first"):
            graphed(torch.ones(1))
        graphed(torch.ones(1))
        assert backend.log == ["warm-up", "warm-up"]

    def test_unknown_policy_is_refused(self):
        assert "on_failure 'ignore'" in refused(GraphedFunction, failing(None), on_failure="ignore")
