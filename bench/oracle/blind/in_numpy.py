"""Honest pieces of MAML in NumPy, which the blind implementations share; their mistakes are in their own files."""

from __future__ import annotations

import numpy as np

import tinymaml as tm
from tinymaml.oracle import models


def given(case, layers=None):
    """(loss, θ, [(support, query), …]), with other layers if wanted."""
    loss, params, ((xs, ys), (xq, yq)) = case.numpy()
    loss = loss if layers is None else models.loss_in(layers, case.model)
    return loss, params, [((xs[t], ys[t]), (xq[t], yq[t])) for t in range(case.tasks)]


def step(params, grads, rate):
    """θ − α g"""
    return {n: p - rate * grads[n] for n, p in params.items()}


def dot(a, b):
    """aᵀ b"""
    return sum(np.sum(a[n] * b[n]) for n in a)


def mean_of(trees):
    """The mean of {name: array}s."""
    return {n: sum(tree[n] for tree in trees) / len(trees) for n in trees[0]}


def path(case, loss, params, support):
    """[θ₀, …, θ_K], through which the engine differentiates."""
    thetas = [params]
    for _ in range(case.inner_steps):
        thetas.append(step(thetas[-1], tm.grad(loss)(thetas[-1], *support), case.inner_lr))
    return thetas


def adapt(case, loss, params, support):
    """θ_K"""
    return path(case, loss, params, support)[-1]


def hvp(loss, params, batch, v):
    """The Hessian of the loss at these parameters, times v."""
    return tm.hvp(lambda p: loss(p, *batch), (params,), v)


def over_tasks(case, one, layers=None):
    """The gradient of the mean over tasks of one(loss, θ, support, query), by the engine."""
    loss, params, tasks = given(case, layers)
    value, grads = tm.value_and_grad(lambda p: sum(one(loss, p, s, q) for s, q in tasks) / len(tasks))(params)
    return {"meta_grad": grads, "meta_loss": value}


def by_hand(case, one, layers=None):
    """The means over tasks of one(loss, θ, support, query) → (loss, gradient)."""
    loss, params, tasks = given(case, layers)
    values, grads = zip(*(one(loss, params, s, q) for s, q in tasks), strict=True)
    return {"meta_grad": mean_of(grads), "meta_loss": sum(values) / len(values)}
