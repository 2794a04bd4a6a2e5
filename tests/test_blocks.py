"""Classes in blocks: the picks do not depend on them, and the memory of a refresh is bounded by one."""

import time
from itertools import pairwise

import pytest
import torch
from support.hunting import times

from dream_accel.random import hash_rows, uniform_rows
from dream_accel.runtime.memory import MemoryWatch
from dream_accel.sampling import RepresentativeSampler, blocks
from dream_accel.sampling.blocks import ClassBlocks
from dream_accel.synthetic import initial_images

CPU = torch.device("cpu")
SIZES = [30, 9, 50, 12, 24]


def data() -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(5).repeat_interleave(torch.tensor(SIZES))[torch.randperm(sum(SIZES), generator=draws)]
    return torch.randint(256, (len(labels), 1, 4, 4), dtype=torch.uint8, generator=draws), labels


def calls(monkeypatch, budget: int, widest: int = 8192) -> list[int]:
    """The number of rows of every block, of 16 features each, twice through all classes."""
    monkeypatch.setattr(blocks, "FEATURE_BYTES", budget)
    monkeypatch.setattr(blocks, "_WIDEST", widest)
    rows, offsets, seen = torch.arange(sum(SIZES)), torch.tensor([0, *torch.tensor(SIZES).cumsum(0)]), []

    def call(own, within):
        assert within.tolist()[0] == 0
        assert within.tolist()[-1] == len(own)
        seen.append(len(own))
        return torch.stack([own[a:b].sum() for a, b in pairwise(within)]), 16

    of = ClassBlocks(SIZES)
    expected = [rows[a:b].sum() for a, b in pairwise(offsets)]
    for _ in range(2):
        assert of.map(rows, offsets, call).tolist() == expected
    return seen


def test_all_classes_are_one_block_where_they_fit(monkeypatch):
    assert calls(monkeypatch, 1 << 30) == [125, 125]


def test_blocks_fill_the_budget_once_the_width_is_known(monkeypatch):
    """64 bytes a row; the first block is a class alone, since its width might be the widest."""
    assert calls(monkeypatch, 64 * 70) == [30, 59, 36, 39, 62, 24]


def test_a_class_beyond_the_budget_is_a_block_alone(monkeypatch):
    assert calls(monkeypatch, 64) == [*SIZES, *SIZES]


@pytest.mark.parametrize("strategy", ["dream", "central", "boundary"])
@pytest.mark.parametrize("pool", [None, 20])
def test_picks_do_not_depend_on_blocks(monkeypatch, strategy, pool):
    images, labels = data()

    def picks() -> list[torch.Tensor]:
        sampler = RepresentativeSampler(
            images, labels, 5, 2, 1, strategy, features=lambda x: x.flatten(1), max_iter=10, pool=pool
        )
        return [sampler.indices for _ in range(2) if sampler.update()]

    whole = picks()
    monkeypatch.setattr(blocks, "FEATURE_BYTES", 64 * 40)
    for one, other in zip(whole, picks(), strict=True):
        assert torch.equal(one, other)


def test_initial_images_do_not_depend_on_blocks(monkeypatch):
    images, labels = data()
    whole = initial_images("kmeans", images, labels, 2, network=torch.nn.Flatten().forward)
    monkeypatch.setattr(blocks, "FEATURE_BYTES", 64 * 40)
    assert torch.equal(initial_images("kmeans", images, labels, 2, network=torch.nn.Flatten().forward), whole)


@pytest.mark.slow
def test_a_refresh_of_the_shape_of_imagenet_stays_within_two_gigabytes():
    """1,000 classes of 1,300 images when hunting, 512 features each, which are made on the fly: 2.7 GB in all."""
    n_classes, each, d = times(300, 1000), 1300, 512
    labels = torch.arange(n_classes).repeat_interleave(each)
    images = torch.zeros(len(labels), 1, dtype=torch.uint8)
    columns = torch.arange(d)

    def embed(source, images, rows):
        features = torch.empty(len(rows), d)
        for some, out in zip(rows.split(8192), features.split(8192), strict=True):
            keys = hash_rows(some, 0, "row").unsqueeze(1) + columns * 7919
            out.copy_(uniform_rows(keys, 0, "feature"))
        return features

    sampler = RepresentativeSampler(images, labels, 50, 1, 1, features=lambda x: x, max_iter=3, embed=embed)
    began = time.perf_counter()
    with MemoryWatch(CPU) as memory:
        sampler.update()
    taken = (memory.peak - memory.before) / 1e9
    print(f"{len(labels):,} rows: {taken:.2f} GB above the images, {time.perf_counter() - began:.0f} s")
    assert taken < 2
    assert sampler.indices.shape == (n_classes, 50)
    assert torch.equal(labels[sampler.indices], torch.arange(n_classes).unsqueeze(1).expand(-1, 50))
