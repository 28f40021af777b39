"""What the engine promises: exact at every order, nothing confused, nothing kept, nothing of the user's touched."""

import gc
import sys
import threading
import tracemalloc
import weakref
from collections import namedtuple

import numpy as np
import pytest

import tinymaml as tm
from tinymaml import check, grad, hvp, jvp, ops, value_and_grad, vjp

Layer = namedtuple("Layer", "w b")
X = np.array([0.3, -0.7, 1.1])
ONE = np.ones(())


def close(ours, wanted, rtol=1e-13):
    """Equal up to rounding, relative to the largest entry."""
    np.testing.assert_allclose(ours, wanted, rtol=rtol, atol=rtol * np.max(np.abs(wanted), initial=0))


def nth(f, n):
    """The n-th derivative of a function of one number."""
    for _ in range(n):
        f = grad(f)
    return f


# ── every order ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", range(1, 6))
@pytest.mark.parametrize(
    ("f", "derivative"),
    {
        "exp 2x": (lambda x: np.exp(2 * x), lambda x, n: 2**n * np.exp(2 * x)),
        "sin": (np.sin, lambda x, n: np.sin(x + n * np.pi / 2)),
        "1/x": (lambda x: 1 / x, lambda x, n: (-1) ** n * [1, 1, 2, 6, 24, 120][n] * x ** -(n + 1.0)),
        "log": (np.log, lambda x, n: (-1) ** (n + 1) * [1, 1, 1, 2, 6, 24][n] * x ** -float(n)),
        "x⁷ by power": (lambda x: x**7, lambda x, n: np.prod(np.arange(7, 7 - n, -1)) * x ** (7.0 - n)),
        "x⁴ by products": (lambda x: x * x * x * x, lambda x, n: [1, 4, 12, 24, 24, 0][n] * x ** max(4.0 - n, 0)),
        "√x": (np.sqrt, lambda x, n: np.prod(0.5 - np.arange(n)) * x ** (0.5 - n)),
        "tanh": (np.tanh, lambda x, n: tanh_derivative(np.tanh(x), n)),
    }.values(),
)
def test_a_derivative_of_any_order_is_its_closed_form(f, derivative, order):
    for x in (0.4, 1.7):
        close(nth(f, order)(x), derivative(x, order), rtol=1e-12)


def tanh_derivative(t, n):
    """d/dx p(tanh x) = p′(t)(1 − t²), n times, from p(t) = t."""
    p = np.polynomial.Polynomial([0, 1])
    for _ in range(n):
        p = p.deriv() * np.polynomial.Polynomial([1, 0, -1])
    return p(t)


def test_seven_spellings_of_a_hessian_agree():
    a = np.random.default_rng(0).standard_normal((4, 3))
    f = lambda x: np.sum(np.tanh(a @ x) ** 2) * x[0] + np.exp(x[1] * x[2])  # noqa: E731
    eye = np.eye(3)
    wanted = np.stack([grad(lambda x, i=i: grad(f)(x)[i])(X) for i in range(3)])  # by rows
    assert np.linalg.norm(wanted) > 1
    close(wanted, wanted.T)
    spellings = {
        "vjp of grad": lambda v: vjp(grad(f), X)[1](v)[0],
        "jvp of grad": lambda v: jvp(grad(f), (X,), (v,))[1],
        "hvp": lambda v: hvp(f, (X,), v),
        "grad of <grad f, v>": lambda v: grad(lambda x: np.sum(grad(f)(x) * v))(X),
        "grad of the jvp": lambda v: grad(lambda x: jvp(f, (x,), (v,))[1])(X),
        "jvp of jvp": lambda v: np.array([jvp(lambda x, w=w: jvp(f, (x,), (w,))[1], (X,), (v,))[1] for w in eye]),
    }
    for name, times in spellings.items():
        np.testing.assert_allclose([times(v) for v in eye], wanted, rtol=1e-12, atol=1e-13, err_msg=name)


def test_hvp_over_all_arguments_holds_the_mixed_derivatives():
    f = lambda p, y: np.sum(p["w"] ** 2 * y)  # noqa: E731
    w, y, v, u = X, X + 2, X - 1, X * X
    ours = hvp(f, ({"w": w}, y), ({"w": v}, u))
    close(ours[0]["w"], 2 * y * v + 2 * w * u)
    close(ours[1], 2 * w * v)
    close(hvp(f, ({"w": w}, y), {"w": v})["w"], 2 * y * v)  # over the first alone


def test_jvp_and_vjp_are_the_two_sides_of_one_jacobian():
    a = np.random.default_rng(1).standard_normal((4, 3))
    f = lambda x: {"y": np.sin(a @ x), "z": [np.prod(x)]}  # noqa: E731
    out, pullback = vjp(f, X)
    u = {"y": np.arange(4.0), "z": [np.array(2.0)]}
    v = np.array([1.0, 2.0, -1.0])
    same, pushed = jvp(f, (X,), (v,))
    close(same["y"], out["y"])
    close(pushed["y"], np.cos(a @ X) * (a @ v))
    # ⟨u, Jv⟩ = ⟨uᵀJ, v⟩
    close(np.sum(u["y"] * pushed["y"]) + u["z"][0] * pushed["z"][0], np.sum(pullback(u)[0] * v))


# ── perturbations ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("f", "wanted"),
    {
        "x d/dy (x + y)": (lambda x: x * grad(lambda y: x + y)(1.0), lambda x: 1),
        "x d/dy (x y)": (lambda x: x * grad(lambda y: x * y)(1.0), lambda x: 2 * x),
        "d/dy at x": (lambda x: x * grad(lambda y: x * y * y)(x), lambda x: 6 * x * x),
        "three deep": (
            lambda x: x * grad(lambda y: y * grad(lambda z: x * y * z)(y))(x),  # x · 2xy at y = x
            lambda x: 6 * x * x,
        ),
        "the inner one is of the outer": (lambda x: grad(lambda y: x**2)(1.0) + x, lambda x: 1),
        "jvp inside": (lambda x: x * jvp(lambda y: x * y * y, (x,), (1.0,))[1], lambda x: 6 * x * x),
        "jvp along x": (lambda x: jvp(lambda y: y**3, (2.0,), (x,))[1], lambda x: 12),
        "jvp of jvp inside": (
            lambda x: jvp(lambda y: jvp(lambda z: z * z * y * x, (y,), (x,))[1], (x,), (1.0,))[1],  # d/dy 2y²x² at x
            lambda x: 12 * x * x,
        ),
        "a pullback used twice": (lambda x: sum(vjp(lambda y: x * y * y, x)[1](g)[0] for g in (x, 1.0)),
                                  lambda x: 6 * x * x + 4 * x),
    }.values(),
)  # fmt: skip
def test_perturbations_are_not_confused(f, wanted):
    for x in (0.7, -1.3):
        close(grad(f)(x), wanted(x))
        close(jvp(f, (x,), (1.0,))[1], wanted(x))


def test_a_nested_derivative_sees_an_outer_variable_through_any_closure():
    def f(x):
        outer = np.sin(x)
        inner = lambda y: np.sum(outer * y**2)  # noqa: E731
        return np.sum(grad(inner)(np.array([1.0, 2.0])))  # 2 sin x (1 + 2)

    close(grad(f)(0.4), 6 * np.cos(0.4))


def test_the_loss_of_a_derivative_inside_another_keeps_its_graph():
    def f(x):
        value, g = value_and_grad(lambda y: x * y**3)(x)
        return value * g  # x⁴ · 3x³

    close(grad(f)(1.2), 21 * 1.2**6)


def test_stop_gradient_holds_constant_at_every_order():
    f = lambda x: x * tm.stop_gradient(x) ** 2  # noqa: E731
    assert grad(f)(3.0) == 9
    assert nth(f, 2)(3.0) == 0


# ── graphs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_fan_out_adds_up():
    diamond = lambda x: (lambda a, b: a * b + a)(np.sin(x), np.cos(x))  # noqa: E731
    close(grad(diamond)(0.3), np.cos(0.6) + np.cos(0.3))
    close(grad(lambda x: x + x + x)(1.0), 3)
    wide = lambda x: sum((x * i for i in range(100)), start=x)  # noqa: E731
    close(grad(wide)(1.0), 1 + 4950)

    def doubled(x):  # 2⁶⁰ paths, 60 operations
        for _ in range(60):
            x = x + x
        return x

    assert grad(doubled)(1.0) == 2.0**60


def test_one_array_given_twice_is_two_arguments():
    one, two = grad(lambda p: np.sum(p[0] * p[1] ** 2))([X, X])
    close(one, X**2)
    close(two, 2 * X**2)


def test_what_is_not_used_has_gradient_zero():
    grads = grad(lambda p: np.sum(p["a"]))({"a": X, "b": np.ones((2, 2), np.float32), "none": None})
    assert grads["none"] is None
    np.testing.assert_array_equal(grads["b"], np.zeros((2, 2), np.float32), strict=True)
    np.testing.assert_array_equal(grad(lambda x: 3.0)(X), np.zeros(3))
    np.testing.assert_array_equal(grad(lambda x: np.sum(grad(lambda y: np.sum(x))(X)))(X), np.zeros(3))
    assert grad(lambda p: 1.0)({}) == {}


def test_an_output_may_be_an_input_a_constant_or_the_same_twice():
    out, pullback = vjp(lambda x, y: (x, X, [y, y], 2.0), X, 2 * X)
    u = (X, X, [X, X], 1.0)
    np.testing.assert_array_equal(out[0], X)
    np.testing.assert_array_equal(out[1], X)
    np.testing.assert_array_equal(pullback(u)[0], X)
    np.testing.assert_array_equal(pullback(u)[1], 2 * X)
    close(grad(lambda x: x)(1.0), 1)
    _, pushed = jvp(lambda x: (x, X), (X,), (X,))
    np.testing.assert_array_equal(pushed[0], X)


def test_a_nest_of_any_kind_comes_back_as_it_was():
    params = {"layers": [Layer(X, np.array(1.0)), Layer(2 * X, np.array(2.0))], "t": (X, {"deep": [X]}), "none": None}
    f = lambda p: sum(np.sum(leaf**2) for leaf in tm.tree_leaves(p))  # noqa: E731
    grads = grad(f)(params)
    assert isinstance(grads["layers"][0], Layer) and isinstance(grads["t"], tuple) and grads["none"] is None
    assert [p for p, _ in tm.tree_items(grads)] == [p for p, _ in tm.tree_items(params)]
    for g, p in zip(tm.tree_leaves(grads), tm.tree_leaves(params), strict=True):
        assert type(g) is np.ndarray and g.shape == p.shape
        np.testing.assert_array_equal(g, 2 * p)
    close(grad(lambda x: np.sum(x * x))(X), 2 * X)  # a bare array
    close(grad(lambda x: x * x)(3.0), 6)  # a number


def test_argnums_chooses_and_has_aux_carries_along():
    f = lambda x, y, scale=1.0: (np.sum(x * y**2) * scale, {"y": y, "sum": x + y})  # noqa: E731
    (value, aux), grads = value_and_grad(f, argnums=(1, 0), has_aux=True)(X, 2 * X, scale=3.0)
    close(value, 12 * np.sum(X**3))
    close(grads[0], 12 * X**2)
    close(grads[1], 12 * X**2)
    close(aux["sum"], 3 * X)
    assert type(aux["sum"]) is np.ndarray
    last, aux = grad(f, argnums=-1, has_aux=True)(X, 2 * X)
    close(last, 4 * X**2)
    # an aux inside another derivative is differentiable as any other value
    close(grad(lambda x: np.sum(grad(f, has_aux=True)(x, x)[1]["sum"]))(X), np.full(3, 2.0))


def test_aux_may_be_anything():
    aux = {"name": "sinusoid", "count": 3, "flags": [True, None], "what": object(), "at": np.arange(3)}
    (_, seen), _ = value_and_grad(lambda x: (np.sum(x), aux), has_aux=True)(X)
    assert all(seen[key] is aux[key] for key in ("name", "count", "what"))
    assert seen["flags"] == [True, None]
    np.testing.assert_array_equal(seen["at"], aux["at"])


def test_a_pullback_may_be_called_again():
    _, pullback = vjp(lambda x: x**3, X)
    once, twice = pullback(X)[0], pullback(2 * X)[0]
    close(once, 3 * X**3)
    np.testing.assert_array_equal(twice, 2 * once)
    np.testing.assert_array_equal(pullback(X)[0], once)


def test_float32_stays_float32():
    x = X.astype(np.float32)
    f = lambda x: np.mean(np.tanh(2 * x) ** 2 + 1.5 / (1 + np.exp(-x)))  # noqa: E731
    value, g = value_and_grad(f)(x)
    assert value.dtype == g.dtype == np.float32
    assert grad(lambda x: np.sum(grad(f)(x) ** 2))(x).dtype == np.float32
    assert hvp(f, (x,), X).dtype == np.float32
    assert all(y.dtype == np.float32 for y in jvp(f, (x,), (X,)))
    mixed = grad(lambda p: np.sum(p["a"] * p["b"]))({"a": x, "b": X})  # float64 in between
    assert mixed["a"].dtype == np.float32 and mixed["b"].dtype == np.float64


# ── what is the user's stays the user's ─────────────────────────────────────────────────────────────────────────────


def test_results_alias_nothing_and_can_be_written_to():
    params = {"a": X.copy(), "b": X.copy()}
    value, grads = value_and_grad(lambda p: np.sum(p["a"] + p["b"]))(params)  # add hands one cotangent to both
    out, pullback = vjp(lambda p: (p["a"], p["a"].value), params)
    u = (X.copy(), X.copy())
    ours = [grads["a"], grads["b"], *out, *tm.tree_leaves(pullback(u))]
    theirs = [*params.values(), *u]
    for i, x in enumerate(ours):
        assert type(x) is np.ndarray and x.flags.writeable and x.flags.owndata
        assert not any(np.shares_memory(x, y) for y in [*theirs, *ours[:i]])
        x += 1


def test_inputs_are_not_modified_and_may_be_read_only():
    params = {"a": X.copy(), "b": np.arange(6.0).reshape(2, 3)}
    for p in params.values():
        p.flags.writeable = False
    before = {k: p.copy() for k, p in params.items()}
    f = lambda p: np.sum(np.tanh(p["b"] * p["a"])[..., 1:] ** 2)  # noqa: E731
    grad(lambda p: np.sum(grad(f)(p)["b"] ** 2))(params)
    for k, p in params.items():
        np.testing.assert_array_equal(p, before[k])


def test_writing_to_an_argument_does_not_change_a_pullback_already_made():
    x = X.copy()
    _, pullback = vjp(lambda x: np.sum(x * x), x)
    x[:] = 0
    close(pullback(ONE)[0], 2 * X)


# ── memory ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def inner_loop(x, steps=20):
    for _ in range(steps):
        x = x - 0.01 * grad(lambda y: np.sum(np.tanh(y) ** 2))(x)
    return np.sum(x**2)


def fails(x):
    y = np.exp(x)
    raise ZeroDivisionError(y.shape)


def swallow(f):
    try:
        f()
    except ZeroDivisionError:
        pass
    else:
        raise AssertionError("nothing was raised")


LARGE = np.linspace(-1, 1, 1000)
USES = {
    "grad": lambda: grad(lambda x: np.sum(np.tanh(x) ** 2))(LARGE),
    "grad of grad": lambda: grad(lambda x: np.sum(grad(lambda y: np.sum(x * y**3))(x)))(LARGE),
    "jvp": lambda: jvp(lambda x: np.sin(x) ** 2, (LARGE,), (LARGE,)),
    "hvp": lambda: hvp(lambda x: np.sum(np.tanh(x)), (LARGE,), LARGE),
    "20 inner steps": lambda: grad(inner_loop)(LARGE),
    "a pullback never called": lambda: vjp(lambda x: np.sin(x) ** 2, LARGE)[1] and None,
    "an exception": lambda: swallow(lambda: grad(fails)(LARGE)),
    "an exception in the inner derivative": lambda: swallow(lambda: grad(lambda x: np.sum(grad(fails)(x)))(LARGE)),
}


def kept_by(use, times=20):
    """How many tensors, and bytes, are alive after `times` uses that were not before; the garbage collector is off."""
    count = lambda: sum(type(o) is tm.Tensor for o in gc.get_objects())  # noqa: E731
    gc.collect()
    gc.freeze()  # all that there is need not be looked at again
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(10):  # caches of Python and NumPy fill
            use()
        tensors, (memory, _) = count(), tracemalloc.get_traced_memory()
        for _ in range(times):
            use()
        return count() - tensors, tracemalloc.get_traced_memory()[0] - memory
    finally:
        tracemalloc.stop()
        gc.enable()


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_nothing_is_kept_without_the_garbage_collector(use):
    tensors, memory = kept_by(use)
    assert tensors == 0
    assert memory < 10 * LARGE.nbytes  # not one array in two uses


def test_what_is_kept_is_seen():
    kept, values = [], []
    tensors, memory = kept_by(lambda: grad(lambda x: kept.append(np.exp(x)) or np.sum(x))(LARGE))
    assert tensors >= 20 and memory > 20 * LARGE.nbytes
    tensors, memory = kept_by(lambda: grad(lambda x: values.append(np.exp(x).value) or np.sum(x))(LARGE))
    assert tensors == 0 and memory > 20 * LARGE.nbytes


def test_a_graph_dies_with_the_last_name_of_it():
    kept = []

    def f(x):
        y = np.exp(x)
        kept.append(weakref.ref(y.value))
        return np.sum(y * y)

    gc.disable()
    try:
        value, pullback = vjp(f, X)
        assert kept[0]() is not None  # the pullback needs it
        del pullback
        assert kept[0]() is None
        grad(f)(X)
        assert kept[1]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("order", [1, 2])
def test_no_graph_is_too_deep(order):
    def chain(x, steps=20_000):
        for _ in range(steps):
            x = x * 1.0001
        return x * x

    slope = 1.0001**20_000
    close(nth(chain, order)(0.5), [slope**2, 2 * slope**2][order - 1], rtol=1e-9)


def test_a_deep_graph_is_freed_without_overflow():
    x = tm.Tensor(X)
    for _ in range(300_000):
        x = x + 1
    ref = weakref.ref(x.value)
    del x
    assert ref() is None


def test_two_threads_may_differentiate_at_once():
    f = lambda x: np.sum(grad(lambda y: np.sum(np.tanh(x * y) ** 2))(x) ** 2)  # noqa: E731
    wanted, results, interval = grad(f)(X), [], sys.getswitchinterval()

    def work():
        results.append(all(np.array_equal(grad(f)(X), wanted) for _ in range(100)))

    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(interval)
    assert results == [True] * 3


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("leaf", [np.arange(3), np.array([True]), np.array([1, "a"], object), 3], ids=lambda x: f"{x}")
def test_a_parameter_without_slope_is_named(leaf):
    dtype = str(np.asarray(leaf).dtype)
    with pytest.raises(TypeError, match=rf"args\[0\]\['w'\]\[1\].*{dtype}"):
        grad(lambda p: np.sum(p["w"][0]))({"w": [X, leaf]})


def test_the_argument_named_is_the_one_the_user_gave():
    with pytest.raises(TypeError, match=r"args\[1\]\['ids'\].*int64"):
        grad(lambda x, p: np.sum(x), argnums=1)(X, {"ids": np.arange(3, dtype=np.int64)})


def named(x):
    return x * x


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: grad(named)(X), ValueError, r"named must return a scalar.*\(3,\)"),
        (lambda: grad(lambda x: x[:1])(X), ValueError, r"scalar.*\(1,\)"),
        (lambda: grad(lambda x: {"loss": np.sum(x)})(X), ValueError, "scalar.*dict"),
        (lambda: grad(lambda x: [np.sum(x)])(X), ValueError, "scalar.*list"),
        (lambda: grad(lambda x: None)(X), ValueError, "scalar.*None"),
        (lambda: grad(lambda x: "loss")(X), ValueError, "scalar.*str"),
        (lambda: grad(lambda x: np.sum(x), has_aux=True)(X), ValueError, "pair.*aux"),
        (lambda: grad(named, argnums=1)(X), ValueError, "argnums=1.*named.*1 positional"),
        (lambda: grad(named, argnums=(0, -2))(X), ValueError, "argnums=.*-2"),
        (lambda: vjp(named, X)[1](X[:2]), ValueError, r"shape \(2,\).*shape \(3,\)"),
        (lambda: vjp(named, X)[1]([X]), ValueError, "nests differ at the top: a list of 1"),
        (lambda: vjp(lambda x: {"a": x, "b": [x]}, X)[1]({"a": X, "b": X}), ValueError, r"nests differ at \['b'\]"),
        (lambda: grad(lambda x: np.sum(vjp(named, x)[1](x[:2])[0]))(X), ValueError, r"shape \(2,\).*shape \(3,\)"),
        (lambda: jvp(named, (X,), (X[:2],)), ValueError, r"shape \(2,\).*shape \(3,\)"),
        (lambda: jvp(named, (X,), ({"x": X},)), ValueError, r"nests differ at \[0\]"),
        (lambda: jvp(named, (X,), (X, X)), ValueError, "nests differ at the top: a tuple of 2"),
        (lambda: hvp(lambda x: np.sum(x**3), (X,), {"x": X}), ValueError, "nests differ"),
        (lambda: hvp(lambda x: np.sum(x**3), (X,), X[:2]), ValueError, r"shape \(2,\).*shape \(3,\)"),
    ],
)  # fmt: skip
def test_a_misuse_says_what_was_seen_and_what_was_wanted(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ── found by planting errors: `python -m bench.oracle mutants engine` ───────────────────────────────────────────────


def test_a_record_and_how_it_is_printed():
    x = tm.Tensor(X)
    assert (x.primitive, x.inputs, x.params) == (None, (), {})
    assert repr(x).endswith("float64, by leaf)") and repr(np.tanh(x)).endswith("float64, by tanh)")
    assert repr(tm.stop_gradient) == "Primitive(stop_gradient)"


def test_a_gradient_cast_to_its_parameters_precision_keeps_its_value():
    x = X.astype(np.float32)
    mixed = grad(lambda p: np.sum(p["a"] * p["b"]))({"a": x, "b": X + 2})
    np.testing.assert_array_equal(mixed["a"], (X + 2).astype(np.float32), strict=True)
    np.testing.assert_array_equal(mixed["b"], x.astype(np.float64), strict=True)


def test_a_real_argument_has_a_real_slope_but_in_a_complex_step():
    z = X + 1j
    product = lambda x, y: x * y  # noqa: E731
    np.testing.assert_array_equal(vjp(product, z, X)[1](np.ones(3))[1], X, strict=True)
    with pytest.raises(TypeError, match="a cotangent of dtype complex128 for an output of dtype float64"):
        vjp(lambda x: x * 2, X)[1](z)
    with check.complex_step():
        np.testing.assert_array_equal(vjp(product, z, X)[1](np.ones(3))[1], z, strict=True)
        np.testing.assert_array_equal(vjp(lambda x: x * 2, X)[1](z)[0], 2 * z, strict=True)


def test_a_complex_loss_is_refused():
    with pytest.raises(TypeError, match=r"it returned complex128: which number is meant, np.real\(z\) or np.abs\(z\)"):
        grad(lambda x: np.sum(x * 1j))(X)


def test_a_cotangent_of_integers_becomes_floating_point():
    np.testing.assert_array_equal(vjp(lambda x: x, X)[1](np.array([1, 2, 3]))[0], np.array([1.0, 2, 3]), strict=True)


def test_nothing_flows_through_integers():
    np.testing.assert_array_equal(grad(lambda x: np.sum(x.astype(int) * x))(3 * X), np.trunc(3 * X))


def test_a_derivative_in_nothing_passes_on_an_outer_variable():
    assert grad(lambda x: value_and_grad(lambda p: x * x)({})[0])(2.0) == 4


@pytest.mark.parametrize("first", [True, False])
def test_an_outer_variable_among_constants_is_differentiated(first):
    a, b = ("a", "b") if first else ("b", "a")
    inner = grad(lambda p: p[a] ** 3 * p[b])
    close(grad(lambda x: inner({"a": x, "b": 5.0} if first else {"a": 5.0, "b": x})[a])(2.0), 60)


def test_an_inner_derivative_calls_no_rule_of_the_outer_one(monkeypatch):
    monkeypatch.setattr(tm.Primitive, "registry", dict(tm.Primitive.registry))
    calls = []
    outer = tm.Primitive("outer", np.sin, (lambda g, out, x: calls.append(x) or g * np.cos(x),))
    _, pullback = vjp(lambda x: grad(lambda y: y * outer(np.exp(x)))(1.0), 0.3)
    assert not calls
    close(pullback(ONE)[0], np.cos(np.exp(0.3)) * np.exp(0.3))
    assert len(calls) == 1


def test_a_constant_loss_may_be_any_number():
    for value in (3, 3.0, np.float32(3), np.array(3.0)):
        np.testing.assert_array_equal(grad(lambda x, value=value: value)(X), np.zeros(3))


@pytest.mark.parametrize("argnums", [(0, 0), (0, -2), (-1, 1)])
def test_an_argument_named_twice_is_refused(argnums):
    with pytest.raises(ValueError, match="names an argument twice"):
        grad(lambda x, y: np.sum(x * y), argnums)(X, X)


def test_an_argument_may_be_counted_from_the_end():
    close(grad(lambda x: np.sum(x**2), argnums=-1)(X), 2 * X)
    with pytest.raises(TypeError, match=r"args\[1\].*int64"):
        grad(lambda x, n: np.sum(x), argnums=-1)(X, np.arange(3))
    with pytest.raises(ValueError, match="1 positional"):
        grad(named, argnums=(0, 3))(X)


def test_three_things_are_not_a_value_and_an_aux():
    with pytest.raises(ValueError, match="pair.*aux"):
        grad(lambda x: (np.sum(x), 1, 2), has_aux=True)(X)


def test_one_argument_needs_no_tuple_and_a_list_is_one():
    f, v = lambda x: np.sum(x**3), X + 1  # noqa: E731
    for args, tangents in ((X, v), ([X], [v]), ((X,), (v,))):
        close(jvp(f, args, tangents)[1], 3 * np.sum(X**2 * v))
        close(hvp(f, args, tangents)[0 if isinstance(args, (list, tuple)) else ...], 6 * X * v)
    close(jvp(lambda x, y: x * y, [X, v], [v, X])[1], v**2 + X**2)


def test_a_jvp_of_large_numbers_overflows_only_where_its_result_does():
    value, slope = jvp(np.exp, (400.0,), (1.0,))  # RuntimeWarnings are errors here
    assert value == slope == np.exp(400.0)


# ── constants ───────────────────────────────────────────────────────────────────────────────────────────────────────


def buffer(x):
    """Σᵢ x i, with one buffer for all i."""
    buf, total = np.empty(3), 0.0
    for i in range(3):
        buf[:] = i + 1
        total = total + np.sum(x * buf)
    return total


def centred(x):
    d = np.array([1.0, 2.0, 6.0])
    y = x * d
    d -= d.mean()
    return np.sum(y) + np.sum(x * d)


def through_a_view(x):
    buf = np.ones((2, 3))
    row = buf[0]
    y = x * row
    buf[:] = 7
    return np.sum(y * y)


def broadcast(x):
    buf = np.ones(3)
    y = x * np.broadcast_to(buf, (2, 3))
    buf[:] = 7
    return np.sum(y * y)


def read_only_view(x):
    buf = np.ones(3)
    row = buf[:]
    row.flags.writeable = False
    y = x * row
    buf[:] = 7
    return np.sum(y * y)


def out(x):
    buf = np.ones(3)
    y = np.sin(x) * buf
    np.add(buf, 6, out=buf)
    return np.sum(y * y)


def a_list(x):
    c = [1.0, 2.0, 3.0]
    y = np.multiply(x, c)
    c[0] = 70.0
    return np.sum(y * y)


def indices(x):
    at = np.array([0, 1, 1])
    y = x[at] ** 3
    at[:] = 2
    return np.sum(y)


def a_mask(x):
    mask = np.array([True, False, True])
    y = np.where(mask, x * x, x) + x[mask].sum()
    mask[:] = ~mask
    return np.sum(y)


def a_product(x):
    a = np.arange(9.0).reshape(3, 3)
    y = a @ x
    z = np.einsum("ij,j->i", a, x)
    a[:] = 1
    return np.sum(y * y) + np.sum(z**3)


def stacked(x):
    buf = np.ones(3)
    y = np.concatenate([x, buf]) * np.stack([buf, buf]).ravel()
    buf[:] = 7
    return np.sum(y**3)


def in_an_inner_gradient(x):
    buf = np.ones(3)
    g = grad(lambda y: np.sum(buf * y**3))(x)
    buf[:] = 7
    h = grad(lambda y: np.sum(buf * y**3))(x)
    return np.sum(g * x) + np.sum(h * x)


def scattered(x):
    at, buf = np.array([0, 2]), np.ones(2)
    y = ops.scatter_add(x[:2] * buf, at, template=(ops.ARRAY,), shape=(3,))
    at[:], buf[:] = 1, 7
    return np.sum(y**3)


def reshaped(x):
    buf = np.ones((3, 1))
    y = x * buf.T.reshape(3)
    buf[:] = 7
    return np.sum(y**3)


def memory_of_bytes(x):
    store = bytearray(np.ones(3).tobytes())
    row = np.frombuffer(store)
    row.flags.writeable = False
    y = x * row
    store[:] = bytes(24)
    return np.sum(y**3)


WRITTEN = [buffer, centred, through_a_view, broadcast, read_only_view, out, a_list, indices, a_mask, a_product, stacked,
           in_an_inner_gradient, scattered, reshaped, memory_of_bytes]  # fmt: skip


def by_differences(f, x, h=1e-6):
    steps = np.eye(3) * h
    return np.array([(f(x + s) - f(x - s)) / (2 * h) for s in steps])


def derivatives(f) -> list:
    """f, and the derivatives of f, of Σ X ∇f, and so on: of order one to three."""
    functions = [f, grad(f)]
    for _ in range(2):
        functions.append(grad(lambda x, g=functions[-1]: np.sum(g(x) * np.array([3.0, 0.5, -5.0]))))
    return functions


@pytest.mark.parametrize("f", WRITTEN)
def test_a_constant_is_what_it_was_when_it_was_used(f):
    """NumPy computes f, whose derivative is a limit of differences; so is that of the derivative, and the next."""
    x, h = np.array([0.7, -0.4, 1.3]), 1e-6
    functions = derivatives(f)
    for lower, upper in zip(functions, functions[1:], strict=False):
        y = lower if lower is f else lambda x, g=lower: np.sum(g(x) * np.array([3.0, 0.5, -5.0]))
        wanted = [(y(x + step) - y(x - step)) / (2 * h) for step in np.eye(3) * h]
        np.testing.assert_allclose(upper(x), wanted, rtol=1e-5, atol=1e-6)


def test_buffers_that_are_reused_in_numbers():
    x = np.array([3.0, 0.5, -5.0])
    np.testing.assert_array_equal(grad(buffer)(x), [6, 6, 6])
    np.testing.assert_array_equal(grad(centred)(x), [1 - 2, 2 - 1, 6 + 3])


def test_constants_that_are_read_only_are_not_copied():
    c = np.ones(3)
    c.flags.writeable = False
    x = tm.Tensor(np.arange(3.0))
    assert (x * c).inputs[1] is c
    view = c[None].T[:, 0]
    assert (x * view).inputs[1] is view
    literal = np.frombuffer(bytes(24))
    assert (x * literal).inputs[1] is literal
    c = np.ones(3)
    assert (x * c).inputs[1] is not c and not (x * c).inputs[1].flags.writeable


def test_what_is_broadcast_stays_as_small_as_it_was():
    row = np.broadcast_to(np.arange(3.0), (10**9, 3))
    kept = tm.engine.unchanging(row)
    assert kept.shape == row.shape and kept.strides == row.strides and not np.shares_memory(kept, row)
    np.testing.assert_array_equal(kept[-1], row[-1])
    x = tm.Tensor(np.ones((2, 3)))
    np.testing.assert_array_equal((x * np.broadcast_to(np.arange(2.0)[:, None], (2, 3))).inputs[1], [[0] * 3, [1] * 3])


def test_a_copy_has_the_order_of_what_is_copied():
    c = np.arange(6.0).reshape(2, 3).T
    assert (tm.Tensor(np.ones((3, 2))) * c).inputs[1].strides == c.strides


def test_a_leaf_cannot_be_written_to():
    def f(x):
        x.value -= 1
        return np.sum(x)

    with pytest.raises(ValueError, match="read-only"):
        grad(f)(np.arange(3.0))
