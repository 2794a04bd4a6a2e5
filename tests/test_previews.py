"""Previews: which points of a run they keep, what they copy, and their way through a checkpoint and a resumed run."""

from dataclasses import replace

import pytest
import torch

import dream_accel as da
from dream_accel import previews as module
from dream_accel.data import DataSplit, ImageSet
from dream_accel.previews import PREVIEW_BYTES, Previews

SMALL = {"ipc": 1, "factor": 1, "width": 8, "clusters": 4, "network_images": 0, "inner_steps": 1, "match_augment": ""}


@pytest.fixture
def toy() -> DataSplit:
    images = torch.randint(256, (24, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    one = ImageSet.from_arrays(images, torch.arange(24) % 2, 2)
    return DataSplit("toy", one, one)


def after(count: int, pixels: torch.Tensor) -> Previews:
    made = Previews()
    for iteration in range(count + 1):
        made = made.after(iteration, pixels)
    return made


def test_short_runs_keep_every_iteration():
    assert after(5, torch.rand(2, 3, 1, 4, 4)).iterations == (0, 1, 2, 3, 4, 5)


def test_the_first_image_of_every_class_is_copied_in_eight_bits():
    pixels = torch.rand(2, 3, 1, 4, 4) * 2 - 0.5
    (image,) = Previews().after(0, pixels).images
    assert image.dtype == torch.uint8
    assert torch.equal(image, (pixels[:, 0].clamp(0, 1) * 255).round().to(torch.uint8))


@pytest.mark.parametrize("count", [7, 8, 9, 30, 100, 1000])
def test_long_runs_keep_even_steps_and_the_last_within_the_budget(monkeypatch, count):
    pixels = torch.rand(2, 1, 1, 4, 4)
    monkeypatch.setattr(module, "PREVIEW_BYTES", 16 * 32)
    kept = after(count, pixels)
    assert sum(image.nbytes for image in kept.images) <= 16 * 32
    assert kept.iterations[0] == 0
    assert kept.iterations[-1] == count
    steps = {b - a for a, b in zip(kept.iterations[:-2], kept.iterations[1:-1], strict=True)}
    assert len(steps) <= 1
    assert len(kept.iterations) >= min(count + 1, 8)


@pytest.mark.parametrize("shape", [(1000, 1, 3, 64, 64), (100, 1, 3, 224, 224), (2, 1, 3, 1000, 700)])
def test_large_sets_stay_within_the_budget(shape):
    made = after(40, torch.rand(1).expand(shape))
    assert sum(image.nbytes for image in made.images) <= PREVIEW_BYTES
    assert len(made.images) >= 8
    assert min(made.images[0].shape[-2:]) in range(64, 128)


def same(a: Previews, b: Previews) -> bool:
    return a.iterations == b.iterations and all(map(torch.equal, a.images, b.images))


def test_a_resumed_run_has_those_of_an_unbroken_one(toy, tmp_path):
    recipe = da.recipe("dream", "toy", iterations=4, **SMALL)
    whole = da.distill(recipe, toy, device="cpu")
    file = tmp_path / "run.safetensors"
    da.distill(replace(recipe, iterations=2), toy, device="cpu", checkpoint=file)
    resumed = da.distill(recipe, toy, device="cpu", checkpoint=file)
    assert whole.previews.iterations == (0, 1, 2, 3, 4)
    assert same(whole.previews, resumed.previews)
    assert torch.equal(whole.previews.images[-1], (whole.synthetic.images[:, 0] * 255).round().to(torch.uint8))
    assert whole.picks is not None
    assert resumed.picks is not None
    assert torch.equal(whole.picks, resumed.picks)
    # Nothing is left to do: both come from the file.
    again = da.distill(recipe, toy, device="cpu", checkpoint=file)
    assert same(again.previews, whole.previews)
    assert torch.equal(again.picks, whole.picks)


def test_picks_are_images_of_their_class(toy):
    recipe = da.recipe("dream", "toy", iterations=1, **SMALL)
    picks = da.distill(recipe, toy, device="cpu").picks
    assert picks is not None
    assert picks.shape == (toy.train.n_classes, 4)
    assert torch.equal(toy.train.labels[picks], torch.arange(len(picks)).unsqueeze(1).expand(-1, 4))
