"""Verify: is what a program returns what the function returns?

    differs(ours, wanted)         None, or a `Difference`: a sentence that names the leaf and the size
    explain(task, arrays)         what rounding may do to the results of a task
    unlike(data, count)           the tasks to compare: those that differ most from one another

Nests, types, dtypes, shapes, integers and booleans have to be the same; floats to within UNITS ε of the largest number
that is added up on the way to them, which is what compiled programs promise, or of what an ε there grows to. ε is that
of the least exact float on the way: a float64 that was made of float32 has no further digits. Rounding can also
decide a comparison: a ReLU whose input is 1e-8 here and −1e-8 there has another slope. Such ties are looked for before
a difference is called one (`Explained`); where there are any, a program is accepted if the difference is small as a
whole, or no greater than what noise of an ε makes of it: many steps at a large rate make much of it.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import ops
from ..engine import Tensor, value_of
from ..nest import Nest, tree_items
from .program import Program, Var
from .task import Part, Task

UNITS = 8  # ε of the largest number that is added up
NEAR = 64  # ε of the same: two numbers so close may compare either way
ROUNDING = 1024  # ε of the length of all results, where it would take too long to find out how large its summands are
TRIES = 3  # runs with an ε of noise
SMALL = 0.1  # of the length of all results, if there are ties


class Scale(NamedTuple):
    """How inexact an array is.

    Attributes:
        largest: the largest number that is added up on the way to it.
        eps: the largest ε there; 0 if nothing rounds.
        moved: how far it is moved by an ε everywhere on the way, which powers and quotients may amplify.
    """

    largest: float = 0.0
    eps: float = 0.0
    moved: float = 0.0


class Difference(NamedTuple):
    """A difference in words; `certain` if no bound on rounding could excuse it."""

    text: str
    certain: bool
    share: float  # the length of the difference of all floats, over their length
    eps: float  # the rounding of these floats


def differs(ours: Nest, wanted: Nest, scales: list[Scale] | None = None) -> Difference | None:
    """The first leaf in which two results differ.

    Args:
        scales: for each leaf how inexact it is; without, by its own largest number and its own ε.
    """
    a, b = tree_items(ours), tree_items(wanted)
    if [path for path, _ in a] != [path for path, _ in b]:
        seen, wanted_ = ([path for path, _ in items] for items in (a, b))
        return Difference(f"the result has the leaves {seen}, wanted {wanted_}", True, 1.0, 0.0)
    found, apart, length, eps = None, 0.0, 0.0, 0.0
    for i, ((path, x), (_, y)) in enumerate(zip(a, b, strict=True)):
        name = f"the result{path}"
        if type(x) is not type(y):
            return Difference(f"{name} is a {type(x).__name__}, wanted a {type(y).__name__}", True, 1.0, 0.0)
        if not isinstance(y, (np.ndarray, np.generic, bool, int, float, complex)):
            if not isinstance(y, Tensor) and x is not y and x != y:
                return Difference(f"{name} is {x!r}, wanted {y!r}", True, 1.0, 0.0)
            continue
        x, y = np.asarray(value_of(x)), np.asarray(value_of(y))
        if (x.dtype, x.shape) != (y.dtype, y.shape):
            return Difference(f"{name} is {x.dtype} {x.shape}, wanted {y.dtype} {y.shape}", True, 1.0, 0.0)
        if y.dtype.kind not in "fc":
            if not np.array_equal(x, y):
                bad = int(np.sum(x != y))
                found = found or Difference(f"{name} differs in {bad} of {y.size} elements", False, 0.0, 0.0)
            continue
        if not np.array_equal(np.isfinite(x), np.isfinite(y)) or not np.array_equal(
            x[~np.isfinite(x)], y[~np.isfinite(y)], equal_nan=True
        ):
            found = found or Difference(f"{name} has NaN or infinity where the other has a number", False, 1.0, 0.0)
            continue
        finite = np.isfinite(y)
        x, y = x[finite].astype(np.result_type(y.dtype, float)), y[finite]
        scale = scales[i] if scales else Scale()
        rounding = max(float(np.finfo(y.dtype).eps), scale.eps)
        eps = max(eps, rounding)
        largest = float(np.max(np.abs(y), initial=0))
        distance = float(np.max(np.abs(x - y), initial=0))
        with np.errstate(over="ignore"):
            apart, length = apart + float(np.sum(np.abs(x - y) ** 2)), length + float(np.sum(np.abs(y) ** 2.0))
        allowed = UNITS * max(rounding * max(largest, scale.largest), scale.moved)
        allowed += float(np.finfo(y.dtype).smallest_subnormal)
        if distance > allowed and found is None:
            text = f"{name} is off by {distance:.2g}, the largest entry is {largest:.2g}; {allowed:.2g} is rounding"
            found = Difference(text, False, 0.0, 0.0)
    share = (apart / length) ** 0.5 if length else float(apart > 0)
    return found and found._replace(share=max(found.share, share), eps=eps)


def at_worst(task: Task) -> tuple[float, bool]:
    """Without running a task: the largest ε of its rounding, and whether numbers are compared anywhere."""
    equations = [e for part in task.parts.values() for e in part.program.equations]
    eps = max((_eps(np.empty(0, e.output.dtype)) for e in equations), default=0.0)
    return eps, any(e.primitive.description.decides for e in equations)


class Explained(NamedTuple):
    """The effect of rounding on a task: a scale per slot, and whether a comparison is within rounding of a tie."""

    scales: list[Scale]
    ties: bool


def explain(task: Task, arrays: list[np.ndarray], jumps: bool = False) -> Explained:
    """Run a task in NumPy, equation by equation, and see how large the numbers are that are rounded on the way.

    A sum is as exact as its summands are small: Σ x is off by ε Σ |x|, a matrix product by ε |A| |B|, however small the
    result. So the scale of an equation is that of its summands, and a result's the largest among all it depends on.
    Powers and quotients may make much of an ε: how much, some runs with noise say.

    Args:
        jumps: the noise counts where there is a tie, too, at which a result may jump.
    """
    rng, ties = np.random.default_rng(0), []

    def seen(part: Part, given: list) -> list:
        outputs, scales, tied = _explain(part.program, [x for x, _ in given], [scale for _, scale in given])
        ties.append(tied)
        return [*zip(outputs, scales, strict=True)]

    with np.errstate(all="ignore"):
        given = [(x, Scale(_largest(x))) for x in arrays]
        slots = task.played(given, seen, (None, Scale()))
        exact, scales = [x for x, _ in slots], [scale for _, scale in slots]
        if jumps or not any(ties):
            for _ in range(TRIES):
                noisy = task.played(arrays, lambda part, given: _disturbed(part.program, given, rng))
                moved = [_apart(x, y) for x, y in zip(exact, noisy, strict=True)]
                scales = [s._replace(moved=max(s.moved, far)) for s, far in zip(scales, moved, strict=True)]
    return Explained(scales, any(ties))


def _disturbed(program: Program, arrays: list, rng: np.random.Generator) -> list:
    """The outputs, where every equation that rounds is off by up to an ε of what it adds up, as it happens."""
    values = dict(zip(program.inputs, arrays, strict=True))
    for primitive, inputs, params, output in program.equations:
        given = [values[x] if isinstance(x, Var) else x for x in inputs]
        out = primitive.forward(*given, **params)
        if not primitive.description.exact and (eps := _eps(np.asarray(out))):
            noise = rng.uniform(-eps, eps, np.shape(out)) * _added_up(primitive, given, params, out)
            out = (out + np.where(np.isfinite(noise), noise, 0)).astype(out.dtype)
        values[output] = out
    return [values[x] if isinstance(x, Var) else x for x in program.outputs]


def _added_up(primitive, given: list, params: dict, out):
    """Σ |x| of a sum Σ x over elements of an array, for each element; of anything else its own size."""
    if not primitive.description.adds_up or primitive.description.elementwise:
        return np.abs(out)
    return primitive.forward(*[np.abs(x) if np.asarray(x).dtype.kind == "f" else x for x in given], **params)


def _apart(x, y) -> float:
    """The largest distance of two arrays, where both are finite."""
    if x is None or np.asarray(x).dtype.kind != "f":
        return 0.0
    return float(np.max(np.abs(np.subtract(x, y, dtype=float)), initial=0, where=np.isfinite(x) & np.isfinite(y)))


def _explain(program: Program, arrays: list, rounded: list) -> tuple[list, list, bool]:
    """The outputs; the scale of each; whether there is a tie."""
    values = dict(zip(program.inputs, arrays, strict=True))
    known = dict(zip(program.inputs, rounded, strict=True))
    ties = False
    last = {x: i for i, e in enumerate(program.equations) for x in e.inputs if isinstance(x, Var)}
    last |= {x: len(program.equations) for x in program.outputs if isinstance(x, Var)}
    for i, (primitive, inputs, params, output) in enumerate(program.equations):
        given = [values[x] if isinstance(x, Var) else x for x in inputs]
        before = [known[x] if isinstance(x, Var) else Scale(_largest(x)) for x in inputs]
        out = values[output] = primitive.forward(*given, **params)
        description = primitive.description
        own = _largest(_added_up(primitive, given, params, out))
        if description.adds_up and description.elementwise:  # x + y and x − y
            own = _largest(1.0 * np.abs(given[0]) + np.abs(given[1]))
        scale, eps = max([own, *(x.largest for x in before)]), max((x.eps for x in before), default=0.0)
        if eps and not ties:
            ties = _tied(primitive, given, params, NEAR * eps * scale)
        for x in {x for x in inputs if isinstance(x, Var) and last[x] == i}:
            del values[x]
        if np.asarray(out).dtype.kind in "iub":  # exact, if nothing is tied
            eps = 0.0
        known[output] = Scale(scale, eps if description.exact else max(eps, _eps(np.asarray(out))))
    outputs = [values[x] if isinstance(x, Var) else x for x in program.outputs]
    return outputs, [known[x] if isinstance(x, Var) else Scale() for x in program.outputs], ties


def _tied(primitive, given: list, params: dict, near: float) -> bool:
    """Whether a comparison of floats could come out otherwise if its operands moved by `near`."""
    if not any(map(_eps, given)):
        return False
    decides = primitive.description.decides
    if decides == "comparison":
        return bool(np.any(np.abs(np.subtract(*map(np.asarray, given), dtype=float)) <= near))
    if decides == "largest":
        largest = np.max(given[0], params["axis"], keepdims=True)
        return bool(np.any(np.sum(given[0] >= largest - near, params["axis"]) > 1))
    if callable(decides):
        return bool(np.any(np.abs(given[0] - decides(given[0])) <= near))
    if primitive is ops.astype:
        return np.dtype(params["dtype"]).kind in "iub" and bool(np.any(np.abs(given[0] - np.rint(given[0])) <= near))
    return decides == "choice"


def _eps(x) -> float:
    """The rounding of an array of floats; 0 for anything else."""
    return float(np.finfo(x.dtype).eps) if isinstance(x, (np.ndarray, np.generic)) and x.dtype.kind == "f" else 0.0


def _largest(x) -> float:
    x = np.asarray(x)
    return float(np.max(np.abs(x), initial=0)) if x.dtype.kind == "f" else 0.0


# ── which tasks ─────────────────────────────────────────────────────────────────────────────────────────────────────


def unlike(data: list[np.ndarray], count: int, most: int = 8) -> list[int]:
    """Tasks that differ most from one another: in labels, masks, ties and zeros. The first is always among them."""
    rows = []
    for x in data:
        x = np.asarray(x)
        sample = x.reshape(count, -1)[:, :4096]
        if x.dtype.kind == "f":
            ordered = np.sort(sample, -1)
            rows.append((sample == 0).mean(-1))
            rows.append((ordered[:, 1:] == ordered[:, :-1]).mean(-1) if sample.shape[1] > 1 else np.zeros(count))
        else:
            values = sample.astype(float)
            rows += [values.mean(-1), values.min(-1), values.max(-1), *values[:, :8].T]
    features = np.stack(rows, -1) if rows else np.zeros((count, 1))
    spread = features.max(0) - features.min(0)
    features = (features - features.min(0)) / np.where(spread > 0, spread, 1)
    chosen = [0]
    distance = np.abs(features - features[0]).sum(-1)
    while len(chosen) < min(most, count):
        best = int(np.argmax(distance))
        if best in chosen:  # all the same
            break
        chosen.append(best)
        distance = np.minimum(distance, np.abs(features - features[best]).sum(-1))
    return chosen


def matmul_operations(task: Task) -> float:
    """Multiplications and additions in the matrix products of a task."""

    def of(program: Program) -> float:
        pairs = [(e.inputs[0].shape, e.output.shape) for e in program.equations if e.primitive is ops._matmul]
        return sum(2.0 * a[-1] * np.prod(out, dtype=float) for a, out in pairs)

    each = {name: of(part.program) for name, part in task.parts.items()}
    return sum(each.get(move, 0.0) for move in task.moves)


class Ahead:
    """A call that is made in a thread of its own.

    Attributes:
        ours: what its result is to be compared with.   wanted: the result, None if there is none.   error: of the call.
    """

    def __init__(self, call: Callable, ours: Any):
        self.ours, self.wanted = ours, None
        self.error: Exception | None = None
        context = contextvars.copy_context()
        self.thread = threading.Thread(target=lambda: context.run(self.run, call), daemon=True)
        self.thread.start()

    def run(self, call: Callable) -> None:
        try:
            self.wanted = call()
        except Exception as error:
            self.error = error

    def arrived(self) -> bool:
        return not self.thread.is_alive()


class Patience:
    """How long a check may take, whatever happens: its first task is compared in any case."""

    def __init__(self, seconds: float):
        self.until = time.perf_counter() + seconds

    def allows(self, seconds: float) -> bool:
        return time.perf_counter() + seconds <= self.until
