"""The page about one's own data and network: its snippets run in order, and its refusals are those raised."""

import re
from pathlib import Path

import pytest

from dream_accel.networks import NETWORKS

PAGE = Path(__file__).parents[1] / "docs" / "own-data.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def networks_restored():
    before = dict(NETWORKS)
    yield
    NETWORKS.clear()
    NETWORKS.update(before)


@pytest.mark.usefixtures("networks_restored")
def test_snippets_run_in_order_and_print_what_their_comments_say(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert "ImageSet(24 images of 4x16x16" in printed
    assert "left unused: val_images, val_labels\n" in printed
    assert "own data: labels are strings (label 0 is 'ant'); allowed are integers 0..C-1, which np.unique(" in printed
    assert "torch.Size([3, 10])" in printed
