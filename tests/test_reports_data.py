"""Inputs that once broke the reading of data, of images and of class names, from reports on comparable software."""

import os
import pwd
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from support.refusals import refused

import dream_accel as da
from dream_accel.data import ImageSet, as_split, load_dataset
from dream_accel.data.class_folders import _RESULTS

LYING = np.zeros((8, 16, 3), np.uint8)
LYING[:, :8] = 255
"""White on the left, black on the right; a quarter turn brings white to the top."""


def noise(n: int, *shape: int) -> np.ndarray:
    return np.random.RandomState(n).randint(0, 256, (n, *(shape or (8, 8))), dtype=np.uint8)


def image_folder(root: Path, counts: dict[str, int], suffix: str = ".png") -> Path:
    pictures = iter(noise(sum(counts.values())))
    for name, n in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            Image.fromarray(next(pictures)).save(root / name / f"{i}{suffix}")
    return root


def npz(path: Path, images: np.ndarray, **more) -> str:
    labels = np.arange(len(images)) % 2
    np.savez(path, **{"x_train": images, "y_train": labels, "x_test": images, "y_test": labels, **more})
    return f"npz:{path}"


class TestImagesAsSeen:
    @pytest.mark.parametrize("late", [False, True])
    @pytest.mark.parametrize(("orientation", "top_left"), [(1, 255), (3, 0), (6, 255), (8, 0)])
    @pytest.mark.parametrize("suffix", [".png", ".webp", ".avif", ".tiff", ".jfif"])
    def test_orientation_is_applied_whatever_the_format(self, tmp_path, suffix, orientation, top_left, late):
        """EXIF orientation in PNG and WebP was not applied."""
        if suffix[1:] in ("webp", "avif") and not features.check(suffix[1:]):
            pytest.skip(f"Pillow was built without {suffix}")
        for name in ("a/0", "a/1", "b/0", "b/1"):
            exif = Image.Exif()
            exif[0x0112] = orientation
            path = tmp_path / f"{name}{suffix}"
            path.parent.mkdir(exist_ok=True)
            options = {} if suffix in (".png", ".tiff") else {"quality": 100}
            Image.fromarray(LYING).save(path, "JPEG" if suffix == ".jfif" else None, exif=exif, **options)
            if late and suffix == ".png":
                path.write_bytes(with_exif_at_the_end(path.read_bytes()))
        image = load_dataset(f"imagefolder:{tmp_path}").train.images[0, 0]
        assert tuple(image.shape) == ((16, 8) if orientation > 4 else (8, 16))
        assert abs(int(image[0, 0]) - top_left) < 5

    def test_transparent_parts_are_white(self, tmp_path):
        """The colours under transparency, which nobody sees, were read."""
        hidden = np.full((4, 4, 4), 60, np.uint8)
        hidden[:, :2, 3], hidden[:, 2:, 3] = 0, 255
        palette = Image.new("P", (4, 4), 1)
        palette.putpalette([200, 0, 0, 60, 60, 60])
        palette.paste(0, (0, 0, 2, 4))
        grey = Image.fromarray(np.ascontiguousarray(hidden[:, :, 2:]), "LA")
        for name, image in (("a", Image.fromarray(hidden)), ("b", palette), ("c", grey)):
            (tmp_path / name).mkdir()
            for i in range(2):
                image.save(tmp_path / name / f"{i}.png", **({"transparency": 0} if name == "b" else {}))
        split = load_dataset(f"imagefolder:{tmp_path}")
        assert (split.train.images[:, :, :, :2] == 255).all()
        assert (split.train.images[:, :, :, 2:] == 60).all()
        own = as_split(([Image.fromarray(hidden), palette, grey] * 2, [0, 1, 2] * 2))
        assert (own.train.images[own.train.labels != 1][:, :, :, :2] == 255).all()

    def test_an_image_made_from_an_opened_one_is_not_turned_again(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(LYING).save(tmp_path / "x.png", exif=exif)
        opened = Image.open(tmp_path / "x.png")
        turned = opened.transpose(Image.Transpose.ROTATE_270)
        assert ImageSet.from_arrays([opened, turned], [0, 0]).images[:, 0, 0].min() == 255

    @pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".avif", ".webp", ".JPG"])
    def test_rarer_suffixes_are_read(self, tmp_path, suffix):
        """`.jfif`, `.jpe` and `.avif` beside others were passed over in silence."""
        if suffix[1:] in ("webp", "avif") and not features.check(suffix[1:]):
            pytest.skip(f"Pillow was built without {suffix}")
        image_folder(tmp_path, {"a": 2, "b": 2})
        image = Image.fromarray(noise(1)[0])
        image.save(tmp_path / "a" / f"9{suffix}", None if suffix in (".avif", ".webp") else "JPEG")
        split = load_dataset(f"imagefolder:{tmp_path}")
        assert len(split.train) + len(split.test) == 5
        assert "passed over" not in split.note

    def test_what_is_not_read_is_counted_and_named(self, tmp_path):
        image_folder(tmp_path, {"a": 2, "b": 2, "b/more": 1})
        for name in ("a/x.heic", "a/y.raw", "a/Thumbs.db", "a/.hidden"):
            (tmp_path / name).write_bytes(b"?")
        Image.fromarray(noise(1)[0]).save(tmp_path / "loose.png")
        note = load_dataset(f"imagefolder:{tmp_path}").note
        assert "passed over: 3 files (.heic, .png, .raw; loose.png first)" in note
        assert "1 folder inside or beside class folders (b/more)" in note
        parts = image_folder(tmp_path / "parts", {"train/a": 2, "train/b": 2, "test/a": 1, "val/a": 1, "c": 1})
        note = load_dataset(f"imagefolder:{parts}").note
        assert "2 folders inside or beside class folders (c)" in note

    def test_a_class_of_unreadable_files_or_of_folders_says_so(self, tmp_path):
        image_folder(tmp_path, {"a": 2, "b": 2, "c/sub": 1})
        message = refused(load_dataset, f"imagefolder:{tmp_path}")
        assert "c holds no image files but sub/" in message
        assert "move its images up" in message
        (tmp_path / "c" / "sub").rename(tmp_path / "b" / "sub")
        (tmp_path / "c" / "x.heic").write_bytes(b"?")
        assert "but x.heic" in refused(load_dataset, f"imagefolder:{tmp_path}")


def with_exif_at_the_end(png: bytes) -> bytes:
    """A PNG file with its eXIf chunk behind the pixels."""
    start = png.index(b"eXIf") - 4
    stop = start + 12 + int.from_bytes(png[start : start + 4], "big")
    end = png.index(b"IEND") - 4
    return png[:start] + png[stop:end] + png[start:stop] + png[end:]


class TestFolders:
    @pytest.mark.parametrize("names", [("train", "test"), ("Train", "Val"), ("training", "validation")])
    def test_parts_without_class_folders_are_no_classes(self, tmp_path, names):
        """`train/*.png` with `test/*.png` became the classes "test" and "train"."""
        image_folder(tmp_path, dict.fromkeys(names, 3))
        message = refused(load_dataset, f"imagefolder:{tmp_path}")
        assert "are parts of a data set and no classes" in message
        assert "train/CLASS/*" in message

    @pytest.mark.parametrize("place", ["runs/x/distilled.safetensors", "runs/x", "out/checkpoint.safetensors"])
    def test_results_of_this_program_are_no_class(self, tmp_path, place):
        """A second run inside the image folder was told to remove the results of the first."""
        image_folder(tmp_path, {"a": 2, "b": 2})
        if "." in place:
            image_folder(tmp_path / place, {"..": 0})
            (tmp_path / place).rmdir()
            (tmp_path / place).write_bytes(b"?")
            (tmp_path / place).with_name("preview.png").write_bytes(b"?")
        else:
            (tmp_path / place).mkdir(parents=True)
        split = load_dataset(f"imagefolder:{tmp_path}")
        assert split.train.class_names == ("a", "b")
        assert f"results of this program ({place.split('/')[0]})" in split.note

    def test_the_files_that_give_results_away_are_those_that_are_written(self):
        from dream_accel.engine.checkpoint import CHECKPOINT_FILE
        from dream_accel.engine.selection import SELECTION_FILE
        from dream_accel.results import IMAGES_FILE
        from dream_accel.runtime.folders import LOCK_FILE

        assert {CHECKPOINT_FILE, SELECTION_FILE, IMAGES_FILE, LOCK_FILE} == _RESULTS

    def test_a_folder_that_may_not_be_read_is_named(self, tmp_path, monkeypatch):
        """A data folder without permission ended in a traceback."""
        image_folder(tmp_path, {"a": 2, "b": 2})
        plain = Path.iterdir

        def forbidden(path):
            if path.name == "b":
                raise PermissionError(13, "Permission denied", str(path))
            return plain(path)

        monkeypatch.setattr(Path, "iterdir", forbidden)
        for call in (load_dataset, da.load):
            message = refused(call, f"imagefolder:{tmp_path}" if call is load_dataset else tmp_path)
            assert f"{tmp_path / 'b'} cannot be read (Permission denied)" in message

    @pytest.mark.parametrize("kind", ["npz", "image"])
    def test_a_file_that_may_not_be_read_is_not_called_damaged(self, tmp_path, monkeypatch, kind):
        name = npz(tmp_path / "x.npz", noise(4)) if kind == "npz" else f"imagefolder:{tmp_path}"
        image_folder(tmp_path, {"a": 2, "b": 2})

        def forbidden(path, *args, **kwargs):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(*(("pathlib.Path.open", forbidden) if kind == "npz" else ("PIL.Image.open", forbidden)))
        message = refused(load_dataset, name)
        assert "allow your user to read it" in message
        assert "replace" not in message

    @pytest.mark.parametrize("download", [False, True])
    def test_a_named_set_that_may_not_be_read_is_not_fetched_again(self, tmp_path, monkeypatch, download):
        def forbidden(root, **which):
            raise PermissionError(13, "Permission denied", f"{root}/MNIST/raw")

        monkeypatch.setattr("torchvision.datasets.MNIST", forbidden)
        monkeypatch.setattr(Path, "exists", lambda path: True)
        message = refused(load_dataset, "mnist", tmp_path, download)
        assert message.startswith(f"{tmp_path}/MNIST/raw cannot be read (Permission denied)")

    def test_without_a_home_directory_only_what_needs_it_is_refused(self, monkeypatch):
        """HOME unset and a uid without an entry ended in a traceback."""
        from dream_accel.runtime.files import cache_folder

        def nobody(uid):
            raise KeyError(uid)

        for variable in ("HOME", "DREAM_ACCEL_DATA", "DREAM_ACCEL_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setattr(pwd, "getpwuid", nobody)
        assert load_dataset("digits").train.n_classes == 10
        assert "DREAM_ACCEL_DATA" in refused(load_dataset, "mnist")
        assert cache_folder().is_dir()
        assert "unknown data set" in refused(load_dataset, "~/photos")
        monkeypatch.setenv("DREAM_ACCEL_DATA", os.devnull)
        assert "was not found" in refused(load_dataset, "mnist")

    def test_an_npy_file_is_one_array(self, tmp_path):
        """`.npy` got Python's message about context managers."""
        np.save(tmp_path / "x.npy", noise(4))
        assert "is a .npy file, which holds one array and so no labels" in refused(
            load_dataset, f"npz:{tmp_path / 'x.npy'}"
        )
        (tmp_path / "x.npy").rename(tmp_path / "x.npz")
        assert "holds one array" in refused(load_dataset, f"npz:{tmp_path / 'x.npz'}")
