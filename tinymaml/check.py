"""Is a derivative right? Numerical differentiation, at any order, against the engine.

    check_grads(f, (x, y), order=2)      raises GradientError with the place and the size of the error, or returns None

Order n checks the function that order n − 1 has proved: first that f is the same on tensors as on arrays, then its
pullback (x, u) ↦ uᵀJ(x) against two numerical derivatives of f, then the pullback of that pullback against numerical
derivatives of the first, and so on. So a rule that is right once and wrong when differentiated again is found.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from .engine import analytic, value_of, vjp
from .nest import tree_fill, tree_items, tree_leaves

# Two ways to see the derivative t of φ along e, without a rule of ours:
#   finite differences   (4 D(h/2) − D(h)) / 3, D(h) = (φ(x + he) − φ(x − he)) / 2h    error ≈ h⁴, and rounding ε|φ|/h
#   complex step         Im φ(x + ihe) / h, for analytic φ                             no difference, so no rounding
_FD_STEPS = 1e-4, 3e-6  # the second where the first disagrees: a kink may lie between
_COMPLEX_STEP = 1e-40
_EPS = np.finfo(float).eps
_NUDGES = 8  # how often a point is moved, by a few roundings, to see the noise of a derivative


class GradientError(AssertionError):
    """A derivative that numerical differentiation does not confirm."""


def check_grads(
    f: Callable,
    args: tuple,
    order: int = 2,
    *,
    rtol: float = 1e-6,
    complex_rtol: float = 1e-9,
    every_element: bool = False,
    seed: int = 0,
) -> None:
    """Check the derivatives of f at `args` up to `order`, by finite differences and by the complex step.

    Args:
        f: from nests of arrays to a nest of arrays, smooth near `args`.
        args: a tuple of nests. Floating-point and complex leaves are taken to double precision and differentiated,
            others held constant.
        order: 1 checks gradients, 2 also gradients of gradients, …
        rtol, complex_rtol: what may remain between the engine and each, relative to the largest derivative of the
            same argument. Finite differences are allowed their own rounding beside it, ε|φ|/h.
        every_element: check each element of each argument; by default each argument is checked along two random
            directions in which every element takes part, and what disagrees is narrowed down to one element.
        seed: for cotangents and directions.

    Of a complex argument the derivatives along the real and the imaginary axis are checked. The complex step is left
    out where complex numbers cannot stand for real ones: there are complex arguments, or f makes complex numbers of its
    own, or NumPy raises TypeError, or warns that a cast discards the imaginary part.

    Long work shows its progress if tqdm is installed.

    Raises:
        GradientError: says at which order, in which argument, at which element, and by how much.

    >>> tm.check_grads(lambda x: np.sum(np.tanh(x) ** 3), np.array([0.5, 1.0]), order=3)
    >>> tm.check_grads(lambda x: x * tm.stop_gradient(x), np.array([2.0]))
    Traceback (most recent call last):
    ...
    tinymaml.check.GradientError: order 1: the derivative in args[0] at [0] is ..., finite differences give ...
    """
    args = args if isinstance(args, tuple) else (args,)
    wanted = [np.asarray(x).dtype.kind in "fc" for x in tree_leaves(args)]
    constants = tree_leaves(args)
    point = [_double(x) for x, w in zip(constants, wanted, strict=True) if w]
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
        u = tuple(_random_like(y, rng) for y in _evaluate(of_leaves, point))
        pullback = _Pullback(of_leaves, point, u, rtol, complex_rtol)
        for i in _with_progress(range(len(point)), f"order {n}"):
            for where, e in _directions(point[i], every_element, rng):
                pullback.check(i, e, where, f"order {n}: the derivative in {names[i]}")
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


@dataclass
class _Pullback:
    """The pullback of f at a point, for one cotangent u, and how far it may be from numerical derivatives."""

    f: Callable
    point: list
    u: tuple
    rtol: float
    complex_rtol: float

    def __post_init__(self):
        out, pullback = vjp(self.f, *self.point)
        self.gradients = pullback(self.u)
        self.value = self.phi(self.point)
        self.size = sum(np.sum(np.abs(a * b)) for a, b in zip(out, self.u, strict=True))

    def phi(self, point: list):
        """φ(x) = Re Σ u f(x), whose derivatives are the pullback of u."""
        terms = [np.sum(a * b) for a, b in zip(_evaluate(self.f, point), self.u, strict=True)]
        return sum(terms) if analytic.get() else np.real(sum(terms))

    def check(self, i: int, e: np.ndarray, where: str, what: str) -> None:
        """Compare the derivative along e in argument i.

        Raises:
            GradientError: finite differences or the complex step contradict.
        """
        for method in ("finite differences", "the complex step"):
            if not self._wrong(method, i, e):
                continue
            if "direction" in where:
                where, e = self._narrowed(method, i, e)
            ours, theirs, allowed = self._compared(method, i, e)
            relative = abs(ours - theirs) / max(abs(theirs), np.finfo(float).tiny)
            raise GradientError(
                f"{what} {where} is {ours:.15g}, {method} {'gives' if 'step' in method else 'give'} {theirs:.15g}"
                f" (relative error {relative:.1e}, allowed difference {allowed:.1e})"
            )

    def _wrong(self, method: str, i: int, e: np.ndarray) -> bool:
        """Whether the numerical derivative contradicts, by more than noise."""
        try:
            ours, theirs, allowed = self._compared(method, i, e)
        except (TypeError, np.exceptions.ComplexWarning):
            if method == "the complex step":
                return False
            raise
        return not abs(ours - theirs) <= allowed and not abs(ours - theirs) <= self._noise(method, i, e)

    def _compared(self, method: str, i: int, e: np.ndarray) -> tuple:
        """The derivative along e, the numerical one, and how far they may be apart."""
        # Re Σ x̄ e
        ours = np.real(np.sum(self.gradients[i] * e))
        scale = max(np.max(np.abs(self.gradients[i]), initial=0), abs(ours))
        with warnings.catch_warnings():  # a cast to real loses the imaginary part
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            if method == "the complex step":
                theirs = _complex_step(self.phi, self.point, i, e, self.value, self.size)
                allowed = self.complex_rtol * scale + _EPS * self.size + _COMPLEX_STEP
            else:
                before: float | None = None
                for h in _FD_STEPS:
                    theirs = _finite_differences(self.phi, self.point, i, e, h)
                    allowed = self.rtol * scale + 100 * _EPS * self.size / h
                    allowed += 0 if before is None else 0.1 * abs(theirs - before)  # which is the error of `before`
                    before = theirs
                    if abs(ours - theirs) <= allowed:
                        break
        return ours, theirs, allowed + self.complex_rtol * abs(theirs)

    def _noise(self, method: str, i: int, e: np.ndarray) -> float:
        """How far apart the derivatives are of points that are all but the same.

        Where a derivative is 0 because large terms cancel, both are rounding alone, which the sizes of f and of the
        derivative do not tell.
        """
        rng, theirs, values, apart = np.random.default_rng(0), [], [], 0.0

        def nudged(x):
            return x * (1 + 16 * _EPS * rng.uniform(-1, 1, np.shape(x)))

        for _ in range(_NUDGES):
            there = replace(self, point=[*map(nudged, self.point)], u=tuple(map(nudged, self.u)))
            try:
                theirs.append(there._compared(method, i, e)[1])
            except (TypeError, np.exceptions.ComplexWarning):  # the value itself is noise
                return np.inf
            values.append(there.value)
            apart = max(apart, np.max(np.abs(there.gradients[i] - self.gradients[i])))
        in_differences = np.ptp(values) / _FD_STEPS[-1] if method == "finite differences" else 0
        return 30 * (apart * np.sum(np.abs(e)) + np.ptp(theirs) + in_differences)

    def _narrowed(self, method: str, i: int, e: np.ndarray) -> tuple[str, np.ndarray]:
        """One element that is wrong along e: of two halves of e the one that is further off, again and again."""

        def off(part):
            ours, theirs, _ = self._compared(method, i, part)
            return abs(ours - theirs) if np.isfinite(ours - theirs) else np.inf

        places = np.flatnonzero(e)
        while len(places) > 1:
            halves = places[: len(places) // 2], places[len(places) // 2 :]
            places = max(halves, key=lambda half: off(_only(e, half)))
        return _element(e.shape, places[0], e.dtype.type(1) if np.isreal(e.flat[places[0]]) else 1j)


def _only(e: np.ndarray, places: np.ndarray) -> np.ndarray:
    part = np.zeros_like(e)
    part.flat[places] = e.flat[places]
    return part


def _element(shape: tuple[int, ...], flat: int, along=1.0) -> tuple[str, np.ndarray]:
    e = np.zeros(shape, np.result_type(along, float))
    e.flat[flat] = along
    at = [int(k) for k in np.unravel_index(flat, shape)]
    return (f"at {at}" if at else "(a scalar)") + (", along i," if np.iscomplexobj(e) and along == 1j else ""), e


def _directions(x: np.ndarray, every_element: bool, rng) -> Iterator[tuple[str, np.ndarray]]:
    """Directions for one argument: each element, or two random ones of length at most 1 in which all take part."""
    axes = (1.0, 1j) if np.iscomplexobj(x) else (1.0,)
    if every_element or x.size == 1:
        yield from (_element(x.shape, flat, along) for flat in range(x.size) for along in axes)
    elif x.size:
        for k in range(2):
            # no element is near 0 in it, so that none is overlooked
            e = rng.uniform(0.5, 1, x.shape) * rng.choice([-1, 1], x.shape) / np.sqrt(x.size)
            yield from ((f"along random direction {k}", e * along) for along in axes)


def _shift(point: list, i: int, step) -> list:
    return [x + step if j == i else x for j, x in enumerate(point)]


def _finite_differences(phi: Callable, point: list, i: int, e: np.ndarray, h: float = _FD_STEPS[0]) -> float:
    def central(h):
        return (phi(_shift(point, i, h * e)) - phi(_shift(point, i, -h * e))) / (2 * h)

    # Richardson: (4 D(h/2) − D(h)) / 3
    return (4 * central(h / 2) - central(h)) / 3


def _complex_step(phi: Callable, point: list, i: int, e: np.ndarray, value, size) -> float:
    if any(map(np.iscomplexobj, (*point, e))):
        raise TypeError("there are complex arguments: no complex number can stand for a real one")
    with complex_step():
        # Im φ(x + ihe) / h   (Squire and Trapp, 1998); all arguments complex, so that no result is cast back to real
        z = phi(_shift([x.astype(complex) for x in point], i, 1j * _COMPLEX_STEP * e))
    if not abs(np.real(z) - value) <= 1e-6 * size:
        raise TypeError("f makes complex numbers of its own: no other can stand for a real one")
    return np.imag(z) / _COMPLEX_STEP


@contextmanager
def complex_step() -> Iterator[None]:
    """Within it, a complex number stands for a real one, with a derivative in its imaginary part.

        with complex_step():
            slope = np.imag(f(x + 1e-40j)) / 1e-40

    Then |z| is z sign(Re z), order goes by real parts, nothing is conjugated, and the engine takes complex losses and
    parameters. Otherwise complex numbers are what they are in NumPy.

    >>> from tinymaml.check import complex_step
    >>> with complex_step():
    ...     slope = np.imag(np.exp(1 + 1e-40j)) / 1e-40
    >>> print(round(slope, 12), round(np.e, 12))
    2.718281828459 2.718281828459
    """
    token = analytic.set(True)
    try:
        yield
    finally:
        analytic.reset(token)


def _double(x) -> np.ndarray:
    return np.asarray(x, np.complex128 if np.iscomplexobj(x) else np.float64)


def _random_like(y, rng) -> np.ndarray:
    u = rng.standard_normal(np.shape(y))
    return u + 1j * rng.standard_normal(np.shape(y)) if np.iscomplexobj(y) else u


def _with_progress(items: Iterable, what: str) -> Iterable:
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, f"check_grads, {what}", unit=" arguments", leave=False, delay=3, disable=None)
