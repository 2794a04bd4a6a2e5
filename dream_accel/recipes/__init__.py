"""Methods as small descriptions of which parts they use, with the published defaults.

``recipe("dream", dataset="cifar10", ipc=10)`` starts from the method, adds what is prescribed for the data set, then
the caller's own settings.
"""

from __future__ import annotations

import difflib
from dataclasses import fields
from typing import Any

from ..errors import DreamAccelError, choices
from .datasets import dataset_defaults
from .settings import Recipe

RECIPES: dict[str, dict[str, Any]] = {
    "dream": {},
    "dream+": {"feature_weight": 1.0, "pretrain_epochs": 1},
    "idc": {"strategy": "random", "init": "random", "clusters": 64, "interval": 1},
}
"""What each method changes of :class:`Recipe`'s own defaults, which are DREAM's.

``dream``: Liu et al., ICCV 2023. ``dream+``: arXiv 2310.15052, adds the distance of mean features and one epoch of
training before the first match. ``idc``: Kim et al., ICML 2022: the same matching with random real batches.
"""


def recipe(name: str = "dream", dataset: str = "digits", **overrides: Any) -> Recipe:
    """A complete, frozen description of a run.

    Args:
        name: ``"dream"``, ``"dream+"`` or ``"idc"``.
        dataset: a name :func:`dream_accel.data.load_dataset` takes; its prescribed settings are applied.
        overrides: any other field of :class:`Recipe`.

    Raises:
        DreamAccelError: an unknown recipe or field, or a value out of range.
    """
    if name not in RECIPES:
        raise choices("recipe", name, RECIPES)
    known = [field.name for field in fields(Recipe)]
    for key in overrides:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise DreamAccelError(f"a recipe has no setting {key!r}: {hint}settings are {', '.join(known)}")
    prescribed = dataset_defaults(dataset, overrides.get("factor"))
    return Recipe(**{"recipe": name, "dataset": dataset, **prescribed, **RECIPES[name], **overrides})


__all__ = ["RECIPES", "Recipe", "recipe"]
