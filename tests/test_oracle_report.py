"""The report that a person reads: what stands in it, in which order; its program runs; its tables are true."""

import contextlib
import dataclasses
import importlib.util
import inspect
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from tinymaml import oracle
from tinymaml.oracle import family, models, questions, references, tolerance
from tinymaml.oracle.cases import draw
from tinymaml.oracle.catalogue import CATALOGUE, flat, run_form
from tinymaml.oracle.clues import evidence, match
from tinymaml.oracle.clues.evidence import Evidence
from tinymaml.oracle.diagnosis import judge
from tinymaml.oracle.pages import report, snippet
from tinymaml.oracle.pages.report import CaseResult, Report
from tinymaml.oracle.questions import Answered, read_answer

pytestmark = pytest.mark.usefixtures("confirmed_once", "computed_once")
CORE = {c.id: c for c in oracle.load("core")}
FEW = [CORE[id] for id in ("quartic", "integers-1", "integers-2", "square", "batch-norm")]  # that are quick to search
LIBRARIES = [
    pytest.param("numpy"),
    pytest.param("torch", marks=pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs torch")),
    pytest.param("jax", marks=pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="needs jax")),
]


@pytest.fixture(scope="module")
def asked() -> list:
    """What `check` asks of the core, with new cases from one seed."""
    return [case for case in [*CORE.values(), *questions.fresh(0, 2)] if not case.needs]


# ── candidates, as people write them ────────────────────────────────────────────────────────────────────────────────


def in_torch(case, exact=True):
    import torch

    loss, params, ((xs, ys), (xq, yq)) = case.torch()
    total = 0.0
    for t in range(case.tasks):
        fast = dict(params)
        for _ in range(case.inner_steps):
            grads = torch.autograd.grad(loss(fast, xs[t], ys[t]), list(fast.values()), create_graph=exact)
            fast = {n: p - case.inner_lr * g for (n, p), g in zip(fast.items(), grads, strict=True)}
        total = total + loss(fast, xq[t], yq[t]) / case.tasks
    return {"meta_grad": torch.autograd.grad(total, list(params.values())), "meta_loss": total}


def in_jax(case, exact=True):
    import jax

    loss, params, (support, query) = case.jax()

    def adapted(params, x, y):
        fast = params
        for _ in range(case.inner_steps):
            grads = jax.grad(loss)(fast, x, y)
            grads = grads if exact else jax.lax.stop_gradient(grads)
            fast = {n: p - case.inner_lr * grads[n] for n, p in fast.items()}
        return fast

    def mean(params):
        return sum(loss(adapted(params, support[0][t], support[1][t]), query[0][t], query[1][t])
                   for t in range(case.tasks)) / case.tasks  # fmt: skip

    value, grads = jax.jit(jax.value_and_grad(mean))(params)
    return {"meta_grad": grads, "meta_loss": value}


def in_numpy(case, exact=True):
    import tinymaml as tm  # here, so that the function can be pasted

    loss, params, ((xs, ys), (xq, yq)) = case.numpy()
    tasks = [((xs[t], ys[t]), (xq[t], yq[t])) for t in range(case.tasks)]
    meta = tm.meta_value_and_grad(loss, inner_lr=case.inner_lr, inner_steps=case.inner_steps, first_order=not exact)
    value, grads = meta(params, tasks)
    return {"meta_grad": grads, "meta_loss": value}


CANDIDATES = {"torch": in_torch, "jax": in_jax, "numpy": in_numpy}


def formula(form, more=None):
    """A candidate that answers what a form of a mistake gives."""

    def mine(case):
        with np.errstate(all="ignore"):
            result = run_form(case, form)
        grads = result.meta_grad if more is None else more(result.meta_grad)
        return {"meta_grad": grads, "meta_loss": result.meta_loss}

    return mine


def changed(by):
    def mine(case):
        answer = in_numpy(case)
        return answer | {"meta_grad": by(answer["meta_grad"])}

    return mine


def judged_by(mine, these=FEW):
    """Cases, judged by what a candidate answers to them."""
    return [judge(case, read_answer(case, mine(case))) for case in these]


def with_evidence(got: Report, these) -> Report:
    """The report, filled in as the diagnosis does at its end."""
    got.cases = got.cases or match.rows(these, "")
    evidence.add_evidence(got, [], {}, these)
    return got


def written(got: Report) -> str:
    """Its text, for which holds what holds of every report."""
    text = str(got)
    assert text.startswith(got.verdict + (f"  {got.bug}" if got.bug else "") + "\n")
    assert max(map(len, text.splitlines())) <= report.WIDTH
    assert not re.search(r" \n| $|\bnan\b|\binf\b|None", text.split("def mine")[0].replace("adapt=None", ""))
    clauses = [c for line in (got.explanation, *got.notes) for c in line.split("; ")]
    prose = " ".join(text.split("# ──")[0].split())
    assert all(prose.lower().count(c.lower()) <= 1 for c in clauses if len(c) > 12 and c.lower() in prose.lower())
    data = json.loads(got.to_json())
    assert "\n" not in got.to_json() and data["verdict"] == got.verdict and len(data["cases"]) == len(got.cases)
    return text


def in_order(text: str, *parts: str) -> None:
    """Every part stands in the text, each after the one before, wherever its lines are broken."""
    at, text, parts = 0, " ".join(text.split()), [" ".join(part.split()) for part in parts]
    for part in parts:
        assert part in text[at:], f"{part!r} is not where it should be in\n{text}"
        at = text.index(part, at) + len(part)


def program_of(text: str) -> str:
    return text[text.index("# ──") : text.index("# ──\n")]


def said_by(program: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(program, "pasted.py", "exec"), {"__name__": "pasted"})
    return out.getvalue()


def with_step(program: str, mine, given: str) -> str:
    """The program, with a person's function in the place of what came."""
    start, rest = program.split("def mine(case)")
    _, end = rest.split("answer = mine(case)")
    return f"{start}{inspect.getsource(mine)}\nanswer = {mine.__name__}({given}){end}"


# ── the reports ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("library", LIBRARIES)
def test_fomaml(library):
    few = [CORE[id] for id in ("quartic", "tanh")[: 1 if library == "jax" else 2]]  # JAX compiles for seconds
    got = oracle.check(lambda case: CANDIDATES[library](case, exact=False), few)
    assert got.framework == library
    text = written(got)
    idiom = {"torch": "create_graph=True", "jax": "jax.lax.stop_gradient", "numpy": "in PyTorch, torch.autograd"}
    in_order(
        text, "KNOWN_BUG  fomaml", "The inner gradient was detached", "computed   g_q(θ_K)",
        "right      1/T Σₜ (I − αH₀)…(I − αH_{K−1}) g_q(θ_K)", "fix ", idiom[library],
        "quartic, the smallest case that fails", "def mine(case)", "parameter  shape", "theta      scalar",
        "repeats, own cases", "wrong      all", "right      none", "case     digits  relative  roundings",
    )  # fmt: skip
    other = {"torch": "JAX", "jax": "create_graph", "numpy": None}[library]
    assert other is None or other not in text
    program = program_of(text)
    assert f"{library}=given" in program and "theta: apart by 6.1e-01" in said_by(program)
    for exact, off in ((True, 0.0), (False, 0.61)):
        said = said_by(with_step(program, CANDIDATES[library], f"case, exact={exact}"))
        assert float(re.search(r"theta: apart by (\S+);", said)[1]) == pytest.approx(off, abs=1e-16)


def test_a_factor():
    these = judged_by(changed(lambda g: {n: 0.375 * x for n, x in g.items()}))
    text = written(with_evidence(match.scaled(these), these))
    in_order(text, "WRONG_UNKNOWN", "0.375 times the right one", "kind", "smallest case", "0.375", "wrong all")
    (row,) = [line for line in text.splitlines() if line.startswith("  theta ")]
    assert row.split()[-2:] == ["0.375", "0.2"]
    assert "computed" not in text and "right      1/T" not in text  # nothing is claimed to be computed


def test_a_mistake_times_a_factor():
    these = judged_by(formula({"factors": "detached"}, lambda g: {n: 2 * x for n, x in g.items()}))
    got = with_evidence(match.one_times_a_size(these), these)
    assert (got.bug, got.factor) == ("fomaml", "2")
    in_order(written(got), "computed   g_q(θ_K), times 2", "right      1/T")
    got.numbers = {"λ": 5e-4}  # of a mistake with a free number
    in_order(written(got), "computed   g_q(θ_K), times 2,  λ = 0.0005", "right      1/T")


def test_an_unknown_mistake():
    """As the diagnosis fills it in; how it finds it is for other tests."""
    got = Report("WRONG_UNKNOWN", None, "every entry is the square of the right one", "case tanh, task 0: theta",
                 "wrong derivative", notes=["your meta-loss is right"])  # fmt: skip
    text = written(with_evidence(got, judged_by(changed(lambda g: {n: x**2 for n, x in g.items()}))))
    in_order(text, "WRONG_UNKNOWN", "Every entry is the square of the right one.", "kind       wrong derivative",
             "where case tanh, task 0: theta", "smallest case", "wrong", "note your meta-loss is right")  # fmt: skip
    assert "computed" not in text


def test_imprecise():
    these = judged_by(changed(lambda g: {n: np.asarray(x, np.float32) for n, x in g.items()}))
    got = Report("IMPRECISE", None, "7 digits agree where float64 has 16: it is float32",
                 notes=[note for j in these for note in j.answer.notes])  # fmt: skip
    text = written(with_evidence(got, these))
    in_order(text, "IMPRECISE\n", "Right, but to fewer digits than the dtype has: 7 digits agree", "smallest case",
             "wrong  ", "right  ", "integers-1", "digits  relative  roundings",
             "note       meta_grad came as float32")  # fmt: skip
    digits = [float(x) for x in re.findall(r"^  \S+ +(\d\.\d) +\d\.\de-\d\d +\S+$", text, re.M)]
    assert len(digits) == sum(not j.passed for j in these) > 1 and all(7 <= d < 9 for d in digits)


def test_a_protocol_error(asked):
    text = written(oracle.check(lambda case: {"meta_grad": [1.0]}, asked))
    in_order(text, "PROTOCOL_ERROR\n", "has 1 arrays, wanted 4: w1, b1, w2, b2", "where      case tanh", "meta_grad",
             "… and ")  # fmt: skip
    assert "smallest" not in text and "digits" not in text
    said = ["Traceback:", "  line 1", "Error", "Traceback:", "  line 2", "Error"]  # repeats belong to it
    text = str(Report("PROTOCOL_ERROR", explanation="no", notes=["it ended", *(f"stderr: {x}" for x in said)]))
    assert [line[13:] for line in text.splitlines()[-6:]] == said and text.count("stderr") == 1


def test_text_of_others_is_kept_apart(asked):
    def mine(case):
        raise ValueError("\x1b[2J\nCORRECT\n" + "x" * 500)

    text = written(oracle.check(mine, asked))
    assert "\x1b" not in text and "\nCORRECT" not in text and "\\x1b[2J" in text
    case = CORE["quartic"]
    hostile = Report("WRONG_UNKNOWN", explanation="a\rb", kind="k\x1b[0m", notes=["n\nCORRECT"],
                     cases=[CaseResult("id\x1b", False, 1e9, "fits\nCORRECT", 0.5)],
                     evidence=Evidence(case, {"\x1b": np.array(1.0)}, {"\x1b": np.array(2.0)}))  # fmt: skip
    assert "\x1b" not in str(hostile) and not re.search("^ *CORRECT", str(hostile), re.M)


def test_correct(asked):
    got = oracle.check(in_numpy, asked)
    got.seconds = 1.25
    text = written(got)
    in_order(text, "CORRECT\n", "right to rounding in every case", "worst ", " relative, in ", " roundings, in ",
             "(30 are allowed)", f"covered {len(asked)} cases and ", "float64, 1.2 s", "K = 1, 2, 3", "T = 1, 2, 3",
             "α from", "models:", "conv", "losses", "mse", "not asked", "first_order", "--capability",
             "--dtype float32")  # fmt: skip
    assert float(re.search(r"worst      (\S+) relative", text)[1]) == pytest.approx(
        max(c.relative for c in got.cases), rel=0.05
    )
    assert "smallest" not in text and "wrong" not in text
    assert got.asked == len(asked) + int(re.search(r"and (\d+) repeats", text)[1])


def test_what_is_skipped_is_said_with_its_flag(asked, few_forms):
    first_order = references.solve_case(draw("tanh 1-2-1 mse", 0, id="first-order", first_order=True))
    text = written(oracle.check(in_numpy, [*asked, first_order]))
    in_order(text, "CORRECT\n", "skipped    1 case (--capability first_order)")
    assert "first_order" not in text.split("not asked")[1]
    alone = Report("CORRECT", covered=evidence.covered([first_order]), cases=[CaseResult("first-order", True)])
    assert "first_order" not in str(alone).split("not asked")[1]
    text = written(oracle.check(formula({"factors": "exact"}), [first_order, *asked],
                                capabilities=["first_order"]))  # fmt: skip
    in_order(text, "first_order_ignored", "computed", "right      1/T Σₜ g_q(θ_K)   (first-order MAML)")


def test_another_convention(asked, few_forms):
    got = oracle.check(formula({"how": {"unbiased": True}}), asked)
    text, wrong = written(got), [c.id for c in got.cases if not c.passed]
    assert 1 < len(wrong) < len(asked) / 2 and "batch_norm" in str(CORE[got.evidence.case.id].model)
    in_order(text, "CORRECT_OTHER_CONVENTION  unbiased_variance", "Right, under another convention than the cases'",
             "computed   batch norm divides by n − 1", "fix ", f"{got.evidence.case.id}, the smallest",
             f"wrong {len(wrong)}, exactly the cases with batch norm",
             f"right {len(asked) - len(wrong)}: ")  # fmt: skip
    assert "no batch norm" not in text  # the same, said again
    assert "right      1/T" not in text


def test_two_at_once():
    both = {"data": "query is support", "rate": "times examples"}
    ids = ("alpha_times_n", "query_is_support")
    explanation = "two at once: " + "; and ".join(CATALOGUE[i].explanation for i in ids)
    got = with_evidence(Report("KNOWN_BUG", " + ".join(ids), explanation), judged_by(formula(both)))
    in_order(written(got), "KNOWN_BUG  alpha_times_n + query_is_support", "Two at once",
             "computed   alpha_times_n: α → α N", "query_is_support: ", "right      1/T",
             "fix        alpha_times_n: in PyTorch", "query_is_support: in PyTorch", "smallest case")  # fmt: skip


def test_equal_clauses_are_said_once():
    twice = Report("WRONG_UNKNOWN", explanation="b1 is 0; b1 is 0; every step is wrong", notes=["b1 is 0", "x", "x"])
    assert str(twice).count("b1 is 0") == 1 and str(twice).count("note") == 1


def test_a_sentence_begins_with_a_capital_unless_it_begins_with_a_name():
    zero = Evidence(CORE["tied"], {"w": np.zeros((2, 2))}, CORE["tied"].answer.meta_grad)
    assert "\n  w is 0.\n" in str(Report("WRONG_UNKNOWN", explanation="w is 0", evidence=zero))
    assert "\n  All is 0.\n" in str(Report("WRONG_UNKNOWN", explanation="all is 0", evidence=zero))


def test_a_report_needs_no_library():
    """Its text, the program included, is written where neither PyTorch nor JAX can be imported."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['jax'] = None\n"
        "from tinymaml import oracle\n"
        "got = oracle.check(lambda case: {'meta_grad': {n: p * 0 for n, p in case.params.items()}}, cases='quartic')\n"
        "for got.framework in ('torch', 'jax', 'numpy', ''): assert 'def mine' in str(got)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# ── the program ─────────────────────────────────────────────────────────────────────────────────────────────────────


def program(case, library) -> str:
    answer = case.answer
    evidence = Evidence(case, answer.meta_grad, answer.meta_grad, answer.meta_loss)
    return snippet.python_program(evidence, library)


def as_programs():
    """(id, library) of every case; JAX, which compiles for long, has by default those with a layer or loss that none
    before them has."""
    seen: set[str] = set()
    for id, case in CORE.items():
        has = {case.model["loss"], *(m["layer"] for m in case.model["layers"])}
        for library in LIBRARIES:
            known = library == LIBRARIES[2] and has <= seen
            yield pytest.param(id, *library.values, marks=[*library.marks, *[pytest.mark.slow] * known])
        seen |= has


@pytest.mark.parametrize(("id", "library"), list(as_programs()))
def test_a_case_as_a_program(id, library):
    """Its loss is the case's in value, and its arrays are the case's, for every layer and loss of the core."""
    case = CORE[id]
    text = program(case, library)
    assert max(map(len, text.splitlines())) <= snippet.WIDTH
    space: dict = {}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(text, "pasted.py", "exec"), space)
    assert out.getvalue().count("apart by 0.0e+00") == len(case.params)
    loss, params, data = getattr(space["case"], library)()
    for got, wanted in zip(params.values(), case.params.values(), strict=True):
        assert np.array_equal(numbers(got), wanted)
    batches = [[(numbers(x), numbers(y)) for x, y in zip(*part, strict=True)] for part in data]
    for got, wanted in zip(batches, (case.support, case.query), strict=True):
        assert all(np.array_equal(a, b) for g, w in zip(got, wanted, strict=True) for a, b in zip(g, w, strict=True))
    value, _ = models.loss_and_grad(case.model, case.params, *case.support[0], gradient=False)
    got = loss(params, data[0][0][0], data[0][1][0])
    np.testing.assert_allclose(numbers(got), float(value), rtol=1e-12)


def numbers(x) -> np.ndarray:
    return np.asarray(x.detach() if hasattr(x, "detach") else x)


@pytest.mark.parametrize("library", ["numpy", LIBRARIES[1]])
@pytest.mark.parametrize("id", ["pooled-conv", "batch-norm", "tied", "quadratic", "logistic", "softmax", "pool-tie",
                                "relu-at-zero"])  # fmt: skip
def test_the_exact_gradient_of_the_program_is_the_right_one(id, library):
    """Second derivatives too, at kinks too: an exact implementation agrees in it, FOMAML does not."""
    case = CORE[id]
    space: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(program(case, library), "pasted.py", "exec"), space)
    for exact in (True, False):
        grads = CANDIDATES[library](space["case"], exact)["meta_grad"]
        grads = grads if isinstance(grads, dict) else dict(zip(case.params, grads, strict=True))
        grads = {n: numbers(g) for n, g in grads.items()}
        off = tolerance.error(grads, case.answer.meta_grad, case.answer.scale, 2.0**-53)
        assert (off <= tolerance.TAU) is exact


def test_every_layer_and_loss_can_be_written():
    for library in ("numpy", "torch", "jax"):
        assert {*models._LAYERS} <= {"linear", *snippet._LAYERS, *snippet._LAYERS_OF[library]}
        assert {*models._LOSSES, *models._POLICIES} <= {*snippet._LOSSES, *snippet._LOSSES_OF[library]}


def test_special_cases_as_programs():
    """α for each parameter, unequal tasks, float32, strides and paddings."""
    case = references.solve_case(draw("tanh 1-2-1 mse", 0, id="special", per_parameter=True, unequal=True, tasks=2))
    space: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(program(case, "numpy"), space)
    assert all(np.array_equal(space["case"].inner_lr[n], a) for n, a in case.inner_lr.items())
    _, _, ((xs, _), (_, yq)) = space["case"].numpy()
    assert [len(x) for x in xs] == [len(x) for x, _ in case.support] and np.array_equal(yq[1], case.query[1][1])
    assert "np.float32" in program(CORE["tanh"].with_dtype("float32"), "numpy")
    assert "x64" not in program(CORE["tanh"].with_dtype("float32"), "jax")
    omniglot = draw("omniglot", 0, id="omniglot", tasks=1, shots=5, queries=5)
    for padding, stride in (("SAME", 2), ("VALID", 1), (1, 2)):
        model = omniglot.model | {"layers": [dict(layer) for layer in omniglot.model["layers"]]}
        model["layers"][0] |= {"padding": padding, "stride": stride}
        lines = snippet._loss(dataclasses.replace(omniglot, model=model), "numpy")
        space = {"np": np}
        exec("\n".join(lines), space)
        wanted, _ = models.loss_and_grad(model, omniglot.params, *omniglot.support[0], gradient=False)
        np.testing.assert_allclose(space["loss"](omniglot.params, *omniglot.support[0]), float(wanted), rtol=1e-12)


@pytest.mark.parametrize("algorithm", family.ALGORITHMS)
def test_other_algorithms(algorithm):
    """Their formula stands beside what was computed, and their settings are in the program."""
    case = oracle.load("core", algorithm=algorithm)[0]
    name, form = next((n, f) for n, f in family.forms(case).items() if n in case.answer.bugs)
    (j,) = judged_by(lambda case: {"meta_grad": run_form(case, form).meta_grad}, [case])
    mistake = CATALOGUE[name.split("/")[0]]
    got = with_evidence(Report("KNOWN_BUG", mistake.id, mistake.explanation), [j])
    text, formula = written(got), family.ALGORITHMS[algorithm].FORMULA
    in_order(text, "KNOWN_BUG", "computed", "right", *formula.split(",   "), "fix", "smallest case",
             f'algorithm="{algorithm}"', "settings={", "parameter  shape")  # fmt: skip
    said_by(program_of(text))
    assert "capability" not in str(Report("CORRECT", algorithm=algorithm, covered=got.covered, cases=got.cases))


def test_a_case_that_is_too_large_is_named_instead():
    case = references.solve_case(draw("tanh 1-1-1 mse", 0, id="large", tasks=1, inner_steps=1, shots=999))
    zero = {n: p * 0 for n, p in case.params.items()}
    text = str(Report("WRONG_UNKNOWN", explanation="wrong", evidence=Evidence(case, zero, case.answer.meta_grad)))
    in_order(text, "The smallest case that fails is large; its ", "`tinymaml oracle show large`", "parameter  shape",
             "w1[", "1 × 1")  # fmt: skip
    assert "def mine" not in text and max(map(len, text.splitlines())) <= report.WIDTH


# ── tables and what cases share ─────────────────────────────────────────────────────────────────────────────────────


def judged(wrong: set[str]):
    """The core's cases, judged: those in `wrong` are."""
    return [judge(c, Answered({n: g + (c.id in wrong) for n, g in c.answer.meta_grad.items()})) for c in CORE.values()]


def test_the_smallest_case():
    assert evidence.smallest(judged({"tanh", "quartic", "integers-1"})).case.id == "quartic"
    assert evidence.smallest(judged({"tanh", "pooled-conv", "integers-1"})).case.id == "integers-1"
    assert evidence.smallest(judged(set())) is None
    at_once = evidence.smallest(judged({"softmax"}))
    assert at_once.case.id == "softmax" and np.allclose(flat(at_once.yours) - 1, flat(at_once.right))


def test_what_is_shared_is_true():
    """Of any split of the core: every property is one of all cases of its side, and of none of the other."""
    names = list(CORE)
    for seed in range(30):
        chosen = set(np.random.default_rng(seed).choice(names, 4, replace=False))
        these = judged(chosen)
        said = evidence.shared(these)
        for side, passed in (("wrong", False), ("right", True)):
            here = [evidence.properties(j.case) for j in these if j.passed is passed]
            there = [evidence.properties(j.case) for j in these if j.passed is not passed]
            for word in said.get(side, []):
                assert all(word in p for p in here) and not any(word in p for p in there)
    convolutions = {c.id for c in CORE.values() if "conv" in str(c.model)}
    assert "a convolution" in evidence.shared(judged(convolutions))["wrong"]
    assert "no convolution" in evidence.shared(judged(convolutions))["right"]
    several = {c.id for c in CORE.values() if len(c.params) > 1}
    assert evidence.shared(judged(several))["wrong"] == ["several arrays in θ"]
    assert "wrong" not in evidence.shared(judged({"tanh"}))  # one case shares everything with itself


def test_the_table_of_parameters():
    case = CORE["tanh"]
    right = case.answer.meta_grad
    yours = right | {"b2": right["b2"] * 2, "w1": right["w1"] * np.array([[1, 1 + 1e-5]])}
    rows = {line.split("  ")[1]: line.split() for line in report.compared(Evidence(case, yours, right))[1:]}
    assert rows["b2[0]"][-2:] == ["2", "0.0"] and rows["w1[0, 1]"][-2:] == ["1.00001", "5.0"]
    assert rows["w1[0, 0]"][-1] == "all" and float(rows["w2[1, 0]"][-3]) == pytest.approx(right["w2"][1, 0], rel=1e-8)
    nothing = report.compared(Evidence(case, yours, right | {"b2": right["b2"] * 0}))
    assert any(line.split()[0] == "b2[0]" and line.split()[-2:] == ["–", "0.0"] for line in nothing)
    large = {"w": np.arange(1.0, 37).reshape(6, 6), "b": np.ones(3)}
    off = {"w": large["w"] + (large["w"] == 20), "b": -large["b"]}
    title, w, b, said = map(str.split, report.compared(Evidence(case, off, large)))
    assert w[:2] + w[-4:] == ["w[3,", "1]", "21", "20", "1.05", "1.3"] and b[0] == "b[0]" and b[-2:] == ["-1", "0.0"]
    assert title[-1] == "digits" and said[-3:] == ["furthest", "from", "right)"]


def test_relative_errors():
    near, far = judged({"quartic"})[0], next(j for j in judged({"quartic"}) if j.case.id == "quartic")
    assert evidence.relative_error(near) == 0
    assert evidence.relative_error(far) == pytest.approx(1 / abs(float(far.case.answer.meta_grad["theta"])))
    loss = dataclasses.replace(far.answer, grad=far.case.answer.meta_grad, meta_loss=0.0)
    assert evidence.relative_error(judge(far.case, loss)) == 1


def test_frameworks():
    class Answer:
        def __init__(self, framework):
            self.framework = framework

    assert evidence.framework_of([Answer(""), Answer("numpy"), Answer("torch")]) == "torch"
    assert evidence.framework_of([Answer(""), Answer("")]) == ""


def test_json_has_the_evidence_as_numbers():
    got = oracle.check(formula({"factors": "detached"}), [CORE["tanh"], CORE["quartic"]])
    data = json.loads(got.to_json())
    assert data["evidence"]["case"] == "quartic"
    assert data["evidence"]["right"]["theta"] == 0.059186469513861084
    assert data["evidence"]["yours"]["theta"] == pytest.approx(1408195 / 2**21, rel=1e-14)
    assert {"verdict", "bug", "explanation", "location", "kind", "ties", "digits", "suite", "dtype", "cases", "skipped",
            "notes"} <= set(data)  # fmt: skip
    assert data["cases"][0].keys() >= {"id", "passed", "error", "fits", "relative"}
    assert json.loads(Report("SKIPPED").to_json())["evidence"] is None


def test_every_mistake_has_its_formula_and_fix():
    for mistake in CATALOGUE.values():
        for library in ("torch", "jax", ""):
            text = str(Report("KNOWN_BUG", mistake.id, mistake.explanation, framework=library))
            in_order(" ".join(text.split()), mistake.id, "computed", "right 1/T", "fix")
            assert max(map(len, text.splitlines())) <= report.WIDTH
