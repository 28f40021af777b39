"""The lesson's commands, `tinymaml lesson …`: they parse, call and print."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..files import check_regular, path_option, write_atomically


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the lesson's options and commands."""
    parser.add_argument("--to", metavar="FILE", type=path_option("--to"), default="lesson.html",
                        help="where the page goes (lesson.html)")  # fmt: skip
    parser.set_defaults(run=_write)
    commands = parser.add_subparsers(dest="lesson", metavar="COMMAND")
    exercise = commands.add_parser("exercise", help="write the exercise, a broken step to mend")
    exercise.add_argument("--to", metavar="FILE", type=path_option("--to"), default="mine.py",
                          help="where it goes (mine.py); a file that is there is kept")  # fmt: skip
    exercise.set_defaults(run=_exercise)
    check = commands.add_parser("check", help="mark the exercise with the oracle")
    check.add_argument("file", metavar="FILE", type=path_option("FILE"), help="your file, with its function maml(case)")
    check.set_defaults(run=_check)


def _write(args: argparse.Namespace) -> int:
    from .page import write

    print(write(args.to, progress=True))
    return 0


def _exercise(args: argparse.Namespace) -> int:
    to = Path(args.to)
    if to.exists():
        raise ValueError(f"{to} is there already, and may hold your work: choose another name, with --to")
    write_atomically(to, Path(__file__).with_name("exercise.py").read_bytes())
    print(f"{to}; mend it, then: tinymaml lesson check {to}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from ..oracle.judge import protocol
    from ..oracle.judge.guard import signals_end
    from ..oracle.judge.progress import Screen

    path = Path(args.file)
    check_regular(path, "your file, a Python module with a function maml(case)")
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise ValueError(f"{path} cannot be imported: wanted a name such as mine.py")
    if (here := Path.cwd() / path.name).exists() and not here.samefile(path):
        raise ValueError(f"{here} would be imported in the place of {path}: give one of them another name")
    with signals_end(), Screen(False) as screen:
        report = protocol.check_function(f"{path.stem}:maml", folders=[str(path.parent)], echo=screen.echo)
    print(report.in_short())
    print("solved: the exercise is done" if report.exit_code == 0 else "not yet: change a line, and check again")
    return report.exit_code
