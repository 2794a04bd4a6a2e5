"""Peers of the K-Means benchmark: who is timed, and what one that misbehaves costs."""

from __future__ import annotations

import re

import pytest
import torch
from support import peers

from dream_accel.bench import kmeans, kmeans_problems, kmeans_trial, measurement, publish

CPU = torch.device("cpu")
SHAPE = kmeans_problems.Shape((90, 60), 6, 5)
TIME = "time per Lloyd iteration"


@pytest.fixture
def run(monkeypatch):
    def measured(providers, **options):
        monkeypatch.setattr(kmeans, "PROVIDERS", tuple(providers))
        monkeypatch.setattr(kmeans, "QUICK", (SHAPE,))
        return list(kmeans.run(CPU, True, **options))

    return measured


def timed(lines):
    return {line.provider for line in lines if line.metric == TIME}


def above(lines, name):
    (line,) = [line for line in lines if line.provider == name and line.unit == "%"]
    assert line.metric == "total inertia above ours after 3 iterations"
    return line.p50


def test_a_peer_of_reduced_precision_is_timed_and_its_difference_recorded(run):
    lines = run(peers.SLIGHTLY_OFF)
    assert timed(lines) == {"dream-cpu", "off by 0.0025", "off by 0.0046"}
    assert above(lines, "off by 0.0025") == pytest.approx(0.25, rel=0.05)
    assert above(lines, "off by 0.0046") == pytest.approx(0.46, rel=0.05)


def test_a_peer_that_ends_better_is_timed(run):
    lines = run([peers.BETTER])
    assert timed(lines) == {"dream-cpu", "better"}
    assert above(lines, "better") < -0.01


@pytest.mark.parametrize("what", ["wrong", "nan", "raising", "absent"])
def test_a_bad_peer_costs_its_own_row_which_says_why(run, what, capsys):
    bad, reason = peers.BAD[what]
    lines = run([bad, peers.BETTER])
    assert timed(lines) == {"dream-cpu", "better"}
    (missing,) = [line for line in lines if line.why_not]
    assert missing.provider == what
    assert missing.mode == "ragged, one fit per group"
    assert re.match(reason, missing.why_not)
    assert f"{what}: not run: {missing.why_not}" in capsys.readouterr().out


def test_a_peer_that_raises_while_it_is_timed_leaves_the_others_times(run):
    lines = run([peers.LATER, peers.BETTER])
    assert timed(lines) == {"dream-cpu", "better"}
    assert [line.why_not for line in lines if line.why_not] == ["StopIteration"]


@pytest.mark.slow
def test_a_peer_that_hangs_or_crashes_is_given_up_and_the_next_is_tried(run):
    lines = run(
        [peers.BAD["hanging"][0], peers.BETTER, peers.BAD["crashing"][0], *peers.SLIGHTLY_OFF], apart=True, limit=8
    )
    assert timed(lines) == {"dream-cpu", "better", "off by 0.0025", "off by 0.0046"}
    reasons = {line.provider: line.why_not for line in lines if line.why_not}
    assert reasons == {"hanging": "no answer within 8 s", "crashing": "its process ended with status 139"}


def test_rows_of_ours_are_written_before_a_peer_is_tried(tmp_path, monkeypatch):
    class Stopped(BaseException):
        pass

    def killed(problem):
        raise Stopped

    monkeypatch.setattr(kmeans, "PROVIDERS", (peers.peer("killed", killed),))
    with pytest.raises(Stopped):
        publish.publish(kmeans.run(CPU, True), tmp_path / "out.csv")
    assert timed(measurement.read_csv(tmp_path / "out.csv")) == {"dream-cpu"}


def seen(measured, lines):
    """Put lines into a list one by one, so that those before an error are kept."""
    for line in measured:
        lines.append(line)


def test_ours_failing_on_a_shape_leaves_the_other_shapes(monkeypatch):
    make = kmeans.make_problem

    def sometimes(shape, *rest):
        if shape == SHAPE:
            raise RuntimeError("out of memory")
        return make(shape, *rest)

    monkeypatch.setattr(kmeans, "PROVIDERS", ())
    monkeypatch.setattr(kmeans, "QUICK", (SHAPE, kmeans_problems.QUICK[0]))
    monkeypatch.setattr(kmeans, "make_problem", sometimes)
    lines = []
    with pytest.raises(kmeans.DreamAccelError, match="ours failed on 1 shape, first with RuntimeError: out of memory"):
        seen(kmeans.run(CPU, True), lines)
    assert {(line.groups, bool(line.why_not)) for line in lines} == {(2, True), (3, False)}


def test_ways_of_ours_stand_beside_each_other(monkeypatch):
    monkeypatch.setattr(kmeans, "PROVIDERS", ())
    monkeypatch.setitem(
        kmeans.WAYS, "cpu", {"graph, tf32": {"precision": "tf32"}, "graph, fp32": {"precision": "fp32"}}
    )
    lines = list(kmeans.run(CPU, True))
    assert {line.mode for line in lines if line.metric == TIME} >= {"equal, graph, tf32", "equal, graph, fp32"}


def test_our_tf32_is_measured_on_cuda_as_the_peers_is():
    first, *others = kmeans.WAYS["cuda"].values()
    assert first["precision"] == "tf32"
    assert "fp32" in {options["precision"] for options in others}


@pytest.mark.parametrize(
    ("found", "is_timed"),
    [(1.0, True), (1.0046, True), (0.5, True), (1.0099, True), (1.02, False), (float("nan"), False)],
)
def test_verdict_is_one_sided_at_one_percent(found, is_timed):
    assert (kmeans_trial.verdict(100 * found, 100.0) == "") == is_timed
