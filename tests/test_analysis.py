"""Analysis against the formulas written out."""

import torch
import torch.nn.functional as F

from dream_accel.analysis import gradient_norms
from dream_accel.networks import ConvNet


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
