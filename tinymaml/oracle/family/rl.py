"""MAML for reinforcement learning: the inner step's data were sampled by θ, and its surrogate has to know that.

    θ₀ = θ,   θₖ₊₁ = θₖ + α ∇S(θₖ; round k of the support),     G = −∂/∂θ of the mean over tasks of S(θ_K; query)

S is `case.settings["surrogate"]`, a mean over the N trajectories of a set of the sum over their steps t = 0 … H − 1:

    "dice"          γᵗ [r_t ☐(Σ_{s≤t} log π_s) + (1 − ☐(log π_t)) b_t]            Foerster et al., 2018
    "loaded-dice"   γᵗ [☐(w_t) − ☐(λ w_{t−1})] A_t,   w_t = λ w_{t−1} + log π_t   Farquhar et al., 2019
    "lvc"           γᵗ ☐(log π_t) A_t                                             Rothfuss et al., 2019
    "likelihood"    γᵗ log π_t A_t                                                Finn et al., 2017
    "e-maml"        the likelihood's; and the query has + Σₖ Σᵢ Σ_t log π_θₖ(a_t|s_t) · ⊥R      Stadie et al., 2018

☐(x) = exp(x − ⊥x), ⊥ stops derivatives. A_t = Σ_{u≥t} γ^{u−t} r_u − b_t. R is the mean over the query's trajectories of
Σ_t γᵗ r_t; it is data, and E-MAML's sum goes over all K rounds of the support and all their trajectories, as a sum.
γ is case.settings["discount"], λ case.settings["decay"]. Nothing is normalised.

    loss(params, xs[t][:, k], ys[t][:, k]) → log π(a|s), (N, H), which is what the model gives in the place of a loss
    xs[t]   (N, K, H, d)   observations: N trajectories for each of the K rounds, round k being what step k adapts on
    ys[t]   (N, K, H, 4)   what was done and came of it: the action, the reward r_t, 1 while the episode runs, and b_t
    xq[t], yq[t]           the same of the query set, with one round: xq[t][:, 0], yq[t][:, 0]

Entries after the end of an episode count for nothing. Actions are classes 0, 1, … ("categorical" models), or
numbers ("gaussian" ones, whose parameter "log_std" is adapted like the others). `meta_loss`, if it is returned, is the
mean over tasks of −S(θ_K; query), with E-MAML's term.

The trajectories are given, and G is a plain derivative: no case asks whether it is unbiased. But in "every-trajectory"
each trajectory of a small process is there as often as its probability says. Then means over the set are expectations,
and G = (I + α ∇²J(θ)) g_q(θ + α ∇J(θ)), which only a surrogate that is right at second order gives.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np

from ... import engine
from ..mistakes.mistake import Free, Mistake
from ..models import NumPy, log_policy, loss_in
from .procedure import PLAIN, ByEngine, descend, judged

FORMULA = "−∂S(θ_K; query)/∂θ,   θₖ₊₁ = θₖ + α ∇S(θₖ; support of round k),   S with the ☐ and ⊥ of its surrogate"
SETTINGS = {
    "surrogate": "S: likelihood, lvc, dice, loaded-dice or e-maml",
    "discount": "γ, in returns and as the weight γᵗ of step t",
    "decay": "λ of loaded-dice: an action of k steps ago counts λᵏ",
}
SWITCHES = {
    "data": ("right", "swapped", "query is support", "support is query", "first support set for all"),
    "where": ("both", "inner", "outer"),  # which of the surrogates the others are about
    "surrogate": ("right", "likelihood", "lvc", "dice", "loaded-dice"),
    "sum": ("up to t", "published", "decayed", "from the last step", "whole trajectory", "before t", "across",
            "from t on"),
    "box": ("stopped", "not stopped", "against θ₀"),
    "loaded": ("less the past", "as it is"),
    "reward": ("reward", "advantage", "return"),
    "baseline": ("right", "missing", "without γᵗ", "added", "times the past", "inside the return"),
    "gamma": (0.0,), "lambda": (0.0,),
    "discounts": ("both", "no weights", "no returns", "weights one late"),
    "returns": ("to go", "whole", "discounted from the start"),
    "advantages": ("as they are", "normalised", "centred", "centred per step"),
    "mean": ("over trajectories", "over steps", "over all entries", "over the steps of each", "sum"),
    "mask": ("used", "ignored", "one step short"),
    "log_std": ("adapts", "fixed", "not learned"),
    "rounds": ("one per step", "the first", "all together", "actions of the first", "observations of the first"),
    "score": ("right", "missing", "added", "mean over steps", "means", "mean over trajectories", "negative",
              "first round", "last round", "support's return", "gain", "without discount"),
    # the shared ones, which are not meant: the data are trajectories
    "support_chunks": (0.0,), "query_chunks": (0.0,), "minibatch": (0.0,), "support_weight": (0.0,),
    "support_before_weight": (0.0,), "on": ("both",), "query loss": ("right",), "loss": ("right",),
    "support_way_weight": (0.0,), "hessian_on": ("support",), "hessian_rows": (0.0,), "curvature": ("Hessian",),
}  # fmt: skip


def query_loss(at, meta, support, query):
    at.memory["theta"] = meta
    at = _Surrogate(at)
    rate = at.number(at.case.inner_lr)
    if at.s["log_std"] == "not learned":
        meta = {n: at.hold(p) if n == "log_std" else p for n, p in meta.items()}

    def step(k, theta, g):
        # θₖ₊₁ = θₖ + α ∇S(θₖ), and g is that of −S
        moved = at.map(lambda p, g: p - rate * g, theta, g)
        return moved | {"log_std": theta["log_std"]} if at.s["log_std"] == "fixed" and "log_std" in theta else moved

    rounds = partial(_round, at, support)
    outer = at.memory["query"] = _round(at, query, 0, "outer")
    path = descend(at, meta, rounds, step)
    return judged(at, path, outer) - _score(at, path, rounds, outer), path[-1]


def _round(at, batch, k: int, where: str = "inner") -> tuple:
    """(x, y, where): the trajectories of round k, of which the code at hand may take others."""
    x, y = batch
    if where == "inner" and at.s["rounds"] == "all together":
        return np.reshape(x, (-1, *x.shape[2:])), np.reshape(y, (-1, *y.shape[2:])), where
    k = 0 if at.s["rounds"] == "the first" else k % x.shape[1]
    first = at.s["rounds"].partition(" of the ")[0] if where == "inner" else ""
    return x[:, 0 if first == "observations" else k], y[:, 0 if first == "actions" else k], where


class _Surrogate:
    """What computes, with −S for its loss."""

    def __init__(self, at):
        self._at = at

    def __getattr__(self, name):
        return getattr(self._at, name)

    def loss_and_grad(self, theta, batch):
        return surrogate(self._at, theta, *batch)

    query_loss_and_grad = loss_and_grad


class _Steps:
    """The N · H steps of a set, one after another: rewards r, baseline b, weights γᵗ, all 0 where no episode runs."""

    def __init__(self, at, y, where: str):
        s = at.s if at.s["where"] in ("both", where) else dict.fromkeys(at.s, None) | {"mask": at.s["mask"]}
        self.s, (self.n, self.h) = s, y.shape[:2]
        self.y = np.reshape(y, (-1, y.shape[-1]))
        self.runs = np.array([float(m) != 0 for m in self.y[:, 2]])
        self.began = int(np.sum(self.runs[:: self.h]))  # how many trajectories have a first step
        if s["mask"] == "ignored":
            self.runs = np.ones_like(self.runs)
        if s["mask"] == "one step short":
            self.runs = self.runs & np.append(self.runs[1:], False) & (np.arange(len(self.runs)) % self.h < self.h - 1)
        self.r, self.b = self.kept(self.y[:, 1]), self.kept(self.y[:, 3])
        self.gamma = at.number(np.float64(s["gamma"] or at.case.settings["discount"]))[()]
        self.decay = at.number(np.float64(s["lambda"] or at.case.settings.get("decay", 1.0)))[()]
        self.weights = np.tile(self.powers(1 if s["discounts"] == "no weights" else self.gamma), self.n)
        if s["discounts"] == "weights one late":
            self.weights = self.weights * self.gamma
        self.trajectory, self.t = np.divmod(np.arange(self.n * self.h), self.h)
        self.alike = self.trajectory[:, None] == self.trajectory
        if s["mean"] == "over the steps of each":
            lengths = (self.alike & self.runs).sum(1)
            self.weights = self.weights / np.maximum(lengths, 1)

    def kept(self, x):
        """x, and 0 after the end of an episode."""
        return np.where(self.runs, x, 0 * x)

    def powers(self, factor):
        """1, f, f², …, f^(H−1)."""
        found = [factor * 0 + 1]
        for _ in range(self.h - 1):
            found.append(found[-1] * factor)
        return np.array(found)

    def triangle(self, factor):
        """M with M_tu = f^(t−u) for the steps u ≤ t of the trajectory of t, else 0."""
        ago = self.t[:, None] - self.t
        return np.where(self.alike & (ago >= 0), self.powers(factor)[np.maximum(ago, 0)], 0)

    def advantages(self):
        """A_t = Σ_{u≥t} γ^{u−t} r_u − b_t."""
        to_go = self.triangle(self.gamma * 0 + 1 if self.s["discounts"] == "no returns" else self.gamma).T
        if self.s["returns"] == "whole":  # R = Σ_u γᵘ r_u at every step
            to_go = np.where(self.alike, np.tile(self.powers(self.gamma), self.n), 0)
        if self.s["returns"] == "discounted from the start":  # Σ_{u≥t} γᵘ r_u
            to_go = np.where(to_go != 0, np.tile(self.powers(self.gamma), self.n), 0)
        times = {"missing": 0, "added": -1}.get(self.s["baseline"], 1)
        if self.s["baseline"] == "inside the return":  # Σ_{u≥t} γ^{u−t} (r_u − b_u)
            A = self.kept(to_go @ (self.r - self.b))
        else:
            A = self.kept(to_go @ self.r) - self.b * times
        if self.s["advantages"] in ("normalised", "centred"):
            A = self.kept(A - np.sum(A) / int(np.sum(self.runs)))
        if self.s["advantages"] == "centred per step":
            A = self.kept(A - np.tile(np.sum(np.reshape(A, (self.n, self.h)), 0) / self.n, self.n))
        if self.s["advantages"] == "normalised":
            A = A / (np.sqrt(np.asarray(np.sum(A * A) / int(np.sum(self.runs)))) + 1e-8)
        return A

    def past(self):
        """M with ☐(M log π): which actions a reward depends on."""
        causal, how = self.triangle(1), self.s["sum"]
        if how == "whole trajectory":
            return self.alike * 1
        if how == "from t on":
            return causal.T
        if how == "before t":
            return causal - np.eye(len(causal), dtype=int)
        if how == "across":  # one cumulative sum over all trajectories
            return np.tri(len(causal), dtype=int)
        if how not in ("published", "decayed", "from the last step"):
            return causal
        # w_t ← log π_t + w_{t−1} c for t = 0, 1, …, through the steps of all episodes; c = 0 where one begins, and in
        # the published code c = 1/N elsewhere. w_{−1} is the last step's, whose w is still its own log π
        rows, steps, c = np.eye(len(causal)), np.flatnonzero(self.runs), 1 / self.n
        for i, j in enumerate(steps):
            begins = self.t[j] == 0
            factor = {"published": c if i == 0 or not begins else 0, "decayed": 0 if begins else c,
                      "from the last step": int(i == 0 or not begins)}[how]  # fmt: skip
            rows[j] = rows[j] + factor * rows[steps[i - 1]]
        return rows

    def terms(self, name: str) -> list[tuple]:
        """(data, M, kind) such that N S is the sum of data · f(M log π): f is ☐ ("box"), 1 ("value") or itself."""
        one, w = np.eye(len(self.r), dtype=int), self.weights
        if name in ("likelihood", "e-maml"):
            return [(w * self.advantages(), one, "itself")]
        if name == "lvc":
            return [(w * self.advantages(), one, "box")]
        if name == "loaded-dice":
            A, past = w * self.advantages(), self.triangle(self.decay)
            return [(A, past, "box"), (-A, past - one, "box")][: 1 if self.s["loaded"] == "as it is" else 2]
        if self.s["reward"] in ("advantage", "return"):
            return [(w * (self.advantages() + (self.b if self.s["reward"] == "return" else 0)), self.past(), "box")]
        b = (1 if self.s["baseline"] == "without γᵗ" else w) * self.b
        b = b * {"missing": 0, "added": -1}.get(self.s["baseline"], 1)
        of = self.past() if self.s["baseline"] == "times the past" else one
        return [(w * self.r, self.past(), "box"), (-b, of, "box"), (b, one, "value")]

    @property
    def count(self):
        """The divisor of S."""
        by = {"over steps": int(np.sum(self.runs)), "over all entries": len(self.runs), "sum": 1}
        return by.get(self.s["mean"], self.began)


def surrogate(at, theta, x, y, where: str) -> tuple:
    """(−S, {name: −∂S/∂θ}) of a set; the gradient may be differentiated, too."""
    steps = _Steps(at, y, where)
    name = at.case.settings["surrogate"]
    name = name if steps.s["surrogate"] in (None, "right") else steps.s["surrogate"]
    terms, minus = steps.terms(name), -1 / at.number(np.float64(steps.count))[()]

    def box(matrix, logp):
        """☐(M log π) = exp(M log π − ⊥ M log π)."""
        if steps.s["box"] == "not stopped":
            return np.exp(matrix @ logp)
        if steps.s["box"] == "against θ₀":
            return np.exp(matrix @ logp - at.hold(matrix @ log_policies(at, at.memory["theta"], x, y, steps)[0]))
        return np.exp(matrix @ logp - at.hold(matrix @ logp))

    def value(logp):
        functions = {"box": box, "value": lambda matrix, logp: 1, "itself": lambda matrix, logp: matrix @ logp}
        return sum(np.sum(data * functions[kind](matrix, logp)) for data, matrix, kind in terms) * minus

    if isinstance(at, ByEngine):
        return engine.value_and_grad(lambda theta: value(log_policies(at, theta, x, y, steps)[0]))(theta)
    logp, pullback = log_policies(at, theta, x, y, steps)
    slopes = 0
    for data, matrix, kind in terms:
        if kind != "value":
            # ∂/∂log π of data · ☐(M log π) is (data ☐) M
            slopes = slopes + (data * (box(matrix, logp) if kind == "box" else 1)) @ matrix
    return value(logp), pullback(steps.kept(slopes) * minus)


def log_policies(at, theta, x, y, steps: _Steps) -> tuple:
    """log π of every step, 0 after the end; and by hand, its pullback."""
    if isinstance(at, ByEngine):
        logp = np.reshape(loss_in(NumPy(), at.case.model)(theta, x, y), (-1,))
        return np.where(steps.runs, logp, 0.0), None
    logp, pullback = log_policy(at.case.model, theta, np.reshape(x, (-1, x.shape[-1])), steps.y, at.how)
    return steps.kept(logp), pullback


def _score(at, path, rounds, outer):
    """E-MAML's term: Σₖ Σᵢ Σ_t log π_θₖ(a_t|s_t) · ⊥R, or what the code at hand has for it."""
    how, wanted = at.s["score"], at.case.settings["surrogate"] == "e-maml"
    if how == "missing" or not (wanted or how == "added"):
        return 0
    total = 0
    used = {"first round": [0], "last round": [len(path) - 2]}.get(how, range(len(path) - 1))
    for k in used if len(path) > 1 else []:
        x, y, _ = rounds(k)
        steps = _Steps(at, y, "inner")
        logp, _ = log_policies(at._at, path[k], x, y, steps)
        over = {"mean over steps": int(np.sum(steps.runs)), "means": int(np.sum(steps.runs)),
                "mean over trajectories": steps.n}.get(how, 1)  # fmt: skip
        total = total + np.sum(logp) / over
    support, query = (_Steps(at, y, "outer") for y in (rounds(0)[1], outer[1]))

    def gain(steps):
        weights = 1 if how == "without discount" else np.tile(steps.powers(steps.gamma), steps.n)
        return np.sum(weights * steps.r) / (int(np.sum(steps.runs)) if how == "means" else steps.n)

    R = {"support's return": gain(support), "gain": gain(query) - gain(support), "negative": -gain(query)}
    return total * R.get(how, gain(query))


# ── other ways to the answer ────────────────────────────────────────────────────────────────────────────────────────


def _batch(case, y) -> dict:
    """A round as `tinymaml.rl` has it."""
    from ...rl import returns

    runs = y[..., 2] > 0
    rewards, values = np.where(runs, y[..., 1], 0), np.where(runs, y[..., 3], 0)
    A = returns.gae(rewards, values, y[..., 2], case.settings["discount"])
    return dict(rewards=rewards, values=values, mask=y[..., 2], advantages=A)


def by_algorithms(case):
    """By the surrogates of `tinymaml.rl`, and the engine through the inner steps."""
    from ...rl.surrogates import SURROGATES, WITH_SAMPLING_SCORE, sampling_score

    name, gamma, of_steps = case.settings["surrogate"], case.settings["discount"], loss_in(NumPy(), case.model)
    more = {"decay": case.settings["decay"]} if name == "loaded-dice" else {}

    def S(theta, x, y):
        return SURROGATES[name](of_steps(theta, x, y), _batch(case, y), discount=gamma, **more)

    def loss(theta):
        total = 0.0
        for (xs, ys), (xq, yq) in case.batches():
            phi, score = theta, 0.0
            gain = np.mean(np.sum(gamma ** np.arange(yq.shape[2]) * yq[:, 0, :, 1] * yq[:, 0, :, 2], -1))
            for k in range(case.inner_steps):
                at = phi, xs[:, k], ys[:, k]
                if name in WITH_SAMPLING_SCORE:
                    score = score + sampling_score(of_steps(*at), _batch(case, at[2]), gain)
                step = engine.grad(S)(*at)
                phi = {n: p + case.inner_lr * step[n] for n, p in phi.items()}
            total = total - (S(phi, xq[:, 0], yq[:, 0]) + score) / case.tasks
        return total

    value, grads = engine.value_and_grad(loss)(case.params)
    return float(value), grads


def closed_form(case):
    """G = −(I + α ∇²J(θ)) g_q(θ + α ∇J(θ)), where each trajectory is there as often as its probability says.

    J and its derivatives are of the process, by Bellman's recursion. g_q of a tabular policy is Σ γᵗ A_t (e_a − π(s))
    for the states and actions of the query's trajectories.
    """
    if set(case.params) != {"w"} or case.params["w"].any() or case.settings["surrogate"] != "dice":
        return None
    from ...rl.tabular import expected_return

    theta, values, grads = case.params["w"], [], []
    for (xs, ys), (xq, yq) in case.batches():
        J = partial(expected_return, _process(xs[:, 0], ys[:, 0], case.settings["discount"]))
        phi = theta + case.inner_lr * engine.grad(J)(theta)
        pi = np.exp(phi) / np.sum(np.exp(phi), 1, keepdims=True)
        batch, g = _batch(case, yq[:, 0]), np.zeros_like(phi)
        weights = case.settings["discount"] ** np.arange(yq.shape[2]) * batch["mask"] / len(yq)
        for i, t in np.ndindex(weights.shape):
            s = int(np.argmax(xq[i, 0, t]))
            g[s] += weights[i, t] * batch["advantages"][i, t] * (np.eye(phi.shape[1])[int(yq[i, 0, t, 0])] - pi[s])
        values.append(-np.sum(weights * batch["rewards"]))
        grads.append(-(g + case.inner_lr * engine.hvp(J, (theta,), g)))
    return np.mean(values), {"w": np.mean(grads, 0)}


def _process(x, y, discount: float):
    """The process of which these are all trajectories, each as often as its probability says."""
    from ...rl.tabular import MDP

    states, actions = np.argmax(x, -1), y[..., 0].astype(int)
    transition, reward = np.zeros((x.shape[-1], actions.max() + 1, x.shape[-1])), np.zeros((x.shape[-1], 2))
    for i, t in np.ndindex(states.shape):
        reward[states[i, t], actions[i, t]] = y[i, t, 1]
        if t + 1 < states.shape[1]:
            transition[states[i, t], actions[i, t], states[i, t + 1]] += 1
    never = transition.sum(-1) == 0
    transition[never, 0] = 1  # a state that is only reached at the end goes nowhere
    start = np.mean(x[:, 0], 0)
    return MDP(start, transition / transition.sum(-1, keepdims=True), reward, states.shape[1], discount)


# ── cases ───────────────────────────────────────────────────────────────────────────────────────────────────────────

HORIZON = 3


def posed(case, numbers):
    """The case with trajectories: settings["drawn"] says of what, and is then gone."""
    settings = dict(case.settings)
    drawn, params = settings.pop("drawn"), dict(case.params)
    layers = case.model["layers"]
    if drawn != "network" and drawn != "gaussian":  # a table of logits
        params, layers = {"w": params["w1"]}, [{"layer": "linear", "params": ["w"]}]
    if drawn == "gaussian":
        params |= {"log_std": numbers((1,), 0.25)}
        layers = [*layers, {"layer": "context", "params": ["log_std"]}]
    size = params["w" if "w" in params else "w1"].shape[0]
    actions = 0 if drawn == "gaussian" else list(params.values())[-1].shape[-1]
    draw = partial(_trajectories, numbers, size, actions, one_hot=drawn in ("table", "every trajectory"))
    support = [draw(len(x), case.inner_steps) for x, _ in case.support]
    query = [draw(len(x), 1) for x, _ in case.query]
    if drawn == "every trajectory":
        params = {"w": 0 * params["w"]}
        support = [_every_trajectory(numbers) for _ in support]
        query = [(x[:, :, :2], y[:, :, :2]) for x, y in query]
    model = {"layers": layers, "loss": "gaussian" if drawn == "gaussian" else "categorical"}
    return dataclasses.replace(case, model=model, params=params, support=support, query=query, settings=settings)


def _trajectories(numbers, size: int, actions: int, count: int, rounds: int, one_hot: bool) -> tuple:
    """x and y of so many trajectories in each round; of three in turn, one ends after 1 step, one after 2."""
    shape = (count, rounds, HORIZON)
    x = numbers((*shape, size), 1.0)
    x = np.eye(size)[np.argmax(x, -1)] if one_hot else x
    a = np.argmax(numbers((*shape, actions)), -1) if actions else numbers(shape)
    lengths = np.array([3, 1, 2])[(np.arange(count)[:, None] + np.arange(rounds)) % 3]
    runs = 1.0 * (np.arange(HORIZON) < lengths[..., None])
    return x, np.stack([a, numbers(shape) + 0.5, runs, numbers(shape, 0.5)], -1)


def _every_trajectory(numbers) -> tuple:
    """All trajectories of two steps of a process with 2 states and 2 actions, each 4 P(s₁|s₀, a₀) times, of 16."""
    reward, baseline, drawn = numbers((2, 2)), numbers((2, 2), 0.5), numbers((3,))
    often = np.argsort(drawn) + 1  # 4 P(s₁ = 0) after either action: two different ones of 1, 2, 3
    rows = []
    for first in (0, 1):
        for second, times in ((0, often[first]), (1, 4 - often[first])):
            rows += [(first, second, last) for last in (0, 1) for _ in range(times)]
    x, y = np.zeros((len(rows), 1, 2, 2)), np.ones((len(rows), 1, 2, 4))
    for i, (first, second, last) in enumerate(rows):
        x[i, 0, 0, 0] = x[i, 0, 1, second] = 1
        y[i, 0, 0] = first, reward[0, first], 1, baseline[0, 0]
        y[i, 0, 1] = last, reward[second, last], 1, baseline[1, second]
    return x, y


def _case(kind: str, surrogate: str, drawn: str, inner_steps: int, inner_lr: float, **more) -> dict:
    settings = {"surrogate": surrogate, "discount": more.pop("discount", 0.875), "drawn": drawn}
    settings |= {"decay": more.pop("decay")} if "decay" in more else {}
    sizes = dict(tasks=2, shots=4, queries=4) | more
    return dict(kind=kind, inner_steps=inner_steps, inner_lr=inner_lr, settings=settings, **sizes)


CASES: dict[str, dict] = {
    "every-trajectory": _case("linear 2-2 mse", "dice", "every trajectory", 1, 0.75, shots=16),
    "dice": _case("linear 2-3 mse", "dice", "table", 2, 0.5),
    "network": _case("tanh 2-2-2 mse", "dice", "network", 1, 0.3, discount=0.75, queries=5),
    "gaussian": _case("tanh 2-1-1 mse", "dice", "gaussian", 2, 0.25),
    "likelihood": _case("tanh 2-2-2 mse", "likelihood", "network", 2, 0.5),
    "lvc": _case("linear 2-1 mse", "lvc", "gaussian", 2, 0.25, discount=0.75, tasks=1),
    "loaded-dice": _case("linear 2-3 mse", "loaded-dice", "table", 2, 0.5, decay=0.5, tasks=3),
    "e-maml": _case("linear 2-2 mse", "e-maml", "table", 2, 0.5, discount=0.75),
}  # fmt: skip
NOT_HERE = ("one_tensor_after_the_other_and_through_it",)  # the loss is not the model's
SHARED = tuple(name for name in PLAIN if name not in ("multi_step_loss",))


def _where(*forms: dict) -> tuple[dict, ...]:
    """Each form made in both surrogates, in the inner one, and in the outer one."""
    return tuple(form | where for where in ({}, {"where": "inner"}, {"where": "outer"}) for form in forms)


_BOX = "box = lambda x: torch.exp(x - x.detach())", "box = lambda x: jnp.exp(x - jax.lax.stop_gradient(x))"
_DICE = (
    "(w * (r * box((runs * logp).cumsum(1)) + (1 - box(logp)) * b) * runs).sum() / N, w = discount ** t",
    "(w * (r * box(jnp.cumsum(runs * logp, 1)) + (1 - box(logp)) * b) * runs).sum() / N, w = discount ** t",
)
_SUM = "box((runs * logp).cumsum(1)), over the steps of each trajectory", "box(jnp.cumsum(runs * logp, 1))"
_MEAN = (".sum() / N, N the number of trajectories",) * 2
_A = "A = returns - b, with returns[:, t] = r[:, t] + discount * returns[:, t + 1]"
_SCORE = (
    "S = S + sum((runs * logp_k).sum() for each round k) * R.detach()",
    "S = S + sum((runs * logp_k).sum() for each round k) * stop_gradient(R)",
)
MISTAKES = [
    Mistake(
        "rl_sampling_term_missing", "log π_t A_t in the place of ☐(Σ_{s≤t} log π_s) r_t",
        "the inner step ascends the likelihood-ratio surrogate: its gradient is right, but its derivative lacks the "
        "term by which the sampling of trajectories depends on θ; the case asks for another surrogate",
        *_DICE, ({"surrogate": "likelihood"}, {"surrogate": "likelihood", "where": "inner"}),
        "most public RL-MAML, cbfinn/maml_rl among them",
    ),
    Mistake(
        "rl_lvc", "☐(log π_t) A_t: each action's own probability, not those of its past",
        "the surrogate is LVC: of the products of scores ∇log π_s ∇log π_uᵀ it has those with s = u alone",
        *_DICE, ({"surrogate": "lvc"}, {"surrogate": "lvc", "where": "inner"}), "ProMP, formulation I",
    ),
    Mistake(
        "rl_dice", "☐(Σ_{s≤t} log π_s) r_t, where the case asks for less",
        "the inner surrogate is DiCE, whose Hessian has the sampling term; the case asks for a surrogate without it, "
        "or with a part of it",
        "the surrogate of case.settings['surrogate']", "the surrogate of case.settings['surrogate']",
        ({"surrogate": "dice"}, {"surrogate": "dice", "where": "inner"}),
    ),
    Mistake(
        "rl_running_sum", "w₀ = log π₀ + c log π_last,   w_t = log π_t + c w_{t−1},   c = 1/N",
        "the running sum of log-probabilities starts one step too early, from the last step's, or decays by 1/episodes "
        "per step: this is no DiCE",
        *_SUM, _where({"sum": "published"}, {"sum": "decayed"}, {"sum": "from the last step"}),
        "learn2learn, examples/rl/maml_dice.py",
    ),
    Mistake(
        "rl_whole_trajectory", "r_t ☐(Σ_s log π_s), over the whole trajectory",
        "each reward is made to depend on all actions of its trajectory, also on those after it; it depends on s ≤ t",
        *_SUM, _where({"sum": "whole trajectory"}),
    ),
    Mistake(
        "rl_sum_too_late", "r_t ☐(Σ_{s<t} log π_s)",
        "a reward does not depend on the action for which it is given: the sum leaves out s = t",
        *_SUM, _where({"sum": "before t"}),
    ),
    Mistake(
        "rl_sum_across_trajectories", "☐ of a sum over all trajectories up to this one",
        "the cumulative sum runs on from one trajectory into the next",
        *_SUM, _where({"sum": "across"}),
    ),
    Mistake(
        "rl_box_not_stopped", "exp(Σ log π) in the place of exp(x − ⊥x)",
        "the box has no stop-gradient: it is a product of probabilities, and not 1",
        *_BOX, _where({"box": "not stopped"}),
    ),
    Mistake(
        "rl_baseline_missing", "no (1 − ☐(log π_t)) b_t, or A_t without b_t",
        "the baseline is not subtracted",
        *_DICE, _where({"baseline": "missing"}),
    ),
    Mistake(
        "rl_baseline_undiscounted", "(1 − ☐(log π_t)) b_t without γᵗ",
        "DiCE's baseline term lacks its weight γᵗ",
        *_DICE, _where({"baseline": "without γᵗ"}),
    ),
    Mistake(
        "rl_baseline_added", "+ b_t in the place of − b_t",
        "the baseline's sign is wrong",
        *_DICE, _where({"baseline": "added"}),
    ),
    Mistake(
        "rl_baseline_of_the_past", "(1 − ☐(Σ_{s≤t} log π_s)) b_t",
        "the baseline term has the box of all actions up to t; it has that of the action a_t alone",
        *_DICE, _where({"baseline": "times the past"}),
    ),
    Mistake(
        "rl_baseline_inside_the_return", "A_t = Σ_{u≥t} γ^{u−t} (r_u − b_u)",
        "the baseline is subtracted from each reward, and not from the return: A_t loses the baselines of all later "
        "steps, too",
        "returns(r) - b, not returns(r - b)", "returns(r) - b, not returns(r - b)",
        _where({"baseline": "inside the return"}), classic=False,
    ),
    Mistake(
        "rl_other_discount", "another γ than the case's",
        "γ is not case.settings['discount']; 1 is no discount at all",
        "discount = case.settings['discount']", "discount = case.settings['discount']",
        _where({"gamma": 1.0}), free=Free("gamma", "γ", (1.0, 0.99, 0.95)),
    ),
    Mistake(
        "rl_step_weight_missing", "log π_t A_t without γᵗ",
        "the returns are discounted, but step t does not have the weight γᵗ, as in most published code; that is the "
        "gradient of no objective, and the case asks for γᵗ",
        "w = discount ** torch.arange(H)", "w = discount ** jnp.arange(H)", _where({"discounts": "no weights"}),
        "rllab and what came of it",
    ),
    Mistake(
        "rl_returns_undiscounted", "A_t = Σ_{u≥t} r_u − b_t",
        "the returns to go are not discounted", _A, _A, _where({"discounts": "no returns"}),
    ),
    Mistake(
        "rl_discounted_twice", "A_t = Σ_{u≥t} γᵘ r_u − b_t",
        "the returns to go are discounted from the start of the trajectory, and not from t: they have γᵗ too often, or "
        "the baseline has it not at all",
        _A, _A,
        _where({"returns": "discounted from the start"},
               {"returns": "discounted from the start", "discounts": "no weights"}),
    ),
    Mistake(
        "rl_whole_return", "A_t = Σ_u γᵘ r_u − b_t, over the whole trajectory",
        "each action is credited with the return of the whole trajectory, what came before it included",
        _A, _A, _where({"returns": "whole"}),
    ),
    Mistake(
        "rl_advantages_normalised", "(A − mean A) / (σ_A + 1e-8)",
        "the advantages are normalised, or centred, over the set; the case asks for them as they are",
        "no normalisation of A", "no normalisation of A",
        _where({"advantages": "normalised"}, {"advantages": "centred"}), "cbfinn/maml_rl, ProMP, by default",
    ),
    Mistake(
        "rl_return_for_reward", "A_t ☐(Σ_{s≤t} log π_s), or G_t",
        "DiCE's box of the whole past multiplies advantages or returns to go, in which later rewards are again: each "
        "reward is counted once for every step before it. The box multiplies rewards; with advantages, less the past",
        *_DICE, _where({"reward": "advantage"}, {"reward": "return"}),
    ),
    Mistake(
        "rl_past_not_taken_off", "☐(w_t) A_t without ☐(λ w_{t−1})",
        "loaded DiCE lacks its second box: each advantage is then credited to all actions before it, too",
        "(box(w) - box(w - logp)) * A", "(box(w) - box(w - logp)) * A", _where({"loaded": "as it is"}),
    ),
    Mistake(
        "rl_ratio_to_first_policy", "exp(log π_θₖ − log π_θ₀)",
        "the probabilities are divided by those of θ₀ in every step, or in the query: round k was sampled by θₖ, and "
        "the query by θ_K, so that the ratio is 1",
        *_BOX, _where({"box": "against θ₀"}), "importance ratios of PPO, taken over",
    ),
    Mistake(
        "rl_mean_over_steps", "a mean over all steps in the place of 1/N Σᵢ Σ_t",
        "the surrogate is a mean over steps; it is a mean over trajectories of sums over their steps: α is smaller by "
        "their length",
        *_MEAN, _where({"mean": "over steps"}, {"mean": "over all entries"}, {"mean": "over the steps of each"}),
        "pytorch-maml-rl, ProMP",
    ),
    Mistake(
        "rl_sum_over_trajectories", "Σᵢ Σ_t without 1/N",
        "the surrogate is a sum over trajectories, in the outer objective, or in both; it is their mean",
        *_MEAN, ({"mean": "sum"}, {"mean": "sum", "where": "outer"}),
    ),
    Mistake(
        "rl_mask_ignored", "Σ over all H entries",
        "what stands after the end of an episode is counted as if the episode went on",
        "multiply by runs = ys[..., 2], also log π before the cumulative sum",
        "multiply by runs = ys[..., 2], also log π before the cumulative sum",
        ({"mask": "ignored"},),
    ),
    Mistake(
        "rl_log_std_fixed", "log σ stays what it is in the inner steps, or is not learned",
        "the logarithm of the standard deviation is left out of adaptation, or of the meta-gradient",
        "adapt and return every parameter, log_std too", "adapt and return every parameter, log_std too",
        ({"log_std": "fixed"}, {"log_std": "not learned"}),
    ),
    Mistake(
        "rl_one_round", "every inner step on the first round",
        "each inner step has trajectories of its own, sampled by θₖ, round k of the support; all steps used the same",
        "xs[t][:, k], ys[t][:, k] in step k", "xs[t][:, k], ys[t][:, k] in step k",
        ({"rounds": "the first"}, {"rounds": "all together"}),
    ),
    Mistake(
        "rl_half_of_first_round", "xs[t][:, k] with ys[t][:, 0], or xs[t][:, 0] with ys[t][:, k], in step k",
        "observations and actions are of two rounds: an index is left at 0, so that each action is judged by the "
        "observation of another one",
        "xs[t][:, k], ys[t][:, k] in step k", "xs[t][:, k], ys[t][:, k] in step k",
        ({"rounds": "actions of the first"}, {"rounds": "observations of the first"}), classic=False,
    ),
    Mistake(
        "rl_score_missing", "no Σ log π_θₖ(τ) · ⊥R",
        "E-MAML's term is missing: this is MAML with the likelihood-ratio surrogate",
        *_SCORE, ({"score": "missing"},),
    ),
    Mistake(
        "rl_score_not_asked", "+ Σ log π_θₖ(τ) · ⊥R",
        "E-MAML's term was added, and the surrogate is another one: with DiCE, sampling is counted twice",
        "no score term", "no score term", ({"score": "added"},),
    ),
    Mistake(
        "rl_score_mean", "a mean of log π over steps or trajectories, times R or the mean reward",
        "E-MAML's term has means where it has sums: the N trajectories together led to θ′, and the logarithm of their "
        "probability is the sum over all their steps; R is a trajectory's discounted return",
        *_SCORE, ({"score": "mean over steps"}, {"score": "means"}, {"score": "mean over trajectories"}),
        "ProMP's code: means over time",
    ),
    Mistake(
        "rl_score_sign", "− Σ log π_θₖ(τ) · ⊥R", "E-MAML's term has the wrong sign",
        *_SCORE, ({"score": "negative"},),
    ),
    Mistake(
        "rl_score_of_one_round", "Σ log π of one round's trajectories",
        "E-MAML's term has one round's trajectories; those of every inner step were sampled by a θₖ that depends on θ",
        *_SCORE, ({"score": "first round"}, {"score": "last round"}),
    ),
    Mistake(
        "rl_score_return", "R of the support, R less that, or R without γᵗ",
        "E-MAML's term is multiplied by another return than the query's discounted one",
        *_SCORE, ({"score": "support's return"}, {"score": "gain"}, {"score": "without discount"}),
    ),
    Mistake(
        "rl_other_decay", "w_t = c w_{t−1} + log π_t, with another c than λ",
        "loaded DiCE's λ is not case.settings['decay']; 1 is no decay",
        "decay = case.settings['decay']", "decay = case.settings['decay']",
        ({"lambda": 1.0},), free=Free("lambda", "c", (1.0, 0.9, 0.95, 0.99)),
    ),
    Mistake(
        "rl_sum_backwards", "r_t ☐(Σ_{s≥t} log π_s)",
        "the running sum goes backwards: a reward is made to depend on the actions after it",
        *_SUM, _where({"sum": "from t on"}), classic=False,
    ),
    Mistake(
        "rl_step_weight_late", "γᵗ⁺¹ in the place of γᵗ",
        "the first step has the weight γ; it has the weight 1",
        "w = discount ** torch.arange(H)", "w = discount ** jnp.arange(H)",
        _where({"discounts": "weights one late"}), classic=False,
    ),
    Mistake(
        "rl_advantages_centred_per_step", "A_t − mean over trajectories of A_t",
        "the mean of the advantages at each step is taken off, a baseline of the batch; b_t is the only one asked for",
        "A = returns - b, and nothing else", "A = returns - b, and nothing else",
        _where({"advantages": "centred per step"}), classic=False,
    ),
    Mistake(
        "rl_last_step_dropped", "t < (length of the episode) − 1",
        "the last step of each episode is left out: the mask was moved by one, as one of next states is",
        "runs = ys[..., 2], which belongs to the action of the same step",
        "runs = ys[..., 2], which belongs to the action of the same step",
        ({"mask": "one step short"},), classic=False,
    ),
]  # fmt: skip
