"""Named random streams, and the arithmetic of ragged groups."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.refusals import refused
from support.round_trips import no_host_round_trip

from dream_accel import groups
from dream_accel.random import Streams, derive_seed, generator, hash_rows, uniform_rows

CPU = torch.device("cpu")
OFFSETS = torch.tensor([0, 3, 3, 8, 9])
ragged = st.lists(st.integers(0, 8), min_size=1, max_size=5).map(lambda sizes: torch.tensor([0, *np.cumsum(sizes)]))


def splitmix64(z: int) -> int:
    """The finaliser as its authors give it, in unsigned 64-bit arithmetic."""
    mask = 2**64 - 1
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    return z ^ (z >> 31)


class TestStreams:
    def test_seeds_do_not_change_between_versions(self):
        assert derive_seed(0) == 2631537505891389924
        assert derive_seed(0, "network", 12) == 8868998722957163399

    def test_every_seed_and_name_is_a_stream_of_its_own(self):
        keys = [(0,), (1,), (0, "a"), (0, "a", 1), (0, "a1"), (0, 1), (0, "1"), (0, 1, 0), (10, 0)]
        seeds = [derive_seed(*key) for key in keys]
        assert len(set(seeds)) == len(keys)
        assert all(0 <= seed < 2**63 for seed in seeds)

    @pytest.mark.parametrize("number", [np.int64, np.uint8, np.array, torch.tensor], ids=lambda kind: kind.__name__)
    def test_numbers_of_other_libraries_are_the_streams_of_their_ints(self, number):
        assert derive_seed(number(12), "network") == derive_seed(12, "network")
        assert derive_seed(np.int64(0), np.str_("network"), np.int64(12)) == derive_seed(0, "network", 12)
        assert derive_seed(0, (1, np.float64(0.5))) == derive_seed(0, (1, 0.5))

    def test_any_int_is_a_seed(self):
        assert len({derive_seed(seed) for seed in (-1, 1, 2**64, -(2**200), 0)}) == 5

    @pytest.mark.parametrize(
        "seed",
        [None, True, np.True_, 0.0, np.float32(1), "0", b"0", np.random.RandomState(0), torch.tensor(1.0)],
        ids=lambda seed: type(seed).__name__,
    )
    def test_anything_else_is_refused(self, seed):
        """cuml PR#6150."""
        assert "it must be a whole number" in refused(derive_seed, seed, "network")
        assert "it must be a whole number" in refused(generator, seed)

    def test_names_whose_text_may_be_an_address_are_refused(self):
        assert "named by a object" in refused(derive_seed, 0, object())
        assert "named by a RandomState" in refused(derive_seed, 0, ("a", np.random.RandomState(0)))

    def test_generator_draws_the_same_from_the_same_names(self):
        def draw(*keys):
            return torch.randn(3, generator=generator(5, *keys)).tolist()

        assert draw("pixels", 1) == draw("pixels", 1)
        assert draw("pixels", 1) != draw("pixels", 2)

    def test_global_generator_is_left_alone(self):
        before = torch.get_rng_state()
        torch.randn(3, generator=generator(5, "pixels"))
        groups.random_rows(OFFSETS, 9, 2, 0, "x")
        assert torch.equal(torch.get_rng_state(), before)

    def test_hash_is_splitmix64_without_the_top_bit(self):
        rows = torch.tensor([0, 1, 2, 1000, 2**40])
        expected = [splitmix64((row + derive_seed(3, "x")) % 2**64) & (2**63 - 1) for row in rows.tolist()]
        assert hash_rows(rows, 3, "x").tolist() == expected

    def test_uniform_rows_are_uniform_strictly_between_0_and_1(self):
        u = uniform_rows(torch.arange(200_000), 0, "x")
        assert u.dtype == torch.float32
        assert 0 < u.min() < 1e-4
        assert 1 - 1e-4 < u.max() < 1
        shares = torch.histc(u, 20, 0, 1) / len(u)
        assert (shares - 0.05).abs().max() < 0.003
        assert torch.corrcoef(torch.stack([u[:-1], u[1:]]))[0, 1].abs() < 0.01

    def test_many_streams_at_once_are_those_of_each_seed(self):
        seeds = [derive_seed(0, "a", c) for c in range(3)]
        many, one = Streams(3, CPU), Streams(1, CPU)
        many.restart(seeds)
        drawn = torch.cat([many.uniform(n) for n in (5, 0, 2)], dim=1)
        for own, seed in zip(drawn, seeds, strict=True):
            assert torch.equal(own, uniform_rows(torch.arange(7), torch.tensor(seed)))
            one.restart([seed])
            assert torch.equal(own, one.uniform(7)[0])
        many.restart(seeds)
        assert torch.equal(many.uniform(7), drawn)

    def test_many_streams_are_drawn_without_asking_the_host(self):
        streams = Streams(4, CPU)
        with no_host_round_trip():
            streams.restart([1, 2, 3, 4])
            streams.uniform(3)

    def test_uniform_rows_reach_neither_end(self, monkeypatch):
        extremes = torch.tensor([0, 2**63 - 1])
        monkeypatch.setattr("dream_accel.random.hash_rows", lambda *args: extremes)
        low, high = uniform_rows(torch.arange(2), 0).tolist()
        assert 0 < low < high < 1


class TestOffsets:
    def test_default_is_one_group_of_all_rows(self):
        assert groups.as_offsets(None, 7, CPU).tolist() == [0, 7]

    @pytest.mark.parametrize("given_as", [list, tuple, np.array, lambda v: torch.tensor(v, dtype=torch.int32)])
    def test_any_integers_become_int64(self, given_as):
        offsets = groups.as_offsets(given_as([0, 2, 2, 7]), 7, CPU)
        assert offsets.dtype == torch.int64
        assert offsets.tolist() == [0, 2, 2, 7]

    @pytest.mark.parametrize(
        ("offsets", "said"),
        [
            pytest.param([0.0, 7.0], ["float", "(G+1,) integers"], id="floating point"),
            pytest.param([[0, 7]], ["(1, 2)", "(G+1,) integers"], id="2-d"),
            pytest.param([0], ["no group", "G+1 integers"], id="no group"),
            pytest.param(np.zeros(0, np.int64), ["no group", "G+1 integers"], id="empty"),
            pytest.param([0, 5, 3, 7], ["falls from 5 to 3 at group 1", "never decrease"], id="falling"),
            pytest.param([1, 7], ["from 1 to 7", "from 0", "7"], id="not from 0"),
            pytest.param([0, 6], ["from 0 to 6", "number of rows, 7"], id="ends early"),
            pytest.param([0, 8], ["from 0 to 8", "number of rows, 7"], id="ends late"),
        ],
    )
    def test_refusals(self, offsets, said):
        message = refused(groups.as_offsets, offsets, 7, CPU)
        assert all(part in message for part in said), message

    def test_unchecked_offsets_are_trusted_without_looking(self):
        offsets = torch.tensor([0, 9, 3])
        with no_host_round_trip():
            assert groups.as_offsets(offsets, 7, CPU, check=False) is offsets


@given(offsets=ragged)
def test_group_of_rows_repeats_each_group_by_its_size(offsets):
    n = int(offsets[-1])
    expected = np.repeat(np.arange(len(offsets) - 1), offsets.diff().numpy())
    assert groups.group_of_rows(offsets, n).tolist() == expected.tolist()


@given(offsets=ragged, data=st.data(), descending=st.booleans())
def test_sort_within_groups_is_a_stable_sort_of_each_group(offsets, data, descending):
    n = int(offsets[-1])
    keys = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    sign = -1 if descending else 1
    expected = []
    for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        expected += sorted(range(start, stop), key=lambda i: (sign * keys[i], i))
    order = groups.sort_within_groups(torch.tensor(keys, dtype=torch.float32), offsets, descending)
    assert order.tolist() == expected


@given(offsets=ragged, n=st.integers(1, 6))
def test_first_rows_pads_short_groups_with_minus_one(offsets, n):
    order = torch.arange(int(offsets[-1])) + 100
    expected = [
        (list(range(start + 100, stop + 100)) + [-1] * n)[:n]
        for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ]
    assert groups.first_rows(order, offsets, n).tolist() == expected


class TestRandomRows:
    @given(offsets=ragged, n=st.integers(1, 6), seed=st.integers(0, 50))
    def test_rows_are_distinct_rows_of_their_group(self, offsets, n, seed):
        rows = groups.random_rows(offsets, int(offsets[-1]), n, seed, "test")
        for g, own in enumerate(rows.tolist()):
            start, stop = offsets[g].item(), offsets[g + 1].item()
            found = [row for row in own if row >= 0]
            assert len(found) == len(set(found)) == min(n, stop - start)
            assert all(start <= row < stop for row in found)

    def test_a_group_draws_the_same_wherever_it_stands(self):
        first = groups.random_rows(torch.tensor([0, 40, 60]), 60, 8, 0, "x")
        second = groups.random_rows(torch.tensor([0, 20, 20, 60]), 60, 8, 0, "x")
        assert torch.equal(first[0], second[2] - 20)
        assert torch.equal(first[1] - 40, second[0])

    def test_every_row_is_as_likely(self):
        offsets = torch.tensor([0, 10])
        drawn = torch.cat([groups.random_rows(offsets, 10, 3, seed, "x").flatten() for seed in range(2000)])
        assert (torch.bincount(drawn, minlength=10) / 2000 - 0.3).abs().max() < 0.05


class TestReductions:
    @given(offsets=ragged)
    def test_sums_are_float64_sums_of_each_group(self, offsets):
        values = torch.arange(int(offsets[-1]), dtype=torch.float32) * 0.1 + 1e7
        expected = [
            float(values[start:stop].double().sum())
            for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        ]
        sums = groups.sum_groups(values, offsets)
        assert sums.dtype == torch.float64
        assert sums.tolist() == pytest.approx(expected)

    def test_any_finds_flagged_groups(self):
        flags = torch.tensor([0, 0, 1, 0, 0, 0, 0, 0, 1], dtype=torch.bool)
        assert groups.any_in_groups(flags, OFFSETS).tolist() == [True, False, False, True]

    def test_none_of_it_asks_the_host(self):
        keys = torch.rand(9)
        with no_host_round_trip():
            groups.sort_within_groups(keys, OFFSETS)
            groups.random_rows(OFFSETS, 9, 2, 0, "x")
            groups.sum_groups(keys, OFFSETS)
            groups.any_in_groups(keys > 0.5, OFFSETS)
