"""Branching on the signs of neurons, for networks of many inputs, in NumPy alone."""
