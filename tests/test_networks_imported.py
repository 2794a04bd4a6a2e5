"""Networks of one's own by import path: what runs, and what is refused with the reason."""

import json
import sys
from pathlib import Path

import pytest
import torch
from support.refusals import refused
from test_cli import run, small  # noqa: F401
from test_engine import toy_split
from test_mtt import SMALL as SETTINGS

import dream_accel as da
from dream_accel.networks import make_network

SMALL = ("--quick", "--layers", "weights", "--limit-train", 30, "--ipc", 1)

MODULE = """
import torch
from torch import nn


def good(shape, n_classes):
    net = nn.Sequential(nn.Conv2d(shape[0], 4, 3), nn.BatchNorm2d(4), nn.ReLU(True), nn.Flatten())
    net.append(nn.Linear(4 * (shape[1] - 2) * (shape[2] - 2), n_classes))
    net.register_buffer("drawn", torch.rand(3))
    return net


class Sizes(nn.Module):
    def __init__(self, shape, n_classes, side=8, outputs=None):
        super().__init__()
        self.classifier = nn.Linear(shape[0] * side * side, n_classes if outputs is None else outputs)

    def embed(self, images):
        return images.flatten(1)

    def forward(self, images):
        return self.classifier(images.flatten(1))


class Named:
    inside = Sizes


def elsewhere(shape, n_classes):
    return Sizes(shape, n_classes, side=9)


def seven(shape, n_classes):
    return Sizes(shape, n_classes, outputs=7)


def featureless(shape, n_classes):
    return nn.Sequential(nn.Conv2d(shape[0], n_classes, shape[1]), nn.Flatten())


def flat_features(shape, n_classes):
    net = Sizes(shape, n_classes)
    net.embed = lambda images: images.flatten()
    return net


def nothing(shape, n_classes):
    return None


def only_classes(n_classes):
    return None


def raising(shape, n_classes):
    raise RuntimeError("first line\\nsecond line")


def own_parameter(shape, n_classes):
    net = Sizes(shape, n_classes)
    net.scale = nn.Parameter(torch.ones(1))
    return net


def dropout(shape, n_classes):
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), Sizes(shape, n_classes).classifier)


def functional_dropout(shape, n_classes):
    net = Sizes(shape, n_classes)
    classify = net.forward
    net.forward = lambda images: nn.functional.dropout(classify(images), 0.1, net.training)
    return net


def parameterless(shape, n_classes):
    net = Sizes(shape, n_classes)
    del net.classifier
    net.classifier = lambda features: features[:, :n_classes]
    return net


def unused(shape, n_classes):
    net = Sizes(shape, n_classes)
    net.auxiliary = nn.Linear(2, 2)
    return net


def frozen(shape, n_classes):
    return Sizes(shape, n_classes).requires_grad_(False)


def unfrozen(shape, n_classes):
    return nn.Sequential(nn.BatchNorm2d(shape[0], track_running_stats=False), Sizes(shape, n_classes))


def flat_norm(shape, n_classes):
    first = nn.Linear(shape[0] * shape[1] * shape[2], 4)
    return nn.Sequential(nn.Flatten(), first, nn.BatchNorm1d(4), nn.Linear(4, n_classes))


number = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """A module beside the user, as ``own_networks``."""
    (tmp_path / "own_networks.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("own_networks", None)


def made(name: str, seed: int = 0):
    return make_network(f"own_networks:{name}", (1, 8, 8), 3, 128, 1, seed)


class TestUse:
    @pytest.mark.parametrize("name", ["good", "Sizes", "Named.inside"])
    def test_a_function_a_class_or_an_attribute_of_one(self, name):
        net = made(name)
        assert net(torch.rand(2, 1, 8, 8)).shape == (2, 3)
        assert all(module.training for module in net.modules())
        assert Path.cwd().as_posix() not in sys.path

    def test_weights_and_buffers_depend_on_the_seed_alone(self):
        found = []
        for ambient, seed in ((1, 0), (2, 0), (2, 1)):
            torch.manual_seed(ambient)
            state = torch.get_rng_state()
            found.append(made("good", seed).state_dict())
            assert torch.equal(torch.get_rng_state(), state)
        for key, value in found[0].items():
            assert torch.equal(value, found[1][key])
        assert not torch.equal(found[0]["0.weight"], found[2]["0.weight"])

    def test_distils_evaluates_and_says_its_path_in_the_result(self):
        little = {"ipc": 1, "factor": 1, "clusters": 4, "iterations": 1, "inner_steps": 2, "network_images": 8}
        recipe = da.recipe("dream", "toy", network="own_networks:good", **little)
        split = toy_split()
        first, again = (da.distill(recipe, split, device="cpu") for _ in range(2))
        assert torch.equal(first.images, again.images)
        assert first.recipe.network == "own_networks:good"
        found = da.evaluate(first, split, networks=1, epochs=1, device="cpu")
        assert found.protocol.network == "own_networks:good"

    def test_on_the_command_line(self, run, small):  # noqa: F811
        flags = ("--dataset", small, "--network", "own_networks:Sizes", *SMALL)
        assert run("distill", *flags, "--out", "out", "--no-evaluate").code == 0
        found = run("evaluate", "out", "--quick", "--network", "own_networks:Sizes")
        assert (found.code, found.err) == (0, "")
        assert json.loads(Path("out/evaluations.jsonl").read_text())["protocol"]["network"] == "own_networks:Sizes"

    def test_a_run_s_folder_imports_nothing_that_the_command_does_not_name(self, run, small):  # noqa: F811
        flags = ("--dataset", small, "--network", "own_networks:Sizes", *SMALL)
        assert run("distill", *flags, "--out", "out", "--no-evaluate").code == 0
        sys.modules.pop("own_networks")
        expected = (
            "the run's network is 'own_networks:Sizes', which is imported only where the command names it: add "
            "--network own_networks:Sizes, if you trust it"
        )
        for words in (("evaluate", "out", "--quick"), ("distill", "--resume", "out", "--iterations", 2)):
            assert run(*words).refusal == expected
            assert "own_networks" not in sys.modules
        again = ("--network", "own_networks:Sizes", "--iterations", 2, "--no-evaluate")
        assert run("distill", "--resume", "out", *again).code == 0


class TestRefusals:
    def test_what_cannot_be_imported(self):
        here = Path.cwd()
        for path, reason in (
            ("no_such_module:net", "ModuleNotFoundError: No module named 'no_such_module'"),
            ("own_networks:none", "AttributeError: module 'own_networks' has no attribute 'none'"),
            (":net", "ValueError: Empty module name"),
        ):
            assert refused(make_network, path, (1, 8, 8), 3, 4, 1, 0) == (
                f"network {path!r} cannot be imported ({reason}): give package.module:factory, installed or found from "
                f"{here}"
            )

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("number", " is a int: name a function or class that is called with the shape of the images"),
            ("nothing", " returns a NoneType: the factory must return a torch.nn.Module"),
            (
                "only_classes",
                " fails when called with ((1, 8, 8), 3), the shape of the images and the number of classes",
            ),
            ("raising", " fails when called with ((1, 8, 8), 3), the shape of the images and the number of classes"),
            ("seven", " gives (2, 7) for 2 images of 3 classes: it must give (2, 3) logits"),
            ("elsewhere", " refuses images of 1x8x8 (RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
            ("featureless", " has no recognisable features: give it a method embed(images), or a last nn.Linear"),
            ("flat_features", " gives features (128,) for 2 images: they must be (2, ...)"),
            ("own_parameter", " has a Sizes with the parameter scale, which no seed redraws: use convolutions"),
            ("dropout", " draws random numbers in a forward pass, as dropout does, which no seed of a run names"),
            ("functional_dropout", " draws random numbers in a forward pass, as dropout does"),
            ("parameterless", " has no parameters: a run needs some to train"),
            ("unused", " has the parameter auxiliary.weight, by which its logits have no gradient"),
            ("frozen", " has the parameter classifier.weight, by which its logits have no gradient"),
            ("unfrozen", " has a BatchNorm2d without running statistics, which matching cannot freeze"),
        ],
    )
    def test_what_a_run_cannot_use(self, name, expected):
        message = refused(made, name)
        assert message.startswith(f"network 'own_networks:{name}'{expected}")
        assert len(message.splitlines()) == 1

    def test_settings_that_it_does_not_read(self):
        message = refused(da.recipe, network="own_networks:good", width=8)
        assert message.startswith("network 'own_networks:good' does not read width: leave it out, or choose one of ")

    def test_batch_norm_with_one_image_in_a_training_batch(self):
        settings = {"network": "own_networks:flat_norm", "layers": "weights", "ipc": 1, "factor": 1, "clusters": 2}
        recipe = da.recipe("dream", "toy", **settings, network_batch=1, iterations=1, inner_steps=1)
        message = refused(da.distill, recipe, toy_split(), device="cpu")
        assert message.startswith("batch norm is trained on a batch with one value per channel")


def test_a_module_that_ends_the_program_is_refused(tmp_path, monkeypatch):
    (tmp_path / "ends_at_once.py").write_text("raise SystemExit(0)\n")
    monkeypatch.chdir(tmp_path)
    said = refused(make_network, "ends_at_once:make", (1, 8, 8), 10, 4, 1, 0)
    assert said.startswith("network 'ends_at_once:make' cannot be imported (SystemExit: 0)")


HIDDEN = """
from torch import nn

WIDTH = 4

def make(shape, n_classes):
    conv = nn.Conv2d(shape[0], WIDTH, 3, padding=1)
    return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(WIDTH * shape[1] * shape[2], n_classes))
"""


@pytest.fixture
def changing(tmp_path, monkeypatch):
    (tmp_path / "changing_net.py").write_text(HIDDEN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("changing_net", None)


def test_experts_of_a_network_whose_code_changed_are_refused(tmp_path, changing):
    # Settings of the network that an import path does not read.
    own = {key: value for key, value in SETTINGS.items() if key not in ("width", "depth", "norm")}
    recipe = da.recipe("mtt", "toy", **{**own, "network": "changing_net:make", "experts": str(tmp_path / "experts")})
    da.train_experts(recipe, toy_split(), out=tmp_path / "experts", device="cpu")
    sys.modules["changing_net"].WIDTH = 6
    assert "whose code has changed since" in refused(da.distill, recipe, toy_split(), device="cpu")


def test_a_pool_of_a_network_whose_code_changed_is_refused(tmp_path, changing):
    little = {"trajectories": 1, "stages": 1, "draws": 1, "batch": 4, "iterations": 1, "inner_steps": 1, "ipc": 1}
    recipe = da.recipe("dm", "toy", **little, network="changing_net:make", real="cached", pool=str(tmp_path / "pool"))
    da.fill_pool(recipe, toy_split(), out=tmp_path / "pool", device="cpu")
    sys.modules["changing_net"].WIDTH = 6
    assert "whose code has changed since" in refused(da.distill, recipe, toy_split(), device="cpu")
