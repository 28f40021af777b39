"""What the implementations share: θ, tasks, gradients and Hessian-vector products in PyTorch, and a mean over tasks."""

from __future__ import annotations

from collections.abc import Callable

from tinymaml import extras

torch = extras.require("torch", "peers")


class OfTasks:
    """G and L_q of each task by `task`, and their means."""

    def __init__(self, case):
        self.case, self.lr, self.steps = case, case.inner_lr, case.inner_steps
        self.loss, self.theta, (support, query) = case.torch()
        self.tasks = list(zip(zip(*support, strict=True), zip(*query, strict=True), strict=True))

    def __call__(self) -> dict:
        losses, grads = zip(*(self.task(support, query) for support, query in self.tasks), strict=True)
        return {"meta_grad": self.together(grads), "meta_loss": sum(losses).detach() / len(losses)}

    def together(self, grads):
        return {n: sum(g[n] for g in grads).detach() / len(grads) for n in self.theta}

    def task(self, support, query) -> tuple:
        """(L_q, {name: G})."""
        raise NotImplementedError

    def leaves(self, theta):
        """A copy of the parameters, of which gradients can be taken, and nothing goes back to θ."""
        return {n: p.detach().clone().requires_grad_() for n, p in theta.items()}

    def hvp(self, phi, batch, v):
        """∇²L(φ) v by a double backward pass."""
        phi = self.leaves(phi)
        g = grad(self.loss(phi, *batch), phi, create_graph=True)
        return grad(dot(g, {n: x.detach() for n, x in v.items()}), phi)


def grad(loss, params: dict, create_graph: bool = False) -> dict:
    """∂loss/∂params by name."""
    keep = {"retain_graph": True, "materialize_grads": True}
    got = torch.autograd.grad(loss, list(params.values()), create_graph=create_graph, **keep)
    return dict(zip(params, got, strict=True))


def dot(a: dict, b: dict):
    return sum((a[n] * b[n]).sum() for n in a)


def norm(v: dict):
    return torch.sqrt(dot(v, v))


def plus(a: dict, times, b: dict) -> dict:
    return {n: a[n] + times * b[n] for n in a}


def answers(made: type) -> Callable:
    """The candidate for `oracle.check`."""
    return lambda case: made(case)()
