"""Awkward inputs of every function: are values what NumPy computes, and derivatives what JAX has?

    python -m bench awkward [--function NAME …] [--seed 0] [--list]

The inputs of a function come from the tables of the tests, `SMOOTH`, `STEPS`, `PLAIN`, `ONE`, `TWO` and
`OPERATORS`, in which each function of `NUMPY`, each operator and each way to index has its lines; `LAYERS` below has
those of `tm.nn`. A function that is in no table is an error. Each line's arrays are made awkward in each of these ways:

    values      as they are; zeros of both signs, ones, ties, all alike; huge, tiny, subnormal; infinities and NaN
    layouts     negative steps, columns first, an axis that is repeated by broadcasting
    shapes      an empty axis, nothing but empty axes, one element along an axis, no axis; a first argument alone
    indices     repeated, of integer arguments
    dtypes      booleans, integers with and without sign, float16 to float64, complex64 and complex128

A pair is a function and such an input. Beside NumPy are compared values, shapes, dtypes, and the errors that inputs
which do not fit raise. Beside JAX, in float64 and complex128, are compared the value, the gradient of a sum of the
outputs with random weights, and the gradient of such a sum of that; shapes and dtypes of all but the first line of a
function are left out there. A difference has a reason in `awkward_reasons`; one without a reason gives exit code 1, as
does a reason that holds for no pair.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import time
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tinymaml as tm
from tinymaml.engine import value_of
from tinymaml.numpy_api import NUMPY, numpy_name

from .awkward_reasons import BESIDE_JAX, REASONS, Reason
from .fuzz import Raised, called, difference

# ── what functions are called on ────────────────────────────────────────────────────────────────────────────────────


class Recipe(NamedTuple):
    """A function, and what it is called on.

    Attributes:
        name: of the function.   place: among the recipes of this name.
        f, args: `f(*args)`; the floating-point arguments are differentiated.
        reference: the same as f, on arrays.
        written: the same in NumPy's functions alone, which JAX has too; None: it is not compared with JAX.
    """

    name: str
    place: int
    f: Callable
    args: tuple[np.ndarray, ...]
    reference: Callable
    written: Callable | None


def tables() -> tuple[types.ModuleType, types.ModuleType]:
    """`tests/test_ops.py` and `tests/test_dtypes.py`, whose tables say how each function is called."""
    folder = str(Path(__file__).resolve().parent.parent / "tests")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module("test_ops"), importlib.import_module("test_dtypes")


def recipes() -> list[Recipe]:
    """All of them.

    Raises:
        LookupError: a function of `NUMPY` or `tm.nn` has none.
    """
    ops, dtypes = tables()
    lines: list[tuple[Any, Callable, tuple, Callable, Callable | None]] = []
    for c in (*ops.SMOOTH, *ops.STEPS, *ops.PLAIN, *ops.BRANCHES):
        if not isinstance(c.key, str):
            lines.append((c.key, c.f, c.args, c.reference, c.reference))
    vector, matrix = ops.point(40, 12), ops.point(41, 3, 4)
    for f, cases in {**dtypes.ONE, **dtypes.OPERATORS}.items():  # what is in ONE is differentiated in SMOOTH
        lines += [(f, case.f, (vector, matrix), case.f, case.f if isinstance(f, str) else None) for case in cases]
    for f, cases in dtypes.TWO.items():
        lines += [(f, case.f, (vector[:, None], vector[::-1] + 0.1), case.f, case.f) for case in cases]
    for name, (f, written, *args) in LAYERS.items():
        lines.append((f"nn.{name}", f, tuple(args), f, written))
    found = []
    count: Counter = Counter()
    for key, f, args, reference, written in lines:
        name = key if isinstance(key, str) else numpy_name(key)
        found.append(Recipe(name, count[name], f, args, reference, written))
        count[name] += 1
    wanted = {numpy_name(f) for f in NUMPY} | {f"nn.{name}" for name in layers()}
    if missing := sorted(wanted - {recipe.name for recipe in found}):
        raise LookupError(f"no recipe for {', '.join(missing)}: write a line in the tables of the tests, or in LAYERS")
    return found


WITH_LAYERS = ("tinymaml.nn", "tinymaml.layers", "tinymaml.normalise")


def layers() -> list[str]:
    """The functions of `tm.nn` that compute something of arrays."""
    own = [name for name, f in vars(tm.nn).items() if getattr(f, "__module__", None) in WITH_LAYERS]
    return [name for name in own if not name.startswith("_")]


def _conv(x, w):
    """The convolution of `tm.nn`, without padding."""
    rows, columns = x.shape[1] - w.shape[0] + 1, x.shape[2] - w.shape[1] + 1
    return sum(x[:, i : i + rows, j : j + columns] @ w[i, j] for i in range(w.shape[0]) for j in range(w.shape[1]))


def _pools(x):
    """The four elements of each window of 2 × 2, along the last axis."""
    n, h, w, c = x.shape
    x = np.reshape(x[:, : h // 2 * 2, : w // 2 * 2], (n, h // 2, 2, w // 2, 2, c))
    return np.reshape(np.transpose(x, (0, 1, 3, 5, 2, 4)), (n, h // 2, w // 2, c, 4))


def _max_pool(x):
    windows = _pools(x)
    return np.take_along_axis(windows, np.argmax(windows, -1, keepdims=True), -1)[..., 0]


def _of_label(z, labels):
    return np.take_along_axis(z, np.expand_dims(labels, -1), -1)[..., 0]


def _logsumexp(x):
    most = np.max(x, 1, keepdims=True)
    return np.log(np.sum(np.exp(x - most), 1, keepdims=True)) + most


def _numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).uniform(-1.5, 1.5, shape)


_X, _W, _ROW, _IMAGE, _LABELS = _numbers(3, 4), _numbers(4, 2), _numbers(4), _numbers(2, 4, 4, 2), np.array([1, 0, 3])
_SHARES = np.abs(_X) / 2
# name → (ours, the same in NumPy's functions, its arguments)
LAYERS: dict[str, tuple] = {
    "linear": (tm.nn.linear, lambda x, w, b: x @ w + b, _X, _W, _ROW[:2]),
    "relu": (tm.nn.relu, lambda x: np.where(x > 0, x, 0.0), _X),
    "softplus": (tm.nn.softplus, lambda x: np.logaddexp(x, 0), _X),
    "sigmoid": (tm.nn.sigmoid, lambda x: np.where(x > 0, 1 / (1 + np.exp(-x)), np.exp(x) / (1 + np.exp(x))), _X),
    "conv2d": (lambda x, w: tm.nn.conv2d(x, w, padding="VALID"), _conv, _IMAGE, _numbers(3, 2, 2, 3)),
    "max_pool2d": (tm.nn.max_pool2d, _max_pool, _IMAGE),
    "avg_pool2d": (tm.nn.avg_pool2d, lambda x: np.mean(_pools(x), -1), _IMAGE),
    "embedding": (tm.nn.embedding, lambda table, ids: table[ids], _W, np.array([[3, 0, 3], [1, 1, 1]])),
    "batch_norm": (tm.nn.batch_norm, tm.nn.batch_norm, _X, _ROW, _ROW[::-1]),
    "moments": (tm.nn.moments, tm.nn.moments, _X),
    "layer_norm": (tm.nn.layer_norm, tm.nn.layer_norm, _X, _ROW, _ROW[::-1]),
    "group_norm": (lambda x: tm.nn.group_norm(x, 2), lambda x, f=tm.nn.group_norm: f(x, 2), _IMAGE),
    "dropout": (lambda x: tm.nn.dropout(x, _X > 0, 0.2), lambda x: np.where(_X > 0, x / 0.8, 0.0), _X),
    "mse": (tm.nn.mse, lambda x, y: np.mean((x - y) ** 2), _X, _SHARES),
    "cross_entropy": (
        tm.nn.cross_entropy, lambda z, y: np.mean(np.log(np.sum(np.exp(z - np.max(z, -1, keepdims=True)), -1))
                                                  + np.max(z, -1) - _of_label(z, y)), _X, _LABELS),
    "logsumexp": (lambda x: tm.nn.logsumexp(x, 1, keepdims=True), _logsumexp, _X),
    "softmax": (lambda x: tm.nn.softmax(x, 1), lambda x: np.exp(x - _logsumexp(x)), _X),
    "log_softmax": (lambda x: tm.nn.log_softmax(x, 1), lambda x: x - _logsumexp(x), _X),
    "binary_cross_entropy": (
        tm.nn.binary_cross_entropy, lambda z, y: np.mean(np.logaddexp(z, 0) - y * z), _X, _SHARES),
}  # fmt: skip


# ── awkward inputs ──────────────────────────────────────────────────────────────────────────────────────────────────

FLOATS = "fc"


def _special(x):
    return np.resize(np.array([np.inf, 1.0, -np.inf, np.nan, -0.0]), x.shape).astype(x.dtype)


def _strided(x):
    """The same numbers, from the last to the first in memory."""
    turn = (slice(None, None, -1),) * x.ndim
    return x[turn].copy()[turn]


VALUES: dict[str, Callable] = {  # of a floating-point argument
    "as they are": lambda x: x,
    "zeros": np.zeros_like,
    "zeros of both signs": lambda x: np.resize(np.array([0.0, -0.0]), x.shape).astype(x.dtype),
    "ones": np.ones_like,
    "ties": lambda x: np.round(x),
    "all alike": lambda x: np.full_like(x, x.flat[0]) if x.size else x,
    "huge": lambda x: x * 1e200,
    "tiny": lambda x: x * 1e-200,
    "subnormal": lambda x: x * 1e-310,
    "infinities and NaN": _special,
    "negative steps": _strided,
    "columns first": lambda x: np.asfortranarray(x),
    "repeated by broadcasting": lambda x: np.broadcast_to(x[:1], x.shape) if x.ndim else x,
}
SHAPES: dict[str, Callable] = {
    "an empty axis": lambda x: x[:0] if x.ndim else x,
    "empty axes": lambda x: x[(slice(0, 0),) * x.ndim],
    "one element": lambda x: x[(slice(0, 1),) * x.ndim],
    "one element along the last axis": lambda x: x[..., :1] if x.ndim else x,
    "no axis": lambda x: np.array(x.flat[0]) if x.size else x,
}
DTYPES = [np.dtype(name) for name in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "e", "f", "F", "D")]


def cast(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """x in this dtype: booleans are signs, integers multiples of a quarter, complex numbers have imaginary parts."""
    if dtype.kind == "b":
        return np.real(x) > 0
    if dtype.kind in "iu":
        x = np.round(4 * np.nan_to_num(np.real(x)))
        return (np.abs(x) if dtype.kind == "u" else x).astype(dtype)
    if dtype.kind == "c":
        return (x + 0.5j * np.reshape(np.ravel(x)[::-1], x.shape)).astype(dtype)
    return np.real(x).astype(dtype)


def inputs(recipe: Recipe, seed: int = 0) -> Iterator[tuple[str, list]]:
    """The arguments that a recipe makes, and the way in which they are awkward."""
    args = list(recipe.args)
    if seed:
        rng = np.random.default_rng(seed)
        args = [x * rng.uniform(0.75, 1.25, x.shape) if x.dtype.kind in FLOATS else x for x in args]
    smooth = [i for i, x in enumerate(args) if x.dtype.kind in FLOATS]

    def with_(change: Callable, places: Sequence[int]) -> list:
        return [change(x) if i in places else x for i, x in enumerate(args)]

    for how, change in {**VALUES, **SHAPES}.items():
        yield how, with_(change, smooth)
    if len(smooth) > 1:
        for how in ("zeros", "no axis", "an empty axis", "one element", "repeated by broadcasting"):
            yield f"{how}, of the first argument", with_({**VALUES, **SHAPES}[how], smooth[:1])
    if len(smooth) < len(args):
        yield "repeated indices", [x if i in smooth else np.zeros_like(x) for i, x in enumerate(args)]
    for dtype in DTYPES:
        yield str(dtype), with_(lambda x, dtype=dtype: cast(x, dtype), smooth)
    if len(smooth) > 1:
        for dtype in map(np.dtype, ("i8", "f", "D")):
            yield f"{dtype}, of the first argument", with_(lambda x, dtype=dtype: cast(x, dtype), smooth[:1])


# ── JAX's functions by NumPy's names ────────────────────────────────────────────────────────────────────────────────


class NoCounterpart(Exception):
    """JAX has no such function."""


class Names:
    """NumPy or a part of it, by whose names JAX's functions are called; dtypes and constants stay NumPy's."""

    def __init__(self, numpys, jaxs):
        self._numpys, self._jaxs = numpys, jaxs

    def __getattr__(self, name: str):
        numpys = getattr(self._numpys, name)
        if isinstance(numpys, types.ModuleType):
            return Names(numpys, getattr(self._jaxs, name, None))
        if isinstance(numpys, type) or not callable(numpys):
            return numpys
        return taking_lists(getattr(self._jaxs, name, None), name)


def taking_lists(f: Callable | None, name: str) -> Callable:
    """JAX's function, which takes lists of numbers, and of arrays in the place of one, as NumPy's does."""
    if f is None:
        raise NoCounterpart(name)

    def of_any(*args, **kwargs):
        try:
            return f(*map(_numbers_as_array, args), **kwargs)
        except TypeError:
            return f(*map(_stacked, args), **kwargs)

    return of_any


def _numbers_as_array(x):
    plain = isinstance(x, list) and x and all(isinstance(i, (bool, int, float)) for i in tm.tree_leaves(x))
    return np.array(x) if plain else x


def _stacked(x):
    import jax

    return jax.numpy.asarray(x) if isinstance(x, list) else x


def in_jax(f):
    """f, or what it holds, with JAX's functions in the place of NumPy's.

    Raises:
        NoCounterpart: JAX has no such function.
    """
    import jax

    if isinstance(f, np.ufunc) or str(getattr(f, "__module__", "")).startswith("numpy") and callable(f):
        parts = numpy_name(f).split(".")
        module = jax.numpy
        for part in parts[:-1]:
            module = getattr(module, part, None)
        found = getattr(module, parts[-1], None) or getattr(jax.scipy.special, parts[-1], None)
        return taking_lists(found, numpy_name(f))
    if not isinstance(f, types.FunctionType):
        return f
    if f.__module__.startswith("tinymaml.") and f.__module__ not in WITH_LAYERS:
        return f
    names = dict(f.__globals__)
    for name in _names(f.__code__):
        held = names.get(name)
        if isinstance(held, types.ModuleType) and held.__name__.startswith("numpy"):  # np, or np.linalg
            names[name] = Names(held, reduce(getattr, held.__name__.split(".")[1:], jax.numpy))
        elif isinstance(held, types.FunctionType) and held is not f:
            names[name] = in_jax(held)
    cells = tuple(types.CellType(in_jax(cell.cell_contents)) for cell in f.__closure__ or ())
    made = types.FunctionType(f.__code__, names, f.__name__, tuple(map(in_jax, f.__defaults__ or ())), cells)
    made.__kwdefaults__ = f.__kwdefaults__
    return made


def _names(code: types.CodeType) -> set[str]:
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return {*code.co_names}.union(*map(_names, inner))


# ── what is compared ────────────────────────────────────────────────────────────────────────────────────────────────


def on_arrays(f: Callable, args: list):
    """The values of f as arrays, with one kind of 0; or what it raised."""
    out = called(f, args)
    return out if isinstance(out, Raised) else tm.tree_map(_array, out)


def _array(x) -> np.ndarray:
    x = np.asarray(value_of(x))
    return x + 0 if x.dtype.kind in FLOATS else x


def on_tensors(recipe: Recipe, args: list):
    smooth = [x.dtype.kind in FLOATS for x in recipe.args]
    return on_arrays(recipe.f, [tm.Tensor(x) if is_ else x for x, is_ in zip(args, smooth, strict=True)])


def alike(ours, wanted):
    """ours, where it is an error that who waits for `wanted` catches: an AxisError is a ValueError, too."""
    kinds = (TypeError, OverflowError, np.exceptions.AxisError, IndexError, np.linalg.LinAlgError, ValueError)
    if isinstance(ours, Raised) and isinstance(wanted, Raised):
        kind = next((k for k in kinds if issubclass(wanted.type, k)), wanted.type)
        return wanted if issubclass(ours.type, kind) else ours
    return ours


class Weights:
    """Random numbers, the same for the same shapes."""

    def __init__(self, seed: int):
        self.seed = seed

    def of(self, i: int, x: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng([self.seed, i, *x.shape])
        w = rng.uniform(0.5, 1.5, x.shape)
        return w + 1j * rng.uniform(0.5, 1.5, x.shape) if x.dtype.kind == "c" else w


def weighted(xp, outputs: list, weights: list):
    """Re Σ w y, over the outputs that have a derivative."""
    terms = [xp.sum(xp.real(w * y) if np.iscomplexobj(w) else w * y) for w, y in zip(weights, outputs, strict=True)
             if w is not None]  # fmt: skip
    return sum(terms[1:], terms[0])


def derivatives(xp, grad: Callable, f: Callable, args: list, places: Sequence[int], wanted: list, seed: int) -> tuple:
    """By `grad`, of f with values `wanted`: functions of nothing for its gradient, and for that of the second order."""
    weights = [Weights(seed).of(i, y) if y.dtype.kind in FLOATS else None for i, y in enumerate(wanted)]
    again = [Weights(seed + 1).of(i, args[place]) for i, place in enumerate(places)]
    every, chosen = tuple(range(len(places))), [args[place] for place in places]

    def of(*xs):
        given = list(args)
        for place, x in zip(places, xs, strict=True):
            given[place] = x
        return weighted(xp, tm.tree_leaves(f(*given)), weights)

    def first(*xs):
        return grad(of, every)(*xs)

    def slope(*xs):
        return weighted(xp, list(first(*xs)), again)

    return lambda: first(*chosen), lambda: grad(slope, every)(*chosen)


class Difference(NamedTuple):
    """In what a pair differs: beside NumPy "value", "error", "dtype", …; beside JAX one of `BESIDE_JAX`."""

    recipe: Recipe
    how: str
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.recipe.name} {self.recipe.place}, {self.how}: {self.what}: {self.text.removeprefix(': ')}"


class Pair(NamedTuple):
    """The result of one comparison. `jax`: "compared", or why not."""

    differences: list[Difference]
    jax: str


@contextmanager
def quietly():
    """Awkward inputs make warnings, of which nothing depends here."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@quietly()
def examine(recipe: Recipe, how: str, args: list, seed: int = 0, with_jax: bool = True) -> Pair:
    wanted = on_arrays(recipe.reference, args)
    found = difference(alike(on_tensors(recipe, args), wanted), wanted, None)
    differences = [Difference(recipe, how, *found)] if found else []
    if isinstance(wanted, Raised):
        return Pair(differences, "NumPy refuses them")
    if not with_jax or recipe.written is None:
        return Pair(differences, "left out")
    if why := not_for_jax(recipe, how, args, tm.tree_leaves(wanted)):
        return Pair(differences, why)
    beside = beside_jax(recipe, args, tm.tree_leaves(wanted), seed)
    if isinstance(beside, str):
        return Pair(differences, beside)
    return Pair([*differences, *(Difference(recipe, how, *one) for one in beside)], "compared")


def not_for_jax(recipe: Recipe, how: str, args: list, outputs: list) -> str:
    """Why a pair is not compared with JAX; empty if it is."""
    if recipe.place and how not in VALUES:  # each other shape compiles all of JAX's functions once more
        return "another shape or dtype, of a function of which another recipe has it"
    if how == "subnormal":
        return "XLA takes subnormal numbers for 0"
    if how in ("negative steps", "columns first"):
        return "the same numbers in another layout"
    smooth = [x for x in args if x.dtype.kind in FLOATS]
    if not smooth or not any(y.dtype.kind in FLOATS for y in outputs):
        return "nothing is differentiated"
    if not all(x.dtype.char in "dD" for x in smooth):
        return "not in float64 or complex128"
    if not all(np.all(np.isfinite(x)) for x in args):
        return "infinities and NaN"
    return "" if importlib.util.find_spec("jax") else "JAX is not installed"


def beside_jax(recipe: Recipe, args: list, outputs: list, seed: int) -> list[tuple[str, str]] | str:
    """In what value, gradient and second derivative differ from JAX's, or why JAX has none."""
    places = tuple(i for i, x in enumerate(args) if x.dtype.kind in FLOATS)
    try:
        theirs = of_jax(recipe.written, places, tuple((y.shape, y.dtype) for y in outputs), seed)(args)
    except NoCounterpart as error:
        return f"JAX has no {error}"
    except Exception as error:
        return f"JAX refuses them: {type(error).__name__}"
    ours = [called(part, []) for part in derivatives(np, tm.grad, recipe.f, args, places, outputs, seed)]
    size, scale = largest([args[i] for i in places]), 0.0
    found: list[tuple[str, str]] = []
    for what, seen, right in zip(BESIDE_JAX, (outputs, *ours), theirs, strict=True):
        if isinstance(seen, Raised):
            found.append((what, f"{seen.type.__name__}: {seen.text[:200]}"))
            continue
        scale = max(largest(right), scale / size if size else 0.0)  # rounding of f(x) is rounding of f'(x) x
        apart = (unlike(x, y, 1000 * np.finfo(float).eps * scale) for x, y in zip(seen, right, strict=True))
        found += [(what, text) for text in apart if text][:1]
    return found


@lru_cache(maxsize=4)  # inputs of the same shapes come one after the other
def of_jax(written: Callable, places: tuple[int, ...], outputs: tuple, seed: int) -> Callable[[list], tuple]:
    """A function of the arguments: JAX's value, gradient and second derivative, compiled where JAX can."""
    import jax

    jax.config.update("jax_enable_x64", True)
    f, like = in_jax(written), [np.broadcast_to(np.zeros((), dtype), shape) for shape, dtype in outputs]

    def answers(*args):
        parts = derivatives(jax.numpy, jax.grad, f, list(args), places, like, seed)
        return (tm.tree_leaves(f(*args)), *(part() for part in parts))

    compiled = jax.jit(answers)

    def answer(args: list) -> tuple:
        jaxs = [jax.numpy.asarray(x) for x in args]
        try:
            return compiled(*jaxs)
        except NoCounterpart:
            raise
        except Exception:  # what depends on values is not compiled
            return answers(*jaxs)

    return answer


def unlike(x, y, allowed: float) -> str:
    """How our array x differs from JAX's y, if it does, by more than is allowed."""
    x, y = np.asarray(x) + 0, np.asarray(y) + 0
    if x.dtype.kind not in FLOATS:
        return ""
    found = difference(x, y.astype(x.dtype), [np.full(y.shape, allowed)])
    return found[1] if found else ""


def largest(arrays: Sequence) -> float:
    """Of the finite numbers."""
    return max(
        (float(np.max(np.abs(x), where=np.isfinite(x), initial=0)) for x in map(np.asarray, arrays)), default=0.0
    )


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Report:
    """The results of pairs so far."""

    def __init__(self, recipes: list[Recipe], seed: int):
        self.recipes, self.seed = recipes, seed
        self.pairs = 0
        self.jax: Counter = Counter()
        self.explained: dict[Reason, list[Difference]] = {}
        self.strange: list[Difference] = []

    def add(self, pair: Pair) -> None:
        self.pairs += 1
        self.jax[pair.jax] += 1
        for found in pair.differences:
            why = next((r for r in REASONS if r.holds(found.recipe.name, found.how, found.what, found.text)), None)
            if why:
                self.explained.setdefault(why, []).append(found)
            else:
                self.strange.append(found)

    def lines(self, every: bool) -> list[str]:
        """A summary; with `every`, each difference that has a reason, too."""
        compared = self.jax.pop("compared", 0)
        names = {recipe.name for recipe in self.recipes}
        lines = [f"{len(names)} functions, {len(self.recipes)} recipes, seed {self.seed}",
                 f"{self.pairs:,} pairs of a recipe and an input beside NumPy",
                 f"{compared:,} of them beside JAX: value, gradient and second derivative; the others:"]  # fmt: skip
        lines += [f"{n:9,}  {why}" for why, n in self.jax.most_common()]
        self.jax["compared"] = compared
        total = sum(map(len, self.explained.values()))
        lines += ["", f"{total + len(self.strange):,} differences, {len(self.strange):,} of them without a reason"]
        for why, found in sorted(self.explained.items(), key=lambda item: -len(item[1])):
            of = sorted({one.recipe.name for one in found})
            lines.append(f"{len(found):9,}  {why.why}: {', '.join(of)}")
            lines += [f"{'':11}{one}" for one in found] if every else []
        return [*lines, *(f"without a reason: {one}" for one in self.strange)]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench awkward", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--function", nargs="+", metavar="NAME", help="these alone: sum, linalg.norm, nn.mse, powers")
    parser.add_argument("--seed", type=int, default=0, help="0: the numbers of the tables; others scale them at random")
    parser.add_argument("--list", action="store_true", help="each difference, and not only how many have which reason")
    args = parser.parse_args(argv)
    # thousands of small functions are compiled, and each runs a few times
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
    every = recipes()
    chosen = [r for r in every if not args.function or r.name in args.function]
    if unknown := set(args.function or ()) - {r.name for r in every}:
        known = ", ".join(sorted({r.name for r in every}))
        parser.error(f"no function {', '.join(sorted(unknown))}; there are {known}")
    if importlib.util.find_spec("jax") is None:
        print("left out: JAX: not installed; pip install 'tinymaml[peers]'", file=sys.stderr)
    report, told = Report(chosen, args.seed), time.monotonic()
    for i, recipe in enumerate(chosen):
        for how, given in inputs(recipe, args.seed):
            report.add(examine(recipe, how, given, args.seed))
        if i % 50 == 49 and "jax" in sys.modules:
            sys.modules["jax"].clear_caches()  # which would take gigabytes
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"{i + 1} of {len(chosen)} recipes, {report.pairs:,} pairs", file=sys.stderr, flush=True)
    stale = [r for r in REASONS if r not in report.explained] if not args.function and not args.seed else []
    told_of = [f"holds for no pair: {r.why} ({r.names}, {r.how}, {r.what})" for r in stale]
    print("\n".join([*report.lines(args.list), *told_of]))
    return 1 if report.strange or stale else 0
