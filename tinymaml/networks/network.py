"""The protocol of a network, and the parts of all networks here: how layers begin, and how they are normalised.

Read next: `mlp`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import nn
from ..nest import Nest

STATISTICS = {  # what batch norm normalises queries with
    "transductive": "the statistics of the queries at hand",
    "support": "those of the task's support set",
    "running": "averages over training",
}
STATISTICS_HELP = "batch norm of queries by " + "; ".join(f"{name}: {what}" for name, what in STATISTICS.items())


@dataclass(frozen=True, eq=False)
class Network:
    """Functions over a nest of parameters.

    Attributes:
        init: `init(rng, dtype)` → params, a dict by names of layers. The same generator gives the same bits.
        apply: `apply(params, x)` → (N, outputs), for x (N, *input_shape).
        body, head: `body(params, x)` → features and `head(params, features)` → (N, outputs), such that
            apply = head ∘ body; None for a network that is not cut.
        last: the top-level keys of params that the head reads; the body reads the others.
        norms: the channels of each batch norm, by the name of its layer; {} if there are none. If there are some,
            `apply` and `body` take a third argument, `norm(name, x, gamma, beta)` → x, normalised, which they call
            for each. By default it is `batch_norm_of_batch`.
        policy: what acts and is differentiated, see `rl.policies`, of a network for tasks that are acted in.
    """

    init: Callable[[np.random.Generator, DTypeLike], Nest]
    apply: Callable[..., np.ndarray]
    body: Callable[..., np.ndarray] | None = None
    head: Callable[[Nest, np.ndarray], np.ndarray] | None = None
    last: tuple[str, ...] = ()
    norms: Mapping[str, int] = field(default_factory=dict)
    policy: Any = None


def joined(init: Callable, body: Callable, head: Callable, last: str, norms: Mapping[str, int]) -> Network:
    """The network head ∘ body, whose head is the one layer `last`."""

    def apply(params, x, norm=None):
        return head(params, body(params, x, norm))

    return Network(init, apply, body, head, (last,), norms)


def batch_norm_of_batch(name: str, x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """The batch norm of the layer `name`, by the statistics of the batch at hand."""
    return nn.batch_norm(x, gamma, beta)


def normalisation(kind: str, groups: int = 1) -> Callable:
    """The function `normalise(name, x, layer, norm)` → x, normalised with the layer's γ and β.

    Args:
        kind: "none"; "batch", which calls `norm`; "layer", over an example's channels, and height and width if it is an
            image; or "group", over each of its `groups` of channels likewise.
    """

    def normalise(name, x, layer, norm):
        if kind == "none":
            return x
        if kind == "batch":
            return (norm or batch_norm_of_batch)(name, x, layer["gamma"], layer["beta"])
        return nn.group_norm(x, groups if kind == "group" else 1, layer["gamma"], layer["beta"])

    return normalise


def layer_init(rng: np.random.Generator, shape: tuple[int, ...], dtype: DTypeLike, norm: str) -> dict[str, np.ndarray]:
    """Weights and zero biases of a layer; γ = 1 and β = 0 if a normalisation follows it."""
    # without normalisation, He's weights are too large for MAML on sine waves
    draw = nn.glorot_uniform if norm == "none" else nn.he_normal
    layer = {"w": draw(rng, shape, dtype), "b": np.zeros(shape[-1], dtype)}
    return layer if norm == "none" else layer | {"gamma": np.ones(shape[-1], dtype), "beta": np.zeros(shape[-1], dtype)}


def check_counts(name: str, **counts: int) -> None:
    """Raises: ValueError, if a count is no integer of at least 1."""
    for what, n in counts.items():
        if not isinstance(n, (int, np.integer)) or isinstance(n, bool) or n < 1:
            raise ValueError(f"{name}: {what} is {n!r}, wanted an integer of at least 1")


def check_one_array(name: str, family) -> None:
    """Raises: ValueError, if the examples of a family are no arrays, but nests of words with weights."""
    if hasattr(family, "vocabulary"):
        raise ValueError(f"{name} wants an array per example; this family's examples are ids with weights, which the"
                         " network embedding takes")  # fmt: skip


def check_norm(name: str, norm: str, norms: tuple[str, ...], statistics: str = "transductive") -> None:
    """Raises: ValueError, if `norm` or `statistics` is unknown, or `statistics` is chosen without batch norm."""
    if norm not in norms:
        raise ValueError(f"{name}: norm is {norm!r}, wanted one of {', '.join(norms)}")
    if statistics not in STATISTICS:
        raise ValueError(f"{name}: statistics is {statistics!r}, wanted one of {', '.join(STATISTICS)}")
    if statistics != "transductive" and norm != "batch":
        raise ValueError(f"{name}: statistics is {statistics!r}, which only batch norm has; norm is {norm!r}")
