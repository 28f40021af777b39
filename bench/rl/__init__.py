"""Studies of reinforcement learning.

It has three commands:

    python -m bench rl exact        which surrogate is right, at which order, and of what? By enumeration; --help
    python -m bench rl study        2-D navigation: returns over the steps of adaptation, by surrogate; --help
    python -m bench rl throughput   steps of the environment and meta-iterations per second, beside PyTorch; --help
"""

from __future__ import annotations

import sys

from . import exact, study, throughput

COMMANDS = {"exact": exact, "study": study, "throughput": throughput}


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in COMMANDS:
        print(__doc__, file=sys.stdout if set(argv) & {"-h", "--help"} else sys.stderr)
        return 0 if set(argv) & {"-h", "--help"} else 2
    return COMMANDS[argv[0]].main(argv[1:])
