"""Devices that do not work: one sentence, and a slower way where there is one; settings of a run end with it.

Stand-ins for ``torch.cuda`` show it without a GPU.
"""

import warnings

import pytest
import torch
from support.fake_cuda import FakeCuda
from support.refusals import refused
from test_engine import toy_recipe, toy_split

from dream_accel.engine import splits
from dream_accel.engine.assembly import assemble
from dream_accel.engine.distiller import Distiller
from dream_accel.engine.loop import Run
from dream_accel.engine.stored_run import Checkpoint, read_checkpoint
from dream_accel.errors import DreamAccelError, DreamAccelWarning
from dream_accel.evaluation import protocol
from dream_accel.runtime import determinism, devices
from dream_accel.runtime.determinism import repeatable
from dream_accel.runtime.devices import (
    bf16_supported,
    device_errors,
    find_device,
    reason_of,
    release_memory,
)
from dream_accel.runtime.gpu_names import mig_profile

CUDA = torch.device("cuda", 1)
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")
BROKEN = [
    FULL,
    RuntimeError("CUDA driver initialization failed, you might not have a CUDA gpu."),
    RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nmore lines"),
    RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore lines"),
]
broken = pytest.mark.parametrize("error", BROKEN, ids=["full", "driver gone", "driver old", "GPU not served"])


class TestFindDevice:
    @broken
    def test_a_gpu_that_does_not_work_leaves_the_cpu_and_says_so(self, error, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch, "zeros", raising(error))
        with pytest.warns(DreamAccelWarning, match="running on the CPU, which is slower") as caught:
            assert find_device() == torch.device("cpu")
        message = str(caught[0].message)
        assert str(error).splitlines()[0].rstrip(".") in message
        assert "more lines" not in message

    @broken
    def test_one_that_was_named_is_refused(self, error, monkeypatch):
        monkeypatch.setattr(torch, "zeros", raising(error))
        message = refused(find_device, "cuda")
        assert str(error).splitlines()[0].rstrip(".") in message
        assert "choose one of cpu" in message

    def test_without_a_driver_nothing_is_said(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert find_device() == torch.device("cpu")


class TestBfloat16:
    @pytest.fixture
    def fake(self, monkeypatch):
        """The first device has bfloat16, the second has not."""
        fake = FakeCuda(monkeypatch)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: fake.current_device == 0)
        return fake

    def test_it_is_the_named_device_that_is_asked(self, fake):
        assert bf16_supported(torch.device("cuda", 0))
        assert not bf16_supported(CUDA)

    def test_a_run_on_a_device_without_it_is_refused_in_one_sentence(self, fake, monkeypatch):
        monkeypatch.setattr("dream_accel.engine.compute.bf16_supported", lambda device: bf16_supported(CUDA))
        assert "bf16 is on" in refused(assemble, toy_recipe(bf16=True), toy_split())


class TestFullMemory:
    def test_it_is_one_sentence_with_the_remedy(self):
        sentence = r"cuda:1 is out of memory \(CUDA out .* MiB\): lower ipc"
        with pytest.raises(DreamAccelError, match=sentence) as caught, device_errors(CUDA, "lower ipc"):
            raise FULL
        assert caught.value.__cause__ is FULL

    def test_other_errors_pass(self):
        with pytest.raises(RuntimeError, match="other"), device_errors(CUDA, "lower ipc"):
            raise RuntimeError("other")

    def test_a_driver_that_disappears_in_a_run_is_one_sentence_and_the_checkpoint_stays(self, tmp_path, monkeypatch):
        path, gone = tmp_path / "checkpoint.safetensors", raising(RuntimeError("CUDA error: device lost\nmore lines"))
        run = Run(toy_recipe(iterations=3), toy_split(), path)

        def lose_it(line):
            monkeypatch.setattr(run._distiller.schedule, "run", gone)
            monkeypatch.setattr(Checkpoint, "save", gone)

        with pytest.warns(DreamAccelWarning, match=r"cannot be renewed \(CUDA error: device lost\); the one written"):
            message = refused(run.complete, on_iteration=lose_it)
        assert message.startswith("cpu does not answer any more (CUDA error: device lost): continue in another process")
        assert len(run.history) == 1
        assert read_checkpoint(path).state.history == ()

    @pytest.mark.parametrize("place", ["assembling", "running", "placing the images", "evaluating"])
    def test_a_run_that_does_not_fit_says_what_makes_it_smaller(self, place, monkeypatch):
        recipe, split = toy_recipe(), toy_split()
        if place == "assembling":
            monkeypatch.setattr("dream_accel.engine.assembly.build_network", raising(FULL))
            message = refused(assemble, recipe, split)
        elif place == "running":
            distiller = assemble(recipe, split)
            monkeypatch.setattr(distiller, "restart", raising(FULL))
            message = refused(distiller.outer_iteration, 0)
        elif place == "evaluating":
            monkeypatch.setattr(protocol, "_train", raising(FULL))
            train = split.train
            message = refused(
                protocol.evaluate_images, train.images, train.labels, train, split.normalization, protocol.Protocol()
            )
        else:
            monkeypatch.setattr(type(split), "to", raising(FULL))
            message = refused(splits.load_split, recipe, torch.device("cpu"), data=split)
        assert "out of memory" in message
        assert "another device" in message

    def test_releasing_leaves_a_cuda_that_was_not_begun_alone(self, monkeypatch):
        fake = FakeCuda(monkeypatch)
        release_memory()
        assert fake.emptied == 1
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
        release_memory()
        assert fake.emptied == 1


class TestMig:
    @pytest.mark.parametrize(
        ("name", "profile"),
        [
            ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "1g.10gb"),
            ("NVIDIA A100-SXM4-40GB MIG 3g.20gb+me", "3g.20gb+me"),
            ("NVIDIA H100 80GB HBM3", None),
            ("NVIDIA MIGHTY 1", None),
        ],
    )
    def test_a_slice_is_known_by_its_name(self, name, profile):
        assert mig_profile(name) == profile


class TestReason:
    def test_it_is_one_short_line(self):
        assert reason_of(RuntimeError("one.\ntwo")) == "one"
        assert reason_of(RuntimeError()) == "RuntimeError"
        assert len(reason_of(RuntimeError("word " * 100))) <= devices.REASON


class TestRepeatable:
    @pytest.fixture(autouse=True)
    def other_settings(self, monkeypatch):
        monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)

    def settings(self):
        return torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark

    def test_settings_end_with_it_and_it_nests(self):
        with repeatable(CUDA):
            with repeatable(CUDA):
                assert self.settings() == (True, False)
            assert self.settings() == (True, False)
        assert self.settings() == (False, True)
        with pytest.raises(RuntimeError, match="full"), repeatable(CUDA):
            raise RuntimeError("full")
        assert self.settings() == (False, True)
        assert determinism._depth == 0

    def test_on_a_cpu_nothing_is_set(self):
        with repeatable(torch.device("cpu")):
            assert self.settings() == (False, True)

    @pytest.mark.parametrize("part", ["assembling", "an outer iteration", "an evaluation"])
    def test_a_run_computes_within_it(self, part, monkeypatch):
        """As on a GPU: every device is taken for one here."""
        seen = []
        recipe, split = toy_recipe(), toy_split()
        distiller = assemble(recipe, split)
        for module in ("dream_accel.engine.compute", "dream_accel.evaluation.protocol"):
            monkeypatch.setattr(f"{module}.repeatable", lambda device: repeatable(CUDA))
        note = lambda *args: seen.append(self.settings())  # noqa: E731
        if part == "assembling":
            monkeypatch.setattr("dream_accel.engine.assembly.build_pixels", noting(seen, self.settings))
            with pytest.raises(StopIteration):
                assemble(recipe, split)
        elif part == "an outer iteration":
            monkeypatch.setattr(Distiller, "restart", note)
            monkeypatch.setattr(distiller, "schedule", type("Schedule", (), {"run": note}))
            distiller.outer_iteration(0)
        else:
            monkeypatch.setattr(protocol, "_train", noting(seen, self.settings))
            with pytest.raises(StopIteration):
                protocol.evaluate_images(
                    split.train.images, split.train.labels, split.test, split.normalization, protocol.Protocol()
                )
        assert set(seen) == {(True, False)}
        assert self.settings() == (False, True)


def raising(error):
    def call(*args, **kwargs):
        raise error

    return call


def noting(seen, settings):
    def call(*args, **kwargs):
        seen.append(settings())
        raise StopIteration

    return call
