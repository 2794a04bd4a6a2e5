"""The choice among implementations of the class gradients: the fastest that runs, with the reasons of the others."""

import pytest
import torch
from support.fake_graphs import FakeGraphs
from support.refusals import refused
from test_engine import toy_recipe, toy_split

from dream_accel.clustering.lloyd import graphed_fit
from dream_accel.engine import assembly
from dream_accel.engine.assembly import assemble
from dream_accel.engine.loop import Run
from dream_accel.errors import DreamAccelError, DreamAccelWarning
from dream_accel.matching import choice
from dream_accel.matching.class_gradients import ANYWHERE
from dream_accel.runtime import graphs

NAMES = tuple(ANYWHERE)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


FAILURES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    # What a recording makes of it.
    caused(DreamAccelError("call cannot be recorded in a CUDA graph"), RuntimeError("operation not permitted")),
    DreamAccelError("the metric has no kernel"),
]


class Timed(dict):
    """The seconds every implementation takes, or the error it raises."""

    released = 0

    def seconds(self, step, device):
        found = self[step()]
        if isinstance(found, Exception):
            raise found
        return found

    def release(self):
        self.released += 1


class TestChoice:
    @pytest.fixture
    def timed(self, monkeypatch):
        timed = Timed()
        monkeypatch.setattr(choice, "_seconds", timed.seconds)
        monkeypatch.setattr(choice, "release_memory", timed.release, raising=False)
        return timed

    def test_on_a_cpu_it_is_the_loop_without_measuring(self):
        assert choice.choose_implementation(NAMES, torch.device("cpu"), lambda way: pytest.fail("measured")) == "loop"

    def test_on_a_cpu_a_cached_run_takes_fused_without_measuring(self):
        names = (*NAMES, "fused")
        taken = []

        def step_of(way):
            return lambda: taken.append(way)

        assert choice.choose_implementation(names, torch.device("cpu"), step_of, True) == "fused"
        assert taken == ["fused"]
        assert choice.choose_implementation(names, torch.device("cpu"), step_of, False) == "loop"
        assert choice.choose_implementation(NAMES, torch.device("cpu"), step_of, True) == "loop"
        assert taken == ["fused"]

    def test_on_a_cpu_a_network_that_fused_refuses_takes_the_loop(self):
        def step_of(way):
            def step():
                raise DreamAccelError("a Conv2d runs twice in a forward pass")

            return step

        assert choice.choose_implementation((*NAMES, "fused"), torch.device("cpu"), step_of, True) == "loop"

    def test_elsewhere_the_fastest(self, timed):
        timed.update(loop=0.3, vmap=0.4, capture=0.2)
        assert choice.choose_implementation(NAMES, torch.device("cuda"), lambda way: lambda: way) == "capture"

    @pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
    def test_one_that_fails_is_left_out_and_the_others_are_timed(self, timed, failure):
        timed.update(loop=failure, vmap=0.4, capture=0.2)
        with pytest.warns(DreamAccelWarning) as caught:
            assert choice.choose_implementation(NAMES, torch.device("cuda"), lambda way: lambda: way) == "capture"
        assert len(caught) == 1
        assert f"loop: {failure.__cause__ or failure}" in str(caught[0].message)
        assert timed.released == 1

    def test_where_a_step_fails_when_it_is_made_the_others_are_timed(self, timed):
        def step_of(way):
            if way == "vmap":
                raise FAILURES[0]
            return lambda: way

        timed.update(loop=0.3, capture=0.2)
        with pytest.warns(DreamAccelWarning, match="vmap: CUDA out of memory"):
            assert choice.choose_implementation(NAMES, torch.device("cuda"), step_of) == "capture"

    def test_where_none_is_left_every_reason_is_given(self, timed):
        timed.update(zip(NAMES, FAILURES, strict=False))
        message = refused(choice.choose_implementation, NAMES, torch.device("cuda"), lambda way: lambda: way)
        assert "loop: CUDA out of memory" in message
        assert "vmap: cuDNN error" in message
        assert "capture: operation not permitted" in message

    def test_where_no_step_can_be_recorded_they_are_timed_without_graphs(self, monkeypatch):
        # It is made once per process, and shall not record by the stand-in later on.
        graphed_fit()
        monkeypatch.setattr(graphs, "CudaGraphs", lambda: FakeGraphs(recordable=False))
        tried, able = [], []

        def choose(names, device, step_of, cached):
            able[:] = names
            for name in names:
                step = step_of(name)
                tried.append(name)
                for _ in range(3):
                    step()
            return "vmap"

        monkeypatch.setattr(assembly, "choose_implementation", choose)
        assert assemble(toy_recipe(), toy_split()).recipe.class_gradients == "vmap"
        assert tried == ["loop", *able]

    def test_it_is_saved_with_the_result_and_kept_when_continued(self, tmp_path):
        path = tmp_path / "checkpoint.safetensors"
        run = Run(toy_recipe(class_gradients="capture"), toy_split(), path)
        run.advance()
        run.save()
        continued = Run(toy_recipe(), toy_split(), path)
        assert continued.recipe.class_gradients == "capture"
        assert Run(toy_recipe(), toy_split()).recipe.class_gradients == "loop"
        message = refused(Run, toy_recipe(class_gradients="vmap"), toy_split(), path)
        assert "class_gradients 'capture', not 'vmap'" in message
