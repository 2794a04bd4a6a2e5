"""Fits of rows that stay in host memory, and rows that arrive in chunks."""

import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.refusals import refused_unlaunched
from test_clustering import blobs, check_consistent, normal, offsets_of, results, same_bits
from torch.utils._python_dispatch import TorchDispatchMode

import dream_accel as da
from dream_accel.clustering import INITS, empty_clusters, host_rows
from dream_accel.runtime.distributed import Ranks

SIZES = (60, 0, 3, 200, 1, 41)


def ragged(n_features=6):
    return normal(sum(SIZES), n_features), offsets_of(SIZES)


class TestChunks:
    @pytest.mark.parametrize("chunk_rows", [1, 7, 60, 64, 1000])
    def test_cover_every_row_once_and_split_long_groups_alone(self, chunk_rows):
        bounds = offsets_of(SIZES).tolist()
        chunks = host_rows.cut(bounds, chunk_rows, torch.device("cpu"))
        assert [row for c in chunks for row in range(c.rows.start, c.rows.stop)] == list(range(bounds[-1]))
        for chunk in chunks:
            rows = chunk.rows.stop - chunk.rows.start
            assert 0 < rows <= chunk_rows
            assert chunk.offsets[-1] == rows
            assert len(chunk.offsets) - 1 == chunk.groups.stop - chunk.groups.start
            if len(chunk.offsets) > 2:
                assert chunk.rows.start == bounds[chunk.groups.start]
                assert chunk.rows.stop == bounds[chunk.groups.stop]

    def test_a_group_is_cut_alike_wherever_it_stands(self):
        bounds = offsets_of(SIZES).tolist()
        chunks = host_rows.cut(bounds, 50, torch.device("cpu"))
        for g, (start, stop) in enumerate(pairwise(bounds)):
            if stop - start <= 50:
                continue
            own = [c.rows.start - start for c in chunks if c.groups == slice(g, g + 1) and c.rows.start >= start]
            assert own == list(range(0, stop - start, 50))


class TestAgainstMemory:
    @pytest.mark.parametrize("init", INITS)
    @pytest.mark.parametrize("empty", ["farthest", "keep"])
    @pytest.mark.parametrize("tol", [0.0, 0.02])
    def test_groups_that_fit_a_chunk_get_the_same_bits(self, backend, init, empty, tol):
        x, offsets = ragged()
        fits = []
        for options in ({}, {"chunk_rows": 210}):
            km = da.BatchedKMeans(9, empty=empty, tol=tol).fit(x.to(backend.device), offsets, init="random")
            fits.append(km.fit(x.to(backend.device), offsets, init=init, **options))
        assert same_bits(results(fits[0]), results(fits[1]))

    @pytest.mark.parametrize("chunk_rows", [5, 16, 50])
    def test_longer_groups_get_the_same_partition(self, backend, chunk_rows):
        x, offsets = torch.cat([blobs(n, 6, 5, seed=n) for n in SIZES]), offsets_of(SIZES)
        memory = da.BatchedKMeans(5, max_iter=30).fit(x.to(backend.device), offsets)
        stream = da.BatchedKMeans(5, max_iter=30).fit(x.to(backend.device), offsets, chunk_rows=chunk_rows)
        check_consistent(stream, x, offsets)
        assert torch.equal(stream.labels_, memory.labels_)
        torch.testing.assert_close(stream.cluster_centers_, memory.cluster_centers_, equal_nan=True)
        assert torch.equal(stream.representatives(2), memory.representatives(2))

    def test_clusters_that_run_empty_take_the_farthest_rows(self, backend):
        x, start = normal(150, 3), torch.full((1, 20, 3), 1e3)
        start[0, 0] = 0
        fits = [
            da.BatchedKMeans(20, init=start, max_iter=n).fit(x.to(backend.device), **options)
            for n in (1, 8)
            for options in ({}, {"chunk_rows": 150}, {"chunk_rows": 32})
        ]
        assert same_bits(results(fits[0]), results(fits[1]))
        assert torch.equal(fits[0].labels_, fits[2].labels_)
        assert (fits[5].counts_ > 0).all()
        check_consistent(fits[5], x, torch.tensor([0, 150]))

    def test_same_bits_in_any_batch(self, backend):
        x, offsets = (t.to(backend.device) for t in ragged())
        together = da.BatchedKMeans(7).fit(x, offsets, chunk_rows=32)
        for g in range(len(SIZES)):
            rows = slice(int(offsets[g]), int(offsets[g + 1]))
            alone = da.BatchedKMeans(7).fit(x[rows], chunk_rows=32)
            expected = [together.labels_[rows], *(result[g : g + 1] for result in results(together)[1:])]
            assert same_bits(results(alone), expected)

    def test_row_numbers_too_large_for_a_float_move_right(self, backend):
        n = 3 * 2**24
        labels = torch.zeros(8, dtype=torch.int32)
        number = torch.tensor([0, 1, 4095, 4096, 2**24 - 1, 2**24, 2**24 + 1, n])
        digits = empty_clusters.digits_of(number)
        assert torch.equal(empty_clusters.number_of(digits), number)
        arguments = (torch.tensor([0, 8]), labels, torch.arange(8.0), torch.tensor([[8, 0, 0]]), torch.ones(1).bool())
        moved = empty_clusters.relocated_labels(*(t.to(backend.device) for t in arguments))
        assert moved.tolist() == [0, 0, 0, 0, 0, 0, 2, 1]


class _Largest(TorchDispatchMode):
    """The most elements any result of an operator has, views of given memory left out."""

    def __init__(self, given_address):
        super().__init__()
        self.given = given_address
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() != self.given:
                self.largest = max(self.largest, tensor.numel())
        return out


class TestMemory:
    @pytest.mark.parametrize("init", ["random", "k-means++"])
    def test_rows_on_disk_are_never_in_memory_at_once(self, tmp_path, init):
        on_disk = np.memmap(tmp_path / "x", dtype=np.float32, mode="w+", shape=(4000, 64))
        on_disk[:] = normal(4000, 64).numpy()
        plain = da.BatchedKMeans(4, max_iter=3, init=init).fit(np.array(on_disk))
        with _Largest(on_disk.ctypes.data) as seen:
            km = da.BatchedKMeans(4, max_iter=3, init=init).fit(on_disk, chunk_rows=100)
        # The rows themselves are 4000 * 64 numbers; what is kept of every row is three at most.
        assert seen.largest == 3 * 4000
        assert isinstance(km.labels_, np.ndarray)
        np.testing.assert_allclose(km.inertia_, plain.inertia_, rtol=1e-3)

    def test_chunks_of_an_embedding_loop_are_taken_one_at_a_time(self):
        x, offsets = ragged()
        alive = []

        def embeddings():
            for part in x.split(37):
                chunk = part.clone()
                assert sum(ref() is not None for ref in alive) <= 1
                alive.append(weakref.ref(chunk))
                yield chunk
                del chunk

        km = da.BatchedKMeans(5).fit(embeddings(), offsets)
        assert same_bits(results(km), results(da.BatchedKMeans(5).fit(x, offsets)))
        assert len(alive) > 5

    def test_lists_of_chunks_and_numpy_chunks(self):
        x, offsets = ragged()
        expected = results(da.BatchedKMeans(5).fit(x, offsets))
        assert same_bits(results(da.BatchedKMeans(5).fit(list(x.split(50)), offsets, chunk_rows=400)), expected)
        km = da.BatchedKMeans(5).fit((part.numpy() for part in x.split(50)), offsets)
        assert all(isinstance(result, np.ndarray) for result in results(km))
        assert same_bits([torch.from_numpy(result) for result in results(km)], expected)


class TestRefusals:
    @pytest.mark.parametrize(
        ("x", "options", "said"),
        [
            (torch.zeros(4, 2), {"chunk_rows": 0}, ["chunk_rows is 0", "at least 1"]),
            (torch.zeros(4, 2), {"device": "cpu"}, ["device is given without chunk_rows"]),
            (torch.zeros(4, 2), {"ranks": Ranks(0, 2)}, ["2 ranks without chunk_rows"]),
            (torch.full((4, 2), torch.nan), {"chunk_rows": 2}, ["NaN or Inf in 4 of 4 rows"]),
            ([torch.zeros(4, 2)], {}, ["offsets is missing", "[0, N]"]),
            (iter(()), {"offsets": [0, 4]}, ["chunks", "there is none"]),
            ([torch.zeros(4, 2)], {"offsets": [0, 5]}, ["hold 4 rows", "end at 5"]),
            ([torch.zeros(4, 2)], {"offsets": [0, 3]}, ["hold 4 rows", "end at 3"]),
            ([torch.zeros(2, 2), torch.zeros(2, 3)], {"offsets": [0, 4]}, ["(2, 3)", "(n, 2)", "alike"]),
            ([torch.zeros(2, 2), torch.zeros(2, 2).half()], {"offsets": [0, 4]}, ["float16", "float32", "alike"]),
            ([torch.zeros(2)], {"offsets": [0, 2]}, ["(2,)", "(N, D)"]),
        ],
    )
    def test_what_cannot_be_streamed(self, x, options, said):
        message = refused_unlaunched(da.BatchedKMeans(2).fit, x, **options)
        assert all(part in message for part in said), message


@pytest.mark.gpu
@pytest.mark.parametrize("chunk_rows", [16, 64, 1000])
def test_rows_of_the_host_stream_through_the_device(chunk_rows):
    x, offsets = ragged()
    on_device = da.BatchedKMeans(9).fit(x.cuda(), offsets)
    streamed = da.BatchedKMeans(9).fit(x, offsets, chunk_rows=chunk_rows, device="cuda")
    assert streamed.labels_.device.type == "cpu"
    check_consistent(streamed, x, offsets)
    if chunk_rows > max(SIZES):
        assert (streamed.labels_ == on_device.labels_.cpu()).double().mean() > 0.99
