"""Classes matched by name wherever two lists of them meet, and never by position where both sides have names."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.refusals import refused

import dream_accel as da
from dream_accel.data import DataSplit, ImageSet, Normalization, as_split, load_dataset
from dream_accel.data.class_names import in_order, listed, places, places_by_name
from dream_accel.evaluation import protocol
from dream_accel.formats import write
from dream_accel.results import Result
from dream_accel.synthetic import SyntheticSet

ANIMALS = ("zebra", "ant", "cat")
TWELVE = tuple(str(c) for c in range(12))
SHADES = [20 * c for c in range(12)]
"""The grey level that is all there is to an image of class c."""


def shades(n_classes: int, each: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Images of which each has the shade of its class, with a pixel of its own, and their labels."""
    labels = np.repeat(np.arange(n_classes), each)
    images = np.stack([np.full((8, 8), SHADES[c], np.uint8) for c in labels])
    images[:, 0, 0] = np.arange(len(labels))
    return images, labels


def result_folder(path, names: dict[str, int]):
    """A folder of another program: two images of the given shade for every class."""
    for name, c in names.items():
        (path / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(np.full((8, 8), SHADES[c], np.uint8)).save(path / name / f"{i}.png")
    return path


@pytest.fixture
def trained_on(monkeypatch):
    """The images and labels with which `evaluate` would train."""
    seen = {}

    def instead(images, labels, *rest, **more):
        seen.update(images=images, labels=labels)
        return protocol.Evaluation((100.0,), protocol.Protocol())

    monkeypatch.setattr(protocol, "evaluate_images", instead)
    return seen


def agrees(seen) -> bool:
    """Return True if every image has the label of the class whose shade it has."""
    return (seen["images"][:, 0, 4, 4] * 255).round().long().tolist() == [SHADES[c] for c in seen["labels"].tolist()]


class TestOrder:
    def test_numbers_are_in_numeric_order(self):
        assert in_order(["0", "1", "10", "2"]) == ["0", "1", "2", "10"]
        assert in_order(["new10", "new2", "new1"]) == ["new1", "new2", "new10"]
        assert in_order(["10_emu", "9_dog"]) == ["9_dog", "10_emu"]
        assert in_order(["b2", "a10", "a9"]) == ["a10", "a9", "b2"]
        assert in_order(["cat", "10", "9"]) == ["10", "9", "cat"]

    def test_image_folders_are_read_in_that_order(self, tmp_path):
        result_folder(tmp_path / "train", {name: int(name) for name in TWELVE})
        result_folder(tmp_path / "test", {name: int(name) for name in ("11", "2")})
        split = load_dataset(f"imagefolder:{tmp_path}")
        assert split.train.class_names == TWELVE
        assert split.train.images[:, 0, 0, 0].tolist() == [SHADES[c] for c in split.train.labels.tolist()]
        assert split.test.images[:, 0, 0, 0].tolist() == [SHADES[c] for c in split.test.labels.tolist()]


class TestPlaces:
    @pytest.mark.parametrize(
        ("names", "known", "expected"),
        [
            (("ant", "cat", "zebra"), ANIMALS, (1, 2, 0)),
            (("10", "2", "0", *"13456789"), TWELVE[:11], (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)),
            (("00002", "00000", "00001"), ("0", "1", "2"), (2, 0, 1)),
            (("new001", "new000", "new002"), ANIMALS, (1, 0, 2)),
            (("0_zebra", "1_ant", "2_cat"), ("cat", "ant", "zebra"), (2, 1, 0)),
            (("0_zebra", "1_ant", "2_cat"), ("0", "1", "2"), (0, 1, 2)),
            (("0_00000", "1_00001", "2_00002"), ANIMALS, (0, 1, 2)),
            (("T-shirt-top", "Ankle-boot"), ("Ankle boot", "T-shirt/top"), (1, 0)),
            (("cafe\u0301", "Th\u00e9"), ("th\u00e9", "caf\u00e9"), (1, 0)),
            (("b", "b", "a"), ("b", "b", "a"), (0, 1, 2)),
        ],
    )
    def test_the_same_classes_are_found(self, names, known, expected):
        assert places(names, known, "one", "another", ordered=False) == expected

    @pytest.mark.parametrize(
        ("names", "known"),
        [
            (("ant", "cat", "dog"), ANIMALS),
            (("0_ant", "1_bee", "2_cow"), ANIMALS),
            (("a", "b", "b"), ("b", "a", "b")),
            (("a b", "a-b"), ("a-b", "a_b")),
            (("1", "2", "3"), ANIMALS),
            (("ant", "cat"), ANIMALS),
            (("ant", "cat", "zebra"), ("0", "1", "2")),
        ],
    )
    def test_others_are_refused_with_both_lists(self, names, known):
        message = refused(places, names, known, "one", "another", ordered=False)
        assert ", ".join(names) in message
        assert ", ".join(known) in message

    def test_a_list_in_the_order_of_its_labels_has_their_numbers(self):
        assert places(("zebra", "ant"), ("1", "0"), "one", "another") == (1, 0)

    def test_some_of_the_classes_are_found_by_name_alone(self):
        assert places_by_name(("cat", "zebra"), ANIMALS, some=True) == (2, 0)
        assert places_by_name(("0", "1"), ANIMALS, some=True) is None

    def test_long_lists_are_cut_and_name_what_the_other_lacks(self):
        names = [f"class {c}" for c in range(100)]
        assert listed(names, names[:99]).endswith("class 9, ... (100 in all, among them class 99)")


class TestEvaluating:
    def test_a_folder_of_numbers_beside_a_set_without_names(self, tmp_path, trained_on):
        """RDED#3: folders 0 1 ... 11 were read as 0, 1, 10, 11, 2, which gave 16.7 % instead of 100 %."""
        images, labels = shades(12)
        np.savez(tmp_path / "x.npz", x_train=images, y_train=labels, x_test=255 - images, y_test=labels)
        path = result_folder(tmp_path / "rded", {name: int(name) for name in TWELVE})
        result = da.load(path, f"npz:{tmp_path / 'x.npz'}")
        da.evaluate(result, device="cpu")
        assert len(trained_on["labels"]) == 24
        assert agrees(trained_on)

    def test_named_folders_beside_a_set_with_the_names_in_another_order(self, tmp_path, trained_on):
        """RDED#4: class names [zebra, ant, cat] beside folders of those names gave 6.7 % instead of 84 %."""
        path = result_folder(tmp_path / "rded", {name: c for c, name in enumerate(ANIMALS)})
        images, labels = shades(3)
        split = DataSplit.from_arrays((images, labels), (255 - images, labels), class_names=ANIMALS)
        da.evaluate(da.load(path, "mine"), split, device="cpu")
        assert agrees(trained_on)
        kept = da.load(da.load(path, "mine").save(tmp_path / "kept"))
        da.evaluate(kept, split, device="cpu")
        assert agrees(trained_on)

    @pytest.mark.slow
    def test_accuracy_is_that_of_matched_classes(self, tmp_path):
        words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
        digits = load_dataset("digits")
        for c, name in enumerate(words):
            (tmp_path / name).mkdir()
            for row in (digits.train.labels == c).nonzero().flatten()[:3].tolist():
                Image.fromarray(digits.train.images[row, 0].numpy()).save(tmp_path / name / f"{row}.png")
        parts = ((part.images, part.labels) for part in (digits.train, digits.test))
        split = DataSplit.from_arrays(*parts, class_names=words)
        settings = {"networks": 1, "epochs": 40, "lr": 0.05, "width": 8, "depth": 2, "device": "cpu"}
        assert da.evaluate(da.load(tmp_path, "digits"), split, **settings).mean > 40

    def test_named_folders_beside_a_set_without_names_are_not_guessed(self, tmp_path, trained_on):
        path = result_folder(tmp_path / "rded", {name: c for c, name in enumerate(ANIMALS)})
        message = refused(da.evaluate, da.load(path, "mine"), shades(3, 10), device="cpu")
        assert "the distilled set (folder: rded) has the classes ant, cat, zebra and own data 0, 1, 2" in message
        assert "class_names" in message

    def test_other_classes_are_refused_with_both_lists(self, tmp_path, trained_on):
        path = result_folder(tmp_path / "rded", {"ant": 0, "cat": 1, "dog": 2})
        split = DataSplit.from_arrays(shades(3, 10), class_names=ANIMALS)
        message = refused(da.evaluate, da.load(path, "mine"), split, device="cpu")
        assert "ant, cat, dog and own data zebra, ant, cat" in message

    @pytest.mark.parametrize("soft", [False, True])
    def test_a_run_evaluated_on_its_classes_in_another_order(self, trained_on, soft):
        images = torch.tensor(SHADES[:3]).view(3, 1, 1, 1, 1).expand(3, 2, 1, 8, 8) / 255
        likely = (torch.eye(3) * 0.8 + 0.1).unsqueeze(1).expand(3, 2, 3).clone() if soft else None
        constants = Normalization((0.5,), (0.5,))
        result = Result(SyntheticSet(images, 1, {}, likely), da.recipe("dream", "mine", ipc=2), constants, ANIMALS)
        reals, labels = shades(3, 10)
        split = DataSplit.from_arrays(
            (reals, [2, 0, 1] * 10), (255 - reals, labels), class_names=("ant", "cat", "zebra")
        )
        da.evaluate(result, split, device="cpu")
        found = trained_on["labels"].argmax(1) if soft else trained_on["labels"]
        assert found.tolist() == [2, 2, 0, 0, 1, 1]
        if soft:
            torch.testing.assert_close(trained_on["labels"].max(dim=1).values, torch.full((6,), 0.9))
        da.evaluate(result, (reals, [2, 0, 1] * 10), device="cpu")  # without names: by number, as the run had them
        assert trained_on["labels"].shape == ((6, 3) if soft else (6,))


class TestOwnData:
    def test_two_sets_are_put_into_the_order_of_the_training_set(self):
        images, labels = shades(3, 10)
        train = ImageSet.from_arrays(images, labels, class_names=ANIMALS)
        test = ImageSet.from_arrays(255 - images, labels, class_names=("cat", "zebra", "ant"))
        split = as_split((train, test))
        assert split.test.class_names == ANIMALS
        assert split.test.labels.tolist() == [2] * 10 + [0] * 10 + [1] * 10
        other = ImageSet.from_arrays(255 - images, labels, class_names=("cat", "zebra", "cow"))
        assert "cat, zebra, cow and the training set zebra, ant, cat" in refused(as_split, (train, other))
        message = refused(DataSplit, "x", train, test)
        assert "zebra, ant, cat and cat, zebra, ant" in message


class TestFolderFamily:
    @pytest.mark.parametrize("names", [ANIMALS, TWELVE[:3], ("T-shirt/top", "Ankle boot", "Bag")])
    def test_what_was_written_is_matched_again(self, tmp_path, trained_on, names):
        images = torch.tensor(SHADES[:3]).view(3, 1, 1, 1, 1).expand(3, 2, 1, 8, 8) / 255
        result = Result(SyntheticSet(images), da.recipe("dream", "mine", ipc=2), Normalization((0.5,), (0.5,)), names)
        write(result, "folder", tmp_path / "one")
        write(da.load(tmp_path / "one", "mine"), "folder", tmp_path / "two")
        reals, labels = shades(3, 10)
        for folder in ("one", "two"):
            for given in (names, None):
                split = DataSplit.from_arrays((reals, labels), class_names=given)
                da.evaluate(da.load(tmp_path / folder, "mine"), split, device="cpu")
                assert agrees(trained_on)

    def test_soft_labels_stay_with_their_images(self, tmp_path):
        """The likeliest class of an image need not be its own."""
        images = torch.tensor(SHADES[:3]).view(3, 1, 1, 1, 1).expand(3, 2, 1, 8, 8) / 255
        likely = torch.softmax(torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0)) * 4, dim=2)
        constants = Normalization((0.5,), (0.5,))
        result = Result(SyntheticSet(images, 1, {}, likely), da.recipe("dream", "mine", ipc=2), constants, ANIMALS)
        write(result, "folder", tmp_path / "out")
        found, labels = da.load(tmp_path / "out", "mine").synthetic.decode()
        torch.testing.assert_close(found, images.flatten(0, 1))
        torch.testing.assert_close(labels, likely.flatten(0, 1))
        torch.save(likely.flatten(0, 1)[:, :2], tmp_path / "out" / "soft_labels.pt")
        assert "(6, 3): remove or repair it" in refused(da.load, tmp_path / "out", "mine")

    @pytest.mark.parametrize("family", ["dc", "idc", "mtt", "ddranking"])
    def test_a_layout_without_names_says_which_number_is_which(self, tmp_path, family):
        images = torch.full((3, 2, 1, 8, 8), 0.5)
        result = Result(SyntheticSet(images), da.recipe("dream", "mine", ipc=2), Normalization((0.5,), (0.5,)), ANIMALS)
        assert "the classes 0, 1, ... are zebra, ant, cat" in write(result, family, tmp_path / "out")
