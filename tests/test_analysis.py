"""Analyses against the formulas written out, their figures, and their commands on small data."""

import csv
import math
import re
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from support.refusals import refused

import dream_accel as da
from dream_accel import cli
from dream_accel.analysis import ANALYSES, find_analysis, gradient_norms
from dream_accel.analysis.along_training import along_training
from dream_accel.analysis.evenness import evenness, evenness_of
from dream_accel.analysis.feature_migration import feature_migration, layout
from dream_accel.analysis.gradient_difference import gradient_difference
from dream_accel.analysis.gradient_fidelity import gradient_fidelity
from dream_accel.analysis.gradient_norms import pick_norms
from dream_accel.analysis.picking import Picker
from dream_accel.analysis.picks import picks
from dream_accel.analysis.refresh_images import refresh_images
from dream_accel.analysis.registry import PARAMETERS
from dream_accel.data import DataSplit
from dream_accel.engine.assembly import assemble
from dream_accel.networks import ConvNet
from dream_accel.random import derive_seed
from dream_accel.report import FIGURES, write_figure
from dream_accel.sampling.pool import Pools

N_CLASSES, PER_CLASS = 3, 12


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def split() -> DataSplit:
    draws = torch.Generator().manual_seed(0)

    def images(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(n) % N_CLASSES
        noise = torch.randint(0, 120, (n, 1, 8, 8), generator=draws)
        return (noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels

    return DataSplit.from_arrays(images(N_CLASSES * PER_CLASS), images(12), layout="nchw")


def tiny(**settings) -> da.Recipe:
    small = {"ipc": 2, "factor": 1, "width": 4, "depth": 2, "iterations": 1, "inner_steps": 2, "clusters": 4}
    small |= {"network_images": 8, "eval_epochs": 2, "eval_networks": 1, "network_batch": 8}
    return da.recipe("dream", "own data", **{**small, **settings})


def plain_gradients(network, images: torch.Tensor, label: int, layers: str = "conv") -> torch.Tensor:
    """The gradient of every single image, in float64, (n, P)."""
    network = network.double()
    wanted = [p for p in network.parameters() if layers == "all" or p.dim() == 4]
    found = []
    for image in images.double():
        loss = F.cross_entropy(network(image[None]), torch.tensor([label]))
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, wanted)]))
    return torch.stack(found)


def images_of(split: DataSplit, label: int) -> torch.Tensor:
    """The normalised images of a class, in the order of the training set."""
    return split.normalization(split.train.images[split.train.labels == label].float() / 255)


def most_central(network, images: torch.Tensor, n: int) -> torch.Tensor:
    features = network.double().embed(images.double()).flatten(1).detach()
    return (features - features.mean(dim=0)).norm(dim=1).argsort()[:n]


def test_gradient_norms_are_those_of_single_image_gradients():
    draws = torch.Generator().manual_seed(0)
    network = ConvNet((1, 8, 8), 3, width=4, depth=2)
    images, labels = torch.rand(7, 1, 8, 8, generator=draws), torch.arange(7) % 3
    expected = []
    for image, label in zip(images, labels, strict=True):
        loss = F.cross_entropy(network(image[None]), label[None])
        grads = torch.autograd.grad(loss, list(network.parameters()))
        expected.append(torch.cat([g.flatten() for g in grads]).norm())
    torch.testing.assert_close(gradient_norms(network, images, labels, chunk_size=3), torch.stack(expected))


def test_norms_of_central_picks_are_those_of_the_images_nearest_the_mean(split):
    rows = list(pick_norms(tiny(), split, strategies=("central",), batch=3, trained=(16,)))
    ((_, network),) = along_training(tiny(), split, (16,))
    assert len(rows) == 3 * N_CLASSES
    for c in range(N_CLASSES):
        own = [row for row in rows if row.label == c]
        order = most_central(network, images_of(split, c), 3)
        assert [row.index for row in own] == [split.train.by_class()[0][c * PER_CLASS + int(i)] for i in order]
        expected = plain_gradients(network, images_of(split, c)[order], c, "all").norm(dim=1)
        assert [row.norm for row in own] == pytest.approx(expected.tolist(), rel=1e-4)


def test_the_share_of_a_pick_is_the_part_of_its_class_that_is_nearest_to_it(split):
    rows = list(pick_norms(tiny(), split, strategies=("dream", "boundary"), batch=3, trained=(16,)))
    ((_, network),) = along_training(tiny(), split, (16,))
    order = split.train.by_class()[0].tolist()
    for strategy in ("dream", "boundary"):
        for c in range(N_CLASSES):
            own = [row for row in rows if (row.strategy, row.label) == (strategy, c)]
            features = network.double().embed(images_of(split, c).double()).flatten(1).detach()
            picked = [order.index(row.index) - c * PER_CLASS for row in own]
            nearest = torch.cdist(features, features[picked]).argmin(dim=1)
            assert [row.share for row in own] == [float((nearest == i).double().mean()) for i in range(3)]
    assert len({row.share for row in rows}) > 2


@pytest.mark.parametrize("trained", [0, 16])
def test_fidelity_is_the_relative_error_against_the_gradient_of_the_class(split, trained):
    rows = list(gradient_fidelity(tiny(), split, strategies=("central",), batches=(2, 5), trained=(trained,), draws=1))
    ((_, network),) = along_training(tiny(), split, (trained,))
    assert [(row.batch, row.label) for row in rows] == [(n, c) for n in (2, 5) for c in range(N_CLASSES)]
    for row in rows:
        images = images_of(split, row.label)
        every = plain_gradients(network, images, row.label)
        whole, own = every.mean(dim=0), every[most_central(network, images, row.batch)].mean(dim=0)
        assert row.norm == pytest.approx(float(whole.norm()), rel=1e-4)
        assert row.error == pytest.approx(float((own - whole).norm() / whole.norm()), rel=1e-3)


def test_a_batch_that_is_the_whole_class_has_no_error_and_random_ones_fall_with_their_size(split):
    rows = list(gradient_fidelity(tiny(), split, strategies=("random",), batches=(1, 6, 12), trained=(0,), draws=3))
    mean = {n: sum(row.error for row in rows if row.batch == n) for n in (1, 6, 12)}
    assert mean[12] < 1e-5 < mean[6] < mean[1]
    assert len({round(row.error, 6) for row in rows if row.batch == 6 and row.label == 0}) == 3


def test_evenness_of_a_batch_counted_by_hand():
    touched, entropy = evenness_of(torch.tensor([0, 0, 1, 2]), 4)
    assert touched == 0.75
    assert entropy == pytest.approx((0.5 * math.log(2) + 2 * 0.25 * math.log(4)) / math.log(4))
    assert evenness_of(torch.tensor([3, 1, 2, 0]), 4) == pytest.approx((1, 1))
    assert evenness_of(torch.tensor([2, 2, 2, 2]), 4) == (0.25, 0)


def test_evenness_is_counted_in_the_reference_clusters(split):
    rows = list(evenness(tiny(), split, strategies=("boundary",), batches=(4,), trained=(0,), draws=1))
    ((_, network),) = along_training(tiny(), split, (0,))
    picker = Picker(tiny(), split, ("boundary",), (4,))
    picker.embed(network)
    labels = dict(zip(picker._order.tolist(), picker.reference_labels(4).tolist(), strict=True))
    for row, batch in zip(rows, picker.pick("boundary", 4).tolist(), strict=True):
        assert row.touched == len({labels[index] for index in batch}) / 4
        assert all(split.train.labels[index] == row.label for index in batch)


def test_inertia_is_that_of_all_images_relative_to_a_clustering_of_all(split):
    rows = list(refresh_images(tiny(), split, images=(4, PER_CLASS), trained=(0,), draws=2))
    ((_, network),) = along_training(tiny(), split, (0,))
    picker = Picker(tiny(), split, (), ())
    picker.embed(network)
    x, offsets = picker.features().double(), picker.offsets
    # Four images in four clusters are the centres; a clustering of all is an ordinary one.
    of_all, of_few = torch.zeros(2, N_CLASSES), torch.zeros(2, N_CLASSES)
    for draw in range(2):
        seed = derive_seed(0, "analysis refresh", draw)
        km = da.BatchedKMeans(4, max_iter=tiny().kmeans_iterations, seed=seed).fit(picker.features(), offsets)
        chosen = Pools([PER_CLASS] * N_CLASSES, 4, x.device).draw(offsets, seed).view(N_CLASSES, 4)
        for c in range(N_CLASSES):
            own = x[offsets[c] : offsets[c + 1]]
            of_all[draw, c] = torch.cdist(own, km.cluster_centers_[c].double()).square().amin(1).sum()
            of_few[draw, c] = torch.cdist(own, x[chosen[c]]).square().amin(1).sum()
    found = {(row.images, row.draw, row.label): row.inertia for row in rows}
    assert len(found) == len(rows) == 2 * 2 * N_CLASSES
    for (images, draw, label), value in found.items():
        measured = of_all if images == PER_CLASS else of_few
        assert value == pytest.approx((measured[draw] / of_all.mean(0))[label].item(), rel=1e-4)
    assert of_few.mean() > of_all.mean()


def test_gradient_difference_is_the_squared_distance_from_batch_and_class(split):
    recipe = tiny(inner_steps=1, network_images=0)
    (row,) = gradient_difference(recipe, split, strategies=("dream",))
    distiller = assemble(recipe, split)
    distiller.outer_iteration(0)
    to_batch = to_class = 0.0
    for c in range(N_CLASSES):
        synthetic = split.normalization(distiller.pixels.pixels[c])
        ours = plain_gradients(distiller.network, synthetic, c).mean(dim=0)
        batch = split.normalization(split.train.batch(distiller.sampler.indices[c]))
        to_batch += float((plain_gradients(distiller.network, batch, c).mean(dim=0) - ours).square().sum())
        every = plain_gradients(distiller.network, images_of(split, c), c)
        to_class += float((every.mean(dim=0) - ours).square().sum())
    assert (row.step, row.to_batch, row.to_class) == (
        1,
        pytest.approx(to_batch, rel=1e-3),
        pytest.approx(to_class, rel=1e-3),
    )


def test_watching_does_not_move_the_pixels(split):
    recipe = tiny(iterations=2)
    steps = [row.step for row in gradient_difference(recipe, split, strategies=("random",), every=2)]
    assert steps == [2, 4]
    watched, plain = assemble(recipe, split), assemble(recipe, split)
    from dream_accel.analysis.gradient_difference import _Watch

    watched.outer_iteration(0, _Watch(watched, 0, 1).after_step)
    plain.outer_iteration(0)
    assert torch.equal(watched.pixels.pixels, plain.pixels.pixels)


def test_runs_of_a_sweep_are_those_of_distill_and_evaluate(split):
    settings = {"iterations": 2, "eval_epochs": 3}
    rows = list(ANALYSES["central-boundary"].measure(tiny(**settings), split, strategies=("dream", "boundary")))
    assert [(row.strategy, row.iteration) for row in rows] == [
        (name, stop) for name in ("dream", "boundary") for stop in (0, 2)
    ]
    assert rows[0].accuracy == rows[2].accuracy  # the same initial images
    result = da.distill(tiny(strategy="boundary", **settings), split, device="cpu")
    assert rows[3].accuracy == da.evaluate(result, split, device="cpu").mean


def test_sub_clusters_are_varied_at_equal_batch(split):
    rows = list(ANALYSES["sub-clusters"].measure(tiny(), split, batches=(4, 8), per_cluster=(1, 2), at=(0,)))
    found = [(row.clusters, row.per_cluster, row.batch) for row in rows]
    assert found == [(4, 1, 4), (8, 1, 8), (2, 2, 4), (4, 2, 8)]


@pytest.mark.parametrize(("name", "values"), [("interval", (1, 2)), ("init", ("random", "noise"))])
def test_a_setting_is_varied_and_seeds_count_up(split, name, values):
    figure = "initialisation" if name == "init" else name
    rows = list(ANALYSES[figure].measure(tiny(), split, **{name: values}, at=(0,), seeds=2))
    assert [(row.seed, getattr(row, name)) for row in rows] == [(seed, value) for seed in (0, 1) for value in values]


def test_picks_are_distinct_images_of_the_class(split):
    rows = list(picks(tiny(), split, batch=8, trained=8, label=2))
    for strategy in ("dream", "random", "central", "boundary"):
        own = [row.index for row in rows if row.strategy == strategy]
        assert len(set(own)) == len(own) == 8
        assert set(split.train.labels[own].tolist()) == {2}


def test_layout_keeps_groups_together():
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(30) % 3
    places = layout(torch.randn(30, 5, generator=draws) + 40 * F.one_hot(labels, 5), seed=0)
    distance = torch.cdist(places, places).fill_diagonal_(math.inf)
    assert torch.equal(labels[distance.argmin(dim=1)], labels)


def test_migration_has_real_images_once_and_synthetic_ones_at_every_stage(split):
    rows = list(feature_migration(tiny(iterations=2), split, labels=(0, 2), shown=5, trained=8))
    count = {(row.kind, row.iteration, row.label): 0 for row in rows}
    for row in rows:
        count[row.kind, row.iteration, row.label] += 1
    assert count == {("real", -1, c): 5 for c in (0, 2)} | {("synthetic", t, c): 2 for t in range(3) for c in (0, 2)}
    assert all(math.isfinite(row.x) and math.isfinite(row.y) for row in rows)


def test_refusals(split):
    def measured(name, recipe=None, **parameters):
        return list(ANALYSES[name].measure(recipe or tiny(), split, **parameters))

    assert refused(find_analysis, "norms").startswith("unknown figure 'norms': choose one of gradient-norms, ")
    too_large = "a batch has 13 images of a class, and class '0' has 12: give batches of at most 12"
    for name in ("gradient-fidelity", "evenness", "sub-clusters"):
        assert refused(measured, name, batches=(4, 13)) == too_large
    assert refused(measured, "picks", batch=13) == refused(measured, "gradient-norms", batch=13) == too_large
    assert "per_cluster is 2: give a multiple" in refused(
        measured, "gradient-fidelity", tiny(per_cluster=2), batches=(3,)
    )
    assert refused(measured, "evenness", batches=(1,)).startswith("a batch has 1 images")
    for images in ((13,), (3, 8)):
        allowed = "give numbers from 4, the clusters of a class, to 12, the images of the smallest class"
        assert allowed in refused(measured, "refresh-images", images=images)
    assert refused(measured, "gradient-fidelity", batches=(4,), strategies=("herding",)).startswith(
        "strategy 'herding'"
    )
    assert refused(measured, "gradient-fidelity", batches=(4,), trained=(8, 0)).startswith("trained is (8, 0): give")
    assert refused(measured, "picks", batch=4, label=3) == "class 3 does not exist: classes are 0 to 2"
    assert refused(measured, "feature-migration", labels=(3,)) == "class 3 does not exist: classes are 0 to 2"
    assert refused(measured, "gradient-difference", every=0) == "every is 0 and seeds 1: both are at least 1"
    assert "picks its batches before" in refused(measured, "gradient-difference", tiny(real="cached"))
    assert refused(measured, "interval", seeds=0).startswith("at is (1,) and seeds 0: give")
    assert refused(layout, torch.zeros(4, 2), 0).startswith("4 images cannot be laid out")
    mtt = da.recipe("mtt", "own data", ipc=2)
    for name in ("central-boundary", "gradient-difference"):
        assert refused(measured, name, mtt).startswith("recipe 'mtt' matches trajectories, and this figure compares")


def test_every_figure_has_a_drawing_and_every_parameter_a_meaning():
    assert set(FIGURES) == {*ANALYSES, "continual"}
    named = {key for analysis in ANALYSES.values() for key in analysis.measure.__kwdefaults__}
    assert named == set(PARAMETERS)


def test_the_same_rows_give_the_same_files(split, tmp_path):
    rows = list(gradient_fidelity(tiny(), split, batches=(2, 5), trained=(0,), draws=1))
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_figure("gradient-fidelity", rows, split, tmp_path / folder)
    for kind in ("png", "svg"):
        first, second = ((tmp_path / folder / f"gradient-fidelity.{kind}").read_bytes() for folder in ("a", "b"))
        assert first == second


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """``dream-accel analyze ...`` in this process, in an empty folder: exit status, standard output and error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dream-accel", "analyze", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


@pytest.mark.parametrize("name", ANALYSES)
def test_quick_writes_csv_and_figures(run, tmp_path, name):
    code, out, err = run(name, "--quick", "--device", "cpu", "--out", "out")
    assert (code, err) == (0, "")
    with open("out/" + name + ".csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert f"{len(rows)} rows written" in out
    assert list(rows[0]) == list(ANALYSES[name].row.__dataclass_fields__)
    assert (tmp_path / f"out/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(r"<path|<image", (tmp_path / f"out/{name}.svg").read_text())
    assert '"figure": "' + name in (tmp_path / "out/settings.json").read_text()


def test_parameters_of_a_figure_are_options(run):
    flags = ("--quick", "--device", "cpu", "--strategies", "central,random", "--batches", "3", "--draws", 2)
    assert run("gradient-fidelity", *flags, "--trained", "0", "--out", "out")[0] == 0
    with open("out/gradient-fidelity.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["strategy"], row["batch"], row["draw"]) for row in rows} == {
        (name, "3", draw) for name in ("central", "random") for draw in ("0", "1")
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("nothing",), "error: unknown figure 'nothing': choose one of gradient-norms, "),
        (("picks", "--quick", "--batch", 21, "--out", "out"), "error: a batch has 21 images of a class, and class "),
        (("evenness", "--clusters", 8), "error: evenness does not read --clusters: give --batches in its place\n"),
        (("picks", "--strategy", "dream"), "error: picks does not read --strategy: give --strategies in its place\n"),
        (("interval", "--interval", "1,x"), "error: --interval is '1,x': give whole numbers, joined by commas\n"),
    ],
)
def test_refusals_of_the_command_leave_no_folder(run, tmp_path, words, expected):
    code, _, err = run(*words)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["evenness", "gradient-fidelity"])
def test_no_draws_are_refused(split, name):
    recipe = da.recipe("dream", "digits", width=4)
    measure = find_analysis(name).measure
    said = refused(lambda: list(measure(recipe, split, batches=(2,), trained=(0,), draws=0)))
    assert said == "0 draws of every batch are asked for: give at least 1"
