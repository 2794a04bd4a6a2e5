"""ConvNet and how its weights are drawn."""

import math

import pytest
import torch
from support.refusals import refused
from torch import nn

from dream_accel.networks import NETWORKS, ConvNet, initialization, initialize, make_network

pytestmark = pytest.mark.usefixtures("one_thread")


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.flatten() for parameter in network.parameters()])


class TestConvNet:
    def test_has_the_parameters_of_the_field_s_convnet_3(self):
        network = ConvNet((3, 32, 32), 10)
        convolutions = [tuple(m.weight.shape) for m in network.modules() if isinstance(m, nn.Conv2d)]
        assert convolutions == [(128, 3, 3, 3), (128, 128, 3, 3), (128, 128, 3, 3)]
        norms = [m for m in network.modules() if isinstance(m, nn.GroupNorm)]
        assert [(m.num_groups, m.num_channels, m.affine) for m in norms] == [(128, 128, True)] * 3
        assert tuple(network.classifier.weight.shape) == (10, 2048)
        # 3 convolutions with bias, 3 norms, 1 linear layer; the number published for ConvNet-3 at 32x32.
        assert sum(p.numel() for p in network.parameters()) == 320_010

    @pytest.mark.parametrize(
        ("shape", "width", "depth", "features"),
        [
            ((3, 32, 32), 128, 3, 2048),
            ((1, 28, 28), 128, 3, 2048),
            ((3, 64, 64), 128, 4, 2048),
            ((1, 8, 8), 32, 2, 128),
            ((3, 20, 30), 4, 2, 4 * 5 * 7),
            ((1, 28, 28), 2, 5, 2),
        ],
        ids=str,
    )
    def test_embeds_into_the_flattened_last_feature_map(self, shape, width, depth, features):
        network = ConvNet(shape, 7, width=width, depth=depth)
        images = torch.rand(3, *shape)
        assert network.embed(images).shape == (3, features)
        assert network(images).shape == (3, 7)

    def test_28_pixel_images_give_what_zero_padding_to_32_gives(self):
        small = initialize(ConvNet((1, 28, 28), 10, width=8), 3)
        large = initialize(ConvNet((1, 32, 32), 10, width=8), 3)
        images = torch.rand(4, 1, 28, 28)
        torch.testing.assert_close(small(images), large(nn.functional.pad(images, (2, 2, 2, 2))))

    def test_agrees_with_the_same_layers_written_out(self):
        network = initialize(ConvNet((3, 8, 8), 5, width=6, depth=2), 1)
        images = torch.rand(4, 3, 8, 8)
        x = images
        for conv, norm in ((network.features[0], network.features[1]), (network.features[4], network.features[5])):
            x = nn.functional.conv2d(x, conv.weight, conv.bias, padding=1)
            deviation = (x.var(dim=(2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
            x = (x - x.mean(dim=(2, 3), keepdim=True)) / deviation * norm.weight.view(1, -1, 1, 1)
            x = nn.functional.avg_pool2d((x + norm.bias.view(1, -1, 1, 1)).relu(), 2)
        torch.testing.assert_close(network.embed(images), x.flatten(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network(images), network.classifier(x.flatten(1)), rtol=1e-4, atol=1e-5)

    def test_an_image_is_seen_alone_whatever_else_is_in_the_batch(self):
        network = ConvNet((3, 8, 8), 5, width=6, depth=2)
        images = torch.rand(4, 3, 8, 8)
        torch.testing.assert_close(network(images)[:1], network(images[:1]))

    @pytest.mark.parametrize(("side", "depth", "most"), [(8, 4, 3), (28, 6, 5), (2, 2, 1)])
    def test_too_deep_is_refused_with_the_depth_that_fits(self, side, depth, most):
        shape = (1, side, side)
        message = refused(ConvNet, shape, 10, 4, depth)
        assert message == f"{side}x{side} images vanish after {depth} halvings: use depth {most} or less"
        assert ConvNet(shape, 10, 4, most)(torch.rand(1, *shape)).shape == (1, 10)


class TestInitialize:
    def test_same_seed_same_weights_and_another_seed_others(self):
        first, second, other = (weights(make_network("convnet", (3, 8, 8), 10, 8, 2, seed)) for seed in (1, 1, 2))
        assert torch.equal(first, second)
        assert not torch.equal(first, other)

    def test_keys_name_other_weights(self):
        first, second = (weights(make_network("convnet", (3, 8, 8), 10, 8, 2, 1, "outer", i)) for i in (0, 1))
        assert not torch.equal(first, second)

    def test_the_global_random_stream_does_not_notice(self):
        torch.manual_seed(5)
        state = torch.get_rng_state()
        make_network("convnet", (3, 8, 8), 10, 8, 2, 1)
        assert torch.equal(torch.get_rng_state(), state)

    def test_the_weights_do_not_depend_on_the_global_random_stream(self):
        found = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            found.append(weights(make_network("convnet", (3, 8, 8), 10, 8, 2, 1)))
        assert torch.equal(*found)

    def test_distributions_are_pytorch_s_defaults(self):
        network = make_network("convnet", (3, 32, 32), 10, 64, 3, 0)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.requires_grad_(False)
                bound = 1 / math.sqrt(module.weight[0].numel())
                for values in (module.weight, module.bias):
                    assert values.abs().max() <= bound
                # A uniform distribution: deviation bound/sqrt(3), and the ends are reached.
                assert float(module.weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
                assert float(module.weight.mean()) == pytest.approx(0, abs=0.05 * bound)
                assert float(module.weight.max()) > 0.97 * bound
                assert float(module.bias.abs().max()) > 0
            elif isinstance(module, nn.GroupNorm):
                assert (module.weight == 1).all()
                assert (module.bias == 0).all()

    def test_redraws_whatever_was_there_and_running_statistics_too(self):
        network = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 3))
        fresh = weights(initialize(network, 4)).clone()
        network(torch.rand(5, 1, 8, 8) + 3)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(7)
        assert initialize(network, 4) is network
        assert torch.equal(weights(network), fresh)
        assert (network[1].running_mean == 0).all()
        assert (network[1].running_var == 1).all()

    def test_weights_for_a_gpu_are_drawn_into_pinned_memory(self, monkeypatch):
        """Copied from any other memory they make the host wait, however ``non_blocking`` the copy is."""
        asked = []
        empty = torch.empty
        monkeypatch.setattr(torch, "empty", lambda shape, pin_memory: asked.append(pin_memory) or empty(shape))
        for name in ("cuda", "cpu"):
            initialization._on_host(torch.Size([2]), torch.device(name))
        assert asked == [True, False]


def test_unknown_network_is_refused_with_the_list():
    message = refused(make_network, "resnet", (3, 8, 8), 10, 8, 2, 0)
    assert message == f"unknown network 'resnet': choose one of {', '.join(NETWORKS)}, package.module:factory"
