"""Intervals from proven Lipschitz constants: a node moves at most as far as its constant allows.

The constants are those of `deel_lip_tf.bounds`, with respect to Euclidean norms; a box is put into
the smallest ball around it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deel_lip_tf._rounding import TINY_NORM
from deel_lip_tf.bounds.norms.operators import operator_bound
from deel_lip_tf.bounds.norms.spectral import gram, gram_error, spectral_norm_bound
from deel_lip_tf.bounds.propagation import LipschitzPropagation
from deel_lip_tf.layers.base import LipschitzLayer
from deel_lip_tf.semantics.ir.intervals import Exchanged
from deel_lip_tf.semantics.ir.primitives import Blocks, Conv, Diagonal, LinearMap, MatMul, Scale
from deel_lip_tf.semantics.ir.program import Affine, Program, left_slope
from deel_lip_tf.semantics.operators import Convolution
from deel_lip_tf.verify.graphs import once
from deel_lip_tf.verify.propagation.backward import backward, lower_bound, underflown
from deel_lip_tf.verify.propagation.balls import Ball
from deel_lip_tf.verify.propagation.coefficients import Coefficients, identity
from deel_lip_tf.verify.propagation.concretize import DomainTensors
from deel_lip_tf.verify.propagation.interval import (
    INFINITY,
    Interval,
    intersect,
    lost,
    propagate,
)
from deel_lip_tf.verify.tensorflow import absolute

_ROUND = 1.0 + 2.0**-40
_MOST_ROWS, _SQUARINGS = 1024, 5  # of a matrix, the norm of whose parts is bounded
_LARGEST_NODE = 2**22  # entries of the matrix of a node whose rows are measured one by one


@once
def constants(program: Program) -> dict[int, float]:
    """Proven Lipschitz constants of nodes, with respect to the input; of those that have one.

    A constant bounds the Euclidean norm of the whole node.
    """
    known, walk = {0: 1.0}, LipschitzPropagation()
    for call in program.calls:
        if not all(index in known for index in call.inputs):
            continue
        inputs = [known[index] for index in call.inputs]
        (value,) = walk.call(call.call, inputs)
        if np.isfinite(value):
            (output,) = call.outputs
            known[output] = min(value, known.get(output, np.inf))
    return known


@once
def node_constants(program: Program) -> dict[int, float]:
    """As `constants`, also of what lies inside calls: what activations and comparators read."""
    known = dict(constants(program))
    for index, node in enumerate(program.nodes):
        if index in known or not isinstance(node, Affine):
            continue
        norm: float | None = None
        if isinstance(node.interval, Exchanged):
            # It is the same entries, in an order that depends on them: they move no farther.
            (source,), norm = node.interval.sources, 1.0
        elif len(node.parents) == 1:
            (source,), norm = node.parents, _norm(node.map)
        if norm is not None and source in known and np.isfinite(value := known[source] * norm):
            known[index] = value * _ROUND
    return known


def activations_in_balls(program: Program) -> list[int]:
    """The ReLUs of which balls are known: what they read has a constant."""
    known = node_constants(program)
    return [
        index
        for index, node in enumerate(program.nodes)
        if left_slope(node) is not None and node.parents[0] in known
    ]


def ball_of(
    program: Program, center: tf.Tensor, radius: tf.Tensor
) -> Callable[[int, Interval], Ball | None]:
    """What returns L2 balls of what ReLUs read, on L2 balls of the input.

    The value at the center is known up to its rounding, which widens the ball. Behind one matrix
    only its rows count whose entries have 0 inside their intervals.
    """
    known, values = node_constants(program), propagate(program, center, center)
    those = activations_in_balls(program)

    def ball(index: int, read: Interval) -> Ball | None:
        if index not in those:
            return None
        node = program.nodes[index]
        low, high, _ = values[node.parents[0]]
        axes, constant = list(range(1, len(low.shape))), known[node.parents[0]]
        if (rows := _rows_of(program, node.parents[0])) is not None:
            norms = rows.norms((read.lower < 0.0) & (read.upper > 0.0), program.roundoff)
            constant = tf.minimum(norms, constant)
        moved = tf.sqrt(tf.reduce_sum((high - low) ** 2, axis=axes)) + TINY_NORM
        return Ball(0.5 * low + 0.5 * high, (radius * constant + moved) * _ROUND)

    return ball


class _Rows(NamedTuple):
    """The matrix of a node, to bound the norm of some of its rows.

    Attributes:
        gram: (n, n) products of rows, scaled to about 1.
        error: in norm, of `gram`.
        factor: by which roots of norms of parts of `gram` are multiplied.
    """

    gram: np.ndarray
    error: float
    factor: float

    def norms(self, chosen: tf.Tensor, roundoff: float) -> tf.Tensor:
        """(batch,) what the norms of the chosen rows (batch, n) do not exceed.

        `||G|| = ||G G^T||^(1/2)` a few times, and at last the Frobenius norm. Of a matrix whose
        Frobenius norm is 1, the product is wrong by at most `roundoff`.
        """
        mask = tf.cast(chosen, tf.float64)
        power = mask[:, :, None] * tf.constant(self.gram) * mask[:, None, :]
        sizes = []
        for _ in range(_SQUARINGS):
            sizes.append(tf.norm(power, axis=[1, 2]) * _ROUND)
            power = tf.math.divide_no_nan(power, sizes[-1][:, None, None])
            power = tf.matmul(power, power, transpose_b=True)
        bound = tf.norm(power, axis=[1, 2]) * _ROUND
        for size in reversed(sizes):
            bound = size * (tf.sqrt(bound + roundoff) + roundoff)
        return tf.sqrt(bound + self.error) * self.factor * _ROUND


@once
def _rows_of(program: Program, index: int) -> _Rows | None:
    """The rows of a node that is a matrix times a node, and the constant of that; or `None`."""
    node, known = program.nodes[index], constants(program)
    if not isinstance(node, Affine) or not isinstance(node.map, MatMul) or len(node.shape) != 1:
        return None
    if node.shape[0] > _MOST_ROWS or node.parents[0] not in known:
        return None
    exponent = int(np.frexp(np.abs(node.map.matrix).max())[1])
    scaled = np.ldexp(node.map.matrix, -exponent)
    factor = float(np.ldexp(known[node.parents[0]], exponent))
    return _Rows(gram(scaled), gram_error(scaled), factor)


def _norm(linear: LinearMap) -> float | None:
    """What the Euclidean norm of a map does not exceed; of some kinds of maps."""
    if linear.is_exact:
        return 1.0
    if isinstance(linear, Scale):
        return abs(linear.factor)
    if isinstance(linear, Diagonal):
        return float(np.abs(linear.scale).max())
    if isinstance(linear, MatMul):
        return spectral_norm_bound(linear.matrix)
    if isinstance(linear, Blocks):
        blocks = np.moveaxis(linear.coefficients, -1, 0)
        return max(spectral_norm_bound(block) for block in blocks)
    if isinstance(linear, Conv):
        # Zeros around an image do not change its norm, and an adjoint has the norm of the map.
        geometry = linear.strides, linear.dilation, "valid", linear.padded
        return operator_bound(Convolution(linear.kernel, *geometry))[0]
    return None


def has_small_constants(program: Program) -> bool:
    """Whether the model has layers of this library, whose constants are small by design."""
    return any(isinstance(call.call.operation, LipschitzLayer) for call in program.calls)


def lipschitz_lower_bound(
    program: Program, objectives: Coefficients, values: list[Interval], radius: tf.Tensor
) -> tf.Tensor:
    """(batch, rows) numbers that the objectives do not fall below on an L2 ball.

    `values` are those of all nodes at its center.

    `objective(center) - radius * K`, where K is the smallest `||coefficients|| * constant` on the
    way back from the output through its affine maps: with a linear head, that of the difference of
    two columns.
    """
    known = constants(program)
    at_center = DomainTensors.of_interval(values[0])
    bound = backward(program, {program.output: objectives}, {}, values)
    value = lower_bound(program, bound, values, at_center)
    steepest = _steepness(program, program.output, objectives, known)
    if steepest is None:
        return tf.fill(tf.shape(value), -INFINITY)
    return value - radius[:, None] * steepest * _ROUND


def _steepness(program: Program, index: int, rows: Coefficients, known: dict[int, float]):
    """(batch or 1, rows) Lipschitz constants of rows of a node, or `None`.

    The rounding of rows counts: what they lose where terms cancel is as steep as its terms were.
    """
    smallest, hidden = None, tf.zeros([1, 1], tf.float64)
    while True:
        if index in known:
            steepness = rows.dual_norm("l2") * (known[index] * (_ROUND + program.roundoff)) + hidden
            smallest = steepness if smallest is None else tf.minimum(smallest, steepness)
        node = program.nodes[index]
        if not isinstance(node, Affine) or len(node.parents) > 1:
            return smallest
        (parent,) = node.parents
        if not node.is_exact:
            constant = known[parent] if parent in known else node_constants(program).get(parent)
            if constant is None:
                return smallest
            # No entry of the parent moves farther than all of it.
            ones = tf.ones([1, *program.nodes[parent].shape], tf.float64)
            sizes = absolute(node, [ones])
            rounding = program.roundoff * rows.absolute_dot(sizes)
            rounding += underflown(rows, sizes, lost(ones))
            hidden += rounding * (constant * _ROUND)
        rows, index = rows.through(node, program.shapes(node.parents))[0], parent


def tightening(
    program: Program, center: tf.Tensor, radius: tf.Tensor
) -> Callable[[int, Interval], Interval]:
    """What intersects intervals with those of the Lipschitz constants, on L2 balls.

    A relaxation loses at every activation, a Lipschitz constant only once: deep in a network of
    1-Lipschitz layers the latter is the smaller interval.
    """
    values, steepness = propagate(program, center, center), entry_constants(program)

    def tighten(index: int, interval: Interval) -> Interval:
        if index not in steepness:
            return interval
        shape = [-1, *[1] * len(program.nodes[index].shape)]
        change = tf.reshape(radius, shape) * steepness[index] * _ROUND
        value = values[index]
        return intersect(interval, value.lower - change, value.upper + change)

    return tighten


@once
def entry_constants(program: Program) -> dict[int, np.ndarray | float]:
    """Lipschitz constants of each entry of nodes, shape (1, *shape) or a number for all."""
    known = constants(program)
    found: dict[int, np.ndarray | float] = {i: known[i] for i in known if i}
    for index, node in enumerate(program.nodes):
        if not isinstance(node, Affine) or node.parents[0] not in known or len(node.parents) > 1:
            continue
        size = int(np.prod(node.shape))
        if size * int(np.prod(program.nodes[node.parents[0]].shape)) > _LARGEST_NODE:
            continue
        rows = identity(node.shape, np.arange(size), as_windows=False)
        norms = rows.through(node, program.shapes(node.parents))[0].dual_norm("l2")
        each = tf.reshape(norms[0, :size], (1, *node.shape)).numpy()
        each = each * known[node.parents[0]] * (_ROUND + program.roundoff)
        found[index] = np.minimum(each, known.get(index, np.inf))
    return found
