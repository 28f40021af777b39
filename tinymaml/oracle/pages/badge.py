"""A badge for a repository: what the oracle said, as small JSON files that a CI job publishes.

    tinymaml oracle badge package.module:function --to badge.json

`badge.json` holds the facts, beside them what a badge shows; `badge.shields.json` holds the latter alone, because an
endpoint badge of shields.io refuses a file with any other field. A workflow that checks every push, and publishes both
in the branch `badges`:

    on: {push: {branches: [main]}}
    permissions: {contents: write}
    jobs: {oracle: {runs-on: ubuntu-latest, steps: [{uses: actions/checkout@v4},
      {run: pip install tinymaml torch && tinymaml oracle badge mine:maml --to public/badge.json},
      {if: always(), uses: peaceiris/actions-gh-pages@v4,
       with: {github_token: "${{ github.token }}", publish_branch: badges}}]}}

The badge is then

    https://img.shields.io/endpoint?url=https://raw.githubusercontent.com/OWNER/NAME/badges/badge.shields.json
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from ... import __version__
from ...files import naming, write_atomically
from ..versions import VERSIONS
from .report import Report

# Verdict → (what the badge says, its colour); the bug's id stands for {bug}.
FACES = {
    "CORRECT": ("exact", "brightgreen"),
    "CORRECT_OTHER_CONVENTION": ("exact, but {bug}", "green"),
    "KNOWN_BUG": ("wrong: {bug}", "red"),
    "WRONG_UNKNOWN": ("wrong", "red"),
    "IMPRECISE": ("imprecise", "orange"),
    "INCONCLUSIVE": ("not proved", "lightgrey"),
    "NONDETERMINISTIC": ("not deterministic", "red"),
    "PROTOCOL_ERROR": ("no answer", "red"),
    "SKIPPED": ("skipped", "lightgrey"),
}


def face(report: Report) -> dict:
    """The content of the badge, in the fields of shields.io's endpoint (https://shields.io/badges/endpoint-badge)."""
    message, color = FACES[report.verdict]
    label = "meta-gradient" if report.algorithm == "maml" else f"meta-gradient ({report.algorithm})"
    return {"schemaVersion": 1, "label": label, "message": message.format(bug=report.bug), "color": color}


def facts(report: Report, seconds: float) -> dict:
    """The record behind the badge: what was checked, by what, when, and with what result."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "tinymaml": __version__, "versions": VERSIONS, "suite": report.suite, "dtype": report.dtype,
        "algorithm": report.algorithm, "verdict": report.verdict, "bug": report.bug,
        "cases": len(report.cases), "right": sum(c.passed for c in report.cases), "skipped": report.skipped,
        "seconds": round(seconds, 2), "date": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }  # fmt: skip


def make_place(path: Path) -> None:
    """Make the folder of `path`; to be called before the check, which takes a while.

    Raises:
        OSError: it cannot be made, or `path` is a folder itself.
    """
    with naming("make the folder of", path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, wanted a file for the badge")


def write(path: Path, report: Report, seconds: float) -> None:
    """Write the facts to `path`, and what shields.io reads beside it, each at once or not at all."""
    shown = face(report)
    for place, content in ((path, facts(report, seconds) | shown), (beside(path), shown)):
        write_atomically(place, (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())


def beside(path: Path) -> Path:
    """badge.json → badge.shields.json"""
    return path.with_name(f"{path.stem}.shields.json")
