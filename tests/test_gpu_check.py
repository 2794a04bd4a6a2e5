"""The kit of one GPU: steps and their limits, records of what came of them, the summary, simulated failures."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from dream_accel.bench import measurement
from dream_accel.bench.kit import __main__ as kit
from dream_accel.bench.kit import installing, predictions, runner, steps, summary

ROOT = Path(__file__).parents[1]
ROW = """
import sys
from pathlib import Path
from dream_accel.bench.measurement import Measurement, write_csv
line = Measurement("kmeans", "dream-cpu", "equal", 2, 10, 3, 4, "float32", "time per Lloyd iteration", 2.0, 2.0, 2.0,
                   "ms", 0.5, "cpu", 1, "v", "c")
write_csv(Path(sys.argv[1]), [line])
"""


def options(out, **changes):
    given = {"out": out, "device": "cuda", "quick": False, "wheels": None, "sanitizer": None, **changes}
    return SimpleNamespace(**given)


def step(name, code, seconds=30.0, **more):
    return steps.Step(name, [sys.executable, "-c", code], seconds, **more)


def row_step(out):
    return steps.Step("kmeans", [sys.executable, "-c", ROW, str(out / "kmeans.csv")], 60)


def results(out, part=2):
    return {outcome.name: outcome.result for outcome in runner.read(out / f"part-{part}.jsonl")}


class TestSteps:
    @pytest.mark.parametrize("part", steps.PARTS)
    def test_a_part_fits_into_nine_minutes_with_its_installation(self, part, tmp_path):
        found = steps.of_part(part, options(tmp_path))
        assert [step.name for step in found[:2]] == ["packages", "install"]
        assert sum(step.seconds for step in found) <= steps.BUDGET < 540

    def test_tests_that_reach_a_gpu_come_first_and_those_that_only_compile_are_left_out(self, tmp_path):
        marked, others = steps.of_part(1, options(tmp_path))[-2:]
        assert {"-v", "--tb=short"} <= {*marked.command} & {*others.command}
        assert marked.command[marked.command.index("-m", 3) + 1] == "gpu"
        files = [Path(word).name for word in others.command if word.endswith(".py")]
        assert files[0] == "test_reference.py"
        assert "test_triton_compile.py" not in files
        assert all((ROOT / "tests" / name).is_file() for name in files)

    def test_the_sanitizer_comes_last_without_cached_memory(self, tmp_path):
        found = steps.of_part(3, options(tmp_path, sanitizer="/opt/compute-sanitizer"))
        assert [step.name for step in found[2:]] == ["step", "outer", "distance", *steps.SANITIZED]
        for one in found[-4:]:
            assert one.env == {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
            assert one.command[:3] == ["/opt/compute-sanitizer", "--tool", one.name]
        assert [one.name for one in found[-4:] if one.decides] == ["memcheck", "racecheck", "synccheck"]

    def test_a_part_of_the_kit_leaves_at_most_eight_files(self, tmp_path):
        for part in steps.PARTS:
            written = {f"part-{part}.log", f"part-{part}.jsonl", kit.SUMMARY}
            for one in steps.of_part(part, options(tmp_path)):
                written |= {Path(word).name for word in one.command if str(tmp_path) in word}
            assert len(written) <= 8

    @pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
    def test_make_passes_on_part_folder_and_wheels(self):
        words = ["make", "-n", "gpu-check", "PART=2", "OUT=o", "WHEELS=w", "PYTHON=py"]
        env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        said = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout
        assert " ".join(said.replace("\\\n", "").split()) == "py -m bench.kit --part 2 --out o --wheels w"
        said = subprocess.run(
            ["make", "-n", "gpu-accuracy"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        assert "--seconds 480" in said


class TestRunner:
    def test_a_step_that_overruns_is_cut_off_with_its_children(self, tmp_path):
        child = "import time; time.sleep(60)"
        code = (
            f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]); print('begun', flush=True)"
        )
        began = time.monotonic()
        failed = runner.Runner(2, tmp_path).run([step("slow", f"{code}\n{child}", 2, decides=True), step("next", "")])
        assert time.monotonic() - began < 30
        assert failed
        assert results(tmp_path) == {"slow": "cut off after 2 s", "next": "passed"}

    def test_a_failing_step_hides_no_other_and_its_last_lines_are_printed(self, tmp_path, capsys):
        code = "print('\\n'.join(map(str, range(100)))); raise SystemExit(3)"
        informs = [step("informs", code), step("next", "print('here')")]
        assert not runner.Runner(2, tmp_path).run(informs)
        assert results(tmp_path) == {"informs": "failed with status 3", "next": "passed"}
        assert "\n99\n" in capsys.readouterr().out
        assert runner.Runner(2, tmp_path).run([step("decides", code, decides=True), step("next", "")])

    def test_a_command_that_is_not_there_is_a_result(self, tmp_path):
        gone = steps.Step("gone", ["/no/such/program"], 5)
        runner.Runner(2, tmp_path).run([gone, step("next", "")])
        assert results(tmp_path)["gone"].startswith("failed: FileNotFoundError")
        assert results(tmp_path)["next"] == "passed"

    def test_no_step_takes_longer_than_is_left_of_its_part(self, tmp_path):
        found = [step("long", "import time; time.sleep(60)", 50), step("late", "", 50, decides=True)]
        assert runner.Runner(2, tmp_path, budget=2.5).run(found)
        cut, late = results(tmp_path).values()
        assert cut.startswith("cut off after 2.")
        assert late == "not run: the time of the part is over"

    def test_time_that_earlier_steps_left_goes_to_those_that_measure_but_not_what_later_ones_need(self, tmp_path):
        held = runner.Runner(2, tmp_path, budget=100)
        measuring = step("kmeans", "", 30, stretches=True)
        assert held._limit(measuring, after=50) == pytest.approx(50, abs=2)
        assert held._limit(measuring, after=10) == 60
        assert held._limit(measuring, after=90) == 30
        assert held._limit(step("doctor", "", 30), after=10) == 30


KILLED = """
import sys
from dream_accel.bench.kit import __main__ as kit, steps
from test_gpu_check import row_step, step
from pathlib import Path
out = Path(sys.argv[1])
sleep = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(300)"
steps.of_part = lambda *_: [row_step(out), step("tiles", sleep, 60, decides=True), step("after", "")]
kit.main(["--part", "2", "--out", str(out)])
"""


def alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL], ids=lambda sent: sent.name)
def test_a_part_killed_in_the_middle_leaves_its_rows_and_a_summary(tmp_path, sent):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *filter(None, sys.path)])}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], env=env, stdout=subprocess.DEVNULL)
    log, deadline = tmp_path / "part-2.log", time.monotonic() + 120
    while not (log.exists() and re.search(r"^pid \d+$", log.read_text(), re.MULTILINE)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(sent)
    process.wait(30)
    pid = int(re.search(r"^pid (\d+)$", log.read_text(), re.MULTILINE)[1])
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert len(measurement.read_csv(tmp_path / "kmeans.csv")) == 1
    if sent == signal.SIGKILL:
        assert not (tmp_path / kit.SUMMARY).exists()
        assert kit.main(["--part", "summary", "--out", str(tmp_path)]) == 0
    text = (tmp_path / kit.SUMMARY).read_text()
    assert "| 2 | kmeans | passed |" in text
    assert re.search(r"\| 2 \| tiles \| (cut off|stopped) with the part \|", text)
    assert "| equal, 2 groups, 10 x 3, K 4 | 2 | 0.5 |" in text
    assert "part 1, build, self-test, tests: it has not run" in text


FILL = """
import sys
try:
    with open(sys.argv[1], "wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
except OSError as error:
    print(error)
"""
LOUD = "import sys\nfor _ in range(9999): print('x' * 99, flush=True)"


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_leaves_the_rows_and_runs_the_other_steps(small_disk, monkeypatch, capsys):
    fill = steps.Step("fill", [sys.executable, "-c", FILL, str(small_disk / "filler")], 30)
    found = [row_step(small_disk), fill, step("loud", LOUD), step("last", "print('end')")]
    monkeypatch.setattr(steps, "of_part", lambda *_: found)
    kit.main(["--part", "2", "--out", str(small_disk)])
    assert len(measurement.read_csv(small_disk / "kmeans.csv")) == 1
    said = capsys.readouterr().out
    assert "cannot be written: [Errno 28]" in said
    assert re.search(r"^  last +[\d.]+ s  passed$", said, re.MULTILINE)
    assert "| equal, 2 groups, 10 x 3, K 4 | 2 | 0.5 |" in said


def test_what_cannot_be_written_is_printed(tmp_path, monkeypatch, capsys):
    found = [row_step(tmp_path), step("last", "")]
    monkeypatch.setattr(steps, "of_part", lambda *_: found)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(runner, "open", full, raising=False)
    assert kit.main(["--part", "2", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^  last +[\d.]+ s  passed$", said, re.MULTILINE)
    assert "| equal, 2 groups, 10 x 3, K 4 | 2 | 0.5 |" in said
    assert "the summary above is not written" in said


class TestPackages:
    def test_a_missing_package_is_named_and_only_those_a_run_needs_fail(self, tmp_path, monkeypatch, capsys):
        gone = {"sorting-peer": "no_such_peer", "no-such-program": "no_such_program"}
        monkeypatch.setattr(installing, "NEEDED", {"sorting-peer": "no_such_peer"})
        assert installing.packages(None) == 0
        assert "sorting-peer: no folder of wheels was named" in capsys.readouterr().out
        assert installing.packages(tmp_path / "none") == 0
        assert "sorting-peer: there is no folder" in capsys.readouterr().out
        monkeypatch.setattr(installing, "NEEDED", gone)
        monkeypatch.setattr(installing, "RUNS", {"no-such-program": ""})
        assert installing.packages(None) == 1

    def test_packages_come_from_the_folder_alone(self, tmp_path, monkeypatch):
        asked = []

        def pip(command, **_):
            asked.append(command)
            return SimpleNamespace(returncode=int(len(asked) < 2), stderr="no such wheel", stdout="")

        monkeypatch.setattr(installing.subprocess, "run", pip)
        assert installing._from_folder("flashlib", tmp_path) == ""
        assert all({"--no-index", "--find-links", str(tmp_path)} <= {*command} for command in asked)
        assert ["--no-deps" in command for command in asked] == [False, True]

    def test_the_licence_needs_no_recent_setuptools(self):
        project = (ROOT / "pyproject.toml").read_text().partition("[project]")[2].partition("\n[")[0]
        assert not re.search(r"^license(-files)? *=", project, re.MULTILINE)
        assert 'license="Apache-2.0"' in (ROOT / "setup.py").read_text()


MODEL = """
from collections import namedtuple
Prediction = namedtuple("Prediction", "ms bound")
def known_device(name):
    return "H100" if name == "cpu" else None
def predict(kind, device, **shape):
    if kind != "kmeans iteration":
        raise KeyError("no " + kind)
    sizes = dict(groups=2, rows=10, features=3, clusters=4)
    assert shape == dict(graph=True, precision="tf32", empty="keep", of_fit=20, **sizes)
    return Prediction(4.0, "memory")
"""


def measured(metric="time per Lloyd iteration", mode="equal, graph, tf32", p50=2.0, **changes):
    values = {"groups": 2, "rows": 10, "features": 3, "clusters": 4, "dtype": "float32", "metric": metric}
    values |= {"p20": p50, "p50": p50, "p80": p50, "unit": "ms", "floor": 0.5, "device": "cpu", "threads": 1}
    values |= {"kernel": "kmeans", "provider": "dream-cuda", "mode": mode, "versions": "v", "commit": "c", **changes}
    return measurement.Measurement(**values)


class TestPredictions:
    rows = (measured(), measured("whole fit, 20 iterations", p50=40.0), measured(provider="flashlib"))

    @pytest.fixture
    def model(self, monkeypatch):
        module = ModuleType("dream_accel.bench.gpu_model")
        exec(MODEL, module.__dict__)
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def test_without_a_model_there_is_none(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "dream_accel.bench.gpu_model", None)
        assert predictions.predictions("cpu", self.rows) is None

    def test_measured_and_predicted_stand_side_by_side(self, model):
        found = predictions.predictions("cpu", self.rows)
        assert "equal, 2 groups, 10 x 3, K 4 | 2 | 4 | 0.50 | memory |" in found
        assert found.count("\n") == 3

    def test_a_row_without_a_prediction_leaves_the_others_theirs(self, model):
        step = measured("time of a matching step", "digits, vmap, graphs", kernel="step")
        found = predictions.predictions("cpu", [*self.rows, step])
        assert "| matching step, vmap, graphs | 2 | – | – | KeyError: 'no matching step' |" in found
        assert "| 2 | 4 | 0.50 | memory |" in found

    def test_an_unknown_gpu_is_named(self, model):
        assert predictions.predictions("GTX 9", self.rows) == "The model has no constants of GTX 9.\n"

    def test_a_mig_slice_is_not_compared_with_the_whole_gpu(self):
        found = predictions.predictions("NVIDIA H100 80GB HBM3 MIG 1g.10gb", self.rows)
        assert "is a MIG slice (1g.10gb), and the model predicts whole GPUs" in found
        assert found.count("\n") == 1
        assert "| measured" not in found


class TestSummary:
    def record(self, folder, part, *outcomes):
        folder.mkdir(exist_ok=True)
        lines = [json.dumps({**runner.Outcome(part, *outcome).__dict__}) for outcome in outcomes]
        (folder / f"part-{part}.jsonl").write_text("\n".join(lines) + '\n{"part": 1, "na')

    def test_nothing_at_all_is_said_to_be_missing(self, tmp_path):
        text = summary.text([tmp_path / "none"])
        assert "No part has run." in text
        assert all(f"part {part}, " in text for part in steps.PARTS)

    @pytest.mark.parametrize("came_back", [(1,), (3,), (1, 3), (2, 3), (1, 2, 3)], ids=str)
    def test_any_combination_of_parts_in_folders_of_their_own(self, came_back, tmp_path):
        for part in came_back:
            self.record(tmp_path / f"{part}", part, (f"only-{part}", "passed", 1.0, 9.0, True))
        text = summary.text([tmp_path / f"{part}" for part in steps.PARTS])
        for part in steps.PARTS:
            assert (f"| {part} | only-{part} | passed | 1 of 9 | yes |" in text) == (part in came_back)
            assert (f"part {part}, {steps.PARTS[part]}: it has not run" in text) == (part not in came_back)

    def test_tests_are_counted_also_where_they_were_cut_off(self, tmp_path):
        self.record(tmp_path, 1, ("tests", "cut off after 9 s", 9.0, 9.0, True), ("doctor", "passed", 1.0, 9.0, True))
        log = "==== tests ====\ntests/test_a.py::test_one[x-1] PASSED [ 1%]\ntests/test_a.py::test_two FAILED [ 2%]\n"
        log += "tests/test_a.py::TestB::test_three PASSED [ 3%]\ntests/test_a.py::test_f\n"
        log += "==== doctor ====\nself-test FAILED in 2 places\n"
        (tmp_path / "part-1.log").write_text(log)
        text = summary.text([tmp_path])
        assert "- tests: 2 passed, 1 failed\n    - tests/test_a.py::test_two\n" in text
        assert "- doctor: self-test FAILED in 2 places\n" in text

    def test_tables_stand_beside_peers_and_missing_ones_say_why(self, tmp_path):
        lines = [measured(), measured(provider="flashlib", mode="equal, one batch, tf32", p50=6.0)]
        lines.append(measured(provider="faiss", mode="equal, one fit per group", **measurement.not_run("not there")))
        lines[-1] = measured(**{**lines[-1].__dict__})
        measurement.write_csv(tmp_path / "kmeans.csv", lines)
        text = summary.text([tmp_path])
        assert "| equal, 2 groups, 10 x 3, K 4 | 2 | 6 (3.00x) | 0.5 |" in text
        assert "- faiss, one fit per group, equal, 2 groups, 10 x 3, K 4: not there" in text
        assert "## Predicted" in text


FAKE_PEERS = {
    "fast_pytorch_kmeans": "import time\nclass KMeans:\n    def __init__(*a, **k): time.sleep(600)",
    "psutil": "",
    "fastkmeans": "raise RuntimeError('no kernel image is available')",
}


@pytest.mark.slow
def test_a_benchmark_of_the_kit_outlives_peers_that_hang_and_raise(tmp_path):
    for name, code in FAKE_PEERS.items():
        (tmp_path / "peers" / name).mkdir(parents=True)
        (tmp_path / "peers" / name / "__init__.py").write_text(code)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "peers"), *filter(None, sys.path)])}
    words = ["kmeans", "--device", "cpu", "--quick", "--out", str(tmp_path / "kmeans.csv"), "--peer-seconds", "10"]
    command = [sys.executable, "-m", "dream_accel.bench.kit.measure", *words]
    subprocess.run(command, env=env, cwd=ROOT, check=True, timeout=300)
    lines = measurement.read_csv(tmp_path / "kmeans.csv")
    reasons = {line.provider: line.why_not for line in lines if line.why_not and line.mode.startswith("equal")}
    assert reasons["fast-pytorch-kmeans"] == "no answer within 10 s"
    assert reasons["fastkmeans"] == "RuntimeError: no kernel image is available"
    timed = {line.provider for line in lines if line.metric == "time per Lloyd iteration"}
    assert {"dream-cpu", "scikit-learn"} <= timed


def processor_seconds(commands, **options):
    """Of some commands, one after another, with their children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for command in commands:
        subprocess.run(command, check=True, **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_the_dry_kit_runs_every_part_and_sums_up_in_the_time_of_thirty_starts(tmp_path):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text('#!/bin/sh\necho "========= ERROR SUMMARY: 0 errors, caching $PYTORCH_NO_CUDA_MEMORY_CACHING"\n')
    tool.chmod(0o755)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = ["make", "-s", "gpu-check", f"OUT={tmp_path / 'out'}", f"PYTHON={sys.executable}"]
    parts = [[*words, f"PART={part}", f"CHECK=--device cpu --quick --sanitizer {tool}"] for part in (1, 2, 3)]
    # A start of the command line takes two seconds of an idle server's processor, and more of one with other work.
    start = [sys.executable, "-m", "dream_accel", "--version"]
    one_start = processor_seconds([start] * 3, env=env, stdout=subprocess.DEVNULL) / 3
    assert processor_seconds(parts, cwd=ROOT, env=env, timeout=400) < 30 * one_start
    text = (tmp_path / "out" / kit.SUMMARY).read_text()
    for part in steps.PARTS:
        for name, result in results(tmp_path / "out", part).items():
            wanted = "not run: tiles are measured on a CUDA device" if name == "tiles" else "passed"
            assert result == wanted, name
            assert f"| {part} | {name} | {wanted} |" in text
    assert "- doctor: self-test passed" in text
    assert "- memcheck: ========= ERROR SUMMARY: 0 errors, caching 1" in text
    assert all(f"\n## {name}\n" in text for name in summary.CSVS)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in for a compiler is a shell's")
def test_a_plain_checkout_is_installed_without_internet_and_without_isolation(tmp_path):
    source, python = tmp_path / "checkout", tmp_path / "python"
    hidden = shutil.ignore_patterns("_C.*", "__pycache__", "results")
    for name in ("bench", "csrc", "dream_accel", "kernels"):
        shutil.copytree(ROOT / name, source / name, ignore=hidden, symlinks=True)
    for link in (source / "dream_accel" / name for name in ("bench", "kernels")):
        if link.is_symlink():
            link.unlink()
    for name in ("CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run([sys.executable, "-m", "venv", str(python)], check=True)
    (site,) = (python / "lib").glob("python*/site-packages")
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "others.pth").write_text("\n".join(others))
    for own in site.glob("setuptools*"):  # some venvs bring one, older than that of the tests
        shutil.rmtree(own)
    unset = {"PYTHONPATH", "DREAM_ACCEL_REQUIRE_NATIVE"}
    env = {name: value for name, value in os.environ.items() if name not in unset}
    env |= {"CXX": "false", "PIP_INDEX_URL": "http://127.0.0.1:9"}
    words = [str(python / "bin" / "python"), "-m", "bench.kit.installing", "install"]
    done = subprocess.run(words, cwd=source, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    where = "import dream_accel.bench.kit as kit; print(kit.__file__)"
    found = subprocess.run([words[0], "-c", where], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == source / "bench" / "kit" / "__init__.py"
    again = subprocess.run(words, cwd=source, env=env, capture_output=True, text=True, check=True)
    assert "already installed" in again.stdout
