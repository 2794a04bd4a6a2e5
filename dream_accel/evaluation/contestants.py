"""The sets that a result is compared with, by name: real images, initial images, distilled sets, the whole set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..errors import DreamAccelError, counted
from ..recipes.settings import Recipe
from ..synthetic import INITS


@dataclass(frozen=True)
class Contestant:
    """One row of the comparison.

    Attributes:
        name: of the row.
        recipe: the settings the set is made with; None for the result itself. Initial images are a run of 0 iterations.
        strategy: the rule that chooses real images; None where the set is made by a run.
        whole: whether the set is the training set.
    """

    name: str
    recipe: Recipe | None = None
    strategy: str | None = None
    whole: bool = False


def _initial(name: str, init: str) -> Callable[[Recipe], Contestant]:
    """Initial images, with the recipe's factor."""
    return lambda recipe: Contestant(name, replace(recipe, init=init, iterations=0))


def _real_by_init(name: str, init: str) -> Callable[[Recipe], Contestant]:
    """Whole real images, chosen as the initialisation of that name chooses them."""
    return lambda recipe: Contestant(name, replace(recipe, init=init, factor=1, iterations=0))


def _real(name: str, strategy: str) -> Callable[[Recipe], Contestant]:
    """Whole real images, chosen as `select` chooses them."""
    return lambda recipe: Contestant(name, replace(recipe, factor=1, iterations=0), strategy)


def _random_sampling(recipe: Recipe) -> Contestant:
    if recipe.experts:  # the strategy is that of the experts, which are given
        return Contestant("distilled from random initialisation", replace(recipe, init="random"))
    name = "distilled, random sampling from random initialisation"
    return Contestant(name, replace(recipe, init="random", strategy="random"))


def _whole(recipe: Recipe) -> Contestant:
    epochs = counted(recipe.real_epochs, "epoch")
    return Contestant(f"whole training set, {epochs}", replace(recipe, eval_epochs=recipe.real_epochs), whole=True)


_REAL_NAMES = {
    "random": "random real images",
    "kmeans": "K-Means-selected real images",
    "herding": "real images by herding",
    "k-center": "real images by K-center greedy",
    "forgetting": "real images most often forgotten",
    "central": "real images nearest the class mean",
    "boundary": "real images farthest from the class mean",
}
_INIT_NAMES = {"kmeans": "K-Means", "random": "random", "mix": "mixed", "noise": "noise"}

CONTESTANTS: dict[str, Callable[[Recipe], Contestant]] = {
    # These two are chosen by the initialisations, whose random streams they share.
    **{name: _real_by_init(_REAL_NAMES[name], name) for name in ("random", "kmeans")},
    **{name: _real(_REAL_NAMES[name], name) for name in _REAL_NAMES if name not in ("random", "kmeans")},
    **{f"{init}-init": _initial(f"{_INIT_NAMES[init]} initialisation, not distilled", init) for init in INITS},
    "random-sampling": _random_sampling,
    "whole": _whole,
}
"""Every baseline by its name, as a function of the settings of the result."""

GROUPS = {
    "none": (),
    "real": ("random", "kmeans"),
    "all": ("random", "kmeans", "random-sampling"),
}
"""Words for several baselines. ``none``: no baseline. ``real``: real images, random and selected by K-Means. ``all``:
also distillation with random sampling from random initialisation, for the same number of steps."""


def chosen_baselines(choice: str) -> tuple[str, ...]:
    """The names in :data:`CONTESTANTS` that a choice stands for, each once, in the order given.

    Args:
        choice: one of :data:`GROUPS`, or names of both joined by commas: ``"real,herding,whole"``.

    Raises:
        DreamAccelError: a name is unknown, or ``none`` is given beside others.
    """
    words = [word.strip() for word in choice.split(",")]
    for word in words:
        if word not in GROUPS and word not in CONTESTANTS:
            raise DreamAccelError(
                f"unknown choice of baselines {word!r}: choose one of {', '.join(GROUPS)}, or several of "
                f"{', '.join(CONTESTANTS)}, joined by commas"
            )
    if "none" in words and len(words) > 1:
        raise DreamAccelError(f"baselines are {choice!r}: none means no baseline, so leave it or the others out")
    return tuple(dict.fromkeys(name for word in words for name in GROUPS.get(word, (word,))))


def contestants(recipe: Recipe, choice: str) -> Sequence[Contestant]:
    """The rows of a comparison in order: the baselines, then the result.

    Raises:
        DreamAccelError: as :func:`chosen_baselines`.
    """
    named_by_method = recipe.strategy == "dream" or recipe.experts
    own = recipe.recipe.upper() if named_by_method else f"{recipe.strategy} sampling"
    # The pool is that of the result's strategy, and the same pixels are computed without it.
    alone = replace(recipe, pool="")
    others = [CONTESTANTS[name](alone) for name in chosen_baselines(choice)]
    if recipe.experts:  # begun from random images, the result is its own baseline
        others = [other for other in others if other.recipe != alone]
    return [*others, Contestant(f"distilled, {own}")]
