"""One linear layer: the `mlp` without hidden layers. It has no options.

Read next: `conv`.
"""

from __future__ import annotations

from dataclasses import dataclass

from .mlp import mlp
from .network import Network


@dataclass(frozen=True)
class Settings:
    pass


def make(family, settings: Settings) -> Network:
    return mlp(family.input_shape, (), family.outputs)
