"""Layers that apply another one."""

from keras import layers

from deel_lip_tf.semantics.operators import Shape
from deel_lip_tf.semantics.rule import Rule, rule, rule_for

__all__ = ["SpectralNormalization", "TimeDistributed", "Wrapper", "unwrapped"]


class Wrapper(Rule):
    """A layer that applies its attribute `layer`."""

    def inner_shape(self, input_shape: Shape) -> Shape:
        """The shape of what the inner layer is applied to."""
        return input_shape


@rule(layers.TimeDistributed)
class TimeDistributed(Wrapper):
    """The layer at every step of a sequence."""

    def inner_shape(self, input_shape):
        return None if input_shape is None else (input_shape[0], *input_shape[2:])


@rule(layers.SpectralNormalization)
class SpectralNormalization(Wrapper):
    """The layer as it is, at inference: its kernel is scaled in training alone."""


def unwrapped(operation, shape: Shape) -> tuple:
    """The layer that wrappers apply in the end, and the shape it is applied to."""
    while isinstance(known := rule_for(operation), Wrapper):
        operation, shape = operation.layer, known.inner_shape(shape)
    return operation, shape
