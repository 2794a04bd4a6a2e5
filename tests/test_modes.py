"""Sampler and drop-ins in several threads, under no_grad, in inference mode and with another default dtype."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from support.refusals import refused
from torch import nn

import dream_accel as da
from dream_accel.compat import (
    GetImages,
    KMeans,
    NEW_Strategy,
    RepresentativeLoader,
    class_indices,
    dist,
    match_loss,
    matchloss,
)
from dream_accel.networks import make_network
from dream_accel.networks.features import embed_rows

LABELS = torch.arange(3).repeat(30)
IMAGES = torch.rand(90, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + LABELS.view(-1, 1, 1, 1) / 3
MODES = {"no_grad": torch.no_grad, "inference": torch.inference_mode, "grad": contextlib.nullcontext}


def network(seed=0):
    return make_network("convnet", (1, 8, 8), 3, 6, 2, seed)


class Headed(nn.Module):
    """Read by a hook, and another function in training mode."""

    def __init__(self, trunk=None):
        super().__init__()
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32)) if trunk is None else trunk
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(32, 3)

    def forward(self, images):
        return self.head(self.dropout(self.trunk(images)))


def headed(trunk=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Headed(trunk).train()


def at_once(calls):
    """The results of the calls, each in a thread of its own, begun together."""
    start = threading.Barrier(len(calls))

    def begin(call):
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(begin, call) for call in calls]]


class TestThreads:
    def features(self, net, seed):
        rows = torch.randperm(90, generator=torch.Generator().manual_seed(seed))
        return lambda: [embed_rows(IMAGES, rows, net, chunk_size=3) for _ in range(5)]

    def test_threads_that_share_a_network_read_the_features_each_would_alone(self):
        net = headed()
        calls = [self.features(net, seed) for seed in range(4)]
        alone, together = [call() for call in calls], at_once(calls)
        assert all(
            torch.equal(a, b)
            for one, other in zip(alone, together, strict=True)
            for a, b in zip(one, other, strict=True)
        )
        assert all(module.training for module in net.modules())
        assert net.trunk[2].num_batches_tracked == 0

    def test_threads_whose_networks_share_modules_do_too(self):
        nets = [headed()]
        nets += [headed(nets[0].trunk) for _ in range(3)]
        calls = [self.features(net, 0) for net in nets]
        alone, together = [call() for call in calls], at_once(calls)
        assert all(
            torch.equal(a, b)
            for one, other in zip(alone, together, strict=True)
            for a, b in zip(one, other, strict=True)
        )
        assert nets[0].trunk[2].num_batches_tracked == 0

    def test_a_pass_of_another_thread_is_not_taken_for_the_features(self):
        net, stop = headed().eval(), threading.Event()

        def use():
            while not stop.is_set():
                net(IMAGES[:2] + 5)

        other = threading.Thread(target=use)
        other.start()
        try:
            found = [embed_rows(IMAGES, torch.arange(90), net, chunk_size=3) for _ in range(5)]
        finally:
            stop.set()
            other.join()
        expected = embed_rows(IMAGES, torch.arange(90), net, chunk_size=3)
        assert all(torch.equal(x, expected) for x in found)

    def test_samplers_that_share_a_network_pick_as_alone(self):
        net = headed()

        def picks(seed):
            sampler = da.RepresentativeSampler(IMAGES, LABELS, 6, interval=1, seed=seed, chunk_size=4)
            found = []
            for _ in range(3):
                sampler.update(net)
                found.append(sampler.indices)
            return torch.stack(found)

        calls = [lambda seed=seed: picks(seed) for seed in range(4)]
        alone, together = [call() for call in calls], at_once(calls)
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))

    def test_one_sampler_counts_every_step_of_its_threads(self):
        sampler = da.RepresentativeSampler(IMAGES, LABELS, 6, interval=5, features=lambda images: images)
        renewed = at_once([lambda: [sampler.update() for _ in range(25)] for _ in range(4)])
        assert sum(map(sum, renewed)) == 20

    def test_a_thread_that_reads_ahead_gets_whole_batches_of_one_class(self):
        loader = RepresentativeLoader(Loader(), match_size=6, interval=1)
        loader.update(network())
        stop, seen = threading.Event(), []

        def read_ahead():
            while not stop.is_set():
                for c in range(3):
                    seen.append((c, *loader.class_sample(c, 6)))

        thread = threading.Thread(target=read_ahead)
        thread.start()
        for seed in range(8):
            loader.update(network(seed))
        stop.set()
        thread.join()
        own = [{tuple(image.flatten().tolist()) for image in IMAGES[c == LABELS]} for c in range(3)]
        for c, images, labels in seen:
            batch = {tuple(image.flatten().tolist()) for image in images}
            assert len(batch) == 6
            assert batch <= own[c]
            assert labels.tolist() == [c] * 6


class Loader:
    data, targets, batch_size, nclass = IMAGES, LABELS, 8, 3


def gradients(seed, grad=False):
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=draws).requires_grad_(grad) for s in ((4, 1, 3, 3), (4,), (3, 16))]


ARGS = SimpleNamespace(dis_metric="ours", match="bi_match", metric="l1", bias=False, fc=False)


@pytest.mark.parametrize("mode", MODES)
class TestModes:
    def test_picks_and_images_are_the_same_and_serve_training_afterwards(self, mode):
        net, plain = network(), GetImages(IMAGES, LABELS, 6)
        plain.update(net)
        with MODES[mode]():
            draw = GetImages(IMAGES.clone(), LABELS.clone(), 6, interval=1)
            draw.update(net)
            images = draw(0, 6)
            assert torch.equal(draw.indices, plain.indices)
        for batch in (images, draw(0, 6), draw.batch()[0][0], draw(None, 5)[0]):
            assert not batch.is_inference()
            F.cross_entropy(net(batch), torch.zeros(len(batch), dtype=torch.int64)).backward()
        draw.update(net)
        draw.check()

    def test_a_network_made_in_the_mode_embeds(self, mode):
        with MODES[mode]():
            net = network()
        draw, plain = GetImages(IMAGES, LABELS, 6), GetImages(IMAGES, LABELS, 6)
        draw.update(net)
        plain.update(network())
        assert torch.equal(draw.indices, plain.indices)

    def test_loader_and_selections_are_the_same(self, mode):
        net = network()

        def all_of_it():
            loader = RepresentativeLoader(Loader(), init=net, pool=20)
            loader.update(net)
            picks = NEW_Strategy(IMAGES[:30], net, seed=0).query(5)
            found = [*loader.class_sample(1), *loader.class_sample(1, 2), picks]
            found += [torch.tensor(class_indices(IMAGES, LABELS, 4, net)), da.select(IMAGES, LABELS, 4)]
            return [*found, KMeans(4, seed=0).fit_predict(IMAGES.flatten(1))]

        plain = all_of_it()
        with MODES[mode]():
            found = all_of_it()
        assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))
        assert not found[0].is_inference()

    def test_losses_have_the_same_values_and_a_graph_only_where_one_is_wanted(self, mode):
        net = network()
        labels = torch.ones(5, dtype=torch.int64)

        def losses():
            synthetic = IMAGES[:5].clone().requires_grad_()
            return [
                match_loss(gradients(0, grad=True), gradients(1), ARGS),
                matchloss(ARGS, IMAGES[5:10].clone(), synthetic, labels, labels.clone(), net),
                dist(*gradients(0)[:1], *gradients(1)[:1]),
            ]

        plain = losses()
        with MODES[mode]():
            found = losses()
        for a, b in zip(plain, found, strict=True):
            torch.testing.assert_close(a.detach(), b.detach().clone(), rtol=1e-6, atol=0)
        assert [loss.requires_grad for loss in found] == [mode == "grad", mode == "grad", False]
        assert all(p.grad is None for p in net.parameters())


def test_loss_of_a_model_made_in_inference_mode_is_refused():
    with torch.inference_mode():
        net = network()
    labels = torch.ones(5, dtype=torch.int64)
    assert "made in inference mode" in refused(matchloss, ARGS, IMAGES[:5], IMAGES[5:10], labels, labels, net)


@pytest.fixture
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# float64 is computed in plain PyTorch, which is announced.
@pytest.mark.filterwarnings("ignore::dream_accel.errors.DreamAccelWarning")
class TestFloat64Default:
    def test_picks_are_the_same_and_images_keep_their_dtype(self, doubles):
        images = (IMAGES * 100).to(torch.uint8)
        net = network().float()
        for pixels, dtype in ((images, torch.float32), (IMAGES, torch.float32), (IMAGES.double(), torch.float64)):
            draw = GetImages(pixels, LABELS, 6, pool=20)
            draw.update(net)
            torch.set_default_dtype(torch.float32)
            plain = GetImages(pixels, LABELS, 6, pool=20)
            plain.update(net)
            torch.set_default_dtype(torch.float64)
            assert torch.equal(draw.indices, plain.indices)
            assert draw(0, 6).dtype == draw(0, 3).dtype == dtype

    def test_a_network_of_the_default_dtype_embeds_images_of_any(self, doubles):
        net = network().double()
        found = []
        for pixels in (IMAGES, IMAGES.double()):
            draw = GetImages(pixels, LABELS, 6)
            draw.update(net)
            found.append(draw.indices)
        assert torch.equal(*found)
        assert embed_rows((IMAGES * 100).to(torch.uint8), torch.arange(4), net).dtype == torch.float64

    def test_losses_are_of_the_tensors_dtype(self, doubles):
        args = SimpleNamespace(dis_metric="cos")
        assert match_loss(gradients(0), gradients(1), args).dtype == torch.float64
        singles = [[g.float() for g in gradients(seed)] for seed in (0, 1)]
        assert match_loss(*singles, args).dtype == torch.float32
        assert dist(singles[0][0], singles[1][0]).dtype == torch.float32
        net, labels = network().double(), torch.ones(5, dtype=torch.int64)
        assert matchloss(ARGS, IMAGES[:5].double(), IMAGES[5:10].double(), labels, labels, net).dtype == torch.float64

    def test_selections_and_k_means_run(self, doubles):
        assert da.select(IMAGES, LABELS, 4).shape == (3, 4)
        assert NEW_Strategy(IMAGES[:30], network().double()).query(5).unique().numel() == 5
        for as_published in (False, True):
            for init in ("random", "kmeans++", "gaussian"):
                km = KMeans(4, init_method=init, as_published=as_published)
                assert km.fit_predict(IMAGES.flatten(1)).shape == (90,)
                assert km.centroids.dtype == torch.float32
