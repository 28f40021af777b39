"""The cases vary in everything in which a mistake could hide: what is planted there is refused."""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import pytest

import tinymaml as tm
from tinymaml import oracle
from tinymaml.oracle import questions, tolerance, vary

ROWS = {f"{row.property}: {row.value}": row for row in vary.VARIED}
FLOAT64 = {"α: not in float32", "α: below 0.02", "θ: not in float32", "x: not in float32", "dtype: float64 alone",
           "losses: above 10", "targets: mean far from 0"}  # fmt: skip


@functools.cache
def core() -> list:
    return oracle.load("core")


# ── the table ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_core_varies_in_everything():
    assert [f"{row.property}: {row.value}" for row in vary.lacking(core())] == []


def test_so_does_the_core_in_float32_but_for_what_float32_cannot_hold():
    lacking = vary.lacking(c for c in core() if "float32" in c.dtypes)
    assert {f"{row.property}: {row.value}" for row in lacking} <= FLOAT64


@pytest.mark.parametrize("name", ROWS)
def test_each_row_tells_cases_apart(name):
    """None is true of every case, or measured by what it is not about."""
    holds = [bool(ROWS[name].holds(case)) for case in core()]
    assert any(holds) and not all(holds)


def test_what_no_case_has_is_noticed():
    short = [c for c in core() if c.inner_steps <= 10]
    assert [row.value for row in vary.lacking(short) if row.property == "K"] == ["above 10"]


def test_rounding_to_bfloat16():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=1000) * 10.0 ** np.arange(-20, 20).repeat(25)
    np.testing.assert_array_equal(vary.rounded(x, "bfloat16"), torch.tensor(x).to(torch.bfloat16).double().numpy())
    assert vary.holds_in("bfloat16", 0.25, 1.5) and not vary.holds_in("bfloat16", 0.1)


# ── planted mistakes ────────────────────────────────────────────────────────────────────────────────────────────────


def engine(
    *, theta=lambda p: p, rate=lambda a: a, x=lambda a: a, y=lambda a: a, weight=lambda p: p, gradient=lambda g: g
):
    """A right implementation, with something done to θ, α, the data, the weights in the loss, or the gradient."""

    def mine(case):
        loss, params, data = case.numpy()
        (xs, ys), (xq, yq) = (([x(a) for a in inputs], [y(a) for a in targets]) for inputs, targets in data)
        alpha = {n: np.asarray(rate(a), case.dtype) for n, a in tolerance.rates(case).items()}
        meta = tm.meta_value_and_grad(
            lambda p, x, y: loss({n: weight(w) for n, w in p.items()}, x, y), inner_lr=alpha,
            inner_steps=case.inner_steps,
        )  # fmt: skip
        tasks = [((xs[t], ys[t]), (xq[t], yq[t])) for t in range(case.tasks)]
        return {"meta_grad": gradient(meta({n: theta(p) for n, p in params.items()}, tasks)[1])}

    return mine


def rounded(precision: str):
    return lambda a: vary.rounded(a, precision).astype(np.asarray(a).dtype)


def numbered_anew(y):
    return np.unique(y, return_inverse=True)[1].reshape(y.shape) if y.dtype.kind in "iu" else y


def of_images(change):
    return lambda a: change(a) if a.ndim == 4 else a


def of_square(change):
    return lambda p: change(p) if p.ndim == 2 and p.shape[0] == p.shape[1] > 1 else p


def channels_exchanged(w):
    return np.transpose(w, (0, 1, 3, 2)) if w.shape[2] == w.shape[3] else w


def last_ten_steps(case):
    """Back-propagation cut to the last 10 steps."""
    loss, params, ((xs, ys), (xq, yq)) = case.numpy()
    alpha, near = tolerance.rates(case), min(case.inner_steps, 10)
    meta = tm.meta_value_and_grad(loss, inner_lr=alpha, inner_steps=near)
    total = 0.0
    for t in range(case.tasks):
        start = tm.adapt(loss, params, (xs[t], ys[t]), inner_lr=alpha, inner_steps=case.inner_steps - near)
        _, grads = meta(start, [((xs[t], ys[t]), (xq[t], yq[t]))])
        total = {n: g / case.tasks + (total[n] if t else 0.0) for n, g in grads.items()}
    return {"meta_grad": total}


def query_cut(case):
    """A query set cut to the support's size."""
    query = [(x[: len(s)], y[: len(s)]) for (x, y), (s, _) in zip(case.query, case.support, strict=True)]
    return engine()(dataclasses.replace(case, query=query))


PLANTED = {
    "α in float32": engine(rate=rounded("float32")),
    "α in float16": engine(rate=rounded("float16")),
    "α in bfloat16": engine(rate=rounded("bfloat16")),
    "data in float32": engine(x=rounded("float32")),
    "data in float16": engine(x=rounded("float16")),
    "data in bfloat16": engine(x=rounded("bfloat16")),
    "θ in float32": engine(theta=rounded("float32")),
    "labels numbered anew in each set": engine(y=numbered_anew),
    "a kernel's channels exchanged": engine(weight=of_images(channels_exchanged)),
    "a kernel reshaped in place of permuted": engine(
        weight=of_images(lambda w: np.transpose(np.reshape(w, w.shape[::-1]), (2, 3, 1, 0)).reshape(w.shape))),
    "a kernel's sides exchanged": engine(
        weight=of_images(lambda w: np.transpose(w, (1, 0, 2, 3)) if w.shape[0] == w.shape[1] else w)),
    "images reshaped in place of permuted": engine(
        x=of_images(lambda a: np.moveaxis(np.reshape(a, (len(a), a.shape[3], *a.shape[1:3])), 1, 3))),
    "height and width exchanged": engine(x=of_images(lambda a: np.swapaxes(a, 1, 2))),
    "back-propagation through the last 10 steps": last_ten_steps,
    "gradients in the order of sorted names": engine(gradient=lambda g: [g[n] for n in sorted(g)]),
    "a square weight transposed": engine(weight=of_square(np.transpose)),
    "a square weight's gradient transposed": engine(
        gradient=lambda g: {n: of_square(np.transpose)(a) for n, a in g.items()}),
    "a query set cut to the support's size": query_cut,
}  # fmt: skip


IN_FLOAT64_ALONE = ("α in float32", "data in float32", "θ in float32")


def refused_in(mine, cases: list, dtype: str = "float64") -> Iterator[str]:
    """Where it is off by more than is allowed, or raises; CORRECT is never said then."""
    unit = tolerance.UNIT[dtype]
    for case in cases:
        if dtype in case.dtypes:
            try:
                grad = questions.read_answer(case, mine(case.with_dtype(dtype))).grad
                off = tolerance.error(grad, case.answer.meta_grad, case.answer.scale, unit) if grad else np.inf
            except ValueError:
                off = np.inf
            if off > tolerance.TAU:
                yield case.id


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("what", PLANTED)
def test_it_is_refused(what, dtype):
    assert any(refused_in(PLANTED[what], core(), dtype)) == (dtype == "float64" or what not in IN_FLOAT64_ALONE)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_with_nothing_planted_it_is_correct(dtype):
    assert list(refused_in(engine(), core(), dtype)) == []


@pytest.mark.parametrize("what, row", [
    ("α in float32", "α: not in float32"),
    ("θ in float32", "θ: not in float32"),
    ("data in float32", "x: not in float32"),
    ("back-propagation through the last 10 steps", "K: above 10"),
    ("labels numbered anew in each set", "classes: one lacks in a query set"),
    ("a kernel's channels exchanged", "kernels: as many channels in as out"),
    ("a query set cut to the support's size", "N: N_q > N_s"),
    ("images reshaped in place of permuted", "images: several channels"),
])  # fmt: skip
def test_it_shows_only_where_the_table_says(what, row):
    shows = list(refused_in(PLANTED[what], core()))
    assert shows and all(ROWS[row].holds(c) for c in core() if c.id in shows)


# ── new cases ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("computed_once")
def test_new_cases_vary_too():
    """In what a table of the core's answers, or a shortcut that fits the core, would not know."""
    drawn = [questions.fresh(seed, 1)[0] for seed in (7, 8, 14)]
    for case in drawn:
        assert not vary.holds_in("float32", case.inner_lr) and not vary.holds_in("float32", *case.params.values())
    shapes = lambda case: str([case.model, [np.shape(a) for b in case.support + case.query for a in b]])  # noqa: E731
    assert {shapes(c) for c in drawn}.isdisjoint({shapes(c) for c in core()})
    assert len({(c.tasks, c.inner_steps, len(c.support[0][0]), len(c.query[0][0])) for c in drawn}) >= 3
    assert any(ROWS["classes: one lacks in a query set"].holds(questions.fresh(seed, 1)[0]) for seed in (33, 1, 17))
    case = questions.fresh(5, 1, "float32")[0]
    assert case.exact_in("float32") and not vary.holds_in("bfloat16", case.inner_lr)


def test_a_new_case_is_drawn_in_all_its_sizes(monkeypatch):
    """Nothing is solved: of every seed the first draft is taken."""
    drafts = []
    monkeypatch.setattr(questions, "draw", lambda kind, seed, **settings: drafts.append(settings | {"kind": kind}))
    monkeypatch.setattr(questions.references, "solve_if_good", lambda case, dtype: True)
    for seed in range(16):
        questions.fresh(seed, 16)
    every = lambda name: {draft[name] for draft in drafts}  # noqa: E731
    assert len(every("id")) == 256 and every("tasks") == {2, 3} and every("inner_steps") == {2, 3, 4}
    assert every("shots") == {3, 4, 5} and every("queries") == {2, 4, 6} and every("lacking") == {True, False}
    assert every("sizes") == {(1.0,), (1.0, 0.5, 2.0)} and every("offset") == {0.0, 0.5}
    steep = lambda draft: draft["kind"].startswith(("square", "quadratic", "linear"))  # noqa: E731
    rates = {draft["inner_lr"] * (4 if steep(draft) else 1) for draft in drafts}
    assert 0.2 <= min(rates) < 0.21 and 0.39 < max(rates) < 0.4
    assert {"tanh 2-3-1 mse", "tanh 3-2-1 mse", "tied 2", "tied 3"} <= every("kind")


def test_a_direction_has_steps_of_one_both_ways():
    for case in core():
        steps = np.concatenate([d.ravel() for d in questions.direction(case).values()])
        assert set(np.abs(steps)) == {1.0} and (len(steps) < 4 or len(set(steps)) == 2)
