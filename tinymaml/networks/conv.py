"""The convolutional networks of Omniglot and MiniImagenet (Finn et al., 2017, section 5.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import nn
from ..runs.settings import option
from .network import (
    STATISTICS,
    STATISTICS_HELP,
    Network,
    check_counts,
    check_norm,
    check_one_array,
    joined,
    layer_init,
    normalisation,
)

NORMS = ("batch", "group", "layer", "none")


@dataclass(frozen=True)
class Settings:
    filters: int = option(64, "filters of each block", least=1)
    blocks: int = option(4, "blocks of convolution, normalisation and ReLU", least=1, most=1000)
    pool: bool = option(False, "blocks of stride 1 that end with a 2×2 max-pool, instead of stride 2")
    norm: str = option("batch", "normalisation before each ReLU", choices=NORMS)
    groups: int = option(8, "groups of channels of group norm", least=1, where={"norm": ("group",)})
    statistics: str = option("transductive", STATISTICS_HELP, choices=tuple(STATISTICS), where={"norm": ("batch",)})


def make(family, settings: Settings) -> Network:
    """The network of a family; `conv` without the settings."""
    s = settings
    check_one_array("conv", family)
    check_norm("conv", s.norm, NORMS, s.statistics)
    return conv(family.input_shape, s.filters, family.outputs, s.blocks, s.pool, s.norm, s.groups)


def conv(
    input_shape: tuple[int, int, int],
    filters: int,
    outputs: int,
    blocks: int = 4,
    pool: bool = False,
    norm: str = "batch",
    groups: int = 8,
) -> Network:
    """`blocks` × (3×3 convolution of stride 2, normalisation, ReLU), the mean over what is left of the image, linear.

    Args:
        input_shape: (height, width, channels) of one image.   filters: of each convolution.
        pool: strides are 1, a 2×2 max-pool ends each block, and what is left of the image is flattened.
        norm: "batch", over the batch and the image; "group", over the image and each of `groups` groups of the filters
            (Wu and He, 2018); "layer", over the image and all filters; or "none".

    Returns:
        The network. Its layers are conv0, conv1, …: {"w": (3, 3, in, out), "b": (out,)}, and {"gamma": (out,), "beta":
        (out,)} besides if they are normalised; and linear, {"w": (in, out), "b": (out,)}, which is the head.

    Raises:
        ValueError: `input_shape` is not that of an image; a count is no integer of at least 1; the pools leave nothing
            of the image; `norm` is unknown; `groups` does not divide the filters, if there are groups.

    >>> from tinymaml.networks.conv import conv
    >>> net = conv((28, 28, 1), filters=4, outputs=5)
    >>> net.apply(net.init(np.random.default_rng(0), np.float32), np.zeros((2, 28, 28, 1), np.float32)).shape
    (2, 5)
    """
    if len(input_shape) != 3:
        raise ValueError(f"conv wants images (height, width, channels); this family's input_shape is {input_shape}")
    check_counts("conv", filters=filters, outputs=outputs, blocks=blocks, groups=groups)
    check_norm("conv", norm, NORMS)
    if norm == "group" and filters % groups:
        raise ValueError(f"conv: {groups} groups do not divide {filters} filters")
    channels = [input_shape[-1]] + [filters] * blocks
    left = [n >> blocks for n in input_shape[:2]]  # each pool halves, rounding down
    if pool and min(left) < 1:
        raise ValueError(f"conv: {blocks} poolings leave nothing of {input_shape[0]}×{input_shape[1]} images")
    features = filters * left[0] * left[1] if pool else filters
    inner = [f"conv{i}" for i in range(blocks)]
    normalise = normalisation(norm, groups)

    def init(rng, dtype):
        shapes = zip(inner, channels, channels[1:], strict=False)
        params = {name: layer_init(rng, (3, 3, c_in, c_out), dtype, norm) for name, c_in, c_out in shapes}
        return params | {"linear": layer_init(rng, (features, outputs), dtype, "none")}

    def body(params, x, norm=None):
        for name in inner:
            layer = params[name]
            x = nn.conv2d(x, layer["w"], stride=1 if pool else 2, padding="SAME") + layer["b"]
            x = nn.relu(normalise(name, x, layer, norm))
            x = nn.max_pool2d(x) if pool else x
        return np.reshape(x, (x.shape[0], -1)) if pool else np.mean(x, (1, 2))

    def head(params, features):
        return nn.linear(features, params["linear"]["w"], params["linear"]["b"])

    return joined(init, body, head, "linear", dict.fromkeys(inner, filters) if norm == "batch" else {})
