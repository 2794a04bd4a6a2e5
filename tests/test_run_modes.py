"""The caller's modes of PyTorch do not change what is computed; every object of a run can be copied and pickled."""

import copy
import pickle
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from test_engine import toy_recipe, toy_split

import dream_accel as da
from dream_accel.data import DataSplit, ImageSet
from dream_accel.engine.assembly import assemble
from dream_accel.engine.distill import distill
from dream_accel.engine.loop import Run
from dream_accel.engine.selection import select_real
from dream_accel.engine.stored_run import read_checkpoint
from dream_accel.evaluation import Evaluation, Protocol
from dream_accel.evaluation import evaluate as measure
from dream_accel.results import Progress


@contextmanager
def default_dtype(dtype: torch.dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default device": lambda: torch.device("meta"),
}


def results() -> tuple:
    """A run from arrays made under the modes, its evaluation, and a selection."""
    split = toy_split()
    arrays = (torch.as_tensor(split.train.images.numpy()), torch.as_tensor(split.train.labels.numpy()))
    own = DataSplit("toy", *(ImageSet.from_arrays(*arrays, 3),) * 2)
    settings = toy_recipe(eval_epochs=2, eval_networks=1, feature_weight=1.0, cutmix=0.5, factor=2)
    result = distill(settings, own, device="cpu")
    accuracy = measure(result, own, device="cpu")
    return result.images, accuracy.accuracies, select_real(settings, own, device="cpu").rows, result.normalization


@pytest.fixture(scope="module")
def plain():
    return results()


@pytest.mark.parametrize("mode", MODES)
def test_bits_are_those_without_the_mode_and_the_mode_stays(mode, plain):
    """Called under no_grad, inference_mode or another default dtype, a run ended in a traceback."""
    before = [torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()]
    if mode == "default device":  # the set itself is made outside, since its tensors would have no values
        split = toy_split()
        with MODES[mode]():
            result = distill(toy_recipe(), split, device="cpu")
            assert torch.empty(1).is_meta
        assert torch.equal(result.images, distill(toy_recipe(), split, device="cpu").images)
        return
    with MODES[mode]():
        inside = [torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()]
        found = results()
        assert [torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()] == inside
    assert [torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()] == before
    assert torch.equal(found[0], plain[0])
    assert found[0].dtype == torch.float32
    assert not found[0].is_inference()
    assert found[1] == plain[1]
    assert torch.equal(found[2], plain[2])
    assert found[3] == plain[3]


@pytest.fixture(scope="module")
def objects(tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("run") / "checkpoint.safetensors"
    result = distill(toy_recipe(iterations=1), toy_split(), device="cpu", checkpoint=path)
    stored = read_checkpoint(path)
    return {
        "Result": result,
        "Recipe": result.recipe,
        "Progress": result.history[0],
        "SyntheticSet": result.synthetic,
        "Evaluation": Evaluation((1.0, 2.0), Protocol()),
        "Protocol": Protocol(),
        "Checkpoint": stored.state,
        "Origin": stored.origin,
        "Normalization": result.normalization,
        "DataSplit": toy_split(),
        "DivergenceError": da.DivergenceError("a sentence", result),
    }


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, BaseException):
        return a.args == b.args and same(a.result, b.result)
    if type(a) in (Progress, Protocol, Evaluation, da.Recipe, da.data.Normalization):
        return a == b
    if hasattr(a, "__dataclass_fields__"):
        return all(same(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize(
    "name",
    [
        "Result",
        "Recipe",
        "Progress",
        "SyntheticSet",
        "Evaluation",
        "Protocol",
        "Checkpoint",
        "Origin",
        "Normalization",
        "DataSplit",
        "DivergenceError",
    ],
)
@pytest.mark.parametrize("copied", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy, copy.copy])
def test_public_objects_can_be_pickled_and_copied(objects, name, copied):
    """cuml#3140, for the objects of a run."""
    found = copied(objects[name])
    assert type(found) is type(objects[name])
    assert same(objects[name], found)


def test_a_result_that_went_through_a_pickle_can_be_saved_and_evaluated(objects, tmp_path):
    found = pickle.loads(pickle.dumps(objects["Result"]))
    found.save(tmp_path)
    assert torch.equal(da.load(tmp_path).images, objects["Result"].images)
    assert measure(found, toy_split(), device="cpu", epochs=1, networks=1).complete


def test_a_run_in_progress_keeps_its_parts(tmp_path):
    """Gradients enabled for the run alone: its parts can be used before and after."""
    with torch.inference_mode():
        run = Run(toy_recipe(iterations=2), toy_split())
    with torch.no_grad():
        run.advance()
    run.advance()
    assert torch.equal(
        run.synthetic.images, distill(toy_recipe(iterations=2), toy_split(), device="cpu").synthetic.images
    )
    assert assemble(toy_recipe(), toy_split()).pixels.pixels.dtype == torch.float32


def test_numbers_of_numpy_are_numbers_of_a_recipe(tmp_path):
    """pixel_lr=np.float64(.1) "must be of type float", n_clusters=np.int64(3) "must be an integer"."""
    given = {"pixel_lr": np.float64(0.25), "ipc": np.int64(2), "seed": np.uint8(3), "cutmix": np.float32(0.5)}
    found = toy_recipe(**given, graphs=np.bool_(False), network=np.str_("convnet"))
    expected = toy_recipe(pixel_lr=0.25, ipc=2, seed=3, cutmix=0.5, graphs=False)
    assert found == expected
    assert all(type(getattr(found, name)) is type(getattr(expected, name)) for name in found.__dataclass_fields__)
    result = distill(found, toy_split(), device="cpu")
    assert torch.equal(result.images, distill(expected, toy_split(), device="cpu").images)
    assert da.load(result.save(tmp_path)).recipe.pixel_lr == 0.25
