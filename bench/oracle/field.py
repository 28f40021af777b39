"""The oracle in the field: public MAML implementations, as they are, in their right and in their wrong settings.

    python -m bench.oracle field                       # every library that is installed; --json for programs
    python -m bench.oracle field higher torchopt       # some of them; --list names them all
    python -m bench.oracle field learn2learn --why     # the oracle's whole report, row by row

A library runs unmodified: an adapter calls it as its documentation or its examples say, on the oracle's cases. What is
not there is a row that says how to install it. Code that cannot be installed (research repositories, Python 2,
TensorFlow 1) is reproduced: what its loop computes, in our own words, with the place it is found at; such rows say so.

Each row has the verdict that is expected, so that the study is a test of the oracle as well: the command fails if a
verdict is another.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.util
import io
import json
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np


class Setting(NamedTuple):
    """One way to use a library."""

    what: str
    expected: str  # CORRECT, the id of a mistake or a convention, "id × T", or another verdict
    mine: Callable  # what `oracle.check` takes
    dtype: str = "float64"


@dataclasses.dataclass(frozen=True)
class Library:
    """
    Attributes:
        name: what it is called; a repository for what is reproduced.
        settings: makes the list of settings; raises ImportError if something is missing.
        can: the oracle's capabilities that it has beyond the plain case.
        install: arguments of `pip install`, or "" if it is reproduced.
        package: whose version is reported.
    """

    name: str
    settings: Callable[[], list[Setting]]
    can: tuple[str, ...]
    install: str
    package: str

    @property
    def how(self) -> str:
        return "as installed" if self.install else "reproduced"


LIBRARIES: dict[str, Library] = {}
TASK_BY_TASK = ("unequal_tasks", "unused_parameter", "no_inner_steps")


def library(name: str, install: str = "", package: str = "", can: tuple[str, ...] = ()) -> Callable:
    """Registers the function that lists the settings of a library."""

    def register(settings: Callable) -> Callable:
        LIBRARIES[name] = Library(name, settings, can, install, package)
        return settings

    return register


# ── a case, as these libraries want it ──────────────────────────────────────────────────────────────────────────────


def tasks_of(data) -> list[tuple]:
    """(xs, ys, xq, yq) of each task."""
    (xs, ys), (xq, yq) = data
    return list(zip(xs, ys, xq, yq, strict=True))


def in_torch(case) -> tuple:
    """(loss, θ, tasks): θ {name: leaf}, tasks [(xs, ys, xq, yq), …]."""
    loss, theta, data = case.torch()
    return loss, theta, tasks_of(data)


class Prediction(NamedTuple):
    """What `model(x)` gives to libraries that call model and criterion apart: the model at x, without a target yet."""

    loss: Callable
    params: dict
    x: object

    def max(self, dim):
        """(values, classes), for a library that counts right answers. They are not looked at."""
        return None, self.x.new_zeros(1)


def criterion(prediction: Prediction, y):
    """The loss of a prediction."""
    return prediction.loss(prediction.params, prediction.x, y)


def network(case, base: type | None = None) -> tuple:
    """The case's model as a torch.nn.Module, or as a subclass of `base`.

    Returns:
        (model, θ, tasks). model(x, y) is the loss, model(x) a Prediction; `params` takes the place of its parameters.
        θ: the parameters the model has now, whatever a library puts in their place later.
    """
    import torch

    loss, theta, tasks = in_torch(case)

    class Network(base or torch.nn.Module):
        def __init__(self):
            super().__init__()
            for i, p in enumerate(theta.values()):
                self.register_parameter(f"p{i}", torch.nn.Parameter(p.detach().clone()))

        def forward(self, x, y=None, params=None):
            values = params or {f"p{i}": getattr(self, f"p{i}") for i in range(len(theta))}
            named = {name: values[f"p{i}"] for i, name in enumerate(theta)}
            return Prediction(loss, named, x) if y is None else loss(named, x, y)

    model = Network()
    return model, list(model.parameters()), tasks


def answer(parameters, meta_loss=None) -> dict:
    """What `.backward()` left in the parameters, and the loss it started from, where a library gives one."""
    return {"meta_grad": [p.grad for p in parameters], "meta_loss": meta_loss}


def part(module: str) -> types.ModuleType:
    """One module of a package that may not import as a whole, because its data sets want torchvision, gym or the like.

    Raises:
        ImportError: the package is not installed, or this module itself does not import.
    """
    packages = module.split(".")[:-1]
    with contextlib.suppress(Exception):
        return importlib.import_module(module)
    bare = {}
    try:
        for i in range(len(packages)):  # every package above it, without running its __init__.py
            name = ".".join(packages[: i + 1])
            spec = importlib.util.find_spec(name)
            if spec is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            bare[name] = types.ModuleType(name)
            bare[name].__path__ = list(spec.submodule_search_locations or [])
            sys.modules[name] = bare[name]
        return importlib.import_module(module)
    finally:
        for name in bare:
            del sys.modules[name]


# ── PyTorch libraries ───────────────────────────────────────────────────────────────────────────────────────────────


@library("higher", "higher", "higher", TASK_BY_TASK)
def _higher() -> list[Setting]:
    import higher
    import torch

    def maml(case, copy=False, track=True, mean=True, callback=None, judge="adapted"):
        model, theta, tasks = network(case)
        inner = torch.optim.SGD(model.parameters(), lr=case.inner_lr)
        for xs, ys, xq, yq in tasks:
            with higher.innerloop_ctx(model, inner, copy_initial_weights=copy, track_higher_grads=track) as (fast, opt):
                for _ in range(case.inner_steps):
                    opt.step(fast(xs, ys), grad_callback=callback)
                loss = (fast if judge == "adapted" else model)(xq, yq)
                (loss / case.tasks if mean else loss).backward()
        return answer(theta)

    def by_time(case, time):
        model, _, tasks = network(case)
        inner, total = torch.optim.SGD(model.parameters(), lr=case.inner_lr), None
        for xs, ys, xq, yq in tasks:
            with higher.innerloop_ctx(model, inner) as (fast, opt):
                for _ in range(case.inner_steps):
                    opt.step(fast(xs, ys))
                grads = torch.autograd.grad(fast(xq, yq) / case.tasks, list(fast.parameters(time=time)),
                                            allow_unused=True)  # fmt: skip
            grads = [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), grads, strict=True)]
            total = grads if total is None else [a + b for a, b in zip(total, grads, strict=True)]
        return {"meta_grad": total}

    return [
        Setting("copy_initial_weights=False, mean over tasks", "CORRECT", maml),
        Setting("grad(…, fmodel.parameters(time=0))", "CORRECT", functools.partial(by_time, time=0)),
        Setting("copy_initial_weights=False, backward() a task (its examples)", "sum_over_tasks",
                functools.partial(maml, mean=False)),
        Setting("copy_initial_weights=True (the default)", "zero_gradient", functools.partial(maml, copy=True)),
        Setting("track_higher_grads=False", "zero_gradient", functools.partial(maml, track=False)),
        Setting("grad_callback detaches", "fomaml",
                functools.partial(maml, callback=lambda grads: [None if g is None else g.detach() for g in grads])),
        Setting("grad(…, fmodel.parameters())", "fomaml", functools.partial(by_time, time=-1)),
        Setting("query loss of the model, not of fmodel", "query_before_adaptation",
                functools.partial(maml, judge="model")),
    ]  # fmt: skip


@library("learn2learn", "cython setuptools wheel && pip install --no-deps --no-build-isolation --use-pep517 "
         "--config-settings=--global-option=build_ext learn2learn==0.2.0", "learn2learn", TASK_BY_TASK)  # fmt: skip
def _learn2learn() -> list[Setting]:
    import torch

    l2l = part("learn2learn.algorithms.maml")
    clone_module = part("learn2learn.utils").clone_module

    def maml(case, first_order=False, mean="tensors", clone=True, judge="learner"):
        model, theta, tasks = network(case)
        meta = l2l.MAML(model, lr=case.inner_lr, first_order=first_order, allow_unused=True)
        losses = []
        for xs, ys, xq, yq in tasks:
            learner = meta.clone() if clone is True else copy.deepcopy(meta) if clone == "deepcopy" else meta
            for _ in range(case.inner_steps):
                learner.adapt(learner(xs, ys))
            losses.append((learner if judge == "learner" else meta)(xq, yq))
        if mean == "item":
            losses = [loss.item() for loss in losses[:-1]] + losses[-1:]
        (sum(losses) if mean == "none" else sum(losses) / case.tasks).backward()
        return answer(theta)

    def by_hand(case, create_graph):
        model, theta, tasks = network(case)
        for xs, ys, xq, yq in tasks:
            learner = clone_module(model)
            for _ in range(case.inner_steps):
                grads = torch.autograd.grad(learner(xs, ys), list(learner.parameters()), create_graph=create_graph,
                                            allow_unused=True)  # fmt: skip
                l2l.maml_update(learner, lr=case.inner_lr, grads=grads)
            (learner(xq, yq) / case.tasks).backward()
        return answer(theta)

    return [
        Setting("MAML(first_order=False): clone(), adapt()", "CORRECT", maml),
        Setting("maml_update, create_graph=True", "CORRECT", functools.partial(by_hand, create_graph=True)),
        Setting("MAML(first_order=True)", "fomaml", functools.partial(maml, first_order=True)),
        Setting("maml_update, create_graph=False", "fomaml", functools.partial(by_hand, create_graph=False)),
        Setting("losses summed over tasks", "sum_over_tasks", functools.partial(maml, mean="none")),
        Setting("losses summed with .item()", "last_task_over_T", functools.partial(maml, mean="item")),
        Setting("query loss of maml, not of its clone", "query_before_adaptation",
                functools.partial(maml, judge="maml")),
        Setting("copy.deepcopy(maml) instead of clone()", "zero_gradient", functools.partial(maml, clone="deepcopy")),
        Setting("adapt() without clone()", "task_leak", functools.partial(maml, clone=False)),
    ]  # fmt: skip


@library("torchopt", "torchopt", "torchopt", TASK_BY_TASK)
def _torchopt() -> list[Setting]:
    import torch
    import torchopt

    def meta_sgd(case, by="reference", recover=True, mean=True, stop=False):
        model, theta, tasks = network(case)
        inner = torchopt.MetaSGD(model, lr=case.inner_lr)
        start = torchopt.extract_state_dict(model, by=by, detach_buffers=by == "reference")
        inner_start = torchopt.extract_state_dict(inner, by="reference")
        losses = []
        for xs, ys, xq, yq in tasks:
            for _ in range(case.inner_steps):
                inner.step(model(xs, ys))
                if stop:
                    torchopt.stop_gradient(model)
            losses.append(model(xq, yq))
            if recover:
                torchopt.recover_state_dict(model, start)
                torchopt.recover_state_dict(inner, inner_start)
        (torch.stack(losses).mean() if mean else torch.stack(losses).sum()).backward()
        return answer(theta)

    def functional(case, detach=False):
        loss, theta, tasks = in_torch(case)
        inner = torchopt.sgd(lr=case.inner_lr)

        def task_loss(theta, xs, ys, xq, yq):
            fast, state = theta, inner.init(theta)
            for _ in range(case.inner_steps):
                grads = torch.func.grad(loss)(fast, xs, ys)
                if detach:
                    grads = {name: g.detach() for name, g in grads.items()}
                updates, state = inner.update(grads, state, inplace=False)
                fast = torchopt.apply_updates(fast, updates, inplace=False)
            return loss(fast, xq, yq)

        torch.stack([task_loss(theta, *task) for task in tasks]).mean().backward()
        return answer(theta.values())

    def in_place(case):
        model, theta, tasks = network(case)
        inner, losses = torchopt.SGD(model.parameters(), lr=case.inner_lr), []
        for xs, ys, xq, yq in tasks:
            for _ in range(case.inner_steps):
                inner.zero_grad()
                model(xs, ys).backward()
                inner.step()
            losses.append(torch.autograd.grad(model(xq, yq) / case.tasks, theta, allow_unused=True))
        return {"meta_grad": [None if g[0] is None else sum(g) for g in zip(*losses, strict=True)]}

    return [
        Setting("MetaSGD, extract_state_dict, recover_state_dict", "CORRECT", meta_sgd),
        Setting("sgd, functional", "CORRECT", functional),
        Setting("losses summed over tasks", "sum_over_tasks", functools.partial(meta_sgd, mean=False)),
        Setting("sgd, functional, inner gradients detached", "fomaml", functools.partial(functional, detach=True)),
        Setting("stop_gradient in the inner loop", "zero_gradient", functools.partial(meta_sgd, stop=True)),
        Setting("no recover_state_dict", "task_leak", functools.partial(meta_sgd, recover=False)),
        Setting('extract_state_dict(by="copy")', "CORRECT", functools.partial(meta_sgd, by="copy")),
        Setting('extract_state_dict(by="deepcopy")', "first_task_only", functools.partial(meta_sgd, by="deepcopy")),
        Setting("SGD instead of MetaSGD", "inplace_update", in_place),
    ]


def _gradient_update_parameters(package: str) -> Callable[[], list[Setting]]:
    """torchmeta, and torchmetal, which is its fork."""

    def settings() -> list[Setting]:
        update = part(f"{package}.utils.gradient_based").gradient_update_parameters
        meta_module = sys.modules[update.__module__].MetaModule

        def maml(case, first_order=False, mean=True, carry=True):
            model, theta, tasks = network(case, meta_module)
            for xs, ys, xq, yq in tasks:
                params = None
                for _ in range(case.inner_steps):
                    params = update(model, model(xs, ys, params if carry else None), params=params if carry else None,
                                    step_size=case.inner_lr, first_order=first_order)  # fmt: skip
                loss = model(xq, yq, params)
                (loss / case.tasks if mean else loss).backward()
            return answer(theta)

        return [
            Setting("gradient_update_parameters", "CORRECT", maml),
            Setting("first_order=True", "fomaml", functools.partial(maml, first_order=True)),
            Setting("params= forgotten in the inner loop", "restarted_steps", functools.partial(maml, carry=False)),
            Setting("losses summed over tasks", "sum_over_tasks", functools.partial(maml, mean=False)),
        ]

    return settings


for _name in ("torchmeta", "torchmetal"):
    _register = library(_name, f"--no-deps {_name}", _name, ("unequal_tasks", "no_inner_steps"))
    _register(_gradient_update_parameters(_name))


@library("iteryne", "iteryne", "iteryne", ("unequal_tasks", "unused_parameter"))
def _iteryne() -> list[Setting]:
    import iteryne
    import torch

    def maml(case, first_order=False):
        model, theta, tasks = network(case)
        meta = iteryne.MAML(model, inner_lr=case.inner_lr, inner_steps=case.inner_steps, first_order=first_order)
        still = torch.optim.SGD(meta.parameters(), lr=0.0)
        trainer = iteryne.MetaTrainer(meta, still, criterion, None)
        return answer(theta, trainer.meta_step([iteryne.Task(*task) for task in tasks]))

    def as_in_its_docstring(case):
        model, theta, tasks = network(case)
        meta = iteryne.MAML(model, inner_lr=case.inner_lr, inner_steps=case.inner_steps)
        for xs, ys, xq, yq in tasks:
            learner = meta.clone()
            for _ in range(meta.inner_steps):
                learner.adapt(criterion(learner(xs), ys))
            criterion(learner(xq), yq).backward()
        return answer(theta)

    return [
        Setting("MetaTrainer.meta_step", "CORRECT", maml),
        Setting("MetaTrainer.meta_step, first_order=True", "fomaml", functools.partial(maml, first_order=True)),
        Setting("the loop in MAML's docstring", "sum_over_tasks", as_in_its_docstring),
    ]


@library("metallic", "--no-deps metallic higher", "metallic")
def _metallic() -> list[Setting]:
    import torch

    metallic = part("metallic.metalearners.maml")

    def maml(case):
        model, theta, tasks = network(case)
        (xs, ys), (xq, yq) = (map(torch.stack, zip(*((t[i], t[i + 1]) for t in tasks), strict=True)) for i in (0, 2))
        inner, outer = (torch.optim.SGD(model.parameters(), lr=lr) for lr in (case.inner_lr, 0.0))
        meta = metallic.MAML(model, inner, outer, root=".", inner_steps=case.inner_steps)
        meta.loss_function = criterion  # its constructor drops the argument
        loss, _ = meta.outer_loop({"support": (xs, ys), "query": (xq, yq)})
        return answer(theta, loss)

    # query_loss /= len(query_input), after a criterion that is a mean
    return [Setting("MAML.outer_loop", "query_mean_divided_again", maml)]


@library("torch-maml", "torch-maml", "torch-maml", ("unequal_tasks", "unused_parameter"))
def _torch_maml() -> list[Setting]:
    import torch_maml

    def maml(case, method):
        model, theta, tasks = network(case)
        inner = torch_maml.IngraphGradientDescent(case.inner_lr)
        meta = method(model, lambda model, batch: model(*batch), inner)
        for xs, ys, xq, yq in tasks:
            adapted = meta([(xs, ys)] * case.inner_steps, allow_unused=True)
            (adapted.model(xq, yq) / case.tasks).backward()
        return answer(theta)

    checkpointed = functools.partial(torch_maml.GradientCheckpointMAML, checkpoint_steps=2)
    return [
        Setting("NaiveMAML", "CORRECT", functools.partial(maml, method=torch_maml.NaiveMAML)),
        Setting("GradientCheckpointMAML", "CORRECT", functools.partial(maml, method=checkpointed)),
    ]


@library("parallel-metalearn", "parallel-metalearn", "parallel-metalearn", ("unused_parameter",))
def _parallel_metalearn() -> list[Setting]:
    import torch
    from metalearn.algorithms import MAML
    from metalearn.inner_optimizers import InnerSGD
    from metalearn.loss.base import BaseLoss

    class Loss(BaseLoss):
        def forward(self, out_dict, targets, model_states=None, **_):
            loss = criterion(out_dict["prediction"], targets)
            return loss, loss

    def maml(case, first_order=False, tell_loss=False, **settings):
        model, theta, tasks = network(case)

        class Wrapped(type(model)):
            def forward(self, x, **_):
                return {"prediction": super().forward(x), "buffers": {}}

            def get_fast_weights(self):
                return dict(self.named_parameters())

        model.__class__ = Wrapped
        inner = InnerSGD(model.get_fast_weights(), inner_lr=case.inner_lr, first_order=first_order)
        still = torch.optim.SGD(model.parameters(), lr=0.0)
        meta = MAML(model=model, optimizer=still, inner_optimizer=inner, support_loss_fn=Loss(),
                    inner_steps=case.inner_steps, device="cpu", **settings)  # fmt: skip
        batch = tuple(map(torch.stack, zip(*tasks, strict=True)))
        loss, _ = meta.step(iter([batch]), epoch=0, epochs=10)
        return answer(theta, loss if tell_loss else None)

    return [
        # the rate is a parameter, torch.tensor(inner_lr): float32, whatever the model has
        Setting("MAML.step, vmap, and its loss", "rate_rounded", functools.partial(maml, tell_loss=True)),
        Setting("MAML.step, sequential", "rate_rounded", functools.partial(maml, backend="sequential")),
        # each task's loss is divided by the number of tasks, and then again
        Setting("MAML.step, sequential, and its loss", "rate_rounded",
                functools.partial(maml, backend="sequential", tell_loss=True)),
        Setting("first_order=True", "fomaml + rate_rounded", functools.partial(maml, first_order=True)),
        # weights of 1/K, by which the losses are divided
        Setting("multi_step_loss=True, and its loss", "WRONG_UNKNOWN",
                functools.partial(maml, multi_step_loss=True, tell_loss=True)),
    ]  # fmt: skip


@library("garage", "--no-deps garage", "garage", TASK_BY_TASK)
def _garage() -> list[Setting]:
    import torch

    sgd = part("garage.torch.optimizers.differentiable_sgd").DifferentiableSGD
    update_module_params = part("garage.torch._functions").update_module_params

    def maml(case):
        # garage.torch.algos.maml: _compute_meta_loss and _adapt, with a case's losses in the place of a policy's
        model, theta, tasks = network(case)
        inner, start, losses = sgd(model, lr=case.inner_lr), dict(model.named_parameters()), []
        for xs, ys, xq, yq in tasks:
            for _ in range(case.inner_steps):
                loss = model(xs, ys)
                inner.zero_grad()
                loss.backward(create_graph=True)
                with torch.set_grad_enabled(True):
                    inner.step()
            losses.append(model(xq, yq))
            update_module_params(model, start)
        torch.optim.SGD(theta, lr=0.0).zero_grad()
        torch.stack(losses).mean().backward()
        return answer(theta)

    # after its first step the parameters are no leaves, and have no .grad: the steps that follow do nothing
    return [Setting("DifferentiableSGD", "restarted_steps", maml)]


@library("PyTorch, by hand", "torch", "torch", TASK_BY_TASK)
def _pytorch() -> list[Setting]:
    import torch

    def functional(case, create_graph=True, step=lambda fast, theta, k: fast):
        loss, theta, tasks = in_torch(case)
        losses = []
        for xs, ys, xq, yq in tasks:
            fast = theta
            for k in range(case.inner_steps):
                at = step(fast, theta, k)
                fast = _descend(fast, _first_order(loss, at, xs, ys, create_graph), case.inner_lr)
            losses.append(loss(fast, xq, yq))
        torch.stack(losses).mean().backward()
        return answer(theta.values())

    def module(case, copied, zero_grad="always"):
        # the gradient of a copy, or of the model itself, goes to the model's .grad
        model, theta, tasks = network(case)
        total = [torch.zeros_like(p) for p in theta]
        for xs, ys, xq, yq in tasks:
            learner = copy.deepcopy(model) if copied else model
            inner = torch.optim.SGD(learner.parameters(), lr=case.inner_lr)
            for _ in range(case.inner_steps):
                if zero_grad != "never":
                    inner.zero_grad()
                learner(xs, ys).backward()
                inner.step()
            if zero_grad == "always":
                inner.zero_grad()
            (learner(xq, yq)).backward()
            for sum_, p in zip(total, learner.parameters(), strict=True):
                sum_ += 0 if p.grad is None else p.grad / case.tasks
        return {"meta_grad": total}

    def unconnected(case):
        model, theta, tasks = network(case)
        for xs, ys, xq, yq in tasks:
            learner = copy.deepcopy(model)
            inner = torch.optim.SGD(learner.parameters(), lr=case.inner_lr)
            for _ in range(case.inner_steps):
                inner.zero_grad()
                learner(xs, ys).backward()
                inner.step()
            (learner(xq, yq) / case.tasks).backward()
        return answer(theta)

    return [
        Setting("autograd.grad(create_graph=True)", "CORRECT", functional),
        Setting("autograd.grad without create_graph", "fomaml", functools.partial(functional, create_graph=False)),
        Setting("support loss of θ in every step", "stale_gradient",
                functools.partial(functional, step=lambda fast, theta, k: theta)),
        Setting("deepcopy and SGD, the copy's .grad taken", "fomaml", functools.partial(module, copied=True)),
        Setting("the same, no zero_grad() before the query's backward()", "gradients_accumulated",
                functools.partial(module, copied=True, zero_grad="inner")),
        Setting("the same, no zero_grad() at all", "gradients_accumulated",
                functools.partial(module, copied=True, zero_grad="never")),
        Setting("SGD on the model itself", "inplace_update", functools.partial(module, copied=False)),
        Setting("deepcopy and SGD, the model's .grad taken", "zero_gradient", unconnected),
    ]  # fmt: skip


@library("torch.func", "torch", "torch", ("unused_parameter", "no_inner_steps"))
def _torch_func() -> list[Setting]:
    import torch
    from torch.func import functional_call, grad, vmap

    def maml(case, reduce="mean", inner=lambda g: g):
        model, theta, tasks = network(case)
        params = dict(model.named_parameters())

        def loss(params, x, y):
            return functional_call(model, params, (x, y))

        def task_loss(xs, ys, xq, yq):
            fast = params
            for _ in range(case.inner_steps):
                grads = grad(loss)(fast, xs, ys)
                fast = {name: fast[name] - case.inner_lr * inner(grads[name]) for name in fast}
            return loss(fast, xq, yq)

        losses = vmap(task_loss)(*map(torch.stack, zip(*tasks, strict=True)))
        getattr(losses, reduce)().backward()
        return answer(theta)

    return [
        Setting("grad, vmap, mean", "CORRECT", maml),
        Setting("grad, vmap, sum (functorch's maml_omniglot example)", "sum_over_tasks",
                functools.partial(maml, reduce="sum")),
        Setting("inner gradients detached", "fomaml", functools.partial(maml, inner=lambda g: g.detach())),
        Setting("inner gradients summed", "grad_sum", functools.partial(maml, inner=lambda g: g.sum())),
    ]  # fmt: skip


# ── JAX libraries ───────────────────────────────────────────────────────────────────────────────────────────────────


@library("jax", "jax", "jax", ("unused_parameter", "no_inner_steps"))
def _jax() -> list[Setting]:
    import jax
    import jax.numpy as jnp

    def maml(case, reduce=jnp.mean, inner=lambda g: g):
        loss, theta, data = case.jax()

        def task_loss(theta, xs, ys, xq, yq):
            fast = theta
            for _ in range(case.inner_steps):
                grads = jax.grad(loss)(fast, xs, ys)
                fast = jax.tree.map(lambda p, g: p - case.inner_lr * inner(g), fast, grads)
            return loss(fast, xq, yq)

        def meta_loss(theta):
            (xs, ys), (xq, yq) = data
            return reduce(jax.vmap(task_loss, (None, 0, 0, 0, 0))(theta, xs, ys, xq, yq))

        value, grads = jax.value_and_grad(meta_loss)(theta)
        return {"meta_grad": grads, "meta_loss": value}

    return [
        Setting("grad, vmap, mean (the MAML tutorial)", "CORRECT", maml),
        Setting("stop_gradient around the inner gradient", "fomaml",
                functools.partial(maml, inner=jax.lax.stop_gradient)),
        Setting("jnp.sum over tasks", "sum_over_tasks", functools.partial(maml, reduce=jnp.sum)),
        Setting("the last task's loss only", "last_task_only",
                functools.partial(maml, reduce=lambda losses: losses[-1])),
    ]  # fmt: skip


@library("optax", "optax", "optax", ("unused_parameter", "no_inner_steps"))
def _optax() -> list[Setting]:
    import jax
    import jax.numpy as jnp
    import optax

    def maml(case, before=(), outer=None):
        loss, theta, data = case.jax()
        inner = optax.chain(*before, optax.sgd(case.inner_lr))

        def task_loss(theta, xs, ys, xq, yq):
            fast, state = theta, inner.init(theta)
            for _ in range(case.inner_steps):
                updates, state = inner.update(jax.grad(loss)(fast, xs, ys), state)
                fast = optax.apply_updates(fast, updates)
            return loss(fast, xq, yq)

        def meta_loss(theta):
            (xs, ys), (xq, yq) = data
            return jnp.mean(jax.vmap(task_loss, (None, 0, 0, 0, 0))(theta, xs, ys, xq, yq))

        grads = jax.grad(meta_loss)(theta)
        return {"meta_grad": grads if outer is None else outer.update(grads, outer.init(theta))[0]}

    stop = optax.stateless(lambda updates, _: jax.lax.stop_gradient(updates))
    climb = optax.scale(-1.0)
    return [
        Setting("inner sgd", "CORRECT", maml),
        Setting("inner sgd after stop_gradient", "fomaml", functools.partial(maml, before=(stop,))),
        Setting("inner sgd after scale(-1)", "inner_ascent", functools.partial(maml, before=(climb,))),
        Setting("the update of an outer sgd(1.0) for the gradient", "negated_gradient",
                functools.partial(maml, outer=optax.sgd(1.0))),
    ]  # fmt: skip


@library("jax-meta", "jax-meta", "jax-meta", ("unused_parameter", "no_inner_steps"))
def _jax_meta() -> list[Setting]:
    import jax

    base = part("jax_meta.metalearners.maml").MAML

    class Batch(NamedTuple):
        inputs: object
        targets: object

    def maml(case):
        loss, theta, (support, query) = case.jax()

        class Learner(base):
            def loss(self, params, state, inputs, targets, args):
                value = loss(params, inputs, targets)
                return value, (state, {"loss": value})

        learner = Learner(None, num_steps=case.inner_steps, alpha=case.inner_lr)
        meta_grad = jax.grad(learner.batch_outer_loss, has_aux=True)
        return {"meta_grad": meta_grad(theta, {}, Batch(*support), Batch(*query), ())[0]}

    return [Setting("MAML.batch_outer_loss", "CORRECT", maml)]


# ── reproduced: what a repository's loop computes, in our own words ─────────────────────────────────────────────────


def _first_order(loss, params: dict, x, y, create_graph: bool = False) -> dict:
    """{name: gradient} by torch.autograd.grad."""
    import torch

    grads = torch.autograd.grad(loss(params, x, y), list(params.values()), create_graph=create_graph, allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(params.items(), grads, strict=True)}


def _descend(params: dict, grads: dict, rate) -> dict:
    return {name: p - rate * grads[name] for name, p in params.items()}


@library("dragen1860/MAML-Pytorch")
def _maml_pytorch() -> list[Setting]:
    # meta.py, Meta.forward: no create_graph anywhere; after the first update the query loss is under no_grad
    import torch

    def maml(case, first_query_under_no_grad):
        loss, theta, tasks = in_torch(case)
        total = 0.0
        for xs, ys, xq, yq in tasks:
            fast = theta
            for k in range(case.inner_steps):
                fast = _descend(fast, _first_order(loss, fast, xs, ys), case.inner_lr)
                with torch.set_grad_enabled(k > 0 or not first_query_under_no_grad):
                    loss_q = loss(fast, xq, yq)
            total = total + loss_q
        (total / case.tasks).backward()
        return answer(theta.values())

    return [
        Setting("Meta.forward", "PROTOCOL_ERROR", functools.partial(maml, first_query_under_no_grad=True)),
        Setting("Meta.forward, update_step=1 let through", "fomaml",
                functools.partial(maml, first_query_under_no_grad=False)),
    ]  # fmt: skip


@library("cbfinn/maml")
def _cbfinn() -> list[Setting]:
    # maml.py, MAML.construct_model, task_metalearn under map_fn; tf.gradients as jax.grad
    import jax
    import jax.numpy as jnp

    def maml(case, stop_grad=False):
        loss, theta, ((xs, ys), (xq, yq)) = case.jax()

        def task_metalearn(theta, xa, ya, xb, yb):
            fast, losses = theta, []
            for _ in range(case.inner_steps):
                grads = jax.grad(loss)(fast, xa, ya)
                if stop_grad:
                    grads = jax.lax.stop_gradient(grads)
                fast = {name: fast[name] - case.inner_lr * grads[name] for name in fast}
                losses.append(loss(fast, xb, yb))
            return losses

        def last_total(theta):
            losses = jax.vmap(task_metalearn, (None, 0, 0, 0, 0))(theta, xs, ys, xq, yq)
            return jnp.sum(losses[-1]) / case.tasks

        return {"meta_grad": jax.grad(last_total)(theta)}

    return [
        Setting("stop_grad=False", "CORRECT", maml),
        Setting("stop_grad=True", "fomaml", functools.partial(maml, stop_grad=True)),
    ]


@library("oscarknagg/few-shot")
def _few_shot() -> list[Setting]:
    # few_shot/maml.py, meta_gradient_step: backward() a task, whose gradients zero_grad() takes away again; with
    # order=1 the tasks' gradients at the fast weights replace a dummy's, by hooks
    import torch

    def maml(case, order):
        loss, theta, tasks = in_torch(case)
        losses, gradients = [], []
        for xs, ys, xq, yq in tasks:
            fast = theta
            for _ in range(case.inner_steps):
                fast = _descend(fast, _first_order(loss, fast, xs, ys, create_graph=order == 2), case.inner_lr)
            losses.append(loss(fast, xq, yq))
            losses[-1].backward(retain_graph=True)
            grads = torch.autograd.grad(losses[-1], list(fast.values()), create_graph=order == 2, allow_unused=True)
            gradients.append(dict(zip(fast, grads, strict=True)))
        torch.optim.SGD(theta.values(), lr=0.0).zero_grad()
        if order == 2:
            torch.stack(losses).mean().backward()
            return answer(theta.values())
        for name, p in theta.items():
            mean = [g[name] for g in gradients]
            mean = torch.zeros_like(p) if mean[0] is None else torch.stack(mean).mean(0)
            p.register_hook(lambda _, mean=mean: mean)
        sum(p.sum() for p in theta.values()).backward()
        return answer(theta.values())

    return [
        Setting("order=2", "CORRECT", functools.partial(maml, order=2)),
        Setting("order=1", "fomaml", functools.partial(maml, order=1)),
    ]


@library("AntreasAntoniou/HowToTrainYourMAMLPytorch")
def _maml_plus_plus() -> list[Setting]:
    # few_shot_learning_system.py: forward, apply_inner_loop_update, get_per_step_loss_importance_vector (float32 there)
    import torch

    def importance(steps, epoch, epochs=10):
        each, least = 1 / steps, 0.03 / steps
        decay = each / epochs
        earlier = [max(each - epoch * decay, least)] * (steps - 1)
        return [*earlier, min(each + epoch * (steps - 1) * decay, 1 - (steps - 1) * least)]

    def maml(case, second_order=True, epoch=None):
        loss, theta, tasks = in_torch(case)
        losses = []
        for xs, ys, xq, yq in tasks:
            fast = {name: p.unsqueeze(0).repeat([1] + [1] * p.ndim) for name, p in theta.items()}  # one device
            of_task = []
            for k in range(case.inner_steps):
                now = {name: p[0] for name, p in fast.items()}
                fast = _descend(fast, _first_order(_of_first(loss), fast, xs, ys, second_order), case.inner_lr)
                now = {name: p[0] for name, p in fast.items()}
                if epoch is not None:
                    of_task.append(importance(case.inner_steps, epoch)[k] * loss(now, xq, yq))
                elif k == case.inner_steps - 1:
                    of_task.append(loss(now, xq, yq))
            losses.append(torch.stack(of_task).sum())
        meta_loss = torch.stack(losses).mean()
        meta_loss.backward()
        return answer(theta.values(), meta_loss)

    def _of_first(loss):
        return lambda params, x, y: loss({name: p[0] for name, p in params.items()}, x, y)

    return [
        Setting("second_order, without multi-step loss", "CORRECT", maml),
        Setting("first order, without multi-step loss", "fomaml", functools.partial(maml, second_order=False)),
        Setting("multi-step loss, epoch 0", "multi_step_loss", functools.partial(maml, epoch=0)),
        Setting("multi-step loss, epoch 5 of 10", "WRONG_UNKNOWN", functools.partial(maml, epoch=5)),
    ]


@library("tristandeleu/pytorch-maml")
def _pytorch_maml() -> list[Setting]:
    # maml/metalearners/maml.py, ModelAgnosticMetaLearning: the step size and the sum over tasks are float32 tensors
    import torch

    def maml(case, first_order=False):
        loss, theta, tasks = in_torch(case)
        step_size, mean = torch.tensor(case.inner_lr, dtype=torch.float32), torch.tensor(0.0)
        for xs, ys, xq, yq in tasks:
            fast = theta
            for _ in range(case.inner_steps):
                fast = _descend(fast, _first_order(loss, fast, xs, ys, not first_order), step_size)
            mean += loss(fast, xq, yq)
        mean.div_(case.tasks)
        mean.backward()
        return answer(theta.values())

    return [
        Setting("MAML", "CORRECT", maml, "float32"),
        Setting("FOMAML", "fomaml", functools.partial(maml, first_order=True), "float32"),
        Setting("MAML, a float64 model", "IMPRECISE", maml),
    ]


@library("katerakelly/pytorch-maml")
def _katerakelly() -> list[Setting]:
    # src/inner_loop.py, InnerLoop.forward; src/maml.py, MetaLearner.meta_update
    import torch

    def maml(case):
        loss, theta, tasks = in_torch(case)
        gradients = []
        for xs, ys, xq, yq in tasks:
            fast = theta
            for _ in range(case.inner_steps):
                fast = _descend(fast, _first_order(loss, fast, xs, ys, create_graph=True), case.inner_lr)
            loss_q = loss(fast, xq, yq) / case.tasks
            gradients.append(torch.autograd.grad(loss_q, list(theta.values()), allow_unused=True))
        return {"meta_grad": [None if g[0] is None else sum(g) for g in zip(*gradients, strict=True)]}

    return [Setting("InnerLoop.forward, meta_update", "CORRECT", maml)]


@library("wyharveychen/CloserLookFewShot")
def _closer_look() -> list[Setting]:
    # methods/maml.py, MAML.set_forward and train_loop: fast weights beside the weights, losses stacked and summed
    import torch

    def maml(case, approx=False):
        loss, theta, tasks = in_torch(case)
        losses = []
        for xs, ys, xq, yq in tasks:
            fast = theta
            for _ in range(case.inner_steps):
                grads = _first_order(loss, fast, xs, ys, create_graph=True)
                if approx:
                    grads = {name: g.detach() for name, g in grads.items()}
                fast = _descend(fast, grads, case.inner_lr)
            losses.append(loss(fast, xq, yq))
        torch.stack(losses).sum(0).backward()
        return answer(theta.values())

    return [
        Setting("approx=False", "sum_over_tasks", maml),
        Setting("approx=True", "fomaml × T", functools.partial(maml, approx=True)),
    ]


@library("hoyeoplee/MeLU")
def _melu() -> list[Setting]:
    # MeLU.py, MeLU.forward and global_update: fast weights are loaded into the model (load_state_dict), and θ again
    # before backward()
    import torch

    def maml(case, load):
        loss, theta, tasks = in_torch(case)
        keep, losses = {name: p.detach().clone() for name, p in theta.items()}, []
        for xs, ys, xq, yq in tasks:
            fast = {name: p.detach() for name, p in theta.items()}
            for k in range(case.inner_steps):
                if k > 0:
                    load(theta, fast)
                now = {name: p.detach() for name, p in theta.items()}
                fast = _descend(now, _first_order(loss, theta, xs, ys, create_graph=True), case.inner_lr)
            load(theta, fast)
            losses.append(loss(theta, xq, yq))
            load(theta, keep)
        meta_loss = torch.stack(losses).mean()
        meta_loss.backward()
        return answer(theta.values(), meta_loss)

    def copy_(theta, values):  # load_state_dict of today's PyTorch
        with torch.no_grad():
            for name, p in theta.items():
                p.copy_(values[name])

    def copy_data(theta, values):  # that of its time, which backward() does not notice
        for name, p in theta.items():
            p.data.copy_(values[name].detach())

    return [
        Setting("global_update", "PROTOCOL_ERROR", functools.partial(maml, load=copy_)),
        Setting("global_update, PyTorch 1.0", "WRONG_UNKNOWN", functools.partial(maml, load=copy_data)),
    ]


@library("mari-linhares/tensorflow-maml")
def _tensorflow_maml() -> list[Setting]:
    # maml.ipynb, train_maml: the loss after the step is that of the same x and y
    import jax
    import jax.numpy as jnp

    def maml(case):
        loss, theta, data = case.jax()

        def test_loss(theta, xs, ys):
            fast = theta
            for _ in range(case.inner_steps):
                grads = jax.grad(loss)(fast, xs, ys)
                fast = jax.tree.map(lambda p, g: p - case.inner_lr * g, fast, grads)
            return loss(fast, xs, ys)

        def meta_loss(theta):
            return jnp.mean(jax.vmap(test_loss, (None, 0, 0))(theta, *data[0]))

        return {"meta_grad": jax.grad(meta_loss)(theta)}

    return [Setting("train_maml", "query_is_support", maml)]


@library("gabrielhuang/reptile-pytorch")
def _reptile() -> list[Setting]:
    # train_omniglot.py and models.py, ReptileModel.point_grad_to: the gradient is θ − θ_K
    def reptile(case):
        loss, theta, tasks = in_torch(case)
        ways = []
        for xs, ys, _, _ in tasks:
            fast = {name: p.detach().clone().requires_grad_() for name, p in theta.items()}
            for _ in range(case.inner_steps):
                fast = _descend(fast, _first_order(loss, fast, xs, ys), case.inner_lr)
            ways.append([p.detach() - fast[name].detach() for name, p in theta.items()])
        return {"meta_grad": [sum(way) / case.tasks for way in zip(*ways, strict=True)]}

    return [Setting("point_grad_to", "reptile", reptile)]


@library("sudharsan13296/Hands-On-Meta-Learning-With-Python")
def _hands_on() -> list[Setting]:
    # 6.5 Building MAML From Scratch.ipynb, MAML.train: the test gradients at each task's theta_, averaged
    from tinymaml import grad

    def maml(case):
        loss, theta, data = case.numpy()
        slope = grad(loss)
        meta = {name: np.zeros_like(p) for name, p in theta.items()}
        for xs, ys, xq, yq in tasks_of(data):
            adapted = theta
            for _ in range(case.inner_steps):
                gradient = slope(adapted, xs, ys)
                adapted = {name: adapted[name] - case.inner_lr * gradient[name] for name in adapted}
            gradient = slope(adapted, xq, yq)
            meta = {name: meta[name] + gradient[name] for name in meta}
        return {"meta_grad": {name: g / case.tasks for name, g in meta.items()}}

    return [Setting("MAML.train", "fomaml", maml)]


# ── the study ───────────────────────────────────────────────────────────────────────────────────────────────────────


def study(names=None, suite="core") -> list[dict]:
    """Asks the oracle about every setting of the libraries named (all, if None).

    Args:
        suite: the oracle's "core" or "full", without the new cases that are drawn for a single check, so that the same
            study gives the same rows; or "fresh", or a list of cases.

    Returns:
        Rows: library, version, how ("as installed" or "reproduced"), setting, verdict, bug, expected, as_expected,
        kind, fits (what explains the first wrong case), explanation, report, seconds. Of a library that is not there:
        one row, with verdict "not installed", the command in `explanation`, and as_expected None.

    Raises:
        ValueError: no such library.
    """
    from tinymaml import oracle

    if unknown := set(names or ()) - set(LIBRARIES):
        raise ValueError(f"no library {', '.join(sorted(unknown))}; wanted of {', '.join(LIBRARIES)}")
    cases = oracle.load(suite) if isinstance(suite, str) and suite != "fresh" else suite
    return [row for name in names or LIBRARIES for row in _rows(LIBRARIES[name], cases)]


def _rows(lib: Library, suite) -> Iterator[dict]:
    from tinymaml import oracle

    row = {"library": lib.name, "version": "", "how": lib.how, "setting": "", "verdict": "", "bug": None,
           "expected": "", "as_expected": None, "kind": None, "fits": "", "explanation": "", "report": "",
           "seconds": 0.0}  # fmt: skip
    try:
        with _quiet():
            settings = lib.settings()
    except ImportError as cause:
        install = f"pip install {lib.install}" if lib.install else 'pip install "tinymaml[peers]"'
        yield row | {"verdict": "not installed", "explanation": f"not installed: {install} ({cause})"}
        return
    if lib.package:
        row["version"] = importlib.metadata.version(lib.package)
    for setting in settings:
        start = time.perf_counter()
        with _quiet():
            report = oracle.check(setting.mine, suite, dtype=setting.dtype, capabilities=lib.can)
        fits = next((c.fits for c in report.cases if c.fits), "")
        got = (fits or report.bug) if report.bug else report.verdict
        yield row | {
            "setting": setting.what, "verdict": report.verdict, "bug": report.bug, "expected": setting.expected,
            "as_expected": got == setting.expected, "kind": report.kind, "fits": fits,
            "explanation": report.explanation, "report": str(report), "seconds": round(time.perf_counter() - start, 2),
        }  # fmt: skip


@contextlib.contextmanager
def _quiet():
    """Libraries warn, and some print; neither is what is asked here."""
    said = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        warnings.simplefilter("ignore")
        yield


def table(rows: list[dict]) -> str:
    """The rows as a Markdown table."""
    lines = ["| library | setting | the oracle says |", "|---|---|---|"]
    for row in rows:
        name = f"{row['library']} {row['version']}".strip() + (" ¹" if row["how"] == "reproduced" else "")
        said = f"{row['verdict']} `{row['fits'] or row['bug']}`" if row["bug"] else row["verdict"]
        if row["kind"]:
            said += f" ({row['kind']})"
        if row["verdict"] == "not installed":
            said = row["explanation"]
        if row["as_expected"] is False:
            said += f" — expected {row['expected']}"
        lines.append(f"| {name} | {row['setting'] or '–'} | {said} |")
    if any(row["how"] == "reproduced" for row in rows):
        lines += ["", "¹ reproduced: what the repository's loop computes, in our own words"]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Exit code 1 if a verdict is not the one expected."""
    parser = argparse.ArgumentParser(prog="python -m bench.oracle field", description=__doc__.splitlines()[0])
    parser.add_argument("libraries", nargs="*", metavar="LIBRARY", help="libraries that --list names (all)")
    parser.add_argument("--suite", default="core", choices=("core", "full", "fresh"))
    parser.add_argument("--list", action="store_true", help="name the libraries, and how each is installed")
    parser.add_argument("--why", action="store_true", help="the oracle's whole report for each row")
    parser.add_argument("--json", action="store_true", help="one JSON object per row")
    parser.add_argument("--store", action="store_true", help="keep the counts in bench/results/stated, for the pages")
    args = parser.parse_args(argv)
    if args.store and (args.libraries or args.suite != "core"):
        parser.error("--store is given with libraries or --suite, wanted all of them on the core")
    if args.list:
        for lib in LIBRARIES.values():
            print(f"{lib.name:46s} {'pip install ' + lib.install if lib.install else 'reproduced'}")
        return 0
    try:
        rows = study(args.libraries or None, args.suite)
    except ValueError as cause:
        parser.error(str(cause))
    if args.store:
        from . import page

        judged = [row["as_expected"] for row in rows if row["as_expected"] is not None]
        page.keep("field", {"settings": len(judged), "expected": sum(judged), "missing": len(rows) - len(judged)})
    if args.json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    else:
        print(table(rows))
        if args.why:
            for row in rows:
                print(f"\n── {row['library']}: {row['setting']}\n{row['report'] or row['explanation']}")
        judged = [row for row in rows if row["as_expected"] is not None]
        missing = len(rows) - len(judged)
        print(f"\n{sum(row['as_expected'] for row in judged)} of {len(judged)} verdicts as expected"
              + (f"; {missing} libraries not installed" if missing else ""))  # fmt: skip
    return 1 if any(row["as_expected"] is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
