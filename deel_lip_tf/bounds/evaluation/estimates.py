"""Lower estimates of a Lipschitz constant, to hold against the proven bound.

Each is the quotient `||f(x) - f(y)||_2 / ||x - y||_2` of one pair of points that a search found.
The search follows gradients in the precision of the model; the quotient is computed in float64, and
the bound on its rounding errors is subtracted, so that it never exceeds the constant.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from deel_lip_tf.bounds.evaluation.directions import column, directions, gradient, norms
from deel_lip_tf.bounds.evaluation.model import Float64Evaluator

_SMALL = 1e-5  # for the derivative in float64: truncation and rounding are both near 1e-9 there


def jacobian_estimate(
    exact: Float64Evaluator, model: keras.Model, x: np.ndarray, steps: int
) -> float:
    """The norm of the Jacobian at the samples, from below, by a power iteration.

    Args:
        exact: evaluates `model` in float64.
        model: with one input and one output.
        x: samples (n, ...).
        steps: of the iteration.

    Returns:
        The largest quotient over the samples, of two points close to one.
    """
    delta = _ascended(model, x, directions(_noise(x, seed=0)), steps, radius=1e-2)
    return _largest_quotient(exact, x - _SMALL * delta, x + _SMALL * delta)


def attack_estimate(
    exact: Float64Evaluator, model: keras.Model, x: np.ndarray, steps: int
) -> float:
    """The largest quotient of pairs that are driven apart, at several distances.

    Both points of a pair move. What is given and returned is that of `jacobian_estimate`.
    """
    return max(
        _largest_quotient(exact, *_driven_apart(model, x, steps // 6, radius, seed))
        for seed, radius in enumerate((0.1, 1.0, 10.0), start=1)
    )


def _driven_apart(
    model: keras.Model, x: np.ndarray, steps: int, radius: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of points at distance `radius`; first the direction is turned, then both move."""
    delta = directions(_noise(x, seed))
    for _ in range(2):
        delta = _ascended(model, x, delta, steps, radius)
        stretch = functools.partial(_stretch, model, delta=radius * delta)
        x = x + radius * directions(_gradient(stretch, x))
    return x, x + radius * _ascended(model, x, delta, steps, radius)


def _ascended(
    model: keras.Model, x: np.ndarray, delta: np.ndarray, steps: int, radius: float
) -> np.ndarray:
    """Directions of unit norm along which `x` is stretched more and more.

    The gradient of `||f(x + d) - f(x)||**2 / 2` is about `J^T J d`: each step is one of a power
    iteration where the model is linear.
    """
    for _ in range(steps):
        uphill = _gradient(lambda d: _stretch(model, x, radius * d), delta)
        moves = norms(uphill) > 0.0
        delta = np.where(column(moves, x), directions(uphill), delta)
    return delta


def _stretch(model: keras.Model, x: Any, delta: Any) -> Any:
    """Sum over the samples of `||f(x + d) - f(x)||**2`."""
    # PyTorch adds no array and no other type to a tensor that has a gradient.
    x, delta = (ops.cast(ops.convert_to_tensor(one), "float32") for one in (x, delta))
    difference = model(x + delta, training=False) - model(x, training=False)
    return ops.sum(ops.square(ops.cast(difference, "float32")))


def _largest_quotient(exact: Float64Evaluator, x: np.ndarray, y: np.ndarray) -> float:
    (left, left_error), (right, right_error) = exact(x), exact(y)
    stretched = norms(left - right) * (1.0 - 1e-12) - left_error - right_error
    steps = norms(x - y) * (1.0 + 1e-12)
    quotients = stretched[steps > 0] / steps[steps > 0]
    return float(quotients[np.isfinite(quotients)].max(initial=0.0))


def _noise(x: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(x.shape)


def _gradient(function: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    """The gradient of a scalar function of one float32 tensor, as float64."""
    return np.nan_to_num(gradient(function, x.astype("float32")).astype(np.float64))
