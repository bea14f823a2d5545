"""Layers that apply another one."""

from typing import Any

import numpy as np
from keras import layers

from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.ir.decompositions import reshaped
from deel_lip_tf.semantics.ir.primitives import Concatenate, Gather
from deel_lip_tf.semantics.operators import Shape
from deel_lip_tf.semantics.rule import Rule, only, rule, rule_for

__all__ = ["SpectralNormalization", "TimeDistributed", "Wrapper", "unwrapped"]


class Wrapper(Rule):
    """A layer that applies its attribute `layer`."""

    def inner_shape(self, input_shape: Shape) -> Shape:
        """The shape of what the inner layer is applied to."""
        return input_shape

    def lower(self, lowering, layer, inputs):
        # The wrapper calls it without the change of type that a call of its own would make.
        if layer.layer.compute_dtype != layer.compute_dtype:
            raise UnsupportedLayerError("its layer computes in another type than the wrapper")
        return self.applied(lowering, layer.layer, only(inputs))

    def applied(self, lowering, inner, index: int) -> int:
        """Appends what the inner layer makes of a node."""
        return lowering.layer(inner, [index])


@rule(layers.TimeDistributed)
class TimeDistributed(Wrapper):
    """The layer at every step of a sequence."""

    def inner_shape(self, input_shape):
        return None if input_shape is None else (input_shape[0], *input_shape[2:])

    def applied(self, lowering, inner, index):
        builder, (steps, *shape) = lowering.builder, lowering.builder.shape(index)
        results = []
        for step in range(steps):
            one = builder.affine(index, Gather((np.array([step]), *[None] * len(shape))))
            result = lowering.layer(inner, [reshaped(builder, one, tuple(shape))])
            results.append(reshaped(builder, result, (1, *builder.shape(result))))
        return builder.affine(results, Concatenate(1))


@rule(layers.SpectralNormalization)
class SpectralNormalization(Wrapper):
    """The layer as it is, at inference: its kernel is scaled in training alone."""


def unwrapped(operation: Any, shape: Shape) -> tuple:
    """The layer that wrappers apply in the end, and the shape it is applied to."""
    while isinstance(known := rule_for(operation), Wrapper):
        operation, shape = operation.layer, known.inner_shape(shape)
    return operation, shape
