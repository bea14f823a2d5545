"""When TensorFlow's compiler is asked for one loop instead of several operations."""

import math
from collections.abc import Callable

import keras

from deel_lip_tf._keras import is_inside_xla

# Compiling takes a tenth of a second for each shape: worth it in training, where the same shape
# comes back thousands of times, for samples of at least this many numbers.
_WORTH_COMPILING = 4096


def is_worth_compiling(x, training: bool | None) -> bool:
    """Whether a function of `x` pays for being compiled by itself.

    Args:
        x: tensor (batch, ...).
        training: whether the same shape will come back often. A served model would be compiled
            anew for each size of a batch.
    """
    if keras.backend.backend() != "tensorflow" or training is not True or is_inside_xla():
        return False
    sizes = tuple(x.shape[1:])
    return None not in sizes and math.prod(sizes) >= _WORTH_COMPILING


def compiled(function: Callable, *signature) -> Callable:
    """`function` of TensorFlow tensors, compiled by XLA for the shapes that it is called with.

    Args:
        function: of as many tensors as there are in the signature.
        *signature: a `tf.TensorSpec` for each.
    """
    import tensorflow as tf

    # The concrete function at once: TensorFlow warns of functions that it sees traced often.
    traced = tf.function(function, jit_compile=True, autograph=False)
    return traced.get_concrete_function(*signature)


def with_shape_of(x, outputs):
    """`outputs`, which are known to have the shape of `x`."""
    outputs.set_shape(x.shape)
    return outputs
