"""Layers that shift and scale entries by numbers that do not depend on the sample."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import layers

from deel_lip_tf import layers as lip
from deel_lip_tf._rounding import argument_rounding, product_up
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.ir.decompositions import standardized, standardizing
from deel_lip_tf.semantics.ir.primitives import Centering, Scale
from deel_lip_tf.semantics.ir.sources import NUMBERS, Source
from deel_lip_tf.semantics.norms import L2, Norm
from deel_lip_tf.semantics.operators import Shape
from deel_lip_tf.semantics.rounding import FLUSHED, CallShapes, gamma
from deel_lip_tf.semantics.rule import Gradient, Rule, only, rule
from deel_lip_tf.semantics.sizes import is_beside_features
from deel_lip_tf.semantics.state import as_float64, as_kept

_UNBUILT = "it is not built, and its arguments may broadcast its input: build it"


class Scaling(Rule):
    """`(x - mean) * scale + bias`, in any arrangement."""

    gradient: Gradient = "scale"

    def rounding(self, layer, shapes):
        shift = broadcast_norm(getattr(layer, "mean", None), shapes)
        shift += broadcast_norm(getattr(layer, "moving_mean", None), shapes)
        offset = (1.0 + shapes.constant) * shift
        for name in ("bias", "beta", "offset"):
            offset += broadcast_norm(getattr(layer, name, None), shapes)
        return shapes.rounding(gamma(32), offset)


@rule(layers.Rescaling)
class Rescaling(Scaling):
    """`x * scale + offset`."""

    casts_integers = True

    def lipschitz(self, layer, input_shape, norm):
        scale = self._scale(layer)
        copies = broadcast_copies(layer, input_shape, scale.shape, np.shape(layer.offset))
        # below the smallest normal number of a type nearly all of a number may be rounding
        largest = float(np.max(np.abs([scale, as_kept(scale, layer.compute_dtype)])))
        # a power of two is a number of every type, and nothing smaller is rounded beyond it
        is_exact = math.frexp(largest)[0] in (0.0, 0.5)
        rounding = 1.0 if is_exact else argument_rounding(layer.compute_dtype)
        return _broadcast(largest * rounding, copies, norm)

    def reason(self, layer):
        return None if layer.built else _UNBUILT

    def singular_values(self, layer, input_shape):
        return _diagonal(layer.scale)

    def lower(self, lowering, layer, inputs):
        # As written: Keras rounds both to the type of the layer before it uses them.
        offset = as_float64(layer.offset)
        return lowering.builder.scaled(only(inputs), self._scale(layer), offset)

    def _scale(self, layer) -> np.ndarray:
        """The scale, along the first axis of images where Keras has their channels first."""
        scale = as_float64(layer.scale)
        if scale.ndim and keras.config.image_data_format() == "channels_first":
            return scale.reshape(scale.shape + (1,) * (3 - scale.ndim))
        return scale


@rule(layers.Normalization)
class Normalization(Scaling):
    """`(x - mean) / sqrt(variance)`, or its inverse; both divide or multiply by the same number."""

    casts_integers = True

    def lipschitz(self, layer, input_shape, norm):
        if (scale := self._scale(layer)) is None:
            return None
        copies = broadcast_copies(layer, input_shape, layer.mean.shape, layer.variance.shape)
        rounding = argument_rounding(layer.compute_dtype)
        return _broadcast(float(scale.max()) * rounding, copies, norm)

    def reason(self, layer):
        return None if layer.built else _UNBUILT

    def singular_values(self, layer, input_shape):
        scale = self._scale(layer)
        return None if scale is None else _diagonal(scale)

    def _scale(self, layer) -> np.ndarray | None:
        # Before `build` the statistics are not there.
        if not layer.built or layer.variance is None:
            return None
        deviation = np.maximum(np.sqrt(as_float64(layer.variance)), keras.config.epsilon())
        return deviation if layer.invert else 1.0 / deviation

    def lower(self, lowering, layer, inputs):
        if not layer.built or layer.variance is None:
            raise UnsupportedLayerError("it has no statistics yet: call `adapt`, or build it")

        def centre(read, xp):
            return read(_statistics(layer, layer.input_mean, layer.mean))

        def factor(read, xp):
            variance = read(_statistics(layer, layer.input_variance, layer.variance))
            deviation = xp.maximum(xp.sqrt(variance), keras.config.epsilon())
            return deviation if layer.invert else 1.0 / deviation

        # They are read when they are asked for: `adapt` changes them.
        builder, source = lowering.builder, lowering.source
        mean, scale = source.computed(layer, centre), source.computed(layer, factor)
        if layer.invert:
            return builder.scaled(only(inputs), scale, mean)
        return standardized(builder, only(inputs), mean, scale)


@rule(layers.BatchNormalization)
class BatchNormalization(Scaling):
    """`gamma * (x - mean) / sqrt(variance + epsilon) + beta` with its moving statistics."""

    keeps_size = staticmethod(is_beside_features)

    def lipschitz(self, layer, input_shape, norm):
        if not layer.built:
            return None
        # The layer computes in float32 at least, whatever its policy.
        return float(np.max(np.abs(self._scale(layer)))) * argument_rounding("float32")

    def singular_values(self, layer, input_shape):
        return _diagonal(self._scale(layer)) if layer.built else None

    def _scale(self, layer, source: Source = NUMBERS) -> Any:
        def scale(read, xp):
            factor = read(layer.gamma) if layer.scale else 1.0
            return standardizing(read(layer.moving_variance), layer.epsilon, factor, xp)

        return source.computed(layer, scale)

    def rounding(self, layer, shapes):
        found = super().rounding(layer, shapes)
        # A gamma, or a variance, below 2**-126 may be replaced by 0 before the one is divided.
        deviation = math.sqrt(float(as_float64(layer.moving_variance).min()) + layer.epsilon)
        lost = 2.0 * FLUSHED / deviation if deviation > 2.0**-60 else math.inf
        shift = 1.0 + broadcast_norm(layer.moving_mean, shapes)
        return replace(
            found, relative=found.relative + lost, absolute=found.absolute + lost * shift
        )

    def lower(self, lowering, layer, inputs):
        builder, index = lowering.builder, only(inputs)
        rank = len(builder.shape(index)) + 1
        axis = (layer.axis if isinstance(layer.axis, int) else layer.axis[0]) % rank
        source = lowering.source
        mean = source.computed(layer, lambda read, xp: read(layer.moving_mean))
        scale, shift = self._scale(layer, source), None
        if layer.center:
            beta = source.computed(layer, lambda read, xp: read(layer.beta))
            shift = _along(beta, axis, rank)
        along = _along(mean, axis, rank), _along(scale, axis, rank)
        return standardized(builder, index, *along, shift)


@rule(lip.ScaleBias, lip.BatchCentering)
class Shifted(Scaling):
    """`x - mean` or `scalar * x`, plus a bias, times `k_coef_lip`."""

    keeps_size = staticmethod(is_beside_features)

    def lipschitz(self, layer, input_shape, norm):
        vectors = [getattr(layer, name, None) for name in ("bias", "moving_mean")]
        return layer.lipschitz_constant() if has_channels(layer, input_shape, vectors) else None

    def lower(self, lowering, layer, inputs):
        index = only(inputs)
        if (mean := self.mean(layer)) is not None:
            shift = _on_channels(lowering, layer, index, -as_float64(mean))
            index = lowering.builder.scaled(index, None, shift)
        return with_bias(lowering, layer, index, self.factor(layer))

    def mean(self, layer) -> Any:
        """What is subtracted first, or None."""
        return getattr(layer, "moving_mean", None)

    def factor(self, layer) -> float:
        """What the difference is multiplied by."""
        return layer.k_coef_lip * getattr(layer, "scalar", 1.0)


@rule(lip.BatchLipNorm)
class BatchLipNorm(Shifted):
    """`x - mean`, over a deviation, plus a bias, times `k_coef_lip`."""

    gradient = None

    def mean(self, layer):
        return layer.moving_mean if layer.centering else None

    def factor(self, layer):
        if not layer.normalize:
            return layer.k_coef_lip
        variance = float(as_float64(layer.moving_variance).max())
        return layer.k_coef_lip / (math.sqrt(variance) if variance >= layer.epsilon else 1.0)


@rule(lip.LayerCentering)
class LayerCentering(Rule):
    """`x - mean(x) + bias` over some axes, times `k_coef_lip`: a projection, scaled."""

    def lipschitz(self, layer, input_shape, norm):
        if not has_channels(layer, input_shape, [getattr(layer, "bias", None)]):
            return None
        constant = layer.lipschitz_constant()
        # x - mean(x) over n entries: rows and columns have absolute sums 2 (1 - 1/n) < 2.
        return constant if norm == L2 else 2.0 * constant

    def rounding(self, layer, shapes):
        offset, terms = broadcast_norm(layer.bias, shapes), math.prod(shapes.inputs)
        return shapes.rounding(2.0 * gamma(terms + 8), offset, terms)

    def singular_values(self, layer, input_shape):
        return 0.0, layer.k_coef_lip  # the constants are mapped to 0

    def lower(self, lowering, layer, inputs):
        rank, axes = len(lowering.builder.shape(only(inputs))) + 1, layer.axis
        if axes is None:
            axes = range(1, rank - 1) if layer.data_format == "channels_last" else range(2, rank)
        axes = tuple(axis % rank for axis in ([axes] if isinstance(axes, int) else axes))
        centred = lowering.builder.affine(inputs[0], Centering(axes, layer.k_coef_lip))
        return with_bias(lowering, layer, centred, 1.0)


def with_bias(lowering, layer: layers.Layer, index: int, factor: float) -> int:
    """`factor * x + bias`, along the channels."""
    if layer.bias is None:
        return lowering.builder.affine(index, Scale(factor))
    bias = _on_channels(lowering, layer, index, as_float64(layer.bias))
    return lowering.builder.scaled(index, factor, bias)


def _on_channels(lowering, layer: layers.Layer, index: int, vector: np.ndarray) -> np.ndarray:
    rank = len(lowering.builder.shape(index)) + 1
    return _along(vector, rank - 1 if layer.data_format == "channels_last" else 1, rank)


def _along(vector: Any, axis: int, rank: int) -> Any:
    """A vector as an array of so many axes, along one of them."""
    return vector.reshape(tuple(-1 if i == axis else 1 for i in range(rank)))


def _statistics(layer: layers.Layer, given: Any, kept: Any) -> Any:
    """Statistics of a normalization: as written where they were given, whatever type keeps them."""
    if given is None:
        return kept
    numbers, shape = np.asarray(given, np.float64), [1] * len(kept.shape)
    # As Keras does it: the last axes of what was given are the last of those that are kept.
    axes = sorted(axis % len(shape) for axis in layer.axis)
    for axis, size in zip(axes[::-1], numbers.shape[::-1], strict=False):
        shape[axis] = size
    return np.broadcast_to(numbers.reshape(shape), kept.shape)


def broadcast_norm(values: Any, shapes: CallShapes) -> float:
    """Bounds the norm of numbers that broadcast to the output of a call."""
    if values is None:
        return 0.0
    largest = np.abs(as_float64(values)).max(initial=0.0)
    return float(largest) * math.sqrt(math.prod(shapes.outputs))


def broadcast_copies(layer: layers.Layer, input_shape: Shape, *arguments: tuple) -> int | None:
    """How often each entry of the input is copied where larger arguments broadcast it.

    Args:
        layer: asked for the shape it was built with where `input_shape` is None.
        input_shape: with the batch axis.
        *arguments: shapes of the arrays that the input is combined with, entry by entry.

    Returns:
        The number, or None where it is not known, or where the batch axis would be broadcast.
    """
    if all(math.prod(shape) == 1 for shape in arguments):
        return 1
    if input_shape is None and layer.built:
        input_shape = (layer.get_build_config() or {}).get("input_shape")
    if input_shape is None:
        return None
    rank = len(input_shape)
    if any(len(s) > rank or (len(s) == rank and s[0] != 1) for s in arguments):
        return None
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in arguments]
    pairs = list(
        zip(input_shape[1:], [max(axis) for axis in zip(*padded, strict=True)][1:], strict=True)
    )
    if any(size is None and wanted != 1 for size, wanted in pairs):
        return None
    return math.prod(wanted for size, wanted in pairs if size == 1)


def has_channels(layer: layers.Layer, input_shape: Shape, vectors: Sequence, each: int = 1) -> bool:
    """Whether the input of a layer has the channels of its weights, and is not broadcast to them.

    Args:
        layer: with a `data_format`.
        input_shape: with the batch axis, or None for what it was built with.
        vectors: its weights along the channels; None for those that are not there.
        each: how many channels an entry stands for.
    """
    if input_shape is None:
        return True
    rank = len(input_shape)
    axis = rank - 1 if layer.data_format == "channels_last" else 1
    counts = [math.prod(vector.shape) for vector in vectors if vector is not None]
    shapes = [tuple(n if i == axis else 1 for i in range(rank)) for n in counts]
    channels = input_shape[axis]
    size = None if channels is None else channels // each
    input_shape = (*input_shape[:axis], size, *input_shape[axis + 1 :])
    return broadcast_copies(layer, input_shape, *shapes) == 1


def _broadcast(scale: float, copies: int | None, norm: Norm) -> float | None:
    """The constant of a scale, where entries are copied before it."""
    return None if copies is None else product_up(scale, norm.copies(copies))


def _diagonal(entries: np.ndarray) -> tuple[float, float]:
    absolute = np.abs(as_float64(entries))
    return float(absolute.min()), float(absolute.max())
