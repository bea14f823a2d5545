"""Layers that sort or reflect channels: gradient-norm-preserving activations."""

import math

import numpy as np

from deel_lip_tf import layers as lip
from deel_lip_tf._rounding import UP_FEW
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.ir.decompositions import (
    channels_last,
    last_if_first,
    positive_and_negative,
    reflected,
    sorted_groups,
)
from deel_lip_tf.semantics.ir.program import Builder
from deel_lip_tf.semantics.norms import L2
from deel_lip_tf.semantics.rounding import gamma
from deel_lip_tf.semantics.rule import Rule, only, rule
from deel_lip_tf.semantics.rules.data_movement import scaled
from deel_lip_tf.semantics.rules.normalization import has_channels
from deel_lip_tf.semantics.sizes import is_beside_features
from deel_lip_tf.semantics.state import as_float64, check_built

__all__ = ["Householder", "Sorting"]


@rule(lip.GroupSort, lip.GroupSort2, lip.FullSort)
class Sorting(Rule):
    """The entries of each group in order, times `k_coef_lip`."""

    def lipschitz(self, layer, input_shape, norm):
        return layer.lipschitz_constant()

    def rounding(self, layer, shapes):
        return shapes.copied(layer.k_coef_lip)

    def keeps_size(self, layer, axis, rank):
        return is_beside_features(layer, axis, rank)

    def lower(self, lowering, layer, inputs):
        builder, index = lowering.builder, channels_last(lowering.builder, only(inputs), layer)
        index = self.exchanged(builder, layer, index)
        return scaled(lowering, layer, last_if_first(builder, index, layer))

    def exchanged(self, builder: Builder, layer, index: int) -> int:
        """Appends what is done to the channels of a node, which are the last axis."""
        channels = builder.shape(index)[-1]
        size = channels if getattr(layer, "n", None) is None else min(layer.n, channels)
        return sorted_groups(builder, index, size)


@rule(lip.MaxMin)
class MaxMin(Sorting):
    """`(max(x, 0), max(-x, 0))` side by side, times `k_coef_lip`."""

    def exchanged(self, builder, layer, index):
        return positive_and_negative(builder, index)


@rule(lip.Householder)
class Householder(Sorting):
    """Pairs of channels on one side of a line are reflected to the other, times `k_coef_lip`."""

    def lipschitz(self, layer, input_shape, norm):
        if not has_channels(layer, input_shape, [getattr(layer, "theta", None)], each=2):
            return None
        constant = layer.lipschitz_constant()
        # Each piece is the identity or a reflection of pairs: absolute sums |cos| + |sin|.
        return constant if norm == L2 else math.sqrt(2.0) * constant * UP_FEW

    def rounding(self, layer, shapes):
        # The angles cost a few roundings. A point so near the line that rounding puts it on the
        # wrong side is reflected by at most twice the error of that decision.
        return shapes.rounding(gamma(64))

    def exchanged(self, builder, layer, index):
        check_built(layer)
        theta = as_float64(layer.theta)
        if 2 * theta.size != builder.shape(index)[-1]:
            raise UnsupportedLayerError("its angles broadcast its input")
        return reflected(builder, index, np.stack([np.sin(theta / 2), -np.cos(theta / 2)]))
