"""The cost of one exact meta-gradient, beside JAX, PyTorch and HIPS autograd on the same tasks.

    python -m bench                                   # W1 … W8, all that is installed: half an hour, mostly compilation
    python -m bench W1 W5 --dtype both --plot bench.png --out bench.jsonl
    python -m bench W2 --only compiled,jax --json
    python -m bench scaling [tasks] [steps] [width] [threads]
    python -m bench kernels [W1] [W5]                  # where the time of a compiled meta-gradient goes
    python -m bench overhead
    python -m bench load [W1] [W5] [--busy 0,1,2]      # single calls, beside processes that keep the cores busy
    python -m bench family [maml reptile …]             # every algorithm on sine waves: errors, spread, time; --help
    python -m bench systems [digits images …]           # every system on real data, beside its baselines; --help
    python -m bench rl exact                           # surrogates of reinforcement learning, by enumeration; --help
    python -m bench rl study | throughput              # 2-D navigation: returns by surrogate; time beside PyTorch
    python -m bench fuzz [--minutes 60] [--seed 0]     # random losses: is compiled what NumPy is?
    python -m bench autograd --source FILE             # HIPS autograd's own tests, run on tinymaml; --help
    python -m bench awkward [--function sum …]         # awkward inputs of every function, beside NumPy and JAX

Contenders take turns in one run, each in a process of its own, on the same number of cores. Machines are noisy: read
the ratio, which compares neighbouring turns. Before the clocks run, each gradient is compared in float64 with the
reference's; a contender that disagrees stops the workload. These are printed:

    ms           median of the turns, and quartiles; a turn lasts some 50 ms, or one call
    × PEER       the median ratio to PEER, the fastest, in the same round; below 1 is faster
    first call   recording or tracing, compiling and running, with empty caches; the libraries are imported already
    cached       the same in another process, which finds what the first one left on disk
    peak MB      the most memory at any time from the first call on, beyond what the libraries and the data take
    of GEMM      multiplications and additions of the matrix products (as the reference does them) in a second, over
                 those of a large square product, with the kernels of NumPy's BLAS that are the fastest here

Ctrl-C stops, and prints what there is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence

from tinymaml.files import write_atomically

from . import (
    autograd_suite,
    awkward,
    family,
    fuzz,
    kernels,
    load,
    overhead,
    peers,
    picture,
    rl,
    scaling,
    stated,
    systems,
    timing,
)
from .workloads import WORKLOADS

DTYPES = {"float32": ["float32"], "float64": ["float64"], "both": ["float64", "float32"]}


def main(argv: list[str]) -> int:
    apart = {
        "fuzz": fuzz,
        "autograd": autograd_suite,
        "awkward": awkward,
        "family": family,
        "systems": systems,
        "rl": rl,
    }
    if argv and argv[0] in apart:
        return apart[argv[0]].main(argv[1:])
    study = argv[0] if argv and argv[0] in ("scaling", "kernels", "overhead", "load") else "workloads"
    names = {"scaling": list(scaling.STUDIES), "overhead": []}.get(study, list(WORKLOADS))
    what = "study" if study == "scaling" else "workload"
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = ", ".join(load.NAMES) if study == "load" else "all"
    which = f"of {', '.join(names)} ({usual})" if names else "none"
    parser.add_argument("names", nargs="*", metavar="NAME", help=which)
    turns = 5 if study == "load" else 11
    parser.add_argument("--turns", type=int, default=turns, help=f"rounds in which each has a turn ({turns})")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    if study == "workloads":
        parser.add_argument("--patience", type=float, default=300, help="seconds until a first call is given up (300)")
    if study != "overhead":
        parser.add_argument("--dtype", choices=DTYPES, default="float32")
    if study in ("workloads", "scaling"):
        parser.add_argument("--threads", type=int, default=_cores(), help="threads of each contender (all cores)")
    if study == "load":
        parser.add_argument(
            "--busy", default="0,1,2", metavar="NUMBERS", help="numbers of busy processes, with commas (0,1,2)"
        )
        parser.set_defaults(threads=_cores())
    if study in ("workloads", "load", "kernels"):
        parser.add_argument("--store", metavar="NAME", help="keep in bench/results/stated/NAME.json what pages state")
    if study in ("workloads", "scaling", "load"):
        parser.add_argument("--only", metavar="NAMES", help=f"contenders, with commas: of {', '.join(_contenders())}")
        parser.add_argument("--plot", metavar="FILE", help="a PNG")
        parser.add_argument("--out", metavar="FILE", help="the JSON objects, as lines of a file")
    args = parser.parse_args(argv[study != "workloads" :])
    args.typed = argv
    if args.names and not names:
        parser.error(f"{study} takes no names, seen {' '.join(args.names)}")
    if unknown := [n for n in args.names if n not in names]:
        parser.error(f"no {what} {', '.join(unknown)}; wanted of {', '.join(names)}")
    if args.turns < 1:
        parser.error(f"--turns is {args.turns}, wanted at least 1")
    if study == "overhead":
        return _overhead(args)
    if study == "kernels":
        return _kernels(args, args.names or names)
    if not 1 <= args.threads <= _cores():
        parser.error(f"--threads is {args.threads}, wanted 1 … {_cores()}")
    if study == "load":
        try:
            args.busy = sorted({int(n) for n in args.busy.split(",")})
        except ValueError:
            parser.error(f"--busy is {args.busy}, wanted numbers with commas, as in 0,1,2")
        if args.busy[0] < 0:
            parser.error(f"--busy is {args.busy[0]}, wanted at least 0")
    args.only = args.only.split(",") if args.only else None
    if unknown := [n for n in args.only or () if n not in _contenders()]:
        parser.error(f"no contender {', '.join(unknown)}; wanted of {', '.join(_contenders())}")
    for file in filter(None, (args.plot, args.out)):
        folder = os.path.dirname(os.path.abspath(file))
        if not os.access(folder, os.W_OK):
            parser.error(f"cannot write {file}: {folder} is not a folder that you may write to")
    if args.plot:
        picture.require("matplotlib", "plot")
    chosen = args.names or (load.NAMES if study == "load" else names)
    if not args.json:
        m = timing.machine(args.threads)
        print(f"{m['cpu']}, {m['cores']} cores, {m['threads']} of them used; {m['system']}, Python {m['python']}\n")
    try:
        return {"workloads": _workloads, "scaling": _scaling, "load": _load}[study](args, chosen)
    except KeyboardInterrupt:
        timing.say()
        print("stopped", file=sys.stderr)
        return 130


def _workloads(args: argparse.Namespace, names: list[str]) -> int:
    records, wrong = [], 0
    told: set[str] = set()
    for name in names:
        w = WORKLOADS[name]
        able, skipped = timing.able(w.kind, args.only)
        for why in sorted({f"left out: {who}: {why}" for who, why in skipped.items()} - told):
            told.add(why)
            print(why, file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            try:
                exact = timing.exact(name, w, args.threads, folder)
                for dtype in DTYPES[args.dtype]:  # float64 first, where the gradients are compared
                    how = dict(turns=args.turns, cores=args.threads, exact=exact, patience=args.patience)
                    record = timing.measure(name, w, dtype, able, **how) | {"skipped": skipped}
                    _keep(args, records, record, timing.table, picture.workloads)
                    _store(args, timing.kept(record))
                    exact = None
            except timing.Disagreement as error:
                timing.say()
                print(f"error: {error}", file=sys.stderr)
                wrong = 1
    return wrong


def _scaling(args: argparse.Namespace, names: list[str]) -> int:
    results: list[dict] = []
    for name in names:
        for dtype in DTYPES[args.dtype]:
            result = scaling.run(name, args.only, dtype, args.turns, args.threads)
            _keep(args, results, result, scaling.table, picture.scaling)
    return 0


def _load(args: argparse.Namespace, names: Sequence[str]) -> int:
    records: list[dict] = []
    for name in names:
        able, skipped = load.contenders(WORKLOADS[name].kind, args.only)
        for who, why in skipped.items():
            print(f"left out: {who}: {why}", file=sys.stderr)
        for dtype in DTYPES[args.dtype]:
            how = dict(loads=args.busy, turns=args.turns, cores=args.threads)
            record = load.measure(name, WORKLOADS[name], dtype, able, **how) | {"skipped": skipped}
            _keep(args, records, record, load.table, picture.load)
            _store(args, load.kept(record))
    return 0


def _overhead(args: argparse.Namespace) -> int:
    found = overhead.measure(args.turns)
    if args.json:
        print(json.dumps({"nanoseconds": found, "machine": timing.machine(_cores())}))
        return 0
    print(f"nanoseconds an operation, in a chain of {overhead.LENGTH:,} on 4 numbers")
    print("\n".join(timing.columns([(name, f"{ns:.0f}") for name, ns in found.items()])))
    return 0


def _kernels(args: argparse.Namespace, names: list[str]) -> int:
    kept = {}
    for name in names:
        for dtype in DTYPES[args.dtype]:
            record = kernels.measure(name, WORKLOADS[name], dtype, args.turns)
            print(json.dumps(record) if args.json else kernels.table(record) + "\n", flush=True)
            kept |= kernels.kept(record)
    _store(args, kept, beside=False)
    return 0


def _keep(args: argparse.Namespace, records: list[dict], record: dict, show: Callable, draw: Callable) -> None:
    """Print a record, and write --out and --plot anew, with it and those before.

    Raises:
        KeyboardInterrupt: the record was cut short by one.
    """
    print(json.dumps(record) if args.json else show(record) + "\n", flush=True)
    records.append(record)
    if args.out:
        write_atomically(args.out, "".join(json.dumps(r) + "\n" for r in records).encode())
    timed = ("median", "seconds", "loads")
    drawn = [r for r in records if any(c.get(key) for c in r["contenders"].values() for key in timed)]
    if args.plot and drawn:
        picture.save(draw(drawn), args.plot)
    if record["interrupted"]:
        raise KeyboardInterrupt


def _store(args: argparse.Namespace, values: dict, beside: bool = True) -> None:
    """Store what the pages state, if --store NAME is given; `beside` what is stored already, or in its place."""
    if args.store:
        stated.keep(args.store, f"python -m bench {' '.join(args.typed)}", values, beside=beside)


def _contenders() -> list[str]:
    return [name for name in peers.CONTENDERS if not name.startswith("gemm")]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
