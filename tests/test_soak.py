"""A long run: the memory of the process stays what it is after the first iterations."""

import gc
import resource
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.hunting import times
from support.small_run import SETTINGS, split

import dream_accel as da
from dream_accel.results import Progress

MIB = 1 << 20


@dataclass
class Memory:
    """The resident memory of the process after each iteration, bytes."""

    after: list[int] = field(default_factory=list)

    def __call__(self, line: Progress) -> None:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        self.after.append(pages * resource.getpagesize())


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("real", ["live", "cached"])
def test_memory_stays_flat(real, tmp_path):
    cached = {"real": "cached", "trajectories": 2, "stages": 2, "renew": 1} if real == "cached" else {}
    recipe = da.recipe("dream", "noise", **{**SETTINGS, "iterations": times(60, 1000), **cached})
    memory = Memory()
    da.distill(
        recipe,
        split(),
        device="cpu",
        checkpoint=tmp_path / "checkpoint.safetensors",
        checkpoint_every=0,
        on_iteration=memory,
    )
    warm = len(memory.after) // 3
    early, late = max(memory.after[:warm]), max(memory.after[warm:])
    print(f"{real}: {early / MIB:.1f} MiB after {warm} iterations, {late / MIB:.1f} MiB after {len(memory.after)}")
    assert late <= early * 1.01
