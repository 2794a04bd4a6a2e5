"""The command line: whole commands on small data, their files, their flags, their refusals."""

import csv
import json
import os
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import save_file

import dream_accel as da
from dream_accel import cli
from dream_accel.cli.main import format_warning
from dream_accel.data import ImageSet, load_dataset
from dream_accel.engine.distiller import Distiller
from dream_accel.engine.splits import images_there_are
from dream_accel.errors import DreamAccelWarning
from dream_accel.networks import NETWORKS
from dream_accel.recipes import PANELS, RECIPES, Recipe
from dream_accel.sampling.selection import SELECTION_NAMES
from dream_accel.sampling.strategies import STRATEGIES
from dream_accel.synthetic import INITS

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """The one sentence of a refusal."""
        assert self.code == 2
        assert self.err.startswith("error: ")
        assert self.err.count("\n") == 1
        return self.err.removeprefix("error: ").rstrip()


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """``dream-accel ...`` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)

    def call(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["dream-accel", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), shown.out, shown.err)

    return call


def pictures(n: int, n_classes: int, seed: int, side: int = 8) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.RandomState(seed)
    labels = np.arange(n) % n_classes
    noise = draws.randint(0, 60, (n, side, side))
    return (noise + 190 * labels[:, None, None] // max(n_classes - 1, 1)).astype(np.uint8), labels


@pytest.fixture
def small(tmp_path) -> str:
    """A data set of one's own: 3 classes, 8x8, 36 + 12 images."""
    (x_train, y_train), (x_test, y_test) = pictures(36, 3, 0), pictures(12, 3, 1)
    np.savez(tmp_path / "small.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return f"npz:{tmp_path}/small.npz"


TINY = ("--clusters", 4, "--ipc", 2, "--iterations", 2, "--inner-steps", 2, "--width", 4, "--depth", 2)
TINY += ("--factor", 1, "--network-images", 8, "--eval-epochs", 2, "--eval-networks", 1)


@pytest.fixture
def finished(run, small) -> Path:
    """A finished run."""
    assert run("distill", "--dataset", small, *TINY, "--out", "finished", "--no-evaluate").code == 0
    return Path("finished")


class TestDistill:
    def test_quick_digits_write_the_five_files(self, run):
        found = run("distill", "--quick", "--out", "out", "--device", "cpu")
        assert found.code == 0
        assert found.err == ""
        out = Path("out")
        five = {"distilled.safetensors", "config.json", "metrics.jsonl", "preview.png", "report.html"}
        assert five <= {path.name for path in out.iterdir()}
        result = da.load(out)
        assert result.images.shape == (50, 1, 8, 8)
        assert (result.recipe.width, result.recipe.limit_train) == (8, 200)
        (line,) = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert {"step", "loss", "images_per_second", "seconds"} <= set(line)
        assert line["step"] == 2
        config = json.loads((out / "config.json").read_text())
        assert config["recipe"]["dataset"] == "digits"
        assert config["versions"]["torch"] == torch.__version__
        page = (out / "report.html").read_text(encoding="utf-8")
        assert all(link.startswith("data:") for link in re.findall(r'(?:src|href)="([^"]*)"', page))
        for name in ("random real images", "K-Means-selected real images", "random sampling", "distilled, DREAM"):
            assert name in found.out
            assert name in page
        assert "digits: 200 training and 500 test images of 1x8x8, 10 classes, on cpu" in found.out
        assert found.out.count(" ± ") == 4
        assert "written to out/ (open out/report.html)" in found.out
        rows = [json.loads(line) for line in (out / "evaluations.jsonl").read_text().splitlines()]
        assert [row["name"] for row in rows][-1] == "distilled, DREAM"
        assert all(len(row["accuracies"]) == 1 for row in rows)

    def test_flags_reach_the_recipe(self, run, small):
        flags = (
            "--metric",
            "l1",
            "--pixel-lr",
            0.5,
            "--seed",
            3,
            "--init",
            "noise",
            "--factor",
            2,
            "--recipe",
            "dream+",
        )
        assert run("distill", "--dataset", small, *TINY, *flags, "--no-evaluate", "--out", "out").code == 0
        found = da.load("out").recipe
        assert (found.metric, found.pixel_lr, found.seed, found.init) == ("l1", 0.5, 3, "noise")
        assert (found.factor, found.recipe, found.feature_weight, found.depth) == (2, "dream+", 1.0, 2)

    def test_is_what_the_library_computes(self, run, finished, small):
        expected = da.distill(da.load(finished).recipe, device="cpu")
        assert torch.equal(da.load(finished).images, expected.images)

    def test_without_out_every_run_gets_a_folder_of_its_own(self, run, small):
        folders = []
        for _ in range(2):
            found = run("distill", "--dataset", small, *TINY, "--iterations", 0, "--no-evaluate")
            folders.append(re.search(r"written to (\S+)/ ", found.out)[1])
        assert folders[1] == folders[0] + "-2"
        assert Path(folders[0]).parent == Path("runs")
        assert all(da.load(folder).recipe.ipc == 2 for folder in folders)

    @pytest.mark.slow
    def test_baselines_on_request(self, run, small):
        found = run("distill", "--dataset", small, *TINY, "--baselines", "real", "--out", "out")
        assert found.out.count(" ± ") == 3
        assert run("distill", "--dataset", small, *TINY, "--out", "two").out.count(" ± ") == 1

    @pytest.mark.slow
    def test_baselines_by_name(self, run, small):
        flags = ("--baselines", "herding,forgetting,whole", "--real-epochs", 2, "--out", "out")
        found = run("distill", "--dataset", small, *TINY, *flags)
        assert found.code == 0
        names = [json.loads(line)["name"] for line in Path("out/evaluations.jsonl").read_text().splitlines()]
        assert names == [
            "real images by herding",
            "real images most often forgotten",
            "whole training set, 2 epochs",
            "distilled, DREAM",
        ]

    def test_an_image_folder_can_be_distilled(self, run, tmp_path):
        for c, name in enumerate(("ant", "bee")):
            (tmp_path / "photos" / name).mkdir(parents=True)
            for i, picture in enumerate(pictures(10, 1, c, 12)[0]):
                Image.fromarray(picture).resize((12 + i, 14)).save(tmp_path / "photos" / name / f"{i}.png")
        found = run(
            "distill",
            "--dataset",
            f"imagefolder:{tmp_path}/photos",
            *TINY,
            "--size",
            8,
            "--out",
            "out",
            "--no-evaluate",
        )
        assert found.code == 0
        assert da.load("out").class_names == ("ant", "bee")


class TestQuick:
    """A data set of 36 images, fewer than ``--quick`` takes of a large one."""

    def test_distill_takes_the_images_that_there_are_and_can_be_continued(self, run, small):
        options = ("--dataset", small, "--quick", "--depth", 2, "--ipc", 2, "--factor", 1)
        assert run("distill", *options, "--no-evaluate", "--out", "out").code == 0
        assert json.loads(Path("out/config.json").read_text())["recipe"]["limit_train"] == 36
        assert run("distill", "--resume", "out", "--iterations", 2, "--no-evaluate").code == 0

    def test_select_and_bench_accuracy_take_them_too(self, run, small):
        assert run("select", "--dataset", small, "--quick", "--depth", 2, "--ipc", 2, "--out", "out").code == 0
        options = ("--dataset", small, "--quick", "--depth", 2, "--factor", 1, "--arms", "dream")
        assert run("bench", "accuracy", *options, "--out", "curve.csv").code == 0

    def test_more_classes_than_images_of_a_quick_run_get_an_image_each(self):
        images, labels = pictures(500, 250, 0)
        train = ImageSet.from_arrays(images, labels, 250)
        assert [images_there_are(limit, train) for limit in (0, 200, 300, 1000)] == [0, 250, 300, 500]

    @pytest.mark.parametrize("command", ["distill", "select"])
    def test_a_number_that_was_asked_for_is_refused_as_ever(self, run, small, command):
        message = run(command, "--dataset", small, "--quick", "--limit-train", 200, "--depth", 2).refusal
        assert "a subset of 200 images was asked for; allowed is 3 (one per class) to 36" in message


class TestInterruption:
    def test_keeps_what_is_done_and_resume_ends_with_the_same_bits(self, run, finished, small):
        iteration, steps = Distiller.outer_iteration, iter(range(10**6))

        def interrupted(self, number, on_step):
            """Ctrl-C at the third matching step, in the middle of the second outer iteration."""

            def tick():
                if next(steps) == 2:
                    raise KeyboardInterrupt
                on_step()

            return iteration(self, number, tick)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Distiller, "outer_iteration", interrupted)
            found = run("distill", "--dataset", small, *TINY, "--out", "out")
        assert found.code == 130
        assert "iterations completed is kept; `dream-accel distill --resume out` continues" in found.out
        assert "test accuracy" not in found.out
        half = da.load("out")
        assert half.interrupted
        assert len(half.history) == 1
        assert "Interrupted after 1 of 2" in Path("out/report.html").read_text(encoding="utf-8")

        again = run("distill", "--resume", "out", "--no-evaluate")
        assert again.code == 0
        assert torch.equal(da.load("out").images, da.load(finished).images)
        assert len((Path("out") / "metrics.jsonl").read_text().splitlines()) == 2

    def test_ctrl_c_during_the_evaluation_keeps_the_distilled_set(self, run, small, finished, monkeypatch):
        def interrupted(*args):
            raise KeyboardInterrupt

        monkeypatch.setattr("dream_accel.evaluation.compare", interrupted)
        found = run("distill", "--dataset", small, *TINY, "--out", "out")
        assert found.code == 130
        assert "Traceback" not in found.err
        assert torch.equal(da.load("out").images, da.load(finished).images)
        assert not da.load("out").interrupted
        assert Path("out/report.html").exists()

    def test_resume_with_other_settings_is_refused(self, run, finished, small):
        found = run("distill", "--dataset", small, *TINY, "--seed", 5, "--out", finished, "--resume")
        assert "belongs to a run with seed 0, not 5" in found.refusal

    def test_resume_without_a_run_to_continue_is_refused(self, run, small):
        assert "--resume names no run" in run("distill", "--dataset", small, "--resume").refusal
        found = run("distill", "--dataset", small, *TINY, "--out", "typo", "--resume")
        assert "--resume finds no typo/checkpoint.safetensors" in found.refusal
        assert not Path("typo").exists()


class TestOutputFolder:
    def test_one_that_is_not_empty_is_refused_and_left_alone(self, run, finished, small):
        before = {path.name: path.read_bytes() for path in finished.iterdir()}
        found = run("distill", "--dataset", small, *TINY, "--out", finished)
        assert found.refusal == ("--out finished exists and is not empty: name another folder, or give --overwrite")
        assert {path.name: path.read_bytes() for path in finished.iterdir()} == before

    def test_overwrite_begins_anew(self, run, finished, small):
        first = da.load(finished)
        run("evaluate", finished, "--epochs", 1, "--networks", 1)
        found = run(
            "distill", "--dataset", small, *TINY, "--seed", 1, "--out", finished, "--overwrite", "--no-evaluate"
        )
        assert found.code == 0
        second = da.load(finished)
        assert not torch.equal(first.images, second.images)
        assert second.recipe.seed == 1
        assert len(second.history) == 2
        assert not (finished / "evaluations.jsonl").exists()

    def test_a_mistyped_data_set_does_not_cost_the_run_that_is_there(self, run, finished, small):
        found = run("distill", "--dataset", "npz:nowhere.npz", *TINY, "--out", finished, "--overwrite")
        assert "nowhere.npz" in found.refusal
        assert (finished / "checkpoint.safetensors").exists()

    def test_an_empty_one_may_be_used(self, run, small):
        Path("empty").mkdir()
        assert run("distill", "--dataset", small, *TINY, "--out", "empty", "--no-evaluate").code == 0

    @pytest.mark.parametrize("command", ["distill", "select"])
    def test_a_file_in_its_place_is_refused(self, run, small, command):
        Path("file").write_text("mine")
        assert run(command, "--dataset", small, *TINY, "--out", "file").refusal == "--out file is a file: name a folder"
        assert "file/below cannot be created" in run(command, "--dataset", small, *TINY, "--out", "file/below").refusal
        assert Path("file").read_text() == "mine"


class TestEvaluate:
    def test_prints_and_keeps_the_accuracy(self, run, finished):
        for _ in range(2):
            found = run("evaluate", finished, "--networks", 2, "--epochs", 3, "--seed", 4, "--width", 5)
            assert found.code == 0
            assert re.fullmatch(
                r"test accuracy \d+\.\d ± \d+\.\d % \(mean ± std of 2 networks, 3 epochs\)\n", found.out
            )
        lines = [json.loads(line) for line in (finished / "evaluations.jsonl").read_text().splitlines()]
        assert lines[0] == lines[1]
        assert len(lines[0]["accuracies"]) == 2
        assert (lines[0]["protocol"]["width"], lines[0]["protocol"]["depth"], lines[0]["protocol"]["seed"]) == (5, 2, 4)

    def test_is_what_the_library_computes(self, run, finished):
        run("evaluate", finished / "distilled.safetensors", "--epochs", 2)
        (line,) = [json.loads(line) for line in (finished / "evaluations.jsonl").read_text().splitlines()]
        assert tuple(line["accuracies"]) == da.evaluate(da.load(finished), device="cpu", epochs=2).accuracies

    def test_quick_is_short_unless_told_otherwise(self, run, finished):
        assert "1 network, 5 epochs" in run("evaluate", finished, "--quick").out
        assert "1 network, 2 epochs" in run("evaluate", finished, "--quick", "--epochs", 2).out

    @pytest.mark.parametrize("flag", ["networks", "epochs", "width", "depth"])
    def test_zero_is_refused(self, run, finished, flag):
        assert run("evaluate", finished, "--quick", f"--{flag}", 0).refusal.startswith(f"{flag} is 0")

    def test_a_missing_damaged_or_foreign_file_is_refused(self, run, tmp_path):
        assert "none/distilled" not in run("evaluate", "none").refusal
        (tmp_path / "empty").mkdir()
        assert "empty is of no known family of results" in run("evaluate", "empty").refusal
        Path("bad.safetensors").write_bytes(b"\x00" * 40)
        assert "damaged or foreign" in run("evaluate", "bad.safetensors").refusal
        save_file({"weight": torch.zeros(3)}, "model.safetensors")
        assert "of another program" in run("evaluate", "model.safetensors").refusal

    def test_a_data_set_that_went_away_is_named(self, run, finished, tmp_path):
        (tmp_path / "small.npz").unlink()
        assert f"there is no file {tmp_path}/small.npz" in run("evaluate", finished).refusal


class TestSelect:
    def test_writes_rows_of_the_training_set_by_class(self, run, small):
        found = run("select", "--dataset", small, "--ipc", 3, "--width", 4, "--depth", 2, "--out", "out")
        assert found.code == 0
        assert "9 images of 3 classes chosen by dream; written to out/" in found.out
        with open("out/selected.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        labels = load_dataset(small).train.labels
        assert [int(row["class"]) for row in rows] == [0] * 3 + [1] * 3 + [2] * 3
        assert [int(row["rank"]) for row in rows] == [0, 1, 2] * 3
        assert all(labels[int(row["index"])] == int(row["class"]) for row in rows)
        assert len({row["index"] for row in rows}) == 9
        assert Path("out/preview.png").read_bytes().startswith(b"\x89PNG")

    def test_indices_count_the_whole_training_set_also_where_a_subset_was_searched(self, run):
        assert run("select", "--quick", "--ipc", 2, "--strategy", "central", "--out", "out").code == 0
        with open("out/selected.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        labels = load_dataset("digits").train.labels
        assert all(labels[int(row["index"])] == int(row["class"]) for row in rows)
        assert max(int(row["index"]) for row in rows) > 200

    @pytest.mark.parametrize("strategy", SELECTION_NAMES)
    def test_takes_every_rule(self, run, small, strategy):
        words = ("--strategy", strategy, "--ipc", 3, "--width", 4, "--depth", 2, "--real-epochs", 2)
        found = run("select", "--dataset", small, *words, "--out", "out")
        assert found.code == 0
        assert f"9 images of 3 classes chosen by {strategy}; written to out/" in found.out
        with open("out/selected.csv", newline="") as file:
            rows = [(int(row["class"]), int(row["index"])) for row in csv.DictReader(file)]
        labels = load_dataset(small).train.labels
        assert len(set(rows)) == 9
        assert all(labels[index] == c for c, index in rows)

    def test_the_rule_is_that_of_the_recipe_by_default(self, run, small):
        words = ("select", "--dataset", small, "--ipc", 2, "--width", 4, "--depth", 2)
        assert "chosen by random" in run(*words, "--recipe", "dm").out

    def test_an_unknown_rule_lists_all_and_leaves_no_folder(self, run, small):
        message = run("select", "--dataset", small, "--strategy", "best", "--out", "out").refusal
        assert message == f"unknown strategy 'best': choose one of {', '.join(SELECTION_NAMES)}"
        assert not Path("out").exists()

    def test_forgetting_with_one_class_is_refused(self, run, tmp_path):
        pixels, labels = pictures(20, 1, 0)
        np.savez(tmp_path / "one.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
        words = ("--dataset", f"npz:{tmp_path}/one.npz", "--ipc", 2, "--width", 4, "--depth", 2)
        said = "forgetting counts the mistakes of a network, and with one class it makes none"
        assert run("select", *words, "--strategy", "forgetting").refusal.startswith(said)
        assert run("distill", *words, "--baselines", "forgetting").refusal.startswith(said)

    def test_more_than_a_class_has_is_refused(self, run, small):
        message = run("select", "--dataset", small, "--ipc", 13, "--depth", 2, "--width", 4).refusal
        assert "pick at most that many per class" in message


def test_doctor_ends_with_zero_where_all_is_well(run):
    found = run("doctor")
    assert found.code == 0
    assert "self-test passed" in found.out


def test_doctor_ends_with_one_where_a_result_is_wrong(run, monkeypatch):
    monkeypatch.setattr("dream_accel.backends.selftest.agrees", lambda name, op, args: name != "reference")
    assert run("doctor").code == 1


COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


def plain(text: str) -> str:
    """Help without frames, on one line."""
    return " ".join(re.sub(r"[╭╮╰╯│─]", " ", text).split())


class TestHelp:
    @pytest.fixture(autouse=True)
    def wide(self, monkeypatch):
        monkeypatch.setenv("COLUMNS", "300")
        monkeypatch.setenv("TERMINAL_WIDTH", "300")

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_flag_is_explained_with_its_default(self, run, name):
        shown = plain(run(name, "--help").out)
        for parameter in COMMANDS[name].params:
            assert parameter.help
            assert len(parameter.help) > 10
            assert parameter.help in shown
            if parameter.param_type_name == "argument":
                continue
            assert f"{parameter.opts[0]} " in shown
            explained = re.split(r" (?:\* )?--[a-z]", shown.partition(parameter.help)[2])[0]
            if not parameter.is_flag:
                assert "[default: " in explained or "[required]" in explained, parameter.name

    @pytest.mark.parametrize("name", ["distill", "select"])
    def test_every_setting_of_a_recipe_is_a_flag_in_its_panel(self, name):
        flags = {parameter.name: parameter for parameter in COMMANDS[name].params}
        for setting in fields(Recipe):
            assert flags[setting.name].opts == ["--" + setting.name.replace("_", "-")]
            assert flags[setting.name].rich_help_panel == setting.metadata["panel"].capitalize()
            default = setting.default if setting.default != "" else "none"
            assert flags[setting.name].show_default.startswith(str(default))

    def test_help_comes_in_panels(self, run):
        shown = run("distill", "--help").out
        panels = re.findall(r"╭─ (\w+) ─", shown)
        assert set(panels) == {"Options", *(panel.capitalize() for panel in PANELS), "Output"}
        assert COMMANDS["distill"].params[0].rich_help_panel

    def test_settings_that_differ_for_digits_are_said(self):
        flags = {parameter.name: parameter for parameter in COMMANDS["distill"].params}
        assert flags["ipc"].show_default == "10; digits: 5"
        assert "digits" not in flags["interval"].show_default

    def test_lists_of_names_are_those_of_the_registries(self):
        flags = {parameter.name: parameter for parameter in COMMANDS["distill"].params}
        for name, registry in (("recipe", RECIPES), ("strategy", STRATEGIES), ("init", INITS), ("network", NETWORKS)):
            assert flags[name].help.endswith(f": {', '.join(registry)}.")

    def test_the_program_lists_its_commands(self, run):
        found = run("--help")
        assert found.code == 0
        assert all(name in found.out for name in ("distill", "evaluate", "compare", "select", "convert", "doctor"))

    def test_version(self, run):
        assert run("--version").out == f"dream-accel {da.__version__}\n"

    def test_shell_completion_can_be_installed(self, run):
        assert "--install-completion" in run("--help").out

    def test_the_package_is_the_program(self):
        program = [sys.executable, "-m", "dream_accel", "--version"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        assert subprocess.run(program, env=environment, capture_output=True, text=True).stdout.startswith(
            "dream-accel "
        )


class TestRefusals:
    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            (
                ("--dataset", "cifar11"),
                "unknown data set 'cifar11' (did you mean cifar10?): choose one of digits, mnist",
            ),
            (("--recipe", "dreem"), "unknown recipe 'dreem': choose one of dream, dream+, idc"),
            (("--strategy", "all"), "unknown strategy 'all': choose one of dream, random, central, boundary"),
            (("--metric", "l2"), "unknown metric 'l2': choose one of mse, l1, l1_mean, cos, global_mse, global_cos"),
            (("--init", "zeros"), "unknown initialisation 'zeros': choose one of kmeans, random, mix, noise"),
            (
                ("--strategy", "herding"),
                "strategy 'herding' chooses a set once, by `dream-accel select` or --baselines",
            ),
            (("--baselines", "most"), "unknown choice of baselines 'most': choose one of none, real, all, or several"),
            (("--baselines", "real,most"), "unknown choice of baselines 'most': choose one of none, real, all"),
            (("--ipc", 0), "ipc is 0: it must be at least 1"),
            (("--factor", 9), "factor is 9 for 8x8 images: it must be between 1 and the image side, 8"),
            (("--depth", 4), "8x8 images vanish after 4 halvings: use depth 3 or less"),
            (("--limit-train", 9), "a subset of 9 images was asked for; allowed is 10 (one per class) to 1297"),
            (("--device", "gpu"), "device 'gpu' cannot be used here"),
        ],
        ids=lambda value: str(value[0]) if isinstance(value, tuple) else "",
    )
    def test_is_one_sentence_with_what_is_allowed_and_leaves_no_folder(self, run, flags, expected):
        assert run("distill", "--quick", "--out", "out", *flags).refusal.startswith(expected)
        assert not Path("out").exists() or not any(Path("out").iterdir())

    @pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
    @pytest.mark.parametrize("command", ["distill", "select"])
    def test_cuda_where_there_is_none(self, run, command):
        message = run(command, "--quick", "--device", "cuda").refusal
        assert message.startswith("device 'cuda' cannot be used here")
        assert message.endswith("choose one of cpu")

    def test_a_data_set_that_is_not_there_says_where_it_was_looked_for_and_how_to_get_it(self, run):
        message = run("distill", "--dataset", "cifar10", "--data-dir", "here").refusal
        assert "here" in message
        assert "--download" in message

    def refuse_npz(self, run, **changes) -> str:
        (x, y), (x_test, y_test) = pictures(36, 3, 0), pictures(12, 3, 1)
        np.savez("bad.npz", **{"x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test, **changes})
        message = run("distill", "--dataset", "npz:bad.npz", *TINY).refusal
        assert "bad.npz" in message
        return message

    def test_nan_pixels(self, run):
        broken = pictures(36, 3, 0)[0].astype(np.float32) / 255
        broken[5, 2, 2] = np.nan
        assert "image 5 has NaN or Inf pixels" in self.refuse_npz(run, x_train=broken)

    def test_labels_with_gaps(self, run):
        message = self.refuse_npz(run, y_train=pictures(36, 3, 0)[1] * 2)
        assert "no image carries the label of classes 1, 3" in message

    def test_training_and_test_images_of_different_size(self, run):
        assert "both must have one shape" in self.refuse_npz(run, x_test=pictures(12, 3, 1, 9)[0])

    def test_pictures_of_mixed_size(self, run, tmp_path):
        for name in ("ant", "bee"):
            (tmp_path / "photos" / name).mkdir(parents=True)
            for side in (8, 9):
                Image.new("L", (side, side)).save(tmp_path / "photos" / name / f"{side}.png")
        assert "--size" in run("distill", "--dataset", f"imagefolder:{tmp_path}/photos", *TINY).refusal

    def test_a_word_where_a_number_belongs(self, run):
        found = run("distill", "--ipc", "ten")
        assert found.code == 2
        assert "--ipc" in found.err


def test_notes_are_one_line_and_other_warnings_keep_their_place():
    assert format_warning("said once", DreamAccelWarning, "file.py", 3) == "note: said once\n"
    assert format_warning("old", DeprecationWarning, "file.py", 3) == "file.py:3: DeprecationWarning: old\n"


@pytest.mark.slow
def test_a_fresh_process_is_quiet_but_for_the_note_about_small_classes(small, tmp_path):
    """The real program: no progress bar in a pipe, and one note, once, though two runs are made."""
    flags = [*map(str, TINY), "--clusters", "20", "--baselines", "all", "--out", "out"]
    program = [sys.executable, "-c", "from dream_accel.cli import main; main()"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run(
        [*program, "distill", "--dataset", small, *flags], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0
    assert found.stdout.count(" ± ") == 4
    assert found.stderr.startswith("note: 3 of 3 classes have fewer images than the 20 clusters asked for")
    assert found.stderr.count("\n") == 1


@pytest.mark.skipif(
    not os.environ.get("DREAM_ACCEL_TEST_DATA"),
    reason="DREAM_ACCEL_TEST_DATA names no folder with FashionMNIST in torchvision's layout",
)
def test_fashion_mnist_quick(run):
    data = ("--data-dir", os.environ["DREAM_ACCEL_TEST_DATA"])
    flags = ("--dataset", "fashion-mnist", "--ipc", 1, "--eval-epochs", 1, "--no-evaluate", "--out", "out")
    found = run("distill", "--quick", *flags, *data)
    assert found.code == 0
    assert "fashion-mnist: 200 training and 10000 test images of 1x28x28, 10 classes" in found.out
    result = da.load("out")
    assert (result.recipe.depth, result.recipe.metric, result.synthetic.factor) == (3, "l1", 2)
    assert "Ankle boot" in result.class_names
    assert "1 network, 1 epoch" in run("evaluate", "out", "--quick", "--epochs", 1, *data).out
