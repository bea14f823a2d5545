"""A branch that is hardly ever taken, at the price of one node of the graph."""

from collections.abc import Callable

import keras
from keras import ops


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

    if tf.executing_eagerly():
        return function
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
