"""Euclidean norms over windows that do not overlap, as one loop forward and one backward."""

import functools
from collections.abc import Callable

from deel_lip_tf.layers.compiled.xla import compiled, is_worth_compiling
from deel_lip_tf.normalizers.numerics.arithmetic import safe_divide, safe_sqrt


def can_compile_norms(x, training: bool | None, data_format: str) -> bool:
    """Whether `compiled_norms` is to be used for an input."""
    if data_format != "channels_last" or not is_worth_compiling(x, training):
        return False
    return x.dtype in ("float32", "float64")


def compiled_norms(x, pool_size: tuple[int, int], factor: float):
    """`factor * sqrt(sum of x**2)` over windows, with its exact gradient, and 0 where that is 0.

    TensorFlow alone: apart, the squares, their average and its gradient each read and write the
    whole image.

    Args:
        x: TensorFlow tensor (batch, rows, columns, channels) of known sizes.
        pool_size: rows and columns of a window; what is left at the end is left out.
        factor: positive.
    """
    import tensorflow as tf

    norms = _norms(tuple(pool_size), tuple(x.shape[1:]), x.dtype)
    return norms(x, tf.constant(factor, x.dtype))


@functools.cache
def _norms(pool_size: tuple[int, int], shape: tuple[int, int, int], dtype) -> Callable:
    """`(x, factor)` to the norms, for samples of one shape."""
    import tensorflow as tf

    height, width = pool_size
    rows, columns, channels = shape[0] // height, shape[1] // width, shape[2]
    bottom, right = rows * height, columns * width

    def squares(x):
        parts = [x[:, i:bottom:height, j:right:width] for i in range(height) for j in range(width)]
        return tf.add_n([part * part for part in parts])

    def forward(x, factor):
        return factor * tf.sqrt(squares(x))

    def backward(x, factor, norms, upstream):
        # y = k ||x|| has the gradient k x / ||x|| = k**2 x / y.
        share = safe_divide(factor**2 * upstream, norms)
        windows = (-1, rows, height, columns, width, channels)
        gradient = tf.reshape(x[:, :bottom, :right], windows) * share[:, :, None, :, None, :]
        missing = (0, shape[0] - bottom), (0, shape[1] - right)
        gradient = tf.reshape(gradient, (-1, bottom, right, channels))
        return tf.pad(gradient, ((0, 0), *missing, (0, 0)))

    images = tf.TensorSpec((None, *shape), dtype)
    pooled = tf.TensorSpec((None, rows, columns, channels), dtype)
    number = tf.TensorSpec((), dtype)
    compiled_forward = compiled(forward, images, number)
    compiled_backward = compiled(backward, images, number, pooled, pooled)

    def pulled_back(x, factor, norms, upstream):
        @tf.custom_gradient
        def product(x, upstream):
            def gradient(second):
                # A gradient of a gradient is rare: what TensorFlow derives is good enough for it.
                with tf.GradientTape() as tape:
                    tape.watch((x, upstream))
                    plain = backward(x, factor, factor * safe_sqrt(squares(x)), upstream)
                return tape.gradient(plain, (x, upstream), second)

            fixed = (tf.stop_gradient(x), factor, norms, tf.stop_gradient(upstream))
            return compiled_backward(*fixed), gradient

        return product(x, upstream)

    @tf.custom_gradient
    def norms_of(x, factor):
        # Nobody asks for the gradient of what is inside: a tape need not prepare it.
        norms = compiled_forward(tf.stop_gradient(x), factor)
        return norms, lambda upstream: (pulled_back(x, factor, norms, upstream), None)

    return norms_of
