"""The oracle: right implementations pass, every mistake gets its name, and nothing passes that is a little wrong."""

import copy
import dataclasses
import functools
import importlib.util
import json
import re
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinymaml as tm
from tinymaml import oracle
from tinymaml.oracle import cases, diagnosis, models, questions, references, tolerance
from tinymaml.oracle.catalogue import CATALOGUE, OF_MAML, flat, forms, list_bugs, run_form
from tinymaml.oracle.clues import difference, match, pairs, precision
from tinymaml.oracle.clues.match import combined
from tinymaml.oracle.diagnosis import diagnose
from tinymaml.oracle.generate import by_hand
from tinymaml.oracle.judge import checking
from tinymaml.oracle.mistakes.mistake import with_number
from tinymaml.oracle.mistakes.semantics import run
from tinymaml.oracle.mistakes.switches import SWITCHES
from tinymaml.oracle.questions import fresh as drawn_anew  # which no fixture keeps

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
have_torch = importlib.util.find_spec("torch") is not None
pytestmark = pytest.mark.usefixtures("confirmed_once", "computed_once")
needs_torch = pytest.mark.skipif(not have_torch, reason="needs torch")
SPECIAL = ("first_order_ignored", "one_rate_for_all", "all_adapted")  # which the core leaves out
EVERYTHING = tuple(cases.CAPABILITIES)


@pytest.fixture(scope="module")
def mistakes():
    """Every mistake made in code."""
    pytest.importorskip("torch")
    from bench.oracle import mistakes

    return mistakes


# Of the core, the cases that see every classic mistake, and tell it from every other one, in least time.
TELLING = ("tied", "batch-norm", "logistic", "relu-at-zero", "pool-tie", "strided-conv", "integers-1")


@pytest.fixture(scope="module", params=["telling", pytest.param("all", marks=pytest.mark.slow)])
def asked(request) -> list:
    """The cases that tell most; or all that `check` asks of the core, with new ones from one seed: a list, so that
    nothing is drawn for each test."""
    core = oracle.load("core")
    return [c for c in core if c.id in TELLING] if request.param == "telling" else core + questions.fresh(0, 2)


@pytest.fixture(scope="module")
def special() -> list:
    """Cases with what the core leaves out."""
    size = {"inner_steps": 2, "tasks": 2, "inner_lr": 0.25}
    drawn = [
        cases.draw("tanh 1-2-1 mse", 0, id="first-order", first_order=True, **size),
        cases.draw("tanh 1-2-1 mse", 0, id="rate-per-parameter", per_parameter=True, **size),
        cases.draw("tanh 1-2-1 mse", 0, id="head", adapt=("w2", "b2"), **size),
        cases.draw("tanh 1-2-1 mse", 0, id="unequal", unequal=True, **size | {"tasks": 3}),
        cases.draw("tanh 1-2-1 mse", 0, id="no-steps", **size | {"inner_steps": 0}),
        cases.draw("unused", 0, id="unused", **size),
    ]
    return [references.solve_case(case) for case in drawn]


def honest(case) -> dict:
    """tinymaml's own, in the case's dtype."""
    loss, params, (support, query) = case.numpy()
    rate = tolerance.rates(case)
    rate = {n: np.asarray(a, case.dtype) for n, a in rate.items()} if isinstance(rate, dict) else rate
    tasks = [((support[0][t], support[1][t]), (query[0][t], query[1][t])) for t in range(case.tasks)]
    meta = tm.meta_value_and_grad(loss, inner_lr=rate, inner_steps=case.inner_steps, first_order=case.first_order)
    value, grads = meta(params, tasks)
    return {"meta_grad": grads, "meta_loss": value}


def formula(form: dict):
    """What a form of a mistake gives, rounded to the case's dtype."""

    def mine(case):
        with np.errstate(all="ignore"):
            result = run_form(case, form)
        return {"meta_grad": {n: np.asarray(g, case.dtype) for n, g in result.meta_grad.items()},
                "meta_loss": np.asarray(result.meta_loss, case.dtype)}  # fmt: skip

    return mine


def changed(by):
    """`honest` with its gradient changed: by(case, {name: array}) → the same."""

    def mine(case):
        answer = honest(case)
        return answer | {"meta_grad": by(case, answer["meta_grad"])}

    return mine


# ── the contract ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_engine_is_correct_on_the_core(dtype):
    report = oracle.check(honest, dtype=dtype, seed=0)
    assert (report.verdict, report.bug, report.exit_code) == ("CORRECT", None, 0), str(report)
    assert report.suite == "core" and report.dtype == dtype
    assert len(report.cases) >= 12 and all(c.passed and c.error <= 5 for c in report.cases)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_engine_is_correct_on_new_cases_that_no_file_holds(dtype):
    report = oracle.check(honest, "fresh", dtype=dtype)
    assert report.verdict == "CORRECT" and len(report.cases) == questions.FRESH


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_engine_is_correct_on_the_full_suite(dtype):
    if not (cases.VECTORS / "full.json").exists():
        pytest.skip("the full suite is not there")
    report = oracle.check(honest, "full", dtype=dtype, capabilities=EVERYTHING)
    assert report.verdict == "CORRECT", str(report)
    assert len(report.cases) > (300 if dtype == "float64" else 100)


def test_new_cases_depend_on_the_seed_alone():
    one, same, other = (drawn_anew(seed, 1)[0] for seed in (7, 7, 23))  # the kinds come in turn, sixteen of them
    assert one.id == same.id and np.array_equal(flat(one.params), flat(same.params)) and one.inner_lr == same.inner_lr
    assert one.model == other.model and not np.array_equal(flat(one.params), flat(other.params))


def test_what_is_left_out_is_skipped_and_counted(asked, special):
    report = oracle.check(honest, asked + special)
    assert report.verdict == "CORRECT"
    needy = [c for c in asked + special if c.needs]
    assert sorted(report.skipped) == sorted(cases.CAPABILITIES) and sum(report.skipped.values()) == len(needy)
    whole = oracle.check(honest, asked + special, capabilities=EVERYTHING)
    assert whole.verdict == "CORRECT" and not whole.skipped and len(whole.cases) == len(asked + special)


def test_nothing_left_to_ask_is_skipped(special):
    report = oracle.check(honest, special)
    assert report.verdict == "SKIPPED" and report.exit_code != 0


def test_cases_that_are_blind_prove_nothing(special):
    blind = [c for c in special if c.id == "no-steps"]
    report = oracle.check(honest, blind, capabilities=EVERYTHING)
    assert report.verdict == "INCONCLUSIVE" and "fomaml" in report.explanation and report.exit_code != 0
    alone = oracle.check(lambda case: {"meta_grad": honest(case)["meta_grad"]}, blind, capabilities=EVERYTHING)
    assert alone.verdict == "INCONCLUSIVE" and not alone.location  # nothing is wrong anywhere, and there is no loss


def as_lists(grads):
    return tuple(g.tolist() for g in grads.values())


@pytest.mark.parametrize("as_given", [dict, lambda grads: list(grads.values()), as_lists])
def test_gradients_may_come_as_dict_list_or_nested_lists(asked, as_given):
    assert oracle.check(changed(lambda case, g: as_given(g)), asked).verdict == "CORRECT"


def test_a_gradient_of_none_is_zero(special):
    case = [c for c in special if c.id == "unused"]
    mine = changed(lambda case, g: g | {"unused": None})
    report = oracle.check(mine, case, capabilities=EVERYTHING)
    assert report.cases[0].passed and any("None" in note for note in report.notes)


@pytest.mark.parametrize("unknown", [{"suite": "small"}, {"dtype": "float16"}, {"capabilities": ["everything"]}])
def test_unknown_arguments_are_named(unknown):
    with pytest.raises(ValueError, match="small|float16|everything"):
        oracle.check(honest, **unknown)


def test_the_pieces_a_case_hands_out():
    case = oracle.load("core")[0]
    loss, params, ((xs, ys), (xq, yq)) = case.numpy()
    assert list(params) == list(case.params) and len(xs) == len(yq) == case.tasks
    assert np.isclose(loss(params, xs[0], ys[0]), models.loss_and_grad(case.model, params, xs[0], ys[0])[0], rtol=1e-14)
    assert case.with_dtype("float32").numpy()[1]["w1"].dtype == np.float32


@needs_torch
def test_the_same_in_pytorch(asked, mistakes):
    for dtype in tolerance.UNIT:
        report = oracle.check(mistakes.called(mistakes.MAML), asked, dtype=dtype)
        assert report.verdict == "CORRECT", str(report)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs jax")
def test_the_same_in_jax(asked):
    def mine(case):
        value, grads = references.by_jax(case)
        return {"meta_grad": grads, "meta_loss": value}

    assert oracle.check(mine, asked).verdict == "CORRECT"


def test_a_report_as_text_and_as_json(asked, few_forms):
    report = oracle.check(formula({"factors": "detached"}), asked)
    assert str(report).startswith("KNOWN_BUG  fomaml") and "create_graph=True" in str(report) and "JAX" in str(report)
    data = json.loads(report.to_json())
    assert data["verdict"] == "KNOWN_BUG" and data["bug"] == "fomaml"
    assert len(data["cases"]) == sum(not c.needs for c in asked)
    assert "\n" not in report.to_json()


def test_the_catalogue_is_complete():
    assert len([m for m in CATALOGUE.values() if not m.convention]) >= 35
    assert all(m.torch and m.jax and m.explanation and m.computes for m in CATALOGUE.values())
    assert all(name in list_bugs() for name in CATALOGUE)
    used = {(k, v) for m in OF_MAML.values() for form in m.forms for k, v in form.items() if k in SWITCHES}
    unused = {(k, v) for k, values in SWITCHES.items() for v in values[1:]} - used
    assert not unused


@pytest.mark.slow
def test_the_core_tells_every_two_mistakes_apart():
    """Clearly, and not only beyond rounding, as `test_oracle_vectors` sees to: for every two forms of classic mistakes
    there is a case in which they differ, and one that sees each."""
    core = oracle.load("core")
    names = [n for n in forms(core[0]) if n not in SPECIAL and CATALOGUE[n.split("/")[0]].classic]
    assert all(any(n in c.answer.bugs for c in core) for n in names)

    def in_units(name):
        return np.concatenate([flat(c.answer.bugs.get(name) or c.answer.meta_grad)
                               / np.max(np.abs(flat(c.answer.meta_grad))) for c in core])  # fmt: skip

    values = {n: in_units(n) for n in names}
    for i, a in enumerate(names):
        for b in names[:i]:
            apart = np.max(np.abs(values[a] - values[b]))
            assert apart > 1e-4 or a.split("/")[0] == b.split("/")[0], f"{a} and {b} are the same in every case"


# ── every mistake by its name ───────────────────────────────────────────────────────────────────────────────────────

FORMS = [(m.id, i) for m in OF_MAML.values() if m.classic for i in range(len(m.forms))]


def expect(report, id):
    wanted = "CORRECT_OTHER_CONVENTION" if CATALOGUE[id].convention else "KNOWN_BUG"
    assert (report.verdict, report.bug, report.ties) == (wanted, id, []), f"{id}: {report}"


@pytest.mark.parametrize(("id", "form"), [
    pytest.param(id, i, id=f"{id}-{i}", marks=pytest.mark.slow if i else ()) for id, i in FORMS
])  # fmt: skip
def test_every_mistake_by_its_name(asked, special, few_forms, id, form):
    """That it is no other one of the whole catalogue, either, is in `test_oracle_further`."""
    these = asked + special if id in SPECIAL else asked
    mine = formula(CATALOGUE[id].forms[form])
    blind = lambda case: {"meta_grad": mine(case)["meta_grad"]}  # noqa: E731
    expect(oracle.check(blind, these, capabilities=EVERYTHING), id)


@pytest.mark.parametrize(("id", "form"), [
    pytest.param(id, i, id=f"{id}-{i}", marks=pytest.mark.slow if n % 8 else ()) for n, (id, i) in enumerate(FORMS)
])  # fmt: skip
def test_mistakes_by_their_names_in_float32(asked, few_forms, id, form):
    if id not in SPECIAL:
        mine = formula(CATALOGUE[id].forms[form])
        expect(oracle.check(lambda case: {"meta_grad": mine(case)["meta_grad"]}, asked, dtype="float32"), id)


MADE_IN_CODE = ("fomaml", "zero_gradient", "stale_gradient", "restarted_steps", "last_step_detached",
                "reversed_product", "gauss_newton", "batch_norm_frozen", "pool_frozen", "task_leak", "inplace_update",
                "same_parameters",
                "gradients_accumulated", "clipped_gradient", "tied_weight_once", "alpha_times_n",
                "relu_slope_one_at_zero", "relu_slope_half_at_zero", "pool_tie_last", "pool_tie_split",
                "unbiased_variance")  # fmt: skip


@needs_torch
@pytest.mark.parametrize("id", MADE_IN_CODE)
def test_mistakes_made_in_code(asked, few_forms, mistakes, id):
    """The whole list is `python -m bench.oracle matrix`."""
    for made in mistakes.MADE[id]:
        expect(oracle.check(made.mine, asked), id)


@needs_torch
@pytest.mark.parametrize("id", SPECIAL)
def test_mistakes_that_need_a_special_case(asked, special, few_forms, mistakes, id):
    for made in mistakes.MADE[id]:
        expect(oracle.check(made.mine, asked + special, capabilities=EVERYTHING), id)
        assert oracle.check(made.mine, asked).verdict == "CORRECT"  # the plain cases cannot see it


def test_a_sum_over_tasks_is_a_convention_if_the_loss_is_summed_too(asked, few_forms):
    def mine(case, loss):
        answer = honest(case)
        return {"meta_grad": {n: g * case.tasks for n, g in answer["meta_grad"].items()}} | loss(case, answer)

    summed = oracle.check(lambda c: mine(c, lambda c, a: {"meta_loss": a["meta_loss"] * c.tasks}), asked)
    assert (summed.verdict, summed.bug) == ("CORRECT_OTHER_CONVENTION", "sum_over_tasks")
    expect(oracle.check(lambda c: mine(c, lambda c, a: {"meta_loss": a["meta_loss"]}), asked), "sum_over_tasks")
    expect(oracle.check(lambda c: mine(c, lambda c, a: {}), asked), "sum_over_tasks")


@needs_torch
@pytest.mark.parametrize("key", [lambda case: case.id, lambda case: str({n: p.shape for n, p in case.params.items()})],
                         ids=["a module for each case", "a module for each shape"])  # fmt: skip
def test_gradients_that_are_never_zeroed(mistakes, key):
    expect(oracle.check(mistakes.NotZeroed(key), oracle.load("core")), "gradients_not_zeroed")


def of_core(*ids: str) -> list:
    return [case for case in oracle.load("core") if case.id in ids]


def test_a_mistake_that_is_badly_conditioned_is_named_by_what_roundings_make_of_it(few_forms):
    few_forms("rmsprop_inside")
    form, asked = CATALOGUE["rmsprop_inside"].forms[0], of_core("long", "strided-conv", "tanh")
    roundings = lambda case: formula(form)(case.nearby(2.0**-51, data=True))["meta_grad"]  # noqa: E731
    report = oracle.check(lambda case: {"meta_grad": roundings(case)}, asked)
    expect(report, "rmsprop_inside")
    assert "digits" not in report.explanation
    apart = changed(lambda case, _: {n: g * (1 + 1e-9) for n, g in roundings(case).items()})
    assert match.known(judged(of_core("tanh"), apart)[0]) is None  # as far, where it is well conditioned


def test_what_roundings_make_of_a_mistake_is_no_evidence_where_other_answers_contradict_it(few_forms):
    """A small part in float32, in one case: 10⁻⁸ is what roundings make of differences, too."""
    few_forms("hessian_by_differences")
    rough = lambda case, g: {n: x * (1 + 3e-8 * np.cos(9 * x)) if case.id == "tanh" else x for n, x in g.items()}  # noqa: E731
    report = oracle.check(changed(rough), of_core("tanh", "tied", "square"))
    assert (report.verdict, report.bug) == ("IMPRECISE", None), str(report)


@pytest.mark.parametrize("size", [1e-11, 1e-9])
def test_a_small_error_in_every_case_is_no_difference_with_a_small_step(few_forms, size):
    """It is within what roundings make of one, and as near to what is right."""
    few_forms("hessian_by_differences")
    other = lambda case, g: {n: x * (1 + size * np.cos(9 * x)) for n, x in g.items()}  # noqa: E731
    report = oracle.check(changed(other), of_core("tanh", "tied", "quadratic"))
    assert report.bug is None and "smoothly" in report.explanation, str(report)
    assert ("float32" in report.explanation) == (size == 1e-9)  # which a constant of float32 makes


@pytest.mark.parametrize(("form", "said"), [("one-sided", "(here one-sided, h = "), ("central", "with a tiny step")])
def test_differences_with_a_small_step_are_said_where_they_can_be_told(few_forms, form, said):
    """The error of a central one is roundings alone."""
    few_forms("hessian_by_differences")
    form = {"difference": 1e-6, "difference_like": form}
    mine = lambda case: formula(form)(case.nearby(2.0**-51, data=True))  # noqa: E731  (as other code rounds)
    report = oracle.check(mine, of_core("tanh", "tied", "softmax"))
    assert said in report.explanation and "float32" not in report.explanation, str(report)


def test_a_mistake_that_does_not_show_explains_no_wrong_answer(few_forms):
    """100 roundings are too many to be right, and few enough to be taken for the numbers of a mistake."""

    asked = of_core("tied", "square")
    wrong = {c.id: {n: g + 100 * 2.0**-53 * c.answer.scale[n] for n, g in c.answer.meta_grad.items()} for c in asked}
    report = match.known(judged(asked, lambda case: {"meta_grad": wrong.get(case.id)})[0])
    assert report is None, str(report)


def test_a_mistake_that_diverges_in_a_case_is_named_by_the_others(few_forms):
    few_forms("proximal_term")
    report = oracle.check(formula({"proximal": 1.0}), of_core("tanh", "long", "tied"))
    expect(report, "proximal_term")
    assert any("case long: meta_grad['theta'][] is nan, as this mistake makes it" in note for note in report.notes)
    assert report.evidence.case.id == "tied" and not next(row for row in report.cases if row.id == "long").passed
    less = oracle.check(formula({"proximal": 0.7}), of_core("tanh", "long", "tied"))
    assert (less.bug, less.numbers) == ("proximal_term", {"λ": 0.7}), str(less)


def test_one_without_a_number_is_named_too(few_forms):
    few_forms("inputs_standardised")
    report = oracle.check(formula({"data": "inputs scaled to 0 … 1"}), of_core("tanh", "long", "tied"))
    expect(report, "inputs_standardised")
    assert not next(row for row in report.cases if row.id == "long").passed


def test_what_is_not_finite_where_the_mistake_is_has_no_name(few_forms):
    def mine(case):
        grads = formula({"factors": "detached"})(case)["meta_grad"]
        return {"meta_grad": {n: g * np.nan if case.id == "long" else g for n, g in grads.items()}}

    report = oracle.check(mine, of_core("tanh", "long", "tied"))
    assert (report.verdict, report.bug) == ("PROTOCOL_ERROR", None) and "is nan" in report.explanation


# ── factors, pairs ──────────────────────────────────────────────────────────────────────────────────────────────────


FACTORS = {
    "1/T": (lambda c: 1 / c.tasks, "1/T times"), "N": (lambda c: len(c.support[0][0]), "N times"),
    "a number": (lambda c: 0.375, r"0\.375 times"), "1/α": (lambda c: 1 / c.inner_lr, "1/α times"),
    "nearly 1": (lambda c: 1 + 1e-6, "1.000001 times"),
}  # fmt: skip


@pytest.mark.parametrize(("factor", "said"), FACTORS.values(), ids=FACTORS)
def test_the_factor_that_is_found(asked, factor, said):
    """By the part that looks for one, without the search for a known mistake, which comes first."""
    mine = changed(lambda case, g: {n: np.asarray(x) * factor(case) for n, x in g.items()})
    report = match.scaled(judged(asked, mine)[0])
    assert report.verdict == "WRONG_UNKNOWN" and re.search(said, report.explanation), str(report)


@pytest.mark.parametrize(("factor", "said"), [
    pytest.param(*case, marks=() if name == "a number" else pytest.mark.slow) for name, case in FACTORS.items()
], ids=FACTORS)  # fmt: skip
def test_a_factor_is_named(asked, few_forms, factor, said):
    mine = changed(lambda case, g: {n: np.asarray(x) * factor(case) for n, x in g.items()})
    report = oracle.check(mine, asked)
    assert report.verdict in ("WRONG_UNKNOWN", "KNOWN_BUG", "IMPRECISE") and not report.verdict.startswith("CORRECT")
    if report.verdict == "WRONG_UNKNOWN":
        assert re.search(said, report.explanation), str(report)


def test_a_mistake_times_a_factor(asked, few_forms):
    def mine(case):
        return {"meta_grad": {n: 2 * g for n, g in formula({"factors": "detached"})(case)["meta_grad"].items()}}

    report = oracle.check(mine, asked)
    assert (report.verdict, report.bug) == ("KNOWN_BUG", "fomaml") and "multiplied by 2" in report.explanation


def both(a: dict, b: dict):
    """A candidate that makes two mistakes, each where it concerns the case; forms by name."""

    def mine(case):
        here = [form for name, form in (a | b).items() if name in forms(case)]
        return formula(combined(*here) if len(here) > 1 else here[0] if here else {})(case)

    return mine


@pytest.mark.parametrize(("a", "b"), [
    pytest.param("alpha_times_n", "query_is_support", marks=pytest.mark.slow), ("one_step_more", "unbiased_variance"),
    pytest.param("iterates_averaged", "rectifier_for_tanh", marks=pytest.mark.slow),
    ("query_before_and_after", "gradient_centralised"),
])  # fmt: skip
def test_two_at_once_are_both_named(asked, few_forms, a, b):
    few_forms(a, b)
    form_of = {name: form for case in asked for name, form in forms(case).items()}
    report = oracle.check(both({a: form_of[a]}, {b: form_of[b]}), asked)
    assert report.verdict == "KNOWN_BUG" and set(report.bug.split(" + ")) == {a, b}


@pytest.mark.slow
def test_a_number_beside_another_mistake(asked):
    """The number is found on cases in which the other mistake does not show."""
    report = oracle.check(
        both({"inner_weight_decay": {"decay": 0.03}}, {"unbiased_variance": {"how": {"unbiased": True}}}), asked
    )
    assert set(report.bug.split(" + ")) == {"inner_weight_decay", "unbiased_variance"}
    assert report.numbers == {"λ": pytest.approx(0.03)}


def test_a_number_that_is_a_size_of_each_case(asked, few_forms):
    few_forms("alpha_of_first_step")

    def mine(case):
        return formula({"rate_first": 1 / case.tasks} if case.tasks > 1 else {})(case)

    report = oracle.check(mine, asked)
    assert (report.bug, report.numbers) == ("alpha_of_first_step", {"c": "1/T"})
    assert "here c = 1/T: T is the number of tasks" in report.explanation and "c = 1/T" in str(report)


def test_two_that_set_the_same_switch_each_in_other_cases(asked, few_forms):
    """One loss is of classes, the other of numbers: no case has both."""
    ids = ("softmax_over_examples", "root_of_squared_error")
    few_forms(*ids)
    by_name = {name: form for case in asked for name, form in forms(case).items() if name in ids}
    report = oracle.check(lambda case: formula(next((by_name[n] for n in ids if n in forms(case)), {}))(case), asked)
    assert report.bug and set(report.bug.split(" + ")) == set(ids), str(report)


def test_a_penalty_beside_another_mistake(asked, few_forms):
    """Both show in every case; what is left of the answer beside the other mistake is a multiple of θ."""
    few_forms("outer_weight_decay", "implicit_steps")
    mine = formula({"product": "implicit steps", "outer_decay": 0.03})
    report = oracle.check(mine, asked)
    assert (report.bug, report.numbers) == ("outer_weight_decay + implicit_steps", {"λ": 0.03})


@pytest.mark.parametrize(("form", "names", "number"), [
    ({"product": "implicit steps", "outer_decay": 0.03}, {"implicit_steps", "outer_weight_decay"}, 0.03),
    ({"inner": "ascent", "outer_times": 0.3, "outer_times_of": "biases"},
     {"inner_ascent", "gradient_of_group_scaled"}, 0.3),
], ids=["a penalty", "a part is scaled"])  # fmt: skip
def test_what_is_left_beside_a_mistake_is_a_penalty_or_a_part(few_forms, form, names, number):
    few_forms(*names)
    these = [c for c in oracle.load("core") if c.id in ("tanh", "logistic")]
    with np.errstate(all="ignore"):
        search = pairs.Search(judged(these, formula(form))[0])
        found = [pair for fit in search.what_is_left() for pair in fit if search.explained(pair)]
    assert names in [{half.mistake.id for half in pair} for pair in found]
    assert found[0][1].number == pytest.approx(number)


# Two forms, and their numbers: each pair for one of the ways in which `clues.pairs` looks for it.
PLANTED = {
    "each in other models": ({"positive_weight": 10.0}, {"absolute_error": None}),
    "a place beside images": ({"one_tensor_detached": 2}, {"images_transposed": None}),
    "both in one layer, ε is small": ({"batch_norm_epsilon/1": 1e-6}, {"one_forward_for_both/2": None}),
    "both in every case": ({"steps_in_some_tasks/7": None}, {"inner_pass_of_start/4": None}),
    "two layers that are held": ({"activation_frozen": None}, {"softmax_frozen": None}),
    "a part is scaled": ({"query_in_inner_loop": None}, {"gradient_of_group_scaled": 0.3}),
}


def planted(cases, *halves: dict):
    """A candidate that makes mistakes by the names of their forms, with numbers."""
    named = {name: form for case in cases for name, form in forms(case).items()}
    numbers = {name: c for half in halves for name, c in half.items()}
    made = {name: named[name] if c is None else with_number(named[name], CATALOGUE[name.split("/")[0]].free, c)
            for name, c in numbers.items()}  # fmt: skip
    a, b = ({name: made[name] for name in half} for half in halves)
    return both(a, b)


def off_by_little(cases, mine):
    """The answers of `mine`, but for the eighth digit of one wrong case."""
    wrong = max((j for j in judged(cases, mine)[0] if not j.passed), key=lambda j: len(flat(j.answer.grad))).case.id

    def other(case):
        grads = mine(case)["meta_grad"]
        return {"meta_grad": {n: np.asarray(g) * (1 + 1e-8 * (case.id == wrong)) for n, g in grads.items()}}

    return other


def two_of(cases, mine):
    """What the search for two at once finds, as a diagnosis asks it."""
    with np.errstate(all="ignore"):  # what a mistake gives may overflow
        return pairs.two(judged(cases, mine)[0])


@pytest.mark.parametrize("id", [
    pytest.param(id, marks=pytest.mark.slow if i else ()) for i, id in enumerate(PLANTED)])  # fmt: skip
def test_two_are_found_and_no_pair_that_is_next_to_right(asked, few_forms, id):
    wanted = {name.split("/")[0]: c for half in PLANTED[id] for name, c in half.items()}
    few_forms(*wanted)
    mine = planted(asked, *PLANTED[id])
    report = two_of(asked, mine)
    assert report and set(report.bug.split(" + ")) == wanted.keys() and report.verdict == "KNOWN_BUG", report
    assert list(report.numbers.values()) == pytest.approx([c for c in wanted.values() if c is not None])
    assert two_of(asked, off_by_little(asked, mine)) is None


@pytest.mark.parametrize("ids", [
    ("integers-1", "integers-2"), pytest.param(("integers-1", "relu-at-zero"), marks=pytest.mark.slow)
], ids=["one layer", "two layers"])  # fmt: skip
def test_of_all_mistakes_none_fits_what_is_unknown(ids):
    """With no number, and times no size, though a search for one goes through the whole catalogue."""
    found, _, _ = judged(of_core(*ids), changed(lambda case, g: {n: x + 0.3 * np.sin(x) for n, x in g.items()}))
    with np.errstate(all="ignore"):
        assert match.known(found) is match.one_times_a_size(found) is match.partly_known(found) is None
        assert match.with_a_number(found) == (None, None) and match.roughly(found) is None


def test_a_pair_that_says_more_than_is_needed_is_no_tie(asked, few_forms):
    """Some forms of many mistakes are first-order MAML too, and do nothing else in these cases."""
    few_forms("fomaml", "last_parameter_missing")
    mine = planted(asked, {"fomaml": None}, {"last_parameter_missing": None})
    report = two_of(asked, mine)
    assert (report.bug, report.ties) == ("fomaml + last_parameter_missing", [])


def test_a_mistake_that_rounds_explains_its_own_numbers_alone(few_forms):
    """They jump where θ is moved by a rounding, and that says nothing of how far off an answer may be."""
    few_forms("everything_rounded", "data_rounded", "leaky_relu")
    mine = lambda case: formula(forms(case).get("leaky_relu", {}))(case)  # noqa: E731
    report = oracle.check(mine, oracle.load("core"), dtype="float32")
    assert (report.bug, report.ties) == ("leaky_relu", [])


def test_one_number_is_no_proof_of_a_number():
    """Every form with a free number meets an answer of one number, if that is solved for."""
    case = next(c for c in oracle.load("core") if c.id == "quartic")
    mine = lambda case: {"meta_grad": {n: 1.234 * g for n, g in honest(case)["meta_grad"].items()}}  # noqa: E731
    search = pairs.Search([j for j in judged([case], mine)[0] if j.case.id == case.id])
    assert search.wrong and not search.solved_alone()
    assert not list(search.what_is_left()) and not list(search.numbers_beside())


@pytest.mark.parametrize(("digits", "number"), [(6, 0.9), pytest.param(5, 0.5, marks=pytest.mark.slow)])
def test_a_mistake_that_is_computed_with_few_digits(asked, few_forms, digits, number):
    """No value is met to rounding; the mistake is named if it explains far more than what is right does."""
    few_forms("inner_momentum")

    def mine(case):
        grads = formula({"momentum": number})(case)["meta_grad"]
        size = max(np.max(np.abs(g)) for g in grads.values())
        return {"meta_grad": {n: g + size * 10.0**-digits * np.sin(1e3 * g) for n, g in grads.items()}}

    report = oracle.check(mine, asked)
    assert (report.bug, report.numbers) == ("inner_momentum", {"μ": number})
    assert f"{digits} digits agree with that" in report.explanation


@pytest.mark.parametrize(("form", "off", "bug"), [
    ({"result": "negative"}, 1e-6, "negated_gradient"), ({"result": "negative"}, 5e-3, None), ({}, 1e-4, None),
], ids=["digits are missing", "too many are", "right is as near"])  # fmt: skip
def test_a_mistake_is_met_roughly_or_not_at_all(few_forms, form, off, bug):
    these = [c for c in oracle.load("core") if c.id in ("tied", "logistic")]

    def mine(case):
        grads = formula(form)(case)["meta_grad"]
        size = max(np.max(np.abs(g)) for g in grads.values())
        return {"meta_grad": {n: g + size * off * np.sin(1e3 * g) for n, g in grads.items()}}

    with np.errstate(all="ignore"):
        report = match.roughly(judged(these, mine)[0])
    assert report.bug == bug if bug else report is None


def test_what_is_next_to_no_mistake_is_not_called_one(asked, few_forms):
    def mine(case):
        grads = formula({"hessian_times": 2.0})(case)["meta_grad"]
        return {"meta_grad": {n: g * (1 + 0.01 * np.sin(np.arange(g.size)).reshape(g.shape)) for n, g in grads.items()}}

    assert not oracle.check(mine, asked).bug


def test_forms_that_contradict_each_other_do_not_merge():
    assert combined({"inner": "stale"}, {"inner": "ascent"}) is None
    assert combined({"how": {"unit": 0.5}}, {"how": {"unbiased": True}}) == {"how": {"unit": 0.5, "unbiased": True}}


def test_layers_that_are_held_constant_add_up():
    held = [{"how": {"frozen": names}} for names in (("loss",), ("tanh",), ("loss", "tanh"))]
    assert combined(held[0], held[1]) == held[2] == combined(held[0], held[2])


# ── what the catalogue does not have ────────────────────────────────────────────────────────────────────────────────

STRANGERS = ["the query loss is squared", "the first row of each inner gradient is 0", "batch norm's mean is detached",
             "g + g³ in the inner step", "a square gradient is returned transposed",
             "two gradients of one shape are exchanged", "Hessian-vector products by differences with h = 1e-6",
             "label smoothing, and no create_graph where there are labels"]  # fmt: skip


@pytest.mark.slow
@needs_torch
@pytest.mark.parametrize("name", STRANGERS)
def test_unknown_mistakes_get_their_kind_and_place(mistakes, name):
    """On the whole core: of the few cases that tell most, one alone may be wrong, which is also what another mistake
    makes of it. The whole list is in `python -m bench.oracle matrix`."""
    from bench.oracle.matrix import stranger, suite_of

    found = stranger(next(u for u in mistakes.UNKNOWN if u.name == name), suite_of("core", "float64"))
    assert found.right, found


@needs_torch
def test_a_kind_is_not_guessed_without_the_meta_loss(asked, few_forms, mistakes):
    half = next(u for u in mistakes.UNKNOWN if u.name == "the query loss is squared")
    report = oracle.check(lambda case: {"meta_grad": half.mine(case)["meta_grad"]}, asked)
    assert report.verdict == "WRONG_UNKNOWN" and report.kind is None and any("meta_loss" in n for n in report.notes)


def test_noise_in_one_element_of_one_case_is_located(asked, few_forms):
    def mine(case):
        answer = honest(case)
        grads = {n: np.array(g) for n, g in answer["meta_grad"].items()}
        if case.id == "integers-1":
            grads["w"][1, 0] += 1e-3 * abs(grads["w"][1, 0])
        return {"meta_grad": grads}

    report = oracle.check(mine, asked)
    assert not report.verdict.startswith("CORRECT") and "case integers-1, w[1, 0]" in report.location


def judged(asked, mine) -> tuple:
    """What the parts of a diagnosis are given: the answers beside the cases', the questions, and the answers."""
    questions_, _ = questions.questions(asked)
    answers = {q.id: questions.read_answer(q.case, mine(q.case)) for q in questions_}
    return [diagnosis.judge(q.case, answers[q.id]) for q in questions_ if q.role == "case"], questions_, answers


WRONG_PLACES = pytest.mark.parametrize(("change", "said"), [
    (lambda g: g | {n: np.zeros_like(g[n]) for n in ("w1", "b1") if n in g}, "w1 is 0"),
    (lambda g: g | {"b1": -np.asarray(g["b1"])} if "b1" in g else g, "b1 has the wrong sign"),
    (lambda g: g | {"w1": 2 * np.asarray(g["w1"])} if "w1" in g else g, "w1 is doubled"),
    (lambda g: g | {"w1": np.asarray(g["w1"])[::-1, ::-1]} if "w1" in g else g, "w1 is (reversed|transposed)"),
], ids=["zero", "sign", "doubled", "reversed"])  # fmt: skip


@WRONG_PLACES
def test_what_is_said_of_right_numbers_in_wrong_places(asked, few_forms, change, said):
    """By the part that describes what no known mistake explains, without the search for such a mistake."""
    report = diagnosis._unknown(*judged(asked, changed(lambda case, g: change(g))))
    assert re.search(said, report.explanation), str(report)


@pytest.mark.slow
@WRONG_PLACES
def test_right_numbers_in_wrong_places(asked, change, said):
    report = oracle.check(changed(lambda case, g: change(g)), asked)
    assert report.verdict == "WRONG_UNKNOWN"
    assert re.search(said, report.explanation), str(report)


def trace_of(case) -> list:
    keep = ("theta", "loss_s", "grad_s", "loss_q", "grad_q")
    return [{k: copy.deepcopy(way[k]) for k in keep} for way in run(case).trace]


def spoil_second_step(trace):
    name = next(iter(trace[0]["grad_s"][-1]))
    trace[0]["grad_s"][-1][name] = trace[0]["grad_s"][-1][name] * 1.5


@pytest.mark.parametrize(("spoil", "first"), [
    (lambda trace: None, ""),
    (spoil_second_step, "grad_s of inner step"),
    (lambda trace: trace[0].update(loss_q=0.0), "loss_q"),
    (lambda trace: trace.pop(), "the trace has"),
    (lambda trace: trace[0].pop("theta"), ""),
    (lambda trace: trace[0].update(loss_s="none"), "loss_s"),
], ids=["right", "a gradient", "the query loss", "a task missing", "a part left out", "not numbers"])  # fmt: skip
def test_the_first_wrong_quantity_of_a_trace(asked, spoil, first):
    def mine(case):
        trace = trace_of(case)
        spoil(trace)
        return honest(case) | {"trace": trace}

    report = oracle.check(mine, asked)
    assert report.verdict == ("WRONG_UNKNOWN" if first else "CORRECT") and first in report.location


def test_an_answer_that_was_kept_is_said_if_it_explains_all_that_is_wrong():
    core = {case.id: case.answer.meta_grad for case in oracle.load("core")}

    def said(changed: dict) -> str:
        these, asked, _ = judged(oracle.load("core"), lambda case: {"meta_grad": (core | changed).get(case.id)})
        return difference.another_answer(these, asked)

    kept, doubled = {"integers-2": core["integers-1"]}, {"tanh": {n: 2 * g for n, g in core["tanh"].items()}}
    assert said({}) == ""
    assert said(kept).startswith("1 wrong answer is right for another case (integers-1 for integers-2): ")
    assert said(kept | doubled) == ""


# ── precision, randomness, scale ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("digits", [5, *(pytest.param(d, marks=pytest.mark.slow) for d in (7, 9)), 11])
def test_digits_that_are_missing_are_counted(asked, few_forms, digits):
    def rounded(case, g):
        return {n: np.vectorize(lambda v: float(f"{v:.{digits - 1}e}"))(np.asarray(x)) for n, x in g.items()}

    report = oracle.check(changed(rounded), asked)
    assert report.verdict == "IMPRECISE" and digits - 2 < report.digits < digits + 2, str(report)
    assert f"at most {digits} digits" in report.explanation


@pytest.mark.parametrize(("change", "said"), [
    (lambda x: np.round(x, 3), "at most 3 decimals"), (lambda x: np.vectorize(lambda v: float(f"{v:.1e}"))(x),
                                                       "at most 2 digits"),
    (lambda x: np.asarray(x, np.float16), "one of float16"), (lambda x: np.asarray(x, np.float32), "one of float32"),
    (lambda x: x, None), (lambda x: np.round(1.01 * x, 3), None), (lambda x: np.asarray(1.01 * x, np.float32), None),
], ids=["decimals", "digits", "float16", "float32", "right", "wrong decimals", "wrong float32"])  # fmt: skip
def test_numbers_that_were_cut_short_are_right_ones(change, said):
    these = [c for c in oracle.load("core") if c.id in ("tied", "logistic", "tanh")]
    found = precision.shortened(judged(these, changed(lambda case, g: {n: change(x) for n, x in g.items()}))[0])
    assert said in found if said else found == ""


def test_numbers_that_were_cut_short_are_imprecise(few_forms):
    mine = changed(lambda case, g: {n: np.round(x, 1) for n, x in g.items()})
    report = oracle.check(mine, oracle.load("core"), cases=("tied", "logistic"))
    assert report.verdict == "IMPRECISE" and "at most 1 decimals" in report.explanation


def test_float32_inside_float64_is_imprecise(asked, few_forms):
    def mine(case):
        return honest(case.with_dtype("float32"))

    report = oracle.check(mine, asked)
    assert report.verdict == "IMPRECISE" and 5 < report.digits < 9
    assert re.match(r"\d digits agree where float64 has 15: .*float32", report.explanation), report.explanation


def test_an_error_of_a_hundred_roundings_is_refused(asked, few_forms):
    def mine(case):
        answer = honest(case)
        grads = {n: np.array(g) for n, g in answer["meta_grad"].items()}
        scale = next(c for c in asked if c.id == case.id).answer.scale
        name = next(iter(grads))
        grads[name].flat[0] += 100 * 2.0**-53 * scale[name].flat[0]
        return {"meta_grad": grads}

    assert not oracle.check(mine, asked).verdict.startswith("CORRECT")


def test_a_random_answer_is_nondeterministic(asked):
    noise = np.random.default_rng(0)
    mine = changed(lambda case, g: {n: np.asarray(x) * (1 + 1e-6 * noise.normal()) for n, x in g.items()})
    report = oracle.check(mine, asked)
    assert report.verdict == "NONDETERMINISTIC" and "then" in report.explanation


@functools.cache
def tiny(id: str, by: float):
    """A quadratic or polynomial case with its loss times `by` and α over it: every step is what it was."""
    case = next(c for c in oracle.load("core") if c.id == id)
    small = lambda batches: [(x * by, y) for x, y in batches]  # noqa: E731
    case = dataclasses.replace(case, support=small(case.support), query=small(case.query),
                               inner_lr=case.inner_lr / by, outer_lr=case.outer_lr / by, answer=None)  # fmt: skip
    return references.solve_case(case)


@pytest.mark.parametrize("mine", [
    honest, formula({"factors": "detached"}), formula({"hessian_times": -1}), formula({"inner": "ascent"}),
    formula({"result": "doubled"}),
    pytest.param(changed(lambda case, g: {n: np.asarray(x) * (1 + 1e-8) for n, x in g.items()}),
                 marks=pytest.mark.slow),
    pytest.param(changed(lambda case, g: {n: np.asarray(x) + 1e-3 * np.max(np.abs(x)) for n, x in g.items()}),
                 marks=pytest.mark.slow),
], ids=["right", "fomaml", "hessian_sign", "inner_ascent", "doubled", "imprecise", "unknown"])  # fmt: skip
def test_there_is_no_absolute_tolerance(few_forms, mine):
    """A loss 2^-200 times as large gets the same verdict: nothing is near enough only because it is small."""
    plain = [c for c in oracle.load("core") if c.id in ("quadratic", "quartic")]
    small = [tiny(c.id, 2.0**-200) for c in plain]
    assert max(np.max(np.abs(flat(c.answer.meta_grad))) for c in small) < 1e-50
    first, second = oracle.check(mine, plain), oracle.check(mine, small)
    assert (first.verdict, first.bug, first.kind) == (second.verdict, second.bug, second.kind)
    assert [c.passed for c in first.cases] == [c.passed for c in second.cases]


def test_what_nothing_depends_on_must_be_exactly_zero(special):
    case = next(c for c in special if c.id == "unused")
    assert np.all(case.answer.scale["unused"] == 0)
    for value, passed in ((0.0, True), (1e-300, False)):
        mine = changed(lambda case, g, value=value: g | {"unused": np.full(2, value)})
        assert diagnosis.judge(case, questions.read_answer(case, mine(case))).passed == passed


def test_a_planted_error_must_be_refused(asked, monkeypatch):
    """The control that runs before every CORRECT: a diagnosis that lets everything pass is found out."""
    assert oracle.check(honest, asked).verdict == "CORRECT"
    monkeypatch.setattr(checking, "passes", lambda asked, answers: True)
    with pytest.raises(AssertionError, match="planted"):
        oracle.check(honest, asked)


def test_a_diagnosis_with_a_loose_tolerance_is_found_out(asked, monkeypatch):
    planted = 4 * tolerance.TAU
    real = checking.passes

    def loose(asked, answers):
        monkeypatch.setattr(tolerance, "TAU", planted * 2)
        try:
            return real(asked, answers)
        finally:
            monkeypatch.setattr(tolerance, "TAU", planted / 4)

    monkeypatch.setattr(checking, "passes", loose)
    with pytest.raises(AssertionError, match="planted"):
        oracle.check(honest, asked)


def test_a_stored_answer_that_was_changed_is_found_out():
    case = oracle.load("core")[0]
    grads = {n: np.array(g) for n, g in case.answer.meta_grad.items()}
    grads["w1"][0, 0] += 1e-9
    case = dataclasses.replace(case, answer=dataclasses.replace(case.answer, meta_grad=grads))
    with pytest.raises(oracle.Tampered, match=case.id):
        oracle.check(honest, [case])


# ── the references ──────────────────────────────────────────────────────────────────────────────────────────────────

INTEGERS = {  # ½(w·x)², w = (2, 3, 5), x_s = (1, 2, 3), x_q = (4, 5, 6), α = ½: worked out by hand
    ("integers-1", ()): (3780, 8505, 13230),
    ("integers-1", ("factors", "detached")): (-1260, -1575, -1890),
    ("integers-1", ("query", "before adaptation", "factors", "detached")): (212, 265, 318),
    ("integers-1", ("result", "displacement")): (11.5, 23, 34.5),
    ("integers-1", ("hessian_times", -1)): (-6300, -11655, -17010),
    ("integers-1", ("factors", "of query")): (47250, 59062.5, 70875),
    ("integers-1", ("data", "swapped")): (51975, 64350, 76725),
    ("integers-1", ("data", "query is support")): (828, 1656, 2484),
    ("integers-1", ("inner", "summed")): (40262, 83470, 126678),
    ("integers-2", ()): (159012, 312345, 465678),
    ("integers-2", ("factors", "first detached")): (-22716, -51111, -79506),
    ("integers-2", ("factors", "last detached")): (-22716, -51111, -79506),
    ("integers-2", ("inner", "stale")): (19124, 40297, 61470),
}


@pytest.mark.parametrize("which", INTEGERS, ids=lambda which: "-".join((which[0], *map(str, which[1]))))
def test_integers_worked_out_by_hand(which):
    id, form = which
    case = by_hand()[id]
    switches = dict(zip(form[::2], form[1::2], strict=True))
    _, grads = references.exact(case, switches)
    assert [Fraction(x) for x in np.ravel(grads["w"])] == [Fraction(x) for x in INTEGERS[which]]
    assert np.allclose(np.ravel(run_form(case, switches).meta_grad["w"]), np.array(INTEGERS[which], float), rtol=1e-13)


def test_the_quartic_is_exactly_what_was_worked_out():
    case = by_hand()["quartic"]
    assert references.exact(case)[1]["theta"] == Fraction(130152422875, 2**41)
    assert references.exact(case, {"factors": "detached"})[1]["theta"] == Fraction(1408195, 2**21)
    assert references.exact(case, {"hessian_times": -1})[1]["theta"] == Fraction(3909161993755, 2**41)


def test_stored_answers_are_what_rationals_give():
    for case in oracle.load("core"):
        if case.id in ("quartic", "integers-1", "integers-2", "square", "quadratic"):
            value, grads = references.exact(case)
            assert float(value) == case.answer.meta_loss
            assert all(np.array_equal(np.vectorize(float)(g), case.answer.meta_grad[n]) for n, g in grads.items())


@pytest.mark.parametrize("id", ["tanh", "softmax", "relu-at-zero"])
def test_stored_answers_are_what_balls_certify(id):
    pytest.importorskip("flint")
    case = next(c for c in oracle.load("core") if c.id == id)
    value, grads = references.certified(case)
    assert value == case.answer.meta_loss and all(np.array_equal(g, case.answer.meta_grad[n]) for n, g in grads.items())


def test_every_case_was_confirmed_by_three_rungs():
    for case in oracle.load("core"):
        assert len(case.answer.confirmed) >= 3 and "balls" in case.answer.confirmed, case.id


KINDS = ["tanh 2-3-1 mse", "tanh 2-2-3 cross_entropy", "relu 2-3-1 mse", "softplus 2-2-1 binary_cross_entropy",
         "square 2-2-1 mse", "linear 3-2 mse", "polynomial", "quadratic 3", "batch norm 2", "tied 2", "unused",
         "conv tanh pool 2", "conv bn relu 1", "conv bn softplus pool 1", "omniglot"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(seed=st.integers(0, 10**6))
def test_gradients_by_hand_are_the_engines(kind, seed):
    case = cases.draw(kind, seed, shots=5 if kind == "omniglot" else 3)
    library = models.loss_in(models.NumPy(), case.model)
    for x, y in case.support:
        x = x + np.arange(x.size).reshape(x.shape) / 8  # the A of a quadratic is not symmetric then
        value, grads = models.loss_and_grad(case.model, case.params, x, y)
        value_, grads_ = tm.value_and_grad(library)(case.params, x, y)
        assert np.isclose(value, value_, rtol=1e-12)
        assert np.allclose(flat(grads), flat(grads_), rtol=1e-9, atol=1e-12 * np.max(np.abs(flat(grads_))))


@settings(max_examples=40)
@given(kind=st.sampled_from([k for k in KINDS if k not in ("omniglot", "square 2-2-1 mse", "polynomial")]),
       seed=st.integers(0, 10**6), steps=st.integers(0, 3), tasks=st.integers(1, 3), first_order=st.booleans(),
       per_parameter=st.booleans(), unequal=st.booleans())  # fmt: skip
def test_the_formula_is_the_engine(kind, seed, steps, tasks, first_order, per_parameter, unequal):
    """MAML by its formula, complex steps through gradients by hand, beside the engine's reverse over reverse."""
    case = cases.draw(kind, seed, inner_steps=steps, tasks=tasks, inner_lr=0.0625, first_order=first_order,
                      per_parameter=per_parameter, unequal=unequal)  # fmt: skip
    value, grads = tolerance.engine_answer(case)
    result = run(case)
    size = np.max(np.abs(flat(grads)))
    assert np.isclose(result.meta_loss, value, rtol=1e-11)
    assert np.allclose(flat(result.meta_grad), flat(grads), rtol=1e-8, atol=1e-10 * size)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_scales_bound_what_rounding_does(seed):
    """Every input moved by up to one rounding moves the answer by no more than some of its scales."""
    case = cases.draw("tanh 2-2-1 mse", seed)
    loss_scale, scale = tolerance.scales(case)
    value, grads = tolerance.engine_answer(case)
    source, unit = np.random.default_rng(seed), 2.0**-40

    def moved(x):
        return np.asarray(x) * (1 + unit * source.uniform(-1, 1, np.shape(x)))

    near = dataclasses.replace(
        case, params={n: moved(p) for n, p in case.params.items()},
        support=[tuple(map(moved, b)) for b in case.support], query=[tuple(map(moved, b)) for b in case.query],
    )  # fmt: skip
    value_, grads_ = tolerance.engine_answer(near)
    assert tolerance.error(grads_, grads, scale, unit) < 10
    assert abs(value_ - value) < 10 * unit * loss_scale


def test_diagnosis_of_nothing_is_skipped():
    assert diagnose([], {}).verdict == "SKIPPED"


# ── the comparison itself ───────────────────────────────────────────────────────────────────────────────────────────


def test_errors_are_counted_in_roundings():
    u, nothing = 2.0**-53, np.zeros((0, 3))
    got = np.array([1.0, 2.0, 0.0, 0.0, 1e300, np.nan, np.inf])
    right = np.array([1.0, 1.0, 0.0, 1e-300, 0.0, 1.0, 0.0])
    scale = np.array([1.0, 1.0, 0.0, 0.0, 1e-300, 1.0, 1.0])
    wanted = [0, 2.0**53, 0, np.inf, np.inf, np.inf, np.inf]
    np.testing.assert_array_equal(tolerance.errors(got, right, scale, u), wanted)
    assert tolerance.errors(np.float32(0.1), 0.1, 1.0, u) > 1e6  # in float32 they would be the same
    assert tolerance.error({"w": nothing, "b": right}, {"w": nothing, "b": right}, {"w": nothing, "b": scale}, u) == 0
    one, nan = np.ones(2), np.array([1.0, np.nan])
    for got in ({"a": one, "b": nan}, {"a": nan, "b": one}):
        assert tolerance.error(got, {"a": one, "b": one}, {"a": one, "b": one}, u) == np.inf


@pytest.mark.parametrize("change, verdict", [
    (lambda loss: None, "CORRECT"), (lambda loss: loss, "CORRECT"), (lambda loss: loss * (1 + 1e-9), "WRONG_UNKNOWN"),
    (lambda loss: 2 * loss, "WRONG_UNKNOWN"), (lambda loss: 0.0, "WRONG_UNKNOWN"),
])  # fmt: skip
def test_a_right_gradient_with_another_meta_loss(asked, change, verdict):
    def candidate(case):
        loss, params, tasks = case.numpy()
        meta = tm.meta_value_and_grad(loss, inner_lr=case.inner_lr, inner_steps=case.inner_steps)
        value, grads = meta(params, tasks)
        return {"meta_grad": grads, "meta_loss": change(value)}

    report = oracle.check(candidate, asked)
    assert report.verdict == verdict
    if verdict != "CORRECT":
        assert report.kind == "forward differs" and "meta-loss" in report.explanation
