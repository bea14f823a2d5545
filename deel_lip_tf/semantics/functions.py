"""Activation functions: one row for each function of `keras.activations`, for every analysis.

A function is recognised by identity, with its default arguments. What has no row is unknown, and
so is what is not what its name says (`sparsemax`: with the threshold Keras computes, it is no
projection).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import activations

from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.ir import elementwise
from deel_lip_tf.semantics.ir.elementwise import Function
from deel_lip_tf.semantics.norms import L2, Norm
from deel_lip_tf.semantics.operators import Shape
from deel_lip_tf.semantics.rounding import CallShapes, Rounding, copied, few, smooth, softmax
from deel_lip_tf.semantics.rule import lipschitz_constant, rule_for


@dataclass(frozen=True)
class PiecewiseLinear:
    """A continuous function of slopes `slopes[i]` from `breakpoints[i - 1]` to `breakpoints[i]`.

    Attributes:
        breakpoints: ascending numbers.
        slopes: one more than breakpoints; numbers, or arrays that broadcast against a sample.
    """

    breakpoints: tuple[float, ...]
    slopes: tuple

    def range_of_slopes(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and the largest slope on each interval `[low, high]`, entry by entry."""
        edges = (-np.inf, *self.breakpoints, np.inf)
        smallest, largest = np.full(low.shape, np.inf), np.full(low.shape, -np.inf)
        for left, right, slope in zip(edges[:-1], edges[1:], self.slopes, strict=True):
            meets = (high >= left) & (low <= right)
            # As written, or as backends keep it.
            both = slope, np.float64(np.float32(slope))
            np.minimum(smallest, np.where(meets, np.minimum(*both), np.inf), out=smallest)
            np.maximum(largest, np.where(meets, np.maximum(*both), -np.inf), out=largest)
        return smallest, largest


@dataclass(frozen=True)
class ActivationFunction:
    """What is known of one activation function.

    Attributes:
        slope: its Lipschitz constant in every p-norm: the largest slope of a function of single
            entries, rounded upward in the last digit that is written; None where it has none.
        function: the formula, of a function of single entries that has a linear relaxation.
        rounding: what float32 adds to it.
        pieces: its graph, if that is made of straight pieces.
        never_falls: whether it is a function of single entries that never decreases.
    """

    slope: float | None
    function: Function | None = None
    rounding: Callable[[Any, CallShapes], Rounding] = smooth
    pieces: PiecewiseLinear | None = None
    never_falls: bool = False


_RELU = PiecewiseLinear((0.0,), (0.0, 1.0))

FUNCTIONS: dict[Callable, ActivationFunction] = {
    activations.linear: ActivationFunction(1.0, None, copied, never_falls=True),
    activations.relu: ActivationFunction(1.0, elementwise.relu(), copied, _RELU, True),
    activations.relu6: ActivationFunction(
        1.0,
        elementwise.relu(max_value=6.0),
        copied,
        PiecewiseLinear((0.0, 6.0), (0.0, 1.0, 0.0)),
        True,
    ),
    activations.hard_tanh: ActivationFunction(
        1.0,
        elementwise.clip(-1.0, 1.0),
        copied,
        PiecewiseLinear((-1.0, 1.0), (0.0, 1.0, 0.0)),
        True,
    ),
    activations.leaky_relu: ActivationFunction(
        1.0, elementwise.relu(0.2), few, PiecewiseLinear((0.0,), (0.2, 1.0)), True
    ),
    activations.elu: ActivationFunction(1.0, elementwise.elu(), never_falls=True),
    activations.celu: ActivationFunction(1.0, elementwise.celu(), never_falls=True),
    activations.selu: ActivationFunction(1.7580993409, elementwise.selu(), never_falls=True),
    activations.softplus: ActivationFunction(1.0, Function("softplus"), never_falls=True),
    activations.softsign: ActivationFunction(1.0, Function("softsign"), never_falls=True),
    activations.soft_shrink: ActivationFunction(1.0, elementwise.soft_shrink(), never_falls=True),
    activations.sparse_plus: ActivationFunction(1.0, Function("sparse_plus"), never_falls=True),
    activations.squareplus: ActivationFunction(1.0, elementwise.squareplus(), never_falls=True),
    activations.sigmoid: ActivationFunction(0.25, Function("sigmoid"), never_falls=True),
    activations.sparse_sigmoid: ActivationFunction(
        0.5, Function("sparse_sigmoid"), never_falls=True
    ),
    activations.hard_sigmoid: ActivationFunction(
        0.16666666667, Function("hard_sigmoid"), never_falls=True
    ),
    activations.log_sigmoid: ActivationFunction(1.0, Function("log_sigmoid"), never_falls=True),
    activations.tanh: ActivationFunction(1.0, Function("tanh"), never_falls=True),
    activations.tanh_shrink: ActivationFunction(1.0, Function("tanh_shrink"), never_falls=True),
    activations.silu: ActivationFunction(1.0998393202, Function("silu")),
    activations.hard_silu: ActivationFunction(1.5, Function("hard_silu")),
    activations.gelu: ActivationFunction(1.1289041452, elementwise.gelu()),
    activations.mish: ActivationFunction(1.0884981613, Function("mish")),
    activations.exponential: ActivationFunction(None, Function("exponential")),
    # The Jacobian diag(p) - p p^T has its eigenvalues in [0, 1/2], and rows of absolute sums
    # 2 p (1 - p) <= 1/2.
    activations.softmax: ActivationFunction(0.5, None, softmax),
}
for _operation, _function in (
    (keras.ops.relu, activations.relu),
    (keras.ops.tanh, activations.tanh),
    (keras.ops.sigmoid, activations.sigmoid),
):
    FUNCTIONS[_operation] = FUNCTIONS[_function]


def function_of(activation: Any) -> ActivationFunction | None:
    """The row of an `activation=` argument that is a function or None, if it has one."""
    try:
        return FUNCTIONS.get(activations.linear if activation is None else activation)
    except TypeError:  # a callable object that cannot be hashed is nobody's known function
        return None


def activation_constant(
    activation: Callable | None, norm: Norm = L2, input_shape: Shape = None
) -> float | None:
    """Returns a proven Lipschitz constant of an `activation=` argument.

    Args:
        activation: a function of `keras.activations`, a layer used as a function, or None for the
            identity.
        norm: of inputs and outputs.
        input_shape: of a layer.

    Returns:
        An upper bound that exceeds the true constant by less than 1e-6 of it, or None where there
        is no constant (`exponential`, `glu`, `hard_shrink`), where it depends on the number of
        inputs (`log_softmax`), or where the function is unknown.
    """
    if isinstance(activation, keras.layers.Layer):
        return lipschitz_constant(activation, input_shape, norm)
    row = function_of(activation)
    return None if row is None else row.slope


def proven_slope(activation: Callable | None, norm: Norm = L2, input_shape: Shape = None) -> float:
    """The constant of an `activation=` argument that has one, on inputs of a shape.

    Raises:
        UnsupportedLayerError: if it has none.
    """
    if (constant := activation_constant(activation, norm, input_shape)) is None:
        raise UnsupportedLayerError(unknown_activation(activation))
    return constant


def activation_rounding(activation: Callable | None, shapes: CallShapes) -> Rounding:
    """What float32 adds to an activation.

    Raises:
        UnsupportedLayerError: if it has no rule.
    """
    if isinstance(activation, keras.layers.Layer):
        return rule_for(activation).rounding(activation, shapes)
    return float32_function(activation).rounding(activation, shapes)


def float32_function(activation: Callable | None) -> ActivationFunction:
    """The row of a function.

    Raises:
        UnsupportedLayerError: if it has none.
    """
    row = function_of(activation)
    if row is None or row.slope is None:
        name = getattr(activation, "__name__", type(activation).__name__)
        raise UnsupportedLayerError(f"no float32 rule is known for its activation {name!r}")
    return row


def unknown_activation(activation: Any) -> str:
    """Why an activation has no constant."""
    name = getattr(activation, "__name__", type(activation).__name__)
    return f"its activation {name!r} has no known Lipschitz constant"


def never_falls(activation: Any) -> bool:
    """Whether an activation, a function or a layer, acts on single entries and never decreases."""
    if isinstance(activation, keras.layers.Layer):
        return rule_for(activation).never_falls(activation)
    row = function_of(activation)
    return row is not None and row.never_falls


def pieces_of(activation: Any) -> PiecewiseLinear | None:
    """The pieces of an activation, a function or a layer; None where it has others than these."""
    if isinstance(activation, keras.layers.Layer):
        return rule_for(activation).pieces(activation)
    row = function_of(activation)
    return None if row is None else row.pieces
