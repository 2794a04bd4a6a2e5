"""NCFM's loop, with the first images of each class and with representatives instead.

    python examples/ncfm.py [--iterations 10]

The loop has the structure of NCFM's ``Condenser.condense``: at every iteration weights between those of an untrained
and of a trained network are loaded into one network, and the characteristic functions of the features of real and
synthetic images are compared, one step per class. NCFM's loader answers ``class_sample(c, n)`` with the first n images,
and a thread reads ahead. The lines that change are marked.
"""

import argparse
import threading
from queue import Empty, Full, Queue

import torch
import torch.nn.functional as F

from dream_accel.compat import RepresentativeLoader  # changed (1)
from dream_accel.data import load_dataset
from dream_accel.networks import make_network


class ClassMemDataLoader:
    """The loader of that name in NCFM: images in memory; the first ``ipc`` of a class, or its next batch."""

    def __init__(self, images: torch.Tensor, targets: torch.Tensor, batch_size: int) -> None:
        self.data, self.targets, self.batch_size = list(images), targets, batch_size
        self.cls_idx = [(targets == c).nonzero().flatten() for c in range(int(targets.max()) + 1)]

    def class_sample(self, c, ipc=-1):
        order = torch.randperm(len(self.cls_idx[c]))[: self.batch_size]
        indices = self.cls_idx[c][:ipc] if ipc > 0 else self.cls_idx[c][order]
        return torch.stack([self.data[i] for i in indices]).float() / 255, self.targets[indices]


class AsyncLoader:
    """The loader of that name in NCFM: a thread asks for ``batch_size`` images of every class in turn."""

    def __init__(self, loader_real, class_list, batch_size: int) -> None:
        self.loader_real, self.class_list, self.batch_size = loader_real, class_list, batch_size
        self.queue: Queue = Queue(maxsize=4)
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        number = 0
        while not self.stopped.is_set():
            batch = self.loader_real.class_sample(self.class_list[number % len(self.class_list)], self.batch_size)
            while not self.stopped.is_set():
                try:
                    self.queue.put(batch, timeout=0.1)
                    break
                except Full:
                    continue
            number += 1

    def class_sample(self, c):
        images, labels = self.queue.get()  # classes are asked for in the order of class_list
        assert labels[0] == c
        return images, labels

    def stop(self) -> None:
        self.stopped.set()
        while self.thread.is_alive():
            try:
                self.queue.get(timeout=0.05)
            except Empty:
                continue


def characteristic_loss(real: torch.Tensor, synthetic: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """The mean squared distance of two empirical characteristic functions at the frequencies (m, D)."""
    parts = [(features @ frequencies.T) for features in (real, synthetic)]
    cosine, sine = (parts[0].cos().mean(0) - parts[1].cos().mean(0)), (parts[0].sin().mean(0) - parts[1].sin().mean(0))
    return (cosine.square() + sine.square()).mean()


def trained(net, images, labels, steps: int):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        rows = torch.randint(len(images), (128,))
        optimizer.zero_grad()
        F.cross_entropy(net(images[rows]), labels[rows]).backward()
        optimizer.step()
    return net


def condense(args: argparse.Namespace, drop_in: bool) -> torch.Tensor:
    torch.manual_seed(0)
    split = load_dataset("digits")
    normalize, classes = split.normalization, list(range(split.train.n_classes))
    pixels = split.train.images.float() / 255
    model_init, model_interval, model_final = (
        make_network("convnet", split.train.shape, len(classes), width=16, depth=2, seed=seed) for seed in (0, 0, 0)
    )
    trained(model_final, normalize(pixels), split.train.labels, args.pretrain)

    loader_real = ClassMemDataLoader(split.train.images, split.train.labels, args.batch_real)
    data = torch.cat([loader_real.class_sample(c, args.ipc)[0] for c in classes]).requires_grad_()
    optim_img = torch.optim.SGD([data], lr=args.lr_img, momentum=0.5)
    if drop_in:  # changed (2): in the place of the AsyncLoader
        loader_real = RepresentativeLoader(loader_real, args.batch_real, normalize=normalize, pool=4 * args.batch_real)
    else:
        loader_real = AsyncLoader(loader_real, classes, args.batch_real)

    seen: set[tuple[float, ...]] = set()
    for it in range(args.iterations):
        share = torch.rand(1)
        with torch.no_grad():
            for mixed, a, b in zip(*(m.parameters() for m in (model_interval, model_init, model_final)), strict=True):
                mixed.copy_(share * a + (1 - share) * b)
        if drop_in:
            loader_real.update(model_interval)  # changed (3): after its weights are loaded
        loss_total = 0.0
        for c in classes:
            img, _ = loader_real.class_sample(c)
            seen.update(tuple(image) for image in img.flatten(1).tolist())
            real = model_interval.embed(normalize(img)).detach()
            synthetic = model_interval.embed(normalize(data[c * args.ipc : (c + 1) * args.ipc]))
            loss = characteristic_loss(real, synthetic, torch.randn(64, real.shape[1]) / real.shape[1] ** 0.5)
            loss_total += loss.item()
            optim_img.zero_grad()
            loss.backward()
            optim_img.step()
        if it in (0, args.iterations - 1):
            print(f"  iteration {it}: loss {loss_total / len(classes):.4f} per class")
    if not drop_in:
        loader_real.stop()
    print(f"  {len(seen)} different real images in {args.iterations * len(classes) * args.batch_real} places")
    return data.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=21)
    parser.add_argument("--ipc", type=int, default=2)
    parser.add_argument("--batch-real", type=int, default=24)
    parser.add_argument("--lr-img", type=float, default=1.0)
    parser.add_argument("--pretrain", type=int, default=30, help="training steps of the final network")
    args = parser.parse_args()

    for name, drop_in in (("first images", False), ("representatives", True)):
        print(name)
        condense(args, drop_in)


if __name__ == "__main__":
    main()
