"""The page of the lesson: chapters are read, run, and what they show is written down.

    write("lesson.html")                               the whole lesson
    html = build(["one_number"])                       some chapters

A chapter is plain Python with percent cells (`# %%`): a cell that begins with `# %% [markdown]` holds text in its
comments, any other is run and shown, with its output below it. Of a cell tagged `# %% tags=["folded"]` the
source is folded, and of one tagged `# %% tags=["quiet"]`, which only shows what others computed, it is left out.
"""

from __future__ import annotations

import html
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import __version__
from ..files import naming, write_atomically
from . import CHAPTERS, show
from .markup import highlighted, to_html

HERE = Path(__file__).parent


class Cell(NamedTuple):
    """A cell of a chapter: its text or its source, and the line of the file at which that begins."""

    kind: str  # "markdown", "code", "folded" or "quiet"
    text: str
    line: int


def cells(path: Path) -> Iterator[Cell]:
    """The cells of a file. The text before the first of them is the file's head, which is not shown."""
    lines = path.read_text(encoding="utf-8").splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("# %%")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        body = lines[start + 1 : end]
        if "[markdown]" in lines[start]:
            yield Cell("markdown", "\n".join(line.removeprefix("#").removeprefix(" ") for line in body), start + 2)
        else:
            kind = next((kind for kind in ("folded", "quiet") if f'"{kind}"' in lines[start]), "code")
            yield Cell(kind, "\n".join(body).rstrip("\n"), start + 2)


def run_chapter(name: str) -> str:
    """Run a chapter, and return it as HTML."""
    path = HERE / f"{name}.py"
    space: dict[str, Any] = {"__name__": f"lesson {name}", "__file__": str(path)}
    parts = []
    for cell in cells(path):
        if cell.kind == "markdown":
            parts.append(to_html(cell.text))
            continue
        shown = _output(cell, path, space)
        if cell.kind == "quiet":
            parts += shown
            continue
        # what is for tools only is left out
        text = re.sub(r"\n{3,}", "\n\n", re.sub(r"  # (fmt|noqa).*", "", cell.text.strip("\n")))
        source = f'<pre class="code">{highlighted(text)}</pre>'
        folded = f"<details><summary>the code</summary>{source}</details>"
        parts += [*shown, folded] if cell.kind == "folded" else [source, *shown]
    # the page has a title of its own: headings go down by one
    body = re.sub(r"<(/?)h([1-5])>", lambda h: f"<{h[1]}h{int(h[2]) + 1}>", "\n".join(parts))
    body = body.replace("<h2>", f"<h2>{CHAPTERS.index(name) + 1}. ", 1)
    return f'<section id="{name}">{body}</section>'


def _output(cell: Cell, path: Path, space: dict[str, Any]) -> list[str]:
    """Run a cell, and return what it printed and showed."""
    page = show.Sheet()
    token = show.sheet.set(page)
    try:
        with redirect_stdout(page):
            # errors name the line of the file
            exec(compile("\n" * (cell.line - 1) + cell.text, str(path), "exec"), space)
    finally:
        show.sheet.reset(token)
    page.finish()
    return page.parts


def build(chapters: Iterable[str] = CHAPTERS, progress: bool = False) -> str:
    """The page, with these chapters.

    Raises:
        any error of a chapter: a page is whole, or it is not written.
    """
    sections = []
    for name in chapters:
        if progress:
            print(f"{name} …", file=sys.stderr, flush=True)
        sections.append(run_chapter(name))
    titles = [re.search(r'id="(\w+)">\s*<h2>(.*?)</h2>', section).groups() for section in sections]  # type: ignore
    contents = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in titles)
    versions = f"tinymaml {__version__}, NumPy {np.__version__}, Python {sys.version.split()[0]}"
    return PAGE.format(
        style=(HERE / "page.css").read_text(encoding="utf-8"), script=(HERE / "page.js").read_text(encoding="utf-8"),
        contents=contents, sections="\n".join(sections), versions=html.escape(versions),
    )  # fmt: skip


def write(to: str | os.PathLike, chapters: Iterable[str] = CHAPTERS, progress: bool = False) -> Path:
    """Build the page, and write it to a file that is whole or not there; its folder is made.

    Raises:
        OSError: it cannot be written.   Others: as `build`.
    """
    path = Path(to)
    if path.is_dir():  # before the work
        raise OSError(f"{path} is a folder, wanted a file for the page")
    with naming("make", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, build(chapters, progress).encode("utf-8"))
    return path


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>The gradient of learning: a lesson in exact MAML</title>
<style>
{style}</style>
</head>
<body>
<h1>The gradient of learning</h1>
<p>You will derive a meta-gradient, run it, see it, and verify it. You need the chain rule and a little Python; half an
hour is enough for the first three chapters. Each number, each listing and each picture on this page was computed when
the page was built. You can run the same code as Python files or as notebooks: they lie in
<code>tinymaml/lessons/</code>.</p>
<nav><ul>{contents}</ul></nav>
{sections}
<footer>Built by <code>tinymaml lesson</code> with {versions}.</footer>
<script>
{script}</script>
</body>
</html>
"""
