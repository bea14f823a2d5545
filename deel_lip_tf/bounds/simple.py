"""Layers and activations without a kernel, in each norm.

For l2 the tables are those of `layers.known`. Where a layer acts on every entry by itself, or only
moves entries, its constant is the same in every p-norm; the others have a rule here.
"""

import math
from collections.abc import Callable

import keras
import numpy as np
from keras import layers as keras_layers

from deel_lip_tf import layers
from deel_lip_tf.bounds.kernels import Shape
from deel_lip_tf.layers import kinds
from deel_lip_tf.layers.known import activation_constant, broadcast_copies, known_constant
from deel_lip_tf.semantics.norms import L1, L2, LINF, Norm

__all__ = ["activation_bound", "simple_bound"]

_UP = 1.0 + 1e-14  # more than the rounding of the few operations behind each value


def activation_bound(activation: Callable | None, norm: Norm = L2) -> float | None:
    """Bounds an `activation=` argument, or None where no bound is known."""
    if isinstance(activation, keras.layers.Layer):
        return simple_bound(activation, None, norm)
    # Functions of single entries have the same constant in every norm; the rows of the Jacobian of
    # softmax have absolute sums 2 p (1 - p) <= 1/2, the same constant as in l2.
    return activation_constant(activation)


def simple_bound(layer: keras.layers.Layer, input_shape: Shape, norm: Norm = L2) -> float | None:
    """Bounds a layer without kernel, or returns None where no bound is known in this norm."""
    constant = known_constant(layer, input_shape)
    if norm == L2 or constant is None:
        return constant
    if type(layer) in _SAME:
        return constant
    if isinstance(layer, keras_layers.Activation):
        return activation_bound(layer.activation, norm)
    rule = _RULES.get(type(layer))
    return None if rule is None else rule(layer, input_shape, norm, constant)


def _averaging(layer, input_shape, norm, constant):
    # Rows sum to 1, and the square of the l2 constant is the largest column sum.
    return 1.0 if norm == LINF else constant**2 * _UP


def _copying(layer, input_shape, norm, constant):
    return 1.0 if norm == LINF else float(round(constant**2))


def _rescaling(layer, input_shape, norm, constant):
    copies = broadcast_copies(layer, input_shape, np.shape(layer.scale), np.shape(layer.offset))
    return _affine(copies, norm, constant)


def _normalization(layer, input_shape, norm, constant):
    shapes = (layer.mean.shape, layer.variance.shape)
    return _affine(broadcast_copies(layer, input_shape, *shapes), norm, constant)


def _affine(copies: int, norm: Norm, constant: float) -> float:
    """From `slope * sqrt(copies)` to that of another norm."""
    return constant if copies == 1 else constant / math.sqrt(copies) * norm.copies(copies) * _UP


def _scaled_average(layer, input_shape, norm, constant):
    return _scaled(math.prod(layer.pool_size), norm, constant)


def _scaled_global_average(layer, input_shape, norm, constant):
    pixels = _pixels(layer, input_shape)
    return None if pixels is None else _scaled(pixels, norm, constant)


def _scaled(pixels: int, norm: Norm, constant: float) -> float:
    """`sqrt(pixels)` times an average over as many entries."""
    root = math.sqrt(pixels)
    return constant * (root if norm == LINF else 1.0 / root) * _UP


def _root_of_squares(layer, input_shape, norm, constant):
    # ||w||_2 <= sqrt(n) ||w||_inf, and <= ||w||_1, for a window w of n entries.
    return constant if norm == L1 else _scaled(math.prod(layer.pool_size), LINF, constant)


def _global_root_of_squares(layer, input_shape, norm, constant):
    pixels = _pixels(layer, input_shape)
    if norm == L1:
        return constant
    return None if pixels is None else _scaled(pixels, LINF, constant)


def _pixels(layer, input_shape: Shape) -> int | None:
    if input_shape is None:
        return None
    sizes = input_shape[1:-1] if layer.data_format == "channels_last" else input_shape[2:]
    return None if None in sizes else math.prod(sizes)


def _centering(layer, input_shape, norm, constant):
    # x - mean(x) over n entries: rows and columns have absolute sums 2 (1 - 1/n) < 2.
    return 2.0 * constant


def _householder(layer, input_shape, norm, constant):
    # Each piece is the identity or a reflection of pairs: absolute sums |cos| + |sin|.
    return math.sqrt(2.0) * constant * _UP


_SAME = {
    *kinds.IDENTITIES,
    *kinds.MOVES,
    *kinds.GLOBAL_MAXIMA,
    keras_layers.ReLU,
    keras_layers.LeakyReLU,
    keras_layers.PReLU,
    keras_layers.ELU,
    keras_layers.Softmax,
    keras_layers.BatchNormalization,
    layers.GroupSort,
    layers.GroupSort2,
    layers.FullSort,
    layers.MaxMin,
    layers.PReLUlip,
    layers.InvertibleDownSampling,
    layers.InvertibleUpSampling,
    layers.BatchCentering,
    layers.BatchLipNorm,
    layers.ScaleBias,
}

_RULES: dict[type, Callable[..., float | None]] = {
    **dict.fromkeys((*kinds.AVERAGE_POOLINGS, *kinds.GLOBAL_AVERAGES), _averaging),
    # A value lies in as many windows as its square says; each window has one largest value.
    **dict.fromkeys(
        (*kinds.MAX_POOLINGS, *kinds.UP_SAMPLINGS, keras_layers.RepeatVector), _copying
    ),
    layers.ScaledAveragePooling2D: _scaled_average,
    layers.ScaledGlobalAveragePooling2D: _scaled_global_average,
    layers.ScaledAdaptiveAveragePooling2D: _scaled_global_average,
    layers.ScaledL2NormPooling2D: _root_of_squares,
    layers.ScaledGlobalL2NormPooling2D: _global_root_of_squares,
    layers.ScaledAdaptiveL2NormPooling2D: _global_root_of_squares,
    keras_layers.Rescaling: _rescaling,
    keras_layers.Normalization: _normalization,
    layers.LayerCentering: _centering,
    layers.Householder: _householder,
}
