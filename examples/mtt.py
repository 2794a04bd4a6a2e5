"""Trajectory matching, initialised with random real images and with representatives.

    python examples/mtt.py [--iterations 3]

The loop has the structure of MTT's ``distill.py``: the trajectory of an expert is matched by a network trained on the
synthetic images. Real images only initialise the synthetic set, so that a list of row numbers is the only change.
TESLA, FTD and DATM keep the same list; RDED and D4M choose images once as well.
"""

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from torch.func import functional_call

from dream_accel.compat import class_indices  # changed (1)
from dream_accel.data import load_dataset
from dream_accel.evaluation import Protocol, evaluate_images
from dream_accel.networks import make_network


def expert_trajectory(net, images, labels, steps: int) -> list[dict[str, torch.Tensor]]:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    states = [{name: p.detach().clone() for name, p in net.named_parameters()}]
    draws = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(images), (256,), generator=draws)
        optimizer.zero_grad()
        F.cross_entropy(net(images[rows]), labels[rows]).backward()
        optimizer.step()
        states.append({name: p.detach().clone() for name, p in net.named_parameters()})
    return states


def condense(args: argparse.Namespace, drop_in: bool) -> tuple[torch.Tensor, torch.Tensor]:
    split = load_dataset("digits")
    images_all = split.normalization(split.train.images.float() / 255)
    labels_all = split.train.labels
    num_classes, ipc = split.train.n_classes, args.ipc
    net = make_network("convnet", split.train.shape, num_classes, width=16, depth=2, seed=0)
    states = expert_trajectory(net, images_all, labels_all, args.expert_steps)

    indices_class = [(labels_all == c).nonzero().flatten().tolist() for c in range(num_classes)]
    if drop_in:
        indices_class = class_indices(images_all, labels_all, ipc, net)  # changed (2): the expert embeds

    def get_images(c, n):
        return images_all[np.random.default_rng(0).permutation(indices_class[c])[:n]]

    image_syn = torch.cat([get_images(c, ipc) for c in range(num_classes)]).requires_grad_()
    label_syn = torch.arange(num_classes).repeat_interleave(ipc)
    optimizer_img = torch.optim.SGD([image_syn], lr=args.lr_img, momentum=0.5)
    start, target = states[0], states[-1]
    travelled = sum((start[name] - target[name]).square().sum() for name in start)
    for it in range(args.iterations):
        student = {name: p.clone().requires_grad_() for name, p in start.items()}
        for _ in range(args.syn_steps):
            loss = F.cross_entropy(functional_call(net, student, (image_syn,)), label_syn)
            gradients = torch.autograd.grad(loss, list(student.values()), create_graph=True)
            student = {name: p - 0.05 * g for (name, p), g in zip(student.items(), gradients, strict=True)}
        grand_loss = sum((student[name] - target[name]).square().sum() for name in target) / travelled
        optimizer_img.zero_grad()
        grand_loss.backward()
        optimizer_img.step()
        if it in (0, args.iterations - 1):
            print(f"  iteration {it}: distance to the expert {grand_loss.item():.4f}")
    return split.normalization.inverse(image_syn.detach()), label_syn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--ipc", type=int, default=2)
    parser.add_argument("--expert-steps", type=int, default=40)
    parser.add_argument("--syn-steps", type=int, default=5)
    parser.add_argument("--lr-img", type=float, default=10.0)
    parser.add_argument("--epochs", type=int, default=100, help="of the network that is trained on the result")
    args = parser.parse_args()

    split = load_dataset("digits")
    protocol = Protocol(width=16, depth=2, networks=1, epochs=args.epochs, augment="", cutmix=0.0)
    for name, drop_in in (("random images first", False), ("representatives first", True)):
        print(name)
        images, labels = condense(args, drop_in)
        accuracy = evaluate_images(images, labels, split.test, split.normalization, protocol)
        print(f"  test accuracy {accuracy.mean:.1f} % with {args.ipc} images per class")


if __name__ == "__main__":
    main()
