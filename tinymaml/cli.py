"""The command line: `tinymaml train | eval | adapt | plot | compare | data | cache | doctor | oracle | lesson`.

It parses options, calls the other modules, and prints.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import __version__
from .files import path_option
from .runs import settings as parts

# Exit codes: 0: done; 1: an error, which one line names; 2: wrong usage; 130: stopped by Ctrl-C, and saved.


EXPECTED = (
    OSError, ValueError, TypeError, ImportError, FloatingPointError, OverflowError, RecursionError, MemoryError,
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before the start
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):  # where α or ± cannot be written, a ? is better than no answer
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    argv = sys.argv[1:] if argv is None else argv
    argv, program = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    try:
        parser = _parser(argv)
        args, odd = parser.parse_known_args(argv)
        if odd:
            parser.error(_unrecognized(odd, getattr(args, "parts", None)))
        args.program = program
        return args.run(args) or 0
    except KeyboardInterrupt:
        _say("\nstopped")
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        return 1
    except EXPECTED as error:
        _say(f"tinymaml: {_message(error)}")
        return 1


def _say(text: str) -> None:
    """Print to standard error, as far as anyone reads it."""
    with suppress(OSError, ValueError):  # it has ended, or is closed
        print(text, file=sys.stderr, flush=True)


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, MemoryError) and not error.args:  # Python's own, which does not say for what
        return "the memory of this machine does not suffice: fewer tasks, shots or weights need less"
    return str(error) or type(error).__name__


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    from .families.fetch import SETS

    parser = argparse.ArgumentParser(
        prog="tinymaml", description="Exact second-order MAML in NumPy: train, evaluate and draw few-shot learning."
    )
    parser.add_argument("--version", action="version", version=f"tinymaml {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    _add_train(commands, argv[1:] if argv[:1] == ["train"] else [])
    chosen = functools.partial(_add_tasks, argv=argv)  # the options of the tasks to adapt to
    evaluate = commands.add_parser("eval", help="adapt to tasks never trained on, and measure")
    _add_run(evaluate)
    evaluate.add_argument("--tasks", type=int, default=600, help="number of tasks (600)")
    evaluate.add_argument("--steps", type=int, default=10, help="largest number of adaptation steps (10)")
    evaluate.add_argument(
        "--split", choices=("test", "val", "train"), default="test", help="the tasks to measure on (test)"
    )
    evaluate.add_argument("--iteration", type=int, help="the checkpoint to load (the newest); 0: before training")
    evaluate.add_argument("--tune", action="store_true", help="adapt by the rate that is best on validation tasks")
    evaluate.add_argument("--json", action="store_true", help="print JSON instead of a table")
    chosen(evaluate)
    evaluate.set_defaults(run=_eval)

    adapt = commands.add_parser("adapt", help="adapt to examples of your own, and predict others")
    _add_run(adapt)
    adapt.add_argument("--support", metavar="FILE", type=path_option("--support"), required=True,
                       help="an .npz with x and y; for images a folder, with a folder per class")  # fmt: skip
    adapt.add_argument("--query", metavar="FILE", type=path_option("--query"), required=True,
                       help="an .npz with x; for images a folder")  # fmt: skip
    adapt.add_argument(
        "--to",
        metavar="FILE",
        type=path_option("--to"),
        help="a CSV or an .npz for the predictions (without it they are printed)",
    )
    adapt.add_argument("--steps", type=int, help="number of adaptation steps (that of training)")
    adapt.add_argument("--iteration", type=int, help="the checkpoint to load (the newest); 0: before training")
    adapt.set_defaults(run=_adapt)

    plot = commands.add_parser("plot", help="draw learning curves, and tasks before and after adaptation")
    _add_run(plot)
    plot.add_argument("--to", metavar="DIR", type=path_option("--to"), help="folder for the pictures (RUN/plots)")
    chosen(plot)
    plot.set_defaults(run=_plot)

    compare = commands.add_parser("compare", help="measure runs on the same tasks: one table, one picture")
    compare.add_argument("runs", metavar="RUN", nargs="+", type=path_option("RUN"),
                         help="folders of runs; runs that differ only in their seed share a line")  # fmt: skip
    compare.add_argument(
        "--data", type=path_option("--data"), help="the present folder of the runs' data, if it has moved"
    )
    compare.add_argument("--tasks", type=int, default=600, help="number of test tasks (600)")
    compare.add_argument("--steps", type=int, default=10, help="largest number of adaptation steps (10)")
    compare.add_argument("--to", metavar="FILE.png", type=path_option("--to"),
                         help="file for the picture (compare.png beside the first run)")  # fmt: skip
    compare.add_argument("--json", action="store_true", help="print JSON instead of a table, and draw only with --to")
    compare.add_argument("--scratch", action="store_true", help="measure the first run's network before training, too")
    compare.add_argument("--tune", action="store_true", help="adapt by the rates that are best on validation tasks")
    chosen(compare)
    compare.set_defaults(run=_compare)

    data = commands.add_parser("data", help="download a data set, or say where it can be had")
    data.add_argument("dataset", choices=tuple(SETS))
    data.add_argument("--to", metavar="DIR", type=path_option("--to"), required=True, help="folder for its files")
    data.set_defaults(run=_data)

    cache = commands.add_parser("cache", help="show or clear the folder of compiled programs")
    cache.add_argument("--clear", action="store_true", help="delete the programs that tinymaml has compiled")
    cache.set_defaults(run=_cache)

    doctor = commands.add_parser("doctor", help="print the facts about this machine that a report of a fault needs")
    doctor.add_argument("--json", action="store_true", help="print JSON instead of lines")
    doctor.set_defaults(run=_doctor)

    oracle = commands.add_parser("oracle", help="check a meta-gradient, and name the mistake in it")
    if argv[:1] == ["oracle"]:  # the other commands need not import it
        from .oracle.commands import add_commands

        add_commands(oracle)
    lesson = commands.add_parser("lesson", help="write the lesson, a page that shows how a meta-gradient is made")
    if argv[:1] == ["lesson"]:
        from .lessons.commands import add_commands

        add_commands(lesson)
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="RUN", type=path_option("RUN"), help="a run's folder")
    parser.add_argument(
        "--data", type=path_option("--data"), help="the present folder of the run's data, if it has moved"
    )


def _add_tasks(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """--on FAMILY, and the options of that family, or of the family of the first run among the arguments.

    Unset options are left out of the parsed arguments.
    """
    parser.add_argument("--on", metavar="FAMILY", help="adapt to tasks of this family, with its --data")
    command = parser.prog.rpartition(" ")[2]
    words = (os.path.expanduser(word) for word in argv[1:] if word)
    run = next((word for word in words if os.path.isfile(os.path.join(word, "config.json"))), None)
    if run is None or argv[0] != command:
        parser.epilog = f"tinymaml {command} RUN --help shows further options of the tasks, such as --shots."
        return
    on, _ = _on.parse_known_args(argv)
    from .runs.folder import Run
    from .runs.loop import configuration
    from .runs.transfer import changeable

    taken = {action.dest for action in parser._actions}
    config = configuration(Run.open(run))
    group = parser.add_argument_group("the tasks", "by default as in training")
    parser.set_defaults(parts=[f"{on.on or config.family.name} (family)", f"{config.algorithm.name} (algorithm)"])
    for name, field in changeable(config, on.on).items():
        if name not in taken:
            _add_option(group, field, config.get(name, parts.default_of(field)))


_on = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
_on.add_argument("--on")
_FIXED = {"command", "run", "program", "parts", "path", "runs", "data", "tasks", "steps", "split", "iteration", "tune",
          "json", "to", "scratch"}  # fmt: skip


def _tasks(args: argparse.Namespace) -> dict[str, Any]:
    """The tasks to adapt to: the family --on, and its options."""
    return {k: tuple(x) if isinstance(x, list) else x for k, x in vars(args).items() if k not in _FIXED}


def _add_train(commands, argv: list[str]) -> None:
    """The command `train`, with the options of the parts that its arguments choose, a group per part.

    Unset options are left out of the parsed arguments. A run that is resumed has the parts that it began with.
    """
    family = argv[0] if argv and not argv[0].startswith("-") else None
    own = "or a module of your own: package.module, or module:name"
    families, networks, algorithms = (", ".join(parts.members_of(role)) for role in parts.TABLES)
    choice = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    choice.add_argument("--algorithm", metavar="NAME", default=argparse.SUPPRESS,
                        help=f"{algorithms}; {own} (default: maml, or the family's)")  # fmt: skip
    choice.add_argument("--network", "--model", metavar="NAME", default=argparse.SUPPRESS,
                        help=f"{networks}; {own} (default: the family's)")  # fmt: skip
    out = f"runs/{family.replace(':', '.')}" if family else "runs/FAMILY"
    choice.add_argument(
        "--out", metavar="RUN", type=path_option("--out"), default=out, help=f"folder of the run (default: {out})"
    )
    choice.add_argument("--resume", action="store_true", help="continue the run in --out from its newest checkpoint")

    train = commands.add_parser("train", help="meta-train on a task family", parents=[choice], allow_abbrev=False)
    train.add_argument("family", metavar="FAMILY", help=f"where tasks come from: {families}; {own}")
    train.set_defaults(run=_train)
    if family is None:
        train.epilog = "tinymaml train FAMILY [--algorithm NAME] [--network NAME] --help shows the options of each."
        return
    chosen, _ = choice.parse_known_args(argv[1:])
    try:
        groups = _groups(family, chosen)
    except ValueError as error:
        train.error(str(error))
    for called, options in groups:
        group = train.add_argument_group(called, None if options else "it has no options")
        for field, default in options:
            _add_option(group, field, default)
    train.set_defaults(parts=[called for called, _ in groups])


def _groups(family: str, chosen: argparse.Namespace) -> list[tuple[str, list[tuple[dataclasses.Field, Any]]]]:
    """For each part what it is called, and its options, each with its default."""
    if chosen.resume:
        from .runs.folder import Run

        run = Run.open(chosen.out)
        config = parts.Config.from_json(run.config, run.format)
        return [(called, [(f, getattr(s, f.name)) for f in dataclasses.fields(s)]) for called, s in config.parts()]
    names, defaults = parts.chosen_names(family, getattr(chosen, "algorithm", None), getattr(chosen, "network", None))
    of_parts = {f"{name} ({role})": parts.settings_of(parts.find_member(role, name)) for role, name in names.items()}
    of_parts["the outer loop"] = parts.outer_settings()
    parts.check_names(of_parts)
    return [(called, [(f, defaults.get(f.name, parts.default_of(f))) for f in dataclasses.fields(settings)])
            for called, settings in of_parts.items()]  # fmt: skip


def _add_option(group, field: dataclasses.Field, default: Any) -> None:
    """One option, of the type of its default."""
    flag = "--" + field.name.replace("_", "-")
    required = default is dataclasses.MISSING
    value = " ".join(map(str, default)) if isinstance(default, tuple) else default
    text = field.metadata.get("help", "")
    shown = text if required or value in ("", None) else f"{text} (default: {value})"
    common: dict[str, Any] = dict(default=argparse.SUPPRESS, required=required, help=shown.strip().replace("%", "%%"))
    if isinstance(default, bool):
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
    elif isinstance(default, tuple):
        group.add_argument(flag, type=type(default[0]) if default else int, nargs="*", **common)
    else:
        kind: Any = str if required or default is None else type(default)
        if field.metadata.get("path"):
            kind = lambda text: text and path_option(flag)(text)  # noqa: E731
        group.add_argument(flag, type=kind, choices=field.metadata.get("choices"), **common)


def _unrecognized(odd: list[str], chosen: list[str] | None) -> str:
    """The error for arguments that no part understands: if one is an option of another part, it says of which."""
    message = f"unrecognized arguments: {' '.join(odd)}"
    if not chosen or not odd[0].startswith("--"):
        return message
    name = odd[0].partition("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_")
    return f"{message}: {parts.no_option(name, chosen)}"


def _train(args: argparse.Namespace) -> int:
    from .runs.loop import resumed, train

    mine = {"command", "family", "algorithm", "network", "out", "resume", "run", "parts", "program"}
    given = {k: x for k, x in vars(args).items() if k not in mine}
    changes: dict[str, Any] = {k: tuple(x) if isinstance(x, list) else x for k, x in given.items()}
    chosen: dict[str, Any] = {role: getattr(args, role) for role in parts.TABLES if hasattr(args, role)}
    config = resumed(args.out, {**chosen, **changes}) if args.resume else parts.Config.default(**chosen, **changes)
    files = [name for name in parts.path_options(config) & changes.keys() if changes[name]]
    config = config.changed(**{name: str(Path(changes[name]).absolute()) for name in files})
    shown = {role: getattr(config, role).name for role in parts.TABLES} | config.used()
    _say("  ".join(f"{name}={value}" for name, value in shown.items()))
    try:
        train(config, args.out, resume=args.resume)
    except KeyboardInterrupt as stop:
        if not stop.args:  # before the first iteration, or by a second Ctrl-C: nothing new is saved
            raise
        again = f"tinymaml train {config.family.name} --out {args.out} --resume"
        _say(f"\nstopped and saved; `{again}` goes on")
        return 130
    _say(f"saved in {args.out}; next: `tinymaml eval {args.out}`, `tinymaml plot {args.out}`")
    return 0


def _eval(args: argparse.Namespace) -> int:
    from .runs.evaluate import evaluate, table

    result = evaluate(
        args.path, tasks=args.tasks, steps=args.steps, split=args.split, data=args.data, iteration=args.iteration,
        tune=args.tune, progress=sys.stderr.isatty(), **_tasks(args),
    )  # fmt: skip
    print(json.dumps(result) if args.json else table(result))
    return 0


def _adapt(args: argparse.Namespace) -> int:
    from .runs.predictions import predict

    table = predict(args.path, args.support, args.query, args.to, args.steps, args.iteration, args.data)
    print(args.to if args.to else table, end="\n" if args.to else "")
    return 0


def _plot(args: argparse.Namespace) -> int:
    from .pictures import plot

    for path in plot(args.path, args.to, data=args.data, **_tasks(args)):
        print(path)
    return 0


def _compare(args: argparse.Namespace) -> int:
    from .pictures.compare import draw_comparison, picture_path
    from .runs.compare import compare, table

    # beside the first run, if it is not said where; where the result is wanted as JSON, only if it is said
    to, without = args.to or (None if args.json else Path(args.runs[0]).parent / "compare.png"), ""
    try:
        to = to and picture_path(to)  # before the work
    except ImportError as cause:  # the table is worth having
        if args.to:
            raise
        to, without = None, f"no picture: {cause}"
    result = compare(
        args.runs, tasks=args.tasks, steps=args.steps, data=args.data, scratch=args.scratch, tune=args.tune,
        progress=sys.stderr.isatty(), **_tasks(args),
    )  # fmt: skip
    print(json.dumps(result) if args.json else table(result))
    if to or without:
        _say(str(draw_comparison(result, to) if to else without))
    return 0


def _data(args: argparse.Namespace) -> int:
    from .families.fetch import SETS, fetch

    try:
        print(fetch(SETS[args.dataset], args.to))
    except ValueError as cause:
        raise ValueError(f"{args.dataset}: {cause}") from cause
    return 0


def _cache(args: argparse.Namespace) -> int:
    from .programs.cache import Store, cache_folder, table

    store = Store(cache_folder())
    if args.clear:
        store.clear()
    print(table(store))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from .doctor import findings, page

    report = findings()
    print(json.dumps(report, indent=2) if args.json else page(report))
    return 0 if report["healthy"] else 1
