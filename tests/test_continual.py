"""Class-incremental learning: the protocol against its steps written out, its memory, and a run that continues."""

import csv
import json
import sys
import warnings
from dataclasses import replace

import pytest
import torch
from support.refusals import refused

import dream_accel as da
from dream_accel import cli
from dream_accel.data import DataSplit
from dream_accel.engine.compute import Compute
from dream_accel.engine.selection import select_rows
from dream_accel.evaluation import Protocol, evaluate_images
from dream_accel.evaluation.continual import (
    Memory,
    StepAccuracy,
    check_protocol,
    class_incremental,
    class_orders,
    only_classes,
    over_orders,
)

N_CLASSES = 6


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def split() -> DataSplit:
    draws = torch.Generator().manual_seed(0)

    def images(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(n) % N_CLASSES
        noise = torch.randint(0, 80, (n, 1, 8, 8), generator=draws)
        return (noise + 30 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels

    return DataSplit.from_arrays(images(60), images(24), layout="nchw")


def tiny(**settings) -> da.Recipe:
    small = {"ipc": 2, "factor": 1, "width": 4, "depth": 2, "iterations": 1, "inner_steps": 1, "clusters": 4}
    small |= {"network_images": 8, "eval_epochs": 3, "eval_networks": 1, "network_batch": 8}
    return da.recipe("dream", "own data", **{**small, **settings})


def same(rows: list[StepAccuracy]) -> list[StepAccuracy]:
    """Rows without their duration, which no two runs share."""
    return [replace(row, seconds=0.0) for row in rows]


def test_orders_are_permutations_and_the_first_ones_do_not_depend_on_their_number():
    orders = class_orders(10, 5, seed=3)
    assert orders.sort(dim=1).values.tolist() == [list(range(10))] * 5
    assert len({tuple(order) for order in orders.tolist()}) == 5
    assert torch.equal(class_orders(10, 2, seed=3), orders[:2])


def test_some_classes_are_numbered_in_the_order_given(split):
    some = only_classes(split, [4, 1])
    assert some.train.class_names == ("4", "1")
    rows = [row for row in range(60) if row % N_CLASSES in (4, 1)]
    assert torch.equal(some.train.images, split.train.images[rows])
    assert some.train.labels.tolist() == [0 if row % N_CLASSES == 4 else 1 for row in rows]
    assert len(some.test) == 8


def test_accuracies_are_those_of_networks_trained_on_all_memories_so_far(split):
    recipe = tiny()
    rows = list(class_incremental(Memory("herding", recipe, "herding"), split, steps=3, orders=2))
    assert [(row.order, row.step, row.n_seen) for row in rows] == [(o, s, 2 * s) for o in (0, 1) for s in (1, 2, 3)]
    for row in rows:
        order = class_orders(N_CLASSES, 2, 0)[row.order].tolist()
        own = replace(recipe, seed=row.order)
        images, labels = [], []
        for step in range(row.step):
            two = only_classes(split, order[2 * step : 2 * step + 2])
            chosen = select_rows(own, two.train, Compute.of(own, two), "herding")
            images.append(two.train.batch(chosen.flatten()))
            labels += [2 * step, 2 * step, 2 * step + 1, 2 * step + 1]
        seen = only_classes(split, order[: 2 * row.step])
        protocol = Protocol.of(own, split.test.shape)
        expected = evaluate_images(torch.cat(images), torch.tensor(labels), seen.test, split.normalization, protocol)
        assert row.accuracy == expected.mean
        assert row.classes == " ".join(map(str, order[2 * row.step - 2 : 2 * row.step]))


def test_a_distilled_memory_is_that_of_the_images_of_its_step_alone(split, tmp_path):
    recipe = tiny(factor=2)
    (first, second) = class_incremental(Memory("dream", recipe), split, steps=2, orders=1, folder=tmp_path)
    order = class_orders(N_CLASSES, 1, 0)[0].tolist()
    expected = da.distill(recipe, only_classes(split, order[3:]), device="cpu")
    kept = da.SyntheticSet.load(tmp_path / "dream-order0-step2.safetensors")
    assert torch.equal(kept.images, expected.synthetic.images)
    assert kept.factor == 2
    assert first.n_seen == 3
    assert second.seconds == kept.metadata["seconds"] > 0


def test_steps_that_are_done_are_passed_over_and_their_memory_is_read(split, tmp_path, monkeypatch):
    memory = Memory("random", tiny(), "random")
    whole = list(class_incremental(memory, split, 3, 2, folder=tmp_path))
    (tmp_path / "random-order1-step3.safetensors").unlink()
    made = []
    from dream_accel.evaluation import continual

    make = continual._make
    monkeypatch.setattr(continual, "_make", lambda *args: made.append(1) or make(*args))
    done = {(row.order, row.step) for row in whole[:4]}
    rest = list(class_incremental(memory, split, 3, 2, folder=tmp_path, done=done))
    assert same(rest) == same(whole[4:])
    assert made == [1]


def test_a_memory_of_other_settings_or_data_is_refused(split, tmp_path):
    memory = Memory("dream", tiny())
    list(class_incremental(memory, split, 3, 1, folder=tmp_path))
    others = [
        (replace(memory, recipe=tiny(iterations=2)), split),
        (memory, DataSplit(split.name, replace(split.train, images=255 - split.train.images), split.test)),
    ]
    for other, data in others:
        message = refused(list, class_incremental(other, data, 3, 1, folder=tmp_path))
        assert "other settings or from other data: name another folder, or remove it" in message
    evaluated = replace(memory, recipe=tiny(eval_epochs=1))
    assert len(list(class_incremental(evaluated, split, 3, 1, folder=tmp_path))) == 3


def test_a_damaged_memory_says_that_it_may_be_removed(split, tmp_path):
    memory = Memory("random", tiny(), "random")
    list(class_incremental(memory, split, 3, 1, folder=tmp_path))
    next(tmp_path.iterdir()).write_bytes(b"not a tensor")
    message = refused(list, class_incremental(memory, split, 3, 1, folder=tmp_path))
    assert message.endswith("remove the file, and the memory is made again")


def test_mean_and_deviation_over_orders():
    rows = [StepAccuracy("b", o, s, 2 * s, "", 10.0 * s + o, 0.0, 1, 0.0) for o in (0, 2) for s in (1, 2)]
    rows.append(StepAccuracy("a", 0, 1, 2, "", 50.0, 0.0, 1, 0.0))
    found = [(mean.memory, mean.step, mean.orders, mean.mean, mean.std) for mean in over_orders(rows)]
    assert found == [("b", 1, 2, 11.0, 1.0), ("b", 2, 2, 21.0, 1.0), ("a", 1, 1, 50.0, 0.0)]


def test_refusals(split):
    def checked(steps: int, orders: int = 1, recipe: da.Recipe | None = None, strategy: str | None = None) -> str:
        return refused(check_protocol, Memory("m", recipe or tiny(), strategy), split, steps, orders)

    assert checked(4) == ("the 6 classes of own data do not divide into 4 equal steps: give one of 1, 2, 3, 6")
    assert checked(7) == (
        "7 steps are asked for, and own data has 6 classes: a step needs at least one, so give one of 1, 2, 3, 6"
    )
    assert checked(0).startswith("0 steps are asked for")
    assert checked(2, orders=0) == "0 orders of the classes are asked for: give at least 1"
    assert checked(6).startswith("a step of one class has no gradient for recipe 'dream' to match")
    check_protocol(Memory("m", tiny(), "herding"), split, 6, 1)
    assert checked(2, strategy="best").startswith("unknown strategy 'best'")
    assert checked(2, recipe=da.recipe("mtt", "own data")).startswith("recipe 'mtt' matches experts, which no step has")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """``dream-accel continual --quick ...`` in an empty folder: exit status, standard output and error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)

    def call(*words: object) -> tuple[int, str, str]:
        always = [
            "dream-accel",
            "continual",
            "--quick",
            "--device",
            "cpu",
            "--limit-train",
            "100",
            "--eval-epochs",
            "1",
        ]
        monkeypatch.setattr(sys, "argv", [*always, *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


def table(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def test_the_command_writes_rows_means_and_figure_and_takes_more_orders(run, tmp_path):
    flags = ("--memory", "random,dream", "--steps", 2, "--out", "out")
    code, out, err = run(*flags, "--orders", 1)
    assert (code, err) == (0, "")
    rows = table("out/continual.csv")
    assert [(row["memory"], row["step"]) for row in rows] == [
        (name, str(s)) for name in ("random", "dream") for s in (1, 2)
    ]
    assert "dream: 10 classes, " in out
    assert (tmp_path / "out/continual.png").read_bytes().startswith(b"\x89PNG")
    assert "<path" in (tmp_path / "out/continual.svg").read_text()
    code, out, err = run("--memory", "random", "--steps", 2, "--orders", 2, "--out", "out")
    assert (code, err) == (0, "")
    assert "4 steps are measured, and kept" in out
    longer = table("out/continual.csv")
    assert longer[:4] == rows
    assert [(row["memory"], row["order"]) for row in longer[4:]] == [("random", "1")] * 2
    means = table("out/continual-mean.csv")
    assert [(row["memory"], row["orders"]) for row in means] == [("random", "2")] * 2 + [("dream", "1")] * 2
    assert set(json.loads((tmp_path / "out/settings.json").read_text())["memories"]) == {"random", "dream"}


def test_a_killed_run_continues_to_the_same_rows(run, monkeypatch):
    from dream_accel.evaluation import continual

    flags = ("--memory", "random", "--orders", 2)
    assert run(*flags, "--out", "whole")[0] == 0
    evaluate, calls = continual.evaluate_images, []

    def killed_at_the_fourth(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(continual, "evaluate_images", killed_at_the_fourth)
    assert run(*flags, "--out", "killed")[0] == 130
    assert len(table("killed/continual.csv")) == 3
    monkeypatch.setattr(continual, "evaluate_images", evaluate)
    assert run(*flags, "--out", "killed")[0] == 0
    assert table("killed/continual.csv") == table("whole/continual.csv")


def test_refusals_of_the_command(run, tmp_path):
    assert run("--memory", "mtt", "--out", "out")[2].startswith("error: unknown memory 'mtt': choose one of dream, ")
    assert run("--steps", 3, "--out", "out")[2].startswith("error: the 10 classes of digits do not divide into 3")
    assert run("--steps", 11, "--out", "out")[2].startswith("error: 11 steps are asked for, and digits has 10 classes")
    assert list(tmp_path.iterdir()) == []
    assert run("--memory", "random", "--orders", 1, "--out", "out")[0] == 0
    again = ("--memory", "random", "--orders", 1, "--out", "out")
    other = "error: out holds a run with another "
    assert run(*again, "--steps", 2)[2].startswith(
        f"{other}number of steps, 5, and this one has 2: name another folder"
    )
    assert run(*again, "--width", 4)[2].startswith(f"{other}width of random, 8, and this one has 4")
    assert run(*again, "--seed", 1)[2].startswith(f"{other}data set (sample), ")
    assert run(*again, "--steps", 2, "--overwrite")[0] == 0
    assert len(table("out/continual.csv")) == 2


def test_a_memory_named_twice_is_measured_once(run):
    assert run("--memory", "random, random", "--steps", 2, "--orders", 1, "--out", "out")[0] == 0
    assert [row["orders"] for row in table("out/continual-mean.csv")] == ["1", "1"]


@pytest.mark.parametrize(
    ("name", "content"), [("settings.json", "{"), ("settings.json", "{}"), ("continual.csv", "a,b\n1,2\n")]
)
def test_damaged_files_of_an_earlier_command_are_named(run, tmp_path, name, content):
    again = ("--memory", "random", "--steps", 2, "--orders", 1, "--out", "out")
    assert run(*again)[0] == 0
    (tmp_path / "out" / name).write_text(content)
    code, _, err = run(*again)
    assert code == 2
    assert err.startswith("error: out/settings.json or continual.csv beside it is damaged (")
    assert run(*again, "--overwrite")[0] == 0
