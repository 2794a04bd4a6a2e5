"""Augmentation against loops over single images and pixels, and the properties matching relies on."""

import math
import re

import numpy as np
import pytest
import torch
from support.refusals import refused
from support.round_trips import no_host_round_trip

from dream_accel import augment
from dream_accel.augment import AUGMENTATIONS, Augmentation, cutmix

SHAPES = [(5, 3, 8, 8), (4, 1, 7, 10), (3, 3, 28, 28)]


pytestmark = pytest.mark.usefixtures("one_thread")


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(shape, generator=draws(seed))


def plain_color(image: np.ndarray, u: np.ndarray) -> np.ndarray:
    """DSA: brightness ±0.5, saturation 0..2, contrast 0.5..1.5."""
    image = image + (u[0] - 0.5)
    grey = image.mean(axis=0)
    image = (image - grey) * (2 * u[1]) + grey
    return (image - image.mean()) * (u[2] + 0.5) + image.mean()


def plain_crop(image: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Shift by up to an eighth of the side, zeros moving in."""
    _, height, width = image.shape
    shifts = []
    for side, number in ((height, u[0]), (width, u[1])):
        most = int(side / 8 + 0.5)
        shifts.append(int(number * (2 * most + 1)) - most)
    out = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            if 0 <= i + shifts[0] < height and 0 <= j + shifts[1] < width:
                out[:, i, j] = image[:, i + shifts[0], j + shifts[1]]
    return out


def plain_cutout(image: np.ndarray, u: np.ndarray) -> np.ndarray:
    """A hole of half the side around a drawn place, cut off at the border."""
    out = image.copy()
    begins = []
    for side, number in zip(image.shape[1:], u, strict=False):
        hole = int(side / 2 + 0.5)
        begins.append((int(number * (side + 1 - hole % 2)) - hole // 2, hole))
    (top, tall), (left, wide) = begins
    out[:, max(top, 0) : max(top + tall, 0), max(left, 0) : max(left + wide, 0)] = 0
    return out


def plain_flip(image: np.ndarray, u: np.ndarray) -> np.ndarray:
    return image[:, :, ::-1] if u[0] < 0.5 else image


def plain_warp(image: np.ndarray, matrix: list[list[float]]) -> np.ndarray:
    """Bilinear, zeros outside; coordinates run from -1 to 1 between the outer edges of the image."""
    _, height, width = image.shape
    out = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            x, y = (2 * j + 1) / width - 1, (2 * i + 1) / height - 1
            source_x = ((matrix[0][0] * x + matrix[0][1] * y + 1) * width - 1) / 2
            source_y = ((matrix[1][0] * x + matrix[1][1] * y + 1) * height - 1) / 2
            left, top = math.floor(source_x), math.floor(source_y)
            for row in (top, top + 1):
                for column in (left, left + 1):
                    if 0 <= row < height and 0 <= column < width:
                        weight = (1 - abs(source_x - column)) * (1 - abs(source_y - row))
                        out[:, i, j] += weight * image[:, row, column]
    return out


def plain_scale(image: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Each axis by 1/1.2 to 1.2."""
    x, y = (1 / 1.2 + number * (1.2 - 1 / 1.2) for number in u[:2])
    return plain_warp(image, [[x, 0.0], [0.0, y]])


def plain_rotate(image: np.ndarray, u: np.ndarray) -> np.ndarray:
    """±15 degrees."""
    angle = math.radians(30 * u[0] - 15)
    return plain_warp(image, [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


PLAIN = {
    "color": plain_color,
    "crop": plain_crop,
    "cutout": plain_cutout,
    "flip": plain_flip,
    "scale": plain_scale,
    "rotate": plain_rotate,
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_a_plain_loop_over_images(name, shape):
    images = pictures(*shape)
    augmentation = Augmentation(name)
    draw = augmentation.draw(len(images), draws(7))
    # The corners of the range too: the largest shift, the hole half outside.
    draw[0], draw[1] = 0, 1 - 2**-24
    found = augmentation.apply(images, draw)
    expected = [PLAIN[name](image, u) for image, u in zip(images.double().numpy(), draw[:, 0].numpy(), strict=True)]
    np.testing.assert_allclose(found.numpy(), np.stack(expected), atol=2e-4 if name == "rotate" else 2e-5)


def test_steps_are_applied_in_the_order_of_their_names():
    images = pictures(4, 3, 8, 8)
    augmentation = Augmentation("cutout_color_flip")
    draw = augmentation.draw(4, draws(3))
    expected = images.double().numpy()
    for step, name in enumerate(("cutout", "color", "flip")):
        expected = np.stack([PLAIN[name](image, u) for image, u in zip(expected, draw[:, step].numpy(), strict=True)])
    np.testing.assert_allclose(augmentation.apply(images, draw).numpy(), expected, atol=2e-5)


ALL = "color_crop_cutout_flip_scale_rotate"


def test_siamese_does_the_same_to_both_batches():
    real, synthetic = pictures(6, 3, 8, 8), pictures(2, 3, 8, 8, seed=2)
    augmentation = Augmentation(ALL)
    found = augmentation.siamese([real, synthetic], draws(5))
    one_draw = augmentation.draw(1, draws(5))
    for batch, images in zip(found, (real, synthetic), strict=True):
        for augmented, image in zip(batch, images, strict=True):
            torch.testing.assert_close(augmented, augmentation.apply(image[None], one_draw)[0])
    shared = augmentation.siamese([real, real[:2]], draws(9))
    torch.testing.assert_close(shared[0][:2], shared[1])


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_image_gets_its_own_draw(name):
    images = pictures(1, 3, 16, 16).expand(16, -1, -1, -1)
    found = Augmentation(name)(images, draws(0))
    kinds = len({tuple(image.flatten().tolist()) for image in found})
    assert kinds == 2 if name == "flip" else kinds > 8


def test_flip_turns_about_half_of_the_images():
    images = torch.arange(2.0).expand(2000, 1, 1, 2)
    flipped = (Augmentation("flip")(images, draws(0))[:, 0, 0, 0] == 1).float().mean()
    assert 0.45 < float(flipped) < 0.55


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_gradient_is_the_true_one(name):
    images = pictures(2, 3, 6, 6).double().requires_grad_()
    augmentation = Augmentation(name)
    draw = augmentation.draw(2, draws(2))
    assert torch.autograd.gradcheck(lambda x: augmentation.apply(x, draw), images, fast_mode=True)
    (gradient,) = torch.autograd.grad(augmentation.apply(images, draw).square().sum(), images)
    assert (gradient != 0).any()


class TestRepeatableWarp:
    """On a GPU ``F.grid_sample`` adds its gradient atomically, so differentiated images are warped by indexing."""

    @pytest.fixture(autouse=True)
    def by_indexing(self, monkeypatch):
        monkeypatch.setattr(augment, "_adds_atomically", lambda images: True)

    @pytest.mark.parametrize("name", ["scale", "rotate"])
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_image_and_gradient_are_those_of_grid_sample(self, name, shape, monkeypatch):
        images = pictures(*shape).double().requires_grad_()
        augmentation = Augmentation(name)
        draw = augmentation.draw(len(images), draws(7)).double()
        draw[0], draw[1] = 0, 1 - 2**-24
        found = augmentation.apply(images, draw)
        upstream = torch.randn(found.shape, generator=draws(8), dtype=torch.float64)
        (gradient,) = torch.autograd.grad(found, images, upstream)
        monkeypatch.setattr(augment, "_adds_atomically", lambda images: False)
        expected = augmentation.apply(images, draw)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, images, upstream)[0])

    @pytest.mark.parametrize("name", AUGMENTATIONS)
    def test_no_backward_pass_adds_in_any_order(self, name):
        images = pictures(3, 3, 8, 8).requires_grad_()
        augmentation = Augmentation(name)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
            augmentation.apply(images, augmentation.draw(3, draws(1))).sum().backward()
        names = {event.key for event in profiled.key_averages()}
        # Cropping reads no pixel twice, as the next test shows.
        allowed = "scatter" if name == "crop" else "nothing"
        assert not {n for n in names if re.search("grid_sampler|scatter|index_add|upsample", n) and allowed not in n}

    def test_cropping_reads_no_pixel_twice(self):
        images = pictures(16, 3, 9, 8).requires_grad_()
        augmentation = Augmentation("crop")
        (read,) = torch.autograd.grad(augmentation.apply(images, augmentation.draw(16, draws(1))).sum(), images)
        assert set(read.unique().tolist()) <= {0.0, 1.0}


def test_only_differentiated_images_on_a_gpu_are_warped_by_indexing():
    class Pretended:
        is_cuda = True
        requires_grad = True

    assert augment._adds_atomically(Pretended())
    with torch.no_grad():
        assert not augment._adds_atomically(Pretended())
    assert not augment._adds_atomically(torch.ones(1, requires_grad=True))


@pytest.mark.gpu
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_on_a_gpu_the_gradient_has_the_same_bits_every_time(name):
    images = pictures(64, 3, 32, 32).cuda().requires_grad_()
    augmentation = Augmentation(name)
    draw = augmentation.draw(64, draws(1)).cuda()
    upstream = torch.randn(images.shape, generator=draws(2)).cuda()
    gradients = [torch.autograd.grad(augmentation.apply(images, draw), images, upstream)[0] for _ in range(10)]
    assert all(torch.equal(gradients[0], other) for other in gradients)


def test_same_generator_seed_same_bits():
    images = pictures(6, 3, 8, 8)
    state = torch.get_rng_state()
    first, second, other = (Augmentation(ALL)(images, draws(seed)) for seed in (4, 4, 5))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("nothing", ["", "_", "__"])
def test_no_names_change_nothing(nothing):
    images = pictures(2, 3, 8, 8)
    assert torch.equal(Augmentation(nothing)(images, draws()), images)
    assert torch.equal(Augmentation(nothing).siamese([images], draws())[0], images)


def test_unknown_name_is_refused_with_the_list():
    assert refused(Augmentation, "color_crops") == (
        "unknown augmentation 'crops': choose one of color, crop, cutout, flip, scale, rotate"
    )


def test_nothing_waits_for_the_device():
    images, labels = pictures(6, 3, 8, 8), torch.arange(6)
    with no_host_round_trip():
        images = Augmentation(ALL)(images, draws())
        cutmix(images, labels, 0.5, draws())


class TestCutMix:
    labels = torch.arange(12)

    def own_value_images(self, side: int = 16) -> torch.Tensor:
        """Image i holds the number i everywhere, so every pixel tells where it came from."""
        return self.labels.float().view(-1, 1, 1, 1).expand(-1, 2, side, side)

    def test_weight_is_the_part_of_the_image_that_is_left(self):
        for seed in range(40):
            images, partners, weight = cutmix(self.own_value_images(), self.labels, 1.0, draws(seed))
            own = images == self.labels.view(-1, 1, 1, 1)
            lender = images == partners.view(-1, 1, 1, 1)
            assert (own | lender).all()
            strangers = partners != self.labels
            left = own[strangers].float().mean(dim=(1, 2, 3))
            torch.testing.assert_close(left, weight.expand_as(left))

    def test_what_is_pasted_is_one_box_at_one_place_for_all(self):
        boxes = 0
        for seed in range(20):
            images, partners, _ = cutmix(self.own_value_images(), self.labels, 1.0, draws(seed))
            pasted = (images != self.labels.view(-1, 1, 1, 1))[partners != self.labels]
            assert (pasted == pasted[:1, :1]).all()
            mask = pasted[0, 0]
            rows, columns = mask.any(dim=1), mask.any(dim=0)
            assert torch.equal(mask, rows.unsqueeze(1) & columns)
            for line in (rows, columns):
                assert int(line.int().diff().abs().sum()) <= 2
            boxes += bool(mask.any())
        assert boxes > 15

    def test_partners_are_a_permutation_of_the_batch(self):
        _, partners, _ = cutmix(self.own_value_images(), self.labels, 1.0, draws(0))
        assert sorted(partners.tolist()) == self.labels.tolist()
        assert partners.tolist() != self.labels.tolist()

    def test_probability_zero_pastes_nothing(self):
        for seed in range(10):
            images, _, weight = cutmix(self.own_value_images(), self.labels, 0.0, draws(seed))
            assert torch.equal(images, self.own_value_images())
            assert float(weight) == 1

    def test_probability_is_how_often_a_batch_is_mixed(self):
        images, labels = torch.rand(2, 1, 64, 64), torch.arange(2)
        mixed = [float(cutmix(images, labels, 0.3, draws(seed))[2]) < 1 for seed in range(600)]
        assert 0.23 < np.mean(mixed) < 0.36

    def test_area_of_the_box_is_uniform_before_it_is_cut_off(self):
        """Beta(1, 1): the smallest and largest boxes are as frequent as any."""
        images, labels = torch.zeros(1, 1, 64, 64), torch.zeros(1, dtype=torch.int64)
        left = np.array([float(cutmix(images, labels, 1.0, draws(seed))[2]) for seed in range(400)])
        assert left.min() < 0.3
        assert left.max() > 0.97
        assert 0.55 < left.mean() < 0.75

    def test_gradient_reaches_the_pixels_that_are_seen(self):
        images = pictures(4, 1, 8, 8).requires_grad_()
        mixed, _, weight = cutmix(images, torch.arange(4), 1.0, draws(3))
        (gradient,) = torch.autograd.grad(mixed.sum(), images)
        assert float(gradient.sum()) == mixed.numel()
        assert 0 < float(weight) < 1
