"""A small distillation, as a program that can be killed: ``python -m support.small_run CHECKPOINT IMAGES``.

Writes the checkpoint after every outer iteration, and the bytes of the images at the end.
"""

import sys
from pathlib import Path

import torch

import dream_accel as da
from dream_accel.data import DataSplit, ImageSet

SETTINGS = {"ipc": 2, "factor": 1, "width": 8, "clusters": 4, "network_images": 64, "inner_steps": 4, "iterations": 12}


def split() -> DataSplit:
    """Noise of two classes."""
    images = torch.randint(256, (256, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    one = ImageSet.from_arrays(images, torch.arange(256) % 2, 2)
    return DataSplit("noise", one, one)


def distilled(checkpoint: Path | None, **settings) -> bytes:
    """The bytes of the images that the run ends with."""
    torch.set_num_threads(1)
    recipe = da.recipe("dream", "noise", **{**SETTINGS, **settings})
    result = da.distill(recipe, split(), device="cpu", checkpoint=checkpoint, checkpoint_every=0)
    return result.synthetic.images.numpy().tobytes()


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(distilled(Path(sys.argv[1])))
