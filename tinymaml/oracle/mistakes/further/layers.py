"""Mistakes in the layers."""

from __future__ import annotations

from ..mistake import Free, Mistake
from .forms import DETACHED, backwards, both_ways, forwards, further, how, on_each

MISTAKES: list[Mistake] = [
    # ── batch norm ──────────────────────────────────────────────────────────────────────────────────────────────────
    further(
        "running_statistics_for_query", "batch norm's statistics of the query pass: r ← (1 − m) r + m · the support's",
        "the support passes update batch norm's running statistics, and the query pass uses them (evaluation mode)",
        "model.train() for the query pass too, or BatchNorm2d(track_running_stats=False)",
        "use_running_average=False for the query pass too",
        both_ways({"running": "unbiased", "running_momentum": 0.1}, {"running": "biased", "running_momentum": 0.1})
        + tuple({"running": which, "running_momentum": 0.1, "running_like": "differentiated"}
                for which in ("biased", "unbiased")),
        "cbfinn/maml #9, MAML++ #3 #24", free=Free("running_momentum", "m", (0.1, 0.5, 0.9, 0.01, 1.0)),
    ),
    further(
        "running_statistics_leak", "the same, and r goes on into the next task",
        "the query pass uses running statistics, and a task starts with those that the task before has left",
        "batch statistics in every pass; where running ones are wanted, reset_running_stats() for every task",
        "batch statistics in every pass; where running ones are wanted, fresh batch_stats for every task",
        tuple({"running": which, "running_momentum": 0.1, "kept": "running statistics"} | cut
              for which in ("unbiased", "biased") for cut in ({}, DETACHED)),
        "MAML++ #42, reptile #12", free=Free("running_momentum", "m", (0.1, 0.5, 0.9, 0.01, 1.0)),
    ),
    further(
        "support_statistics_for_query", "batch norm's statistics of the query pass: the support set's, at θ_K",
        "the query set is normalised by the statistics of the support set",
        "normalise each batch by its own statistics",
        "normalise each batch by its own statistics",
        both_ways({"data": "statistics of the support set"})
        + tuple({"data": "statistics of the support set", "on": "query"} | how(**more)
                for more in ({"norm": "statistics held"}, {"unbiased": True})),
    ),
    further(
        "last_statistics_for_query", "batch norm's statistics of the query pass: those of the last inner step",
        "the query set is normalised by the statistics that the last inner step has left on the support set, as "
        "constants or with their derivative",
        "normalise each batch by its own statistics: no model.eval(), no statistics that are kept",
        "normalise each batch by its own statistics: no use_running_average=True, no batch_stats that are kept",
        tuple({"running": which, "running_momentum": 1.0} | more for which in ("biased", "unbiased")
              for more in ({}, DETACHED, how(norm="statistics held"), {"running_like": "differentiated"},
                           {"running_like": "differentiated"} | DETACHED)),
    ),
    further(
        "first_statistics_for_query", "batch norm's statistics of the query pass: those of the first inner step",
        "the query set is normalised by the statistics of the first pass over the support set, at θ, as constants or "
        "with their derivative",
        "normalise each batch by its own statistics: no statistics that are kept from a first pass",
        "normalise each batch by its own statistics: no batch_stats that are kept from a first pass",
        tuple({"running": which, "running_momentum": 1.0, "running_of": "the first pass"} | more
              for more in ({}, {"running_like": "differentiated"}) for which in ("biased", "unbiased")),
    ),
    further(
        "query_statistics_for_support", "batch norm's statistics of the inner passes: the query set's",
        "the support set is normalised by the statistics of the query set",
        "normalise each batch by its own statistics",
        "normalise each batch by its own statistics",
        ({"data": "statistics of the query set"},),
    ),
    further(
        "statistics_of_all_tasks", "batch norm's statistics of all tasks together",
        "batch norm is synchronised: its mean and variance are averaged over the tasks, in the inner loop, in the "
        "query pass or in both",
        "statistics of each task's own batch: no nn.SyncBatchNorm, no all_reduce over tasks",
        "statistics of each task's own batch: no lax.pmean over the axis of the tasks, no axis_name in BatchNorm",
        both_ways(*({"normalised_together": which} for which in ("both", "support", "query"))),
        shows="normalised_together",
    ),
    further(
        "one_forward_for_both", "batch norm's statistics of support and query together",
        "support and query go through the network in one batch, so that they share batch norm's statistics",
        "one forward pass for the support set and another for the query set; no torch.cat((xs, xq))",
        "one forward pass for the support set and another for the query set; no jnp.concatenate((xs, xq))",
        both_ways({"data": "one forward for both sets"}) + (
            {"data": "one forward for both sets, in support"}, {"data": "one forward for both sets, in query"}),
    ),
    further(
        "batch_norm_otherwise_once", "1/√(σ² N/(N − 1) + ε), or statistics 0 and 1, in one of the two losses",
        "batch norm has the unbiased variance, or a fresh network's running statistics, in one of the two losses: the "
        "inner or the outer one",
        "the batch's own statistics, with the biased variance, in both passes: no model.eval() between them",
        "the batch's own statistics, with ddof=0, in both passes: use_running_average=False",
        on_each(how(unbiased=True))[1:] + on_each(how(running_statistics=True))[1:],
    ),
    further(
        "batch_norm_epsilon", "1/√(σ² + ε′)",
        "batch norm's ε is another one (with the biased variance, or with the unbiased one)",
        "BatchNorm2d(eps=…) as the case has it (PyTorch's default is 1e-5)",
        "BatchNorm(epsilon=…) as the case has it (Flax's default is 1e-5)",
        (how(eps=1e-5), how(eps=1e-5, unbiased=True)), free=Free("eps", "ε", (1e-5, 1e-3, 1e-8, 1e-6, 1e-4, 1e-12)),
    ),
    further(
        "batch_norm_without_affine", "γ or β is not used",
        "batch norm's scale γ or shift β is missing",
        "BatchNorm2d(affine=True)",
        "BatchNorm(use_scale=True, use_bias=True)",
        tuple(how(affine=which) for which in ("neither", "no scale", "no shift")),
    ),
    further(
        "batch_norm_epsilon_outside", "1/(σ + ε)",
        "batch norm's ε is added to the standard deviation, outside the root, and not to the variance inside it",
        "(x - mean) / torch.sqrt(var + eps), not / (x.std(0) + eps)",
        "(x - mean) / jnp.sqrt(var + eps), not / (jnp.std(x, 0) + eps)",
        (how(norm="ε outside the root", eps=1e-5), how(norm="ε outside the root", eps=1e-5, unbiased=True)),
        free=Free("eps", "ε", (1e-5, 2.0**-10, 1e-8, 1e-3, 1e-6, 1e-4)),
    ),
    further(
        "batch_norm_statistics_held", "μ or σ², or both, are constants of the derivative",
        "batch norm's statistics are detached, or a backward pass by hand leaves them out: no gradient flows through "
        "the batch's mean or variance, or both",
        "no .detach() of x.mean(0) and x.var(0), and no torch.no_grad() around them",
        "no stop_gradient of the batch's mean and variance; dx = (g − mean g − x̂ mean g x̂) γ/σ",
        tuple(how(norm=which) for which in ("statistics held", "mean held", "variance held"))
        + tuple(form for which in ("statistics held", "mean held", "variance held")
                for form in (forwards(norm=which), *backwards(norm=which))),
        shows="norm",
    ),
    further(
        "batch_norm_backward_wrong", "dx without γ or 1/σ; dγ = Σ g x; or dγ and dβ as means",
        "a backward pass of batch norm by hand lacks γ or 1/σ in dx, or has x in the place of x̂ in dγ, or averages dγ "
        "and dβ over the examples",
        "dx = (g − mean g − x̂ mean g x̂) γ/σ, dγ = Σ g x̂, dβ = Σ g",
        "dx = (g − mean g − x̂ mean g x̂) γ/σ, dγ = Σ g x̂, dβ = Σ g",
        tuple(form for which in ("backward without γ", "backward without 1/σ", "dγ of x", "dγ and dβ averaged")
              for form in (forwards(norm=which), *backwards(norm=which))),
        shows="norm",
    ),
    further(
        "layer_norm", "statistics of each example",
        "layer norm stands in the place of batch norm: each example is normalised by itself",
        "F.batch_norm (statistics over the batch), not F.layer_norm or nn.GroupNorm(1, C)",
        "nn.BatchNorm (statistics over the batch), not nn.LayerNorm or nn.GroupNorm(1)",
        (how(norm="layer"), how(norm="layer, over channels")),
    ),
    further(
        "instance_norm", "statistics of each example and channel",
        "instance norm stands in the place of batch norm: each channel of each image is normalised by itself",
        "F.batch_norm (statistics over batch, rows and columns), not F.instance_norm",
        "statistics over the axes (0, 1, 2) of NHWC, not (1, 2)",
        (how(norm="instance"),),
    ),
    further(
        "batch_norm_per_example", "statistics of one example at a time",
        "batch norm gets one example at a time, so that its statistics are those of a single example, not of the batch",
        "loss(params, xs, ys) with the whole batch, not torch.vmap over its examples",
        "loss(params, xs, ys) with the whole batch, not jax.vmap over its examples",
        (how(norm="each example"), how(norm="each example") | {"on": "support"}),
    ),
    further(
        "batch_norm_per_pixel", "statistics over the examples alone",
        "batch norm's statistics are taken over examples alone, for each pixel by itself: of images they are over rows "
        "and columns, too",
        "x.mean((0, 2, 3)) of NCHW, as nn.BatchNorm2d does, not x.mean(0)",
        "x.mean((0, 1, 2)) of NHWC, as nn.BatchNorm does, not x.mean(0)",
        (how(norm="of each pixel"),),
    ),
    further(
        "rms_norm", "x / √(mean x² + ε)",
        "the mean is not subtracted: RMS norm over the batch stands in the place of batch norm",
        "(x - mean) / torch.sqrt(var + eps), with the mean subtracted",
        "(x - mean) / jnp.sqrt(var + eps), with the mean subtracted",
        (how(norm="not centred"),),
    ),
    further(
        "scale_plus_one", "(1 + γ) x̂ + β",
        "batch norm's scale is 1 + γ: the parametrisation in which γ starts from 0",
        "x̂ * gamma + beta, not x̂ * (1 + gamma) + beta",
        "x̂ * gamma + beta, not x̂ * (1 + gamma) + beta",
        (how(affine="1 + γ"),),
    ),
    further(
        "scale_and_shift_mixed_up", "β x̂ + γ, or γ (x̂ + β)",
        "batch norm's scale and shift are mixed up: γ and β are exchanged, or β is added before the scale",
        "x̂ * gamma + beta; F.batch_norm(x, …, weight=gamma, bias=beta)",
        "x̂ * gamma + beta",
        (how(affine="exchanged"), how(affine="shift first")),
    ),
    further(
        "batch_norm_behind_activation", "batch norm of the activation",
        "the order of two layers is exchanged: batch norm comes after the activation, and not before it",
        "layer, batch norm, activation: act(bn(conv(x))), not bn(act(conv(x)))",
        "layer, batch norm, activation: act(bn(conv(x))), not bn(act(conv(x)))",
        (how(network="batch norm behind the activation"),),
    ),
    further(
        "batch_norm_missing", "no batch norm",
        "batch norm is missing in the forward pass",
        "call bn(x) between the layer and its activation",
        "call bn(x) between the layer and its activation",
        on_each(how(network="batch norm missing")),
    ),
    # ── the layers ──────────────────────────────────────────────────────────────────────────────────────────────────
    further(
        "kernel_channels_exchanged", "filters (h, w, in, out) read as (h, w, out, in)",
        "a filter's in- and out-channels are exchanged",
        "w.permute(3, 2, 0, 1) from (h, w, in, out) to PyTorch's (out, in, h, w); not permute(2, 3, 0, 1)",
        "dimension_numbers=('NHWC', 'HWIO', 'NHWC'), not 'HWOI'",
        (how(kernel="channels exchanged"),),
    ),
    further(
        "kernel_flipped", "filters rotated by 180°",
        "the filters are flipped: a true convolution, where deep learning has a correlation",
        "F.conv2d (a correlation); no w.flip((2, 3)), no scipy.signal.convolve2d, no conv_transpose2d",
        "lax.conv_general_dilated (a correlation); no jnp.flip, no jax.scipy.signal.convolve",
        (how(kernel="flipped"),),
    ),
    further(
        "kernel_reshaped", "filters (h, w, in, out) reshaped to (out, in, h, w), or read column by column",
        "a filter is reshaped where its axes must be permuted (or is read in Fortran's order)",
        "w.permute(3, 2, 0, 1), not w.reshape(out, in, h, w)",
        "w.transpose(3, 2, 0, 1), not w.reshape(out, in, h, w)",
        (how(kernel="filters reshaped"), how(kernel="column by column")),
    ),
    further(
        "kernel_rows_columns_exchanged", "filters (h, w, in, out) read as (w, h, in, out)",
        "a filter's rows and columns are exchanged",
        "w.permute(3, 2, 0, 1), not permute(3, 2, 1, 0) (which is w.T)",
        "dimension_numbers=('NHWC', 'HWIO', 'NHWC'), not 'WHIO'",
        (how(kernel="rows and columns exchanged"), how(kernel="rows and columns reshaped")),
    ),
    further(
        "weight_transposed", "x Wᵀ where W is square",
        "a square weight is used transposed",
        "x @ w; F.linear(x, w.T), as F.linear multiplies by its weight's transpose",
        "x @ w, not x @ w.T",
        (how(weight="transposed"),),
    ),
    further(
        "weight_reshaped", "W (in, out) reshaped to (out, in)",
        "a weight is reshaped where it must be transposed",
        "F.linear(x, w.T), not F.linear(x, w.reshape(out, in))",
        "w.T, not w.reshape(w.shape[::-1])",
        (how(weight="reshaped"),),
    ),
    further(
        "other_padding", "zeros on the other side, on both, or none",
        "the zeros around the image stand elsewhere: SAME puts the odd one last",
        "F.pad(x, (0, 1, 0, 1)) before a 2×2 filter; padding=k // 2 pads both sides",
        "padding='SAME', not 'VALID', and not k // 2 zeros on both sides",
        tuple(how(padding=which) for which in ("both", "first", "none", "any stride", "any stride, first")),
    ),
    further(
        "padded_with_pixels", "the image's own pixels around it, and no zeros",
        "the image is padded with its own pixels (replicated, reflected or circular), where the case pads zeros",
        "F.pad(x, …) with zeros, not mode='replicate', 'reflect' or 'circular'",
        "padding='SAME', or jnp.pad with zeros, not mode='edge', 'reflect' or 'wrap'",
        tuple(how(padding=which) for which in ("edge", "reflect", "wrap")),
    ),
    further(
        "mean_pooling", "the mean of each window",
        "windows are averaged, where the case takes their maximum",
        "F.max_pool2d, not F.avg_pool2d",
        "lax.reduce_window with lax.max; not flax.linen.avg_pool",
        (how(pool="mean"),),
    ),
    further(
        "sum_pooling", "the sum of each window",
        "windows are summed, where the case takes their maximum",
        "F.max_pool2d, not F.lp_pool2d(…, 1) or avg_pool2d(…, divisor_override=1)",
        "lax.reduce_window with lax.max, not lax.add",
        (how(pool="sum"),),
    ),
    further(
        "overlapping_pooling", "windows at every pixel",
        "max pooling has the stride 1, so that its windows overlap: the case has one window after another",
        "F.max_pool2d(x, size), whose stride is the size; no stride=1",
        "nn.max_pool(x, (2, 2), strides=(2, 2)): its strides are 1 if they are left out",
        (how(pool="stride 1"),),
    ),
    further(
        "pooling_over_the_edge", "windows over the edge count",
        "max pooling keeps the incomplete windows at the edge, and the case drops them",
        "F.max_pool2d(x, size), without ceil_mode=True",
        "padding='VALID' in reduce_window or nn.max_pool, not 'SAME'",
        (how(pool="ceil"),),
    ),
    further(
        "pooling_missing", "no max pooling",
        "max pooling is missing in the forward pass",
        "F.max_pool2d(x, size) where the case has it",
        "nn.max_pool where the case has it",
        (how(network="pooling missing"),),
    ),
    further(
        "stride_ignored", "convolutions of stride 1",
        "a convolution's stride is ignored: it is 1",
        "F.conv2d(…, stride=layer['stride'])",
        "window_strides=(stride, stride)",
        (how(network="stride 1"),), special=True,
    ),
    further(
        "other_global_pooling", "the sum or the maximum over pixels",
        "global pooling takes the sum or the maximum over rows and columns, and not the mean",
        "x.mean((2, 3)) of NCHW, as nn.AdaptiveAvgPool2d(1) does; not .sum, not .amax",
        "x.mean((1, 2)) of NHWC; not .sum, not .max",
        (how(network="sum over pixels"), how(network="maximum over pixels")),
    ),
    further(
        "images_transposed", "images read as (n, w, h, c)",
        "images have their rows and columns exchanged",
        "x.permute(0, 3, 1, 2) from NHWC to NCHW; not permute(0, 3, 2, 1), not x.T",
        "x as it is given: NHWC, not NWHC",
        (how(network="images transposed"),),
    ),
    further(
        "images_reshaped", "images (h, w, c) reshaped to (c, h, w)",
        "images are reshaped where their axes must be permuted: channels are mixed with columns",
        "x.permute(0, 3, 1, 2), not x.reshape(n, c, h, w) or .view",
        "x.transpose(0, 3, 1, 2), not x.reshape(n, c, h, w)",
        (how(network="images reshaped"),),
    ),
    further(
        "images_flipped", "images mirrored, or upside down",
        "images are flipped, left to right or upside down: an augmentation is left in",
        "x as it is given: no torchvision flip, no x.flip",
        "x as it is given: no jnp.flip, no x[:, :, ::-1]",
        (how(network="images mirrored"), how(network="images upside down")),
    ),
    further(
        "channels_reversed", "channels in the reverse order",
        "the channels of images are in the reverse order (BGR for RGB)",
        "x as it is given: no x.flip(-1) of NHWC, no cv2.cvtColor",
        "x as it is given: no x[..., ::-1]",
        (how(network="channels reversed"),),
    ),
    further(
        "weight_scaled", "x W / √fan-in",
        "weights are divided by the root of their fan-in in the forward pass (NTK parametrisation, equalised rates)",
        "x @ w + b, not x @ w / w.shape[0] ** 0.5 + b",
        "x @ w + b, not x @ w / jnp.sqrt(w.shape[0]) + b",
        (how(weight="over √fan-in"),),
    ),
    further(
        "residual_connection", "x + x W + b where W is square",
        "a residual (skip) connection leads around square linear layers",
        "x = layer(x), not x = x + layer(x)",
        "x = layer(x), not x = x + layer(x)",
        (how(weight="plus the identity"),),
    ),
    further(
        "tied_weight_first_use", "only the first use of a shared weight counts",
        "a weight used twice gets the gradient of its first use only: the second one is not added",
        "shared parameters must be the same tensor, and their gradients are added",
        "shared parameters must be one leaf of the tree; add the cotangents of all uses",
        (how(tied="the first use"),),
    ),
    further(
        "tied_weight_overwritten", "dw of one use only, of a weight that is used twice",
        "in a backward pass by hand the gradient of a shared weight is overwritten by that of another use: grads[name] "
        "= dw, where it must be added",
        "grads[name] = grads[name] + dw, of all uses",
        "grads[name] = grads[name] + dw, of all uses",
        tuple(form for which in ("the first use", "the last use")
              for form in (forwards(tied=which), backwards(tied=which)[0])),
        shows="tied",
    ),
    further(
        "tied_use_detached", "∂L/∂W through one use of W, the other one a constant",
        "one use of a shared weight is detached: no derivative of any order flows through it",
        "x @ w in both uses, not w.detach() or w.data in one of them",
        "x @ w in both uses, not stop_gradient(w) in one of them",
        (how(tied="the first detached"), how(tied="the last detached")),
    ),
    further(
        "activation_missing", "the identity in the place of activations",
        "an activation is missing in the forward pass: all of them, the first one or the last one",
        "call torch.tanh (F.relu, …) wherever the case has an activation, behind the last hidden layer too",
        "call jnp.tanh (jax.nn.relu, …) wherever the case has an activation, behind the last hidden layer too",
        tuple(how(network=f"{which} missing") for which in ("activations", "first activation", "last activation")),
    ),
    further(
        "activation_missing_once", "the identity in the place of activations, in one of the two losses",
        "the forward pass of one of the two losses (the inner or the outer one) lacks an activation",
        "one forward pass for both losses",
        "one forward pass for both losses",
        tuple(form for which in ("activations", "first activation", "last activation")
              for form in on_each(how(network=f"{which} missing"))[1:]),
    ),
    further(
        "activation_twice", "f(f(x))",
        "activations are applied twice",
        "call the activation once per layer: it is in the layer, or behind it",
        "call the activation once per layer: it is in the layer, or behind it",
        (how(network="activations twice"),),
    ),
    further(
        "output_activation", "f(o)",
        "the network has an activation on its output, too (the hidden layers' own, tanh, a sigmoid, ReLU or softplus)",
        "the last linear layer's output goes into the loss as it is",
        "the last linear layer's output goes into the loss as it is",
        tuple(how(network=f"{which} on the output")
              for which in ("last activation", "tanh", "sigmoid", "relu", "softplus")),
    ),
    further(
        "one_activation_everywhere", "one activation for all layers",
        "the activation is a constant of the code: ReLU, tanh, sigmoid, softplus or GELU, whatever the case names",
        "read each layer's activation from case.model",
        "read each layer's activation from case.model",
        tuple(how(activation=f"{which} for any") for which in ("relu", "tanh", "sigmoid", "softplus", "gelu")),
    ),
    further(
        "tanh_activation", "tanh x",
        "the activation is tanh in the place of the case's",
        "the activation that the case names: F.relu, F.softplus, x * x",
        "the activation that the case names: jax.nn.relu, jax.nn.softplus, x * x",
        tuple(how(activation=f"tanh for {which}") for which in ("relu", "softplus", "square")),
    ),
    further(
        "sigmoid_activation", "1 / (1 + e^−x)",
        "the activation is the sigmoid in the place of ReLU or softplus",
        "the activation that the case names: F.relu, F.softplus",
        "the activation that the case names: jax.nn.relu, jax.nn.softplus",
        tuple(how(activation=f"sigmoid for {which}") for which in ("relu", "softplus")),
    ),
    further(
        "silu_activation", "x σ(x)",
        "the activation is SiLU (swish), x σ(x), in the place of the case's",
        "the activation that the case names, not F.silu",
        "the activation that the case names, not jax.nn.silu (jax.nn.swish)",
        tuple(how(activation=f"silu for {which}") for which in ("tanh", "relu", "softplus")),
    ),
    further(
        "softplus_activation", "log(1 + eˣ)",
        "the activation is softplus in the place of tanh or ReLU",
        "the activation that the case names, not F.softplus",
        "the activation that the case names, not jax.nn.softplus",
        tuple(how(activation=f"softplus for {which}") for which in ("tanh", "relu")),
    ),
    further(
        "rectifier_for_tanh", "leaky ReLU, ELU, SELU or GELU for tanh",
        "a rectifier (leaky ReLU, ELU, SELU or GELU) stands in the place of tanh",
        "torch.tanh, not F.leaky_relu, F.elu, F.selu or F.gelu",
        "jnp.tanh, not jax.nn.leaky_relu, elu, selu or gelu",
        tuple(how(activation=f"{which} for tanh") for which in ("leaky relu", "elu", "selu", "gelu", "tanh gelu")),
    ),
    further(
        "selu_activation", "λ (x, or a (eˣ − 1) below 0)",
        "the activation is SELU in the place of ReLU",
        "F.relu, not F.selu",
        "jax.nn.relu, not jax.nn.selu",
        (how(activation="selu for relu"),),
    ),
    further(
        "approximate_tanh", "hard tanh, softsign, or x (27 + x²)/(27 + 9x²)",
        "tanh is replaced by an approximation: hard tanh (a clamp to ±1), softsign x/(1 + |x|), or a rational function",
        "torch.tanh, not F.hardtanh, F.softsign or a fast tanh",
        "jnp.tanh, not jax.nn.hard_tanh, jax.nn.soft_sign or a fast tanh",
        tuple(how(activation=f"{which} for tanh") for which in ("hard tanh", "softsign", "rational tanh")),
    ),
    further(
        "scaled_tanh", "tanh(x/2) = 2σ(x) − 1, or 1.7159 tanh(2x/3)",
        "tanh has another scale: 2σ(x) − 1 is tanh(x/2), and LeCun's is 1.7159 tanh(2x/3)",
        "torch.tanh(x), or 2 * torch.sigmoid(2 * x) - 1",
        "jnp.tanh(x), or 2 * jax.nn.sigmoid(2 * x) - 1",
        tuple(how(activation=f"{which} for tanh") for which in ("tanh of x/2", "LeCun's tanh")),
    ),
    further(
        "square_activation", "x²",
        "the activation is the square in the place of tanh or ReLU",
        "the activation that the case names, not x * x",
        "the activation that the case names, not x * x",
        tuple(how(activation=f"square for {which}") for which in ("relu", "tanh")),
    ),
    further(
        "absolute_activation", "|x|",
        "the activation is |x| in the place of ReLU or of the square",
        "the activation that the case names, not x.abs()",
        "the activation that the case names, not jnp.abs(x)",
        tuple(how(activation=f"abs for {which}") for which in ("relu", "square")),
    ),
    further(
        "sharp_softplus", "log(1 + e^βx) / β",
        "softplus has a β: it is sharper or softer than log(1 + eˣ)",
        "F.softplus(x), without beta=",
        "jax.nn.softplus(x), not softplus(beta * x) / beta",
        (how(sharpness=2.0),), free=Free("sharpness", "β", (2.0, 0.5, 10.0, 5.0, 0.1)),
    ),
    further(
        "other_activation", "σ, ReLU, ELU or GELU in the place of the case's activation",
        "the network has another activation than the case",
        "the activation that the case names: torch.tanh, F.relu, F.softplus",
        "the activation that the case names: jnp.tanh, jax.nn.relu, jax.nn.softplus",
        tuple(how(activation=which) for which in (
            "sigmoid for tanh", "relu for tanh", "elu for relu", "gelu for relu", "tanh gelu for relu",
            "relu for softplus", "elu for softplus", "gelu for softplus", "relu for square")),
        shows="activation",
    ),
    further(
        "leaky_relu", "max(x, s x)",
        "ReLU leaks: it has a slope below 0",
        "F.relu, not F.leaky_relu",
        "jax.nn.relu, not jax.nn.leaky_relu",
        (how(leak=0.01), how(leak=0.01, relu_at_zero=1.0)), free=Free("leak", "s", (0.01, 0.2, 0.1, 0.3)),
    ),
    further(
        "wrong_slope_of_tanh", "tanh′ = 1 − x², or 1 − y, or y (1 − y)",
        "a custom tanh has a wrong slope in its backward: tanh′ = 1 − y², with y = tanh x",
        "save the output y, and return g * (1 - y * y)",
        "in the custom_vjp keep y = tanh(x), and return g * (1 - y * y)",
        tuple(make(activation=f"slope {which} for tanh") for make in (how, forwards)
              for which in ("1 − x²", "1 − y", "y (1 − y)")),
        shows="activation",
    ),
    further(
        "slope_of_activation_missing", "f′ = 1",
        "the activation's slope is missing in the backward pass: its gradient goes straight through",
        "multiply by the activation's slope: g * (1 - y * y) for tanh; no straight-through estimator",
        "multiply by the activation's slope: g * (1 - y * y) for tanh; no straight-through estimator",
        tuple(make(activation=f"slope 1 for {which}") for make in (how, forwards)
              for which in ("any", "tanh", "relu", "softplus"))
        + backwards(activation="slope 1 for any"),
    ),
    further(
        "slope_of_activation_at_output", "f′(y) for f′(x), y = f(x)",
        "the activation's slope is taken at its output, and not at its input",
        "save the input for f′(x), or write f′ in terms of y: 1 - y * y for tanh, 1 - torch.exp(-y) for softplus",
        "save the input for f′(x), or write f′ in terms of y: 1 - y * y for tanh, 1 - jnp.exp(-y) for softplus",
        tuple(make(activation=f"slope at y for {which}") for make in (how, forwards)
              for which in ("any", "tanh", "softplus", "square"))
        + backwards(activation="slope at y for any") + backwards(activation="slope at y for tanh"),
    ),
    further(
        "wrong_slope_of_activation", "f′² or f′/2, 1 − f′ for softplus, or y for ReLU",
        "a custom activation has a wrong slope in its backward: it is multiplied by twice, lacks the 2 of the square, "
        "is that of −x, or is the output of ReLU and not its mask",
        "multiply by f′(x) once: 2x of the square, torch.sigmoid(x) of softplus, x > 0 of ReLU",
        "multiply by f′(x) once: 2x of the square, jax.nn.sigmoid(x) of softplus, x > 0 of ReLU",
        tuple(make(activation=which) for make in (forwards, how) for which in (
            "slope squared for any", "slope squared for tanh", "slope halved for square", "slope 1 − f′ for softplus",
            "slope y for relu", "slope y for tanh")),
        shows="activation",
    ),
    further(
        "features_detached", "∂L/∂θ = 0 for all layers but the last",
        "the features are detached before the last layer, or behind the first one: the layers before get no gradient",
        "no features.detach() and no torch.no_grad() around the body",
        "no stop_gradient of the features",
        (*on_each(how(network="detached before the last layer")),
         how(network="detached behind the first layer")),
    ),
    further(
        "biases_unused", "the biases (or the first, or the last of them) are not added",
        "biases are missing in the forward pass",
        "nn.Linear(…, bias=True); F.linear(x, w, b)",
        "x @ w + b",
        tuple(how(biases=which) for which in ("missing", "first missing", "last missing"))
        + on_each(how(biases="missing"))[1:],
    ),
    further(
        "bias_gradients_averaged", "∂L/∂b = mean g, of the examples' cotangents g",
        "the backward of a linear layer averages over the examples for the bias, where it must sum: the loss is a mean "
        "already, and the bias's gradient is N times too small",
        "grad_output.sum(0) for the bias, not .mean(0)",
        "g.sum(0) for the bias, not g.mean(0)",
        (how(biases="averaged in the gradient"), forwards(biases="averaged in the gradient"),
         *backwards(biases="averaged in the gradient")),
    ),
    further(
        "linear_gradients_averaged", "dw = xᵀ g / N, db = mean g, of the examples' cotangents g",
        "the backward of a linear layer by hand averages over the examples, where it must sum: the loss is a mean",
        "dw = x.T @ g and db = g.sum(0), without / len(x)",
        "dw = x.T @ g and db = g.sum(0), without / len(x)",
        (forwards(biases="averaged, and weights, in the gradient"),
         *backwards(biases="averaged, and weights, in the gradient")),
    ),
    further(
        "input_of_activation_cached", "dw = zᵀ g with z before the activation, for f(z)",
        "the backward of a linear layer by hand has the pre-activation in the place of the activation, its input",
        "dw = a.T @ g, with a = f(z) the layer's own input",
        "dw = a.T @ g, with a = f(z) the layer's own input",
        (forwards(inputs="before the activation"), *backwards(inputs="before the activation")),
    ),
    further(
        "error_through_other_matrix", "dx = g w′ with w reshaped, or w itself, for wᵀ",
        "the backward of a linear layer sends the error down through w reshaped to (out, in), or through a square w as "
        "it is: it must be transposed",
        "g @ w.T, not g @ w.reshape(w.shape[::-1]) or g @ w",
        "g @ w.T, not g @ w.reshape(w.shape[::-1]) or g @ w",
        tuple(form for which in ("w reshaped", "w")
              for form in (forwards(through=which), how(through=which), *backwards(through=which))),
        shows="through",
    ),
    further(
        "decay_in_backward_of_layer", "dw = xᵀ g + λ w",
        "the backward of a linear layer adds a weight decay λ w to its weights' gradient (in both losses, or in one), "
        "which the loss does not have",
        "dw = x.T @ g alone, without reg * w",
        "dw = x.T @ g alone, without reg * w",
        (*on_each(how(layer_decay=1e-2)), how(layer_decay=1e-2) | DETACHED),
        free=Free("layer_decay", "λ", (1e-2, 1e-4, 5e-4, 1e-3, 0.1, 1.0)),
    ),
    further(
        "biases_twice", "x W + 2b",
        "biases are added twice",
        "F.linear(x, w.T, b), or x @ w + b; not both",
        "x @ w + b, once",
        (how(biases="twice"),),
    ),
    further(
        "biases_subtracted", "x W − b",
        "biases are subtracted",
        "x @ w + b, not x @ w - b",
        "x @ w + b, not x @ w - b",
        (how(biases="subtracted"),),
    ),
    further(
        "flattened_channels_first", "images flattened as (c, h, w)",
        "images are flattened channel by channel, the weights expect (h, w, c)",
        "x.permute(0, 2, 3, 1).flatten(1) before the linear layer",
        "x.reshape(n, -1) of NHWC",
        (how(flatten="channels first"),), special=True,
    ),
    further(
        "flattened_columns_first", "images flattened as (w, h, c), or as (c, w, h)",
        "images are flattened column by column, the weights expect (h, w, c)",
        "x.permute(0, 2, 3, 1).flatten(1) of NCHW, not permute(0, 3, 2, 1)",
        "x.reshape(n, -1) of NHWC, without order='F' or a transpose",
        (how(flatten="columns first"), how(flatten="channels, columns")), special=True,
    ),
]  # fmt: skip
