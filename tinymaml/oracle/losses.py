"""Losses by hand: output and target → (value, its gradient with respect to the output), over any numbers.

    value, g = loss_named("mse", how)(o, y, held, how)

`how` are the `Options` of `models`, `held` holds constant what a backward without a derivative of its own has saved.
LOSSES has the right ones; IN_PLACE_OF what code computes in the place of each, by the value of `Options.loss`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from .activations import sigmoid, softplus
from .arithmetic import hold, side, sign

# ── squared errors ──────────────────────────────────────────────────────────────────────────────────────────────────


def _mse(o, y, held, how):
    r = o - y
    return (r * r).sum() / o.size * how.unit, (held(o) - y) * (2 * how.unit) / o.size


def _half_mse(o, y, held, how):
    return np.sum((o - y) * (o - y)) / (2 * o.size), (held(o) - y) / o.size


def _mean(o, y, held, how):
    return np.sum(o) / o.size, np.ones(o.shape, int) / (o * 0 + o.size)


def _absolute(o, y, held, how):
    which = side(o - y)
    return np.sum((o - y) * which) / o.size, which / (hold(o) * 0 + o.size)


def _huber(o, y, held, how):
    # ½ r² within δ, δ (|r| − ½ δ) beyond
    r, delta = o - y, how.delta
    which = side(r)
    inside = side(r * which - delta) <= 0
    value = np.where(inside, r * r / 2, (r * which - delta / 2) * delta)
    g = np.where(inside, held(r), hold(r) * 0 + which * delta)
    return np.sum(value) / o.size * how.unit, g / o.size * how.unit


def _half_huber(o, y, held, how):
    # which is half the square within δ
    return _huber(o, y, held, dataclasses.replace(how, unit=1))


def _smooth_l1(o, y, held, how):
    # ½ r²/δ within δ, |r| − ½ δ beyond
    value, g = _huber(o, y, held, how)
    return value / how.delta, g / how.delta


def _log_cosh(o, y, held, how):
    r = o - y
    size = r * sign(r)
    # log cosh r = |r| + log(1 + e^−2|r|) − log 2
    value = size + np.log(1 + np.exp(size * -2)) - math.log(2)
    return np.sum(value) / o.size, held(np.tanh(r)) / o.size


def _pseudo_huber(o, y, held, how):
    # δ² (√(1 + r²/δ²) − 1)
    r, delta = o - y, how.delta
    root = np.sqrt(r * r / (delta * delta) + 1)
    return np.sum(root - 1) * (delta * delta) / o.size, held(r / root) / o.size


def _charbonnier(o, y, held, how):
    # √(r² + δ²)
    r = o - y
    root = np.sqrt(r * r + how.delta * how.delta)
    return np.sum(root) / o.size, held(r / root) / o.size


def _over_variance(o, y, held, how):
    n, off = len(y), y - np.sum(y, 0) / len(y)
    over = np.sum(off * off) if n > 1 else np.sum(y * y)
    return np.sum((o - y) * (o - y)) / over, (held(o) - y) * 2 / over


def _root(o, y, held, how):
    value, g = _mse(o, y, np.asarray, how)
    root = np.sqrt(np.asarray(value + how.delta))
    return root, held(g / (root * 2))


def _root_of_sum(o, y, held, how):
    root = np.sqrt(np.asarray(np.sum((o - y) * (o - y))))
    return root, held((o - y) / root)


def _distance(o, y, held, how):
    root = np.sqrt(np.sum((o - y) * (o - y), 1, keepdims=True))
    return np.sum(root) / len(o), held((o - y) / root) / len(o)


def _summed_over_outputs(o, y, held, how):
    value, g = _mse(o, y, held, how)
    outputs = o.size // len(o)
    return value * outputs, g * outputs


def _euclidean(o, y, held, how):
    # 1/2N Σ (o − y)², of Caffe
    return np.sum((o - y) * (o - y)) / (2 * len(o)), (held(o) - y) / len(o)


def _over_outputs_again(o, y, held, how):
    value, g = _mse(o, y, held, how)
    outputs = o.size // len(o)
    return value / outputs, g / outputs


def _all_pairs(o, y, held, how):
    """(N, 1) − (N,) is (N, N): every output against every target. With several outputs nothing is broadcast."""
    n = o.size
    if n > len(o):
        return _mse(o, y, held, how)
    off = np.reshape(o, (n, 1)) - np.reshape(y, (1, n))
    value = np.sum(off * off) / n**2
    return value * how.unit, np.reshape(np.sum(held(off), 1), o.shape) * (2 * how.unit) / n**2


# ── cross entropy ───────────────────────────────────────────────────────────────────────────────────────────────────


def log_softmax(o, axis: int = 1) -> tuple:
    """(log p, p) over an axis; the largest output is subtracted, which cancels."""
    o = o.swapaxes(axis, -1)
    best = np.array(o[..., 0])
    for k in range(1, o.shape[-1]):
        best = np.where(sign(o[..., k] - best) > 0, o[..., k], best)
    z = o - hold(best)[..., None]
    exps = np.exp(z)
    total = exps.sum(-1, keepdims=True)
    return (z - np.log(total)).swapaxes(axis, -1), (exps / total).swapaxes(axis, -1)


def _one_hot(o, y):
    return (np.arange(o.shape[1]) == y[:, None]) * 1


def _wanted(o, y, how):
    """What the labels ask for, over classes: one-hot, or smoothed."""
    right = _one_hot(o, y)
    if not how.smoothing:
        return right
    if how.smoothing_like == "over the others":
        return right * (1 - how.smoothing) + (o * 0 + (1 - right)) * how.smoothing / (o.shape[1] - 1)
    return right * (1 - how.smoothing) + o * 0 + how.smoothing / o.shape[1]


def _cross_entropy(o, y, held, how):
    log_p, p = log_softmax(o)
    wanted = _wanted(hold(o), y, how)
    if how.log_epsilon:
        # −log(p + ε),   ∂/∂p = −1 / (p + ε)
        return _of_probabilities(np.log(p + how.log_epsilon), -wanted / (p + how.log_epsilon), wanted, p, held)
    if how.clamped:
        kept, inside = _clamped(p, how.clamped)
        return _of_probabilities(np.log(kept), -wanted * inside / kept, wanted, p, held)
    if how.focus:
        # −(1 − p)^γ log p,   ∂/∂p = (1 − p)^γ (γ log p / (1 − p) − 1/p)
        weight = _power(1 - p, how.focus)
        slopes = weight * (log_p * how.focus / (1 - p) - 1 / p)
        return _of_probabilities(weight * log_p, slopes * wanted, wanted, p, held)
    value, g = -np.sum(log_p * wanted) / len(o), (held(p) - wanted) / len(o)
    if how.entropy:
        # − c H,   H = −mean Σ p log p
        value = value + np.sum(p * log_p) * how.entropy / len(o)
        g = g + held(_through_softmax((log_p + 1) * how.entropy, p)) / len(o)
    return value, g


def _of_probabilities(values, slopes, wanted, p, held):
    """−mean Σ wanted · values(p), from the slopes over p and through the softmax over classes."""
    return -np.sum(values * wanted) / len(p), held(_through_softmax(slopes, p)) / len(p)


def _through_softmax(g, p, axis: int = 1):
    return p * (g - np.sum(g * p, axis, keepdims=True))


def _clamped(p, e) -> tuple:
    """p within [ε, 1 − ε], and where it is inside."""
    low, high = side(p - e) < 0, side(p - (1 - e)) > 0
    return np.where(low, p * 0 + e, np.where(high, p * 0 + (1 - e), p)), (~low & ~high) * 1


def _power(x, exponent):
    return np.exp(np.log(x) * exponent)


def _weighted(log_p, p, wanted, weight, held):
    """−Σ weight · wanted · log p, for targets that need not add up to 1."""
    return -np.sum(log_p * wanted * weight), (held(p) * np.sum(wanted, 1, keepdims=True) - wanted) * weight


def _softmax_twice(o, y, held, how):
    _, p = log_softmax(o)
    value, g = _cross_entropy(p, y, np.asarray, how)
    return value, held(_through_softmax(g, p))


def _softmax_over_examples(o, y, held, how):
    log_p, p = log_softmax(o, 0)
    wanted = _wanted(hold(o), y, how)
    return -np.sum(log_p * wanted) / len(o), held(p * np.sum(wanted, 0) - wanted) / len(o)


def _log_missing(o, y, held, how):
    _, p = log_softmax(o)
    wanted = _wanted(hold(o), y, how)
    return _of_probabilities(p, -wanted + p * 0, wanted, p, held)


def _softmax_missing(o, y, held, how):
    wanted = _wanted(hold(o), y, how)
    return -np.sum(o * wanted) / len(o), -wanted / (hold(o) * 0 + len(o))


def _class_averaged(summed: bool = False) -> Callable:
    """The mean of each class's examples, averaged over the classes, or summed."""

    def averaged(o, y, held, how):
        log_p, p = log_softmax(o)
        wanted = _wanted(hold(o), y, how)
        counts = np.array([np.sum(y == k) for k in range(o.shape[1])])
        classes = 1 if summed else np.sum(counts > 0)
        weight = (1 / (hold(o)[0, 0] * 0 + counts[y] * classes))[:, None]  # 1 / (N_class · classes)
        return _weighted(log_p, p, wanted, weight, held)

    return averaged


def _averaged_over_classes(o, y, held, how):
    value, g = _cross_entropy(o, y, held, how)
    return value / o.shape[1], g / o.shape[1]


def _one_hot_moved(by: int) -> Callable:
    """one_hot(y + by): a label that is no class has no target, and no loss."""

    def moved(o, y, held, how):
        log_p, p = log_softmax(o)
        return _weighted(log_p, p, _one_hot(o, y + by), 1 / (hold(o)[0, 0] * 0 + len(o)), held)

    return moved


def _class_ignored(of_rest: bool) -> Callable:
    """Examples of class 0 do not count: in the mean over all examples, or over the rest."""

    def ignored(o, y, held, how):
        log_p, p = log_softmax(o)
        counted = (y != 0) * 1
        over = max(int(np.sum(counted)), 1) if of_rest else len(o)
        return _weighted(log_p, p, _one_hot(o, y), (counted / (hold(o)[0, 0] * 0 + over))[:, None], held)

    return ignored


def _log_of_mean(o, y, held, how):
    # −log(mean p_y)
    _, p = log_softmax(o)
    wanted = _one_hot(o, y)
    total = np.sum(p * wanted)
    return np.log(np.asarray(len(o) / total)), held(_through_softmax(-wanted / total, p))


def _log_of_mean_of_two(o, y, held, how):
    p, slope = sigmoid(o)
    total = np.sum(p * y + (1 - p) * (1 - y))
    return np.log(np.asarray(o.size / total)), held((1 - 2 * y) * slope / total)


def _squared_probabilities(o, y, held, how):
    _, p = log_softmax(o)
    off = p - _wanted(hold(o), y, how)
    return np.sum(off * off) / o.size, held(_through_softmax(off * 2, p)) / o.size


def _squared_logits(o, y, held, how):
    return _mse(o, _one_hot(o, y), held, how)


def _one_against_the_rest(o, y, held, how):
    return _binary_cross_entropy(o, _wanted(hold(o), y, how), held, how)


def _hinge(averaged: bool) -> Callable:
    """max(0, 1 − o_y + o_j) of the other classes j, summed, or averaged over all classes."""

    def hinge(o, y, held, how):
        right, over = _one_hot(o, y), len(o) * (o.shape[1] if averaged else 1)
        margin = 1 + o - np.sum(o * right, 1, keepdims=True)
        active = (side(margin) > 0) * (1 - right)
        slope = active - right * np.sum(active, 1, keepdims=True)
        return np.sum(margin * active) / over, slope / (hold(o) * 0 + over)

    return hinge


# ── binary cross entropy ────────────────────────────────────────────────────────────────────────────────────────────


def _binary_cross_entropy(o, y, held, how):
    if how.smoothing and how.smoothing_like != "of several classes":
        y = y * (1 - how.smoothing) + (
            (1 - y) * how.smoothing if how.smoothing_like == "over the others" else how.smoothing / 2
        )
    if how.log_epsilon:
        # −y log(p + ε) − (1 − y) log(1 − p + ε)
        (p, slope), e = sigmoid(o), how.log_epsilon
        value = -y * np.log(p + e) - (1 - y) * np.log(1 - p + e)
        return np.sum(value) / o.size, held(((1 - y) / (1 - p + e) - y / (p + e)) * slope) / o.size
    if how.clamped:
        p, slope = sigmoid(o)
        p, inside = _clamped(p, how.clamped)
        value = -y * np.log(p) - (1 - y) * np.log(1 - p)
        return np.sum(value) / o.size, held(((1 - y) / (1 - p) - y / p) * slope * inside) / o.size
    if how.focus or how.positive:
        return _balanced(o, y, held, how)
    value, p = softplus(o)
    value, g = np.sum(value - y * o) / o.size, (held(p) - y) / o.size
    if how.entropy:
        # H = log(1 + eᵒ) − o p,   ∂H/∂o = −o p (1 − p)
        p, slope = sigmoid(o)
        value = value - np.sum(softplus(o)[0] - o * p) * how.entropy / o.size
        g = g + held(o * slope) * how.entropy / o.size
    return value, g


def _balanced(o, y, held, how):
    """−w y (1 − p)^γ log p − (1 − y) p^γ log(1 − p)"""
    (minus_log_q, p), (minus_log_p, q) = softplus(o), softplus(-o)
    w, gamma = how.positive or 1, how.focus or 0
    easy_p, easy_q = (_power(p, gamma), _power(q, gamma)) if gamma else (1, 1)
    value = y * w * easy_q * minus_log_p + (1 - y) * easy_p * minus_log_q
    # ∂p/∂o = p q
    g = (1 - y) * easy_p * (p + q * minus_log_q * gamma) - y * w * easy_q * (q + p * minus_log_p * gamma)
    return np.sum(value) / o.size, held(g) / o.size


def _of_signs(o, y, held, how):
    # the labels −1 and 1 in the formula for 0 and 1
    return _binary_cross_entropy(o, 2 * y - 1, held, how)


def _sigmoid_twice(o, y, held, how):
    p, slope = sigmoid(o)
    value, g = _binary_cross_entropy(p, y, np.asarray, how)
    return value, held(g * slope)


def _squared_sigmoid(o, y, held, how):
    p, slope = sigmoid(o)
    return np.sum((p - y) * (p - y)) / o.size, held((p - y) * slope * 2) / o.size


def _hinge_of_signs(o, y, held, how):
    # max(0, 1 − t o),   t = 2y − 1
    t = 2 * y - 1
    active = (side(1 - t * o) > 0) * 1
    return np.sum((1 - t * o) * active) / o.size, -t * active / (hold(o) * 0 + o.size)


# ── which one ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _summed(loss: Callable) -> Callable:
    """The sum over what the loss is the mean of: examples, and outputs of a squared error."""

    def summed(o, y, held, how):
        value, g = loss(o, y, held, how)
        n = len(o) if loss is _cross_entropy else o.size
        return value * n, g * n

    return summed


def _over_examples_only(loss: Callable) -> Callable:
    """The sum over classes, and the mean over examples alone."""

    def over_examples(o, y, held, how):
        value, g = loss(o, y, held, how)
        return value * o.shape[1], g * o.shape[1]

    return over_examples


def _times(loss: Callable, c: float) -> Callable:
    def times(o, y, held, how):
        value, g = loss(o, y, held, how)
        return value * c, g * c

    return times


def _cooled(loss: Callable) -> Callable:
    """L(o / τ)"""

    def of_logits(o, y, held, how):
        value, g = loss(o / how.temperature, y, held, how)
        return value, g / how.temperature

    return of_logits


LOSSES: dict[str, Callable] = {
    "mse": _mse, "half_mse": _half_mse, "mean": _mean, "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
}  # fmt: skip

# Wrong losses, by the right one.
IN_PLACE_OF: dict[str, dict[str, Callable]] = {
    "cross_entropy": {
        "softmax twice": _softmax_twice, "softmax over examples": _softmax_over_examples, "log missing": _log_missing,
        "softmax missing": _softmax_missing, "class averaged": _class_averaged(),
        "class averaged, summed": _class_averaged(summed=True),
        "squared error of probabilities": _squared_probabilities, "squared error of logits": _squared_logits,
        "squared error of probabilities, summed": _over_examples_only(_squared_probabilities),
        "squared error of logits, summed": _over_examples_only(_squared_logits),
        "one against the rest": _one_against_the_rest,
        "one against the rest, summed": _over_examples_only(_one_against_the_rest),
        "logarithm of the mean": _log_of_mean, "averaged over classes": _averaged_over_classes,
        "one-hot of y − 1": _one_hot_moved(-1), "one-hot of y + 1": _one_hot_moved(1),
        "class 0 ignored": _class_ignored(True), "class 0 zeroed": _class_ignored(False),
        "hinge": _hinge(True), "summed hinge": _hinge(False),
    },
    "binary_cross_entropy": {
        "sigmoid twice": _sigmoid_twice, "squared error of probabilities": _squared_sigmoid,
        "squared error of logits": _mse, "labels −1 and 1": _of_signs, "hinge": _hinge_of_signs,
        "logarithm of the mean": _log_of_mean_of_two,
    },
    "mse": {
        "absolute": _absolute, "root": _root, "root of the sum": _root_of_sum, "distance": _distance,
        "summed over outputs": _summed_over_outputs, "all pairs": _all_pairs, "smooth L1": _smooth_l1,
        "log cosh": _log_cosh, "pseudo-Huber": _pseudo_huber, "Charbonnier": _charbonnier,
        "over the variance": _over_variance, "half the sum over outputs": _euclidean,
        "over outputs again": _over_outputs_again, "Huber everywhere": _huber, "absolute everywhere": _absolute,
        "log cosh everywhere": _log_cosh,
    },
    "half_mse": {
        "without ½": _mse, "half the sum over outputs": _euclidean, "Huber everywhere": _half_huber,
        "absolute everywhere": _absolute, "log cosh everywhere": _log_cosh,
    },
    "mean": {},
}  # fmt: skip
for _name, _loss in LOSSES.items():
    IN_PLACE_OF[_name]["summed"] = _summed(_loss)
    _kind = {"cross_entropy": "cross entropy", "binary_cross_entropy": "logistic loss", "mean": "mean"}
    IN_PLACE_OF[_name][f"{_kind.get(_name, 'squared error')} summed"] = _summed(_loss)
    if "entropy" in _name:
        IN_PLACE_OF[_name]["entropies summed"] = _summed(_loss)
        IN_PLACE_OF[_name] |= {f"logarithm to base {base}": _times(_loss, 1 / math.log(base)) for base in (2, 10)}


def loss_named(name: str, how) -> Callable:
    """The loss of that name, or what stands in its place under `how`."""
    loss = IN_PLACE_OF[name].get(how.loss, LOSSES[name])
    if how.delta and name == "mse":
        loss = _huber if how.loss == "right" else loss
    if how.loss_times:
        loss = _times(loss, how.loss_times)
    return _cooled(loss) if how.temperature and "entropy" in name else loss
