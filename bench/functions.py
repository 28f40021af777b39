"""The page of functions: which of NumPy's and SciPy's take tensors, as the code has them.

    python -m bench.functions              # writes tinymaml/numpy_api/README.md
    python -m bench.functions --check      # 1: the page is not what it would be now

The cells of a row come from the table of functions and from their cases in the tests: the arguments from our signature;
"derivative" from whether there is a case that is differentiated; "machine code" from whether `compile` has loops for
each of its cases and for the gradient of each.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tinymaml import nn
from tinymaml.engine import Tensor, vjp
from tinymaml.files import write_atomically
from tinymaml.nest import tree_map
from tinymaml.numpy_api import NUMPY, numpy_name, special
from tinymaml.programs.placement import lay_out
from tinymaml.programs.task import whole
from tinymaml.programs.views import Unsupported

from .awkward import tables

PAGE = Path(__file__).resolve().parent.parent / "tinymaml" / "numpy_api" / "README.md"
HEAD = """# NumPy on tensors: which functions, and how

This page is made from the code: `python -m bench.functions` writes it. A function that stands here takes tensors, with
NumPy's values, shapes, dtypes and errors, and its derivatives are checked to third order; `python -m bench awkward
--list` prints where it differs, and why. A function that does not stand here raises `NotImplementedError` by name;
`out=` and writing into a tensor are refused.

- **derivative**: *yes*; *0* where the function is piecewise constant; nothing where it gives facts about an array.
- **compiled**: *yes*: `tm.compile` makes machine code of it and of its gradient; *partly*: of some of its forms; *no*:
  a program that holds it is replayed in NumPy, with a `CompileWarning` that names the primitive.
- Conventions at kinks and ties are listed at the head of `tinymaml/ops.py`. Python's operators and the methods of
  arrays work, too. `np.array([t, u])` makes an array of tensors, and `np.stack([t, u])` one tensor, which is faster.
"""
SUBJECTS = {  # in the order of the page
    "elementwise": "Functions of each element", "complexes": "Complex numbers", "reductions": "Reductions",
    "nan": "Reductions that leave NaN out", "cumulative": "Running sums, products and differences",
    "quantiles": "Medians and quantiles", "sorting": "Sorting and searching", "choosing": "Choosing",
    "shapes": "Shapes", "indexing": "Indexing", "building": "Building arrays", "padding": "Padding",
    "curves": "Interpolation, convolution, polynomials", "products": "Products", "matrices": "Diagonals and triangles",
    "linalg": "Linear algebra", "fft": "Fourier transforms", "methods": "The rest",
}  # fmt: skip


def subject(f: Callable) -> str:
    """The file in which a function is written; ufuncs that are one primitive stand in `elementwise`."""
    name = getattr(inspect.unwrap(NUMPY[f]), "__module__", "").rpartition(".")[2]
    if numpy_name(f).startswith("fft."):
        return "fft"
    return name if name in SUBJECTS else "elementwise" if isinstance(f, np.ufunc) else "methods"


def arguments(f: Callable, ours: Callable) -> str:
    """How it is called: by our signature, or by the number of arrays that a primitive takes."""
    try:
        signature = inspect.signature(inspect.unwrap(ours))
    except (TypeError, ValueError):
        signature = None
    if isinstance(f, np.ufunc) and (signature is None or not {"params", "f"}.isdisjoint(signature.parameters)):
        return ", ".join("xyzw"[: f.nin])
    shown = [p for p in signature.parameters.values() if p.name not in ("out", "f") and not p.name.startswith("_")]
    return str(signature.replace(parameters=shown, return_annotation=inspect.Signature.empty))[1:-1].replace("|", "\\|")


def said(ours: Callable) -> str:
    """The first sentence of our docstring, if there is one of our own."""
    doc = getattr(ours, "__doc__", None) or ""
    if type(ours).__name__ == "Primitive" or not inspect.isfunction(inspect.unwrap(ours)):
        return ""
    return " ".join(doc.strip().split("\n\n")[0].split()).partition(". ")[0].rstrip(".").replace("|", "\\|")


def compiled(cases: list) -> str:
    """Whether there is machine code for the cases and, where they are differentiated, their gradients."""
    found = set()
    for case in cases:
        floats = [i for i, x in enumerate(case.args) if x.dtype.kind == "f"]

        def gradient(*args, case=case, floats=floats):
            def of(*xs):
                full = list(args)
                for i, x in zip(floats, xs, strict=True):
                    full[i] = x
                return case.f(*full)

            out, pullback = vjp(of, *(args[i] for i in floats))
            return pullback(tree_map(lambda y: np.ones(np.shape(y), np.result_type(y)), out))

        for f in (case.f, gradient):
            try:
                lay_out(whole(f, case.args))
                found.add(True)
            except Unsupported:
                found.add(False)
            except Exception:  # it has no gradient, or cannot be recorded
                if f is case.f:
                    found.add(False)
    return "yes" if found == {True} else "no" if found == {False} else "partly" if found else ""


def rows(functions: dict[Callable, Callable], name: Callable[[Callable], str], cases: dict) -> list[str]:
    smooth, steps, plain = cases["smooth"], cases["steps"], cases["plain"]
    lines = ["| function | derivative | compiled | |", "| --- | --- | --- | --- |"]
    for f in sorted(functions, key=name):
        of = [c for c in smooth + steps if c.key is f]
        slope = "yes" if any(c.key is f for c in smooth) else "0" if any(c.key is f for c in steps) else ""
        made = "" if any(c.key is f for c in plain) and not of else compiled(of)
        lines.append(f"| `{name(f)}({arguments(f, functions[f])})` | {slope} | {made} | {said(functions[f])} |")
    return lines


def page() -> str:
    """The whole text."""
    ops, _ = tables()
    cases = dict(smooth=[*ops.SMOOTH, *getattr(ops, "BRANCHES", [])], steps=ops.STEPS, plain=ops.PLAIN)
    parts = [HEAD]
    for key, title in SUBJECTS.items():
        of = {f: ours for f, ours in NUMPY.items() if subject(f) == key}
        if of:
            file = f" (`{key}.py`)" if key != "methods" else ""
            parts += [f"## {title}{file}\n", *rows(of, lambda f: f"np.{numpy_name(f)}", cases), ""]
    parts += ["## scipy.special (`special.py`)\n", "SciPy's own ufuncs take tensors.\n"]
    parts += [*rows(special.SCIPY, lambda f: f"scipy.special.{f.__name__}", cases), ""]
    public = [f for n, f in sorted(vars(nn).items()) if inspect.isfunction(f) and not n.startswith("_")
              and f.__module__ in ("tinymaml.nn", "tinymaml.layers", "tinymaml.normalise")]  # fmt: skip
    parts += ["## tm.nn\n", "| function | |", "| --- | --- |"]
    parts += [f"| `nn.{f.__name__}({arguments(f, f)})` | {said(f)} |" for f in public]
    methods = sorted(n for n in vars(Tensor) if not n.startswith("_") and n not in Tensor.__slots__)
    parts += ["", "## Methods and attributes of a tensor\n", ", ".join(f"`{n}`" for n in methods) + ".", ""]
    return "\n".join(parts)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.functions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    options = parser.parse_args(argv)
    text = page()
    if options.check:
        same = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        print("the page of functions is up to date" if same else f"{PAGE.name} differs: run python -m bench.functions")
        return 0 if same else 1
    write_atomically(PAGE, text.encode())
    print(f"{PAGE}: {len(NUMPY)} functions of NumPy, {len(special.SCIPY)} of SciPy")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
