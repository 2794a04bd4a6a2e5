"""Ranks with other settings or data, one that stops within an iteration, ranks with a process group of their own."""

import sys

import torch
import torch.distributed as dist

import dream_accel as da
from dream_accel.data import DataSplit, ImageSet
from dream_accel.engine.distiller import Distiller
from dream_accel.runtime.distributed import launched_ranks
from support.ranked_runs import RUNS, SMALL, recipe, split


def main(about: str) -> None:
    """Try, and print the refusal."""
    if about == "own group":
        dist.init_process_group("gloo")
        with launched_ranks() as ranks:
            print(sum(ranks.gathered(1)))
        print("left" if dist.is_initialized() else "ended")
        dist.destroy_process_group()
        return
    with launched_ranks() as ranks:
        settings, data = recipe("dream"), split()
        if about == "settings" and ranks.rank == 1:
            settings = da.recipe("dream", "grey", **{**recipe_settings(), "pixel_lr": 0.25})
        if about == "data" and ranks.rank == 1:
            other = ImageSet.from_arrays(torch.flip(data.train.images, (0,)), data.train.labels, 5)
            data = DataSplit("grey", other, other)
        if about in RUNS:
            settings = recipe(about)
            if ranks.rank == 1:
                stop_within_the_iteration()
        try:
            da.distill(settings, data, device="cpu", ranks=ranks)
        except da.DreamAccelError as error:
            print(error)


def stop_within_the_iteration() -> None:
    """Let the matching steps of this rank refuse from the third on, between two exchanges of an iteration."""
    ordinary, calls = Distiller.match, []

    def match(self: Distiller) -> torch.Tensor:
        calls.append(self)
        if len(calls) == 3:
            raise da.DreamAccelError("this rank cannot go on")
        return ordinary(self)

    Distiller.match = match


def recipe_settings() -> dict:
    """The settings of the run that the other rank does."""
    return {**SMALL, **RUNS["dream"]}


if __name__ == "__main__":
    main(sys.argv[1])
