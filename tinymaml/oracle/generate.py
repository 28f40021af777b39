"""Build the vector files from nothing but this source.

    python -m tinymaml.oracle.generate             write tinymaml/oracle/vectors/
    python -m tinymaml.oracle.generate --check     rebuild, and compare byte for byte
    python -m tinymaml.oracle.generate --search    first look for other seeds where one does not suit any more
    python -m tinymaml.oracle.generate --mistakes  keep the answers; decide anew which mistakes each case sees
    python -m tinymaml.oracle.generate --family    build the cases of the other algorithms alone, and keep MAML's

Every answer is certified: computed in balls until one float64 is left. Then every rung of the ladder that applies must
agree, or nothing is written: exact rationals and nested differences to the last bit, the others to rounding. Which
mistakes are too badly conditioned to be known is decided in float64; where another BLAS may decide otherwise, that is
taken from the files that are there. Needs python-flint and PyTorch, `pip install "tinymaml[test,peers]"`.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from .. import extras
from ..files import write_atomically
from . import references, tolerance
from .arithmetic import Uncertain, margin_of
from .cases import VECTORS, Case, architecture, draw, load, to_hex
from .catalogue import CATALOGUE, flat, forms
from .family import ALGORITHMS, suites
from .mistakes.semantics import run
from .versions import VERSIONS

# ── what there is ───────────────────────────────────────────────────────────────────────────────────────────────────

FIXTURE = {"layers": [{"layer": "linear", "params": ["w"]}], "loss": "half_mse"}
QUARTIC = {"layers": [{"layer": "polynomial", "params": ["theta"]}], "loss": "mean"}


def by_hand() -> dict[str, Case]:
    """Cases with numbers that a person can follow."""
    column = lambda *x: np.array(x, float)[:, None]  # noqa: E731
    row = lambda *x: (np.array([x], float), np.zeros((1, 1)))  # noqa: E731
    polynomial = lambda *c: (np.array([c], float), np.zeros(1))  # noqa: E731
    integers = {"model": FIXTURE, "params": {"w": column(2, 3, 5)}, "support": [row(1, 2, 3)], "query": [row(4, 5, 6)],
                "inner_lr": 0.5}  # fmt: skip
    quartic = {"model": QUARTIC, "params": {"theta": np.array(1.5)}, "support": [polynomial(0, 0, 0, 0, 0.25)],
               "query": [polynomial(1 / 32, -0.25, 0.5, 0, 0)], "inner_lr": 0.125}  # fmt: skip
    cases = [
        Case("integers-1", "½(w·x)², one step: every mistake has its own integers", inner_steps=1, **integers),
        Case("integers-2", "½(w·x)², two steps", inner_steps=2, **integers),
        Case("quartic", "L_s = θ⁴/4, L_q = (θ − ¼)²/2, two steps: 130152422875 / 2⁴¹", inner_steps=2, **quartic),
    ]
    return {c.id: c for c in cases}


FINE = 1 + 3 * 2.0**-12  # times a power of two it is a rate that float32 holds; float16 and bfloat16 do not


def _core() -> dict[str, dict]:
    """id → arguments of `draw`. One case each for a family of mistakes; sizes are the least that show them, and no two
    cases are alike in more than they must (`vary` says what must differ, and why)."""
    mlp = {"shots": 3, "queries": 5}
    images = {"shots": 4, "queries": 3, "lacking": True}
    return {
        "tanh": dict(kind="tanh 1-2-1 mse", comment="curvature everywhere: order and place of the Hessians",
                     inner_steps=3, tasks=3, inner_lr=0.25 * FINE, sizes=(1.0, 0.5, 2.0), offset=0.5, **mlp),
        "per-parameter": dict(kind="tanh 1-2-1 mse", comment="a rate for every number; float32 holds none of them",
                              inner_steps=2, tasks=3, inner_lr=0.1, per_parameter=True, precise=True, **mlp),
        "softmax": dict(kind="tanh 2-2-3 cross_entropy", comment="a classifier; in each set a class is missing",
                        inner_steps=3, tasks=2, inner_lr=0.5 * FINE, shots=4, queries=5, lacking=True),
        "pooled-conv": dict(kind="image 4x5x2 c2x2x2 bn softplus pool 3", inner_steps=2, tasks=2,
                            comment="convolution of 2 to 2 channels, batch norm, max pooling; H ≠ W",
                            inner_lr=0.25 * FINE, **images),
        "strided-conv": dict(kind="image 2x4x2 c2x3x3s2 tanh flatten 3", inner_steps=1, tasks=2,
                             comment="convolution of 2 to 3 channels, 2×3, with stride; flattened",
                             inner_lr=0.5 * FINE, **images),
        "batch-norm": dict(kind="batch norm 1", comment="the statistics are differentiated through",
                           inner_steps=3, tasks=2, inner_lr=0.125 * FINE, shots=4, queries=3),
        "tied": dict(kind="tied 2", comment="one weight in two layers; small data, small errors",
                     inner_steps=2, tasks=2, inner_lr=0.75 * FINE, outer_lr=0.5, sizes=(0.5, 0.25), **mlp),
        "unsorted": dict(kind="unsorted 2", comment="three square weights of one shape; their names are not in order",
                         inner_steps=2, tasks=2, inner_lr=0.25 * FINE, **mlp),
        "deep": dict(kind="tanh 2-2-2-1 mse", comment="float32 holds neither θ, nor the data, nor α = 0.1",
                     inner_steps=2, tasks=2, inner_lr=0.1, precise=True, **mlp),
        "square": dict(kind="square 1-1-1 mse", comment="polynomial, so that its gradient is rational",
                       inner_steps=2, tasks=2, inner_lr=0.0625 * FINE, **mlp),
        "logistic": dict(kind="linear 2-1 binary_cross_entropy", comment="four tasks, one layer",
                         inner_steps=2, tasks=4, inner_lr=0.5 * FINE, shots=4, queries=2),
        "softplus": dict(kind="softplus 1-1-1 mse", comment="many steps, α = 0.01; targets far from 0",
                         inner_steps=5, tasks=2, inner_lr=0.01, precise=True, offset=3.0, **mlp),
        "quadratic": dict(kind="quadratic 2", comment="Hessians that do not commute; large gradients",
                          inner_steps=3, tasks=2, inner_lr=0.0625 * FINE, sizes=(128.0, 256.0), **mlp),
        "long": dict(kind="polynomial", comment="twelve steps; small gradients, a large rate", inner_steps=12, tasks=2,
                     inner_lr=4 * FINE, outer_lr=32.0, sizes=(2.0**-8, 2.0**-7), **mlp),
        "relu-at-zero": dict(kind="relu 1-2-1 mse", comment="one ReLU of the support set stands exactly at 0",
                             inner_steps=1, tasks=2, inner_lr=0.25 * FINE, **mlp),
        "pool-tie": dict(kind="conv pool tanh 1", comment="one image of the support set has flat windows: ties",
                         inner_steps=1, tasks=2, inner_lr=0.25 * FINE, shots=4, queries=2),
    }  # fmt: skip


_FULL_KINDS = (
    "tanh 2-3-1 mse", "tanh 1-3-3-1 mse", "tanh 2-2-3 cross_entropy",
    "tanh 2-2-1 binary_cross_entropy", "relu 2-3-1 mse", "relu 2-3-3 cross_entropy", "softplus 2-3-1 mse",
    "softplus 2-2-3 cross_entropy", "square 2-2-1 mse", "linear 3-2 mse", "linear 2-3 cross_entropy",
    "linear 3-1 binary_cross_entropy", "polynomial", "quadratic 3", "batch norm 2", "tied 2", "unsorted 2",
    "unused", "conv bn relu 1", "conv bn softplus pool 1",
    "image 3x4x2 c2x3x2 tanh 3",
)  # fmt: skip

_AXES: dict[str, dict] = {
    "1-step": dict(inner_steps=1, tasks=2),
    "1-task": dict(inner_steps=3, tasks=1),
    "2-steps": dict(inner_steps=2, tasks=2),
    "3-steps": dict(inner_steps=3, tasks=2),
    "3-tasks": dict(inner_steps=3, tasks=3),
    "4-tasks": dict(inner_steps=1, tasks=4),
    "5-steps": dict(inner_steps=5, tasks=2, lr=0.5),
    "12-steps": dict(inner_steps=12, tasks=1, lr=0.25),
    "1-shot": dict(inner_steps=2, tasks=2, shots=1),
    "5-shot": dict(inner_steps=2, tasks=2, shots=5),
    "no-steps": dict(inner_steps=0, tasks=2),
    "rate-0": dict(inner_steps=2, tasks=2, lr=0.0),
    "rate-1e-8": dict(inner_steps=2, tasks=2, inner_lr=2.0**-27),
    "rate-0.1": dict(inner_steps=1, tasks=2, inner_lr=0.1, precise=True),
    "rate-0.4": dict(inner_steps=1, tasks=2, inner_lr=0.4, precise=True),
    "divergent": dict(inner_steps=2, tasks=2, lr=8.0),
    "per-parameter": dict(inner_steps=3, tasks=2, per_parameter=True),
    "rates-0.01": dict(inner_steps=2, tasks=2, inner_lr=0.01, per_parameter=True, precise=True),
    "unequal": dict(inner_steps=2, tasks=3, unequal=True),
    "first-order": dict(inner_steps=2, tasks=2, first_order=True),
    "head": dict(inner_steps=2, tasks=2, adapt="head"),
    "lacking": dict(inner_steps=2, tasks=2, shots=5, queries=4, lacking=True),
}

_PLAIN = ("1-step", "1-task", "2-steps", "3-steps", "3-tasks", "4-tasks", "5-steps", "5-shot", "per-parameter",
          "unequal")  # fmt: skip


def _full() -> dict[str, dict]:
    out: dict[str, dict] = {}
    for kind, (axis, settings) in itertools.product(_FULL_KINDS, _AXES.items()):
        images = kind.startswith(("conv", "image"))
        sizes = {"shots": 4, "queries": 2} if images else {"shots": 3, "queries": 5}
        rate = 0.0625 if kind.startswith(("square", "quadratic", "linear 3-2", "polynomial")) else 0.25
        settings = dict(settings)
        settings.setdefault("inner_lr", rate * FINE * settings.pop("lr", 1.0))
        settings.pop("lr", None)
        if axis == "1-shot" and (images or kind.startswith("batch") or "cross" in kind):
            continue
        if axis == "head" and (len(kind.split()) == 1 or kind.startswith(("quadratic", "tied"))):
            continue
        if axis == "lacking" and architecture(kind).outputs < 3:
            continue
        name = kind.replace(" ", "-").replace("_", "-")
        out[f"{name}/{axis}"] = dict(kind=kind, comment=f"{kind}: {axis}") | sizes | settings
    for n in (2, 3):
        out[f"quadratic-{n}/critical-rate"] = dict(
            kind=f"quadratic {n}", comment="α = 1/λ_max of the first task's Hessian, where I − αH is singular",
            inner_steps=2, tasks=2, shots=3, queries=5,
        )  # fmt: skip
    classifiers = ("linear 2-3 cross_entropy", "linear 3-1 binary_cross_entropy", "tanh 2-2-3 cross_entropy")
    for i, kind in enumerate(classifiers):
        out[f"extreme-logits-{i}"] = dict(
            kind=kind, comment="logits of some thousands: a softmax that is not stable overflows", inner_steps=1,
            tasks=2, inner_lr=2.0**-22, sizes=(4096.0,), shots=3, queries=5,
        )  # fmt: skip
    for i in range(2):
        out[f"omniglot-{i}"] = dict(
            kind="omniglot", comment="four blocks of convolution, batch norm and ReLU", inner_steps=i + 1, tasks=1,
            inner_lr=0.125, shots=5, queries=5,
        )  # fmt: skip
    return out


# ── making a case ───────────────────────────────────────────────────────────────────────────────────────────────────


def case_of(id: str, spec: dict, seed: int) -> Case:
    """The case of a specification, without its answer."""
    spec = dict(spec)
    head = spec.pop("adapt", None) == "head"
    case = draw(**spec, seed=seed, id=id)
    if head:
        case = dataclasses.replace(case, adapt=tuple(case.head()), needs=("partial_adaptation",))
    if "critical-rate" in id:
        hessian = np.mean(case.support[0][0][:, :, :-1], 0)
        case = dataclasses.replace(case, inner_lr=float(np.float32(1 / np.linalg.eigvalsh(hessian)[-1])))
    if id == "relu-at-zero":
        case.params["b1"][...] = 0
        for x, _ in case.support:
            x[0] = 0
    if id == "pool-tie":  # the filter sees one pixel, and the first image is made of flat 2×2 blocks
        case.params["c1"][...] = 0
        case.params["c1"][0, 0] = 0.75
        for x, _ in case.support:
            x[0] = np.repeat(np.repeat(x[0, ::2, ::2], 2, 0), 2, 1)
    return case


def solved_case(id: str, spec: dict, seed: int) -> Case | None:
    """The case with its answer, if it does what it is for: it is well conditioned, and no mistake is hidden in its
    rounding."""
    extreme = any(word in id for word in _EXTREME)
    float64 = extreme or spec.get("precise") or "/" in id and (
        id.split("/")[-1] not in _PLAIN or any(word in id for word in ("conv", "image", "relu", "binary")))  # fmt: skip
    try:
        case = case_of(id, spec, seed)
        if not extreme:
            return references.solve_if_good(case, "float64" if float64 else "float32")
        case = references.solve_case(case)
        grad = flat(case.answer.meta_grad)
        return case if case.dtypes and np.isfinite(grad).all() and np.any(grad) else None
    except (FloatingPointError, Uncertain):
        return None


_EXTREME = ("divergent", "rate-", "rates-", "extreme", "12-steps", "no-steps", "omniglot")


def search(id: str, known: tuple[dict, int | None]) -> int:
    """The first seed that makes a suitable case; the one that is known, if it still does."""
    spec, seed = known
    if seed is not None and solved_case(id, spec, seed):
        return seed
    for seed in range(400):
        if solved_case(id, spec, seed):
            return seed
    raise RuntimeError(f"no seed makes a suitable {id}")


def _search_family(id: str, of: list[str]) -> int:
    return suites.search(*of, dtype="float32")[0]


def build_case(id: str, case: Case, before: Collection[str] | None = None) -> Case:
    """The case with its certified answer, confirmed by every rung that applies.

    Args:
        before: that of `references.with_mistakes`.

    Raises:
        AssertionError: two rungs disagree.
    """
    case = references.solve_case(case, references.certified(case), before)
    answer = case.answer
    confirmed = {"balls": "every bit"}

    def same(name, got):
        value, grads = got
        grads = {n: np.vectorize(float, otypes=[float])(g) for n, g in grads.items()}
        for n, g in grads.items():
            assert np.array_equal(g, answer.meta_grad[n]), f"case {id}: {name} and the balls disagree on {n}"
        assert float(value) == answer.meta_loss, f"case {id}: {name} and the balls disagree on the loss"
        confirmed[name] = "every bit"

    def near(name, got):
        off = tolerance.error(got[1], answer.meta_grad, answer.scale, tolerance.UNIT["float64"])
        off = max(off, float(tolerance.errors(got[0], answer.meta_loss, answer.loss_scale, tolerance.UNIT["float64"])))
        assert off <= tolerance.TAU, f"case {id}: {name} is {off:.3g} roundings from the balls"
        confirmed[name] = f"within {tolerance.TAU:g} roundings"

    for name, exact, compute in _rungs(id, case) if case.algorithm == "maml" else suites.rungs(case):
        (same if exact else near)(name, compute(case))
    assert len(confirmed) >= 3
    return dataclasses.replace(case, answer=dataclasses.replace(answer, confirmed=confirmed))


def _rungs(id: str, case: Case) -> Iterator[tuple]:
    """The ways that apply to a case of MAML: name, whether it is exact, and the function of the case."""
    if case.inner_steps <= 2 and _rational(case):
        yield "exact rationals", True, references.exact
    if not case.first_order:
        _, at_kink = margin_of(lambda: run(case))
        if not at_kink and "extreme" not in id and _cost_of_differences(case) < 1e6:  # e^−4096 needs more digits
            yield "differences", True, references.differences
        yield "complex step", False, references.complex_step
    yield "engine", False, references.by_engine
    yield "PyTorch", False, references.by_torch


def _rational(case: Case) -> bool:
    layers = {m["layer"] for m in case.model["layers"]}
    return layers <= {"linear", "square", "relu", "polynomial", "quadratic"} and "cross" not in case.model["loss"]


def _cost_of_differences(case: Case) -> float:
    n = sum(p.size for p in case.params.values())
    examples = sum(x.size for x, _ in case.support)
    return 2 * n * (2 * n * case.inner_steps + 1) * examples * (8 if "conv" in str(case.model) else 1) * 4


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def case_as_json(case: Case, mistakes: list[str], with_numbers: bool) -> dict:
    """The case as JSON, mistakes as their places in `mistakes`; with the numbers, or without (they are in the
    safetensors)."""
    answer = case.answer
    known = {
        "meta_loss": to_hex(np.float64(answer.meta_loss)), "loss_scale": answer.loss_scale,
        "distance": _short(answer.distance), "margin": _short(answer.margin), "confirmed": answer.confirmed,
        "seen": [mistakes.index(name) for name in answer.bugs.seen],
        "unknown": [mistakes.index(name) for name in answer.bugs.unknown],
    }  # fmt: skip
    if with_numbers:
        known |= {"meta_grad": to_hex(flat(answer.meta_grad)), "scale": flat(answer.scale).tolist()}
    return case.to_json(to_hex) | {"dtypes": list(case.dtypes), "answer": known}


def _short(x: float) -> float | None:
    return float(f"{x:.2e}") if np.isfinite(x) else None


def built(folder: Path, seeds: dict[str, int], jobs: int = 2) -> dict[str, Case]:
    """Every case with its certified answer, by its id."""
    work = list(by_hand().items())
    work += [(id, case_of(id, spec, seeds[id])) for id, spec in (_core() | _full()).items()]
    work += _family(seeds)
    work.sort(key=lambda idcase: "omniglot" not in idcase[0])  # the long ones first
    return _certified(work, folder, jobs)


def _certified(work: list[tuple[str, Case]], folder: Path, jobs: int) -> dict[str, Case]:
    before = unknown_before(folder)
    return dict(_in_parallel(build_case, [(id, case, before.get(id)) for id, case in work], jobs))


def unknown_before(folder: Path) -> dict[str, set[str]]:
    """Id of each case in the files → the mistakes whose values were not known when they were written."""
    files = [
        json.loads(f.read_bytes()) for name in ("core", "full", "family") if (f := folder / f"{name}.json").exists()
    ]
    return {case["id"]: {file["mistakes"][i] for i in case["answer"]["unknown"]}
            for file in files for case in file["cases"]}  # fmt: skip


def _family(seeds: dict[str, int]) -> list[tuple[str, Case]]:
    """The cases of the other algorithms, without their answers."""
    return [(id, suites.draw(*id.split("/"), seeds[id])) for id in suites.ids()]


def family_files(folder: Path, seeds: dict[str, int], jobs: int = 2) -> dict[str, bytes]:
    """The files of the other algorithms, with the manifest, which keeps what it says of MAML's."""
    cases = _certified(_family(seeds), folder, jobs)
    family = _dump([cases[id] for id in suites.ids()], True)
    manifest = json.loads((folder / "MANIFEST.json").read_bytes())
    manifest = {"version": manifest.pop("version")} | dict(
        sorted((manifest | {"family.json": hashlib.sha256(family).hexdigest()}).items())
    )
    return {"family.json": family, "MANIFEST.json": (json.dumps(manifest, indent=1) + "\n").encode()}


def kept_cases(folder: Path, jobs: int = 2) -> dict[str, Case]:
    """Every case with the answer that is in the files, and the mistakes of today's catalogue."""
    cases = load("full", folder) + [case for name in ALGORITHMS for case in load("core", folder, name)]
    return dict(_in_parallel(_with_mistakes, [(case.id, case, case.answer.bugs.unknown) for case in cases], jobs))


def _with_mistakes(id: str, case: Case, before: Collection[str]) -> Case:
    return references.with_mistakes(case, before)


def files(cases: dict[str, Case]) -> dict[str, bytes]:
    """Every vector file by its name."""
    safetensors = extras.require("safetensors.numpy", "oracle")
    core = [cases[id] for id in [*_core(), *by_hand()]]
    full = [cases[id] for id in _full()]
    arrays = {case.id: np.stack([flat(case.answer.meta_grad), flat(case.answer.scale)]) for case in full}
    out = {
        "core.json": _dump(core, True),
        "family.json": _dump([cases[id] for id in suites.ids()], True),
        "full.json": _dump(full, False),
        "full.safetensors": safetensors.save(arrays),
    }
    manifest = {"version": VERSIONS["vectors"]}
    manifest |= {name: hashlib.sha256(data).hexdigest() for name, data in sorted(out.items())}
    return out | {"MANIFEST.json": (json.dumps(manifest, indent=1) + "\n").encode()}


def _dump(cases: list[Case], with_numbers: bool) -> bytes:
    possible = dict.fromkeys(name for c in cases for name in forms(c))
    names = [name for name in possible if CATALOGUE[name.split("/")[0]].classic]
    rows = [json.dumps(case_as_json(c, names, with_numbers), separators=(",", ":"), ensure_ascii=False) for c in cases]
    head = f'"format":"{VERSIONS["vectors"]}","mistakes":{json.dumps(names)}'
    return ("{" + head + ',"cases":[\n' + ",\n".join(rows) + "\n]}\n").encode()


def _in_parallel(f, work: list[tuple], jobs: int) -> Iterator[tuple]:
    tqdm = extras.require("tqdm", "train").tqdm
    with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
        futures = [(id, pool.submit(f, id, *given)) for id, *given in work]
        for id, future in tqdm(futures, unit="case", mininterval=5):
            yield id, future.result()


SEEDS = VECTORS / "seeds.json"


def main(argv: list[str] | None = None) -> int:
    """The command; 0 if the files are written, or are what they should be."""
    parser = argparse.ArgumentParser(prog="python -m tinymaml.oracle.generate", description="Build the vector files.")
    parser.add_argument("--check", action="store_true", help="write nothing; compare with what is there")
    parser.add_argument("--search", action="store_true", help="first look for other seeds where needed")
    parser.add_argument("--mistakes", action="store_true", help="keep the answers; which mistakes does each case see?")
    parser.add_argument("--family", action="store_true", help="build the other algorithms' cases; keep MAML's")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--to", type=Path, default=VECTORS, help="folder (the package's)")
    args = parser.parse_args(argv)
    if args.search:
        known = json.loads(SEEDS.read_text(encoding="utf-8")) if SEEDS.exists() else {}
        work = [(id, (spec, known.get(id))) for id, spec in (_core() | _full()).items()]
        found = known if args.family else dict(_in_parallel(search, work, args.jobs))
        found |= dict(_in_parallel(_search_family, [(id, id.split("/")) for id in suites.ids()], args.jobs))
        write_atomically(SEEDS, (json.dumps(found, indent=0) + "\n").encode())
    seeds = json.loads(SEEDS.read_text(encoding="utf-8"))
    if args.family:
        rebuilt = family_files(args.to, seeds, args.jobs)
    else:
        rebuilt = files(kept_cases(args.to, args.jobs) if args.mistakes else built(args.to, seeds, args.jobs))
    if args.check:
        different = [name for name, data in rebuilt.items() if (args.to / name).read_bytes() != data]
        same = f"{len(rebuilt)} files rebuilt, byte for byte the same"
        print(f"different: {', '.join(different)}" if different else same)
        return 1 if different else 0
    args.to.mkdir(parents=True, exist_ok=True)
    for name, data in rebuilt.items():
        write_atomically(args.to / name, data)
        print(f"{args.to / name}  {len(data):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
