"""Orthogonal matrices as products of block reflections."""

from dataclasses import dataclass

from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf.normalizers.numerics.norm_bounds import unit_roundoff
from deel_lip_tf.normalizers.parametrization import MatrixParametrization, at_least_float32
from deel_lip_tf.normalizers.polar.factor import retracted
from deel_lip_tf.normalizers.polar.products import for_tall, transposed
from deel_lip_tf.normalizers.polar.projectors import EPS, MAXIMUM, projector_factors


@register
@dataclass(frozen=True)
class BRO(MatrixParametrization):
    """Two block reflections, `(I - 2 P_1)(I - 2 P_2)`: orthogonal, all singular values 1.

    `P_i = V_i (V_i'V_i)**-1 V_i'` projects onto the range of one half of the columns of the raw
    matrix, of its rows where there are fewer. One reflection, as in the paper, is symmetric; the
    product of two reaches every rotation. Of a matrix with more rows than columns these are the
    first columns of the square one. The inverse is never formed: `P_i` comes of the polar factor of
    `V_i`, so that a raw matrix of any rank and scale gives a norm of at most 1, and what an update
    moved is retracted, which changes no projector.

    In a convolution the flattened kernel is the matrix. `condense` leaves the raw kernel as it is.

    Example:
        >>> raw = np.random.default_rng(0).normal(size=(6, 4))
        >>> kernel = lip.normalizers.BRO().project(raw)
        >>> np.allclose(np.transpose(kernel) @ kernel, np.eye(4), atol=1e-6)
        True

    Source: Lai et al., 2025, arXiv:2505.15174.
    """

    @property
    def is_retracting(self) -> bool:
        """Whether `retracted` is to be applied after each update of an optimizer: yes."""
        return True

    def project(self, matrix):
        """The product of reflections; each matrix of a stack by itself.

        Args:
            matrix: tensor (..., rows, outputs), any finite entries.
        """
        return for_tall(_reflected, at_least_float32(matrix))

    def retract(self, matrix):
        """Each half with orthonormal columns of the same range; no gradient.

        Args:
            matrix: as for `project`, in at least float32.
        """
        return for_tall(_with_orthonormal_halves, matrix)

    def condensed(self, weights, operation):
        """The raw weights: what they are projected to would be projected to something else."""
        return weights


def _halves(matrix) -> list:
    """The columns in two parts, of which one may be empty: it is left out."""
    half = matrix.shape[-1] // 2
    return [part for part in (matrix[..., :half], matrix[..., half:]) if part.shape[-1]]


def _reflected(matrix):
    rows, columns = matrix.shape[-2:]
    product = ops.zeros_like(matrix) + ops.eye(rows, columns, dtype=matrix.dtype)
    for half in reversed(_halves(matrix)):
        left, basis = projector_factors(half)
        product = product - 2 * ops.matmul(left, ops.matmul(transposed(basis), product))
    # Two projections and two subtractions round: by less than this, see the tests.
    return product * (1 - (8 + rows**0.5) * unit_roundoff(matrix))


def _with_orthonormal_halves(matrix):
    return ops.concatenate([retracted(half, EPS, MAXIMUM) for half in _halves(matrix)], axis=-1)
