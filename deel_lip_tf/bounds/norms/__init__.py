"""Norms of linear operators, from above."""
