"""Benchmark of the real batch where every step draws a network: cost of an iteration, and the picks of each way.

    python -m dream_accel.bench.network_per_step [--quick] [--classes 3] [--only time] [--data digits]

The loop has the shape of DC at one image per class: a new ConvNet in every iteration, one matching step, the gradients
of a real batch and of one synthetic image of each class. Ways are timed in turn, in blocks of ten iterations, so that
each block holds one refresh; on a CPU by the processor time of one thread, which other work on the machine hardly
changes. Nearly all costs are proportional to the number of classes, so fewer give about the same ratios. Without
``--data`` the images have the shape of Fashion-MNIST and are drawn at random around smooth patterns of their class.

Picks are judged with networks that no refresh has seen: ``gradient error`` is the relative distance of the mean
gradient over the picks from that over the whole class; ``coverage`` the sum of the squared distances of all images to
the nearest pick, over that of picks by the network itself from all images; ``overlap`` the share of picks in common
with those.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dream_accel import ops
from dream_accel.compat import GetImages, match_loss
from dream_accel.data import load_dataset
from dream_accel.networks import make_network
from dream_accel.networks.features import embed_rows
from dream_accel.random import derive_seed, generator

from .harness import device_name

BLOCK = 10
"""iterations that are timed together, and the interval of the sampler"""


class Problem:
    """Images by class, class after class, and the networks of the loop."""

    def __init__(self, images: Tensor, labels: Tensor, batch: int, width: int, depth: int, seed: int = 0) -> None:
        order = torch.argsort(labels, stable=True)
        self.images, self.labels, self.batch = images[order], labels[order], batch
        self.sizes = torch.bincount(self.labels).tolist()
        self.offsets = F.pad(torch.tensor(self.sizes).cumsum(0), (1, 0)).to(images.device)
        self.classes = len(self.sizes)
        self._width, self._depth, self._seed = width, depth, seed

    def network(self, *keys: object) -> nn.Module:
        """A network of its own for every key."""
        channels, height, width = self.images.shape[1:]
        seed = derive_seed(self._seed, *keys)
        return make_network("convnet", (channels, height, width), self.classes, self._width, self._depth, seed).to(
            self.images.device
        )

    def sampler(self, **options: Any) -> GetImages:
        """The drop-in over all images."""
        return GetImages(self.images, self.labels, self.batch, interval=BLOCK, **options)

    def random_rows(self, c: int) -> Tensor:
        """Rows of a random batch of class c, as the original closure draws them."""
        return torch.randperm(self.sizes[c], device=self.images.device)[: self.batch] + self.offsets[c]


def _drawn(classes: int, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images (classes * rows, 1, 28, 28): every class has a mean and 16 smooth directions of its own, and noise."""
    parts = []
    for c in range(classes):
        draws = generator(0, "network per step", c)
        patterns = torch.randn(17, 1, 7, 7, generator=draws)
        smooth = F.interpolate(patterns, (28, 28), mode="bicubic").flatten(1)
        weights = torch.cat([torch.ones(rows, 1), 0.5 * torch.randn(rows, 16, generator=draws)], dim=1)
        parts.append(weights @ smooth + 0.3 * torch.randn(rows, 784, generator=draws))
    images = torch.cat(parts).view(-1, 1, 28, 28)
    labels = torch.arange(classes).repeat_interleave(rows)
    return ((images - images.mean()) / images.std()).to(device), labels.to(device)


def block_of_iterations(
    problem: Problem, sampler: GetImages | None, formula: bool, synthetic: Tensor | None = None
) -> Callable[[], None]:
    """Ten iterations of the loop.

    Args:
        problem: images and networks.
        sampler: the drop-in; None draws random batches as the original does.
        formula: compare gradients by the original's formula instead of ``match_loss``.
        synthetic: (C, ...) the images of the classes, changed in place; default: random ones.
    """
    device = problem.images.device
    count = 0
    if synthetic is None:
        synthetic = torch.randn(problem.classes, *problem.images.shape[1:], device=device)
    synthetic.requires_grad_()
    optimizer = torch.optim.SGD([synthetic], lr=0.1, momentum=0.5)
    args = SimpleNamespace(dis_metric="ours", device=device)

    def iteration() -> None:
        nonlocal count
        count += 1
        net = problem.network("timed", count)
        parameters = list(net.parameters())
        if sampler is not None:
            sampler.update(net)
        loss = torch.zeros((), device=device)
        for c in range(problem.classes):
            real = problem.images[problem.random_rows(c)] if sampler is None else sampler(c, problem.batch)
            label = torch.full((len(real),), c, device=device)
            gw_real = [g.detach() for g in torch.autograd.grad(F.cross_entropy(net(real), label), parameters)]
            output = net(synthetic[c : c + 1])
            gw_syn = torch.autograd.grad(F.cross_entropy(output, label[:1]), parameters, create_graph=True)
            loss = loss + (_published(gw_syn, gw_real) if formula else match_loss(gw_syn, gw_real, args))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def block() -> None:
        for _ in range(BLOCK):
            iteration()

    return block


def _published(synthetic: Any, real: Any) -> Tensor:
    total = torch.zeros((), device=real[0].device)
    for s, r in zip(synthetic, real, strict=True):
        if s.dim() > 1:
            s, r = s.reshape(len(s), -1), r.reshape(len(r), -1)
            total = total + (1 - (s * r).sum(-1) / (s.norm(dim=-1) * r.norm(dim=-1) + 1e-6)).sum()
    return total


def judge_picks(problem: Problem, pools: list[int], networks: int) -> dict[str, tuple[float, float, float]]:
    """Gradient error, coverage and overlap of each way, means over classes and networks."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for number in range(networks):
        net, earlier = problem.network("judge", number), problem.network("earlier", number)
        x = embed_rows(problem.images, torch.arange(len(problem.images)), net)
        whole = [_gradient(problem, net, slice(*problem.offsets[c : c + 2].tolist())) for c in range(problem.classes)]

        def picks(source: Any, seed: int = number, **options: Any) -> Tensor:
            sampler = problem.sampler(seed=seed, **options)
            sampler.refresh(source)
            assert sampler.indices is not None
            return sampler.indices

        own = picks(net)
        ways = {
            "random batch": torch.stack([problem.random_rows(c) for c in range(problem.classes)]),
            "all images": own,
            "all images, other seed": picks(net, seed=number + 1000),
            "all images, earlier network": picks(earlier),
            "all images, pixels as features": picks(torch.nn.Flatten().forward),
        }
        for pool in pools:
            ways[f"pool of {pool}"] = picks(net, pool=pool)
            ways[f"pool of {pool}, earlier network"] = picks(earlier, pool=pool)
        least = _coverage(problem, x, own)
        for name, rows in ways.items():
            errors = []
            for c in range(problem.classes):
                gradient = _gradient(problem, net, rows[c])
                errors.append(float((gradient - whole[c]).norm() / whole[c].norm()))
            common = (rows.unsqueeze(2) == own.unsqueeze(1)).any(dim=2).float().mean()
            values = (statistics.mean(errors), _coverage(problem, x, rows) / least, float(common))
            found.setdefault(name, []).append(values)
    return {name: _means(values) for name, values in found.items()}


def _means(values: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    errors, coverage, overlap = zip(*values, strict=True)
    return statistics.mean(errors), statistics.mean(coverage), statistics.mean(overlap)


def _coverage(problem: Problem, x: Tensor, rows: Tensor) -> float:
    return float(ops.kmeans_assign(x, problem.offsets, x[rows])[1].sum())


def _gradient(problem: Problem, net: nn.Module, rows: Any) -> Tensor:
    """The mean gradient of the cross-entropy over the rows, in the weights, as one vector."""
    images, labels = problem.images[rows], problem.labels[rows]
    parameters = [p for p in net.parameters() if p.dim() > 1]
    total: Tensor | None = None
    for some, of in zip(images.split(512), labels.split(512), strict=True):
        loss = F.cross_entropy(net(some), of, reduction="sum")
        part = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
        total = part if total is None else total + part
    assert total is not None
    return total / len(images)


def main() -> None:
    """Measure, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a name that load_dataset takes, in place of drawn images")
    parser.add_argument("--rows", type=int, default=6000, help="drawn images per class")
    parser.add_argument("--classes", type=int, default=10, help="drawn classes")
    parser.add_argument("--batch", type=int, default=256, help="real images per class and step")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--networks", type=int, default=3, help="networks that judge the picks")
    parser.add_argument("--rounds", type=int, default=5, help="timed blocks of each way")
    parser.add_argument("--pools", type=int, nargs="*", help="images per class; default: 2, 4 and 8 batches")
    parser.add_argument("--pools-only", action="store_true", help="time neither all images nor the default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=["time", "picks"], help="one of the two tables")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, one round")
    args = parser.parse_args()
    if args.quick:
        args.rows, args.classes, args.batch, args.width, args.networks, args.rounds = 60, 3, 8, 8, 1, 1
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    if args.data is None:
        images, labels = _drawn(args.classes, args.rows, device)
    else:
        split = load_dataset(args.data)
        images = split.normalization(split.train.images.float() / 255).to(device)
        labels = split.train.labels.to(device)
    problem = Problem(images, labels, args.batch, args.width, args.depth)
    pools = args.pools or [2 * args.batch, 4 * args.batch, 8 * args.batch]
    print(f"{device_name(device)}, {torch.get_num_threads()} threads; {problem.classes} classes of {problem.sizes[0]}")
    if args.only != "picks":
        _print_times(problem, pools, args.rounds, args.pools_only)
    if args.only != "time":
        print(f"\n{'picks':36} gradient error  coverage  overlap")
        for name, (error, coverage, overlap) in judge_picks(problem, pools, args.networks).items():
            print(f"{name:36} {error:14.3f} {coverage:9.3f} {overlap:8.2f}")


def _print_times(problem: Problem, pools: list[int], rounds: int, pools_only: bool) -> None:
    device = problem.images.device
    block = partial(block_of_iterations, problem, formula=False)
    ways = {"original": block_of_iterations(problem, None, formula=True)}
    if not pools_only:
        sampler = problem.sampler()
        # The first refresh reads all images, once in a run, since no network is known yet.
        for step in range(BLOCK):
            sampler.update(problem.network("first", step))
        ways |= {"all images": block(problem.sampler(pool=max(problem.sizes))), "default": block(sampler)}
    ways |= {f"pool of {pool}": block(problem.sampler(pool=pool)) for pool in pools}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, call in ways.items():
            times[name].append(_seconds(call, device))
    print(f"\n{'an iteration':20} seconds   of the original's (median of blocks timed side by side)")
    for name, seconds in times.items():
        ratio = statistics.median(ours / theirs for ours, theirs in zip(seconds, times["original"], strict=True))
        print(f"{name:20} {statistics.median(seconds) / BLOCK:7.3f} {ratio:10.2f}", flush=True)


def _seconds(call: Callable[[], None], device: torch.device) -> float:
    if device.type == "cpu":
        began = time.process_time()
        call()
        return time.process_time() - began
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    call()
    torch.cuda.synchronize(device)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
