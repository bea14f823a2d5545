"""Orthogonal matrices by Cayley's transform."""

from dataclasses import dataclass

from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf.normalizers.numerics.arithmetic import frobenius_norm, unit_scale
from deel_lip_tf.normalizers.numerics.norm_bounds import unit_roundoff
from deel_lip_tf.normalizers.parametrization import MatrixParametrization, at_least_float32
from deel_lip_tf.normalizers.polar.products import for_tall, transposed

# The inverse of `I + A` is wrong by some roundoff times `||A||`, here at most 5e3: about 3e-4 in
# float32, of which the last step leaves the square.
_LARGEST_NORM = 64.0


@register
@dataclass(frozen=True)
class Cayley(MatrixParametrization):
    """`(I - A)(I + A)**-1` of a skew-symmetric matrix: orthogonal, all singular values 1.

    The raw matrix has a square block `U` and, where there are more rows than columns, `V` below it:
    with `A = U - U' + V'V` the kernel is `(I - A)(I + A)**-1` above `2 V (I + A)**-1`, which has
    orthonormal columns. With fewer rows the transposed matrices are meant. `I + A` has an inverse
    of norm at most 1 whatever the raw matrix is, so that nothing is iterated; one step of Björck
    after it removes what rounding adds, and keeps the norm at most 1. A raw matrix of Frobenius
    norm above 64 is divided down to it: nearly all rotations are reached, but not all angles near
    a half turn.

    In a convolution the flattened kernel is the matrix. `condense` leaves the raw kernel as it is.

    Example:
        >>> raw = np.random.default_rng(0).normal(size=(6, 4))
        >>> kernel = lip.normalizers.Cayley().project(raw)
        >>> np.allclose(np.transpose(kernel) @ kernel, np.eye(4), atol=1e-6)
        True
        >>> print(np.asarray(lip.normalizers.Cayley().project(np.zeros((2, 2)))).round(4))
        [[1. 0.]
         [0. 1.]]

    Source: Trockman and Kolter, 2021, arXiv:2104.07167.
    """

    def project(self, matrix):
        """The orthogonal matrix; each matrix of a stack by itself.

        Args:
            matrix: tensor (..., rows, outputs), any finite entries.
        """
        return for_tall(_transform, at_least_float32(matrix))

    def condensed(self, weights, operation):
        """The raw weights: what they are projected to would be projected to something else."""
        return weights


def _transform(matrix):
    columns = matrix.shape[-1]
    matrix = _within(matrix, _LARGEST_NORM)
    above, below = matrix[..., :columns, :], matrix[..., columns:, :]
    identity = ops.eye(columns, dtype=matrix.dtype)
    sum_ = identity + above - transposed(above) + ops.matmul(transposed(below), below)
    inverse = ops.inv(sum_)
    parts = [2 * inverse - identity, 2 * ops.matmul(below, inverse)]
    factor = ops.concatenate(parts, axis=-2)
    # `1.5 s - 0.5 s**3` maps [0, 2] into [0, 1].
    gram = ops.matmul(transposed(factor), factor)
    slack = 1 - (8 + columns**0.5 / 4) * unit_roundoff(matrix)
    return (1.5 * factor - 0.5 * ops.matmul(factor, gram)) * slack


def _within(matrix, largest: float):
    """`matrix`, divided down to the Frobenius norm `largest` where it has a larger one."""
    entry = ops.stop_gradient(ops.max(ops.abs(matrix), axis=(-2, -1), keepdims=True))
    # Squares of the entries of a matrix that is not near the limit cannot overflow.
    unit = unit_scale(matrix, axis=(-2, -1))
    is_large = entry * frobenius_norm(unit, axis=(-2, -1), keepdims=True) > largest
    norm = frobenius_norm(unit, axis=(-2, -1), keepdims=True)
    limited = unit * (largest / ops.where(is_large, norm, ops.ones_like(norm)))
    return ops.where(is_large, limited, matrix)
