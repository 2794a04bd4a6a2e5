"""The pages of docs/dropin: each change, applied as written to a loop with the names of its code base, runs."""

import pytest
import torch
from support.page_diffs import PAGES, apply, diffs_of
from support.skeletons import foreign

from dream_accel import compat

SKELETONS = {
    ("dc.md", "main.py"): "dc.py",
    ("dm.md", "main_DM.py"): "dm.py",
    ("idc.md", "condense.py"): "idc.py",
    ("dream.md", "condense.py"): "dream.py",
    ("dream.md", "new_strategy.py"): "dream_new_strategy.py",
    ("kmeans.md", "cluster.py"): "kmeans.py",
    ("mtt.md", "distill.py"): "mtt.py",
    ("ncfm.md", "condenser/Condenser.py"): "ncfm.py",
    ("dance.md", "DANCE.py"): "dance.py",
    ("dance.md", "TGDD.py"): "tgdd.py",
}
CHANGES = {(page.name, file): diff for page in sorted(PAGES.glob("*.md")) for file, diff in diffs_of(page.name)}
FOLDER = PAGES.parents[1] / "tests" / "support" / "skeletons"


def changed(page, file, monkeypatch):
    """The names of the skeleton after the page's change."""
    foreign.install(monkeypatch)
    skeleton = FOLDER / SKELETONS[page, file]
    names = {"__name__": skeleton.stem}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exec(compile(apply(CHANGES[page, file], skeleton.read_text()), f"{page}: {file}", "exec"), names)
    return names


def run(names, **settings):
    args = foreign.arguments(**settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return names["main"](args) if "main" in names else names["condense"](args, lambda text: None)


def test_every_change_has_a_loop_to_run_in():
    assert CHANGES.keys() == SKELETONS.keys()


@pytest.mark.parametrize(("page", "file"), SKELETONS, ids=lambda part: part)
def test_change_runs_as_written(page, file, monkeypatch):
    result, _ = run(changed(page, file, monkeypatch))
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("page", ["dc.md", "dm.md"])
def test_closure_serves_representatives_of_the_loops_networks(page, monkeypatch):
    file = next(file for name, file in SKELETONS if name == page)
    _, get_images = run(changed(page, file, monkeypatch))
    assert isinstance(get_images, compat.GetImages)
    assert get_images.indices is not None
    assert torch.equal(get_images(1, 6), get_images.images[get_images.indices[1]])


@pytest.mark.parametrize(
    ("page", "file"), [change for change in SKELETONS if change[0] in ("idc.md", "ncfm.md", "dance.md")], ids=str
)
def test_loader_serves_representatives_and_only_initialises_from_its_own(page, file, monkeypatch):
    names = changed(page, file, monkeypatch)
    _, loader = run(names)
    assert isinstance(loader, compat.RepresentativeLoader)
    assert loader.loader.calls == foreign.CLASSES
    images, labels = loader.class_sample(2)
    assert torch.equal(images, loader.sampler.images[loader.sampler.indices[2]])
    assert labels.tolist() == [2] * 6


def test_images_are_embedded_as_the_loop_normalises_them(monkeypatch):
    for change in (("idc.md", "condense.py"), ("ncfm.md", "condenser/Condenser.py"), ("dance.md", "DANCE.py")):
        _, loader = run(changed(*change, monkeypatch))
        images = torch.rand(3, 1, 8, 8)
        torch.testing.assert_close(loader.sampler.normalize(images), (images - 0.4) / 0.3)


def test_trajectory_loop_draws_from_the_representatives(monkeypatch):
    _, indices_class = run(changed("mtt.md", "distill.py", monkeypatch), ipc=4)
    labels = torch.tensor(foreign.Few().targets)
    assert [len(rows) for rows in indices_class] == [4] * foreign.CLASSES
    assert all((labels[rows] == c).all() for c, rows in enumerate(indices_class))


SOURCE = '''"""Doc."""

import a
from u import b, c


def outer():
    def f(x):
        y = x

        return y

    for i in range(3):  # here
        pass
'''


def test_a_diff_is_applied_where_a_reader_would():
    diff = " from u import ...\n+from d import c\n-def f(x): ...\n+f = c\n for i in range(3):\n+    f(i)  # (1)\n"
    lines = apply(diff, SOURCE).splitlines()
    assert lines[2:5] == ["import a", "from u import b, c", "from d import c"]
    assert lines[-4:] == ["    f = c", "    for i in range(3):  # here", "        f(i)  # (1)", "        pass"]
    assert apply("+import z\n", SOURCE).splitlines()[:2] == ['"""Doc."""', "import z"]


@pytest.mark.parametrize("line", [" for j in range(3):", "-import z", " import a\n import a"])
def test_a_line_that_is_not_there_is_found(line):
    with pytest.raises(AssertionError, match="not in the file"):
        apply(line + "\n", SOURCE)
