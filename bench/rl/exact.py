"""Which surrogate of RL-MAML is right, at which order, and of what? Expectations by enumeration, not by sampling.

    python -m bench rl exact                # measures (a few minutes), stores, and prints three tables
    python -m bench rl exact --table        # those that are stored

1. Derivatives of J. Over 20 random decision processes of 2 states, 2 actions and horizon 3, with γ = 0.9, and random
   policies: the expectation of each surrogate's gradient, Hessian and third derivative (contracted with two random
   directions) beside J's. The error is relative to the norm of J's; the median over the processes, and the largest. The
   baseline is V_t(s) of the same policy. "published" is a published DiCE whose running sum of log-probabilities starts
   one step too early, with that of the last step, and decays by 1/episodes per step.
2. The variance of a Hessian-vector product from one trajectory, by horizon: the trace of its covariance over the square
   of the norm of J's; the median of 8 processes, 4,000 trajectories each.
3. The meta-gradient after one inner step on N trajectories (α = 0.5), on one process: how far its expectation is from
   ∇F_N and from ∇F_∞ (see `tinymaml.rl.exact`), relative to the norm of ∇F_∞, and its variance, relative to the square
   of that. Up to N = 5 all multisets of trajectories are enumerated. Beyond, meta-gradients are sampled, and ± is 1.96
   standard errors: an error below that says nothing. The return after the step is exact, and F_∞ is taken off E-MAML's.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import tinymaml as tm
from tinymaml.rl import exact, tabular
from tinymaml.rl.exact import derivative, expectation, expected_derivative, meta_gradients, meta_objective
from tinymaml.rl.surrogates import box, dice, likelihood, loaded_dice, lvc

from .. import timing
from ..study import store

RESULTS = Path(__file__).parents[1] / "results" / "rl" / "exact.json"
PROCESSES, ALPHA = 20, 0.5
HORIZONS, ACTED, OF_HORIZON = (3, 10, 30, 100), 4000, 8
ENUMERATED, SAMPLED = (1, 2, 3, 5), (10, 20, 50)
DIRECT = 3  # N up to which F_N itself is differentiated
BATCHES, AT_A_TIME = 100_000, 5_000  # sampled meta-gradients per N
UNBIASED = "likelihood + score (E-MAML)"


def published(logp, batch, *, discount, wraps=True):
    """A published "DiCE". Its loop `for t in range(n): w[t] += w[t − 1] / episodes` begins at t = 0, where t − 1 is the
    last step. Without `wraps`, only the decay is wrong.
    """
    w, sums = logp[..., -1] if wraps else 0 * logp[..., -1], []
    for t in range(logp.shape[-1]):
        w = logp[..., t] + w / logp.shape[-2]
        sums.append(w)
    weights = discount ** np.arange(logp.shape[-1]) * batch["mask"] * batch["rewards"]
    return np.sum(weights * box(np.stack(sums, -1)), (-2, -1)) / logp.shape[-2]


DERIVATIVES = {
    "likelihood": (likelihood, 1), "lvc": (lvc, 1), "loaded-dice, λ = 0.5": (partial(loaded_dice, decay=0.5), 1),
    "dice": (dice, 1), "loaded-dice": (loaded_dice, 1), "published": (published, 1),
    "published, N = 2, the decay alone": (partial(published, wraps=False), 2),
}  # fmt: skip

# The surrogate of the inner step, and whether the score term is there.
ESTIMATORS = {
    UNBIASED: (likelihood, True), "dice": (dice, False), "loaded-dice": (loaded_dice, False),
    "loaded-dice, λ = 0.5": (partial(loaded_dice, decay=0.5), False), "lvc": (lvc, False),
    "likelihood": (likelihood, False), "none (first order)": (None, False), "dice + score": (dice, True),
}  # fmt: skip


def problem(seed: int, horizon: int = 3) -> tuple:
    """(a process, θ, the baseline V_t(s), two directions of length 1), at random."""
    rng = np.random.default_rng(seed)
    mdp, theta = tabular.random(rng, horizon=horizon), 0.5 * rng.standard_normal((2, 2))
    directions = rng.standard_normal((2, 2, 2))
    return mdp, theta, np.array(tabular.values(mdp, theta)), *(v / np.linalg.norm(v) for v in directions)


# ── measures ────────────────────────────────────────────────────────────────────────────────────────────────────────


def derivatives(processes: int = PROCESSES) -> dict[str, list]:
    """For each surrogate the relative errors of gradient, Hessian and third derivative, of each process."""
    errors: dict[str, list] = {name: [] for name in DERIVATIVES}
    for seed in range(processes):
        timing.say(f"derivatives: process {seed + 1} of {processes}")
        mdp, theta, baseline, v, w = problem(seed)
        basis = [e.reshape(2, 2) for e in np.eye(4)]
        J = partial(tabular.expected_return, mdp)
        orders = ([()], [(e,) for e in basis], [(v, w)])
        for name, (surrogate, n) in DERIVATIVES.items():
            expected = partial(expected_derivative, mdp, theta, surrogate, n=n, baseline=baseline)
            errors[name].append([
                _relative(np.array([expected(*d) for d in each]), np.array([derivative(J, theta, *d) for d in each]))
                for each in orders
            ])  # fmt: skip
    return errors


def variances(processes: int = OF_HORIZON, acted: int = ACTED) -> dict[str, list]:
    """For each surrogate, by horizon, the relative variance of a Hessian-vector product from one trajectory."""
    names = [name for name, (_, n) in DERIVATIVES.items() if n == 1 and name != "published"]
    found: dict[str, list] = {name: [] for name in names}
    for horizon in HORIZONS:
        each: dict[str, list] = {name: [] for name in names}
        for seed in range(processes):
            timing.say(f"variances: horizon {horizon}, process {seed + 1} of {processes}")
            mdp, theta, baseline, v, _ = problem(seed, horizon)
            batch = act(mdp, theta, baseline, acted, seed)
            right = derivative(partial(tabular.expected_return, mdp), theta, v)
            for name in names:
                copies = exact.copies_of(theta, batch)
                of_each = exact.of_batches(DERIVATIVES[name][0], batch, mdp, tabular.log_pi)
                products = derivative(of_each, copies, v)
                each[name].append(float(products.var(0).sum() / np.sum(right**2)))
        for name in names:
            found[name].append(float(np.median(each[name])))
    return found


def act(mdp: tabular.MDP, theta: np.ndarray, baseline: np.ndarray, count: int, seed: int) -> dict:
    """`count` batches of one trajectory each, from acting in the process; there are too many to enumerate."""
    env, rng = tabular.TabularEnvironment(mdp, count), np.random.default_rng([seed, 1])
    observations, _ = env.reset(seed=seed)
    states, actions, first = [], [], np.exp(theta[:, 0]) / np.sum(np.exp(theta), 1)
    for _ in range(mdp.horizon):
        states.append(observations.argmax(-1))
        actions.append((rng.random(count) >= first[states[-1]]).astype(int))
        observations = env.step(actions[-1])[0]
    batch = tabular.batch_of(mdp, np.stack(states, -1), np.stack(actions, -1), baseline)
    return {name: x[:, None] for name, x in batch.items()}


def meta(seed: int = 0, batches: int = BATCHES, enumerated=ENUMERATED, sampled=SAMPLED) -> dict[str, Any]:
    """For each estimator and N: {"off": [from ∇F_N, from ∇F_∞], "half": of their 95 % intervals, "variance": …}.

    Intervals are 0 by enumeration. ∇F_N is the derivative of the sum over multisets, where these are few. Otherwise it
    is the mean of E-MAML's meta-gradients, whose own distance is then None.
    """
    mdp, theta, baseline, *_ = problem(seed)
    limit = float(meta_objective(mdp, theta, ALPHA, None))
    goal = tm.grad(lambda theta: meta_objective(mdp, theta, ALPHA, None))(theta)
    size = np.linalg.norm(goal)
    found: dict[str, dict] = {name: {} for name in ESTIMATORS}
    for n in (*enumerated, *sampled):
        means, variances, halves = {}, {}, {}
        for name, (surrogate, score) in ESTIMATORS.items():
            timing.say(f"meta-gradients: N = {n}, {name}")
            of = partial(meta_gradients, mdp, theta, ALPHA, surrogate, score=score, gain_baseline=limit)
            both = lambda batch, of=of: (lambda g: {"mean": g, "square": g**2})(of(batch))  # noqa: E731
            exactly = n in enumerated
            moments = (expectation(mdp, theta, both, n, baseline=baseline) if exactly else
                       _sampled(mdp, theta, both, n, baseline, batches, seed))  # fmt: skip
            means[name] = moments["mean"]
            variances[name] = np.sum(moments["square"] - moments["mean"] ** 2) / size**2
            halves[name] = 0.0 if exactly else 1.96 * np.sqrt(variances[name] / batches)
        if n <= DIRECT:
            F_n = partial(meta_objective, mdp, alpha=ALPHA, n=n, baseline=baseline)
            of_n, half_of_n = tm.grad(lambda theta, F_n=F_n: F_n(theta=theta))(theta), 0.0
        else:
            of_n, half_of_n = means[UNBIASED], halves[UNBIASED]
        for name, mean in means.items():
            off = [float(np.linalg.norm(mean - right) / size) for right in (of_n, goal)]
            off[0] = None if n > DIRECT and name == UNBIASED else off[0]
            half = [float(np.hypot(halves[name], half_of_n)), float(halves[name])]
            found[name][str(n)] = {"off": off, "half": half, "variance": float(variances[name])}
    return found


def _sampled(mdp, theta, f, n: int, baseline, batches: int, seed: int) -> dict:
    """The means of f over so many sampled batches of n trajectories; the same batches for every estimator."""
    rng, total = np.random.default_rng([seed, n]), None
    for _ in range(0, batches, AT_A_TIME):
        batch = tabular.sample(mdp, rng, theta, (AT_A_TIME, n), baseline=baseline)
        sums = {name: x.sum(0) for name, x in f(batch).items()}
        total = sums if total is None else {name: total[name] + x for name, x in sums.items()}
    return {name: x / (len(range(0, batches, AT_A_TIME)) * AT_A_TIME) for name, x in total.items()}


def _relative(found: np.ndarray, right: np.ndarray) -> float:
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


def measure() -> dict[str, Any]:
    found = {"derivatives": derivatives(), "variances": variances(), "meta": meta()}
    timing.say()
    return found


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def page(record: dict[str, Any]) -> str:
    """Three tables as Markdown, each with a sentence."""
    by_horizon = [["one trajectory", *(f"H = {h}" for h in HORIZONS)]]
    by_horizon += [[name, *(_three(x) for x in row)] for name, row in record["variances"].items()]
    return "\n\n".join([
        f"Expected derivatives of a surrogate: the error relative to J's, median of {PROCESSES} processes (largest)",
        _markdown(_of_derivatives(record["derivatives"])),
        "Variance of a Hessian-vector product, relative to the square of J's",
        _markdown(by_horizon),
        "Expected meta-gradient from N trajectories: distance to ∇F_N, relative to ∇F_∞",
        _markdown(_of_meta(record["meta"], 0)),
        "The same: distance to ∇F_∞",
        _markdown(_of_meta(record["meta"], 1)),
        "The same: variance, relative to the square of ∇F_∞",
        _markdown(_of_meta(record["meta"], None)),
    ])  # fmt: skip


def _of_derivatives(errors: dict[str, list]) -> list[list[str]]:
    rows = [["surrogate", "gradient", "Hessian", "third derivative"]]
    for name, each in errors.items():
        rows.append([name, *(f"{_error(np.median(x))} ({_error(max(x))})" for x in zip(*each, strict=True))])
    return rows


def _of_meta(found: dict[str, dict], which: int | None) -> list[list[str]]:
    """Distances to ∇F_N (0) or ∇F_∞ (1), or variances (None)."""
    rows = [["surrogate", *(f"N = {n}" for n in next(iter(found.values())))]]
    for name, cells in found.items():
        rows.append([name, *(_cell(cell, which) for cell in cells.values())])
    return rows


def _cell(cell: dict[str, Any], which: int | None) -> str:
    if which is None:
        return _three(cell["variance"])
    if (off := cell["off"][which]) is None:
        return "–"
    return _error(off) + (f" ± {_error(cell['half'][which])}" if cell["half"][which] else "")


def _error(x: float) -> str:
    return "rounding" if x < 1e-12 else f"{100 * x:.2g} %" if x < 0.1 else f"{100 * x:.0f} %"


def _three(x: float) -> str:
    return f"{x:.3g}"


def _markdown(rows: list[list[str]]) -> str:
    rows = [rows[0], ["---", *["---:"] * (len(rows[0]) - 1)], *rows[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def stored() -> dict[str, Any] | None:
    """The stored measurement; None if there is none yet."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else None


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench rl exact", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", action="store_true", help="measure nothing: print what is stored")
    args = parser.parse_args(argv)
    try:
        if not args.table:
            store(measure(), RESULTS)
    except KeyboardInterrupt:
        timing.say()
        print("stopped; nothing is stored", file=sys.stderr)
        return 130
    if (record := stored()) is None:
        print("nothing is stored yet: python -m bench rl exact", file=sys.stderr)
        return 1
    print(page(record))
    return 0
