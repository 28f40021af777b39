"""`pytest --maml-oracle=package.module:function`: one test per case.

With no path on the command line the oracle's tests are the only ones, and nothing else is collected. `-k tanh` asks
only the cases of that name; `-x` stops at the first wrong one. The output of the candidate is its tests' captured
standard error. `--maml-oracle-json=FILE` saves the report; JUnit and the rest are pytest's own.

The candidate is not imported here, nor is it judged here: a process of its own judges (`protocol.main`), and the
candidate is in a third one. Imports of a conftest.py or of a test are in pytest's own process, which nothing can
protect.
"""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path

import pytest


def pytest_addoption(parser):
    group = parser.getgroup("maml-oracle", "is this the exact MAML gradient?")
    group.addoption("--maml-oracle", metavar="MODULE:FUNCTION", help="check this function: one test per case")
    group.addoption("--maml-oracle-algorithm", default="maml", metavar="NAME", help="the algorithm to ask for (maml)")
    group.addoption("--maml-oracle-suite", default="core", choices=("core", "full", "fresh"), help="its cases (core)")
    group.addoption(
        "--maml-oracle-dtype", default="float64", choices=("float64", "float32"), help="dtype of the cases (float64)"
    )
    group.addoption("--maml-oracle-capability", action="append", default=[], help="see tinymaml.oracle.CAPABILITIES")
    group.addoption("--maml-oracle-timeout", type=float, default=60.0, help="seconds for one case (60)")
    group.addoption("--maml-oracle-seed", type=int, help="seed of the new cases (another each time)")
    group.addoption("--maml-oracle-json", metavar="FILE", help="save the report")


class Wrong(Exception):
    """A case failed, or the verdict is not CORRECT."""


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config):
    """A conftest.py is imported by pytest itself, next."""
    target = getattr(early_config.known_args_namespace, "maml_oracle", None) or ""
    if "conftest" in target.partition(":")[0].split("."):
        raise pytest.UsageError(
            f"--maml-oracle={target}: pytest imports conftest.py into its own process, where it could say anything "
            "about itself; move the function to another module"
        )


def pytest_configure(config):
    if config.getoption("--maml-oracle") and config.args_source.name != "ARGS":
        config.args = []  # nothing else is collected


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session, config, items):
    target = config.getoption("--maml-oracle")
    if not target:
        return
    from ..questions import case_ids
    from .worker import command

    judgement = Judgement(config)
    suite, dtype, capabilities, seed, algorithm = (
        judgement.settings[k] for k in ("suite", "dtype", "capabilities", "seed", "algorithm")
    )
    try:
        command(target)
        judgement.all = case_ids(suite, dtype, tuple(capabilities), seed, algorithm)
    except (ValueError, ImportError) as error:
        raise pytest.UsageError(f"--maml-oracle: {error}") from None
    rows = [(f"oracle[{id}]", id) for id in judgement.all] + [("oracle verdict", None)]
    items += [OracleItem.from_parent(session, name=name, case=c, judgement=judgement) for name, c in rows]


class OracleItem(pytest.Item):
    """One case; `case` None is the verdict over all."""

    def __init__(self, *, case, judgement, **kwargs):
        super().__init__(**kwargs)
        self.case, self.judgement = case, judgement

    def runtest(self):
        judged = self.judgement.of(self.session)
        if judged.words:
            self.add_report_section("call", "stderr", judged.words)
            judged.words = ""
        if self.case is None:
            if judged.report["verdict"] != "CORRECT":
                raise Wrong(judged.text)
            return
        row = judged.rows.get(self.case)
        if row is None and judged.is_told_by(self):
            raise Wrong(judged.said)
        if row is None:
            pytest.skip(f"no verdict on this case: {judged.said}")
        if not row["passed"]:
            raise Wrong(f"case {self.case}: {_off(row)}" + (f"\n{judged.said}" if row["error"] is not None else ""))

    def repr_failure(self, excinfo, style=None):
        return str(excinfo.value) if isinstance(excinfo.value, Wrong) else super().repr_failure(excinfo)

    def reportinfo(self):
        return self.path, None, self.name


def _live(words: bytes) -> None:
    sys.stderr.write(words.decode(errors="replace"))


def _off(row: dict) -> str:
    if row["error"] is None:  # there is no answer, and `fits` says why
        return row["fits"]
    return f"off by {row['error']:.2g} roundings" + (f"; {row['fits']}" if row["fits"] else "")


class Judgement:
    """The report on the cases that pytest has selected, made once, when the first of their tests runs."""

    def __init__(self, config):
        option = lambda name: config.getoption(f"--maml-oracle-{name}")  # noqa: E731
        seed = option("seed")
        if seed is None and hasattr(config, "workerinput"):  # pytest-xdist: all of its processes ask the same
            seed = int(config.workerinput["testrunuid"], 16) % 2**32
        self.settings = {
            "target": config.getoption("--maml-oracle"), "suite": option("suite"), "dtype": option("dtype"),
            "algorithm": option("algorithm"), "capabilities": option("capability"), "timeout": option("timeout"),
            "folders": [p for p in sys.path if p], "seed": secrets.randbelow(2**32) if seed is None else seed,
        }  # fmt: skip
        self.saved, self.live = option("json"), config.getoption("capture") == "no"
        self.all, self.report, self.rows, self.text, self.words, self._told = [], None, {}, "", "", None

    def of(self, session) -> Judgement:
        """Itself, once there is a report."""
        if self.report is None:
            selected = [i.case for i in session.items if isinstance(i, OracleItem) and i.case is not None]
            self._judge(selected if 0 < len(selected) < len(self.all) else [], session.config.getoption("maxfail") == 1)
        return self

    @property
    def said(self) -> str:
        """Verdict and cause, in one line."""
        return f"{self.report['verdict']} {self.report['bug'] or ''}".strip() + f": {self.report['explanation']}"

    def is_told_by(self, item: OracleItem) -> bool:
        """Whether this test is the one that fails because no case has a verdict."""
        if not self.rows.keys() & set(self.all):
            self._told = self._told or item
        return self._told is item

    def _judge(self, cases: list[str], fail_fast: bool) -> None:
        from ...files import write_atomically
        from .apart import command
        from .guard import Guarded

        settings = json.dumps({**self.settings, "cases": cases, "fail_fast": fail_fast})
        judge = command("tinymaml.oracle.judge.protocol", settings, isolated=True)
        with Guarded(judge, echo=_live if self.live else None) as process:
            process.stdin.close()
            output = process.stdout.read(1 << 24)
            code = process.wait(2.0)
        self.words = process.said()
        try:
            (line,) = output.decode().splitlines()  # the candidate could have written another
            data = json.loads(line)
            self.report, self.text = data["report"], data["text"]
            self.rows = {row["id"]: row for row in self.report["cases"]}
            if (code == 0) != (self.report["verdict"] == "CORRECT"):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            last = (self.words.splitlines() or ["without a word"])[-1]
            said = f"the process that judges ended with exit code {code}, and without a report: {last}"
            self.report, self.rows = {"verdict": "PROTOCOL_ERROR", "bug": None, "explanation": said}, {}
            self.text = self.said
        if self.saved:
            write_atomically(Path(self.saved), (json.dumps(self.report, ensure_ascii=False) + "\n").encode())
