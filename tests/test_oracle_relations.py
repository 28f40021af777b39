"""Relations without a reference value: right gradients keep all of them, and each has a candidate that breaks it."""

import dataclasses

import numpy as np
import pytest

from tinymaml.cli import main
from tinymaml.oracle import family, relations, tolerance
from tinymaml.oracle.cases import draw, load
from tinymaml.oracle.metamorphic import RELATIONS, bases

PLAIN = draw("tanh 1-2-2 cross_entropy", 0, tasks=2, inner_steps=2, inner_lr=0.5)
SQUARED = draw("tanh 2-2-1 mse", 0, tasks=2, inner_steps=2, inner_lr=0.25)
QUADRATIC = draw("quadratic 2", 0, tasks=2, inner_steps=2, inner_lr=0.125)


def right(case):
    return {"meta_grad": tolerance.engine_answer(case)[1]}


def changed(**of):
    """The right gradient of a case of which some fields are others, each made by a function of the case."""
    return lambda case: right(dataclasses.replace(case, **{name: f(case) for name, f in of.items()}, handed_out=[]))


def cut(batches, n):
    return [(x[:n], y[:n]) for x, y in batches]


def added(more):
    """The right gradient, and more(case, G) added to it."""

    def candidate(case):
        g = right(case)["meta_grad"]
        return {"meta_grad": {n: g[n] + x for n, x in more(case, g).items()}}

    return candidate


def masked(case, g):
    """The first hidden unit's weights have no gradient."""
    first = np.arange(g["w1"].shape[-1]) == 0
    return {n: -x * first if n == "w1" else 0 * x for n, x in g.items()}


def state():
    asked = []

    def more(case, g):
        asked.append(case)
        return {n: 1e-9 * len(asked) * np.ones_like(x) for n, x in g.items()}

    return added(more)


def smallest_class_is_special(case):
    return [(x, np.where(y == 0, 1, y)) for x, y in case.support]


PLANTED = {
    "tasks in another order": (PLAIN, changed(support=lambda c: c.support[:1], query=lambda c: c.query[:1])),
    "tasks twice": (PLAIN, added(lambda c, g: {n: (c.tasks - 1) * x for n, x in g.items()})),
    "tasks apart": (PLAIN, added(lambda c, g: {n: 1e-3 * (c.tasks > 1) * x for n, x in g.items()})),
    "support in another order": (PLAIN, changed(support=lambda c: cut(c.support, 2))),
    "query in another order": (PLAIN, changed(query=lambda c: cut(c.query, 3))),
    "support twice": (PLAIN, changed(inner_lr=lambda c: c.inner_lr * len(c.support[0][0]))),
    "query twice": (PLAIN, added(lambda c, g: {n: (len(c.query[0][0]) - 1) * x for n, x in g.items()})),
    "classes renumbered": (PLAIN, changed(support=smallest_class_is_special)),
    "hidden units in another order": (PLAIN, added(masked)),
    "inputs rotated": (SQUARED, lambda c: {"meta_grad": {n: np.sign(x) for n, x in right(c)["meta_grad"].items()}}),
    "loss scaled": (SQUARED, added(lambda c, g: {n: 1e-4 * c.params[n] for n in g})),
    "inner rate 0": (SQUARED, changed(inner_lr=lambda c: 0.125)),
    "linear support loss": (QUADRATIC, added(lambda c, g: {n: 1e-6 * c.params[n] for n in g})),
    "asked again": (SQUARED, state()),
}  # fmt: skip


def test_every_relation_has_a_planted_error():
    assert set(PLANTED) == {relation.name for relation in RELATIONS}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_error_breaks_the_relation(name):
    case, planted = PLANTED[name]
    found = relations(planted, case)
    assert name in found.broken
    assert found.exit_code == 1
    row = next(row for row in found.rows if row.relation.name == name)
    assert f"{row.relation.name:29}  BROKEN     off by" in str(found) and row.relation.broken in str(found)


@pytest.mark.parametrize("case", [PLAIN, SQUARED, QUADRATIC], ids=["plain", "squared", "quadratic"])
def test_the_right_gradient_keeps_every_relation_that_a_planted_error_breaks(case):
    kept = relations(right, case)
    assert kept.broken == [] and kept.exit_code == 0
    verdicts = {row.relation.name: row.verdict for row in kept.rows}
    assert all(verdicts[name] == "holds" for name, (of, _) in PLANTED.items() if of is case)


@pytest.mark.parametrize("algorithm", ["maml", "meta-sgd", "reptile", "hessian-free", "proximal"])
def test_right_gradients_keep_every_relation(algorithm):
    found = relations(right, algorithm=algorithm)
    assert found.exit_code == 0, str(found)
    assert sum(row.verdict == "holds" for row in found.rows) >= 11


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["maml", *family.ALGORITHMS])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_right_gradients_of_the_whole_family_keep_every_relation(algorithm, dtype):
    def candidate(case):
        return {"meta_grad": {n: g.astype(dtype) for n, g in right(case)["meta_grad"].items()}}

    found = relations(candidate, algorithm=algorithm, dtype=dtype)
    assert found.exit_code == 0, str(found)


def test_maml_has_cases_for_every_relation():
    asked = {r.name for r in RELATIONS for case in bases("maml") if r.change(case) is not None}
    assert asked == {r.name for r in RELATIONS}


def test_an_error_of_the_size_of_float32_is_seen_in_float64():
    found = relations(added(lambda c, g: {n: 1e-9 * (len(c.query[0][0]) == 4) * x for n, x in g.items()}), SQUARED)
    assert found.broken == ["query twice", "inner rate 0"]


def test_what_cannot_be_answered_is_no_relation_that_holds():
    def fails(case):
        if case.tasks > 2:
            raise MemoryError("too many tasks")
        return right(case)

    found = relations(fails, PLAIN)
    row = next(row for row in found.rows if row.relation.name == "tasks twice")
    assert row.verdict == "no answer" and "too many tasks" in row.problem
    assert found.broken == [] and found.exit_code == 1


@pytest.mark.parametrize(("wrong", "said"), [
    ({"algorithm": "mamml"}, "mamml"), ({"dtype": "float16"}, "float16"), ({"timeout": 0}, "timeout is 0"),
])  # fmt: skip
def test_bad_arguments_are_named(wrong, said):
    with pytest.raises(ValueError, match=said):
        relations(right, **wrong)


def test_the_command_asks_a_process_of_its_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "of_mine.py").write_text(
        "from tinymaml.oracle import tolerance\n"
        "def mine(case):\n"
        "    g = tolerance.engine_answer(case)[1]\n"
        "    return {'meta_grad': {n: x * case.tasks for n, x in g.items()}}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["oracle", "relations", "of_mine:mine", "--algorithm", "reptile"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("relations of reptile, float64") and "tasks twice" in said
    assert "support twice" in said and said.count("BROKEN") == 2


@pytest.mark.parametrize("id", ["unsorted", "tied", "logistic", "tanh"])
def test_the_scale_of_a_sum_with_both_signs_is_about_the_root_of_the_sum_of_squares(id):
    """Without signs the terms of a softmax would cancel."""
    case = next(case for case in load("core") if case.id == id)
    root = np.sqrt(sum(np.sum(np.square(scale)) for scale in case.answer.scale.values()))
    assert 0.8 < tolerance.scale_of_sum(case) / root < 1.6
