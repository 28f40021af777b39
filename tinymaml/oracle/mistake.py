"""What the catalogue holds: a mistake, with its cause, what it computes, and the line to change."""

from __future__ import annotations

import dataclasses


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
        convention: a choice, not an error.
    """

    id: str
    computes: str
    explanation: str
    torch: str
    jax: str
    forms: tuple[dict, ...]
    seen: str = ""
    convention: bool = False
