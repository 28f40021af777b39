"""A case laid out: every number in the text is compared with what another part of the package computes."""

import itertools
import os
import re
import sys

import numpy as np
import pytest

import tinymaml as tm
from tinymaml.cli import main
from tinymaml.oracle import cases, models, questions, references
from tinymaml.oracle.cases import Tampered, draw, load
from tinymaml.oracle.catalogue import flat, forms, run_form
from tinymaml.oracle.pages import diff, show

pytestmark = pytest.mark.usefixtures("computed_once")
CORE = {c.id: c for c in load("core")}


def blocks(text: str) -> list[list[str]]:
    """The lines of each block: heading, tasks, answer, mistakes."""
    out = [[]]
    for line in text.splitlines():
        if line.startswith("── "):
            out.append([])
        out[-1].append(line)
    return out


def numbers(line: str) -> list[float]:
    """The numbers at the end of a line."""
    out = list(itertools.takewhile(lambda w: re.fullmatch(r"-?(\d[\d.]*(e[+-]\d+)?|inf|nan)", w), line.split()[::-1]))
    return [float(w) for w in out[::-1]]


def row(lines: list[str], label: str) -> list[float]:
    """The numbers of the one line with that label."""
    (line,) = [x for x in lines if x.strip().startswith(label + "  ")]
    return numbers(line)


@pytest.mark.parametrize("id", CORE)
def test_core_case(id):
    """Within 120 columns; every mistake is in the table with its distance, or in the line of the unseen."""
    case = CORE[id]
    text = show.show_page(case)
    assert text.startswith(id) and max(map(len, text.splitlines())) <= show.WIDTH
    assert models.in_words(case.model).split(" → ")[0][:40] in text
    assert not re.search(r"\bnan\b|-0 | \n", text)
    *_, answer, table = blocks(text)
    for name, value in list(zip(show._elements(case), flat(case.answer.meta_grad), strict=True))[: show.MOST]:
        assert f"{value:.17g}" == next(x for x in answer if x.startswith(f"  {name} ")).split()[1]
    unseen = " ".join(itertools.dropwhile(lambda x: "blind to" not in x, table)).replace(",", " ").replace(":", " ")
    size = np.max(np.abs(flat(case.answer.meta_grad)))
    last = {}
    here = forms(case)
    names = [n for n in here if show.CATALOGUE[n.split("/")[0]].classic]
    assert re.search(rf"\n  further +{len(here) - len(names)} other ways to be wrong", text)
    for name in names:
        wrong = case.answer.bugs.get(name)
        if wrong is None:
            assert name in unseen.split()
            continue
        far = np.max(np.abs(flat(wrong) - flat(case.answer.meta_grad))) / size
        (line,) = [x for x in table if x.startswith(f"  {name} ")]
        off, relative, *shown = map(float, line.replace("…", "").split()[1:])
        np.testing.assert_allclose(relative, far, rtol=0.06)
        np.testing.assert_allclose(shown, flat(wrong)[: len(shown)], rtol=0.06, atol=1e-3 * size)
        last[table.index(line)] = (off, name)
    known = [off for _, (off, name) in sorted(last.items()) if not show.CATALOGUE[name.split("/")[0]].convention]
    assert known == sorted(known)


def test_points_stand_under_points():
    table = blocks(show.show_page(CORE["tanh"]))[-1]
    first = [
        line[52:].find(".")
        for line in table
        if line.startswith("  ")
        and line[2:50].split()[1:2]
        and re.match(r"  [a-z_/1]+ +[\d.e+]+ +[\d.e+]+  ", line)
        and "." in line[52:62]
        and "e" not in line[52:62]
    ]
    assert len(first) > 50 and len(set(first)) == 1


def test_quartic_by_hand():
    """L_s = θ⁴/4: g = θ³, H = 3θ², every line by a formula; the answer as the fraction in the case's comment."""
    text = show.show_page(CORE["quartic"])
    lines = blocks(text)[1]
    theta, alpha = [1.5], 0.125
    for k in range(2):
        theta.append(theta[k] - alpha * theta[k] ** 3)
        sub = "₀₁"[k]
        assert row(lines, f"g_s(θ{sub})") == pytest.approx([theta[k] ** 3], abs=1e-6)
        assert row(lines, f"H{sub}") == pytest.approx([3 * theta[k] ** 2], abs=1e-6)
        assert row(lines, f"I − αH{sub}") == pytest.approx([1 - alpha * 3 * theta[k] ** 2], abs=1e-6)
    v = theta[2] - 0.25
    assert row(lines, "v ← g_q(θ₂)") == pytest.approx([v], abs=1e-6)
    for k in (1, 0):
        assert row(lines, f"αH{'₀₁'[k]} v") == pytest.approx([alpha * 3 * theta[k] ** 2 * v], abs=1e-6)
        v -= alpha * 3 * theta[k] ** 2 * v
        assert row(lines, f"v ← (I − αH{'₀₁'[k]}) v") == pytest.approx([v], abs=1e-6)
    assert "0.059186469513861084" in text and " 130152422875/2^41\n" in text and " 1983013158025/2^43\n" in text
    assert row(text.splitlines(), "fomaml")[-1] == pytest.approx(1408195 / 2**21, abs=1e-6)
    assert "exact rationals, every bit" in text and "reversed_product" in text.split("blind to")[1]


def test_integers_stay_integers():
    text = show.show_page(CORE["integers-1"])
    lines = blocks(text)[1]
    assert row(lines, "v ← g_q(θ₁)") == [-1260, -1575, -1890]
    assert row(lines, "v ← (I − αH₀) v") == [3780, 8505, 13230]
    assert row(lines, "αH₀ v") == [-5040, -10080, -15120] and "15120.0" not in text
    start = next(i for i, x in enumerate(lines) if x.strip().startswith("H₀ "))
    assert [numbers(x) for x in lines[start : start + 3]] == [[1, 2, 3], [2, 4, 6], [3, 6, 9]]
    assert [numbers(x) for x in lines[start + 3 : start + 6]] == [[0.5, -1, -1.5], [-1, -1, -3], [-1.5, -3, -3.5]]
    assert re.search(r"w\[2,0\] +13230 +[\d.e+]+  13230\n", text)
    assert row(text.splitlines(), "hessian_of_query")[-3:] == [47250, 59062.5, 70875]


@pytest.mark.parametrize("id", ["tanh", "batch-norm", "quadratic", "tied", "logistic"])
def test_steps_are_those_of_the_engine(id):
    """θₖ by `adapt`, rows of H₀ by `hvp`, and the last v of the tasks has the meta-gradient for its mean."""
    case = CORE[id]
    text = show.show_page(case)
    tasks = [b for b in blocks(text) if b[0].startswith("── task")]
    loss, params, _ = case.numpy()
    support = case.support[0]
    elements = show._elements(case)
    by_row = [cases.from_vector(e, params) for e in np.eye(len(elements))]
    h = [flat(tm.hvp(lambda p: loss(p, *support), params, e)) for e in by_row]
    start = next(i for i, x in enumerate(tasks[0]) if x.strip().startswith("H₀ "))
    for line, element, wanted in zip(tasks[0][start:], elements, h, strict=False):
        assert element in line
        np.testing.assert_allclose(numbers(line), wanted, atol=1e-5 * np.max(np.abs(h)))
    end = f"θ{show._sub(case.inner_steps)}"
    last = []
    for t, block in enumerate(tasks):
        adapted = tm.adapt(loss, params, case.support[t], inner_lr=case.inner_lr, inner_steps=case.inner_steps)
        (line,) = [x for x in block if x.startswith(f"  {end} ")]
        np.testing.assert_allclose(numbers(line), flat(adapted), rtol=1e-4, atol=1e-5)
        (value,) = [x.split(" = ")[1] for x in block if x.strip().startswith(f"L_q({end}) = ")]
        assert float(value) == pytest.approx(float(loss(adapted, *case.query[t])), rel=1e-12)
        last.append(row(block, "v ← (I − αH₀) v"))
    wanted = flat(case.answer.meta_grad)
    np.testing.assert_allclose(np.mean(last, 0), wanted, atol=1e-4 * np.max(np.abs(wanted)))


def test_larger_models_are_shortened():
    """More than 8 parameters: the Hessian's size and eigenvalues; more than 16: the rest is counted, not printed."""
    case = references.solve_case(draw("tanh 2-3-3-1 mse", 0, id="large", inner_steps=1, tasks=1))
    text = show.show_page(case)
    assert max(map(len, text.splitlines())) <= show.WIDTH
    loss, params, _ = case.numpy()
    count = sum(p.size for p in params.values())
    h = [flat(tm.hvp(lambda p: loss(p, *case.support[0]), params, cases.from_vector(e, params))) for e in np.eye(count)]
    low, high = re.search(r"H₀: 25 × 25, .*eigenvalues (\S+) … (\S+)", text).groups()
    np.testing.assert_allclose([float(low), float(high)], np.linalg.eigvalsh(h)[[0, -1]], rtol=1e-5)
    assert f"… and {count - 16} more" in text and re.search(r"… \d+ more\n", text)
    assert "computed just now, not certified" in text
    assert "αH₀ v  " in text and "H₀       w1" not in text


@pytest.fixture
def one_form(monkeypatch):
    """A case that is solved is solved for one mistake alone."""
    monkeypatch.setattr(references, "forms", lambda case: {"fomaml": {"factors": "detached"}})


def test_settings_in_words(one_form):
    def text(**settings):
        return show.show_page(draw("tanh 1-2-1 mse", 1, id="x", **settings))  # no answer yet: it is computed

    said = text(first_order=True)
    assert "first-order gradient wanted" in said and "no factors, v = g_q(θ₂)" in said and "I − αH" not in said
    assert "K = 0 inner steps" in (said := text(inner_steps=0)) and "the mean over 2 tasks of g_q(θ₀)" in said
    assert "needs     no_inner_steps: case.inner_steps is 0" in said
    assert "only w2, b2 adapt" in (said := text(adapt=("w2", "b2"))) and "θ₀ − A g_s(θ₀)" in said and "I − H₀A" in said
    assert re.search(r"\n  α +w1 1 × 2 +\S+  \S+\n", said := text(per_parameter=True, unequal=True))
    assert "T = 2 tasks of 3 + 4, 4 + 5 examples" in said
    diverging = text(inner_lr=2.0**40, inner_steps=5)
    assert max(map(len, diverging.splitlines())) <= show.WIDTH


def test_unknown_values_are_listed():
    case = CORE["softplus"]
    case = cases.dataclasses.replace(
        case, answer=cases.dataclasses.replace(case.answer, bugs=dict(case.answer.bugs) | {"reptile": None})
    )
    table = show.show_page(case).split("what each classic mistake gives")[1]
    assert "not known reptile: diverges here" in re.sub(r" +", " ", table) and not re.search(r"\n  reptile ", table)


def test_fractions():
    from fractions import Fraction

    assert show._fraction(Fraction(3780)) == "3780" and show._fraction(Fraction(-3, 2)) == "-3/2"
    assert show._fraction(Fraction(7, 2**41)) == "7/2^41"
    assert show._fraction(Fraction(1, 8 * 9 * 11)) == "1/(2^3·3^2·11)"
    long = show._fraction(Fraction(3**100, 2))
    assert long == f"{str(3**100)[:10]}…{str(3**100)[-6:]} [48 digits]/2"


def test_find(monkeypatch):
    assert show.find_case("tanh").id == "tanh" and show.find_case("tanh").answer is not None
    assert show.find_case("core:float64:17:first_order/quartic").id == "quartic"
    drawn, wanted = show.find_case("fresh-7-1"), questions.fresh(7, 2)[1]
    assert drawn.id == "fresh-7-1" and np.array_equal(flat(drawn.answer.meta_grad), flat(wanted.answer.meta_grad))
    for wrong, near in (("integers", "integers-2, integers-1"), ("fresh-7-99", "fresh-7-15"), ("soft-max", "softmax")):
        with pytest.raises(ValueError, match=f"no case '{wrong}'; near it: .*{near}"):
            show.find_case(wrong)
    with pytest.raises(ValueError, match="no case 'zzz'; `tinymaml oracle show` lists"):
        show.find_case("zzz")

    core = cases.load

    def without_full(suite="core", **more):
        if suite == "full":
            raise ImportError("pip install tinymaml[oracle]")
        return core(suite, **more)

    monkeypatch.setattr(show, "load", without_full)
    assert show.find_case("tied").id == "tied"
    with pytest.raises(ValueError, match=r"the suite full was not searched: pip install tinymaml\[oracle\]"):
        show.find_case("tieed")

    def tampered(suite="core", **more):
        raise Tampered("core.json has been changed")

    monkeypatch.setattr(show, "load", tampered)
    with pytest.raises(Tampered):
        show.find_case("tied")


def test_command(capsys):
    assert main(["oracle", "show", "quartic"]) == 0
    assert capsys.readouterr().out == show.show_page(CORE["quartic"]) + "\n"
    assert main(["oracle", "show", "quartics"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and "near it: quartic" in said.err
    assert main(["oracle", "show"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert set(CORE) <= set(listed)


# ── yours beside the right one ──────────────────────────────────────────────────────────────────────────────────────


def answered(case, form=None, **more) -> questions.Answered:
    """What a form of a mistake gives, with its trace."""
    with np.errstate(all="ignore"):
        result = run_form(case, form or {})
    given = {"meta_grad": result.meta_grad, "meta_loss": result.meta_loss, "trace": result.trace} | more
    return questions.read_answer(case, {k: v for k, v in given.items() if v is not None})


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if re.search(r"  (all|\d+\.\d)(  ◀.*)?$", line)]


@pytest.mark.parametrize("id", CORE)
def test_what_is_right_is_all_right(id):
    case = CORE[id]
    text = diff.diff_page(case, answered(case))
    assert diff.agree(case, answered(case)) and "◀" not in text and max(map(len, text.splitlines())) <= diff.WIDTH
    count = case.tasks * (3 * case.inner_steps + 3) + 2
    assert f"All {count} quantities that came are right." in text
    assert all(line.endswith("  all") or float(line.split()[-1]) > 11 for line in rows(text))


@pytest.mark.parametrize("form, first", [
    ({"inner": "stale"}, "θ₂"), ({"steps": -1}, "L_s(θ₂)"), ({"inner": "ascent"}, "θ₁"), ({"start": "leaked"}, "θ₀"),
    ({"data": "query is support"}, "L_q(θ₃)"), ({"factors": "detached"}, "meta_grad"), ({"steps": 1}, "L_q(θ₃)"),
    ({"how": {"unit": 0.5}}, "L_s(θ₀)"), ({"outer": "sum"}, "meta_loss"), ({"result": "doubled"}, "meta_grad"),
])  # fmt: skip
def test_the_first_difference_is_marked(form, first, few_forms):
    case = CORE["tanh"]
    answer = answered(case, form)
    text = diff.diff_page(case, answer)
    marked = [line for line in text.splitlines() if "◀" in line]
    assert not diff.agree(case, answer) and max(map(len, text.splitlines())) <= diff.WIDTH
    assert marked[0].split()[0] == first and marked[0].endswith("◀ the first")
    assert not any("◀ the first" in line for line in marked[1:])
    assert re.search(rf"\d+ of \d+ quantities\s+differ; the first is {re.escape(first)}", text)
    (name,) = {name.split("/")[0] for name, f in forms(case).items() if f == form}
    assert f"your meta-gradient is that of {name}" in " ".join(text.split())


def test_numbers_stand_beside_the_right_ones():
    case = CORE["quartic"]
    text = diff.diff_page(case, answered(case, {"factors": "detached"}))
    (line,) = [x for x in rows(text) if x.startswith("  meta_grad")]
    assert line.split()[1:5] == ["theta", "0.671479702", "0.05918646951", "0.0"]
    (line,) = [x for x in rows(text) if x.startswith("  θ₁")]
    assert line.split()[1:] == ["theta", "1.078125", "1.078125", "all"]
    assert "All values before it are right; their derivative is not." in text


def test_of_a_large_tensor_the_worst_number_is_shown(one_form):
    case = references.solve_case(draw("tanh 2-5-1 mse", 0, id="large", inner_steps=1, tasks=1))
    grads = {n: np.array(g) for n, g in case.answer.meta_grad.items()}
    grads["w1"][1, 3] *= 1.01
    text = diff.diff_page(case, answered(case, meta_grad=grads, trace=None))
    (line,) = [x for x in rows(text) if x.startswith("  meta_grad")]
    assert line.startswith("  meta_grad  w1[1, 3] (of 21)") and line.endswith("  2.0  ◀ the first")


def test_what_came_otherwise_is_compared_too(few_forms):
    """`adapted`, `losses`, a trace with lists, one that is too short, of other shapes, or not of numbers."""
    case = CORE["tanh"]
    ways = run_form(case, {}).trace
    lists = [{"theta": [list(p.values()) for p in way["theta"]]} for way in ways]
    assert diff.agree(case, answered(case, trace=lists))
    answer = answered(case, trace=None)
    answer.adapted, answer.losses = [way["theta"][-1] for way in ways], [way["loss_s"] for way in ways]
    text = diff.diff_page(case, answer)
    assert diff.agree(case, answer) and text.count("L_s(θ") == 9 and text.count("  θ₃") == 3
    answer.losses[1][2] *= 1.001
    marked = [x for x in diff.diff_page(case, answer).splitlines() if "◀ the first" in x]
    assert [x.split()[0] for x in marked] == ["L_s(θ₂)"]
    for wrong, said in (([{"loss_s": [1.0]}] * 3, "it is missing: 1 entries came"), ([{"loss_q": "much"}] * 3, "dtype"),
                        ([{"theta": [[1, 2]] * 4}] * 3, "cannot be"), ([{"loss_q": [[1]]}] * 3, "shape"),
                        ([{"grad_s": ["x" * 200] * 9}] * 3, "9 entries came, wanted 3")):  # fmt: skip
        text = diff.diff_page(case, answered(case, trace=wrong))
        assert said in text and "◀" in text and max(map(len, text.splitlines())) <= diff.WIDTH


MINE = """
import numpy as np, tinymaml as tm

def right(case, first_order=False):
    print("a line of its own")
    loss, params, tasks = case.numpy()
    meta = tm.meta_value_and_grad(
        loss, inner_lr=case.inner_lr, inner_steps=case.inner_steps, first_order=first_order)
    value, grads = meta(params, tasks)
    return {"meta_grad": grads, "meta_loss": value}

def fomaml(case):
    return right(case, first_order=True)

def broken(case):
    raise RuntimeError("\x1b[2J no")
"""


def test_command_with_a_candidate(tmp_path, monkeypatch, capsys):
    (tmp_path / "others.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    assert main(["oracle", "show", "quartic", "--mine", "others:right"]) == 0
    said = capsys.readouterr()
    assert "All 2 quantities that came are right." in said.out and said.err == "a line of its own\n"
    assert main(["oracle", "show", "quartic", "--mine", "others:fomaml"]) == 1
    out = capsys.readouterr().out
    assert "0.671479702" in out and "◀ the first" in out and "that of fomaml" in out
    assert main(["oracle", "show", "quartic", "--mine", "others:broken"]) == 1
    said = capsys.readouterr()
    assert "Yours gave no answer: it says: RuntimeError:" in said.out and "\x1b" not in said.out
    assert "Traceback" in said.err and "no" in said.err
    for arguments, said in ((["quartic", "--mine", "others"], "wanted package.module:function"),
                            (["--mine", "others:right"], "id of a case"),
                            (["quartics", "--mine", "others:right"], "near it: quartic")):  # fmt: skip
        assert main(["oracle", "show", *arguments]) != 0
        assert said in capsys.readouterr().err
