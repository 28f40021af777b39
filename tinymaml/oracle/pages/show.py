"""A case laid out for a person: model, θ, each inner step, its Hessian, the product, and what mistakes would give.

    print(show_page(find_case("quartic")))        find_case: an id of the core or the full set, or "fresh-SEED-I"

There is a column for each number of θ. In it stand, one below the other, θₖ, gradients, rows of Hessians and the v that
goes back through the factors; and in the last block the exact gradient and what comes in its place. The answer itself
has 17 digits, and stands as a fraction too where the model is polynomial and the fraction not endless.
"""

from __future__ import annotations

import difflib
import re
import textwrap
from fractions import Fraction

import numpy as np

from .. import models, references, tolerance
from ..arithmetic import as_numbers
from ..cases import CAPABILITIES, SUITES, Case, load
from ..catalogue import CATALOGUE, flat, forms
from ..family import ALGORITHMS
from ..mistakes.calculus import Calculus
from ..mistakes.semantics import run
from ..models import Options
from ..questions import FRESH, fresh

WIDTH = 120
MOST = 16  # numbers of one tensor, or of the meta-gradient
MATRIX = 8  # parameters, up to which a Hessian is shown in full
SPECTRUM = 400  # parameters, up to which its eigenvalues are computed

_Rows = list[tuple[str, "np.ndarray | None"]]  # a label with one number for each parameter, or a line of text


def find_case(name: str) -> Case:
    """The case of that id, with its answer. Ids as `gen` prints them, "suite:dtype:seed:/id", are understood too.

    Raises:
        ValueError: no such case; names those with similar ids.   Tampered: the vectors are not those that shipped.
    """
    prefix, _, rest = name.partition("/")
    dtype = "float32" if ":float32:" in prefix else "float64"
    name = rest if ":" in prefix else name
    of, _, drawn_id = name.rpartition("/")
    algorithm = of if of in ALGORITHMS else "maml"
    drawn = re.fullmatch(r"fresh-(\d+)-(\d+)", drawn_id if of in ALGORITHMS else name)
    if drawn and int(drawn[2]) < FRESH:
        return fresh(int(drawn[1]), int(drawn[2]) + 1, dtype, algorithm)[-1]
    ids, missing = [f"fresh-{drawn[1]}-{FRESH - 1}"] if drawn else [], ""
    for suite in ["core"] if of in ALGORITHMS else SUITES:
        try:
            cases = load(suite) if algorithm == "maml" else load(suite, algorithm=algorithm)
        except (OSError, ImportError) as error:
            why = "its files are not there" if isinstance(error, OSError) else error
            missing = f" (the suite {suite} was not searched: {why})"
            continue
        for case in cases:
            if case.id == name:
                return case
        ids += [case.id for case in cases]
    near = difflib.get_close_matches(name, dict.fromkeys(ids), n=5, cutoff=0.4)
    meant = f"near it: {', '.join(near)}" if near else "`tinymaml oracle show` lists the core's"
    raise ValueError(f"there is no case {name!r}; {meant}{missing}")


def show_page(case: Case) -> str:
    """All of it as text, at most 120 columns wide; the first task in full, the others in short."""
    case = case if case.answer else references.solve_case(case)
    with np.errstate(all="ignore"):  # some cases diverge
        ways = run(case).trace if case.algorithm == "maml" else []
        blocks = [_heading(case), *(_task(case, t, way) for t, way in enumerate(ways)), _answer(case), _mistakes(case)]
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks)


# ── what it is ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _heading(case: Case) -> list[str]:
    sizes = [f"{len(s[0])} + {len(q[0])}" for s, q in case.batches()]
    sizes = ", ".join(sizes if len(set(sizes)) > 1 else sizes[:1])
    count = sum(p.size for p in case.params.values())
    alpha = "α for each parameter, below" if isinstance(case.inner_lr, dict) else f"α = {case.inner_lr:.9g}"
    lines = [
        *_said(case.id, case.comment, 0),
        *(_algorithm(case) if case.algorithm != "maml" else []),
        *_said("model", models.in_words(case.model)),
        *_said("settings", f"K = {_count(case.inner_steps, 'inner step')},  {alpha},  β = {case.outer_lr:g},  "
               f"T = {_count(case.tasks, 'task')} of {sizes} examples (support + query)"),
        *_said("", f"{'first-order' if case.first_order else 'exact'} gradient wanted;  "
               f"{'all parameters adapt' if case.adapt is None else 'only ' + ', '.join(case.adapt) + ' adapt'};  "
               f"tells right from wrong in {' and '.join(case.dtypes) or 'no dtype'}"),
    ]  # fmt: skip
    for need in case.needs:
        lines += _said("needs", f"{need}: {CAPABILITIES.get(need, '')}")
    lines += _tensors("θ", case.params) + [f"{'':12}{_count(count, 'number')} in all"] * (len(case.params) > 1)
    return lines + (_tensors("α", case.inner_lr) if isinstance(case.inner_lr, dict) else [])


def _algorithm(case: Case) -> list[str]:
    """Whose gradient is wanted, and its settings."""
    module = ALGORITHMS[case.algorithm]
    lines = _said("algorithm", f"{case.algorithm}: G is the mean over tasks of {module.FORMULA}")
    return lines + [x for n, v in case.settings.items() for x in _said("", f"{n} = {v}: {module.SETTINGS[n]}")]


def _said(what: str, text: str, indent: int = 2) -> list[str]:
    """A heading with its text, wrapped beside it."""
    start = f"{'':{indent}}{what:{12 - indent}}"
    start += "" if start.endswith("  ") else "  "
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=" " * 12) or [start]


def _tensors(what: str, tensors: dict) -> list[str]:
    names = {n: f"{n} {_shape(p)}".rstrip() for n, p in tensors.items()}
    width = max(map(len, names.values()))
    return [f"  {'' if i else what:10}{names[n]:{width}}{_some(p, WIDTH - 12 - width)}"
            for i, (n, p) in enumerate(tensors.items())]  # fmt: skip


def _shape(x: np.ndarray) -> str:
    return " × ".join(map(str, x.shape)) if x.ndim != 1 else f"{x.size}"


def _some(x: np.ndarray, room: int) -> str:
    """The first numbers, as many as there is room for."""
    shown = ""
    for i, v in enumerate(np.ravel(x)):
        number = f"  {v + 0:.6g}"  # −0 is 0
        if i == MOST or len(shown + number) > room - 3 * (i < np.size(x) - 1):
            return shown + "  …"
        shown += number
    return shown


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "s")


def _sub(k: int) -> str:
    return str(k).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


# ── one task ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _task(case: Case, t: int, way: dict) -> list[str]:
    support, query = case.batches()[t]
    steps, full = len(way["theta"]) - 1, t == 0
    lines = [_rule(f"task {t + 1} of {case.tasks}" + ("" if full else ", in short"))]
    if full:
        with_target = case.model["loss"] != "mean"
        for name, (x, y) in (("support", support), ("query", query)):
            batch = {"x": x, "y": y} if with_target else {"x": x}
            lines += _tensors(name, batch)
        lines.append("")
    rows: _Rows = []
    for k in range(steps):
        if full:
            rows += [*_step(case, k, way, support), ("", None)]
    if not full and steps:
        losses = ", ".join(f"{v:.6g}" for v in way["loss_s"][:6]) + (", …" if steps > 6 else "")
        rows.append((f"L_s(θ₀ … θ{_sub(steps - 1)}) = {losses}", None))
    end = f"θ{_sub(steps)}"
    rows += [(f"{end} = θ" + ("" if steps else ", there are no inner steps"), flat(way["theta"][-1])) if not steps else
             (f"{end} = {_before(case, steps)}" if full else end, flat(way["theta"][-1])),
             (f"L_q({end}) = {way['loss_q']:.17g}", None), (f"g_q({end})", flat(way["grad_q"]))]  # fmt: skip
    return lines + _table(rows + _back(case, way, support, full), case)


def _before(case: Case, k: int) -> str:
    return f"θ{_sub(k - 1)} − {_rate(case)} g_s(θ{_sub(k - 1)})"


def _rate(case: Case) -> str:
    """α where it is one number, A = diag(α) where it is not."""
    return "A" if isinstance(case.inner_lr, dict) or case.adapt is not None else "α"


def _step(case: Case, k: int, way: dict, support: tuple) -> _Rows:
    at = f"θ{_sub(k)}"
    rows: _Rows = [
        (f"{at} = {_before(case, k)}" if k else "θ₀ = θ", flat(way["theta"][k])),
        (f"L_s({at}) = {way['loss_s'][k]:.17g}", None), (f"g_s({at})", flat(way["grad_s"][k])),
    ]  # fmt: skip
    count, hessian = sum(p.size for p in case.params.values()), f"H{_sub(k)}"
    if case.first_order:
        return rows
    if count > SPECTRUM:
        return [*rows, (f"{hessian}: {count} × {count}", None)]
    h = _hessian(case, way["theta"][k], support)
    if count > MATRIX:
        size = f"{hessian}: {count} × {count}, |{hessian}| = {np.linalg.norm(h):.6g}"
        if np.isfinite(h).all():
            values = np.linalg.eigvalsh((h + h.T) / 2)
            size += f", eigenvalues {values[0]:.6g} … {values[-1]:.6g}"
        return [*rows, (size, None)]
    names = _elements(case)
    wide = max(map(len, names))
    factor = _factor(case, k)
    rates = flat(tolerance.rates(case))
    for what, matrix in ((hessian, h), (factor, np.eye(count) - h * rates)):
        if count == 1:
            rows.append((what, matrix[0]))
        else:
            rows += [(f"{'' if i else what:{len(factor)}}  {names[i]:{wide}}", row) for i, row in enumerate(matrix)]
    return rows


def _factor(case: Case, k: int) -> str:
    return f"I − αH{_sub(k)}" if _rate(case) == "α" else f"I − H{_sub(k)}A"


def _hessian(case: Case, theta: dict, support: tuple) -> np.ndarray:
    columns = Calculus(case.model, Options()).columns(theta, tuple(map(as_numbers, support)))
    return np.stack([flat(column) for by_name in columns.values() for column in by_name], 1)


def _back(case: Case, way: dict, support: tuple, full: bool) -> _Rows:
    """v ← g_q(θ_K), then (I − HₖA) v, from the last step to the first."""
    v, steps = way["grad_q"], len(way["theta"]) - 1
    if case.first_order:
        return [("", None), (f"first order: no factors, v = g_q(θ{_sub(steps)})", None)]
    calculus, alpha, batch = Calculus(case.model, Options()), tolerance.rates(case), tuple(map(as_numbers, support))
    rows: _Rows = [("", None), (f"v ← g_q(θ{_sub(steps)})", flat(v))] if full and steps else []
    for k in reversed(range(steps)):
        h = calculus.along(way["theta"][k], batch, {n: alpha[n] * v[n] for n in v})
        v = {n: v[n] - h[n] for n in v}
        if full:
            rows.append((f"αH{_sub(k)} v" if _rate(case) == "α" else f"H{_sub(k)}A v", flat(h)))
        rows.append((f"v ← ({_factor(case, k)}) v", flat(v)))
    return rows


# ── the answer ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _answer(case: Case) -> list[str]:
    answer, fractions = case.answer, _rational(case)
    assert answer is not None
    elements = _elements(case)
    wide = max(map(len, [*elements, "meta-gradient"]))
    values, scale = flat(answer.meta_grad), flat(answer.scale)
    columns = [(name, f"{v:.17g}", f"{s:.3g}") for name, v, s in zip(elements, values, scale, strict=True)][:MOST]
    digits = max(len(v) for v in ("0" * 18, f"{answer.meta_loss:.17g}", *(c[1] for c in columns)))

    def row(name: str, value: str, s: str, fraction: str) -> str:
        return f"  {name:{wide}}  {value:>{digits}}  {s:>9}  {fraction}"

    last = "the last v" if case.inner_steps and not case.first_order else f"g_q(θ{_sub(case.inner_steps)})"
    last = ALGORITHMS[case.algorithm].FORMULA.split(",   ")[0] if case.algorithm != "maml" else last
    mean = f"the mean over {case.tasks} tasks of {last}" if case.tasks > 1 else last
    lines = [_rule("the exact answer"),
             row("", "17 digits", "s", "as a fraction" if fractions else ""),
             row("meta-loss", f"{answer.meta_loss:.17g}", f"{answer.loss_scale:.3g}",
                        _fraction(fractions[0]) if fractions else ""),
             f"  meta-gradient, {mean}"]  # fmt: skip
    for i, (name, value, s) in enumerate(columns):
        lines.append(row(name, value, s, _fraction(fractions[1][i]) if fractions else ""))
    if len(values) > MOST:
        lines.append(f"  … and {len(values) - MOST} more")
    lines += _said("s", "the number's standard deviation if every intermediate value is rounded once, in units of u: "
                   f"an answer is right if it is within {tolerance.TAU:g} u s, u = 2⁻⁵³ (float32: 2⁻²⁴)")  # fmt: skip
    by = "; ".join(f"{rung}, {how}" for rung, how in answer.confirmed.items())
    lines += _said("known by", by or "float64 alone: computed just now, not certified")
    margins = "no mistake shows at all"
    if np.isfinite(answer.distance):
        margins = f"the nearest mistake is {answer.distance:.2g} roundings away"
    if np.isfinite(answer.margin):
        margins += f"; the nearest kink (of ReLU or max) {answer.margin:.2g} of the size of the values there"
    return lines + _said("margins", margins)


def _rational(case: Case) -> tuple[Fraction, list[Fraction]] | None:
    """(𝓛, G) as fractions; None if the model is not polynomial, or so many steps make them too long."""
    affine = len([m for m in case.model["layers"] if m.get("params")]) == 1 and case.model["loss"] != "mean"
    if case.inner_steps > 2 and not affine and case.model["layers"][0]["layer"] != "quadratic":
        return None
    try:
        loss, grads = references.exact(case)
        return Fraction(loss), [Fraction(x) for x in flat(grads)]
    except TypeError:
        return None


def _fraction(x: Fraction) -> str:
    """3780, or 130152422875/2^41; a numerator of hundreds of digits is shortened."""
    rest, factors = x.denominator, []
    for p in (2, 3, 5, 7):
        power = 0
        while rest % p == 0:
            rest, power = rest // p, power + 1
        factors += [f"{p}^{power}" if power > 1 else f"{p}"] if power else []
    factors += [str(rest)] if rest > 1 else []
    top = str(x.numerator)
    if len(top) > 26:
        top = f"{top[:10]}…{top[-6:]} [{len(top.lstrip('-'))} digits]"
    below = "·".join(f if len(f) <= 26 else f"[{len(f)} digits]" for f in factors)
    return top + (f"/({below})" if len(factors) > 1 else f"/{below}" if factors else "")


# ── the mistakes ────────────────────────────────────────────────────────────────────────────────────────────────────


def _mistakes(case: Case) -> list[str]:
    """The result of each mistake under the exact gradient, nearest first; then those that cannot be seen here."""
    answer = case.answer
    assert answer is not None
    right = flat(answer.meta_grad)
    size = np.max(np.abs(right))
    known = {}
    for name, grads in answer.bugs.items():
        if grads is not None:
            off = tolerance.error(grads, answer.meta_grad, answer.scale, tolerance.UNIT["float64"])
            known[name] = (off, float(np.max(np.abs(flat(grads) - right)) / size) if size else np.inf, flat(grads))
    order = sorted(known, key=lambda n: known[n][:2])
    wide = max(map(len, ["nearest first", *known]))

    def label(name: str) -> str:
        off, relative, _ = known[name]
        return f"{name:{wide}}  {_short(off):>9}  {_short(relative):>8}"

    rows: _Rows = [("exact", right)]
    for title, conventions in (("", False), ("conventions", True)):
        chosen = [n for n in order if CATALOGUE[n.split("/")[0]].convention == conventions]
        rows += [(title, None)] * bool(title and chosen) + [(label(n), known[n][2]) for n in chosen]
    heading = f"{'nearest first':{wide}}  {'roundings':>9}  {'relative':>8}"
    lines = [_rule("what each classic mistake gives"), *_table(rows, case, heading, like=right)]
    here = forms(case)
    unseen = [n for n in here if n not in answer.bugs]
    unknown = [n for n, g in answer.bugs.items() if g is None]
    if unseen:
        lines += ["", *_said("blind to", ", ".join(unseen) + ": these give the exact gradient here")]
    if unknown:
        lines += ["", *_said("not known", ", ".join(unknown) + ": diverges here, or depends on rounding")]
    further = sum(not CATALOGUE[n.split("/")[0]].classic for n in here)
    if further:
        lines += ["", *_said("further", f"{further} other ways to be wrong, of the catalogue, are not in this table")]
    if any("/" in n for n in [*known, *unseen, *unknown]):
        lines += ["", *_said("name/1", "is another way to make the mistake, most often with the inner gradient "
                             "detached as well; `tinymaml oracle list-bugs` tells what each name means")]  # fmt: skip
    return lines


def _short(x: float) -> str:
    return f"{x:.3g}" if 1e-3 <= x < 1e4 else f"{x:.1e}"


# ── numbers in columns ──────────────────────────────────────────────────────────────────────────────────────────────


def _elements(case: Case) -> list[str]:
    return [f"{n}[{','.join(map(str, at))}]" if at else n for n, p in case.params.items() for at in np.ndindex(p.shape)]


def _rule(title: str) -> str:
    return f"── {title} " + "─" * (WIDTH - 4 - len(title))


def _table(rows: _Rows, case: Case, heading: str = "", like: np.ndarray | None = None) -> list[str]:
    """Rows of numbers under the parameters' names, point under point, in as many columns as there is room for.

    Args:
        like: numbers that set each column's decimals; by default all in it do.
    """
    names = _elements(case)
    numbers = [row for _, row in rows if row is not None]
    left = max([len(heading), *(len(label) for label, row in rows if row is not None)])
    room = WIDTH - 2 - left
    for digits in (6, 5, 4, 5):  # fewer digits before a column is left out; and if one must be, five
        columns = []
        for i, name in enumerate(names[:MOST]):
            values = [row[i] for row in numbers]
            columns.append(_aligned(name, _written(values, values if like is None else [like[i]], digits)))
        if len(columns) == len(names) and sum(len(c[0]) for c in columns) <= room:
            break
    else:
        while sum(len(c[0]) for c in columns) > room - len("  … 999 more"):
            columns.pop()
    more = len(names) - len(columns)
    cells = ["".join(row) + ("  …" if more else "") for row in zip(*columns, strict=True)]
    lines, at = [f"  {heading:{left}}{cells[0]}" + (f" {more} more" if more else "")], 1
    for label, row in rows:
        lines.append(f"  {label}" if row is None else f"  {label:{left}}{cells[at]}")
        at += row is not None
    return lines


def _written(values: list, like: list, digits: int) -> list[str]:
    """Numbers of one column: so many digits of the usual size, fewer if that is all, powers of ten if need be."""
    sizes = [abs(v) for v in like if v and np.isfinite(v)]
    decimals = int(np.clip(digits - 1 - np.floor(np.log10(np.median(sizes))), 0, digits + 2)) if sizes else 0
    out = []
    for v in values:
        v = v + 0.0  # −0 is 0
        text = f"{v:.{decimals}f}"
        if np.isfinite(v) and abs(float(text) - v) <= 1e-15 * abs(v):
            text = text.rstrip("0").rstrip(".") if "." in text else text
        elif abs(v) * 10**decimals < 100:
            text = f"{v:.{digits - 3}e}"
        out.append(text if len(text) <= max(digits + 4, decimals + 3) else f"{v:.{digits - 3}e}")
    return out


def _aligned(name: str, texts: list[str]) -> list[str]:
    """A column: its name, then the numbers, point under point."""
    split = [text.partition(".") for text in texts]
    before, after = max(len(a) for a, _, _ in split), max(len(dot + b) for _, dot, b in split)
    cells = [f"{a:>{before}}{dot + b:<{after}}" for a, dot, b in split]
    width = max(before + after, len(name)) + 2
    return [f"{text:>{width}}" for text in [name, *cells]]
