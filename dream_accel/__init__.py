"""GPU kernels and a complete program for dataset distillation by representative matching (DREAM, ICCV 2023).

    import dream_accel as da

    km = da.BatchedKMeans(n_clusters=128).fit(x, offsets)     # ragged K-Means, all classes at once
    sampler = da.RepresentativeSampler(images, labels)        # real batches for code you already have
    loss = da.gradient_distance(g_real, g_syn)                # fused layerwise distance
    result = da.distill(da.recipe("dream", dataset="digits")) # the whole program

Names are loaded when first used; importing the package starts nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._version import __version__ as __version__
    from .clustering import BatchedKMeans, KMeansResult, kmeans
    from .data import DataSplit, ImageSet, load_dataset
    from .engine.distill import distill
    from .engine.expert_store import Experts
    from .engine.experts import train_experts
    from .engine.pool_filling import fill_pool
    from .errors import DivergenceError, DreamAccelError, DreamAccelWarning
    from .evaluation import evaluate
    from .formats import load
    from .ops import feature_distance, gradient_distance
    from .recipes import Recipe, recipe
    from .results import Result
    from .sampling import RepresentativeSampler, select
    from .synthetic import SyntheticSet

_HOMES = {
    "BatchedKMeans": "clustering",
    "KMeansResult": "clustering",
    "kmeans": "clustering",
    "DataSplit": "data",
    "ImageSet": "data",
    "load_dataset": "data",
    "distill": "engine.distill",
    "fill_pool": "engine.pool_filling",
    "Experts": "engine.expert_store",
    "train_experts": "engine.experts",
    "DivergenceError": "errors",
    "DreamAccelError": "errors",
    "DreamAccelWarning": "errors",
    "evaluate": "evaluation",
    "feature_distance": "ops",
    "gradient_distance": "ops",
    "Recipe": "recipes",
    "recipe": "recipes",
    "Result": "results",
    "load": "formats",
    "RepresentativeSampler": "sampling",
    "select": "sampling",
    "SyntheticSet": "synthetic",
    "__version__": "_version",
}

__all__ = [
    "BatchedKMeans",
    "DataSplit",
    "DivergenceError",
    "DreamAccelError",
    "DreamAccelWarning",
    "Experts",
    "ImageSet",
    "KMeansResult",
    "Recipe",
    "RepresentativeSampler",
    "Result",
    "SyntheticSet",
    "distill",
    "evaluate",
    "feature_distance",
    "fill_pool",
    "gradient_distance",
    "kmeans",
    "load",
    "load_dataset",
    "recipe",
    "select",
    "train_experts",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
