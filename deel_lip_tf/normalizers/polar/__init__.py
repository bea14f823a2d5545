"""The polar factor of a matrix, fast, and its gradient."""
