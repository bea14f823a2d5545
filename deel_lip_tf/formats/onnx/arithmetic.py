"""ONNX operators of products and sums: matrices, and arithmetic with constants.

No constant is rounded on the way: what a layer has as a weight is a number of the file, a product
with a number of the file that its type cannot hold is left to be computed, and a quotient stays a
quotient.
"""

import math

import keras
import numpy as np
from keras import ops

from deel_lip_tf.formats.nodes import Node
from deel_lip_tf.formats.onnx.values import Value
from deel_lip_tf.formats.walk import Walk

__all__ = ["arithmetic", "divided", "gemm", "matmul", "merged", "scaled_by", "shifted_by"]


def _dense(walk: Walk, value: Value, kernel: np.ndarray, bias: np.ndarray | None) -> Value:
    layer = keras.layers.Dense(kernel.shape[1], use_bias=bias is not None, dtype=walk.dtype)
    output = layer(value.channels_first())
    layer.set_weights([kernel] if bias is None else [kernel, bias])
    return Value(output)


def matmul(walk: Walk, node: Node) -> Value:
    """`MatMul` by a constant matrix, with the bias that `graph` has found behind it."""
    kernel = walk.numbers(node, 1)
    if kernel.ndim != 2:
        raise node.refuse("a matrix as its second input", kernel.shape)
    bias = walk.numbers(node, 2) if len(node.inputs) > 2 else None
    return _dense(walk, walk.tensor(node.inputs[0]), kernel, bias)


def gemm(walk: Walk, node: Node) -> Value:
    """`alpha x @ kernel + beta bias`.

    A factor that cannot be multiplied into the weights exactly is an argument of a `Rescaling`,
    which counts as it is written.
    """
    node.expect("transA", 0, 0)
    kernel = walk.numbers(node, 1)
    kernel = kernel.T if node.attributes.get("transB", 0) else kernel
    alpha, beta = (float(node.attributes.get(name, 1.0)) for name in ("alpha", "beta"))
    bias = _on_sample(node, walk.numbers(node, 2, default=0.0), kernel.shape[1:], rank=2)
    bias = np.broadcast_to(bias, kernel.shape[1:])
    value, folded = walk.tensor(node.inputs[0]), _times(alpha, kernel)
    if folded is not None and (offset := _times(beta, bias)) is not None:
        return _dense(walk, value, folded, offset)
    scale, kernel = (alpha, kernel) if folded is None else (1.0, folded)
    # Of two float32 numbers, float64 holds the product; Keras would make float32 of a list.
    offset = beta * bias.astype(np.float64)
    layer = keras.layers.Rescaling(scale, offset, dtype=walk.dtype)
    return Value(layer(_dense(walk, value, kernel, None).tensor))


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
            raise node.refuse("a constant that is the same for every sample of the batch", shape)
        constant = constant[0]
    constant = constant.reshape((1,) * (len(sample) - constant.ndim) + constant.shape)
    fits = constant.ndim == len(sample) and all(
        n in (1, size) for n, size in zip(constant.shape, sample, strict=True)
    )
    if not fits:
        raise node.refuse(f"a constant that broadcasts against samples of shape {sample}", shape)
    return constant


def _constant_of(walk: Walk, node: Node, position: int) -> tuple[Value, np.ndarray]:
    """The tensor, and the constant that it meets, in ONNX's order."""
    node.expect("broadcast", 0, 0)  # below version 7, broadcasting began at another axis
    value = walk.tensor(node.inputs[1 - position])
    sample = value.sample
    rank = len(sample) + value.has_batch
    return value, _on_sample(node, walk.numbers(node, position), sample, rank)


def _affine(walk: Walk, value: Value, scale: np.ndarray, shift: np.ndarray) -> Value:
    """`scale x + shift` with constants that broadcast against one sample in ONNX's order.

    A batch normalization of mean 0, variance 1 and epsilon 0: along the channels where the
    constants depend on nothing else, and of the flattened sample otherwise.
    """
    sample = value.sample
    scale, shift = (np.broadcast_to(constant, sample) for constant in (scale, shift))
    per_channel = [_along_channels(constant, sample) for constant in (scale, shift)]
    if all(vector is not None for vector in per_channel):
        tensor = value.channels_last()
        output = _normalized(walk, tensor, *per_channel)
        return Value(output, is_last=value.rank > 2)
    flat = keras.layers.Flatten(dtype=walk.dtype)(value.channels_first())
    output = _normalized(walk, flat, scale.reshape(-1), shift.reshape(-1))
    return Value(keras.layers.Reshape(sample, dtype=walk.dtype)(output))


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

    def call(walk: Walk, node: Node) -> Value:
        is_constant = [walk.is_constant(name) for name in node.inputs]
        if not any(is_constant):
            if merge is None:
                raise node.refuse("one constant input", node.inputs)
            return merged(merge)(walk, node)
        position = is_constant.index(True)
        value, constant = _constant_of(walk, node, position)
        return _affine(walk, value, *to_affine(constant, position))

    return call


def divided(walk: Walk, node: Node) -> Value:
    """`Div` by a constant: a division here too, since reciprocals are rounded."""
    if not walk.is_constant(node.inputs[1]):
        rule = "its constant second" if walk.is_constant(node.inputs[0]) else "one constant input"
        raise node.refuse(rule, node.inputs)
    value, constant = _constant_of(walk, node, 1)
    if not constant.all():
        raise node.refuse("no zero in its constant", constant.shape)
    constant = np.moveaxis(constant, 0, -1) if value.is_last else constant
    return Value(ops.divide(value.tensor, constant.astype(walk.dtype)), value.is_last)


def merged(kind: type):
    """An operator of tensors, with a merge layer of Keras."""

    def call(walk: Walk, node: Node) -> Value:
        node.expect("broadcast", 0, 0)
        if any(walk.is_constant(name) for name in node.inputs):
            raise node.refuse("no constant input", node.inputs)
        values = [walk.tensor(name) for name in node.inputs]
        if len({value.rank for value in values}) > 1:
            # Keras would insert the missing axes behind the batch, ONNX in front of it.
            shapes = [value.sample for value in values]
            raise node.refuse("inputs of as many axes as each other", shapes)
        if len(values) == 1:
            return values[0]
        layer = kind(dtype=walk.dtype)
        if all(value.is_last for value in values):
            return Value(layer([value.tensor for value in values]), is_last=True)
        return Value(layer([value.channels_first() for value in values]))

    return call
