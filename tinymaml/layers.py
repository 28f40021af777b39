"""Layers and losses that a first reading may leave out, and what those of `nn` check. Public as `tm.nn.sigmoid`, ….

    sigmoid  softplus  binary_cross_entropy        of yes or no
    max_pool2d  avg_pool2d  embedding
    padding_of  check_pool  check_same  check_labels  check_integers

Each is a composition, so right at every order without a rule of its own.
"""

from __future__ import annotations

import numpy as np

from . import numpy_api, ops
from .engine import Tensor, value_of

Array = np.ndarray | Tensor
_array = numpy_api.as_array


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


def binary_cross_entropy(logits: Array, targets: Array) -> Array:
    """mean of −y log p − (1 − y) log(1 − p), p = sigmoid(logits), stable; in nats.

    Targets y are numbers in [0, 1]. ValueError: their shape is not that of the logits; nothing broadcasts.

    >>> tm.nn.binary_cross_entropy(np.array([0.0, 1000.0]), np.array([1.0, 0.0])).round(4)  # (log 2 + 1000) / 2
    np.float64(500.3466)
    """
    logits, targets = _array(logits), _array(targets)
    check_same("binary_cross_entropy", "logits", logits, "targets", targets)
    return np.mean(targets * softplus(-logits) + (1 - targets) * softplus(logits))


def max_pool2d(x: Array, size: int = 2, ties: str = "first") -> Array:
    """The largest of each size × size window; rows and columns left over are dropped: (N, H/size, W/size, C).

    `ties`: "first" gives the whole derivative to the first of a tie, row by row (as PyTorch); "split" shares it.
    ValueError: x is not (N, H, W, C), or smaller than a window; or other `ties`.

    >>> tm.nn.max_pool2d(np.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    check_pool("max_pool2d", x, size)
    if ties == "split":
        return ops.max(windows(x, size), (2, 4))
    if ties != "first":
        raise ValueError(f'max_pool2d: ties is {ties!r}, wanted "first" or "split"')
    return ops.pick(x, ops.pool_argmax(x, size=size), size=size)


def avg_pool2d(x: Array, size: int = 2) -> Array:
    """The mean of each size × size window; rows and columns left over are dropped: (N, H/size, W/size, C).

    ValueError: x is not (N, H, W, C), or smaller than a window.

    >>> tm.nn.avg_pool2d(np.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """
    check_pool("avg_pool2d", x, size)
    return np.mean(windows(x, size), (2, 4))


def windows(x: Array, size: int) -> Array:
    """The size × size windows of x (N, H, W, C), as (N, H/size, size, W/size, size, C)."""
    n, h, w, c = x.shape
    return np.reshape(x[:, : h // size * size, : w // size * size], (n, h // size, size, w // size, size, c))


def embedding(table: Array, ids: Array) -> Array:
    """Rows of `table` (words, …): table[ids], for integer ids of any shape.

    TypeError: ids that are no integers.   ValueError: ids that are not in 0 … words − 1.

    >>> tm.nn.embedding(np.array([[0.0, 1.0], [2.0, 3.0]]), np.array([1, 0, 1])).tolist()
    [[2.0, 3.0], [0.0, 1.0], [2.0, 3.0]]
    """
    check_integers("embedding", "ids", ids, table.shape[0])
    return table[_array(ids)]


# ── checks ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def padding_of(x: Array, w: Array, stride: int, padding: str | int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Zeros above and below, left and right of the images x, for filters w, as `nn.conv2d` takes `padding`.

    Raises:
        ValueError: shapes, stride or padding are others; or filters are larger than the padded images.
    """
    if x.ndim != 4 or w.ndim != 4 or x.shape[3] != w.shape[2]:
        wanted = "(N, H, W, in) and (height, width, in, out)"
        raise ValueError(f"conv2d: x has shape {x.shape} and w {w.shape}; wanted {wanted}")
    if not isinstance(stride, (int, np.integer)) or stride < 1:
        raise ValueError(f"conv2d: stride is {stride!r}, wanted an integer of at least 1")
    size = w.shape[:2]
    rows, columns = (_padding(padding, n, k, stride) for n, k in zip(x.shape[1:3], size, strict=True))
    if any(n + sum(pad) < k for n, pad, k in zip(x.shape[1:3], (rows, columns), size, strict=True)):
        raise ValueError(f"conv2d: filters of {size} do not fit into images of {x.shape[1:3]} with padding={padding!r}")
    return rows, columns


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


def check_pool(name: str, x: Array, size: int) -> None:
    if x.ndim != 4 or not isinstance(size, (int, np.integer)) or not 1 <= size <= min(x.shape[1:3]):
        raise ValueError(f"{name}: x has shape {x.shape}; wanted (N, H, W, C) with H and W at least size = {size} ≥ 1")


def check_same(name: str, a_name: str, a: Array, b_name: str, b: Array) -> None:
    if a.shape != b.shape:
        raise ValueError(f"{name}: {a_name} has shape {a.shape} and {b_name} {b.shape}; they must be equal")


def check_labels(logits: Array, labels: Array) -> None:
    if logits.ndim < 1 or labels.shape != logits.shape[:-1]:
        raise ValueError(f"cross_entropy: logits of shape {logits.shape} want labels of shape {logits.shape[:-1]},"
                         f" seen {labels.shape}")  # fmt: skip
    check_integers("cross_entropy", "labels", labels, logits.shape[-1])


def check_integers(name: str, what: str, ids: Array, below: int) -> None:
    ids = np.asarray(value_of(ids))
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{name}: {what} have dtype {ids.dtype}, wanted integers")
    if ids.size and not 0 <= ids.min() <= ids.max() < below:
        raise ValueError(f"{name}: {what} lie in {ids.min()} … {ids.max()}, wanted 0 … {below - 1}")
