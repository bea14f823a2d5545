"""Checks of what users give, the same in every room: each returns the value in the form asked for.

`scalars` for numbers, whole numbers and flags, `arrays` for data, scores and weights, `labels` for
classes in every encoding, `shapes` for those of inputs, `constructors` for the arguments of layers.
An error names the argument, the rule, what came and, where it is not plain, the way out. Ranges of
the parameters of one room stand in that room.
"""
