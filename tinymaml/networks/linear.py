"""One linear layer: the `mlp` without hidden layers. It has no options.

Read next: `conv`.
"""

from __future__ import annotations

from dataclasses import dataclass

from .mlp import mlp
from .network import Network, check_one_array


@dataclass(frozen=True)
class Settings:
    pass


def make(family, settings: Settings) -> Network:
    check_one_array("linear", family)
    return mlp(family.input_shape, (), family.outputs)
