"""`pytest --maml-oracle=package.module:function`: one test a case.

With no path on the command line the oracle's tests are the only ones. `--maml-oracle-json=FILE` saves the report;
JUnit and the rest are pytest's own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest


def pytest_addoption(parser):
    group = parser.getgroup("maml-oracle", "is this the exact MAML gradient?")
    group.addoption("--maml-oracle", metavar="MODULE:FUNCTION", help="check this function: one test a case")
    group.addoption("--maml-oracle-suite", default="core", choices=("core", "full", "fresh"), help="which cases (core)")
    group.addoption("--maml-oracle-dtype", default="float64", choices=("float64", "float32"), help="(float64)")
    group.addoption("--maml-oracle-capability", action="append", default=[], help="see tinymaml.oracle.CAPABILITIES")
    group.addoption("--maml-oracle-timeout", type=float, default=60.0, help="seconds for one case (60)")
    group.addoption("--maml-oracle-json", metavar="FILE", help="save the report")


class Wrong(Exception):
    """A case failed, or the verdict is not CORRECT."""


class OracleItem(pytest.Item):
    """One case; `case` None is the verdict over all."""

    def __init__(self, *, case, report, **kwargs):
        super().__init__(**kwargs)
        self.case, self.report = case, report

    def runtest(self):
        if self.case is None:
            if self.report.verdict != "CORRECT":
                raise Wrong(str(self.report))
        elif not self.case.passed:
            because = f"{self.report.verdict} {self.report.bug or ''}".strip()
            raise Wrong(f"case {self.case.id}: off by {self.case.error:.2g} roundings; {self.case.fits}\n"
                        f"{because}: {self.report.explanation}")  # fmt: skip

    def repr_failure(self, excinfo, style=None):
        return str(excinfo.value) if isinstance(excinfo.value, Wrong) else super().repr_failure(excinfo)

    def reportinfo(self):
        return self.path, None, self.name


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(session, config, items):
    target = config.getoption("--maml-oracle")
    if not target:
        return
    from ..files import write_atomically
    from .protocol import check_program, resolve, worker

    try:
        resolve(target)
    except (ImportError, ValueError) as error:
        raise pytest.UsageError(f"--maml-oracle: {error}") from None
    report = check_program(  # in a process of its own: one that ends, with exit code 0 even, must not end pytest
        worker(target), config.getoption("--maml-oracle-suite"), config.getoption("--maml-oracle-dtype"),
        config.getoption("--maml-oracle-capability"), config.getoption("--maml-oracle-timeout"),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    saved = config.getoption("--maml-oracle-json")
    if saved:
        write_atomically(Path(saved), (report.to_json() + "\n").encode())
    if not config.args or config.args_source.name != "ARGS":
        items.clear()
    rows = [(f"oracle[{c.id}]", c) for c in report.cases] + [("oracle verdict", None)]
    items += [OracleItem.from_parent(session, name=name, case=c, report=report) for name, c in rows]
