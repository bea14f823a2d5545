"""Leaves of a search: rows on parts of domains, bounded by one graph with optimized free numbers.

A leaf is a row of the output on a domain, where some activations with one kink read only what lies
on one side of it. A leaf without any split is the row on the whole domain, with optimized slopes.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.activations import activation_of
from deel_lip_tf.verify.graphs import traced
from deel_lip_tf.verify.propagation import alpha
from deel_lip_tf.verify.propagation.alpha import Free, Questions
from deel_lip_tf.verify.propagation.backward import Relaxation, relax
from deel_lip_tf.verify.propagation.coefficients import Dense
from deel_lip_tf.verify.propagation.interval import Interval
from deel_lip_tf.verify.propagation.region import Region
from deel_lip_tf.verify.tensorflow import evaluate

__all__ = ["Leaves", "Solved", "neurons", "optimized", "solver"]

_RATES = (0.1, 0.1)  # of shares, and of multipliers in units of the largest weight
_INWARD = 1.0 - 2.0**-20  # candidates keep inside the domain when they are rounded
_BELOW = 0.25  # weight of the gap of a line whose slope is free


class Leaves(NamedTuple):
    """n leaves, as arrays or tensors.

    Attributes:
        samples: (n,) the domain of each.
        rows: (n, outputs).
        targets: (n,) bounds that are good enough.
        weights: (n,) largest weight of an activation, of an earlier bound, or 0.
        splits: (n, neurons) 1 where the kink lies on the left of the leaf, -1 on the right, else 0.
        shares: (n, neurons) where to begin, -1 for the default.
        multipliers: (n, neurons) of the splits, where to begin.
    """

    samples: np.ndarray
    rows: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    splits: np.ndarray
    shares: np.ndarray
    multipliers: np.ndarray


class Solved(NamedTuple):
    """What is found of n leaves.

    Attributes:
        values: (n,) lower bounds.
        weights: (n,) largest weight of an activation.
        shares: (n, neurons) float32, the best found.
        multipliers: (n, neurons) float32, the best found.
        choices: (n,) the neuron to split next, or -1.
        points: (n, *shape) candidates in the domains.
        reached: (n,) value of the row there, in float64.
    """

    values: tf.Tensor
    weights: tf.Tensor
    shares: tf.Tensor
    multipliers: tf.Tensor
    choices: tf.Tensor
    points: tf.Tensor
    reached: tf.Tensor


def neurons(program: Program) -> int:
    """Number of all entries of activations that can be split."""
    return sum(math.prod(program.nodes[index].shape) for index in alpha.free_nodes(program))


def optimized(
    program: Program, norm: str | None, domains, intervals: list[Interval], rows, steps: int
) -> np.ndarray:
    """(n, m) bounds of rows (n, m, outputs) on whole domains, with optimized slopes."""
    count, each, outputs = rows.shape
    total, size = count * each, neurons(program)
    leaves = Leaves(
        np.repeat(np.arange(count), each),
        np.reshape(rows, (total, outputs)),
        np.full(total, np.inf),
        np.zeros(total),
        np.zeros((total, size), np.int8),
        np.full((total, size), -1.0, np.float32),
        np.zeros((total, size), np.float32),
    )
    found = solver(program, norm)(steps, leaves, [*domains, *tf.nest.flatten(intervals)])
    return found.values.numpy().reshape(count, each)


def solver(program: Program, norm: str | None):
    """The function, traced once, that bounds a batch of leaves: `(steps, leaves, state)`.

    `state` holds the domains (lower, upper, center, radius), and the intervals of all nodes on
    them, as a flat list.
    """
    key = ("leaves", norm)
    if key not in program.compiled:

        def run(steps, samples, rows, targets, weights, splits, shares, multipliers, *state):
            taken = [tf.gather(part, samples) for part in state]
            region = Region(*taken[:4], norm=norm)
            intervals = [Interval(*taken[i : i + 3]) for i in range(4, len(taken), 3)]
            shape = program.nodes[program.output].shape
            rows = Dense(tf.reshape(rows, [-1, 1, *shape]), shape)
            relaxation = _branched(program, intervals, splits)
            kinks = alpha.kinks_of(program, relaxation.intervals)
            questions = Questions(region, rows, relaxation, kinks)
            free = Free(tf.cast(shares, tf.float64), tf.cast(multipliers, tf.float64))
            return _solve(program, questions, splits, free, weights, targets, steps)

        program.compiled[key] = traced(run, _signature(program))
    graph, (_, *types) = program.compiled[key], [dtype for _, dtype in _signature(program)]

    def solve(steps: int, leaves: Leaves, state) -> Solved:
        tensors = [tf.constant(x, t) for x, t in zip(leaves, types, strict=False)]
        return Solved(*graph(tf.constant(steps), *tensors, *state))

    return solve


def _signature(program: Program) -> list[tuple]:
    """Of the function that bounds leaves."""
    each = [None, neurons(program)]
    point, number, real = [None, *program.input_shape], [None], tf.float64
    leaves = [([], tf.int32), (number, tf.int64), ([None, program.outputs], real)]
    leaves += [(number, real), (number, real), (each, tf.int8)]
    leaves += [(each, tf.float32)] * 2
    domains = [(point, real)] * 3 + [(number, real)]
    intervals = [([None, *node.shape], real) for node in program.nodes for _ in range(3)]
    return [*leaves, *domains, *intervals]


def _branched(program: Program, intervals: list[Interval], splits: tf.Tensor) -> Relaxation:
    """The intervals cut at the kinks where they were split, and the lines on them."""
    intervals = list(intervals)
    for index, side in alpha.parts_of(program, splits).items():
        node = program.nodes[index]
        (parent,), (kink,) = node.parents, activation_of(node.function).kinks
        own = intervals[parent]
        lower = tf.where(side > 0, tf.maximum(own.lower, kink), own.lower)
        upper = tf.where(side < 0, tf.minimum(own.upper, kink), own.upper)
        intervals[parent] = own._replace(lower=lower, upper=upper)
    lines = {index: relax(program, index, intervals) for index in program.nonlinear()}
    return Relaxation(intervals, lines)


def _solve(program: Program, questions: Questions, splits, free: Free, weights, targets, steps):
    """Bounds, free numbers, the neuron to split next, and candidates with the row's value there."""
    default = alpha.default_free(program, questions)
    start = Free(tf.where(free.shares >= 0, free.shares, default.shares), free.multipliers)
    rates = Free(tf.constant(_RATES[0], tf.float64), _RATES[1] * weights[:, None])
    endless = tf.fill(tf.shape(free.multipliers), tf.constant(np.inf, tf.float64))
    # On the right of a kink the multiplier is not positive, on the left not negative.
    limits = (tf.where(splits > 0, -endless, 0.0), tf.where(splits < 0, endless, 0.0))
    best = alpha.maximize(program, questions, start, rates, limits, steps, targets)
    value, slopes, weights, lines = alpha.evaluate(program, questions, best)
    choice = _chosen(program, questions, lines, weights)
    points = _lowest_points(questions.region, slopes)
    outputs = evaluate(program, points)[program.output]
    products = questions.rows.values[:, 0] * outputs
    reached = tf.reduce_sum(products, axis=list(range(1, len(outputs.shape))))
    small = [tf.cast(part, tf.float32) for part in best]
    return value, tf.reduce_max(tf.abs(weights), axis=1), *small, choice, points, reached


def _chosen(program: Program, questions: Questions, lines, weights) -> tf.Tensor:
    """(n,) the neuron whose lines cost the bound most, or -1 where none is left to split.

    After the score of Bunel et al. (2020, "Branch and bound for piecewise linear neural network
    verification"): the weight of the neuron times how far the line that it takes is from it.
    """
    gaps = {}
    parts = alpha.parts_of(program, weights)
    for index, weight in parts.items():
        node = program.nodes[index]
        interval, line = questions.relaxation.intervals[node.parents[0]], lines[index]
        inside, left, right = questions.kinks[index]
        ends = [tf.where(inside, end, 0.0) for end in interval[:2]]
        activation = activation_of(node.function)
        places = [(p, activation.value(p)) for p in (*ends, activation.kinks[0] + 0.0 * ends[0])]
        above = [line.upper_slope * p + line.upper_offset - value for p, value in places]
        below = [value - line.lower_slope * p - line.lower_offset for p, value in places]
        above, below = (tf.reduce_max(tf.stack(gap), axis=0) for gap in (above, below))
        # The slope on the convex side is free, which makes up for a part of its gap.
        factors = tf.where(right > left, _BELOW, 1.0), tf.where(right > left, 1.0, _BELOW)
        factors = [tf.cast(factor, tf.float64) for factor in factors]
        score = tf.nn.relu(weight) * below * factors[0] + tf.nn.relu(-weight) * above * factors[1]
        gaps[index] = tf.where(inside, score + 1e-300, -1.0)
    scores = alpha.flat_of(program, gaps, tf.shape(weights)[0])
    best = tf.argmax(scores, axis=1, output_type=tf.int32)
    return tf.where(tf.reduce_max(scores, axis=1) < 0, -1, best)


def _lowest_points(region: Region, slopes: tf.Tensor) -> tf.Tensor:
    """Where linear functions are smallest on a box; points of a ball on the way there."""
    corner = tf.where(slopes > 0, region.lower, region.upper)
    corner = tf.where(slopes == 0, region.center, corner)
    offset = (corner - region.center) * tf.constant(_INWARD, tf.float64)
    axes = list(range(1, len(slopes.shape)))
    radius = tf.reshape(region.radius, [-1, *[1] * len(axes)])
    if region.norm == "l2":
        length = tf.sqrt(tf.reduce_sum(slopes**2, axis=axes, keepdims=True))
        step = _INWARD * tf.math.divide_no_nan(radius, length) * tf.abs(slopes)
        offset = tf.sign(offset) * tf.minimum(tf.abs(offset), step)
    elif region.norm == "l1":
        length = tf.reduce_sum(tf.abs(offset), axis=axes, keepdims=True)
        offset = offset * tf.minimum(_INWARD * tf.math.divide_no_nan(radius, length), 1.0)
    return region.center + offset
