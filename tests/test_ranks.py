"""Runs that several processes share: the same bits as in one, agreement, and what happens when a rank is lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support import ranks as launcher
from support.ranked_runs import RUNS, recipe, split
from support.refusals import refused

import dream_accel as da
from dream_accel.engine.sharding import agree, classes_of_rank
from dream_accel.engine.stored_run import read_checkpoint
from dream_accel.runtime.distributed import ALONE, Ranks, launched_ranks, shares

HERE = Path(__file__).parent
RUN = ["distill", "--device", "cpu", "--no-evaluate", "--iterations", "3", "--inner-steps", "2", "--width", "8"]
RUN += ["--clusters", "4", "--network-images", "16", "--limit-train", "200"]


GRID = """
title = "three cells"

[shared]
dataset = "digits"
ipc = 1
width = 8
clusters = 4
iterations = 1
inner_steps = 2
network_images = 16
eval_networks = 1
eval_epochs = 2
limit_train = 200

[grid]
seed = [0, 1, 2]

[[cells]]
recipe = "dream"
"""


class TestShares:
    def test_equal_costs_are_shared_equally(self):
        assert sorted(len(each) for each in shares([1.0] * 10, 3)) == [3, 3, 4]

    @pytest.mark.parametrize("count", [1, 2, 3, 7])
    def test_every_item_is_in_one_share_and_none_is_empty(self, count):
        costs = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0]
        found = shares(costs, count)
        assert [item for each in found for item in each] == list(range(7))
        assert all(found)

    def test_the_largest_share_is_as_small_as_it_can_be(self):
        costs = [7, 2, 5, 10, 8, 1, 1, 3, 2, 6]
        for count in range(1, 6):
            largest = max(sum(costs[i] for i in each) for each in shares(costs, count))
            assert largest == best(costs, count)

    def test_more_ranks_than_classes_are_refused(self):
        message = refused(classes_of_rank, recipe("dream"), split().train, Ranks(0, 6))
        assert message == "6 ranks and 5 classes: start at most one rank for each class"

    def test_large_classes_cost_more(self):
        settings = da.recipe("dream", "grey", ipc=1, factor=1, clusters=1, inner_steps=1)
        found = [classes_of_rank(settings, split().train, Ranks(rank, 2)) for rank in range(2)]
        # Of 30, 9, 50, 12 and 24 images.
        assert found == [range(2), range(2, 5)]


def best(costs, count) -> float:
    """By trying everything."""
    if count == 1:
        return sum(costs)
    cuts = range(1, len(costs) - count + 2)
    return min(max(sum(costs[:cut]), best(costs[cut:], count - 1)) for cut in cuts)


class TestAlone:
    def test_exchanges_give_back_what_they_get(self):
        part = torch.rand(3)
        assert ALONE.gathered(5) == [5]
        assert ALONE.joined(part) is part
        assert ALONE.from_first(lambda: 7) == 7
        assert ALONE.dealt(ALONE.own([1, 2, 3])) == [1, 2, 3]
        agree(ALONE, recipe("dream"), None)

    def test_without_a_launcher_there_is_one_rank(self, monkeypatch):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        with launched_ranks() as found:
            assert found == ALONE

    def test_a_launcher_that_names_no_place_is_refused(self, monkeypatch):
        for name in ("MASTER_ADDR", "MASTER_PORT", "RANK"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(da.DreamAccelError, match="start them with torchrun, or unset WORLD_SIZE"), launched_ranks():
            pass


LEAVING = """
import time
from dream_accel.runtime.distributed import launched_ranks

with launched_ranks() as ranks:
    ranks.wait()
    ended = time.perf_counter()
    time.sleep({} * ranks.rank)
print(time.perf_counter() - ended)
"""


def test_a_rank_leaves_when_all_have_come_to_their_end():
    found = launcher.run("-c", LEAVING.format(2), count=2)
    assert [each.status for each in found] == [0, 0], found
    assert float(found[0].out) > 1.9


THREADS = """
import os
from dream_accel.runtime.distributed import LostRankError, launched_ranks

def threads():
    return sorted(open("/proc/self/task/" + each + "/comm").read() for each in os.listdir("/proc/self/task"))

before, error = threads(), None
try:
    with launched_ranks() as ranks:
        ranks.gathered(1)
        assert len(threads()) > len(before)
        {}
except (ValueError, LostRankError) as raised:
    error = raised  # kept, with all that its traceback refers to
assert threads() == before, threads()
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are listed by Linux")
@pytest.mark.parametrize("end", ["pass", "raise ValueError", "if ranks.rank == 0: ranks.gathered(2)"])
def test_no_thread_of_a_group_is_left_for_the_end_of_the_interpreter(end):
    for ended in launcher.run("-c", THREADS.format(end), count=2):
        assert ended.status == 0, ended.err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dream parts", "dsa"])
def test_a_rank_that_stops_within_an_iteration_stops_all_with_its_reason(name):
    for ended in launcher.ended(launcher.start("-m", "support.disagreeing", name, count=3)):
        assert ended.out.strip() == "this rank cannot go on", ended.err


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> dict[int, dict]:
    """Results of every run of support/ranked_runs.py, on 1, 2 and 3 ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    for count in (1, 2, 3):
        for ended in launcher.run("-m", "support.ranked_runs", folder, count=count):
            assert ended.status == 0, ended.err
    return {count: json.loads((folder / f"{count}.json").read_text(encoding="utf-8")) for count in (1, 2, 3)}


@pytest.mark.slow
class TestSameBits:
    @pytest.mark.parametrize("name", RUNS)
    @pytest.mark.parametrize("count", [2, 3])
    def test_of_pixels_and_picks(self, shared, name, count):
        one, several = shared[1][name], shared[count][name]
        assert several["images"] == one["images"]
        assert several["picks"] == one["picks"]
        assert several["losses"] == pytest.approx(one["losses"], rel=1e-5)

    def test_of_runs_that_differ_from_one_another(self, shared):
        assert len({run["images"] for name, run in shared[1].items() if name in RUNS}) == len(RUNS)

    @pytest.mark.parametrize("name", ["long", "tolerant", "short", "empty", "kept"])
    @pytest.mark.parametrize("count", [2, 3])
    def test_of_fits_of_streamed_rows(self, shared, name, count):
        assert shared[count]["fits"][name] == shared[1]["fits"][name]
        iterations = shared[1]["fits"][name][3]
        assert max(iterations) > 1

    @pytest.mark.parametrize("count", [2, 3])
    def test_of_networks_evaluated(self, shared, count):
        assert shared[count]["accuracies"] == shared[1]["accuracies"]


def images(folder: Path) -> torch.Tensor:
    return da.load(folder).synthetic.images


@pytest.mark.slow
class TestCommand:
    def test_one_rank_writes_and_prints_and_the_run_is_that_of_one_process(self, tmp_path):
        one, *_ = launcher.run("-m", "dream_accel", *RUN, "--out", tmp_path / "one", count=1)
        assert one.status == 0, one.err
        first, second = launcher.run("-m", "dream_accel", *RUN, "--out", tmp_path / "two", count=2)
        assert (first.status, second.status) == (0, 0), first.err + second.err
        assert "2 ranks share the 10 classes" in first.out
        assert (second.out, second.err) == ("", "")
        assert torch.equal(images(tmp_path / "one"), images(tmp_path / "two"))
        names = [{file.name for file in (tmp_path / folder).iterdir()} for folder in ("one", "two")]
        assert names[0] == names[1]

    def test_a_run_of_two_ranks_is_continued_by_three_and_evaluated_by_two(self, tmp_path):
        folder = tmp_path / "run"
        for more in (["--iterations", "1", "--out", folder], ["--iterations", "3", "--resume", folder]):
            count = 2 if "--out" in more else 3
            arguments = [*RUN, *more] if "--out" in more else ["distill", "--no-evaluate", *more]
            for ended in launcher.run("-m", "dream_accel", *arguments, count=count):
                assert ended.status == 0, ended.err
        whole, *_ = launcher.run("-m", "dream_accel", *RUN, "--out", tmp_path / "whole", count=1)
        assert whole.status == 0, whole.err
        assert torch.equal(images(folder), images(tmp_path / "whole"))
        measure = ["evaluate", folder, "--networks", "3", "--epochs", "2", "--device", "cpu"]
        first, second = launcher.run("-m", "dream_accel", *measure, count=2)
        assert "test accuracy" in first.out
        assert "3 networks" in first.out
        assert second.out == ""

    def test_ranks_that_disagree_are_refused_by_name(self, tmp_path):
        started = launcher.start("-m", "support.disagreeing", "settings", count=2)
        for ended in launcher.ended(started):
            assert "rank 1 has pixel_lr 0.25 and rank 0 has 0.5: start all ranks with the same settings" in ended.out
        started = launcher.start("-m", "support.disagreeing", "data", count=2)
        for ended in launcher.ended(started):
            assert "rank 1 has data set's" in ended.out

    def test_a_refusal_of_the_first_rank_ends_all(self, tmp_path):
        (tmp_path / "file").write_text("in the way", encoding="utf-8")
        first, second = found = launcher.run("-m", "dream_accel", *RUN, "--out", tmp_path, count=2)
        assert (first.status, second.status) == (2, 2), found
        assert "exists and is not empty" in first.err
        assert second.err == ""

    def test_commands_that_share_nothing_say_so(self):
        first, _ = launcher.run("-m", "dream_accel", "pool", count=2)
        assert first.status == 2
        assert "pool runs in one process: start it without torchrun" in first.err

    @pytest.mark.parametrize("strategy", ["dream", "herding"])
    def test_select_chooses_what_one_process_chooses(self, strategy, tmp_path):
        chosen = []
        for count in (1, 3):
            words = ["select", "--strategy", strategy, "--ipc", "3", "--device", "cpu", "--out", tmp_path / str(count)]
            found = launcher.run("-m", "dream_accel", *words, count=count)
            assert [each.status for each in found] == [0] * count, found
            assert "30 images of 10 classes chosen" in found[0].out
            assert not any(each.out for each in found[1:])
            chosen.append((tmp_path / str(count) / "selected.csv").read_bytes())
        assert chosen[0] == chosen[1]

    def test_compare_deals_its_cells(self, tmp_path):
        (tmp_path / "grid.toml").write_text(GRID, encoding="utf-8")
        tables = []
        for count in (1, 2):
            words = ["compare", tmp_path / "grid.toml", "--device", "cpu", "--out", tmp_path / str(count)]
            found = launcher.run("-m", "dream_accel", *words, count=count)
            assert [each.status for each in found] == [0] * count, found
            assert "comparison.html" in found[0].out
            tables.append((tmp_path / str(count) / "comparison.csv").read_bytes())
            assert len(list((tmp_path / str(count) / "cells").iterdir())) == 3
        assert tables[0] == tables[1]

    def test_mtt_is_refused(self):
        found = launcher.run("-m", "dream_accel", "distill", "--recipe", "mtt", "--experts", "x", count=2)
        assert "mtt matches the trajectories of all classes at once: start one process" in found[0].err

    def test_a_rank_that_is_killed_ends_the_others_with_its_number_and_keeps_the_checkpoint(self, tmp_path):
        folder = tmp_path / "run"
        more = ["--iterations", "500", "--checkpoint-every", "0", "--out", folder]
        started = launcher.start("-m", "dream_accel", *RUN, *more, count=2, DREAM_ACCEL_RANK_TIMEOUT="20")
        until = time.monotonic() + 120
        while not (folder / "checkpoint.previous.safetensors").exists():
            assert time.monotonic() < until
            assert started[0].poll() is None, started[0].communicate()
            time.sleep(0.05)
        started[1].send_signal(signal.SIGKILL)
        first, _ = launcher.ended(started, timeout=60)
        assert first.status == 2
        assert "rank 0 of 2 lost another one" in first.err
        assert "1" in first.err.partition("lost another one")[2]
        assert "Traceback" not in first.err
        assert len(read_checkpoint(folder / "checkpoint.safetensors").state.history) > 0

    @pytest.mark.parametrize("program", ["torchrun", "accelerate"])
    def test_through_launchers(self, program, tmp_path):
        command = shutil.which(program, path=Path(sys.executable).parent)
        if command is None:
            pytest.skip(f"{program} is not installed")
        # --multi_gpu is Accelerate's word for several processes of one host, on GPUs or not.
        options = {
            "torchrun": ["--nproc-per-node=2", "-m"],
            "accelerate": ["launch", "--multi_gpu", "--num_processes=2", "--num_machines=1", "--module"],
        }[program]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
        words = [command, *options, "dream_accel", *RUN, "--out", str(tmp_path / "run")]
        done = subprocess.run(
            words, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "2 ranks share the 10 classes" in done.stdout

    def test_a_group_that_exists_is_used_and_left(self):
        for ended in launcher.run("-m", "support.disagreeing", "own group", count=2):
            assert ended.out.split() == ["2", "left"], ended.err
