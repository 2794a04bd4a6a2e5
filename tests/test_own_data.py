"""One's own arrays and Datasets: every form that as_split takes, and every refusal with its remedy."""

from collections import namedtuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset, random_split

from dream_accel.data import DataSplit, ImageSet, as_split
from dream_accel.errors import DreamAccelError

N, SIDE = 20, 6
LABELS = np.arange(N) % 2
THREE = np.arange(N) % 3


def pixels(n: int = N, *shape: int) -> np.ndarray:
    shape = shape or (SIDE, SIDE, 3)
    return np.random.RandomState(n + sum(shape)).randint(0, 256, (n, *shape), dtype=np.uint8)


IMAGES = pixels()
NCHW = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).contiguous()


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(DreamAccelError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


class Items(Dataset):
    """A map-style Dataset of given items that records what is asked for."""

    def __init__(self, items, **attributes):
        self.items = list(items)
        self.asked: list[int] = []
        self.__dict__.update(attributes)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        self.asked.append(i)
        return self.items[i]


def items(images, labels=LABELS, **attributes) -> Items:
    return Items(zip(images, labels, strict=False), **attributes)


def with_item(i: int, item: object) -> Items:
    held = items(IMAGES)
    held.items[i] = item
    return held


class TestArrays:
    def test_pair_of_pairs_is_training_and_test_set(self):
        split = as_split(((IMAGES, LABELS), (255 - IMAGES[:4], LABELS[:4])))
        assert torch.equal(split.train.images, NCHW)
        assert torch.equal(split.test.images, 255 - NCHW[:4])
        assert (split.name, split.note, split.train.class_names) == ("own data", "", ("0", "1"))

    @pytest.mark.parametrize("kind", ["numpy", "torch", "list of arrays", "list of tensors", "floats", "PIL images"])
    def test_every_kind_of_array_gives_the_same_set(self, kind):
        images, labels = {
            "numpy": (IMAGES, LABELS),
            "torch": (NCHW, torch.from_numpy(LABELS)),
            "list of arrays": (list(IMAGES), list(LABELS)),
            "list of tensors": (list(NCHW), [torch.tensor(label) for label in LABELS]),
            "floats": (IMAGES / 255, LABELS[:, None]),
            "PIL images": ([Image.fromarray(image) for image in IMAGES], LABELS.tolist()),
        }[kind]
        split = as_split(((images, labels), [images, labels]))
        assert torch.equal(split.train.images, NCHW)
        assert torch.equal(split.test.labels, torch.from_numpy(LABELS))

    def test_array_interface_without_numpy_or_torch_is_read_through_dlpack(self):
        class Foreign:
            def __init__(self, array):
                self.array = array
                self.dtype = array.dtype

            def __dlpack__(self, **options):
                return self.array.__dlpack__()

            def __dlpack_device__(self):
                return self.array.__dlpack_device__()

        split = as_split((Foreign(IMAGES), Foreign(LABELS)))
        assert len(split.train) + len(split.test) == N

    def test_one_pair_loses_a_stratified_fifth_to_the_test_set(self):
        split = as_split((IMAGES, LABELS))
        assert split.train.class_counts().tolist() == [8, 8]
        assert split.test.class_counts().tolist() == [2, 2]
        both = torch.cat([split.train.images, split.test.images]).flatten(1)
        assert len(both.unique(dim=0)) == N
        assert torch.equal(as_split((IMAGES, LABELS)).test.images, split.test.images)
        assert split.note == "4 of 20 images, stratified by class with seed 0, are the test set"

    def test_every_class_is_tested_however_small(self):
        labels = np.array([0] * 16 + [1, 1, 2, 2])
        split = as_split((IMAGES, labels))
        assert split.test.class_counts().min() == 1
        assert split.train.class_counts().min() == 1

    def test_two_images_in_lists_are_one_pair(self):
        four = [*IMAGES[:2]], [0, 1]
        assert "class 0 ('0') has 1 image" in refusal(as_split, four)
        assert "labels.argmax(1)" in refusal(as_split, ([*IMAGES[:2]], [[0, 1], [1, 0]]))

    def test_names_layout_and_title_are_taken(self):
        channels = pixels(N, SIDE, SIDE, 4)
        split = DataSplit.from_arrays(
            (channels, LABELS), (channels, LABELS), class_names=["cat", "dog"], name="pets", layout="nhwc"
        )
        assert (split.name, split.test.class_names, split.test.shape) == ("pets", ("cat", "dog"), (4, SIDE, SIDE))

    def test_a_test_set_may_lack_a_class(self):
        split = as_split(((IMAGES, LABELS), (IMAGES[:3], [1, 1, 1])))
        assert split.test.class_counts().tolist() == [0, 3]

    def test_sets_of_the_library_pass_unchanged(self):
        one = ImageSet.from_arrays(IMAGES, LABELS)
        split = DataSplit("mine", one, one)
        assert as_split(split) is split
        assert as_split((one, one)).train is one
        assert len(as_split(one).test) == 4


class TestArrayRefusals:
    def test_lengths_name_the_first_image_or_label_left_over(self):
        assert "20 images and 19 labels: image 19 has no label" in refusal(as_split, (IMAGES, LABELS[:19]))
        assert "19 images and 20 labels: label 19 has no image" in refusal(as_split, (IMAGES[:19], LABELS))

    @pytest.mark.parametrize("labels", [list("ab") * 10, np.array(list("ab") * 10), np.array(list("ab") * 10, object)])
    def test_strings_are_converted_as_the_message_says(self, labels):
        message = refusal(as_split, (IMAGES, labels))
        assert "label 0 is 'a'" in message
        assert "np.unique(labels, return_inverse=True)[1]" in message
        assert as_split((IMAGES, np.unique(labels, return_inverse=True)[1])).train.n_classes == 2

    @pytest.mark.parametrize("soft", [np.eye(2, dtype=int)[LABELS], np.eye(2)[LABELS] * 0.8 + 0.1])
    def test_one_hot_and_soft_labels_are_converted_as_the_message_says(self, soft):
        assert "labels.argmax(1)" in refusal(as_split, (IMAGES, soft))
        assert as_split((IMAGES, soft.argmax(1))).train.n_classes == 2

    def test_labels_outside_their_range_are_named(self):
        one_based = LABELS + 1
        assert "class 0" in refusal(as_split, (IMAGES, one_based))
        assert "np.unique" in refusal(as_split, (IMAGES, one_based))
        negative = LABELS.copy()
        negative[[3, 5]] = -1
        assert "label 3 is -1" in refusal(as_split, (IMAGES, negative))

    def test_other_rank_and_dtype_say_what_to_do(self):
        assert "(20, 108)" in refusal(as_split, (IMAGES.reshape(N, -1), LABELS))
        assert "reshape" in refusal(as_split, (IMAGES.reshape(N, -1), LABELS))
        assert "int64" in refusal(as_split, (IMAGES.astype(np.int64), LABELS))

    def test_normalised_floats_name_the_first_image(self):
        images = IMAGES / 255
        images[7, 0, 0, 0] = -1.5
        message = refusal(as_split, (images, LABELS))
        assert "image 7 is the first outside" in message
        assert "leave out Normalize" in message

    def test_a_test_set_of_other_classes_or_shape_is_refused_as_the_test_set(self):
        message = refusal(as_split, ((IMAGES, LABELS), (IMAGES, LABELS + 1)))
        assert message.startswith("own data, test set: labels reach from 1 to 2 (label 1 is 2)")
        smaller = pixels(4, 5, 5, 3)
        assert "(3, 6, 6) and test images (3, 5, 5)" in refusal(as_split, ((IMAGES, LABELS), (smaller, LABELS[:4])))

    @pytest.mark.parametrize(
        ("data", "found"),
        [
            (IMAGES, "a ndarray"),
            ((IMAGES, LABELS, IMAGES, LABELS), "a tuple of 4 (ndarray, ndarray, ndarray, ndarray)"),
            ({"train": IMAGES}, "a dict"),
            ("cifar10", "load_dataset('cifar10')"),
            ((items(IMAGES), (IMAGES, LABELS)), "a tuple of 2 (Items, tuple)"),
            (7, "a int"),
        ],
    )
    def test_other_forms_list_those_that_are_taken(self, data, found):
        message = refusal(as_split, data)
        assert found in message
        assert "((x_train, y_train), (x_test, y_test))" in message

    def test_a_constructor_given_one_array_asks_for_a_pair(self):
        assert "give a pair (images, labels)" in refusal(DataSplit.from_arrays, IMAGES)


class TestDatasets:
    def test_pair_of_datasets_is_read_once_in_order(self):
        train, test = items(IMAGES), items(IMAGES[:4])
        split = as_split((train, test))
        assert torch.equal(split.train.images, NCHW)
        assert torch.equal(split.test.images, NCHW[:4])
        assert (train.asked, test.asked) == (list(range(N)), list(range(4)))

    def test_one_dataset_is_cut_as_its_arrays_are(self):
        split, of_arrays = as_split(items(IMAGES)), as_split((IMAGES, LABELS))
        assert torch.equal(split.test.images, of_arrays.test.images)
        assert split.note == of_arrays.note

    @pytest.mark.parametrize(
        "images",
        [
            [Image.fromarray(image) for image in IMAGES],
            list(NCHW),
            list(NCHW.permute(0, 2, 3, 1).numpy()),
            list(NCHW.numpy()),
            list(NCHW.float() / 255),
            list(NCHW.half() / 255),
            list(IMAGES / 255),
        ],
        ids=["PIL", "CHW tensors", "HWC arrays", "CHW arrays", "floats", "halves", "float64 HWC"],
    )
    def test_every_kind_of_image_gives_the_same_set(self, images):
        assert torch.equal(as_split((items(images), items(images))).train.images, NCHW)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_floats_are_rounded_as_those_of_whole_arrays(self, dtype):
        images = torch.rand(N, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(dtype)
        read = as_split((items(images), items(images))).train.images
        assert torch.equal(read, ImageSet.from_arrays(images, LABELS).images)

    def test_grey_images_have_one_channel_and_mixtures_three(self):
        grey = [Image.fromarray(image).convert("L") for image in IMAGES]
        split = as_split((items(grey), items(list(np.stack([np.asarray(image) for image in grey])))))
        assert split.train.shape == (1, SIDE, SIDE)
        assert torch.equal(split.train.images, split.test.images)
        for mixed in ([*grey[:5], *map(Image.fromarray, IMAGES[5:])], [*map(Image.fromarray, IMAGES[:5]), *grey[5:]]):
            held = as_split((items(mixed), items(mixed))).train.images
            expected = np.stack([np.asarray(image.convert("RGB")) for image in mixed]).transpose(0, 3, 1, 2)
            assert np.array_equal(held.numpy(), expected)

    def test_palette_transparency_and_bilevel_images_are_converted(self):
        rgba = Image.fromarray(pixels(1, SIDE, SIDE, 4)[0])
        palette = Image.fromarray(IMAGES[0]).convert("P")
        held = as_split((items([rgba, palette]), items([rgba, palette]))).train.images.numpy()
        white = Image.new("RGBA", rgba.size, "white")
        seen = np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
        assert np.array_equal(held[0], seen.transpose(2, 0, 1))
        assert np.array_equal(held[1], np.asarray(palette.convert("RGB")).transpose(2, 0, 1))
        bilevel = [Image.fromarray(IMAGES[i]).convert("1") for i in range(2)]
        assert set(as_split((items(bilevel), items(bilevel))).train.images.unique().tolist()) <= {0, 255}

    @pytest.mark.parametrize(
        "label",
        [int, np.int64, np.uint8, torch.tensor, np.array, lambda c: np.array([c]), lambda c: torch.tensor([c])],
        ids=["int", "int64", "uint8", "0-d tensor", "0-d array", "(1,) array", "(1,) tensor"],
    )
    def test_every_kind_of_label_is_read(self, label):
        held = items(IMAGES, [label(c) for c in LABELS])
        assert as_split((held, held)).train.labels.tolist() == LABELS.tolist()

    def test_lists_and_named_tuples_are_pairs_too(self):
        sample = namedtuple("sample", "image target")
        held = Items([sample(*pair) for pair in zip(IMAGES, LABELS, strict=True)])
        listed = Items([list(pair) for pair in zip(IMAGES, LABELS, strict=True)])
        assert torch.equal(as_split((held, listed)).train.images, NCHW)

    def test_subset_concatenation_and_tensor_dataset_are_read(self):
        whole = TensorDataset(NCHW, torch.from_numpy(LABELS))
        train, test = random_split(whole, [16, 4], torch.Generator().manual_seed(0))
        split = as_split((train, test))
        assert torch.equal(split.train.images, NCHW[train.indices])
        joined = ConcatDataset([Subset(whole, range(8)), Subset(whole, range(8, N))])
        assert torch.equal(as_split((joined, whole)).train.images, NCHW)

    def test_objects_that_look_like_datasets_are_read(self):
        class Duck:
            def __len__(self):
                return N

            def __getitem__(self, i):
                return IMAGES[i], LABELS[i]

        assert len(as_split(Duck()).test) == 4
        assert len(DataSplit.from_datasets(list(zip(IMAGES, LABELS, strict=True))).test) == 4

    def test_transforms_are_applied(self):
        from torchvision.datasets import FakeData
        from torchvision.transforms import v2

        plain = FakeData(12, (3, 8, 8), num_classes=2)
        flipped = FakeData(12, (3, 8, 8), num_classes=2, transform=v2.RandomHorizontalFlip(1.0))
        flipped.data = np.zeros((12, 8, 8, 3), np.uint8)  # must not be read instead of the items
        split = as_split((plain, flipped))
        assert torch.equal(split.test.images, split.train.images.flip(3))


class TestClassNames:
    def test_classes_of_the_dataset_are_the_names(self):
        named = items(IMAGES, classes=["cat", "dog"])
        assert as_split(named).train.class_names == ("cat", "dog")
        assert as_split(Subset(named, range(10))).train.class_names == ("cat", "dog")
        assert as_split(ConcatDataset([named, named])).train.class_names == ("cat", "dog")
        assert as_split(ConcatDataset([named, items(IMAGES)])).train.class_names == ("0", "1")

    def test_synonyms_are_named_by_the_first(self):
        assert as_split(items(IMAGES, classes=[("cat", "Felis"), ("dog", "Canis")])).train.class_names == ("cat", "dog")

    def test_labels_changed_by_a_transform_lose_the_names(self):
        changed = items(IMAGES, classes=list("abcdefghij"), target_transform=lambda label: label % 2)
        assert as_split(changed).train.class_names == ("0", "1")
        joint = items(
            IMAGES, classes=list("abcdefghij"), transform=None, transforms=lambda image, label: (image, label)
        )
        assert as_split(joint).train.class_names == ("0", "1")

    def test_given_names_win(self):
        split = DataSplit.from_datasets(items(IMAGES, classes=["a", "b"]), class_names=["x", "y"], name="pets")
        assert (split.train.class_names, split.name) == (("x", "y"), "pets")

    def test_classes_that_differ_are_refused_with_both_lists(self):
        message = refusal(as_split, (items(IMAGES, classes=["cat", "dog"]), items(IMAGES, classes=["dog", "cow"])))
        assert "the test set has the classes dog, cow and the training set cat, dog" in message

    def test_classes_in_another_order_are_put_into_that_of_the_training_set(self):
        split = as_split((items(IMAGES, classes=["cat", "dog"]), items(255 - IMAGES, classes=["dog", "cat"])))
        assert split.test.class_names == ("cat", "dog")
        assert split.test.labels.tolist() == (1 - LABELS).tolist()


class TestDatasetRefusals:
    @pytest.mark.parametrize(
        ("item", "found"),
        [
            ({"image": IMAGES[0], "label": 0}, "a dict with the keys image, label"),
            ((IMAGES[0], 0, "path"), "a tuple of 3"),
            (NCHW[0], "one Tensor of shape (3, 6, 6)"),
            (None, "one NoneType"),
        ],
    )
    def test_no_pair_names_the_index_and_what_came(self, item, found):
        message = refusal(as_split, with_item(3, item))
        assert f"index 3 yields {found}" in message
        assert "pairs (image, label)" in message

    def test_several_sizes_name_the_first_other_one_and_a_resize(self):
        odd = with_item(4, (Image.fromarray(pixels(1, 9, 7, 3)[0]), 0))
        message = refusal(as_split, odd)
        assert "index 4 has an image of 9x7 pixels (height x width) and index 0 of 6x6" in message
        assert "Resize((6, 6))" in message
        assert odd.asked == list(range(5))

    @pytest.mark.parametrize(
        ("image", "found"),
        [
            (NCHW[0].float() / 255 * 4 - 2, "leave out Normalize"),
            (NCHW[0].float(), "by 255"),
            (torch.full((3, 6, 6), torch.nan), "NaN or Inf"),
            (NCHW[0].long(), "int64"),
            (NCHW[0] > 3, "bool"),
            (pixels(1, 6, 6, 4)[0], "(6, 6, 4)"),
            (NCHW[:2], "(2, 3, 6, 6)"),
            (Image.new("I", (6, 6)), "32 bits per channel (mode I)"),
            (3, "a int for an image"),
        ],
    )
    def test_images_of_another_form_name_the_index(self, image, found):
        message = refusal(as_split, with_item(5, (image, 1)))
        assert "index 5 has" in message
        assert found in message

    @pytest.mark.parametrize(
        ("label", "found"),
        [
            ("cat", "np.unique(labels, return_inverse=True)[1]"),
            (np.array("cat"), "the label 'cat'"),
            (np.array([0, 1]), "labels.argmax(1)"),
            (torch.tensor([0.1, 0.9]), "shape (2,)"),
            (1.0, "a float"),
            (True, "a bool"),
            (None, "a NoneType"),
        ],
    )
    def test_labels_of_another_form_name_the_index(self, label, found):
        message = refusal(as_split, with_item(6, (IMAGES[6], label)))
        assert "index 6 has" in message
        assert found in message

    def test_labels_that_skip_a_class_are_refused(self):
        assert "class 0;" in refusal(as_split, items(IMAGES, LABELS + 1))

    def test_other_classes_or_shape_of_the_test_set_are_refused(self):
        assert "test set: labels reach from 0 to 2" in refusal(as_split, (items(IMAGES), items(IMAGES, THREE)))
        assert "(3, 6, 6) and test images (3, 5, 5)" in refusal(as_split, (items(IMAGES), items(pixels(4, 5, 5, 3))))

    def test_iterable_style_is_collected_as_the_message_says(self):
        class Stream(IterableDataset):
            def __iter__(self):
                return zip(NCHW, LABELS, strict=True)

        assert "images, labels = zip(*dataset)" in refusal(as_split, Stream())
        images, labels = zip(*Stream(), strict=True)
        assert len(as_split((images, labels)).test) == 4

    def test_loader_empty_and_endless_datasets_are_refused(self):
        assert "loader.dataset" in refusal(as_split, DataLoader(items(IMAGES)))
        assert "empty" in refusal(as_split, items([]))

        class Endless(Dataset):
            def __getitem__(self, i):
                return IMAGES[0], 0

        assert "__len__" in refusal(as_split, Endless())

    def test_the_part_at_fault_is_named(self):
        assert refusal(as_split, (items(IMAGES), with_item(2, None))).startswith("own data, test set: index 2")
        assert refusal(as_split, (with_item(2, None), items(IMAGES))).startswith("own data, training set: index 2")
        assert refusal(DataSplit.from_datasets, with_item(2, None), name="pets").startswith("pets: index 2")


def test_objects_with_an_array_interface_are_arrays_not_datasets():
    class OnDisk:
        """An array that is read when it is asked for, as of h5py."""

        def __array__(self, dtype=None, copy=None):
            return IMAGES

        def __len__(self):
            return N

        def __getitem__(self, i):
            return IMAGES[i]

    assert len(as_split((OnDisk(), LABELS)).test) == 4
