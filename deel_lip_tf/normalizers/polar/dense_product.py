"""The product of a batch and an orthogonal kernel, whose gradient is projected through the batch.

The gradient of the kernel is the tangent projection of `X'D`, of inputs `X` and upstream gradients
`D`. With fewer samples than rows and columns, it is cheaper to project the factors of that product
than the product: no matrix of the size of the kernel is multiplied by another one.
"""

from collections.abc import Callable

import keras
from keras import ops

from deel_lip_tf.normalizers.numerics.norm_bounds import unit_roundoff
from deel_lip_tf.normalizers.polar.gradient import differential_adjoint, tangent_projection
from deel_lip_tf.normalizers.polar.known import KnownInStep, mean_singular_value
from deel_lip_tf.normalizers.polar.products import SMALLEST_SPLIT, norm, transposed
from deel_lip_tf.normalizers.polar.tf_graphs import (
    computed_as_here,
    cond_with_last_resort,
    cond_with_rare_branch,
)


def is_worth_projecting(kernel) -> bool:
    """Whether a kernel (rows, columns) is large enough for `dense_product`: with TensorFlow only.

    The other backends want a gradient with respect to the effective kernel, too, which is what is
    to be avoided.
    """
    return keras.backend.backend() == "tensorflow" and min(kernel.shape) >= SMALLEST_SPLIT


def dense_product(
    inputs, effective, kernel, gain: float, eps: float, known: KnownInStep | None = None
):
    """`inputs @ effective`, with the gradient of `kernel` that goes through `effective`.

    Args:
        inputs: `X` (..., rows).
        effective: `gain * Q` (rows, columns) with `Q` the polar factor of `kernel`.
        kernel: `W`; it is the one that gets a gradient, and not `effective`.
        gain: positive.
        eps: as for `nearest_orthogonal`: a kernel whose singular values are equal up to a tenth of
            it is taken for orthogonal.
        known: what the step knows of the kernel, if it asks: it need not be compared with its
            factor then.
    """
    import tensorflow as tf

    rows, columns = kernel.shape
    smaller = min(rows, columns)
    # ||W - cQ|| = ||W'W - c**2 I|| / 2c, here relative to ||W||; what rounding leaves is no less.
    accepted = max(eps / 10 / (2 * smaller**0.5), 8 * unit_roundoff(kernel))

    @tf.custom_gradient
    def product(inputs, effective, kernel):
        outputs = tf.matmul(inputs, effective)

        def gradient(upstream):
            to_inputs = tf.matmul(upstream, effective, transpose_b=True)
            batch = (inputs, outputs, to_inputs, upstream)
            is_orthogonal, scale = _as_multiple(kernel, effective, accepted, known)
            is_small = tf.shape(inputs)[0] < smaller
            tensors = inputs, upstream, effective
            settings = rows < columns, gain

            def projected(*_):
                return cond_with_rare_branch(
                    is_small,
                    lambda *_: _projected_factors(*batch, effective, scale, gain),
                    _projected_product,
                    *tensors,
                    scale,
                    settings=settings,
                    is_plain=True,
                )

            to_kernel = cond_with_last_resort(
                is_orthogonal, projected, _pulled_back_product, *tensors, kernel, settings=settings
            )
            to_kernel.set_shape((rows, columns))
            return to_inputs, None, to_kernel

        return outputs, computed_as_here(gradient)

    flat = product(tf.reshape(inputs, (-1, rows)), effective, kernel)
    return ops.reshape(flat, (*ops.shape(inputs)[:-1], columns))


def _as_multiple(kernel, effective, accepted: float, known: KnownInStep | None) -> tuple:
    """Whether `W` is a multiple of `Q`, and of which."""

    def compared():
        size, factor_size = norm(kernel), norm(effective)
        distance = norm(kernel - size / factor_size * effective)
        # Not `<=`, which holds between infinities.
        return (distance < accepted * size)[0, 0], mean_singular_value(kernel)

    if known is None:
        return compared()
    return ops.cond(known.is_known, lambda: (known.is_known, known.multiple), compared)


def _projected_factors(inputs, outputs, to_inputs, upstream, effective, scale, gain: float):
    """`U - Q sym(Q'U)`, or `U - sym(UQ')Q` of a wide kernel, for `U = gain X'D`; over `scale`."""
    rows, columns = effective.shape
    whole, half = gain / scale, 0.5 / gain / scale
    left, right = inputs, upstream
    if rows == columns:
        left = 0.5 * whole * inputs  # `XQQ' = X`
    elif rows > columns:
        left = whole * inputs - half * ops.matmul(outputs, transposed(effective))
    else:
        right = whole * upstream - half * ops.matmul(to_inputs, effective)
    # Both products in one: no matrix of the size of the kernel is read or written again.
    left = ops.concatenate([left, to_inputs], axis=0)
    right = ops.concatenate([right, -half * outputs], axis=0)
    return ops.matmul(transposed(left), right)


def _projected_product(inputs, upstream, effective, scale, is_wide: bool, gain: float):
    """The tangent projection of the product itself, over `scale`."""
    through, factor = gain / scale * ops.matmul(transposed(inputs), upstream), effective / gain
    return _for_tall(tangent_projection, is_wide, factor, through)


def _pulled_back_product(inputs, upstream, effective, kernel, is_wide: bool, gain: float):
    """The gradient wherever the kernel is."""
    through, factor = gain * ops.matmul(transposed(inputs), upstream), effective / gain
    return _for_tall(differential_adjoint, is_wide, kernel, factor, through)


def _for_tall(function: Callable, is_wide: bool, *matrices):
    result = function(*[transposed(x) if is_wide else x for x in matrices])
    return transposed(result) if is_wide else result
