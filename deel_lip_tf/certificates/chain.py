"""The end of a network as a sequence of linear maps and of activations with straight pieces.

Each knows how it maps a set of gradients backward: see `local.py`.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from deel_lip_tf._rounding import TINY, TINY_NORM, UNIT, gamma
from deel_lip_tf.bounds.evaluation.model import Float64Evaluator, WithError
from deel_lip_tf.semantics.float64 import computable, plain_of
from deel_lip_tf.semantics.functions import PiecewiseLinear, pieces_of, proven_slope
from deel_lip_tf.semantics.graph import Call, Graph
from deel_lip_tf.semantics.rule import rule_for
from deel_lip_tf.semantics.state import as_float64

# More than the rounding of norms of up to 1e9 entries, of products of a few factors, and of
# arguments to float32.
_UP = 1.0 + 2.0**-20


@dataclass
class GradientSet:
    """The gradients that some combinations of logits can have, with respect to one tensor.

    Attributes:
        centre: (rows, ...) float64.
        box: (rows, ...) not negative; None where it is 0 everywhere.
        ball: (rows,) radii.
        best: (rows,) the smallest bound so far on how fast they change with the model's input.
    """

    centre: np.ndarray
    box: np.ndarray | None
    ball: np.ndarray
    best: np.ndarray

    @classmethod
    def of(cls, directions: np.ndarray) -> "GradientSet":
        """Of combinations `directions` (rows, classes) of the logits, with respect to these."""
        rows = len(directions)
        return cls(directions, None, np.zeros(rows), np.full(rows, np.inf))

    def stop(self, constant: float) -> None:
        """Notes the bound that follows from a constant of the tensor."""
        box = 0.0 if self.box is None else _norm(self.box)
        self._note((_norm(self.centre) + box + self.ball) * constant)

    def straighten(self, slopes: "Slopes", steepest: float, constant: float) -> None:
        """From the output of an activation to its input.

        Args:
            slopes: what slopes it can have, for each row.
            steepest: bound of their absolute values.
            constant: of the input.
        """
        magnitude = np.abs(self.centre)
        self.ball = (self.ball + gamma(8) * _norm(magnitude)) * steepest * _UP
        reach = magnitude if self.box is None else magnitude + self.box
        self._note((_norm(slopes.steepest * reach) + self.ball) * constant)
        magnitude *= slopes.half_width * _UP
        if self.box is not None:
            magnitude += slopes.steepest * self.box * _UP
        self.centre, self.box = self.centre * slopes.middle, magnitude

    def _note(self, bound: np.ndarray) -> None:
        self.best = np.minimum(self.best, bound * _UP)


class Slopes(NamedTuple):
    """The slopes that an activation can have in some balls, arrays (n, ...).

    Attributes:
        middle: of the smallest and the largest one.
        half_width: half their difference.
        steepest: the largest absolute value.
    """

    middle: np.ndarray
    half_width: np.ndarray
    steepest: np.ndarray

    @classmethod
    def between(cls, low: np.ndarray, high: np.ndarray) -> "Slopes":
        """All from the lowest to the highest."""
        return cls(0.5 * (low + high), 0.5 * (high - low), np.maximum(np.abs(low), np.abs(high)))

    def of_rows(self, row: np.ndarray) -> "Slopes":
        """Those of the ball that each row is about."""
        return Slopes(*(slopes[row] for slopes in self))


@dataclass(frozen=True)
class LinearStep:
    """One call of a linear layer.

    Attributes:
        layer: its float64 copy, without activation.
        adjoint: from (rows, *output) to (rows, *input).
        constant: of the input with respect to the model's input.
        norm: bound of the norm of the layer.
        rounding: error of applying the adjoint, times the norm of what it is applied to.
        rows: for a kernel, the norm of each row of its matrix; None for averages and scales.
    """

    layer: keras.layers.Layer
    adjoint: Callable[[np.ndarray], np.ndarray]
    constant: float
    norm: float
    rounding: float
    rows: np.ndarray | None

    def backward(self, gradients: GradientSet) -> None:
        """From the gradients with respect to the output to those with respect to the input."""
        box, rows = gradients.box, self.rows
        ball = gradients.ball * self.norm + self.rounding * _norm(gradients.centre)
        gradients.centre = self.adjoint(gradients.centre)
        if box is not None:
            gradients.box = np.abs(self.adjoint(box)) * _UP if rows is None else None
            ball = ball if rows is None else ball + self._norm_of_image(box, rows)
        gradients.ball = ball * _UP + TINY  # products with the kernel may underflow, too
        gradients.stop(self.constant)

    def _norm_of_image(self, box: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Bounds `||W^T v||` for all `|v| <= box`."""
        box, rows = box.reshape(len(box), -1), rows.ravel()
        frobenius = np.sqrt((box > 0) @ np.square(rows))
        by_norms = _norm(box) * np.minimum(frobenius, self.norm)
        return np.minimum(by_norms, box @ rows) * _UP


@dataclass(frozen=True)
class PiecewiseStep:
    """One call of an activation with straight pieces.

    Attributes:
        pieces: its slopes.
        steepest: bound of their absolute values.
        constant: of the input with respect to the model's input.
        entries: the same for each entry of the input.
    """

    pieces: PiecewiseLinear
    steepest: float
    constant: float
    entries: np.ndarray

    def slopes(self, values: np.ndarray, errors: np.ndarray, radius: np.ndarray) -> Slopes:
        """The slopes that each entry can have in the balls of these radii.

        Args:
            values: (n, ...) inputs of the activation at the samples.
            errors: (n,) how wrong they may be.
            radius: (n,).
        """
        return Slopes.between(*self.ends(values, errors, radius, self.entries))

    def ends(
        self, values: np.ndarray, errors: np.ndarray, radius: np.ndarray, entries: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and the largest of them, for entries of these constants."""
        shape = (-1, *[1] * (values.ndim - 1))
        moved = entries * radius.reshape(shape) + errors.reshape(shape)
        # The second term: one rounding of the ends of the interval.
        moved = moved * _UP + 4.0 * UNIT * np.abs(values)
        return self.pieces.range_of_slopes(values - moved, values + moved)

    def backward(self, gradients: GradientSet, slopes: Slopes) -> None:
        """As in `LinearStep`, for these slopes of each row."""
        gradients.straighten(slopes, self.steepest, self.constant)


def sequential_tail(graph: Graph) -> list[Call]:
    """The calls that lead to the output one by one, as far back as they are straight.

    The last one comes first.
    """
    value, calls = graph.outputs[0], []
    while (call := value.call) is not None and len(call.inputs) == len(call.outputs) == 1:
        if not (_is_linear(call.operation) or pieces_of(call.operation) is not None):
            break
        calls.append(call)
        (value,) = call.inputs
    return calls


def _gradient(operation: Any) -> str | None:
    return rule_for(operation).gradient


def _is_linear(operation: Any) -> bool:
    """Whether it is linear: of kernels, one that copies no pixels, with straight pieces after."""
    if _gradient(operation) != "kernel":
        return _gradient(operation) is not None
    if getattr(operation, "groups", 1) != 1:
        return False  # TensorFlow has no gradient of grouped convolutions on a CPU
    pads = getattr(operation, "padding", "same") in ("same", "valid", "causal")
    activation = operation.activation
    is_linear = activation in (None, keras.activations.linear)
    return pads and (is_linear or pieces_of(activation) is not None)


Step = tuple[LinearStep | None, PiecewiseStep | None]
"""One call: its linear part, and the activation after it."""


def steps_of_tail(
    calls: list[Call], values: list[tuple[WithError, WithError]], copies: Float64Evaluator
) -> list[Step]:
    """The tail as steps, the first call first.

    Args:
        calls: of the tail, the first one first.
        values: the input and the output of each, for some batch: only sizes are used.
        copies: gives the float64 copies, whose activations are taken off.
    """
    steps: list[Step] = []
    entries: np.ndarray | None = None
    for call, (before, after) in zip(calls, values, strict=True):
        layer, constant = call.operation, before.constant
        shape = tuple(before.tensor.shape[1:])
        entries = np.full(shape, constant) if entries is None else entries
        linear = piecewise = None
        activation = layer
        if _is_linear(layer):
            linear = _linear(call, shape, tuple(after.tensor.shape), constant, copies)
            entries = _entries_after(linear, _gradient(layer), entries, after)
            activation = layer.activation if linear.rows is not None else None
        if (pieces := pieces_of(activation)) is not None:
            steepest = proven_slope(activation)
            inside = constant if linear is None else linear.norm * constant * _UP
            piecewise = PiecewiseStep(pieces, steepest, inside, np.minimum(entries, inside))
            entries = np.minimum(steepest * entries, after.constant) * _UP
        steps.append((linear, piecewise))
    return steps


def _linear(
    call: Call, shape: tuple, output_shape: tuple, constant: float, copies: Float64Evaluator
) -> LinearStep:
    layer = call.operation
    copy, rows = copies.copy(layer), None
    if _gradient(layer) == "kernel":
        copy.activation = keras.activations.linear
        rows = _row_norms(copy, shape)
    whole = copies.constants(call)
    rounding, _ = copies.roundings(call, whole, math.prod(shape), output_shape)
    share = rounding.of_inputs[0]
    return LinearStep(copy, _adjoint(copy, shape), constant, whole[0], share, rows)


def _entries_after(
    linear: LinearStep, gradient: str | None, entries: np.ndarray, after: WithError
) -> np.ndarray:
    """Constants of the entries of the output of a linear layer."""
    if linear.rows is not None:
        return linear.rows * linear.constant * _UP
    if gradient == "scale":
        ones = np.ones((1, *after.tensor.shape[1:]))
        return np.abs(linear.adjoint(ones)[0]) * entries * _UP
    # No entry is negative: the constants add up like the values.
    return as_float64(linear.layer(ops.convert_to_tensor(entries[None], "float64")))[0] * _UP


def _row_norms(layer: keras.layers.Layer, shape: tuple) -> np.ndarray:
    """Norm of each row of the matrix of a linear layer: the root of what squares give on ones."""
    plain = plain_of(layer)
    config = {**plain.get_config(), "use_bias": False, "activation": None}
    squared = type(plain).from_config(config)
    squared.build((None, *shape))
    squared.set_weights([np.square(as_float64(plain.kernel))])
    return np.sqrt(as_float64(computable(squared)(np.ones((1, *shape))))[0]) * _UP + TINY_NORM


def _adjoint(layer: keras.layers.Layer, shape: tuple) -> Callable[[np.ndarray], np.ndarray]:
    """Applies the adjoint of an affine layer for samples of this shape."""
    import tensorflow as tf

    def pull_back(values: Any) -> Any:
        point = tf.zeros((tf.shape(values)[0], *shape), "float64")
        with tf.GradientTape() as tape:
            tape.watch(point)
            outputs = layer(point, training=False)
        return tape.gradient(outputs, point, values)

    # As a graph, which leaves out the forward pass: the gradient of an affine map needs no values.
    # The concrete function at once: TensorFlow warns of functions that it sees traced often.
    @functools.cache
    def traced(shape_after: tuple) -> Callable:
        specified = tf.TensorSpec((None, *shape_after), "float64")
        return tf.function(pull_back, autograph=False).get_concrete_function(specified)

    def adjoint(values: np.ndarray) -> np.ndarray:
        with keras.device("cpu:0"):
            return traced(values.shape[1:])(tf.constant(values)).numpy()

    return adjoint


def _norm(rows: np.ndarray) -> np.ndarray:
    rows = rows.reshape(len(rows), -1)
    # Their rounding is in `_UP`; squares may underflow.
    return np.sqrt(np.einsum("ij,ij->i", rows, rows)) + TINY_NORM
