"""The properties that must vary from case to case, and the mistakes that show only then.

    VARIED                          a row per property and value: where it holds, and what shows only there
    lacking(load("core"))           the rows that no case fills: none, or a mistake would pass

A mistake that makes no difference in a case passes there: so does an α that is rounded to float32, if float32 holds it.
Each row says what would be accepted if no case of the core filled it. Bounds remain. No case of the core has more than
twelve inner steps, four tasks, three classes or images beyond 4×5; what begins only beyond is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from . import models
from .cases import Case
from .catalogue import flat
from .mistakes.semantics import run


class Row(NamedTuple):
    """Of a `property` a `value`; whether it `holds` for a case; what `shows` only there."""

    property: str
    value: str
    holds: Callable[[Case], bool]
    shows: str


# ── what can be measured ────────────────────────────────────────────────────────────────────────────────────────────


def holds_in(precision: str, *arrays) -> bool:
    """Whether float32, float16 or bfloat16 holds every number."""
    numbers = np.concatenate([np.ravel(np.asarray(a, np.float64)) for a in arrays])
    return bool(np.array_equal(rounded(numbers, precision), numbers))


def rounded(x, precision: str) -> np.ndarray:
    """x rounded to float32, float16 or bfloat16 (eight bits, to nearest, ties to even), and back in float64."""
    x = np.asarray(x, np.float64)
    if precision != "bfloat16":
        return x.astype(precision).astype(np.float64)
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(mantissa * 256) / 256, exponent)


def _rates(case: Case) -> list:
    return list(case.inner_lr.values()) if isinstance(case.inner_lr, dict) else [case.inner_lr]


def _inputs(case: Case) -> list:
    return [x for x, _ in case.support + case.query]


def _thetas(case: Case) -> list:
    return list(case.params.values())


def _shapes(case: Case, axes: int) -> list[tuple]:
    return [p.shape for p in case.params.values() if p.ndim == axes]


def _settings(case: Case, layer: str, name: str) -> list:
    return [m[name] for m in case.model["layers"] if m["layer"] == layer]


def _has(*layers: str) -> Callable[[Case], bool]:
    return lambda case: bool({m["layer"] for m in case.model["layers"]} & set(layers))


def _loss(name: str) -> Callable[[Case], bool]:
    return lambda case: case.model["loss"] == name


def _classes(case: Case) -> int:
    """The number of classes of a classifier; 0 for a regression."""
    return case.params[case.head()[-1]].size if _loss("cross_entropy")(case) else 0


def _labels(batches: list) -> list[np.ndarray]:
    return [y for _, y in batches if y.dtype.kind in "iu"]


def _a_class_lacks(case: Case, batches: list) -> bool:
    """A class that is not the last is missing, so that numbering the others anew makes a difference."""
    return any(set(y.tolist()) != set(range(len(set(y.tolist())))) for y in _labels(batches))


def _unbalanced(case: Case) -> bool:
    return any(np.ptp(np.unique(y, return_counts=True)[1]) > 0 for y in _labels(case.support))


def _steps(case: Case) -> list[np.ndarray]:
    """The inner gradients, each in one vector."""
    return [flat(g) for way in run(case).trace for g in way["grad_s"]]


def _meta(case: Case) -> np.ndarray:
    return flat(run(case).meta_grad)


def _errors(case: Case) -> np.ndarray:
    """|o − y| of a squared error, over all steps and sets; nothing for other losses."""

    class Outputs(models.NumPy):
        def mse(self, o, y):
            return np.abs(o - y)

    if not _loss("mse")(case):
        return np.zeros(0)
    errors = models.loss_in(Outputs(), case.model)
    seen = [errors(theta, *batch) for way, task in zip(run(case).trace, case.batches(), strict=True)
            for theta in way["theta"] for batch in task]  # fmt: skip
    return np.concatenate(list(map(np.ravel, seen)))


def _losses(case: Case) -> list[float]:
    return [float(x) for way in run(case).trace for x in (*way["loss_s"], way["loss_q"])]


def _targets(case: Case) -> np.ndarray:
    return np.concatenate([np.ravel(y) for _, y in case.support]) if _loss("mse")(case) else np.zeros(1)


def _sizes(case: Case) -> list[float]:
    return [float(np.sqrt(np.mean(np.square(x)))) for x, _ in case.support]


def _sorted_exchanges(case: Case) -> bool:
    """In the order of their names the gradients have the shapes that were wanted, in other places."""
    names = list(case.params)
    return names != sorted(names) and all(case.params[a].shape == case.params[b].shape
                                          for a, b in zip(names, sorted(names), strict=True))  # fmt: skip


def _images(case: Case) -> list[tuple]:
    return [x.shape[1:3] for x in _inputs(case) if x.ndim == 4]


def _kernels(case: Case) -> list[tuple]:
    return _shapes(case, 4)


# ── what must vary ──────────────────────────────────────────────────────────────────────────────────────────────────

VARIED = [
    # how often
    Row("K", "1", lambda c: c.inner_steps == 1, "a graph that is freed or cut after the first step only"),
    Row("K", "2", lambda c: c.inner_steps == 2, "the only step between the first and the last"),
    Row("K", "3 to 5", lambda c: 3 <= c.inner_steps <= 5, "factors that are reversed, or taken at the wrong θₖ"),
    Row("K", "above 10", lambda c: c.inner_steps > 10, "back-propagation cut to the last 10 steps"),
    Row("T", "1", lambda c: c.tasks == 1, "a squeezed axis, a variance over tasks"),
    Row("T", "2", lambda c: c.tasks == 2, "a sum in place of the mean"),
    Row("T", "above 2", lambda c: c.tasks > 2, "only the first and the last task count; a mean taken pair by pair"),
    Row("N", "N_q > N_s", lambda c: len(c.query[0][0]) > len(c.support[0][0]), "a query set cut to the support's size"),
    Row("N", "N_q < N_s", lambda c: len(c.query[0][0]) < len(c.support[0][0]), "a support set cut to the query's size"),
    Row("N", "odd", lambda c: len(c.query[0][0]) % 2 == 1, "a mean of unequal chunks' means; a last batch dropped"),
    # precision
    Row("α", "not in bfloat16 or float16", lambda c: not any(holds_in(p, *_rates(c)) for p in ("bfloat16", "float16")),
        "α rounded to bfloat16 or float16"),
    Row("α", "not in float32", lambda c: not holds_in("float32", *_rates(c)), "α rounded to float32: torch.tensor(lr)"),
    Row("α", "below 0.02", lambda c: np.max(_rates(c)[0]) < 0.02, "an α that is raised to a least value"),
    Row("α", "above 1", lambda c: np.max(_rates(c)[0]) > 1, "an α that is clipped to 1"),
    Row("θ", "not in bfloat16 or float16", lambda c: not any(holds_in(p, *_thetas(c)) for p in ("bfloat16", "float16")),
        "θ or activations in bfloat16 or float16"),
    Row("θ", "not in float32", lambda c: not holds_in("float32", *_thetas(c)), "θ rounded to float32"),
    Row("x", "not in bfloat16 or float16", lambda c: not any(holds_in(p, *_inputs(c)) for p in ("bfloat16", "float16")),
        "data cast to bfloat16 or float16"),
    Row("x", "not in float32", lambda c: not holds_in("float32", *_inputs(c)), "data cast to float32: x.float()"),
    # classes
    Row("classes", "two", lambda c: _loss("binary_cross_entropy")(c), "a softmax in place of a sigmoid"),
    Row("classes", "three", lambda c: _classes(c) == 3, "a loss for two classes; a class left out"),
    Row("classes", "one lacks in a support set", lambda c: _a_class_lacks(c, c.support),
        "labels numbered anew in each set: unique(y, return_inverse=True)"),
    Row("classes", "one lacks in a query set", lambda c: _a_class_lacks(c, c.query),
        "as many outputs as there are classes in the set"),
    Row("classes", "unbalanced", _unbalanced, "a loss averaged by class"),
    # shapes
    Row("weights", "square", lambda c: any(a == b > 1 for a, b in _shapes(c, 2)), "a square weight transposed"),
    Row("weights", "not square", lambda c: any(a != b for a, b in _shapes(c, 2)), "a layout that fits by chance"),
    Row("weights", "two of one shape", lambda c: len(set(_shapes(c, 2))) < len(_shapes(c, 2)),
        "two layers' weights exchanged"),
    Row("names", "not sorted, of one shape", _sorted_exchanges,
        "gradients in the order of sorted names: jax.tree.leaves, jax.flatten_util.ravel_pytree"),
    Row("images", "H ≠ W", lambda c: any(h != w for h, w in _images(c)), "height and width exchanged"),
    Row("images", "several channels", lambda c: any(x.ndim == 4 and x.shape[3] > 1 for x in _inputs(c)),
        "reshape in place of permute between NHWC and NCHW"),
    Row("kernels", "as many channels in as out", lambda c: any(i == o > 1 for _, _, i, o in _kernels(c)),
        "in- and out-channels exchanged: permute(2, 3, 0, 1)"),
    Row("kernels", "more channels out than in", lambda c: any(1 < i < o for _, _, i, o in _kernels(c)),
        "a kernel reshaped in place of permuted"),
    Row("kernels", "equal sides", lambda c: any(h == w > 1 for h, w, _, _ in _kernels(c)),
        "a kernel's sides exchanged"),
    Row("kernels", "unequal sides", lambda c: any(h != w for h, w, _, _ in _kernels(c)), "one side for both"),
    Row("kernels", "stride 1", lambda c: 1 in _settings(c, "conv", "stride"), "padding for another stride"),
    Row("kernels", "stride 2", lambda c: 2 in _settings(c, "conv", "stride"), "a stride without effect"),
    Row("max pooling", "a rest", lambda c: _has("max_pool")(c) and any(h % 2 or w % 2 for h, w in _images(c)),
        "pooling that rounds up"),
    Row("after images", "flattened", _has("flatten"), "another order of the features"),
    Row("after images", "the spatial mean", _has("spatial_mean"), "a sum in place of the mean"),
    # values
    Row("inner gradients", "norm below 1", lambda c: min(map(np.linalg.norm, _steps(c)), default=9) < 1,
        "a gradient that is normalised"),
    Row("inner gradients", "norm above 1", lambda c: max(map(np.linalg.norm, _steps(c)), default=0) > 1,
        "inner gradients clipped to norm 1"),
    Row("inner gradients", "norm above 10", lambda c: max(map(np.linalg.norm, _steps(c)), default=0) > 10,
        "inner gradients clipped to norm 10, or clamped at 10"),
    Row("meta-gradient", "all below 0.01", lambda c: np.max(np.abs(_meta(c))) < 0.01, "an ε that is added"),
    Row("meta-gradient", "norm below 1", lambda c: np.linalg.norm(_meta(c)) < 1, "a gradient that is normalised"),
    Row("meta-gradient", "norm above 1", lambda c: np.linalg.norm(_meta(c)) > 1, "the meta-gradient clipped to norm 1"),
    Row("meta-gradient", "above 10", lambda c: np.max(np.abs(_meta(c))) > 10,
        "the meta-gradient clipped to norm 10, or clamped at 10"),
    Row("errors", "above 1", lambda c: np.max(_errors(c), initial=0) > 1, "a Huber loss with its kink at 1"),
    Row("errors", "below 1", lambda c: np.min(_errors(c), initial=9) < 1, "an absolute error"),
    Row("losses", "below 1", lambda c: 0 < min(_losses(c)) < 1, "a logarithm or root of the loss"),
    Row("losses", "above 10", lambda c: max(_losses(c)) > 10, "a loss that is clamped"),
    Row("losses", "below 0", lambda c: min(_losses(c)) < 0, "the absolute value of a loss"),
    Row("targets", "mean far from 0", lambda c: abs(np.mean(_targets(c))) > 1, "targets that are centred"),
    Row("tasks", "of different size", lambda c: max(_sizes(c)) > 1.5 * min(_sizes(c)), "tasks weighted by their size"),
    # layers and kinks
    Row("kinks", "ReLU at 0", lambda c: _at_zero(c), "ReLU′(0) = 1 or ½"),
    Row("kinks", "a tie in max pooling", lambda c: _tie(c), "ties that go to the last, or are shared"),
    Row("layers", "tanh", _has("tanh"), "tanh′ held constant"),
    Row("layers", "softplus", _has("softplus"), "a threshold beyond which softplus is linear"),
    Row("layers", "square", _has("square"), "its slope held constant"),
    Row("layers", "ReLU", _has("relu"), "a leaky ReLU, a GELU"),
    Row("layers", "batch norm", _has("batch_norm"), "running statistics; statistics held constant"),
    Row("layers", "a weight used twice", lambda c: len(_used(c)) > len(set(_used(c))), "only the last use counts"),
    Row("loss", "squared error", _loss("mse"), "½ of it, or a sum over outputs"),
    Row("loss", "squared error of several outputs", lambda c: _loss("mse")(c) and np.shape(c.support[0][1])[1] > 1,
        "summed over outputs, averaged over examples"),
    Row("loss", "cross entropy", _loss("cross_entropy"), "softmax twice, or over the wrong axis; smoothed labels"),
    Row("loss", "binary cross entropy", _loss("binary_cross_entropy"), "an ε inside the logarithm"),
    Row("dtype", "float64 alone", lambda c: c.dtypes == ("float64",), "float32 somewhere in the computation"),
    Row("dtype", "float64 and float32", lambda c: len(c.dtypes) == 2, "a dtype other than the one that came"),
]  # fmt: skip


def _used(case: Case) -> list[str]:
    return [n for m in case.model["layers"] for n in m.get("params", [])]


def _at_zero(case: Case) -> bool:
    return case.answer is not None and "relu_slope_one_at_zero" in case.answer.bugs


def _tie(case: Case) -> bool:
    return case.answer is not None and "pool_tie_last" in case.answer.bugs


def lacking(cases: Iterable[Case]) -> list[Row]:
    """The rows that no case fills."""
    cases = list(cases)
    return [row for row in VARIED if not any(row.holds(case) for case in cases)]
