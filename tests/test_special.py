"""scipy.special on tensors: its ufuncs by themselves, beside SciPy, JAX and closed forms; and what is no ufunc."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from cases import sampled

import tinymaml as tm
from tinymaml import GradientError, check_grads, grad, hvp, nn
from tinymaml.engine import Tensor

special = pytest.importorskip("scipy.special")

from tinymaml.numpy_api.special import SCIPY, multigammaln, polygamma  # noqa: E402

REAL, POSITIVE, UNIT = np.array([-1.3, -0.2, 0.4, 1.7]), np.array([0.3, 1.2, 2.7]), np.array([0.1, 0.45, 0.8])
OTHER = np.array([0.7, 1.9, 0.4])
POINTS = {
    **dict.fromkeys(SCIPY, (REAL,)),
    **{getattr(special, name): (POSITIVE,) for name in (
        "gammaln", "loggamma", "gamma", "rgamma", "gammasgn", "psi", "y0", "y1", "k0", "k1", "k0e", "k1e", "expi",
        "exp1", "entr", "log1p",
    )},
    **{getattr(special, name): (UNIT,) for name in ("erfinv", "erfcinv", "logit", "ndtri")},
    special.ndtri_exp: (-POSITIVE,),
    **{getattr(special, name): (POSITIVE, OTHER) for name in (
        "beta", "betaln", "poch", "xlogy", "xlog1py", "rel_entr", "kl_div", "huber", "pseudo_huber",
    )},
    **{getattr(special, name): (2, POSITIVE) for name in (
        "gammainc", "gammaincc", "jv", "yn", "yv", "iv", "kn", "kv", "ive", "kve",
    )},
    special.betainc: (2.0, 1.5, UNIT), special.betaincc: (2.0, 1.5, UNIT),
}  # fmt: skip
of_scipy = pytest.mark.parametrize("f", SCIPY, ids=lambda f: f.__name__)


def with_arrays(f, args):
    """f as a function of those arguments that are arrays, and these."""
    places = [i for i, x in enumerate(args) if isinstance(x, np.ndarray)]

    def of_arrays(*xs):
        full = list(args)
        for i, x in zip(places, xs, strict=True):
            full[i] = x
        return f(*full)

    return of_arrays, [args[i] for i in places]


@of_scipy
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.int8])
def test_values_and_dtypes_are_scipys(f, dtype):
    of_arrays, xs = with_arrays(f, POINTS[f])
    xs = [(x if np.dtype(dtype).kind == "f" else np.ceil(np.abs(x))).astype(dtype) for x in xs]
    with np.errstate(all="ignore"):
        ours, wanted = of_arrays(*map(Tensor, xs)), of_arrays(*xs)
    assert (ours.dtype, ours.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_allclose(ours.value, wanted, rtol=8 * np.finfo(wanted.dtype).eps)


@of_scipy
def test_derivatives_are_numerical_ones_to_third_order(f):
    of_arrays, xs = with_arrays(f, POINTS[f])
    check_grads(of_arrays, tuple(xs), order=3)


@of_scipy
@pytest.mark.usefixtures("either_way")
def test_a_program_is_replayed_with_a_warning_or_compiled(f):
    pytest.importorskip("numba")
    of_arrays, xs = with_arrays(f, POINTS[f])
    loss = tm.value_and_grad(lambda *xs: np.sum(of_arrays(*xs)), tuple(range(len(xs))))
    fast = tm.compile(loss)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tm.CompileWarning)
        (value, gradients), (wanted, slopes) = fast(*xs), loss(*xs)
    np.testing.assert_allclose(value, wanted, rtol=1e-14)
    for g, h in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(g, h, rtol=1e-13, atol=1e-15)


def test_erf_gammaln_and_expit_are_compiled():
    pytest.importorskip("numba")
    x = np.array([-30.0, -1.5, 0.0, 0.3, 2.0, 40.0])
    for f in (special.erf, special.erfc, special.expit, special.log_expit):
        np.testing.assert_allclose(tm.compile(lambda x, f=f: f(x))(x), f(x), rtol=2e-15)
    x = np.array([0.1, 1.0, 1.5, 2.0, 3.5, 100.0, -0.5])
    np.testing.assert_allclose(tm.compile(lambda x: special.gammaln(x))(x), special.gammaln(x), rtol=2e-15,
                               atol=1e-16)  # fmt: skip


def test_a_wrong_rule_is_found(monkeypatch):
    monkeypatch.setattr(SCIPY[special.erf], "vjp", (lambda g, z, x: g * np.exp(-x * x),))
    with pytest.raises(GradientError, match="order 1"):
        check_grads(special.erf, (REAL,), order=1)


def test_the_engine_needs_no_scipy():
    code = "import sys, tinymaml; assert not any(name.partition('.')[0] == 'scipy' for name in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ── at the edges ────────────────────────────────────────────────────────────────────────────────────────────────────

INF = np.inf
# f, point, its first derivatives
EDGES = [
    (special.xlogy, (0.0, 2.0), (np.log(2), 0)), (special.xlogy, (0.0, 0.0), (-INF, 0)),
    (special.xlog1py, (0.0, -1.0), (-INF, 0)), (special.entr, (0.0,), (INF,)),
    (special.rel_entr, (0.0, 0.5), (-INF, 0)), (special.kl_div, (0.0, 0.5), (-INF, 1)),
    (special.rel_entr, (0.0, 0.0), (-INF, 0)), (special.expit, (40.0,), (np.exp(-40),)),
    (special.expit, (-800.0,), (0,)), (special.log_expit, (-800.0,), (1,)), (special.log_expit, (800.0,), (0,)),
    (special.exprel, (0.0,), (0.5,)), (special.exprel, (1e-9,), (0.5 + 1e-9 / 3,)), (special.i1, (0.0,), (0.5,)),
    (special.i1e, (0.0,), (0.5,)), (special.i0e, (0.0,), (0,)), (special.j1, (0.0,), (0.5,)),
    (special.log_ndtr, (-1e4,), (1e4 + 1e-4,)), (special.log_ndtr, (40.0,), (0,)),
    (special.erfcx, (0.0,), (-2 / np.sqrt(np.pi),)), (special.erf, (INF,), (0,)),
    (special.gammaln, (1e10,), (np.log(1e10),)), (special.huber, (1.0, 0.0), (0, 0)),
    (special.huber, (1.0, -3.0), (2, -1)), (special.pseudo_huber, (1.0, 0.0), (0, 0)),
    (special.pseudo_huber, (2.0, 1e-9), (0, 1e-9)), (special.logit, (1e-300,), (1e300,)),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("f", "point", "slopes"), EDGES, ids=lambda x: getattr(x, "__name__", ""))
def test_slopes_at_the_edges(f, point, slopes):
    found = [grad(lambda *x: f(*x), i)(*point) for i in range(len(point))]
    np.testing.assert_allclose(found, slopes, rtol=1e-9, atol=1e-17)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("x", [0.0, 1e-9, -1e-3, 0.7, -0.99, 3.0, -40.0, 25.0])
def test_derivatives_of_exprel_are_moments(x, order):
    """∫ tⁿ eˣᵗ dt over 0 … 1, by Gauss and Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    t, w = (nodes + 1) / 2, weights / 2
    f = special.exprel
    for _ in range(order):
        f = grad(lambda x, f=f: f(x))
    np.testing.assert_allclose(f(np.array(x)), np.sum(w * t**order * np.exp(x * t)), rtol=1e-11)


@pytest.mark.parametrize("name", sampled((
    "gammaln", "digamma", "erf", "erfc", "erfinv", "expit", "logit", "xlogy", "xlog1py", "entr", "rel_entr", "kl_div",
    "ndtr", "log_ndtr", "ndtri", "i0", "i0e", "i1", "i1e", "betaln", "expi",
), 3))  # fmt: skip
def test_first_and_second_derivatives_are_jaxs(name):
    jax = pytest.importorskip("jax")
    f, theirs = getattr(special, name), getattr(jax.scipy.special, name)
    with jax.enable_x64(True):
        of_arrays, xs = with_arrays(f, POINTS[f])
        loss = lambda *xs: np.sum(of_arrays(*xs))  # noqa: E731
        their_loss = lambda *xs: jax.numpy.sum(theirs(*xs))  # noqa: E731
        places = tuple(range(len(xs)))
        # one program for both: by itself JAX would compile every operation
        wanted, seconds = jax.jit(lambda *xs: jax.jvp(jax.grad(their_loss, places), xs, xs))(*xs)
        ours = grad(loss, places)(*xs)
        for a, b in zip(ours, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10)
        second = hvp(loss, tuple(xs), tuple(xs))
        for a, b in zip(second, seconds, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-15)


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("f", "message"), [
    (lambda x: special.jv(x, 1.0), "scipy.special.jv: its derivative by the order has no closed form"),
    (lambda x: special.gammainc(x, 1.0), "scipy.special.gammainc: its derivative by a "),
    (lambda x: special.betainc(1.0, x, 0.5), "scipy.special.betainc: its derivative by b "),
])  # fmt: skip
def test_a_derivative_without_a_closed_form_is_refused(f, message):
    with pytest.raises(NotImplementedError, match=message):
        grad(f)(1.5)


def test_a_ufunc_that_is_missing_is_named():
    with pytest.raises(NotImplementedError, match=r"scipy\.special\.ellipk on tensors is not supported; .*SCIPY"):
        special.ellipk(Tensor(UNIT))


@pytest.mark.parametrize(("f", "instead"), [
    (lambda x: special.logsumexp(x), "tm.nn.logsumexp"), (lambda x: special.softmax(x, axis=0), "tm.nn.softmax"),
    (lambda x: special.log_softmax(x), "tm.nn.log_softmax"), (lambda x: special.polygamma(1, x), "special.polygamma"),
    (lambda x: special.multigammaln(x, 2), "special.multigammaln"),
])  # fmt: skip
def test_a_function_that_is_no_ufunc_says_what_takes_tensors(f, instead):
    with pytest.raises(TypeError, match=rf"scipy\.special\.\w+ takes no tensors: .*{instead} does"):
        grad(lambda x: np.sum(f(x)))(POSITIVE)


# ── what is no ufunc ────────────────────────────────────────────────────────────────────────────────────────────────


def test_polygamma_and_multigammaln():
    for n in range(4):
        np.testing.assert_allclose(polygamma(n, POSITIVE), special.polygamma(n, POSITIVE), rtol=1e-14)
        check_grads(lambda x, n=n: polygamma(n, x), (POSITIVE,), order=2)
    for d in (1, 2, 3):
        a = POSITIVE + 1
        np.testing.assert_allclose(multigammaln(a, d), [special.multigammaln(x, d) for x in a], rtol=1e-14)
        check_grads(lambda x, d=d: multigammaln(x, d), (a,), order=2)
    with pytest.raises(ValueError, match="polygamma: n is -1, wanted an integer of at least 0"):
        polygamma(-1, POSITIVE)
    with pytest.raises(ValueError, match="multigammaln: d is 0.5, wanted an integer of at least 1"):
        multigammaln(POSITIVE, 0.5)


X = np.random.default_rng(0).normal(size=(2, 3, 4))
WEIGHTS = np.array([1.0, 0.0, 2.5, 0.5])


@pytest.mark.parametrize("how", [
    {}, {"axis": 0}, {"axis": -1}, {"axis": (0, 2)}, {"axis": 1, "keepdims": True}, {"axis": -1, "b": WEIGHTS},
    {"b": WEIGHTS}, {"axis": (1, 2), "keepdims": True, "b": WEIGHTS},
])  # fmt: skip
def test_logsumexp_is_scipys(how):
    for x in (X, X.astype(np.float32), 1000 * X, np.where(X > 1, -np.inf, X)):
        ours = nn.logsumexp(Tensor(x), **how).value
        np.testing.assert_allclose(ours, special.logsumexp(x, **how), rtol=1e-14 if x.dtype == float else 4e-6)
    check_grads(lambda x: nn.logsumexp(x, **how), (X,), order=3)


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2)])
def test_softmax_and_log_softmax_are_scipys(axis):
    for x in (X, 1000 * X, np.where(X > 1, -np.inf, X), [[1, 2], [3, 5]]):
        if np.ndim(x) == 2 and axis == (0, 2):
            continue
        for ours, theirs in ((nn.softmax, special.softmax), (nn.log_softmax, special.log_softmax)):
            np.testing.assert_allclose(ours(x, axis), theirs(x, axis=axis), rtol=1e-13, atol=1e-15)


def test_what_a_mask_leaves_out_takes_no_part():
    x = np.array([-np.inf, 2.0, 1.0])
    np.testing.assert_allclose(grad(lambda x: nn.logsumexp(x))(x), [0, *special.softmax(x[1:])], rtol=1e-14)
    x, b = np.array([np.inf, 2.0, 1.0]), np.array([0.0, 1.0, 1.0])
    np.testing.assert_allclose(nn.logsumexp(x, b=b), special.logsumexp(x[1:]), rtol=1e-14)
    np.testing.assert_allclose(grad(lambda x: nn.logsumexp(x, b=b))(x), [0, *special.softmax(x[1:])], rtol=1e-14)


def test_where_the_sum_is_negative_the_logarithm_is_nan():
    with np.errstate(invalid="ignore"):
        assert np.isnan(nn.logsumexp(np.zeros(2), b=np.array([1.0, -2.0])))
