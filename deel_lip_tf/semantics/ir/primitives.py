"""What layers compute, in few typed primitives over NumPy arrays.

A linear map knows three things about itself: how it is applied, how its matrix of absolute values
is, and its adjoint. It says so in terms of `Arrays`, the operations that an interpreter has: one in
NumPy (`arrays.py`), one in TensorFlow (`verify/tensorflow.py`), another one is one file. Tensors
have the shape (batch, *shape); coefficients are float64.
"""

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

__all__ = [
    "Adjoint",
    "Arrays",
    "AxisProducts",
    "Blocks",
    "Centering",
    "Concatenate",
    "Conv",
    "Diagonal",
    "Einsum",
    "Gather",
    "LinearMap",
    "MatMul",
    "Pick",
    "Reshape",
    "Scale",
    "Sum",
    "Transpose",
]

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


class _Unary:
    """A map of one tensor: `_shape`, `_apply` and `_adjoint` are those of a subclass."""

    @property
    def is_exact(self) -> bool:
        """Whether it only moves entries, and uses none twice."""
        return False

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Shape of one output."""
        return tuple(self._shape(tuple(shapes[0])))

    def apply(self, arrays: Arrays, tensors: Sequence[Tensor]) -> Tensor:
        """The image of a tensor."""
        return self._apply(arrays, tensors[0])

    def absolute(self, arrays: Arrays, tensors: Sequence[Tensor]) -> Tensor:
        """The image under the map of absolute values."""
        return self._absolute(arrays, tensors[0])

    def adjoint(self, arrays: Arrays, upstream: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """The image of an output under the transposed map."""
        return [self._adjoint(arrays, upstream, tuple(shapes[0]))]

    def _absolute(self, arrays: Arrays, x: Tensor) -> Tensor:
        # Coefficients are factors of the entries of the matrix, one in each.
        return self._apply(arrays.absolute, x)

    def _shape(self, shape: Shape) -> Shape:
        raise NotImplementedError

    def _apply(self, arrays: Arrays, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _adjoint(self, arrays: Arrays, y: Tensor, shape: Shape) -> Tensor:
        raise NotImplementedError


# --- entries that are moved -----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reshape(_Unary):
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
class Transpose(_Unary):
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
class Gather(_Unary):
    """Entries along each axis by itself: padding, cropping, copies, reversals.

    Attributes:
        indices: for each axis of a sample its indices, -1 for zeros, or None where it stays.
    """

    indices: tuple[np.ndarray | None, ...]

    @property
    def is_exact(self) -> bool:
        """Whether no entry is used twice."""
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
class Pick(_Unary):
    """Any entries in any order.

    Attributes:
        indices: (*shape of the output) positions in the flattened input, -1 for zeros.
    """

    indices: np.ndarray

    @cached_property
    def is_exact(self) -> bool:
        """Whether no entry is used twice."""
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
class Adjoint(_Unary):
    """The adjoint of a move: what was copied is added up.

    Attributes:
        of: the move.
        to: the shape that it moves.
    """

    of: Gather
    to: Shape

    @property
    def is_exact(self) -> bool:
        """Whether no entry is used twice."""
        return self.of.is_exact

    def _shape(self, shape: Shape) -> Shape:
        return self.to

    def _apply(self, arrays: Arrays, x: Tensor) -> Tensor:
        return self.of.adjoint(arrays, x, [self.to])[0]

    def _adjoint(self, arrays: Arrays, y: Tensor, shape: Shape) -> Tensor:
        return self.of.apply(arrays, [y])


# --- entries that are multiplied ------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scale(_Unary):
    """A number times a tensor; in a sum it may be broadcast."""

    factor: float = 1.0

    @property
    def is_exact(self) -> bool:
        """Whether it is the identity: -1 exchanges the ends of an interval."""
        return self.factor == 1.0

    def _shape(self, shape: Shape) -> Shape:
        return tuple(shape)

    def _apply(self, arrays: Arrays, x: Tensor) -> Tensor:
        return x if self.factor == 1.0 else x * self.factor

    def _absolute(self, arrays: Arrays, x: Tensor) -> Tensor:
        return x if self.is_exact else x * abs(self.factor)

    def _adjoint(self, arrays: Arrays, y: Tensor, shape: Shape) -> Tensor:
        return self._apply(arrays, unbroadcast(arrays, y, shape))


def unbroadcast(arrays: Arrays, y: Tensor, shape: Shape) -> Tensor:
    """The adjoint of broadcasting (batch, *shape) to the shape of `y`, of as many axes."""
    axes = [i for i, n in enumerate(shape, 1) if n == 1 and y.shape[i] != 1]
    return arrays.sum(y, axes) if axes else y


@dataclass(frozen=True, eq=False)
class Diagonal(_Unary):
    """Each entry times its own number, `x * scale`; `scale` is (1, *shape)."""

    scale: np.ndarray

    def _shape(self, shape: Shape) -> Shape:
        return tuple(shape)

    def _apply(self, arrays: Arrays, x: Tensor) -> Tensor:
        return x * arrays.coefficients(self.scale)

    def _adjoint(self, arrays: Arrays, y: Tensor, shape: Shape) -> Tensor:
        return self._apply(arrays, y)


@dataclass(frozen=True, eq=False)
class MatMul(_Unary):
    """`x @ matrix` over the last axis; `matrix` is (inputs, outputs)."""

    matrix: np.ndarray

    def _shape(self, shape: Shape) -> Shape:
        return (*shape[:-1], self.matrix.shape[1])

    def _apply(self, arrays: Arrays, x: Tensor) -> Tensor:
        return arrays.matmul(x, arrays.coefficients(self.matrix))

    def _adjoint(self, arrays: Arrays, y: Tensor, shape: Shape) -> Tensor:
        return arrays.matmul(y, arrays.coefficients(self.matrix), transposed=True)


@dataclass(frozen=True, eq=False)
class Blocks(_Unary):
    """Sums of parts of the last axis, each entry times its own number.

    The last axis is cut into p consecutive parts; part j of the result is the sum over i of
    `coefficients[i, j] * part i`.

    Attributes:
        coefficients: (p, q, entries of a part).
    """

    coefficients: np.ndarray

    def _shape(self, shape: Shape) -> Shape:
        return (*shape[:-1], self.coefficients.shape[1] * self.coefficients.shape[2])

    def _apply(self, arrays: Arrays, x: Tensor) -> Tensor:
        return self._summed(arrays, x, arrays.coefficients(self.coefficients))

    def _adjoint(self, arrays: Arrays, y: Tensor, shape: Shape) -> Tensor:
        coefficients = arrays.transpose(arrays.coefficients(self.coefficients), (1, 0, 2))
        return self._summed(arrays, y, coefficients)

    def _summed(self, arrays: Arrays, x: Tensor, coefficients: np.ndarray) -> Tensor:
        parts, results, entries = coefficients.shape
        rest = tuple(x.shape[1:-1])
        x = arrays.reshape(x, (*rest, parts, 1, entries)) * coefficients
        summed = arrays.sum(x, [len(rest) + 1]) if parts > 1 else x
        return arrays.reshape(summed, (*rest, results * entries))


@dataclass(frozen=True, eq=False)
class AxisProducts(_Unary):
    """A matrix along each axis by itself: means of windows, sums over axes.

    Attributes:
        matrices: for each axis of a sample (inputs, outputs), or None where it stays.
    """

    matrices: tuple[np.ndarray | None, ...]

    def _shape(self, shape: Shape) -> Shape:
        pairs = zip(shape, self.matrices, strict=True)
        return tuple(size if m is None else m.shape[1] for size, m in pairs)

    def _apply(self, arrays: Arrays, x: Tensor) -> Tensor:
        return self._along(arrays, x, "nm")

    def _adjoint(self, arrays: Arrays, y: Tensor, shape: Shape) -> Tensor:
        return self._along(arrays, y, "mn")

    def _along(self, arrays: Arrays, x: Tensor, sides: str) -> Tensor:
        letters = string.ascii_uppercase[: len(x.shape)]
        for axis, matrix in enumerate(self.matrices, 1):
            if matrix is not None:
                before = letters[:axis] + "n" + letters[axis + 1 :]
                after = before.replace("n", "m")
                if sides == "mn":
                    before, after = after, before
                x = arrays.einsum(f"{before},nm->{after}", x, arrays.coefficients(matrix))
        return x


@dataclass(frozen=True, eq=False)
class Centering(_Unary):
    """`scale * (x - mean(x))`, means over some axes of a sample, counted with the batch axis."""

    axes: tuple[int, ...]
    scale: float

    def _shape(self, shape: Shape) -> Shape:
        return tuple(shape)

    def _apply(self, arrays: Arrays, x: Tensor) -> Tensor:
        return self._combined(arrays, x, self.scale, -self.scale)

    def _absolute(self, arrays: Arrays, x: Tensor) -> Tensor:
        # Off the diagonal the matrix holds -scale / n, on it scale (1 - 1 / n).
        scale = abs(self.scale)
        return self._combined(arrays, x, scale * (1.0 - 2.0 / self._count(x)), scale)

    def _adjoint(self, arrays: Arrays, y: Tensor, shape: Shape) -> Tensor:
        return self._apply(arrays, y)

    def _combined(self, arrays: Arrays, x: Tensor, own: float, of_mean: float) -> Tensor:
        return own * x + arrays.sum(x, self.axes) * (of_mean / self._count(x))

    def _count(self, x: Tensor) -> int:
        return math.prod(x.shape[axis] for axis in self.axes)


@dataclass(frozen=True, eq=False)
class Einsum(_Unary):
    """`einsum(equation, x, kernel)`; the batch axis is the first letter of the tensor, or `...`."""

    equation: str
    kernel: np.ndarray

    @property
    def _equation(self) -> str:
        return self.equation.replace(" ", "")

    @property
    def _terms(self) -> tuple[str, str, str]:
        operands, _, result = self._equation.partition("->")
        tensor, _, kernel = operands.partition(",")
        return tensor, kernel, result

    def _shape(self, shape: Shape) -> Shape:
        zeros = np.zeros((1, *shape))
        return np.einsum(
            ",".join(self._terms[:2]) + "->" + self._terms[2], zeros, self.kernel
        ).shape[1:]

    def _apply(self, arrays: Arrays, x: Tensor) -> Tensor:
        return arrays.einsum(self._equation, x, arrays.coefficients(self.kernel))

    def _adjoint(self, arrays: Arrays, y: Tensor, shape: Shape) -> Tensor:
        tensor, kernel, result = self._terms
        coefficients = arrays.coefficients(self.kernel)
        summed = [i for i, a in enumerate(tensor) if a not in f"{kernel}{result}"]
        if not summed:
            return arrays.einsum(f"{result},{kernel}->{tensor}", y, coefficients)
        # What was summed up by itself is the same for all entries of those axes.
        letters = "".join(tensor[i] for i in summed)
        after = tensor.replace("...", "")
        sizes = dict(zip(after[::-1], (1, *shape)[::-1], strict=False))
        ones = arrays.coefficients(np.ones([sizes[letter] for letter in letters]))
        return arrays.einsum(f"{result},{kernel},{letters}->{tensor}", y, coefficients, ones)


@dataclass(frozen=True, eq=False)
class Conv(_Unary):
    """A convolution over zeros, `conv(pad(x), kernel)`, channels last; or the adjoint of one.

    Attributes:
        kernel: (*kernel_size, groups, inputs, outputs).
        strides: one per axis.
        dilation: one per axis.
        pads: zeros before and after each axis.
        sizes: of the image that the convolution reads; of a transposed one, what it writes.
        transposed: whether the map is the adjoint of that convolution.
    """

    kernel: np.ndarray
    strides: Shape
    dilation: Shape
    pads: tuple[tuple[int, int], ...]
    sizes: Shape
    transposed: bool = False

    def _shape(self, shape: Shape) -> Shape:
        groups, inputs, outputs = self.kernel.shape[-3:]
        if self.transposed:
            return (*self.sizes, groups * inputs)
        return (*self.output_sizes, groups * outputs)

    @property
    def padded(self) -> Shape:
        """Sizes of the image with its zeros."""
        return tuple(
            n + before + after for n, (before, after) in zip(self.sizes, self.pads, strict=True)
        )

    @property
    def output_sizes(self) -> Shape:
        """Sizes of the image that the convolution writes."""
        axes = zip(self.padded, self.kernel.shape, self.dilation, self.strides, strict=False)
        return tuple((n - (k - 1) * rate - 1) // stride + 1 for n, k, rate, stride in axes)

    @cached_property
    def written_out(self) -> np.ndarray:
        """The kernel (*kernel_size, inputs, outputs) of all channels, with all its zeros."""
        *sizes, groups, inputs, outputs = self.kernel.shape
        reach = [(k - 1) * rate + 1 for k, rate in zip(sizes, self.dilation, strict=True)]
        full = np.zeros((*reach, groups, inputs, groups, outputs))
        taps = [slice(None, None, rate) for rate in self.dilation]
        for group in range(groups):
            place: tuple[Any, ...] = (*taps, group, slice(None), group)
            full[place] = self.kernel[..., group, :, :]
        return full.reshape(*reach, groups * inputs, groups * outputs)

    def _apply(self, arrays: Arrays, x: Tensor) -> Tensor:
        return self._backward(arrays, x) if self.transposed else self._forward(arrays, x)

    def _adjoint(self, arrays: Arrays, y: Tensor, shape: Shape) -> Tensor:
        return self._forward(arrays, y) if self.transposed else self._backward(arrays, y)

    def _forward(self, arrays: Arrays, x: Tensor) -> Tensor:
        if np.any(self.pads):
            x = arrays.pad(x, ((0, 0), *self.pads, (0, 0)))
        return arrays.conv(x, arrays.coefficients(self.kernel), self.strides, self.dilation)

    def _backward(self, arrays: Arrays, y: Tensor) -> Tensor:
        kernel = arrays.coefficients(self.kernel)
        image = arrays.conv_adjoint(y, kernel, self.strides, self.dilation, self.padded)
        for axis, (size, (before, _)) in enumerate(zip(self.sizes, self.pads, strict=True), 1):
            if size != image.shape[axis]:
                image = arrays.take(image, before + np.arange(size), axis)
        return image


# --- several tensors ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sum:
    """The sum of a map of each tensor, of which each may be broadcast along axes of size 1."""

    terms: tuple[_Unary, ...]
    is_exact: bool = field(default=False, init=False)

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Shape of one output."""
        pairs = zip(self.terms, shapes, strict=True)
        return np.broadcast_shapes(*(term.shape([shape]) for term, shape in pairs))

    def apply(self, arrays: Arrays, tensors: Sequence[Tensor]) -> Tensor:
        """The image of some tensors."""
        first, *others = (t.apply(arrays, [x]) for t, x in zip(self.terms, tensors, strict=True))
        return sum(others, start=first)

    def absolute(self, arrays: Arrays, tensors: Sequence[Tensor]) -> Tensor:
        """The image under the map of absolute values."""
        first, *others = (t.absolute(arrays, [x]) for t, x in zip(self.terms, tensors, strict=True))
        return sum(others, start=first)

    def adjoint(self, arrays: Arrays, upstream: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """The image of an output under the transposed map, one for each input."""
        return [
            term.adjoint(arrays, unbroadcast(arrays, upstream, term.shape([shape])), [shape])[0]
            for term, shape in zip(self.terms, shapes, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Concatenate:
    """Tensors side by side along an axis, counted with the batch axis."""

    axis: int
    is_exact: bool = field(default=True, init=False)

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Shape of one output."""
        size = sum(shape[self.axis - 1] for shape in shapes)
        return (*shapes[0][: self.axis - 1], size, *shapes[0][self.axis :])

    def apply(self, arrays: Arrays, tensors: Sequence[Tensor]) -> Tensor:
        """The image of some tensors."""
        return arrays.concatenate(tensors, self.axis)

    def absolute(self, arrays: Arrays, tensors: Sequence[Tensor]) -> Tensor:
        """The image under the map of absolute values."""
        return self.apply(arrays, tensors)

    def adjoint(self, arrays: Arrays, upstream: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """The image of an output under the transposed map, one for each input."""
        sizes = [shape[self.axis - 1] for shape in shapes]
        ends = np.cumsum(sizes)
        pairs = zip(ends - sizes, ends, strict=True)
        return [arrays.take(upstream, np.arange(*pair), self.axis) for pair in pairs]
