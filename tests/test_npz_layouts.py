"""Key layouts of .npz files: those that are taken, what the note says of them, and those that are refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dream_accel.data import DataSplit, load_dataset, subset
from dream_accel.errors import DreamAccelError

X = np.random.RandomState(0).randint(0, 256, (9, 5, 5), dtype=np.uint8)
Y = np.arange(9) % 3
PARTS = (X[:6], Y[:6], X[6:], Y[6:])
KERAS = ("x_train", "y_train", "x_test", "y_test")
MEDMNIST = ("train_images", "train_labels", "test_images", "test_labels")


def load(folder: Path, **arrays) -> DataSplit:
    np.savez(folder / "set.npz", **arrays)
    return load_dataset(f"npz:{folder / 'set.npz'}")


def refusal(folder: Path, **arrays) -> str:
    with pytest.raises(DreamAccelError) as caught:
        load(folder, **arrays)
    message = str(caught.value)
    assert message.startswith(str(folder / "set.npz"))
    return message


def named(keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    return dict(zip(keys, PARTS, strict=True))


@pytest.mark.parametrize(
    "keys",
    [
        KERAS,
        MEDMNIST,
        ("X_train", "y_train", "X_test", "y_test"),
        ("train_x", "train_y", "test_x", "test_y"),
        ("Train_X", "train_y", "Test_X", "test_y"),
    ],
)
def test_known_layouts_are_taken_in_any_case_and_noted(tmp_path, keys):
    split = load(tmp_path, **named(keys))
    assert np.array_equal(split.train.images[:, 0].numpy(), X[:6])
    assert split.test.labels.tolist() == Y[6:].tolist()
    assert split.note == f"took the keys {', '.join(keys)}"


def test_medmnist_columns_of_labels_are_taken_and_its_validation_set_is_left(tmp_path):
    arrays = named(MEDMNIST)
    arrays = {key: value[:, None] if key.endswith("labels") else value for key, value in arrays.items()}
    split = load(tmp_path, **arrays, val_images=X[:2], val_labels=Y[:2, None])
    assert split.train.labels.tolist() == Y[:6].tolist()
    assert split.note == f"took the keys {', '.join(MEDMNIST)}; left unused: val_images, val_labels"


def test_class_names_are_used_in_any_case(tmp_path):
    split = load(tmp_path, **named(KERAS), Class_Names=["a", "b", "c"])
    assert split.train.class_names == ("a", "b", "c")
    assert "unused" not in split.note


def test_the_note_survives_resizing_and_subsets(tmp_path):
    split = load(tmp_path, **named(KERAS))
    resized = load_dataset(f"npz:{tmp_path / 'set.npz'}", size=4)
    assert resized.note == subset(split, 3).note == split.note != ""


def test_mixed_layouts_say_what_was_found_and_what_is_known(tmp_path):
    message = refusal(tmp_path, x_train=X[:6], train_labels=Y[:6], x_test=X[6:], y_test=Y[6:])
    assert "lacks y_train: it holds x_train, train_labels, x_test, y_test" in message
    for layout in (KERAS, MEDMNIST, ("train_x", "train_y", "test_x", "test_y")):
        assert ", ".join(layout) in message


def test_missing_keys_are_those_of_the_nearest_layout(tmp_path):
    assert "lacks test_labels:" in refusal(tmp_path, train_images=X, train_labels=Y, test_images=X)
    assert "it holds no keys" in refusal(tmp_path)


def test_two_layouts_in_one_file_are_refused(tmp_path):
    assert "several layouts" in refusal(tmp_path, **named(KERAS), **named(MEDMNIST))


def test_keys_that_differ_in_case_alone_are_refused(tmp_path):
    assert "has both x_train and X_train" in refusal(tmp_path, **named(KERAS), X_train=X[:6])


def test_several_labels_per_image_are_refused(tmp_path):
    arrays = named(MEDMNIST)
    arrays["train_labels"] = np.eye(3, dtype=int)[Y[:6]]
    assert "training set: labels have shape (6, 3)" in refusal(tmp_path, **arrays)


def test_unused_arrays_are_not_unpickled(tmp_path):
    split = load(tmp_path, **named(KERAS), extra=np.array([{}], dtype=object))
    assert split.note.endswith("left unused: extra")


def test_a_folder_without_test_images_says_how_many_became_them(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.fromarray(X[i] ^ np.uint8(len(list(tmp_path.iterdir())))).save(tmp_path / name / f"{i}.png")
    split = load_dataset(f"imagefolder:{tmp_path}")
    assert split.note == "2 of 10 images, stratified by class with seed 0, are the test set"
