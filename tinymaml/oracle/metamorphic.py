"""Relations that a meta-gradient keeps, whatever its value: for these no reference is needed.

    print(relations(mine))                           every relation: holds, or broken, by how much, and what that means
    print(relations(mine, algorithm="reptile"))      print(relations(mine, case))

A relation changes a case in a way of which the effect on G is known: the tasks come in another order, an example comes
twice, the loss is doubled and α halved. The candidate is asked about both cases, and its two answers are compared with
each other. So a relation can refuse an algorithm that has no certified cases; it cannot prove one right: FOMAML keeps
nearly all of them. How far the answers may differ is known from the engine: `tolerance`.

A relation is one function, `change(case)` → `Changed`, or None where it says nothing of the case, and one line of
RELATIONS.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from . import family, tolerance
from .arithmetic import as_numbers
from .cases import Case, check_algorithm, draw
from .family import suites
from .judge import checking, protocol, worker
from .judge.guard import Guarded
from .models import loss_and_grad
from .pages.report import _one_line
from .questions import Answered, Question

Gradients = dict[str, np.ndarray]


class Changed(NamedTuple):
    """The changed case, or cases; what G of the case must be, by name: `wanted(G)`, and what there is instead:
    `got(answers)`. Names that are not wanted are not compared."""

    cases: list[Case]
    wanted: Callable[[Gradients], Gradients] = lambda g: g
    got: Callable[[list[Gradients]], Gradients] = lambda answers: answers[0]


class Relation(NamedTuple):
    """`holds` says what is so in words, `broken` what it means if it is not."""

    name: str
    change: Callable[[Case], Changed | None]
    holds: str
    broken: str


# ── data ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _with(case: Case, **changes) -> Case:
    return dataclasses.replace(case, answer=None, handed_out=[], **changes)


def _examples(which: str, of: Callable) -> Callable[[Case], Changed | None]:
    """The relation that G is the same if each task's support or query arrays become of(array)."""

    def change(case):
        batches = getattr(case, which)
        changed = [tuple(map(of, batch)) for batch in batches]
        return Changed([_with(case, **{which: changed})]) if all(len(x) > 1 for x, _ in batches) else None

    return change


def _tasks_in_another_order(case):
    order = [*range(1, case.tasks), 0]
    return Changed([case.permuted(order)]) if case.tasks > 1 else None


def _tasks_twice(case):
    return Changed([_with(case, support=case.support * 2, query=case.query * 2)])


def _tasks_apart(case):
    """G = 1/T Σₜ Gₜ, each task asked by itself."""
    if case.tasks < 2:
        return None
    alone = [_with(case, support=[s], query=[q]) for s, q in case.batches()]
    return Changed(alone, got=lambda each: {n: sum(g[n] for g in each) / len(each) for n in each[0]})


def _asked_again(case):
    return Changed([_with(case)])


# ── parameters ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _reparametrised(case: Case, maps: dict[str, Callable], **data) -> Changed:
    """θ′ = Pθ with an orthogonal P, given by its part for each parameter: then G′ = PG. Rates go with their θ."""

    def moved(tree):
        out = dict(tree)
        for n, f in maps.items():
            for name in (n, f"alpha.{n}") if case.algorithm == "meta-sgd" else (n,):
                out[name] = f(np.asarray(tree[name]))
        return out

    rate = moved(case.inner_lr) if isinstance(case.inner_lr, dict) else case.inner_lr
    return Changed([_with(case, params=moved(case.params), inner_lr=rate, **data)], wanted=moved)


def _classes_renumbered(case):
    """Class c is called π(c), and column c of the head moves there."""
    if case.model["loss"] != "cross_entropy" or case.model["layers"][-1]["layer"] != "linear":
        return None
    classes = case.params[case.head()[0]].shape[-1]
    back = np.roll(np.arange(classes), 1)  # column i comes from column back[i], so that class c is now c + 1
    support, query = ([(x, (y + 1) % classes) for x, y in batches] for batches in (case.support, case.query))
    return _reparametrised(case, dict.fromkeys(case.head(), lambda p: p[..., back]), support=support, query=query)


def _hidden_units_in_another_order(case):
    """The columns of one linear layer and of what follows it, and the rows of the next."""
    layers = case.model["layers"]
    linear = [i for i, m in enumerate(layers) if m["layer"] == "linear"]
    for i, j in zip(linear, linear[1:], strict=False):
        between = [p for m in layers[i + 1 : j] for p in m.get("params", [])]
        columns, rows = [*layers[i]["params"], *between], layers[j]["params"][0]
        width = case.params[rows].shape[0]
        if width < 2 or len({*columns, rows}) < len(columns) + 1:
            continue
        order = np.roll(np.arange(width), 1)
        maps = dict.fromkeys(columns, lambda p, order=order: p[..., order])
        return _reparametrised(case, maps | {rows: lambda p, order=order: p[order]})
    return None


_ELEMENTWISE = ("meta-sgd", "inner-adam")  # these work element by element: a rotation changes what they do


def _inputs_rotated(case):
    """x′ = x R and w′ = Rᵀ w; a quadratic has A′ = Rᵀ A R, b′ = Rᵀ b, θ′ = Rᵀ θ."""
    first, whole = case.model["layers"][0], isinstance(case.inner_lr, float) and case.algorithm not in _ELEMENTWISE
    if not whole or first["layer"] not in ("linear", "quadratic"):
        return None
    name = first["params"][0]
    size = case.params[name].shape[0]
    if size < 2 or sum(name in m.get("params", []) for m in case.model["layers"]) > 1:
        return None
    r = np.eye(size)
    r[:2, :2] = [[0.6, -0.8], [0.8, 0.6]]

    def inputs(x):
        if first["layer"] == "linear":
            return x @ r
        return np.concatenate([r.T @ x[..., :-1] @ r, (x[..., -1] @ r)[..., None]], -1)

    support, query = ([(inputs(x), y) for x, y in batches] for batches in (case.support, case.query))
    return _reparametrised(case, {name: lambda p: r.T @ p}, support=support, query=query)


# ── rates and losses ────────────────────────────────────────────────────────────────────────────────────────────────


def _at_rate(case: Case, f: Callable) -> dict:
    """The case's fields in which every α is f(α)."""
    rate = case.inner_lr
    return {"inner_lr": {n: f(a) for n, a in rate.items()} if isinstance(rate, dict) else f(rate),
            "params": {n: f(p) if n.startswith("alpha.") else p for n, p in case.params.items()}}  # fmt: skip


def _loss_scaled(case):
    """L → cL and α → α/c leave the inner loop as it is, so that G → cG."""
    if case.algorithm == "inner-adam":
        return None
    loss, layers = case.model["loss"], [m["layer"] for m in case.model["layers"]]
    data: dict = {}
    if loss in ("mse", "half_mse"):
        other, c = ("half_mse", 0.5) if loss == "mse" else ("mse", 2.0)
        data["model"] = dict(case.model, loss=other)
    elif loss == "mean" and layers in (["quadratic"], ["polynomial"]):
        c = 2.0
        data |= {name: [(c * x, y) for x, y in getattr(case, name)] for name in ("support", "query")}
    else:
        return None
    settings = dict(case.settings)
    if "strength" in settings:
        settings["strength"] *= c  # of the inner objective, which is scaled as a whole
    times = 1.0 if case.algorithm == "reptile" else c

    def wanted(g):
        return {n: x * (times * c if n.startswith("alpha.") else times) for n, x in g.items()}

    return Changed([_with(case, settings=settings, **_at_rate(case, lambda a: a / c), **data)], wanted)


_QUERY_GRADIENT_AT_REST = (
    "maml", "anil", "boil", "meta-sgd", "inner-momentum", "inner-adam", "hessian-free", "sharp",
)  # fmt: skip


def _rate_0(case):
    """Nothing adapts: G is g_q(θ); or θ − θ_K = 0."""
    if case.algorithm in ("reptile", "proximal"):
        wanted = lambda g: {n: 0 * x for n, x in g.items()}  # noqa: E731
    elif case.algorithm in _QUERY_GRADIENT_AT_REST:
        wanted = lambda g: _query_gradient(case, [case.params] * case.tasks)  # noqa: E731
    else:
        return None
    return Changed([_with(case, **_at_rate(case, lambda a: 0 * a))], wanted)


def _query_gradient(case: Case, ends: list[dict]) -> Gradients:
    """The mean over tasks of g_q at `ends`: plain backpropagation, of first order."""
    grads = []
    for query, end in zip(case.query, ends, strict=True):
        theta = {n: as_numbers(p) for n, p in end.items() if not n.startswith("alpha.")}
        grads.append(loss_and_grad(case.model, theta, *map(as_numbers, query))[1])
    return {n: sum(g[n] for g in grads) / len(grads) for n in grads[0]}


def _linear_loss(case):
    """A support loss −bᵀθ has no Hessian: MAML is FOMAML, θ_K = θ + Kαb, and G = g_q(θ_K)."""
    alone = [m["layer"] for m in case.model["layers"]] == ["quadratic"] and isinstance(case.inner_lr, float)
    if not alone or case.algorithm not in ("maml", "hessian-free", "sharp", "imaml") or case.adapt is not None:
        return None
    (name,), rate, k = case.params, case.inner_lr, case.inner_steps
    support = [(np.concatenate([0 * x[..., :-1], x[..., -1:]], -1), y) for x, y in case.support]
    length = k * rate
    if case.algorithm == "imaml":  # φ_K = θ + (1 − (1 − αλ)ᴷ) b/λ
        strength = case.settings["strength"]
        length = (1 - (1 - rate * strength) ** k) / strength
    ends = [{name: case.params[name] + length * np.mean(x[..., -1], 0)} for x, _ in support]
    return Changed([_with(case, support=support)], wanted=lambda g: _query_gradient(case, ends))


def _support_twice(case):
    if case.settings.get("surrogate") == "e-maml":  # whose score term is a sum over trajectories
        return None
    return _examples("support", _doubled)(case)


def _doubled(a):
    return np.concatenate([a, a])


def _turned(a):
    return np.roll(a, 1, 0)


RELATIONS = [
    Relation("tasks in another order", _tasks_in_another_order, "G does not depend on the order of the tasks",
             "the gradient depends on the order of the tasks: state goes on from task to task, θ moves between them, "
             "or they are not weighted alike"),
    Relation("tasks twice", _tasks_twice, "G is the same if every task comes twice",
             "the gradient grows with the number of tasks: it is a sum over tasks, or divided by a fixed number"),
    Relation("tasks apart", _tasks_apart, "G is the mean of what the tasks give one by one",
             "a task's gradient depends on the other tasks: a shared statistic, a leak, a sum, or a norm over all of "
             "them"),
    Relation("support in another order", _examples("support", _turned), "G does not depend on the examples' order",
             "the gradient depends on the order of the support examples: they are cut into batches, cut off, or "
             "matched with the wrong labels"),
    Relation("query in another order", _examples("query", _turned), "G does not depend on the examples' order",
             "the gradient depends on the order of the query examples: they are cut into batches, cut off, or matched "
             "with the wrong labels"),
    Relation("support twice", _support_twice, "G is the same if every support example comes twice",
             "the inner loop depends on the number of support examples: its loss is a sum, not a mean, or was divided "
             "again"),
    Relation("query twice", _examples("query", _doubled), "G is the same if every query example comes twice",
             "the gradient grows with the number of query examples: the query loss is a sum, or was divided again"),
    Relation("classes renumbered", _classes_renumbered, "another numbering of classes permutes the head's columns of G",
             "the classes are not treated alike: labels are renumbered or sorted inside, or a class is special"),
    Relation("hidden units in another order", _hidden_units_in_another_order, "hidden units are alike",
             "the hidden units are not treated alike: some parameters are frozen, masked or treated in another way"),
    Relation("inputs rotated", _inputs_rotated, "G turns with an orthogonal change of inputs and first weights",
             "the update works element by element (clipping by value, signs, Adam, a diagonal Hessian), where gradient "
             "descent does not depend on the axes"),
    Relation("loss scaled", _loss_scaled, "with c L in the place of L, and α/c in that of α, G is multiplied by c",
             "the inner loop has a term or a bound of its own: a weight decay, a clipped gradient, an ε, another rate"),
    Relation("inner rate 0", _rate_0, "with α = 0 nothing adapts, and G is that of θ itself",
             "something is left of the inner loop although its rate is 0: gradients of the support set that add up, a "
             "fixed rate, or the query gradient of other weights"),
    Relation("linear support loss", _linear_loss, "a support loss without a Hessian makes MAML and FOMAML the same",
             "there is a second-order term although the support loss has no Hessian: a Hessian of another loss, a "
             "damping, or other inner steps"),
    Relation("asked again", _asked_again, "the same case has the same answer",
             "the same question has another answer: dropout, a random sample, or state that is kept from call to call"),
]  # fmt: skip


# ── asking ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass
class Outcome:
    """A relation in all cases: `verdict` is "holds", "broken", "no answer" or "not asked"; `off` the largest relative
    error, and `roundings` the same in roundings; `case` where it is; `count` cases."""

    relation: Relation
    verdict: str = "not asked"
    off: float = 0.0
    roundings: float = 0.0
    case: str = ""
    count: int = 0
    problem: str = ""


@dataclasses.dataclass
class Relations:
    """The outcome of each relation."""

    rows: list[Outcome]
    algorithm: str
    dtype: str
    problem: str = ""

    @property
    def broken(self) -> list[str]:
        """Names of the relations that do not hold."""
        return [row.relation.name for row in self.rows if row.verdict == "broken"]

    @property
    def exit_code(self) -> int:
        """0 if every relation that was asked about holds."""
        return 0 if not self.problem and {row.verdict for row in self.rows} <= {"holds", "not asked"} else 1

    def __str__(self) -> str:
        width = max(len(row.relation.name) for row in self.rows)
        lines = [f"relations of {self.algorithm}, {self.dtype}"]
        lines += [f"  {self.problem}"] if self.problem else []
        for row in self.rows:
            near = f"off by {row.off:.1g}" if row.off else "exactly"
            said = {
                "holds": f"holds      {row.count} {'case' if row.count == 1 else 'cases'}, {near}",
                "broken": f"BROKEN     off by {row.off:.2g} of G in {row.case}: {row.relation.broken}",
                "no answer": f"no answer  {row.case}: {row.problem}",
                "not asked": "–          no case to ask about",
            }[row.verdict]
            lines.append(f"  {row.relation.name:{width}}  {said}")
        count = sum(row.verdict == "holds" for row in self.rows)
        lines.append(f"  {count} of {sum(row.verdict != 'not asked' for row in self.rows)} relations hold. They prove "
                     "no gradient right: `check` does.")  # fmt: skip
        return "\n".join(map(_one_line, lines))


def relations(
    candidate: Callable | str | list[str], case: Case | None = None, *, algorithm: str = "maml",
    dtype: str = "float64", timeout: float = 60.0, echo: Callable[[bytes], None] | None = None,
) -> Relations:  # fmt: skip
    """Ask a candidate about changed cases, and compare its answers with each other.

    Args:
        candidate: `candidate(case)` as for `check`; or "package.module:function", asked in a process of its own; or a
            program's command, a list.
        case: to start from; by default several of `algorithm`.
        algorithm: "maml" or a name of `family.ALGORITHMS`; which relations hold depends on it.

    Raises:
        ValueError: an unknown algorithm or dtype; an invalid time-out or target.

    >>> from tinymaml import oracle
    >>> def mine(case):
    ...     loss, params, tasks = case.numpy()
    ...     f = tm.meta_value_and_grad(loss, inner_lr=case.inner_lr, inner_steps=case.inner_steps)
    ...     return {"meta_grad": f(params, tasks)[1]}
    >>> print(oracle.relations(mine, oracle.load("core")[0]))
    relations of maml, float64
      tasks in another order         holds      1 case, ...
    ...
      11 of 11 relations hold. They prove no gradient right: `check` does.
    """
    timeout = checking.seconds(timeout)
    if dtype not in tolerance.UNIT:
        raise ValueError(f"dtype is {dtype!r}, wanted 'float64' or 'float32'")
    algorithm = case.algorithm if case is not None else algorithm
    check_algorithm(algorithm, "core")
    cases = [c.with_dtype(dtype) for c in ([case] if case is not None else bases(algorithm))]
    asked, rows, wanted = [], {r.name: Outcome(r) for r in RELATIONS}, []
    for base in cases:
        asked.append(Question(base.id, base))
        for relation in RELATIONS:
            changed = relation.change(base)
            if changed is not None:
                ids = [f"{base.id}@{relation.name}-{k}".replace(" ", "-") for k in range(len(changed.cases))]
                asked += [Question(id, c) for id, c in zip(ids, changed.cases, strict=True)]
                wanted.append((base, rows[relation.name], changed, ids))
    answers = _ask(candidate, asked, dtype, timeout, echo)
    scales = {base.id: tolerance.scale_of_sum(base) for base in cases}
    for base, row, changed, ids in wanted:
        _compare(base, row, changed, [answers[base.id], *(answers[id] for id in ids)], scales[base.id])
    return Relations(list(rows.values()), algorithm, dtype)


def _ask(candidate, asked: list[Question], dtype: str, timeout: float, echo) -> dict[str, Answered]:
    if callable(candidate):
        return {q.id: checking._ask(candidate, q.case, timeout) for q in asked}
    command = worker.command(candidate) if isinstance(candidate, str) else candidate
    prefix = protocol.token("relations", dtype, (), 0)
    with Guarded(command, echo=echo) as program:
        feeder = threading.Thread(target=_feed, args=(program.stdin, asked, prefix), daemon=True)
        feeder.start()
        answers = protocol.read_answers(asked, prefix, protocol.lines_from(program.stdout, timeout), whole=False)
    return {q.id: answers.get(q.id, Answered(problem="no answer came")) for q in asked}


def _feed(stream, asked: list[Question], prefix: str) -> None:
    with suppress(OSError):  # it may have ended
        for line in protocol.lines(asked, prefix):
            stream.write(line.encode() + b"\n")
            stream.flush()
        stream.close()


def _compare(base: Case, row: Outcome, changed: Changed, answers: list[Answered], scale: float) -> None:
    problem = next((a.problem for a in answers if a.problem), "")
    row.count += 1
    if problem:
        if row.verdict != "broken":
            row.verdict, row.case, row.problem = "no answer", base.id, problem
        return
    given = answers[0].grad
    wanted, got = changed.wanted(given), changed.got([a.grad for a in answers[1:]])
    size = max(_largest(given), _largest(wanted), np.finfo(float).tiny)
    far = max(float(np.max(np.abs(got[n] - wanted[n]), initial=0)) for n in wanted)
    # s is that of the right gradient; a wrong one may be larger
    roundings = far / (tolerance.UNIT[base.dtype] * max(scale, size)) if far else 0.0
    broken, before = roundings > tolerance.TAU, row.verdict
    if broken and before != "broken" or broken == (before == "broken") and far / size > row.off:
        row.off, row.roundings, row.case = far / size, roundings, base.id
    row.verdict = "broken" if broken or before == "broken" else "no answer" if before == "no answer" else "holds"


def _largest(grads: Gradients) -> float:
    return max(float(np.max(np.abs(g), initial=0)) for g in grads.values())


def bases(algorithm: str) -> list[Case]:
    """Cases to start from, which all relations together have something to say about."""
    if algorithm != "maml":
        module = family.ALGORITHMS[algorithm]
        return [suites.draw(algorithm, name, 0) for name in module.CASES]
    settings = {"tasks": 2, "inner_steps": 3, "shots": 3, "queries": 4}
    kinds = {"tanh 2-2-1 mse": 0.25, "tanh 2-2-3 cross_entropy": 0.5, "quadratic 2": 0.125, "batch norm 2": 0.25}
    return [draw(kind, 0, inner_lr=rate, **settings) for kind, rate in kinds.items()]
