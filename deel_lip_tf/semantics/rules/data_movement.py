"""Layers that move entries, copy them, and add zeros."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

from keras import layers

from deel_lip_tf import layers as lip
from deel_lip_tf._keras import float64_on_cpu
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.float64 import in_float64
from deel_lip_tf.semantics.integers import same, with_zero
from deel_lip_tf.semantics.ir.moves import move_of
from deel_lip_tf.semantics.ir.primitives import Scale
from deel_lip_tf.semantics.ir.program import Builder
from deel_lip_tf.semantics.rounding import copied
from deel_lip_tf.semantics.rule import Rule, as_laid_out, each_entry, only, rule
from deel_lip_tf.semantics.sizes import every_axis, is_beside_features


@rule(
    layers.Flatten,
    layers.Reshape,
    layers.Permute,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
)
class DataMovement(Rule):
    """Every entry of the input is in the output once or not at all; the other entries are 0."""

    gradient = "average"
    rounding = staticmethod(copied)
    integers = staticmethod(with_zero)

    def lipschitz(self, layer, input_shape, norm):
        return 1.0

    def groups(self, layer, input_shape):
        names, _ = each_entry(input_shape)
        if type(layer) is layers.Reshape:
            return names, names
        if type(layer) is not layers.Flatten:
            return None
        # Channels are last behind it.
        channels = input_shape[1 if layer.data_format == "channels_first" else -1]
        return as_laid_out(names.reshape(-1, channels), layer), names

    def lower(self, lowering, layer, inputs):
        return moved(lowering.builder, only(inputs), in_float64(layer))


class Copying(Rule, ABC):
    """Every entry of the input is in the output `copies(layer)` times."""

    rounding = staticmethod(copied)
    integers = staticmethod(same)

    @abstractmethod
    def copies(self, layer) -> int | None:
        """How often an entry is copied; None where they are not copies."""

    def lipschitz(self, layer, input_shape, norm):
        count = self.copies(layer)
        return None if count is None else norm.copies(count)

    def lower(self, lowering, layer, inputs):
        if self.copies(layer) is None:
            raise UnsupportedLayerError("only nearest interpolation has a rule")
        return moved(lowering.builder, only(inputs), in_float64(layer))


@rule(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D)
class UpSampling(Copying):
    """Each pixel as a block of pixels; interpolation weights depend on the backend."""

    gradient = "average"

    def copies(self, layer):
        if getattr(layer, "interpolation", "nearest") != "nearest":
            return None
        return math.prod(layer.size) if isinstance(layer.size, list | tuple) else layer.size


@rule(layers.RepeatVector)
class RepeatVector(Copying):
    """The vector `n` times."""

    def copies(self, layer):
        return layer.n


@rule(lip.InvertibleUpSampling)
class InvertibleResampling(Rule):
    """Pixels to channels or back: every entry once, times `k_coef_lip`."""

    def lipschitz(self, layer, input_shape, norm):
        return layer.lipschitz_constant()

    def rounding(self, layer, shapes):
        return shapes.copied(layer.k_coef_lip)

    def lower(self, lowering, layer, inputs):
        twin = type(layer).from_config({**layer.get_config(), "k_coef_lip": 1.0})
        index = moved(lowering.builder, only(inputs), in_float64(twin))
        return scaled(lowering, layer, index)


@rule(lip.InvertibleDownSampling)
class InvertibleDownSampling(InvertibleResampling):
    """The blocks of an image as channels, times `k_coef_lip`."""

    gradient = "average"


@rule(lip.SpatialShift2D)
class SpatialShift(InvertibleDownSampling):
    """Neighbouring pixels in the place of each other, times `k_coef_lip`."""

    keeps_size = staticmethod(every_axis)

    def singular_values(self, layer, input_shape):
        is_permutation = layer.padding == "circular"
        return (layer.k_coef_lip if is_permutation else 0.0, layer.k_coef_lip)


@rule(lip.FirstChannels, lip.PadChannels)
class Channels(InvertibleDownSampling):
    """Some of the channels, or all and zeros, times `k_coef_lip`."""

    keeps_size = staticmethod(is_beside_features)


def moved(builder: Builder, index: int, function: Callable) -> int:
    """Appends what a function does that moves entries: what it does to their numbers says how.

    Raises:
        UnsupportedLayerError: it does more.
    """
    with float64_on_cpu():
        move = move_of(function, builder.shape(index))
    if move is None:
        raise UnsupportedLayerError("it does more than move entries")
    return builder.affine(index, move)


def scaled(lowering, layer, index: int) -> int:
    """A node times the constant of a layer of this library."""
    constant = layer.k_coef_lip
    return index if constant == 1 else lowering.builder.affine(index, Scale(constant))
