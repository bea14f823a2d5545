"""The outputs of a model at samples, exact up to an error that is proven, and compared with it."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from deel_lip_tf._validation.scalars import check_count
from deel_lip_tf.bounds.evaluation.model import Float64Evaluator
from deel_lip_tf.bounds.propagation import LipschitzPropagation
from deel_lip_tf.certificates.guard import Guard
from deel_lip_tf.certificates.samples import checked_samples


def nothing(outputs: np.ndarray) -> np.ndarray:
    """An answer that is always the same: outputs are compared as numbers alone."""
    return np.zeros(len(outputs))


def outputs_with_errors(
    model: keras.Model,
    propagation: LipschitzPropagation,
    x: Any,
    batch_size: int,
    answers: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """The outputs (n, ...) and (n,) Euclidean distances to those of the exact function.

    The distance is infinite where the model, as it runs, is further from them than its rounding
    allows, or gives other `answers`: nothing is certified there.

    Raises:
        ValueError: `x` does not fit, or `batch_size` is not positive.
    """
    samples = checked_samples(model, x)
    check_count("batch_size", batch_size)
    exact = Float64Evaluator(model, propagation)
    guard = Guard(model, propagation, answers)
    outputs, errors = [], []
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size]
        value = exact.evaluate_model(batch)
        guard.compare(batch, value.numbers, value.error + value.deviation)
        outputs.append(value.numbers)
        errors.append(value.error)
    return np.concatenate(outputs), np.where(guard.confirmed(), np.concatenate(errors), np.inf)


def checked_radius(radius: Any) -> np.ndarray:
    """A radius, or several, as float64.

    Raises:
        ValueError: one is negative, or no finite number.
    """
    try:
        numbers = np.asarray(radius, np.float64)
    except (TypeError, ValueError):
        numbers = np.array(np.nan)
    if not (np.isfinite(numbers) & (numbers >= 0)).all():
        raise ValueError(f"`radius` must be finite and not negative. Received: radius={radius!r}.")
    return numbers
