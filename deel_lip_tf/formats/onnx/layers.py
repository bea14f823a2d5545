"""How each layer is written in ONNX operators: a table by exact type.

A rule takes the writer, the layer and its input tensors, and returns the output before the layer's
own `activation`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from keras import activations, config, layers, ops

from deel_lip_tf import layers as lip
from deel_lip_tf.semantics.sorting import sorting_network

__all__ = ["ACTIVATIONS", "LAYERS", "Emitted", "Unsupported"]


class Unsupported(Exception):
    """No rule; the message says why, where it is not the type."""


@dataclass(frozen=True)
class Emitted:
    """A tensor of the file.

    Attributes:
        name: in the file.
        shape: of one sample, in Keras's order.
        is_first: whether the file holds it with the channels first instead of last.
    """

    name: str
    shape: tuple
    is_first: bool = False


ACTIVATIONS: dict[Callable, tuple[str, dict]] = {
    activations.relu: ("Relu", {}),
    activations.leaky_relu: ("LeakyRelu", {"alpha": 0.2}),
    activations.elu: ("Elu", {"alpha": 1.0}),
    activations.sigmoid: ("Sigmoid", {}),
    activations.tanh: ("Tanh", {}),
    activations.softplus: ("Softplus", {}),
    activations.softsign: ("Softsign", {}),
    activations.exponential: ("Exp", {}),
    activations.softmax: ("Softmax", {"axis": -1}),
}
"""Operator and attributes by Keras's function, with its default arguments."""


def _numbers(tensor) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor))


def _same(writer, layer, inputs):
    return inputs[0]


def _dense(writer, layer, inputs):
    tensor = writer.channels_last(inputs[0])
    constants = [writer.constant(_numbers(layer.kernel))]
    constants += [writer.constant(_numbers(layer.bias))] if layer.use_bias else []
    shape = (*tensor.shape[:-1], layer.units)
    if len(shape) == 1:
        return Emitted(writer.node("Gemm", [tensor.name, *constants]), shape)
    name = writer.node("MatMul", [tensor.name, constants[0]])
    return Emitted(writer.node("Add", [name, constants[1]]) if layer.use_bias else name, shape)


def _convolution(writer, layer, inputs):
    """Kernels (rows, columns, inputs, outputs) become (outputs, inputs, rows, columns)."""
    return _convolved(writer, layer, inputs, _numbers(layer.kernel), layer.groups)


def _depthwise(writer, layer, inputs):
    kernel = _numbers(layer.kernel)
    channels = kernel.shape[-2]
    kernel = kernel.reshape(*kernel.shape[:-2], 1, channels * kernel.shape[-1])
    return _convolved(writer, layer, inputs, kernel, channels)


def _convolved(writer, layer, inputs, kernel, groups):
    tensor = _image(writer, layer, inputs)
    sizes, pads = _windows(tensor.shape[:-1], layer, layer.kernel_size, layer.dilation_rate)
    weights = [writer.constant(np.moveaxis(kernel, (-1, -2), (0, 1)))]
    weights += [writer.constant(_numbers(layer.bias))] if layer.use_bias else []
    name = writer.node(
        "Conv",
        [tensor.name, *weights],
        kernel_shape=list(layer.kernel_size),
        strides=_strides_of(layer),
        dilations=list(layer.dilation_rate),
        pads=pads,
        group=groups,
    )
    return Emitted(name, (*sizes, kernel.shape[-1]), is_first=True)


def _image(writer, layer, inputs) -> Emitted:
    if layer.data_format != "channels_last":
        raise Unsupported("only channels_last is written")
    return writer.channels_first(inputs[0])


def _windows(sizes, layer, kernel, dilations) -> tuple[list[int], list[int]]:
    """Sizes of the output, and ONNX's `pads`."""
    outputs, before, after = [], [], []
    if layer.padding not in ("valid", "same"):
        raise Unsupported(f"padding={layer.padding!r}")
    for size, step, width, rate in zip(sizes, _strides_of(layer), kernel, dilations, strict=True):
        reach = (width - 1) * rate + 1
        count = -(-size // step) if layer.padding == "same" else (size - reach) // step + 1
        total = max((count - 1) * step + reach - size, 0) if layer.padding == "same" else 0
        outputs.append(count)
        before.append(total // 2)
        after.append(total - total // 2)
    return outputs, before + after


def _strides_of(layer) -> list[int]:
    strides = layer.strides
    return [strides] * len(layer.kernel_size) if isinstance(strides, int) else list(strides)


def _pooling(kind: str) -> Callable:
    def rule(writer, layer, inputs):
        tensor = _image(writer, layer, inputs)
        return _pooled(writer, layer, tensor, kind)

    return rule


def _pooled(writer, layer, tensor: Emitted, kind: str) -> Emitted:
    window = list(layer.pool_size)
    sizes, pads = _windows(tensor.shape[:-1], layer, window, [1] * len(window))
    name = writer.node(
        kind, [tensor.name], kernel_shape=window, strides=list(layer.strides), pads=pads
    )
    return Emitted(name, (*sizes, tensor.shape[-1]), is_first=True)


def _norm_pooling(writer, layer, inputs):
    """The root of the sum of squares: of the average, with the factor outside."""
    tensor = _image(writer, layer, inputs)
    squares = Emitted(writer.node("Mul", [tensor.name] * 2), tensor.shape, tensor.is_first)
    root = writer.apply("Sqrt", _pooled(writer, layer, squares, "AveragePool"))
    factor = layer.k_coef_lip * math.sqrt(math.prod(layer.pool_size))
    return writer.apply("Mul", root, writer.constant(factor))


def _global_pooling(kind: str) -> Callable:
    def rule(writer, layer, inputs):
        tensor = _image(writer, layer, inputs)
        ones = [1] * (len(tensor.shape) - 1)
        shape = (*ones, tensor.shape[-1])
        pooled = Emitted(writer.node(kind, [tensor.name]), shape, is_first=True)
        return pooled if layer.keepdims else _reshaped(writer, pooled, shape[-1:])

    return rule


def _reshaped(writer, tensor: Emitted, shape) -> Emitted:
    tensor = writer.channels_last(tensor)
    target = writer.constant([-1, *shape], "int64")
    return Emitted(writer.node("Reshape", [tensor.name, target]), tuple(shape))


def _flatten(writer, layer, inputs):
    tensor = writer.channels_last(inputs[0])
    if len(tensor.shape) == 1:
        return tensor
    return Emitted(writer.node("Flatten", [tensor.name], axis=1), (math.prod(tensor.shape),))


def _reshape(writer, layer, inputs):
    return _reshaped(writer, inputs[0], layer.compute_output_shape((1, *inputs[0].shape))[1:])


def _permute(writer, layer, inputs):
    tensor = writer.channels_last(inputs[0])
    name = writer.node("Transpose", [tensor.name], perm=[0, *layer.dims])
    return Emitted(name, tuple(tensor.shape[axis - 1] for axis in layer.dims))


def _zero_padding(writer, layer, inputs):
    tensor = writer.channels_last(inputs[0])
    padding = layer.padding if isinstance(layer.padding[0], tuple | list) else [layer.padding]
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise Unsupported("only channels_last is written")
    pairs = [(0, 0), *padding, (0, 0)]
    flat = [pair[side] for side in (0, 1) for pair in pairs]
    name = writer.node("Pad", [tensor.name, writer.constant(flat, "int64")])
    shape = tuple(n + sum(pair) for n, pair in zip(tensor.shape, pairs[1:], strict=True))
    return Emitted(name, shape)


def _scaled(writer, tensor: Emitted, scale, shift) -> Emitted:
    """`scale x + shift`; constants broadcast against (1, *shape) in Keras's order."""
    for kind, constant in (("Mul", scale), ("Add", shift)):
        constant = np.asarray(constant)
        if tensor.is_first and constant.ndim:
            full = constant.reshape((1,) * (len(tensor.shape) + 1 - constant.ndim) + constant.shape)
            constant = np.moveaxis(full, -1, 1)
        tensor = writer.apply(kind, tensor, writer.constant(constant))
    return tensor


def _rescaling(writer, layer, inputs):
    return _scaled(writer, inputs[0], layer.scale, layer.offset)


def _normalization(writer, layer, inputs):
    if not layer.built or layer.invert:
        raise Unsupported("it has no statistics yet, or inverts")
    mean, variance = _numbers(layer.mean), _numbers(layer.variance)
    scale = 1.0 / np.maximum(np.sqrt(variance.astype(np.float64)), config.epsilon())
    return _scaled(writer, inputs[0], scale, -mean * scale)


def _batch_normalization(writer, layer, inputs):
    rank = len(inputs[0].shape) + 1
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    shape = [-1 if i == axis % rank else 1 for i in range(rank)]
    variance = _numbers(layer.moving_variance).astype(np.float64)
    scale = 1.0 / np.sqrt(variance + layer.epsilon)
    scale = scale * _numbers(layer.gamma) if layer.scale else scale
    shift = -_numbers(layer.moving_mean) * scale
    shift = shift + _numbers(layer.beta) if layer.center else shift
    return _scaled(writer, inputs[0], scale.reshape(shape), shift.reshape(shape))


def _merged(kind: str) -> Callable:
    def rule(writer, layer, inputs):
        merged = _aligned(writer, inputs)
        result = merged[0]
        for other in merged[1:]:
            result = writer.apply(kind, result, other.name)
        return result

    return rule


def _aligned(writer, inputs) -> list[Emitted]:
    if len({tensor.shape for tensor in inputs}) > 1:
        raise Unsupported("its inputs are broadcast")
    if all(tensor.is_first for tensor in inputs):
        return list(inputs)
    return [writer.channels_last(tensor) for tensor in inputs]


def _average(writer, layer, inputs):
    total = _merged("Add")(writer, layer, inputs)
    return writer.apply("Mul", total, writer.constant(1.0 / len(inputs)))


def _concatenate(writer, layer, inputs):
    tensors = [writer.channels_last(tensor) for tensor in inputs]
    rank = len(tensors[0].shape) + 1
    axis = layer.axis % rank
    shape = list(tensors[0].shape)
    shape[axis - 1] = sum(tensor.shape[axis - 1] for tensor in tensors)
    name = writer.node("Concat", [tensor.name for tensor in tensors], axis=axis)
    return Emitted(name, tuple(shape))


def _residual(writer, layer, inputs):
    first, second = layer.shares()
    x, branch = _aligned(writer, inputs)
    x = writer.apply("Mul", x, writer.constant(first))
    branch = writer.apply("Mul", branch, writer.constant(second))
    return writer.apply("Add", x, branch.name)


def _on_channels(writer, tensor: Emitted, matrix: np.ndarray) -> Emitted:
    """`x @ matrix` along the channels."""
    shape = (*tensor.shape[:-1], matrix.shape[1])
    if not tensor.is_first:
        return Emitted(writer.node("MatMul", [tensor.name, writer.constant(matrix)]), shape)
    kernel = matrix.T.reshape(*matrix.T.shape, *[1] * (len(shape) - 1))
    name = writer.node("Conv", [tensor.name, writer.constant(kernel)])
    return Emitted(name, shape, is_first=True)


def _group_sort(writer, layer, inputs):
    """Comparators: a pair `(a, b)` moves by `relu(a - b) (-1, 1)`."""
    tensor = _channel_input(layer, inputs)
    channels = tensor.shape[-1]
    size = channels if getattr(layer, "n", None) is None else min(layer.n, channels)
    groups = np.eye(channels // size)
    for pairs in sorting_network(size):
        low, high = (np.eye(size)[:, list(side)] for side in zip(*pairs, strict=True))
        surplus = _on_channels(writer, tensor, np.kron(groups, low - high))
        moved = _on_channels(writer, writer.apply("Relu", surplus), np.kron(groups, (high - low).T))
        tensor = writer.apply("Add", tensor, moved.name)
    return _times(writer, layer, tensor)


def _channel_input(layer, inputs) -> Emitted:
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        raise Unsupported("only channels_last is written")
    return inputs[0]


def _times(writer, layer, tensor: Emitted) -> Emitted:
    constant = layer.k_coef_lip
    return tensor if constant == 1 else writer.apply("Mul", tensor, writer.constant(constant))


def _max_min(writer, layer, inputs):
    tensor = _channel_input(layer, inputs)
    eye = np.eye(tensor.shape[-1])
    both = _on_channels(writer, tensor, np.concatenate([eye, -eye], axis=1))
    return _times(writer, layer, writer.apply("Relu", both))


def _householder(writer, layer, inputs):
    """Channel i pairs with channel i + half: `z - 2 relu(n . z) n`."""
    tensor = _channel_input(layer, inputs)
    theta = _numbers(layer.theta).astype(np.float64)
    normal = np.concatenate([np.diag(np.sin(theta / 2)), np.diag(-np.cos(theta / 2))])
    positive = writer.apply("Relu", _on_channels(writer, tensor, normal))
    moved = _on_channels(writer, positive, -2.0 * normal.T)
    return _times(writer, layer, writer.apply("Add", tensor, moved.name))


def _relu(writer, layer, inputs):
    if layer.threshold or layer.max_value is not None:
        raise Unsupported("its `threshold` or `max_value`")
    if layer.negative_slope:
        return writer.apply("LeakyRelu", inputs[0], alpha=float(layer.negative_slope))
    return writer.apply("Relu", inputs[0])


def _leaky_relu(writer, layer, inputs):
    return writer.apply("LeakyRelu", inputs[0], alpha=float(layer.negative_slope))


def _elu(writer, layer, inputs):
    return writer.apply("Elu", inputs[0], alpha=float(layer.alpha))


LAYERS: dict[type, Callable] = {
    **dict.fromkeys(
        (
            layers.Activation,
            layers.Dropout,
            layers.GaussianNoise,
            layers.Identity,
            layers.SpatialDropout2D,
        ),
        _same,
    ),
    layers.Add: _merged("Add"),
    layers.Average: _average,
    layers.AveragePooling1D: _pooling("AveragePool"),
    layers.AveragePooling2D: _pooling("AveragePool"),
    layers.BatchNormalization: _batch_normalization,
    layers.Concatenate: _concatenate,
    layers.Conv1D: _convolution,
    layers.Conv2D: _convolution,
    layers.Dense: _dense,
    layers.DepthwiseConv1D: _depthwise,
    layers.DepthwiseConv2D: _depthwise,
    layers.ELU: _elu,
    layers.Flatten: _flatten,
    layers.GlobalAveragePooling1D: _global_pooling("GlobalAveragePool"),
    layers.GlobalAveragePooling2D: _global_pooling("GlobalAveragePool"),
    layers.GlobalMaxPooling1D: _global_pooling("GlobalMaxPool"),
    layers.GlobalMaxPooling2D: _global_pooling("GlobalMaxPool"),
    layers.LeakyReLU: _leaky_relu,
    layers.Maximum: _merged("Max"),
    layers.MaxPooling1D: _pooling("MaxPool"),
    layers.MaxPooling2D: _pooling("MaxPool"),
    layers.Minimum: _merged("Min"),
    layers.Normalization: _normalization,
    layers.Permute: _permute,
    layers.ReLU: _relu,
    layers.Rescaling: _rescaling,
    layers.Reshape: _reshape,
    layers.Subtract: _merged("Sub"),
    layers.ZeroPadding1D: _zero_padding,
    layers.ZeroPadding2D: _zero_padding,
    lip.FullSort: _group_sort,
    lip.GroupSort: _group_sort,
    lip.GroupSort2: _group_sort,
    lip.Householder: _householder,
    lip.LipResidual: _residual,
    lip.MaxMin: _max_min,
    lip.ScaledL2NormPooling2D: _norm_pooling,
}
"""By exact type; constrained layers are written as what `vanilla_export` gives."""
