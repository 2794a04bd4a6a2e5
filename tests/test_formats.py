"""Results of other programs: files in their published layouts are read, written, evaluated and converted."""

import csv
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from support.refusals import refused
from torch import nn
from typer.testing import CliRunner

import dream_accel as da
from dream_accel import cli
from dream_accel.data import Normalization, load_dataset
from dream_accel.formats import FAMILIES, write
from dream_accel.formats.constants import DC_CONSTANTS, DD_RANKING_CONSTANTS
from dream_accel.results import Result
from dream_accel.synthetic import SyntheticSet

CONSTANTS = Normalization((0.25,), (0.5,))


def pixels(n=20, channels=1, size=8):
    """In 8-bit steps, so that image files keep them."""
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, size, size), generator=draws).float() / 255


def classes(n=20):
    return torch.arange(10).repeat_interleave(n // 10)


def soft_labels(n=20):
    return torch.randn(n, 10, generator=torch.Generator().manual_seed(1)) + 4 * nn.functional.one_hot(classes(n), 10)


def dc_file(path, images, labels, experiments=1):
    accuracies = {"ConvNet": [np.float64(0.5), np.float32(0.25)], "ResNet18": []}
    pairs = [[images + i, labels] for i in range(experiments)]
    torch.save({"data": pairs, "accs_all_exps": accuracies}, path)
    return path


def mtt_folder(path, images, labels, lr=0.02):
    path.mkdir()
    for name, value in (("images", images), ("labels", labels), ("lr", torch.tensor(lr))):
        torch.save(value, path / f"{name}_best.pt")
    return path


def image_folder(path, images, labels, suffix="png"):
    for i, (image, c) in enumerate(zip(images, labels.tolist(), strict=True)):
        folder = path / f"{c:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image[0] * 255).round().byte().numpy()).save(folder / f"{i:05d}.{suffix}")
    return path


class TestReading:
    def test_dc_file_is_read_and_brought_back_to_pixels(self, tmp_path):
        images = pixels(20, 3, 32)
        path = dc_file(tmp_path / "res_DC_CIFAR10_ConvNet_2ipc.pt", DC_CONSTANTS["cifar10"](images), classes())
        result = da.load(path, "cifar10")
        torch.testing.assert_close(result.images, images)
        assert torch.equal(result.labels, classes())
        assert (result.synthetic.ipc, result.synthetic.n_classes, result.synthetic.factor) == (2, 10, 1)
        assert (result.recipe.dataset, result.recipe.ipc) == ("cifar10", 2)
        assert result.normalization == DC_CONSTANTS["cifar10"]

    def test_experiments_of_a_dc_file_are_told_apart(self, tmp_path):
        path = dc_file(tmp_path / "res.pt", pixels(), classes(), experiments=3)
        plain = Normalization((0.0,), (1.0,))
        for i in range(3):
            result = da.load(path, "digits", normalization=plain, experiment=i)
            torch.testing.assert_close(result.images, pixels() + i)
        message = refused(da.load, path, "digits", normalization=plain, experiment=3)
        assert "experiment is 3 and" in message
        assert "holds 3" in message

    @pytest.mark.parametrize(("old", "new"), [("_core", "core"), ("core", "_core")])
    def test_accuracies_saved_by_either_numpy_are_read(self, tmp_path, old, new):
        path, other = dc_file(tmp_path / "res.pt", pixels(), classes()), tmp_path / "other.pt"
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
            for name in source.namelist():
                data = source.read(name)
                target.writestr(name, data.replace(f"numpy.{old}.multi".encode(), f"numpy.{new}.multi".encode()))
        assert len(da.load(other, "digits", normalization=CONSTANTS).images) == 20

    def test_nothing_else_is_unpickled(self, tmp_path):
        torch.save({"data": [[pixels(), classes()]], "model": csv.Dialect}, tmp_path / "res.pt")
        message = refused(da.load, tmp_path / "res.pt", "digits")
        assert "holds an object of _csv.Dialect" in message or "holds an object of csv.Dialect" in message
        assert "only tensors, numbers and text are loaded" in message

    @pytest.mark.parametrize("container", [list, tuple])
    def test_idc_file_is_read_as_pixels_and_decoded_by_its_factor(self, tmp_path, container):
        torch.save(container([pixels(), classes()]), tmp_path / "data_best.pt")
        result = da.load(tmp_path / "data_best.pt", "digits", factor=2)
        assert torch.equal(result.images, pixels())
        images, labels = result.synthetic.decode()
        assert images.shape == (80, 1, 8, 8)
        assert torch.equal(labels, classes().repeat_interleave(4))
        corner = nn.functional.interpolate(pixels()[:1, :, :4, :4], size=(8, 8), mode="bilinear")
        torch.testing.assert_close(images[:1], corner)

    def test_mtt_folder_is_read_with_its_learning_rate(self, tmp_path):
        path = mtt_folder(tmp_path / "run", CONSTANTS(pixels()), classes())
        for place in (path, path / "images_best.pt"):
            result = da.load(place, "digits", normalization=CONSTANTS)
            torch.testing.assert_close(result.images, pixels())
            assert torch.equal(result.labels, classes())
            assert result.recipe.network_lr == pytest.approx(0.02)

    def test_mtt_images_of_an_iteration_go_with_their_labels(self, tmp_path):
        path = mtt_folder(tmp_path / "run", CONSTANTS(pixels()), classes())
        torch.save(CONSTANTS(pixels() + 1), path / "images_500.pt")
        torch.save(classes(), path / "labels_500.pt")
        found = da.load(path / "images_500.pt", "digits", normalization=CONSTANTS)
        torch.testing.assert_close(found.images, pixels() + 1)

    @pytest.mark.parametrize("kind", ["logits", "probabilities"])
    def test_soft_labels_become_distributions(self, tmp_path, kind):
        labels = soft_labels() if kind == "logits" else soft_labels().softmax(dim=1)
        path = mtt_folder(tmp_path / "run", CONSTANTS(pixels()), labels)
        _, found = da.load(path, "digits", normalization=CONSTANTS).synthetic.decode()
        assert found.shape == (20, 10)
        torch.testing.assert_close(found, soft_labels().softmax(dim=1))

    def test_folder_of_images_is_read_with_its_class_names(self, tmp_path):
        path = image_folder(tmp_path / "rded", pixels(), classes())
        result = da.load(path, "digits")
        assert torch.equal(result.images, pixels())
        assert result.class_names[3] == "00003"
        assert result.normalization is None

    def test_images_in_any_order_are_sorted_by_class(self, tmp_path):
        order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
        torch.save([pixels()[order], classes()[order]], tmp_path / "data.pt")
        result = da.load(tmp_path / "data.pt", "digits", factor=1)
        for c in range(10):
            expected = {image.sum().item() for image in pixels()[classes() == c]}
            assert {image.sum().item() for image in result.synthetic.images[c]} == expected

    def test_what_was_read_is_kept_as_a_run(self, tmp_path):
        path = mtt_folder(tmp_path / "run", CONSTANTS(pixels()), soft_labels())
        result = da.load(path, "digits", normalization=CONSTANTS)
        again = da.load(result.save(tmp_path / "kept"))
        for ours, theirs in zip(again.synthetic.decode(), result.synthetic.decode(), strict=True):
            assert torch.equal(ours, theirs)
        plain = da.load(image_folder(tmp_path / "rded", pixels(), classes()), "digits")
        assert da.load(plain.save(tmp_path / "plain")).normalization is None


class TestRefusing:
    def test_file_of_an_unknown_family_lists_those_that_are_known(self, tmp_path):
        torch.save({"weights": torch.zeros(3)}, tmp_path / "net.pt")
        (tmp_path / "empty").mkdir()
        for path in (tmp_path / "net.pt", tmp_path / "empty"):
            message = refused(da.load, path, "digits")
            assert "is of no known family of results: known are a run's folder" in message
            assert all(layout in message for layout in FAMILIES.values())

    @pytest.mark.parametrize(
        ("call", "words"),
        [
            ({}, "does not say which data set it was made from: pass dataset="),
            ({"dataset": "digits"}, "does not say whether its images are packed: pass factor=1"),
            ({"dataset": "nope", "factor": 1}, "nope"),
        ],
    )
    def test_what_the_file_leaves_open_is_asked_for(self, tmp_path, call, words):
        torch.save([pixels(), classes()], tmp_path / "data.pt")
        if "nope" in call.values():
            result = da.load(tmp_path / "data.pt", **call)
            assert words in refused(da.evaluate, result)
        else:
            assert words in refused(da.load, tmp_path / "data.pt", **call)

    def test_unknown_constants_are_asked_for(self, tmp_path):
        message = refused(da.load, dc_file(tmp_path / "res.pt", pixels(), classes()), "digits")
        assert "no constants are known for digits: pass normalization= (--mean and --std)" in message
        assert "cifar10" in message

    @pytest.mark.parametrize(
        ("images", "labels", "words"),
        [
            (pixels(), classes()[:-1], "labels of shape (19,)"),
            (pixels()[0], classes(), "images of shape (1, 8, 8)"),
            (pixels() * torch.nan, classes(), "NaN or Inf pixels"),
            (pixels(), classes() - 1, "the label -1"),
            (pixels(), classes().clamp(min=1), "0 to 4 of a class: every class must have the same number"),
        ],
    )
    def test_damaged_contents_are_refused(self, tmp_path, images, labels, words):
        torch.save([images, labels], tmp_path / "data.pt")
        assert words in refused(da.load, tmp_path / "data.pt", "digits", factor=1)

    @pytest.mark.parametrize(("scale", "remedy"), [(255, "divide them by 255"), (1 / 255, "multiply them by 255")])
    def test_pixels_of_another_scale_are_refused_with_their_range(self, tmp_path, scale, remedy):
        torch.save([pixels() * scale, classes()], tmp_path / "data.pt")
        message = refused(da.load, tmp_path / "data.pt", "digits", factor=1)
        assert f"holds pixels from 0 to {scale:.4g}" in message
        assert remedy in message

    def test_whole_numbers_are_levels_of_255(self, tmp_path):
        torch.save([(pixels() * 255).round().byte(), classes()], tmp_path / "data.pt")
        torch.testing.assert_close(da.load(tmp_path / "data.pt", "digits", factor=1).images, pixels())

    def test_missing_and_damaged_files_are_refused(self, tmp_path):
        assert "does not exist" in refused(da.load, tmp_path / "nothing.pt", "digits")
        (tmp_path / "noise.pt").write_bytes(b"no file of tensors")
        assert "cannot be read as a file of tensors" in refused(da.load, tmp_path / "noise.pt", "digits")
        path = mtt_folder(tmp_path / "run", pixels(), classes())
        (path / "labels_best.pt").unlink()
        assert "has no labels_best.pt beside it" in refused(da.load, path, "digits")


def a_result(soft=False, dataset="digits", channels=1, size=8):
    images = pixels(20, channels, size).view(10, 2, channels, size, size)
    labels = soft_labels().softmax(dim=1).view(10, 2, 10) if soft else None
    names = tuple(f"n°{c}" for c in range(10))
    constants = DC_CONSTANTS.get(dataset, CONSTANTS)
    return Result(SyntheticSet(images, 2, {}, labels), da.recipe("dream", dataset, ipc=2, factor=2), constants, names)


class TestWriting:
    @pytest.mark.parametrize("soft", [False, True])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_what_is_written_is_read_again(self, tmp_path, family, soft):
        result = a_result(soft)
        said = write(result, family, tmp_path / "out")
        again = da.load(tmp_path / "out", "digits", factor=2 if family == "idc" else None, normalization=CONSTANTS)
        (images, labels), (expected, targets) = again.synthetic.decode(), result.synthetic.decode()
        tolerance = 0.5 / 255 + 1e-6 if family == "folder" else 1e-6
        torch.testing.assert_close(images, expected, rtol=0, atol=tolerance)
        if soft and family in ("dc", "idc"):
            assert "soft labels" in said
            assert labels.dim() == 1
        else:
            torch.testing.assert_close(labels, targets)

    def test_layouts_are_the_published_ones(self, tmp_path):
        result = a_result(dataset="cifar10", channels=3, size=32)
        images, labels = result.synthetic.decode()
        normalised = DC_CONSTANTS["cifar10"](images)
        write(result, "dc", tmp_path / "res.pt")
        found = torch.load(tmp_path / "res.pt", weights_only=True)
        torch.testing.assert_close(found["data"][0][0], normalised)
        assert torch.equal(found["data"][0][1], labels)
        assert found["accs_all_exps"] == {}
        write(result, "idc", tmp_path / "data.pt")
        found = torch.load(tmp_path / "data.pt", weights_only=True)
        assert torch.equal(found[0], result.images)
        assert torch.equal(found[1], classes())
        write(result, "mtt", tmp_path / "mtt")
        torch.testing.assert_close(torch.load(tmp_path / "mtt" / "images_best.pt"), normalised)
        assert torch.load(tmp_path / "mtt" / "labels_best.pt").dtype == torch.int64
        assert torch.load(tmp_path / "mtt" / "lr_best.pt").shape == ()

    def test_dd_ranking_gets_what_its_metrics_take(self, tmp_path):
        result = a_result(soft=True, dataset="cifar10", channels=3, size=32)
        images, labels = result.synthetic.decode()
        write(result, "ddranking", tmp_path / "out")
        found = {name: torch.load(tmp_path / "out" / f"{name}.pt") for name in ("images", "labels", "lr")}
        # image_tensor, in the real test set's normalisation
        torch.testing.assert_close(found["images"], DD_RANKING_CONSTANTS["cifar10"](images))
        # soft_labels, of which its losses take the softmax
        torch.testing.assert_close(found["labels"].softmax(dim=1), labels)
        assert found["lr"].item() == pytest.approx(result.recipe.network_lr)
        # hard_labels, class after class
        write(a_result(dataset="cifar10", channels=3, size=32), "ddranking", tmp_path / "hard")
        assert torch.equal(torch.load(tmp_path / "hard" / "labels.pt"), torch.arange(10).repeat_interleave(8))

    def test_unknown_families_and_places_are_refused(self, tmp_path):
        assert "unknown family 'npz': choose one of dc, idc" in refused(write, a_result(), "npz", tmp_path / "out")
        (tmp_path / "file").touch()
        assert "is a file: this layout is a folder" in refused(write, a_result(), "mtt", tmp_path / "file")


class TestEvaluating:
    @pytest.mark.slow
    def test_every_family_is_evaluated(self, tmp_path):
        """Two real images per class train to far better than chance from every kind of file."""
        split = load_dataset("digits")
        rows = torch.cat([(split.train.labels == c).nonzero().flatten()[:2] for c in range(10)])
        images, labels = split.train.batch(rows), split.train.labels[rows]
        constants = split.normalization
        torch.save([images, labels], tmp_path / "data.pt")
        soft = mtt_folder(tmp_path / "datm", constants(images), 8.0 * nn.functional.one_hot(labels, 10))
        results = {
            "dc": da.load(dc_file(tmp_path / "res.pt", constants(images), labels), "digits", normalization=constants),
            "idc": da.load(tmp_path / "data.pt", "digits", factor=1),
            "datm": da.load(soft, "digits", normalization=constants),
            "folder": da.load(image_folder(tmp_path / "rded", images, labels), "digits"),
        }
        settings = {"networks": 1, "epochs": 40, "lr": 0.05, "width": 8, "depth": 2, "device": "cpu"}
        accuracy = {name: da.evaluate(result, split, **settings).mean for name, result in results.items()}
        assert min(accuracy.values()) > 40
        assert accuracy["dc"] == pytest.approx(accuracy["idc"], abs=3)


class TestCommandLine:
    def run(self, *words):
        return CliRunner().invoke(cli.app, [str(word) for word in words])

    def test_convert_goes_through_every_layout_and_back(self, tmp_path):
        source = a_result().save(tmp_path / "run0")
        expected = a_result().synthetic.decode()[0]
        constants = ("--mean", "0.25", "--std", "0.5")
        for number, family in enumerate((*FAMILIES, "run")):
            out = tmp_path / f"out-{family}"
            found = self.run("convert", source, out, "--to", family, "--dataset", "digits", "--factor", 2, *constants)
            assert found.exit_code == 0, found.output
            assert "written to" in found.stdout
            options = {"factor": 2 if family == "idc" else None, "normalization": CONSTANTS}
            images, _ = da.load(out, "digits", **options).synthetic.decode()
            torch.testing.assert_close(images, expected, rtol=0, atol=0.003)
            again = self.run("convert", source, out, "--to", family)
            assert "exists: name another place, or give --overwrite" in str(again.exception), number

    def smaller_result(self):
        """The first image per class of :func:`a_result`, of its first three classes."""
        result = a_result()
        synthetic = result.synthetic
        kept = SyntheticSet(synthetic.images[:3, :1], synthetic.factor)
        return replace(result, synthetic=kept, class_names=result.class_names[:3])

    def test_a_folder_that_held_a_larger_set_holds_the_new_one_alone(self, tmp_path):
        larger, smaller = a_result().save(tmp_path / "larger"), self.smaller_result().save(tmp_path / "smaller")
        assert self.run("convert", larger, tmp_path / "out", "--to", "folder").exit_code == 0
        (tmp_path / "out" / "soft_labels.pt").write_bytes(b"of the larger set")
        (tmp_path / "out" / "notes.txt").write_text("kept")
        found = self.run("convert", smaller, tmp_path / "out", "--to", "folder", "--overwrite")
        assert found.exit_code == 0, found.output
        expected = self.smaller_result().synthetic.decode()[0]
        written = da.load(tmp_path / "out", "digits", normalization=CONSTANTS)
        torch.testing.assert_close(written.synthetic.decode()[0], expected, rtol=0, atol=0.003)
        assert len(list((tmp_path / "out").iterdir())) == 3 + 1
        assert (tmp_path / "out" / "notes.txt").read_text() == "kept"

    def test_images_of_others_are_neither_removed_nor_mixed_with_the_result(self, tmp_path):
        source = a_result().save(tmp_path / "run")
        theirs = image_folder(tmp_path / "theirs", pixels(), classes())
        before = sorted(file.name for file in theirs.rglob("*"))
        found = self.run("convert", source, theirs, "--to", "folder", "--overwrite")
        assert "which this program did not write" in str(found.exception)
        assert "name another folder" in str(found.exception)
        assert sorted(file.name for file in theirs.rglob("*")) == before

    def test_a_run_written_over_another_is_not_beside_its_checkpoint_and_accuracies(self, tmp_path):
        source = a_result().save(tmp_path / "run")
        earlier = self.smaller_result().save(tmp_path / "earlier")
        for name in ("checkpoint.safetensors", "evaluations.jsonl", "report.html", "notes.txt"):
            (earlier / name).write_text("of the earlier run")
        assert self.run("convert", source, earlier, "--to", "run", "--overwrite").exit_code == 0
        names = {path.name for path in earlier.iterdir()}
        assert names == {"distilled.safetensors", "config.json", "metrics.jsonl", "notes.txt"}
        (source / "evaluations.jsonl").write_text("of this run")
        assert self.run("convert", source, source, "--to", "run", "--overwrite").exit_code == 0
        assert (source / "evaluations.jsonl").exists()

    def test_evaluate_takes_a_foreign_file_and_writes_nothing_beside_it(self, tmp_path):
        torch.save([pixels(), classes()], tmp_path / "data.pt")
        found = self.run(
            "evaluate", tmp_path / "data.pt", "--dataset", "digits", "--factor", 1, "--width", 4, "--quick"
        )
        assert found.exit_code == 0, found.output
        assert "test accuracy" in found.stdout
        assert [path.name for path in tmp_path.iterdir()] == ["data.pt"]

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--to", "npz"), "unknown layout 'npz': choose one of run, dc"),
            (("--to", "dc", "--mean", "0.5"), "--mean and --std belong together"),
            (("--to", "dc", "--mean", "grey", "--std", "1"), "are not numbers per channel"),
        ],
    )
    def test_bad_options_are_refused(self, tmp_path, options, words):
        source = a_result().save(tmp_path / "run")
        assert words in str(self.run("convert", source, tmp_path / "out", *options).exception)
