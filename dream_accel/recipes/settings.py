"""The settings of a run: one field each, with its meaning, unit and DREAM's default."""

from __future__ import annotations

import math
from dataclasses import Field, dataclass, field, fields
from typing import Any

from ..augment import Augmentation
from ..errors import DreamAccelError, choices
from ..matching.class_gradients import WAYS
from ..matching.pixels import SWEEPS
from ..networks import NETWORKS
from ..ops import LAYER_RULES, METRICS
from ..sampling.strategies import STRATEGIES
from ..synthetic import INITS


def _setting(default: Any, help: str, least: float | None = None) -> Any:
    return field(default=default, metadata={"help": help, "least": least})


@dataclass(frozen=True)
class Recipe:
    """All that determines the distilled pixels and their evaluation. The command line is derived from it."""

    recipe: str = _setting("dream", "method: dream, dream+ or idc")
    dataset: str = _setting("digits", "data set: digits, mnist, cifar10, ..., imagefolder:PATH, npz:PATH")
    ipc: int = _setting(10, "synthetic images per class", 1)
    factor: int = _setting(2, "multi-formation factor f: each synthetic image holds f x f smaller ones", 1)
    seed: int = _setting(0, "seed of every random draw; the same seed gives the same pixels", 0)
    limit_train: int = _setting(0, "use a seeded, balanced subset of this many training images (0: all)", 0)
    size: int = _setting(0, "resize and centre-crop images to this side, pixels (0: as they are)", 0)

    strategy: str = _setting("dream", "real images to match: dream, random, central or boundary")
    clusters: int = _setting(128, "N, sub-clusters per class", 1)
    per_cluster: int = _setting(1, "n, real images per sub-cluster and step", 1)
    interval: int = _setting(10, "I, inner steps between two clusterings", 1)
    kmeans_iterations: int = _setting(100, "K-Means iterations at most", 1)
    init: str = _setting("kmeans", "first synthetic images: kmeans, random, mix or noise")

    iterations: int = _setting(2000, "T, outer iterations, each with a fresh network", 0)
    inner_steps: int = _setting(100, "M, matching steps per outer iteration", 1)
    metric: str = _setting("mse", "gradient distance: mse, l1, l1_mean, cos, global_mse or global_cos")
    layers: str = _setting("conv", "tensors matched: conv (4-d), weights (all but 1-d) or all")
    feature_weight: float = _setting(0.0, "weight of the distance of mean features (DREAM+: 1)", 0)
    match_augment: str = _setting("color_crop_cutout", "augmentation shared by real and synthetic images")
    max_synthetic: int = _setting(128, "decoded synthetic images of a class used per step", 1)

    pixel_lr: float = _setting(5e-3, "pixel learning rate before scaling by (IPC/10)(size/base)²", 0)
    pixel_momentum: float = _setting(0.5, "momentum of the pixel optimiser, 0 to 1", 0)
    pixel_sweep: str = _setting("per_class", "pixel momentum: per_class (as published) or joint")
    base_size: int = _setting(32, "image side at which pixel_lr is not scaled, pixels", 1)

    network: str = _setting("convnet", "network: convnet")
    width: int = _setting(128, "channels of every block", 1)
    depth: int = _setting(0, "blocks of the network (0: by image size, 3 for 32 pixels)", 0)
    network_lr: float = _setting(0.01, "network learning rate (SGD)", 0)
    network_momentum: float = _setting(0.9, "network momentum, 0 to 1", 0)
    weight_decay: float = _setting(5e-4, "network weight decay", 0)
    network_batch: int = _setting(128, "batch size of the network's own training, images", 1)
    network_images: int = _setting(500, "real images the network trains on after each step", 0)
    pretrain_epochs: int = _setting(0, "epochs each new network trains before the first match (DREAM+: 1)", 0)
    train_augment: str = _setting("color_crop_flip_scale_rotate", "augmentation of every training image")
    cutmix: float = _setting(0.5, "probability of CutMix per training batch, 0 to 1", 0)

    class_gradients: str = _setting("auto", "gradients per class: loop, vmap, capture or auto (measured on a GPU)")
    graphs: bool = _setting(True, "on a GPU, record the steps as CUDA graphs and replay them")
    bf16: bool = _setting(False, "networks compute in bfloat16 (autocast); fewer digits, other pixels")
    channels_last: bool = _setting(False, "memory format of images and networks")

    eval_epochs: int = _setting(1000, "evaluation: epochs over the synthetic set", 1)
    eval_batch: int = _setting(64, "evaluation: batch size, images", 1)
    eval_networks: int = _setting(3, "evaluation: networks trained from scratch", 1)

    def __post_init__(self) -> None:
        for setting in fields(self):
            _check_range(setting, getattr(self, setting.name))
        for kind, name, known in (
            ("strategy", self.strategy, STRATEGIES),
            ("initialisation", self.init, INITS),
            ("metric", self.metric, METRICS),
            ("layer rule", self.layers, LAYER_RULES),
            ("network", self.network, NETWORKS),
            ("pixel sweep", self.pixel_sweep, SWEEPS),
            ("way of gradients per class", self.class_gradients, ("auto", *WAYS)),
        ):
            if name not in known:
                raise choices(kind, name, known)
        for names in (self.match_augment, self.train_augment):
            Augmentation(names)
        if self.feature_weight > 0 and self.metric == "cos":
            raise DreamAccelError(
                'metric is "cos", which compares rows, and mean features have none: '
                "use global_cos or mse, or feature_weight 0"
            )
        for name in ("pixel_momentum", "network_momentum", "cutmix"):
            if getattr(self, name) > 1:
                raise DreamAccelError(f"{name} is {getattr(self, name)}: it must be between 0 and 1")

    def depth_for(self, shape: tuple[int, int, int]) -> int:
        """The depth used for images (channels, height, width): as given, else halving until about 4 pixels are left."""
        return self.depth or max(1, round(math.log2(min(shape[1:]) / 4)))

    def pixel_lr_for(self, shape: tuple[int, int, int]) -> float:
        """The pixel learning rate for images (channels, height, width): lr (IPC/10) (size/base)²."""
        return self.pixel_lr * (self.ipc / 10) * (shape[1] / self.base_size) ** 2


def _check_range(setting: Field[Any], value: Any) -> None:
    kind = type(setting.default)
    if kind is float and type(value) is int:
        return _check_least(setting, value)
    if type(value) is not kind:
        raise DreamAccelError(f"{setting.name} is {value!r}: it must be of type {kind.__name__}")
    return _check_least(setting, value)


def _check_least(setting: Field[Any], value: Any) -> None:
    least = setting.metadata["least"]
    if least is not None and not value >= least:
        raise DreamAccelError(f"{setting.name} is {value}: it must be at least {least}")
