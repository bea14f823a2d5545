"""Checks of the arguments of losses, of metrics and of what belongs to them."""

import math
from typing import Any

import keras
import numpy as np

from deel_lip_tf.normalizers import arguments
from deel_lip_tf.normalizers.arguments import flag, whole_number

__all__ = ["RULES", "flag", "number", "numeric", "whole_number"]

_POSITIVE = (lambda value: 0 < value < math.inf, "positive and finite")
_NOT_NEGATIVE = (lambda value: 0 <= value < math.inf, "finite and at least 0")

RULES = {
    "alpha": (lambda value: value >= 0, "at least 0 (0: KR alone, inf: hinge alone)"),
    "min_margin": _POSITIVE,
    "max_margin": _POSITIVE,
    "tau": _POSITIVE,
    "temperature": _POSITIVE,
    "penalty": _POSITIVE,
    "alpha_margin": _NOT_NEGATIVE,
    "alpha_mean": (lambda value: 0 <= value < 1, "at least 0 and below 1"),
    "soft_hinge_tau": (lambda value: 0 <= value < math.inf, "finite and at least 0 (0: plain)"),
    # of the metrics
    "epsilon": _NOT_NEGATIVE,
    "lip_const": _POSITIVE,
    "radius": _NOT_NEGATIVE,
    # of the estimates of Lipschitz constants
    "eps": _POSITIVE,
    "epsilon_noise": _POSITIVE,
    "step_size": _NOT_NEGATIVE,
    "expected_value": (lambda value: value >= 0, "at least 0"),
}


def number(name: str, value: Any, rule: tuple | None = None) -> float:
    """`value` as a Python float that keeps a rule, or else that of the parameter `name`.

    Raises:
        TypeError: not a number.
        ValueError: against the rule.
    """
    return arguments.number(name, value, *(rule or RULES[name]))


def number_or_tensor(name: str, value: Any) -> Any:
    """`value` as it is: a tensor or a variable, or else a number that keeps the rule of `name`.

    Raises:
        TypeError, ValueError: as `number`.
    """
    if not hasattr(value, "dtype"):
        number(name, value)
    return value


def numeric(name: str, value: Any) -> Any:
    """`value`, labels or scores, if it can be made a tensor of numbers.

    Raises:
        TypeError: None, strings, or rows of different lengths.
    """
    try:
        array = value if hasattr(value, "dtype") else np.asarray(value)
        dtype = keras.backend.standardize_dtype(array.dtype)
    except (TypeError, ValueError):
        dtype = "string"
    if dtype == "string":
        raise TypeError(
            f"`{name}` must be an array or a tensor of numbers or booleans: turn names of classes "
            "into indices, e.g. with `numpy.unique(names, return_inverse=True)`. "
            f"Received: {name}={value!r:.100}."
        )
    return value


def refuse_nan(name: str, labels: Any) -> None:
    """Raises for labels that are not numbers, where their values can be seen.

    Those of a step that is being traced cannot: there a NaN label makes the loss NaN.

    Raises:
        ValueError: one of them is NaN.
    """
    if keras.backend.backend() == "tensorflow" and hasattr(labels, "numpy"):
        labels = labels.numpy()
    if not isinstance(labels, np.ndarray | list | tuple):
        return
    values = np.asarray(labels)
    # types that NumPy has not got, such as bfloat16, have no kind of a float
    if values.dtype.kind in "biuO" or not (is_nan := np.isnan(values.astype("float64"))).any():
        return
    raise ValueError(
        f"`{name}` must not hold NaN: leave out the samples without a label. Received: "
        f"{is_nan.sum()} NaN of {values.size}, the first one in row {np.argwhere(is_nan)[0][0]}."
    )
