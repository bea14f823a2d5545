"""Backward bounds whose free numbers are optimized: alphas of slopes, and betas of constraints.

Two families of numbers are free in a backward bound, and any value of them is sound:

- alpha: of an activation with one breakpoint, such as ReLU, the slope of the line on the convex
  side: below a ReLU anything between 0 and 1 (alpha-CROWN, Xu et al. 2021, arXiv:2011.13824);
- beta: a multiplier g of an interval `l <= z <= u` of what an activation reads. As
  `g z <= max(g, 0) u + min(g, 0) l`, the objective plus `g z` minus this constant lies below the
  objective. Where an end of the interval is a breakpoint that was branched at, this carries the
  split into the bound (beta-CROWN, Wang et al. 2021, arXiv:2103.06624, where g has one sign).

Both are raised along the gradient of the bound by projected Adam. What is returned is computed by
the same code, with the same outward rounding, as any other bound, from the best numbers found:
nothing rests on the optimizer.

A batch holds one objective each; the numbers of all its activations lie in vectors (n, neurons).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from deel_lip_tf.semantics.ir.program import Elementwise, Program, ancestors
from deel_lip_tf.verify.activations import activation_of
from deel_lip_tf.verify.graphs import once
from deel_lip_tf.verify.propagation.backward import (
    LinearLowerBound,
    Relaxation,
    backward,
    lower_bound,
)
from deel_lip_tf.verify.propagation.coefficients import Coefficients, Dense, add
from deel_lip_tf.verify.propagation.concretize import DomainTensors, concretize_exactly
from deel_lip_tf.verify.propagation.interval import INFINITY, Interval
from deel_lip_tf.verify.propagation.relaxations import Activation, Lines, offsets

STEPS = 40
"""Of the optimization of slopes."""

_DECAY = 0.97  # of the step length, at each step
_MOMENTUM, _SQUARES = 0.9, 0.99
_TINY = 1e-12


class Subproblems(NamedTuple):
    """One objective of the output for each of n domains, and what is known of the nodes there.

    Attributes:
        domain: of the inputs.
        objectives: (n, 1, *shape of the output).
        relaxation: intervals of all nodes, and the lines that are kept where none are free.
        breakpoints: of the activations of `splittable_nodes`, by `breakpoints_of`.
    """

    domain: DomainTensors
    objectives: Dense
    relaxation: Relaxation
    breakpoints: dict[int, "Breakpoint"]


class Breakpoint(NamedTuple):
    """The two pieces of an activation, for each entry.

    Attributes:
        inside: whether the interval has the breakpoint inside.
        left: slope on the left of the breakpoint.
        right: on the right.
    """

    inside: tf.Tensor
    left: tf.Tensor
    right: tf.Tensor


class AlphaBeta(NamedTuple):
    """The free numbers of n subproblems, in the order of `splittable_nodes`.

    Attributes:
        alphas: (n, neurons) in [0, 1], the slope between the one on the left of the breakpoint (0)
            and the one on the right (1).
        betas: (n, neurons), of what the activations read; of either sign.
    """

    alphas: tf.Tensor
    betas: tf.Tensor


@once
def splittable_nodes(program: Program) -> dict[int, Elementwise]:
    """The activations, on the way to the output, that are made of two straight pieces."""
    on_the_way = ancestors(program, program.output)
    return {
        index: node
        for index, node in enumerate(program.nodes)
        if index in on_the_way
        and isinstance(node, Elementwise)
        and not activation_of(node.function).is_smooth
        and len(activation_of(node.function).breakpoints) == 1
    }


def parts_of(program: Program, flat: tf.Tensor) -> dict[int, tf.Tensor]:
    """(n, neurons) to (n, *shape) by activation."""
    nodes = splittable_nodes(program)
    sizes = [math.prod(node.shape) for node in nodes.values()]
    parts = tf.split(flat, sizes, axis=1) if nodes else []
    return {
        index: tf.reshape(part, [-1, *node.shape])
        for (index, node), part in zip(nodes.items(), parts, strict=True)
    }


def flat_of(program: Program, parts: dict[int, tf.Tensor], count: tf.Tensor) -> tf.Tensor:
    """The inverse of `parts_of`; `count` is n."""
    nodes = splittable_nodes(program).items()
    flat = [tf.reshape(parts[i], [count, math.prod(node.shape)]) for i, node in nodes]
    return tf.concat(flat, axis=1) if flat else tf.zeros([count, 0], tf.float64)


def breakpoints_of(program: Program, intervals: Sequence[Interval]) -> dict[int, Breakpoint]:
    """The pieces of the activations of `splittable_nodes`."""
    return {
        index: _breakpoint(activation_of(node.function), intervals[node.parents[0]])
        for index, node in splittable_nodes(program).items()
    }


def _breakpoint(activation: Activation, interval: Interval) -> Breakpoint:
    (place,) = activation.breakpoints
    lower, upper = interval.lower, interval.upper
    finite = tf.math.is_finite(lower) & tf.math.is_finite(upper)
    inside = finite & (lower < place) & (place < upper)
    middle = activation.value(tf.fill(tf.shape(lower), tf.constant(place, tf.float64)))
    low = tf.where(inside, lower, place - 1.0)
    high = tf.where(inside, upper, place + 1.0)
    left = (middle - activation.value(low)) / (place - low)
    right = (activation.value(high) - middle) / (high - place)
    return Breakpoint(inside, left, right)


def optimized_lines(
    program: Program, subproblems: Subproblems, alphas: tf.Tensor
) -> dict[int, Lines]:
    """The lines of all activations, with the slopes that the alphas choose."""
    relaxation, nodes = subproblems.relaxation, splittable_nodes(program)
    result = dict(relaxation.lines)
    for index, alpha in parts_of(program, alphas).items():
        node = nodes[index]
        interval, kept = relaxation.intervals[node.parents[0]], relaxation.lines[index]
        inside, left, right = subproblems.breakpoints[index]
        slope, is_convex = left + alpha * (right - left), right > left
        low = tf.where(inside & is_convex, slope, kept.lower_slope)
        high = tf.where(inside & ~is_convex, slope, kept.upper_slope)
        below, above = offsets(
            activation_of(node.function), interval.lower, interval.upper, low, high
        )
        result[index] = Lines(low, below, high, above)
    return result


def default_alpha_beta(program: Program, subproblems: Subproblems) -> AlphaBeta:
    """The slopes of the lines that are kept, and no betas."""
    alphas, count = {}, tf.shape(subproblems.objectives.values)[0]
    for index, (_, left, right) in subproblems.breakpoints.items():
        kept = subproblems.relaxation.lines[index]
        slope = tf.where(right > left, kept.lower_slope, kept.upper_slope)
        alpha = tf.math.divide_no_nan(slope - left, right - left)
        alphas[index] = tf.clip_by_value(alpha, 0.0, 1.0)
    flat = flat_of(program, alphas, count)
    return AlphaBeta(flat, tf.zeros_like(flat))


def _bound(
    program: Program, subproblems: Subproblems, betas: tf.Tensor, lines: dict[int, Lines]
) -> LinearLowerBound:
    """The backward bound, with the multiplied constraints in it."""
    intervals = subproblems.relaxation.intervals
    rows: dict[int, Coefficients] = {program.output: subproblems.objectives}
    constant = tf.zeros([1, 1], tf.float64)
    for index, beta in parts_of(program, betas).items():
        (parent,) = program.nodes[index].parents
        lower, upper = intervals[parent].lower, intervals[parent].upper
        usable = tf.where(beta > 0, tf.math.is_finite(upper), tf.math.is_finite(lower))
        g = Dense(tf.where(usable, beta, 0.0)[:, None], program.nodes[parent].shape)
        end = tf.where(beta > 0, upper, lower)
        end = tf.where(usable, end, 0.0)
        constant = constant - g.dot(end) - program.roundoff * g.absolute_dot(tf.abs(end))
        rows[parent] = add(rows.get(parent), g)
    bound = backward(program, rows, lines, intervals, subproblems.relaxation.balls)
    return bound._replace(constant=bound.constant + constant)


def _objective(program: Program, subproblems: Subproblems, free: AlphaBeta) -> tf.Tensor:
    """(n,) bounds, without the search for the best multiplier of a ball."""
    lines = optimized_lines(program, subproblems, free.alphas)
    bound = _bound(program, subproblems, free.betas, lines)
    return lower_bound(program, bound, subproblems.relaxation.intervals, subproblems.domain)[:, 0]


def evaluate(
    program: Program, subproblems: Subproblems, free: AlphaBeta
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, dict[int, Lines]]:
    """`(bounds (n,), coefficients (n, *shape) of the input, weights (n, neurons), lines)`.

    A weight is the coefficient of an activation's output in the objective: the derivative of the
    bound by the offset of the line that was taken, if it was the lines' and not a ball's.
    """
    lines = optimized_lines(program, subproblems, free.alphas)
    ends = {
        index: (lines[index].lower_offset, lines[index].upper_offset)
        for index in splittable_nodes(program)
    }
    relaxation = subproblems.relaxation
    by_lines = subproblems._replace(relaxation=relaxation._replace(balls={}))
    with tf.GradientTape() as tape:
        tape.watch(ends)
        watched = {
            index: lines[index]._replace(lower_offset=low, upper_offset=high)
            for index, (low, high) in ends.items()
        }
        bound = _bound(program, by_lines, free.betas, {**lines, **watched})
        constant = bound.constant
    if relaxation.balls:
        bound = _bound(program, subproblems, free.betas, lines)
    coefficients = bound.coefficients[0].dense()
    in_domain = concretize_exactly(coefficients, subproblems.domain, program.roundoff)
    total = bound.constant + in_domain
    total = tf.where(tf.math.is_nan(total), -INFINITY, total)[:, 0]
    gradients = tape.gradient(constant, ends, unconnected_gradients="zero")
    weights = {index: low + high for index, (low, high) in gradients.items()}
    return total, coefficients.values[:, 0], flat_of(program, weights, tf.shape(total)[0]), lines


def maximize(
    program: Program,
    subproblems: Subproblems,
    start: AlphaBeta,
    rates: AlphaBeta,
    limits: tuple[tf.Tensor, tf.Tensor],
    steps: tf.Tensor,
    goal: tf.Tensor,
) -> AlphaBeta:
    """The best free numbers found on the way up.

    Args:
        program: the graph.
        subproblems: n of them.
        start: where to begin; what is returned is not worse.
        rates: length of the first step, (n or 1, neurons or 1) each.
        limits: smallest and largest betas, (n, neurons) each.
        steps: at most so many.
        goal: (n,) bounds that are enough.
    """
    ends = (
        AlphaBeta(tf.zeros_like(start.alphas), limits[0]),
        AlphaBeta(tf.ones_like(start.alphas), limits[1]),
    )
    zeros = AlphaBeta(*(tf.zeros_like(x) for x in start))

    def unfinished(step, free, mean, square, best, best_free):
        return (step == 0) | tf.reduce_any(best <= goal)

    def climb(step, free, mean, square, best, best_free):
        with tf.GradientTape() as tape:
            tape.watch(free)
            value = _objective(program, subproblems, free)
        gradient = tape.gradient(value, free, unconnected_gradients="zero")
        better = value > best
        best_free = AlphaBeta(
            *(tf.where(better[:, None], a, b) for a, b in zip(free, best_free, strict=True))
        )
        moved = [
            _adam_step(step, *parts)
            for parts in zip(free, gradient, mean, square, rates, *ends, strict=True)
        ]
        free, mean, square = (AlphaBeta(*parts) for parts in zip(*moved, strict=True))
        return step + 1.0, free, mean, square, tf.maximum(best, value), best_free

    lowest = tf.fill([tf.shape(start.alphas)[0]], -INFINITY)
    state = (tf.constant(0.0, tf.float64), start, zeros, zeros, lowest, start)
    options = {"maximum_iterations": steps, "parallel_iterations": 1}
    return tf.while_loop(unfinished, climb, state, **options)[-1]


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
