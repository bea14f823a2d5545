"""Maps of several tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from deel_lip_tf.semantics.ir.primitives.base import Arrays, Shape, Tensor, Unary
from deel_lip_tf.semantics.ir.primitives.products import unbroadcast


@dataclass(frozen=True, eq=False)
class Sum:
    """The sum of a map of each tensor, of which each may be broadcast along axes of size 1."""

    terms: tuple[Unary, ...]
    is_exact: bool = field(default=False, init=False)

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        pairs = zip(self.terms, shapes, strict=True)
        return np.broadcast_shapes(*(term.shape([shape]) for term, shape in pairs))

    def apply(self, arrays: Arrays, tensors: Sequence[Tensor]) -> Tensor:
        first, *others = (t.apply(arrays, [x]) for t, x in zip(self.terms, tensors, strict=True))
        return sum(others, start=first)

    def absolute(self, arrays: Arrays, tensors: Sequence[Tensor]) -> Tensor:
        first, *others = (t.absolute(arrays, [x]) for t, x in zip(self.terms, tensors, strict=True))
        return sum(others, start=first)

    def adjoint(self, arrays: Arrays, upstream: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
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
        size = sum(shape[self.axis - 1] for shape in shapes)
        return (*shapes[0][: self.axis - 1], size, *shapes[0][self.axis :])

    def apply(self, arrays: Arrays, tensors: Sequence[Tensor]) -> Tensor:
        return arrays.concatenate(tensors, self.axis)

    def absolute(self, arrays: Arrays, tensors: Sequence[Tensor]) -> Tensor:
        return self.apply(arrays, tensors)

    def adjoint(self, arrays: Arrays, upstream: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        sizes = [shape[self.axis - 1] for shape in shapes]
        ends = np.cumsum(sizes)
        pairs = zip(ends - sizes, ends, strict=True)
        return [arrays.take(upstream, np.arange(*pair), self.axis) for pair in pairs]
