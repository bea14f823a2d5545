"""Sorting neighbouring channels, in the formulation that is fastest where it runs.

A permutation decided by one comparison: the gradient is the permuted gradient, also at ties, where
`minimum` and `maximum` would send both gradients to the same input. An exchange of pairs is linear
and its own adjoint, so that there are derivatives of every order.
"""

import functools
from collections.abc import Callable

import keras
from keras import ops

from deel_lip_tf._keras import is_inside_xla
from deel_lip_tf.layers.compiled.xla import (
    compiled,
    is_worth_compiling,
    with_shape_of,
)

# Copying a row with its entries moved by one costs two copies for each row: few long rows are fast.
_WIDEST_ROW = 16384


def sort_pairs(x, training: bool | None = None):
    """`(x0, x1, x2, x3, ...)` to `(min(x0, x1), max(x0, x1), min(x2, x3), ...)` on the last axis.

    Args:
        x: tensor of known even last size.
        training: whether the same shape will come back often.
    """
    if is_worth_compiling(x, training):
        return with_shape_of(x, _compiled_sort(x.dtype)(x))
    if keras.backend.backend() != "tensorflow" or is_inside_xla() or not _can_view_as_complex(x):
        return _sort_pairs(x)
    if training is not True and _is_traced():
        return with_shape_of(x, _sort_neighbours(x))
    return with_shape_of(x, _sort_pairs_as_complex(x))


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

    def exchange(tensor, is_exchanged):
        return with_shape_of(tensor, compiled_backward(is_exchanged, tf.stop_gradient(tensor)))

    @tf.custom_gradient
    def sort(x):
        # Nobody asks for the gradient of what is inside: a tape need not prepare it.
        outputs, is_exchanged = compiled_forward(tf.stop_gradient(x))
        return outputs, lambda upstream: _exchanged(exchange, upstream, is_exchanged)

    return sort


def _exchanged(exchange: Callable, x, swap):
    """`exchange(x, swap)`, which is its own adjoint; TensorFlow alone.

    Args:
        exchange: linear in its first argument.
        x: pairs, in any shape.
        swap: whether to exchange the numbers of each pair.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def linear(x):
        return exchange(x, swap), lambda upstream: _exchanged(exchange, upstream, swap)

    return linear(x)


def _is_traced() -> bool:
    import tensorflow as tf

    return not tf.executing_eagerly()


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

    @tf.custom_gradient
    def sort(x):
        first, second = _parts(x)
        swap = first > second
        outputs = _joined(tf.where(swap, second, first), tf.where(swap, first, second), x)
        return outputs, lambda upstream: _exchanged(_exchange_parts, upstream, swap)

    return sort(x)


def _parts(x) -> tuple:
    """The first and the second number of each pair."""
    import tensorflow as tf

    as_complex = {tf.float32: tf.complex64, tf.float64: tf.complex128}[x.dtype]
    numbers = tf.bitcast(tf.reshape(x, (-1, 2)), as_complex)
    return tf.math.real(numbers), tf.math.imag(numbers)


def _joined(first, second, like):
    """The pairs of these numbers, in the shape of `like`."""
    import tensorflow as tf

    return tf.reshape(tf.bitcast(tf.complex(first, second), like.dtype), tf.shape(like))


def _exchange_parts(x, swap):
    import tensorflow as tf

    first, second = _parts(x)
    return _joined(tf.where(swap, second, first), tf.where(swap, first, second), x)


def _sort_neighbours(x):
    """The smaller of a number and the next one at even places, the larger of it and the last one.

    In a graph that is traced for inference, which may be exported: a file with complex numbers is
    not for everyone (LiteRT, TensorFlow.js). Copies of whole rows cost little more.
    """
    import tensorflow as tf

    width = _row_width(tuple(x.shape))
    is_even = tf.tile([[True, False]], (1, width // 2))
    rows = tf.reshape(x, (-1, width))
    following = tf.concat([rows[:, 1:], rows[:, :1]], axis=1)
    preceding = tf.concat([rows[:, -1:], rows[:, :-1]], axis=1)
    # At ties TensorFlow's gradient of either goes to the first operand: to the number itself.
    outputs = tf.where(is_even, tf.minimum(rows, following), tf.maximum(rows, preceding))
    return tf.reshape(outputs, ops.shape(x))


def _row_width(shape: tuple) -> int:
    """The largest product of last sizes of a sample up to a limit; at least the last one."""
    width = shape[-1]
    for size in shape[-2:0:-1]:
        if size is None or width * size > _WIDEST_ROW:
            break
        width *= size
    return width
