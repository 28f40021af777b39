"""HIPS autograd's names map to ours: its own suite passes but for what has a reason; a wrong derivative fails."""

import io
import os
import tarfile

import numpy as np
import pytest

import tinymaml as tm
from bench import __main__ as command
from bench import autograd_suite
from bench.autograd_names import check_grads, combo_check, defvjp, grad, jacobian, make_jvp, primitive
from tinymaml import ops

SUITE = """
import pytest

import autograd.numpy as np
import autograd.numpy.random as npr
import autograd.scipy.special
from autograd import deriv, elementwise_grad, grad, grad_and_aux, hessian, hessian_vector_product, jacobian
from autograd import make_ggnvp, make_hvp, tensor_jacobian_product, value_and_grad
from autograd.builtins import isinstance
from autograd.core import vspace
from autograd.extend import defvjp, primitive
from autograd.misc import flatten
from autograd.test_util import check_grads, combo_check

X = np.array([0.5, -1.5])


def test_a_right_derivative():
    check_grads(lambda x, y: np.sin(x) * y, (0, 1), order=3)(X, 2.0)
    combo_check(np.sum, [0])([X, np.outer(X, X)], axis=[None, 0], keepdims=[True, False])


def test_a_wrong_derivative():
    @primitive
    def double(x):
        return 2.0 * x

    defvjp(double, lambda out, x: lambda g: 2.001 * g)
    check_grads(double)(X)


def test_wrappers():
    assert np.allclose(hessian(lambda x: np.sum(x**3))(X), np.diag(6 * X))
    assert np.allclose(make_hvp(lambda x: np.sum(x**3))(X)[0](X), 6 * X * X)
    assert np.allclose(hessian_vector_product(lambda x: np.sum(x**3))(X, X), 6 * X * X)
    assert np.allclose(tensor_jacobian_product(lambda x: x**2)(X, X), 2 * X * X)
    assert np.allclose(make_ggnvp(lambda x: x**2)(X)(X), 4 * X**3)
    assert np.allclose(elementwise_grad(np.sin)(X), np.cos(X)) and np.isclose(deriv(np.sin)(0.5), np.cos(0.5))
    assert grad_and_aux(lambda x: (x**2, x + 1))(3.0) == (6, 4) and value_and_grad(lambda x: x**2)(3.0) == (9, 6)
    assert grad(lambda x: np.sum(np.array([x, [x[1], 2.0]]) ** 2))(X).tolist() == [1.0, -6.0]
    assert jacobian(lambda x: np.array([x[0], x[1] ** 2]))(X).tolist() == [[1, 0], [0, -3]]


def test_nests():
    nest = {"a": [X, 3.0], "b": (1.0,)}
    vector, back = flatten(nest)
    assert vector.tolist() == [0.5, -1.5, 3, 1] and back(vector)["a"][1] == 3
    assert vspace(nest).size == 4 == len(list(vspace(nest).standard_basis()))
    assert isinstance(grad(lambda n: np.sum(n["a"][0]) * n["b"][0])(nest), dict)


def test_a_primitive_without_a_rule():
    with pytest.raises(NotImplementedError, match="no rule"):
        grad(primitive(lambda x: 2.0 * x))(1.0)


def test_what_has_no_gradient():
    for f in (lambda x: x > 0, lambda x: np.array([x, x]), lambda x: x * 1j):
        with pytest.raises(TypeError, match="no real number"):
            grad(f)(1.0)


@pytest.mark.skipif(True, reason="a test that does not run")
def test_that_is_skipped():
    raise AssertionError
"""


def archive(path, **files: str) -> str:
    """A source distribution with these tests."""
    name = str(path / "autograd-9.9.tar.gz")
    with tarfile.open(name, "w:gz") as tar:
        for file, text in files.items():
            member = tarfile.TarInfo(f"autograd-9.9/{file.replace('__', '/')}.py")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return name


def test_a_wrong_derivative_fails_and_nothing_else(tmp_path, capsys, monkeypatch):
    pytest.importorskip("scipy")
    source = archive(tmp_path, tests__test_numpy=SUITE, autograd__core="raise RuntimeError('autograd itself')")
    runs, honest = [], autograd_suite.run
    monkeypatch.setattr(autograd_suite, "run", lambda tests: runs.append(honest(tests)) or runs[-1])
    assert command.main(["autograd", "--source", source, "--list"]) == 1
    seen = capsys.readouterr().out
    assert "autograd 9.9" in seen
    found = [line for line in seen.splitlines() if line.startswith(("fails", "passes"))]
    assert len(found) == 1, found
    assert "fails without a reason: test_numpy::test_a_wrong_derivative: AssertionError: derivative (JVP)" in found[0]
    assert seen.splitlines()[3].split() == ["its", "NumPy", "tests", "5", "6", "83.3", "%", "1"]

    (ended,) = runs
    monkeypatch.setattr(autograd_suite, "run", lambda tests: ended)
    wrong = {"it is planted": ("test_numpy::test_a_wrong_derivative",)}
    monkeypatch.setattr(autograd_suite, "REASONS", wrong)
    assert command.main(["autograd", "--source", source]) == 0
    monkeypatch.setattr(autograd_suite, "REASONS", wrong | {"it is not": ("test_numpy::test_nests",)})
    assert command.main(["autograd", "--source", source]) == 1
    assert "passes in spite of a reason: test_numpy::test_nests: it is not" in capsys.readouterr().out


def test_a_file_that_cannot_be_imported_fails(tmp_path, capsys):
    source = archive(tmp_path, tests__test_new="from autograd.numpy import no_such_function\ndef test(): pass")
    assert command.main(["autograd", "--source", source]) == 1
    assert "fails without a reason: test_new::" in capsys.readouterr().out


def test_bad_sources_are_one_clear_error(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(autograd_suite.SOURCE, raising=False)
    text = tmp_path / "text.tar.gz"
    text.write_text("no archive")
    for source, message in {
        (): "no source of autograd, wanted --source",
        ("--source", str(tmp_path / "absent.tar.gz")): "No such file",
        ("--source", str(text)): "could not be opened",
        ("--source", archive(tmp_path, autograd__core="")): "holds no tests/*.py",
    }.items():
        with pytest.raises(SystemExit):
            command.main(["autograd", *source])
        assert message in capsys.readouterr().err


@pytest.mark.skipif(autograd_suite.SOURCE not in os.environ, reason=f"${autograd_suite.SOURCE} is autograd-X.tar.gz")
def test_autograds_own_suite_passes_but_for_what_has_a_reason(tmp_path):
    version, tests = autograd_suite.unpack(os.environ[autograd_suite.SOURCE], tmp_path)
    if version != autograd_suite.VERSION:
        pytest.skip(f"autograd {version}; the reasons are of {autograd_suite.VERSION}")
    ended = autograd_suite.run(tests)
    assert not autograd_suite.unexplained(ended)
    passed, run, _ = autograd_suite.share(ended, "its NumPy tests")
    assert run > 400 and passed / run >= 0.9


# ── the checker, which stands in for autograd's ─────────────────────────────────────────────────────────────────────

Z = np.array([0.5 + 1j, -1.5 + 0.25j])
X = Z.real.copy()


def planted(rule):
    f = primitive(np.sin)
    defvjp(f, lambda out, x: lambda g: rule(g, x))
    return f


@pytest.mark.parametrize("modes", [["fwd"], ["rev"]])
@pytest.mark.parametrize("x", [X, 0.5, [0.5, {"a": X}]], ids=["vector", "number", "nest"])
def test_a_wrong_rule_is_caught_at_every_order(modes, x):
    def of(f):
        return lambda nest: sum(f(leaf).sum() for leaf in tm.tree_leaves(nest))

    np.random.seed(0)  # the check is along random directions, as autograd's is; along a few of them little can be seen
    check_grads(of(planted(lambda g, x: g * np.cos(x))), modes=modes)(x)
    with pytest.raises(AssertionError, match="check of"):
        check_grads(of(planted(lambda g, x: g * np.cos(x) * 1.0001)), modes=modes, order=1)(x)
    # right at the first order, wrong at the second: the derivative of the cosine is lost
    second = planted(lambda g, x: g * tm.stop_gradient(np.cos(x)))
    check_grads(of(second), modes=modes, order=1)(x)
    with pytest.raises(AssertionError, match="check of"):
        check_grads(of(second), modes=modes, order=2)(x)


def test_a_lost_part_of_a_complex_derivative_is_caught():
    check_grads(planted(lambda g, x: g * np.cos(x)))(Z)
    for wrong in (lambda g, x: g * np.cos(x.real), lambda g, x: 1j * g * np.cos(x), lambda g, x: (g * np.cos(x)).real):
        pullback = planted(wrong)
        with pytest.raises(AssertionError):
            check_grads(pullback, modes=["rev"], order=1)(Z)


def test_a_value_that_differs_on_tensors_is_caught():
    with pytest.raises(AssertionError, match="against"):
        check_grads(lambda x: x * (2.0 if isinstance(x, tm.Tensor) else 2.5), modes=["rev"], order=1)(X)


def test_a_wrong_primitive_of_ours_is_caught(monkeypatch):
    monkeypatch.setattr(ops.tanh, "vjp", (lambda g, z, x: g * (1 - z),))
    with pytest.raises(AssertionError):
        combo_check(np.tanh, [0], order=1)([X, 0.5])
    assert not np.allclose(grad(np.tanh)(0.5), 1 - np.tanh(0.5) ** 2)


def test_modes_agree_where_the_function_is_not_square():
    def f(x):
        return np.stack([x[0] * x[1], x[0], np.sin(x[1])])

    v = np.array([0.3, 2.0])
    np.testing.assert_allclose(make_jvp(f)(X)(v)[1], jacobian(f)(X) @ v, rtol=1e-15)
