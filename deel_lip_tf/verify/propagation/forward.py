"""Forward linear bounds: every node between two linear functions of the input.

They are kept as a middle and a half distance: `(M - R) x + m - r <= node <= (M + R) x + m + r` for
all x of the domain, so that an affine map acts on the middle by its matrix and on the half distance
by its absolute values. Sums are rounded outward as in interval propagation. One tensor holds a
coefficient for each entry of the input and of the node, which suits small inputs.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deel_lip_tf.semantics.ir.program import Affine, Node, Norm, Program
from deel_lip_tf.verify.propagation.backward import backward, relax
from deel_lip_tf.verify.propagation.coefficients import Dense
from deel_lip_tf.verify.propagation.interval import INFINITY, Interval, intersect, step
from deel_lip_tf.verify.propagation.region import Region, concretize, concretize_exactly
from deel_lip_tf.verify.propagation.relaxations import Lines
from deel_lip_tf.verify.tensorflow import absolute, bias_of, linear

__all__ = ["Band", "forward", "forward_lower_bound"]


class Band(NamedTuple):
    """Two linear functions of the input (n entries) around a node.

    Attributes:
        middle: (batch, n, *shape) coefficients.
        reach: (batch, n, *shape) coefficients of half the distance.
        offset: (batch, *shape).
        slack: (batch, *shape) of half the distance; alone it may be negative.
    """

    middle: tf.Tensor
    reach: tf.Tensor
    offset: tf.Tensor
    slack: tf.Tensor


def forward(program: Program, region: Region) -> tuple[list[Interval], dict[int, Band]]:
    """Intervals of all nodes, intersected with interval propagation's, and the bands."""
    intervals, bands = [Region.interval(region)], {0: _start(program, region)}
    for index, node in enumerate(program.nodes[1:], 1):
        parents = [bands[parent] for parent in node.parents]
        if isinstance(node, Affine):
            band = _affine(program, node, parents, intervals)
        else:
            band = _relaxed(program, node, parents[0], relax(program, index, intervals), intervals)
        bands[index] = band
        own = step(program, node, intervals)
        intervals.append(intersect(own, *_numbers(program, band, region)))
    return intervals, bands


def forward_lower_bound(
    program: Program,
    rows: Dense,
    region: Region,
    intervals: Sequence[Interval],
    bands: Mapping[int, Band],
) -> tf.Tensor:
    """(batch, rows) numbers that rows of the output do not fall below on the region."""
    bound = backward(program, {program.output: rows}, {}, intervals)
    middle = rounding = None
    constant = bound.constant
    for index, coefficients in bound.coefficients.items():
        dense, band = coefficients.dense(), bands[index]
        size = int(np.prod(dense.shape))
        shape = [tf.shape(dense.values)[0], tf.shape(dense.values)[1], size]
        values = tf.reshape(dense.values, shape)
        entries = tf.shape(band.middle)[1]
        flat = [tf.reshape(x, [-1, entries, size]) for x in (band.middle, band.reach)]
        part = tf.matmul(values, flat[0], transpose_b=True)
        part -= tf.matmul(tf.abs(values), flat[1], transpose_b=True)
        middle = part if middle is None else middle + part
        constant += dense.dot(band.offset) - dense.absolute_dot(band.slack)
        added = program.roundoff * dense.absolute_dot(_magnitude(band, region))
        rounding = added if rounding is None else rounding + added
    batch = tf.shape(region.lower)[0]
    values = tf.reshape(middle, [batch, -1, *program.input_shape])
    total = concretize_exactly(Dense(values, program.input_shape), region, program.roundoff)
    total += constant - 2.0 * rounding
    return tf.where(tf.math.is_nan(total), -INFINITY, total)


def _start(program: Program, region: Region) -> Band:
    size = int(np.prod(program.input_shape))
    eye = tf.reshape(tf.eye(size, dtype=tf.float64), [1, size, *program.input_shape])
    batch = tf.shape(region.lower)[0]
    zeros = tf.zeros_like(region.lower)
    eye = tf.broadcast_to(eye, [batch, size, *program.input_shape])
    return Band(eye, tf.zeros_like(eye), zeros, zeros)


def _magnitude(band: Band, region: Region) -> tf.Tensor:
    """Sum of the absolute values of all terms of both functions, (batch, *shape)."""
    largest = tf.maximum(tf.abs(region.lower), tf.abs(region.upper))
    size = tf.shape(band.middle)
    largest = tf.reshape(largest, [size[0], size[1], *[1] * (len(band.middle.shape) - 2)])
    terms = (tf.abs(band.middle) + tf.abs(band.reach)) * largest
    return tf.reduce_sum(terms, axis=1) + tf.abs(band.offset) + tf.abs(band.slack)


def _affine(
    program: Program, node: Affine, parents: Sequence[Band], intervals: Sequence[Interval]
) -> Band:
    region = Region.of_interval(intervals[0])
    shapes, entries = program.shapes(node.parents), tf.shape(parents[0].middle)[1]

    def along_entries(function, tensors):
        flat = [tf.reshape(x, [-1, *s]) for x, s in zip(tensors, shapes, strict=True)]
        return tf.reshape(function(flat), [-1, entries, *node.shape])

    middle = along_entries(partial(linear, node), [p.middle for p in parents])
    reach = along_entries(partial(absolute, node), [p.reach for p in parents])
    offset, slack = (
        linear(node, [p.offset for p in parents]),
        absolute(node, [p.slack for p in parents]),
    )
    added = absolute(node, [_magnitude(p, region) for p in parents])
    if node.bias is not None:
        offset, added = offset + bias_of(node), added + tf.abs(bias_of(node))
    return Band(middle, reach, offset, slack + 2.0 * program.roundoff * added)


def _relaxed(
    program: Program, node: Node, band: Band, lines: Lines, intervals: Sequence[Interval]
) -> Band:
    region = Region.of_interval(intervals[0])
    low = _side(band, lines.lower_slope, lines.lower_offset, -1.0, isinstance(node, Norm))
    high = _side(band, lines.upper_slope, lines.upper_offset, 1.0, isinstance(node, Norm))
    result = Band(
        0.5 * (low[0] + high[0]),
        0.5 * (high[0] - low[0]),
        0.5 * (low[1] + high[1]),
        0.5 * (high[1] - low[1]),
    )
    steepest = tf.maximum(tf.abs(lines.lower_slope), tf.abs(lines.upper_slope))
    rounding = steepest * _magnitude(band, region)
    if isinstance(node, Norm):
        rounding = tf.reduce_sum(rounding, axis=-1)
    farthest = tf.maximum(tf.abs(lines.lower_offset), tf.abs(lines.upper_offset))
    rounding = 4.0 * program.roundoff * (rounding + farthest)
    return result._replace(slack=result.slack + rounding)


def _side(band: Band, slope, offset, sign: float, is_norm: bool):
    """The line above (`sign` 1) or below (-1), as coefficients and offset."""
    along = slope[:, None]
    middle = along * band.middle + sign * tf.abs(along) * band.reach
    constant = slope * band.offset + sign * tf.abs(slope) * band.slack
    if is_norm:
        middle, constant = tf.reduce_sum(middle, axis=-1), tf.reduce_sum(constant, axis=-1)
    return middle, constant + offset


def _numbers(program: Program, band: Band, region: Region):
    """Bounds of a node: those of its two functions on the region."""
    entries = tf.shape(band.middle)[1]
    shape, count = band.offset.shape[1:], int(np.prod(band.offset.shape[1:]))
    rows = []
    for sign in (-1.0, 1.0):
        flat = tf.reshape(band.middle + sign * band.reach, [-1, entries, count])
        rows.append(-sign * tf.linalg.matrix_transpose(flat))
    values = tf.concat(rows, axis=1)
    values = tf.reshape(values, [-1, 2 * count, *program.input_shape])
    lowest = concretize(Dense(values, program.input_shape), region, program.roundoff)
    lowest = tf.reshape(lowest, [-1, 2, *shape])
    rounding = 4.0 * program.roundoff * _magnitude(band, region)
    low = lowest[:, 0] + band.offset - band.slack - rounding
    high = -lowest[:, 1] + band.offset + band.slack + rounding
    return low, high
