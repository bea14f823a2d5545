"""The orthogonal matrix nearest to a kernel, its exact gradient, and the way back after an update.

A kernel that an update has moved off the manifold of orthogonal matrices is brought back by one
polynomial. One that is on it needs nothing but a Gram matrix, which proves that it is.
"""

from dataclasses import replace

from keras import ops

from deel_lip_tf.normalizers.polar.cubics import vector_factor
from deel_lip_tf.normalizers.polar.gradient import differential_adjoint, tangent_projection
from deel_lip_tf.normalizers.polar.inverse_root import (
    KNOWN_RADIUS,
    LARGEST_RADIUS,
    LARGEST_RADIUS_OF_LARGE,
    LINEAR_RADIUS,
    SLIGHTLY_LESS,
    inverse_root,
)
from deel_lip_tf.normalizers.polar.known import KnownInStep, factor_of_known
from deel_lip_tf.normalizers.polar.lapack import exact_factor, numbers_at_hand
from deel_lip_tf.normalizers.polar.products import (
    SMALLEST_SPLIT,
    norm,
    shifted,
    symmetric_product,
    transposed,
)
from deel_lip_tf.normalizers.polar.steps import (
    Iterate,
    PolarOptions,
    StoppingRule,
    is_moderate,
    is_tall,
    orthogonalised,
    polish,
    rounding_of,
    with_gram,
)
from deel_lip_tf.normalizers.polar.tf_graphs import (
    computed_as_here,
    cond_with_last_resort,
    noinline,
    traced_once,
)


def nearest_orthogonal(matrix, eps: float, maximum: int):
    """The polar factor of `matrix`: all singular values in `[1 - eps, 1]`, the same directions.

    The norm of the result is at most 1 for every finite matrix: it is divided by a bound in the
    end. The gradient is that of the polar factor, not of the iterations: with `W = Q H`,
    `Q'Q = I`, and `U` the upstream gradient, it is `Q S + (I - QQ') U H**-1` where the
    skew-symmetric `S` solves `HS + SH = Q'U - U'Q`; on the manifold, where `H = cI`, that is the
    tangent projection `(U - Q sym(Q'U)) / c`.

    Args:
        matrix: tensor (..., rows, columns), any finite entries; each matrix by itself.
        eps: how far below 1 a singular value may end. Reached where the smallest singular value is
            at least 1e-4 of the largest; nearer to a singular kernel a direction is brought closer
            to 1 but not all the way. A kernel whose singular values are equal up to a tenth of
            `eps` is taken for orthogonal as it is, and so is its gradient.
        maximum: largest number of steps.

    Returns:
        A tensor of the same shape.

    Source: Higham, Functions of Matrices, 2008, chapter 8 (the polar factor and its conditioning);
    Bjorck and Bowie, 1971 (the series); Grishina et al., 2025, arXiv:2506.10935 (the cubics).
    """
    return _for_tall(_polar_factor, matrix, eps, maximum)


def retracted(matrix, eps: float, maximum: int):
    """`matrix` moved onto the manifold, near enough for `nearest_orthogonal` to leave it there.

    For a kernel after each of its updates: its gradient is a tangent projection from then on, and
    needs no Lyapunov equation. Cheaper than `nearest_orthogonal`, and has no gradient of use.

    Args:
        matrix: tensor (..., rows, columns), any finite entries; each matrix by itself.
        eps: how far from 1 the singular values may end.
        maximum: largest number of steps.
    """
    return _for_tall(_retracted, matrix, eps, maximum)


def retracted_and_known(matrix, eps: float, maximum: int) -> tuple:
    """`(retracted(matrix), is_known)`, of one large matrix, in a graph of TensorFlow.

    `is_known` says that the result is a multiple of an orthogonal matrix up to `KNOWN_ERROR` and
    rounding in float32: without its Gram matrix, by how far from one the matrix was.
    """
    is_wide = matrix.shape[-2] < matrix.shape[-1]
    options = PolarOptions(eps, maximum, is_large=True, is_known=True, is_wide=is_wide)
    result, is_known = noinline(
        _retracted_and_known, matrix, settings=(options,), has_last_resort=True
    )
    result.set_shape(matrix.shape)
    return result, is_known


def factor_if_known(kernel, moderate, known: KnownInStep, gain: float, eps: float, maximum: int):
    """`gain` times the polar factor of a large kernel, in a graph of TensorFlow; no gradient.

    Args:
        kernel: (rows, columns).
        moderate: a multiple of it, of which eighth powers do not leave float32.
        known: what the step knows of the kernel: where it is orthogonal, all that is missing is
            the multiple.
        gain: positive.
        eps: as for `nearest_orthogonal`.
        maximum: largest number of steps.
    """
    is_wide = kernel.shape[-2] < kernel.shape[-1]
    options = PolarOptions(eps, maximum, is_large=True, is_wide=is_wide)
    result = cond_with_last_resort(
        known.is_known,
        lambda kernel, _, multiple, *__: factor_of_known(kernel, multiple, gain),
        _unknown_factor,
        kernel,
        moderate,
        known.multiple,
        settings=(gain, options),
        is_cheap=True,
    )
    result.set_shape(kernel.shape)
    return result


def _unknown_factor(_, moderate, __, gain: float, options: PolarOptions):
    tall = transposed(moderate) if options.is_wide else moderate
    factor, *_ = _factor_and_start(tall, replace(options, is_wide=False))
    return gain * (transposed(factor) if options.is_wide else factor)


def _for_tall(function, matrix, eps: float, maximum: int):
    """`function(matrix, options)`, of the transposed matrix where that has fewer columns."""
    numbers = numbers_at_hand(matrix)
    if numbers is not None:
        return ops.convert_to_tensor(exact_factor(numbers))
    rows, columns = matrix.shape[-2:]
    if rows < columns:
        return transposed(_for_tall(function, transposed(matrix), eps, maximum))
    if columns == 1:
        return vector_factor(matrix)
    return traced_once(function, matrix, PolarOptions(eps, maximum, columns >= SMALLEST_SPLIT))


def _retracted(matrix, options: PolarOptions):
    return _retracted_and_known(matrix, options)[0]


def _retracted_and_known(matrix, options: PolarOptions) -> tuple:
    start = with_gram(matrix, options)
    if not options.is_large:
        return _retracted_by_squares(start, options)
    is_nearest = ops.all((start.radius <= LINEAR_RADIUS * start.center) & is_moderate(start))

    def by_error():
        root = SLIGHTLY_LESS * ops.rsqrt(start.center)
        polynomial = shifted(start.error * (-0.5 * root / start.center), root)
        return _times(matrix, polynomial, options), is_nearest

    return ops.cond(is_nearest, by_error, lambda: _retracted_by_squares(start, options))


def _retracted_by_squares(start: Iterate, options: PolarOptions) -> tuple:
    matrix, error, center, *_ = start
    square = symmetric_product(error, error, options.is_large)
    # ||R||_2 <= ||R**2||_F ** (1/2)
    radius = ops.divide_no_nan(ops.sqrt(norm(square)), center)
    largest = LARGEST_RADIUS_OF_LARGE if options.is_large else LARGEST_RADIUS
    is_near = ops.all((radius <= largest) & is_moderate(start))

    def one_step(*_):
        polynomial = inverse_root(error, square, center, radius, options.is_large, options.is_known)
        return _times(matrix, polynomial, options)

    result = cond_with_last_resort(
        is_near,
        one_step,
        _retracted_from_afar,
        *start,
        rounding_of(error),
        settings=(options,),
        is_cheap=not options.is_large,
    )
    return result, is_near & ops.all(radius <= KNOWN_RADIUS)


def _times(matrix, polynomial, options: PolarOptions):
    """A kernel times a polynomial of its Gram matrix, on the smaller side."""
    return ops.matmul(*((polynomial, matrix) if options.is_wide else (matrix, polynomial)))


def _polar_factor(matrix, options: PolarOptions):
    @ops.custom_gradient
    def factor(matrix):
        # TensorFlow lets what the gradient needs out of the function that is traced, and takes its
        # gradient, times 0, too: in vain, and not a number where a kernel overflows.
        matrix = ops.stop_gradient(matrix)
        # In here: JAX lets nothing that is computed outside into what has a gradient of its own.
        outputs, start, accepted = _factor_and_start(matrix, options)
        center = start.center
        is_orthogonal = ops.all((start.radius <= accepted * center) & is_moderate(start))

        def gradient(*arguments, upstream=None):
            # TensorFlow passes the upstream gradient by name, the others by position.
            upstream = arguments[0] if upstream is None else upstream
            return cond_with_last_resort(
                is_orthogonal,
                lambda _, factor, upstream: tangent_projection(factor, upstream) / ops.sqrt(center),
                differential_adjoint,
                matrix,
                outputs,
                upstream,
            )

        return outputs, computed_as_here(gradient)

    return factor(matrix)


def _factor_and_start(matrix, options: PolarOptions) -> tuple:
    """`(factor, start, accepted)`: with the Gram matrix, and what radius is left as it is."""
    accepted = ops.maximum(ops.cast(options.eps / 10, matrix.dtype), rounding_of(matrix))
    start = with_gram(matrix, options)
    # One step leaves 3/4 of the square of a radius: of these, no more than many steps leave.
    near = ops.maximum(accepted, ops.sqrt(rounding_of(matrix)))
    outputs = cond_with_last_resort(
        ops.all((start.radius <= near * start.center) & is_moderate(start)),
        _one_step,
        _many_steps,
        *start,
        accepted,
        settings=(options,),
    )
    return outputs, start, accepted


def _one_step(*arguments):
    return polish(*_start_and_stopping(*arguments))


def _many_steps(*arguments):
    return orthogonalised(*_start_and_stopping(*arguments))


def _retracted_from_afar(matrix, *arguments):
    # The same to rounding. Decompositions of large matrices take longer than many steps.
    *rest, options = arguments
    if options.is_wide:
        return transposed(_many_steps(transposed(matrix), *rest, replace(options, is_wide=False)))
    numbers = None if options.is_large else numbers_at_hand(matrix)
    if numbers is None:
        return _many_steps(matrix, *arguments)
    return ops.convert_to_tensor(exact_factor(numbers))


def _start_and_stopping(*arguments) -> tuple[Iterate, StoppingRule]:
    *start, accepted, options = arguments
    matrix = start[0]
    return Iterate(*start), StoppingRule(accepted, rounding_of(matrix), is_tall(matrix), options)
