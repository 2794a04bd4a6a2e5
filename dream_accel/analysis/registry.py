"""Registry of the analyses: every figure by name, with its rows, its measurement and a small form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..errors import choices
from .central_boundary import central_boundary
from .evenness import Evenness, evenness
from .feature_migration import Place, feature_migration
from .gradient_difference import Difference, gradient_difference
from .gradient_fidelity import Fidelity, gradient_fidelity
from .gradient_norms import PickNorm, pick_norms
from .initialisation import initialisation
from .interval import clustering_interval
from .picks import Pick, picks
from .refresh_images import Inertia, refresh_images
from .sub_clusters import sub_clusters
from .sweep import RunAccuracy


@dataclass(frozen=True)
class Analysis:
    """One figure.

    Attributes:
        row: the dataclass of its rows.
        measure: ``(recipe, split, *, parameters) -> rows``; its keyword parameters are options of the command line, and
            :data:`PARAMETERS` has their meaning.
        quick: parameters of a small form.
    """

    row: type
    measure: Callable[..., Iterator[Any]]
    quick: dict[str, Any] = field(default_factory=dict)


ANALYSES: dict[str, Analysis] = {
    "gradient-norms": Analysis(PickNorm, pick_norms, {"batch": 4, "trained": (0, 64)}),
    "central-boundary": Analysis(RunAccuracy, central_boundary),
    "sub-clusters": Analysis(RunAccuracy, sub_clusters, {"batches": (4, 8), "per_cluster": (1, 2)}),
    "interval": Analysis(RunAccuracy, clustering_interval, {"interval": (1, 2)}),
    "initialisation": Analysis(RunAccuracy, initialisation),
    "feature-migration": Analysis(Place, feature_migration, {"shown": 10, "trained": 64}),
    "gradient-difference": Analysis(Difference, gradient_difference, {"strategies": ("dream", "random"), "every": 2}),
    "evenness": Analysis(Evenness, evenness, {"batches": (4, 8), "trained": (0, 64), "draws": 1}),
    "refresh-images": Analysis(Inertia, refresh_images, {"images": (8, 12), "trained": (0, 64), "draws": 2}),
    "picks": Analysis(Pick, picks, {"batch": 8, "trained": 64}),
    "gradient-fidelity": Analysis(Fidelity, gradient_fidelity, {"batches": (4, 8), "trained": (0, 64), "draws": 1}),
}
"""Every analysis by the name of its command."""

PARAMETERS = {
    "strategies": "strategies to compare",
    "batches": "sizes of a batch, images of a class",
    "batch": "images picked of a class",
    "trained": "real images the network is trained on before a measurement",
    "draws": "random draws of every batch",
    "label": "the class, counted from 0",
    "labels": "the classes to lay out, counted from 0",
    "shown": "real images of a class at most",
    "at": "outer iterations to evaluate or show",
    "seeds": "number of seeds, counted from --seed",
    "every": "inner steps between two measurements",
    "per_cluster": "numbers of images per sub-cluster",
    "interval": "inner steps between two clusterings",
    "init": "initial images to compare",
    "images": "images of a class that a clustering reads",
}
"""The meaning of every parameter of an analysis."""

REPLACED = {"strategies": ("strategy",), "batches": ("batch", "clusters"), "batch": ("clusters",)}
"""The settings of a recipe in whose place an analysis takes the parameter."""


def find_analysis(name: str) -> Analysis:
    """Return the analysis of that name.

    Raises:
        DreamAccelError: no figure has that name; the message lists those that exist.
    """
    if name not in ANALYSES:
        raise choices("figure", name, ANALYSES)
    return ANALYSES[name]
