"""The data package: ImageSet, Normalization, subsets, and every source of `load_dataset`."""

import hashlib
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import dream_accel.data as data
from dream_accel.data import DataSplit, ImageSet, Normalization, load_dataset, subset
from dream_accel.data.stratified import allocate
from dream_accel.errors import DreamAccelError, DreamAccelWarning

RNG = np.random.RandomState(0)


def pixels(*shape: int) -> np.ndarray:
    return np.random.RandomState(sum(shape)).randint(0, 256, shape, dtype=np.uint8)


def image_set(counts: list[int], shape: tuple[int, int, int] = (1, 2, 2)) -> ImageSet:
    labels = np.random.RandomState(len(counts)).permutation(np.repeat(np.arange(len(counts)), counts))
    return ImageSet.from_arrays(pixels(len(labels), *shape), labels, n_classes=len(counts), layout="nchw")


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(DreamAccelError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestFromArrays:
    labels = (0, 1, 2, 0)

    def test_numpy_channels_last_becomes_contiguous_channels_first(self):
        images = pixels(4, 5, 6, 3)
        held = ImageSet.from_arrays(images, self.labels)
        assert held.images.is_contiguous()
        assert held.shape == (3, 5, 6)
        assert np.array_equal(held.images.numpy(), images.transpose(0, 3, 1, 2))

    def test_grey_images_get_a_channel_axis(self):
        assert ImageSet.from_arrays(pixels(4, 5, 6), self.labels).shape == (1, 5, 6)

    def test_channels_first_uint8_shares_memory(self):
        images = torch.from_numpy(pixels(4, 3, 5, 6))
        assert ImageSet.from_arrays(images, self.labels).images.data_ptr() == images.data_ptr()

    def test_ambiguous_layout_follows_the_library_the_array_comes_from(self):
        images = pixels(4, 3, 5, 3)
        assert ImageSet.from_arrays(images, self.labels).shape == (3, 3, 5)
        assert ImageSet.from_arrays(torch.from_numpy(images), self.labels).shape == (3, 5, 3)
        assert ImageSet.from_arrays(images, self.labels, layout="nchw").shape == (3, 5, 3)

    def test_other_channel_counts_need_the_layout(self):
        images = pixels(4, 5, 6, 4)
        assert 'layout="nchw"' in refusal(ImageSet.from_arrays, images, self.labels)
        assert ImageSet.from_arrays(images, self.labels, layout="nhwc").shape == (4, 5, 6)
        assert "'chw'" in refusal(ImageSet.from_arrays, images, self.labels, layout="chw")

    def test_lists_of_images_are_stacked(self):
        images = pixels(4, 5, 6, 3)
        held = ImageSet.from_arrays(list(images), list(self.labels))
        assert torch.equal(held.images, ImageSet.from_arrays(images, self.labels).images)
        tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
        assert torch.equal(ImageSet.from_arrays(tensors, self.labels).images, held.images)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
    def test_every_grey_level_survives_the_float_round_trip(self, dtype):
        levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
        held = ImageSet.from_arrays((levels.double() / 255).to(dtype), [0])
        assert torch.equal(held.images, levels)

    def test_float_pixels_are_rounded_not_truncated(self):
        held = ImageSet.from_arrays(np.full((1, 2, 2), 0.999), [0])
        assert held.images.unique().tolist() == [255]

    def test_float_pixels_are_converted_alike_in_chunks(self, monkeypatch):
        images = RNG.rand(7, 3, 4, 4)
        whole = ImageSet.from_arrays(images, [0] * 7)
        monkeypatch.setattr("dream_accel.data.convert._CHUNK_BYTES", 2 * 48 * 4)
        assert torch.equal(ImageSet.from_arrays(images, [0] * 7).images, whole.images)
        images[5, 0, 0, 0] = np.inf
        assert "image 5" in refusal(ImageSet.from_arrays, images, [0] * 7)

    def test_read_only_and_big_endian_arrays_are_accepted(self):
        images = pixels(4, 5, 6)
        images.flags.writeable = False
        labels = np.array(self.labels, dtype=">i4")
        held = ImageSet.from_arrays(images, labels)
        assert np.array_equal(held.images.numpy()[:, 0], images)
        assert held.labels.tolist() == list(self.labels)

    def test_classes_are_counted_and_named(self):
        plain = ImageSet.from_arrays(pixels(4, 5, 6), self.labels)
        assert (plain.n_classes, plain.class_names) == (3, ("0", "1", "2"))
        named = ImageSet.from_arrays(pixels(4, 5, 6), self.labels, class_names=["cat", "dog", "owl"])
        assert (named.n_classes, named.class_names) == (3, ("cat", "dog", "owl"))
        assert "2 class names for 3" in refusal(
            ImageSet.from_arrays, pixels(4, 5, 6), self.labels, n_classes=3, class_names=["a", "b"]
        )

    def test_column_of_labels_is_accepted(self):
        assert ImageSet.from_arrays(pixels(4, 5, 6), np.array(self.labels)[:, None]).labels.shape == (4,)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_pixels_that_are_not_finite_are_refused(self, value):
        images = np.full((4, 2, 2), 0.5, np.float32)
        images[2, 1, 0] = value
        assert "image 2 has NaN or Inf" in refusal(ImageSet.from_arrays, images, self.labels)

    @pytest.mark.parametrize("value", [-0.01, 1.01, 255.0])
    def test_float_pixels_outside_the_unit_interval_are_refused(self, value):
        images = np.full((4, 2, 2), 0.5)
        images[2, 1, 0] = value
        message = refusal(ImageSet.from_arrays, images, self.labels)
        assert f"{value:g}" in message
        assert "divide by 255" in message

    @pytest.mark.parametrize("dtype", [np.int64, np.int8, np.bool_, np.complex64])
    def test_other_pixel_types_are_refused(self, dtype):
        message = refusal(ImageSet.from_arrays, np.ones((4, 2, 2), dtype), self.labels)
        assert str(np.dtype(dtype)) in message
        assert "uint8" in message

    @pytest.mark.parametrize("labels", [[0.0, 1, 2, 0], [True, False, True, True], list("abca")])
    def test_labels_that_are_not_integers_are_refused(self, labels):
        assert "labels are" in refusal(ImageSet.from_arrays, pixels(4, 2, 2), labels)

    def test_an_empty_class_is_named(self):
        images = pixels(4, 2, 2)
        assert "class 1;" in refusal(ImageSet.from_arrays, images, [0, 2, 2, 0])
        names = ["cat", "dog", "owl"]
        assert "class 1 ('dog')" in refusal(ImageSet.from_arrays, images, [0, 2, 2, 0], class_names=names)
        assert "classes 3, 4" in refusal(ImageSet.from_arrays, images, self.labels, n_classes=5)

    def test_a_stray_huge_label_is_refused_at_once(self):
        assert "1, 2, 3, 4, 5, ..." in refusal(ImageSet.from_arrays, pixels(4, 2, 2), [0, 0, 0, 10**12])

    def test_labels_out_of_range_are_refused(self):
        assert "from -1 to 2" in refusal(ImageSet.from_arrays, pixels(4, 2, 2), [0, 1, 2, -1])
        assert "0..1 for 2 classes" in refusal(ImageSet.from_arrays, pixels(4, 2, 2), self.labels, n_classes=2)

    def test_empty_classes_are_accepted_when_asked_for(self):
        held = ImageSet.from_arrays(pixels(4, 2, 2), [0, 2, 2, 0], n_classes=4, allow_empty=True)
        assert held.class_counts().tolist() == [2, 0, 2, 0]
        assert "n_classes" in refusal(ImageSet.from_arrays, pixels(4, 2, 2), [0, 2, 2, 0], allow_empty=True)

    def test_number_of_labels_must_match(self):
        assert "4 images and 3 labels" in refusal(ImageSet.from_arrays, pixels(4, 2, 2), [0, 1, 2])
        assert "(4, 2)" in refusal(ImageSet.from_arrays, pixels(4, 2, 2), np.zeros((4, 2), int))

    def test_mixed_sizes_are_refused(self):
        images = [pixels(2, 2), pixels(2, 2), pixels(2, 3)]
        message = refusal(ImageSet.from_arrays, images, [0, 0, 0])
        assert "number 0 is (2, 2) and number 2 is (2, 3)" in message
        ragged = np.empty(3, dtype=object)
        ragged[:] = images
        assert refusal(ImageSet.from_arrays, ragged, [0, 0, 0]) == message

    def test_no_images_and_no_pixels_are_refused(self):
        assert "0 images" in refusal(ImageSet.from_arrays, pixels(0, 2, 2), [])
        assert "no pixels" in refusal(ImageSet.from_arrays, pixels(2, 0, 2), [0, 0])
        assert "(4, 12)" in refusal(ImageSet.from_arrays, pixels(4, 12), self.labels)


class TestImageSet:
    def test_constructor_checks_the_form(self):
        images, labels = torch.from_numpy(pixels(4, 1, 2, 2)), torch.zeros(4, dtype=torch.int64)
        assert "float32" in refusal(ImageSet, images.float(), labels, 1, ("0",))
        assert "contiguous: False" in refusal(ImageSet, images.transpose(2, 3)[:, :, :, :1], labels, 1, ("0",))
        assert "int32" in refusal(ImageSet, images, labels.int(), 1, ("0",))
        assert "1 class names for 2" in refusal(ImageSet, images, labels, 2, ("0",))

    def test_batch_is_the_gathered_images_over_255(self):
        held = image_set([3, 4])
        batch = held.batch([5, 0, 5])
        assert batch.dtype == torch.float32
        assert torch.equal(batch, held.images[[5, 0, 5]].float() / 255)
        assert batch.max() <= 1

    def test_batch_keeps_the_shape_of_the_indices(self):
        held = image_set([3, 4])
        index = torch.tensor([[0, 1, 2], [6, 5, 4]])
        assert held.batch(index).shape == (2, 3, 1, 2, 2)
        assert torch.equal(held.batch(index)[1, 0], held.batch(6))
        assert torch.equal(held.batch(index.int()), held.batch(index.numpy()))

    def test_masks_are_not_indices(self):
        held = image_set([3, 4])
        assert "bool" in refusal(held.batch, held.labels == 0)
        assert "float32" in refusal(held.take, torch.tensor([0.0]))

    def test_by_class_sorts_rows_stably(self):
        held = image_set([3, 1, 4])
        order, offsets = held.by_class()
        assert order.dtype == offsets.dtype == torch.int64
        assert offsets.tolist() == [0, 3, 4, 8]
        for c in range(3):
            rows = order[offsets[c] : offsets[c + 1]]
            assert torch.equal(rows, (held.labels == c).nonzero()[:, 0])
        assert held.class_counts().tolist() == [3, 1, 4]

    def test_take_keeps_the_classes(self):
        held = image_set([3, 4])
        taken = held.take([6, 1])
        assert torch.equal(taken.images, held.images[[6, 1]])
        assert torch.equal(taken.labels, held.labels[[6, 1]])
        assert (taken.n_classes, taken.class_names) == (2, ("0", "1"))

    def test_to_the_same_device_is_the_same_set(self):
        held = image_set([3, 4])
        assert held.to("cpu") is held

    def test_sets_are_immutable_and_speak_briefly(self):
        held = image_set([3, 4])
        with pytest.raises(AttributeError):
            held.n_classes = 3  # type: ignore[misc]
        assert repr(held) == "ImageSet(7 images of 1x2x2, 2 classes, cpu)"

    def test_reading_a_batch_dispatches_nothing_that_waits_for_the_host(self):
        from torch.utils._python_dispatch import TorchDispatchMode

        seen = []

        class Recorder(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                seen.append(func.overloadpacket.__name__)
                return func(*args, **(kwargs or {}))

        held = image_set([3, 4])
        index = torch.tensor([0, 3])
        normalize = Normalization((0.5,), (0.2,))
        normalize(held.batch(index))
        with Recorder():
            normalize(held.batch(index))
            held.by_class()
        assert not {"_local_scalar_dense", "nonzero", "lift_fresh", "item", "bincount"} & set(seen)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_reading_a_batch_on_the_gpu_does_not_synchronise(self):
        held = image_set([3, 4]).to("cuda")
        index = torch.tensor([0, 3], device="cuda")
        normalize = Normalization((0.5,), (0.2,))
        expected = normalize(held.batch(index))
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            batch = normalize(held.batch(index))
            held.by_class()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.equal(batch, expected)


class TestNormalization:
    def test_moments_equal_float64_moments(self):
        images = torch.from_numpy(pixels(50, 3, 7, 5))
        got = Normalization.from_images(images)
        values = images.double() / 255
        assert torch.allclose(torch.tensor(got.mean).double(), values.mean((0, 2, 3)), rtol=1e-6)
        assert torch.allclose(torch.tensor(got.std).double(), values.std((0, 2, 3), correction=0), rtol=1e-6)

    def test_chunking_does_not_show(self, monkeypatch):
        images = torch.from_numpy(pixels(50, 3, 7, 5))
        whole = Normalization.from_images(images)
        monkeypatch.setattr("dream_accel.data.convert._CHUNK_BYTES", 3 * 35 * 4)
        assert Normalization.from_images(images) == whole

    def test_normalised_training_set_has_mean_0_and_std_1(self):
        held = image_set([30, 40], (3, 4, 4))
        batch = Normalization.from_images(held.images)(held.batch(torch.arange(70)))
        assert torch.allclose(batch.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
        assert torch.allclose(batch.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)

    def test_constant_channel_becomes_zero(self):
        images = torch.from_numpy(pixels(10, 2, 3, 3))
        images[:, 1] = 77
        normalize = Normalization.from_images(images)
        assert normalize.std[1] == 1.0
        batch = normalize(images.float() / 255)
        assert torch.allclose(batch[:, 1], torch.zeros(10, 3, 3), atol=1e-6)

    def test_inverse_undoes_the_call(self):
        normalize = Normalization((0.2, 0.7), (0.1, 0.3))
        batch = torch.rand(2, 5, 2, 3, 3)
        assert torch.allclose(normalize.inverse(normalize(batch)), batch, atol=1e-6)

    def test_survives_json_pickle_and_use(self):
        import json

        normalize = Normalization.from_images(torch.from_numpy(pixels(10, 3, 4, 4)))
        normalize(torch.rand(1, 3, 4, 4))
        assert Normalization.from_dict(json.loads(json.dumps(normalize.to_dict()))) == normalize
        assert pickle.loads(pickle.dumps(normalize)) == normalize

    def test_first_use_under_inference_mode_does_not_spoil_autograd(self):
        normalize = Normalization((0.5,), (0.25,))
        with torch.inference_mode():
            normalize(torch.rand(1, 1, 2, 2))
        batch = torch.rand(1, 1, 2, 2, requires_grad=True)
        normalize(batch).sum().backward()
        assert torch.equal(batch.grad, torch.full((1, 1, 2, 2), 4.0))

    def test_wrong_batches_are_refused(self):
        normalize = Normalization((0.5,), (0.25,))
        assert "(..., 1, H, W)" in refusal(normalize, torch.rand(2, 3, 4, 4))
        assert "uint8" in refusal(normalize, torch.zeros(2, 1, 4, 4, dtype=torch.uint8))

    @pytest.mark.parametrize(
        ("mean", "std"), [((), ()), ((0.5,), (0.0,)), ((float("nan"),), (1.0,)), ((0.5, 0.5), (1.0,))]
    )
    def test_impossible_values_are_refused(self, mean, std):
        assert "normalization has" in refusal(Normalization, mean, std)


class TestSubset:
    def test_balanced_set_gives_balanced_subset(self):
        assert subset(image_set([40] * 5), 50, seed=0).class_counts().tolist() == [10] * 5

    def test_shares_are_kept(self):
        assert subset(image_set([60, 30, 10]), 10, seed=0).class_counts().tolist() == [6, 3, 1]

    def test_every_class_keeps_an_image(self):
        assert subset(image_set([500, 1, 1, 1]), 4, seed=0).class_counts().tolist() == [1, 1, 1, 1]
        assert subset(image_set([500, 1, 1, 1]), 10, seed=0).class_counts().tolist() == [7, 1, 1, 1]

    @given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.data())
    def test_allocation_is_exact_and_near_the_shares(self, counts, drawn):
        n = drawn.draw(st.integers(len(counts), sum(counts)))
        keep = allocate(np.array(counts), n)
        share = np.array(counts) * n / sum(counts)
        assert keep.sum() == n
        assert (keep >= 1).all()
        assert (keep <= counts).all()
        assert (keep <= np.maximum(np.ceil(share), 1)).all()

    def test_same_seed_same_subset_other_seed_other_subset(self):
        held = image_set([40] * 5, (1, 4, 4))
        assert torch.equal(subset(held, 50, seed=3).images, subset(held, 50, seed=np.int64(3)).images)
        assert not torch.equal(subset(held, 50, seed=3).images, subset(held, 50, seed=4).images)

    def test_images_are_distinct_and_keep_their_order(self):
        held = ImageSet.from_arrays(np.arange(200, dtype=np.uint8).reshape(200, 1, 1), np.arange(200) % 5)
        values = subset(held, 60, seed=0).images.flatten().tolist()
        assert values == sorted(set(values))

    def test_full_size_is_the_whole_set(self):
        held = image_set([4, 5])
        assert torch.equal(subset(held, 9, seed=0).images, held.images)

    def test_a_single_class_works(self):
        assert len(subset(image_set([7]), 3, seed=0)) == 3

    def test_split_keeps_its_test_set(self):
        split = DataSplit("two", image_set([40, 40]), image_set([5, 5]))
        small = subset(split, 10, seed=0)
        assert (len(small.train), small.test, small.name) == (10, split.test, "two")

    @pytest.mark.parametrize("n", [-1, 0, 4, 201])
    def test_impossible_sizes_are_refused(self, n):
        message = refusal(subset, image_set([40] * 5), n, seed=0)
        assert f"{n} images" in message
        assert "5 (one per class) to 200" in message


class TestDataSplit:
    def test_normalization_comes_from_the_training_set(self):
        train, test = image_set([5, 5]), image_set([9, 2])
        split = DataSplit("two", train, test)
        assert split.normalization == Normalization.from_images(train.images)
        assert split.normalization is split.normalization

    def test_parts_must_fit_together(self):
        assert "(1, 2, 2)" in refusal(DataSplit, "x", image_set([2, 2]), image_set([2, 2], (1, 2, 3)))
        assert "2 classes and the test set 3" in refusal(DataSplit, "x", image_set([2, 2]), image_set([2, 2, 2]))


class TestRegistry:
    @pytest.mark.slow
    def test_importing_the_package_imports_no_library_of_data_sets(self):
        import subprocess
        import sys

        heavy = ("torchvision", "sklearn", "PIL")
        code = f"import sys, dream_accel.data; print([m for m in {heavy} if m in sys.modules])"
        root = Path(data.__file__).parents[2]
        result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
        assert result.stdout.strip() == "[]"

    def test_every_name_has_a_description(self):
        assert {"digits", "cifar10", "npz:PATH", "imagefolder:PATH"} <= set(data.DATASETS)
        assert all(text and "\n" not in text for text in data.DATASETS.values())

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("minst", "mnist"),
            ("FashionMNIST", "fashion-mnist"),
            ("cifar-10", "cifar10"),
            ("digits:8", "digits"),
        ],
    )
    def test_unknown_name_lists_names_and_guesses(self, name, meant):
        message = refusal(load_dataset, name)
        assert f"did you mean {meant}?" in message
        assert all(known in message for known in data.DATASETS)

    def test_name_without_path_and_path_without_name_are_told_apart(self, tmp_path):
        assert "imagefolder:PATH" in refusal(load_dataset, "imagefolder")
        assert f"imagefolder:{tmp_path}" in refusal(load_dataset, str(tmp_path))

    def test_names_forgive_case_and_underscores(self, tmp_path):
        assert "fashion-mnist was not found" in refusal(load_dataset, "Fashion_MNIST", tmp_path)

    def test_size_must_be_positive(self):
        assert "size is 0" in refusal(load_dataset, "digits", size=0)

    def test_default_folder_follows_the_environment(self, monkeypatch, tmp_path):
        monkeypatch.setenv("DREAM_ACCEL_DATA", str(tmp_path / "here"))
        assert str(tmp_path / "here") in refusal(load_dataset, "mnist")
        monkeypatch.delenv("DREAM_ACCEL_DATA")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert str(tmp_path / "home" / ".cache" / "dream_accel" / "data") in refusal(load_dataset, "mnist")


class TestDigits:
    def test_split_is_stratified_and_complete(self):
        split = load_dataset("digits")
        assert (len(split.train), len(split.test), split.train.shape, split.train.n_classes) == (
            1297,
            500,
            (1, 8, 8),
            10,
        )
        share = split.test.class_counts() / (split.train.class_counts() + split.test.class_counts())
        assert (share - 500 / 1797).abs().max() < 0.01

    def test_split_is_the_documented_one_forever(self):
        split = load_dataset("digits")
        digest = hashlib.sha256(split.test.images.numpy().tobytes() + split.test.labels.numpy().tobytes())
        assert digest.hexdigest()[:16] == "db214f8d9dda6568"

    def test_pixels_are_the_library_s_scaled_to_255(self):
        from sklearn.datasets import load_digits

        split = load_dataset("digits")
        both = torch.cat([split.train.images, split.test.images]).reshape(1797, -1)
        official = np.rint(load_digits().data * 255 / 16)
        assert both.max() == 255
        assert sorted(map(bytes, both.numpy())) == sorted(map(bytes, official.astype(np.uint8)))

    def test_missing_library_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
        assert "pip install scikit-learn" in refusal(load_dataset, "digits")

    def test_size_resizes_both_parts(self):
        split = load_dataset("digits", size=16)
        assert split.train.shape == split.test.shape == (1, 16, 16)
        assert split.train.images.max() > 200


class TestResize:
    def test_shorter_side_is_scaled_and_the_centre_kept(self, tmp_path):
        images = np.zeros((2, 4, 8, 3), np.uint8)
        images[:, :, 2:6] = 200  # the central square
        np.savez(tmp_path / "a.npz", x_train=images, y_train=[0, 1], x_test=images, y_test=[0, 1])
        split = load_dataset(f"npz:{tmp_path / 'a.npz'}", size=4)
        assert split.train.images.unique().tolist() == [200]
        assert load_dataset(f"npz:{tmp_path / 'a.npz'}", size=3).train.shape == (3, 3, 3)

    def test_chunks_do_not_show(self, monkeypatch):
        from dream_accel.data.convert import resize_and_crop

        images = torch.from_numpy(pixels(9, 3, 6, 10))
        whole = resize_and_crop(images, 8)
        monkeypatch.setattr("dream_accel.data.convert._CHUNK_BYTES", 4000)
        assert torch.equal(resize_and_crop(images, 8), whole)
        assert resize_and_crop(whole, 8) is whole


class FakeVisionSet:
    """Stands where torchvision's CIFAR and SVHN classes stand; records that its samples are left alone."""

    layout: tuple[int, ...] = (32, 32, 3)

    def __init__(self, root, download, train=None, split=None):
        n = 20 if train or split == "train" else 10
        labels = np.arange(n) % 10
        images = pixels(n, *self.layout)
        if split is not None:
            self.data, self.labels = images, labels
        else:
            self.data, self.targets, self.classes = images, labels.tolist(), [f"name {c}" for c in range(10)]

    def __getitem__(self, index):
        raise AssertionError("samples must not be iterated")


def touch(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


CIFAR10_FILES = [
    f"cifar-10-batches-py/{f}" for f in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
]


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(side).to_bytes(4, "big") for side in array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(root: Path, folder: str = "MNIST") -> np.ndarray:
    images = pixels(20, 28, 28)
    for part, n in (("train", 20), ("t10k", 10)):
        write_idx(root / folder / "raw" / f"{part}-images-idx3-ubyte", images[:n])
        write_idx(root / folder / "raw" / f"{part}-labels-idx1-ubyte", np.arange(n) % 10)
    return images


class TestTorchvisionSets:
    def test_mnist_files_are_read(self, tmp_path):
        images = write_mnist(tmp_path)
        split = load_dataset("mnist", tmp_path)
        assert np.array_equal(split.train.images.numpy()[:, 0], images)
        assert split.test.labels.tolist() == list(range(10))
        assert split.train.class_names == tuple("0123456789")

    def test_fashion_mnist_has_its_class_names(self, tmp_path):
        write_mnist(tmp_path, "FashionMNIST")
        assert load_dataset("fashion-mnist", tmp_path).train.class_names[9] == "Ankle boot"

    def test_cifar_arrays_are_taken_whole(self, tmp_path, monkeypatch):
        monkeypatch.setattr("torchvision.datasets.CIFAR10", FakeVisionSet)
        touch(tmp_path, *CIFAR10_FILES)
        split = load_dataset("cifar10", tmp_path)
        assert (split.train.shape, len(split.train), len(split.test)) == ((3, 32, 32), 20, 10)
        assert np.array_equal(split.train.images.numpy().transpose(0, 2, 3, 1), pixels(20, 32, 32, 3))
        assert split.train.class_names[3] == "name 3"

    def test_svhn_arrays_are_channels_first(self, tmp_path, monkeypatch):
        class FakeSVHN(FakeVisionSet):
            layout = (3, 32, 32)

        monkeypatch.setattr("torchvision.datasets.SVHN", FakeSVHN)
        touch(tmp_path, "train_32x32.mat", "test_32x32.mat")
        split = load_dataset("svhn", tmp_path)
        assert np.array_equal(split.train.images.numpy(), pixels(20, 3, 32, 32))

    @pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "svhn", "cifar10", "cifar100", "tiny-imagenet"])
    def test_missing_set_names_the_folder_and_the_remedy(self, name, tmp_path):
        message = refusal(load_dataset, name, tmp_path)
        assert message.startswith(f"{name} was not found in {tmp_path}")
        assert "--download (download=True)" in message

    @pytest.mark.parametrize(
        ("name", "files", "damaged"),
        [
            ("cifar10", CIFAR10_FILES, "data_batch_1"),
            ("cifar100", [f"cifar-100-python/{f}" for f in ("train", "test", "meta")], "train"),
            ("svhn", ["train_32x32.mat", "test_32x32.mat"], "train_32x32.mat"),
        ],
    )
    def test_file_with_a_wrong_checksum_is_named(self, tmp_path, name, files, damaged):
        touch(tmp_path, *files)
        message = refusal(load_dataset, name, tmp_path)
        assert f"{damaged} is damaged" in message
        assert str(tmp_path) in message

    def test_truncated_mnist_file_is_named(self, tmp_path):
        write_mnist(tmp_path)
        path = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
        path.write_bytes(path.read_bytes()[:-5])
        assert refusal(load_dataset, "mnist", tmp_path).startswith(f"{path} is damaged")
        path.write_bytes(b"")
        assert refusal(load_dataset, "mnist", tmp_path).startswith(f"{path} is damaged")

    def test_mnist_files_that_disagree_are_refused(self, tmp_path):
        write_mnist(tmp_path)
        write_idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte", np.arange(19) % 10)
        assert "20 images and 19 labels" in refusal(load_dataset, "mnist", tmp_path)

    def test_failed_download_is_one_sentence(self, tmp_path, monkeypatch):
        class Unreachable:
            def __init__(self, root, download, train):
                assert download
                raise RuntimeError("Error downloading x:\nTried https://mirror, got:\nno route")

        monkeypatch.setattr("torchvision.datasets.CIFAR100", Unreachable)
        message = refusal(load_dataset, "cifar100", tmp_path, download=True)
        assert "could not be fetched" in message
        assert "no route" in message


STAGED = os.environ.get("DREAM_ACCEL_TEST_DATA")


@pytest.mark.skipif(not STAGED, reason="DREAM_ACCEL_TEST_DATA names no folder with real data sets")
class TestRealData:
    @staticmethod
    def staged(part: str) -> Path:
        path = Path(str(STAGED)) / part
        if not path.exists():
            pytest.skip(f"{path} is not there")
        return path

    @pytest.mark.parametrize(
        ("name", "folder", "mean", "std"),
        [("mnist", "MNIST", 0.1307, 0.3081), ("fashion-mnist", "FashionMNIST", 0.2860, 0.3530)],
    )
    def test_official_sets_have_their_known_size_and_moments(self, name, folder, mean, std):
        self.staged(folder)
        split = load_dataset(name, STAGED)
        assert (len(split.train), len(split.test), split.train.shape) == (60000, 10000, (1, 28, 28))
        assert split.normalization.mean[0] == pytest.approx(mean, abs=5e-5)
        assert split.normalization.std[0] == pytest.approx(std, abs=5e-5)

    def test_cifar10_as_npz_has_its_known_moments(self):
        split = load_dataset(f"npz:{self.staged('cifar10.npz')}")
        assert split.train.class_counts().tolist() == [5000] * 10
        assert split.test.class_counts().tolist() == [1000] * 10
        assert split.normalization.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-4)
        assert split.normalization.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-4)
        assert subset(split, 1000, seed=0).train.class_counts().tolist() == [100] * 10


def write_image(path: Path, array: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def over_white(rgba: np.ndarray) -> np.ndarray:
    colours, alpha = rgba[:, :, :3].astype(float), rgba[:, :, 3:] / 255
    return np.rint(colours * alpha + 255 * (1 - alpha)).astype(int)


def write_classes(root: Path, counts: dict[str, int], shape: tuple[int, ...] = (6, 5, 3)) -> None:
    for c, (name, n) in enumerate(counts.items()):
        for i in range(n):
            write_image(root / name / f"{i:03}.png", pixels(*shape) ^ np.uint8(i + 40 * c))


class TestImageFolder:
    def test_train_and_test_folders_are_read(self, tmp_path):
        write_classes(tmp_path / "train", {"owl": 3, "cat": 2})
        write_classes(tmp_path / "test", {"owl": 1, "cat": 2})
        split = load_dataset(f"imagefolder:{tmp_path}")
        assert split.train.class_names == ("cat", "owl")
        assert split.train.labels.tolist() == [0, 0, 1, 1, 1]
        assert split.test.labels.tolist() == [0, 0, 1]
        first = np.asarray(Image.open(tmp_path / "train" / "cat" / "000.png"))
        assert np.array_equal(split.train.images[0].numpy(), first.transpose(2, 0, 1))

    def test_val_serves_where_test_has_no_classes(self, tmp_path):
        write_classes(tmp_path / "train", {"a": 2, "b": 2})
        write_classes(tmp_path / "val", {"a": 1, "b": 1})
        write_image(tmp_path / "test" / "unlabelled.png", pixels(6, 5, 3))
        assert len(load_dataset(f"imagefolder:{tmp_path}").test) == 2

    def test_class_folders_alone_are_cut_four_to_one(self, tmp_path):
        write_classes(tmp_path, {"a": 10, "b": 20, "train": 5})
        split = load_dataset(f"imagefolder:{tmp_path}")
        assert split.train.class_counts().tolist() == [8, 16, 4]
        assert split.test.class_counts().tolist() == [2, 4, 1]
        again = load_dataset(f"imagefolder:{tmp_path}")
        assert torch.equal(again.test.images, split.test.images)
        everything = torch.cat([split.train.images, split.test.images]).flatten(1)
        assert len(everything.unique(dim=0)) == 35

    def test_grey_files_give_one_channel_and_a_mixture_three(self, tmp_path):
        write_classes(tmp_path, {"a": 2, "b": 2}, (6, 5))
        assert load_dataset(f"imagefolder:{tmp_path}").train.shape == (1, 6, 5)
        write_image(tmp_path / "b" / "x.png", pixels(6, 5, 3))
        assert load_dataset(f"imagefolder:{tmp_path}").train.shape == (3, 6, 5)

    def test_palette_and_transparency_become_rgb_on_white(self, tmp_path):
        write_classes(tmp_path, {"a": 2, "b": 2})
        rgba = pixels(6, 5, 4)
        write_image(tmp_path / "a" / "000.png", rgba)
        Image.fromarray(pixels(6, 5, 3)).convert("P").save(tmp_path / "b" / "000.gif")
        split = load_dataset(f"imagefolder:{tmp_path}")
        everything = torch.cat([split.train.images, split.test.images]).numpy()
        seen = over_white(rgba).transpose(2, 0, 1)
        assert min(abs(image.astype(int) - seen).max() for image in everything) <= 1

    def test_mixed_sizes_name_two_files_and_size_mends_it(self, tmp_path):
        write_classes(tmp_path, {"a": 2, "b": 2})
        write_image(tmp_path / "b" / "big.png", pixels(8, 12, 3))
        message = refusal(load_dataset, f"imagefolder:{tmp_path}")
        assert f"{tmp_path / 'a' / '000.png'} is 5x6" in message
        assert f"{tmp_path / 'b' / 'big.png'} is 12x8" in message
        assert "--size N (size=N)" in message
        assert load_dataset(f"imagefolder:{tmp_path}", size=4).train.shape == (3, 4, 4)

    def test_size_cuts_the_centre(self, tmp_path):
        wide = np.zeros((4, 12, 3), np.uint8)
        wide[:, 4:8] = 90
        for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
            write_image(tmp_path / name, wide)
        assert load_dataset(f"imagefolder:{tmp_path}", size=4).train.images.unique().tolist() == [90]

    def test_photos_are_turned_upright(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6  # a quarter turn
        lying = np.zeros((8, 16, 3), np.uint8)
        lying[:, :8] = 255
        for name in ("a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg"):
            write_image(tmp_path / name, lying, exif=exif, quality=100)
        images = load_dataset(f"imagefolder:{tmp_path}").train.images
        assert images.shape[1:] == (3, 16, 8)
        assert images[:, :, :8].min() > 250
        assert images[:, :, 8:].max() < 5

    def test_hidden_and_other_files_are_passed_over(self, tmp_path):
        write_classes(tmp_path, {"a": 2, "b": 2})
        write_classes(tmp_path, {".thumbnails": 2})
        touch(tmp_path, "README.md", "a/notes.txt", "a/._000.png", "a/Thumbs.db")
        split = load_dataset(f"imagefolder:{tmp_path}")
        assert (split.train.class_names, len(split.train) + len(split.test)) == (("a", "b"), 4)

    @pytest.mark.parametrize("content", [b"", b"not an image", "truncated"])
    @pytest.mark.parametrize("suffix", [".png", ".jpg"])
    def test_unreadable_file_is_named(self, tmp_path, content, suffix):
        write_classes(tmp_path, {"a": 2, "b": 2}, (40, 40, 3))
        path = tmp_path / "b" / f"bad{suffix}"
        if content == "truncated":
            write_image(path, pixels(40, 40, 3))
            content = path.read_bytes()[: path.stat().st_size // 2]
        path.write_bytes(content)
        assert refusal(load_dataset, f"imagefolder:{tmp_path}").startswith(f"{path} cannot be read as an image")

    def test_incomplete_layouts_are_refused(self, tmp_path):
        assert "there is no folder" in refusal(load_dataset, f"imagefolder:{tmp_path / 'none'}")
        assert "no class folders" in refusal(load_dataset, f"imagefolder:{tmp_path}")
        write_classes(tmp_path / "train", {"a": 2, "b": 1})
        assert "neither test/ nor val/" in refusal(load_dataset, f"imagefolder:{tmp_path}")
        write_classes(tmp_path / "test", {"a": 1, "c": 1})
        assert f"{tmp_path / 'test' / 'c'} is a class" in refusal(load_dataset, f"imagefolder:{tmp_path}")
        assert "b holds 1 image" in refusal(load_dataset, f"imagefolder:{tmp_path / 'train'}")
        (tmp_path / "train" / "empty").mkdir()
        assert "empty holds no image files" in refusal(load_dataset, f"imagefolder:{tmp_path}")

    def test_folder_of_folders_of_classes_is_refused(self, tmp_path):
        write_classes(tmp_path / "photos", {"a": 2, "b": 2})
        assert "photos holds no image files" in refusal(load_dataset, f"imagefolder:{tmp_path}")

    def test_test_folder_may_lack_a_class(self, tmp_path):
        write_classes(tmp_path / "train", {"a": 1, "b": 1})
        write_classes(tmp_path / "test", {"b": 1})
        split = load_dataset(f"imagefolder:{tmp_path}")
        assert split.test.class_counts().tolist() == [0, 1]
        assert split.test.labels.tolist() == [1]


class TestNpz:
    @pytest.fixture
    def arrays(self):
        labels = np.arange(6) % 3
        return {
            "x_train": pixels(6, 4, 4, 3),
            "y_train": labels,
            "x_test": pixels(3, 4, 4, 3),
            "y_test": labels[:3],
        }

    @staticmethod
    def load(path: Path, **arrays) -> DataSplit:
        np.savez(path / "set.npz", **arrays)
        return load_dataset(f"npz:{path / 'set.npz'}")

    def test_arrays_are_read(self, tmp_path, arrays):
        split = self.load(tmp_path, **arrays, other=np.zeros(3))
        assert np.array_equal(split.train.images.numpy(), arrays["x_train"].transpose(0, 3, 1, 2))
        assert split.test.labels.tolist() == [0, 1, 2]
        assert split.name == f"npz:{tmp_path / 'set.npz'}"

    def test_class_names_are_taken(self, tmp_path, arrays):
        assert self.load(tmp_path, **arrays, class_names=["a", "b", "c"]).test.class_names == ("a", "b", "c")

    def test_test_set_may_lack_a_class_but_not_add_one(self, tmp_path, arrays):
        arrays["y_test"] = np.array([0, 0, 1])
        assert self.load(tmp_path, **arrays).test.class_counts().tolist() == [2, 1, 0]
        arrays["y_test"] = np.array([0, 0, 3])
        assert "test set: labels reach from 0 to 3" in refusal(self.load, tmp_path, **arrays)

    def test_missing_key_lists_what_was_found(self, tmp_path, arrays):
        arrays["images"] = arrays.pop("x_test")
        message = refusal(self.load, tmp_path, **arrays)
        assert "lacks x_test: it holds x_train, y_train, y_test, images" in message

    def test_objects_are_not_unpickled(self, tmp_path, arrays):
        class Trap:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "sprung",))

        arrays["x_train"] = np.array([Trap()] * 6, dtype=object)
        assert "nothing is unpickled" in refusal(self.load, tmp_path, **arrays)
        assert not (tmp_path / "sprung").exists()

    def test_damaged_file_is_named(self, tmp_path, arrays):
        self.load(tmp_path, **arrays)
        path = tmp_path / "set.npz"
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 4] ^= 255
        for content in (b"", b"nonsense", whole[: len(whole) // 2], bytes(flipped)):
            path.write_bytes(content)
            assert refusal(load_dataset, f"npz:{path}").startswith(f"{path} cannot be read as a .npz file")

    def test_missing_file_and_bad_arrays_are_refused_by_name(self, tmp_path, arrays):
        assert f"there is no file {tmp_path / 'x.npz'}" in refusal(load_dataset, f"npz:{tmp_path / 'x.npz'}")
        arrays["x_train"] = arrays["x_train"] * 1.0
        message = refusal(self.load, tmp_path, **arrays)
        assert message.startswith(f"{tmp_path / 'set.npz'}, training set: float pixels")

    def test_train_and_test_shapes_must_agree(self, tmp_path, arrays):
        arrays["x_test"] = pixels(3, 5, 5, 3)
        assert "(3, 4, 4) and test images (3, 5, 5)" in refusal(self.load, tmp_path, **arrays)


@pytest.fixture
def tiny(tmp_path):
    """Tiny-ImageNet's layout with two classes of three training and two validation images."""
    folder = tmp_path / "tiny-imagenet-200"
    for wnid in ("n02", "n01"):
        names = [f"{wnid}_{i}.JPEG" for i in range(3)]
        for i, name in enumerate(names):
            grey = (64, 64) if i == 0 else (64, 64, 3)  # the official set has grey files too
            write_image(folder / "train" / wnid / "images" / name, pixels(*grey))
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("".join(f"{name}\t0\t0\t9\t9\n" for name in names))
    wnids = ["n02", "n01", "n02", "n01"]
    for i in range(4):
        write_image(folder / "val" / "images" / f"val_{i}.JPEG", pixels(64, 64, 3))
    lines = [f"val_{i}.JPEG\t{wnid}\t0\t0\t9\t9\n" for i, wnid in enumerate(wnids)]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("n02\nn01\n")
    (folder / "words.txt").write_text("n00\tentity\nn01\tgoldfish, Carassius auratus\nn02\ttench\n")
    return folder


class TestTinyImageNet:
    def test_folders_are_decoded(self, tiny):
        split = load_dataset("tiny-imagenet", tiny.parent)
        assert split.train.class_names == ("goldfish", "tench")
        assert split.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert split.test.labels.tolist() == [1, 0, 1, 0]
        assert split.train.shape == (3, 64, 64)
        first = np.asarray(Image.open(tiny / "train" / "n01" / "images" / "n01_1.JPEG"))
        assert np.array_equal(split.train.images[1].numpy(), first.transpose(2, 0, 1))

    def test_word_files_are_optional(self, tiny):
        (tiny / "words.txt").unlink()
        (tiny / "wnids.txt").unlink()
        assert load_dataset("tiny-imagenet", tiny.parent).train.class_names == ("n01", "n02")

    def test_second_load_reads_the_cache_alone(self, tiny):
        import shutil

        first = load_dataset("tiny-imagenet", tiny.parent)
        shutil.rmtree(tiny)
        again = load_dataset("tiny-imagenet", tiny.parent)
        assert torch.equal(again.train.images, first.train.images)
        assert torch.equal(again.test.labels, first.test.labels)
        assert again.train.class_names == first.train.class_names
        assert [path.name for path in tiny.parent.iterdir()] == ["tiny-imagenet-200.npz"]

    def test_interrupted_cache_leaves_nothing_behind(self, tiny, monkeypatch):
        def interrupted(file, **arrays):
            file.write(b"half")
            raise KeyboardInterrupt

        monkeypatch.setattr(np, "savez", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_dataset("tiny-imagenet", tiny.parent)
        assert [path.name for path in tiny.parent.iterdir()] == ["tiny-imagenet-200"]

    def test_unwritable_cache_is_announced_and_survived(self, tiny, monkeypatch):
        def full(file, **arrays):
            raise OSError("disk full")

        monkeypatch.setattr(np, "savez", full)
        with pytest.warns(DreamAccelWarning, match="disk full"):
            assert len(load_dataset("tiny-imagenet", tiny.parent).train) == 6

    @pytest.mark.parametrize(
        "lost", ["train/n01/images/n01_2.JPEG", "val/images/val_3.JPEG", "val/val_annotations.txt"]
    )
    def test_incomplete_folder_is_refused_and_not_cached(self, tiny, lost):
        (tiny / lost).unlink()
        message = refusal(load_dataset, "tiny-imagenet", tiny.parent)
        assert str((tiny / lost).parent) in message
        assert not (tiny.parent / "tiny-imagenet-200.npz").exists()

    def test_unknown_class_in_the_annotations_is_refused(self, tiny):
        (tiny / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn99\t0\t0\t9\t9\n")
        assert "n99" in refusal(load_dataset, "tiny-imagenet", tiny.parent)

    def test_damaged_cache_is_named(self, tiny):
        cache = tiny.parent / "tiny-imagenet-200.npz"
        cache.write_bytes(b"half")
        assert refusal(load_dataset, "tiny-imagenet", tiny.parent).startswith(f"{cache} cannot be read")
        np.savez(cache, x_train=np.zeros(3))
        assert f"{cache} lacks y_train" in refusal(load_dataset, "tiny-imagenet", tiny.parent)

    def test_download_appears_only_when_unpacked_whole(self, tiny, tmp_path, monkeypatch):
        target = tmp_path / "fresh"
        calls = []

        def fetch(url, download_root, extract_root, filename, md5):
            calls.append(SimpleNamespace(url=url, md5=md5))
            assert not (target / "tiny-imagenet-200").exists()
            if len(calls) == 1:
                (Path(extract_root) / "tiny-imagenet-200").mkdir()
                raise OSError("connection reset")
            tiny.rename(Path(extract_root) / "tiny-imagenet-200")

        monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fetch)
        message = refusal(load_dataset, "tiny-imagenet", target, download=True)
        assert "connection reset" in message
        assert list(target.iterdir()) == []
        assert len(load_dataset("tiny-imagenet", target, download=True).train) == 6
        assert len(load_dataset("tiny-imagenet", target, download=True).train) == 6
        assert len(calls) == 2
