"""MAML++ (Antoniou, Edwards and Storkey, ICLR 2019, arXiv 1810.09502): six changes to MAML; each can be left out.

    F = Σₖ wₖ L_q(θₖ),   θₖ₊₁ = θₖ − αₖ g_s(θₖ);   learned: θ, the αₖ of each tensor, γₖ and βₖ of each batch norm

1. Multi-step loss: w goes from 1/K each to the last loss only, in E epochs. The paper gives no formula. In the code, at
   epoch e < E, wₖ = max(1/K − e/KE, .03/K) for k < K, and the last has the rest; from E on only the last loss counts,
   so that the floor .03/K is never reached if E ≤ 33. `multi_step_epochs` = 0 leaves it out.
2. Statistics of batch norm per step, if a network's `statistics` are running. The code has them, but never uses them:
   it normalises by the batch at hand. `per_step_statistics`
3. γ and β per step, (K, C), which do not adapt: the gradient of step k takes row k, the query loss of θₖ row k − 1,
   beyond K steps the last row. (Otherwise they adapt like any parameter.) `per_step_norm`
4. Learned rates. The paper says per layer and step, the code has one per tensor and step, as here. It starts them from
   `task_learning_rate`, .1, and never reads its option `init_inner_loop_learning_rate`. Here α = `inner_lr` · a is
   learned by a, from 1 on: a step of Adam, about β whatever the gradient, is then small for small rates too.
   `learned_rates`
5. First order at first: 50 epochs in the paper; none in all 36 configurations of the code, nor here.
   `first_order_epochs`
6. Cosine outer rate to 1e-5 (from 1e-3), here per iteration, in the code per epoch. `schedule` = constant leaves it
   out.

The published accuracy is that of an ensemble of the five checkpoints that are best on validation.
"""

from __future__ import annotations

import functools
import itertools
import operator
from dataclasses import dataclass

import numpy as np

from ..engine import stop_gradient, value_and_grad
from ..nest import tree_fill, tree_items, tree_leaves, tree_map
from ..ops import in_dtype
from ..runs.settings import option
from . import inner
from .inner import support_gradient

defaults = {"inner_steps": 5, "schedule": "cosine", "final_lr": 1e-5}
exact = True


@dataclass(frozen=True)
class Settings(inner.Steps):
    epoch: int = option(500, "meta-iterations per epoch", least=1)
    multi_step_epochs: int = option(10, "E, epochs after which only the last query loss counts", least=0)
    first_order_epochs: int = option(0, "epochs of first-order gradients at the start", least=0)
    learned_rates: bool = option(True, "learn a rate per tensor and inner step")
    per_step_norm: bool = option(True, "learn γ and β of batch norm per inner step")
    per_step_statistics: bool = option(True, "keep running statistics of batch norm per inner step")


def row_count(settings):
    return max(settings.inner_steps, 1)


def norm_steps(settings):
    return row_count(settings) if settings.per_step_statistics else 1


def is_per_step(path, settings):
    """Whether the leaf of θ at `path` is the γ or β of a batch norm, with one row per step."""
    return settings.per_step_norm and path.endswith(("['gamma']", "['beta']"))


def row(p, k):
    return p[min(max(k, 0), p.shape[0] - 1)]


def init(theta, settings):
    """{"theta": θ with γ and β of shape (K, C), "rates": {the path of a leaf that adapts: a, (K,)}}."""
    K, leaves = row_count(settings), [(path, p, is_per_step(path, settings)) for path, p in tree_items(theta)]
    meta = {"theta": tree_fill(theta, [np.stack([p] * K) if kept else p for _, p, kept in leaves])}
    if settings.learned_rates:
        meta["rates"] = {path: np.ones(K, p.dtype) for path, p, kept in leaves if not kept}
    return meta


def at_step(theta, settings, k):
    """θ with γ and β of step k."""
    return tree_fill(theta, [row(p, k) if is_per_step(path, settings) else p for path, p in tree_items(theta)])


def adapt(loss, meta, support, settings, first_order=False):
    theta = meta["theta"]
    for k in itertools.count():
        yield at_step(theta, settings, k - 1)
        grads = support_gradient(lambda theta, *s, k=k: loss(at_step(theta, settings, k), *s), theta, support, k)
        grads = tree_map(stop_gradient, grads) if first_order else grads

        def moved(path, p, g, k=k):
            # θₖ₊₁ = θₖ − αₖ g_s(θₖ),   αₖ = α aₖ
            g = row(meta["rates"][path], k) * g if settings.learned_rates else g
            return p - settings.inner_lr * g

        leaves = zip(tree_items(theta), tree_leaves(grads), strict=True)
        theta = tree_fill(theta, [p if is_per_step(path, settings) else moved(path, p, g) for (path, p), g in leaves])


def shared(iteration, settings):
    """The weights of the query losses, and whether derivatives are of first order, at a meta-iteration."""
    epoch = iteration // settings.epoch
    return loss_weights(epoch, settings), epoch < settings.first_order_epochs


def loss_weights(epoch, settings):
    """w, (K,), at an epoch; (1,) once only the last loss counts.

    >>> from tinymaml.algorithms.mamlpp import Settings, loss_weights
    >>> settings = Settings(inner_steps=5, multi_step_epochs=10)
    >>> [loss_weights(epoch, settings).round(3).tolist() for epoch in (0, 5, 10)]
    [[0.2, 0.2, 0.2, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1, 0.6], [1.0]]
    """
    K, E = row_count(settings), settings.multi_step_epochs
    if epoch >= E or K == 1:
        return np.ones(1)
    # wₖ = max(1/K − e/KE, .03/K),   w_K = 1 − Σₖ wₖ
    earlier = max(1 / K - epoch / (K * E), 0.03 / K)
    return np.array([earlier] * (K - 1) + [1 - (K - 1) * earlier])


def of_task(loss, meta, support, query, settings, weights=None, first_order=False):
    weights = loss_weights(settings.multi_step_epochs, settings) if weights is None else weights

    def objective(meta):
        K, n = settings.inner_steps, weights.shape[0]
        thetas = list(itertools.islice(adapt(loss, meta, support, settings, first_order), min(K, 1), K + 1))
        results = [loss(theta, *query) for theta in thetas[-n:]]
        # F = Σₖ wₖ L_q(θₖ)
        value = functools.reduce(operator.add, [in_dtype(weights[i], v.dtype) * v for i, (v, _) in enumerate(results)])
        aux = results[-1][1]
        if isinstance(aux, dict) and "norms" in aux:
            results = [loss(theta, *query) for theta in thetas[:-n]] + results
            norms = [aux["norms"] for _, aux in results[-norm_steps(settings) :]]
            aux = aux | {"norms": tree_map(lambda *steps: np.stack(steps), *norms)}
        return value, aux

    return value_and_grad(objective, has_aux=True)(meta)
