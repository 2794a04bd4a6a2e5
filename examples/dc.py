"""DC's loop, with its random real batches and with representatives instead.

    python examples/dc.py [--iterations 10] [--dis-metric ours]

The loop has the structure of ``main.py`` of DC and DSA: ``get_images(c, n)`` returns real images of class c for three
purposes. The lines that change are marked; without them the loop is the original's.
"""

import argparse

import numpy as np
import torch
import torch.nn.functional as F

from dream_accel.compat import GetImages, match_loss  # changed (1): instead of utils.match_loss
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

    image_syn = torch.cat([get_images(c, ipc) for c in range(num_classes)]).requires_grad_()  # initialisation: random
    label_syn = torch.arange(num_classes).repeat_interleave(ipc)
    optimizer_img = torch.optim.SGD([image_syn], lr=args.lr_img, momentum=0.5)

    seen: set[tuple[float, ...]] = set()
    for it in range(args.iterations):
        net = make_network("convnet", split.train.shape, num_classes, width=16, depth=2, seed=it)
        net_parameters = list(net.parameters())
        if drop_in:
            get_images.update(net)  # changed (3): after the network is built

        loss = torch.tensor(0.0)
        for c in range(num_classes):
            img_real = get_images(c, args.batch_real)  # matching: representatives
            seen.update(tuple(image) for image in img_real.flatten(1).tolist())
            lab_real = torch.full((len(img_real),), c)
            img_syn, lab_syn = image_syn[c * ipc : (c + 1) * ipc], label_syn[c * ipc : (c + 1) * ipc]
            gw_real = [
                g.detach() for g in torch.autograd.grad(F.cross_entropy(net(img_real), lab_real), net_parameters)
            ]
            gw_syn = torch.autograd.grad(F.cross_entropy(net(img_syn), lab_syn), net_parameters, create_graph=True)
            loss = loss + match_loss(gw_syn, gw_real, args)
        optimizer_img.zero_grad()
        loss.backward()
        optimizer_img.step()
        if it in (0, args.iterations - 1):
            print(f"  iteration {it}: matching loss {loss.item() / num_classes:.3f} per class")
    print(f"  {len(seen)} different real images in {args.iterations * num_classes * args.batch_real} places")
    return image_syn.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--ipc", type=int, default=2)
    parser.add_argument("--batch-real", type=int, default=32)
    parser.add_argument("--lr-img", type=float, default=0.1)
    parser.add_argument("--dis-metric", default="ours", choices=["ours", "mse", "cos"])
    args = parser.parse_args()

    for name, drop_in in (("random batches", False), ("representatives", True)):
        print(name)
        condense(args, drop_in)


if __name__ == "__main__":
    main()
