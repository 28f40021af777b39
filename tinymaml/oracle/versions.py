"""The versions of what others build on, and the rule by which each number rises.

    VERSIONS["wire"]                 "2.0", in every question; an answer may say it, too
    misfit("3.1", "wire")            why what carries this version cannot be read here; "" if it can

A version is "major.minor". The major number rises when a program for the former one may now be misread or refused, the
minor one when something is only added. A digest in the tests stands beside each version: they fail when the content
changes and its version does not.
"""

from __future__ import annotations

import json
import re

VERSIONS = {"vectors": "2.1", "wire": "2.1", "catalogue": "2.10"}

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
