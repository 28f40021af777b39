"""The networks of the papers, as pairs of functions over a nest of parameters.

    net = mlp((1,), (40, 40), 1)                     # sinusoid (Finn et al., 2017, section 5.1)
    net = mlp((28, 28, 1), (256, 128, 64, 64), 5, norm=True)
    net = conv((28, 28, 1), filters=64, outputs=5)   # Omniglot (section 5.2): strides instead of pooling
    net = conv((84, 84, 3), 32, 5, pool=True)        # MiniImagenet (section 5.2)
    params = net.init(rng, np.float32);  y = net.apply(params, x)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from . import nn
from .nest import Nest


class Network(NamedTuple):
    """`init(rng, dtype)` → params;  `apply(params, x)` → (N, outputs), for x (N, *input_shape)."""

    init: Callable[[np.random.Generator, DTypeLike], Nest]
    apply: Callable[[Nest, np.ndarray], np.ndarray]


def mlp(input_shape: tuple[int, ...], hidden: Sequence[int], outputs: int, norm: bool = False) -> Network:
    """Linear layers with ReLU between them, batch-normalised if `norm`. The input is flattened."""
    sizes = [int(np.prod(input_shape)), *hidden, outputs]

    def init(rng, dtype):
        params = {}
        for i, shape in enumerate(zip(sizes, sizes[1:], strict=False)):
            params[f"linear{i}"] = _layer(rng, shape, dtype, norm and i < len(hidden))
        return params

    def apply(params, x):
        x = np.reshape(x, (x.shape[0], -1))
        for i in range(len(hidden)):
            layer = params[f"linear{i}"]
            x = nn.linear(x, layer["w"], layer["b"])
            x = nn.relu(nn.batch_norm(x, layer["gamma"], layer["beta"]) if norm else x)
        last = params[f"linear{len(hidden)}"]
        return nn.linear(x, last["w"], last["b"])

    return Network(init, apply)


def conv(
    input_shape: tuple[int, int, int], filters: int, outputs: int, blocks: int = 4, pool: bool = False
) -> Network:
    """`blocks` × (3×3 convolution of stride 2, batch norm, ReLU), the mean over what is left of the image, linear.

    With `pool`, strides are 1, a 2×2 max-pool ends each block, and what is left of the image is flattened.
    """
    channels = [input_shape[-1]] + [filters] * blocks
    left = [n >> blocks for n in input_shape[:2]]  # each pool halves, rounding down
    if pool and min(left) < 1:
        raise ValueError(f"conv: {blocks} poolings leave nothing of {input_shape[0]}×{input_shape[1]} images")
    features = filters * left[0] * left[1] if pool else filters

    def init(rng, dtype):
        params = {}
        for i, (c_in, c_out) in enumerate(zip(channels, channels[1:], strict=False)):
            params[f"conv{i}"] = _layer(rng, (3, 3, c_in, c_out), dtype, norm=True)
        params["linear"] = _layer(rng, (features, outputs), dtype, norm=False)
        return params

    def apply(params, x):
        for i in range(blocks):
            layer = params[f"conv{i}"]
            x = nn.conv2d(x, layer["w"], stride=1 if pool else 2, padding="SAME") + layer["b"]
            x = nn.relu(nn.batch_norm(x, layer["gamma"], layer["beta"]))
            x = nn.max_pool2d(x) if pool else x
        x = np.reshape(x, (x.shape[0], -1)) if pool else np.mean(x, (1, 2))
        return nn.linear(x, params["linear"]["w"], params["linear"]["b"])

    return Network(init, apply)


def _layer(rng: np.random.Generator, shape: tuple[int, ...], dtype, norm: bool) -> dict[str, np.ndarray]:
    draw = nn.he_normal if norm else nn.glorot_uniform  # without a norm He's weights start MAML on sine waves too steep
    layer = {"w": draw(rng, shape, dtype), "b": np.zeros(shape[-1], dtype)}
    return layer | {"gamma": np.ones(shape[-1], dtype), "beta": np.zeros(shape[-1], dtype)} if norm else layer
