"""The examples run as they stand."""

import re
import runpy
from pathlib import Path

import pytest
import torch

from dream_accel import compat

EXAMPLES = Path(__file__).parents[1] / "examples"

RUNS = {
    "compiled.py": (["--backend", "aot_eager", "--steps", "11"], "step 10: re-clustered"),
    "cupy_arrays.py": ([], "skipped: |rows nearest the centres"),
    "dance.py": (["--iterations", "2", "--pretrain", "2"], "random batches.*representatives\n  iteration 0: distance"),
    "dc.py": (["--iterations", "2"], "random batches.*representatives\n  iteration 0: matching loss"),
    "distill_digits.py": (["--quick"], "test accuracy"),
    "dm.py": (["--iterations", "2"], "random batches.*representatives\n  iteration 0: distance"),
    "dream.py": ([], "drop-in\n  64 to 64 distinct images of 64"),
    "idc.py": (["--outer", "1", "--inner", "2"], "random batches.*representatives\n  outer iteration 0: matching loss"),
    "kmeans_tour.py": ([], "group 1 alone is the same: True"),
    "ncfm.py": (
        ["--iterations", "11", "--pretrain", "2"],
        "first images.*\n  240 different.*representatives\n.*\n.*\n  [3-9][0-9][0-9] different real",
    ),
    "mtt.py": (["--iterations", "1", "--expert-steps", "5", "--epochs", "5"], "representatives first.*test accuracy"),
}


SLOW = ("compiled.py", "dm.py", "mtt.py")


@pytest.mark.parametrize("script", [pytest.param(s, marks=[pytest.mark.slow] * (s in SLOW)) for s in RUNS])
def test_example_runs(script, tmp_path, monkeypatch, capsys):
    options, says = RUNS[script]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [script, *options])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    assert re.search(says, capsys.readouterr().out, re.DOTALL)


def distinct(images):
    return len(images.flatten(1).unique(dim=0))


@pytest.mark.slow
def test_dc_loop_gets_distinct_representatives_at_the_matching_size_and_random_images_elsewhere(monkeypatch):
    calls = []

    class Recording(compat.GetImages):
        def __call__(self, c, n=None, representative=None):
            images = super().__call__(c, n, representative)
            calls.append((c, n, images, None if self.indices is None else self.images[self.indices[c]]))
            return images

    monkeypatch.setattr("dream_accel.compat.GetImages", Recording)
    monkeypatch.setattr("sys.argv", ["dc.py", "--iterations", "2", "--ipc", "3"])
    runpy.run_path(str(EXAMPLES / "dc.py"), run_name="__main__")
    assert [(c, n) for c, n, *_ in calls] == [(c, 3) for c in range(10)] + [(c, 32) for c in range(10)] * 2
    for _, n, images, representatives in calls:
        assert distinct(images) == n
        assert (n == 3) == (representatives is None)
        assert n == 3 or torch.equal(images, representatives)


def test_idc_loop_gets_distinct_representatives_per_class_and_the_loaders_own_batches(monkeypatch):
    classes, others = [], []

    class Recording(compat.RepresentativeLoader):
        def class_sample(self, c, ipc=-1):
            images, labels = super().class_sample(c, ipc)
            classes.append((c, ipc, images, labels, self.sampler.indices))
            return images, labels

        def sample(self):
            others.append(self.loader.sample())
            return others[-1]

    monkeypatch.setattr("dream_accel.compat.RepresentativeLoader", Recording)
    monkeypatch.setattr("sys.argv", ["idc.py", "--outer", "1", "--inner", "2", "--ipc", "3"])
    runpy.run_path(str(EXAMPLES / "idc.py"), run_name="__main__")
    assert [(c, ipc) for c, ipc, *_ in classes] == [(c, 3) for c in range(10)] + [(c, -1) for c in range(10)] * 2
    for c, ipc, images, labels, indices in classes:
        n = 3 if ipc == 3 else 32
        assert distinct(images) == n
        assert labels.tolist() == [c] * n
        assert ipc == 3 or indices[c].unique().numel() == n
    assert len(others) == 2
    assert not torch.equal(others[0][0], others[1][0])


@pytest.mark.parametrize("script", ["dance.py", "dc.py", "dm.py", "idc.py", "dream.py", "mtt.py", "ncfm.py"])
def test_at_most_three_lines_change(script):
    marks = re.findall(r"# changed \((\d)\)|and \((\d)\) of", (EXAMPLES / script).read_text())
    assert sorted(a or b for a, b in marks) == ["1", "2", "3"][: len(marks)]


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(RUNS)
