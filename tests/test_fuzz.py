"""Random losses, with hypothesis: what is compiled is what NumPy computes; and the fuzzer finds what is wrong.

`bench.fuzz` draws the programs and judges them; here hypothesis makes the decisions, so that it can make them small.
"""

import json
import random
import re
import signal
from collections import Counter

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import tinymaml as tm
from bench import __main__ as command
from bench import fuzz
from tinymaml import ops
from tinymaml.numpy_api import NUMPY
from tinymaml.programs.compiled import Replay


class Decisions:
    """Hypothesis, as `fuzz.draw` asks it."""

    def __init__(self, data):
        self.data = data

    def randint(self, low: int, high: int) -> int:
        return self.data.draw(st.integers(low, high)) if low < high else low


def agrees(program: fuzz.Program, *ways: str) -> fuzz.Outcome:
    outcome = fuzz.examine(program, ways)
    for finding in outcome.findings:
        raise AssertionError(f"\n{finding}")
    return outcome


# ── random losses ───────────────────────────────────────────────────────────────────────────────────────────────────


def of_examples(few: int, many: int):
    """A test of as many programs: few by default."""
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.slow)])


def drawn_by_hypothesis(count: int, judge) -> None:
    @settings(max_examples=count, phases=[Phase.generate, Phase.shrink])
    @given(st.data())
    def examples(data):
        judge(Decisions(data))

    examples()


@of_examples(25, 500)
def test_random_losses_replayed_are_what_numpy_computes(count):
    drawn_by_hypothesis(count, lambda decisions: agrees(fuzz.draw(decisions), "tensors", "record", "replay"))


@of_examples(25, 300)
def test_random_losses_of_seeds_are_what_numpy_computes(count):
    """As by hand: more varied than what hypothesis tries, and made small by `fuzz.small`."""
    for seed in range(count):
        for finding in fuzz.examine(fuzz.draw(random.Random(seed)), ("tensors", "record", "replay")).findings:
            raise AssertionError(f"seed {seed}: {fuzz.small(finding)}")


# arrays without elements, float16 (NumPy makes it of int8), and shapes that depend on values, as those of np.argwhere
HAS_NO_CODE = re.compile("an array of length|dtype float16|depends on a value")


@of_examples(12, 120)
def test_random_losses_compiled_are_what_numpy_computes(count):
    """And most are compiled: on those that are not, the message is about."""
    pytest.importorskip("numba")
    outcomes = []
    drawn_by_hypothesis(count, lambda decisions: outcomes.append(agrees(fuzz.draw(decisions), "compiled")))
    compiled = sum(outcome.compiled for outcome in outcomes)
    left = [reason for outcome in outcomes if not outcome.compiled for reason in outcome.fallbacks]
    bound = len([outcome for outcome in outcomes if any(map(HAS_NO_CODE.search, outcome.fallbacks))])
    assert compiled > 0.85 * (len(outcomes) - bound) and bound < 0.35 * len(outcomes), Counter(left)


@of_examples(2, 40)
def test_random_losses_and_gradients_are_those_of_jax(count):
    pytest.importorskip("jax")
    drawn_by_hypothesis(count, lambda decisions: agrees(fuzz.draw(decisions, jax=True), "jax"))


# ── what the programs are ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def drawn() -> list[fuzz.Program]:
    return [fuzz.draw(random.Random(seed)) for seed in range(3000)]


def test_every_function_is_drawn(drawn):
    names = set().union(*(program.functions() for program in drawn))
    found = {getattr(np.linalg if "." in name else np, name.rpartition(".")[2]) for name in names}
    apart = "numpy.linalg", "numpy.fft"  # which are replayed: `cases_linalg` and its neighbours check them
    assert not {f for f in NUMPY if f not in found and not str(getattr(f, "__module__", "numpy")).startswith(apart)}


@pytest.mark.parametrize(
    "what",
    [*(f"tm.nn.{f}(" for f in ("linear", "conv2d", "batch_norm", "max_pool2d", "avg_pool2d", "embedding", "relu",
                               "sigmoid", "softplus", "mse", "cross_entropy", "binary_cross_entropy")),
     *(f", np.{x})" for x in fuzz.DTYPES if x != "bool"), ", bool)", "tm.meta_value_and_grad(", "memory='flat'",
     "inner_steps=3", "tm.hvp(", "has_aux=True", "tm.stop_gradient(", "nonlocal ", "global ", "value(", "isinstance(",
     "hasattr(", "p1i=", "except TypeError", "for i in range(", "buffer[...] = ", " @ ", " & ", ".astype(", ".T",
     "'rate'", ".rate", "-0.0", "inf", "nan", "-128"],
)  # fmt: skip
def test_every_construct_is_drawn(drawn, what):
    assert any(what in program.text() for program in drawn)


def test_most_programs_return_values(drawn):
    """Errors are drawn now and then; were they frequent, nothing would be compared."""

    def raises(program):
        return isinstance(fuzz.called(program.load()["run"], program.nested(program.calls[0])), fuzz.Raised)

    count = sum(map(raises, drawn[:300]))
    assert 0 < count < 60


def test_what_is_printed_can_be_run(drawn, capsys, monkeypatch):
    monkeypatch.setattr(tm, "compile", lambda f: f)
    for program in drawn[:10]:
        try:
            with np.errstate(all="ignore"):
                exec(program.text(), {})
        except Exception as error:
            assert isinstance(fuzz.called(program.load()["run"], program.nested(program.calls[0])), fuzz.Raised), error
    assert capsys.readouterr().out


def test_a_seed_is_always_the_same_program():
    assert fuzz.draw(random.Random(7)).text() == fuzz.draw(random.Random(7)).text()


# ── what differs is found ───────────────────────────────────────────────────────────────────────────────────────────


def program(*body: str, form="plain", setup=(), x=(0.5, -1.5, 2.0), d=(1, 2, 0), **settings) -> fuzz.Program:
    """`body` assigns v0f, v1f, …, of which the last is returned."""
    statements = [(f"v{i}f", f"v{i}f = {text}") for i, text in enumerate(body)]
    calls = [[np.array(x), np.array(d)], [np.array(x[::-1]), np.array(d)]]
    outputs = [statements[-1][0]]
    return fuzz.Program(["x0f"], ["d0i"], dict(setup), statements, outputs, form, settings, False, calls)


def findings(one: fuzz.Program, *ways: str) -> list[tuple[str, str]]:
    return [(found.way, found.kind) for found in fuzz.examine(one, ways).findings]


def test_a_wrong_value_a_wrong_dtype_and_a_wrong_error_are_found(monkeypatch):
    right = program("x0f * d0i", "np.tanh(v0f)")
    assert not findings(right, "tensors", "record", "replay")
    for wrong, kind in (
        (lambda x: np.tanh(x) * (1 + 1e-13), "value"), (lambda x: np.tanh(x).astype(np.float32), "dtype"),
        (lambda x: np.tanh(x)[:1], "dtype"), (lambda x: 1 / 0, "error"),
        (lambda x: np.where(x < 0, np.nan, np.tanh(x)), "value"),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(ops.tanh, "forward", wrong)
            assert findings(right, "tensors") == [("tensors", kind)]


def test_a_wrong_derivative_is_found_by_jax(monkeypatch):
    pytest.importorskip("jax")
    one = program("np.tanh(x0f)", form="value_and_grad")
    assert not findings(one, "jax")
    monkeypatch.setattr(ops.tanh, "vjp", (lambda g, z, x: g * (1 - z * z * (1 + 1e-9)),))
    assert findings(one, "jax") == [("jax", "value")]


def frozen(f):
    """In the place of `tm.compile`: the first call's result for ever."""
    kept = []
    return lambda *args: kept[0] if kept or kept.append(f(*args)) is None else None


def test_what_is_frozen_at_the_first_call_is_found_at_the_second(monkeypatch):
    monkeypatch.setattr(tm, "compile", lambda f, backend: frozen(f))
    (found,) = fuzz.examine(program("x0f * 2"), ("replay",)).findings
    assert found.what.startswith("second call: [0]: at (0,) ")


@pytest.mark.parametrize("closure", [False, True])
def test_what_is_closed_over_and_changed_is_seen(closure, monkeypatch):
    class Once:
        """The result for each argument for ever."""

        def __init__(self, f, backend):
            self.f, self.kept = f, {}

        def __call__(self, *args):
            key = str(args)
            self.kept[key] = self.kept.get(key) or self.f(*args)
            return self.kept[key]

    one = program("x0f * c1i", setup={"c1i": ("c1i = 2.0", "c1i = 3.0")})
    one.closure = closure
    monkeypatch.setattr(tm, "compile", Once)
    (found,) = fuzz.examine(one, ("replay",)).findings
    assert found.what.startswith("after a change: [0]: at (0,) ")


def test_a_wrong_result_that_compile_notices_is_found(monkeypatch):
    run = Replay.run

    def wrong(self, *args):
        results, *rest = run(self, *args)
        return [x * 1.001 for x in results], *rest

    monkeypatch.setattr(Replay, "run", wrong)
    assert findings(program("np.tanh(x0f)"), "replay") == [("replay", "fault")]


def test_rounding_allows_for_another_order_of_a_sum_and_for_nothing_else():
    sum_ = program("np.sum(x0f * 1.1) - 1e-14", x=(1e9, 1.0, -1e9))
    run, call = sum_.load()["run"], sum_.calls[0]
    ((allowed,),) = [fuzz.tolerances(sum_, run, call)]
    assert 1e-8 < allowed < 1e-4
    exact = program("np.sum(np.abs(np.floor(x0f)))")
    (allowed,) = fuzz.tolerances(exact, exact.load()["run"], exact.calls[0])
    assert allowed < 1e-13
    flips = program("(x0f * 1.1 >= np.sum(x0f) * 1.1) * 1.0", x=(0.7, 0.0, 0.0))  # a tie, but for rounding
    (allowed,) = fuzz.tolerances(flips, flips.load()["run"], flips.calls[0])
    assert allowed[0] > 1 > allowed[1]


def test_nothing_is_asked_of_what_numpy_decides_by_the_way():
    """Which zero is the largest; what BLAS makes of infinity times 0. Of other zeros, and infinities, all is."""

    def allowed(one):
        with np.errstate(invalid="ignore"):
            return fuzz.tolerances(one, one.load()["run"], one.calls[0])[0]

    tiny = np.finfo(float).tiny
    assert allowed(program("np.max(x0f, keepdims=True)", x=(0.0, -0.0, -0.0))) > 5 * tiny
    assert allowed(program("np.max(x0f, keepdims=True)", x=(0.0, 0.0, -1.0))) <= 5 * tiny
    product = allowed(program("np.dot(x0f[:, None], np.zeros((1, 1)))", x=(np.inf, 1.0, 2.0)))
    assert np.isinf(product[0]) and np.isfinite(product[1:]).all()


def test_a_float64_that_is_made_of_float32_may_be_as_far_off_as_one():
    """Where nothing is recorded that could say more."""
    x = np.array([2.0])
    assert fuzz.difference(x * (1 + 1e-6), x, None)[0] == "value"
    assert not fuzz.difference(x * (1 + 1e-6), x, None, float(np.finfo(np.float32).eps))


@pytest.mark.parametrize("form", ["value_and_grad", "grad", "hvp", "nested", "plain", "meta"])
def test_bounds_are_of_the_leaves_they_are_compared_with(form):
    how = dict(inner_lr=0.1, inner_steps=1, has_aux=True, first_order=False, memory="unrolled")
    one = program("np.sin(x0f)", "v0f * d0i", form=form, **(how if form == "meta" else {}))
    if form == "meta":
        one.others.append("d1i")
        one.calls = [[x, np.stack([d] * 3), np.stack([d] * 3)] for x, d in one.calls]
    run, call = one.load()["run"], one.calls[0]
    leaves = tm.tree_leaves(run(*one.nested(call)))
    bounds = fuzz.tolerances(one, run, call)
    assert [np.shape(x) for x in bounds] == [np.shape(x) for x in leaves]
    assert not findings(one, "record", "replay")


# ── made small, in processes that may crash ─────────────────────────────────────────────────────────────────────────


def test_a_finding_is_made_small(monkeypatch):
    monkeypatch.setattr(ops.tanh, "forward", lambda x: np.tanh(x) * 1.001)
    long = program("np.exp(x0f)", "v0f + d0i", "np.tanh(v1f)", "v2f * 2", "np.sin(v3f)")
    long.closure, long.setup = True, {"c9i": ("c9i = 1", "c9i = 2")}
    (found,) = fuzz.examine(long, ("tensors",)).findings
    small = fuzz.small(found).program
    assert [text for _, text in small.body] == ["v2f = np.tanh(x0f)"]
    assert not small.closure and not small.setup and not small.others


@pytest.mark.parametrize("hangs", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_program_that_crashes_or_hangs_is_told_and_the_others_run(monkeypatch, hangs):
    calls = []

    def child(*arguments, **how):
        """The second of the four programs crashes, and the third may hang."""
        calls.append(arguments)
        lines = ("if seed == 1:\n        os.kill(os.getpid(), 11)\n"
                 f"    if {hangs} and seed == 2:\n        time.sleep(600)\n"
                 "    return program_of(seed, jax)")  # fmt: skip
        code = ("import os, sys, time\nfrom bench import fuzz\nprogram_of = fuzz.program_of\n"
                f"def other(seed, jax=False):\n    {lines}\n"
                "fuzz.program_of = other\nfuzz.main(sys.argv[1:])")  # fmt: skip
        del how["cache"]  # a folder of its own: here, that of the tests will do
        return fuzz.subprocess.Popen(
            [fuzz.sys.executable, "-c", code, *arguments], cwd=fuzz.Path(fuzz.__file__).parents[1], text=True,
            start_new_session=True, **how,
        )  # fmt: skip

    monkeypatch.setattr(fuzz, "_child", child)
    told, seed = [], 0
    while seed < 4:
        seed = fuzz.run_batch(seed, 4 - seed, told.append, patience=8)
    assert [answer["done"] for answer in told] == [0, 1, 2, 3] and len(calls) == 2 + hangs
    third = "hangs (for 8 s)" if hangs else None
    assert [answer.get("died") for answer in told] == [None, f"crashed ({-signal.SIGSEGV})", third, None]


def test_the_command_reports_what_it_ran(monkeypatch, capsys):
    def run_batch(first, count, tell):
        tell({"done": first, "findings": [{"key": "replay, value: x = x", "text": "a text"}], "notes": [],
              "fallbacks": ["compiled: is replayed"], "compiled": True})  # fmt: skip
        tell({"done": first + 1, "findings": [{"key": "replay, value: x = x", "text": "short"}], "notes": ["a note"]})
        raise KeyboardInterrupt

    monkeypatch.setattr(fuzz, "run_batch", run_batch)
    assert command.main(["fuzz", "--seed", "5", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["programs"], report["compiled"], report["seed"]) == (2, 1, 5)
    assert report["findings"] == {"replay, value: x = x": {"seed": 6, "text": "short", "count": 2}}
    assert report["fallbacks"] == {"compiled: is replayed": 1} and report["notes"] == {"a note": 1}
    command.main(["fuzz"])
    assert "── 2 × replay, value: x = x ──\nseed 1: short" in capsys.readouterr().out
    assert command.main(["fuzz", "--show", "3"]) == 0
    assert fuzz.program_of(3)[0].text() in capsys.readouterr().out


def test_a_program_that_ends_its_process_is_made_small(monkeypatch):
    """Here, one that contains a product."""
    monkeypatch.setattr(fuzz, "dies", lambda one, ways: "@" in one.source())
    report = fuzz.Report(0)
    one = program("np.exp(x0f)", "v0f @ v0f", "v1f + 2")
    monkeypatch.setattr(fuzz, "program_of", lambda seed, jax: (one, ("replay",)))
    report.tell({"done": 0, "died": "crashed (-11)"})
    ((key, found),) = report.findings.items()
    assert key == "process, crashed (-11): x = x @ x"
    assert "np.exp" not in found["text"] and "x0f @ x0f" in found["text"]


@pytest.mark.parametrize(
    "line, message",
    [("fuzz --minutes 0", "--minutes is 0, wanted more than 0"), ("fuzz --seed -1", "--seed is -1, wanted at least 0")],
)
def test_bad_input_is_one_clear_error(line, message, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(line.split())
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
