"""ONNX operators on images, sequences and volumes as primitives."""

import numpy as np

from deel_lip_tf.formats.graph import Node
from deel_lip_tf.formats.onnx.attributes import (
    IN_FILES,
    Pairs,
    check_normalization,
    pairs_of,
    steps_of,
)
from deel_lip_tf.formats.onnx.lowering.values import Value, Values
from deel_lip_tf.semantics.ir.decompositions import (
    convolved,
    global_windows,
    grouped,
    maximum_of_last,
    means_of_windows,
    pooling_windows,
    reshaped,
    standardized,
    standardizing,
)
from deel_lip_tf.semantics.ir.primitives import AxisProducts


def _geometry(node: Node, window: tuple[int, ...]) -> tuple[tuple, tuple, Pairs]:
    """Strides, dilations, and the pads of each axis.

    Raises:
        UnsupportedOperatorError: pads that depend on the size of the image, or are negative.
    """
    node.expect("auto_pad", "NOTSET", "NOTSET", "VALID")
    node.expect("ceil_mode", 0, 0)
    is_valid = node.attributes.get("auto_pad", "NOTSET") == "VALID"
    pads = [(0, 0)] * len(window) if is_valid else pairs_of(node, len(window))
    if min(map(min, pads)) < 0:
        raise node.unsupported("no negative padding", pads)
    return *steps_of(node, len(window)), pads


def convolution(values: Values, node: Node) -> list[Value]:
    """`Conv`, in groups of channels or not."""
    kernel, bias = values.numbers(node, 1), values.optional(node, 2)
    kernel = np.moveaxis(kernel, (0, 1), (-1, -2))
    index, groups = values.last(node), node.attributes.get("group", 1)
    strides, dilations, pads = _geometry(node, kernel.shape[:-2])
    if values.builder.shape(index)[-1] != kernel.shape[-2] * groups:
        raise node.unsupported("a kernel of as many channels as the image", kernel.shape)
    geometry = strides, dilations, tuple(pads)
    index = convolved(values.builder, index, grouped(kernel, groups), *geometry, bias)
    return [values.image(index)]


def batch_normalization(values: Values, node: Node) -> list[Value]:
    """`BatchNormalization` with its stored statistics."""
    check_normalization(node, values.version)
    gamma, beta, mean, variance = (values.numbers(node, position) for position in (1, 2, 3, 4))
    epsilon = float(node.attributes.get("epsilon", IN_FILES(1e-5)))
    value = values.value(node)
    if not value.has_batch:
        raise node.unsupported("a batch of one", value.shape)
    is_image = len(value.shape) > 2
    index = values.last(node) if is_image else values.first(value)
    scale = standardizing(variance, epsilon, gamma)
    if not np.isfinite(scale).all():
        raise node.unsupported("variances of more than -epsilon", node.inputs[4])
    index = standardized(values.builder, index, mean, scale, beta)
    return [values.image(index) if is_image else Value(index, value.shape)]


def maximum_pooling(values: Values, node: Node) -> list[Value]:
    """`MaxPool`; places beyond the border do not count."""
    if any(node.further_outputs):
        raise node.unsupported("one output", node.further_outputs)
    window, index = tuple(node.attributes["kernel_shape"]), values.last(node)
    strides, pads = _of_pooling(node, window)
    windows = pooling_windows(values.builder, index, window, strides, pads)
    return [values.image(maximum_of_last(values.builder, windows))]


def average_pooling(values: Values, node: Node) -> list[Value]:
    """`AveragePool`; places beyond the border count where `count_include_pad` says so."""
    window, index = tuple(node.attributes["kernel_shape"]), values.last(node)
    strides, pads = _of_pooling(node, window)
    counts = bool(node.attributes.get("count_include_pad", 0))
    axes = zip(values.builder.shape(index)[:-1], window, strides, pads, strict=True)
    matrices = [means_of_windows(*axis, counts).T for axis in axes]
    return [values.image(values.builder.affine(index, AxisProducts((*matrices, None))))]


def _of_pooling(node: Node, window: tuple[int, ...]) -> tuple[tuple, Pairs]:
    strides, dilations, pads = _geometry(node, window)
    if max(dilations) > 1 or any(
        max(pair) >= size for pair, size in zip(pads, window, strict=True)
    ):
        raise node.unsupported("no dilation, and pads smaller than the window", node.attributes)
    return strides, pads


def global_average(values: Values, node: Node) -> list[Value]:
    """`GlobalAveragePool`."""
    index = values.last(node)
    sizes = values.builder.shape(index)[:-1]
    matrices = [np.full((size, 1), 1.0 / size) for size in sizes]
    return [values.image(values.builder.affine(index, AxisProducts((*matrices, None))))]


def global_maximum(values: Values, node: Node) -> list[Value]:
    """`GlobalMaxPool`."""
    index = values.last(node)
    *sizes, channels = values.builder.shape(index)
    largest = maximum_of_last(values.builder, global_windows(values.builder, index))
    return [values.image(reshaped(values.builder, largest, (*[1] * len(sizes), channels)))]
