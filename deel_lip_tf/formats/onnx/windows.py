"""ONNX operators on images, sequences and volumes: convolutions and poolings."""

import keras
import numpy as np

from deel_lip_tf.formats.build import KerasGraphBuilder, weighted
from deel_lip_tf.formats.graph import Node
from deel_lip_tf.formats.onnx.attributes import Pairs, pairs_of, steps_of
from deel_lip_tf.formats.onnx.shapes import zeros_added
from deel_lip_tf.formats.onnx.tensors import Tensor
from deel_lip_tf.normalizers.convolution import padding_amounts


def _by_dimension(name: str, end: str = "", most: int = 3) -> dict[int, type]:
    """Keras's layers of a name by their number of spatial dimensions."""
    return {n: getattr(keras.layers, f"{name}{n}D{end}") for n in range(1, most + 1)}


_CONV = _by_dimension("Conv")
_TRANSPOSED = _by_dimension("Conv", "Transpose")
_DEPTHWISE = _by_dimension("DepthwiseConv", most=2)
_CROPPING = _by_dimension("Cropping")
AVERAGE = _by_dimension("AveragePooling")
MAXIMUM = _by_dimension("MaxPooling")
GLOBAL_AVERAGE = _by_dimension("GlobalAveragePooling")
GLOBAL_MAXIMUM = _by_dimension("GlobalMaxPooling")


def _spatial(table: dict, builder: KerasGraphBuilder, node: Node) -> tuple[type, Tensor]:
    """The layer's type for so many dimensions, and the input channels last."""
    value = builder.tensor(node.inputs[0])
    if value.rank - 2 not in table:
        raise node.unsupported("images or sequences as input", tuple(value.tensor.shape))
    return table[value.rank - 2], Tensor(value.channels_last(), "NHWC")


def _pads(node: Node, value: Tensor, kernel, strides, dilations) -> tuple[str | None, Pairs]:
    """Keras's name of the padding, if it has one, and the zeros before and behind each axis."""
    node.expect("auto_pad", "NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    size = value.tensor.shape[1:-1]
    same = [padding_amounts(*of_axis, "same") for of_axis in zip(size, reach, strides, strict=True)]
    pairs = {
        "NOTSET": pairs_of(node, len(size)),
        "VALID": [(0, 0)] * len(size),
        "SAME_UPPER": same,
        "SAME_LOWER": [pair[::-1] for pair in same],
    }[node.attributes.get("auto_pad", "NOTSET")]
    if min(map(min, pairs)) < 0:
        raise node.unsupported("no negative padding", pairs)
    if not any(map(any, pairs)):
        return "valid", pairs
    return ("same" if pairs == same else None), pairs


def convolution(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`Conv`; one group for each channel is a depthwise convolution."""
    plain, value = _spatial(_CONV, builder, node)
    kernel = np.moveaxis(builder.numbers(node, 1), (0, 1), (-1, -2))
    window, rank = kernel.shape[:-2], kernel.ndim - 2
    groups, channels = node.attributes.get("group", 1), value.tensor.shape[-1]
    strides, dilations = steps_of(node, len(window))
    if max(strides) > 1 and max(dilations) > 1:
        raise node.unsupported(
            "no strides together with dilations, which Keras has not got", (strides, dilations)
        )
    if rank not in _DEPTHWISE and groups > 1:
        raise node.unsupported("one group, as TensorFlow has for volumes", groups)
    padding, pairs = _pads(node, value, window, strides, dilations)
    if padding is None:
        value, padding = zeros_added(builder, value.tensor, pairs), "valid"
    options = {"padding": padding, "strides": strides, "dilation_rate": dilations}
    # TensorFlow's depthwise convolution has the same strides along both axes.
    if groups == channels > 1 and len(set(strides)) == 1:
        multiplier = kernel.shape[-1] // channels
        kernel = kernel.reshape(*window, channels, multiplier)
        return _convolved(builder, node, value, kernel, _DEPTHWISE[rank], {
            "depth_multiplier": multiplier, **options,
        })  # fmt: skip
    options |= {"filters": kernel.shape[-1], "groups": groups}
    return _convolved(builder, node, value, kernel, plain, options)


def _convolved(builder, node: Node, value: Tensor, kernel, kind: type, options: dict) -> Tensor:
    """The output of a layer of a kernel, and of a bias if the operator has one."""
    bias = builder.numbers(node, 2) if len(node.inputs) > 2 and node.inputs[2] else None
    options |= {"kernel_size": kernel.shape[:-2], "use_bias": bias is not None}
    layer = kind(dtype=builder.dtype, **options)
    return Tensor(weighted(layer, value.tensor, kernel, bias), "NHWC")


def transposed_convolution(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`ConvTranspose`: that of Keras without padding, of which the border is cut off."""
    node.expect("auto_pad", "NOTSET", "NOTSET", "VALID")
    node.expect("group", 1, 1)
    node.expect("output_shape", None, None)
    kind, value = _spatial(_TRANSPOSED, builder, node)
    kernel = np.moveaxis(builder.numbers(node, 1), (0, 1), (-1, -2))
    window, rank = kernel.shape[:-2], kernel.ndim - 2
    strides, dilations = steps_of(node, len(window))
    if max(dilations) > 1:
        raise node.unsupported("no dilation", dilations)
    cuts = pairs_of(node, rank)
    more = node.attributes.get("output_padding", [0] * rank)
    options = {"filters": kernel.shape[-2], "strides": strides, "padding": "valid"}
    output = _convolved(builder, node, value, kernel, kind, options)
    # Keras makes at least `stride` entries of each one, and ONNX as many as the window has.
    rows = [
        (n - 1) * s + k for n, s, k in zip(value.tensor.shape[1:-1], strides, window, strict=True)
    ]
    made = output.tensor.shape[1:-1]
    crops = [
        (begin, there - full - extra + end)
        for (begin, end), full, extra, there in zip(cuts, rows, more, made, strict=True)
    ]
    if min(map(min, crops)) < 0:
        raise node.unsupported("pads of at least 0, no smaller than output_padding", (cuts, more))
    if not any(map(any, crops)):
        return output
    amounts = tuple(crops) if rank > 1 else crops[0]
    return output.of(_CROPPING[rank](amounts, dtype=builder.dtype)(output.tensor))


def pooling(table: dict, counts_padding: bool):
    """The rule of a pooling with the layers of a table.

    `counts_padding`: whether the operator knows `count_include_pad`.
    """

    def call(builder: KerasGraphBuilder, node: Node) -> Tensor:
        node.expect("ceil_mode", 0, 0)
        kind, value = _spatial(table, builder, node)
        window = tuple(node.attributes["kernel_shape"])
        strides, dilations = steps_of(node, len(window))
        if max(dilations) > 1:
            raise node.unsupported("no dilation", dilations)
        padding, pairs = _pads(node, value, window, strides, dilations)
        if padding != "valid" and counts_padding and node.attributes.get("count_include_pad", 0):
            value, padding = zeros_added(builder, value.tensor, pairs), "valid"
        if padding is None:
            raise node.unsupported("no padding, or that of Keras's 'same'", pairs)
        layer = kind(window, strides=strides, padding=padding, dtype=builder.dtype)
        return value.of(layer(value.tensor))

    return call


def global_pooling(table: dict):
    """The rule of a pooling over whole images, with the layers of a table."""

    def call(builder: KerasGraphBuilder, node: Node) -> Tensor:
        kind, value = _spatial(table, builder, node)
        return value.of(kind(keepdims=True, dtype=builder.dtype)(value.tensor))

    return call
