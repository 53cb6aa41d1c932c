"""HTML that needs nothing from outside itself: words, pictures, tables, and the page they stand on.

Words are plain text in which `code` stands in backticks and **strong words** between stars. Pages forbid themselves
every request (Content-Security-Policy); pictures travel inside them.
"""

import base64
import hashlib
import html
import importlib.resources
import io
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from aujax.report import sheet

_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{}'"


class Section(NamedTuple):
    """A part of a page: the name that links use, its heading, and its content in HTML."""

    name: str
    heading: str
    content: Sequence[str]


def inline(words: str) -> str:
    """Returns words as HTML.

    >>> inline("a < `b` **c**")
    'a &lt; <code>b</code> <strong>c</strong>'
    """
    words = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(words, quote=False))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", words)


def paragraph(words: str) -> str:
    """Returns a paragraph."""
    return f"<p>{inline(words)}</p>"


def caution(words: str) -> str:
    """Returns a paragraph that warns, in words as well as in colour."""
    return f'<p class="caution"><strong>Caution.</strong> {inline(words)}</p>'


def bullets(lines: Iterable[str]) -> str:
    """Returns an unordered list."""
    return f"<ul>{''.join(f'<li>{inline(line)}</li>' for line in lines)}</ul>"


def heading(words: str, *, level: int = 3) -> str:
    """Returns a heading within a section."""
    return f"<h{level}>{inline(words)}</h{level}>"


def details(summary: str, content: str) -> str:
    """Returns content that opens on demand."""
    return f"<details><summary>{inline(summary)}</summary>{content}</details>"


def scrolling(content: str, *, label: str) -> str:
    """Returns content that scrolls inside its own frame, by touch and by arrow keys, where the screen is too narrow."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{attribute(label)}">{content}</div>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, left: int) -> str:
    """Returns a table that can be sorted by its columns; the first `left` columns are words, the others numbers."""
    names = "".join(
        f'<th scope="col"{_head(name, place, left)}>{inline(name)}</th>' for place, name in enumerate(header)
    )
    lines = []
    for row in rows:
        first, *others = (_interval_below(inline(cell)) for cell in row)
        cells = "".join(f"<td{_side(place, left)}>{cell}</td>" for place, cell in enumerate(others, start=1))
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    content = (
        f"<table><caption><span>{inline(caption)}</span></caption>"
        f"<thead><tr>{names}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )
    return scrolling(content, label=caption)


def figure(path: pathlib.Path, alternative: str) -> str:
    """Returns the picture in a file; `alternative` says what it shows to those who cannot see it."""
    source = _data(_TYPES[path.suffix], path.read_bytes())
    return scrolling(f'<img class="chart" src="{source}" alt="{attribute(alternative)}">', label=alternative)


def picture(pixels: UInt8[np.ndarray, "height width 3"], alternative: str) -> str:
    """Returns a small picture, as JPEG."""
    buffer = io.BytesIO()
    style = {"format": "jpeg", "pil_kwargs": {"quality": 85}}
    sheet.matplotlib().image.imsave(buffer, np.ascontiguousarray(pixels), **style)
    height, width = pixels.shape[:2]
    source = _data("image/jpeg", buffer.getvalue())
    return f'<img src="{source}" alt="{attribute(alternative)}" width="{width}" height="{height}">'


def attribute(words: str) -> str:
    """Returns words as the value of an attribute in double quotes."""
    return html.escape(re.sub(r"[`*]", "", words))


def document(title: str, opening: Sequence[str], sections: Sequence[Section], *, style: str = "") -> str:
    """Returns the page: title, opening, a list of its sections to jump to, and the sections.

    `style` holds rules of its own, which come after those of all pages.
    """
    links = "".join(f'<li><a href="#{one.name}">{inline(one.heading)}</a></li>' for one in sections)
    parts = "\n".join(_section(one) for one in sections)
    # The one script that may run: text in the page cannot become another.
    script = f"\n{_file('page.js')}"
    policy = _POLICY.format(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>
{_file("page.css")}{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header><h1>{inline(title)}</h1></header>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main id="content">
{"".join(opening)}
{parts}
</main>
<script>{script}</script>
</body>
</html>
"""


def _interval_below(cell: str) -> str:
    """An interval, at the end of a cell, on a line of its own: the columns stay narrow."""
    return re.sub(r" (\[[^]]*\])$", r" <small>\1</small>", cell)


def _section(one: Section) -> str:
    lines = [f'<section aria-labelledby="{one.name}">', f'<h2 id="{one.name}">{inline(one.heading)}</h2>']
    return "\n".join([*lines, *one.content, "</section>"])


def _side(place: int, left: int) -> str:
    return "" if place < left else ' class="number"'


def _head(name: str, place: int, left: int) -> str:
    """The classes of a column's name: a short one is not broken at its hyphen."""
    classes = ["number"] * (place >= left) + ["short"] * (len(name) <= 8)
    return f' class="{" ".join(classes)}"' if classes else ""


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _file(name: str) -> str:
    return importlib.resources.files("aujax.report").joinpath("templates", name).read_text(encoding="utf-8")
