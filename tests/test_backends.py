"""Choosing a backend, and what every backend promises beyond right results: same bits, no waiting, no surprises."""

import sys
import types

import pytest
import torch
from support.refusals import refused
from support.round_trips import no_host_round_trip
from support.served import GRADIENT_BACKENDS, GRAM_BACKENDS, MAP_BACKENDS, REPEATABLE_BACKENDS

from dream_accel import backends, ops
from dream_accel.backends import BACKENDS, DISTANCE_OPERATORS, GRAM_OPERATORS, MAP_OPERATORS, OPERATORS, choose
from dream_accel.cli import doctor
from dream_accel.errors import DreamAccelWarning

CPU = torch.device("cpu")


def call_of(op: str, device=CPU):
    return doctor.sample_call(op, device)


@pytest.fixture
def unforced(monkeypatch):
    monkeypatch.delenv("DREAM_ACCEL_BACKEND", raising=False)
    monkeypatch.setattr(backends, "_announced", set())


@pytest.fixture
def stand_in(monkeypatch):
    """A backend called ``broken`` that is asked first and says whatever the test tells it to."""
    module = types.ModuleType("dream_accel.backends.broken")
    module.NAME = "broken"
    module.unavailable = lambda: None
    module.refuses = lambda op, *args: None
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(backends, "BACKENDS", ("broken", "reference"))
    return module


class TestChoice:
    @pytest.mark.usefixtures("unforced")
    def test_the_fastest_backend_that_can_run_a_call_runs_it(self):
        for op in OPERATORS:
            first = next(served.name for served in served_by(op) if served.device == CPU)
            if first != "reference":
                assert first == choose(op, *call_of(op)).NAME

    @pytest.mark.usefixtures("unforced")
    @pytest.mark.parametrize("op", [op for op in OPERATORS if op not in MAP_OPERATORS])
    def test_on_a_gpu_triton_clusters_and_cuda_measures_distances(self, op, monkeypatch):
        monkeypatch.setattr(backends, "refusal", lambda name, op, *args: None)
        expected = "cuda" if op in DISTANCE_OPERATORS else "triton"
        assert expected == choose(op, *call_of(op)).NAME

    @pytest.mark.usefixtures("unforced")
    def test_a_willing_backend_is_taken_before_the_reference(self, stand_in):
        assert choose("kmeans_assign", *call_of("kmeans_assign")) is stand_in

    @pytest.mark.usefixtures("unforced")
    @pytest.mark.parametrize("method", ["unavailable", "refuses"])
    def test_falling_back_to_plain_pytorch_is_announced_once_with_the_reason(self, stand_in, method):
        setattr(stand_in, method, lambda *args: "the moon is full")
        with pytest.warns(DreamAccelWarning, match=r"plain PyTorch.*broken: the moon is full.*doctor"):
            assert choose("kmeans_assign", *call_of("kmeans_assign")).NAME == "reference"
        assert choose("kmeans_assign", *call_of("kmeans_assign")).NAME == "reference"
        with pytest.warns(DreamAccelWarning, match="kmeans_update"):
            choose("kmeans_update", *call_of("kmeans_update"))

    def test_asking_for_the_reference_announces_nothing(self, reference):
        assert choose("kmeans_assign", *call_of("kmeans_assign")).NAME == "reference"

    def test_unknown_backend_is_refused_with_the_list(self, monkeypatch):
        monkeypatch.setenv("DREAM_ACCEL_BACKEND", "tpu")
        message = refused(choose, "kmeans_assign", *call_of("kmeans_assign"))
        assert "'tpu'" in message
        assert ", ".join(BACKENDS) in message

    def test_forced_backend_that_cannot_serve_fails_loudly(self, monkeypatch, stand_in):
        stand_in.refuses = lambda op, *args: "it only knows how to sing"
        monkeypatch.setenv("DREAM_ACCEL_BACKEND", "broken")
        x, offsets, centroids, *_ = call_of("kmeans_assign")
        message = refused(ops.kmeans_assign, x, offsets, centroids)
        assert "DREAM_ACCEL_BACKEND=broken cannot run kmeans_assign: it only knows how to sing" in message
        assert "unset the variable" in message

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
    @pytest.mark.parametrize(("name", "op"), [("cuda", "gradient_distance"), ("triton", "kmeans_assign")])
    def test_forced_gpu_backend_without_a_gpu_fails_loudly(self, monkeypatch, name, op):
        monkeypatch.setenv("DREAM_ACCEL_BACKEND", name)
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        assert f"DREAM_ACCEL_BACKEND={name} cannot run {op}" in refused(choose, op, *call_of(op))

    def test_every_backend_says_why_it_cannot_take_another_device_or_dtype(self):
        x, offsets, centroids, *rest = call_of("kmeans_assign")
        for name in BACKENDS[:-1]:
            reason = backends.refusal(name, "kmeans_assign", x.double(), offsets, centroids.double(), *rest)
            assert isinstance(reason, str)
            assert reason


class TestGuard:
    """The guard the tests against host round trips rely on."""

    @pytest.mark.parametrize(
        "ask",
        [
            lambda x: x.sum().item(),
            lambda x: x.tolist(),
            lambda x: bool(x.any()),
            lambda x: int(x[0]),
            lambda x: x[x > 0],
            lambda x: x.masked_select(x > 0),
            lambda x: x.nonzero(),
            lambda x: x.numpy(),
            lambda x: x.unique(),
            lambda x: x.repeat_interleave(x.long()),
            lambda x: x.__setitem__(x > 0, 5.0 * x[:1]),
        ],
    )
    def test_notices_whatever_waits_for_the_device(self, ask):
        with pytest.raises(AssertionError, match="waits for the device"), no_host_round_trip():
            ask(torch.arange(3.0))

    def test_lets_everything_else_pass(self):
        x = torch.arange(3.0)
        with no_host_round_trip() as seen:
            x[x.argsort()].index_add_(0, torch.tensor([0]), x[:1])
            torch.where(x > 1, x, 0).masked_fill(x > 1, 3).cumsum(0)
        assert "index" in seen


def flat(outputs):
    for output in outputs if isinstance(outputs, tuple | list) else [outputs]:
        yield from [output] if isinstance(output, torch.Tensor) else flat(output)


def large_call(op: str, device) -> tuple:
    """Enough work for several threads, in groups of very different sizes."""
    draws = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=draws).to(device)

    if op in DISTANCE_OPERATORS:
        shapes = [(3, 64, 32, 3, 3), (3, 64, 20), (3, 10, 3000), (3, 2, 20000)]
        real, synthetic = ([normal(*shape) for shape in shapes] for _ in range(2))
        return (real, normal(3, 4), True) if op == "scale_gradients" else (real, synthetic, "cos", True, True)
    if op in MAP_OPERATORS:
        y, weight, bias = normal(24, 16, 32, 30), normal(16), normal(16)
        if op == "norm_relu_pool":
            return y, weight, bias, 1e-5
        first = y, weight, bias, normal(24, 16), normal(24, 16).abs(), normal(24, 16, 16, 15)
        return first if op == "norm_relu_pool_backward" else (*first, normal(24, 16, 32, 30))
    x, offsets = normal(6000, 40), torch.tensor([0, 10, 5000, 5000, 6000], device=device)
    centroids, own = normal(4, 33, 40), 33 * torch.arange(5, device=device)
    labels = torch.randint(0, 33, (6000,), generator=draws, dtype=torch.int32).to(device)
    return {
        "kmeans_assign": (x, offsets, centroids, None, None, None, "fp32"),
        "kmeans_update": (x, offsets, labels, 40, normal(6000).abs(), None, None, "farthest"),
        "kmeans_iterate": (x, offsets, centroids, 6, None, "fp32", "farthest"),
        "nearest_members": (x, offsets, centroids, labels, 5),
        "group_products": (centroids.flatten(0, 1), own, x, offsets, normal(4, 40), 5000),
        "gram_assign": (normal(4, 33, 5000), normal(4, 33).square(), offsets, labels.new_ones(4).bool(), labels),
    }[op]


def equal_bits(a, b) -> bool:
    return all(torch.equal(u.nan_to_num(7.0), v.nan_to_num(7.0)) for u, v in zip(flat(a), flat(b), strict=True))


def served_by(op: str):
    if op in MAP_OPERATORS:
        return MAP_BACKENDS
    if op in GRAM_OPERATORS:
        return GRAM_BACKENDS
    return GRADIENT_BACKENDS if op in DISTANCE_OPERATORS else REPEATABLE_BACKENDS


CASES = [pytest.param(op, served, id=f"{op}-{served}") for op in OPERATORS for served in served_by(op)]


@pytest.mark.parametrize(("op", "served"), CASES)
class TestEveryBackend:
    def test_gives_what_the_reference_gives(self, op, served):
        args = large_call(op, served.device)
        expected = getattr(backends.backend("reference"), op)(*args)
        found = getattr(backends.backend(served.name), op)(*args)
        for a, b in zip(flat(found), flat(expected), strict=True):
            assert a.dtype == b.dtype
            if op == "nearest_members" or not a.is_floating_point():
                assert (a == b).double().mean() > 0.999
            else:
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)

    def test_gives_the_same_bits_again(self, op, served):
        run, args = getattr(backends.backend(served.name), op), large_call(op, served.device)
        assert equal_bits(run(*args), run(*args))

    def test_gives_the_same_bits_with_any_number_of_threads(self, op, served):
        run, args, threads = (
            getattr(backends.backend(served.name), op),
            large_call(op, served.device),
            torch.get_num_threads(),
        )
        try:
            results = []
            for n in (1, 2, 5):
                torch.set_num_threads(n)
                results.append(run(*args))
        finally:
            torch.set_num_threads(threads)
        assert all(equal_bits(result, results[0]) for result in results[1:])

    def test_leaves_its_inputs_alone(self, op, served):
        args = large_call(op, served.device)
        before = [t.clone() for t in flat([a for a in args if isinstance(a, torch.Tensor | list)])]
        getattr(backends.backend(served.name), op)(*args)
        after = flat([a for a in args if isinstance(a, torch.Tensor | list)])
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))

    def test_never_asks_the_host(self, op, served):
        if served.name == "reference":
            pytest.skip("the reference is for reading and may ask")
        args = large_call(op, served.device)
        run = getattr(backends.backend(served.name), op)
        run(*args)
        if served.device.type == "cuda":
            mode = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error")
            try:
                run(*args)
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        else:
            with no_host_round_trip():
                run(*args)


@pytest.mark.parametrize("served", REPEATABLE_BACKENDS, ids=str)
def test_a_group_gets_the_same_bits_alone_and_in_any_batch(served):
    run = backends.backend(served.name)
    x, offsets, centroids, *rest = large_call("kmeans_assign", served.device)
    _, _, labels, n_clusters, distance, *_ = large_call("kmeans_update", served.device)
    bounds = offsets.tolist()
    together = run.kmeans_assign(x, offsets, centroids, *rest)
    means = run.kmeans_update(x, offsets, labels, n_clusters, distance, None, None, "farthest")
    picks = run.nearest_members(x, offsets, centroids, labels, 5)
    for g in range(4):
        rows = slice(bounds[g], bounds[g + 1])
        own = torch.tensor([0, bounds[g + 1] - bounds[g]], device=served.device)
        alone = run.kmeans_assign(x[rows], own, centroids[g : g + 1], *rest)
        assert equal_bits(alone, (together[0][rows], together[1][rows]))
        alone = run.kmeans_update(x[rows], own, labels[rows], n_clusters, distance[rows], None, None, "farthest")
        assert equal_bits(alone, (means[0][g : g + 1], means[1][g : g + 1]))
        alone = run.nearest_members(x[rows], own, centroids[g : g + 1], labels[rows], 5)
        assert equal_bits(torch.where(alone < 0, alone, alone + rows.start), picks[g : g + 1])
