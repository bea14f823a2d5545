"""Layers of Keras without a useful constant, and why."""

from keras import layers

from deel_lip_tf.semantics.rule import Rule, rule

__all__ = ["Attention", "Masking", "Recurrent", "SampleNormalization"]


class SampleNormalization(Rule):
    """Each sample divided by a number of its own, called `divisor`."""

    divisor = "standard deviation"

    def reason(self, layer):
        return (
            f"it divides each sample by its own {self.divisor}, so that its slope grows without a "
            "useful limit where that is small; center by LayerCentering, or scale by "
            "BatchNormalization"
        )


@rule(layers.LayerNormalization, layers.GroupNormalization)
class Standardization(SampleNormalization):
    """`(x - mean(x)) / deviation(x)`."""


@rule(layers.RMSNormalization)
class RMSNormalization(SampleNormalization):
    """`x / sqrt(mean(x**2))`."""

    divisor = "root mean square"


@rule(layers.UnitNormalization)
class UnitNormalization(SampleNormalization):
    """`x / norm(x)`."""

    divisor = "norm"


@rule(
    layers.Attention,
    layers.AdditiveAttention,
    layers.MultiHeadAttention,
    layers.GroupQueryAttention,
)
class Attention(Rule):
    """Weighted means whose weights depend on the input."""

    def reason(self, layer):
        return "it multiplies functions of its input, so that its slope grows with the input"


@rule(layers.SimpleRNN, layers.LSTM, layers.GRU)
class Recurrent(Rule):
    """A state that is carried along a sequence."""

    def reason(self, layer):
        return "no rule is known for recurrent layers"


@rule(layers.Lambda)
class Lambda(Rule):
    """Any function."""

    def reason(self, layer):
        return "it may compute anything"


@rule(layers.Masking)
class Masking(Rule):
    """Zeros in place of the steps that equal a value."""

    def reason(self, layer):
        return "it jumps where all features of a step equal the mask value"
