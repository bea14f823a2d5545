"""How the layers that slide a kernel are lowered: padding, then a convolution, channels last."""

import numpy as np

from deel_lip_tf import layers as lip
from deel_lip_tf.normalizers.convolution import EXTENDING, padded_indices, padding_amounts
from deel_lip_tf.semantics.copies import as_computed_with, effective_kernel
from deel_lip_tf.semantics.errors import UnsupportedLayerError
from deel_lip_tf.semantics.ir.decompositions import channels_last, last_if_first
from deel_lip_tf.semantics.ir.primitives import Adjoint, Conv, Gather, MatMul

__all__ = ["convolution", "depthwise", "separable", "transposed"]


def convolution(lowering, layer, inputs):
    """Convolutions from all channels of a group to all its filters."""
    kernel = effective_kernel(layer)
    # The outputs are split into consecutive groups, each of which sees its share of the inputs.
    grouped = kernel.reshape(*kernel.shape[:-1], layer.groups, kernel.shape[-1] // layer.groups)
    return _slid(lowering, layer, inputs[0], np.moveaxis(grouped, -2, -3), layer.bias)


def depthwise(lowering, layer, inputs):
    """Convolutions of each channel by itself."""
    if len(set(_tuple(layer.strides, len(layer.kernel_size)))) > 1:
        raise UnsupportedLayerError("TensorFlow cannot run it: its strides differ from each other")
    return _slid(lowering, layer, inputs[0], effective_kernel(layer)[..., None, :], layer.bias)


def separable(lowering, layer, inputs):
    """A depthwise convolution, then one of single pixels."""
    builder = lowering.builder
    first = effective_kernel(layer, "depthwise_kernel")
    second = effective_kernel(layer, "pointwise_kernel")
    index = _slid(lowering, layer, inputs[0], first[..., None, :], None)
    index = channels_last(builder, index, layer)
    bias = None if layer.bias is None else as_computed_with(layer, layer.bias)
    index = builder.affine(index, MatMul(second.reshape(second.shape[-2:])), bias)
    return last_if_first(builder, index, layer)


def _slid(lowering, layer, index: int, kernel: np.ndarray, bias) -> int:
    builder = lowering.builder
    index = channels_last(builder, index, layer)
    rank = kernel.ndim - 3
    strides, dilation = _tuple(layer.strides, rank), _tuple(layer.dilation_rate, rank)
    sizes, padding = builder.shape(index)[:-1], layer.padding
    reach = [(k - 1) * d + 1 for k, d in zip(kernel.shape, dilation, strict=False)]
    if isinstance(layer, lip.PadConv2D) and padding not in ("same", "valid"):
        pads = layer.amounts
    else:
        steps = (1,) * rank if padding in EXTENDING else strides
        axes = zip(sizes, reach, steps, strict=True)
        pads = tuple(padding_amounts(*axis, padding) for axis in axes)
    if padding in EXTENDING:
        copied = [padded_indices(n, *a, padding) for n, a in zip(sizes, pads, strict=True)]
        index = builder.affine(index, Gather((*copied, None)))
        sizes, pads = builder.shape(index)[:-1], ((0, 0),) * rank
    bias = None if bias is None else as_computed_with(layer, bias)
    index = builder.affine(index, Conv(kernel, strides, dilation, tuple(pads), sizes), bias)
    return last_if_first(builder, index, layer)


def transposed(lowering, layer, inputs):
    """Transposed convolutions; those of this library may fold their border back."""
    builder, kernel = lowering.builder, effective_kernel(layer)
    index = channels_last(builder, inputs[0], layer)
    rank = kernel.ndim - 2
    strides, sizes = _tuple(layer.strides, rank), builder.shape(index)[:-1]
    if any(rate != 1 for rate in _tuple(layer.dilation_rate, rank)):
        raise UnsupportedLayerError("a dilated transposed convolution has no rule")
    folds = layer.padding in EXTENDING
    bias = None if layer.bias is None else as_computed_with(layer, layer.bias)
    axes = list(zip(sizes, kernel.shape, strides, strict=False))
    if folds:
        written = tuple(n * stride for n, _, stride in axes)
        amounts = [padding_amounts(None, k, 1, layer.padding) for _, k, _ in axes]
        image = tuple(n + sum(a) for n, a in zip(written, amounts, strict=True))
        pads = ((0, 0),) * rank
    else:
        shape = layer.compute_output_shape((1, *builder.shape(inputs[0])))[1:]
        image = shape[1:] if layer.data_format == "channels_first" else shape[:-1]
        pads = tuple(
            padding_amounts(n, k, stride, layer.padding)
            for n, (_, k, stride) in zip(image, axes, strict=True)
        )
    grouped = kernel[..., None, :, :]
    conv = Conv(grouped, strides, (1,) * rank, pads, image, transposed=True)
    index = builder.affine(index, conv, None if folds else bias)
    if folds:
        axes = zip(written, amounts, strict=True)
        border = Gather((*(padded_indices(n, *a, layer.padding) for n, a in axes), None))
        index = builder.affine(index, Adjoint(border, (*written, kernel.shape[-2])), bias)
    return last_if_first(builder, index, layer)


def _tuple(value, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)
