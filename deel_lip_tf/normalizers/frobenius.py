"""Kernels divided by Euclidean norms."""

from dataclasses import dataclass

from keras import backend

from deel_lip_tf._registration import register
from deel_lip_tf.normalizers.numerics.arithmetic import frobenius_norm, safe_divide, unit_scale
from deel_lip_tf.normalizers.parametrization import (
    MatrixParametrization,
    at_least_float32,
    named,
)


@register
@dataclass(frozen=True)
class Frobenius(MatrixParametrization):
    """Euclidean norm 1: of every column (`disjoint_neurons`), or of the whole matrix.

    With `disjoint_neurons` each output is 1-Lipschitz by itself, all of them together are only
    `sqrt(outputs)`-Lipschitz. A zero column stays zero.

    Attributes:
        disjoint_neurons: norms of the columns (True, the default), or of the matrix.

    Example:
        >>> matrix = np.array([[3.0, 0.0], [4.0, 2.0]])
        >>> print(np.round(lip.normalizers.Frobenius().project(matrix), 4))  # columns of norm 1
        [[0.6 0. ]
         [0.8 1. ]]
        >>> whole = lip.normalizers.Frobenius(disjoint_neurons=False).project(matrix)
        >>> round(float(np.linalg.norm(whole)), 4)
        1.0
    """

    disjoint_neurons: bool = True
    is_scale_free = True

    def project(self, matrix):
        """`matrix` (..., rows, outputs) divided by the norms of its columns, or by its own."""
        axis = -2 if self.disjoint_neurons else (-2, -1)
        scaled = unit_scale(at_least_float32(matrix), axis=axis)
        norm = frobenius_norm(scaled, axis=axis, keepdims=True)
        # The sum of squares is rounded: half a dozen units in the last place keep the norm below 1.
        slack = 2.0**-50 if backend.standardize_dtype(scaled.dtype) == "float64" else 2.0**-21
        return safe_divide(scaled, norm * (1 + slack))

    def reuse(self, operation):
        """For each spatial axis, the largest number of patches that share an element.

        Raises:
            ValueError: of a convolution, where norms of columns bound no single output.
        """
        if self.disjoint_neurons and operation.kernel_size:
            raise ValueError(
                "Frobenius(disjoint_neurons=True) bounds each output of a dense layer by itself, "
                "and no convolution. Use UnitFrobenius(). Received: a kernel of size "
                f"{operation.kernel_size}."
            )
        return super().reuse(operation)


@named("frobenius")
@register
@dataclass(frozen=True)
class UnitFrobenius(MatrixParametrization):
    """Frobenius norm 1 of the whole matrix, hence largest singular value at most 1.

    Example:
        >>> projected = lip.normalizers.UnitFrobenius().project(np.array([[3.0, 0.0], [0.0, 4.0]]))
        >>> print(np.round(projected, 4))
        [[0.6 0. ]
         [0.  0.8]]
    """

    is_scale_free = True

    def project(self, matrix):
        """`matrix` (..., rows, outputs) divided by its Frobenius norm."""
        return Frobenius(disjoint_neurons=False).project(matrix)
