"""TensorFlow operators on images: convolutions and poolings."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import keras
import numpy as np

from deel_lip_tf.formats.build import KerasGraphBuilder, weighted
from deel_lip_tf.formats.graph import BATCH, Node
from deel_lip_tf.formats.saved_model.tensors import Blocks, Tensor


def _spatial(node: Node, key: str) -> tuple[int, int]:
    """An attribute along rows and columns."""
    batch, *sizes, channels = node.attributes.get(key) or [1, 1, 1, 1]
    if (batch, channels) != (1, 1):
        raise node.unsupported(f"no {key} along the batch and the channels", node.attributes[key])
    return tuple(sizes)


def _zeros_added(builder: KerasGraphBuilder, value: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
    if not any(count for pair in pairs for count in pair):
        return value
    return value.of(keras.layers.ZeroPadding2D(tuple(pairs), dtype=builder.dtype)(value.tensor))


def _padding(builder: KerasGraphBuilder, node: Node, value: Tensor) -> tuple[Tensor, str]:
    """The value with explicit zeros around it, and the name of the padding that is left."""
    node.expect("data_format", "NHWC", "NHWC")
    kind = node.attributes["padding"]
    if kind != "EXPLICIT":
        return value, kind.lower()
    flat = node.attributes["explicit_paddings"]
    return _zeros_added(builder, value, list(zip(flat[2:6:2], flat[3:6:2], strict=True))), "valid"


def convolution(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`Conv2D`; a kernel for fewer channels than there are makes groups of them."""
    kernel = builder.constant(node, 1)
    channels = builder.tensor(node.inputs[0]).sample[-1]
    groups, rest = divmod(channels, kernel.shape[2])
    if rest or kernel.shape[3] % groups:
        raise node.unsupported(f"a kernel for {channels} channels", kernel.shape)
    options = {"filters": kernel.shape[-1], "groups": groups}
    return _convolved(builder, node, keras.layers.Conv2D, kernel, options)


def depthwise_convolution(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`DepthwiseConv2dNative`."""
    kernel = builder.constant(node, 1)
    options = {"depth_multiplier": kernel.shape[-1]}
    return _convolved(builder, node, keras.layers.DepthwiseConv2D, kernel, options)


def transposed_convolution(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`Conv2DBackpropInput`, the adjoint of a convolution of images of a given shape."""
    (batch, *sizes), kernel = (builder.constant(node, position) for position in (0, 1))
    value = builder.tensor(node.inputs[2])
    value.samples()
    node.expect("padding", "VALID", "VALID", "SAME")
    node.expect("data_format", "NHWC", "NHWC")
    kind = partial(
        keras.layers.Conv2DTranspose, filters=kernel.shape[2], kernel_size=kernel.shape[:2]
    )
    strides, dilation = _spatial(node, "strides"), _spatial(node, "dilations")
    padding = node.attributes["padding"].lower()
    output = _layer_called(builder, kind, kernel, value, strides, dilation, padding)
    if batch not in (BATCH, 1) or tuple(sizes) != output.sample:
        raise node.unsupported(f"an output of shape {output.sample} for each sample", sizes)
    return output


def _convolved(
    builder: KerasGraphBuilder, node: Node, kind: type, kernel: np.ndarray, options: dict
) -> Tensor:
    value = builder.tensor(node.inputs[0])
    strides, dilation = _spatial(node, "strides"), _spatial(node, "dilations")
    make = partial(
        _layer_called, builder, partial(kind, kernel_size=kernel.shape[:2], **options), kernel
    )
    if value.blocks is not None:
        is_plain = strides == dilation == (1, 1) and node.attributes["padding"] == "VALID"
        if not is_plain or value.blocks.convolved is not None or value.rank != 4:
            raise node.unsupported("no strides, padding or dilation in blocks", strides)
        return replace(value, blocks=replace(value.blocks, convolved=make))
    if max(strides) > 1 and max(dilation) > 1:
        raise node.unsupported("no strides together with a dilation", strides)
    value.samples()
    value, padding = _padding(builder, node, value)
    return make(value, strides, dilation, padding)


def _layer_called(builder, kind: Callable, kernel, value, strides, dilation, padding, bias=None):
    """The convolution by a kernel, with a bias if there is one."""
    layer = kind(
        strides=strides,
        dilation_rate=dilation,
        padding=padding,
        use_bias=bias is not None,
        dtype=builder.dtype,
    )
    output = value.of(weighted(layer, value.tensor, kernel, bias))
    if bias is not None:
        return output
    again = partial(_layer_called, builder, kind, kernel, value, strides, dilation, padding)
    return replace(output, with_bias=again)


def space_to_batch(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`SpaceToBatchND` of images, with which a dilated convolution begins."""
    value = builder.tensor(node.inputs[0])
    value.samples()
    block, pads = (builder.constant(node, position).tolist() for position in (1, 2))
    if value.rank != 4 or len(block) != 2:
        raise node.unsupported("images, and blocks of rows and columns", block)
    return replace(value, with_bias=None, blocks=Blocks(tuple(block), [tuple(p) for p in pads]))


def batch_to_space(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`BatchToSpaceND`, with which a dilated convolution ends.

    Cutting `n` rows off the result of a convolution without strides and padding is the same as
    cutting `n` rows off the image, which here are of the zeros that were added.
    """
    value = builder.tensor(node.inputs[0])
    block, crops = (builder.constant(node, position).tolist() for position in (1, 2))
    blocks = value.blocks
    if blocks is None or blocks.convolved is None or tuple(block) != blocks.block:
        raise node.unsupported("blocks of a convolution as its input", block)
    pads = [(a - c, b - d) for (a, b), (c, d) in zip(blocks.pads, crops, strict=True)]
    if min(count for pair in pads for count in pair) < 0:
        raise node.unsupported("no crops that are wider than the padding", crops)
    whole = _zeros_added(builder, replace(value, blocks=None), pads)
    return blocks.convolved(whole, (1, 1), blocks.block, "valid")


def _pooling(kind: type):
    def call(builder: KerasGraphBuilder, node: Node) -> Tensor:
        node.expect("padding", "VALID", "VALID", "SAME")
        value = builder.tensor(node.inputs[0])
        value.samples()
        value, padding = _padding(builder, node, value)
        size, strides = _spatial(node, "ksize"), _spatial(node, "strides")
        return value.of(
            kind(size, strides=strides, padding=padding, dtype=builder.dtype)(value.tensor)
        )

    return call


average_pooling = _pooling(keras.layers.AveragePooling2D)
max_pooling = _pooling(keras.layers.MaxPooling2D)
