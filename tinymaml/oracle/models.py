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
from collections.abc import Callable

import numpy as np

from .. import nn
from .arithmetic import hold, side, sign

EPS = 2.0**-10  # of batch norm: exact in float32, so that every dtype runs the same model


@dataclasses.dataclass(frozen=True)
class Options:
    """How the layers behave; what differs from the default is a convention, or a bug.

    Attributes:
        relu_at_zero: the slope of ReLU at 0.
        ties: who gets the derivative of a tie in max_pool: "first", "last" or "split".
        unbiased: batch norm divides by n − 1.
        running_statistics: batch norm uses mean 0 and variance 1 (a fresh network's, in evaluation mode).
        frozen: layers (or "loss") whose backward holds what it saved constant, so that its own derivative is missing.
        last_use_only: of a parameter used twice, only the last use gets a gradient.
        unit: the squared error is multiplied by this: ½ for "half the squared error".
    """

    relu_at_zero: float = 0.0
    ties: str = "first"
    unbiased: bool = False
    running_statistics: bool = False
    frozen: frozenset[str] = frozenset()
    last_use_only: bool = False
    unit: float = 1.0


# ── by hand: each layer returns its output and its pullback  g ↦ (cotangent of x, cotangents of the parameters) ─────


def _linear(x, w, b=None, *, held, how):
    def back(g):
        return g @ held(w).T, [held(x).T @ g] + ([] if b is None else [np.sum(g, 0)])

    return (x @ w if b is None else x @ w + b), back


def _tanh(x, *, held, how):
    y = np.tanh(x)
    return y, lambda g: (g * (1 - held(y) * held(y)), [])


def _square(x, *, held, how):
    return x * x, lambda g: (g * held(x) * 2, [])


def _relu(x, *, held, how):
    above = side(x)
    slope = (above > 0) * 1 if how.relu_at_zero == 0 else (above > 0) + how.relu_at_zero * (above == 0)
    return x * slope, lambda g: (g * slope, [])  # x * slope: at 0 the derivative of the value is that slope, too


def _softplus(x, *, held, how):
    positive = sign(x) > 0
    small = np.exp(x * np.where(positive, -1, 1))  # e^−|x|
    slope = np.where(positive, 1 / (1 + small), small / (1 + small))
    return x * positive + _log1p(small), lambda g: (g * held(slope), [])


def _log1p(x):
    return np.log(1 + x) if x.dtype == object else np.log1p(x)


def _conv(x, w, *, held, how, stride, padding):
    (_, rows, columns, _), (kh, kw, _, out) = x.shape, w.shape
    (top, bottom), (left, right) = (_zeros_around(padding, n, k, stride) for n, k in ((rows, kh), (columns, kw)))
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
        return gx[:, top : top + rows, left : left + columns], [gw]

    return y, back


def _zeros_around(padding: str | int, n: int, k: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis of length n, for a filter of length k."""
    if padding != "SAME":
        return (0, 0) if padding == "VALID" else (padding, padding)
    out = (n + stride - 1) // stride
    total = max(stride * (out - 1) + k - n, 0)
    return total // 2, (total + 1) // 2  # the odd zero comes last


def _batch_norm(x, gamma, beta, *, held, how):
    over = tuple(range(x.ndim - 1))
    n = x.size // x.shape[-1]
    if how.running_statistics:
        scale = 1 / (1 + EPS) ** 0.5
        return x * scale * gamma + beta, lambda g: (
            g * (held(gamma) * scale),
            [np.sum(g * held(x) * scale, over), np.sum(g, over)],
        )
    centred = x - np.sum(x, over) / n
    m = n - 1 if how.unbiased else n
    inverse = 1 / np.sqrt(np.sum(centred * centred, over) / m + EPS)

    def back(g):
        inverse_, centred_ = held(inverse), held(centred)
        along = np.sum(g * held(gamma) * centred_, over)  # the cotangent of 1/σ
        gx = g * held(gamma) * inverse_ - centred_ * (inverse_ * inverse_ * inverse_ * along / m)
        return gx - np.sum(gx, over) / n, [np.sum(g * (centred_ * inverse_), over), np.sum(g, over)]

    return centred * inverse * gamma + beta, back


def _max_pool(x, *, held, how, size):
    n, h, w, c = x.shape
    rows, columns = h // size, w // size
    inside = np.reshape(x[:, : rows * size, : columns * size], (n, rows, size, columns, size, c))
    windows = np.reshape(np.transpose(inside, (0, 1, 3, 5, 2, 4)), (n, rows, columns, c, size * size))
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

    def back(g):
        spread = np.reshape(held(g)[..., None] * share, (n, rows, columns, c, size, size))
        gx = np.zeros(x.shape, spread.dtype)
        gx[:, : rows * size, : columns * size] = np.reshape(
            np.transpose(spread, (0, 1, 4, 2, 5, 3)), (n, rows * size, columns * size, c)
        )
        return gx, []

    return best, back


def _flatten(x, *, held, how):
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


def _mse(o, y, held):
    return np.sum((o - y) * (o - y)) / o.size, (held(o) - y) * 2 / o.size


def _half_mse(o, y, held):
    return np.sum((o - y) * (o - y)) / (2 * o.size), (held(o) - y) / o.size


def _mean(o, y, held):
    return np.sum(o) / o.size, np.ones(o.shape, int) / (o * 0 + o.size)


def _cross_entropy(o, y, held):
    best = np.array(o[:, 0])
    for k in range(1, o.shape[1]):
        best = np.where(sign(o[:, k] - best) > 0, o[:, k], best)
    z = o - hold(best)[:, None]  # the shift cancels
    exps = np.exp(z)
    total = np.sum(exps, 1)
    right = np.arange(o.shape[1]) == y[:, None]
    p = held(exps / total[:, None])
    return np.sum(np.log(total) - np.sum(z * right, 1)) / len(o), (p - right * 1) / len(o)


def _binary_cross_entropy(o, y, held):
    value, back = _softplus(o, held=held, how=None)
    return np.sum(value - y * o) / o.size, (back(np.ones(o.shape, int))[0] - y) / o.size


_LOSSES = {
    "mse": _mse, "half_mse": _half_mse, "mean": _mean, "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
}  # fmt: skip


def _settings(layer: dict) -> dict:
    return {k: v for k, v in layer.items() if k not in ("layer", "params")}


def loss_and_grad(model: dict, params: dict, x, y, how: Options = Options(), gradient: bool = True) -> tuple:  # noqa: B008
    """The loss of one task and its gradient, {name: array} (or None), by backpropagation over any numbers."""
    holding = lambda name: hold if name in how.frozen else np.asarray  # noqa: E731
    pullbacks = []
    for layer in model["layers"]:
        name, used = layer["layer"], layer.get("params", [])
        x, back = _LAYERS[name](x, *(params[p] for p in used), held=holding(name), how=how, **_settings(layer))
        pullbacks.append((used, back))
    value, g = _LOSSES[model["loss"]](x, y, holding("loss"))
    unit = how.unit if model["loss"] == "mse" else 1
    if not gradient:
        return value * unit, None
    grads = {name: p * 0 for name, p in params.items()}
    seen = set()
    for used, back in reversed(pullbacks):
        g, of_params = back(g)
        for name, gp in zip(used, of_params, strict=True):
            if not (how.last_use_only and name in seen):
                grads[name] = np.reshape(np.asarray(grads[name] + gp), np.shape(params[name]))
            seen.add(name)
    if unit != 1:
        value, grads = value * unit, {name: g * unit for name, g in grads.items()}
    return value, grads


def outputs(model: dict, params: dict, x, how: Options = Options()):  # noqa: B008
    """o, what the layers make of x, over any numbers."""
    for layer in model["layers"]:
        used = [params[name] for name in layer.get("params", [])]
        x, _ = _LAYERS[layer["layer"]](x, *used, held=np.asarray, how=how, **_settings(layer))
    return x


def output_gradient(model: dict, o, y):
    """∂loss/∂o."""
    return _LOSSES[model["loss"]](o, y, np.asarray)[1]


# ── in a library: the forward pass alone ────────────────────────────────────────────────────────────────────────────


class NumPy:
    """Layers on NumPy arrays, and on tinymaml's tensors."""

    mean, sum, sqrt, tanh, reshape, relu, softplus, cross_entropy = map(
        staticmethod, (np.mean, np.sum, np.sqrt, np.tanh, np.reshape, nn.relu, nn.softplus, nn.cross_entropy)
    )
    concatenate, broadcast_to = staticmethod(np.concatenate), staticmethod(np.broadcast_to)

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


class Torch(NumPy):
    """Layers on PyTorch tensors; nothing that `torch.func` could not transform."""

    def __init__(self):
        import torch

        self.mean, self.sum, self.sqrt, self.tanh, self.reshape = (
            torch.mean, torch.sum, torch.sqrt, torch.tanh, torch.reshape,
        )  # fmt: skip
        self.concatenate, self.broadcast_to = torch.concatenate, torch.broadcast_to
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
    layers = [words.get(m["layer"], lambda p, s, m=m: m["layer"])(m.get("params", []), m) for m in model["layers"]]
    return " → ".join(layers) + f";  loss = {losses[model['loss']]}"
