"""DREAM's query of every class, as published and by the drop-in.

    python examples/dream.py [--clusters 64]

DREAM's code queries each class separately: it embeds the images, runs K-Means and takes the image nearest each centre.
Two imports are the only change. This script counts the distinct images that each version picks.
"""

import argparse
import time

import torch

# changed (1): instead of new_strategy.NEW_Strategy, and (2) of fast_pytorch_kmeans.KMeans where code clusters by itself
from dream_accel.compat import KMeans, NEW_Strategy
from dream_accel.data import load_dataset
from dream_accel.networks import make_network


def query_every_class(args: argparse.Namespace, as_published: bool) -> None:
    split = load_dataset("digits")
    images, labels = split.train.images.float() / 255, split.train.labels
    net = make_network("convnet", split.train.shape, split.train.n_classes, width=32, depth=2, seed=0)
    # The original embeds images that are not normalised, which the network has never seen.
    normalize = None if as_published else split.normalization

    torch.manual_seed(0)
    distinct, began = [], time.perf_counter()
    for c in range(split.train.n_classes):
        strategy = NEW_Strategy(images[labels == c], net, normalize=normalize, as_published=as_published)
        distinct.append(strategy.query(args.clusters).unique().numel())
    seconds = time.perf_counter() - began
    print(f"  {min(distinct)} to {max(distinct)} distinct images of {args.clusters} per class, in {seconds:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clusters", type=int, default=64)
    args = parser.parse_args()
    print("as published")
    query_every_class(args, as_published=True)
    print("drop-in")
    query_every_class(args, as_published=False)

    x = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    km = KMeans(n_clusters=args.clusters, mode="euclidean")
    labels = km.fit_predict(x)
    print(f"K-Means by itself: labels {tuple(labels.shape)}, centroids {tuple(km.centroids.shape)}")


if __name__ == "__main__":
    main()
