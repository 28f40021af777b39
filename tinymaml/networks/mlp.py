"""The multilayer perceptron: of sine waves, and of Omniglot without convolutions (Finn et al., 2017, 5.1 and 5.2).

Read next: `conv`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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

NORMS = ("none", "batch", "layer")


@dataclass(frozen=True)
class Settings:
    hidden: tuple[int, ...] = option((40, 40), "widths of the hidden layers", least=1)
    norm: str = option("none", "normalisation before each ReLU", choices=NORMS)
    statistics: str = option("transductive", STATISTICS_HELP, choices=tuple(STATISTICS), where={"norm": ("batch",)})


def make(family, settings: Settings) -> Network:
    """The network of a family; `mlp` without the settings."""
    check_one_array("mlp", family)
    check_norm("mlp", settings.norm, NORMS, settings.statistics)
    return mlp(family.input_shape, settings.hidden, family.outputs, settings.norm)


def mlp(input_shape: tuple[int, ...], hidden: Sequence[int], outputs: int, norm: str = "none") -> Network:
    """Linear layers with ReLU between them, normalised before each ReLU. The input is flattened.

    Args:
        input_shape: of one example.   hidden: widths of the hidden layers; without any, the network is linear.
        norm: "none"; "batch", over the batch; or "layer", over the units of each example.

    Returns:
        The network. Its layers are linear0, linear1, …: {"w": (in, out), "b": (out,)}, and {"gamma": (out,), "beta":
        (out,)} besides if they are normalised. The last never is; it is the head.

    Raises:
        ValueError: a width, or `outputs`, is no integer of at least 1; `norm` is unknown.

    >>> from tinymaml.networks.mlp import mlp
    >>> net = mlp((28, 28, 1), (64,), 5)
    >>> params = net.init(np.random.default_rng(0), np.float32)
    >>> params["linear0"]["w"].shape, net.apply(params, np.zeros((2, 28, 28, 1), np.float32)).shape
    ((784, 64), (2, 5))
    """
    check_counts("mlp", outputs=outputs, **{f"hidden[{i}]": width for i, width in enumerate(hidden)})
    check_norm("mlp", norm, NORMS)
    sizes = [int(np.prod(input_shape)), *hidden, outputs]
    names = [f"linear{i}" for i in range(len(hidden) + 1)]
    *inner, last = names
    normalise = normalisation(norm)

    def init(rng, dtype):
        shapes = zip(names, sizes, sizes[1:], strict=False)
        return {
            name: layer_init(rng, (n_in, n_out), dtype, "none" if name == last else norm)
            for name, n_in, n_out in shapes
        }

    def body(params, x, norm=None):
        x = np.reshape(x, (x.shape[0], math.prod(x.shape[1:])))
        for name in inner:
            layer = params[name]
            x = nn.relu(normalise(name, nn.linear(x, layer["w"], layer["b"]), layer, norm))
        return x

    def head(params, features):
        return nn.linear(features, params[last]["w"], params[last]["b"])

    return joined(init, body, head, last, dict(zip(inner, hidden, strict=True)) if norm == "batch" else {})
