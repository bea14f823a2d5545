"""How each layer is made of affine maps, activations and norms: a table by exact type.

A rule takes the lowering, the layer and the nodes of its inputs, and returns the node of its output
before the layer's own `activation`.
"""

import math
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from deel_lip_tf import layers as lip
from deel_lip_tf.bounds.evaluation.copies import as_computed_with
from deel_lip_tf.bounds.kernels import linear_operators
from deel_lip_tf.layers import kinds
from deel_lip_tf.verify import activations, comparators
from deel_lip_tf.verify.convolution_rules import (
    convolution,
    depthwise,
    separable,
    transposed,
)
from deel_lip_tf.verify.rule_helpers import Unsupported, effective_kernel

__all__ = ["LAYERS", "Unsupported"]


def _identity(lowering, layer, inputs):
    return _single(inputs)


def _single(inputs: list[int]) -> int:
    if len(inputs) != 1:
        raise Unsupported("no rule is known for several inputs")
    return inputs[0]


def _moved(lowering, layer, inputs):
    """A layer that moves, copies or averages entries: its float64 copy is the map."""
    copy = lowering.copy(layer)
    return lowering.builder.affine([_single(inputs)], lambda tensors, _: copy(tensors[0]))


def _joined(lowering, layer, inputs):
    """A layer of several inputs that adds, averages or concatenates them."""
    axis = getattr(layer, "axis", -1)
    rank = len(lowering.builder.shape(inputs[0])) + 1
    if isinstance(axis, int) and axis % rank == 0:
        raise Unsupported("it joins samples along the batch axis")
    _check_ranks(lowering, inputs)
    copy = lowering.copy(layer)
    return lowering.builder.affine(inputs, lambda tensors, _: copy(list(tensors)))


def _subtracted(lowering, layer, inputs):
    _check_ranks(lowering, inputs)
    return comparators.combined(lowering.builder, inputs, [1.0, -1.0])


def _largest(lowering, layer, inputs):
    _check_ranks(lowering, inputs)
    return comparators.extreme_of(lowering.builder, inputs, sign=1.0)


def _smallest(lowering, layer, inputs):
    _check_ranks(lowering, inputs)
    return comparators.extreme_of(lowering.builder, inputs, sign=-1.0)


def _check_ranks(lowering, inputs) -> None:
    if len({len(lowering.builder.shape(index)) for index in inputs}) > 1:
        raise Unsupported("inputs of different ranks are broadcast: reshape them first")


def _dense(lowering, layer, inputs):
    kernel = effective_kernel(layer)
    bias = None if layer.bias is None else as_computed_with(layer, layer.bias)
    return lowering.builder.affine([_single(inputs)], _contracted, kernel, bias)


def _contracted(tensors, kernel):
    if len(tensors[0].shape) == 2:
        return tf.matmul(tensors[0], kernel)
    return tf.tensordot(tensors[0], kernel, axes=1)


def _einsum_dense(lowering, layer, inputs):
    kernel, index = effective_kernel(layer), _single(inputs)
    try:
        linear_operators(layer, (None, *lowering.builder.shape(index)))
    except ValueError as error:
        raise Unsupported(str(error)) from error
    bias = None if layer.bias is None else as_computed_with(layer, layer.bias)
    return lowering.builder.affine(
        [index], lambda tensors, k: tf.einsum(layer.equation, tensors[0], k), kernel, bias
    )


def _rescaling(lowering, layer, inputs):
    # As written: Keras rounds both to the type of the layer before it uses them.
    written = (layer.scale, layer.offset)
    scale, offset = (np.asarray(keras.ops.convert_to_numpy(v), np.float64) for v in written)
    return lowering.builder.scaled(_single(inputs), scale, offset)


def _normalization(lowering, layer, inputs):
    if not layer.built or layer.variance is None:
        raise Unsupported("it has no statistics yet: call `adapt`, or build it")
    mean = _statistics(layer, layer.input_mean, layer.mean)
    variance = _statistics(layer, layer.input_variance, layer.variance)
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    if layer.invert:
        return lowering.builder.scaled(_single(inputs), deviation, mean)
    centred = lowering.builder.scaled(_single(inputs), None, -mean)
    return lowering.builder.scaled(centred, 1.0 / deviation)


def _statistics(layer, given, kept) -> np.ndarray:
    """Statistics of a normalization: as written where they were given, whatever type keeps them."""
    if given is None:
        return np.asarray(keras.ops.convert_to_numpy(kept), np.float64)
    numbers, shape = np.asarray(given, np.float64), [1] * len(kept.shape)
    # As Keras does it: the last axes of what was given are the last of those that are kept.
    axes = sorted(axis % len(shape) for axis in layer.axis)
    for axis, size in zip(axes[::-1], numbers.shape[::-1], strict=False):
        shape[axis] = size
    return np.broadcast_to(numbers.reshape(shape), kept.shape)


def _batch_normalization(lowering, layer, inputs):
    index = _single(inputs)
    rank = len(lowering.builder.shape(index)) + 1
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    shape = tuple(-1 if i == axis % rank else 1 for i in range(rank))

    def along(variable):
        return np.asarray(keras.ops.convert_to_numpy(variable), np.float64).reshape(shape)

    scale = 1.0 / np.sqrt(along(layer.moving_variance) + layer.epsilon)
    scale = scale * along(layer.gamma) if layer.scale else scale
    centred = lowering.builder.scaled(index, None, -along(layer.moving_mean))
    return lowering.builder.scaled(centred, scale, along(layer.beta) if layer.center else None)


def _activation_layer(lowering, layer, inputs):
    return _single(inputs)  # the walk applies `activation`, as of any layer


def _activated(make: Callable) -> Callable:
    """The rule of a layer that is one activation."""

    def rule(lowering, layer, inputs):
        return lowering.builder.activation(_single(inputs), make(layer))

    return rule


def _relu(layer):
    if layer.threshold != 0:
        raise Unsupported("its function jumps at `threshold`")
    return activations.relu(layer.negative_slope or 0.0, layer.max_value)


def _softmax(lowering, layer, inputs):
    raise Unsupported("it may only end the model, along its last axis")


def _max_pooling(lowering, layer, inputs):
    windows = comparators.pooling_windows(lowering.builder, _single(inputs), layer)
    return comparators.last_if_first(
        lowering.builder, comparators.maximum_of_last(lowering.builder, windows), layer
    )


def _global_max_pooling(lowering, layer, inputs):
    windows = comparators.global_windows(lowering.builder, _single(inputs), layer)
    pooled = comparators.maximum_of_last(lowering.builder, windows)
    return comparators.kept_axes(lowering.builder, pooled, layer)


def _group_sort(lowering, layer, inputs):
    builder, index = lowering.builder, comparators.channels_last(lowering.builder, inputs[0], layer)
    channels = builder.shape(index)[-1]
    size = channels if getattr(layer, "n", None) is None else min(layer.n, channels)
    index = comparators.sorted_groups(builder, index, size)
    return _times_constant(lowering, layer, comparators.last_if_first(builder, index, layer))


def _max_min(lowering, layer, inputs):
    builder, index = lowering.builder, comparators.channels_last(lowering.builder, inputs[0], layer)
    index = comparators.positive_and_negative(builder, index)
    return _times_constant(lowering, layer, comparators.last_if_first(builder, index, layer))


def _householder(lowering, layer, inputs):
    builder, index = lowering.builder, comparators.channels_last(lowering.builder, inputs[0], layer)
    theta = np.asarray(keras.ops.convert_to_numpy(layer.theta), np.float64)
    normal = np.stack([np.sin(theta / 2), -np.cos(theta / 2)])
    index = comparators.reflected(builder, index, normal)
    return _times_constant(lowering, layer, comparators.last_if_first(builder, index, layer))


def _times_constant(lowering, layer, index: int) -> int:
    constant = layer.k_coef_lip
    return index if constant == 1 else lowering.builder.scaled(index, constant)


def _prelu_lip(lowering, layer, inputs):
    slopes = np.clip(as_computed_with(layer, layer.alpha), -1.0, 1.0)
    index = lowering.builder.activation(_single(inputs), activations.prelu(slopes))
    return _times_constant(lowering, layer, index)


def _norm_pooling(lowering, layer, inputs):
    windows = comparators.pooling_windows(lowering.builder, _single(inputs), layer)
    pooled = lowering.builder.norm(windows)
    pooled = comparators.last_if_first(lowering.builder, pooled, layer)
    return _times_constant(lowering, layer, pooled)


def _global_norm_pooling(lowering, layer, inputs):
    windows = comparators.global_windows(lowering.builder, _single(inputs), layer)
    pooled = comparators.kept_axes(lowering.builder, lowering.builder.norm(windows), layer)
    return _times_constant(lowering, layer, pooled)


def _shifted(lowering, layer, index: int, scale: float, mean=None) -> int:
    """`scale * (x - mean) + bias`, with vectors along the channels."""
    rank = len(lowering.builder.shape(index)) + 1
    axis = rank - 1 if layer.data_format == "channels_last" else 1
    shape = tuple(-1 if i == axis else 1 for i in range(rank))

    def along(variable):
        return np.asarray(keras.ops.convert_to_numpy(variable), np.float64).reshape(shape)

    if mean is not None:
        index = lowering.builder.scaled(index, None, -along(mean))
    return lowering.builder.scaled(index, scale, None if layer.bias is None else along(layer.bias))


def _scale_bias(lowering, layer, inputs):
    return _shifted(lowering, layer, _single(inputs), layer.k_coef_lip * layer.scalar)


def _batch_centering(lowering, layer, inputs):
    return _shifted(lowering, layer, _single(inputs), layer.k_coef_lip, layer.moving_mean)


def _batch_lip_norm(lowering, layer, inputs):
    scale = layer.k_coef_lip
    if layer.normalize:
        variance = float(keras.ops.convert_to_numpy(layer.moving_variance).max())
        scale *= 1.0 / math.sqrt(variance) if variance >= layer.epsilon else 1.0
    mean = layer.moving_mean if layer.centering else None
    return _shifted(lowering, layer, _single(inputs), scale, mean)


def _layer_centering(lowering, layer, inputs):
    rank = len(lowering.builder.shape(_single(inputs))) + 1
    axes = layer.axis
    if axes is None:
        axes = range(1, rank - 1) if layer.data_format == "channels_last" else range(2, rank)
    axes = [axes] if isinstance(axes, int) else list(axes)

    def operator(tensors, k):
        return tensors[0] * k[0] + tf.reduce_mean(tensors[0], axes, keepdims=True) * k[1]

    signs = layer.k_coef_lip * np.array([1.0, -1.0])
    centred = lowering.builder.affine([_single(inputs)], operator, signs)
    return _shifted(lowering, layer, centred, 1.0)


def _residual(lowering, layer, inputs):
    alpha = float(keras.ops.convert_to_numpy(layer.alpha))
    # 1 - share would keep few digits of a small difference.
    shares = [layer.k_coef_lip * _sigmoid(alpha), layer.k_coef_lip * _sigmoid(-alpha)]
    return comparators.combined(lowering.builder, inputs, shares)


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0.0 else math.exp(x) / (1.0 + math.exp(x))


def _up_sampling(lowering, layer, inputs):
    if getattr(layer, "interpolation", "nearest") != "nearest":
        raise Unsupported("only nearest interpolation has a rule")
    return _moved(lowering, layer, inputs)


def _wrapped(lowering, wrapper, inputs):
    """A wrapper that only changes weights during training."""
    _check_same_type(wrapper)
    return lowering.layer(wrapper.layer, inputs)


def _at_each_step(lowering, wrapper, inputs):
    """A wrapper that applies its layer to each step by itself, and stacks what it gives."""
    _check_same_type(wrapper)
    builder, index = lowering.builder, _single(inputs)

    def step(i: int) -> int:
        one = builder.affine([index], lambda tensors, _: tensors[0][:, i])
        return lowering.layer(wrapper.layer, [one])

    steps = [step(i) for i in range(builder.shape(index)[0])]
    return builder.affine(steps, lambda tensors, _: tf.stack(tensors, axis=1))


def _check_same_type(wrapper) -> None:
    # The wrapper calls it without the change of type that a call of its own would make.
    if wrapper.layer.compute_dtype != wrapper.compute_dtype:
        raise Unsupported("its layer computes in another type than the wrapper")


_MOVING = (
    *kinds.MOVES,
    layers.RepeatVector,
    *kinds.AVERAGE_POOLINGS,
    *kinds.GLOBAL_AVERAGES,
    lip.InvertibleDownSampling,
    lip.InvertibleUpSampling,
    lip.ScaledAveragePooling2D,
    lip.ScaledGlobalAveragePooling2D,
    lip.ScaledAdaptiveAveragePooling2D,
)
_CONVOLUTIONS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    lip.PadConv2D,
    lip.SpectralConv1D,
    lip.SpectralConv2D,
    lip.FrobeniusConv2D,
    lip.AOLConv2D,
)

LAYERS: dict[type, Callable] = {
    **dict.fromkeys(kinds.IDENTITIES, _identity),
    **dict.fromkeys(_MOVING, _moved),
    **dict.fromkeys(_CONVOLUTIONS, convolution),
    layers.Dense: _dense,
    lip.SpectralDense: _dense,
    lip.FrobeniusDense: _dense,
    lip.AOLDense: _dense,
    layers.EinsumDense: _einsum_dense,
    layers.DepthwiseConv1D: depthwise,
    layers.DepthwiseConv2D: depthwise,
    lip.SpectralDepthwiseConv2D: depthwise,
    layers.SeparableConv1D: separable,
    layers.SeparableConv2D: separable,
    layers.Conv1DTranspose: transposed,
    layers.Conv2DTranspose: transposed,
    layers.Conv3DTranspose: transposed,
    lip.SpectralConv2DTranspose: transposed,
    **dict.fromkeys(kinds.UP_SAMPLINGS, _up_sampling),
    layers.Rescaling: _rescaling,
    layers.Normalization: _normalization,
    layers.BatchNormalization: _batch_normalization,
    layers.Add: _joined,
    layers.Average: _joined,
    layers.Concatenate: _joined,
    layers.Subtract: _subtracted,
    layers.Maximum: _largest,
    layers.Minimum: _smallest,
    layers.Activation: _activation_layer,
    layers.ReLU: _activated(_relu),
    layers.LeakyReLU: _activated(lambda layer: activations.relu(layer.negative_slope)),
    layers.PReLU: _activated(lambda layer: activations.prelu(as_computed_with(layer, layer.alpha))),
    layers.ELU: _activated(lambda layer: activations.elu(layer.alpha)),
    layers.Softmax: _softmax,
    **dict.fromkeys(kinds.MAX_POOLINGS, _max_pooling),
    **dict.fromkeys(kinds.GLOBAL_MAXIMA, _global_max_pooling),
    layers.TimeDistributed: _at_each_step,
    layers.SpectralNormalization: _wrapped,
    lip.GroupSort: _group_sort,
    lip.GroupSort2: _group_sort,
    lip.FullSort: _group_sort,
    lip.MaxMin: _max_min,
    lip.Householder: _householder,
    lip.PReLUlip: _prelu_lip,
    lip.ScaledL2NormPooling2D: _norm_pooling,
    lip.ScaledGlobalL2NormPooling2D: _global_norm_pooling,
    lip.ScaledAdaptiveL2NormPooling2D: _global_norm_pooling,
    lip.ScaleBias: _scale_bias,
    lip.BatchCentering: _batch_centering,
    lip.BatchLipNorm: _batch_lip_norm,
    lip.LayerCentering: _layer_centering,
    lip.LipResidual: _residual,
}
"""By exact type: a subclass may compute anything."""
