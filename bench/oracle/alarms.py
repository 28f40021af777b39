"""False alarms: correct implementations, thousands of times, none of which may be refused.

    python -m bench.oracle alarms                    # 10,000 runs, some minutes on one core
    python -m bench.oracle alarms --runs 1000 --json alarms.json
    python -m bench.oracle alarms --family           # the same of the other algorithms' implementations and cases

A run is one implementation, one case, one dtype and one variation that leaves the meta-gradient as it is: the tasks,
the examples of the support and of the query sets and the hidden units in another order, and one or two threads. Counted
is ρ, the error in roundings (`tolerance.error`) against the case's answer; the largest calibrates τ. The exit code is 0
if none is above τ, and every implementation is CORRECT as a whole.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import threadpoolctl

from tinymaml import extras, oracle
from tinymaml.oracle import models, questions, tolerance
from tinymaml.oracle.cases import CAPABILITIES, SUITES
from tinymaml.oracle.tolerance import rates

from . import page
from .family import HONEST
from .family.loops import HONEST as LOOPS
from .mistakes import MAML, ByHand, called, engine

torch = extras.require("torch", "peers")
jax = extras.require("jax", "peers")
jax.config.update("jax_enable_x64", True)

# ── implementations: case → {"meta_grad": …, "meta_loss": …} ────────────────────────────────────────────────────────

IMPLEMENTATIONS: dict[str, Callable] = {"engine": engine, "engine, products by hand": called(ByHand)}


def implementation(name: str) -> Callable:
    def register(f):
        IMPLEMENTATIONS[name] = f
        return f

    return register


def alpha(case) -> dict:
    """A rate for each parameter, in the case's dtype."""
    given = rates(case)
    given = given if isinstance(given, dict) else dict.fromkeys(case.params, given)
    return {n: np.asarray(a, case.dtype) for n, a in given.items()}


def mean_over_tasks(case, one: Callable) -> dict:
    """one(t) → (loss, {name: gradient}) of task t."""
    values, grads = zip(*(one(t) for t in range(case.tasks)), strict=True)
    mean = {n: sum(g[n] for g in grads) / case.tasks for n in case.params}
    return {"meta_grad": mean, "meta_loss": sum(values) / case.tasks}


def batch_of(data, t) -> tuple:
    return tuple(a[t] for a in data)


class HandWritten:
    """NumPy alone: gradients by hand, Hessian-vector products by the complex step, θ + ih v, all in the case's dtype.

    `add` is how the gradients of single examples are added; None: the batch at once.
    """

    def __init__(self, add: Callable | None = None):
        self.add = add

    def __call__(self, case) -> dict:
        _, theta, (support, query) = case.numpy()
        rate = alpha(case)
        gradient = self.gradient(case)
        complex_dtype = np.complex64 if case.dtype == "float32" else np.complex128

        def one(t):
            xs, way = batch_of(support, t), [theta]
            for _ in range(case.inner_steps):
                g = gradient(way[-1], xs)[1]
                way.append({n: p - rate[n] * g[n] for n, p in way[-1].items()})
            value, v = gradient(way[-1], batch_of(query, t))
            h = np.asarray(2.0**-80, case.dtype)
            for at in [] if case.first_order else reversed(way[:-1]):
                moved = {n: (p + 1j * h * (rate[n] * v[n])).astype(complex_dtype) for n, p in at.items()}
                v = {n: v[n] - np.imag(g) / h for n, g in gradient(moved, xs)[1].items()}
            return value, v

        return mean_over_tasks(case, one)

    def gradient(self, case) -> Callable:
        if self.add is None or any(m["layer"] == "batch_norm" for m in case.model["layers"]):
            return lambda theta, batch: models.loss_and_grad(case.model, theta, *batch)

        def by_example(theta, batch):
            x, y = batch
            each = [models.loss_and_grad(case.model, theta, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
            value = self.add(np.stack([v for v, _ in each])) / len(x)
            return value, {n: self.add(np.stack([g[n] for _, g in each])) / len(x) for n in theta}

        return by_example


def left_to_right(terms: np.ndarray):
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def exactly(terms: np.ndarray):
    """math.fsum, of real and of imaginary parts, rounded once."""
    flat = terms.reshape(len(terms), -1)
    parts = [[math.fsum(column) for column in part.T] for part in (flat.real, flat.imag)]
    total = np.array(parts[0]) + (1j * np.array(parts[1]) if np.iscomplexobj(terms) else 0)
    return total.astype(terms.dtype).reshape(terms.shape[1:])


def in_pairs(terms: np.ndarray):
    while len(terms) > 1:
        even = terms[: len(terms) // 2 * 2]
        terms = np.concatenate([even[::2] + even[1::2], terms[len(even) :]])
    return terms[0]


IMPLEMENTATIONS["NumPy by hand"] = HandWritten()
IMPLEMENTATIONS["NumPy, sums left to right"] = HandWritten(left_to_right)
IMPLEMENTATIONS["NumPy, sums in pairs"] = HandWritten(in_pairs)
IMPLEMENTATIONS["NumPy, sums by fsum"] = HandWritten(exactly)
IMPLEMENTATIONS["PyTorch, create_graph"] = called(MAML)


def functional(case) -> tuple:
    """The query loss of one task as a function of θ, and what it is called with."""
    loss, theta, (support, query) = case.torch()
    rate = {n: torch.from_numpy(a) for n, a in alpha(case).items()}
    theta = {n: p.detach() for n, p in theta.items()}

    def of_task(p, xs, ys, xq, yq):
        for _ in range(case.inner_steps):
            g = torch.func.grad(loss)(p, xs, ys)
            g = {n: x.detach() for n, x in g.items()} if case.first_order else g
            p = {n: p[n] - rate[n] * g[n] for n in p}
        return loss(p, xq, yq)

    return of_task, theta, support, query


@implementation("torch.func, grad of grad")
def torch_func(case) -> dict:
    of_task, theta, support, query = functional(case)
    step = torch.func.grad_and_value(of_task)

    def one(t):
        grads, value = step(theta, *batch_of(support, t), *batch_of(query, t))
        return value, grads

    return mean_over_tasks(case, one)


@implementation("torch.func, vmap over tasks")
def torch_vmap(case) -> dict:
    if "unequal_tasks" in case.needs:
        return torch_func(case)
    of_task, theta, support, query = functional(case)
    mean = lambda p: torch.func.vmap(of_task, (None, 0, 0, 0, 0))(p, *support, *query).mean()  # noqa: E731
    grads, value = torch.func.grad_and_value(mean)(theta)
    return {"meta_grad": grads, "meta_loss": value}


@implementation("PyTorch, forward over reverse")
def forward_over_reverse(case) -> dict:
    loss, theta, (support, query) = case.torch()
    rate = {n: torch.from_numpy(a) for n, a in alpha(case).items()}
    theta = {n: p.detach() for n, p in theta.items()}

    def one(t):
        batch, way = batch_of(support, t), [theta]
        gradient = torch.func.grad(loss)
        for _ in range(case.inner_steps):
            g = gradient(way[-1], *batch)
            way.append({n: p - rate[n] * g[n] for n, p in way[-1].items()})
        v, value = torch.func.grad_and_value(loss)(way[-1], *batch_of(query, t))
        for at in [] if case.first_order else reversed(way[:-1]):
            _, h = torch.func.jvp(lambda p: gradient(p, *batch), (at,), ({n: rate[n] * v[n] for n in v},))
            v = {n: v[n] - h[n] for n in v}
        return value, v

    return mean_over_tasks(case, one)


class Jitted:
    """JAX, compiled once for each model, shape and dtype; the data are arguments."""

    def __init__(self, forward: bool):
        self.forward, self.compiled = forward, {}

    def __call__(self, case) -> dict:
        loss, theta, (support, query) = case.jax()
        rate = alpha(case)
        key = (json.dumps(case.model), case.inner_steps, case.dtype, case.first_order, case.adapt, case.tasks,
               *(np.shape(a) for a in [*theta.values(), *support, *query]))  # fmt: skip
        if key not in self.compiled:
            of_task = self.by_products(loss, case) if self.forward else self.straight(loss, case)
            self.compiled[key] = jax.jit(of_task)
        step = self.compiled[key]
        return mean_over_tasks(case, lambda t: step(theta, rate, *batch_of(support, t), *batch_of(query, t)))

    @staticmethod
    def straight(loss, case):
        def query_loss(p, rate, xs, ys, xq, yq):
            for _ in range(case.inner_steps):
                g = jax.grad(loss)(p, xs, ys)
                g = jax.lax.stop_gradient(g) if case.first_order else g
                p = {n: p[n] - rate[n] * g[n] for n in p}
            return loss(p, xq, yq)

        return jax.value_and_grad(query_loss)

    @staticmethod
    def by_products(loss, case):
        gradient = jax.grad(loss)

        def value_and_grad(p, rate, xs, ys, xq, yq):
            way = [p]
            for _ in range(case.inner_steps):
                g = gradient(way[-1], xs, ys)
                way.append({n: way[-1][n] - rate[n] * g[n] for n in p})
            value, v = jax.value_and_grad(loss)(way[-1], xq, yq)
            for at in [] if case.first_order else reversed(way[:-1]):
                _, h = jax.jvp(lambda p: gradient(p, xs, ys), (at,), ({n: rate[n] * v[n] for n in v},))
                v = {n: v[n] - h[n] for n in v}
            return value, v

        return value_and_grad


IMPLEMENTATIONS["JAX, jit"] = Jitted(forward=False)
IMPLEMENTATIONS["JAX, jit, forward over reverse"] = Jitted(forward=True)


# ── variations that leave the meta-gradient as it is ────────────────────────────────────────────────────────────────


def shuffled(case, source: random.Random):
    """The tasks, the examples of each batch and the hidden units in another order.

    Returns:
        The case, and what puts a gradient of it back in order.
    """

    def order(n):
        return source.sample(range(n), n)

    def batch(pair):
        new = order(len(pair[0]))
        return tuple(np.asarray(a)[new] for a in pair)

    tasks = order(case.tasks)
    support, query = ([batch(batches[t]) for t in tasks] for batches in (case.support, case.query))
    params, places, rate = dict(case.params), {}, case.inner_lr
    # settings of the other algorithms may have an entry per unit, too
    for name, axis, new in hidden_orders(case, order) if case.algorithm == "maml" else []:
        params[name] = np.take(params[name], new, axis)
        rate = rate | {name: np.take(rate[name], new, axis)} if isinstance(rate, dict) else rate
        places.setdefault(name, []).append((axis, np.argsort(new)))

    def back(grads):
        out = {}
        for name, g in grads.items():
            g = np.asarray(questions.as_floats(g, name), np.float64)
            for axis, old in places.get(name, []):
                g = np.take(g, old, axis)
            out[name] = g
        return out

    changed = dataclasses.replace(case, support=support, query=query, params=params, inner_lr=rate, handed_out=[])
    return changed, back


def hidden_orders(case, order: Callable) -> list[tuple]:
    """(parameter, axis, order) for every layer of hidden units between two linear layers or convolutions."""
    layers = case.model["layers"]
    used = [n for m in layers for n in m.get("params", [])]
    out = []
    weighted = [i for i, m in enumerate(layers) if m["layer"] in ("linear", "conv")]
    for a, b in zip(weighted, weighted[1:], strict=False):
        first, second = layers[a]["params"], layers[b]["params"]
        between = [n for m in layers[a + 1 : b] for n in m.get("params", [])]
        if any(used.count(n) > 1 for n in [*first, *second]) or any(m["layer"] == "flatten" for m in layers[a:b]):
            continue
        new = order(case.params[first[0]].shape[-1])
        out += [(first[0], case.params[first[0]].ndim - 1, new)]
        out += [(n, 0, new) for n in [*first[1:], *between]]
        out += [(second[0], case.params[second[0]].ndim - 2, new)]
    return out


# ── the count ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass
class Tally:
    """One implementation in one dtype. `worst`: the largest ρ of a gradient or of a loss; `at`: its case."""

    implementation: str
    dtype: str
    runs: int = 0
    alarms: int = 0
    worst: float = 0.0
    at: str = ""
    whole: str = ""
    seconds: float = 0.0


def rho(case, answer: dict, back: Callable) -> float:
    """The error of an answer in roundings, of the gradient or of the loss."""
    right, unit = case.answer, tolerance.UNIT[case.dtype]
    worst = tolerance.error(back(answer["meta_grad"]), right.meta_grad, right.scale, unit)
    loss = float(questions.as_floats(answer["meta_loss"], "meta_loss"))
    return max(worst, float(tolerance.errors(loss, right.meta_loss, right.loss_scale, unit)))


def count(runs: int, implementations: dict, cases: dict, tell=lambda tally: None, seed: int = 0) -> list[Tally]:
    """`runs` runs, shared out evenly over implementations, dtypes and cases; every other one with two threads."""
    tallies = []
    each = math.ceil(runs / len(implementations) / sum(map(len, cases.values())))
    limits = threadpoolctl.ThreadpoolController()
    for name, mine in implementations.items():
        for dtype, these in cases.items():
            tally, begun = Tally(name, dtype), time.perf_counter()
            for case in (c.with_dtype(dtype) for c in these):
                source = random.Random(f"{seed} {case.id}")
                for i in range(each):
                    changed, back = shuffled(case, source) if i else (case, back_as_is)
                    threads = 1 + i % 2
                    if torch.get_num_threads() != threads:
                        torch.set_num_threads(threads)
                    with limits.limit(limits=threads):
                        error = rho(changed, mine(changed), back)
                    tally.runs += 1
                    tally.alarms += not error <= tolerance.TAU
                    if not error <= tally.worst:
                        tally.worst, tally.at = error, case.id
            tally.seconds = time.perf_counter() - begun
            tallies.append(tally)
            tell(tally)
    torch.set_num_threads(1)
    return tallies


def back_as_is(grads: dict) -> dict:
    return {n: np.asarray(questions.as_floats(g, n), np.float64) for n, g in grads.items()}


def cases_for(suite: str, dtype: str, fresh: int, seed: int, algorithm: str = "maml") -> list:
    """A suite's cases that are for this dtype, and new ones."""
    new = questions.fresh(seed, fresh, dtype, algorithm)
    return [c for c in oracle.load(suite, algorithm=algorithm) if dtype in c.dtypes] + new


def of_family() -> dict[str, dict[str, Callable]]:
    """The honest implementations of every other algorithm, by algorithm and name."""
    classes = {algorithm: {made.__name__: called(made) for made in honest} for algorithm, honest in HONEST.items()}
    return {**LOOPS, **classes}


def text(tallies: list[Tally]) -> str:
    lines = [f"{'implementation':32} {'dtype':8} {'runs':>6} {'alarms':>6}  {'worst ρ':>8}  {'at':24} as a whole"]
    for t in tallies:
        lines.append(f"{t.implementation:32} {t.dtype:8} {t.runs:6} {t.alarms:6}  {t.worst:8.2f}  {t.at:24} {t.whole}")
    runs, alarms, worst = sum(t.runs for t in tallies), sum(t.alarms for t in tallies), max(t.worst for t in tallies)
    wanted = max(30.0, 10 * worst)
    lines += ["", f"{runs} runs, {alarms} false alarms; the worst ρ is {worst:.2f}, so that τ = max(30, 10 × worst) = "
              f"{wanted:.0f} (it is {tolerance.TAU:g})"]  # fmt: skip
    return "\n".join(lines)


def kept(tallies: list[Tally]) -> dict:
    """The counts that the pages state."""
    runs, alarms = sum(t.runs for t in tallies), sum(t.alarms for t in tallies)
    names, worst = {t.implementation for t in tallies}, max(t.worst for t in tallies)
    return {"runs": runs, "alarms": alarms, "implementations": len(names), "worst": worst, "allowed": tolerance.TAU}


def main(argv: list[str] | None = None) -> int:
    """The command; 0 if there was no false alarm."""
    parser = argparse.ArgumentParser(prog="python -m bench.oracle alarms", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=10_000, help="least number of runs (10,000)")
    parser.add_argument("--suite", choices=SUITES, default="core")
    parser.add_argument("--family", action="store_true", help="the other algorithms, in the place of MAML")
    parser.add_argument("--fresh", type=int, default=16, help="new cases beside the suite's (16)")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="NAME", help="only implementations whose names start with NAME"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the new cases and of the orders")
    parser.add_argument("--json", type=Path, help="write the counts here")
    parser.add_argument("--store", action="store_true", help="keep the counts in bench/results/stated, for the pages")
    args = parser.parse_args(argv)
    if args.store and (args.only != [""] or args.suite != "core"):
        parser.error("--store is given with --only or --suite, wanted the whole core")
    progress = sys.stderr.isatty()

    def tell(tally):
        if progress:
            print(f"{tally.implementation}, {tally.dtype}: {tally.runs} runs in {tally.seconds:.0f} s", file=sys.stderr)

    chosen = (
        IMPLEMENTATIONS
        if not args.family
        else {f"{algorithm}, {name}": f for algorithm, these in of_family().items() for name, f in these.items()}
    )
    chosen = {name: f for name, f in chosen.items() if name.startswith(tuple(args.only))}
    tallies: list[Tally] = []
    for algorithm in dict.fromkeys(name.split(", ")[0] for name in chosen) if args.family else ["maml"]:
        these = {n: f for n, f in chosen.items() if not args.family or n.split(", ")[0] == algorithm}
        cases = {dtype: cases_for(args.suite, dtype, args.fresh, args.seed, algorithm) for dtype in tolerance.UNIT}
        found = count(math.ceil(args.runs * len(these) / len(chosen)), these, cases, tell, args.seed)
        for tally in found:
            report = oracle.check(these[tally.implementation], cases[tally.dtype], dtype=tally.dtype,
                                  capabilities=tuple(CAPABILITIES))  # fmt: skip
            tally.whole = report.verdict
        tallies += found
    print(text(tallies))
    if args.json:
        result = kept(tallies) | {"tallies": [dataclasses.asdict(t) for t in tallies]}
        args.json.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if args.store:
        page.keep("alarms-family" if args.family else "alarms", kept(tallies))
    return 0 if all(not t.alarms and t.whole == "CORRECT" for t in tallies) else 1
