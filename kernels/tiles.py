"""Tile sizes, by architecture, shape class and dtype.

A tile changes the order of floating-point sums, so it is a function of (architecture, K, D, precision) alone: never of
the number of rows or groups, and never of a timing unless the user opts in (:mod:`.tuned`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

MAP_TILES = 32
"""Tiles computed by one program of the tile map."""
MAP_GROUPS = 128
"""Groups that the tile map reads at a time."""
MEMBER_ROWS = 256
"""Rows per tile of the counting sort."""
MEMBER_SCAN = 4096
"""Histogram entries that one program of the scan holds."""
SELECT_MEMBERS = 512
"""Members of a cluster read at a time, to choose among them."""
SELECT_ROWS = 4096
"""Rows of a group read at a time, to choose among them."""
RANK_ROWS = 128
"""Chosen rows ranked at a time."""
RANK_OTHERS = 32
"""Rows each of them is compared with at a time."""
LISTED = 128
"""Members of a cluster looked at at a time, for those that have changed."""
SHIFTED_FEATURES = 512
"""Features from which on an iteration reads only the rows that have changed: of fewer, lists cost as much as rows."""
FULL_EVERY = 8
"""Updates between two that read all rows, so that rounding does not add up in the sums."""

CLUSTER_CLASSES = (32, 64, 128)
"""Shape classes of the assignment by their clusters per tile."""
GRAM_ROWS = 128
"""Rows labelled from products by one program."""


class AssignTile(NamedTuple):
    """One program's share of an assignment."""

    rows: int
    clusters: int
    features: int
    warps: int
    stages: int


class SweepTile(NamedTuple):
    """One program's share of a pass that reads rows and multiplies nothing."""

    rows: int
    features: int
    warps: int


class MapTile(NamedTuple):
    """One program's share of feature maps."""

    maps: int
    windows: int
    warps: int


# Keys: architecture, clusters per tile, precision. Two programs of 64 rows share an SM on sm_90 and sm_100; with 128
# rows the last wave of ten CIFAR-sized classes would be nearly empty.
_ASSIGN: dict[tuple[int, int, str], AssignTile] = {
    (80, 128, "bf16"): AssignTile(64, 128, 64, 4, 3),
    (80, 128, "tf32"): AssignTile(64, 128, 32, 4, 3),
    (80, 128, "fp32"): AssignTile(64, 128, 16, 8, 3),
    (80, 64, "bf16"): AssignTile(64, 64, 64, 4, 3),
    (80, 64, "tf32"): AssignTile(64, 64, 32, 4, 4),
    (80, 64, "fp32"): AssignTile(64, 64, 16, 4, 3),
    (80, 32, "bf16"): AssignTile(64, 32, 64, 4, 4),
    (80, 32, "tf32"): AssignTile(64, 32, 32, 4, 4),
    (80, 32, "fp32"): AssignTile(64, 32, 32, 4, 3),
    (90, 128, "bf16"): AssignTile(64, 128, 64, 4, 3),
    (90, 128, "tf32"): AssignTile(64, 128, 32, 4, 4),
    (90, 128, "fp32"): AssignTile(64, 128, 32, 4, 3),
    (90, 64, "bf16"): AssignTile(64, 64, 64, 4, 4),
    (90, 64, "tf32"): AssignTile(64, 64, 32, 4, 4),
    (90, 64, "fp32"): AssignTile(64, 64, 32, 4, 3),
    (90, 32, "bf16"): AssignTile(64, 32, 64, 4, 4),
    (90, 32, "tf32"): AssignTile(64, 32, 32, 4, 4),
    (90, 32, "fp32"): AssignTile(64, 32, 32, 4, 3),
}
_ASSIGN.update({(100, *key[1:]): tile for key, tile in list(_ASSIGN.items()) if key[0] == 90})

# For D that is not a multiple of 16: rows are read value by value, and their addresses occupy registers.
_UNEVEN = {80: AssignTile(64, 64, 16, 4, 2), 90: AssignTile(64, 128, 16, 4, 2), 100: AssignTile(64, 128, 16, 4, 2)}

PRODUCT = AssignTile(32, 64, 32, 4, 2)
"""Tile of a Gram matrix: the same on every GPU and for every size, so that an entry depends on its two rows alone."""

_UNKNOWN = AssignTile(32, 64, 32, 4, 2)
"""Small enough for the registers and shared memory of every supported GPU."""


def architecture(device: torch.device) -> int:
    """80, 90 or 100 for the GPUs the tables know, the plain capability for others, 0 for no GPU."""
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 100 if major == 10 else 10 * major + minor


def cluster_class(n_clusters: int) -> int:
    """Clusters per tile of the shape class that K belongs to."""
    return next((size for size in CLUSTER_CLASSES if n_clusters <= size), CLUSTER_CLASSES[-1])


def assign_tile(arch: int, n_clusters: int, n_features: int, precision: str) -> AssignTile:
    """Tile of the assignment; GPUs that the table does not list get one that fits every GPU."""
    clusters = cluster_class(n_clusters)
    tile = _ASSIGN.get((arch, clusters, precision), _UNKNOWN)
    if n_features % 16:
        tile = _UNEVEN.get(arch, tile)
    return tile._replace(clusters=min(tile.clusters, clusters))


def sweep_tile(n_features: int) -> SweepTile:
    """Tile of the passes that read rows in the order they are stored."""
    features = block_of(n_features, at_most=128)
    return SweepTile(rows=2048 // features, features=features, warps=4)


def gather_tile(n_features: int) -> SweepTile:
    """Tile of the mean, which reads scattered rows: few at once, since a cluster may have no more."""
    return SweepTile(rows=8, features=block_of(n_features, at_most=256), warps=4)


def map_tile(height: int, width: int) -> MapTile:
    """Tile of a pass over feature maps; large maps take several rounds."""
    windows = block_of((height // 2) * (width // 2), at_most=256)
    return MapTile(maps=256 // windows, windows=windows, warps=2)


def shift_tile(n_features: int) -> SweepTile:
    """Tile of the mean that reads changed rows, of which a cluster has a few."""
    return gather_tile(n_features)._replace(rows=4)


def block_of(size: int, at_most: int) -> int:
    """The power of two that covers ``size``, from 16 to ``at_most``."""
    return max(16, min(at_most, 1 << max(size - 1, 0).bit_length()))
