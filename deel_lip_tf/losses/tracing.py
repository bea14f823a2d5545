"""Reading variables at once, whatever is being traced."""

import contextlib
from typing import Any

import keras


def outside_of_graphs() -> contextlib.AbstractContextManager:
    """Where TensorFlow creates, reads and assigns variables at once, even while it traces a step.

    On the other backends nothing needs to be left: JAX holds variables outside of what it traces,
    torch does not trace.
    """
    if keras.config.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.init_scope()


def is_traced_by_jax(tensor: Any) -> bool:
    """Whether JAX traces what computes a tensor, so that nothing in its step has a value yet."""
    if keras.config.backend() != "jax":
        return False
    import jax

    return isinstance(tensor, jax.core.Tracer)
