"""What the documents say: their snippets run, their links lead somewhere, their commands exist."""

import re
from pathlib import Path

import pytest
import typer

from dream_accel import cli, compat
from dream_accel.formats import FAMILIES

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FIRST_PICKS = (ROOT / "docs" / "index.md").read_text()


def test_the_newcomers_snippet_runs(capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", FIRST_PICKS, re.DOTALL)
    exec(compile(snippet, "docs/index.md", "exec"), {})
    assert capsys.readouterr().out == "torch.Size([10, 20])\n"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text())
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    # Made by a measurement, which a checkout may come before.
    assert [link for link in missing if not link.endswith(".png")] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_flags_exist(document):
    known = typer.main.get_command(cli.app).commands
    for line in re.findall(r"^dream-accel (.*)$", document.read_text(), re.MULTILINE):
        words = line.partition("#")[0].split()
        assert words[0] in known, line
        parameters = getattr(known[words[0]], "params", [])
        flags = {flag for parameter in parameters for flag in parameter.opts}
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
