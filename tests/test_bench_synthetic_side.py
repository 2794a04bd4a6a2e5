"""The benchmark of cached steps: every implementation is timed on the same step, and gives its gradient."""

from test_engine import toy_split

from dream_accel.bench import synthetic_side
from dream_accel.matching.class_gradients import CLASS_GRADIENTS


def test_every_implementation_takes_the_step_of_the_loop(monkeypatch):
    monkeypatch.setattr(synthetic_side, "random_split", lambda: toy_split(per_class=20))
    found = synthetic_side.milliseconds(1, 1, width=8, clusters=2, network_images=8)
    assert list(found) == list(CLASS_GRADIENTS)
    assert all(0 < time_of_step < 1e5 for time_of_step, _ in found.values())
    assert max(difference for _, difference in found.values()) < 1e-4
