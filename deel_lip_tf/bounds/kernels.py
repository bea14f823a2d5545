"""Layers with a kernel: the linear operators that each is made of, applied one after the other."""

import math
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from deel_lip_tf.bounds.norms.operators import Convolution, Copies, Matrices, Operator, Sums
from deel_lip_tf.layers.convolution.unconstrained import PadConv2D
from deel_lip_tf.normalizers.convolution import EXTENDING, padded_indices
from deel_lip_tf.semantics.copies import kernel_of

__all__ = ["convolution_of", "has_kernel", "kernel_of", "linear_operators"]

Shape = tuple[int | None, ...] | None


def has_kernel(layer: keras.layers.Layer) -> bool:
    """Whether the exact type of a layer is one whose linear part is known."""
    return _rule(layer) is not None


def linear_operators(layer: keras.layers.Layer, input_shape: Shape) -> list[Operator]:
    """The linear part of a built layer, without bias and activation.

    Returns:
        Operators whose product is the linear part, the first applied first.

    Raises:
        ValueError: if an argument of the layer has no rule.
    """
    return _rule(layer)(layer, input_shape)


def convolution_of(layer, input_shape: Shape) -> Convolution | None:
    """The convolution that a layer consists of, or None where it is not one alone."""
    operators = linear_operators(layer, input_shape)
    is_one = len(operators) == 1 and isinstance(operators[0], Convolution)
    return operators[0] if is_one else None


def _rule(layer) -> Callable[[keras.layers.Layer, Shape], list[Operator]] | None:
    if (rule := _RULES.get(type(layer))) is not None:
        return rule
    constrained = hasattr(type(layer), "effective_kernel")
    if constrained and type(layer).__module__.startswith("deel_lip_tf.layers."):
        parents = [parent for parent in _RULES if isinstance(layer, parent)]
        return _RULES[parents[0]] if parents else None
    return None


def _dense(layer, input_shape: Shape) -> list[Operator]:
    return [Matrices(kernel_of(layer)[None])]


def _einsum(layer: layers.EinsumDense, input_shape: Shape) -> list[Operator]:
    """`einsum` of the input and the kernel, sorted by what each letter does.

    Letters of both operands are summed up, if the result has not got them, or count the blocks of
    a block-diagonal matrix, if it has; letters of the input alone repeat that matrix or are summed
    up before it, and letters of the kernel alone are columns.
    """
    equation = layer.equation.replace(" ", "")
    terms, _, result = equation.replace("...", "").partition("->")
    tensor, _, matrix = terms.partition(",")
    if any(len(set(term)) < len(term) for term in (tensor, matrix, result)):
        raise ValueError("a letter occurs twice in one operand of its equation")
    both = [letter for letter in matrix if letter in tensor]
    blocks = [letter for letter in both if letter in result]
    rows = [letter for letter in both if letter not in result]
    columns = [letter for letter in matrix if letter not in tensor and letter in result]
    dropped = [letter for letter in tensor if letter not in matrix and letter not in result]
    kernel = kernel_of(layer)
    kernel = np.einsum(f"{matrix}->{''.join(blocks + rows + columns)}", kernel)
    sizes = dict(zip(blocks + rows + columns, kernel.shape, strict=True))
    shape = [math.prod(sizes[letter] for letter in part) for part in (blocks, rows, columns)]
    keeps_samples = tensor[:1] not in matrix and tensor[:1] == result[:1]
    if equation.startswith("..."):
        keeps_samples = "->..." in equation
    if not keeps_samples or len(matrix) > len(sizes):
        raise ValueError("its equation mixes samples, or sums up its kernel")
    summed = [_size_of(letter, equation, input_shape) for letter in dropped]
    return [Sums(math.prod(summed)), Matrices(kernel.reshape(shape))]


def _size_of(letter: str, equation: str, input_shape: Shape) -> int:
    """Size of an axis of the input that an equation names by a letter."""
    tensor = equation.partition(",")[0]
    before, ellipsis, after = tensor.partition("...")
    index = before.find(letter) if letter in before or not ellipsis else None
    index = -len(after) + after.index(letter) if index is None else index
    size = input_shape[index] if input_shape is not None else None
    if size is None:
        raise ValueError("it sums up an axis of unknown size")
    return size


def _convolution(layer, input_shape: Shape) -> list[Operator]:
    return [_operator(layer, _grouped(layer), input_shape)]


def _grouped(layer) -> np.ndarray:
    """The kernel (*size, groups, inputs, outputs)."""
    kernel = kernel_of(layer)
    # The outputs are split into consecutive groups, each of which sees its share of the inputs.
    grouped = kernel.reshape(*kernel.shape[:-1], layer.groups, kernel.shape[-1] // layer.groups)
    return np.moveaxis(grouped, -2, -3)


def _padded_convolution(layer: PadConv2D, input_shape: Shape) -> list[Operator]:
    is_centred = all(k % 2 for k in layer.kernel_size) and layer.dilation_rate == (1, 1)
    if layer.padding in ("same", "valid") or (is_centred and layer.padding in EXTENDING):
        return _convolution(layer, input_shape)
    # Otherwise the padding, which copies a pixel at most m times, and a "valid" convolution.
    sizes = _sizes(layer, input_shape)
    axes = list(zip(sizes, layer.amounts, strict=True))
    copies = math.prod(_copies(size, *added, layer.padding) for size, added in axes)
    extended = tuple(size and size + sum(added) for size, added in axes)
    convolution = _operator(layer, _grouped(layer), None, padding="valid", sizes=extended)
    return [Copies(copies), convolution]


def _copies(size: int | None, before: int, after: int, padding: str) -> int:
    """How often an element of an axis occurs in the padded axis; `None` is the worst size, 1."""
    if padding not in EXTENDING:
        return 1
    return int(np.bincount(padded_indices(size or 1, before, after, padding)).max())


def _transposed(layer, input_shape: Shape) -> list[Operator]:
    # Keras's layout (*size, outputs, inputs) is that of the adjoint convolution.
    kernel = kernel_of(layer)
    grouped = kernel.reshape(*kernel.shape[:-2], 1, *kernel.shape[-2:])
    if layer.padding not in EXTENDING:
        padding = "same" if _crops_as_same(layer) else "valid"
        return [_operator(layer, grouped, input_shape, transposed=True, padding=padding)]
    # The adjoint of the padded convolution of the output.
    pairs = zip(_sizes(layer, input_shape), layer.strides, strict=True)
    sizes = tuple(size and size * s for size, s in pairs)
    return [_operator(layer, grouped, None, sizes=sizes, transposed=True)]


def _crops_as_same(layer) -> bool:
    """Whether the operator is known to be the adjoint of a "same" convolution of its output.

    Others, among them those of backends that crop on another side, are bounded by the whole image
    that "valid" writes, of which they keep a part.
    """
    is_plain = layer.output_padding is None and not any(r > 1 for r in layer.dilation_rate)
    return layer.padding == "same" and is_plain and keras.backend.backend() == "tensorflow"


def _depthwise(layer, input_shape: Shape) -> list[Operator]:
    # (*size, channels, multiplier): each channel is a group of one input.
    return [_operator(layer, kernel_of(layer)[..., None, :], input_shape)]


def _separable(layer, input_shape: Shape) -> list[Operator]:
    kernel = kernel_of(layer, "depthwise_kernel")
    pointwise = kernel_of(layer, "pointwise_kernel")
    pointwise = pointwise.reshape(1, *pointwise.shape[-2:])
    return [_operator(layer, kernel[..., None, :], input_shape), Matrices(pointwise)]


def _operator(layer, kernel: np.ndarray, input_shape: Shape, **others) -> Convolution:
    """The convolution of a layer; `others` replace fields of `Convolution`."""
    rank = len(layer.kernel_size)
    fields = {
        "strides": _tuple(layer.strides, rank),
        "dilation": _tuple(layer.dilation_rate, rank),
        "padding": layer.padding,
        "sizes": _sizes(layer, input_shape),
    }
    return Convolution(kernel=kernel, **{**fields, **others})


def _sizes(layer, input_shape: Shape) -> tuple[int | None, ...]:
    rank = len(layer.kernel_size)
    if input_shape is None:
        return (None,) * rank
    return tuple(input_shape[1:-1] if layer.data_format == "channels_last" else input_shape[2:])


def _tuple(value, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


_RULES: dict[type, Callable[[keras.layers.Layer, Shape], list[Operator]]] = {
    layers.Dense: _dense,
    layers.EinsumDense: _einsum,
    layers.Conv1D: _convolution,
    layers.Conv2D: _convolution,
    layers.Conv3D: _convolution,
    layers.Conv1DTranspose: _transposed,
    layers.Conv2DTranspose: _transposed,
    layers.Conv3DTranspose: _transposed,
    layers.DepthwiseConv1D: _depthwise,
    layers.DepthwiseConv2D: _depthwise,
    layers.SeparableConv1D: _separable,
    layers.SeparableConv2D: _separable,
    PadConv2D: _padded_convolution,
}
