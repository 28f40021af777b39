"""`python -m tinymaml`: the same as the `tinymaml` command."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
