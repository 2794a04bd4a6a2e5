"""Three changed lines in a matching loop of the DC family: representative instead of random real batches.

    python examples/representative_batches.py [--steps 20]

The loop is written in the shape DC and DSA have: ``get_images(c, n)`` gives real images of class c. The three lines
that change are marked.
"""

import argparse

import torch
import torch.nn.functional as F

import dream_accel as da  # 1: the import
from dream_accel.compat import match_loss
from dream_accel.data import load_dataset
from dream_accel.networks import make_network


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--steps", type=int, default=20)
    args.add_argument("--dis_metric", default="ours")
    args = args.parse_args()

    split = load_dataset("digits")
    normalize = split.normalization
    images, labels = normalize(split.train.images.float() / 255), split.train.labels
    n_classes, batch_real, ipc = split.train.n_classes, 32, 2

    get_images = da.RepresentativeSampler(images, labels, n_clusters=batch_real)  # 2: instead of the closure
    synthetic = torch.cat([get_images(c, ipc) for c in range(n_classes)]).requires_grad_()
    optimizer = torch.optim.SGD([synthetic], lr=0.1, momentum=0.5)
    net = make_network("convnet", split.train.shape, n_classes, width=32, depth=2, seed=0)
    parameters = list(net.parameters())

    for step in range(args.steps):
        get_images.update(net)  # 3: after the network is built or has changed
        loss = torch.zeros(())
        for c in range(n_classes):
            real, syn = get_images(c, batch_real), synthetic[c * ipc : (c + 1) * ipc]
            target = torch.full((len(real),), c)
            gw_real = torch.autograd.grad(F.cross_entropy(net(real), target), parameters)
            gw_syn = torch.autograd.grad(F.cross_entropy(net(syn), target[:ipc]), parameters, create_graph=True)
            loss = loss + match_loss(gw_syn, gw_real, args)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 5 == 0 or step == args.steps - 1:
            print(f"step {step}: matching loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
