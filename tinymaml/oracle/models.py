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
`activations` and `losses` have theirs; `Options` say what code does otherwise.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator

import numpy as np

from .. import nn
from ..engine import stop_gradient
from .activations import ACTIVATIONS, instead_of, softplus
from .arithmetic import hold, side
from .arrangements import arranged
from .losses import LOSSES as _LOSSES
from .losses import log_softmax, loss_named

EPS = 2.0**-10  # of batch norm: exact in float32, so that every dtype runs the same model


@dataclasses.dataclass(frozen=True)
class Options:
    """How the layers and losses behave; what differs from the default is a convention, or a bug.

    Attributes:
        network: which layers the code has; see `arrangements`.
        relu_at_zero: the slope of ReLU at 0.
        ties: who gets the derivative of a tie in max_pool: "first", "last" or "split".
        unbiased: batch norm divides by n − 1.
        running_statistics: batch norm uses mean 0 and variance 1 (a fresh network's, in evaluation mode).
        statistics: batch norm uses these, {its first parameter's name: (mean, variance)}.
        measured: batch norm takes the statistics of so many first rows of the batch.
        eps: batch norm's ε; None for the model's.
        affine: "right"; "no scale", "no shift" or "neither": batch norm without γ or β; "1 + γ"; "exchanged", γ and β;
            "shift first", (y + β) γ.
        norm: "batch"; what else normalises in its place, or how: see `_OVER`, `_CONSTANT` and `_batch_norm`. Of its
            backward alone: "backward without γ", "backward without 1/σ", "dγ of x", "dγ and dβ averaged".
        frozen: layers (or "loss", or one loss by name) whose backward holds what it saved constant, so that its own
            derivative is missing; or one factor of it, "linear w": see `_holding`.
        derived: how a gradient that has a wrong rule in it is differentiated again. "as a graph": the rule is a custom
            function's, and stands for the function's derivative everywhere; "forwards": the gradient is written by
            hand, and H v is its derivative along v; "backwards": the same, and H v is the transpose's product.
        updating: (layers, {name: α}): these layers are updated in the backward pass, before what comes back goes
            through them; no layers for all.
        weights: parameters, {name: array}, that stand in the place of the network's own where its gradient is
            differentiated: they were overwritten when the gradient's graph had saved them.
        tied: of a parameter used twice "every use" gets a gradient; "the last use" alone, "the first use" alone; or a
            use is cut from the graph, "the first detached", "the last detached".
        unit: the squared error is multiplied by this: ½ for "half the squared error".
        loss_times: any loss is multiplied by this; 0 for none.
        loss: which wrong loss stands in the place of the right one; see `losses.IN_PLACE_OF`.
        smoothing, log_epsilon: ε of label smoothing, ε inside the logarithm; 0 for none.
        delta: δ of Huber's loss and its like, or what is added under a root; 0 for none.
        smoothing_like: where ε goes: "over all" classes, or "over the others"; "of several classes": over all, and
            labels 0 and 1 stay.
        clamped: ε of probabilities kept within [ε, 1 − ε];   focus: γ of focal loss;   entropy: c of − c H in the loss;
            positive: w, the weight of the positive class; 0 for none.
        temperature: τ, by which logits are divided before the softmax or sigmoid; 0 for none.
        penalty: λ of a penalty in the loss.
        layer_decay: λ of λ w, which the backward of a linear layer adds to its weight's gradient; 0 for none.
        penalty_like: ½ λ Σ p² of "all" parameters, or of "weights" alone (no vectors); "absolute": λ Σ |p|.
        activation: "sigmoid for tanh" and its like; see `activations`.   leak: the slope of ReLU below 0.
        sharpness: β of log(1 + e^βx) / β in softplus; 0 for 1.
        through: what the backward of a linear layer sends its cotangent through in the place of wᵀ: see `_THROUGH`.
        kernel, weight: what is done to the entries of a convolution's filters and of a matrix; see `_MIXED`, `_weight`.
        padding: "right"; "first" (the odd zero comes first); "none"; "both" (k // 2 zeros on each side); "any stride"
            and "any stride, first": zeros as for stride 1; "edge", "reflect" or "wrap": no zeros, but pixels.
        pool: "max"; "mean", "sum"; "ceil" (a window over the edge counts), "stride 1" (windows overlap).
        biases: "right"; "averaged in the gradient", over examples and not summed, by linear layers, or "averaged, and
            weights, in the gradient"; see `_BIASES`.
        inputs: "right"; "before the activation": the weight's gradient in a linear layer has the input of the
            activation before it in the place of its output.
        flatten: "right", (h, w, c); see `_FLATTENED`.
    """

    network: str = "right"
    relu_at_zero: float = 0.0
    ties: str = "first"
    unbiased: bool = False
    running_statistics: bool = False
    statistics: dict | None = None
    measured: int | None = None
    eps: float | None = None
    affine: str = "right"
    norm: str = "batch"
    frozen: frozenset[str] = frozenset()
    derived: str = "as a graph"
    updating: tuple | None = None
    weights: dict | None = None
    tied: str = "every use"
    unit: float = 1
    loss_times: float = 0.0
    loss: str = "right"
    smoothing: float = 0.0
    smoothing_like: str = "over all"
    log_epsilon: float = 0.0
    delta: float = 0.0
    clamped: float = 0.0
    focus: float = 0.0
    entropy: float = 0.0
    positive: float = 0.0
    temperature: float = 0.0
    penalty: float = 0.0
    penalty_like: str = "all"
    layer_decay: float = 0.0
    activation: str = "right"
    leak: float = 0.0
    sharpness: float = 0.0
    through: str = "right"
    kernel: str = "right"
    weight: str = "right"
    padding: str = "right"
    pool: str = "max"
    biases: str = "right"
    inputs: str = "right"
    flatten: str = "right"


# ── by hand: each layer returns its output and its pullback  g ↦ (cotangent of x, cotangents of the parameters) ─────


# The two ways in which a factor can be missing from the gradient's derivative, Jᵀv by backpropagation twice and Jv
# forwards, change places under transposition: what is held in one of them is this in the other.
TRANSPOSED = {"w": "x", "x": "w", "g of x": "x forward", "g of w": "w forward", "g of b": "b forward",
              "g": "y forward", "slope": "slope"}  # fmt: skip
TRANSPOSED |= {b: a for a, b in TRANSPOSED.items()}


def _holding(layer: str, frozen: frozenset[str]) -> Callable:
    """held(value, what): what becomes of a value in a layer's backward, constant in the gradient's derivative or not.

    `frozen` names a layer, and all that its backward has saved; or one factor of its backward: of "linear" and "conv"
    "w", by which the output's cotangent g is multiplied, "x", and g itself in the cotangents "g of x", "g of w", "g of
    b"; of an activation "g" and "slope"; of "batch_norm" "γ", "1/σ", "x̂", or "statistics", from which x̂ is computed.
    """
    if not frozen:
        return _flowing
    parts = {part.removeprefix(f"{layer} ") for part in frozen if part.startswith(f"{layer} ")}

    def held(value, what=""):
        saved = layer in frozen and not what.startswith("g") and not what.endswith("forward")
        return hold(value) if saved or what in parts else np.asarray(value)

    return held


def _flowing(value, what=""):
    return np.asarray(value)


def _linear(x, w, b=None, *, held, how, off=None, seen=None):
    w, unmix = _weight(w, how.weight)
    averaged, averages = how.biases.startswith("averaged"), how.biases == "averaged, and weights, in the gradient"
    y, by = held(x, "x forward") @ held(w, "w forward"), w.T
    if off:  # (w + off) in the derivative
        y = y + (x - hold(x)) @ off[0]
    if goes_through(w.shape, how.through):
        by = _THROUGH[how.through](w)
        y = y + (x - hold(x)) @ hold(by - w.T).T if how.derived == "as a graph" else y

    def back(g):
        gx = held(g, "g of x") @ held(by, "w")
        if off:
            gx = gx + (g - hold(g)) @ off[0].T
        inputs = x if seen is None else seen
        gw, gb = held(inputs, "x").T @ held(g, "g of w"), held(g, "g of b").sum(0)
        gw = gw / len(x) if averages else gw
        gw = gw + w * how.layer_decay if how.layer_decay else gw
        return gx, [unmix(gw)] + ([] if b is None else [gb / len(x) if averaged else gb])

    if averaged and b is not None and how.derived == "as a graph":
        b = hold(b) + (b - hold(b)) / len(x)
    return (y if b is None else y + held(b, "b forward")), back


# What a linear layer's backward has in the place of wᵀ.
_THROUGH: dict[str, Callable] = {"w reshaped": lambda w: np.reshape(w, w.shape[::-1]), "w": lambda w: w}


def goes_through(shape: tuple, through: str) -> bool:
    """Whether a matrix of that shape has another one in its backward."""
    return through == "w reshaped" and min(shape) > 1 or through == "w" and 1 < shape[0] == shape[1]


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
    "rows and columns reshaped": lambda at: np.reshape(np.swapaxes(at, 0, 1), at.shape),
    "column by column": lambda at: np.reshape(np.ravel(at), at.shape, order="F"),
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
    order = None if how == "right" else _order(w.shape, how)
    if order is None:
        return w, np.asarray

    def unmix(g):
        out = np.zeros(w.size, g.dtype)
        out[np.ravel(order)] = np.ravel(g)
        return np.reshape(out, w.shape)

    return np.reshape(np.ravel(w)[np.ravel(order)], w.shape), unmix


def _weight(w, how: str):
    """A matrix as `_linear` uses it, and the way back for a gradient."""
    if how == "over √fan-in":
        scale = w.shape[0] ** -0.5
        return w * scale, lambda g: g * scale
    if how == "plus the identity":  # x + f(x)
        square = w.shape[0] == w.shape[1]
        return (w + np.eye(len(w), dtype=int) if square else w), np.asarray
    return _mixed(w, how)


def _activation(name: str) -> Callable:
    """The layer of a smooth activation."""

    def layer(x, *, held, how):
        y, slope = (instead_of(name, how.activation, how.derived == "as a graph") or ACTIVATIONS[name])(x)
        return held(y, "y forward"), lambda g: (held(g, "g") * held(slope, "slope"), [])

    return layer


def _relu(x, *, held, how):
    if instead_of("relu", how.activation):
        return _activation("relu")(x, held=held, how=how)
    above, at_zero = side(x), how.relu_at_zero or how.leak
    slope = (above > 0) + (above == 0) * at_zero if at_zero else (above > 0) * 1
    slope = slope + (above < 0) * how.leak if how.leak else slope
    # x * slope: at 0 the derivative of the value is that slope, too
    return held(x * slope, "y forward"), lambda g: (held(g, "g") * slope, [])


def _softplus(x, *, held, how):
    if not how.sharpness:
        return _activation("softplus")(x, held=held, how=how)
    # log(1 + e^βx) / β
    y, slope = softplus(x * how.sharpness)
    return held(y / how.sharpness, "y forward"), lambda g: (held(g, "g") * held(slope, "slope"), [])


def _conv(x, w, *, held, how, stride, padding, off=None):
    (_, rows, columns, _), (kh, kw, _, out) = x.shape, w.shape
    w, unmix = _mixed(w, how.kernel)
    (top, bottom), (left, right) = (
        _around(how.padding, _zeros_around(padding, n, k, stride), k) for n, k in ((rows, kh), (columns, kw))
    )
    padded, unpad = _padded(x, (top, bottom), (left, right), how.padding)
    h, v = (padded.shape[1] - kh) // stride + 1, (padded.shape[2] - kw) // stride + 1
    windows = {
        (i, j): (slice(None), slice(i, i + stride * (h - 1) + 1, stride), slice(j, j + stride * (v - 1) + 1, stride))
        for i in range(kh)
        for j in range(kw)
    }
    seen, by = held(padded, "x forward"), held(w, "w forward")
    y = sum(seen[at] @ by[ij] for ij, at in windows.items())
    if off:  # (w + off) in the derivative
        y = y + sum((padded - hold(padded))[at] @ off[0][ij] for ij, at in windows.items())

    def back(g):
        of_x, of_w, w_, x_ = held(g, "g of x"), held(g, "g of w"), held(w, "w"), held(padded, "x")
        gx, gw = np.zeros(padded.shape, np.result_type(of_x, w_)), np.zeros(w.shape, np.result_type(of_w, x_))
        flat = np.reshape(of_w, (-1, out))
        for ij, at in windows.items():
            gx[at] = gx[at] + of_x @ w_[ij].T
            if off:
                gx[at] = gx[at] + (g - hold(g)) @ off[0][ij].T
            gw[ij] = np.reshape(x_[at], (len(flat), -1)).T @ flat
        return unpad(gx), [unmix(gw)]

    return y, back


def _padded(x, above: tuple, beside: tuple, how: str) -> tuple:
    """Images with zeros around them, or with their own pixels; and the way back."""
    (_, rows, columns, _), (top, left) = x.shape, (above[0], beside[0])
    if how not in PIXELS_AROUND:
        inside = (slice(None), slice(top, top + rows), slice(left, left + columns))
        padded = np.zeros((len(x), rows + sum(above), columns + sum(beside), x.shape[3]), x.dtype)
        padded[inside] = x
        return padded, lambda g: g[inside]
    at = np.ix_(np.pad(np.arange(rows), above, how), np.pad(np.arange(columns), beside, how))  # type: ignore[call-overload]

    def unpad(g):
        gx = np.zeros(x.shape, g.dtype)
        for i, row in enumerate(at[0][:, 0]):
            for j, column in enumerate(at[1][0]):
                gx[:, row, column] = gx[:, row, column] + g[:, i, j]
        return gx

    return x[:, at[0], at[1]], unpad


PIXELS_AROUND = ("edge", "reflect", "wrap")  # of `Options.padding`, by np.pad's names


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


# The axes of (n, …, c) over which statistics are taken, by the kind of norm.
_OVER: dict[str, Callable[[int], tuple]] = {
    "batch": lambda ndim: tuple(range(ndim - 1)),
    "layer": lambda ndim: tuple(range(1, ndim)),
    "layer, over channels": lambda ndim: (ndim - 1,),
    "instance": lambda ndim: tuple(range(1, ndim - 1)),
    "each example": lambda ndim: tuple(range(1, ndim - 1)),  # of vectors too: each is its own mean
    "of each pixel": lambda ndim: (0,),
}
_CONSTANT = {"mean held": ("mean",), "variance held": ("variance",), "statistics held": ("mean", "variance")}


def _batch_norm(x, gamma, beta, *, held, how, statistics=None, off=None):
    eps = EPS if how.eps is None else how.eps
    affine, through, of_affine = _affine(gamma, beta, x.ndim, held, how, off)
    if how.running_statistics:
        statistics = (0, 1)
    if statistics is not None:
        mean, variance = statistics
        y, scale = x - mean, 1 / np.sqrt(np.asarray(variance + eps))
        return affine(y * scale), lambda g: (through(g) * scale, of_affine(g, held(y) * scale))
    over = _OVER.get(how.norm, _OVER["batch"])(x.ndim)
    rows = slice(how.measured if 0 in over else None)
    n = math.prod(x[rows].shape[axis] for axis in over)
    constant = (*_CONSTANT.get(how.norm, ()), *(["mean"] if how.norm == "not centred" else []))
    mean = np.sum(x[rows], over, keepdims=True) / n
    bends = how.derived == "as a graph"
    mean = mean * 0 if how.norm == "not centred" else hold(mean) if "mean" in constant and bends else mean
    centred = x - mean
    m = n - 1 if how.unbiased else n
    variance = np.sum(centred[rows] * centred[rows], over, keepdims=True) / m
    if how.norm == "ε outside the root":
        inverse = 1 / (np.sqrt(variance) + eps)
        bent = inverse * inverse / np.sqrt(variance)  # −2 ∂inverse/∂variance
    else:
        inverse = 1 / np.sqrt(variance + eps)
        bent = inverse * inverse * inverse
    inverse = hold(inverse) if "variance" in constant and bends else inverse
    if any(part.startswith("batch_norm ") for part in how.frozen):
        of_statistics = (x - held(mean, "statistics")) * held(inverse, "statistics")
        normal, over_root = held(of_statistics, "x̂"), held(held(inverse, "1/σ"), "statistics")

        def by_parts(g):
            # γ/σ (g − mean g − x̂ mean g x̂)
            g_, mean_of = through(g), lambda z: np.sum(z, over, keepdims=True) / n
            return over_root * (g_ - mean_of(g_) - normal * mean_of(g_ * normal)), of_affine(g, normal)

        return affine(centred * inverse), by_parts

    if how.norm == "backward without γ":
        through = np.asarray
    own = of_affine
    if how.norm == "dγ of x":
        own = lambda g, y: of_affine(g, x)  # noqa: E731
    if how.norm == "dγ and dβ averaged":
        own = lambda g, y: [of_one / n for of_one in of_affine(g, y)]  # noqa: E731

    def back(g):
        inverse_, centred_ = held(inverse), held(centred)
        gx = through(g) * inverse_
        if "variance" not in constant:
            along = np.sum(through(g) * centred_, over, keepdims=True)  # the cotangent of 1/σ
            gx[rows] = gx[rows] - centred_[rows] * (held(bent) * along / m)
        if "mean" not in constant:
            gx[rows] = gx[rows] - np.sum(gx, over, keepdims=True) / n
        return gx / inverse_ if how.norm == "backward without 1/σ" else gx, own(g, centred_ * inverse_)

    return affine(centred * inverse), back


def _affine(gamma, beta, ndim, held, how, off=None) -> tuple:
    """y ↦ y γ + β, or what stands in its place; g ↦ the cotangent of y; (g, y) ↦ the cotangents of γ and β."""
    over, more = _OVER["batch"](ndim), 1 if how.affine == "1 + γ" else 0
    if how.affine == "exchanged":  # y β + γ
        return (
            lambda y: y * beta + gamma,
            lambda g: g * held(beta),
            lambda g, y: [np.sum(g, over), np.sum(g * y, over)],
        )
    if how.affine == "shift first":  # (y + β) γ
        return (
            lambda y: (y + beta) * gamma,
            lambda g: g * held(gamma),
            lambda g, y: [np.sum(g * (y + held(beta)), over), np.sum(g * held(gamma), over)],
        )
    scaled, shifted = how.affine not in ("no scale", "neither"), how.affine not in ("no shift", "neither")
    times = lambda gamma: gamma + more if more else gamma  # noqa: E731
    if off:  # γ + off in the derivative
        moved = lambda z: z * gamma + (z - hold(z)) * off[0]  # noqa: E731
        return lambda y: moved(y) + beta, moved, lambda g, y: [np.sum(g * y, over), np.sum(g, over)]
    return (
        lambda y: (y * times(gamma) if scaled else y) + (beta if shifted else 0),
        lambda g: g * held(times(gamma), "γ") if scaled else g,
        lambda g, y: [np.sum(g * y, over) * int(scaled), np.sum(g, over) * int(shifted)],
    )


def _max_pool(x, *, held, how, size):
    windows, there, back = _windows(x, size, 1 if how.pool == "stride 1" else size, how.pool == "ceil")
    if how.pool in ("mean", "sum"):
        share, over = np.ones(windows.shape, int), size**2 if how.pool == "mean" else 1
        return np.sum(windows, -1) / over, lambda g: (back(held(g)[..., None] * share / over), [])
    best, share = _largest(windows, there, how.ties)
    return best, lambda g: (back(held(g)[..., None] * share), [])


def _windows(x, size: int, stride: int, over_the_edge: bool) -> tuple:
    """The windows of images, (n, rows, columns, c, size²); which of their places lie inside the image; and the way
    back, which adds windows' cotangents up in their places."""
    (n, h, w, c), places = x.shape, [(i, j) for i in range(size) for j in range(size)]
    rows, columns = (len(range(0, length if over_the_edge else length - size + 1, stride)) for length in (h, w))
    windows = np.zeros((n, rows, columns, c, size * size), x.dtype)
    there = np.zeros((rows, columns, 1, size * size), bool)
    at = []  # of each place, over all windows: where it is in the image, and of which windows that lies inside
    for k, (i, j) in enumerate(places):
        of = (slice(None), slice(i, i + stride * rows, stride), slice(j, j + stride * columns, stride))
        inside = x[of].shape[1:3]
        at.append((of, (slice(None), *map(slice, inside))))
        windows[..., k][at[k][1]] = x[of]
        there[..., k][at[k][1][1:]] = True

    def back(g):
        gx = np.zeros(x.shape, g.dtype)
        for k, (of, to) in enumerate(at):
            gx[of] = gx[of] + g[..., k][to]
        return gx

    return windows, there, back


def _largest(windows, there, ties: str) -> tuple:
    """The largest of the last axis, among what is there, and how its derivative is shared; place 0 is there."""
    best, where = windows[..., 0], np.zeros(windows.shape[:-1], np.int64)
    for k in range(1, windows.shape[-1]):
        above = side(np.where(there[..., k], windows[..., k] - best, -1))
        better = above >= 0 if ties == "last" else above > 0
        best, where = np.where(better, windows[..., k], best), np.where(better, k, where)
    winner = np.arange(windows.shape[-1]) == where[..., None]
    share = winner * 1
    if ties == "split":
        tied = side(np.where(winner, 0, windows - best[..., None])) == 0
        share = tied / np.sum(tied, -1, keepdims=True)
        best = np.sum(windows * share, -1)  # the same value, with the derivative that is shared
    return best, share


_FLATTENED = {"channels first": (0, 3, 1, 2), "columns first": (0, 2, 1, 3), "channels, columns": (0, 3, 2, 1)}


def _flatten(x, *, held, how):
    if how.flatten in _FLATTENED and x.ndim == 4:
        order = _FLATTENED[how.flatten]
        turned = np.transpose(x, order)
        return np.reshape(turned, (len(x), -1)), lambda g: (
            np.transpose(np.reshape(g, turned.shape), np.argsort(order)), [],
        )  # fmt: skip
    return np.reshape(x, (len(x), -1)), lambda g: (np.reshape(g, x.shape), [])


def _spatial_mean(x, *, held, how):
    cells = x.shape[1] * x.shape[2]
    return np.sum(x, (1, 2)) / cells, lambda g: (np.zeros(x.shape, int) + g[:, None, None] / cells, [])


def _spatial_sum(x, *, held, how):
    return np.sum(x, (1, 2)), lambda g: (np.zeros(x.shape, int) + g[:, None, None], [])


def _spatial_max(x, *, held, how):
    cells = np.moveaxis(np.reshape(x, (len(x), -1, x.shape[-1])), 1, -1)
    best, share = _largest(cells, np.ones(cells.shape, bool), how.ties)
    return best, lambda g: (np.reshape(np.moveaxis(g[..., None] * share, -1, 1), x.shape), [])


def _detached(x, *, held, how):
    return hold(x), lambda g: (g * 0, [])


def _turned(turn: Callable) -> Callable:
    """Images that are turned before they reach the network: no derivative by them is asked."""
    return lambda x, *, held, how: (turn(x), lambda g: (None, []))


def _polynomial(x, theta, *, held, how, off=None):
    if off:
        return _by_horner(x, theta, off[0])
    powers = [x[:, 0] * 0 + 1]  # θ⁰, θ¹, …
    for _ in range(x.shape[1] - 1):
        powers.append(powers[-1] * theta)

    def back(g):
        slopes = sum(d * x[:, d] * held(powers[d - 1]) for d in range(1, x.shape[1]))
        return None, [np.sum(g * slopes)]

    return sum(x[:, d] * p for d, p in enumerate(powers)), back


def _by_horner(x, theta, off):
    """(⋯(x_d θ + x_{d−1}) θ + ⋯) θ + x₀, with θ + off in the derivative."""
    times = lambda z: z * theta + (z - hold(z)) * off  # noqa: E731
    totals = [x[:, -1] + theta * 0]
    for d in range(x.shape[1] - 2, -1, -1):
        totals.append(times(totals[-1]) + x[:, d])

    def back(g):
        of_theta = theta * 0
        for total in totals[-2::-1]:
            of_theta, g = of_theta + np.sum(g * total), times(g)
        return None, [of_theta]

    return totals[-1], back


def _quadratic(x, theta, *, held, how):
    a, b = x[:, :, :-1], x[:, :, -1]
    product = (a + np.swapaxes(a, 1, 2)) / 2 @ theta  # a mistake in the data may leave A unsymmetric
    return np.sum(theta * (product / 2 - b), 1), lambda g: (None, [np.sum(g[:, None] * (held(product) - b), 0)])


def _context(x, phi, *, held, how):
    inputs, over = x.shape[-1], tuple(range(x.ndim - 1))
    behind = np.broadcast_to(phi, (*x.shape[:-1], len(phi)))
    return np.concatenate([x, behind], -1), lambda g: (g[..., :inputs], [np.sum(g[..., inputs:], over)])


_LAYERS = {
    "linear": _linear, "conv": _conv, "batch_norm": _batch_norm, "tanh": _activation("tanh"), "relu": _relu,
    "softplus": _softplus, "square": _activation("square"), "max_pool": _max_pool, "flatten": _flatten,
    "spatial_mean": _spatial_mean, "polynomial": _polynomial, "quadratic": _quadratic, "context": _context,
}  # fmt: skip
_OF_ARRANGEMENTS = {
    "sigmoid": _activation("sigmoid"), "spatial_sum": _spatial_sum, "spatial_max": _spatial_max,
    "detached": _detached,
    "transposed_image": _turned(lambda x: np.swapaxes(x, 1, 2)), "mirrored_image": _turned(lambda x: x[:, :, ::-1]),
    "upside_down_image": _turned(lambda x: x[:, ::-1]), "reversed_channels": _turned(lambda x: x[..., ::-1]),
    "reshaped_image": _turned(
        lambda x: np.transpose(np.reshape(x, (len(x), x.shape[3], x.shape[1], x.shape[2])), (0, 2, 3, 1))
    ),
}  # fmt: skip


# ── policies: output and actions → (log π, its pullback to the output) ──────────────────────────────────────────────


HALF_LOG_2PI = 0.9189385332046727  # ½ log 2π


def _categorical(o, y):
    log_p, p = log_softmax(o)
    chosen = (np.arange(o.shape[1]) == np.array([int(float(a)) for a in y[:, 0]])[:, None]) * 1
    return np.sum(log_p * chosen, 1), lambda c: c[:, None] * (chosen - p)


def _gaussian(o, y):
    mean, log_std = o[:, 0], o[:, 1]
    inverse = np.exp(-log_std)
    z = (y[:, 0] - mean) * inverse
    # log π = −z²/2 − log σ − ½ log 2π
    return -z * z / 2 - log_std - HALF_LOG_2PI, lambda c: np.stack([c * z * inverse, c * (z * z - 1)], 1)


_POLICIES = {"categorical": _categorical, "gaussian": _gaussian}


# ── the whole model ─────────────────────────────────────────────────────────────────────────────────────────────────


def _settings(layer: dict) -> dict:
    return {k: v for k, v in layer.items() if k not in ("layer", "params")}


def biases(model: dict) -> list[str]:
    """Names of the parameters that are added."""
    return [p for m in model["layers"] if m["layer"] in ("linear", "batch_norm")
            for p in m["params"][-1:] if len(m["params"]) > 1]  # fmt: skip


# Biases that code treats otherwise, and how often it adds each.
_BIASES: dict[str, tuple[slice, int]] = {
    "missing": (slice(None), 0), "first missing": (slice(1), 0), "last missing": (slice(-1, None), 0),
    "twice": (slice(None), 2), "subtracted": (slice(None), -1),
}  # fmt: skip


def _forward(model: dict, params: dict, x, how: Options, seen: dict | None = None) -> tuple:
    """The output, and each layer's parameters, how often each counts, and pullback. `seen` takes what reaches each
    batch norm."""
    pullbacks, layers = [], arranged(model["layers"], how.network)
    moved, before = {}, None  # the input of the activation before a layer
    for layer, (used, arrays, counts) in zip(layers, _uses(model, layers, params, how), strict=True):
        name = layer["layer"]
        settings = _settings(layer)
        if name == "batch_norm":
            settings["statistics"] = (how.statistics or {}).get(used[0])
            if seen is not None:
                seen[used[0]] = hold(x)
        held = _holding(name, how.frozen)
        if name == "linear" and how.inputs == "before the activation" and before is not None:
            settings["seen"] = before
        before = x if name in ACTIVATIONS else None
        if how.weights is not None and name in ("linear", "conv", "batch_norm", "polynomial"):
            settings["off"] = [hold(how.weights[p]) - hold(params[p]) for p in used]
        f = functools.partial(_LAYERS.get(name) or _OF_ARRANGEMENTS[name], x, held=held, how=how, **settings)
        x, back = f(*arrays)
        if how.updating and used and name in (how.updating[0] or [name]):
            back = _updating(f, back, used, arrays, how.updating[1], moved)
        pullbacks.append((used, counts, back))
    return x, pullbacks


def _uses(model: dict, layers: list[dict], params: dict, how: Options) -> Iterator[tuple[list[str], list, list[int]]]:
    """Each layer's parameters: their names, the arrays as the layer has them, and how often each counts."""
    names = [layer.get("params", []) for layer in layers]
    if how.tied == "every use" and how.biases not in _BIASES:
        yield from ((used, [params[p] for p in used], [1] * len(used)) for used in names)
        return
    which, added = _BIASES.get(how.biases, (slice(0), 1))
    times = dict.fromkeys(biases(model)[which], added)
    left = collections.Counter(p for used in names for p in used)
    total = dict(left)
    for used in names:
        arrays, counts = [], []
        for p in used:
            left[p] -= 1
            cut, constant = _cut(how.tied, first=left[p] == total[p] - 1, last=left[p] == 0)
            array = hold(params[p]) if constant else params[p]
            arrays.append(array * times[p] if p in times else array)
            counts.append(0 if cut else times.get(p, 1))
        yield used, arrays, counts


def _updating(f: Callable, back: Callable, used: list[str], arrays: list, rates: dict, moved: dict) -> Callable:
    """A layer's pullback that updates its parameters first, p ← p − α g, and then goes through what they are now;
    `moved` has those that are used twice."""

    def updated(g):
        _, of_params = back(g)
        for n, p, gp in zip(used, arrays, of_params, strict=True):
            moved[n] = moved.get(n, p) - np.reshape(rates[n] * gp, np.shape(p))
        return f(*(moved[n] for n in used))[1](g)[0], of_params

    return updated


ONE_USE = ("the last use", "the first use")  # of `Options.tied`: a gradient that is none of any loss


def _cut(tied: str, first: bool, last: bool) -> tuple[bool, bool]:
    """Whether this use of a parameter gets no gradient, and whether the parameter is a constant to it."""
    if first and last or tied == "every use":
        return False, False
    cut = {"the last use": not last, "the first use": not first, "the first detached": first, "the last detached": last}
    return cut[tied], cut[tied] and "detached" in tied


def loss_and_grad(
    model: dict, params: dict, x, y, how: Options = Options(), gradient: bool = True, rows: slice | None = None,  # noqa: B008
) -> tuple:  # fmt: skip
    """The loss of one task and its gradient, {name: array} (or None), by backpropagation over any numbers.

    `rows`: those of the batch that the loss is about, if not all are.
    """
    x, pullbacks = _forward(model, params, x, how)
    outputs = x if rows is None else x[rows]
    value, g = loss_named(model["loss"], how)(
        outputs, y, hold if how.frozen & {"loss", model["loss"]} else np.asarray, how
    )
    if how.penalty:
        value = value + sum(_penalty(p, how)[0] for p in params.values())
    if not gradient:
        return value, None
    if rows is not None:
        g, part = np.zeros(x.shape, np.asarray(g).dtype), g
        g[rows] = part
    return value, _back(params, pullbacks, g, how)


def _back(params: dict, pullbacks: list, g, how: Options) -> dict:
    """The gradient, {name: array}, from the cotangent g of the output."""
    grads = {name: _penalty(p, how)[1] if how.penalty else p * 0 for name, p in params.items()}
    for used, counts, back in reversed(pullbacks):
        g, of_params = back(g)
        for name, count, gp in zip(used, counts, of_params, strict=True):
            if count:
                gp = gp if count == 1 else gp * count
                grads[name] = np.asarray(grads[name] + gp).reshape(np.shape(params[name]))
    return grads


def losses_and_grads(model: dict, params: list[dict], batches: list[tuple], how: Options) -> tuple:
    """Each task's loss, and the gradient of their sum by each task's parameters, with the statistics of batch norm
    taken over all tasks together."""
    xs, pullbacks = [x for x, _ in batches], []
    for layer in arranged(model["layers"], how.network):
        used, held = layer.get("params", []), _holding(layer["layer"], how.frozen)
        arrays = [[p[n] for n in used] for p in params]
        if layer["layer"] == "batch_norm":
            xs, back = _norm_of_tasks(xs, arrays, held, how)
        else:
            f = functools.partial(_LAYERS[layer["layer"]], held=held, how=how, **_settings(layer))
            xs, backs = zip(*(f(x, *own) for x, own in zip(xs, arrays, strict=True)), strict=True)
            back = lambda gs, backs=backs: zip(*(b(g) for b, g in zip(backs, gs, strict=True)), strict=True)  # noqa: E731
        pullbacks.append((used, back))
    loss = loss_named(model["loss"], how)
    values, gs = zip(*(loss(x, y, np.asarray, how) for x, (_, y) in zip(xs, batches, strict=True)), strict=True)
    grads = [{n: p * 0 for n, p in own.items()} for own in params]
    for used, back in reversed(pullbacks):
        gs, of_params = back(gs)
        for total, own in zip(grads, of_params, strict=True):
            total |= {n: np.reshape(np.asarray(total[n] + g), total[n].shape) for n, g in zip(used, own, strict=True)}
    return values, grads


def _norm_of_tasks(xs, arrays, held, how) -> tuple:
    """Batch norm of all tasks' examples together, with the γ and β of each; gs ↦ (cotangents of xs, of parameters)."""
    ends, channels = np.cumsum([len(x) for x in xs])[:-1], xs[0].shape[-1]
    one, zero = np.ones(channels, int), np.zeros(channels, int)
    joined, of_joined = _batch_norm(np.concatenate(xs), one, zero, held=held, how=how)
    ys, each = np.split(joined, ends), [_affine(*own, xs[0].ndim, held, how) for own in arrays]

    def back(gs):
        gx, _ = of_joined(np.concatenate([through(g) for g, (_, through, _) in zip(gs, each, strict=True)]))
        of_params = [of_affine(g, y) for g, y, (_, _, of_affine) in zip(gs, ys, each, strict=True)]
        return np.split(gx, ends), of_params

    return [affine(y) for y, (affine, _, _) in zip(ys, each, strict=True)], back


def _penalty(p, how: Options) -> tuple:
    """One parameter's share of a penalty, and its gradient."""
    if how.penalty_like == "absolute":
        return np.sum(p * side(p)) * how.penalty, p * 0 + side(p) * how.penalty
    applies = how.penalty_like == "all" or np.ndim(p) > 1
    return np.sum(p * p) * (how.penalty / 2 * applies), p * how.penalty * applies


def log_policy(model: dict, params: dict, x, y, how: Options = Options()) -> tuple:  # noqa: B008
    """log π of each step's action y[:, 0], (N), and its pullback: cotangents (N) → {name: array}, over any numbers."""
    o, pullbacks = _forward(model, params, x, how)
    logp, of_output = _POLICIES[model["loss"]](o, y)
    return logp, lambda c: _back(params, pullbacks, of_output(c), how)


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


def back_from_statistics(model: dict, params: dict, x, cotangents: dict[str, tuple], how: Options) -> dict:
    """Σ c ∂statistic/∂params, {name: array}, of the statistics that `batch_statistics` gives, each with its c."""
    seen: dict = {}
    _, pullbacks = _forward(model, params, x, how, seen)
    grads, g = {name: p * 0 for name, p in params.items()}, None
    for used, counts, back in reversed(pullbacks):
        if g is not None:
            g, of_params = back(g)
            for name, count, gp in zip(used, counts, of_params, strict=True):
                grads[name] = np.reshape(np.asarray(grads[name] + gp * count), np.shape(params[name]))
        if used and used[0] in cotangents:
            # ∂mean = 1/n, ∂variance = 2 (z − mean)/n
            z, (of_mean, of_variance) = seen[used[0]], cotangents[used[0]]
            over, n = tuple(range(z.ndim - 1)), z.size // z.shape[-1]
            own = (of_mean + (z - np.sum(z, over) / n) * of_variance * 2) / n
            g = own if g is None else g + own
    return grads


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
