"""Gradients of a batch in parts: those of the whole batch, each on one rank, the same bits on any number of ranks."""

import pytest
import torch
from torch import nn

from dream_accel.networks import make_network
from dream_accel.networks.parts import WHOLE, BatchParts
from dream_accel.networks.training import Trainer
from dream_accel.runtime.distributed import Ranks

CPU = torch.device("cpu")


class Exchange(Ranks):
    """A rank that gives its parts away, and reads those of all ranks once they are there."""

    given: dict

    def joined(self, part):
        """Give the part; stop where others are missing."""
        self.given[self.rank] = part
        if len(self.given) < self.count:
            raise IncompleteError
        return torch.cat([self.given[rank] for rank in range(self.count)])


class IncompleteError(Exception):
    """Other ranks have not computed their parts."""


def trainer(parts: BatchParts, **changes) -> Trainer:
    """A trainer with augmentation, CutMix, momentum and weight decay."""
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "augment": "color_crop", "cutmix_probability": 0.5}
    network = make_network("convnet", (1, 8, 8), 3, 4, 2, 0)
    return Trainer(network, nn.Identity(), **settings | changes, device=CPU, seed=0, keys=(), parts=parts)


def trained(parts: BatchParts) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Losses and parameters after steps on batches of 7, 16 and 2 images."""
    draws = torch.Generator().manual_seed(0)
    ours = trainer(parts)
    losses = []
    for n in (7, 16, 2):
        images, labels = torch.rand(n, 1, 8, 8, generator=draws), torch.randint(0, 3, (n,), generator=draws)
        losses.append(ours.step(images, labels))
    return losses, [parameter.detach() for parameter in ours.network.parameters()]


@pytest.mark.parametrize("n", [1, 2, 5, 16])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_every_row_is_in_one_part_of_one_rank(n, count, ranks):
    own = [BatchParts(count, Ranks(rank, ranks)).own(n) for rank in range(ranks)]
    rows = [row for each in own for part in each for row in range(n)[part]]
    assert rows == list(range(n))
    sizes = [len(range(n)[part]) for each in own for part in each]
    assert len(sizes) == min(count, n)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("count", [2, 3, 16])
def test_parts_train_as_the_whole_batch_does(count):
    losses, parameters = trained(BatchParts(count))
    whole_losses, whole_parameters = trained(WHOLE)
    torch.testing.assert_close(losses, whole_losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parameters, whole_parameters, rtol=1e-4, atol=1e-6)
    assert not any(loss.requires_grad for loss in losses)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_have_the_bits_of_one(ranks):
    images, labels = torch.rand(11, 1, 8, 8), torch.randint(0, 3, (11,))
    alone = trainer(BatchParts(3))
    loss = alone.step(images, labels)
    given: dict[int, torch.Tensor] = {}
    for rank in range(ranks):
        shared = Exchange(rank, ranks)
        object.__setattr__(shared, "given", given)
        ours = trainer(BatchParts(3, shared))
        if rank < ranks - 1:
            with pytest.raises(IncompleteError):
                ours.step(images, labels)
    assert torch.equal(ours.step(images, labels), loss)
    for found, expected in zip(ours.network.parameters(), alone.network.parameters(), strict=True):
        assert torch.equal(found, expected)
    assert sum(map(len, given.values())) == 3


def test_one_part_exchanges_nothing():
    assert not BatchParts(1, Ranks(0, 2)).exchanged
    assert not BatchParts(4).exchanged
    assert BatchParts(2, Ranks(1, 2)).exchanged
