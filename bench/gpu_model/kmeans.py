"""The work of the Triton kernels of K-Means, read from ``kernels/``; every entry has the name of its kernel there."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dream_accel.kernels import tiles
from dream_accel.kernels.tiles import AssignTile, SweepTile

from .devices import Device
from .work import Kernel

INT = FLOAT = 4
LONG = 8
ROUNDING = {"tf32": 3, "bf16": 2, "fp32": 4}
"""Instructions per row value of a product: subtracting the mean and rounding, and for fp32 the norm of the row."""
NEAR = 0.01
"""Part of the rows whose two nearest centroids are within the error bound of a tf32 product (fp32).

1.5, 0.6 and 0.2 % after 1, 5 and 15 iterations, for a class of CIFAR-10 embedded by a random ConvNet-3 of width 128.
"""
NEAR_TILES = 0.4
"""Part of the tiles with such a row: 65, 33 and 10 % there."""
DECIDING = 8
"""Instructions per value of such a tile: two differences, their squares, and the masks of the loads."""
COMPARING = 4
"""Instructions per pair of rows that are compared, or per row that a selection looks at."""
SELECTING = 4
"""Histograms of eight bits each that find the last of several rows to be picked."""
UPDATE_REGISTERS, SHIFT_REGISTERS = 80, 112
"""Of the kernels of the means on sm_90: ``python -m dream_accel.kernels.report 90``."""
CHANGED = 0.1
"""Part of the rows that change their cluster in an iteration, after the first ones: 25, 11, 7, 4.5, 3.6 ... 0.4 %."""
TILE_MAP = "_tile_map_kernel"
"""A fit makes each map once, a single operator whenever it is called."""


@dataclass(frozen=True)
class Rows:
    """Groups of rows; ragged ones count as groups of the mean size."""

    groups: int
    rows: int
    features: int
    clusters: int
    itemsize: int = FLOAT
    """Bytes of a value of x."""

    @property
    def x(self) -> float:
        """Bytes of the rows."""
        return self.rows * self.features * self.itemsize

    @property
    def centroids(self) -> float:
        """Bytes of all centroids."""
        return self.groups * self.clusters * self.features * FLOAT

    def tiles(self, rows: int) -> int:
        """Tiles of at most so many rows, none across groups."""
        return self.groups * math.ceil(self.rows / self.groups / rows)

    def x_from_memory(self, device: Device) -> float:
        """Bytes of a pass over the rows that come from DRAM: none where rows and centroids stay in the L2 cache."""
        return self.x if self.x + 2 * self.centroids > device.l2_bytes else 0.0


def tile_map(s: Rows, rows: int) -> Kernel:
    """Tiles to groups."""
    n_tiles = s.rows // rows + s.groups
    programs = math.ceil(n_tiles / tiles.MAP_TILES)
    moved = n_tiles * (INT + LONG) + programs * s.groups * LONG
    waits = 1 + math.ceil(s.groups / tiles.MAP_GROUPS)
    return Kernel(TILE_MAP, l2=moved, programs=programs, waits=waits)


def tile_maps(s: Rows, device: Device, precision: str, empty: str) -> list[Kernel]:
    """The maps of a fit."""
    calls = [*assign(s, device, precision), *update(s, device, empty)]
    return [kernel for kernel in calls if kernel.name == TILE_MAP]


def live_centroids(s: Rows) -> Kernel:
    """The launch that finds the finite centroids: for the first ones of a fit; the update says it of all others."""
    tile = tiles.sweep_tile(s.features)
    programs = math.ceil(s.groups * s.clusters / tile.rows)
    return Kernel(
        "_live_centroids_kernel", l2=s.centroids, programs=programs, waits=math.ceil(s.features / tile.features)
    )


def centred(s: Rows, precision: str) -> list[Kernel]:
    """Centroids relative to their mean."""
    tile = tiles.sweep_tile(s.features)
    blocks = math.ceil(s.features / tile.features)
    stored = s.centroids / 2 if precision == "bf16" else s.centroids
    return [
        Kernel(
            "_mean_centroid_kernel",
            l2=s.centroids,
            programs=s.groups * blocks,
            waits=1 + math.ceil(s.clusters / tile.rows),
        ),
        Kernel(
            "_centre_centroids_kernel",
            l2=2 * s.centroids + stored,
            programs=math.ceil(s.groups * s.clusters / tile.rows),
            registers=96,
            waits=1 + blocks,
        ),
    ]


def assign(
    s: Rows,
    device: Device,
    precision: str,
    *,
    moving: bool = True,
    tile: AssignTile | None = None,
    centre: bool = True,
    updated: bool = False,
) -> list[Kernel]:
    """Labels alone.

    ``centre`` is False for rows that are stored as the products take them, ``updated`` True for centroids of an update.
    """
    tile = tile or tiles.assign_tile(device.architecture, s.clusters, s.features, precision)
    n_tiles = s.tiles(tile.rows)
    before = [*([] if updated else [live_centroids(s)]), *centred(s, precision), tile_map(s, tile.rows)]
    if not moving:
        return [*before, Kernel("_kmeans_assign_kernel", l2=2 * INT * s.rows, programs=n_tiles, waits=3)]
    passes = math.ceil(s.clusters / tile.clusters)
    operand = 2 if precision == "bf16" else FLOAT
    x_values = n_tiles * tile.rows * s.features * passes
    c_values = n_tiles * passes * tile.clusters * s.features
    instructions = (ROUNDING[precision] if centre else 0) * x_values
    decided = 0.0
    if precision == "fp32":
        instructions += NEAR_TILES * DECIDING * x_values / passes
        decided = 3 * NEAR * s.x
    products = 2.0 * tile.rows * c_values
    # A later pass finds the rows of a tile in the L2 cache unless those of all programs together outgrow it.
    resident = 2 * device.sms * tile.rows * s.features * s.itemsize
    reread = passes if resident > device.l2_bytes else 1
    kernel = Kernel(
        "_kmeans_assign_kernel",
        memory=s.x_from_memory(device) * reread,
        l2=x_values * s.itemsize + n_tiles * s.clusters * s.features * operand + INT * s.rows + decided,
        tf32=0.0 if precision == "bf16" else products,
        bf16=products if precision == "bf16" else 0.0,
        fp32=2.0 * instructions,
        programs=n_tiles,
        threads=32 * tile.warps,
        registers=255,
        shared=tile.stages * (tile.rows + tile.clusters) * tile.features * operand,
        waits=3,
    )
    return [*before, kernel]


def member_lists(s: Rows) -> list[Kernel]:
    """A counting sort of the rows by cluster; its scan also lists free slots and notes which groups go on."""
    n_tiles = s.tiles(tiles.MEMBER_ROWS)
    counters = n_tiles * (s.clusters + 1) * INT
    bins = 1 << s.clusters.bit_length()
    scan = math.ceil(n_tiles / s.groups / max(1, tiles.MEMBER_SCAN // bins))
    compared = n_tiles * tiles.MEMBER_ROWS**2 * COMPARING
    return [
        tile_map(s, tiles.MEMBER_ROWS),
        Kernel("_cluster_histogram_kernel", l2=s.rows * INT + counters, programs=n_tiles, waits=3),
        Kernel("_cluster_scan_kernel", l2=2 * counters, programs=s.groups, threads=256, waits=2 + scan),
        Kernel(
            "_member_scatter_kernel",
            l2=2 * s.rows * INT + counters,
            fp32=2.0 * compared,
            programs=n_tiles,
            registers=218,
            waits=4 + tiles.MEMBER_ROWS / tiles.RANK_OTHERS,
        ),
    ]


def update(
    s: Rows,
    device: Device,
    empty: str,
    *,
    moving: bool = True,
    tile: SweepTile | None = None,
    share: float = 1.0,
) -> list[Kernel]:
    """Means of the members, where no cluster is empty; ``share`` is the part of the rows that is read."""
    tile = tile or tiles.gather_tile(s.features)
    slots = [
        tile_map(s, tiles.sweep_tile(s.features).rows),
        Kernel("_own_distance_kernel", programs=s.tiles(tiles.sweep_tile(s.features).rows), waits=2),
        Kernel("_nearest_slots_kernel", programs=s.groups * (s.clusters + 1), waits=2),
        Kernel("_fill_slots_kernel", programs=s.groups, threads=512, waits=2),
    ]
    slices = math.ceil(s.features / tile.features)
    programs = s.groups * s.clusters * slices
    steps = math.ceil(share * s.rows / (s.groups * s.clusters) / tile.rows)
    mean = Kernel(
        "_kmeans_update_kernel",
        memory=s.x_from_memory(device) * share if moving else 0.0,
        l2=(share * (s.x + slices * s.rows * INT) if moving else s.centroids) + s.centroids,
        # Whole tiles are converted and added up, also where a cluster has fewer members.
        doubles=programs * (steps if moving else 1) * tile.rows * tile.features,
        programs=programs,
        threads=32 * tile.warps,
        registers=UPDATE_REGISTERS,
        waits=2 + 2 * steps if moving else 2,
    )
    return [*member_lists(s), *(slots if empty == "farthest" else []), mean]


def shifted(s: Rows, device: Device, empty: str, *, moving: bool = True) -> list[Kernel]:
    """An update that reads the rows whose label has changed, those that a cluster gets and those that it loses."""
    tile = tiles.shift_tile(s.features)
    slices = math.ceil(s.features / tile.features)
    programs = s.groups * s.clusters
    members = s.rows / programs
    share = 2 * CHANGED if moving else 0.0
    steps = 2 * math.ceil(CHANGED * members / tile.rows) if moving else 0
    sums = 2 * s.centroids * (2 if moving else 0)  # of doubles, read and written
    mean = Kernel(
        "_shifted_means_kernel",
        memory=s.x_from_memory(device) * share,
        l2=share * s.x + (4 * s.rows * INT if moving else 0.0) + sums + 2 * s.centroids,
        doubles=programs * slices * steps * tile.rows * tile.features,
        programs=programs,
        threads=32 * tile.warps,
        registers=SHIFT_REGISTERS,
        # The lists are in the first-level cache after the first features.
        waits=4 + (2 * math.ceil(members / tiles.LISTED) * 2 if moving else 0) + slices * (1 + steps),
    )
    return [*(kernel for kernel in update(s, device, empty) if kernel.name != "_kmeans_update_kernel"), mean]


def nearest(s: Rows, device: Device, n: int) -> list[Kernel]:
    """The members nearest each centroid."""
    sweep = tiles.sweep_tile(s.features)
    # One pass over the members of every cluster where one is picked; four histograms and a pass where several are.
    passes = 1 if n == 1 else SELECTING
    blocks = math.ceil(s.rows / (s.groups * s.clusters) / tiles.SELECT_MEMBERS)
    return [
        tile_map(s, sweep.rows),
        Kernel(
            "_own_distance_kernel",
            memory=s.x_from_memory(device),
            l2=s.x + s.rows * s.features * FLOAT,
            fp32=3.0 * s.rows * s.features,
            programs=s.tiles(sweep.rows),
            waits=3 + math.ceil(s.features / sweep.features),
        ),
        *member_lists(s),
        Kernel(
            "_nearest_slots_kernel",
            l2=s.rows * (passes + 1) * (INT + FLOAT) + s.groups * s.clusters * n * LONG,
            fp32=(passes + 1) * s.rows * COMPARING,
            programs=s.groups * (s.clusters + 1),
            waits=4 + 2 * (passes + 1) * blocks,
        ),
        Kernel("_fill_slots_kernel", programs=s.groups, threads=512, waits=2),
    ]
