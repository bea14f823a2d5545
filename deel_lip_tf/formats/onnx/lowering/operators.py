"""ONNX operators as primitives: the table, sums, products and functions of each entry."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from deel_lip_tf.formats.graph import Node
from deel_lip_tf.formats.onnx.attributes import IN_FILES
from deel_lip_tf.formats.onnx.lowering.moves import concatenated, identity, moved
from deel_lip_tf.formats.onnx.lowering.values import Value, Values
from deel_lip_tf.formats.onnx.lowering.windows import (
    average_pooling,
    batch_normalization,
    convolution,
    global_average,
    global_maximum,
    maximum_pooling,
)
from deel_lip_tf.semantics.ir import elementwise
from deel_lip_tf.semantics.ir.decompositions import combined, extreme_of, extreme_with
from deel_lip_tf.semantics.ir.elementwise import Function
from deel_lip_tf.semantics.ir.primitives import AxisProducts, MatMul, Scale


def _matmul(values: Values, node: Node) -> list[Value]:
    """`x @ kernel` with the bias that `graph` has found behind it, or `kernel @ x`."""
    if values.is_constant(node.inputs[0]):
        return [_from_left(values, node)]
    return [_dense(values, node, _matrix(values, node, 1), values.optional(node, 2))]


def _gemm(values: Values, node: Node) -> list[Value]:
    """`alpha x @ kernel + beta bias`; of float32 numbers, float64 holds the products."""
    node.expect("transA", 0, 0)
    factors = [float(node.attributes.get(name, 1.0)) for name in ("alpha", "beta")]
    if values.dtype != "float32" and factors != [1.0, 1.0]:
        raise node.unsupported("products that float64 holds", factors)
    kernel, bias = _matrix(values, node, 1), values.optional(node, 2)
    kernel = kernel.T if node.attributes.get("transB", 0) else kernel
    bias = None if bias is None else factors[1] * bias
    return [_dense(values, node, factors[0] * kernel, bias)]


def _matrix(values: Values, node: Node, position: int) -> np.ndarray:
    kernel = values.numbers(node, position)
    if kernel.ndim != 2:
        raise node.unsupported(f"a matrix as input {position}", node.inputs[position])
    return kernel


def _dense(values: Values, node: Node, kernel: np.ndarray, bias: np.ndarray | None) -> Value:
    value = values.value(node)
    if value.shape[-1] != len(kernel):
        raise node.unsupported("a matrix of as many rows as the input has entries", kernel.shape)
    shape = (*value.shape[:-1], kernel.shape[1])
    if bias is not None:
        bias = values.beside(node, Value(value.index, shape), bias)
    return Value(values.builder.affine(values.first(value), MatMul(kernel), bias), shape)


def _from_left(values: Values, node: Node) -> Value:
    kernel, value = _matrix(values, node, 0), values.value(node, 1)
    rank = len(value.shape) - value.has_batch
    if rank == 1 and not value.has_batch:
        return _dense(values, replace(node, inputs=node.inputs[::-1]), kernel.T, None)
    if rank < 2:
        raise node.unsupported("a constant as input 1: this product mixes samples", value.shape)
    along = AxisProducts((*[None] * (rank - 2), kernel.T, None))
    index = values.builder.affine(values.first(value), along)
    return Value(index, (*value.shape[:-2], len(kernel), value.shape[-1]))


def _affine(values: Values, node: Node, value: Value, scale=None, shift=None) -> Value:
    """`x * scale + shift` with constants that broadcast against the tensor."""
    given = [None if c is None else values.beside(node, value, c) for c in (scale, shift)]
    return Value(values.builder.scaled(value.index, *given), value.shape, value.is_last)


def _sum_of(signs: tuple[float, ...] | None):
    """`Add` and `Sub` of two by their signs, `Sum` of any number."""

    def call(values: Values, node: Node) -> list[Value]:
        node.expect("broadcast", 0, 0)  # below version 7, broadcasting began at another axis
        weights = [1.0] * len(node.inputs) if signs is None else list(signs)
        if not any(map(values.is_constant, node.inputs)):
            return [_merged(values, node, lambda nodes: combined(values.builder, nodes, weights))]
        if len(weights) != 2:
            raise node.unsupported("no constant input", node.inputs)
        position = [values.is_constant(name) for name in node.inputs].index(True)
        own, constant = weights[1 - position], values.numbers(node, position)
        value = values.value(node, 1 - position)
        scale = None if own == 1.0 else np.asarray(own)
        return [_affine(values, node, value, scale, weights[position] * constant)]

    return call


def _merged(values: Values, node: Node, join: Callable[[list[int]], int]) -> Value:
    """An operator of tensors, which broadcast along axes of size 1."""
    given = [values.value(node, position) for position in range(len(node.inputs))]
    if len({(len(value.shape), value.has_batch) for value in given}) > 1:
        shapes = [value.shape for value in given]
        raise node.unsupported("inputs of as many axes as each other", shapes)
    shape = tuple(np.broadcast_shapes(*(value.shape for value in given)))
    if all(value.is_last for value in given):
        return Value(join([value.index for value in given]), shape, is_last=True)
    return Value(join([values.first(value) for value in given]), shape)


def _product(values: Values, node: Node) -> list[Value]:
    node.expect("broadcast", 0, 0)
    position = int(not values.is_constant(node.inputs[0]))
    value, constant = values.value(node, 1 - position), values.numbers(node, position)
    return [_affine(values, node, value, scale=constant)]


def _quotient(values: Values, node: Node) -> list[Value]:
    node.expect("broadcast", 0, 0)
    constant = values.numbers(node, 1)
    if not constant.all():
        raise node.unsupported("a constant without a zero as input 1", node.inputs)
    return [_affine(values, node, values.value(node), scale=1.0 / constant)]


def _extreme(sign: float):
    """`Max` (1) or `Min` (-1) of tensors, or of one and a constant."""

    def call(values: Values, node: Node) -> list[Value]:
        is_constant = [values.is_constant(name) for name in node.inputs]
        if not any(is_constant):
            return [_merged(values, node, lambda nodes: extreme_of(values.builder, nodes, sign))]
        if sorted(is_constant) != [False, True]:
            raise node.unsupported("one constant input at most", node.inputs)
        position = is_constant.index(True)
        value = values.value(node, 1 - position)
        constant = values.beside(node, value, values.numbers(node, position))
        index = extreme_with(values.builder, value.index, constant, sign)
        return [Value(index, value.shape, value.is_last)]

    return call


def _entrywise(function_of: Callable[[dict], Function]):
    """A function of each entry, by the attributes of the operator."""

    def call(values: Values, node: Node) -> list[Value]:
        value, function = values.value(node), function_of(node.attributes)
        index = values.builder.function(value.index, function)
        return [Value(index, value.shape, value.is_last)]

    return call


def _named(name: str):
    return _entrywise(lambda attributes: Function(name))


def _prelu(values: Values, node: Node) -> list[Value]:
    value = values.value(node)
    slopes = values.beside(node, value, values.numbers(node, 1))
    index = values.builder.function(value.index, elementwise.prelu(slopes))
    return [Value(index, value.shape, value.is_last)]


def _clip(values: Values, node: Node) -> list[Value]:
    """`Clip` between constants, of which either may be missing."""
    value = values.value(node)
    low, high = (values.optional(node, position) for position in (1, 2))
    if any(limit is not None and limit.size != 1 for limit in (low, high)):
        raise node.unsupported("one number as each limit", (low, high))
    index = value.index
    if low is not None and high is not None:
        if not low <= high:
            raise node.unsupported("the lower limit first", (low, high))
        index = values.builder.function(index, elementwise.clip(low.item(), high.item()))
    elif low is not None:
        index = extreme_with(values.builder, index, low.reshape(()), 1.0)
    elif high is not None:
        index = extreme_with(values.builder, index, high.reshape(()), -1.0)
    return [Value(index, value.shape, value.is_last)]


def _negated(values: Values, node: Node) -> list[Value]:
    value = values.value(node)
    return [Value(values.builder.affine(value.index, Scale(-1.0)), value.shape, value.is_last)]


def _leaky_relu(attributes: dict) -> Function:
    return elementwise.relu(float(attributes.get("alpha", IN_FILES(0.01))))


OPERATORS: dict[str, Callable[[Values, Node], list[Value]]] = {
    "Abs": _entrywise(lambda attributes: elementwise.relu(negative_slope=-1.0)),
    "Add": _sum_of((1.0, 1.0)),
    "AveragePool": average_pooling,
    "BatchNormalization": batch_normalization,
    "Clip": _clip,
    "Concat": concatenated,
    "Conv": convolution,
    "Div": _quotient,
    "Dropout": identity,
    "Exp": _named("exponential"),
    "Expand": moved,
    "Flatten": moved,
    "Gather": moved,
    "Gemm": _gemm,
    "GlobalAveragePool": global_average,
    "GlobalMaxPool": global_maximum,
    "Identity": identity,
    "LeakyRelu": _entrywise(_leaky_relu),
    "MatMul": _matmul,
    "Max": _extreme(1.0),
    "MaxPool": maximum_pooling,
    "Min": _extreme(-1.0),
    "Mul": _product,
    "Neg": _negated,
    "PRelu": _prelu,
    "Pad": moved,
    "Relu": _entrywise(lambda attributes: elementwise.relu()),
    "Reshape": moved,
    "Sigmoid": _named("sigmoid"),
    "Slice": moved,
    "Split": moved,
    "Squeeze": moved,
    "Sub": _sum_of((1.0, -1.0)),
    "Sum": _sum_of(None),
    "Tanh": _named("tanh"),
    "Tile": moved,
    "Transpose": moved,
    "Unsqueeze": moved,
}
"""By type: the outputs of a node."""
