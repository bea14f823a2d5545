"""Arithmetic that stays finite, and norms of matrices: what every parametrization needs."""
