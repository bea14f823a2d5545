"""ONNX operators on images and sequences: convolutions, poolings, padding."""

import math

import keras
import numpy as np

from deel_lip_tf.formats.nodes import Node
from deel_lip_tf.formats.onnx.values import Value
from deel_lip_tf.formats.walk import Walk

__all__ = [
    "AVERAGE",
    "GLOBAL_AVERAGE",
    "GLOBAL_MAXIMUM",
    "MAXIMUM",
    "convolution",
    "global_pooling",
    "pad",
    "pooling",
]

_CONV = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D}
_DEPTHWISE = {1: keras.layers.DepthwiseConv1D, 2: keras.layers.DepthwiseConv2D}
_PADDING = {1: keras.layers.ZeroPadding1D, 2: keras.layers.ZeroPadding2D}
AVERAGE = {1: keras.layers.AveragePooling1D, 2: keras.layers.AveragePooling2D}
MAXIMUM = {1: keras.layers.MaxPooling1D, 2: keras.layers.MaxPooling2D}
GLOBAL_AVERAGE = {1: keras.layers.GlobalAveragePooling1D, 2: keras.layers.GlobalAveragePooling2D}
GLOBAL_MAXIMUM = {1: keras.layers.GlobalMaxPooling1D, 2: keras.layers.GlobalMaxPooling2D}


def _spatial(table: dict, walk: Walk, node: Node) -> tuple[type, Value]:
    """The layer's type for one or two dimensions, and the input channels last."""
    value = walk.tensor(node.inputs[0])
    if value.rank - 2 not in table:
        raise node.refuse("images or sequences as input", tuple(value.tensor.shape))
    return table[value.rank - 2], Value(value.channels_last(), is_last=True)


def _pads(node: Node, size: tuple[int, ...], kernel, strides, dilations) -> str | list:
    """`"valid"`, `"same"` or the pairs of zeros to add along each axis."""
    node.expect("auto_pad", "NOTSET", "NOTSET", "VALID", "SAME_UPPER")
    auto = node.attributes.get("auto_pad", "NOTSET")
    if auto == "SAME_UPPER":
        return "same"
    flat = node.attributes.get("pads", [0] * 2 * len(size)) if auto == "NOTSET" else []
    if not any(flat):
        return "valid"
    pairs = list(zip(flat[: len(size)], flat[len(size) :], strict=True))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    total = [
        max((math.ceil(n / s) - 1) * s + k - n, 0)
        for n, s, k in zip(size, strides, reach, strict=True)
    ]
    same = [(t // 2, t - t // 2) for t in total]
    return "same" if pairs == same else pairs


def _windows(node: Node, value: Value, kernel) -> tuple[list[int], list[int], str | list]:
    size = tuple(value.tensor.shape[1:-1])
    ones = [1] * len(size)
    strides = list(node.attributes.get("strides", ones))
    dilations = list(node.attributes.get("dilations", ones))
    return strides, dilations, _pads(node, size, kernel, strides, dilations)


def _zeros_added(walk: Walk, node: Node, value: Value, pairs: list) -> Value:
    if any(count < 0 for pair in pairs for count in pair):
        raise node.refuse("no negative padding", pairs)
    layer = _PADDING[len(pairs)](
        tuple(pairs) if len(pairs) > 1 else tuple(pairs[0]), dtype=walk.dtype
    )
    return Value(layer(value.tensor), is_last=True)


def convolution(walk: Walk, node: Node) -> Value:
    """`Conv` of one or two dimensions; one group for each channel is a depthwise convolution."""
    plain, value = _spatial(_CONV, walk, node)
    kernel = walk.numbers(node, 1)
    bias = walk.numbers(node, 2) if len(node.inputs) > 2 and node.inputs[2] else None
    kernel = np.moveaxis(kernel, (0, 1), (-1, -2))
    groups, channels = node.attributes.get("group", 1), value.tensor.shape[-1]
    strides, dilations, padding = _windows(node, value, kernel.shape[:-2])
    if max(strides) > 1 and max(dilations) > 1:
        raise node.refuse(
            "no strides together with dilations, which Keras has not got", (strides, dilations)
        )
    if isinstance(padding, list):
        value, padding = _zeros_added(walk, node, value, padding), "valid"
    options = {
        "kernel_size": kernel.shape[:-2],
        "strides": tuple(strides),
        "padding": padding,
        "dilation_rate": tuple(dilations),
        "use_bias": bias is not None,
        "dtype": walk.dtype,
    }
    # TensorFlow's depthwise convolution has the same strides along both axes.
    if groups == channels > 1 and len(set(strides)) == 1:
        multiplier = kernel.shape[-1] // channels
        kernel = kernel.reshape(*kernel.shape[:-2], channels, multiplier)
        layer = _DEPTHWISE[len(strides)](depth_multiplier=multiplier, **options)
    else:
        layer = plain(kernel.shape[-1], groups=groups, **options)
    output = layer(value.tensor)
    layer.set_weights([kernel] if bias is None else [kernel, bias])
    return Value(output, is_last=True)


def pooling(table: dict, counts_padding: bool):
    """The rule of a pooling with the layers of a table.

    `counts_padding`: whether the operator knows `count_include_pad`.
    """

    def call(walk: Walk, node: Node) -> Value:
        node.expect("ceil_mode", 0, 0)
        kind, value = _spatial(table, walk, node)
        kernel = list(node.attributes["kernel_shape"])
        strides, dilations, padding = _windows(node, value, kernel)
        if any(step != 1 for step in dilations):
            raise node.refuse("no dilation", dilations)
        counts_zeros = counts_padding and node.attributes.get("count_include_pad", 0)
        if padding != "valid" and counts_zeros:
            if isinstance(padding, str):
                node.expect("auto_pad", "NOTSET", "NOTSET")
                flat = node.attributes["pads"]
                padding = list(zip(flat[: len(strides)], flat[len(strides) :], strict=True))
            value, padding = _zeros_added(walk, node, value, padding), "valid"
        if isinstance(padding, list):
            raise node.refuse("no padding, or that of Keras's 'same'", padding)
        layer = kind(tuple(kernel), strides=tuple(strides), padding=padding, dtype=walk.dtype)
        return Value(layer(value.tensor), is_last=True)

    return call


def global_pooling(table: dict):
    """The rule of a pooling over whole images, with the layers of a table."""

    def call(walk: Walk, node: Node) -> Value:
        kind, value = _spatial(table, walk, node)
        return Value(kind(keepdims=True, dtype=walk.dtype)(value.tensor), is_last=True)

    return call


def pad(walk: Walk, node: Node) -> Value:
    """`Pad` with zeros, of rows and columns; the pads are an attribute in old versions."""
    node.expect("mode", "constant", "constant")
    zero = walk.constant(node, 2, default=0.0) if len(node.inputs) > 2 else 0.0
    if np.any(zero) or node.attributes.get("value", 0.0) or len(node.inputs) > 3:
        raise node.refuse("zeros as padding, along all axes", node.inputs)
    flat = [int(n) for n in node.attributes.get("pads", ())] or list(walk.constant(node, 1))
    rank = len(flat) // 2
    pairs = [(int(a), int(b)) for a, b in zip(flat[:rank], flat[rank:], strict=True)]
    value = walk.tensor(node.inputs[0])
    if rank == value.rank and rank - 2 in _PADDING and not any(pairs[0]):
        if not any(pairs[1]):
            last = Value(value.channels_last(), is_last=True)
            return _zeros_added(walk, node, last, pairs[2:])
        if not any(pairs[-1]):  # the file itself holds images channels last
            plain = Value(value.channels_first())
            return Value(_zeros_added(walk, node, plain, pairs[1:-1]).tensor)
    raise node.refuse("padding of rows and columns only", pairs)
