"""deel-lip's former name of `deel_lip_tf.layers.activations`."""

from deel_lip_tf.layers.activations import (
    FullSort,
    GroupSort,
    GroupSort2,
    Householder,
    MaxMin,
    PReLUlip,
)

__all__ = ["FullSort", "GroupSort", "GroupSort2", "Householder", "MaxMin", "PReLUlip"]
