"""Words, films, or whatever else has a number: each has a row of a learned table, and an example adds up some rows.

    net = embedding(8192, 64, (), 5)
    net.apply(net.init(rng, np.float32), {"ids": ids, "weights": weights})     # both (N, L) → (N, 5)

An example is a bag of L numbers in 0 … vocabulary − 1, each with a weight: 1 / length gives their mean, an inverse
document frequency gives tf-idf, and 0 is padding. Read next: `conv`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .. import nn
from ..runs.settings import option
from .network import Network, check_counts, joined, layer_init


@dataclass(frozen=True)
class Settings:
    embed: int = option(64, "numbers in the vector of a word, or of whatever else has a number", least=1)
    hidden: tuple[int, ...] = option((), "widths of the hidden layers", least=1)


def make(family, settings: Settings) -> Network:
    """The network of a family that has a `vocabulary`, and perhaps `features`; `embedding_mlp` without the settings.

    Raises:
        ValueError: the family's examples are no words.
    """
    if not hasattr(family, "vocabulary"):
        raise ValueError(f"embedding wants words (a family with a vocabulary, whose x has ids and weights); this"
                         f" family's input_shape is {family.input_shape}")  # fmt: skip
    features = getattr(family, "features", 0)
    return embedding_mlp(family.vocabulary, settings.embed, settings.hidden, family.outputs, features)


def embedding_mlp(vocabulary: int, embed: int, hidden: Sequence[int], outputs: int, features: int = 0) -> Network:
    """The weighted sum of an example's vectors, and its features beside it, through linear layers with ReLU between.

        h = [Σₗ weightsₗ E[idsₗ], features]

    Args:
        vocabulary: rows of the table E.   embed: its columns.   hidden: widths of the hidden layers.
        features: F, further numbers of an example.

    Returns:
        The network, for x = {"ids": integers (N, L), "weights": (N, L), "features": (N, F)}, the last only if F > 0.
        Its layers are words, {"table": (vocabulary, embed)}, and linear0, linear1, …: {"w": (in, out), "b": (out,)}.
        The last is the head. E begins with variances of 1 / embed, so that ⟨E[i], E[j]⟩ is on average 1 if i = j, and
        else 0: inner products of sums are those of the bags of words, up to noise of the order 1 / √embed.

    Raises:
        ValueError: a width, or a count, is no integer of at least 1; `features` may be 0, too.

    >>> from tinymaml.networks.embedding import embedding_mlp
    >>> net = embedding_mlp(vocabulary=1000, embed=16, hidden=(8,), outputs=2)
    >>> params = net.init(np.random.default_rng(0), np.float32)
    >>> x = {"ids": np.array([[7, 9, 0]]), "weights": np.array([[1, 1, 0]], np.float32)}  # words 7 and 9
    >>> net.apply(params, x).shape
    (1, 2)
    """
    check_counts("embedding", vocabulary=vocabulary, embed=embed, outputs=outputs)
    check_counts("embedding", **{f"hidden[{i}]": width for i, width in enumerate(hidden)})
    if features:
        check_counts("embedding", features=features)
    sizes = [embed + features, *hidden, outputs]
    names = [f"linear{i}" for i in range(len(hidden) + 1)]
    *inner, last = names

    def init(rng, dtype):
        words = {"table": nn.normal(rng, (vocabulary, embed), embed**-0.5, dtype)}
        layers = zip(names, sizes, sizes[1:], strict=False)
        return {"words": words} | {name: layer_init(rng, shape, dtype, "none") for name, *shape in layers}

    def body(params, x, norm=None):
        vectors = nn.embedding(params["words"]["table"], x["ids"])  # (N, L, embed)
        h = np.sum(x["weights"][..., None] * vectors, 1)
        h = np.concatenate([h, x["features"]], -1) if features else h
        for name in inner:
            h = nn.relu(nn.linear(h, params[name]["w"], params[name]["b"]))
        return h

    def head(params, h):
        return nn.linear(h, params[last]["w"], params[last]["b"])

    return joined(init, body, head, last, {})
