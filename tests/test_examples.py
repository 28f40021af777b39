"""Examples: those in docstrings run as they stand, and every public function has one."""

import ast
import doctest
import importlib
import inspect
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import tinymaml as tm

PACKAGE = Path(tm.__file__).parent
TRAIN = ("tqdm", "safetensors", "PIL", "filelock", "threadpoolctl")
# What an example needs beside NumPy: packages, by the function or by the module that it stands in.
NEEDS = {
    "tinymaml.load": TRAIN,
    "tinymaml.programs.compiled.compile": ("numba", "scipy", "threadpoolctl"),
    "tinymaml.numpy_api.special": ("scipy",),
    "tinymaml.runs.evaluate": TRAIN,
    "tinymaml.runs.loop": TRAIN,
}
# Modules all of whose public functions have an example.
COMPLETE = (
    "tinymaml", "tinymaml.nn", "tinymaml.init", "tinymaml.layers", "tinymaml.normalise", "tinymaml.optim",
    "tinymaml.nest", "tinymaml.per_task", "tinymaml.maml", "tinymaml.oracle", "tinymaml.families.common",
    "tinymaml.rl.returns", "tinymaml.rl.surrogates", "tinymaml.rl.tabular", "tinymaml.rl.exact",
)  # fmt: skip
# What other modules of the package import, and a user of the package does not call.
INTERNAL = {
    "tinymaml.layers.check_integers", "tinymaml.layers.check_labels", "tinymaml.layers.check_pool",
    "tinymaml.layers.check_same", "tinymaml.layers.padding_of", "tinymaml.layers.windows", "tinymaml.maml.inner_step",
    "tinymaml.nest.closed", "tinymaml.nest.opened", "tinymaml.per_task.as_wanted",
    "tinymaml.per_task.outlined", "tinymaml.per_task.over", "tinymaml.rl.exact.copies_of",
    "tinymaml.rl.exact.of_batches", "tinymaml.rl.tabular.batch_of",
}  # fmt: skip


def examples(doc: str | None) -> list[doctest.Example]:
    return doctest.DocTestParser().get_examples(doc or "")


def written(source: str) -> list[str]:
    """The strings of a module in which an example stands: docstrings, and what else there is."""
    constants = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    return [text for text in constants if isinstance(text, str) and examples(text)]


def with_examples() -> list[str]:
    """The modules in which an example stands. The others are not even imported."""
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if written(path.read_text(encoding="utf-8"))]
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names]


def needs(name: str) -> tuple[str, ...]:
    """The packages that the examples of a module, a class or a function need."""
    return next((packages for place, packages in NEEDS.items() if f"{name}.".startswith(f"{place}.")), ())


def missing(packages: tuple[str, ...]) -> list[str]:
    return [package for package in packages if find_spec(package) is None]


def collected(module: ModuleType, source: str) -> list[doctest.DocTest]:
    """The examples of a module, with nothing but `np` and `tm` at hand: of functions, classes and primitives."""
    names = {"np": np, "tm": tm}
    found = [test for test in doctest.DocTestFinder().find(module, globs=names) if test.examples]
    texts = written(source)
    for name, x in vars(module).items():
        if isinstance(x, tm.Primitive) and vars(x).get("__doc__") in texts:
            place = f"{module.__name__}.{name}"
            found.append(doctest.DocTestParser().get_doctest(x.__doc__, dict(names), place, None, None))
    return found


def overlooked(module: ModuleType, source: str) -> int:
    """How many strings have an example that nothing runs: in a function within a function, say."""
    return len(written(source)) - len(collected(module, source))


def run(tests: list[doctest.DocTest]) -> str:
    """What fails, as doctest reports it."""
    told: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    for test in tests:
        if not missing(needs(test.name)):
            runner.run(test, out=told.append)
    return "".join(told)


def public(module: ModuleType) -> dict[str, Callable]:
    """The public functions of a module, by the place where each is defined."""
    names = getattr(module, "__all__", None) or [
        name for name, x in vars(module).items()
        if not name.startswith("_") and getattr(x, "__module__", "") == module.__name__
    ]  # fmt: skip
    those = {name: getattr(module, name) for name in names}
    return {f"{f.__module__}.{name}": f for name, f in those.items() if callable(f) and not inspect.isclass(f)}


def without_example(module: ModuleType) -> set[str]:
    return {name for name, f in public(module).items() if not examples(f.__doc__)}


@pytest.mark.parametrize("name", with_examples())
def test_examples_print_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tm.Primitive, "registry", dict(tm.Primitive.registry))  # examples define primitives
    if absent := missing(needs(name)):
        pytest.skip(f"needs {', '.join(absent)}")
    module = importlib.import_module(name)
    source = inspect.getsource(module)
    assert not overlooked(module, source)
    assert not (failures := run(collected(module, source))), failures


@pytest.mark.parametrize("name", COMPLETE)
def test_every_public_function_has_an_example(name):
    module = importlib.import_module(name)
    assert public(module)
    assert without_example(module) <= INTERNAL


def test_every_exception_is_a_public_function():
    every = set().union(*(public(importlib.import_module(name)) for name in COMPLETE))
    assert every >= INTERNAL


PLANTED = '''
def half(x):
    """Half of x.

    >>> half = lambda x: x / 2
    >>> half(np.array([3.0]))
    {}
    """


def bare(x):
    """It has no example."""
'''


def planted(answer: str) -> tuple[ModuleType, str]:
    module, source = ModuleType("planted"), PLANTED.format(answer)
    exec(source, vars(module))
    return module, source


@pytest.mark.parametrize(("answer", "right"), [("array([1.5])", True), ("array([1.6])", False), ("", False)])
def test_an_example_that_is_wrong_is_caught(answer, right):
    assert (not run(collected(*planted(answer)))) is right


def test_a_wrong_example_of_a_primitive_is_caught():
    module, source = planted("array([1.5])")
    source += 'twice = tm.Primitive("twice", lambda x: 2 * x)\ntwice.__doc__ = ">>> 2 * 2\\n5"\n'
    vars(module)["tm"] = tm
    exec(source, vars(module))
    assert not overlooked(module, source)
    assert "planted.twice" in run(collected(module, source))


def test_an_example_that_nothing_runs_is_caught():
    module, source = planted("array([1.5])")
    assert not overlooked(module, source)
    assert overlooked(module, source + 'def f():\n    def inner():\n        ">>> 2 * 2"\n') == 1


def test_a_function_without_example_is_caught():
    assert without_example(planted("array([1.5])")[0]) == {"planted.bare"}
