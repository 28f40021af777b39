"""The algorithms of the family as people write them, and their mistakes, made in code: `loops` has those that
differentiate through an inner loop, and each other one has a module.

    HONEST["imaml"]      implementations that are right, by different ways
    MADE["imaml"]        [(class, ids of the mistake, any of which is its name), …]

`of_tasks` has the parts that all share. Nothing here reads an answer, or calls the oracle's formulas. Each class is a
candidate: `Right(case)()` is an answer, and `answers(Right)` a function for `oracle.check`. `loops` has tables of its
own.
"""

from __future__ import annotations

from . import hessian_free, imaml, proximal, reptile, rl, sharp
from .of_tasks import answers

MODULES = {
    "imaml": imaml,
    "reptile": reptile,
    "hessian-free": hessian_free,
    "sharp": sharp,
    "proximal": proximal,
    "rl": rl,
}
HONEST = {name: module.HONEST for name, module in MODULES.items()}
MADE = {name: module.MADE for name, module in MODULES.items()}

__all__ = ["HONEST", "MADE", "answers"]
