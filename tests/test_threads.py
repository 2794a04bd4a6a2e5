"""The threads of the compiled module, under ThreadSanitizer."""

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parent / "csrc"


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """tests/cpu_threads/pool.cpp, built without OpenMP, so that the module's own threads do the work."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    out = tmp_path_factory.mktemp("threads") / "pool"
    sources = [HERE / "cpu_threads" / "pool.cpp", CSRC / "cpu" / "parallel.cpp"]
    flags = ["-std=c++17", "-O1", "-g", "-fsanitize=thread", f"-I{CSRC}", "-pthread", "-ldl"]
    done = subprocess.run([compiler, *sources, *flags, "-o", out], capture_output=True, text=True, check=False)
    if done.returncode != 0 and "tsan" in done.stderr:
        pytest.skip("g++ has no thread sanitizer")
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_jobs_of_several_threads_at_once_have_no_race(program):
    done = subprocess.run([program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "right\n"


@pytest.mark.slow
def test_a_race_would_be_found(program):
    done = subprocess.run([program, "race"], capture_output=True, text=True, timeout=120, check=False)
    assert "data race" in done.stderr
    assert done.returncode != 0
