"""Meta-MinibatchProx in PyTorch: gradient descent with a pull to θ, and the gradient of the envelope."""

from __future__ import annotations

from . import imaml
from .of_tasks import grad, torch


class Proximal(imaml.IMAML):
    def task(self, support, query):
        phi = self.adapt(support)
        return self.loss(phi, *query), self.gradient(phi, support, query)

    def gradient(self, phi, support, query):
        return {n: self.lam * (p - phi[n]) for n, p in self.theta.items()}


class ByWeightDecay(Proximal):
    """w = φ − θ is what moves, with the optimiser's weight decay: it pulls w to 0."""

    def adapt(self, support):
        w = {n: torch.zeros_like(p).requires_grad_() for n, p in self.theta.items()}
        optimizer = torch.optim.SGD(w.values(), lr=self.lr, weight_decay=self.lam)
        for _ in range(self.steps):
            optimizer.zero_grad()
            self.loss({n: p.detach() + w[n] for n, p in self.theta.items()}, *support).backward()
            optimizer.step()
        return {n: p.detach() + w[n] for n, p in self.theta.items()}


PullMissing, PullAtTheEnd, PullDoubled, WeightDecay, PullAway = imaml.pulled(Proximal)


PullOverSize, PullImplicit = imaml.pulled_otherwise(Proximal)


class OverSteps(Proximal):
    def gradient(self, phi, support, query):
        return {n: self.lam * (p - phi[n]) / self.steps for n, p in self.theta.items()}


class FactorMissing(Proximal):
    def gradient(self, phi, support, query):
        return {n: p - phi[n] for n, p in self.theta.items()}


class FactorHalved(Proximal):
    def gradient(self, phi, support, query):
        return {n: self.lam / 2 * (p - phi[n]) for n, p in self.theta.items()}


class FactorDoubled(Proximal):
    def gradient(self, phi, support, query):
        return {n: 2 * self.lam * (p - phi[n]) for n, p in self.theta.items()}


class Direction(Proximal):
    def gradient(self, phi, support, query):
        return {n: self.lam * (phi[n] - p) for n, p in self.theta.items()}


class TimesRate(Proximal):
    def gradient(self, phi, support, query):
        return {n: self.lr * self.lam * (p - phi[n]) for n, p in self.theta.items()}


class Through(Proximal):
    task = imaml.Unrolled.task


class QueryGradient(Proximal):
    def gradient(self, phi, support, query):
        return grad(self.loss(phi, *query), phi)


class SupportGradient(Proximal):
    def gradient(self, phi, support, query):
        return grad(self.loss(phi, *support), phi)


class Summed(Proximal):
    def together(self, grads):
        return {n: sum(g[n] for g in grads) for n in self.theta}


class StepLess(Proximal):
    def __init__(self, case):
        super().__init__(case)
        self.steps -= 1


class AdaptsOnQuery(Proximal):
    def task(self, support, query):
        return super().task(query, query)


class Solved(Proximal):
    adapt, curvature, split = imaml.Solved.adapt, imaml.Solved.curvature, staticmethod(imaml.Direct.split)


HONEST = [Proximal, ByWeightDecay]


class WholeSlope(Proximal):
    """the gradient of the inner loss, pull and all, at φ_K"""

    def gradient(self, phi, support, query):
        return self.inner_gradient(self.leaves(phi), support)


class MeanOfThePath(Proximal):
    """λ (θ − the mean of φ₁ … φ_K)"""

    def adapt(self, support):
        phi, self.path = self.leaves(self.theta), []
        for _ in range(self.steps):
            g = self.inner_gradient(phi, support)
            phi = self.leaves({n: p - self.lr * g[n] for n, p in phi.items()})
            self.path.append(phi)
        return phi

    def gradient(self, phi, support, query):
        return {n: self.lam * (p - sum(w[n] for w in self.path) / self.steps) for n, p in self.theta.items()}


MADE = [
    (WholeSlope, {"prox_slope_of_another_loss"}),
    (MeanOfThePath, {"prox_other_points"}),
    (PullMissing, {"prox_pull_missing"}),
    (PullAtTheEnd, {"prox_pull_once_at_the_end"}),
    (PullDoubled, {"prox_pull_of_other_strength"}),
    (WeightDecay, {"prox_pull_to_another_point"}),
    (PullAway, {"prox_pull_away"}),
    (FactorMissing, {"prox_factor_missing"}),
    (FactorHalved, {"prox_other_factor"}),
    (FactorDoubled, {"prox_other_factor", "doubled_gradient"}),
    (Direction, {"prox_sign", "negated_gradient"}),
    (TimesRate, {"prox_with_inner_rate"}),
    (Through, {"prox_gone_through"}),
    (QueryGradient, {"prox_query_gradient"}),
    (SupportGradient, {"prox_support_gradient"}),
    (Summed, {"sum_over_tasks"}),
    (StepLess, {"one_step_less"}),
    (AdaptsOnQuery, {"support_is_query"}),
    (Solved, {"prox_solved"}),
    (PullOverSize, {"prox_pull_over_size"}),
    (PullImplicit, {"prox_pull_implicit"}),
    (OverSteps, {"prox_over_steps"}),
]
