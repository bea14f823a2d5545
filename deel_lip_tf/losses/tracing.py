"""Reading variables at once, whatever is being traced."""

import contextlib

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
