"""The examples run as they stand."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

RUNS = {
    "compiled.py": (["--backend", "aot_eager", "--steps", "11"], "step 10: re-clustered"),
    "cupy_arrays.py": ([], "skipped: |rows nearest the centres"),
    "dc.py": (["--iterations", "2"], "random batches.*representatives\n  iteration 0: matching loss"),
    "distill_digits.py": (["--quick"], "test accuracy"),
    "dm.py": (["--iterations", "2"], "random batches.*representatives\n  iteration 0: distance"),
    "dream.py": ([], "drop-in\n  64 to 64 distinct images of 64"),
    "idc.py": (["--outer", "1", "--inner", "2"], "random batches.*representatives\n  outer iteration 0: matching loss"),
    "kmeans_tour.py": ([], "group 1 alone is the same: True"),
    "mtt.py": (["--iterations", "1", "--expert-steps", "5", "--epochs", "5"], "representatives first.*test accuracy"),
}


@pytest.mark.parametrize("script", RUNS)
def test_example_runs(script, tmp_path, monkeypatch, capsys):
    options, says = RUNS[script]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [script, *options])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    assert re.search(says, capsys.readouterr().out, re.DOTALL)


@pytest.mark.parametrize("script", ["dc.py", "dm.py", "idc.py", "dream.py", "mtt.py"])
def test_at_most_three_lines_change(script):
    marks = re.findall(r"# changed \((\d)\)|and \((\d)\) of", (EXAMPLES / script).read_text())
    assert sorted(a or b for a, b in marks) == ["1", "2", "3"][: len(marks)]


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(RUNS)
