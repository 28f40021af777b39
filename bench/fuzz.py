"""Random losses: is what is compiled what NumPy computes?

    python -m bench fuzz [--minutes 60] [--seed 0] [--json]

A program is drawn as the source of a plain Python function, so that whatever is found can be pasted: functions of
`NUMPY`, of `tm.nn`, operators, methods and indexing, on arrays of every dtype; what a function closes over; branches,
loops and buffers that are written to again. It is called on two sets of numbers, then what it closes over is changed,
and it is called once more, in each of these ways, which must agree:

    reference   as it is; `plain` functions, which hold no derivative, on NumPy's arrays
    tensors     `plain` functions on tensors
    record      `tm.record`, replayed on the same and on the other numbers
    replay      `tm.compile(…, backend="replay")`
    compiled    `tm.compile(…)`, of every other program
    jax         JAX in float64, of programs drawn for it

Agree means: the same nest, Python types, dtypes and shapes, the same integers, booleans, infinities and NaNs, and
numbers that rounding explains: `Rounding` runs the program with noise of the size of rounding after every equation, and
allows for a multiple of what that changes. An error must have the same type everywhere. Of JAX nothing is asked but
finite numbers. A warning of `compile` that asks for a report is a finding, too: there the function itself has made good
what went wrong. Batches of programs run in child processes, so that one that crashes or hangs is found, too. Each
finding is made small by leaving out statements.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import os
import pickle
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import tinymaml as tm
from tinymaml.numpy_api import NUMPY
from tinymaml.programs.program import Var

# ── programs as text ────────────────────────────────────────────────────────────────────────────────────────────────

PRELUDE = """\
import numpy as np
from numpy import inf, nan
import tinymaml as tm


def value(x):
    return x.value if isinstance(x, tm.Tensor) else x
"""


@dataclass
class Program:
    """The source of a function `run`, and what it is called on.

    Names that end with f are floating-point arrays.

    Attributes:
        floats, others: the names of arguments that are differentiated, and of those that are not.
        setup: for each thing that is closed over, the lines that make it, and those that change it.
        defaults: arguments that are never given, with the source of their defaults.
        body: for each statement the name it defines, and its lines.
        outputs: names, which are returned, and of which the loss is made.
        form: "plain", "grad", "value_and_grad", "hvp", "nested" or "meta".
        settings: of `meta_value_and_grad`.
        closure: what is closed over is a local of an enclosing function, not a global.
        calls: the arguments of each call. A "meta" program's others have tasks on axis 0.
    """

    floats: list[str]
    others: list[str]
    setup: dict[str, tuple[str, str]]
    body: list[tuple[str, str]]
    outputs: list[str]
    form: str
    settings: dict[str, Any]
    closure: bool
    calls: list[list]
    defaults: dict[str, str] = field(default_factory=dict)

    def source(self) -> str:
        """Defines `run`, and `change`, which changes what `run` closes over."""
        lines = [make for make, _ in self.setup.values()]
        rebound = [name for name, (_, change) in self.setup.items() if change.startswith(f"{name} =")]
        changes = [change for _, change in self.setup.values() if change]
        if rebound:
            changes.insert(0, f"{'nonlocal' if self.closure else 'global'} {', '.join(rebound)}")
        lines += ["", self._function(), "", self._run()]
        lines += ["", _define("change()", changes)] if changes else []
        if not self.closure:
            return "\n".join(lines).strip("\n") + "\n"
        names = "run, change" if changes else "run"
        return _define("build()", ["\n".join(lines).strip("\n"), f"return {names}"]) + f"\n\n{names} = build()\n"

    def _function(self) -> str:
        body = [text for _, text in self.body]
        made = ", ".join(self.outputs) + ("," if len(self.outputs) == 1 else "")
        if self.form == "plain":
            return _define(f"f({self._signature()})", [*body, f"return ({made})"])
        terms = [f"np.mean(np.sin({name}))" if name.endswith("f") else f"np.mean(np.sin(1.0 * {name}))"
                 for name in self.outputs]  # fmt: skip
        total = " + ".join(terms)
        with_aux = self.form == "value_and_grad" or self.form == "meta" and self.settings["has_aux"]
        result = f"return {total}, ({made})" if with_aux else f"return {total}"
        if self.form != "meta":
            return _define(f"f({self._signature()})", [*body, result])
        unpack = f"{', '.join(self.floats)}, = (params[name] for name in {self.floats!r})"
        return _define(f"f({self._signature()})", [unpack, *body, result])

    def _signature(self) -> str:
        first = ["params"] if self.form == "meta" else self.floats
        return ", ".join([*first, *self.others, *(f"{name}={text}" for name, text in self.defaults.items())])

    def _run(self) -> str:
        wanted = tuple(range(len(self.floats)))
        if self.form == "plain":
            return "run = f"
        if self.form == "meta":
            return f"run = tm.meta_value_and_grad(f, {', '.join(f'{k}={v!r}' for k, v in self.settings.items())})"
        if self.form == "value_and_grad":
            return f"run = tm.value_and_grad(f, {wanted}, has_aux=True)"
        if self.form == "grad":
            return f"run = tm.grad(f, {wanted})"
        names, floats = ", ".join(self.floats + self.others), ", ".join(self.floats) + ","
        fixed = f"lambda {', '.join(self.floats)}: f({names})"
        if self.form == "hvp":
            return _define(f"run({names})", [
                f"return tm.hvp({fixed}, ({floats}), tuple(np.ones_like(x) for x in ({floats})))"])  # fmt: skip
        inner = f"tm.grad({fixed}, {wanted})({floats[:-1]})"
        return (
            _define(f"slope({names})", [f"return sum(np.sum(g * g) for g in {inner})"])
            + f"""
run = tm.value_and_grad(slope, {wanted})"""
        )

    def text(self) -> str:
        """A script: source and calls."""
        calls = [f"for way in (run, fast):\n    print(way({', '.join(map(literal, self.nested(call)))}))"
                 for call in self.calls]  # fmt: skip
        if any(change for _, change in self.setup.values()):
            calls += ["change()", calls[-1]]
        return "\n".join([PRELUDE, self.source(), "fast = tm.compile(run)", *calls])

    def nested(self, call: list) -> list:
        """The arguments of `run`."""
        call = copy.deepcopy(call)
        if self.form != "meta":
            return call
        count, data = len(self.floats), tuple(call[len(self.floats) :])
        return [dict(zip(self.floats, call[:count], strict=True)), (data, tuple(x[::-1].copy() for x in data))]

    def load(self, **names) -> dict:
        """The namespace after the source has run, with other things by these names than the prelude's."""
        space: dict[str, Any] = {"__name__": "fuzzed"}
        exec(PRELUDE, space)
        space.update(names)
        exec(compile(self.source(), "<fuzzed>", "exec"), space)
        return space

    def functions(self) -> set[str]:
        """Names of NumPy's functions in it."""
        return set(re.findall(r"np\.((?:linalg\.)?\w+)\(", self.source()))


def _define(head: str, lines: list[str]) -> str:
    return f"def {head}:\n" + textwrap.indent("\n".join(lines), "    ")


def literal(x) -> str:
    """x as source."""
    if isinstance(x, dict):
        return "{" + ", ".join(f"{k!r}: {literal(v)}" for k, v in x.items()) + "}"
    if isinstance(x, (tuple, list)):
        inside = ", ".join(map(literal, x))
        return f"[{inside}]" if isinstance(x, list) else f"({inside},)"
    if isinstance(x, (np.ndarray, np.generic)):
        dtype = "bool" if x.dtype == bool else f"np.{x.dtype}"
        made = f"np.array({x.tolist()!r}, {dtype})"
        return made if x.size else f"np.zeros({x.shape}, {dtype})"
    return repr(x)


# ── drawing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

DTYPES = ["float64", "float32", "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (64, 32, 16, 8))]
FORMS = ["plain", "value_and_grad", "plain", "value_and_grad", "grad", "hvp", "nested", "meta", "meta"]
NUMBERS = ["2", "0.5", "1", "-1", "0", "-1.5", "3.0", "True", "2.0", "1e-3"]
AWKWARD = ["-0.0", "255", "-128", "1e200", "1e-200", "inf", "nan", "False", "2**31", "1e38"]
LARGEST = 150  # elements of an array


class Choices(Protocol):
    """The source of decisions: `random.Random`, or hypothesis, which then makes them small."""

    def randint(self, low: int, high: int) -> int: ...


class Draw:
    """A program that grows, and the values of all its names at every call: a statement must work on all of them."""

    def __init__(self, choices: Choices, jax: bool = False):
        self.choices, self.jax = choices, jax
        self.form = self.of(["value_and_grad", "plain", "nested"]) if jax else self.of(FORMS)
        self.awkward = not jax and self.chance(4)
        self.changes = not jax and self.chance(2)
        self.setup: dict[str, tuple[str, str]] = {}
        self.defaults: dict[str, str] = {}
        self.body: list[tuple[str, str]] = []
        self.count = 0
        self.seeds = np.random.default_rng(self.integer(0, 999))
        calls = 2
        self.spaces = [self._space() for _ in range(calls)]
        self.pool: list[str] = []
        self.floats, self.others, self.arguments = [], [], [[] for _ in range(calls)]
        self.dtype = "float64" if jax or self.chance(2) else "float32"
        for i in range(self.integer(1, 2)):
            self._argument(f"x{i}f", self.floats, self.dtype)
        allowed = ["int64", "bool", "float64"] if jax else DTYPES
        for i in range(2 if self.form == "meta" else self.integer(0, 2)):
            dtype = self.of(allowed)
            self._argument(f"d{i}{'f' if dtype[0] == 'f' else 'i'}", self.others, dtype)
        if self.form != "meta" and not jax and self.chance(4):
            name = self.name("n", "i")
            self.others.append(name)
            self.pool.append(name)
            made = self.of([(2, 3), (0.5, -1.5), (True, False), (1, -1)])
            for arguments, space, x in zip(self.arguments, self.spaces, made, strict=True):
                arguments.append(x)
                space[name] = x

    @staticmethod
    def _space() -> dict:
        space: dict[str, Any] = {}
        exec(PRELUDE, space)
        return space

    def integer(self, low: int, high: int) -> int:
        return self.choices.randint(low, high)

    def of(self, things):
        things = list(things)
        return things[self.integer(0, len(things) - 1)] if things else None

    def chance(self, of: int) -> bool:
        """True once in so many times."""
        return self.integer(0, of - 1) == of - 1

    def name(self, letter: str, kind: str) -> str:
        self.count += 1
        return f"{letter}{self.count}{kind}"

    def _argument(self, name: str, names: list[str], dtype: str) -> None:
        shape = self.shape()
        tasks = (3,) if self.form == "meta" and names is self.others else ()
        names.append(name)
        self.pool.append(name)
        for arguments, space in zip(self.arguments, self.spaces, strict=True):
            x = self.numbers(tasks + shape, dtype)
            arguments.append(x)
            space[name] = x[0] if tasks else x

    def shape(self, most: int = 3) -> tuple[int, ...]:
        """Small; an axis is empty now and then."""
        axes = self.of([2, 1, 2, 3, 0, 1])
        sizes = [3, 2, 4, 1, 3] + ([0] if not self.jax and self.chance(12) else [])
        return tuple(self.of(sizes) for _ in range(min(axes, most)))

    def numbers(self, shape: tuple, dtype: str, small: bool = False) -> np.ndarray:
        """Some of the dtype; in an awkward program, now and then, those at which arithmetic is special."""
        kind, rng = np.dtype(dtype), self.seeds
        if kind.kind == "b":
            return rng.random(shape) < 0.6
        if kind.kind in "iu":
            x = rng.integers(0, 3, shape) - (0 if kind.kind == "u" or small or rng.random() < 0.7 else 2)
            x = np.asarray(x).astype(kind)
            special = [np.iinfo(kind).min, np.iinfo(kind).max, 0]
        else:
            x = np.asarray(rng.uniform(-2, 2, shape)).astype(kind)
            large = min(1e30, float(np.finfo(kind).max))  # of float16 the largest
            special = [0.0, -0.0, 1.0, large, -1e-30, np.inf, np.nan, 0.5, np.finfo(kind).max]
        if self.awkward and not small and x.size:
            where = rng.random(shape) < 0.3
            x = np.where(where, rng.choice(np.array(special, kind), shape), x)
        elif x.size > 1 and rng.random() < 0.3 and not self.jax:  # ties
            x = np.reshape(np.resize(np.ravel(x)[: max(1, x.size // 2)], x.size), shape)
        return np.asarray(x, kind)

    # names, and what may be written in the place of one

    def value(self, name: str):
        return self.spaces[0][name]

    def array(self, kinds: str = "biuf", least: int = 0, most: int = 9, fits: Callable = lambda x: True) -> str | None:
        """The name of an array of these kinds and so many axes: a late one, mostly."""
        if self.jax:  # whose functions of booleans are float32
            kinds = kinds.replace("b", "") or "b"
        found = [n for n in self.pool if isinstance(self.value(n), (np.ndarray, np.generic))
                 and self.value(n).dtype.kind in kinds and least <= self.value(n).ndim <= most
                 and fits(self.value(n))]  # fmt: skip
        return found[-1 - min(self.integer(0, 5), len(found) - 1)] if found else None

    def number(self) -> str:
        if not self.jax and self.chance(5):
            return self.closed_number()
        return self.of(AWKWARD) if self.awkward and self.chance(3) else self.of(NUMBERS)

    def closed_number(self) -> str:
        kind = self.integer(0, 4)
        first, then = self.of([("2", "3"), ("0.5", "-1.5"), ("1", "2"), ("0", "1.5"), ("np.int8(2)", "np.int8(1)"),
                               ("np.float32(0.5)", "np.float32(2)")])  # fmt: skip
        if kind == 0:
            return self.close(first, f"= {then}")
        if kind == 1:
            return self.close(f"type('Settings', (), {{'rate': {first}}})()", f".rate = {then}") + ".rate"
        if kind == 2:
            return self.close(f"[1.0, {first}]", f"[1] = {then}") + "[1]"
        if kind == 3:
            name = self.name("p", "i")
            self.defaults[name] = first
            for space in self.spaces:
                space[name] = eval(first, space)
            return name
        return self.close(f"{{'rate': {first}}}", f"['rate'] = {then}") + "['rate']"

    def closed_array(self, shape: tuple, dtype: str | None = None, small: bool = False) -> str:
        dtype = dtype or ("float64" if self.jax else self.of(DTYPES))
        x = self.numbers(shape, dtype, small)
        change = "[...] = ~{0}" if dtype == "bool" else "[...] = {0}[::-1]" if x.ndim else "[...] = {0} * 2"
        return self.close(literal(x), change)

    def close(self, make: str, change: str) -> str:
        """The name of something that is closed over; `change` is what is written after the name."""
        name = self.name("c", "i")
        change = change.replace("{0}", name)
        change = f"{name} {change}" if change.startswith("=") else f"{name}{change}"
        self.setup[name] = (f"{name} = {make}", change if self.changes else "")
        for space in self.spaces:
            exec(self.setup[name][0], space)
        return name

    def partner(self, x: str) -> str:
        """A value that broadcasts with x: an array, a number, or something that is closed over."""
        shape = np.shape(self.value(x))
        if self.chance(3):
            return self.number()
        if self.chance(4):
            return self.closed_array(self.part_of(shape))
        if self.chance(12) and shape and shape[-1] and not self.jax:
            return repr([self.of([1, 2.0, 0.5]) for _ in range(shape[-1])])
        name = self.array(fits=lambda y: _broadcasts(y.shape, shape))
        return name or self.number()

    def part_of(self, shape: tuple) -> tuple:
        """A shape that broadcasts to this one."""
        shape = shape[self.integer(0, len(shape)) :]
        return tuple(1 if self.chance(4) else n for n in shape)

    def axis(self, x: str, none: bool = True) -> str | None:
        """One axis of x, as source."""
        ndim = np.ndim(self.value(x))
        return self.of([*range(ndim), *range(-ndim, 0), *([None] if none else [])])

    def axes(self, x: str) -> str:
        """Arguments of a reduction."""
        ndim = np.ndim(self.value(x))
        axis = tuple(sorted({self.integer(0, ndim - 1) for _ in range(2)})) if ndim > 1 and self.chance(3) else None
        axis = self.axis(x) if axis is None else axis
        text = "" if axis is None else f", axis={axis}"
        return text + (", keepdims=True" if self.chance(3) else "")

    # statements

    def add(self, text: str, target: str | None = None, keep: bool = False) -> bool:
        """Add a statement, if it works on all calls' numbers, and the results are alike. In an expression's place, a
        statement with `{target}`."""
        made = []
        template = text if "{target}" in text else "{target} = " + text
        for space in self.spaces:
            space = space | {name: copy.deepcopy(space[name]) for name in self.setup}
            try:
                with warnings.catch_warnings(), np.errstate(all="ignore"):
                    warnings.simplefilter("ignore")
                    exec(template.replace("{target}", "made"), space)
            except Exception as error:
                if not (keep and isinstance(error, (TypeError, ValueError, IndexError, OverflowError))):
                    return False
                made = []
                break
            made.append(space["made"])
        if not made:
            name = self.name("v", "i")
            self.body.append((name, template.replace("{target}", name)))
            return True
        ours = (np.ndarray, np.generic, int, float)
        if not all(isinstance(x, ours) and np.size(x) <= LARGEST for x in made):
            return False
        if len({(np.shape(x), np.result_type(x)) for x in made}) > 1 or np.result_type(made[0]).kind not in "biuf":
            return False
        smooth = isinstance(made[0], (np.ndarray, np.generic)) and np.result_type(made[0]).kind == "f"
        name = self.name("v", "f" if smooth and np.size(made[0]) else "i")
        self.body.append((name, template.replace("{target}", name)))
        self.pool.append(name)
        for space, x in zip(self.spaces, made, strict=True):
            space[name] = x
        return True

    def program(self, statements: int) -> Program:
        rules = JAX_RULES if self.jax else RULES
        for _ in range(statements):
            for _ in range(4):  # a rule may not apply
                rule = rules[self.integer(0, len(rules) - 1)]
                text = rule(self)
                if text and self.add(text):
                    break
        if not self.jax and self.chance(25) and (text := self.of(ERRORS)(self)):
            self.add(text, keep=True)
        known = [name for name, _ in self.body if name in self.spaces[0]]
        if not known:
            self.add(f"{self.pool[0]} * 2")
            known = [self.body[-1][0]]
        used = " ".join(text.partition(" = ")[2] or text for _, text in self.body)
        outputs = [n for n in known if not re.search(rf"\b{n}\b", used)] or known[-1:]
        outputs += [n for n in known if n not in outputs and self.chance(4)]
        settings = {}
        if self.form == "meta":
            settings = dict(inner_lr=self.of([0.1, 0.5]), inner_steps=self.integer(0, 3), has_aux=self.chance(2),
                            first_order=self.chance(4), memory="flat" if self.chance(3) else "unrolled")  # fmt: skip
        return Program(self.floats, self.others, self.setup, self.body, outputs, self.form, settings,
                       not self.jax and self.chance(2), self.arguments, self.defaults)  # fmt: skip


def _broadcasts(x: tuple, y: tuple) -> bool:
    return all(n == m or 1 in (n, m) for n, m in zip(x[::-1], y[::-1], strict=False))


def draw(choices: Choices, statements: int | None = None, jax: bool = False) -> Program:
    """A random program."""
    drawing = Draw(choices, jax)
    return drawing.program(statements or drawing.integer(1, 8))


# ── what statements are made of: functions of a `Draw` that return source, or None ──────────────────────────────────

Rule = Callable[[Draw], "str | None"]


def _ufunc(f: np.ufunc) -> Rule:
    kinds = "biuf"

    def rule(d: Draw) -> str | None:
        x = d.array(kinds)
        if x is None:
            return None
        operands = [x, *(d.partner(x) for _ in range(f.nin - 1))]
        if f.nin == 2 and d.chance(3):
            operands.reverse()
        if f in INSIDE and not d.awkward:
            operands[0] = INSIDE[f].format(x)
        return f"np.{f.__name__}({', '.join(operands)})"

    return rule


# what keeps the operand where the function is defined, and smooth
RARE = {
    "cbrt",
    "ldexp",
    "nextafter",
    "spacing",
    "left_shift",
    "right_shift",
    "gcd",
    "lcm",
    "bitwise_count",
    "divmod",
    "modf",
    "frexp",
}  # ufuncs that are replayed, or return a pair
NOT_OF_JAX = {"fmax", "fmin", "remainder", "floor_divide", "copysign", "float_power"}  # other conventions, other dtypes
INSIDE = {np.arccosh: "np.square({}) + 1.5", **{f: "np.sin({}) * 0.9" for f in (np.arcsin, np.arccos, np.arctanh)},
          np.log: "np.abs({}) + 0.5", np.log2: "np.abs({}) + 0.5", np.log10: "np.abs({}) + 0.5",
          np.sqrt: "np.square({}) + 0.5", np.log1p: "np.abs({})", np.reciprocal: "np.square({}) + 0.5"}  # fmt: skip


def _reduction(name: str, kinds: str = "biuf") -> Rule:
    def rule(d: Draw) -> str | None:
        x = d.array(kinds)
        return x and f"np.{name}({x}{d.axes(x)})"

    return rule


def _of_axis(text: str, kinds: str = "biuf", least: int = 1, none: bool = True) -> Rule:
    """`text` with {x}, {axis} and {number}."""

    def rule(d: Draw) -> str | None:
        x = d.array(kinds, least)
        return x and text.format(x=x, axis=d.axis(x, none), number=d.of([1, 2, 0, -1, 3]))

    return rule


def _of(text: str, kinds: str = "biuf", least: int = 0, most: int = 9) -> Rule:
    """`text` with {x}, an array; {y}, one that broadcasts with it, or a number; {n}, {m}: numbers; {i}: an integer."""

    def rule(d: Draw) -> str | None:
        x = d.array(kinds, least, most)
        if x is None:
            return None
        parts = {"x": lambda: x, "y": lambda: d.partner(x), "z": lambda: d.partner(x), "n": d.number, "m": d.number,
                 "i": lambda: str(d.of([0, 1, -1, 2])), "j": lambda: str(d.of([1, 2, 3])),
                 "other": lambda: d.array() or x, "dtype": lambda: _dtype(d),
                 "same": lambda: d.array(kinds, fits=lambda y: y.shape == d.value(x).shape) or x,
                 "shape": lambda: repr(_reshaped(d, x)), "order": lambda: repr(_order(d, x))}  # fmt: skip
        return re.sub(r"\{(\w+)\}", lambda m: parts[m[1]](), text)

    return rule


def _dtype(d: Draw) -> str:
    dtype = d.of(["float64"] if d.jax else DTYPES)
    return "bool" if dtype == "bool" else f"np.{dtype}"


def _reshaped(d: Draw, x: str) -> tuple:
    size = np.size(d.value(x))
    return d.of([(size,), (-1,), (1, size), (size, 1), *((n, size // n) for n in (2, 3) if size and size % n == 0)])


def _order(d: Draw, x: str) -> tuple:
    axes = list(range(np.ndim(d.value(x))))
    return tuple(axes.pop(d.integer(0, len(axes) - 1)) for _ in list(axes))


def _like(d: Draw, x: str, kinds: str = "biuf") -> list[str]:
    """x and up to two more of as many axes."""
    fits = lambda y: y.ndim == np.ndim(d.value(x))  # noqa: E731
    return [x, *(d.array(kinds, fits=fits) for _ in range(d.integer(0, 2)))]


def _joined(name: str) -> Rule:
    def rule(d: Draw) -> str | None:
        x = d.array(least=1 if name == "concatenate" else 0)
        if x is None:
            return None
        parts = _like(d, x)
        if d.chance(4) and not d.jax:
            parts.append(d.closed_array(np.shape(d.value(x))))
        axis = d.axis(x, none=False) if name in ("concatenate", "stack") else None
        return f"np.{name}([{', '.join(parts)}]{f', axis={axis}' if axis is not None else ''})"

    return rule


def _matrices(name: str) -> Rule:
    def rule(d: Draw) -> str | None:
        x = d.array(least=1)
        if x is None:
            return None
        shape = d.value(x).shape
        y = d.array(least=1, fits=lambda y: y.shape[max(y.ndim - 2, 0)] == shape[-1])
        if y is None or d.chance(3):
            y = d.closed_array((shape[-1], d.of([2, 1, 3])))
        return f"({x} @ {y})" if name == "@" else f"np.{name}({x}, {y})"

    return rule


def _einsum(d: Draw) -> str | None:
    x = d.array(least=1, most=3)
    if x is None:
        return None
    letters = "ijk"[: d.value(x).ndim]
    y = d.array(least=1, most=3)
    how = d.of([
        f"{letters}->{letters[::-1]}", f"{letters}->", f"{letters},{letters}->{letters[0]}", f"{letters},{letters}->",
        f"...{letters[-1]}->...", "ij,jk->ik", "ij,ik->jk", "ii->i", "ij,j->i", "i,j->ij", "bij,bjk->bik",
        f"{letters},{letters}",
    ])  # fmt: skip
    operands = [x, y if d.chance(2) and "," in how else x][: how.count(",") + 1]
    return f"np.einsum({how!r}, {', '.join(operands)})"


def _tensordot(d: Draw) -> str | None:
    x, y = d.array(least=1), d.array(least=1)
    return x and f"np.tensordot({x}, {y}, {d.of([1, 0, 2, ([0], [0]), ([-1], [0]), (0, 1)])})"


def _take(name: str) -> Rule:
    def rule(d: Draw) -> str | None:
        x = d.array(least=1)
        if x is None:
            return None
        dtype = "int64" if d.jax else d.of(DTYPES[3:])
        indices = d.array("iu", most=2) if d.chance(2) else d.closed_array(d.shape(2), dtype, small=True)
        if indices is None:
            return None
        if name == "take":
            return f"np.take({x}, {indices}, axis={d.axis(x)})"
        return f"{x}[{indices}]" if d.chance(2) else f"{x}[..., {indices}]"

    return rule


def _argsort(text: str) -> Rule:
    """Of numbers that are distinct: NumPy sorts equal ones in any order."""

    def rule(d: Draw) -> str | None:
        x = d.array(least=1)
        if x is None or any(np.unique(space[x]).size < np.size(space[x]) for space in d.spaces):
            return None
        return text.format(x=x, axis=d.axis(x, none=False))

    return rule


def _along(d: Draw) -> str | None:
    x = d.array(least=1)
    axis = x and d.axis(x, none=False)
    return x and f"np.take_along_axis({x}, np.{d.of(['argmax', 'argmin'])}({x}, {axis}, keepdims=True), {axis})"


def _index(d: Draw) -> str | None:
    x = d.array(least=1)
    if x is None:
        return None
    basic = ["0", "-1", "1:", ":-1", "::2", "::-1", "None", "...", ":", "1:3", "..., None", "-2:", "np.int64(0)"]
    if d.jax:
        return f"{x}[{d.of(basic[:-1])}]"
    advanced = ["[0, 0]", "np.array([1, 0])", "[-1]", "True", "[[0], [1]]", "(0,)", "np.True_", "[]", "False",
                "None, [1, 0]", "[True, False]", "range(2)", "np.array(True)"]  # fmt: skip
    if d.chance(3) and d.value(x).ndim > 1:
        return f"{x}[{d.of(basic[:6])}, {d.of([*basic[:6], '[1, 0]', 'None'])}]"
    return f"{x}[{d.of(advanced if d.chance(2) else basic)}]"


def _mask(d: Draw) -> str | None:
    x = d.array(least=1)
    if x is None:
        return None
    mask = d.closed_array(d.value(x).shape[: d.integer(1, 2)], "bool")
    return f"np.sum({x}[{mask}])" if d.chance(2) else f"{x}[{mask}]"


def _where(d: Draw) -> str | None:
    x = d.array()
    if x is None:
        return None
    shape = np.shape(d.value(x))
    condition = d.of([f"{x} > 0", d.closed_array(d.part_of(shape), "bool"), f"{x} < {d.partner(x)}", "c", f"{x}"])
    if condition == "c":
        condition = d.array("b", fits=lambda y: _broadcasts(y.shape, shape)) or "True"
    branches = [x, d.partner(x)]
    return f"np.where({condition}, {', '.join(branches[:: d.of([1, -1])])})"


def _split(name: str) -> Rule:
    def rule(d: Draw) -> str | None:
        x = d.array(least=1)
        if x is None:
            return None
        axis = d.axis(x, none=False)
        n = d.value(x).shape[axis]
        parts = d.of([2, 3, [1], [1, 2]]) if name == "array_split" else d.of([n, 1, [1], [1, 2]])
        return f"np.{name}({x}, {parts}, axis={axis})[{d.of([0, -1])}]"

    return rule


def _branch(d: Draw) -> str | None:
    """On a flag that is closed over, on a shape, on a dtype, on a value that is read on purpose, on a type."""
    x = d.array()
    if x is None:
        return None
    conditions = [d.close("True", "= False"), f"{x}.ndim > 1", f"{x}.shape[:1] == (3,)", f"{x}.dtype == np.float32",
                  f"len({x}.shape) == {d.integer(0, 2)}", f"float(np.sum(value({x}))) > 0.5",
                  f"isinstance({x}, np.ndarray)", f"hasattr({x}, 'value')",
                  f"{d.closed_number()} > 1", f"int(np.argmax(np.ravel(value({x})))) > 0"]  # fmt: skip
    if not d.jax and d.chance(8):
        return f"try:\n    k = float({x})\nexcept TypeError:\n    k = 2.0\n{{target}} = {x} * k"
    condition = d.of(conditions[1:5] if d.jax else conditions)
    return f"if {condition}:\n    {{target}} = {x} * 2.0\nelse:\n    {{target}} = {x} - 0.5"


def _loop(d: Draw) -> str | None:
    x = d.array("f")
    if x is None:
        return None
    step = d.of(["{target} * 0.5 + i", "np.sin({target}) + {x}", "{target} + {x} * {n}",
                 "np.maximum({target}, {x} - i)"])  # fmt: skip
    step = step.replace("{x}", x).replace("{n}", d.number())
    return f"{{target}} = {x}\nfor i in range({d.integer(1, 3)}):\n    {{target}} = {step}"


def _rows(d: Draw) -> str | None:
    x = d.array(least=1)
    return x and f"sum(row * (i + 1) for i, row in enumerate({x}))"


def _buffer(d: Draw) -> str | None:
    """A buffer is written to after it was used: what was computed before must stay."""
    x = d.array("f")
    if x is None:
        return None
    shape = np.shape(d.value(x))
    if d.chance(3):
        buffer, make = d.closed_array(shape, d.of(["float64", "float32", "int64"])), None
    else:
        buffer, make = "buffer", f"buffer = np.zeros({shape}, {d.of(['float', 'np.float32', 'int', 'bool'])})"
    use = d.of([f"{x} * {buffer}", f"{x} + {buffer}", f"np.where({buffer} > 1, {x}, 0.5)",
                f"np.maximum({x}, {buffer})"])  # fmt: skip
    lines = [make, "{target} = 0.0", "for i in range(3):", f"    {buffer}[...] = i + 1",
             f"    {{target}} = {{target}} + {use}"]  # fmt: skip
    if d.chance(2):
        lines.append(f"{buffer}[...] = 7")
    return "\n".join(filter(None, lines))


def _python(d: Draw) -> str | None:
    """Python's own functions and numbers."""
    x = d.array(least=1)
    return x and d.of([f"len({x}) * {x}", f"{x} * {x}.size", f"{x} / {x}.shape[0]", f"sum([{x}, {x}])", f"abs({x})",
                       f"max(1, {x}.shape[0]) - {x}", f"{x} ** {d.of([2, 3, 0, 1, -1, 0.5])}", f"{x}.ndim + {x}",
                       f"(lambda y, k=2: y * k)({x})", f"[{x}, 2][0]"])  # fmt: skip


def _stop(d: Draw) -> str | None:
    x = d.array("f")
    return x and f"{x} * tm.stop_gradient({x})"


def _inner_gradient(d: Draw) -> str | None:
    x = d.array("f")
    return x and d.of([f"tm.grad(lambda y: np.sum(np.sin(y) * y))({x})",
                       f"tm.value_and_grad(lambda y: np.mean(y ** 3 * {x}))({x})[1]",
                       f"tm.hvp(lambda y: np.sum(np.cos(y)), ({x},), ({x},))[0]"])  # fmt: skip


def _layer(d: Draw) -> str | None:
    x = d.array("f", least=2)
    if x is None:
        return None
    shape, dtype = d.value(x).shape, str(d.value(x).dtype)
    c = lambda *shape, dtype=dtype: d.closed_array(shape, dtype)  # noqa: E731
    n = shape[-1]
    labels = repr([i % n if n else 0 for i in range(shape[0])])
    image = f"np.ones((1, 4, 4, 2), {dtype!r}) * np.mean({x})"
    return d.of([
        lambda: f"tm.nn.linear({x}, {c(n, 2)}, {c(2)})", lambda: f"tm.nn.batch_norm({x}, {c(n)}, {c(n)})",
        lambda: f"tm.nn.batch_norm({x})", lambda: f"tm.nn.mse({x}, {c(*shape)})",
        lambda: f"tm.nn.cross_entropy({x}, np.array({labels}, {_dtype_of_labels(d)}))" if len(shape) == 2 else None,
        lambda: f"tm.nn.binary_cross_entropy({x}, {c(*shape, dtype='bool')} * 1.0)",
        lambda: f"tm.nn.embedding({x}, {d.closed_array((2,), 'int64', small=True)})",
        lambda: f"tm.nn.conv2d({image}, {c(3, 3, 2, 2)}, {d.of([1, 2])}, {d.of(['SAME', 'VALID', 1])!r})",
        lambda: f"tm.nn.max_pool2d(({image}) + np.sin(np.arange(32.0).reshape(1, 4, 4, 2)), 2, "
                f"{d.of(['first', 'split'])!r})",
        lambda: f"tm.nn.avg_pool2d({image}, 2)",
    ])()  # fmt: skip


def _dtype_of_labels(d: Draw) -> str:
    return d.of(["np.int64", "np.uint8", "np.int32", "np.int8"])


def _by_label(d: Draw) -> str | None:
    """Where labels are arguments, or others."""
    x, k = d.array("f", least=1), d.array("biu")
    return x and k and d.of([f"np.mean({x} * ({k} == 1))", f"np.where({k} > 0, {x}, 0)", f"{x} * {k}", f"{x}[{k}]",
                             f"{x} - {k} / 255", f"np.where({k}, {x}, -{x})"])  # fmt: skip


_PLAIN = [f for f in NUMPY if isinstance(f, np.ufunc) and f.signature is None and f.__name__ not in RARE]
ELEMENTWISE = [_ufunc(f) for f in _PLAIN]
_RARE = [_of("np.cbrt({x})"), _of("np.spacing({x})"), _of("np.nextafter({x}, {y})"), _of("np.ldexp({x}, {j})"),
         *(_of(f"np.{name}({{x}}, {{j}})", "biu") for name in ("left_shift", "right_shift", "gcd", "lcm")),
         _of("np.bitwise_count({x})", "biu"), _of("np.divmod({x}, {y})[0]"),
         _of("np.modf({x})[0]"), _of("np.frexp({x})[0]"), _of("np.i0({x})"), _of("np.sinc({x})"),
         _of("np.angle({x})"), _of("{x} * np.array_equal({x}, {same})"),
         _of("{x} * np.array_equiv({x}, {same})")]  # fmt: skip
ROUNDED = [*[lambda d: d.of(_RARE)(d)] * 2, _of("{x} % {y}"), _of("{x} // {y}"), _of("{x}.round({j})"),
           *(_of(f"np.{name}({{x}})") for name in ("deg2rad", "radians", "rad2deg", "degrees", "fix", "isposinf",
                                                   "isneginf", "nan_to_num", "round", "around", "real", "imag",
                                                   "isreal", "iscomplex", "real_if_close")),
           _of("{x} * np.isrealobj({x})"),
           _of("np.nan_to_num({x}, nan=1.5, posinf=2.0)"), _of("np.isclose({x}, {y})"),
           _of("{x} * np.allclose(1.0, {x}.shape)"),
           _of("np.real({x}) + np.imag({x}) * np.angle({x})"), _of("np.conj({x}) * np.isreal({x})"),
           _of("{x} * np.isrealobj({x})")]  # fmt: skip
REDUCTIONS = [*map(_reduction, ("sum", "mean", "max", "min", "prod", "any", "all", "amax", "amin", "var", "std")),
              _reduction("argmax"), _reduction("argmin"), _of("np.var({x}, ddof=1)"), _of("np.std({x}, ddof={i})"),
              _of_axis("np.cumsum({x}, axis={axis})"), _argsort("np.argsort({x}, axis={axis})"),
              _of_axis("np.linalg.norm({x}, axis={axis})"),
              _of("np.linalg.norm({x})"), _of("np.linalg.norm({x}, 1)", least=1, most=1),
              _of("np.linalg.norm({x}, np.inf, axis=0)", least=1),
              _of("np.linalg.norm({x}, 3, axis=-1)", least=1)]  # fmt: skip
SHAPES = [_of("np.reshape({x}, {shape})"), _of("np.ravel({x})"), _of("np.transpose({x})"),
          _of("np.transpose({x}, {order})"), _of_axis("np.swapaxes({x}, 0, {axis})", none=False),
          _of_axis("np.moveaxis({x}, {axis}, 0)", none=False),
          _of("np.matrix_transpose({x})", least=2), _of("np.linalg.matrix_transpose({x})", least=2),
          _of("np.squeeze({x})"), _of("np.expand_dims({x}, {i})"), _of("np.atleast_1d({x})"),
          _of("np.broadcast_to({x}, (2, *{x}.shape))"), _of("np.flip({x})"), _of_axis("np.flip({x}, {axis})"),
          _of_axis("np.roll({x}, {number}, {axis})"), _of("np.pad({x}, {j})"),
          _of("np.pad({x}, 1, constant_values={n})"),
          _of("np.tile({x}, 2)"), _of("np.tile({x}, (2, 1))"), _of_axis("np.repeat({x}, 2, axis={axis})"),
          _of_axis("np.diff({x}, axis={axis})", none=False), _of("np.diff({x}, 2)", least=1), _of("np.copy({x})"),
          _of("np.trace({x})", least=2), _of("np.trace({x}, {i})", least=2), _of("np.diagonal({x}, {i})", least=2),
          _of("np.diag({x}, {i})", least=1, most=2), _of("np.tril({x}, {i})", least=2), _of("np.triu({x})", least=2),
          *map(_joined, ("concatenate", "stack", "vstack", "hstack")),
          *map(_split, ("split", "array_split"))]  # fmt: skip
PRODUCTS = [*map(_matrices, ("@", "matmul", "dot")), _of("np.dot({x}, {n}) + 1"), _of("np.vdot({x}, {same})"),
            _of("np.inner({x}, {same})"), _of("np.outer({x}, {other})"), _of("np.kron({x}, {other})"),
            _of("np.cross(np.stack([{x}, 2 * {x}, {x}], -1), np.arange(3))"), _tensordot, _einsum, _einsum]  # fmt: skip
PRODUCTS += [_of(f"np.{name}({text})", least=1) for name, text in {
    "vecdot": "{x}, {same}", "matvec": "{x}[..., None], {x}[..., :1]", "vecmat": "{x}, {x}[..., None]",
}.items() if hasattr(np, name)]  # NumPy 2.0 has the first, 2.2 the others  # fmt: skip
CHOOSING = [_of("np.clip({x}, {n}, {m})"), _of("np.clip({x}, None, {y})"), _of("np.clip({x}, {y}, {z})"),
            _where, _where, _take("take"), _along, _argsort("np.take_along_axis({x}, np.argsort({x}, {axis}), {axis})"),
            _take("index"), _index, _index, _index]  # fmt: skip
OPERATORS = [_of("{x} + {y}"), _of("{y} + {x}"), _of("{x} - {y}"), _of("{y} - {x}"), _of("{x} * {y}"), _of("{y} * {x}"),
             _of("{x} / {y}"), _of("{y} / {x}"), _of("{x} ** {y}"), _of("{n} ** {x}"), _of("-{x}"), _of("+{x}"),
             _of("abs({x})"), _of("~{x}", "biu"), _of("{x} & {y}", "biu"), _of("{x} | {y}", "biu"),
             _of("{x} ^ {y}", "biu"), _of("{x} == {y}"), _of("{x} != {y}"), _of("{x} < {y}"), _of("{x} <= {y}"),
             _of("{x} > {y}"), _of("{x} >= {y}"), _of("({x} > 0) + ({x} < {y})"), _of("({x} + 0) * {n}")]  # fmt: skip
METHODS = [*(_of(f"{{x}}.{m}()")
             for m in ("sum", "mean", "var", "std", "prod", "max", "min", "cumsum", "argmax", "argmin", "any", "all",
                       "ravel", "squeeze", "flatten", "copy", "transpose")),
           *(_of_axis(f"{{x}}.{m}({{axis}})", none=False)
             for m in ("sum", "mean", "max", "min", "prod", "any", "cumsum", "argmax", "std")),
           _of("{x}.sum(axis=0, keepdims=True)", least=1), _of("{x}.T"), _of("{x}.mT", least=2), _of("{x}.reshape(-1)"),
           _of("{x}.reshape({shape})"), _of("{x}.astype({dtype})"), _of("{x}.astype({dtype})"),
           _of("{x}.clip({n}, {m})"),
           _of("{x}.swapaxes(0, -1)", least=1), _of("{x}.take([0, 0])", least=1), _of("{x}.repeat(2)"),
           _of("{x}.trace()", least=2), _of("{x}.diagonal()", least=2), _of("{x}.dot({n}) + 1")]  # fmt: skip
ASKING = [_of("np.zeros_like({x}) + {y}"), _of("np.ones_like({x}) * {y}"), _of("np.full_like({x}, {n})"),
          _of("np.full_like({x}, np.sum({other}))"), _of("np.shape({x})[-1] * {x}", least=1), _of("np.ndim({x}) + {x}"),
          _of("np.size({x}) * {x}"), _of("{x} * np.iscomplexobj({x})")]  # fmt: skip
NETWORKS = [_of("tm.nn.relu({x})", "f"), _of("tm.nn.softplus({x})", "f"), _of("tm.nn.sigmoid({x})", "f"),
            _of("tm.nn.relu({x}, 0.5)", "f"), _layer, _layer, _layer]  # fmt: skip
CONSTRUCTS = [_mask, _branch, _branch, _loop, _rows, _buffer, _buffer, _python, _python, _stop, _inner_gradient,
              _by_label, _by_label]  # fmt: skip


def _any_of(texts: str, **how) -> Rule:
    """One of these texts, divided by semicolons, as `_of` reads them."""
    choices = [_of(text.strip(), **how) for text in texts.split(";")]
    return lambda d: d.of(choices)(d)


MORE = _any_of("""
    np.real({x}); np.imag({x}); np.isreal({x}); np.iscomplex({x}); np.real_if_close({x}); {x} * np.isrealobj({x});
    np.cbrt({x}); np.ptp({x}, axis=0); np.average({x}, axis=0); np.count_nonzero({x});
    np.sum({x}, 0, initial=2, where={x} > {n}); np.cov({x}); np.corrcoef({x}); np.nansum({x}); np.nanprod({x}, 0);
    np.nanmean({x}, -1); np.nanvar({x}); np.nanstd({x}); np.nanmax({x}, 0); np.nanmin({x}); np.nancumsum({x}, -1);
    np.nancumprod({x}, 0); np.cumprod({x}, 0); np.cumulative_sum({x}, axis=0, include_initial=True);
    np.cumulative_prod({x}, axis=-1); np.ediff1d({x}, {n}); np.gradient({x}, axis=0); np.trapezoid({x});
    np.unwrap({x}); np.compress([True, False], {x}, 0); np.extract(np.ones({x}.shape, bool), {x});
    np.select([{x} > {y}], [{x}], {n}); np.choose([1], [{x}, {x} * 2]); np.isin({x}, [0, 1]); np.atleast_2d({x});
    np.atleast_3d({x}); np.broadcast_arrays({x}, {y})[0]; np.dstack([{x}, {same}]); np.column_stack([{x}, {x}]);
    np.unstack({x})[0]; np.hsplit({x}, 1)[0]; np.vsplit({x}, 1)[0]; np.dsplit({x}[None, None], 1)[0];
    np.fliplr({x}); np.flipud({x}); np.rot90({x}, {i}); np.rollaxis({x}, -1); np.resize({x}, (3, 2));
    np.empty_like({x}).shape[0] * {x}; np.append({x}, {other}); np.delete({x}, 0, 0); np.insert({x}, 1, {n}, 0);
    np.block([{x}, {x}]); np.linspace({x}, {n}, 3); np.logspace({x}, 1, 2, base=2.0);
    np.geomspace(np.abs({x}) + 0.5, 3, 3); np.meshgrid({x}, {x}, sparse=True)[1]; np.ix_({x}, {x})[0];
    np.vander({x}, 3); np.diagflat({x}, 1); np.apply_along_axis(np.sum, 0, {x});
    np.apply_over_axes(np.sum, {x}, 0); np.pad({x}, 1, "edge"); np.pad({x}, 1, "reflect"); np.pad({x}, 1, "mean");
    np.convolve({x}, [1, {n}], "same"); np.correlate({x}, {x}); np.polyval([1, {n}], {x});
    np.bincount([0, 2, 0][:len({x})], {x}[:3]); np.take({x}, [7, -5], 0, mode="wrap"); np.add.reduce({x});
    np.maximum.accumulate({x}); np.multiply.outer({x}, [1, 2])
""", least=1)  # fmt: skip
ORDERED = _any_of("""
    np.sort({x}, 0); np.partition({x}, 0, 0)[0]; np.argpartition({x}, 0, 0).shape[0] * {x}; np.median({x}, 0);
    np.quantile({x}, 0.3); np.percentile({x}, [20, 60], 0); np.nanmedian({x}); np.nanquantile({x}, 0.4, 0);
    np.nanpercentile({x}, 70); np.angle({x}); np.nanargmax({x}); np.nanargmin({x}, 0);
    np.searchsorted([-1, 0.1, 2], {x});
    np.digitize({x}, [-1, 0.1, 2]); np.histogram({x}, [-2, 0.1, 3])[0]; np.lexsort([{x}]).shape[0] * {x};
    np.interp({x}, [-1, 0.1, 2], [1, 3, 2]); np.unique({x}); {x}[np.nonzero({x})];
    np.ravel({x})[np.flatnonzero({x})]; np.argwhere({x}); np.piecewise({x}, [{x} > {n}], [lambda y: y * 2, 3])
""", least=1)  # fmt: skip
RULES: list[Rule] = [*OPERATORS, *ELEMENTWISE, *ROUNDED, *METHODS, *REDUCTIONS, *SHAPES, *PRODUCTS, *CHOOSING, *ASKING,
                     *NETWORKS, *CONSTRUCTS, *[MORE] * 16, *[ORDERED] * 5]  # fmt: skip
OF_JAX = [_ufunc(f) for f in _PLAIN if f.__name__ not in NOT_OF_JAX]
JAX_RULES: list[Rule] = [*OPERATORS, *OF_JAX, *REDUCTIONS, *SHAPES, *PRODUCTS, *CHOOSING, *NETWORKS[:3], _branch,
                         _loop]  # fmt: skip
ERRORS: list[Rule] = [_matrices("@"), _index, _take("index"), _of("np.reshape({x}, (5, 7))"), _of("{x} + {other}"),
                      _of("np.sum({x}, axis=7)"), _of("np.concatenate([{x}, {other}])"), _of("{x} ** -2", "iu"),
                      _of("-{x}", "b"), _of("{x} + 300", "iu")]  # fmt: skip


# ── how far apart two ways may be ───────────────────────────────────────────────────────────────────────────────────

UNITS, TRIES = 8, 5  # ε of the largest number added up; runs with noise
EXACT = {"alias", "stop_gradient", "input", "floor", "ceil", "rint", "trunc", "sign", "floor_divide", "max", "min",
         "maximum", "where", "getitem", "reshape", "transpose", "broadcast_to", "concatenate", "patches", "pick",
         "unpick", "above", "astype", "argmax", "argmin", "argsort", "pool_argmax",
         "nanargmax", "nanargmin", "searchsorted"}  # fmt: skip
SUMS = {"sum", "matmul", "scatter_add", "unpatches", "cumsum"}


class Rounding:
    """For each number of a recorded program's outputs, how far rounding may move it.

    The program runs several times with noise after every equation that rounds: of some ε of the result, and of the
    summands of a sum. The noise changes the same results as another order of the same operations may change, wherever
    numbers cancel, are amplified, or lie at a kink; where it moves an integer, a boolean, a NaN or an infinity, nothing
    is asked.

    Attributes:
        exact: the outputs.   allowed: for each, an array of distances; infinite where nothing is asked.
    """

    def __init__(self, program, arrays: list):
        self.program, self.rng = program, np.random.default_rng(0)
        self.exact = self._run(arrays, 0)
        noisy = [self._run(arrays, 4) for _ in range(TRIES)]
        self.allowed = [self._allow(x, [run[i] for run in noisy]) for i, x in enumerate(self.exact)]

    def _run(self, arrays: list, noise: float) -> list:
        values = dict(zip(self.program.inputs, arrays, strict=True))
        for e in self.program.equations:
            inputs = [values[x] if isinstance(x, Var) else x for x in e.inputs]
            out = e.primitive.forward(*inputs, **e.params)
            values[e.output] = self._disturbed(e, inputs, out, noise) if noise else out
        return [values[x] if isinstance(x, Var) else x for x in self.program.outputs]

    def _disturbed(self, e, inputs: list, out, noise: float):
        if np.result_type(out).kind != "f" or not np.size(out):
            return out
        if e.primitive.name == "max" and len({*np.signbit(inputs[0][inputs[0] == 0])}) > 1:  # NumPy takes either zero
            return np.where(out == 0, self.rng.uniform(1, 2, np.shape(out)) * np.finfo(out.dtype).tiny, out)
        if e.primitive.name in EXACT:
            return out
        size = np.abs(out)
        if e.primitive.name in SUMS:
            sizes = [np.abs(x) if np.result_type(x).kind == "f" else x for x in inputs]
            size = e.primitive.forward(*sizes, **e.params)
        elif all(np.all(x == np.rint(x)) and np.all(np.abs(x) < 2**20) for x in (out, *inputs)):
            return out  # whole numbers are not rounded
        u = self.rng.uniform(-1, 1, np.shape(out))
        moved = out + u * noise * np.finfo(out.dtype).eps * np.where(np.isfinite(size), size, 0)
        if e.primitive.name == "matmul":  # of infinity times 0 BLAS makes NaN or 0
            moved = np.where(np.isfinite(out), moved, u)
        return moved.astype(out.dtype)

    @staticmethod
    def _allow(x, noisy: list):
        """Distances for the output x, of what it was with noise."""
        x = np.asarray(x)
        if x.dtype.kind != "f":
            return np.where(np.any([x != y for y in noisy], 0), np.inf, 0.0)
        wide = x.astype(np.float64)
        finite = np.isfinite(wide)
        moved = np.max([np.abs(np.where(finite, np.asarray(y, np.float64) - wide, 0)) for y in noisy], 0)
        rounding = UNITS * float(np.finfo(x.dtype).eps) * np.abs(np.where(finite, wide, 0))
        same = np.all([_alike(wide, np.asarray(y, np.float64)) for y in noisy], 0)
        # a little more than the smallest number: below it, there are fewer digits
        return np.where(same, rounding + UNITS * moved + 4 * float(np.finfo(x.dtype).tiny), np.inf)


def _alike(x, y):
    """Whether two numbers are both finite, or both NaN, or the same infinity."""
    return np.where(np.isfinite(x), np.isfinite(y), (x == y) | (np.isnan(x) & np.isnan(y)))


def tolerances(program: Program, run: Callable, call: list) -> list | None:
    """For each leaf of `run`'s result at this call, the distances that rounding explains; None: it cannot be recorded,
    and what cannot be recorded runs as it is."""
    args = program.nested(call)
    try:
        recorded = tm.record(run, *args)
        if program.form != "meta":
            return Rounding(recorded, recorded.leaves(args)).allowed
        params, (support, query) = args
        of_tasks = [Rounding(recorded, recorded.leaves((params, _row(support, t), _row(query, t)))).allowed
                    for t in range(len(support[0]))]  # fmt: skip
    except Exception:
        return None
    gradients = len(program.floats)
    mean = [sum(column) for column in zip(*of_tasks, strict=True)]
    aux = [x for task in of_tasks for x in task[1 : len(task) - gradients]]
    return [mean[0], *aux, *mean[len(mean) - gradients :]]


def _row(data: tuple, t: int) -> tuple:
    return tuple(x[t] for x in data)


def difference(seen, wanted, allowed: list | None, coarsest: float = 0.0) -> tuple[str, str] | None:
    """The first difference, and its way: a kind, and a sentence; None if nothing does.

    A NumPy scalar and an array of shape () are the same here; Python's numbers are neither.

    Args:
        allowed: distances, see `tolerances`; None: as many ε as are few.   coarsest: the largest ε on the way.
    """
    if isinstance(wanted, Raised) or isinstance(seen, Raised):
        if isinstance(wanted, Raised) and isinstance(seen, Raised) and wanted.type == seen.type:
            return None
        return "error", f"{_said(seen)}, wanted {_said(wanted)}"
    ours, right = _flat(seen), _flat(wanted)
    if [path for path, _ in ours] != [path for path, _ in right]:
        return "nest", f"{[path for path, _ in ours]}, wanted {[path for path, _ in right]}"
    distances = iter(allowed or [])  # none: it could not be recorded
    for (path, x), (_, y) in zip(ours, right, strict=True):
        types = [np.ndarray if isinstance(z, (np.ndarray, np.generic)) else type(z) for z in (x, y)]
        if types[0] is not types[1]:
            return "type", f"{path}: a {types[0].__name__}, wanted a {types[1].__name__} ({x!r}, {y!r})"
        if path.endswith(("()", "[]")) or not isinstance(y, (np.ndarray, np.generic, int, float)):
            if x != y:
                return "nest" if isinstance(x, int) else "value", f"{path}: {x!r}, wanted {y!r}"
            continue
        distance = next(distances, None)
        if (np.shape(x), np.result_type(x)) != (np.shape(y), np.result_type(y)):
            return "dtype", f"{path}: {np.result_type(x)} {np.shape(x)}, wanted {np.result_type(y)} {np.shape(y)}"
        if found := _distance(np.asarray(x), np.asarray(y), distance, coarsest):
            return found[0], f"{path}: {found[1]}"
    return None


def _distance(x: np.ndarray, y: np.ndarray, allowed, coarsest: float) -> tuple[str, str] | None:
    if y.dtype.kind == "c":
        x, y = (np.stack([z.real, z.imag], -1) for z in (x, y))
        allowed = None if allowed is None else np.stack([allowed, allowed], -1)
    if allowed is None or np.shape(allowed) != y.shape:
        finite = np.abs(y[np.isfinite(y)]) if y.dtype.kind == "f" else np.zeros(0)
        eps = max(float(np.finfo(y.dtype).eps), coarsest) if finite.size else 0.0
        allowed = np.full(y.shape, 1000 * eps * finite.max(initial=0))
    asked = np.isfinite(allowed)
    if y.dtype.kind != "f":
        wrong = asked & (x != y)
    else:
        a, b = x.astype(np.float64), y.astype(np.float64)
        apart = np.abs(np.where(np.isfinite(a), a, 0) - np.where(np.isfinite(b), b, 0))
        with np.errstate(invalid="ignore"):
            wrong = asked & ~(_alike(a, b) & (apart <= allowed))
        unmoved = allowed <= 5 * float(np.finfo(y.dtype).tiny)
        signs = unmoved & (a == 0) & (b == 0) & (np.signbit(a) != np.signbit(b))
        if np.any(signs) and not np.any(wrong):
            at = tuple(int(i) for i in np.argwhere(signs)[0])
            return "sign of zero", f"at {at} {x[at]!r}, wanted {y[at]!r}"
    if not np.any(wrong):
        return None
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    bound = f", at most {allowed[at]:.1e} apart" if allowed[at] else ""
    return "value", f"at {at} {x[at]!r}, wanted {y[at]!r}{bound}"


def _flat(x, path: str = "") -> list[tuple[str, Any]]:
    """Leaves with where they are; containers by their types."""
    if isinstance(x, dict):
        return [leaf for key, child in x.items() for leaf in _flat(child, f"{path}[{key!r}]")]
    if isinstance(x, (list, tuple)):
        kind = "[]" if isinstance(x, list) else "()"
        return [(path + kind, len(x)), *(leaf for i, child in enumerate(x) for leaf in _flat(child, f"{path}[{i}]"))]
    return [(path, x)]


# ── running ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Raised:
    """An error in the place of a value."""

    type: type
    text: str


def _said(x) -> str:
    return f"{x.type.__name__}: {x.text[:200]}" if isinstance(x, Raised) else "a value"


@dataclass
class Finding:
    """A difference of a way of running: its kind, and the call."""

    way: str
    kind: str
    what: str
    program: Program

    @property
    def key(self) -> str:
        """The same for programs that differ in names, numbers and shapes; after a change, in what was done with it."""

        def plain(text: str) -> str:
            text = re.sub(r"np.array\(.*, ", "np.array(", re.sub(r"\b[xdnvcp]\d+[fi]\b", "x", text))
            return re.sub(r"\[[^a-z]*\]|(?<![a-z\d])-?\d[\d.e+]*", "#", text)

        after = self.what.startswith("after a change")
        lines = [make for make, _ in self.program.setup.values()] if after else [text for _, text in self.program.body]
        return f"{self.way}, {self.kind}{', after a change' * after}: {'; '.join(map(plain, lines))[:150]}"

    def __str__(self) -> str:
        return f"{self.way} differs ({self.kind}): {self.what}\n\n{textwrap.indent(self.program.text(), '    ')}"


@dataclass
class Outcome:
    """findings; the reasons of fallbacks; why a program was not recorded, or not asked."""

    findings: list[Finding] = field(default_factory=list)
    fallbacks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    compiled: bool = False


def called(f: Callable, args: list):
    """f(*args), or what it raised."""
    try:
        with np.errstate(all="ignore"):
            return f(*args)
    except Exception as error:
        return Raised(type(error), str(error))


def sequence(program: Program, space: dict, run: Callable) -> list:
    """The results of all calls; then, what is closed over is changed, of the last call again."""
    results = [called(run, program.nested(call)) for call in program.calls]
    if not any(change for _, change in program.setup.values()):
        return results
    space["change"]()
    return [*results, called(run, program.nested(program.calls[-1]))]


def on_tensors(run: Callable) -> Callable:
    """The values of `run`, whose arguments that are arrays become tensors."""

    def value(x):
        if isinstance(x, (list, tuple)):
            return type(x)(map(value, x))
        return x.value if isinstance(x, tm.Tensor) else x

    return lambda *args: value(run(*(tm.Tensor(x) if isinstance(x, np.ndarray) else x for x in args)))


def examine(program: Program, ways: tuple[str, ...]) -> Outcome:
    """Run a program in these ways, beside the reference."""
    outcome = Outcome()
    coarsest = float(np.finfo(np.float32).eps) if "float32" in program.text() else 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        space = program.load()
        bounds = [tolerances(program, space["run"], call) for call in program.calls]
        space = program.load()  # anew: it may keep something
        wanted = sequence(program, space, space["run"])
        bounds.append(tolerances(program, space["run"], program.calls[-1]))
        for way in ways:
            seen = _seen(program, way, outcome)
            if outcome.findings:
                return outcome
            for i, (one, right, bound) in enumerate(zip(seen, wanted, bounds, strict=False)):
                if way == "jax":
                    one, right = _finite(one, right)
                if found := difference(one, right, bound, coarsest):
                    when = ["first call", "second call"][i] if i < len(program.calls) else "after a change"
                    outcome.findings.append(Finding(way, found[0], f"{when}: {found[1]}", program))
                    return outcome  # the other ways mostly differ for the same reason
    return outcome


def _seen(program: Program, way: str, outcome: Outcome) -> list:
    """The results of one way; fewer than those of the reference, where it cannot do them."""
    space = program.load()
    run = space["run"]
    if way == "tensors":
        asks = re.search(r"isinstance|hasattr|except", program.source())  # whether it is given tensors
        return sequence(program, space, on_tensors(run)) if program.form == "plain" and not asks else []
    if way == "record":
        if program.form == "meta":
            return []
        try:
            recorded = tm.record(run, *program.nested(program.calls[0]))
        except Exception as error:
            outcome.notes.append(f"not recorded: {type(error).__name__}: {_general(str(error))}")
            return []
        seen = [called(recorded, program.nested(call)) for call in program.calls]
        # a Python number may be part of the program
        refused = [isinstance(x, Raised) and "the program was recorded for" in x.text for x in seen]
        return seen[: refused.index(True)] if any(refused) else seen
    if way == "jax":
        return with_jax(program)
    fast = tm.compile(run, backend="replay" if way == "replay" else "numba")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        results = sequence(program, space, fast)
    reasons = [_general(str(w.message)) for w in said if issubclass(w.category, tm.CompileWarning)]
    outcome.fallbacks += [f"{way}: {reason}" for reason in dict.fromkeys(reasons)]
    faults = [str(w.message) for w in said if "this is a fault of tinymaml's" in str(w.message)]
    outcome.findings += [Finding(way, "fault", text, program) for text in faults[:1]]
    outcome.compiled |= way == "compiled" and not reasons
    return results


def _general(text: str) -> str:
    """A message without what differs from program to program."""
    text = re.sub(r"^\w+ (runs as it is|is replayed)", r"\1", text.split("\n")[0])
    return re.sub(r"(?<![a-z\d])\d+", "#", text)[:160]


def _finite(seen, wanted) -> tuple:
    """The values on which JAX and tinymaml must agree: those where ours are finite, in our dtypes."""
    ours, right = ([leaf for path, leaf in _flat(x) if not path.endswith(("()", "[]"))] for x in (seen, wanted))
    if isinstance(seen, Raised) or isinstance(wanted, Raised) or len(ours) != len(right):
        return None, None
    for i, (x, y) in enumerate(zip(ours, right, strict=True)):
        comparable = np.result_type(y) == np.float64 and np.shape(x) == np.shape(y)
        if comparable:  # except which of two zeros it is
            ours[i], right[i] = np.where(np.isfinite(y), x, y) + 0.0, y + 0.0
        else:
            ours[i] = y
    return ours, right


def with_jax(program: Program) -> list:
    """The first two calls in JAX: `jax.numpy` in the place of NumPy, JAX's gradients in that of ours."""
    import jax
    from jax import numpy as jnp

    jax.config.update("jax_enable_x64", True)
    nn = argparse.Namespace(relu=jax.nn.relu, sigmoid=jax.nn.sigmoid, softplus=jax.nn.softplus)

    def value_and_grad(f, argnums, has_aux=False):
        return jax.value_and_grad(f, argnums, has_aux=has_aux)

    ours = argparse.Namespace(nn=nn, grad=jax.grad, value_and_grad=value_and_grad)
    space = program.load(np=jnp, tm=ours)

    def run(*args):
        result = space["run"](*(jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in args))
        return jax.tree.map(lambda x: np.asarray(x) if isinstance(x, jax.Array) else x, result)

    return [called(run, program.nested(call)) for call in program.calls]


# ── making findings small ───────────────────────────────────────────────────────────────────────────────────────────


def smaller(program: Program) -> list[Program]:
    """Programs with less in them: fewer outputs, statements, changes; another variable in the place of one; no inner
    steps; a simpler form."""
    found = []
    if len(program.outputs) > 1:
        found += [replace(program, outputs=[name]) for name in program.outputs]
    for i, (name, _) in enumerate(program.body):
        rest = program.body[:i] + program.body[i + 1 :]
        uses = re.compile(rf"\b{name}\b")
        if not any(uses.search(text) for _, text in rest) and name not in program.outputs:
            found.insert(0, replace(program, body=rest))
        elif any(uses.search(text) for _, text in rest):
            if name not in program.outputs:  # its uses use something before it
                for other in [*program.floats, *program.others, *(n for n, _ in program.body[:i])]:
                    if other[-1] == name[-1]:
                        body = [(n, uses.sub(other, text)) for n, text in rest]
                        found.append(replace(program, body=body))
            found.append(replace(program, outputs=[name], body=program.body[: i + 1]))
    text = " ".join(text for _, text in program.body)
    for name, (make, change) in program.setup.items():
        if not re.search(rf"\b{name}\b", text):
            found.insert(0, replace(program, setup={k: v for k, v in program.setup.items() if k != name}))
        elif change:
            found.append(replace(program, setup=program.setup | {name: (make, "")}))
    unused = [name for name in program.defaults if not re.search(rf"\b{name}\b", text)]
    if unused:
        found.insert(0, replace(program, defaults={k: v for k, v in program.defaults.items() if k not in unused}))
    if len(program.calls) > 1:
        found += [replace(program, calls=[call]) for call in program.calls]
    if program.closure:
        found.append(replace(program, closure=False))
    if program.form not in ("plain", "meta"):
        found += [replace(program, form=form) for form in ("plain", "value_and_grad", "grad")
                  if FORMS.index(form) < FORMS.index(program.form) or form == "plain"]  # fmt: skip
    if program.form == "meta":
        for key, value in (("inner_steps", 0), ("inner_steps", 1), ("memory", "unrolled"), ("first_order", False),
                           ("has_aux", False)):  # fmt: skip
            if program.settings[key] != value and (value != 1 or program.settings[key]):
                found.append(replace(program, settings=program.settings | {key: value}))
    for kind, names in (("floats", program.floats), ("others", program.others)):
        for name in names:
            needed = {"floats": 1, "others": 2 if program.form == "meta" else 0}[kind]
            if len(names) > needed and not re.search(rf"\b{name}\b", text):
                at = [*program.floats, *program.others].index(name)
                calls = [call[:at] + call[at + 1 :] for call in program.calls]
                found.append(replace(program, calls=calls, **{kind: [n for n in names if n != name]}))
    return found


def minimise(program: Program, fails: Callable[[Program], bool], seconds: float = 60) -> Program:
    """A program that still `fails`, none of whose `smaller` ones does, or the best within so many seconds."""
    deadline = time.monotonic() + seconds
    progress = True
    while progress:
        progress = False
        for candidate in smaller(program):
            if time.monotonic() > deadline:
                return program
            if fails(candidate):
                program, progress = candidate, True
                break
    return program


def still(finding: Finding) -> Callable[[Program], bool]:
    """Whether a program has a finding like this one."""

    def fails(program: Program) -> bool:
        try:
            found = examine(program, (finding.way,)).findings
        except Exception:
            return False
        return any((one.way, one.kind) == (finding.way, finding.kind) for one in found)

    return fails


def small(finding: Finding, seconds: float = 60) -> Finding:
    """The finding of a smaller program."""
    program = minimise(finding.program, still(finding), seconds)
    return next((one for one in examine(program, (finding.way,)).findings if one.kind == finding.kind), finding)


# ── batches in child processes ──────────────────────────────────────────────────────────────────────────────────────

BATCH, PATIENCE = 100, 180  # programs per process; seconds that one program may take, with making it small


def program_of(seed: int, jax: bool = False) -> tuple[Program, tuple[str, ...]]:
    """The program of a seed, and the ways it is run in."""
    if jax and seed % 8 == 7:
        return draw(random.Random(seed), jax=True), ("jax",)
    compiled = ["compiled"] if seed % 2 == 0 and _installed("numba") else []
    ways = ("tensors", "record", "replay", *compiled)
    return draw(random.Random(seed)), ways


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def batch(first: int, count: int) -> None:
    """Run programs of so many seeds; a line of JSON before each, and one after."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    met: Counter = Counter()
    for seed in range(first, first + count):
        print(json.dumps({"seed": seed}), file=answers, flush=True)
        program, ways = program_of(seed, _installed("jax"))
        try:
            outcome = examine(program, ways)
        except Exception as error:  # of this file
            print(json.dumps({"done": seed, "broken": f"{type(error).__name__}: {error}"}), file=answers, flush=True)
            continue
        findings = []
        for one in outcome.findings:
            sort = one.way, one.kind, one.what.split(":")[0]
            met[sort] += 1
            one = small(one, 20) if met[sort] <= 5 else one
            findings.append({"key": one.key, "text": str(one)})
        done = {"done": seed, "findings": findings, "fallbacks": outcome.fallbacks, "notes": outcome.notes,
                "compiled": outcome.compiled}  # fmt: skip
        print(json.dumps(done), file=answers, flush=True)


def _child(*arguments: str, cache: str, **how) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "bench.fuzz", *arguments], cwd=Path(__file__).parents[1], text=True,
        env=os.environ | {"TINYMAML_CACHE": cache, "JAX_PLATFORMS": "cpu"}, start_new_session=True, **how,
    )  # fmt: skip


def _end(process: subprocess.Popen) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()


def run_batch(first: int, count: int, tell: Callable[[dict], None], patience: float = PATIENCE) -> int:
    """Run a batch in a child, and tell what it answers; the seed with which to go on, after the one that ended it."""
    running, rest = None, b""
    with tempfile.TemporaryDirectory() as cache:
        child = _child("--batch", str(first), str(count), cache=cache, stdout=subprocess.PIPE)
        try:
            while True:
                waiting = patience if running is not None else max(patience, 60)  # for its imports
                ready = select.select([child.stdout], [], [], waiting)[0]
                some = os.read(child.stdout.fileno(), 1 << 16) if ready else b""
                if not some:
                    break
                *lines, rest = (rest + some).split(b"\n")
                for answer in map(json.loads, lines):
                    running = answer.get("seed")
                    if "done" in answer:
                        tell(answer)
            how = "crashed" if ready else "hangs"
            code = child.wait() if ready else None
        finally:
            _end(child)
    if running is None and not code:
        return first + count
    if running is None:
        raise RuntimeError(f"the child process ended with {code}, between programs")
    tell({"done": running, "died": f"{how} ({code})" if ready else f"{how} (for {patience:g} s)"})
    return running + 1


def dies(program: Program, ways: tuple[str, ...], patience: float = 60) -> bool:
    """Whether a process that runs this program crashes or hangs."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "program.pickle")
        file.write_bytes(pickle.dumps((program, ways)))
        child = _child("--one", str(file), cache=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return child.wait(patience) < 0
        except subprocess.TimeoutExpired:
            return True
        finally:
            _end(child)


class Report:
    """The programs that were run, and the differences found so far."""

    def __init__(self, seed: int):
        self.seed, self.start = seed, time.monotonic()
        self.programs = self.compiled = self.jax = 0
        self.fallbacks: Counter = Counter()
        self.notes: Counter = Counter()
        self.findings: dict[str, dict] = {}

    def tell(self, answer: dict) -> None:
        seed = answer["done"]
        self.programs += 1
        program, ways = program_of(seed, _installed("jax"))
        self.jax += "jax" in ways
        if "broken" in answer:
            self.find(seed, f"the fuzzer: {answer['broken']}", answer["broken"])
        if "died" in answer:
            if dies(program, ways):
                program = minimise(program, lambda candidate: dies(candidate, ways), 300)
            text = f"a process {answer['died']}\n\n{textwrap.indent(program.text(), '    ')}"
            self.find(seed, Finding("process", answer["died"], "", program).key, text)
        self.compiled += answer.get("compiled", False)
        self.fallbacks.update(answer.get("fallbacks", ()))
        self.notes.update(answer.get("notes", ()))
        for one in answer.get("findings", ()):
            self.find(seed, one["key"], one["text"])

    def find(self, seed: int, key: str, text: str) -> None:
        found = self.findings.setdefault(key, {"seed": seed, "text": text, "count": 0})
        found["count"] += 1
        if len(text) < len(found["text"]):
            found |= {"seed": seed, "text": text}

    def as_dict(self) -> dict:
        return {"programs": self.programs, "compiled": self.compiled, "jax": self.jax, "seed": self.seed,
                "seconds": round(time.monotonic() - self.start), "fallbacks": dict(self.fallbacks.most_common()),
                "notes": dict(self.notes.most_common()), "findings": self.findings}  # fmt: skip

    def progress(self) -> str:
        return (f"{self.programs:,} programs, {self.compiled:,} of them compiled, {self.jax:,} in JAX; "
                f"{sum(self.fallbacks.values()):,} fallbacks, {len(self.findings)} findings")  # fmt: skip

    def __str__(self) -> str:
        lines = [f"{self.progress()}, in {(time.monotonic() - self.start) / 60:.0f} minutes"]
        for head, counter in (("fallbacks", self.fallbacks), ("notes", self.notes)):
            lines += [f"\n{head}:", *(f"{n:7,}  {reason}" for reason, n in counter.most_common())] if counter else []
        for key, one in sorted(self.findings.items(), key=lambda item: -item[1]["count"]):
            lines.append(f"\n── {one['count']} × {key} ──\nseed {one['seed']}: {one['text']}")
        return "\n".join(lines)


def main(argv: list[str]) -> int:
    if argv[:1] == ["--batch"]:
        batch(int(argv[1]), int(argv[2]))
        return 0
    if argv[:1] == ["--one"]:
        program, ways = pickle.loads(Path(argv[1]).read_bytes())
        examine(program, ways)
        return 0
    parser = argparse.ArgumentParser(
        prog="python -m bench fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60, help="minutes to run (60)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first program; the others follow (0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--show", type=int, metavar="SEED", help="print the program of a seed, and stop")
    args = parser.parse_args(argv)
    if args.show is not None:
        program, ways = program_of(args.show, _installed("jax"))
        print(f"# {', '.join(ways)}\n{program.text()}")
        return 0
    if not args.minutes > 0:
        parser.error(f"--minutes is {args.minutes:g}, wanted more than 0")
    if args.seed < 0:
        parser.error(f"--seed is {args.seed}, wanted at least 0")
    report, seed = Report(args.seed), args.seed
    end = time.monotonic() + 60 * args.minutes
    told = 0.0

    def tell(answer: dict) -> None:
        nonlocal told
        report.tell(answer)
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(report.progress(), file=sys.stderr, flush=True)
        if time.monotonic() > end:
            raise TimeoutError

    try:
        while True:
            seed = run_batch(seed, BATCH, tell)
    except TimeoutError:
        pass
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    print(json.dumps(report.as_dict()) if args.json else report)
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
