"""Maps that move entries, copy them and put zeros."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deel_lip_tf.semantics.ir.primitives.base import Arrays, Shape, Tensor, Unary


@dataclass(frozen=True, eq=False)
class Reshape(Unary):
    """The same entries in the shape `to`."""

    to: Shape
    is_exact = True

    def _shape(self, shape: Shape) -> Shape:
        return self.to

    def _apply(self, arrays: Arrays, x: Tensor) -> Tensor:
        return arrays.reshape(x, self.to)

    def _adjoint(self, arrays: Arrays, y: Tensor, shape: Shape) -> Tensor:
        return arrays.reshape(y, shape)


@dataclass(frozen=True, eq=False)
class Transpose(Unary):
    """The axes in another order; the batch axis is the first of `axes`, 0."""

    axes: tuple[int, ...]
    is_exact = True

    def _shape(self, shape: Shape) -> Shape:
        return tuple(shape[axis - 1] for axis in self.axes[1:])

    def _apply(self, arrays: Arrays, x: Tensor) -> Tensor:
        return arrays.transpose(x, self.axes)

    def _adjoint(self, arrays: Arrays, y: Tensor, shape: Shape) -> Tensor:
        return arrays.transpose(y, np.argsort(self.axes).tolist())


def _is_injective(indices: np.ndarray) -> bool:
    used = indices[indices >= 0]
    return used.size == np.unique(used).size


def _taken(arrays: Arrays, x: Tensor, indices: np.ndarray, axis: int) -> Tensor:
    """Entries along an axis, zeros where the index is -1."""
    size = x.shape[axis]
    if (indices < 0).any():
        x = arrays.pad(x, [(0, int(i == axis)) for i in range(len(x.shape))])
    return arrays.take(x, np.where(indices < 0, size, indices), axis)


def _given_back(arrays: Arrays, y: Tensor, indices: np.ndarray, size: int, axis: int) -> Tensor:
    """The adjoint of `_taken`."""
    if _is_injective(indices):
        inverse = np.full(size, -1)
        inverse[indices[indices >= 0]] = np.flatnonzero(indices >= 0)
        return _taken(arrays, y, inverse, axis)
    kept = np.flatnonzero(indices >= 0)
    if kept.size < indices.size:
        y = arrays.take(y, kept, axis)
    return arrays.scatter(y, indices[kept], size, axis)


@dataclass(frozen=True, eq=False)
class Gather(Unary):
    """Entries along each axis by itself: padding, cropping, copies, reversals.

    Attributes:
        indices: for each axis of a sample its indices, -1 for zeros, or None where it stays.
    """

    indices: tuple[np.ndarray | None, ...]

    @property
    def is_exact(self) -> bool:
        return all(i is None or _is_injective(i) for i in self.indices)

    def _shape(self, shape: Shape) -> Shape:
        pairs = zip(shape, self.indices, strict=True)
        return tuple(size if i is None else len(i) for size, i in pairs)

    def _apply(self, arrays: Arrays, x: Tensor) -> Tensor:
        for axis, indices in enumerate(self.indices, 1):
            x = x if indices is None else _taken(arrays, x, indices, axis)
        return x

    def _adjoint(self, arrays: Arrays, y: Tensor, shape: Shape) -> Tensor:
        for axis, indices in enumerate(self.indices, 1):
            if indices is not None:
                y = _given_back(arrays, y, indices, shape[axis - 1], axis)
        return y


@dataclass(frozen=True, eq=False)
class Pick(Unary):
    """Any entries in any order.

    Attributes:
        indices: (*shape of the output) positions in the flattened input, -1 for zeros.
    """

    indices: np.ndarray

    @cached_property
    def is_exact(self) -> bool:
        return _is_injective(self.indices)

    def _shape(self, shape: Shape) -> Shape:
        return self.indices.shape

    def _apply(self, arrays: Arrays, x: Tensor) -> Tensor:
        flat = arrays.reshape(x, (math.prod(x.shape[1:]),))
        return arrays.reshape(_taken(arrays, flat, self.indices.ravel(), 1), self.indices.shape)

    def _adjoint(self, arrays: Arrays, y: Tensor, shape: Shape) -> Tensor:
        flat = arrays.reshape(y, (self.indices.size,))
        given = _given_back(arrays, flat, self.indices.ravel(), math.prod(shape), 1)
        return arrays.reshape(given, shape)


@dataclass(frozen=True, eq=False)
class Adjoint(Unary):
    """The adjoint of a move: what was copied is added up.

    Attributes:
        of: the move.
        to: the shape that it moves.
    """

    of: Gather
    to: Shape

    @property
    def is_exact(self) -> bool:
        return self.of.is_exact

    def _shape(self, shape: Shape) -> Shape:
        return self.to

    def _apply(self, arrays: Arrays, x: Tensor) -> Tensor:
        return self.of.adjoint(arrays, x, [self.to])[0]

    def _adjoint(self, arrays: Arrays, y: Tensor, shape: Shape) -> Tensor:
        return self.of.apply(arrays, [y])
