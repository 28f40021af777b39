"""The control matrix: does the oracle name every mistake, in every case that can see it?

    python -m bench.oracle matrix                        # the core, an hour and a half
    python -m bench.oracle matrix --json matrix.json     # keeps what is done, and goes on from there
    python -m bench.oracle matrix --suite full --dtype float64 --markdown matrix.md
    python -m bench.oracle matrix --only fomaml --pairs 0

Four parts. *Whole*: each mistake, made in code (`mistakes.py`), is checked as a user would check it, and must be named
(or one that gives the same numbers in every case, to the digits of the dtype; they are counted apart). *Cells*: each
case that can see a mistake is asked alone, and its verdict must name the mistake, or one that gives the same numbers in
that case. *Pairs*: two mistakes at once must never pass. *Unknown*: mistakes that the catalogue does not have must be
refused, with the right kind and the right place. The exit code is 0 if all of it is so.

A cell is ● named alone, ○ named among others, ◐ named as another whose own formula gives the same numbers in that case,
X anything else; · the case is blind to it, ~ what it gives is unknown (it diverges), blank: the case is not for this
dtype. The ◐ are counted apart: of several mistakes that one case cannot tell apart, the oracle names the simplest. With
K = 1, for example, one step fewer is no step, whatever else is done in a step.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tinymaml import oracle
from tinymaml.oracle import cases, questions, references
from tinymaml.oracle.catalogue import CATALOGUE, forms
from tinymaml.oracle.clues.match import combined, fits, shows, value_of
from tinymaml.oracle.diagnosis import diagnose
from tinymaml.oracle.tolerance import UNIT

from . import mistakes, page
from .kept import Kept, digest
from .mistakes import MADE, MAML, UNKNOWN, by_formula, called

EVERYTHING = tuple(cases.CAPABILITIES)
SOURCES = ("matrix.py", "mistakes.py", "further.py", "kinds.py", "loops.py", "rules.py")  # what is made and asked
RISING = ("best_iterate", "rises_refused")  # told apart where the loss rises and falls again, as in a special case


def suite_of(name: str, dtype: str, seed: int = 0) -> list:
    """A suite's cases and two new ones, as `check` would ask; a list, so that nothing is drawn for each mistake."""
    return oracle.load(name) + questions.fresh(seed, 2, dtype)


def special_cases() -> list:
    """Cases with what the core leaves out: FOMAML wanted, a rate for each parameter, only the head adapts, tasks of
    different sizes, steps of which some raise the loss, images that are flattened, a stride before a mean over pixels.
    """
    plain = "tanh 1-2-1 mse"
    return [
        _drawn("first-order", plain, first_order=True), _drawn("rate-per-parameter", plain, per_parameter=True),
        _drawn("head", plain, adapt=("w2", "b2")), _drawn("uneven", plain, unequal=True, tasks=3),
        _drawn("rising", plain, first=7, inner_steps=4, inner_lr=0.5),
        _drawn("flattened", "image 3x4x2 c2x2x2 tanh flatten 2"), _drawn("strided", "image 4x4x1 c2x2x2s2 tanh 2"),
    ]  # fmt: skip


def _drawn(id: str, kind: str, first: int = 0, **settings):
    """The first case that tells right from wrong in both dtypes, from the seed `first` on."""
    for seed in range(first, first + 200):
        size = {"inner_steps": 2, "tasks": 2, "inner_lr": 0.25, **settings}
        case = references.solve_if_good(cases.draw(kind, seed, id=id, **size), "float32")
        if case is not None:
            return case
    raise RuntimeError(f"no seed makes a case {id}")


def remembered(mine: Callable) -> Callable:
    """`mine`, asked once for each case: the cells ask again what the whole has asked."""
    known: dict = {}

    def asked(case):  # cases of one id have other numbers where they are asked again
        arrays = [*case.params.values(), *(a for batch in (*case.support, *case.query) for a in batch)]
        numbers = b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)
        key = (case.id, case.dtype, case.inner_steps, repr(case.inner_lr), numbers)
        if key not in known:
            known[key] = mine(case)
        return known[key]

    return asked


# ── each mistake, whole and by case ─────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass
class Row:
    """A mistake, made one way, in one dtype. `another`: it has the name of one that gives the same numbers in every
    case."""

    id: str
    form: int | None
    way: str
    dtype: str
    verdict: str
    bug: str | None
    ties: list[str]
    right: bool
    seconds: float
    cells: dict[str, str] = dataclasses.field(default_factory=dict)
    another: bool = False

    @property
    def seen(self) -> int:
        return sum(c in "●○◐X" for c in self.cells.values())

    @property
    def named(self) -> int:
        return sum(c in "●○◐" for c in self.cells.values())

    @property
    def as_another(self) -> int:
        return sum(c == "◐" for c in self.cells.values())


def expected(id: str) -> str:
    """The verdict that a mistake must get."""
    verdicts = {"convention": "CORRECT_OTHER_CONVENTION", "precision": "IMPRECISE"}
    return verdicts.get(CATALOGUE[id].kind, "KNOWN_BUG")


def whole(id: str, made, asked: list, dtype: str) -> tuple[Row, Callable]:
    """The verdict on the whole suite, and the answers' memory."""
    begun = time.perf_counter()
    mine = remembered(made.mine)
    report = oracle.check(mine, asked, dtype=dtype, capabilities=EVERYTHING)
    right = (report.verdict, report.bug, report.ties) == (expected(id), id, [])
    here = [case.with_dtype(dtype) for case in asked if dtype in case.dtypes]
    another = not right and report.bug is not None and gives_the_same(here, name_of(id, made), report.bug)
    seconds = time.perf_counter() - begun
    row = Row(id, made.form, made.way, dtype, report.verdict, report.bug, report.ties, right or another, seconds)
    row.another = another
    return row, mine


def name_of(id: str, made) -> str:
    return f"{id}/{made.form}" if made.form else id


def cell(id: str, name: str, mine: Callable, case, dtype: str) -> str:
    """One case's own verdict on the form `name` of a mistake, as a character."""
    if dtype not in case.dtypes:
        return " "
    case, known = case.with_dtype(dtype), case.answer.bugs
    if name not in known or name not in known.forms(dtype):
        return "·"
    if known[name] is None:
        return "~"
    if not shows(case, name):
        return "·"
    report = diagnose([questions.Question(case.id, case)], {case.id: questions.read_answer(case, mine(case))})
    if report.bug is None:
        return "X"
    said = [report.bug, *report.ties]
    if id in said:
        return "●" if len(said) == 1 else "○"
    return "◐" if any(gives_the_same([case], name, other) for other in said) else "X"


def gives_the_same(asked: list, name: str, other: str) -> bool:
    """Whether the mistake `other` has a form that gives the numbers of the form `name` on every case, to rounding."""
    known = [case.answer.bugs.forms(case.dtype) for case in asked]
    names = dict.fromkeys(n for forms_here in known for n in forms_here if n.split("/")[0] == other)
    return any(all(_same(case, value_of(case, name), value_of(case, n)) for case in asked) for n in names)


def _same(case, a: dict | None, b: dict | None) -> bool:
    """Whether two values are one, to rounding; what is not known is the same as what is not, either."""
    return a is b if a is None or b is None else fits(case, a, b)


def gives_numbers(mine: Callable, name: str, case) -> bool:
    """Whether the code gives an answer. Where the catalogue says that such code fails, since the weights behind a
    flatten are of another size, what it raises says enough; it would be the verdict."""
    if name in case.answer.bugs.forms(case.dtype):
        return True
    try:
        mine(case)
    except RuntimeError:
        return False
    return True


def ids() -> list[str]:
    """Every mistake that is made: in a way of `MADE`, or from call to call."""
    return list(dict.fromkeys([*MADE, "gradients_not_zeroed", "sum_over_tasks"]))


def control(id: str, asked: list, special: list, dtype: str, cells: bool = True) -> list[Row]:
    """A mistake in each way that it is made, if it shows: in float32 a rounding to float32 is none."""
    every, rows = asked + special if CATALOGUE[id].special or id in RISING else asked, []
    for made in MADE.get(id, []):
        name = name_of(id, made)
        here = [case.with_dtype(dtype) for case in every if dtype in case.dtypes]
        if made.form is not None and all(_same(c, value_of(c, name), c.answer.meta_grad) for c in here):
            continue
        these = [case for case in every if gives_numbers(made.mine, name, case.with_dtype(dtype))]
        row, mine = whole(id, made, these, dtype)
        if cells and made.form is not None:
            begun = time.perf_counter()
            row.cells = {c.id: cell(id, name, mine, c, dtype) for c in these}
            row.seconds += time.perf_counter() - begun
        rows.append(row)
    if id == "gradients_not_zeroed":  # it shows from call to call
        rows.append(_told(id, mistakes.NotZeroed(), "backward() without zero_grad()", asked, dtype))
    return rows + (sums(asked, dtype) if id == "sum_over_tasks" else [])


def sums(asked: list, dtype: str) -> list[Row]:
    """A sum over tasks is another convention if the meta-loss is that sum too, a mistake if it is not, or not told."""

    class SumOfBoth(MAML):
        def together(self, losses):
            return sum(losses)

    both = called(SumOfBoth)
    alone = _told("sum_over_tasks", lambda case: {"meta_grad": both(case)["meta_grad"]}, "no meta_loss", asked, dtype)
    row = _told("sum_over_tasks", both, "the meta_loss is the sum as well", asked, dtype)
    row.right = (row.verdict, row.bug) == ("CORRECT_OTHER_CONVENTION", "sum_over_tasks")
    return [alone, row]


def _told(id, mine, way, asked, dtype) -> Row:
    begun = time.perf_counter()
    report = oracle.check(mine, asked, dtype=dtype, capabilities=EVERYTHING)
    right = (report.verdict, report.bug, report.ties) == (expected(id), id, [])
    seconds = time.perf_counter() - begun
    return Row(id, None, way, dtype, report.verdict, report.bug, report.ties, right, seconds)


# ── two at once ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass
class Pair:
    """Two mistakes at once. `named`: exactly; "in part": one of them (the other hides, or is a factor); "no"."""

    pair: str
    verdict: str
    bug: str | None
    named: str
    seconds: float


def at_once(a: str, b: str) -> Callable:
    """Both mistakes by their formulas; a mistake in a layer that a case lacks has no effect there."""

    def mine(case):
        here = [form for name, form in forms(case).items() if name in (a, b)]
        return by_formula(combined(*here) if len(here) > 1 else (here or [{}])[0])(case)

    return mine


def pairs(asked: list, count: int, seed: int = 0) -> list[tuple[str, str]]:
    """`count` random pairs of forms that can be made together."""
    source, out, seen = random.Random(seed), [], set()
    possible = {n: f for case in asked for n, f in forms(case).items()}
    names = list(possible)
    while len(out) < count and len(seen) < len(names) ** 2:
        a, b = sorted(source.sample(range(len(names)), 2))
        a, b = names[a], names[b]
        both = combined(possible[a], possible[b])
        if (a, b) not in seen and both not in (None, possible[a], possible[b]) and a.split("/")[0] != b.split("/")[0]:
            out.append((a, b))
        seen.add((a, b))
    return out


def pair(a: str, b: str, asked: list) -> Pair:
    """What is said of two mistakes at once."""
    begun = time.perf_counter()
    with np.errstate(all="ignore"):
        report = oracle.check(at_once(a, b), asked)
    ids = {a.split("/")[0], b.split("/")[0]}
    said = set((report.bug or "").split(" + "))
    named = "exactly" if said == ids else "in part" if said & ids else "no"
    return Pair(f"{a} + {b}", report.verdict, report.bug, named, time.perf_counter() - begun)


# ── not in the catalogue ────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass
class Stranger:
    """A mistake that the catalogue does not have: what was said without its trace, and with it."""

    name: str
    verdict: str
    kind: str | None
    explanation: str
    location: str
    first: str
    right: bool
    seconds: float


def stranger(u: mistakes.Unknown, asked: list) -> Stranger:
    begun = time.perf_counter()
    report, traced = (oracle.check(mine, asked) for mine in (u.blind, u.mine))
    wanted = "IMPRECISE" if u.kind is None else "WRONG_UNKNOWN"
    text = " ".join([report.explanation, report.location, *report.notes])
    right = (report.verdict, report.kind) == (wanted, u.kind) and (traced.verdict, traced.kind) == (wanted, u.kind)
    right = right and bool(re.search(u.says, text)) and bool(re.search(u.first, traced.location))
    return Stranger(u.name, report.verdict, report.kind, report.explanation, report.location, traced.location,
                    right, time.perf_counter() - begun)  # fmt: skip


# ── the report ──────────────────────────────────────────────────────────────────────────────────────────────────────


def by_mistake(rows: list[Row], dtypes: list[str]) -> list[str]:
    """A line per mistake: ways right of ways made, cells right of cells seen, seconds, for each dtype."""
    lines = [f"{'mistake':26}" + "".join(f"  {d:>9}: ways    cells   s" for d in dtypes)]
    for id in dict.fromkeys(r.id for r in rows):
        line = f"{id:26}"
        for dtype in dtypes:
            these = [r for r in rows if r.id == id and r.dtype == dtype]
            right, named, seen = sum(r.right for r in these), sum(r.named for r in these), sum(r.seen for r in these)
            line += f"  {right:>11}/{len(these):<4} {named:>4}/{seen:<4} {sum(r.seconds for r in these):5.1f}"
        lines.append(line)
    return lines


def picture(rows: list[Row], dtype: str) -> list[str]:
    """A line per way, a character per case."""
    rows = [r for r in rows if r.dtype == dtype and r.cells]
    names = [r.id + (f"/{r.form}" if r.form else "") for r in rows]
    columns = list(dict.fromkeys(id for r in rows for id in r.cells))
    if len(columns) <= 40:
        heads = [f"{'':30}" + "│ " * i + "┌ " + id for i, id in enumerate(columns)]
        between = " "
    else:
        heads, between = [f"{len(columns)} cases, in the suite's order"], ""
    cells = [between.join(r.cells.get(c, "·") for c in columns) for r in rows]
    return heads + [f"{name:30}{line}" for name, line in zip(names, cells, strict=True)]


def text(result: dict, rows, two, unknown, dtypes) -> str:
    lines = by_mistake(rows, dtypes)
    for dtype in dtypes:
        lines += ["", dtype, *picture(rows, dtype)]
    for r in rows:
        if not r.right or r.named != r.seen:
            lines.append(f"WRONG  {r.dtype} {r.id}/{r.form} ({r.way}): {r.verdict} {r.bug or ''} {r.ties or ''}"
                         + "".join(f" {c}" for c, x in r.cells.items() if x == "X"))  # fmt: skip
    if two:
        lines += ["", f"pairs: {len(two)}, CORRECT: {result['pairs_correct']}, named exactly: {result['pairs_named']}, "
                  f"in part: {sum(p.named == 'in part' for p in two)}, as another: "
                  f"{sum(p.named == 'no' and p.verdict == 'KNOWN_BUG' for p in two)}, refused without a name: "
                  f"{sum(p.named == 'no' and p.verdict != 'KNOWN_BUG' for p in two)}"]  # fmt: skip
    if unknown:
        lines += ["", f"not in the catalogue: {sum(u.right for u in unknown)} of {len(unknown)} as they should be"]
    for u in unknown:
        first = f"; first in the trace: {u.first}" if u.first != u.location else ""
        said = u.explanation or u.location
        lines.append(f"{' ok  ' if u.right else 'WRONG'}  {u.name}: {u.verdict}, {u.kind or '-'}; {said}{first}")
    another = f"{result['ways_as_another']} and {result['cells_as_another']} as another that gives the same numbers"
    lines += ["", f"{result['right']} of {result['ways']} ways named, {result['cells_right']} of {result['cells']} "
              f"cells ({another}), in {result['seconds']:.0f} s"]  # fmt: skip
    return "\n".join(lines)


def markdown(result: dict, rows, two, unknown, dtypes) -> str:
    heads = " | ".join(f"{d}: ways named | cells" for d in dtypes)
    lines = [f"| mistake | {heads} |", "|---" * (1 + 2 * len(dtypes)) + "|"]
    for id in dict.fromkeys(r.id for r in rows):
        fields = []
        for dtype in dtypes:
            these = [r for r in rows if r.id == id and r.dtype == dtype]
            right, named, seen = sum(r.right for r in these), sum(r.named for r in these), sum(r.seen for r in these)
            fields += [f"{right} of {len(these)}", f"{named} of {seen}"]
        lines.append(f"| {id} | " + " | ".join(fields) + " |")
    for dtype in dtypes:
        lines += ["", dtype, "", "```", *picture(rows, dtype), "```"]
    if two:
        wrong, named = result["pairs_correct"], result["pairs_named"]
        lines += ["", f"{len(two)} random pairs: {wrong} taken for right, {named} named exactly."]
    if unknown:
        lines += ["", "| not in the catalogue | verdict | kind | said |", "|---|---|---|---|"]
        said = [(u.explanation or u.location).replace("|", "¦") for u in unknown]
        lines += [f"| {u.name} | {u.verdict} | {u.kind or ''} | {x} |" for u, x in zip(unknown, said, strict=True)]
    return "\n".join(lines) + "\n"


def run_all(args: argparse.Namespace, dtypes: list[str]) -> tuple[list[Row], list[Pair], list[Stranger]]:
    """Everything that is asked for; what `args.json` has of this state of the code is not asked again."""
    from tqdm import tqdm

    asked = {dtype: suite_of(args.suite, dtype) for dtype in dtypes}
    core, special = suite_of("core", "float64"), special_cases()
    names = [id for id in ids() if not args.only or id in args.only]
    two = [] if args.only else pairs(core, args.pairs)
    unknown = [] if args.only or args.no_unknown else UNKNOWN
    waiting: list[tuple[str, type, Callable[[], list]]] = [
        *((f"{dtype} {id}", Row, functools.partial(control, id, asked[dtype], special, dtype, not args.no_cells))
          for dtype in dtypes for id in names),
        *((f"pair {a} + {b}", Pair, lambda a=a, b=b: [pair(a, b, core)]) for a, b in two),
        *((f"unknown: {u.name}", Stranger, lambda u=u: [stranger(u, core)]) for u in unknown),
    ]  # fmt: skip
    kept, state = Kept(args.json), digest(map(Path(__file__).with_name, SOURCES), args.suite, args.no_cells)
    found: dict[type, list] = {Row: [], Pair: [], Stranger: []}
    with tqdm(waiting, unit="mistake", mininterval=0.1 if sys.stderr.isatty() else 30) as bar:
        for name, kind, run in bar:
            bar.set_postfix_str(name, refresh=False)
            if kept.of(name, state) is None:
                kept.add(name, state, {"found": [dataclasses.asdict(x) for x in run()]})
            found[kind] += [kind(**x) for x in kept.records[name]["found"]]
    return found[Row], found[Pair], found[Stranger]


def main(argv: list[str] | None = None) -> int:
    """The command; 0 if every verdict is the right one."""
    parser = argparse.ArgumentParser(prog="python -m bench.oracle matrix", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--suite", choices=cases.SUITES, default="core")
    parser.add_argument("--dtype", choices=("float64", "float32", "both"), default="both")
    parser.add_argument("--only", nargs="+", default=[], metavar="ID", help="make only these mistakes")
    parser.add_argument("--no-cells", action="store_true", help="do not ask each case alone")
    parser.add_argument("--pairs", type=int, default=200, help="random pairs of mistakes (200)")
    parser.add_argument("--no-unknown", action="store_true", help="leave out what the catalogue does not have")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results, and go on where they end")
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    parser.add_argument("--store", action="store_true", help="keep the counts in bench/results/stated, for the pages")
    args = parser.parse_args(argv)
    if args.store and (args.only or args.no_cells or args.suite != "core" or args.dtype != "both"):
        parser.error("--store is given with --only, --no-cells, --suite or --dtype, wanted the whole core")
    dtypes = list(UNIT) if args.dtype == "both" else [args.dtype]
    rows, two, unknown = run_all(args, dtypes)
    result = {
        "suite": args.suite, "ways": len(rows), "right": sum(r.right for r in rows),
        "cells": sum(r.seen for r in rows), "cells_right": sum(r.named for r in rows),
        "ways_as_another": sum(r.another for r in rows), "cells_as_another": sum(r.as_another for r in rows),
        "pairs": len(two), "pairs_correct": sum(p.verdict.startswith("CORRECT") for p in two),
        "pairs_named": sum(p.named == "exactly" for p in two), "pairs_part": sum(p.named == "in part" for p in two),
        "unknown": len(unknown), "unknown_right": sum(u.right for u in unknown),
        "by_formula": mistakes.BY_FORMULA, "seconds": sum(x.seconds for x in (*rows, *two, *unknown)),
    }  # fmt: skip
    print(text(result, rows, two, unknown, dtypes))
    if args.markdown:
        args.markdown.write_text(markdown(result, rows, two, unknown, dtypes), encoding="utf-8")
    if args.store:
        page.keep("matrix", {key: value for key, value in result.items() if isinstance(value, int)})
    all_of = [("right", "ways"), ("cells_right", "cells"), ("unknown_right", "unknown")]
    return 0 if all(result[a] == result[b] for a, b in all_of) and not result["pairs_correct"] else 1
