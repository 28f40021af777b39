"""The files of the first sitting: all is documented, what they say of records is so, and they stay short."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import tinymaml
from tinymaml import engine, grad, ops, primitives
from tinymaml.numpy_api import NUMPY, elementwise, table

PACKAGE = Path(tinymaml.__file__).parent
SITTING = ["engine.py", "primitives.py", "nn.py", "maml.py", "numpy_api/table.py"]  # the last: how np.tanh gets to ops


# ── documentation ───────────────────────────────────────────────────────────────────────────────────────────────────


def undocumented(module, full: set[str]) -> list[str]:
    """What the docstrings of a module's public functions and classes lack; those in `full` need all the parts."""
    missing = []
    for name, f in vars(module).items():
        own = inspect.isfunction(f) or inspect.isclass(f)
        if not own or f.__module__ != module.__name__ or name.startswith("_"):
            continue
        text = f.__doc__ or ""
        for part in ("Raises:", ">>>") if name in full else ():
            if part not in text:
                missing.append(f"{name}: {part}")
        if not text:
            missing.append(name)
    return missing


def test_every_public_function_is_documented():
    assert not undocumented(engine, {"vjp", "value_and_grad", "jvp", "hvp"})
    assert not undocumented(primitives, {"sum", "matmul"})
    assert not undocumented(ops, {"max"})
    assert all(">>>" in f.__doc__ for f in (engine.grad, engine.stop_gradient, engine.Primitive, engine.Tensor))


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
        assert words in primitives.__doc__


def test_an_index_is_a_template_and_its_arrays():
    rows = np.array([0, 2])
    x = engine.Tensor(np.arange(24.0).reshape(2, 3, 4))
    record = x[:, rows, 3]
    assert record.primitive is ops.getitem and record.inputs[0] is x
    np.testing.assert_array_equal(record.inputs[1], rows)
    assert record.params["template"] == (slice(None), ops.ARRAY, 3)
    np.testing.assert_array_equal(record.value, x.value[:, rows, 3])


# ── length ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def lines(names: list[str]) -> int:
    """The lines of files of the package: code, docstrings with their examples, comments and blank lines."""
    return sum(len((PACKAGE / name).read_text(encoding="utf-8").splitlines()) for name in names)


def listed(page: str) -> list[str]:
    """The files of the package in the table of a page."""
    return re.findall(r"^\| `tinymaml/([\w/]+\.py)` \|", page, re.M)


def test_the_first_sitting_is_at_most_a_thousand_lines():
    assert lines(SITTING) <= 1000
    assert lines(["engine.py"]) == (PACKAGE / "engine.py").read_text(encoding="utf-8").count("\n") > 300


def test_the_readme_lists_the_first_sitting_in_its_order():
    page = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    assert listed(page) == ["nest.py", *SITTING]
    assert listed(page.replace("| `tinymaml/nn.py`", "| `tinymaml/gone.py`")) != ["nest.py", *SITTING]
