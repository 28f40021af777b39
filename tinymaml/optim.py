"""Optimisers as pairs of functions over nests: no state hides anywhere.

    opt = adam(1e-3);  state = opt.init(params);  params, state = opt.update(params, grads, state)

They are written in plain NumPy, so an update can be differentiated through, and a state can be saved as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .engine import Tensor
from .nest import Nest, tree_map
from .numpy_api import as_array
from .ops import in_dtype


class Optimizer(NamedTuple):
    """`init(params)` → state;  `update(params, grads, state)` → (params, state)."""

    init: Callable[[Nest], Nest]
    update: Callable[[Nest, Nest, Nest], tuple[Nest, Nest]]


def sgd(lr: float) -> Optimizer:
    """θ ← θ − β g.

    >>> opt, params = tm.optim.sgd(0.1), {"w": np.array(1.0)}
    >>> opt.update(params, {"w": np.array(5.0)}, opt.init(params))
    ({'w': array(0.5)}, {})
    """
    lr = _number(lr)

    def update(params, grads, state):
        return tree_map(lambda p, g: as_array(p - lr * g), params, grads), state

    return Optimizer(lambda params: {}, update)


def momentum(lr: float, mu: float = 0.9) -> Optimizer:
    """m ← μ m + g,  θ ← θ − β m (Polyak, 1964; PyTorch's form).

    >>> opt, w = tm.optim.momentum(1.0, mu=0.5), np.array(0.0)
    >>> state = opt.init(w)
    >>> for g in (1.0, 1.0):
    ...     w, state = opt.update(w, np.array(g), state)
    >>> w, state  # the first step is −1, the second −(0.5 + 1)
    (array(-2.5), {'m': array(1.5)})
    """
    lr, mu = _number(lr), _number(mu)

    def update(params, grads, state):
        m = tree_map(lambda m, g: as_array(mu * m + g), state["m"], grads)
        return tree_map(lambda p, m: as_array(p - lr * m), params, m), {"m": m}

    return Optimizer(lambda params: {"m": tree_map(_zeros, params)}, update)


def nesterov(lr: float, mu: float = 0.9) -> Optimizer:
    """m ← μ m + g,  θ ← θ − β (g + μ m) (Nesterov, 1983; PyTorch's form).

    >>> opt = tm.optim.nesterov(1.0, mu=0.5)
    >>> opt.update(np.array(0.0), np.array(1.0), opt.init(np.array(0.0)))
    (array(-1.5), {'m': array(1.)})
    """
    lr, mu = _number(lr), _number(mu)

    def update(params, grads, state):
        m = tree_map(lambda m, g: as_array(mu * m + g), state["m"], grads)
        return tree_map(lambda p, g, m: as_array(p - lr * (g + mu * m)), params, grads, m), {"m": m}

    return Optimizer(momentum(lr, mu).init, update)


def adam(lr: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, eps_root: float = 0.0) -> Optimizer:
    """Adam (Kingma and Ba, 2015, algorithm 1).

    m ← b₁m + (1 − b₁)g,  m̂ = m / (1 − b₁ᵗ)
    v ← b₂v + (1 − b₂)g²,  v̂ = v / (1 − b₂ᵗ)
    θ ← θ − β m̂ / (√(v̂ + eps_root) + eps)

    `eps_root` keeps the root away from 0, where its derivative is infinite: give 1e-16 when an update is differentiated
    through (an inner loop with Adam), or a parameter whose gradient is 0 makes everything NaN.

    >>> opt, params = tm.optim.adam(0.1), np.zeros(2)
    >>> params, state = opt.update(params, np.array([100.0, -0.01]), opt.init(params))
    >>> params.round(4)  # each moves by the rate, whatever the size of its gradient
    array([-0.1,  0.1])
    """
    lr, b1, b2, eps, eps_root = map(_number, (lr, b1, b2, eps, eps_root))

    def init(params):
        return {"t": np.zeros((), np.int64), "m": tree_map(_zeros, params), "v": tree_map(_zeros, params)}

    def update(params, grads, state):
        t = state["t"] + 1
        m = tree_map(lambda m, g: as_array(b1 * m + (1 - b1) * g), state["m"], grads)
        v = tree_map(lambda v, g: as_array(b2 * v + (1 - b2) * g * g), state["v"], grads)
        c1, c2 = 1 - b1**t, 1 - b2**t

        def step(p, m, v):
            m, v = m / in_dtype(c1, m.dtype), v / in_dtype(c2, v.dtype)
            return as_array(p - lr * m / (np.sqrt(v + eps_root) + eps))

        return tree_map(step, params, m, v), {"t": as_array(t), "m": m, "v": v}

    return Optimizer(init, update)


def adamw(
    lr: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, eps_root: float = 0.0, decay: float = 0.01
) -> Optimizer:
    """θ ← θ − β λ θ, then Adam's step (Loshchilov and Hutter, 2019, algorithm 2, in PyTorch's order); λ is `decay`.

    >>> opt, params = tm.optim.adamw(0.1, decay=0.5), np.ones(1)
    >>> opt.update(params, np.zeros(1), opt.init(params))[0]  # without a gradient θ decays
    array([0.95])
    """
    lr, decay = _number(lr), _number(decay)
    plain = adam(lr, b1, b2, eps, eps_root)

    def update(params, grads, state):
        return plain.update(tree_map(lambda p: as_array(p - lr * decay * p), params), grads, state)

    return Optimizer(plain.init, update)


def _zeros(p) -> np.ndarray:
    return np.zeros(np.shape(p), p.dtype if isinstance(p, (Tensor, np.ndarray)) else float)


def _number(x):
    """A rate as a Python number, which does not promote float32 as a NumPy one would."""
    return x if isinstance(x, Tensor) else float(x)
