"""The synthetic set: packing and decoding, how it begins, its file."""

import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from support.refusals import refused

from dream_accel.networks import make_network
from dream_accel.sampling.classes import class_order
from dream_accel.synthetic import INITS, SyntheticSet, _weights_on_cpu, decode, encode, initial_images

pytestmark = pytest.mark.usefixtures("one_thread")


SIZES = [(1, 8, 8), (2, 8, 8), (3, 8, 8), (3, 28, 28), (3, 9, 9), (2, 7, 10), (3, 5, 11)]


def plain_decode(images: np.ndarray, factor: int) -> np.ndarray:
    """Cut with a loop, enlarge one part after another."""
    n, channels, height, width = images.shape
    rows, columns = -(-height // factor), -(-width // factor)
    canvas = np.full((n, channels, rows * factor, columns * factor), 0.5, np.float32)
    canvas[:, :, :height, :width] = images
    parts = []
    for image in canvas:
        for i in range(factor):
            for j in range(factor):
                part = torch.from_numpy(image[:, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].copy())
                parts.append(F.interpolate(part[None], (height, width), mode="bilinear", align_corners=False)[0])
    return torch.stack(parts).numpy()


@pytest.mark.parametrize(("factor", "height", "width"), SIZES)
class TestDecode:
    def test_agrees_with_cutting_one_part_after_another(self, factor, height, width):
        images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))
        found = decode(images, factor)
        assert found.shape == (2 * factor**2, 3, height, width)
        np.testing.assert_allclose(found.numpy(), plain_decode(images.numpy(), factor), atol=1e-6)

    def test_constant_images_come_back_in_reading_order(self, factor, height, width):
        grey = torch.linspace(0.1, 0.9, 2 * factor**2)
        images = grey.view(-1, 1, 1, 1).expand(-1, 3, height, width)
        packed = encode(images, factor)
        assert packed.shape == (2, 3, height, width)
        rows, columns = -(-height // factor), -(-width // factor)
        for i in range(factor):
            for j in range(factor):
                part = packed[:, :, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
                expected = grey.view(2, factor, factor)[:, i, j].view(2, 1, 1, 1).expand_as(part)
                torch.testing.assert_close(part, expected)
        # The far corner of a part at the border may be padding; the near corner never is.
        torch.testing.assert_close(decode(packed, factor)[:, 0, 0, 0], grey)

    def test_gradient_reaches_every_pixel_and_is_the_true_one(self, factor, height, width):
        images = torch.rand(1, 1, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        images.requires_grad_()
        assert torch.autograd.gradcheck(lambda x: decode(x, factor), images, fast_mode=True)
        (gradient,) = torch.autograd.grad(decode(images, factor).sum(), images)
        assert (gradient > 0).all()

    def test_gradient_is_the_adjoint_of_the_enlargement(self, factor, height, width):
        draws = torch.Generator().manual_seed(3)
        images = torch.rand(2, 3, height, width, generator=draws).requires_grad_()
        decoded = decode(images, factor)
        upstream = torch.randn(decoded.shape, generator=draws)
        (found,) = torch.autograd.grad(decoded, images, upstream)
        canvas = torch.full((2, 3, -(-height // factor) * factor, -(-width // factor) * factor), 0.5)
        canvas[:, :, :height, :width] = images.detach()
        canvas.requires_grad_()
        rows, columns = canvas.shape[2] // factor, canvas.shape[3] // factor
        parts = canvas.view(2, 3, factor, rows, factor, columns).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        enlarged = F.interpolate(parts, (height, width), mode="bilinear", align_corners=False)
        (expected,) = torch.autograd.grad(enlarged, canvas, upstream)
        torch.testing.assert_close(found, expected[:, :, :height, :width], rtol=1e-5, atol=1e-5)


class TestEnlargement:
    def test_no_operator_with_an_atomic_backward_is_used(self):
        images = torch.rand(2, 3, 9, 8).requires_grad_()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
            decode(images, 2).sum().backward()
        names = {event.key for event in profiled.key_averages()}
        assert "aten::bmm" in names
        assert not {name for name in names if re.search("upsample|scatter|gather|index_add|grid_sample", name)}

    def test_under_autocast_it_keeps_the_digits_of_the_pixels(self):
        images = torch.rand(2, 3, 8, 8)
        with torch.autocast("cpu", torch.bfloat16):
            found = decode(images, 2)
        assert torch.equal(found, decode(images, 2))

    def test_weights_kept_on_the_cpu_serve_after_inference_mode(self):
        images = torch.rand(1, 1, 6, 6)
        _weights_on_cpu.cache_clear()
        with torch.inference_mode():
            decode(images, 2)
        decode(images.requires_grad_(), 2).sum().backward()
        assert images.grad is not None

    def test_half_precision_images_keep_their_dtype(self):
        images = torch.rand(1, 1, 6, 6)
        found = decode(images.half(), 2)
        assert found.dtype == torch.float16
        torch.testing.assert_close(found.float(), decode(images, 2), atol=1e-3, rtol=1e-3)

    @pytest.mark.gpu
    @pytest.mark.parametrize(("factor", "height", "width"), SIZES)
    def test_on_a_gpu_the_gradient_has_the_same_bits_every_time(self, factor, height, width):
        draws = torch.Generator().manual_seed(4)
        images = torch.rand(50, 3, height, width, generator=draws).cuda().requires_grad_()
        decoded = decode(images, factor)
        torch.testing.assert_close(decoded.cpu(), decode(images.cpu(), factor), atol=1e-6, rtol=0)
        upstream = torch.randn(decoded.shape, generator=draws).cuda()
        gradients = [torch.autograd.grad(decode(images, factor), images, upstream)[0] for _ in range(10)]
        assert all(torch.equal(gradients[0], other) for other in gradients)


def test_decoded_labels_follow_their_images():
    images = (torch.arange(6.0).view(3, 2, 1, 1, 1) / 10).expand(-1, -1, 1, 4, 4)
    synthetic = SyntheticSet(images, factor=2)
    decoded, labels = synthetic.decode()
    assert decoded.shape == (24, 1, 4, 4)
    assert labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    torch.testing.assert_close(decoded[:, 0, 0, 0], torch.arange(6.0).repeat_interleave(4) / 10)
    assert synthetic.labels.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert (synthetic.n_classes, synthetic.ipc) == (3, 2)


def test_shrinking_is_an_average_of_what_it_covers():
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    packed = encode(images, 2)
    assert packed.mean() == pytest.approx(float(images.mean()), abs=0.02)
    smooth = torch.linspace(0, 1, 8).view(1, 1, 1, 8).expand(4, 1, 8, 8)
    assert (encode(smooth, 2)[0, 0, :4, :4] - smooth[0, 0, :4, ::2]).abs().max() < 0.15


def real_images(counts: tuple[int, ...] = (9, 7, 8)) -> tuple[torch.Tensor, torch.Tensor]:
    """Every image is its own random picture, classes in mixed order."""
    draws = torch.Generator().manual_seed(4)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=draws)]
    return torch.randint(0, 256, (len(labels), 1, 8, 8), generator=draws, dtype=torch.uint8), labels


def network(seed: int = 0):
    return make_network("convnet", (1, 8, 8), 3, 4, 2, seed)


def rows_of(start: torch.Tensor, images: torch.Tensor) -> list[list[int]]:
    """For every class and slot, the row of the real image found there; fails when it is none of them."""
    pixels = images.float() / 255
    found = []
    for own in start:
        matches = (own.unsqueeze(1) == pixels).flatten(2).all(dim=2)
        assert (matches.sum(dim=1) == 1).all()
        found.append(matches.int().argmax(dim=1).tolist())
    return found


@pytest.mark.parametrize("init", ["random", "kmeans", "mix"])
def test_whole_images_come_from_their_class_and_are_distinct(init):
    images, labels = real_images()
    start = initial_images(init, images, labels, 5, network=network(), seed=3)
    assert start.shape == (3, 5, 1, 8, 8)
    assert start.dtype == torch.float32
    for c, rows in enumerate(rows_of(start, images)):
        assert labels[rows].tolist() == [c] * 5
        assert len(set(rows)) == 5


@pytest.mark.parametrize("init", ["kmeans", "mix"])
def test_slots_of_a_factor_hold_distinct_shrunk_images_of_the_class(init):
    images, labels = real_images()
    start = initial_images(init, images, labels, 1, 2, network=network(), seed=3)
    shrunk = encode((images.float() / 255).repeat_interleave(4, dim=0), 2)[:, :, :4, :4]
    for c in range(3):
        rows = []
        for i, j in ((0, 0), (0, 4), (4, 0), (4, 4)):
            same = (start[c, 0, :, i : i + 4, j : j + 4] - shrunk).abs().flatten(1).amax(dim=1) < 1e-6
            assert same.sum() == 1
            rows.append(int(same.int().argmax()))
        assert labels[rows].tolist() == [c] * 4
        assert len(set(rows)) == 4


def test_random_init_keeps_whole_images_whatever_the_factor():
    images, labels = real_images()
    plain = initial_images("random", images, labels, 2, 1, seed=5)
    assert torch.equal(initial_images("random", images, labels, 2, 2, seed=5), plain)


def test_kmeans_init_takes_one_image_of_every_blob():
    blobs = torch.tensor([20, 90, 160, 240], dtype=torch.uint8).repeat(6)
    images = blobs.view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    labels = torch.arange(2).repeat_interleave(12)
    start = initial_images("kmeans", images, labels, 4, network=lambda x: x.flatten(1), seed=0)
    for own in start:
        assert sorted((own[:, 0, 0, 0] * 255).round().int().tolist()) == [20, 90, 160, 240]


def test_kmeans_init_embeds_normalised_images():
    images, labels = real_images()
    seen = []

    def embed(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x.flatten(1)

    initial_images("kmeans", images, labels, 2, network=embed, normalize=lambda x: x * 2 - 1)
    order, _ = class_order(images, labels)
    torch.testing.assert_close(torch.cat(seen), images[order].float() / 255 * 2 - 1)


def test_noise_is_uniform_and_independent_of_the_images():
    images, labels = real_images()
    start = initial_images("noise", images, labels, 50, seed=1)
    assert start.min() >= 0
    assert start.max() < 1
    assert start.mean() == pytest.approx(0.5, abs=0.01)
    assert start.std() == pytest.approx(12**-0.5, abs=0.01)
    assert torch.equal(initial_images("noise", 255 - images, labels, 50, seed=1), start)
    assert not torch.equal(start[0], start[1])


@pytest.mark.parametrize("init", INITS)
def test_same_seed_same_start_and_another_seed_another(init):
    images, labels = real_images()
    state = torch.get_rng_state()
    starts = [initial_images(init, images, labels, 3, network=network(), seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("init", ["random", "kmeans"])
def test_a_class_smaller_than_ipc_repeats_its_images(init):
    images, labels = real_images((9, 3, 4))
    start = initial_images(init, images, labels, 7, network=network(), seed=0)
    rows = rows_of(start, images)[1]
    assert labels[rows].tolist() == [1] * 7
    assert sorted(rows.count(row) for row in set(rows)) == [2, 2, 3]


def test_refusals_of_a_start_name_what_is_allowed():
    images, labels = real_images()
    assert refused(initial_images, "kmean", images, labels, 1) == (
        "unknown initialisation 'kmean': choose one of kmeans, random, mix, noise"
    )
    assert "ipc is 0" in refused(initial_images, "noise", images, labels, 0)
    assert refused(initial_images, "noise", images, labels, 1, 9) == (
        "factor is 9 for 8x8 images: it must be between 1 and the image side, 8"
    )
    assert "needs a network" in refused(initial_images, "kmeans", images, labels, 1)
    broken = lambda x: torch.full((len(x), 2), torch.nan)  # noqa: E731
    assert "NaN or Inf" in refused(initial_images, "kmeans", images, labels, 1, network=broken)
    assert "class 1" in refused(initial_images, "noise", images, labels * 2, 1)


class TestFile:
    def test_round_trip_keeps_images_factor_and_metadata(self, tmp_path):
        images = torch.rand(2, 3, 1, 4, 4)
        SyntheticSet(images, 2, {"name": "é", "list": [1, 2.5]}).save(tmp_path / "set.safetensors")
        found = SyntheticSet.load(tmp_path / "set.safetensors")
        assert torch.equal(found.images, images)
        assert (found.factor, found.metadata) == (2, {"name": "é", "list": [1, 2.5]})
        assert [path.name for path in tmp_path.iterdir()] == ["set.safetensors"]

    def test_others_may_read_it_like_any_file(self, tmp_path):
        SyntheticSet(torch.rand(1, 1, 1, 4, 4)).save(tmp_path / "set.safetensors")
        (tmp_path / "plain").write_text("")
        assert (tmp_path / "set.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode

    def test_pixels_that_are_being_optimised_can_be_saved(self, tmp_path):
        pixels = torch.rand(2, 1, 1, 4, 4, requires_grad=True)
        SyntheticSet(pixels.transpose(3, 4)).save(tmp_path / "set.safetensors")
        assert torch.equal(SyntheticSet.load(tmp_path / "set.safetensors").images, pixels.detach().transpose(3, 4))

    def test_missing_file_is_named(self, tmp_path):
        assert refused(SyntheticSet.load, tmp_path / "no.safetensors").startswith(f"{tmp_path}/no.safetensors does not")

    @pytest.mark.parametrize("content", [b"", b"not a tensor file at all", b"\xff" * 64])
    def test_damaged_file_is_named(self, tmp_path, content):
        path = tmp_path / "set.safetensors"
        path.write_bytes(content)
        assert f"{path} cannot be read" in refused(SyntheticSet.load, path)

    def test_cut_off_file_is_named(self, tmp_path):
        path = tmp_path / "set.safetensors"
        SyntheticSet(torch.rand(1, 2, 1, 4, 4)).save(path)
        path.write_bytes(path.read_bytes()[:-8])
        assert f"{path} cannot be read" in refused(SyntheticSet.load, path)

    def test_file_of_another_program_is_named(self, tmp_path):
        path = tmp_path / "weights.safetensors"
        save_file({"images": torch.rand(1, 1, 1, 4, 4)}, path)
        assert "of another program" in refused(SyntheticSet.load, path)

    @pytest.mark.parametrize(
        "images",
        [torch.rand(4, 1, 4, 4), torch.zeros(1, 1, 1, 4, 4, dtype=torch.uint8), torch.full((1, 1, 1, 4, 4), torch.nan)],
        ids=["four-dimensional", "uint8", "nan"],
    )
    def test_images_of_another_form_are_refused(self, tmp_path, images):
        path = tmp_path / "set.safetensors"
        header = {"format": "dream_accel.synthetic/1", "factor": "1", "metadata": json.dumps({})}
        save_file({"images": images}, path, metadata=header)
        assert "expected finite floats" in refused(SyntheticSet.load, path)

    @pytest.mark.parametrize("factor", ["two", "0", "5"])
    def test_impossible_factor_is_refused(self, tmp_path, factor):
        path = tmp_path / "set.safetensors"
        header = {"format": "dream_accel.synthetic/1", "factor": factor, "metadata": json.dumps({})}
        save_file({"images": torch.rand(1, 1, 1, 4, 4)}, path, metadata=header)
        assert str(path) in refused(SyntheticSet.load, path)
