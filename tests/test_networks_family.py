"""All networks: sizes, settings, seeds, the layers chosen by name, and a distillation of two steps with each."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.refusals import refused
from test_engine import toy_recipe, toy_split
from torch import nn

import dream_accel as da
from dream_accel.engine.assembly import assemble
from dream_accel.matching.class_gradients import by_capture, by_loop, refusal
from dream_accel.matching.gradients import GradientMatching
from dream_accel.networks import NETWORK_SETTINGS, NETWORKS, ConvNet, initialize, make_network, settings_read
from dream_accel.networks.initialization import not_redrawn
from dream_accel.networks.layers import ACTIVATIONS, NORMS, POOLINGS, activation_layer, norm_layer, pooling_layer
from dream_accel.random import derive_seed

SMALLEST = {"convnet": 8, "mlp": 8, "lenet": 16, "alexnet": 8, "vgg11": 28}
SMALLEST |= dict.fromkeys(("resnet10", "resnet18", "resnetap10", "densenet121"), 16)

# Features at 28, 32 and 64 pixels with the published width, which the papers' code gives for 32x32.
FEATURES = {
    "convnet": (2048, 2048, 2048 * 4),
    "mlp": (128, 128, 128),
    "lenet": (84, 84, 84),
    "alexnet": (192 * 16, 192 * 16, 192 * 64),
    "vgg11": (512, 512, 512 * 4),
    "resnet10": (512, 512, 512),
    "resnet18": (512, 512, 512),
    "resnetap10": (512, 512, 512),
    "densenet121": (1024, 1024, 1024),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def network(name: str, side: int = 32, channels: int = 1, seed: int = 0, width: int = 8, depth: int = 2, **kinds):
    return make_network(name, (channels, side, side), 3, width, depth, seed, **kinds)


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("name", NETWORKS)
class TestEveryNetwork:
    @pytest.mark.parametrize("side", [8, 16, 28, 32, 64])
    def test_gives_logits_and_features_or_says_from_which_size_it_does(self, name, side):
        shape = (3, side, side)
        if side < SMALLEST[name]:
            message = refused(make_network, name, shape, 3, 4, 1, 0)
            least = 32 if name == "vgg11" else SMALLEST[name]
            assert message == (
                f"network {name!r} needs images of {least}x{least} pixels or more, and these are {side}x{side}: use "
                "convnet, or scale the images by size"
            )
            return
        net = make_network(name, shape, 3, 8, 1, 0)
        images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
        features = net.embed(images)
        assert features.dim() == 2
        # The features are those that the classifier reads, and they are not the same for all images.
        torch.testing.assert_close(net.classifier(features), net(images))
        assert net(images).shape == (2, 3)
        assert (features[0] - features[1]).abs().max() > 0

    def test_is_as_wide_as_published_at_width_128(self, name):
        with torch.device("meta"):
            for side, features in zip((28, 32, 64), FEATURES[name], strict=True):
                read = {"depth": 3} if "depth" in settings_read(name) else {}
                assert NETWORKS[name]((3, side, side), 10, **read).classifier.in_features == features

    def test_same_seed_same_bits(self, name):
        first, again, other = (weights(network(name, seed=seed)) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_every_parameter_is_redrawn(self, name):
        """So that nothing of one outer iteration is left in the next."""
        for norm in NORMS if name == "convnet" else ("instance", "batch"):
            net = network(name, norm=norm)
            fresh = weights(net).clone()
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter.fill_(7)
            assert torch.equal(weights(initialize(net, derive_seed(0, "network"))), fresh)
            assert not_redrawn(net) is None

    def test_reads_the_settings_that_its_constructor_names_and_refuses_the_others(self, name):
        for setting, value in zip(NETWORK_SETTINGS, (8, 2, "batch", "sigmoid", "max"), strict=True):
            if setting in settings_read(name):
                assert getattr(da.recipe("dream", "toy", network=name, **{setting: value}), setting) == value
            else:
                message = refused(da.recipe, "dream", "toy", network=name, **{setting: value})
                assert message.startswith(f"network {name!r} does not read {setting}: leave it out, or choose one of ")
                assert "convnet" in message

    def test_distils_in_two_steps(self, name):
        recipe = toy_recipe(
            iterations=1, inner_steps=2, ipc=1, clusters=2, network_images=4, layers="weights", pixel_lr=0.01
        )
        split = toy_split(4, 2, SMALLEST[name])
        first, again = (da.distill(replace(recipe, network=name), split, device="cpu") for _ in range(2))
        start = da.distill(replace(recipe, network=name, iterations=0), split, device="cpu")
        assert torch.equal(first.images, again.images)
        assert not torch.equal(first.images, start.images)
        assert 0 < first.history[0].loss < float("inf")

    def test_capture_gives_the_gradients_of_class_after_class(self, name):
        """Layers that work in place would give other ones."""
        net = network(name, SMALLEST[name], width=4)
        parameters = GradientMatching(layers="all").parameters(net)
        images = torch.rand(6, 1, SMALLEST[name], SMALLEST[name], generator=torch.Generator().manual_seed(0))
        assert refusal("capture", net, parameters) is None
        found = by_capture(net, parameters, images, range(3))
        for one, other in zip(found, by_loop(net, parameters, images, range(3)), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


class TestLayers:
    images = torch.randn(5, 8, 6, 6, generator=torch.Generator().manual_seed(0))

    def test_norms_are_those_of_their_names(self):
        found = {name: norm_layer(name, 8)(self.images) for name in NORMS}
        expected = {
            "instance": nn.InstanceNorm2d(8)(self.images),
            "batch": nn.BatchNorm2d(8)(self.images),
            "layer": nn.LayerNorm((8, 6, 6))(self.images),
            "group": nn.GroupNorm(4, 8)(self.images),
            "none": self.images,
        }
        for name in NORMS:
            torch.testing.assert_close(found[name], expected[name])

    def test_activations_and_poolings_are_those_of_their_names(self):
        x = self.images
        expected = {"relu": x.clamp(0), "leakyrelu": torch.where(x > 0, x, 0.01 * x), "sigmoid": 1 / (1 + (-x).exp())}
        for name in ACTIVATIONS:
            before = x.clone()
            torch.testing.assert_close(activation_layer(name)(x), expected[name])
            assert torch.equal(x, before)
        parts = x.unflatten(3, (3, 2)).unflatten(2, (3, 2))
        pooled = {"avg": parts.mean((3, 5)), "max": parts.amax((3, 5)), "none": x}
        for name in POOLINGS:
            torch.testing.assert_close(pooling_layer(name)(x), pooled[name])

    @pytest.mark.parametrize(("setting", "default"), [("norm", "instance"), ("activation", "relu"), ("pooling", "avg")])
    def test_each_choice_changes_the_convnet_and_the_default_is_the_published_one(self, setting, default):
        images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        table = {"norm": NORMS, "activation": ACTIVATIONS, "pooling": POOLINGS}[setting]
        found = {name: network("convnet", 8, **{setting: name})(images) for name in table}
        assert torch.equal(found[default], network("convnet", 8)(images))
        assert len({tuple(logits.flatten().tolist()) for logits in found.values()}) == len(table)

    def test_without_pooling_the_map_keeps_its_size_and_no_depth_is_too_deep(self):
        assert ConvNet((1, 4, 4), 3, width=2, depth=5, pooling="none").classifier.in_features == 2 * 16

    def test_unknown_names_and_channels_that_do_not_divide_are_refused(self):
        kinds = {"norm": NORMS, "activation": ACTIVATIONS, "pooling": POOLINGS}
        for kind, table in kinds.items():
            expected = f"unknown {kind} 'swish': choose one of {', '.join(table)}"
            assert refused(network, "convnet", 8, **{kind: "swish"}) == expected
            assert refused(da.recipe, **{kind: "swish"}) == expected
        message = refused(network, "convnet", 8, width=6, norm="group")
        assert message == (
            "norm is 'group', which needs a multiple of 4 channels, and a layer has 6: choose another width or norm"
        )


def test_a_run_and_its_evaluation_compute_with_the_layers_of_the_recipe():
    kinds = {"norm": "layer", "activation": "sigmoid", "pooling": "max"}
    recipe = toy_recipe(**kinds, eval_networks=1, eval_epochs=1)
    assert recipe.layer_kinds == kinds
    seen = [type(m).__name__ for m in assemble(recipe, toy_split()).network.features]
    assert seen == ["Conv2d", "GroupNorm", "Sigmoid", "MaxPool2d"] * 2
    result = da.distill(recipe, toy_split(), device="cpu")
    assert da.evaluate(result, toy_split(), device="cpu").protocol.layer_kinds == kinds


def test_a_pooled_resnet_has_no_strides_and_the_sides_of_the_strided_one():
    strided, pooled = network("resnet10"), network("resnetap10")
    images = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert strided.features(images).shape == pooled.features(images).shape == (2, 32, 4, 4)
    strides = [{m.stride for m in net.modules() if isinstance(m, nn.Conv2d)} for net in (strided, pooled)]
    assert strides == [{(1, 1), (2, 2)}, {(1, 1)}]


@pytest.mark.parametrize("name", ["resnet10", "resnetap10", "densenet121"])
def test_large_images_are_reduced_four_times_by_the_stem(name):
    net = network(name, 128)
    assert net.features(torch.rand(1, 1, 128, 128)).shape[2:] == (4, 4)


@pytest.mark.parametrize(
    ("name", "published"),
    # ResNet-18 and DenseNet-121 of torchvision with 1,000 classes, whose stems have the same number of parameters.
    [("resnet18", 11_689_512), ("densenet121", 7_978_856)],
)
def test_large_networks_have_the_parameters_of_torchvision_s(name, published):
    with torch.device("meta"):
        assert sum(p.numel() for p in NETWORKS[name]((3, 224, 224), 1000, norm="batch").parameters()) == published


def test_matching_layers_that_a_network_has_not_is_refused():
    message = refused(da.distill, replace(toy_recipe(), network="mlp"), toy_split(), device="cpu")
    assert message == "layers is 'conv', and MLP has no such parameters: use layers weights"


def test_capture_refuses_what_it_would_compute_wrongly():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(16, 3)

        def forward(self, images):
            return self.linear(self.conv(self.conv(images)).flatten(1))

    in_place = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 3))
    images = torch.rand(3, 1, 4, 4)
    for net, reason in ((Twice(), "runs twice in a forward pass"), (in_place, "has its output changed in place")):
        message = refused(by_capture, net, dict(net.named_parameters()), images, range(3))
        assert message == (
            f"class_gradients 'capture' and 'fused' cannot serve this network: a Conv2d {reason}; use loop or vmap"
        )


class TestPage:
    text = (Path(__file__).parents[1] / "docs" / "networks.md").read_text()

    def test_has_a_row_per_network_with_the_settings_it_reads(self):
        rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", self.text, re.MULTILINE)
        found = {name: tuple(reads.split(", ")) for name, reads in rows if name in NETWORKS}
        assert found == {name: settings_read(name) for name in NETWORKS}

    def test_names_every_layer_and_its_own_network_can_be_imported(self, tmp_path, monkeypatch):
        for table in (NORMS, ACTIVATIONS, POOLINGS):
            assert all(f"`{name}`" in self.text for name in table)
        (snippet,) = re.findall(r"```python\n(.*?)```", self.text, re.DOTALL)
        (tmp_path / "my_networks.py").write_text(snippet)
        monkeypatch.chdir(tmp_path)
        assert make_network("my_networks:strided", (3, 8, 8), 5, 1, 1, 0)(torch.rand(2, 3, 8, 8)).shape == (2, 5)
