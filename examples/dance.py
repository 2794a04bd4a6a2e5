"""DANCE's loop, with its random real batches and with representatives instead.

    python examples/dance.py [--iterations 21]

The loop has the structure of DANCE's ``condense``, which TGDD shares: other weights in every iteration, one step per
class on the distance of mean features, then one on the cross-entropy of a trained network. The lines that change are
marked.
"""

import argparse

import torch
import torch.nn.functional as F

from dream_accel.compat import RepresentativeLoader  # changed (1)
from dream_accel.data import load_dataset
from dream_accel.networks import make_network


class ClassMemDataLoader:
    """The loader of that name in DANCE: images in memory, drawn by class."""

    def __init__(self, images: torch.Tensor, targets: torch.Tensor, batch_size: int) -> None:
        self.data, self.targets, self.batch_size = list(images), targets, batch_size
        self.nclass = int(targets.max()) + 1
        self.cls_idx = [(targets == c).nonzero().flatten() for c in range(self.nclass)]

    def class_sample(self, c, ipc=-1):
        order = torch.randperm(len(self.cls_idx[c]))[: self.batch_size]
        indices = self.cls_idx[c][:ipc] if ipc > 0 else self.cls_idx[c][order]
        return torch.stack([self.data[i] for i in indices]).float() / 255, self.targets[indices]


def pretrained(split, seed: int, steps: int):
    """An untrained network and what training makes of it."""
    init, final = (
        make_network("convnet", split.train.shape, split.train.n_classes, width=16, depth=2, seed=seed) for _ in "ab"
    )
    images = split.normalization(split.train.images.float() / 255)
    optimizer = torch.optim.SGD(final.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        rows = torch.randint(len(images), (128,))
        optimizer.zero_grad()
        F.cross_entropy(final(images[rows]), split.train.labels[rows]).backward()
        optimizer.step()
    return init, final


def condense(args: argparse.Namespace, drop_in: bool) -> torch.Tensor:
    torch.manual_seed(0)
    split = load_dataset("digits")
    normalize = split.normalization
    premodels = [pretrained(split, seed, args.pretrain) for seed in range(args.num_premodel)]
    model_interval = make_network("convnet", split.train.shape, split.train.n_classes, width=16, depth=2, seed=0)

    loader_real = ClassMemDataLoader(split.train.images, split.train.labels, args.batch_real)
    if drop_in:
        loader_real = RepresentativeLoader(loader_real, normalize=normalize, pool=4 * args.batch_real)  # changed (2)

    nclass, ipc = loader_real.nclass, args.ipc
    data = torch.cat([loader_real.class_sample(c, ipc)[0] for c in range(nclass)]).requires_grad_()
    targets = torch.arange(nclass).repeat_interleave(ipc)
    optim_img = torch.optim.SGD([data], lr=args.lr_img, momentum=0.5)

    def step(loss: torch.Tensor) -> float:
        optim_img.zero_grad()
        loss.backward()
        optim_img.step()
        return loss.item()

    for it in range(args.iterations):
        model_init, model_final = premodels[torch.randint(len(premodels), ())]
        share = torch.rand(1)
        with torch.no_grad():
            for mixed, a, b in zip(*(m.parameters() for m in (model_interval, model_init, model_final)), strict=True):
                mixed.copy_(share * a + (1 - share) * b)
        if drop_in:
            loader_real.update(model_interval)  # changed (3): after its weights are set
        inner = inter = 0.0
        for c in range(nclass):
            img, _ = loader_real.class_sample(c)
            own = slice(c * ipc, (c + 1) * ipc)
            real = model_interval.embed(normalize(img)).detach().mean(0)
            inner += step((model_interval.embed(normalize(data[own])).mean(0) - real).square().sum())
        for c in range(nclass):
            own = slice(c * ipc, (c + 1) * ipc)
            inter += step(F.cross_entropy(model_final(normalize(data[own])), targets[own]))
        if it in (0, args.iterations - 1):
            print(f"  iteration {it}: distance {inner / nclass:.3f}, cross-entropy {inter / nclass:.3f} per class")
    return data.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=21)
    parser.add_argument("--ipc", type=int, default=2)
    parser.add_argument("--batch-real", type=int, default=32)
    parser.add_argument("--lr-img", type=float, default=0.05)
    parser.add_argument("--num-premodel", type=int, default=2)
    parser.add_argument("--pretrain", type=int, default=30, help="training steps of a final network")
    args = parser.parse_args()

    for name, drop_in in (("random batches", False), ("representatives", True)):
        print(name)
        condense(args, drop_in)


if __name__ == "__main__":
    main()
