"""The examples run as they stand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("script", "options", "says"),
    [
        ("cluster_many_groups.py", [], "all distinct"),
        ("representative_batches.py", ["--steps", "2"], "step 1: matching loss"),
        ("distill_digits.py", ["--quick"], "test accuracy"),
    ],
)
def test_example_runs(script, options, says, tmp_path):
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *options], cwd=tmp_path, env=os.environ, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert says in run.stdout


def test_every_example_is_run():
    covered = {"cluster_many_groups.py", "representative_batches.py", "distill_digits.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == covered
