"""iMAML in PyTorch: gradient descent with a pull to θ, then conjugate gradients with Hessian-vector products."""

from __future__ import annotations

from .of_tasks import OfTasks, dot, grad, plus, torch


class IMAML(OfTasks):
    cg_steps = 5

    def __init__(self, case):
        super().__init__(case)
        self.lam = case.settings["strength"]

    # the inner loop

    def inner_gradient(self, phi, support):
        return grad(self.loss(phi, *support) + self.penalty(phi), phi)

    def penalty(self, phi):
        return self.lam / 2 * sum(((phi[n] - self.theta[n].detach()) ** 2).sum() for n in phi)

    def adapt(self, support):
        phi = self.leaves(self.theta)
        for _ in range(self.steps):
            g = self.inner_gradient(phi, support)
            with torch.no_grad():
                phi = {n: p - self.lr * g[n] for n, p in phi.items()}
            phi = self.leaves(phi)
        return phi

    # the implicit gradient

    def task(self, support, query):
        phi = self.adapt(support)
        loss = self.loss(phi, *query)
        g = grad(loss, phi)
        return loss, self.solve(lambda v: self.operator(v, self.hvp(self.point(phi), self.batch(support, query), v)), g)

    def point(self, phi):
        return phi

    def batch(self, support, query):
        return support

    def operator(self, v, hv):
        return plus(v, 1 / self.lam, hv)

    def solve(self, times, g):
        x = {n: torch.zeros_like(p) for n, p in g.items()}
        r = p = g
        for _ in range(self.cg_steps):
            rr = dot(r, r)
            if rr == 0:
                break
            q = times(p)
            a = rr / dot(p, q)
            x, r = plus(x, a, p), plus(r, -a, q)
            p = plus(r, dot(r, r) / rr, p)
        return x


class Direct(IMAML):
    """The matrix is built column by column, and the system solved by torch.linalg."""

    def solve(self, times, g):
        flat = lambda tree: torch.cat([x.reshape(-1) for x in tree.values()])  # noqa: E731
        unit = torch.eye(flat(g).numel(), dtype=flat(g).dtype)
        matrix = torch.stack([flat(times(self.split(e, g))) for e in unit], 1)
        return self.split(torch.linalg.solve(matrix, flat(g)), g)

    @staticmethod
    def split(x, like):
        parts = torch.split(x, [p.numel() for p in like.values()])
        return {n: part.reshape(p.shape) for (n, p), part in zip(like.items(), parts, strict=True)}


# ── the pull, of iMAML's inner loop and of whatever shares it ───────────────────────────────────────────────────────


class NoPull:
    def penalty(self, phi):
        return 0.0


class PullOnce(NoPull):
    def adapt(self, support):
        phi = super().adapt(support)
        return self.leaves({n: p - self.lr * self.lam * (p - self.theta[n]) for n, p in phi.items()})


class TwicePulled:
    def penalty(self, phi):
        return 2 * super().penalty(phi)


class PulledToZero:
    def penalty(self, phi):
        return self.lam / 2 * dot(phi, phi)


class PushedAway:
    def penalty(self, phi):
        return -super().penalty(phi)


PULLS = (NoPull, PullOnce, TwicePulled, PulledToZero, PushedAway)


def pulled(base) -> list[type]:
    """`base` with each mistake of the pull."""
    return [type(f"{base.__name__}{pull.__name__}", (pull, base), {"__doc__": pull.__name__}) for pull in PULLS]


PullMissing, PullAtTheEnd, PullDoubled, WeightDecay, PullAway = pulled(IMAML)


class OverSize:
    """F.mse_loss between each tensor and θ's."""

    def penalty(self, phi):
        return self.lam / 2 * sum(torch.nn.functional.mse_loss(phi[n], self.theta[n].detach()) for n in phi)


class Implicit:
    """A step of the loss, then the proximal step of the penalty."""

    def adapt(self, support):
        phi = self.leaves(self.theta)
        for _ in range(self.steps):
            g, c = grad(self.loss(phi, *support), phi), self.lr * self.lam
            phi = self.leaves({n: (p - self.lr * g[n] + c * self.theta[n]) / (1 + c) for n, p in phi.items()})
        return phi


def pulled_otherwise(base) -> list[type]:
    """`base` with a pull over sizes, and with one that is taken after the step."""
    return [type(f"{base.__name__}{pull.__name__}", (pull, base), {"__doc__": pull.__doc__})
            for pull in (OverSize, Implicit)]  # fmt: skip


PullOverSize, PullImplicit = pulled_otherwise(IMAML)


class OperatorUnscaled(IMAML):
    def operator(self, v, hv):
        return plus(hv, self.lam, v)


class OperatorWithoutLambda(IMAML):
    def operator(self, v, hv):
        return plus(v, 1, hv)


class OperatorTimesLambda(IMAML):
    def operator(self, v, hv):
        return plus(v, self.lam, hv)


class Original(PullAtTheEnd):
    """As in the original code, for cg_damping = 1 and lam_damping = 10."""

    def operator(self, v, hv):
        return {n: (1 + 1) * v[n] + hv[n] / (self.lam + 10) for n in v}


class Damped(IMAML):
    def operator(self, v, hv):
        return {n: (1 + 0.02) * v[n] + hv[n] / self.lam for n in v}


class StrengthDamped(IMAML):
    """lam_damping of the original code, without its cg_damping."""

    def operator(self, v, hv):
        return {n: v[n] + hv[n] / (self.lam + 5) for n in v}


class SystemDamped(IMAML):
    """(H + (λ + c) I)⁻¹ λ g_q, so that the matrix is positive."""

    def operator(self, v, hv):
        return {n: (hv[n] + (self.lam + 0.03) * v[n]) / self.lam for n in v}


class SystemDampedUnscaled(IMAML):
    def operator(self, v, hv):
        return {n: hv[n] + (self.lam + 0.03) * v[n] for n in v}


class WithAdam(IMAML):
    """The inner problem by torch.optim.Adam."""

    def adapt(self, support):
        phi = self.leaves(self.theta)
        optimizer = torch.optim.Adam(phi.values(), lr=self.lr)
        for _ in range(self.steps):
            optimizer.zero_grad()
            (self.loss(phi, *support) + self.penalty(phi)).backward()
            optimizer.step()
        return phi


class OfQuery(IMAML):
    def batch(self, support, query):
        return query


class AtTheta(IMAML):
    def point(self, phi):
        return self.theta


class Sign(IMAML):
    def operator(self, v, hv):
        return plus(v, -1 / self.lam, hv)

    solve = Direct.solve
    split = staticmethod(Direct.split)


class OneStep(IMAML):
    cg_steps = 1


class TwoSteps(IMAML):
    cg_steps = 2


class FirstOrder(IMAML):
    """cg_steps ≤ 1 in the original code."""

    def solve(self, times, g):
        return g


class Tolerant(IMAML):
    """As jax.scipy.sparse.linalg.cg, with a tolerance of 10⁻²."""

    def solve(self, times, g):
        x = {n: torch.zeros_like(p) for n, p in g.items()}
        r = p = g
        while dot(r, r) > 1e-4 * dot(g, g):
            q = times(p)
            a = dot(r, r) / dot(p, q)
            x, before, r = plus(x, a, p), r, plus(r, -a, q)
            p = plus(r, dot(r, r) / dot(before, before), p)
        return x


class Multiplied(IMAML):
    def solve(self, times, g):
        return times(g)


class Neumann(IMAML):
    """Σⱼ (I − c A)ʲ c g with four terms."""

    def solve(self, times, g):
        c = self.lr * self.lam
        x = p = {n: c * v for n, v in g.items()}
        for _ in range(3):
            p = plus(p, -c, times(p))
            x = plus(x, 1, p)
        return x


class Unrolled(IMAML):
    """Back through the steps."""

    def task(self, support, query):
        phi = dict(self.theta)
        for _ in range(self.steps):
            g = grad(self.loss(phi, *support), phi, create_graph=True)
            phi = {n: p - self.lr * (g[n] + self.lam * (p - self.theta[n])) for n, p in phi.items()}
        loss = self.loss(phi, *query)
        return loss, grad(loss, self.theta)


class Summed(IMAML):
    def together(self, grads):
        return {n: sum(g[n] for g in grads) for n in self.theta}


class Solved(IMAML):
    """The inner problem to rounding: some steps of gradient descent, then Newton's method."""

    def adapt(self, support):
        self.steps = max(self.case.inner_steps, 30)
        phi = IMAML.adapt(self, support)
        for _ in range(6):
            move = Direct.solve(self, self.curvature(phi, support), self.inner_gradient(phi, support))
            phi = self.leaves(plus(phi, -1, move))
        return phi

    def curvature(self, phi, support):
        return lambda v: plus(self.hvp(phi, support, v), self.lam, v)

    split = staticmethod(Direct.split)


class BothDampings(IMAML):
    def operator(self, v, hv):
        return {n: 1.5 * v[n] + hv[n] / (self.lam + 1) for n in v}


class WholePenalty(IMAML):
    """λ ‖φ − θ‖², in the loop and in the system."""

    def penalty(self, phi):
        return 2 * super().penalty(phi)

    def operator(self, v, hv):
        return plus(v, 0.5 / self.lam, hv)


class OfLastGraph(IMAML):
    """The Hessian of the graph that the last inner gradient has left."""

    def adapt(self, support):
        self.before = self.leaves(self.theta)
        for k in range(self.steps):
            g = self.inner_gradient(self.before, support)
            phi = self.leaves({n: p - self.lr * g[n] for n, p in self.before.items()})
            if k < self.steps - 1:
                self.before = phi
        return phi

    def point(self, phi):
        return self.before


HONEST = [IMAML, Direct]


class ResidualOfZero(IMAML):
    """x starts from g, and r as if x were 0"""

    def solve(self, times, g):
        return plus(super().solve(times, g), 1, g)


class Slip(IMAML):
    """conjugate gradients, in which a line is another one"""

    def solve(self, times, g):
        x, r, p = {n: torch.zeros_like(y) for n, y in g.items()}, g, g
        for _ in range(self.cg_steps):
            rr, q = dot(r, r), times(p)
            if rr == 0:
                break
            a = rr / dot(p, q)
            x, new = plus(x, a, p), plus(r, -a, q)
            r, p = new, self.direction(new, p, dot(new, new), rr)
        return x


class BetaInverted(Slip):
    """rr / rr_new"""

    def direction(self, r, p, new, rr):
        return plus(r, rr / new, p)


class SameDirection(Slip):
    """p is never updated"""

    def direction(self, r, p, new, rr):
        return p


class SteepestDescent(Slip):
    """p = r"""

    def direction(self, r, p, new, rr):
        return r


class SolutionTimesLambda(IMAML):
    """lam * cg(v + hvp(v) / lam)"""

    def solve(self, times, g):
        return {n: self.lam * x for n, x in super().solve(times, g).items()}


class OfLastTask(IMAML):
    """the closure of the support set is bound late: the Hessian is the last task's"""

    def batch(self, support, query):
        return self.tasks[-1][0]


class OfTwoExamples(IMAML):
    """the Hessian of xs[:2], ys[:2]"""

    def batch(self, support, query):
        return tuple(x[:2] for x in support)


class Series(IMAML):
    """g - H g / lam"""

    def solve(self, times, g):
        return plus(plus(g, 1, g), -1, times(g))


class QueryWithPull(IMAML):
    """the query loss has the penalty, too"""

    def task(self, support, query):
        phi = self.adapt(support)
        loss = self.loss(phi, *query)
        g = grad(loss + self.penalty(phi), phi)
        return loss, self.solve(lambda v: self.operator(v, self.hvp(phi, support, v)), g)


class OneSystem(IMAML):
    """the mean of the tasks' Hessians, and of their query gradients"""

    def __call__(self):
        ends = [self.adapt(support) for support, _ in self.tasks]
        losses = [self.loss(phi, *query) for phi, (_, query) in zip(ends, self.tasks, strict=True)]
        g = self.together([grad(loss, phi) for loss, phi in zip(losses, ends, strict=True)])

        def times(v):
            products = [self.hvp(phi, support, v) for phi, (support, _) in zip(ends, self.tasks, strict=True)]
            return self.operator(v, self.together(products))

        return {"meta_grad": self.solve(times, g), "meta_loss": sum(losses).detach() / len(losses)}


class MeanRightSide(IMAML):
    """each task's Hessian, and the mean of the query gradients"""

    def __call__(self):
        ends = [self.adapt(support) for support, _ in self.tasks]
        losses = [self.loss(phi, *query) for phi, (_, query) in zip(ends, self.tasks, strict=True)]
        g = self.together([grad(loss, phi) for loss, phi in zip(losses, ends, strict=True)])
        each = [self.solve(lambda v, phi=phi, s=s: self.operator(v, self.hvp(phi, s, v)), g)
                for phi, (s, _) in zip(ends, self.tasks, strict=True)]  # fmt: skip
        return {"meta_grad": self.together(each), "meta_loss": sum(losses).detach() / len(losses)}


MADE = [
    (QueryWithPull, {"imaml_other_right_side"}),
    (ResidualOfZero, {"imaml_conjugate_gradients_slip"}),
    (BetaInverted, {"imaml_conjugate_gradients_slip"}),
    (SameDirection, {"imaml_conjugate_gradients_slip"}),
    (SteepestDescent, {"imaml_conjugate_gradients_slip"}),
    (SolutionTimesLambda, {"imaml_solution_changed"}),
    (OfLastTask, {"imaml_hessian_elsewhere"}),
    (OfTwoExamples, {"imaml_hessian_of_some_examples"}),
    (Series, {"imaml_series"}),
    (PullMissing, {"imaml_pull_missing"}),
    (PullAtTheEnd, {"imaml_pull_once_at_the_end"}),
    (PullDoubled, {"imaml_pull_of_other_strength"}),
    (WeightDecay, {"imaml_pull_to_another_point"}),
    (PullAway, {"imaml_pull_away"}),
    (OperatorUnscaled, {"imaml_lambda_outside_missing"}),
    (OperatorWithoutLambda, {"imaml_lambda_in_operator"}),
    (OperatorTimesLambda, {"imaml_lambda_in_operator"}),
    (Original, {"imaml_original_operator"}),
    (Damped, {"imaml_damped"}),
    (StrengthDamped, {"imaml_strength_damped"}),
    (SystemDamped, {"imaml_system_damped"}),
    (SystemDampedUnscaled, {"imaml_system_damped"}),
    (WithAdam, {"adam_inside"}),
    (OfQuery, {"imaml_hessian_of_query"}),
    (AtTheta, {"imaml_hessian_at_theta"}),
    (Sign, {"imaml_hessian_sign"}),
    (OneStep, {"imaml_solver_stopped"}),
    (TwoSteps, {"imaml_solver_stopped"}),
    (Tolerant, {"imaml_solver_tolerance"}),
    (FirstOrder, {"fomaml"}),
    (Multiplied, {"imaml_multiplied"}),
    (Neumann, {"imaml_neumann"}),
    (Unrolled, {"imaml_unrolled"}),
    (Summed, {"sum_over_tasks"}),
    (Solved, {"imaml_solved"}),
    (PullOverSize, {"imaml_pull_over_size"}),
    (PullImplicit, {"imaml_pull_implicit"}),
    (BothDampings, {"imaml_both_dampings"}),
    (WholePenalty, {"imaml_lambda_of_another_penalty"}),
    (OfLastGraph, {"imaml_hessian_a_step_early"}),
    (OneSystem, {"imaml_one_system_for_all_tasks"}),
    (MeanRightSide, {"imaml_one_system_for_all_tasks"}),
]
