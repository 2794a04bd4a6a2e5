"""The check of one GPU in its dry form: parts, time limits, exit status."""

import re
import sys

import pytest

from dream_accel.bench import gpu_check, harness


@pytest.mark.slow
def test_gpu_check_runs_every_part_and_sums_up(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_check, "MEASURED", {"kmeans": 100, "sorting": 5})
    assert gpu_check.main(["--out", str(tmp_path), "--device", "cpu", "--quick"]) == 0
    out = capsys.readouterr().out
    for line in (
        "doctor .* passed",
        "tests .* passed",
        "racecheck .* not run",
        "kmeans .* passed",
        "sorting .* not run",
    ):
        assert re.search(line, out), line
    assert harness.read_csv(tmp_path / "kmeans.csv")
    assert (tmp_path / "kmeans.png").exists()
    assert (tmp_path / "tests.log").read_text()


def test_gpu_check_cuts_off_a_part_that_overruns(tmp_path):
    part = gpu_check.Part("slow", [sys.executable, "-c", "import time; time.sleep(60)"], 0.2, decides=True)
    outcome = gpu_check.run(part, tmp_path / "log")
    assert outcome.result == "cut off after 0.2 s"
    assert outcome.seconds < 30


def test_gpu_check_fails_where_the_tests_do(tmp_path, monkeypatch):
    failing = gpu_check.Part("tests", [sys.executable, "-c", "raise SystemExit(3)"], 30, decides=True)
    passing = gpu_check.Part("kmeans", [sys.executable, "-c", ""], 30)
    monkeypatch.setattr(gpu_check, "parts", lambda *_: [failing, passing])
    assert gpu_check.main(["--out", str(tmp_path)]) == 1
    monkeypatch.setattr(gpu_check, "parts", lambda *_: [passing])
    assert gpu_check.main(["--out", str(tmp_path)]) == 0


def test_gpu_check_fits_into_nine_minutes(tmp_path):
    assert sum(part.seconds for part in gpu_check.parts("cuda", False, tmp_path)) <= 540
