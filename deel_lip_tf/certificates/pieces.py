"""Activations whose graph is made of straight pieces: which slopes they take on an interval."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import activations
from keras import layers as keras_layers

__all__ = ["Pieces", "pieces_of"]


@dataclass(frozen=True)
class Pieces:
    """A continuous function of slopes `slopes[i]` between `knots[i - 1]` and `knots[i]`.

    Attributes:
        knots: ascending numbers.
        slopes: one more than knots; numbers, or arrays that broadcast against a sample.
    """

    knots: tuple[float, ...]
    slopes: tuple

    def range_of_slopes(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and the largest slope on each interval `[low, high]`, entry by entry."""
        edges = (-np.inf, *self.knots, np.inf)
        smallest, largest = np.full(low.shape, np.inf), np.full(low.shape, -np.inf)
        for left, right, slope in zip(edges[:-1], edges[1:], self.slopes, strict=True):
            meets = (high >= left) & (low <= right)
            # As written, or as backends keep it.
            both = slope, np.float64(np.float32(slope))
            smallest = np.where(meets, np.minimum(smallest, np.minimum(*both)), smallest)
            largest = np.where(meets, np.maximum(largest, np.maximum(*both)), largest)
        return smallest, largest


def pieces_of(activation) -> Pieces | None:
    """The pieces of an activation, a function or a layer; None where it has others than these."""
    if isinstance(activation, keras.layers.Layer):
        rule = _LAYERS.get(type(activation))
        return None if rule is None else rule(activation)
    return _FUNCTIONS.get(activation)


_RELU = Pieces((0.0,), (0.0, 1.0))
_FUNCTIONS: dict[Callable, Pieces] = {
    activations.relu: _RELU,
    activations.relu6: Pieces((0.0, 6.0), (0.0, 1.0, 0.0)),
    activations.leaky_relu: Pieces((0.0,), (0.2, 1.0)),
    activations.hard_tanh: Pieces((-1.0, 1.0), (0.0, 1.0, 0.0)),
}


def _relu(layer) -> Pieces | None:
    if layer.threshold:
        return None
    knots, slopes = (0.0,), (float(layer.negative_slope), 1.0)
    if layer.max_value is None:
        return Pieces(knots, slopes)
    return Pieces((*knots, float(layer.max_value)), (*slopes, 0.0))


def _leaky(layer) -> Pieces:
    return Pieces((0.0,), (float(layer.negative_slope), 1.0))


def _prelu(layer) -> Pieces:
    slopes = np.asarray(keras.ops.convert_to_numpy(layer.alpha), dtype=np.float64)
    return Pieces((0.0,), (slopes, 1.0))


_LAYERS: dict[type, Callable[[keras.layers.Layer], Pieces | None]] = {
    keras_layers.Activation: lambda layer: pieces_of(layer.activation),
    keras_layers.ReLU: _relu,
    keras_layers.LeakyReLU: _leaky,
    keras_layers.PReLU: _prelu,
}
