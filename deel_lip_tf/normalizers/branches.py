"""What TensorFlow is told about a computation of many small steps, so that it stays cheap."""

import functools
from collections.abc import Callable

import keras
from keras import ops


def as_graph(function: Callable, tensor, *settings):
    """`function(tensor, *settings)`, differentiable.

    TensorFlow traces it once for a shape, a type and its settings, for all layers and all models:
    tracing a thousand small operations for each kernel of each model, or running them one by one
    in eager mode, would cost far more than their numbers do.

    Args:
        function: a function of a module, of one tensor and hashable settings.
        tensor: its first argument.
        *settings: the others.
    """
    if keras.backend.backend() == "tensorflow":
        return _traced(function, tuple(tensor.shape), tensor.dtype, settings)(tensor)
    return function(tensor, *settings)


@functools.lru_cache(maxsize=256)
def _traced(function: Callable, shape: tuple, dtype, settings: tuple) -> Callable:
    import tensorflow as tf

    return tf.function(lambda tensor: function(tensor, *settings), autograph=False)


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
