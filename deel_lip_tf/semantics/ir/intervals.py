"""Intervals of maxima and of sorted numbers, better than those of the ReLUs they are made of.

The largest of two numbers lies between the larger of their lower and the larger of their upper
bounds, and the i-th smallest of n between the i-th smallest of their lower and of their upper
bounds.

The same of gradients: a maximum has the gradient of one of its numbers, and a sorted vector those
of its entries in another order. So what a number can hand on is the coefficient of one of the
places that it may come to, and where the intervals say which place, that one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from deel_lip_tf.semantics.ir.primitives import Arrays, Tensor

Interval = tuple[Tensor, Tensor]


class IntervalRule(Protocol):
    """A sound interval of a node from those of some nodes before it."""

    @property
    def sources(self) -> tuple[int, ...]:
        """Positions of these nodes."""

    def bounds(self, arrays: Arrays, intervals: Sequence[Interval]) -> Interval:
        """`(lower, upper)` of each source to `(lower, upper)`."""

    def passed_back(
        self, intervals: Sequence[Interval], coefficients: Interval
    ) -> list[Interval] | None:
        """Intervals of the coefficients of each source, from those of the node, in NumPy.

        Args:
            intervals: of the sources, (n, 1, *shape), as arrays.
            coefficients: of linear functions of the node, (n, rows, *shape).

        Returns:
            One for each source, or `None` where the ReLUs have to say.
        """


class _Monotone:
    """A rule for a function that grows with each of its numbers: applied to either end."""

    def bounds(self, arrays: Arrays, intervals: Sequence[Interval]) -> Interval:
        lower, upper = (self._at(arrays, ends) for ends in zip(*intervals, strict=True))
        return lower, upper

    def _at(self, arrays: Arrays, ends: Sequence[Tensor]) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Extreme(_Monotone):
    """The entrywise maximum (`sign` 1) or minimum (-1) of two nodes."""

    sources: tuple[int, int]
    sign: float

    def _at(self, arrays: Arrays, ends: Sequence[Tensor]) -> Tensor:
        return arrays.maximum(*ends) if self.sign > 0 else arrays.minimum(*ends)

    def passed_back(
        self, intervals: Sequence[Interval], coefficients: Interval
    ) -> list[Interval] | None:
        """The one that is surely taken has the coefficient, the other one none."""
        shape = np.shape(coefficients[0])[2:]
        if any(low.shape[2:] != shape for low, _ in intervals):
            return None  # broadcast
        return _of_the_taken(intervals, coefficients, self.sign)


@dataclass(frozen=True)
class PairMaxima(_Monotone):
    """The maxima of entries i and i + half of the last axis; one that is left over stays."""

    sources: tuple[int]

    def _at(self, arrays: Arrays, ends: Sequence[Tensor]) -> Tensor:
        (x,) = ends
        axis, half = len(x.shape) - 1, x.shape[-1] // 2
        parts = np.split(np.arange(x.shape[-1]), [half, 2 * half])
        first, second, rest = (arrays.take(x, part, axis) for part in parts)
        return arrays.concatenate([arrays.maximum(first, second), rest], axis)

    def passed_back(self, intervals: Sequence[Interval], coefficients: Interval) -> list[Interval]:
        """As of a maximum of two; what is left over keeps its own."""
        ((low, high),) = intervals
        half = low.shape[-1] // 2
        pairs = [
            (low[..., start : start + half], high[..., start : start + half]) for start in (0, half)
        ]
        own = [part[..., :half] for part in coefficients]
        first, second = _of_the_taken(pairs, (own[0], own[1]), 1.0)
        lower, upper = (
            np.concatenate([a, b, rest[..., half:]], axis=-1)
            for a, b, rest in zip(first, second, coefficients, strict=True)
        )
        return [(lower, upper)]


@dataclass(frozen=True)
class Sorted(_Monotone):
    """The last axis in ascending order."""

    sources: tuple[int]

    def _at(self, arrays: Arrays, ends: Sequence[Tensor]) -> Tensor:
        (x,) = ends
        return arrays.sort(x)

    def passed_back(self, intervals: Sequence[Interval], coefficients: Interval) -> list[Interval]:
        """An entry has the coefficient of one of the places between its first and its last."""
        ((low, high),) = intervals
        size = low.shape[-1]
        below = (high[..., None, :] < low[..., :, None]).sum(axis=-1)
        above = (low[..., None, :] > high[..., :, None]).sum(axis=-1)
        shape = np.broadcast_shapes(low.shape, coefficients[0].shape)
        lower, upper = np.full(shape, np.inf), np.full(shape, -np.inf)
        for place in range(size):
            may = (below <= place) & (place <= size - 1 - above)
            own = [part[..., place : place + 1] for part in coefficients]
            lower = np.where(may, np.minimum(lower, own[0]), lower)
            upper = np.where(may, np.maximum(upper, own[1]), upper)
        return [(lower, upper)]


@dataclass(frozen=True)
class Exchanged(_Monotone):
    """One stage of a sorting network: pairs become their minimum and their maximum."""

    sources: tuple[int]
    pairs: tuple[tuple[int, int], ...]

    def _at(self, arrays: Arrays, ends: Sequence[Tensor]) -> Tensor:
        (x,) = ends
        partner, takes_largest = np.arange(x.shape[-1]), np.zeros(x.shape[-1], bool)
        for i, j in self.pairs:
            partner[i], partner[j], takes_largest[j] = j, i, True
        other = arrays.take(x, partner, len(x.shape) - 1)
        return arrays.where(takes_largest, arrays.maximum(x, other), arrays.minimum(x, other))

    def passed_back(self, intervals: Sequence[Interval], coefficients: Interval) -> list[Interval]:
        """Both of a pair have the coefficient of its smaller place, or of its larger one."""
        ((low, high),) = intervals
        shape = np.broadcast_shapes(low.shape, coefficients[0].shape)
        lower, upper = (np.array(np.broadcast_to(part, shape)) for part in coefficients)
        for i, j in self.pairs:
            own = [[part[..., place] for part in coefficients] for place in (i, j)]
            hull = np.minimum(own[0][0], own[1][0]), np.maximum(own[0][1], own[1][1])
            for entry, other in ((i, j), (j, i)):
                is_small = high[..., entry] <= low[..., other]
                is_large = low[..., entry] >= high[..., other]
                for part, ends in enumerate(zip(*own, hull, strict=True)):
                    small, large, either = ends
                    chosen = np.where(is_small & ~is_large, small, either)
                    chosen = np.where(is_large & ~is_small, large, chosen)
                    (lower, upper)[part][..., entry] = chosen
        return [(lower, upper)]


@dataclass(frozen=True)
class PositiveParts:
    """`relu(x)` and `relu(-x)`, side by side along the last axis."""

    sources: tuple[int]

    def bounds(self, arrays: Arrays, intervals: Sequence[Interval]) -> Interval:
        """The ends of the second part are those of the first, exchanged and negated."""
        ((low, high),) = intervals
        axis = len(low.shape) - 1
        ends = ((low, -high), (high, -low))
        lower, upper = (arrays.maximum(arrays.concatenate(pair, axis), 0.0) for pair in ends)
        return lower, upper

    def passed_back(self, intervals: Sequence[Interval], coefficients: Interval) -> list[Interval]:
        """Of a positive number that of the first part, of a negative one the negated second."""
        ((low, high),) = intervals
        size = low.shape[-1]
        positive = [part[..., :size] for part in coefficients]
        negative = [-part[..., size:] for part in coefficients[::-1]]
        chosen = [
            np.where(low >= 0, of_positive, np.where(high <= 0, of_negative, hull))
            for of_positive, of_negative, hull in (
                (positive[0], negative[0], np.minimum(positive[0], negative[0])),
                (positive[1], negative[1], np.maximum(positive[1], negative[1])),
            )
        ]
        return [(chosen[0], chosen[1])]


def _of_the_taken(
    intervals: Sequence[Interval], coefficients: Interval, sign: float
) -> list[Interval]:
    """Coefficients of two numbers of which the larger (`sign` 1) or the smaller (-1) is taken."""
    (low, high), (other_low, other_high) = intervals
    if sign > 0:
        is_first, is_second = low >= other_high, other_low >= high
    else:
        is_first, is_second = high <= other_low, other_high <= low
    lower, upper = coefficients
    some = np.minimum(lower, 0.0), np.maximum(upper, 0.0)
    found = []
    for taken, left in ((is_first, is_second), (is_second & ~is_first, is_first)):
        ends = [
            np.where(taken, own, np.where(left, 0.0, either))
            for own, either in zip(coefficients, some, strict=True)
        ]
        found.append((ends[0], ends[1]))
    return found
