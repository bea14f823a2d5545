"""Subdomains of a search: objectives on parts of domains, bounded by one graph.

A subdomain is an objective of the output on a domain, where some activations with one breakpoint
read only what lies on one side of it. Without any split it is the whole domain, and its bound is
that of optimized slopes.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.activations import activation_of
from deel_lip_tf.verify.graphs import once, traced
from deel_lip_tf.verify.propagation import alpha_beta, lipschitz
from deel_lip_tf.verify.propagation.alpha_beta import AlphaBeta, Subproblems
from deel_lip_tf.verify.propagation.backward import Relaxation, relax
from deel_lip_tf.verify.propagation.balls import Ball
from deel_lip_tf.verify.propagation.coefficients import Dense
from deel_lip_tf.verify.propagation.concretize import DomainTensors
from deel_lip_tf.verify.propagation.interval import Interval
from deel_lip_tf.verify.tensorflow import evaluate

_RATES = (0.1, 0.1)  # of alphas, and of betas in units of the largest weight
_INWARD = 1.0 - 2.0**-20  # candidates keep inside the domain when they are rounded
_BELOW = 0.25  # weight of the gap of a line whose slope is free


class Subdomains(NamedTuple):
    """n subdomains, as arrays or tensors.

    Attributes:
        samples: (n,) the domain of each.
        objectives: (n, outputs).
        targets: (n,) bounds that are good enough.
        weights: (n,) largest weight of an activation, of an earlier bound, or 0.
        splits: (n, neurons) 1 on the right of the breakpoint, -1 on its left, 0 on both sides.
        alphas: (n, neurons) where to begin, -1 for the default.
        betas: (n, neurons) of the splits, where to begin.
    """

    samples: np.ndarray
    objectives: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    splits: np.ndarray
    alphas: np.ndarray
    betas: np.ndarray


class Solved(NamedTuple):
    """What is found of n subdomains.

    Attributes:
        values: (n,) lower bounds.
        weights: (n,) largest weight of an activation.
        alphas: (n, neurons) float32, the best found.
        betas: (n, neurons) float32, the best found.
        branching_neurons: (n,) the neuron to split next, or -1.
        points: (n, *shape) candidates in the domains.
        reached: (n,) value of the objective there, in float64.
    """

    values: tf.Tensor
    weights: tf.Tensor
    alphas: tf.Tensor
    betas: tf.Tensor
    branching_neurons: tf.Tensor
    points: tf.Tensor
    reached: tf.Tensor


def neurons(program: Program) -> int:
    """Number of all entries of activations that can be split."""
    return sum(math.prod(node.shape) for node in alpha_beta.splittable_nodes(program).values())


def optimized(
    program: Program,
    norm: str | None,
    state: Sequence[tf.Tensor],
    objectives: np.ndarray,
    steps: int,
) -> np.ndarray:
    """(n, m) bounds of objectives (n, m, outputs) on whole domains, with optimized slopes."""
    count, each, outputs = objectives.shape
    total, size = count * each, neurons(program)
    subdomains = Subdomains(
        np.repeat(np.arange(count), each),
        np.reshape(objectives, (total, outputs)),
        np.full(total, np.inf),
        np.zeros(total),
        np.zeros((total, size), np.int8),
        np.full((total, size), -1.0, np.float32),
        np.zeros((total, size), np.float32),
    )
    found = solver(program, norm)(steps, subdomains, state)
    return found.values.numpy().reshape(count, each)


@once
def solver(
    program: Program, norm: str | None
) -> Callable[[int, Subdomains, Sequence[tf.Tensor]], Solved]:
    """The function, traced once, that bounds a batch of subdomains: `(steps, subdomains, state)`.

    `state` holds the domains (lower, upper, center, radius), the intervals of all nodes on them,
    and on L2 balls those of what ReLUs read, as a flat list.
    """
    in_balls = lipschitz.activations_in_balls(program) if norm == "l2" else []
    first = 4 + 3 * len(program.nodes)

    def run(steps, samples, objectives, targets, weights, splits, alphas, betas, *state):
        taken = [tf.gather(part, samples) for part in state]
        domain = DomainTensors(norm, *taken[:4])
        intervals = [Interval(*taken[i : i + 3]) for i in range(4, first, 3)]
        pairs = zip(in_balls, taken[first::2], taken[first + 1 :: 2], strict=True)
        balls = {index: Ball(center, radius) for index, center, radius in pairs}
        shape = program.output_shape
        objectives = Dense(tf.reshape(objectives, [-1, 1, *shape]), shape)
        relaxation = _branched(program, intervals, splits)._replace(balls=balls)
        breakpoints = alpha_beta.breakpoints_of(program, relaxation.intervals)
        subproblems = Subproblems(domain, objectives, relaxation, breakpoints)
        free = AlphaBeta(tf.cast(alphas, tf.float64), tf.cast(betas, tf.float64))
        return _solve(program, subproblems, splits, free, weights, targets, steps)

    signature = _signature(program, in_balls)
    graph, (_, *types) = traced(run, signature), [dtype for _, dtype in signature]

    def solve(steps: int, subdomains: Subdomains, state: Sequence[tf.Tensor]) -> Solved:
        tensors = [tf.constant(x, t) for x, t in zip(subdomains, types, strict=False)]
        return Solved(*graph(tf.constant(steps), *tensors, *state))

    return solve


def _signature(program: Program, in_balls: Sequence[int]) -> list[tuple]:
    """Of the function that bounds subdomains."""
    each = [None, neurons(program)]
    point, number, real = [None, *program.input_shape], [None], tf.float64
    subdomains = [([], tf.int32), (number, tf.int64), ([None, program.outputs], real)]
    subdomains += [(number, real), (number, real), (each, tf.int8)]
    subdomains += [(each, tf.float32)] * 2
    domains = [(point, real)] * 3 + [(number, real)]
    intervals = [([None, *node.shape], real) for node in program.nodes for _ in range(3)]
    shapes = ([None, *program.nodes[index].shape] for index in in_balls)
    balls = [pair for shape in shapes for pair in ((shape, real), (number, real))]
    return [*subdomains, *domains, *intervals, *balls]


def _branched(program: Program, intervals: list[Interval], splits: tf.Tensor) -> Relaxation:
    """The intervals cut at the breakpoints where they were split, and the lines on them."""
    intervals, nodes = list(intervals), alpha_beta.splittable_nodes(program)
    for index, side in alpha_beta.parts_of(program, splits).items():
        (parent,), (place,) = nodes[index].parents, activation_of(nodes[index].function).breakpoints
        own = intervals[parent]
        lower = tf.where(side > 0, tf.maximum(own.lower, place), own.lower)
        upper = tf.where(side < 0, tf.minimum(own.upper, place), own.upper)
        intervals[parent] = own._replace(lower=lower, upper=upper)
    lines = {index: relax(program.nodes[index], intervals) for index in program.nonlinear()}
    return Relaxation(intervals, lines, {})


def _solve(
    program: Program, subproblems: Subproblems, splits, free: AlphaBeta, weights, targets, steps
):
    """What `Solved` holds, in its order."""
    default = alpha_beta.default_alpha_beta(program, subproblems)
    start = AlphaBeta(tf.where(free.alphas >= 0, free.alphas, default.alphas), free.betas)
    rates = AlphaBeta(tf.constant(_RATES[0], tf.float64), _RATES[1] * weights[:, None])
    endless = tf.fill(tf.shape(free.betas), tf.constant(np.inf, tf.float64))
    # On the right of a breakpoint beta is not positive, on the left not negative.
    limits = (tf.where(splits > 0, -endless, 0.0), tf.where(splits < 0, endless, 0.0))
    best = alpha_beta.maximize(program, subproblems, start, rates, limits, steps, targets)
    value, slopes, weights, lines = alpha_beta.evaluate(program, subproblems, best)
    branching_neurons = _branching_neurons(program, subproblems, lines, weights)
    points = _lowest_points(subproblems.domain, slopes)
    outputs = evaluate(program, points)[program.output]
    products = subproblems.objectives.values[:, 0] * outputs
    reached = tf.reduce_sum(products, axis=list(range(1, len(outputs.shape))))
    small = [tf.cast(part, tf.float32) for part in best]
    return value, tf.reduce_max(tf.abs(weights), axis=1), *small, branching_neurons, points, reached


def _branching_neurons(program: Program, subproblems: Subproblems, lines, weights) -> tf.Tensor:
    """(n,) the neuron whose lines cost the bound most, or -1 where none is left to split.

    After the score of Bunel et al. (2020, "Branch and bound for piecewise linear neural network
    verification"): the weight of the neuron times how far the line that it takes is from it.
    """
    gaps, nodes = {}, alpha_beta.splittable_nodes(program)
    for index, weight in alpha_beta.parts_of(program, weights).items():
        node, line = nodes[index], lines[index]
        interval = subproblems.relaxation.intervals[node.parents[0]]
        inside, left, right = subproblems.breakpoints[index]
        ends = [tf.where(inside, end, 0.0) for end in interval[:2]]
        activation = activation_of(node.function)
        middle = activation.breakpoints[0] + 0.0 * ends[0]
        places = [(p, activation.value(p)) for p in (*ends, middle)]
        above = [line.upper_slope * p + line.upper_offset - value for p, value in places]
        below = [value - line.lower_slope * p - line.lower_offset for p, value in places]
        above, below = (tf.reduce_max(tf.stack(gap), axis=0) for gap in (above, below))
        # The slope on the convex side is free, which makes up for a part of its gap.
        free, fixed = (tf.constant(factor, tf.float64) for factor in (_BELOW, 1.0))
        below = below * tf.where(right > left, free, fixed)
        above = above * tf.where(right > left, fixed, free)
        score = tf.nn.relu(weight) * below + tf.nn.relu(-weight) * above
        gaps[index] = tf.where(inside, score + 1e-300, -1.0)
    scores = alpha_beta.flat_of(program, gaps, tf.shape(weights)[0])
    best = tf.argmax(scores, axis=1, output_type=tf.int32)
    return tf.where(tf.reduce_max(scores, axis=1) < 0, -1, best)


def _lowest_points(domain: DomainTensors, slopes: tf.Tensor) -> tf.Tensor:
    """Where linear functions are smallest on a box; points of a ball on the way there."""
    corner = tf.where(slopes > 0, domain.lower, domain.upper)
    corner = tf.where(slopes == 0, domain.center, corner)
    offset = (corner - domain.center) * tf.constant(_INWARD, tf.float64)
    axes = list(range(1, len(slopes.shape)))
    radius = tf.reshape(domain.radius, [-1, *[1] * len(axes)])
    if domain.norm == "l2":
        length = tf.sqrt(tf.reduce_sum(slopes**2, axis=axes, keepdims=True))
        step = _INWARD * tf.math.divide_no_nan(radius, length) * tf.abs(slopes)
        offset = tf.sign(offset) * tf.minimum(tf.abs(offset), step)
    elif domain.norm == "l1":
        length = tf.reduce_sum(tf.abs(offset), axis=axes, keepdims=True)
        offset = offset * tf.minimum(_INWARD * tf.math.divide_no_nan(radius, length), 1.0)
    return domain.center + offset
