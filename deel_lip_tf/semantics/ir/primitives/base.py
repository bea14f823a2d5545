"""What an interpreter offers, and what a linear map knows of itself."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

Shape = tuple[int, ...]
Tensor = Any


class Arrays(Protocol):
    """The operations of an interpreter; `+`, `-` and `*` are those of its tensors."""

    @property
    def absolute(self) -> "Arrays":
        """The same interpreter, for which coefficients are their absolute values."""

    def coefficients(self, array: np.ndarray) -> Tensor:
        """The coefficients of a map as a tensor."""

    def reshape(self, x: Tensor, shape: Shape) -> Tensor:
        """(batch, ...) to (batch, *shape)."""

    def transpose(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """The tensor with its axes in another order."""

    def take(self, x: Tensor, indices: np.ndarray, axis: int) -> Tensor:
        """Entries along an axis."""

    def pad(self, x: Tensor, amounts: Sequence[tuple[int, int]]) -> Tensor:
        """Zeros before and after each axis."""

    def scatter(self, x: Tensor, indices: np.ndarray, size: int, axis: int) -> Tensor:
        """The adjoint of `take`: entries are added up where their index is."""

    def concatenate(self, tensors: Sequence[Tensor], axis: int) -> Tensor:
        """Tensors side by side."""

    def matmul(self, x: Tensor, matrix: Tensor, transposed: bool = False) -> Tensor:
        """The last axis times a matrix, or times the transposed one."""

    def einsum(self, equation: str, *tensors: Tensor) -> Tensor:
        """Einstein's sum."""

    def sum(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """The sum over some axes, which stay with size 1."""

    def conv(self, x: Tensor, kernel: Tensor, strides: Shape, dilation: Shape) -> Tensor:
        """A convolution without padding of (batch, *sizes, groups * inputs).

        The kernel is (*kernel_size, groups, inputs, outputs).
        """

    def conv_adjoint(
        self, y: Tensor, kernel: Tensor, strides: Shape, dilation: Shape, sizes: Shape
    ) -> Tensor:
        """The adjoint of `conv` for images of these sizes."""

    def maximum(self, x: Tensor, y: Tensor | float) -> Tensor:
        """The larger one, entry by entry."""

    def minimum(self, x: Tensor, y: Tensor | float) -> Tensor:
        """The smaller one, entry by entry."""

    def sort(self, x: Tensor) -> Tensor:
        """The last axis in ascending order."""

    def where(self, condition: np.ndarray, x: Tensor, y: Tensor) -> Tensor:
        """Entries of the first tensor where a condition holds, else of the second."""


class LinearMap(Protocol):
    """A linear map of one or more tensors.

    Attributes:
        is_exact: whether it, and its adjoint, only move entries or put zeros: nothing is rounded,
            and no entry is used twice.
    """

    @property
    def is_exact(self) -> bool:
        """See above."""

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Shape of one output for inputs of these shapes."""

    def apply(self, arrays: Arrays, tensors: Sequence[Tensor]) -> Tensor:
        """The image of tensors."""

    def absolute(self, arrays: Arrays, tensors: Sequence[Tensor]) -> Tensor:
        """The image under the map whose matrix holds the absolute values, or larger numbers."""

    def adjoint(self, arrays: Arrays, upstream: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """The image of an output under the transposed map, one for each input."""


class Unary:
    """A map of one tensor, by `_apply` and `_adjoint`, and by `_shape` where that is another."""

    @property
    def is_exact(self) -> bool:
        """Whether it only moves entries, and uses none twice."""
        return False

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        return tuple(self._shape(tuple(shapes[0])))

    def apply(self, arrays: Arrays, tensors: Sequence[Tensor]) -> Tensor:
        return self._apply(arrays, tensors[0])

    def absolute(self, arrays: Arrays, tensors: Sequence[Tensor]) -> Tensor:
        return self._absolute(arrays, tensors[0])

    def adjoint(self, arrays: Arrays, upstream: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        return [self._adjoint(arrays, upstream, tuple(shapes[0]))]

    def _absolute(self, arrays: Arrays, x: Tensor) -> Tensor:
        # Coefficients are factors of the entries of the matrix, one in each.
        return self._apply(arrays.absolute, x)

    def _shape(self, shape: Shape) -> Shape:
        return shape

    def _apply(self, arrays: Arrays, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _adjoint(self, arrays: Arrays, y: Tensor, shape: Shape) -> Tensor:
        raise NotImplementedError
