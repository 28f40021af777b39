"""The versions of what others build on, and the rule by which each number rises.

    VERSIONS["wire"]                 "2.0", in every question; an answer may say it, too
    misfit("3.1", "wire")            why what carries this version cannot be read here; "" if it can
    digest("wire")                   what changes with whatever carries this version

A version is "major.minor". The major number rises when what kept to the former one may now be misread or refused, the
minor one when something is only added. A digest in the tests stands beside each version: they fail when the content
changes and its version does not.
"""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np

VERSIONS = {"vectors": "2.0", "wire": "2.0", "catalogue": "2.0"}

# What makes the major number rise, and what the minor one.
RULES = {
    "vectors": ("a case or its answer changes, or goes", "cases are added"),
    "wire": ("a program for the former one would misread or be refused", "something is added"),
    "catalogue": ("a mistake is renamed, goes, or computes something else", "mistakes are added"),
}


def misfit(seen: object, of: str) -> str:
    """Why something of the version `seen` cannot be read by this package, in one line; "" if it can.

    Args:
        seen: what stands where the version is wanted.   of: one of VERSIONS.
    """
    here = VERSIONS[of]
    if not isinstance(seen, str) or not re.fullmatch(r"[0-9]{1,9}\.[0-9]{1,9}", seen):
        return f"the version of the {of} is {json.dumps(seen, default=repr)[:60]}, wanted {here!r}"
    if seen.split(".")[0] != here.split(".")[0]:
        return f"this is version {seen} of the {of}, and tinymaml here has {here}: use the two of one major number"
    return ""


def digest(of: str) -> str:
    """Twelve hex digits that change with whatever the version of `of` stands for."""
    content = {"vectors": _vectors, "wire": _wire, "catalogue": _catalogue}[of]()
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(x: object) -> object:
    return sorted(x) if isinstance(x, (set, frozenset)) else x.tolist() if isinstance(x, np.ndarray) else repr(x)


def _vectors() -> list:
    """Every case that ships, with its right answer; mistakes are the catalogue's."""
    from .cases import load, to_hex
    from .family import ALGORITHMS

    shipped = load("full") + [case for name in ALGORITHMS for case in load("core", algorithm=name)]

    left_out = {"comment"}
    return [
        {k: v for k, v in case.to_json(to_hex).items() if k not in left_out}
        | {"meta_loss": case.answer.meta_loss, "meta_grad": {n: to_hex(g) for n, g in case.answer.meta_grad.items()}}
        for case in shipped if case.answer is not None
    ]  # fmt: skip


def _wire() -> dict:
    """Names and types of all fields, layers and losses; not the words that explain them."""
    from . import models
    from .pages import spec

    fields = {what: {name: kind for name, (kind, _) in table.items()} for what, table in spec.FIELDS.items()}
    layers, losses = ({name: of[:-1] for name, of in table.items()} for table in (spec.LAYERS, spec.LOSSES))
    return {"fields": fields, "layers": layers, "losses": losses, "eps": models.EPS}


def _catalogue() -> list:
    """What each mistake is called and computes; not the words of its cause and fix."""
    from .catalogue import CATALOGUE

    return [[m.id, m.kind, m.computes, m.forms, m.free] for m in CATALOGUE.values()]
