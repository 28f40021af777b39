"""scipy.special on tensors: gammaln, erf, expit, xlogy, … Its ufuncs come in through NumPy's protocol.

    scipy.special.gammaln(t)        a ufunc: the first one that meets a tensor imports this file, which needs SciPy
    tm.nn.logsumexp(t, axis)        SciPy's own logsumexp, softmax, log_softmax are no ufuncs: `nn` has them
    polygamma(n, t)                 here, as multigammaln: SciPy's are no ufuncs either

Rules are exact at every order: where a function's derivatives are no functions of the table, the order of the
derivative is a parameter n. A derivative that has no closed form (Bessel functions by their order, gammainc by a) is
refused. The rules are those of the NIST Digital Library of Mathematical Functions. Read next: `nn`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.special

from .. import ops
from ..engine import Primitive, refusal, value_of
from ..ops import elementwise
from .elementwise import cbrt, exp2, expm1, log1p
from .table import as_array

SCIPY: dict[Callable, Callable] = {}  # a ufunc of scipy.special → ours
ROOT_PI = math.sqrt(math.pi)


def special(name: str, *rules: Callable, real: bool = False, **description) -> Primitive:
    """The primitive for scipy.special's ufunc of that name; `real`: not of complex numbers, where SciPy's is rough."""
    theirs = getattr(scipy.special, name)

    def forward(*xs):
        if real and any(map(np.iscomplexobj, xs)):
            raise refusal(TypeError(f"scipy.special.{name} on tensors takes real numbers, seen complex ones"))
        return theirs(*xs)

    description.setdefault("lowering", "loop" if "loop" in description else "replayed")
    SCIPY[theirs] = elementwise(name, forward, *rules, **description)
    return SCIPY[theirs]  # type: ignore


def scipy_function(name: str) -> Callable[[Callable], Callable]:
    """Register the decorated function as scipy.special's ufunc of that name; it gets its arguments in SciPy's dtype."""
    theirs = getattr(scipy.special, name)

    def register(ours: Callable) -> Callable:
        def f(*xs):
            numbers = [x if type(x) in (int, float) else np.ones(1, np.result_type(value_of(x))) for x in xs]
            dtype = theirs(*numbers).dtype
            return ours(*(x if type(x) in (int, float) else ops.in_dtype(as_array(x), dtype) for x in xs))

        SCIPY[theirs] = f
        return ours

    return register


def _no_rule(name: str, argument: str):
    def refuse(*args):
        raise refusal(NotImplementedError(
            f"scipy.special.{name}: its derivative by {argument} has no closed form; wanted {argument} constant"
        ))  # fmt: skip

    return refuse


# g is the cotangent of the output z

# ── gamma (DLMF 5) ──────────────────────────────────────────────────────────────────────────────────────────────────

gammaln  = special("gammaln",  lambda g, z, x: g * psi(x), loop="{type}(math.lgamma(f8({})))")
loggamma = special("loggamma", lambda g, z, x: g * psi(x))
gamma    = special("gamma",    lambda g, z, x: g * (z * psi(x)))
rgamma   = special("rgamma",   lambda g, z, x: -g * (z * psi(x)))
gammasgn = special("gammasgn", exact=True, decides="choice")
psi      = special("psi",      lambda g, z, x: g * polygamma_(x, n=1))
# z = ψ⁽ⁿ⁾(x)
polygamma_ = elementwise("polygamma", lambda x, *, n: scipy.special.polygamma(n, x).astype(scipy.special.psi(x).dtype),
                         lambda g, z, x, *, n: g * polygamma_(x, n=n + 1), lowering="replayed")
beta     = special("beta",     lambda g, z, a, b: g * (z * (psi(a) - psi(a + b))),
                   lambda g, z, a, b: g * (z * (psi(b) - psi(a + b))))
betaln   = special("betaln",   lambda g, z, a, b: g * (psi(a) - psi(a + b)),
                   lambda g, z, a, b: g * (psi(b) - psi(a + b)))
poch     = special("poch",     lambda g, z, a, m: g * (z * (psi(a + m) - psi(a))),
                   lambda g, z, a, m: g * (z * psi(a + m)))


def _gammainc_density(a, x):
    """xᵃ⁻¹ e⁻ˣ / Γ(a)"""
    a = _like(a, x)
    return np.exp(xlogy(a - 1, x) - x - gammaln(a))


def _betainc_density(a, b, x):
    """xᵃ⁻¹ (1 − x)ᵇ⁻¹ / B(a, b)"""
    a, b = _like(a, x), _like(b, x)
    return np.exp(xlogy(a - 1, x) + xlog1py(b - 1, -x) - betaln(a, b))


def _like(a, x):
    """A parameter, which may be an integer, in the dtype of x."""
    return ops.in_dtype(as_array(a), x.dtype)


gammainc  = special("gammainc",  _no_rule("gammainc", "a"),  lambda g, z, a, x: g * _gammainc_density(a, x))
gammaincc = special("gammaincc", _no_rule("gammaincc", "a"), lambda g, z, a, x: -g * _gammainc_density(a, x))
betainc   = special("betainc",   _no_rule("betainc", "a"), _no_rule("betainc", "b"),
                    lambda g, z, a, b, x: g * _betainc_density(a, b, x))
betaincc  = special("betaincc",  _no_rule("betaincc", "a"), _no_rule("betaincc", "b"),
                    lambda g, z, a, b, x: -g * _betainc_density(a, b, x))


def polygamma(n: int, x):
    """ψ⁽ⁿ⁾(x), the n-th derivative of digamma: scipy.special.polygamma for tensors.

    Args:
        n: an integer of at least 0.   x: numbers of any shape.

    Raises:
        ValueError: n is no such integer.

    >>> from tinymaml.numpy_api.special import polygamma
    >>> np.round(polygamma(1, 1.0), 6), np.round(np.pi**2 / 6, 6)
    (np.float64(1.644934), np.float64(1.644934))
    """
    if not isinstance(n, (int, np.integer)) or n < 0:
        raise ValueError(f"polygamma: n is {n!r}, wanted an integer of at least 0")
    return polygamma_(as_array(x), n=int(n)) if n else psi(as_array(x))


def multigammaln(a, d: int):
    """log Γ_d(a) = d (d − 1) / 4 log π + Σⱼ log Γ(a − j / 2), over j < d: scipy.special.multigammaln for tensors.

    Args:
        a: numbers of any shape, each greater than (d − 1) / 2.   d: an integer of at least 1.

    Raises:
        ValueError: d is no such integer.
    """
    if not isinstance(d, (int, np.integer)) or d < 1:
        raise ValueError(f"multigammaln: d is {d!r}, wanted an integer of at least 1")
    total = d * (d - 1) * 0.25 * math.log(math.pi)
    for j in range(d):
        total = total + gammaln(as_array(a) - j / 2)
    return total


# ── error functions, and the normal distribution (DLMF 7) ───────────────────────────────────────────────────────────

erf     = special("erf",     lambda g, z, x: g * (2 / ROOT_PI * np.exp(-x * x)),  loop="{type}(math.erf(f8({})))")
erfc    = special("erfc",    lambda g, z, x: g * (-2 / ROOT_PI * np.exp(-x * x)), loop="{type}(math.erfc(f8({})))")
erfcx   = special("erfcx",   lambda g, z, x: g * (2 * x * z - 2 / ROOT_PI))
erfinv  = special("erfinv",  lambda g, z, x: g * (ROOT_PI / 2 * np.exp(z * z)))
erfcinv = special("erfcinv", lambda g, z, x: g * (-ROOT_PI / 2 * np.exp(z * z)))
dawsn   = special("dawsn",   lambda g, z, x: g * (1 - 2 * x * z))
ndtr    = special("ndtr",    lambda g, z, x: g * (np.exp(x * x * -0.5) / math.sqrt(2 * math.pi)))
# φ / Φ = √(2 / π) / erfcx(−x / √2)
log_ndtr  = special("log_ndtr",  lambda g, z, x: g * (math.sqrt(2 / math.pi) / erfcx(x * -math.sqrt(0.5))))
ndtri     = special("ndtri",     lambda g, z, x: g * (math.sqrt(2 * math.pi) * np.exp(z * z * 0.5)))
ndtri_exp = special("ndtri_exp", lambda g, z, x: g * (math.sqrt(2 * math.pi) * np.exp(z * z * 0.5 + x)))

# ── logistic, entropies, losses ─────────────────────────────────────────────────────────────────────────────────────

expit = special("expit", lambda g, z, x: g * (z * expit(-x)), loop="1 / (1 + math.exp(-{}))")
logit = special("logit", lambda g, z, x: g / (x * (1 - x)))


def _ratio(x, y):
    """x / y, and 0 where both are 0."""
    return x / ops.where(ops.logical_and(ops.equal(x, 0), ops.equal(y, 0)), 1, y)


# 0 log 0 = 0
xlogy    = special("xlogy",    lambda g, z, x, y: g * np.log(y),         lambda g, z, x, y: g * _ratio(x, y))
xlog1py  = special("xlog1py",  lambda g, z, x, y: g * np.log1p(y),       lambda g, z, x, y: g * _ratio(x, 1 + y))
entr     = special("entr",     lambda g, z, x: -g * (np.log(x) + 1))
rel_entr = special("rel_entr", lambda g, z, x, y: g * (np.log(_ratio(x, y)) + 1),
                   lambda g, z, x, y: -g * _ratio(x, y))
kl_div   = special("kl_div",   lambda g, z, x, y: g * np.log(_ratio(x, y)),
                   lambda g, z, x, y: g * (1 - _ratio(x, y)))


@scipy_function("log_expit")
def log_expit(x):
    return -ops.logaddexp(-x, 0)


@scipy_function("huber")
def huber(delta, r):
    """r² / 2 where |r| ≤ δ, δ (|r| − δ / 2) elsewhere; ∞ where δ < 0."""
    size = np.abs(r)
    loss = ops.where(ops.less_equal(size, delta), size * size * 0.5, delta * (size - delta * 0.5))
    return ops.where(ops.less(delta, 0), math.inf, loss)


@scipy_function("pseudo_huber")
def pseudo_huber(delta, r):
    """δ² (√(1 + (r / δ)²) − 1), precise for small r / δ; ∞ where δ < 0."""
    ratio = r / ops.where(ops.equal(delta, 0), 1, delta)
    loss = delta * delta * np.expm1(np.log1p(ratio * ratio) * 0.5)
    return ops.where(ops.less(delta, 0), math.inf, loss)


# ── Bessel functions (DLMF 10.6, 10.29) ─────────────────────────────────────────────────────────────────────────────



def _of_order(name: str, rule: Callable) -> Primitive:
    return special(name, _no_rule(name, "the order"), rule, real=True)


j0  = special("j0", lambda g, z, x: -g * j1(x))
j1  = special("j1", lambda g, z, x: g * (j0(x) - jv(2, x)) / 2)
jv  = _of_order("jv", lambda g, z, n, x: g * (jv(n - 1, x) - jv(n + 1, x)) / 2)
y0  = special("y0", lambda g, z, x: -g * y1(x))
y1  = special("y1", lambda g, z, x: g * (y0(x) - yv(2, x)) / 2)
yv  = _of_order("yv", lambda g, z, n, x: g * (yv(n - 1, x) - yv(n + 1, x)) / 2)
i0  = special("i0", lambda g, z, x: g * i1(x))
i1  = special("i1", lambda g, z, x: g * (i0(x) + iv(2, x)) / 2)
iv  = _of_order("iv", lambda g, z, n, x: g * (iv(n - 1, x) + iv(n + 1, x)) / 2)
k0  = special("k0", lambda g, z, x: -g * k1(x))
k1  = special("k1", lambda g, z, x: -g * (k0(x) + kv(2, x)) / 2)
kv  = _of_order("kv", lambda g, z, n, x: -g * (kv(n - 1, x) + kv(n + 1, x)) / 2)
# scaled by e^−|x|, and by eˣ
i0e = special("i0e", lambda g, z, x: g * (i1e(x) - np.sign(x) * z))
i1e = special("i1e", lambda g, z, x: g * ((i0e(x) + ive(2, x)) / 2 - np.sign(x) * z))
ive = _of_order("ive",
              lambda g, z, n, x: g * ((ive(n - 1, x) + ive(n + 1, x)) / 2 - np.sign(x) * z))
k0e = special("k0e", lambda g, z, x: g * (z - k1e(x)))
k1e = special("k1e", lambda g, z, x: g * (z - (k0e(x) + kve(2, x)) / 2))
kve = _of_order("kve",
              lambda g, z, n, x: g * (z - (kve(n - 1, x) + kve(n + 1, x)) / 2))
scipy_function("yn")(yv)
scipy_function("kn")(kv)

# ── exponentials and their kin ──────────────────────────────────────────────────────────────────────────────────────

expi  = special("expi",  lambda g, z, x: g * (np.exp(x) / x),   real=True)
exp1  = special("exp1",  lambda g, z, x: -g * (np.exp(-x) / x), real=True)
cosm1 = special("cosm1", lambda g, z, x: -g * np.sin(x))


def _exprel(x, *, n):
    """∫ tⁿ eˣᵗ dt over 0 … 1, the n-th derivative of (eˣ − 1) / x."""
    if n == 0:
        return scipy.special.exprel(x)
    wide = np.asarray(x, np.result_type(np.float64, x))
    near = np.abs(wide) <= n + 1
    # Σ xᵏ / (k! (n + k + 1)); and for x < 0, where its signs alternate, eˣ Σ (−x)ᵏ n! / (n + k + 1)!
    v = np.where(near, wide, 0)
    size, up, down = np.abs(v), 1.0, 1 / (n + 1)
    above, below = 0.0, 0.0
    for k in range(30 + 4 * n):
        above, below = above + up / (n + k + 1), below + down
        up, down = up * size / (k + 1), down * size / (n + k + 2)
    # zₙ = (eˣ − n zₙ₋₁) / x
    v = np.where(near, 1, wide)
    z = np.expm1(v) / v
    for m in range(1, n + 1):
        z = (np.exp(v) - m * z) / v
    z = np.where(near, np.where(wide < 0, np.exp(-size) * below, above), z)
    return z.astype(scipy.special.exprel(np.zeros(1, np.asarray(x).dtype)).dtype)


exprel = elementwise("exprel", _exprel, lambda g, z, x, *, n: g * exprel(x, n=n + 1), lowering="replayed")
scipy_function("exprel")(lambda x: exprel(x, n=0))
scipy_function("exp10")(lambda x: ops.power(10.0, x))
for _ours in (cbrt, exp2, expm1, log1p):
    scipy_function(_ours.name)(_ours)
