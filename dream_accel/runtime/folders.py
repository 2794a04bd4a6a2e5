"""Output folders: made, tried by a real write, and locked for one process before its work begins."""

from __future__ import annotations

import json
import os
import secrets
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import count
from pathlib import Path

from ..errors import DreamAccelError, DreamAccelWarning
from .files import AnyPath, UnwritableError, regular_file

LOCK_FILE = ".dream-accel.lock"
"""Name of the lock in a folder that a process writes to."""


@contextmanager
def take_folder(path: AnyPath) -> Iterator[Path]:
    """Take a folder for this process until the block ends.

    The folder is made, and a lock file with host and process is written to it, which also shows that it can be written
    to. The lock of a process of this host that has ended is taken over, with a note. At the end the lock is removed,
    and folders that were made and stayed empty as well.

    Args:
        path: the folder.

    Yields:
        the folder.

    Raises:
        UnwritableError: the folder cannot be created or written to.
        DreamAccelError: another run holds the folder.
    """
    folder = Path(path)
    made = _make(folder)
    try:
        with _locked(folder, LOCK_FILE, f"{folder}"):
            yield folder
    finally:
        _remove_empty(made)


@contextmanager
def take_file(path: AnyPath) -> Iterator[Path]:
    """Take a file for this process until the block ends, as :func:`take_folder` takes a folder; it is not created.

    Args:
        path: the file; missing parent folders are made.

    Yields:
        the file.

    Raises:
        UnwritableError: the parent folder cannot be created or written to.
        DreamAccelError: something that is not a regular file is there, or another run holds the file.
    """
    file = regular_file(path)
    made = _make(file.parent)
    try:
        with _locked(file.parent, f".{file.name}.lock", f"{path}"):
            yield Path(path)
    finally:
        _remove_empty(made)


@contextmanager
def take_new_folder(parent: AnyPath, name: str) -> Iterator[Path]:
    """Make a folder that did not exist, and take it as :func:`take_folder` does.

    Two processes that ask for the same name at once get two folders.

    Args:
        parent: the folder to make it in.
        name: its name; ``-2``, ``-3`` and so on are appended if it exists.

    Yields:
        the folder.

    Raises:
        UnwritableError: it cannot be created or written to.
    """
    made = _make(Path(parent))
    for number in count(1):
        folder = Path(parent) / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            _remove_empty(made)
            raise _unwritable(folder, error, "created") from None
        break
    try:
        with take_folder(folder):
            yield folder
    finally:
        _remove_empty([*made, folder])


def _make(folder: Path) -> list[Path]:
    """Make a folder and its parents; return those that did not exist, outermost first."""
    missing = []
    try:
        for place in (folder, *folder.parents):
            if place.exists():
                break
            missing.append(place)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error, "created") from None
    return missing[::-1]


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):
        for folder in reversed(folders):
            folder.rmdir()


def _unwritable(place: Path, error: OSError, done: str) -> UnwritableError:
    return UnwritableError(f"{place} cannot be {done} ({error.strerror}): name another place, or free this one")


@contextmanager
def _locked(folder: Path, name: str, what: str) -> Iterator[None]:
    lock, ours = folder / name, _this_process()
    while not _create(lock, json.dumps(ours)):
        _give_way_or_take_over(lock, what)
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            if json.loads(lock.read_text(encoding="utf-8")) == ours:
                lock.unlink()


def _create(lock: Path, text: str) -> bool:
    """Create the lock with its content; False if there is one."""
    try:
        handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    except OSError as error:
        raise _unwritable(lock.parent, error, "written to") from None
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        lock.unlink(missing_ok=True)
        raise _unwritable(lock.parent, error, "written to") from None
    return True


def _give_way_or_take_over(lock: Path, what: str) -> None:
    """Refuse to go on if the holder of a lock lives or is on another host; else remove the lock.

    Raises:
        DreamAccelError: the holder lives, or nothing is known about it.
    """
    try:
        found = lock.read_text(encoding="utf-8")
        holder = json.loads(found)
        host, pid = str(holder["host"]), int(holder["pid"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        raise DreamAccelError(
            f"{what} is held by a lock that cannot be read: wait, or remove {lock} if nothing writes there"
        ) from None
    if host != socket.gethostname() or _alive(pid, str(holder.get("started", ""))):
        raise DreamAccelError(
            f"{what} is being written by process {pid} on host {host}: wait for it, or name another place "
            f"(if that process has ended, remove {lock})"
        )
    if _remove_stale(lock, found, what):
        warnings.warn(
            f"{what} was locked by process {pid}, which has ended: its lock is taken over",
            DreamAccelWarning,
            stacklevel=2,
        )


def _remove_stale(lock: Path, found: str, what: str) -> bool:
    """Remove a lock whose holder has ended; False if it is a new one by now.

    Only who has created the claim, a second name of the lock that follows from its content, removes the lock, and it
    removes the claim afterwards. A claim that holds anything but the content found is the name of a new lock, which
    stays where it is throughout.
    """
    claim = lock.with_name(f"{lock.name}.{sha256(found.encode()).hexdigest()[:8]}")
    try:
        os.link(lock, claim)
    except FileNotFoundError:
        return False
    except OSError:
        raise DreamAccelError(
            f"{what} is locked by a process that has ended, and another takes it over now: wait, or remove "
            f"{lock} and {claim} if nothing writes there"
        ) from None
    try:
        stale = claim.read_text(encoding="utf-8") == found
        if stale:
            lock.unlink()
        return stale
    finally:
        claim.unlink()


def _this_process() -> dict[str, str | int]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "started": _started(pid), "token": secrets.token_hex(8)}


def _alive(pid: int, started: str) -> bool:
    if os.name == "nt":  # where signal 0 is a Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it exists and belongs to another user
    current = _started(pid)
    # Numbers of processes are used again, also after a restart of the machine.
    return not started or not current or started == current


def _started(pid: int) -> str:
    """Start of a process, as boot and clock ticks; empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        ticks = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
    return f"{boot} {ticks}"
