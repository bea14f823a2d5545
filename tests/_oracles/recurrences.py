"""Linear recurrences as matrices, by loops."""

import numpy as np

from deel_lip_tf.semantics.norms import L1, L2, LINF

ORDERS = {L2: 2, L1: 1, LINF: np.inf}


def unrolled(kernel, recurrent, steps, returns_all, slope=1.0):
    """The matrix of a linear recurrence, from all inputs to the states, by powers of `R`."""
    inputs, units = kernel.shape
    matrix = np.zeros((steps, units, steps, inputs))
    for end in range(steps):
        power = slope * kernel.T
        for start in range(end, -1, -1):
            matrix[end, :, start] = power
            power = slope * recurrent.T @ power
    matrix = matrix if returns_all else matrix[-1:]
    return matrix.reshape(-1, steps * inputs)


def shift_register(inputs, units):
    """`K` and `R` that keep what came last: a permutation, of which every row is one entry."""
    joint = np.eye(inputs + units)[:, :units]
    return joint[:inputs], joint[inputs:]
