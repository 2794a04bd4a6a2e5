"""The pages of the recipes: their tables are those of the registry, every recipe has one, and their snippets run.

python tests/test_docs_recipes.py    # renews the tables
"""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

import dream_accel as da
from dream_accel.recipes import PANELS, RECIPES, SETTINGS, Recipe
from dream_accel.recipes.settings import POOL

PAGES = Path(__file__).parents[1] / "docs" / "recipes"
INDEX = PAGES / "index.md"
RENEW = "renew: python tests/test_docs_recipes.py"
SECTION = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
"""A table between two comments, of which the first names it."""

OWN = "own images"
"""A data set that no method has settings for."""
WAYS_TO_COMPUTE = ("class_gradients", "graphs", "bf16", "channels_last")
"""Settings that say how a run computes, the same for every method."""
OF_THE_RUN = ("recipe", "dataset", "seed", "limit_train", "size", "skip_unreadable")
"""Settings of the panel "data" that no method prescribes."""


def code(values: dict[str, object]) -> str:
    return ", ".join(f"`{name}={value!r}`" for name, value in values.items()).replace("'", '"')


def rows(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ("---",) * len(head), *lines))


def changes(name: str, dataset: str, **given: object) -> dict[str, object]:
    """The settings in which a data set differs from the user's own images."""
    found, general = da.recipe(name, dataset, **given), da.recipe(name, OWN)
    names = [setting.name for setting in fields(Recipe) if setting.name not in ("dataset", *given)]
    return {name: getattr(found, name) for name in names if getattr(found, name) != getattr(general, name)}


def settings_table(name: str) -> str:
    """Everything that a method prescribes: for any data set, by data set, by images per class, by image size."""
    method, general = RECIPES[name], da.recipe(name, OWN)
    shown = [
        setting
        for setting in fields(Recipe)
        if setting.name in method.USES and setting.name not in (*WAYS_TO_COMPUTE, *OF_THE_RUN)
    ]
    lines = []
    for panel in PANELS:
        if panel == "pool" and method.SCHEDULE != "trained_pool":
            continue  # read with real="cached" alone
        of_panel = {
            setting.name: getattr(general, setting.name) for setting in shown if setting.metadata["panel"] == panel
        }
        lines.append((panel, code(of_panel)))
    text = rows(("settings", "for any data set"), lines)
    by = [(f"`{dataset}`", code(changes(name, dataset))) for dataset in method.BY_DATASET]
    for dataset, packed in method.PACKED.items():
        if general.factor != 1 and packed:
            by.append((f"`{dataset}`, `factor=1`", code(changes(name, dataset, factor=1))))
    by += [(f"`ipc` from {ipc} on", code(own)) for ipc, own in method.BY_IPC.items()]
    for dataset, of_ipc in getattr(method, "BY_DATASET_AND_IPC", {}).items():
        by += [(f"`{dataset}`, `ipc` from {ipc} on", code(own)) for ipc, own in of_ipc.items()]
    by += [(f"`size` from {size} on, other data sets", code(own)) for size, own in method.BY_SIZE.items()]
    return text + ("\n" + rows(("for", "instead"), by) if by else "")


def methods_table() -> str:
    """One line about every method."""
    lines = []
    for name, method in RECIPES.items():
        general = da.recipe(name, OWN)
        about = str(method.__doc__).partition("\n")[0].partition(": ")[2].rstrip(".")
        sampling = f"`{general.strategy}`, {general.n_clusters * general.per_cluster} per class"
        start = f"`{general.init}`, factor {general.factor}"
        lines.append((f"[`{name}`]({page_of(name).name})", about, sampling, start, f"`{method.SCHEDULE}`"))
    return rows(("recipe", "what it is", "real images", "initial images", "schedule"), lines)


def combinations_table() -> str:
    """The settings that some methods read and others do not."""
    some = [
        setting.name
        for setting in fields(Recipe)
        if any(setting.name not in method.USES for method in RECIPES.values())
    ]
    head = ("setting", *(f"`{name}`" for name in RECIPES))
    return rows(
        head, [(f"`{name}`", *("yes" if name in method.USES else "" for method in RECIPES.values())) for name in some]
    )


def table(key: str) -> str:
    """The table of a section: ``methods``, ``combinations``, or ``settings NAME``."""
    if key == "methods":
        return methods_table()
    return combinations_table() if key == "combinations" else settings_table(key.removeprefix("settings "))


def sections() -> Iterator[tuple[Path, str]]:
    """Every section of every page."""
    for page in sorted(PAGES.glob("*.md")):
        for found in SECTION.finditer(page.read_text()):
            yield page, found[2]


def page_of(name: str) -> Path:
    """The page that has the table of a recipe."""
    pages = [page for page, key in sections() if key == f"settings {name}"]
    assert len(pages) == 1, f"recipe {name!r} needs one page in docs/recipes with <!-- table: settings {name} -->"
    return pages[0]


def renewed(text: str) -> str:
    return SECTION.sub(lambda found: f"{found[1]}{table(found[2])}{found[3]}", text)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_page_and_a_line_of_the_index(name):
    page = page_of(name)
    assert f"[`{name}`]({page.name})" in INDEX.read_text(), RENEW


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.name)
def test_tables_are_those_of_the_registry(page):
    text = page.read_text()
    assert renewed(text) == text, RENEW


def test_a_table_says_what_a_run_has():
    """Read back from the Markdown, the settings of a data set make its recipe."""
    for name in RECIPES:
        text = settings_table(name)
        for dataset in ("mnist", "cifar10", OWN):
            stated = dict(re.findall(r"`(\w+)=([^`]*)`", text.partition("\n\n")[0]))
            own = re.search(rf"^\| `{dataset}` \| (.*) \|$", text, re.MULTILINE)
            stated |= dict(re.findall(r"`(\w+)=([^`]*)`", own[1])) if own else {}
            of_ipc = re.findall(rf"^\| `{dataset}`, `ipc` from (\d+) on \| (.*) \|$", text, re.MULTILINE)
            below = [line for ipc, line in of_ipc if int(ipc) <= Recipe.ipc]
            stated |= dict(re.findall(r"`(\w+)=([^`]*)`", below[-1])) if below else {}
            found = da.recipe(name, dataset)
            assert stated == {key: repr(getattr(found, key)).replace("'", '"') for key in stated}
            assert len(stated) >= 15


def test_the_combinations_are_those_that_are_refused():
    text = combinations_table()
    for line in text.splitlines()[2:]:
        setting, *marks = (cell.strip() for cell in line.strip("|").split("|"))
        assert setting.strip("`") in SETTINGS
        for name, mark in zip(RECIPES, marks, strict=True):
            value = getattr(da.recipe(name, OWN), setting.strip("`"))
            if mark:
                pool = {"real": "cached"} if setting.strip("`") in POOL - {"real"} else {}
                da.recipe(name, OWN, **pool, **{setting.strip("`"): value})
            else:
                with pytest.raises(da.DreamAccelError, match="does not use"):
                    da.recipe(name, OWN, **{setting.strip("`"): value})


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.name)
def test_snippets_of_a_page_run(page, monkeypatch, capsys, tmp_path):
    """As they are typed, but with the smallest settings."""
    whole = da.recipe
    small = {"iterations": 1, "inner_steps": 1, "limit_train": 100, "width": 4, "eval_epochs": 1, "eval_networks": 1}
    small |= {"network_images": 16, "synthetic_epochs": 1, "batch": 4}
    small |= {"n_experts": 1, "trajectory_epochs": 2, "synthetic_steps": 1, "expert_epochs": 1, "max_start_epoch": 1}
    monkeypatch.chdir(tmp_path)

    def little(name, *args, **settings):
        used = {key: value for key, value in small.items() if key in RECIPES[name].USES}
        if RECIPES[name].SCHEDULE == "trained_pool" or settings.get("real") == "cached":
            used |= {"stages": 2, "trajectories": 1}
        return whole(name, *args, **{**settings, **used})

    monkeypatch.setattr(da, "recipe", little)
    snippets = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, page.name, "exec"), {})
        assert re.fullmatch(r"(\d+\.\d+ ± \d+\.\d+\n)+", capsys.readouterr().out)


if __name__ == "__main__":
    for path in sorted(PAGES.glob("*.md")):
        path.write_text(renewed(path.read_text()))
        print(f"{path}: renewed")
