"""Activations that are layers."""

import math
from typing import Any

import numpy as np
from keras import activations, layers

from deel_lip_tf import layers as lip
from deel_lip_tf._rounding import argument_rounding
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.functions import (
    PiecewiseLinear,
    activation_constant,
    activation_rounding,
    never_falls,
    pieces_of,
    unknown_activation,
)
from deel_lip_tf.semantics.ir import elementwise
from deel_lip_tf.semantics.ir.elementwise import Function
from deel_lip_tf.semantics.ir.primitives import Scale, Sum
from deel_lip_tf.semantics.operators import Shape
from deel_lip_tf.semantics.rounding import few, gamma, smooth, softmax
from deel_lip_tf.semantics.rule import Rule, only, rule
from deel_lip_tf.semantics.rules.data_movement import scaled
from deel_lip_tf.semantics.rules.normalization import broadcast_copies
from deel_lip_tf.semantics.sizes import every_axis
from deel_lip_tf.semantics.state import as_computed_with, as_float64, check_built


@rule(layers.Activation)
class Activation(Rule):
    """`activation(x)`, a function or a layer."""

    keeps_size = staticmethod(every_axis)

    def lipschitz(self, layer, input_shape, norm):
        return activation_constant(layer.activation, norm)

    def reason(self, layer):
        return unknown_activation(layer.activation)

    def rounding(self, layer, shapes):
        return activation_rounding(layer.activation, shapes)

    def pieces(self, layer):
        return pieces_of(layer.activation)

    def never_falls(self, layer):
        return never_falls(layer.activation)

    def lower(self, lowering, layer, inputs):
        return only(inputs)  # the walk applies `activation`, as of any layer


@rule(layers.ReLU)
class ReLU(Rule):
    """`max(0, x)`, with a slope below 0 and a largest value."""

    keeps_size = staticmethod(every_axis)

    def lipschitz(self, layer, input_shape, norm):
        # With a threshold t > 0 the function jumps from 0 to t at x = t: no constant exists.
        return _steepest(layer, layer.negative_slope) if layer.threshold == 0 else None

    def rounding(self, layer, shapes):
        largest = 0.0 if layer.max_value is None else layer.max_value
        limit = largest * math.sqrt(math.prod(shapes.outputs))
        return shapes.rounding(gamma(4) if layer.negative_slope or limit else 0.0, limit)

    def pieces(self, layer):
        if layer.threshold:
            return None
        breakpoints, slopes = (0.0,), (float(layer.negative_slope), 1.0)
        if layer.max_value is None:
            return PiecewiseLinear(breakpoints, slopes)
        return PiecewiseLinear((*breakpoints, float(layer.max_value)), (*slopes, 0.0))

    def lower(self, lowering, layer, inputs):
        return lowering.builder.function(only(inputs), rectifier(layer))


@rule(layers.LeakyReLU)
class LeakyReLU(Rule):
    """`x`, times a slope below 0."""

    keeps_size = staticmethod(every_axis)
    rounding = staticmethod(few)

    def lipschitz(self, layer, input_shape, norm):
        return _steepest(layer, layer.negative_slope)

    def pieces(self, layer):
        return PiecewiseLinear((0.0,), (float(layer.negative_slope), 1.0))

    def lower(self, lowering, layer, inputs):
        return lowering.builder.function(only(inputs), elementwise.relu(layer.negative_slope))


@rule(layers.PReLU)
class PReLU(Rule):
    """`x`, times a learned slope below 0, which may broadcast."""

    rounding = staticmethod(few)

    def lipschitz(self, layer, input_shape, norm):
        if not layer.built or not _keeps_shape(layer, input_shape):
            return None
        slopes = np.abs(as_float64(layer.alpha))
        return _steepest(layer, float(slopes.max())) if slopes.size else 1.0

    def pieces(self, layer):
        return PiecewiseLinear((0.0,), (as_float64(layer.alpha), 1.0))

    def lower(self, lowering, layer, inputs):
        check_built(layer)
        function = elementwise.prelu(as_computed_with(layer, layer.alpha))
        return lowering.builder.function(only(inputs), function)


@rule(lip.PReLUlip)
class PReLUlip(Rule):
    """`k_coef_lip` times a PReLU of slopes that are clipped to [-1, 1]."""

    rounding = staticmethod(few)

    def lipschitz(self, layer, input_shape, norm):
        return layer.lipschitz_constant() if _keeps_shape(layer, input_shape) else None

    def lower(self, lowering, layer, inputs):
        check_built(layer)
        slopes = np.clip(as_computed_with(layer, layer.alpha), -1.0, 1.0)
        index = lowering.builder.function(only(inputs), elementwise.prelu(slopes))
        return scaled(lowering, layer, index)


@rule(lip.SoftHuber)
class SoftHuber(Rule):
    """`k_coef_lip` times `sqrt(x**2 + delta**2) - delta`."""

    keeps_size = staticmethod(every_axis)

    def lipschitz(self, layer, input_shape, norm):
        return layer.lipschitz_constant()

    def rounding(self, layer, shapes):
        return shapes.rounding(gamma(24))  # no term is negative but the sign of the input

    def lower(self, lowering, layer, inputs):
        index, builder = only(inputs), lowering.builder
        root = builder.function(index, elementwise.squareplus(layer.delta**2))
        # squareplus(x, b) = (x + sqrt(x**2 + b)) / 2
        linear = Sum((Scale(2.0), Scale(-1.0)))
        index = builder.affine([root, index], linear, np.array(-layer.delta))
        return scaled(lowering, layer, index)


@rule(layers.ELU)
class ELU(Rule):
    """`x`, and `alpha * (exp(x) - 1)` below 0."""

    keeps_size = staticmethod(every_axis)
    rounding = staticmethod(smooth)

    def lipschitz(self, layer, input_shape, norm):
        return _steepest(layer, layer.alpha)

    def never_falls(self, layer):
        return layer.alpha >= 0.0

    def lower(self, lowering, layer, inputs):
        return lowering.builder.function(only(inputs), elementwise.elu(layer.alpha))


@rule(layers.Softmax)
class Softmax(Rule):
    """Exponentials divided by their sum along axes."""

    keeps_size = staticmethod(every_axis)
    rounding = staticmethod(softmax)

    def lipschitz(self, layer, input_shape, norm):
        axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
        rank = None if input_shape is None else len(input_shape)
        # Over the batch axis the layer would mix samples. Counted from the end, any other axis than
        # the last may be the batch axis as long as the rank is unknown.
        resolved = [axis + rank if axis < -1 and rank else axis for axis in axes]
        return 0.5 if all(axis >= 1 or axis == -1 for axis in resolved) else None

    def lower(self, lowering, layer, inputs):
        if layer.axis not in (-1, len(lowering.builder.shape(only(inputs)))):
            raise UnsupportedLayerError("it may only end the model, along its last axis")
        return lowering.activate(inputs[0], activations.softmax)


def rectifier(operation: Any) -> Function:
    """The function of a ReLU, a layer or an operation, with its arguments.

    Raises:
        UnsupportedLayerError: it jumps.
    """
    if operation.threshold:
        raise UnsupportedLayerError("its function jumps at `threshold`")
    return elementwise.relu(operation.negative_slope or 0.0, operation.max_value)


def _keeps_shape(layer: layers.Layer, input_shape: Shape) -> bool:
    """Whether the slopes of a layer do not broadcast its input."""
    is_known = input_shape is not None and layer.built
    return not is_known or broadcast_copies(layer, input_shape, layer.alpha.shape) == 1


def _steepest(layer: layers.Layer, slope: float) -> float:
    """`max(1, |slope|)`, exact for slopes up to 1: their rounding cannot exceed 1 either."""
    return 1.0 if abs(slope) <= 1.0 else float(abs(slope)) * argument_rounding(layer.compute_dtype)
