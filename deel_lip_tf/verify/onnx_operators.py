"""ONNX operators as calls of Keras layers: the table, and those that need no window."""

import math
from collections.abc import Callable

import keras
import numpy as np

from deel_lip_tf.verify.onnx_graph import Node
from deel_lip_tf.verify.onnx_walk import Value, Walk
from deel_lip_tf.verify.onnx_windows import (
    AVERAGE,
    GLOBAL_AVERAGE,
    GLOBAL_MAXIMUM,
    MAXIMUM,
    convolution,
    global_pooling,
    pad,
    pooling,
)

__all__ = ["OPERATORS"]


def _identity(walk: Walk, node: Node) -> Value:
    return walk.tensor(node.inputs[0])


def _elementwise(make: Callable[[dict], keras.layers.Layer]):
    def call(walk: Walk, node: Node) -> Value:
        value = walk.tensor(node.inputs[0])
        layer = make(node.attributes | {"dtype": walk.dtype})
        return Value(layer(value.tensor), value.is_last)

    return call


def _named(activation: str):
    return _elementwise(lambda a: keras.layers.Activation(activation, dtype=a["dtype"]))


def _dense(walk: Walk, value: Value, kernel: np.ndarray, bias: np.ndarray | None) -> Value:
    layer = keras.layers.Dense(kernel.shape[1], use_bias=bias is not None, dtype=walk.dtype)
    output = layer(value.channels_first())
    layer.set_weights([kernel] if bias is None else [kernel, bias])
    return Value(output)


def _gemm(walk: Walk, node: Node) -> Value:
    node.expect("transA", 0, 0)
    kernel = walk.constant(node, 1)
    kernel = kernel.T if node.attributes.get("transB", 0) else kernel
    bias = walk.constant(node, 2, default=0.0) * node.attributes.get("beta", 1.0)
    if bias.size not in (1, kernel.shape[1]):
        raise node.refuse("one bias for each output", bias.shape)
    bias = np.broadcast_to(bias.reshape(-1), kernel.shape[1])
    kernel = kernel * node.attributes.get("alpha", 1.0)
    return _dense(walk, walk.tensor(node.inputs[0]), kernel, bias)


def _matmul(walk: Walk, node: Node) -> Value:
    kernel = walk.constant(node, 1)
    if kernel.ndim != 2:
        raise node.refuse("a matrix as its second input", kernel.shape)
    bias = walk.constant(node, 2) if len(node.inputs) > 2 else None
    return _dense(walk, walk.tensor(node.inputs[0]), kernel, bias)


def _affine(walk: Walk, value: Value, scale: np.ndarray, shift: np.ndarray) -> Value:
    """`scale x + shift` with constants that broadcast against one sample in ONNX's order.

    A batch normalization of mean 0, variance 1 and epsilon 0: along the channels where the
    constants depend on nothing else, and of the flattened sample otherwise.
    """
    sample = tuple((Value(value.channels_first()) if value.is_last else value).tensor.shape[1:])
    scale, shift = (_on_sample(constant, sample) for constant in (scale, shift))
    per_channel = [_along_channels(constant, sample) for constant in (scale, shift)]
    if all(vector is not None for vector in per_channel):
        tensor = value.channels_last()
        output = _normalized(walk, tensor, *per_channel)
        return Value(output, is_last=value.rank > 2)
    flat = keras.layers.Flatten(dtype=walk.dtype)(value.channels_first())
    output = _normalized(walk, flat, scale.reshape(-1), shift.reshape(-1))
    return Value(keras.layers.Reshape(sample, dtype=walk.dtype)(output))


def _on_sample(constant: np.ndarray, sample: tuple[int, ...]) -> np.ndarray:
    constant = np.asarray(constant)
    if constant.ndim > len(sample):
        constant = constant.reshape(constant.shape[constant.ndim - len(sample) :])
    return np.broadcast_to(constant, sample)


def _along_channels(constant: np.ndarray, sample: tuple[int, ...]) -> np.ndarray | None:
    first = constant.reshape(sample[0], -1)
    if len(sample) == 1:
        return constant
    return first[:, 0] if (first == first[:, :1]).all() else None


def _normalized(walk: Walk, tensor, scale: np.ndarray, shift: np.ndarray):
    layer = keras.layers.BatchNormalization(epsilon=0.0, dtype=walk.dtype)
    output = layer(tensor)
    layer.set_weights([scale, shift, np.zeros(len(scale)), np.ones(len(scale))])
    return output


def _arithmetic(merge, to_affine):
    """An operator of two inputs: a merge of tensors, or an affine map where one is constant."""

    def call(walk: Walk, node: Node) -> Value:
        is_constant = [walk.is_constant(name) for name in node.inputs]
        if not any(is_constant):
            if merge is None:
                raise node.refuse("one constant input", node.inputs)
            return _merged(walk, node, merge())
        position = is_constant.index(True)
        terms = to_affine(walk.constant(node, position), position)
        if terms is None:
            raise node.refuse("its constant second", node.inputs)
        return _affine(walk, walk.tensor(node.inputs[1 - position]), *terms)

    return call


def _merged(walk: Walk, node: Node, layer: keras.layers.Layer) -> Value:
    values = [walk.tensor(name) for name in node.inputs]
    if len(values) == 1:
        return values[0]
    if all(value.is_last for value in values):
        return Value(layer([value.tensor for value in values]), is_last=True)
    return Value(layer([value.channels_first() for value in values]))


def _maximum_or_minimum(make):
    return lambda walk, node: _merged(walk, node, make())


def _divided(constant, position):
    if position == 0:
        return None
    wide = constant.astype(np.float64)
    return 1.0 / wide, np.zeros(())


def _subtracted(constant, position):
    sign = 1.0 if position == 1 else -1.0
    return np.asarray(sign), -sign * constant


def _batch_normalization(walk: Walk, node: Node) -> Value:
    node.expect("training_mode", 0, 0)
    value = walk.tensor(node.inputs[0])
    weights = [walk.constant(node, position) for position in (1, 2, 3, 4)]
    layer = keras.layers.BatchNormalization(
        epsilon=node.attributes.get("epsilon", 1e-5), dtype=walk.dtype
    )
    output = layer(value.channels_last())
    layer.set_weights(weights)
    return Value(output, is_last=value.rank > 2)


def _shaped(walk: Walk, value: Value, shape) -> Value:
    """A tensor whose sample has another shape, entries in ONNX's order."""
    tensor = value.channels_first()
    if tuple(tensor.shape[1:]) == tuple(shape):
        return Value(tensor)
    if len(shape) == 1:
        return Value(keras.layers.Flatten(dtype=walk.dtype)(tensor))
    return Value(keras.layers.Reshape(tuple(shape), dtype=walk.dtype)(tensor))


def _sample_shape(value: Value) -> tuple[int, ...]:
    """In ONNX's order."""
    shape = tuple(value.tensor.shape[1:])
    return (shape[-1], *shape[:-1]) if value.is_last else shape


def _flatten(walk: Walk, node: Node) -> Value:
    value = walk.tensor(node.inputs[0])
    node.expect("axis", 1, 1, 1 - value.rank)
    return _shaped(walk, value, (math.prod(_sample_shape(value)),))


def _reshape(walk: Walk, node: Node) -> Value:
    node.expect("allowzero", 0, 0)
    value = walk.tensor(node.inputs[0])
    sample = _sample_shape(value)
    target = [int(size) for size in walk.constant(node, 1)]
    known = [sample[i - 1] if size == 0 and i <= len(sample) else size
             for i, size in enumerate(target)]  # fmt: skip
    rest, entries = known[1:], math.prod(sample)
    if rest.count(-1) == 1:
        others = -math.prod(rest)
        rest = [entries // others if size == -1 and others else size for size in rest]
    if not rest or target[0] > 1 or min(rest) < 1 or math.prod(rest) != entries:
        raise node.refuse(f"the batch first, and {entries} entries for each sample", target)
    return _shaped(walk, value, rest)


def _squeeze(walk: Walk, node: Node) -> Value:
    value = walk.tensor(node.inputs[0])
    sample = _sample_shape(value)
    axes = _axes(walk, node, len(sample) + 1)
    if 0 in axes or any(sample[axis - 1] != 1 for axis in axes):
        raise node.refuse("axes of size 1 behind the batch", axes)
    kept = [size for axis, size in enumerate(sample, 1) if axis not in axes]
    return _shaped(walk, value, kept)


def _unsqueeze(walk: Walk, node: Node) -> Value:
    value = walk.tensor(node.inputs[0])
    sample = list(_sample_shape(value))
    axes = _axes(walk, node, len(sample) + 1 + _count(walk, node))
    if 0 in axes:
        raise node.refuse("axes behind the batch", axes)
    for axis in sorted(axes):
        sample.insert(axis - 1, 1)
    return _shaped(walk, value, sample)


def _count(walk: Walk, node: Node) -> int:
    return len(np.atleast_1d(_raw_axes(walk, node)))


def _raw_axes(walk: Walk, node: Node):
    """An attribute in old versions of the operator, an input in new ones."""
    return node.attributes["axes"] if "axes" in node.attributes else walk.constant(node, 1)


def _axes(walk: Walk, node: Node, rank: int) -> list[int]:
    return [int(axis) % rank for axis in np.atleast_1d(_raw_axes(walk, node))]


def _transpose(walk: Walk, node: Node) -> Value:
    value = walk.tensor(node.inputs[0])
    order = node.attributes.get("perm", list(range(value.rank))[::-1])
    if order[0] != 0:
        raise node.refuse("the batch axis left where it is", order)
    if value.is_last and list(order) == [0, *range(2, value.rank), 1]:
        return Value(value.tensor)
    if not value.is_last and list(order) == [0, value.rank - 1, *range(1, value.rank - 1)]:
        return Value(value.tensor, is_last=value.rank > 2)
    return Value(keras.layers.Permute(tuple(order[1:]))(value.channels_first()))


def _concat(walk: Walk, node: Node) -> Value:
    if any(walk.is_constant(name) for name in node.inputs):
        raise node.refuse("no constant input", node.inputs)
    rank = walk.tensor(node.inputs[0]).rank
    axis = node.attributes["axis"] % rank
    if axis == 0:
        raise node.refuse("another axis than the batch", axis)
    values = [walk.tensor(name) for name in node.inputs]
    if axis == 1 and all(value.is_last for value in values):
        layer = keras.layers.Concatenate(axis=-1, dtype=walk.dtype)
        return Value(layer([value.tensor for value in values]), is_last=True)
    layer = keras.layers.Concatenate(axis=axis, dtype=walk.dtype)
    return Value(layer([value.channels_first() for value in values]))


def _softmax(walk: Walk, node: Node) -> Value:
    value = walk.tensor(node.inputs[0])
    if value.rank != 2:
        raise node.refuse("a vector of scores as input", tuple(value.tensor.shape))
    node.expect("axis", -1, -1, 1)
    return Value(keras.layers.Activation("softmax", dtype=walk.dtype)(value.tensor))


def _leaky_relu(options: dict) -> keras.layers.Layer:
    slope = options.get("alpha", 0.01)
    return keras.layers.LeakyReLU(negative_slope=slope, dtype=options["dtype"])


def _elu(options: dict) -> keras.layers.Layer:
    return keras.layers.ELU(alpha=options.get("alpha", 1.0), dtype=options["dtype"])


OPERATORS: dict[str, Callable[[Walk, Node], Value]] = {
    "Add": _arithmetic(keras.layers.Add, lambda c, position: (np.ones(()), c)),
    "AveragePool": pooling(AVERAGE, counts_padding=True),
    "BatchNormalization": _batch_normalization,
    "Concat": _concat,
    "Conv": convolution,
    "Div": _arithmetic(None, _divided),
    "Dropout": _identity,
    "Elu": _elementwise(_elu),
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": global_pooling(GLOBAL_AVERAGE),
    "GlobalMaxPool": global_pooling(GLOBAL_MAXIMUM),
    "Identity": _identity,
    "LeakyRelu": _elementwise(_leaky_relu),
    "MatMul": _matmul,
    "Max": _maximum_or_minimum(keras.layers.Maximum),
    "MaxPool": pooling(MAXIMUM, counts_padding=False),
    "Min": _maximum_or_minimum(keras.layers.Minimum),
    "Mul": _arithmetic(None, lambda c, position: (c, np.zeros(()))),
    "Pad": pad,
    "Relu": _elementwise(lambda a: keras.layers.ReLU(dtype=a["dtype"])),
    "Reshape": _reshape,
    "Sigmoid": _named("sigmoid"),
    "Softmax": _softmax,
    "Softplus": _named("softplus"),
    "Squeeze": _squeeze,
    "Sub": _arithmetic(keras.layers.Subtract, _subtracted),
    "Tanh": _named("tanh"),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""By type; the domain must be ONNX's own."""
