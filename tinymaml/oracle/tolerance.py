"""How near is near enough: errors counted in roundings, not in decimals.

    ρ = maxᵢ |gᵢ − rᵢ| / (u sᵢ)

u is the unit roundoff of the dtype, u sᵢ how far element i is moved by independent roundings, one of every intermediate
value (to first order: `scales`). So ρ counts standard deviations of rounding, whatever the size of the gradient and
however badly conditioned, and there is no absolute tolerance: an element that depends on nothing has s = 0, and must be
exactly right.

τ = 30. Correct implementations in NumPy, PyTorch and JAX, over threads and orders of summation, stay below 2.3 on the
core and the new cases (10,440 runs of `python -m bench.oracle alarms`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .. import ops
from ..engine import Tensor, value_and_grad, value_of
from ..maml import adapt, meta_value_and_grad
from .family import answers
from .models import NumPy, loss_in

UNIT = {"float64": 2.0**-53, "float32": 2.0**-24}
TAU = 30.0
SEPARATION = 1000.0  # a case tells right from wrong in a dtype if the nearest mistake is this many τ away


def error(got: dict, wanted: dict, scale: dict, unit: float) -> float:
    """ρ, the largest error of any element in roundings."""
    return max(float(np.max(errors(got[n], wanted[n], scale[n], unit), initial=0)) for n in wanted)


def errors(got, wanted, scale, unit) -> np.ndarray:
    """|g − r| / (u s), elementwise; 0 / 0 = 0."""
    off = np.abs(np.asarray(got, np.float64) - wanted)
    allowed = unit * np.asarray(scale)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        rho = np.where(off == 0, 0.0, off / allowed)
    return np.where(np.isfinite(off), rho, np.inf)


def engine_answer(case) -> tuple:
    """(𝓛, G) by the engine, float64: reverse over reverse."""
    value, grads = _meta(case)(case.params)
    return float(value), grads


def _meta(case):
    """f(θ) → (𝓛, G) by the engine."""
    if case.algorithm != "maml":
        return lambda params: answers.by_engine(case, params)
    f = meta_value_and_grad(
        loss_in(NumPy(), case.model), inner_lr=rates(case), inner_steps=case.inner_steps, first_order=case.first_order
    )
    return lambda params: f(params, _tasks(case))


def _tasks(case):
    return [(tuple(map(np.asarray, s)), tuple(map(np.asarray, q))) for s, q in case.batches()]


def rates(case) -> dict[str, np.ndarray]:
    """α of every element: 0 for what does not adapt."""
    given = case.inner_lr if isinstance(case.inner_lr, dict) else dict.fromkeys(case.params, case.inner_lr)
    adapted = case.params if case.adapt is None else case.adapt
    return {n: np.broadcast_to(np.float64(given[n]), p.shape) * (n in adapted) for n, p in case.params.items()}


def scales(case) -> tuple[float, dict]:
    """s of 𝓛 and of each element of G:  sᵢ² = Σ_z (∂Gᵢ/∂z · z)², z over every intermediate value of the computation.

    The engine's records are the computation: G comes as tensors, and a reverse pass from each Gᵢ visits what it was
    made from. The terms inside a sum or a product of matrices are intermediate values too. Rounded up to 3 digits:
    three digits suffice, and make them identical on every machine.
    """
    params = {n: Tensor(p) for n, p in case.params.items()}
    value, grads = _fomaml(case, params) if case.first_order else _meta(case)(params)
    steps: dict[int, _Step] = {}
    return float(_sensitivities(value, steps)), {n: _sensitivities(g, steps) for n, g in grads.items()}


def scale_of_sum(case) -> float:
    """s of Σ ±Gᵢ, whose square is about Σ sᵢ²: one number for all of G, in one reverse pass."""
    params = {n: Tensor(p) for n, p in case.params.items()}
    _, grads = _fomaml(case, params) if case.first_order else _meta(case)(params)
    signs = {n: np.reshape([1.0 if (i * i + i // 3) % 3 else -1.0 for i in range(g.size)], g.shape)
             for n, g in grads.items()}  # fmt: skip
    return float(_sensitivities(sum(np.sum(signs[n] * g) for n, g in grads.items()), {}))


def _fomaml(case, params: dict[str, Tensor]) -> tuple:
    """FOMAML's (𝓛, G), with a record that goes on through the inner steps: what is held constant is rounded, too."""
    loss, total = loss_in(NumPy(), case.model), 0.0
    grads: dict = dict.fromkeys(params, 0.0)
    for support, query in _tasks(case):
        adapted = adapt(loss, params, support, inner_lr=rates(case), inner_steps=case.inner_steps)
        value, g = value_and_grad(loss)(adapted, *query)
        # 1/T Σₜ
        total, grads = total + value / case.tasks, {n: grads[n] + g[n] / case.tasks for n in g}
    return total, grads


def _sensitivities(out, known: dict[int, _Step]) -> np.ndarray:
    """s of every element of `out`; 0 for an array, which depends on nothing. `known`: the steps so far, by index."""
    if not isinstance(out, Tensor):
        return np.zeros(out.shape)
    steps = []
    for z in _made_from(out):
        if z.index not in known:
            known[z.index] = _Step.of(z)
        steps.append(known[z.index])
    return _rounded(np.reshape([_sensitivity(out, i, steps) for i in range(out.size)], out.shape))


class _Step(NamedTuple):
    """An intermediate value, by its index: what a reverse pass needs to know of it."""

    index: int
    squares: np.ndarray
    pullbacks: list[tuple[int, Callable]]  # index of an input, and its rule

    @staticmethod
    def of(z: Tensor) -> _Step:
        if z.primitive is None or z.primitive.vjp is None:
            return _Step(z.index, _squares(z), [])
        arrays = [value_of(x) for x in z.inputs]
        rule = lambda k: lambda g: z.primitive.vjp[k](g, z.value, *arrays, **z.params)  # noqa: E731
        back = [(x.index, rule(k)) for k, x in enumerate(z.inputs) if isinstance(x, Tensor) and x.dtype.kind == "f"]
        return _Step(z.index, _squares(z), back)


def _sensitivity(out: Tensor, i: int, steps: list[_Step]) -> float:
    seed = np.zeros(out.shape)
    seed.flat[i] = 1.0
    cotangents, squares = {out.index: seed}, 0.0
    for step in steps:
        g = cotangents.pop(step.index, None)
        if g is None or not g.any():
            continue
        squares += float((g * g * step.squares).sum())
        for x, pullback in step.pullbacks:
            gx = pullback(g)
            cotangents[x] = cotangents[x] + gx if x in cotangents else gx
    return squares**0.5


def _made_from(out: Tensor) -> list[Tensor]:
    """Every tensor that `out` depends on, the last made first."""
    seen, stack = {}, [out]
    while stack:
        z = stack.pop()
        if z.index not in seen:
            seen[z.index] = z
            stack.extend(x for x in z.inputs if isinstance(x, Tensor))
    return sorted(seen.values(), key=operator.attrgetter("index"), reverse=True)


def _squares(z: Tensor) -> np.ndarray:
    """z² of the value, and of the terms inside it."""
    squares = z.value * z.value
    if z.primitive in (ops._matmul, ops._sum):
        squares = squares + z.primitive.forward(*[value_of(x) ** 2 for x in z.inputs], **z.params)
    return squares


@np.vectorize
def _rounded(x: float) -> float:
    return float(f"{x * 1.005:.2e}")
