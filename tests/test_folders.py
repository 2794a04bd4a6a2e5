"""Output folders: taken by one process at a time, tried by a real write, and given back."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.refusals import refused

from dream_accel.errors import DreamAccelError, DreamAccelWarning
from dream_accel.runtime import folders
from dream_accel.runtime.files import UnwritableError, write_text
from dream_accel.runtime.folders import LOCK_FILE, take_file, take_folder, take_new_folder


def lock(folder: Path, **holder: object) -> Path:
    path = folder / LOCK_FILE
    path.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), **holder}))
    return path


def ended_process() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_a_folder_that_is_taken_is_refused_to_another_with_host_and_process(tmp_path):
    """plato#30: two runs with one output folder both said that they had written it, and the last one won."""
    with take_folder(tmp_path / "out"):
        program = (
            "import sys; from dream_accel.runtime.folders import take_folder\n"
            "try:\n    take_folder(sys.argv[1]).__enter__()\nexcept ValueError as error:\n    print(error)"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", program, str(tmp_path / "out")]
        said = subprocess.run(command, env=environment, capture_output=True, text=True).stdout
    assert f"is being written by process {os.getpid()} on host {socket.gethostname()}" in said
    assert "name another place" in said


def test_a_thread_of_the_same_process_is_refused_too(tmp_path):
    with take_folder(tmp_path):
        assert f"process {os.getpid()}" in refused(take_folder(tmp_path).__enter__)


def test_a_folder_is_free_again_after_the_block_and_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), take_folder(tmp_path):
            raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_folders_that_were_made_and_stayed_empty_are_removed_and_others_stay(tmp_path):
    with take_folder(tmp_path / "a" / "b"):
        pass
    assert os.listdir(tmp_path) == []
    with take_folder(tmp_path / "a" / "b") as folder:
        write_text(folder / "text", "x")
    (tmp_path / "mine").mkdir()
    with take_folder(tmp_path / "mine"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["a", "mine"]
    assert os.listdir(tmp_path / "a" / "b") == ["text"]


def test_the_lock_of_a_process_that_ended_is_taken_over_with_a_note(tmp_path):
    pid = ended_process()
    lock(tmp_path, pid=pid)
    with pytest.warns(DreamAccelWarning, match=f"process {pid}, which has ended"), take_folder(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not say when a process started")
def test_a_number_that_another_process_has_since_is_no_living_holder(tmp_path):
    lock(tmp_path, started="another boot 12")
    with pytest.warns(DreamAccelWarning, match="taken over"), take_folder(tmp_path):
        pass


def test_a_lock_of_another_host_is_respected(tmp_path):
    path = lock(tmp_path, host="elsewhere", pid=ended_process())
    message = refused(take_folder(tmp_path).__enter__)
    assert "on host elsewhere" in message
    assert f"remove {path}" in message
    assert path.exists()


@pytest.mark.parametrize("content", ["", "garbage", "[]", '{"pid": 1}'])
def test_a_lock_that_cannot_be_read_is_named(tmp_path, content):
    (tmp_path / LOCK_FILE).write_text(content)
    assert str(tmp_path / LOCK_FILE) in refused(take_folder(tmp_path).__enter__)


def test_of_many_that_take_over_a_stale_lock_at_once_one_gets_the_folder(tmp_path):
    pid = ended_process()
    lock(tmp_path, pid=pid)
    inside, most, refusals, barrier, leave = 0, 0, 0, threading.Barrier(8), threading.Barrier(8)

    def take() -> None:
        nonlocal inside, most, refusals
        barrier.wait()
        try:
            with take_folder(tmp_path):
                inside += 1
                most = max(most, inside)
                leave.wait()
                inside -= 1
        except DreamAccelError:
            refusals += 1
            leave.wait()

    threads = [threading.Thread(target=take) for _ in range(8)]

    def take_all() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with pytest.warns(DreamAccelWarning):
        take_all()
    assert most == 1
    assert refusals == 7


def test_new_folders_never_share_a_name(tmp_path):
    found, barrier = [], threading.Barrier(6)

    def take() -> None:
        barrier.wait()
        with take_new_folder(tmp_path / "runs", "name") as folder:
            write_text(folder / "text", "x")
            found.append(folder.name)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["name", "name-2", "name-3", "name-4", "name-5", "name-6"]


@pytest.mark.parametrize("take", [take_folder, take_file, lambda path: take_new_folder(path, "name")])
def test_a_place_that_cannot_be_written_is_found_by_a_real_write(tmp_path, take, monkeypatch):
    """SimpleTuner#2353: the place was found unwritable after the work."""

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders.os, "fsync", full)
    with pytest.raises(UnwritableError, match=r"cannot be written to \(No space left on device\)"):
        take(tmp_path / "out").__enter__()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("take", [take_folder, take_file, lambda path: take_new_folder(path, "name")])
def test_below_a_file_nothing_can_be_made(tmp_path, take):
    (tmp_path / "file").write_text("mine")
    assert re.search("cannot be (created|written)", refused(take(tmp_path / "file" / "below" / "out").__enter__))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_is_taken_without_its_neighbours(tmp_path):
    with take_file(tmp_path / "a.csv"), take_file(tmp_path / "b.csv"):
        assert "a.csv is being written" in refused(take_file(tmp_path / "a.csv").__enter__)
    assert os.listdir(tmp_path) == []
