"""TensorBoard: what a run writes, read back by TensorBoard's own reader."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from dream_accel.cli import main
from dream_accel.errors import DreamAccelError
from dream_accel.evaluation import Evaluation, Protocol, Row
from dream_accel.report import TensorBoardLog, render_grid
from dream_accel.results import Progress

IMAGES, LABELS, NAMES = torch.rand(4, 3, 8, 8), torch.tensor([0, 0, 1, 1]), ("a", "b")


def events(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    found.Reload()
    return found


def scalars(found, name):
    return [(event.step, event.value) for event in found.Scalars(name)]


def write(folder, numbers, iterations=10, done=0, **more):
    with TensorBoardLog(folder, iterations, done) as log:
        for number in numbers:
            log.iteration(Progress(number, 2 * number, 1 / number, 100.0, 0.5 * number, **more), IMAGES, LABELS, NAMES)


def test_scalars_of_every_iteration(tmp_path):
    write(tmp_path, range(1, 11))
    found = events(tmp_path)
    assert scalars(found, "distance") == [(i, pytest.approx(1 / i)) for i in range(1, 11)]
    assert scalars(found, "seconds")[-1] == (10, 5.0)
    assert "student_lr" not in found.Tags()["scalars"]


def test_a_learned_step_size_is_written(tmp_path):
    write(tmp_path, [1], student_lr=0.01)
    assert scalars(events(tmp_path), "student_lr") == [(1, pytest.approx(0.01))]


def test_grids_at_powers_of_two_and_at_the_end(tmp_path):
    write(tmp_path, range(1, 11))
    found = events(tmp_path).Images("images")
    assert [event.step for event in found] == [1, 2, 4, 8, 10]
    shown = np.asarray(Image.open(io.BytesIO(found[0].encoded_image_string)).convert("RGB"))
    grid = Image.open(io.BytesIO(render_grid(IMAGES, LABELS, NAMES)))
    white = Image.alpha_composite(Image.new("RGBA", grid.size, "white"), grid).convert("RGB")
    assert np.array_equal(shown, np.asarray(white))


def test_a_continued_run_hides_what_was_interrupted(tmp_path):
    write(tmp_path, range(1, 6))
    write(tmp_path, range(4, 7), done=3)
    assert [step for step, _ in scalars(events(tmp_path), "distance")] == [1, 2, 3, 4, 5, 6]


def test_accuracies_at_the_last_iteration(tmp_path):
    with TensorBoardLog(tmp_path, 10) as log:
        log.accuracy(Row("distilled, DREAM", Evaluation((50.0, 52.0), Protocol(networks=2)), 0.0))
    assert scalars(events(tmp_path), "accuracy/distilled, DREAM") == [(10, 51.0)]


def test_without_the_package_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(DreamAccelError, match=r"TensorBoard is not installed: pip install"):
        TensorBoardLog(tmp_path, 1)


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command line in this process; returns the exit status and standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["dream-accel", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, capsys.readouterr().err

    return call


class TestCommand:
    RUN = ("distill", "--quick", "--baselines", "none", "--device", "cpu", "--tensorboard")

    def test_writes_events_beside_the_report(self, run, tmp_path):
        assert run(*self.RUN, "--out", tmp_path / "run")[0] == 0
        found = events(tmp_path / "run" / "tensorboard")
        assert [step for step, _ in scalars(found, "distance")] == [1]
        assert any(name.startswith("accuracy/") for name in found.Tags()["scalars"])

    def test_events_of_an_overwritten_run_go(self, run, tmp_path):
        folder = tmp_path / "run"
        (folder / "tensorboard").mkdir(parents=True)
        (folder / "tensorboard" / "events.out.tfevents.1.old").write_bytes(b"")
        (folder / "tensorboard" / "mine.txt").write_bytes(b"")
        assert run(*self.RUN, "--out", folder, "--overwrite", "--no-evaluate")[0] == 0
        left = {path.name for path in (folder / "tensorboard").iterdir()}
        assert "events.out.tfevents.1.old" not in left
        assert "mine.txt" in left
        assert len(left) == 2

    def test_without_the_package_nothing_begins(self, run, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        status, said = run(*self.RUN, "--out", tmp_path / "run")
        assert status == 2
        assert "TensorBoard is not installed" in said
        assert not (tmp_path / "run").exists()
