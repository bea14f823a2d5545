"""What float32 rounding adds to one call of a layer.

The model of the arithmetic: every operation returns its exact result times `1 + d` with
`|d| <= u = 2**-24`, sums are taken in any order, with or without fused multiply-add, and a result
or an operand below `2**-126` may be replaced by 0 (gradual underflow is not needed). An inner
product of n terms is then wrong by at most `gamma(n) sum |a_i b_i|`, `gamma(n) = n u / (1 - n u)`
(Higham, "Accuracy and Stability of Numerical Algorithms", section 3; Jeannerod and Rump 2013).
Functions made of exponentials are taken to be wrong by at most `64 u (1 + |x| + |f(x)|)`.
"""

import math
from dataclasses import dataclass
from typing import Any

from deel_lip_tf._rounding import UNITS, UP
from deel_lip_tf.errors import UnsupportedLayerError

UNIT = UNITS["float32"]
"""Unit roundoff of float32."""

FLUSHED = 2.0**-126
"""Numbers below may be replaced by 0."""

LARGEST = 2.0**126
"""Numbers up to here are finite, with all sums of a few of them."""

# Squares and exponentials are taken to be right up to here; a square overflows beyond 2**63.
_LARGEST_SMOOTH = 2.0**60
_SMOOTH = 64.0 * UNIT


@dataclass(frozen=True)
class Rounding:
    """Bounds what one call adds to the deviation, in the Euclidean norm.

    Attributes:
        relative: times the norm of the computed input (several: the sum of their norms).
        absolute: plus this.
        reach: `(a, b)`: numbers stay finite as long as `a * norm + b <= 1`.
    """

    relative: float
    absolute: float
    reach: tuple[float, float]


@dataclass(frozen=True)
class CallShapes:
    """Where a rule is applied.

    Attributes:
        inputs: sizes of one sample of the first input.
        outputs: the same of the output.
        constant: the largest Lipschitz constant with respect to one of the inputs.
        branches: how many inputs there are.
        numbers: the constants among the arguments of an operation.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constant: float
    branches: int = 1
    numbers: tuple = ()

    @property
    def flushed(self) -> float:
        """Norm of what flushing subnormal numbers of input and output to 0 changes."""
        entries = self.constant * math.sqrt(math.prod(self.inputs))
        return FLUSHED * (entries + math.sqrt(math.prod(self.outputs)))

    def rounding(self, relative: float, offset: float = 0.0, terms: int = 1) -> Rounding:
        """`relative` errors of a call whose terms are at most `constant * norm + offset`.

        Sums of up to `terms` entries of its input may be made before they are divided.
        """
        # A factor below 2**-126 may be replaced by 0: more than the few that one call has.
        lost = 8.0 * FLUSHED if relative else 0.0
        absolute = (relative + lost) * offset + 4.0 * self.flushed
        largest = max(self.constant, math.sqrt(terms))
        reach = (2.0 * largest / LARGEST, 2.0 * offset / LARGEST)
        return Rounding(relative * self.constant + lost, absolute, reach)

    def copied(self, factor: float = 1.0) -> Rounding:
        """Of copies, comparisons and zeros; one product where there is a factor."""
        return self.rounding(0.0 if factor == 1.0 else gamma(2))

    def mean(self, window: tuple[int, ...] | None = None) -> Rounding:
        """Of means of windows, or of the whole input.

        Their entries are not negative, so the norm is that of absolute values.
        """
        whole = math.prod(self.inputs) // max(math.prod(self.outputs), 1)
        terms = whole if window is None else math.prod(window)
        return self.rounding(gamma(terms + 8), terms=terms)


def gamma(count: int) -> float:
    """Relative error of `count` float32 roundings.

    Raises:
        UnsupportedLayerError: if they are too many for a bound.
    """
    if count * UNIT >= 0.25:
        raise UnsupportedLayerError(f"it adds up {count} terms, too many for float32")
    return count * UNIT / (1.0 - count * UNIT) * UP


def copied(layer: Any, shapes: CallShapes) -> Rounding:
    """Of what copies entries, or compares them and selects."""
    return shapes.copied()


def few(layer: Any, shapes: CallShapes) -> Rounding:
    """Of a function of a few products and sums."""
    return shapes.rounding(gamma(8))


def smooth(layer: Any, shapes: CallShapes, roundings: float = _SMOOTH) -> Rounding:
    """Of a function made of exponentials."""
    places = math.prod(shapes.outputs)
    per_input = roundings * (1.0 + shapes.constant)
    absolute = 2.0 * per_input * math.sqrt(places) + 4.0 * shapes.flushed
    return Rounding(per_input, absolute, (1.0 / _LARGEST_SMOOTH, 0.0))


def softmax(layer: Any, shapes: CallShapes) -> Rounding:
    """Of exponentials divided by their sum."""
    return smooth(layer, shapes, _SMOOTH + gamma(2 * math.prod(shapes.inputs)))


def root_of_squares(shapes: CallShapes, window: tuple[int, ...] | None = None) -> Rounding:
    """Of roots of sums of squares over windows, or over the whole input."""
    mean = shapes.mean(window)
    # The root of the squares below 2**-126 that may be lost; and squares overflow early.
    lost = 4.0 * shapes.constant * math.sqrt(FLUSHED * math.prod(shapes.inputs))
    reach = (2.0 * max(shapes.constant, 1.0) / _LARGEST_SMOOTH, 0.0)
    return Rounding(mean.relative, mean.absolute + lost, reach)
