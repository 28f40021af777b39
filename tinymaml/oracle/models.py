"""A case's model: a description, run by any library and differentiated by hand.

    loss = loss_in(Torch(), model)                       loss(params, x, y), the loss of one task, in that library
    value, grads = loss_and_grad(model, params, x, y)    the same with its gradient, over any numbers (`arithmetic`)

A description is data: `{"layers": [{"layer": "linear", "params": ["w", "b"]}, {"layer": "tanh"}, …], "loss": "mse"}`.
Its layers and losses, with x the input, o the output, y the target:

    linear         x w + b                              mse                   mean (o − y)²
    conv           NHWC, filters (h, w, in, out)        half_mse              mean ½ (o − y)²
    batch_norm     statistics of the batch at hand      cross_entropy         mean (log Σ exp o − o_y)
    tanh relu softplus square                           binary_cross_entropy  mean (log(1 + eᵒ) − y o)
    max_pool       size × size, the rest dropped        mean                  mean o
    flatten, spatial_mean                               (mean: over all elements)
    polynomial     Σ_d x_d θ^d                          quadratic             ½ θᵀ A θ − bᵀθ, x = [A b]
    context        [x φ], φ behind every input          (CAVIA)

The gradients by hand are plain backpropagation, of first order only, and share nothing with the engine: second order
comes from running them over dual or complex numbers. That makes them a reference for the engine, not a copy of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from .. import nn
from ..engine import stop_gradient
from .arithmetic import bend, erf, hold, side, sign

EPS = 2.0**-10  # of batch norm: exact in float32, so that every dtype runs the same model


@dataclasses.dataclass(frozen=True)
class Options:
    """How the layers and losses behave; what differs from the default is a convention, or a bug.

    Attributes:
        relu_at_zero: the slope of ReLU at 0.
        ties: who gets the derivative of a tie in max_pool: "first", "last" or "split".
        unbiased: batch norm divides by n − 1.
        running_statistics: batch norm uses mean 0 and variance 1 (a fresh network's, in evaluation mode).
        statistics: batch norm uses these, {its first parameter's name: (mean, variance)}.
        measured: batch norm takes the statistics of so many first rows of the batch.
        eps: batch norm's ε; None for the model's.
        affine: "right"; "no scale", "no shift" or "neither": batch norm without γ or β.
        frozen: layers (or "loss") whose backward holds what it saved constant, so that its own derivative is missing.
        last_use_only: of a parameter used twice, only the last use gets a gradient.
        unit: the squared error is multiplied by this: ½ for "half the squared error".
        loss: which wrong loss stands in the place of the right one; see `IN_PLACE_OF`.
        smoothing, log_epsilon, delta: ε of label smoothing, ε inside the logarithm, Huber's δ; 0 for none.
        temperature: τ, by which logits are divided before the softmax or sigmoid; 0 for none.
        penalty: λ of ½ λ Σ p² in the loss.
        activation: "sigmoid for tanh" and its like; see `ACTIVATIONS`.   leak: the slope of ReLU below 0.
        kernel, weight: how the entries of a convolution's filters and of a square matrix are mixed up; see `_MIXED`.
        padding: "right"; "first" (the odd zero comes first); "none"; "both" (k // 2 zeros on each side); "any stride"
            and "any stride, first": zeros as for stride 1.
        pool: "max"; "mean".   biases: "right"; "missing" (all), or "first missing".
        flatten: "right"; "channels first".
    """

    relu_at_zero: float = 0.0
    ties: str = "first"
    unbiased: bool = False
    running_statistics: bool = False
    statistics: dict | None = None
    measured: int | None = None
    eps: float | None = None
    affine: str = "right"
    frozen: frozenset[str] = frozenset()
    last_use_only: bool = False
    unit: float = 1
    loss: str = "right"
    smoothing: float = 0.0
    log_epsilon: float = 0.0
    delta: float = 0.0
    temperature: float = 0.0
    penalty: float = 0.0
    activation: str = "right"
    leak: float = 0.0
    kernel: str = "right"
    weight: str = "right"
    padding: str = "right"
    pool: str = "max"
    biases: str = "right"
    flatten: str = "right"


# ── by hand: each layer returns its output and its pullback  g ↦ (cotangent of x, cotangents of the parameters) ─────


def _linear(x, w, b=None, *, held, how):
    w, unmix = _mixed(w, how.weight)

    def back(g):
        return g @ held(w).T, [unmix(held(x).T @ g)] + ([] if b is None else [np.sum(g, 0)])

    return (x @ w if b is None else x @ w + b), back


# The entries of a weight in a wrong order, made from the right one: of matrices (in, out), of filters (h, w, in, out).
_MIXED: dict[str, Callable] = {
    "transposed": np.transpose,
    "reshaped": lambda at: np.reshape(at, at.shape[::-1]).T,
    "flipped": lambda at: at[::-1, ::-1],
    "channels exchanged": lambda at: np.swapaxes(at, 2, 3),
    "rows and columns exchanged": lambda at: np.swapaxes(at, 0, 1),
    "filters reshaped": lambda at: np.transpose(
        np.reshape(at, (at.shape[3], at.shape[2], at.shape[0], at.shape[1])), (2, 3, 1, 0)
    ),
}


def _order(shape: tuple, how: str) -> np.ndarray | None:
    """The origin of each entry of a weight; None if each stays."""
    order = _MIXED[how](np.reshape(np.arange(math.prod(shape)), shape)) if how != "right" else None
    return order if order is not None and order.shape == shape else None


def mixes(shape: tuple, how: str) -> bool:
    """Whether a weight of that shape has its entries mixed up."""
    order = _order(shape, how)
    return order is not None and bool(np.any(np.ravel(order) != np.arange(order.size)))


def _mixed(w, how: str):
    """The weight with its entries mixed up, where its shape allows it, and the way back for a gradient."""
    order = _order(w.shape, how)
    if order is None:
        return w, np.asarray

    def unmix(g):
        out = np.zeros(w.size, g.dtype)
        out[np.ravel(order)] = np.ravel(g)
        return np.reshape(out, w.shape)

    return np.reshape(np.ravel(w)[np.ravel(order)], w.shape), unmix


def _tanh(x, *, held, how):
    if how.activation in ACTIVATIONS["tanh"]:
        return _instead(ACTIVATIONS["tanh"][how.activation], x, held)
    y = np.tanh(x)
    return y, lambda g: (g * (1 - held(y) * held(y)), [])


def _square(x, *, held, how):
    return x * x, lambda g: (g * held(x) * 2, [])


def _relu(x, *, held, how):
    if how.activation in ACTIVATIONS["relu"]:
        return _instead(ACTIVATIONS["relu"][how.activation], x, held)
    above, at_zero = side(x), how.relu_at_zero or how.leak
    slope = (above > 0) + (above == 0) * at_zero if at_zero else (above > 0) * 1
    slope = slope + (above < 0) * how.leak if how.leak else slope
    return x * slope, lambda g: (g * slope, [])  # x * slope: at 0 the derivative of the value is that slope, too


def _softplus(x, *, held, how):
    if how is not None and how.activation in ACTIVATIONS["softplus"]:
        return _instead(ACTIVATIONS["softplus"][how.activation], x, held)
    positive = sign(x) > 0
    small = np.exp(x * np.where(positive, -1, 1))  # e^−|x|
    slope = np.where(positive, 1 / (1 + small), small / (1 + small))
    return x * positive + _log1p(small), lambda g: (g * held(slope), [])


def _log1p(x):
    return np.log(1 + x) if x.dtype == object else np.log1p(x)


# ── other activations, and wrong slopes: x → (y, dy/dx) ─────────────────────────────────────────────────────────────


def _instead(activation, x, held):
    y, slope = activation(x)
    return y, lambda g: (g * held(slope), [])


def _sigmoid(x):
    small = np.exp(x * np.where(sign(x) > 0, -1, 1))  # e^−|x|
    y = np.where(sign(x) > 0, 1 / (1 + small), small / (1 + small))
    return y, y * (1 - y)


def _elu(x):
    positive = side(x) >= 0
    below = np.exp(np.where(positive, 0 * x, x))
    return np.where(positive, x, below - 1), np.where(positive, 0 * x + 1, below)


def _gelu(x):
    half = (1 + erf(x * 0.5**0.5)) / 2  # Φ(x)
    return x * half, half + x * np.exp(x * x * -0.5) * (2 * np.pi) ** -0.5


def _tanh_gelu(x):
    root = (2 / np.pi) ** 0.5
    t = np.tanh((x + x * x * x * 0.044715) * root)
    return x * (1 + t) / 2, (1 + t) / 2 + x * (1 - t * t) * (1 + x * x * (3 * 0.044715)) * root / 2


def _plain_relu(x):
    above = (side(x) > 0) * 1
    return x * above, x * 0 + above


def _crude(slope):
    """tanh with a wrong slope, in its backward and wherever it is differentiated."""

    def crude(x):
        y = np.tanh(hold(x))
        y = bend(x, y, slope(hold(x), y))
        return y, slope(x, y)

    return crude


ACTIVATIONS: dict[str, dict[str, Callable]] = {
    "tanh": {
        "sigmoid for tanh": _sigmoid, "relu for tanh": _plain_relu,
        "tanh slope 1 − x²": _crude(lambda x, y: 1 - x * x), "tanh slope 1 − y": _crude(lambda x, y: 1 - y),
    },
    "relu": {"elu for relu": _elu, "gelu for relu": _gelu, "tanh gelu for relu": _tanh_gelu},
    "softplus": {"relu for softplus": _plain_relu, "elu for softplus": _elu},
}  # fmt: skip


def _conv(x, w, *, held, how, stride, padding):
    (_, rows, columns, _), (kh, kw, _, out) = x.shape, w.shape
    w, unmix = _mixed(w, how.kernel)
    (top, bottom), (left, right) = (
        _around(how.padding, _zeros_around(padding, n, k, stride), k) for n, k in ((rows, kh), (columns, kw))
    )
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    h, v = (padded.shape[1] - kh) // stride + 1, (padded.shape[2] - kw) // stride + 1
    windows = {
        (i, j): (slice(None), slice(i, i + stride * (h - 1) + 1, stride), slice(j, j + stride * (v - 1) + 1, stride))
        for i in range(kh)
        for j in range(kw)
    }
    y = sum(padded[at] @ w[ij] for ij, at in windows.items())

    def back(g):
        gx, gw = np.zeros(padded.shape, np.result_type(g, held(w))), np.zeros(w.shape, np.result_type(g, held(x)))
        flat = np.reshape(g, (-1, out))
        for ij, at in windows.items():
            gx[at] = gx[at] + g @ held(w)[ij].T
            gw[ij] = np.reshape(held(padded)[at], (len(flat), -1)).T @ flat
        return gx[:, top : top + rows, left : left + columns], [unmix(gw)]

    return y, back


def _around(how: str, zeros: tuple[int, int], k: int) -> tuple[int, int]:
    """Zeros before and after, or what code with another padding makes of them."""
    of_filter = (k - 1) // 2, k // 2
    return {"first": zeros[::-1], "none": (0, 0), "both": (k // 2, k // 2), "any stride": of_filter,
            "any stride, first": of_filter[::-1]}.get(how, zeros)  # fmt: skip


def _zeros_around(padding: str | int, n: int, k: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis of length n, for a filter of length k."""
    if padding != "SAME":
        return (0, 0) if padding == "VALID" else (padding, padding)
    out = (n + stride - 1) // stride
    total = max(stride * (out - 1) + k - n, 0)
    return total // 2, (total + 1) // 2  # the odd zero comes last


def _batch_norm(x, gamma, beta, *, held, how, statistics=None):
    over = tuple(range(x.ndim - 1))
    eps = EPS if how.eps is None else how.eps
    scaled, shifted = how.affine in ("right", "no shift"), how.affine in ("right", "no scale")
    affine = lambda y: (y * gamma if scaled else y) + (beta if shifted else 0)  # noqa: E731
    through = lambda g: g * held(gamma) if scaled else g  # noqa: E731
    of_affine = lambda g, y: [np.sum(g * y, over) * int(scaled), np.sum(g, over) * int(shifted)]  # noqa: E731
    if how.running_statistics:
        statistics = (0, 1)
    if statistics is not None:
        mean, variance = statistics
        y, scale = x - mean, 1 / np.sqrt(np.asarray(variance + eps))
        return affine(y * scale), lambda g: (through(g) * scale, of_affine(g, held(y) * scale))
    rows = slice(how.measured)
    n = x[rows].size // x.shape[-1]
    centred = x - np.sum(x[rows], over) / n
    m = n - 1 if how.unbiased else n
    inverse = 1 / np.sqrt(np.sum(centred[rows] * centred[rows], over) / m + eps)

    def back(g):
        inverse_, centred_ = held(inverse), held(centred)
        along = np.sum(through(g) * centred_, over)  # the cotangent of 1/σ
        gx = through(g) * inverse_
        gx[rows] = gx[rows] - centred_[rows] * (inverse_ * inverse_ * inverse_ * along / m)
        gx[rows] = gx[rows] - np.sum(gx, over) / n
        return gx, of_affine(g, centred_ * inverse_)

    return affine(centred * inverse), back


def _max_pool(x, *, held, how, size):
    n, h, w, c = x.shape
    rows, columns = h // size, w // size
    inside = np.reshape(x[:, : rows * size, : columns * size], (n, rows, size, columns, size, c))
    windows = np.reshape(np.transpose(inside, (0, 1, 3, 5, 2, 4)), (n, rows, columns, c, size * size))
    if how.pool == "mean":
        share = np.ones(windows.shape, int)
        return np.sum(windows, -1) / size**2, lambda g: (_unpooled(x, held(g)[..., None] * share / size**2, size), [])
    best, where = windows[..., 0], np.zeros((n, rows, columns, c), np.int64)
    for k in range(1, size * size):
        above = side(windows[..., k] - best)
        better = above >= 0 if how.ties == "last" else above > 0
        best, where = np.where(better, windows[..., k], best), np.where(better, k, where)
    winner = np.arange(size * size) == where[..., None]
    share = winner * 1
    if how.ties == "split":
        tied = side(np.where(winner, 0, windows - best[..., None])) == 0
        share = tied / np.sum(tied, -1, keepdims=True)
        best = np.sum(windows * share, -1)  # the same value, with the derivative that is shared

    return best, lambda g: (_unpooled(x, held(g)[..., None] * share, size), [])


def _unpooled(x, windows, size):
    """The windows' entries back in their places."""
    n, rows, columns, c, _ = windows.shape
    spread = np.transpose(np.reshape(windows, (n, rows, columns, c, size, size)), (0, 1, 4, 2, 5, 3))
    gx = np.zeros(x.shape, windows.dtype)
    gx[:, : rows * size, : columns * size] = np.reshape(spread, (n, rows * size, columns * size, c))
    return gx


def _flatten(x, *, held, how):
    if how.flatten == "channels first" and x.ndim == 4:
        turned = np.transpose(x, (0, 3, 1, 2))
        return np.reshape(turned, (len(x), -1)), lambda g: (
            np.transpose(np.reshape(g, turned.shape), (0, 2, 3, 1)), [],
        )  # fmt: skip
    return np.reshape(x, (len(x), -1)), lambda g: (np.reshape(g, x.shape), [])


def _spatial_mean(x, *, held, how):
    cells = x.shape[1] * x.shape[2]
    return np.sum(x, (1, 2)) / cells, lambda g: (np.zeros(x.shape, int) + g[:, None, None] / cells, [])


def _polynomial(x, theta, *, held, how):
    powers = [x[:, 0] * 0 + 1]  # θ⁰, θ¹, …
    for _ in range(x.shape[1] - 1):
        powers.append(powers[-1] * theta)

    def back(g):
        slopes = sum(d * x[:, d] * held(powers[d - 1]) for d in range(1, x.shape[1]))
        return None, [np.sum(g * slopes)]

    return sum(x[:, d] * p for d, p in enumerate(powers)), back


def _quadratic(x, theta, *, held, how):
    a, b = x[:, :, :-1], x[:, :, -1]
    product = a @ theta
    return np.sum(theta * (product / 2 - b), 1), lambda g: (None, [np.sum(g[:, None] * (held(product) - b), 0)])


def _context(x, phi, *, held, how):
    inputs, over = x.shape[-1], tuple(range(x.ndim - 1))
    behind = np.broadcast_to(phi, (*x.shape[:-1], len(phi)))
    return np.concatenate([x, behind], -1), lambda g: (g[..., :inputs], [np.sum(g[..., inputs:], over)])


_LAYERS = {
    "linear": _linear, "conv": _conv, "batch_norm": _batch_norm, "tanh": _tanh, "relu": _relu, "softplus": _softplus,
    "square": _square, "max_pool": _max_pool, "flatten": _flatten, "spatial_mean": _spatial_mean,
    "polynomial": _polynomial, "quadratic": _quadratic, "context": _context,
}  # fmt: skip


# ── losses: output and target → (value, its gradient with respect to the output) ────────────────────────────────────


def _mse(o, y, held, how):
    return np.sum((o - y) * (o - y)) / o.size * how.unit, (held(o) - y) * (2 * how.unit) / o.size


def _half_mse(o, y, held, how):
    return np.sum((o - y) * (o - y)) / (2 * o.size), (held(o) - y) / o.size


def _mean(o, y, held, how):
    return np.sum(o) / o.size, np.ones(o.shape, int) / (o * 0 + o.size)


def _log_softmax(o, axis: int = 1) -> tuple:
    """(log p, p) over an axis; the largest output is subtracted, which cancels."""
    o = np.moveaxis(o, axis, -1)
    best = np.array(o[..., 0])
    for k in range(1, o.shape[-1]):
        best = np.where(sign(o[..., k] - best) > 0, o[..., k], best)
    z = o - hold(best)[..., None]
    exps = np.exp(z)
    total = np.sum(exps, -1, keepdims=True)
    return np.moveaxis(z - np.log(total), -1, axis), np.moveaxis(exps / total, -1, axis)


def _wanted(o, y, how):
    """The target distribution of the labels over classes: one-hot, or smoothed."""
    right = (np.arange(o.shape[1]) == y[:, None]) * 1
    return right if not how.smoothing else right * (1 - how.smoothing) + o * 0 + how.smoothing / o.shape[1]


def _cross_entropy(o, y, held, how):
    log_p, p = _log_softmax(o)
    wanted = _wanted(hold(o), y, how)
    if how.log_epsilon:
        # −log(p + ε),   ∂/∂p = −1 / (p + ε)
        return _of_probabilities(np.log(p + how.log_epsilon), -wanted / (p + how.log_epsilon), wanted, p, held)
    return -np.sum(log_p * wanted) / len(o), (held(p) - wanted) / len(o)


def _of_probabilities(values, slopes, wanted, p, held):
    """−mean Σ wanted · values(p), from the slopes over p and through the softmax over classes."""
    return -np.sum(values * wanted) / len(p), held(_through_softmax(slopes, p)) / len(p)


def _through_softmax(g, p, axis: int = 1):
    return p * (g - np.sum(g * p, axis, keepdims=True))


def _softmax_twice(o, y, held, how):
    _, p = _log_softmax(o)
    value, g = _cross_entropy(p, y, np.asarray, how)
    return value, held(_through_softmax(g, p))


def _softmax_over_examples(o, y, held, how):
    log_p, p = _log_softmax(o, 0)
    wanted = _wanted(hold(o), y, how)
    return -np.sum(log_p * wanted) / len(o), held(p * np.sum(wanted, 0) - wanted) / len(o)


def _log_missing(o, y, held, how):
    _, p = _log_softmax(o)
    wanted = _wanted(hold(o), y, how)
    return _of_probabilities(p, -wanted + p * 0, wanted, p, held)


def _softmax_missing(o, y, held, how):
    wanted = _wanted(hold(o), y, how)
    return -np.sum(o * wanted) / len(o), -wanted / (hold(o) * 0 + len(o))


def _class_averaged(o, y, held, how):
    log_p, p = _log_softmax(o)
    wanted = _wanted(hold(o), y, how)
    counts = np.array([np.sum(y == k) for k in range(o.shape[1])])
    weight = (1 / (hold(o)[0, 0] * 0 + counts[y] * np.sum(counts > 0)))[:, None]  # 1 / (N_class · classes)
    return -np.sum(log_p * wanted * weight), (held(p) - wanted) * weight


def _squared_probabilities(o, y, held, how):
    _, p = _log_softmax(o)
    off = p - _wanted(hold(o), y, how)
    return np.sum(off * off) / o.size, held(_through_softmax(off * 2, p)) / o.size


def _one_against_the_rest(o, y, held, how):
    return _binary_cross_entropy(o, _wanted(hold(o), y, how), held, how)


def _binary_cross_entropy(o, y, held, how):
    if how.smoothing:
        y = y * (1 - how.smoothing) + how.smoothing / 2
    if how.log_epsilon:
        # −y log(p + ε) − (1 − y) log(1 − p + ε)
        (p, slope), e = _sigmoid(o), how.log_epsilon
        value = -y * np.log(p + e) - (1 - y) * np.log(1 - p + e)
        return np.sum(value) / o.size, held(((1 - y) / (1 - p + e) - y / (p + e)) * slope) / o.size
    value, back = _softplus(o, held=held, how=None)
    return np.sum(value - y * o) / o.size, (back(np.ones(o.shape, int))[0] - y) / o.size


def _sigmoid_twice(o, y, held, how):
    p, slope = _sigmoid(o)
    value, g = _binary_cross_entropy(p, y, np.asarray, how)
    return value, held(g * slope)


def _squared_sigmoid(o, y, held, how):
    p, slope = _sigmoid(o)
    return np.sum((p - y) * (p - y)) / o.size, held((p - y) * slope * 2) / o.size


def _absolute(o, y, held, how):
    which = side(o - y)
    return np.sum((o - y) * which) / o.size, which / (hold(o) * 0 + o.size)


def _huber(o, y, held, how):
    # ½ r² within δ, δ (|r| − ½ δ) beyond
    r, delta = o - y, how.delta
    which = side(r)
    inside = side(r * which - delta) <= 0
    value = np.where(inside, r * r / 2, (r * which - delta / 2) * delta)
    return np.sum(value) / o.size, np.where(inside, held(r), hold(r) * 0 + which * delta) / o.size


def _root(o, y, held, how):
    value, g = _mse(o, y, np.asarray, how)
    root = np.sqrt(np.asarray(value))
    return root, held(g / (root * 2))


def _summed_over_outputs(o, y, held, how):
    value, g = _mse(o, y, held, how)
    outputs = o.size // len(o)
    return value * outputs, g * outputs


def _all_pairs(o, y, held, how):
    """(N, 1) − (N,) is (N, N): every output against every target. With several outputs nothing is broadcast."""
    n = o.size
    if n > len(o):
        return _mse(o, y, held, how)
    off = np.reshape(o, (n, 1)) - np.reshape(y, (1, n))
    value = np.sum(off * off) / n**2
    return value * how.unit, np.reshape(np.sum(held(off), 1), o.shape) * (2 * how.unit) / n**2


_LOSSES = {
    "mse": _mse, "half_mse": _half_mse, "mean": _mean, "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
}  # fmt: skip

# ── policies: output and actions → (log π, its pullback to the output) ──────────────────────────────────────────────


HALF_LOG_2PI = 0.9189385332046727  # ½ log 2π


def _categorical(o, y):
    log_p, p = _log_softmax(o)
    chosen = (np.arange(o.shape[1]) == np.array([int(float(a)) for a in y[:, 0]])[:, None]) * 1
    return np.sum(log_p * chosen, 1), lambda c: c[:, None] * (chosen - p)


def _gaussian(o, y):
    mean, log_std = o[:, 0], o[:, 1]
    inverse = np.exp(-log_std)
    z = (y[:, 0] - mean) * inverse
    # log π = −z²/2 − log σ − ½ log 2π
    return -z * z / 2 - log_std - HALF_LOG_2PI, lambda c: np.stack([c * z * inverse, c * (z * z - 1)], 1)


_POLICIES = {"categorical": _categorical, "gaussian": _gaussian}


# Wrong losses, by the right one.
def _averaged_over_classes(o, y, held, how):
    value, g = _cross_entropy(o, y, held, how)
    return value / o.shape[1], g / o.shape[1]


IN_PLACE_OF: dict[str, dict[str, Callable]] = {
    "cross_entropy": {
        "softmax twice": _softmax_twice, "softmax over examples": _softmax_over_examples, "log missing": _log_missing,
        "softmax missing": _softmax_missing, "class averaged": _class_averaged,
        "squared error of probabilities": _squared_probabilities, "one against the rest": _one_against_the_rest,
        "averaged over classes": _averaged_over_classes,
    },
    "binary_cross_entropy": {
        "sigmoid twice": _sigmoid_twice, "squared error of probabilities": _squared_sigmoid,
    },
    "mse": {
        "absolute": _absolute, "root": _root, "summed over outputs": _summed_over_outputs, "all pairs": _all_pairs,
    },
}  # fmt: skip


def _loss(name: str, how: Options) -> Callable:
    if how.delta and name == "mse":
        return _huber
    loss = IN_PLACE_OF.get(name, {}).get(how.loss, _LOSSES[name])
    return _cooled(loss) if how.temperature and name != "mse" else loss


def _cooled(loss: Callable) -> Callable:
    """L(o / τ)"""

    def of_logits(o, y, held, how):
        value, g = loss(o / how.temperature, y, held, how)
        return value, g / how.temperature

    return of_logits


# ── the whole model ─────────────────────────────────────────────────────────────────────────────────────────────────


def _settings(layer: dict) -> dict:
    return {k: v for k, v in layer.items() if k not in ("layer", "params")}


def biases(model: dict) -> list[str]:
    """Names of the parameters that are added."""
    return [p for m in model["layers"] if m["layer"] in ("linear", "batch_norm")
            for p in m["params"][-1:] if len(m["params"]) > 1]  # fmt: skip


def _forward(model: dict, params: dict, x, how: Options, seen: dict | None = None) -> tuple:
    """The output, and each layer's parameters and pullback. `seen` takes what reaches each batch norm."""
    pullbacks = []
    unused = {"missing": biases(model), "first missing": biases(model)[:1]}.get(how.biases, [])
    for layer in model["layers"]:
        name, used = layer["layer"], layer.get("params", [])
        settings = _settings(layer)
        if name == "batch_norm":
            settings["statistics"] = (how.statistics or {}).get(used[0])
            if seen is not None:
                seen[used[0]] = hold(x)
        held = hold if name in how.frozen else np.asarray
        arrays = [params[p] * 0 if p in unused else params[p] for p in used]
        x, back = _LAYERS[name](x, *arrays, held=held, how=how, **settings)
        pullbacks.append((used, back))
    return x, pullbacks, unused


def loss_and_grad(
    model: dict, params: dict, x, y, how: Options = Options(), gradient: bool = True, rows: slice | None = None,  # noqa: B008
) -> tuple:  # fmt: skip
    """The loss of one task and its gradient, {name: array} (or None), by backpropagation over any numbers.

    `rows`: those of the batch that the loss is about, if not all are.
    """
    x, pullbacks, unused = _forward(model, params, x, how)
    outputs = x if rows is None else x[rows]
    value, g = _loss(model["loss"], how)(outputs, y, hold if "loss" in how.frozen else np.asarray, how)
    if how.penalty:
        value = value + sum(np.sum(p * p) for p in params.values()) * (how.penalty / 2)
    if not gradient:
        return value, None
    if rows is not None:
        g, part = np.zeros(x.shape, np.asarray(g).dtype), g
        g[rows] = part
    grads = _back(params, pullbacks, unused, g, how)
    return value, grads


def _back(params: dict, pullbacks: list, unused: list, g, how: Options) -> dict:
    """The gradient, {name: array}, from the cotangent g of the output."""
    grads = {name: p * how.penalty if how.penalty else p * 0 for name, p in params.items()}
    seen = set()
    for used, back in reversed(pullbacks):
        g, of_params = back(g)
        for name, gp in zip(used, of_params, strict=True):
            if not (how.last_use_only and name in seen) and name not in unused:
                grads[name] = np.reshape(np.asarray(grads[name] + gp), np.shape(params[name]))
            seen.add(name)
    return grads


def log_policy(model: dict, params: dict, x, y, how: Options = Options()) -> tuple:  # noqa: B008
    """log π of each step's action y[:, 0], (N), and its pullback: cotangents (N) → {name: array}, over any numbers."""
    o, pullbacks, unused = _forward(model, params, x, how)
    logp, of_output = _POLICIES[model["loss"]](o, y)
    return logp, lambda c: _back(params, pullbacks, unused, of_output(c), how)


def batch_statistics(model: dict, params: dict, x, how: Options) -> dict[str, tuple]:
    """(mean, biased variance, count) of what reaches each batch norm, by the name of its first parameter."""
    seen: dict = {}
    _forward(model, params, x, how, seen)
    out = {}
    for name, z in seen.items():
        over, n = tuple(range(z.ndim - 1)), z.size // z.shape[-1]
        mean = np.sum(z, over) / n
        out[name] = (mean, np.sum((z - mean) * (z - mean), over) / n, n)
    return out


def outputs(model: dict, params: dict, x, how: Options = Options()):  # noqa: B008
    """o, what the layers make of x, over any numbers."""
    return _forward(model, params, x, how)[0]


def output_gradient(model: dict, o, y):
    """∂loss/∂o."""
    return _LOSSES[model["loss"]](o, y, np.asarray, Options())[1]


# ── in a library: the forward pass alone ────────────────────────────────────────────────────────────────────────────


class NumPy:
    """Layers on NumPy arrays, and on tinymaml's tensors."""

    mean, sum, sqrt, tanh, reshape, relu, softplus, cross_entropy = map(
        staticmethod, (np.mean, np.sum, np.sqrt, np.tanh, np.reshape, nn.relu, nn.softplus, nn.cross_entropy)
    )
    concatenate, broadcast_to = staticmethod(np.concatenate), staticmethod(np.broadcast_to)
    exp, where, arange = staticmethod(np.exp), staticmethod(np.where), staticmethod(np.arange)

    def conv(self, x, w, stride, padding):
        return nn.conv2d(x, w, stride, padding)

    def max_pool(self, x, size):
        return nn.max_pool2d(x, size)

    # What follows is the same in every library.

    def linear(self, x, w, b=None):
        return x @ w if b is None else x @ w + b

    def square(self, x):
        return x * x

    def batch_norm(self, x, gamma, beta):
        over = tuple(range(x.ndim - 1))
        centred = x - self.mean(x, over)
        return centred / self.sqrt(self.mean(centred * centred, over) + EPS) * gamma + beta

    def flatten(self, x):
        return self.reshape(x, (x.shape[0], -1))

    def spatial_mean(self, x):
        return self.mean(x, (1, 2))

    def polynomial(self, x, theta):
        total = x[:, -1]
        for d in range(x.shape[1] - 2, -1, -1):
            total = total * theta + x[:, d]
        return total

    def quadratic(self, x, theta):
        return self.sum(theta * ((x[:, :, :-1] @ theta) / 2 - x[:, :, -1]), 1)

    def context(self, x, phi):
        return self.concatenate([x, self.broadcast_to(phi, (*x.shape[:-1], phi.shape[0]))], -1)

    def mse(self, o, y):
        return self.mean((o - y) ** 2)

    def half_mse(self, o, y):
        return self.mean((o - y) ** 2) / 2

    def binary_cross_entropy(self, o, y):
        return self.mean(self.softplus(o) - y * o)

    def categorical(self, o, y):
        chosen = y[..., :1] == self.arange(o.shape[-1])
        return self.sum(self.where(chosen, self.log_softmax(o), 0.0), -1)

    def gaussian(self, o, y):
        mean, log_std = o[..., 0], o[..., 1]
        z = (y[..., 0] - mean) * self.exp(-log_std)
        return -z * z / 2 - log_std - HALF_LOG_2PI

    def log_softmax(self, o):
        z = o - stop_gradient(np.max(o, -1, keepdims=True))
        return z - np.log(np.sum(np.exp(z), -1, keepdims=True))


class Torch(NumPy):
    """Layers on PyTorch tensors; nothing that `torch.func` could not transform."""

    def __init__(self):
        import torch

        self.mean, self.sum, self.sqrt, self.tanh, self.reshape = (
            torch.mean, torch.sum, torch.sqrt, torch.tanh, torch.reshape,
        )  # fmt: skip
        self.concatenate, self.broadcast_to = torch.concatenate, torch.broadcast_to
        self.exp, self.where, self.arange = torch.exp, torch.where, torch.arange
        self.log_softmax = lambda o: torch.log_softmax(o, -1)
        f = torch.nn.functional
        self.relu, self.cross_entropy, self._f = f.relu, f.cross_entropy, f
        self.softplus = lambda x: f.softplus(x, threshold=40)  # beyond, it is x to rounding (by default beyond 20)

    def conv(self, x, w, stride, padding):
        (top, bottom), (left, right) = (
            _zeros_around(padding, n, k, stride) for n, k in zip(x.shape[1:3], w.shape[:2], strict=True)
        )
        x = self._f.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom))
        return self._f.conv2d(x, w.permute(3, 2, 0, 1), stride=stride).permute(0, 2, 3, 1)

    def max_pool(self, x, size):
        return self._f.max_pool2d(x.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)


class JAX(NumPy):
    """Layers on JAX arrays."""

    def __init__(self):
        import jax

        jnp = jax.numpy
        self.mean, self.sum, self.sqrt, self.tanh, self.reshape = jnp.mean, jnp.sum, jnp.sqrt, jnp.tanh, jnp.reshape
        self.concatenate, self.broadcast_to = jnp.concatenate, jnp.broadcast_to
        self.exp, self.where, self.arange, self.log_softmax = jnp.exp, jnp.where, jnp.arange, jax.nn.log_softmax
        self.relu, self._jax = jax.nn.relu, jax
        self.softplus = lambda x: jnp.logaddexp(x, 0)

    def cross_entropy(self, o, y):
        log_p = self._jax.nn.log_softmax(o)
        return -self.mean(self._jax.numpy.take_along_axis(log_p, y[:, None], 1))

    def conv(self, x, w, stride, padding):
        return self._jax.lax.conv_general_dilated(
            x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def max_pool(self, x, size):
        jax, window = self._jax, (1, size, size, 1)
        return jax.lax.reduce_window(x, -jax.numpy.inf, jax.lax.max, window, window, "VALID")


def loss_in(library: NumPy, model: dict) -> Callable:
    """`loss(params, x, y)` → a scalar, the loss of one task, on that library's arrays."""

    def loss(params, x, y):
        for layer in model["layers"]:
            used = [params[name] for name in layer.get("params", [])]
            x = getattr(library, layer["layer"])(x, *used, **_settings(layer))
        return library.mean(x) if model["loss"] == "mean" else getattr(library, model["loss"])(x, y)

    return loss


def in_words(model: dict) -> str:
    """The model as formulas, for a person: `x → x @ w + b → tanh → … ; loss = mean((o − y)²)`."""
    words = {
        "linear": lambda p, s: " + ".join([f"x @ {p[0]}", *p[1:]]),
        "conv": lambda p, s: f"conv(x, {p[0]}, stride {s['stride']}, {s['padding']})",
        "batch_norm": lambda p, s: f"batch_norm(x) * {p[0]} + {p[1]} (batch statistics, biased, ε = 2⁻¹⁰)",
        "max_pool": lambda p, s: f"max_pool {s['size']}×{s['size']}",
        "polynomial": lambda p, s: f"Σ_d x_d {p[0]}^d",
        "quadratic": lambda p, s: f"½ {p[0]}ᵀA {p[0]} − bᵀ{p[0]}, x = [A b]",
        "context": lambda p, s: f"[x {p[0]}]",
    }
    losses = {
        "mse": "mean (o − y)²", "half_mse": "mean ½(o − y)²", "mean": "mean o",
        "cross_entropy": "mean (log Σ exp o − o_y)", "binary_cross_entropy": "mean (log(1 + exp o) − y o)",
    }  # fmt: skip
    policies = {
        "categorical": "log π = o_a − log Σ exp o, a = y[0]",
        "gaussian": "log π = −z²/2 − log σ − ½ log 2π, z = (y[0] − μ)/σ, o = [μ  log σ]",
    }
    layers = [words.get(m["layer"], lambda p, s, m=m: m["layer"])(m.get("params", []), m) for m in model["layers"]]
    end = policies.get(model["loss"]) or f"loss = {losses[model['loss']]}"
    return " → ".join(layers) + f";  {end}"
