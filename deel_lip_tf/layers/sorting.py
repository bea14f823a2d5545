"""Sorting neighbouring channels, in the formulation that is fastest where it runs.

A permutation decided by one comparison: the gradient is the permuted gradient, also at ties, where
`minimum` and `maximum` would send both gradients to the same input.
"""

import functools

import keras
from keras import ops

from deel_lip_tf.layers.xla import compiled, is_inside_xla, is_worth_compiling, with_shape_of


def sort_pairs(x, training: bool | None = None):
    """`(x0, x1, x2, x3, ...)` to `(min(x0, x1), max(x0, x1), min(x2, x3), ...)` on the last axis.

    Args:
        x: tensor of known even last size.
        training: whether the same shape will come back often.
    """
    if is_worth_compiling(x, training):
        return with_shape_of(x, _compiled_sort(x.dtype)(x))
    if keras.backend.backend() == "tensorflow" and not is_inside_xla() and _can_view_as_complex(x):
        return _sort_pairs_as_complex(x)
    return _sort_pairs(x)


def _sort_pairs(x):
    shape = ops.shape(x)
    pairs = ops.reshape(x, (*shape[:-1], shape[-1] // 2, 2))
    first, second = pairs[..., 0], pairs[..., 1]
    swap = first > second
    lower, upper = ops.where(swap, second, first), ops.where(swap, first, second)
    return ops.reshape(ops.stack([lower, upper], axis=-1), shape)


@functools.cache
def _compiled_sort(dtype):
    """The sort of numbers of a type as two functions that XLA makes one loop of each.

    The gradient needs to know which pairs were exchanged, one byte for each number, and not the
    numbers.
    """
    import tensorflow as tf

    def forward(x):
        # Both numbers of a pair are compared, each with the other: XLA makes a loop over whole
        # registers of that, and not of a comparison that is copied from one to the other.
        pairs = tf.reshape(x, (-1, 2))
        reversed_pairs = tf.reverse(pairs, [-1])
        is_first = tf.constant([[True, False]])
        is_exchanged = tf.where(is_first, pairs > reversed_pairs, pairs < reversed_pairs)
        outputs = tf.where(is_exchanged, reversed_pairs, pairs)
        return tf.reshape(outputs, tf.shape(x)), is_exchanged

    def backward(is_exchanged, upstream):
        gradient = tf.reshape(upstream, (-1, 2))
        gradient = tf.where(is_exchanged, tf.reverse(gradient, [-1]), gradient)
        return tf.reshape(gradient, tf.shape(upstream))

    any_shape = tf.TensorSpec(None, dtype)
    compiled_forward = compiled(forward, any_shape)
    compiled_backward = compiled(backward, tf.TensorSpec((None, 2), tf.bool), any_shape)

    @tf.custom_gradient
    def sort(x):
        outputs, is_exchanged = compiled_forward(x)

        def gradient(upstream):
            return with_shape_of(x, compiled_backward(is_exchanged, upstream))

        return outputs, gradient

    return sort


def _can_view_as_complex(x) -> bool:
    import tensorflow as tf

    # XLA refuses to reinterpret floats as complex numbers, and fuses the other formulation.
    return x.dtype in (tf.float32, tf.float64)


def _sort_pairs_as_complex(x):
    """Takes a pair for a complex number.

    TensorFlow's kernels copy narrow slices element by element; on a CPU, interleaving two tensors
    by `stack` costs as much as ten activations. Making complex numbers of them is one pass.
    """
    import tensorflow as tf

    as_complex = {tf.float32: tf.complex64, tf.float64: tf.complex128}[x.dtype]

    def split(tensor):
        numbers = tf.bitcast(tf.reshape(tensor, (-1, 2)), as_complex)
        return tf.math.real(numbers), tf.math.imag(numbers)

    def join(first, second, like):
        return tf.reshape(tf.bitcast(tf.complex(first, second), like.dtype), tf.shape(like))

    @tf.custom_gradient
    def sort(x):
        first, second = split(x)
        swap = first > second

        def gradient(upstream):
            lower, upper = split(upstream)
            return join(tf.where(swap, upper, lower), tf.where(swap, lower, upper), upstream)

        return join(tf.where(swap, second, first), tf.where(swap, first, second), x), gradient

    return with_shape_of(x, sort(x))
