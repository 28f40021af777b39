"""HIPS autograd's own test suite, run on tinymaml: its names are mapped to ours.

    pip download autograd==1.9.1 --no-binary :all: --no-deps
    python -m bench autograd --source autograd-1.9.1.tar.gz
    python -m bench autograd --download        # lets pip fetch it, into a folder that is gone afterwards
    python -m bench autograd --list            # every test, and how it ended; of $TINYMAML_AUTOGRAD_SOURCE

The tests of its source distribution are unpacked into a temporary folder, and pytest runs them in a process of its own,
in which `import autograd` finds `bench.autograd_names`; nothing else of autograd is used, and it need not be installed.
Printed are how many tests pass, by file, and each that does not, with its reason. The exit code is 1 if a test fails
without a reason, or passes in spite of one.

Its NumPy tests are those that differentiate NumPy's functions, linear algebra, Fourier transforms and complex numbers
included. Apart from them are tests of SciPy's functions, and of its own interface: containers, wrappers, primitives.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from . import stated, timing

VERSION = "1.9.1"  # of autograd, for which the reasons hold
SOURCE = "TINYMAML_AUTOGRAD_SOURCE"

GROUPS = {
    "its NumPy tests": (
        "test_binary_ops", "test_complex", "test_fft", "test_graphs", "test_jacobian", "test_linalg", "test_logic",
        "test_numpy", "test_scalar_ops", "test_systematic", "test_truediv", "test_ufunc_dispatch",
    ),
    "its SciPy tests": ("test_scipy",),
}  # fmt: skip
OTHERS = "its own interface"

# Why a test does not pass → the tests, as FILE::NAME.
REASONS: dict[str, Sequence[str]] = {
    "a list of tensors is given to a function that NumPy does not hand on: np.stack makes one tensor of it": (
        "test_numpy::test_mean_list_of_boxes", "test_numpy::test_std_list_of_boxes",
        "test_numpy::test_var_list_of_boxes",
    ),
    "the cotangent of a symmetric matrix is symmetric here; autograd's lies in the triangle that is read": (
        "test_linalg::test_eigvalh_lower", "test_linalg::test_eigvalh_upper",
        "test_linalg::test_eigvalh_lower_broadcasting", "test_linalg::test_eigvalh_upper_broadcasting",
        "test_linalg::test_eigvalh_lower_complex", "test_linalg::test_eigvalh_upper_complex",
    ),
    "np.int64(x) makes an array: x.astype(np.int64) does not": ("test_numpy::test_cast_to_int",),
    "it asks for an error, where there is a derivative": ("test_fft::test_rfftn_odd_not_implemented",),
    "autograd's own np.where gives Python's numbers and lists, and takes keywords; NumPy's does not": (
        "test_wrappers::test_custom_where", "test_wrappers::test_custom_where_dtypes[int-True-1-2]",
        "test_wrappers::test_custom_where_dtypes[float-True-3.0-4.0]",
        "test_wrappers::test_custom_where_dtypes[float-False-1-2.0]",
        "test_wrappers::test_custom_where_dtypes[list-True-x3-y3]",
    ),
    "it asks for names and documentation of autograd's wrappers": ("test_wrappers::test_wrapped_name_and_docs",),
    "it asks for methods that autograd has deprecated": (
        "test_wrappers::test_deprecated_defgrad_wrapper", "test_wrappers::test_deprecated_defvjp_wrapper",
        "test_wrappers::test_deprecated_defvjp_is_zero_wrapper",
    ),
    "const_graph has no counterpart: tm.compile records a function, by other rules": (
        "test_misc::test_const_graph", "test_misc::test_const_graph_args",
    ),
    "scipy.stats has no densities of tensors: they are written out": tuple(f"test_scipy::test_{name}" for name in (
        "chi2_pdf", "chi2_cdf", "chi2_logpdf", "beta_cdf", "beta_pdf", "beta_logpdf", "gamma_cdf", "gamma_pdf",
        "gamma_logpdf", "norm_pdf", "norm_cdf", "norm_sf", "norm_logpdf", "norm_logcdf", "norm_logsf",
        "norm_pdf_broadcast", "norm_cdf_broadcast", "norm_sf_broadcast", "norm_logpdf_broadcast",
        "norm_logcdf_broadcast", "norm_logsf_broadcast", "poisson_cdf", "poisson_logpmf", "poisson_pmf",
        "poisson_cdf_broadcast", "poisson_logpmf_broadcast", "poisson_pmf_broadcast", "t_pdf", "t_cdf", "t_logpdf",
        "t_logcdf", "t_pdf_broadcast", "t_cdf_broadcast", "t_logpdf_broadcast", "t_logcdf_broadcast", "mvn_pdf",
        "mvn_logpdf", "mvn_entropy", "mvn_sing_cov", "mvn_pdf_broadcast", "mvn_logpdf_broadcast", "dirichlet_pdf_x",
        "dirichlet_pdf_alpha", "dirichlet_logpdf_x", "dirichlet_logpdf_alpha",
    )),
    "scipy.signal, scipy.integrate and scipy.linalg take no tensors": tuple(f"test_scipy::test_{name}" for name in (
        "convolve_generalization", "convolve", "convolve_2d", "convolve_ignore", "convolve_ignore_dot", "odeint",
        "sqrtm", "solve_sylvester", "solve_banded",
    )),
}  # fmt: skip


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench autograd", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", metavar="FILE", default=os.environ.get(SOURCE),
                        help=f"autograd-X.tar.gz, its source distribution (${SOURCE})")  # fmt: skip
    parser.add_argument("--download", action="store_true", help=f"version {VERSION}, by pip")
    parser.add_argument("--list", action="store_true", help="every test, and how it ended")
    parser.add_argument("--store", action="store_true", help="keep the counts in bench/results/stated, for the page")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        if args.download:
            try:
                args.source = _download(folder)
            except subprocess.CalledProcessError as error:
                parser.error(f"pip could not fetch autograd {VERSION}: exit code {error.returncode}")
        if not args.source:
            parser.error("no source of autograd, wanted --source autograd-X.tar.gz, as `pip download autograd"
                         f"=={VERSION} --no-binary :all: --no-deps` fetches it, or --download")  # fmt: skip
        try:
            version, tests = unpack(args.source, Path(folder))
        except (OSError, ValueError, tarfile.TarError) as error:
            parser.error(str(error))
        ended = run(tests)
    print(f"HIPS autograd {version}'s own tests, its names mapped to tinymaml's\n")
    print("\n".join(table(ended)) + "\n")
    if args.list:
        print("\n".join(f"  {outcome['outcome']:8}{name}" for name, outcome in sorted(ended.items())) + "\n")
    print("\n".join(explained(ended)))
    if args.store:
        stated.keep("autograd", "python -m bench autograd", {"version": version, **kept(ended)})
    strange = unexplained(ended)
    print("\n".join(["", *strange] if strange else []), end="\n" if strange else "")
    return 1 if strange else 0


def kept(ended: dict[str, dict]) -> dict[str, dict]:
    """{group: {"passed", "run", "skipped"}}."""
    return {
        name: dict(zip(("passed", "run", "skipped"), share(ended, name), strict=True)) for name in [*GROUPS, OTHERS]
    }


def _download(folder: str) -> str:
    how = ["--no-binary", ":all:", "--no-deps", "--quiet", "--dest", folder]
    subprocess.run([sys.executable, "-m", "pip", "download", f"autograd=={VERSION}", *how], check=True)
    return str(next(Path(folder).glob("autograd-*.tar.gz")))


def unpack(source: str | Path, folder: Path) -> tuple[str, Path]:
    """The version of the source distribution, and the folder of its tests, which are written below `folder`.

    Raises:
        ValueError: there are no tests in it.
    """
    tests = folder / "tests"
    tests.mkdir()
    version = "?"
    with tarfile.open(source) as archive:
        for member in archive:
            top, *rest = PurePosixPath(member.name).parts
            if len(rest) == 2 and rest[0] == "tests" and rest[1].endswith(".py") and member.isfile():
                version = top.rpartition("-")[2]
                (tests / rest[1]).write_bytes(archive.extractfile(member).read())
    if not any(tests.iterdir()):
        raise ValueError(f"{source} holds no tests/*.py, wanted the source distribution of autograd")
    return version, tests


def run(tests: Path) -> dict[str, dict]:
    """How each test in the folder ended: {"test_numpy::test_dot": {"outcome": "passed", …}, …}.

    Raises:
        RuntimeError: pytest itself failed.
    """
    file = tests.parent / "ended.json"
    command = [sys.executable, "-m", "bench.autograd_names", str(tests), str(file)]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # autograd's tests know none
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pytest failed with exit code {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
    return json.loads(file.read_text(encoding="utf-8"))


def group(test: str) -> str:
    file = test.partition("::")[0]
    return next((name for name, files in GROUPS.items() if file in files), OTHERS)


def share(ended: dict[str, dict], name: str) -> tuple[int, int, int]:
    """Of a group, or of a file: how many pass, of how many that run; and how many are skipped."""
    found = [x["outcome"] for test, x in ended.items() if name in (group(test), test.partition("::")[0], test)]
    count = Counter(found)
    return count["passed"], count["passed"] + count["failed"], count["skipped"]


def table(ended: dict[str, dict]) -> list[str]:
    """The lines of a table: by file, and by group."""
    rows = [("", "pass", "of", "", "skipped")]
    for name in [*GROUPS, OTHERS]:
        files = sorted({test.partition("::")[0] for test in ended if group(test) == name})
        for what in [*files, name] if len(files) > 1 or name == OTHERS else [name]:
            passed, run, skipped = share(ended, what)
            percent = f"{100 * passed / run:.1f} %" if what == name and run else ""
            rows.append((f"  {what}" if what != name else what, str(passed), str(run), percent, str(skipped or "")))
    return timing.columns(rows)


def explained(ended: dict[str, dict]) -> list[str]:
    """Each test that does not pass for a reason, below its reason."""
    lines = []
    for reason, tests in REASONS.items():
        failed = [test for test in tests if ended.get(test, {}).get("outcome") == "failed"]
        if failed:
            lines += [f"{reason}:", *(f"    {test}" for test in failed)]
    return ["does not pass", *lines] if lines else ["all pass"]


def unexplained(ended: dict[str, dict]) -> list[str]:
    """Results that the reasons do not explain: failures, and tests that pass in spite of one."""
    known = {test: reason for reason, tests in REASONS.items() for test in tests}
    lines = []
    for test, x in ended.items():
        if x["outcome"] == "failed" and test not in known:
            why = (x["why"].strip().splitlines() or ["?"])[0]
            lines.append(f"fails without a reason: {test}: {why}")
        if x["outcome"] == "passed" and test in known:
            lines.append(f"passes in spite of a reason: {test}: {known[test]}")
    return lines
