"""Honest pieces of MAML in PyTorch, which the blind implementations share; their mistakes are in their own files."""

from __future__ import annotations

import torch

from tinymaml.oracle import models


def given(case, layers=None):
    """(loss, θ, [(support, query), …]), with other layers if wanted."""
    loss, params, ((xs, ys), (xq, yq)) = case.torch()
    loss = loss if layers is None else models.loss_in(layers, case.model)
    return loss, params, [((xs[t], ys[t]), (xq[t], yq[t])) for t in range(case.tasks)]


def grads_of(value, params, create_graph=True):
    """{name: ∂value/∂parameter}; 0 for a parameter that is not used."""
    leaves = list(params.values())
    gs = torch.autograd.grad(value, leaves, create_graph=create_graph, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(params.items(), gs, strict=True)}


def step(params, grads, rate):
    """θ − α g"""
    return {n: p - rate * grads[n] for n, p in params.items()}


def adapt(case, loss, params, support):
    """K steps of SGD that can be differentiated."""
    for _ in range(case.inner_steps):
        params = step(params, grads_of(loss(params, *support), params), case.inner_lr)
    return params


def answer(total, params):
    """What a candidate returns."""
    return {"meta_grad": grads_of(total, params, create_graph=False), "meta_loss": total.detach()}


def over_tasks(case, one, layers=None):
    """The gradient of the mean over tasks of one(loss, θ, support, query)."""
    loss, params, tasks = given(case, layers)
    return answer(sum(one(loss, params, s, q) for s, q in tasks) / len(tasks), params)


def plain(case, layers=None):
    """MAML, with other layers if wanted."""
    return over_tasks(case, lambda loss, p, s, q: loss(adapt(case, loss, p, s), *q), layers)


def leaves(params):
    """A copy of the parameters with a graph of its own."""
    return {n: p.detach().clone().requires_grad_() for n, p in params.items()}


def path(case, loss, params, support):
    """[θ₀, …, θ_K], all constants."""
    thetas = [leaves(params)]
    for _ in range(case.inner_steps):
        at = thetas[-1]
        thetas.append(leaves(step(at, grads_of(loss(at, *support), at, create_graph=False), case.inner_lr)))
    return thetas


def hvp(loss, params, batch, v):
    """The Hessian of the loss at these parameters, times v."""
    at = leaves(params)
    return grads_of(dot(grads_of(loss(at, *batch), at), v), at, create_graph=False)


def flatten(params):
    """One vector of all parameters, in their order."""
    return torch.cat([p.reshape(-1) for p in params.values()])


def unflatten(vector, like):
    """The parameters in such a vector."""
    parts = vector.split([p.numel() for p in like.values()])
    return {n: part.reshape(p.shape) for (n, p), part in zip(like.items(), parts, strict=True)}


def dot(a, b):
    """aᵀ b"""
    return sum((a[n] * b[n]).sum() for n in a)
