"""DM's loop, with its random real batches and with representatives instead.

    python examples/dm.py [--iterations 20]

The loop has the structure of DM's ``main_DM.py``, which DataDAM and CAFE share: a new network in every iteration, and
the distance of mean embeddings. IDM also calls ``get_images(None, n)`` for a mixed batch with labels. The lines that
change are marked.
"""

import argparse

import numpy as np
import torch

from dream_accel.compat import GetImages  # changed (1)
from dream_accel.data import load_dataset
from dream_accel.networks import make_network


def condense(args: argparse.Namespace, drop_in: bool) -> torch.Tensor:
    split = load_dataset("digits")
    images_all = split.normalization(split.train.images.float() / 255)
    labels_all = split.train.labels
    num_classes, ipc = split.train.n_classes, args.ipc
    indices_class = [(labels_all == c).nonzero().flatten().numpy() for c in range(num_classes)]

    def get_images(c, n):
        return images_all[np.random.default_rng().permutation(indices_class[c])[:n]]

    if drop_in:
        # changed (2): the closure
        get_images = GetImages(images_all, labels_all, args.batch_real, pool=4 * args.batch_real)

    image_syn = torch.cat([get_images(c, ipc) for c in range(num_classes)]).requires_grad_()
    optimizer_img = torch.optim.SGD([image_syn], lr=args.lr_img, momentum=0.5)

    for it in range(args.iterations):
        net = make_network("convnet", split.train.shape, num_classes, width=16, depth=2, seed=it)
        if drop_in:
            get_images.update(net)  # changed (3): after the network is built

        loss = torch.tensor(0.0)
        for c in range(num_classes):
            output_real = net.embed(get_images(c, args.batch_real)).detach()
            output_syn = net.embed(image_syn[c * ipc : (c + 1) * ipc])
            loss = loss + ((output_real.mean(dim=0) - output_syn.mean(dim=0)) ** 2).sum()
        optimizer_img.zero_grad()
        loss.backward()
        optimizer_img.step()
        if it in (0, args.iterations - 1):
            print(f"  iteration {it}: distance {loss.item() / num_classes:.3f} per class")
    return image_syn.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--ipc", type=int, default=2)
    parser.add_argument("--batch-real", type=int, default=32)
    parser.add_argument("--lr-img", type=float, default=0.1)
    args = parser.parse_args()

    for name, drop_in in (("random batches", False), ("representatives", True)):
        print(name)
        condense(args, drop_in)


if __name__ == "__main__":
    main()
