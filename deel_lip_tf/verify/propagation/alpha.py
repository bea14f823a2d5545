"""Backward bounds whose free numbers are optimized: slopes, and multipliers of constraints.

Two families of numbers are free in a backward bound, and any value of them is sound:

- of an activation with one kink, such as ReLU, the slope of the line on the convex side: below a
  ReLU anything between 0 and 1 (alpha-CROWN, Xu et al. 2021, arXiv:2011.13824);
- for an interval `l <= z <= u` of what an activation reads, a multiplier g. As
  `g z <= max(g, 0) u + min(g, 0) l`, the row plus `g z` minus this constant lies below the row.
  Where an end of the interval is a kink that a branch was split at, this carries the split into
  the bound (beta-CROWN, Wang et al. 2021, arXiv:2103.06624; g is minus or plus its beta).

Both are raised along the gradient of the bound by projected Adam. What is returned is computed by
the same code, with the same outward rounding, as any other bound, from the best numbers found:
nothing rests on the optimizer.

A batch holds one row each; the free numbers of all its activations lie in vectors (n, neurons).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from deel_lip_tf.semantics.ir.program import Elementwise, Program, ancestors
from deel_lip_tf.verify.activations import activation_of
from deel_lip_tf.verify.propagation.backward import LinearBound, Relaxation, backward, lower_bound
from deel_lip_tf.verify.propagation.coefficients import Dense, add
from deel_lip_tf.verify.propagation.interval import INFINITY, Interval
from deel_lip_tf.verify.propagation.region import Region, concretize_exactly
from deel_lip_tf.verify.propagation.relaxations import Activation, Lines, offsets

__all__ = [
    "STEPS",
    "Free",
    "Kink",
    "Questions",
    "default_free",
    "evaluate",
    "flat_of",
    "free_lines",
    "free_nodes",
    "kinks_of",
    "maximize",
    "parts_of",
]

STEPS = 40
"""Of the optimization of slopes."""

_DECAY = 0.97  # of the step length, at each step
_MOMENTUM, _SQUARES = 0.9, 0.99
_TINY = 1e-12


class Questions(NamedTuple):
    """One row of the output for each of n domains, and what is known of the nodes there.

    Attributes:
        region: of the inputs.
        rows: (n, 1, *shape of the output).
        relaxation: intervals of all nodes, and the lines that are kept where none are free.
        kinks: of the activations with free numbers, by `kinks_of`.
    """

    region: Region
    rows: Dense
    relaxation: Relaxation
    kinks: dict[int, "Kink"]


class Kink(NamedTuple):
    """The two pieces of an activation, for each entry.

    Attributes:
        inside: whether the interval has the kink inside.
        left: slope on the left of the kink.
        right: on the right.
    """

    inside: tf.Tensor
    left: tf.Tensor
    right: tf.Tensor


class Free(NamedTuple):
    """The free numbers of n questions, in the order of `free_nodes`.

    Attributes:
        shares: (n, neurons) in [0, 1], the slope between the one on the left of the kink (0) and
            the one on the right (1).
        multipliers: (n, neurons), of what the activations read.
    """

    shares: tf.Tensor
    multipliers: tf.Tensor


def free_nodes(program: Program) -> tuple[int, ...]:
    """The activations, on the way to the output, that are made of two straight pieces."""
    on_the_way = ancestors(program, program.output)
    return tuple(
        index
        for index, node in enumerate(program.nodes)
        if index in on_the_way
        and isinstance(node, Elementwise)
        and not activation_of(node.function).is_smooth
        and len(activation_of(node.function).kinks) == 1
    )


def parts_of(program: Program, flat: tf.Tensor) -> dict[int, tf.Tensor]:
    """(n, neurons) to (n, *shape) by activation."""
    indices = free_nodes(program)
    sizes = [math.prod(program.nodes[index].shape) for index in indices]
    parts = tf.split(flat, sizes, axis=1) if indices else []
    return {
        index: tf.reshape(part, [-1, *program.nodes[index].shape])
        for index, part in zip(indices, parts, strict=True)
    }


def flat_of(program: Program, parts: dict[int, tf.Tensor], count: tf.Tensor) -> tf.Tensor:
    """The inverse of `parts_of`; `count` is n."""
    flat = [
        tf.reshape(parts[i], [count, math.prod(parts[i].shape[1:])]) for i in free_nodes(program)
    ]
    return tf.concat(flat, axis=1) if flat else tf.zeros([count, 0], tf.float64)


def kinks_of(program: Program, intervals: Sequence[Interval]) -> dict[int, Kink]:
    """The pieces of the activations of `free_nodes`."""
    nodes = {index: program.nodes[index] for index in free_nodes(program)}
    return {
        i: _kink(activation_of(node.function), intervals[node.parents[0]])
        for i, node in nodes.items()
    }


def _kink(activation: Activation, interval: Interval) -> Kink:
    (kink,) = activation.kinks
    lower, upper = interval.lower, interval.upper
    finite = tf.math.is_finite(lower) & tf.math.is_finite(upper)
    inside = finite & (lower < kink) & (kink < upper)
    middle = activation.value(tf.fill(tf.shape(lower), tf.constant(kink, tf.float64)))
    low = tf.where(inside, lower, kink - 1.0)
    high = tf.where(inside, upper, kink + 1.0)
    left = (middle - activation.value(low)) / (kink - low)
    right = (activation.value(high) - middle) / (high - kink)
    return Kink(inside, left, right)


def free_lines(program: Program, questions: Questions, shares: tf.Tensor) -> dict[int, Lines]:
    """The lines of all activations, with the slopes that the shares choose."""
    relaxation = questions.relaxation
    result = dict(relaxation.lines)
    for index, share in parts_of(program, shares).items():
        node = program.nodes[index]
        interval, kept = relaxation.intervals[node.parents[0]], relaxation.lines[index]
        inside, left, right = questions.kinks[index]
        slope, is_convex = left + share * (right - left), right > left
        low = tf.where(inside & is_convex, slope, kept.lower_slope)
        high = tf.where(inside & ~is_convex, slope, kept.upper_slope)
        below, above = offsets(
            activation_of(node.function), interval.lower, interval.upper, low, high
        )
        result[index] = Lines(low, below, high, above)
    return result


def default_free(program: Program, questions: Questions) -> Free:
    """The slopes of the lines that are kept, and no multipliers."""
    shares, count = {}, tf.shape(questions.rows.values)[0]
    for index, (_, left, right) in questions.kinks.items():
        kept = questions.relaxation.lines[index]
        slope = tf.where(right > left, kept.lower_slope, kept.upper_slope)
        share = tf.math.divide_no_nan(slope - left, right - left)
        shares[index] = tf.clip_by_value(share, 0.0, 1.0)
    flat = flat_of(program, shares, count)
    return Free(flat, tf.zeros_like(flat))


def _bound(program: Program, questions: Questions, multipliers: tf.Tensor, lines) -> LinearBound:
    """The backward bound, with the multiplied constraints in it."""
    intervals = questions.relaxation.intervals
    rows, constant = {program.output: questions.rows}, tf.zeros([1, 1], tf.float64)
    for index, multiplier in parts_of(program, multipliers).items():
        (parent,) = program.nodes[index].parents
        lower, upper = intervals[parent].lower, intervals[parent].upper
        usable = tf.where(multiplier > 0, tf.math.is_finite(upper), tf.math.is_finite(lower))
        g = Dense(tf.where(usable, multiplier, 0.0)[:, None], program.nodes[parent].shape)
        end = tf.where(multiplier > 0, upper, lower)
        end = tf.where(usable, end, 0.0)
        constant = constant - g.dot(end) - program.roundoff * g.absolute_dot(tf.abs(end))
        rows[parent] = add(rows.get(parent), g)
    bound = backward(program, rows, lines, intervals)
    return bound._replace(constant=bound.constant + constant)


def _objective(program: Program, questions: Questions, free: Free) -> tf.Tensor:
    """(n,) bounds, without the search for the best multiplier of a ball."""
    lines = free_lines(program, questions, free.shares)
    bound = _bound(program, questions, free.multipliers, lines)
    return lower_bound(program, bound, questions.relaxation.intervals, questions.region)[:, 0]


def evaluate(program: Program, questions: Questions, free: Free):
    """`(bounds (n,), coefficients (n, *shape) of the input, weights (n, neurons), lines)`.

    A weight is the coefficient of an activation's output in the row: the derivative of the bound
    by the offset of the line that was taken.
    """
    lines = free_lines(program, questions, free.shares)
    ends = {
        index: (lines[index].lower_offset, lines[index].upper_offset)
        for index in free_nodes(program)
    }
    with tf.GradientTape() as tape:
        tape.watch(ends)
        watched = {
            index: lines[index]._replace(lower_offset=low, upper_offset=high)
            for index, (low, high) in ends.items()
        }
        bound = _bound(program, questions, free.multipliers, {**lines, **watched})
        constant = bound.constant
    coefficients = bound.coefficients[0].dense()
    total = constant + concretize_exactly(coefficients, questions.region, program.roundoff)
    total = tf.where(tf.math.is_nan(total), -INFINITY, total)[:, 0]
    gradients = tape.gradient(constant, ends, unconnected_gradients="zero")
    weights = {index: low + high for index, (low, high) in gradients.items()}
    return total, coefficients.values[:, 0], flat_of(program, weights, tf.shape(total)[0]), lines


def maximize(program: Program, questions: Questions, start: Free, rates: Free, limits, steps, goal):
    """The best free numbers found on the way up.

    Args:
        program: the graph.
        questions: n of them.
        start: where to begin; what is returned is not worse.
        rates: length of the first step, (n or 1, neurons or 1) each.
        limits: smallest and largest multipliers, (n, neurons) each.
        steps: at most so many.
        goal: (n,) bounds that are enough.

    Returns:
        `Free`.
    """
    ends = (
        Free(tf.zeros_like(start.shares), limits[0]),
        Free(tf.ones_like(start.shares), limits[1]),
    )
    zeros = Free(*(tf.zeros_like(x) for x in start))

    def unfinished(step, free, mean, square, best, best_free):
        return (step == 0) | tf.reduce_any(best <= goal)

    def climb(step, free, mean, square, best, best_free):
        with tf.GradientTape() as tape:
            tape.watch(free)
            value = _objective(program, questions, free)
        gradient = tape.gradient(value, free, unconnected_gradients="zero")
        better = value > best
        best_free = Free(
            *(tf.where(better[:, None], a, b) for a, b in zip(free, best_free, strict=True))
        )
        moved = [
            _adam_step(step, *parts)
            for parts in zip(free, gradient, mean, square, rates, *ends, strict=True)
        ]
        free, mean, square = (Free(*parts) for parts in zip(*moved, strict=True))
        return step + 1.0, free, mean, square, tf.maximum(best, value), best_free

    lowest = tf.fill([tf.shape(start.shares)[0]], -INFINITY)
    state = (tf.constant(0.0, tf.float64), start, zeros, zeros, lowest, start)
    return tf.while_loop(unfinished, climb, state, maximum_iterations=steps, parallel_iterations=1)[
        -1
    ]


def _adam_step(step, value, gradient, mean, square, rate, smallest, largest):
    """One projected step of Adam, upward."""
    # At a norm of 0 the gradient is not a number.
    gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
    mean = _MOMENTUM * mean + (1.0 - _MOMENTUM) * gradient
    square = _SQUARES * square + (1.0 - _SQUARES) * gradient**2
    direction = mean / (1.0 - _MOMENTUM ** (step + 1.0))
    length = tf.sqrt(square / (1.0 - _SQUARES ** (step + 1.0))) + _TINY
    moved = value + rate * _DECAY**step * direction / length
    return tf.minimum(tf.maximum(moved, smallest), largest), mean, square
