"""Lloyd on Gram matrices: the products, the assignment from them, and fits that must not differ."""

import pytest
import torch
from support.refusals import refused
from support.round_trips import no_host_round_trip
from test_clustering import blobs, check_consistent, normal, offsets_of, results, same_bits

import dream_accel as da
from dream_accel import ops
from dream_accel.clustering import gram, routing
from dream_accel.clustering.settings import LloydSettings
from dream_accel.groups import group_of_rows

SIZES = (70, 0, 3, 130, 1, 64)


@pytest.fixture(autouse=True)
def _backend_multiplies(request):
    for name in {"backend", "any_backend"} & set(request.fixturenames):
        if request.getfixturevalue(name).name == "cuda":
            pytest.skip("the CUDA backend has no kernels for it")


def on(device, *tensors):
    return [t.to(device) for t in tensors]


def problem(device, n_features=40, shift=0.0):
    x, offsets = normal(sum(SIZES), n_features) + shift, offsets_of(SIZES)
    centre = torch.stack([part.mean(dim=0) for part in x.split(SIZES)]).nan_to_num(0)
    return on(device, x, offsets, centre)


class TestProducts:
    @pytest.mark.parametrize("n_features", [1, 17, 64, 300])
    @pytest.mark.parametrize("shift", [0.0, 100.0])
    def test_are_those_of_centred_rows(self, any_backend, n_features, shift):
        x, offsets, centre = problem(any_backend.device, n_features, shift)
        found = ops.group_products(x, offsets, x, offsets, centre, 192).cpu()
        x, centre = x.cpu().double(), centre.cpu().double()
        for g, (start, n) in enumerate(zip(offsets.tolist(), SIZES, strict=False)):
            own = x[start : start + n] - centre[g]
            expected = torch.zeros(n, 192, dtype=torch.float64)
            expected[:, :n] = own @ own.T
            torch.testing.assert_close(
                found[start : start + n].double(), expected, rtol=1e-4, atol=2e-5 * n_features**0.5 * (1 + shift / 10)
            )

    def test_of_rows_with_themselves_are_symmetric_and_equal_for_equal_rows(self, backend):
        x, offsets, centre = problem(backend.device)
        x[100], x[150] = x[75], x[75]
        found = ops.group_products(x, offsets, x, offsets, centre, 192)
        for start, n in zip(offsets.tolist(), SIZES, strict=False):
            own = found[start : start + n, :n]
            assert torch.equal(own, own.T)
        position = [row - 73 for row in (75, 100, 150)]
        assert torch.equal(found[75], found[100])
        assert torch.equal(found[75], found[150])
        assert len({found[80, i].item() for i in position}) == 1

    def test_of_centroids_with_rows(self, any_backend):
        x, offsets, centre = problem(any_backend.device)
        rows = normal(6 * 5, 40, seed=1).to(x.device)
        rows[7] = torch.nan
        found = ops.group_products(rows, torch.arange(7, device=x.device) * 5, x, offsets, centre, 130)
        assert found[7, :0].isnan().all()
        for g, (start, n) in enumerate(zip(offsets.tolist(), SIZES, strict=False)):
            expected = (rows[5 * g : 5 * g + 5] - centre[g]) @ (x[start : start + n] - centre[g]).T
            torch.testing.assert_close(found[5 * g : 5 * g + 5, :n], expected, rtol=1e-4, atol=1e-4, equal_nan=True)

    def test_have_the_same_bits_alone_at_any_width_and_with_any_number_of_threads(self, backend):
        x, offsets, centre = problem(backend.device)
        together = ops.group_products(x, offsets, x, offsets, centre, 192)
        threads = torch.get_num_threads()
        try:
            for n_threads, width in ((1, 192), (3, 256)):
                torch.set_num_threads(n_threads)
                for g, (start, n) in enumerate(zip(offsets.tolist(), SIZES, strict=False)):
                    own, alone = x[start : start + n], torch.tensor([0, n], device=x.device)
                    found = ops.group_products(own, alone, own, alone, centre[g : g + 1], width)
                    assert torch.equal(found[:, :n], together[start : start + n, :n])
        finally:
            torch.set_num_threads(threads)


class TestAssign:
    def test_takes_the_lowest_score_and_the_lowest_index(self, any_backend):
        products = normal(6, 9, 130).round()
        norms = (3 * normal(6, 9, seed=1)).square().round()
        norms[2, 4], products[3, 2] = torch.inf, torch.nan
        active = torch.tensor([True, True, True, True, True, False])
        kept = torch.arange(sum(SIZES), dtype=torch.int32)
        products, norms, offsets, active, kept = on(
            any_backend.device, products, norms, offsets_of(SIZES), active, kept
        )
        labels = ops.gram_assign(products, norms, offsets, active, kept)
        group = group_of_rows(offsets, len(labels))
        position = torch.arange(len(labels), device=labels.device) - offsets[group]
        score = (norms[group] - 2 * products[group, :, position]).nan_to_num(nan=torch.inf, posinf=torch.inf)
        expected = torch.where(active[group], score.argmin(dim=1).int(), kept)
        assert torch.equal(labels, expected)

    def test_group_of_dead_centroids_gets_label_0(self, any_backend):
        args = (torch.full((1, 3, 64), torch.nan), torch.full((1, 3), torch.inf), torch.tensor([0, 5]))
        kept, active = torch.full((5,), 7, dtype=torch.int32), torch.tensor([True])
        assert ops.gram_assign(*on(any_backend.device, *args, active, kept)).tolist() == [0] * 5


class TestOperators:
    def test_as_pytorch_sees_them(self, backend):
        x, offsets, centre = problem(backend.device)
        torch.library.opcheck(torch.ops.dream_accel.group_products.default, (x, offsets, x, offsets, centre, 192))
        labels = torch.zeros(len(x), dtype=torch.int32, device=x.device)
        active = torch.ones(6, dtype=torch.bool, device=x.device)
        args = on(x.device, normal(6, 4, 130), normal(6, 4), offsets, active, labels)
        torch.library.opcheck(torch.ops.dream_accel.gram_assign.default, tuple(args))

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"width": 0}, ["width is 0", "at least 1"]),
            ({"a": torch.zeros(4, 3)}, ["a has shape (4, 3)", "(4, 40)"]),
            ({"x": torch.zeros(5, 40).half()}, ["x is torch.float16", "torch.float32"]),
            ({"centre": torch.zeros(5, 40)}, ["centre has shape (5, 40)", "(6, 40)"]),
            ({"a_offsets": torch.tensor([0, 4])}, ["a_offsets has shape (2,)", "(7,)"]),
            ({"centre": torch.zeros(6, 40, device="meta")}, ["centre on meta", "one device"]),
        ],
    )
    def test_products_refuse(self, wrong, said):
        x, offsets, centre = problem("cpu")
        args = {"a": x, "a_offsets": offsets, "x": x, "offsets": offsets, "centre": centre, "width": 130, **wrong}
        message = refused(ops.group_products, **args)
        assert all(part in message for part in said), message

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"products": torch.zeros(2, 3)}, ["(2, 3)", "(G, K, W)"]),
            ({"norms": torch.zeros(2, 3)}, ["norms has shape (2, 3)", "(6, 4)"]),
            ({"active": torch.ones(6)}, ["torch.float32", "torch.bool"]),
            ({"labels": torch.zeros(9)}, ["torch.float32", "torch.int32"]),
            ({"offsets": torch.tensor([0, 4])}, ["offsets has shape (2,)", "(7,)"]),
        ],
    )
    def test_assignment_refuses(self, wrong, said):
        args = {
            "products": torch.zeros(6, 4, 130),
            "norms": torch.zeros(6, 4),
            "offsets": offsets_of(SIZES),
            "active": torch.ones(6, dtype=torch.bool),
            "labels": torch.zeros(sum(SIZES), dtype=torch.int32),
            **wrong,
        }
        message = refused(ops.gram_assign, **args)
        assert all(part in message for part in said), message

    def test_group_wider_than_the_result(self):
        x, offsets, centre = problem("cpu")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DREAM_ACCEL_BACKEND", "cpu")
            assert "group 3 has 130 rows: width is 100" in refused(
                ops.group_products, x, offsets, x, offsets, centre, 100
            )


def fit_both_ways(x, offsets, **options):
    fits = []
    for on_gram in (False, True):
        fits.append(da.BatchedKMeans(**options, gram=on_gram).fit(x, offsets))
    return fits


class TestFits:
    @pytest.mark.parametrize("init", ["random", "k-means++", "given", "labels"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_do_not_differ_from_those_on_the_rows(self, backend, init, dtype):
        x = torch.cat([blobs(n, 300, 6, seed=n, spread=0.5) for n in SIZES]).to(dtype).to(backend.device)
        offsets = offsets_of(SIZES)
        given_ = normal(6, 9, 300, seed=3)
        start = da.BatchedKMeans(9, max_iter=1).fit(x, offsets)
        fits = []
        for on_gram in (False, True):
            km = da.BatchedKMeans(9, max_iter=20, init=given_ if init == "given" else init, gram=on_gram)
            if init == "labels":
                km._fitted = start._fitted
            fits.append(km.fit(x, offsets))
        plain, on_products = fits
        assert torch.equal(plain.labels_, on_products.labels_)
        assert torch.equal(plain.n_iter_, on_products.n_iter_)
        assert torch.equal(plain.cluster_centers_.nan_to_num(7), on_products.cluster_centers_.nan_to_num(7))
        check_consistent(on_products, x, offsets)

    def test_clusters_that_run_empty_take_the_farthest_rows(self, backend):
        x, start = normal(130, 300).to(backend.device), torch.full((1, 20, 300), 1e2)
        start[0, 0] = 0
        for max_iter in (1, 2, 10):
            plain, found = fit_both_ways(x, None, n_clusters=20, init=start, max_iter=max_iter)
            assert torch.equal(plain.labels_, found.labels_)
            assert torch.equal(plain.cluster_centers_, found.cluster_centers_)

    def test_duplicates_cannot_fill_more_clusters_than_there_are_distinct_rows(self, backend):
        x = normal(3, 200).repeat(25, 1).to(backend.device)
        _, found = fit_both_ways(x, None, n_clusters=8)
        assert (found.counts_ > 0).sum() == 3
        assert found.inertia_.item() < 1e-8

    def test_same_bits_in_any_batch_and_order(self, backend):
        # Some groups are fitted on their Gram matrices, some are too small and some too large for it.
        sizes = (70, 3, 149, 64, 160, 0, 100)
        x = torch.cat([blobs(n, 300, 6, seed=g) for g, n in enumerate(sizes)]).to(backend.device)
        parts = list(x.split(sizes))
        settings = LloydSettings(20, 20, 0.0, "tf32", "farthest", gram=True)
        assert [gram.serves(n, 300, settings) for n in sizes] == [True, False, True, True, False, False, True]
        together = da.BatchedKMeans(20, gram=True).fit(x, offsets_of(sizes))
        check_consistent(together, x, offsets_of(sizes))
        order = [4, 6, 0, 2, 5, 3, 1]
        shuffled = da.BatchedKMeans(20, gram=True).fit(
            torch.cat([parts[g] for g in order]), offsets_of([sizes[g] for g in order])
        )
        labels = dict(zip(order, shuffled.labels_.split([sizes[g] for g in order]), strict=True))
        for g, (own, own_labels) in enumerate(zip(parts, together.labels_.split(sizes), strict=True)):
            assert torch.equal(labels[g], own_labels)
            assert same_bits(results(shuffled)[1:], [result[order] for result in results(together)[1:]])
            alone = da.BatchedKMeans(20, gram=True).fit(own)
            assert same_bits(results(alone), [own_labels, *(result[g : g + 1] for result in results(together)[1:])])

    def test_never_ask_the_host(self, backend):
        x, offsets = normal(300, 250).to(backend.device), offsets_of((100, 100, 100))
        device_offsets = offsets.to(x.device)
        start = da.BatchedKMeans(20)._start(x, device_offsets, "random")
        settings = LloydSettings(20, 5, 0.0, "tf32", "farthest", gram=True)
        bounds = offsets.tolist()
        with no_host_round_trip() as seen:
            routing.fit_batch(x, device_offsets, start, settings, bounds, cuda_graph=False)
        assert {"group_products", "gram_assign"} <= seen

    @pytest.mark.parametrize("options", [{"tol": 0.1}, {"empty": "keep"}, {"gram": False}])
    def test_settings_it_does_not_serve(self, options):
        asked = {"n_clusters": 20, "max_iter": 20, "tol": 0.0, "precision": "tf32", "empty": "farthest", "gram": True}
        assert gram.serves(100, 300, LloydSettings(**asked))
        assert not gram.serves(100, 300, LloydSettings(**{**asked, **options}))
