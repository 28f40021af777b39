"""Family, network and algorithm, joined: what the loop computes, by hand; and which statistics batch norm takes."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("threadpoolctl")

import tinymaml as tm
from tinymaml import nn
from tinymaml.algorithms import ALGORITHMS
from tinymaml.algorithms.proximal import robust_weights
from tinymaml.nest import tree_leaves, tree_map
from tinymaml.per_task import over_tasks
from tinymaml.runs.learner import Learner, averaged
from tinymaml.runs.loop import TRAIN, generator, initial, make_step
from tinymaml.runs.settings import Config

SMALL = dict(hidden=(6, 5), tasks=3, shots=4, queries=5, dtype="float64", compile=False, inner_lr=0.02, inner_steps=2)


def learner_of(algorithm: str = "maml", **changes) -> Learner:
    return Learner(Config.default("sinusoid", algorithm=algorithm, **{**SMALL, **changes}))


def learner_with(monkeypatch, of_task, **more) -> Learner:
    """A learner whose algorithm has this `of_task`, and these functions."""
    settings = ALGORITHMS["maml"].Settings
    member = SimpleNamespace(Settings=settings, init=lambda theta, s: theta, adapt=None, of_task=of_task, **more)
    monkeypatch.setitem(ALGORITHMS, "mine", member)
    return learner_of("mine")


def first_tasks(learner: Learner) -> tuple:
    return learner.sample(generator(learner.config, TRAIN), learner.config["tasks"], "train")


def one(tasks: tuple, t: int = 0) -> tuple:
    return tree_map(lambda x: x[t], tasks)


def same(ours, wanted, rtol=1e-10) -> None:
    for a, b in zip(tree_leaves(ours), tree_leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol, 1e-12)


# ── one step of the loop ────────────────────────────────────────────────────────────────────────────────────────────


def gradient_of(learner: Learner, t: int):
    """(loss, gradient) of one of the first tasks, by `maml`, at the parameters of the start."""
    loss = lambda *args: learner.loss(*args)[0]  # noqa: E731
    f = tm.meta_value_and_grad(loss, inner_lr=learner.settings.inner_lr, inner_steps=learner.steps)
    return f(initial(learner).meta, [one(first_tasks(learner), t)])


def test_robust_weights_are_those_of_the_tasks_losses():
    learner = learner_of(robust=0.05, optimizer="sgd", meta_lr=0.1, decay=0)
    state = initial(learner)
    losses, gradients = zip(*[gradient_of(learner, t) for t in range(3)], strict=True)
    p = robust_weights(np.full(3, 1 / 3), np.array(losses), 0.05)
    assert p.max() > p.min() >= 0 and p.sum() == pytest.approx(1)
    loss, metrics, after = make_step(learner, state)(0, state)
    # θ ← θ − β Σ pₜ ∇Fₜ
    same(after.meta, tree_map(lambda m, *g: m - 0.1 * sum(map(np.multiply, p, g)), state.meta, *gradients))
    assert loss == pytest.approx(np.mean(losses)) and np.mean(metrics) == pytest.approx(loss)


def test_a_sharp_step_takes_the_gradient_uphill():
    learner = learner_of(sharpness=0.3, optimizer="sgd", meta_lr=0.1, decay=0)
    state, tasks = initial(learner), first_tasks(learner)
    loss = lambda *args: learner.loss(*args)[0]  # noqa: E731
    f = tm.meta_value_and_grad(loss, inner_lr=0.02, inner_steps=2)
    value, g = f(state.meta, tasks)
    norm = np.sqrt(sum(np.sum(x * x) for x in tree_leaves(g)))
    _, uphill = f(tree_map(lambda m, x: m + 0.3 * x / norm, state.meta, g), tasks)
    loss, _, after = make_step(learner, state)(0, state)
    same(after.meta, tree_map(lambda m, x: m - 0.1 * x, state.meta, uphill))
    assert loss == pytest.approx(float(value))


def test_what_an_algorithm_carries_is_the_mean_over_tasks(monkeypatch):
    def of_task(loss, theta, support, query, settings, carried):
        state = {"n": carried["n"] + 1, "y": np.mean(query[1])}
        return (loss(theta, *query)[0], {"aux": 0.5, "carried": state}), theta

    learner = learner_with(monkeypatch, of_task, carried=lambda theta, s: {"n": np.zeros(()), "y": np.zeros(())})
    state = initial(learner)
    _, metrics, after = make_step(learner, state)(0, state)
    assert metrics == [0.5] * 3 and after.carried["n"] == 1
    same(after.carried["y"], np.mean(first_tasks(learner)[1][1]))


def test_noise_is_of_the_iteration_and_of_each_task(monkeypatch):
    drawn = []

    def of_task(loss, theta, support, query, settings, noise):
        drawn.append(noise)
        return loss(theta, *query), theta

    draw = lambda rng, meta, support, query, settings: rng.standard_normal(query[0].shape)  # noqa: E731
    learner = learner_with(monkeypatch, of_task, noise=draw)
    state = initial(learner)
    step = make_step(learner, state)
    for i in (0, 1, 0):
        step(i, state)
    numbers = [tuple(np.ravel(x)) for x in drawn]
    assert len(set(numbers)) == 6 and numbers[:3] == numbers[6:] and drawn[0].shape == (5, 1)


@pytest.mark.parametrize("result", ["loss", "(loss, gradient)", "three"])
def test_an_of_task_that_breaks_the_contract_is_named(monkeypatch, result):
    def of_task(loss, theta, support, query, settings):
        value = loss(theta, *query)[0]
        return {"loss": value, "(loss, gradient)": (value, theta), "three": (value, value, theta)}[result]

    learner = learner_with(monkeypatch, of_task)
    state = initial(learner)
    message = r"of_task of mine returned .*float64 \(\).*, wanted \(\(loss, aux\), gradient\)"
    with pytest.raises(TypeError, match=message):
        make_step(learner, state)(0, state)


# ── the loss ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_loss_is_the_head_s_of_the_body_s():
    for collect in ({}, dict(norm="batch", statistics="running")):
        learner = learner_of("anil", **collect)
        meta, loss = initial(learner).meta, learner.loss
        (x, y), _ = one(first_tasks(learner))
        same(loss.head(meta, loss.body(meta, x), y), loss(meta, x, y))
        assert loss.last == ("linear2",)
        same(loss(meta, x, y)[0], np.mean((learner.predict(meta, x) - y) ** 2))


def test_a_network_in_one_piece_has_neither_body_nor_head():
    learner = learner_of("cavia")
    assert learner.loss.body is learner.loss.head is None and learner.loss.last == ()
    assert initial(learner).meta.keys() == {"network", "context"}
    assert initial(learner).meta["network"]["linear0"]["w"].shape == (1 + learner.config["context"], 6)


def test_an_algorithm_that_a_network_cannot_serve_is_refused(monkeypatch):
    from tinymaml.networks import NETWORKS

    make = lambda family, settings: SimpleNamespace(init=lambda rng, dtype: {}, apply=lambda params, x: x)  # noqa: E731
    monkeypatch.setitem(NETWORKS, "whole", SimpleNamespace(make=make))
    with pytest.raises(ValueError, match="head"):
        Learner(Config.default(network="whole", algorithm="anil"))


# ── batch norm ──────────────────────────────────────────────────────────────────────────────────────────────────────


def measured(learner: Learner, norms=None, at=(0, 1, 2)) -> list:
    tasks = first_tasks(learner)
    return over_tasks(learner.metrics(at))(initial(learner).meta, tasks, norms if norms is not None else {})


def apart(learner: Learner, norms=None, at=(0, 1, 2)) -> list:
    """As `measured`, each query by itself."""
    (xs, ys), (xq, yq) = first_tasks(learner)
    parts = [over_tasks(learner.metrics(at))(initial(learner).meta, ((xs, ys), (xq[:, q : q + 1], yq[:, q : q + 1])),
                                             norms if norms is not None else {}) for q in range(5)]  # fmt: skip
    return [np.mean(x, 0) for x in zip(*parts, strict=True)]


def test_queries_see_each_other_in_transductive_statistics_alone():
    for statistics, alike in ("transductive", False), ("support", True), ("running", True):
        learner = learner_of(norm="batch", statistics=statistics)
        norms = initial(learner).norms
        together, alone = measured(learner, norms), apart(learner, norms)
        assert all(np.allclose(a, b, 1e-9) for a, b in zip(together, alone, strict=True)) == alike


def test_statistics_of_the_support_set_are_those_under_the_same_parameters():
    learner = learner_of(norm="batch", statistics="support", hidden=(6,))
    meta, ((xs, ys), (xq, yq)) = initial(learner).meta, one(first_tasks(learner))
    first, last = meta["linear0"], meta["linear1"]
    mean, var = nn.moments(xs @ first["w"] + first["b"])
    h = nn.batch_norm(xq @ first["w"] + first["b"], first["gamma"], first["beta"], mean=mean, var=var)
    wanted = np.mean((np.maximum(h, 0) @ last["w"] + last["b"] - yq) ** 2)
    assert learner.loss(meta, *learner.view((xs, ys), (xq, yq)))[0] == pytest.approx(wanted)


def test_running_statistics_go_a_tenth_of_the_way_to_the_mean_of_the_tasks_each_iteration():
    learner = learner_of("joint", norm="batch", statistics="running", hidden=(6,), meta_lr=0.0)
    state, (_, (xq, yq)) = initial(learner), first_tasks(learner)
    first, last = state.meta["linear0"], state.meta["linear1"]
    moments = [nn.moments(x @ first["w"] + first["b"]) for x in xq]
    mean, var = (np.mean(x, 0) for x in zip(*moments, strict=True))
    step = make_step(learner, state)
    _, _, after = step(0, state)
    same(after.norms, {"linear0": {"mean": 0.1 * mean[None], "var": 0.9 + 0.1 * var[None]}})

    kept = {name: x[0] for name, x in after.norms["linear0"].items()}
    h = nn.batch_norm(xq[0] @ first["w"] + first["b"], first["gamma"], first["beta"], **kept)
    wanted = np.mean((np.maximum(h, 0) @ last["w"] + last["b"] - yq[0]) ** 2)
    assert measured(learner, after.norms, at=(0,))[0][0] == pytest.approx(wanted)


def test_averages_of_several_steps_are_taken_by_the_step():
    kept = {"norm": {"mean": np.array([[1.0], [2.0]]), "var": np.ones((2, 1))}}
    seen = [{"norm": {"mean": np.array([[2.0], [4.0]]), "var": np.ones((2, 1))}}] * 3
    same(averaged(kept, seen)["norm"]["mean"], np.array([[1.1], [2.2]]))
    learner = learner_of(norm="batch", statistics="running")
    for step, mean in (0, 1), (1, 1), (2, 2), (3, 2):
        (x, _) = learner.view((0, 0), ("x", "y"), kept, step)
        assert x["x"] == "x" and x["norms"]["norm"]["mean"] == [mean]
    assert learner.view((0, 0), ("x", "y")) == ("x", "y")


def test_mamlpp_keeps_statistics_per_step():
    learner = learner_of("mamlpp", norm="batch", statistics="running", inner_steps=3)
    state = initial(learner)
    assert state.norms["linear0"]["mean"].shape == (3, 6)
    _, _, after = make_step(learner, state)(0, state)
    mean = after.norms["linear1"]["mean"]
    assert mean.shape == (3, 5) and len(np.unique(mean, axis=0)) == 3
