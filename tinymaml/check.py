"""Is a derivative right? Numerical differentiation, at any order, against the engine.

    check_grads(f, (x, y), order=2)      raises GradientError with the place and the size of the error, or returns None

Order n checks the function that order n − 1 has proved: first that f is the same on tensors as on arrays, then its
pullback (x, u) ↦ uᵀJ(x) against two numerical derivatives of f, then the pullback of that pullback against numerical
derivatives of the first, and so on. So a rule that is right once and wrong when differentiated again is found.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from .engine import value_of, vjp
from .nest import tree_fill, tree_items, tree_leaves

# Two ways to see the derivative t of φ along e, without a rule of ours:
#   finite differences   (4 D(h/2) − D(h)) / 3, D(h) = (φ(x + he) − φ(x − he)) / 2h    error ≈ h⁴, and rounding ε|φ|/h
#   complex step         Im φ(x + ihe) / h, for analytic φ                             no difference, so no rounding
_FD_STEP, _COMPLEX_STEP = 1e-4, 1e-40
_ELEMENTS = 60  # arguments of more elements are checked at so many of them, and along random directions


class GradientError(AssertionError):
    """A derivative that numerical differentiation does not confirm."""


def check_grads(
    f: Callable, args: tuple, order: int = 2, *, rtol: float = 1e-6, complex_rtol: float = 1e-9, seed: int = 0
) -> None:
    """Check the derivatives of f at `args` up to `order`, by finite differences and by the complex step.

    Args:
        f: from nests of arrays to a nest of arrays, smooth near `args`.
        args: a tuple of nests. Floating-point leaves are taken to float64 and differentiated, others held constant.
        order: 1 checks gradients, 2 also gradients of gradients, …
        rtol, complex_rtol: what may remain between the engine and each, relative to the largest derivative of the
            same argument. Finite differences are allowed their own rounding beside it, ε|φ|/h.
        seed: for cotangents, directions and sampled elements.

    The complex step is left out where f cannot be evaluated on complex arrays: NumPy raises TypeError, or warns that a
    cast discards the imaginary part.

    Raises:
        GradientError: says at which order, in which argument, at which element, and by how much.
    """
    args = args if isinstance(args, tuple) else (args,)
    wanted = [np.asarray(x).dtype.kind in "fc" for x in tree_leaves(args)]
    constants = tree_leaves(args)
    point = [np.asarray(x, np.float64) for x, w in zip(constants, wanted, strict=True) if w]
    names = [f"args{path}" for (path, _), w in zip(tree_items(args), wanted, strict=True) if w]
    if not point:
        raise TypeError("check_grads: no argument holds floating-point numbers, so there is nothing to differentiate")

    def of_leaves(*leaves):
        supply = iter(leaves)
        mixed = [next(supply) if w else c for w, c in zip(wanted, constants, strict=True)]
        return tuple(tree_leaves(f(*tree_fill(args, mixed))))

    rng = np.random.default_rng(seed)
    _check_forward(of_leaves, point)
    for n in range(1, order + 1):
        u = tuple(rng.standard_normal(np.shape(y)) for y in _evaluate(of_leaves, point))
        _check_pullback(of_leaves, point, u, names, n, rtol, complex_rtol, rng)
        # the next function to check: the pullback, of point and cotangent together
        of_leaves = _pullback_of(of_leaves, len(point))
        point = [*point, *u]
        names = [*names, *(f"cotangent {i} of order {n}" for i in range(len(u)))]


def _pullback_of(f: Callable, count: int) -> Callable:
    return lambda *xs: vjp(f, *xs[:count])[1](xs[count:])


def _evaluate(f: Callable, point: list) -> tuple:
    """f as the engine evaluates it: on tensors."""
    return vjp(f, *point)[0]


def _check_forward(f: Callable, point: list) -> None:
    for i, (on_tensors, on_arrays) in enumerate(zip(_evaluate(f, point), f(*point), strict=True)):
        if not np.isfinite(on_tensors).all():
            raise GradientError(f"order 0: output {i} is not finite:\n{on_tensors}")
        a, b = np.asarray(on_tensors), np.asarray(value_of(on_arrays))
        if a.shape != b.shape or not np.allclose(a, b, rtol=1e-12, atol=1e-12 * np.max(np.abs(b), initial=0)):
            raise GradientError(f"order 0: output {i} on tensors is not what it is on arrays:\n{a}\nagainst\n{b}")


def _check_pullback(f, point, u, names, order, rtol, complex_rtol, rng) -> None:
    out, pullback = vjp(f, *point)
    gradients = pullback(u)

    def phi(shifted: list):
        return sum(np.sum(a * b) for a, b in zip(_evaluate(f, shifted), u, strict=True))

    size = sum(np.sum(np.abs(a * b)) for a, b in zip(out, u, strict=True))
    for i, (x, gradient, name) in enumerate(zip(point, gradients, names, strict=True)):
        along = _directions(x, rng)
        exact = np.array([np.sum(gradient * e) for _, e in along])
        scale = max(np.max(np.abs(gradient), initial=0), *(abs(t) for t in exact)) if along else 0.0
        for method, numeric, allowed in (
            ("finite differences", _finite_differences, rtol * scale + 100 * np.finfo(float).eps * size / _FD_STEP),
            ("the complex step", _complex_step, complex_rtol * scale + np.finfo(float).eps * size),
        ):
            try:
                with warnings.catch_warnings():  # a cast to real loses the imaginary part
                    warnings.simplefilter("error", np.exceptions.ComplexWarning)
                    seen = np.array([numeric(phi, point, i, e) for _, e in along])
            except (TypeError, np.exceptions.ComplexWarning):
                if method == "the complex step":
                    continue
                raise
            for (where, _), ours, theirs in zip(along, exact, seen, strict=True):
                # `not <=`, so that NaN is an error
                if not abs(ours - theirs) <= allowed + complex_rtol * abs(theirs):
                    relative = abs(ours - theirs) / max(abs(theirs), np.finfo(float).tiny)
                    raise GradientError(
                        f"order {order}: the derivative in {name} {where} is {ours:.15g}, {method} give {theirs:.15g}"
                        f" (relative error {relative:.1e}, allowed difference {allowed:.1e})"
                    )


def _directions(x: np.ndarray, rng) -> list[tuple[str, np.ndarray]]:
    """Unit directions: every element of a small array; some elements and two random directions of a large one."""
    few = x.size <= _ELEMENTS
    chosen = np.arange(x.size) if few else rng.choice(x.size, _ELEMENTS, replace=False)
    found = []
    for flat in chosen:
        e = np.zeros(x.size)
        e[flat] = 1
        at = [int(i) for i in np.unravel_index(flat, x.shape)]
        found.append((f"at {at}" if at else "(a scalar)", e.reshape(x.shape)))
    return found if few else found + [(f"along random direction {k}", rng.standard_normal(x.shape)) for k in range(2)]


def _shift(point: list, i: int, step) -> list:
    return [x + step if j == i else x for j, x in enumerate(point)]


def _finite_differences(phi: Callable, point: list, i: int, e: np.ndarray) -> float:
    def central(h):
        return (phi(_shift(point, i, h * e)) - phi(_shift(point, i, -h * e))) / (2 * h)

    # Richardson: (4 D(h/2) − D(h)) / 3
    return (4 * central(_FD_STEP / 2) - central(_FD_STEP)) / 3


def _complex_step(phi: Callable, point: list, i: int, e: np.ndarray) -> float:
    # Im φ(x + ihe) / h   (Squire and Trapp, 1998); all arguments complex, so that no result is cast back to real
    return np.imag(phi(_shift([x.astype(complex) for x in point], i, 1j * _COMPLEX_STEP * e))) / _COMPLEX_STEP


