"""Sorting, reductions, shapes, building of arrays: values beside NumPy's, slopes at kinks, errors, reported faults."""

import math
import warnings

import numpy as np
import pytest
from cases import sampled
from hypothesis import given
from hypothesis import strategies as st
from test_numpy_api import FULL, arrays, check, with_axis

import tinymaml as tm
from tinymaml import Tensor, check_grads, vjp
from tinymaml.engine import value_of
from tinymaml.nest import tree_leaves, tree_map

SHORT = st.integers(0, 2**32 - 1)
METHODS = ["inverted_cdf", "averaged_inverted_cdf", "closest_observation", "interpolated_inverted_cdf", "hazen",
           "weibull", "linear", "median_unbiased", "normal_unbiased", "lower", "higher", "nearest",
           "midpoint"]  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def slope(f, *args):
    """The gradient of the sum of all of f."""
    return tm.grad(lambda *xs: sum(np.sum(y) for y in tree_leaves(f(*xs))), tuple(range(len(args))))(*args)


def outcome(f, *args):
    """What f returns, as arrays; or the kind of its error."""
    try:
        return tree_map(lambda x: np.asarray(value_of(x)), f(*args))
    except (TypeError, ValueError, IndexError, ZeroDivisionError, OverflowError, RuntimeError) as error:
        kinds = (np.exceptions.AxisError, TypeError, OverflowError, IndexError, ZeroDivisionError, ValueError)
        return next((kind for kind in kinds if isinstance(error, kind)), RuntimeError)


def agree(f, *args, rtol=1e-14):
    """On tensors f returns what it returns on arrays, or raises the same kind of error."""
    theirs, ours = outcome(f, *args), outcome(f, *map(Tensor, args))
    if isinstance(theirs, type) or isinstance(ours, type):
        assert ours is theirs, (ours, theirs)
        return
    assert len(tree_leaves(ours)) == len(tree_leaves(theirs))
    for a, b in zip(tree_leaves(ours), tree_leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        rounding = rtol * (np.finfo(b.dtype).eps / np.finfo(float).eps) if b.dtype.kind == "f" else 0
        np.testing.assert_allclose(a, b, rtol=rounding, atol=rounding)


# ── reductions ──────────────────────────────────────────────────────────────────────────────────────────────────────

MASKED = [np.sum, np.prod, np.mean, np.var, np.std, np.any, np.all, np.nansum, np.nanprod, np.nanmean]


@given(st.sampled_from(MASKED), with_axis(), st.booleans(), SHORT)
def test_reductions_of_what_a_mask_chooses(f, x_axis, keepdims, seed):
    x, axis = x_axis
    mask = np.random.default_rng(seed).random(x.shape[-1:]) < 0.7
    check(lambda x: f(x, axis, keepdims=keepdims, where=mask), x)


@pytest.mark.parametrize("f", [np.var, np.std, np.nanvar, np.nanstd])
@pytest.mark.parametrize("dtype", ["?", "u1", "e", "f", "d", "F", "D"])
def test_variances_about_a_given_mean(f, dtype):
    x = np.array([[1, 0, 3], [2, 5, 0]]).astype(dtype)
    for mean in (np.ones((2, 1)), np.ones((2, 1), "f"), 1.0, np.ones((2, 1), "e")):
        agree(lambda x, mean=mean: f(x, 1, mean=mean), x)
        agree(lambda x, mean=mean: f(x, 1, dtype="f", mean=mean), x)


def test_variances_of_half_precision_overflow_as_numpys_do():
    agree(np.var, np.array([300, -300, 0, 0, 0, 0], np.float16))


@pytest.mark.parametrize("f", [
    lambda x: np.std(x), lambda x: np.std(x[None], 0), lambda x: np.nanstd(x), lambda x: np.nanstd(x[None], 0),
    lambda x: np.std(np.stack([x, 1 + x]), where=[True, False]), lambda x: x.std(),
    lambda x: np.nanstd(np.stack([x, np.array(np.nan)]), 0),
])  # fmt: skip
def test_the_deviation_of_one_element_is_constantly_zero(f):
    """Where its square root would have an infinite slope."""
    for g in (f, lambda x: x**2 * f(x) + f(x)):
        for x in (0.7, 0.7 + 2j) if g is f else (0.7,):
            agree(g, np.array(x))
        x = np.array(0.7)
        assert tm.grad(g)(x) == 0 and tm.grad(tm.grad(g))(x) == 0 and tm.hvp(g, x, x) == 0


@given(st.sampled_from([np.sum, np.prod, np.mean, np.var, np.std, np.nansum, np.nanmean]), with_axis(),
       st.sampled_from([np.float32, np.float64, None]))  # fmt: skip
def test_reductions_in_a_dtype(f, x_axis, dtype):
    x, axis = x_axis
    check(lambda x: [f(x, axis, dtype), f(x, axis=axis, dtype=dtype)], x, roundings=64)


@given(
    st.sampled_from([np.sum, np.prod, np.max, np.min, np.nanmax, np.nanmin]), with_axis(), st.sampled_from([-9, 0.1, 7])
)
def test_reductions_with_an_initial_value(f, x_axis, initial):
    x, axis = x_axis
    mask = np.arange(x.shape[-1]) % 2 == 0
    check(lambda x: [f(x, axis, initial=initial), f(x, axis, initial=initial, where=mask)], x)


@given(with_axis())
def test_the_range_from_the_least_to_the_largest(x_axis):
    x, axis = x_axis
    check(lambda x: np.ptp(x, axis), x, exact=True)
    check(lambda x: np.count_nonzero(x > 0, axis), x)


@pytest.mark.parametrize("x", [[2.0, 0, 3], [0, 0, 3], [0, 0, 0, 1], [1, 0.5, -2]], ids=str)
def test_running_products_with_zeros_are_exact_at_every_order(x):
    check_grads(np.cumprod, (np.array(x, float),), order=3)
    check_grads(lambda x: np.prod(x, initial=2), (np.array(x, float),), order=3)


def test_products_that_overflow_when_grouped_otherwise():
    for x in ([1e200, 1e-200, 1e200, 1e-200], [1e-200, 1e200, 1e-200, 1e200], [1e-300, 1e300, 1e300, 1e-300]):
        x = np.array(x)
        np.testing.assert_array_equal(np.prod(Tensor(x)).value, np.prod(x))
        (g,) = slope(np.prod, x)
        np.testing.assert_allclose(g, 1 / x, rtol=1e-15)  # all in all the product is 1
    np.testing.assert_array_equal(slope(lambda x: np.cumprod(x)[-1], np.array([np.inf, 2.0]))[0], [2, np.inf])


def test_a_product_has_the_sign_of_zero_that_numpy_gives_it():
    x = np.array([-1.0, 0.0, 2.0])
    np.testing.assert_array_equal(np.signbit(np.cumprod(Tensor(x)).value), np.signbit(np.cumprod(x)))


def test_the_mean_of_half_precision_neither_overflows_nor_stops():
    np.testing.assert_array_equal(np.mean(Tensor(np.full(100, 1000, np.float16))).value, np.float16(1000))
    np.testing.assert_array_equal(np.mean(Tensor(np.ones(70000, np.float16))).value, np.float16(1))


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i2", "u4", "i8", "u8"])
def test_reductions_of_integers(dtype):
    x = np.array([[200, 100, 1], [0, 3, 77]]).astype(dtype)
    for f in (
        np.sum,
        np.prod,
        np.mean,
        np.var,
        np.std,
        np.max,
        np.min,
        np.ptp,
        np.median,
        np.nansum,
        np.nanmean,
        np.nanvar,
        np.nanmax,
        np.nanmedian,
        np.cumsum,
        np.cumprod,
        np.any,
        np.all,
        np.average,
        np.nancumsum,
    ):
        agree(f, x)
        agree(lambda x, f=f: f(x, -1), x)
    agree(lambda x: np.sum(x, 0, np.int8), x)
    agree(lambda x: np.prod(x, 0, initial=2.5), x)
    agree(lambda x: np.max(x, 0, initial=300), x)


@given(with_axis(), SHORT)
def test_averages(x_axis, seed):
    x, axis = x_axis
    w = np.random.default_rng(seed).random(x.shape) + 0.1
    check(lambda x: list(np.average(x, axis, w, returned=True, keepdims=True)), x, roundings=64)
    check_grads(lambda w: np.average(x, axis, w), (w,), order=1)


def test_averages_that_numpy_refuses():
    x = np.ones((2, 3))
    for w in (np.zeros((2, 3)), np.ones(3), np.ones((3, 2))):
        agree(lambda x, w=w: np.average(x, None, w), x)
    agree(lambda x: np.average(x, 0, [1, 2, 3]), x)
    agree(lambda x: np.average(x, (0, 1), np.ones((2, 3))), x)


@given(arrays((3, 4), np.float64), st.booleans(), st.booleans(), st.sampled_from([None, 0, 1, 2]))
def test_covariances(x, rowvar, bias, ddof):
    check(
        lambda x: [np.cov(x, None, rowvar, bias, ddof), np.cov(x, x[::-1], rowvar), np.cov(x[0], x[1])], x, roundings=64
    )
    check(lambda x: np.corrcoef(x, None, rowvar), x, roundings=64)
    check(lambda x: np.cov(x, fweights=[1, 3, 2, 1], aweights=[0.5, 1, 2, 0.1]), x, roundings=64)


# ── without NaN ─────────────────────────────────────────────────────────────────────────────────────────────────────

WITHOUT_NAN = [np.nansum, np.nanprod, np.nanmean, np.nanvar, np.nanstd, np.nanmax, np.nanmin, np.nanmedian,
               np.nancumsum, np.nancumprod, np.nanargmax, np.nanargmin]  # fmt: skip


@st.composite
def holed(draw):
    """An array with NaN here and there, and a whole row of NaN now and then."""
    x = draw(arrays((3, 4), np.float64)).copy()
    rng = np.random.default_rng(draw(SHORT))
    x[rng.random(x.shape) < 0.4] = np.nan
    return x


@given(st.sampled_from(WITHOUT_NAN), holed(), st.sampled_from([None, 0, 1, -1]))
def test_nan_is_left_out_as_numpy_leaves_it_out(f, x, axis):
    agree(lambda x: f(x, axis), x)


@given(st.sampled_from(WITHOUT_NAN[:9]), holed(), st.sampled_from([None, 0, 1]))
def test_the_slope_at_nan_is_zero(f, x, axis):
    x = np.where(np.isnan(x).all(axis, keepdims=True), 1.0 + np.arange(4), x)
    (g,) = slope(lambda x: f(x, axis), x)
    assert np.all(g[np.isnan(x)] == 0)
    kept = np.where(np.isnan(x), 0.5, x)
    (full,) = slope(lambda y: f(np.where(np.isnan(x), np.nan, y), axis), kept)
    np.testing.assert_array_equal(g, full)


@pytest.mark.parametrize("f", [np.nanmean, np.nanvar, np.nanstd, np.nanmax, np.nanmin, np.nanmedian,
                               lambda x, axis: np.nanquantile(x, 0.3, axis)])  # fmt: skip
def test_a_slice_of_nan_gives_nan_with_numpys_warning_and_a_slope_of_zero(f):
    x = np.array([[np.nan, np.nan, np.nan], [1.0, 3.0, np.nan]])
    said = []
    for argument in (x, Tensor(x)):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            f(argument, 1)
        said.append({str(w.message).rstrip(".") for w in seen})
    assert said[0] == said[1] and len(said[0]) == 1
    assert np.all(slope(lambda x: f(x, 1)[1:], x)[0][0] == 0)
    agree(lambda x: f(x, 1), x)


# ── running, and differences ────────────────────────────────────────────────────────────────────────────────────────


@given(st.sampled_from([np.cumsum, np.cumprod, np.nancumsum, np.nancumprod]), with_axis(tuples=False))
def test_running_sums_and_products(f, x_axis):
    x, axis = x_axis
    check(lambda x: [f(x, axis), f(x, axis, np.float32)], x, roundings=64)


@given(with_axis(tuples=False))
def test_running_maxima(x_axis):
    x, axis = x_axis
    axis = 0 if axis is None else axis
    check(lambda x: [np.maximum.accumulate(x, axis), np.minimum.accumulate(x, axis)], x, exact=True)
    check(lambda x: [np.add.accumulate(x, axis), np.multiply.accumulate(x, axis)], x)


def test_a_running_maximum_of_equal_elements_shares_by_halves():
    (g,) = slope(lambda x: np.maximum.accumulate(x)[-1], np.array([1.0, 2, 2]))
    np.testing.assert_array_equal(g, [0, 0.5, 0.5])
    agree(np.maximum.accumulate, np.array([1.0, np.nan, 3.0]))


@given(with_axis(FULL, tuples=False), st.integers(0, 3), st.sampled_from([None, 2.5]))
def test_differences(x_axis, n, edge):
    x, axis = x_axis
    axis = -1 if axis is None else axis
    how = {} if edge is None else dict(prepend=edge, append=edge)
    check(lambda x: np.diff(x, n, axis, **how), x)
    check(lambda x: np.ediff1d(x, to_begin=x[:1]), x)


@given(arrays((4, 5), np.float64), st.sampled_from([1, 2]))
def test_gradients_of_samples(x, edge_order):
    at, uneven = [np.arange(4.0), np.array([0.0, 1, 3, 4, 8])], np.array([0, 1, 4, 6])
    check(lambda x: np.gradient(x, edge_order=edge_order), x)
    check(lambda x: np.gradient(x, 0.5, axis=1, edge_order=edge_order), x)
    check(lambda x: np.gradient(x, *at, edge_order=edge_order), x)
    check(lambda x: np.gradient(x, uneven, axis=0, edge_order=edge_order), x)
    check(lambda d: np.gradient(x, d, axis=1, edge_order=edge_order), at[1], roundings=64)


@pytest.mark.parametrize("scale", [1e200, 1e-200])
@pytest.mark.parametrize("edge_order", [1, 2])
def test_gradients_of_samples_whose_distances_are_huge_or_tiny(scale, edge_order):
    """The products of two distances overflow, or are 0; a tensor of equal distances gives what one distance gives."""
    x, at = np.array([1.0, -2, 5, 7]), np.arange(4.0)
    agree(lambda x, d: np.gradient(x, d, edge_order=edge_order), x, at * scale)
    agree(lambda x, d: np.gradient(x * scale, d, edge_order=edge_order), x, at * scale)
    uneven = np.array([0.0, 1, 2.5, 3])
    ours = value_of(np.gradient(Tensor(x), uneven * scale, edge_order=edge_order))
    np.testing.assert_allclose(ours * scale, np.gradient(x, uneven, edge_order=edge_order), rtol=1e-13)


def test_gradients_of_samples_whose_distances_numpy_refuses():
    x = np.array([1.0, -2, 5, 7])
    truths = np.array([True, False, False, True])
    for f in (lambda x: np.gradient(x[:1], [1.0]), lambda x: np.gradient(x[:0], []), lambda x: np.gradient(x > 0),
              lambda x: np.gradient(x, axis=(0, 0)), lambda x: np.gradient(x, truths)):  # fmt: skip
        assert isinstance(outcome(f, x), type)
        agree(f, x)


def test_interpolation_between_infinities():
    xp, fp = np.array([0.0, 1, 2, 3]), np.array([0, np.inf, np.inf, 2])
    agree(lambda x, y: np.interp(x, xp, y), np.array([0, 0.5, 1, 1.5, 2, 2.5, 3, 4, np.nan]), fp)
    ends = np.array([-np.inf, 1, np.inf])
    agree(lambda x, y: np.interp(x, ends, y), np.array([-np.inf, -5, 0, 1, 5, np.inf, np.nan]), np.array([0, 3.0, 2]))


def test_unwrapped_angles_have_slope_one():
    x = np.array([0.0, 3, 6.5, 9, 2, -8])
    np.testing.assert_array_equal(slope(np.unwrap, x)[0], np.ones(6))
    agree(np.unwrap, x)
    agree(lambda x: np.unwrap(x, discont=4, period=5), x)
    agree(lambda x: np.unwrap(x, period=7), x.astype(int))


# ── sorting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(with_axis(tuples=False), st.sampled_from([None, "quicksort", "stable", "heapsort"]))
def test_sorting(x_axis, kind):
    x, axis = x_axis
    check(lambda x: [np.sort(x, axis, kind), np.argsort(x, axis, kind)], x, exact=True)


@given(st.lists(st.sampled_from([0.0, -0.0, 1, 2, np.nan, np.inf, -np.inf]), max_size=12))
def test_sorting_equal_elements_nan_and_infinity(x):
    x = np.array(x, float)
    agree(lambda x: [np.argsort(x, kind="stable"), np.lexsort((x, x > 0))], x)
    np.testing.assert_array_equal(np.sort(Tensor(x)).value, np.sort(x))


def test_equal_elements_keep_their_own_slopes():
    x = np.array([2.0, 1, 2, 1])
    (g,) = slope(lambda x: np.sort(x) * np.array([1.0, 10, 100, 1000]), x)
    np.testing.assert_array_equal(g, [100, 1, 1000, 10])


@given(arrays((7,), np.float64), st.lists(st.integers(-7, 6), min_size=1, max_size=3))
def test_a_partition_has_the_asked_for_elements_in_their_places(x, kth):
    for f in (np.partition, lambda x, kth: x[np.argpartition(x, kth)]):
        z = value_of(f(Tensor(x), kth))
        np.testing.assert_array_equal(z[kth], np.sort(x)[kth])
        np.testing.assert_array_equal(np.sort(z), np.sort(x))


def test_a_place_that_a_partition_has_not_is_an_error():
    for f in (np.partition, np.argpartition):
        agree(lambda x, f=f: f(x, 7), np.arange(3.0))
        agree(lambda x, f=f: f(x, 1, 2), np.arange(3.0))


@given(with_axis(), st.sampled_from([0.3, 0, 1, [0.1, 0.75], [[0.2], [0.9]]]), st.sampled_from(METHODS), st.booleans())
def test_quantiles(x_axis, q, method, keepdims):
    x, axis = x_axis
    axis = None if axis == () else axis
    check(lambda x: np.quantile(x, q, axis, method=method, keepdims=keepdims), x)
    check(lambda x: np.nanquantile(x, q, axis, method=method, keepdims=keepdims), x)
    check(lambda x: np.median(x, axis, keepdims=keepdims), x)


@given(holed(), st.sampled_from([0, 1, None]), st.sampled_from(METHODS))
def test_quantiles_of_what_is_no_nan(x, axis, method):
    agree(lambda x: [np.nanpercentile(x, [10, 80], axis, method=method), np.percentile(x, 20, axis, method=method)], x)


@given(arrays((4, 3), np.float64), SHORT, st.sampled_from([0.2, 0, 1, [0.1, 0.6]]))
def test_weighted_quantiles(x, seed, q):
    w = np.random.default_rng(seed).integers(0, 3, 4) + [0, 0, 0, 1]
    check(lambda x: np.quantile(x, q, 0, method="inverted_cdf", weights=w), x, exact=True)
    check(lambda x: np.quantile(x, q, method="inverted_cdf", weights=x.shape[0] + np.abs(value_of(x))), x, exact=True)


@pytest.mark.parametrize("method", ["linear", "hazen", "weibull"])
def test_a_quantile_has_a_slope_in_q(method):
    x = np.array([0.5, 3, -1, 2, 7])
    check_grads(lambda x, q: np.quantile(x, q, method=method), (x, np.array([0.31, 0.77])), order=2)


@pytest.mark.parametrize("q", [-0.1, 1.1, [0.5, 2]], ids=str)
def test_quantiles_out_of_range_are_refused(q):
    agree(lambda x: np.quantile(x, q), np.arange(4.0))
    agree(lambda x: np.nanpercentile(x, np.multiply(q, 100)), np.arange(4.0))
    agree(lambda x: np.quantile(x, 0.5, method="no such"), np.arange(4.0))
    agree(lambda x: np.quantile(x, 0.5, weights=[1, 1, 1, 1]), np.arange(4.0))


def test_the_median_of_an_even_number_shares_its_slope():
    np.testing.assert_array_equal(slope(np.median, np.array([4.0, 1, 3, 2]))[0], [0, 0, 0.5, 0.5])
    np.testing.assert_array_equal(slope(np.median, np.array([4.0, 1, 3]))[0], [0, 0, 1])


@given(arrays((9,), np.float64), st.sampled_from(["left", "right"]))
def test_places_in_what_is_sorted(x, side):
    edges = np.array([-2.0, 0, 0, 1.5])
    agree(lambda x: np.searchsorted(edges, x, side), x)
    agree(lambda x: np.searchsorted(np.sort(x), edges, side), x)
    agree(lambda x: np.searchsorted(x, edges, side, np.argsort(x)), x)
    agree(lambda x: np.digitize(x, edges[::-1], side == "left"), x)


@given(arrays((9,), np.float64), st.sampled_from([1, 4, "auto", "sturges", [-2.0, 0.3, 0.3, 3]]), st.booleans())
def test_histograms(x, bins, density):
    agree(lambda x: np.histogram(x, bins, density=density), x)
    agree(lambda x: np.histogram(np.round(value_of(x)), bins if bins != 1 else 7), x)
    if not isinstance(bins, str):
        w = np.cos(np.arange(9.0))
        check(lambda w: np.histogram(x, bins, (-1, 2), weights=w)[0], w)


def test_a_histogram_of_nan_is_refused():
    agree(np.histogram, np.array([1.0, np.nan]))
    agree(lambda x: np.histogram(x, 2, (0, 1)), np.array([0.5, np.nan]))


def test_the_edges_of_a_histogram_follow_the_least_and_the_largest():
    _, (g,) = tm.value_and_grad(lambda x: np.histogram(x, 2)[1][1], (0,))(np.array([3.0, 0, 1]))
    np.testing.assert_array_equal(g, [0.5, 0.5, 0])


def test_counts_and_sums_of_integers():
    k, w = np.array([1, 0, 1, 4]), np.array([0.5, 1, 2, 3])
    agree(lambda w: np.bincount(k, w), w)
    agree(lambda w: np.bincount(k, w, 9), w.astype(np.float32))
    agree(np.bincount, k)
    agree(np.bincount, -k)
    agree(np.bincount, w)
    agree(lambda w: np.bincount(k, w), w[:2])
    np.testing.assert_array_equal(slope(lambda w: np.bincount(k, w) * np.arange(5), w)[0], k)


@given(st.lists(st.sampled_from([0.0, 1, 2.5, np.nan]), max_size=8))
def test_unique_values_and_their_first_places(x):
    x = np.array(x, float)
    agree(lambda x: np.unique(x, True, True, True), x)
    agree(lambda x: np.unique(x, equal_nan=False), x)
    if not np.isnan(x).any():
        (g,) = slope(np.unique, x)
        np.testing.assert_array_equal(np.flatnonzero(g), np.sort(np.unique(x, True)[1]))


# ── choosing ────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(arrays((3, 4), np.float64), st.sampled_from(["wrap", "clip"]), st.sampled_from([None, 0, 1, -1]))
def test_indices_brought_into_range(x, mode, axis):
    places = np.array([[0, 13, -1], [5, -20, 3]])
    check(lambda x: np.take(x, places, axis, mode=mode), x, exact=True)
    agree(lambda x, k: np.take(x, k, axis, mode=mode), x, places)
    agree(lambda k: np.choose(k, list(x[:, :3]), mode=mode), places)


def test_choices_out_of_range_are_refused():
    for k in ([0, 2], [-1, 0], [0.5, 1]):
        agree(lambda x, k=k: np.choose(k, [x, x]), np.arange(2.0))
        agree(lambda k: np.choose(k, [[1, 2], [3, 4]]), np.array(k))
    agree(lambda x: np.take(x, [5]), np.arange(3.0))
    agree(lambda x: np.take(x, [0], mode="no such"), np.arange(3.0))
    agree(lambda x: np.take(x, np.array([0.5])), np.arange(3.0))


@given(arrays((3, 4), np.float64))
def test_what_a_condition_chooses(x):
    mask = x > 0.3
    check(lambda x: [np.extract(mask, x), np.compress(mask[0], x, 1), np.compress(mask[:, 0],
          x, -2), x.compress([1, 0])],
          x, exact=True)  # fmt: skip
    check(lambda x: np.select([x > 1, mask, x < -1], [x, 2, x * x], x), x)
    check(lambda x: np.piecewise(x, [x > 1, x < -1], [lambda y: y * y, 2, lambda y: -y]), x)
    agree(lambda x: [np.nonzero(x > 0), np.argwhere(x > 0), np.flatnonzero(x > 0), np.where(x > 0)], x)
    agree(lambda x: [np.isin(x, x[0]), np.isin(x, [], invert=True)], x)


def test_a_function_of_a_piece_never_sees_the_others():
    def f(x):
        return np.piecewise(x, [x > 0], [np.log, lambda y: 0 * y])

    np.testing.assert_array_equal(slope(f, np.array([2.0, -1, 0]))[0], [0.5, 0, 0])


def test_cases_that_numpy_refuses():
    x = np.arange(3.0)
    agree(lambda x: np.select([x > 1], [x, x]), x)
    agree(lambda x: np.select([x], [x]), x)
    agree(lambda x: np.select([], []), x)
    agree(lambda x: np.piecewise(x, [x > 1], [1, 2, 3]), x)
    agree(lambda x: np.compress([[True]], x), x)


# ── shapes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(arrays((2, 3, 4)), st.sampled_from([(4, 6), (-1, 2), (24,), (2, 2, 2, 3)]))
def test_reading_column_by_column(x, shape):
    check(lambda x: [np.reshape(x, shape, order="F"), x.reshape(shape, order="F", copy=True), np.ravel(x, "F")], x,
          exact=True)  # fmt: skip


@given(arrays((2, 3, 4)), st.integers(-5, 5), st.permutations([0, 1, 2]))
def test_turning(x, k, axes):
    check(lambda x: [np.rot90(x, k, axes[:2]), np.rot90(x, k), np.fliplr(x), np.flipud(x)], x, exact=True)
    check(lambda x: [np.rollaxis(x, i, j) for i in (-1, 0, 1) for j in (-1, 0, 2, 3)], x, exact=True)
    check(lambda x: [*np.hsplit(x, 3), *np.vsplit(x, [1]), *np.dsplit(x, 2)], x, exact=True)


@given(arrays(), arrays((3,)))
def test_axes_that_are_added(x, y):
    agree(lambda x, y: [np.atleast_1d(x, y), np.atleast_2d(x, y), np.atleast_3d(x, y)], x, y)
    agree(lambda x, y: [np.dstack([y, y]), np.column_stack([y, y])], x, y)
    agree(lambda x, y: np.broadcast_arrays(x, y), x, y)


def test_shapes_that_numpy_refuses():
    x = np.ones((2, 3))
    for f in (
        lambda x: np.reshape(x, (2.0, 3)), lambda x: np.reshape(x, 5), lambda x: np.reshape(x, (6,), "X"),
        lambda x: np.moveaxis(x, (0, 1), (0, 0)), lambda x: np.moveaxis(x, (0, 0), (0, 1)), lambda x: np.diff(x, -1),
        lambda x: np.rot90(x, 1, (0, 2)), lambda x: np.rot90(x, 1, (1, -1)), lambda x: np.rollaxis(x, 0, 5),
        lambda x: np.fliplr(x[0]), lambda x: np.vsplit(x[0], 2), lambda x: np.dsplit(x, 2), lambda x: np.hsplit(x, 2),
        lambda x: np.stack([x, x[0]]), lambda x: np.concatenate([x, x[0]]),
        lambda x: np.hstack([x, x], dtype=int), lambda x: np.resize(x, (-1, 2)), lambda x: np.broadcast_arrays(x, x.T),
        lambda x: x.astype(int, casting="safe"), lambda x: np.insert(x, 7, 1, 0), lambda x: np.delete(x, 7, 0),
        lambda x: np.append(x, [1], 0), lambda x: np.block([[x], x]),
        lambda x: np.sum(x, where=np.ones((2, 2, 3), bool)),
        lambda x: np.linspace(x, 1, -1), lambda x: np.geomspace(x - 1, 2), lambda x: np.vander(x),
        lambda x: np.interp(x, [1, 2], [1]), lambda x: np.interp(x, [], []), lambda x: np.convolve(x, [1]),
        lambda x: np.convolve(x[0], []), lambda x: np.correlate(x[0], x[0], "no"),
        lambda x: np.meshgrid(x, indexing="no"),
        lambda x: np.gradient(x[:1]), lambda x: np.gradient(x, 1, 2, 3), lambda x: np.cov(np.stack([x, x])),
        lambda x: np.searchsorted(x, 1), lambda x: np.digitize(x, [1, 2, 0]), lambda x: np.histogram(x, [1, 0]),
        lambda x: np.pad(x, 1, "no"), lambda x: np.pad(x, 0.5), lambda x: np.pad(x, -1), lambda x: np.pad(x[:0], 1,
        "edge"),
        lambda x: np.pad(x, 1, "edge", constant_values=1), lambda x: np.pad(x, 1, "maximum", stat_length=0),
        lambda x: np.apply_along_axis(np.sum, 0, x[:, :0]), lambda x: np.roll(x, 1, 2),
        lambda x: np.average(x, 0, [1, 2, 3]), lambda x: np.max(x, 0, where=x > 0), lambda x: np.nanargmax(x * np.nan),
    ):  # fmt: skip
        assert isinstance(outcome(f, x), type), f
        agree(f, x)


REDUCED = [np.sum, np.prod, np.max, np.min, np.any, np.all, np.ptp, np.count_nonzero, np.mean, np.var, np.std,
           np.median, np.nansum, np.nanprod, np.nanmax, np.nanmin, np.nanmean, np.nanvar, np.nanstd, np.argmax,
           np.cumsum, np.cumprod, np.nancumsum, np.argsort, np.sort, np.average, np.flip, np.size,
           np.add.reduce, np.logaddexp.reduce, np.minimum.accumulate, np.multiply.accumulate]  # fmt: skip


@pytest.mark.parametrize("f", REDUCED, ids=lambda f: f"{getattr(f, '__self__', f).__name__} {f.__name__}")
@pytest.mark.parametrize("axis", [0, -1, 1, (), (0,), None], ids=str)
def test_an_axis_of_what_has_none(f, axis):
    """Ufuncs take 0 and −1 for no axis, and np.cumsum for the one of a vector; others refuse them."""
    if f is np.size and axis is None or axis in ((), (0,)) and f.__name__ == "accumulate":
        return
    agree(lambda x: f(x, axis), np.array(0.7))


def test_keepdims_and_slopes_over_an_axis_of_what_has_none():
    t = np.array(0.7)
    for f in (np.sum, np.prod, np.max, np.nansum, np.nanmean):
        agree(lambda x, f=f: f(x, 0, keepdims=True), t)
        assert slope(lambda x, f=f: f(x, 0), t)[0] == 1
    assert slope(lambda x: np.cumsum(x, -1) * 3, t)[0] == 3
    for f in (lambda x: np.any(x, 1, where=np.ones(3, bool)), lambda x: np.sum(x, 1, where=np.ones(3, bool)),
              lambda x: np.add.reduceat(x, [0]), lambda x: np.cumulative_sum(x, include_initial=True),
              lambda x: np.cumulative_prod(x, axis=(0,)), lambda x: np.cumulative_sum(x, axis=())):  # fmt: skip
        if hasattr(np, "cumulative_sum") or "cumulative_sum" not in f.__code__.co_names:
            agree(f, t)


@pytest.mark.parametrize("f", [
    lambda x: np.correlate(x, [1.0, 2]), lambda x: np.correlate([1.0, 2], x), lambda x: np.convolve(x, x),
    lambda x: np.roll(x, 1), lambda x: np.roll(x, 1, ()), lambda x: np.roll(x, 1, 0), lambda x: np.transpose(x, (0,)),
    lambda x: np.fft.fftshift(x), lambda x: np.fft.fftshift(x, ()), lambda x: np.unwrap(x), lambda x: np.diff(x),
    lambda x: np.lexsort([x, x]), lambda x: np.lexsort([x, x], 1), lambda x: np.argpartition(x, 0),
    lambda x: np.argpartition(x, 1), lambda x: np.argpartition(x, 0, 1), lambda x: np.gradient(x),
])  # fmt: skip
def test_what_has_no_axis(f):
    agree(f, np.array(0.7))


@pytest.mark.parametrize("f", [
    lambda x: np.max(x[:, :0], 1, initial=0, where=np.ones((2, 5), bool)),
    lambda x: np.max(x[:0], 0, initial=0, where=np.ones((2, 1), bool)),
    lambda x: np.min(x[:, :0], 1, initial=0, where=np.ones((2, 1), bool)),
    lambda x: np.transpose(x, (1,)), lambda x: np.transpose(x, (0, 1, 2)), lambda x: np.transpose(x, 1),
    lambda x: np.size(x, 2), lambda x: np.size(x, (0, 1)), lambda x: np.lexsort([x[0], x[0, :2]]),
    lambda x: np.take(x[:0], [0, 7], 1), lambda x: np.take(x[:0], [[0], [7]], -1), lambda x: np.take(x[:0], [0], 0),
    lambda x: np.take(x[:0, :0], [0, 7], 1, mode="wrap"), lambda x: np.take(x[:, :0], [0, 7], 1, mode="clip"),
    lambda x: np.compress([True, False, True], x[:0], 1), lambda x: np.compress([True, False, True], x[:0, :0], 0),
    lambda x: np.median(x[:0, :0, None], (0, 1)), lambda x: np.median(x[:0, :0, None], (1, 2)),
    lambda x: np.quantile(x[:0, :0, None], 0.5, (1, 2)), lambda x: np.median(x[:, :0], 1),
])  # fmt: skip
def test_shapes_that_hold_nothing_or_do_not_fit(f):
    agree(f, np.ones((2, 3)))


@pytest.mark.parametrize("f", [
    np.fabs, np.unwrap, lambda z: np.bincount([0, 1], z), lambda z: np.digitize(z, [0.0, 1]),
    lambda z: np.interp(z, [0, 1], [0, 1]), lambda z: np.interp(0.5, z, [0, 1]), lambda z: np.interp(0.5, [0, 1], z),
])  # fmt: skip
def test_complex_numbers_where_numbers_are_ordered(f):
    agree(f, np.array([0.3 + 1j, 2]))


@pytest.mark.parametrize("period", [4, 5, np.uint8(6), 2 * np.pi])
def test_unwrapping_unsigned_integers(period):
    agree(lambda x: np.unwrap(x, period=period), np.array([1, 5, 200], np.uint8))


@pytest.mark.skipif(not hasattr(np, "unstack"), reason="since NumPy 2.1")
@given(arrays((2, 3, 4)), st.sampled_from([0, 1, -1]))
def test_what_came_with_numpy_2_1(x, axis):
    check(lambda x: [*np.unstack(x, axis=axis), np.cumulative_sum(x, axis=axis, include_initial=True)], x)
    agree(lambda x: np.unstack(x[0, 0, 0]), x)
    agree(lambda x: np.cumulative_prod(x), x)


# ── building ────────────────────────────────────────────────────────────────────────────────────────────────────────

PADDED = [("edge", {}), ("reflect", {}), ("symmetric", {}), ("wrap", {}), ("linear_ramp", {}), ("mean", {}),
          ("linear_ramp", dict(end_values=((1, 2), (3, 4)))), ("maximum", {}), ("minimum", dict(stat_length=2)),
          ("median", dict(stat_length=((1, 2), (3, 1)))), ("reflect", dict(reflect_type="odd")),
          ("symmetric", dict(reflect_type="odd")), ("constant", dict(constant_values=((1, 2), (3, 4)))),
          ("mean", dict(stat_length=(1, 2)))]  # fmt: skip


@given(arrays((3, 4)), st.sampled_from(PADDED), st.sampled_from([2, (1, 3), ((0, 1), (5, 7)), ((0, 0), (1, 0))]))
def test_padding(x, mode_how, widths):
    mode, how = mode_how
    check(lambda x: np.pad(x, widths, mode, **how), x)
    if mode not in ("linear_ramp", "mean"):  # which NumPy rounds to whole numbers in its own way
        agree(lambda x: np.pad(x, widths, mode, **how), (x * 10).astype(int))


def test_padding_by_tensors_and_by_names_of_axes():
    x = np.arange(6.0).reshape(2, 3)
    (g,) = slope(lambda s: np.pad(Tensor(x), 1, constant_values=s), np.array(5.0))
    assert g == 14
    (g,) = slope(lambda s: np.pad(Tensor(x), 1, constant_values=np.stack([s, 2 * s]).reshape(1, 2)), np.array(5.0))
    assert g == 2 + 4 + 4 + 8 + 3  # rows first, then the columns over all of them
    if np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        agree(lambda x: np.pad(x, {1: (1, 2)}, "edge"), x)


@given(arrays((3, 4)), st.sampled_from([1, -1, [1], [0, 2], [1, 1], slice(0, 2), [True, False, True], []]))
def test_putting_in_and_leaving_out(x, place):
    check(lambda x: [np.delete(x, place, 0), np.append(x, x[0]), np.append(x, x[:1] * 2, 0)], x, exact=True)
    if place != [True, False, True]:
        many = len(np.insert(np.zeros(3), place, 0)) - 3
        agree(lambda x: np.insert(x, place, 7.5, 0), x)
        agree(lambda x: np.insert(x, place, np.ones((many, 4)), 0), x)
        check(lambda x: np.insert(np.zeros((3, 4)), place, x[0], 0) if many else x, x)


@given(arrays((3,)), arrays((3,)), st.integers(0, 5), st.booleans(), st.sampled_from([0, -1]))
def test_numbers_between_two_ends(x, y, num, endpoint, axis):
    agree(lambda x, y: np.linspace(x, y, num, endpoint, True, axis=axis), x, y)
    agree(lambda x: [np.linspace(x, 2, num, endpoint), np.linspace(0, x, num, endpoint, dtype=int)], x)
    agree(lambda x, y: np.logspace(x, y, num, endpoint, 2.0, axis=axis), x, y)
    agree(lambda x: np.geomspace(np.where(x == 0, 1, x), x * 3 + (x == 0), num, endpoint), x, rtol=1e-13)


@given(arrays((3,)), arrays((2,)), st.sampled_from(["xy", "ij"]), st.booleans())
def test_grids(x, y, indexing, sparse):
    check(lambda x: np.meshgrid(x, y, x, indexing=indexing, sparse=sparse), x, exact=True)
    check(lambda x: [*np.ix_(x, y), np.diagflat(x, 1)], x, exact=True)
    check(lambda x: [np.vander(x), np.vander(x, 5, True), np.vander(x, 0)], x, roundings=64)


def test_blocks():
    x, y = np.arange(4.0).reshape(2, 2), np.arange(2.0)
    agree(lambda x, y: [np.block([x, x]), np.block([[x, x], [x, x * 2]]), np.block([y, 3.0, y]), np.block(x)], x, y)
    agree(lambda x, y: np.block([[[x]], [[x]]]), x, y)
    agree(lambda x, y: np.block([]), x, y)


@given(arrays((2, 3, 4), np.float64), st.sampled_from([0, 1, -1]))
def test_functions_along_an_axis(x, axis):
    for f in (np.sum, lambda y: y[::-1] * 2, lambda y: y[:2, None] * y[:3]):
        check(lambda x, f=f: np.apply_along_axis(f, axis, x), x)
    check(lambda x: np.apply_over_axes(np.sum, x, [0, axis]) if axis else np.apply_over_axes(np.max, x, 2), x)


# ── curves ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(arrays((3, 4), np.float64), st.sampled_from([{}, dict(left=-7), dict(left=1, right=2.5), dict(period=2.0)]))
def test_interpolation(x, how):
    xp, fp = np.array([-1.0, 0, 0.5, 2]), np.array([3.0, 1, -4, 2])
    check(lambda x: np.interp(x, xp, fp, **how), x)
    check(lambda fp: np.interp(x, xp, fp, **how), fp)


def test_interpolation_has_slopes_in_its_points():
    points = np.array([-1.0, 0, 0.5, 2]), np.array([3.0, 1, -4, 2])
    check_grads(lambda xp, fp: np.interp([-0.3, 0.2, 1.7], xp, fp), points, order=2)


@pytest.mark.parametrize("x", [[-1.0, 2.0], [np.nan, 0.1], [np.inf, -np.inf], 0.3], ids=str)
def test_interpolation_at_the_ends(x):
    for xp, fp in (([-1.0, 0, 2], [3.0, 1, 2]), ([0.0], [2.0]), ([0.0, 0, 1, 1], [1.0, 2, 3, 4])):
        agree(lambda x, xp=xp, fp=fp: np.interp(x, xp, fp), np.array(x))
        agree(lambda x, xp=xp, fp=fp: np.interp(x, xp, fp, 8, 9), np.array(x, np.float32))


@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from(["full", "same", "valid"]),
    st.sampled_from(["f8", "f4", "u1", "?"]),
)
def test_convolutions(n, m, mode, dtype):
    rng = np.random.default_rng(n * 7 + m)
    a, v = (np.round(4 * rng.standard_normal(k)).astype(dtype) for k in (n, m))
    agree(lambda a, v: [np.convolve(a, v, mode), np.correlate(a, v, mode)], a, v)


def test_a_convolution_adds_only_what_overlaps():
    agree(lambda a: np.convolve(a, [1.0, 2.0]), np.array([np.inf, 0.0, 1.0]))


@given(arrays((4,)), arrays((2, 3)))
def test_polynomials(p, x):
    agree(np.polyval, p, x)
    agree(lambda x: np.polyval([1, 2], x), x)


# ── the methods of ufuncs ───────────────────────────────────────────────────────────────────────────────────────────

REDUCING = [np.add, np.multiply, np.maximum, np.minimum, np.logical_and, np.logical_or, np.logical_xor, np.logaddexp,
            np.hypot]  # fmt: skip


@given(st.sampled_from(REDUCING), with_axis(), st.booleans())
def test_ufuncs_reduce_as_numpys(f, x_axis, keepdims):
    x, axis = x_axis
    agree(lambda x: [f.reduce(x, axis, keepdims=keepdims), f.reduce(x)], x)


@given(st.sampled_from([*REDUCING, np.subtract]), with_axis(tuples=False))
def test_ufuncs_accumulate_as_numpys(f, x_axis):
    x, axis = x_axis
    axis = 0 if axis is None else axis
    agree(lambda x: f.accumulate(x, axis), x)
    agree(lambda x: f.reduceat(x, [0, x.shape[axis] - 1, 0], axis), x)


def test_a_subtraction_is_reduced_from_the_left_and_over_one_axis():
    x = np.arange(6.0).reshape(2, 3)
    agree(lambda x: [np.subtract.reduce(x, 1), np.subtract.reduce(x, 0, initial=1), np.subtract.accumulate(x)], x)
    agree(lambda x: np.subtract.reduce(x, (0, 1)), x)
    agree(lambda x: np.logaddexp.reduce(x[:0]), x)
    agree(lambda x: np.maximum.reduce(x[:0]), x)
    agree(lambda x: np.exp.reduce(x), x)


@given(arrays((3,)), arrays((2, 2)))
def test_outer_of_ufuncs(x, y):
    agree(lambda x, y: [f.outer(x, y) for f in (np.add, np.multiply, np.maximum, np.less)], x, y)
    agree(lambda x: np.add.outer(x, [1, 2]), x)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "i8", "?"])
def test_ufuncs_compute_in_the_dtype_that_is_asked_for(dtype):
    for x in (np.array([1.5, 300]), np.array([1, 200], np.uint8), np.array([1, 0], np.float32)):
        for f in (
            lambda x: np.add(x, 1, dtype=dtype),
            lambda x: np.exp(x, dtype=dtype),
            lambda x: np.multiply(x, x, dtype=dtype, casting="unsafe"),
            lambda x: np.add(x, x, casting="no"),
        ):
            agree(f, x)


# ── in programs ─────────────────────────────────────────────────────────────────────────────────────────────────────

LOSSES = {
    "sort": lambda x: np.sum(np.sort(x, 0) ** 2 * np.arange(3)), "median": lambda x: np.sum(np.median(x, 1) ** 2),
    "quantile": lambda x: np.sum(np.quantile(x, [0.3, 0.8], 1) ** 2), "partition": lambda x: np.partition(x, 1)[0, 1],
    "nanmedian": lambda x: np.nanmedian(np.where(x > 0, x, np.nan)),
    "nanquantile": lambda x: np.sum(np.nanquantile(np.where(x > 0, x, np.nan), 0.4, 1)),
    "interp": lambda x: np.sum(np.interp(x, [-1, 0.1, 2], [1, 3, 2]) ** 2),
    "histogram": lambda x: np.sum(np.histogram(x, 3, weights=x)[0] ** 2),
    "prod": lambda x: np.prod(x), "cumprod": lambda x: np.sum(np.cumprod(x, 0) ** 2),
    "nanmean": lambda x: np.nanmean(np.where(x > 0, x, np.nan) ** 2),
    "maximum": lambda x: np.sum(np.maximum.accumulate(x)),
    "pad": lambda x: np.sum(np.pad(x, 2, "reflect") ** 2), "convolve": lambda x: np.sum(np.convolve(x[0], x[1]) ** 2),
    "linspace": lambda x: np.sum(np.linspace(x[0], x[1], 5) ** 2), "cov": lambda x: np.sum(np.cov(x) ** 2),
    "select": lambda x: np.sum(np.select([x > 1, x > 0], [x, x * x], -x)),
    "insert": lambda x: np.sum(np.insert(x, 1, x[0] ** 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_are_compiled(name, own_cache, either_way):
    pytest.importorskip("numba")
    x = np.array([[0.5, -1.0, 2.0], [1.5, 0.3, -0.7]])
    f = tm.value_and_grad(LOSSES[name])
    fast = tm.compile(f)
    for point in (x, x + 0.01):
        for a, b in zip(tree_leaves(fast(point)), tree_leaves(f(point)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13)


@pytest.mark.parametrize("f", [np.unique, np.nonzero, np.argwhere, lambda x: np.extract(x > 0, x),
                               lambda x: np.piecewise(x, [x > 0], [1, 2]), lambda x: np.histogram(x,
                               "auto")])  # fmt: skip
def test_what_depends_on_values_is_not_recorded(f):
    with pytest.raises(TypeError, match="depends on a value"):
        tm.record(f, np.array([1.0, -2.0]))


# ── judged by JAX ───────────────────────────────────────────────────────────────────────────────────────────────────

JUDGED = {
    "sort": lambda np, x: np.sort(x, axis=0), "prod": lambda np, x: np.prod(x, axis=1),
    "cumprod": lambda np, x: np.cumprod(x, axis=1), "median": lambda np, x: np.median(x, axis=1),
    "quantile": lambda np, x: np.quantile(x, np.array([0.3, 0.8]), axis=1), "ptp": lambda np, x: np.ptp(x, axis=0),
    "nanmean": lambda np, x: np.nanmean(np.where(x > 0, x, np.nan), axis=0), "cov": lambda np, x: np.cov(x),
    "nanvar": lambda np, x: np.nanvar(np.where(x > 0, x, np.nan), axis=0), "corrcoef": lambda np, x: np.corrcoef(x),
    "interp": lambda np, x: np.interp(x, np.array([-2.0, 0, 3]), np.array([1.0, 4, 2])),
    "gradient": lambda np, x: np.gradient(x, axis=1), "trapezoid": lambda np, x: np.trapezoid(x * x, axis=1),
    "pad": lambda np, x: np.pad(x, 2, mode="symmetric"), "convolve": lambda np, x: np.convolve(x[0], x[1] * x[2]),
    "average": lambda np, x: np.average(x, axis=1, weights=x[0] ** 2 + 1), "polyval": lambda np, x: np.polyval(x[0],
    x[1]),
    "vander": lambda np, x: np.vander(x[0]), "geomspace": lambda np, x: np.geomspace(x[0] ** 2 + 1, x[1] ** 2 + 2, 4),
}  # fmt: skip


@pytest.mark.parametrize("name", sampled(JUDGED, 3))
def test_values_slopes_and_second_derivatives_are_those_of_jax(name):
    jax = pytest.importorskip("jax")
    from jax import numpy as jnp

    x = np.random.default_rng(5).standard_normal((3, 4))
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        ours, theirs = (lambda x, f=JUDGED[name], np=m: np.sum(np.sin(f(np, x))) for m in (np, jnp))
        v = np.cos(np.arange(12.0)).reshape(3, 4)
        # one program for all three: by itself JAX would compile every operation
        value, slopes, seen = jax.jit(lambda x, v: (theirs(x), *jax.jvp(jax.grad(theirs), (x,), (v,))))(x, v)
        np.testing.assert_allclose(value_of(ours(x)), value, rtol=1e-12)
        np.testing.assert_allclose(tm.grad(ours)(x), slopes, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(tm.hvp(ours, (x,), (v,))[0], seen, rtol=1e-9, atol=1e-11)


# ── planted errors are found ────────────────────────────────────────────────────────────────────────────────────────


def test_a_wrong_order_is_found(monkeypatch):
    from tinymaml.numpy_api import NUMPY

    monkeypatch.setitem(NUMPY, np.sort, lambda x: x)
    with pytest.raises(AssertionError):
        agree(np.sort, np.array([2.0, 1.0]))
    with pytest.raises(AssertionError):
        agree(lambda x: np.sort(x, 5), np.array([2.0, 1.0]))


def test_a_recurrence_with_a_wrong_rule_is_found(monkeypatch):
    from tinymaml.numpy_api import cumulative

    rules = cumulative.recurrence.vjp
    monkeypatch.setattr(cumulative.recurrence, "vjp", (lambda g, z, a, b: rules[0](g, z, a, b) * math.e, rules[1]))
    with pytest.raises(tm.GradientError):
        check_grads(np.cumprod, (np.array([2.0, 3.0, 0.5]),), order=1)


def test_gradients_that_numpy_cannot_ask_for():
    """vjp alone sees integers: nothing flows through them."""
    value, pullback = vjp(lambda x: np.argsort(x) * x, np.array([3.0, 1.0]))
    np.testing.assert_array_equal(pullback(np.ones(2))[0], [1, 0])
