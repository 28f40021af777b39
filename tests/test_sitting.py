"""The files of the first sitting: their examples run, what they say of records is so, and they stay short."""

import ast
import doctest
import inspect
import io
import re
import tokenize
from pathlib import Path

import numpy as np
import pytest

import tinymaml
from tinymaml import engine, grad, ops
from tinymaml.numpy_api import NUMPY, elementwise, table

PACKAGE = Path(tinymaml.__file__).parent
SITTING = ["engine.py", "ops.py", "nn.py", "maml.py", "numpy_api/table.py"]  # the last shows how np.tanh reaches ops


# ── examples ────────────────────────────────────────────────────────────────────────────────────────────────────────


def examples(module) -> list[doctest.DocTest]:
    """The examples in a module, also those of objects with a docstring of their own, such as `stop_gradient`."""
    found = doctest.DocTestFinder(exclude_empty=True).find(module)
    parser = doctest.DocTestParser()
    for name, x in vars(module).items():
        if isinstance(x, engine.Primitive) and "__doc__" in vars(x):
            found.append(parser.get_doctest(x.__doc__, vars(module).copy(), f"{module.__name__}.{name}", None, 0))
    return [test for test in found if test.examples]


def failures(test: doctest.DocTest) -> str:
    """What is wrong with an example, as doctest prints it; nothing if it is right."""
    printed: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=printed.append)
    return "".join(printed)


@pytest.fixture
def own_registry(monkeypatch):
    """The primitives that an example defines are forgotten after it."""
    monkeypatch.setattr(engine.Primitive, "registry", dict(engine.Primitive.registry))


@pytest.mark.parametrize("test", [t for m in (engine, ops) for t in examples(m)], ids=lambda test: test.name)
def test_an_example_prints_what_it_says(test, own_registry):
    assert not failures(test)


def test_an_example_that_is_wrong_is_noticed():
    [test] = [t for t in examples(engine) if t.name.endswith(".stop_gradient")]
    test.examples[-1].want = "array(6.)\n"
    assert "Expected:\n    array(6.)\nGot:\n    array(3.)" in failures(test)


# ── documentation ───────────────────────────────────────────────────────────────────────────────────────────────────


def undocumented(module, full: set[str]) -> list[str]:
    """What the docstrings of a module's public functions and classes lack; those in `full` need all the parts."""
    missing = []
    for name, f in vars(module).items():
        own = inspect.isfunction(f) or inspect.isclass(f)
        if not own or f.__module__ != module.__name__ or name.startswith("_"):
            continue
        text = f.__doc__ or ""
        for part in ("Raises:", "Example:") if name in full else ():
            if part not in text:
                missing.append(f"{name}: {part}")
        if not text:
            missing.append(name)
    return missing


def test_every_public_function_is_documented():
    assert not undocumented(engine, {"vjp", "value_and_grad", "jvp", "hvp"})
    assert not undocumented(ops, {"sum", "max", "matmul", "normal_axes"})
    assert all("Example:" in f.__doc__ for f in (engine.grad, engine.stop_gradient, engine.Primitive, engine.Tensor))


def test_what_is_not_documented_is_noticed(monkeypatch):
    monkeypatch.setattr(engine.jvp, "__doc__", engine.jvp.__doc__.replace("Raises", "Errors"))
    monkeypatch.setattr(engine.value_of, "__doc__", None)
    assert undocumented(engine, {"jvp", "vjp"}) == ["value_of", "jvp: Raises:"]


# ── what is said of records ─────────────────────────────────────────────────────────────────────────────────────────


def records_made(monkeypatch, f) -> list[tuple]:
    """(primitive or "leaf", inputs: indices as "#3", numbers as they print) of each tensor made during a call of f."""
    made: list[engine.Tensor] = []
    honest = engine.Tensor.__init__

    def noted(self, *args, **kwargs):
        honest(self, *args, **kwargs)
        made.append(self)

    with monkeypatch.context() as patch:
        patch.setattr(engine.Tensor, "__init__", noted)
        f()
    first = made[0].index
    spelled = lambda x: f"#{x.index - first}" if isinstance(x, engine.Tensor) else str(x)  # noqa: E731
    return [(t.primitive.name if t.primitive else "leaf", *map(spelled, t.inputs)) for t in made]


def test_the_head_of_the_engine_shows_the_records_of_a_gradient_of_a_gradient(monkeypatch):
    shown = re.findall(r"^    #(\d)  (\w+) *((?:(?:#\d|1\.0) *)*)", engine.__doc__, re.M)
    assert [int(number) for number, *_ in shown] == list(range(9))
    made = records_made(monkeypatch, lambda: grad(grad(lambda x: x * np.sin(x)))(1.3))
    assert [(name, *inputs.split()) for _, name, inputs in shown] == made
    other = records_made(monkeypatch, lambda: grad(grad(lambda x: x * np.cos(x)))(1.3))
    assert other != made
    assert grad(grad(lambda x: x * np.sin(x)))(1.3) == pytest.approx(2 * np.cos(1.3) - 1.3 * np.sin(1.3), rel=1e-15)


def test_a_call_of_numpy_goes_the_way_that_is_described():
    assert NUMPY[np.tanh] is ops.tanh and engine.Tensor.__array_ufunc__ is table._array_ufunc
    assert "np.tanh: ops.tanh" in inspect.getsource(elementwise)
    for words in ("numpy_api/table.py", "_array_ufunc", "numpy_api/elementwise.py", "np.tanh: ops.tanh"):
        assert words in ops.__doc__


def test_an_index_is_a_template_and_its_arrays():
    rows = np.array([0, 2])
    x = engine.Tensor(np.arange(24.0).reshape(2, 3, 4))
    record = x[:, rows, 3]
    assert record.primitive is ops.getitem and record.inputs[0] is x
    np.testing.assert_array_equal(record.inputs[1], rows)
    assert record.params["template"] == (slice(None), ops.ARRAY, 3)
    np.testing.assert_array_equal(record.value, x.value[:, rows, 3])


# ── length ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def lines_of_code(source: str) -> int:
    """The lines with code: neither blank, nor a comment, nor in a docstring."""
    silent = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(lines)


def test_lines_of_code_are_counted():
    assert lines_of_code('"""Head\nof two lines."""\n\nx = 1  # one\n# none\ny = (\n    2\n)\n') == 4
    assert lines_of_code('def f():\n    """Doc."""\n    return """a\nb"""\n') == 3


def test_the_first_sitting_stays_short():
    assert sum(lines_of_code((PACKAGE / file).read_text(encoding="utf-8")) for file in SITTING) <= 830
