"""What TensorFlow and JAX are told about a computation of many small steps: it stays cheap."""

import functools
import itertools
from collections.abc import Callable, Iterator

import keras
from keras import ops

# Tracing costs as much as this many calls are slower by without: 0.3 s, and 4 ms each.
_WITHOUT_TRACE = 64


def traced_once(function: Callable, matrix, *settings):
    """`function(matrix, *settings)`, of the shape of `matrix`, differentiable.

    TensorFlow traces it once for a type and its settings, for all shapes, layers and models:
    tracing a thousand small operations for each kernel of each model would cost far more than their
    numbers do. In eager mode the first calls run the operations that are needed one by one, until
    that has cost as much as tracing all would have: most programs need a few calls. JAX traces it
    once for each shape, and outside of compiled functions compiles it once, where it would compile
    each conditional at each call.

    Args:
        function: a function of a module, of one tensor and hashable settings. It does not know
            how long the axes of the tensor are when it is traced.
        matrix: its first argument, (..., rows, columns).
        *settings: the others.
    """
    if keras.backend.backend() == "jax":
        return _compiled(function, settings)(ops.convert_to_tensor(matrix))
    if keras.backend.backend() != "tensorflow":
        return function(matrix, *settings)
    import tensorflow as tf

    kinds = _kinds([matrix])
    if not tf.inside_function() and next(_calls(function, kinds, settings)) < _WITHOUT_TRACE:
        # TensorFlow's: Keras would leave a variable what it is.
        return function(tf.convert_to_tensor(matrix), *settings)
    shape = tuple(matrix.shape)
    # Reshaping does nothing here, and tells the gradient its shape.
    result = _traced(function, kinds, settings, False)(tf.reshape(matrix, shape))
    result.set_shape(shape)
    return result


def noinline(function: Callable, *tensors, settings: tuple = ()):
    """`function(*tensors, *settings)`, as one node of the graph wherever it is called.

    For what is large and seldom runs, or runs often from many places: TensorFlow keeps and
    optimizes one graph of it, where it would copy the operations to every place.

    Args:
        function: a function of a module. As above, it does not know how long axes are.
        *tensors: its first arguments.
        settings: the others, hashable.
    """
    if keras.backend.backend() != "tensorflow":
        return function(*tensors, *settings)
    return _traced(function, _kinds(tensors), settings, True)(*tensors)


def _kinds(tensors) -> tuple:
    return tuple((len(tensor.shape), tensor.dtype) for tensor in tensors)


@functools.lru_cache(maxsize=256)
def _calls(function: Callable, kinds: tuple, settings: tuple) -> Iterator[int]:
    """How often this was called in eager mode."""
    return itertools.count()


@functools.lru_cache(maxsize=256)
def _traced(function: Callable, kinds: tuple, settings: tuple, is_one_node: bool) -> Callable:
    import tensorflow as tf

    traced = tf.function(
        lambda *tensors: function(*tensors, *settings),
        autograph=False,
        experimental_attributes={"_noinline": True} if is_one_node else None,
    )
    # The concrete function at once: TensorFlow warns of functions that it sees traced often.
    return traced.get_concrete_function(
        *(tf.TensorSpec((None,) * rank, dtype) for rank, dtype in kinds)
    )


@functools.lru_cache(maxsize=256)
def _compiled(function: Callable, settings: tuple) -> Callable:
    import jax

    return jax.jit(lambda matrix: function(matrix, *settings))


def cond_with_rare_branch(
    condition, usual: Callable, rare: Callable, *tensors, settings: tuple = ()
):
    """`usual(*tensors, *settings)` where `condition` holds, else `rare(*tensors, *settings)`.

    TensorFlow dissolves both branches of a conditional into the graph around it, and walks through
    the one that is not taken node by node, which for a branch of loops costs more than the other
    one does. Here it stays a function of its own: `rare` is one of a module, as for `noinline`.
    """
    return ops.cond(
        condition,
        lambda: usual(*tensors, *settings),
        lambda: noinline(rare, *tensors, settings=settings),
    )
