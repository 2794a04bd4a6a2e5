"""The command line when something goes wrong: full disks, folders in use, Ctrl-C, divergence, other terminals."""

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from test_cli import TINY, pictures, run, small  # noqa: F401 (fixtures)

import dream_accel as da
from dream_accel.cli.output import Output
from dream_accel.engine.distiller import Distiller
from dream_accel.errors import DreamAccelWarning
from dream_accel.runtime.folders import LOCK_FILE, take_file, take_folder

PROGRAM = [sys.executable, "-m", "dream_accel"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture(autouse=True)
def one_thread(tmp_path, monkeypatch):
    """One thread, and a system folder for temporary files of the test's own, to which results are rescued."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    yield
    torch.set_num_threads(before)


@pytest.fixture
def finished(run, small) -> Path:  # noqa: F811
    assert run("distill", "--dataset", small, *TINY, "--out", "finished", "--no-evaluate").code == 0
    return Path("finished")


@contextmanager
def full(folder: Path, after: int = 0):
    """A disk on which nothing more can be written below ``folder`` once ``after`` files were."""
    import dream_accel.runtime.files as files

    written, plain = [], files.open if hasattr(files, "open") else open

    def refusing(path, *args, **kwargs):
        inside = Path(path).resolve().is_relative_to(folder.resolve())
        if inside and len(written) >= after:
            raise OSError(28, "No space left on device")
        written.extend([path] * inside)
        return plain(path, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "open", refusing, raising=False)
        yield


@contextmanager
def ctrl_c(at_step: int):
    """Ctrl-C at one of the matching steps, counted from 1."""
    iteration, steps = Distiller.outer_iteration, iter(range(1, 10**6))

    def interrupted(self, number, on_step):
        def tick():
            if next(steps) == at_step:
                raise KeyboardInterrupt
            on_step()

        return iteration(self, number, tick)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distiller, "outer_iteration", interrupted)
        yield


@contextmanager
def divergence(in_iteration: int, above: float = 0.0):
    """NaN in the pixels during one outer iteration, counted from 1, where the pixel rate is above a limit."""
    iteration = Distiller.outer_iteration

    def diverging(self, number, on_step):
        loss = iteration(self, number, on_step)
        if number + 1 == in_iteration and self.recipe.pixel_lr > above:
            self.pixels.pixels.fill_(float("nan"))
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distiller, "outer_iteration", diverging)
        yield


def hint(text: str) -> list[str]:
    """The arguments of the command that a message names."""
    return re.search(r"`dream-accel ([^`]*)`", text)[1].split()


class TestFullDisk:
    def test_before_the_first_iteration_it_is_found_and_nothing_is_computed(self, run, small, monkeypatch):  # noqa: F811
        """SimpleTuner#2353: a full disk was found after the last iteration, and the images were gone."""
        monkeypatch.setattr(Distiller, "outer_iteration", lambda *_: pytest.fail("work began"))
        with full(Path("out")):
            found = run("distill", "--dataset", small, *TINY, "--out", "out")
        assert "out/checkpoint.safetensors cannot be written (No space left on device)" in found.refusal
        assert not Path("out").exists()

    def test_during_the_run_the_result_is_written_elsewhere_printed_and_the_status_is_1(self, run, small, finished):  # noqa: F811
        """SimpleTuner#2353."""
        with full(Path("out"), after=1), pytest.warns(DreamAccelWarning, match="checkpoint .* cannot be written"):
            found = run("distill", "--dataset", small, *TINY, "--out", "out", "--baselines", "none")
        assert found.code == 1
        assert "Traceback" not in found.err
        second = Path(re.search(r"the result is written to (\S+)/", found.err)[1])
        assert "out cannot be written (No space left on device)" in found.err
        assert torch.equal(da.load(second).images, da.load(finished).images)
        assert {"report.html", "evaluations.jsonl", "checkpoint.safetensors"} <= set(os.listdir(second))
        assert " ± " in found.out
        assert f"written to {second}/" in found.out
        assert LOCK_FILE not in os.listdir("out")

    def test_a_checkpoint_that_alone_did_not_fit_is_written_elsewhere(self, run, small, monkeypatch):  # noqa: F811
        from dream_accel.engine.stored_run import Checkpoint

        save, times = Checkpoint.save, iter(range(100))

        def refusing(self, path, *args):
            if Path(path).parent.name == "out" and next(times) > 0:
                raise OSError(28, "No space left on device")
            save(self, path, *args)

        monkeypatch.setattr(Checkpoint, "save", refusing)
        with pytest.warns(DreamAccelWarning, match="checkpoint"):
            found = run("distill", "--dataset", small, *TINY, "--out", "out", "--no-evaluate")
        assert found.code == 1
        second = Path(re.search(r"written to (\S+)/", found.err)[1])
        assert run("distill", "--resume", second, "--no-evaluate").code == 0

    def test_evaluate_prints_the_accuracy_and_writes_it_elsewhere(self, run, finished):  # noqa: F811
        """SimpleTuner#2353: everything was trained, and then the write failed before the accuracy was printed."""
        with full(finished):
            found = run("evaluate", finished, "--quick")
        assert found.code == 1
        assert "test accuracy" in found.out
        second = re.search(r"the accuracy is written to (\S+)/", found.err)[1]
        assert len(Path(second, "evaluations.jsonl").read_text().splitlines()) == 1

    def test_evaluate_says_before_the_training_that_a_folder_cannot_be_written(self, run, finished, monkeypatch):  # noqa: F811
        """SimpleTuner#2353: a run in a read-only folder."""
        said_before = []

        def read_only(*args, **kwargs):
            raise OSError(30, "Read-only file system")

        def watch(*args, **kwargs):
            said_before.append(capture.err)
            return da.evaluation.Evaluation((50.0,), da.evaluation.Protocol(networks=1))

        class Capture:
            err = ""

            def write(self, text):
                self.err += text

            def flush(self):
                pass

            def isatty(self):
                return False

        capture = Capture()
        monkeypatch.setattr("dream_accel.runtime.folders.os.open", read_only)
        monkeypatch.setattr("dream_accel.evaluation.architectures.evaluate", watch)
        monkeypatch.setattr(sys, "stderr", capture)
        with full(finished):
            found = run("evaluate", finished, "--quick")
        assert "finished cannot be written to (Read-only file system)" in said_before[0]
        assert found.code == 1
        assert "test accuracy 50.0" in found.out

    def test_select_writes_its_choice_elsewhere(self, run, small):  # noqa: F811
        with full(Path("out")):
            found = run("select", "--dataset", small, "--ipc", 2, "--width", 4, "--depth", 2, "--out", "out")
        assert found.code == 1
        second = Path(re.search(r"written to (\S+)/", found.err)[1])
        assert set(os.listdir(second)) == {"selected.csv", "preview.png"}

    @pytest.mark.parametrize("command", ["select", "distill"])
    def test_a_read_only_place_is_refused_before_the_data_are_read(self, run, small, command, monkeypatch):  # noqa: F811
        def read_only(*args, **kwargs):
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr("dream_accel.runtime.folders.os.open", read_only)
        monkeypatch.setattr("dream_accel.engine.splits.load_split", lambda *_, **__: pytest.fail("data were loaded"))
        message = run(command, "--dataset", small, *TINY, "--out", "out").refusal
        assert message.startswith("out cannot be written to (Read-only file system)")
        assert run(command, "--dataset", small, *TINY).refusal.startswith("runs/")
        assert not Path("runs").exists()

    def test_what_can_be_written_nowhere_is_said_to_be_lost(self, tmp_path, capsys, monkeypatch):
        def nowhere(place):
            raise OSError(28, "No space left on device")

        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        output = Output(tmp_path / "out")
        output.write("the result is", nowhere)
        assert output.lost
        assert output.status == 1
        assert "the result is lost" in capsys.readouterr().err
        assert os.listdir(tmp_path / "temporary") == []


class TestFolderInUse:
    @pytest.mark.parametrize("command", ["distill", "select", "evaluate", "convert"])
    def test_is_refused_by_every_command_before_any_work(self, run, small, finished, command, monkeypatch):  # noqa: F811
        """plato#30: two runs with the same --out at once."""
        monkeypatch.setattr("dream_accel.engine.splits.load_split", lambda *_, **__: pytest.fail("data were loaded"))
        words = {
            "distill": ("--dataset", small, *TINY, "--out", "finished", "--overwrite"),
            "select": ("--dataset", small, "--out", "finished", "--overwrite"),
            "evaluate": (finished,),
            "convert": (finished, "finished", "--to", "run", "--overwrite"),
        }
        with take_folder("finished"):
            message = run(command, *words[command]).refusal
        assert f"finished is being written by process {os.getpid()} on host" in message

    @pytest.mark.slow
    def test_two_processes_that_begin_at_once_have_a_folder_each(self, small, tmp_path):  # noqa: F811
        """plato#30, with default names and with one name for both."""
        words = ["distill", "--dataset", small, *map(str, TINY), "--no-evaluate"]

        def both(*more: str) -> list[tuple[int, str, str]]:
            runs = [
                subprocess.Popen(
                    [*PROGRAM, *words, *more], cwd=tmp_path, env=ENVIRONMENT, stdout=-1, stderr=-1, text=True
                )
                for _ in range(2)
            ]
            ended = [process.communicate() for process in runs]
            return [(process.returncode, *said) for process, said in zip(runs, ended, strict=True)]

        named = [re.search(r"written to (\S+)/ ", out)[1] for _, out, _ in both()]
        assert len(set(named)) == 2
        codes = sorted(code for code, *_ in both("--out", "one"))
        assert codes == [0, 2]

    def test_a_folder_among_the_classes_of_the_images_is_refused(self, run, tmp_path):  # noqa: F811
        (tmp_path / "photos" / "ant").mkdir(parents=True)
        message = run("distill", "--dataset", "imagefolder:photos", "--out", "photos/out").refusal
        assert message == "--out photos/out is in photos, whose folders are the classes: name a folder elsewhere"
        assert os.listdir("photos") == ["ant"]


class TestConvert:
    @pytest.mark.parametrize("to", ["dc", "idc", "mtt", "run", "folder"])
    def test_only_regular_files_and_folders_are_written(self, run, finished, to):  # noqa: F811
        """As the superuser, `convert X /dev/full --overwrite` replaced the device."""
        before = os.stat("/dev/full")
        message = run("convert", finished, "/dev/full", "--to", to, "--overwrite").refusal
        assert message.startswith("/dev/full is ")
        assert os.stat("/dev/full").st_rdev == before.st_rdev

    @pytest.mark.parametrize("to", ["dc", "run", "folder"])
    def test_a_full_disk_is_one_sentence_and_the_source_stays(self, run, finished, to):  # noqa: F811
        before = da.load(finished).images
        with pytest.MonkeyPatch.context() as patch, full(Path("out")):
            if to == "folder":
                patch.setattr(
                    "dream_accel.formats.folder.require", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left"))
                )
            message = run("convert", finished, "out/dc.pt" if to == "dc" else "out", "--to", to).refusal
        assert "cannot be written (No space left" in message
        assert torch.equal(da.load(finished).images, before)

    def test_a_checkpoint_is_read_as_a_result_is(self, run, finished):  # noqa: F811
        """mtt#6, ssnl#11: evaluate called a checkpoint "of no known family"."""
        images = da.load(finished).images
        (finished / "distilled.safetensors").unlink()
        assert run("convert", finished, "out", "--to", "run").code == 0
        assert torch.equal(da.load("out").images, images)
        assert run("convert", finished / "checkpoint.safetensors", "out2", "--to", "folder").code == 0
        assert "test accuracy" in run("evaluate", finished, "--quick").out


class TestInterruption:
    def test_status_is_130_and_the_command_it_names_continues_to_the_same_bits(self, run, small, finished):  # noqa: F811
        """The printed hint was refused if followed: settings come from the run."""
        with ctrl_c(at_step=3):
            found = run("distill", "--dataset", small, *TINY, "--out", "a run")
        assert found.code == 130
        assert "--resume 'a run'" in found.out
        assert run("distill", "--resume", "a run", "--no-evaluate").code == 0
        assert torch.equal(da.load("a run").images, da.load(finished).images)
        assert not da.load("a run").interrupted

    def test_of_baselines_keeps_the_rows_that_are_measured_and_says_what_is_left(self, run, small, monkeypatch):  # noqa: F811
        from dream_accel.evaluation import baselines

        measure, calls = baselines.evaluate, []

        def interrupted(*args, **kwargs):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return measure(*args, **kwargs)

        monkeypatch.setattr(baselines, "evaluate", interrupted)
        found = run("distill", "--dataset", small, *TINY, "--baselines", "real", "--out", "out")
        assert found.code == 130
        assert found.out.count(" ± ") == 2
        assert "interrupted: not measured: distilled, DREAM; the distilled set is kept" in found.out
        rows = [json.loads(line) for line in Path("out/evaluations.jsonl").read_text().splitlines()]
        assert [row["name"] for row in rows] == ["random real images", "K-Means-selected real images"]
        page = Path("out/report.html").read_text(encoding="utf-8")
        assert "random real images" in page
        assert "Not measured: distilled, DREAM." in page
        monkeypatch.setattr(baselines, "evaluate", measure)
        assert run(*hint(found.out)).out.count(" ± ") == 3

    def test_between_two_networks_of_a_row_keeps_those_tested(self, run, small, monkeypatch):  # noqa: F811
        from dream_accel.evaluation import protocol

        test, calls = protocol._accuracy, []

        def interrupted(*args, **options):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return test(*args)

        monkeypatch.setattr(protocol, "_accuracy", interrupted)
        found = run("distill", "--dataset", small, *TINY, "--eval-networks", 3, "--out", "out", "--baselines", "none")
        assert found.code == 130
        assert "(2 of 3 networks)" in found.out
        (row,) = [json.loads(line) for line in Path("out/evaluations.jsonl").read_text().splitlines()]
        assert len(row["accuracies"]) == 2
        assert not row["complete"]
        assert "Not measured: distilled, DREAM." in Path("out/report.html").read_text(encoding="utf-8")

    def test_of_evaluate_prints_and_keeps_the_networks_that_are_tested(self, run, finished, monkeypatch):  # noqa: F811
        from dream_accel.evaluation import protocol

        test, calls = protocol._accuracy, []

        def interrupted(*args, **options):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return test(*args)

        monkeypatch.setattr(protocol, "_accuracy", interrupted)
        found = run("evaluate", finished, "--networks", 3, "--epochs", 1)
        assert found.code == 130
        assert "1 of 3 networks" in found.out
        (row,) = [json.loads(line) for line in (finished / "evaluations.jsonl").read_text().splitlines()]
        assert len(row["accuracies"]) == 1

    def test_while_the_result_is_written_writes_it_all_the_same(self, run, small, finished, monkeypatch):  # noqa: F811
        save, times = da.Result.save, iter(range(9))

        def interrupted(self, folder):
            if next(times) == 0:
                raise KeyboardInterrupt
            return save(self, folder)

        monkeypatch.setattr(da.Result, "save", interrupted)
        found = run("distill", "--dataset", small, *TINY, "--out", "out")
        assert found.code == 130
        assert torch.equal(da.load("out").images, da.load(finished).images)
        assert hint(found.out) == ["distill", "--resume", "out"]

    def test_anywhere_else_is_130_too(self, run, small, monkeypatch):  # noqa: F811
        def interrupted(*args, **options):
            raise KeyboardInterrupt

        monkeypatch.setattr("dream_accel.engine.splits.load_split", interrupted)
        found = run("distill", "--dataset", small, *TINY, "--out", "out")
        assert (found.code, found.err) == (130, "interrupted\n")
        assert not Path("out").exists()


class TestDivergence:
    def test_the_last_finite_iteration_is_the_result_and_a_lower_rate_continues(self, run, small, finished):  # noqa: F811
        """mtt#6, ssnl#11: NaN after 18 of 25 iterations, and nothing was written."""
        with divergence(2, above=0.001):
            found = run("distill", "--dataset", small, *TINY, "--out", "out")
            assert found.code == 3
            assert found.err.startswith("error: the synthetic pixels hold NaN or Inf")
            assert "images after 1 iteration" in found.err
            assert found.err.count("\n") == 1
            result = da.load("out")
            assert result.diverged
            assert len(result.history) == 1
            assert result.images.isfinite().all()
            assert json.loads(Path("out/config.json").read_text())["diverged"]
            assert "Diverged in iteration 2 of 2" in Path("out/report.html").read_text(encoding="utf-8")
            assert "test accuracy" in run("evaluate", "out", "--quick").out
            again = run(*hint(found.err), "--no-evaluate")
        assert again.code == 0
        result = da.load("out")
        assert not result.diverged
        assert len(result.history) == 2
        (change,) = json.loads(Path("out/config.json").read_text())["changes"]
        assert change == {"after_iteration": 1, "changed": {"pixel_lr": [0.005, 0.0005]}}
        assert "Continued after iteration 1 with pixel_lr 0.0005" in Path("out/report.html").read_text(encoding="utf-8")

    def test_a_baseline_that_diverges_is_a_row_of_that_name(self, run, small, monkeypatch):  # noqa: F811
        from dream_accel.errors import DivergenceError
        from dream_accel.evaluation import baselines

        distill = baselines.distill

        def diverging(*args, **kwargs):
            result = distill(*args, **kwargs)
            result.diverged = True
            raise DivergenceError("NaN", result)

        monkeypatch.setattr(baselines, "distill", diverging)
        found = run("distill", "--dataset", small, *TINY, "--baselines", "real", "--out", "out")
        assert "random real images (diverged after 0 iterations)" in found.out
        assert "distilled, DREAM" in found.out


class TestResume:
    @pytest.fixture
    def half(self, run, small) -> Path:  # noqa: F811
        with ctrl_c(at_step=3):
            run("distill", "--dataset", small, *TINY, "--out", "half")
        return Path("half")

    def test_takes_settings_device_and_data_folder_from_the_run(self, run, half, finished):  # noqa: F811
        found = run("distill", "--resume", half, "--no-evaluate")
        assert found.code == 0
        assert "continued after iteration 1" in found.out
        assert da.load(half).recipe == da.load(finished).recipe
        assert da.load(half).changes == []

    def test_the_folder_of_the_data_is_that_of_the_run(self, run, tmp_path, monkeypatch):  # noqa: F811
        (x, y), (x_test, y_test) = pictures(36, 3, 0), pictures(12, 3, 1)
        seen = []

        def load(recipe, device, data_dir=None, download=False, **options):
            seen.append(data_dir)
            return da.data.DataSplit.from_arrays((x, y), (x_test, y_test), name="mnist")

        monkeypatch.setattr("dream_accel.engine.splits.load_split", load)
        with ctrl_c(at_step=3):
            found = run("distill", "--dataset", "mnist", *TINY, "--data-dir", "here", "--device", "cpu", "--out", "out")
        assert run(*hint(found.out), "--no-evaluate").code == 0
        assert seen == ["here", str(tmp_path / "here")]

    @pytest.mark.parametrize("words", [["--out", "half", "--resume"], ["--resume", "--out", "half"]])
    def test_the_older_form_works(self, run, half, finished, words):  # noqa: F811
        assert run("distill", *words, "--no-evaluate").code == 0
        assert torch.equal(da.load(half).images, da.load(finished).images)

    def test_iterations_and_rates_may_change_and_are_recorded(self, run, half):  # noqa: F811
        found = run("distill", "--resume", half, "--iterations", 3, "--network-lr", 0.02, "--no-evaluate")
        assert "Continued after iteration 1 with iterations 3 (before: 2), network_lr 0.02 (before: 0.01)" in found.out
        result = da.load(half)
        assert len(result.history) == 3
        assert result.changes == [{"after_iteration": 1, "changed": {"iterations": [2, 3], "network_lr": [0.01, 0.02]}}]
        assert run("distill", "--resume", half, "--iterations", 4, "--no-evaluate").code == 0
        assert [change["after_iteration"] for change in da.load(half).changes] == [1, 3]

    def test_other_data_are_refused(self, run, half, tmp_path):  # noqa: F811
        """Two class folders swapped and images added: the pixels went on under the other class's name."""
        (x, y), (x_test, y_test) = pictures(36, 3, 0), pictures(12, 3, 1)
        parts = {"y_train": y, "x_test": x_test, "y_test": y_test}
        np.savez(tmp_path / "small.npz", x_train=x, **{**parts, "y_train": (3 - y) % 3})
        assert "other data (pixels or labels differ)" in run("distill", "--resume", half).refusal
        np.savez(tmp_path / "small.npz", x_train=x[:33], **{**parts, "y_train": y[:33]})
        assert "training images: 36 there and 33 here" in run("distill", "--resume", half).refusal

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["--seed", 5], "belongs to a run with seed 0, not 5"),
            (["--iterations", 0], "has completed 1 iteration, and iterations is 0"),
            (["--out", "other"], "leave --out out, `dream-accel distill --resume half`"),
            (["--overwrite"], "leave --overwrite out"),
            (["--quick"], "leave --quick out"),
        ],
        ids=str,
    )
    def test_what_contradicts_it_is_refused(self, run, half, words, expected):  # noqa: F811
        before = (half / "checkpoint.safetensors").read_bytes()
        assert expected in run("distill", "--resume", half, *words).refusal
        assert (half / "checkpoint.safetensors").read_bytes() == before


def test_a_file_that_a_benchmark_cannot_write_is_one_sentence(run, monkeypatch):  # noqa: F811
    def missing(*args):
        raise FileNotFoundError(2, "No such file or directory", "gone.csv")

    monkeypatch.setattr("dream_accel.bench.publish.remake", missing)
    found = run("bench", "render", "gone.csv")
    assert (found.code, found.err) == (1, "error: gone.csv: No such file or directory\n")


@pytest.mark.parametrize("name", ["kmeans", "step", "outer", "accuracy"])
def test_the_file_of_a_benchmark_is_taken_before_it_measures(run, name):  # noqa: F811
    """As the output of every command: one run at a time, regular files only."""
    with take_file("k.csv"):
        assert f"k.csv is being written by process {os.getpid()}" in run("bench", name, "--out", "k.csv").refusal
    assert run("bench", name, "--out", "/dev/null").refusal.startswith("/dev/null is a device")


class TestTerminals:
    def test_a_terminal_in_ascii_shows_what_it_can(self, small, tmp_path):  # noqa: F811
        """Output to an ASCII terminal ended in a traceback at the sign for plus or minus."""
        words = ["distill", "--dataset", small, *map(str, TINY), "--out", "o\u00fct", "--baselines", "none"]
        environment = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}
        found = subprocess.run([*PROGRAM, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        assert re.search(r"DREAM +\d+\.\d \+- 0\.0", found.stdout)
        assert r"written to o\xfct/" in found.stdout


def test_one_of_a_kind_is_singular(run, small):  # noqa: F811
    words = ("--dataset", small, *TINY, "--ipc", 1, "--iterations", 1, "--inner-steps", 1, "--eval-epochs", 1)
    found = run("distill", *words, "--out", "out", "--baselines", "none")
    assert "1 outer iteration, 1 matching step in" in found.out
    assert "1 image per class, 1 network each, 1 epoch" in found.out
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert "1 image per class" in page
    assert "1 network each, 1 epoch," in page
    assert "1 outer iteration, 1 matching step" in page
