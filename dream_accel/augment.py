"""Differentiable augmentation: one draw for a whole batch (siamese), or one per image.

After DSA (Zhao and Bilen, ICML 2021). All functions take float images (n, C, H, W) in [0, 1] and consist of tensor
operations alone, so gradients flow to the pixels and nothing waits for the device. Magnitudes are those of DSA and IDC.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import choices

BRIGHTNESS = 1.0
"""Added to all pixels: uniform in ±0.5 of this."""
SATURATION = 2.0
"""Distance of a pixel from its grey value is scaled by uniform [0, this]."""
CONTRAST = 0.5
"""Distance of a pixel from the image mean is scaled by uniform [this, this + 1]."""
CROP = 0.125
"""Shift in each direction: up to this part of the image side, with zeros moving in."""
CUTOUT = 0.5
"""Side of the square set to zero, as a part of the image side."""
SCALE = 1.2
"""Each axis is scaled by uniform [1/this, this]."""
ROTATE = 15.0
"""Degrees: uniform in ± this."""

NUMBERS = 4
"""Uniform numbers that a step takes at most."""


class Augmentation:
    """A sequence of augmentations named in one string, ``"color_crop_cutout"``.

    Args:
        names: ``color``, ``crop``, ``cutout``, ``flip``, ``scale``, ``rotate``, joined by ``_`` and applied in this
            order; an empty string changes nothing.

    Raises:
        DreamAccelError: an unknown name.
    """

    def __init__(self, names: str) -> None:
        self.names = tuple(name for name in names.split("_") if name)
        for name in self.names:
            if name not in AUGMENTATIONS:
                raise choices("augmentation", name, AUGMENTATIONS)

    @property
    def shape(self) -> tuple[int, int]:
        """The uniform numbers that determine the augmentation of one image: steps, at least 1, and numbers of each."""
        return max(len(self.names), 1), NUMBERS

    def draw(self, n: int, draws: torch.Generator) -> Tensor:
        """Draw the random numbers that determine the augmentation of ``n`` images.

        Args:
            n: images; 1 for one draw that is applied to all.
            draws: the generator.

        Returns:
            (n, *shape) uniform numbers in [0, 1), on the generator's device.
        """
        return torch.rand(n, *self.shape, generator=draws, device=draws.device)

    def apply(self, images: Tensor, draw: Tensor) -> Tensor:
        """Augment images (n, C, H, W) by a draw for n images or for one."""
        for step, name in enumerate(self.names):
            images = AUGMENTATIONS[name](images, draw[:, step].to(images.device, non_blocking=True))
        return images

    def siamese(self, batches: Sequence[Tensor], draws: torch.Generator) -> list[Tensor]:
        """Augment several batches by the same draw, as matching needs for real and synthetic images."""
        draw = self.draw(1, draws)
        return [self.apply(images, draw) for images in batches]

    def __call__(self, images: Tensor, draws: torch.Generator) -> Tensor:
        """Augment every image by a draw of its own, as training needs."""
        return self.apply(images, self.draw(len(images), draws))


def _column(draw: Tensor, i: int) -> Tensor:
    return draw[:, i].view(-1, 1, 1, 1)


def _color(images: Tensor, draw: Tensor) -> Tensor:
    images = images + (_column(draw, 0) - 0.5) * BRIGHTNESS
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * (_column(draw, 1) * SATURATION) + grey
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (_column(draw, 2) + CONTRAST) + mean


def _crop(images: Tensor, draw: Tensor) -> Tensor:
    pads = [int(size * CROP + 0.5) for size in images.shape[2:]]
    shifts = _integers(draw, [2 * pad + 1 for pad in pads])
    rows, columns = (
        torch.arange(size, device=images.device) + shift.unsqueeze(1)
        for size, shift in zip(images.shape[2:], shifts, strict=True)
    )
    padded = F.pad(images, (pads[1], pads[1], pads[0], pads[0]))
    n, channels, height, width = images.shape
    rows = rows.view(-1, 1, height, 1).expand(n, channels, height, padded.shape[3])
    columns = columns.view(-1, 1, 1, width).expand(n, channels, height, width)
    return padded.gather(2, rows).gather(3, columns)


def _cutout(images: Tensor, draw: Tensor) -> Tensor:
    sizes = images.shape[2:]
    holes = [int(size * CUTOUT + 0.5) for size in sizes]
    centres = _integers(draw, [size + 1 - hole % 2 for size, hole in zip(sizes, holes, strict=True)])
    in_hole = []
    for size, hole, centre in zip(sizes, holes, centres, strict=True):
        distance = torch.arange(hole // 2, hole // 2 + size, device=images.device) - centre.unsqueeze(1)
        in_hole.append((distance >= 0) & (distance < hole))
    rows, columns = in_hole
    return images * ~(rows[:, None, :, None] & columns[:, None, None, :])


def _flip(images: Tensor, draw: Tensor) -> Tensor:
    return torch.where(_column(draw, 0) < 0.5, images.flip(3), images)


def _scale(images: Tensor, draw: Tensor) -> Tensor:
    factors = draw[:, :2] * (SCALE - 1 / SCALE) + 1 / SCALE
    zero = torch.zeros_like(factors[:, 0])
    return _affine(images, [[factors[:, 0], zero, zero], [zero, factors[:, 1], zero]])


def _rotate(images: Tensor, draw: Tensor) -> Tensor:
    angle = (draw[:, 0] - 0.5) * 2 * (ROTATE / 180 * math.pi)
    zero = torch.zeros_like(angle)
    return _affine(images, [[angle.cos(), -angle.sin(), zero], [angle.sin(), angle.cos(), zero]])


def _affine(images: Tensor, rows: list[list[Tensor]]) -> Tensor:
    theta = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1).to(images.dtype)
    grid = F.affine_grid(theta.expand(len(images), -1, -1), list(images.shape), align_corners=False)
    return (_read_neighbours if _adds_atomically(images) else _grid_sample)(images, grid)


def _adds_atomically(images: Tensor) -> bool:
    """Return True where the backward pass of ``F.grid_sample`` adds in no fixed order, so that bits differ by run."""
    return images.is_cuda and images.requires_grad and torch.is_grad_enabled()


def _grid_sample(images: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(images, grid, align_corners=False)


def _read_neighbours(images: Tensor, grid: Tensor) -> Tensor:
    """The same up to rounding, by indexing, whose backward pass sorts the indices and adds in their order."""
    n, _, height, width = images.shape
    pixels = images.permute(0, 2, 3, 1)
    image = torch.arange(n, device=images.device).view(-1, 1, 1)
    column, row = (((grid[..., axis] + 1) * size - 1) / 2 for axis, size in enumerate((width, height)))
    sampled = torch.zeros_like(pixels)
    for down in (0, 1):
        for right in (0, 1):
            i, j = row.floor() + down, column.floor() + right
            weight = (1 - (row - i).abs()) * (1 - (column - j).abs())
            inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            neighbours = pixels[image, i.clamp(0, height - 1).long(), j.clamp(0, width - 1).long()]
            sampled = sampled + neighbours * (weight * inside).unsqueeze(-1)
    return sampled.permute(0, 3, 1, 2)


def _integers(draw: Tensor, numbers: Sequence[int]) -> Sequence[Tensor]:
    """For every column i of the draw uniform integers 0..numbers[i]-1, at once where the numbers are the same."""
    if len(set(numbers)) == 1:
        return _integer(draw[:, : len(numbers)], numbers[0]).unbind(1)
    return [_integer(draw[:, i], n) for i, n in enumerate(numbers)]


def _integer(uniform: Tensor, n: int) -> Tensor:
    """Uniform integers 0..n-1 from uniform numbers in [0, 1)."""
    return (uniform * n).long().clamp(max=n - 1)


AUGMENTATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}


def cutmix(images: Tensor, labels: Tensor, probability: float, draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Paste one box of another image of the batch into every image (CutMix, Yun et al., ICCV 2019, beta = 1).

    Args:
        images: (n, C, H, W).
        labels: (n,) int64.
        probability: that anything is pasted into this batch, 0 to 1.
        draws: the generator of the box, the partners and the decision.

    Returns:
        images (n, C, H, W), labels of the partners (n,), and the weight () of the own labels: the part of the image
        that is left. The loss is ``weight * CE(own) + (1 - weight) * CE(partner)``.
    """
    device = images.device
    uniform = torch.rand(4, generator=draws, device=draws.device).to(device, non_blocking=True)
    shuffled = torch.rand(len(images), generator=draws, device=draws.device).argsort()
    partner = shuffled.to(device, non_blocking=True)
    # Beta(1, 1) is uniform: the box covers 1 - uniform[1] of the image, before it is clipped at the border.
    side = (1 - uniform[1]).sqrt() * (uniform[0] < probability)
    inside = torch.ones((), dtype=torch.bool, device=device)
    for axis in (2, 3):
        size = images.shape[axis]
        half = (size * side / 2).floor()
        centre = (uniform[axis] * size).floor()
        position = torch.arange(size, device=device)
        within = (position >= centre - half) & (position < centre + half)
        inside = inside & within.view((size, 1) if axis == 2 else (1, size))
    mixed = torch.where(inside, images[partner], images)
    return mixed, labels[partner], 1 - inside.float().mean()
