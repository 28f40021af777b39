"""The common part of ANIL and BOIL: some tensors adapt, and the outer gradient is exact, over all of them."""

from __future__ import annotations

import numpy as np

from ..mistakes.mistake import Free, Mistake
from ..models import output_gradient, outputs
from .procedure import descend, judged, sloped

SWITCHES = {
    "adapts": ("right", "all", "the others", "no biases", "one layer more", "one layer less"),
    "others in support": ("right", "detached", "detached after the first", "detached in the first"),
    "cross term": ("right", "after the update", "not carried"),
    "cross term times": (0.0,),
    "others in query times": (0.0,),
    "others in query": ("right", "detached"),
    "start": ("right", "leaked", "leaked, detached", "zero", "detached", "first order"),
    "backward": ("right", "weights of start"),
    "not learned": ("nothing", "what adapts", "the others"),
}
AFTERWARDS = ("not learned",)


def query_loss(at, meta, support, query):
    rate, names = at.number(at.case.inner_lr), _adapted(at.case, at.s["adapts"])
    start = {n: p for n, p in meta.items() if n in names}
    if at.s["start"] in ("zero", "detached", "first order"):
        start = at.hold(start)
        start = at.map(lambda p: p * 0, start) if at.s["start"] == "zero" else start

    def beside(switch):
        cut = {"detached": lambda k: True, "detached after the first": lambda k: k > 0,
               "detached in the first": lambda k: k == 0}.get(at.s[switch], lambda k: False)  # fmt: skip
        c = at.s["cross term times" if switch == "others in support" else "others in query times"]
        others = at.map(lambda p: at.hold(p) + (p - at.hold(p)) * c, meta) if c else meta
        return lambda fast, k: {n: fast.get(n, p) for n, p in (at.hold(meta) if cut(k) else others).items()}

    def crossed(fast, k):
        """hₖ with what of hₖ₊₁ depends on the body, and the body held: that part goes through (I − αHₖ), too."""
        g = at.loss_and_grad({n: at.hold(fast[n]) if n in fast else p for n, p in meta.items()}, support)[1]
        moved = {n: p - rate * (g[n] - at.hold(g[n])) for n, p in fast.items()}
        return {n: moved.get(n, p) for n, p in at.hold(meta).items()}

    crossing: list[dict] = []

    def aside(fast, k):
        """hₖ with the body held; what the body adds to hₖ₊₁ is put aside, and goes through no later step."""
        g = at.loss_and_grad(at.hold({n: fast.get(n, p) for n, p in meta.items()}) | {
            n: p for n, p in meta.items() if n not in fast}, support)[1]  # fmt: skip
        crossing.append({n: -rate * (g[n] - at.hold(g[n])) for n in fast})
        return {n: fast.get(n, p) for n, p in at.hold(meta).items()}

    def step(k, fast, g):
        fast = crossed(fast, k) if at.s["cross term"] == "after the update" else fast
        # φₖ₊₁ = φₖ − α ∂L_s/∂φ, φ a part of θ
        return {n: p - rate * g[n] for n, p in fast.items() if n in g}

    inside = {"after the update": crossed, "not carried": aside}.get(at.s["cross term"], beside("others in support"))
    path = descend(at, start, support, step, inside)
    if crossing:
        path[-1] = at.map(lambda p, *more: sum(more, p), path[-1], *crossing)
    if at.s["start"] == "first order":
        path[-1] = {n: p + (meta[n] - at.hold(meta[n])) for n, p in path[-1].items()}
    whole = beside("others in query")
    value, adapted = judged(at, path, query, whole), whole(path[-1], at.steps)
    if at.s["backward"] == "weights of start":
        # the values of θ_K were copied into θ and taken away before backward():  ∂ℓ/∂o(θ_K) · ∂o(θ)/∂θ
        x, y = query
        cotangent = output_gradient(at.case.model, at.hold(outputs(at.case.model, adapted, x)), y)
        value = sloped(at, value, np.sum(cotangent * outputs(at.case.model, meta, x)))
    return value, adapted


def _adapted(case, how) -> tuple[str, ...]:
    layers = [m["params"] for m in case.model["layers"] if m.get("params")]
    wide = {n for i, used in enumerate(layers) for n in used
            if set(sum(layers[max(i - 1, 0) : i + 2], [])) & set(case.adapt)}  # fmt: skip
    narrow = next(used for used in (layers if layers[0][0] in case.adapt else layers[::-1]) if used[0] in case.adapt)
    return {
        "right": case.adapt, "all": tuple(case.params), "the others": tuple(set(case.params) - set(case.adapt)),
        "no biases": tuple(set(case.adapt) - set(case.biases())), "one layer more": tuple(wide),
        "one layer less": tuple(set(case.adapt) - set(narrow)),
    }[how]  # fmt: skip


def finish(s, case, grads):
    others = set(case.params) - set(case.adapt)
    zero = {"nothing": (), "what adapts": case.adapt, "the others": others}[s["not learned"]]
    return {n: g * 0 if n in zero else g for n, g in grads.items()}


def two_linear_layers(case):
    """[(w1, b1, w2, b2), …] if the model is o = (x w1 + b1) w2 + b2 with the mean squared error; else None."""
    if [m["layer"] for m in case.model["layers"]] != ["linear", "linear"] or case.model["loss"] != "mse":
        return None
    return [case.params[n] for n in ("w1", "b1", "w2", "b2")]


CASES: dict[str, dict] = {
    "quadratic": dict(kind="linear 1-2-1 mse", inner_steps=2, tasks=2, inner_lr=0.125, shots=3, queries=4),
    "one-step": dict(fine=True, kind="tanh 1-2-1 mse", inner_steps=1, tasks=3, inner_lr=0.25, shots=3, queries=4),
    "three-layers": dict(kind="tanh 1-2-2-1 mse", inner_steps=3, tasks=2, inner_lr=0.25, shots=3, queries=4),
    "softmax": dict(kind="tanh 1-2-2 cross_entropy", inner_steps=3, tasks=2, inner_lr=0.5, shots=3, queries=4),
    "many-steps": dict(kind="square 1-1-1 mse", inner_steps=5, tasks=1, inner_lr=0.0625, shots=3, queries=4),
}  # fmt: skip


def by_algorithms(case, algorithm):
    from types import SimpleNamespace

    from ..models import NumPy, loss_in
    from .rungs import averaged_over_tasks

    names = case.head()
    cut = next(i for i, m in enumerate(case.model["layers"]) if m.get("params") == names)
    parts = [dict(case.model, layers=layers) for layers in (case.model["layers"][:cut], case.model["layers"][cut:])]
    of_head, whole = loss_in(NumPy(), parts[1]), loss_in(NumPy(), case.model)

    class Loss:
        last = tuple(names)

        def __call__(self, theta, x, y):
            return whole(theta, x, y), None

        def body(self, theta, x):
            for layer in parts[0]["layers"]:
                x = getattr(NumPy(), layer["layer"])(x, *(theta[n] for n in layer.get("params", [])))
            return x

        def head(self, theta, features, y):
            return of_head(theta, features, y), None

    settings = SimpleNamespace(**vars(algorithm.Settings(inner_steps=case.inner_steps, inner_lr=case.inner_lr)))
    return averaged_over_tasks(case, algorithm, case.params, settings, Loss())


def slips(name: str, adapts: str, other: str) -> list[Mistake]:
    """Slips in single steps, and in a backward pass by hand, of the algorithm `name` in which the head or the body
    ("head", "body") `adapts`, and the `other` does not."""
    a, o = adapts[0], other[0]

    def mistake(what: str, *words, free: Free | None = None) -> Mistake:
        return Mistake(f"{name}_{what}", *words, free=free, classic=False)

    return [
        mistake(
            f"{other}_detached_in_some_steps", f"∂g_s(θₖ)/∂{o} = 0 for k > 0, or for k = 0",
            f"the {other} counts in the first inner step's gradient only, or in all but that: what it gives was kept, "
            "or detached, from then on",
            f"compute the loss from the {other} itself in every inner step",
            f"no stop_gradient on the {other} inside the scan",
            ({"others in support": "detached after the first"}, {"others in support": "detached in the first"}),
        ),
        mistake(
            f"{other}_joins_in_some_steps", f"{o} ← {o} − α ∂L_s/∂{o}, too, in the last or the first inner step",
            f"the {other} adapts, too, in the last or the first inner step, or in all but one of these",
            f"update the names of the {adapts} in every inner step, and no others",
            f"the same tree, that of the {adapts}, in every step of the scan",
            tuple({"adapts": "all", "some_steps_of": other, "some_steps": steps}
                  for steps in ("the last", "the first", "all but the first", "all but the last")),
        ),
        mistake(
            "cross_term_after_the_update", f"∂/∂{o} −= α ∂²L_s/∂{o}∂{a} vₖ, with vₖ for vₖ₊₁",
            f"the backward pass by hand updates v first, and takes the cross term of {adapts} and {other} with the new "
            "one",
            "compute both products with the old v, then update it",
            "compute both products with the old v, then update it",
            ({"cross term": "after the update"},),
        ),
        mistake(
            "cross_term_not_carried", f"∂/∂{o} −= α Σₖ ∂²L_s/∂{o}∂{a} v_K, with v_K for vₖ₊₁",
            f"the backward pass by hand takes the cross term of {adapts} and {other} with the query gradient in every "
            "step, and not with the v that has gone back through the later steps",
            f"of_{other} -= lr * cross(v), with the v of this step", f"of_{other} - lr * cross(v), with the carry v",
            ({"cross term": "not carried"},),
        ),
        mistake(
            "cross_term_times_c", f"∂/∂{o} −= c α ∂²L_s/∂{o}∂{a} vₖ₊₁",
            f"what the {other} gets through the adaptation is multiplied by a number (c): its sign is wrong, the rate "
            "is missing, or it is divided once more",
            f"of_{other} -= lr * cross(v), once", f"of_{other} - lr * cross(v), once",
            ({"cross term times": -1.0},), free=Free("cross term times", "c", (-1.0, 2.0, 0.5)),
        ),
        mistake(
            "query_part_times_c", f"∂L_q/∂{o} · c + what comes through the adaptation",
            f"what the {other} gets from the query loss itself is multiplied by a number (c)",
            f"one backward() of the query loss for {adapts} and {other}", "one gradient of the query loss for both",
            ({"others in query times": -1.0},), free=Free("others in query times", "c", (-1.0, 2.0, 0.5)),
        ),
    ]  # fmt: skip
