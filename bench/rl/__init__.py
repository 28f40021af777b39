"""Studies of reinforcement learning.

    python -m bench rl exact        which surrogate is right, at which order, and of what? By enumeration; --help
"""

from __future__ import annotations

import sys

from . import exact

COMMANDS = {"exact": exact}


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in COMMANDS:
        print(__doc__, file=sys.stdout if set(argv) & {"-h", "--help"} else sys.stderr)
        return 0 if set(argv) & {"-h", "--help"} else 2
    return COMMANDS[argv[0]].main(argv[1:])
