"""The settings of a run: one field for each, with its meaning, unit and default."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import Field, dataclass, field, fields
from numbers import Integral, Real
from typing import Any

import numpy as np

from ..augment import AUGMENTATIONS, Augmentation
from ..errors import DreamAccelError, choices
from ..matching.class_gradients import CLASS_GRADIENTS
from ..matching.pixels import LR_RULES, SWEEPS
from ..networks import NETWORKS
from ..ops import LAYER_RULES, METRICS
from ..sampling.strategies import STRATEGIES
from ..synthetic import INITS

PANELS = ("data", "sampling", "matching", "trajectories", "pixels", "networks", "evaluation")
"""The groups of settings, in the order of the fields of :class:`Recipe`."""


def _setting(
    default: Any,
    panel: str,
    help: str,
    *,
    least: float | None = None,
    most: float | None = None,
    names: Collection[str] | None = None,
    kind: str = "",
) -> Any:
    """Make a field of :class:`Recipe`.

    Args:
        default: the default, which also determines the type.
        panel: one of ``PANELS``.
        help: meaning and unit; help texts append the allowed names to it.
        least, most: bounds of a number, inclusive.
        names: the allowed names, usually a registry.
        kind: the word for such a name in a refusal; default: ``help``.
    """
    metadata = {"panel": panel, "help": help, "least": least, "most": most, "names": names, "kind": kind or help}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Recipe:
    """Every setting that determines the distilled pixels and their evaluation.

    The options of the command line are derived from these fields.

    Raises:
        DreamAccelError: a value has the wrong type, is out of range or unknown, or contradicts another one.
    """

    recipe: str = _setting("dream", "data", "method")
    dataset: str = _setting("digits", "data", "data set: digits, mnist, cifar10, ..., imagefolder:PATH, npz:PATH")
    ipc: int = _setting(10, "data", "synthetic images per class", least=1)
    factor: int = _setting(
        2, "data", "multi-formation factor f: each synthetic image holds f x f smaller ones", least=1
    )
    seed: int = _setting(0, "data", "seed of every random draw; the same seed gives the same pixels", least=0)
    limit_train: int = _setting(
        0, "data", "use a seeded, balanced subset of this many training images (0: all)", least=0
    )
    size: int = _setting(0, "data", "resize and centre-crop images to this side, pixels (0: as they are)", least=0)

    strategy: str = _setting("dream", "sampling", "real images to match", names=STRATEGIES, kind="strategy")
    batch: int = _setting(
        0, "sampling", "real images of a class per matching step (0: clusters times per_cluster)", least=0
    )
    clusters: int = _setting(128, "sampling", "sub-clusters per class (N), where batch is 0", least=1)
    per_cluster: int = _setting(1, "sampling", "real images per sub-cluster and step (n)", least=1)
    interval: int = _setting(10, "sampling", "inner steps between two clusterings (I)", least=1)
    kmeans_iterations: int = _setting(100, "sampling", "K-Means iterations at most", least=1)
    init: str = _setting("kmeans", "sampling", "initial synthetic images", names=INITS, kind="initialisation")

    iterations: int = _setting(2000, "matching", "outer iterations, each with a fresh network (T)", least=0)
    inner_steps: int = _setting(100, "matching", "matching steps per outer iteration (M)", least=1)
    metric: str = _setting("mse", "matching", "distance of gradients", names=METRICS, kind="metric")
    layers: str = _setting(
        "conv",
        "matching",
        "tensors matched, by their dimensions (weights: all but 1-d)",
        names=LAYER_RULES,
        kind="layer rule",
    )
    feature_weight: float = _setting(0.0, "matching", "weight of the distance of mean features (DREAM+: 1)", least=0)
    match_augment: str = _setting(
        "color_crop_cutout",
        "matching",
        f"augmentation shared by real and synthetic images: any of {', '.join(AUGMENTATIONS)}, joined by _",
    )
    max_synthetic: int = _setting(128, "matching", "decoded synthetic images of a class used per step", least=1)

    experts: str = _setting(
        "", "trajectories", "folder of the experts to match, which `dream-accel experts` writes (MTT)"
    )
    n_experts: int = _setting(100, "trajectories", "experts to train, and to match at most", least=1)
    trajectory_epochs: int = _setting(50, "trajectories", "epochs of their training", least=1)
    synthetic_steps: int = _setting(20, "trajectories", "steps of the student on the synthetic set (N)", least=1)
    expert_epochs: int = _setting(3, "trajectories", "epochs of the expert that those steps are to cover (M)", least=1)
    max_start_epoch: int = _setting(25, "trajectories", "students start from an epoch below this one (T+)", least=1)
    student_lr: float = _setting(0.01, "trajectories", "initial step size of the student, which is learned", least=1e-8)
    student_lr_lr: float = _setting(1e-5, "trajectories", "learning rate of that step size", least=0)

    pixel_lr: float = _setting(
        5e-3, "pixels", "learning rate of the pixels; scaled, before scaling by (IPC/10) pixels/base²", least=0
    )
    pixel_lr_rule: str = _setting(
        "scaled",
        "pixels",
        "meaning of pixel_lr, scaled by IPC and size or of normalised images",
        names=LR_RULES,
        kind="pixel_lr rule",
    )
    pixel_momentum: float = _setting(0.5, "pixels", "momentum of the pixel optimiser", least=0, most=1)
    pixel_sweep: str = _setting(
        "per_class", "pixels", "pixel momentum, as published or joint", names=SWEEPS, kind="pixel sweep"
    )
    base_size: int = _setting(32, "pixels", "image side at which pixel_lr is not scaled, pixels", least=1)

    network: str = _setting("convnet", "networks", "network", names=NETWORKS, kind="network")
    width: int = _setting(128, "networks", "channels of every block", least=1)
    depth: int = _setting(0, "networks", "blocks of the network (0: by image size, 3 for 32 pixels)", least=0)
    network_lr: float = _setting(0.01, "networks", "network learning rate (SGD)", least=0)
    network_momentum: float = _setting(0.9, "networks", "network momentum", least=0, most=1)
    weight_decay: float = _setting(5e-4, "networks", "network weight decay", least=0)
    network_batch: int = _setting(128, "networks", "batch size of the network's own training, images", least=1)
    network_images: int = _setting(500, "networks", "real images the network trains on after each step", least=0)
    pretrain_epochs: int = _setting(
        0, "networks", "epochs each new network trains before the first match (DREAM+: 1)", least=0
    )
    synthetic_epochs: int = _setting(
        0, "networks", "epochs the network trains on the synthetic set after each step (DC, DSA)", least=0
    )
    synthetic_batch: int = _setting(256, "networks", "batch size on the synthetic set, images (0: all)", least=0)
    synthetic_augment: str = _setting("", "networks", "augmentation on the synthetic set, as match_augment (DSA, MTT)")
    train_augment: str = _setting(
        "color_crop_flip_scale_rotate", "networks", "augmentation of every training image, as match_augment"
    )
    cutmix: float = _setting(0.5, "networks", "probability of CutMix per training batch", least=0, most=1)

    class_gradients: str = _setting(
        "auto",
        "networks",
        "per-class gradients (auto: measured on a GPU)",
        names=("auto", *CLASS_GRADIENTS),
        kind="implementation of class_gradients",
    )
    graphs: bool = _setting(True, "networks", "on a GPU, record the steps as CUDA graphs and replay them")
    bf16: bool = _setting(False, "networks", "networks compute in bfloat16 (autocast); fewer digits, other pixels")
    channels_last: bool = _setting(False, "networks", "memory format of images and networks")

    eval_epochs: int = _setting(1000, "evaluation", "epochs over the synthetic set", least=1)
    eval_batch: int = _setting(64, "evaluation", "batch size, images", least=1)
    eval_networks: int = _setting(3, "evaluation", "networks trained from scratch", least=1)

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = _plain(setting, getattr(self, setting.name))
            object.__setattr__(self, setting.name, value)
            _check(setting, value)
        for names in (self.match_augment, self.train_augment, self.synthetic_augment):
            Augmentation(names)
        if self.feature_weight > 0 and self.metric == "cos":
            raise DreamAccelError(
                'metric is "cos", which compares rows, and mean features have none: '
                "use global_cos or mse, or feature_weight 0"
            )
        if self.batch % self.per_cluster:
            raise DreamAccelError(
                f"batch is {self.batch} and per_cluster {self.per_cluster}: a batch holds per_cluster images of every "
                "sub-cluster, so it must be a multiple"
            )

    @property
    def n_clusters(self) -> int:
        """N, the number of sub-clusters per class: ``batch / per_cluster``, or ``clusters`` if ``batch`` is 0."""
        return self.batch // self.per_cluster if self.batch else self.clusters

    def depth_for(self, shape: tuple[int, int, int]) -> int:
        """The number of blocks of the network for images of a shape.

        Args:
            shape: (channels, height, width), pixels.

        Returns:
            ``depth``; if that is 0, ``log2(min(height, width) / 4)`` rounded and at least 1, so that about 4 pixels are
            left after halving the image in every block.
        """
        return self.depth or max(1, round(math.log2(min(shape[1:]) / 4)))

    def pixel_lr_for(self, shape: tuple[int, int, int]) -> float:
        """The pixel learning rate for images of a shape: ``pixel_lr * (ipc / 10) * (side / base_size)²``.

        The side of images that are not square is the geometric mean of theirs, ``sqrt(height * width)``: the rate grows
        with the number of pixels, and an image has the same rate lying and upright.

        Args:
            shape: (channels, height, width), pixels.
        """
        # The root of a square is exact, so that square images have the rate of their height to the last bit.
        side = math.sqrt(shape[1] * shape[2])
        return self.pixel_lr * (self.ipc / 10) * (side / self.base_size) ** 2


SETTINGS = frozenset(setting.name for setting in fields(Recipe))
"""The name of every setting."""

TRAJECTORIES = frozenset(setting.name for setting in fields(Recipe) if setting.metadata["panel"] == "trajectories")
"""The settings of methods that match trajectories."""


def _plain(setting: Field[Any], value: Any) -> Any:
    """Convert a value to the Python type of its setting, so that JSON represents it; numbers of NumPy are numbers.

    Raises:
        DreamAccelError: the value is of another kind, such as a truth value or a fraction for a whole number.
    """
    kind, is_truth = type(setting.default), isinstance(value, (bool, np.bool_))
    if kind is bool and is_truth:
        return bool(value)
    if kind is int and isinstance(value, Integral) and not is_truth:
        return int(value)
    if kind is float and isinstance(value, Real) and not is_truth:
        return int(value) if isinstance(value, Integral) else float(value)
    if kind is str and isinstance(value, str):
        return str(value)
    raise DreamAccelError(f"{setting.name} is {value!r}: it must be of type {kind.__name__}")


def _check(setting: Field[Any], value: Any) -> None:
    about = setting.metadata
    if about["names"] is not None and value not in about["names"]:
        raise choices(about["kind"], value, about["names"])
    if about["least"] is not None and not value >= about["least"]:
        raise DreamAccelError(f"{setting.name} is {value}: it must be at least {about['least']}")
    if isinstance(value, float) and math.isinf(value):
        raise DreamAccelError(f"{setting.name} is {value}: it must be finite")
    if about["most"] is not None and not value <= about["most"]:
        raise DreamAccelError(f"{setting.name} is {value}: it must be between {about['least']} and {about['most']}")
