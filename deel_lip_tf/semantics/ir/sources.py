"""Where the numbers of a layer come from when it is lowered: its weights, or what reads them."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops

from deel_lip_tf.semantics.ir.parameters import Parameter
from deel_lip_tf.semantics.ir.primitives import Tensor
from deel_lip_tf.semantics.state import as_float64, bias_of, is_constrained, kernel_of

Formula = Callable[[Callable[[Any], Any], ModuleType], Any]
"""Of what reads a variable, and of `numpy` or `keras.ops`: numbers that a layer computes."""


class Source(Protocol):
    """What a rule asks for the numbers of a layer."""

    def kernel(self, layer: keras.layers.Layer, name: str = "kernel") -> Any:
        """The kernel that a layer multiplies with: of a constrained one, the effective kernel."""

    def bias(self, layer: keras.layers.Layer) -> Any:
        """The bias of a layer, or None."""

    def computed(self, layer: keras.layers.Layer, formula: Formula) -> Any:
        """What a formula makes of the variables of a layer."""


class Numbers:
    """The numbers as they are, in float64 and rounded as the layer rounds them."""

    def kernel(self, layer: keras.layers.Layer, name: str = "kernel") -> np.ndarray:
        """The kernel that a layer multiplies with."""
        return kernel_of(layer, name)

    def bias(self, layer: keras.layers.Layer) -> np.ndarray | None:
        """The bias of a layer, or None."""
        return bias_of(layer)

    def computed(self, layer: keras.layers.Layer, formula: Formula) -> np.ndarray:
        """What a formula makes of the variables of a layer."""
        return formula(as_float64, np)


class Parameters:
    """What reads them later, in the type of the variables, so that gradients pass to these.

    Attributes:
        followed: the layers that were asked for their numbers. What another layer trains would be
            taken for constant.
    """

    def __init__(self) -> None:
        self.followed: list[keras.layers.Layer] = []

    def kernel(self, layer: keras.layers.Layer, name: str = "kernel") -> Parameter:
        """The kernel that a layer multiplies with."""
        if is_constrained(layer):
            return self.computed(layer, lambda read, xp: layer.effective_kernel())
        return self.computed(layer, lambda read, xp: read(getattr(layer, name)))

    def bias(self, layer: keras.layers.Layer) -> Parameter | None:
        """The bias of a layer, or None."""
        if layer.bias is None:
            return None
        return self.computed(layer, lambda read, xp: read(layer.bias))

    def computed(self, layer: keras.layers.Layer, formula: Formula) -> Parameter:
        """What a formula makes of the variables of a layer."""
        if not any(layer is other for other in self.followed):
            self.followed.append(layer)

        def read(xp: ModuleType) -> Tensor:
            return formula(xp.convert_to_tensor, xp)

        return Parameter(read, tuple(read(ops).shape))


NUMBERS = Numbers()
