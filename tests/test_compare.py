"""Comparisons: grid files, their cells, resuming, failures, tables, published figures."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.refusals import refused

from dream_accel import cli
from dream_accel.cli.recipe_options import QUICK
from dream_accel.engine.loop import Run
from dream_accel.evaluation import comparison as comparisons
from dream_accel.evaluation.comparison import Comparison
from dream_accel.evaluation.grid import CORESETS, read_grid
from dream_accel.evaluation.published import PUBLISHED, published
from dream_accel.recipes import recipe
from dream_accel.report.comparison import TABLE_FILES, write_comparison
from dream_accel.report.comparison_table import reasons, tables
from dream_accel.runtime.folders import LOCK_FILE
from dream_accel.runtime.processes import Died

GRIDS = sorted((Path(__file__).parents[1] / "examples" / "grids").glob("*.toml"))
SMALL = """
[shared]
dataset = "digits"
limit_train = 40
eval_networks = 2
eval_epochs = 1
width = 4
[grid]
seed = [0, 1]
"""
DREAM = """
[[cells]]
recipe = "dream"
ipc = 1
clusters = 2
iterations = 2
inner_steps = 2
network_images = 8
"""
HERDING = '[[cells]]\ncoreset = "herding"\nipc = 1\n'


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def written(tmp_path):
    """Writes a grid file."""

    def write(text, name="grid.toml"):
        file = tmp_path / name
        file.write_text(text)
        return file

    return write


@pytest.fixture
def here(monkeypatch, tmp_path):
    """A comparison whose cells are measured in this process."""
    monkeypatch.setattr(comparisons, "spread", lambda call, items, jobs: ((i, call(x)) for i, x in enumerate(items)))

    def compare(grid, out="out", **options):
        folder = tmp_path / out
        folder.mkdir(exist_ok=True)
        return Comparison(read_grid(grid), folder, device="cpu", **options)

    return compare


def names(grid):
    return [cell.name for cell in grid.cells]


# Grid files


@pytest.mark.parametrize("file", GRIDS, ids=lambda file: file.stem)
def test_every_ready_grid_is_read_and_small_in_quick(file):
    full, quick = read_grid(file), read_grid(file, QUICK)
    assert f"dream-accel compare examples/grids/{file.name}" in full.text
    assert set(names(quick)) == set(names(full))
    assert len(quick.cells) == len(set(names(full)) - {""}) * len({cell.recipe.dataset for cell in full.cells})
    assert all(cell.recipe.iterations <= 1 and cell.recipe.eval_networks == 1 for cell in quick.cells)


def test_there_is_a_grid_for_every_table():
    assert {"with-dream", "coresets", "cross-architecture", "sampling", "interval", "initialisation"} <= {
        file.stem for file in GRIDS
    }
    methods = {cell.recipe.dataset for file in GRIDS if "methods" in file.stem for cell in read_grid(file).cells}
    assert methods == {"cifar10", "cifar100", "svhn", "mnist", "fashion-mnist", "tiny-imagenet"}


def test_lists_multiply_and_the_nearest_setting_wins(written):
    grid = read_grid(
        written(
            SMALL + 'ipc = [1, 5]\nstrategy = ["dream", "random"]\n'
            '[[cells]]\nrecipe = ["dc", "dsa"]\neval_epochs = 3\n'
            '[[cells]]\nname = "own"\nrecipe = "dream"\nipc = 2\nstrategy = "random"\n'
            '[[cells]]\ncoreset = ["random", "whole"]\n'
        )
    )
    of_seed_0 = [cell for cell in grid.cells if cell.recipe.seed == 0]
    assert grid.cells[: len(of_seed_0)] == tuple(of_seed_0)
    found = [(cell.name, cell.recipe.ipc, cell.recipe.strategy, cell.recipe.eval_epochs) for cell in of_seed_0[:9]]
    assert found == [
        *(
            (f"{name}, strategy {s}", ipc, s, 3)
            for name in ("dc", "dsa")
            for ipc in (1, 5)
            for s in ("dream", "random")
        ),
        ("own", 2, "random", 1),
    ]
    # A coreset reads no strategy, and the whole set no IPC.
    assert names(grid)[9:12] == ["random real images", "random real images", "whole training set"]
    assert [cell.coreset for cell in grid.cells[9:12]] == ["random", "random", "whole"]


def test_networks_are_those_of_the_cell_of_all_or_of_the_recipe(written):
    cells = SMALL.replace("[grid]", 'networks = ["mlp", "lenet"]\n[grid]') + DREAM
    assert read_grid(written(cells)).cells[0].networks == ("mlp", "lenet")
    assert read_grid(written(cells + 'networks = ["mlp"]')).cells[0].networks == ("mlp",)
    assert read_grid(written(SMALL + DREAM)).cells[0].networks == ("convnet",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no cells"),
        ('[shared]\ndataset = "digits"\n', "holds no cells"),
        ("cells = []", "holds no cells"),
        ("[grid]\nipc = []\n" + HERDING.replace("ipc = 1", ""), "ipc is an empty list, which makes no cell"),
        ("[grids]\nipc = [1]", "no part 'grids': did you mean 'grid'?"),
        ("[shared]\nwidht = 4\n" + DREAM, "[shared] has no setting 'widht': did you mean 'width'?"),
        ("[grid]\nseeds = [1]\n" + DREAM, "[grid] has no setting 'seeds': did you mean 'seed'?"),
        (DREAM + "clustres = 4", "cells 1 has no setting 'clustres': did you mean 'clusters'?"),
        ('[[cells]]\ncoresets = "random"', "did you mean 'coreset'?"),
        ("[grid]\nipc = 1\n" + DREAM, "[grid]: ipc is 1"),
        ("[shared]\nipc = [1, 2]\n" + DREAM, "[shared]: ipc is a list"),
        ("[[cells]]\nipc = 1", "neither recipe nor coreset"),
        ("[[cells]]\nrecipe = 'draem'", "unknown recipe 'draem': choose one of dream"),
        ("[[cells]]\nrecipe = [['dc']]", "recipe is ['dc']: it must be a name"),
        ("[[cells]]\nrecipe = 'dc'\ndataset = 3", "dataset is 3: it must be a name"),
        ("[[cells]]\nname = 'A'\nrecipe = 'dm'\nmetric = 'l1'", "cells 1 (A): recipe 'dm' does not use metric"),
        ("[[cells]]\nrecipe = 'dream'\nipc = 0", "ipc is 0: it must be at least 1"),
        ("[[cells]]\nrecipe = 'dream'\nnetwork = 'covnet'", "covnet"),
        ("[[cells]]\nrecipe = 'dream'\nnetworks = ['covnet']", "covnet"),
        ("[[cells]]\nrecipe = 'dream'\nnetworks = 'convnet'", "give a list of names"),
        ("[[cells]]\nname = 3\nrecipe = 'dream'", "name is 3: it must be a text"),
        ("[[cells]]\ncoreset = 'best'", f"unknown coreset 'best': choose one of {', '.join(CORESETS)}"),
        (HERDING + "iterations = 4", "coreset 'herding' does not read iterations"),
        ("[[cells]]\ncoreset = 'whole'\nipc = 4", "coreset 'whole' does not read ipc"),
        (DREAM + DREAM, "have the same settings: leave one out"),
        (DREAM + "name = 'A'" + DREAM + "name = 'B'", "have the same settings: leave one out"),
        (DREAM + DREAM.replace("clusters = 2", "clusters = 4"), "differ in clusters: give each a name"),
        ("cells = 3", "write [[cells]] above each entry"),
        ("grid = 3", "write [grid] and its settings below"),
        ("[grid\n", "is not TOML"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(text, said, written):
    message = refused(read_grid, written(text))
    assert said in message
    assert "grid.toml" in message


def test_a_grid_file_that_is_not_there_is_refused(tmp_path, monkeypatch):
    assert "name a grid file" in refused(read_grid, tmp_path / "none.toml")
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    assert "Python 3.11" in refused(read_grid, GRIDS[0])


# Published figures


@pytest.mark.parametrize(
    ("name", "dataset", "ipc", "accuracy"),
    [
        ("dream", "cifar10", 10, 69.4),
        ("idc", "cifar100", 1, None),
        ("idc", "svhn", 50, 90.1),
        ("idc-i", "fashion-mnist", 50, 89.1),
        ("dsa", "mnist", 1, 88.7),
        ("dm", "tiny-imagenet", 10, 12.9),
        ("dream", "cifar10", 20, None),
        ("dream", "digits", 10, None),
    ],
)
def test_published_figures_are_those_of_the_papers(name, dataset, ipc, accuracy):
    found = published(recipe(name, dataset, ipc=ipc), None, "convnet")
    assert (found and found.accuracy) == accuracy
    assert found is None or "arXiv" in found.source


def test_a_published_figure_stands_beside_its_own_method_alone():
    def of(name, coreset=None, network="convnet", **settings):
        return published(recipe(name, "cifar10", ipc=10, **settings), coreset, network)

    assert of("dc").accuracy == 44.9
    assert of("dc", iterations=10, eval_epochs=3, seed=2, width=32).accuracy == 44.9
    assert of("dc", strategy="dream", init="kmeans") is None
    assert of("dream", clusters=32) is None
    assert of("dream", factor=1) is None
    assert of("dream", network="resnet10") is None
    assert of("dream", "herding", factor=1, iterations=0).accuracy == 31.6
    assert of("dream", "k-center", factor=1, iterations=0) is None
    assert of("dream", "whole", factor=1).accuracy == 84.8
    assert len(PUBLISHED) == 8 * 3 + 7 * 2 + 1 + 3 * 12 + 9


# Cells measured


def test_what_is_done_is_skipped_and_what_is_added_is_measured(written, here, monkeypatch):
    first = here(written(SMALL + DREAM + HERDING))
    measured = list(first.measure())
    assert [cell.name for cell, _ in measured] == ["dream", "herding real images"] * 2
    for cell, record in measured:
        assert record.reason is None
        assert len(record.accuracies["convnet"]) == 2
        assert record.iterations == cell.recipe.iterations
        assert record.data["images"] == 40
    records = {task.key: task.record() for task in first.tasks}
    again = here(written(SMALL + DREAM + HERDING))
    assert again.left() == []
    assert list(again.measure()) == []
    # Another name, one more network and one more cell keep what is there.
    more = SMALL.replace("[grid]", 'networks = ["convnet", "mlp"]\n[grid]').replace("[0, 1]", "[0, 1, 2]")
    third = here(written(more + DREAM + "name = 'renamed'\n" + HERDING))
    assert len(third.left()) == 6
    advance, seeds = Run.advance, []
    monkeypatch.setattr(
        Run, "advance", lambda run, on_step=None: (seeds.append(run.recipe.seed), advance(run, on_step))[1]
    )
    assert len(list(third.measure())) == 6
    assert seeds == [2, 2]  # the distilled sets that are there are not distilled again
    for task in third.tasks:
        if task.key in records:
            before, after = records[task.key], task.record()
            assert after.accuracies == {**before.accuracies, "mlp": after.accuracies["mlp"]}


def test_a_run_that_was_interrupted_continues_to_the_same_accuracy(written, here, monkeypatch, tmp_path):
    grid = written(SMALL.replace("[0, 1]", "[0]") + DREAM)
    list(here(grid, "whole").measure())
    broken = here(grid, "broken")
    with monkeypatch.context() as patch:
        advance, calls = Run.advance, []

        def interrupted(run, on_step=None):
            calls.append(run)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return advance(run, on_step)

        patch.setattr(Run, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(broken.measure())
    assert broken.tasks[0].record().iterations == 1
    assert broken.tasks[0].record().accuracies == {}
    again = here(grid, "broken")
    done = []
    monkeypatch.setattr(
        Run,
        "advance",
        lambda run, on_step=None: (done.append(len(run.history)), advance(run, on_step))[1],
    )
    ((_, record),) = again.measure()
    assert done == [1]  # the first iteration is not done twice
    assert record.accuracies == here(grid, "whole").tasks[0].record().accuracies


def test_a_cell_that_diverges_or_dies_does_not_stop_the_rest(written, here, monkeypatch, tmp_path):
    text = SMALL.replace("[0, 1]", "[0]") + DREAM + "name = 'hot <b>'\npixel_lr = 1e38\n" + HERDING
    comparison = here(written(text))
    reason = {cell.name: record.reason for cell, record in comparison.measure()}
    assert reason["hot <b>"].startswith("diverged after ")
    assert reason["herding real images"] is None
    write_comparison("a title & more", comparison.rows(), tmp_path)
    page = (tmp_path / "comparison.html").read_text()
    assert "hot &lt;b&gt;" in page
    assert "a title &amp; more" in page
    assert "<b>" not in page
    assert "hot <b>, digits, IPC 1, seed 0: diverged after" in (tmp_path / "comparison.md").read_text()
    assert [task.cell.name for task in comparison.left()] == ["hot <b>"]
    monkeypatch.setattr(comparisons, "spread", lambda call, items, jobs: [(0, Died("ended by SIGKILL"))])
    ((_, record),) = here(written(text)).measure()
    assert record.reason == "ended by SIGKILL"
    assert reasons(comparison.rows()) == ["hot <b>, digits, IPC 1, seed 0: ended by SIGKILL"]


def test_what_a_process_left_when_it_was_killed_is_taken_over_with_a_note(written, here):
    comparison = here(written(SMALL.replace("[0, 1]", "[0]") + HERDING))
    (task,) = comparison.tasks
    task.folder.mkdir(parents=True)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    lock = {"host": socket.gethostname(), "pid": ended.pid, "started": "", "token": ""}
    (task.folder / LOCK_FILE).write_text(json.dumps(lock))
    ((_, record),) = comparison.measure()
    assert record.reason is None
    assert "which has ended: its lock is taken over" in record.notes[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SMALL.replace("digits", "mnist") + DREAM, "cell dream, mnist, IPC 1, seed 0: "),
        (SMALL.replace("40", "5000") + DREAM, "5000"),
        (SMALL + DREAM + 'networks = ["resnet10"]', "cell dream, digits, IPC 1, seed 0: "),
        (SMALL + "[[cells]]\nrecipe = 'mtt'\n", "experts names no folder"),
    ],
)
def test_a_cell_that_cannot_run_is_named_before_anything_starts(text, said, written, here, tmp_path):
    assert said in refused(here, written(text), data_dir=str(tmp_path / "none"))
    assert list((tmp_path / "out").iterdir()) == []


def test_the_folder_of_something_else_is_refused(written, here, tmp_path):
    here(written(SMALL + HERDING))
    message = refused(here, written(SMALL + DREAM))
    assert "another grid, other settings or other data: none of its 2 cells is one of these 2" in message
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    assert "is not empty and holds no comparison" in refused(here, written(SMALL + DREAM), "full")
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["thesis.tex"]


# Tables


def test_a_table_has_means_over_seeds_and_published_figures_in_brackets(written):
    text = (
        '[shared]\ndataset = "cifar10"\nnetworks = ["convnet", "mlp"]\n[grid]\nipc = [1, 10]\nseed = [0, 1]\n'
        '[[cells]]\nname = "DREAM"\nrecipe = "dream"\n[[cells]]\ncoreset = ["herding", "whole"]\n'
    )
    from dream_accel.evaluation.cells import Record

    rows = [
        (cell, Record(accuracies={"convnet": [60.0 + 2 * cell.recipe.seed, 62.0 + 2 * cell.recipe.seed]}))
        for cell in read_grid(written(text)).cells
    ]
    rows[0][1].accuracies.clear()  # DREAM, IPC 1, seed 0
    rows[0][1].reason = "no"
    (table,) = tables(rows)
    assert table.header() == ["set", "IPC 1, convnet", "IPC 1, mlp", "IPC 10, convnet", "IPC 10, mlp"]
    whole = "62.0 ± 1.0 (84.8)"
    assert table.texts() == [
        ["DREAM", "63.0 ± 0.0, 1 of 2 seeds (51.1)", "failed", "62.0 ± 1.0 (69.4)", "–"],
        ["herding real images", "62.0 ± 1.0 (21.5)", "–", "62.0 ± 1.0 (31.6)", "–"],
        ["whole training set", whole, "–", whole, "–"],
    ]


# The command


@pytest.fixture
def run():
    """Starts ``dream-accel compare ...`` as a process of its own, which ends with the test."""
    started = []

    def start(*words):
        started.append(_started(*words))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _started(*words):
    command = [sys.executable, "-m", "dream_accel", "compare", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def table_of(folder):
    with open(folder / "comparison.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_interrupted_and_continued_writes_the_same_table(run, written, tmp_path):
    slow = DREAM.replace("iterations = 2", "iterations = 20").replace("inner_steps = 2", "inner_steps = 5")
    grid = written(SMALL.replace("[0, 1]", "[0]") + HERDING + slow)
    process = run(grid, "--out", tmp_path / "broken")
    seen = [process.stdout.readline(), process.stdout.readline()]
    assert seen[0] == "2 cells\n"
    assert seen[1].startswith("1 of 2: herding real images, digits, IPC 1, seed 0: ")
    end = time.monotonic() + 60
    while not list(tmp_path.glob("broken/cells/dream*/checkpoint.safetensors")) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert "interrupted: 1 of 2 cells measured; the same command continues" in out
    assert [line["accuracy"] != "" for line in table_of(tmp_path / "broken")] == [True, False]
    (record,) = (json.loads(file.read_text())["record"] for file in tmp_path.glob("broken/cells/dream*/cell.json"))
    assert record["iterations"] < 20
    for folder in ("broken", "whole"):
        process = run(grid, "--out", tmp_path / folder, "--jobs", 1)
        out, err = process.communicate(timeout=900)
        assert process.returncode == 0, err
        assert ("1 measured before" in out) == (folder == "broken")
        assert set(TABLE_FILES) <= {file.name for file in (tmp_path / folder).iterdir()}
    one, other = ((tmp_path / folder / "comparison.csv").read_bytes() for folder in ("broken", "whole"))
    assert one == other


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """``dream-accel compare ...`` with cells in this process: exit status, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparisons, "spread", lambda call, items, jobs: ((i, call(x)) for i, x in enumerate(items)))

    def called(*words):
        monkeypatch.setattr("sys.argv", ["dream-accel", "compare", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return called


def test_a_failed_cell_is_in_the_exit_status(written, command, tmp_path):
    grid = written(SMALL.replace("[0, 1]", "[0]") + DREAM + "pixel_lr = 1e38\n" + HERDING)
    status, out, err = command(grid, "--device", "cpu")
    assert status == 1
    assert re.search(r"failed: dream, digits, IPC 1, seed 0: diverged after .*\nerror: 1 cell failed", err, re.S)
    assert "written to runs/grid/" in out
    assert (tmp_path / "runs/grid/comparison.html").exists()


def test_quick_runs_a_ready_grid(command, tmp_path):
    status, out, err = command(GRIDS[[file.stem for file in GRIDS].index("tiny")], "--quick", "--device", "cpu")
    assert status == 0, err
    assert "3 of 3: " in out
    assert {line["network"] for line in table_of(tmp_path / "runs/tiny-quick")} == {"convnet", "mlp"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["grid.toml", "--jobs", "0"], "jobs is 0"),
        (["none.toml"], "none.toml cannot be read"),
        (["grid.toml", "--device", "tpu"], "device 'tpu'"),
    ],
)
def test_a_command_that_cannot_run_is_refused_and_leaves_nothing(words, said, written, command, tmp_path):
    written(SMALL + DREAM)
    status, _, err = command(*words)
    assert status == 2
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["grid.toml"]
