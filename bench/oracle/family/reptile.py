"""Reptile in PyTorch: an optimiser of torch.optim on a copy of θ, and the difference."""

from __future__ import annotations

from .of_tasks import OfTasks, grad, torch


class Reptile(OfTasks):
    def task(self, support, query):
        start = self.start()
        fast = self.adapt(self.leaves(start), self.data(support, query))
        return self.loss(fast, *query), self.difference(start, fast, support, query)

    def start(self):
        return self.theta

    def data(self, support, query):
        return support

    def optimizer(self, fast):
        return torch.optim.SGD(fast.values(), lr=self.lr)

    def adapt(self, fast, batch):
        self.path = []
        optimizer = self.optimizer(fast)
        for _ in range(self.steps):
            optimizer.zero_grad()
            self.loss(fast, *batch).backward()
            optimizer.step()
            self.path.append({n: p.detach().clone() for n, p in fast.items()})
        return fast

    def difference(self, start, fast, support, query):
        return {n: (p - fast[n]).detach() for n, p in start.items()}


class OfGradients(Reptile):
    """α times the sum of the inner gradients."""

    def task(self, support, query):
        fast, total = dict(self.theta), {n: 0 * p for n, p in self.theta.items()}
        for _ in range(self.steps):
            g = grad(self.loss(fast, *support), fast)
            total = {n: total[n] + self.lr * g[n] for n in g}
            fast = {n: (p - self.lr * g[n]).detach().requires_grad_() for n, p in fast.items()}
        return self.loss(fast, *query), total


class Direction(Reptile):
    def difference(self, start, fast, support, query):
        return {n: fast[n] - p for n, p in start.items()}


class OverRate(Reptile):
    def difference(self, start, fast, support, query):
        return {n: (p - fast[n]) / self.lr for n, p in start.items()}


class OverRateAndSteps(Reptile):
    def difference(self, start, fast, support, query):
        return {n: (p - fast[n]) / (self.lr * self.steps) for n, p in start.items()}


class TimesEpsilon(Reptile):
    def difference(self, start, fast, support, query):
        return {n: self.case.outer_lr * (p - fast[n]) for n, p in start.items()}


class LastStep(Reptile):
    def difference(self, start, fast, support, query):
        before = ([start] + self.path)[-2]
        return {n: before[n] - fast[n] for n in start}


class FirstStep(Reptile):
    def difference(self, start, fast, support, query):
        return {n: p - self.path[0][n] for n, p in start.items()}


class MeanOfPath(Reptile):
    def difference(self, start, fast, support, query):
        return {n: p - sum(way[n] for way in self.path) / len(self.path) for n, p in start.items()}


class GradientAtEnd(Reptile):
    def difference(self, start, fast, support, query):
        return grad(self.loss(fast, *support), fast)


class QueryGradient(Reptile):
    def difference(self, start, fast, support, query):
        return grad(self.loss(fast, *query), fast)


class AdaptsOnQuery(Reptile):
    def data(self, support, query):
        return query


class AdaptsOnBoth(Reptile):
    def data(self, support, query):
        return tuple(torch.cat(pair) for pair in zip(support, query, strict=True))


class Sequential(Reptile):
    """θ is not restored after a task."""

    def start(self):
        return self.path[-1] if hasattr(self, "path") else self.theta


class Serial(Reptile):
    """θ ← θ + ε (θ_K − θ) after each task."""

    def start(self):
        if hasattr(self, "path"):
            self.now = {n: p + self.case.outer_lr * (self.path[-1][n] - p) for n, p in self.now.items()}
        else:
            self.now = self.theta
        return self.now


class TaskAfterTask(Reptile):
    """θ ← θ + (θ_K − θ)/T after each task, and G is how far θ has come."""

    share: float | None = None

    def start(self):
        if hasattr(self, "path"):
            share = self.share or 1 / self.case.tasks
            self.now = {n: p + share * (self.path[-1][n] - p) for n, p in self.now.items()}
        else:
            self.now = self.theta
        return self.now

    def together(self, grads):
        end = self.start()
        return {n: (p - end[n]).detach() for n, p in self.theta.items()}


class AllTheWay(TaskAfterTask):
    share = 1.0


class Published(Reptile):
    """Adam with β₁ = 0, as in the published code."""

    betas = (0.0, 0.999)

    def optimizer(self, fast):
        return torch.optim.Adam(fast.values(), lr=self.lr, betas=self.betas)


class Adam(Published):
    betas = (0.9, 0.999)


class Nesterov(Reptile):
    def optimizer(self, fast):
        return torch.optim.SGD(fast.values(), lr=self.lr, momentum=0.9, nesterov=True)


class TrainingScript(Reptile):
    def optimizer(self, fast):
        return torch.optim.SGD(fast.values(), lr=self.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)


class Momentum(Reptile):
    def optimizer(self, fast):
        return torch.optim.SGD(fast.values(), lr=self.lr, momentum=0.9)


class MomentumLeaks(Reptile):
    """One optimiser's buffers for all tasks."""

    def optimizer(self, fast):
        optimizer = torch.optim.SGD(fast.values(), lr=self.lr, momentum=0.5)
        if hasattr(self, "last"):
            optimizer.load_state_dict(self.last.state_dict())
        self.last = optimizer
        return optimizer


class Decay(Reptile):
    def optimizer(self, fast):
        return torch.optim.SGD(fast.values(), lr=self.lr, weight_decay=5e-4)


class Ascent(Reptile):
    def optimizer(self, fast):
        return torch.optim.SGD(fast.values(), lr=self.lr, maximize=True)


class Summed(Reptile):
    def together(self, grads):
        return {n: sum(g[n] for g in grads) for n in self.theta}


class StepMore(Reptile):
    def __init__(self, case):
        super().__init__(case)
        self.steps += 1


HONEST = [Reptile, OfGradients]


class SumOfThePath(Reptile):
    """θ − θₖ of each step, added up"""

    def difference(self, start, fast, support, query):
        return {n: sum((p - w[n]).detach() for w in self.path) for n, p in start.items()}


MADE = [
    (SumOfThePath, {"reptile_other_points"}),
    (Direction, {"reptile_direction", "negated_gradient"}),
    (OverRate, {"reptile_over_inner_rate"}),
    (OverRateAndSteps, {"reptile_over_inner_rate"}),
    (TimesEpsilon, {"reptile_outer_rate_inside"}),
    (LastStep, {"reptile_last_step_only"}),
    (FirstStep, {"reptile_first_step_only"}),
    (MeanOfPath, {"reptile_mean_of_path"}),
    (GradientAtEnd, {"reptile_gradient_at_end"}),
    (QueryGradient, {"reptile_query_gradient"}),
    (AdaptsOnQuery, {"support_is_query"}),
    (AdaptsOnBoth, {"reptile_adapts_on_both"}),
    (Sequential, {"reptile_sequential"}),
    (Serial, {"reptile_sequential"}),
    (TaskAfterTask, {"reptile_task_after_task"}),
    (AllTheWay, {"reptile_task_after_task"}),
    (Published, {"adam_inside_without_average"}),
    (Adam, {"adam_inside"}),
    (Nesterov, {"reptile_inner_momentum_of_another_kind"}),
    (TrainingScript, {"decay_and_momentum"}),
    (Momentum, {"reptile_inner_momentum"}),
    (MomentumLeaks, {"reptile_state_leaks"}),
    (Decay, {"reptile_inner_decay"}),
    (Ascent, {"inner_ascent"}),
    (Summed, {"sum_over_tasks"}),
    (StepMore, {"one_step_more"}),
]
