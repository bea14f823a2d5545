"""Questions about functions, not labels: ranges, equivalence, monotonicity, steepness."""
