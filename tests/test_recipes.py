"""The settings of the methods, and the refusals of a recipe."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch
from support.refusals import refused

import dream_accel as da
from dream_accel.engine.schedules import SCHEDULES
from dream_accel.recipes import PANELS, RECIPES, SETTINGS, Recipe, setting_help
from dream_accel.recipes.registry import size_remark
from dream_accel.recipes.settings import POOL
from dream_accel.sampling.strategies import STRATEGIES

SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "svhn": (3, 32, 32),
    "cifar10": (3, 32, 32),
    "cifar100": (3, 32, 32),
    "tiny-imagenet": (3, 64, 64),
}

# clusters N, real images the network trains on per step, pixel lr, metric, blocks of the network
PRESCRIBED = {
    "mnist": (128, 500, 1e-4, "l1", 3),
    "fashion-mnist": (128, 500, 1e-4, "l1", 3),
    "svhn": (128, 500, 5e-3, "mse", 3),
    "cifar10": (128, 2000, 5e-3, "mse", 3),
    "cifar100": (128, 2000, 5e-3, "mse", 3),
    "tiny-imagenet": (64, 1000, 5e-3, "mse", 4),
}


@pytest.mark.parametrize("dataset", PRESCRIBED)
class TestDream:
    def test_follows_the_published_table(self, dataset):
        found = da.recipe("dream", dataset=dataset)
        clusters, network_images, pixel_lr, metric, depth = PRESCRIBED[dataset]
        assert (found.clusters, found.network_images, found.pixel_lr, found.metric) == (
            clusters,
            network_images,
            pixel_lr,
            metric,
        )
        assert found.depth_for(SHAPES[dataset]) == depth
        assert (found.network, found.width) == ("convnet", 128)
        assert (found.strategy, found.per_cluster, found.interval, found.kmeans_iterations) == ("dream", 1, 10, 100)
        assert (found.iterations, found.inner_steps, found.layers) == (2000, 100, "conv")
        assert (found.init, found.factor, found.max_synthetic) == ("kmeans", 2, 128)
        assert (found.pixel_momentum, found.pixel_sweep) == (0.5, "per_class")
        assert (found.network_lr, found.network_momentum, found.weight_decay) == (0.01, 0.9, 5e-4)
        assert (found.network_batch, found.pretrain_epochs, found.feature_weight) == (128, 0, 0)
        assert (found.eval_epochs, found.eval_batch) == (1000, 64)

    def test_augments_as_published(self, dataset):
        found = da.recipe("dream", dataset=dataset)
        mnist = dataset == "mnist"
        assert found.match_augment == ("color_crop" if mnist else "color_crop_cutout")
        assert found.cutmix == (0.0 if mnist else 0.5)
        mirrored = "color_crop_flip_scale_rotate"
        without_flip = "color_crop_scale_rotate"
        assert found.train_augment == (without_flip if dataset in ("mnist", "svhn") else mirrored)

    def test_plus_adds_features_and_an_epoch_before_matching(self, dataset):
        dream, plus = (da.recipe(name, dataset=dataset) for name in ("dream", "dream+"))
        assert plus == replace(dream, recipe="dream+", feature_weight=1.0, pretrain_epochs=1)

    def test_idc_differs_in_its_real_batch_and_start_alone(self, dataset):
        dream, idc = (da.recipe(name, dataset=dataset) for name in ("dream", "idc"))
        assert idc == replace(dream, recipe="idc", strategy="random", init="mix", batch=64, interval=1)


SIX = ("mnist", "fashion-mnist", "svhn", "cifar10", "cifar100", "tiny-imagenet")
MIRRORED, UNMIRRORED = "color_crop_flip_scale_rotate", "color_crop_scale_rotate"
SIAMESE, UNMIRRORED_SIAMESE = "color_crop_cutout_flip_scale_rotate", "color_crop_cutout_scale_rotate"
OF_DREAM = {
    **{"factor": 2, "iterations": 2000, "inner_steps": 100, "layers": "conv", "pixel_lr_rule": "scaled"},
    **{"pixel_momentum": 0.5, "pixel_sweep": "per_class", "network": "convnet", "width": 128, "network_lr": 0.01},
    **{"network_momentum": 0.9, "weight_decay": 5e-4, "network_batch": 128, "per_cluster": 1, "clusters": 128},
    **{"kmeans_iterations": 100, "max_synthetic": 128, "base_size": 32, "metric": "mse", "pixel_lr": 5e-3},
    **{"match_augment": "color_crop_cutout", "cutmix": 0.5, "train_augment": MIRRORED, "network_images": 500},
    **{"strategy": "dream", "init": "kmeans", "interval": 10, "n_clusters": 128, "feature_weight": 0.0},
    **{"pretrain_epochs": 0, "eval_epochs": 1000, "eval_batch": 64},
}
OF_IDC = {**OF_DREAM, "strategy": "random", "init": "mix", "interval": 1, "batch": 64, "n_clusters": 64}
OF_DC = {
    **{"strategy": "random", "init": "noise", "batch": 256, "factor": 1, "iterations": 1000, "inner_steps": 10},
    **{"synthetic_epochs": 50, "metric": "cos", "layers": "weights", "match_augment": "", "pixel_lr": 0.1},
    **{"pixel_lr_rule": "normalized", "pixel_momentum": 0.5, "pixel_sweep": "joint", "network": "convnet"},
    **{"width": 128, "network_lr": 0.01, "synthetic_batch": 256, "synthetic_augment": "", "train_augment": MIRRORED},
    **{"eval_epochs": 1000, "cutmix": 0.5},
}
OF_DM = {
    **{"strategy": "random", "init": "random", "batch": 256, "factor": 1, "iterations": 200, "inner_steps": 100},
    **{"match_augment": SIAMESE, "pixel_lr": 1.0, "pixel_lr_rule": "normalized", "pixel_momentum": 0.5},
    **{"pixel_sweep": "joint", "network": "convnet", "width": 128, "train_augment": MIRRORED, "eval_epochs": 1000},
}
OF_METHOD = {
    "dream": OF_DREAM,
    "dream+": {**OF_DREAM, "feature_weight": 1.0, "pretrain_epochs": 1},
    "idc": OF_IDC,
    "idc-i": {**OF_IDC, "init": "random", "factor": 1},
    "dc": OF_DC,
    "dsa": {**OF_DC, "init": "random", "match_augment": SIAMESE, "synthetic_augment": SIAMESE},
    "dm": OF_DM,
}
"""The published settings of every method at IPC 10, by the papers and the authors' code."""

_L1 = {"metric": "l1", "pixel_lr": 1e-4}
OF_DREAM_ON = {
    "mnist": {**_L1, "base_size": 28, "train_augment": UNMIRRORED, "match_augment": "color_crop", "cutmix": 0.0},
    "fashion-mnist": _L1,
    "svhn": {"train_augment": UNMIRRORED},
    "cifar10": {"network_images": 2000},
    "cifar100": {"network_images": 2000},
    "tiny-imagenet": {"network_images": 1000, "clusters": 64, "n_clusters": 64},
}
WHOLE_DIGITS = {"match_augment": "color_crop_cutout", "cutmix": 0.5}
"""MNIST's where images are not packed."""


def published(name: str, dataset: str) -> dict[str, object]:
    """The settings that a recipe must have for a data set, IPC 10."""
    if name in ("dream", "dream+"):
        return {**OF_METHOD[name], **OF_DREAM_ON[dataset]}
    if name in ("idc", "idc-i"):  # IDC's real batch is its own on every data set
        own = {**OF_DREAM_ON[dataset], "n_clusters": 64}
        return {**OF_METHOD[name], **own, **(WHOLE_DIGITS if (name, dataset) == ("idc-i", "mnist") else {})}
    if dataset not in ("mnist", "svhn"):
        return OF_METHOD[name]
    unmirrored = {"train_augment": UNMIRRORED}
    if name != "dc":
        unmirrored["match_augment"] = UNMIRRORED_SIAMESE
    if name == "dsa":
        unmirrored["synthetic_augment"] = UNMIRRORED_SIAMESE
    return {**OF_METHOD[name], **unmirrored}


@pytest.mark.parametrize("dataset", SIX)
@pytest.mark.parametrize("name", OF_METHOD)
def test_every_recipe_has_the_published_settings_of_every_data_set(name, dataset):
    found, expected = da.recipe(name, dataset), published(name, dataset)
    assert {setting: getattr(found, setting) for setting in expected} == expected
    assert found.depth_for(SHAPES[dataset]) == (4 if dataset == "tiny-imagenet" else 3)


class TestImageSize:
    OWN = ("imagefolder:photos", "npz:x.npz", "mine")
    GENERAL = ("mse", 5e-3, 32, 128, 500, 2000)
    OF_64 = ("mse", 5e-3, 32, 64, 1000, 2000)
    OF_224 = ("l1", 3e-3, 224, 128, 500, 500)

    @pytest.mark.parametrize("dataset", OWN)
    @pytest.mark.parametrize(
        ("size", "expected", "depth", "rate"),
        [
            (0, GENERAL, 3, 5e-3),
            (28, GENERAL, 3, 5e-3 * (28 / 32) ** 2),
            (32, GENERAL, 3, 5e-3),
            (63, GENERAL, 4, 5e-3 * (63 / 32) ** 2),
            (64, OF_64, 4, 2e-2),
            (127, OF_64, 5, 5e-3 * (127 / 32) ** 2),
            (128, OF_224, 5, 3e-3 * (128 / 224) ** 2),
            (224, OF_224, 6, 3e-3),
        ],
    )
    @pytest.mark.parametrize("name", ["dream", "dream+", "idc", "idc-i"])
    def test_settings_of_ones_own_images_follow_from_the_size(self, name, dataset, size, expected, depth, rate):
        found = da.recipe(name, dataset, size=size)
        settings = ("metric", "pixel_lr", "base_size", "clusters", "network_images", "iterations")
        assert tuple(getattr(found, setting) for setting in settings) == expected
        side = size or 32
        assert found.depth_for((3, side, side)) == depth
        assert found.pixel_lr_for((3, side, side)) == pytest.approx(rate)
        assert found.factor == (1 if name == "idc-i" else 3 if size >= 128 else 2)
        assert found.network == "convnet"

    @pytest.mark.parametrize("name", ["dc", "dsa", "dm"])
    def test_methods_without_published_ones_have_the_same_at_every_size(self, name):
        assert replace(da.recipe(name, "mine", size=224), size=0) == da.recipe(name, "mine")

    def test_a_data_set_with_settings_of_its_own_keeps_them(self):
        found = da.recipe("dream", "CIFAR10", size=224)
        assert replace(found, size=0) == da.recipe("dream", "CIFAR10")

    def test_own_settings_win(self):
        found = da.recipe("dream", "mine", size=128, metric="cos", factor=1)
        assert (found.metric, found.factor, found.base_size) == ("cos", 1, 224)

    @pytest.mark.parametrize("size", ["64", 64.0, None])
    def test_another_type_is_refused_by_name(self, size):
        assert "size is" in refused(da.recipe, "dream", "mine", size=size)

    @pytest.mark.parametrize(("name", "factor", "batch"), [("dream", 3, 128), ("idc", 3, 64), ("idc-i", 1, 64)])
    @pytest.mark.parametrize(("subset", "rate"), [("imagenet-10", 3e-3), ("imagenet-100", 1e-3)])
    def test_subsets_of_imagenet_follow_the_published_table(self, name, factor, batch, subset, rate):
        found = da.recipe(name, subset)
        assert (found.size, found.metric, found.base_size) == (224, "l1", 224)
        assert (found.iterations, found.inner_steps, found.network_images) == (500, 100, 500)
        assert found.pixel_lr_for((3, 224, 224)) == rate
        assert found.factor == factor
        assert found.n_clusters == (128 if subset == "imagenet-100" else batch)

    @pytest.mark.parametrize(
        ("name", "dataset", "given", "side", "said"),
        [
            ("dream", "mine", {}, 224, True),
            ("dream", "mine", {}, 64, True),
            ("dream", "mine", {}, 63, False),
            ("dream", "mine", {"size": 224}, 224, False),
            ("dream", "Tiny_ImageNet", {}, 64, False),
            ("dm", "mine", {}, 224, False),
        ],
    )
    def test_images_larger_than_the_settings_are_for_are_remarked_on(self, name, dataset, given, side, said):
        remark = size_remark(da.recipe(name, dataset, **given), (3, side + 4, side))
        assert (f"--size {side}" in remark) == said
        assert said or not remark


@pytest.mark.parametrize(
    ("dataset", "ipc", "expected"),
    [
        ("cifar10", 10, 5e-3),
        ("cifar10", 1, 5e-4),
        ("cifar10", 50, 2.5e-2),
        ("svhn", 10, 5e-3),
        ("mnist", 10, 1e-4),
        ("mnist", 50, 5e-4),
        ("tiny-imagenet", 10, 2e-2),
        ("tiny-imagenet", 1, 2e-3),
        ("digits", 10, 5e-3),
    ],
)
def test_pixel_learning_rate_grows_with_ipc_and_with_the_image_area(dataset, ipc, expected):
    assert da.recipe("dream", dataset, ipc=ipc).pixel_lr_for(SHAPES[dataset]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("side", "depth"), [(2, 1), (4, 1), (8, 1), (16, 2), (28, 3), (32, 3), (64, 4), (96, 5), (128, 5), (224, 6)]
)
def test_depth_follows_the_shorter_side(side, depth):
    automatic = da.recipe("dream", "imagefolder:x")
    assert automatic.depth_for((3, side, side + 7)) == depth
    assert automatic.depth_for((3, side + 7, side)) == depth
    assert replace(automatic, depth=2).depth_for((3, side, side)) == 2


@pytest.mark.parametrize("spelling", ["Fashion_MNIST", "FASHION-MNIST", " fashion-mnist"])
def test_a_data_set_spelled_otherwise_gets_the_same_settings(spelling):
    expected = da.recipe("dream", "fashion-mnist")
    assert da.recipe("dream", spelling) == replace(expected, dataset=spelling)


def test_ones_own_images_get_the_method_s_defaults():
    assert da.recipe("dream", "imagefolder:photos") == Recipe(dataset="imagefolder:photos")


def test_own_settings_win_over_what_is_prescribed():
    found = da.recipe("idc", "mnist", metric="cos", clusters=9, pixel_lr=1)
    assert (found.metric, found.clusters, found.pixel_lr) == ("cos", 9, 1)


def test_a_recipe_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        da.recipe().ipc = 3


def test_every_setting_says_what_it_means():
    for setting in fields(Recipe):
        assert len(setting_help(setting.name)) > 10
        assert setting.metadata["panel"] in PANELS


class TestMethods:
    """Every recipe file holds what the registry, the engine and the command line read of it."""

    @pytest.mark.parametrize("method", RECIPES.values(), ids=list(RECIPES))
    def test_a_method_names_settings_and_a_schedule_that_exist(self, method):
        named = {*method.USES, *method.DEFAULTS}
        tables = (method.BY_DATASET, method.BY_IPC, method.BY_SIZE, method.PACKED)
        named |= {key for table in tables for own in table.values() for key in own}
        assert named <= SETTINGS
        assert set(method.DEFAULTS) <= method.USES
        assert method.SCHEDULE in SCHEDULES
        assert method.__doc__.count("arXiv") >= 1

    @pytest.mark.parametrize("name", RECIPES)
    @pytest.mark.parametrize("dataset", [*SHAPES, "imagefolder:x"])
    def test_every_method_has_valid_settings_for_every_data_set(self, name, dataset):
        found = da.recipe(name, dataset)
        method = RECIPES[name]
        assert found.recipe == name
        assert {key: getattr(found, key) for key in method.BY_DATASET.get(dataset, {})}.items() <= {
            **vars(found),
        }.items()
        network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(2, 2))
        matched = {"conv": {"0.weight"}, "weights": {"0.weight", "2.weight"}}[found.layers]
        assert set(method.objective(found).parameters(network)) == (matched if "layers" in method.USES else set())

    def test_dream_states_the_published_settings_itself(self):
        """A reader of the file finds them there, and they are those a run has."""
        method, found = RECIPES["dream"], da.recipe("dream", "imagefolder:x")
        assert {key: getattr(found, key) for key in method.DEFAULTS} == method.DEFAULTS
        assert {"clusters", "interval", "iterations", "inner_steps", "metric", "pixel_lr"} <= set(method.DEFAULTS)


class TestBatch:
    @pytest.mark.parametrize(
        ("name", "given", "clusters", "images"),
        [
            ("dream", {}, 128, 128),
            ("dream", {"clusters": 32}, 32, 32),
            ("dream", {"clusters": 32, "per_cluster": 2}, 32, 64),
            ("dream", {"batch": 64}, 64, 64),
            ("dream", {"batch": 64, "per_cluster": 4}, 16, 64),
            ("dream", {"strategy": "random", "batch": 256}, 256, 256),
            ("idc", {}, 64, 64),
            ("idc", {"strategy": "dream"}, 64, 64),
            ("idc", {"clusters": 9}, 9, 9),
        ],
    )
    def test_is_given_itself_or_by_the_clusters(self, name, given, clusters, images):
        found = da.recipe(name, "cifar10", **given)
        assert (found.n_clusters, found.n_clusters * found.per_cluster) == (clusters, images)

    def test_both_are_refused(self):
        assert "leave one out" in refused(da.recipe, "dream", batch=64, clusters=32)

    def test_one_that_the_clusters_cannot_share_is_refused(self):
        assert "must be a multiple" in refused(da.recipe, "dream", batch=64, per_cluster=3)

    def test_one_that_a_refresh_cannot_give_is_refused(self):
        message = "refresh_images is 127: a batch has 128 images of a class, give at least as many, or 0 for all"
        assert refused(da.recipe, "dream", clusters=64, per_cluster=2, refresh_images=127) == message
        assert da.recipe("dream", clusters=64, per_cluster=2, refresh_images=128).refresh_images == 128


class TestRefusals:
    @pytest.mark.parametrize("setting", ["feature_weight", "pretrain_epochs"])
    @pytest.mark.parametrize("name", ["dream", "idc"])
    def test_a_setting_the_method_does_not_use_is_named_with_those_that_do(self, name, setting):
        message = refused(da.recipe, name, "digits", **{setting: 1})
        assert message == f"recipe {name!r} does not use {setting}: leave it out, or choose dream+"

    @pytest.mark.parametrize(
        ("strategy", "setting", "users"),
        [
            ("random", "interval", "dream or central or boundary"),
            ("random", "kmeans_iterations", "dream"),
            ("central", "kmeans_iterations", "dream"),
            ("random", "refresh_images", "dream or central or boundary"),
        ],
    )
    def test_a_setting_the_strategy_does_not_read_is_named_with_those_that_do(self, strategy, setting, users):
        message = refused(da.recipe, "dream", "digits", strategy=strategy, **{setting: 500})
        expected = f"strategy {strategy!r} does not use {setting}: leave it out, or choose the strategy {users}"
        assert message == expected
        # It is the strategy in force that counts, the method's own one too.
        assert refused(da.recipe, "dm", "digits", interval=5).startswith("strategy 'random' does not use interval")
        assert da.recipe("dm", "digits", strategy="dream", interval=5).interval == 5

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_defaults_that_a_strategy_does_not_read_are_no_refusal(self, strategy):
        assert da.recipe("dream", "digits", strategy=strategy).strategy == strategy

    def test_unknown_recipe_lists_what_exists(self):
        assert refused(da.recipe, "dreem") == f"unknown recipe 'dreem': choose one of {', '.join(RECIPES)}"

    def test_unknown_setting_names_the_nearest_and_lists_all(self):
        message = refused(da.recipe, "dream", "digits", iteration=5)
        assert message.startswith("a recipe has no setting 'iteration': did you mean 'iterations'?")
        assert all(setting.name in message for setting in fields(Recipe))
        assert "did you mean" not in refused(da.recipe, "dream", "digits", zzz=5)

    @pytest.mark.parametrize(
        ("setting", "kind", "listed"),
        [
            ("strategy", "strategy", "dream, random, central, boundary"),
            ("init", "initialisation", "kmeans, random, mix, noise"),
            ("metric", "metric", "mse, l1, l1_mean, cos, global_mse, global_cos"),
            ("layers", "layer rule", "conv, weights, all"),
            ("network", "network", "convnet"),
            ("pixel_sweep", "pixel sweep", "per_class, joint"),
        ],
    )
    def test_unknown_names_list_what_exists(self, setting, kind, listed):
        message = refused(da.recipe, "dream", "digits", **{setting: "nothing"})
        assert message.startswith(f"unknown {kind} 'nothing': choose one of {listed}")

    @pytest.mark.parametrize("setting", ["match_augment", "train_augment"])
    def test_unknown_augmentation_lists_what_exists(self, setting):
        message = refused(da.recipe, "dream", "digits", **{setting: "color_blur"})
        assert message == "unknown augmentation 'blur': choose one of color, crop, cutout, flip, scale, rotate"

    @pytest.mark.parametrize("setting", [s for s in fields(Recipe) if s.metadata["least"] is not None])
    def test_below_the_least_is_refused(self, setting):
        least = setting.metadata["least"]
        method = next(name for name in RECIPES if setting.name in RECIPES[name].USES)
        pool = {"real": "cached"} if setting.name in POOL else {}
        assert getattr(da.recipe(method, "digits", **pool, **{setting.name: least}), setting.name) == least
        for value in (least - 1, *([float("nan")] if isinstance(setting.default, float) else [])):
            message = refused(da.recipe, method, "digits", **pool, **{setting.name: value})
            assert message == f"{setting.name} is {value}: it must be at least {least}"

    @pytest.mark.parametrize("setting", ["pixel_momentum", "network_momentum", "cutmix"])
    def test_above_one_is_refused(self, setting):
        assert getattr(da.recipe("dream", "digits", **{setting: 1}), setting) == 1
        message = refused(da.recipe, "dream", "digits", **{setting: 1.5})
        assert message == f"{setting} is 1.5: it must be between 0 and 1"

    @pytest.mark.parametrize(
        ("setting", "value", "kind"),
        [
            ("ipc", "5", "int"),
            ("ipc", 2.0, "int"),
            ("ipc", True, "int"),
            ("pixel_lr", "1", "float"),
            ("metric", 1, "str"),
        ],
    )
    def test_another_type_is_refused(self, setting, value, kind):
        message = refused(da.recipe, "dream", "digits", **{setting: value})
        assert message == f"{setting} is {value!r}: it must be of type {kind}"

    def test_a_replaced_setting_is_checked_too(self):
        assert "ipc is 0" in refused(replace, da.recipe(), ipc=0)


def test_mnist_keeps_cutout_and_cutmix_where_images_are_whole():
    packed, whole = da.recipe("dream", dataset="mnist", factor=2), da.recipe("dream", dataset="mnist", factor=1)
    assert (packed.match_augment, packed.cutmix) == ("color_crop", 0.0)
    assert (whole.match_augment, whole.cutmix) == ("color_crop_cutout", 0.5)
    assert da.recipe("dream", dataset="mnist").match_augment == "color_crop"


def test_pixel_lr_is_scaled_by_28_for_mnist_alone():
    assert da.recipe("dream", dataset="mnist").base_size == 28
    assert da.recipe("dream", dataset="fashion-mnist").base_size == 32


def test_row_cosine_of_mean_features_is_refused():
    assert "use global_cos or mse, or feature_weight 0" in refused(da.recipe, "dream+", metric="cos")
