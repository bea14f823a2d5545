"""Arithmetic whose result is never below the exact one, for any order of summation.

The model is the textbook one (Higham, "Accuracy and Stability of Numerical Algorithms", §3): a
float64 inner product of length n, in whatever order and with or without fused operations, is wrong
by at most `gamma(n) * sum(|x_i y_i|)`. Underflow is excluded by scaling to norm about 1 and covered
by `TINY`.
"""

import math
from collections.abc import Iterable

UNIT = 2.0**-53
"""Unit roundoff of float64."""

UNITS = {"float64": UNIT, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Unit roundoffs of the types of floats."""

UP = 1.0 + 1e-12
"""More than the rounding of a few float64 operations, and of a norm or sum as NumPy computes it."""

UP_FEW = 1.0 + 1e-14
"""More than the rounding of the few operations behind a closed form."""

TINY = 1e-280
"""More than all underflow errors together of an algorithm on data scaled to norm about 1."""

TINY_NORM = 1e-150
"""More than what underflows in a Euclidean norm, whose squares are smaller than its entries."""


def gamma(n: int) -> float:
    """Upper bound on the relative error of `n` float64 roundings: `n u / (1 - n u)`."""
    return math.nextafter(n * UNIT / (1.0 - 2.0 * n * UNIT), math.inf)


def product_up(*factors: float) -> float:
    """Product of non-negative numbers, not below the exact one; exact where factors are 1."""
    result = 1.0
    for factor in factors:
        if result == 1.0 or factor == 1.0:
            result *= factor
        else:
            result = math.nextafter(result * factor, math.inf)
    return result


def sum_up(terms: Iterable[float]) -> float:
    """Sum of non-negative numbers, not below the exact one; exact for a single term."""
    result = 0.0
    for term in terms:
        if result == 0.0 or term == 0.0:
            result += term
        else:
            result = math.nextafter(result + term, math.inf)
    return result


def sqrt_up(value: float) -> float:
    """Square root, not below the exact one; exact for perfect squares of small integers."""
    root = math.sqrt(value)
    return root if root < 2**20 and root.is_integer() and root * root == value else _up(root)


def sqrt_outward(value: float) -> float:
    """Square root; unless it is an integer, enlarged for the few roundings behind `value`."""
    root = math.sqrt(value)
    return root if root.is_integer() and root * root == value else root * (1.0 + 1e-15)


def quotient_up(value: float, divisor: float) -> float:
    """Quotient of positive numbers, not below the exact one."""
    return _up(value / divisor) if divisor != 1.0 else value


def argument_rounding(dtype: str) -> float:
    """By what the rounding of a layer's arguments, and its arithmetic, may multiply a slope.

    A Python argument is rounded to the type the layer computes in, and to float32 before that on
    some backends, in float64 layers too.
    """
    unit = {**UNITS, "float64": UNITS["float32"]}.get(dtype, UNITS["bfloat16"])
    return 1.0 + 4.0 * unit


def number_rounding(dtype: str) -> float:
    """By what rounding a number to a type, and a few operations in it, may multiply a slope."""
    return {"float64": 1.0 + 2.0**-50, "float32": 1.0 + 2.0**-21}.get(dtype, 1.0 + 2.0**-6)


def norm_up(terms: Iterable[float]) -> float:
    """`sqrt(sum(x**2))` of non-negative numbers, not below the exact one; exact for one term."""
    terms = [term for term in terms if term != 0.0]
    if len(terms) < 2:
        return terms[0] if terms else 0.0
    # `math.hypot` scales internally and is accurate to one unit in the last place.
    return _up(_up(math.hypot(*terms)))


def _up(value: float) -> float:
    return math.nextafter(value, math.inf)
