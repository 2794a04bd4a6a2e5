"""Embedding images: whatever network there is, in chunks, leaving it as it was; and arrays of other libraries."""

import weakref

import numpy as np
import pytest
import torch
from conftest import refused
from torch import nn

from dream_accel.arrays import converter_like, to_tensor
from dream_accel.data import to_float
from dream_accel.networks import ConvNet, features
from dream_accel.networks.features import embed_rows, embedder_of

IMAGES = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class WithHead(nn.Module):
    """A network without ``embed``, whose features are what its last linear layer reads."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(192, 7)
        self.norm = nn.BatchNorm1d(7)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(7, 4)
        self.calls = []

    def forward(self, images):
        self.calls.append(len(images))
        return self.head(self.dropout(self.norm(self.first(images.flatten(1))).relu()))


class LikeIDC(nn.Module):
    """Feature maps by ``get_feature(x, idx_from, idx_to)``, as IDC's networks give them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)])

    def maps(self, images):
        first = self.layers[0](images)
        return [first, self.layers[1](first)]

    def get_feature(self, x, idx_from, idx_to=-1):
        idx_to = idx_from if idx_to == -1 else idx_to
        return self.maps(x)[idx_from : idx_to + 1]


def seeded(network_class, *args, **kwargs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return network_class(*args, **kwargs)


@pytest.fixture
def network():
    return seeded(WithHead).eval()


def head_input(network, images):
    return network.norm(network.first(images.flatten(1))).relu()


class TestEmbedderOf:
    def test_embed_method_is_used_where_there_is_one(self):
        convnet = seeded(ConvNet, (3, 8, 8), 4, width=6, depth=1)
        features = embedder_of(convnet)(IMAGES)
        assert torch.equal(features, convnet.features(IMAGES).flatten(1))

    def test_input_of_the_last_linear_layer_stands_in(self, network):
        assert torch.equal(embedder_of(network)(IMAGES), head_input(network, IMAGES))

    def test_no_hook_is_left_behind(self, network):
        embedder_of(network)(IMAGES)
        assert not network.head._forward_pre_hooks

    def test_hook_is_removed_when_the_network_fails(self, network):
        with pytest.raises(RuntimeError):
            embedder_of(network)(IMAGES[:, :1])
        assert not network.head._forward_pre_hooks

    @pytest.mark.parametrize("with_embed", [True, False])
    def test_data_parallel_is_looked_behind(self, network, with_embed):
        inner = seeded(ConvNet, (3, 8, 8), 4, width=6, depth=1) if with_embed else network
        features = embedder_of(nn.DataParallel(inner))(IMAGES)
        assert torch.equal(features, embedder_of(inner)(IMAGES))

    def test_embed_method_behind_data_parallel_goes_before_the_last_linear_layer(self, network):
        network.embed = lambda images: images.mean(dim=(2, 3))
        assert embedder_of(nn.DataParallel(network))(IMAGES).shape == (20, 3)

    def test_callable_is_called_as_it_is(self):
        def embed(images):
            return images.mean(dim=(2, 3))

        assert embedder_of(embed) is embed

    def test_network_without_features_is_refused(self):
        message = refused(embedder_of, nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()))
        assert "Sequential has no recognisable features" in message
        assert (
            "tried embed(images), get_feature(images, idx_from, idx_to) and the input of the last nn.Linear" in message
        )
        assert "pass a callable from images (n, ...) to features (n, ...)" in message

    def test_network_whose_linear_layers_never_run_is_refused(self):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
        network[0].unused = nn.Linear(3, 3)
        assert "has no recognisable features" in refused(embedder_of(network), IMAGES)

    def test_last_feature_map_of_get_feature_is_used(self):
        network = LikeIDC()
        assert torch.equal(embedder_of(network)(IMAGES), network.maps(IMAGES)[-1])

    def test_layer_that_runs_last_counts_not_the_one_defined_last(self, network):
        network.auxiliary = nn.Linear(3, 3)
        assert torch.equal(embedder_of(network)(IMAGES), head_input(network, IMAGES))

    def test_submodule_called_module_is_no_wrapper(self, network):
        outer = nn.Module()
        outer.module, outer.head = network, nn.Linear(4, 2)
        outer.forward = lambda images: outer.head(outer.module(images))
        assert torch.equal(embedder_of(outer)(IMAGES), network(IMAGES))

    @pytest.mark.parametrize("with_embed", [True, False])
    def test_compiled_network_is_looked_behind(self, network, with_embed):
        inner = seeded(ConvNet, (3, 8, 8), 4, width=6, depth=1) if with_embed else network
        features = embedder_of(torch.compile(inner, backend="eager"))(IMAGES)
        assert torch.equal(features, embedder_of(inner)(IMAGES))

    def test_neither_network_nor_callable_is_refused(self):
        assert "not from a str" in refused(embedder_of, "resnet")


class TestEmbedRows:
    @pytest.mark.parametrize("images", [IMAGES, (255 * IMAGES.sigmoid()).to(torch.uint8)], ids=["float", "uint8"])
    def test_one_chunk_of_images_is_alive_at_a_time(self, images, monkeypatch):
        alive: list[weakref.ref] = []

        def watched(make):
            def wrapper(chunk):
                assert not any(ref() is not None and ref() is not chunk for ref in alive)
                made = make(chunk)
                alive.append(weakref.ref(made))
                return made

            return wrapper

        # A chunk is floated, then normalised: the next must not be begun before the last is gone.
        monkeypatch.setattr(features, "to_float", watched(lambda chunk: chunk * 1.0))
        embed_rows(
            images,
            torch.arange(len(images)),
            lambda chunk: chunk.flatten(1) * 1,
            watched(lambda chunk: chunk * 2),
            chunk_size=3,
        )
        assert len(alive) > 6

    @pytest.mark.parametrize("chunk_size", [1, 7, 20, 1000])
    def test_chunks_change_nothing_but_memory(self, network, chunk_size):
        rows = torch.randperm(20, generator=torch.Generator().manual_seed(1))[:15]
        features = embed_rows(IMAGES, rows, network, chunk_size=chunk_size)
        torch.testing.assert_close(features, head_input(network, IMAGES[rows]))
        assert max(network.calls) <= chunk_size
        assert sum(network.calls) == 15

    def test_bytes_become_floats_between_0_and_1(self):
        pixels = (IMAGES * 255).to(torch.uint8)
        features = embed_rows(pixels, torch.arange(20), lambda images: images)
        assert features.dtype == torch.float32
        assert torch.equal(features, (pixels.float() / 255).flatten(1))
        assert torch.equal(to_float(pixels[:2]), pixels[:2].float() / 255)
        assert to_float(IMAGES) is IMAGES

    def test_images_are_normalised_before_they_are_embedded(self, network):
        features = embed_rows(IMAGES, torch.arange(20), network, normalize=lambda images: (images - 0.5) / 0.2)
        torch.testing.assert_close(features, head_input(network, (IMAGES - 0.5) / 0.2))

    def test_features_are_flattened_and_carry_no_graph(self):
        conv = seeded(nn.Conv2d, 3, 2, 3)
        features = embed_rows(IMAGES, torch.arange(4), lambda images: conv(images))
        assert features.shape == (4, 2 * 6 * 6)
        assert not features.requires_grad

    def test_half_precision_features_stay_half(self):
        assert embed_rows(IMAGES, torch.arange(4), lambda images: images.half()).dtype == torch.float16

    def test_network_embeds_in_evaluation_mode_and_keeps_its_own(self, network):
        network.train()
        mean = network.norm.running_mean.clone()
        features = embed_rows(IMAGES, torch.arange(20), network)
        assert network.training
        assert network.norm.training
        assert torch.equal(network.norm.running_mean, mean)
        torch.testing.assert_close(features, head_input(network.eval(), IMAGES))

    def test_training_mode_comes_back_when_the_network_fails(self, network):
        network.train()
        with pytest.raises(RuntimeError):
            embed_rows(IMAGES[:, :1], torch.arange(20), network)
        assert network.training

    def test_layers_frozen_in_evaluation_mode_stay_frozen(self, network):
        network.train()
        network.norm.eval()
        embed_rows(IMAGES, torch.arange(20), network)
        assert network.dropout.training
        assert not network.norm.training

    @pytest.mark.parametrize("embed", [lambda images: [images], lambda images: images.mean()])
    def test_features_that_are_not_one_row_per_image_are_refused(self, embed):
        assert "features of 20 images came as" in refused(embed_rows, IMAGES, torch.arange(20), embed)

    def test_nothing_to_embed_is_refused(self, network):
        assert "no images" in refused(embed_rows, IMAGES, torch.arange(0), network)


class DLPackOnly:
    def __init__(self, tensor):
        self._tensor = tensor

    def __dlpack__(self, **kwargs):
        return self._tensor.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self._tensor.__dlpack_device__()


class TestArrays:
    def test_tensors_pass_through(self):
        assert to_tensor(IMAGES) is IMAGES

    def test_numpy_arrays_share_their_memory(self):
        array = np.zeros((3, 2), np.float32)
        to_tensor(array)[1, 1] = 5
        assert array[1, 1] == 5

    def test_numpy_views_that_torch_cannot_hold_are_copied(self):
        array = np.arange(6.0).reshape(3, 2)[::-1]
        assert to_tensor(array).tolist() == array.tolist()

    def test_anything_that_speaks_dlpack_is_viewed(self):
        tensor = torch.arange(4)
        assert to_tensor(DLPackOnly(tensor)).data_ptr() == tensor.data_ptr()

    def test_anything_else_is_refused(self):
        message = refused(to_tensor, [1, 2], "features")
        assert "features is a list" in message
        assert "torch, NumPy or CuPy" in message

    def test_results_return_in_the_kind_that_was_given(self):
        assert isinstance(converter_like(np.zeros(1))(torch.zeros(1)), np.ndarray)
        assert converter_like(torch.zeros(1))(IMAGES) is IMAGES
