"""Functions of one number on intervals, in `keras.ops`: what each is, and where it turns.

Every function that verification knows grows everywhere, or falls down to one point and grows from
there on. So its smallest value on `[l, u]` is the one at that point, moved into the interval, and
its largest one is at an end.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from deel_lip_tf.semantics.ir.elementwise import Function

Tensor = Any


class Curve(NamedTuple):
    """A function of one number.

    Attributes:
        value: the function.
        turn: where it begins to grow.
        slopes: on either side of 0, of a convex function that is straight there.
    """

    value: Callable[[Tensor], Tensor]
    turn: float = -math.inf
    slopes: tuple[float, float] | None = None


def curve_of(function: Function) -> Curve | None:
    """The curve of a function, or None: what has none cannot be trained."""
    make = _CURVES.get(function.name)
    return None if make is None else make(*function.arguments)


def image(curve: Curve, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value on intervals."""
    if curve.turn == -math.inf:
        return curve.value(lower), curve.value(upper)
    lowest = ops.minimum(ops.maximum(lower, curve.turn), upper)
    return curve.value(lowest), ops.maximum(curve.value(lower), curve.value(upper))


def lines(curve: Curve, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A line below and one above on intervals: slope and offset of each.

    Of a function of two slopes the chord above it, and below it the one of its pieces that is the
    longer; of another one, its smallest and its largest value.
    """
    if curve.slopes is None:
        below, above = image(curve, lower, upper)
        return ops.zeros_like(lower), below, ops.zeros_like(lower), above
    left, right = curve.slopes
    slope = ops.cast(ops.where(upper > -lower, right, left), lower.dtype)
    bends = ops.logical_and(lower < 0.0, upper > 0.0)
    # Elsewhere there is one slope, and no quotient of two small numbers.
    width = ops.where(bends, upper - lower, 1.0)
    chord = ops.where(bends, (right * upper - left * lower) / width, slope)
    above = ops.where(bends, (left - chord) * lower, 0.0)
    return slope, ops.zeros_like(lower), chord, above


def _relu(negative_slope: float, ceiling: float) -> Curve:
    def value(x: Tensor) -> Tensor:
        above = ops.relu(x) if ceiling == math.inf else ops.clip(x, 0.0, ceiling)
        return above + negative_slope * ops.minimum(x, 0.0) if negative_slope else above

    is_convex = ceiling == math.inf and negative_slope <= 1.0
    turn = 0.0 if negative_slope < 0.0 else -math.inf
    return Curve(value, turn, (negative_slope, 1.0) if is_convex else None)


def _elu(alpha: float, scale: float) -> Curve | None:
    if alpha < 0.0 or scale < 0.0:
        return None
    return Curve(lambda x: scale * ops.elu(x, alpha))


def _always(value: Callable[[Tensor], Tensor], turn: float = -math.inf) -> Callable[[], Curve]:
    return lambda: Curve(value, turn)


# Zeros of the derivatives, by bisection to all digits of float64.
_GELU_TURNS = {False: -0.7517915246935645, True: -0.7524614220710163}
_CURVES: dict[str, Callable[..., Curve | None]] = {
    "relu": _relu,
    "elu": _elu,
    "celu": lambda alpha: Curve(lambda x: ops.celu(x, alpha)),
    "clip": lambda low, high: Curve(lambda x: ops.clip(x, low, high)),
    "gelu": lambda tanh: Curve(lambda x: ops.gelu(x, tanh), _GELU_TURNS[tanh]),
    "soft_shrink": lambda threshold: Curve(lambda x: ops.soft_shrink(x, threshold)),
    "squareplus": lambda b: Curve(lambda x: ops.squareplus(x, b)),
    "exponential": _always(ops.exp),
    "hard_sigmoid": _always(ops.hard_sigmoid),
    "hard_silu": _always(ops.hard_silu, -1.5),
    "log_sigmoid": _always(ops.log_sigmoid),
    "mish": _always(lambda x: x * ops.tanh(ops.softplus(x)), -1.1924312145154954),
    "sigmoid": _always(ops.sigmoid),
    "silu": _always(ops.silu, -1.2784645427610741),
    "softplus": _always(ops.softplus),
    "softsign": _always(ops.softsign),
    "sparse_plus": _always(ops.sparse_plus),
    "sparse_sigmoid": _always(ops.sparse_sigmoid),
    "tanh": _always(ops.tanh),
    "tanh_shrink": _always(ops.tanh_shrink),
}
