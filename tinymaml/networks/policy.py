"""The policy of tasks that are acted in: Gaussian, or categorical if the environment has `choices`. See `rl.policies`.

The defaults are those of 2-D navigation in cbfinn/maml_rl; 64-64 tanh is that of ProMP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..rl.policies import ACTIVATIONS, Categorical, Gaussian
from ..runs.settings import option
from .network import Network


@dataclass(frozen=True)
class Settings:
    hidden: tuple[int, ...] = option((100, 100), "widths of the hidden layers", least=1)
    activation: str = option("relu", "of the hidden layers", choices=tuple(ACTIVATIONS))
    log_std: float = option(0.0, "logarithm of a Gaussian's standard deviation at the start")
    floor: float = option(1e-6, "least standard deviation of a Gaussian", least=1e-30)
    adapt_std: bool = option(True, "inner steps move the standard deviation, too")


def make(family, settings: Settings) -> Network:
    """The policy of a family that is acted in, as a network whose outputs are those of the policy."""
    if not hasattr(family, "collect"):
        raise ValueError("policy wants tasks that are acted in, and this family's are not")
    inputs, s = int(np.prod(family.input_shape)), settings
    policy: Any
    if getattr(family, "choices", None):
        policy = Categorical(inputs, family.choices, s.hidden, s.activation)
    else:
        policy = Gaussian(inputs, family.outputs, s.hidden, s.activation, s.log_std, s.floor, s.adapt_std)
    return Network(policy.init, policy.outputs, policy=policy)
