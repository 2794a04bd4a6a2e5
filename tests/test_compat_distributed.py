"""Two processes of a distributed run: every rank is given the same images."""

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from dream_accel.compat import GetImages
from dream_accel.networks import make_network

LABELS = torch.arange(3).repeat_interleave(30)
IMAGES = torch.randn(90, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def picks(net):
    draw = GetImages(IMAGES, LABELS, 6, interval=2)
    for _ in range(3):
        draw.update(net)
    return torch.cat([draw.indices, torch.stack([draw(c, 4)[:, 0, 0, 0] for c in range(3)])], dim=1)


def rank_main(rank, folder):
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    # Different networks: DistributedDataParallel makes them rank 0's.
    net = nn.parallel.DistributedDataParallel(make_network("convnet", (1, 8, 8), 3, 6, 2, seed=rank))
    torch.save(picks(net), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_every_rank_draws_the_same_images(tmp_path):
    mp.spawn(rank_main, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, picks(make_network("convnet", (1, 8, 8), 3, 6, 2, seed=0)))
