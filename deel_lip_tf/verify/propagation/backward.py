"""Backward linear bounds (CROWN): objectives of the output as linear functions of the input.

`backward` is pure: rows of coefficients in, lines of the activations in, linear functions out. From
the node of the rows to the input, an affine map is passed by its adjoint, and an activation by its
lines, a positive coefficient by the one below and a negative one by the one above (Zhang et al.
2018, arXiv:1811.00866). Every row is a lower bound; an upper bound is that of the negated row.

The constants hold for exact arithmetic: at every node the rounding of its coefficients is bounded
by `roundoff * |coefficients| @ magnitude` with the sound magnitude of the node's values, and
subtracted.

Where what a ReLU reads is known to lie in an L2 ball, too, the constant is the better one of the
lines' and of the ball's (`balls`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import tensorflow as tf

from deel_lip_tf.semantics.ir.primitives import Diagonal, Scale, Shape
from deel_lip_tf.semantics.ir.program import (
    Affine,
    Elementwise,
    Node,
    Norm,
    Program,
    ancestors,
    left_slope,
)
from deel_lip_tf.verify.activations import activation_of
from deel_lip_tf.verify.propagation.balls import BALLS_ENTRIES, Ball, in_ball
from deel_lip_tf.verify.propagation.coefficients import (
    Coefficients,
    add,
    grown_window,
    identity,
    is_windowed,
)
from deel_lip_tf.verify.propagation.concretize import DomainTensors, concretize
from deel_lip_tf.verify.propagation.interval import (
    INFINITY,
    Interval,
    intersect,
    interval,
    lost,
    step,
)
from deel_lip_tf.verify.propagation.relaxations import Lines, lines, norm_lines
from deel_lip_tf.verify.tensorflow import bias_of

_ENTRYWISE = (Diagonal, Scale)

_MEMORY = 2**25
"""Entries of the largest tensor that is made at once."""


class LinearLowerBound(NamedTuple):
    """`row >= sum(coefficients of a node @ node) + constant`, for each sample and row.

    Attributes:
        coefficients: by node; of the input alone where every activation had lines.
        constant: (batch or 1, rows).
    """

    coefficients: dict[int, Coefficients]
    constant: tf.Tensor


class Relaxation(NamedTuple):
    """What is known of the nodes of a program on a domain.

    Attributes:
        intervals: of all nodes, in their order.
        lines: of the nodes that are not affine.
        balls: of what ReLUs read, by the ReLU; of none where nothing is known of them.
    """

    intervals: list[Interval]
    lines: dict[int, Lines]
    balls: dict[int, Ball]


def backward(
    program: Program,
    rows: Mapping[int, Coefficients],
    all_lines: Mapping[int, Lines],
    intervals: Sequence[Interval],
    balls: Mapping[int, Ball] | None = None,
) -> LinearLowerBound:
    """Linear lower bounds of rows of coefficients.

    Args:
        program: the graph.
        rows: coefficients by node; their sum is bounded.
        all_lines: of the activations to pass; the rows stop at an activation without lines, and at
            the input.
        intervals: sound ones of all nodes up to the last of `rows`.
        balls: of what ReLUs read, by the ReLU; of any of them.

    Returns:
        The coefficients of the nodes where the rows stopped, and the constants.
    """
    pending, stopped, constant = dict(rows), {}, tf.zeros([1, 1], tf.float64)
    for index in range(max(pending), -1, -1):
        if (coefficients := pending.pop(index, None)) is None:
            continue
        node = program.nodes[index]
        if isinstance(node, Affine):
            parts, added = _through(program, index, coefficients, intervals)
        elif index in all_lines:
            read, ball = intervals[node.parents[0]], (balls or {}).get(index)
            parts, added = _relaxed(program, index, coefficients, all_lines[index], read, ball)
        else:
            stopped[index] = coefficients
            continue
        constant = constant + added
        for parent, part in zip(node.parents, parts, strict=True):
            pending[parent] = add(pending.get(parent), part)
    return LinearLowerBound(stopped, constant)


def _through(
    program: Program, index: int, coefficients: Coefficients, intervals: Sequence[Interval]
) -> tuple[Sequence[Coefficients], tf.Tensor]:
    node, constant = cast(Affine, program.nodes[index]), tf.zeros([1, 1], tf.float64)
    if not node.is_exact:
        own = intervals[index].magnitude
        constant -= program.roundoff * coefficients.absolute_dot(own)
        read = [intervals[parent].magnitude for parent in node.parents]
        constant -= underflown(coefficients, own, lost(*read))
    if node.bias is not None:
        constant += coefficients.dot(bias_of(node))
    return coefficients.through(node, program.shapes(node.parents)), constant


def _relaxed(
    program: Program,
    index: int,
    coefficients: Coefficients,
    node_lines: Lines,
    parent: Interval,
    ball: Ball | None,
) -> tuple[Sequence[Coefficients], tf.Tensor]:
    part, constant = coefficients.relaxed(node_lines)
    if ball is not None:
        left = left_slope(program.nodes[index])
        in_it = in_ball(coefficients, part, left, ball, parent, program.roundoff)
        constant = tf.maximum(constant, in_it)
    steepest = tf.maximum(tf.abs(node_lines.lower_slope), tf.abs(node_lines.upper_slope))
    farthest = tf.maximum(tf.abs(node_lines.lower_offset), tf.abs(node_lines.upper_offset))
    magnitude = steepest * parent.magnitude
    if len(magnitude.shape) != len(farthest.shape):
        magnitude = tf.reduce_sum(magnitude, axis=-1)
    rounding = program.roundoff * coefficients.absolute_dot(magnitude + farthest)
    read = parent.magnitude
    if len(read.shape) != len(farthest.shape):
        read = tf.reduce_sum(read, axis=-1)
    rounding += underflown(coefficients, read + farthest, lost(read))
    return [part], constant - rounding


def underflown(coefficients: Coefficients, added: tf.Tensor, most: tf.Tensor) -> tf.Tensor:
    """What may have underflowed of rows: nothing where all that they add up is 0."""
    is_some = tf.cast(added > 0.0, tf.float64)
    return tf.where(coefficients.absolute_dot(is_some) > 0.0, most, 0.0)


def lower_bound(
    program: Program, bound: LinearLowerBound, intervals: Sequence[Interval], domain: DomainTensors
) -> tf.Tensor:
    """Numbers (batch, rows) that linear bounds do not fall below on the domain.

    The input ranges over the domain, any other node where rows stopped over its interval.
    """
    total = bound.constant
    for index, coefficients in bound.coefficients.items():
        own = domain if index == 0 else DomainTensors.of_interval(intervals[index])
        total = total + concretize(coefficients, own, program.roundoff)
    return tf.where(tf.math.is_nan(total), -INFINITY, total)


def relax(node: Node, intervals: Sequence[Interval]) -> Lines:
    """The default lines of a node that is not affine, for the interval of its parent."""
    parent = intervals[node.parents[0]]
    if isinstance(node, Elementwise):
        return lines(activation_of(node.function), parent.lower, parent.upper)
    return norm_lines(parent.lower, parent.upper)


def refine(
    program: Program,
    domain: DomainTensors,
    tighten: Callable[[int, Interval], Interval] | None = None,
    backward_through: bool = True,
    ball_of: Callable[[int, Interval], Ball | None] | None = None,
) -> Relaxation:
    """Intervals of all nodes, those before an activation by backward bounds, and all lines.

    Args:
        program: the graph.
        domain: of the inputs.
        tighten: takes the position of a node and its interval, and returns a better one.
        backward_through: `False` for intervals by interval propagation alone.
        ball_of: takes the position of an activation and the interval of what it reads, and returns
            a ball of it, if one is known.
    """
    needed = {program.nodes[index].parents[0] for index in program.nonlinear()}
    result = Relaxation([interval(domain.lower, domain.upper)], {}, {})
    for index, node in enumerate(program.nodes[1:], 1):
        if isinstance(node, Elementwise | Norm):
            result.lines[index] = relax(node, result.intervals)
            ball = ball_of(index, result.intervals[node.parents[0]]) if ball_of else None
            result.balls.update({} if ball is None else {index: ball})
        result.intervals.append(step(program, node, result.intervals))
        if backward_through and index in needed and not _is_exact(program, index, domain):
            low, high = _both_bounds(program, index, result, domain)
            result.intervals[index] = intersect(result.intervals[index], low, high)
        if tighten is not None:
            result.intervals[index] = tighten(index, result.intervals[index])
    return result


def _is_exact(program: Program, index: int, domain: DomainTensors) -> bool:
    """Whether interval propagation cannot be improved: one affine map of a box."""
    return program.nodes[index].parents == (0,) and domain.norm is None


def _both_bounds(
    program: Program, index: int, relaxation: Relaxation, domain: DomainTensors
) -> tuple[tf.Tensor, tf.Tensor]:
    """Backward bounds of all entries of a node, below and above, in blocks of rows."""
    shape = program.nodes[index].shape
    as_windows = starts_as_windows(program, index)
    count = shape[2] if as_windows else int(np.prod(shape))
    # In balls, several tensors of the size of the coefficients are there at once.
    memory = _MEMORY // BALLS_ENTRIES if relaxation.balls else _MEMORY
    block = min(count, max(1, memory * count // footprint(program, index)))

    def bounds_of(start):
        rows = {index: identity(shape, start + tf.range(block), as_windows)}
        bound = backward(program, rows, relaxation.lines, relaxation.intervals, relaxation.balls)
        lowest = lower_bound(program, bound, relaxation.intervals, domain)
        places = int(np.prod(shape[:2])) if as_windows else 1
        return tf.reshape(lowest, [tf.shape(lowest)[0], places, 2, block])

    if block == count:
        found = bounds_of(0)
    else:
        starts = tf.range(0, count, block)
        parts = tf.map_fn(bounds_of, starts, fn_output_signature=tf.float64, parallel_iterations=1)
        found = tf.concat(tf.unstack(parts, num=-(-count // block)), axis=-1)[..., :count]
    batch = tf.shape(found)[0]
    low, negative_high = (tf.reshape(found[:, :, i], [batch, *shape]) for i in range(2))
    return low, -negative_high


def starts_as_windows(program: Program, index: int) -> bool:
    """Whether the entries of a node depend on windows of an image."""
    node = program.nodes[index]
    if not isinstance(node, Affine) or len(node.shape) != 3:
        return False
    if isinstance(node.map, _ENTRYWISE):
        return starts_as_windows(program, node.parents[0])
    return is_windowed(node.map)


def footprint(program: Program, index: int) -> int:
    """Entries, for one sample, of the largest tensor of coefficients of all rows of a node."""
    shape = program.nodes[index].shape
    sizes = [int(np.prod(program.nodes[i].shape)) for i in ancestors(program, index)]
    rows = 2 * int(np.prod(shape))
    if not starts_as_windows(program, index):
        return rows * max(sizes)
    return rows * min(max(sizes), _largest_window(program, index))


def _largest_window(program: Program, index: int) -> int:
    """Entries of the largest window on the way to the input, as far as there are any."""
    window: Shape = (1, 1)
    largest = 1
    while index:
        node = program.nodes[index]
        if len(node.parents) > 1 or isinstance(node, Norm):
            return max(largest, max(int(np.prod(n.shape)) for n in program.nodes[:index]))
        parent = program.nodes[node.parents[0]]
        if isinstance(node, Affine) and not isinstance(node.map, _ENTRYWISE):
            if not is_windowed(node.map):
                return max(largest, int(np.prod(parent.shape)))
            window = grown_window(node.map, window)
        largest = max(largest, int(np.prod(window)) * parent.shape[-1])
        index = node.parents[0]
    return largest
