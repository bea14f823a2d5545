"""L2 balls around what ReLUs read, and the constants of backward bounds in them.

A box bounds each entry of a node by itself, and its corners are far from its center. Where the
input of a program lies in an L2 ball, so does every node, with the radius that a proven Lipschitz
constant of the part before it allows. A row `c . relu(z)` is bounded by a linear function `g . z`
on the ball with center m and radius r and on the box together, by weak duality: for any `v > 0`,

    c . relu(z) - g . z >= sum(min(c_i relu(t) - g_i t + v (t - m_i)^2 / 2)) - v r^2 / 2

where each minimum is over the interval of its entry. It lies on one of two parabolas, left and
right of 0, at the vertex or at an end. Without the box this is the bound of SDP-CROWN (Chiu et al.
2025, arXiv:2506.06665), without the ball (`v = 0`) that of the lines. A few v are tried: in the
first, no entry can be farther away than the ball allows, and in the next one the distance would be
the radius, if it fell as 1 / v.
"""

import math
from typing import Any, NamedTuple

import tensorflow as tf

from deel_lip_tf._rounding import TINY
from deel_lip_tf.verify.propagation.coefficients import Coefficients
from deel_lip_tf.verify.propagation.interval import INFINITY, Interval

BALLS_ENTRIES = 8
"""Tensors of the size of the coefficients that are made at once."""

_STEPS = 6  # values of v that are tried
_LARGEST_STEP = 16.0  # from one to the next, as a factor
_LEAST, _MOST = 1e-150, 1e150  # of v


class Ball(NamedTuple):
    """Where entries of a node lie whose intervals have 0 inside, for each sample of a batch.

    Attributes:
        center: (batch, *shape).
        radius: (batch,), at least `TINY`.
    """

    center: tf.Tensor
    radius: tf.Tensor


class _Pieces(NamedTuple):
    """`right t` for t >= 0 and `left t` for t <= 0, on intervals around or beside 0.

    Attributes:
        right: slopes.
        left: slopes.
        low: smallest t.
        high: largest t.
        center: from which distances are measured.
    """

    right: tf.Tensor
    left: tf.Tensor
    low: tf.Tensor
    high: tf.Tensor
    center: tf.Tensor

    def lowest(self, v: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Where the pieces and `v (t - center)^2 / 2` are smallest, the slope there, that square.

        An entry whose interval does not have 0 inside is no part of the ball, and has no square.
        """
        is_inside = (self.low < 0.0) & (self.high > 0.0)
        slopes, points, squares, values = (self.right, self.left), [], [], []
        for slope, cut in zip(slopes, (tf.maximum, tf.minimum), strict=True):
            low, high = cut(self.low, 0.0), cut(self.high, 0.0)
            vertex = tf.minimum(tf.maximum(self.center - slope / v, low), high)
            points.append(tf.where(is_inside, vertex, tf.where(slope > 0.0, low, high)))
            away = tf.where(is_inside, points[-1] - self.center, 0.0)
            squares.append((v * away) * away)
            values.append(slope * points[-1] + 0.5 * squares[-1])
        is_right = values[0] < values[1]
        point, square = tf.where(is_right, *points), tf.where(is_right, *squares)
        return tf.where(is_right, *slopes), point, square


def in_ball(
    coefficients: Coefficients,
    part: Coefficients,
    left: Any,
    ball: Ball,
    read: Interval,
    roundoff: float,
) -> tf.Tensor:
    """(batch, rows) what `coefficients . f(z) - part . z` does not fall below; -inf if unknown.

    Args:
        coefficients: of `f(t) = max(t, 0) + left min(t, 0)`.
        part: of z, as `relaxed` returns them.
        left: a number, or an array that broadcasts against z.
        ball: of z.
        read: of z.
        roundoff: relative error of a sum of products.
    """
    spread, total, magnitude = part.spread, part.total, tf.maximum(read[2], tf.abs(ball.center))
    low, high, center, largest = map(spread, (read.lower, read.upper, ball.center, magnitude))
    c, g, left = coefficients.values, part.values, spread(tf.zeros_like(read.lower[:1]) + left)
    pieces = _Pieces(c - g, c * left - g, low, high, center)
    v = _multiplier(pieces, part, ball)
    wide = part.by_row(v)
    slope, point, square = pieces.lowest(wide)
    value = total(slope * tf.stop_gradient(point) + 0.5 * tf.stop_gradient(square))
    value -= 0.5 * (v * ball.radius[:, None]) * ball.radius[:, None] * (1.0 + roundoff)
    # A vertex is wrong by less than `roundoff` times the size of its terms, and the parabola
    # there by half of v times the square of it.
    size = (1.0 + tf.abs(left)) * tf.abs(c) + tf.abs(g)
    error = total(2.0 * size * largest + square + (roundoff * wide * largest) * largest)
    value -= roundoff * error + TINY * (1.0 + math.prod(part.shape))
    return tf.where(tf.math.is_nan(value), -INFINITY, value)


def _multiplier(pieces: _Pieces, part: Coefficients, ball: Ball) -> tf.Tensor:
    """(batch, rows) the best v that was tried; no function of the coefficients to a gradient."""
    pieces = _Pieces(*map(tf.stop_gradient, pieces))
    radius, total = ball.radius[:, None], part.total
    is_inside = (pieces.low < 0.0) & (pieces.high > 0.0)
    steepest = tf.maximum(tf.abs(pieces.right), tf.abs(pieces.left))
    first = _usable(tf.sqrt(total(tf.where(is_inside, steepest, 0.0) ** 2)) / radius)

    def tried(v, low, high, best, best_v):
        slope, point, square = pieces.lowest(part.by_row(v))
        value = total(slope * point + 0.5 * square) - 0.5 * (v * radius) * radius
        best, best_v = tf.maximum(best, value), tf.where(value > best, v, best_v)
        # The bound is concave in v, and grows with it where the distance exceeds the radius.
        step = tf.sqrt(total(square) / v) / radius
        low, high = tf.where(step > 1.0, v, low), tf.where(step > 1.0, high, v)
        v = v * tf.clip_by_value(step, 1.0 / _LARGEST_STEP, _LARGEST_STEP)
        v = _usable(tf.where((low < v) & (v < high), v, tf.sqrt(low) * tf.sqrt(high)))
        return v, low, high, best, best_v

    lowest = tf.fill(tf.shape(first), -INFINITY)
    state = first, tf.zeros_like(first), first, lowest, first
    options = {"maximum_iterations": _STEPS, "parallel_iterations": 1}
    return tf.stop_gradient(tf.while_loop(lambda *_: True, tried, state, **options)[-1])


def _usable(v: tf.Tensor) -> tf.Tensor:
    """A positive number, whatever overflowed."""
    least, most = (tf.constant(end, tf.float64) for end in (_LEAST, _MOST))
    return tf.where(tf.math.is_nan(v), most, tf.clip_by_value(v, least, most))
