"""Layers that slide a kernel over an image."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from keras import layers, ops

from deel_lip_tf import layers as lip
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.layers.convolution.unconstrained import PadConv2D
from deel_lip_tf.normalizers.convolution import (
    EXTENDING,
    most_copies,
    padded_indices,
    padding_amounts,
)
from deel_lip_tf.semantics.ir.decompositions import channels_last, convolved, grouped, last_if_first
from deel_lip_tf.semantics.ir.parameters import Coefficients
from deel_lip_tf.semantics.ir.primitives import Adjoint, Conv, Gather, MatMul
from deel_lip_tf.semantics.ir.program import Builder
from deel_lip_tf.semantics.ir.sources import NUMBERS, Source
from deel_lip_tf.semantics.operators import (
    Convolution,
    Copies,
    Matrices,
    Recurrence,
    Shape,
    image_sizes,
    known_sizes,
    spatial_sizes,
)
from deel_lip_tf.semantics.rule import Gradient, Rule, only, rule
from deel_lip_tf.semantics.rules.dense import unrolled
from deel_lip_tf.semantics.sizes import is_beside_features, keeps_windows
from deel_lip_tf.semantics.state import as_float64, bias_of, check_built, kernel_of
from deel_lip_tf.semantics.sums import check_bias

Pads = tuple[tuple[int, int], ...]


class _Sliding(Rule, ABC):
    """What one kernel or two slide over an image."""

    slides = True
    keeps_size = staticmethod(keeps_windows)

    def operators(self, layer, input_shape):
        return [_convolution(layer, self.kernel(layer), input_shape)]

    @abstractmethod
    def kernel(self, layer, source: Source = NUMBERS) -> Any:
        """The kernel (*size, groups, inputs, outputs) of the convolution."""

    def lower(self, lowering, layer, inputs):
        check_built(layer)
        index = only(inputs)
        shape = (None, *lowering.builder.shape(index))
        check_bias(layer, layer.compute_output_shape(shape))
        return self.slid(lowering, layer, index, lowering.source.bias(layer))

    def slid(self, lowering, layer, index: int, bias: Coefficients | None) -> int:
        """Appends the padding and the convolution of a node; its channels stay where they are."""
        builder: Builder = lowering.builder
        index = channels_last(builder, index, layer)
        rank = len(layer.kernel_size)
        pads = self.pads(layer, builder.shape(index)[:-1])
        index, pads = bordered(builder, index, pads, layer.padding)
        steps = _tuple(layer.strides, rank), _tuple(layer.dilation_rate, rank)
        kernel = self.kernel(layer, lowering.source)
        index = convolved(builder, index, kernel, *steps, pads, bias)
        return last_if_first(builder, index, layer)

    def pads(self, layer, sizes: tuple[int, ...]) -> Pads:
        """How many pixels are added before and after each axis."""
        rank = len(sizes)
        rates = _tuple(layer.dilation_rate, rank)
        reach = [(k - 1) * rate + 1 for k, rate in zip(layer.kernel_size, rates, strict=True)]
        return paddings(sizes, reach, _tuple(layer.strides, rank), layer.padding)


@rule(layers.Conv1D, layers.Conv2D, layers.Conv3D)
class Direct(_Sliding):
    """`activation(convolution(x, kernel) + bias)`, in groups of channels or not."""

    gradient: Gradient = "kernel"

    def kernel(self, layer, source=NUMBERS):
        return grouped(source.kernel(layer), layer.groups)


@rule(PadConv2D)
class Padded(Direct):
    """A convolution of the padded image, whose paddings are its own."""

    gradient = None

    def operators(self, layer, input_shape):
        is_centred = all(k % 2 for k in layer.kernel_size) and layer.dilation_rate == (1, 1)
        if layer.padding in ("same", "valid") or (is_centred and layer.padding in EXTENDING):
            return super().operators(layer, input_shape)
        # Otherwise the padding, which copies a pixel at most m times, and a "valid" convolution.
        axes = list(zip(_sizes(layer, input_shape), layer.amounts, strict=True))
        copies = [most_copies(size, added, layer.padding) for size, added in axes]
        extended = tuple(size and size + sum(added) for size, added in axes)
        convolution = _convolution(layer, self.kernel(layer), None)
        return [Copies(math.prod(copies)), replace(convolution, padding="valid", sizes=extended)]

    def linear_part(self, layer, input_shape):
        return _convolution(layer, self.kernel(layer), input_shape)

    def keeps_size(self, layer, axis, rank):
        # It adds a pixel where its kernel is even, and nothing for a dilation.
        return layer.padding == "same" and super().keeps_size(layer, axis, rank)

    def pads(self, layer, sizes):
        own = layer.padding not in ("same", "valid")
        return tuple(layer.amounts) if own else super().pads(layer, sizes)


@rule(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
class Transposed(_Sliding):
    """`activation(K^T x + bias)`, the adjoint of a convolution K, in whose layout the kernel is."""

    def kernel(self, layer, source=NUMBERS):
        return grouped(source.kernel(layer), 1)

    def operators(self, layer, input_shape):
        whole = replace(_convolution(layer, self.kernel(layer), input_shape), transposed=True)
        if layer.padding not in EXTENDING:
            return [replace(whole, padding="same" if _crops_as_same(layer) else "valid")]
        # The adjoint of the padded convolution of the output.
        pairs = zip(whole.sizes, whole.strides, strict=True)
        return [replace(whole, sizes=tuple(size and size * s for size, s in pairs))]

    def linear_part(self, layer, input_shape):
        if known_sizes(layer, input_shape) is None:
            return None
        # The adjoint maps the layer's outputs to its inputs.
        return _convolution(layer, self.kernel(layer), layer.compute_output_shape(input_shape))

    def keeps_size(self, layer, axis, rank):
        is_same = _crops_as_same(layer) and set(np.ravel(layer.strides)) == {1}
        return is_same and is_beside_features(layer, axis, rank)

    def slid(self, lowering, layer, index, bias):
        builder = lowering.builder
        if any(rate != 1 for rate in np.ravel(layer.dilation_rate)):
            raise UnsupportedLayerError("a dilated transposed convolution has no rule")
        rank = len(layer.kernel_size)
        strides, kernel = _tuple(layer.strides, rank), self.kernel(layer, lowering.source)
        # It is the adjoint of a convolution of an image of these sizes.
        sizes = image_sizes(layer, layer.compute_output_shape((1, *builder.shape(index))))
        index = channels_last(builder, index, layer)
        written, pads = sizes, paddings(sizes, layer.kernel_size, strides, layer.padding)
        folds, one = layer.padding in EXTENDING, (1,) * rank
        if folds:
            border = _border(sizes, pads, layer.padding)
            sizes = border.shape([(*sizes, 1)])[:-1]
            pads = ((0, 0),) * rank
        conv = Conv(kernel, strides, one, pads, sizes, transposed=True)
        index = builder.affine(index, conv, None if folds else bias)
        if folds:
            index = builder.affine(index, Adjoint(border, (*written, kernel.shape[-2])), bias)
        return last_if_first(builder, index, layer)


@rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
class Depthwise(_Sliding):
    """A convolution of each channel by itself."""

    def kernel(self, layer, source=NUMBERS):
        return _each_channel(source.kernel(layer))

    def slid(self, lowering, layer, index, bias):
        if len(set(np.ravel(layer.strides))) > 1:
            reason = "TensorFlow cannot run it: its strides differ from each other"
            raise UnsupportedLayerError(reason)
        return super().slid(lowering, layer, index, bias)


@rule(layers.SeparableConv1D, layers.SeparableConv2D)
class Separable(_Sliding):
    """A convolution of each channel by itself, and a matrix at every pixel."""

    def kernel(self, layer, source=NUMBERS):
        return _each_channel(source.kernel(layer, "depthwise_kernel"))

    def operators(self, layer, input_shape):
        pointwise = kernel_of(layer, "pointwise_kernel")
        pointwise = pointwise.reshape(1, *pointwise.shape[-2:])
        return [*super().operators(layer, input_shape), Matrices(pointwise)]

    def linear_part(self, layer, input_shape):
        depthwise = kernel_of(layer, "depthwise_kernel")
        pointwise = kernel_of(layer, "pointwise_kernel")
        mixing = pointwise.reshape(*depthwise.shape[-2:], pointwise.shape[-1])
        composed = np.einsum("...cm,cmf->...cf", depthwise, mixing)
        return _convolution(layer, np.expand_dims(composed, -3), input_shape)

    def slid(self, lowering, layer, index, bias):
        builder = lowering.builder
        index = channels_last(builder, super().slid(lowering, layer, index, None), layer)
        pointwise = lowering.source.kernel(layer, "pointwise_kernel")
        index = builder.affine(index, MatMul(pointwise.reshape(pointwise.shape[-2:])), bias)
        return last_if_first(builder, index, layer)


@rule(lip.AOCConvRNN2D)
class ConvRNN(Rule):
    """`h_t = activation(factor * x_t * K + h_(t-1) * R + bias)`, from zeros, with convolutions."""

    def recurrence(self, layer, input_shape):
        check_built(layer)
        kernel = grouped(kernel_of(layer), 1)
        of_inputs, of_state = np.split(kernel, [-layer.filters], axis=-2)
        steps, *sizes = (None,) * 3 if input_shape is None else input_shape[1:-1]
        one = (1,) * len(sizes)
        convolution = Convolution(kernel, one, one, layer.padding, tuple(sizes))
        written = ops.convert_to_tensor([layer.input_factor], "float32")
        (factor,) = as_float64(ops.cast(written, layer.compute_dtype)).tolist()
        every = layer.return_sequences
        bias = bias_of(layer)
        return Recurrence(of_inputs, of_state, steps, every, convolution, factor, bias)

    def lower(self, lowering, layer, inputs):
        builder, index = lowering.builder, only(inputs)
        known = self.recurrence(layer, (None, *builder.shape(index)))
        if known.factor != 1.0:
            index = builder.scaled(index, known.factor)
        sizes = builder.shape(index)[1:-1]
        one = (1,) * len(sizes)
        pads = paddings(sizes, layer.kernel_size, one, layer.padding)
        border = _border(sizes, pads, layer.padding) if layer.padding in EXTENDING else None
        if border is not None:
            sizes, pads = border.shape([(*sizes, 1)])[:-1], ((0, 0),) * len(sizes)
        of_inputs, of_state = (
            Conv(kernel, one, one, pads, sizes) for kernel in (known.kernel, known.recurrent)
        )

        def padded(image: int) -> int:
            return image if border is None else builder.affine(image, border)

        return unrolled(lowering, layer, index, (of_inputs, of_state), known.bias, padded)


def _each_channel(kernel: Any) -> Any:
    """A kernel (*size, channels, multiplier): each channel is a group of one input."""
    return kernel.reshape(*kernel.shape[:-1], 1, kernel.shape[-1])


def paddings(
    sizes: Sequence[int], reach: Sequence[int], strides: Sequence[int], padding: str
) -> Pads:
    """How many pixels are added before and after each axis, for windows of this reach."""
    axes = zip(sizes, reach, strides, strict=True)
    return tuple(padding_amounts(*axis, padding) for axis in axes)


def bordered(builder: Builder, index: int, pads: Pads, padding: str) -> tuple[int, Pads]:
    """An image with its channels last, with the copies around it, and what is left to pad."""
    if padding not in EXTENDING:
        return index, pads
    border = _border(builder.shape(index)[:-1], pads, padding)
    return builder.affine(index, border), ((0, 0),) * len(pads)


def _border(sizes: tuple[int, ...], pads: Pads, padding: str) -> Gather:
    """The copies of pixels around an image, channels last."""
    axes = zip(sizes, pads, strict=True)
    return Gather((*(padded_indices(n, *added, padding) for n, added in axes), None))


def _convolution(layer: layers.Layer, kernel: np.ndarray, input_shape: Shape) -> Convolution:
    rank = len(layer.kernel_size)
    strides, dilation = _tuple(layer.strides, rank), _tuple(layer.dilation_rate, rank)
    return Convolution(kernel, strides, dilation, layer.padding, _sizes(layer, input_shape))


def _sizes(layer: layers.Layer, input_shape: Shape) -> tuple[int | None, ...]:
    return spatial_sizes(layer, input_shape) or (None,) * len(layer.kernel_size)


def _tuple(value: Any, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


def _crops_as_same(layer: layers.Layer) -> bool:
    """Whether the operator is known to be the adjoint of a "same" convolution of its output.

    Others are bounded by the whole image that "valid" writes, of which they keep a part.
    """
    is_plain = layer.output_padding is None and not any(r > 1 for r in layer.dilation_rate)
    return layer.padding == "same" and is_plain
