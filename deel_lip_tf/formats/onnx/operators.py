"""ONNX operators as calls of Keras layers: the table, and those that work entry by entry."""

from collections.abc import Callable
from dataclasses import replace

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
from deel_lip_tf.formats.onnx.arithmetic import (
    arithmetic,
    constant_of,
    divided,
    extreme,
    gemm,
    matmul,
    merged,
    reduced,
    scaled_by,
    shifted_by,
)
from deel_lip_tf.formats.onnx.attributes import IN_FILES, check_dropout, check_normalization
from deel_lip_tf.formats.onnx.shapes import (
    adds_batch,
    concat,
    flatten,
    pad,
    reshape,
    sliced,
    split,
    squeeze,
    transpose,
    unsqueeze,
)
from deel_lip_tf.formats.onnx.tensors import Tensor
from deel_lip_tf.formats.onnx.windows import (
    AVERAGE,
    GLOBAL_AVERAGE,
    GLOBAL_MAXIMUM,
    MAXIMUM,
    convolution,
    global_pooling,
    pooling,
    transposed_convolution,
)


def _cast(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """The identity, to the type that the tensor has."""
    from onnx import helper

    target = np.dtype(helper.tensor_dtype_to_np_dtype(node.attributes["to"])).name
    if target != builder.dtype:
        raise node.unsupported(f"the input's type {builder.dtype} to cast to", target)
    return builder.tensor(node.inputs[0])


def _dropout(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """The identity, at inference."""
    check_dropout(node, builder.version, builder.constant(node, 2, default=False))
    return builder.tensor(node.inputs[0])


def _batch_normalization(builder: KerasGraphBuilder, node: Node) -> Tensor:
    check_normalization(node, builder.version)
    value = builder.tensor(node.inputs[0])
    weights = [builder.numbers(node, position) for position in (1, 2, 3, 4)]
    epsilon = node.attributes.get("epsilon", IN_FILES(1e-5))
    layer = keras.layers.BatchNormalization(epsilon=float(epsilon), dtype=builder.dtype)
    output = weighted(layer, value.channels_last(), *weights)
    return Tensor(output, "NHWC" if value.rank > 2 else "NCHW")


def _softmax(builder: KerasGraphBuilder, node: Node) -> Tensor:
    value = builder.tensor(node.inputs[0])
    if value.rank != 2:
        raise node.unsupported("a vector of scores as input", tuple(value.tensor.shape))
    node.expect("axis", -1, -1, 1)
    return Tensor(keras.layers.Activation("softmax", dtype=builder.dtype)(value.tensor))


def _leaky_relu(builder: KerasGraphBuilder, node: Node) -> Tensor:
    slope = float(node.attributes.get("alpha", IN_FILES(0.01)))
    if slope < 0.0:
        raise node.unsupported("an alpha of at least 0", slope)
    value = builder.tensor(node.inputs[0])
    return value.of(keras.layers.LeakyReLU(slope, dtype=builder.dtype)(value.tensor))


def _prelu(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`PRelu`, with slopes that broadcast against a sample."""
    value, slopes = constant_of(builder, node, 1)
    slopes = value.beside(slopes)
    shared = [axis for axis, size in enumerate(slopes.shape, 1) if size == 1]
    layer = keras.layers.PReLU(shared_axes=shared, dtype=builder.dtype)
    return value.of(weighted(layer, value.tensor, slopes))


def _selu(x, attributes: dict, dtype: str):
    """With the numbers of the file: Keras has them in float64."""
    alpha = attributes.get("alpha", float(IN_FILES(1.67326319217681884765625)))
    gamma = attributes.get("gamma", float(IN_FILES(1.05070102214813232421875)))
    return keras.layers.Rescaling(gamma, dtype=dtype)(elu(x, {"alpha": alpha}, dtype))


def _hard_sigmoid(x, attributes: dict, dtype: str):
    slope, offset = (
        attributes.get(key, float(IN_FILES(default)))
        for key, default in (("alpha", 0.2), ("beta", 0.5))
    )
    return ops.clip(keras.layers.Rescaling(slope, offset, dtype=dtype)(x), 0.0, 1.0)


def _gelu(x, attributes: dict, dtype: str):
    return ops.gelu(x, approximate=attributes.get("approximate", "none") == "tanh")


def _clip(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`Clip` between constants, of which either may be missing."""
    value = builder.tensor(node.inputs[0])
    low, high = (
        builder.numbers(node, position, default=default)
        for position, default in ((1, -np.inf), (2, np.inf))
    )
    if low.size != 1 or high.size != 1 or not low <= high:
        raise node.unsupported("one number as each limit, the lower one first", (low, high))
    low, high = low.item(), high.item()
    if np.isinf(low):
        return value if np.isinf(high) else value.of(ops.minimum(value.tensor, high))
    if np.isinf(high):
        return value.of(ops.maximum(value.tensor, low))
    return value.of(ops.clip(value.tensor, low, high))


OPERATORS: dict[str, Callable[[KerasGraphBuilder, Node], Tensor]] = {
    "Abs": operation(ops.absolute),
    "Add": arithmetic(keras.layers.Add, shifted_by(1.0)),
    "AveragePool": pooling(AVERAGE, counts_padding=True),
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Celu": elementwise(lambda x, a, _: ops.celu(x, a.get("alpha", 1.0))),
    "Clip": _clip,
    "Concat": concat,
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "Div": divided,
    "Dropout": _dropout,
    "Elu": elementwise(elu),
    "Exp": operation(ops.exp),
    "Flatten": flatten,
    "Gelu": elementwise(_gelu),
    "Gemm": gemm,
    "GlobalAveragePool": global_pooling(GLOBAL_AVERAGE),
    "GlobalMaxPool": global_pooling(GLOBAL_MAXIMUM),
    "HardSigmoid": elementwise(_hard_sigmoid),
    "HardSwish": activation("hard_silu"),
    "Identity": lambda builder, node: builder.tensor(node.inputs[0]),
    "LeakyRelu": _leaky_relu,
    "MatMul": matmul,
    "Max": extreme(keras.layers.Maximum, ops.maximum),
    "MaxPool": pooling(MAXIMUM, counts_padding=False),
    "Mean": merged(keras.layers.Average),
    "Min": extreme(keras.layers.Minimum, ops.minimum),
    "Mish": activation("mish"),
    "Mul": arithmetic(None, scaled_by),
    "Neg": operation(ops.negative),
    "PRelu": _prelu,
    "Pad": pad,
    "ReduceMean": reduced(ops.mean, GLOBAL_AVERAGE),
    "ReduceSum": reduced(ops.sum),
    "Relu": elementwise(lambda x, _, dtype: keras.layers.ReLU(dtype=dtype)(x)),
    "Reshape": reshape,
    "Selu": elementwise(_selu),
    "Sigmoid": activation("sigmoid"),
    "Slice": sliced,
    "Softmax": _softmax,
    "Softplus": activation("softplus"),
    "Softsign": activation("softsign"),
    "Split": split,
    "Squeeze": squeeze,
    "Sub": arithmetic(keras.layers.Subtract, shifted_by(-1.0)),
    "Sum": merged(keras.layers.Add),
    "Tanh": activation("tanh"),
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
"""By type; the domain must be ONNX's own."""

_WITHOUT_BATCH = (
    *("Abs", "Add", "Cast", "Celu", "Clip", "Div", "Dropout", "Elu", "Exp", "Gelu", "HardSigmoid"),
    *("HardSwish", "Identity", "LeakyRelu", "MatMul", "Max", "Mean", "Min", "Mish", "Mul", "Neg"),
    *("PRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sub", "Sum", "Tanh"),
)
"""Operators that read a vector as they read each row of a matrix."""


def rule_of(builder: KerasGraphBuilder, node: Node) -> Callable[[KerasGraphBuilder, Node], Tensor]:
    """How to call an operator, whose inputs may have no batch axis."""
    computed = [builder.tensor(name) for name in node.inputs if builder.is_computed(name)]
    return OPERATORS[node.kind] if all(x.has_batch for x in computed) else _called_on_vectors


def _called_on_vectors(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """An operator on tensors of which one at least has no batch axis."""
    if adds_batch(builder, node):
        return replace(builder.tensor(node.inputs[0]), has_batch=True)
    inputs = [builder.tensor(name) for name in node.inputs if builder.is_computed(name)]
    if node.kind not in _WITHOUT_BATCH or any(value.has_batch for value in inputs):
        raise node.unsupported("inputs with a batch axis: this one is a vector", node.inputs)
    return replace(OPERATORS[node.kind](builder, node), has_batch=False)
