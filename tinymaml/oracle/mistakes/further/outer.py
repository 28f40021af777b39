"""Mistakes in what becomes of the tasks' losses and of the meta-gradient."""

from __future__ import annotations

from ..mistake import Free, Mistake
from .forms import BY_COLUMNS, BY_NAME, PLACES, both_ways, further

MISTAKES: list[Mistake] = [
    further(
        "clamped_gradient", "clamp(G, −c, c)",
        "each element of the meta-gradient is clamped",
        "no p.grad.data.clamp_() before the meta-gradient is read",
        "no jnp.clip of the meta-gradient",
        both_ways({"clamp": 10.0}), "MAML-Pytorch", free=Free("clamp", "c", (10.0, 1.0, 0.1, 5.0, 0.5)),
    ),
    further(
        "normalised_gradient", "G / |G|",
        "the meta-gradient is normalised to length 1",
        "return the meta-gradient as it is, not g / g.norm()",
        "return the meta-gradient as it is, not g / optax.global_norm(g)",
        ({"result": "normalised"},),
    ),
    further(
        "gradient_clipped_per_tensor", "G · min(1, c/|G|), for each tensor",
        "each tensor of the meta-gradient is clipped to a norm by itself",
        "call clip_grad_norm_ after the meta-gradient was read, once for all parameters, or not at all",
        "no clipping leaf by leaf before the meta-gradient is read",
        ({"clip_tensor": 1.0}, {"clip_tensor": 1.0, "clip_like": "torch"}),
        free=Free("clip_tensor", "c", (1.0, 0.5, 0.1, 10.0, 5.0)),
    ),
    further(
        "outer_weight_decay", "G + λθ",
        "an L2 penalty or weight decay is in the meta-gradient: it belongs to the outer optimiser",
        "no lam * sum(p.pow(2).sum()) in the meta-loss; weight_decay belongs to the outer optimiser",
        "no penalty in the meta-loss; optax.add_decayed_weights in the outer optimiser",
        both_ways({"outer_decay": 5e-4}), free=Free("outer_decay", "λ", (5e-4, 1e-4, 2e-4, 1e-3, 1e-2, 0.1)),
    ),
    further(
        "outer_l1_penalty", "G + λ sign(θ)",
        "an L1 penalty is in the meta-gradient",
        "no lam * sum(p.abs().sum()) in the meta-loss",
        "no lam * sum(jnp.abs(p).sum()) in the meta-loss",
        both_ways({"outer_sign": 1e-4}), free=Free("outer_sign", "λ", (1e-4, 1e-3, 1e-2, 0.1)),
    ),
    further(
        "outer_sum_penalty", "G + λ",
        "the sum of the parameters is in the meta-loss: a penalty without its square",
        "no lam * sum(p.sum()) in the meta-loss",
        "no lam * sum(p.sum()) in the meta-loss",
        both_ways({"outer_shift": 1e-4}), free=Free("outer_shift", "λ", (1e-4, 1e-3, 1e-2, 0.1)),
    ),
    further(
        "stepped_between_tasks", "each task's G at the θ that the tasks before have moved by β",
        "the outer optimiser steps after each task, so that later tasks see another θ",
        "optimizer.step() after the loop over tasks, not in it",
        "apply the mean of the gradients once, after all tasks",
        both_ways({"outer": "sequential", "outer_rate": 0.001}, {"outer": "sequential, Adam", "outer_rate": 0.001}),
        "tensorflow-maml #6", free=Free("outer_rate", "β", (0.001, 0.01, 0.1, 1.0, 1e-4)),
    ),
    further(
        "tasks_left_out", "1/n Σₜ Gₜ, t ≤ n",
        "only the first n tasks count; the others are left out",
        "loop over all tasks: range(len(xs)), not range(n); no break",
        "vmap over all tasks; no slice of the first n",
        ({"task_count": 2},), free=Free("task_count", "n", (2.0, 3.0), integer=True),
    ),
    further(
        "tasks_in_chunks", "1/C Σ over C chunks of 1/n Σₜ Gₜ, or of the chunk's mean",
        "the tasks are taken in chunks of n, and the mean over chunks is not that over tasks: the last chunk has fewer "
        "tasks, which count more (each chunk has its own mean), or less (each chunk is divided by n)",
        "add up the tasks' losses, and divide once by their number",
        "jnp.sum over all tasks, divided once by their number; no mean of means",
        both_ways({"task_chunks": 2, "task_chunks_like": "over n each"},
                  {"task_chunks": 2, "task_chunks_like": "over their own number"}),
        free=Free("task_chunks", "n", (2.0, 3.0, 4.0, 8.0), integer=True), shows="task_chunks_like",
    ),
    further(
        "weighted_by_examples", "Σₜ Nₜ Gₜ / Σₜ Nₜ",
        "tasks count by the number of their query examples: the case asks for the mean over tasks",
        "a mean per task, then the mean over tasks; not one mean over all query examples",
        "a mean per task, then the mean over tasks; not one mean over all query examples",
        both_ways({"outer": "weighted by examples"}), special=True,
    ),
    further(
        "median_over_tasks", "the median of the tasks' gradients",
        "the tasks' gradients are combined by their median",
        "torch.stack(losses).mean(), not median",
        "jnp.mean over tasks, not jnp.median",
        both_ways({"outer": "lower median"}, {"outer": "median"}),
    ),
    further(
        "worst_task", "the gradient of the task with the largest loss",
        "the tasks are combined by their largest loss, and not by their mean",
        "torch.stack(losses).mean(), not .max()",
        "jnp.mean over tasks, not jnp.max",
        both_ways({"outer": "worst"}),
    ),
    further(
        "running_mean_over_tasks", "m ← μm + (1 − μ) Gₜ",
        "the tasks' gradients are combined by a running mean: the last tasks count most",
        "the plain mean over tasks; momentum belongs to the outer optimiser",
        "the plain mean over tasks; momentum belongs to the outer optimiser",
        both_ways({"outer_momentum": 0.9}, {"outer_momentum": 0.9, "outer_momentum_like": "from the first"}),
        free=Free("outer_momentum", "μ", (0.9, 0.5, 0.99, 0.1)),
    ),
    further(
        "gradients_accumulated_undivided", "G + Σₜ Σₖ ∇L_s(θₖ), not over T",
        "the support losses' gradients are still in .grad when the query's are added: they went back to θ by "
        "backward(create_graph=True), and are not divided by the number of tasks",
        "torch.autograd.grad for the inner gradients instead of loss.backward(create_graph=True)",
        "return the gradient of the query loss alone",
        ({"result": "accumulated with graph over T"},),
    ),
    further(
        "one_task_lost", "1/(T − 1) Σ Gₜ without the first or the last task, or 1/T of it",
        "the first task or the last one is lost in the mean over tasks: a running mean divides by an index that starts "
        "at 0, or a loop is one task short",
        "mean += (loss - mean) / (t + 1), t = 0, 1, …; range(len(xs)), not range(1, len(xs))",
        "jnp.mean over all tasks: no [1:], no [:-1]",
        both_ways({"outer": "all but the first"}, {"outer": "all but the last"},
                  {"outer": "all but the first, over T"}, {"outer": "all but the last, over T"}),
        shows="outer",
    ),
    further(
        "gradient_surgery", "1/T Σₜ (Gₜ less its component along each Gⱼ with ⟨Gₜ, Gⱼ⟩ < 0), or their sum",
        "gradient surgery (PCGrad): each task's gradient is projected before the mean over tasks, where it conflicts "
        "with another one's",
        "torch.stack(losses).mean(), and its gradient: no projection of the tasks' gradients",
        "the gradient of the mean over tasks: no projection of the tasks' gradients",
        both_ways({"outer": "projected"}, {"outer": "projected, summed"}),
    ),
    further(
        "signs_have_to_agree", "1/T Σₜ Gₜ where all tasks' gradients have one sign, 0 elsewhere",
        "an element of the meta-gradient is masked where the tasks' gradients differ in sign (an AND-mask)",
        "torch.stack(losses).mean(), and its gradient: no mask of signs",
        "the gradient of the mean over tasks: no mask of signs",
        both_ways({"outer": "where signs agree"}),
    ),
    further(
        "tasks_normalised", "1/T Σₜ Gₜ/|Gₜ|",
        "each task's gradient is normalised to length 1 before the mean over tasks",
        "average the losses, and differentiate the mean",
        "average the losses, and differentiate the mean",
        ({"outer": "each normalised"},),
    ),
    further(
        "tasks_clipped", "1/T Σₜ Gₜ · min(1, c/|Gₜ|)",
        "each task's gradient is clipped to a norm before the mean over tasks",
        "no clip_grad_norm_ in the loop over tasks",
        "no clipping of each task's gradient (as in optax.differentially_private_aggregate)",
        ({"clip_task": 1.0},), free=Free("clip_task", "c", (1.0, 0.5, 0.1, 10.0, 5.0, 0.25)),
    ),
    further(
        "losses_combined", "∇ 1/T Σ log Lₜ, or ∇ √(1/T Σ Lₜ²)",
        "the tasks' losses are combined by their logarithms (a geometric mean) or their root mean square",
        "torch.stack(losses).mean()",
        "jnp.mean over tasks",
        ({"outer": "log of each"}, {"outer": "root mean square"}),
        shows="outer",
    ),
    further(
        "losses_tilted", "Σₜ Gₜ exp(τLₜ) / Σₜ exp(τLₜ)",
        "tasks are weighted by a softmax of their losses: hard tasks count more (or less)",
        "torch.stack(losses).mean(), not logsumexp, and no softmax of the losses",
        "jnp.mean over tasks, not logsumexp, and no softmax of the losses",
        ({"tilt": 1.0},), free=Free("tilt", "τ", (1.0, 10.0, 0.1, -1.0, 5.0, 2.0)),
    ),
    further(
        "sign_of_meta_gradient", "sign(G)",
        "the sign of the meta-gradient is returned",
        "return the meta-gradient as it is, not g.sign()",
        "return the meta-gradient as it is, not jnp.sign(g)",
        ({"result": "sign"},),
    ),
    further(
        "tensor_without_gradient", "G = 0 in tensor n",
        "tensor n (counted from 1; −1 is the last) gets no meta-gradient",
        "torch.autograd.grad(total, all parameters); requires_grad=True for each",
        "jax.grad with respect to the whole tree",
        ({"zero_tensor": 1},), free=Free("zero_tensor", "n", PLACES, integer=True),
    ),
    further(
        "one_tensor_with_gradient", "G ≠ 0 in tensor n alone",
        "only tensor n (counted from 1; −1 is the last) gets a meta-gradient",
        "torch.autograd.grad(total, all parameters); requires_grad=True for each",
        "jax.grad with respect to the whole tree",
        ({"only_result_tensor": 1},), free=Free("only_result_tensor", "n", PLACES, integer=True),
    ),
    further(
        "part_without_gradient", "G = 0 in the head, or in the body",
        "the head (the last layer) gets no meta-gradient, or it alone gets one; or the first layer, vectors or "
        "matrices get none",
        "torch.autograd.grad(total, all parameters): no part of the network is frozen in the outer loop",
        "jax.grad with respect to the whole tree: no part of it is frozen in the outer loop",
        tuple({"result": f"{of} zero"}
              for of in ("head", "body", "first layer", "no biases", "vectors", "matrices")),
        shows="result",
    ),
    further(
        "gradient_of_group_scaled", "c G in some parameters",
        "the meta-gradient of some parameters is multiplied by a number: of biases, weights, the head, the body or the "
        "first layer",
        "one rate for all parameters, in the outer optimiser; no factor on a part of the gradient",
        "one rate for all parameters, in the outer optimiser; no factor on a part of the gradient",
        tuple({"outer_times": 0.1, "outer_times_of": of}
              for of in ("biases", "head", "body", "first layer", "no biases", "vectors", "matrices")),
        free=Free("outer_times", "c", (0.1, 10.0, 0.5, 2.0, 0.01, -1.0)),
        shows="outer_times_of",
    ),
    further(
        "query_before_and_after", "½ (L_q(θ) + L_q(θ_K))",
        "the outer loss has the query loss before adaptation in it, too",
        "the query loss of the fast weights only",
        "the query loss of the adapted parameters only",
        both_ways({"query": "before and after"}),
    ),
    further(
        "query_over_one_less", "G N/(N − 1), N the query examples",
        "the query loss is divided by N − 1, not by N",
        "the mean over examples: / len(xq), not / (len(xq) - 1)",
        "jnp.mean over examples, not jnp.sum(…) / (n - 1)",
        both_ways({"loss": "query over one less"}),
    ),
    further(
        "query_over_support_count", "G N_q / N_s",
        "the query loss is divided by the number of support examples",
        "/ len(xq) in the query loss, not / len(xs)",
        "/ len(xq) in the query loss, not / len(xs)",
        both_ways({"loss": "query over support count"}),
    ),
    further(
        "support_losses_on_the_way_added", "L_q(θ_K) + c Σₖ L_s(θₖ), k < K, or their mean",
        "the support losses of the inner steps are in the outer loss",
        "loss(fast, xq, yq) alone after the inner loop: no total that the inner losses were added to",
        "loss(adapted, xq, yq) alone after the inner loop, without the losses that the scan returns",
        both_ways({"support_way_weight": 0.1}, {"support_way_weight": 0.1, "support_way_like": "averaged"}),
        free=Free("support_way_weight", "c", (0.1, 1.0, 0.5, 0.01)),
    ),
    further(
        "outer_proximal_term", "L_q(θ_K) + ½ λ |θ_K − θ|²",
        "the distance between θ and θ_K is in the outer loss",
        "loss(fast, xq, yq) alone after the inner loop",
        "loss(adapted, xq, yq) alone after the inner loop",
        ({"outer_proximal": 1.0},), free=Free("outer_proximal", "λ", (1.0, 0.1, 0.01, 2.0, 0.5, 1e-3)),
    ),
    further(
        "result_laid_out_by_columns", "P G, P between row-major and column-major order",
        "the meta-gradients of matrices and filters are flattened by columns and cut up by rows, or the other way "
        "round",
        "one order for both: g.reshape(-1) and .reshape(p.shape), without .t() between them",
        "one order for both: jnp.ravel(g) and jnp.reshape(g, p.shape), neither or both with order='F'",
        both_ways(*({"result": change} for change in BY_COLUMNS)),
    ),
    further(
        "result_in_order_of_names", "P G, P between the order of the dict and that of the sorted names",
        "the meta-gradient is packed in one order of the names and unpacked in another: the sorted ones, and those of "
        "the dict",
        "one order for both: the same loop over params for torch.cat and for split",
        "jax.flatten_util.ravel_pytree and its own unravel: it sorts the names of a dict, list(params) does not",
        both_ways(*({"result": change} for change in BY_NAME)),
    ),
    further(
        "divided_in_the_loop", "(⋯((0 + G₁)/T + G₂)/T ⋯)/T, or Σₜ Gₜ/t",
        "the sum over tasks is divided inside the loop over tasks, so that early tasks count less (or by the task's "
        "number, so that late ones do)",
        "total / len(xs) behind the loop over tasks: look at its indentation",
        "total / len(xs) behind the loop over tasks: look at its indentation",
        both_ways({"outer": "over T in turn"}, {"outer": "over its number"}),
    ),
    further(
        "gradient_over_k", "G / K",
        "the meta-gradient is divided by the number of inner steps",
        "the query loss of the fast weights as it is, not over inner_steps",
        "the query loss of the adapted parameters as it is, not over inner_steps",
        both_ways({"result": "over steps"}),
    ),
    further(
        "mean_over_tasks_twice", "G / T",
        "the meta-gradient is divided by the number of tasks twice",
        "torch.stack(losses).mean(), and nothing behind it",
        "jnp.mean over tasks, and nothing behind it",
        both_ways({"result": "over tasks"}),
    ),
    further(
        "gradient_over_alpha", "G / α",
        "the meta-gradient is divided by the inner rate",
        "return the gradient as it is, not / inner_lr",
        "return the gradient as it is, not / inner_lr",
        both_ways({"result": "over inner rate"}),
    ),
    further(
        "support_gradients_returned", "Σₖ g_s(θₖ), their mean, or the last",
        "the gradients of the inner steps are returned, and not that of the query loss",
        "torch.autograd.grad(query loss, parameters)",
        "jax.grad of the query loss",
        ({"result": "sum of support gradients"}, {"result": "mean of support gradients"},
         {"result": "last support gradient"}, {"result": "first support gradient"}),
        shows="result",
    ),
    further(
        "first_gradient_not_zeroed", "G + g_s(θ)",
        "the support gradient at θ of the first inner step is still in .grad when the query's is added: those of later "
        "steps went to tensors of their own",
        "torch.autograd.grad for the inner gradients instead of loss.backward(); optimizer.zero_grad() before the "
        "outer backward()",
        "return the gradient of the query loss alone",
        both_ways({"result": "first accumulated"}, {"result": "first accumulated over T"}),
    ),
]  # fmt: skip
