"""The figure of README.md is drawn from a run and a curve."""

from pathlib import Path

import pytest
import torch
from support.refusals import refused

from dream_accel import Result, SyntheticSet, recipe
from dream_accel.bench import curve, overview

ROOT = Path(__file__).parents[1]
CURVE = ROOT / "bench/results/accuracy/digits-ipc1.csv"


def result_of(ipc: int, factor: int, channels: int = 1) -> Result:
    images = torch.rand(3, ipc, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    settings = recipe("dream", "digits", ipc=ipc, factor=factor)
    return Result(SyntheticSet(images, factor), settings, None, ("zero", "one", "two"))


@pytest.mark.parametrize(("ipc", "factor", "channels"), [(1, 1, 1), (5, 1, 3), (1, 2, 3)])
def test_command_draws_the_figure_from_a_run_and_a_curve(tmp_path, ipc, factor, channels):
    result_of(ipc, factor, channels).save(tmp_path / "run")
    out = tmp_path / "figures" / "overview.png"
    overview.main(["--run", str(tmp_path / "run"), "--curve", str(CURVE), "--out", str(out), "--columns", "4"])
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("upright", [False, True])
def test_images_of_a_class_share_a_row_or_a_column(upright):
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    rows = [torch.full((n, 1, 4, 4), shade) for n, shade in ((2, 0.25), (3, 0.75))]
    overview._grid(axis, rows, ("dark", "light"), upright)
    (picture,) = axis.get_images()
    pixels = torch.from_numpy(picture.get_array().data)
    pixels = pixels.T if upright else pixels
    step = 4 + overview.GAP
    assert [set(pixels[i * step : i * step + 4, :4].flatten().tolist()) for i in range(2)] == [{0.25}, {0.75}]
    assert set(pixels[:4, 2 * step :].flatten().tolist()) == {1.0}
    ticks = axis.get_xticklabels() if upright else axis.get_yticklabels()
    assert [tick.get_text() for tick in ticks] == ["dark", "light"]


def test_curve_without_points_is_refused(tmp_path):
    assert "no points" in refused(overview.draw, result_of(1, 1), [], tmp_path / "x.png")


def test_committed_figure_is_small_and_shows_a_committed_curve():
    assert (ROOT / "docs" / "overview.png").stat().st_size < 300_000
    assert curve.read_curve(ROOT / "bench/results/accuracy/fashion-mnist-ipc1.csv")
