"""Maxima, sorting and reflections: each is a few ReLUs of differences, between affine maps.

`max(a, b) = b + relu(a - b)` and `min(a, b) = a - relu(a - b)`. What one ReLU cannot know is kept
as an interval rule of the output.
"""

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from deel_lip_tf.semantics.ir.elementwise import relu
from deel_lip_tf.semantics.ir.intervals import (
    Exchanged,
    Extreme,
    IntervalRule,
    PairMaxima,
    PositiveParts,
    Sorted,
)
from deel_lip_tf.semantics.ir.parameters import Coefficients
from deel_lip_tf.semantics.ir.primitives import (
    Blocks,
    Concatenate,
    Conv,
    Gather,
    MatMul,
    Pick,
    Reshape,
    Scale,
    Sum,
    Transpose,
)
from deel_lip_tf.semantics.ir.program import Builder

# Values of neighbours on the half-line between them are equal but for the rounding of float64.
_TIE = 2.0**-46


Pair = tuple[int, int]


def combined(
    builder: Builder,
    parents: Sequence[int],
    weights: Sequence[float],
    interval: IntervalRule | None = None,
) -> int:
    """The weighted sum of some nodes, which broadcast."""
    return builder.affine(parents, Sum(tuple(map(Scale, weights))), interval=interval)


def extreme_of(builder: Builder, parents: Sequence[int], sign: float) -> int:
    """The entrywise maximum (`sign` 1) or minimum (-1) of some nodes, which broadcast."""
    extreme = parents[0]
    for parent in parents[1:]:
        surplus = combined(builder, [parent, extreme], [sign, -sign])
        positive = builder.function(surplus, relu())
        rule = Extreme((extreme, parent), sign)
        extreme = combined(builder, [extreme, positive], [1.0, sign], rule)
    return extreme


def extreme_with(builder: Builder, index: int, constant: np.ndarray, sign: float) -> int:
    """The entrywise maximum (`sign` 1) or minimum (-1) of a node and a constant.

    `max(x, c) = c + relu(x - c)`, and `min(x, c) = c - relu(c - x)`.
    """
    surplus = builder.scaled(index, scale=sign, shift=-sign * constant)
    return builder.scaled(builder.function(surplus, relu()), scale=sign, shift=constant)


def maximum_of_last(builder: Builder, index: int) -> int:
    """The maximum over the last axis, by rounds in which pairs are compared."""
    while (size := builder.shape(index)[-1]) > 1:
        half = size // 2
        eye = np.eye(size)
        # One entry is left over where their number is odd.
        first, others = eye[:, :half], eye[:, half:]
        surplus = builder.affine(index, MatMul(first - others[:, :half]))
        positive = builder.function(surplus, relu())
        linear = Sum((MatMul(others), MatMul(np.eye(half, size - half))))
        index = builder.affine([index, positive], linear, interval=PairMaxima((index,)))
    return reshaped(builder, index, builder.shape(index)[:-1])


def sorted_groups(builder: Builder, index: int, size: int) -> int:
    """Sorts consecutive groups of the last axis in ascending order, by a network of comparators."""
    if size == 1:
        return index
    shape = builder.shape(index)
    index = reshaped(builder, index, (*shape[:-1], shape[-1] // size, size))
    start, stages = index, sorting_network(size)
    for position, pairs in enumerate(stages):
        low, high = (np.eye(size)[:, list(side)] for side in zip(*pairs, strict=True))
        positive = builder.function(builder.affine(index, MatMul(low - high)), relu())
        is_last = position + 1 == len(stages)
        rule = Sorted((start,)) if is_last else Exchanged((index,), tuple(pairs))
        linear = Sum((Scale(), MatMul((high - low).T)))
        index = builder.affine([index, positive], linear, interval=rule)
    return reshaped(builder, index, shape)


def sorting_network(size: int) -> list[list[tuple[int, int]]]:
    """Batcher's odd-even merge sort: stages of disjoint pairs `i < j`, smaller to the left."""
    stages, p = [], 1
    while p < size:
        k = p
        while k >= 1:
            pairs = [
                (i + j, i + j + k)
                for j in range(k % p, size - k, 2 * k)
                for i in range(min(k, size - j - k))
                if (i + j) // (2 * p) == (i + j + k) // (2 * p)
            ]
            stages += [pairs] if pairs else []
            k //= 2
        p *= 2
    return stages


def positive_and_negative(builder: Builder, index: int) -> int:
    """`relu(x)` and `relu(-x)` along the last axis, by one ReLU: `relu(-x) = relu(x) - x`."""
    positive = builder.function(index, relu())
    ones = np.ones(builder.shape(index)[-1])
    linear = Sum(
        (Blocks(np.stack([0.0 * ones, -ones])[None]), Blocks(np.stack([ones, ones])[None]))
    )
    return builder.affine([index, positive], linear, interval=PositiveParts((index,)))


def reflected(builder: Builder, index: int, normal: np.ndarray) -> int:
    """Pairs of channels `z` to `z - 2 relu(n . z) n`: one ReLU on one linear form.

    Args:
        builder: takes the nodes.
        index: node with the channels last; channel i pairs with channel i + half.
        normal: (2, half) unit vectors.
    """
    positive = builder.function(builder.affine(index, Blocks(normal[:, None])), relu())
    linear = Sum((Scale(), Blocks(-2.0 * normal[None])))
    return builder.affine([index, positive], linear)


def folded(builder: Builder, index: int, rays: np.ndarray, pieces: np.ndarray) -> int:
    """Pairs of channels, each by the linear map of the piece of the plane that it lies in.

    A continuous function that is `l_k` on the convex set `C_k` is the maximum over k of the minima
    of those `l_i` that are at least `l_k` on `C_k` (Tarela and Martinez, 1999): no sine of a small
    angle is divided by.

    Args:
        builder: takes the nodes.
        index: node with the channels last; channel i pairs with channel i + half.
        rays: (pieces, 2, half) unit vectors along the half-lines, in the order of their angles.
        pieces: (pieces, 2, 2, half) matrices; those of piece k hold between half-line k and k + 1,
            which are less than half a turn apart, and more than rounding.
    """
    values = np.einsum("iabh,kbh->ikah", pieces, rays)
    # (i, k, component, channel): whether `l_i >= l_k` at both ends of piece k
    ends = values, np.roll(values, -1, axis=1)
    own = [end[np.arange(len(pieces)), np.arange(len(pieces))] for end in ends]
    is_above = [end >= least - _TIE for end, least in zip(ends, own, strict=True)]
    chosen = np.where((is_above[0] & is_above[1])[:, :, :, None], pieces[:, None], pieces[None])
    count, half = len(pieces), rays.shape[-1]
    # (b, k, a, h): the parts of the input to the components of all pieces side by side
    wide = chosen.transpose(0, 3, 1, 2, 4).reshape(count, 2, 2 * count, half)
    minima = extreme_of(builder, [builder.affine(index, Blocks(one)) for one in wide], -1.0)
    parts = np.eye(2 * count).reshape(2 * count, count, 2).transpose(1, 0, 2)
    parts = np.repeat(parts[..., None], half, axis=-1)
    return extreme_of(builder, [builder.affine(minima, Blocks(part)) for part in parts], 1.0)


def grouped(kernel: Any, groups: int) -> Any:
    """A kernel (*size, inputs of a group, outputs) as (*size, groups, inputs, outputs of a group).

    The outputs are split into consecutive groups, each of which sees its share of the inputs.
    """
    shares = groups, kernel.shape[-1] // groups
    rank = len(kernel.shape)
    axes = (*range(rank - 2), rank - 1, rank - 2, rank)
    return kernel.reshape(*kernel.shape[:-1], *shares).transpose(axes)


def convolved(
    builder: Builder,
    index: int,
    kernel: Any,
    strides: tuple[int, ...],
    dilation: tuple[int, ...],
    pads: tuple[Pair, ...],
    bias: Coefficients | None = None,
) -> int:
    """The convolution of an image with its channels last, over zeros; the kernel as `grouped`."""
    conv = Conv(kernel, strides, dilation, pads, builder.shape(index)[:-1])
    return builder.affine(index, conv, bias)


def standardized(
    builder: Builder,
    index: int,
    mean: Coefficients,
    scale: Coefficients,
    shift: Coefficients | None = None,
) -> int:
    """`(x - mean) * scale + shift`: a batch normalization, whose scale is `standardizing`."""
    return builder.scaled(builder.scaled(index, None, -mean), scale, shift)


def standardizing(variance: Any, epsilon: float, factor: Any = 1.0, xp: ModuleType = np) -> Any:
    """`factor / sqrt(variance + epsilon)`, infinite or no number where that is."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return factor / xp.sqrt(variance + epsilon)


def pooling_windows(
    builder: Builder,
    index: int,
    window: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[Pair],
) -> int:
    """The windows of an image with its channels last, (*outputs, channels, window).

    Where a window reaches beyond a border, an entry inside takes the place of the missing one:
    the largest of the window stays the same.

    Args:
        builder: takes the node.
        index: of the image.
        window: its size along each axis.
        strides: along each axis.
        pads: how far windows begin before, and end behind, each axis.
    """
    *sizes, channels = builder.shape(index)
    axes = zip(sizes, window, strides, pads, strict=True)
    taken = [np.clip(window_indices(*axis), 0, axis[0] - 1) for axis in axes]
    # (outputs, window) along each axis, as positions in the flattened image.
    grids = np.ix_(*[indices.ravel() for indices in taken], np.arange(channels))
    flat = np.ravel_multi_index(grids, (*sizes, channels))
    flat = flat.reshape([*(n for indices in taken for n in indices.shape), channels])
    rank = len(sizes)
    flat = flat.transpose([*range(0, 2 * rank, 2), 2 * rank, *range(1, 2 * rank, 2)])
    counts = [len(indices) for indices in taken]
    return builder.affine(index, Pick(flat.reshape(*counts, channels, -1)))


def window_indices(size: int, window: int, stride: int, pads: Pair) -> np.ndarray:
    """(outputs, window) positions along one axis; beyond it, negative ones or `size` and more."""
    before, after = pads
    starts = np.arange((size + before + after - window) // stride + 1) * stride - before
    return starts[:, None] + np.arange(window)


def means_of_windows(
    size: int, window: int, stride: int, pads: Pair, counts_border: bool = False
) -> np.ndarray:
    """The matrix (outputs, inputs) of the means of windows along one axis.

    `counts_border`: whether places beyond the axis count, as zeros.
    """
    places = window_indices(size, window, stride, pads)
    is_inside = (np.arange(size) >= places[:, :1]) & (np.arange(size) <= places[:, -1:])
    return is_inside / (window if counts_border else is_inside.sum(axis=1, keepdims=True))


def global_windows(builder: Builder, index: int) -> int:
    """A whole image with its channels last as one window, (channels, pixels)."""
    *sizes, channels = builder.shape(index)
    index = reshaped(builder, index, (math.prod(sizes), channels))
    return builder.affine(index, Transpose((0, 2, 1)))


def kept_axes(builder: Builder, index: int, layer: Any) -> int:
    """(channels,) with the spatial axes of size 1 that `keepdims` asks for."""
    if not layer.keepdims:
        return index
    rank = layer.input_spec.ndim - 2 if layer.input_spec is not None else 2
    channels = builder.shape(index)
    ones = (1,) * rank
    is_last = layer.data_format == "channels_last"
    return reshaped(builder, index, (*ones, *channels) if is_last else (*channels, *ones))


def reshaped(builder: Builder, index: int, shape: tuple[int, ...]) -> int:
    """The same entries in another shape."""
    return index if shape == builder.shape(index) else builder.affine(index, Reshape(tuple(shape)))


def step_of(builder: Builder, index: int, step: int) -> int:
    """One step of a sequence (steps, *shape)."""
    _, *shape = builder.shape(index)
    one = builder.affine(index, Gather((np.array([step]), *[None] * len(shape))))
    return reshaped(builder, one, tuple(shape))


def sequence_of(builder: Builder, steps: Sequence[int]) -> int:
    """Nodes of one shape as the steps of a sequence."""
    rows = [reshaped(builder, step, (1, *builder.shape(step))) for step in steps]
    return builder.affine(rows, Concatenate(1))


def channels_last(builder: Builder, index: int, layer: Any) -> int:
    """The input of a layer with its channels last."""
    if getattr(layer, "data_format", None) != "channels_first":
        return index
    rank = len(builder.shape(index))
    return builder.affine(index, Transpose((0, *range(2, rank + 1), 1)))


def last_if_first(builder: Builder, index: int, layer: Any) -> int:
    """Undoes `channels_last`."""
    if getattr(layer, "data_format", None) != "channels_first":
        return index
    rank = len(builder.shape(index))
    return builder.affine(index, Transpose((0, rank, *range(1, rank))))
