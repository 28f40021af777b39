"""The third set, which is closed: only its figures are used."""

from . import family_ones, jax_ones, numpy_ones, torch_ones  # noqa: F401  (they register their entries)
