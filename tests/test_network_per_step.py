"""Code that draws a network for every step: pools, how such code is recognised, and what the engine keeps."""

import pickle
import re

import pytest
import torch
from support.draws import normal
from support.refusals import refused
from torch import nn

import dream_accel as da
from dream_accel.bench import network_per_step
from dream_accel.compat import GetImages, RepresentativeLoader
from dream_accel.networks import make_network
from dream_accel.random import derive_seed
from dream_accel.sampling.pool import NetworkPerStep, Pools

SIZES = (60, 9, 45)
LABELS = torch.arange(3).repeat_interleave(torch.tensor(SIZES))[
    torch.randperm(114, generator=torch.Generator().manual_seed(1))
]
IMAGES = normal(114, 1, 4, 4) + LABELS.view(-1, 1, 1, 1)


def network(seed=0):
    return make_network("convnet", (1, 4, 4), 3, 5, 1, seed)


class Watching(da.RepresentativeSampler):
    """Remembers the rows of every refresh."""

    def __init__(self, **options):
        self.read = []
        super().__init__(IMAGES, LABELS, **{"n_clusters": 4, "interval": 1, "embed": self.watch, **options})

    def watch(self, source, images, rows):
        self.read.append(rows)
        with torch.no_grad():
            return source.embed(images[rows]).flatten(1)


class TestPools:
    def test_pool_is_distinct_rows_of_every_class_and_all_of_a_small_one(self):
        sampler = Watching(pool=20)
        sampler.update(network())
        (rows,) = sampler.read
        assert rows.unique().numel() == len(rows) == 20 + 9 + 20
        assert LABELS[rows].tolist() == [0] * 20 + [1] * 9 + [2] * 20

    def test_picks_are_those_of_a_sampler_that_has_the_pool_alone(self):
        sampler, net = Watching(pool=20), network()
        sampler.update(net)
        rows = sampler.read[0]
        alone = da.RepresentativeSampler(IMAGES[rows], LABELS[rows], 4, interval=1)
        alone.update(net)
        assert torch.equal(sampler.indices, rows[alone.indices])

    def test_every_refresh_draws_another_pool_and_the_same_seed_the_same_ones(self):
        runs = {}
        for seed in (0, 0, 1):
            sampler = Watching(pool=20, seed=seed)
            sampler.restart("part")
            for _ in range(3):
                sampler.update(network())
            runs.setdefault(seed, []).append([rows.tolist() for rows in sampler.read])
        assert runs[0][0] == runs[0][1]
        assert runs[0][0] != runs[1][0]
        assert runs[0][0][0] != runs[0][0][1] != runs[0][0][2]

    def test_every_image_is_drawn_in_time(self):
        pools = Pools(SIZES, 20, torch.device("cpu"))
        offsets = torch.tensor([0, 60, 69, 114])
        drawn = torch.cat([pools.draw(offsets, derive_seed(0, step)) for step in range(60)])
        counts = torch.bincount(drawn, minlength=114)
        assert counts.min() >= 5
        assert (counts[60:69] == 60).all()

    def test_a_pool_as_large_as_the_classes_reads_every_image(self):
        sampler = Watching(pool=1000)
        sampler.update(network())
        assert sampler.read[0].sort().values.tolist() == list(range(114))

    def test_pool_smaller_than_a_batch_is_refused(self):
        assert refused(Watching, pool=3) == "pool is 3: a batch has 4 images, give at least as many"
        assert "pool is 0: it must be a whole number, at least 1" in refused(Watching, pool=0)

    @pytest.mark.parametrize("strategy", ["central", "boundary"])
    def test_other_strategies_that_read_features_pick_from_the_pool(self, strategy):
        sampler = Watching(pool=20, strategy=strategy)
        sampler.update(network())
        assert set(sampler.indices.flatten().tolist()) <= set(sampler.read[0].tolist())

    def test_drop_ins_take_the_argument(self):
        for drop_in in (GetImages(IMAGES, LABELS, 4, pool=20), RepresentativeLoader(Loader(), pool=20)):
            sampler = getattr(drop_in, "sampler", drop_in)
            sampler._embed = seen = Seen()
            drop_in.update(network())
            assert [len(rows) for rows in seen.rows] == [49]


class Loader:
    data, targets, batch_size = IMAGES, LABELS, 4


class Seen:
    def __init__(self):
        self.rows = []

    def __call__(self, source, images, rows):
        self.rows.append(rows)
        return images[rows].flatten(1)


class TestRecognition:
    def read(self, networks, **options):
        sampler = Watching(**{"n_clusters": 2, **options})
        for net in networks:
            sampler.update(net)
        return [len(rows) for rows in sampler.read]

    every, pooled = 114, 8 + 8 + 8

    def test_a_network_of_its_own_for_every_step_is_served_from_pools_after_the_first(self):
        assert self.read([network(i) for i in range(4)]) == [self.every] + [self.pooled] * 3

    def test_one_network_whose_weights_change_reads_every_image(self):
        net, sizes = network(), []
        sampler = Watching(n_clusters=2)
        for step in range(4):
            sampler.update(net)
            sizes.append(len(sampler.read[-1]))
            with torch.no_grad():
                for p in net.parameters():
                    p.copy_(torch.full_like(p, step))
        assert sizes == [self.every] * 4

    def test_networks_of_several_steps_read_every_image(self):
        nets = [network(i) for i in range(3)]
        assert self.read([net for net in nets for _ in range(2)]) == [self.every] * 6

    def test_interval_counts_steps_whatever_networks_come_between(self):
        assert self.read([network(i) for i in range(7)], interval=3) == [self.every, self.pooled, self.pooled]

    def test_wrappers_and_bound_methods_are_the_network(self):
        net, watch = network(), NetworkPerStep()
        sources = [net, nn.DataParallel(net), torch.compile(net, backend="eager"), net.embed, net.embed, net]
        assert not any(watch.count(source) for source in sources)
        assert [watch.count(network(i).embed) for i in range(3)] == [False, True, True]

    def test_other_callables_and_no_network_tell_nothing(self):
        watch = NetworkPerStep()
        assert not any(watch.count(source) for source in (lambda x: x, lambda x: x, None, None, network()))

    def test_a_network_that_is_gone_is_not_taken_for_its_successor(self):
        watch, found = NetworkPerStep(), []
        for seed in range(4):
            net = network(seed)
            found.append(watch.count(net))
            del net
        assert found == [False, True, True, True]

    def test_restart_begins_anew(self):
        sampler = Watching(n_clusters=2)
        for part in range(2):
            sampler.restart(part)
            for seed in range(2):
                sampler.update(network(seed))
        assert [len(rows) for rows in sampler.read] == [self.every, self.pooled] * 2

    def test_refresh_is_no_step(self):
        sampler = Watching(n_clusters=2)
        for seed in range(3):
            sampler.refresh(network(seed))
        assert [len(rows) for rows in sampler.read] == [self.every] * 3


def test_a_pickled_sampler_goes_on_as_the_original():
    sampler = GetImages(IMAGES, LABELS, 4, interval=2, pool=20)
    sampler.update(network())
    copy = pickle.loads(pickle.dumps(sampler))
    for draw in (sampler, copy):
        draw.update(network(1))
        draw.update(network(2))
    assert torch.equal(sampler.indices, copy.indices)
    assert torch.equal(sampler(0, 5), copy(0, 5))


def test_the_benchmark_prints_both_tables(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["network_per_step", "--quick"])
    with torch.random.fork_rng(devices=[]):
        network_per_step.main()
    printed = capsys.readouterr().out
    for line in (r"original +[\d.]+ +1\.00", r"default +[\d.]+ +[\d.]+", r"all images +[\d.]+ +1\.000 +1\.00"):
        assert re.search(line, printed), printed
