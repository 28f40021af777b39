"""The inner loop: θ₀, θ₁, θ₂, … by an optimiser on the support set, and all of it can be differentiated through.

    for theta in descend(loss, theta, support, settings): ...       endless; the optimiser's state stays inside
    nth(descend(...), K)                                            θ_K
    of_task = through(adapt)                                        the exact gradient of L_q(θ_K) through `adapt`

    g ← ∇L_s(θₖ),   clipped by value, then by norm;   g ← g + λθₖ   (weight decay, as L2 in PyTorch; not for AdamW)
    SGD        θₖ₊₁ = θₖ − α g
    momentum   m ← μ m + g,   θₖ₊₁ = θₖ − α m
    Nesterov   m ← μ m + g,   θₖ₊₁ = θₖ − α (g + μ m)
    Adam       θₖ₊₁ = θₖ − α m̂ / (√(v̂ + r) + ε)        (`optim.adam`; AdamW after θₖ ← θₖ − αλθₖ)

The state is zero at the start of each task. √v has no derivative at v = 0, where a gradient is 0: r = 1e-16 stands
under the root, as `eps_root` does in optax. (TorchOpt's `MetaAdam` has it too; `higher` puts ε itself there.)

At its first step from zero state Adam moves by α g / (|g| + ε), whose derivative is almost 0: exact MAML with one step
of Adam is FOMAML up to terms of order ε.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from .. import optim
from ..engine import value_and_grad
from ..inputs import check_converging
from ..nest import Nest, tree_leaves, tree_map
from ..numpy_api import as_array
from ..ops import in_dtype
from ..runs.settings import option

OPTIMISERS = ("sgd", "momentum", "nesterov", "adam", "adamw")
EPS_ROOT = 1e-16
MOMENTUM = {"inner_optimizer": ("momentum", "nesterov")}
ADAM = {"inner_optimizer": ("adam", "adamw")}


@dataclass(frozen=True)
class Steps:
    """How many steps, and how long: what every algorithm with an inner loop has."""

    inner_steps: int = option(1, "K, gradient steps of the inner loop in training", least=0)
    inner_lr: float = option(0.005, "α, rate of the inner loop, for a loss that is a mean", least=0)


@dataclass(frozen=True)
class Settings(Steps):
    """The inner loop of most algorithms, which are based on it."""

    inner_optimizer: str = option("sgd", "optimiser of the inner loop", choices=OPTIMISERS)
    inner_momentum: float = option(0.9, "μ of momentum and Nesterov inside", least=0, where=MOMENTUM)
    inner_beta1: float = option(0.9, "β₁ of Adam inside: the mean of gradients", least=0, where=ADAM)
    inner_beta2: float = option(0.999, "β₂ of Adam inside: the mean of their squares", least=0, where=ADAM)
    inner_eps: float = option(1e-8, "ε of Adam inside, outside of the root", least=0, where=ADAM)
    inner_decay: float = option(
        0.0, "λ, weight decay inside: λθ is added to the gradient, for adamw αλθ is taken off θ", least=0
    )
    inner_clip_value: float = option(0.0, "inner gradients are clipped to ± this; 0: off", least=0)
    inner_clip_norm: float = option(
        0.0, "an inner gradient of a greater norm is scaled to it; 0: off", least=0, most=1e100
    )


def init(theta: Nest, settings) -> Nest:
    """Return θ, which is all that is learned."""
    return theta


def descend(
    loss: Callable, theta: Nest, support: tuple, settings: Settings, gradient: Callable | None = None
) -> Iterator[Nest]:
    """θ₀ = θ, θ₁, θ₂, …, without end, each after one more step on the support set.

    Args:
        loss: `loss(theta, *support)` → (scalar, aux).
        theta: a nest of floating-point arrays.
        support: what the loss takes beside θ.
        settings: the optimiser and its rates; `inner_steps` is not read.
        gradient: `gradient(loss, θₖ, support, k)`, in the place of `support_gradient`.

    Raises:
        FloatingPointError: a support loss is not finite; the step is named.

    >>> from itertools import islice
    >>> from tinymaml.algorithms.inner import Settings, descend
    >>> loss = lambda w, t: (np.mean((w - t) ** 2), 0.0)
    >>> path = descend(loss, np.array(0.0), (np.array([2.0]),), Settings(inner_lr=0.25))
    >>> [float(w) for w in islice(path, 4)]
    [0.0, 1.0, 1.5, 1.75]
    """
    return (theta for theta, _ in steps(loss, theta, itertools.repeat(support), settings, gradient=gradient))


def steps(
    loss: Callable,
    theta: Nest,
    supports: Iterable[tuple],
    settings: Settings,
    state: Nest = None,
    gradient: Callable | None = None,
) -> Iterator[tuple[Nest, Nest]]:
    """(θₖ, the optimiser's state) of `descend`, with a support set per step, and from a given state (None: zero)."""
    gradient = gradient or support_gradient
    opt = optimizer(settings)
    state = opt.init(theta) if state is None else state
    for k, support in enumerate(supports):
        yield theta, state
        grads = clipped(gradient(loss, theta, support, k), settings)
        if settings.inner_decay and settings.inner_optimizer != "adamw":
            # g ← g + λθ, the gradient of λ/2 ‖θ‖²
            grads = tree_map(lambda g, p: g + settings.inner_decay * p, grads, theta)
        theta, state = opt.update(theta, grads, state)


def optimizer(settings: Settings) -> optim.Optimizer:
    """The optimiser of the inner loop that the settings name."""
    lr, betas = settings.inner_lr, (settings.inner_beta1, settings.inner_beta2)
    match settings.inner_optimizer:
        case "sgd":
            return optim.sgd(lr)
        case "momentum":
            return optim.momentum(lr, settings.inner_momentum)
        case "nesterov":
            return optim.nesterov(lr, settings.inner_momentum)
        case "adam":
            return optim.adam(lr, *betas, settings.inner_eps, EPS_ROOT)
        case "adamw":
            return optim.adamw(lr, *betas, settings.inner_eps, EPS_ROOT, settings.inner_decay)
    raise ValueError(f"inner_optimizer is {settings.inner_optimizer!r}, wanted one of {', '.join(OPTIMISERS)}")


def support_gradient(loss: Callable, theta: Nest, support: tuple, k: int) -> Nest:
    """g_s(θₖ), of a support loss that is finite, or the error names step k."""
    value, grads = value_and_grad(lambda theta: loss(theta, *support)[0])(theta)
    check_converging(value, f"inner step {k}: the support loss")
    return grads


def clipped(grads: Nest, settings: Settings) -> Nest:
    """The gradients, no element beyond ± `inner_clip_value` and no norm beyond `inner_clip_norm`; 0 is no bound.

    >>> from tinymaml.algorithms.inner import Settings, clipped
    >>> clipped({"w": np.array([3.0, 4.0])}, Settings(inner_clip_norm=1.0))
    {'w': array([0.6, 0.8])}
    """
    if value := settings.inner_clip_value:
        grads = tree_map(lambda g: np.clip(g, -value, value), grads)
    if norm := settings.inner_clip_norm:
        # g ← g / max(1, ‖g‖ / c): one norm of all leaves together. The root is taken of at least 1, so that it has a
        # derivative where g = 0
        excess = np.sqrt(np.maximum(dot(grads, grads) / norm**2, 1))
        grads = tree_map(lambda g: g / in_dtype(excess, g.dtype), grads)
    return grads


def dot(a: Nest, b: Nest):
    """⟨a, b⟩, over all leaves of two nests."""
    return functools.reduce(operator.add, [np.sum(x * y) for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True)])


def plus(x: Nest, a, v: Nest) -> Nest:
    """x + a v for a number or scalar a, in the dtypes of x."""
    rate = lambda x: a if isinstance(a, (int, float)) else in_dtype(a, x.dtype)  # noqa: E731
    return tree_map(lambda x, v: as_array(x + rate(x) * v), x, v)


def nth(thetas: Iterator[Nest], k: int) -> Nest:
    """θₖ of a sequence that begins with θ₀; nothing beyond it is computed.

    >>> from itertools import count
    >>> from tinymaml.algorithms.inner import nth
    >>> nth(count(10), 3)
    13
    """
    return next(itertools.islice(thetas, k, None))


def through(adapt: Callable) -> Callable:
    """The `of_task` whose gradient is exact: ∂L_q(θ_K)/∂meta, through all K = `inner_steps` steps of `adapt`.

    >>> from tinymaml.algorithms.inner import Settings, descend, through
    >>> loss = lambda w, t: (np.mean((w - t) ** 2), 0.0)
    >>> of_task = through(descend)
    >>> of_task(loss, np.array(0.0), (np.array([2.0]),), (np.array([3.0]),), Settings(inner_lr=0.25))
    ((array(4.), 0.0), array(-2.))
    """

    def of_task(loss, meta, support, query, settings):
        def query_loss(meta):
            return loss(nth(adapt(loss, meta, support, settings), settings.inner_steps), *query)

        return value_and_grad(query_loss, has_aux=True)(meta)

    return of_task
