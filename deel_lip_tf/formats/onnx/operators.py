"""ONNX operators as calls of Keras layers: the table, and those that need no window."""

import math
from collections.abc import Callable
from dataclasses import replace

import keras
import numpy as np

from deel_lip_tf.formats.nodes import Node
from deel_lip_tf.formats.onnx.arithmetic import (
    arithmetic,
    divided,
    gemm,
    matmul,
    merged,
    scaled_by,
    shifted_by,
)
from deel_lip_tf.formats.onnx.values import Value
from deel_lip_tf.formats.onnx.windows import (
    AVERAGE,
    GLOBAL_AVERAGE,
    GLOBAL_MAXIMUM,
    MAXIMUM,
    convolution,
    global_pooling,
    pad,
    pooling,
)
from deel_lip_tf.formats.walk import Walk

__all__ = ["OPERATORS", "rule_of"]


_IN_FILES = np.float32
"""The type of an attribute that is a number: defaults are rounded to it like what is written."""


def _identity(walk: Walk, node: Node) -> Value:
    return walk.tensor(node.inputs[0])


def _dropout(walk: Walk, node: Node) -> Value:
    """The identity, at inference."""
    _refuse_training(walk, node, first_without_flag=7)
    is_training = walk.constant(node, 2, default=False)
    if is_training.any():
        raise node.refuse("no training mode", f"training_mode={bool(is_training)}")
    return walk.tensor(node.inputs[0])


def _refuse_training(walk: Walk, node: Node, first_without_flag: int) -> None:
    """Old versions of an operator are at training unless `is_test` says otherwise."""
    if walk.version < first_without_flag:
        node.expect("is_test", 0, 1)


def _elementwise(make: Callable[[dict], keras.layers.Layer]):
    def call(walk: Walk, node: Node) -> Value:
        value = walk.tensor(node.inputs[0])
        layer = make(node.attributes | {"dtype": walk.dtype})
        return Value(layer(value.tensor), value.is_last)

    return call


def _named(activation: str):
    return _elementwise(lambda a: keras.layers.Activation(activation, dtype=a["dtype"]))


def _batch_normalization(walk: Walk, node: Node) -> Value:
    node.expect("training_mode", 0, 0)
    node.expect("spatial", 1, 1)
    _refuse_training(walk, node, first_without_flag=7)
    if walk.version < 14 and node.further_outputs:
        raise node.refuse("one output, since several mean training", node.further_outputs)
    value = walk.tensor(node.inputs[0])
    weights = [walk.numbers(node, position) for position in (1, 2, 3, 4)]
    epsilon = node.attributes.get("epsilon", _IN_FILES(1e-5))
    layer = keras.layers.BatchNormalization(epsilon=float(epsilon), dtype=walk.dtype)
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


def _flatten(walk: Walk, node: Node) -> Value:
    value = walk.tensor(node.inputs[0])
    node.expect("axis", 1, 1, 1 - value.rank)
    return _shaped(walk, value, (math.prod(value.sample),))


def _reshape(walk: Walk, node: Node) -> Value:
    node.expect("allowzero", 0, 0)
    value = walk.tensor(node.inputs[0])
    sample = value.sample
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
    sample = value.sample
    axes = _axes(walk, node, len(sample) + 1)
    if 0 in axes or any(sample[axis - 1] != 1 for axis in axes):
        raise node.refuse("axes of size 1 behind the batch", axes)
    kept = [size for axis, size in enumerate(sample, 1) if axis not in axes]
    return _shaped(walk, value, kept)


def _unsqueeze(walk: Walk, node: Node) -> Value:
    value = walk.tensor(node.inputs[0])
    sample = list(value.sample)
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
    return Value(keras.layers.Permute(tuple(order[1:]), dtype=walk.dtype)(value.channels_first()))


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


def _leaky_relu(walk: Walk, node: Node) -> Value:
    slope = float(node.attributes.get("alpha", _IN_FILES(0.01)))
    if slope < 0.0:
        raise node.refuse("an alpha of at least 0", slope)
    return _elementwise(lambda a: keras.layers.LeakyReLU(slope, dtype=a["dtype"]))(walk, node)


def _elu(options: dict) -> keras.layers.Layer:
    return keras.layers.ELU(alpha=options.get("alpha", 1.0), dtype=options["dtype"])


OPERATORS: dict[str, Callable[[Walk, Node], Value]] = {
    "Add": arithmetic(keras.layers.Add, shifted_by(1.0)),
    "AveragePool": pooling(AVERAGE, counts_padding=True),
    "BatchNormalization": _batch_normalization,
    "Concat": _concat,
    "Conv": convolution,
    "Div": divided,
    "Dropout": _dropout,
    "Elu": _elementwise(_elu),
    "Flatten": _flatten,
    "Gemm": gemm,
    "GlobalAveragePool": global_pooling(GLOBAL_AVERAGE),
    "GlobalMaxPool": global_pooling(GLOBAL_MAXIMUM),
    "Identity": _identity,
    "LeakyRelu": _leaky_relu,
    "MatMul": matmul,
    "Max": merged(keras.layers.Maximum),
    "MaxPool": pooling(MAXIMUM, counts_padding=False),
    "Min": merged(keras.layers.Minimum),
    "Mul": arithmetic(None, scaled_by),
    "Pad": pad,
    "Relu": _elementwise(lambda a: keras.layers.ReLU(dtype=a["dtype"])),
    "Reshape": _reshape,
    "Sigmoid": _named("sigmoid"),
    "Softmax": _softmax,
    "Softplus": _named("softplus"),
    "Squeeze": _squeeze,
    "Sub": arithmetic(keras.layers.Subtract, shifted_by(-1.0)),
    "Tanh": _named("tanh"),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""By type; the domain must be ONNX's own."""

_WITHOUT_BATCH = (
    *("Add", "Div", "Dropout", "Elu", "Identity", "LeakyRelu", "MatMul", "Max", "Min", "Mul"),
    *("Relu", "Sigmoid", "Softplus", "Sub", "Tanh"),
)
"""Operators that read a vector as they read each row of a matrix."""


def rule_of(walk: Walk, node: Node) -> Callable[[Walk, Node], Value]:
    """How to call an operator, whose inputs may have no batch axis."""
    is_plain = all(walk.tensor(name).has_batch for name in node.inputs if walk.is_computed(name))
    return OPERATORS[node.kind] if is_plain else _called_on_vectors


def _called_on_vectors(walk: Walk, node: Node) -> Value:
    """An operator on tensors of which one at least has no batch axis."""
    if _adds_batch(walk, node):
        return replace(walk.tensor(node.inputs[0]), has_batch=True)
    inputs = [walk.tensor(name) for name in node.inputs if walk.is_computed(name)]
    if node.kind not in _WITHOUT_BATCH or any(value.has_batch for value in inputs):
        raise node.refuse("inputs with a batch axis: this one is a vector", node.inputs)
    return replace(OPERATORS[node.kind](walk, node), has_batch=False)


def _adds_batch(walk: Walk, node: Node) -> bool:
    """Whether an operator puts an axis of size 1 in front of a vector."""
    if node.kind not in ("Flatten", "Reshape", "Unsqueeze"):
        return False
    (size,) = walk.tensor(node.inputs[0]).sample
    if node.kind == "Unsqueeze":
        return [int(axis) % 2 for axis in np.atleast_1d(_raw_axes(walk, node))] == [0]
    if node.kind == "Flatten":
        return node.attributes.get("axis", 1) in (0, -1)
    return [int(n) for n in walk.constant(node, 1)] in ([1, size], [1, -1], [-1, size])
