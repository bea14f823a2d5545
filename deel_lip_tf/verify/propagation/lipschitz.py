"""Intervals from proven Lipschitz constants: a node moves at most as far as its constant allows.

The constants are those of `deel_lip_tf.bounds`, with respect to Euclidean norms; a box is put into
the smallest ball around it.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from deel_lip_tf.bounds.propagation import LipschitzPropagation
from deel_lip_tf.layers.base import LipschitzLayer
from deel_lip_tf.semantics.ir.program import Affine, Program
from deel_lip_tf.verify.graphs import once
from deel_lip_tf.verify.propagation.backward import backward, lower_bound
from deel_lip_tf.verify.propagation.coefficients import Coefficients, identity
from deel_lip_tf.verify.propagation.concretize import DomainTensors
from deel_lip_tf.verify.propagation.interval import INFINITY, Interval, intersect, propagate

__all__ = ["constants", "entry_constants", "has_small_constants", "lipschitz_lower_bound"]
__all__ += ["tightening"]

_ROUND = 1.0 + 2.0**-40
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
    """(batch or 1, rows) Lipschitz constants of rows of a node, or `None`."""
    smallest = None
    while True:
        if index in known:
            steepness = rows.dual_norm("l2") * (known[index] * (_ROUND + program.roundoff))
            smallest = steepness if smallest is None else tf.minimum(smallest, steepness)
        node = program.nodes[index]
        if not isinstance(node, Affine) or len(node.parents) > 1:
            return smallest
        rows, index = rows.through(node, program.shapes(node.parents))[0], node.parents[0]


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
