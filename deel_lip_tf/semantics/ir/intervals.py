"""Intervals of maxima and of sorted numbers, better than those of the ReLUs they are made of.

The largest of two numbers lies between the larger of their lower and the larger of their upper
bounds, and the i-th smallest of n between the i-th smallest of their lower and of their upper
bounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from deel_lip_tf.semantics.ir.primitives import Arrays, Tensor

__all__ = ["Exchanged", "Extreme", "IntervalRule", "PairMaxima", "PositiveParts", "Sorted"]

Interval = tuple[Tensor, Tensor]


class IntervalRule(Protocol):
    """A sound interval of a node from those of some nodes before it."""

    @property
    def sources(self) -> tuple[int, ...]:
        """Positions of these nodes."""

    def bounds(self, arrays: Arrays, intervals: Sequence[Interval]) -> Interval:
        """`(lower, upper)` of each source to `(lower, upper)`."""


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


@dataclass(frozen=True)
class Sorted(_Monotone):
    """The last axis in ascending order."""

    sources: tuple[int]

    def _at(self, arrays: Arrays, ends: Sequence[Tensor]) -> Tensor:
        (x,) = ends
        return arrays.sort(x)


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
