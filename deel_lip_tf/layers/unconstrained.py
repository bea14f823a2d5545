"""deel-lip's name of `deel_lip_tf.layers.convolution.unconstrained`."""

from deel_lip_tf.layers.convolution.unconstrained import PadConv2D

__all__ = ["PadConv2D"]
