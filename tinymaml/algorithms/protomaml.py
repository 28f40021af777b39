"""Proto-MAML (Triantafillou et al., 2020, arXiv 1903.03096, section 3.2): the head begins at the means of the classes.

    c_k = mean of f(x) over the support examples of the class k, where f is the body of the network
    w_k = 2 c_k,   b_k = −‖c_k‖²,   so that   w_k · f + b_k = ‖f‖² − ‖f − c_k‖²
    θₖ₊₁ = θₖ − α ∇L_s(θₖ),   G = ∇_θ L_q(θ_K), also through the c_k

Without steps (K = 0) it is a prototypical network (Snell, Swersky and Zemel, 2017): the nearest mean is predicted. θ's
own head is never read; its gradient is 0. In fo-Proto-MAML (`first_order`) the inner gradients are held constant, and G
still goes through the c_k. A class that the support set lacks is not predicted: its w is 0, and its b is −10⁹.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..engine import stop_gradient
from ..nest import tree_map
from ..runs.settings import option
from . import inner
from .inner import descend, init, support_gradient, through  # noqa: F401
from .partial import adapt_head, cut

ABSENT = -1e9  # the logit of a class without support examples

exact = classes = True


@dataclass(frozen=True)
class Settings(inner.Settings):
    adapts: str = option("all", "what adapts: body and head, or the head alone", choices=("all", "head"))
    first_order: bool = option(False, "fo-Proto-MAML: hold the inner gradients constant")


def adapt(loss, theta, support, settings):
    def gradient(loss, theta, support, k):
        grads = support_gradient(loss, theta, support, k)
        return tree_map(stop_gradient, grads) if settings.first_order else grads

    x, y = support
    run_body, _, (last,) = cut(loss, theta)
    features = run_body(theta, x)
    features = features["features"] if isinstance(features, dict) else features  # with statistics of batch norm
    start = {**theta, last: first_head(features, y, theta[last]["b"].shape[0])}
    return (adapt_head if settings.adapts == "head" else descend)(loss, start, support, settings, gradient)


of_task = through(adapt)


def first_head(features, y, ways):
    """The linear layer {"w": (F, ways), "b": (ways,)} whose largest logit is that of the nearest mean.

    Args:
        features: (N, F).   y: labels in 0 … ways − 1, (N,).
    """
    members = (y[:, None] == np.arange(ways)).astype(features.dtype)  # (N, ways), 0 or 1
    counts = np.sum(members, 0)
    # c_k = Σ f / n_k,   w_k = 2 c_k,   b_k = −‖c_k‖²
    means = (members.T @ features) / np.maximum(counts, 1)[:, None]
    return {"w": 2 * means.T, "b": np.where(counts > 0, -np.sum(means * means, 1), ABSENT)}


def check(network, settings):
    wanted = "protomaml wants a network that is cut into a body and a head, which is one linear layer {w, b}"
    if network.body is None or network.head is None or len(network.last) != 1:
        raise ValueError(wanted)
    params = network.init(np.random.default_rng(0), np.float64)
    if params.keys() <= {*network.last}:
        raise ValueError(f"{wanted}; the body has no parameters, and nothing would be learned")
    layer = params[network.last[0]]
    if not isinstance(layer, dict) or layer.keys() != {"w", "b"} or layer["w"].ndim != 2:
        raise ValueError(f"{wanted}; its head is {network.last[0]}")
    features = np.ones((1, layer["w"].shape[0]))
    if not np.allclose(network.head(params, features), features @ layer["w"] + layer["b"]):
        raise ValueError(f"{wanted}; its head {network.last[0]} is not f w + b")
