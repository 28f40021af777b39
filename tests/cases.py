"""Cases of `test_ops`: a function or a primitive, and arrays for it. The subjects' tables are in `cases_NAME.py`."""

import importlib.util

import numpy as np
import pytest

if importlib.util.find_spec("scipy"):
    import tinymaml.numpy_api.special  # noqa: F401  whose primitives are there once it is imported

from tinymaml.engine import Primitive
from tinymaml.numpy_api import numpy_name

REGISTERED = dict(Primitive.registry)  # before any test plants one


def sampled(things, step: int) -> list:
    """Parameters of a test: every step-th by default, in the slow run all."""
    return [pytest.param(x, marks=() if i % step == 0 else pytest.mark.slow) for i, x in enumerate(things)]


# ── points ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def point(seed: int, *shape: int) -> np.ndarray:
    """Numbers of both signs away from 0, no two alike in the points below; read-only."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape, dtype=int))
    x = rng.permutation(np.linspace(0.15, 1.85, size) if size > 1 else np.array([0.7])) * rng.choice([-1, 1], size)
    x = (x + np.sign(x) * 0.0071 * seed).reshape(shape)
    x.flags.writeable = False
    return x


def frozen(x) -> np.ndarray:
    x = np.asarray(x)
    x.flags.writeable = False
    return x


E, F = point(0, 2), point(1, 2)
COLUMN, ROW, S = point(2, 2, 1), point(3, 3), point(4)
X, Y, A, B, M, V, W = (point(5 + i, *n) for i, n in enumerate([(2, 3), (2, 3), (2, 3), (3, 2), (3, 3), (3,), (3,)]))
C, D, IMAGE = point(20, 2, 3, 2), point(21, 2, 2, 3), point(22, 1, 4, 4, 1)
EP, FP, XP = (frozen(np.abs(x) + 0.4) for x in (E, F, X))  # positive
ROWS = frozen([[2, 0, 2], [0, -1, 1]])
MASK = frozen([[True, False, True], [False, True, True]])
WINDOW = dict(size=(2, 3), stride=2, padding=((1, 0), (0, 2)))
CHOSEN = frozen(np.array([3, 0, 2, 1]).reshape(1, 2, 2, 1))


# ── cases ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Case:
    """f at args. `key`: the primitive's name or the NumPy function; `reference`: f for arrays, where they differ.

    exact: the value is the reference's, bit by bit.   analytic: the complex step can see its derivatives.
    double: NumPy's own result is float64, of float32 too.
    """

    def __init__(self, key, f, *args, reference=None, exact=False, analytic=True, double=False):
        self.key, self.f, self.args = key, f, args
        self.reference, self.exact, self.analytic, self.double = reference or f, exact, analytic, double
        self.name = key if isinstance(key, str) else f"np.{numpy_name(key)}"


def case(key, f, *args, **how):
    return Case(key, f, *args, **how)


def unary(key, x=E, f=None):
    return Case(key, f or (lambda x, key=key: key(x)), x)


def primitive(name, *args, reference=None, analytic=True, double=False, **params):
    """A primitive itself; its reference is the NumPy function of the same name, with the same keywords."""
    found, reference = REGISTERED[name], reference or getattr(np, name)
    ours, theirs = (lambda *xs: found(*xs, **params)), (lambda *xs: reference(*xs, **params))
    return Case(name, ours, *args, reference=theirs, exact=True, analytic=analytic, double=double)
