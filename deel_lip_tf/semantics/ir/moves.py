"""What only moves entries, found by running it on their numbers.

A layer or operation that moves, copies or drops entries, or puts zeros between them, is known by
what it does to the numbers 1, 2, 3, ... of the entries: what comes out is where each came from.
"""

import math
from collections.abc import Callable

import numpy as np

from deel_lip_tf.semantics.ir.primitives import Gather, LinearMap, Pick, Reshape, Shape, Transpose


def move_of(function: Callable[[np.ndarray], np.ndarray], shape: Shape) -> LinearMap | None:
    """The map of a function that moves entries of each sample.

    Args:
        function: of a float64 array (1, *shape), computed in float64, where numbers up to 2**53 are
            kept apart and not only up to 2**24.
        shape: of one sample.

    Returns:
        The plainest map that is the same, or None where the function does more than move entries.
    """
    size = math.prod(shape)
    numbers = np.arange(1, size + 1, dtype=np.float64).reshape(1, *shape)
    found = np.asarray(function(numbers))
    # Sums and multiples of numbers may be numbers again, and what sorts, cuts off or takes the
    # largest may leave them as they are; it does not leave these, of both signs and in no order.
    others = np.random.default_rng(0).normal(size=numbers.shape)
    if found.shape[:1] != (1,):
        return None
    indices = found[0].astype(np.int64) - 1
    if (indices + 1 != found[0]).any() or (indices < -1).any() or (indices >= size).any():
        return None
    expected = np.append(others.ravel(), 0.0)[indices]
    if not np.array_equal(np.asarray(function(others))[0], expected):
        return None
    if indices.size == size and np.array_equal(indices.ravel(), np.arange(size)):
        return Reshape(indices.shape)
    return _transpose(indices, shape) or _gather(indices, shape) or Pick(indices)


def _transpose(indices: np.ndarray, shape: Shape) -> Transpose | None:
    """The permutation of axes, read from how far apart neighbours are."""
    if sorted(indices.shape) != sorted(shape) or indices.ndim != len(shape):
        return None
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    axes = []
    for axis, size in enumerate(indices.shape):
        moved = np.moveaxis(indices, axis, 0).reshape(size, -1)[:, 0]
        step = int(moved[1] - moved[0]) if size > 1 else None
        fits = [
            a
            for a, (s, n) in enumerate(zip(strides, shape, strict=True))
            if n == size and a not in axes and (step is None or step == s)
        ]
        if not fits:
            return None
        axes.append(fits[0])
    candidate = np.arange(math.prod(shape)).reshape(shape).transpose(axes)
    if not np.array_equal(candidate, indices):
        return None
    return Transpose((0, *(axis + 1 for axis in axes)))


def _gather(indices: np.ndarray, shape: Shape) -> Gather | None:
    """Indices along each axis by itself, where the number of axes stays."""
    if indices.ndim != len(shape) or not (indices >= 0).any():
        return None
    places = np.array(np.unravel_index(np.maximum(indices, 0), shape))
    along = []
    for axis, size in enumerate(shape):
        others = tuple(i for i in range(indices.ndim) if i != axis)
        own = np.where(indices >= 0, places[axis], -1).max(axis=others)
        along.append(None if np.array_equal(own, np.arange(size)) else own)
    candidate = np.arange(math.prod(shape)).reshape(shape)
    for axis, own in enumerate(along):
        if own is not None:
            taken = np.take(candidate, np.maximum(own, 0), axis)
            mask = (own < 0).reshape([-1 if i == axis else 1 for i in range(indices.ndim)])
            candidate = np.where(mask, -1, taken)
    return Gather(tuple(along)) if np.array_equal(candidate, indices) else None
