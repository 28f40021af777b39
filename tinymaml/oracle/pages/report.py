"""The oracle's report: a verdict, the cause, where to look; for a person (`print`) and a program (`to_json`)."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import textwrap

import numpy as np

from ..cases import CAPABILITIES
from ..catalogue import CATALOGUE
from ..clues.evidence import Evidence
from ..clues.locate import element
from ..tolerance import TAU
from ..versions import VERSIONS
from .snippet import Unwritable, python_program

WIDTH = 100
SMALL = 12  # numbers of a case that are all compared; of a larger one, each parameter's worst
MOST, FEW = 20, 5  # rows of a table; of messages that are much alike

VERDICTS = {
    "CORRECT": "the meta-gradient is right to rounding in every case",
    "CORRECT_OTHER_CONVENTION": "right, under another convention than the cases'",
    "KNOWN_BUG": "a mistake of the catalogue (or two) explains every case",
    "WRONG_UNKNOWN": "wrong, and not as anything in the catalogue",
    "IMPRECISE": "right, but to fewer digits than the dtype has",
    "INCONCLUSIVE": "nothing wrong was seen, by cases that could not have seen everything",
    "NONDETERMINISTIC": "asked twice, it gave two answers",
    "PROTOCOL_ERROR": "no answer that could be judged",
    "SKIPPED": "every case needs a capability that was not declared",
}


@dataclasses.dataclass
class CaseResult:
    """One case: `error` in roundings (see `tolerance`), `relative` to its largest element, and `fits`, the hypothesis
    nearest to the answer."""

    id: str
    passed: bool
    error: float = 0.0
    fits: str = ""
    relative: float = 0.0


@dataclasses.dataclass
class Report:
    """
    Attributes:
        verdict: one of VERDICTS.   bug: the id of the mistake or convention ("a + b" for two at once), or None.
        explanation: the cause, in words.   location: where the first or worst error is.
        kind: of a WRONG_UNKNOWN: "right derivative of another objective", "wrong derivative", "forward differs";
            or None.
        ties: other ids that explain the answers as well.
        digits: decimal digits that agree, at worst.
        cases: one CaseResult per case.   skipped: capability → number of cases.
        notes: further remarks.
        framework: "torch", "jax", "numpy", or "" if it is unknown: the library whose arrays the candidate asked for.
        factor: what the mistake's value is multiplied by in every case, e.g. "1/T"; "" for 1.
        numbers: of a mistake with a free number: its symbol → the number found, or a size of each case, such as "1/T".
        algorithm: whose meta-gradient was asked for.   formula: that of the right one; "" for MAML's.
        evidence: the smallest failing case, with yours and the right answer.
        shared: what all "wrong" (all "right") cases have, and not all others.   covered: what the cases vary.
        asked: number of questions, repeats of a case included.   seconds: how long it took, or None.
    """

    verdict: str
    bug: str | None = None
    explanation: str = ""
    location: str = ""
    kind: str | None = None
    ties: list[str] = dataclasses.field(default_factory=list)
    digits: float | None = None
    suite: str = "core"
    dtype: str = "float64"
    cases: list[CaseResult] = dataclasses.field(default_factory=list)
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    framework: str = ""
    factor: str = ""
    numbers: dict[str, float | str] = dataclasses.field(default_factory=dict)
    algorithm: str = "maml"
    formula: str = ""
    evidence: Evidence | None = None
    shared: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    covered: dict = dataclasses.field(default_factory=dict)
    asked: int = 0
    seconds: float | None = None

    @property
    def exit_code(self) -> int:
        """0 for CORRECT alone."""
        return 0 if self.verdict == "CORRECT" else 1

    def to_json(self) -> str:
        """All of it, as one line of JSON."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)} | {"versions": VERSIONS}
        data["evidence"] = self.evidence and self.evidence.to_json()
        data["cases"] = [dataclasses.asdict(row) for row in self.cases]
        for row in data["cases"]:
            row |= {what: float(f"{row[what]:.3g}") if row[what] < float("inf") else None
                    for what in ("error", "relative")}  # fmt: skip
        return json.dumps(data, ensure_ascii=False)

    def __str__(self) -> str:
        blocks = [self._title(), self._formulas(), self._smallest(), self._sides(), self._rows(), self._notes()]
        return "\n\n".join("\n".join(map(_one_line, block)) for block in blocks if block)

    def in_short(self) -> str:
        """The verdict, the cause, and the line to change: how its text begins."""
        blocks = [self._title(), self._formulas()]
        return "\n\n".join("\n".join(map(_one_line, block)) for block in blocks if block)

    # ── the blocks of the text, each a list of lines ────────────────────────────────────────────────────────────────

    def _title(self) -> list[str]:
        return [f"{self.verdict}" + (f"  {self.bug}" if self.bug else ""), *_wrapped(self._sentence(), 2)]

    def _sentence(self) -> str:
        """Name the errors in one sentence; equal clauses are said once."""
        clauses = list(dict.fromkeys(filter(None, self.explanation.split("; "))))
        if not clauses or self.verdict in ("CORRECT_OTHER_CONVENTION", "IMPRECISE"):
            clauses = [VERDICTS[self.verdict] + (":" if clauses else ""), *clauses]
        text = "; ".join(clauses).replace(":; ", ": ")
        names = self.evidence.yours if self.evidence else ()
        first = text.split()[0].strip(",:")
        if first.isalpha() and first not in names:
            text = text[0].upper() + text[1:]
        return text + ("" if text.endswith((".", "!", "?", "…")) else ".")

    def _formulas(self) -> list[str]:
        """Computed and right, one below the other; the fix; where, and what else it may be."""
        if self.verdict == "CORRECT":
            return self._covered()
        mistakes = [CATALOGUE[name] for name in (self.bug or "").split(" + ") if name in CATALOGUE]
        lines = []
        if mistakes:
            lines += _beside("computed", *map(self._computed, mistakes))
            if self.verdict != "CORRECT_OTHER_CONVENTION":
                lines += _beside("right", *(self.formula.split(",   ") if self.formula else _right(self.evidence)))
            lines += _beside("fix", *(line for mistake in mistakes for line in self._fixes(mistake)))
        lines += _beside("kind", self.kind) if self.kind else []
        lines += _beside("where", self.location) if self.location and not mistakes else []
        lines += _beside("or", f"{', '.join(self.ties)} (the same numbers in these cases)") if self.ties else []
        return lines

    def _computed(self, mistake) -> str:
        several = f"{mistake.id}: " if mistake.id != self.bug else ""
        factor = f", times {self.factor}" if self.factor else ""
        return (
            several
            + mistake.computes
            + factor
            + "".join(f",  {x} = {n if isinstance(n, str) else f'{n:.6g}'}" for x, n in self.numbers.items())
        )

    def _fixes(self, mistake) -> list[str]:
        """The fix in the framework that was used; in both where it is unknown, or where they are the same."""
        several = f"{mistake.id}: " if mistake.id != self.bug else ""
        if self.framework == "torch" or mistake.torch == mistake.jax:
            return [several + mistake.torch]
        if self.framework == "jax":
            return [several + mistake.jax]
        return [f"{several}in PyTorch, {mistake.torch}", f"{several}in JAX, {mistake.jax}"]

    def _covered(self) -> list[str]:
        """Say what CORRECT rests on, and what it leaves open."""
        lines, seen = [], self.covered
        if self.cases:
            worst, off = max(self.cases, key=lambda c: c.error), max(self.cases, key=lambda c: c.relative)
            lines += _beside("worst", f"{off.relative:.1e} relative, in {off.id}; {worst.error:.2g} roundings, in "
                             f"{worst.id} ({TAU:g} are allowed)")  # fmt: skip
        if seen:
            several = lambda name: ", ".join(f"{n:g}" for n in seen[name])  # noqa: E731
            low, high = seen["inner_lr"]
            rates = f"α = {low:g}" if low == high else f"α from {low:g} to {high:g}"
            lines += _beside(
                "covered", self._asked(), f"K = {several('inner_steps')}; T = {several('tasks')}; {rates}",
                f"{_count(seen['models'], 'model')}: {', '.join(seen['layers'])}",
                f"losses: {', '.join(seen['losses'])}",
            )  # fmt: skip
        lines += self._skipped()
        left = []
        if seen and self.algorithm == "maml":
            left = [what for what in CAPABILITIES if what not in (*self.skipped, *seen["needs"])]
        more = [f"{', '.join(left)} (--suite full with --capability NAME)"] if left else []
        more += [f"{d} (--dtype {d})" for d in ("float64", "float32") if d != self.dtype]
        return lines + _beside("not asked", "; ".join(more))

    def _asked(self) -> str:
        """How many cases, of what, in how long."""
        parts = [counted(len(self.cases), max(self.asked - len(self.cases), 0)), self.suite, self.dtype]
        return ", ".join(parts) + (f", {self.seconds:.1f} s" if self.seconds is not None else "")

    def _smallest(self) -> list[str]:
        """The smallest failing case as a program, and a table of its parameters."""
        if self.evidence is None:
            return []
        case = self.evidence.case
        lines = [f"# ── {case.id}, the smallest case that fails: paste this into a file, and run it ──"]
        try:
            lines += python_program(self.evidence, self.framework or "numpy").split("\n") + ["# ──", ""]
        except Unwritable as why:
            lines = _wrapped(f"The smallest case that fails is {case.id}; {why}. `tinymaml oracle show {case.id}` "
                             "lays it out.", 2) + [""]  # fmt: skip
        return lines + compared(self.evidence)

    def _sides(self) -> list[str]:
        """Which cases are wrong and which are right, and what each side has in common."""
        if self.verdict == "CORRECT" or not any(c.error < float("inf") for c in self.cases):
            return []
        lines = _wrapped(f"{self._asked()}:", 2)
        count, split = len(self.cases), "exactly" in self.explanation
        for side, these in (("wrong", [c for c in self.cases if not c.passed]),
                            ("right", [c for c in self.cases if c.passed])):  # fmt: skip
            said = "none" if not these else "all" if len(these) == count else f"{len(these)}"
            common = [] if split else self.shared.get(side, [])
            if common:
                said += f", exactly the cases with {_listed(common)}"
                split = True  # the other side has the opposite
            if side == "right" and 0 < len(these) < count:
                more = f", and {len(these) - 12} more" if len(these) > 12 else ""
                said += f": {', '.join(c.id for c in these[:12])}{more}"
            lines += _beside(side, said)
        return lines + self._skipped()

    def _skipped(self) -> list[str]:
        """Name the cases that were left out for want of a capability, with the flag that adds it."""
        said = [f"{_count(n, 'case')} (--capability {what})" if what in CAPABILITIES else
                f"{_count(n, 'case')} that {what} alone can judge" for what, n in self.skipped.items()]  # fmt: skip
        return _beside("skipped", "; ".join(said)) if said else []

    def _rows(self) -> list[str]:
        """The wrong cases: digits and relative errors first, roundings second."""
        wrong = [c for c in self.cases if not c.passed]
        if not wrong:
            return []
        width = min(max(4, *(len(c.id) for c in wrong)), 40)
        if all(c.error == float("inf") and not c.relative for c in wrong):  # no numbers came
            return [line for c in wrong[:FEW] for line in _row(f"  {c.id:{width}}  ", c.fits)] + _and_more(wrong, FEW)
        fits = "fits" if {c.fits for c in wrong} - {"", self.bug} else ""
        lines = [f"  {'case':{width}}  digits  relative  roundings  {fits}".rstrip()]
        for c in wrong[:MOST]:
            numbers = f"{_digits(c.relative):>6}  {c.relative:8.1e}  {c.error:9.2g}"
            lines += _row(f"  {c.id:{width}}  {numbers}  ", c.fits if fits else "")
        return lines + _and_more(wrong, MOST)

    def _notes(self) -> list[str]:
        said, of = set(self.explanation.split("; ")), {}
        stderr = [note.removeprefix("stderr: ") for note in self.notes if note.startswith("stderr: ")]
        for note in self.notes:
            named = re.fullmatch(r"(meta_grad)\['(.*?)'\](.*)", note) or re.fullmatch("()()(.*)", note, re.DOTALL)
            if not note.startswith("stderr: "):
                of.setdefault((named[1], named[3]), []).append(named[2])
        notes = [f"{what}[{', '.join(dict.fromkeys(names))}]{rest}" if what else rest
                 for (what, rest), names in of.items()]  # fmt: skip
        lines = [line for note in notes if note not in said for line in _beside("note", note)]
        return lines + (_beside("stderr", *stderr) if stderr else [])


def compared(evidence: Evidence) -> list[str]:
    """Yours beside right: every number of a small case, of a larger one the worst of each parameter."""
    count = sum(g.size for g in evidence.right.values())
    rows = [("parameter", "shape", "yours", "right", "ratio", "digits")]
    for name, right in list(evidence.right.items())[:MOST]:
        yours, shape = evidence.yours[name], " × ".join(map(str, right.shape)) or "scalar"
        places = list(np.ndindex(right.shape))
        if count > SMALL and places:
            places = [np.unravel_index(np.argmax(np.abs(yours - right)), right.shape)]
        for at in places:
            g, r = float(yours[at]) + 0, float(right[at]) + 0  # −0 is 0
            ratio = f"{g / r:.11g}" if r else "–"
            rows.append((element(name, at), shape, f"{g:.9g}", f"{r:.9g}", ratio, _digits(_relative(g, r))))
    loss, wanted = evidence.meta_loss, evidence.case.answer.meta_loss
    if loss is not None:
        ratio = f"{loss / wanted:.11g}" if wanted else "–"
        rows.append(("meta_loss", "", f"{loss:.9g}", f"{wanted:.9g}", ratio, _digits(_relative(loss, wanted))))
    widths = [min(max(len(row[i]) for row in rows), 32) for i in range(6)]
    sides = "<<>>>>"
    cells = [[f"{x[:w]:{side}{w}}" for x, side, w in zip(row, sides, widths, strict=True)] for row in rows]
    lines = ["  " + "  ".join(row).rstrip() for row in cells]
    furthest = ["  (of each parameter the element that is furthest from right)"] if count > SMALL else []
    return lines + _and_more(list(evidence.right), MOST) + furthest


def _row(start: str, text: str) -> list[str]:
    """The start of a row, and text that is wrapped in the last column."""
    return textwrap.wrap(_one_line(text), WIDTH, initial_indent=start, subsequent_indent=" " * len(start),
                         break_on_hyphens=False) or [start.rstrip()]  # fmt: skip


def _and_more(rows: list, most: int) -> list[str]:
    return [f"  … and {len(rows) - most} more"] if len(rows) > most else []


def counted(cases: int, repeats: int) -> str:
    """The one way of counting: a case has a known answer; a repeat asks a case again, as it is or a little changed."""
    return _count(cases, "case") + (f" and {_count(repeats, 'repeat')}" if repeats else "")


def _right(evidence: Evidence | None) -> list[str]:
    """The right formula, with the letters that the case needs, and what they are."""
    case = evidence.case if evidence else None
    if case and case.first_order:
        return ["1/T Σₜ g_q(θ_K)   (first-order MAML)"]
    a = "A" if case and (isinstance(case.inner_lr, dict) or case.adapt is not None) else "α"
    first, last = (f"I − αH{k}" if a == "α" else f"I − H{k}A" for k in ("₀", "_{K−1}"))
    return [f"1/T Σₜ ({first})…({last}) g_q(θ_K)", f"θₖ₊₁ = θₖ − {a} g_s(θₖ),  Hₖ = ∇²L_s(θₖ)"]


def _relative(got: float, right: float) -> float:
    return 0.0 if got == right else abs(got - right) / abs(right) if right else float("inf")


def _digits(relative: float) -> str:
    """Decimal digits that agree."""
    return "all" if relative == 0 else f"{min(-math.log10(relative), 17.0):.1f}" if relative < 1 else "0.0"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "s")


def _beside(label: str, *texts: str) -> list[str]:
    """A label, and texts in the column beside it, each from a new line."""
    lines = [line for text in texts
             for line in textwrap.wrap(_one_line(text), WIDTH - 13, break_on_hyphens=False) or [""]]  # fmt: skip
    return [f"  {'' if i else label:11}{line}".rstrip() for i, line in enumerate(lines)]


def _wrapped(text: str, indent: int) -> list[str]:
    start = " " * indent
    return textwrap.wrap(_one_line(text), WIDTH, initial_indent=start, subsequent_indent=start, break_on_hyphens=False)


def _one_line(text: str) -> str:
    """Text of others must not look like a verdict, nor steer the terminal."""
    text = re.sub(r"\s*[\r\n]\s*", " ", text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
