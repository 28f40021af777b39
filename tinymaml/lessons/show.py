"""The output of a chapter: text with numbers, tables, listings, figures, figures with sliders.

    say(f"The slope is {slope:.3f}.")                   Markdown with computed numbers
    show(table(["step", "loss"], rows))                 anything with `html()`
    show(listing(tm.maml.inner_step))                   the source, as it stands in the package
    show(sliders(draw, alpha=[0.1, 0.2]))               draw(alpha) → (figures, text), called for each state

On the page it is HTML. In a notebook it is displayed; elsewhere it is printed.
"""

from __future__ import annotations

import ast
import html
import importlib
import inspect
import io
import itertools
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from .markup import LETTERS, highlighted, inline, table_html, to_html
from .svg import Figure

_SCRIPT = Path(__file__).with_name("page.js")


class Sheet(io.StringIO):
    """The output of a cell: the text that it prints (this takes the place of stdout), and the parts that it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def add(self, part: str) -> None:
        self.finish()
        self.parts.append(part)

    def finish(self) -> None:
        """Take over what was printed since."""
        if printed := self.getvalue().rstrip("\n"):
            self.parts.append(f'<pre class="out">{html.escape(printed, quote=False)}</pre>')
        self.seek(0)
        self.truncate()


sheet: ContextVar[Sheet | None] = ContextVar("sheet", default=None)  # of the page that is being built


def show(*things: Any) -> None:
    """Show each: on the page as HTML, in a notebook by its display, elsewhere as text."""
    for thing in things:
        if (page := sheet.get()) is not None:
            page.add(thing.html())
        elif _in_notebook():
            from IPython.display import HTML, display

            script = _SCRIPT.read_text(encoding="utf-8") if "<input" in thing.html() else ""
            display(HTML(thing.html() + f"<script>{script}</script>" * bool(script)))
        else:
            print(thing)


def _in_notebook() -> bool:
    try:
        get_ipython  # type: ignore[name-defined]  # noqa: B018
    except NameError:
        return False
    return True


class Shown:
    """HTML, and the text that stands for it where there is none."""

    def __init__(self, html: str, text: str) -> None:
        self._html, self.text = html, text

    def html(self) -> str:
        return self._html

    def __str__(self) -> str:
        return self.text


def say(text: str) -> None:
    """Show a text in Markdown, into which the caller has written computed numbers."""
    text = textwrap.dedent(text).strip()
    show(Shown(to_html(text), text))


def table(head: Sequence[str], rows: Iterable[Sequence]) -> Shown:
    """A table whose cells are Markdown; numbers are written with four digits."""
    filled = [[f"{cell:.4g}".replace("-", "−") if isinstance(cell, float) else str(cell) for cell in row]
              for row in rows]  # fmt: skip
    text = "\n".join("  ".join(row) for row in [list(head), *filled])
    return Shown(table_html(list(head), filled), text)


def side_by_side(*things: Any) -> Shown:
    """Things beside each other where the page is wide enough, below each other on a phone."""
    parts = "".join(f"<div>{thing.html()}</div>" for thing in things)
    return Shown(f'<div class="row">{parts}</div>', "\n".join(map(str, things)))


def listing(of: Any, first: str = "", last: str = "", title: str = "") -> Shown:
    """Source from the package, from the line that begins with `first` to the line that begins with `last`.

    Args:
        of: a function, a class or a module, or its source as text.

    Raises:
        ValueError: no line begins so: the source has changed, and so must the lesson.
    """
    source = of if isinstance(of, str) else inspect.getsource(of)
    lines = source.splitlines()
    start = _place(lines, first, 0) if first else 0
    end = _place(lines, last, start) if last else len(lines) - 1
    chosen = textwrap.dedent("\n".join(lines[start : end + 1]))
    head = f'<div class="from">{inline(title)}</div>' if title else ""
    return Shown(f'{head}<pre class="code">{highlighted(chosen)}</pre>', chosen)


def _place(lines: list[str], begins: str, start: int) -> int:
    for i in range(start, len(lines)):
        if lines[i].strip().startswith(begins):
            return i
    raise ValueError(f"no line begins with {begins!r}")


def statement(module: ModuleType, name: str) -> str:
    """The statement that assigns `name` in a module, or in that from which the module has it, as it stands there."""
    source = inspect.getsource(module)
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and node.level and name in {alias.name for alias in node.names}:
            origin = importlib.import_module("." * node.level + (node.module or ""), module.__package__)
            return statement(origin, name)
        if isinstance(node, ast.Assign) and any(getattr(t, "id", None) == name for t in node.targets):
            return ast.get_source_segment(source, node) or ""
    raise ValueError(f"{module.__name__} assigns no {name}")


def sliders(draw: Callable, start: dict[str, Any] | None = None, caption: str = "", **values: Sequence) -> Shown:
    """A figure with a slider per argument of `draw`. Every state is computed now, and kept on the page as JSON.

    Args:
        draw: `draw(**state)` → (a figure or a list of figures, Markdown). The back layers of the figures do not change.
        start: the state that is shown first, and in print; by default the first value of each.
        **values: the values of each argument.
    """
    names = list(values)
    chosen = [list(values[name]).index((start or {}).get(name, values[name][0])) for name in names]
    states, first = [], ""
    for at in itertools.product(*(range(len(values[name])) for name in names)):
        figures, note = draw(**{name: values[name][i] for name, i in zip(names, at, strict=True)})
        figures = figures if isinstance(figures, list) else [figures]
        states.append({"fronts": ["".join(f.front) for f in figures], "note": to_html(note)})
        if list(at) == chosen:
            first = _figures(figures, f'<div class="note">{states[-1]["note"]}</div>')
    shared = _clips(first)
    for state in states:  # clip paths are named anew for each figure: those of the first state are on the page
        state["fronts"] = [_renamed(front, clip) for front, clip in zip(state["fronts"], shared, strict=True)]
    inputs = "".join(
        f'<label><span>{html.escape(LETTERS.get(name, name))}</span><input type="range" min="0" step="1" '
        f'max="{len(values[name]) - 1}" value="{i}" data-labels="{html.escape(json.dumps(_labels(values[name])))}" '
        f'autocomplete="off"><output>{html.escape(_labels(values[name])[i])}</output></label>'
        for name, i in zip(names, chosen, strict=True)
    )
    data = json.dumps(states, ensure_ascii=False).replace("</", "<\\/")
    said = f"<figcaption>{inline(caption)}</figcaption>" if caption else ""
    return Shown(
        f'<figure class="sliders"><div class="inputs">{inputs}</div>{first}{said}'
        f'<script type="application/json">{data}</script></figure>',
        f"[a figure with sliders for {', '.join(names)}: {len(states)} states] {caption}",
    )


def _labels(values: Sequence) -> list[str]:
    return [x if isinstance(x, str) else f"{x:g}" for x in values]


def _figures(figures: list[Figure], note: str) -> str:
    """The figures in rows of two, and below them, or in the place that is free, their legend and the note."""
    below = next((f.legend_html() for f in figures if f.legend), "") + note
    panels = "".join(f"<div>{f.svg()}</div>" for f in figures)
    if len(figures) > 1 and len(figures) % 2:
        return f'<div class="row">{panels}<div>{below}</div></div>'
    return f'<div class="row">{panels}</div>{below}'


def _clips(first: str) -> list[str]:
    return [piece.split('"')[0] for piece in first.split('<clipPath id="')[1:]]


def _renamed(front: str, clip: str) -> str:
    return re.sub(r"url\(#clip\d+\)", f"url(#{clip})", front)


def rules_of(module: ModuleType, name: str) -> list[str]:
    """The rules of a primitive as they stand in a module: what its lambdas return."""
    rules = [node for node in ast.walk(ast.parse(statement(module, name))) if isinstance(node, ast.Lambda)]
    return [ast.unparse(rule.body) for rule in rules]


def program(of: Any) -> Shown:
    """The listing of a `tm.record`, whose second order is marked; what comes before its first line is folded."""
    lines = str(of).splitlines()
    marked = [i for i, line in enumerate(lines) if line.startswith("  │ ")]
    shown = [html.escape(line) for line in lines]
    for i in marked:
        shown[i] = f"<mark>{shown[i]}</mark>"
    first = next((i for i in marked if i > 1), 1)  # the second line is a heading
    before, after = "\n".join(shown[:first]), "\n".join(shown[first:])
    return Shown(
        f'<details><summary>the first {first} lines, before the second order begins</summary><pre class="out">{before}'
        f'</pre></details><pre class="out">{after}</pre>', str(of),
    )  # fmt: skip
