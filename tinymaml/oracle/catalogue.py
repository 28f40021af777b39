"""What MAML implementations get wrong: each mistake by name, what it computes, and the line to change.

    CATALOGUE["fomaml"].torch      CATALOGUE["fomaml"].forms      list_bugs()

A mistake is one or more settings of the switches in `semantics` (its forms: ways to write the same mistake that do not
compute the same). A convention is a choice that is legitimate elsewhere, but not the one the case asks for.
"""

from __future__ import annotations

import numpy as np

from . import family
from .further import FURTHER
from .mistake import KINDS, Free, Mistake
from .models import Options
from .semantics import Result, run


def run_form(case, form: dict, number=float) -> Result:
    """The meta-gradient under `form`, a dict of switches and, under "how", of Options."""
    if case.algorithm != "maml":
        return family.run(case, number, **form)
    options = dict(form.get("how", {}))
    if "frozen" in options:
        options["frozen"] = frozenset(options["frozen"])
    return run(case, number, Options(**options), **{k: v for k, v in form.items() if k != "how"})


_ALL_LAYERS = ("linear", "conv", "batch_norm", "tanh", "relu", "softplus", "square", "flatten",
               "spatial_mean", "polynomial", "quadratic")  # fmt: skip

_CLASSIC = [
    # ── the derivative through the inner loop ───────────────────────────────────────────────────────────────────────
    Mistake(
        "fomaml", "g_q(θ_K)",
        "the inner gradient was detached: this is first-order MAML (FOMAML), under the name of MAML",
        "torch.autograd.grad(loss_s, params, create_graph=True) in the inner step; no .detach(), no .data, "
        "no first_order=True, no higher(track_higher_grads=False)",
        "no jax.lax.stop_gradient around the inner jax.grad; differentiate the whole adapt-then-query function",
        ({"factors": "detached"},), "dragen1860/MAML-Pytorch #17 #26 #32 #63, kjaved0/mrcl #15",
    ),
    Mistake(
        "first_order_ignored", "∏(I − αHₖ) g_q(θ_K)",
        "the case asks for first-order MAML, but the exact gradient came: the first_order flag has no effect",
        "pass create_graph=not first_order to torch.autograd.grad, and detach the inner gradients",
        "wrap the inner gradient in jax.lax.stop_gradient when first_order is set",
        ({"factors": "exact"},), "pytorch-maml-rl #19", special=True,
    ),
    Mistake(
        "zero_gradient", "0, or None",
        "no path leads from the query loss to θ: the task's parameters are a copy of θ (deepcopy, load_state_dict, "
        ".detach().requires_grad_()), or the query loss is under no_grad",
        "adapt with θ′ = θ − α·g made from θ itself (torch.func.functional_call with a dict of fast weights), not with "
        "copy.deepcopy(model) or load_state_dict; take no_grad away from the query loss",
        "differentiate with respect to the θ that the inner loop starts from; look for stop_gradient or np.asarray on "
        "it",
        ({"result": "zero"}, {"factors": "parameters detached"}),
        "higher #102 #129, MAML-Pytorch #9 #14 #40, MeLU #9",
    ),
    Mistake(
        "query_before_adaptation", "g_q(θ)",
        "the query loss is that of θ, not of the adapted θ_K: its forward pass was made before the adaptation, or with "
        "the original parameters",
        "compute the query logits after the inner loop, with the fast weights: functional_call(model, fast, (xq,))",
        "the query term must be loss(adapted, xq, yq), not loss(params, xq, yq)",
        ({"query": "before adaptation", "factors": "detached"},), "learn2learn #420",
    ),
    Mistake(
        "stale_gradient", "(I − KαH₀) g_q(θ − Kα g_s(θ))",
        "every inner step uses the gradient at θ: the fast weights never advance, or the first gradient is used again",
        "compute the support loss with the current fast weights in every step: loss(fast, xs, ys), not loss(params, …)",
        "inside the loop (or lax.scan) take jax.grad(loss)(fast, …) of the carry, not of params",
        ({"inner": "stale"}, {"inner": "stale", "factors": "detached"}), "few-shot-hypernets #6, tutorials",
    ),
    Mistake(
        "restarted_steps", "(I − αH₀) g_q(θ − α g_s(θ))",
        "every inner step starts again from θ, so that however many there are, only one counts",
        "fast = {n: fast[n] − lr·g[n]}: subtract from the fast weights, not from the parameters",
        "carry the adapted parameters from step to step; subtract from the carry",
        ({"inner": "restarted"}, {"inner": "from start"}), "tutorials",
    ),
    Mistake(
        "first_step_detached", "(I − αH₁) ⋯ (I − αH_{K−1}) g_q(θ_K)",
        "the graph of the first inner step is cut: its factor (I − αH₀) is missing",
        "create_graph=True in every step, the first included; do not call .detach() on the weights before the loop's "
        "second step",
        "no stop_gradient in the first step",
        ({"factors": "first detached"},), "tensorflow-maml #3",
    ),
    Mistake(
        "last_step_detached", "(I − αH₀) ⋯ (I − αH_{K−2}) g_q(θ_K)",
        "the graph of the last inner step is cut: its factor (I − αH_{K−1}) is missing",
        "create_graph=True in the last step too (not create_graph = k < K − 1)",
        "no stop_gradient in the last step",
        ({"factors": "last detached"},), "tensorflow-maml #3",
    ),
    Mistake(
        "middle_step_detached", "(I − αH₀)(I − αH_{K−1}) g_q(θ_K)",
        "the graphs of the inner steps between the first and the last are cut",
        "create_graph=True in every step",
        "no stop_gradient in any step",
        ({"factors": "middle detached"},), "tensorflow-maml #3",
    ),
    Mistake(
        "hessian_sign", "∏(I + αHₖ) g_q(θ_K)",
        "the sign of the Hessian term is wrong: the derivative of θ − αg is I − αH",
        "where the Hessian-vector product is written by hand: v = v − lr · hvp(v)",
        "where the Hessian-vector product is written by hand: v = v − lr * hvp(v)",
        ({"hessian_times": -1},),
    ),
    Mistake(
        "reversed_product", "(I − αH_{K−1}) ⋯ (I − αH₀) g_q(θ_K)",
        "the factors are multiplied in the wrong order: going back, the last inner step comes first",
        "loop over reversed(range(K)) when the Hessian-vector products are applied by hand",
        "lax.scan(..., reverse=True) when the Hessian-vector products are applied by hand",
        ({"factors": "reversed"},),
    ),
    Mistake(
        "hessian_at_start", "∏(I − αH(θ₀)) g_q(θ_K)",
        "every step's Hessian is taken at θ, not at that step's θₖ",
        "keep each step's fast weights, and take the product of step k at θₖ",
        "keep each step's parameters (scan's ys), and take the product of step k at θₖ",
        ({"factors": "at start"},),
    ),
    Mistake(
        "hessian_at_end", "∏(I − αH(θ_K)) g_q(θ_K)",
        "every step's Hessian is taken at the adapted θ_K, not at that step's θₖ",
        "the weights were changed in place before the product was taken: keep each step's fast weights",
        "keep each step's parameters (scan's ys), and take the product of step k at θₖ",
        ({"factors": "at end"},),
    ),
    Mistake(
        "hessian_of_query", "∏(I − αH_q) g_q(θ_K)",
        "the Hessian is that of the query loss; the inner steps descend the support loss",
        "take the Hessian-vector product of loss(fast, xs, ys)",
        "take the Hessian-vector product of loss(fast, xs, ys)",
        ({"factors": "of query"}, {"factors": "of query at end"}),
    ),
    Mistake(
        "diagonal_hessian", "∏(I − α diag(Hₖ)) g_q(θ_K)",
        "only the diagonal of the Hessian is there",
        "use a Hessian-vector product, torch.autograd.grad(g, params, grad_outputs=v), not elementwise second "
        "derivatives",
        "use jax.jvp(jax.grad(loss), (params,), (v,)), not elementwise second derivatives",
        ({"factors": "diagonal"},),
    ),
    Mistake(
        "gauss_newton", "∏(I − α Jᵀ(∇²ℓ)J) g_q(θ_K)",
        "the Hessian is the Gauss-Newton matrix: the curvature of the network itself is missing",
        "differentiate the inner gradient itself; J.T @ H_out @ J is only a part of the Hessian",
        "differentiate the inner gradient itself; J.T @ H_out @ J is only a part of the Hessian",
        ({"how": {"frozen": _ALL_LAYERS}},),
    ),
    Mistake(
        "softmax_frozen", "the loss's derivative (softmax − one-hot) held constant in H",
        "the derivative of the loss has no derivative of its own (double backward): p − y is treated as a constant",
        "a custom autograd.Function of the loss must have a differentiable backward (no @once_differentiable, no "
        ".data, nothing saved detached)",
        "a custom_vjp of the loss must have a differentiable bwd: no stop_gradient on what it saves",
        ({"how": {"frozen": ("loss",)}},), "tensorflow #11435, Theano #3210",
    ),
    Mistake(
        "batch_norm_frozen", "batch norm's statistics held constant in H",
        "batch norm's double backward is missing: mean and variance are constants when the gradient is differentiated",
        "do not detach the statistics; a custom batch norm's backward must itself be differentiable",
        "no stop_gradient on mean and variance; a custom_vjp's bwd must be differentiable",
        ({"how": {"frozen": ("batch_norm",)}},),
    ),
    Mistake(
        "pool_frozen", "what flows back through max pooling held constant in H",
        "max pooling's double backward is missing: the second derivative stops there",
        "a custom pooling Function must pass gradients through its own backward",
        "a custom_vjp for pooling must have a differentiable bwd",
        ({"how": {"frozen": ("max_pool",)}},), "tensorflow #11435",
    ),
    Mistake(
        "activation_frozen", "the activation's slope held constant in H",
        "the activation's double backward is missing: its slope is a constant when the gradient is differentiated",
        "a custom activation's backward must be made of differentiable operations on saved tensors (not .data)",
        "a custom_jvp or custom_vjp of the activation must itself be differentiable",
        ({"how": {"frozen": ("tanh", "softplus", "square")}},),
    ),
    # ── the inner loop ──────────────────────────────────────────────────────────────────────────────────────────────
    Mistake(
        "one_step_more", "K + 1 steps",
        "the inner loop makes one step more than asked",
        "for _ in range(inner_steps): look for a step before the loop or after it",
        "lax.scan(..., length=inner_steps): look for a step before or after it",
        ({"steps": 1},),
    ),
    Mistake(
        "one_step_less", "K − 1 steps",
        "the inner loop makes one step less than asked",
        "for _ in range(inner_steps): look for range(1, inner_steps), or a query loss taken before the last update",
        "lax.scan(..., length=inner_steps)",
        ({"steps": -1},),
    ),
    Mistake(
        "inner_ascent", "θₖ₊₁ = θₖ + α g_s(θₖ)",
        "the inner steps climb: the sign of the inner update is wrong",
        "fast = {n: p - lr * g}: a minus",
        "jax.tree.map(lambda p, g: p - lr * g, …): a minus",
        ({"inner": "ascent"}, {"inner": "ascent", "factors": "detached"}),
    ),
    Mistake(
        "grad_sum", "θ′ = θ − α (1ᵀg_s) 1, for each tensor",
        "each tensor's gradient is collapsed to one number, its sum, before the inner update",
        "use the gradient itself: p - lr * g, not p - lr * g.sum()",
        "use the gradient itself: p - lr * g, not p - lr * g.sum()",
        ({"inner": "summed"}, {"inner": "summed", "factors": "detached"}), "tutorials",
    ),
    Mistake(
        "alpha_times_n", "α → α N, N the support examples",
        "the inner loop descends the sum of the support losses: α is too large by the number of support examples",
        "reduction='mean' in the support loss (or divide α by the number of support examples)",
        "jnp.mean, not jnp.sum, in the support loss (or divide α by the number of support examples)",
        ({"rate": "times examples"}, {"rate": "times elements"}), "cbfinn/maml #70",
    ),
    Mistake(
        "alpha_over_n", "α → α / N, N the support examples",
        "the support loss is a mean already, and was divided by the number of examples again: α is too small by it",
        "do not divide a loss with reduction='mean' by len(xs)",
        "do not divide a jnp.mean by len(xs)",
        ({"rate": "over examples"},), "cbfinn/maml #70",
    ),
    Mistake(
        "mean_divided_again", "α → α / N, G → G / N_q",
        "both losses are means already, and were divided by the number of examples again",
        "do not divide a loss with reduction='mean' by len(x)",
        "do not divide a jnp.mean by len(x)",
        ({"rate": "over examples", "loss": "query over examples"},), "learn2learn #190",
    ),
    Mistake(
        "one_rate_for_all", "α = α of the first parameter",
        "the case has an α for each parameter, and the first one's was used for all",
        "fast[n] = p - inner_lr[n] * g[n]",
        "jax.tree.map(lambda p, a, g: p - a * g, params, inner_lr, grads)",
        ({"rate": "first parameter's"},), special=True,
    ),
    Mistake(
        "head_only", "only the last layer adapts",
        "only the last layer (the head) is adapted in the inner loop, and the case adapts all parameters",
        "take the inner gradient with respect to all parameters, and update all of them",
        "map the inner update over the whole tree of parameters",
        ({"adapts": "head"}, {"adapts": "head", "factors": "detached"}),
    ),
    Mistake(
        "biases_not_adapted", "biases keep their values in the inner loop",
        "the biases are left out of the inner update",
        "update every parameter, the biases too, not only those named 'weight'",
        "map the inner update over the whole tree of parameters, biases included",
        ({"adapts": "no biases"}, {"adapts": "no biases", "factors": "detached"}),
    ),
    Mistake(
        "all_adapted", "all parameters adapt",
        "the case adapts some parameters only, and all were adapted",
        "update the parameters named in case.adapt only",
        "update the parameters named in case.adapt only",
        ({"adapts": "all"},), special=True,
    ),
    # ── the data ────────────────────────────────────────────────────────────────────────────────────────────────────
    Mistake(
        "query_is_support", "∏(I − αHₖ) g_s(θ_K)",
        "the outer loss is computed on the support set: the query set is never used",
        "loss(fast, xq, yq) after the inner loop",
        "loss(adapted, xq, yq) after the inner loop",
        ({"data": "query is support"}, {"data": "query is support", "factors": "detached"}), "notebooks",
    ),
    Mistake(
        "support_is_query", "the query set adapts and is judged",
        "the inner loop adapts on the query set: the support set is never used",
        "loss(fast, xs, ys) in the inner loop",
        "loss(fast, xs, ys) in the inner loop",
        ({"data": "support is query"}, {"data": "support is query", "factors": "detached"}),
    ),
    Mistake(
        "swapped_support_query", "support and query exchanged",
        "support and query have changed places",
        "adapt on (xs, ys), judge on (xq, yq)",
        "adapt on (xs, ys), judge on (xq, yq)",
        ({"data": "swapped"}, {"data": "swapped", "factors": "detached"}),
    ),
    Mistake(
        "labels_sorted", "labels in order, examples not",
        "the labels of each task were sorted, the examples were not",
        "labels and examples must be permuted together",
        "labels and examples must be permuted together",
        ({"data": "labels sorted"},), "MAML-Pytorch PR 8",
    ),
    Mistake(
        "joint_training", "g_s(θ) + g_q(θ)",
        "there is no inner loop: this is joint training on support and query",
        "adapt first, on the support set; then the query loss of the adapted weights, differentiated with respect to θ",
        "value_and_grad of a function that adapts, then returns the query loss",
        ({"data": "joint"},), "tutorials",
    ),
    # ── the sum over tasks ──────────────────────────────────────────────────────────────────────────────────────────
    Mistake(
        "sum_over_tasks", "T·G",
        "the meta-gradient is a sum over tasks, not their mean: T times too large (Adam hides it, SGD does not)",
        "(sum(losses) / len(losses)).backward(); or divide each task's loss by the number of tasks before backward()",
        "jnp.mean over the vmapped losses, not jnp.sum",
        ({"outer": "sum"},), "learn2learn #232, higher #7 #60 #92",
    ),
    Mistake(
        "last_task_only", "G_T",
        "only the last task counts: the loss was overwritten in the loop over tasks",
        "append each task's query loss to a list and average; do not assign it to one name",
        "average over tasks; the loop keeps only the last loss",
        ({"outer": "last"}, {"outer": "last", "factors": "detached"}),
    ),
    Mistake(
        "last_task_over_T", "G_T / T",
        "the other tasks' losses are numbers (.item(), .detach()) when they are summed: one task's gradient, divided "
        "by T",
        "sum tensors, not loss.item()",
        "sum the traced losses, not float(loss)",
        ({"outer": "last over T"}, {"outer": "last over T", "factors": "detached"}), "learn2learn #388",
    ),
    Mistake(
        "first_task_only", "G_1",
        "only the first task counts, or θ was restored from a copy after it, so that the others have no path to θ",
        "loop over all tasks; look for a return or break inside the loop, or xs[0]",
        "vmap over all tasks; look for xs[0]",
        ({"outer": "first"}, {"outer": "first over T"}, {"outer": "first", "factors": "detached"}),
    ),
    Mistake(
        "sequential_tasks", "each task's G at the θ that the tasks before have moved",
        "the outer update is made after each task: T outer steps one after another",
        "optimizer.step() after the loop over tasks, not in it",
        "apply the mean of the gradients once, after all tasks",
        ({"outer": "sequential"}, {"outer": "sequential", "factors": "detached"}), "tensorflow-maml #6",
    ),
    Mistake(
        "task_leak", "task t starts from θ_K of task t − 1",
        "a task starts from the weights adapted to the task before it",
        "fast = dict(params) at the start of every task (or a fresh monkeypatch / clone)",
        "start every task's inner loop from params, not from the carry of the task before",
        ({"start": "leaked"}, {"start": "leaked, detached"}), "MUPS-EEG #2",
    ),
    Mistake(
        "inplace_update", "g_q(θ_K), and the next task starts from θ_K",
        "the inner update changed θ in place (.data -=, p.sub_(), optimizer.step()): no graph is left, and θ has moved",
        "make new tensors: fast = {n: p - lr * g}; never write to p.data, and no torch.optim in the inner loop",
        "keep θ; arrays written to in place (NumPy) are the same arrays that the next task starts from",
        ({"start": "leaked, detached", "factors": "detached"},), "tutorials",
    ),
    Mistake(
        "same_parameters", "θ moves by αg_s, then by βg_q, task after task",
        "both loops update the same parameters, and θ is never restored: (θ before − θ after) / β, per task",
        "adapt a set of fast weights; θ itself moves in the outer step only",
        "adapt a copy carried by the inner loop; θ itself moves in the outer step only",
        ({"outer": "moved", "factors": "detached"}, {"outer": "moved"}), "tutorials",
    ),
    # ── what becomes of the gradient ────────────────────────────────────────────────────────────────────────────────
    Mistake(
        "gradients_accumulated", "g_q(θ_K) + Σₖ g_s(θₖ)",
        "the inner gradients are still in .grad when the query's are added: nothing zeroed them",
        "torch.autograd.grad for the inner gradients instead of loss.backward(); optimizer.zero_grad() before the "
        "outer backward()",
        "return the gradient of the query loss alone",
        (
            {"result": "accumulated", "factors": "detached"}, {"result": "accumulated"},
            {"result": "last accumulated", "factors": "detached"},
            {"inner": "running sum", "result": "accumulated", "factors": "detached"},
            {"result": "accumulated with graph"},
            {"result": "accumulated over T", "factors": "detached"}, {"result": "accumulated over T"},
        ),
    ),
    Mistake(
        "gradients_not_zeroed", "a running sum over calls",
        "gradients add up from one outer step to the next: the second call gives the first one's gradient on top",
        "optimizer.zero_grad() before every outer backward(), or torch.autograd.grad",
        "start every outer step's sum from zeros",
        (),
    ),
    Mistake(
        "multi_step_loss", "1/K Σₖ the gradient of L_q(θₖ)",
        "the query loss is averaged over all inner steps (MAML++'s multi-step loss), not that of θ_K",
        "the query loss of the last fast weights only",
        "the query loss of the last parameters only",
        ({"query": "every step"}, {"query": "every step", "factors": "detached"}, {"query": "every step and before"}),
        "HowToTrainYourMAMLPytorch",
    ),
    Mistake(
        "reptile", "θ − θ_K",
        "this is Reptile's direction, the displacement of the inner loop: the query set has no part in it",
        "MAML differentiates the query loss; Reptile only subtracts weights",
        "MAML differentiates the query loss; Reptile only subtracts weights",
        ({"result": "displacement"},), "reptile-pytorch #3 #8",
    ),
    Mistake(
        "doubled_gradient", "2 G",
        "the meta-gradient is doubled: backward() ran twice, or a loss was added twice",
        "one backward() an outer step, after zero_grad()",
        "look for a loss that is added twice, or for a missing ½",
        ({"result": "doubled"},),
    ),
    Mistake(
        "negated_gradient", "−G",
        "the sign of the meta-gradient is wrong",
        "return the gradient of the loss, not of its negative, nor the update −βG",
        "return the gradient of the loss, not of its negative, nor the update −βG",
        ({"result": "negative"},),
    ),
    Mistake(
        "times_inner_rate", "α G",
        "the meta-gradient is multiplied by α",
        "the outer gradient has no factor inner_lr",
        "the outer gradient has no factor inner_lr",
        ({"result": "times inner rate"},),
    ),
    Mistake(
        "query_mean_divided_again", "G / N_q",
        "the query loss is a mean already, and was divided by the number of query examples again",
        "do not divide a loss with reduction='mean' by len(xq)",
        "do not divide a jnp.mean by len(xq)",
        ({"loss": "query over examples"},), "learn2learn #190",
    ),
    Mistake(
        "clipped_gradient", "G · min(1, c/|G|)",
        "the gradient is clipped to a norm: clipping belongs to the outer optimiser, after the meta-gradient",
        "call clip_grad_norm_ after the meta-gradient was read, or not at all",
        "optax.clip_by_global_norm belongs to the outer optimiser",
        ({"clip": 1.0}, {"clip": 1.0, "clip_like": "torch"}, {"clip": 1.0, "factors": "detached"},
         {"clip": 1.0, "clip_like": "torch", "factors": "detached"}),
        free=Free("clip", "c", (1.0, 0.5, 10.0, 0.1, 5.0, 0.25)),
    ),
    Mistake(
        "last_parameter_missing", "0 for the last parameter",
        "the last parameter's gradient is missing (None was turned into 0)",
        "do not replace None by zeros (allow_unused=True hides a cut graph)",
        "look for a parameter that is closed over instead of passed in",
        ({"result": "last parameter zero"},),
    ),
    Mistake(
        "bias_gradients_missing", "0 for the biases",
        "the biases' meta-gradients are missing (None was turned into 0)",
        "do not replace None by zeros; the outer gradient is with respect to all parameters",
        "the outer gradient is with respect to all parameters",
        ({"result": "biases zero"},),
    ),
    Mistake(
        "tied_weight_once", "only the last use of a shared weight counts",
        "a weight used twice gets the gradient of one use only",
        "shared parameters must be the same tensor, and their gradients are added",
        "shared parameters must be one leaf of the tree",
        ({"how": {"last_use_only": True}},),
    ),
    # ── conventions ─────────────────────────────────────────────────────────────────────────────────────────────────
    Mistake(
        "half_squared_error", "mse → ½ mse",
        "both losses are half the squared error (so that α and G are both half of what the case asks)",
        "((o - y) ** 2).mean(), without ½",
        "jnp.mean((o - y) ** 2), without ½",
        ({"how": {"unit": 0.5}},), kind="convention",
    ),
    Mistake(
        "relu_slope_one_at_zero", "ReLU′(0) = 1",
        "ReLU's slope at 0 is 1 (x ≥ 0), the case has 0, as PyTorch, JAX and TensorFlow",
        "torch.relu, or x * (x > 0)",
        "jax.nn.relu, or x * (x > 0)",
        ({"how": {"relu_at_zero": 1.0}},), kind="convention",
    ),
    Mistake(
        "relu_slope_half_at_zero", "ReLU′(0) = ½",
        "ReLU's slope at 0 is ½ (maximum(x, 0) shares a tie), the case has 0",
        "torch.relu instead of torch.maximum(x, zero)",
        "jax.nn.relu instead of jnp.maximum(x, 0)",
        ({"how": {"relu_at_zero": 0.5}},), kind="convention",
    ),
    Mistake(
        "pool_tie_last", "the last of a tie in max pooling takes the gradient",
        "a tie in max pooling goes to its last element, the case gives it to the first",
        "torch.nn.functional.max_pool2d",
        "jax.lax.reduce_window with lax.max",
        ({"how": {"ties": "last"}},), kind="convention",
    ),
    Mistake(
        "pool_tie_split", "a tie in max pooling is shared",
        "a tie in max pooling is shared equally (amax over windows), the case gives it to the first",
        "torch.nn.functional.max_pool2d instead of amax over windows",
        "jax.lax.reduce_window with lax.max instead of max over windows",
        ({"how": {"ties": "split"}},), kind="convention",
    ),
    Mistake(
        "unbiased_variance", "batch norm divides by n − 1",
        "batch norm's variance is the unbiased one; training-mode batch norm divides by n",
        "x.var(dim, unbiased=False)",
        "jnp.var(x, axis) with ddof=0",
        ({"how": {"unbiased": True}},), kind="convention",
    ),
    Mistake(
        "running_statistics", "batch norm with mean 0, variance 1",
        "batch norm uses a fresh network's running statistics (evaluation mode), the case those of the batch at hand",
        "model.train() during adaptation and query, or BatchNorm2d(track_running_stats=False)",
        "use_running_average=False",
        ({"how": {"running_statistics": True}},), "cbfinn/maml #9, MAML++ #3 #24", kind="convention",
    ),
]  # fmt: skip

OF_MAML: dict[str, Mistake] = {m.id: m for m in _CLASSIC + FURTHER}
CATALOGUE: dict[str, Mistake] = OF_MAML | family.MISTAKES

# Mistakes that leave the meta-gradient of given tasks right, so that no check of it can see them.
OUT_OF_SIGHT = {
    "the same class twice in a task; support examples in the query": "the sampler's: look at the tasks",
    "train and test split drawn anew at test": "the data's: compare the names on both sides",
    "test steps ≠ train steps with per-step rates": "the case's inner_lr is the same for all steps",
    "DiCE and other surrogates of policy gradients": "their gradients are expectations, and none is in these cases",
    "weight decay, clipping or momentum of the outer optimiser": "it comes after the meta-gradient",
    "α, θ or data rounded to a type that holds the cases' numbers": "only numbers that the type lacks can show it",
    "back-propagation cut after more steps than any case has": "the longest case bounds what can be seen",
}


def flat(grads: dict) -> np.ndarray:
    """All of a gradient's numbers in one vector, parameter after parameter."""
    return np.concatenate([np.ravel(g) for g in grads.values()])


def list_bugs() -> str:
    """The catalogue as a table for a person."""
    lines = []
    for m in CATALOGUE.values():
        lines += [f"{m.id}  ({m.kind})", f"    computes   {m.computes}", f"    cause      {m.explanation}",
                  f"    PyTorch    {m.torch}", f"    JAX        {m.jax}"]  # fmt: skip
        lines += [f"    seen in    {m.seen}"] if m.seen else []
    count = {kind: sum(m.kind == kind for m in CATALOGUE.values()) for kind in KINDS}
    lines += ["", f"{count['bug']} bugs, {count['convention']} conventions, {count['precision']} losses of digits. "
              "Out of a gradient's sight:"]  # fmt: skip
    lines += [f"    {what}: {why}" for what, why in OUT_OF_SIGHT.items()]
    return "\n".join(lines)
