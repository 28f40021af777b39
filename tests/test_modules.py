"""Modules: none imports itself by way of others, and the reference does not know the compiler."""

import ast
from functools import cache
from pathlib import Path

import pytest

import tinymaml

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
