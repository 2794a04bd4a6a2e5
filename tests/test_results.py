"""A run's folder, written and read again."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file
from support.refusals import refused

import dream_accel as da
from dream_accel.data import Normalization
from dream_accel.formats import load
from dream_accel.results import Progress, Result, versions
from dream_accel.synthetic import SyntheticSet

HISTORY = [Progress(1, 20, 3.5, 1000.0, 0.25), Progress(2, 40, 2.5, 2000.0, 0.5)]


def a_result(**changes) -> Result:
    images = torch.rand(3, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    values = {
        "synthetic": SyntheticSet(images, 2),
        "recipe": da.recipe("dream+", "digits", ipc=2, factor=2, seed=7, pixel_lr=0.125),
        "normalization": Normalization((0.25,), (0.5,)),
        "class_names": ("zero", "ein s", "二"),
        "history": list(HISTORY),
        **changes,
    }
    return Result(**values)


@pytest.mark.parametrize("by", ["folder", "file", "text"])
def test_round_trip_keeps_everything(tmp_path, by):
    result = a_result(interrupted=True)
    folder = result.save(tmp_path / "new" / "run")
    path = {"folder": folder, "file": folder / "distilled.safetensors", "text": str(folder)}[by]
    found = da.load(path)
    assert torch.equal(found.synthetic.images, result.synthetic.images)
    assert found.synthetic.factor == 2
    assert found.recipe == result.recipe
    assert found.normalization == result.normalization
    assert found.class_names == result.class_names
    assert found.history == HISTORY
    assert found.interrupted


def test_images_and_labels_are_flat_and_pair_up(tmp_path):
    result = a_result()
    assert result.images.shape == (6, 1, 8, 8)
    assert result.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(result.images[3], result.synthetic.images[1, 1])


@pytest.mark.parametrize("normalized", [False, True])
def test_a_dataset_of_the_decoded_images_is_ready_for_a_loader(normalized):
    result = a_result()
    images, labels = result.synthetic.decode()
    expected = (images - 0.25) / 0.5 if normalized else images
    dataset = result.dataset(normalized=normalized)
    assert len(dataset) == 3 * 2 * 4
    image, label = dataset[5]
    assert torch.equal(image, expected[5])
    assert label == labels[5]
    batch, targets = next(iter(torch.utils.data.DataLoader(dataset, batch_size=24)))
    assert torch.equal(batch, expected)
    assert torch.equal(targets, labels)


def test_soft_labels_are_those_of_the_dataset():
    soft = torch.eye(3).repeat(2, 1).view(3, 2, 3)
    result = a_result(synthetic=SyntheticSet(torch.rand(3, 2, 1, 8, 8), 1, {}, soft))
    assert torch.equal(result.dataset()[3][1], soft.flatten(0, 1)[3])


def test_a_dataset_cannot_be_normalised_without_constants():
    assert "leave normalized out" in refused(a_result(normalization=None).dataset, normalized=True)


def test_the_tensor_file_alone_is_enough(tmp_path):
    result = a_result()
    file = result.save(tmp_path / "run") / "distilled.safetensors"
    alone = tmp_path / "moved.safetensors"
    file.rename(alone)
    found = load(alone)
    assert found.recipe == result.recipe
    assert found.history == []


def test_written_files_are_what_others_can_read(tmp_path):
    folder = a_result().save(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "distilled.safetensors", "metrics.jsonl"]
    config = json.loads((folder / "config.json").read_text())
    assert config["recipe"] == asdict(a_result().recipe)
    assert config["normalization"] == {"mean": [0.25], "std": [0.5]}
    assert config["class_names"] == ["zero", "ein s", "二"]
    assert (config["iterations_done"], config["interrupted"]) == (2, False)
    assert config["versions"] == versions()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == [line.to_dict() for line in HISTORY]


def test_saving_again_replaces_what_was_there(tmp_path):
    a_result().save(tmp_path)
    a_result(history=HISTORY[:1], synthetic=SyntheticSet(torch.zeros(3, 2, 1, 8, 8))).save(tmp_path)
    found = load(tmp_path)
    assert found.history == HISTORY[:1]
    assert (found.images == 0).all()
    assert len(list(tmp_path.iterdir())) == 3


def test_versions_name_what_computed():
    found = versions()
    assert set(found) == {"dream-accel", "torch", "python"}
    assert found["torch"] == torch.__version__


def test_versions_say_what_is_not_installed(monkeypatch):
    from importlib import metadata

    def nothing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", nothing)
    assert versions()["dream-accel"] == "not installed"


def test_settings_a_later_version_added_are_passed_over(tmp_path):
    result = a_result()
    result.save(tmp_path)
    about = {**result.synthetic.metadata, "recipe": {**asdict(result.recipe), "from_the_future": 1}}
    SyntheticSet(result.synthetic.images, 2, about).save(tmp_path / "distilled.safetensors")
    assert load(tmp_path).recipe == result.recipe


def test_a_run_whose_data_have_moved_can_be_evaluated_on_them(tmp_path):
    a_result().save(tmp_path)
    assert load(tmp_path, "mnist").recipe == replace(a_result().recipe, dataset="mnist")


class TestRefusals:
    @pytest.mark.parametrize(
        "given", [{"factor": 1}, {"normalization": Normalization((0.5,), (0.5,))}, {"experiment": 1}], ids=str
    )
    def test_a_fact_that_the_run_stores(self, tmp_path, given):
        """An option given and ignored: facts of foreign files, given for a run of this program."""
        a_result().save(tmp_path)
        assert f"leave {next(iter(given))} out" in refused(load, tmp_path, **given)

    def test_nothing_there(self, tmp_path):
        assert f"{tmp_path}/none does not exist" in refused(load, tmp_path / "none")

    def test_a_folder_without_a_result(self, tmp_path):
        message = refused(load, tmp_path)
        assert f"{tmp_path} is of no known family of results: known are a run's folder" in message

    def test_a_damaged_file(self, tmp_path):
        (tmp_path / "distilled.safetensors").write_bytes(b"nothing of the kind")
        assert "damaged or foreign" in refused(load, tmp_path)

    def test_a_file_of_another_program(self, tmp_path):
        save_file({"weight": torch.zeros(3)}, tmp_path / "model.safetensors")
        assert "of another program" in refused(load, tmp_path / "model.safetensors")

    @pytest.mark.parametrize(
        "about",
        [
            {},
            {"recipe": 3},
            {"normalization": {"mean": [0.5]}},
            {"normalization": {"mean": ["x"], "std": ["y"]}},
            {"recipe": {"ipc": 0}},
            {"class_names": None},
        ],
        ids=str,
    )
    def test_a_set_that_does_not_describe_its_run(self, tmp_path, about):
        result = a_result()
        result.save(tmp_path)
        metadata = {**result.synthetic.metadata, **about} if about else {}
        SyntheticSet(result.synthetic.images, 2, metadata).save(tmp_path / "distilled.safetensors")
        refused(load, tmp_path)

    @pytest.mark.parametrize("line", ["{", '{"iteration": 1}', '{"unknown": 1}', "3"])
    def test_damaged_metrics_are_named_with_the_remedy(self, tmp_path, line):
        a_result().save(tmp_path)
        with open(tmp_path / "metrics.jsonl", "a") as file:
            file.write(line + "\n")
        message = refused(load, tmp_path)
        assert f"{tmp_path}/metrics.jsonl cannot be read" in message
        assert "remove it to load the images without history" in message
        (tmp_path / "metrics.jsonl").unlink()
        assert load(tmp_path).history == []
