"""Whether a mistake is about anything that a case has: a layer, a second step, a batch of more than one example.

    concerns({"how": {"pool": "mean"}}, case)      False where the model has no max pooling

A form that concerns nothing in a case gives what is right there, and need not be computed.
"""

from __future__ import annotations

import itertools

import numpy as np

from ..activations import OF_MODELS, instead_of
from ..arrangements import RESIZING, arranged
from ..losses import IN_PLACE_OF
from ..models import PIXELS_AROUND, biases, goes_through, mixes
from .data import DATA, rounded
from .outcome import in_tasks, some_of
from .updates import MIXED_UP, mixed_up


def concerns(form: dict, case) -> bool:
    """Whether any switch of the form, apart from those that only say more of another, can make a difference."""
    settings = {k: v for k, v in form.items() if k != "how"} | form.get("how", {})
    return any(_ABOUT[k](case, v) if k in _ABOUT else True for k, v in settings.items() if k not in _SAYS_MORE)


# Switches that change nothing by themselves.
_SAYS_MORE = {"on", "momentum_like", "decay_like", "clip_like", "change_like", "threshold_like", "kept",
              "running_momentum", "outer_rate", "data_eps", "minibatch_like", "rate_times_of", "decay_of",
              "outer_times_of", "weights_like", "smoothing_like", "penalty_like", "momentum_of", "clip_of", "gain_like",
              "depth_like", "accumulate_like", "difference_like", "support_way_like",
              "outer_momentum_like", "some_steps", "leaves_in", "start_of", "falls_like", "running_of",
              "running_like", "derived", "task_chunks_like"}  # fmt: skip


def layers(case) -> set[str]:
    return {m["layer"] for m in case.model["layers"]}


def _has(*names: str):
    return lambda case, value: bool(layers(case) & set(names))


def _loss(*names: str):
    return lambda case, value: case.model["loss"] in names


def _examples(which: str, more_than: int):
    return lambda case, value: max(len(x) for x, _ in getattr(case, which)) > more_than


def _several_steps(case, value) -> bool:
    return case.inner_steps > 1


def _several_tasks(case, value) -> bool:
    return case.tasks > 1


def _chunks(which: str):
    """Chunks of one length have the mean of all, but for batch norm, which sees each alone."""
    return lambda case, value: _examples(which, 1 if "batch_norm" in layers(case) else 2)(case, value)


def _unequal(batches: list[tuple]) -> bool:
    return len({len(x) for x, _ in batches}) > 1


def _padding(case, value) -> bool:
    """Of another size no image fits the weights behind a flatten: such code fails, and gives no numbers."""
    if value in PIXELS_AROUND:
        return any(m["layer"] == "conv" and m["padding"] == "SAME" for m in case.model["layers"])
    return "conv" in layers(case) and (
        value in ("first", "any stride", "any stride, first") or "flatten" not in layers(case)
    )


def _frozen(case, names) -> bool:
    return bool((layers(case) | {"loss", case.model["loss"]}) & {name.partition(" ")[0] for name in names})


def _tied(case, value) -> bool:
    used = [p for m in case.model["layers"] for p in m.get("params", [])]
    return len(set(used)) < len(used)


def _network(case, value) -> bool:
    """Whether the layers are others; where weights behind a flatten would not fit, such code fails."""
    these, image = case.model["layers"], np.shape(case.support[0][0])[1:]
    padded = all(m["padding"] == "SAME" for m in these if m["layer"] == "conv")  # else (w, h) may lose other rows
    if "flatten" in layers(case) and (value in RESIZING or value == "images transposed" and not padded):
        return False
    if value in ("images reshaped", "channels reversed") and image[-1:] == (1,):
        return False
    return arranged(these, value) != these


def _norm(case, value) -> bool:
    """Whether there is a norm; over pixels, whether there are pixels."""
    return "batch_norm" in layers(case) and (value not in ("instance", "of each pixel") or "conv" in layers(case))


def _pool(case, value) -> bool:
    """Another number of windows does not fit the weights behind a flatten: such code fails."""
    return "max_pool" in layers(case) and (value in ("mean", "sum") or "flatten" not in layers(case))


def _weight(case, value) -> bool:
    shapes = [np.shape(case.params[m["params"][0]]) for m in case.model["layers"] if m["layer"] == "linear"]
    if value == "plus the identity":
        return any(a == b for a, b in shapes)
    return any(a > 1 for a, _ in shapes) if value == "over √fan-in" else _mixed("linear")(case, value)


def _mixed(layer: str):
    """Whether a weight of such a layer has another order of entries."""
    return lambda case, how: any(mixes(case.params[m["params"][0]].shape, how) for m in case.model["layers"]
                                 if m["layer"] == layer)  # fmt: skip


def _about_data(case, value) -> bool:
    """Whether the data that the loss sees are others; of shared statistics, whether there are any."""
    if value.startswith(("one forward for both sets", "statistics of the")):
        return "batch_norm" in layers(case)
    if value == "joint":
        return True
    if value.startswith("targets") and "mse" not in case.model["loss"]:
        return False
    if any(what in value for what in ("one support set", "mean of the support", "all query sets", "all query losses")):
        return case.tasks > 1
    if "both sets" in value or "one batch" in value or "inner loop too" in value:
        return True
    with np.errstate(all="ignore"):
        before, after = case.batches(), DATA[value](case.batches())
    if len(before) != len(after):
        return True
    flat = lambda tasks: [array for task in tasks for batch in task for array in batch]  # noqa: E731
    return any(a.shape != b.shape or not np.array_equal(a, b) for a, b in zip(flat(before), flat(after), strict=True))


def _held(case, value) -> bool:
    """Whether there is a batch norm, if that is the group; a value that never moves is θ's in any case."""
    return value != "batch norm" or "batch_norm" in layers(case)


def _mixes(case, value) -> bool:
    """Whether another order of entries moves any of them; other values always make a difference."""
    change = value.partition(", and back")[0]
    if change not in MIXED_UP:
        return True
    sizes = [p.size for p in case.params.values()]
    places = {n: np.reshape(np.arange(end - p.size, end), p.shape)
              for (n, p), end in zip(case.params.items(), np.cumsum(sizes), strict=True)}  # fmt: skip
    return any(not np.array_equal(x, places[n]) for n, x in mixed_up(places, change).items())


def _inner(case, value) -> bool:
    if value.startswith("linearised") or value in ("one step behind", "averaged with the one before"):
        return case.inner_steps > 1
    if value.startswith("one tensor after"):
        return len(case.params) > 1
    if value.startswith("within the backward pass"):  # the first layer with parameters sends nothing on that counts
        used = [m["layer"] for m in case.model["layers"] if m.get("params")]
        return bool(used[1:] if value.endswith("pass") else "linear" in used[1:])
    if value in MIXED_UP:
        return _mixes(case, value)
    return any(p.ndim > 1 for p in case.params.values()) if value.endswith("held") else True


def _about_digits(case, value) -> bool:
    """Whether rounding changes a number, in a case that is not of that dtype itself."""
    what, _, dtype = value.partition(" to ")
    if case.dtype == "float32" and dtype == "float32":
        return False
    rates = case.inner_lr.values() if isinstance(case.inner_lr, dict) else [case.inner_lr]
    data = [batch for task in case.batches() for batch in task]
    parts = {"rate": list(rates), "inputs": [x for x, _ in data], "data": [a for batch in data for a in batch],
             "parameters": list(case.params.values())}  # fmt: skip
    arrays = [a for part in parts.values() for a in part] if what == "everything" else parts[what]
    return any(not np.array_equal(rounded(a, dtype), a) for a in map(np.asarray, arrays))


# Switch or option → (case, value) → whether it can make a difference. What is not here always can.
_ABOUT = {
    # what is learned from
    "data": _about_data,
    "rounded": _about_digits,
    "shortened": lambda case, value: not (case.dtype == "float32" and value.endswith("float32"))
    and (case.inner_steps > 0 or value.startswith(("task", "query"))),
    "running": _has("batch_norm"),
    "support_rows": _examples("support", 1),
    "query_rows": _examples("query", 1),
    "support_skipped": _examples("support", 1),
    "query_skipped": _examples("query", 1),
    "support_batches": _examples("support", 2),
    "query_batches": _examples("query", 2),
    "support_chunks": _chunks("support"),
    "query_chunks": _chunks("query"),
    "minibatch": lambda case, value: case.inner_steps > 1 or _examples("support", 1)(case, value),
    # the inner loop
    "adapts": lambda case, value: value != "no batch norm" or "batch_norm" in layers(case),
    "rate": lambda case, value: {
        "over steps": case.inner_steps > 1, "over each step": case.inner_steps > 1, "over tasks": case.tasks > 1,
        "over the root of each step": case.inner_steps > 1, "linear fall": case.inner_steps > 1,
        "over the steps so far": case.inner_steps > 1,
        "linear rise": case.inner_steps > 1, "cosine": case.inner_steps > 1,
        "of the first task's size": _unequal(case.support), "over one less": max(len(x) for x, _ in case.support) > 1,
    }.get(value, True),
    "normalised_together": lambda case, value: case.tasks > 1 and "batch_norm" in layers(case),
    "derivative_weights": lambda case, value: case.inner_steps > (value == "θ"),
    "targets_times": lambda case, value: "mse" in case.model["loss"],
    "rate_last": lambda case, value: case.inner_steps > 0,
    "some_steps_of": lambda case, value: case.inner_steps > 0,
    "leaves_of": lambda case, value: case.inner_steps > 0 and bool(some_of(case, value)),
    "step_parts": lambda case, value: case.inner_steps > 1 and _examples("support", 1)(case, value),
    "moving_vector": lambda case, value: case.inner_steps > 0,
    "rate_depth": lambda case, value: sum(bool(m.get("params")) for m in case.model["layers"]) > 1,
    "accumulate": lambda case, value: case.inner_steps > 0,
    "stop_gain": _several_steps,
    "on_a_rise": lambda case, value: case.inner_steps > (value in ("ends", "α halved from then on")),
    "steps_on": lambda case, value: case.inner_steps > (value in ("query from the second on", "query in every other")),
    "inner_start_of": lambda case, value: case.inner_steps > 1 and _held(case, value),
    "inner_start_tensor": _several_steps,
    "query_start_of": _held,
    "rate_falls": lambda case, value: case.inner_steps > 1 or case.tasks > 1 and case.inner_steps > 0,
    "steps_in": lambda case, value: case.tasks > 1 or value == "all but the first",
    "step_limit": lambda case, value: case.inner_steps > value,
    "inner": _inner,
    "iterates": lambda case, value: case.inner_steps > (value == "all but the first"),
    "momentum": lambda case, value: case.inner_steps > 0,
    "ends": _several_tasks,
    # the derivative through it
    "through_last": _several_steps,
    "through_first": _several_steps,
    "through_from": lambda case, value: case.inner_steps > 0,
    "factors": lambda case, value: case.inner_steps > 1 or value not in ("one step early", "odd detached"),
    "factor_rate": lambda case, value: value != "outside" or isinstance(case.inner_lr, dict) or case.adapt is not None,
    "vector": lambda case, value: case.inner_steps > 0 and _mixes(case, value),
    "difference": lambda case, value: case.inner_steps > 0,
    "hessian_on": lambda case, value: case.inner_steps > 0 and (case.tasks > 1 or value == "both sets"),
    "query_gradient": lambda case, value: _mixes(case, value) and (
        value in MIXED_UP or case.tasks > 1 or "H_q" in value),
    "ways": _several_tasks,
    "hessian_rows": _examples("support", 1),
    "judged_share": lambda case, value: case.inner_steps > 0,
    "curvature": lambda case, value: case.inner_steps > 0 and _mixes(case, value)
    and (len(case.params) > 1 or not value.startswith("one tensor after")),
    "second_order": lambda case, value: case.inner_steps > 0
    and not all(in_tasks(value, t, case.tasks) for t in range(case.tasks)),
    "task_chunks": lambda case, value: case.tasks % value > 0,
    "task_count": lambda case, value: case.tasks > value,
    "tilt": _several_tasks,
    "query_decay": _several_steps,
    "support_way_weight": lambda case, value: case.inner_steps > 0,
    "outer_proximal": lambda case, value: case.inner_steps > 0,
    "result": lambda case, value: {
        "over steps": case.inner_steps > 1, "over tasks": case.tasks > 1}.get(value, _mixes(case, value)),
    # what becomes of it
    "outer": lambda case, value: _unequal(case.query) if value == "weighted by examples" else case.tasks > 1
    or value in ("moved", "each normalised", "log of each", "root mean square"),
    # the layers and losses
    "relu_at_zero": _has("relu"), "ties": _has("max_pool"), "pool": _pool, "leak": _has("relu"),
    "unbiased": _has("batch_norm"), "running_statistics": _has("batch_norm"), "eps": _has("batch_norm"),
    "affine": _has("batch_norm"), "norm": _norm, "padding": _padding, "network": _network,
    "frozen": _frozen, "tied": _tied,
    "unit": _loss("mse"), "delta": _loss("mse"),
    "smoothing": _loss("cross_entropy", "binary_cross_entropy"),
    "temperature": _loss("cross_entropy", "binary_cross_entropy"),
    "log_epsilon": _loss("cross_entropy", "binary_cross_entropy"),
    "clamped": _loss("cross_entropy", "binary_cross_entropy"),
    "focus": _loss("cross_entropy", "binary_cross_entropy"),
    "entropy": _loss("cross_entropy", "binary_cross_entropy"),
    "positive": _loss("binary_cross_entropy"),
    "loss": lambda case, value: value.startswith("query over") or value in IN_PLACE_OF.get(case.model["loss"], {})
    and (value not in ("summed over outputs", "over outputs again") or np.shape(case.query[0][1])[1:] > (1,))
    and (value not in ("all pairs",) or np.shape(case.query[0][1])[1:] in ((), (1,))),
    "activation": lambda case, value: any(instead_of(layer, value) for layer in layers(case)),
    "sharpness": _has("softplus"),
    "layer_decay": _has("linear"),
    "through": lambda case, value: any(
        goes_through(np.shape(case.params[m["params"][0]]), value) for m in case.model["layers"]
        if m["layer"] == "linear"),
    "kernel": _mixed("conv"),
    "weight": _weight,
    "biases": lambda case, value: bool(biases(case.model)) or "weights" in value and "linear" in layers(case),
    "inputs": lambda case, value: any(a["layer"] in OF_MODELS and b["layer"] == "linear"
                                      for a, b in itertools.pairwise(case.model["layers"])),
    "flatten": lambda case, value: {"conv", "flatten"} <= layers(case),
}  # fmt: skip
