"""Image files of every kind are read as people see them; those that cannot be read are named, counted or skipped."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from support.refusals import refused
from typer.testing import CliRunner

import dream_accel as da
from dream_accel import cli
from dream_accel.data import load_dataset
from dream_accel.data.decode import read_files
from dream_accel.errors import DreamAccelWarning

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
COLOUR = np.stack([GREY, GREY[::-1], GREY.T], 2)
HIGH, LOW = (np.uint16(37) * np.arange(64, dtype=np.uint16)).reshape(8, 8) % 251, GREY.astype(np.uint16) + 3
DEEP = (HIGH.astype(np.uint16) << 8) + LOW
ALPHA = np.where(np.arange(64).reshape(8, 8) % 3 == 0, 0, 255).astype(np.uint8)
ORIENTATIONS = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image[::-1].swapaxes(0, 1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: image.swapaxes(0, 1)[::-1],
}
"""The upright image of an array stored with an orientation, from the table of the EXIF standard."""


def on_white(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The image where alpha is 255, white where it is 0."""
    return np.where(alpha.reshape(*alpha.shape, *[1] * (image.ndim - 2)) == 255, image, np.uint8(255))


def palette_image() -> Image.Image:
    """Level i of the grey image in the colour (i, 255 - i, i // 2)."""
    image = Image.fromarray(GREY).convert("P")
    image.putdata(GREY.flatten().tolist())
    image.putpalette([value for i in range(256) for value in (i, 255 - i, i // 2)])
    return image


IN_PALETTE = np.stack([GREY, 255 - GREY, GREY // 2], 2)
LEVEL_40_CLEAR = np.where(GREY == 40, 0, 255).astype(np.uint8)
UNDER_100_CLEAR = np.where(GREY < 100, 0, 255).astype(np.uint8)

KINDS = {
    "grey": ("png", Image.fromarray(GREY), {}, GREY),
    "colour": ("png", Image.fromarray(COLOUR), {}, COLOUR),
    "black and white": ("png", Image.fromarray(GREY > 100), {}, np.where(GREY > 100, 255, 0)),
    "grey with alpha": ("png", Image.fromarray(np.stack([GREY, ALPHA], 2), "LA"), {}, on_white(GREY, ALPHA)),
    "colour with alpha": ("png", Image.fromarray(np.dstack([COLOUR, ALPHA])), {}, on_white(COLOUR, ALPHA)),
    "grey, one level clear": ("png", Image.fromarray(GREY), {"transparency": 40}, on_white(GREY, LEVEL_40_CLEAR)),
    "palette": ("png", palette_image(), {}, IN_PALETTE),
    "palette, one colour clear": ("png", palette_image(), {"transparency": 40}, on_white(IN_PALETTE, LEVEL_40_CLEAR)),
    "palette, several colours clear": (
        "png",
        palette_image(),
        {"transparency": bytes([0] * 100 + [255] * 156)},
        on_white(IN_PALETTE, UNDER_100_CLEAR),
    ),
    "palette of a GIF": ("gif", palette_image(), {}, IN_PALETTE),
    "16 bits": ("png", Image.fromarray(DEEP), {}, HIGH),
    "16 bits, one level clear": (
        "png",
        Image.fromarray(DEEP),
        {"transparency": int(DEEP[2, 5])},
        np.where(DEEP[2, 5] == DEEP, 255, HIGH),
    ),
    "16 bits of a TIFF": ("tiff", Image.fromarray(DEEP), {}, HIGH),
    "16 bits of a PGM": ("pgm", Image.fromarray(DEEP), {}, HIGH),
    "CMYK": (
        "tiff",
        Image.merge("CMYK", [*Image.fromarray(255 - COLOUR).split(), Image.new("L", (8, 8), 0)]),
        {},
        COLOUR,
    ),
}
"""Name: suffix, image, options of saving, and what a person sees, (8, 8) grey or (8, 8, 3)."""


def save_folder(root: Path, images: dict[str, Image.Image], **options) -> str:
    for name, image in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / name, **options)
    return f"imagefolder:{root}"


def noise_folder(root: Path, counts: dict[str, int], size: int = 16) -> str:
    random = np.random.RandomState(0)
    names = [f"{folder}/{i}.png" for folder, n in counts.items() for i in range(n)]
    return save_folder(
        root, {name: Image.fromarray(random.randint(0, 256, (size, size, 3), np.uint8)) for name in names}
    )


class TestAsSeen:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_file_of_every_kind_has_the_pixels_that_a_viewer_shows(self, tmp_path, kind):
        suffix, image, options, expected = KINDS[kind]
        image.save(tmp_path / f"x.{suffix}", **options)
        found = read_files([tmp_path / f"x.{suffix}"]).pixels[0]
        assert len(found) == (1 if expected.ndim == 2 else 3)
        np.testing.assert_array_equal(found.squeeze(), expected if expected.ndim == 2 else expected.transpose(2, 0, 1))

    @pytest.mark.parametrize("kind", KINDS)
    def test_an_opened_image_in_a_list_is_read_as_its_file(self, tmp_path, kind):
        suffix, image, options, expected = KINDS[kind]
        image.save(tmp_path / f"x.{suffix}", **options)
        with Image.open(tmp_path / f"x.{suffix}") as opened:
            found = da.ImageSet.from_arrays([opened, opened], [0, 1]).images[1].numpy()
        np.testing.assert_array_equal(found.squeeze(), expected if expected.ndim == 2 else expected.transpose(2, 0, 1))

    def test_a_mixture_of_all_kinds_is_a_set_of_colour_images(self, tmp_path):
        paths = []
        for name, (suffix, image, options, _) in KINDS.items():
            paths.append(tmp_path / f"{name}.{suffix}")
            image.save(paths[-1], **options)
        found = read_files(paths).pixels
        assert found.shape == (len(KINDS), 3, 8, 8)
        for row, (*_, expected) in zip(found, KINDS.values(), strict=True):
            seen = np.repeat(expected[..., None], 3, 2) if expected.ndim == 2 else expected
            np.testing.assert_array_equal(row, seen.transpose(2, 0, 1))

    @pytest.mark.parametrize("levels", [HIGH, DEEP], ids=["8 bits", "16 bits"])
    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_every_orientation_is_upright(self, tmp_path, orientation, levels):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = levels[:6].astype(np.uint16 if levels is DEEP else np.uint8)
        Image.fromarray(stored).save(tmp_path / "x.png", exif=exif)
        np.testing.assert_array_equal(
            read_files([tmp_path / "x.png"]).pixels[0, 0], ORIENTATIONS[orientation](HIGH[:6])
        )

    def test_half_transparent_pixels_are_mixed_with_white(self, tmp_path):
        alpha = GREY
        Image.fromarray(np.stack([GREY, alpha], 2), "LA").save(tmp_path / "x.png")
        exact = (GREY / 255.0) * (alpha / 255.0) + 1 - alpha / 255.0
        assert np.abs(read_files([tmp_path / "x.png"]).pixels[0, 0] - 255 * exact).max() < 1

    def test_a_transparent_image_is_scaled_on_white(self, tmp_path):
        hidden = np.dstack([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)])
        Image.fromarray(hidden).save(tmp_path / "x.png")
        assert read_files([tmp_path / "x.png"], size=4).pixels.min() == 255

    @pytest.mark.parametrize(("mode", "suffix"), [("F", "tiff"), ("I", "tiff")])
    def test_32_bits_are_refused_since_nothing_says_what_is_white(self, tmp_path, mode, suffix):
        Image.new(mode, (4, 4), 1000).save(tmp_path / f"x.{suffix}")
        message = refused(read_files, [tmp_path / f"x.{suffix}"])
        assert message.startswith(f"{tmp_path / f'x.{suffix}'} has 32 bits per channel (mode {mode}")
        assert "with the value of white" in message


@pytest.mark.parametrize("size", [28, 32, 64, 128, 224])
def test_folders_of_every_size_are_scaled_to_it(tmp_path, size):
    wide = Image.fromarray(np.repeat(np.repeat(COLOUR, 20, 0), 30, 1))
    name = save_folder(tmp_path, {f"{c}/{i}.png": wide for c in "ab" for i in range(2)})
    split = load_dataset(name, size=size)
    assert split.train.shape == (3, size, size)
    exact = np.asarray(ImageOps.fit(wide, (size, size), method=Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(split.train.images[0], exact)


def damage(path: Path, how: str) -> Path:
    """Replace a file by one that cannot be read as an image."""
    path = path.with_suffix(".jpg" if how == "truncated" else ".png")
    if how == "truncated":
        Image.fromarray(np.random.RandomState(1).randint(0, 256, (16, 16, 3), np.uint8)).save(path, quality=95)
        path.write_bytes(path.read_bytes()[:-200])
    elif how == "text":
        path.write_text("not an image\n")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "gone":
        path.symlink_to(path.parent / "nowhere.png")
    else:
        Image.new("F", (16, 16)).save(path.with_suffix(".tiff"))
        return path.with_suffix(".tiff")
    return path


WAYS = ("truncated", "empty", "text", "gone", "32 bits")


@pytest.mark.parametrize("how", WAYS)
class TestUnreadable:
    def test_one_file_is_named_with_both_remedies(self, tmp_path, how):
        name = noise_folder(tmp_path, {"a": 3, "b": 3})
        path = damage(tmp_path / "a" / "zz", how)
        message = refused(load_dataset, name)
        assert message.startswith(f"{path} {'has 32 bits' if how == '32 bits' else 'cannot be read as an image ('}")
        assert "nor can" not in message
        assert message.endswith("or go on without it by --skip-unreadable (skip_unreadable=True)")

    def test_without_it_the_set_is_that_of_the_other_files(self, tmp_path, how):
        expected = load_dataset(noise_folder(tmp_path / "whole", {"a": 3, "b": 3}))
        name = noise_folder(tmp_path / "part", {"a": 3, "b": 3})
        path = damage(tmp_path / "part" / "a" / "000", how)
        with pytest.warns(DreamAccelWarning) as caught:
            found = load_dataset(name, skip_unreadable=True)
        assert len(caught) == 1
        assert str(caught[0].message).startswith(f"skipped 1 of 7 image files: {path} ")
        for part, other in ((found.train, expected.train), (found.test, expected.test)):
            assert torch.equal(part.images, other.images)
            assert torch.equal(part.labels, other.labels)


class TestSkipping:
    def test_all_are_counted_and_the_first_is_named(self, tmp_path):
        """Those found by their headers and those found by decoding alike."""
        name = noise_folder(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2})
        first = damage(tmp_path / "train" / "b" / "0", "truncated")
        damage(tmp_path / "train" / "b" / "1", "text")
        damage(tmp_path / "test" / "a" / "1", "empty")
        message = refused(load_dataset, name)
        assert message.startswith(f"{first} cannot be read as an image (")
        assert "), nor can 2 of the other 10 files; replace or remove the file, or go on without them" in message
        with pytest.warns(DreamAccelWarning, match="skipped 3 of 11 image files: the first is ") as caught:
            split = load_dataset(name, skip_unreadable=True)
        assert len(caught) == 1
        assert f"{first}, which cannot be read" in str(caught[0].message)
        assert split.train.class_counts().tolist() == [3, 2]
        assert split.test.class_counts().tolist() == [1, 2]

    def test_nothing_is_said_where_every_file_is_read(self, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_dataset(noise_folder(tmp_path, {"a": 2, "b": 2}), skip_unreadable=True)

    @pytest.mark.parametrize("layout", ["", "train/", "test/"])
    def test_a_class_without_a_readable_file_is_refused(self, tmp_path, layout):
        counts = {"a": 2, "b": 2} if not layout else {f"{part}/{c}": 2 for part in ("train", "test") for c in "ab"}
        name = noise_folder(tmp_path, counts)
        for i in range(2):
            (tmp_path / f"{layout}b" / f"{i}.png").write_text("no image")
        message = refused(load_dataset, name, skip_unreadable=True)
        assert message.startswith(f"{tmp_path / f'{layout}b'} holds no image file that can be read: ")
        assert "nor can the other 1" in message

    def test_a_set_without_a_readable_file_is_refused(self, tmp_path):
        name = noise_folder(tmp_path, {"a": 2, "b": 2})
        for path in tmp_path.rglob("*.png"):
            path.write_bytes(b"")
        message = refused(load_dataset, name, skip_unreadable=True)
        assert "nor can 3 of the other 3 files" in message
        assert "--skip-unreadable" not in message

    def test_a_file_without_permission_is_skipped_too(self, tmp_path, monkeypatch):
        name = noise_folder(tmp_path, {"a": 3, "b": 3})
        plain = Image.open

        def guarded(path, *args, **kwargs):
            if str(path.name).endswith("a/1.png"):
                raise PermissionError(13, "Permission denied")
            return plain(path, *args, **kwargs)

        monkeypatch.setattr(Image, "open", guarded)
        with pytest.warns(DreamAccelWarning, match="no permission"):
            split = load_dataset(name, skip_unreadable=True)
        assert len(split.train) + len(split.test) == 5

    def test_sizes_that_differ_are_no_reason_to_skip(self, tmp_path):
        name = noise_folder(tmp_path, {"a": 3, "b": 3})
        Image.new("RGB", (5, 7)).save(tmp_path / "a" / "odd.png")
        assert "mixed sizes" in refused(load_dataset, name, skip_unreadable=True)


class TestFolders:
    def test_a_folder_called_like_an_image_is_passed_over_and_named(self, tmp_path):
        name = noise_folder(tmp_path, {"a": 2, "b": 2})
        (tmp_path / "a" / "x.png").mkdir()
        split = load_dataset(name)
        assert len(split.train) + len(split.test) == 4
        assert "1 folder inside or beside class folders (a/x.png)" in split.note

    def test_a_class_may_be_called_like_an_image(self, tmp_path):
        split = load_dataset(noise_folder(tmp_path, {"a": 2, "x.png": 2}))
        assert split.train.class_names == ("a", "x.png")
        assert "passed over" not in split.note

    @pytest.mark.parametrize("layout", [{"owl": 3}, {"train/owl": 3, "test/owl": 1}])
    def test_a_folder_with_one_class_is_refused(self, tmp_path, layout):
        message = refused(load_dataset, noise_folder(tmp_path, layout))
        where = tmp_path / "train" if len(layout) > 1 else tmp_path
        assert message.startswith(f"{where} holds one class folder, owl, ")
        assert "at least two classes are needed" in message

    @pytest.mark.parametrize("skip_unreadable", [False, True])
    def test_an_empty_class_is_named(self, tmp_path, skip_unreadable):
        name = noise_folder(tmp_path, {"a": 2, "b": 2})
        (tmp_path / "c").mkdir()
        message = refused(load_dataset, name, skip_unreadable=skip_unreadable)
        assert message.startswith(f"{tmp_path / 'c'} holds no image files at all; every class needs at least one")


class TestCommands:
    """``--skip-unreadable`` of the commands; a run keeps it, so that its evaluation and continuation have it too."""

    SMALL = (
        *("--ipc", "1", "--iterations", "1", "--inner-steps", "1", "--clusters", "2", "--width", "4", "--depth", "2"),
        *("--factor", "1", "--network-images", "4", "--eval-epochs", "1", "--eval-networks", "1", "--device", "cpu"),
    )

    def call(self, *words: object) -> None:
        done = CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output

    def test_distil_select_and_evaluate_go_on_and_say_so_once(self, tmp_path):
        name = noise_folder(tmp_path / "set", {"a": 4, "b": 4})
        damage(tmp_path / "set" / "a" / "0", "text")
        run = tmp_path / "run"
        for command in (
            ("distill", "--dataset", name, "--skip-unreadable", "--out", run, *self.SMALL),
            ("evaluate", run),
            ("distill", "--resume", run, "--iterations", "2"),
            ("select", "--dataset", name, "--skip-unreadable", "--out", tmp_path / "picks", *self.SMALL),
        ):
            with pytest.warns(DreamAccelWarning) as caught:
                self.call(*command)
            assert [str(each.message).startswith("skipped 1 of 8 image files") for each in caught] == [True], command
        assert da.load(run).recipe.skip_unreadable

    def test_evaluate_takes_it_for_a_run_without_it(self, tmp_path):
        name = noise_folder(tmp_path / "set", {"a": 4, "b": 4})
        run = tmp_path / "run"
        self.call("distill", "--dataset", name, "--out", run, "--no-evaluate", *self.SMALL)
        damage(tmp_path / "set" / "a" / "0", "text")
        assert "--skip-unreadable" in refused(self.call, "evaluate", run)
        with pytest.warns(DreamAccelWarning, match="skipped 1 of 8"):
            self.call("evaluate", run, "--skip-unreadable")

    @pytest.mark.parametrize(("size", "said"), [((), True), (("--size", "64"), False)])
    def test_distil_says_that_settings_for_large_images_exist(self, tmp_path, size, said):
        name = noise_folder(tmp_path / "set", {"a": 3, "b": 3}, 64)
        words = ["distill", "--dataset", name, "--out", str(tmp_path / "run"), "--no-evaluate", *self.SMALL, *size]
        done = CliRunner().invoke(cli.app, words, catch_exceptions=False)
        assert ("--size 64 (size=64) chooses the settings of that size" in done.output) == said
