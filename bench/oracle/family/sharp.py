"""Sharp-MAML's lower level in PyTorch: two gradients per inner step, both with a graph."""

from __future__ import annotations

from .of_tasks import OfTasks, grad, norm, plus, torch


class Sharp(OfTasks):
    def __init__(self, case):
        super().__init__(case)
        self.rho = case.settings["radius"]

    def task(self, support, query):
        fast = dict(self.theta)
        for k in range(self.steps):
            self.k = k
            fast = self.step(fast, support, query)
        loss = self.loss(fast, *query)
        return loss, grad(loss, self.theta)

    def step(self, fast, support, query):
        uphill = self.uphill(fast, self.perturbation(self.first(fast, support, query)))
        g = grad(self.loss(uphill, *support), uphill, create_graph=True)
        return plus(fast, -self.lr, g)

    def first(self, fast, support, query):
        return grad(self.loss(fast, *support), fast, create_graph=True)

    def uphill(self, fast, e):
        return plus(fast, 1, e)

    def perturbation(self, g):
        size = self.size(g)
        return {n: self.rho * x / size for n, x in g.items()}

    def size(self, g):
        return norm(g)


class WithEpsilon(Sharp):
    """As SAM's code has it."""

    def size(self, g):
        return norm(g) + 1e-12


class OfStackedNorms(Sharp):
    """As in the published SAM for PyTorch: the norm of the tensors' norms."""

    def size(self, g):
        return torch.norm(torch.stack([x.norm(p=2) for x in g.values()]), p=2)


class NormHeld(Sharp):
    def size(self, g):
        return norm(g).item()


class Held(Sharp):
    def perturbation(self, g):
        return {n: e.detach() for n, e in super().perturbation(g).items()}


class PerTensor(Sharp):
    def perturbation(self, g):
        return {n: self.rho * x / torch.linalg.vector_norm(x) for n, x in g.items()}


class Squared(Sharp):
    def size(self, g):
        return norm(g) ** 2


class NotDivided(Sharp):
    def size(self, g):
        return 1


class LargeEpsilon(Sharp):
    def size(self, g):
        return norm(g) + 1e-2


class RhoMissing(Sharp):
    def __init__(self, case):
        super().__init__(case)
        self.rho = 1


class RhoTimesRate(Sharp):
    def __init__(self, case):
        super().__init__(case)
        self.rho = self.rho * self.lr


class Adaptive(Sharp):
    """adaptive=True of the published SAM for PyTorch."""

    def uphill(self, fast, e):
        size = norm({n: p.abs() * self.g[n] for n, p in fast.items()})
        return {n: p + self.rho * p**2 * self.g[n] / size for n, p in fast.items()}

    def perturbation(self, g):
        self.g = g
        return g


class WithEta(Adaptive):
    """ASAM with its η."""

    def uphill(self, fast, e):
        t = {n: (p.abs() + 0.02) * self.g[n] for n, p in fast.items()}
        return {n: p + self.rho * (p.abs() + 0.02) * t[n] / norm(t) for n, p in fast.items()}


class EpsilonInRoot(Sharp):
    def size(self, g):
        return torch.sqrt(norm(g) ** 2 + 1e-4)


class QueryPerturbed(Sharp):
    def task(self, support, query):
        fast = dict(self.theta)
        for k in range(self.steps):
            self.k = k
            fast = self.step(fast, support, query)
        g = grad(self.loss(fast, *query), fast, create_graph=True)
        loss = self.loss(self.uphill(fast, self.perturbation(g)), *query)
        return loss, grad(loss, self.theta)


class Downhill(Sharp):
    def uphill(self, fast, e):
        return plus(fast, -1, e)


class Kept(Sharp):
    def step(self, fast, support, query):
        uphill = self.uphill(fast, self.perturbation(self.first(fast, support, query)))
        return plus(uphill, -self.lr, grad(self.loss(uphill, *support), uphill, create_graph=True))


class Missing(Sharp):
    def uphill(self, fast, e):
        return fast


class OfQuery(Sharp):
    def first(self, fast, support, query):
        return grad(self.loss(fast, *query), fast, create_graph=True)


class FirstStepOnly(Sharp):
    def uphill(self, fast, e):
        return super().uphill(fast, e) if self.k == 0 else fast


class OfStart(Sharp):
    def first(self, fast, support, query):
        if self.k == 0:
            self.at_start = super().first(fast, support, query)
        return self.at_start


class FirstOrder(Sharp):
    def step(self, fast, support, query):
        leaves = self.leaves(fast)
        moved = super().step(leaves, support, query)
        return {n: p + (moved[n] - leaves[n]).detach() for n, p in fast.items()}


class Summed(Sharp):
    def together(self, grads):
        return {n: sum(g[n] for g in grads) for n in self.theta}


class SumOfBoth(Sharp):
    def step(self, fast, support, query):
        first = self.first(fast, support, query)
        uphill = self.uphill(fast, self.perturbation(first))
        g = grad(self.loss(uphill, *support), uphill, create_graph=True)
        return plus(fast, -self.lr, {n: x + first[n] for n, x in g.items()})


class HeldPerTensor(PerTensor):
    def perturbation(self, g):
        return {n: e.detach() for n, e in super().perturbation(g).items()}


HONEST = [Sharp, OfStackedNorms]


class GradientOfTheStepBefore(Sharp):
    """the perturbation is made of the gradient before this one"""

    def first(self, fast, support, query):
        g = super().first(fast, support, query)
        before, self.before = g if self.k == 0 else self.before, g
        return before


class RadiusOverSteps(Sharp):
    """ρ / K"""

    def perturbation(self, g):
        return {n: x / self.steps for n, x in super().perturbation(g).items()}


class BothLevels(Sharp):
    """the step of the outer optimiser is SAM's, too"""

    def __call__(self):
        g = {n: x.detach() for n, x in super().__call__()["meta_grad"].items()}
        size = norm(g)
        self.theta = {n: (p + self.rho * g[n] / size).detach().requires_grad_() for n, p in self.theta.items()}
        return super().__call__()


MADE = [
    (BothLevels, {"sharp_upper_level"}),
    (GradientOfTheStepBefore, {"sharp_perturbation_of_another_kind"}),
    (RadiusOverSteps, {"sharp_other_radius"}),
    (WithEpsilon, {"sharp_norm_epsilon"}),
    (NormHeld, {"sharp_norm_held"}),
    (Held, {"sharp_perturbation_held"}),
    (PerTensor, {"sharp_norm_per_tensor"}),
    (Squared, {"sharp_other_norm"}),
    (NotDivided, {"sharp_other_norm"}),
    (LargeEpsilon, {"sharp_norm_epsilon"}),
    (RhoMissing, {"sharp_radius"}),
    (RhoTimesRate, {"sharp_radius"}),
    (Adaptive, {"sharp_adaptive"}),
    (WithEta, {"sharp_adaptive_with_eta"}),
    (EpsilonInRoot, {"sharp_epsilon_in_the_root"}),
    (QueryPerturbed, {"sharp_query_perturbed_too"}),
    (Downhill, {"sharp_downhill"}),
    (Kept, {"sharp_perturbation_kept"}),
    (Missing, {"sharp_missing"}),
    (OfQuery, {"sharp_perturbation_of_query"}),
    (FirstStepOnly, {"sharp_some_steps"}),
    (OfStart, {"sharp_perturbation_of_start"}),
    (SumOfBoth, {"sharp_sum_of_gradients"}),
    (HeldPerTensor, {"sharp_held_and_of_another_norm"}),
    (FirstOrder, {"fomaml"}),
    (Summed, {"sum_over_tasks"}),
]
