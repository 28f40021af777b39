"""Environments: where trajectories come from, one file each, many at a time.

    environment = point.Point(num_envs=60)
    goals = environment.draw(rng, tasks=3)                          {"goal": (3, 2)}: what tells tasks apart
    options = {name: np.repeat(x, 20, 0) for name, x in goals.items()}       20 environments per task
    observations, info = environment.reset(seed=0, options=options)          (60, 2)
    observations, rewards, terminated, truncated, info = environment.step(actions)

`reset` and `step` are those of Gymnasium's vector environments, which can stand in their place: see `vector`. An
environment has besides:

    num_envs             how many there are
    observation_shape    of one observation
    actions              of one action: the number of its components, each a real number; or
    choices              the number of actions among which a policy chooses, which are 0, 1, …
    draw(rng, tasks)     → {name: (tasks, …)}: what tells tasks apart. `reset` takes it as its options, with a row per
                         environment. Its arrays are all that an environment knows of its task

An episode ends when `terminated` or `truncated` says so. Results of an environment after that are not looked at, so
that it may begin anew, stand still, or wait for a reset. Adding one is a file, and a line in `WORLDS`. Read next:
`point`.
"""

from collections.abc import Callable
from typing import Any

from .maze import Maze
from .point import Point

# Of the family `navigation`, by the names of the command line: `WORLDS[name](num_envs, **options)`.
WORLDS: dict[str, Callable[..., Any]] = {"point": Point, "maze": Maze}
