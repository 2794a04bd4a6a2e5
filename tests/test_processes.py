"""Worker processes: answers, threads, a process that dies, an interruption, a parent that is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from support.called import doubled
from support.refusals import refused

from dream_accel.runtime.processes import Died, spread, threads_each


def wait_for(file: Path) -> None:
    end = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < end, f"{file} did not come"
        time.sleep(0.05)


def test_every_item_is_answered_and_a_dead_process_costs_its_call_alone():
    found = dict(spread(doubled, [1, "dies", 3, 4], jobs=2))
    assert [found[place] for place in (0, 2, 3)] == [(2 * item, threads_each(2)) for item in (1, 3, 4)]
    assert isinstance(found[1], Died)
    assert "SIGKILL" in found[1].reason


def test_what_a_call_raises_is_raised():
    with pytest.raises(ValueError, match="of this item"):
        list(spread(doubled, ["raises", 1], jobs=1))


def test_threads_are_divided(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert [threads_each(jobs) for jobs in (1, 3, 8, 20)] == [8, 2, 1, 1]


@pytest.mark.parametrize("jobs", [0, -2])
def test_no_processes_are_refused(jobs):
    assert refused(lambda: list(spread(doubled, [1], jobs))) == (
        f"jobs is {jobs}: name the number of processes, 1 or more"
    )


def test_an_interrupted_worker_keeps_what_it_holds(tmp_path):
    call = str(tmp_path / "call")

    def press():
        wait_for(Path(f"{call}.begun"))
        os.kill(os.getpid(), signal.SIGINT)  # reaches this process alone

    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        list(spread(doubled, [call], jobs=1))
    assert Path(f"{call}.kept").exists()


def test_a_worker_does_not_outlive_a_parent_that_was_killed(tmp_path):
    call = str(tmp_path / "call")
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys\nfrom support.called import doubled\nfrom dream_accel.runtime.processes import spread\n"
        "if __name__ == '__main__':\n    list(spread(doubled, [sys.argv[1]], 1))\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    parent = subprocess.Popen([sys.executable, str(script), call], env={**os.environ, "PYTHONPATH": path})
    wait_for(Path(f"{call}.begun"))
    parent.kill()
    parent.wait()
    wait_for(Path(f"{call}.kept"))
