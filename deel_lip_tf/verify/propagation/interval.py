"""Interval bound propagation: every node between two numbers, from the input to the output.

The bounds hold for exact arithmetic on the stored weights: each step is rounded outward by an
a-priori bound, `roundoff * (|A| max(|l|, |u|) + |b|)`. What overflows, or is not a number, counts
as unbounded; what underflows is counted by a least number in place of every sum that is not 0, or
by `lost`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deel_lip_tf._rounding import TINY
from deel_lip_tf.semantics.ir.program import Affine, Elementwise, Node, Program
from deel_lip_tf.verify.activations import activation_of
from deel_lip_tf.verify.propagation.relaxations import image, norm_image
from deel_lip_tf.verify.tensorflow import TENSORFLOW, absolute, bias_of, linear

INFINITY = np.float64(np.inf)


# Products of weights, and of the first number, are not 0; the relative error of the second one is
# more than what underflows in a sum.
_SMALLEST_VALUE, _SMALLEST_SUM = 1e-30, 1e-250


class Interval(NamedTuple):
    """Bounds of a node for each sample, (batch, *shape).

    `magnitude` is not below the largest absolute value, nor, for an affine node, below the sum of
    the absolute values that are added up: what its rounding errors are measured by.
    """

    lower: tf.Tensor
    upper: tf.Tensor
    magnitude: tf.Tensor


def interval(lower: tf.Tensor, upper: tf.Tensor) -> Interval:
    """An interval with what is not a number replaced by infinity."""
    lower = tf.where(tf.math.is_nan(lower), -INFINITY, lower)
    upper = tf.where(tf.math.is_nan(upper), INFINITY, upper)
    return Interval(lower, upper, tf.maximum(tf.abs(lower), tf.abs(upper)))


def intersect(first: Interval, lower: tf.Tensor, upper: tf.Tensor) -> Interval:
    """The numbers that lie in an interval and in a second one; both are sound."""
    other = interval(lower, upper)
    lower = tf.maximum(first.lower, other.lower)
    upper = tf.minimum(first.upper, other.upper)
    # Both are sound up to nothing at all, so that they can only miss each other where the domain
    # is a point and both are rounded to the same number.
    return Interval(tf.minimum(lower, upper), tf.maximum(lower, upper), first.magnitude)


def floored(magnitude: tf.Tensor, least: float = _SMALLEST_VALUE) -> tf.Tensor:
    """Magnitudes, of those that are not 0 at least a number: 0 is exact."""
    return tf.where(magnitude > 0.0, tf.maximum(magnitude, least), 0.0)


def lost(*magnitudes: tf.Tensor) -> tf.Tensor:
    """(batch, 1): more than all coefficients that underflow, times the values of nodes."""
    total = tf.constant([[1.0]], tf.float64)
    for one in magnitudes:
        total += tf.reduce_sum(tf.reshape(one, [tf.shape(one)[0], -1]), axis=1, keepdims=True)
    return TINY * total


def propagate(
    program: Program, lower: tf.Tensor, upper: tf.Tensor, roundoff: float | None = None
) -> list[Interval]:
    """Intervals of all nodes for a box of inputs (batch, *shape); of a point, its rounding errors.

    With `roundoff`, of a program whose sums are wrong by that share of what they add up, and its
    activations by that share of their values and of 1.
    """
    intervals = [interval(lower, upper)]
    for node in program.nodes[1:]:
        found = step(program, node, intervals, roundoff)
        if roundoff is not None and not isinstance(node, Affine):
            moved = roundoff * (1.0 + found.magnitude)
            found = interval(found.lower - moved, found.upper + moved)
        intervals.append(found)
    return intervals


def step(
    program: Program, node: Node, intervals: Sequence[Interval], roundoff: float | None = None
) -> Interval:
    """The interval of one node, given those of the nodes before it."""
    parents = [intervals[index] for index in node.parents]
    if isinstance(node, Elementwise):
        return interval(*image(activation_of(node.function), parents[0].lower, parents[0].upper))
    if not isinstance(node, Affine):
        return interval(*norm_image(parents[0].lower, parents[0].upper))
    result = _affine(node, parents, program.roundoff if roundoff is None else roundoff)
    if node.interval is None:
        return result
    sources = [intervals[index][:2] for index in node.interval.sources]
    return intersect(result, *node.interval.bounds(TENSORFLOW, sources))


def _affine(node: Affine, parents: Sequence[Interval], roundoff: float) -> Interval:
    if node.is_exact:
        # Entries are moved: their ends move along, and nothing is rounded.
        moved = (linear(node, [p[end] for p in parents]) for end in range(3))
        return Interval(*moved)
    middle = linear(node, [0.5 * p.lower + 0.5 * p.upper for p in parents])
    half_width = absolute(node, [0.5 * p.upper - 0.5 * p.lower for p in parents])
    # The sum of absolute values of all terms: of the middle, the half width and their rounding.
    largest = [floored(tf.maximum(tf.abs(p.lower), tf.abs(p.upper))) for p in parents]
    added = absolute(node, largest)
    if node.bias is not None:
        middle, added = middle + bias_of(node), added + tf.abs(bias_of(node))
    added = floored(added, _SMALLEST_SUM)
    half_width = half_width + roundoff * added
    return interval(middle - half_width, middle + half_width)._replace(magnitude=added)
