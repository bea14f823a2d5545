"""Functions of one number, by name and arguments: what an interpreter has a formula for.

Constants of a function count as they are written.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Function:
    """A continuous function of one number.

    Attributes:
        name: of the formula.
        arguments: numbers, or arrays that broadcast against a sample.
    """

    name: str
    arguments: tuple[Any, ...] = ()


def relu(negative_slope: float = 0.0, max_value: float | None = None) -> Function:
    """`x` between 0 and `max_value`, constant above, `negative_slope x` below 0.

    Raises:
        ValueError: `max_value` is negative.
    """
    if max_value is not None and max_value < 0:
        raise ValueError(f"`max_value` must not be negative. Received: {max_value}.")
    return Function(
        "relu", (float(negative_slope), math.inf if max_value is None else float(max_value))
    )


def prelu(slopes: np.ndarray) -> Function:
    """`x` above 0, `slopes x` below; `slopes` broadcasts against a sample."""
    return Function("prelu", (np.asarray(slopes, np.float64),))


def clip(low: float, high: float) -> Function:
    """`x` cut off at `low` and at `high`."""
    return Function("clip", (float(low), float(high)))


def soft_shrink(threshold: float = 0.5) -> Function:
    """`x` moved towards 0 by `threshold`, and 0 where it would pass it.

    Raises:
        ValueError: the function jumps, as it does with a negative threshold.
    """
    if not threshold >= 0:
        raise ValueError(f"`threshold` must not be negative. Received: {threshold}.")
    return Function("soft_shrink", (float(threshold),))


def celu(alpha: float = 1.0) -> Function:
    """`x` above 0, `alpha (exp(x / alpha) - 1)` below.

    Raises:
        ValueError: `alpha` is not positive.
    """
    if not alpha > 0:
        raise ValueError(f"`alpha` must be positive. Received: {alpha}.")
    return Function("celu", (float(alpha),))


def squareplus(b: float = 4.0) -> Function:
    """`(x + sqrt(x**2 + b)) / 2`.

    Raises:
        ValueError: `b` is negative.
    """
    if not b >= 0:
        raise ValueError(f"`b` must not be negative. Received: {b}.")
    return Function("squareplus", (float(b),))


def elu(alpha: float = 1.0, scale: float = 1.0) -> Function:
    """`scale x` above 0, `scale alpha (exp(x) - 1)` below."""
    return Function("elu", (float(alpha), float(scale)))


def gelu(approximate: bool = False) -> Function:
    """`x Phi(x)`, exactly or by the usual formula with a hyperbolic tangent."""
    return Function("gelu", (bool(approximate),))


def selu() -> Function:
    """An ELU of the two constants under which activations normalize themselves."""
    return elu(1.6732632423543772, 1.0507009873554805)
