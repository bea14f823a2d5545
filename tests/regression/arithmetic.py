"""Whether this machine rounds float32 as another one did that has stored its results.

The order in which a sum is added up, and whether products are fused into it, is chosen by
TensorFlow from the instructions of the processor. Nothing of this library takes part here.
"""

import hashlib

import keras
import numpy as np
import tensorflow as tf


def _numbers(*shape):
    """Multiples of 2**-20 in [-1/2, 1/2), the same on every machine."""
    steps = np.arange(np.prod(shape)) * 2654435761 % 2**20
    return (steps / 2**20 - 0.5).astype("float32").reshape(shape)


def _results():
    rows, long, image = _numbers(8, 8), _numbers(6, 90), _numbers(4, 6, 5, 3)
    kernel, positive = _numbers(3, 3, 3, 4), np.abs(long) + np.float32(0.1)
    yield from (tf.matmul(rows, rows[:, :k]) for k in (1, 3, 5, 8))
    yield from (
        tf.matmul(long, long, transpose_b=True),
        tf.matmul(long[:, :30], long[:, :30], transpose_a=True),
    )
    yield tf.matmul(_numbers(3, 5, 9), _numbers(3, 9, 5))
    for strides, padding in ((1, "SAME"), (2, "VALID")):
        yield tf.nn.conv2d(image, kernel, strides, padding)
        yield tf.nn.depthwise_conv2d(image, kernel, (1, strides, strides, 1), padding)
    yield tf.nn.conv2d_transpose(image, _numbers(3, 3, 2, 3), (4, 12, 10, 2), 2, "SAME")
    yield from (tf.reduce_sum(long, axis) for axis in (0, 1, None))
    yield from (tf.reduce_sum(tf.square(long), axis) for axis in (0, 1, None))
    yield from (f(positive) for f in (tf.sqrt, tf.math.rsqrt, tf.math.log, tf.math.reciprocal))
    yield from (f(long) for f in (tf.exp, tf.tanh, tf.nn.elu, tf.nn.softplus, tf.sigmoid))


def arithmetic() -> dict[str, str]:
    """A digest of the bits of some results of TensorFlow, and what may order its sums anew."""
    bits = b"".join(np.asarray(result, "float32").tobytes() for result in _results())
    return {
        "results": hashlib.sha256(bits).hexdigest(),
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
    }
