"""How fast is reinforcement learning here: steps of the environment, and meta-iterations, beside a loop in PyTorch.

    python -m bench rl throughput [--turns 11] [--tasks 20] [--json] [--store]

Both do a meta-iteration of `tinymaml train navigation` with its defaults and one inner step (LVC): 20 tasks of 20
trajectories of 100 steps before and after that step, 80,000 steps of the environment in all, then the meta-gradient and
a step of Adam. The environment, its noise, and the advantages are the same NumPy code for both. What differs is the
policy that acts (PyTorch: batched matrix products over tasks), and the derivatives (PyTorch: `autograd.grad` with
`create_graph`, task by task). Before the clocks run, the two meta-gradients are compared in float64. They take turns in
one process; the ratio is the median over neighbouring turns.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from tinymaml.algorithms import maml_rl
from tinymaml.blas import libraries, one_thread
from tinymaml.extras import require
from tinymaml.nest import Nest, tree_items, tree_leaves, tree_map
from tinymaml.per_task import mean_over_tasks
from tinymaml.pictures import style
from tinymaml.rl.policies import Gaussian
from tinymaml.runs import loop
from tinymaml.runs.acting import Acting
from tinymaml.runs.learner import Learner
from tinymaml.runs.settings import Config

from .. import stated, timing

TOLERANCE = 1e-9  # of the largest entry, in float64


class Torch:
    """A meta-iteration in PyTorch, of the same settings.

    Attributes:
        theta: {layer: {"w", "b"}, "log_std"}, tensors.
    """

    def __init__(self, learner: Learner, theta: Nest) -> None:
        self.torch = require("torch", "peers")
        self.learner, self.policy, self.settings = learner, learner.loss, learner.settings
        self.theta = tree_map(lambda x: self.torch.tensor(np.array(x), requires_grad=True), theta)
        self.optimizer = self.torch.optim.Adam(tree_leaves(self.theta), learner.config.outer.meta_lr)

    def iteration(self, tasks: Nest) -> None:
        support, query = self.collected(tasks)
        for x, g in zip(tree_leaves(self.theta), self.gradient(support, query), strict=True):
            x.grad = g
        self.optimizer.step()

    def collected(self, tasks: Nest) -> tuple[list, list]:
        """The batches of every task before and after the inner step."""
        count = len(tasks["seed"])
        stacked = tree_map(lambda x: x.detach().expand(count, *x.shape), self.theta)
        support = self.batches(stacked, tasks, 0)
        adapted = [self.adapted(batch, create_graph=False) for batch in support]
        stacked = tree_map(lambda *xs: self.torch.stack(xs).detach(), *adapted)
        return support, self.batches(stacked, tasks, 1)

    def batches(self, theta: Nest, tasks: Nest, step: int) -> list[dict]:
        acting = _Acting(self.torch, self.policy)
        batch = self.learner.family.collect(acting, acting.shown(theta), tasks, step)
        batch = self.learner._cast(maml_rl.prepared(batch, self.settings))
        names = ("observations", "actions", "mask", "logp", "advantages")
        tensors = {name: self.torch.tensor(batch[name]) for name in names}
        return [{name: x[t] for name, x in tensors.items()} for t in range(len(tasks["seed"]))]

    def adapted(self, batch: dict, create_graph: bool) -> Nest:
        logp = self.logp(self.theta, batch)
        ratio = (logp - logp.detach()).exp()
        mean = (ratio * batch["advantages"] * batch["mask"]).sum() / batch["mask"].sum()
        grads = self.torch.autograd.grad(mean, tree_leaves(self.theta), create_graph=create_graph)
        moved = iter([x + self.settings.inner_lr * g for x, g in zip(tree_leaves(self.theta), grads, strict=True)])
        return tree_map(lambda x: next(moved), self.theta)

    def gradient(self, support: list, query: list) -> list:
        """The meta-gradient, a mean over tasks, leaf by leaf."""
        total = None
        for before, after in zip(support, query, strict=True):
            adapted = self.adapted(before, create_graph=True)
            ratio = (self.logp(adapted, after) - after["logp"]).exp()
            loss = -(ratio * after["advantages"] * after["mask"]).sum() / after["mask"].sum()
            grads = self.torch.autograd.grad(loss, tree_leaves(self.theta))
            total = grads if total is None else [a + b for a, b in zip(total, grads, strict=True)]
        return [g / len(support) for g in total]

    def logp(self, theta: Nest, batch: dict) -> Any:
        mean, log_std = forward(self.torch, self.policy, theta, batch["observations"]), theta["log_std"]
        z = (batch["actions"] - mean) * (-log_std).exp()
        return (-0.5 * z * z - log_std - 0.5 * np.log(2 * np.pi)).sum(-1)


def forward(torch: Any, policy: Gaussian, theta: Nest, x: Any) -> Any:
    """The means, for θ of one task or, with leading axes, of several."""
    last = len(policy.hidden)
    activation = {"relu": torch.relu, "tanh": torch.tanh}[policy.activation]
    for i in range(last + 1):
        layer = theta[f"linear{i}"]
        x = x @ layer["w"] + layer["b"].unsqueeze(-2)
        x = x if i == last else activation(x)
    return x


class _Acting:
    """The policy of `rollout`, whose network is PyTorch's; noise and actions are those of NumPy."""

    def __init__(self, torch: Any, policy: Gaussian) -> None:
        self.torch, self.policy, self.noise, self.act = torch, policy, policy.noise, policy.act
        self.density, self.fault = policy.density, policy.fault

    def shown(self, theta: Nest) -> Nest:
        self.theta = theta
        return tree_map(lambda x: x.numpy(), theta)

    def outputs(self, theta: Nest, observations: np.ndarray) -> dict[str, np.ndarray]:
        with self.torch.no_grad():
            mean = forward(self.torch, self.policy, self.theta, self.torch.tensor(observations))
        return {"mean": mean.numpy(), "log_std": theta["log_std"]}


def check(config: Config) -> float:
    """The greatest difference between the two meta-gradients in float64, as a share of the largest entry.

    Raises:
        timing.Disagreement: it is more than rounding.
    """
    config = config.changed(dtype="float64", tasks=2)
    learner = Learner(config)
    meta = loop.initial(learner).meta
    tasks = learner.sample(np.random.default_rng(0), 2, "train")
    _, ours = mean_over_tasks(learner.of_task())(meta, Acting(learner, False).collected(meta, tasks))
    theirs = Torch(learner, meta)
    found = theirs.gradient(*theirs.collected(tasks))
    largest = max(np.abs(x).max() for x in tree_leaves(ours))
    off = max(np.abs(x - y.numpy()).max() for (_, x), y in zip(tree_items(ours), found, strict=True)) / largest
    if not off < TOLERANCE:
        raise timing.Disagreement(f"the meta-gradients differ by {off:.1e} of the largest entry")
    return float(off)


def fastest(torch: Torch, tasks: Nest, most: int) -> int:
    """The number of threads, 1 or the most, with which PyTorch does an iteration fastest; it is set."""
    seconds = {}
    for threads in (most, 1):
        torch.torch.set_num_threads(threads)
        for _ in range(2):  # the first one warms up
            started = time.perf_counter()
            torch.iteration(tasks)
            seconds[threads] = time.perf_counter() - started
    best = min(seconds, key=seconds.__getitem__)
    torch.torch.set_num_threads(best)
    return best


def measure(config: Config, turns: int, threads: int) -> dict[str, Any]:
    """Seconds of collecting, and of meta-iterations, of both, turn by turn."""
    off, learner = check(config), Learner(config)
    state = loop.initial(learner)
    step, acting, torch = loop.make_step(learner, state), Acting(learner), Torch(learner, state.meta)
    threads = fastest(torch, learner.sample(np.random.default_rng(0), config.outer.tasks, "train"), threads)
    count = config.outer.tasks
    seconds: dict[str, list[float]] = {name: [] for name in ("tinymaml", "torch", "tinymaml acts", "torch acts")}

    def timed(name: str, f: Callable) -> Any:
        started = time.perf_counter()
        result = f()
        seconds[name].append(time.perf_counter() - started)
        return result

    with one_thread(libraries("train")), np.errstate(over="ignore", invalid="ignore"):
        for turn in range(turns + 1):
            tasks = learner.sample(np.random.default_rng(turn), count, "train")
            for name in ("tinymaml", "torch") if turn % 2 else ("torch", "tinymaml"):
                if name == "tinymaml":
                    timed("tinymaml acts", partial(acting.collected, state.meta, tasks))
                    state = timed(name, partial(step, turn, state))[2]
                else:
                    timed("torch acts", partial(torch.collected, tasks))
                    timed(name, partial(torch.iteration, tasks))
            if turn == 0:  # compiled, and warm
                seconds = {name: [] for name in seconds}
    acted = 2 * count * config["trajectories"] * config["horizon"]
    ratio = lambda a, b: median(x / y for x, y in zip(seconds[a], seconds[b], strict=True))  # noqa: E731
    return {
        "steps": acted, "turns": turns, "difference": off,
        "seconds": {name: median(x) for name, x in seconds.items()},
        "steps per second": {name: acted / median(seconds[f"{name} acts"]) for name in ("tinymaml", "torch")},
        "ratio": {"meta-iteration": ratio("tinymaml", "torch"), "collecting": ratio("tinymaml acts", "torch acts")},
        "PyTorch's threads": threads, "machine": timing.machine(threads),
    }  # fmt: skip


def table(record: dict[str, Any]) -> str:
    """The measurement as a table for a person."""
    rows = [("", "collecting", "steps / s", "meta-iteration")]
    for name, called in (("tinymaml", "tinymaml"), ("torch", "PyTorch")):
        seconds, rate = record["seconds"], record["steps per second"][name]
        rows.append((called, f"{seconds[f'{name} acts']:.3f} s", f"{rate:,.0f}", f"{seconds[name]:.3f} s"))
    ratio = record["ratio"]
    rows.append(("ratio", f"{ratio['collecting']:.2f}", "", f"{ratio['meta-iteration']:.2f}"))
    said = f"{record['steps']:,} steps of the environment per meta-iteration, with one inner step in between"
    threads = record["PyTorch's threads"]
    said += f"; PyTorch with {style.in_number(threads, 'thread')}"
    return "\n".join([said, *timing.columns(rows)])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench rl throughput", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=11, help="rounds in which each has a turn (11)")
    parser.add_argument("--tasks", type=int, default=20, help="tasks of a meta-gradient (20)")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--threads", type=int, default=cores,
                        help=f"largest number of threads of PyTorch, which gets 1 or these ({cores})")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--store", action="store_true", help="keep it in bench/results/stated, for the page")
    args = parser.parse_args(argv)
    try:
        record = measure(Config.default("navigation", tasks=args.tasks), args.turns, args.threads)
    except (ImportError, timing.Disagreement) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(record) if args.json else table(record))
    if args.store:
        stated.keep("throughput", "python -m bench rl throughput", record)
    return 0
