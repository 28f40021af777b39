"""Cases: sorting, reductions, shapes and building arrays, beside those of `test_ops` and `test_dtypes`."""

import numpy as np
from cases import COLUMN, FP, MASK, ROW, A, C, E, M, S, V, W, X, Y, case, frozen, point, primitive
from dtype_cases import exact, rounded

# ── points ──────────────────────────────────────────────────────────────────────────────────────────────────────────

Z = point(40, 5)
RISING = frozen([-1.9, -0.4, 0.3, 2.1])
WEIGHTS = frozen([0.5, 2.0, 1.25])
HOLES = [[True, False, True], [False, True, True]]


def with_holes(x):
    """x with some NaN."""
    return np.where(HOLES, x, np.nan)


def naive_recurrence(a, b):
    z = [b[0]]
    for t in range(1, len(b)):
        z.append(a[t] * z[-1] + b[t])
    return np.array(z)


def square_sums(y):
    return np.sum(y * y)


# ── differentiated ──────────────────────────────────────────────────────────────────────────────────────────────────

SMOOTH = [
    primitive("recurrence", M, A[[0, 1, 0]], reference=naive_recurrence),
    # reductions
    case(np.sum, lambda x: np.sum(x, 0, initial=2, where=MASK), X),
    case(np.mean, lambda x: np.mean(x, 1, keepdims=True, where=MASK), X),
    case(np.var, lambda x: np.var(x, 1, correction=1, where=[[True, True, True], [False, True, True]]), X),
    case(np.var, lambda x, y: np.var(x, 1, mean=y[:, :1]), X, Y),
    case(np.prod, lambda x: np.prod(x, initial=0.5, where=MASK), X),
    case(np.prod, lambda x: np.prod(x * (x > 0), 0), C),
    case(np.max, lambda x: np.max(x, 1, initial=0.3, where=MASK), X),
    case(np.min, lambda x: np.min(x, 0, initial=-0.2), X),
    case(np.ptp, lambda x: np.ptp(x, 1), X), case(np.ptp, np.ptp, C),
    case(np.average, lambda x, w: np.average(x, 1, w, keepdims=True), X, WEIGHTS), case(np.average, np.average, X),
    case(np.cov, lambda x: np.cov(x, aweights=WEIGHTS), X, double=True),
    case(np.cov, lambda x, y: np.cov(x, y, ddof=0), V, W, double=True),
    case(np.corrcoef, lambda x: np.corrcoef(x)[0, 1], X, double=True),
    # without NaN
    case(np.nansum, lambda x: np.nansum(with_holes(x), 0), X),
    case(np.nanprod, lambda x: np.nanprod(with_holes(x), 1), X),
    case(np.nanmean, lambda x: np.nanmean(with_holes(x), 1), X),
    case(np.nanvar, lambda x: np.nanvar(with_holes(x), 1), X),
    case(np.nanstd, lambda x: np.nanstd(with_holes(x), 1, keepdims=True), X),
    case(np.nanmax, lambda x: np.nanmax(with_holes(x), 0), X),
    case(np.nanmin, lambda x: np.nanmin(with_holes(x), 1), X),
    case(np.nancumsum, lambda x: np.nancumsum(with_holes(x), 1), X),
    case(np.nancumprod, lambda x: np.nancumprod(with_holes(x), 1), X),
    case(np.nanmedian, lambda x: np.nanmedian(with_holes(x), 1), X),
    case(np.nanquantile, lambda x: np.nanquantile(with_holes(x), [0.2, 0.6], 1), X, double=True),
    case(np.nanpercentile, lambda x: np.nanpercentile(with_holes(x), 70, keepdims=True), X, double=True),
    # running, and differences
    case(np.cumprod, lambda x: np.cumprod(x, 1), X), case(np.cumprod, lambda x: x.cumprod(), V),
    case(np.diff, lambda x, y: np.diff(x, 1, 1, prepend=y, append=y), X, COLUMN),
    case(np.ediff1d, lambda x: np.ediff1d(x, to_end=[1.0], to_begin=x[0, 0]), X),
    case(np.gradient, np.gradient, X),
    case(np.gradient, lambda x, y: np.gradient(y, x, edge_order=2), RISING, point(41, 4)),
    case(np.gradient, lambda x, s: np.gradient(x, s, axis=1, edge_order=2), X, S),
    case(np.trapezoid, lambda y, x: np.trapezoid(y, x), X, V),
    case(np.trapezoid, lambda y: np.trapezoid(y, dx=2, axis=0), X),
    case(np.unwrap, lambda x: np.unwrap(3 * x, period=2), Z),
    case(np.maximum, lambda x: np.maximum.accumulate(x, 1), C), case(np.minimum, np.minimum.accumulate, M),
    # sorting
    case(np.sort, lambda x: np.sort(x, 0), C), case(np.sort, lambda x: np.sort(x, None), X),
    case(np.partition, lambda x: np.partition(x, 1, 1)[:, 1], X),
    case(np.histogram, lambda w: np.histogram(Z, 3, weights=w)[0], point(42, 5)),
    case(np.bincount, lambda w: np.bincount([2, 0, 2], w, 4), V, double=True),
    case(np.median, np.median, X), case(np.median, lambda x: np.median(x, (0, 2), keepdims=True), C),
    case(np.quantile, lambda x: np.quantile(x, [0.3, 0.9], 1), X, double=True),
    case(np.quantile, lambda x: np.quantile(x, 0.4, method="inverted_cdf", axis=1, weights=[1, 2, 1]), X, double=True),
    case(np.percentile, lambda x: np.percentile(x, 30, (0, 2), method="hazen"), C),
    # choosing
    case(np.compress, lambda x: np.compress([True, False, True], x, 1), X),
    case(np.extract, lambda x: np.extract(MASK, x), X),
    case(np.select, lambda x, y: np.select([x > 0, MASK], [x, y], x * y), X, Y),
    case(np.choose, lambda x, y: np.choose([0, 1, 1], [x, y]), X, Y),
    case(np.take, lambda x: np.take(x, [4, -7], 1, mode="wrap") + np.take(x, [9, -2], 1, mode="clip"), X),
    # shapes
    case(np.reshape, lambda x: np.reshape(x, (3, -1), order="F"), C),
    case(np.ravel, lambda x: x.ravel("F") * x.flatten("F"), X),
    case(np.atleast_2d, np.atleast_2d, V), case(np.atleast_3d, lambda x, y: np.atleast_3d(x, y), V, X),
    case(np.broadcast_arrays, np.broadcast_arrays, COLUMN, ROW),
    case(np.dstack, lambda x, y: np.dstack([x, y]), X, Y),
    case(np.column_stack, lambda x, y: np.column_stack([x, y]), E, X),
    case(np.hsplit, lambda x: np.hsplit(x, 3), X),
    case(np.vsplit, lambda x: np.vsplit(x, 2), X), case(np.dsplit, lambda x: np.dsplit(x, [1]), C),
    case(np.fliplr, np.fliplr, X), case(np.flipud, np.flipud, X), case(np.rot90, lambda x: np.rot90(x, 3), X),
    case(np.rollaxis, lambda x: np.rollaxis(x, 2), C), case(np.resize, lambda x: np.resize(x, (3, 3)), X),
    case(np.full_like, lambda x, s: np.full_like(x, s, shape=(2, 2)), X, S),
    # building
    case(np.append, lambda x, y: np.append(x, y), X, V), case(np.append, lambda x, y: np.append(x, y, 0), X, M),
    case(np.delete, lambda x: np.delete(x, 1, 1), X), case(np.delete, lambda x: np.delete(x, [0, -1]), X),
    case(np.insert, lambda x, y: np.insert(x, 1, y, 0), X, V),
    case(np.insert, lambda x, y: np.insert(x, [0, 2], y), V, E),
    case(np.block, lambda x, y: np.block([[x, y], [y, x]]), X, Y),
    case(np.linspace, lambda x, y: np.linspace(x, y, 4), COLUMN, ROW),
    case(np.linspace, lambda x: np.linspace(x, 2.0, 3, False, True, axis=1), V),
    case(np.logspace, lambda x, y: np.logspace(x, y, 3, base=2.0), E, S),
    case(np.geomspace, lambda x: np.geomspace(x, 5.0, 4), FP, double=True),
    case(np.geomspace, lambda x: np.geomspace(-x, -5.0, 4, False), FP, double=True),
    case(np.meshgrid, lambda x, y: np.meshgrid(x, y, indexing="ij"), E, V), case(np.ix_, np.ix_, E, V),
    case(np.vander, np.vander, V, double=True), case(np.vander, lambda x: np.vander(x, 2, True), V, double=True),
    case(np.diagflat, lambda x: np.diagflat(x, 1), X),
    case(np.apply_along_axis, lambda x: np.apply_along_axis(square_sums, 1, x), X),
    case(np.apply_over_axes, lambda x: np.apply_over_axes(np.sum, x, (0, 2)), C),
    *(case(np.pad, lambda x, mode=mode: np.pad(x, ((1, 2), (2, 4)), mode), X)
      for mode in ("edge", "reflect", "symmetric", "wrap", "mean", "maximum", "minimum", "median")),
    case(np.pad, lambda x: np.pad(x, 2, "linear_ramp", end_values=1), X, double=True),
    case(np.pad, lambda x: np.pad(x, 3, "reflect", reflect_type="odd"), X),
    case(np.pad, lambda x: np.pad(x, 1, constant_values=((1, 2), (3, 4))), X),
    # curves
    case(np.interp, np.interp, V, RISING, point(41, 4), double=True),
    case(np.interp, lambda x, y: np.interp(x, RISING, y, period=3.0), V, point(41, 4), double=True),
    case(np.convolve, np.convolve, V, E), case(np.convolve, lambda x, y: np.convolve(x, y, "same"), E, Z),
    case(np.correlate, lambda x, y: np.correlate(x, y, "full"), V, Z), case(np.correlate, np.correlate, Z, V),
    case(np.polyval, np.polyval, V, X),
    # the methods of ufuncs
    case(np.add, lambda x: np.add.reduce(x), C), case(np.multiply, lambda x: np.multiply.reduce(x, (0, 2)), C),
    case(np.logaddexp, lambda x: np.logaddexp.reduce(x, 1), C),
    case(np.multiply, lambda x, y: np.multiply.outer(x, y), X, V),
    case(np.add, lambda x: np.add.reduceat(x, [0, 2, 1], 1), X), case(np.exp, lambda x: np.exp(x, dtype=x.dtype), X),
]  # fmt: skip

# ── piecewise constant ──────────────────────────────────────────────────────────────────────────────────────────────

STEPS = [
    *(primitive(name, X, axis=1, keepdims=True) for name in ("nanargmax", "nanargmin")),
    primitive("searchsorted", RISING, X, side="left", reference=np.searchsorted),
    *(case(f, lambda x, f=f: f(with_holes(x), 0), X) for f in (np.nanargmax, np.nanargmin)),
    case(np.count_nonzero, lambda x: np.count_nonzero(x > 0, 1, keepdims=True), X),
    case(np.any, lambda x: np.any(x > 0, 1, where=MASK), X), case(np.all, lambda x: np.all(x > 0, 1, where=MASK), X),
    case(np.argsort, lambda x: x.argsort(0), X), case(np.lexsort, lambda x, y: np.lexsort((x, y > 0)), X, Y),
    case(np.argpartition, lambda x: np.argpartition(x, 1)[:, 1], X),
    case(np.searchsorted, lambda x: np.searchsorted(RISING, x, "right"), X),
    case(np.digitize, lambda x: np.digitize(x, RISING), X), case(np.histogram, lambda x: np.histogram(x, 4)[0], Z),
    case(np.isin, lambda x: np.isin(x > 0, [True]), X),
    case(np.empty_like, lambda x: np.empty_like(x).shape[1] + (x > 9), X),
    case(np.logical_xor, lambda x: np.logical_xor.reduce(x > 0), X),
]  # fmt: skip

PLAIN = [case(np.size, lambda x: np.size(x, 1), X)]

BRANCHES = [
    case(np.unique, np.unique, X), case(np.unique, lambda x: np.unique(x, axis=1, return_index=True)[0], X),
    case(np.nonzero, lambda x: x[np.nonzero(x > 0)], X), case(np.nonzero, lambda x: x[(x > 0).nonzero()], X),
    case(np.flatnonzero, lambda x: x.ravel()[np.flatnonzero(x > 0)], X),
    case(np.where, lambda x: x[np.where(x > 0)], X),
    case(np.argwhere, lambda x: x[np.argwhere(x > 0)[:, 0]], X), case(np.extract, lambda x: np.extract(x > 0, x), X),
    case(np.piecewise, lambda x: np.piecewise(x, [x < 0], [lambda y: y * y, lambda y: 3 * y]), X),
    case(np.histogram, lambda x: np.histogram(x, "sqrt")[1], Z),
]  # fmt: skip

# ── of every dtype: v, twelve awkward numbers, and m, a tame matrix with ties ───────────────────────────────────────

SORTED = frozen([-2.0, 0.0, 0.5, 3.0])
COLUMNS = frozen([True, False, True, True])

ONE = {
    np.sum: rounded(lambda v, m: np.sum(m, 0, np.float32), lambda v, m: np.sum(m, dtype=np.int8, where=m > 0),
                    lambda v, m: np.sum(m > 0, 1, bool), lambda v, m: np.sum(abs(m), 1, initial=2, where=COLUMNS)),
    np.prod: rounded(lambda v, m: np.prod(m, 0, np.float32), lambda v, m: np.prod(m, 1, initial=2, where=m > 1),
                     lambda v, m: np.prod(m, (0, 1), keepdims=True)),
    np.max: exact(lambda v, m: np.max(m, 1, initial=1, where=COLUMNS), lambda v, m: np.max(m[:0], 0, initial=1),
                  ties=True),
    np.min: exact(lambda v, m: np.min(m, 0, initial=1), lambda v, m: np.min(m, initial=2, where=m > 0), ties=True),
    np.mean: rounded(lambda v, m: np.mean(m, 1, where=COLUMNS), lambda v, m: np.mean(m, 0, np.float32),
                     lambda v, m: np.mean(m, dtype=int)),
    np.var: rounded(lambda v, m: np.var(m, 1, where=COLUMNS, ddof=1), lambda v, m: np.var(m, 0, mean=m[:1])),
    np.std: rounded(lambda v, m: np.std(m, 1, correction=1), lambda v, m: np.std(m, 1, where=COLUMNS)),
    np.any: exact(lambda v, m: np.any(m, 1, where=COLUMNS), lambda v, m: np.any(v, where=v > 1)),
    np.all: exact(lambda v, m: np.all(m, 1, where=COLUMNS), lambda v, m: np.all(v, where=v > 1)),
    np.ptp: rounded(lambda v, m: np.ptp(m, 0), lambda v, m: np.ptp(m)),
    np.average: rounded(lambda v, m: np.average(m, 0, [1, 2, 3]), lambda v, m: np.average(m, returned=True)),
    np.count_nonzero: exact(lambda v, m: np.count_nonzero(v), lambda v, m: np.count_nonzero(m, 1, keepdims=True)),
    np.cov: rounded(lambda v, m: np.cov(m), lambda v, m: np.cov(m, rowvar=False, fweights=[1, 2, 1])),
    np.corrcoef: rounded(lambda v, m: np.corrcoef(m)),
    # without NaN
    np.nansum: rounded(lambda v, m: np.nansum(m, 0), lambda v, m: np.nansum(v)),
    np.nanprod: rounded(lambda v, m: np.nanprod(m, 0), lambda v, m: np.nanprod(v[:7])),
    np.nanmean: rounded(lambda v, m: np.nanmean(m, 0), lambda v, m: np.nanmean(v[:6])),
    np.nanvar: rounded(lambda v, m: np.nanvar(m, 0), lambda v, m: np.nanvar(v[:6])),
    np.nanstd: rounded(lambda v, m: np.nanstd(m, 1, ddof=1), lambda v, m: np.nanstd(v[:6])),
    **{f: exact(lambda v, m, f=f: f(v), lambda v, m, f=f: f(m, 1, keepdims=True), ties=True)
       for f in (np.nanmax, np.nanmin)},
    **{f: exact(lambda v, m, f=f: f(v), lambda v, m, f=f: f(m, 1, keepdims=True), machine=False)
       for f in (np.nanargmax, np.nanargmin)},
    np.nancumsum: rounded(lambda v, m: np.nancumsum(m, 1), lambda v, m: np.nancumsum(v[:6])),
    np.nancumprod: rounded(lambda v, m: np.nancumprod(m, 1), lambda v, m: np.nancumprod(v[:6])),
    np.nanmedian: rounded(lambda v, m: np.nanmedian(m, 1), lambda v, m: np.nanmedian(v)),
    **{f: rounded(lambda v, m, f=f, q=q: f(m, q, 1), lambda v, m, f=f: f(v[:6], 0.3))
       for f, q in ((np.nanquantile, [0.3, 1]), (np.nanpercentile, [30, 100]))},
    # running, and differences
    np.cumsum: rounded(lambda v, m: np.cumsum(m, 1, np.float32), lambda v, m: np.cumsum(m, 0, np.int8)),
    np.cumprod: exact(lambda v, m: np.cumprod(m, 1), lambda v, m: np.cumprod(m, 0), lambda v, m: np.cumprod(v),
                      lambda v, m: np.cumprod(m, 0, np.int8)),
    np.diff: exact(lambda v, m: np.diff(m, 2, 0, prepend=m[:1]), lambda v, m: np.diff(v, append=v[:2])),
    np.ediff1d: exact(lambda v, m: np.ediff1d(v), lambda v, m: np.ediff1d(v, v[:1], v[-1])),
    np.gradient: rounded(lambda v, m: np.gradient(m), lambda v, m: np.gradient(m, 2, axis=1, edge_order=2),
                         lambda v, m: np.gradient(m, [0, 1, 4], axis=0)),
    np.trapezoid: rounded(lambda v, m: np.trapezoid(m), lambda v, m: np.trapezoid(m, [0, 1, 3], axis=0)),
    np.unwrap: rounded(lambda v, m: np.unwrap(m[0] % 3)),
    # sorting
    np.sort: exact(lambda v, m: np.sort(v), lambda v, m: np.sort(m, 0), lambda v, m: np.sort(m, None), ties=True),
    np.partition: exact(lambda v, m: np.partition(v, 3)[3], ties=True),
    np.argsort: exact(lambda v, m: np.argsort(m, 0, stable=True), lambda v, m: v.argsort(kind="stable")),
    np.argpartition: exact(lambda v, m: np.argpartition(v, 3).shape),
    np.lexsort: exact(lambda v, m: np.lexsort((v, v > 1)), lambda v, m: np.lexsort(m)),
    np.searchsorted: exact(lambda v, m: np.searchsorted(SORTED, v),
                           lambda v, m: np.searchsorted(np.sort(v), m, "right")),
    np.digitize: exact(lambda v, m: np.digitize(v, SORTED), lambda v, m: np.digitize(m, SORTED[::-1], True)),
    np.bincount: rounded(lambda v, m: np.bincount([2, 0, 2, 5], m[0], 4), lambda v, m: np.bincount(np.arange(3))),
    np.histogram: rounded(lambda v, m: np.histogram(m * 1, SORTED), lambda v, m: np.histogram(m * 1, 3, (-1, 4))),
    np.unique: exact(lambda v, m: np.unique(v), lambda v, m: np.unique(m, True, True, True, axis=0),
                     recorded=False, ties=True),
    np.median: rounded(lambda v, m: np.median(v), lambda v, m: np.median(m, 0),
                       lambda v, m: np.median(m, keepdims=True)),
    **{f: rounded(lambda v, m, f=f, q=q: f(m, q, 1), lambda v, m, f=f: f(m, 1, method="lower"),
                  lambda v, m, f=f, q=q: f(v, q),
                  lambda v, m, f=f: f(m, 0.5, 0, method="hazen"))
       for f, q in ((np.quantile, [0.3, 0.9]), (np.percentile, [30, 90]))},
    # choosing
    **{f: exact(lambda v, m, f=f: f(v), lambda v, m, f=f: f(m), recorded=False)
       for f in (np.nonzero, np.flatnonzero, np.argwhere, np.where)},
    np.where: exact(lambda v, m: np.where(v), recorded=False),
    np.compress: exact(lambda v, m: np.compress([True, False, True], m, 0), lambda v, m: v.compress([0, 1])),
    np.extract: exact(lambda v, m: np.extract([True, False] * 6, v)),
    np.select: exact(lambda v, m: np.select([v > 1, v <= 1], [v, 2], 3), lambda v, m: np.select([m > 0], [m])),
    np.choose: exact(lambda v, m: np.choose([0, 1, 2], m[:, :3]), lambda v, m: np.choose([7, -1], v[:4], mode="clip")),
    np.piecewise: exact(lambda v, m: np.piecewise(v, [v > 1], [lambda x: x + x, 1]), recorded=False),
    np.isin: exact(lambda v, m: np.isin(v, [0, 2]), lambda v, m: np.isin(m, v[:3], invert=True)),
    np.take: exact(lambda v, m: np.take(v, [13, -14], mode="wrap"), lambda v, m: np.take(m, [7, -1], 1, mode="clip")),
    # shapes
    np.reshape: exact(lambda v, m: np.reshape(m, (2, 6), order="F"),
                      lambda v, m: v.reshape(3, 4, order="F", copy=True)),
    np.ravel: exact(lambda v, m: m.ravel("F")),
    **{f: exact(lambda v, m, f=f: f(v), lambda v, m, f=f: f(m), lambda v, m, f=f: f(m[0, 0], v))
       for f in (np.atleast_1d, np.atleast_2d, np.atleast_3d, np.broadcast_arrays)},
    **{f: exact(lambda v, m, f=f: f([m, m]), lambda v, m, f=f: f([v, v > 0])) for f in (np.dstack, np.column_stack)},
    np.concatenate: exact(lambda v, m: np.concatenate([m, m], dtype=np.float64)),
    **{f: exact(lambda v, m, f=f: f(m[None], 1),
                lambda v, m, f=f: f(m[None], [1])) for f in (np.hsplit, np.vsplit, np.dsplit)},
    **{f: exact(lambda v, m, f=f: f(m)) for f in (np.fliplr, np.flipud, np.rot90)},
    np.rollaxis: exact(lambda v, m: np.rollaxis(m, 1)),
    np.resize: exact(lambda v, m: np.resize(m, (5, 3)), lambda v, m: np.resize(v, 2)),
    np.full_like: exact(lambda v, m: np.full_like(v, 2.5, np.float32, shape=3)),
    np.empty_like: exact(lambda v, m: v + np.empty_like(v).shape[0]),
    # building
    np.append: exact(lambda v, m: np.append(v, m), lambda v, m: np.append(m, m[:1] > 0, 0)),
    np.delete: exact(lambda v, m: np.delete(v, [0, -1]), lambda v, m: np.delete(m, slice(1, 3), 1)),
    np.insert: exact(lambda v, m: np.insert(v, 1, v[3]), lambda v, m: np.insert(m, [0, 2], m[0], 0)),
    np.block: exact(lambda v, m: np.block([[m, m], [m, m > 0]])),
    np.linspace: rounded(lambda v, m: np.linspace(m[0], m[1], 4), lambda v, m: np.linspace(m, 2, 3, False, axis=1),
                         lambda v, m: np.linspace(m[0, 0], 7, 3, dtype=int)),
    np.logspace: rounded(lambda v, m: np.logspace(0, v == 2, 3)),
    np.geomspace: rounded(lambda v, m: np.geomspace((m > 1) + 1.5, 5, 4)),
    np.meshgrid: exact(lambda v, m: np.meshgrid(v, m[0]),
                       lambda v, m: np.meshgrid(v, m[0], sparse=True, indexing="ij")),
    np.ix_: exact(lambda v, m: np.ix_(v.astype(np.float64), m[0].astype(np.float64))),
    np.vander: rounded(lambda v, m: np.vander(m[0]), lambda v, m: np.vander(m[0], 3, True)),
    np.diagflat: exact(lambda v, m: np.diagflat(m, 1)),
    np.apply_along_axis: rounded(lambda v, m: np.apply_along_axis(np.sum, 1, m)),
    np.apply_over_axes: rounded(lambda v, m: np.apply_over_axes(np.sum, m, [0, 1])),
    np.pad: exact(*(lambda v, m, mode=mode: np.pad(m, (1, 5), mode)
                    for mode in ("edge", "reflect", "symmetric", "wrap")),
                  *(lambda v, m, mode=mode: np.pad(m, 2, mode, stat_length=3) for mode in ("maximum", "minimum")),
                  lambda v, m: np.pad(m, 1, constant_values=((1, 2), (3, 4))), ties=True),
    # curves
    np.interp: rounded(lambda v, m: np.interp(m, SORTED, [1, 2, 0, 5]),
                       lambda v, m: np.interp([0.5, 9], [0, 1, 2, 3], m[0])),
    np.convolve: rounded(lambda v, m: np.convolve(m[0], m[1]), lambda v, m: np.convolve(m[0], m[1], "same")),
    np.correlate: rounded(lambda v, m: np.correlate(m[0], m[1]), lambda v, m: np.correlate(m[0, :2], m[1], "full")),
    np.polyval: rounded(lambda v, m: np.polyval(m[0], m), lambda v, m: np.polyval([1, 2], v[:5])),
}  # fmt: skip
TWO = {}

if hasattr(np, "unstack"):  # since NumPy 2.1
    SMOOTH += [
        case(np.cumulative_sum, lambda x: np.cumulative_sum(x, axis=1, include_initial=True), X),
        case(np.cumulative_prod, lambda x: np.cumulative_prod(x, axis=-1, include_initial=True), X),
        case(np.unstack, lambda x: np.unstack(x, axis=1), X),
    ]
    ONE |= {
        np.cumulative_sum: rounded(lambda v, m: np.cumulative_sum(m, axis=1, include_initial=True)),
        np.cumulative_prod: exact(lambda v, m: np.cumulative_prod(m, axis=1, include_initial=True)),
        np.unstack: exact(lambda v, m: np.unstack(m, axis=1)),
    }
