"""Drawings as SVG, with as much as the lessons need: axes, lines, dots, arrows, contours, words.

    figure = Figure((-1, 5), (0, 9), xlabel="w", ylabel="loss")
    figure.line(x, y, "blue", label="MAML")
    figure.html()

Colours are names of the page's palette, which has a light and a dark form: blue, red, green, violet, orange, grey, ink.
A figure is narrow (400 units), so that its words can be read on a phone; the legend stands below it, as text.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from .markup import inline

COLOURS = dict(blue="#1f6cb0", red="#d1361f", green="#1b8a5a", violet="#8e44ad", orange="#c77700", grey="#8a8a8a",
               ink="#222222", faint="#dddddd")  # fmt: skip
LEFT, RIGHT, TOP, BOTTOM = 44, 18, 22, 40  # margins around the axes
_count = itertools.count()


def colour(name: str) -> str:
    """A colour of the page, or, where the page's style is missing, its light form."""
    return f"var(--{name}, {COLOURS[name]})"


class Figure:
    """A plot with linear axes.

    Args:
        x, y: (low, high) of each axis.
        width, height: of the whole, in units of which a letter has 12.
        equal: one unit is as long on both axes; the height follows.
        axes: whether axes and ticks are drawn.

    What is drawn while `behind` is set lies in the back layer, which the states of a slider share.
    """

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], *, width: int = 400, height: int = 260, title: str = "",
        xlabel: str = "", ylabel: str = "", equal: bool = False, axes: bool = True, caption: str = "",
    ) -> None:  # fmt: skip
        self.x, self.y, self.width, self.caption = x, y, width, caption
        inside = width - LEFT - RIGHT
        self.height = round(inside * (y[1] - y[0]) / (x[1] - x[0])) + TOP + BOTTOM if equal else height
        self.back: list[str] = []
        self.front: list[str] = []
        self.behind, self.legend, self.title = True, {}, title
        self.clip = f"clip{next(_count)}"
        if axes:
            self._axes(xlabel, ylabel)
        if title:
            self._words(LEFT, 14, title, "ink", "start", bold=True)
        self.behind = False

    # ── places ──

    def px(self, x: float) -> float:
        return LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (self.width - LEFT - RIGHT)

    def py(self, y: float) -> float:
        return self.height - BOTTOM - (y - self.y[0]) / (self.y[1] - self.y[0]) * (self.height - TOP - BOTTOM)

    def _add(self, element: str) -> None:
        (self.back if self.behind else self.front).append(element)

    # ── marks ──

    def line(self, xs: Sequence, ys: Sequence, hue: str, *, label: str = "", width: float = 2, dash: str = "") -> None:
        """A polygonal line; what is not finite is left out."""
        finite = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
        points = [(self.px(x), self.py(y)) for x, y in finite]
        far = 20 * self.width
        path = " ".join(f"{max(-far, min(far, a)):.1f},{max(-far, min(far, b)):.1f}" for a, b in points)
        self._add(f'<polyline points="{path}" fill="none" stroke="{colour(hue)}" stroke-width="{width}" '
                  f'stroke-dasharray="{dash}" clip-path="url(#{self.clip})"/>')  # fmt: skip
        self._label(label, hue)

    def dot(self, x: float, y: float, hue: str, *, radius: float = 4.5, label: str = "", open_: bool = False) -> None:
        """A dot, or a ring."""
        if self._inside(x, y):
            fill = "none" if open_ else colour(hue)
            self._add(f'<circle cx="{self.px(x):.1f}" cy="{self.py(y):.1f}" r="{radius}" fill="{fill}" '
                      f'stroke="{colour(hue)}" stroke-width="1.5"/>')  # fmt: skip
        self._label(label, hue)

    def arrow(self, a: Sequence[float], b: Sequence[float], hue: str, *, label: str = "", width: float = 2.5,
              dash: str = "") -> None:  # fmt: skip
        """An arrow from a to b, clipped to the axes; a dot if it is tiny, nothing if it is not finite."""
        self._label(label, hue)
        (x0, y0), (x1, y1) = ((self.px(p[0]), self.py(p[1])) for p in (a, b))
        length = math.hypot(x1 - x0, y1 - y0)
        if not math.isfinite(length):
            return
        if length > (far := 5 * self.width):  # only its direction can be seen
            x1, y1, length = x0 + far * (x1 - x0) / length, y0 + far * (y1 - y0) / length, far
        if length < 2:
            self._add(f'<circle cx="{x0:.1f}" cy="{y0:.1f}" r="3" fill="{colour(hue)}"/>')
            return
        size = min(9.0, 0.6 * length)
        ux, uy = (x1 - x0) / length, (y1 - y0) / length
        bx, by = x1 - size * ux, y1 - size * uy
        wing = 0.45 * size
        self._add(
            f'<g clip-path="url(#{self.clip})"><line x1="{x0:.1f}" y1="{y0:.1f}" x2="{bx:.1f}" y2="{by:.1f}" '
            f'stroke="{colour(hue)}" stroke-width="{width}" stroke-dasharray="{dash}"/>'
            f'<polygon points="{x1:.1f},{y1:.1f} {bx - wing * uy:.1f},{by + wing * ux:.1f} '
            f'{bx + wing * uy:.1f},{by - wing * ux:.1f}" fill="{colour(hue)}"/></g>'
        )

    def text(self, x: float, y: float, words: str, hue: str = "ink", *, anchor: str = "middle", up: float = 8) -> None:
        """Words above a point."""
        if self._inside(x, y):
            self._words(self.px(x), self.py(y) - up, words, hue, anchor)

    def box(self, x: float, y: float, words: str, hue: str, width: float, height: float = 24) -> None:
        """Words in a box around a point."""
        left, top = self.px(x) - width / 2, self.py(y) - height / 2
        self._add(f'<rect x="{left:.1f}" y="{top:.1f}" width="{width}" height="{height}" rx="5" '
                  f'fill="var(--page, #fff)" stroke="{colour(hue)}" stroke-width="1.5"/>')  # fmt: skip
        self._words(self.px(x), self.py(y) + 4, words, "ink", "middle")

    def arc(self, a: Sequence[float], b: Sequence[float], hue: str, *, bulge: float, width: float = 1.5) -> None:
        """A curve from a to b, which hangs `bulge` units below the straight line."""
        (x0, y0), (x1, y1) = ((self.px(p[0]), self.py(p[1])) for p in (a, b))
        middle = f"{(x0 + x1) / 2:.1f} {(y0 + y1) / 2 + 2 * bulge:.1f}"
        self._add(f'<path d="M{x0:.1f} {y0:.1f}Q{middle} {x1:.1f} {y1:.1f}" fill="none" stroke="{colour(hue)}" '
                  f'stroke-width="{width}"/>')  # fmt: skip

    def contours(self, xs: np.ndarray, ys: np.ndarray, values: np.ndarray, levels: Iterable[float], hue: str) -> None:
        """Lines of equal value of `values` (ys, xs)."""
        for i, level in enumerate(levels):
            path = "".join(
                f"M{self.px(a):.1f} {self.py(b):.1f}L{self.px(c):.1f} {self.py(d):.1f}"
                for (a, b), (c, d) in level_segments(xs, ys, values, level)
            )
            self._add(f'<path d="{path}" fill="none" stroke="{colour(hue)}" stroke-width="1" '
                      f'opacity="{max(0.25, 0.75 - 0.07 * i):.2f}"/>')  # fmt: skip

    # ── the rest ──

    def _label(self, label: str, hue: str) -> None:
        if label:
            self.legend[label] = hue

    def _inside(self, x: float, y: float) -> bool:
        slack = 1e-9
        return (self.x[0] - slack <= x <= self.x[1] + slack) and (self.y[0] - slack <= y <= self.y[1] + slack)

    def _words(self, px, py, words, hue, anchor, bold=False, turn="") -> None:
        weight = ' font-weight="600"' if bold else ""
        self._add(f'<text x="{px:.1f}" y="{py:.1f}" fill="{colour(hue)}" text-anchor="{anchor}"{weight}{turn}>'
                  f"{html.escape(words)}</text>")  # fmt: skip

    def _axes(self, xlabel: str, ylabel: str) -> None:
        left, right, low, high = LEFT, self.width - RIGHT, self.height - BOTTOM, TOP
        self._add(f'<path d="M{left} {high}V{low}H{right}" fill="none" stroke="{colour("grey")}"/>')
        for tick in ticks(*self.x, 6):
            self._add(f'<path d="M{self.px(tick):.1f} {low}v4" stroke="{colour("grey")}"/>')
            self._words(self.px(tick), low + 18, f"{tick:g}".replace("-", "−"), "ink", "middle")
        for tick in ticks(*self.y, 5):
            self._add(f'<path d="M{left} {self.py(tick):.1f}h-4" stroke="{colour("grey")}"/>')
            self._words(left - 7, self.py(tick) + 3, f"{tick:g}".replace("-", "−"), "ink", "end")
        if xlabel:
            self._words((left + right) / 2, self.height - 6, xlabel, "ink", "middle")
        if ylabel:
            middle = (low + high) / 2
            self._words(11, middle, ylabel, "ink", "middle", turn=f' transform="rotate(-90 11 {middle:.1f})"')

    def svg(self) -> str:
        clip = (f'<clipPath id="{self.clip}"><rect x="{LEFT}" y="{TOP - 4}" width="{self.width - LEFT - RIGHT}" '
                f'height="{self.height - TOP - BOTTOM + 4}"/></clipPath>')  # fmt: skip
        name = html.escape(self.caption or self.title)
        return (f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{name}" '
                'font-family="system-ui, sans-serif" font-size="12">'
                f'<defs>{clip}</defs>{"".join(self.back)}<g class="front">{"".join(self.front)}</g></svg>')  # fmt: skip

    def legend_html(self) -> str:
        marks = "".join(f'<span><b style="background:{colour(hue)}"></b>{html.escape(label)}</span>'
                        for label, hue in self.legend.items())  # fmt: skip
        return f'<div class="legend">{marks}</div>' if marks else ""

    def html(self) -> str:
        caption = f"<figcaption>{inline(self.caption)}</figcaption>" if self.caption else ""
        return f"<figure>{self.svg()}{self.legend_html()}{caption}</figure>"

    def __str__(self) -> str:
        return f"[a figure: {self.caption or self.title}]"


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers on an axis, at most so many and one more."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) + 0.0 for k in range(first, math.floor(high / step + 1e-9) + 1)]


def level_segments(xs: np.ndarray, ys: np.ndarray, values: np.ndarray, level: float) -> list[tuple]:
    """Marching squares: in each cell of the grid, the pieces of the line on which the value is `level`."""
    above = values > level
    mixed = above[:-1, :-1].astype(int) + above[:-1, 1:] + above[1:, :-1] + above[1:, 1:]
    segments = []
    for i, j in np.argwhere((mixed > 0) & (mixed < 4)):
        corners = [(i, j), (i, j + 1), (i + 1, j + 1), (i + 1, j)]
        crossed = []
        for (a, b), (c, d) in zip(corners, corners[1:] + corners[:1], strict=True):
            if above[a, b] != above[c, d]:
                s = (level - values[a, b]) / (values[c, d] - values[a, b])
                crossed.append((xs[b] + s * (xs[d] - xs[b]), ys[a] + s * (ys[c] - ys[a])))
        segments += zip(crossed[::2], crossed[1::2], strict=True)
    return segments
