"""IDC's loop, with its random real batches and with representatives instead.

    python examples/idc.py [--outer 2 --inner 5]

The loop has the structure of IDC's ``condense.py``, which DREAM shares: a loader with ``class_sample(c)`` for
one class and ``sample()`` for all, pixels in [0, 1], one pixel step per class, and a network that is trained at the
same time. The lines that change are marked.
"""

import argparse

import torch
import torch.nn.functional as F

from dream_accel.compat import RepresentativeLoader, matchloss  # changed (1): instead of its own matchloss
from dream_accel.data import load_dataset
from dream_accel.networks import make_network


class ClassMemDataLoader:
    """The loader of that name in IDC: images in memory, drawn by class or from all classes."""

    def __init__(self, images: torch.Tensor, targets: torch.Tensor, batch_size: int) -> None:
        self.data, self.targets, self.batch_size = list(images), targets, batch_size
        self.nclass = int(targets.max()) + 1
        self.cls_idx = [(targets == c).nonzero().flatten() for c in range(self.nclass)]

    def class_sample(self, c, ipc=-1):
        order = torch.randperm(len(self.cls_idx[c]))[: self.batch_size]
        indices = self.cls_idx[c][:ipc] if ipc > 0 else self.cls_idx[c][order]
        return torch.stack([self.data[i] for i in indices]).float() / 255, self.targets[indices]

    def sample(self):
        indices = torch.randperm(len(self.data))[: self.batch_size]
        return torch.stack([self.data[i] for i in indices]).float() / 255, self.targets[indices]


def condense(args: argparse.Namespace, drop_in: bool) -> torch.Tensor:
    torch.manual_seed(0)
    split = load_dataset("digits")
    normalize = split.normalization
    loader_real = ClassMemDataLoader(split.train.images, split.train.labels, args.batch_real)
    if drop_in:
        loader_real = RepresentativeLoader(loader_real, normalize=normalize)  # changed (2)

    nclass, ipc = loader_real.nclass, args.ipc
    data = torch.cat([loader_real.class_sample(c, ipc)[0] for c in range(nclass)]).requires_grad_()
    targets = torch.arange(nclass).repeat_interleave(ipc)
    optim_img = torch.optim.SGD([data], lr=args.lr_img, momentum=0.5)

    for it in range(args.outer):
        model = make_network("convnet", split.train.shape, nclass, width=16, depth=2, seed=it)
        optim_net = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
        for _ in range(args.inner):
            if drop_in:
                loader_real.update(model)  # changed (3): re-clusters every 10 steps
            loss_total = 0.0
            for c in range(nclass):
                img, lab = loader_real.class_sample(c)
                img_syn, lab_syn = data[c * ipc : (c + 1) * ipc], targets[c * ipc : (c + 1) * ipc]
                loss = matchloss(args, normalize(img), normalize(img_syn), lab, lab_syn, model)
                loss_total += loss.item()
                optim_img.zero_grad()
                loss.backward()
                optim_img.step()
            img, lab = loader_real.sample()
            optim_net.zero_grad()
            F.cross_entropy(model(normalize(img)), lab).backward()
            optim_net.step()
        print(f"  outer iteration {it}: matching loss {loss_total / nclass:.4f} per class")
    return data.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outer", type=int, default=2)
    parser.add_argument("--inner", type=int, default=5)
    parser.add_argument("--ipc", type=int, default=2)
    parser.add_argument("--batch-real", type=int, default=32)
    parser.add_argument("--lr-img", type=float, default=1e-3)
    parser.add_argument("--match", default="grad", choices=["grad", "feat", "bi_match"])
    parser.add_argument("--metric", default="l1", choices=["mse", "l1", "l1_mean", "cos"])
    args = parser.parse_args()

    for name, drop_in in (("random batches", False), ("representatives", True)):
        print(name)
        condense(args, drop_in)


if __name__ == "__main__":
    main()
