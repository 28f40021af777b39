"""Networks whose layers are others than a model says: left out, repeated, exchanged, or put before and behind.

    arranged(model["layers"], "last activation missing")      the layers that the code at hand has

Some layers have no place in a model, only here: "sigmoid", "spatial_sum", "spatial_max", "detached", and those that
turn images.
"""

from __future__ import annotations

from collections.abc import Callable

from .activations import OF_MODELS

Layers = list[dict]


def _all_but(names: tuple[str, ...], which: slice = slice(None)) -> Callable[[Layers], Layers]:
    """Without the layers of these names, or those of them that `which` picks."""

    def without(layers: Layers) -> Layers:
        gone = [i for i, m in enumerate(layers) if m["layer"] in names][which]
        return [m for i, m in enumerate(layers) if i not in gone]

    return without


def _replaced(name: str, **by) -> Callable[[Layers], Layers]:
    """The layers of that name with other settings, or under another name."""
    return lambda layers: [m | by if m["layer"] == name else m for m in layers]


def _twice(layers: Layers) -> Layers:
    return [m for layer in layers for m in [layer] * (1 + (layer["layer"] in OF_MODELS))]


def _behind(name: str) -> Callable[[Layers], Layers]:
    """An activation on the output, too: the last one that there is, or the one of that name."""

    def behind(layers: Layers) -> Layers:
        own = [m["layer"] for m in layers if m["layer"] in OF_MODELS][-1:]
        more = own if name == "own" else [name]
        return layers + [{"layer": m} for m in more if layers[-1]["layer"] == "linear"]

    return behind


def _exchanged(first: str, then: tuple[str, ...]) -> Callable[[Layers], Layers]:
    """Each layer of the first name behind the one that follows it."""

    def exchanged(layers: Layers) -> Layers:
        out = list(layers)
        for i in range(len(layers) - 1):
            if layers[i]["layer"] == first and layers[i + 1]["layer"] in then:
                out[i : i + 2] = layers[i + 1], layers[i]
        return out

    return exchanged


def _detached(last: bool) -> Callable[[Layers], Layers]:
    """No derivative flows back from the last layer with parameters, or to the first one."""

    def detached(layers: Layers) -> Layers:
        having = [i for i, m in enumerate(layers) if m.get("params")]
        place = having[-1] if last else having[0] + 1
        return [*layers[:place], {"layer": "detached"}, *layers[place:]] if len(having) > 1 else layers

    return detached


def _before(name: str) -> Callable[[Layers], Layers]:
    """Images are turned before they reach the network."""
    return lambda layers: [{"layer": name}, *layers] if layers[0]["layer"] == "conv" else layers


ARRANGED: dict[str, Callable[[Layers], Layers]] = {
    "activations missing": _all_but(OF_MODELS),
    "first activation missing": _all_but(OF_MODELS, slice(1)),
    "last activation missing": _all_but(OF_MODELS, slice(-1, None)),
    "activations twice": _twice,
    "last activation on the output": _behind("own"),
    "tanh on the output": _behind("tanh"),
    "sigmoid on the output": _behind("sigmoid"),
    "relu on the output": _behind("relu"),
    "softplus on the output": _behind("softplus"),
    "detached before the last layer": _detached(last=True),
    "detached behind the first layer": _detached(last=False),
    "batch norm behind the activation": _exchanged("batch_norm", OF_MODELS),
    "batch norm missing": _all_but(("batch_norm",)),
    "pooling missing": _all_but(("max_pool",)),
    "stride 1": _replaced("conv", stride=1),
    "sum over pixels": _replaced("spatial_mean", layer="spatial_sum"),
    "maximum over pixels": _replaced("spatial_mean", layer="spatial_max"),
    "images transposed": _before("transposed_image"),
    "images reshaped": _before("reshaped_image"),
    "images mirrored": _before("mirrored_image"),
    "images upside down": _before("upside_down_image"),
    "channels reversed": _before("reversed_channels"),
}

# Those that give a flattened image another length, so that the weights behind it do not fit.
RESIZING = ("pooling missing", "stride 1")


def arranged(layers: Layers, how: str) -> Layers:
    """The layers as the code at hand has them; "right" for those of the model."""
    return layers if how == "right" else ARRANGED[how](layers)
