"""Activations between two lines: on an interval `[l, u]`, `a x + b <= f(x) <= c x + d`.

For a given slope `s` the best offset above is `max(f(p) - s p)` over `[l, u]`, which is reached at
an end, at a breakpoint, or where `f'(p) = s`. An activation therefore consists of its function, its
breakpoints and the points of a given derivative; any slope is then sound, and a point too many
changes nothing. The slopes themselves need no care: those chosen here make the line as close as
possible to the function in the middle of the interval, which is the least area.

Every offset is moved outward by `SLACK` times the terms it is computed from, for functions with
exponentials also by `SLACK` itself: more than their rounding errors in float64, and more than the
second-order effect of the rounding of a point where the derivative is `s`. An interval with an
infinite end has slope 0 and the bounds of the whole function; what is not a number counts as
infinite.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deel_lip_tf._rounding import TINY_NORM

SLACK = {True: 2.0**-40, False: 2.0**-50}
"""Relative outward rounding, by whether a function is smooth."""

_SAMPLES = 17  # odd: the middle of the interval is one of them
_HALVINGS = 24  # of the slope between the smallest and the largest chord
_ROOT_HALVINGS = 60  # of an interval, to a point of given derivative


class Lines(NamedTuple):
    """`lower_slope x + lower_offset <= f(x) <= upper_slope x + upper_offset`."""

    lower_slope: tf.Tensor
    lower_offset: tf.Tensor
    upper_slope: tf.Tensor
    upper_offset: tf.Tensor


@dataclass(frozen=True, eq=False)
class Activation:
    """A continuous function of one number.

    Attributes:
        name: for messages.
        value: the function, elementwise on float64 tensors.
        range: bounds of all its values.
        breakpoints: where it has no derivative.
        critical: `(slope, l, u)` to the points of `[l, u]` where the derivative is the slope, and
            possibly other ones; `None` for a function made of straight pieces.
    """

    name: str
    value: Callable
    range: tuple[float, float] = (-np.inf, np.inf)
    breakpoints: tuple[float, ...] = ()
    critical: Callable | None = None

    @property
    def is_smooth(self) -> bool:
        """Whether it has curved pieces."""
        return self.critical is not None


def lines(activation: Activation, lower: tf.Tensor, upper: tf.Tensor) -> Lines:
    """The lines of a function on intervals, of least area where they cross the middle."""
    low, high = slopes(activation, lower, upper)
    below, above = offsets(activation, lower, upper, low, high)
    finite = _is_finite(lower, upper)
    low, high = (tf.where(finite, slope, 0.0) for slope in (low, high))
    return Lines(low, below, high, above)


def offsets(
    activation: Activation,
    lower: tf.Tensor,
    upper: tf.Tensor,
    lower_slope: tf.Tensor,
    upper_slope: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The best sound offsets for given slopes.

    Args:
        activation: the function.
        lower: left ends of the intervals, any shape; infinite ones are fine.
        upper: right ends, of the same shape.
        lower_slope: finite slopes of the line below, of a shape that broadcasts. On an infinite
            interval the offsets belong to slope 0 instead.
        upper_slope: of the line above.

    Returns:
        `(below, above)`: `lower_slope x + below <= f(x) <= upper_slope x + above` on the interval.
    """
    finite = _is_finite(lower, upper)
    lower, upper = tf.where(finite, lower, 0.0), tf.where(finite, upper, 0.0)
    known = _valued(activation, _fixed_points(activation, lower, upper))
    below = _extreme(activation, lower, upper, known, lower_slope, -1.0)
    above = _extreme(activation, lower, upper, known, upper_slope, 1.0)
    smallest, largest = (tf.constant(value, tf.float64) for value in activation.range)
    below = tf.where(finite & ~tf.math.is_nan(below), below, smallest)
    above = tf.where(finite & ~tf.math.is_nan(above), above, largest)
    return below, above


def image(
    activation: Activation, lower: tf.Tensor, upper: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Bounds of the values of a function on intervals; the shape of the intervals."""
    flat = tf.zeros_like(lower)
    below, above = offsets(activation, lower, upper, flat, flat)
    smallest, largest = activation.range
    return tf.maximum(below, smallest), tf.minimum(above, largest)


def slopes(
    activation: Activation, lower: tf.Tensor, upper: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Slopes `(of the line below, of the line above)`; finite, 0 on an infinite interval."""
    finite = _is_finite(lower, upper)
    lower, upper = tf.where(finite, lower, 0.0), tf.where(finite, upper, 0.0)
    choose = _sampled_slopes if activation.is_smooth else _chord_slopes
    found = choose(activation, lower, upper)
    low, high = (tf.where(tf.math.is_finite(slope), slope, 0.0) for slope in found)
    return low, high


def _is_finite(lower, upper):
    return tf.math.is_finite(lower) & tf.math.is_finite(upper)


def _clip(x, lower, upper):
    return tf.minimum(tf.maximum(x, lower), upper)


def _fixed_points(activation: Activation, lower, upper) -> list:
    """The breakpoints, as far as they are inside, and the ends.

    Breakpoints come first: the derivative of a smallest number is that of the first one of equals,
    and the offset of a line through a breakpoint has none.
    """
    breakpoints = [_clip(tf.constant(k, tf.float64), lower, upper) for k in activation.breakpoints]
    return [*breakpoints, lower, upper]


def _critical_points(activation: Activation, lower, upper, slope) -> list:
    """Where `f'(p) = slope`, as far as it is inside."""
    if activation.critical is None:
        return []
    found = activation.critical(slope, lower, upper)
    found = [tf.where(tf.math.is_nan(p), lower, p) for p in found]
    return [tf.stop_gradient(_clip(p, lower, upper)) for p in found]


def _valued(activation: Activation, points: list) -> list[tuple]:
    """Points, the values there, and how large they are."""
    values = [activation.value(point) for point in points]
    return [(p, value, tf.abs(value)) for p, value in zip(points, values, strict=True)]


def _extreme(activation: Activation, lower, upper, known, slope, sign: float):
    """Outward-rounded smallest (`sign` -1) or largest (1) `f(p) - slope p` on the interval."""
    critical = _valued(activation, _critical_points(activation, lower, upper, slope))
    gaps, sizes = [], []
    for point, value, size in [*known, *critical]:
        linear = slope * point
        gaps.append(value - linear)
        sizes.append(size + tf.abs(linear))
    extreme = reduce(tf.maximum if sign > 0 else tf.minimum, gaps)
    terms = reduce(tf.maximum, sizes) + (1.0 if activation.is_smooth else 0.0)
    return extreme + (sign * SLACK[activation.is_smooth]) * terms


def _chord_slopes(activation: Activation, lower, upper):
    """Slopes of the lines below and above a function of straight pieces, closest in the middle.

    The smallest concave function over a function of straight pieces is made of chords between its
    ends and breakpoints, and the largest convex one below it as well; a chord that crosses the
    function is moved by its offset.
    """
    known = _valued(activation, _fixed_points(activation, lower, upper))
    points, values, _ = (tf.stack(part) for part in zip(*known, strict=True))
    places, below, above = points - 0.5 * (lower + upper), [], []
    for (p, at_p, _), (q, at_q, _) in itertools.combinations(known, 2):
        slope = tf.math.divide_no_nan(at_q - at_p, q - p)
        gaps = values - slope * places
        below.append((slope, tf.reduce_min(gaps, axis=0)))
        above.append((slope, tf.reduce_max(gaps, axis=0)))
    low, high = (
        reduce(partial(_better, tf.greater), below),
        reduce(partial(_better, tf.less), above),
    )
    return low[0], high[0]


def _better(is_better: Callable, best: tuple, other: tuple) -> tuple:
    """Of two pairs of a slope and its height in the middle, entry by entry the better one."""
    chosen = is_better(other[1], best[1])
    return tuple(tf.where(chosen, b, a) for a, b in zip(best, other, strict=True))


def _sampled_slopes(activation: Activation, lower, upper):
    """Slopes of the lines below and above samples of a function that are closest in the middle.

    The height of a line above there, `max(f_i - s t_i)` with `t` counted from the middle, is convex
    in `s`: too small a slope touches at the right of the middle, too large a slope at the left.
    """
    width, middle = upper - lower, 0.5 * (lower + upper)
    grid = np.linspace(-0.5, 0.5, _SAMPLES)
    shares = tf.reshape(tf.constant(grid), (_SAMPLES, *[1] * len(lower.shape)))
    samples = activation.value(middle + shares * width)
    # Below a function is above the negated one.
    values = tf.stack([-samples, samples], axis=1)
    shares = shares[:, None]
    chords = (values[1:] - values[:-1]) * (_SAMPLES - 1)

    def halve(smallest, largest):
        slope = 0.5 * (smallest + largest)
        touching = tf.gather(tf.constant(grid), tf.argmax(values - slope * shares, axis=0))
        return tf.where(touching >= 0, slope, smallest), tf.where(touching <= 0, slope, largest)

    ends = tf.reduce_min(chords, axis=0), tf.reduce_max(chords, axis=0)
    smallest, largest = tf.while_loop(
        lambda *_: True, halve, ends, maximum_iterations=_HALVINGS, parallel_iterations=1
    )
    slopes = tf.math.divide_no_nan(0.5 * (smallest + largest), width)
    return -slopes[0], slopes[1]


def solved(derivative: Callable, bends: tuple[float, ...]) -> Callable:
    """`critical` of a function whose derivative is monotone between its bends, by bisection."""
    starts = np.array([-np.inf, *bends])
    stops = np.array([*bends, np.inf])

    def critical(slope, lower, upper):
        shape = (-1, *[1] * len(lower.shape))
        low = _clip(lower[None], starts.reshape(shape), stops.reshape(shape))
        high = _clip(upper[None], starts.reshape(shape), stops.reshape(shape))
        rising = derivative(high) >= derivative(low)
        low, high = (
            tf.stop_gradient(tf.broadcast_to(x, tf.shape(low + slope))) for x in (low, high)
        )

        def halve(low, high):
            point = 0.5 * (low + high)
            goes_right = tf.equal(derivative(point) < slope, rising)
            return tf.where(goes_right, point, low), tf.where(goes_right, high, point)

        low, high = tf.while_loop(
            lambda *_: True, halve, (low, high), maximum_iterations=_ROOT_HALVINGS
        )
        return tf.unstack(0.5 * (low + high), num=len(starts))

    return critical


def norm_lines(lower: tf.Tensor, upper: tf.Tensor) -> Lines:
    """Lines of `||w||_2` over the last axis, on a box of the last axis.

    Below, by Cauchy and Schwarz: `||w|| >= g . w` for any `||g|| <= 1`, here the direction of the
    middle of the box. Above: `||w||^2 <= t = sum((l + u) w - l u)` on the box, and
    `sqrt(t) <= sqrt(t0) / 2 + t / (2 sqrt(t0))`, the tangent at the middle.
    """
    finite = tf.reduce_all(_is_finite(lower, upper), axis=-1, keepdims=True)
    lower, upper = tf.where(finite, lower, 0.0), tf.where(finite, upper, 0.0)
    middle, slack = 0.5 * (lower + upper), SLACK[True]
    largest = tf.reduce_max(tf.abs(middle), axis=-1, keepdims=True)
    scaled = tf.math.divide_no_nan(middle, largest)  # whose squares do not underflow
    low = tf.math.divide_no_nan(scaled, tf.norm(scaled, axis=-1, keepdims=True) * (1.0 + slack))
    root = tf.sqrt(0.5 * tf.reduce_sum(lower**2 + upper**2, axis=-1, keepdims=True))
    high = tf.math.divide_no_nan(0.5 * (lower + upper), root)
    product = tf.reduce_sum(lower * upper, axis=-1)
    constant = 0.5 * root[..., 0] - tf.math.divide_no_nan(0.5 * product, root[..., 0])
    # Each term is at most `root`, and `|l u|` at most half of `l^2 + u^2`.
    error = 4.0 * slack * root[..., 0] + TINY_NORM
    above = tf.where(finite[..., 0], constant + error, np.float64(np.inf))
    return Lines(low, tf.zeros_like(above), high, above)


def norm_image(lower: tf.Tensor, upper: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Bounds of `||w||_2` over the last axis, on a box of the last axis."""
    nearest = tf.maximum(tf.maximum(lower, -upper), 0.0)
    farthest = tf.maximum(tf.abs(lower), tf.abs(upper))
    slack = SLACK[True]
    below = tf.nn.relu(tf.norm(nearest, axis=-1) * (1.0 - slack) - TINY_NORM)
    return below, tf.norm(farthest, axis=-1) * (1.0 + slack) + TINY_NORM
