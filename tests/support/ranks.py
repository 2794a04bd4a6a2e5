"""Runs a program as several ranks, as torchrun does, and gives each rank's output."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parents[1]


class Ended(NamedTuple):
    """Exit status and output of a rank that has ended."""

    status: int
    out: str
    err: str


def start(*arguments: object, count: int, cwd: Path = HERE, **environment: str) -> list[subprocess.Popen]:
    """Start ``python ARGUMENTS`` as that many ranks of this host, one thread each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(count):
        own = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(count),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            **environment,
        }
        command = [sys.executable, *map(str, arguments)]
        started.append(
            subprocess.Popen(command, cwd=cwd, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    return started


def ended(started: list[subprocess.Popen], timeout: float = 180) -> list[Ended]:
    """Wait for all of them."""
    found = []
    for process in started:
        out, err = process.communicate(timeout=timeout)
        found.append(Ended(process.returncode, out, err))
    return found


def run(*arguments: object, count: int, **more) -> list[Ended]:
    """Start, and wait."""
    return ended(start(*arguments, count=count, **more))
