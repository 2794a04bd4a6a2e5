"""The synthetic set: its initialisation, its packing and decoding, and its file."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .clustering import check_finite, scaled_rows
from .data import to_float
from .errors import DreamAccelError, choices
from .groups import random_rows
from .networks.features import embed_rows
from .random import generator
from .runtime.files import write_bytes
from .sampling.blocks import ClassBlocks
from .sampling.classes import class_order, fill_picks
from .sampling.strategies import STRATEGIES

INITS = ("kmeans", "random", "mix", "noise")
"""``kmeans``: the real images nearest the centres of a K-Means of each class, f² shrunk ones tiled into each image.
``random``: whole random real images. ``mix``: random real images, shrunk and tiled. ``noise``: uniform pixels."""

FORMAT = "dream_accel.synthetic/1"
KMEANS_ITERATIONS = 100
"""Maximum number of K-Means iterations of the initialisation ``kmeans``."""
PAD_VALUE = 0.5
"""The pixel value that :func:`decode` pads with, in [0, 1]."""


@dataclass
class SyntheticSet:
    """A few images per class, in the form in which they are optimised and stored.

    Attributes:
        images: (C, IPC, channels, H, W) float32 in [0, 1], not normalised. With ``factor`` f each contains f x f
            smaller images.
        factor: multi-formation factor f (IDC): every image decodes to f² images of full size.
        metadata: a description of the set in values that JSON can represent.
        soft_labels: (C, IPC, C) float32, a distribution over classes per stored image, for sets that have them (DATM).
            If None, the label of an image is its class.
    """

    images: Tensor
    factor: int = 1
    metadata: dict[str, Any] = field(default_factory=dict)
    soft_labels: Tensor | None = None

    @property
    def n_classes(self) -> int:
        """C, the number of classes."""
        return self.images.shape[0]

    @property
    def ipc(self) -> int:
        """IPC, the number of images per class before decoding."""
        return self.images.shape[1]

    @property
    def labels(self) -> Tensor:
        """(C, IPC) int64, the class of every stored image."""
        classes = torch.arange(self.n_classes, device=self.images.device)
        return classes.unsqueeze(1).expand(-1, self.ipc)

    def decode(self) -> tuple[Tensor, Tensor]:
        """Decode the set into images and labels ready for training.

        Returns:
            images (C * IPC * f², channels, H, W) float32 in [0, 1], and labels (C * IPC * f²,) int64, or soft labels
            (C * IPC * f², C) float32, which cross-entropy takes as well.
        """
        images = decode(self.images.flatten(0, 1), self.factor)
        labels = self.labels if self.soft_labels is None else self.soft_labels
        return images, labels.flatten(0, 1).repeat_interleave(self.factor**2, dim=0)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file atomically.

        Args:
            path: the file to write; an existing one is replaced.
        """
        from safetensors.torch import save

        tensors = {"images": self.images, "labels": self.labels}
        if self.soft_labels is not None:
            tensors["soft_labels"] = self.soft_labels
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        header = {"format": FORMAT, "factor": str(self.factor), "metadata": json.dumps(self.metadata)}
        # save_file would create a file that only its owner may read.
        write_bytes(path, save(tensors, metadata=header))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SyntheticSet:
        """Read a file written by :meth:`save`.

        Args:
            path: the file to read.

        Returns:
            the set, on the CPU.

        Raises:
            DreamAccelError: the file is missing, damaged, or of another program.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT or "images" not in file.keys():  # noqa: SIM118 (not a dict)
                    raise DreamAccelError(f"{path} is a safetensors file of another program: expected format {FORMAT}")
                images = file.get_tensor("images")
                soft = file.get_tensor("soft_labels") if "soft_labels" in file.keys() else None  # noqa: SIM118
                metadata = json.loads(header["metadata"])
                factor = int(header["factor"])
        except FileNotFoundError:
            raise DreamAccelError(f"{path} does not exist: give a folder or file that `distill` wrote") from None
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            if isinstance(error, DreamAccelError):
                raise
            raise DreamAccelError(
                f"{path} cannot be read as a distilled set ({error}): it is damaged or foreign"
            ) from None
        finite = images.is_floating_point() and bool(images.isfinite().all())
        if images.dim() != 5 or not finite or not 1 <= factor <= min(images.shape[3:]):
            raise DreamAccelError(
                f"{path} holds {images.dtype} images of shape {tuple(images.shape)} with factor {factor}: expected "
                "finite floats (classes, IPC, channels, height, width) and a factor from 1 to the image side"
            )
        if soft is not None and tuple(soft.shape) != (*images.shape[:2], len(images)):
            raise DreamAccelError(
                f"{path} holds soft labels of shape {tuple(soft.shape)}: expected (classes, IPC, classes)"
            )
        return cls(images, factor, metadata, soft)


def decode(images: Tensor, factor: int) -> Tensor:
    """Cut every image into f x f parts and enlarge each part to full size (bilinear). The function is differentiable.

    Args:
        images: (n, channels, H, W) floating point.
        factor: f; sides that f does not divide are first padded at their end, as in IDC.

    Returns:
        (n * f², channels, H, W); the parts of an image follow one another in reading order.
    """
    if factor == 1:
        return images
    n, channels, height, width = images.shape
    rows, columns = -(-height // factor), -(-width // factor)
    if (missing := (columns * factor - width, rows * factor - height)) != (0, 0):
        images = F.pad(images, (0, missing[0], 0, missing[1]), value=PAD_VALUE)
    parts = images.reshape(n, channels, factor, rows, factor, columns).permute(0, 2, 4, 1, 3, 5)
    parts = parts.reshape(n * factor**2, channels, rows, columns)
    return _enlarge(parts, height, width)


def _enlarge(images: Tensor, height: int, width: int) -> Tensor:
    """Bilinear enlargement, ``R x C^T`` with the weights of the rows and columns.

    The same as ``F.interpolate(images, (height, width), mode="bilinear")`` up to rounding. Its backward pass is matrix
    products as well, and so gives the same bits in every run, where that of ``F.interpolate`` adds atomically on a GPU.
    """
    n, channels, rows, columns = images.shape
    dtype = torch.promote_types(images.dtype, torch.float32)
    with torch.autocast(images.device.type, enabled=False):
        wide = F.linear(images.to(dtype).view(-1, columns), _weights(columns, width, images, dtype))
        wide = wide.view(-1, rows, width)
        large = torch.bmm(_weights(rows, height, images, dtype).expand(len(wide), -1, -1), wide)
    return large.view(n, channels, height, width).to(images.dtype)


def _weights(small: int, large: int, images: Tensor, dtype: torch.dtype) -> Tensor:
    """(large, small) weights of linear interpolation between pixel centres, as ``align_corners=False`` has them."""
    if images.device.type == "cuda" or type(images) is not Tensor:
        # Computed there, since a copy would wait, and not kept, since the graph that records it owns it. A tracer's
        # stand-in for a tensor must not be kept either, nor meet a tensor that was.
        return _hats(small, large, images.device).to(dtype)
    return _weights_on_cpu(small, large, dtype).to(images.device)


@functools.cache
def _weights_on_cpu(small: int, large: int, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return _hats(small, large, torch.device("cpu")).to(dtype)


def _hats(small: int, large: int, device: torch.device) -> Tensor:
    """In float64: ``1 - |distance|`` between where a large pixel lies and the small ones, where that is positive."""
    source = (torch.arange(large, device=device, dtype=torch.float64) + 0.5) * (small / large) - 0.5
    distance = source.clamp(0, small - 1).unsqueeze(1) - torch.arange(small, device=device)
    return (1 - distance.abs()).clamp(min=0)


def encode(images: Tensor, factor: int) -> Tensor:
    """Shrink images and tile f x f of them into one; the inverse of :func:`decode` except for the lost resolution.

    Args:
        images: (n * f², channels, H, W) floating point.
        factor: f.

    Returns:
        (n, channels, H, W).
    """
    if factor == 1:
        return images
    _, channels, height, width = images.shape
    rows, columns = -(-height // factor), -(-width // factor)
    small = F.interpolate(images, size=(rows, columns), mode="bilinear", align_corners=False, antialias=True)
    tiles = small.view(-1, factor, factor, channels, rows, columns).permute(0, 3, 1, 4, 2, 5)
    return tiles.reshape(-1, channels, factor * rows, factor * columns)[:, :, :height, :width].contiguous()


def initial_images(
    init: str,
    images: Tensor,
    labels: Tensor,
    ipc: int,
    factor: int = 1,
    *,
    network: nn.Module | None = None,
    normalize: Any = None,
    seed: int = 0,
) -> Tensor:
    """Compute the synthetic images before the first step.

    Args:
        init: one of :data:`INITS`.
        images: (N, channels, H, W) real images, uint8 or float in [0, 1].
        labels: (N,) integers 0..C-1, every class present.
        ipc: images per class.
        factor: multi-formation factor; 1 stores whole images.
        network: embeds the images; needed for ``"kmeans"`` only.
        normalize: applied to images before they are embedded.
        seed: seed of every random draw.

    Returns:
        (C, IPC, channels, H, W) float32 in [0, 1]. A class with too few images repeats them.

    Raises:
        DreamAccelError: ``init`` is unknown, ``ipc`` or ``factor`` is out of range, the network is missing, or features
            hold NaN or Inf.
    """
    if init not in INITS:
        raise choices("initialisation", init, INITS)
    check_packing(ipc, factor, tuple(images.shape[-2:]))
    order, offsets = class_order(images, labels)
    n_classes = len(offsets) - 1
    shape = (n_classes, ipc, *images.shape[1:])
    if init == "noise":
        draws = (generator(seed, "noise", c) for c in range(n_classes))
        return torch.stack([torch.rand(shape[1:], generator=draw) for draw in draws]).to(images.device)

    tiled = factor if init != "random" else 1
    count = ipc * tiled**2
    if init == "kmeans":
        if network is None:
            raise DreamAccelError('init="kmeans" needs a network to embed the images with')

        def pick(rows: Tensor, offsets: Tensor) -> tuple[Tensor, int]:
            features = embed_rows(images, rows, network, normalize)
            check_finite(features, "features")
            x = scaled_rows(features, offsets)
            picks = STRATEGIES["dream"].pick(x, offsets, count, 1, seed, KMEANS_ITERATIONS)
            return rows[fill_picks(picks)], x.shape[1]

        rows = ClassBlocks(offsets.diff().tolist()).map(order, offsets, pick)
    else:
        rows = order[fill_picks(random_rows(offsets, len(images), count, seed, "random init"))]
    chosen = to_float(images[rows])
    return encode(chosen.flatten(0, 1), tiled).view(shape)


def check_packing(ipc: int, factor: int, size: tuple[int, ...]) -> None:
    """Refuse an IPC below 1 and a factor that leaves parts smaller than a pixel.

    Args:
        ipc: images per class.
        factor: multi-formation factor.
        size: (height, width), pixels.

    Raises:
        DreamAccelError: one of the two is out of range.
    """
    if ipc < 1:
        raise DreamAccelError(f"ipc is {ipc}: at least 1 image per class is needed")
    if not 1 <= factor <= min(size):
        raise DreamAccelError(
            f"factor is {factor} for {size[0]}x{size[1]} images: it must be between 1 and the image side, {min(size)}"
        )
