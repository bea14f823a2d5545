"""ONNX operators of products and sums: matrices, and arithmetic with constants.

No constant is rounded on the way: what a layer has as a weight is a number of the file, a product
with a number of the file that its type cannot hold is left to be computed, and a quotient stays a
quotient.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import keras
import numpy as np
from keras import ops

from deel_lip_tf.formats.build import KerasGraphBuilder, weighted
from deel_lip_tf.formats.graph import Node
from deel_lip_tf.formats.onnx.shapes import axes_of
from deel_lip_tf.formats.onnx.tensors import Tensor


def _dense(
    builder: KerasGraphBuilder, value: Tensor, kernel: np.ndarray, bias: np.ndarray | None
) -> Tensor:
    layer = keras.layers.Dense(kernel.shape[1], use_bias=bias is not None, dtype=builder.dtype)
    return Tensor(weighted(layer, value.channels_first(), kernel, bias))


def matmul(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`MatMul` with a constant matrix, and with the bias that `graph` has found behind it."""
    if builder.is_constant(node.inputs[0]) and builder.is_computed(node.inputs[1]):
        return _from_left(builder, node)
    kernel = builder.numbers(node, 1)
    if kernel.ndim != 2:
        raise node.unsupported("a matrix as its second input", kernel.shape)
    bias = builder.numbers(node, 2) if len(node.inputs) > 2 else None
    return _dense(builder, builder.tensor(node.inputs[0]), kernel, bias)


def _from_left(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`kernel @ x` of a vector, or of the matrices of a batch."""
    kernel, value = builder.numbers(node, 0), builder.tensor(node.inputs[1])
    if kernel.ndim != 2:
        raise node.unsupported("a matrix as its first input", kernel.shape)
    if not value.has_batch:
        return _dense(builder, value, kernel.T, None)
    if value.rank < 3:
        raise node.unsupported("a constant as input 1: this product mixes samples", node.inputs[1])
    turned = keras.layers.Permute(
        (*range(1, value.rank - 2), value.rank - 1, value.rank - 2), dtype=builder.dtype
    )
    product = _dense(builder, Tensor(turned(value.channels_first())), kernel.T, None)
    return Tensor(turned(product.tensor))


def gemm(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`alpha x @ kernel + beta bias`.

    A factor that cannot be multiplied into the weights exactly is an argument of a `Rescaling`,
    which counts as it is written.
    """
    node.expect("transA", 0, 0)
    kernel = builder.numbers(node, 1)
    kernel = kernel.T if node.attributes.get("transB", 0) else kernel
    alpha, beta = (float(node.attributes.get(name, 1.0)) for name in ("alpha", "beta"))
    bias = _on_sample(node, builder.numbers(node, 2, default=0.0), kernel.shape[1:], rank=2)
    bias = np.broadcast_to(bias, kernel.shape[1:])
    value, folded = builder.tensor(node.inputs[0]), _times(alpha, kernel)
    if folded is not None and (offset := _times(beta, bias)) is not None:
        return _dense(builder, value, folded, offset)
    scale, kernel = (alpha, kernel) if folded is None else (1.0, folded)
    # Of two float32 numbers, float64 holds the product; Keras would make float32 of a list.
    offset = beta * bias.astype(np.float64)
    layer = keras.layers.Rescaling(scale, offset, dtype=builder.dtype)
    return Tensor(layer(_dense(builder, value, kernel, None).tensor))


def _times(factor: float, array: np.ndarray) -> np.ndarray | None:
    """The product in the type of the array, or `None` where it might be rounded."""
    if factor == 0.0:
        return np.zeros_like(array)
    if abs(math.frexp(factor)[0]) != 0.5:  # no power of two
        return None
    product = array * array.dtype.type(factor)
    return product if (product / array.dtype.type(factor) == array).all() else None


def _on_sample(node: Node, constant: np.ndarray, sample: tuple[int, ...], rank: int) -> np.ndarray:
    """A constant that is the same for every sample, with as many axes as a sample has.

    Raises:
        ValueError: samples get different numbers, or the constant is larger than a sample.
    """
    shape = constant.shape
    if len(shape) == rank == len(sample) + 1:
        if not shape[0] or (constant != constant[:1]).any():
            raise node.unsupported(
                "a constant that is the same for every sample of the batch", shape
            )
        constant = constant[0]
    constant = constant.reshape((1,) * (len(sample) - constant.ndim) + constant.shape)
    fits = constant.ndim == len(sample) and all(
        n in (1, size) for n, size in zip(constant.shape, sample, strict=True)
    )
    if not fits:
        raise node.unsupported(
            f"a constant that broadcasts against samples of shape {sample}", shape
        )
    return constant


def constant_of(builder: KerasGraphBuilder, node: Node, position: int) -> tuple[Tensor, np.ndarray]:
    """The tensor, and the constant that it meets, in ONNX's order."""
    node.expect("broadcast", 0, 0)  # below version 7, broadcasting began at another axis
    value = builder.tensor(node.inputs[1 - position])
    sample = value.sample
    rank = len(sample) + value.has_batch
    return value, _on_sample(node, builder.numbers(node, position), sample, rank)


def _affine(
    builder: KerasGraphBuilder, value: Tensor, scale: np.ndarray, shift: np.ndarray
) -> Tensor:
    """`scale x + shift` with constants that broadcast against one sample in ONNX's order.

    A batch normalization of mean 0, variance 1 and epsilon 0: along the channels where the
    constants depend on nothing else, and of the flattened sample otherwise.
    """
    sample = value.sample
    scale, shift = (np.broadcast_to(constant, sample) for constant in (scale, shift))
    vectors = [_along_channels(constant, sample) for constant in (scale, shift)]
    per_channel = [vector for vector in vectors if vector is not None]
    if len(per_channel) == 2:
        tensor = value.channels_last()
        output = _normalized(builder, tensor, *per_channel)
        return Tensor(output, "NHWC" if value.rank > 2 else "NCHW")
    flat = keras.layers.Flatten(dtype=builder.dtype)(value.channels_first())
    output = _normalized(builder, flat, scale.reshape(-1), shift.reshape(-1))
    return Tensor(keras.layers.Reshape(sample, dtype=builder.dtype)(output))


def _along_channels(constant: np.ndarray, sample: tuple[int, ...]) -> np.ndarray | None:
    first = constant.reshape(sample[0], -1)
    if len(sample) == 1:
        return constant
    return first[:, 0] if (first == first[:, :1]).all() else None


def _normalized(builder: KerasGraphBuilder, tensor, scale: np.ndarray, shift: np.ndarray):
    layer = keras.layers.BatchNormalization(epsilon=0.0, dtype=builder.dtype)
    return weighted(layer, tensor, scale, shift, np.zeros(len(scale)), np.ones(len(scale)))


def scaled_by(constant: np.ndarray, position: int) -> tuple[np.ndarray, np.ndarray]:
    """`(scale, shift)` of a product."""
    return constant, np.zeros(())


def shifted_by(sign: float):
    """`(scale, shift)` of a sum (`sign` 1), or of a difference (-1) whose operands keep order."""

    def terms(constant: np.ndarray, position: int) -> tuple[np.ndarray, np.ndarray]:
        scale, shift = (1.0, sign) if position == 1 else (sign, 1.0)
        return np.asarray(scale), shift * constant

    return terms


def arithmetic(merge, to_affine):
    """An operator of two inputs: a merge of tensors, or an affine map where one is constant."""

    def call(builder: KerasGraphBuilder, node: Node) -> Tensor:
        is_constant = [builder.is_constant(name) for name in node.inputs]
        if not any(is_constant):
            if merge is None:
                raise node.unsupported("one constant input", node.inputs)
            return merged(merge)(builder, node)
        position = is_constant.index(True)
        value, constant = constant_of(builder, node, position)
        if not value.sample:
            raise node.unsupported("a tensor with an axis behind the batch", node.inputs)
        return _affine(builder, value, *to_affine(constant, position))

    return call


def divided(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`Div` by a constant: a division here too, since reciprocals are rounded."""
    if not builder.is_constant(node.inputs[1]):
        is_first = builder.is_constant(node.inputs[0])
        rule = "its constant second" if is_first else "one constant input"
        raise node.unsupported(rule, node.inputs)
    value, constant = constant_of(builder, node, 1)
    if not constant.all():
        raise node.unsupported("no zero in its constant", constant.shape)
    return value.of(ops.divide(value.tensor, value.beside(constant)))


def extreme(merge: type, function: Callable):
    """`Max` or `Min`: `merge` of tensors, `function` of one with a constant."""

    def call(builder: KerasGraphBuilder, node: Node) -> Tensor:
        is_constant = [builder.is_constant(name) for name in node.inputs]
        if sorted(is_constant) != [False, True]:
            return merged(merge)(builder, node)
        value, constant = constant_of(builder, node, is_constant.index(True))
        return value.of(function(value.tensor, value.beside(constant)))

    return call


def merged(kind: type):
    """An operator of tensors, with a merge layer of Keras."""

    def call(builder: KerasGraphBuilder, node: Node) -> Tensor:
        node.expect("broadcast", 0, 0)
        if any(builder.is_constant(name) for name in node.inputs):
            raise node.unsupported("no constant input", node.inputs)
        values = [builder.tensor(name) for name in node.inputs]
        if len({value.rank for value in values}) > 1:
            # Keras would insert the missing axes behind the batch, ONNX in front of it.
            shapes = [value.sample for value in values]
            raise node.unsupported("inputs of as many axes as each other", shapes)
        if len(values) == 1:
            return values[0]
        layer = kind(dtype=builder.dtype)
        if all(value.layout == "NHWC" for value in values):
            return Tensor(layer([value.tensor for value in values]), "NHWC")
        return Tensor(layer([value.channels_first() for value in values]))

    return call


def reduced(function: Callable, of_images: Mapping[int, type] = MappingProxyType({})):
    """A sum or a mean over axes behind the batch.

    `of_images`: the layers that reduce all axes of an image but its channels.
    """

    def call(builder: KerasGraphBuilder, node: Node) -> Tensor:
        value = builder.tensor(node.inputs[0])
        has_axes = len(node.inputs) > 1 and builder.constant(node, 1, default=[]).size > 0
        if not has_axes and node.attributes.get("noop_with_empty_axes", 0):
            return value
        axes = axes_of(builder, node, value.rank) if has_axes else [0]
        if 0 in axes:
            raise node.unsupported("axes behind the batch", axes)
        keeps_axes = bool(node.attributes.get("keepdims", 1))
        if sorted(axes) == list(range(2, value.rank)) and value.rank - 2 in of_images:
            layer = of_images[value.rank - 2](keepdims=keeps_axes, dtype=builder.dtype)
            return Tensor(layer(value.channels_last()), "NHWC" if keeps_axes else "NCHW")
        return Tensor(function(value.channels_first(), axis=tuple(axes), keepdims=keeps_axes))

    return call
