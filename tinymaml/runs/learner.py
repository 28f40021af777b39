"""A family, a network and an algorithm, joined: the functions of one task that training and evaluation run over tasks.

    learner = Learner(config)
    f = tm.mean_over_tasks(learner.of_task())            f(meta, tasks) → ((mean loss, aux per task), mean gradient)
    g = per_task.over_tasks(learner.metrics((0, 5)))     g(meta, tasks, norms) → the metric before and after 5 steps

`learner.loss(theta, x, y)` → (loss, metric) is all that an algorithm knows of the network and the family. Which
statistics batch norm takes is hidden in x, so that no algorithm knows of that either:

    x                            the statistics of the batch at hand
    {"x": xq, "support": xs}     those of the support set, which goes through the network in the same batch
    {"x": xq, "norms": norms}    averages that were kept in training: {layer: {"mean": (C,), "var": (C,)}}

Of tasks that are acted in there is a policy in the place of the loss, and batches in the place of sets: see `acting`.

Everything here is a plain function over what it closes over, which `compile` can watch. Read next: `acting`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .. import nn
from ..families.common import as_metric
from ..families.reading import of_files
from ..nest import Nest, tree_leaves, tree_map
from ..networks.network import Network
from ..per_task import outlined
from ..rl.collect import total
from .settings import Config, blaming, find_member, members_of, path_options
from .sizes import bounded

FAMILY = ("sample", "loss", "input_shape", "outputs", "metric")  # what `make` of a family must return
ACTED_IN = ("sample", "collect", "input_shape", "outputs", "metric")  # if its tasks are acted in


class Learner:
    """The objects that a configuration describes.

    Args:
        network: one that was made for other tasks, in the place of the network that the configuration names.

    Attributes:
        config: what it was made of.   family, network, algorithm: its parts.   settings: the algorithm's.
        metric: the family's, `families.Metric`.
        loss: `loss(theta, x, y)` → (loss, metric). If the network is cut, it also has `body(theta, x)` → features,
            `head(theta, features, y)` → (loss, metric), and `last`, the names of the layers that the head reads.
            Of tasks that are acted in, it is the policy.
        acts: tasks are acted in: data are collected by what is learned, see `acting`.
        statistics: which statistics batch norm takes; "" if the network has no batch norm.
        steps: K, the inner steps of training; 1 for an algorithm without such an option.

    Raises:
        ValueError, OSError: the parts do not fit each other, one lacks something, or the data cannot be read.
    """

    def __init__(self, config: Config, network: Network | None = None):
        self.config = config
        with blaming(f"family {config.family.name}: make"):
            self.family = find_member("family", config.family.name).make(config.family.settings)
        self.acts = hasattr(self.family, "collect")
        if missing := [name for name in (ACTED_IN if self.acts else FAMILY) if not hasattr(self.family, name)]:
            raise ValueError(f"family {config.family.name}: what make returns has no {', '.join(missing)}")
        self.dtype = np.dtype(config.outer.dtype)
        if hasattr(self.family, "dtype"):
            self.family.dtype = self.dtype
        self.metric = as_metric(self.family.metric)
        self.algorithm, self.settings = find_member("algorithm", config.algorithm.name), config.algorithm.settings
        self.steps = getattr(self.settings, "inner_steps", 1)
        if self.acts != (acts := getattr(self.algorithm, "acts", False)):
            names = (config.algorithm.name, config.family.name) if acts else (config.family.name, config.algorithm.name)
            known = ", ".join(
                name for name, member in members_of("algorithm").items() if getattr(member, "acts", False)
            )
            wanted = "wants tasks that are acted in" if acts else f"has tasks that are acted in, and wants {known}"
            raise ValueError(f"{names[0]} {wanted}; {names[1]} is not of this kind")
        if getattr(self.algorithm, "classes", False) and not ways(self):
            names = config.algorithm.name, config.family.name
            raise ValueError(f"{names[0]} wants examples of several classes; {names[1]} has none")
        self.network = network or self._network()
        if self.acts and self.network.policy is None:
            raise ValueError(f"{config.family.name} is acted in, and wants the network policy, not"
                             f" {config.network.name}")  # fmt: skip
        if hasattr(self.algorithm, "check"):
            self.algorithm.check(self.network, self.settings)
        self.statistics = getattr(config.network.settings, "statistics", "transductive") if self.network.norms else ""
        self.loss = self.network.policy if self.acts else make_loss(self.network, self.family.loss)
        self._every: dict[str, tuple | None] = {}

    def _network(self):
        member, settings = find_member("network", self.config.network.name), self.config.network.settings

        def make(input_shape=self.family.input_shape):
            same = tuple(input_shape) == tuple(self.family.input_shape)
            with blaming(f"network {self.config.network.name}: make"):
                made = member.make(self.family if same else Reshaped(self.family, input_shape), settings)
            return as_network(made, self.config.network.name)

        if hasattr(self.algorithm, "network"):
            return self.algorithm.network(make, self.family.input_shape, self.settings)
        return make()

    # ── what is drawn ──

    def sample(self, rng: np.random.Generator, tasks: int, split: str) -> tuple:
        """Tasks of the family, with its floating-point arrays in the dtype of the run."""
        return self._cast(self.family.sample(rng, tasks, split))

    def collect(self, thetas: Nest, tasks: Nest, step: int) -> dict[str, Nest]:
        """The acts of the policies with these parameters, one per task: a batch with the tasks on axis 0, see `rl`."""
        # that a policy cannot act is said by training and evaluation, which know its task
        with blaming(f"family {self.config.family.name}: collect", but=(FloatingPointError,)):
            batch = self.family.collect(self.loss, thetas, tasks, step)
        return self._cast(self.algorithm.prepared(batch, self.settings))

    def measure(self, batch: dict[str, Nest]) -> np.ndarray:
        """The metric of a batch, of each task, (T,)."""
        return np.asarray(total(batch), float)

    def every(self, split: str) -> tuple | None:
        """All tasks of a split, stacked as by `sample`, of a family that has few of them; None: its tasks are drawn.

        Raises:
            ValueError: what the family's `every` returned is no tasks.
        """
        if not hasattr(self.family, "every"):
            return None
        if split not in self._every:
            called = f"family {self.config.family.name}: every"
            with blaming(called):
                tasks = self.family.every(split)
            if tasks is not None:
                tasks = self._cast(tasks)
                pairs = isinstance(tasks, tuple) and [isinstance(x, tuple) and len(x) for x in tasks] == [2, 2]
                counts = {np.shape(x)[:1] for x in tree_leaves(tasks)}
                if not pairs or len(counts) != 1 or counts & {(), (0,)}:
                    wanted = "wanted ((xs, ys), (xq, yq)), each with the tasks on axis 0"
                    raise ValueError(f"{called}({split!r}) returned {outlined(tasks)}, {wanted}")
            self._every[split] = tasks
        return self._every[split]

    def baselines(self) -> dict[str, Callable]:
        """The baselines of the family, by label: `predict(xs, ys, xq)` → a prediction, of one task."""
        if not hasattr(self.family, "baselines"):
            return {}
        called = f"family {self.config.family.name}: baselines"
        with blaming(called):
            found = self.family.baselines()
        if not isinstance(found, dict) or not all(isinstance(k, str) and callable(f) for k, f in found.items()):
            raise ValueError(f"{called}() returned {found!r}, wanted {{label: predict}}")
        return found

    def _cast(self, tasks: Nest) -> Nest:
        cast = lambda x: x.astype(self.dtype) if x.dtype.kind == "f" and x.dtype != self.dtype else x  # noqa: E731
        return tree_map(lambda x: cast(np.asarray(x)), tasks)

    def fingerprint(self) -> str:
        """A digest of the family's data: its own `fingerprint`, or the digest of the files that its options
        name, of folders by the names and sizes of what is in them; "" if there are none.

        Raises:
            OSError: a file cannot be read.
        """
        if hasattr(self.family, "fingerprint"):
            with blaming(f"family {self.config.family.name}: fingerprint"):
                return str(self.family.fingerprint())
        places = [Path(self.config[name]) for name in sorted(path_options(self.config)) if self.config[name]]
        return of_files([place for place in places if place.exists()])

    def noise(self, rng: np.random.Generator, meta: Nest, tasks: tuple) -> Nest:
        """The algorithm's noise for each of the tasks, stacked; None: it wants none."""
        if not hasattr(self.algorithm, "noise"):
            return None
        each = [self.algorithm.noise(rng, meta, *tree_map(lambda x, t=t: x[t], tasks), self.settings)
                for t in range(len(tree_leaves(tasks)[0]))]  # fmt: skip
        return tree_map(lambda *xs: np.stack(xs), *each) if tree_leaves(each) else None

    def init(self, rng: np.random.Generator) -> tuple[Nest, Nest, Nest]:
        """(meta, carried, norms) before the first meta-iteration."""
        theta = self.network.init(bounded(rng), self.dtype)
        carried = self.algorithm.carried(theta, self.settings) if hasattr(self.algorithm, "carried") else None
        rows = self.algorithm.norm_steps(self.settings) if hasattr(self.algorithm, "norm_steps") else 1
        channels = self.network.norms.items() if self.statistics == "running" else ()
        norms = {name: {"mean": np.zeros((rows, n), self.dtype), "var": np.ones((rows, n), self.dtype)}
                 for name, n in channels}  # fmt: skip
        return self.algorithm.init(theta, self.settings), carried, norms

    def shared(self, iteration: int) -> tuple:
        """The inputs that the algorithm shares among the tasks of a meta-iteration."""
        return tuple(self.algorithm.shared(iteration, self.settings)) if hasattr(self.algorithm, "shared") else ()

    # ── of one task ──

    def of_task(self, carries: bool = False) -> Callable:
        """The function of one task for `mean_over_tasks`: `of_task(meta, support, query, *shared)`, as the algorithm's.

        Args:
            carries: the first shared input is the state that the algorithm carries.

        The query may be (query, more): more["noise"] is the algorithm's, and more["weight"] multiplies the gradient.
        aux is {"metric": …}, and "carried" and "norms" if there are such.
        """
        of_task, settings = self.algorithm.of_task, self.settings
        collect = self.statistics == "running"
        loss = self.loss if self.acts else make_loss(self.network, self.family.loss, collect)
        view = (lambda support, query: query) if self.acts else make_view(self.statistics)

        def one(meta, support, query, *shared):
            more = {}
            if carries:
                more["carried"], *shared = shared
            given = query[1] if isinstance(query, tuple) and _is_more(query[1]) else {}
            query = query[0] if given else query
            if "noise" in given:
                more["noise"] = given["noise"]
            result = of_task(loss, meta, support, view(support, query), settings, *shared, **more)
            try:
                (value, aux), gradient = result
            except (TypeError, ValueError):
                seen = f"of_task of {one.__name__} returned {outlined(result)}"
                raise TypeError(f"{seen}, wanted ((loss, aux), gradient)") from None
            state, aux = ({"carried": aux["carried"]}, aux["aux"]) if carries else ({}, aux)
            aux = {**(aux if collect else {"metric": aux}), **state}
            if "weight" in given:
                gradient = tree_map(lambda g: given["weight"] * g, gradient)
            return (value, aux), gradient

        one.__name__ = self.config.algorithm.name  # which warnings give
        return one

    def metrics(self, at: Iterable[int], tuned: bool = False) -> Callable:
        """The function of one task for `over_tasks`: `metrics(meta, support, query, norms)` → the metric of the query
        after each number of steps in `at`, a tuple.

        Args:
            at: numbers of steps, in order.
            tuned: there is a further argument, the rate that takes the place of `inner_lr`.
        """
        adapt, settings, loss, view = self.algorithm.adapt, self.settings, self.loss, make_view(self.statistics)
        at = tuple(at)

        def measured(meta, support, query, norms, *rate):
            chosen = dataclasses.replace(settings, inner_lr=rate[0]) if tuned else settings
            path = enumerate(itertools.islice(adapt(loss, meta, support, chosen), max(at) + 1))
            return tuple(loss(theta, *view(support, query, norms, k))[1] for k, theta in path if k in at)

        return measured

    def view(self, support: tuple, query: tuple, norms: Nest = None, step: int = 0) -> tuple:
        """The query as the loss wants it, for the statistics of the run: see the head of this file.

        `norms` are the averages kept in training, and `step` says after how many steps; without them, the batch's.
        """
        return make_view(self.statistics)(support, query, norms, step)

    def predict(self, theta: Nest, x: Nest) -> np.ndarray:
        """The outputs of the network, (N, outputs), for an x as the loss wants it."""
        return forward(self.network.apply, theta, x)[0]


def _is_more(x: Nest) -> bool:
    return isinstance(x, dict) and x.keys() <= {"noise", "weight"}


def ways(learner: Learner) -> int:
    """How many classes there are, each with a logit of its own; 0: it is no such classification."""
    outputs = learner.family.outputs
    several = isinstance(outputs, (int, np.integer)) and outputs > 1
    return int(outputs) if learner.metric.name == "accuracy" and several else 0


# ── the loss ────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_loss(network, measure: Callable, collect: bool = False) -> Callable:
    """`loss(theta, x, y)` → (loss, metric) of a network and a family's `measure(prediction, y)`.

    With `collect`, aux is {"metric": metric, "norms": {layer: {"mean", "var"}}}: the statistics of the batch at hand.
    """
    apply, body, head = network.apply, network.body, network.head

    def judged(prediction, norms, y):
        value, metric = measure(prediction, y)
        return value, {"metric": metric, "norms": norms} if collect else metric

    def loss(theta, x, y):
        return judged(*forward(apply, theta, x, collect), y)

    def body_of_loss(theta, x):
        features, norms = forward(body, theta, x, collect)
        return {"features": features, "norms": norms} if collect else features

    def head_of_loss(theta, features, y):
        features, norms = (features["features"], features["norms"]) if collect else (features, {})
        return judged(head(theta, features), norms, y)

    cut = body is not None and head is not None
    vars(loss).update(
        body=body_of_loss if cut else None, head=head_of_loss if cut else None, last=tuple(network.last) if cut else ()
    )
    return loss


def forward(f: Callable, theta: Nest, x: Nest, collect: bool = False) -> tuple[Nest, dict]:
    """(f(θ, x), the statistics of its batch norms), for the `apply` or the `body` of a network.

    The statistics are collected if they are asked for, and are those of the batch at hand.
    """
    given = x.keys() if isinstance(x, dict) else set()
    if given == {"x", "support"}:
        first = tree_leaves(x["support"])[0].shape[0]
        rows = tree_map(lambda s, q: np.concatenate([s, q]), x["support"], x["x"])
        outputs = f(theta, rows, lambda _, h, gamma, beta: nn.batch_norm(h, gamma, beta, first=first))
        return tree_map(lambda y: y[first:], outputs), {}
    if given == {"x", "norms"}:
        kept = x["norms"]
        return f(theta, x["x"], lambda name, h, gamma, beta: nn.batch_norm(h, gamma, beta, **kept[name])), {}
    if not collect:
        return f(theta, x), {}
    norms: dict[str, Nest] = {}

    def norm(name, h, gamma, beta):
        mean, var = nn.moments(h)
        norms[name] = {"mean": mean, "var": var}
        return nn.batch_norm(h, gamma, beta, mean=mean, var=var)

    return f(theta, x, norm), norms


def make_view(statistics: str) -> Callable:
    """`view(support, query, norms, step)`, see `Learner.view`."""

    def view(support, query, norms=None, step=0):
        (xs, _), (xq, yq) = support, query
        if statistics == "support":
            return {"x": xq, "support": xs}, yq
        if statistics == "running" and norms:
            # those of step k, if there are K of them, are of the query after that step; before the first, the first's
            at = min(max(step - 1, 0), tree_leaves(norms)[0].shape[0] - 1)
            return {"x": xq, "norms": tree_map(lambda kept: kept[at], norms)}, yq
        return query

    return view


def averaged(norms: Nest, seen: list[Nest], rate: float = 0.1) -> Nest:
    """The averages after a meta-iteration: norms ← norms + 0.1 (mean over tasks − norms)."""
    return tree_map(lambda kept, *xs: np.asarray(kept + rate * (np.mean(xs, 0) - kept), kept.dtype), norms, *seen)


# ── networks ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Reshaped:
    """A family whose examples have another shape: for the network, the context of CAVIA is part of them.

    Of words, L ids are still L ids, and it is the features beside them that are more.
    """

    def __init__(self, family: Any, input_shape: tuple[int, ...]):
        self.input_shape, self._family = tuple(input_shape), family
        if hasattr(family, "vocabulary"):
            self.input_shape = tuple(family.input_shape)
            self.features = getattr(family, "features", 0) + input_shape[-1] - family.input_shape[-1]

    def __getattr__(self, name: str):
        return getattr(self._family, name)


def as_network(made: Any, called: str):
    """The result of a network's `make`, as a `networks.Network`; `init` and `apply` alone are enough.

    Raises:
        ValueError: it lacks one of these.
    """
    if isinstance(made, Network):
        return made
    if missing := [name for name in ("init", "apply") if not callable(getattr(made, name, None))]:
        raise ValueError(f"network {called}: what make returns has no function {', '.join(missing)}")
    known = [f.name for f in dataclasses.fields(Network) if hasattr(made, f.name)]
    return Network(**{name: getattr(made, name) for name in known})
