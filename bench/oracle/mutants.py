"""Mutation testing: plant one small error at a time, and see whether a test falls.

    python -m bench.oracle mutants                      # rules, maml, engine and checker
    python -m bench.oracle mutants maml --jobs 2        # one target
    python -m bench.oracle mutants rules --list         # every mutant, with its id; nothing is run
    python -m bench.oracle mutants rules --only 3f2a91c # one of them; --json FILE keeps all that was seen
    python -m bench.oracle mutants checker --sample 170 --json FILE        # so many, drawn by their ids; resumable
    python -m bench.oracle mutants maml --by oracle     # does `oracle.check` refuse tinymaml's own, mutated MAML?

A mutant is the source with one piece of text replaced (`mutations`); what compiles to the same bytecode as the source
or as another mutant is left out, and so are docstrings, annotations, error messages, `assert`, `strict=`, and what
describes a primitive to `programs`. Each is run in a process of its own, forked before tinymaml was imported, in which
an import hook compiles the changed text as the module: the source tree is never written to. Only tests that call the
changed function are run, the quickest first; a failing test, an error on import, a crash or a time-out kills.

What survives is a hole in the tests, or no error at all. The latter are in EQUIVALENT, each with its reason; the
command succeeds only if every survivor is there. With `--by oracle` a changed copy of tinymaml answers the oracle,
which runs on an unchanged one: whatever changes one bit of one answer must be refused.
"""

from __future__ import annotations
import __future__

import argparse
import ast
import contextlib
import functools
import hashlib
import importlib
import json
import os
import queue
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Target(NamedTuple):
    """Files to plant errors in, and the test files that should see them, in stages: those that usually kill first."""

    files: tuple[str, ...]
    stages: tuple[tuple[str, ...], ...]
    root: Path = ROOT
    leave_out: tuple[str, ...] = ()  # tests that would compare a mutant with the source, which proves nothing


TARGETS = {
    "rules": Target(
        ("tinymaml/primitives.py", "tinymaml/ops.py", "tinymaml/axes.py"),
        (("tests/test_ops.py",), ("tests/test_check.py", "tests/test_nn.py", "tests/test_numpy_api.py")),
    ),
    "maml": Target(
        ("tinymaml/maml.py", "tinymaml/flat.py", "tinymaml/per_task.py"),
        (("tests/test_maml.py",), ("tests/test_per_task.py",)),
        leave_out=("test_the_same_bits_from_run_to_run",),
    ),
    "engine": Target(
        ("tinymaml/engine.py", "tinymaml/differentiable.py"),
        (("tests/test_engine.py",), ("tests/test_maml.py", "tests/test_ops.py")),
        leave_out=("test_the_same_bits_from_run_to_run",),
    ),
    "checker": Target(
        ("tinymaml/oracle/tolerance.py", "tinymaml/oracle/questions.py", "tinymaml/oracle/judge/checking.py",
         "tinymaml/oracle/diagnosis.py"),
        (("tests/test_oracle_vary.py", "tests/test_oracle.py"),
         ("tests/test_oracle_judge.py", "tests/test_oracle_family.py", "tests/test_oracle_hostile.py",
          "tests/test_oracle_report.py", "tests/test_oracle_relations.py", "tests/test_oracle_show.py")),
    ),
}  # fmt: skip


# ── mutants ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Mutant(NamedTuple):
    """`source` with the bytes from `start` to `end` replaced."""

    file: str
    line: int
    old_line: str  # the lines that change, stripped
    new_line: str
    operator: str
    change: str  # what → what; a second alike in the same line says #2
    scope: int | None  # first line of the function it is in, as its code object counts; None: runs on import
    source: str  # the whole file, changed

    @property
    def id(self) -> str:
        """The same wherever the line stands in the file."""
        return hashlib.sha1("\0".join((self.file, self.old_line, self.operator, self.change)).encode()).hexdigest()[:7]

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}  {self.id}  {self.operator}  {self.change}"
        return f"{where}\n- {self.old_line}\n+ {self.new_line}"


ARITHMETIC = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.Pow: ("**", "*"),
    ast.FloorDiv: ("//", "*"), ast.Mod: ("%", "*"), ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "|"),
}  # fmt: skip
NOT_COMMUTATIVE = (ast.Sub, ast.Div, ast.MatMult, ast.Pow, ast.FloorDiv, ast.Mod)
COMPARE = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"), ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
}  # fmt: skip
_TWINS = [
    ("min", "max"), ("minimum", "maximum"), ("argmin", "argmax"), ("any", "all"), ("sin", "cos"), ("exp", "expm1"),
    ("log", "log1p"), ("floor", "ceil"), ("zeros", "ones"), ("zeros_like", "ones_like"), ("real", "imag"),
    ("index", "rindex"), ("equal", "not_equal"), ("less", "less_equal"), ("greater", "greater_equal"),
    ("logical_and", "logical_or"), ("bitwise_and", "bitwise_or"), ("isnan", "isinf"), ("add", "subtract"),
]  # fmt: skip
TWINS = {a: b for pair in _TWINS for a, b in (pair, pair[::-1])}
# calls of which another order, or an argument in their place, is an error of another kind at once
PLAIN_CALLS = {
    "isinstance", "hasattr", "getattr", "setattr", "zip", "len", "range", "enumerate", "iter", "next", "type", "super",
    "property", "Primitive", "elementwise", "NamedTuple",
}  # fmt: skip
# names of modules, which are no receivers
MODULES = ("np", "ops", "operator", "functools", "kernels", "inputs", "diagnose", "flat", "layers")


def mutations(source: str, file: str) -> list[Mutant]:
    """Every mutant of a Python source, in the order of the text; no two with the same bytecode."""
    mutator = _Mutator(source)
    data, starts, statements = mutator.data, mutator.starts, mutator.statements()
    seen = {(at, _fingerprint(data[slice(*at)])) for at in statements}
    alike: Counter = Counter()
    mutants: list[Mutant] = []
    for start, end, new, operator, scope in mutator.edits():
        at = next((a, b) for a, b in statements if a <= start < b)
        statement = data[at[0] : start] + new + data[end : at[1]]
        try:
            key = at, _fingerprint(statement)
        except SyntaxError:
            continue
        if key in seen:
            continue
        seen.add(key)
        first, last = (next(i for i, s in enumerate(starts[1:]) if at < s) for at in (start, max(start, end - 1)))
        before, after = data[starts[first] : start], data[end : starts[last + 1]]
        old_line, new_line = (_one_line(before + text + after) for text in (data[start:end], new))
        change = f"{_one_line(data[start:end])} → {_one_line(new)}"
        alike[old_line, operator, change] += 1
        if (n := alike[old_line, operator, change]) > 1:
            change += f" #{n}"
        mutated = (data[:start] + new + data[end:]).decode()
        mutants.append(Mutant(file, first + 1, old_line, new_line, operator, change, scope, mutated))
    return mutants


def _line_starts(data: bytes) -> list[int]:
    return [0, *(m.end() for m in re.finditer(rb"\n", data)), len(data) + 1]


def _one_line(text: bytes) -> str:
    return " ".join(text.decode().split())


def _fingerprint(source: str | bytes | CodeType) -> tuple:
    """All that running a program depends on: its code without line numbers and names of files."""
    if isinstance(source, CodeType):
        code = source
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own guess that this may be a mistake
            code = compile(source, "", "exec", __future__.annotations.compiler_flag, dont_inherit=True)
    constants = tuple(_fingerprint(c) if isinstance(c, CodeType) else (type(c), repr(c)) for c in code.co_consts)
    return (code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_flags,
            code.co_argcount, code.co_kwonlyargcount, getattr(code, "co_exceptiontable", b""))  # fmt: skip


Edit = tuple[int, int, bytes, str, "int | None"]


class _Mutator:
    """Walks the tree and yields edits: (start, end, new text, operator, scope)."""

    def __init__(self, source: str):
        self.data, self.tree = source.encode(), ast.parse(source)
        self.starts = _line_starts(self.data)
        self.scopes: list[ast.AST] = []
        self.alone: ast.AST | None = None  # a call whose result is not used
        self.indices: set[ast.AST] = set()

    def statements(self) -> list[tuple[int, int]]:
        """Where each statement of the module begins and ends."""
        firsts = [min([s.lineno, *(d.lineno for d in getattr(s, "decorator_list", ()))]) for s in self.tree.body]
        lasts = [s.end_lineno for s in self.tree.body]
        return [(self.starts[i - 1], self.starts[j]) for i, j in zip(firsts, lasts, strict=True) if j]

    def edits(self) -> list[Edit]:
        return sorted(self._walk(self.tree), key=lambda e: (e[0], e[1]))

    # positions and text

    def _span(self, node: Any) -> tuple[int, int]:
        return (self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset)

    def _text(self, node: ast.AST) -> bytes:
        start, end = self._span(node)
        return self.data[start:end]

    def _in_brackets(self, node: ast.AST) -> bytes:
        simple = (ast.Name, ast.Constant, ast.Call, ast.Attribute, ast.Subscript, ast.Tuple, ast.List)
        text = self._text(node)
        return text if isinstance(node, simple) and not text[:1].isdigit() else b"(" + text + b")"

    def _scope(self) -> int | None:
        if not self.scopes:
            return None
        node: Any = self.scopes[-1]
        return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])

    def _put(self, node: ast.AST, new: bytes, operator: str) -> Edit:
        return (*self._span(node), new, operator, self._scope())

    def _between(self, left: ast.AST, right: ast.AST, old: str, new: str, operator: str) -> Edit:
        """Replace the operator between two operands."""
        start, end = self._span(left)[1], self._span(right)[0]
        gap = re.sub(rb"#[^\n]*", lambda m: b" " * len(m[0]), self.data[start:end])
        match = re.search(rb"\s+".join(map(re.escape, old.encode().split())), gap)
        assert match, (old, gap)
        return start + match.start(), start + match.end(), new.encode(), operator, self._scope()

    # the walk

    def _walk(self, node: Any) -> Iterator[Edit]:
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Assert, ast.Import, ast.ImportFrom)):
            return
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "attr", "") == "__doc__":
            return
        yield from getattr(self, f"_{type(node).__name__}", lambda _: ())(node)
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
                yield from self._walk(default)
            for d in getattr(node, "decorator_list", ()):
                yield from self._walk(d)
            self.scopes.append(node)
            for child in node.body if isinstance(node, ast.FunctionDef) else [node.body]:
                yield from self._walk(child)
            self.scopes.pop()
            return
        for name, field in ast.iter_fields(node):
            if name == "annotation" or (isinstance(node, ast.Call) and name == "keywords"):
                continue
            for child in field if isinstance(field, list) else [field]:
                if isinstance(child, ast.AST):
                    yield from self._walk(child)
        for keyword in getattr(node, "keywords", ()):
            if getattr(keyword, "arg", None) != "strict" and not self._describes(node):
                yield from self._walk(keyword.value)

    def _describes(self, node: Any) -> bool:
        """Whether the keywords of a call describe a primitive to `programs`, which these tests do not run."""
        return getattr(getattr(node, "func", None), "id", "") in ("Primitive", "elementwise")

    # operators on expressions

    def _BinOp(self, node: ast.BinOp) -> Iterator[Edit]:
        if isinstance(node.op, tuple(ARITHMETIC)):
            yield self._between(node.left, node.right, *ARITHMETIC[type(node.op)], "arithmetic")
        left, right = self._in_brackets(node.left), self._in_brackets(node.right)
        if isinstance(node.op, NOT_COMMUTATIVE):
            sign = {ast.MatMult: "@"}.get(type(node.op)) or ARITHMETIC[type(node.op)][0]
            yield self._put(node, right + f" {sign} ".encode() + left, "swap operands")
        yield self._put(node, left, "drop operand")
        yield self._put(node, right, "drop operand")

    def _UnaryOp(self, node: ast.UnaryOp) -> Iterator[Edit]:
        if not isinstance(node.op, ast.UAdd):
            yield self._put(node, self._in_brackets(node.operand), "drop " + type(node.op).__name__.lower())

    def _BoolOp(self, node: ast.BoolOp) -> Iterator[Edit]:
        other = b" or " if isinstance(node.op, ast.And) else b" and "
        operands = [self._in_brackets(v) for v in node.values]
        yield self._put(node, b"(" + other.join(operands) + b")", "and/or")
        same = b" and " if isinstance(node.op, ast.And) else b" or "
        for i in range(len(operands)):
            yield self._put(node, b"(" + same.join(operands[:i] + operands[i + 1 :]) + b")", "drop operand")

    def _Compare(self, node: ast.Compare) -> Iterator[Edit]:
        sides = [node.left, *node.comparators]
        for left, op, right in zip(sides, node.ops, sides[1:], strict=False):
            yield self._between(left, right, *COMPARE[type(op)], "compare")
            if isinstance(op, (ast.In, ast.NotIn)) and isinstance(right, ast.Constant) and isinstance(right.value, str):
                for i in range(len(right.value)):
                    yield self._put(right, repr(right.value[:i] + right.value[i + 1 :]).encode(), "drop letter")

    def _Constant(self, node: ast.Constant) -> Iterator[Edit]:
        if isinstance(node.value, bool):
            yield self._put(node, str(not node.value).encode(), "constant")
        elif isinstance(node.value, (int, float)):
            opposite = node.value if node in self.indices else -node.value  # of a pair, x[1] is x[-1]
            for value in dict.fromkeys((node.value + 1, type(node.value)(0), opposite)):
                if value != node.value:
                    yield self._put(node, (f"({value})" if value < 0 else f"{value}").encode(), "constant")

    def _conditions(self, test: ast.AST, never_only: bool = False) -> Iterator[Edit]:
        yield self._put(test, b"False", "never")
        if not never_only:
            yield self._put(test, b"True", "always")

    def _If(self, node: ast.If) -> Iterator[Edit]:
        return self._conditions(node.test)

    def _IfExp(self, node: ast.IfExp) -> Iterator[Edit]:
        return self._conditions(node.test)

    def _While(self, node: ast.While) -> Iterator[Edit]:
        return self._conditions(node.test, never_only=True)

    def _comprehension(self, node: ast.comprehension) -> Iterator[Edit]:
        for test in node.ifs:
            yield from self._conditions(test)

    def _Subscript(self, node: ast.Subscript) -> Iterator[Edit]:
        self.indices.add(node.slice)
        for part in node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]:
            if isinstance(part, ast.Slice):
                texts = [self._text(x) if x else b"" for x in (part.lower, part.upper, part.step)]
                for i in range(3):
                    if texts[i]:
                        kept = [*texts[:i], b"", *texts[i + 1 :]]
                        yield (
                            self._put(part, b":".join(kept).rstrip(b":") or b":", "drop bound")
                            if i == 2
                            else (self._put(part, b":".join(kept if kept[2] else kept[:2]), "drop bound"))
                        )

    def _Name(self, node: ast.Name) -> Iterator[Edit]:
        if not isinstance(node.ctx, ast.Load):
            return
        if node.id in TWINS:
            yield self._put(node, TWINS[node.id].encode(), "twin")
        for function in reversed(self.scopes):
            args: Any = function.args  # type: ignore[attr-defined]
            rule = isinstance(function, ast.Lambda)
            names = [a.arg for a in (*args.args, *([] if rule else args.kwonlyargs)) if a.arg not in ("self", "cls")]
            if node.id in names:
                others = [n for n in names if n != node.id]
                for other in others if rule else others and [names[(names.index(node.id) + 1) % len(names)]]:
                    yield self._put(node, other.encode(), "parameter")
                return

    def _Attribute(self, node: ast.Attribute) -> Iterator[Edit]:
        if isinstance(node.ctx, ast.Load) and node.attr in TWINS:
            yield self._put(node, self._text(node.value) + b"." + TWINS[node.attr].encode(), "twin")

    def _Call(self, node: ast.Call) -> Iterator[Edit]:
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        plain = [a for a in node.args if not isinstance(a, ast.Starred)]
        if name == "range":
            last = node.args[-1] if len(node.args) == 1 else node.args[1]
            for step in (b" + 1", b" - 1"):
                yield self._put(last, self._in_brackets(last) + step, "range")
        if name == "isinstance" and isinstance(node.args[1], ast.Tuple):
            kinds = node.args[1].elts
            for kind in kinds:
                yield self._put(
                    node.args[1], b"(" + b"".join(self._text(k) + b", " for k in kinds if k is not kind) + b")", "kinds"
                )
        if name in PLAIN_CALLS or (not self.scopes and name[:1].isupper()):
            return
        if len(plain) > 1 and node.args[:2] == plain[:2]:
            first, second = plain[:2]
            between = self.data[self._span(first)[1] : self._span(second)[0]]
            start, end = self._span(first)[0], self._span(second)[1]
            swapped = self._text(second) + between + self._text(first)
            yield start, end, swapped, "swap arguments", self._scope()
        for argument in plain[:2] if node is not self.alone else ():
            yield self._put(node, self._in_brackets(argument), "call to argument")
        method = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") not in MODULES
        if method and node is not self.alone:
            yield self._put(node, self._in_brackets(node.func.value), "call to receiver")
        for i, keyword in enumerate(node.keywords):
            if keyword.arg not in ("strict", None):
                before = ([*node.args, *(k.value for k in node.keywords[:i])] or [None])[-1]
                start = self._span(before)[1] if before is not None else self._span(keyword)[0]
                yield start, self._span(keyword.value)[1], b"", "drop keyword", self._scope()

    # operators on statements

    def _statement(self, node: ast.AST) -> Iterator[Edit]:
        yield self._put(node, b"pass", "delete statement")

    def _Expr(self, node: ast.Expr) -> Iterator[Edit]:
        self.alone = node.value
        return self._statement(node)

    def _AugAssign(self, node: ast.AugAssign) -> Iterator[Edit]:
        if isinstance(node.op, tuple(ARITHMETIC)):
            old, new = ARITHMETIC[type(node.op)]
            yield self._between(node.target, node.value, old + "=", new + "=", "arithmetic")
        yield from self._statement(node)

    def _Assign(self, node: ast.Assign) -> Iterator[Edit]:
        target = node.targets[0]
        again = isinstance(target, (ast.Attribute, ast.Subscript))
        if isinstance(target, ast.Name) and self.scopes:
            function: Any = self.scopes[-1]
            args = (*function.args.args, *function.args.kwonlyargs)
            earlier = [n for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
            again = target.id in {a.arg for a in args} | {n.id for n in earlier if n.lineno < node.lineno}
        if again:
            yield from self._statement(node)

    def _Continue(self, node: ast.Continue) -> Iterator[Edit]:
        yield self._put(node, b"break", "continue/break")
        yield from self._statement(node)

    def _Break(self, node: ast.Break) -> Iterator[Edit]:
        yield self._put(node, b"continue", "continue/break")
        yield from self._statement(node)

    def _For(self, node: ast.For) -> Iterator[Edit]:
        yield self._put(node.iter, b"()", "never")

    def _FunctionDef(self, node: ast.FunctionDef) -> Iterator[Edit]:
        for decorator in node.decorator_list:
            start, end = self._span(decorator)
            yield self.data.rindex(b"@", 0, start), end, b"", "drop decorator", None


# ── running one ─────────────────────────────────────────────────────────────────────────────────────────────────────
# A nursery is a process that has imported NumPy and pytest, and forks a child for every job that is read from stdin.

MEMORY = 4 << 30  # bytes of data a child may have
ORACLE = "oracle.check"
PATIENCE = 10.0  # seconds a mutant's tests may take, beside five times as long as without it


def nursery() -> None:
    """Reads jobs, one JSON object per line; answers each with one line."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != here]
    import hypothesis  # noqa: F401
    import numpy  # noqa: F401
    import pytest  # noqa: F401

    child = [0]

    def leave(*_: Any) -> None:
        if child[0]:
            _kill(child[0])
        os._exit(1)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for line in sys.stdin:
        job = json.loads(line)
        sys.pycache_prefix = os.path.join(job["scratch"], "pycache")  # not beside the source
        if job["by"] == "oracle":
            _prepare_oracle(job["root"])
        began = time.perf_counter()
        reading, writing = os.pipe()
        child[0] = os.fork()
        if not child[0]:
            os.close(reading)
            _child(job, writing)
        os.close(writing)
        answer = _await(reading, began + job["seconds"])
        _kill(child[0])
        _, status = os.waitpid(child[0], 0)
        child[0] = 0
        os.close(reading)
        if answer == b"":
            how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.WEXITSTATUS(status)}"
            result = {"outcome": "killed", "by": f"the process ended ({how})"}
        else:
            result = {"outcome": "timed out", "by": "time-out"} if answer is None else json.loads(answer)
        print(json.dumps(result | {"seconds": time.perf_counter() - began}), file=answers, flush=True)


def _await(pipe: int, deadline: float) -> bytes | None:
    """A line from the pipe; nothing if it was closed before its end; None if time ran out."""
    answer = b""
    while not answer.endswith(b"\n"):
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.perf_counter()))
        if not ready:
            return None
        chunk = os.read(pipe, 1 << 16)
        if not chunk:
            return b""
        answer += chunk
    return answer


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _child(job: dict, writing: int) -> None:
    """Run one job and end the process."""
    result: dict = {"outcome": "error", "by": "the harness"}
    try:
        import resource

        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        os.chdir(job["scratch"])
        silence = os.open(os.devnull, os.O_RDWR)
        os.dup2(silence, 0)
        out = os.open(os.path.join(job["scratch"], "output"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.path.insert(0, job["root"])
        package = "mutated" if job["by"] == "oracle" else ""
        hook = Planted(job["file"], job["root"], job["source"], package)
        sys.meta_path.insert(0, hook)
        job["module"] = hook.name
        job["trace"] = {Planted(file, job["root"], "", package).name: file for file in job["trace"]}
        result = {"tests": by_tests, "oracle": by_oracle}[job["by"]](job)
        if not hook.used and result["outcome"] == "survived":
            result = {"outcome": "error", "by": f"nothing imported {job['file']}"}
    except BaseException as error:  # noqa: BLE001
        result = {"outcome": "error", "by": f"{type(error).__name__}: {error}"}
    finally:
        with contextlib.suppress(BaseException):
            data = memoryview(json.dumps(result).encode() + b"\n")
            while data:
                data = data[os.write(writing, data) :]
        os._exit(0)


class Planted:
    """An import hook: the module at `file` is compiled from `source`; every other is Python's business.

    With `package`, a second copy of the package under that name has the changed module, and the first is as it was.
    """

    def __init__(self, file: str, root: str, source: str, package: str = ""):
        from importlib.machinery import SourceFileLoader

        first, *parts = Path(file).with_suffix("").parts
        self.package = package
        self.name = ".".join((package or first, *(parts[:-1] if parts[-1] == "__init__" else parts)))
        self.path, self.used = os.path.join(root, file), False
        self.folder = os.path.join(root, first)
        hook = self

        class Loader(SourceFileLoader):
            def get_code(self, fullname: str) -> CodeType:
                hook.used = True
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    return compile(source, hook.path, "exec", dont_inherit=True)

        self.loader = Loader(self.name, self.path)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        from importlib.util import spec_from_file_location

        if name == self.name:
            return spec_from_file_location(name, self.path, loader=self.loader)
        if name == self.package:
            init = os.path.join(self.folder, "__init__.py")
            return spec_from_file_location(name, init, submodule_search_locations=[self.folder])
        return None


class Watch:
    """A pytest plugin: chooses tests, and records the first failure; and what each test calls in the modules of
    `trace`, {module: file}, as pairs of a file and a function's first line."""

    def __init__(self, chosen: list[str] | None, leave_out: list[str], trace: dict[str, str]):
        self.chosen, self.leave_out, self.trace = chosen, leave_out, trace
        self.failure, self.now = "", ""
        self.calls: dict[str, set[tuple[str, int]]] = {"": set()}
        self.seconds: dict[str, float] = {}

    def pytest_configure(self) -> None:
        os.environ.pop("PYTEST_DISABLE_PLUGIN_AUTOLOAD", None)  # what the tests start is as it would be

    def pytest_collection_modifyitems(self, items: list) -> None:
        items[:] = [i for i in items if i.originalname not in self.leave_out]
        if self.chosen is not None:
            place = {nodeid: k for k, nodeid in enumerate(self.chosen)}
            chosen = sorted((i for i in items if i.nodeid in place), key=lambda i: place[i.nodeid])
            items[:] = chosen or items  # a mutant may change what tests are called

    def pytest_collectreport(self, report: Any) -> None:
        self._seen(report, "collecting ")

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        self._seen(report, "")

    def _seen(self, report: Any, what: str) -> None:
        if report.failed and not self.failure:
            crash = getattr(report.longrepr, "reprcrash", None)
            said = (crash.message if crash else str(report.longrepr)).strip().splitlines() or [""]
            self.failure = f"{what}{report.nodeid}: {(said[0] if crash else said[-1])[:200]}"

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.now = nodeid
        self.calls[nodeid] = set()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.now = ""

    def on_call(self, frame: Any, event: str, arg: Any) -> None:
        file = self.trace.get(frame.f_globals.get("__name__"))
        if file:
            self.calls[self.now].add((file, frame.f_code.co_firstlineno))


def by_tests(job: dict) -> dict:
    """Run test files until the first failure."""
    import pytest

    watch = Watch(job["tests"], job["leave_out"], job["trace"])
    if job["trace"]:
        threading.settrace(watch.on_call)
        sys.settrace(watch.on_call)
    try:  # before pytest puts an import hook of its own in front, for the packages of its plugins
        importlib.import_module(job["module"])
    except BaseException as error:  # noqa: BLE001
        return {"outcome": "killed", "by": f"import: {type(error).__name__}: {error}"[:200]}
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # plugins cost time, and one of them is tinymaml's
    files = [os.path.join(job["root"], f) for f in job["test_files"]]
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--rootdir", job["root"], *files], [watch])
    sys.settrace(None)
    if code == 0:
        calls = {test: sorted(these) for test, these in watch.calls.items()}
        return {"outcome": "survived", "by": "", "calls": calls, "durations": watch.seconds}
    if watch.failure or code == 2:
        return {"outcome": "killed", "by": watch.failure or "interrupted"}
    return {"outcome": "error", "by": f"pytest ended with code {int(code)}: no test, or its own error"}


@functools.cache
def _prepare_oracle(root: str) -> None:
    """Draw, solve and confirm the questions once, before the forks: the same for every mutant."""
    sys.path.insert(0, root)
    from tinymaml.oracle import CAPABILITIES
    from tinymaml.oracle.judge import checking

    asked, left_out = checking.questions("core", "float64", tuple(CAPABILITIES), 0)
    checking.confirm(asked)
    checking.questions = lambda *_: (asked, left_out)
    checking.confirm = lambda _: None


def by_oracle(job: dict) -> dict:
    """Does `oracle.check` refuse the MAML of a changed tinymaml? The oracle itself runs on an unchanged one."""
    import numpy as np

    from tinymaml import oracle
    from tinymaml.oracle import models, tolerance

    watch = Watch(None, [], job["trace"])
    threading.settrace(watch.on_call if job["trace"] else None)  # type: ignore[arg-type]
    sys.settrace(watch.on_call if job["trace"] else None)
    try:
        mutated = importlib.import_module("mutated")
        library = importlib.import_module("mutated.oracle.models").NumPy()
    except Exception as error:  # noqa: BLE001
        return {"outcome": "killed", "by": f"import: {type(error).__name__}"}

    answers = hashlib.sha1()

    def candidate(case: Any) -> dict:
        _, params, ((xs, ys), (xq, yq)) = case.numpy()
        tasks = [((xs[t], ys[t]), (xq[t], yq[t])) for t in range(case.tasks)]
        how = {"inner_lr": tolerance.rates(case), "inner_steps": case.inner_steps, "first_order": case.first_order}
        value, grads = mutated.meta_value_and_grad(models.loss_in(library, case.model), **how)(params, tasks)
        answers.update(b"".join(np.asarray(x).tobytes() for x in (value, *grads.values())))
        return {"meta_grad": grads, "meta_loss": value}

    watch.pytest_runtest_logstart(ORACLE)
    began = time.perf_counter()
    report = oracle.check(candidate, capabilities=oracle.CAPABILITIES, timeout=job["seconds"])
    sys.settrace(None)
    watch.seconds[ORACLE] = time.perf_counter() - began
    if report.verdict == "CORRECT":
        calls = {test: sorted(these) for test, these in watch.calls.items()}
        return {"outcome": "survived", "by": "", "calls": calls, "durations": watch.seconds,
                "answers": answers.hexdigest()}  # fmt: skip
    return {"outcome": "killed", "by": " ".join(filter(None, (report.verdict, report.bug)))}


# ── running all ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Nursery:
    """A process that answers jobs, one at a time."""

    def __init__(self) -> None:
        self.scratch = tempfile.TemporaryDirectory(prefix="mutants-")
        quiet = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        environment = os.environ | quiet | {"TINYMAML_NUMBA": "0", "PYTHONDONTWRITEBYTECODE": ""}
        self.process = subprocess.Popen([sys.executable, os.path.abspath(__file__), "--nursery"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, encoding="utf-8", env=environment)  # fmt: skip

    def run(self, job: dict) -> dict:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(job | {"scratch": self.scratch.name}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("the process that runs the mutants died")
        return json.loads(answer)

    def output(self) -> str:
        path = Path(self.scratch.name, "output")
        return path.read_text(errors="replace", encoding="utf-8") if path.exists() else ""

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.scratch.cleanup()


class Known:
    """What is known of the unmutated tests of one stage: seconds of each, and which functions it calls."""

    def __init__(self, nursery: Nursery, target: Target, stage: int):
        file, files = target.files[0], target.stages[stage]
        source = (target.root / file).read_text(encoding="utf-8")
        result = nursery.run(_job(target, file, source, files, None, 3600.0, target.files))
        if result["outcome"] != "survived":
            said = nursery.output()[-3000:]
            raise SystemExit(f"the tests fail without a mutant: {result['by']}\n{said}")
        self.seconds = result["durations"]
        self.calls = {test: {(file, line) for file, line in calls} for test, calls in result["calls"].items()}
        self.startup = result["seconds"] - sum(self.seconds.values())
        self.answers = result.get("answers")  # to the oracle

    def tests(self, file: str, scope: int | None) -> list[str]:
        """The tests that may see a change in a function, the quickest first."""
        everything = scope is None or (file, scope) in self.calls[""]  # on import, or while the tests are collected
        chosen = (t for t in self.seconds if everything or (file, scope) in self.calls[t])
        return sorted(chosen, key=self.seconds.__getitem__)


def _job(target: Target, file: str, source: str, test_files: tuple[str, ...], tests: list[str] | None, seconds: float,
         trace: tuple[str, ...] = ()) -> dict:  # fmt: skip
    return {"root": str(target.root), "file": file, "source": source, "test_files": test_files, "tests": tests,
            "seconds": seconds, "trace": trace, "leave_out": target.leave_out,
            "by": "oracle" if test_files == (ORACLE,) else "tests"}  # fmt: skip


def run_mutant(nursery: Nursery, target: Target, mutant: Mutant, known: Callable[[int], Known]) -> dict:
    """{"outcome": …, "by": what killed it, "seconds"}.

    The outcome is killed, timed out or survived; not called, if no test calls what is changed; no effect, if every
    answer to the oracle has the bits it had: what cannot be seen.
    """
    result, seconds = {"outcome": "not called", "by": ""}, 0.0
    for stage, files in enumerate(target.stages):
        base = known(stage)
        tests = base.tests(mutant.file, mutant.scope)
        if not tests:
            continue
        limit = PATIENCE + 5 * (base.startup + sum(base.seconds[t] for t in tests))
        if files == (ORACLE,):
            limit *= 4  # to search for what is wrong takes longer than to see that all is right
        result = nursery.run(_job(target, mutant.file, mutant.source, files, tests, limit))
        seconds += result["seconds"]
        if result["outcome"] != "survived":
            break
        if base.answers and result["answers"] == base.answers:
            result["outcome"] = "no effect"
    if result["outcome"] == "error":
        raise RuntimeError(f"{mutant}\n{result['by']}\n{nursery.output()[-3000:]}")
    return {"outcome": result["outcome"], "by": result["by"], "seconds": seconds}


class Kept:
    """What has been seen of mutants, in a file: a campaign that was stopped goes on where it ended."""

    def __init__(self, path: str | None, target: Target, by: str):
        from tinymaml import files  # not at the top of this file, with which a nursery begins

        self.path, self.write, seen = Path(path) if path else None, files.write_atomically, hashlib.sha256(by.encode())
        for name in sorted({*target.files, *(f for stage in target.stages for f in stage if f != ORACLE)}):
            seen.update((target.root / name).read_bytes())
        self.state, self.lock = seen.hexdigest()[:16], threading.Lock()  # of the source and of its tests
        self.records = json.loads(files.read_file(self.path)) if self.path and self.path.exists() else []

    def of(self, mutant: Mutant) -> dict | None:
        found = (r for r in self.records if r["id"] == mutant.id and r["state"] == self.state)
        return next(({k: r[k] for k in ("outcome", "by", "seconds")} for r in found), None)

    def add(self, mutant: Mutant, result: dict, by: str) -> None:
        if not self.path:
            return
        keys = ("id", "file", "line", "operator", "change", "old_line", "new_line")
        record = {k: getattr(mutant, k) for k in keys} | result | {"state": self.state}
        with self.lock:
            self.records = [r for r in self.records if r["id"] != mutant.id]
            self.records.append(record | {"justification": justification(mutant, by)})
            self.write(self.path, json.dumps(self.records, indent=1, ensure_ascii=False).encode() + b"\n")


def run_all(target: Target, mutants: list[Mutant], jobs: int = 1, path: str | None = None, by: str = "tests"):
    """One result per mutant, in their order; `path` is where they are kept."""
    from tqdm import tqdm

    kept = Kept(path, target, by)
    results = [kept.of(mutant) for mutant in mutants]
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    for i, result in enumerate(results):
        if result is None:
            waiting.put(i)
    nurseries = [Nursery() for _ in range(min(max(1, jobs), waiting.qsize()))]
    errors: list[BaseException] = []
    baselines: dict[int, Known] = {}
    one_at_a_time = threading.Lock()
    try:
        with tqdm(total=waiting.qsize(), unit="mutant", mininterval=0.1 if sys.stderr.isatty() else 60) as bar:

            def work(nursery: Nursery) -> None:
                def known(stage: int) -> Known:
                    with one_at_a_time:
                        if stage not in baselines:
                            baselines[stage] = Known(nursery, target, stage)
                        return baselines[stage]

                with contextlib.suppress(queue.Empty):
                    while not errors:
                        i = waiting.get_nowait()
                        try:
                            results[i] = run_mutant(nursery, target, mutants[i], known)
                            kept.add(mutants[i], results[i], by)
                        except BaseException as error:  # noqa: BLE001
                            errors.append(error)
                        bar.update()

            threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in nurseries]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        for n in nurseries:
            n.close()
    if errors:
        raise errors[0]
    return [result for result in results if result is not None]


# ── survivors that are no errors ────────────────────────────────────────────────────────────────────────────────────
# By file: (line as it stands, or its beginning and …; changes; why the changed program is as good)

EQUIVALENT: dict[str, list[tuple[str, tuple[str, ...], str]]] = {
    "tinymaml/flat.py": [
        ("return self.inner_step(support_loss, params, support, rates_like(inner_lr, params), True, k)",
         ("True → False",),
         "nothing is differentiated through a step of flat memory: whether its gradients are held makes no difference"),
    ],
    "tinymaml/primitives.py": [
        ("if g.shape == shape:", ("g.shape == shape → False",),
         "a shortcut: a sum over no axis, reshaped to the same shape, is g"),
        ('maximum = elementwise("maximum", lambda x, y, *, tie=0.5: np.maximum(x, y),',
         ("0.5 → 1.5", "0.5 → 0.0", "0.5 → (-0.5)"), "a tie is for the rules: the value does not depend on it"),
        ('maximum = elementwise("maximum", lambda x, y, *, tie=0.5: np.maximum(x, y),', ("x, y → y, x",),
         "the larger of two is the same in either order"),
        ("lambda g, z, x, y, *, tie=0.5: g * above(x, y, tie=tie, dtype=g.dtype),", ("g → z #2", "g → x #2"),
         "the product with g has g's precision; the shares 0, ½, 1 are exact in any, and x's cotangent is cast to x's"),
        ("lambda g, z, x, y, *, tie=0.5: g * above(y, x, tie=1 - tie, dtype=g.dtype),", ("g → z #2", "g → y #2"),
         "as for x: the shares are exact in any precision, and y's cotangent is cast to y's"),
        ("return step + np.equal(x, y) * np.dtype(dtype).type(tie) if tie else step", ("x, y → y, x",),
         "equality is symmetric"),
        ("return step + np.equal(x, y) * np.dtype(dtype).type(tie) if tie else step",
         ("tie → True", "tie → dtype #2"), "a shortcut: with tie = 0, what it saves adds 0"),
        ("return _sum(x, axis=normal_axes(axis, x.ndim), keepdims=bool(keepdims))", ("bool(keepdims) → keepdims",),
         "keepdims is only asked for its truth, here and by NumPy"),
        ("return x if x.shape == shape else _broadcast_to(x, shape=shape)", ("x.shape == shape → False",),
         "a shortcut: broadcasting to the shape it has changes nothing"),
        ("return x if x.shape == shape else _reshape(x, shape=shape)", ("x.shape == shape → False",),
         "a shortcut: reshaping to the shape it has changes nothing"),
        ("return _transpose(x, axes=tuple(axes))", ("tuple(axes) → axes",),
         "np.transpose and the rule take a list as well, and it is not written to afterwards"),
        ("if x.ndim > 2 and y.ndim == 2:",
         ("x.ndim > 2 and y.ndim == 2 → ((y.ndim == 2))", "> → >=", "2 → 0", "2 → (-2)"),
         "only a matrix x is let in besides, whose reshapes are to the shape it has"),
        ("rows = int(np.prod(x.shape[:-1]))", ("int(np.prod(x.shape[:-1])) → np.prod(x.shape[:-1])",),
         "a length may be an integer of NumPy"),
        ("return reshape(_matmul(reshape(x, (rows, x.shape[-1])), y), (*x.shape[:-1], y.shape[-1]))",
         ("-1 → (1) #3",), "y is a matrix here: its last axis is axis 1"),
    ],
    "tinymaml/ops.py": [
        ("return power(x, y - not_equal(y, 0)) if constant …", ("y, 0 → 0, y",), "inequality is symmetric"),
        ("log_x = np.log(np.where(np.equal(x, 0), 1, x).astype(z.dtype))", ("x, 0 → 0, x",), "equality is symmetric"),
        ("return np.logaddexp(x, y)", ("x, y → y, x",), "log(eˣ + eʸ) is symmetric"),
        ("m = np.where(np.real(x) > np.real(y), x, y)", ("> → >=",),
         "m only keeps exp from overflowing; where the real parts are equal, either will do"),
        ('minimum = elementwise("minimum", lambda x, y, *, tie=0.5: np.minimum(x, y),',
         ("0.5 → 1.5", "0.5 → 0.0", "0.5 → (-0.5)"), "a tie is for the rules: the value does not depend on it"),
        ('minimum = elementwise("minimum", lambda x, y, *, tie=0.5: np.minimum(x, y),', ("x, y → y, x",),
         "the smaller of two is the same in either order"),
        ("lambda g, z, x, y, *, tie=0.5: g * above(y, x, tie=tie, dtype=g.dtype),", ("g → z #2", "g → x #2"),
         "as for the maximum: the shares are exact in any precision"),
        ("lambda g, z, x, y, *, tie=0.5: g * above(x, y, tie=1 - tie, dtype=g.dtype),", ("g → z #2", "g → y #2"),
         "as for the maximum: the shares are exact in any precision"),
        ("flat = moved.reshape(*moved.shape[: -len(axis)], -1)", ("1 → 2",),
         "NumPy infers a length from any negative number, -2 as well as -1"),
        ("return best / np.sum(best, axis, keepdims=True, dtype=np.real(x).dtype)", ("np.real → np.imag",),
         "real and imaginary part have the same dtype"),
        ("return best / np.sum(best, axis, keepdims=True, dtype=np.real(x).dtype)", ("np.real(x) → x",),
         "the shares are the same numbers with an imaginary part of 0, times a cotangent that is complex where x is"),
        ("return _max(x, axis=normal_axes(axis, x.ndim), keepdims=bool(keepdims), ties=ties)",
         ("bool(keepdims) → keepdims",), "keepdims is only asked for its truth, here and by NumPy"),
        ("return multiply(x, -1)", ("x, -1 → -1, x",), "a product is symmetric"),
        ("Tensor.astype = lambda x, dtype: astype(x, dtype=np.dtype(dtype))", ("np.dtype(dtype) → dtype",),
         "NumPy's astype takes any spelling of a dtype"),
    ],
    "tinymaml/axes.py": [
        ("axis = range(ndim) if axis is None else (axis,) if isinstance(axis, (int, np.integer)) else tuple(axis)",
         ("tuple(axis) → axis",), "what is neither None nor an int is a tuple by contract"),
        ("axes = tuple(sorted(int(a) % ndim for a in axis))", ("int(a) → a",),
         "an integer of NumPy indexes, compares and prints as Python's does"),
        ("return None if 0 in shape else reduced(shape, **how)", ("0 in shape → True",),
         "a recording then computes the reduction, and sees its shape"),
    ],
    "tinymaml/engine.py": [
        ("if g.dtype != x.dtype and (g.dtype.kind == x.dtype.kind or not analytic.get()):",
         ("g.dtype != x.dtype and (g.dtype.kind == x.dtype.kind or not analytic.get()) →"
          " ((g.dtype.kind == x.dtype.kind or not analytic.get()))",),
         "a cast to the dtype it has changes nothing: the condition only saves time"),
        ("return {}, bool(outputs)", ("bool(outputs) → outputs",),
         "`nested` is only asked for its truth, and a list has that of its bool"),
        ("first, last = leaves[0].index, leaves[-1].index", ("1 → 0",),
         "`last` keeps the walk from going past the leaves; but what a leaf was made from is older than `first`: it is"
         " not gone into, and says `nested`, which a leaf with inputs has said already"),
        ("if z.index > last:", ("z.index > last → True", "> → >="),
         "as above: what a leaf was made from is not gone into, and `nested` is known by then"),
        ("stack = list(outputs)", ("list(outputs) → outputs",),
         "the caller made this list for this call and does not look at it again, so it may be emptied"),
        ("zero = tree_map(lambda y: np.zeros(np.shape(value_of(y)), np.result_type(value_of(y), 0.0)), out)",
         ("np.zeros → np.ones",), "the pullback is linear: its derivative is the same at any point, at 1 as at 0"),
        ("zero = tree_map(lambda y: np.zeros(np.shape(value_of(y)), np.result_type(value_of(y), 0.0)), out)",
         ("value_of(y) → y",), "np.shape takes tensors, and gives their array's shape"),
        ("return vjp(grad(f, tuple(range(len(args)))), *args)[1](v)",
         ("tuple(range(len(args))) → range(len(args))",),
         "`value_and_grad` makes a tuple of any argnums that is not an int"),
        ("return vjp(grad(f, tuple(range(len(args)))), *args)[1](v)", ("args → v",),
         "on this branch v has the paths of args, so as many parts"),
    ],
    "tinymaml/differentiable.py": [
        ("return np.zeros(x.shape, x.dtype) if is_tensor(x) or isinstance(x, np.ndarray) else 0", ("0 → 1",),
         "the cotangent of what is no tensor goes nowhere, whatever it is"),
        ("return args if isinstance(args, tuple) else tuple(args) if isinstance(args, list) else (args,)",
         ("tuple(args) → args",),
         "a list does all that is asked of a tuple of arguments: it is unpacked, indexed and sliced"),
    ],
    "tinymaml/oracle/judge/checking.py": [
        ("name = max(right.scale, key=lambda n: np.max(right.scale[n], initial=0))", ("np.max → np.min",),
         "the error is planted in another parameter: its largest scale is above 0, too"),
        ("planted[name][at] += 4 * tolerance.TAU * tolerance.UNIT[question.case.dtype] * right.scale[name][at]",
         ("4 → (-4)",), "an error is planted whichever way it points"),
    ],
    "tinymaml/oracle/diagnosis.py": [
        ('or (match.roughly(judged) if before is None or before.verdict != "WRONG_UNKNOWN" else None)',
         ('before is None or before.verdict != "WRONG_UNKNOWN" → True',),
         "a shortcut: in the second round the same cases are judged, in which the first has found nothing"),
    ],
    "tinymaml/oracle/tolerance.py": [
        ("seed.flat[i] = 1.0", ("1.0 → (-1.0)",),
         "cotangents are linear in the seed, and only their squares are summed"),
        ("return max(float(np.max(errors(got[n], wanted[n], scale[n], unit), initial=0)) for n in wanted)",
         ("got[n], wanted[n] → wanted[n], got[n]",), "a distance is symmetric"),
        ("return max(float(np.max(errors(got[n], wanted[n], scale[n], unit), initial=0)) for n in wanted)",
         ("wanted → scale #2",), "the scales have the names of the gradient they are of"),
        ("off = np.abs(np.asarray(got, np.float64) - wanted)",
         ("np.asarray(got, np.float64) - wanted → wanted - np.asarray(got, np.float64)",), "a distance is symmetric"),
        ("allowed = unit * np.asarray(scale)", ("np.asarray(scale) → scale",),
         "a scale is a number or an array, and times a number is the same either way"),
    ],
}  # fmt: skip


# What the tests see, and `oracle.check` on the core may not: other bits, but right to rounding in every case.
RIGHT_TO_ROUNDING: dict[str, list[tuple[str, tuple[str, ...], str]]] = {
    "tinymaml/ops.py": [
        ('_max = Primitive("max", …', ("np.max → np.min",),
         "in a softmax, what is subtracted cancels, unless logits are some 700 apart: in the core they are not"),
    ],
}  # fmt: skip


def justification(mutant: Mutant, by: str = "tests") -> str:
    """Why a mutant may survive; nothing if it may not."""
    further = RIGHT_TO_ROUNDING.get(mutant.file, []) if by == "oracle" else []
    for line, changes, why in EQUIVALENT.get(mutant.file, []) + further:
        if mutant.change in changes and _is_line(mutant.old_line, line):
            return why
    return ""


def _is_line(line: str, given: str) -> bool:
    return line.startswith(given[:-1]) if given.endswith("…") else line == given


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────────


COLUMNS = ("mutants", "killed", "timed out", "justified", "not called", "no effect", "open", "seconds")


def end_of(mutant: Mutant, result: dict, by: str) -> str:
    """The column that a mutant counts in."""
    end = result["outcome"]
    if end == "survived" or (end == "not called" and by == "tests"):
        return "justified" if justification(mutant, by) else "open"
    return end


def kept(mutants: list[Mutant], results: list[dict], by: str) -> dict[str, dict]:
    """{by: {file: {"noticed": how many, "mutants": of how many, "open": survivors without a reason, "on": date}}}."""
    found: dict[str, dict] = {}
    for mutant, result in zip(mutants, results, strict=True):
        row = found.setdefault(Path(mutant.file).name, {"noticed": 0, "mutants": 0, "open": 0, "on": f"{date.today()}"})
        end = end_of(mutant, result, by)
        row["mutants"] += end != "no effect"
        row["noticed"] += end in ("killed", "timed out")
        row["open"] += end == "open"
    return {by: found}


def report(mutants: list[Mutant], results: list[dict], by: str = "tests") -> int:
    """Print the table and the survivors; the number of survivors without a justification."""
    rows: dict[str, Counter] = {}
    left = []
    for m, r in zip(mutants, results, strict=True):
        end = end_of(m, r, by)
        if end == "open":
            left.append(f"survived  {m}" if r["outcome"] == "survived" else f"no test calls  {m}")
        rows.setdefault(m.file, Counter()).update({"mutants": 1, end: 1, "seconds": r["seconds"]})
    width = max(map(len, rows), default=4)
    print(f"{'file':{width}}  " + "  ".join(f"{c:>10}" for c in COLUMNS))
    for file, row in rows.items():
        print(f"{file:{width}}  " + "  ".join(f"{row[c]:10.0f}" for c in COLUMNS))
    if by == "oracle":
        verdicts = Counter(r["by"] for r in results if r["outcome"] == "killed")
        print("\n" + "\n".join(f"{n:6} {verdict}" for verdict, n in verdicts.most_common()))
    print("".join(f"\n{line}\n" for line in left), end="")
    return len(left)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.oracle mutants", description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="?", choices=TARGETS, help="what to plant errors in (everything)")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time (2)")
    parser.add_argument("--only", metavar="ID", action="append", help="run the mutant with this id; may be repeated")
    parser.add_argument("--list", action="store_true", help="show the mutants, run nothing")
    parser.add_argument("--by", choices=("tests", "oracle"), default="tests", help="who should notice (the tests)")
    parser.add_argument("--sample", type=int, metavar="N", help="draw N mutants of each target, by their ids")
    parser.add_argument("--json", metavar="FILE", help="keep every mutant and its end, and go on where they end")
    parser.add_argument("--store", action="store_true", help="keep the counts in bench/results/stated, for the pages")
    args = parser.parse_args(argv)
    if args.store and (args.only or args.sample or args.list):
        parser.error("--store is given with --only, --sample or --list, wanted a whole target")
    everything, results = [], []
    for name in [args.target] if args.target else TARGETS:
        target = TARGETS[name]
        if args.by == "oracle":
            target = target._replace(stages=((ORACLE,),))
        texts = {file: (target.root / file).read_text(encoding="utf-8") for file in target.files}
        mutants = [m for file, text in texts.items() for m in mutations(text, file)]
        if args.only:
            mutants = [m for m in mutants if any(m.id.startswith(i) for i in args.only)]
        if args.sample:
            drawn = sorted(mutants, key=lambda m: hashlib.sha256(m.id.encode()).digest())[: args.sample]
            mutants = [m for m in mutants if m in drawn]
        everything += mutants
        if not args.list and mutants:
            results += run_all(target, mutants, args.jobs, args.json, args.by)
    if not everything:
        parser.error(f"no mutant is called {', '.join(args.only or [])}")
    if args.list:
        print("\n\n".join(map(str, everything)))
        return 0
    if args.store:
        from . import page

        page.keep("mutants", kept(everything, results, args.by), beside=True)
    return 1 if report(everything, results, args.by) else 0


if __name__ == "__main__" and sys.argv[1:] == ["--nursery"]:
    nursery()
