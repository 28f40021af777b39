"""What the catalogue holds: a mistake, with its cause, what it computes, and the line to change."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple


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
    if free.switch in form.get("how", {}):
        return form | {"how": form["how"] | {free.switch: c}}
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
        free: the number that it leaves open, if any.
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

    @property
    def convention(self) -> bool:
        """Whether it is a choice, not an error."""
        return self.kind == "convention"
