"""Timing: `python -m bench`."""
