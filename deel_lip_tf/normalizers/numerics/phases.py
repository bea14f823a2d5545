"""Phases: with strides, the pixels of a patch of the size of the stride are channels of one."""

import math

from keras import ops


def split_phases(kernel, strides: tuple[int, ...]):
    """Taps (*sizes, groups, inputs, outputs) to (*counts, groups, phases * inputs, outputs).

    A size that is no multiple of the stride is continued by zeros.
    """
    rank, (groups, inputs, outputs) = len(strides), kernel.shape[-3:]
    pairs = list(zip(kernel.shape[:rank], strides, strict=True))
    padded = ops.pad(kernel, [*((0, -k % s) for k, s in pairs), (0, 0), (0, 0), (0, 0)])
    counts = [-(-k // s) for k, s in pairs]
    split = [size for pair in zip(counts, strides, strict=True) for size in pair]
    split = ops.reshape(padded, (*split, groups, inputs, outputs))
    order = (*range(0, 2 * rank, 2), 2 * rank, *range(1, 2 * rank, 2), 2 * rank + 1, 2 * rank + 2)
    return ops.reshape(ops.transpose(split, order), (*counts, groups, -1, outputs))


def joined_phases(kernel, strides: tuple[int, ...]):
    """The inverse of `split_phases`, for sizes that are multiples of the strides."""
    rank, (groups, inputs, outputs) = len(strides), kernel.shape[-3:]
    counts, inputs = kernel.shape[:rank], inputs // math.prod(strides)
    split = ops.reshape(kernel, (*counts, groups, *strides, inputs, outputs))
    order = [axis for i in range(rank) for axis in (i, rank + 1 + i)]
    joined = ops.transpose(split, (*order, rank, 2 * rank + 1, 2 * rank + 2))
    sizes = [n * s for n, s in zip(counts, strides, strict=True)]
    return ops.reshape(joined, (*sizes, groups, inputs, outputs))
