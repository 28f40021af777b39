"""HIPS autograd's names, for what tinymaml has: its test suite runs on them, and tests tinymaml.

    install()                                       `import autograd.numpy as np` and its kin, from now on
    python -m bench.autograd_names FOLDER FILE      runs the tests in FOLDER, and writes how each ended to FILE

`autograd.numpy` is NumPy; only a list that holds tensors is stacked by `array`, as autograd does. What autograd derives
from `make_vjp` and `make_jvp` is derived here from `tm.vjp` and `tm.jvp`. Nests stand for themselves. `check_grads`
compares derivatives along random directions with differences of values, in both modes, at each order; arguments and
results may be complex.
"""

from __future__ import annotations

import builtins
import functools
import itertools
import json
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tinymaml as tm
from tinymaml.engine import value_of
from tinymaml.ops import EachInput

# ── derivatives with respect to one argument, or a tuple of them ────────────────────────────────────────────────────


def unary_to_nary(operator: Callable) -> Callable:
    """`operator(f, x, …)` of a function of one argument, for one of several: `of_several(f, argnum=0, …)(*args)`."""

    @functools.wraps(operator)
    def of_several(f, argnum: int | Sequence[int] = 0, *how, **options):
        def applied(*args, **kwargs):
            def of_chosen(x):
                chosen = {argnum: x} if isinstance(argnum, int) else dict(zip(argnum, x, strict=True))
                return f(*[chosen.get(i, arg) for i, arg in enumerate(args)], **kwargs)

            of_chosen.__name__ = _name(f)
            x = args[argnum] if isinstance(argnum, int) else tuple(args[i] for i in argnum)
            return operator(of_chosen, x, *how, **options)

        return applied

    return of_several


def _name(f: Callable) -> str:
    return getattr(f, "__name__", type(f).__name__)


def _make_vjp(f: Callable, x):
    out, pullback = tm.vjp(f, x)
    return lambda g: pullback(g)[0], out


def _make_jvp(f: Callable, x):
    return lambda v: tm.jvp(f, (x,), (v,))


def _value_and_grad(f: Callable, x):
    pullback, out = _make_vjp(f, x)
    value = value_of(out)
    if isinstance(value, (dict, list, tuple)) or np.size(value) != 1 or np.result_type(value).kind != "f":
        raise TypeError(f"a gradient of {_name(f)}, which returned no real number but {value!r}")
    return out, pullback(np.ones(np.shape(value), np.result_type(value)))


def _holomorphic_grad(f: Callable, x):
    return _value_and_grad(lambda x: np.real(f(x)), x)[1]


def _elementwise_grad(f: Callable, x):
    pullback, out = _make_vjp(f, x)
    return pullback(np.ones(out.shape, out.dtype))


def _deriv(f: Callable, x):
    return tm.jvp(f, (x,), (np.ones(np.shape(value_of(x)), np.result_type(value_of(x))),))[1]


def _jacobian(f: Callable, x):
    pullback, out = _make_vjp(f, x)
    rows = np.eye(out.size, dtype=out.dtype).reshape(-1, *out.shape)
    return np.reshape(np.stack([pullback(row) for row in rows]), out.shape + np.shape(value_of(x)))


def _grad_and_aux(f: Callable, x):
    return tm.grad(f, has_aux=True)(x)


value_and_grad = unary_to_nary(_value_and_grad)
grad = unary_to_nary(lambda f, x: _value_and_grad(f, x)[1])
jacobian = unary_to_nary(_jacobian)
make_vjp = unary_to_nary(_make_vjp)
make_jvp = unary_to_nary(_make_jvp)


def _hessian_tensor_product(f: Callable, argnum: int = 0) -> Callable:
    return lambda *args: make_vjp(grad(f, argnum), argnum)(*args[:-1])[0](args[-1])


def _tensor_jacobian_product(f: Callable, argnum: int = 0) -> Callable:
    def of_all(*args):
        tensor = args[-1]
        return jacobian(lambda *args: np.tensordot(tensor, f(*args), np.ndim(tensor)), argnum)(*args[:-1])

    return of_all


def _make_ggnvp(f: Callable, g: Callable = lambda y: 0.5 * np.sum(y * y), argnum: int = 0) -> Callable:
    """v ↦ Jᵀ H J v, where J is f's Jacobian and H is g's Hessian at f(x)."""

    def at(f, x):
        def product(v):
            y, jv = tm.jvp(f, (x,), (v,))
            return tm.vjp(f, x)[1](tm.hvp(g, (y,), jv))[0]

        return product

    return unary_to_nary(at)(f, argnum)


# ── nests as vector spaces ──────────────────────────────────────────────────────────────────────────────────────────


def _real(x) -> bool:
    return np.result_type(value_of(x)).kind != "c"


class VSpace:
    """The space a nest of arrays lies in. A complex number has two dimensions."""

    def __init__(self, nest):
        self.nest = tm.tree_map(lambda x: np.zeros(np.shape(value_of(x)), np.result_type(value_of(x))), nest)
        self.size = sum(x.size * (1 if _real(x) else 2) for x in tm.tree_leaves(self.nest))

    def __eq__(self, other) -> bool:
        form = [(path, x.shape, _real(x)) for path, x in tm.tree_items(self.nest)]
        return form == [(path, x.shape, _real(x)) for path, x in tm.tree_items(other.nest)]

    def __repr__(self) -> str:
        return repr(tm.tree_map(lambda x: f"{x.dtype}{list(x.shape)}", self.nest))

    def zeros(self):
        return tm.tree_map(np.zeros_like, self.nest)

    def ones(self):
        return tm.tree_map(lambda x: np.ones_like(x) * (1 if _real(x) else 1 + 1j), self.nest)

    def randn(self):
        """A normal direction; of integers and booleans, which have none, zeros."""

        def direction(x):
            if x.dtype.kind not in "fc":
                return np.zeros(x.shape)
            v = np.random.standard_normal(x.shape)
            return (v if _real(x) else v + 1j * np.random.standard_normal(x.shape)).astype(x.dtype)

        return tm.tree_map(direction, self.nest)

    def standard_basis(self) -> Iterator:
        leaves = tm.tree_leaves(self.nest)
        for leaf in leaves:
            for place, unit in itertools.product(np.ndindex(leaf.shape), (1,) if _real(leaf) else (1, 1j)):
                one = np.zeros_like(leaf)
                one[place] = unit
                yield tm.nest.tree_fill(self.nest, [one if x is leaf else np.zeros_like(x) for x in leaves])

    def add(self, x, y):
        return tm.tree_map(lambda x, y: x + y, x, y)

    def scalar_mul(self, x, a):
        return tm.tree_map(lambda x: x * a, x)

    def inner_prod(self, x, y):
        """Re Σ x̄ y."""
        return sum(np.real(np.sum(np.conj(a) * b)) for a, b in zip(tm.tree_leaves(x), tm.tree_leaves(y), strict=True))

    def covector(self, x):
        return tm.tree_map(lambda x: x if _real(x) else np.conj(x), x)


# ── checks ──────────────────────────────────────────────────────────────────────────────────────────────────────────

STEP = 1e-6
TOLERANCE = 1e-6  # absolute or relative


def scalar_close(a, b) -> bool:
    return abs(a - b) < TOLERANCE or abs(a - b) < TOLERANCE * abs(a + b)


def check_equivalent(x, y) -> None:
    """Two nests of equal form, and equal along a random direction."""
    space = VSpace(x)
    assert space == VSpace(y), f"{space} against {VSpace(y)}"
    v = space.randn()
    assert scalar_close(space.inner_prod(x, v), space.inner_prod(y, v)), f"{x} against {y}"


def _difference(f: Callable, x, v):
    """(f(x + v ε/2) − f(x − v ε/2)) / ε"""
    above, below = (f(tm.tree_map(lambda x, v: x + v * h, x, v)) for h in (STEP / 2, -STEP / 2))  # noqa: B023
    return tm.tree_map(lambda a, b: (a - b) / STEP if np.result_type(a).kind != "b" else 0.0 * a, above, below)


def _pairing(u, y):
    """Re Σ u y: what a cotangent u says of a change y."""
    return sum(np.real(np.sum(a * b)) for a, b in zip(tm.tree_leaves(u), tm.tree_leaves(y), strict=True))


def _check_vjp(f: Callable, x) -> None:
    """⟨f*(u), v⟩ = ⟨u, Df v⟩ along random u and v; the value is that of arrays, the cotangent is of x's form."""
    pullback, out = _make_vjp(f, x)
    check_equivalent(out, f(x))
    space = VSpace(x)
    u, v = VSpace(out).randn(), space.randn()
    g = pullback(u)
    assert VSpace(g) == space, f"a cotangent in {VSpace(g)} for an argument in {space}"
    ours, wanted = _pairing(g, v), _pairing(u, _difference(f, x, v))
    message = f"derivative (VJP) check of {_name(f)} failed at {x}: {ours}, by differences {wanted}"
    assert scalar_close(ours, wanted), message


def _check_jvp(f: Callable, x) -> None:
    v = VSpace(x).randn()
    out, tangent = tm.jvp(f, (x,), (v,))
    assert VSpace(tangent) == VSpace(out), f"a tangent in {VSpace(tangent)} for a value in {VSpace(out)}"
    u = VSpace(out).randn()
    ours, wanted = _pairing(u, tangent), _pairing(u, _difference(f, x, v))
    message = f"derivative (JVP) check of {_name(f)} failed at {x}: {ours}, by differences {wanted}"
    assert scalar_close(ours, wanted), message


@unary_to_nary
def check_grads(f: Callable, x, modes: Sequence[str] = ("fwd", "rev"), order: int = 2) -> None:
    """Raises AssertionError where a derivative of f at x, up to this order, is not that of the values."""
    for mode in modes:
        check, name = {"fwd": (_check_jvp, "jvp"), "rev": (_check_vjp, "vjp")}[mode]
        check(f, x)
        if order == 1:
            continue

        def derivative(x, v, mode=mode):
            return tm.jvp(f, (x,), (v,))[1] if mode == "fwd" else tm.vjp(f, x)[1](v)[0]

        derivative.__name__ = f"{name}_{_name(f)}"
        v = VSpace(x if mode == "fwd" else f(x)).randn()
        check_grads(derivative, (0, 1), modes, order - 1)(x, v)


def combo_check(f: Callable, *how, **options) -> Callable:
    """`check_grads` with every combination of the arguments that are listed."""

    def check(*args, **kwargs):
        for chosen in itertools.product(*args):
            for named in itertools.product(*kwargs.values()):
                check_grads(f, *how, **options)(*chosen, **dict(zip(kwargs, named, strict=True)))

    return check


# ── primitives of a user ────────────────────────────────────────────────────────────────────────────────────────────


class primitive:
    """A function that is differentiated by the rules that `defvjp` gives it: `maker(out, *args)(g)` per argument."""

    def __init__(self, f: Callable):
        functools.update_wrapper(self, f)
        self.makers: dict[int, Callable] = {}
        self.primitive = tm.Primitive(f"a primitive of the tests: {_name(f)}", f, EachInput(self._rule))

    def _rule(self, i: int, g, out, *args, **kwargs):
        if i not in self.makers:
            raise NotImplementedError(f"{_name(self)} has no rule for argument {i}")
        return self.makers[i](out, *args, **kwargs)(g)

    def __call__(self, *args, **kwargs):
        return self.primitive(*args, **kwargs)


def defvjp(f: primitive, *makers: Callable | None, argnums: Sequence[int] | None = None) -> None:
    f.makers |= {i: maker for i, maker in zip(argnums or itertools.count(), makers, strict=False) if maker}


# ── flat vectors ────────────────────────────────────────────────────────────────────────────────────────────────────


def _flatten(nest) -> tuple[Any, Callable]:
    """All numbers of a nest as one vector, and the way back."""
    leaves = tm.tree_leaves(nest)
    shapes = [np.shape(value_of(x)) for x in leaves]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])

    def unflatten(vector):
        parts = np.split(vector, ends[:-1]) if shapes else []
        return tm.nest.tree_fill(nest, [np.reshape(x, shape) for x, shape in zip(parts, shapes, strict=True)])

    return np.concatenate([np.reshape(x, (-1,)) for x in leaves]) if leaves else np.array([]), unflatten


# ── the modules ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _array(x, *args, **kwargs):
    """np.array; of a list that holds tensors, their stack."""
    if isinstance(x, tm.Tensor):
        return x
    return _stack(x) if _holds_tensor(x) else np.array(x, *args, **kwargs)


def _holds_tensor(x) -> bool:
    return isinstance(x, tm.Tensor) or (isinstance(x, (list, tuple)) and any(map(_holds_tensor, x)))


def _stack(x):
    return np.stack([_stack(part) for part in x]) if isinstance(x, (list, tuple)) else x


def _make_diagonal(d, offset: int = 0, axis1: int = 0, axis2: int = 1):
    """The transpose of np.diagonal, for the last axes and no offset, as the tests have it."""
    if (offset, {axis1, axis2}) != (0, {-1, -2}):
        raise NotImplementedError("make_diagonal: other axes than the last two, or an offset")
    return np.expand_dims(d, -1) * np.eye(np.shape(d)[-1])


def _isinstance(x, kind) -> bool:
    return builtins.isinstance(value_of(x), kind)


def _missing(name: str) -> Callable:
    def missing(*args, **kwargs):
        raise NotImplementedError(f"{name} has no counterpart")

    return missing


def _module(name: str, behind=None, **names) -> types.ModuleType:
    """A module of these names, and of whatever else the module `behind` has."""
    module = types.ModuleType(name)
    vars(module).update(names)
    if behind is not None:
        module.__getattr__ = lambda attribute: getattr(behind, attribute)
        module.__all__ = [n for n in dir(behind) if not n.startswith("_")]
    return module


def modules() -> dict[str, Any]:
    """The modules that stand in the place of autograd's."""
    made = [
        _module(
            "autograd", grad=grad, value_and_grad=value_and_grad, jacobian=jacobian, make_vjp=make_vjp,
            make_jvp=make_jvp, deriv=unary_to_nary(_deriv), elementwise_grad=unary_to_nary(_elementwise_grad),
            holomorphic_grad=unary_to_nary(_holomorphic_grad), grad_and_aux=unary_to_nary(_grad_and_aux),
            hessian=lambda f, argnum=0: jacobian(jacobian(f, argnum), argnum),
            make_hvp=lambda f, argnum=0: make_vjp(grad(f, argnum), argnum),
            hessian_tensor_product=_hessian_tensor_product, hessian_vector_product=_hessian_tensor_product,
            tensor_jacobian_product=_tensor_jacobian_product, vector_jacobian_product=_tensor_jacobian_product,
            make_ggnvp=_make_ggnvp, checkpoint=_missing("checkpoint"),
            isinstance=_isinstance, list=list, tuple=tuple, dict=dict, type=type,
        ),
        _module("autograd.numpy", np, array=_array, asarray=_array, make_diagonal=_make_diagonal,
                row_stack=np.vstack),  # a name that NumPy gives up
        _module("autograd.builtins", isinstance=_isinstance, list=list, tuple=tuple, dict=dict, type=type),
        _module("autograd.core", make_vjp=_make_vjp, make_jvp=_make_jvp, vspace=VSpace, VSpace=VSpace,
                primitive=primitive, defvjp=defvjp, primitive_vjps={}),
        _module("autograd.extend", primitive=primitive, defvjp=defvjp, vspace=VSpace, VSpace=VSpace),
        _module("autograd.tracer", primitive=primitive, isbox=lambda x: isinstance(x, tm.Tensor)),
        _module("autograd.misc", flatten=_flatten, const_graph=_missing("const_graph")),
        _module("autograd.util", quick_grad_check=lambda f, x, extra=(): check_grads(
            lambda x: f(x, *extra), modes=["rev"], order=1)(x)),
        _module("autograd.wrap_util", unary_to_nary=unary_to_nary),
        _module("autograd.test_util", check_grads=check_grads, combo_check=combo_check, scalar_close=scalar_close,
                check_equivalent=check_equivalent),
    ]  # fmt: skip
    return {module.__name__: module for module in made} | _numpy_modules() | _scipy_modules()


def _numpy_modules() -> dict[str, Any]:
    linalg = _module("autograd.numpy.linalg", np.linalg, _dot=np.matmul, T=np.matrix_transpose)  # two names of its own
    return {"autograd.numpy.linalg": linalg, "autograd.numpy.random": np.random, "autograd.numpy.fft": np.fft}


def _scipy_modules() -> dict[str, Any]:
    """SciPy itself; in the place of functions that are no ufuncs, ours."""
    try:
        import scipy
        from scipy import integrate, linalg, signal, special, stats
    except ImportError:
        return {}
    from tinymaml.numpy_api.special import multigammaln, polygamma

    ours = dict(logsumexp=tm.nn.logsumexp, polygamma=polygamma, multigammaln=multigammaln)
    parts = {"special": _module("autograd.scipy.special", special, **ours), "stats": stats, "linalg": linalg,
             "signal": signal, "integrate": integrate,
             "stats.multivariate_normal": stats.multivariate_normal}  # fmt: skip
    top = _module("autograd.scipy", scipy, **{name: part for name, part in parts.items() if "." not in name})
    return {"autograd.scipy": top} | {f"autograd.scipy.{name}": part for name, part in parts.items()}


def install() -> None:
    """Put them in front of autograd, which need not be there."""
    for name in [name for name in sys.modules if name.split(".")[0] == "autograd"]:
        del sys.modules[name]
    for name, module in modules().items():
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if isinstance(sys.modules.get(parent), types.ModuleType):
            setattr(sys.modules[parent], child, module)


# ── running tests ───────────────────────────────────────────────────────────────────────────────────────────────────


class _Recorder:
    """A plugin of pytest that keeps how each test ended: passed, failed or skipped, and why."""

    def __init__(self):
        self.ended: dict[str, dict] = {}

    def _keep(self, report, name: str) -> None:
        crash = getattr(report.longrepr, "reprcrash", None)
        why = crash.message if crash else str(report.longrepr or "")
        self.ended[name] = {"outcome": report.outcome, "why": why, "seconds": getattr(report, "duration", 0.0)}

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._keep(report, _test_name(report.nodeid))

    def pytest_collectreport(self, report) -> None:
        if report.outcome == "failed":
            self._keep(report, _test_name(report.nodeid))


def _test_name(nodeid: str) -> str:
    """`test_numpy::test_dot`, of "tests/test_numpy.py::test_dot"."""
    file, _, rest = nodeid.partition("::")
    return f"{Path(file).stem}::{rest}"


def main(argv: list[str]) -> int:
    import pytest

    folder, file = argv
    settings = Path(folder) / "nothing.ini"
    settings.write_text("[pytest]\n", encoding="utf-8")
    install()
    recorder = _Recorder()
    quiet = ["-q", "-p", "no:cacheprovider", "-W", "ignore", "--tb=short"]
    code = pytest.main([*quiet, "-c", str(settings), "--rootdir", folder, folder], plugins=[recorder])
    Path(file).write_text(json.dumps(recorder.ended), encoding="utf-8")
    return 0 if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED) else int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
