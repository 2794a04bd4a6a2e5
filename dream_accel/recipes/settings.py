"""The settings of a run: one field for each, with its meaning, unit and default."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from ..augment import AUGMENTATIONS, Augmentation
from ..errors import DreamAccelError
from ..matching.class_gradients import CLASS_GRADIENTS
from ..matching.pixels import LR_RULES, SWEEPS
from ..networks import NETWORKS, is_import_path, unknown_network
from ..networks.layers import ACTIVATIONS, NORMS, POOLINGS
from ..ops import LAYER_RULES, METRICS
from ..sampling.strategies import STRATEGIES, unknown_strategy
from ..synthetic import INITS
from .declaration import checked, declared

PANELS = ("data", "sampling", "matching", "trajectories", "pixels", "networks", "pool", "evaluation")
"""The groups of settings, in the order of the fields of :class:`Recipe`."""


@dataclass(frozen=True)
class Recipe:
    """Every setting that determines the distilled pixels and their evaluation.

    The options of the command line are derived from these fields.

    Raises:
        DreamAccelError: a value has the wrong type, is out of range or unknown, or contradicts another one.
    """

    recipe: str = declared("dream", "data", "method")
    dataset: str = declared(
        "digits", "data", "data set: digits, mnist, cifar10, ..., or imagefolder, npz, webdataset or hf:PATH"
    )
    ipc: int = declared(10, "data", "synthetic images per class", least=1)
    factor: int = declared(
        2, "data", "multi-formation factor f: each synthetic image holds f x f smaller ones", least=1
    )
    seed: int = declared(
        0, "data", "seed of every random draw; the same seed gives the same pixels", least=0, most=math.inf
    )
    limit_train: int = declared(
        0, "data", "use a seeded, balanced subset of this many training images (0: all)", least=0
    )
    size: int = declared(0, "data", "resize and centre-crop images to this side, pixels (0: as they are)", least=0)
    skip_unreadable: bool = declared(False, "data", "leave out image files that cannot be read, and say how many")
    image_memory: float = declared(
        8.0, "data", "decoded images in memory at most, GB; of larger sets a mapped file holds them", least=0
    )
    image_disk: float = declared(
        100.0, "data", "such files on disk at most, GB; those used longest ago give way", least=0
    )

    strategy: str = declared(
        "dream", "sampling", "real images to match", names=STRATEGIES, kind="strategy", unknown=unknown_strategy
    )
    batch: int = declared(
        0, "sampling", "real images of a class per matching step (0: clusters times per_cluster)", least=0
    )
    clusters: int = declared(128, "sampling", "sub-clusters per class (N), where batch is 0", least=1)
    per_cluster: int = declared(1, "sampling", "real images per sub-cluster and step (n)", least=1)
    interval: int = declared(10, "sampling", "inner steps between two clusterings (I)", least=1, shared=False)
    kmeans_iterations: int = declared(100, "sampling", "K-Means iterations at most", least=1)
    refresh_images: int = declared(
        0, "sampling", "images of a class that a clustering embeds, drawn anew for each (0: all)", least=0
    )
    init: str = declared("kmeans", "sampling", "initial synthetic images", names=INITS, kind="initialisation")

    iterations: int = declared(2000, "matching", "outer iterations, each with a fresh network (T)", least=0)
    inner_steps: int = declared(100, "matching", "matching steps per outer iteration (M)", least=1)
    metric: str = declared("mse", "matching", "distance of gradients", names=METRICS, kind="metric", shared=False)
    layers: str = declared(
        "conv",
        "matching",
        "tensors matched, by their dimensions (weights: all but 1-d)",
        names=LAYER_RULES,
        kind="layer rule",
        shared=False,
    )
    feature_weight: float = declared(
        0.0, "matching", "weight of the distance of mean features (DREAM+: 1)", least=0, shared=False
    )
    calibration_weight: float = declared(
        0.0, "matching", "weight of the cross-entropy of the synthetic images (DM+)", least=0, shared=False
    )
    match_augment: str = declared(
        "color_crop_cutout",
        "matching",
        f"augmentation shared by real and synthetic images: any of {', '.join(AUGMENTATIONS)}, joined by _",
    )
    max_synthetic: int = declared(128, "matching", "decoded synthetic images of a class used per step", least=1)

    experts: str = declared(
        "", "trajectories", "folder of the experts to match, which `dream-accel experts` writes (MTT)", shared=False
    )
    n_experts: int = declared(100, "trajectories", "experts to train, and to match at most", least=1, shared=False)
    trajectory_epochs: int = declared(50, "trajectories", "epochs of their training", least=1, shared=False)
    synthetic_steps: int = declared(
        20, "trajectories", "steps of the student on the synthetic set (N)", least=1, shared=False
    )
    expert_epochs: int = declared(
        3, "trajectories", "epochs of the expert that those steps are to cover (M)", least=1, shared=False
    )
    max_start_epoch: int = declared(
        25, "trajectories", "students start from an epoch below this one (T+)", least=1, shared=False
    )
    student_lr: float = declared(
        0.01, "trajectories", "initial step size of the student, which is learned", least=1e-8, shared=False
    )
    student_lr_lr: float = declared(1e-5, "trajectories", "learning rate of that step size", least=0, shared=False)

    pixel_lr: float = declared(
        5e-3, "pixels", "learning rate of the pixels; scaled, before scaling by (IPC/10) pixels/base²", least=0
    )
    pixel_lr_rule: str = declared(
        "scaled",
        "pixels",
        "meaning of pixel_lr, scaled by IPC and size or of normalised images",
        names=LR_RULES,
        kind="pixel_lr rule",
    )
    pixel_momentum: float = declared(0.5, "pixels", "momentum of the pixel optimiser", least=0, most=1)
    pixel_sweep: str = declared(
        "per_class", "pixels", "pixel momentum, as published or joint", names=SWEEPS, kind="pixel sweep"
    )
    base_size: int = declared(32, "pixels", "image side at which pixel_lr is not scaled, pixels", least=1, shared=False)

    network: str = declared(
        "convnet",
        "networks",
        "network, your own as package.module:factory, or one by name",
        names=NETWORKS,
        unknown=unknown_network,
        also=is_import_path,
    )
    width: int = declared(
        128, "networks", "channels of every ConvNet block; 128: the published channels of another network", least=1
    )
    depth: int = declared(0, "networks", "blocks of the ConvNet (0: by image size, 3 for 32 pixels)", least=0)
    norm: str = declared("instance", "networks", "norm of the network", names=NORMS, kind="norm")
    activation: str = declared("relu", "networks", "activation of the network", names=ACTIVATIONS, kind="activation")
    pooling: str = declared("avg", "networks", "pooling of the ConvNet", names=POOLINGS, kind="pooling")
    network_lr: float = declared(0.01, "networks", "network learning rate (SGD)", least=0)
    network_momentum: float = declared(0.9, "networks", "network momentum", least=0, most=1)
    weight_decay: float = declared(5e-4, "networks", "network weight decay", least=0)
    network_batch: int = declared(
        128, "networks", "batch size of the network's own training, images", least=1, shared=False
    )
    network_parts: int = declared(
        1, "networks", "parts of such a batch, which ranks share (1: each trains on all of it)", least=1, shared=False
    )
    network_images: int = declared(
        500, "networks", "real images the network trains on after each step", least=0, shared=False
    )
    pretrain_epochs: int = declared(
        0, "networks", "epochs each new network trains before the first match (DREAM+: 1)", least=0, shared=False
    )
    synthetic_epochs: int = declared(
        0, "networks", "epochs the network trains on the synthetic set after each step (DC, DSA)", least=0, shared=False
    )
    synthetic_batch: int = declared(
        256, "networks", "batch size on the synthetic set, images (0: all)", least=0, shared=False
    )
    synthetic_augment: str = declared(
        "", "networks", "augmentation on the synthetic set, as match_augment (DSA, MTT)", shared=False
    )
    train_augment: str = declared(
        "color_crop_flip_scale_rotate", "networks", "augmentation of every training image, as match_augment"
    )
    cutmix: float = declared(0.5, "networks", "probability of CutMix per training batch", least=0, most=1)

    class_gradients: str = declared(
        "auto",
        "networks",
        "per-class gradients (auto: measured on a GPU; on a CPU loop, or fused with --real cached)",
        names=("auto", *CLASS_GRADIENTS),
        kind="implementation of class_gradients",
        shared=False,
    )
    graphs: bool = declared(True, "networks", "on a GPU, record the steps as CUDA graphs and replay them")
    bf16: bool = declared(False, "networks", "networks compute in bfloat16 (autocast); fewer digits, other pixels")
    channels_last: bool = declared(False, "networks", "memory format of images and networks")

    trajectories: int = declared(
        5, "pool", "training trajectories on real images, of which the pool keeps states", least=1, shared=False
    )
    stages: int = declared(10, "pool", "states of each of them in the pool", least=1, shared=False)
    stage_epochs: int = declared(1, "pool", "epochs of training between two states (DM+)", least=1, shared=False)
    real: str = declared(
        "live",
        "pool",
        "real side of a matching step: computed at each step, or once per network of the pool",
        names=("live", "cached"),
        kind="real side",
        shared=False,
    )
    draws: int = declared(2, "pool", "augmentation draws of every network of a cached pool", least=1, shared=False)
    real_batch: str = declared(
        "picks",
        "pool",
        "real images of a cached step: the picks of the strategy, or every image of the class",
        names=("picks", "class"),
        kind="real batch",
        shared=False,
    )
    fill_interval: int = declared(
        1, "pool", "outer iterations from one trajectory to the next until all are there", least=1, shared=False
    )
    renew: int = declared(
        0, "pool", "outer iterations after which a new trajectory replaces the oldest (0: never)", least=0, shared=False
    )
    pool: str = declared(
        "", "pool", "folder of a cached pool, which `dream-accel pool` writes; entries are read as used", shared=False
    )
    pool_dtype: str = declared(
        "fp32", "pool", "format of what is cached", names=("fp32", "bf16", "fp16"), kind="pool_dtype", shared=False
    )
    pool_memory: float = declared(4.0, "pool", "memory of the pool at most, GB", least=0, shared=False)

    eval_epochs: int = declared(1000, "evaluation", "epochs over the synthetic set", least=1)
    eval_batch: int = declared(64, "evaluation", "batch size, images", least=1)
    eval_networks: int = declared(3, "evaluation", "networks trained from scratch", least=1)
    real_epochs: int = declared(
        50, "evaluation", "epochs over the whole training set, of the baselines that train on it", least=1
    )

    def __post_init__(self) -> None:
        for setting in fields(self):
            object.__setattr__(self, setting.name, checked(setting, getattr(self, setting.name)))
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
        if 0 < self.refresh_images < (batch := self.n_clusters * self.per_cluster):
            raise DreamAccelError(
                f"refresh_images is {self.refresh_images}: a batch has {batch} images of a class, give at least as "
                "many, or 0 for all"
            )

    @property
    def n_clusters(self) -> int:
        """N, the number of sub-clusters per class: ``batch / per_cluster``, or ``clusters`` if ``batch`` is 0."""
        return self.batch // self.per_cluster if self.batch else self.clusters

    @property
    def layer_kinds(self) -> dict[str, str]:
        """Norm, activation and pooling, as :func:`dream_accel.networks.make_network` takes them."""
        return {"norm": self.norm, "activation": self.activation, "pooling": self.pooling}

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

SHARED = frozenset(setting.name for setting in fields(Recipe) if setting.metadata["shared"])
"""The name of every setting that all methods read."""

TRAJECTORIES = frozenset(setting.name for setting in fields(Recipe) if setting.metadata["panel"] == "trajectories")
"""The settings of methods that match trajectories."""

CACHE = frozenset({"real", "real_batch", "draws", "pool", "pool_dtype"})
"""The settings of a real side that is computed once."""

POOL = CACHE | {"trajectories", "stages", "fill_interval", "renew", "pool_memory"}
"""The settings of a pool of networks, for methods whose networks do not depend on the synthetic set."""
