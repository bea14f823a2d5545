"""Derivatives of activations on intervals: between which numbers all their slopes lie."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from deel_lip_tf.verify.propagation.relaxations import SLACK


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of the line on which a derivative is monotone.

    Attributes:
        left: end, or -inf.
        right: end, or inf.
        slope: a number, or an array that broadcasts against a sample, where the derivative is
            constant; else a function of float64 tensors, continued to both ends.
    """

    left: float
    right: float
    slope: float | np.ndarray | Callable


@dataclass(frozen=True, eq=False)
class Derivative:
    """The derivative of a continuous function, wherever it has one.

    Attributes:
        pieces: that cover the line.
        range: bounds of all its values; the exact sign where it has only one.
    """

    pieces: tuple[Piece, ...]
    range: tuple[float, float] = (-np.inf, np.inf)

    def on(self, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and the largest value on intervals (batch, *shape), rounded outward.

        A chord between two points of the interval has its slope in between, too. A piece that an
        interval meets in one of its ends alone does not count: there the function has the slopes of
        the piece beside it.
        """
        smallest, largest = np.full(lower.shape, np.inf), np.full(lower.shape, -np.inf)
        for piece in self.pieces:
            meets = (upper > piece.left) & (lower < piece.right)
            meets |= (lower == upper) & (piece.left <= lower) & (lower <= piece.right)
            low, high = self._values(piece, lower, upper)
            smallest = np.where(meets, np.fmin(smallest, low), smallest)
            largest = np.where(meets, np.fmax(largest, high), largest)
        # Of an interval that is no number nothing is known.
        known = ~np.isnan(lower) & ~np.isnan(upper)
        return np.where(known, smallest, self.range[0]), np.where(known, largest, self.range[1])

    def _values(self, piece: Piece, lower: np.ndarray, upper: np.ndarray):
        """The smaller and the larger value of a piece at the ends of intervals, or of the piece."""
        if not callable(piece.slope):
            return piece.slope, piece.slope
        ends = [np.clip(end, piece.left, piece.right) for end in (lower, upper)]
        with np.errstate(all="ignore"):
            values = [np.asarray(piece.slope(tf.constant(end, tf.float64))) for end in ends]
            low, high = np.minimum(*values), np.maximum(*values)
            low, high = low - SLACK[True] * (1.0 + abs(low)), high + SLACK[True] * (1.0 + abs(high))
        smallest, largest = self.range
        low = np.where(np.isnan(low), smallest, np.maximum(low, smallest))
        return low, np.where(np.isnan(high), largest, np.minimum(high, largest))
