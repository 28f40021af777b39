"""HF-MAML in PyTorch: the inner loop without a graph, and differences of gradients on the way back."""

from __future__ import annotations

from .of_tasks import OfTasks, grad, norm, plus, torch


class HessianFree(OfTasks):
    def __init__(self, case):
        super().__init__(case)
        self.delta = case.settings["delta"]

    def gradient(self, theta, batch):
        theta = self.leaves(theta)
        return grad(self.loss(theta, *batch), theta)

    def adapt(self, support):
        path = [self.theta]
        for _ in range(self.steps):
            path.append(plus(path[-1], -self.lr, self.gradient(path[-1], support)))
        return path

    def task(self, support, query):
        path = self.adapt(support)
        v = self.direction(path, query)
        for k in self.order(self.steps):
            v = self.back(v, self.difference(self.point(path, k), self.batch(support, query), v))
        return self.loss(path[-1], *query), v

    def direction(self, path, query):
        return self.gradient(path[-1], query)

    def order(self, steps):
        return reversed(range(steps))

    def point(self, path, k):
        return path[k]

    def batch(self, support, query):
        return support

    def epsilon(self, v):
        return self.delta / norm(v)

    def difference(self, theta, batch, v):
        eps = self.epsilon(v)
        above, below = self.gradient(plus(theta, eps, v), batch), self.gradient(plus(theta, -eps, v), batch)
        return {n: (above[n] - below[n]) / self.over(eps) for n in v}

    def over(self, eps):
        return 2 * eps

    def back(self, v, hv):
        return plus(v, -self.lr, hv)


class OfVectors(HessianFree):
    """With all parameters in one vector."""

    def difference(self, theta, batch, v):
        flat = torch.cat([x.reshape(-1) for x in v.values()])
        unit = flat / torch.linalg.vector_norm(flat) * self.delta
        parts = torch.split(unit, [x.numel() for x in v.values()])
        e = {n: part.reshape(x.shape) for (n, x), part in zip(v.items(), parts, strict=True)}
        above, below = self.gradient(plus(theta, 1, e), batch), self.gradient(plus(theta, -1, e), batch)
        return {n: (above[n] - below[n]) * (torch.linalg.vector_norm(flat) / (2 * self.delta)) for n in v}


class BySizeOfTheta(HessianFree):
    """ε = δ (1 + ‖θ‖)/‖v‖, as in common code for Hessian-vector products."""

    def difference(self, theta, batch, v):
        self.size = norm(theta).detach()
        return super().difference(theta, batch, v)

    def epsilon(self, v):
        return self.delta * (1 + self.size) / norm(v)


class Forward(HessianFree):
    def difference(self, theta, batch, v):
        eps = self.epsilon(v)
        above, here = self.gradient(plus(theta, eps, v), batch), self.gradient(theta, batch)
        return {n: (above[n] - here[n]) / eps for n in v}


class Exact(HessianFree):
    def difference(self, theta, batch, v):
        return self.hvp(theta, batch, v)


class DeltaTimesV(HessianFree):
    def epsilon(self, v):
        return self.delta


class FixedEpsilon(HessianFree):
    def epsilon(self, v):
        return 1e-2


class NormPerTensor(HessianFree):
    def difference(self, theta, batch, v):
        eps = {n: self.delta / torch.linalg.vector_norm(x) for n, x in v.items()}
        above = self.gradient({n: theta[n] + eps[n] * v[n] for n in v}, batch)
        below = self.gradient({n: theta[n] - eps[n] * v[n] for n in v}, batch)
        return {n: (above[n] - below[n]) / (2 * eps[n]) for n in v}


class EpsilonOnce(HessianFree):
    def task(self, support, query):
        self.eps = None
        return super().task(support, query)

    def epsilon(self, v):
        self.eps = self.delta / norm(v) if self.eps is None else self.eps
        return self.eps


class OverDelta(HessianFree):
    def over(self, eps):
        return 2 * self.delta


class TwoMissing(HessianFree):
    def over(self, eps):
        return eps


class TwoTwice(HessianFree):
    def over(self, eps):
        return 4 * eps


class Sign(HessianFree):
    def back(self, v, hv):
        return plus(v, self.lr, hv)


class RateMissing(HessianFree):
    def back(self, v, hv):
        return plus(v, -1, hv)


class AtTheta(HessianFree):
    def point(self, path, k):
        return path[0]


class AtEnd(HessianFree):
    def point(self, path, k):
        return path[-1]


class OfQuery(HessianFree):
    def batch(self, support, query):
        return query


class QueryAtTheta(HessianFree):
    """The product is with g_q(θ)."""

    def task(self, support, query):
        self.fixed = self.gradient(self.theta, query)
        return super().task(support, query)

    def difference(self, theta, batch, v):
        return super().difference(theta, batch, self.fixed)


class NotCarried(HessianFree):
    def task(self, support, query):
        path = self.adapt(support)
        g = v = self.direction(path, query)
        for k in range(self.steps):
            v = self.back(v, self.difference(path[k], support, g))
        return self.loss(path[-1], *query), v


class LastStepOnly(HessianFree):
    def order(self, steps):
        return [steps - 1]


class Forwards(HessianFree):
    def order(self, steps):
        return range(steps)


class FirstOrder(HessianFree):
    def order(self, steps):
        return []


class QueryBefore(HessianFree):
    def direction(self, path, query):
        return self.gradient(path[0], query)


class PointLate(HessianFree):
    def point(self, path, k):
        return path[k + 1]


HONEST = [HessianFree, OfVectors]


class OverTheLargest(HessianFree):
    """ε = δ/max |v|"""

    def epsilon(self, v):
        return self.delta / max(x.abs().max() for x in v.values())


class OnTheLastTask(HessianFree):
    """the closure of the support set is bound late"""

    def batch(self, support, query):
        return self.tasks[-1][0]


MADE = [
    (OverTheLargest, {"hf_of_another_size"}),
    (OnTheLastTask, {"hf_of_other_examples"}),
    (BySizeOfTheta, {"hf_epsilon_by_size_of_theta"}),
    (Forward, {"hf_one_sided"}),
    (Exact, {"hf_exact_hessian"}),
    (DeltaTimesV, {"hf_delta_times_v"}),
    (FixedEpsilon, {"hf_fixed_epsilon"}),
    (NormPerTensor, {"hf_norm_per_tensor"}),
    (EpsilonOnce, {"hf_norm_of_first_step"}),
    (OverDelta, {"hf_divided_by_delta"}),
    (TwoMissing, {"hf_two_missing"}),
    (TwoTwice, {"hf_two_missing"}),
    (Sign, {"hf_sign"}),
    (RateMissing, {"hf_inner_rate"}),
    (AtTheta, {"hf_point"}),
    (AtEnd, {"hf_point"}),
    (OfQuery, {"hf_of_query"}),
    (QueryAtTheta, {"hf_direction"}),
    (NotCarried, {"hf_direction_not_carried"}),
    (LastStepOnly, {"hf_one_step_back"}),
    (Forwards, {"hf_order"}),
    (FirstOrder, {"fomaml"}),
    (PointLate, {"hf_point_of_another_step"}),
    (QueryBefore, {"query_before_adaptation"}),
]
