"""Domains as tensors, and the smallest values of linear functions on them."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deel_lip_tf._rounding import TINY
from deel_lip_tf.verify.propagation.coefficients import Coefficients, Dense
from deel_lip_tf.verify.propagation.interval import Interval

_HALVINGS = 40
_ROUND = 1.0 + 2.0**-40
"""More than the rounding of half a sum, of a norm and of a product, relatively."""


class DomainTensors(NamedTuple):
    """A batch of domains.

    Attributes:
        norm: "l2", "l1", or `None` where the box is all.
        lower: (batch, *shape).
        upper: (batch, *shape).
        center: (batch, *shape), of the ball.
        radius: (batch,) of the ball.
    """

    norm: str | None
    lower: tf.Tensor
    upper: tf.Tensor
    center: tf.Tensor
    radius: tf.Tensor

    @classmethod
    def of_interval(cls, node: Interval) -> "DomainTensors":
        """The box of a node."""
        return cls(None, node.lower, node.upper, node.lower, node.lower)

    def of(self, samples: np.ndarray) -> "DomainTensors":
        """The domains of some samples, in any order, also more than once."""
        return DomainTensors(self.norm, *(tf.gather(part, samples) for part in self[1:]))


def concretize(coefficients: Coefficients, domain: DomainTensors, roundoff: float) -> tf.Tensor:
    """(batch, rows) numbers that the rows do not fall below on the domain.

    On a box `a @ middle - |a| @ half_width`, which is exact. On the part of a box in a ball the
    better one of the box and of the ball, `a @ center - radius * dual norm of a`.
    """
    middle = 0.5 * domain.lower + 0.5 * domain.upper
    half_width = tf.maximum(domain.upper - middle, middle - domain.lower) * _ROUND
    largest = tf.maximum(tf.abs(domain.lower), tf.abs(domain.upper))
    in_box = coefficients.dot(middle) - coefficients.absolute_dot(half_width + roundoff * largest)
    in_box -= _underflow(coefficients, largest)
    if domain.norm is None:
        return in_box
    spread = domain.radius[:, None] * coefficients.dual_norm(domain.norm) * (_ROUND + roundoff)
    rounding = roundoff * coefficients.absolute_dot(tf.abs(domain.center))
    rounding += _underflow(coefficients, tf.ones_like(domain.center))
    return tf.maximum(in_box, coefficients.dot(domain.center) - spread - rounding)


def _underflow(coefficients: Coefficients, largest: tf.Tensor) -> tf.Tensor:
    """More than what underflows in products with values: nothing where all of them are 0."""
    is_some = tf.cast(largest > 0.0, tf.float64)
    return TINY * tf.cast(coefficients.absolute_dot(is_some) > 0.0, tf.float64)


def concretize_exactly(coefficients: Dense, domain: DomainTensors, roundoff: float) -> tf.Tensor:
    """As `concretize`; on the part of a box in a ball up to the rounding and a bisection.

    With `t` the distance from the center along each axis, `r` its limit by the box on the side
    where the row falls, and any `v >= 0`, weak duality bounds the fall of a row by

        L2: v radius^2 + sum(max(|a| t - v t^2 for 0 <= t <= r))
        L1: v radius + sum(max(|a| - v, 0) r)

    The best `v` is found by bisection; the bound holds for whatever is found.
    """
    if domain.norm is None:
        return concretize(coefficients, domain, roundoff)
    batch, size = tf.shape(domain.center)[0], int(np.prod(coefficients.shape))

    def flat(tensor):
        return tf.reshape(tensor, [batch, 1, size])

    values = tf.reshape(coefficients.values, [-1, tf.shape(coefficients.values)[1], size])
    below = tf.maximum(domain.center - domain.lower, 0.0)
    above = tf.maximum(domain.upper - domain.center, 0.0)
    limit = tf.where(values > 0, flat(below), flat(above)) * _ROUND
    steep, radius = tf.abs(values), domain.radius[:, None]
    fall = (_fall_l2 if domain.norm == "l2" else _fall_l1)(steep, limit, radius)
    rounding = roundoff * coefficients.absolute_dot(tf.abs(domain.center))
    rounding += _underflow(coefficients, tf.ones_like(domain.center))
    exact = coefficients.dot(domain.center) - fall * (_ROUND + 4.0 * roundoff) - rounding
    return tf.maximum(exact, concretize(coefficients, domain, roundoff))


def _fall_l2(steep, limit, radius):
    """Along each axis the best step is `|a| / (2 v)`, cut at the limit."""

    def steps(v):
        return tf.minimum(limit, tf.math.divide_no_nan(steep, 2.0 * v[..., None]))

    # Without the box, the multiplier is |a| / (2 radius); the box only makes it smaller.
    largest = tf.math.divide_no_nan(tf.norm(steep, axis=-1), 2.0 * radius)
    v = _bisect(lambda v: tf.norm(steps(v), axis=-1) > radius, largest)
    step = steps(v)
    # Without a multiplier a step goes to its limit.
    step = tf.where(v[..., None] > 0, step, limit)
    return (
        v * radius * radius
        + tf.reduce_sum(steep * step - v[..., None] * step * step, axis=-1)
        + (2.0**-40 * tf.reduce_sum(steep * step, axis=-1))
    )


def _fall_l1(steep, limit, radius):
    """Axes steeper than `v` go to their limit."""

    def spent(v):
        return tf.reduce_sum(tf.where(steep > v[..., None], limit, 0.0), axis=-1)

    v = _bisect(lambda v: spent(v) > radius, tf.reduce_max(steep, axis=-1))
    return v * radius + tf.reduce_sum(tf.nn.relu(steep - v[..., None]) * limit, axis=-1)


def _bisect(too_small, largest):
    """The smallest `v` in `[0, largest]`, from above, that is not too small."""
    smallest = tf.zeros_like(largest)

    def halve(low, high):
        middle = 0.5 * (low + high)
        up = too_small(middle)
        return tf.where(up, middle, low), tf.where(up, high, middle)

    _, v = tf.while_loop(lambda *_: True, halve, (smallest, largest), maximum_iterations=_HALVINGS)
    return v
