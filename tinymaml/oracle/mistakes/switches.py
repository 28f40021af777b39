"""The switches of `semantics.run`: what each can be, and which of them are numbers."""

from __future__ import annotations

from .data import DATA, PARTS_OF_STEPS
from .updates import MIXED_UP, TRANSFORMED

_GROUPS = ("biases", "head", "body", "first layer", "vectors", "matrices")
_BY_NDIM = ("one-dimensional", "two-dimensional")
OF_TASKS = ("the first task", "the last task", "the next task", "the task before", "all tasks")  # of these, the mean

SHORTENED = ("task gradients", "inner gradients", "fast weights", "query gradients", "products", "points of Hessians",
             "what comes back")  # fmt: skip
DTYPES = ("float32", "bfloat16", "float16")

# The values each switch can take, the right one first.
SWITCHES: dict[str, tuple] = {
    # what is learned from
    "data": tuple(DATA),
    "rounded": ("nothing", *(f"{what} to {dtype}" for what in ("rate", "inputs", "data", "parameters", "everything")
                             for dtype in DTYPES)),
    # what is rounded on the way, and goes on with its derivative, as by .to(dtype)
    "shortened": ("nothing", *(f"{what} to {dtype}" for what in SHORTENED for dtype in DTYPES)),
    "rate": ("right", "times examples", "times elements", "over examples", "first parameter's", "over steps",
             "over each step", "over the root of each step", "over the steps so far", "linear fall", "linear rise",
             "cosine", "over tasks",
             "of the first task's size", "of the outer loop", "over one less", "over query count", *TRANSFORMED),
    "rate_times_of": ("all", "no biases", *_GROUPS, *_BY_NDIM),
    "loss": ("right", "query over examples", "query over one less", "query over support count"),
    "on": ("both", "support", "query"),  # which losses the Options are about
    "running": ("nothing", "unbiased", "biased"),  # the query pass uses running statistics of the support passes
    "running_of": ("every pass", "the first pass"),
    "running_like": ("held", "differentiated"),
    "normalised_together": ("nothing", "both", "support", "query"),  # batch norm has the statistics of all tasks
    # the inner loop
    "steps": (0, 1, -1),
    "inner": ("right", "stale", "restarted", "from start", "summed", "ascent", "running sum", "sign", "normalised",
              "normalised, root", "over own size", "tensors normalised", "adam", "adam, biased", "adam, ε inside",
              "adam, β₁ = 0", "rmsprop", "rmsprop, ε inside", "adagrad", "centralised",
              "vectors masked", *MIXED_UP,
              "one step behind", "averaged with the one before", "0 where θ < 0", "first row held", "first column held",
              "one tensor after the other", "one tensor after the other, last first",
              "one tensor after the other, by name",
              "within the backward pass", "within the backward pass, linear layers",
              "linearised", "linearised, with one Hessian"),
    "momentum_like": ("heavy ball", "averaged", "nesterov", "dampened after the first"),
    "decay_like": ("in the gradient", "decoupled", "without α"),
    "decay_of": ("all", "no biases", *_GROUPS),  # the tensors that are decayed, have momentum, are clipped
    "momentum_of": ("all", "no biases", *_GROUPS),
    "clip_of": ("all", "no biases", *_GROUPS),
    "depth_like": ("from the head", "from the first layer"),  # where α is as the case has it
    "steps_on": ("support", "query from the second on", "query in the last", "query in every other",
                 "query in the first"),
    "accumulate_like": ("summed", "averaged"),
    "on_a_rise": ("nothing", "ends", "ends before it", "α halved until lower", "α halved from then on"),
    "gain_like": ("relative", "absolute", "of its size"),
    "cut_of": ("nothing", "no biases", *_GROUPS),  # no derivative flows through the inner updates of these tensors,
    "blind_of": ("nothing", "no biases", *_GROUPS),  # or by the part that these have in the inner gradients
    "inner_start_of": ("nothing", "no biases", *_GROUPS, "batch norm"),  # whose values are θ's, not the adapted ones,
    "query_start_of": ("nothing", "no biases", *_GROUPS, "batch norm"),  # in the inner loop's passes, or in the query's
    "some_steps_of": ("nothing", "no biases", *_GROUPS),  # what moves in some inner steps alone, and in which
    "some_steps": ("the first", "the last", "all but the first", "all but the last"),
    "leaves_of": ("nothing", "no biases", *_GROUPS, "one-dimensional"),  # new leaves after these steps
    "leaves_in": ("every step", "the last", "the first"),
    "step_parts": tuple(PARTS_OF_STEPS),
    "minibatch_like": ("in turn", "every n-th", "wrapped", "an epoch per step", "one epoch", "in n chunks",
                       "in n even parts", "in n parts of N // n"),
    "clip_like": ("exact", "torch"),
    # what the graph knows of a clip and its like; what goes back by hand may be what it is for plain steps
    "change_like": ("differentiated", "scale held", "in place", "not in the recursion"),
    "threshold_like": ("hard", "soft"),
    "adapts": ("right", "head", "no biases", "all", "biases", "first layer", "no batch norm", "vectors", "matrices",
               *_BY_NDIM, "body", "all but the first layer", "named w…"),
    "start": ("right", "leaked", "leaked, detached"),
    "start_of": ("all", "no biases", *_GROUPS, "batch norm"),  # what leaks
    "steps_in": ("every task", "the first task", "all but the first", "the last task", "a step more per task"),
    "falls_like": ("in each task", "through all tasks", "from task to task"),  # which steps γᵏ counts
    "kept": ("nothing", "moments", "moments, detached", "running statistics"),  # from one task to the next
    "ends": ("own", "averaged"),  # θ_K
    "iterates": ("last", "all", "all but the first", "all but the last",  # those whose mean is judged
                 "best on support", "best on query"),
    # the derivative through it
    "factors": (
        "right", "detached", "exact", "first detached", "last detached", "middle detached", "reversed",
        "without identity", "of rebuilt steps", "at start", "at end", "one step late", "one step early", "of query",
        "of query at end", "diagonal", "parameters detached", "updates detached", "halfway", "odd detached",
        "even detached", "one more at the end", "first twice", "last twice", "each twice", "all twice",
    ),
    # the examples that each Hessian is taken on; of other tasks, the points, too
    "hessian_on": ("support", "both sets", *(f"{what} of {which}" for which in OF_TASKS
                                             for what in ("support", "points", "support and points"))),
    "derivative_weights": ("own", "θ_K", "θ", "of the next step"),  # overwritten in the graphs of the inner gradients
    # what each Hessian is applied to
    "vector": ("what comes back", "own support gradient", "last support gradient", "query gradient at its step",
               "query gradient at start", "displacement", "ones", *MIXED_UP),
    # the last step's vector, where it is differentiated with the product: all of it, or as if θ_K were θ + a constant
    "moving_vector": ("held", "moves", "moves with θ"),
    "curvature": ("Hessian", "lower triangle", "upper triangle", "diagonal twice", "no diagonal", "block diagonal",
                  "g gᵀ", "g gᵀ per example", "identity", "positive part", "absolute", "row sums",
                  "blocks of layers", *MIXED_UP, *(f"{change}, and back" for change in MIXED_UP),
                  "one tensor after the other", "one tensor after the other, last first",
                  "one tensor after the other, by name"),
    "difference_like": ("one-sided", "central", "one-sided, over |v|", "central, over |v|", "one-sided, along α v",
                        "central, undivided", "central, undivided, over |v|", "one-sided, halved"),
    "product": ("all of it", "first order in α", "implicit, λ = 1/α", "implicit, λ = 1/(αK)", "gradient flow",
                "implicit steps", "averaged Hessians"),
    "factor_rate": ("α", "missing", "squared", "times examples", "over examples", "outside", "of the outer loop"),
    "second_order": ("every task", "first task", "last task", "every other task", "all but the first task",
                     "all but the last task", "every other task from the second on"),
    "query": ("right", "one step early", "before adaptation",
              "every step", "every step and before", "before and after"),
    # what goes back from the query loss, in the place of g_q(θ_K)
    "query_gradient": ("own", *(f"at θ_K of {which}" for which in OF_TASKS), "of the first task", "of the last task",
                       "of all tasks", *MIXED_UP,
                       "plus H_q θ_K", "plus H_q (θ_K − θ)", "plus H_q (θ_K − θ), less itself", "H_q θ_K",
                       "H_q (θ_K − θ)", "H_q times itself", "on top of the task before's"),
    "returned": ("what comes back", "sum on the way", "sum on the way but the first", "sum on the way but the last"),
    "ways": ("one per task", "those of the tasks before, too", "those of the tasks before, too, on this support set"),
    # what becomes of it
    "outer": ("mean", "sum", "last", "last over T", "first", "first over T", "sequential", "moved",
              "sequential, Adam", "weighted by examples", "median", "lower median", "worst", "each normalised",
              "log of each", "root mean square", "over T in turn", "over its number",
              "all but the first", "all but the last", "all but the first, over T", "all but the last, over T",
              "projected", "projected, summed", "where signs agree"),
    "task_chunks_like": ("over n each", "over their own number"),  # what the sum of a chunk of tasks is divided by
    "outer_momentum_like": ("from 0", "from the first"),
    "outer_times_of": ("all", "biases", "no biases", "head", "body", "first layer", "vectors", "matrices"),
    "weights_like": ("summing to 1", "from 1"),
    "support_way_like": ("summed", "averaged"),
    "result": (
        "gradient", "displacement", "accumulated", "accumulated with graph", "accumulated with graph over T",
        "last accumulated", "doubled", "negative",
        "zero", "last parameter zero", "biases zero", "head zero", "body zero", "times inner rate", "normalised",
        "accumulated over T", "sign", *MIXED_UP, "over steps", "over tasks",
        "over inner rate", "first layer zero", "no biases zero", "vectors zero", "matrices zero",
        "sum of support gradients", "mean of support gradients", "last support gradient", "first support gradient",
        "first accumulated", "first accumulated over T",
    ),
}  # fmt: skip

# Switches that are numbers; 0 or None is right. n counts; a tensor's place is counted from 1, or −1 for the last.
NUMBERS: dict[str, str] = {
    "support_rows": "the first n support examples; all but the last −n",
    "query_rows": "the first n query examples; all but the last −n",
    "support_skipped": "all support examples but the first n",
    "query_skipped": "all query examples but the first n",
    "support_chunks": "the support loss is the mean of the means of chunks of n examples",
    "query_chunks": "the query loss is the mean of the means of chunks of n examples",
    "support_batches": "the support examples that whole batches of n hold",
    "query_batches": "the query examples that whole batches of n hold",
    "minibatch": "each inner step takes the next n support examples",
    "inputs_times": "inputs are multiplied by this number",
    "targets_times": "targets are multiplied by this number",
    "data_eps": "ε beside the standard deviation of standardised data (None: 1e-8)",
    "step_count": "n inner steps, whatever the case asks",
    "step_limit": "at most n inner steps",
    "stop_below_norm": "the inner loop ends where its gradient is shorter than this number",
    "stop_below_loss": "the inner loop ends where its loss is below this number",
    "rate_decimals": "α is rounded to n decimals",
    "rate_is": "α is this number, whatever the case asks",
    "rate_times": "α times this number",
    "rate_falls": "α times γᵏ in step k",
    "rate_first": "α times this number in the first step",
    "rate_last": "α times this number in the last step",
    "rate_depth": "α times cⁿ, n the number of layers to the one from which depth is counted",
    "accumulate": "the inner loop updates once every n steps, by the gradients since",
    "stop_gain": "the inner loop ends where a step has not lowered the loss by this number, or this share of it",
    "inner_start_tensor": "inner gradients are taken at θ's value of the tensor in this place",
    "query_start_tensor": "the query loss takes θ's value of the tensor in this place",
    "frozen_tensor": "the tensor in this place does not adapt",
    "only_tensor": "only the tensor in this place adapts",
    "momentum": "μ of momentum in the inner loop",
    "decay": "λ of weight decay in the inner loop",
    "proximal": "λ of λ (θₖ − θ₀), added to each inner gradient",
    "clip_inner": "inner gradients are clipped to this norm",
    "clip_inner_tensor": "each tensor's inner gradient is clipped to this norm",
    "clip_inner_value": "inner gradients are clamped to ± this number",
    "inner_threshold": "inner gradients whose size is below this number are 0",
    "iterate_decay": "μ of θ̄ ← μ θ̄ + (1 − μ) θₖ, which is judged in the place of θ_K",
    "judged_share": "c of θ + c (θ_K − θ), which is judged in the place of θ_K",
    "fast_clamp": "fast weights are clamped to ± this number after each step",
    "adam_first": "β₁ of Adam in the inner loop (None: 0.9)",
    "adam_second": "β₂ of Adam in the inner loop (None: 0.999)",
    "square_decay": "the decay of RMSprop's mean of squares in the inner loop (None: 0.99)",
    "adaptive_eps": "ε of Adam and its like in the inner loop (None: 1e-8)",
    "running_momentum": "how much a batch counts in running statistics (None: 0.1)",
    "through_last": "only the last n steps have a factor",
    "through_first": "only the first n steps have a factor",
    "through_from": "the first n steps have no factor",
    "hessian_rows": "each Hessian is that of the first n support examples; of all but the last −n",
    "back_times": "what comes back is multiplied by this number before each step's factor",
    "back_clip": "what comes back is clipped to this norm before each step's factor",
    "back_clamp": "what comes back is clamped to ± this number before each step's factor",
    "difference": "h of differences of gradients, in the place of the product with the Hessian",
    "cut_tensor": "no derivative flows through the inner update of the tensor in this place",
    "through_tensor": "a derivative flows only through the inner update of the tensor in this place",
    "skip_below": "a product α H v that is shorter than this share of v is left out",
    "rank": "only the n largest eigenvalues of H, by size; all but the smallest −n",
    "second_order_share": "c of c · (the exact gradient) + (1 − c) · (the first-order one)",
    "support_weight": "c of L_q + c L_s(θ_K)",
    "support_before_weight": "c of L_q + c L_s(θ)",
    "query_before_weight": "c of L_q + c L_q(θ)",
    "support_way_weight": "c of L_q + c Σₖ L_s(θₖ), k < K, or the mean",
    "outer_proximal": "λ of L_q + ½ λ |θ_K − θ|²",
    "query_decay": "the query losses of all steps, weighted by γ^(K − k)",
    "implicit": "λ of (I + H/λ)⁻¹ in place of the product",
    "damping": "λ added to H",
    "hessian_times": "H times this number",
    "task_chunks": "G is the mean over chunks of n tasks, of which the last has what is left",
    "task_count": "only the first n tasks count",
    "tilt": "τ of (1/τ) log mean exp(τ Lₜ), in the place of the mean over tasks",
    "clip_task": "each task's gradient is clipped to this norm",
    "outer_times": "G times this number",
    "zero_tensor": "G is 0 in the tensor in this place",
    "only_result_tensor": "G is 0 but in the tensor in this place",
    "outer_rate": "β of the steps between tasks",
    "outer_decay": "λ of λθ, added to G",
    "outer_shift": "λ of λ 1, added to G",
    "outer_sign": "λ of λ sign θ, added to G",
    "outer_momentum": "m ← μ m + (1 − μ) Gₜ over the tasks",
    "clip": "G is clipped to this norm",
    "clip_tensor": "each tensor of G is clipped to this norm",
    "clamp": "G is clamped to ± this number",
}

# The numbers that are integers.
COUNTS = (
    "support_rows", "query_rows", "support_batches", "query_batches", "support_chunks", "query_chunks",
    "support_skipped", "query_skipped", "rate_decimals", "minibatch", "step_count", "step_limit", "frozen_tensor",
    "only_tensor", "through_last", "through_first", "cut_tensor", "through_tensor", "rank", "zero_tensor",
    "only_result_tensor", "accumulate", "inner_start_tensor", "query_start_tensor", "through_from", "hessian_rows",
    "task_chunks",
)  # fmt: skip

# Switches that are about what follows the tasks' gradients, so that these are the same for every value.
AFTER_THE_TASKS = {
    "second_order", "task_count", "task_chunks", "task_chunks_like", "tilt", "outer", "outer_momentum_like",
    "outer_times", "outer_times_of", "outer_rate", "outer_decay", "outer_shift", "outer_sign", "outer_momentum",
    "result", "clip_task", "clip", "clip_tensor", "clamp", "zero_tensor", "only_result_tensor",
}  # fmt: skip

# The `Options` that are numbers.
NUMERIC_OPTIONS = (
    "unit", "loss_times", "smoothing", "temperature", "log_epsilon", "delta", "clamped", "focus", "entropy", "positive",
    "penalty", "layer_decay", "leak", "sharpness", "eps", "relu_at_zero",
)  # fmt: skip
