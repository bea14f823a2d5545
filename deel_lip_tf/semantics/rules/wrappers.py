"""Layers that apply another one."""

from typing import Any

from keras import layers

from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.ir.decompositions import sequence_of, step_of
from deel_lip_tf.semantics.operators import Shape
from deel_lip_tf.semantics.rule import Rule, only, rule, rule_for


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
        builder = lowering.builder
        steps = range(builder.shape(index)[0])
        results = [lowering.layer(inner, [step_of(builder, index, step)]) for step in steps]
        return sequence_of(builder, results)


@rule(layers.SpectralNormalization)
class SpectralNormalization(Wrapper):
    """The layer as it is, at inference: its kernel is scaled in training alone."""


def unwrapped(operation: Any, shape: Shape) -> tuple:
    """The layer that wrappers apply in the end, and the shape it is applied to."""
    while isinstance(known := rule_for(operation), Wrapper):
        operation, shape = operation.layer, known.inner_shape(shape)
    return operation, shape
