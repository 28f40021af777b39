"""What an inner step does with a gradient: plain descent, or what else code makes of it.

    Update(switches, number).step(state, g, alpha, k)            the next state: θ and what is remembered beside it
    Update(switches, number).back(cotangent, state, g, alpha, k) the cotangents of the state and of g

A step has two parts: it changes the gradient as a whole (clipped to a norm, normalised), then combines it with the
state, element by element (momentum, weight decay, Adam). The Jacobian of each part, between any two of its trees, is
symmetric, but for a mix-up of entries. So the derivative forwards, along v, is the one backwards, too, and nothing is
derived by hand.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection

import numpy as np

from ..arithmetic import Dual, hold, side

Tree = dict[str, np.ndarray]


def map_trees(f: Callable, *trees: Tree) -> Tree:
    return {n: np.asarray(f(*[t[n] for t in trees])) for n in trees[0]}


def dot(a: Tree, b: Tree):
    return sum(np.sum(a[n] * b[n]) for n in a)


def along(f: Callable[[Tree], Tree], at: Tree, v: Tree, exact: bool) -> Tree:
    """f′(at) v: over dual numbers if `exact`, by the complex step if not.

    The complex step:  f′ v = Im f(x + ih v) / h.  No difference, so nothing cancels; h makes h² vanish.
    """
    if exact:
        return {n: slope(y) for n, y in f({n: dual(x, v[n]) for n, x in at.items()}).items()}
    h = 1e-100
    return {n: np.imag(y) / h for n, y in f({n: x + 1j * h * v[n] for n, x in at.items()}).items()}


def dual(value, slope):
    return np.asarray(np.frompyfunc(Dual, 2, 1)(value, slope), object)


_slope_of = np.frompyfunc(lambda x: x.slope if type(x) is Dual else 0 * x, 1, 1)


def slope(x):
    return np.asarray(_slope_of(x), object)


TORCH_MORE = 1e-6  # what torch.nn.utils.clip_grad_norm_ adds to the norm


class Update:
    """The rule of an inner step, for `switches` (see `switches`)."""

    def __init__(self, switches: dict, number=float, group: Callable[[str], Collection[str]] = lambda which: ()):
        """`group` gives the names of the tensors of one kind; see `outcome.group`."""
        self.s, self.exact, self.group = switches, number is not float, functools.cache(group)
        own = ("decay", "proximal", "momentum", "clip_inner", "clip_inner_tensor", "clip_inner_value",
               "inner_threshold", "fast_clamp")  # fmt: skip
        plain = ("right", "restarted", "ascent", "one tensor after the other", "within the backward pass")
        self.plain = switches["inner"].partition(", ")[0] in plain and not any(switches[n] for n in own)
        if switches.get("inner_start_of", "nothing") != "nothing" or switches.get("inner_start_tensor"):
            self.plain = False  # θ₀ is remembered
        self.whole = any(switches[n] for n in own[3:-1]) or switches["inner"] in (
            "summed", "sign", "normalised", "normalised, root", "tensors normalised", "over own size", "centralised",
            *MIXED_UP, "first row held", "first column held",
        )  # fmt: skip

    def start(self, theta: Tree, kept: Tree | None = None) -> dict[str, Tree]:
        """The state before the first step: θ, and zeros (or what the task before has left)."""
        if self.plain:
            return {"theta": theta}
        zeros = map_trees(lambda p: p * 0, theta)
        return {"theta": theta, "start": theta, "m": zeros, "v": zeros} | (kept or {})

    def step(self, state: dict[str, Tree], g: Tree, alpha: Tree, k: int) -> dict[str, Tree]:
        if self.plain:
            sign = -1 if self.s["inner"] == "ascent" else 1
            # θₖ₊₁ = θₖ − A g_s(θₖ)
            return {"theta": map_trees(lambda p, a, x: p - a * x * sign, state["theta"], alpha, g)}
        return self.combine(state, self.changed(g) if self.whole else g, alpha, k)

    def back(self, cotangent: dict[str, Tree], state: dict[str, Tree], g: Tree, alpha: Tree, k: int) -> tuple:
        """(the state's cotangents without what comes through g, that of g)."""
        if self.plain:
            sign = -1 if self.s["inner"] == "ascent" else 1
            return cotangent, map_trees(lambda a, v: a * v * -sign, alpha, cotangent["theta"])
        if self.s["change_like"] == "not in the recursion":
            zeros = {name: map_trees(lambda x: x * 0, at) for name, at in state.items()}
            return zeros | {"theta": cotangent["theta"]}, map_trees(lambda a, v: a * v * -1, alpha, cotangent["theta"])
        changed = self.changed(g) if self.whole else g
        inputs = {**state, "g": changed}
        out: dict[str, Tree] = {}
        for name, at in inputs.items():
            slopes = self._slopes(inputs, name, alpha, k)
            out[name] = map_trees(lambda x: x * 0, at)
            for target, v in cotangent.items():
                out[name] = map_trees(lambda total, d, w: total + d * w, out[name], slopes[target], v)
        of_g = out.pop("g")
        if self.s["inner"] in MIXED_UP:  # a permutation, whose transpose is the way back
            return out, mixed_up(of_g, MIXED_UP[self.s["inner"]])
        return out, along(self.changed, g, of_g, self.exact) if self.whole else of_g

    def _slopes(self, inputs: dict[str, Tree], name: str, alpha: Tree, k: int) -> dict[str, Tree]:
        """The derivatives of all that `combine` gives by the input `name`, each by the same element of it."""
        names = [n for n in inputs if n != "g"]

        def joined(x: Tree) -> Tree:
            new = self.combine({n: x if n == name else inputs[n] for n in names}, x if name == "g" else inputs["g"],
                               alpha, k)  # fmt: skip
            return {(target, n): y for target, tree in new.items() for n, y in tree.items()}

        by = along(joined, inputs[name], map_trees(lambda x: x * 0 + 1, inputs[name]), self.exact)
        return {target: {n: by[target, n] for n in inputs["g"]} for target in names}

    # ── the gradient as a whole ─────────────────────────────────────────────────────────────────────────────────────

    def changed(self, g: Tree) -> Tree:
        new = self._changed(g)
        if self.s["change_like"] == "in place":  # the values change, and the graph does not know
            return map_trees(lambda x, y: x + hold(y - x), g, new)
        return new

    def _changed(self, g: Tree) -> Tree:
        s, more = self.s, TORCH_MORE if self.s["clip_like"] == "torch" else 0
        held = s["change_like"] == "scale held"
        size_of = lambda x: hold(norm(x)) if held else norm(x)  # noqa: E731
        if s["inner"] == "summed":
            g = map_trees(lambda x: x * 0 + np.sum(x), g)
        if s["inner"] == "centralised":  # of each output: the mean over all axes but the last is 0
            g = {n: x - np.mean(x, tuple(range(x.ndim - 1)), keepdims=True) if x.ndim > 1 else x for n, x in g.items()}
        if s["inner"] in MIXED_UP:
            g = mixed_up(g, s["inner"])
        if s["inner"] in ("first row held", "first column held"):
            g = map_trees(lambda x: without_first(x, 0 if s["inner"] == "first row held" else -1), g)
        if s["inner"] == "sign":
            g = map_trees(lambda x: side(x) + hold(x) * 0, g)
        if s["inner"] == "over own size":
            g = map_trees(lambda x: x / np.sqrt(np.asarray(x * x + s["adaptive_eps"])), g)
        if s["inner"] == "normalised, root":
            size = np.sqrt(np.asarray(dot(g, g) + s["adaptive_eps"]))
            g = map_trees(lambda x: x / size, g)
        if s["inner"] == "normalised":
            size = size_of(g) + (s["adaptive_eps"] or 0)
            g = map_trees(lambda x: x / size, g)
        if s["inner"] == "tensors normalised":
            g = {n: x / size_of({n: x}) for n, x in g.items()}
        if s["clip_inner"]:
            these = self.those(s.get("clip_of", "all"), g)
            g = g | clipped({n: g[n] for n in these}, s["clip_inner"], more, held)
        if s["clip_inner_tensor"]:
            g = {n: clipped({n: x}, s["clip_inner_tensor"], more, held)[n] for n, x in g.items()}
        if s["clip_inner_value"]:
            g = map_trees(lambda x: clamped(x, s["clip_inner_value"]), g)
        if s["inner_threshold"]:
            g = map_trees(lambda x: thresholded(x, s["inner_threshold"], s["threshold_like"] == "soft"), g)
        return g

    # ── the gradient and the state, element by element ──────────────────────────────────────────────────────────────

    def combine(self, state: dict[str, Tree], g: Tree, alpha: Tree, k: int) -> dict[str, Tree]:
        names = ("theta", "start", "m", "v")
        per_tensor = {n: self.tensor(*(state[name][n] for name in names), g[n], alpha[n], k, self.decays(n),
                                     self.moves(n)) for n in g}  # fmt: skip
        return {name: {n: np.asarray(new[i]) for n, new in per_tensor.items()} for i, name in enumerate(names)}

    def those(self, which: str, names) -> Collection[str]:
        """The tensors among `names` that a switch is about."""
        return list(names) if which == "all" else [n for n in names if n in self.group(which)]

    def decays(self, name: str):
        """λ of the weight decay of this tensor."""
        return self.s["decay"] if self.s["decay"] and self.those(self.s["decay_of"], [name]) else 0

    def moves(self, name: str):
        """μ of the momentum of this tensor."""
        return self.s["momentum"] if self.s["momentum"] and self.those(self.s["momentum_of"], [name]) else 0

    def tensor(self, theta, start, m, v, g, alpha, k, decay, momentum) -> tuple:
        """(θ, θ₀, first moment, second moment) after the step, of one tensor."""
        s = self.s
        step, m, v = self.direction(theta, start, m, v, g, k, decay, momentum)
        before = start if s["inner"] == "from start" else theta
        if decay and s["decay_like"] == "decoupled":
            before = before - before * alpha * decay
        if decay and s["decay_like"] == "without α":
            before = before - before * decay
        new = before - alpha * step
        if s["inner"] == "vectors masked" and theta.ndim < 2:  # optax.masked hands their gradient through, to be added
            new = theta + g
        return clamped(new, s["fast_clamp"]) if s["fast_clamp"] else new, start, m, v

    def direction(self, theta, start, m, v, g, k, decay, momentum=None) -> tuple:
        """(What α multiplies in step k, first moment, second moment), of one tensor."""
        inner, s = self.s["inner"], self.s
        if decay and s["decay_like"] == "in the gradient":
            g = g + theta * decay
        if s["proximal"]:
            g = g + (theta - start) * s["proximal"]
        step = g
        mu = s["momentum"] if momentum is None else momentum
        if mu:
            # v ← μ v + g, or with (1 − μ) g
            like = s["momentum_like"]
            averaged = like == "averaged" or like == "dampened after the first" and k > 0
            m = m * mu + (g * (1 - mu) if averaged else g)
            step = g + m * mu if like == "nesterov" else m
        eps, inside = s["adaptive_eps"] or 1e-8, inner.endswith("ε inside")
        over = lambda x: np.sqrt(x + eps) if inside else np.sqrt(x) + eps  # noqa: E731
        if inner.startswith("adam"):
            # m ← β₁ m + (1 − β₁) g,   v ← β₂ v + (1 − β₂) g²,   step = m̂ / (√v̂ + ε)
            one, two = 0 if inner == "adam, β₁ = 0" else s["adam_first"] or 0.9, s["adam_second"] or 0.999
            m, v = m * one + g * (1 - one), v * two + g * g * (1 - two)
            corrected = inner != "adam, biased"
            mean, square = (m / (1 - one ** (k + 1)), v / (1 - two ** (k + 1))) if corrected else (m, v)
            step = mean / over(square)
        if inner.startswith(("rmsprop", "adagrad")):
            keep = s["square_decay"] or 0.99
            v = v * keep + g * g * (1 - keep) if inner.startswith("rmsprop") else v + g * g
            step = g / over(v)
        if inner == "running sum":
            m = m + g
            step = m
        if inner == "0 where θ < 0":
            step = np.where(side(theta) < 0, hold(g) * 0, g)
        if inner == "one step behind":
            step, m = g if k == 0 else m + g * 0, g + m * 0
        if inner == "averaged with the one before":
            step, m = g if k == 0 else (m + g) / 2, g + m * 0
        if inner == "stale":
            m = g + m * 0 if k == 0 else m + g * 0
            step = m
        return step, m, v


# What code makes of α that takes it for the logarithm of the rate, or the like.
TRANSFORMED: dict[str, Callable] = {
    "squared": np.square, "root": np.sqrt, "exponential": np.exp, "softplus": lambda a: np.log1p(np.exp(a)),
    "sigmoid": lambda a: 1 / (1 + np.exp(-np.asarray(a))),
}  # fmt: skip


def share_of_rate(how: str, k: int, steps: int, one=1.0):
    """What α is multiplied by in step k, on a schedule of so many steps; None where α is always the same.

    Args:
        one: 1, in the numbers at hand.
    """
    share = {
        "over each step": lambda: one / (k + 1),
        "over the root of each step": lambda: (k + 1) ** -0.5,
        "over the steps so far": lambda: one / math.factorial(k + 1),
        # 1 − k/K, (k + 1)/K, ½ (1 + cos πk/K)
        "linear fall": lambda: one * (steps - k) / steps,
        "linear rise": lambda: one * (k + 1) / steps,
        "cosine": lambda: (1 + np.cos(np.pi * k / steps)) / 2,
    }.get(how)
    return None if share is None else share()


def in_some_steps(which: str, k: int, steps: int) -> bool:
    """Whether step k of so many is one of "the first", "the last", "all but the first" or "all but the last"."""
    end = 0 if which.endswith("first") else steps - 1
    return (k == end) != which.startswith("all but")


def in_order(inner: str, names) -> list[str]:
    """The tensors in the order in which they are updated, "one tensor after the other, last first"."""
    order = inner.partition(", ")[2]
    return {"last first": list(names)[::-1], "by name": sorted(names)}.get(order, list(names))


# Orders in which the entries of a tree can be mixed up, each with the way back.
MIXED_UP = {
    "flattened by columns": "cut by columns", "cut by columns": "flattened by columns",
    "matrices flattened by columns": "matrices cut by columns",
    "matrices cut by columns": "matrices flattened by columns",
    "entries in sorted order": "entries from sorted order", "entries from sorted order": "entries in sorted order",
}  # fmt: skip


def mixed_up(g: Tree, how: str) -> Tree:
    """g with its entries in another order: flattened in one, and cut up in another (by rows, if not by columns)."""
    if how.startswith("entries"):
        orders = sorted(g), list(g)
        return reordered(g, *(orders if how == "entries in sorted order" else orders[::-1]))
    matrices = how.startswith("matrices")
    return {n: x if matrices and np.ndim(x) != 2 else relaid(x, how.removeprefix("matrices ")) for n, x in g.items()}


def reordered(g: Tree, flattened: list[str], parted: list[str]) -> Tree:
    """g, flattened in one order of its names, and parted in another."""
    entries = np.concatenate([np.ravel(g[n]) for n in flattened])
    ends = np.cumsum([g[n].size for n in parted]).tolist()
    parts = {n: np.reshape(entries[end - g[n].size : end], g[n].shape) for n, end in zip(parted, ends, strict=True)}
    return {n: parts[n] for n in g}


def relaid(x, change: str):
    """x, flattened by columns and cut up by rows; or flattened by rows, and cut up by columns."""
    x = np.asarray(x)
    if change == "flattened by columns":
        return np.reshape(np.ravel(x, "F"), x.shape)
    return np.reshape(np.ravel(x), x.shape, "F")


def without_first(x, axis: int):
    """x, with 0 in its first row or column; vectors stay."""
    if x.ndim < 2:
        return x
    first = np.arange(x.shape[axis]) == 0
    return x * (1 - (first if axis == -1 else np.reshape(first, (-1, *(1,) * (x.ndim - 1)))))


def norm(g: Tree):
    """|g|"""
    return np.sqrt(np.asarray(dot(g, g)))


def clipped(g: Tree, to, more: float = 0, held: bool = False, always: bool = False) -> Tree:
    """g, scaled to the norm `to` where it is longer: g · to / (|g| + more); with `held`, by a constant."""
    size = (hold(norm(g)) if held else norm(g)) + more
    return g if not always and side(size - to) <= 0 else map_trees(lambda x: x * to / size, g)


def clamped(x, to):
    """Each element between −to and to."""
    above, below = side(x - to) > 0, side(x + to) < 0
    return np.where(above | below, hold(x) * 0 + (above * 1 - below * 1) * to, x)


def thresholded(x, least, soft: bool):
    """Each element whose size is below `least` is 0; the others stay, or are drawn towards 0 by `least`."""
    above, below = side(x - least) > 0, side(x + least) < 0
    return np.where(above | below, x - (above * 1 - below * 1) * least if soft else x, hold(x) * 0)
