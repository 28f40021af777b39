"""The command line: `tinymaml train | eval | plot | data | cache | oracle`. It parses, calls, prints; others work."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from . import __version__
from .train import DEFAULTS, Config

# Exit codes: 0 done, 1 something went wrong (one line says what), 2 wrong usage, 130 stopped by Ctrl-C, saved.


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):  # where α or ± cannot be written, a ? is better than no answer
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    argv = sys.argv[1:] if argv is None else argv
    argv, program = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    args = _parser().parse_args(argv)
    args.program = program
    try:
        return args.run(args) or 0
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        return 1
    except (OSError, ValueError, TypeError, ImportError, FloatingPointError, MemoryError) as error:
        print(f"tinymaml: {_message(error)}", file=sys.stderr)
        return 1


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tinymaml", description="Exact second-order MAML in NumPy: train, evaluate and draw few-shot learning."
    )
    parser.add_argument("--version", action="version", version=f"tinymaml {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="meta-train on a task family")
    families = train.add_subparsers(dest="family", required=True, metavar="FAMILY")
    for family in DEFAULTS:
        sub = families.add_parser(
            family, help=f"meta-train on {family} tasks", formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        _add_options(sub, family)
        sub.add_argument("--out", metavar="RUN", default=f"runs/{family}", help="folder of the run")
        sub.add_argument("--resume", action="store_true", help="continue the run in --out from its newest checkpoint")
        sub.set_defaults(run=_train)

    evaluate = commands.add_parser("eval", help="adapt to tasks never trained on, and measure")
    _add_run(evaluate)
    evaluate.add_argument("--tasks", type=int, default=600, help="how many tasks (600)")
    evaluate.add_argument("--steps", type=int, default=10, help="up to how many adaptation steps (10)")
    evaluate.add_argument("--split", choices=("test", "val", "train"), default="test", help="which tasks (test)")
    evaluate.add_argument("--iteration", type=int, help="which checkpoint (the newest)")
    evaluate.add_argument("--json", action="store_true", help="print JSON instead of a table")
    evaluate.set_defaults(run=_eval)

    plot = commands.add_parser("plot", help="draw learning curves, and tasks before and after adaptation")
    _add_run(plot)
    plot.add_argument("--to", metavar="DIR", help="where the pictures go (RUN/plots)")
    plot.set_defaults(run=_plot)

    data = commands.add_parser("data", help="download a data set")
    data.add_argument("dataset", choices=("omniglot",))
    data.add_argument("--to", metavar="DIR", required=True, help="where the archives go")
    data.set_defaults(run=_data)

    cache = commands.add_parser("cache", help="show or clear the folder of compiled programs")
    cache.add_argument("--clear", action="store_true", help="delete the programs that tinymaml has compiled")
    cache.set_defaults(run=_cache)

    _add_oracle(commands.add_parser("oracle", help="is my meta-gradient right, and if not, which mistake is it?"))
    return parser


def _add_oracle(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="oracle", required=True, metavar="COMMAND")

    gen = commands.add_parser("gen", help="print the cases as JSON Lines, without answers")
    _add_suite(gen)
    gen.add_argument("--hex", action="store_true", help="numbers as IEEE bit patterns instead of exact decimals")
    gen.add_argument("--seed", type=int, help="of the new cases (another each time)")
    gen.add_argument("--to", metavar="DIR", help="write one file a case into DIR instead of printing")
    gen.set_defaults(run=_oracle_gen)

    check = commands.add_parser(
        "check", help="judge answers", usage="%(prog)s [options] [package.module:function | -- PROGRAM …]",
        description="Judge a Python function, a program, or, with neither, the JSON Lines on standard input.",
    )  # fmt: skip
    check.add_argument("target", nargs="?", metavar="package.module:function", help="a Python function")
    _add_suite(check)
    check.add_argument("--from", dest="folder", metavar="DIR", help="read the answers from the *.json in DIR")
    check.add_argument("--timeout", type=float, default=60.0, help="seconds of silence before it is given up (60)")
    check.add_argument("--json", action="store_true", help="print the report as JSON")
    check.set_defaults(run=_oracle_check)

    commands.add_parser("list-bugs", help="the catalogue: what each mistake computes, and its fix").set_defaults(
        run=_oracle_list
    )
    show = commands.add_parser("show", help="lay a case out: steps, Hessians, factors, what each mistake gives")
    show.add_argument("case", nargs="?", metavar="CASE", help="its id; without one, all ids are listed")
    show.set_defaults(run=_oracle_show)


def _add_suite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suite", choices=("core", "full", "fresh"), default="core", help="which cases (core)")
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64", help="(float64)")
    parser.add_argument("--capability", action="append", default=[], metavar="NAME",
                        help="what it can do beyond the plain case, e.g. first_order; may be given again")  # fmt: skip


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="RUN", help="a run's folder")
    parser.add_argument("--data", help="where the run's data lies now, if it has moved")


def _add_options(parser: argparse.ArgumentParser, family: str) -> None:
    """One option for each hyper-parameter; unset ones are left out of the parsed arguments."""
    defaults = Config.default(family)
    for f in dataclasses.fields(Config):
        value = getattr(defaults, f.name)
        if f.name == "family" or f.metadata.get("only", family) != family:
            continue
        flag = "--" + f.name.replace("_", "-")
        shown = f"{f.metadata['help']} (default: {' '.join(map(str, value)) if isinstance(value, tuple) else value})"
        common: dict[str, Any] = dict(default=argparse.SUPPRESS, help=shown if value != "" else f.metadata["help"])
        if isinstance(value, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
        elif isinstance(value, tuple):
            parser.add_argument(flag, type=int, nargs="+", **common)
        else:
            parser.add_argument(flag, type=type(value), choices=f.metadata.get("choices"), **common)


def _train(args: argparse.Namespace) -> int:
    from .train import resumed, train

    names = {f.name for f in dataclasses.fields(Config)}
    changes = {k: tuple(v) if isinstance(v, list) else v for k, v in vars(args).items() if k in names}
    if "data" in changes:
        changes["data"] = str(Path(changes["data"]).expanduser().absolute())
    config = resumed(args.out, changes) if args.resume else Config.default(**changes)
    used = [f.name for f in dataclasses.fields(Config) if f.metadata.get("only", config.family) == config.family]
    print("  ".join(f"{name}={getattr(config, name)}" for name in used), file=sys.stderr)
    try:
        train(config, args.out, resume=args.resume)
    except KeyboardInterrupt as stop:
        if not stop.args:  # before the first iteration, or by a second Ctrl-C: nothing new is saved
            raise
        again = f"tinymaml train {config.family} --out {args.out} --resume"
        print(f"\nstopped and saved; `{again}` goes on", file=sys.stderr)
        return 130
    print(f"saved in {args.out}; next: `tinymaml eval {args.out}`, `tinymaml plot {args.out}`", file=sys.stderr)
    return 0


def _eval(args: argparse.Namespace) -> int:
    from .evaluate import evaluate, table

    result = evaluate(
        args.path, tasks=args.tasks, steps=args.steps, split=args.split, data=args.data, iteration=args.iteration,
        progress=sys.stderr.isatty(),
    )  # fmt: skip
    print(json.dumps(result) if args.json else table(result))
    return 0


def _plot(args: argparse.Namespace) -> int:
    from .plot import plot

    for path in plot(args.path, args.to, data=args.data):
        print(path)
    return 0


def _data(args: argparse.Namespace) -> int:
    from .families import fetch

    print(fetch.omniglot(args.to))
    return 0


def _cache(args: argparse.Namespace) -> int:
    from .programs.cache import Store, cache_folder, table

    store = Store(cache_folder())
    if args.clear:
        store.clear()
    print(table(store))
    return 0


def _oracle_gen(args: argparse.Namespace) -> int:
    import secrets

    from .files import write_atomically
    from .oracle import protocol
    from .oracle.questions import questions

    seed = secrets.randbelow(2**32) if args.seed is None else args.seed
    asked, _ = questions(args.suite, args.dtype, tuple(args.capability), seed)
    prefix = protocol.token(args.suite, args.dtype, args.capability, seed)
    for i, line in enumerate(protocol.lines(asked, prefix, args.hex)):
        if args.to:
            Path(args.to).mkdir(parents=True, exist_ok=True)
            write_atomically(Path(args.to) / f"{i:04}.json", line.encode() + b"\n")
        else:
            print(line, flush=True)
    return 0


def _oracle_check(args: argparse.Namespace) -> int:
    from .oracle import protocol

    if bool(args.target) + bool(args.program) + bool(args.folder) > 1:
        raise ValueError("one of: a Python function, -- PROGRAM, --from DIR")
    command = protocol.worker(args.target) if args.target else args.program
    if command:
        report = protocol.check_program(command, args.suite, args.dtype, args.capability, args.timeout)
    elif args.folder:
        report = protocol.check_answers(protocol.lines_of(Path(args.folder)))
    else:
        report = protocol.check_answers(protocol.lines_from(sys.stdin.buffer, args.timeout))
    print(report.to_json() if args.json else report)
    return report.exit_code


def _oracle_list(args: argparse.Namespace) -> int:
    from .oracle import list_bugs

    print(list_bugs())
    return 0


def _oracle_show(args: argparse.Namespace) -> int:
    from .oracle import load
    from .oracle.show import find, show

    if args.case is None:
        for case in load("core"):
            print(f"{case.id:16} {case.comment}")
    else:
        print(show(find(args.case)))
    return 0
