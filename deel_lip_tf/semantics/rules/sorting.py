"""Activations that tell channels apart: they sort, reflect or bend each in its own way."""

import math

import numpy as np

from deel_lip_tf import layers as lip
from deel_lip_tf._rounding import UP_FEW
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.layers.activations.householder import folds
from deel_lip_tf.semantics.functions import PiecewiseLinear
from deel_lip_tf.semantics.ir import elementwise
from deel_lip_tf.semantics.ir.decompositions import (
    channels_last,
    combined,
    folded,
    last_if_first,
    positive_and_negative,
    reflected,
    sorted_groups,
)
from deel_lip_tf.semantics.ir.program import Builder
from deel_lip_tf.semantics.norms import L2
from deel_lip_tf.semantics.rounding import gamma
from deel_lip_tf.semantics.rule import Rule, as_laid_out, only, rule
from deel_lip_tf.semantics.rules.data_movement import scaled
from deel_lip_tf.semantics.rules.normalization import broadcast_norm, has_channels
from deel_lip_tf.semantics.sizes import is_beside_features
from deel_lip_tf.semantics.state import as_computed_with, as_float64, check_built


class Exchange(Rule):
    """What is done to the channels of each place, times `k_coef_lip`."""

    keeps_size = staticmethod(is_beside_features)

    def lipschitz(self, layer, input_shape, norm):
        return layer.lipschitz_constant()

    def rounding(self, layer, shapes):
        return shapes.copied(layer.k_coef_lip)

    def lower(self, lowering, layer, inputs):
        builder, index = lowering.builder, channels_last(lowering.builder, only(inputs), layer)
        index = self.exchanged(builder, layer, index)
        return scaled(lowering, layer, last_if_first(builder, index, layer))

    def exchanged(self, builder: Builder, layer, index: int) -> int:
        """Appends what is done to the channels of a node, which are the last axis."""
        raise NotImplementedError


@rule(lip.GroupSort, lip.GroupSort2, lip.FullSort)
class Sorting(Exchange):
    """The entries of each group in order, times `k_coef_lip`."""

    def groups(self, layer, input_shape):
        is_first = layer.data_format == "channels_first"
        channels = input_shape[1 if is_first else -1]
        names = np.arange(math.prod(input_shape[1:])) // self.group_size(layer, channels)
        names = as_laid_out(names.reshape(-1, channels), layer)
        return names, names

    def group_size(self, layer, channels: int) -> int:
        """How many neighbouring channels are sorted together."""
        return channels if getattr(layer, "n", None) is None else min(layer.n, channels)

    def exchanged(self, builder, layer, index):
        return sorted_groups(builder, index, self.group_size(layer, builder.shape(index)[-1]))


@rule(lip.MaxMin)
class MaxMin(Exchange):
    """`(max(x, 0), max(-x, 0))` side by side, times `k_coef_lip`."""

    def exchanged(self, builder, layer, index):
        return positive_and_negative(builder, index)


@rule(lip.Householder)
class Householder(Exchange):
    """Pairs of channels on one side of a line are reflected to the other, times `k_coef_lip`."""

    def lipschitz(self, layer, input_shape, norm):
        theta = getattr(layer, "theta", None)
        if theta is not None and layer.order == 2:
            theta = theta[0]
        if not has_channels(layer, input_shape, [theta], each=2):
            return None
        constant = layer.lipschitz_constant()
        # Each piece is the identity or a reflection of pairs: absolute sums |cos| + |sin|.
        return constant if norm == L2 else math.sqrt(2.0) * constant * UP_FEW

    def rounding(self, layer, shapes):
        # The angles cost a few roundings. A point so near the line that rounding puts it on the
        # wrong side is reflected by at most twice the error of that decision; of order 2, where a
        # product is one rounding more, it may be so near to two lines.
        return shapes.rounding(gamma(64 if layer.order == 1 else 256))

    def exchanged(self, builder, layer, index):
        check_built(layer)
        theta = as_float64(layer.theta)
        if 2 * theta.shape[-1] != builder.shape(index)[-1]:
            raise UnsupportedLayerError("its angles broadcast its input")
        if layer.order == 2:
            rays, pieces = folds(theta, np)
            return folded(builder, index, np.array(rays), np.array(pieces))
        return reflected(builder, index, np.stack([np.sin(theta / 2), -np.cos(theta / 2)]))


@rule(lip.Abs)
class Absolute(Exchange):
    """The absolute values of the last channels, times `k_coef_lip`."""

    def pieces(self, layer):
        if layer.fraction < 1:
            return None  # how many channels there are is not known here
        return PiecewiseLinear((0.0,), (-layer.k_coef_lip, layer.k_coef_lip))

    def exchanged(self, builder, layer, index):
        channels = builder.shape(index)[-1]
        slopes = np.where(np.arange(channels) < layer.kept(channels), 1.0, -1.0)
        return builder.function(index, elementwise.prelu(slopes))


@rule(lip.NActivation)
class NActivation(Exchange):
    """`x - 2 clip(x, a, b)` with the knots of each channel, times `k_coef_lip`."""

    def rounding(self, layer, shapes):
        return shapes.rounding(
            gamma(4), 2.0 * shapes.constant * broadcast_norm(layer.knots, shapes)
        )

    def exchanged(self, builder, layer, index):
        check_built(layer)
        low, high = np.sort(as_computed_with(layer, layer.knots), axis=0)
        # clip(x, a, b) = a + relu(x - a) - relu(x - b)
        parts = [builder.scaled(index, shift=-2.0 * low)]
        for knots in (low, high):
            part = builder.scaled(index, shift=-knots)
            parts.append(builder.function(part, elementwise.relu()))
        return combined(builder, parts, [1.0, -2.0, 2.0])


@rule(lip.LipschitzSpline)
class Spline(Exchange):
    """A piecewise linear function of each channel, times `k_coef_lip`."""

    def rounding(self, layer, shapes):
        # Values at the knots are sums of as many terms, none of which is larger than the radius; a
        # point that rounding puts on the wrong side of a knot is as near to it as that.
        offset = layer.radius * shapes.constant * math.sqrt(math.prod(shapes.outputs))
        return shapes.rounding(gamma(4 * layer.knots + 64), offset)

    def pieces(self, layer):
        if layer.data_format == "channels_first" or not layer.built:
            return None
        slopes = layer.k_coef_lip * self.slopes(layer)
        return PiecewiseLinear(tuple(layer.grid.tolist()), tuple(slopes))

    def slopes(self, layer) -> np.ndarray:
        """(pieces, channels), from the left to the right."""
        return np.clip(as_float64(layer.slopes), -1.0, 1.0)

    def exchanged(self, builder, layer, index):
        check_built(layer)
        slopes, grid = self.slopes(layer), layer.grid
        sums = np.cumsum(np.diff(grid)[:, None] * slopes[1:-1], axis=0)
        at_zero = sums[layer.knots // 2 - 1] if layer.knots > 1 else 0.0
        # The piece on the left goes on for ever; at each knot the slope changes.
        parts = [builder.scaled(index, slopes[0], -slopes[0] * grid[0] - at_zero)]
        for knot, change in zip(grid, np.diff(slopes, axis=0), strict=True):
            part = builder.function(builder.scaled(index, shift=-knot), elementwise.relu())
            parts.append(builder.scaled(part, change))
        return combined(builder, parts, [1.0] * len(parts))
