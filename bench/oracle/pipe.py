"""The least program that answers the oracle over a pipe; it knows the protocol, not tinymaml.

    tinymaml oracle gen | python bench/oracle/pipe.py | tinymaml oracle check

A template for other languages: a line of JSON in, a line of JSON out. PyTorch does the differentiation here.
"""

import json
import sys

import torch
import torch.nn.functional as F


def forward(model, p, x):
    """The layers of a case's model. Images are (N, H, W, C), filters (height, width, in, out)."""
    for layer in model["layers"]:
        kind, params = layer["layer"], [p[name] for name in layer.get("params", [])]
        if kind == "linear":
            x = x @ params[0] + (params[1] if len(params) > 1 else 0)
        elif kind in ("tanh", "relu"):
            x = getattr(torch, kind)(x)
        elif kind == "softplus":
            x = F.softplus(x, threshold=40)
        elif kind == "square":
            x = x * x
        elif kind == "flatten":
            x = x.flatten(1)
        elif kind == "spatial_mean":
            x = x.mean((1, 2))
        elif kind == "max_pool":
            x = F.max_pool2d(x.permute(0, 3, 1, 2), layer["size"]).permute(0, 2, 3, 1)
        elif kind == "conv":
            x = conv(x, params[0], layer["stride"], layer["padding"])
        elif kind == "batch_norm":  # of the batch at hand, biased, ε = 2⁻¹⁰
            over = tuple(range(x.ndim - 1))
            x = (x - x.mean(over)) / torch.sqrt(x.var(over, unbiased=False) + 2**-10) * params[0] + params[1]
        elif kind == "polynomial":  # Σ_d x_d θ^d
            x = sum(x[:, d] * params[0] ** d for d in range(x.shape[1]))
        elif kind == "quadratic":  # ½ θᵀA θ − bᵀθ, x = [A b]
            theta = params[0]
            x = (theta * (x[:, :, :-1] @ theta / 2 - x[:, :, -1])).sum(1)
    return x


def conv(x, w, stride, padding):
    """Cross-correlation; SAME: ⌈size / stride⌉ out, the odd row of zeros below and to the right."""
    pad = [0, 0, 0, 0]
    if padding == "SAME":
        for axis in (0, 1):
            total = max((-(-x.shape[1 + axis] // stride) - 1) * stride + w.shape[axis] - x.shape[1 + axis], 0)
            pad[2 - 2 * axis : 4 - 2 * axis] = total // 2, total - total // 2
    x = F.pad(x.permute(0, 3, 1, 2), pad)
    return F.conv2d(x, w.permute(3, 2, 0, 1), stride=stride).permute(0, 2, 3, 1)


def loss(model, p, x, y):
    """The mean over all elements."""
    o = forward(model, p, x)
    return {
        "mse": lambda: ((o - y) ** 2).mean(),
        "half_mse": lambda: ((o - y) ** 2).mean() / 2,
        "mean": lambda: o.mean(),
        "cross_entropy": lambda: F.cross_entropy(o, y),
        "binary_cross_entropy": lambda: F.binary_cross_entropy_with_logits(o, y),
    }[model["loss"]]()


def answer(case):
    """MAML, exactly."""
    dtype = getattr(torch, case["dtype"])

    def tensor(numbers):
        t = torch.tensor(numbers, dtype=torch.float64)
        return t.to(dtype)

    def batch(data):
        labels = case["model"]["loss"] == "cross_entropy"
        return tensor(data["x"]), torch.tensor(data["y"]) if labels else tensor(data["y"])

    params = {name: tensor(p).requires_grad_() for name, p in case["params"].items()}
    total = 0.0
    for support, query in zip(case["support"], case["query"], strict=True):
        fast = params
        for _ in range(case["inner_steps"]):
            support_loss = loss(case["model"], fast, *batch(support))
            grads = torch.autograd.grad(support_loss, list(fast.values()), create_graph=True)
            fast = {n: p - case["inner_lr"] * g for (n, p), g in zip(fast.items(), grads, strict=True)}
        total = total + loss(case["model"], fast, *batch(query)) / len(case["support"])
    grads = torch.autograd.grad(total, list(params.values()))
    return {"id": case["id"], "meta_grad": [g.tolist() for g in grads], "meta_loss": total.item()}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
