"""The formulas of functions of one number that can be bounded between lines, in TensorFlow.

And their derivatives, in pieces on which these are monotone.
"""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from deel_lip_tf.semantics.ir.elementwise import Function
from deel_lip_tf.verify.propagation.relaxations import Activation, solved
from deel_lip_tf.verify.propagation.steepness import Derivative, Piece

_ROOT_OF_TWO_OVER_PI = math.sqrt(2.0 / math.pi)
# Constants of functions are those that TensorFlow computes with, float32 whatever the type of the
# tensor; arguments count as they are written, which it holds in float32 too.
_ROOT_OF_HALF = float(np.float32(math.sqrt(0.5)))
_CUBIC = float(np.float32(0.044715))


def activation_of(function: Function) -> Activation:
    """The formula of a function, with its breakpoints and the points of a given slope."""
    return FORMULAS[function.name](*function.arguments)


def _relu(negative_slope: float, ceiling: float) -> Activation:

    def value(x):
        above = tf.minimum(tf.nn.relu(x), ceiling) if ceiling < math.inf else tf.nn.relu(x)
        return above + negative_slope * tf.minimum(x, 0.0) if negative_slope else above

    largest = math.inf if negative_slope < 0 else ceiling
    smallest = -math.inf if negative_slope > 0 else 0.0
    breakpoints = (0.0,) if ceiling == math.inf else (0.0, ceiling)
    return Activation("relu", value, (smallest, largest), breakpoints)


def _prelu(slopes: np.ndarray) -> Activation:
    slopes = tf.constant(slopes, tf.float64)
    return Activation(
        "prelu", lambda x: tf.nn.relu(x) + slopes * tf.minimum(x, 0.0), breakpoints=(0.0,)
    )


def _clip(low: float, high: float) -> Activation:
    ends = (low, high)
    return Activation("clip", lambda x: tf.clip_by_value(x, low, high), ends, ends)


def _soft_shrink(threshold: float) -> Activation:
    breakpoints = (-threshold, threshold)
    return Activation(
        "soft_shrink", lambda x: x - tf.clip_by_value(x, *breakpoints), breakpoints=breakpoints
    )


def _celu(alpha: float) -> Activation:
    def value(x):
        return tf.nn.relu(x) + alpha * tf.math.expm1(tf.minimum(x, 0.0) / alpha)

    def critical(slope, lower, upper):
        return [tf.minimum(alpha * tf.math.log(slope), 0.0)]

    return Activation("celu", value, (-alpha * (1.0 + 1e-12), math.inf), (0.0,), critical)


def _squareplus(b: float) -> Activation:
    def value(x):
        # Of negative numbers as of positive ones, without cancellation.
        size = tf.abs(x)
        return tf.nn.relu(x) + tf.math.divide_no_nan(0.5 * b, tf.sqrt(x * x + b) + size)

    def critical(slope, lower, upper):
        share = 2.0 * slope - 1.0
        return [share * math.sqrt(b) / tf.sqrt((1.0 - share) * (1.0 + share))]

    return Activation("squareplus", value, (0.0, math.inf), (0.0,), critical)


def _elu(alpha: float, scale: float) -> Activation:
    def value(x):
        return scale * (tf.nn.relu(x) + alpha * tf.math.expm1(tf.minimum(x, 0.0)))

    def critical(slope, lower, upper):
        return [tf.minimum(tf.math.log(slope / (scale * alpha)), 0.0)] if alpha else []

    limits = (min(0.0, -scale * alpha) * (1.0 + 1e-12), math.inf)
    return Activation("elu", value, limits, (0.0,), critical)


def _gelu_value(x):
    return 0.5 * x * tf.math.erfc(-x * _ROOT_OF_HALF)


def _gelu_derivative(x):
    density = tf.exp(-((x * _ROOT_OF_HALF) ** 2)) * (_ROOT_OF_HALF / math.sqrt(math.pi))
    return 0.5 * tf.math.erfc(-x * _ROOT_OF_HALF) + x * density


def _tanh_gelu_inner(x):
    return _ROOT_OF_TWO_OVER_PI * (x + _CUBIC * x**3)


def _tanh_gelu_value(x):
    # 1 + tanh(y) = 2 sigmoid(2 y), without cancellation.
    return x * tf.sigmoid(2.0 * _tanh_gelu_inner(x))


def _tanh_gelu_derivative(x):
    share = tf.sigmoid(2.0 * _tanh_gelu_inner(x))
    inner = _ROOT_OF_TWO_OVER_PI * (1.0 + 3.0 * _CUBIC * x**2)
    return share + 2.0 * x * inner * share * (1.0 - share)


def _silu_derivative(x):
    share = tf.sigmoid(x)
    return share * (1.0 + x * (1.0 - share))


def _mish_derivative(x):
    share, inner = tf.sigmoid(x), tf.tanh(tf.math.softplus(x))
    return inner + x * share * (1.0 - inner) * (1.0 + inner)


# Between the zeros of the second derivative, sqrt(2) or roots found by bisection to all digits, a
# derivative is monotone.
_GELU_BENDS = (-math.sqrt(2.0), math.sqrt(2.0))
_TANH_GELU_BENDS = (-1.4185040087908283, 1.4185040087908283)
_SILU_BENDS = (-2.3993572805154, 2.3993572805154)
_MISH_BENDS = (-2.2563763963607928, 1.4905711794854283)
_GELU = solved(_gelu_derivative, _GELU_BENDS)
_TANH_GELU = solved(_tanh_gelu_derivative, _TANH_GELU_BENDS)
_SILU = solved(_silu_derivative, _SILU_BENDS)
_MISH = solved(_mish_derivative, _MISH_BENDS)


def _sigmoid_critical(slope, lower, upper):
    # s (1 - s) = slope; the smaller share without cancellation.
    share = 2.0 * slope / (1.0 + tf.sqrt(1.0 - 4.0 * slope))
    point = tf.math.log((1.0 - share) / share)
    return [point, -point]


def _tanh_critical(slope, lower, upper):
    root = tf.sqrt(1.0 - slope)
    point = tf.math.log((1.0 + root) / tf.sqrt(slope))
    return [point, -point]


def _softsign_critical(slope, lower, upper):
    point = 1.0 / tf.sqrt(slope) - 1.0
    return [point, -point]


def _exponential_critical(slope, lower, upper):
    return [tf.math.log(slope)]


def _softplus_critical(slope, lower, upper):
    return [tf.math.log(slope / (1.0 - slope))]


def _log_sigmoid_critical(slope, lower, upper):
    return [tf.math.log((1.0 - slope) / slope)]


def _tanh_shrink_critical(slope, lower, upper):
    # tanh(p)**2 = slope
    point = tf.atanh(tf.sqrt(slope))
    return [point, -point]


def _hard_sigmoid(x):
    return tf.clip_by_value((x + 3.0) / 6.0, 0.0, 1.0)


def _sparse_sigmoid(x):
    return tf.clip_by_value(0.5 * (x + 1.0), 0.0, 1.0)


def _gelu(approximate: bool) -> Activation:
    value, critical = (_tanh_gelu_value, _TANH_GELU) if approximate else (_gelu_value, _GELU)
    return Activation("gelu", value, (-0.1701, math.inf), (), critical)


_PLAIN = (
    Activation("sigmoid", tf.sigmoid, (0.0, 1.0), (), _sigmoid_critical),
    Activation("tanh", tf.tanh, (-1.0, 1.0), (), _tanh_critical),
    Activation("softsign", lambda x: x / (1.0 + tf.abs(x)), (-1.0, 1.0), (), _softsign_critical),
    Activation("softplus", tf.math.softplus, (0.0, math.inf), (), _softplus_critical),
    Activation("exponential", tf.exp, (0.0, math.inf), (), _exponential_critical),
    Activation("silu", lambda x: x * tf.sigmoid(x), (-0.2785, math.inf), (), _SILU),
    Activation("mish", lambda x: x * tf.tanh(tf.math.softplus(x)), (-0.3089, math.inf), (), _MISH),
    Activation("log_sigmoid", tf.math.log_sigmoid, (-math.inf, 0.0), (), _log_sigmoid_critical),
    Activation("tanh_shrink", lambda x: x - tf.tanh(x), critical=_tanh_shrink_critical),
    # Parabolas between straight pieces: 2 a x + b = slope is solved for x.
    Activation(
        "sparse_plus",
        lambda x: tf.nn.relu(x - 1.0) + 0.25 * tf.clip_by_value(x + 1.0, 0.0, 2.0) ** 2,
        (0.0, math.inf),
        (-1.0, 1.0),
        lambda slope, lower, upper: [2.0 * slope - 1.0],
    ),
    Activation(
        "hard_silu",
        lambda x: x * _hard_sigmoid(x),
        (-0.375 * (1.0 + 1e-12), math.inf),
        (-3.0, 3.0),
        lambda slope, lower, upper: [3.0 * slope - 1.5],
    ),
    Activation("hard_sigmoid", _hard_sigmoid, (0.0, 1.0), (-3.0, 3.0)),
    Activation("sparse_sigmoid", _sparse_sigmoid, (0.0, 1.0), (-1.0, 1.0)),
)

FORMULAS: dict[str, Callable[..., Activation]] = {
    "relu": _relu,
    "prelu": _prelu,
    "clip": _clip,
    "soft_shrink": _soft_shrink,
    "celu": _celu,
    "squareplus": _squareplus,
    "elu": _elu,
    "gelu": _gelu,
    **{one.name: lambda one=one: one for one in _PLAIN},
}
"""By the name of the function; each takes its arguments."""


def derivative_of(function: Function) -> Derivative:
    """The derivative of a function, in pieces."""
    return DERIVATIVES[function.name](*function.arguments)


def _steps(edges: tuple[float, ...], slopes: tuple, limits=(-math.inf, math.inf)) -> Derivative:
    """Pieces between edges: slopes are numbers, arrays, or functions that are monotone there."""
    ends = (-math.inf, *edges, math.inf)
    pieces = zip(ends[:-1], ends[1:], slopes, strict=True)
    return Derivative(tuple(Piece(*piece) for piece in pieces), limits)


def _monotone(derivative: Callable, edges: tuple[float, ...], limits) -> Derivative:
    """One formula, monotone between edges."""
    return _steps(edges, (derivative,) * (len(edges) + 1), limits)


def _relu_steps(negative_slope: float, ceiling: float) -> Derivative:
    if ceiling == math.inf:
        return _steps((0.0,), (negative_slope, 1.0))
    return _steps((0.0, ceiling), (negative_slope, 1.0, 0.0))


def _elu_steps(alpha: float, scale: float) -> Derivative:
    def left(x):
        return scale * alpha * tf.exp(x)

    ends = (0.0, scale * alpha, scale)
    return _steps((0.0,), (left, scale), (min(ends), max(ends)))


def _squareplus_steps(b: float) -> Derivative:
    if not b:
        return _steps((0.0,), (0.0, 1.0))
    return _monotone(lambda x: 0.5 + 0.5 * x / tf.sqrt(x * x + b), (), (0.0, 1.0))


def _gelu_steps(approximate: bool) -> Derivative:
    formula = _tanh_gelu_derivative if approximate else _gelu_derivative
    edges = _TANH_GELU_BENDS if approximate else _GELU_BENDS
    return _monotone(formula, edges, (-0.13, 1.13))


def _sixth(x):
    return tf.fill(tf.shape(x), tf.constant(1.0 / 6.0, tf.float64))


def _sigmoid_derivative(x):
    return tf.sigmoid(x) * tf.sigmoid(-x)


_UNIT = (0.0, 1.0)
_SMOOTH = {
    "sigmoid": _monotone(_sigmoid_derivative, (0.0,), (0.0, 0.25)),
    "tanh": _monotone(lambda x: 4.0 * _sigmoid_derivative(2.0 * x), (0.0,), _UNIT),
    "softsign": _monotone(lambda x: 1.0 / (1.0 + tf.abs(x)) ** 2, (0.0,), _UNIT),
    "softplus": _monotone(tf.sigmoid, (), _UNIT),
    "exponential": _monotone(tf.exp, (), (0.0, math.inf)),
    "silu": _monotone(_silu_derivative, _SILU_BENDS, (-0.1, 1.1)),
    "mish": _monotone(_mish_derivative, _MISH_BENDS, (-0.12, 1.09)),
    "log_sigmoid": _monotone(lambda x: tf.sigmoid(-x), (), _UNIT),
    "tanh_shrink": _monotone(lambda x: tf.tanh(x) ** 2, (0.0,), _UNIT),
    "sparse_plus": _steps((-1.0, 1.0), (0.0, lambda x: 0.5 * (x + 1.0), 1.0), _UNIT),
    "hard_silu": _steps((-3.0, 3.0), (0.0, lambda x: (2.0 * x + 3.0) / 6.0, 1.0), (-0.5, 1.5)),
    "hard_sigmoid": _steps((-3.0, 3.0), (0.0, _sixth, 0.0), _UNIT),
    "sparse_sigmoid": _steps((-1.0, 1.0), (0.0, 0.5, 0.0)),
}

DERIVATIVES: dict[str, Callable[..., Derivative]] = {
    "relu": _relu_steps,
    "prelu": lambda slopes: _steps((0.0,), (slopes, 1.0)),
    "clip": lambda low, high: _steps((low, high), (0.0, 1.0, 0.0)),
    "soft_shrink": lambda threshold: _steps((-threshold, threshold), (1.0, 0.0, 1.0)),
    "celu": lambda alpha: _steps((0.0,), (lambda x: tf.exp(x / alpha), 1.0), _UNIT),
    "squareplus": _squareplus_steps,
    "elu": _elu_steps,
    "gelu": _gelu_steps,
    **{name: lambda one=one: one for name, one in _SMOOTH.items()},
}
"""By the name of the function, as `FORMULAS`."""
