"""Modules: none imports itself by way of others, the reference does not know the compiler, a name has one meaning."""

import ast
from functools import cache
from pathlib import Path

import pytest

import tinymaml
from tinymaml.lessons.page import CHAPTERS

PACKAGE = Path(tinymaml.__file__).parent
REFERENCE = [
    "nest", "arrays", "axes", "modes", "differentiable", "engine", "description", "primitives", "ops", "kernels",
    "numpy_api", "nn", "layers", "inputs", "per_task", "maml", "flat",
]  # fmt: skip


@cache
def imports(package: Path) -> dict[str, set[str]]:
    """For each module of a package, those of the package that it imports, also inside functions."""
    files = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        files[".".join(parts).removesuffix(".__init__")] = path
    return {name: _imported(name, path, files) - {name} for name, path in files.items()}


def _imported(name: str, path: Path, files: dict[str, Path]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            base = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
            base = base[: len(base) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            inside = {f"{module}.{alias.name}" for alias in node.names}
            found |= inside & files.keys() or {module}
    return found & files.keys()


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """The modules that `start` imports, and those that they import."""
    seen, todo = set(), [start]
    while todo:
        todo += (new := graph[todo.pop()] - seen)
        seen |= new
    return seen


def circles(graph: dict[str, set[str]]) -> set[str]:
    """The modules that import themselves by way of others."""
    return {name for name in graph if name in reached(graph, name)}


def test_no_module_imports_itself_by_way_of_others():
    assert not circles(imports(PACKAGE))


@pytest.mark.parametrize("name", REFERENCE)
def test_the_reference_does_not_know_the_compiler(name):
    assert not [x for x in reached(imports(PACKAGE), f"tinymaml.{name}") if x.startswith("tinymaml.programs")]


@pytest.mark.parametrize(("a", "b"), [
    ("from .b import y", "from .a import x"), ("def f():\n    from . import b", "import package.a"),
    ("from package import b", "from package.a import x"),
])  # fmt: skip
def test_a_planted_circle_is_found(a, b, tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    for name, text in dict(__init__="from .a import x", a=a, b=b, c="from . import a").items():
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    assert circles(imports(package)) == {"package.a", "package.b"}


# ── a name has one meaning ──────────────────────────────────────────────────────────────────────────────────────────

NUMPYS = "NumPy's function: on tensors in `numpy_api`, as a primitive in `ops`, in machine code in `programs`"
ALGORITHM, FAMILY = "what an algorithm brings, see `algorithms`", "what a family of tasks brings, see `families`"
OF_THE_ORACLE = "what an algorithm of `oracle.family` brings"
BY_HAND = "the same of an algorithm and, written apart from it, of the oracle's family"
OF_A_MODEL = "the function of that name: of tensors, and by hand in the oracle's models, there with its slope"
# The classes and functions that several modules define, with the one meaning that they have everywhere.
SHARED = {
    **dict.fromkeys((
        "argmax", "argmin", "argsort", "broadcast_to", "copy", "cumsum", "expand_dims", "flip", "matmul",
        "matrix_transpose", "max", "norm", "reshape", "searchsorted", "sign", "sum", "transpose",
    ), NUMPYS),
    **dict.fromkeys(("adapt", "init", "of_task"), ALGORITHM),
    **dict.fromkeys(("Content", "load", "pictures", "published", "read"), FAMILY),
    **dict.fromkeys(("log_softmax", "sigmoid", "softplus", "square"), OF_A_MODEL),
    **dict.fromkeys(("by_algorithms", "closed_form", "finish", "posed"), OF_THE_ORACLE),
    **dict.fromkeys(("descend", "differences", "dot", "judged", "query_loss", "support_gradient"), BY_HAND),
    "Settings": "the options of a member, with their defaults",
    "add_commands": "gives a parser the commands of a part of tinymaml",
    "check": "whether something is as it must be: a network for an algorithm, a gradient for the oracle",
    "check_counts": "refuses what are no counts",
    "command": "the command line of a process that is started",
    "complex_step": "the complex step: the mode that it needs, and what the oracle computes with it",
    "count": "how many examples there are",
    "draw": "draws at random",
    "flat": "all numbers of a tree in one vector",
    "forms": "the forms of the mistakes that one could make on a case",
    "from_vector": "the inverse of `flat`",
    "fresh": "new cases, which depend on a seed alone",
    "in_words": "the same, said for a person",
    "main": "the entry of a command",
    "make": "makes a member of its settings",
    "optimizer": "the optimiser that settings name",
    "predictions": "the picture of what is predicted",
    "rounded": "rounded to a narrower dtype",
    "run": "the meta-gradient of a case, under switches",
    "search": "the first seed that makes a suitable case",
    "table": "as a person reads it, in lines",
    "write": "writes a file that is whole or not there",
}  # fmt: skip
# Names with two meanings that stay, mostly since one of them is NumPy's or an interface's.
TWO_MEANINGS = {
    "choose": "np.choose; what a loop's `where` compiles to",
    "clipped": "a gradient that is clipped; the oracle's search for what was clipped",
    "gradient": "np.gradient, by differences on a grid; the meta-gradient of an algorithm of the oracle's family",
    "named": "the parameter in a place of a case; the oracle's report on mistakes of these names",
    "outer": "np.outer; the outer step that an algorithm brings",
    "shared": "the shared inputs that an algorithm brings; what the wrong cases of a report have in common",
    "size": "np.size; of a case its parameters × tasks × steps",
    "split": "np.split; of a family its classes for training, validation and test",
    "value_of": "the array of a tensor; what a form of a mistake gives on a case",
}


def defined_twice(package: Path, apart: set[str] = frozenset()) -> dict[str, list[str]]:
    """The public classes and functions that several modules define, with these modules; those of `apart` do not count.

    A chapter of the lesson is apart: it stands for itself, like a notebook.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(package.rglob("*.py")):
        module = path.relative_to(package).with_suffix("").as_posix()
        names = {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body
                 if isinstance(node, (ast.FunctionDef, ast.ClassDef))}  # fmt: skip
        for name in names if module not in apart else ():
            if not name.startswith("_"):
                found.setdefault(name, []).append(module)
    return {name: modules for name, modules in found.items() if len(modules) > 1}


def test_a_name_has_one_meaning():
    twice = defined_twice(PACKAGE, {f"lessons/{name}" for name in CHAPTERS})
    listed = SHARED.keys() | TWO_MEANINGS.keys()
    assert not {name: modules for name, modules in twice.items() if name not in listed}
    assert not listed - twice.keys(), "these names are defined once"
    assert not SHARED.keys() & TWO_MEANINGS.keys()


def test_a_name_that_is_defined_twice_is_found(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.py").write_text("def f(): ...\nclass C: ...\ndef _g(): ...\n", encoding="utf-8")
    (tmp_path / "inner" / "b.py").write_text("def _g(): ...\nclass C:\n    def f(self): ...\n", encoding="utf-8")
    assert defined_twice(tmp_path) == {"C": ["a", "inner/b"]}
    assert defined_twice(tmp_path, {"a"}) == {}
