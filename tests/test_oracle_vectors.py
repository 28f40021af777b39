"""The vectors: small, complete, confirmed, and rebuilt from source."""

import dataclasses
import importlib.util
import itertools
import json

import numpy as np
import pytest

from tinymaml.oracle import CATALOGUE, cases, generate, load, questions, references, tolerance
from tinymaml.oracle.arithmetic import Uncertain
from tinymaml.oracle.cases import VECTORS, decode, draw, to_hex
from tinymaml.oracle.catalogue import flat, forms, run_form
from tinymaml.oracle.clues.match import fits, value_of


@pytest.fixture(scope="module")
def core():
    return load("core")


def test_the_core_is_below_150_kB_and_all_of_it_below_10_MB():
    assert (VECTORS / "core.json").stat().st_size < 150_000
    assert sum(p.stat().st_size for p in VECTORS.iterdir()) < 10_000_000


def test_there_are_no_answers_in_what_a_case_hands_out(core):
    for case in core:
        assert "answer" not in case.to_json(to_hex)


def test_every_full_case_is_confirmed_by_three_rungs_and_by_one_to_the_last_bit():
    pytest.importorskip("safetensors")
    full = load("full")
    assert len(full) > 400
    for case in full:
        confirmed = case.answer.confirmed
        assert len(confirmed) >= 3 and "every bit" in confirmed.values(), case.id


@pytest.mark.usefixtures("computed_once")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_core_tells_every_pair_of_mistakes_apart(core, dtype):
    these = [c.with_dtype(dtype) for c in core if dtype in c.dtypes]
    names = {n for c in these for n in forms(c) if CATALOGUE[n.split("/")[0]].classic}
    unseen = [n for n in names if not any(n in c.answer.bugs.seen for c in these)]
    assert not unseen

    def apart(a, b):
        for c in these:
            va, vb = value_of(c, a), value_of(c, b)
            if va is not None and vb is not None and not fits(c, va, vb):
                return True
        return False

    pairs = [p for p in itertools.combinations(sorted(names), 2) if p[0].split("/")[0] != p[1].split("/")[0]]
    assert [p for p in pairs if not apart(*p)] == []


@pytest.mark.usefixtures("computed_once")
def test_every_mistake_that_shows_is_far_from_right(core):
    for case in core:
        for name, grads in case.answer.bugs.items():
            if grads is not None:
                off = tolerance.error(grads, case.answer.meta_grad, case.answer.scale, tolerance.UNIT[case.dtypes[-1]])
                assert off >= tolerance.SEPARATION * tolerance.TAU, (case.id, name)


def test_a_value_is_computed_when_it_is_asked_for_and_kept(core, monkeypatch):
    case, calls = dataclasses.replace(core[0]), []
    real = cases.run_form
    monkeypatch.setattr(cases, "run_form", lambda case, form: calls.append(form) or real(case, form))
    bugs = cases.Bugs(case, ["fomaml", "zero_gradient/1"], ["reptile"])
    assert list(bugs) == ["fomaml", "zero_gradient/1", "reptile"] and "fomaml" in bugs and len(bugs) == 3 and not calls
    assert bugs["reptile"] is None and not calls
    assert bugs["fomaml"] is bugs["fomaml"] and calls == [{"factors": "detached"}]
    np.testing.assert_array_equal(flat(bugs["fomaml"]), flat(run_form(case, {"factors": "detached"}).meta_grad))
    assert bugs["zero_gradient/1"] and calls[1:] == [CATALOGUE["zero_gradient"].forms[1]]
    with pytest.raises(KeyError):
        bugs["hessian_sign"]  # which the case is blind to


QUICK = ("tied", "unsorted", "square", "quadratic", "relu-at-zero", "integers-1", "integers-2", "quartic")


@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_what_the_files_say_of_mistakes_is_so(core, quick):
    """Seen: another gradient; unknown: depends on rounding; in neither: the right gradient."""
    for case in (c for c in core if (c.id in QUICK) == quick):
        again = references.solve_case(case, before=case.answer.bugs.unknown).answer.bugs
        assert (again.seen, again.unknown) == (case.answer.bugs.seen, case.answer.bugs.unknown), case.id


def test_only_what_roundings_decide_is_taken_from_before():
    """There another BLAS may decide otherwise. In this case some mistakes are near the limit, and most are not."""
    case = draw("softplus 1-2-1 mse", 11, inner_steps=3, inner_lr=0.5)
    with np.errstate(all="ignore"):
        all_before, here, none_before = (references.solve_case(case, before=before).answer.bugs
                                         for before in (tuple(forms(case)), None, ()))  # fmt: skip
    assert set(none_before.unknown) <= set(here.unknown) <= set(all_before.unknown)
    assert 1 < len(all_before.unknown) - len(none_before.unknown) < len(here.seen) / 2
    assert "fomaml" in all_before.seen


def test_a_mistake_that_depends_on_rounding_is_unknown():
    tiny = 2.0**-60  # a ReLU's input, beside others of size 1, that differs from 0 by rounding alone
    case = draw("relu 1-2-1 mse", 1, inner_steps=1)
    case.params["b1"][...] = [tiny, 0.5]
    for x, _ in case.query:
        x[0] = 0
    assert "query_before_adaptation" in references.solve_case(case).answer.bugs.unknown
    with np.errstate(all="ignore"):  # steps that climb leap far, not always to infinity
        drawn = [draw("softplus 1-2-1 mse", i, inner_steps=5, inner_lr=0.5) for i in (3, 5)]
        climbing = [references.solve_case(case) for case in drawn]
        ends = [flat(run_form(c, CATALOGUE["inner_ascent"].forms[0]).meta_grad) for c in climbing]
    assert all("inner_ascent" in c.answer.bugs.unknown for c in climbing) and any(np.isfinite(g).all() for g in ends)


def by_id(id: str) -> cases.Case:
    return next(c for c in load("core", algorithm=id.split("/")[0] if "/" in id else "maml") if c.id == id)


def without_each(form: dict):
    """(A setting of the form, with the first word of its value; the form without it)."""
    how = form.get("how", {})
    said = lambda name, value: name if not isinstance(value, str) else f"{name}: {value.split()[0]}"  # noqa: E731
    for name in form.keys() - {"how"}:
        yield said(name, form[name]), {n: x for n, x in form.items() if n != name}
    for name in how:
        others = {n: x for n, x in how.items() if n != name}
        yield said(name, how[name]), {n: x for n, x in form.items() if n != "how"} | ({"how": others} if others else {})


@pytest.mark.parametrize(("id", "least"), [
    ("integers-2", 200), ("imaml/quadratic", 190),
    *(pytest.param(id, n, marks=pytest.mark.slow)
      for id, n in (("softmax", 400), ("imaml/one-step", 200), ("inner-momentum/quadratic", 200),
                    ("boil/quadratic", 250))),
])  # fmt: skip
def test_what_forms_share_depends_on_each_of_their_settings(id, least):
    """What was computed without one of them is not taken for what a form with it gives; it shows in at least so many.

    A form may make no sense without one of its settings.
    """
    case, known, told = by_id(id), {}, set()
    with np.errstate(all="ignore"):
        for name, form in forms(case).items():
            for setting, without in without_each(form):
                if setting in told:
                    continue
                try:
                    others = flat(run_form(case, without, known=known).meta_grad)
                except (ArithmeticError, LookupError, TypeError, ValueError):
                    continue
                alone, shared = (flat(run_form(case, form, known=k).meta_grad) for k in (None, known))
                np.testing.assert_array_equal(shared, alone, err_msg=f"{name}: {setting}")
                if not np.array_equal(others, alone):
                    told.add(setting)
    assert len(told) >= least


SHARING = ("relu-at-zero", "imaml/quadratic")
MORE_SHARING = ("tied", "boil/quadratic", "cavia/one-number")


@pytest.mark.parametrize(("id", "every"), [
    *((id, False) for id in SHARING),
    *(pytest.param(id, True, marks=pytest.mark.slow) for id in SHARING + MORE_SHARING),
])  # fmt: skip
def test_what_forms_share_is_what_each_computes_alone(id, every):
    """To the last bit, with the kinks, at two points: of one form with each set of switches, or of every one."""
    case = by_id(id)
    nearby, known = case.at({n: p * (1 + 2.0**-50) for n, p in case.params.items()}), {}
    switches = {name: str(sorted((*form, *form.get("how", {})))) for name, form in forms(case).items()}
    one_of_each = {kind: name for name, kind in switches.items()}.values()
    with np.errstate(all="ignore"):
        for name, form in forms(case).items():
            if not every and name not in one_of_each:
                continue
            for c in (case, nearby):
                (alone, margin), (shared, same) = (references._watched(c, form, k) for k in (None, known))
                np.testing.assert_array_equal(flat(shared.meta_grad), flat(alone.meta_grad), err_msg=name)
                np.testing.assert_array_equal([shared.meta_loss, same], [alone.meta_loss, margin], err_msg=name)
    assert known


def test_a_new_case_that_is_no_good_is_given_up_early(monkeypatch):
    """And one that is good is solved as by `solve_case`."""
    good = questions.fresh(5, 1)[0]
    same = references.solve_case(dataclasses.replace(good, answer=None))
    assert same.dtypes == good.dtypes and same.answer.distance == good.answer.distance
    assert same.answer.bugs.seen == good.answer.bugs.seen
    for settings, dtype in ((dict(inner_steps=0), "float64"), (dict(inner_lr=2.0**-27), "float32")):
        case = draw("tanh 1-2-1 mse", 1, **settings)
        solved = references.solve_case(case)
        is_good = dtype in solved.dtypes and references.healthy(solved)
        assert (references.solve_if_good(case, dtype) is not None) == is_good


def test_rounding_inside_an_inner_step_counts_for_fomaml_too():
    """FOMAML holds the inner gradients constant; that they are rounded moves its gradient all the same."""
    case = draw("square 1-2-1 mse", 0, inner_steps=3, inner_lr=0.0625, first_order=True)
    _, scale = tolerance.scales(case)
    moved = case.at({n: p * (1 + 2.0**-40) for n, p in case.params.items()})
    right, near = (tolerance.engine_answer(c)[1] for c in (case, moved))
    assert tolerance.error(near, right, scale, 2.0**-40) < 10


def test_a_case_is_for_float32_only_if_float32_holds_its_numbers(core, monkeypatch):
    monkeypatch.setattr(references, "forms", lambda case: {"fomaml": {"factors": "detached"}})
    case = next(c for c in core if c.id == "tanh")
    assert "float32" in case.dtypes and case.exact_in("float32") and not case.exact_in("float16")
    for change in ({"inner_lr": 0.1}, {"params": case.params | {"w1": case.params["w1"] + 1e-9}},
                   {"query": [(x / 3, y) for x, y in case.query]}):  # fmt: skip
        other = references.solve_case(dataclasses.replace(case, answer=None, **change))
        assert other.dtypes == ("float64",), change
    assert all("float32" not in c.dtypes or c.exact_in("float32") for c in load("full"))


def test_the_loss_of_a_model_is_one_function_in_every_case():
    """So that what was compiled for one case serves the others."""
    one, other = (draw("tanh 1-2-1 mse", seed) for seed in (0, 1))
    assert one.numpy()[0] is other.numpy()[0] is not draw("tanh 1-2-1 binary_cross_entropy", 0).numpy()[0]
    if importlib.util.find_spec("torch"):
        assert one.torch()[0] is other.torch()[0] is not one.numpy()[0]
    loss, params, ((xs, ys), _) = one.numpy()
    one.model["loss"] = "half_mse"  # by a candidate: it changes no one else's
    assert loss(params, xs[0], ys[0]) == other.numpy()[0](params, xs[0], ys[0])


def test_hex_is_the_array():
    for x in np.array([1.5, -0.1, 1e300, 5e-324]), np.array(0.25), np.arange(6).reshape(2, 3), np.zeros((0, 2)):
        np.testing.assert_array_equal(decode(json.loads(json.dumps(to_hex(x)))), x)


# ── the generator ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("id", ["quartic", "integers-1", "quadratic", "tied", "relu-at-zero"])
def test_a_core_case_is_rebuilt_to_the_byte(id):
    pytest.importorskip("flint")
    pytest.importorskip("torch")
    stored = json.loads((VECTORS / "core.json").read_text(encoding="utf-8"))
    row = next(c for c in stored["cases"] if c["id"] == id)
    seeds = json.loads((VECTORS / "seeds.json").read_text(encoding="utf-8"))
    case = generate.by_hand().get(id) or generate.case_of(id, generate._core()[id], seeds[id])
    rebuilt = generate.case_as_json(generate.build_case(id, case), stored["mistakes"], True)
    assert json.dumps(rebuilt) == json.dumps(row)


@pytest.mark.parametrize("rung", ["exact", "differences", "complex_step", "by_engine", "by_torch"])
def test_a_rung_that_disagrees_stops_the_generator(rung, monkeypatch):
    pytest.importorskip("flint")
    pytest.importorskip("torch")
    right = getattr(references, rung)

    def off_by_a_little(case):
        value, grads = right(case)
        return value, {n: g * (1 + (2**-40 if rung != "exact" else 1)) for n, g in grads.items()}

    monkeypatch.setattr(references, rung, off_by_a_little)
    with pytest.raises(AssertionError, match="integers-1"):
        generate.build_case("integers-1", generate.by_hand()["integers-1"])


def test_the_quartic_is_the_fraction_of_the_books(core):
    case = next(c for c in core if c.id == "quartic")
    _, grads = references.exact(case)
    assert grads["theta"].item() * 2**41 == 130152422875
    _, grads = references.exact(case, {"factors": "detached"})
    assert grads["theta"].item() * 2**21 == 1408195
    _, grads = references.exact(case, {"hessian_times": -1})
    assert grads["theta"].item() * 2**41 == 3909161993755


def test_a_ball_around_a_kink_is_not_decided():
    flint = pytest.importorskip("flint")
    from tinymaml.oracle.arithmetic import side, sign

    ball = np.array([flint.arb(0, 1e-9)], object)
    with pytest.raises(Uncertain):
        side(ball)
    assert sign(ball) == 0
    assert side(np.array([flint.arb(0)], object)) == 0


def test_rungs_agree_on_new_cases_of_every_kind():
    pytest.importorskip("flint")
    for kind in ("tanh 1-2-1 mse", "softplus 1-2-1 mse", "batch norm 1", "linear 2-1 binary_cross_entropy", "tied 2"):
        case = generate.case_of(kind, dict(kind=kind, inner_steps=2, inner_lr=0.125), 99)
        _, scale = tolerance.scales(case)
        certified = references.certified(case)
        assert references.differences(case)[0] == certified[0]
        for rung in (references.differences, references.complex_step, references.by_engine):
            grads = rung(case)[1]
            if rung is references.differences:
                np.testing.assert_array_equal(flat(grads), flat(certified[1]))
            assert tolerance.error(grads, certified[1], scale, 2.0**-53) < tolerance.TAU


def test_the_catalogue_has_the_words_a_report_needs():
    for mistake in CATALOGUE.values():
        assert mistake.computes and mistake.explanation and mistake.torch and mistake.jax
        assert mistake.forms or mistake.id in (
            "gradients_not_zeroed", "kept_by_shape", "tasks_weighted",
            "shuffled_apart", "classes_renumbered", "sampled_anew")  # fmt: skip
    assert len([m for m in CATALOGUE.values() if not m.convention]) >= 35


def test_a_case_that_is_drawn_twice_is_the_same():
    a, b = (generate.case_of("x", dict(kind="conv bn relu 1"), 5) for _ in range(2))
    assert json.dumps(a.to_json(to_hex)) == json.dumps(b.to_json(to_hex))
    other = generate.case_of("x", dict(kind="conv bn relu 1"), 6)
    assert json.dumps(a.to_json(to_hex)) != json.dumps(other.to_json(to_hex))
