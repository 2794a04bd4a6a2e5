"""Class-incremental continual learning on a memory of few images per class.

The protocol of DM (Zhao and Bilen, *Dataset Condensation with Distribution Matching*, WACV 2023, arXiv 2110.04181),
which follows GDumb (Prabhu, Torr and Dokania, ECCV 2020): the classes arrive in steps of equally many. At each step the
images of its classes alone are seen, and a memory of ``ipc`` images of each is made of them and kept. Networks are then
trained from scratch on the whole memory and tested on the test images of all classes seen so far. This is repeated for
several orders of the classes. Published: CIFAR-100 in 5 or 10 steps, 20 images per class, 5 orders.

Networks are evaluated with the normalisation constants of the whole training set, as published; a memory is made with
those of its own step.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..data import DataSplit, ImageSet
from ..engine.assembly import matches_trajectories
from ..engine.compute import Compute
from ..engine.distill import distill
from ..engine.manifest import digest_of
from ..engine.selection import check_selection, select_rows
from ..engine.splits import fingerprint
from ..errors import DreamAccelError
from ..random import generator
from ..recipes import RECIPES, Recipe
from ..synthetic import SyntheticSet
from .protocol import evaluate_images
from .settings import Protocol


@dataclass(frozen=True)
class Memory:
    """A way to make the memory of a step.

    Attributes:
        name: of the rows.
        recipe: distils the images of the step; with ``strategy``, gives IPC, network, seed and evaluation alone.
        strategy: one of :data:`dream_accel.sampling.selection.SELECTION_NAMES`, which chooses real images instead.
    """

    name: str
    recipe: Recipe
    strategy: str | None = None


@dataclass(frozen=True)
class StepAccuracy:
    """The accuracy after one step of one order of the classes."""

    memory: str
    order: int
    """number of the order of the classes, from 0"""
    step: int
    """from 1"""
    n_seen: int
    """classes seen so far"""
    classes: str
    """numbers of the classes of this step, separated by spaces"""
    accuracy: float
    """on the test images of the classes seen, percent, mean over networks"""
    std: float
    """over the same networks, percentage points"""
    networks: int
    seconds: float
    """of making the memory of this step"""


@dataclass(frozen=True)
class OrderMean:
    """The accuracy after one step over the orders of the classes."""

    memory: str
    step: int
    n_seen: int
    orders: int
    mean: float
    """percent"""
    std: float
    """population standard deviation over orders, percentage points"""


def class_orders(n_classes: int, orders: int, seed: int) -> Tensor:
    """Draw orders of the classes, (orders, n_classes) int64; the first ones do not depend on their number."""
    drawn = [torch.randperm(n_classes, generator=generator(seed, "class order", o)) for o in range(orders)]
    return torch.stack(drawn)


def only_classes(split: DataSplit, classes: Sequence[int]) -> DataSplit:
    """Return the images of some classes, which are numbered in the order given."""
    names = tuple(split.train.class_names[c] for c in classes)
    number = torch.full((split.train.n_classes,), -1)
    number[list(classes)] = torch.arange(len(classes))

    def part(images: ImageSet) -> ImageSet:
        labels = number.to(images.device)[images.labels]
        rows = (labels >= 0).nonzero().flatten()
        return ImageSet(images.images[rows], labels[rows], len(classes), names)

    return DataSplit(split.name, part(split.train), part(split.test))


def check_protocol(memory: Memory, split: DataSplit, steps: int, orders: int) -> None:
    """Refuse a protocol that does not fit the data set, before anything is computed.

    Raises:
        DreamAccelError: the classes do not divide into the steps, there are more steps than classes, no order, a step
            of one class whose gradients a recipe matches, a recipe that needs experts, or an unknown strategy.
    """
    n_classes = split.train.n_classes
    divisors = ", ".join(str(n) for n in range(1, n_classes + 1) if n_classes % n == 0)
    if not 1 <= steps <= n_classes:
        raise DreamAccelError(
            f"{steps} steps are asked for, and {split.name} has {n_classes} classes: a step needs at least one, so "
            f"give one of {divisors}"
        )
    if n_classes % steps:
        raise DreamAccelError(
            f"the {n_classes} classes of {split.name} do not divide into {steps} equal steps: give one of {divisors}"
        )
    if orders < 1:
        raise DreamAccelError(f"{orders} orders of the classes are asked for: give at least 1")
    if memory.strategy is not None:
        check_selection(memory.strategy)
    elif matches_trajectories(memory.recipe):
        raise DreamAccelError(
            f"recipe {memory.recipe.recipe!r} matches experts, which no step has: choose a recipe that matches images"
        )
    elif steps == n_classes and "metric" in RECIPES[memory.recipe.recipe].USES:
        raise DreamAccelError(
            f"a step of one class has no gradient for recipe {memory.recipe.recipe!r} to match, because its network is "
            f"always right: give fewer than {steps} steps, or a memory of real images"
        )


def class_incremental(
    memory: Memory,
    split: DataSplit,
    steps: int = 5,
    orders: int = 5,
    *,
    folder: Path | None = None,
    done: Collection[tuple[int, int]] = (),
) -> Iterator[StepAccuracy]:
    """Learn the classes step by step, and measure the accuracy on all classes seen after each.

    Order o has the seed of the recipe plus o, for its memory and its networks.

    Args:
        memory: the way to make the memory.
        split: the data set, on the device where everything computes.
        steps: number of steps, a divisor of the number of classes.
        orders: number of orders of the classes.
        folder: keeps the memory of every step in a file; one that is there is read instead of made again.
        done: pairs of order and step that are measured already, and passed over.

    Yields:
        the accuracy after every other step, by order.

    Raises:
        DreamAccelError: as :func:`check_protocol`, or a memory file cannot be read or was made otherwise.
        DivergenceError: the distillation of a step diverged.
        KeyboardInterrupt: Ctrl-C was pressed; the memories of earlier steps are kept.
    """
    check_protocol(memory, split, steps, orders)
    per_step = split.train.n_classes // steps
    for o, order in enumerate(class_orders(split.train.n_classes, orders, memory.recipe.seed).tolist()):
        if all((o, step) in done for step in range(1, steps + 1)):
            continue
        own = replace(memory, recipe=replace(memory.recipe, seed=memory.recipe.seed + o, limit_train=0, size=0))
        kept: list[SyntheticSet] = []
        for step in range(1, steps + 1):
            seen = order[: step * per_step]
            arrived = seen[-per_step:]
            file = None if folder is None else folder / f"{memory.name}-order{o}-step{step}.safetensors"
            made = _made_or_read(own, only_classes(split, arrived), file)
            kept.append(made)
            if (o, step) in done:
                continue
            test = only_classes(split, seen)
            protocol = Protocol.of(own.recipe, test.test.shape)
            images, labels = _joined(kept, per_step)
            where = split.test.device
            found = evaluate_images(images.to(where), labels.to(where), test.test, split.normalization, protocol)
            classes = " ".join(map(str, arrived))
            networks = len(found.accuracies)
            yield StepAccuracy(
                memory.name, o, step, len(seen), classes, found.mean, found.std, networks, made.metadata["seconds"]
            )


def over_orders(rows: Sequence[StepAccuracy]) -> list[OrderMean]:
    """Average rows over the orders of the classes: by memory and step, in the order in which they come."""
    by_step: dict[tuple[str, int], list[StepAccuracy]] = {}
    for row in rows:
        by_step.setdefault((row.memory, row.step), []).append(row)
    return [
        OrderMean(
            memory,
            step,
            own[0].n_seen,
            len(own),
            statistics.fmean(row.accuracy for row in own),
            statistics.pstdev(row.accuracy for row in own),
        )
        for (memory, step), own in sorted(by_step.items(), key=lambda item: (_place(rows, item[0][0]), item[0][1]))
    ]


def _place(rows: Sequence[StepAccuracy], memory: str) -> int:
    return next(place for place, row in enumerate(rows) if row.memory == memory)


def _made_or_read(memory: Memory, split: DataSplit, file: Path | None) -> SyntheticSet:
    """Read the memory of a step from its file, or make it and write the file."""
    settings = {name: value for name, value in asdict(memory.recipe).items() if not name.startswith("eval_")}
    made_from = digest_of(settings, memory.strategy, fingerprint(split.train))
    if file is not None and file.exists():
        try:
            read = SyntheticSet.load(file)
        except DreamAccelError as error:
            raise DreamAccelError(f"{error}; remove the file, and the memory is made again") from None
        if read.metadata.get("made_from") != made_from:
            raise DreamAccelError(
                f"{file} holds a memory made with other settings or from other data: name another folder, or remove it"
            )
        return read
    began = time.perf_counter()
    made = _make(memory, split)
    made.metadata |= {"seconds": time.perf_counter() - began, "made_from": made_from}
    if file is not None:
        made.save(file)
    return made


def _make(memory: Memory, split: DataSplit) -> SyntheticSet:
    """Make the memory of a step from its images alone."""
    recipe, train = memory.recipe, split.train
    if memory.strategy is not None:
        rows = select_rows(recipe, train, Compute.of(recipe, split), memory.strategy)
        return SyntheticSet(train.batch(rows).cpu())
    result = distill(recipe, split, device=train.device)
    if result.interrupted:
        raise KeyboardInterrupt
    return result.synthetic


def _joined(kept: Sequence[SyntheticSet], per_step: int) -> tuple[Tensor, Tensor]:
    """Decode the memories of all steps; the classes of each are numbered after those of the steps before."""
    decoded = [memory.decode() for memory in kept]
    labels = [labels + number * per_step for number, (_, labels) in enumerate(decoded)]
    return torch.cat([images for images, _ in decoded]), torch.cat(labels)
