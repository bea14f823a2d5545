"""Layers that sort or reflect channels: gradient-norm-preserving activations."""

import math

from deel_lip_tf import layers as lip
from deel_lip_tf._rounding import UP_FEW
from deel_lip_tf.semantics.norms import L2
from deel_lip_tf.semantics.rounding import gamma
from deel_lip_tf.semantics.rule import Rule, rule
from deel_lip_tf.semantics.sizes import is_beside_features

__all__ = ["Householder", "Sorting"]


@rule(lip.GroupSort, lip.GroupSort2, lip.FullSort, lip.MaxMin)
class Sorting(Rule):
    """The entries of each group in order, or `(max(x, 0), max(-x, 0))`, times `k_coef_lip`."""

    def lipschitz(self, layer, input_shape, norm):
        return layer.lipschitz_constant()

    def rounding(self, layer, shapes):
        return shapes.copied(layer.k_coef_lip)

    def keeps_size(self, layer, axis, rank):
        return is_beside_features(layer, axis, rank)


@rule(lip.Householder)
class Householder(Rule):
    """Pairs of channels on one side of a line are reflected to the other, times `k_coef_lip`."""

    def lipschitz(self, layer, input_shape, norm):
        constant = layer.lipschitz_constant()
        # Each piece is the identity or a reflection of pairs: absolute sums |cos| + |sin|.
        return constant if norm == L2 else math.sqrt(2.0) * constant * UP_FEW

    def rounding(self, layer, shapes):
        # The angles cost a few roundings. A point so near the line that rounding puts it on the
        # wrong side is reflected by at most twice the error of that decision.
        return shapes.rounding(gamma(64))

    def keeps_size(self, layer, axis, rank):
        return is_beside_features(layer, axis, rank)
