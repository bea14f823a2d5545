"""Every row of a table times every invariant."""
