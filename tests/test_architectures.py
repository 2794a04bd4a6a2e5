"""One result on several networks: one row for each, the same as one at a time, and refused before any work."""

import json
from pathlib import Path

import pytest
from support.refusals import refused
from test_cli import finished, run, small  # noqa: F401
from test_engine import toy_recipe, toy_split

import dream_accel as da
from dream_accel.cli.progress import watch
from dream_accel.evaluation import evaluate_networks, protocol

NAMES = ("convnet", "mlp", "alexnet")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def result():
    return da.distill(toy_recipe(iterations=1, eval_networks=2, eval_epochs=2), toy_split(), device="cpu")


def test_every_row_is_what_that_network_alone_gives(result):
    rows = list(evaluate_networks(result, toy_split(), NAMES, watch, norm=None))
    assert [row.name for row in rows] == [row.evaluation.protocol.network for row in rows] == list(NAMES)
    for row in rows:
        assert row.evaluation == da.evaluate(result, toy_split(), network=row.name, device="cpu")
    assert len({row.evaluation.accuracies for row in rows}) > 1


def test_settings_reach_every_network_and_one_that_does_not_read_them_is_refused(result):
    (row,) = evaluate_networks(result, toy_split(), ["convnet"], watch, norm="batch", width=8, networks=1)
    assert (row.evaluation.protocol.norm, row.evaluation.protocol.width) == ("batch", 8)
    message = refused(list, evaluate_networks(result, toy_split(), NAMES, watch, norm="batch"))
    assert message.startswith("network 'mlp' does not read norm: leave it out, or choose one of convnet, vgg11")
    assert refused(da.evaluate, result, toy_split(), network="mlp", depth=2, device="cpu").startswith(
        "network 'mlp' does not read depth"
    )


@pytest.mark.parametrize("last", ["densenet121", "resnet18", "vgg11", "vgg12", "lenet"])
def test_a_network_that_does_not_fit_is_refused_before_the_first_is_trained(result, last, monkeypatch):
    monkeypatch.setattr(protocol, "_train", lambda *args: pytest.fail("a network was trained"))
    message = refused(list, evaluate_networks(result, toy_split(), ("convnet", last), watch))
    assert message.startswith(f"unknown network '{last}'" if last == "vgg12" else f"network '{last}' needs images of ")


class TestCommand:
    def test_prints_and_keeps_a_row_per_network(self, run, finished):  # noqa: F811
        found = run("evaluate", finished, "--network", "convnet, mlp,alexnet", "--epochs", 1)
        assert (found.code, found.err) == (0, "")
        lines = found.out.splitlines()
        assert [line.partition(": test accuracy ")[0] for line in lines] == list(NAMES)
        kept = [json.loads(line) for line in (finished / "evaluations.jsonl").read_text().splitlines()]
        assert [line["protocol"]["network"] for line in kept] == list(NAMES)
        assert all(line["name"] == "finished" and line["protocol"]["epochs"] == 1 for line in kept)

    def test_settings_of_the_network_reach_it(self, run, finished):  # noqa: F811
        flags = ("--norm", "batch", "--activation", "sigmoid", "--pooling", "max")
        assert run("evaluate", finished, "--network", "convnet", *flags).code == 0
        kept = json.loads((finished / "evaluations.jsonl").read_text())["protocol"]
        assert (kept["norm"], kept["activation"], kept["pooling"]) == ("batch", "sigmoid", "max")
        message = run("evaluate", finished, "--network", "alexnet", "--norm", "batch").refusal
        assert message.startswith("network 'alexnet' does not read norm")
        assert run("evaluate", finished, "--norm", "none!").refusal.startswith("unknown norm 'none!': choose one of")

    def test_an_interruption_keeps_the_rows_measured_and_names_the_others(self, run, finished, monkeypatch):  # noqa: F811
        test, calls = protocol._accuracy, []

        def interrupted(*args):
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return test(*args)

        monkeypatch.setattr(protocol, "_accuracy", interrupted)
        found = run("evaluate", finished, "--network", ",".join(NAMES), "--networks", 2, "--epochs", 1)
        assert found.code == 130
        assert found.err == "interrupted: not measured to the end: mlp, alexnet\n"
        kept = [json.loads(line) for line in (finished / "evaluations.jsonl").read_text().splitlines()]
        assert [len(line["accuracies"]) for line in kept] == [2, 1]

    def test_quick_leaves_out_what_the_network_does_not_read(self, run, small):  # noqa: F811
        flags = ("--dataset", small, "--network", "mlp", "--layers", "weights", "--limit-train", 30)
        assert run("distill", "--quick", *flags, "--no-evaluate", "--out", "out").code == 0
        assert da.load(Path("out")).recipe.width == 8
        found = run(
            "distill", "--quick", "--dataset", small, "--network", "lenet", "--limit-train", 30, "--out", "other"
        )
        assert found.refusal.startswith("network 'lenet' needs images of 16x16 pixels or more")
