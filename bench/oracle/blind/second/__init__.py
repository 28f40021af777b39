"""The second set, which is open since it has measured catalogue 2.4."""

from . import family_ones, jax_ones, numpy_ones, torch_ones  # noqa: F401  (they register their entries)
