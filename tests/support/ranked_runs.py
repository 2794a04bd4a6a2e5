"""Small runs of every kind, shared by ranks: ``python -m support.ranked_runs FOLDER`` under a launcher.

The first rank writes the images, losses and accuracies that each run ends with.
"""

import json
import sys
import warnings
from pathlib import Path

import torch

import dream_accel as da
from dream_accel.data import DataSplit, ImageSet
from dream_accel.runtime.distributed import Ranks, launched_ranks

SMALL = {"ipc": 2, "factor": 1, "width": 8, "depth": 2, "inner_steps": 3, "iterations": 2, "pixel_lr": 0.5}
PICKS = {"clusters": 4, "interval": 2}
TRAINED = {"network_images": 40, "network_batch": 16}
CACHED = {"real": "cached", "trajectories": 2, "stages": 2, "draws": 1, "class_gradients": "loop"}
RUNS = {
    "dream": {**PICKS, **TRAINED, "factor": 2},
    "dream+": {**PICKS, **TRAINED, "pretrain_epochs": 1},
    "idc": {**TRAINED, "clusters": 4},
    "dc": {"clusters": 4},
    "dsa": {"clusters": 4, "init": "noise"},
    "dm": {"clusters": 4},
    "dm+": {**PICKS, "trajectories": 2, "stages": 2},
    "dream cached": {**PICKS, **TRAINED, **CACHED},
    "dream cached class": {**PICKS, **TRAINED, **CACHED, "real_batch": "class"},
    "dream some images": {**PICKS, **TRAINED, "refresh_images": 10},
    "dream central": {**PICKS, **TRAINED, "strategy": "central"},
    "dream batch norm": {**PICKS, **TRAINED, "norm": "batch"},
    "dream parts": {**PICKS, **TRAINED, "network_parts": 4},
    "dream parts batch norm": {**PICKS, **TRAINED, "network_parts": 2, "norm": "batch"},
    "dream parts cached": {**PICKS, **TRAINED, **CACHED, "network_parts": 3},
    "dm+ parts": {**PICKS, "trajectories": 2, "stages": 2, "network_batch": 32, "network_parts": 3},
}
"""Changes of a recipe, the first word of its name, in each run."""


def split() -> DataSplit:
    """Five classes of unequal sizes, noise about a grey level each."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(5).repeat_interleave(torch.tensor([30, 9, 50, 12, 24]))
    labels = labels[torch.randperm(len(labels), generator=draws)]
    noise = torch.randint(-40, 41, (len(labels), 1, 8, 8), generator=draws)
    images = (noise + 40 + 40 * labels.view(-1, 1, 1, 1)).clamp(0, 255).to(torch.uint8)
    one = ImageSet.from_arrays(images, labels, 5)
    return DataSplit("grey", one, one)


def recipe(name: str):
    """The settings of a run."""
    return da.recipe(name.partition(" ")[0], "grey", **{**SMALL, **RUNS[name]})


def fits(ranks: Ranks) -> dict[str, list]:
    """Fits of streamed rows whose chunks the ranks share: a long group, and short ones with clusters that run empty."""
    draws = torch.Generator().manual_seed(0)
    long, offsets = torch.randn(900, 5, generator=draws), torch.tensor([0, 40, 40, 43, 160, 300])
    short = torch.randn(300, 5, generator=draws)
    far = torch.full((5, 7, 5), 50.0)
    far[:, 0], far[:, 1] = 0, 0.5
    problems = {
        "long": (long, None, {"init": "k-means++"}),
        "tolerant": (long, None, {"tol": 1e-3}),
        "short": (short, offsets, {"init": "random"}),
        "empty": (short, offsets, {"init": far, "max_iter": 6}),
        "kept": (short, offsets, {"init": far, "max_iter": 6, "empty": "keep"}),
    }
    found = {}
    for name, (x, bounds, options) in problems.items():
        fit = da.BatchedKMeans(7, **options).fit(x, bounds, chunk_rows=64, ranks=ranks)
        results = (fit.labels_, fit.cluster_centers_.nan_to_num(-1), fit.counts_, fit.n_iter_, fit.inertia_)
        found[name] = [each.tolist() for each in results]
    return found


def main(folder: Path, ranks: Ranks) -> None:
    """Do all fits and runs."""
    torch.set_num_threads(1)
    found: dict = {"fits": fits(ranks)}
    for name in RUNS:
        result = da.distill(recipe(name), split(), device="cpu", ranks=ranks)
        found[name] = {
            "images": result.synthetic.images.numpy().tobytes().hex(),
            "picks": None if result.picks is None else result.picks.tolist(),
            "losses": [line.loss for line in result.history],
        }
    accuracies = da.evaluate(result, split(), networks=4, epochs=2, device="cpu", ranks=ranks).accuracies
    found["accuracies"] = accuracies
    if ranks.is_first:
        (folder / f"{ranks.count}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with launched_ranks() as launched:
        main(Path(sys.argv[1]), launched)
