"""What the catalogue holds: a mistake, with its cause, what it computes, and the line to change."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

KINDS = ("bug", "convention", "precision")


class Free(NamedTuple):
    """A number that a mistake leaves open, such as the λ of a weight decay.

    Attributes:
        switch: what it is in a form: a switch, or an option under "how".
        symbol: how it is written in `computes`.
        typical: values to start from, the usual ones first; forms hold the first.
        integer: whether it is a count.
    """

    switch: str
    symbol: str
    typical: tuple[float, ...]
    integer: bool = False


def with_number(form: dict, free: Free, c: float) -> dict:
    """The form with its free number set to c."""
    for name, inside in form.items():  # "how", "case"
        if isinstance(inside, dict) and free.switch in inside:
            return form | {name: inside | {free.switch: c}}
    return form | {free.switch: c}


@dataclasses.dataclass(frozen=True)
class Mistake:
    """
    Attributes:
        id: its name.
        computes: what the code computes instead, as a formula.
        explanation: the cause, in a sentence.
        torch, jax: the line to change, in each one's idiom.
        forms: settings of the switches of `semantics.run`, and of `Options` under "how"; of an algorithm of the family,
            of its own switches.
        seen: where.
        kind: "bug"; "convention", a choice, not an error; or "precision", what is right is rounded.
        free: the number that it leaves open, if any; the forms hold its most usual value.
        special: only cases of their own can see it; a set of cases that is blind to it still proves something.
        shows: the switch or option whose value says which of the forms it is, in words; a report adds it.
        classic: a case is admitted for a dtype only if this mistake gives a clearly other gradient there, or the same
            one. Of the others there are many, and some are next to right.
        part_of: the id of a mistake of which this is a part; where both explain all answers, that one is named.
    """

    id: str
    computes: str
    explanation: str
    torch: str
    jax: str
    forms: tuple[dict, ...]
    seen: str = ""
    kind: str = "bug"
    free: Free | None = None
    special: bool = False
    shows: str = ""
    classic: bool = True
    part_of: str = ""

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"the kind of {self.id} is {self.kind!r}, wanted one of {', '.join(KINDS)}")

    def which(self, form: dict) -> str:
        """What is special to one of several forms, in words; "" if nothing is to be said."""
        said = form.get(self.shows) or form.get("how", {}).get(self.shows)
        return f" (here {said})" if isinstance(said, str) else ""

    @property
    def convention(self) -> bool:
        """Whether it is a choice, not an error."""
        return self.kind == "convention"
