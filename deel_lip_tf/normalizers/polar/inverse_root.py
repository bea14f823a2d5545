"""The inverse square root of a matrix near the identity, by one polynomial."""

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

# Coefficients are those of this small a radius where it is smaller: they are divided by its powers.
_SMALLEST_RADIUS = 1e-3

_NODES = 16
_ANGLES = np.pi * (np.arange(_NODES) + 0.5) / _NODES


def inverse_root(error, square, radius, is_large: bool, is_known: bool = False):
    """A polynomial in `error` that is near `(I + error)**(-1/2)`.

    The interpolation at Chebyshev's points of `[-radius, radius]`, of degree 6 where matrices are
    small: to choose would take longer. Where they are large, of degree 2, 4 or 9, which take 0, 1
    and 3 products. The first updates of an optimizer are the largest, and the last degree brings
    back at once what otherwise takes several rounds.

    Args:
        error: (..., n, n), symmetric.
        square: `error @ error`.
        radius: (..., 1, 1), bound on the norm of `error`, at most `LARGEST_RADIUS`, of large
            matrices `LARGEST_RADIUS_OF_LARGE`.
        is_large: whether products take longer than choosing between them.
        is_known: whether `p` may be within `KNOWN_ERROR`, where a lower degree is.

    Returns:
        `p`, a tensor like `error`, for which `(I + error) p**2` is within 9e-5 of the identity in
        the spectral norm, and within 2e-5 where the radius is at most 0.4; rounding aside.

    Source: Trefethen, Approximation Theory and Approximation Practice, 2013, chapter 8.
    """
    radius = ops.maximum(radius, _SMALLEST_RADIUS)
    if not is_large:
        return _of_degree(6, error, square, radius, is_large=False)
    radii = _KNOWN_RADII if is_known else _LARGEST_RADII
    return cond_with_rare_branch(
        ops.max(radius) <= radii[2],
        lambda *tensors: _of_degree(2, *tensors[:3], is_large=True),
        _of_higher_degree,
        error,
        square,
        radius,
        settings=(radii[4],),
        is_plain=True,
    )


def _of_higher_degree(error, square, radius, largest: float):
    return ops.cond(
        ops.max(radius) <= largest,
        lambda: _of_degree(4, error, square, radius, is_large=True),
        lambda: _of_degree(9, error, square, radius, is_large=True),
    )


def _of_degree(degree: int, error, square, radius, *, is_large: bool):
    a = _coefficients(degree, radius)
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


def _coefficients(degree: int, radius) -> list:
    """Those of the powers of `x`, (..., 1, 1) each, of the interpolation of `(1 + x)**(-1/2)`."""
    values = ops.rsqrt(1 + radius * ops.convert_to_tensor(np.cos(_ANGLES), dtype=radius.dtype))
    scaled = ops.matmul(values, ops.convert_to_tensor(_interpolation(degree), dtype=radius.dtype))
    powers = radius ** ops.convert_to_tensor(np.arange(degree + 1), dtype=radius.dtype)
    return ops.split(scaled / powers, degree + 1, axis=-1)


def _interpolation(degree: int) -> np.ndarray:
    """(nodes, degree + 1): from values at the nodes of `[-1, 1]` to coefficients of the powers."""
    k = np.arange(degree + 1)
    to_chebyshev = 2 / _NODES * np.cos(np.outer(_ANGLES, k))
    to_chebyshev[:, 0] /= 2
    to_powers = [np.polynomial.chebyshev.cheb2poly(np.eye(degree + 1)[i]) for i in k]
    padded = [np.pad(row, (0, degree + 1 - len(row))) for row in to_powers]
    return to_chebyshev @ np.array(padded)
