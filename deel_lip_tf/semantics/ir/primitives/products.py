"""Maps that multiply entries and add them up."""

import math
import string
from dataclasses import dataclass

import numpy as np

from deel_lip_tf.semantics.ir.primitives.base import Arrays, Shape, Tensor, Unary


@dataclass(frozen=True, eq=False)
class Scale(Unary):
    """A number times a tensor; in a sum it may be broadcast."""

    factor: float = 1.0

    @property
    def is_exact(self) -> bool:
        """Whether it is the identity: -1 exchanges the ends of an interval."""
        return self.factor == 1.0

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
class Diagonal(Unary):
    """Each entry times its own number, `x * scale`; `scale` is (1, *shape)."""

    scale: np.ndarray

    def _apply(self, arrays: Arrays, x: Tensor) -> Tensor:
        return x * arrays.coefficients(self.scale)

    def _adjoint(self, arrays: Arrays, y: Tensor, shape: Shape) -> Tensor:
        return self._apply(arrays, y)


@dataclass(frozen=True, eq=False)
class MatMul(Unary):
    """`x @ matrix` over the last axis; `matrix` is (inputs, outputs)."""

    matrix: np.ndarray

    def _shape(self, shape: Shape) -> Shape:
        return (*shape[:-1], self.matrix.shape[1])

    def _apply(self, arrays: Arrays, x: Tensor) -> Tensor:
        return arrays.matmul(x, arrays.coefficients(self.matrix))

    def _adjoint(self, arrays: Arrays, y: Tensor, shape: Shape) -> Tensor:
        return arrays.matmul(y, arrays.coefficients(self.matrix), transposed=True)


@dataclass(frozen=True, eq=False)
class Blocks(Unary):
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
class AxisProducts(Unary):
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
class Centering(Unary):
    """`scale * (x - mean(x))`, means over some axes of a sample, counted with the batch axis."""

    axes: tuple[int, ...]
    scale: float

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
class Einsum(Unary):
    """`einsum(equation, x, kernel)`; the batch axis is the first letter of the tensor, or `...`."""

    equation: str
    kernel: np.ndarray

    def _shape(self, shape: Shape) -> Shape:
        tensor, kernel, result = einsum_terms(self.equation)
        operands = np.zeros((1, *shape)), np.zeros(self.kernel.shape)
        return np.einsum(f"{tensor},{kernel}->{result}", *operands).shape[1:]

    def _apply(self, arrays: Arrays, x: Tensor) -> Tensor:
        return arrays.einsum(self.equation.replace(" ", ""), x, arrays.coefficients(self.kernel))

    def _adjoint(self, arrays: Arrays, y: Tensor, shape: Shape) -> Tensor:
        tensor, kernel, result = einsum_terms(self.equation)
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


def einsum_terms(equation: str) -> tuple[str, str, str]:
    """The letters of the two operands of an einsum, and those of its result."""
    operands, _, result = equation.replace(" ", "").partition("->")
    tensor, _, kernel = operands.partition(",")
    return tensor, kernel, result
