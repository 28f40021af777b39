"""The family: other algorithms than MAML. Honest implementations are accepted, wrong ones refused and named."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from tinymaml.cli import main
from tinymaml.oracle import CATALOGUE, cases, check, family, generate, load, questions, tolerance
from tinymaml.oracle.catalogue import OF_MAML, flat, forms, run_form
from tinymaml.oracle.clues import precision
from tinymaml.oracle.clues.difference import another_answer
from tinymaml.oracle.clues.locate import MATCH, Judged
from tinymaml.oracle.clues.match import excluded, fits, value_of
from tinymaml.oracle.diagnosis import judge, must_see
from tinymaml.oracle.family import ALGORITHMS, suites
from tinymaml.oracle.judge import protocol
from tinymaml.oracle.mistakes.concerns import concerns
from tinymaml.oracle.pages import show, spec
from tinymaml.oracle.questions import fresh as drawn_anew  # which no fixture keeps

pytestmark = pytest.mark.usefixtures("confirmed_once", "computed_once")
loops = pytest.importorskip("bench.oracle.family.loops", reason="PyTorch is not there")
NAMES = list(loops.HONEST)
REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", params=NAMES)
def algorithm(request):
    return request.param


# ── the cases ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_case_is_confirmed_by_three_rungs_and_by_one_to_the_last_bit():
    for name in ALGORITHMS:
        cases = load("core", algorithm=name)
        assert [c.id for c in cases] == [id for id in suites.ids() if id.startswith(f"{name}/")]
        plain = "every-trajectory" if name == "rl" else "quadratic"  # whose answer is known in closed form
        assert 4 <= len(cases) <= 8 and f"{name}/{plain}" in [c.id for c in cases]
        for case in cases:
            confirmed = case.answer.confirmed
            assert len(confirmed) >= 3 and "every bit" in confirmed.values(), case.id
    assert (generate.VECTORS / "family.json").stat().st_size < 180_000


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_study_of_false_alarms_has_new_cases_too(dtype):
    from bench.oracle.alarms import cases_for

    found = [case.id for case in cases_for("core", dtype, 2, 0, "reptile")]
    assert found[-2:] == ["reptile/fresh-0-0", "reptile/fresh-0-1"] and len(found) > 4


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_mistake_that_must_be_seen_is_seen(dtype):
    for name in ALGORITHMS:
        cases = [c for c in load("core", algorithm=name) if dtype in c.dtypes]
        seen = {form.split("/")[0] for c in cases for form in c.answer.bugs.seen}
        assert len(must_see(name)) >= 10 and not set(must_see(name)) - seen, name


def test_conventions_need_not_be_seen():
    for name in ("maml", *ALGORITHMS):
        assert {CATALOGUE[id].kind for id in must_see(name)} == {"bug"}, name


def test_ids_of_mistakes_are_the_own_of_one_algorithm():
    ids = [m.id for module in ALGORITHMS.values() for m in module.MISTAKES]
    assert len(ids) == len(set(ids)) and not set(ids) & {m for m, _ in _of_maml()}


def _of_maml():
    from tinymaml.oracle.catalogue import OF_MAML

    return OF_MAML.items()


@pytest.mark.parametrize("every", [24, pytest.param(1, marks=pytest.mark.slow)])
def test_every_form_can_be_computed(algorithm, every):
    case = load("core", algorithm=algorithm)[0]
    with np.errstate(all="ignore"):
        for name, form in list(forms(case).items())[::every]:
            assert run_form(case, form).meta_grad.keys() == case.params.keys(), name


def test_a_switch_that_does_not_exist_is_refused(algorithm):
    case = load("core", algorithm=algorithm)[0]
    with pytest.raises(ValueError, match="has no switch 'nonsense'"):
        run_form(case, {"nonsense": 1})
    with pytest.raises(ValueError, match="outer='middle'; wanted one of"):
        run_form(case, {"outer": "middle"})


def test_a_case_is_built_as_it_was_shipped():
    shipped = load("core", algorithm="anil")[0]
    seed = generate.json.loads(generate.SEEDS.read_text(encoding="utf-8"))[shipped.id]
    built = generate.build_case(shipped.id, suites.draw("anil", "quadratic", seed))
    assert np.array_equal(flat(built.answer.meta_grad), flat(shipped.answer.meta_grad))
    assert built.answer.meta_loss == shipped.answer.meta_loss and built.answer.confirmed == shipped.answer.confirmed


@pytest.mark.parametrize("rung", ["by_algorithms", "closed_form"])
def test_a_rung_that_disagrees_stops_the_build(monkeypatch, rung):
    module, case = ALGORITHMS["anil"], load("core", algorithm="anil")[0]
    real = getattr(module, rung)

    def planted(case):
        value, grads = real(case)
        return value, grads | {"w2": grads["w2"] * (1 + 1e-12)}

    monkeypatch.setattr(module, rung, planted)
    with pytest.raises(AssertionError, match="roundings from the balls"):
        generate.build_case(case.id, dataclasses.replace(case, answer=None))


@pytest.mark.slow
def test_the_cases_tell_every_pair_of_an_algorithms_mistakes_apart(algorithm):
    cases, own = load("core", algorithm=algorithm), {m.id for m in ALGORITHMS[algorithm].MISTAKES}
    own |= set(ALGORITHMS[algorithm].SHARED)
    names = {n for c in cases for n in forms(c) if n.split("/")[0] in own}
    together = [
        (a, b) for a, b in itertools.combinations(sorted(names), 2)
        if a.split("/")[0] != b.split("/")[0] and CATALOGUE[a.split("/")[0]].classic
        and all(value_of(c, a) is None or value_of(c, b) is None or fits(c, value_of(c, a), value_of(c, b))
                for c in cases)
    ]  # fmt: skip
    assert together == []


@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
def test_new_cases_depend_on_the_seed_alone(dtype):
    (a, b), (again,), (other,) = (drawn_anew(seed, count, dtype, "reptile") for seed, count in ((5, 2), (5, 1), (6, 1)))
    assert np.array_equal(flat(a.params), flat(again.params)) and not np.array_equal(flat(a.params), flat(other.params))
    assert [a.id, b.id] == ["reptile/fresh-5-0", "reptile/fresh-5-1"] and dtype in a.dtypes
    assert np.array_equal(flat(show.find_case("reptile/fresh-5-0").params), flat(a.params)) or dtype == "float32"


# ── who is right, and who is wrong ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_honest_implementations_are_correct(algorithm, dtype):
    cases = load("core", algorithm=algorithm)
    for way in ("torch", "engine") if dtype == "float64" else ("torch",):
        report = check(loops.HONEST[algorithm][way], cases, dtype=dtype)
        assert report.verdict == "CORRECT", (way, str(report))
        assert max(c.error for c in report.cases) < 10


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_an_honest_implementation_in_jax_is_correct(algorithm, dtype):
    pytest.importorskip("jax")
    assert check(loops.HONEST[algorithm]["jax"], load("core", algorithm=algorithm), dtype=dtype).verdict == "CORRECT"


@pytest.mark.slow
def test_an_honest_implementation_is_correct_on_new_cases(algorithm):
    report = check(loops.HONEST[algorithm]["torch"], "fresh", algorithm=algorithm, seed=11)
    assert report.verdict == "CORRECT", str(report)


def _every_wrong_one():
    for name in NAMES:
        assert len(loops.WRONG[name]) >= 10
        for i, made in enumerate(loops.WRONG[name]):
            if i % 36 == 0 and made.id != "mamlpp_norm_rows_added":  # seen by its slowest case alone
                yield pytest.param(name, made, id=f"{name}-{i}-{made.id}-few forms")
            yield pytest.param(name, made, marks=pytest.mark.slow, id=f"{name}-{i}-{made.id}")


def test_differences_of_mamls_gradient_are_not_looked_for_in_another():
    """CAVIA's parameters lack the context, which its model needs."""
    cases, answers, asked = load("core", algorithm="cavia")[:2], {}, []
    for case in cases:
        asked.append(questions.Question(case.id, case))
        answers[case.id] = questions.Answered({n: g + 1e-5 * np.sin(g) for n, g in case.answer.meta_grad.items()})
    cause = precision.cause_of([judge(case, answers[case.id]) for case in cases], asked, answers)
    assert "in the place of a derivative" not in cause


def test_the_steps_of_another_case_do_not_fit_what_is_learned_for_each_step():
    judged, asked = [], []
    for case in load("core", algorithm="mamlpp"):
        grads = {n: g * 1.01 for n, g in case.answer.meta_grad.items()}
        judged.append(judge(case, questions.Answered(grads)))
        asked.append(questions.Question(case.id, case))
    assert len({(str(j.case.model), j.case.inner_steps) for j in judged}) > len({str(j.case.model) for j in judged})
    assert another_answer(judged, asked) == ""


@pytest.mark.parametrize("every", [48, pytest.param(1, marks=pytest.mark.slow)])
def test_no_form_that_explains_an_answer_is_lost_to_its_slope(algorithm, every):
    """Nor where the answer is off by as many roundings as are allowed, or is the form's gradient times a number."""
    case, unlike, decided = load("core", algorithm=algorithm)[0], 0, 0
    right, unit = Judged(case, questions.Answered(case.answer.meta_grad), 0, 0), tolerance.UNIT["float64"]
    for form in list(forms(case).values())[::every]:
        with np.errstate(all="ignore"):
            value = run_form(case, form).meta_grad
            allowed = 0.9 * MATCH * unit * case.answer.usual_scale
            off = {n: questions.direction(case)[n] * np.max(allowed) for n in value}
            for given, times in ((value, 1.0), ({n: 3 * g for n, g in value.items()}, 3.0)):
                for grads in (given, {n: g + off[n] for n, g in given.items()}):
                    j = Judged(case, questions.Answered(grads), 0, 0)
                    assert not (fits(case, grads, value, times) and excluded(j, form, [times])), form
            if np.isfinite(flat(value)).all() and not fits(case, case.answer.meta_grad, value):
                unlike += right.slope(form) is not None
                decided += excluded(right, form)
    assert decided >= 0.9 * unlike > 0


def test_a_form_whose_slope_is_no_number_is_not_excluded_by_it():
    case = load("core", algorithm="anil")[0]
    j = Judged(case, questions.Answered(case.answer.meta_grad), 0, 0)
    for form in ({"rate_is": 1e200}, {"outer": "median"}, {"result": "normalised"}, {"not learned": "what adapts"}):
        with np.errstate(all="ignore"):
            assert not excluded(j, form) and (j.slope(form) is None or np.isnan(j.slope(form)))


@pytest.mark.parametrize("every", [24, pytest.param(1, marks=pytest.mark.slow)])
def test_without_momentum_every_mistake_of_mamls_is_made_as_there(every):
    """There a mistake changes the adjoint, here it changes what is differentiated: they share no line for it."""
    case, compared = cases.draw("tanh 1-2-1 mse", 1, inner_steps=3, tasks=3), 0
    as_here = dataclasses.replace(case, algorithm="inner-momentum", settings={"momentum": 0.0})
    # These are not the same: there what leaks is changed in place, restarted steps are one, and .grad is of its leaf.
    others = ("task_leak", "inplace_update", "group_leaks", "last_adapted_weights", "restarted_steps",
              "gradients_accumulated")  # fmt: skip
    for m in [m for m in OF_MAML.values() if m.id not in others][::every]:
        for form in m.forms:
            if family.can_be_made(form, ALGORITHMS["inner-momentum"]) and concerns(form, case):
                with np.errstate(all="ignore"):
                    here, there = (flat(run_form(c, form).meta_grad) for c in (as_here, case))
                assert np.allclose(here, there, rtol=1e-9, atol=1e-12, equal_nan=True), (m.id, form)
                compared += not np.allclose(there, flat(run_form(case, {}).meta_grad))
    assert compared > 300 / every


@pytest.mark.slow
def test_one_of_two_mistakes_may_stand_alone_in_a_dear_case():
    """In the cheapest case both show; of the others each form is computed along one direction alone."""
    form = {"outer": "all but the first", "losses": "first order but the last"}
    report = check(lambda case: {"meta_grad": run_form(case, form).meta_grad}, load("core", algorithm="mamlpp"))
    assert (report.verdict, report.bug) == ("KNOWN_BUG", "one_task_lost + mamlpp_early_losses_cut"), str(report)


@pytest.mark.slow
def test_what_has_no_name_is_refused_all_the_same(algorithm):
    cases = load("core", algorithm=algorithm)
    smooth = {case.id: {n: g + 0.3 * np.sin(g) for n, g in case.answer.meta_grad.items()} for case in cases}
    report = check(lambda case: {"meta_grad": smooth[case.id]}, cases)
    assert (report.verdict, report.bug) == ("WRONG_UNKNOWN", None), str(report)


@pytest.mark.parametrize(("name", "made"), list(_every_wrong_one()))
def test_a_wrong_implementation_is_refused_and_named(name, made, few_forms):
    few_forms(made.id)
    report = check(made.mine, load("core", algorithm=name))
    # A sum over tasks, with that sum as its meta-loss, is a convention.
    verdict = "CORRECT_OTHER_CONVENTION" if made.id == "sum_over_tasks" else "KNOWN_BUG"
    assert report.verdict == verdict, str(report)
    assert made.id in [report.bug, *report.ties], str(report)


def test_every_mistake_of_an_algorithm_is_made_in_code(algorithm):
    made = {m.id for m in loops.WRONG[algorithm]}
    missing = {m.id for m in ALGORITHMS[algorithm].MISTAKES} - made
    assert len(made) >= 10 and len(missing) <= 4, missing


# ── by every route ──────────────────────────────────────────────────────────────────────────────────────────────────

CANDIDATE = """
from tinymaml.oracle.catalogue import run_form

def right(case):
    result = run_form(case, {})
    return {"meta_grad": result.meta_grad, "meta_loss": result.meta_loss}

def wrong(case):
    return {"meta_grad": run_form(case, {"gradient": "direction"}).meta_grad}
"""


@pytest.fixture(scope="module")
def candidate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("candidate")
    (folder / "mine.py").write_text(CANDIDATE)
    return folder


@pytest.mark.parametrize(
    ("name", "code", "said"), [("right", 0, "CORRECT"), ("wrong", 1, "KNOWN_BUG  reptile_direction")]
)
def test_the_command_asks_for_an_algorithm(candidate, name, code, said, monkeypatch, capsys):
    monkeypatch.chdir(candidate)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    assert main(["oracle", "check", f"mine:{name}", "--algorithm", "reptile", "--seed", "3"]) == code
    assert capsys.readouterr().out.startswith(said)


def test_answers_to_questions_in_a_file_say_which_algorithm_they_are_to():
    asked, _ = questions.questions("core", "float64", (), 3, (), "anil")
    prefix = protocol.token("core", "float64", (), 3, "anil")
    mine, lines = loops.HONEST["anil"]["engine"], []
    for question, line in zip(asked, protocol.lines(asked, prefix), strict=True):
        data = generate.json.loads(line)
        assert data["algorithm"] == "anil" and data["adapt"] == list(question.case.adapt)
        grads = mine(question.case)["meta_grad"]
        lines.append(generate.json.dumps({"id": data["id"], "meta_grad": {n: g.tolist() for n, g in grads.items()}}))
    report = protocol.check_answers(lines)
    assert report.verdict == "CORRECT" and report.algorithm == "anil", str(report)


@pytest.mark.parametrize(
    ("suite", "name", "said"),
    [("core", "reptil", "algorithm is 'reptil', wanted one of maml, meta-sgd"), ("full", "anil", "core and fresh")],
)
def test_what_there_is_not_is_named(suite, name, said):
    with pytest.raises(ValueError, match=said):
        check(lambda case: {}, suite, algorithm=name)
    with pytest.raises(ValueError, match=said):
        load(suite, algorithm=name)


def test_a_case_is_shown_with_its_algorithm_and_settings():
    text = show.show_page(show.find_case("inner-momentum/quadratic"))
    assert "algorithm   inner-momentum: G is the mean over tasks of" in text and "momentum = 0.75: μ" in text
    assert "momentum_missing" in text and max(map(len, text.splitlines())) <= 120


def test_a_page_says_what_a_candidate_computes(algorithm):
    page = spec.algorithm(algorithm)
    assert "G = " in page and all(f'"{name}"' in page for name in ALGORITHMS[algorithm].SETTINGS)
