"""Maxima, sorting and reflections: each is a few relus of differences, between affine maps.

`max(a, b) = b + relu(a - b)` and `min(a, b) = a - relu(a - b)`. What one relu cannot know is kept
as the hull of the output: the largest of two numbers lies between the larger of their lower and the
larger of their upper bounds, and the i-th smallest of n between the i-th smallest of their lower
and of their upper bounds.
"""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from deel_lip_tf.semantics.sorting import sorting_network
from deel_lip_tf.verify.activations import relu
from deel_lip_tf.verify.program import Builder, Hull

__all__ = [
    "channels_last",
    "combined",
    "extreme_of",
    "global_windows",
    "kept_axes",
    "last_if_first",
    "maximum_of_last",
    "pooling_windows",
    "positive_and_negative",
    "reflected",
    "sorted_groups",
]


def combined(builder: Builder, parents: Sequence[int], weights: Sequence[float], **others) -> int:
    """The weighted sum of some nodes, which broadcast."""

    def operator(tensors, k):
        total = tensors[0] * k[0]
        for position in range(1, len(tensors)):
            total = total + tensors[position] * k[position]
        return total

    return builder.affine(parents, operator, np.asarray(weights, np.float64), **others)


def extreme_of(builder: Builder, parents: Sequence[int], sign: float) -> int:
    """The entrywise maximum (`sign` 1) or minimum (-1) of some nodes, which broadcast."""
    largest = parents[0]
    for parent in parents[1:]:
        surplus = combined(builder, [parent, largest], [sign, -sign])
        positive = builder.activation(surplus, relu())
        choose = tf.maximum if sign > 0 else tf.minimum

        def rule(intervals, choose=choose):
            (low, high), (other_low, other_high) = intervals
            return choose(low, other_low), choose(high, other_high)

        hull = Hull((largest, parent), rule)
        largest = combined(builder, [largest, positive], [1.0, sign], hull=hull)
    return largest


def maximum_of_last(builder: Builder, index: int) -> int:
    """The maximum over the last axis, by rounds in which pairs are compared."""
    while (size := builder.shape(index)[-1]) > 1:
        half = size // 2
        eye = np.eye(size)
        # One entry is left over where their number is odd.
        first, others = eye[:, :half], eye[:, half:]
        surplus = builder.affine([index], _contracted, first - others[:, :half])
        positive = builder.activation(surplus, relu())
        index = _round(builder, index, positive, others, np.eye(half, size - half), _pair_maxima)
    return _squeezed(builder, index)


def _pair_maxima(intervals):
    (low, high), half = intervals[0], intervals[0][0].shape[-1] // 2

    def largest(x):
        return tf.concat(
            [tf.maximum(x[..., :half], x[..., half : 2 * half]), x[..., 2 * half :]], -1
        )

    return largest(low), largest(high)


def _round(builder: Builder, index: int, positive: int, kept, added, rule) -> int:
    """`x @ kept + relu @ added`, over the last axis."""
    rows = len(kept)

    def operator(tensors, k):
        return _contracted(tensors[:1], k[:rows]) + _contracted(tensors[1:], k[rows:])

    coefficients = np.concatenate([kept, added])
    return builder.affine([index, positive], operator, coefficients, hull=Hull((index,), rule))


def _contracted(tensors, matrix):
    return tf.tensordot(tensors[0], matrix, axes=1)


def _squeezed(builder: Builder, index: int) -> int:
    return builder.affine([index], lambda tensors, _: tensors[0][..., 0])


def sorted_groups(builder: Builder, index: int, size: int) -> int:
    """Sorts consecutive groups of the last axis in ascending order, by a network of comparators."""
    if size == 1:
        return index
    shape = builder.shape(index)
    index = reshaped(builder, index, (*shape[:-1], shape[-1] // size, size))
    start, stages = index, sorting_network(size)
    for position, pairs in enumerate(stages):
        low, high = (np.eye(size)[:, list(side)] for side in zip(*pairs, strict=True))
        surplus = builder.affine([index], _contracted, low - high)
        positive = builder.activation(surplus, relu())
        last = position + 1 == len(stages)
        rule = _ordered if last else _stage_rule(pairs, size)
        source = start if last else index
        index = _exchanged(builder, index, positive, (high - low).T, Hull((source,), rule))
    return reshaped(builder, index, shape)


def _exchanged(builder: Builder, index: int, positive: int, moves, hull: Hull) -> int:
    """`x + relu @ moves`."""

    def operator(tensors, k):
        return tensors[0] + _contracted(tensors[1:], k)

    return builder.affine([index, positive], operator, moves, hull=hull)


def _ordered(intervals):
    low, high = intervals[0]
    return tf.sort(low, axis=-1), tf.sort(high, axis=-1)


def _stage_rule(pairs, size: int):
    """Bounds of one stage: pairs become their minimum and their maximum, the others stay."""
    partner, takes_largest = np.arange(size), np.zeros(size, bool)
    for i, j in pairs:
        partner[i], partner[j], takes_largest[j] = j, i, True

    def rule(intervals):
        def exchange(x):
            other = tf.gather(x, partner, axis=-1)
            return tf.where(takes_largest, tf.maximum(x, other), tf.minimum(x, other))

        return tuple(exchange(x) for x in intervals[0])

    return rule


def positive_and_negative(builder: Builder, index: int) -> int:
    """`relu(x)` and `relu(-x)` along the last axis, by one relu: `relu(-x) = relu(x) - x`."""

    def operator(tensors, k):
        return tf.concat([tensors[1], tensors[1] + k * tensors[0]], -1)

    def rule(intervals):
        low, high = intervals[0]
        return tuple(tf.nn.relu(tf.concat(ends, -1)) for ends in ((low, -high), (high, -low)))

    positive = builder.activation(index, relu())
    hull = Hull((index,), rule)
    return builder.affine([index, positive], operator, np.array(-1.0), hull=hull)


def reflected(builder: Builder, index: int, normal: np.ndarray) -> int:
    """Pairs of channels `z` to `z - 2 relu(n . z) n`: one relu on one linear form.

    Args:
        builder: takes the nodes.
        index: node with the channels last; channel i pairs with channel i + half.
        normal: (2, half) unit vectors.
    """
    half = normal.shape[1]

    def form(tensors, k):
        return tensors[0][..., :half] * k[0] + tensors[0][..., half:] * k[1]

    def moved(tensors, k):
        return tensors[0] + tf.concat([tensors[1] * k[0], tensors[1] * k[1]], -1)

    positive = builder.activation(builder.affine([index], form, normal), relu())
    return builder.affine([index, positive], moved, -2.0 * normal)


def pooling_windows(builder: Builder, index: int, layer) -> int:
    """The windows of a pooling layer, (*outputs, channels, window), channels last.

    Where a window reaches beyond a border, an entry inside takes the place of the missing one:
    the largest of the window stays the same.
    """
    index = channels_last(builder, index, layer)
    *sizes, channels = builder.shape(index)
    axes = zip(sizes, layer.pool_size, layer.strides, strict=True)
    taken = [_window_indices(*axis, layer.padding) for axis in axes]
    counts = [len(indices) for indices in taken]
    # (outputs of each axis, window along each axis), as positions in the flattened image.
    grids = np.ix_(*[indices.ravel() for indices in taken])
    flat = np.ravel_multi_index(grids, sizes)
    flat = flat.reshape([n for indices in taken for n in indices.shape])
    rank = len(sizes)
    flat = flat.transpose([*range(0, 2 * rank, 2), *range(1, 2 * rank, 2)]).reshape(-1)
    window = math.prod(layer.pool_size)

    def operator(tensors, _):
        pixels = tf.reshape(tensors[0], (-1, math.prod(sizes), channels))
        windows = tf.reshape(tf.gather(pixels, flat, axis=1), (-1, *counts, window, channels))
        return tf.linalg.matrix_transpose(windows)

    return builder.affine([index], operator)


def _window_indices(size: int, pool: int, stride: int, padding: str) -> np.ndarray:
    """(outputs, pool) positions along one axis."""
    if padding == "same":
        outputs = -(-size // stride)
        before = max((outputs - 1) * stride + pool - size, 0) // 2
    else:
        outputs, before = (size - pool) // stride + 1, 0
    starts = np.arange(outputs) * stride - before
    return np.clip(starts[:, None] + np.arange(pool), 0, size - 1)


def global_windows(builder: Builder, index: int, layer) -> int:
    """The whole image as one window, (channels, pixels)."""
    index = channels_last(builder, index, layer)
    *sizes, channels = builder.shape(index)
    pixels = math.prod(sizes)

    def operator(tensors, _):
        return tf.linalg.matrix_transpose(tf.reshape(tensors[0], (-1, pixels, channels)))

    return builder.affine([index], operator)


def kept_axes(builder: Builder, index: int, layer) -> int:
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
    return builder.affine([index], lambda tensors, _: tf.reshape(tensors[0], (-1, *shape)))


def channels_last(builder: Builder, index: int, layer) -> int:
    """The input of a layer with its channels last."""
    if getattr(layer, "data_format", None) != "channels_first":
        return index
    rank = len(builder.shape(index))
    return _permuted(builder, index, (0, *range(2, rank + 1), 1))


def last_if_first(builder: Builder, index: int, layer) -> int:
    """Undoes `channels_last`."""
    if getattr(layer, "data_format", None) != "channels_first":
        return index
    rank = len(builder.shape(index))
    return _permuted(builder, index, (0, rank, *range(1, rank)))


def _permuted(builder: Builder, index: int, axes: tuple[int, ...]) -> int:
    return builder.affine([index], lambda tensors, _: tf.transpose(tensors[0], axes))
