"""Layers and losses as plain functions: compositions, so right at every order without a rule of their own.

    linear  conv2d  max_pool2d  avg_pool2d  embedding  relu  sigmoid  softplus  softmax  log_softmax  logsumexp
    batch_norm  moments  layer_norm  group_norm  dropout
    mse  cross_entropy  binary_cross_entropy
    zeros  normal  truncated_normal  glorot_uniform  he_normal        (from `init`: an explicit Generator)

Images are (N, H, W, C), filters (height, width, in, out). Parameters are arguments: a network is a function of a nest.
Read next: `maml`.
"""

from __future__ import annotations

import numpy as np

from . import numpy_api, ops  # numpy_api: NumPy on tensors, which this file is written in
from .engine import Tensor, stop_gradient, value_of
from .init import glorot_uniform, he_normal, normal, truncated_normal, zeros  # noqa: F401

Array = np.ndarray | Tensor
_array = numpy_api.as_array


# ── layers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def linear(x: Array, w: Array, b: Array | None = None) -> Array:
    """x w + b, for x (…, in), w (in, out), b (out,)."""
    if x.shape[-1] != w.shape[0]:
        raise ValueError(f"linear: x has shape {x.shape} and w {w.shape}; x's last axis must be w's first")
    return x @ w if b is None else x @ w + b


def relu(x: Array, at_zero: float = 0.0) -> Array:
    """max(x, 0). The slope at 0 is `at_zero` (0, as in PyTorch, JAX and TensorFlow)."""
    return ops.maximum(x, 0, tie=at_zero)


def softplus(x: Array) -> Array:
    """log(1 + eˣ), stable."""
    return ops.logaddexp(x, 0)


def sigmoid(x: Array) -> Array:
    """1 / (1 + e⁻ˣ), stable, and precise in both tails."""
    return np.exp(-softplus(-x))


def logsumexp(x: Array, axis=None, b: Array | None = None, keepdims: bool = False) -> Array:
    """log Σ b exp x, stable: scipy.special.logsumexp for tensors.

    Args:
        x: any shape.   axis: an axis or a tuple of them; None: all.   b: weights that broadcast to x; those that are 0
            leave their x out, even an infinite one. Where the sum is negative, the result is NaN.

    Returns:
        x's shape without `axis`, or with length 1 there (`keepdims`).
    """
    x = _array(x)
    x = x if b is None else np.where(_array(b) != 0, x, -np.inf)
    shift = _shift(x, axis)
    terms = np.exp(x - shift) if b is None else _array(b) * np.exp(x - shift)
    return np.log(np.sum(terms, axis, keepdims=keepdims)) + (shift if keepdims else np.sum(shift, axis))


def softmax(x: Array, axis) -> Array:
    """exp x / Σ exp x over `axis` (an axis, a tuple of them, or None: all), stable; of the shape of x."""
    x = _array(x)
    e = np.exp(x - _shift(x, axis))
    return e / np.sum(e, axis, keepdims=True)


def log_softmax(x: Array, axis) -> Array:
    """x − log Σ exp x over `axis` (an axis, a tuple of them, or None: all), stable; of the shape of x."""
    x = _array(x)
    x = x - _shift(x, axis)
    return x - np.log(np.sum(np.exp(x), axis, keepdims=True))


def _shift(x: Array, axis) -> Array:
    """The largest element, constant: it cancels, so nothing is lost by that; 0 where it is infinite."""
    most = stop_gradient(np.max(x, axis, keepdims=True))
    return np.where(np.isfinite(most), most, 0)


def conv2d(x: Array, w: Array, stride: int = 1, padding: str | int = "SAME") -> Array:
    """Convolution (cross-correlation, as everywhere in deep learning): patches of x times w as one matrix product.

    Args:
        x: (N, H, W, in).   w: (height, width, in, out).
        padding: "SAME": ⌈H / stride⌉ rows out, the odd row of zeros below (as TensorFlow and JAX); "VALID": none;
            or a number of zero rows and columns on every side (as PyTorch).

    Returns:
        (N, rows, columns, out).
    """
    if x.ndim != 4 or w.ndim != 4 or x.shape[3] != w.shape[2]:
        wanted = "(N, H, W, in) and (height, width, in, out)"
        raise ValueError(f"conv2d: x has shape {x.shape} and w {w.shape}; wanted {wanted}")
    if not isinstance(stride, (int, np.integer)) or stride < 1:
        raise ValueError(f"conv2d: stride is {stride!r}, wanted an integer of at least 1")
    size = w.shape[:2]
    pad = tuple(_padding(padding, n, k, stride) for n, k in zip(x.shape[1:3], size, strict=True))
    if any(n + a + b < k for n, (a, b), k in zip(x.shape[1:3], pad, size, strict=True)):
        raise ValueError(f"conv2d: filters of {size} do not fit into images of {x.shape[1:3]} with padding={padding!r}")
    rows = ops.patches(x, size=size, stride=int(stride), padding=pad)
    return rows @ np.reshape(w, (-1, w.shape[3]))


def _padding(padding: str | int, n: int, k: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis of length n, for a filter of length k."""
    if padding == "SAME":
        total = max((-(-n // stride) - 1) * stride + k - n, 0)
        return total // 2, total - total // 2
    if padding == "VALID":
        return 0, 0
    if isinstance(padding, (int, np.integer)) and padding >= 0:
        return int(padding), int(padding)
    raise ValueError(f'conv2d: padding is {padding!r}, wanted "SAME", "VALID" or a number of zeros')


def max_pool2d(x: Array, size: int = 2, ties: str = "first") -> Array:
    """The largest of each size × size window; rows and columns left over are dropped: (N, H/size, W/size, C).

    `ties`: "first" gives the whole derivative to the first of a tie, row by row (as PyTorch); "split" shares it.
    """
    _check_pool("max_pool2d", x, size)
    if ties == "split":
        return ops.max(_windows(x, size), (2, 4))
    if ties != "first":
        raise ValueError(f'max_pool2d: ties is {ties!r}, wanted "first" or "split"')
    return ops.pick(x, ops.pool_argmax(x, size=size), size=size)


def avg_pool2d(x: Array, size: int = 2) -> Array:
    """The mean of each size × size window; rows and columns left over are dropped: (N, H/size, W/size, C)."""
    _check_pool("avg_pool2d", x, size)
    return np.mean(_windows(x, size), (2, 4))


def _windows(x: Array, size: int) -> Array:
    n, h, w, c = x.shape
    return np.reshape(x[:, : h // size * size, : w // size * size], (n, h // size, size, w // size, size, c))


def _check_pool(name: str, x: Array, size: int) -> None:
    if x.ndim != 4 or not isinstance(size, (int, np.integer)) or not 1 <= size <= min(x.shape[1:3]):
        raise ValueError(f"{name}: x has shape {x.shape}; wanted (N, H, W, C) with H and W at least size = {size} ≥ 1")


def embedding(table: Array, ids: Array) -> Array:
    """Rows of `table` (words, …): table[ids], for integer ids of any shape."""
    _check_integers("embedding", "ids", ids, table.shape[0])
    return table[_array(ids)]


# ── normalisation, dropout ──────────────────────────────────────────────────────────────────────────────────────────
# Channels are the last axis; γ and β are (channels,), and each may be None, which leaves its part out.


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
    """
    if not isinstance(rate, (float, int, np.floating, np.integer)) or not 0 <= rate < 1:
        raise ValueError(f"dropout: rate is {rate!r}, wanted a number in [0, 1)")
    mask = _array(mask)
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


# ── losses ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def mse(prediction: Array, target: Array) -> Array:
    """mean (prediction − target)²; the shapes must be equal, nothing broadcasts."""
    prediction, target = _array(prediction), _array(target)
    _check_same("mse", "prediction", prediction, "target", target)
    return np.mean((prediction - target) ** 2)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """mean (log Σⱼ exp zⱼ − z_label): softmax cross-entropy, stable for any finite logits.

    Args:
        logits: (…, classes).   labels: integers in 0 … classes − 1, of shape (…).
    """
    logits, labels = _array(logits), _array(labels)
    if logits.ndim < 1 or labels.shape != logits.shape[:-1]:
        raise ValueError(f"cross_entropy: logits of shape {logits.shape} want labels of shape {logits.shape[:-1]},"
                         f" seen {labels.shape}")  # fmt: skip
    _check_integers("cross_entropy", "labels", labels, logits.shape[-1])
    z = np.reshape(logits, (-1, logits.shape[-1]))
    z = z - stop_gradient(np.max(z, -1, keepdims=True))  # the shift cancels, so nothing is lost by holding it constant
    of_label = z[np.arange(z.shape[0]), np.reshape(labels, (-1,))]
    return np.mean(np.log(np.sum(np.exp(z), -1)) - of_label)


def binary_cross_entropy(logits: Array, targets: Array) -> Array:
    """mean of −y log p − (1 − y) log(1 − p), p = sigmoid(logits), stable; targets y in [0, 1] of the logits' shape."""
    logits, targets = _array(logits), _array(targets)
    _check_same("binary_cross_entropy", "logits", logits, "targets", targets)
    return np.mean(targets * softplus(-logits) + (1 - targets) * softplus(logits))


def _check_same(name: str, a_name: str, a: Array, b_name: str, b: Array) -> None:
    if a.shape != b.shape:
        raise ValueError(f"{name}: {a_name} has shape {a.shape} and {b_name} {b.shape}; they must be equal")


def _check_integers(name: str, what: str, ids: Array, below: int) -> None:
    ids = np.asarray(value_of(ids))
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{name}: {what} have dtype {ids.dtype}, wanted integers")
    if ids.size and not 0 <= ids.min() <= ids.max() < below:
        raise ValueError(f"{name}: {what} lie in {ids.min()} … {ids.max()}, wanted 0 … {below - 1}")
