"""Mistakes in the tasks and in their data."""

from __future__ import annotations

from ..mistake import Free, Mistake
from .forms import DETACHED, both_ways, further, how, normalising, with_epsilon

MISTAKES: list[Mistake] = [
    # ── the tasks ───────────────────────────────────────────────────────────────────────────────────────────────────
    further(
        "shared_adaptation", "θ_K of all tasks' support sets together",
        "all tasks adapt to the same support set: to all sets together, to the first task's (a function that is traced "
        "once) or to the last task's (a closure that is bound late); or all have the last query set",
        "the inner loop stands inside the loop over tasks: fast = adapt(params, xs[t], ys[t])",
        "vmap over tasks a function that adapts and judges, with the task's data as arguments; the mean comes after it",
        both_ways({"data": "one support set for all"}, {"data": "mean of the support losses"},
                   {"data": "first support set for all"}) + (
            {"data": "last support set for all"}, {"data": "last query set for all"}),
        shows="data",
    ),
    further(
        "queries_of_all_tasks", "1/T² Σₜ Σᵤ L_q of task u at θ_K of task t",
        "each task's adapted parameters are judged on the query sets of all tasks",
        "loss(fast, xq[t], yq[t]): fast weights and query set of one task",
        "vmap over the tasks' query sets together with their support sets (in_axes=0), not inside of it or with None",
        both_ways({"data": "all query sets for each"}, {"data": "mean of all query losses for each"}),
    ),
    further(
        "adapted_weights_averaged", "θ̄_K = 1/T Σₜ θ_K, judged on every query set",
        "the adapted parameters are averaged over the tasks before the query loss",
        "each query loss takes its own task's fast weights; average the losses, not the weights",
        "each query loss takes its own task's adapted parameters; average the losses, not the parameters",
        both_ways({"ends": "averaged"}),
    ),
    further(
        "query_of_next_task", "task t is judged on the query set of task t + 1",
        "support and query sets are paired wrongly: each task is judged on the query set of the next",
        "the same index for xs, ys, xq and yq; no roll, no second shuffle",
        "the same index for xs, ys, xq and yq; no jnp.roll, no second permutation",
        both_ways({"data": "query of the next task"}, {"data": "query of the task before"}),
    ),
    further(
        "query_labels_of_next_task", "xq of task t with yq of task t + 1",
        "query inputs are judged by the labels or targets of the next task",
        "the same index for xq and yq",
        "the same index for xq and yq",
        both_ways({"data": "query labels of the next task"}),
    ),
    further(
        "inputs_rolled", "xᵢ₊₁ or xᵢ₋₁ with yᵢ in the support set",
        "the support inputs stand one place on against their labels or targets",
        "the same order for xs and ys; no torch.roll or shuffle of one of them",
        "the same order for xs and ys; no jnp.roll or permutation of one of them",
        both_ways({"data": "support inputs rolled by 1"}, {"data": "support inputs rolled by -1"})
        + tuple({"data": f"{of} inputs rolled by {by}"} for of in ("query", "support and query") for by in (1, -1)),
    ),
    further(
        "sorted_apart", "x or y in sorted order, the other as it was",
        "inputs or targets are sorted (by their first column, or each column by itself), and what belongs to them is "
        "not: inputs are paired with the targets of other examples",
        "the same order for x and y: y[x[:, 0].argsort()] goes with x[x[:, 0].argsort()]",
        "the same order for x and y: y[jnp.argsort(x[:, 0])] goes with x[jnp.argsort(x[:, 0])]",
        tuple({"data": f"{arrays} sorted{each}{where}"} for arrays in ("inputs", "targets")
              for each in ("", ", each column") for where in ("", ", in support", ", in query")),
        shows="data",
    ),
    further(
        "examples_adapt_alone", "L_q at a θ_K for each support example",
        "each support example has an inner loop of its own (a vmap over examples in the place of one over tasks), and "
        "the query losses are averaged; or each pair of a support and a query example is a task",
        "the inner loop takes the whole support set: loss(fast, xs, ys)",
        "vmap over tasks alone: no second vmap over the examples around the inner loop",
        both_ways({"data": "a task for each support example"}, {"data": "a task for each pair of examples"}),
    ),
    further(
        "truncated_to_integers", "x or y → an integer",
        "inputs or targets have lost what stands behind their point: they were cast to an integer type",
        "torch.tensor(y, dtype=torch.float64): no .long(), no .int()",
        "jnp.asarray(y, jnp.float64): no .astype(int)",
        tuple({"data": f"{arrays} {change}{where}"} for arrays in ("targets", "inputs")
              for change in ("truncated", "rounded to integers") for where in ("", ", in support", ", in query")),
        shows="data",
    ),
    further(
        "inputs_scaled", "x → c x",
        "inputs are multiplied by a number, as images by 1/255",
        "x as it is given",
        "x as it is given",
        ({"inputs_times": 1 / 255},), free=Free("inputs_times", "c", (1 / 255, 0.5, 2.0, 255.0, 0.1, 10.0)),
    ),
    further(
        "targets_scaled", "y → c y",
        "targets are multiplied by a number",
        "y as it is given",
        "y as it is given",
        ({"targets_times": 0.1},), free=Free("targets_times", "c", (0.1, 10.0, 0.5, 2.0, 0.01, 100.0)),
    ),
    further(
        "order_reversed", "xᵢ with y_{N+1−i}",
        "inputs stand in reverse order against their labels or targets",
        "the same order for x and y; no flip or [::-1] of one of them",
        "the same order for x and y; no jnp.flip or [::-1] of one of them",
        ({"data": "inputs in reverse order, in support"}, {"data": "inputs in reverse order, in query"},
         {"data": "inputs in reverse order"}),
        shows="data",
    ),
    further(
        "query_in_inner_loop", "the inner loop descends ½ (L_s + L_q), or the loss of both sets",
        "the query set is in the inner loop too: the support set alone should be learned from",
        "the inner loop takes xs and ys alone; no torch.cat((xs, xq))",
        "the inner loop takes xs and ys alone; no jnp.concatenate((xs, xq))",
        both_ways({"data": "query set in the inner loop too"}, {"data": "query loss in the inner loop too"}),
        shows="data",
    ),
    further(
        "every_other_example", "x[::2], y[::2]",
        "only every other example is used",
        "all examples: x, not x[::2]",
        "all examples: x, not x[::2]",
        ({"data": "every other support example"}, {"data": "every other query example"}),
        shows="data",
    ),
    further(
        "half_of_the_examples", "the first or second ⌊N/2⌋ examples",
        "only one half of a set's examples is used",
        "all examples: no second split of the support or query set",
        "all examples: no second split of the support or query set",
        tuple({"data": f"{half} half of the {of} set"} for of in ("support", "query") for half in ("first", "second")),
        shows="data",
    ),
    further(
        "support_examples_skipped", "all support examples but the first n",
        "the first support examples are not used",
        "the whole of xs and ys in the support loss: not xs[n:]",
        "the whole of xs and ys in the support loss: not xs[n:]",
        ({"support_skipped": 1},), free=Free("support_skipped", "n", (1, 2, 3, 5), integer=True),
    ),
    further(
        "query_examples_skipped", "all query examples but the first n",
        "the first query examples are not used",
        "the whole of xq and yq in the query loss: not xq[n:]",
        "the whole of xq and yq in the query loss: not xq[n:]",
        ({"query_skipped": 1},), free=Free("query_skipped", "n", (1, 2, 3, 5), integer=True),
    ),
    further(
        "data_of_first_task", "x or y of task t is that of task 1",
        "some of the data are those of the first task, in all tasks: labels, inputs or the query set",
        "the same index t for xs, ys, xq and yq",
        "in_axes=0 for all of xs, ys, xq and yq; None gives every task the same",
        both_ways(*({"data": what} for what in (
            "support labels of the first task", "query labels of the first task", "support inputs of the first task",
            "query inputs of the first task", "query set of the first task"))),
        shows="data",
    ),
    further(
        "data_of_other_task", "x or y of task t is that of the last task, or of the next",
        "inputs or labels are those of the last task in all tasks, or those of the next task: they do not belong to "
        "the other part of their set",
        "the same index t for xs, ys, xq and yq: closures that are made in a loop see its last ones",
        "the same index t for xs, ys, xq and yq",
        tuple({"data": f"{of} {what} of the {which} task"} for of in ("support", "query")
              for what in ("labels", "inputs") for which in ("last", "next")
              if (of, what, which) != ("query", "labels", "next")),
        shows="data",
    ),
    further(
        "support_examples_dropped", "the first n support examples (−n: all but the last n)",
        "some support examples are not used",
        "the whole of xs and ys in the support loss; drop_last=False in a DataLoader",
        "the whole of xs and ys in the support loss",
        both_ways({"support_rows": 1}), free=Free("support_rows", "n", (1, -1, 2, 3, 4, 5, -2), integer=True),
    ),
    further(
        "query_examples_dropped", "the first n query examples (−n: all but the last n)",
        "some query examples are not used",
        "the whole of xq and yq in the query loss; drop_last=False in a DataLoader",
        "the whole of xq and yq in the query loss",
        both_ways({"query_rows": 1}), free=Free("query_rows", "n", (1, -1, 2, 3, 4, 5, -2), integer=True),
    ),
    further(
        "support_last_batch_dropped", "the first n ⌊N/n⌋ support examples",
        "the support set comes in batches of n, and an incomplete last one is dropped",
        "the whole of xs and ys in the support loss; drop_last=False in a DataLoader",
        "the whole of xs and ys in the support loss, not len(xs) // n batches of n",
        both_ways({"support_batches": 2}), free=Free("support_batches", "n", (2, 4, 3, 5), integer=True),
    ),
    further(
        "query_last_batch_dropped", "the first n ⌊N/n⌋ query examples",
        "the query set comes in batches of n, and an incomplete last one is dropped",
        "the whole of xq and yq in the query loss; drop_last=False in a DataLoader",
        "the whole of xq and yq in the query loss, not len(xq) // n batches of n",
        both_ways({"query_batches": 2}), free=Free("query_batches", "n", (2, 4, 3, 5), integer=True),
    ),
    further(
        "query_cut_to_support", "the first N_s query examples",
        "the query set is cut to the number of support examples",
        "take xq and yq as they are; zip(xs, xq) stops at the shorter of them",
        "take xq and yq as they are, not xq[:n_support]",
        both_ways({"data": "query cut to the support's size"}),
    ),
    further(
        "support_cut_to_query", "the first N_q support examples",
        "the support set is cut to the number of query examples",
        "take xs and ys as they are; zip(xs, xq) stops at the shorter of them",
        "take xs and ys as they are, not xs[:n_query]",
        both_ways({"data": "support cut to the query's size"}),
    ),
    further(
        "minibatches_inside", "step k takes the k-th n support examples",
        "each inner step takes a mini-batch of the support set, one after another (in turn): so many examples, or one "
        "of n parts, such as its halves",
        "every inner step takes the whole support set; no DataLoader in the inner loop",
        "every step of the scan takes the whole support set",
        both_ways({"minibatch": 2}) + tuple({"minibatch": 2, "minibatch_like": how} for how in (
            "every n-th", "wrapped", "in n chunks", "in n even parts", "in n parts of N // n")),
        free=Free("minibatch", "n", (2, 1, 3, 4, 5), integer=True),
    ),
    further(
        "part_of_set_per_step", "step k takes the k-th of K parts of the support examples",
        "each inner step takes a part of the support set of its own: the set is parted into as many as there are steps",
        "every inner step takes the whole support set: no xs.chunk(inner_steps), no array_split",
        "every step of the scan takes the whole support set: no scan over parts of (xs, ys)",
        both_ways({"step_parts": "K chunks"}, {"step_parts": "K even parts"}, {"step_parts": "every K-th"}),
    ),
    further(
        "epochs_inside", "a step for each n support examples, in K passes over them, or in one",
        "each inner step is a pass over the support set in mini-batches of n, with an update after each (an epoch); or "
        "there is one such pass, whatever K is, as by a scan over examples",
        "for _ in range(case.inner_steps): one update, with the whole support set; no DataLoader in the inner loop",
        "lax.scan(step, params, None, length=inner_steps), not a scan over (xs, ys)",
        both_ways({"minibatch": 1, "minibatch_like": "an epoch per step"},
                   {"minibatch": 1, "minibatch_like": "one epoch"}),
        free=Free("minibatch", "n", (1, 2, 3, 4, 5), integer=True),
    ),
    further(
        "support_chunk_means", "the mean of the means of chunks of n support examples",
        "the support loss is a mean of chunks' means: examples of a short last chunk count more",
        "weight each chunk's mean by its length, or take one mean over all examples",
        "weight each chunk's mean by its length, or take one mean over all examples",
        ({"support_chunks": 2},), free=Free("support_chunks", "n", (2, 3, 4, 1, 5), integer=True),
    ),
    further(
        "query_chunk_means", "the mean of the means of chunks of n query examples",
        "the query loss is a mean of chunks' means: examples of a short last chunk count more",
        "weight each chunk's mean by its length, or take one mean over all examples",
        "weight each chunk's mean by its length, or take one mean over all examples",
        ({"query_chunks": 2}, {"query_chunks": 2} | DETACHED),
        free=Free("query_chunks", "n", (2, 3, 4, 1, 5), integer=True),
    ),
    further(
        "support_in_outer_loss", "½ (L_s + L_q)(θ_K)",
        "the outer loss has the support set in it as well",
        "loss(fast, xq, yq) alone after the inner loop",
        "loss(adapted, xq, yq) alone after the inner loop",
        both_ways({"data": "query loss of both sets"}, {"data": "query and support in one batch"}),
    ),
    further(
        "support_loss_added", "L_q(θ_K) + c L_s(θ_K)",
        "the support loss of the adapted parameters is added to the outer loss",
        "loss(fast, xq, yq) alone after the inner loop",
        "loss(adapted, xq, yq) alone after the inner loop",
        both_ways({"support_weight": 0.1}), free=Free("support_weight", "c", (0.1, 1.0, 0.5, 0.01, -1.0)),
    ),
    further(
        "support_loss_before_added", "L_q(θ_K) + c L_s(θ)",
        "the support loss before adaptation is added to the outer loss",
        "loss(fast, xq, yq) alone after the inner loop",
        "loss(adapted, xq, yq) alone after the inner loop",
        both_ways({"support_before_weight": 0.1}),
        free=Free("support_before_weight", "c", (0.1, 1.0, 0.5, 0.01, -1.0)),
    ),
    further(
        "query_loss_before_added", "L_q(θ_K) + c L_q(θ)",
        "the query loss before adaptation is added to the outer loss (or, with c = −1, subtracted: the improvement)",
        "loss(fast, xq, yq) alone after the inner loop",
        "loss(adapted, xq, yq) alone after the inner loop",
        both_ways({"query_before_weight": -1.0}),
        free=Free("query_before_weight", "c", (-1.0, 1.0, 0.1, 0.5, 0.01)),
    ),
    further(
        "multi_step_weights", "Σₖ γ^{K−k} L_q(θₖ), k = 1 … K, or over the sum of the weights",
        "the outer loss is a weighted sum of the query losses after every step, as in MAML++",
        "the query loss of the fast weights after the last step only",
        "the query loss of the carry after the scan only",
        both_ways({"query_decay": 0.5}, {"query_decay": 0.5, "weights_like": "from 1"}),
        free=Free("query_decay", "γ", (0.5, 0.9, 0.99, 0.1, 0.25)),
    ),
    # ── the data ────────────────────────────────────────────────────────────────────────────────────────────────────
    further(
        "labels_renumbered", "labels 0, 1, … for the classes that each set has",
        "labels are numbered anew in each set: where one lacks a class, support and query disagree",
        "one mapping for both sets; no torch.unique(y, return_inverse=True) per set",
        "one mapping for both sets; no jnp.unique(y, return_inverse=True) per set",
        both_ways({"data": "labels renumbered"}),
    ),
    further(
        "labels_off_by_one", "y → y ± 1, modulo the classes",
        "every label is shifted by one; a label that is then no class is the first or last one, or has no target",
        "labels count from 0: no y - 1, no y + 1",
        "labels count from 0: no y - 1 (−1 is the last class), no y + 1; one_hot of a label that is no class is all 0",
        ({"data": "labels one down"}, {"data": "labels one up"}, how(loss="one-hot of y − 1"),
         how(loss="one-hot of y + 1")),
    ),
    further(
        "targets_standardised", "y → (y − ȳ)/σ, or the like",
        "targets are normalised (centred, standardised or scaled), by their own set or by the support set",
        "take y as it is given",
        "take y as it is given",
        both_ways({"data": "targets standardised"}, {"data": "targets centred"}) + normalising("targets"),
        shows="data",
    ),
    further(
        "targets_standardised_with_epsilon", "y → (y − ȳ)/(σ + ε), or /√(σ² + ε)",
        "targets are standardised",
        "take y as it is given",
        "take y as it is given",
        with_epsilon("targets"), free=Free("data_eps", "ε", (1e-5, 1e-6, 1e-12, 1e-7, 1e-3, 1e-10)),
        shows="data",
    ),
    further(
        "inputs_standardised", "x → (x − x̄)/σ, or the like",
        "inputs are normalised (centred, standardised, scaled or of length 1), by their own set or by the support set",
        "take x as it is given",
        "take x as it is given",
        both_ways({"data": "inputs standardised"}, {"data": "inputs centred"}) + normalising("inputs")
        + ({"data": "inputs of length 1"},),
        shows="data",
    ),
    further(
        "inputs_standardised_with_epsilon", "x → (x − x̄)/(σ + ε), or /√(σ² + ε)",
        "inputs are standardised",
        "take x as it is given",
        "take x as it is given",
        with_epsilon("inputs"), free=Free("data_eps", "ε", (1e-5, 1e-6, 1e-12, 1e-7, 1e-3, 1e-10)),
        shows="data",
    ),
]  # fmt: skip
