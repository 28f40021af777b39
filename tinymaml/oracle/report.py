"""What an oracle says: a verdict, the cause, where to look; for a person (`print`) and for a program (`to_json`)."""

from __future__ import annotations

import dataclasses
import json
import re

from .catalogue import CATALOGUE

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
    """One case: `error` in roundings (see `tolerance`), and `fits`, the hypothesis nearest to the answer."""

    id: str
    passed: bool
    error: float = 0.0
    fits: str = ""


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
        cases: a CaseResult each.   skipped: capability → number of cases.
        notes: further remarks.
        framework: whose arrays the candidate asked for: "torch", "jax", "numpy"; "" if that is not known.
        seconds: how long it took.   asked: number of questions that were asked.
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
    seconds: float = 0.0
    asked: int = 0

    @property
    def exit_code(self) -> int:
        """0 for CORRECT alone."""
        return 0 if self.verdict == "CORRECT" else 1

    def to_json(self) -> str:
        """All of it, as one line of JSON."""
        data = dataclasses.asdict(self)
        for row in data["cases"]:
            row["error"] = float(f"{row['error']:.3g}") if row["error"] < float("inf") else None
        return json.dumps(data, ensure_ascii=False)

    def __str__(self) -> str:
        lines = [f"{self.verdict}" + (f"  {self.bug}" if self.bug else ""), f"  {VERDICTS[self.verdict]}"]
        if self.kind:
            lines.append(f"  kind       {self.kind}")
        if self.explanation:
            lines.append(f"  cause      {self.explanation}")
        for name in (self.bug or "").split(" + "):
            mistake = CATALOGUE.get(name)
            if mistake:
                lines += [f"  computes   {mistake.computes}", f"  PyTorch    {mistake.torch}",
                          f"  JAX        {mistake.jax}"]  # fmt: skip
        if self.location:
            lines.append(f"  where      {self.location}")
        if self.ties:
            lines.append(f"  or         {', '.join(self.ties)} (the same numbers in these cases)")
        passed = sum(c.passed for c in self.cases)
        skipped = "; ".join(f"{n} need {what!r}" for what, n in self.skipped.items())
        count = f"{passed} of {len(self.cases)} cases right" + (f", skipped: {skipped}" if skipped else "")
        lines.append(f"  {self.suite}, {self.dtype}: {count}")
        lines += [f"  note       {note}" for note in self.notes]
        wrong = [c for c in self.cases if not c.passed]
        if wrong:
            width = max(len(c.id) for c in wrong)
            lines.append(f"  {'case':{width}}  off by (roundings)  fits")
            lines += [f"  {c.id:{width}}  {c.error:18.2g}  {c.fits}" for c in wrong[:20]]
            if len(wrong) > 20:
                lines.append(f"  … and {len(wrong) - 20} more")
        return "\n".join(map(_one_line, lines))


def _one_line(text: str) -> str:
    """Text of others must not look like a verdict, nor steer the terminal."""
    text = re.sub(r"\s*[\r\n]\s*", " ", text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
