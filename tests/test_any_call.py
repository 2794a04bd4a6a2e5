"""Every public call with arguments that Hypothesis draws, sense and nonsense: it gives what it says, or one refusal.

A call that raises anything but a refusal fails its test, so these tests look for crashes that nobody thought of.
"""

import dataclasses
import itertools
import json
import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.hunting import times
from support.ranked_runs import RUNS, SMALL, split

import dream_accel as da
from dream_accel.augment import AUGMENTATIONS, Augmentation
from dream_accel.backends import reference
from dream_accel.ops import EMPTY_POLICIES, LAYER_RULES, METRICS, select_layers
from dream_accel.recipes import RECIPES
from dream_accel.sampling import select_by_score
from dream_accel.sampling.selection import SELECTIONS

pytestmark = pytest.mark.usefixtures("one_thread")
MANY, SOME, FEW = (settings(max_examples=times(short, 20 * short)) for short in (60, 25, 6))

NUMBERS = st.one_of(
    st.integers(-2, 9),
    st.floats(-2, 9, allow_nan=False).map(lambda x: round(x, 2)),
    st.sampled_from([math.nan, math.inf, 2**70, None, True, "3", "", b"3", [3], np.int64(3), np.float32(0.5)]),
)
SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=4)
VALUES = st.sampled_from([1.0, 0.0, 1e-30, 1e25, math.nan, -math.inf])

FIELDS = {field.name: field.default for field in dataclasses.fields(da.Recipe)}


def mostly(good: st.SearchStrategy, bad: st.SearchStrategy = NUMBERS) -> st.SearchStrategy:
    """Sense, but for one time in sixteen."""
    return st.integers(0, 15).flatmap(lambda i: bad if i == 15 else good)


def of_type(value: object) -> st.SearchStrategy:
    """Values of the type of a setting, its default first."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, str):
        return st.sampled_from([value, "random", "dream", "cos", "flip", "picks", "kmeans", "batch", ""])
    return st.one_of(st.just(value), st.integers(0, 200) if isinstance(value, int) else st.floats(0, 2))


SETTINGS = st.sampled_from(sorted(FIELDS.keys() - {"recipe", "dataset"})).flatmap(
    lambda name: st.tuples(st.just(name), mostly(of_type(FIELDS[name]), st.one_of(NUMBERS, st.text(max_size=4))))
)


def outcome(call, *args, **options):
    """Call a function and return what it returns, or None if it refuses; any other exception passes and fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call(*args, **options)
        except da.DreamAccelError:
            return None


def normal(*shape, seed=0, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def same(a, b) -> bool:
    return torch.equal(a.nan_to_num(7), b.nan_to_num(7))


@MANY
@given(
    sizes=SIZES,
    d=st.integers(0, 5),
    k=mostly(st.integers(1, 12)),
    scale=mostly(st.sampled_from([1.0, 1e-12, 1e12]), VALUES),
    dtype=mostly(
        st.sampled_from([torch.float32, torch.float16, torch.float64]), st.sampled_from([torch.int64, torch.bool])
    ),
    options=st.fixed_dictionaries(
        {},
        optional={
            "max_iter": mostly(st.integers(0, 5)),
            "tol": mostly(st.sampled_from([0.0, 0.5])),
            "init": mostly(st.sampled_from(["random", "k-means++"])),
            "seed": mostly(st.integers(0, 3)),
            "empty": mostly(st.sampled_from(EMPTY_POLICIES)),
            "gram": st.booleans(),
        },
    ),
)
def test_kmeans(sizes, d, k, scale, dtype, options):
    x, offsets = normal(sum(sizes), d, scale=scale).to(dtype), np.cumsum([0, *sizes])
    found = outcome(da.kmeans, x, offsets, k, **options)
    if found is None:
        return
    assert found.centroids.shape == (len(sizes), int(k), d)
    assert found.labels.shape == (sum(sizes),)
    assert ((found.labels >= 0) & (found.labels < int(k))).all()
    again = outcome(da.kmeans, x, offsets, k, **options)
    assert torch.equal(found.labels, again.labels)
    assert same(found.centroids, again.centroids)
    live = found.centroids.isfinite().all(dim=2)
    for g, (first, stop) in enumerate(itertools.pairwise(offsets)):
        assert live[g].sum() >= min(1, stop - first)
        assert live[g][found.labels[first:stop].long()].all()


@MANY
@given(
    lead=st.sampled_from([(), (), (0,), (1,), (3,)]),
    shapes=st.lists(st.lists(st.integers(0, 5), min_size=0, max_size=4).map(tuple), min_size=0, max_size=3),
    metric=mostly(st.sampled_from(METRICS), st.one_of(NUMBERS, st.text(max_size=3))),
    layers=mostly(st.sampled_from(["all", "all", *LAYER_RULES]), st.one_of(NUMBERS, st.text(max_size=3))),
    scale=mostly(st.just(1.0), VALUES),
    mismatch=st.sampled_from([None, None, None, None, None, "shape", "length", "dtype"]),
)
def test_distances_of_gradients(lead, shapes, metric, layers, scale, mismatch):
    real = [normal(*lead, *shape, seed=1, scale=scale) for shape in shapes]
    syn = [normal(*lead, *shape, seed=2).requires_grad_() for shape in shapes]
    if mismatch == "length":
        syn = syn[:-1]
    elif mismatch is not None and syn:
        syn[0] = normal(1, *lead, *shapes[0]) if mismatch == "shape" else syn[0].detach().to(torch.int32)
    found = outcome(da.gradient_distance, real, syn, metric, layers, per_class=bool(lead))
    if found is None:
        return
    kept = select_layers(syn, layers, bool(lead))
    real, own = [real[i] for i in kept], [syn[i] for i in kept]
    with torch.no_grad():
        expected, _, derivative = reference.gradient_distance(real, own, metric, bool(lead), True)
    close = partial(torch.testing.assert_close, equal_nan=True)
    close(found.detach(), expected.reshape(lead), rtol=2e-4, atol=1e-5)
    found.sum().backward()
    for y, expected in zip(own, derivative, strict=True):
        close(y.grad, expected.reshape(y.shape), rtol=2e-3, atol=1e-5)


@MANY
@given(
    lead=st.sampled_from([(), (), (0,), (1,), (3,)]),
    rows=st.tuples(mostly(st.integers(1, 4), st.just(0)), mostly(st.integers(1, 4), st.just(0))),
    shape=st.lists(st.integers(0, 5), min_size=0, max_size=3).map(tuple),
    metric=mostly(st.sampled_from(METRICS), st.one_of(NUMBERS, st.text(max_size=3))),
)
def test_distances_of_features(lead, rows, shape, metric):
    real = normal(*lead, rows[0], *shape, seed=1)
    syn = normal(*lead, rows[1], *shape, seed=2).requires_grad_()
    found = outcome(da.feature_distance, [real], [syn], metric, per_class=bool(lead))
    if found is None:
        return
    # A flat feature is one row.
    means = [features.detach().mean(dim=len(lead), keepdim=len(shape) == 1) for features in (real, syn)]
    expected = da.gradient_distance([means[0]], [means[1]], metric, "all", per_class=bool(lead))
    torch.testing.assert_close(found.detach(), expected, rtol=1e-3, atol=1e-5)
    found.sum().backward()
    assert syn.grad.shape == syn.shape
    assert syn.grad.isfinite().all()


@MANY
@given(
    n=st.integers(0, 12),
    classes=st.integers(1, 4),
    k=mostly(st.integers(1, 5)),
    strategy=mostly(st.sampled_from(sorted(SELECTIONS)), st.sampled_from(["", "dreams", "forgetting", None, 3])),
    repeat=st.booleans(),
    seed=mostly(st.integers(0, 3)),
)
def test_select(n, classes, k, strategy, repeat, seed):
    labels = torch.arange(n) % classes
    options = {"seed": seed, "repeat": repeat}
    for call, values in ((da.select, normal(n, 3)), (select_by_score, normal(n))):
        more = {"strategy": strategy} if call is da.select else {}
        found = outcome(call, values, labels, k, **options, **more)
        if found is None:
            continue
        present = min(n, classes)
        assert found.shape == (present, int(k))
        assert torch.equal(labels[found], torch.arange(present).unsqueeze(1).expand(found.shape))
        if not repeat:
            assert found.unique().numel() == found.numel()


@SOME
@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    options=st.fixed_dictionaries(
        {"n_clusters": mostly(st.integers(1, 6))},
        optional={
            "per_cluster": mostly(st.integers(1, 3)),
            "interval": mostly(st.integers(1, 3)),
            "strategy": mostly(st.sampled_from(["dream", "random", "central", "boundary"]), st.just("herding")),
            "seed": mostly(st.integers(0, 3)),
            "pool": mostly(st.integers(6, 20)),
            "max_iter": mostly(st.integers(0, 5)),
            "chunk_size": mostly(st.integers(1, 9)),
        },
    ),
    calls=st.lists(
        st.tuples(
            st.sampled_from(["update", "refresh", "batch", "sample", "sample_mixed", "restart", "check"]),
            mostly(st.integers(0, 4)),
            mostly(st.integers(1, 9)),
        ),
        max_size=8,
    ),
)
def test_sampler(counts, options, calls):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    images = torch.randint(256, (len(labels), 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    # The level of an image tells its class.
    images[:, 0, 0, 0] = labels
    sampler = outcome(da.RepresentativeSampler, images, labels, features=lambda x: x.flatten(1), **options)
    if sampler is None:
        return
    for name, first, second in [("update", 0, 0), *calls]:
        arguments = {"sample": (first, second), "sample_mixed": (second,), "restart": (first,)}.get(name, ())
        found = outcome(getattr(sampler, name), *arguments)
        if name == "batch" and found is not None:
            assert found[0].shape == (len(counts), sampler.batch_size, 1, 4, 4)
            assert torch.equal((255 * found[0][:, :, 0, 0, 0]).round().long(), found[1])
        if name == "sample" and found is not None:
            assert found.shape == (int(second), 1, 4, 4)
            assert ((255 * found[:, 0, 0, 0]).round() == int(first)).all()
        if name == "sample_mixed" and found is not None:
            assert torch.equal((255 * found[0][:, 0, 0, 0]).round().long(), found[1])


@MANY
@given(
    shape=mostly(st.tuples(st.integers(2, 5), st.integers(2, 5), st.integers(2, 5)), SIZES.map(tuple)),
    channels=mostly(st.sampled_from([None, 1, 3]), st.integers(0, 4)),
    first=st.booleans(),
    dtype=mostly(st.sampled_from(["uint8", "float32"]), st.sampled_from(["float64", "bool", "c8", "U3", "O", ">f4"])),
    value=mostly(st.sampled_from([0, 1]), st.sampled_from([0.5, 255, -1, math.nan])),
    labels=mostly(st.integers(1, 3), st.one_of(st.lists(NUMBERS, max_size=4), st.text(max_size=3), st.none())),
    options=st.fixed_dictionaries(
        {},
        optional={
            "n_classes": mostly(st.integers(1, 4)),
            "class_names": mostly(st.lists(st.text(max_size=2), max_size=4)),
            "layout": mostly(st.sampled_from(["auto", "nchw", "nhwc"])),
            "allow_empty": st.booleans(),
        },
    ),
)
def test_image_set(shape, channels, first, dtype, value, labels, options):
    if channels is not None:
        shape = (shape[0], channels, *shape[1:]) if first else (*shape, channels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            images = np.full(shape, value).astype(dtype)
        except (ValueError, TypeError):
            return
    labels = np.arange(shape[0]) % labels if isinstance(labels, int) else labels
    found = outcome(da.ImageSet.from_arrays, images, labels, **options)
    if found is None:
        return
    assert found.images.dtype == torch.uint8
    assert len(found) == len(found.labels) == shape[0] > 0
    assert 0 <= int(found.labels.min()) <= int(found.labels.max()) < found.n_classes == len(found.class_names)


@MANY
@given(
    name=mostly(st.sampled_from(sorted(RECIPES)), st.one_of(NUMBERS, st.text(max_size=5))),
    dataset=mostly(st.sampled_from(["digits", "cifar10", "npz:x.npz", "own"]), st.one_of(NUMBERS, st.text(max_size=5))),
    given=st.lists(SETTINGS, max_size=3).map(dict),
)
def test_recipe(name, dataset, given):
    found = outcome(da.recipe, name, dataset, **given)
    if found is None:
        return
    assert isinstance(found, da.Recipe)
    # It goes through JSON, as config.json and checkpoints take it, and comes back as it was.
    assert da.Recipe(**json.loads(json.dumps(dataclasses.asdict(found)))) == found


@MANY
@given(
    names=st.one_of(
        st.text(max_size=8), st.lists(st.sampled_from([*AUGMENTATIONS, "", "Flip"]), max_size=4).map("_".join)
    )
)
def test_augmentation(names):
    made = outcome(Augmentation, names)
    if made is None:
        return
    images = torch.rand(3, 1, 6, 6)
    draw = made.draw(1, torch.Generator().manual_seed(0))
    once, again = (made.apply(images, draw) for _ in range(2))
    assert once.shape == images.shape
    assert once.isfinite().all()
    assert torch.equal(once, again)


@FEW
@given(
    name=st.sampled_from(sorted(RUNS)),
    given=st.fixed_dictionaries(
        {},
        optional={
            "ipc": mostly(st.integers(1, 3)),
            "factor": st.integers(1, 2),
            "iterations": st.integers(0, 2),
            "pixel_lr": mostly(st.sampled_from([0.0, 0.5]), st.sampled_from([1e30, math.nan])),
            "init": st.sampled_from(["kmeans", "random", "mix", "noise"]),
            "metric": st.sampled_from(METRICS),
            "norm": st.sampled_from(["instance", "batch", "layer", "group", "none"]),
            "limit_train": mostly(st.integers(40, 200)),
        },
    ),
)
def test_distill_evaluate_save_and_load(tmp_path_factory, name, given):
    made = outcome(da.recipe, name.partition(" ")[0], "grey", **{**SMALL, **RUNS[name], **given})
    if made is None:
        return
    result = outcome(da.distill, made, split(), device="cpu")
    if result is None:
        return
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    assert torch.equal(result.images, outcome(da.distill, made, split(), device="cpu").images)
    folder = tmp_path_factory.mktemp("any") / "run"
    result.save(folder)
    assert torch.equal(outcome(da.load, folder).images, result.images)
    score = outcome(da.evaluate, result, split(), networks=1, epochs=1, device="cpu")
    assert score is None or 0 <= score.mean <= 100
