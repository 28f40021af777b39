"""The oracle's commands, `tinymaml oracle …`: they parse, call and print."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..files import path_option, write_atomically
from .cases import load
from .catalogue import list_bugs
from .family import ALGORITHMS
from .judge import protocol
from .judge.apart import without_current_folder
from .judge.checking import seconds
from .judge.guard import signals_end
from .judge.progress import Screen, Watch
from .metamorphic import relations
from .pages import badge, spec
from .pages.diff import agree, ask_one, diff_page
from .pages.report import Report
from .pages.show import find_case, show_page
from .questions import questions


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the oracle's commands."""
    commands = parser.add_subparsers(dest="oracle", required=True, metavar="COMMAND")

    gen = commands.add_parser("gen", help="print the cases as JSON Lines, without answers")
    _add_suite(gen)
    gen.add_argument("--hex", action="store_true", help="numbers as IEEE bit patterns instead of exact decimals")
    gen.add_argument("--seed", type=int, help="seed of the new cases (another each time)")
    gen.add_argument("--to", metavar="DIR", type=path_option("--to"), help="write one file per case into DIR")
    gen.set_defaults(run=_gen)

    check = commands.add_parser(
        "check", help="judge answers", usage="%(prog)s [options] [package.module:function | -- PROGRAM …]",
        description="Judge a Python function, a program, or, with neither, the JSON Lines on standard input.",
    )  # fmt: skip
    check.add_argument("target", nargs="?", metavar="package.module:function", help="a Python function")
    _add_suite(check)
    check.add_argument("--from", dest="folder", metavar="DIR", type=path_option("--from"),
                       help="read the answers from the *.json in DIR")  # fmt: skip
    check.add_argument(
        "--timeout", type=float, default=60.0, help="seconds of silence until the candidate is given up (60)"
    )
    check.add_argument("--case", action="append", default=[], metavar="ID",
                       help="only this case, or those that begin so or match a pattern; may be repeated")  # fmt: skip
    check.add_argument("--fail-fast", action="store_true", help="stop at the first wrong case")
    check.add_argument("--seed", type=int, help="seed of the new cases (another each time)")
    check.add_argument("--path", action="append", default=[], metavar="DIR", type=path_option("--path"),
                       help="also look in DIR for the function's module; may be repeated")  # fmt: skip
    check.add_argument("-v", "--verbose", action="store_true", help="print a line per answer, on standard error")
    check.add_argument("--json", action="store_true", help="print the report as JSON")
    check.set_defaults(run=_check)

    shield = commands.add_parser(
        "badge", help="check, and write a badge for a repository", usage="%(prog)s --to FILE [options] "
        "[package.module:function | -- PROGRAM …]", description="Check a Python function or a program, and write FILE, "
        "a small JSON for a repository, and beside it FILE.shields.json, which an endpoint badge of shields.io shows.",
    )  # fmt: skip
    shield.add_argument("target", nargs="?", metavar="package.module:function", help="a Python function")
    shield.add_argument("--to", metavar="FILE", required=True, type=path_option("--to"), help="e.g. badge.json")
    _add_suite(shield)
    shield.add_argument(
        "--timeout", type=float, default=60.0, help="seconds of silence until the candidate is given up (60)"
    )
    shield.set_defaults(run=_badge)

    related = commands.add_parser(
        "relations", help="check relations that every right meta-gradient keeps, without reference values",
        usage="%(prog)s [options] [package.module:function | -- PROGRAM …]", description="Ask a Python function or a "
        "program about cases that are changed in ways of which the effect is known, and compare its answers.",
    )  # fmt: skip
    related.add_argument("target", nargs="?", metavar="package.module:function", help="a Python function")
    related.add_argument("--algorithm", choices=("maml", *ALGORITHMS), default="maml", metavar="NAME",
                         help="which relations hold depends on it (maml)")  # fmt: skip
    related.add_argument(
        "--dtype", choices=("float64", "float32"), default="float64", help="dtype of the cases (float64)"
    )
    related.add_argument(
        "--timeout", type=float, default=60.0, help="seconds of silence until the candidate is given up (60)"
    )
    related.set_defaults(run=_relations)

    bugs = commands.add_parser("list-bugs", help="print the catalogue: what each mistake computes, and its fix")
    bugs.add_argument("--json", action="store_true", help="as JSON, with the catalogue's version")
    bugs.set_defaults(run=_list)
    page = commands.add_parser("spec", help="print all that a program in another language must know, on one page")
    page.add_argument("--json", action="store_true", help="its tables as JSON")
    page.add_argument("--algorithm", metavar="NAME", help="all about one algorithm instead")
    page.set_defaults(run=_spec)
    show = commands.add_parser("show", help="lay a case out: steps, Hessians, factors, what each mistake gives")
    show.add_argument("--algorithm", choices=("maml", *ALGORITHMS), default="maml", metavar="NAME",
                      help="whose cases are listed (maml)")  # fmt: skip
    show.add_argument("case", nargs="?", metavar="CASE", help="its id; without one, all ids are listed")
    show.add_argument("--mine", metavar="MODULE:FUNCTION", help="show what this function gives, beside the right one")
    show.add_argument(
        "--timeout", type=float, default=60.0, help="seconds of silence until the candidate is given up (60)"
    )
    show.set_defaults(run=_show)


def _add_suite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--algorithm", choices=("maml", *ALGORITHMS), default="maml", metavar="NAME",
                        help=f"the algorithm that is asked for: maml, {', '.join(ALGORITHMS)} (maml)")  # fmt: skip
    parser.add_argument("--suite", choices=("core", "full", "fresh"), default="core", help="the cases to ask (core)")
    parser.add_argument(
        "--dtype", choices=("float64", "float32"), default="float64", help="dtype of the cases (float64)"
    )
    parser.add_argument("--capability", action="append", default=[], metavar="NAME",
                        help="a capability beyond the plain case, e.g. first_order; may be repeated")  # fmt: skip


def _gen(args: argparse.Namespace) -> int:
    seed = secrets.randbelow(2**32) if args.seed is None else args.seed
    asked, _ = questions(args.suite, args.dtype, tuple(args.capability), seed, (), args.algorithm)
    prefix = protocol.token(args.suite, args.dtype, args.capability, seed, args.algorithm)
    for i, line in enumerate(protocol.lines(asked, prefix, args.hex)):
        if args.to:
            Path(args.to).mkdir(parents=True, exist_ok=True)
            write_atomically(Path(args.to) / f"{i:04}.json", line.encode() + b"\n")
        else:
            print(line, flush=True)
    return 0


def _check(args: argparse.Namespace) -> int:
    seconds(args.timeout)  # before any work
    if bool(args.target) + bool(args.program) + bool(args.folder) > 1:
        raise ValueError("one of: a Python function, -- PROGRAM, --from DIR")
    if (args.case or args.seed is not None) and not (args.target or args.program):
        raise ValueError("--case and --seed are for a Python function or a program, which are asked here")
    if sys.stdin is None and not (args.target or args.program or args.folder):
        raise ValueError("standard input is closed, and neither a function nor a program is given")
    with _screen(args.verbose) as screen:
        watch = Watch(screen.show, args.fail_fast)
        if args.target or args.program:
            report = _asked(args, screen, watch=watch, seed=args.seed, cases=args.case, folders=args.path)
        elif args.folder:
            report = protocol.check_answers(protocol.lines_of(Path(args.folder)), watch)
        else:
            report = protocol.check_answers(protocol.lines_from(sys.stdin.buffer, args.timeout), watch)
    print(report.to_json() if args.json else report)
    return report.exit_code


@contextmanager
def _screen(verbose: bool = False) -> Iterator[Screen]:
    """While a candidate runs: signals end it too, and nothing is imported from where it can write."""
    with signals_end(), without_current_folder(), Screen(verbose) as screen:
        yield screen


def _asked(args: argparse.Namespace, screen: Screen, folders: Iterable[str] = (), **more) -> Report:
    """The report on the function or the program of the command line."""
    asking = {"suite": args.suite, "dtype": args.dtype, "capabilities": args.capability, "timeout": args.timeout,
              "echo": screen.echo, "algorithm": args.algorithm, **more}  # fmt: skip
    if args.target:
        return protocol.check_function(args.target, folders=folders, **asking)
    return protocol.check_program(args.program, **asking)


def _badge(args: argparse.Namespace) -> int:
    seconds(args.timeout)
    to, start = Path(args.to), time.monotonic()
    if bool(args.target) == bool(args.program):
        raise ValueError("a badge is for one of: a Python function, -- PROGRAM")
    badge.make_place(to)
    with _screen() as screen:
        report = _asked(args, screen, watch=Watch(screen.show))
    badge.write(to, report, time.monotonic() - start)
    print(report)
    return report.exit_code


def _relations(args: argparse.Namespace) -> int:
    if bool(args.target) == bool(args.program):
        raise ValueError("relations are asked of one of: a Python function, -- PROGRAM")
    with _screen() as screen:
        found = relations(args.target or args.program, algorithm=args.algorithm, dtype=args.dtype,
                          timeout=args.timeout, echo=screen.echo)  # fmt: skip
    print(found)
    return found.exit_code


def _list(args: argparse.Namespace) -> int:
    print(spec.catalogue() if args.json else list_bugs())
    return 0


def _spec(args: argparse.Namespace) -> int:
    print(spec.as_json() if args.json else spec.algorithm(args.algorithm) if args.algorithm else spec.spec_page())
    return 0


def _show(args: argparse.Namespace) -> int:
    if args.mine:
        if args.case is None:
            raise ValueError("--mine wants the id of a case, too; without --mine, all ids are listed")
        case = find_case(args.case)
        with _screen() as screen:
            answer = ask_one(args.mine, case, seconds(args.timeout), screen.echo)
        print(diff_page(case, answer))
        return 0 if agree(case, answer) else 1
    if args.case is None:
        for case in load("core", algorithm=args.algorithm):
            print(f"{case.id:16} {case.comment}")
    else:
        print(show_page(find_case(args.case)))
    return 0
