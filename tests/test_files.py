"""Atomic writes: a reader finds the old file or the whole new one, whatever happens on the way."""

import os
import re
import stat
import threading
from pathlib import Path

import pytest
from support.refusals import refused

import dream_accel
from dream_accel.runtime import files
from dream_accel.runtime.files import append_lines, cache_folder, replacing, write_bytes, write_text

ROOT = Path(dream_accel.__file__).resolve().parents[1]


def test_writes_into_folders_that_do_not_exist_yet(tmp_path):
    write_text(tmp_path / "a" / "b" / "text.txt", "über\n")
    assert (tmp_path / "a" / "b" / "text.txt").read_bytes() == "über\n".encode()
    assert os.listdir(tmp_path / "a" / "b") == ["text.txt"]


def test_an_error_on_the_way_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "kept"
    write_bytes(target, b"old")

    def interrupted():
        with replacing(target) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["kept"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "kept"
    write_bytes(target, b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["kept"]


def test_the_file_is_on_the_disk_before_it_is_renamed_and_the_folder_afterwards(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(handle):
        steps.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def noted_replace(self, target):
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(files.os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write_bytes(tmp_path / "file", b"data")
    assert steps == ["file", "rename", "folder"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    write_bytes(tmp_path / "ours", b"")
    (tmp_path / "plain").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_many_writers_leave_one_whole_file(tmp_path):
    target = tmp_path / "shared"
    contents = [bytes([letter]) * 100_000 for letter in b"abcdefgh"]
    writers = [threading.Thread(target=write_bytes, args=(target, data)) for data in contents for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert target.read_bytes() in contents
    assert os.listdir(tmp_path) == ["shared"]


def test_lines_are_added_after_those_that_are_there(tmp_path):
    append_lines(tmp_path / "log", ["one"])
    append_lines(tmp_path / "log", ["two", "three"])
    assert (tmp_path / "log").read_text() == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"DREAM_ACCEL_CACHE": "/a"}, "/a"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/dream_accel"),
        ({}, str(Path("~/.cache/dream_accel").expanduser())),
    ],
    ids=["own", "xdg", "home"],
)
def test_cache_folder(variables, expected, monkeypatch):
    for name in ("DREAM_ACCEL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(cache_folder()) == expected


def test_nothing_else_renames_files():
    """Every write of a whole file goes through one function."""
    folders = ("dream_accel", "kernels", "bench")
    # The kit for one GPU runs before the package is installed, and writes logs as they come.
    own = {ROOT / "dream_accel" / "runtime" / "files.py", *(ROOT / "bench" / "kit").glob("*.py")}
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if path not in own]
    renaming = re.compile(r"os\.replace\(|\"\.part\"|\.(?:write_bytes|write_text)\(")
    found = {path.name for path in sources if renaming.search(path.read_text(encoding="utf-8"))}
    # bench/memory.py writes to /proc, which is no file to keep.
    assert found <= {"memory.py"}


@pytest.mark.parametrize("name", ["/dev/full", "/dev/null", "."])
def test_only_regular_files_are_replaced(name, tmp_path, monkeypatch):
    """As the superuser, `convert X /dev/full --overwrite` replaced the device by a file."""
    monkeypatch.chdir(tmp_path)
    before = os.stat(name)
    message = refused(write_bytes, name, b"data")
    assert message.startswith(f"{name} is a {'folder' if name == '.' else 'device'}: only regular files")
    assert os.stat(name).st_mode == before.st_mode
    assert os.listdir(tmp_path) == []


def test_pipes_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "a pipe or a socket" in refused(write_bytes, tmp_path / "pipe", b"data")


def test_a_symbolic_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    (tmp_path / "dangling").symlink_to("elsewhere/none yet")
    write_text(tmp_path / "link", "new")
    write_text(tmp_path / "dangling", "made")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "file").read_text() == "new"
    assert (tmp_path / "elsewhere" / "none yet").read_text() == "made"


def test_links_that_lead_to_a_device_or_in_a_circle_are_refused(tmp_path):
    (tmp_path / "device").symlink_to("/dev/null")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert "a device" in refused(write_text, tmp_path / "device", "x")
    assert "cannot be written" in refused(write_text, tmp_path / "circle", "x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_user_without_a_home_has_a_cache_of_the_process(monkeypatch):
    """HOME unset and a uid without an entry."""

    def no_home(path):
        raise RuntimeError("Could not determine home directory.")

    for name in ("DREAM_ACCEL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", no_home)
    found = cache_folder()
    assert found.stat().st_mode & 0o077 == 0
    assert cache_folder() == found
