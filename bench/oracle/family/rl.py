"""MAML for reinforcement learning, as people write it: in PyTorch with a method per line, on the engine, and in JAX."""

from __future__ import annotations

import numpy as np

import tinymaml as tm
from tinymaml import extras

from .of_tasks import grad, torch


class Batch:
    """One round of trajectories: (N, H) each."""

    def __init__(self, x, y):
        self.x, self.y, self.N, self.H = x, y, *x.shape[:2]
        self.runs = y[..., 2]
        self.r, self.b = y[..., 1] * self.runs, y[..., 3] * self.runs


class RL:
    def __init__(self, case):
        self.case, self.lr, self.K = case, case.inner_lr, case.inner_steps
        self.log_policy, self.params, ((self.xs, self.ys), (self.xq, self.yq)) = case.torch()
        self.name, self.gamma = case.settings["surrogate"], case.settings["discount"]
        self.decay = case.settings.get("decay", 1.0)
        self.inside = True  # the inner loop, not the outer objective

    def __call__(self) -> dict:
        total = sum(self.task(t) for t in range(self.case.tasks)) / self.case.tasks
        return {"meta_grad": self.finish(grad(total, self.params)), "meta_loss": total.detach()}

    def finish(self, grads):
        return grads

    def task(self, t):
        fast, rounds, query = dict(self.params), [], Batch(self.xq[t][:, 0], self.yq[t][:, 0])
        for k in range(self.K):
            batch = self.round(t, k)
            rounds.append((fast, batch))
            self.inside = True
            fast = self.step(fast, grad(self.surrogate(fast, batch), fast, create_graph=True))
        self.inside = False
        value = self.surrogate(fast, query)
        if self.has_score():
            value = value + self.score(rounds, query)
        return -value

    def round(self, t, k):
        return Batch(self.xs[t][:, k], self.ys[t][:, k])

    def step(self, fast, g):
        return {n: p + self.lr * g[n] for n, p in fast.items()}

    # the surrogate

    def surrogate(self, params, batch):
        logp = self.log_policy(params, batch.x, batch.y) * batch.runs
        return self.mean(getattr(self, self.chosen().replace("-", "_"))(logp, batch), batch)

    def chosen(self):
        return self.name

    def likelihood(self, logp, batch):
        return self.weights(batch) * logp * self.advantages(batch)

    e_maml = likelihood

    def lvc(self, logp, batch):
        return self.weights(batch) * self.box(logp) * self.advantages(batch)

    def dice(self, logp, batch):
        return self.weights(batch) * batch.r * self.box(self.past(logp, batch)) + self.control(logp, batch)

    def control(self, logp, batch):
        return self.weights(batch) * (1 - self.box(logp)) * batch.b

    def loaded_dice(self, logp, batch):
        w, terms, A, weights = 0, [], self.advantages(batch), self.weights(batch)
        for t in range(batch.H):
            before, w = self.decay * w, self.decay * w + logp[:, t]
            dependence = self.box(w) - (self.box(before) if t else 1)
            terms.append(dependence * A[:, t] * weights[:, t])
        return torch.stack(terms, 1)

    def box(self, x):
        return torch.exp(x - x.detach())

    def past(self, logp, batch):
        return logp.cumsum(1)

    def weights(self, batch):
        return self.gamma ** torch.arange(batch.H, dtype=batch.r.dtype) + 0 * batch.r

    def returns(self, batch):
        out, G = [], 0
        for t in reversed(range(batch.H)):
            G = batch.r[:, t] + self.gamma * G
            out.insert(0, G)
        return torch.stack(out, 1) * batch.runs

    def advantages(self, batch):
        return self.returns(batch) - batch.b

    def mean(self, terms, batch):
        return (terms * batch.runs).sum() / batch.N

    # E-MAML's term

    def has_score(self):
        return self.name == "e-maml"

    def score(self, rounds, query):
        return sum(self.of_round(self.log_policy(p, b.x, b.y) * b.runs, b) for p, b in rounds) * self.gain(query)

    def of_round(self, logp, batch):
        return logp.sum()

    def gain(self, query):
        return (self.weights(query) * query.r).sum() / query.N


class FirstOrder(RL):
    def step(self, fast, g):
        return super().step(fast, {n: x.detach() for n, x in g.items()})


class Descent(RL):
    def step(self, fast, g):
        return {n: p - self.lr * g[n] for n, p in fast.items()}


class Negated(RL):
    def finish(self, grads):
        return {n: -g for n, g in grads.items()}


class Likelihood(RL):
    """Finn et al.'s surrogate, whatever is asked."""

    def chosen(self):
        return "likelihood"


class LikelihoodInside(RL):
    def chosen(self):
        return "likelihood" if self.inside else self.name


class LVC(RL):
    def chosen(self):
        return "lvc"


class Dice(RL):
    def chosen(self):
        return "dice"


class Published(RL):
    """weighted cumulative sum over the steps of all episodes, as in a published example"""

    def past(self, logp, batch):
        runs = batch.runs > 0
        flat = list(logp[runs])
        begins = (torch.arange(batch.H) == 0).expand(batch.N, -1)[runs]
        weights = torch.ones(len(flat), dtype=logp.dtype)
        weights[1:] = weights[1:] * ~begins[1:]
        weights = weights / batch.N
        for i in range(len(flat)):
            flat[i] = flat[i] + flat[i - 1] * weights[i]
        return torch.zeros_like(logp).masked_scatter(runs, torch.stack(flat))


class Decays(RL):
    def past(self, logp, batch):
        sums, w = [], 0
        for t in range(batch.H):
            w = logp[:, t] + w / batch.N
            sums.append(w)
        return torch.stack(sums, 1)


class WholeTrajectory(RL):
    def past(self, logp, batch):
        return logp.sum(1, keepdim=True).expand_as(logp)


class TooLate(RL):
    def past(self, logp, batch):
        return logp.cumsum(1) - logp


class Across(RL):
    def past(self, logp, batch):
        return logp.flatten().cumsum(0).reshape(logp.shape)


class NotStopped(RL):
    def box(self, x):
        return torch.exp(x)


class NoBaseline(RL):
    def control(self, logp, batch):
        return 0

    def advantages(self, batch):
        return self.returns(batch)


class BaselineUndiscounted(RL):
    def control(self, logp, batch):
        return (1 - self.box(logp)) * batch.b


class BaselineAdded(RL):
    def control(self, logp, batch):
        return -super().control(logp, batch)

    def advantages(self, batch):
        return self.returns(batch) + batch.b


class BaselineOfPast(RL):
    def control(self, logp, batch):
        return self.weights(batch) * (1 - self.box(logp.cumsum(1))) * batch.b


class NoDiscount(RL):
    def __init__(self, case):
        super().__init__(case)
        self.gamma = 1.0


class UsualDiscount(RL):
    def __init__(self, case):
        super().__init__(case)
        self.gamma = 0.99


class NoStepWeights(RL):
    def weights(self, batch):
        return torch.ones_like(batch.r)

    def gain(self, query):
        return (self.gamma ** torch.arange(query.H, dtype=query.r.dtype) * query.r).sum() / query.N


class UndiscountedReturns(RL):
    def returns(self, batch):
        return batch.r.flip(1).cumsum(1).flip(1) * batch.runs


class WholeReturn(RL):
    def returns(self, batch):
        weights = self.gamma ** torch.arange(batch.H, dtype=batch.r.dtype)
        return (weights * batch.r).sum(1, keepdim=True) * batch.runs


class Normalised(RL):
    def advantages(self, batch):
        A, runs = super().advantages(batch), batch.runs > 0
        return torch.where(runs, (A - A[runs].mean()) / (A[runs].std(correction=0) + 1e-8), 0)


class NormalisedInside(Normalised):
    def advantages(self, batch):
        return super().advantages(batch) if self.inside else RL.advantages(self, batch)


class MeanOverSteps(RL):
    def mean(self, terms, batch):
        return (terms * batch.runs).sum() / batch.runs.sum()


class MeanOfEntriesInside(RL):
    def mean(self, terms, batch):
        return (terms * batch.runs).mean() if self.inside else super().mean(terms, batch)


class SumOverTrajectories(RL):
    def mean(self, terms, batch):
        return (terms * batch.runs).sum()


class NoMask(RL):
    def round(self, t, k):
        return self.unmasked(super().round(t, k))

    def surrogate(self, params, batch):
        return super().surrogate(params, self.unmasked(batch))

    def gain(self, query):
        return super().gain(self.unmasked(query))

    def unmasked(self, batch):
        return Batch(batch.x, torch.cat([batch.y[..., :2], torch.ones_like(batch.y[..., :1]), batch.y[..., 3:]], -1))


class FixedDeviation(RL):
    def step(self, fast, g):
        return {n: fast[n] if n == "log_std" else p for n, p in super().step(fast, g).items()}


class OneRound(RL):
    def round(self, t, k):
        return super().round(t, 0)


class NoScore(RL):
    def has_score(self):
        return False


class AlwaysScore(RL):
    def has_score(self):
        return True


class ScoreOfMeans(RL):
    """−mean(rewards) · mean(logπ), as in ProMP's code"""

    def of_round(self, logp, batch):
        return logp.sum() / batch.runs.sum()

    def gain(self, query):
        return (self.weights(query) * query.r).sum() / query.runs.sum()


class ScoreOverTrajectories(RL):
    def of_round(self, logp, batch):
        return logp.sum(1).mean()


class ScoreNegative(RL):
    def score(self, rounds, query):
        return -super().score(rounds, query)


class ScoreOfFirstRound(RL):
    def score(self, rounds, query):
        return super().score(rounds[:1], query)


class ScoreUndiscounted(RL):
    def gain(self, query):
        return query.r.sum(1).mean()


class OtherDecay(RL):
    def __init__(self, case):
        super().__init__(case)
        self.decay = 1.0


class OverRatios:
    """On tinymaml's engine, step after step: a box is a product of ratios of probabilities to what they were."""

    def __init__(self, case):
        self.case, self.gamma, self.name = case, case.settings["discount"], case.settings["surrogate"]

    def __call__(self) -> dict:
        self.log_policy, params, ((xs, ys), (xq, yq)) = self.case.numpy()

        def loss(params):
            gains = [self.gain(params, xs[t], ys[t], xq[t][:, 0], yq[t][:, 0]) for t in range(self.case.tasks)]
            return -sum(gains) / self.case.tasks

        value, grads = tm.value_and_grad(loss)(params)
        return {"meta_grad": grads, "meta_loss": value}

    def gain(self, params, xs, ys, xq, yq):
        score = 0.0
        for k in range(self.case.inner_steps):
            score = score + np.sum(self.log_policy(params, xs[:, k], ys[:, k]) * ys[:, k, :, 2])
            step = tm.grad(self.surrogate)(params, xs[:, k], ys[:, k])
            params = {n: p + self.case.inner_lr * step[n] for n, p in params.items()}
        R = np.mean(sum(self.gamma**t * yq[:, t, 1] * yq[:, t, 2] for t in range(yq.shape[1])))
        return self.surrogate(params, xq, yq) + (score * R if self.name == "e-maml" else 0.0)

    def surrogate(self, params, x, y):
        logp, runs = self.log_policy(params, x, y), y[..., 2]
        ratio = np.exp((logp - tm.stop_gradient(logp)) * runs)
        r, b, total, past, G = y[..., 1] * runs, y[..., 3], 0.0, 1.0 + 0 * runs[:, 0], []
        for t in reversed(range(y.shape[1])):
            G.insert(0, r[:, t] + self.gamma * (G[0] if G else 0))
        for t in range(y.shape[1]):
            A = G[t] - b[:, t]
            if self.name == "dice":
                past = past * ratio[:, t]
                term = r[:, t] * past + (1 - ratio[:, t]) * b[:, t]
            elif self.name == "loaded-dice":
                forgotten = past ** self.case.settings["decay"]
                past = forgotten * ratio[:, t]
                term = (past - forgotten) * A
            else:
                term = (ratio[:, t] if self.name == "lvc" else logp[:, t]) * A
            total = total + self.gamma**t * np.sum(term * runs[:, t]) / len(y)
        return total


class InJAX:
    """Sums over steps as matrices, and the whole differentiated and compiled by JAX, once for each kind of case."""

    compiled: dict = {}

    def __init__(self, case):
        self.case, self.jax = case, extras.require("jax", "peers")

    def __call__(self) -> dict:
        self.log_policy, params, ((xs, ys), (xq, yq)) = self.case.jax()

        def loss(params, rate, *data):
            return -self.jax.vmap(self.gain, (None, None, 0, 0, 0, 0))(params, rate, *data).mean()

        key = str((self.case.model, self.case.settings, self.case.inner_steps))
        step = self.compiled.setdefault(key, self.jax.jit(self.jax.value_and_grad(loss)))
        value, grads = step(params, self.case.inner_lr, xs, ys, xq, yq)
        return {"meta_grad": grads, "meta_loss": value}

    def gain(self, params, rate, xs, ys, xq, yq):
        score = 0.0
        discounts = self.case.settings["discount"] ** np.arange(yq.shape[2])
        gain = (discounts * yq[:, 0, :, 1] * yq[:, 0, :, 2]).sum() / len(yq)
        for k in range(self.case.inner_steps):
            score = score + (self.log_policy(params, xs[:, k], ys[:, k]) * ys[:, k, :, 2]).sum() * gain
            step = self.jax.grad(self.surrogate)(params, xs[:, k], ys[:, k])
            params = {n: p + rate * step[n] for n, p in params.items()}
        found = self.surrogate(params, xq[:, 0], yq[:, 0])
        return found + score if self.case.settings["surrogate"] == "e-maml" else found

    def surrogate(self, params, x, y):
        np_, name, gamma = self.jax.numpy, self.case.settings["surrogate"], self.case.settings["discount"]
        r, runs, b = y[..., 1] * y[..., 2], y[..., 2], y[..., 3]
        logp, steps = self.log_policy(params, x, y) * runs, np.arange(y.shape[1])
        box = lambda x: np_.exp(x - self.jax.lax.stop_gradient(x))  # noqa: E731
        since = np.maximum(steps[:, None] - steps, 0)  # t − s
        A = np_.einsum("nt,tu->nu", r, gamma**since * (steps[:, None] >= steps)) - b
        if name == "dice":
            terms = r * box(np_.cumsum(logp, 1)) + (1 - box(logp)) * b
        elif name == "loaded-dice":
            decay = self.case.settings["decay"]
            before = np_.einsum("ts,ns->nt", decay**since * (steps[:, None] > steps), logp)
            terms = (box(before + logp) - box(before)) * A
        else:
            terms = (box(logp) if name == "lvc" else logp) * A
        return (gamma**steps * terms * runs).sum() / len(y)


class Advantages(RL):
    """DiCE's box on advantages"""

    def dice(self, logp, batch):
        return self.weights(batch) * self.advantages(batch) * self.box(self.past(logp, batch))


class ReturnsToGo(RL):
    def dice(self, logp, batch):
        return self.weights(batch) * self.returns(batch) * self.box(self.past(logp, batch))


class PastStays(RL):
    def loaded_dice(self, logp, batch):
        w, sums = 0, []
        for t in range(batch.H):
            w = self.decay * w + logp[:, t]
            sums.append(w)
        return self.weights(batch) * self.box(torch.stack(sums, 1)) * self.advantages(batch)


class FromTheStart(RL):
    def returns(self, batch):
        return (self.weights(batch) * batch.r).flip(1).cumsum(1).flip(1) * batch.runs


class AgainstFirst(RL):
    """exp(logp − logp_old), logp_old being the pre-update policy's"""

    def surrogate(self, params, batch):
        self.old = (self.log_policy(self.params, batch.x, batch.y) * batch.runs).detach()
        return super().surrogate(params, batch)

    def box(self, x):
        old = self.old if self.of_step else self.past(self.old, None)
        return torch.exp(x - old)

    def lvc(self, logp, batch):
        self.of_step = True
        return super().lvc(logp, batch)

    def control(self, logp, batch):
        self.of_step = True
        return super().control(logp, batch)

    def dice(self, logp, batch):
        self.of_step = False
        return super().dice(logp, batch)

    def loaded_dice(self, logp, batch):
        w, v, terms, A, weights = 0, 0, [], self.advantages(batch), self.weights(batch)
        for t in range(batch.H):
            before, v0 = self.decay * w, self.decay * v
            w, v = before + logp[:, t], v0 + self.old[:, t]
            terms.append((torch.exp(w - v) - torch.exp(torch.as_tensor(before - v0))) * A[:, t] * weights[:, t])
        return torch.stack(terms, 1)


class MeanOfEach(RL):
    def mean(self, terms, batch):
        return ((terms * batch.runs).sum(1) / batch.runs.sum(1)).mean()


class ScoreOfGain(RL):
    def score(self, rounds, query):
        gain = self.gain(query) - self.gain(rounds[0][1])
        return sum(self.of_round(self.log_policy(p, b.x, b.y) * b.runs, b) for p, b in rounds) * gain


class Backwards(RL):
    def past(self, logp, batch):
        return logp.flip(1).cumsum(1).flip(1)


class WeightsLate(RL):
    def weights(self, batch):
        return self.gamma ** torch.arange(1, batch.H + 1, dtype=batch.r.dtype) + 0 * batch.r

    def gain(self, query):
        return (self.gamma ** torch.arange(query.H, dtype=query.r.dtype) * query.r).sum() / query.N


class CentredPerStep(RL):
    def advantages(self, batch):
        A = super().advantages(batch)
        return (A - A.mean(0)) * batch.runs


class LastStepDropped(NoMask):
    """the mask of the next states"""

    def unmasked(self, batch):
        after = torch.cat([batch.runs[:, 1:], torch.zeros_like(batch.runs[:, :1])], 1)[..., None]
        return Batch(batch.x, torch.cat([batch.y[..., :2], after, batch.y[..., 3:]], -1))

    def round(self, t, k):  # surrogate and gain shorten it; E-MAML's score needs it short
        batch = RL.round(self, t, k)
        return self.unmasked(batch)

    def surrogate(self, params, batch):
        return RL.surrogate(self, params, batch if self.inside else self.unmasked(batch))


HONEST = [RL, OverRatios]
IN_JAX = [InJAX]


class ActionsOfFirst(RL):
    """xs[t][:, k] with ys[t][:, 0]"""

    def round(self, t, k):
        return Batch(self.xs[t][:, k], self.ys[t][:, 0])


class ObservationsOfFirst(RL):
    """xs[t][:, 0] with ys[t][:, k]"""

    def round(self, t, k):
        return Batch(self.xs[t][:, 0], self.ys[t][:, k])


class BaselineInside(RL):
    """returns of r - b"""

    def advantages(self, batch):
        out, G = [], 0
        for r, b in zip(batch.r.flip(1).T, batch.b.flip(1).T, strict=True):
            G = r - b + self.gamma * G
            out.append(G)
        return torch.stack(out[::-1], 1) * batch.runs


MADE = [
    (FirstOrder, {"fomaml"}),
    (Descent, {"inner_ascent"}),
    (Negated, {"negated_gradient"}),
    (Likelihood, {"rl_sampling_term_missing"}),
    (LikelihoodInside, {"rl_sampling_term_missing"}),
    (LVC, {"rl_lvc"}),
    (Dice, {"rl_dice"}),
    (Published, {"rl_running_sum"}),
    (Decays, {"rl_running_sum"}),
    (WholeTrajectory, {"rl_whole_trajectory"}),
    (TooLate, {"rl_sum_too_late"}),
    (Across, {"rl_sum_across_trajectories"}),
    (NotStopped, {"rl_box_not_stopped"}),
    (NoBaseline, {"rl_baseline_missing"}),
    (BaselineUndiscounted, {"rl_baseline_undiscounted"}),
    (BaselineAdded, {"rl_baseline_added"}),
    (BaselineOfPast, {"rl_baseline_of_the_past"}),
    (NoDiscount, {"rl_other_discount"}),
    (UsualDiscount, {"rl_other_discount"}),
    (NoStepWeights, {"rl_step_weight_missing"}),
    (UndiscountedReturns, {"rl_returns_undiscounted"}),
    (WholeReturn, {"rl_whole_return"}),
    (Normalised, {"rl_advantages_normalised"}),
    (NormalisedInside, {"rl_advantages_normalised"}),
    (MeanOverSteps, {"rl_mean_over_steps"}),
    (MeanOfEntriesInside, {"rl_mean_over_steps"}),
    (SumOverTrajectories, {"rl_sum_over_trajectories"}),
    (NoMask, {"rl_mask_ignored"}),
    (FixedDeviation, {"rl_log_std_fixed"}),
    (OneRound, {"rl_one_round"}),
    (NoScore, {"rl_score_missing"}),
    (AlwaysScore, {"rl_score_not_asked"}),
    (ScoreOfMeans, {"rl_score_mean"}),
    (ScoreOverTrajectories, {"rl_score_mean"}),
    (ScoreNegative, {"rl_score_sign"}),
    (ScoreOfFirstRound, {"rl_score_of_one_round"}),
    (ScoreUndiscounted, {"rl_score_return"}),
    (OtherDecay, {"rl_other_decay"}),
    (Advantages, {"rl_return_for_reward"}),
    (ReturnsToGo, {"rl_return_for_reward"}),
    (PastStays, {"rl_past_not_taken_off"}),
    (FromTheStart, {"rl_discounted_twice"}),
    (AgainstFirst, {"rl_ratio_to_first_policy"}),
    (MeanOfEach, {"rl_mean_over_steps"}),
    (ScoreOfGain, {"rl_score_return"}),
    (Backwards, {"rl_sum_backwards"}),
    (WeightsLate, {"rl_step_weight_late"}),
    (CentredPerStep, {"rl_advantages_centred_per_step"}),
    (LastStepDropped, {"rl_last_step_dropped"}),
    (ActionsOfFirst, {"rl_half_of_first_round"}),
    (ObservationsOfFirst, {"rl_half_of_first_round"}),
    (BaselineInside, {"rl_baseline_inside_the_return"}),
]
