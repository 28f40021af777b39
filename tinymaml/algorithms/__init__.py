"""Algorithms: one file each, and each reads like its paper. An algorithm is a module, or any object, with

    Settings                             a frozen dataclass, each field of which is an option of the command line
    init(theta, settings) → meta         what the outer loop learns: θ itself, or any nest of float arrays that holds it
    adapt(loss, meta, support, settings) a generator of θ₀, θ₁, θ₂, … on one task. It never ends, and its state (an
                                         optimiser's, the number of the step) stays inside. `loss` accepts each θₖ
    of_task(loss, meta, support, query, settings, *shared)
                                         → ((query loss, aux), gradient), the gradient shaped like meta: one task's
                                         part of the step of the outer loop, for `mean_over_tasks`

The rest is optional:

    defaults = {option: value}           other defaults of the family's and the outer loop's options
    shared(iteration, settings)          → a tuple: what `of_task` gets as *shared at that meta-iteration (from 0). Its
                                         arrays and floats may change without a new compilation
    carried(theta, settings)             → a nest of arrays that goes from meta-iteration to meta-iteration. `of_task`
                                         gets it as the keyword `carried`, and returns
                                         ((query loss, {"aux": aux, "carried": new}), gradient); the loop takes the
                                         mean of the new ones over tasks. None: these settings carry nothing, and
                                         `of_task` is called without the keyword
    noise(rng, meta, support, query, settings)
                                         → a nest of random arrays for one task, which `of_task` gets as `noise`
    network(make, input_shape, settings) → the network; `make(input_shape)` makes the one that the user chose
    norm_steps(settings)                 → the number of inner steps that keep batch-norm statistics of their own
    check(network, settings)             raises ValueError if the network cannot serve the algorithm
    classes = True                       support labels are classes 0, 1, …: families of another kind are refused
    exact = True                         by default settings, the gradient is that of the mean query loss: tests compare
                                         it with numerical derivatives
    acts = True                          it is for tasks that are acted in, see below: other families are refused
    outer(loss, settings, compiled)      → `take(gradient, update, meta, tasks, state)` → ((loss, aux), meta, state): a
                                         step of the outer loop, in the place of one gradient and one update of the
                                         optimiser. `gradient(meta, tasks)` → ((loss, aux), G) is the mean of `of_task`,
                                         `update(meta, G, state)` → (meta, state) is the optimiser's, and
                                         `compiled(f, gradient)` is the run's mean of f over tasks, or what f gives of
                                         each, for an `f(meta, support, query, *shared)`
    tuned = True                         training leaves `inner_lr` open: new tasks are adapted to at the rate that is
                                         best on validation tasks

A loss is `loss(theta, x, y)` → (scalar, aux), where aux is mostly the metric: an algorithm hands on that of its last
query loss. `support` and `query` are tuples (x, y). If the network is cut into body and head, the loss also has

    loss.body(theta, x) → features,   loss.head(theta, features, y) → (scalar, aux),   loss.last

the last being the top-level keys of θ that the head reads.

Tasks may be acted in: then data depend on what is learned, and are collected before each meta-gradient. In the place of
the loss such an algorithm gets the policy (`rl.policies`). A set is one batch, a dict, `support` a tuple with one per
inner step, each collected by the policy at hand, and `query` the batch after all steps. It has besides

    begin(meta, settings) → (θ₀, state)
    advance(policy, θₖ, state, batch, settings, share) → (θₖ₊₁, state), `share` being `settings.later` after step 0
    prepared(batch, settings) → batch    what it needs of a batch beside what the family collected, of tasks on axis 0

An algorithm knows nothing of the mean over tasks, of
compilation, checkpoints and pictures. A new one is one file, and one line in the table here; a user's own needs no
line: `tinymaml train sinusoid --algorithm my_module`. Read next: `inner`, `maml`.
"""

from __future__ import annotations

from typing import Any

from . import (
    cavia,
    hessian_free,
    imaml,
    joint,
    maml,
    maml_rl,
    mamlpp,
    meta_sgd,
    perturbed,
    protomaml,
    proximal,
    reptile,
)
from .partial import ANIL, BOIL

# By the names of the command line.
ALGORITHMS: dict[str, Any] = {
    "maml": maml,
    "reptile": reptile,
    "anil": ANIL,
    "boil": BOIL,
    "cavia": cavia,
    "protomaml": protomaml,
    "meta-sgd": meta_sgd,
    "mamlpp": mamlpp,
    "imaml": imaml,
    "hessian-free": hessian_free,
    "proximal": proximal,
    "perturbed": perturbed,
    "joint": joint,
    "maml-rl": maml_rl,
}


def takes_any(algorithm: Any) -> bool:
    """Whether it takes tasks of any kind that have examples: not of classes alone, and not those that are acted in.

    >>> from tinymaml.algorithms import ALGORITHMS, takes_any
    >>> [name for name, algorithm in ALGORITHMS.items() if not takes_any(algorithm)]
    ['protomaml', 'maml-rl']
    """
    return not getattr(algorithm, "classes", False) and not getattr(algorithm, "acts", False)
