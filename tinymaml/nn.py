"""Layers and losses as plain functions: compositions, so right at every order without a rule of their own.

    linear  conv2d  max_pool2d  avg_pool2d  embedding  relu  sigmoid  softplus
    mse  cross_entropy  binary_cross_entropy
    softmax  log_softmax  logsumexp  batch_norm  moments  layer_norm  group_norm  dropout    (from `normalise`)
    zeros  normal  truncated_normal  glorot_uniform  he_normal               (from `init`: an explicit Generator)

Images are (N, H, W, C), filters (height, width, in, out). Parameters are arguments: a network is a function of a nest.
Read next: `maml`.
"""

from __future__ import annotations

import numpy as np

from . import numpy_api, ops  # numpy_api: NumPy on tensors, which this file is written in
from .engine import Tensor, stop_gradient, value_of
from .init import glorot_uniform, he_normal, normal, truncated_normal, zeros  # noqa: F401
from .normalise import (  # noqa: F401
    batch_norm,
    dropout,
    group_norm,
    layer_norm,
    log_softmax,
    logsumexp,
    moments,
    softmax,
)  # fmt: skip

Array = np.ndarray | Tensor
_array = numpy_api.as_array


# ── layers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def linear(x: Array, w: Array, b: Array | None = None) -> Array:
    """x w + b, for x (…, in), w (in, out), b (out,): (…, out). ValueError: x's last axis is not w's first.

    >>> tm.nn.linear(np.array([[1.0, 2.0]]), np.eye(2), np.array([10.0, 20.0]))
    array([[11., 22.]])
    """
    if x.shape[-1] != w.shape[0]:
        raise ValueError(f"linear: x has shape {x.shape} and w {w.shape}; x's last axis must be w's first")
    return x @ w if b is None else x @ w + b


def relu(x: Array, at_zero: float = 0.0) -> Array:
    """max(x, 0). The slope at 0 is `at_zero` (0, as in PyTorch, JAX and TensorFlow).

    >>> tm.nn.relu(np.array([-1.0, 2.0])), tm.grad(lambda x: tm.nn.relu(x, at_zero=0.5))(0.0)
    (array([0., 2.]), array(0.5))
    """
    return ops.maximum(x, 0, tie=at_zero)


def softplus(x: Array) -> Array:
    """log(1 + eˣ), stable.

    >>> tm.nn.softplus(np.array([-1000.0, 0.0, 1000.0])).round(4).tolist()  # e¹⁰⁰⁰ alone would be infinite
    [0.0, 0.6931, 1000.0]
    """
    return ops.logaddexp(x, 0)


def sigmoid(x: Array) -> Array:
    """1 / (1 + e⁻ˣ), stable, and precise in both tails.

    >>> tm.nn.sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    return np.exp(-softplus(-x))


def conv2d(x: Array, w: Array, stride: int = 1, padding: str | int = "SAME") -> Array:
    """Convolution (cross-correlation, as everywhere in deep learning): patches of x times w as one matrix product.

    Args:
        x: (N, H, W, in).   w: (height, width, in, out).
        padding: "SAME": ⌈H / stride⌉ rows out, the odd row of zeros below (as TensorFlow and JAX); "VALID": none;
            or a number of zero rows and columns on every side (as PyTorch).

    Returns:
        (N, rows, columns, out).

    Raises:
        ValueError: other shapes, stride or padding; or filters that are larger than the padded images.

    >>> x, w = np.ones((1, 28, 28, 3)), np.ones((3, 3, 3, 8))
    >>> tm.nn.conv2d(x, w, stride=2).shape, tm.nn.conv2d(x, w, padding="VALID").shape
    ((1, 14, 14, 8), (1, 26, 26, 8))
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
    ValueError: x is not (N, H, W, C), or smaller than a window; or other `ties`.

    >>> tm.nn.max_pool2d(np.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    _check_pool("max_pool2d", x, size)
    if ties == "split":
        return ops.max(_windows(x, size), (2, 4))
    if ties != "first":
        raise ValueError(f'max_pool2d: ties is {ties!r}, wanted "first" or "split"')
    return ops.pick(x, ops.pool_argmax(x, size=size), size=size)


def avg_pool2d(x: Array, size: int = 2) -> Array:
    """The mean of each size × size window; rows and columns left over are dropped: (N, H/size, W/size, C).

    ValueError: x is not (N, H, W, C), or smaller than a window.

    >>> tm.nn.avg_pool2d(np.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """
    _check_pool("avg_pool2d", x, size)
    return np.mean(_windows(x, size), (2, 4))


def _windows(x: Array, size: int) -> Array:
    n, h, w, c = x.shape
    return np.reshape(x[:, : h // size * size, : w // size * size], (n, h // size, size, w // size, size, c))


def _check_pool(name: str, x: Array, size: int) -> None:
    if x.ndim != 4 or not isinstance(size, (int, np.integer)) or not 1 <= size <= min(x.shape[1:3]):
        raise ValueError(f"{name}: x has shape {x.shape}; wanted (N, H, W, C) with H and W at least size = {size} ≥ 1")


def embedding(table: Array, ids: Array) -> Array:
    """Rows of `table` (words, …): table[ids], for integer ids of any shape.

    TypeError: ids that are no integers.   ValueError: ids that are not in 0 … words − 1.

    >>> tm.nn.embedding(np.array([[0.0, 1.0], [2.0, 3.0]]), np.array([1, 0, 1])).tolist()
    [[2.0, 3.0], [0.0, 1.0], [2.0, 3.0]]
    """
    _check_integers("embedding", "ids", ids, table.shape[0])
    return table[_array(ids)]


# ── losses ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def mse(prediction: Array, target: Array) -> Array:
    """mean (prediction − target)², a scalar. ValueError: the shapes are not equal; nothing broadcasts.

    >>> tm.nn.mse(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    np.float64(2.0)
    """
    prediction, target = _array(prediction), _array(target)
    _check_same("mse", "prediction", prediction, "target", target)
    return np.mean((prediction - target) ** 2)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """mean (log Σⱼ exp zⱼ − z_label): softmax cross-entropy, stable for any finite logits.

    Args:
        logits: (…, classes).   labels: integers in 0 … classes − 1, of shape (…).

    Returns:
        A scalar, in nats.

    Raises:
        ValueError: labels of another shape, or outside.   TypeError: labels that are no integers.

    >>> loss = tm.nn.cross_entropy(np.log([[1.0, 3.0]]), np.array([1]))  # the probabilities are 1/4 and 3/4
    >>> np.exp(-loss).round(6)
    np.float64(0.75)
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
    """mean of −y log p − (1 − y) log(1 − p), p = sigmoid(logits), stable; in nats.

    Targets y are numbers in [0, 1]. ValueError: their shape is not that of the logits; nothing broadcasts.

    >>> tm.nn.binary_cross_entropy(np.array([0.0, 1000.0]), np.array([1.0, 0.0])).round(4)  # (log 2 + 1000) / 2
    np.float64(500.3466)
    """
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
