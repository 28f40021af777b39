"""Numbers with too few digits."""

from __future__ import annotations

from ..mistake import Mistake
from .forms import further, rounded

MISTAKES: list[Mistake] = [
    further(
        "rate_rounded", "α → fl(α)",
        "α is rounded to a shorter type before it is used",
        "torch.tensor(inner_lr) is float32: give dtype=torch.float64, or leave α a Python number",
        "jnp.asarray(inner_lr) is float32 without jax_enable_x64: enable it, or leave α a Python number",
        rounded("rate"), kind="precision",
    ),
    further(
        "data_rounded", "x → fl(x)",
        "the data are rounded to a shorter type before they are used",
        "torch.tensor(x, dtype=torch.float64); no x.float(), no .half(), no autocast",
        "jnp.asarray(x, jnp.float64) with jax_enable_x64; no .astype(jnp.float32)",
        rounded("inputs", "data"), kind="precision",
    ),
    further(
        "parameters_rounded", "θ → fl(θ)",
        "θ is rounded to a shorter type before the inner loop",
        "nn.Parameter(torch.tensor(p, dtype=torch.float64)); model.double() is too late for what came as float32",
        "keep the tree of parameters in float64, with jax_enable_x64",
        rounded("parameters"), kind="precision",
    ),
    further(
        "everything_rounded", "θ, α, x, y → fl(·)",
        "θ, α and the data are rounded to a shorter type; the computation itself keeps its digits",
        "hand over float64 from the start: torch.set_default_dtype(torch.float64)",
        "jax.config.update('jax_enable_x64', True) before any array is made",
        rounded("everything"), kind="precision",
    ),
]  # fmt: skip
