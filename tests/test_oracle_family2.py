"""iMAML, Reptile, HF-MAML, Sharp-MAML and Meta-MinibatchProx: independent rungs, and PyTorch as people write it."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from tinymaml.oracle import CATALOGUE, check, load, tolerance
from tinymaml.oracle.catalogue import flat, run_form
from tinymaml.oracle.family import ALGORITHMS, pulled, suites
from tinymaml.oracle.models import loss_and_grad

pytestmark = pytest.mark.usefixtures("confirmed_once", "computed_once")
made = pytest.importorskip("bench.oracle.family", reason="PyTorch is not there")
NAMES = list(made.MODULES)


def close(case, grads, wanted):
    _, scale = tolerance.scales(case)
    return tolerance.error(grads, wanted, scale, tolerance.UNIT["float64"]) <= tolerance.TAU


def drawn(algorithm, name):
    return suites.draw(algorithm, name, 0)


# ── rungs that share nothing with the procedures ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("algorithm", NAMES)
def test_the_procedure_agrees_with_the_closed_form_and_with_the_library(algorithm):
    module, closed = ALGORITHMS[algorithm], 0
    for name in module.CASES:
        case = drawn(algorithm, name)
        result = run_form(case, {})
        assert close(case, result.meta_grad, module.by_algorithms(case)[1]), name
        exact = module.closed_form(case)
        if exact is not None:
            closed += 1
            assert close(case, result.meta_grad, exact[1]), name
            assert not close(case, result.meta_grad, {n: g * (1 + 1e-12) for n, g in exact[1].items()})
    assert closed >= 1


def test_two_steps_of_reptile_are_g_and_g_less_alpha_h_g_to_second_order():
    case = drawn("reptile", "softmax")
    (xs, ys), _ = case.batches()[0]
    case = dataclasses.replace(case, support=case.support[:1], query=case.query[:1], inner_steps=2)
    rest = []
    for rate in (2.0**-5, 2.0**-6, 2.0**-7):
        g = loss_and_grad(case.model, case.params, xs, ys)[1]
        h = 1e-100
        along = {n: p + 1j * h * g[n] for n, p in case.params.items()}
        hg = {n: np.imag(x) / h for n, x in loss_and_grad(case.model, along, xs, ys)[1].items()}
        got = run_form(dataclasses.replace(case, inner_lr=rate), {}).meta_grad
        # (θ − θ₂)/α = 2 g − α H g + O(α²)
        rest.append(max(np.max(np.abs(got[n] / rate - 2 * g[n] + rate * hg[n])) for n in g))
    slopes = np.log2(np.array(rest[:-1]) / rest[1:])
    assert np.all(np.abs(slopes - 2) < 0.1)


def test_the_error_of_hf_maml_falls_with_the_square_of_delta_and_the_one_sided_one_with_delta():
    case = drawn("hessian-free", "many-steps")
    exact = flat(run_form(case, {"difference": "exact"}).meta_grad)
    for how, slope in (("central", 2), ("forward", 1)):
        off = []
        for delta in (2.0**-5, 2.0**-6, 2.0**-7):
            nearer = dataclasses.replace(case, settings={"delta": delta})
            off.append(np.linalg.norm(flat(run_form(nearer, {"difference": how}).meta_grad) - exact))
        assert np.all(np.abs(np.log2(np.array(off[:-1]) / off[1:]) - slope) < 0.15), how


@pytest.mark.parametrize("name", ["quadratic-converged", "softmax-converged"])
def test_where_imaml_has_converged_every_way_gives_the_implicit_gradient(name):
    case = load("core", algorithm="imaml")
    case = next(c for c in case if c.id == f"imaml/{name}")
    for form in ({"inverse": "unrolled"}, {"end": "solved"}, {"inverse": "conjugate gradients", "solver_steps": 5.0}):
        assert close(case, run_form(case, form).meta_grad, case.answer.meta_grad), form
    assert not close(case, run_form(case, {"inverse": "neumann", "solver_steps": 3.0}).meta_grad, case.answer.meta_grad)


def test_the_gradient_of_the_moreau_envelope_is_that_of_its_values():
    case = drawn("proximal", "quadratic-converged")
    (xs, _), _ = case.batches()[0]
    a, b = np.mean(xs, 0)[:, :-1], np.mean(xs, 0)[:, -1]
    lam, theta = case.settings["strength"], case.params["theta"]

    def envelope(theta):
        w = np.linalg.solve(a + lam * np.eye(len(b)), b + lam * theta)
        return w @ a @ w / 2 - b @ w + lam / 2 * (w - theta) @ (w - theta)

    h = 1e-100  # the complex step
    steps = theta + 1j * h * np.eye(len(b))
    wanted = [np.imag(envelope(moved)) / h for moved in steps]
    assert np.allclose(run_form(case, {}).meta_grad["theta"], wanted, rtol=1e-13)


@pytest.mark.parametrize("algorithm", ["reptile", "proximal", "imaml"])
def test_rationals_give_the_answer_without_rounding(algorithm):
    case = next(c for c in load("core", algorithm=algorithm) if c.id.endswith("/quadratic"))
    exact = run_form(case, {}, Fraction).meta_grad
    assert [float(x) for x in flat(exact)] == flat(case.answer.meta_grad).tolist()


def test_a_batch_of_every_trajectory_has_the_hessian_of_the_return():
    """(I + α ∇²J) g_q, which DiCE alone gives; by the process's own J, and by central differences of its gradient."""
    case = next(c for c in load("core", algorithm="rl") if c.id == "rl/every-trajectory")
    _, grads = ALGORITHMS["rl"].closed_form(case)
    assert close(case, grads, case.answer.meta_grad)
    for surrogate in ("likelihood", "lvc"):
        assert not close(case, run_form(case, {"surrogate": surrogate}).meta_grad, grads), surrogate
    (xs, ys), _ = case.batches()[0]
    states, actions = np.argmax(xs[:, 0], -1), ys[:, 0, :, 0].astype(int)
    pairs = np.unique(np.stack([states[:, 0], actions[:, 0], states[:, 1], actions[:, 1]]), axis=1, return_counts=True)
    assert pairs[0].shape[1] == 8 and sum(pairs[1]) == 16 and set(pairs[1]) <= {1, 2, 3}


def test_what_is_held_stays_what_it_is_in_differences():
    """Without that, the differences would be those of a loss in which every box is 1."""
    from tinymaml.oracle.family import answers

    case = next(c for c in load("core", algorithm="rl") if c.id == "rl/lvc")
    assert close(case, answers.differences(case, bits=400)[1], case.answer.meta_grad)


def test_solved_finds_a_point_without_a_gradient():
    from tinymaml.oracle.family.answers import switches_of
    from tinymaml.oracle.family.procedure import ByHand

    case = drawn("imaml", "one-step")
    at, (support, _) = ByHand(case, float, switches_of(case, {})), case.batches()[0]
    phi = pulled.solved(at, case.params, support, pulled.strength(at))
    g = at.loss_and_grad(phi, support)[1]
    left = {n: g[n] + case.settings["strength"] * (phi[n] - p) for n, p in case.params.items()}
    assert np.linalg.norm(flat(left)) < 1e-14


# ── who is right, and who is wrong ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("algorithm", NAMES)
def test_honest_implementations_are_correct(algorithm, dtype):
    for i, honest in enumerate(made.HONEST[algorithm]):
        if i and dtype == "float32":
            continue
        report = check(made.answers(honest), load("core", algorithm=algorithm), dtype=dtype)
        assert report.verdict == "CORRECT", (honest.__name__, str(report))
        assert max(c.error for c in report.cases) < 10


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_reinforcement_learning_in_jax_is_correct(dtype):
    pytest.importorskip("jax")
    for honest in made.MODULES["rl"].IN_JAX:
        report = check(made.answers(honest), load("core", algorithm="rl"), dtype=dtype)
        assert report.verdict == "CORRECT", str(report)


def _every_wrong_one():
    rows = []
    for name in NAMES:
        assert len(made.MADE[name]) >= 10
        for i, (wrong, ids) in enumerate(made.MADE[name]):
            if i % 32 == 1:
                rows.append(pytest.param(name, wrong, ids, id=f"{name}-{wrong.__name__}-few forms"))
            rows.append(pytest.param(name, wrong, ids, marks=pytest.mark.slow, id=f"{name}-{wrong.__name__}"))
    return rows


@pytest.mark.parametrize(("name", "wrong", "ids"), _every_wrong_one())
def test_a_wrong_implementation_is_refused_and_named(name, wrong, ids, few_forms):
    few_forms(*ids)
    report = check(made.answers(wrong), load("core", algorithm=name))
    assert report.bug in ids, str(report)
    verdicts = {"convention": "CORRECT_OTHER_CONVENTION", "precision": "IMPRECISE"}
    assert report.verdict == verdicts.get(CATALOGUE[report.bug].kind, "KNOWN_BUG"), str(report)
