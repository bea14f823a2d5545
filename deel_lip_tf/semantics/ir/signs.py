"""Linear maps as differences of maps without negative coefficients; and differences of two maps.

Of numbers that are not negative such a map computes every entry up to a relative error: what is 0
stays 0, and what is positive stays positive. Intervals of gradients are carried so, because a proof
that something only grows rests on a bound that is exactly 0.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

import numpy as np

from deel_lip_tf.semantics.ir.primitives import (
    AxisProducts,
    Blocks,
    Centering,
    Conv,
    Diagonal,
    Einsum,
    LinearMap,
    MatMul,
    Scale,
    Shape,
)

SMALLEST = 2.0**-500
"""Coefficients between 0 and this are no numbers here: the products of two larger ones are."""

Parts = tuple[Sequence[Any], Sequence[Any]]
"""`(positive, negative)`: a map is the sum of the first maps less the sum of the second ones."""

_ARRAYS = {
    MatMul: "matrix",
    Diagonal: "scale",
    Blocks: "coefficients",
    Einsum: "kernel",
    Conv: "kernel",
}


def signed_parts(linear: LinearMap, shape: Shape) -> Parts:
    """The parts of a map of one tensor of a shape.

    What has a coefficient that is not 0 and smaller than `SMALLEST` holds NaN in its place, so that
    nothing is known of what it computes.
    """
    if type(linear) in _ARRAYS:
        name, like = _ARRAYS[type(linear)], cast(Any, linear)
        array = getattr(linear, name)
        positive, negative = (
            [replace(like, **{name: _usable(part)})] if part.any() else []
            for part in (np.maximum(array, 0.0), np.maximum(-array, 0.0))
        )
        return positive, negative
    if isinstance(linear, Scale):
        return _scaled(linear.factor)
    if isinstance(linear, Centering):
        return _centered(linear, shape)
    if isinstance(linear, AxisProducts):
        return _by_axes(linear)
    return [linear], []  # moves: they copy entries, add copies up, and put zeros


def _usable(array: np.ndarray) -> np.ndarray:
    return np.where((array > 0.0) & (array < SMALLEST), np.nan, array)


def _scaled(factor: float) -> Parts:
    part = [Scale(float(_usable(np.array(abs(factor)))))] if factor else []
    return (part, []) if factor > 0 else ([], part)


def _centered(linear: Centering, shape: Shape) -> Parts:
    """`scale x` less `scale mean(x)`: of the entry itself a share is in both."""
    matrices = tuple(
        np.full((size, size), 1.0 / size) if axis in linear.axes else None
        for axis, size in enumerate(shape, 1)
    )
    own, _ = _scaled(abs(linear.scale))
    first = next(i for i, matrix in enumerate(matrices) if matrix is not None)
    scaled = [
        m if m is None or i != first else abs(linear.scale) * m for i, m in enumerate(matrices)
    ]
    means = [AxisProducts(tuple(scaled))]
    return (own, means) if linear.scale > 0 else (means, own)


def _by_axes(linear: AxisProducts) -> Parts:
    """All products of parts of the matrices: negative where an odd number of factors is."""
    choices = [
        [(1, None)] if m is None else [(sign, np.maximum(sign * m, 0.0)) for sign in (1, -1)]
        for m in linear.matrices
    ]
    positive: list[LinearMap] = []
    negative: list[LinearMap] = []
    for choice in itertools.product(*choices):
        if all(part is None or part.any() for _, part in choice):
            usable = tuple(None if part is None else _usable(part) for _, part in choice)
            is_positive = math.prod(sign for sign, _ in choice) > 0
            (positive if is_positive else negative).append(AxisProducts(usable))
    return positive, negative


def is_same(first: Any, second: Any) -> bool:
    """Whether two maps, or other frozen objects of arrays and numbers, hold the same."""
    if type(first) is not type(second):
        return False
    if is_dataclass(first):
        names = [field.name for field in fields(first)]
        return all(is_same(getattr(first, name), getattr(second, name)) for name in names)
    if isinstance(first, tuple):
        pairs = zip(first, second, strict=False)
        return len(first) == len(second) and all(is_same(*pair) for pair in pairs)
    return bool(np.array_equal(first, second))


def map_difference(first: LinearMap, second: LinearMap) -> LinearMap | None:
    """`second - first` of two maps of one tensor, each coefficient rounded once.

    Returns:
        A map; or None where they have not the same coefficients in the same places.
    """
    if is_same(first, second):
        return Scale(0.0)
    if isinstance(first, Scale) and isinstance(second, Scale):
        return Scale(second.factor - first.factor)
    name = _ARRAYS.get(type(first), "")
    if not name or type(first) is not type(second):
        return None
    own, other, like = getattr(first, name), getattr(second, name), cast(Any, second)
    if own.shape != other.shape or not is_same(first, replace(like, **{name: own})):
        return None
    return replace(like, **{name: other - own})
