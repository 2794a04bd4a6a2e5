"""Gradient and feature distances against the plain formulas in float64, written here from the papers' definitions."""

import types
from functools import partial

import pytest
import torch
from support.draws import normal
from support.refusals import refused
from torch import Tensor

import dream_accel as da
from dream_accel import backends, ops
from dream_accel.compat import dc
from dream_accel.networks import make_network

OPERATORS = torch.ops.dream_accel
HALVES = (torch.float16, torch.bfloat16)


def idc_dist(x: Tensor, y: Tensor, method: str) -> Tensor:
    """Of two gradients of one layer."""
    if method == "mse":
        return (x - y).square().sum()
    if method == "l1":
        return (x - y).abs().sum()
    x, y = x.reshape(x.shape[0], -1), y.reshape(y.shape[0], -1)
    if method == "l1_mean":
        return (x - y).abs().mean(dim=1).sum()
    return (1 - (x * y).sum(dim=1) / (x.norm(dim=1) * y.norm(dim=1) + 1e-6)).sum()


def idc_match_loss(g_real, g_synthetic, method: str) -> Tensor:
    """Biases and the final linear layer are skipped."""
    return sum(idc_dist(x, y, method) for x, y in zip(g_real, g_synthetic, strict=True) if x.dim() == 4)


def dc_match_loss(g_synthetic, g_real, metric: str) -> Tensor:
    if metric == "ours":
        return sum(idc_dist(x, y, "cos") for x, y in zip(g_real, g_synthetic, strict=True) if x.dim() != 1)
    x, y = (torch.cat([g.reshape(-1) for g in side]) for side in (g_real, g_synthetic))
    return (y - x).square().sum() if metric == "mse" else 1 - (x * y).sum() / (x.norm() * y.norm() + 1e-6)


def plain(xs, ys, metric: str) -> Tensor:
    """(L,) the formulas, or (1,) of one vector."""
    if not metric.startswith("global_"):
        return torch.stack(
            [
                idc_dist(x.reshape(x.shape or (1,)), y.reshape(y.shape or (1,)), metric)
                for x, y in zip(xs, ys, strict=True)
            ]
        )
    return dc_match_loss(ys, xs, metric.removeprefix("global_")).reshape(1)


def exact(xs, ys, metric: str):
    """Value per layer and derivative of the plain formulas by autograd, in float64."""
    ys = [y.detach().cpu().double().requires_grad_() for y in ys]
    value = plain([x.cpu().double() for x in xs], ys, metric)
    return value.detach(), torch.autograd.grad(value.sum(), ys)


def close(found: Tensor, expected: Tensor, rtol: float, scale: float = 0.0) -> None:
    """Within rtol of the largest element, or of ``scale`` where larger terms cancel."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * max(scale, largest))


def of_one_element(y: Tensor) -> bool:
    """Return True if the rows have one element."""
    return y.dim() < 2 or y[0].numel() == 1


def gradients_of(network, images, **options):
    labels = torch.arange(len(images), device=images.device) % 4
    loss = torch.nn.functional.cross_entropy(network(images), labels)
    return torch.autograd.grad(loss, list(network.parameters()), **options)


SHAPES = [(6, 3, 3, 3), (6,), (5, 40), (9, 1), (), (2, 9001), (1, 7)]


def lists(device, seed=0, dtype=torch.float32, lead=()):
    return [
        [
            normal(*lead, *shape, seed=seed + 100 * side + i, device=device, dtype=dtype)
            for i, shape in enumerate(SHAPES)
        ]
        for side in (0, 1)
    ]


class TestValueAndDerivative:
    @pytest.mark.parametrize("metric", ops.METRICS)
    def test_beside_a_tensor_without_elements(self, gradient_backend, metric):
        """The first of them once decided whether derivatives were written, by its address."""
        draw = partial(normal, device=gradient_backend.device)
        real, synthetic = ([draw(0, 4, seed=side), draw(7, 5, seed=side + 2)] for side in (0, 1))
        distance, grads = da.gradient_distance(real, synthetic, metric, "all", return_grads=True)
        value, (expected,) = exact(real[1:], synthetic[1:], metric)
        close(distance, value.sum(), 1e-5)
        assert grads[0].shape == (0, 4)
        close(grads[1], expected, 1e-4)

    @pytest.mark.parametrize("metric", ops.METRICS)
    def test_of_every_layer(self, gradient_backend, metric):
        real, synthetic = lists(gradient_backend.device)
        real[0][2], synthetic[0][3], real[2][1], synthetic[2][1] = 0, 0, 0, 0
        distance, per_layer, grads = da.gradient_distance(
            real, synthetic, metric, "all", return_layers=True, return_grads=True
        )
        value, expected = exact(real, synthetic, metric)
        assert per_layer.shape == value.shape
        for found, layer in zip(per_layer, value, strict=True):
            close(found, layer, 1e-5, scale=1.0)
        close(distance, value.sum(), 1e-5)
        for grad, derivative, y in zip(grads, expected, synthetic, strict=True):
            # In a row of one element the two parts of the cosine's derivative, of size 1/|y|, cancel: the compiled
            # backends take short rows in float64.
            cancels = metric == "cos" and of_one_element(y) and gradient_backend.name == "reference"
            close(grad, derivative, 1e-4, scale=float(1 / y.abs().min()) if cancels else 0.0)

    @pytest.mark.parametrize("metric", ops.METRICS)
    def test_of_every_class(self, gradient_backend, metric):
        real, synthetic = lists(gradient_backend.device, lead=(3,))
        distance, per_layer, grads = da.gradient_distance(
            real, synthetic, metric, "all", per_class=True, return_layers=True, return_grads=True
        )
        torch.testing.assert_close(per_layer.sum(dim=1), distance)
        for c in range(3):
            value, _ = exact([x[c] for x in real], [y[c] for y in synthetic], metric)
            close(distance[c], value.sum(), 1e-5)
            alone = da.gradient_distance(
                [x[c] for x in real], [y[c] for y in synthetic], metric, "all", return_layers=True, return_grads=True
            )
            assert torch.equal(alone[1], per_layer[c]) or gradient_backend.name == "reference"
            for grad, own in zip(grads, alone[2], strict=True):
                close(grad[c], own, 1e-6)

    @pytest.mark.slow
    @pytest.mark.parametrize("metric", ops.METRICS)
    def test_of_ten_million_elements(self, metric):
        real, synthetic = ([normal(5000, 2000, seed=seed)] for seed in (0, 1))
        distance, grads = da.gradient_distance(real, synthetic, metric, "all", return_grads=True)
        value, expected = exact(real, synthetic, metric)
        close(distance, value.sum(), 1e-5)
        close(grads[0], expected[0], 1e-4)

    @pytest.mark.slow
    def test_of_one_row_of_ten_million_elements(self):
        real, synthetic = ([normal(1, 10**7, seed=seed)] for seed in (0, 1))
        distance, grads = da.gradient_distance(real, synthetic, "cos", "all", return_grads=True)
        value, expected = exact(real, synthetic, "cos")
        close(distance, value.sum(), 1e-5)
        close(grads[0], expected[0], 1e-4)

    @pytest.mark.parametrize("metric", ops.METRICS)
    def test_of_half_precision_is_that_of_the_stored_numbers(self, gradient_backend, metric):
        for dtypes in (
            (torch.bfloat16,) * 2,
            (torch.float16,) * 2,
            (torch.float32, torch.bfloat16),
            (torch.float16, torch.float32),
        ):
            real, synthetic = (
                [t.to(dtype) for t in side] for side, dtype in zip(lists(gradient_backend.device), dtypes, strict=True)
            )
            distance, grads = da.gradient_distance(real, synthetic, metric, "all", return_grads=True)
            value, expected = exact(real, synthetic, metric)
            assert distance.dtype == torch.float32
            close(distance, value.sum(), 1e-5)
            for grad, derivative, y in zip(grads, expected, synthetic, strict=True):
                assert grad.dtype == y.dtype
                if not (metric == "cos" and of_one_element(y)):  # near 1e-6, of which a half keeps nothing
                    close(grad, derivative, max(1e-4, torch.finfo(y.dtype).eps))

    @pytest.mark.parametrize("metric", ops.METRICS)
    @pytest.mark.parametrize("per_class", [False, True], ids=["one class", "per class"])
    def test_layouts_are_read_as_they_lie(self, gradient_backend, metric, per_class):
        lead = (2,) if per_class else ()
        x, y = (normal(*lead, 5, 6, 3, 3, seed=seed, device=gradient_backend.device) for seed in (0, 1))
        expected = da.gradient_distance([x], [y], metric, "all", per_class=per_class, return_grads=True)
        for real in layouts(x, per_class):
            for synthetic in layouts(y, per_class):
                distance, (grad,) = da.gradient_distance(
                    [real], [synthetic], metric, "all", per_class=per_class, return_grads=True
                )
                close(distance, expected[0], 1e-6)
                close(grad, expected[1][0], 1e-5)

    @pytest.mark.parametrize("metric", ops.METRICS)
    def test_whatever_the_threads_and_twice(self, gradient_backend, metric):
        real, synthetic = lists(gradient_backend.device, lead=(3,))
        real, synthetic = [*real, normal(3, 90, 3000)], [*synthetic, normal(3, 90, 3000, seed=1)]
        real[-1], synthetic[-1] = real[-1].to(gradient_backend.device), synthetic[-1].to(gradient_backend.device)
        before, results = torch.get_num_threads(), []
        try:
            for n in (1, 2, 2, 5):
                torch.set_num_threads(n)
                found = OPERATORS.gradient_distance(real, synthetic, metric, True, True)
                results.append([*found[:2], *found[2]])
        finally:
            torch.set_num_threads(before)
        if gradient_backend.name == "reference":
            pytest.skip("PyTorch's sums may depend on the threads")
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def layouts(t: Tensor, per_class: bool):
    """The same numbers: contiguous, channels last, in a larger buffer, transposed, expanded over classes."""
    yield t
    dims = (0, 1, 3, 4, 2) if per_class else (0, 2, 3, 1)
    back = (0, 1, 4, 2, 3) if per_class else (0, 3, 1, 2)
    yield t.permute(dims).contiguous().permute(back)
    yield t.transpose(-1, -2).contiguous().transpose(-1, -2)
    if per_class:
        buffer = t.new_zeros(2, t[0].numel() + 5)
        buffer[:, 5:] = t.flatten(1)
        yield buffer[:, 5:].view(t.shape)


class TestFeatureDistance:
    @pytest.mark.parametrize("metric", ops.METRICS)
    @pytest.mark.parametrize("per_class", [False, True], ids=["one class", "per class"])
    def test_is_that_of_the_batch_means(self, gradient_backend, metric, per_class):
        device, lead = gradient_backend.device, (3,) if per_class else ()
        features = [(40,), (3, 5, 5), (9001,)]
        real = [normal(*lead, 7, *f, seed=i, device=device) for i, f in enumerate(features)]
        synthetic = [normal(*lead, 4, *f, seed=9 + i, device=device).requires_grad_() for i, f in enumerate(features)]
        exact_y = [y.detach().cpu().double().requires_grad_() for y in synthetic]

        def means(side, c):
            of_class = [(t[c] if per_class else t).cpu().double().mean(dim=0) for t in side]
            return [m if m.dim() > 1 else m.unsqueeze(0) for m in of_class]

        value = torch.stack([plain(means(real, c), means(exact_y, c), metric) for c in range(3 if per_class else 1)])
        expected = torch.autograd.grad(value.sum(), exact_y)
        options = {"per_class": per_class, "return_layers": True}
        distance, per_layer, grads = da.feature_distance(real, synthetic, metric, return_grads=True, **options)
        assert distance.shape == lead
        close(distance.reshape(-1), value.sum(dim=1), 1e-5)
        close(per_layer.reshape(value.shape), value, 1e-5)
        through_loss = torch.autograd.grad(da.feature_distance(real, synthetic, metric, **options)[0].sum(), synthetic)
        for grad, by_loss, derivative in zip(grads, through_loss, expected, strict=True):
            close(grad, derivative, 1e-4)
            assert torch.equal(grad, by_loss)

    def test_small_differences_of_large_means_survive(self, gradient_backend):
        real, synthetic = ([(1000 + 0.1 * normal(200, 64, seed=seed)).to(gradient_backend.device)] for seed in (0, 1))
        value, _ = exact(
            [x.double().mean(0, keepdim=True) for x in real],
            [y.double().mean(0, keepdim=True) for y in synthetic],
            "mse",
        )
        close(da.feature_distance(real, synthetic), value.sum(), 1e-2)

    def test_bf16_features_are_averaged_in_float32(self, gradient_backend):
        real, synthetic = (
            [normal(300, 32, seed=seed, device=gradient_backend.device, dtype=torch.bfloat16)] for seed in (0, 1)
        )
        value, expected = exact(
            [x.double().mean(0, keepdim=True) for x in real],
            [y.double().mean(0, keepdim=True) for y in synthetic],
            "mse",
        )
        distance, grads = da.feature_distance(real, synthetic, return_grads=True)
        close(distance, value.sum(), 1e-5)
        assert grads[0].dtype == torch.bfloat16
        close(grads[0], expected[0].expand(300, -1) / 300, torch.finfo(torch.bfloat16).eps)

    @pytest.mark.parametrize(
        ("real", "synthetic", "options", "said"),
        [
            pytest.param([], [], {}, ["empty lists of features"], id="empty lists"),
            pytest.param([(2, 3)], [], {}, ["1 real and 0 synthetic features"], id="unequal lists"),
            pytest.param([(2, 3)], [(2, 4)], {}, ["pair 0", "(2, 3)", "(2, 4)", "(n, ...)"], id="unequal features"),
            pytest.param([(2, 3)], [(0, 3)], {}, ["pair 0", "(0, 3)", "empty batch"], id="empty batch"),
            pytest.param([(2, 5, 3)], [(1, 5, 3)], {"per_class": True}, ["same number of classes"], id="classes"),
            pytest.param([(2, 3)], [(2, 3)], {"metric": "l2"}, ["'l2'", *ops.METRICS], id="unknown metric"),
        ],
    )
    def test_refusals(self, real, synthetic, options, said):
        sides = ([torch.zeros(shape) for shape in side] for side in (real, synthetic))
        message = refused(da.feature_distance, *sides, **options)
        assert all(part in message for part in said), message


class TestNames:
    def gradients(self, seed):
        return {
            "conv.weight": normal(4, 3, 3, 3, seed=seed),
            "conv.bias": normal(4, seed=seed + 1),
            "fc.weight": normal(5, 4, seed=seed + 2),
        }

    def test_layers_are_chosen_and_paired_by_name(self):
        real, synthetic = self.gradients(0), self.gradients(9)
        shuffled = {name: real[name] for name in reversed(real)}
        names = ["fc.weight", "conv.weight"]
        distance, per_layer, grads = da.gradient_distance(
            shuffled, synthetic, "mse", names, return_layers=True, return_grads=True
        )
        expected = {name: (real[name] - synthetic[name]).square().sum() for name in synthetic}
        torch.testing.assert_close(per_layer, torch.stack([expected["conv.weight"], expected["fc.weight"]]))
        torch.testing.assert_close(distance, expected["conv.weight"] + expected["fc.weight"])
        assert list(grads) == list(synthetic)
        assert not grads["conv.bias"].any()
        torch.testing.assert_close(grads["fc.weight"], 2 * (synthetic["fc.weight"] - real["fc.weight"]))

    def test_rules_apply_to_mappings_too(self):
        real, synthetic = self.gradients(0), self.gradients(9)
        for rule in ops.LAYER_RULES:
            by_name = da.gradient_distance(real, synthetic, "l1", rule)
            assert torch.equal(by_name, da.gradient_distance([*real.values()], [*synthetic.values()], "l1", rule))

    def test_refusals(self):
        real, synthetic = self.gradients(0), self.gradients(9)
        assert "'fc'" in refused(da.gradient_distance, real, synthetic, layers=["fc"])
        assert "conv.weight, conv.bias, fc.weight" in refused(da.gradient_distance, real, synthetic, layers=["fc"])
        assert "mappings" in refused(da.gradient_distance, [normal(2)], [normal(2)], layers=["fc"])
        assert "two mappings" in refused(da.gradient_distance, real, [*synthetic.values()])
        del real["conv.bias"]
        assert "'conv.bias'" in refused(da.gradient_distance, real, synthetic)
        assert "no tensor" in refused(da.gradient_distance, synthetic, synthetic, layers=[])


class TestDerivative:
    def test_layers_can_be_weighted(self, gradient_backend):
        real, synthetic = lists(gradient_backend.device, lead=(3,))
        inputs = [y.clone().requires_grad_() for y in synthetic]
        weights = normal(3, len(SHAPES), device=gradient_backend.device)
        options = {"per_class": True, "return_layers": True}
        distance, per_layer = da.gradient_distance(real, inputs, "l1_mean", "all", **options)
        found = torch.autograd.grad((weights * per_layer).sum() + 2 * distance.sum(), inputs)
        _, _, grads = da.gradient_distance(real, synthetic, "l1_mean", "all", return_grads=True, **options)
        for i, (f, g) in enumerate(zip(found, grads, strict=True)):
            close(f, g * (weights[:, i] + 2).view(-1, *[1] * (g.dim() - 1)), 1e-6)

    def test_derivative_through_the_loss_can_be_changed_without_changing_it(self):
        x, y = normal(3, 4), normal(3, 4, seed=1).requires_grad_()
        loss = da.gradient_distance([x], [y], "mse", "all")
        loss.backward(retain_graph=True)
        first = y.grad.clone()
        y.grad.zero_()
        loss.backward()
        assert torch.equal(y.grad, first)

    @pytest.mark.parametrize("upstream", [1.0, 0.5])
    def test_second_derivative_is_refused_of_both_distances(self, gradient_backend, upstream):
        device = gradient_backend.device
        x, y = normal(3, 4, device=device), normal(3, 4, seed=1, device=device).requires_grad_()
        for distance in (da.gradient_distance([x], [y], "cos", "all"), da.feature_distance([x], [y])):
            (first,) = torch.autograd.grad(upstream * distance, y, create_graph=True)
            assert "differentiable once" in refused(torch.autograd.grad, first.sum(), y)

    def test_under_autocast(self):
        network = make_network("convnet", (3, 16, 16), 4, 8, 2, 0)
        real, pixels = normal(6, 3, 16, 16), normal(3, 3, 16, 16, seed=1).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            g_real, g_synthetic = gradients_of(network, real), gradients_of(network, pixels, create_graph=True)
            distance, upstream = da.gradient_distance(g_real, g_synthetic, "mse", return_grads=True)
            (found,) = torch.autograd.grad(da.gradient_distance(g_real, g_synthetic, "mse"), pixels, retain_graph=True)
        value = idc_match_loss([g.double() for g in g_real], [g.double() for g in g_synthetic], "mse")
        close(distance, value, 1e-5)
        (expected,) = torch.autograd.grad(g_synthetic, pixels, grad_outputs=upstream)
        close(found, expected, 1e-5)

    @pytest.mark.parametrize("dynamic", [pytest.param(False, marks=pytest.mark.slow), True], ids=["static", "dynamic"])
    def test_in_a_compiled_caller(self, gradient_backend, dynamic):
        device = gradient_backend.device

        def loss(real, synthetic, features):
            squares = {name: y.square() for name, y in synthetic.items()}
            return da.gradient_distance(real, squares, "cos", ["a"]) + 2 * da.feature_distance(
                [features], [features.sin()]
            )

        real, features = {"a": normal(4, 6, device=device), "b": normal(4, device=device)}, normal(5, 3, device=device)
        synthetic = {name: x.flip(0).requires_grad_() for name, x in real.items()}
        features.requires_grad_()
        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=dynamic)
        inputs = (synthetic["a"], features)
        found = torch.autograd.grad(compiled(real, synthetic, features), inputs)
        expected = torch.autograd.grad(loss(real, synthetic, features), inputs)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
    @pytest.mark.parametrize("metric", ops.METRICS)
    def test_in_a_cuda_graph(self, metric):
        real, synthetic = lists("cuda", lead=(3,))
        inputs = [y.clone().requires_grad_() for y in synthetic]

        def call():
            distance = da.gradient_distance(real, inputs, metric, "all", per_class=True)
            features = da.feature_distance([real[2]], [inputs[2]], metric, per_class=True)
            return distance, torch.autograd.grad((distance + features).sum(), inputs)

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            distance, grads = call()
        for seed in (3, 4):
            fresh = lists("cuda", seed=seed, lead=(3,))
            with torch.no_grad():
                for held, value in zip([*real, *inputs], [*fresh[0], *fresh[1]], strict=True):
                    held.copy_(value)
            graph.replay()
            expected, expected_grads = call()
            assert torch.equal(distance, expected)
            assert all(torch.equal(a, b) for a, b in zip(grads, expected_grads, strict=True))


class TestRegistration:
    @pytest.mark.parametrize("per_class", [False, True])
    def test_opcheck(self, gradient_backend, per_class):
        device = gradient_backend.device
        real = [normal(2, 4, 3, 2, 2, device=device), normal(2, 7, device=device)]
        last = normal(2, 4, 2, 2, 3, seed=1, device=device).permute(0, 1, 4, 2, 3).requires_grad_()
        synthetic = [last, normal(2, 7, seed=1, device=device).bfloat16()]
        torch.library.opcheck(OPERATORS.gradient_distance.default, (real, synthetic, "cos", per_class, True))
        features = [normal(2, 4, 3, device=device)], [normal(2, 4, 3, seed=1, device=device).requires_grad_()]
        torch.library.opcheck(OPERATORS.feature_distance.default, (*features, "mse", per_class, True))
        scale = normal(2 if per_class else 1, 2, device=device)
        torch.library.opcheck(OPERATORS.scale_gradients.default, (real, scale, per_class))


class TestPublishedLosses:
    """On the gradients of a real network, and through its double backward to the pixels."""

    @pytest.fixture
    def gradients(self, gradient_backend):
        network = make_network("convnet", (3, 16, 16), 4, 8, 2, 0).to(gradient_backend.device)
        real, pixels = normal(6, 3, 16, 16), normal(3, 3, 16, 16, seed=1)
        pixels = pixels.to(gradient_backend.device).requires_grad_()
        g_real = gradients_of(network, real.to(gradient_backend.device))
        return g_real, gradients_of(network, pixels, create_graph=True), pixels

    def check(self, loss, expected, pixels):
        close(loss, expected, 1e-5)
        (found,) = torch.autograd.grad(loss, pixels, retain_graph=True)
        (exact_gradient,) = torch.autograd.grad(expected, pixels, retain_graph=True)
        close(found, exact_gradient, 1e-5)

    @pytest.mark.parametrize("metric", ["mse", "l1", "l1_mean", "cos"])
    def test_of_idc(self, gradients, metric):
        g_real, g_synthetic, pixels = gradients
        expected = idc_match_loss([g.double() for g in g_real], [g.double() for g in g_synthetic], metric)
        self.check(da.gradient_distance(g_real, g_synthetic, metric, "conv"), expected, pixels)

    @pytest.mark.parametrize("metric", ["ours", "mse", "cos"])
    def test_of_dc(self, gradients, metric):
        g_real, g_synthetic, pixels = gradients
        expected = dc_match_loss([g.double() for g in g_synthetic], [g.double() for g in g_real], metric)
        self.check(dc.match_loss(g_synthetic, g_real, types.SimpleNamespace(dis_metric=metric)), expected, pixels)

    def test_returned_derivatives_carry_the_loss_to_the_pixels(self, gradients):
        g_real, g_synthetic, pixels = gradients
        _, upstream = da.gradient_distance(g_real, g_synthetic, "cos", "weights", return_grads=True)
        (found,) = torch.autograd.grad(g_synthetic, pixels, grad_outputs=upstream, retain_graph=True)
        (expected,) = torch.autograd.grad(da.gradient_distance(g_real, g_synthetic, "cos", "weights"), pixels)
        close(found, expected, 1e-6)


def test_more_tensors_than_any_launch_takes(gradient_backend):
    real, synthetic = (
        [normal(3, 5, seed=1000 * side + i, device=gradient_backend.device) for i in range(500)] for side in (0, 1)
    )
    for metric in ("mse", "cos", "global_cos"):
        distance, per_layer, grads = da.gradient_distance(
            real, synthetic, metric, "all", return_layers=True, return_grads=True
        )
        value, expected = exact(real, synthetic, metric)
        close(distance, value.sum(), 1e-5)
        close(per_layer, value, 1e-5)
        close(torch.stack(grads), torch.stack(expected), 1e-4)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_halves_are_rounded_as_pytorch_rounds_them(dtype):
    if backends.refusal("cpu", "scale_gradients", [torch.zeros(1)], torch.zeros(1, 1), False):
        pytest.skip("there are no compiled kernels here")
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[every.isfinite()]
    for factor in (1.0, 0.5, 0.75, 1 / 3, 1.0009765, 2.0**-8, -300.0):
        (found,) = backends.backend("cpu").scale_gradients([every], torch.tensor([[factor]]), False)
        assert torch.equal(found, (every.float() * factor).to(dtype))
