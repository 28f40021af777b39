"""The proof of the oracle: `python -m bench.oracle`."""
