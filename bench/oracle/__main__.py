"""The oracle under proof.

It has five studies:

    python -m bench.oracle matrix       every mistake of the catalogue × case × dtype, pairs of them, and unknown ones
    python -m bench.oracle alarms       correct implementations, ten thousand times: none may be refused
    python -m bench.oracle mutants      is a change of the code noticed, by the tests and by the oracle
    python -m bench.oracle field        public implementations, as they are
    python -m bench.oracle blind        implementations by someone who never saw the catalogue
"""

from __future__ import annotations

import importlib
import sys

STUDIES = ("matrix", "alarms", "mutants", "field", "blind")


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in STUDIES:
        print(__doc__)
        return 0 if argv[:1] in ([], ["-h"], ["--help"]) else 2
    return importlib.import_module(f"{__package__}.{argv[0]}").main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
