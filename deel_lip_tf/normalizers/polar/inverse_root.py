"""The inverse square root of a matrix near a multiple of the identity, by one polynomial."""

import numpy as np
from keras import ops

from deel_lip_tf.normalizers.polar.products import shifted, symmetric_product
from deel_lip_tf.normalizers.polar.tf_graphs import cond_with_rare_branch

# `(I + R) p(R)**2` is within 9e-5 of the identity up to here, with a polynomial `p` of degree 6,
# which is that of small matrices, and of degree 9.
LARGEST_RADIUS, LARGEST_RADIUS_OF_LARGE = 0.5, 0.69

# Largest Frobenius norm of an error of which `1 - x/2` leaves less than rounding does of a large
# kernel: 3/4 of its square.
LINEAR_RADIUS = 4e-3

# Largest radius for the lower degrees, where it is within 5e-6: about what rounding leaves of a
# large kernel. The distance grows as rho**-(degree + 1), rho = (1 + sqrt(1 - r**2)) / r.
_LARGEST_RADII = {2: 0.03, 4: 0.13}

# And where the largest singular value exceeds the smallest by `KNOWN_ERROR` at most, relatively,
# for kernels that no Gram matrix is made of again: what is left costs nothing there.
KNOWN_ERROR = 1e-5
_KNOWN_RADII = {2: 0.0395, 4: 0.195}
KNOWN_RADIUS = 0.58

# Coefficients are those of this small a radius where it is smaller: they are divided by its powers,
# and by those of a center of 1e-4 or more, which must not underflow.
_SMALLEST_RADII = {2: 1e-3, 4: 1e-3, 6: 0.02, 9: 0.02}

# By as much as a polynomial may exceed the root: the norm of what is retracted is at most 1, too.
SLIGHTLY_LESS = 1 - 5e-5

_NODES = 16
_ANGLES = np.pi * (np.arange(_NODES) + 0.5) / _NODES


def inverse_root(error, square, center, radius, is_large: bool, is_known: bool = False):
    """A polynomial in `error` that is near `(cI + error)**(-1/2)`, slightly less.

    The interpolation at Chebyshev's points of `c [1 - radius, 1 + radius]`, of degree 6 where
    matrices are small: to choose would take longer. Where they are large, of degree 2, 4 or 9,
    which take 0, 1 and 3 products. The first updates of an optimizer are the largest, and the last
    degree brings back at once what otherwise takes several rounds. By as much as the polynomial may
    exceed the root, all of it is reduced: what is multiplied by it has norm at most 1.

    Args:
        error: (..., n, n), symmetric.
        square: `error @ error`.
        center: `c` (..., 1, 1), between 1e-4 and 1e4.
        radius: (..., 1, 1), bound on the norm of `error / c`, at most `LARGEST_RADIUS`, of
            large matrices `LARGEST_RADIUS_OF_LARGE`.
        is_large: whether products take longer than choosing between them.
        is_known: whether `p` may be within `KNOWN_ERROR`, where a lower degree is.

    Returns:
        `p`, a tensor like `error`, for which `(cI + error) p**2` is within 9e-5 of a multiple of
        the identity, that of `SLIGHTLY_LESS**2`, in the spectral norm, and within 2e-5 where the
        radius is at most 0.4; rounding aside.

    Source: Trefethen, Approximation Theory and Approximation Practice, 2013, chapter 8.
    """
    if not is_large:
        return _of_degree(6, error, square, center, radius, is_large=False)
    radii = _KNOWN_RADII if is_known else _LARGEST_RADII
    return cond_with_rare_branch(
        ops.max(radius) <= radii[2],
        lambda *tensors: _of_degree(2, *tensors[:4], is_large=True),
        _of_higher_degree,
        error,
        square,
        center,
        radius,
        settings=(radii[4],),
        is_plain=True,
    )


def _of_higher_degree(error, square, center, radius, largest: float):
    return ops.cond(
        ops.max(radius) <= largest,
        lambda: _of_degree(4, error, square, center, radius, is_large=True),
        lambda: _of_degree_9(error, square, center, radius),
    )


def _of_degree_9(error, square, center, radius):
    # Relative to the center: its ninth power would underflow.
    relative, ones = error / center, ops.ones_like(center)
    polynomial = _of_degree(9, relative, square / center**2, ones, radius, is_large=True)
    return polynomial * ops.rsqrt(center)


def _of_degree(degree: int, error, square, center, radius, *, is_large: bool):
    a = _coefficients(degree, center, radius)
    polynomial = shifted(a[1] * error + a[2] * square, a[0])
    if degree == 4:
        polynomial = polynomial + symmetric_product(square, a[3] * error + a[4] * square, is_large)
    if degree > 4:
        cube = symmetric_product(error, square, is_large)
        rest = shifted(a[4] * error + a[5] * square + a[6] * cube, a[3])
        if degree == 9:
            last = a[7] * error + a[8] * square + a[9] * cube
            rest = rest + symmetric_product(cube, last, is_large)
        polynomial = polynomial + symmetric_product(cube, rest, is_large)
    return polynomial


def _coefficients(degree: int, center, radius) -> list:
    """Those of the powers of `x`, (..., 1, 1) each, of the interpolation of `(c + x)**(-1/2)`.

    What is interpolated is what the binomial series of that degree leaves: the interpolation of all
    would round terms a thousand times as large as their sum.
    """
    radius = ops.maximum(radius, _SMALLEST_RADII[degree])
    nodes, order = np.cos(_ANGLES), np.arange(degree + 1)
    order, node_powers, interpolation = (
        ops.convert_to_tensor(numbers, dtype=radius.dtype)
        for numbers in (order, nodes ** order[:, None], _interpolation(degree))
    )
    series = ops.convert_to_tensor(_binomial(degree), dtype=radius.dtype) * radius**order
    values = ops.rsqrt(1 + radius * ops.convert_to_tensor(nodes, dtype=radius.dtype))
    missing = values - ops.matmul(series, node_powers)
    scaled = series + ops.matmul(missing, interpolation)
    powers = (radius * center) ** order
    return ops.split(scaled * (SLIGHTLY_LESS * ops.rsqrt(center)) / powers, degree + 1, axis=-1)


def _binomial(degree: int) -> np.ndarray:
    """The coefficients of the powers of `x` in `(1 + x)**(-1/2)`."""
    k = np.arange(degree)
    return np.cumprod([1, *(-0.5 - k) / (k + 1)])


def _interpolation(degree: int) -> np.ndarray:
    """(nodes, degree + 1): from values at the nodes of `[-1, 1]` to coefficients of the powers."""
    k = np.arange(degree + 1)
    to_chebyshev = 2 / _NODES * np.cos(np.outer(_ANGLES, k))
    to_chebyshev[:, 0] /= 2
    to_powers = [np.polynomial.chebyshev.cheb2poly(np.eye(degree + 1)[i]) for i in k]
    padded = [np.pad(row, (0, degree + 1 - len(row))) for row in to_powers]
    return to_chebyshev @ np.array(padded)
