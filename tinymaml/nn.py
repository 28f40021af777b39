"""Layers and losses as plain functions: compositions, so right at every order without a rule of their own.

    linear  conv2d  relu  mse  cross_entropy
    max_pool2d  avg_pool2d  embedding  sigmoid  softplus  binary_cross_entropy               (from `layers`)
    softmax  log_softmax  logsumexp  batch_norm  moments  layer_norm  group_norm  dropout    (from `normalise`)
    zeros  normal  truncated_normal  glorot_uniform  he_normal               (from `init`: an explicit Generator)

Images are (N, H, W, C), filters (height, width, in, out). Parameters are arguments: a network is a function of a nest.
Read next: `maml`.
"""

from __future__ import annotations

import numpy as np

from . import layers, numpy_api, ops  # numpy_api: NumPy on tensors, which this file is written in
from .engine import Tensor, stop_gradient
from .init import glorot_uniform, he_normal, normal, truncated_normal, zeros
from .layers import avg_pool2d, binary_cross_entropy, embedding, max_pool2d, sigmoid, softplus
from .normalise import batch_norm, dropout, group_norm, layer_norm, log_softmax, logsumexp, moments, softmax

Array = np.ndarray | Tensor
_array = numpy_api.as_array


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


def conv2d(x: Array, w: Array, stride: int = 1, padding: str | int = "SAME") -> Array:
    """Convolution (cross-correlation, as everywhere in deep learning): patches of x times w as one matrix product.

    Args:
        x: (N, H, W, in).   w: (height, width, in, out).
        padding: "SAME": ⌈H / stride⌉ rows out, the odd row of zeros below (as TensorFlow and JAX); "VALID": none;
            or a number of zero rows and columns on every side (as PyTorch).

    The result is (N, rows, columns, out). ValueError: shapes, stride or padding are others; or filters are larger than
    the padded images.

    >>> x, w = np.ones((1, 28, 28, 3)), np.ones((3, 3, 3, 8))
    >>> tm.nn.conv2d(x, w, stride=2).shape, tm.nn.conv2d(x, w, padding="VALID").shape
    ((1, 14, 14, 8), (1, 26, 26, 8))
    """
    pad = layers.padding_of(x, w, stride, padding)
    rows = ops.patches(x, size=w.shape[:2], stride=int(stride), padding=pad)
    return rows @ np.reshape(w, (-1, w.shape[3]))


def mse(prediction: Array, target: Array) -> Array:
    """mean (prediction − target)², a scalar. ValueError: the shapes are not equal; nothing broadcasts.

    >>> tm.nn.mse(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    np.float64(2.0)
    """
    prediction, target = _array(prediction), _array(target)
    layers.check_same("mse", "prediction", prediction, "target", target)
    return np.mean((prediction - target) ** 2)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """mean (log Σⱼ exp zⱼ − z_label): softmax cross-entropy, stable for any finite logits.

    Logits (…, classes) and labels (…), which are integers in 0 … classes − 1, give a scalar, in nats.
    ValueError: labels of another shape, or outside.   TypeError: labels that are no integers.

    >>> loss = tm.nn.cross_entropy(np.log([[1.0, 3.0]]), np.array([1]))  # the probabilities are 1/4 and 3/4
    >>> np.exp(-loss).round(6)
    np.float64(0.75)
    """
    logits, labels = _array(logits), _array(labels)
    layers.check_labels(logits, labels)
    z = np.reshape(logits, (-1, logits.shape[-1]))
    z = z - stop_gradient(np.max(z, -1, keepdims=True))  # the shift cancels, so nothing is lost by holding it constant
    of_label = z[np.arange(z.shape[0]), np.reshape(labels, (-1,))]
    return np.mean(np.log(np.sum(np.exp(z), -1)) - of_label)
