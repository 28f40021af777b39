"""Numbers with too few digits."""

from __future__ import annotations

from ..mistake import Mistake
from .forms import further, rounded, rounded_on_the_way

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
        "task_gradients_rounded", "1/T Σₜ fl(Gₜ)",
        "each task's gradient is rounded to a shorter type before the mean over tasks, as a compressed all-reduce does",
        "no bf16_compress_hook or fp16_compress_hook of DDP; g.to(torch.float64) comes too late for what was rounded",
        "psum in float64: no g.astype(jnp.bfloat16) before it",
        rounded_on_the_way("task gradients"), kind="precision", shows="shortened",
    ),
    further(
        "inner_numbers_rounded", "fl(g_s(θₖ)), fl(θₖ), fl(g_q(θ_K)), fl(αHₖv), fl(v), or Hₖ at fl(θₖ)",
        "the inner gradients, the fast weights, the query gradient, the products with Hessians, what comes back or the "
        "points where Hessians are taken are rounded to a shorter type on the way, and the rest is not",
        "buffers of torch.float64; no .half(), no .bfloat16(), no np.zeros(…, np.float32) that they are written into",
        "arrays of float64, with jax_enable_x64; no astype(jnp.bfloat16) on the way",
        rounded_on_the_way(
            "inner gradients", "fast weights", "query gradients", "products", "points of Hessians", "what comes back"
        ),
        kind="precision", shows="shortened",
    ),
    further(
        "everything_rounded", "θ, α, x, y → fl(·)",
        "θ, α and the data are rounded to a shorter type; the computation itself keeps its digits",
        "hand over float64 from the start: torch.set_default_dtype(torch.float64)",
        "jax.config.update('jax_enable_x64', True) before any array is made",
        rounded("everything"), kind="precision",
    ),
]  # fmt: skip
