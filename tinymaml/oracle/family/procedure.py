"""The common parts of all algorithms of the family: the tasks, the switches, derivatives, and the mean over tasks.

An algorithm's module has either

    query_loss(at, meta, support, query) → (L_q, θ_K)      and G is its derivative, taken forwards, number by number; or
    gradient(at, meta, support, query) → (L_q, θ_K, G)     where G is a formula, and not the derivative of anything

Both are written once, and run over any numbers: floats, rationals and balls (`ByHand`, first-order code by hand), and
the engine's tensors (`ByEngine`). `at` is what they compute with. A derivative is stopped by `at.hold`, so that most
mistakes are a `hold` too many, or another line chosen by a switch, `at.s[name]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ... import engine
from ..arithmetic import as_numbers, hold, side
from ..mistakes.data import DATA, first_rows
from ..mistakes.semantics import Calculus
from ..mistakes.updates import TORCH_MORE, clamped, clipped
from ..models import NumPy, Options, loss_in

# The switches that every algorithm has: the values of each, the right one first; where that is 0.0, any number. Names
# and values are those of `semantics`, whose mistakes can then be made here too.
SWITCHES: dict[str, tuple] = {
    "data": tuple(name for name in DATA if name != "joint"),
    "steps": (0, 1, -1),
    "support_rows": (0.0,), "query_rows": (0.0,),
    "inner": ("right", "stale", "restarted", "ascent", "summed over examples", "summed", "sign", "normalised",
              "tensors normalised"),
    "rate": ("right", "times examples", "times elements", "over examples", "over steps", "over tasks"),
    "rate_times": (0.0,), "decay": (0.0,), "clip_inner": (0.0,), "clip_inner_tensor": (0.0,),
    "clip_inner_value": (0.0,), "frozen_tensor": (0.0,), "only_tensor": (0.0,),
    "start": ("right", "leaked", "leaked, detached"),
    "factors": ("right", "detached", "first detached", "last detached", "parameters detached"),
    "query": ("right", "before adaptation", "every step", "every step and before", "before and after"),
    "outer": ("mean", "sum", "last", "first", "last over T", "first over T", "sequential"),
    "outer_rate": (0.0,), "outer_decay": (0.0,), "outer_shift": (0.0,), "outer_sign": (0.0,),
    "result": ("gradient", "accumulated", "doubled", "negative", "last parameter zero", "biases zero", "normalised",
               "times inner rate"),
    "clip": (0.0,), "clip_tensor": (0.0,), "clamp": (0.0,), "clip_like": ("exact", "torch"),
}  # fmt: skip

# Ids of what can go wrong in any inner loop of gradient steps that is differentiated through (see `EVERYWHERE`).
PLAIN = (
    "fomaml", "zero_gradient", "first_step_detached", "last_step_detached", "query_before_adaptation",
    "multi_step_loss", "one_step_more", "one_step_less", "stale_gradient", "restarted_steps", "inner_ascent",
    "alpha_times_n", "task_leak", "query_is_support", "support_is_query", "swapped_support_query", "sum_over_tasks",
    "last_task_only", "first_task_only", "gradients_accumulated", "doubled_gradient", "negated_gradient",
)  # fmt: skip

H = 1e-100  # of the complex step; its square is 0


class ByHand:
    """Losses, gradients and Hessian-vector products of a case's model by hand, over numbers made by `number`."""

    def __init__(self, case, number: Any = float, switches: dict | None = None, how: Options = Options()):  # noqa: B008
        self.case, self.s, self.memory, self.how = case, switches or {}, {}, how
        self.number = lambda x: as_numbers(x, number)
        self.holding = lambda value: value  # what becomes of a value that is held; see `answers.differences`
        self._calculus = Calculus(case.model, how, number)

    @property
    def steps(self) -> int:
        """K, as the code at hand has it."""
        return max(self.case.inner_steps + self.s.get("steps", 0), 0)

    def loss_and_grad(self, theta: dict, batch: tuple) -> tuple:
        """(L(θ), {name: ∂L/∂θ}); the gradient may be differentiated, too."""
        return self._calculus.loss_and_grad(theta, batch)

    def along(self, theta: dict, batch: tuple, v: dict) -> dict:
        """H v, the product of the Hessian with a direction; not to be differentiated again."""
        return self._calculus.along(theta, batch, v)

    def map(self, f: Callable, *trees: dict) -> dict:
        """{name: f(of that name in each tree)}."""
        return {n: np.asarray(f(*(t[n] for t in trees))) for n in trees[0]}

    def hold(self, x):
        """A value without its derivative; of a tree, of all in it."""
        return {n: self.hold(v) for n, v in x.items()} if isinstance(x, dict) else self.holding(hold(x)[()])

    def root(self, x):
        """√x, of a number or an array."""
        x = np.asarray(x)[()]
        return x.sqrt() if hasattr(x, "sqrt") else np.sqrt(x)

    def solve(self, columns: list, b):
        """x of A x = b, A given by its columns; exact over exact numbers."""
        a = np.stack(columns, 1)
        return np.linalg.solve(a, b) if a.dtype != object else _eliminated(a, b)


def _eliminated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Gauss and Jordan's elimination, with the largest pivot (a ball's size is that of its middle)."""
    a, b, n = np.array(a), np.array(b), len(b)
    for k in range(n):
        pivot = k + int(np.argmax([abs(float(x)) for x in a[k:, k]]))
        a[[k, pivot]], b[[k, pivot]] = a[[pivot, k]], b[[pivot, k]]
        for i in range(n):
            if i != k:
                factor = a[i, k] / a[k, k]
                a[i], b[i] = a[i] - factor * a[k], b[i] - factor * b[k]
    return b / np.diagonal(a)


class ByEngine:
    """The same with the engine: tensors, whose gradients are recorded."""

    def __init__(self, case, switches: dict):
        self.case, self.s, self.memory = case, switches, {}
        self.number = lambda x: np.asarray(x) if np.asarray(x).dtype.kind in "iu" else np.asarray(x, np.float64)
        self._loss = loss_in(NumPy(), case.model)

    steps = ByHand.steps

    def loss_and_grad(self, theta, batch):
        return engine.value_and_grad(self._loss)(theta, *batch)

    def along(self, theta, batch, v):
        return engine.hvp(lambda theta: self._loss(theta, *batch), (theta,), v)

    def map(self, f, *trees):
        return {n: f(*(t[n] for t in trees)) for n in trees[0]}

    def hold(self, x):
        return {n: engine.stop_gradient(v) for n, v in x.items()} if isinstance(x, dict) else engine.stop_gradient(x)

    def root(self, x):
        return np.sqrt(x)

    def solve(self, columns, b):
        return np.linalg.solve(np.stack(columns, 1), b)


# ── what algorithms are made of ─────────────────────────────────────────────────────────────────────────────────────


def descend(
    at, theta: dict, support: tuple | Callable, step: Callable, whole: Callable = lambda theta, k: theta
) -> list[dict]:
    """θ₀ … θ_K of an inner loop, θₖ₊₁ = step(k, θₖ, g_s(θₖ)).

    Args:
        support: a batch, or `support(k)` → that of step k.
        whole: `whole(θₖ, k)` → the parameters that the model takes at step k; the gradient is theirs, by name.
    """
    if at.s["start"].startswith("leaked") and "adapted" in at.memory:
        left = at.memory["adapted"]
        theta = at.hold(left) if at.s["start"] == "leaked, detached" else left
    path, g = [theta], None
    at.memory["support losses"] = []
    for k in range(at.steps):
        if g is None or at.s["inner"] != "stale":
            batch = support(k) if callable(support) else support
            g = support_gradient(at, whole(path[-1], k), batch, k, path[-1])
        path.append(step(k, theta if at.s["inner"] == "restarted" else path[-1], g))
    at.memory["adapted"] = path[-1]
    return path


def support_gradient(at, theta: dict, support: tuple, k: int = 0, of: dict | None = None) -> dict:
    """g_s(θₖ); under the switch "detached" without its derivative, which is what FOMAML computes.

    Args:
        of: what adapts; by default all of θ.
    """
    value, g = at.loss_and_grad(theta, support)
    at.memory.setdefault("support losses", []).append(value)
    g = _changed(at, {n: g[n] for n in of or g if n in g}, theta, support)
    cut = {"detached": True, "first detached": k == 0, "last detached": k == at.steps - 1}
    return at.hold(g) if cut.get(at.s["factors"]) else g


def _changed(at, g: dict, theta: dict, support: tuple) -> dict:
    """The gradient, as the code at hand makes the update's direction of it."""
    s, names = at.s, list(g)
    x, y = (support[0] if isinstance(support, list) else support)[:2]
    count = len(x)
    times = {"ascent": -1, "summed over examples": count}.get(s["inner"])
    times = {
        "times examples": count,
        "times elements": np.size(y),
        "over examples": 1 / count,
        "over steps": 1 / max(at.case.inner_steps, 1),
        "over tasks": 1 / at.case.tasks,
    }.get(s["rate"], times)
    for factor in (times, s["rate_times"] or None):
        g = g if factor is None else at.map(lambda g, factor=factor: g * factor, g)
    if s["decay"]:
        g = at.map(lambda g, p: g + p * s["decay"], g, {n: theta[n] for n in g})
    shapes = {"summed": lambda g: g * 0 + np.sum(g), "sign": lambda g: side(g) + hold(g) * 0,
              "tensors normalised": lambda g: g / at.root(np.sum(g * g))}  # fmt: skip
    if s["inner"] in shapes:
        g = at.map(shapes[s["inner"]], g)
    if s["inner"] == "normalised":
        size = at.root(dot(g, g))
        g = at.map(lambda g: g / size, g)
    more = TORCH_MORE if s["clip_like"] == "torch" else 0
    if s["clip_inner"]:
        g = clipped(g, s["clip_inner"], more)
    if s["clip_inner_tensor"]:
        g = {n: clipped({n: x}, s["clip_inner_tensor"], more)[n] for n, x in g.items()}
    if s["clip_inner_value"]:
        g = at.map(lambda g: clamped(g, s["clip_inner_value"]), g)
    for switch in ("frozen_tensor", "only_tensor"):
        n = int(s[switch])
        if n and -len(names) <= n <= len(names):
            chosen = names[n - 1 if n > 0 else n]
            g = {n: x * 0 if (n == chosen) == (switch == "frozen_tensor") else x for n, x in g.items()}
    return g


def judged(at, path: list[dict], query: tuple, whole: Callable = lambda theta, k: theta):
    """L_q(θ_K); `whole(θₖ, k)` as for `descend`."""
    last = len(path) - 1
    points = {
        "before adaptation": [0], "every step": range(1, last + 1) if last else [0],
        "every step and before": range(last + 1), "before and after": [0, last],
    }.get(at.s["query"], [last])  # fmt: skip
    losses = [at.loss_and_grad(whole(path[k], k), query)[0] for k in points]
    value = sum(losses[1:], losses[0]) / len(losses)
    if at.s["result"] == "accumulated":  # backward() of each support loss went back to what is learned
        for more in at.memory["support losses"]:
            value = value + sloped(at, value * 0, more)
    return value


def sloped(at, value, y):
    """The value, with the derivative of y in the place of its own, as code has it that writes a gradient by hand."""
    return at.hold(value) + (y - at.hold(y))


def dot(a: dict, b: dict):
    """⟨a, b⟩, over all parameters."""
    return sum(np.sum(a[n] * b[n]) for n in a)


def flat(tree: dict):
    """All numbers of a tree in one vector."""
    return np.concatenate([np.reshape(v, -1) for v in tree.values()])


def from_vector(vector, like: dict) -> dict:
    """The inverse of `flat`, in the shapes of `like`."""
    ends = np.cumsum([np.size(p) for p in like.values()])
    return {n: np.reshape(vector[end - np.size(p) : end], np.shape(p))
            for (n, p), end in zip(like.items(), ends.tolist(), strict=True)}  # fmt: skip


def basis(at, like: dict) -> list[dict]:
    """The unit vectors, as trees."""
    size = sum(int(np.size(p)) for p in like.values())
    return [from_vector(at.number(row), like) for row in np.eye(size)]


def tasks_of(at) -> list[tuple]:
    """The tasks, over the numbers at hand, as the code at hand sees them."""
    tasks = [tuple(tuple(map(at.number, batch)) for batch in task) for task in at.case.batches()]
    for k, switch in enumerate(("support_rows", "query_rows")):
        if n := int(at.s[switch]):
            tasks = [tuple(first_rows(b, n) if i == k else b for i, b in enumerate(task)) for task in tasks]
    return DATA[at.s["data"]](tasks)
