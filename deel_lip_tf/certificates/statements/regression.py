"""What the outputs of a regression can be in a ball around each sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf._rounding import UP
from deel_lip_tf._tables import at_most
from deel_lip_tf.certificates.proofs import bounded, output_constants
from deel_lip_tf.certificates.statements.evaluation import (
    checked_radius,
    nothing,
    outputs_with_errors,
)


@dataclass(frozen=True)
class CertifiedIntervals:
    """Intervals that hold the outputs of a model in balls around samples.

    Attributes:
        radius: (n,) of the balls, in the L2 norm and in units of the model's input.
        lower: (n, *outputs) float64; no output in the ball is below.
        upper: (n, *outputs) float64, none above.
        bound: proven L2 Lipschitz constant of all outputs together.
        error: (n, *outputs), the largest distance of an output in the ball from the target; None
            without `y`.

    Example:
        >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
        >>> model = keras.Sequential([keras.Input((4,)), dense])
        >>> found = lip.certificates.certify_regression(model, np.ones((1, 4)), 0.5, y=[[4.5]])
        >>> print(found.lower.round(6), found.upper.round(6), found.error.round(6))
        [[3.]] [[5.]] [[1.5]]
    """

    radius: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    bound: float
    error: np.ndarray | None = None

    def share_within(self, tolerance: ArrayLike) -> float:
        """Share of the samples of which all outputs stay within a tolerance of the targets.

        Args:
            tolerance: a number, or one for each output.

        Raises:
            ValueError: there were no targets, or the tolerance does not fit.
        """
        if self.error is None:
            raise ValueError(
                "`share_within` needs the targets: give `y` to `certify_regression`. Received: "
                "intervals without targets."
            )
        try:
            allowed = np.broadcast_to(np.asarray(tolerance, np.float64), self.error.shape)
        except (TypeError, ValueError):
            allowed = np.array(np.nan)
        if np.isnan(allowed).any():
            raise ValueError(
                "`tolerance` must be a number, or one for each output, of shape "
                f"{self.error.shape[1:]}. Received: tolerance={tolerance!r}."
            )
        is_near = self.error <= allowed
        return float(is_near.reshape(len(is_near), -1).all(axis=1).mean())

    def __str__(self) -> str:
        width = (self.upper - self.lower).mean()
        lines = [
            f"{len(self.lower)} samples, Lipschitz constant at most {at_most(self.bound)}",
            f"outputs in balls of mean radius {self.radius.mean():.4g}: mean width {width:.4g}",
        ]
        if self.error is not None:
            lines.append(f"largest error certified: mean {self.error.mean():.4g}")
        return "\n".join(lines)


def certify_regression(
    model: keras.Model, x: Any, radius: ArrayLike, y: ArrayLike | None = None, batch_size: int = 256
) -> CertifiedIntervals:
    """Certifies in which intervals the outputs of a model stay in L2 balls around samples.

    An output that is K-Lipschitz stays within `K radius` of its value at the center. K is, of a
    linear head, `min(L, K_backbone ||w_j||)` for each output by itself; else the constant L of the
    whole model. Both are proven, the value is computed in float64, and the interval is widened by
    the bound of its rounding error and rounded outward. The claim is about the exact function of
    the weights as stored; where the model itself differs from it by more than rounding can explain,
    the interval is infinite, and a warning says so. `verify.bounds` proves smaller intervals of
    ordinary networks, in boxes too, at a higher cost.

    Args:
        model: a built Sequential or functional model with one input and one output.
        x: (n, ...) real samples, of the model's input shape.
        radius: of the balls, not negative, a number or one for each sample, in the units of `x`.
        y: targets of the shape of the outputs (or (n,) for one output), or None.
        batch_size: samples evaluated together, at most.

    Returns:
        The intervals, and with `y` the largest error in each ball.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if a layer has no bound (all are named), or an argument does not fit.

    Example:
        >>> model = lip.Sequential([keras.Input((3,)), lip.layers.SpectralDense(1)])
        >>> x = np.random.default_rng(0).normal(size=(5, 3))
        >>> found = lip.certificates.certify_regression(model, x, radius=0.1)
        >>> moved = np.asarray(model(x + 0.05))  # a step of norm 0.087
        >>> bool((found.lower <= moved).all() and (moved <= found.upper).all())
        True
    """
    graph, propagation, bound = bounded(model)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ValueError(
            "`model` must have one input and one output. Received: "
            f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs."
        )
    constants = output_constants(graph, propagation, bound)
    outputs, errors = outputs_with_errors(model, propagation, x, batch_size, nothing)
    each = (-1, *[1] * (outputs.ndim - 1))
    radii = np.broadcast_to(_one_for_each(radius, len(outputs)), len(outputs))
    with np.errstate(over="ignore", invalid="ignore"):
        reach = (constants * radii.reshape(each) + errors.reshape(each)) * UP
        # One more rounding of the ends, relative to what is subtracted; NaN where all overflowed.
        reach = reach + np.abs(outputs) * (UP - 1.0)
        lower = np.nan_to_num(outputs - reach, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
        upper = np.nan_to_num(outputs + reach, nan=np.inf, posinf=np.inf, neginf=-np.inf)
    error = None if y is None else _largest_error(lower, upper, y)
    return CertifiedIntervals(radii, lower, upper, bound, error)


def _one_for_each(radius: ArrayLike, count: int) -> np.ndarray:
    radii = checked_radius(radius)
    if radii.shape not in ((), (count,)):
        raise ValueError(
            f"`radius` must be a number, or one for each of the {count} samples. Received: shape "
            f"{radii.shape}."
        )
    return radii


def _largest_error(lower: np.ndarray, upper: np.ndarray, y: ArrayLike) -> np.ndarray:
    try:
        targets = np.asarray(y, np.float64)
    except (TypeError, ValueError):
        targets = np.array(np.nan)
    if targets.shape == lower.shape[:1] and lower[0].size == 1:
        targets = targets.reshape(lower.shape)
    if targets.shape != lower.shape or not np.isfinite(targets).all():
        raise ValueError(
            f"`y` must hold finite targets of the shape of the outputs, {lower.shape}. Received: "
            f"shape {targets.shape}."
        )
    return np.maximum(upper - targets, targets - lower) * UP
