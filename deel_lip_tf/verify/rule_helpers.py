"""What the rules share: their refusal, and weights as a layer computes with them."""

import numpy as np

from deel_lip_tf.errors import UnsupportedLayerError as Unsupported
from deel_lip_tf.semantics.state import kernel_of

__all__ = ["Unsupported", "effective_kernel"]


def effective_kernel(layer, name: str = "kernel") -> np.ndarray:
    """The kernel of the forward pass in float64.

    Raises:
        Unsupported: the layer is not built.
    """
    if not layer.built:
        raise Unsupported("it has no weights yet: build it, by `build(input_shape)` or by a call")
    return kernel_of(layer, name)
