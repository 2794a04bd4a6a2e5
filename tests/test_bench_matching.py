"""The benchmarks of the loop: steps, outer iteration, and accuracy against iterations and seconds."""

import json
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.refusals import refused

from dream_accel import cli, recipe
from dream_accel.bench import accuracy, curve, matching_problem, outer, present, publish, step
from dream_accel.bench import arms as accuracy_arms
from dream_accel.bench.published import Published
from dream_accel.data import load_dataset
from dream_accel.engine.distiller import Distiller
from dream_accel.engine.splits import load_split
from dream_accel.runtime.determinism import repeatable

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


@pytest.mark.slow
def test_steps_are_timed_beside_the_published_loop_and_ours_asks_the_host_nothing(tmp_path):
    lines = list(step.run(CPU, True, trace=tmp_path / "trace.json"))
    assert {line.kernel for line in lines} == {"refresh", "step"}
    for metric in dict.fromkeys(line.metric for line in lines if not line.why_not):
        peers = set() if "cached step" in metric else {"published"}
        assert {"dream", *peers} <= {line.provider for line in lines if line.metric == metric}
    assert [line.provider for line in lines if line.metric == "time of a cached step"] == ["dream"]
    asked = {line.provider: line.p50 for line in lines if line.metric == "host round trips in an inner step"}
    # A matching step of ten classes, and one batch of training with a loss and two counts.
    assert asked == {"dream": 0, "published": 13}
    assert all(0 < line.p20 <= line.p50 <= line.p80 for line in lines if line.unit != "count" and not line.why_not)
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


@pytest.mark.slow
def test_an_outer_iteration_is_timed_on_both_sides():
    lines = list(outer.run(CPU, True))
    assert [(line.provider, line.unit) for line in lines] == [
        (provider, unit) for provider in ("dream", "dream", "published") for unit in ("ms", "images per second")
    ]
    # Two steps with 8 real images of each of 10 classes, and 64 to train on.
    time, rate = lines[0], lines[1]
    assert rate.p50 == pytest.approx(2 * (80 + 64) / time.p50 * 1000, rel=1e-2)


def test_a_baseline_that_computes_something_else_is_not_timed(monkeypatch):
    match = Published.match
    monkeypatch.setattr(Published, "match", lambda self: 1.01 * match(self))
    lines = list(outer.run(CPU, True))
    assert [(line.provider, line.unit) for line in lines[:2]] == [("dream", "ms"), ("dream", "images per second")]
    assert [line.provider for line in lines[2:]] == ["published"]
    assert "not the same computation, so not timed" in lines[2].why_not


@pytest.mark.slow
def test_a_baseline_and_a_way_that_raise_cost_their_own_rows(monkeypatch):
    def broken(self, *_):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(Published, "cluster", broken)
    monkeypatch.setattr(matching_problem.Problem, "by", broken)
    lines = list(step.run(CPU, True))
    timed = {(line.provider, line.metric) for line in lines if not line.why_not}
    parts = ("refresh", "matching step", "network update", "cached step")
    assert {("dream", f"time of a {part}") for part in parts} <= timed
    assert ("dream", "host round trips in an inner step") in timed
    assert {provider for provider, _ in timed} == {"dream"}
    reasons = {(line.provider, line.mode.split(", ")[1]): line.why_not for line in lines if line.why_not}
    assert reasons.pop(("published", "one class after another")) == "RuntimeError: no kernel image is available"
    assert set(reasons) == {("dream", "vmap"), ("dream", "capture"), ("dream", "fused")}


@pytest.mark.slow
def test_ours_is_measured_and_counted_before_the_others(monkeypatch):
    providers = [(line.provider, line.metric) for line in step.run(CPU, True)]
    first_peer = next(i for i, (provider, _) in enumerate(providers) if provider != "dream")
    assert {metric for _, metric in providers[:first_peer]} == {
        *(
            f"{what} a {part}"
            for what in ("time of", "images in")
            for part in ("refresh", "matching step", "network update", "cached step")
        ),
        "operator calls in an inner step",
        "host round trips in an inner step",
    }


def test_a_data_set_that_is_not_there_is_made_up_and_the_lines_say_so(monkeypatch):
    quick = {**matching_problem.QUICK, "dataset": "fashion-mnist", "depth": 2}
    monkeypatch.setattr(matching_problem, "QUICK", quick)
    problem = matching_problem.make_problem(CPU, True, "/nowhere")
    assert problem.name.startswith("made-up images like fashion-mnist 200 ConvNet-2")
    assert problem.ours.split.train.shape == (1, 28, 28)


@pytest.mark.slow
def test_our_side_is_matched_and_trained_as_in_a_run(monkeypatch):
    """As on a GPU: every device is taken for one here, where cuDNN must choose no algorithm by timing it."""
    seen = {"match": [], "train": []}
    monkeypatch.setattr(matching_problem, "repeatable", lambda device: repeatable(torch.device("cuda")))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    for name, settings in seen.items():
        original = getattr(Distiller, name)

        def noting(self, *args, original=original, settings=settings):
            settings.append((torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark))
            return original(self, *args)

        monkeypatch.setattr(Distiller, name, noting)
    lines = list(step.run(CPU, True))
    assert any(line.metric == "time of a network update" for line in lines)
    assert all(set(settings) == {(True, False)} for settings in seen.values())
    assert torch.backends.cudnn.benchmark


TINY = {**accuracy.QUICK, "eval_epochs": 2}


def plan(**changes) -> accuracy.Plan:
    return replace(accuracy.Plan(recipe("dream", "digits", **TINY), at=(1, 2), seeds=(0, 1)), **changes)


def measured(path: Path) -> list[tuple]:
    return [(p.arm, p.seed, p.iteration, p.accuracy) for p in curve.read_curve(path)]


class TestAccuracy:
    @pytest.mark.slow
    def test_a_run_cut_into_pieces_gives_the_curve_of_one_in_one_go(self, tmp_path, monkeypatch):
        clock = count()
        monkeypatch.setattr(accuracy, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
        whole, pieces = tmp_path / "whole.csv", tmp_path / "pieces.csv"
        assert accuracy.run(plan(seeds=(0,)), whole, CPU, say=lambda _: None)
        done = [accuracy.run(plan(seeds=(0,)), pieces, CPU, seconds=12, say=lambda _: None) for _ in range(9)]
        assert not done[0]
        assert done[-1]
        assert measured(pieces) == measured(whole)
        assert [key[:3] for key in measured(whole)] == [
            (arm, 0, iteration) for iteration in (0, 1, 2) for arm in accuracy.DEFAULT_ARMS
        ]
        seconds = [p.distill_seconds for p in curve.read_curve(pieces) if p.arm == "dream"]
        assert seconds == sorted(seconds)

    def test_no_time_at_all_leaves_what_is_there(self, tmp_path):
        assert not accuracy.run(plan(), tmp_path / "c.csv", CPU, seconds=0, say=lambda _: None)
        assert not (tmp_path / "c.csv").exists()

    def test_arms_differ_in_initialisation_and_sampling_alone(self):
        seen = [plan().settings(name, 3) for name in accuracy.DEFAULT_ARMS]
        same = [replace(settings, init="kmeans", strategy="dream") for settings in seen]
        assert len(set(same)) == 1
        assert [(s.init, s.strategy) for s in seen] == [("mix", "random"), ("kmeans", "random"), ("kmeans", "dream")]
        assert same[0].seed == 3

    def test_cached_arms_differ_from_dream_in_the_real_side_alone(self):
        dream = plan().settings("dream", 3)
        assert plan().settings("dream-cached", 3) == replace(dream, real="cached")
        assert plan().settings("dream-cached-class", 3) == replace(dream, real="cached", real_batch="class")
        cached = recipe("dream", "digits", **TINY, real="cached", trajectories=7, renew=2)
        found = plan(recipe=cached)
        assert found.settings("dream", 0).real == "live"
        both = [found.settings(name, 0) for name in ("dream-cached", "dream-cached-class")]
        assert [(one.trajectories, one.renew) for one in both] == [(7, 2)] * 2

    def test_the_arm_of_another_recipe_shares_problem_and_evaluation(self):
        ours, other = plan().settings("dream", 3), plan().settings("dm+", 3)
        shared = ("dataset", "ipc", "factor", "size", *accuracy_arms.SHARED, "iterations", "seed")
        assert {name: getattr(other, name) for name in shared} == {name: getattr(ours, name) for name in shared}
        assert (other.recipe, other.n_clusters, other.strategy) == ("dm+", ours.n_clusters, "dream")
        own = recipe("dm+", "digits", ipc=ours.ipc, factor=ours.factor)
        assert (other.pixel_lr, other.stages, other.calibration_weight) == (own.pixel_lr, own.stages, 1)

    def test_an_arm_of_another_recipe_is_evaluated_by_the_protocol_of_the_plan(self, tmp_path, monkeypatch):
        protocols, evaluate = [], accuracy.evaluate_images

        def noting(*args):
            protocols.append(args[-1])
            return evaluate(*args)

        monkeypatch.setattr(accuracy, "evaluate_images", noting)
        changed = recipe("dream", "digits", **TINY, network_lr=0.02, train_augment="crop")
        arms = ("dream", "dream-cached", "dream-cached-class", "dm+")
        one = plan(recipe=changed, at=(1,), seeds=(0,), arms=arms)
        assert accuracy.run(one, tmp_path / "c.csv", CPU, say=lambda _: None)
        assert len(set(protocols)) == 1
        assert protocols[0].lr == 0.02
        assert [key[:3] for key in measured(tmp_path / "c.csv")] == [(arm, 0, i) for i in (0, 1) for arm in arms]
        assert accuracy.run(one, tmp_path / "c.csv", CPU, say=lambda _: pytest.fail("measured again"))
        text = curve.table(curve.read_curve(tmp_path / "c.csv"))
        assert all(f"| {arm} | " in text for arm in arms)
        assert "processor seconds in all" in text
        assert "dm+: mse at pixel_lr 1." in text

    def test_seconds_are_of_the_clock_of_the_device_and_survive_an_interruption(self, tmp_path, monkeypatch):
        ticks = count()
        monkeypatch.setattr(accuracy, "clock_of", lambda device: lambda: 2.0 ** next(ticks))
        one = plan(at=(0, 1, 2), seeds=(0,), arms=("dream",))
        split = load_split(one.recipe, CPU)
        whole = accuracy.Arm(one, "dream", 0, split, tmp_path / "dream-0.safetensors")
        assert whole.reach(1, float("inf"))
        whole.save()
        # Readings 1 and 2 before and after the initialisation, 4 and 8 around the iteration.
        assert whole.measure().distill_seconds == 1 + 4
        assert whole.measure().clock == "processor"
        again = accuracy.Arm(one, "dream", 0, split, tmp_path / "dream-0.safetensors")
        assert again.reach(1, float("inf"))
        assert again.measure().distill_seconds == 1 + 4
        (tmp_path / "dream-0.json").unlink()
        lost = accuracy.Arm(one, "dream", 0, split, tmp_path / "dream-0.safetensors")
        wall = lost._started().history[-1].seconds
        assert lost._seconds[1:] == [wall]

    def test_held_out_images_take_the_place_of_the_test_set(self):
        split = load_dataset("digits")
        found = accuracy.with_holdout(split, 100)
        assert (len(found.train), len(found.test)) == (len(split.train) - 100, 100)
        both = torch.cat([found.train.images, found.test.images]).flatten(1)
        assert sorted(both.tolist()) == sorted(split.train.images.flatten(1).tolist())

    def test_a_curve_of_other_settings_is_not_continued(self, tmp_path):
        accuracy.run(plan(at=(0,), seeds=(0,), arms=("dream",)), tmp_path / "c.csv", CPU, say=lambda _: None)
        other = plan(recipe=recipe("dream", "digits", **{**TINY, "clusters": 4}))
        assert "with clusters 8, not 4" in refused(accuracy.run, other, tmp_path / "c.csv", CPU)

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"arms": ("greedy",)}, "unknown arm 'greedy'"),
            ({"at": ()}, "at ()"),
            ({"at": (-1,)}, "iterations from 0"),
            (
                {"recipe": recipe("dc", "digits"), "arms": ("dream-cached",)},
                "the arm 'dream-cached' caches the real side, which recipe 'dc' does not",
            ),
        ],
        ids=str,
    )
    def test_bad_plans_are_refused(self, changes, reason):
        assert reason in refused(plan, **changes)

    @pytest.mark.slow
    def test_command_writes_curve_table_and_figure_and_says_how_to_go_on(self, tmp_path, monkeypatch, capsys):
        out = tmp_path / "accuracy.csv"
        words = ["bench", "accuracy", "--quick", "--arms", "random,dream", "--device", "cpu", "--out", str(out)]
        for more, said in ((["--seconds", "0"], "the same command continues"), ([], "complete")):
            monkeypatch.setattr("sys.argv", ["dream-accel", *words, *more])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            assert ended.value.code == 0
            assert said in capsys.readouterr().out
        assert len(curve.read_curve(out)) == 4
        assert out.with_suffix(".md").read_text() == curve.table(curve.read_curve(out)) == publish.remake(out)
        assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_gpu_accuracy_stops_when_its_time_is_over(tmp_path):
    """The command for a GPU, in a small form on the CPU."""
    small = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in TINY.items())
    options = f"--quick {small} --dataset digits --device cpu --out {tmp_path / 'curve.csv'}"
    words = ["make", "-s", "gpu-accuracy", f"PYTHON={sys.executable}", "SECONDS=0", f"ACCURACY={options}"]
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.rstrip().endswith("the same command continues")


def points(arm: str, *accuracies: float, seed: int = 0) -> list[curve.Point]:
    given = {"arm", "seed", "iteration", "distill_seconds", "accuracy"}
    texts = {f.name: "x" for f in fields(curve.Point) if str(f.type) == "str" and f.name not in given}
    numbers = {f.name: 1 for f in fields(curve.Point) if str(f.type) != "str" and f.name not in given}
    return [
        curve.Point(
            **{
                **texts,
                **numbers,
                "arm": arm,
                "seed": seed,
                "iteration": 2 * i,
                "distill_seconds": 1.0 + i,
                "accuracy": a,
            }
        )
        for i, a in enumerate(accuracies)
    ]


class TestCurve:
    both = (*points("random", 40, 50, 60), *points("random", 44, 52, 62, seed=1), *points("dream", 50, 61, 65))

    def test_levels_are_means_and_deviations_over_seeds(self):
        level = curve.levels(self.both)["random"][0]
        assert (level.iteration, level.seconds, level.mean, level.std, level.seeds) == (0, 1, 42, 2, 2)

    def test_iterations_that_only_some_seeds_reached_are_left_out(self):
        found = curve.levels([*points("dream", 50, 60, 70), *points("dream", 52, 62, seed=1)])["dream"]
        assert [level.iteration for level in found] == [0, 2]

    def test_an_arm_arrives_where_it_is_first_measured_at_the_level(self):
        found = curve.levels(self.both)["dream"]
        assert curve.reaches(found, 61.0).iteration == 2
        assert curve.reaches(found, 61.1).iteration == 4
        assert curve.reaches(found, 66) is None

    def test_table_says_how_much_sooner(self):
        text = curve.table(self.both)
        assert "| random | 42.00 ± 2.00 | 51.00 ± 1.00 | 61.00 ± 1.00 | 3.0 |" in text
        assert "Random sampling ends at 61.00 % after 4 iterations (3.0 s)." in text
        assert (
            "dream is there (61.00 %) at iteration 2, 2.0 s: 2 times fewer iterations, 1.5 times fewer seconds." in text
        )

    def test_an_arm_that_stays_below_is_said_to(self):
        lines = curve.table([*points("random", 40, 60), *points("dream", 41, 59)])
        assert "dream does not reach it by iteration 2." in lines

    def test_without_random_sampling_the_others_are_timed_to_dream(self):
        text = curve.table([*points("dream", 50, 60), *points("dream-cached", 61)])
        assert "DREAM ends at 60.00 % after 2 iterations (2.0 s)." in text
        assert "dream-cached is there (61.00 %) at iteration 0, 1.0 s: 2 times fewer seconds." in text

    def test_a_reference_that_was_there_before_its_end_is_measured_from_then(self):
        text = curve.table([*points("dream", 50, 62, 60), *points("dream-cached", 41, 61)])
        assert "DREAM ends at 60.00 % after 4 iterations (3.0 s), and was there first at iteration 2, 2.0 s." in text
        assert "dream-cached is there (61.00 %) at iteration 2, 2.0 s: as many iterations, as many seconds." in text

    def test_a_curve_of_an_earlier_version_has_seconds_of_the_wall(self, tmp_path):
        curve.write_curve(tmp_path / "c.csv", [replace(point, clock="processor") for point in self.both])
        assert "processor seconds in all" in curve.table(curve.read_curve(tmp_path / "c.csv"))
        lines = (tmp_path / "c.csv").read_text().splitlines()
        (tmp_path / "c.csv").write_text("".join(f"{line.rpartition(',')[0]}\n" for line in lines))
        assert curve.holds_curve(tmp_path / "c.csv")
        found = curve.read_curve(tmp_path / "c.csv")
        assert {point.clock for point in found} == {"wall"}
        assert "| seconds in all |" in curve.table(found)
        (tmp_path / "c.csv").write_text("dataset,images\n")
        assert not curve.holds_curve(tmp_path / "c.csv")

    def test_an_arm_that_takes_longer_is_said_to(self):
        text = curve.table([*points("random", 40, 60), *points("dream", 41, 59, 60), *points("slow", 41, 60)])
        assert "dream is there (60.00 %) at iteration 4, 3.0 s: 2 times as many iterations, 1.5 times as many s" in text
        assert "slow is there (60.00 %) at iteration 2, 2.0 s: as many iterations, as many seconds." in text

    def test_settings_and_counts_are_written_as_people_write_them(self):
        (line,) = {curve.table(points("random", 40)).splitlines()[1]}
        assert "over 1 seed, " in line
        text = curve.table([replace(point, images=10000, networks=1, threads=1) for point in self.both])
        assert "10,000 training images" in text
        assert "over 2 seeds, 1 network each" in text
        assert ", 1 thread, " in text

    def test_a_document_takes_curves_as_it_takes_tables(self, tmp_path):
        curve.write_curve(tmp_path / "c.csv", self.both)
        assert curve.read_curve(tmp_path / "c.csv") == list(self.both)
        filled = present.fill_in("<!-- bench: c.csv -->\n<!-- end -->\n", tmp_path)
        assert filled == f"<!-- bench: c.csv -->\n{curve.table(self.both)}<!-- end -->\n"

    @pytest.mark.parametrize("file", sorted((ROOT / "bench/results/accuracy").glob("*.csv")), ids=lambda f: f.name)
    def test_committed_tables_are_those_of_the_curves(self, file):
        assert file.with_suffix(".md").read_text() == curve.table(curve.read_curve(file))
        assert file.with_suffix(".png").exists()

    def test_what_is_no_curve_is_refused(self, tmp_path):
        (tmp_path / "c.csv").write_text("a,b\n1,2\n")
        assert "cannot be read as an accuracy curve" in refused(curve.read_curve, tmp_path / "c.csv")
