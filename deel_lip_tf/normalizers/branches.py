"""What TensorFlow is told about a computation of many small steps, so that it stays cheap."""

import functools
from collections.abc import Callable

import keras
from keras import ops


def as_graph(function: Callable, matrix, *settings, is_any_size: bool = False):
    """`function(matrix, *settings)`, of the shape of `matrix`, differentiable.

    TensorFlow traces it once for a type and its settings, for all layers and all models: tracing a
    thousand small operations for each kernel of each model, or running them one by one in eager
    mode, would cost far more than their numbers do.

    Args:
        function: a function of a module, of one tensor and hashable settings.
        matrix: its first argument, (..., rows, columns).
        *settings: the others.
        is_any_size: whether the function works on matrices whose numbers of rows and columns are
            not known when it is traced; otherwise it is traced again for another shape.
    """
    if keras.backend.backend() != "tensorflow":
        return function(matrix, *settings)
    import tensorflow as tf

    shape = tuple(matrix.shape)
    traced = _traced(
        function, (None,) * len(shape) if is_any_size else shape, matrix.dtype, settings
    )
    # Reshaping does nothing here, and tells the gradient its shape.
    result = traced(tf.reshape(matrix, shape))
    result.set_shape(shape)
    return result


@functools.lru_cache(maxsize=256)
def _traced(function: Callable, shape: tuple, dtype, settings: tuple) -> Callable:
    import tensorflow as tf

    traced = tf.function(lambda matrix: function(matrix, *settings), autograph=False)
    # The concrete function at once: TensorFlow warns of functions that it sees traced often.
    return traced.get_concrete_function(tf.TensorSpec(shape, dtype))


def usually(condition, usual: Callable, otherwise: Callable, *arguments):
    """`usual(*arguments)` where the boolean `condition` holds, else `otherwise(*arguments)`.

    TensorFlow dissolves both branches of a conditional into the graph around it, and walks through
    the one that is not taken node by node, which for a branch of loops costs more than the other
    one does. Here it stays a function of its own.
    """
    if keras.backend.backend() == "tensorflow":
        otherwise = _one_node(otherwise)
    return ops.cond(condition, lambda: usual(*arguments), lambda: otherwise(*arguments))


def _one_node(function: Callable) -> Callable:
    import tensorflow as tf

    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
