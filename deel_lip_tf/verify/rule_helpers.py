"""What the rules share: their refusal, and weights as a layer computes with them."""

import keras
import numpy as np

from deel_lip_tf._keras import is_autocast
from deel_lip_tf.bounds.layers import kernel_of

__all__ = ["Unsupported", "effective_kernel", "stored"]


class Unsupported(ValueError):
    """A layer or operation has no rule; the message is the reason, without its name."""


def effective_kernel(layer, name: str = "kernel") -> np.ndarray:
    """The kernel of the forward pass in float64.

    Raises:
        Unsupported: the layer is not built.
    """
    if not layer.built:
        raise Unsupported("it has no weights yet: build it, by `build(input_shape)` or by a call")
    return kernel_of(layer, name)


def stored(layer, variable) -> np.ndarray:
    """A weight in float64, rounded to the type the layer computes in where Keras does so."""
    value = keras.ops.cast(variable, layer.compute_dtype) if is_autocast(variable) else variable
    return np.asarray(keras.ops.convert_to_numpy(value)).astype(np.float64)
