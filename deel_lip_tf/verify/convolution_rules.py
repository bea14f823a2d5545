"""Rules of the layers that slide a kernel: padding, then a "valid" convolution, channels last."""

import numpy as np
import tensorflow as tf
from keras import ops

from deel_lip_tf import layers as lip
from deel_lip_tf.bounds.evaluation.copies import as_computed_with
from deel_lip_tf.layers.convolution.padding import fold
from deel_lip_tf.normalizers.convolution import EXTENDING, padded_indices, padding_amounts
from deel_lip_tf.verify.comparators import channels_last, last_if_first
from deel_lip_tf.verify.program import Convolution
from deel_lip_tf.verify.rule_helpers import Unsupported, effective_kernel

__all__ = ["convolution", "depthwise", "separable", "transposed"]


def convolution(lowering, layer, inputs):
    """Convolutions from all channels of a group to all its filters."""
    kernel = _ungrouped(effective_kernel(layer), layer.groups)
    return _slid(lowering, layer, inputs[0], kernel, layer.bias, _full)


def _ungrouped(kernel: np.ndarray, groups: int) -> np.ndarray:
    """The kernel of all channels, with zeros between the groups."""
    inputs, filters = kernel.shape[-2], kernel.shape[-1] // groups
    full = np.zeros((*kernel.shape[:-2], inputs * groups, kernel.shape[-1]))
    for group in range(groups):
        outputs = slice(group * filters, (group + 1) * filters)
        full[..., group * inputs : (group + 1) * inputs, outputs] = kernel[..., outputs]
    return full


def depthwise(lowering, layer, inputs):
    """Convolutions of each channel by itself."""
    if len(set(_tuple(layer.strides, len(layer.kernel_size)))) > 1:
        raise Unsupported("TensorFlow cannot run it: its strides differ from each other")
    return _slid(lowering, layer, inputs[0], effective_kernel(layer), layer.bias, _depthwise)


def separable(lowering, layer, inputs):
    """A depthwise convolution, then one of single pixels."""
    first = effective_kernel(layer, "depthwise_kernel")
    second = effective_kernel(layer, "pointwise_kernel")
    index = _slid(lowering, layer, inputs[0], first, None, _depthwise)
    index = channels_last(lowering.builder, index, layer)
    bias = None if layer.bias is None else as_computed_with(layer, layer.bias)
    index = lowering.builder.affine([index], lambda t, k: _full(t[0], k, 1, 1), second, bias)
    return last_if_first(lowering.builder, index, layer)


def _slid(lowering, layer, index: int, kernel: np.ndarray, bias, operation) -> int:
    builder = lowering.builder
    index = channels_last(builder, index, layer)
    rank = kernel.ndim - 2
    strides, dilation = _tuple(layer.strides, rank), _tuple(layer.dilation_rate, rank)
    index, amounts = _padded(builder, index, layer, kernel.shape[:rank], strides, dilation)

    def operator(tensors, k):
        padded = tf.pad(tensors[0], [(0, 0), *amounts, (0, 0)]) if np.any(amounts) else tensors[0]
        return operation(padded, k, strides, dilation)

    geometry = None
    if rank == 2 and operation is _full:
        written_out = tf.constant(_written_out(kernel, dilation), tf.float64)
        geometry = Convolution(written_out, strides, tuple(before for before, _ in amounts))
    bias = None if bias is None else as_computed_with(layer, bias)
    index = builder.affine([index], operator, kernel, bias, convolution=geometry)
    return last_if_first(builder, index, layer)


def _padded(builder, index: int, layer, kernel_size, strides, dilation):
    """`(node, zeros before and after each axis)`; borders that are copied are a node."""
    sizes = builder.shape(index)[:-1]
    rank, padding = len(kernel_size), layer.padding
    if isinstance(layer, lip.PadConv2D) and padding not in ("same", "valid"):
        amounts = layer.amounts
    elif padding in EXTENDING:
        amounts = tuple(padding_amounts(None, k, 1, padding) for k in kernel_size)
    else:
        reach = [(k - 1) * d + 1 for k, d in zip(kernel_size, dilation, strict=True)]
        axes = zip(sizes, reach, strides, strict=True)
        return index, tuple(padding_amounts(*axis, padding) for axis in axes)
    if padding not in EXTENDING:
        return index, amounts
    copied = [padded_indices(n, *a, padding) for n, a in zip(sizes, amounts, strict=True)]

    def operator(tensors, _):
        extended = tensors[0]
        for axis, indices in enumerate(copied):
            extended = tf.gather(extended, indices, axis=axis + 1)
        return extended

    return builder.affine([index], operator), ((0, 0),) * rank


def _written_out(kernel: np.ndarray, dilation: tuple[int, ...]) -> np.ndarray:
    """The kernel with the zeros of its dilation."""
    sizes = [(k - 1) * d + 1 for k, d in zip(kernel.shape, dilation, strict=False)]
    full = np.zeros((*sizes, *kernel.shape[-2:]))
    full[tuple(slice(None, None, d) for d in dilation)] = kernel
    return full


def _full(tensor, kernel, strides, dilation):
    return ops.conv(tensor, kernel, strides, "valid", "channels_last", dilation)


def _depthwise(tensor, kernel, strides, dilation):
    return ops.depthwise_conv(tensor, kernel, strides, "valid", "channels_last", dilation)


def transposed(lowering, layer, inputs):
    """Transposed convolutions; those of this library may fold their border back."""
    builder, kernel = lowering.builder, effective_kernel(layer)
    index = channels_last(builder, inputs[0], layer)
    rank = kernel.ndim - 2
    strides = _tuple(layer.strides, rank)
    if any(rate != 1 for rate in _tuple(layer.dilation_rate, rank)):
        raise Unsupported("a dilated transposed convolution has no rule")
    folds = layer.padding in EXTENDING
    arguments = {
        "strides": strides,
        "padding": "valid" if folds else layer.padding,
        "output_padding": tuple(s - 1 for s in strides) if folds else layer.output_padding,
        "data_format": "channels_last",
    }
    amounts = tuple(
        padding_amounts(None, k, 1, layer.padding) for k in kernel.shape[:rank] if folds
    )

    def operator(tensors, k):
        outputs = ops.conv_transpose(tensors[0], k, **arguments)
        return fold(outputs, amounts, layer.padding, "channels_last") if folds else outputs

    bias = None if layer.bias is None else as_computed_with(layer, layer.bias)
    index = builder.affine([index], operator, kernel, bias)
    return last_if_first(builder, index, layer)


def _tuple(value, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)
