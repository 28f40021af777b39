"""Networks by the names that the command line uses.

A network is a module, or any object, with

    Settings                  a frozen dataclass: each field is an option, and is saved with the run
    make(family, settings)    → Network, for a family's `input_shape` (of one example) and its `outputs`

and what `make` returns is a pair of functions over a nest of parameters, at least:

    init(rng, dtype) → params           apply(params, x) → (N, outputs), for x (N, *input_shape)

A family whose examples are words, films, … has two attributes more: `vocabulary`, how many there are, and `features`, F
further numbers per example (none without the attribute). Its input_shape is (L,), and x is a dict of "ids", integers
(N, L), "weights" (N, L), 0 where nothing is, and "features" (N, F) if F > 0. The network `embedding` takes it.

`Network` lists the optional parts. A network of your own is `--network module:make` on the command line:

    def make(family, settings):
        n, outputs = int(np.prod(family.input_shape)), family.outputs
        return Network(
            lambda rng, dtype: {"w": nn.glorot_uniform(rng, (n, outputs), dtype)},
            lambda params, x: np.reshape(x, (x.shape[0], -1)) @ params["w"],
        )

A family whose tasks are acted in wants a network with a `policy`, which is all that training reads of it.

To add one here, write its file and put it into the table. Those of the papers can be called directly, too:

    net = mlp.mlp((1,), (40, 40), 1)                       # sinusoid (Finn et al., 2017, section 5.1)
    net = mlp.mlp((28, 28, 1), (256, 128, 64, 64), 5, norm="batch")
    net = conv.conv((28, 28, 1), filters=64, outputs=5)    # Omniglot (section 5.2): strides instead of pooling
    net = conv.conv((84, 84, 3), 32, 5, pool=True)         # MiniImagenet (section 5.2)
    params = net.init(rng, np.float32);  y = net.apply(params, x)

Read next: `network`, then `mlp`.
"""

from . import conv, embedding, linear, mlp, policy
from .network import Network

NETWORKS = {"mlp": mlp, "linear": linear, "conv": conv, "embedding": embedding, "policy": policy}

__all__ = ["NETWORKS", "Network"]
