"""Projectors onto the range of a matrix, from its polar factor."""

from keras import ops

from deel_lip_tf.normalizers.polar.factor import nearest_orthogonal
from deel_lip_tf.normalizers.polar.products import transposed

# Retracted factors are accepted as they are; the projector's own error is the square of theirs.
EPS = 1e-3
MAXIMUM = 20


def projector_factors(matrix):
    """`(L, V)` with `P = L V'` the projector onto the range of `matrix`, symmetric.

    `V` is the polar factor of the matrix and `L = V (2I - V'V)`, so that each singular value s of
    `V`, which is in `[0, 1]`, gives `P` an eigenvalue `s**2 (2 - s**2) = 1 - (1 - s**2)**2`, in
    `[0, 1]` too: all of them for every finite matrix, and 1 to rounding where the rank is full.

    Args:
        matrix: tensor (..., rows, rank), rows at least rank; each matrix by itself.

    Returns:
        Two tensors of the same shape.
    """
    basis = nearest_orthogonal(matrix, EPS, MAXIMUM)
    return 2 * basis - ops.matmul(basis, ops.matmul(transposed(basis), basis)), basis
