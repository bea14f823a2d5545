"""Models in float64, with a bound on the rounding of what they give."""
