"""The specification: all that a program in any language must know to be checked, on one page made from the code.

    print(text())           tinymaml oracle spec
    print(algorithm(name))  tinymaml oracle spec --algorithm NAME
    print(as_json())        tinymaml oracle spec --json
    print(catalogue())      tinymaml oracle list-bugs --json
    FIELDS, LAYERS, LOSSES, POLICIES  the tables that others do not hold

This page is enough to write a program: those in `bench/oracle/clients` were written from it alone.
"""

from __future__ import annotations

import inspect
import json
import textwrap

import numpy as np

from .. import family, tolerance
from ..cases import CAPABILITIES, load
from ..catalogue import CATALOGUE, OUT_OF_SIGHT
from ..judge import protocol
from ..models import EPS
from ..questions import Question
from ..versions import RULES, VERSIONS
from .report import VERDICTS

WIDTH = 100

# Every object on the wire: field → (type and shape, meaning).
FIELDS: dict[str, dict[str, tuple[str, str]]] = {
    "question": {
        "format": ("string", "the wire's version; to another major, answer an error"),
        "id": ("string", "is repeated in the answer"),
        "dtype": ("string", "\"float64\" or \"float32\": compute in it, or more precisely"),
        "algorithm": ("string", "whose meta-gradient is wanted, see 4"),
        "settings": ("object", "the numbers that the algorithm has beside α and K, see 4"),
        "model": ("object", "layers and loss, see below and 3"),
        "params": ("{name: array}", "θ; their order is that of gradients given as a list"),
        "support": ("list of T objects", "the support set of each task, T ≥ 1"),
        "query": ("list of T objects", "the query set of each task"),
        "inner_lr": ("number or {name: array}", "α: one for all, or one for each element of each parameter"),
        "inner_steps": ("integer ≥ 0", "K"),
        "first_order": ("boolean", "if true, G = 1/T Σₜ ∇L_q(θ_K), without the factors"),
        "adapt": ("null or list of names", "the parameters that the inner loop changes; null: all"),
        "outer_lr": ("number", "the outer rate; the meta-gradient does not depend on it"),
        "needs": ("list of strings", "the capabilities that the question needs, see 5"),
    },
    "task": {
        "x": ("array (N, …)", "inputs, N ≥ 1 examples; the first layer tells the other axes"),
        "y": ("array (N, …)", "targets, see the losses"),
    },
    "model": {
        "layers": ("list of objects", "\"layer\", the kind; for some kinds \"params\", a list of names, and settings"),
        "loss": ("string", "the kind of the loss"),
    },
    "answer": {
        "id": ("string", "the question's"),
        "meta_grad": ("{name: array} or list", "G, each array of its parameter's shape; null counts as zeros"),
        "meta_loss": ("number", "𝓛, optional; tells a wrong derivative from another loss"),
        "adapted": ("list of T {name: array}", "θ_K of each task, optional; tells the inner loop from the rest"),
        "losses": ("list of T lists", "L_s(θ₀) … L_s(θ_{K−1}) of each task, optional"),
        "trace": ("list of T objects", "each task's way, optional; names the first wrong quantity"),
        "format": ("string", "the wire's version that the program was written for, optional"),
        "error": ("string", "in place of all but the id: why there is no answer"),
    },
    "trace": {
        "theta": ("list of K + 1 {name: array}", "θ₀ … θ_K"),
        "loss_s": ("list of K numbers", "L_s(θ₀) … L_s(θ_{K−1})"),
        "grad_s": ("list of K {name: array}", "∇L_s(θ₀) … ∇L_s(θ_{K−1})"),
        "loss_q": ("number", "L_q(θ_K)"),
        "grad_q": ("{name: array}", "∇L_q(θ_K)"),
    },
}  # fmt: skip

# Every layer: (parameters with their shapes; settings, shape in → shape out if it changes, what it computes).
LAYERS: dict[str, tuple[str, str, str]] = {
    "linear": ("w (a, b), bias (b)", "(N, a) → (N, b)", "x w + bias, or x w if bias is missing"),
    "conv": ("w (h, w, in, out); stride, padding", "(N, H, W, in) → (N, H′, W′, out)",
             "y[n,i,j,o] = Σ_pqc x[n, i·stride + p − top, j·stride + q − left, c] w[p,q,c,o], x = 0 outside of the "
             "image; the filter is not flipped, and there is no bias. padding \"VALID\": top = left = 0, "
             "H′ = ⌊(H − h)/stride⌋ + 1. \"SAME\", as in TensorFlow and JAX: H′ = ⌈H/stride⌉, and of the "
             "max((H′ − 1)·stride + h − H, 0) rows of zeros half, rounded down, are above (top), the rest below. An "
             "integer: so many on each side. W likewise"),
    "batch_norm": ("gamma (C), beta (C)", "(…, C) → (…, C)",
                   f"(x − mean)/√(var + ε)·gamma + beta, ε = 2^{round(np.log2(EPS))}; mean and biased variance, the "
                   "mean of (x − mean)², of the set at hand, support or query, over all axes but the last; both are "
                   "differentiated through, and there are no running statistics"),
    "tanh": ("", "", "tanh x"),
    "relu": ("", "", "max(x, 0), with the derivative 0 at x = 0"),
    "softplus": ("", "", "log(1 + eˣ) = max(x, 0) + log(1 + e^−|x|)"),
    "square": ("", "", "x²"),
    "max_pool": ("size", "(N, H, W, C) → (N, ⌊H/size⌋, ⌊W/size⌋, C)",
                 "the greatest of each size × size window, without overlap; rows and columns left over are dropped; of "
                 "a tie, the first in row-major order has the derivative"),
    "flatten": ("", "(N, …) → (N, product)", "row-major"),
    "spatial_mean": ("", "(N, H, W, C) → (N, C)", "the mean over H and W"),
    "polynomial": ("theta ()", "(N, D) → (N)", "Σ_d x[n,d] theta^d, d = 0 … D − 1"),
    "quadratic": ("theta (d)", "(N, d, d + 1) → (N)",
                  "½ θᵀA θ − bᵀθ; [A b] = x[n], A = Aᵀ"),
    "context": ("phi (d)", "(…, a) → (…, a + d)", "[x phi]: phi is put behind every input"),
}  # fmt: skip

# Every loss of the output o: (shapes of o and of y, what it computes).
LOSSES: dict[str, tuple[str, str]] = {
    "mse": ("o (N, C), y (N, C)", "mean (o − y)² over all N·C elements"),
    "half_mse": ("o (N, C), y (N, C)", "mean ½ (o − y)² over all N·C elements"),
    "cross_entropy": ("o (N, C), y (N)", "mean over N of log Σ_c exp o_c − o_y, y in 0 … C − 1"),
    "binary_cross_entropy": ("o (N, C), y (N, C)", "mean (log(1 + e^o) − y o) over all N·C elements"),
    "mean": ("o (N), y (N)", "mean o; y is not used"),
}  # fmt: skip

# What stands in the place of a loss where the algorithm is rl: (shapes of o and of y, log π of each step).
POLICIES: dict[str, tuple[str, str]] = {
    "categorical": ("o (…, A), y (…, 4)", "log π = o_a − log Σ_c exp o_c, (…), a = y[…, 0]"),
    "gaussian": ("o (…, 2), y (…, 4)", "log π = −z²/2 − log σ − ½ log 2π, (…), z = (y[…, 0] − μ)/σ, o = [μ log σ]"),
}

# Exit code of `check` → when.
EXITS = {
    0: "CORRECT, and nothing else",
    1: "every other verdict; or an error of the command, in one line on standard error",
    2: "options that do not exist",
}


def algorithms() -> dict[str, dict]:
    """The algorithms that can be asked for: name → G of one task, the settings' meaning, and all of it in words."""
    of_family = {name: {"computes": " ".join(module.FORMULA.split()), "settings": module.SETTINGS,
                        "page": inspect.getdoc(module)} for name, module in family.ALGORITHMS.items()}  # fmt: skip
    return {"maml": {"computes": "section 1", "settings": {}, "page": "See section 1."}} | of_family


def limits() -> dict[str, float]:
    """The rules that a program must keep."""
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
    losses, policies = ({name: {"shapes": shapes, "computes": computes} for name, (shapes, computes) in table.items()}
                        for table in (LOSSES, POLICIES))  # fmt: skip
    page = {
        "versions": VERSIONS, "fields": fields, "layers": layers, "losses": losses, "policies": policies,
        "algorithms": algorithms(),
        "capabilities": CAPABILITIES, "verdicts": VERDICTS, "exit_codes": EXITS, "limits": limits(),
        "tolerance": {"rho": tolerance.TAU, "u": tolerance.UNIT}, "example": {"question": question, "answer": answer},
    }  # fmt: skip
    return json.dumps(page, ensure_ascii=False, indent=1)


def catalogue() -> str:
    """The catalogue of mistakes, for a program."""
    of = {m.id: name for name, module in family.ALGORITHMS.items() for m in module.MISTAKES}
    mistakes = [
        {"id": m.id, "kind": m.kind, "algorithm": of.get(m.id, "maml"), "computes": m.computes, "cause": m.explanation,
         "torch": m.torch, "jax": m.jax, "seen": m.seen,
         "number": m.free and {"symbol": m.free.symbol, "typical": m.free.typical, "integer": m.free.integer}}
        for m in CATALOGUE.values()
    ]  # fmt: skip
    page = {"version": VERSIONS["catalogue"], "mistakes": mistakes, "out_of_sight": OUT_OF_SIGHT}
    return json.dumps(page, ensure_ascii=False, indent=1)


# ── the page ────────────────────────────────────────────────────────────────────────────────────────────────────────


def spec_page() -> str:
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
            "JSON Lines in UTF-8, one object per line, one answer per question, in the order of the questions; write "
            "each at once, and end when the input ends."
        ),
        "    tinymaml oracle check -- ./yours                                 run it, ask it, judge it",
        "    tinymaml oracle gen | ./yours | tinymaml oracle check            the same over a pipe",
        "    tinymaml oracle gen --to DIR;  tinymaml oracle check --from DIR  a file per question, or answer",
    ]


def _computed() -> list[str]:
    return [
        *_title(1, "What is computed"),
        *_paragraph(
            "Each of T tasks has a support loss L_s and a query loss L_q: the model's loss (see 3) on that set. A is "
            "the diagonal matrix of the inner rates α, with 0 for every parameter that does not adapt; Hₖ = ∇²L_s(θₖ)."
        ),
        "    θ₀ = θ,   θₖ₊₁ = θₖ − A ∇L_s(θₖ),   k = 0 … K − 1       the inner loop, of each task from θ anew",
        "    𝓛 = 1/T Σₜ L_q(θ_K)                                    the meta-loss",
        "    G = ∂𝓛/∂θ = 1/T Σₜ (I − H₀A)(I − H₁A) ⋯ (I − H_{K−1}A) ∇L_q(θ_K)     the meta-gradient",
        *_paragraph(
            "From the right: v ← ∇L_q(θ_K); v ← v − Hₖ A v for k = K − 1 … 0. Or differentiate 𝓛 through the "
            "inner loop by whatever your library offers. G has every parameter, those that do not adapt included; one "
            "that the loss does not depend on has the gradient 0."
        ),
    ]


def _lines_of_json() -> list[str]:
    titles = {
        "question": "A question", "task": "Each entry of \"support\" and \"query\"", "model": "The model",
        "answer": "An answer", "trace": "Each entry of \"trace\", any field of which may be left out",
    }  # fmt: skip
    lines = _title(2, "Questions and answers")
    for what, table in FIELDS.items():
        lines += [titles[what], *_table([(name, kind, meaning) for name, (kind, meaning) in table.items()])]
    question, answer = example()
    return [
        *lines,
        *_paragraph(
            "An array is nested lists, row-major; without axes, a number. Numbers are decimal: the nearest float64 is "
            "exactly what is meant; write 17 significant digits. With `gen --hex` an array of a question is {\"f4\" or "
            "\"f8\": IEEE bit patterns in hex, 8 or 16 digits per number, most significant byte first, \"shape\": "
            "[...]}, or {\"int\": [...], \"shape\": [...]}. NaN and infinity are no answer. A name stands once in an "
            "object. Ignore fields that you do not know. Some questions ask for another one again, with its tasks in "
            "another order, or with θ moved: treat all alike. Names and ids hold no character that JSON would escape. "
            "Example, each on one line:"
        ),
        *_broken(question), *_broken(answer),
    ]  # fmt: skip


def _models() -> list[str]:
    layers = [(name, " | ".join(filter(None, of))) for name, of in LAYERS.items()]
    losses = [(name, shapes, computes) for name, (shapes, computes) in LOSSES.items()]
    return [
        *_title(3, "Models"),
        *_paragraph(
            "The first layer is given x, each further one the output of the one before, the loss the last output o and "
            'y. Images are (N, height, width, channels). A layer\'s "params" names parameters in the order given '
            "here; a name that stands in two layers is one parameter, used twice. Below: parameters (with their "
            "shapes) and settings | shape in → shape out, if it changes | what is computed."
        ),
        *_table(layers),
        "Losses of one set, with their shapes",
        *_table(losses),
        "Policies, which stand in the place of a loss where the algorithm is rl: log π of each step",
        *_table([(name, shapes, computes) for name, (shapes, computes) in POLICIES.items()]),
    ]


def _algorithms() -> list[str]:
    rows = [(name, a["computes"] + "".join(f"; {setting}: {meaning}" for setting, meaning in a["settings"].items()))
            for name, a in algorithms().items()]  # fmt: skip
    return [
        *_title(4, "Algorithms"),
        *_paragraph(
            "G is the mean over tasks of what stands here, g_s = ∇L_s, g_q = ∇L_q; then come the settings. `tinymaml "
            "oracle spec --algorithm NAME` tells more of each."
        ),
        *_table(rows),
    ]


def algorithm(name: str) -> str:
    """All that is to be known of one algorithm.

    Raises:
        ValueError: there is no such algorithm.
    """
    known = algorithms()
    if name not in known:
        raise ValueError(f"algorithm is {name!r}, wanted one of {', '.join(known)}")
    settings = [f'"{setting}" in "settings": {meaning}' for setting, meaning in known[name]["settings"].items()]
    return "\n".join([known[name]["page"], *([""] if settings else []), *settings])


def _capabilities() -> list[str]:
    return [
        *_title(5, "Capabilities"),
        *_paragraph(
            "Questions beyond the plain case are asked only of a program that is declared to do it, by `--capability "
            "NAME`; the others are skipped and counted; they never count as passed."
        ),
        *_table([(name, _of_the_wire(meaning)) for name, meaning in CAPABILITIES.items()]),
    ]


def _of_the_wire(meaning: str) -> str:
    return meaning.replace("case.", "").replace("xs, ys, xq, yq are lists with one array per task", "N differs")


def _judged() -> list[str]:
    most = limits()
    return [
        *_title(6, "How answers are judged"),
        *_paragraph(
            f"An element g of G whose exact value is r is right if ρ = |g − r| / (u s) ≤ {tolerance.TAU:g}. u is 2⁻⁵³ "
            "for float64 and 2⁻²⁴ for float32; s² = Σ_z (∂g/∂z · z)² over every intermediate value z of the "
            "computation: u s is the standard deviation of g if each is rounded once. Correct programs stay below 3, "
            "whatever the order of summation. There is no absolute tolerance: where s = 0, g must be r. 𝓛 likewise."
        ),
        *_paragraph(
            f"The program is stopped after {most['seconds of silence']:g} seconds without an answer (`--timeout`), "
            f"after a line of {most['bytes per line'] >> 20} MiB, or {most['bytes in all'] >> 20} MiB in all, and "
            f"{most['seconds to end']:g} seconds after its last answer. An answer that is missing, out of order "
            "or of another shape, a line that is not JSON, or a version with another major number is a PROTOCOL_ERROR, "
            "which says what was seen and what was wanted, and repeats the end of standard error."
        ),
        "Verdicts",
        *_table(list(VERDICTS.items())),
        "Exit codes of `tinymaml oracle check`",
        *_table([(str(code), when) for code, when in EXITS.items()]),
        "Versions: the major number rises if …; the minor number rises if …",
        *_table([(f"{name} {VERSIONS[name]}", f"{major}; {minor}") for name, (major, minor) in RULES.items()]),
    ]


# ── lines ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _title(number: int, name: str) -> list[str]:
    return ["", f"{number}. {name.upper()}"]


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns, the last of which is wrapped."""
    widths = [max(len(row[i]) for row in rows) + 2 for i in range(len(rows[0]) - 1)]
    lines = []
    for *cells, last in rows:
        start = "  " + "".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
        lines += _paragraph(last, start, " " * len(start))
    return lines


def _broken(line: str) -> list[str]:
    """A long line of JSON, broken at spaces so that it can be read."""
    return _paragraph(line, "  ", "    ")


def _paragraph(words: str, first: str = "", further: str = "") -> list[str]:
    return textwrap.wrap(words, WIDTH, initial_indent=first, subsequent_indent=further, break_on_hyphens=False)
