"""``get_images`` and ``match_loss`` of the DC family against what that family computes; ``class_indices``."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.refusals import refused
from torch import nn

import dream_accel as da
from dream_accel import DreamAccelError
from dream_accel.compat import GetImages, class_indices, match_loss
from dream_accel.networks import make_network

SIZES = (40, 25, 33)
LABELS = torch.arange(3).repeat_interleave(torch.tensor(SIZES))[
    torch.randperm(98, generator=torch.Generator().manual_seed(1))
]
IMAGES = torch.randn(98, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + LABELS.view(-1, 1, 1, 1)


def network(seed=0):
    return make_network("convnet", (1, 8, 8), 3, 6, 2, seed)


def get_images(n=8, **options):
    return GetImages(IMAGES, LABELS, n, **options)


def classes_of(images):
    """Index of each image in the data set; fails for images that are not in it."""
    rows = [(image == IMAGES).flatten(1).all(dim=1).nonzero().flatten().tolist() for image in images]
    assert all(len(found) == 1 for found in rows)
    return [found[0] for found in rows]


class TestGetImages:
    def test_matching_size_gives_distinct_representatives_and_other_sizes_random_images(self):
        draw = get_images()
        draw.update(network())
        for c in range(3):
            matching = classes_of(draw(c, 8))
            assert matching == draw.indices[c].tolist()
            assert len(set(matching)) == 8
            assert torch.equal(draw(c, 8), draw(c, 8))
            for n in (1, 5, 16, SIZES[c]):
                rows = classes_of(draw(c, n))
                assert len(set(rows)) == n
                assert (LABELS[rows] == c).all()
            assert not torch.equal(draw(c, 5), draw(c, 5))

    def test_returns_what_the_original_returns(self):
        draw = get_images()
        draw.update(network())
        for n in (8, 5):
            images = draw(1, n)
            assert (images.shape, images.dtype, images.device) == ((n, 1, 8, 8), torch.float32, IMAGES.device)
            assert not images.requires_grad

    def test_initialisation_and_statistics_are_had_before_the_network(self):
        draw = get_images()
        assert draw(0, 2).shape == (2, 1, 8, 8)
        assert "call update(net)" in refused(draw, 0, 8)
        assert draw(0, 8, representative=False).shape == (8, 1, 8, 8)

    def test_none_gives_a_mixed_batch_with_its_labels(self):
        draw = get_images()
        images, labels = draw(None, 50)
        rows = classes_of(images)
        assert len(set(rows)) == 50
        assert torch.equal(labels, LABELS[rows])
        assert (labels.dtype, labels.device, images.dtype) == (torch.int64, IMAGES.device, torch.float32)
        assert labels.unique().numel() == 3
        assert not torch.equal(images, draw(None, 50)[0])

    def test_representatives_are_given_at_another_size_where_asked(self):
        draw = get_images()
        draw.update(network())
        rows = classes_of(draw(0, 3, representative=True))
        assert len(set(rows)) == 3
        assert set(rows) <= set(draw.indices[0].tolist())
        assert classes_of(draw(0, 8, representative=False)) != draw.indices[0].tolist()

    def test_a_network_that_changes_between_calls_changes_the_picks(self):
        draw = get_images(interval=1)
        draw.update(network(0))
        before = draw(0, 8)
        draw.update(network(1))
        assert not torch.equal(before, draw(0, 8))

    def test_images_that_are_not_normalised_take_a_transform(self):
        def normalize(images):
            return (images - 0.3) / 0.2

        pixels = IMAGES * 0.2 + 0.3
        raw, normalised = GetImages(pixels, LABELS, 8, normalize=normalize), GetImages(normalize(pixels), LABELS, 8)
        for draw in (raw, normalised):
            draw.update(network())
        assert torch.equal(raw.indices, normalised.indices)
        assert torch.equal(raw(0, 8), pixels[raw.indices[0]])

    def test_data_parallel_networks_give_the_same_picks(self):
        picks = []
        for net in (network(), nn.DataParallel(network()), torch.compile(network(), backend="eager")):
            draw = get_images()
            draw.update(net)
            picks.append(draw.indices)
        assert torch.equal(picks[0], picks[1])
        assert torch.equal(picks[0], picks[2])

    def test_more_than_a_class_has_is_refused_or_clipped(self):
        draw = get_images()
        assert refused(draw, 1, 26) == "26 images requested from class 1, which has 25: request 1 to 25"
        assert refused(draw, None, 99) == "99 images requested from 98: request 1 to 98"
        clipped = get_images(clip=True)
        assert sorted(classes_of(clipped(1, 26))) == (LABELS == 1).nonzero().flatten().tolist()
        assert len(clipped(None, 99)[0]) == 98

    def test_class_that_does_not_exist_is_refused(self):
        assert "class 3 does not exist" in refused(get_images(), 3, 2)
        assert "class 3 does not exist" in refused(get_images(clip=True), 3, 2)

    def test_more_representatives_than_there_are_is_refused(self):
        draw = get_images()
        draw.update(network())
        assert "9 representatives requested from class 0, which has 8" in refused(draw, 0, 9, True)

    def test_images_that_do_not_match_labels_are_refused(self):
        message = refused(GetImages, IMAGES, LABELS[:-1], 8)
        assert "98 images and labels of shape (97,): give one label per image" in message

    def test_labels_on_another_device_are_refused(self):
        message = refused(GetImages, IMAGES, LABELS.to("meta"), 8)
        assert message == "labels are on meta and images on cpu: move one with labels.to(images.device)"

    def test_a_network_without_features_is_refused_with_what_was_tried(self):
        draw = get_images()
        message = refused(draw.update, nn.Sequential(nn.Conv2d(1, 2, 3)))
        assert "tried embed(images), get_feature(" in message
        assert "pass a callable" in message


class TestClassIndices:
    def test_the_draw_takes_the_selected_images(self):
        net = network()
        indices_class = class_indices(IMAGES, LABELS, 5, net)
        assert [len(rows) for rows in indices_class] == [5, 5, 5]
        expected = da.select(net.embed(IMAGES).detach(), LABELS, 5)
        assert indices_class == expected.tolist()
        # The closure of this code, unchanged.
        shuffled = np.random.default_rng(0).permutation(indices_class[1])[:5]
        assert set(shuffled.tolist()) == set(expected[1].tolist())
        assert (LABELS[IMAGES.new_tensor(shuffled).long()] == 1).all()

    def test_more_than_a_class_has_is_refused(self):
        assert "k is 26 and class 1 has 25 images" in refused(class_indices, IMAGES, LABELS, 26, network())


def gradients(seed):
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draws) for shape in ((6, 3, 3, 3), (6,), (6, 6, 3, 3), (4, 24), (4,))]


def published_match_loss(syn, real, metric):
    """DC's definition, tensor by tensor: rows of weights by cosine, one long vector otherwise."""
    if metric == "ours":
        total = torch.zeros(())
        for s, r in zip(syn, real, strict=True):
            if s.dim() == 1:
                continue
            s, r = s.reshape(s.shape[0], -1), r.reshape(r.shape[0], -1)
            total = total + (1 - (s * r).sum(-1) / (s.norm(dim=-1) * r.norm(dim=-1) + 1e-6)).sum()
        return total
    s, r = (torch.cat([t.reshape(-1) for t in side]) for side in (syn, real))
    if metric == "mse":
        return (s - r).square().sum()
    return 1 - (s * r).sum() / (s.norm() * r.norm() + 1e-6)


@pytest.mark.parametrize("metric", ["ours", "mse", "cos"])
def test_match_loss_is_the_published_one_in_value_and_gradient(metric):
    real = gradients(0)
    ours, plain = ([g.clone().requires_grad_() for g in gradients(1)] for _ in range(2))
    loss = match_loss(ours, real, SimpleNamespace(dis_metric=metric, device="cpu"))
    expected = published_match_loss(plain, real, metric)
    assert (loss.shape, loss.dtype, loss.device) == ((), torch.float32, real[0].device)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    found = torch.autograd.grad(loss, ours, allow_unused=True)
    wanted = torch.autograd.grad(expected, plain, allow_unused=True)
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_match_loss_refuses_an_unknown_metric():
    with pytest.raises(DreamAccelError, match="'l2': choose one of ours, mse, cos"):
        match_loss(gradients(0), gradients(1), SimpleNamespace(dis_metric="l2"))


def padded(tensors, empty):
    return [None if i in empty else t for i, t in enumerate(tensors)]


@pytest.mark.parametrize("metric", ["ours", "mse", "cos"])
class TestUnusedParameters:
    def test_none_on_both_sides_is_left_out(self, metric):
        args = SimpleNamespace(dis_metric=metric)
        real, syn = gradients(0), gradients(1)
        found = match_loss(padded(syn, {0, 1}), tuple(padded(real, {0, 1})), args)
        assert torch.equal(found, match_loss(syn[2:], real[2:], args))

    def test_none_on_one_side_is_a_gradient_of_zero(self, metric):
        args = SimpleNamespace(dis_metric=metric)
        real, syn = gradients(0), gradients(1)
        zeros = [g if i else torch.zeros_like(g) for i, g in enumerate(real)]
        assert torch.equal(match_loss(syn, padded(real, {0}), args), match_loss(syn, zeros, args))
        zeros = [g if i else torch.zeros_like(g) for i, g in enumerate(syn)]
        assert torch.equal(match_loss(padded(syn, {0}), real, args), match_loss(zeros, real, args))

    def test_gradients_of_a_network_with_an_unused_layer(self, metric):
        net = network()
        net.unused = nn.Linear(3, 3)
        parameters = list(net.parameters())
        images = IMAGES[:4].clone().requires_grad_()
        loss = net(images).square().sum()
        gw_syn = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        gw_real = torch.autograd.grad(net(IMAGES[4:9]).square().sum(), parameters, allow_unused=True)
        match_loss(gw_syn, gw_real, SimpleNamespace(dis_metric=metric)).backward()
        assert images.grad.abs().sum() > 0

    def test_all_none_and_lists_of_different_lengths_are_refused(self, metric):
        args = SimpleNamespace(dis_metric=metric)
        assert "all 2 gradients are None: no parameter is used" in refused(match_loss, [None] * 2, [None] * 2, args)
        refused(match_loss, gradients(0)[1:], gradients(1), args)
