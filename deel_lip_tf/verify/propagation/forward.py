"""Forward linear bounds: every node between two linear functions of the input.

They are kept as a center and a radius: `(C - R) x + o - s <= node <= (C + R) x + o + s` for all x
of the domain, so that an affine map acts on the center by its matrix and on the radius by its
absolute values. Sums are rounded outward as in interval propagation. One tensor holds a
coefficient for each entry of the input and of the node, which suits small inputs.
"""

from collections.abc import Mapping, Sequence
from functools import partial, reduce
from operator import add
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deel_lip_tf.semantics.ir.program import Affine, Node, Norm, Program
from deel_lip_tf.verify.propagation.backward import backward, relax
from deel_lip_tf.verify.propagation.coefficients import Dense
from deel_lip_tf.verify.propagation.concretize import DomainTensors, concretize, concretize_exactly
from deel_lip_tf.verify.propagation.interval import (
    INFINITY,
    Interval,
    floored,
    intersect,
    interval,
    lost,
    step,
)
from deel_lip_tf.verify.propagation.relaxations import Lines
from deel_lip_tf.verify.tensorflow import absolute, bias_of, linear


class LinearBounds(NamedTuple):
    """Two linear functions of the input (n entries) around a node.

    Attributes:
        center: (batch, n, *shape) coefficients of the middle of both.
        radius: (batch, n, *shape) coefficients of half their distance.
        offset: (batch, *shape) constant of the middle.
        slack: (batch, *shape) constant of half their distance; alone it may be negative.
    """

    center: tf.Tensor
    radius: tf.Tensor
    offset: tf.Tensor
    slack: tf.Tensor


def forward(
    program: Program, domain: DomainTensors
) -> tuple[list[Interval], dict[int, LinearBounds]]:
    """Intervals of all nodes, intersected with interval propagation's, and their linear bounds."""
    intervals, all_bounds = [interval(domain.lower, domain.upper)], {0: _start(program, domain)}
    for index, node in enumerate(program.nodes[1:], 1):
        parents = [all_bounds[parent] for parent in node.parents]
        if isinstance(node, Affine):
            bounds = _affine(program, node, parents, domain)
        else:
            bounds = _relaxed(program, node, parents[0], relax(node, intervals), domain)
        all_bounds[index] = bounds
        own = step(program, node, intervals)
        intervals.append(intersect(own, *_numbers(program, bounds, domain)))
    return intervals, all_bounds


def forward_lower_bound(
    program: Program,
    objectives: Dense,
    domain: DomainTensors,
    intervals: Sequence[Interval],
    all_bounds: Mapping[int, LinearBounds],
) -> tf.Tensor:
    """(batch, rows) numbers that the objectives do not fall below on the domain."""
    bound = backward(program, {program.output: objectives}, {}, intervals)
    centers, roundings, constant = [], [], bound.constant
    for index, coefficients in bound.coefficients.items():
        dense, bounds = coefficients.dense(), all_bounds[index]
        size = int(np.prod(dense.shape))
        shape = [tf.shape(dense.values)[0], tf.shape(dense.values)[1], size]
        values = tf.reshape(dense.values, shape)
        entries = tf.shape(bounds.center)[1]
        flat = [tf.reshape(x, [-1, entries, size]) for x in (bounds.center, bounds.radius)]
        part = tf.matmul(values, flat[0], transpose_b=True)
        part -= tf.matmul(tf.abs(values), flat[1], transpose_b=True)
        centers.append(part)
        constant += dense.dot(bounds.offset) - dense.absolute_dot(bounds.slack)
        magnitude = _magnitude(bounds, domain)
        roundings.append(program.roundoff * dense.absolute_dot(magnitude))
        roundings.append(_lost(dense.absolute_dot(tf.ones_like(magnitude)), domain))
    batch = tf.shape(domain.lower)[0]
    values = tf.reshape(reduce(add, centers), [batch, -1, *program.input_shape])
    total = concretize_exactly(Dense(values, program.input_shape), domain, program.roundoff)
    total += constant - 2.0 * reduce(add, roundings)
    return tf.where(tf.math.is_nan(total), -INFINITY, total)


def _start(program: Program, domain: DomainTensors) -> LinearBounds:
    size = int(np.prod(program.input_shape))
    eye = tf.reshape(tf.eye(size, dtype=tf.float64), [1, size, *program.input_shape])
    batch = tf.shape(domain.lower)[0]
    zeros = tf.zeros_like(domain.lower)
    eye = tf.broadcast_to(eye, [batch, size, *program.input_shape])
    return LinearBounds(eye, tf.zeros_like(eye), zeros, zeros)


def _magnitude(bounds: LinearBounds, domain: DomainTensors) -> tf.Tensor:
    """Sum of the absolute values of all terms of both functions, (batch, *shape)."""
    largest = tf.maximum(tf.abs(domain.lower), tf.abs(domain.upper))
    size = tf.shape(bounds.center)
    largest = tf.reshape(largest, [size[0], size[1], *[1] * (len(bounds.center.shape) - 2)])
    terms = (tf.abs(bounds.center) + tf.abs(bounds.radius)) * largest
    return tf.reduce_sum(terms, axis=1) + tf.abs(bounds.offset) + tf.abs(bounds.slack)


def _affine(
    program: Program, node: Affine, parents: Sequence[LinearBounds], domain: DomainTensors
) -> LinearBounds:
    shapes, entries = program.shapes(node.parents), tf.shape(parents[0].center)[1]

    def along_entries(function, tensors):
        flat = [tf.reshape(x, [-1, *s]) for x, s in zip(tensors, shapes, strict=True)]
        return tf.reshape(function(flat), [-1, entries, *node.shape])

    center = along_entries(partial(linear, node), [p.center for p in parents])
    radius = along_entries(partial(absolute, node), [p.radius for p in parents])
    offset = linear(node, [p.offset for p in parents])
    slack = absolute(node, [p.slack for p in parents])
    added = absolute(node, [floored(_magnitude(p, domain)) for p in parents])
    if node.bias is not None:
        offset, added = offset + bias_of(node), added + tf.abs(bias_of(node))
    slack = slack + 2.0 * program.roundoff * added + _lost(added, domain)
    return LinearBounds(center, radius, offset, slack)


def _lost(added: tf.Tensor, domain: DomainTensors) -> tf.Tensor:
    """What may have underflowed of functions of the input: nothing of those that are 0."""
    most = lost(tf.maximum(tf.abs(domain.lower), tf.abs(domain.upper)))
    most = tf.reshape(most, [-1, *[1] * (len(added.shape) - 1)])
    return tf.where(added > 0.0, most, 0.0)


def _relaxed(
    program: Program, node: Node, bounds: LinearBounds, lines: Lines, domain: DomainTensors
) -> LinearBounds:
    low = _side(bounds, lines.lower_slope, lines.lower_offset, -1.0, isinstance(node, Norm))
    high = _side(bounds, lines.upper_slope, lines.upper_offset, 1.0, isinstance(node, Norm))
    result = LinearBounds(
        0.5 * (low[0] + high[0]),
        0.5 * (high[0] - low[0]),
        0.5 * (low[1] + high[1]),
        0.5 * (high[1] - low[1]),
    )
    steepest = tf.maximum(tf.abs(lines.lower_slope), tf.abs(lines.upper_slope))
    rounding = steepest * floored(_magnitude(bounds, domain))
    if isinstance(node, Norm):
        rounding = tf.reduce_sum(rounding, axis=-1)
    farthest = tf.maximum(tf.abs(lines.lower_offset), tf.abs(lines.upper_offset))
    rounding = rounding + farthest
    rounding = 4.0 * program.roundoff * rounding + _lost(rounding, domain)
    return result._replace(slack=result.slack + rounding)


def _side(bounds: LinearBounds, slope, offset, sign: float, is_norm: bool):
    """The line above (`sign` 1) or below (-1), as coefficients and offset."""
    along = slope[:, None]
    center = along * bounds.center + sign * tf.abs(along) * bounds.radius
    constant = slope * bounds.offset + sign * tf.abs(slope) * bounds.slack
    if is_norm:
        center, constant = tf.reduce_sum(center, axis=-1), tf.reduce_sum(constant, axis=-1)
    return center, constant + offset


def _numbers(program: Program, bounds: LinearBounds, domain: DomainTensors):
    """Bounds of a node: those of its two functions on the domain."""
    entries = tf.shape(bounds.center)[1]
    shape, count = bounds.offset.shape[1:], int(np.prod(bounds.offset.shape[1:]))
    rows = []
    for sign in (-1.0, 1.0):
        flat = tf.reshape(bounds.center + sign * bounds.radius, [-1, entries, count])
        rows.append(-sign * tf.linalg.matrix_transpose(flat))
    values = tf.concat(rows, axis=1)
    values = tf.reshape(values, [-1, 2 * count, *program.input_shape])
    lowest = concretize(Dense(values, program.input_shape), domain, program.roundoff)
    lowest = tf.reshape(lowest, [-1, 2, *shape])
    rounding = 4.0 * program.roundoff * _magnitude(bounds, domain)
    low = lowest[:, 0] + bounds.offset - bounds.slack - rounding
    high = -lowest[:, 1] + bounds.offset + bounds.slack + rounding
    return low, high
