"""``class_sample``, ``dist`` and ``matchloss`` of the IDC family against what that family computes."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from support.refusals import refused
from torch import nn

import dream_accel as da
from dream_accel.compat import RepresentativeLoader, dist, matchloss
from dream_accel.networks import make_network

SIZES = (30, 21, 26)
LABELS = torch.arange(3).repeat_interleave(torch.tensor(SIZES))
IMAGES = (torch.rand(77, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)


class ClassLoader:
    """Has what IDC's in-memory loader has: uint8 images, per-class and mixed batches, and settings of its own."""

    def __init__(self, batch_size=6):
        self.data, self.targets = list(IMAGES), LABELS
        self.batch_size, self.nclass, self.convert = batch_size, 3, None
        self.cls_idx = [(c == LABELS).nonzero().flatten().tolist() for c in range(3)]

    def class_sample(self, c, ipc=-1):
        rows = self.cls_idx[c][:ipc] if ipc > 0 else self.cls_idx[c][-self.batch_size :]
        return torch.stack([self.data[i] for i in rows]).float() / 255, LABELS[rows]

    def sample(self):
        return IMAGES[:5].float() / 255, LABELS[:5]

    def __len__(self):
        return 13

    def __iter__(self):
        yield self.sample()


def network(seed=0):
    return make_network("convnet", (1, 8, 8), 3, 6, 2, seed)


def normalize(images):
    return (images - 0.5) / 0.25


class TestRepresentativeLoader:
    def test_class_sample_gives_the_representatives_of_normalised_images(self):
        loader, net = RepresentativeLoader(ClassLoader(), normalize=normalize, seed=3), network()
        loader.update(net)
        expected = da.RepresentativeSampler(normalize(IMAGES.float() / 255), LABELS, 6, seed=3)
        expected.update(net)
        for c in range(3):
            images, labels = loader.class_sample(c)
            assert torch.equal(images, IMAGES[expected.indices[c]].float() / 255)
            assert labels.tolist() == [c] * 6
            assert (images.dtype, labels.dtype, labels.device) == (torch.float32, torch.int64, images.device)
            assert loader.sampler.indices[c].unique().numel() == 6

    def test_everything_else_is_the_loaders_own(self):
        inner = ClassLoader()
        loader = RepresentativeLoader(inner)
        assert loader.nclass == 3
        assert loader.cls_idx is inner.cls_idx
        assert len(loader) == 13
        for ours, theirs in zip(loader, inner, strict=True):
            assert torch.equal(ours[0], theirs[0])
        assert torch.equal(loader.sample()[1], inner.sample()[1])
        assert torch.equal(loader.class_sample(1, 4)[0], inner.class_sample(1, 4)[0])
        loader.convert = "set"
        assert inner.convert == "set"
        with pytest.raises(AttributeError, match="no_such_thing"):
            loader.no_such_thing  # noqa: B018

    def test_initial_images_are_chosen_by_k_means_where_a_network_is_given(self):
        net = network()
        loader = RepresentativeLoader(ClassLoader(), normalize=normalize, init=net)
        expected = da.select(net.embed(normalize(IMAGES.float() / 255)).detach(), LABELS, 4)
        images, labels = loader.class_sample(2, 4)
        assert torch.equal(images, IMAGES[expected[2]].float() / 255)
        assert labels.tolist() == [2] * 4

    def test_images_come_from_the_dataset_where_the_loader_keeps_none(self):
        inner = ClassLoader()
        dataset = torch.utils.data.TensorDataset(IMAGES.float() / 255, LABELS)
        wrapped = SimpleNamespace(dataset=dataset, batch_size=6, class_sample=inner.class_sample)
        ours, theirs = RepresentativeLoader(wrapped), RepresentativeLoader(inner)
        for loader in (ours, theirs):
            loader.update(network())
        assert torch.equal(ours.class_sample(0)[0], theirs.class_sample(0)[0])

    def test_a_class_smaller_than_the_batch_gives_each_image_once(self):
        with pytest.warns(da.DreamAccelWarning, match="2 of 3 classes"):
            loader = RepresentativeLoader(ClassLoader(batch_size=27))
        loader.update(network())
        images, labels = loader.class_sample(1)
        assert len(images) == len(labels) == 21
        assert len(images.unique(dim=0)) == 21

    def test_the_size_that_means_matching_gives_representatives(self):
        loader = RepresentativeLoader(ClassLoader(), match_size=5)
        assert "call update(net)" in refused(loader.class_sample, 0, 5)
        loader.update(network())
        assert loader.sampler.n_clusters == 5
        for ipc in (5, -1):
            assert torch.equal(loader.class_sample(2, ipc)[0], loader.sampler.sample(2))
        assert torch.equal(loader.class_sample(2, 4)[0], ClassLoader().class_sample(2, 4)[0])
        assert RepresentativeLoader(ClassLoader(), 3, match_size=5).sampler.n_clusters == 3
        assert "match_size is 0" in refused(RepresentativeLoader, ClassLoader(), match_size=0)

    def test_a_loader_that_reads_ahead_is_read_through(self):
        """NCFM's AsyncLoader keeps the loader in loader_real, and answers class_sample(c) alone."""
        reading_ahead = SimpleNamespace(loader_real=ClassLoader(), batch_size=7, stop=lambda: "stopped")
        ours, theirs = RepresentativeLoader(reading_ahead), RepresentativeLoader(ClassLoader(), 7)
        for loader in (ours, theirs):
            loader.update(network())
        assert torch.equal(ours.class_sample(0)[0], theirs.class_sample(0)[0])
        assert ours.stop() == "stopped"

    def test_representatives_before_the_network_are_refused(self):
        assert "call update(net)" in refused(RepresentativeLoader(ClassLoader()).class_sample, 0)

    def test_loader_without_images_is_refused(self):
        message = refused(RepresentativeLoader, SimpleNamespace(batch_size=4))
        assert "neither data and targets nor a dataset: pass images= and labels=" in message

    def test_loader_without_batch_size_is_refused(self):
        message = refused(RepresentativeLoader, SimpleNamespace(data=IMAGES, targets=LABELS))
        assert "no batch_size: pass n_clusters" in message


def published_dist(x, y, method):
    if method == "mse":
        return ((x - y) ** 2).sum()
    if method == "l1":
        return (x - y).abs().sum()
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    if method == "l1_mean":
        return (x - y).abs().mean(dim=1).sum()
    return (1 - (x * y).sum(dim=1) / (x.norm(dim=1) * y.norm(dim=1) + 1e-6)).sum()


METHODS = ["mse", "l1", "l1_mean", "cos"]


class TestDist:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("shape", [(5, 3, 3, 3), (4, 7), (6,)], ids=str)
    @pytest.mark.parametrize("needs", ["x", "y", "both", "none"])
    def test_value_and_derivatives_are_the_published_ones(self, method, shape, needs):
        draws = torch.Generator().manual_seed(0)
        x, y = torch.randn(shape, generator=draws), torch.randn(shape, generator=draws)
        pairs = []
        for _ in range(2):
            pair = [x.clone(), y.clone()]
            for tensor, name in zip(pair, "xy", strict=True):
                tensor.requires_grad_(needs in (name, "both"))
            pairs.append(pair)
        found, wanted = dist(*pairs[0], method), published_dist(*pairs[1], method)
        assert (found.shape, found.dtype) == ((), torch.float32)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
        if needs != "none":
            found.backward()
            wanted.backward()
            for ours, theirs in zip(*pairs, strict=True):
                assert (ours.grad is None) == (theirs.grad is None)
                if theirs.grad is not None:
                    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)

    def test_an_unknown_method_is_refused(self):
        assert "unknown method 'l2': choose one of mse, l1, l1_mean, cos" in refused(dist, IMAGES, IMAGES, "l2")


class WithFeatures(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 3)])
        self.classifier = nn.Linear(5 * 16, 3)

    def get_feature(self, x, idx_from, idx_to=-1):
        idx_to = idx_from if idx_to == -1 else idx_to
        maps = []
        for layer in self.layers:
            x = layer(x).relu()
            maps.append(x)
        return maps[idx_from : idx_to + 1]

    def forward(self, x):
        return self.classifier(self.get_feature(x, 1)[0].flatten(1))


def published_matchloss(args, real, syn, lab_real, lab_syn, model):
    total = torch.zeros(())
    if args.match in ("grad", "bi_match"):
        g_real = torch.autograd.grad(F.cross_entropy(model(real), lab_real), model.parameters())
        g_syn = torch.autograd.grad(F.cross_entropy(model(syn), lab_syn), model.parameters(), create_graph=True)
        for r, s in zip(g_real, g_syn, strict=True):
            if (r.dim() == 1 and not args.bias) or (r.dim() == 2 and not args.fc):
                continue
            total = total + published_dist(r, s, args.metric)
    if args.match in ("feat", "bi_match"):
        f_real = model.get_feature(real, args.idx_from, args.idx_to)
        f_syn = model.get_feature(syn, args.idx_from, args.idx_to)
        for r, s in zip(f_real, f_syn, strict=True):
            total = total + published_dist(r.detach().mean(0), s.mean(0), args.metric)
    return total


class TestMatchloss:
    @pytest.mark.parametrize("metric", METHODS)
    @pytest.mark.parametrize(
        ("match", "extra"),
        [
            ("grad", {}),
            ("grad", {"bias": True}),
            ("grad", {"fc": True, "bias": True}),
            ("feat", {}),
            ("feat", {"idx_from": 0, "idx_to": 1}),
            ("bi_match", {}),
        ],
        ids=str,
    )
    def test_loss_and_pixel_gradient_are_the_published_ones(self, metric, match, extra):
        args = SimpleNamespace(
            **{"match": match, "metric": metric, "bias": False, "fc": False, "idx_from": 1, "idx_to": -1, **extra}
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, real, syn = WithFeatures(), torch.rand(9, 1, 8, 8), torch.rand(4, 1, 8, 8)
        labels = torch.ones(9, dtype=torch.int64), torch.ones(4, dtype=torch.int64)
        ours, theirs = syn.clone().requires_grad_(), syn.clone().requires_grad_()
        loss = matchloss(args, real, ours, *labels, model)
        expected = published_matchloss(args, real, theirs, *labels, model)
        assert (loss.shape, loss.dtype) == ((), torch.float32)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
        found, wanted = torch.autograd.grad(loss, ours)[0], torch.autograd.grad(expected, theirs)[0]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
        assert all(p.grad is None for p in model.parameters())

    def test_model_without_get_feature_is_compared_by_its_embedding(self):
        args, net = SimpleNamespace(match="feat", metric="mse"), network()
        real, syn = torch.rand(9, 1, 8, 8), torch.rand(4, 1, 8, 8, requires_grad=True)
        labels = torch.zeros(9, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
        loss = matchloss(args, real, syn, *labels, nn.DataParallel(net))
        expected = (net.embed(real).mean(0) - net.embed(syn).mean(0)).square().sum()
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)

    def test_parameters_that_are_unused_or_frozen_are_not_compared(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, real, syn = WithFeatures(), torch.rand(9, 1, 8, 8), torch.rand(4, 1, 8, 8, requires_grad=True)
            unused = nn.Conv2d(1, 2, 3)
        args = SimpleNamespace(match="grad", metric="l1")
        labels = torch.ones(9, dtype=torch.int64), torch.ones(4, dtype=torch.int64)
        expected = matchloss(args, real, syn, *labels, model)
        model.unused = unused
        assert torch.equal(matchloss(args, real, syn, *labels, model), expected)
        model.layers[0].weight.requires_grad_(False)
        matchloss(args, real, syn, *labels, model).backward()
        assert syn.grad.abs().sum() > 0
        model.requires_grad_(False)
        assert "no parameter to compare" in refused(matchloss, args, real, syn, *labels, model)

    def test_unknown_settings_and_nothing_to_compare_are_refused(self):
        images, labels = torch.rand(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64)

        def call(model, **args):
            return refused(matchloss, SimpleNamespace(**args), images, images, labels, labels, model)

        assert "match 'mean': choose one of grad, feat, bi_match" in call(network(), match="mean", metric="mse")
        assert "metric 'l2': choose one of" in call(network(), match="grad", metric="l2")
        linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        assert "set args.bias or args.fc" in call(linear, match="grad", metric="mse")
