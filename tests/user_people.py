"""A family of a user, of few people with unequal numbers of points: a line per person, padded, and baselines."""

from dataclasses import dataclass

import numpy as np

from tinymaml.families import common
from tinymaml.nest import tree_map

defaults = {"network": "mlp", "hidden": (8,), "inner_lr": 0.05}
PEOPLE = {"train": range(0, 9), "val": range(10, 13), "test": range(20, 25)}


@dataclass(frozen=True)
class Settings:
    shots: int = 4
    queries: int = 6


class People:
    input_shape, outputs = (1,), 1
    metric = {"name": "mse", "label": "mean squared error"}

    def __init__(self, settings):
        self.settings = settings

    def person(self, number):
        rng, (shots, queries) = np.random.default_rng(number), (self.settings.shots, self.settings.queries)
        x = rng.uniform(-1, 1, (shots + queries, 1))
        y, mask = (number % 10) * x + 1, np.ones(shots + queries)
        mask[shots - number % 2 : shots] = 0  # odd people have a point less
        x, y = x * mask[:, None], y * mask[:, None]
        return (x[:shots], {"y": y[:shots], "mask": mask[:shots]}), (x[shots:], {"y": y[shots:], "mask": mask[shots:]})

    def stacked(self, numbers):
        found = [self.person(int(number)) for number in numbers]
        return tree_map(lambda *xs: np.stack(xs), *found)

    def sample(self, rng, tasks, split):
        return self.stacked(rng.choice(PEOPLE[split], tasks))

    def every(self, split):
        return self.stacked(PEOPLE[split])

    def loss(self, prediction, y):
        error = common.masked_mean((prediction - y["y"]) ** 2, y["mask"])
        return error, error

    def baselines(self):
        def mean(xs, ys, xq):
            return np.full((len(xq), 1), np.sum(ys["y"][:, 0] * ys["mask"]) / np.sum(ys["mask"]))

        def line(xs, ys, xq):
            there = ys["mask"] == 1
            slope, height = np.polyfit(xs[there, 0], ys["y"][there, 0], 1)
            return slope * xq + height

        return {"mean of the support": mean, "least squares": line}


make = People
