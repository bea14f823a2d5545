"""Layers that take the largest entry, the mean or the norm of windows, or of a whole image."""

import math
from typing import Any

import keras
import numpy as np
from keras import layers

from deel_lip_tf import layers as lip
from deel_lip_tf._rounding import UP_FEW, sqrt_outward
from deel_lip_tf.normalizers import padding_amounts
from deel_lip_tf.semantics.ir.decompositions import (
    channels_last,
    global_windows,
    kept_axes,
    last_if_first,
    maximum_of_last,
    means_of_windows,
    pooling_windows,
    reshaped,
)
from deel_lip_tf.semantics.ir.primitives import AxisProducts
from deel_lip_tf.semantics.ir.program import Builder
from deel_lip_tf.semantics.norms import L1, L2, LINF, Norm
from deel_lip_tf.semantics.operators import Shape, image_sizes, known_sizes, spatial_sizes
from deel_lip_tf.semantics.rounding import copied, root_of_squares
from deel_lip_tf.semantics.rule import Rule, as_laid_out, only, rule
from deel_lip_tf.semantics.rules.convolution import paddings
from deel_lip_tf.semantics.rules.data_movement import scaled
from deel_lip_tf.semantics.sizes import keeps_windows


@rule(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D)
class MaxPooling(Rule):
    """The largest entry of each window."""

    slides = True
    rounding = staticmethod(copied)
    keeps_size = staticmethod(keeps_windows)

    def lipschitz(self, layer, input_shape, norm):
        # |max(a) - max(b)| <= ||a - b||, and no value lies in more than prod(ceil(k/s)) windows.
        if min(layer.strides) < 1:
            return None
        pairs = zip(layer.pool_size, layer.strides, strict=True)
        return norm.copies(math.prod(-(-k // s) for k, s in pairs))

    def groups(self, layer, input_shape):
        return _windows_apart(layer, input_shape)

    def singular_values(self, layer, input_shape):
        # Where windows overlap, what the layer does to a difference depends on the input.
        apart = all(s >= k for s, k in zip(layer.strides, layer.pool_size, strict=True))
        return super().singular_values(layer, input_shape) if apart else None

    def lower(self, lowering, layer, inputs):
        windows = _windows(lowering.builder, layer, only(inputs))
        largest = maximum_of_last(lowering.builder, windows)
        return last_if_first(lowering.builder, largest, layer)


@rule(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D)
class GlobalMaximum(Rule):
    """The largest entry of each channel."""

    rounding = staticmethod(copied)

    def lipschitz(self, layer, input_shape, norm):
        return 1.0

    def lower(self, lowering, layer, inputs):
        windows = _whole_image(lowering.builder, layer, only(inputs))
        return kept_axes(lowering.builder, maximum_of_last(lowering.builder, windows), layer)


@rule(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D)
class AveragePooling(Rule):
    """The mean of each window; places beyond the border do not count."""

    gradient = "average"
    slides = True
    keeps_size = staticmethod(keeps_windows)

    def lipschitz(self, layer, input_shape, norm):
        if min(layer.strides) < 1:
            return None
        # Keras pads the torch input with copies of its border and averages over them.
        if layer.padding == "same" and keras.backend.backend() == "torch":
            return None
        sizes = spatial_sizes(layer, input_shape) or [None] * len(layer.pool_size)
        per_axis = zip(sizes, layer.pool_size, layer.strides, strict=True)
        sums = [_largest_column_sum(*axis, layer.padding) for axis in per_axis]
        return _averaged(math.prod(sums), norm)

    def groups(self, layer, input_shape):
        return _windows_apart(layer, input_shape)

    def rounding(self, layer, shapes):
        return shapes.mean(layer.pool_size)

    def singular_values(self, layer, input_shape):
        if (sizes := known_sizes(layer, input_shape)) is None:
            return None
        # Pooling over several axes is the tensor product of its axes: singular values multiply.
        axes = zip(sizes, layer.pool_size, layer.strides, strict=True)
        matrices = [_averages(*axis, layer.padding) for axis in axes]
        values = [np.linalg.svd(matrix, compute_uv=False) for matrix in matrices]
        return math.prod(float(v[-1]) for v in values), math.prod(float(v[0]) for v in values)

    def lower(self, lowering, layer, inputs):
        return averaged(lowering.builder, layer, only(inputs))


@rule(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D)
class GlobalAverage(Rule):
    """The mean of each channel."""

    gradient = "average"

    def lipschitz(self, layer, input_shape, norm):
        pixels = _pixels(layer, input_shape)
        return _averaged(1.0 / pixels, norm) if pixels else 1.0

    def rounding(self, layer, shapes):
        return shapes.mean()

    def singular_values(self, layer, input_shape):
        is_known = _pixels(layer, input_shape) is not None
        return super().singular_values(layer, input_shape) if is_known else None

    def lower(self, lowering, layer, inputs):
        return _globally_averaged(lowering.builder, layer, only(inputs))


@rule(lip.ScaledGlobalAveragePooling2D, lip.ScaledAdaptiveAveragePooling2D)
class ScaledGlobalAverage(Rule):
    """`k_coef_lip` times the root of the number of pixels times their mean."""

    def lipschitz(self, layer, input_shape, norm):
        constant, pixels = layer.lipschitz_constant(), _scaled_pixels(layer, input_shape)
        if norm == L2:
            return constant
        if pixels is None:
            return None
        root = math.sqrt(pixels)
        return constant * (root if norm == LINF else 1.0 / root) * UP_FEW

    def rounding(self, layer, shapes):
        return shapes.mean(getattr(layer, "pool_size", None))

    def lower(self, lowering, layer, inputs):
        sizes = image_sizes(layer, (1, *lowering.builder.shape(only(inputs))))
        factor = layer.k_coef_lip * math.sqrt(math.prod(sizes))
        return _globally_averaged(lowering.builder, layer, inputs[0], factor)


@rule(lip.ScaledAveragePooling2D)
class ScaledAverage(ScaledGlobalAverage):
    """The same of each window."""

    gradient = "average"
    slides = True

    def groups(self, layer, input_shape):
        return _windows_apart(layer, input_shape)

    def lower(self, lowering, layer, inputs):
        factor = layer.k_coef_lip * math.sqrt(math.prod(layer.pool_size))
        return averaged(lowering.builder, layer, only(inputs), factor)


@rule(lip.ScaledGlobalL2NormPooling2D, lip.ScaledAdaptiveL2NormPooling2D)
class ScaledGlobalRoot(Rule):
    """`k_coef_lip` times the Euclidean norm of each channel."""

    def lipschitz(self, layer, input_shape, norm):
        constant, pixels = layer.lipschitz_constant(), _scaled_pixels(layer, input_shape)
        # ||w||_2 <= sqrt(n) ||w||_inf, and <= ||w||_1, for a window w of n entries.
        if norm in (L2, L1):
            return constant
        return None if pixels is None else constant * math.sqrt(pixels) * UP_FEW

    def rounding(self, layer, shapes):
        return root_of_squares(shapes, getattr(layer, "pool_size", None))

    def lower(self, lowering, layer, inputs):
        windows = _whole_image(lowering.builder, layer, only(inputs))
        root = kept_axes(lowering.builder, lowering.builder.norm(windows), layer)
        return scaled(lowering, layer, root)


@rule(lip.ScaledL2NormPooling2D)
class ScaledRoot(ScaledGlobalRoot):
    """The same of each window."""

    slides = True

    def groups(self, layer, input_shape):
        return _windows_apart(layer, input_shape)

    def lower(self, lowering, layer, inputs):
        windows = _windows(lowering.builder, layer, only(inputs))
        root = last_if_first(lowering.builder, lowering.builder.norm(windows), layer)
        return scaled(lowering, layer, root)


def _whole_image(builder: Builder, layer: layers.Layer, index: int) -> int:
    """The image of a layer as one window of each channel."""
    return global_windows(builder, channels_last(builder, index, layer))


def _windows(builder: Builder, layer: layers.Layer, index: int) -> int:
    """The windows of a pooling layer."""
    index = channels_last(builder, index, layer)
    sizes = builder.shape(index)[:-1]
    pads = paddings(sizes, layer.pool_size, layer.strides, layer.padding)
    return pooling_windows(builder, index, layer.pool_size, layer.strides, pads)


def _windows_apart(layer: layers.Layer, input_shape: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """The groups of a layer whose windows make up the image: each channel of a window is one."""
    if (sizes := known_sizes(layer, input_shape)) is None:
        return None
    strides = layer.pool_size if layer.strides is None else layer.strides
    pool, strides = (np.broadcast_to(n, len(sizes)) for n in (layer.pool_size, strides))
    if (pool != strides).any() or (np.array(sizes) % pool).any():
        return None
    counts = [size // int(n) for size, n in zip(sizes, pool, strict=True)]
    channels = math.prod(input_shape[1:]) // math.prod(sizes)
    names = outputs = np.arange(math.prod(counts) * channels).reshape(*counts, channels)
    for axis, count in enumerate(pool):
        names = np.repeat(names, count, axis=axis)
    return as_laid_out(names, layer), as_laid_out(outputs, layer)


def _scaled_pixels(layer: layers.Layer, input_shape: Shape) -> int | None:
    """How many pixels a window has, or the whole image; None where that is not known."""
    window = getattr(layer, "pool_size", None)
    return _pixels(layer, input_shape) if window is None else math.prod(window)


def averaged(builder: Builder, layer: layers.Layer, index: int, factor: float = 1.0) -> int:
    """Appends the means of windows, times a factor, of a pooling layer or operation."""
    index = channels_last(builder, index, layer)
    *sizes, _ = builder.shape(index)
    strides = layer.pool_size if layer.strides is None else layer.strides
    pool, strides = (np.broadcast_to(n, len(sizes)) for n in (layer.pool_size, strides))
    axes = zip(sizes, map(int, pool), map(int, strides), strict=True)
    matrices = [_averages(*axis, layer.padding.lower()).T for axis in axes]
    matrices[0] = factor * matrices[0]
    return last_if_first(builder, builder.affine(index, AxisProducts((*matrices, None))), layer)


def _globally_averaged(
    builder: Builder, layer: layers.Layer, index: int, factor: float = 1.0
) -> int:
    index = channels_last(builder, index, layer)
    *sizes, channels = builder.shape(index)
    matrices = [np.full((size, 1), 1.0 / size) for size in sizes]
    matrices[0] = factor * matrices[0]
    index = builder.affine(index, AxisProducts((*matrices, None)))
    return kept_axes(builder, reshaped(builder, index, (channels,)), layer)


def _pixels(layer: layers.Layer, input_shape: Shape) -> int | None:
    sizes = known_sizes(layer, input_shape)
    return None if sizes is None else math.prod(sizes)


def _averaged(column_sum: float, norm: Norm) -> float:
    """The constant of a map whose rows sum to 1 and whose columns to `column_sum` at most.

    Schur's test: `||A||_2^2 <= (largest row sum) * (largest column sum)`.
    """
    constant = sqrt_outward(column_sum)
    return {L2: constant, LINF: 1.0, L1: constant**2 * UP_FEW}[norm]


def _largest_column_sum(size: int | None, pool: int, stride: int, padding: str) -> float:
    """Bounds the sums of the columns of average pooling along one axis.

    A row holds `1 / count` at each of its `count` valid positions, so rows sum to 1. Pooling over
    several axes is the tensor product of its axes, so that sums multiply.
    """
    if padding == "valid":
        return min(-(-pool // stride) / pool, 1.0)
    if size is not None:
        return float(_averages(size, pool, stride, padding).sum(axis=0).max()) * UP_FEW
    # Windows at one border do not see the other one once the input is longer than a window: one
    # period of the stride beyond that shows every pattern of padding.
    lengths = range(1, 3 * pool + 2 * stride + 1)
    return max(_largest_column_sum(n, pool, stride, padding) for n in lengths)


def _averages(size: int, pool: int, stride: int, padding: str) -> np.ndarray:
    """The matrix (outputs, inputs) of average pooling along one axis."""
    return means_of_windows(size, pool, stride, padding_amounts(size, pool, stride, padding))
