"""The shell of every page and its parts: one file that needs no other, in light and dark, with everything escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem } .wide { overflow-x: auto }
table { border-collapse: collapse } td, th { padding: .2rem .8rem; text-align: left; border-bottom: 1px solid #8885 }
td + td, th + th { text-align: right; font-variant-numeric: tabular-nums }
img { max-width: 100%; image-rendering: pixelated } svg { display: block } summary { cursor: pointer }
.note { background: #fc03; border-left: 4px solid #fc0; padding: .5rem 1rem }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page.

    Args:
        title: plain text, shown as the heading too.
        parts: the HTML below it, as the functions of this module make it.
    """
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def heading(text: str) -> str:
    """A heading of a part of the page."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    """A paragraph."""
    return f"<p>{escape(text)}</p>"


def note(text: str) -> str:
    """A sentence that stands out."""
    return f'<p class="note">{escape(text)}</p>'


def bullets(lines: Iterable[str]) -> str:
    """A list."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def table(rows: Iterable[Sequence[str]], header: Sequence[str] = (), drawings: Sequence[str] = ()) -> str:
    """A table, which scrolls by itself where the window is narrow.

    Args:
        rows: the texts of every row.
        header: the texts of the heading; may be empty.
        drawings: HTML of a further column, one for each row; may be empty.
    """
    lines = [_row(header, "th")] if header else []
    for number, row in enumerate(rows):
        lines.append(_row(row, "td", f"<td>{drawings[number]}</td>" if drawings else ""))
    return '<div class="wide"><table>' + "\n".join(lines) + "</table></div>"


def details(summary: str, content: str) -> str:
    """A part that is folded until the reader opens it.

    Args:
        summary: plain text, always shown.
        content: HTML.
    """
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def image(png: bytes, alt: str) -> str:
    """A picture, within the page."""
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _row(cells: Sequence[str], kind: str, more: str = "") -> str:
    return "<tr>" + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in cells) + more + "</tr>"
