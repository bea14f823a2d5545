"""Layers of Keras without a useful constant, and why."""

from keras import layers

from deel_lip_tf.semantics.rule import Rule, rule

_NORMALIZES = (
    "it divides each sample by its own {}, so that its slope grows without a useful limit where "
    "that is small; center by LayerCentering, or scale by BatchNormalization"
)
_ATTENDS = "it multiplies functions of its input, so that its slope grows with the input"
_GATES = (
    "no rule is known for gates, which multiply the state of a recurrent layer by functions of its "
    "input; SpectralSimpleRNN and AOCConvRNN2D have a constant, and SimpleRNN has a bound"
)

_REASONS: dict[type, str] = {
    layers.LayerNormalization: _NORMALIZES.format("standard deviation"),
    layers.GroupNormalization: _NORMALIZES.format("standard deviation"),
    layers.RMSNormalization: _NORMALIZES.format("root mean square"),
    layers.UnitNormalization: _NORMALIZES.format("norm"),
    layers.Attention: _ATTENDS,
    layers.AdditiveAttention: _ATTENDS,
    layers.MultiHeadAttention: _ATTENDS,
    layers.GroupQueryAttention: _ATTENDS,
    layers.LSTM: _GATES,
    layers.GRU: _GATES,
    layers.ConvLSTM1D: _GATES,
    layers.ConvLSTM2D: _GATES,
    layers.ConvLSTM3D: _GATES,
    layers.RNN: (
        "no rule is known for recurrent layers of other cells; SpectralSimpleRNN has a constant, "
        "and SimpleRNN has a bound"
    ),
    layers.Bidirectional: (
        "no rule is known for it; concatenate a SpectralSimpleRNN and one with go_backwards=True"
    ),
    layers.Lambda: "it may compute anything",
    layers.Masking: "it jumps where all features of a step equal the mask value",
}


@rule(*_REASONS)
class Unsupported(Rule):
    """A layer of which nothing is claimed."""

    def reason(self, layer):
        return _REASONS[type(layer)]
