"""Runs that are struck: signals, kill -9, damaged checkpoints, a full device, values that are not finite."""

import os
import random
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from support.hunting import times
from support.refusals import refused
from support.small_run import SETTINGS, distilled, split

import dream_accel as da
from dream_accel.engine import checkpoint as checkpoints
from dream_accel.engine import loop
from dream_accel.engine.checkpoint import CheckpointFile, damaged_checkpoint, previous_checkpoint
from dream_accel.engine.distill import distill
from dream_accel.engine.loop import Run
from dream_accel.engine.stored_run import read_checkpoint
from dream_accel.errors import DeviceMemoryError, DivergenceError, DreamAccelWarning
from dream_accel.matching.gradients import GradientMatching
from dream_accel.matching.pixels import PixelSGD
from dream_accel.matching.step import MatchingStep
from dream_accel.networks.training import Trainer
from dream_accel.runtime.signals import STOPPING, interrupting_signals

pytestmark = pytest.mark.usefixtures("one_thread")

HERE = Path(__file__).parent


def recipe(**settings):
    return da.recipe("dream", "noise", **{**SETTINGS, "iterations": 3, **settings})


def run(path: Path, **settings):
    return distill(recipe(**settings), split(), device="cpu", checkpoint=path, checkpoint_every=0)


class TestTwoCheckpoints:
    def test_the_one_before_the_last_is_kept(self, tmp_path):
        path = tmp_path / "checkpoint.safetensors"
        whole = Run(recipe(), split(), path, checkpoint_every=0)
        whole.advance()
        assert not previous_checkpoint(path).exists()
        whole.advance()
        whole.advance()
        assert len(read_checkpoint(path).state.history) == 3
        assert len(read_checkpoint(previous_checkpoint(path)).state.history) == 2
        assert sorted(file.name for file in tmp_path.iterdir()) == [
            "checkpoint.previous.safetensors",
            "checkpoint.safetensors",
        ]

    def test_without_second_names_too(self, tmp_path, monkeypatch):
        def no_links(*args):
            raise OSError(1, "Operation not permitted")

        monkeypatch.setattr(checkpoints.os, "link", no_links)
        path = tmp_path / "checkpoint.safetensors"
        run(path)
        assert len(read_checkpoint(previous_checkpoint(path)).state.history) == 2

    @pytest.mark.parametrize("damage", ["cut", "garbage", "flipped header", "gone"])
    def test_a_damaged_one_gives_way_to_it_with_one_warning_and_the_same_bits(self, tmp_path, damage):
        path = tmp_path / "checkpoint.safetensors"
        run(path, iterations=2)
        whole = path.read_bytes()
        bad = {
            "cut": whole[: len(whole) // 2],
            "garbage": b"garbage",
            "flipped header": b"\xff" + whole[1:],
            "gone": None,
        }
        if bad[damage] is None:
            path.unlink()
        else:
            path.write_bytes(bad[damage])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = run(path)
        (said,) = [str(warning.message) for warning in caught]
        assert str(path) in said
        assert "the run continues from the checkpoint before it, after" in said
        assert result.synthetic.images.numpy().tobytes() == distilled(None, iterations=3)
        assert damaged_checkpoint(path).exists() == (damage != "gone")
        assert not list(tmp_path.glob(".*.part"))

    def test_where_both_are_damaged_the_last_one_is_refused(self, tmp_path):
        path = tmp_path / "checkpoint.safetensors"
        path.write_bytes(b"bad")
        previous_checkpoint(path).write_bytes(b"worse")
        assert f"{path} cannot be read as a checkpoint" in refused(run, path)
        assert path.read_bytes() == b"bad"

    def test_a_damaged_one_is_never_kept_as_the_one_before(self, tmp_path):
        path = tmp_path / "checkpoint.safetensors"
        run(path, iterations=1)
        path.write_bytes(b"damaged while the run was stopped")
        with pytest.warns(DreamAccelWarning, match="checkpoint before it"):
            run(path, iterations=2)
        assert read_checkpoint(previous_checkpoint(path))

    @pytest.mark.parametrize("every", [-1, float("nan"), float("inf")])
    def test_every_must_be_seconds(self, tmp_path, every):
        message = refused(CheckpointFile, tmp_path / "x", every)
        assert message == f"checkpoint_every is {every}: give seconds, 0 for every outer iteration"

    def test_every_bounds_how_often_it_is_written(self, tmp_path, monkeypatch):
        path = tmp_path / "checkpoint.safetensors"
        going = Run(recipe(), split(), path, checkpoint_every=1000)
        going.advance()
        assert not path.exists()
        clock = time.perf_counter() + 1000
        monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: clock)
        going.advance()
        assert len(read_checkpoint(path).state.history) == 2


class TestSignals:
    @pytest.mark.parametrize("number", STOPPING, ids=lambda number: number.name)
    def test_interrupt_like_ctrl_c_within_the_block_alone(self, number):
        def wait() -> None:
            os.kill(os.getpid(), number)
            time.sleep(5)

        before = signal.getsignal(number)
        with interrupting_signals(), pytest.raises(KeyboardInterrupt):
            wait()
        assert signal.getsignal(number) is before

    def test_handlers_of_others_stay(self, monkeypatch):
        got = []
        before = signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
        try:
            with interrupting_signals():
                os.kill(os.getpid(), signal.SIGUSR1)
            assert got == [signal.SIGUSR1]
        finally:
            signal.signal(signal.SIGUSR1, before)

    @pytest.mark.slow
    def test_a_command_keeps_what_is_done_and_continues_to_the_same_bits(self, tmp_path):
        options = ["--device", "cpu", "--no-evaluate", "--iterations", "40", "--inner-steps", "2", "--width", "8"]
        options += ["--clusters", "4", "--network-images", "0", "--limit-train", "200"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}

        def call(*words):
            program = [sys.executable, "-m", "dream_accel", "distill", *words]
            return subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

        assert call(*options, "--out", str(tmp_path / "whole")).wait(120) == 0
        whole = da.load(tmp_path / "whole").synthetic.images
        folder = tmp_path / "stopped"
        path = folder / "checkpoint.safetensors"
        process = call(*options, "--out", str(folder), "--checkpoint-every", "0")
        wait_for(previous_checkpoint(path).exists, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
        assert 0 < len(read_checkpoint(path).state.history) < 40
        assert (folder / "distilled.safetensors").exists()
        assert call("--resume", str(folder), "--no-evaluate").wait(120) == 0
        assert torch.equal(da.load(folder).synthetic.images, whole)


def newer(path: Path, than: int) -> bool:
    return path.exists() and path.stat().st_mtime_ns > than


def wait_for(condition, process) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the process ended by itself"
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.slow
def test_a_run_killed_at_random_points_ends_with_the_same_bits(tmp_path):
    """``kill -9``: nothing is run, written or closed afterwards. Some kills reach the write of a checkpoint."""
    draws = random.Random(0)
    whole = distilled(None)
    kills, left, number = 0, times(4, 50), 0
    while kills < left:
        path, images = tmp_path / f"{number}.safetensors", tmp_path / f"{number}.bytes"
        number += 1
        while not images.exists():
            command = [sys.executable, "-m", "support.small_run", str(path), str(images)]
            process = subprocess.Popen(command, cwd=HERE, env={**os.environ, "OMP_NUM_THREADS": "1"})
            before = path.stat().st_mtime_ns if path.exists() else 0
            if kills < left:
                # Imports take the longest; what follows them is what is to be hit.
                wait_for(partial(newer, path, before), process)
                time.sleep(draws.random() * 0.15)
                if process.poll() is None:
                    process.kill()
                    kills += 1
            process.wait(120)
        assert images.read_bytes() == whole
        assert not list(tmp_path.glob("*.damaged.*"))
    assert kills == left


class TestFullDevice:
    """A device whose memory ends at a number of images, which a GPU would say at the same place."""

    def full_beyond(self, monkeypatch, most: int):
        target = MatchingStep._target

        def limited(self, network, images, indices, augmentations, own):
            if indices.numel() > most:
                raise torch.OutOfMemoryError("tried to allocate more than there is")
            return target(self, network, images, indices, augmentations, own)

        monkeypatch.setattr(MatchingStep, "_target", limited)

    def test_the_images_at_a_time_are_halved_and_the_result_is_the_same(self, monkeypatch):
        settings = {"class_gradients": "capture"}
        whole = distill(recipe(**settings), split(), device="cpu")
        monkeypatch.setattr("dream_accel.matching.step.IMAGES_AT_ONCE", 12)
        self.full_beyond(monkeypatch, 4)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = distill(recipe(**settings), split(), device="cpu")
        (said,) = [str(warning.message) for warning in caught]
        assert "cpu is out of memory" in said
        assert "the run goes on with fewer images at a time" in said
        torch.testing.assert_close(result.synthetic.images, whole.synthetic.images)
        assert [line.iteration for line in result.history] == [1, 2, 3]

    def test_a_device_that_holds_nothing_is_refused(self, monkeypatch):
        self.full_beyond(monkeypatch, 0)
        with (
            pytest.warns(DreamAccelWarning, match="fewer images"),
            pytest.raises(DeviceMemoryError, match="lower clusters"),
        ):
            distill(recipe(), split(), device="cpu")

    def test_the_parts_end(self):
        assert loop.MOST_PARTS == 64


class TestNotFinite:
    def test_names_step_class_and_layer(self, monkeypatch):
        """The real gradient of class 1 in one layer is NaN in the third step of the second iteration."""
        calls, target = iter(range(10**6)), GradientMatching.target

        def broken(self, network, real, classes, gradients):
            found = target(self, network, real, classes, gradients)
            # Four steps of two classes; the second iteration is done twice, by the run and by the diagnosis.
            call = next(calls)
            if (call - 8) % 8 // 2 == 2 and call >= 8 and classes.start == 1:
                found[1][:] = float("nan")
            return found

        monkeypatch.setattr(GradientMatching, "target", broken)
        with pytest.raises(DivergenceError) as caught:
            distill(recipe(), split(), device="cpu")
        message = str(caught.value)
        layer = list(GradientMatching().parameters(network_of(recipe())))[1]
        assert f"(first in step 3 of the iteration, class '1', in the real images' gradient of {layer})" in message
        result = caught.value.result
        assert len(result.history) == 1
        assert result.synthetic.images.isfinite().all()

    def test_names_the_parameter_of_a_network_that_diverged(self, monkeypatch):
        steps = Trainer.steps

        def broken(self, *args, **kwargs):
            loss = steps(self, *args, **kwargs)
            with torch.no_grad():
                next(iter(self.network.parameters())).fill_(float("inf"))
            return loss

        monkeypatch.setattr(Trainer, "steps", broken)
        with pytest.raises(DivergenceError, match=r"first in step 2 of the iteration, in .*weight of the network"):
            distill(recipe(), split(), device="cpu")

    def test_names_the_step_after_the_one_that_broke_the_pixels(self, monkeypatch):
        going = Run(recipe(), split())
        step = PixelSGD.step

        def broken(self, gradient):
            step(self, gradient)
            self.pixels.fill_(float("nan"))

        monkeypatch.setattr(PixelSGD, "step", broken)
        with pytest.raises(DivergenceError) as caught:
            going.advance()
        assert "first in step 2" in str(caught.value)


def network_of(settings):
    from dream_accel.engine.assembly import build_network
    from dream_accel.engine.compute import Compute

    return build_network(settings, split(), Compute.of(settings, split()))
