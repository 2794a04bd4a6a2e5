"""The derivative carried to the pixels, against autograd through the plain formulas."""

import pytest
import torch
import torch.nn.functional as F
from support.refusals import refused

from dream_accel.matching.class_gradients import by_loop
from dream_accel.matching.features import FeatureMatching
from dream_accel.matching.gradients import GradientMatching
from dream_accel.matching.objective import Match, Sum
from dream_accel.networks import make_network
from dream_accel.ops import LAYER_RULES, METRICS

LABEL = 2


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def network(reference):
    """In float64, which the compiled backends leave to the reference."""
    return make_network("convnet", (3, 8, 8), 4, 6, 2, 0).double()


@pytest.fixture
def batches():
    draws = torch.Generator().manual_seed(0)
    real, synthetic = (torch.randn(n, 3, 8, 8, generator=draws, dtype=torch.float64) for n in (7, 3))
    return real, synthetic.requires_grad_()


def compare(objective, network, real, synthetic) -> Match:
    """The objective on images (n, ...) of one class, of label ``LABEL``."""
    classes = range(LABEL, LABEL + 1)
    match = objective.match(network, objective.target(network, real, classes, by_loop), synthetic, classes, by_loop)
    assert match.distance.shape == (1,)
    return match._replace(distance=match.distance[0])


def plain_distance(xs: list[torch.Tensor], ys: list[torch.Tensor], metric: str) -> torch.Tensor:
    if metric.startswith("global_"):
        xs, ys = ([torch.cat([t.flatten() for t in ts]).unsqueeze(0)] for ts in (xs, ys))
        metric = metric.removeprefix("global_")
    total = torch.zeros((), dtype=torch.float64, device=ys[0].device)
    for x, y in zip(xs, ys, strict=True):
        x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
        if metric == "mse":
            total = total + (x - y).square().sum()
        elif metric == "l1":
            total = total + (x - y).abs().sum()
        elif metric == "l1_mean":
            total = total + (x - y).abs().mean(dim=1).sum()
        else:
            total = total + (1 - (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1) + 1e-6)).sum()
    return total


def plain_gradients(network, images, layers, create_graph=False):
    labels = torch.full((len(images),), LABEL, device=images.device)
    loss = F.cross_entropy(network(images), labels)
    gradients = torch.autograd.grad(loss, list(network.parameters()), create_graph=create_graph)
    dims = {"conv": (4,), "weights": (2, 4), "all": (1, 2, 4)}[layers]
    return [g for g in gradients if g.dim() in dims]


@pytest.mark.parametrize("layers", LAYER_RULES)
@pytest.mark.parametrize("metric", METRICS)
def test_gradient_matching_moves_the_pixels_like_autograd_through_the_formula(network, batches, metric, layers):
    real, pixels = batches
    expected = plain_distance(
        plain_gradients(network, real, layers), plain_gradients(network, pixels, layers, create_graph=True), metric
    )
    (expected_gradient,) = torch.autograd.grad(expected, pixels)
    match = compare(GradientMatching(metric, layers), network, real, pixels)
    torch.testing.assert_close(match.distance, expected.detach(), rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(match.pixel_gradient(pixels), expected_gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_gradient_matching_in_float32_by_every_backend(gradient_backend, metric):
    draws = torch.Generator().manual_seed(1)
    net = make_network("convnet", (3, 8, 8), 4, 6, 2, 0).to(gradient_backend.device)
    real, pixels = (torch.randn(n, 3, 8, 8, generator=draws).to(gradient_backend.device) for n in (7, 3))
    pixels.requires_grad_()
    expected = plain_distance(
        plain_gradients(net, real, "conv"), plain_gradients(net, pixels, "conv", create_graph=True), metric
    )
    (expected_gradient,) = torch.autograd.grad(expected, pixels)
    match = compare(GradientMatching(metric), net, real, pixels)
    torch.testing.assert_close(match.distance, expected.detach().float(), rtol=1e-4, atol=1e-5)
    scale = float(expected_gradient.abs().max())
    torch.testing.assert_close(match.pixel_gradient(pixels), expected_gradient, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("weight", [1.0, 0.25])
@pytest.mark.parametrize("metric", ["mse", "l1"])
def test_feature_matching_moves_the_pixels_like_autograd_through_the_formula(network, batches, metric, weight):
    real, pixels = batches
    difference = network.embed(real).mean(0).detach() - network.embed(pixels).mean(0)
    expected = weight * (difference.square() if metric == "mse" else difference.abs()).sum()
    (expected_gradient,) = torch.autograd.grad(expected, pixels)
    match = compare(FeatureMatching(metric, weight), network, real, pixels)
    torch.testing.assert_close(match.distance, expected.detach(), rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(match.pixel_gradient(pixels), expected_gradient, rtol=1e-6, atol=1e-9)


def test_sum_adds_distances_and_pixel_gradients(network, batches):
    real, pixels = batches
    terms = (GradientMatching("mse"), FeatureMatching("mse", 0.5))
    matches = [compare(term, network, real, pixels) for term in terms]
    both = compare(Sum(terms), network, real, pixels)
    torch.testing.assert_close(both.distance, sum(match.distance for match in matches))
    expected = sum(match.pixel_gradient(pixels) for match in matches)
    torch.testing.assert_close(both.pixel_gradient(pixels), expected)


def test_the_pixel_gradient_passes_through_what_made_the_images(network, batches):
    real, pixels = batches
    images = (pixels * 2 + 1).detach().requires_grad_()
    in_images = compare(GradientMatching(), network, real, images).pixel_gradient(images)
    in_pixels = compare(GradientMatching(), network, real, pixels * 2 + 1).pixel_gradient(pixels)
    torch.testing.assert_close(in_pixels, 2 * in_images)


def test_equal_batches_are_at_distance_zero_and_stay(network, batches):
    _, pixels = batches
    match = compare(Sum((GradientMatching("mse"), FeatureMatching("mse"))), network, pixels.detach(), pixels)
    assert float(match.distance) < 1e-24
    assert (match.pixel_gradient(pixels).abs() < 1e-12).all()


def test_the_network_is_left_without_gradients_and_in_its_mode(network, batches):
    real, pixels = batches
    network.train()
    compare(GradientMatching(), network, real, pixels).pixel_gradient(pixels)
    compare(FeatureMatching(), network, real, pixels).pixel_gradient(pixels)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.training
    assert pixels.grad is None


def test_features_are_the_input_of_the_last_layer_of_a_network_without_embed(batches):
    real, pixels = (batch.detach().float() for batch in batches)
    pixels.requires_grad_()
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4))
    expected = (net[:3](real).mean(0) - net[:3](pixels).mean(0)).square().sum()
    match = compare(FeatureMatching("mse"), net, real, pixels)
    torch.testing.assert_close(match.distance, expected.detach())


def test_unknown_metric_is_refused(network, batches):
    assert "unknown metric 'cosine'" in refused(compare, GradientMatching("cosine"), network, *batches)
