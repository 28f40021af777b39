"""The catalogue's second half: every form is exact, has a name of its own, and is what such code computes."""

import contextlib
import dataclasses
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tinymaml import oracle
from tinymaml.oracle import cases, diagnosis, family, questions
from tinymaml.oracle.arithmetic import Uncertain
from tinymaml.oracle.catalogue import CATALOGUE, OF_MAML, flat, forms, run_form
from tinymaml.oracle.clues import examples, match
from tinymaml.oracle.mistakes.concerns import concerns
from tinymaml.oracle.mistakes.data import rounded
from tinymaml.oracle.mistakes.further import FURTHER
from tinymaml.oracle.mistakes.mistake import Mistake, with_number
from tinymaml.oracle.mistakes.semantics import run
from tinymaml.oracle.mistakes.switches import NUMBERS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
pytestmark = pytest.mark.usefixtures("confirmed_once", "computed_once")

FORMS = {f"{m.id}/{k}" if k else m.id: form for m in OF_MAML.values() for k, form in enumerate(m.forms)}
FEW_FORMS = pytest.mark.parametrize("few_forms", [
    "few forms", pytest.param("all", marks=pytest.mark.slow),
], indirect=True)  # fmt: skip
NAMES = [name for name in FORMS if not CATALOGUE[name.split("/")[0]].classic]


def channels() -> cases.Case:
    """Images and filters of two channels, flattened, and a matrix with unequal sides."""
    source = np.random.default_rng(0)
    numbers = lambda *shape: np.round(source.normal(size=shape) * 64) / 64  # noqa: E731
    case = cases.draw("conv bn tanh 2", 3, id="channels", shots=4, queries=3)
    layers = [m for m in case.model["layers"] if m["layer"] != "spatial_mean"]
    layers.insert(-1, {"layer": "flatten"})
    with_images = lambda batches: [(numbers(len(y), 3, 4, 2), y) for _, y in batches]  # noqa: E731
    return dataclasses.replace(
        case, model=case.model | {"layers": layers}, support=with_images(case.support), query=with_images(case.query),
        params=case.params | {"c1": numbers(2, 2, 2, 2), "w": numbers(24, 2) / 2},
    )  # fmt: skip


def special() -> list:
    """Tasks of different sizes, numbers that float32 cannot hold, a class that is lacking, several channels, a stride
    before a mean over pixels, steps that raise the loss, an α for each element."""
    uneven = cases.draw("tanh 1-2-1 mse", 7, id="uneven", tasks=3, unequal=True)
    inexact = dataclasses.replace(
        uneven, id="inexact", inner_lr=0.1, params={n: p / 3 for n, p in uneven.params.items()},
        support=[(x / 3, y / 3) for x, y in uneven.support],
    )  # fmt: skip
    classes = cases.draw("tanh 2-3-3 cross_entropy", 5, id="lacking", shots=5)
    (x, y), *others = classes.support
    lacking = dataclasses.replace(classes, support=[(x, np.where(y == 0, 1, y)), *others])
    strided = cases.draw("image 4x4x1 c2x2x2s2 tanh 2", 3, id="strided", shots=4)
    rising = cases.draw("tanh 1-2-1 mse", 4, id="rising", inner_steps=4, inner_lr=0.5)
    rates = cases.draw("tanh 1-2-1 mse", 0, id="rates", per_parameter=True)
    return [uneven, inexact, lacking, channels(), strided, rising, rates]


def values(case, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The right gradient of a case, its largest number being 1, and that of each form in a row; NaN where it is not
    finite."""
    right = flat(run(case).meta_grad)
    size, here, rows = np.max(np.abs(right)), forms(case), []
    with np.errstate(all="ignore"):
        for name in names:
            v = flat(run_form(case, here[name]).meta_grad) if name in here else right
            rows.append(v / size if np.isfinite(v).all() else np.full(v.size, np.nan))
    return right / size, np.stack(rows)


# Of the core, the cases that tell most forms from all others in least time, those first that tell most.
TELLING = ("integers-1", "tied", "relu-at-zero", "strided-conv", "batch-norm", "pool-tie", "square", "logistic")


@pytest.fixture(scope="module", params=["telling", pytest.param("all", marks=pytest.mark.slow)])
def core(request) -> list:
    return [c for c in oracle.load("core") if c.id in TELLING or request.param == "all"]


# ── the entries ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_entry_says_what_is_wrong_and_how_to_mend_it():
    assert len(FURTHER) >= 140 and len({m.id for m in FURTHER}) == len(FURTHER)
    for m in FURTHER:
        assert m.id == m.id.lower() and m.id.isidentifier() and m.computes and m.explanation and m.torch and m.jax
        assert m.forms and not m.classic and m.kind in ("bug", "precision")


def test_a_free_number_stands_in_every_form_at_its_usual_value():
    for m in FURTHER:
        if m.free is not None:
            assert len(set(m.free.typical)) == len(m.free.typical) and all(c != 0 for c in m.free.typical)
            assert m.free.symbol in m.computes + m.explanation, m.id
            held = [form.get(m.free.switch, form.get("how", {}).get(m.free.switch)) for form in m.forms]
            assert set(held) <= {m.free.typical[0], None} and held[0] == m.free.typical[0], m.id
            assert None not in held or m.free.switch in NUMBERS, m.id  # an option stands under "how" in every form
            assert with_number(m.forms[0], m.free, 7.0) != m.forms[0]


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="oddity.*bug, convention, precision"):
        Mistake("x", "", "", "", "", (), kind="oddity")


# ── the switches ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_number_that_is_0_or_none_is_right():
    case = next(c for c in oracle.load("core") if c.id == "square")
    right = flat(run(case).meta_grad)
    for name in NUMBERS:
        for nothing in (0, None):
            np.testing.assert_array_equal(flat(run(case, **{name: nothing}).meta_grad), right)


@pytest.mark.parametrize(("name", "value"), [
    ("momentum", np.inf), ("decay", np.nan), ("inner", "faster"), ("rounded", "rate"),
])  # fmt: skip
def test_a_value_that_no_switch_has_is_named(name, value):
    with pytest.raises(ValueError, match=name):
        run(oracle.load("core")[0], **{name: value})


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_forms_are_exact_over_rationals(every):
    """Where nothing but +, −, ×, ÷ is in a form, rationals give it without rounding, and floats nearly so."""
    case, tried = next(c for c in oracle.load("core") if c.id == "integers-2"), 0
    for name, form in list(forms(case).items())[::every]:
        if name not in NAMES:
            continue
        try:
            exact = flat(run_form(case, form, Fraction).meta_grad)
        except (TypeError, OverflowError):  # a square root; what float16 cannot hold, and is no rational
            continue
        tried += 1
        np.testing.assert_allclose(flat(run_form(case, form).meta_grad), exact.astype(float), rtol=1e-9, atol=1e-12,
                                   err_msg=name)  # fmt: skip
    assert tried > 80 / every


@pytest.mark.parametrize(("id", "every"), [
    ("relu-at-zero", 8), ("pool-tie", 16),
    *(pytest.param(id, 1, marks=pytest.mark.slow) for id in ("relu-at-zero", "pool-tie")),
])  # fmt: skip
def test_forms_are_what_balls_enclose(id, every):
    flint = pytest.importorskip("flint")
    case = next(c for c in oracle.load("core") if c.id == id)
    before, flint.ctx.prec = flint.ctx.prec, 160
    try:
        for name, form in list(forms(case).items())[::every]:
            if name in NAMES:
                try:
                    wanted = np.array([float(x.mid()) for x in flat(run_form(case, form, flint.arb).meta_grad)])
                except Uncertain:  # a tie of inputs that are not what the case has: the balls do not decide it
                    continue
                got = flat(run_form(case, form).meta_grad)
                if np.isfinite(got).all():
                    assert np.max(np.abs(got - wanted)) <= 1e-9 * np.max(np.abs(wanted)), name
    finally:
        flint.ctx.prec = before


def test_what_is_rounded_is_the_nearest_number():
    x = np.array([0.1, 1 / 3, 1.0, -(2.0**-30), 1e-8])
    np.testing.assert_array_equal(rounded(x, "float32"), x.astype(np.float32))
    np.testing.assert_array_equal(rounded(x, "float16"), x.astype(np.float16))
    np.testing.assert_array_equal(rounded(np.array([0.1, 1 + 2**-8, 1 + 3 * 2**-8]), "bfloat16"),
                                  [0.10009765625, 1.0, 1 + 2**-6])  # ties go to even  # fmt: skip
    np.testing.assert_array_equal(rounded(np.arange(3), "float16"), np.arange(3))


# What such code cannot compute: an image of another size than the weights behind a flatten; a norm over pixels of none.
FAILS = {"strided-conv": ("other_padding", "other_padding/2", "stride_ignored"), "batch-norm": ("instance_norm",)}


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_form_that_concerns_nothing_gives_what_is_right(every):
    """By default every third, where there are several of everything, and where there is one task, and one step."""
    for case in (c for c in oracle.load("core") if every == 1 or c.id in ("softmax", "quartic", "integers-1")):
        right = flat(run(case).meta_grad)
        for name in NAMES[::every]:
            if not concerns(FORMS[name], case) and name not in FAILS.get(case.id, ()):
                got = flat(run_form(case, FORMS[name]).meta_grad)
                assert np.max(np.abs(got - right)) <= 1e-12 * np.max(np.abs(right)), (case.id, name)


# ── told apart ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_some_case_sees_each_form_and_tells_it_from_every_other(every):
    """On one case after the other; a form of which all is told is left out of what follows."""
    core = {c.id: c for c in oracle.load("core")}
    asked_for = ("first_order_ignored", "one_rate_for_all", "all_adapted")  # which need cases of their own
    names = [n for n in FORMS if CATALOGUE[n.split("/")[0]].forms and n not in asked_for][::every]
    ids = np.array([n.split("/")[0] for n in names])
    unseen, alike = np.full(len(names), True), np.tril(ids[:, None] != ids)  # rows: a form; columns: one before it
    for case in [*(core[id] for id in (*TELLING, "pooled-conv", "unsorted")), *special()]:
        left = np.nonzero(unseen | alike.any(0) | alike.any(1))[0]
        right, matrix = values(case, [names[i] for i in left])
        apart = lambda v, m=matrix: np.nan_to_num(np.abs(m - v) / np.maximum(np.abs(m), 1)).max(1)  # noqa: E731
        unseen[left] &= apart(right) < 1e-12
        for i, row in zip(left, matrix, strict=True):
            alike[i, left] &= apart(row) < 1e-11
        if not unseen.any() and not alike.any():
            break
    assert [n for n, hidden in zip(names, unseen, strict=True) if hidden] == []
    assert [(names[i], names[j]) for i, j in np.argwhere(alike)] == [], "the same in every case"


LAST_OVER_T = (lambda T: [1.0] * (T - 1) + [1 / T], "1, 1/2 for T = 2; 1, 1, 1/3 for T = 3",  # brackets are missing
               ("quadratic", "tied", "tanh"))  # fmt: skip


@pytest.mark.parametrize(("weights", "said", "asked"), [
    pytest.param(*LAST_OVER_T, id="last over T-few forms"),
    pytest.param(*LAST_OVER_T, id="last over T", marks=pytest.mark.slow),
    pytest.param(lambda T: [2 * (t + 1) / (T * (T + 1)) for t in range(T)], "1/6, 1/3, 1/2 for T = 3", (),
                 marks=pytest.mark.slow),
])  # fmt: skip
def test_weights_of_tasks_are_said(weights, said, asked, few_forms):
    def mine(case):
        pairs = zip(case.support, case.query, strict=True)
        grads = [run(dataclasses.replace(case, support=[s], query=[q])).meta_grad for s, q in pairs]
        return {"meta_grad": {n: sum(w * g[n] for w, g in zip(weights(case.tasks), grads, strict=True))
                              for n in case.params}}  # fmt: skip

    report = oracle.check(mine, oracle.load("core"), cases=asked)
    assert (report.verdict, report.bug) == ("KNOWN_BUG", "tasks_weighted") and said in report.explanation


PUT_TOGETHER = {
    "shuffled_apart": ("support", lambda source, x, y: (source.permutation(x), source.permutation(y))),
    "sampled_anew": ("query", lambda source, x, y: (lambda at: (x[at], y[at]))(source.integers(len(y), size=len(y)))),
    "classes_renumbered": ("support", lambda source, x, y: (x, source.permutation(3)[y] if y.dtype.kind == "i" else y)),
}


def put_together(bug: str):
    """A candidate that puts the examples of each set together at random."""
    of, change = PUT_TOGETHER[bug]

    def mine(case):
        source = np.random.default_rng(3)
        changed = [change(source, x, y) for x, y in getattr(case, of)]
        return {"meta_grad": run(dataclasses.replace(case, **{of: changed})).meta_grad}

    return mine


def says(report, bug: str) -> bool:
    return (report.verdict, report.bug) == ("KNOWN_BUG", bug) and (
        f"(here in the {PUT_TOGETHER[bug][0]} set)" in report.explanation
    )


@pytest.mark.parametrize("bug", PUT_TOGETHER)
def test_examples_that_are_put_together_at_random_are_found(bug):
    """By the part that looks for it, without the search for a known mistake, which comes first."""
    these, mine = [c for c in oracle.load("core") if c.id in ("tied", "square", "softmax")], put_together(bug)
    report = examples.put_together([diagnosis.judge(c, questions.read_answer(c, mine(c))) for c in these])
    assert says(report, bug), report


@FEW_FORMS
@pytest.mark.parametrize("bug", [
    pytest.param(bug, marks=() if bug == "shuffled_apart" else pytest.mark.slow) for bug in PUT_TOGETHER
])  # fmt: skip
def test_examples_that_are_put_together_at_random_are_said(bug, few_forms):
    report = oracle.check(put_together(bug), oracle.load("core"), cases=("tied", "square", "softmax"))
    assert says(report, bug), report


def by_form(form: dict):
    """A candidate that makes the mistake of a form."""

    def mine(case):
        with np.errstate(all="ignore"):
            return {"meta_grad": run_form(case, form).meta_grad}

    return mine


OF_EACH_KIND = ("block_diagonal_hessian", "inner_momentum", "label_smoothing/1", "kernel_flipped",
                "running_statistics_for_query", "minibatches_inside/1", "batch_norm_statistics_held",
                "features_detached", "activation_missing/2")  # fmt: skip


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_a_form_gets_its_name(core, few_forms, name):
    few_forms(name.split("/")[0])
    gets_its_name(core, name)


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name == "inner_momentum" else pytest.mark.slow) for name in OF_EACH_KIND
])  # fmt: skip
def test_a_form_gets_its_name_among_all(core, name):
    gets_its_name(core, name)


def gets_its_name(core, name):
    report = oracle.check(by_form(FORMS[name]), core)
    assert (report.verdict, report.bug, report.ties) == ("KNOWN_BUG", name.split("/")[0], []), str(report)


@pytest.mark.parametrize(("form", "bug", "numbers", "said"), [
    pytest.param({"decay": 3e-3, "outer": "sum"}, "inner_weight_decay + sum_over_tasks", {"λ": 3e-3},
                 "(here λ = 0.003)", marks=pytest.mark.slow),
    ({"clip_inner": 0.3, "change_like": "scale held"}, "inner_clip", {"c": 0.3}, "(here c = 0.3)"),
    ({"how": {"focus": 1.5}}, "focal_loss", {"γ": 1.5}, "(here γ = 1.5)"),
    ({"data": "swapped", "factors": "detached"}, "swapped_support_query", {}, "the inner gradients are detached"),
])  # fmt: skip
def test_a_number_and_a_second_mistake_are_said(core, few_forms, form, bug, numbers, said):
    few_forms(*bug.split(" + "))
    report = oracle.check(by_form(form), core)
    assert (report.verdict, report.bug) == ("KNOWN_BUG", bug)
    assert report.numbers == pytest.approx(numbers) and said in report.explanation


@pytest.mark.parametrize("what", ["data", "inner_lr", "inner_steps"])
def test_what_is_kept_by_shape_is_named(core, what):
    """As by a jitted function that closes over the first case of its shapes."""
    first = {}

    def mine(case):
        key = (str(case.model), *(np.shape(a) for batch in case.batches() for pair in batch for a in pair))
        names = ("support", "query") if what == "data" else (what,)
        kept = first.setdefault(key, {name: getattr(case, name) for name in names})
        return {"meta_grad": run(dataclasses.replace(case, **kept)).meta_grad}

    report = oracle.check(mine, core)
    assert (report.verdict, report.bug) == ("KNOWN_BUG", "kept_by_shape") and f"(here {what})" in report.explanation


# ── made in code ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def mistakes():
    pytest.importorskip("torch")
    from bench.oracle import mistakes

    return mistakes


def test_nothing_is_made_by_its_formula_alone(mistakes):
    assert [name for name in mistakes.BY_FORMULA if name in NAMES] == []


@pytest.mark.parametrize(("every", "most"), [(3, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_code_with_the_mistake_gives_what_its_formula_gives(mistakes, every, most):
    """Each way to make every third mistake, on the cheapest case that sees it; or every one, and on the next, too."""
    order = ("integers-2", "relu-at-zero", "softmax", "tied", "tanh", "batch-norm", "pool-tie", "pooled-conv",
             "softplus", "square", "logistic", "strided-conv")  # fmt: skip
    core = {c.id: c for c in oracle.load("core")}
    these = [core[id] for id in order] + special()
    here = {c.id: forms(c) for c in these}
    right = {c.id: flat(run(c).meta_grad) for c in these}
    checked, blind = 0, []
    for id in list(dict.fromkeys(name.split("/")[0] for name in NAMES))[::every]:
        for made in mistakes.MADE[id]:
            name = f"{id}/{made.form}" if made.form else id
            seen = 0
            for case in (c for c in these if name in here[c.id]):
                with np.errstate(all="ignore"):
                    wanted = flat(run_form(case, here[case.id][name]).meta_grad)
                size = np.max(np.abs(wanted))
                if not np.isfinite(wanted).all() or np.max(np.abs(wanted - right[case.id])) <= 1e-11 * size:
                    continue
                got = made.mine(dataclasses.replace(case, handed_out=[]))["meta_grad"]
                got = np.concatenate([np.zeros(p.size) if got[n] is None else np.ravel(np.asarray(got[n]))
                                      for n, p in case.params.items()])  # fmt: skip
                # a softplus of −600 leaves next to nothing
                assert np.max(np.abs(got - wanted)) <= 1e-9 * size + 1e-200, (name, made.way, case.id)
                seen += 1
                if seen == most:
                    break
            checked += seen
            blind += [] if seen else [name]
    assert blind == [] and checked > 250 * most / every


@pytest.mark.parametrize("count", [15, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("algorithm", ["maml", *family.ALGORITHMS])
def test_two_forms_at_once_are_computed_or_make_no_sense(algorithm, count):
    """A search for pairs passes over whatever is raised; here, what makes no sense is told from a fault."""
    cases = sorted(oracle.load("core", algorithm=algorithm), key=match.cost)[:6]
    source, possible = np.random.default_rng(0), {case.id: list(forms(case).values()) for case in cases}
    computed = 0
    while computed < count:
        case = cases[source.integers(len(cases))]
        a, b = source.choice(len(possible[case.id]), 2, replace=False)
        both = match.combined(possible[case.id][a], possible[case.id][b])
        if both is not None:
            computed += 1
            with np.errstate(all="ignore"), contextlib.suppress(ArithmeticError, LookupError, ValueError):
                run_form(case, both)


def test_statistics_of_all_tasks_are_of_whole_sets():
    (case,) = (c for c in oracle.load("core") if c.id == "batch-norm")
    with pytest.raises(ValueError, match="wanted whole sets"):
        run(case, normalised_together="both", data="query loss of both sets")


@FEW_FORMS
@pytest.mark.parametrize(("share", "verdict", "said"), [
    (1.0, "IMPRECISE", "; all else is right"), (0.5, "KNOWN_BUG", "your meta-loss is not the one of this"),
])  # fmt: skip
def test_all_else_is_right_only_if_the_meta_loss_is(share, verdict, said, few_forms):
    """A library kept α in float32, and divided its loss by T twice."""
    few_forms("rate_rounded")
    form = {"rounded": "rate to float32"}

    def mine(case):
        result = run_form(case, form)
        return {"meta_grad": result.meta_grad, "meta_loss": result.meta_loss * share}

    report = oracle.check(mine, oracle.load("core"), cases=("tanh", "softplus", "logistic"))
    assert (report.verdict, report.bug) == (verdict, "rate_rounded") and said in report.explanation


def test_the_meta_loss_is_compared_by_the_number_that_was_found(few_forms):
    few_forms("sharp_norm_epsilon")

    def mine(case):
        result = run_form(case, {"norm's epsilon": 10.0})  # which is far from the usual ones
        return {"meta_grad": result.meta_grad, "meta_loss": result.meta_loss}

    report = oracle.check(mine, oracle.load("core", algorithm="sharp"))
    assert (report.verdict, report.bug) == ("IMPRECISE", "sharp_norm_epsilon") and "(here ε = 10)" in report.explanation


@FEW_FORMS
def test_all_else_is_not_right_where_all_is_multiplied(few_forms):
    few_forms("rate_rounded")

    def mine(case):
        grads = run_form(case, {"rounded": "rate to float32"}).meta_grad
        return {"meta_grad": {n: g * case.tasks for n, g in grads.items()}}

    report = oracle.check(mine, oracle.load("core"), cases=("tanh", "softplus", "logistic"))
    assert report.bug == "rate_rounded" and report.factor == "T" and "all else is right" not in report.explanation
