"""The adjoint of the differential of the polar factor, without going through its iterations."""

from keras import ops

from deel_lip_tf.normalizers.numerics.arithmetic import safe_divide, unit_scale
from deel_lip_tf.normalizers.numerics.norm_bounds import unit_roundoff
from deel_lip_tf.normalizers.polar.cubics import SMALLEST_RATIO
from deel_lip_tf.normalizers.polar.products import shifted, symmetric_part, transposed

# Conjugate gradients reach rounding in about `sqrt(condition) ln(1 / roundoff) / 2` steps; beyond
# this many the kernel is so near to a singular one that its derivative means little.
_MAXIMUM_STEPS = 200


def tangent_projection(factor, upstream):
    """`U - Q sym(Q' U)`: the part of `upstream` along the manifold of orthogonal matrices.

    Args:
        factor: `Q` (..., rows, columns) with orthonormal columns.
        upstream: `U`, of the same shape.
    """
    along = symmetric_part(ops.matmul(transposed(factor), upstream))
    return upstream - ops.matmul(factor, along)


def differential_adjoint(matrix, factor, upstream):
    """The gradient at `matrix` of `<upstream, polar factor of matrix>`.

    With `W = Q H`: `Q S + (I - QQ') U H**-1`, where `HS + SH = Q'U - U'Q`.

    Args:
        matrix: `W` (..., rows, columns), rows at least columns.
        factor: `Q`, its polar factor.
        upstream: `U`.
    """
    # Powers of the scale would overflow in float32 for kernels of a scale of 1e30.
    scale = ops.max(ops.abs(matrix), axis=(-2, -1), keepdims=True)
    stretch = symmetric_part(ops.matmul(transposed(factor), unit_scale(matrix, axis=(-2, -1))))
    along = ops.matmul(transposed(factor), upstream)

    def lyapunov(skew):
        product = ops.matmul(stretch, skew)
        return product - transposed(product)

    largest = ops.max(ops.sum(ops.abs(stretch), axis=-1), axis=-1)[..., None, None]
    smallest = SMALLEST_RATIO * largest
    inner = conjugate_gradients(lyapunov, along - transposed(along), smallest)

    def within():
        return ops.matmul(factor, inner)

    def within_and_across():
        identity = shifted(ops.zeros_like(stretch), ops.ones_like(largest))
        inverse = conjugate_gradients(lambda x: ops.matmul(stretch, x), identity, smallest)
        return ops.matmul(upstream, inverse) + ops.matmul(
            factor, inner - ops.matmul(along, inverse)
        )

    # The columns of a square factor span everything: `I - QQ'` is zero.
    is_square = ops.equal(ops.shape(matrix)[-2], ops.shape(matrix)[-1])
    return safe_divide(ops.cond(is_square, within, within_and_across), scale)


def conjugate_gradients(operator, target, smallest):
    """`X` with `operator(X) = target`, for a linear operator that is positive definite.

    Args:
        operator: from matrices (..., n, n) to such matrices; symmetric in the inner product
            `sum(X * Y)`.
        target: (..., n, n).
        smallest: (..., 1, 1), the search ends where it meets a smaller eigenvalue: a singular
            operator has no solution, and what rounding makes of it is of no use.

    Returns:
        The solution to rounding, or the last of 200 steps.
    """

    def inner(a, b):
        return ops.sum(a * b, axis=(-2, -1), keepdims=True)

    tolerance = (8 * unit_roundoff(target)) ** 2 * inner(target, target)

    def is_unfinished(taken, _, __, ___, square):
        return ops.logical_and(taken < _MAXIMUM_STEPS, ops.any(square > tolerance))

    def step(taken, solution, residual, direction, square):
        image = operator(direction)
        curvature = inner(direction, image)
        is_flat = curvature <= smallest * inner(direction, direction)
        length = ops.where(is_flat, 0, ops.divide_no_nan(square, curvature))
        solution = solution + length * direction
        residual = residual - length * image
        following = ops.where(is_flat, 0, inner(residual, residual))
        direction = residual + ops.divide_no_nan(following, square) * direction
        return taken + 1, solution, residual, direction, following

    start = (0, ops.zeros_like(target), target, target, inner(target, target))
    return ops.while_loop(is_unfinished, step, start)[1]
