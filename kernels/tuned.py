"""Assignment tiles measured on one GPU, used on request only.

``DREAM_ACCEL_TUNED_TILES=FILE`` selects the tiles in a file written by ``python -m dream_accel.kernels.tuning``, ``=1``
those in the file it writes by default. Without the variable no file is read. A process reads a file once, so results
change with the file and never from run to run.
"""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path

import torch
import triton

from dream_accel.errors import DreamAccelError
from dream_accel.runtime.files import cache_folder, write_text

from . import tiles
from .tiles import AssignTile

VARIABLE = "DREAM_ACCEL_TUNED_TILES"
REMEDY = "run `python -m dream_accel.kernels.tuning` on this GPU, or unset the variable"
Tiles = dict[tuple[int, str], AssignTile]
"""Keys: clusters per shape class, precision."""


def assign_tile(device: torch.device, n_clusters: int, n_features: int, precision: str) -> AssignTile:
    """Tile of the assignment: the measured one where the user opted in and it has been measured, else the table's.

    Raises:
        DreamAccelError: the file is missing, unreadable, or of another GPU or Triton version.
    """
    chosen, gpu = os.environ.get(VARIABLE), gpu_name(device)
    if chosen and gpu and n_features % 16 == 0:
        path = default_file(gpu) if chosen == "1" else Path(chosen).expanduser()
        tile = read(path, gpu).get((tiles.cluster_class(n_clusters), precision))
        if tile is not None:
            return tile
    return tiles.assign_tile(tiles.architecture(device), n_clusters, n_features, precision)


def gpu_name(device: torch.device) -> str | None:
    """Name of the GPU as the driver gives it; None for other devices."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def default_file(gpu: str) -> Path:
    """File in the cache folder for the tiles of a GPU and the installed Triton version."""
    name = re.sub(r"\W+", "-", gpu).strip("-").lower()
    return cache_folder() / f"tiles-{name}-triton-{triton.__version__}.json"


def write(path: Path, gpu: str, found: Tiles) -> None:
    """Write measured tiles with what they hold for."""
    by_name = {f"{clusters} {precision}": tile._asdict() for (clusters, precision), tile in found.items()}
    write_text(path, json.dumps({"gpu": gpu, "triton": triton.__version__, "tiles": by_name}, indent=1) + "\n")


def earlier(path: Path, gpu: str) -> Tiles:
    """Tiles in a file that is about to be renewed; none if it holds no tiles of this GPU and Triton version."""
    try:
        return _read(path, gpu)
    except DreamAccelError:
        return {}


@functools.cache
def read(path: Path, gpu: str) -> Tiles:
    """Tiles measured on this GPU with this Triton.

    Raises:
        DreamAccelError: the file is missing, unreadable, or of another GPU or Triton version.
    """
    return _read(path, gpu)


def _read(path: Path, gpu: str) -> Tiles:
    try:
        held = json.loads(path.read_text())
        measured_on = held["gpu"], held["triton"]
        found = {key: _tile(fields) for key, fields in held["tiles"].items()}
        by_class = {
            (int(clusters), precision): tile for key, tile in found.items() for clusters, precision in [key.split()]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DreamAccelError(f"{VARIABLE}: {path} holds no tiles ({error!r}): {REMEDY}") from None
    if measured_on != (gpu, triton.__version__):
        raise DreamAccelError(
            f"{VARIABLE}: {path} was measured on {measured_on[0]} with Triton {measured_on[1]} and this is {gpu} with "
            f"Triton {triton.__version__}: {REMEDY}"
        )
    return by_class


def _tile(fields: dict[str, int]) -> AssignTile:
    tile = AssignTile(**fields)
    sizes_fit = all(size in (16, 32, 64, 128, 256) for size in tile[:3])
    if not sizes_fit or tile.warps not in (1, 2, 4, 8, 16) or tile.stages not in range(1, 9):
        raise ValueError(f"{tile} is no tile")
    return tile
