"""The contenders: tinymaml's ways, and the same meta-gradient written with other libraries as their users would.

    call = CONTENDERS["torch-func"].build(w, params, tasks)
    value, grads = call()        # in the library's own arrays

Every peer computes the mean query loss and its exact gradient, second order and all. The inputs lie in the library's
own arrays before the clock starts, and the results stay there; a call ends when its results are computed.

A network is written once, over what each library calls `relu`, `conv` and so on.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

import tinymaml as tm

from .workloads import Workload


class Contender(NamedTuple):
    """`build(w, params, tasks)` → a function of nothing that returns (value, grads)."""

    build: Callable[[Workload, dict, tuple], Callable[[], tuple]]
    modules: tuple[str, ...] = ()  # imported before anything is measured
    kinds: tuple[str, ...] = ("mlp", "norm", "conv", "pool")  # of workloads it is in by default
    caches: bool = False  # compiled code is kept on disk, so that the first call of another process is shorter
    compiler: bool = False  # needs one for C++
    ours: bool = False
    extra: str = "peers"  # of pyproject.toml, which brings the modules
    env: dict[str, str] = {}  # of its process


def loss(f: SimpleNamespace, w: Workload, params: dict, x, y):
    """One task's loss. Images are (N, H, W, C), filters (height, width, in, out)."""
    blocks = [name for name in sorted(params) if name != "linear"]  # linear0, linear1, … or conv0, …, conv3, linear
    if w.kind in ("mlp", "norm"):
        x = x.reshape((x.shape[0], -1))
        last = params[blocks.pop()]
    else:
        last = params["linear"]
    for name in blocks:
        layer = params[name]
        x = f.conv(x, layer["w"], 1 if w.kind == "pool" else 2) if layer["w"].ndim == 4 else x @ layer["w"]
        x = x + layer["b"]
        if "gamma" in layer:
            x = f.batch_norm(x, layer["gamma"], layer["beta"])
        x = f.relu(x)
        if w.kind == "pool":
            # Not the largest over axes of a reshaped x: its gradient asks which element equals it, and compiled by XLA
            # (JAX 0.10.2, CPU) both sides are computed again, with other roundings, so that often none does.
            n, rows, columns, c = x.shape
            x = x[:, : rows // 2 * 2, : columns // 2 * 2].reshape((n, rows // 2, 2, columns // 2, 2, c))
            upper, lower = (f.maximum(x[:, :, i, :, 0], x[:, :, i, :, 1]) for i in (0, 1))
            x = f.maximum(upper, lower)
    if w.kind == "conv":
        x = x.mean((1, 2))
    z = x.reshape((x.shape[0], -1)) @ last["w"] + last["b"]
    return ((z - y) ** 2).mean() if w.outputs == 1 else f.cross_entropy(z, y)


def same(n: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis of length n under a filter of length 3, so that ⌈n / stride⌉ are left."""
    total = max((-(-n // stride) - 1) * stride + 3 - n, 0)
    return total // 2, total - total // 2


def windows(x, stride: int) -> list:
    """The nine shifted images that a 3×3 filter sees, of x already padded."""
    rows, columns = ((n - 3) // stride + 1 for n in x.shape[1:3])
    return [
        x[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
        for i in range(3)
        for j in range(3)
    ]


# ── tinymaml ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _meta(w: Workload, **how) -> Callable:
    return tm.meta_value_and_grad(w.loss, inner_lr=w.inner_lr, inner_steps=w.inner_steps, **how)


def _reference(**how) -> Callable:
    def build(w, params, tasks):
        meta = _meta(w, **how)
        return lambda: meta(params, tasks)

    return build


def _compiled(options: dict, **how) -> Callable:
    def build(w, params, tasks):
        fast = tm.compile(_meta(w, **how), **options)
        return lambda: fast(params, tasks)

    return build


# ── JAX ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _jax(convolution: str, over_tasks: str = "vmap") -> Callable:
    """`jit` of everything. The inner steps are unrolled: as a `scan` they compile faster and run no faster.

    `over_tasks`: "vmap" makes every operation one over all tasks; "map" runs one task after the other (`lax.map`),
    which is faster for all but the sine network, because one task's arrays stay in the cache.
    """

    def build(w, params, tasks):
        import jax
        from jax import lax
        from jax import numpy as jnp

        jax.config.update("jax_enable_x64", tm.tree_leaves(params)[0].dtype == np.float64)

        def batch_norm(x, gamma, beta):
            over = tuple(range(x.ndim - 1))
            return (x - x.mean(over)) * lax.rsqrt(x.var(over) + 1e-5) * gamma + beta

        def by_lax(x, weights, stride):
            how = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"))
            return lax.conv_general_dilated(x, weights, (stride, stride), "SAME", **how)

        def by_patches(x, weights, stride):
            x = jnp.pad(x, ((0, 0), same(x.shape[1], stride), same(x.shape[2], stride), (0, 0)))
            rows = jnp.concatenate(windows(x, stride), -1)  # as a matrix, XLA multiplies them faster than as an image
            y = rows.reshape(-1, rows.shape[3]) @ weights.reshape(-1, weights.shape[3])
            return y.reshape(*rows.shape[:3], -1)

        f = SimpleNamespace(
            relu=jax.nn.relu, batch_norm=batch_norm, conv=by_lax if convolution == "lax" else by_patches,
            maximum=jnp.maximum,
            cross_entropy=lambda z, y: -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1).mean(),
        )  # fmt: skip

        def query_loss(params, support, query):
            for _ in range(w.inner_steps):
                grads = jax.grad(lambda p: loss(f, w, p, *support))(params)
                params = jax.tree.map(lambda p, g: p - w.inner_lr * g, params, grads)
            return loss(f, w, params, *query)

        def meta_loss(params, tasks):
            return jax.vmap(query_loss, (None, 0, 0))(params, *tasks).mean()

        def meta_map(params, tasks):
            def one(task):
                return jax.value_and_grad(query_loss)(params, *task)

            return jax.tree.map(lambda a: a.mean(0), lax.map(one, tasks))

        meta = jax.jit(jax.value_and_grad(meta_loss) if over_tasks == "vmap" else meta_map)
        params, tasks = jax.block_until_ready(jax.tree.map(jnp.asarray, (params, tasks)))
        return lambda: jax.block_until_ready(meta(params, tasks))

    return build


# ── PyTorch ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _torch_functions(convolution: str) -> SimpleNamespace:
    import torch
    from torch.nn import functional as F

    def batch_norm(x, gamma, beta):
        over = tuple(range(x.ndim - 1))
        return (x - x.mean(over)) * torch.rsqrt(x.var(over, correction=0) + 1e-5) * gamma + beta

    def pad(x, stride):
        return F.pad(x, (0, 0, *same(x.shape[2], stride), *same(x.shape[1], stride)))

    def direct(x, weights, stride):
        x = pad(x, stride).permute(0, 3, 1, 2)
        return F.conv2d(x, weights.permute(3, 2, 0, 1), stride=stride).permute(0, 2, 3, 1)

    def patches(x, weights, stride):
        return torch.cat(windows(pad(x, stride), stride), -1) @ weights.reshape(-1, weights.shape[3])

    return SimpleNamespace(
        relu=torch.relu, batch_norm=batch_norm, conv=direct if convolution == "direct" else patches,
        maximum=torch.maximum, cross_entropy=F.cross_entropy,
    )  # fmt: skip


def torch_loop(w, params, tasks):
    """The usual loop over tasks, with `create_graph=True`; one task's graph lives at a time."""
    import torch

    f = _torch_functions("direct")
    theta = tm.tree_map(lambda p: torch.tensor(p, requires_grad=True), params)
    (xs, ys), (xq, yq) = tm.tree_map(torch.as_tensor, tasks)
    leaves = tm.tree_leaves(theta)

    def call():
        for leaf in leaves:
            leaf.grad = None
        total = 0.0
        for t in range(w.tasks):
            fast = theta
            for _ in range(w.inner_steps):
                value = loss(f, w, fast, xs[t], ys[t])
                grads = iter(torch.autograd.grad(value, tm.tree_leaves(fast), create_graph=True))
                fast = tm.tree_map(lambda p: p - w.inner_lr * next(grads), fast)  # noqa: B023
            task = loss(f, w, fast, xq[t], yq[t]) / w.tasks
            task.backward()
            total += task.item()
        return total, tm.tree_map(lambda p: p.grad, theta)

    return call


def _torch_func(convolution: str, compiled: bool = False) -> Callable:
    """`vmap` over tasks of nested `grad`, under `torch.compile` if `compiled`.

    `vmap` makes a "direct" convolution with weights of each task's own a grouped one. As it is that is faster than
    "patches" (nine shifted images and a product); compiled, patches are faster on W5 and as fast on W6.
    """

    def build(w, params, tasks):
        import torch
        from torch.func import grad, grad_and_value, vmap

        f = _torch_functions(convolution)

        def query_loss(params, support, query):
            for _ in range(w.inner_steps):
                grads = grad(lambda p: loss(f, w, p, *support))(params)
                params = tm.tree_map(lambda p, g: p - w.inner_lr * g, params, grads)
            return loss(f, w, params, *query)

        def meta_loss(params, tasks):
            return vmap(query_loss, (None, 0, 0))(params, *tasks).mean()

        def meta(params, tasks):
            grads, value = grad_and_value(meta_loss)(params, tasks)
            return value, grads

        meta = torch.compile(meta, dynamic=False) if compiled else meta
        params, tasks = tm.tree_map(torch.as_tensor, (params, tasks))
        return lambda: meta(params, tasks)

    return build


# ── HIPS autograd ───────────────────────────────────────────────────────────────────────────────────────────────────


def autograd(w, params, tasks):
    """A leading task axis: the gradient of the sum of all tasks' losses is each task's own."""
    from autograd import grad, value_and_grad
    from autograd import numpy as anp

    (xs, ys), (xq, yq) = tm.tree_map(lambda a: a.reshape(*a.shape[:2], -1) if a.ndim > 2 else a, tasks)

    def losses(params, x, y):
        layers = [params[name] for name in sorted(params)]
        for layer in layers[:-1]:
            x = anp.matmul(x, layer["w"]) + layer["b"]
            if "gamma" in layer:
                x = x - anp.mean(x, 1, keepdims=True)
                x = x / anp.sqrt(anp.mean(x * x, 1, keepdims=True) + 1e-5) * layer["gamma"] + layer["beta"]
            x = anp.maximum(x, 0)
        z = anp.matmul(x, layers[-1]["w"]) + layers[-1]["b"]
        if w.outputs == 1:
            return anp.mean((z - y) ** 2, (1, 2))
        z = z - anp.max(z, 2, keepdims=True)
        of_label = anp.sum(z * (y[..., None] == np.arange(w.outputs)), 2)
        return anp.mean(anp.log(anp.sum(anp.exp(z), 2)) - of_label, 1)

    def meta_loss(params):
        # one copy a task: (tasks, in, out), and (tasks, 1, out) for vectors
        ones = np.ones((w.tasks, 1, 1), xs.dtype)
        fast = {name: {key: ones * p for key, p in layer.items()} for name, layer in params.items()}
        for _ in range(w.inner_steps):
            grads = grad(lambda p: anp.sum(losses(p, xs, ys)))(fast)
            for name, layer in fast.items():
                fast[name] = {key: p - w.inner_lr * grads[name][key] for key, p in layer.items()}
        return anp.mean(losses(fast, xq, yq))

    meta = value_and_grad(meta_loss)
    return lambda: meta(params)


# ── the GEMM limit ──────────────────────────────────────────────────────────────────────────────────────────────────

GEMM_SIZE = 2048
GEMM_FLOPS = 2 * GEMM_SIZE**3


def gemm(w, params, tasks):
    """One large square product, in the workload's dtype."""
    a = np.random.default_rng(0).standard_normal((GEMM_SIZE, GEMM_SIZE)).astype(tm.tree_leaves(params)[0].dtype)
    out = np.empty_like(a)
    return lambda: (np.matmul(a, a, out=out), {})


def gemm_limits() -> list[str]:
    """NumPy's BLAS as it comes, and with each set of OpenBLAS kernels that this processor can run."""
    flags: set[str] = set()
    if os.path.exists("/proc/cpuinfo"):
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].split())
    needs = {"gemm-HASWELL": "avx2", "gemm-ZEN": "avx2", "gemm-SKYLAKEX": "avx512dq", "gemm-COOPERLAKE": "avx512_bf16",
             "gemm-SAPPHIRERAPIDS": "amx_bf16"}  # fmt: skip
    return ["gemm", *(name for name, flag in needs.items() if flag in flags)]


MLP, CONV = ("mlp", "norm"), ("conv", "pool")
_jax_only, _torch_only = dict(modules=("jax",)), dict(modules=("torch",))
_inductor = dict(modules=("torch", "torch._dynamo", "torch._inductor.compile_fx"), caches=True, compiler=True)
_numba = ("numba",) if importlib.util.find_spec("numba") else ()
_engine = dict(modules=("tinymaml", *_numba), caches=True, ours=True, extra="fast")
CONTENDERS = {
    "reference": Contender(_reference(), **_engine),
    "replay": Contender(_compiled({"backend": "replay"}), **_engine),
    "compiled": Contender(_compiled({}), **_engine),
    "compiled-1": Contender(_compiled({"threads": 1}), kinds=(), **_engine),
    "reference-flat": Contender(_reference(memory="flat"), kinds=(), **_engine),
    "compiled-flat": Contender(_compiled({}, memory="flat"), kinds=(), **_engine),
    "jax": Contender(_jax("patches"), kinds=MLP, **_jax_only),
    "jax-lax": Contender(_jax("lax"), kinds=CONV, **_jax_only),
    "jax-patches": Contender(_jax("patches"), kinds=CONV, **_jax_only),
    "jax-map": Contender(_jax("patches", "map"), kinds=("norm", *CONV), **_jax_only),
    "torch-loop": Contender(torch_loop, **_torch_only),
    "torch-func": Contender(_torch_func("direct"), **_torch_only),
    "torch-compile": Contender(_torch_func("patches", compiled=True), **_inductor),
    "autograd": Contender(autograd, ("autograd",), kinds=MLP),
    **{f"gemm{core}": Contender(gemm, kinds=(), env={"OPENBLAS_CORETYPE": core[1:]} if core else {})
       for core in ("", "-HASWELL", "-ZEN", "-SKYLAKEX", "-COOPERLAKE", "-SAPPHIRERAPIDS")},
}  # fmt: skip
