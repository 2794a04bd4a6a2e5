"""The interfaces of fast_pytorch_kmeans and of DREAM's query, against their arithmetic written out."""

import pytest
import torch
from support.draws import normal
from support.refusals import refused
from torch.nn.functional import normalize

from dream_accel.compat import KMeans, MultiKMeans, NEW_Strategy

X = normal(300, 12) + 4 * normal(6, 12, seed=1).repeat_interleave(50, dim=0)
START = X[torch.arange(0, 300, 38)]


def published_kmeans(x, centroids, max_iter=100, tol=1e-4, cosine=False):
    """One problem, Lloyd as that package does it: labels before the last update, empty clusters at the origin."""
    for _ in range(max_iter):
        if cosine:
            similarity = normalize(x, dim=-1) @ normalize(centroids, dim=-1).T
        else:
            similarity = -((x[:, None] - centroids) ** 2).sum(-1)
        labels = similarity.argmax(dim=1)
        members = (labels == torch.arange(len(centroids))[:, None]).to(x)
        means = (members @ x / members.sum(dim=1, keepdim=True)).nan_to_num()
        shift = (means - centroids).square().sum()
        centroids = means
        if shift <= tol:
            break
    return labels, centroids


class TestKMeans:
    @pytest.mark.parametrize("as_published", [False, True])
    @pytest.mark.parametrize("mode", ["euclidean", "cosine"])
    def test_labels_and_centroids_are_the_published_ones_from_the_same_start(self, mode, as_published):
        km = KMeans(8, mode=mode, as_published=as_published)
        labels = km.fit_predict(X, START)
        expected, centroids = published_kmeans(X, START, cosine=mode == "cosine")
        assert torch.equal(labels, expected)
        torch.testing.assert_close(km.centroids, centroids, rtol=1e-5, atol=1e-5)
        assert torch.equal(km.predict(X), expected)

    def test_returns_what_the_original_returns(self, reference):
        for dtype in (torch.float16, torch.float32, torch.float64):
            km = KMeans(8)
            labels = km.fit_predict(X.to(dtype))
            assert (labels.shape, labels.dtype, labels.device) == ((300,), torch.int64, X.device)
            assert (km.centroids.shape, km.centroids.dtype, km.centroids.device) == ((8, 12), dtype, X.device)
            assert km.predict(X.to(dtype)[:7]).shape == (7,)
            assert km.fit(X.to(dtype)) is None

    def test_labels_belong_to_the_centroids_also_before_the_fixpoint(self):
        for options in ({}, {"mode": "cosine"}, {"minibatch": 60}):
            km = KMeans(8, max_iter=2, **options)
            assert torch.equal(km.fit_predict(X, START), km.predict(X))
        stale = KMeans(8, max_iter=2, as_published=True).fit_predict(X, START)
        assert torch.equal(stale, published_kmeans(X, START, max_iter=2)[0])
        assert not torch.equal(stale, KMeans(8, max_iter=2).fit_predict(X, START))

    def test_empty_clusters_take_a_row_or_as_published_the_origin(self):
        start = torch.cat([START, torch.full((1, 12), 100.0)])  # far from every row
        km = KMeans(9)
        labels = km.fit_predict(X, start)
        assert labels.unique().numel() == 9
        published = KMeans(9, as_published=True, max_iter=1)
        published.fit(X, start)
        torch.testing.assert_close(published.centroids, published_kmeans(X, start, max_iter=1)[1])
        assert (published.centroids[8] == 0).all()

    def test_first_centroids_are_distinct_rows_or_as_published_drawn_with_replacement(self):
        km = KMeans(300, max_iter=0)
        km.fit(X)
        assert len(km.centroids.unique(dim=0)) == 300
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            published = KMeans(300, max_iter=0, as_published=True)
            published.fit(X)
            torch.manual_seed(0)
            assert torch.equal(published.centroids, X[torch.randint(0, 300, size=[300])])

    def test_results_follow_torchs_seed_as_the_originals_do_or_a_seed_of_their_own(self):
        picks = {}
        with torch.random.fork_rng(devices=[]):
            for name, options in (("global", {}), ("own", {"seed": 3})):
                for seed in (0, 0, 1):
                    torch.manual_seed(seed)
                    picks.setdefault(name, []).append(KMeans(20, **options).fit_predict(X))
        assert torch.equal(picks["global"][0], picks["global"][1])
        assert not torch.equal(picks["global"][0], picks["global"][2])
        assert torch.equal(picks["own"][0], picks["own"][2])

    def test_nothing_is_drawn_from_torchs_generator_where_nothing_is_random(self):
        state = torch.random.get_rng_state()
        KMeans(8).fit(X, START)
        KMeans(8, seed=1, minibatch=50).fit(X)
        assert torch.equal(torch.random.get_rng_state(), state)

    @pytest.mark.parametrize("as_published", [False, True])
    @pytest.mark.parametrize("init_method", ["random", "kmeans++", "gaussian"])
    def test_every_init_method_finds_well_separated_clusters(self, init_method, as_published):
        found = set()
        for seed in range(4):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                km = KMeans(6, init_method=init_method, as_published=as_published)
                km.fit(X)
            distance = torch.cdist(X, km.centroids).min(dim=1).values.square().sum()
            found.add(round(float(distance)))
        best = sum(float((X[i : i + 50] - X[i : i + 50].mean(0)).square().sum()) for i in range(0, 300, 50))
        # Gaussian starts and random rows may end in a local minimum; k-means++ on such data does not.
        assert min(found) < 3 * best
        if init_method == "kmeans++" and not as_published:
            assert min(found) < 1.01 * best

    def test_gaussian_start_has_the_mean_and_covariance_of_the_rows(self):
        km = KMeans(4000, max_iter=0, init_method="gaussian", as_published=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            km.fit(X)
            few = KMeans(5, max_iter=0, init_method="gaussian")
            few.fit(X[:8])
        torch.testing.assert_close(km.centroids.mean(0), X.mean(0), atol=0.5, rtol=0)
        torch.testing.assert_close(km.centroids.T.cov(), X.T.cov(), atol=2.5, rtol=0.1)
        assert few.centroids.isfinite().all()

    def test_minibatches_reach_nearly_the_inertia_of_all_rows(self):
        def inertia(km):
            return float(torch.cdist(X, km.centroids).min(dim=1).values.square().sum())

        options = {"init_method": "kmeans++", "seed": 0}
        whole, parts = KMeans(6, **options), KMeans(6, minibatch=100, **options)
        for km in (whole, parts):
            km.fit(X)
        assert inertia(parts) < 1.1 * inertia(whole)

    def test_max_sim_is_the_highest_similarity(self):
        for mode in ("euclidean", "cosine"):
            km = KMeans(8, mode=mode)
            expected = (km.cos_sim if mode == "cosine" else km.euc_sim)(X, START).max(dim=-1)
            value, index = km.max_sim(X, START)
            assert torch.equal(index, expected.indices)
            torch.testing.assert_close(value, expected.values, rtol=1e-4, atol=1e-3)

    def test_verbose_prints_a_line(self, capsys):
        KMeans(8, verbose=1).fit(X, START)
        assert capsys.readouterr().out.startswith("used ")

    def test_agrees_with_the_package_itself(self):
        package = pytest.importorskip("fast_pytorch_kmeans")
        for options in ({}, {"mode": "cosine"}):
            theirs, ours = package.KMeans(8, **options), KMeans(8, as_published=True, **options)
            with torch.random.fork_rng(devices=[]):
                for km in (theirs, ours):
                    torch.manual_seed(0)
                    km.labels = km.fit_predict(X)
            assert torch.equal(theirs.labels, ours.labels)
            torch.testing.assert_close(theirs.centroids, ours.centroids, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        ("call", "words"),
        [
            (lambda: KMeans(3, mode="l1"), "unknown mode 'l1': choose one of euclidean, cosine"),
            (lambda: KMeans(3, init_method="first"), "unknown init_method 'first': choose one of random, kmeans++"),
            (lambda: KMeans(301).fit(X), "n_clusters is 301 and there are 300 rows"),
            (lambda: KMeans(3).fit(X[0]), "must be a floating point tensor (n_samples, n_features)"),
            (lambda: KMeans(3).fit(X.long()), "X is torch.int64"),
            (lambda: KMeans(3).fit(X.numpy()), "X is ndarray"),
            (lambda: KMeans(3).fit(X * torch.nan), "X holds NaN or Inf"),
            (lambda: KMeans(3).predict(X), "call fit(X) first"),
            (lambda: MultiKMeans(3).fit(X), "(n_kmeans, n_samples, n_features)"),
        ],
    )
    def test_bad_calls_are_refused(self, call, words):
        assert words in refused(call)


class TestMultiKMeans:
    @pytest.mark.parametrize("mode", ["euclidean", "cosine"])
    def test_every_set_is_clustered_as_alone(self, mode):
        sets, starts = torch.stack([X, X.flip(0) + 1]), torch.stack([START, START + 0.5])
        km = MultiKMeans(8, mode=mode)
        labels = km.fit_predict(sets, starts)
        assert (labels.shape, labels.dtype) == ((2, 300), torch.int64)
        assert (km.centroids.shape, km.centroids.dtype) == ((2, 8, 12), torch.float32)
        for i in range(2):
            expected, centroids = published_kmeans(sets[i], starts[i], cosine=mode == "cosine")
            assert torch.equal(labels[i], expected)
            torch.testing.assert_close(km.centroids[i], centroids, rtol=1e-5, atol=1e-5)
        assert torch.equal(km.predict(sets), labels)

    def test_the_next_fit_starts_from_the_last_centroids(self):
        km = MultiKMeans(8)
        km.fit(X[None], START[None])
        centroids = km.centroids
        km.fit(X[None])
        torch.testing.assert_close(km.centroids, centroids)


def published_query(x, n, per_cluster=1):
    """The rows nearest the published centroids, sought in the whole class."""
    start = x[torch.randint(0, len(x), size=[n])]
    _, centroids = published_kmeans(x, start)
    return torch.cdist(centroids, x).argsort(dim=1, stable=True)[:, :per_cluster].flatten()


class TestNewStrategy:
    IMAGES = X.reshape(300, 3, 2, 2)

    @staticmethod
    def embed(images):
        return images.flatten(1)

    def test_queries_are_distinct_nearest_members_of_every_cluster(self):
        strategy = NEW_Strategy(self.IMAGES, self.embed, seed=0)
        km = KMeans(20, seed=0)
        labels = km.fit_predict(X)
        for picks in (strategy.query(20), strategy.query_tiny(20)):
            assert (picks.shape, picks.dtype, picks.device) == ((20,), torch.int64, X.device)
            assert picks.unique().numel() == 20
            assert torch.equal(labels[picks], torch.arange(20))
            for k, pick in enumerate(picks):
                members = (labels == k).nonzero().flatten()
                distance = (X[members] - km.centroids[k]).square().sum(dim=1)
                assert (X[pick] - km.centroids[k]).square().sum() <= distance.min() * (1 + 1e-5)

    def test_query_match_takes_several_per_cluster(self):
        picks = NEW_Strategy(self.IMAGES, self.embed, seed=0).query_match(10, 3)
        labels = KMeans(10, seed=0).fit_predict(X)
        assert picks.unique().numel() == 30
        assert torch.equal(labels[picks.view(10, 3)[:, 0]], torch.arange(10))

    @pytest.mark.parametrize("per_cluster", [1, 2])
    def test_as_published_the_picks_are_the_originals(self, per_cluster):
        # Whole numbers: the two members of a cluster are exactly equally far from their mean.
        x = (4 * X).round()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            picks = NEW_Strategy(x, self.embed, as_published=True).query_match(100, per_cluster)
            torch.manual_seed(0)
            assert torch.equal(picks, published_query(x, 100, per_cluster))
        assert picks.unique().numel() < 100 * per_cluster  # the defect that is not inherited

    def test_images_can_be_normalised_before_they_are_embedded(self):
        seen = []

        def embed(images):
            seen.append(images)
            return images.flatten(1)

        NEW_Strategy(self.IMAGES, embed, normalize=lambda images: images + 1).query(3)
        assert torch.equal(torch.cat(seen), self.IMAGES + 1)

    def test_query_tiny_embeds_in_smaller_chunks(self):
        sizes = []
        NEW_Strategy(self.IMAGES, lambda images: sizes.append(len(images)) or images.flatten(1)).query_tiny(3)
        assert sizes == [256, 44]

    def test_more_than_the_class_has_is_refused(self):
        strategy = NEW_Strategy(self.IMAGES, self.embed)
        assert "301 clusters of 1 images requested from a class that has 300" in refused(strategy.query, 301)
        assert "150 clusters of 3" in refused(strategy.query_match, 150, 3)
