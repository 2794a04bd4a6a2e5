"""Values that once were misread or ended in a traceback: pixels of a wrong scale, dtypes, sizes, numbers of classes."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from support.refusals import refused
from torch.utils.data import Dataset, TensorDataset

import dream_accel as da
from dream_accel.data import DataSplit, ImageSet, Normalization, as_split, load_dataset
from dream_accel.data.remarks import n_shared
from dream_accel.errors import DreamAccelWarning
from dream_accel.networks import make_network
from dream_accel.report import MAX_ROWS, render_grid

LABELS = np.arange(20) % 2


def noise(*shape: int) -> np.ndarray:
    return np.random.RandomState(sum(shape)).randint(0, 256, shape, dtype=np.uint8)


IMAGES = noise(20, 6, 6)
SLOW = pytest.param(2500, 30000, marks=pytest.mark.slow)


class pairs(Dataset):  # noqa: N801 (used as a function)
    """A map-style Dataset of single images."""

    def __init__(self, images, labels=LABELS):
        self.items = list(zip(images, labels, strict=True))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def split_of(images, labels=LABELS) -> DataSplit:
    return as_split((images, labels))


class TestScale:
    @pytest.mark.parametrize(
        "read", [lambda images: ImageSet.from_arrays(images, LABELS), lambda x: as_split(pairs(x))]
    )
    @pytest.mark.parametrize("images", [IMAGES / 255 / 255, IMAGES // 255, (IMAGES > 99).astype(np.uint8)])
    def test_a_set_no_brighter_than_one_level_is_refused(self, images, read):
        """Float images divided by 255 twice (0 ... 0.004) became 0 or 1."""
        message = refused(read, images)
        assert "none is brighter than 1 of 255" in message
        assert "divide by 255 once only" in message

    def test_the_range_found_is_said(self):
        message = refused(ImageSet.from_arrays, IMAGES.astype(np.float32) / 255 / 255, LABELS)
        assert "pixels are float32 from 0 to 0.0039215" in message
        assert "float64 from 0 to 1e-06" in refused(ImageSet.from_arrays, (IMAGES > 9) * 1e-6, LABELS)

    def test_dark_images_and_black_ones_are_images(self):
        assert ImageSet.from_arrays(IMAGES / 255 / 100, LABELS).images.max() == 3
        some = IMAGES.copy()
        some[1:] //= 128
        assert ImageSet.from_arrays(some, LABELS).images[1:].max() == 1
        assert ImageSet.from_arrays(np.zeros((2, 4, 4)), [0, 0]).images.max() == 0

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_the_overshoot_of_a_resize_is_clamped(self, dtype):
        """Pixels of 1 + 1e-6 were refused."""
        images = (IMAGES / 255).astype(dtype)
        images[0, 0, :2] = -1e-6, 1 + 1e-6
        for held in (ImageSet.from_arrays(images, LABELS), as_split((pairs(images), pairs(images))).train):
            assert held.images[0, 0, 0, :2].tolist() == [0, 255]
            assert torch.equal(held.images[1:, 0], torch.from_numpy(IMAGES)[1:])

    @pytest.mark.parametrize(("low", "high"), [(-0.01, 1), (0, 1.01), (0, 255), (0, 65535), (-2, 2)])
    def test_more_than_half_a_level_outside_is_not(self, low, high):
        images = IMAGES / 255
        images[3, 0, :2] = low, high
        remedy = "divide by 65535" if high > 256 else "divide by 255"
        assert remedy in refused(ImageSet.from_arrays, images, LABELS)
        assert remedy in refused(as_split, pairs(images))
        assert "leave out Normalize" in refused(as_split, pairs(images))


class TestDtypes:
    @pytest.mark.parametrize(
        ("images", "remedy", "cast"),
        [
            (IMAGES.astype(np.uint16) * 257, "from 257 to 65535", lambda x: x / 65535),
            (IMAGES.astype(np.uint16) * 16, "4095 for 12 bits", lambda x: x / 4080),
            (IMAGES.astype(np.int16) - 128, "(images - lowest) / (highest - lowest)", lambda x: (x + 128) / 255),
            (IMAGES > 99, "images.astype('uint8') * 255", lambda x: x.astype("uint8") * 255),
            (IMAGES.astype(np.int64), "images.astype('uint8')), which they fit", lambda x: x.astype("uint8")),
            (IMAGES.astype(np.int32), "images.astype('uint8')), which they fit", lambda x: x.astype("uint8")),
        ],
    )
    def test_the_remedy_keeps_what_the_images_show(self, images, remedy, cast):
        """uint16, int16 and bool images were told to be cast to uint8, which wraps them or gives 0 and 1."""
        if images.dtype == np.uint16:
            images[0, 0, 0] = 257
        for call, data in ((ImageSet.from_arrays, (images, LABELS)), (as_split, (pairs(images),))):
            message = refused(call, *data)
            assert str(images.dtype) in message
            assert remedy in message or "from 257" in remedy
        shown = ImageSet.from_arrays(cast(images), LABELS).images[1:, 0].numpy()
        expected = np.where(images[1:], 255, 0) if images.dtype == bool else IMAGES[1:]
        assert abs(shown.astype(int) - expected).max() <= 1

    @pytest.mark.parametrize("dtype", [">f4", ">f8", np.longdouble, np.float16, object])
    def test_floats_of_every_kind_are_read(self, dtype):
        images = (IMAGES / 255).astype(dtype)
        if dtype is object:
            assert "images.astype(float)" in refused(split_of, images)
            return
        assert torch.equal(ImageSet.from_arrays(images, LABELS).images[:, 0], torch.from_numpy(IMAGES))

    @pytest.mark.parametrize("dtype", [">i2", ">u8", object, np.uint16, np.uint64, np.int8])
    def test_labels_of_every_kind_of_integer_are_read(self, dtype):
        assert split_of(IMAGES, LABELS.astype(dtype)).train.n_classes == 2

    @pytest.mark.parametrize("labels", [LABELS.astype(str), LABELS.astype("S"), LABELS.astype(str).astype(object)])
    def test_string_labels_say_how_they_become_numbers(self, labels):
        assert "np.unique(labels, return_inverse=True)[1]" in refused(split_of, IMAGES, labels)

    @pytest.mark.parametrize(
        ("labels", "words"),
        [
            (LABELS.astype(np.longdouble), "labels are float64"),
            (LABELS.astype("M8[D]"), "labels.astype(int)"),
            (np.array([None] * 20), "labels.astype(int)"),
            (LABELS == 1, "labels are bool"),
            (torch.from_numpy(LABELS).to_sparse(), "labels.to_dense()"),
        ],
    )
    def test_other_labels_are_refused_in_words(self, labels, words):
        assert words in refused(split_of, IMAGES, labels)

    def test_lists_of_pairs_are_told_from_lists_of_images(self):
        message = refused(as_split, ([*pairs(IMAGES)], [*pairs(IMAGES)]))
        assert "number 0 of the images is a tuple of ndarray, int64, which is no array" in message
        assert len(DataSplit.from_datasets([*pairs(IMAGES)]).test) == 4

    def test_sparse_and_empty_tensors_are_refused_in_words(self):
        images = torch.from_numpy(IMAGES)
        assert "images.to_dense()" in refused(split_of, images.to_sparse())
        assert "are on meta" in refused(split_of, images.to("meta"))

    def test_rgba_arrays_are_told_how_to_keep_their_colours(self, tmp_path):
        """An RGBA npz was told to say layout=, which the command line lacks."""
        rgba = noise(20, 6, 6, 4)
        np.savez(tmp_path / "x.npz", x_train=rgba, y_train=LABELS, x_test=rgba, y_test=LABELS)
        assert "images[..., :3]" in refused(load_dataset, f"npz:{tmp_path / 'x.npz'}")
        assert "images[..., :3]" in refused(as_split, pairs(rgba))
        assert ImageSet.from_arrays(rgba[..., :3], LABELS).shape == (3, 6, 6)
        first = rgba.transpose(0, 3, 1, 2)
        assert "images[..., :3, :, :]" in refused(ImageSet.from_arrays, first, LABELS)
        assert ImageSet.from_arrays(first[..., :3, :, :], LABELS).shape == (3, 6, 6)

    def test_deep_images_are_scaled_and_not_clipped(self, tmp_path):
        deep = [Image.fromarray(image.astype(np.uint16) * 257) for image in IMAGES]
        split = as_split((pairs(deep), pairs(deep)))
        assert np.array_equal(split.train.images[:, 0], IMAGES)
        wide = Image.fromarray(IMAGES[0].astype(np.int32) * 1000)
        assert "np.uint8(np.asarray(image) / white * 255)" in refused(as_split, pairs([wide] * 20))
        assert np.array_equal(np.uint8(np.asarray(wide) / 255000 * 255 + 0.5), IMAGES[0])


class TestRemarks:
    def test_images_in_both_sets_are_counted(self):
        """Images in the training and in the test set were passed over in silence."""
        train, test = noise(50, 3, 40, 40), noise(30, 3, 40, 40)
        test[4:9] = train[10:15]
        test[9], test[10] = train[10], train[10]
        test[10, 2, 39, 39] ^= 1  # near is not equal
        labels = np.arange(50) % 2
        split = as_split(((train.transpose(0, 2, 3, 1), labels), (test.transpose(0, 2, 3, 1), labels[:30])))
        assert split.note.startswith("6 of 30 test images are in the training set too")
        assert n_shared(split.train.images, split.train.images) == 50
        assert as_split(((IMAGES, LABELS), (255 - IMAGES, LABELS))).note == ""

    def test_images_of_one_kind_are_counted_in_linear_time(self):
        same = torch.zeros(20_000, 1, 2, 2, dtype=torch.uint8)
        assert n_shared(same, same) == 20_000

    @pytest.mark.parametrize("kind", ["npz", "arrays", "datasets", "sets"])
    def test_one_class_only_is_said(self, tmp_path, kind):
        """One class only: accuracy 100 %, and not a word."""
        one = np.zeros(20, int)
        np.savez(tmp_path / "x.npz", x_train=IMAGES, y_train=one, x_test=255 - IMAGES, y_test=one)
        held = ImageSet.from_arrays(IMAGES, one), ImageSet.from_arrays(255 - IMAGES, one)
        split = {
            "npz": lambda: load_dataset(f"npz:{tmp_path / 'x.npz'}"),
            "arrays": lambda: as_split((IMAGES, one)),
            "datasets": lambda: as_split((pairs(IMAGES, one), pairs(255 - IMAGES, one))),
            "sets": lambda: as_split(held),
        }[kind]()
        assert "there is only one class" in split.note

    def test_an_accuracy_of_one_class_comes_with_a_warning(self):
        split = as_split((IMAGES, np.zeros(20, int)))
        small = {"ipc": 1, "factor": 1, "iterations": 0, "clusters": 4, "width": 4, "init": "random"}
        result = da.distill(da.recipe("dream", "mine", **small), split, device="cpu")
        with pytest.warns(DreamAccelWarning, match="one class only"):
            assert da.evaluate(result, split, networks=1, epochs=1, device="cpu").mean == 100


class TestSizes:
    def test_images_of_one_pixel_are_told_to_be_larger(self):
        """1x1 images were told to use depth 0 or less."""
        message = refused(make_network, "convnet", (1, 1, 1), 2, 4, 1, 0)
        assert "2x2 pixels or more" in message
        assert "depth 0" not in message
        assert "use depth 2 or less" in refused(make_network, "convnet", (1, 4, 9), 2, 4, 3, 0)

    def test_sets_of_two_sizes_are_scaled_to_one(self, tmp_path):
        np.savez(tmp_path / "x.npz", x_train=IMAGES, y_train=LABELS, x_test=noise(20, 9, 9), y_test=LABELS)
        assert "--size N" in refused(load_dataset, f"npz:{tmp_path / 'x.npz'}")
        assert load_dataset(f"npz:{tmp_path / 'x.npz'}", size=4).test.shape == (1, 4, 4)

    @pytest.mark.parametrize("base", [32, 7, 224])
    def test_the_pixel_rate_of_an_image_does_not_depend_on_how_it_is_turned(self, base):
        """The scaled pixel rate used the height: 0.005 for 8x20, 0.031 for 20x8."""
        settings = da.recipe("dream", "mine", ipc=3, base_size=base)
        lying, upright = (settings.pixel_lr_for((1, *sides)) for sides in ((8, 20), (20, 8)))
        assert lying == upright == pytest.approx(settings.pixel_lr * 0.3 * 160 / base**2)
        for side in range(1, 300):
            square = settings.pixel_lr * (3 / 10) * (side / base) ** 2
            assert settings.pixel_lr_for((1, side, side)) == square  # to the bit
        assert settings.depth_for((1, 8, 20)) == settings.depth_for((1, 20, 8)) == 1

    @pytest.mark.parametrize(("n_classes", "height"), [(3, 210), (100, 7000), (1000, 30000), SLOW])
    def test_previews_are_bounded_whatever_the_number_of_classes(self, n_classes, height):
        """matplotlib#16234: 1000 classes gave an image too tall for Matplotlib 3.9, whose limit is 2^16 pixels."""
        images, labels = torch.rand(n_classes, 1, 4, 4), torch.arange(n_classes)
        png = render_grid(images, labels, [f"class {c}" for c in range(n_classes)])
        with Image.open(io.BytesIO(png)) as picture:
            assert picture.height < 2**15
            assert picture.height == pytest.approx(height, rel=0.25)
        assert n_classes > MAX_ROWS or picture.height > 20 * n_classes

    def test_large_images_are_averaged_before_they_are_joined(self, monkeypatch):
        monkeypatch.setattr("dream_accel.report.figures._MOST_VALUES", 1000)
        images = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, 256, 300)
        png = render_grid(images, torch.arange(3), ["a", "b", "c"])
        whole = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
        assert {0, 127, 255} <= set(whole.flatten().tolist()) | {127 if 128 in whole else 0}


class TestObjects:
    def objects(self):
        split = as_split((IMAGES, LABELS))
        split.normalization(split.train.batch([0]))
        return split.train, split, split.normalization

    @pytest.mark.parametrize("again", [copy.deepcopy, copy.copy, lambda x: pickle.loads(pickle.dumps(x))])
    def test_sets_and_normalizations_are_copied_and_pickled(self, again):
        train, split, normalization = (again(thing) for thing in self.objects())
        assert torch.equal(train.images, self.objects()[0].images)
        assert torch.equal(split.test.labels, self.objects()[1].test.labels)
        assert (split.name, split.note, split.train.class_names) == ("own data", self.objects()[1].note, ("0", "1"))
        assert normalization == split.normalization == self.objects()[2]
        assert torch.equal(normalization(train.batch([1])), split.normalization(split.train.batch([1])))

    def test_a_default_dtype_of_float64_changes_nothing(self):
        expected = self.objects()
        torch.set_default_dtype(torch.float64)
        try:
            found = self.objects()
            batch = found[2](found[0].batch([0, 3]))
            both = TensorDataset(torch.from_numpy(IMAGES)[:, None], torch.from_numpy(LABELS))
            assert torch.equal(as_split((both, both)).train.images, torch.from_numpy(IMAGES)[:, None])
            resized = da.data.resize(found[1], 4).train.images
        finally:
            torch.set_default_dtype(torch.float32)
        assert batch.dtype == torch.float32
        assert torch.equal(batch, expected[2](expected[0].batch([0, 3])))
        assert torch.equal(resized, da.data.resize(expected[1], 4).train.images)

    @pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
    def test_what_is_made_without_gradients_serves_training(self, mode):
        with mode():
            split = da.data.resize(as_split((IMAGES, LABELS)), 5)
            constants = split.normalization
            constants(split.train.batch([0]))
        weights = torch.ones(25, 2, requires_grad=True)
        logits = constants(split.train.batch([0, 1])).flatten(1) @ weights
        torch.nn.functional.cross_entropy(logits, split.train.labels[[0, 1]]).backward()
        assert weights.grad is not None
        assert Normalization.from_images(split.train.images) == constants
