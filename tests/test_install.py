"""The sdist holds what a build needs, and what is built from it runs: the cheap form of tools/install_matrix.py."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("setuptools", minversion="77")
ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs a checkout")
def test_pure_python_wheel_of_the_sdist_runs():
    command = [sys.executable, str(ROOT / "tools" / "install_matrix.py"), "--toolchains", "none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "py3-none-any.whl" in done.stdout
    assert "no compiled kernels" in done.stdout
