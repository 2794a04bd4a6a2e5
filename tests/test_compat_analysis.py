"""compat and analysis against the formulas written out."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from dream_accel import DreamAccelError
from dream_accel.analysis import gradient_norms
from dream_accel.compat import match_loss
from dream_accel.networks import ConvNet


def gradients(seed):
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draws) for shape in ((6, 3, 3, 3), (6,), (6, 6, 3, 3), (4, 24), (4,))]


def published_match_loss(syn, real, metric):
    """DC's definition, tensor by tensor: rows of weights by cosine, one long vector otherwise."""
    if metric == "ours":
        total = torch.zeros(())
        for s, r in zip(syn, real, strict=True):
            if s.dim() == 1:
                continue
            s, r = s.reshape(s.shape[0], -1), r.reshape(r.shape[0], -1)
            total = total + (1 - (s * r).sum(-1) / (s.norm(dim=-1) * r.norm(dim=-1) + 1e-6)).sum()
        return total
    s, r = (torch.cat([t.reshape(-1) for t in side]) for side in (syn, real))
    if metric == "mse":
        return (s - r).square().sum()
    return 1 - (s * r).sum() / (s.norm() * r.norm() + 1e-6)


@pytest.mark.parametrize("metric", ["ours", "mse", "cos"])
def test_match_loss_is_the_published_one_in_value_and_gradient(metric):
    real = gradients(0)
    ours, plain = ([g.clone().requires_grad_() for g in gradients(1)] for _ in range(2))
    loss = match_loss(ours, real, SimpleNamespace(dis_metric=metric, device="cpu"))
    expected = published_match_loss(plain, real, metric)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    found = torch.autograd.grad(loss, ours, allow_unused=True)
    wanted = torch.autograd.grad(expected, plain, allow_unused=True)
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_match_loss_refuses_an_unknown_metric():
    with pytest.raises(DreamAccelError, match="'l2': choose one of ours, mse, cos"):
        match_loss(gradients(0), gradients(1), SimpleNamespace(dis_metric="l2"))


def test_gradient_norms_are_those_of_single_image_gradients():
    draws = torch.Generator().manual_seed(0)
    network = ConvNet((1, 8, 8), 3, width=4, depth=2)
    images, labels = torch.rand(7, 1, 8, 8, generator=draws), torch.arange(7) % 3
    expected = []
    for image, label in zip(images, labels, strict=True):
        loss = F.cross_entropy(network(image[None]), label[None])
        grads = torch.autograd.grad(loss, list(network.parameters()))
        expected.append(torch.cat([g.flatten() for g in grads]).norm())
    torch.testing.assert_close(gradient_norms(network, images, labels, chunk_size=3), torch.stack(expected))
