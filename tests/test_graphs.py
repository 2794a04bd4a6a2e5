"""CUDA graphs: when a call is recorded, what is copied, what is kept. A fake backend stands in for the GPU."""

import weakref
from typing import NamedTuple

import pytest
import torch
from support.fake_graphs import FakeGraphs
from support.refusals import refused
from torch import Tensor

from dream_accel.errors import DreamAccelWarning
from dream_accel.random import generator
from dream_accel.runtime.graphs import Graph, GraphedFunction
from dream_accel.runtime.recording import Recording


@pytest.fixture
def fake():
    return FakeGraphs()


class Pair(NamedTuple):
    total: Tensor
    product: Tensor


def total_and_product(a, b, factor=1.0):
    return Pair((a + b) * factor, a * b)


def rows(*values):
    return torch.tensor(values, dtype=torch.float32)


class TestRecording:
    def test_second_call_of_a_kind_is_recorded_and_later_ones_are_replayed(self, fake):
        graphed = GraphedFunction(total_and_product, backend=fake)
        for i in range(4):
            result = graphed(rows(1, 2), rows(i, 3), factor=2.0)
            assert result.total.tolist() == [2.0 * (1 + i), 10]
            assert result.product.tolist() == [i, 6]
        assert fake.log == ["warm-up", "record", "replay", "replay", "replay"]
        assert len(graphed) == 1

    @pytest.mark.parametrize(
        "other",
        [
            lambda f: f(rows(1, 2, 3), rows(1, 2, 3)),
            lambda f: f(rows(1, 2).double(), rows(1, 2).double()),
            lambda f: f(rows(1, 2), rows(1, 2), factor=3.0),
            lambda f: f(rows(1, 2), rows(1, 2), 1),
            lambda f: f(torch.zeros(2, 2).T, torch.zeros(2, 2)),
        ],
        ids=["shape", "dtype", "constant", "position", "strides"],
    )
    def test_another_kind_has_a_graph_of_its_own(self, fake, other):
        graphed = GraphedFunction(total_and_product, backend=fake)
        for call in (lambda f: f(rows(1, 2), rows(1, 2)), other) * 2:
            call(graphed)
        assert len(graphed) == 2

    def test_settings_that_choose_kernels_belong_to_the_kind(self, fake, monkeypatch):
        graphed = GraphedFunction(total_and_product, backend=fake)
        for _ in range(2):
            graphed(rows(1), rows(2))
        with torch.no_grad():
            graphed(rows(1), rows(2))
        monkeypatch.setenv("DREAM_ACCEL_BACKEND", "reference")
        graphed(rows(1), rows(2))
        assert fake.log == ["warm-up", "record", "replay", "warm-up", "warm-up"]

    def test_every_call_runs_a_function_with_state_once(self):
        state = torch.zeros(1)

        def step(amount, *, state):
            state += amount
            return state * 1

        graphed = GraphedFunction(step, in_place=("state",), backend=FakeGraphs(state=state))
        assert [graphed(rows(amount), state=state).item() for amount in (1, 10, 100)] == [1, 11, 111]
        assert state.item() == 111

    def test_least_recently_used_graph_is_dropped(self, fake):
        graphed = GraphedFunction(total_and_product, max_graphs=2, backend=fake)

        def call(n):
            return graphed(torch.ones(n), torch.ones(n))

        for n in (1, 1, 2, 2, 1, 3, 3):
            call(n)
        assert len(graphed) == 2
        fake.log.clear()
        call(1)
        call(3)
        assert fake.log == ["replay", "replay"]
        call(2)
        assert fake.log[2:] == ["record", "replay"]
        graphed.clear()
        assert len(graphed) == 0

    def test_kinds_seen_once_do_not_push_out_graphs(self, fake):
        graphed = GraphedFunction(total_and_product, max_graphs=1, backend=fake)
        for n in (1, 1, 2, 3, 4, 5):
            graphed(torch.ones(n), torch.ones(n))
        fake.log.clear()
        graphed(torch.ones(1), torch.ones(1))
        assert fake.log == ["replay"]

    def test_generators_are_registered(self, fake):
        draws = generator(0)
        graphed = GraphedFunction(total_and_product, generators=(draws,), backend=fake)
        for _ in range(2):
            graphed(rows(1), rows(2))
        assert fake.generators == [draws]

    @pytest.mark.parametrize("options", [{"enabled": False}, {}], ids=["switched off", "on the CPU"])
    def test_functions_that_are_not_recorded_are_called(self, fake, options):
        backend = {"backend": fake} if options else {}
        graphed = GraphedFunction(total_and_product, **options, **backend)
        for i in range(3):
            assert graphed(rows(1), rows(i)).total.item() == 1 + i
        assert fake.log == []
        assert len(graphed) == 0


class TestInputsAndOutputs:
    def test_outputs_are_overwritten_by_the_next_call_of_the_kind_unless_copied(self, fake):
        for copy_outputs in (False, True):
            graphed = GraphedFunction(total_and_product, copy_outputs=copy_outputs, backend=fake)
            graphed(rows(1), rows(1))
            second, third = (graphed(rows(1), rows(i)).total for i in (2, 3))
            assert second.item() == (3 if copy_outputs else 4)
            assert third.item() == 4

    def test_inputs_are_copied_so_callers_may_reuse_theirs(self, fake):
        graphed = GraphedFunction(lambda x: x, copy_outputs=True, backend=fake)
        x = rows(1, 2)
        for _ in range(2):
            graphed(x)
        result = graphed(x)
        x.zero_()
        assert result.tolist() == [1, 2]

    def test_nested_inputs_and_outputs(self, fake):
        graphed = GraphedFunction(lambda pairs, name: [(a, b + len(name)) for a, b in pairs], backend=fake)
        for i in range(3):
            result = graphed([(rows(i), rows(1)), (rows(2), rows(i))], name="ab")
            assert [[t.item() for t in pair] for pair in result] == [[i, 3], [2, i + 2]]

    def test_nested_inputs_are_copied_into_buffers_of_the_recording(self, fake):
        """As the targets of a cached step, which are new tensors in every call."""
        graphed = GraphedFunction(lambda target, draws: target[0][0] + 10 * target[1][0] + 100 * draws, backend=fake)
        for _ in range(2):
            graphed([[rows(0)], [rows(0)]], rows(0))
        target = [[rows(1)], [rows(2)]]
        result = graphed(target, rows(3))
        assert result.item() == 321
        target[0][0].zero_()
        (graph,) = graphed._graphs.values()
        assert [buffer.item() for buffer in graph._buffers] == [1, 2, 3]
        assert graphed([[rows(4)], [rows(5)]], rows(6)).item() == 654
        assert fake.log == ["warm-up", "record", "replay", "replay", "replay"]

    def test_outputs_carry_no_autograd_history(self, fake):
        graphed = GraphedFunction(lambda x, *, w: x * w, in_place=("w",), backend=fake)
        weight = rows(3).requires_grad_()
        for _ in range(2):
            result = graphed(rows(2), w=weight)
        assert not result.requires_grad
        assert result.item() == 6

    def test_tensor_in_place_at_another_address_is_another_kind(self, fake):
        graphed = GraphedFunction(lambda *, x: x + 1, in_place=("x",), backend=fake)
        one, other = rows(1), rows(5)
        for _ in range(2):
            graphed(x=one)
        assert graphed(x=other).item() == 6
        one.fill_(7)
        assert graphed(x=one).item() == 8
        assert fake.log == ["warm-up", "record", "replay", "warm-up", "replay"]

    def test_graph_keeps_no_tensor_in_place_alive(self):
        class Forgetful(FakeGraphs):
            def record(self, call, device, generators):
                return Recording(lambda: None, rows(0))

        graphed = GraphedFunction(lambda *, x: x + 1, in_place=("x",), backend=Forgetful())
        x = rows(1)
        for _ in range(2):
            graphed(x=x)
        watch = weakref.ref(x)
        del x
        assert watch() is None


class TestRefusals:
    def test_graph_of_other_shapes(self, fake):
        graph = Graph(total_and_product, (rows(1), rows(2)), {}, torch.device("cpu"), backend=fake)
        assert graph(rows(3), rows(4)).total.item() == 7
        message = refused(graph, rows(3, 4), rows(4, 5))
        assert "(1,)" in message
        assert "(2,)" in message
        assert "record another" in message

    def test_function_that_cannot_be_recorded(self):
        graphed = GraphedFunction(total_and_product, on_failure="raise", backend=FakeGraphs(recordable=False))
        graphed(rows(1), rows(2))
        message = refused(graphed, rows(1), rows(2))
        assert "total_and_product" in message
        assert "not permitted" in message
        assert "turn graphs off" in message

    def test_argument_that_makes_no_kind(self, fake):
        assert "dict" in refused(GraphedFunction(total_and_product, backend=fake), rows(1), rows(2), {})

    def test_bound_below_one(self):
        assert "max_graphs is 0" in refused(GraphedFunction, total_and_product, max_graphs=0)


@pytest.mark.gpu
class TestOnTheDevice:
    def test_replays_follow_their_inputs_without_a_sync(self):
        graphed = GraphedFunction(total_and_product)
        inputs = [torch.randn(3, 100, device="cuda") for _ in range(2)]
        for _ in range(2):
            graphed(*inputs)
        torch.cuda.set_sync_debug_mode("error")
        try:
            result = graphed(inputs[0] + 1, inputs[1])
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.testing.assert_close(result.total, inputs[0] + 1 + inputs[1])
        assert len(graphed) == 1

    def test_registered_generator_draws_as_without_a_graph(self):
        def draw(x, draws):
            return x + torch.rand(x.shape, device=x.device, generator=draws)

        x = torch.zeros(1000, device="cuda")
        seeded = [generator(3, device="cuda") for _ in range(2)]
        graphed = GraphedFunction(draw, generators=seeded[:1], copy_outputs=True)
        for _ in range(4):
            assert torch.equal(graphed(x, seeded[0]), draw(x, seeded[1]))

    def test_function_that_asks_the_host_is_refused(self):
        graphed = GraphedFunction(lambda x: x * x.sum().item(), on_failure="raise")
        x = torch.ones(4, device="cuda")
        graphed(x)
        assert "cannot be recorded" in refused(graphed, x)

    def test_after_a_failed_recording_streams_generators_and_other_graphs_work(self):
        draws = generator(3, device="cuda")

        def draw_and_ask(x):
            return torch.rand(x.shape, device=x.device, generator=draws) * x.sum().item()

        asking = GraphedFunction(draw_and_ask, generators=[draws])
        x, stream = torch.ones(4, device="cuda"), torch.cuda.current_stream()
        asking(x)
        with pytest.warns(DreamAccelWarning, match="draw_and_ask cannot be recorded"):
            second = asking(x)
        assert torch.cuda.current_stream() == stream
        draws = generator(3, device="cuda")
        draw_and_ask(x)
        assert torch.equal(second, draw_and_ask(x))
        torch.rand(4, device="cuda")
        graphed = GraphedFunction(total_and_product)
        for _ in range(3):
            assert graphed(x, x).total.tolist() == [2.0] * 4
        assert len(graphed) == 1
