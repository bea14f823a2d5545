"""TensorFlow operators as calls of Keras layers: the table, and those that need no window."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import keras
import numpy as np
from keras import ops

from deel_lip_tf.formats.build import (
    KerasGraphBuilder,
    activation,
    elementwise,
    elu,
    operation,
    weighted,
)
from deel_lip_tf.formats.graph import Node
from deel_lip_tf.formats.saved_model.shapes import (
    concatenated,
    expanded,
    gathered,
    padded,
    repeated,
    reshaped,
    sliced,
    squeezed,
    transposed,
)
from deel_lip_tf.formats.saved_model.tensors import Tensor
from deel_lip_tf.formats.saved_model.windows import (
    average_pooling,
    batch_to_space,
    convolution,
    depthwise_convolution,
    max_pooling,
    space_to_batch,
    transposed_convolution,
)
from deel_lip_tf.layers.activations import FullSort, GroupSort2
from deel_lip_tf.normalizers import safe_sqrt


def _dense(
    builder: KerasGraphBuilder, value: Tensor, kernel: np.ndarray, bias: np.ndarray | None = None
) -> Tensor:
    layer = keras.layers.Dense(kernel.shape[1], use_bias=bias is not None, dtype=builder.dtype)
    output = value.of(weighted(layer, value.tensor, kernel, bias))
    if bias is not None:
        return output
    return replace(output, with_bias=partial(_dense, builder, value, kernel))


def _matmul(builder: KerasGraphBuilder, node: Node) -> Tensor:
    attributes, kernel = node.attributes, builder.constant(node, 1)
    value = builder.tensor(node.inputs[0])
    if attributes.get("transpose_a") or attributes.get("adj_x") or kernel.ndim != 2:
        raise node.unsupported("a tensor first and a matrix second", kernel.shape)
    is_transposed = attributes.get("transpose_b") or attributes.get("adj_y")
    return _dense(builder, value, kernel.T if is_transposed else kernel)


def _bias_added(builder: KerasGraphBuilder, node: Node) -> Tensor:
    if node.attributes.get("data_format", "NHWC") != "NHWC":
        raise node.unsupported("its channels last", node.attributes["data_format"])
    return _sum(builder, node)


def _sum(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """Of two tensors or of a tensor and a constant, which becomes the bias of a layer if it can."""
    for position in (0, 1):
        other = node.inputs[1 - position]
        if builder.is_constant(node.inputs[position]) and not builder.is_constant(other):
            value, constant = builder.tensor(other), builder.constant(node, position)
            if value.with_bias is not None and constant.shape == value.sample[-1:]:
                return value.with_bias(constant)
    return _arithmetic(ops.add, keras.layers.Add)(builder, node)


def _arithmetic(function: Callable, merge: Callable | None, constant_second: bool = False):
    """An operator of two inputs: `merge` of tensors, `function` where one is constant."""

    def call(builder: KerasGraphBuilder, node: Node) -> Tensor:
        is_constant = [builder.is_constant(name) for name in node.inputs]
        if not any(is_constant):
            if merge is None:
                raise node.unsupported("one constant input", node.inputs)
            return _joined(builder, node, merge(dtype=builder.dtype))
        if constant_second and is_constant[0]:
            raise node.unsupported("its constant second", node.inputs)
        position = is_constant.index(True)
        value = builder.tensor(node.inputs[1 - position])
        operands = [value.tensor, value.tensor]
        operands[position] = _on_sample(node, value, builder.constant(node, position))
        return value.of(function(*operands))

    return call


def _on_sample(node: Node, value: Tensor, constant: np.ndarray) -> np.ndarray:
    """A constant that is the same for all samples, and does not make them larger."""
    if constant.ndim == value.rank and constant.shape[0] == 1:
        constant = constant[0]
    shape = value.sample if value.rows is None else value.sample[1:]
    fits = constant.ndim <= len(shape) and all(
        n in (1, size) for n, size in zip(constant.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        rule = f"a constant that broadcasts against samples of shape {shape}"
        raise node.unsupported(rule, constant.shape)
    return constant


def _joined(builder: KerasGraphBuilder, node: Node, layer: keras.layers.Layer) -> Tensor:
    values = [builder.tensor(name) for name in node.inputs]
    first = values[0]
    is_alike = len({(value.rank, value.rows) for value in values}) == 1
    if not is_alike or any(value.blocks is not None for value in values):
        shapes = [value.sample for value in values]
        raise node.unsupported("inputs of as many axes, of which the first is the batch", shapes)
    return first.of(layer([value.tensor for value in values]))


def _axes(builder: KerasGraphBuilder, node: Node, value: Tensor) -> tuple[int, ...]:
    axes = sorted(int(axis) % value.rank for axis in np.atleast_1d(builder.constant(node, 1)))
    if 0 in axes or value.rows is not None:
        raise node.unsupported("axes behind the batch", axes)
    return tuple(axes)


def _reduced(function: Callable):
    """A mean or a sum over some axes."""

    def call(builder: KerasGraphBuilder, node: Node) -> Tensor:
        value = builder.tensor(node.inputs[0])
        axes = _axes(builder, node, value)
        tensor = value.samples()
        if not axes:
            return value
        return value.of(function(tensor, axis=axes, keepdims=bool(node.attributes["keep_dims"])))

    return call


_GLOBAL_MAXIMUM = {3: keras.layers.GlobalMaxPooling1D, 4: keras.layers.GlobalMaxPooling2D}


def _maximum_over_axes(builder: KerasGraphBuilder, node: Node) -> Tensor:
    value = builder.tensor(node.inputs[0])
    axes = _axes(builder, node, value)
    if value.rank not in _GLOBAL_MAXIMUM or axes != tuple(range(1, value.rank - 1)):
        raise node.unsupported("all axes of an image or a sequence but its channels", axes)
    kind, keeps_axes = _GLOBAL_MAXIMUM[value.rank], bool(node.attributes["keep_dims"])
    layer = kind(keepdims=keeps_axes, dtype=builder.dtype)
    return value.of(layer(value.samples()))


def _contracted(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`einsum` of a tensor, whose first axis stays, and a constant."""
    equation = node.attributes["equation"]
    read, _, result = equation.partition("->")
    terms = read.split(",")
    constant = [builder.is_constant(name) for name in node.inputs]
    if sorted(constant) != [False, True]:
        raise node.unsupported("a tensor and a constant", node.inputs)
    position = constant.index(False)
    batch = terms[position][:1]
    if "." in equation or result[:1] != batch or batch in terms[1 - position] + result[1:]:
        raise node.unsupported("one axis of the batch, the first one", equation)
    value = builder.tensor(node.inputs[position])
    operands = [value.samples(), builder.constant(node, 1 - position)]
    return value.of(ops.einsum(equation, *(operands if position == 0 else operands[::-1])))


def _batch_normalization(builder: KerasGraphBuilder, node: Node) -> Tensor:
    node.expect("is_training", True, False)
    node.expect("data_format", "NHWC", "NHWC")
    value = builder.tensor(node.inputs[0])
    weights = [builder.constant(node, position) for position in (1, 2, 3, 4)]
    layer = keras.layers.BatchNormalization(epsilon=node.attributes["epsilon"], dtype=builder.dtype)
    return value.of(weighted(layer, value.samples(), *weights))


def _softmax(builder: KerasGraphBuilder, node: Node) -> Tensor:
    value = builder.tensor(node.inputs[0])
    tensor = value.samples()
    if value.rank != 2:
        raise node.unsupported("a vector of scores as input", value.sample)
    return value.of(keras.layers.Activation("softmax", dtype=builder.dtype)(tensor))


def _largest_of_last(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """All entries of the last axis, in descending order."""
    value, count = builder.tensor(node.inputs[0]), builder.constant(node, 1)
    if count != value.sample[-1] or not node.attributes.get("sorted", True):
        raise node.unsupported(f"all {value.sample[-1]} entries to sort", int(count))
    ascending = FullSort(dtype=builder.dtype)(ops.negative(value.tensor))
    return value.of(ops.negative(ascending))


def _sorted_pairs(builder: KerasGraphBuilder, node: Node) -> Tensor:
    value = builder.tensor(node.inputs[0])
    if value.sample[-1] != 2:
        raise node.unsupported("pairs", value.sample)
    return value.of(FullSort(dtype=builder.dtype)(value.tensor))


def _sorted_neighbours(builder: KerasGraphBuilder, node: Node) -> Tensor:
    value, width = builder.tensor(node.inputs[0]), node.attributes["width"]
    if value.rank != 2 or value.sample[-1] != width:
        raise node.unsupported(f"rows of {width} numbers", value.sample)
    return value.of(GroupSort2(dtype=builder.dtype)(value.tensor))


def _leaky_relu(x, attributes: dict, dtype: str):
    return keras.layers.LeakyReLU(negative_slope=attributes["alpha"], dtype=dtype)(x)


def _relu(maximum: float | None = None):
    return elementwise(lambda x, _, dtype: keras.layers.ReLU(max_value=maximum, dtype=dtype)(x))


OPERATORS: dict[str, Callable[[KerasGraphBuilder, Node], Tensor]] = {
    "Abs": operation(ops.absolute),
    "Add": _sum,
    "AddV2": _sum,
    "AvgPool": average_pooling,
    "BatchMatMulV2": _matmul,
    "BatchToSpaceND": batch_to_space,
    "BiasAdd": _bias_added,
    "ConcatV2": concatenated,
    "Conv2D": convolution,
    "Conv2DBackpropInput": transposed_convolution,
    "DepthwiseConv2dNative": depthwise_convolution,
    "Einsum": _contracted,
    "Elu": elementwise(elu),
    "Exp": activation("exponential"),
    "ExpandDims": expanded,
    "FusedBatchNormV3": _batch_normalization,
    "GatherV2": gathered,
    "Gelu": activation("gelu"),
    "LeakyRelu": elementwise(_leaky_relu),
    "MatMul": _matmul,
    "Max": _maximum_over_axes,
    "MaxPool": max_pooling,
    "Maximum": _arithmetic(ops.maximum, keras.layers.Maximum),
    "Mean": _reduced(ops.mean),
    "Minimum": _arithmetic(ops.minimum, keras.layers.Minimum),
    "Mul": _arithmetic(ops.multiply, None),
    "Neg": operation(ops.negative),
    "Pad": padded,
    "PadV2": padded,
    "RealDiv": _arithmetic(ops.divide, None, constant_second=True),
    "Relu": _relu(),
    "Relu6": _relu(6.0),
    "Reshape": reshaped,
    "SafeRoot": operation(safe_sqrt),
    "Selu": activation("selu"),
    "Sigmoid": activation("sigmoid"),
    "Silu": activation("silu"),
    "Softmax": _softmax,
    "Softplus": activation("softplus"),
    "Softsign": activation("softsign"),
    "SortedNeighbours": _sorted_neighbours,
    "SortedPairs": _sorted_pairs,
    "SpaceToBatchND": space_to_batch,
    "Sqrt": operation(ops.sqrt),
    "Square": operation(ops.square),
    "Squeeze": squeezed,
    "StridedSlice": sliced,
    "Sub": _arithmetic(ops.subtract, keras.layers.Subtract),
    "Sum": _reduced(ops.sum),
    "Tanh": activation("tanh"),
    "Tile": repeated,
    "TopKV2": _largest_of_last,
    "Transpose": transposed,
}
"""By type; "Gelu", "SafeRoot", "Silu" and "Sorted..." are made by `patterns`."""
