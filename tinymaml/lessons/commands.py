"""The lesson's commands, `tinymaml lesson …`: they parse, call and print."""

from __future__ import annotations

import argparse

from ..files import path_option


def add(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the lesson's options and commands."""
    parser.add_argument("--to", metavar="FILE", type=path_option("--to"), default="lesson.html",
                        help="where the page goes (lesson.html)")  # fmt: skip
    parser.set_defaults(run=_write)


def _write(args: argparse.Namespace) -> int:
    from .page import write

    print(write(args.to, progress=True))
    return 0
