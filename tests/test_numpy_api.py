"""Tensors behave as the arrays they hold: values, shapes, dtypes and errors are NumPy's, for any shape and layout."""

import operator

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinymaml as tm
from tinymaml import Tensor, check_grads, vjp
from tinymaml.nest import tree_leaves, tree_map

DTYPES = st.sampled_from([np.float64, np.float32])
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
FULL = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)  # at least one axis, nothing empty


# ── arrays of every layout ──────────────────────────────────────────────────────────────────────────────────────────


def layout(x: np.ndarray, how: str) -> np.ndarray:
    """The same numbers, in memory as `how` says."""
    if how == "strided":
        return np.repeat(x, 2, -1)[..., ::2] if x.ndim else x
    if how == "backwards":
        back = (slice(None, None, -1),) * x.ndim
        return x[back].copy()[back]
    if how == "transposed":
        return x.T.copy().T
    if how == "read-only":
        x = x.copy()
        x.flags.writeable = False
    return x


@st.composite
def arrays(draw, shape=SHAPES, dtype=DTYPES, low=-3.0):
    """An array of any layout. Its numbers are a random permutation of distinct ones, so that there are no ties."""
    shape = draw(shape) if isinstance(shape, st.SearchStrategy) else shape
    dtype = draw(dtype) if isinstance(dtype, st.SearchStrategy) else dtype
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.permutation(np.linspace(low, 3.1, int(np.prod(shape, dtype=int)))).reshape(shape).astype(dtype)
    return layout(x, draw(st.sampled_from(["plain", "strided", "backwards", "transposed", "read-only"])))


@st.composite
def with_axis(draw, shape=FULL, tuples=True):
    """An array and an axis of it: None, an int or a tuple, counted from either end."""
    x = draw(arrays(shape))
    one = st.integers(-x.ndim, x.ndim - 1)
    several = st.lists(one, unique_by=lambda i: i % x.ndim, max_size=x.ndim).map(tuple)
    return x, draw(st.one_of(st.none(), one, *([several] if tuples else [])))


@st.composite
def broadcastable(draw, count=2):
    shapes = draw(hnp.mutually_broadcastable_shapes(num_shapes=count, max_dims=3, min_side=0, max_side=3)).input_shapes
    return [draw(arrays(shape)) for shape in shapes]


def check(f, *args, exact=False, roundings=16):
    """f on tensors is f on arrays; the cotangents have the arguments' shapes and dtypes; nothing is written to."""
    before = [x.copy() for x in args]
    with np.errstate(all="ignore"):
        theirs = tree_map(np.asarray, f(*args))
        ours, pullback = vjp(f, *args)
        gradients = pullback(tree_map(lambda y: np.ones(y.shape, y.dtype), ours))
    assert len(tree_leaves(ours)) == len(tree_leaves(theirs))
    for a, b in zip(tree_leaves(ours), tree_leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if exact or b.dtype.kind != "f":
            np.testing.assert_array_equal(a, b)
        else:
            eps = np.max([np.finfo(x.dtype).eps for x in args])
            largest = np.max(np.abs(b), initial=1, where=np.isfinite(b))
            np.testing.assert_allclose(a, b, rtol=roundings * eps, atol=roundings * eps * largest)
    for x, y, g in zip(args, before, gradients, strict=True):
        np.testing.assert_array_equal(x, y)
        assert (g.shape, g.dtype) == (x.shape, x.dtype)
    return gradients


def by_differences(f, x) -> None:
    """The gradient of a linear f, or of an f made nonlinear, is that of numerical differentiation at orders 1 and 2."""
    check_grads(lambda x: [y * y for y in tree_leaves(f(x))], (x,), order=2)


# ── elementwise ─────────────────────────────────────────────────────────────────────────────────────────────────────

SAME_UFUNC = [
    np.add,
    np.subtract,
    np.multiply,
    np.divide,
    np.logaddexp,
    np.maximum,
    np.equal,
    np.less,
    np.greater_equal,
    np.not_equal,
    np.greater,
    np.less_equal,
    np.logical_and,
    np.logical_or,
    np.logical_xor,
]
ANYWHERE = [
    np.negative,
    np.positive,
    np.square,
    np.absolute,
    np.fabs,
    np.exp,
    np.expm1,
    np.exp2,
    np.sin,
    np.cos,
    np.tanh,
    np.arctan,
    np.sign,
    np.floor,
    np.ceil,
    np.rint,
    np.trunc,
    np.isnan,
    np.isinf,
    np.isfinite,
    np.sinh,
    np.cosh,
]
POSITIVE = [np.log, np.log1p, np.log2, np.log10, np.sqrt, np.reciprocal, np.tan]


@given(st.sampled_from(SAME_UFUNC), broadcastable())
def test_binary_functions_broadcast_and_promote_as_numpys(f, args):
    check(f, *args, exact=True)


@given(st.sampled_from([np.minimum, np.hypot]), broadcastable())
def test_composed_binary_functions_too(f, args):
    check(f, *args)


@given(st.sampled_from(ANYWHERE), arrays())
def test_unary_functions(f, x):
    check(f, x)


@given(st.sampled_from(POSITIVE), arrays(low=0.1))
def test_unary_functions_of_positive_numbers(f, x):
    check(f, x)


@given(
    st.sampled_from(
        [
            operator.add,
            operator.sub,
            operator.mul,
            operator.truediv,
            np.power,  # the operator ** promotes in its own way before NumPy 2.3
            operator.lt,
            operator.ge,
            operator.eq,
            operator.ne,
            operator.gt,
            operator.le,
        ]
    ),
    arrays(low=0.1),
    st.booleans(),
    st.sampled_from(
        [
            2,
            0.5,
            True,
            np.float32(1.5),
            np.float64(1.5),
            np.array(1.5),
            np.array(2, np.float32),
            np.int64(2),
            np.array(3, np.int8),
        ]
    ),
)
def test_a_number_promotes_as_in_numpy_and_the_result_is_a_tensor(f, x, reflected, number):
    g = (lambda x: f(number, x)) if reflected else (lambda x: f(x, number))
    check(g, x, exact=f is not np.power)  # NumPy rounds powers of scalars and of vectors differently
    with np.errstate(all="ignore"):
        assert isinstance(g(Tensor(x)), Tensor)


@given(broadcastable(3), st.booleans())
def test_where_and_clip_broadcast(args, numbers):
    x, y, z = args
    check(lambda y, z: np.where(x > 0, y, z), y, z, exact=True)
    check(lambda x, y, z: np.where(x > 0, y, z), x, y, z, exact=True)
    check(np.clip, x, y, z)
    for branch in (0, 1.0, np.float32(2)):
        check(lambda y, b=branch: np.where(x > 0, y, b), y, exact=True)
        check(lambda y, b=branch: np.where(x > 0, b, y), y, exact=True)


def test_python_numbers_leave_float32_alone():
    x = np.array([0.5, 2], np.float32)

    def f(x):
        return np.clip(np.where(x > 0, x, 0.0) + np.maximum(x, 0) * 2 + 1 / x - x**2 + x**0.5, 0.1, 3) / 3

    assert f(Tensor(x)).dtype == tm.grad(lambda x: np.sum(f(x)))(x).dtype == np.float32


def test_a_list_is_taken_for_an_array_as_numpy_does():
    for f in (np.minimum, np.maximum, np.multiply, np.add, np.power, np.matmul, np.dot, np.inner, np.outer, np.hypot):
        for g in (lambda x, f=f: f(x, [1.0, 2.0]), lambda x, f=f: f([1.0, 2.0], x)):
            check(g, np.array([0.5, 3.0]))
    check(lambda x: np.minimum(x, [1.0]), np.array([5.0]), exact=True)
    check(lambda x: x * [1.0, 2.0] + (3.0, 4.0) - x / [5.0, 6.0], np.array([0.5, 3.0]), exact=True)
    check(lambda x: np.add(x, [x[0], 2.0]) if isinstance(x, Tensor) else x + [x[0], 2.0], np.array([0.5, 3.0]))


def test_the_matmul_operator_takes_lists():
    check(lambda x: x @ [1.0, 2.0] + [1.0, 2.0] @ x, np.array([0.5, 3.0]))


# ── kinks and zeros ─────────────────────────────────────────────────────────────────────────────────────────────────


def slope(f, x):
    return tm.grad(lambda x: np.sum(f(x)))(np.asarray(x, float))


def test_slopes_at_kinks_are_those_ops_states():
    at_zero = {np.abs: 0, np.fabs: 0, abs: 0, np.sign: 0, np.square: 0, tm.nn.relu: 0}
    assert {f: slope(f, 0) for f in at_zero} == at_zero
    assert slope(lambda x: np.maximum(x, 0), 0) == slope(lambda x: np.minimum(x, 0), 0) == 0.5
    np.testing.assert_array_equal(slope(lambda x: np.clip(x, -1, 1), [-2, -1, 0, 1, 2]), [0, 0.5, 1, 0.5, 0])
    np.testing.assert_array_equal(slope(np.max, [3, 1, 3]), [0.5, 0, 0.5])
    np.testing.assert_array_equal(slope(np.min, [3, 1, 1]), [0, 0.5, 0.5])
    np.testing.assert_array_equal(slope(lambda x: tm.ops.max(x, ties="first"), [1, 3, 3]), [0, 1, 0])
    np.testing.assert_array_equal(slope(lambda x: np.max(x, (0, 2)), np.ones((2, 1, 2))), np.full((2, 1, 2), 0.25))


POWERS = [  # x, y, ∂xʸ/∂x, ∂²xʸ/∂x²
    (0, 0, 0, 0), (0, 1, 1, 0), (0, 2, 0, 2), (0, 3, 0, 0), (-2, 0, 0, 0), (-2, 1, 1, 0), (-2, 2, -4, 2),
    (-2, 3, 12, -12), (-2, -1, -0.25, -0.25), (2, -2, -0.25, 0.375),
]  # fmt: skip


@pytest.mark.parametrize(
    "exponent", [int, float, np.float64, np.array, lambda y: np.array(y, float), lambda y: np.array([y, y])]
)
@pytest.mark.parametrize("x, y, first, second", POWERS)
def test_powers_at_zero_and_of_negative_numbers(x, y, first, second, exponent):
    x, y = np.array([x, x], float), exponent(y)
    d = lambda x: tm.grad(lambda x: np.sum(x**y))(x)  # noqa: E731
    np.testing.assert_allclose(d(x), [first] * 2)
    np.testing.assert_allclose(tm.grad(lambda x: np.sum(d(x)))(x), [second] * 2)


def test_the_slope_of_a_power_in_a_tensor_exponent():
    check_grads(lambda x: x ** np.array([1.0, 2.0, 3.0]), (np.array([-1.5, -0.5, 2.0]),), order=3)
    np.testing.assert_array_equal(slope(lambda y: 0.0**y, [1, 2]), [0, 0])
    np.testing.assert_array_equal(slope(lambda x: x ** np.argmax(x), [1, 5]), [1, 1])


@pytest.mark.parametrize("x", [[0, 2, 3], [0, 0, 3], [0, 0, 0], [-1, 0, 4, 2], [[0, 1], [2, 0]]], ids=str)
def test_products_with_zeros_are_exact_at_every_order(x):
    x = np.array(x, float)
    check_grads(np.prod, (x,), order=3)
    check_grads(lambda x: np.prod(x, 0), (x,), order=2)


def test_infinities_that_are_not_chosen_do_no_harm():
    np.testing.assert_array_equal(slope(lambda x: np.where(x > 0, np.log(np.where(x > 0, x, 1)), 0), [0, 2]), [0, 0.5])
    np.testing.assert_array_equal(slope(lambda x: np.where([True, False], x, np.inf), [1, 2]), [1, 0])


def test_the_maximum_of_infinities_is_a_tie():
    np.testing.assert_array_equal(slope(lambda x: np.maximum(x, -np.inf), [-np.inf, 1]), [0.5, 1])


# ── reductions ──────────────────────────────────────────────────────────────────────────────────────────────────────

REDUCTIONS = [np.sum, np.mean, np.var, np.std, np.prod, np.max, np.min, np.any, np.all]


@given(st.sampled_from(REDUCTIONS), with_axis(), st.booleans(), st.booleans())
def test_reductions_over_any_axes(f, x_axis, keepdims, method):
    x, axis = x_axis
    name = {np.max: "max", np.min: "min"}.get(f, f.__name__)
    reduced = (
        (lambda x: getattr(x, name)(axis=axis, keepdims=keepdims))
        if method
        else (lambda x: f(x, axis, keepdims=keepdims))
    )
    check(reduced, x, exact=f is np.sum)


@given(st.sampled_from([np.sum, np.prod, np.any, np.all, np.mean, np.var]), arrays())
@pytest.mark.filterwarnings("ignore:Degrees of freedom", "ignore:Mean of empty")
def test_reductions_of_what_may_be_empty(f, x):
    check(f, x)


@given(with_axis(), st.integers(0, 3))
@pytest.mark.filterwarnings("ignore:Degrees of freedom")
def test_degrees_of_freedom(x_axis, ddof):
    x, axis = x_axis
    check(lambda x: np.var(x, axis, ddof=ddof), x)
    check(lambda x: np.std(x, axis, ddof=ddof), x)


@given(st.sampled_from([np.cumsum, np.argmax, np.argmin]), with_axis(tuples=False))
def test_functions_of_one_axis(f, x_axis):
    x, axis = x_axis
    check(lambda x: f(x, axis), x)


@given(with_axis(tuples=False))
def test_sorting_by_argsort(x_axis):
    x, axis = x_axis
    axis = -1 if axis is None else axis
    np.testing.assert_array_equal(
        np.take_along_axis(Tensor(x), np.argsort(Tensor(x), axis), axis).value, np.sort(x, axis)
    )
    check(lambda x: np.argsort(x, axis), x)


@given(with_axis(), st.sampled_from([None, 1, 2, 3, 0.5, np.inf, -np.inf]), st.booleans())
def test_norms(x_axis, order, keepdims):
    x, axis = x_axis
    axis = axis if order is None and (axis is None or np.ndim(axis) == 0) else 0
    check(lambda x: np.linalg.norm(x, order, axis, keepdims), x, roundings=64)


@pytest.mark.parametrize("shape", [(0,), (0, 2), (2, 0), (0, 0)])
@pytest.mark.parametrize("order", [np.inf, -np.inf, 1, 2])
def test_norms_of_nothing(shape, order):
    """Which NumPy has for the largest, or not, as its version is."""

    def outcome(x):
        try:
            return tm.engine.value_of(np.linalg.norm(x, order, axis=0))
        except ValueError as error:
            return str(error)

    x = np.zeros(shape, np.float32)
    np.testing.assert_array_equal(outcome(Tensor(x)), outcome(x), strict=True)


# ── shapes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def factored(draw):
    """An array and another shape of the same size, perhaps with a −1."""
    factors = draw(st.lists(st.sampled_from([1, 2, 3]), max_size=5))
    cut = lambda: [int(np.prod(part, dtype=int)) for part in np.split(factors, sorted(draw(st.lists(  # noqa: E731
        st.integers(0, len(factors)), max_size=3))))]  # fmt: skip
    shape, new = cut(), cut()
    if draw(st.booleans()):
        new[draw(st.integers(0, len(new) - 1))] = -1
    return draw(arrays(tuple(shape))), tuple(new)


@given(factored())
def test_reshapes(x_shape):
    x, shape = x_shape
    check(
        lambda x: [np.reshape(x, shape), x.reshape(shape), x.reshape(*shape), np.ravel(x), x.ravel(), x.flatten()],
        x,
        exact=True,
    )


@given(arrays(), st.data())
def test_transposes(x, data):
    axes = data.draw(st.permutations(range(x.ndim)))
    signed = tuple(i - x.ndim if data.draw(st.booleans()) else i for i in axes)
    check(
        lambda x: [x.T, np.transpose(x), np.transpose(x, signed), x.transpose(signed), x.transpose(*signed)],
        x,
        exact=True,
    )
    check(lambda x: [np.moveaxis(x, signed, tuple(range(x.ndim)))], x, exact=True)
    if x.ndim:
        i, j = signed[0], signed[-1]
        check(
            lambda x: [np.swapaxes(x, i, j), np.moveaxis(x, i, j), np.moveaxis(x, np.int64(i), np.int64(j))],
            x,
            exact=True,
        )
    if x.ndim > 1:
        check(lambda x: [x.mT, np.matrix_transpose(x), np.moveaxis(x, signed[:2], (-1, 0))], x, exact=True)


@given(arrays(hnp.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=2)), st.data())
def test_axes_of_length_one(x, data):
    ones = [i for i, n in enumerate(x.shape) if n == 1]
    axis = tuple(data.draw(st.lists(st.sampled_from(ones), unique=True))) if ones else ()
    new = data.draw(st.lists(st.integers(0, x.ndim), unique=True, max_size=2).map(tuple))
    check(
        lambda x: [np.squeeze(x), np.squeeze(x, axis), np.expand_dims(x, new), np.expand_dims(x, -1), np.atleast_1d(x)],
        x,
        exact=True,
    )


@given(hnp.mutually_broadcastable_shapes(num_shapes=1, max_dims=3, max_side=3), st.data())
def test_broadcasting_to_a_shape(shapes, data):
    x = data.draw(arrays(shapes.input_shapes[0]))
    check(lambda x: np.broadcast_to(x, shapes.result_shape), x, exact=True)


@given(arrays(FULL), st.data())
def test_joining_and_splitting(x, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    y = data.draw(arrays(x.shape))
    check(lambda x, y: np.concatenate([x, y, x], axis), x, y, exact=True)
    check(lambda x, y: np.concatenate((y, np.ones(x.shape, x.dtype), x), None), x, y, exact=True)
    check(lambda x, y: [np.stack([x, y], axis), np.vstack([x, y]), np.hstack([x, y])], x, y, exact=True)
    check(lambda x: [np.stack(x), np.concatenate(list(x)) if x.ndim > 1 else x], x, exact=True)
    where = data.draw(st.lists(st.integers(-1, 5), max_size=3))
    count = data.draw(st.integers(1, 3))
    check(
        lambda x: [np.split(x, where, axis), np.array_split(x, count, axis), np.split(x, x.shape[axis], axis)],
        x,
        exact=True,
    )


def test_lists_may_mix_tensors_arrays_and_numbers():
    x, a = np.array([1, 2], np.float32), np.array([3, 4], np.float32)
    for f in (np.stack, np.concatenate, np.vstack, np.hstack):
        check(lambda x, f=f: f([a, x, a]), x, exact=True)
        check(lambda x, f=f: f([[5.0, 6.0], x]), x, exact=True)
    check(lambda x: np.stack([x[0], 2.0, a[1]]), x, exact=True)
    check(lambda x: np.matmul(x, np.stack([a, x])), x)


@given(arrays(FULL), st.data())
def test_flips_rolls_tiles_and_repeats(x, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    by, n = data.draw(st.integers(-5, 5)), data.draw(st.integers(0, 3))
    reps = tuple(data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=4)))
    counts = data.draw(st.lists(st.integers(0, 2), min_size=x.shape[axis], max_size=x.shape[axis]))
    check(lambda x: [np.flip(x), np.flip(x, axis), np.flip(x, (0, -1) if x.ndim > 1 else (0,))], x, exact=True)
    check(lambda x: [np.roll(x, by), np.roll(x, by, axis), np.roll(x, (by, 1), (axis, 0)), np.roll(x, (by, 1), axis),
                     np.roll(x, by, (axis, 0)), np.roll(x, [by], [axis])], x, exact=True)  # fmt: skip
    check(lambda x: [np.tile(x, n), np.tile(x, reps)], x, exact=True)
    check(
        lambda x: [np.repeat(x, n), np.repeat(x, n, axis), np.repeat(x, counts, axis), np.repeat(x, [n], axis)],
        x,
        exact=True,
    )


@given(arrays(FULL), st.data())
def test_pads_in_every_form_of_width(x, data):
    n = st.integers(0, 2)
    each = data.draw(st.lists(st.tuples(n, n), min_size=x.ndim, max_size=x.ndim))
    for width in (1, (2,), (1, 2), ((0, 1),), each, tuple(each), np.array(each), [(a,) for a, _ in each]):
        check(lambda x, w=width: [np.pad(x, w), np.pad(x, w, constant_values=1.5)], x, exact=True)
        check(lambda x, w=width: np.pad(x, w, "constant", constant_values=np.float64(2)), x, exact=True)


@given(with_axis(tuples=False), st.data())
def test_takes(x_axis, data):
    x, axis = x_axis
    n = x.size if axis is None else x.shape[axis]
    index = data.draw(
        hnp.arrays(
            np.int64, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3), elements=st.integers(-n, n - 1)
        )
    )
    check(
        lambda x: [
            np.take(x, index, axis),
            x.take(index, axis),
            np.take(x, index.tolist() if index.size else index, axis),
        ],
        x,
        exact=True,
    )
    if axis is not None:
        along = data.draw(
            hnp.arrays(
                np.int64,
                tuple(2 if i == axis % x.ndim else m for i, m in enumerate(x.shape)),
                elements=st.integers(-n, n - 1),
            )
        )
        check(
            lambda x: [
                np.take_along_axis(x, along, axis),
                np.take_along_axis(x, along[:1], axis) if axis % x.ndim else x,
            ],
            x,
            exact=True,
        )


@given(with_axis(tuples=False), st.integers(0, 3))
def test_differences(x_axis, n):
    x, axis = x_axis
    check(lambda x: np.diff(x, n, -1 if axis is None else axis), x)


# ── indexing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def gradient_of_index(x, index):
    """Counted one element at a time, from where NumPy takes each."""
    z = np.zeros(x.size, x.dtype)
    np.add.at(z, np.arange(x.size).reshape(x.shape)[index].ravel(), 1)
    return z.reshape(x.shape)


def check_index(x, index):
    (g,) = check(lambda x: x[index], x, exact=True)
    np.testing.assert_array_equal(g, gradient_of_index(x, index))


@given(arrays(), st.data())
def test_basic_indexing(x, data):
    check_index(x, data.draw(hnp.basic_indices(x.shape, allow_newaxis=True, allow_ellipsis=True)))


@given(arrays(FULL), st.data())
def test_advanced_indexing_adds_where_it_repeats(x, data):
    shape = hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3)
    check_index(x, data.draw(hnp.integer_array_indices(x.shape, result_shape=shape)))
    rows = data.draw(
        hnp.arrays(st.sampled_from([np.int64, np.int32, np.int8]), 4, elements=st.integers(-x.shape[0], x.shape[0] - 1))
    )
    for index in (
        rows,
        (rows,),
        (rows, ...),
        rows.tolist(),
        (None, rows),
        rows[None],
        np.abs(rows).astype(np.uint8) % x.shape[0],
    ):
        check_index(x, index)


@given(arrays(hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=4)), st.data())
def test_mixed_indexing(x, data):
    parts = [
        data.draw(st.one_of(
            st.integers(-n, n - 1), st.slices(n), st.just(slice(None)),
            hnp.arrays(np.int64, (2,), elements=st.integers(-n, n - 1)),
            hnp.arrays(np.int64, (3, 1), elements=st.integers(-n, n - 1)),
            hnp.arrays(bool, (n,)).filter(lambda m: m.sum() in (1, 2)) if n > 1 else st.just(0),
        ))
        for n in x.shape
    ]  # fmt: skip
    if data.draw(st.booleans()):
        parts.insert(data.draw(st.integers(0, len(parts))), None)
    if data.draw(st.booleans()):
        parts[-1] = ...
    try:
        x[tuple(parts)]
    except IndexError:
        assume(False)  # masks and arrays that do not broadcast
    check_index(x, tuple(parts))


@given(arrays(), st.data())
def test_masks(x, data):
    mask = data.draw(hnp.arrays(bool, x.shape))
    assume(x.ndim)
    check_index(x, mask)
    check_index(x, (mask[..., 0] if x.ndim > 1 and x.shape[-1] else mask))
    np.testing.assert_array_equal(Tensor(x)[Tensor(x) > 0].value, x[x > 0])
    np.testing.assert_array_equal(vjp(lambda x: x[x > 0], x)[1](x[x > 0])[0], np.where(x > 0, x, 0))


@given(arrays(hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=4)))
def test_integer_tensors_index(x):
    axis = x.ndim - 1
    largest = np.max(x, axis)
    at = lambda x: np.expand_dims(np.argmax(x, axis), axis)  # noqa: E731
    ours, pullback = vjp(lambda x: np.take_along_axis(x, at(x), axis)[..., 0], x)
    np.testing.assert_array_equal(ours, largest)
    np.testing.assert_array_equal(pullback(np.ones_like(largest))[0], x == largest[..., None])
    row = lambda x: x[np.argmax(x[:, 0] if x.ndim == 2 else x[:, 0, 0])]  # noqa: E731
    np.testing.assert_array_equal(vjp(row, x)[0], row(x))


INDICES = [
    np.s_[1],
    np.s_[:, -1],
    np.s_[::-2, 1:],
    np.s_[..., None],
    np.s_[[0, 0, 1]],
    np.s_[[0, 1, 0], [2, 2, 0]],
    np.s_[:, [1, 1]],
    np.s_[[[0], [1]], [1, 2]],
    np.array([[True, False, True], [False, True, True]]),
    np.s_[-1, [0, -1]],
    np.s_[[1, 0], None, :2],
    np.s_[True],
    np.s_[np.array(1)],
    np.s_[[True, False]],
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indexing_is_right_at_second_order(index):
    by_differences(lambda x: x[index], np.arange(1.0, 7).reshape(2, 3))


@pytest.mark.parametrize("index", [
    pytest.param(((0, 0),), id="a tuple in a tuple"),
    pytest.param(range(2), id="range"),
    pytest.param([], id="an empty list"),
    pytest.param(np.array(True), id="a mask without axes"),
])  # fmt: skip
def test_sequences_and_scalars_index_as_arrays_do(index):
    check_index(np.arange(6.0).reshape(3, 2), index)
    # as data in the record, not hidden in the template
    template = Tensor(np.ones((3, 2)))[index].params["template"]
    assert all(part is None or part is ... or isinstance(part, (int, slice, str)) for part in template)


@pytest.mark.parametrize("index", [np.array([True, False]), np.ones((3, 3), bool)])
def test_a_mask_of_another_shape_is_refused(index):
    with pytest.raises(IndexError, match="boolean index"):
        Tensor(np.ones((3, 2)))[index]


def test_places_that_do_not_exist_are_refused():
    x = Tensor(np.ones((3, 2)))
    for index in (3, (0, -3), [3], ([0], [2]), (0, 0, 0), np.array([1.5]), "a"):
        with pytest.raises(IndexError):
            x[index]


# ── dtypes other than floating point ────────────────────────────────────────────────────────────────────────────────


@given(arrays(FULL, low=0.1, dtype=np.float32))
def test_boolean_and_integer_tensors_compute_as_their_arrays(x):
    check(lambda x: [(x > 1) * x, x * (x < 2) + (x > 1), 1.0 - (x > 1), (x > 1).astype(np.float32) * x], x)
    check(lambda x: [np.sum(x > 1), np.mean(x > 1), np.sum(x > 1) / 2, np.sum(x > 1) + x], x)
    check(lambda x: [(x > 1) & (x < 2), ~(x > 1), np.where(x > 1, x, x > 2)], x)


def test_counting_with_argmax():
    x = np.array([[1.0, 5, 2], [7, 0, 1]])
    check(
        lambda x: [
            np.argmax(x, 1) + 1,
            np.argmax(x, 1) / 2,
            np.argmax(x, 1) * x[:, 0],
            np.argmax(x, 1) == [1, 1],
            -np.argmax(x),
        ],
        x,
    )


def test_bitwise_operators_on_integers_are_bitwise():
    x = np.array([1.0, 2, 9, 3])
    check(lambda x: [np.argsort(x) & 1, np.argsort(x) | 4, np.argsort(x) ^ 1, ~np.argsort(x)], x)


@pytest.mark.parametrize("f", [
    lambda x: x.astype(int).astype(float),
    lambda x: np.where(x.astype(bool), 1.0, 2.0),
    lambda x: np.take(Tensor(np.arange(1.0, 5)), x.astype(int)),
])  # fmt: skip
def test_no_derivative_flows_through_integers(f):
    np.testing.assert_array_equal(slope(f, [0.5, 1.5, 2.5]), [0, 0, 0])


def test_casts_keep_value_and_gradient():
    x = np.array([1.5, 2], np.float32)
    check(lambda x: x.astype(np.float64) * 2, x, exact=True)
    check(lambda x: x.astype(np.float32) * 2, x.astype(float), exact=True)


# ── matrices ────────────────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def matrices(draw, least=1):
    """Two operands of matmul, of any ranks 1 to 4, whose batches broadcast."""
    shapes = draw(
        hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, max_dims=2, min_side=least, max_side=3)
    )
    return [draw(arrays(shape, low=-1)) for shape in shapes.input_shapes]


@given(matrices())
def test_matmul_of_any_ranks_and_batches(args):
    check(np.matmul, *args)
    check(operator.matmul, *args)


def test_matmul_over_an_empty_axis_is_zero():
    check(np.matmul, np.ones((2, 3, 0)), np.ones((0, 4)), exact=True)


@pytest.mark.parametrize(
    "shapes",
    [
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((3,), (3, 2)),
        ((2, 2, 3), (3,)),
        ((3,), (2, 3, 2)),
        ((2, 2, 3), (3, 2)),
        ((2, 3), (2, 3, 2)),
        ((2, 1, 2, 3), (3, 3, 1)),
        ((1, 2, 3), (2, 3, 2)),
    ],
    ids=str,
)
def test_matmul_is_right_at_second_order(shapes):
    rng = np.random.default_rng(0)
    check_grads(np.matmul, tuple(rng.standard_normal(s) for s in shapes), order=2)


@given(st.data())
def test_dot_inner_outer_and_tensordot(data):
    n, m = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    lead = hnp.array_shapes(min_dims=0, max_dims=2, max_side=3)
    a, b = data.draw(lead), data.draw(lead)
    draw = lambda *shape: data.draw(arrays(shape, low=-1))  # noqa: E731
    check(np.dot, draw(*a, n), draw(*b[:-1], n, *b[-1:]))
    check(np.dot, draw(), draw(*b))
    check(np.inner, draw(*a, n), draw(*b, n))
    check(np.outer, draw(*a, n), draw(*b, m))
    check(np.vdot, draw(n, m), draw(n * m))
    check(lambda x, y: np.tensordot(x, y, 0), draw(*a), draw(*b))
    check(lambda x, y: np.tensordot(x, y, 1), draw(*a, n), draw(n, *b))
    check(np.tensordot, draw(*a, n, m), draw(n, m, *b))
    check(lambda x, y: np.tensordot(x, y, ([-1, 0], [0, 1])), draw(n, *a, m), draw(m, n, *b))
    check(lambda x, y: np.tensordot(x, y, (-1, 0)), draw(*a, n), draw(n, *b))


@given(arrays(hnp.array_shapes(min_dims=2, max_dims=4, min_side=0, max_side=4)), st.integers(-4, 4), st.data())
def test_diagonals_and_triangles(x, k, data):
    i, j = data.draw(st.permutations(range(-x.ndim, 0)))[:2]
    check(lambda x: [np.diagonal(x, k), np.diagonal(x, k, i, j), np.tril(x, k), np.triu(x, k)], x, exact=True)
    check(lambda x: [np.trace(x, k), np.trace(x, k, i, j), x.trace(), x.diagonal()], x)
    flat = x.reshape(-1)
    check(lambda x: [np.diag(x, k), np.tril(x, k), np.triu(x, k)], flat, exact=True)
    if x.ndim == 2:
        check(lambda x: np.diag(x, k), x, exact=True)


@st.composite
def einsums(draw, operands=3):
    """Subscripts and operands: repeated letters, axes of length 1, ellipses; the result implied or written out."""
    length = dict(zip("abcd", draw(st.lists(st.integers(1, 3), min_size=4, max_size=4)), strict=True))
    dots = draw(st.lists(st.integers(1, 2), max_size=2))
    terms, args = [], []
    for _ in range(draw(st.integers(1, operands))):
        term = draw(st.lists(st.sampled_from("abcd"), max_size=3))
        shape = [1 if term.count(c) == 1 and draw(st.integers(0, 5)) == 0 else length[c] for c in term]
        if draw(st.booleans()):
            at, own = draw(st.integers(0, len(term))), dots[draw(st.integers(0, len(dots))) :]
            own = [1 if draw(st.integers(0, 5)) == 0 else n for n in own]
            term.insert(at, "...")
            shape[at:at] = own
        terms.append("".join(term))
        args.append(draw(arrays(tuple(shape), low=-1)))
    letters = [c for c in "abcd" if any(c in t for t in terms)]
    subscripts = ",".join(terms)
    if draw(st.booleans()):
        out = draw(st.lists(st.sampled_from(letters), unique=True)) if letters else []
        if "..." in subscripts:
            out.insert(draw(st.integers(0, len(out))), "...")
        subscripts += "->" + "".join(out)
    return subscripts, args


@given(einsums())
def test_einsum(case):
    subscripts, args = case
    check(lambda *args: np.einsum(subscripts, *args), *args, roundings=64)


CUBE, SQUARE = np.arange(12.0).reshape(2, 3, 2), np.arange(4.0).reshape(2, 2)


@pytest.mark.parametrize("given", [
    (CUBE, [0, 1, 2], [2, 0]), (CUBE, [3, 51, 30]), (SQUARE, [0, 1], SQUARE, [0, 1]), (SQUARE, [1, 0]),
    (SQUARE, [0, 0]), (SQUARE, [0, 1], SQUARE, [2, 1], [2, 0]), (CUBE, [..., 1], SQUARE, [1, 2], [2, ...]),
    (SQUARE, [0, 1], []),
])  # fmt: skip
def test_einsum_takes_numbers_for_letters(given):
    ours = np.einsum(*(Tensor(x) if isinstance(x, np.ndarray) else x for x in given))
    np.testing.assert_allclose(ours.value, np.einsum(*given), rtol=1e-14, strict=True)


@given(einsums(operands=2))
def test_einsum_is_right_at_second_order(case):
    subscripts, args = case
    assume(sum(x.size for x in args) < 12)
    check_grads(lambda *args: np.einsum(subscripts, *args), tuple(x.astype(float) for x in args), order=2)


@pytest.mark.parametrize(
    "subscripts, shapes",
    [
        ("ii", [(2, 3)]),
        ("ii", [(1, 3)]),
        ("ij,jk", [(2, 3), (2, 3)]),
        ("ij", [(2,)]),
        ("i,i", [(2,)]),
        ("i->ii", [(2,)]),
        ("i->j", [(2,)]),
        ("...i->i", [(2, 3)]),
    ],
)
def test_einsums_that_numpy_refuses_are_refused(subscripts, shapes):
    args = [np.ones(s) for s in shapes]
    with pytest.raises(ValueError):
        np.einsum(subscripts, *args)
    with pytest.raises(ValueError, match="einsum"):
        np.einsum(subscripts, *map(Tensor, args))


# ── errors ──────────────────────────────────────────────────────────────────────────────────────────────────────────

T = Tensor(np.arange(6.0).reshape(2, 3))
REFUSED = [  # what, the error, what its message says
    (lambda: np.linalg.qr(T, "raw"), NotImplementedError, r"np\.linalg\.qr on tensors takes mode=.*not 'raw'"),
    (lambda: np.packbits(T), NotImplementedError, r"np\.packbits on tensors .*NUMPY"),
    (lambda: np.copyto(np.ones((2, 3)), T), NotImplementedError, r"np\.copyto .* np\.where"),
    (lambda: np.add.at(np.ones(3), [0], T), NotImplementedError, r"np\.add\.at .*scatter_add"),
    (lambda: np.exp(T, out=np.ones((2, 3))), TypeError, r"np\.exp on tensors takes no out= .*never written to"),
    (lambda: np.add(T, 1, np.ones((2, 3))), TypeError, r"np\.add on tensors takes no out="),
    (lambda: np.exp(T, where=np.ones((2, 3), bool)), NotImplementedError, r"np\.exp\(where=\).*np\.where\(mask"),
    (lambda: np.add.reduce(T, 0, None, np.ones(3)), TypeError, r"np\.add\.reduce on tensors takes no out="),
    (lambda: np.cumsum(T, 0, None, np.ones(3)), TypeError, r"np\.cumsum on tensors takes no out="),
    (lambda: np.exp.reduce(T), ValueError, r"only supported for binary functions"),
    (lambda: np.pad(T, 1, "empty"), NotImplementedError, r"np\.pad on tensors takes no mode='empty'"),
    (lambda: np.where(T > 0, T), ValueError, r"either both or neither"),
    (lambda: T.sort(), TypeError, r"x\.sort writes into x.*np\.sort\(x\)"),
    (lambda: T.flat, AttributeError, r"no attribute 'flat', which shows the memory.*ravel"),
    (lambda: np.put_along_axis(T, np.zeros((2, 1), int), 0, 1), NotImplementedError, r"np\.put_along_axis .*np\.where"),
    (lambda: np.fill_diagonal(T, 0), NotImplementedError, r"np\.fill_diagonal .*np\.where\(np\.eye"),
    (lambda: np.reshape(T, (3, 2), order="A"), NotImplementedError, r"order='C' or 'F', not 'A'"),
    (lambda: np.reshape(T, (2.0, 3)), TypeError, r"'float' object cannot be interpreted as an integer"),
    (lambda: np.moveaxis(T, (0, 1), (0, 0)), ValueError, r"repeated axis in `destination` argument"),
    (lambda: np.diff(T, -1), ValueError, r"order must be non-negative but got -1"),
    (lambda: np.sum(T, out=np.ones(())), TypeError, r"np\.sum on tensors takes no out="),
    (lambda: np.max(T, where=np.ones((2, 3), bool)), ValueError, r"with where=, also initial= must be given"),
    (lambda: np.clip(T, 0, 1, np.ones((2, 3))), TypeError, r"np\.clip on tensors takes .*too many positional"),
    (lambda: np.pad(T, -1), ValueError, r"pad: widths .* none may be negative"),
    (lambda: np.reshape(T, (4, -1)), ValueError, r"cannot reshape an array of shape \(2, 3\) into shape \(4, -1\)"),
    (lambda: np.reshape(T, (4, 2)), ValueError, r"cannot reshape"),
    (lambda: np.squeeze(T, 0), ValueError, r"squeeze: axis 0 of shape \(2, 3\) has a length other than 1"),
    (lambda: np.linalg.norm(T, 3), ValueError, r"linalg\.norm: ord is 3, wanted 'fro', 'nuc', ±1, ±2 or ±inf"),
    (lambda: np.linalg.norm(T, "fro", 0), ValueError, r"linalg\.norm: ord is 'fro', wanted a number for vectors"),
    (lambda: np.einsum(T, [0, 52]), ValueError, r"einsum: subscripts \[0, 52\], wanted integers from 0 to 51"),
    (lambda: np.tensordot(T, T, 1), ValueError, r"tensordot: shapes \(2, 3\) and \(2, 3\) do not match over axes"),
    (lambda: np.tensordot(Tensor(np.ones(2)), np.ones((2, 2)), 2), (ValueError, IndexError), r"axis|axes"),
    (lambda: np.diag(np.expand_dims(T, 0)), ValueError, r"diag: .* shape \(1, 2, 3\), wanted a vector or a matrix"),
    (lambda: np.take_along_axis(T, np.array([0]), 1), ValueError, r"take_along_axis: indices of shape \(1,\)"),
    (lambda: np.sum(T, 2), np.exceptions.AxisError, r"axis 2 is out of bounds for array of dimension 2"),
    (lambda: np.moveaxis(T, 2, 0), np.exceptions.AxisError, r"axis 2 is out of bounds"),
    (lambda: np.moveaxis(T, (0, 1), 0), ValueError, r"moveaxis: 2 axes for 1 places"),
    (lambda: np.transpose(T, (0, 2)), np.exceptions.AxisError, r"axis 2 is out of bounds"),
    (lambda: np.swapaxes(T, 0, 2), np.exceptions.AxisError, r"axis 2 is out of bounds"),
    (lambda: T.transpose(0), ValueError, r"axes don't match"),
    (lambda: np.split(T, 2, 1), ValueError, r"equal division"),
    (lambda: np.concatenate([T, np.ones((2, 2))]), ValueError, r"must match exactly"),
    (lambda: np.broadcast_to(T, (2, 2)), ValueError, r"could not be broadcast"),
    (lambda: T + np.ones((3, 2)), ValueError, r"could not be broadcast"),
    (lambda: T @ np.ones((2, 2)), ValueError, r"mismatch"),
    (lambda: T @ 2.0, (ValueError, AttributeError), r"scalar|ndim"),
    (lambda: np.matmul(T, 2.0), ValueError, r"matmul: an operand is a scalar"),
    (lambda: np.asarray(T, float), TypeError, r"float64 cannot hold a tensor: np\.stack"),
    (lambda: np.float64(T[0, 0]), TypeError, r"float64 cannot hold a tensor: np\.stack"),
    (lambda: float(T[0, 0]), TypeError, r"cut from the graph: np\.stack"),
    (lambda: int(T[0, 0]), TypeError, r"cut from the graph: np\.stack"),
    (lambda: T[0, 0].item(), TypeError, r"cut from the graph: np\.stack"),
    (lambda: T.tolist(), TypeError, r"cut from the graph: np\.stack"),
    (lambda: [1, 2][T[0, 0]], TypeError, r"cut from the graph: np\.stack"),
    (lambda: operator.setitem(T, 0, 1), TypeError, r"never written to: np\.where"),
    (lambda: operator.iadd(np.ones((2, 3)), T), TypeError, r"takes no out= .*a = a \+ b, not a \+= b"),
    (lambda: operator.setitem(np.ones(3), 0, T[0, 0]), (TypeError, ValueError), r"cut from the graph|sequence"),
    (lambda: bool(T), ValueError, r"ambiguous"),
]  # fmt: skip


@pytest.mark.parametrize("f, error, message", REFUSED, ids=lambda x: x if isinstance(x, str) else "")
def test_what_cannot_be_done_is_refused_by_name(f, error, message):
    with pytest.raises(error, match=message):
        f()


def test_a_repeated_axis_is_refused():
    with pytest.raises(ValueError, match="repeated|duplicate"):
        np.expand_dims(T, (0, 0))


def test_augmented_assignment_makes_a_new_tensor():
    a = b = Tensor(np.ones(2))
    a += 1
    a *= Tensor(np.array([2.0, 3.0]))
    np.testing.assert_array_equal(a.value, [4, 6])
    np.testing.assert_array_equal(b.value, [1, 1])


def test_a_tensor_prints_formats_iterates_and_has_a_length():
    x = Tensor(np.array([1.0, 2.0], np.float32))
    assert repr(x) == f"{x}" == "Tensor([1. 2.], float32, by leaf)"
    assert f"{x[0]:.2f}" == "1.00" and len(x) == 2 and [float(y.value) for y in x] == [1, 2]
    assert (x.shape, x.ndim, x.size, x.dtype) == ((2,), 1, 2, np.float32) and repr(x * 2).endswith("by multiply)")
