"""The specification: all that a program in any language must know to be checked, on one page made from the code.

    print(text())           tinymaml oracle spec
    print(as_json())        tinymaml oracle spec --json
    FIELDS, LAYERS, LOSSES  the tables that others do not hold

Whoever has this page needs nothing else: `bench/oracle/clients` holds programs that were written from it alone.
"""

from __future__ import annotations

import inspect
import json
import textwrap

import numpy as np

from . import protocol, tolerance
from .cases import CAPABILITIES, load
from .models import EPS
from .questions import Question
from .report import VERDICTS
from .versions import RULES, VERSIONS

WIDTH = 100

# Every object on the wire: field → (type and shape, meaning).
FIELDS: dict[str, dict[str, tuple[str, str]]] = {
    "question": {
        "format": ("string", "the wire's version, \"major.minor\"; answer with an error if the major number is another"),
        "id": ("string", "to be repeated in the answer; it means nothing else"),
        "dtype": ("string", "\"float64\" or \"float32\": the precision to compute in; a higher one is right, too"),
        "model": ("object", "\"layers\", a list of layers to apply in turn, and \"loss\" (see 3)"),
        "params": ("object {name: array}", "θ; the order of the names is the order of gradients given as a list"),
        "support": ("list of T {\"x\", \"y\"}", "the support set of each task, arrays with one entry per example"),
        "query": ("list of T {\"x\", \"y\"}", "the query set of each task"),
        "inner_lr": ("number or {name: array}", "α, one for all parameters or one for each of their elements"),
        "inner_steps": ("integer ≥ 0", "K"),
        "first_order": ("boolean", "true: every factor (I − HₖA) is left out, G = 1/T Σₜ ∇L_q(θ_K)"),
        "adapt": ("null or list of names", "the parameters that change in the inner loop; null: all of them"),
        "outer_lr": ("number", "the outer rate; the meta-gradient does not depend on it"),
        "needs": ("list of strings", "the capabilities that the question needs (see 5)"),
    },
    "task": {
        "x": ("array (N, …)", "the inputs; what follows N is the first layer's to say"),
        "y": ("array (N, …)", "the targets (see the losses); integers 0 … C − 1 for cross_entropy"),
    },
    "model": {
        "layers": ("list of objects", "each has \"layer\", its kind, and, where it has any, \"params\" and settings"),
        "loss": ("string", "the last operation; it gives a number"),
    },
    "answer": {
        "id": ("string", "the question's"),
        "meta_grad": ("{name: array} or list", "G, every array of its parameter's shape; null is taken as zeros"),
        "meta_loss": ("number, optional", "𝓛; with it a wrong derivative is told from another objective"),
        "trace": ("list of T objects, optional", "the way of each task; the first wrong quantity is named"),
        "format": ("string, optional", "the wire's version that the program was written for"),
        "error": ("string", "in place of all but the id: why there is no answer"),
    },
    "trace": {
        "theta": ("list of K + 1 {name: array}", "θ₀ … θ_K"),
        "loss_s": ("list of K numbers", "L_s(θ₀) … L_s(θ_{K−1})"),
        "grad_s": ("list of K {name: array}", "their gradients"),
        "loss_q": ("number", "L_q(θ_K)"),
        "grad_q": ("{name: array}", "its gradient at θ_K"),
    },
}  # fmt: skip

# Every layer: (parameters and settings, shape in → shape out, what it computes).
LAYERS: dict[str, tuple[str, str, str]] = {
    "linear": ("w (a, b)[, bias (b)]", "(N, a) → (N, b)", "x w + bias; without a second parameter there is no bias"),
    "conv": ("w (h, w, in, out), stride, padding", "(N, H, W, in) → (N, H′, W′, out)",
             "cross-correlation, not flipped, without a bias: y[n,i,j,o] = Σ x[n, i·stride + p − top, "
             "j·stride + q − left, c] w[p,q,c,o], with zeros outside the image. padding \"VALID\": top = left = 0, "
             "H′ = ⌊(H − h)/stride⌋ + 1. \"SAME\" (as in TensorFlow and JAX): H′ = ⌈H/stride⌉, and of the "
             "max((H′ − 1)·stride + h − H, 0) rows of zeros ⌊half⌋ are above, the rest, with the odd one, below. An "
             "integer: so many on each side. Columns likewise"),
    "batch_norm": ("gamma (C), beta (C)", "(…, C) → (…, C)",
                   f"(x − mean)/√(var + ε)·gamma + beta, ε = 2^{round(np.log2(EPS))}; mean and biased variance (divided by "
                   "the number) of the batch at hand, over all axes but the last, in support and query each, and "
                   "differentiated through; no running statistics"),
    "tanh": ("", "any", "tanh x"),
    "relu": ("", "any", "max(x, 0), with the derivative 0 at x = 0"),
    "softplus": ("", "any", "log(1 + eˣ); for large |x| as max(x, 0) + log(1 + e^−|x|)"),
    "square": ("", "any", "x²"),
    "max_pool": ("size", "(N, H, W, C) → (N, ⌊H/size⌋, ⌊W/size⌋, C)",
                 "the greatest of each size × size window; windows do not overlap, what is left over below and to the "
                 "right is dropped; of a tie, the first in row-major order has the derivative"),
    "flatten": ("", "(N, …) → (N, product)", "row-major"),
    "spatial_mean": ("", "(N, H, W, C) → (N, C)", "the mean over H and W"),
    "polynomial": ("theta ()", "(N, D) → (N)", "Σ_d x[n,d] theta^d, d = 0 … D − 1"),
    "quadratic": ("theta (d)", "(N, d, d + 1) → (N)",
                  "½ θᵀA θ − bᵀθ with A = x[n, :, :d], which is symmetric, and b = x[n, :, d]"),
}  # fmt: skip

# Every loss of the output o: (shape of o, of y, what it computes).
LOSSES: dict[str, tuple[str, str, str]] = {
    "mse": ("(N, C)", "(N, C)", "mean (o − y)², over all N·C elements"),
    "half_mse": ("(N, C)", "(N, C)", "mean ½ (o − y)², over all N·C elements"),
    "cross_entropy": ("(N, C)", "(N) integers", "mean over N of log Σ_c exp o_c − o_y; stable for logits of thousands"),
    "binary_cross_entropy": ("(N, C)", "(N, C) of 0 and 1", "mean (log(1 + e^o) − y o), over all N·C elements; stable"),
    "mean": ("(N)", "(N), unused", "mean o"),
}

# Exit code of `check` → when.
EXITS = {
    0: "CORRECT, and nothing else",
    1: "every other verdict; or an error of the command, in one line on standard error",
    2: "options that do not exist",
}


def algorithms() -> dict[str, dict]:
    """The algorithms that can be asked for: name → formula and settings."""
    return {"maml": {"computes": "as above", "settings": {}}}


def limits() -> dict[str, float]:
    """What a program must keep to."""
    silence = inspect.signature(protocol.check_program).parameters["timeout"].default
    return {"seconds of silence": silence, "seconds to end": protocol.GRACE, "bytes per line": protocol.LONGEST_LINE,
            "bytes in all": protocol.MOST_OUTPUT}  # fmt: skip


def example() -> tuple[str, str]:
    """A question as `gen` writes it, and its answer."""
    case = next(c for c in load("core") if c.id == "integers-1")
    question = next(protocol.lines([Question(case.id, case)], protocol.token("core", "float64", (), 1)))
    grads = {n: g.tolist() for n, g in case.answer.meta_grad.items()}
    answer = {"id": json.loads(question)["id"], "meta_grad": grads, "meta_loss": case.answer.meta_loss}
    return question, json.dumps(answer)


def as_json() -> str:
    """All tables, for a program."""
    question, answer = map(json.loads, example())
    fields = {what: {name: {"type": kind, "meaning": meaning} for name, (kind, meaning) in table.items()}
              for what, table in FIELDS.items()}  # fmt: skip
    layers = {name: {"takes": takes, "shapes": shapes, "computes": computes}
              for name, (takes, shapes, computes) in LAYERS.items()}  # fmt: skip
    losses = {name: {"o": o, "y": y, "computes": computes} for name, (o, y, computes) in LOSSES.items()}
    page = {
        "versions": VERSIONS, "fields": fields, "layers": layers, "losses": losses, "algorithms": algorithms(),
        "capabilities": CAPABILITIES, "verdicts": VERDICTS, "exit_codes": EXITS, "limits": limits(),
        "tolerance": {"rho": tolerance.TAU, "u": tolerance.UNIT}, "example": {"question": question, "answer": answer},
    }  # fmt: skip
    return json.dumps(page, ensure_ascii=False, indent=1)


# ── the page ────────────────────────────────────────────────────────────────────────────────────────────────────────


def text() -> str:
    """The page for a person: lines of at most 100 columns."""
    parts = [_head(), _computed(), _lines_of_json(), _models(), _algorithms(), _capabilities(), _judged()]
    return "\n".join(line for part in parts for line in part)


def _head() -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in VERSIONS.items())
    return [
        f"Specification of the tinymaml oracle: {versions}",
        "",
        *_paragraph(
            "A program in any language is asked for meta-gradients and is told whether they are right to rounding; if "
            "not, which mistake it makes. It reads questions on standard input and writes answers on standard output: "
            "JSON Lines in UTF-8, one object per line, one answer per question, in the order of the questions. It ends "
            "when its input ends."
        ),
        "    tinymaml oracle check -- ./yours                          run it, ask it, judge it",
        "    tinymaml oracle gen | ./yours | tinymaml oracle check     the same over a pipe",
        "    tinymaml oracle gen --to DIR; tinymaml oracle check --from DIR     a file per question, and per answer",
    ]


def _computed() -> list[str]:
    return [
        *_title(1, "What is computed"),
        *_paragraph(
            "Each of T tasks has a support loss L_s and a query loss L_q: the model's loss (see 3) on that set. A is "
            "the diagonal matrix of the inner rates α, with 0 for every parameter that does not adapt; Hₖ = ∇²L_s(θₖ)."
        ),
        "    θ₀ = θ,   θₖ₊₁ = θₖ − A ∇L_s(θₖ),   k = 0 … K − 1         the inner loop, of each task from θ anew",
        "    𝓛 = 1/T Σₜ L_q(θ_K)                                      the meta-loss",
        "    G = ∂𝓛/∂θ = 1/T Σₜ (I − H₀A)(I − H₁A) ⋯ (I − H_{K−1}A) ∇L_q(θ_K)     the meta-gradient",
        *_paragraph(
            "From the right: v ← ∇L_q(θ_K); v ← v − Hₖ A v for k = K − 1 … 0. Or differentiate 𝓛 through the "
            "inner loop by whatever your library offers. G has every parameter, those that do not adapt included; one "
            "that the loss does not depend on has the gradient 0."
        ),
    ]


def _lines_of_json() -> list[str]:
    titles = {
        "question": "A question", "task": "Each entry of \"support\" and \"query\"", "model": "\"model\"",
        "answer": "An answer", "trace": "Each entry of \"trace\"; any field may be left out",
    }  # fmt: skip
    lines = _title(2, "Questions and answers")
    for what, table in FIELDS.items():
        lines += [titles[what], *_table([(name, kind, meaning) for name, (kind, meaning) in table.items()])]
    question, answer = example()
    return [
        *lines,
        *_paragraph(
            "An array is nested lists in row-major order, a number if it has no axes; y counts as an array. Numbers "
            "are decimal and exact: the nearest float64 of each is meant, and an answer needs 17 significant digits "
            "(9 for float32). With `gen --hex` an array of a question is {\"f8\" (or \"f4\"): IEEE bit patterns in hex, "
            "16 (8) digits per number, most significant byte first, \"shape\": [...]}, or {\"int\": [...], \"shape\": "
            "[...]}. NaN and infinity are no answer. Unknown fields are to be ignored, in questions and in answers."
        ),
        *_paragraph(
            "Some questions repeat another one, with its tasks in another order or with θ moved a little: a program "
            "treats all alike. For example (one line each):"
        ),
        *_broken(question), *_broken(answer),
    ]  # fmt: skip


def _models() -> list[str]:
    layers = [(name, takes, f"{shapes}:  {computes}") for name, (takes, shapes, computes) in LAYERS.items()]
    losses = [(name, f"o {o}, y {y}", computes) for name, (o, y, computes) in LOSSES.items()]
    return [
        *_title(3, "Models"),
        *_paragraph(
            "The first layer is given x, each further one the output of the one before, the loss the last output o and "
            "y. Images are (N, height, width, channels). \"params\" of a layer names its entries of the question's "
            "\"params\" in the order given here; a name that stands in two layers is one parameter, whose gradient is "
            "the sum. In the list: parameters and settings; shape in → shape out; what is computed."
        ),
        *_table(layers),
        "Losses of one set, with their shapes",
        *_table(losses),
    ]


def _algorithms() -> list[str]:
    rows = [(name, ", ".join(a["settings"]), a["computes"]) for name, a in algorithms().items()]
    return [*_title(4, "Algorithms"), *_table(rows)]


def _capabilities() -> list[str]:
    return [
        *_title(5, "Capabilities"),
        *_paragraph(
            "Questions beyond the plain case are asked only of a program that is declared to do it, by `--capability "
            "NAME`; the others are skipped and counted, and never count as passed."
        ),
        *_table([(name, _of_the_wire(meaning)) for name, meaning in CAPABILITIES.items()]),
    ]


def _of_the_wire(meaning: str) -> str:
    return meaning.replace("case.", "").replace("xs, ys, xq, yq are lists with one array a task", "N differs")


def _judged() -> list[str]:
    most = limits()
    return [
        *_title(6, "How answers are judged"),
        *_paragraph(
            f"An element g of G with the exact value r is right if |g − r| ≤ {tolerance.TAU:g} u s: u = 2⁻⁵³ for float64, "
            "2⁻²⁴ for float32; s² = Σ_z (∂g/∂z · z)² over every intermediate value z of the computation, so that u s is "
            "the standard deviation of g if each is rounded once. There is no absolute tolerance: where s = 0, g = r. "
            "Independent of the order of summation, correct programs stay below 3 u s. The same holds for 𝓛."
        ),
        *_paragraph(
            f"The program is stopped after {most['seconds of silence']:g} seconds without an answer (`--timeout`), a "
            f"line of more than {most['bytes per line'] >> 20} MiB, or {most['bytes in all'] >> 20} MiB in all. A missing, "
            "further or wrongly ordered answer, a wrong shape, a line that is no JSON, or a version with another major "
            "number is a PROTOCOL_ERROR, which says what was seen and what was wanted, with the end of standard error."
        ),
        "Verdicts",
        *_table(list(VERDICTS.items())),
        "Exit codes of `tinymaml oracle check`",
        *_table([(str(code), when) for code, when in EXITS.items()]),
        "Versions: the major number rises if …; the minor number if …",
        *_table([(f"{name} {VERSIONS[name]}", f"{major}; {minor}") for name, (major, minor) in RULES.items()]),
    ]


# ── lines ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _title(number: int, name: str) -> list[str]:
    return ["", f"{number}. {name.upper()}"]


def _paragraph(words: str, indent: str = "") -> list[str]:
    return textwrap.wrap(words, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns, the last of which is wrapped; a row whose cells are too wide for their columns goes on below them."""
    widths = [min(max(len(row[i]) for row in rows), 28) for i in range(len(rows[0]) - 1)]
    lines = []
    for *cells, last in rows:
        start = "    " + "".join(f"{cell:{width}}  " for cell, width in zip(cells, widths, strict=True))
        lines += textwrap.wrap(last, WIDTH, initial_indent=start, break_on_hyphens=False,
                               subsequent_indent=" " * (6 + sum(widths) + 2 * len(widths)))  # fmt: skip
    return lines


def _broken(line: str) -> list[str]:
    """A long line of JSON, broken at spaces so that it can be read."""
    return textwrap.wrap(line, WIDTH, initial_indent="    ", subsequent_indent="      ", break_long_words=False,
                         break_on_hyphens=False)  # fmt: skip
