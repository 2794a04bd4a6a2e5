"""The documents: their snippets run, their links lead somewhere, their commands exist."""

import re
from pathlib import Path

import pytest
import typer

import dream_accel as da
from dream_accel import cli, compat
from dream_accel.formats import FAMILIES

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "bench/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
REPOSITORY = "https://github.com/dream-accel/dream_accel/blob/main/"
FILES = "https://raw.githubusercontent.com/dream-accel/dream_accel/main/"
FIRST_PICKS = (ROOT / "docs" / "index.md").read_text()


def test_the_newcomers_snippet_runs(capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", FIRST_PICKS, re.DOTALL)
    exec(compile(snippet, "docs/index.md", "exec"), {})
    assert capsys.readouterr().out == "torch.Size([10, 20])\n"


@pytest.mark.parametrize("document", ["README.md", "docs/command-line.md"])
def test_snippets_that_distil_run_as_they_are_typed(document, tmp_path, monkeypatch, capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    whole = da.recipe
    small = {"iterations": 1, "inner_steps": 1, "limit_train": 200, "clusters": 4, "width": 8, "network_images": 32}
    small |= {"eval_epochs": 1, "eval_networks": 1}
    monkeypatch.setattr(da, "recipe", lambda *names, **settings: whole(*names, **settings, **small))
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, document, "exec"), {})
    assert re.fullmatch(r"\d+\.\d+ ± \d+\.\d+\n", capsys.readouterr().out)


def links_of(document: Path) -> list[str]:
    return re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text())


def test_readme_reads_on_a_package_index():
    """Its links are absolute, and those into the repository name files that are there."""
    links = links_of(ROOT / "README.md")
    assert [link for link in links if not link.startswith("https://")] == []
    own = [link.removeprefix(base) for link in links for base in (REPOSITORY, FILES) if link.startswith(base)]
    assert own
    assert [path for path in own if not (ROOT / path).is_file()] == []
    assert [
        link for link in links if "dream-accel/dream_accel" in link and not link.startswith((REPOSITORY, FILES))
    ] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    links = links_of(document)
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    # Made by a measurement, which a checkout may come before.
    assert [link for link in missing if not link.endswith(".png")] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_flags_exist(document):
    known = typer.main.get_command(cli.app).commands
    text = document.read_text().replace("\\\n", " ")
    for line in re.findall(r"^dream-accel (.*)$", text, re.MULTILINE):
        words = line.partition("#")[0].split()
        assert words[0] in known, line
        command = known[words[0]]
        if words[0] == "analyze":
            assert words[1] in command.commands, line
            command = command.commands[words[1]]
        parameters = getattr(command, "params", [])
        flags = {flag for parameter in parameters for flag in (*parameter.opts, *parameter.secondary_opts)}
        if words[0] != "bench":
            assert {word for word in words if word.startswith("--")} <= flags, line


def test_every_drop_in_and_family_has_its_place():
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "dropin").glob("*.md"))
    assert [name for name in compat.__all__ if name not in pages] == []
    formats = (ROOT / "docs" / "formats.md").read_text()
    assert [name for name in FAMILIES if f"`{name}`" not in formats] == []


def test_every_test_file_is_on_the_map():
    named = re.findall(r"`(test_\w+\.py)`", (ROOT / "tests" / "README.md").read_text())
    assert set(named) == {file.name for file in (ROOT / "tests").glob("test_*.py")}
