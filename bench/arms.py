"""The arms of the benchmark ``accuracy``: changes of its recipe, or another recipe on the same problem."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dream_accel.errors import DreamAccelError
from dream_accel.recipes import RECIPES, Recipe, recipe

_DREAM = {"init": "kmeans", "strategy": "dream"}
ARMS: dict[str, dict[str, str]] = {
    "random": {"init": "mix", "strategy": "random", "real": "live"},
    "kmeans-init": {"init": "kmeans", "strategy": "random", "real": "live"},
    "dream": {**_DREAM, "real": "live"},
    "dream-cached": {**_DREAM, "real": "cached", "real_batch": "picks"},
    "dream-cached-class": {**_DREAM, "real": "cached", "real_batch": "class"},
    "dm+": {"recipe": "dm+"},
}
"""Changes of a recipe by each arm. ``mix`` packs random images as ``kmeans`` packs the chosen ones. Another recipe
takes over the settings in :data:`SHARED`, and has its own otherwise."""
DEFAULT_ARMS = ("random", "kmeans-init", "dream")
SHARED = (
    *("limit_train", "skip_unreadable", "inner_steps", "network", "width", "depth", "norm", "activation", "pooling"),
    *("eval_epochs", "eval_batch", "eval_networks"),
)
"""Settings of the plan that an arm of another recipe has as well, beside data set, IPC, factor, size and batch."""


def arm_settings(ours: Recipe, arm: str) -> Recipe:
    """The settings of an arm, as those of the benchmark's recipe determine them."""
    if "recipe" not in ARMS[arm]:
        changes: dict[str, Any] = dict(ARMS[arm])
        return replace(ours, **changes)
    other = recipe(ARMS[arm]["recipe"], ours.dataset, ipc=ours.ipc, factor=ours.factor, size=ours.size)
    shared: dict[str, Any] = {name: getattr(ours, name) for name in SHARED}
    return replace(other, **shared, batch=ours.n_clusters * ours.per_cluster)


def check_arm(ours: Recipe, arm: str) -> None:
    """Refuse an arm that the benchmark's recipe cannot have.

    Raises:
        DreamAccelError: the arm caches a real side that depends on the synthetic set, or that there is none of.
    """
    if ARMS[arm].get("real") == "cached" and "real" not in RECIPES[ours.recipe].USES:
        raise DreamAccelError(
            f"the arm {arm!r} caches the real side, which recipe {ours.recipe!r} does not: leave it out"
        )
