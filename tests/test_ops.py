"""The operators as PyTorch sees them: schemas, fake versions, autograd, compilation, and what they refuse."""

import pytest
import torch
from support.draws import normal
from support.refusals import refused, refused_unlaunched
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import dream_accel as da
from dream_accel import ops
from dream_accel.backends.formulas import plain_distance

OPERATORS = torch.ops.dream_accel


def kmeans_arguments(device="cpu") -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, offsets, centroids = normal(20, 5), torch.tensor([0, 8, 8, 20]), normal(3, 4, 5, seed=1)
    labels, distance = torch.arange(20, dtype=torch.int32) % 4, torch.arange(20.0)
    active = torch.tensor([True, False, True])
    return tuple(t.to(device) for t in (x, offsets, centroids, labels, distance, active))


class TestRegistration:
    def test_kmeans_assign(self, backend):
        x, offsets, centroids, labels, distance, active = kmeans_arguments(backend.device)
        for *kept, with_distance in (
            (None, None, None, True),
            (active, labels, distance, True),
            (active, labels, None, False),
        ):
            torch.library.opcheck(
                OPERATORS.kmeans_assign.default, (x, offsets, centroids, *kept, "fp32", with_distance)
            )

    def test_kmeans_update(self, backend):
        x, offsets, previous, labels, distance, active = kmeans_arguments(backend.device)
        for options in (
            (None, previous, None, "keep"),
            (distance, previous, active, "farthest"),
            (None, previous, active, "farthest"),
        ):
            torch.library.opcheck(OPERATORS.kmeans_update.default, (x, offsets, labels, 4, *options))

    @pytest.mark.parametrize("tolerance", [None, torch.tensor([0.1, 0.0, 1e9])])
    def test_kmeans_iterate(self, backend, tolerance):
        x, offsets, centroids, *_ = kmeans_arguments(backend.device)
        tolerance = None if tolerance is None else tolerance.to(backend.device)
        torch.library.opcheck(OPERATORS.kmeans_iterate.default, (x, offsets, centroids, 3, tolerance, "fp32", "keep"))

    def test_nearest_members(self, backend):
        x, offsets, centroids, labels, _, _ = kmeans_arguments(backend.device)
        torch.library.opcheck(OPERATORS.nearest_members.default, (x, offsets, centroids, labels, 3))

    @pytest.mark.parametrize("metric", ["l1_mean", "cos", "global_cos"])
    def test_gradient_distance(self, gradient_backend, metric):
        device = gradient_backend.device
        real = [normal(2, 4, 3, device=device), normal(2, 7, device=device)]
        synthetic = [normal(2, 4, 3, seed=1, device=device).requires_grad_(), normal(2, 7, seed=1, device=device)]
        torch.library.opcheck(OPERATORS.gradient_distance.default, (real, synthetic, metric, True, True))
        constant = [y.detach() for y in synthetic]
        torch.library.opcheck(OPERATORS.gradient_distance.default, (real, constant, metric, False, False))

    def test_fake_tensors_have_the_shapes_and_dtypes_of_real_ones(self, reference):
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            wide = ops.result_dtype(torch.empty(0, dtype=dtype))
            x, offsets, centroids, labels, _, _ = kmeans_arguments()
            x, centroids = x.to(dtype), centroids.to(wide)
            stacks = [normal(3, 2, 4).to(dtype)], [normal(3, 2, 4, seed=1).to(dtype)]

            def call(x, offsets, centroids, labels, real, synthetic):
                distance, per_layer, grads = OPERATORS.gradient_distance([real], [synthetic], "cos", True, True)
                return (
                    *ops.kmeans_assign(x, offsets, centroids),
                    *ops.kmeans_update(x, offsets, labels, 4),
                    ops.nearest_members(x, offsets, centroids, labels, 2),
                    distance,
                    per_layer,
                    *grads,
                )

            args = (x, offsets, centroids, labels, *stacks[0], *stacks[1])
            real = call(*args)
            with FakeTensorMode() as mode:
                fake = call(*(mode.from_tensor(t) for t in args))
            assert [(t.shape, t.dtype) for t in fake] == [(t.shape, t.dtype) for t in real]

    def test_meta_tensors_are_accepted(self):
        x, offsets, centroids, labels, _, _ = kmeans_arguments("meta")
        assert ops.kmeans_assign(x, offsets, centroids)[0].device.type == "meta"
        assert ops.nearest_members(x, offsets, centroids, labels, 2).shape == (3, 4, 2)


class TestCompilation:
    def test_caller_compiles_into_one_graph(self, backend):
        def lloyd_step(x, offsets, centroids):
            labels, distance = ops.kmeans_assign(x, offsets, centroids)
            centroids, counts = ops.kmeans_update(x, offsets, labels, 4, distance=distance, empty="farthest")
            return centroids, counts, ops.nearest_members(x, offsets, centroids, labels, 2)

        args = kmeans_arguments(backend.device)[:3]
        compiled = torch.compile(lloyd_step, backend="aot_eager", fullgraph=True)
        for found, expected in zip(compiled(*args), lloyd_step(*args), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)

    def test_gradients_flow_through_a_compiled_caller(self, gradient_backend):
        def loss(real, synthetic):
            return 2 * da.gradient_distance([real], [synthetic.square()], "cos", "weights")

        x = normal(4, 6, device=gradient_backend.device)
        y = normal(4, 6, seed=1, device=gradient_backend.device).requires_grad_()
        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
        (found,) = torch.autograd.grad(compiled(x, y), y)
        (expected,) = torch.autograd.grad(loss(x, y), y)
        torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("reference")
class TestAutograd:
    @pytest.mark.parametrize("per_class", [False, True])
    @pytest.mark.parametrize("metric", ops.METRICS)
    def test_gradcheck(self, metric, per_class):
        real = [normal(2, 3, 2, seed=i, dtype=torch.float64) for i in range(2)]
        inputs = [normal(2, 3, 2, seed=i + 9, dtype=torch.float64).requires_grad_() for i in range(2)]
        assert torch.autograd.gradcheck(
            lambda *synthetic: da.gradient_distance(real, synthetic, metric, "all", per_class=per_class), inputs
        )

    def test_second_derivative_is_refused(self):
        x, y = normal(3, 4), normal(3, 4, seed=1).requires_grad_()
        (first,) = torch.autograd.grad(da.gradient_distance([x], [y], "cos", "all"), y, create_graph=True)
        message = refused(torch.autograd.grad, first.sum(), y)
        assert "differentiable once" in message
        assert "plain_distance" in message

    def test_the_way_around_it_is_differentiable_twice(self):
        x, y = normal(3, 4, dtype=torch.float64), normal(3, 4, seed=1, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradgradcheck(lambda y: plain_distance([x], [y], "cos", False), y)

    def test_real_gradients_are_taken_as_constants(self):
        x, y = normal(3, 4).requires_grad_(), normal(3, 4, seed=1)
        assert not da.gradient_distance([x], [y], "mse", "all").requires_grad
        y.requires_grad_()
        da.gradient_distance([x], [y], "mse", "all").backward()
        assert x.grad is None
        assert y.grad is not None

    def test_returned_derivative_carries_no_graph(self):
        y = normal(3, 4, seed=1).requires_grad_()
        distance, grads = da.gradient_distance([normal(3, 4)], [y], "mse", "all", return_grads=True)
        assert not distance.requires_grad
        assert not grads[0].requires_grad

    def test_no_derivative_is_computed_where_none_can_be_asked_for(self):
        x, y = normal(3, 4), normal(3, 4, seed=1).requires_grad_()
        with torch.no_grad():
            assert not da.gradient_distance([x], [y], "mse", "all").requires_grad
        distance, _, grads = OPERATORS.gradient_distance([x], [y], "mse", False, False)
        assert grads == []
        assert "with_grads=True" in refused(distance.backward)

    def test_derivative_of_half_precision_gradients_is_half_precision(self):
        x, y = normal(3, 4).half(), normal(3, 4, seed=1).half().requires_grad_()
        distance = da.gradient_distance([x], [y], "mse", "all")
        assert distance.dtype == torch.float32
        distance.backward()
        assert y.grad.dtype == torch.float16


@pytest.mark.filterwarnings("ignore:.*autograd kernel was not registered")
def test_no_gradient_flows_through_the_kmeans_operators(backend):
    x, offsets, centroids, labels, _, _ = kmeans_arguments(backend.device)
    x.requires_grad_()
    labels_and_distance = ops.kmeans_assign(x, offsets, centroids)
    means, _ = ops.kmeans_update(x, offsets, labels, 4, previous=centroids)
    for output in (labels_and_distance[1], means):
        if output.requires_grad:
            output.sum().backward()
    assert x.grad is None


X, OFFSETS, CENTROIDS, LABELS, DISTANCE, ACTIVE = kmeans_arguments()

# What is wrong, the arguments that are, and what the sentence must say: what was found, what is allowed, the remedy.
BAD_ROWS = {
    "rows 1-d": ({"x": torch.zeros(20)}, ["x has shape (20,)", "(N, D)", "flatten"]),
    "rows 3-d": ({"x": torch.zeros(20, 5, 1)}, ["x has shape (20, 5, 1)", "(N, D)", "flatten"]),
    "no features": ({"x": torch.zeros(20, 0)}, ["x has shape (20, 0)", "at least 1 feature"]),
    "integer rows": ({"x": torch.zeros(20, 5, dtype=torch.uint8)}, ["torch.uint8", "float32", "x.float()"]),
    "offsets int32": ({"offsets": OFFSETS.int()}, ["offsets is torch.int32", "(G+1,) int64"]),
    "offsets 2-d": ({"offsets": OFFSETS[None]}, ["(1, 4)", "(G+1,) int64"]),
    "offsets empty": ({"offsets": OFFSETS[:0]}, ["(0,)", "(G+1,) int64"]),
    "offsets elsewhere": ({"offsets": OFFSETS.to("meta")}, ["x is on cpu and offsets on meta", "one device"]),
}
BAD_CENTROIDS = {
    "centroids 2-d": ({"centroids": CENTROIDS[0]}, ["(4, 5)", "(G, K, D)"]),
    "no centroids": ({"centroids": CENTROIDS[:, :0]}, ["(3, 0, 5)", "K >= 1"]),
    "centroids of other groups": ({"centroids": CENTROIDS[:2]}, ["(2, 4, 5)", "(3, 4, 5)"]),
    "centroids of other features": ({"centroids": CENTROIDS[..., :4]}, ["(3, 4, 4)", "(3, 4, 5)"]),
    "centroids in half precision": ({"centroids": CENTROIDS.half()}, ["torch.float16", "torch.float32", ".to("]),
    "centroids elsewhere": ({"centroids": CENTROIDS.to("meta")}, ["x is on cpu and centroids on meta", "one device"]),
}
BAD_LABELS = {
    "labels int64": ({"labels": LABELS.long()}, ["labels is torch.int64", "torch.int32", "labels.to("]),
    "labels of other rows": ({"labels": LABELS[:-1]}, ["labels has shape (19,)", "(20,)"]),
    "labels elsewhere": ({"labels": LABELS.to("meta")}, ["labels on meta", "one device"]),
}
BAD_ASSIGN = {
    "unknown precision": ({"precision": "fp8"}, ["'fp8'", "fp32, tf32, bf16"]),
    "active of other groups": ({"active": ACTIVE[:2]}, ["active has shape (2,)", "(3,)"]),
    "active integer": ({"active": ACTIVE.int()}, ["torch.int32", "torch.bool"]),
    "distance in double": ({"distance": DISTANCE.double()}, ["torch.float64", "torch.float32"]),
    "nothing to keep": ({"active": ACTIVE, "labels": None}, ["active", "without labels and distance", "keep"]),
    "no labels to keep": (
        {"active": ACTIVE, "labels": None, "with_distance": False},
        ["active is given without labels:", "keep"],
    ),
}
BAD_UPDATE = {
    "no clusters": ({"n_clusters": 0}, ["n_clusters is 0", "at least 1"]),
    "unknown policy": ({"empty": "drop"}, ["'drop'", "farthest, keep"]),
    "previous of other clusters": ({"previous": CENTROIDS[:, 1:]}, ["previous has shape (3, 3, 5)", "(3, 4, 5)"]),
    "no distance": (
        {"empty": "farthest", "distance": None, "previous": None},
        ["without distance or previous", "kmeans_assign"],
    ),
    "nothing to keep": ({"active": ACTIVE, "previous": None}, ["without previous", "keep"]),
}


def cases(*tables):
    return [pytest.param(*case, id=name) for table in tables for name, case in table.items()]


class TestRefusals:
    @pytest.mark.parametrize(("wrong", "said"), cases(BAD_ROWS, BAD_CENTROIDS, BAD_LABELS, BAD_ASSIGN))
    def test_kmeans_assign(self, wrong, said):
        arguments = {"x": X, "offsets": OFFSETS, "centroids": CENTROIDS, "labels": LABELS, "distance": DISTANCE}
        message = refused_unlaunched(ops.kmeans_assign, **{**arguments, **wrong})
        assert all(part in message for part in said), message

    @pytest.mark.parametrize(("wrong", "said"), cases(BAD_ROWS, BAD_LABELS, BAD_UPDATE))
    def test_kmeans_update(self, wrong, said):
        arguments = {
            "x": X,
            "offsets": OFFSETS,
            "labels": LABELS,
            "n_clusters": 4,
            "distance": DISTANCE,
            "previous": CENTROIDS,
        }
        message = refused_unlaunched(ops.kmeans_update, **{**arguments, **wrong})
        assert all(part in message for part in said), message

    @pytest.mark.parametrize(
        ("wrong", "said"), cases(BAD_ROWS, BAD_CENTROIDS, BAD_LABELS, {"n 0": ({"n": 0}, ["n is 0", "at least 1"])})
    )
    def test_nearest_members(self, wrong, said):
        arguments = {"x": X, "offsets": OFFSETS, "centroids": CENTROIDS, "labels": LABELS, "n": 2}
        message = refused_unlaunched(ops.nearest_members, **{**arguments, **wrong})
        assert all(part in message for part in said), message

    @pytest.mark.parametrize(
        ("real", "synthetic", "options", "said"),
        [
            pytest.param([X], [X], {"metric": "l2"}, ["'l2'", *ops.METRICS], id="unknown metric"),
            pytest.param([X], [X], {"layers": "linear"}, ["'linear'", *ops.LAYER_RULES], id="unknown layer rule"),
            pytest.param([X, X], [X], {}, ["2 real and 1 synthetic", "same layers"], id="unequal lists"),
            pytest.param([], [], {}, ["empty lists", "at least one pair"], id="empty lists"),
            pytest.param([X], [X[1:]], {}, ["pair 0", "(20, 5)", "(19, 5)", "equal"], id="unequal shapes"),
            pytest.param([X.int()], [X], {}, ["pair 0", "torch.int32", "floating point"], id="integers"),
            pytest.param([X], [X.to("meta")], {}, ["pair 0", "cpu", "meta", "one device"], id="mixed devices"),
            pytest.param([X], [X], {"layers": "conv"}, ["'conv'", "[2]-dim", 'layers="all"'], id="no layer left"),
            pytest.param(
                [X, X[1:]], [X, X[1:]], {"per_class": True}, ["pair 1", "(19, 5)", "classes"], id="unequal classes"
            ),
        ],
    )
    def test_gradient_distance(self, real, synthetic, options, said):
        message = refused_unlaunched(da.gradient_distance, real, synthetic, **options)
        assert all(part.strip("'") in message for part in said), message

    def test_operators_called_directly_refuse_too(self):
        assert "'l2'" in refused(OPERATORS.gradient_distance, [X], [X], "l2", False, False)
        assert "pair 0" in refused(OPERATORS.gradient_distance, [X], [X[1:]], "mse", False, False)

    def test_select_layers_lists_the_rules(self):
        assert "conv, weights, all" in refused(ops.select_layers, [X], "none")


def test_layer_rules_keep_what_they_say():
    gradients = [torch.zeros(shape) for shape in ((8, 3, 3, 3), (8,), (10, 8), (), (2, 3, 3, 3, 3))]
    assert ops.select_layers(gradients, "conv") == [0]
    assert ops.select_layers(gradients, "weights") == [0, 2, 3, 4]
    assert ops.select_layers(gradients, "all") == [0, 1, 2, 3, 4]
    stacks = [torch.zeros(5, *g.shape) for g in gradients]
    assert ops.select_layers(stacks, "conv", per_class=True) == [0]
    assert ops.select_layers(stacks, "weights", per_class=True) == [0, 2, 3, 4]
