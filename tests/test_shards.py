"""WebDataset shards and folders of Hugging Face's datasets give the set that the same files in an image folder give."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.refusals import refused

from dream_accel.data import load_dataset

N = 12


def png(i: int, side: int = 8) -> bytes:
    pixels = np.random.default_rng(i).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_shard(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def samples(numbers, kind: str = "cls") -> dict[str, bytes]:
    """A sample for every number, of the class ``number % 3``, with the caption that such sets have."""
    files = {}
    for i in numbers:
        label = str(i % 3) if kind == "cls" else json.dumps({"label": i % 3, "width": 8})
        files |= {f"set/{i:04}.png": png(i), f"set/{i:04}.{kind}": label.encode(), f"set/{i:04}.txt": b"a caption"}
    return files


def image_folder(root: Path, numbers, part: str = "") -> str:
    for i in numbers:
        path = root / part / str(i % 3) / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    return f"imagefolder:{root}"


def by_pixels(images) -> dict[bytes, int]:
    return {image.numpy().tobytes(): int(label) for image, label in zip(images.images, images.labels, strict=True)}


class TestWebDataset:
    @pytest.mark.parametrize("kind", ["cls", "json"])
    @pytest.mark.parametrize("layout", ["train-{}.tar", "train/{}.tar"])
    def test_training_and_test_shards(self, tmp_path, kind, layout):
        for shard in range(2):
            write_shard(tmp_path / "w" / layout.format(shard), samples(range(shard, N, 2), kind))
        write_shard(tmp_path / "w" / layout.format(0).replace("train", "val"), samples(range(N, N + 4), kind))
        found = load_dataset(f"webdataset:{tmp_path / 'w'}")
        image_folder(tmp_path / "f", range(N), "train")
        expected = load_dataset(image_folder(tmp_path / "f", range(N, N + 4), "test"))
        assert by_pixels(found.train) == by_pixels(expected.train)
        assert by_pixels(found.test) == by_pixels(expected.test)
        assert found.train.class_names == ("0", "1", "2")

    @pytest.mark.parametrize("place", ["w", "w/0.tar"])
    def test_one_set_is_cut_in_two(self, tmp_path, place):
        write_shard(tmp_path / "w" / "0.tar", samples(range(N)))
        found = load_dataset(f"webdataset:{tmp_path / place}")
        assert (len(found.train), len(found.test)) == (9, 3)
        assert found.test.class_counts().tolist() == [1, 1, 1]
        assert len(by_pixels(found.train) | by_pixels(found.test)) == N
        assert "are the test set" in found.note

    def test_a_file_holds_the_same_and_the_names_are_read(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DREAM_ACCEL_CACHE", str(tmp_path / "cache"))
        write_shard(tmp_path / "w" / "0.tar", samples(range(N)))
        (tmp_path / "w" / "classes.txt").write_text("cat\ndog\nowl\n")
        name = f"webdataset:{tmp_path / 'w'}"
        for _ in range(2):
            assert torch.equal(
                load_dataset(name, image_memory=0, size=4).train.images, load_dataset(name, size=4).train.images
            )
        assert load_dataset(name).train.class_names == ("cat", "dog", "owl")

    def test_what_the_library_itself_writes(self, tmp_path):
        webdataset = pytest.importorskip("webdataset")
        with webdataset.TarWriter(str(tmp_path / "0.tar")) as sink:
            for i in range(N):
                sink.write({"__key__": f"{i:04}", "png": Image.open(io.BytesIO(png(i))), "cls": i % 3})
        found = load_dataset(f"webdataset:{tmp_path}")
        assert by_pixels(found.train) | by_pixels(found.test) == {
            np.asarray(Image.open(io.BytesIO(png(i)))).transpose(2, 0, 1).tobytes(): i % 3 for i in range(N)
        }

    def test_nothing_is_unpacked(self, tmp_path):
        """Names that lead out of the folder are names of samples, and no more."""
        outside = {f"../../{name}": data for name, data in samples(range(N)).items()}
        write_shard(tmp_path / "w" / "0.tar", outside)
        before = sorted(tmp_path.rglob("*"))
        assert len(load_dataset(f"webdataset:{tmp_path / 'w'}").train) == 9
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize("kept", [0.3, 0.6, 0.97, 0.999])
    def test_a_shard_that_ends_early(self, tmp_path, kept):
        shard = write_shard(tmp_path / "0.tar", samples(range(N)))
        held = shard.read_bytes().rstrip(b"\0")
        shard.write_bytes(held[: int(kept * len(held))])
        assert refused(load_dataset, f"webdataset:{tmp_path}").startswith(f"{shard} ends early or is no tar file")

    def test_a_shard_of_noise(self, tmp_path):
        shard = tmp_path / "0.tar"
        shard.write_bytes(np.random.default_rng(0).bytes(4096) + bytes(1024))
        assert f"{shard} cannot be read" in refused(load_dataset, f"webdataset:{tmp_path}")

    def test_a_compressed_shard(self, tmp_path):
        shard = write_shard(tmp_path / "0.tar", samples(range(N)))
        shard.write_bytes(gzip.compress(shard.read_bytes()))
        assert "is compressed" in refused(load_dataset, f"webdataset:{tmp_path}")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"set/0001.cls": b"cat"}, "0.tar, set/0001.cls holds no label; allowed are integers 0..C-1"),
            ({"set/0001.cls": b"-1"}, "set/0001.cls holds no label"),
            ({"set/0001.cls": None}, "sample set/0001 has no label: it has png, txt"),
            ({"set/0001.jpg": png(1)}, "sample set/0001 has 2 images (set/0001.png, set/0001.jpg)"),
            ({"set/0001.png": b"no image"}, "0.tar, set/0001.png cannot be read as an image"),
        ],
    )
    def test_a_sample_that_is_none_is_named(self, tmp_path, change, message):
        files: dict[str, bytes] = {}
        for i in range(N):
            own = samples([i])
            own |= {name: data for name, data in change.items() if name.startswith(f"set/{i:04}.")}
            files |= {name: data for name, data in own.items() if data is not None}
        write_shard(tmp_path / "0.tar", files)
        assert message in refused(load_dataset, f"webdataset:{tmp_path}")

    def test_names_that_are_no_text(self, tmp_path):
        write_shard(tmp_path / "0.tar", samples(range(N)))
        (tmp_path / "classes.txt").write_bytes(b"\xff\xfe\x00")
        assert "classes.txt is no text in UTF-8" in refused(load_dataset, f"webdataset:{tmp_path}")

    def test_a_class_that_training_lacks(self, tmp_path):
        write_shard(tmp_path / "train-0.tar", samples(range(0, N, 3)))
        write_shard(tmp_path / "test-0.tar", samples(range(4)))
        assert "class 2 is beyond the classes: the training set has 1" in refused(
            load_dataset, f"webdataset:{tmp_path}"
        )

    @pytest.mark.parametrize(
        ("shards", "message"),
        [([], "holds no .tar files"), (["train-0"], "holds training shards alone"), (["val-0"], "holds test shards")],
    )
    def test_folders_without_a_set(self, tmp_path, shards, message):
        for shard in shards:
            write_shard(tmp_path / f"{shard}.tar", samples(range(N)))
        assert message in refused(load_dataset, f"webdataset:{tmp_path}")

    def test_a_shard_without_images(self, tmp_path):
        write_shard(tmp_path / "0.tar", {"a.txt": b"text"})
        assert "holds no image beside a label" in refused(load_dataset, f"webdataset:{tmp_path}")

    def test_a_place_that_is_not_there(self, tmp_path):
        assert "there is no file or folder" in refused(load_dataset, f"webdataset:{tmp_path / 'x'}")

    def test_a_shard_by_its_bare_path_is_told_its_name(self, tmp_path):
        shard = write_shard(tmp_path / "0.tar", samples(range(N)))
        assert f"write webdataset:{shard}" in refused(load_dataset, str(shard))


@pytest.fixture(scope="module")
def datasets():
    return pytest.importorskip("datasets")


def rows(datasets, numbers, label: str = "label", image: str = "image"):
    features = {image: datasets.Image(), label: datasets.ClassLabel(names=["cat", "dog", "owl"]), "id": None}
    features["id"] = datasets.Value("int64")
    cells = {
        image: [{"bytes": png(i), "path": None} for i in numbers],
        label: [i % 3 for i in numbers],
        "id": [*numbers],
    }
    return datasets.Dataset.from_dict(cells, features=datasets.Features(features))


class TestHuggingFace:
    @pytest.mark.parametrize("test", ["test", "validation"])
    def test_training_and_test_splits(self, tmp_path, datasets, test):
        parts = {"train": rows(datasets, range(N)), test: rows(datasets, range(N, N + 4))}
        parts["unsupervised"] = rows(datasets, range(3))
        datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "h"))
        found = load_dataset(f"hf:{tmp_path / 'h'}")
        image_folder(tmp_path / "f", range(N), "train")
        expected = load_dataset(image_folder(tmp_path / "f", range(N, N + 4), "test"))
        assert by_pixels(found.train) == by_pixels(expected.train)
        assert by_pixels(found.test) == by_pixels(expected.test)
        assert found.train.class_names == ("cat", "dog", "owl")
        assert "left unused: the splits unsupervised" in found.note

    @pytest.mark.parametrize("column", [("label", "image"), ("fine_label", "img"), ("species", "photo")])
    def test_one_split_is_cut_in_two(self, tmp_path, datasets, column):
        rows(datasets, range(N), *column).save_to_disk(str(tmp_path / "h"))
        found = load_dataset(f"hf:{tmp_path / 'h'}")
        assert (len(found.train), len(found.test)) == (9, 3)
        assert len(by_pixels(found.train) | by_pixels(found.test)) == N

    def test_a_file_holds_the_same(self, tmp_path, datasets, monkeypatch):
        monkeypatch.setenv("DREAM_ACCEL_CACHE", str(tmp_path / "cache"))
        rows(datasets, range(N)).save_to_disk(str(tmp_path / "h"))
        name = f"hf:{tmp_path / 'h'}"
        for _ in range(2):
            assert torch.equal(load_dataset(name, image_memory=0).test.images, load_dataset(name).test.images)

    def test_a_folder_of_another_kind(self, tmp_path, datasets):
        assert "hf:PATH takes the folder that save_to_disk(PATH) writes" in refused(load_dataset, f"hf:{tmp_path}")

    def test_columns_of_other_types(self, tmp_path, datasets):
        datasets.Dataset.from_dict({"text": ["a"], "label": [0]}).save_to_disk(str(tmp_path / "h"))
        message = refused(load_dataset, f"hf:{tmp_path / 'h'}")
        assert "no column of type ClassLabel, among the columns text, label" in message

    def test_two_columns_of_images(self, tmp_path, datasets):
        right = rows(datasets, range(3), "label", "right").select_columns(["right"])
        held = datasets.concatenate_datasets([rows(datasets, range(3), "label", "left"), right], axis=1)
        held.save_to_disk(str(tmp_path / "h"))
        assert "left, right of type Image" in refused(load_dataset, f"hf:{tmp_path / 'h'}")

    def test_splits_without_a_test_set(self, tmp_path, datasets):
        parts = {"train": rows(datasets, range(3)), "extra": rows(datasets, range(3))}
        datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "h"))
        assert "has the splits train, extra; needed are train, and test" in refused(
            load_dataset, f"hf:{tmp_path / 'h'}"
        )

    def test_splits_that_number_the_classes_differently(self, tmp_path, datasets):
        """Read as they are, every accuracy would be that of a permutation."""
        other = rows(datasets, range(3)).cast_column("label", datasets.ClassLabel(names=["owl", "dog", "cat"]))
        datasets.DatasetDict({"train": rows(datasets, range(N)), "test": other}).save_to_disk(str(tmp_path / "h"))
        message = refused(load_dataset, f"hf:{tmp_path / 'h'}")
        assert "has the classes cat, dog, owl in train and owl, dog, cat in test" in message

    def test_a_row_without_a_label(self, tmp_path, datasets):
        held = rows(datasets, range(N)).map(lambda row: {"label": -1 if row["id"] == 5 else row["label"]})
        held.save_to_disk(str(tmp_path / "h"))
        assert "train, row 5 has no label (-1)" in refused(load_dataset, f"hf:{tmp_path / 'h'}")

    def test_a_row_without_an_image(self, tmp_path, datasets):
        held = rows(datasets, range(N)).to_dict()
        held["image"][5] = None
        features = rows(datasets, range(1)).features
        datasets.Dataset.from_dict(held, features=features).save_to_disk(str(tmp_path / "h"))
        assert "train, row 5 cannot be read as an image (there is none)" in refused(
            load_dataset, f"hf:{tmp_path / 'h'}"
        )

    def test_the_library_is_named_where_it_is_missing(self, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "datasets", None)
        assert "pip install datasets" in refused(load_dataset, f"hf:{tmp_path}")
