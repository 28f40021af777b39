"""A user's script, as mypy sees it: `right` is clean, and runs; in `wrong` each line is an error, see `test_types`."""

import numpy as np

import tinymaml as tm

Params = dict[str, np.ndarray]


def loss(params: Params, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return tm.nn.mse(np.tanh(x @ params["w"]), y)


def right(params: Params, x: np.ndarray, y: np.ndarray) -> float:
    gradient: Params = tm.grad(loss)(params, x, y)
    value, gradient = tm.value_and_grad(loss)(params, x, y=y)
    out, pullback = tm.vjp(loss, params, x, y)
    pullback(np.ones(out.shape))
    along = tm.jvp(loss, (params, x, y), (gradient, x, y))[1]
    tm.hvp(loss, (params, x, y), (gradient, x, y))

    tasks = ((x[None], y[None]), (x[None], y[None]))
    meta = tm.meta_value_and_grad(loss, inner_lr=0.01, inner_steps=2)
    meta(params, tasks)
    tm.compile(meta, backend="replay")(params, tasks)
    tm.check_grads(loss, (params, x, y), order=2)
    adapted: Params = tm.adapt(loss, params, (x, y), inner_lr=0.01, inner_steps=1)
    tm.tree_map(lambda a, b: a - b, params, adapted)
    return float(value) + float(along)


def wrong(params: Params, x: np.ndarray, y: np.ndarray) -> None:
    tm.grad(loss)(params, x)  # type: ignore[call-arg]
    tm.grad(loss)("w", x, y)  # type: ignore[arg-type]
    tm.value_and_grad(loss)(params, x, z=y)  # type: ignore[call-arg]
    tm.vjp(loss, params, x, y)[1]("one")  # type: ignore[arg-type]
    print(tm.jvp(loss, (params, x, y), (params, x, y))[0].shapes)  # type: ignore[attr-defined]
    tm.adapt(loss, params, (x, y), inner_lr=0.01)  # type: ignore[call-arg]
    tm.meta_value_and_grad(loss, inner_lr=0.01, steps=2)  # type: ignore[call-arg]
