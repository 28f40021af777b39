"""Mistakes in the backward rules of layers: a gradient that is right, with a factor that is not differentiated."""

from __future__ import annotations

from ..mistake import Mistake
from .forms import further, how

_ALL_OR_LINEAR = (("linear", "conv"), ("linear",))
_ACTIVATIONS = ("tanh", "relu", "softplus", "square")


def _of(layers: tuple[str, ...], *parts: str) -> dict:
    return how(frozen=tuple(f"{layer} {part}" for layer in layers for part in parts))


MISTAKES: list[Mistake] = [
    further(
        "factor_of_layer_held", "in dx = g wᵀ or dw = xᵀ g a factor is a constant to the second derivative",
        "the backward of a custom linear or convolutional layer uses a detached weight w or a detached input x: the "
        "gradient is right, but its derivative by that factor is missing (Hessian blocks between layers are not whole)",
        "ctx.save_for_backward(x, w) and ctx.saved_tensors in backward: no ctx.w = w, no .detach(), no .data",
        "the residuals of the custom_vjp as they are: no stop_gradient on w or x in bwd",
        tuple(_of(layers, *parts) for parts in (("w",), ("x",), ("w", "x"))
              for layers in _ALL_OR_LINEAR),
    ),
    further(
        "cotangent_of_layer_held", "in dx = g wᵀ or dw = xᵀ g the cotangent g is a constant to the second derivative",
        "the backward of a custom linear or convolutional layer detaches the gradient g that comes in (or all that it "
        "returns): the second derivative stops there",
        "grad_output as it is: no .detach(), no .data, no torch.no_grad() in backward",
        "the cotangent as it is: no stop_gradient in bwd",
        tuple(_of(layers, *parts) for parts in (
            ("g of w",), ("g of w", "g of x", "g of b"), ("w", "x", "g of w", "g of x", "g of b"))
            for layers in (*_ALL_OR_LINEAR, ("conv",)))
        + tuple(_of(layers, "g of x") for layers in _ALL_OR_LINEAR),
    ),
    further(
        "cotangent_of_activation_held", "in dx = g f′(x) the cotangent g is a constant to the second derivative",
        "the backward of a custom activation detaches the gradient g that comes in: the second derivative stops there",
        "grad_output as it is: no .detach(), no .data, no torch.no_grad() in backward",
        "the cotangent as it is: no stop_gradient in bwd",
        (_of(_ACTIVATIONS, "g"), _of(_ACTIVATIONS, "g", "slope")),
    ),
    further(
        "one_activation_frozen", "some activations' slopes held constant in H",
        "the double backward of some activations is missing, of tanh or softplus alone, say: their slopes are "
        "constants when the gradient is differentiated; and where softplus is part of the logistic loss, that is, too",
        "a custom activation's backward must be made of differentiable operations on saved tensors (not .data)",
        "a custom_jvp or custom_vjp of an activation must itself be differentiable",
        tuple(how(frozen=layers) for layers in (
            ("tanh", "softplus"), ("tanh",), ("softplus",), ("square",), ("tanh", "softplus", "binary_cross_entropy"),
            ("softplus", "binary_cross_entropy"), ("tanh", "softplus", "square", "binary_cross_entropy"))),
        part_of="activation_frozen",
    ),
    further(
        "factor_of_batch_norm_held", "in batch norm's backward γ, x̂, 1/σ or μ is a constant to the second derivative",
        "the backward of a custom batch norm uses a detached γ, x̂ or 1/σ, or an x̂ from detached statistics: the "
        "gradient is right, but its derivative by that factor is missing",
        "ctx.save_for_backward of all that backward uses, computed under autograd: no ctx.inv_std = …, no .detach()",
        "the residuals of the custom_vjp as they are: no stop_gradient in bwd",
        tuple(_of(("batch_norm",), *parts) for parts in (
            ("x̂",), ("1/σ",), ("γ",), ("statistics",), ("x̂", "1/σ"), ("x̂", "γ"), ("1/σ", "γ"), ("statistics", "γ"))),
    ),
]  # fmt: skip
