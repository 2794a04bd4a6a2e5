"""Representatives and the gradient distance beside a network that torch.compile has compiled.

    python examples/compiled.py [--backend inductor]

The sampler finds the network behind the compiled one for its features; the distance is an operator, which a compiled
graph can contain.
"""

import argparse

import torch
import torch.nn.functional as F

import dream_accel as da
from dream_accel.data import load_dataset
from dream_accel.networks import make_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="inductor", help="of torch.compile; inductor needs a C++ compiler")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()

    split = load_dataset("digits")
    images = split.normalization(split.train.images.float() / 255)
    net = make_network("convnet", split.train.shape, 10, width=16, depth=2, seed=0)
    compiled = torch.compile(net, backend=args.backend)
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.05, momentum=0.9)
    sampler = da.RepresentativeSampler(images, split.train.labels, n_clusters=16, interval=10)

    for step in range(args.steps):
        if sampler.update(compiled):
            print(f"step {step}: re-clustered")
        batch, labels = sampler.batch()
        loss = F.cross_entropy(compiled(batch.flatten(0, 1)), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss on representatives {loss.item():.3f}")

    @torch.compile(backend=args.backend, fullgraph=True)
    def distance(real: list[torch.Tensor], synthetic: list[torch.Tensor]) -> torch.Tensor:
        return 0.5 * da.gradient_distance(real, synthetic, metric="mse", layers="all")

    real, synthetic = ([torch.randn(8, 3, 3, 3), torch.randn(8)] for _ in range(2))
    plain = 0.5 * sum((r - s).square().sum() for r, s in zip(real, synthetic, strict=True))
    print(f"distance in a compiled graph {distance(real, synthetic).item():.4f}, in plain PyTorch {plain.item():.4f}")


if __name__ == "__main__":
    main()
