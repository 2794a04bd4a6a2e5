"""Measurement of assignment tiles on the GPU of this machine: ``python -m dream_accel.kernels.tuning [--out FILE]``.

Nothing reads the file unless ``DREAM_ACCEL_TUNED_TILES`` asks for it (see :mod:`.tuned`).
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import triton
import triton.testing
from triton.runtime.errors import OutOfResources

from . import tiles, tuned
from .assign import PRECISIONS, kmeans_assign
from .tiles import AssignTile

GROUPS, ROWS, FEATURES = 10, 5000, 2048
"""Size of the timed problem: ten classes of the size of CIFAR-10's, with the features of a ConvNet."""
WORTHWHILE = 0.97
"""A tile replaces that of the table if it takes less than this share of its time; smaller gains are noise."""

Timer = Callable[[int, str, AssignTile], float]
"""From clusters per tile, precision and tile to milliseconds; infinity for a tile that does not fit the GPU."""


def candidates(clusters: int) -> Iterator[AssignTile]:
    """Tiles worth trying for one shape class."""
    for rows, features, warps in itertools.product((32, 64, 128), (16, 32, 64), (4, 8)):
        yield AssignTile(rows, clusters, features, warps, stages=3)


def tune(
    arch: int,
    milliseconds: Timer,
    say: Callable[[str], None] = lambda line: None,
    keep: Callable[[tuned.Tiles], None] = lambda found: None,
) -> tuned.Tiles:
    """Choose the fastest tile for every shape class and precision; that of the table where none is clearly faster.

    Args:
        arch: the architecture, as :mod:`.tiles` numbers them.
        milliseconds: the timer.
        say: called with a line about every choice.
        keep: called with all choices so far after every choice, so that a process that is killed loses one at most.
    """
    found: tuned.Tiles = {}
    for clusters, precision in itertools.product(tiles.CLUSTER_CLASSES, PRECISIONS):
        table = tiles.assign_tile(arch, clusters, FEATURES, precision)
        limit = milliseconds(clusters, precision, table)
        best, shortest = table, WORTHWHILE * limit
        for tile in candidates(clusters):
            if tile == table:
                continue
            duration = milliseconds(clusters, precision, tile)
            if duration < shortest:
                best, shortest = tile, duration
        found[clusters, precision] = best
        keep(found)
        kept = "kept" if best == table else f"{shortest:.3f} ms with {best}"
        say(f"K {clusters}, {precision}: {limit:.3f} ms with {table}; {kept}")
    return found


def gpu_timer(device: torch.device) -> Timer:
    """A timer that takes the median of many launches on ``device``."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(GROUPS * ROWS, FEATURES, device=device, generator=generator)
    offsets = torch.arange(GROUPS + 1, device=device) * ROWS

    def milliseconds(clusters: int, precision: str, tile: AssignTile) -> float:
        centroids = x.view(GROUPS, ROWS, FEATURES)[:, :clusters].contiguous()
        try:
            return float(
                triton.testing.do_bench(
                    lambda: kmeans_assign(x, offsets, centroids, precision=precision, with_distance=False, tile=tile),
                    return_mode="median",
                )
            )
        except OutOfResources:
            return math.inf

    return milliseconds


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write every choice as it is made, and print how to use the file; returns 1 where there is no GPU."""
    parser = argparse.ArgumentParser(description="Measure tile sizes of the K-Means assignment on this GPU.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, help="Where to write them. [default: the cache folder]")
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    if device.type != "cuda" or not torch.cuda.is_available():
        print(f"tiles are measured on a CUDA device and there is none at {device}", file=sys.stderr)
        return 1
    gpu = tuned.gpu_name(device)
    assert gpu is not None
    out = args.out or tuned.default_file(gpu)
    earlier = tuned.earlier(out, gpu)
    tune(tiles.architecture(device), gpu_timer(device), print, lambda found: tuned.write(out, gpu, earlier | found))
    print(f"written to {out}; {tuned.VARIABLE}={'1' if args.out is None else out} uses them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
