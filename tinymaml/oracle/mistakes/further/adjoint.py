"""Mistakes in what goes back through the inner loop: in its order, in its start, in what is another task's."""

from __future__ import annotations

from ..mistake import Mistake
from ..switches import OF_TASKS
from ..updates import MIXED_UP
from .forms import BY_COLUMNS, BY_NAME, DETACHED, both_ways, further

MISTAKES: list[Mistake] = [
    # ── the vector, and the Hessian's rows and columns ──────────────────────────────────────────────────────────────
    further(
        "vector_updated_in_place", "v ← v − α Hₖ v, tensor by tensor, each Hₖ v with the v that is updated so far",
        "in the backward loop v is updated in place, one parameter after the other, and the Hessian-vector product of "
        "each later one sees those before it already updated (Gauss-Seidel, not Jacobi)",
        "hv = hvp(v) once for all parameters, then v = {n: v[n] - lr * hv[n] for n in v}",
        "hv = hvp(v) once for the whole tree, then v = v - lr * hv; no loop over names that overwrites v",
        tuple({"curvature": f"one tensor after the other{order}"} for order in ("", ", by name", ", last first")),
    ),
    further(
        "product_laid_out_by_columns", "∏(I − α P Hₖ) g_q(θ_K), ∏(I − α Hₖ P) … or ∏(I − α P⁻¹ Hₖ P) …",
        "each Hessian has its rows or columns in row-major order, and the vector that it is multiplied by in "
        "column-major order (or the other way round): the entries of matrices and filters are mixed up",
        "one order for both: .reshape(-1) and .reshape(p.shape), without .t() between them",
        "one order for both: jnp.ravel(h) and jnp.reshape(h, p.shape), neither or both with order='F'",
        tuple(form for change in BY_COLUMNS
              for form in ({"curvature": change}, {"vector": change}, {"curvature": f"{change}, and back"})),
    ),
    further(
        "product_in_order_of_names", "∏(I − α P⁻¹ Hₖ P) g_q(θ_K), ∏(I − α P Hₖ) … or ∏(I − α Hₖ P) …",
        "the vector is packed in the order of the sorted names, and the Hessian's rows or columns in the order of the "
        "dict (or the other way round): its entries meet those of other parameters",
        "one order for both: torch.cat([p.reshape(-1) for p in params.values()]) for v and for H",
        "jax.flatten_util.ravel_pytree for both: it sorts the names of a dict, list(params) does not",
        tuple(form for change in BY_NAME
              for form in ({"curvature": f"{change}, and back"}, {"curvature": change}, {"vector": change})),
    ),
    further(
        "query_gradient_mixed_up", "∏(I − αHₖ) P g_q(θ_K)",
        "the query gradient is flattened in another order than the Hessians and the result: column-major, or by the "
        "sorted names",
        "one order for all: .reshape(-1), and the same loop over the names",
        "one order for all: jnp.ravel without order='F'; ravel_pytree for all, as it sorts the names of a dict",
        tuple({"query_gradient": change} for change in MIXED_UP),
        shows="query_gradient",
    ),
    # ── which factors, and what is kept of them ─────────────────────────────────────────────────────────────────────
    further(
        "one_factor_too_many", "(I − αH₀) ⋯ (I − αH_{K−1}) (I − αH_K) g_q(θ_K), or with H₀ or H_{K−1} twice",
        "the product has a factor too many: the Hessian at θ_K, too, behind the last step (the list of θ₀ … θ_K has "
        "K + 1 entries), or the first or last step's twice",
        "for theta in reversed(thetas[:-1]): K factors, at θ₀ … θ_{K−1}",
        "scan over the parameters before each update: K factors, at θ₀ … θ_{K−1}",
        tuple({"factors": which} for which in ("one more at the end", "first twice", "last twice")),
        shows="factors",
    ),
    further(
        "factors_twice", "∏(I − αHₖ)² g_q(θ_K), or ∏(I − αHₖ) ∏(I − αHₖ) g_q(θ_K)",
        "the derivative of the inner loop is applied twice: by the graph, and by hand",
        "the gradient by θ of the query loss has all factors in it: either autograd or a loop of products",
        "jax.grad through the inner loop has all factors in it: no product by hand on top",
        ({"factors": "all twice"}, {"factors": "each twice"}),
    ),
    further(
        "sum_of_adjoints", "Σₖ vₖ, vₖ = (I − αHₖ) vₖ₊₁",
        "what comes back is added up over the inner steps (an indentation, or += for =): the gradient is v₀ alone",
        "the gradient is v after the loop: no grads[n] += v[n] inside it",
        "the gradient is the carry after the scan, not the sum of its outputs",
        tuple({"returned": f"sum on the way{which}"} for which in ("", " but the first", " but the last")),
        shows="returned",
    ),
    further(
        "adjoint_not_reset", "∏(I − αHₖ) (g_q(θ_K) + what the task before has left)",
        "v is not set back between the tasks: each task's query gradient is added to what came back for the one before",
        "v = {n: torch.zeros_like(p) …} (or v = g_q) inside the loop over tasks",
        "each task's backward scan starts from its own query gradient, not from the carry of the task before",
        ({"query_gradient": "on top of the task before's"},
         {"query_gradient": "on top of the task before's", "outer": "last over T"},
         {"query_gradient": "on top of the task before's", "outer": "last"}),
    ),
    further(
        "ways_not_reset", "the factors of task t, then those of the tasks before it",
        "the list of iterates is not emptied between the tasks: each task goes back through the inner steps of those "
        "before it, too",
        "thetas = [] (or the list of closures) inside the loop over tasks",
        "each task's backward scan goes over its own iterates",
        ({"ways": "those of the tasks before, too"}, {"ways": "those of the tasks before, too, on this support set"}),
    ),
    further(
        "graphs_overwritten", "∏(I − α H′ₖ) g_q(θ_K), H′ with θ_K for the weights and θₖ for all else",
        "the parameters were overwritten in place (through .data) when the graphs of the inner gradients had saved "
        "them: their derivative has the adapted weights θ_K (or the restored θ, or the next step's) beside the "
        "activations of θₖ, and belongs to no point",
        "fast = p - lr * g makes new tensors: no p.data.sub_(…), no p.data = …, no optimizer.step() in between",
        "keep the parameters of each step; NumPy arrays that are written to in place are the ones that were saved",
        tuple({"derivative_weights": of} for of in ("θ_K", "θ", "of the next step")),
        shows="derivative_weights",
    ),
    further(
        "outer_rate_in_factor", "∏(I − β Hₖ) g_q(θ_K)",
        "the outer rate β stands in the Hessian term, in the place of the inner rate α",
        "v = v - case.inner_lr * hvp(v)",
        "v = v - case.inner_lr * hvp(v)",
        ({"factor_rate": "of the outer loop"},),
    ),
    # ── a product that is not differentiated as it should be ────────────────────────────────────────────────────────
    further(
        "surrogate_not_stopped", "∏(I − αHₖ) (g_q + H_q θ_K), or with θ_K − θ",
        "the gradient of ⟨θ_K, ∇L_q(θ_K)⟩ is taken without a stop_gradient (detach) on ∇L_q: the product rule adds the "
        "query loss's Hessian times θ_K (or θ_K − θ); or the other factor is the one that is stopped",
        "torch.autograd.grad(θ_K, θ, grad_outputs=g_q.detach()), or (θ_K * g_q.detach()).sum()",
        "jax.vjp of the inner loop, applied to g_q; or sum(θ_K * stop_gradient(g_q))",
        both_ways(*({"query_gradient": f"{plus}H_q {w}"} for plus in ("plus ", "") for w in ("θ_K", "(θ_K − θ)")))
        + ({"query_gradient": "plus H_q (θ_K − θ), less itself"},),
        shows="query_gradient",
    ),
    further(
        "gradient_of_squared_gradient", "∏(I − αHₖ) H_q g_q(θ_K)",
        "the outer loss is ½ |∇L_q(θ_K)|², the squared length of the query gradient, and not L_q",
        "differentiate the query loss itself",
        "differentiate the query loss itself",
        both_ways({"query_gradient": "H_q times itself"}),
    ),
    # ── of another task ─────────────────────────────────────────────────────────────────────────────────────────────
    further(
        "hessian_of_other_task", "∏(I − α H′ₖ) g_q(θ_K), H′ of another task, or the mean of all",
        "the Hessians are another task's (the first, the last, the next, the one before, or the mean over all): taken "
        "on its support set, at its iterates, or both, as by closures, caches or pullbacks that are shared by tasks",
        "the product of loss(fast, xs[t], ys[t]) at task t's own iterates: nothing is kept under the step alone",
        "the product of loss(params, xs[t], ys[t]) at task t's own iterates: vmap the whole backward pass over tasks",
        tuple({"hessian_on": f"{what} of {which}"} for which in OF_TASKS
              for what in ("support and points", "points", "support")
              if (what, which) not in (("support", "the first task"), ("support", "the last task"),
                                       ("support and points", "all tasks"))),
        shows="hessian_on",
    ),
    further(
        "query_gradient_of_other_task", "∏(I − αHₖ) g′, g′ of another task, or at another task's θ_K, or a mean of all",
        "what goes back through a task's inner loop is the query gradient of another task (the first, the last, or the "
        "mean over all), or is taken at another task's adapted parameters",
        "the query gradient of loss(fast, xq[t], yq[t]) with task t's own fast weights",
        "the query gradient of task t at its own adapted parameters: vmap the whole task, and average at the end",
        # those of the next task and of the one before are paired as the Hessians of another task are
        tuple({"query_gradient": f"of {which}"} for which in ("all tasks", "the first task", "the last task"))
        + tuple({"query_gradient": f"at θ_K of {which}"} for which in OF_TASKS),
        shows="query_gradient",
    ),
    further(
        "product_of_the_means", "∏(I − α H̄ₖ) ḡ_q, H̄ and ḡ the means over tasks",
        "query gradients and Hessian-vector products are averaged over the tasks before they are multiplied: the "
        "product of the means stands in the place of the mean of the products",
        "go back through each task by itself, and average the results",
        "vmap the whole backward pass over the tasks; jnp.mean comes last",
        tuple({"hessian_on": "support and points of all tasks"} | at for at in ({}, {"factors": "at start"})),
    ),
    further(
        "last_adapted_weights", "g_q(θ_K) of the last task, over T, each task from where the one before has ended",
        "the fast weights are written into the dict (or the module) of the parameters: each task starts from the "
        "weights adapted to the one before, and the gradient is taken with respect to the last task's adapted weights, "
        "not θ, so that it is first-order and of that task alone",
        "fast = dict(params) in each task, and torch.autograd.grad(total, the leaves θ themselves)",
        "new names for what is adapted; differentiate with respect to the θ that all tasks start from",
        ({"start": "leaked, detached", "outer": "last over T"} | DETACHED,
         {"start": "leaked, detached", "outer": "last"} | DETACHED),
    ),
]  # fmt: skip
