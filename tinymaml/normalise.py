"""Normalisation and dropout, as plain functions. Public as `tm.nn.batch_norm`, ….

    softmax  log_softmax  logsumexp        shares that add up to 1, as scipy.special has them
    batch_norm  moments  layer_norm  group_norm  dropout

Each is a composition, so right at every order without a rule of its own.
"""

from __future__ import annotations

import numpy as np

from .engine import Tensor, stop_gradient
from .numpy_api import as_array

Array = np.ndarray | Tensor


def logsumexp(x: Array, axis=None, b: Array | None = None, keepdims: bool = False) -> Array:
    """log Σ b exp x, stable: scipy.special.logsumexp for tensors.

    Args:
        x: any shape.   axis: an axis or a tuple of them; None: all.   b: weights that broadcast to x; those that are 0
            leave their x out, even an infinite one. If their sum is negative, the result is NaN.

    Returns:
        x's shape without `axis`, or with length 1 there (`keepdims`).

    >>> tm.nn.logsumexp(np.array([1000.0, 1000.0])).round(4)  # 1000 + log 2
    np.float64(1000.6931)
    """
    x = as_array(x)
    x = x if b is None else np.where(as_array(b) != 0, x, -np.inf)
    shift = _shift(x, axis)
    terms = np.exp(x - shift) if b is None else as_array(b) * np.exp(x - shift)
    return np.log(np.sum(terms, axis, keepdims=keepdims)) + (shift if keepdims else np.sum(shift, axis))


def softmax(x: Array, axis) -> Array:
    """exp x / Σ exp x over `axis` (an axis, a tuple of them, or None: all), stable; of the shape of x.

    >>> tm.nn.softmax(np.log([1.0, 3.0]), -1).round(6)
    array([0.25, 0.75])
    """
    x = as_array(x)
    e = np.exp(x - _shift(x, axis))
    return e / np.sum(e, axis, keepdims=True)


def log_softmax(x: Array, axis) -> Array:
    """x − log Σ exp x over `axis` (an axis, a tuple of them, or None: all), stable; of the shape of x.

    >>> tm.nn.log_softmax(np.array([1000.0, 0.0]), -1)
    array([    0., -1000.])
    """
    x = as_array(x)
    x = x - _shift(x, axis)
    return x - np.log(np.sum(np.exp(x), axis, keepdims=True))


def _shift(x: Array, axis) -> Array:
    """The largest element, constant: it cancels, so nothing is lost by that; 0 where it is infinite."""
    most = stop_gradient(np.max(x, axis, keepdims=True))
    return np.where(np.isfinite(most), most, 0)


def batch_norm(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    eps: float = 1e-5,
    *,
    first: int | None = None,
    mean: Array | None = None,
    var: Array | None = None,
) -> Array:
    """γ (x − μ) / √(σ² + ε) + β, with one μ and one σ² per channel (Ioffe and Szegedy, 2015, algorithm 1).

    By default μ and σ² are the moments of the batch at hand, at test too (transductive), as in MAML's original code.
    Derivatives flow through them.

    Args:
        x: (N, …, channels).
        first: μ and σ² are the moments of the first examples only, and all examples are normalised with them. With
            the support set in the first rows and queries below, queries do not see each other.
        mean, var: μ and σ², each (channels,), in the place of the batch's moments (an average over training, say).

    Returns:
        An array of the shape of x.

    Raises:
        ValueError: x has fewer than two axes; `first` is no integer in 1 … N; one of `mean` and `var` is given without
            the other, or both are given with `first`; γ, β, mean or var is not (channels,).

    >>> x = np.array([[1.0, 10.0], [3.0, 30.0], [9.0, 0.0]])
    >>> tm.nn.batch_norm(x, first=2).round(3)  # the third row takes the moments of the others
    array([[-1., -1.],
           [ 1.,  1.],
           [ 7., -2.]])
    """
    over = _all_but_channels("batch_norm", x)
    if (mean is None) != (var is None) or (mean is not None and first is not None):
        given = ", ".join(n for n, a in (("first", first), ("mean", mean), ("var", var)) if a is not None)
        raise ValueError(f"batch_norm: given {given}; wanted first, or both mean and var, or none of the three")
    if first is not None and (not _is_integer(first) or not 1 <= first <= x.shape[0]):
        raise ValueError(f"batch_norm: first is {first!r}, wanted an integer in 1 … {x.shape[0]}, the examples in x")
    _check_channels("batch_norm", x, gamma=gamma, beta=beta, mean=mean, var=var)

    if mean is None:
        mean = np.mean(x if first is None else x[:first], over)
    centred = x - mean
    if var is None:
        counted = centred if first is None else centred[:first]
        var = np.mean(counted * counted, over)
    return _scaled(centred / np.sqrt(var + eps), gamma, beta)


def moments(x: Array) -> tuple[Array, Array]:
    """(μ, σ²) over all axes but the last: μ = mean x, and the biased variance σ² = mean (x − μ)².

    What `batch_norm` normalises x with, so that it can be collected: batch_norm(x, γ, β, mean=μ, var=σ²).

    Args:
        x: (N, …, channels).

    Returns:
        Two arrays (channels,).

    Raises:
        ValueError: x has fewer than two axes.

    >>> tm.nn.moments(np.array([[1.0, 10.0], [3.0, 30.0]]))
    (array([ 2., 20.]), array([  1., 100.]))
    """
    over = _all_but_channels("moments", x)
    mean = np.mean(x, over)
    centred = x - mean
    return mean, np.mean(centred * centred, over)


def layer_norm(x: Array, gamma: Array | None = None, beta: Array | None = None, eps: float = 1e-5) -> Array:
    """γ (x − μ) / √(σ² + ε) + β, with μ and biased σ² over the last axis alone (Ba, Kiros and Hinton, 2016, eq. 3).

    Each example has its own statistics, so examples do not see each other. For images, where statistics are taken over
    height and width too, use `group_norm` with one group.

    Args:
        x: (…, channels).

    Returns:
        An array of the shape of x.

    Raises:
        ValueError: x has no axis; γ or β is not (channels,).

    >>> tm.nn.layer_norm(np.array([[1.0, 3.0], [10.0, 30.0]])).round(3)
    array([[-1.,  1.],
           [-1.,  1.]])
    """
    if x.ndim < 1:
        raise ValueError(f"layer_norm: x has shape {x.shape}, wanted (…, channels)")
    _check_channels("layer_norm", x, gamma=gamma, beta=beta)
    return _scaled(_whitened(x, -1, eps), gamma, beta)


def group_norm(
    x: Array, groups: int, gamma: Array | None = None, beta: Array | None = None, eps: float = 1e-5
) -> Array:
    """γ (x − μ) / √(σ² + ε) + β, with μ and biased σ² per example and group of channels (Wu and He, 2018, eq. 7).

    Statistics are over a group's channels and all axes between the first and the last (height and width). One group
    makes it the layer norm of images; as many groups as channels make it instance norm.

    Args:
        x: (N, …, channels).   groups: their number, which divides the channels; neighbours form a group.

    Returns:
        An array of the shape of x.

    Raises:
        ValueError: x has fewer than two axes; `groups` does not divide the channels; γ or β is not (channels,).

    >>> tm.nn.group_norm(np.array([[1.0, 3.0, 10.0, 30.0]]), groups=2).round(3)
    array([[-1.,  1., -1.,  1.]])
    """
    _all_but_channels("group_norm", x)
    channels = x.shape[-1]
    if not _is_integer(groups) or groups < 1 or channels % groups:
        raise ValueError(f"group_norm: groups is {groups!r}, wanted an integer that divides the {channels} channels")
    _check_channels("group_norm", x, gamma=gamma, beta=beta)
    grouped = np.reshape(x, (x.shape[0], -1, groups, channels // groups))
    return _scaled(np.reshape(_whitened(grouped, (1, 3), eps), x.shape), gamma, beta)


def dropout(x: Array, mask: Array, rate: float) -> Array:
    """x m / (1 − rate): what the mask m keeps is scaled up, so that the mean over masks is x (Srivastava et al., 2014).

    The mask is an argument, because a function that is differentiated, recorded or compiled draws nothing itself. Draw
    it outside, and hand it in with the task, one mask per use:

        mask = rng.random(x.shape) >= rate       # True, kept, with probability 1 − rate
        y = nn.dropout(x, mask, rate)            # in training; at test leave dropout out

    Args:
        x: any shape.
        mask: booleans, or numbers 0 and 1, of a shape that broadcasts to that of x: (N, 1, 1, channels) drops whole
            channels of images.
        rate: the probability of 0, in [0, 1).

    Returns:
        An array of the shape and dtype of x.

    Raises:
        ValueError: `rate` is not in [0, 1); the mask does not broadcast to x, or holds other numbers than 0 and 1.

    >>> tm.nn.dropout(np.array([1.0, 2.0]), np.array([True, False]), 0.5)
    array([2., 0.])
    """
    if not isinstance(rate, (float, int, np.floating, np.integer)) or not 0 <= rate < 1:
        raise ValueError(f"dropout: rate is {rate!r}, wanted a number in [0, 1)")
    mask = as_array(mask)
    if mask.ndim > x.ndim or any(m not in (1, n) for m, n in zip(mask.shape[::-1], x.shape[::-1], strict=False)):
        raise ValueError(f"dropout: mask has shape {mask.shape}, which does not broadcast to x's {x.shape}")
    if isinstance(mask, np.ndarray) and not (known := np.isin(mask, (0, 1))).all():  # a tensor may hold any value
        raise ValueError(f"dropout: mask holds {mask[~known].flat[0]}, wanted booleans, or numbers 0 and 1")
    return np.where(mask if mask.dtype == bool else mask != 0, x / (1 - float(rate)), 0)


def _whitened(x: Array, over: int | tuple[int, ...], eps: float) -> Array:
    """(x − μ) / √(σ² + ε), with μ and σ² over some axes."""
    centred = x - np.mean(x, over, keepdims=True)
    return centred / np.sqrt(np.mean(centred * centred, over, keepdims=True) + eps)


def _scaled(y: Array, gamma: Array | None, beta: Array | None) -> Array:
    """γ y + β."""
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


def _all_but_channels(name: str, x: Array) -> tuple[int, ...]:
    """All axes but the last."""
    if x.ndim < 2:
        raise ValueError(f"{name}: x has shape {x.shape}, wanted (N, …, channels) with at least two axes")
    return tuple(range(x.ndim - 1))


def _check_channels(name: str, x: Array, **parts: Array | None) -> None:
    for part, a in parts.items():
        if a is not None and np.shape(a) != x.shape[-1:]:
            raise ValueError(f"{name}: {part} has shape {np.shape(a)}; x has shape {x.shape}, so wanted {x.shape[-1:]}")


def _is_integer(n) -> bool:
    return isinstance(n, (int, np.integer)) and not isinstance(n, bool)
