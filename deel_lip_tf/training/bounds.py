"""Bounds of a network that is being trained: intervals forward, linear functions backward.

The rules are those of `verify`: the same programs, of the same primitives. Here they hold the
variables, numbers are rounded to nearest, and everything has gradients.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from deel_lip_tf.errors import UnsupportedLayerError, UnsupportedParts
from deel_lip_tf.semantics.graph import graph_of
from deel_lip_tf.semantics.ir.lowering import lower_model
from deel_lip_tf.semantics.ir.primitives import Shape
from deel_lip_tf.semantics.ir.program import Affine, Elementwise, Node, Norm, Program
from deel_lip_tf.semantics.ir.sources import Parameters
from deel_lip_tf.training.arrays import KerasOps
from deel_lip_tf.training.functions import Curve, curve_of, image, lines

Tensor = Any
Interval = tuple[Tensor, Tensor]

CANNOT_BE_TRAINED = (
    "`model` cannot be trained with bounds; no rule is known for: {}. Replace each of them by "
    "layers of the list in `deel_lip_tf.verify`, or give the part of the model without them."
)


def followed_program(model: keras.Model) -> Program:
    """The program of a model, which reads its variables whenever it is run.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: several inputs or outputs, unknown sizes, or layers without a rule: all of them
            are named.
    """
    source = Parameters()
    program = lower_model(model, sentence=CANNOT_BE_TRAINED, source=source)
    unsupported = UnsupportedParts(CANNOT_BE_TRAINED)
    followed = {id(weight) for layer in source.followed for weight in layer.weights}
    for call in graph_of(model).calls:
        weights = getattr(call.operation, "weights", [])
        if all(id(weight) in followed for weight in weights):
            continue
        reason = "its weights are read where they are proven, and not yet where they are trained"
        unsupported.add_call(call.operation, call.name, UnsupportedLayerError(reason))
    unsupported.raise_if_any()
    for index, node in enumerate(program.nodes):
        if isinstance(node, Elementwise) and curve_of(node.function) is None:
            call = next(one.call for one in program.calls if max(one.outputs) >= index)
            error = UnsupportedLayerError(f"no interval of its {node.function.name!r} is known")
            unsupported.add_call(call.operation, call.name, error)
    unsupported.raise_if_any()
    return program


def intervals(program: Program, arrays: KerasOps, lower: Tensor, upper: Tensor) -> list[Interval]:
    """Interval bound propagation: (batch, *shape) bounds of all nodes on boxes of inputs."""
    found = [(lower, upper)]
    for node in program.nodes[1:]:
        found.append(_interval(node, arrays, found))
    return found


def _interval(node: Node, arrays: KerasOps, found: Sequence[Interval]) -> Interval:
    parents = [found[index] for index in node.parents]
    if isinstance(node, Elementwise):
        return image(_curve(node), *parents[0])
    if isinstance(node, Norm):
        lower, upper = parents[0]
        nearest = ops.maximum(ops.maximum(lower, -upper), 0.0)
        farthest = ops.maximum(ops.abs(lower), ops.abs(upper))
        return _length(nearest), _length(farthest)
    if not isinstance(node, Affine):
        raise TypeError(f"No interval is known of {type(node).__name__}.")
    if node.interval is not None:
        # The smallest interval there is: its function grows with each number.
        return node.interval.bounds(arrays, [found[index] for index in node.interval.sources])
    if node.is_exact:
        return tuple(node.map.apply(arrays, list(ends)) for ends in zip(*parents, strict=True))
    middle = node.map.apply(arrays, [0.5 * (lower + upper) for lower, upper in parents])
    half_width = node.map.absolute(arrays, [0.5 * (upper - lower) for lower, upper in parents])
    if node.bias is not None:
        middle = middle + arrays.coefficients(node.bias)
    return middle - half_width, middle + half_width


def _curve(node: Elementwise) -> Curve:
    if (curve := curve_of(node.function)) is None:
        raise ValueError(f"No interval is known of {node.function.name!r}.")
    return curve


def _length(x: Tensor) -> Tensor:
    # The root of a least number has a derivative.
    return ops.sqrt(ops.sum(ops.square(x), axis=-1) + 1e-12)


def margins(
    program: Program,
    arrays: KerasOps,
    found: Sequence[Interval],
    objectives: Tensor,
    is_relaxed: bool = False,
) -> Tensor:
    """Numbers that linear functions of the output do not fall below on boxes of inputs.

    Args:
        program: of the model.
        arrays: the interpreter.
        found: `intervals` of all nodes.
        objectives: (batch, rows, outputs) coefficients.
        is_relaxed: whether activations are passed by their lines, down to the input (CROWN-IBP).
            Else the intervals of the last activations count (IBP), which affine maps behind them
            are folded into.

    Returns:
        (batch, rows).
    """
    rows = objectives.shape[1]
    total = ops.zeros((1, rows), dtype=arrays.dtype)
    pending = {program.output: ops.reshape(objectives, (-1, *program.output_shape))}
    for index in reversed(range(len(program.nodes))):
        if (coefficients := pending.pop(index, None)) is None:
            continue
        node = program.nodes[index]
        if isinstance(node, Affine):
            shapes = program.shapes(node.parents)
            parts = node.map.adjoint(arrays, coefficients, shapes)
            if node.bias is not None:
                total = total + _summed(coefficients * arrays.coefficients(node.bias), rows)
        elif isinstance(node, Elementwise) and is_relaxed:
            part, constant = _passed(node, coefficients, found[node.parents[0]], rows)
            parts, total = [part], total + constant
        else:
            parts, total = [], total + _smallest(coefficients, found[index], rows)
        for parent, part in zip(node.parents, parts, strict=False):
            pending[parent] = pending[parent] + part if parent in pending else part
    return total


def _passed(node: Elementwise, coefficients: Tensor, ends: Interval, rows: int) -> Interval:
    """The coefficients before an activation and the constant: by the line on the side of each."""
    per_row = lines(_curve(node), *ends)
    slope, offset, slope_above, offset_above = (_for_rows(x, node.shape, rows) for x in per_row)
    positive, negative = ops.maximum(coefficients, 0.0), ops.minimum(coefficients, 0.0)
    constant = _summed(positive * offset + negative * offset_above, rows)
    return positive * slope + negative * slope_above, constant


def _smallest(coefficients: Tensor, ends: Interval, rows: int) -> Tensor:
    """(batch, rows) the smallest values of rows on the box of a node."""
    shape = tuple(coefficients.shape[1:])
    middle = _for_rows(0.5 * (ends[0] + ends[1]), shape, rows)
    half_width = _for_rows(0.5 * (ends[1] - ends[0]), shape, rows)
    return _summed(coefficients * middle - ops.abs(coefficients) * half_width, rows)


def _for_rows(x: Tensor, shape: Shape, rows: int) -> Tensor:
    """(batch, *shape), each sample once for each row."""
    return ops.repeat(ops.reshape(x, (-1, *shape)), rows, axis=0)


def _summed(x: Tensor, rows: int) -> Tensor:
    """(batch * rows, *shape) to the sums (batch, rows)."""
    return ops.sum(ops.reshape(x, (-1, rows, math.prod(x.shape[1:]))), axis=-1)
