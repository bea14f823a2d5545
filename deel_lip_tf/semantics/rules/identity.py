"""Layers that return their input at inference."""

from keras import layers

from deel_lip_tf.semantics.integers import same
from deel_lip_tf.semantics.rule import Rule, only, rule

__all__ = ["Identity"]


@rule(
    layers.InputLayer,
    layers.Identity,
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.AlphaDropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.ActivityRegularization,
)
class Identity(Rule):
    """`x`: noise and dropout do nothing at inference."""

    gradient = "average"

    def lipschitz(self, layer, input_shape, norm):
        return 1.0

    def rounding(self, layer, shapes):
        return shapes.copied()

    def integers(self, call):
        return same(call)

    def keeps_size(self, layer, axis, rank):
        return True

    def lower(self, lowering, layer, inputs):
        return only(inputs)
