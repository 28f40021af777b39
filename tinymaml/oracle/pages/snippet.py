"""A case as a program that runs by itself: model, numbers, the right answer, and a place for your step.

    print(program(evidence, "torch"))        or "jax", "numpy": the library of the arrays

The program needs that library alone. It holds a `case` with the attributes that a candidate uses, so that a candidate
can be pasted into it unchanged; until then it shows what the candidate gave.
"""

from __future__ import annotations

import pprint
import textwrap

import numpy as np

from .. import models
from ..cases import Case

WIDTH = 100
MOST = 1500  # numbers in all; a larger case is not written out


class Unwritable(ValueError):
    """A case that cannot be written as a program; the message says why."""


def python_program(evidence, library: str = "numpy") -> str:
    """Lines of Python, at most WIDTH columns wide.

    Args:
        evidence: an `Evidence`: a case, yours and the right meta-gradient.
        library: "torch", "jax" or "numpy".

    Raises:
        Unwritable: the case has more than MOST numbers, or a layer or loss that has no lines here.
    """
    case = evidence.case
    data = [a for batches in (case.support, case.query) for batch in batches for a in batch]
    count = sum(np.size(a) for a in [*data, *case.params.values()])
    if count > MOST:
        raise Unwritable(f"its {count:,} numbers are too many to be written out")
    with_loss = evidence.meta_loss is not None
    returned = {"meta_grad": _literals(evidence.yours)} | ({"meta_loss": evidence.meta_loss} if with_loss else {})
    blocks = [
        _IMPORTS[library] + ['jax.config.update("jax_enable_x64", True)'] * (library == "jax" and _double(case)),
        _loss(case, library),
        _given(case, library),
        _case(case, library) + _assigned("right = ", _literals(evidence.right)),
        ["def mine(case):  # what yours gave; put your function in its place", *_assigned("    return ", returned)],
        ["answer = mine(case)", *_COMPARED, f"    got, r = np.ravel({_NUMBERS[library]}), np.ravel(r)",
         '    print(f"{name}: apart by {np.max(np.abs(got - r)):.1e}; yours {got}, right {r}")'],
    ]  # fmt: skip
    if with_loss:
        blocks[-1].append(f'print("meta_loss: yours", answer.get("meta_loss"), "right", {case.answer.meta_loss!r})')
    return "\n\n".join("\n".join(block) for block in blocks)


def _double(case: Case) -> bool:
    return case.dtype == "float64"


_IMPORTS = {
    "numpy": ["from types import SimpleNamespace", "import numpy as np"],
    "torch": ["from types import SimpleNamespace", "import numpy as np", "import torch",
              "import torch.nn.functional as F"],
    "jax": ["from types import SimpleNamespace", "import jax", "import jax.numpy as jnp", "import numpy as np"],
}  # fmt: skip

_ARRAY = {"numpy": "np.array({0}, {1})", "torch": "torch.tensor({0}, dtype={1})", "jax": "jnp.array({0}, {1})"}

_COMPARED = [
    'grads = answer["meta_grad"]',
    "grads = grads if isinstance(grads, dict) else dict(zip(right, grads))",
    "for name, r in right.items():",
]

_NUMBERS = {
    "numpy": "np.asarray(grads[name])",
    "torch": "torch.as_tensor(grads[name], dtype=torch.float64).detach()",
    "jax": "np.asarray(grads[name])",
}


# ── the model ───────────────────────────────────────────────────────────────────────────────────────────────────────

# A layer's lines: x comes in and goes out; {xp} is the library, {p} are the parameters, {axes} all but the channels.
_LAYERS: dict[str, list[str]] = {
    "tanh": ["x = {xp}.tanh(x)"],
    "square": ["x = x * x"],
    "batch_norm": [
        "centred = x - {xp}.mean(x, {axes})",
        f"deviation = {{xp}}.sqrt({{xp}}.mean(centred * centred, {{axes}}) + {models.EPS!r})",
        "x = centred / deviation * {p[0]} + {p[1]}",
    ],
    "flatten": ["x = {xp}.reshape(x, (x.shape[0], -1))"],
    "spatial_mean": ["x = {xp}.mean(x, (1, 2))"],
    "polynomial": ["x = sum(x[:, d] * {p[0]} ** d for d in range(x.shape[1]))"],
    "context": [
        "phi = {p[0]}",
        "x = {xp}.concatenate([x, {xp}.broadcast_to(phi, (*x.shape[:-1], phi.shape[0]))], -1)",
    ],
    "quadratic": ["A, b = x[:, :, :-1], x[:, :, -1]", "x = {xp}.sum({p[0]} * ((A @ {p[0]}) / 2 - b), 1)"],
}
_LAYERS_OF: dict[str, dict[str, list[str]]] = {
    "numpy": {
        "relu": ["x = x * (x > 0)"],
        "softplus": ["x = np.logaddexp(x, 0)"],
        "conv": [
            "x = np.pad(x, ((0, 0), {rows}, {columns}, (0, 0)))",
            "h, w = {size[0]}, {size[1]}",
            "x = sum(",
            "    x[:, i::{stride}, j::{stride}][:, :h, :w] @ {p[0]}[i, j]",
            "    for i in range({kernel[0]})",
            "    for j in range({kernel[1]})",
            ")",
        ],
        "max_pool": [
            "n, h, w, c = x.shape",
            "x = x[:, : h // {pool} * {pool}, : w // {pool} * {pool}]",
            "x = np.reshape(x, (n, h // {pool}, {pool}, w // {pool}, {pool}, c))",
            "best = x[:, :, 0, :, 0]",
            "for k in range(1, {pool} * {pool}):  # the first of a tie wins",
            "    one = x[:, :, k // {pool}, :, k % {pool}]",
            "    best = np.where(one > best, one, best)",
            "x = best",
        ],
    },
    "torch": {
        "relu": ["x = torch.relu(x)"],
        "softplus": ["x = F.softplus(x, threshold=40)"],
        "conv": [
            "x = F.pad(x.permute(0, 3, 1, 2), ({columns[0]}, {columns[1]}, {rows[0]}, {rows[1]}))  # NHWC to NCHW",
            "x = F.conv2d(x, {p[0]}.permute(3, 2, 0, 1), stride={stride}).permute(0, 2, 3, 1)",
        ],
        "max_pool": ["x = F.max_pool2d(x.permute(0, 3, 1, 2), {pool}).permute(0, 2, 3, 1)"],
    },
    "jax": {
        "relu": ["x = jax.nn.relu(x)"],
        "softplus": ["x = jnp.logaddexp(x, 0)"],
        "conv": [
            "x = jax.lax.conv_general_dilated(",
            "    x, {p[0]}, ({stride}, {stride}), ({rows}, {columns}),",
            '    dimension_numbers=("NHWC", "HWIO", "NHWC"),',
            ")",
        ],
        "max_pool": [
            "window = (1, {pool}, {pool}, 1)",
            'x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")',
        ],
    },
}
_LOSSES = {
    "mse": ["return {xp}.mean((x - y) ** 2)"],
    "half_mse": ["return {xp}.mean((x - y) ** 2) / 2"],
    "mean": ["return {xp}.mean(x)"],
    # policies, whose lines return log π of each step
    "categorical": [
        "chosen = y[..., :1] == {xp}.arange(x.shape[-1])",
        "return {xp}.sum(x * chosen, -1) - {xp}.log({xp}.sum({xp}.exp(x), -1))",
    ],
    "gaussian": [
        "z = (y[..., 0] - x[..., 0]) / {xp}.exp(x[..., 1])",
        f"return -z * z / 2 - x[..., 1] - {models.HALF_LOG_2PI!r}",
    ],
}
_LOSSES_OF = {
    "numpy": {
        "cross_entropy": [
            "z = x - np.max(x, 1, keepdims=True)",
            "return np.mean(np.log(np.sum(np.exp(z), 1)) - z[np.arange(len(y)), y])",
        ],
        "binary_cross_entropy": ["return np.mean(np.logaddexp(x, 0) - y * x)"],
    },
    "torch": {
        "cross_entropy": ["return F.cross_entropy(x, y)"],
        "binary_cross_entropy": ["return torch.mean(F.softplus(x, threshold=40) - y * x)"],
    },
    "jax": {
        "cross_entropy": ["return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1))"],
        "binary_cross_entropy": ["return jnp.mean(jnp.logaddexp(x, 0) - y * x)"],
    },
}


def _loss(case: Case, library: str) -> list[str]:
    """The loss of one task, layer after layer; paddings are written as the numbers that this case needs."""
    xp = {"numpy": "np", "torch": "torch", "jax": "jnp"}[library]
    shape, lines = case.support[0][0].shape, ["def loss(params, x, y):"]
    for layer in case.model["layers"]:
        name, used = layer["layer"], layer.get("params", [])
        words = {"xp": xp, "p": [f"params[{n!r}]".replace("'", '"') for n in used], "pool": layer.get("size"),
                 "axes": tuple(range(len(shape) - 1)) if len(shape) > 2 else 0}  # fmt: skip
        if name == "linear":
            lines.append("    x = x @ " + " + ".join(words["p"]))
            continue
        if name == "conv":
            words |= _convolution(shape, case.params[used[0]].shape, layer["stride"], layer["padding"])
        template = _template(_LAYERS | _LAYERS_OF[library], name)
        lines += ["    " + line.format(**words) for line in template]
        shape = _shape_after(name, shape, words)
    template = _template(_LOSSES | _LOSSES_OF[library], case.model["loss"])
    return lines + ["    " + line.format(xp=xp) for line in template]


def _template(templates: dict[str, list[str]], name: str) -> list[str]:
    if name not in templates:
        raise Unwritable(f"no lines are known for {name!r}")
    return templates[name]


def _convolution(shape: tuple, kernel: tuple, stride: int, padding: str | int) -> dict:
    around = [models._zeros_around(padding, n, k, stride) for n, k in zip(shape[1:3], kernel[:2], strict=True)]
    size = tuple((n + sum(zeros) - k) // stride + 1
                 for n, k, zeros in zip(shape[1:3], kernel[:2], around, strict=True))  # fmt: skip
    return {"rows": around[0], "columns": around[1], "size": size, "stride": stride, "kernel": kernel}


def _shape_after(name: str, shape: tuple, words: dict) -> tuple:
    """Rows and columns, and whether there are any; channels do not matter."""
    if name == "conv":
        return (shape[0], *words["size"], shape[3])
    if name == "max_pool":
        return (shape[0], shape[1] // words["pool"], shape[2] // words["pool"], shape[3])
    return shape[:2] if name in ("flatten", "spatial_mean") else shape


# ── the numbers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _given(case: Case, library: str) -> list[str]:
    dtype = {"numpy": "np.", "torch": "torch.", "jax": "jnp."}[library] + case.dtype
    leaf = ".requires_grad_()" if library == "torch" else ""
    lines = ["def given():", "    params = {"]
    for name, p in case.params.items():
        lines += _array(f"        {_quoted(name)}: ", p, library, dtype, f"{leaf},")
    lines += ["    }"]
    for names, batches in ((("xs", "ys"), case.support), (("xq", "yq"), case.query)):
        for i, name in enumerate(names):
            arrays = [np.asarray(batch[i]) for batch in batches]
            kind = "int" if arrays[0].dtype.kind in "iu" else dtype
            if len({a.shape for a in arrays}) == 1:
                lines += _array(f"    {name} = ", np.stack(arrays), library, kind)
                continue
            lines += [f"    {name} = ["]
            for a in arrays:
                lines += _array("        ", a, library, kind, ",")
            lines += ["    ]"]
    return [*lines, "    return loss, params, ((xs, ys), (xq, yq))"]


def _array(start: str, x: np.ndarray, library: str, dtype: str, end: str = "") -> list[str]:
    """`start` and an array of the library; images as one list of numbers with their shape."""
    before, after = _ARRAY[library].format("|", dtype).split("|")
    if x.ndim < 4 or x.size < 10:
        return _assigned(start + before, x.tolist(), after + end)
    indent = " " * (len(start) - len(start.lstrip()))
    numbers = textwrap.wrap(", ".join(map(repr, x.ravel().tolist())), WIDTH - len(indent) - 4)
    return [f"{start}{before}np.reshape([", *(f"{indent}    {line}" for line in numbers),
            f"{indent}], {x.shape}){after}{end}"]  # fmt: skip


def _case(case: Case, library: str) -> list[str]:
    rate, names = case.inner_lr, ["tasks", "inner_steps", "inner_lr", "outer_lr", "first_order", "adapt", "dtype"]
    lines = []
    if isinstance(rate, dict):
        names.remove("inner_lr")
        lines = ["inner_lr = {", *(x for n, a in rate.items() for x in _assigned(f"    {_quoted(n)}: np.array(",
                                                                               a.tolist(), "),")), "}"]  # fmt: skip
    said = [f"{name}={getattr(case, name)!r}".replace("'", '"') for name in names]
    said += ["inner_lr=inner_lr"] if isinstance(rate, dict) else []
    if case.algorithm != "maml":
        said += [f"algorithm={_quoted(case.algorithm)}", f"settings={case.settings!r}"]
    text = ", ".join([*said, f"{library}=given"])
    return [*lines, "case = SimpleNamespace(", *textwrap.wrap(text, WIDTH - 4, initial_indent="    ",
                                                             subsequent_indent="    "), ")"]  # fmt: skip


def _literals(grads: dict[str, np.ndarray]) -> dict:
    return {n: np.asarray(g).tolist() for n, g in grads.items()}


def _quoted(name: str) -> str:
    text = repr(name)
    return f'"{text[1:-1]}"' if '"' not in text else text


def _assigned(start: str, value, end: str = "") -> list[str]:
    """`start value end`, broken within the value's brackets where it is too long."""
    text = pprint.pformat(value, width=WIDTH - len(start) - len(end), compact=True, sort_dicts=False)
    text = text.replace("'", '"') if '"' not in text else text
    text = text.replace("\n", "\n" + " " * len(start))
    return (start + text + end).split("\n")
