"""The polar factor: the orthogonal matrix nearest to a kernel, by products of matrices only.

Every step applies an odd cubic `p(x) = a x + b x**3` to the singular values: `W (a I + b W'W)`.
Björck's step is `a = 3/2, b = -1/2`; the minimax steps before it bring small singular values up
about twice as fast.
"""

from keras import ops

from deel_lip_tf.normalizers.numerics.arithmetic import safe_divide, unit_scale
from deel_lip_tf.normalizers.numerics.norm_bounds import spectral_norm_bound

# Maps [0, 2] into [-1, 1] and has its maximum, 1, at 1: after it no singular value exceeds 1.
BJORCK_STEP = (1.5, -0.5)

# Kernels whose singular values, divided by the largest, stay above this converge to the asked
# precision. Below it a direction is brought closer to 1 but not all the way: still sound.
SMALLEST_RATIO = 1e-4

# Squarings for the first scaling. Singular values need only end in (0, 1]; a bound that is too
# large by a few per cent costs a fraction of one step.
_SCALING_SQUARINGS = 3

# How many steps may work on the Gram matrix alone before the kernel itself is multiplied again:
# rounding of the Gram matrix hurts only while the smallest singular values are far below 1.
_GRAM_PHASES = (2, 3, 4, 4, 4)


def minimax_cubic(lower, upper):
    """`(a, b, delta)`: the odd cubic `a x + b x**3` nearest to 1 on `[lower, upper]`.

    With `l` and `u` the ends, it is `(6 s x - 2 x**3) / d` with `s = (l*l + l*u + u*u) / 3` and
    `d = 2 s**1.5 + l*l*u + l*u*u`. Its values on the interval are within
    `delta = (2 s**1.5 - l*l*u - l*u*u) / d` of 1. Floats or tensors.

    Source: Grishina, Smirnov, Rakhuba, 2025, arXiv:2506.10935.
    """
    s = (lower * lower + lower * upper + upper * upper) / 3
    peak, ends = 2 * s**1.5, lower * upper * (lower + upper)
    return 6 * s / (peak + ends), -2 / (peak + ends), (peak - ends) / (peak + ends)


def bjorck_cubics(beta: float, maximum: int) -> tuple:
    """Björck's steps `(1 + beta) x - beta x**3`, `maximum` times; `0 < beta <= 1/2`."""
    return ((1 + beta, -beta),) * maximum


def polar_factor(matrix, cubics: tuple):
    """Brings every singular value of `matrix` to 1, from below.

    The matrix is scaled by an upper bound of its norm, then `cubics` are applied, then one step of
    Björck, after which the norm is at most 1 whatever came before. Singular values that are zero
    stay zero.

    Args:
        matrix: tensor (..., rows, columns), any finite entries; each matrix by itself.
        cubics: coefficients `(a, b)` of each step, such as `bjorck_cubics`.

    Returns:
        A tensor of the same shape; the gradient is that of these very operations.

    Example:
        >>> matrix = np.random.default_rng(0).normal(size=(5, 3))
        >>> factor = lip.normalizers.polar_factor(matrix, cubics=((1.5, -0.5),) * 20)
        >>> u, _, vt = np.linalg.svd(matrix, full_matrices=False)
        >>> np.allclose(factor, u @ vt, atol=1e-6)
        True
    """
    rows, columns = matrix.shape[-2:]
    if rows < columns:
        return ops.swapaxes(polar_factor(ops.swapaxes(matrix, -1, -2), cubics), -1, -2)
    if columns == 1:
        return vector_factor(matrix)
    factor = divided_by_bound(matrix, _SCALING_SQUARINGS)
    for phase in _phases(cubics, rows, columns):
        factor = ops.matmul(factor, _gram_polynomial(factor, phase))
    return ops.matmul(factor, _gram_polynomial(factor, (BJORCK_STEP,)))


def vector_factor(matrix):
    """The polar factor of a single column: the column divided by its norm."""
    # A single column has one singular value, its norm, and the bound is that norm at once.
    return divided_by_bound(matrix, 0)


def divided_by_bound(matrix, squarings: int):
    """`matrix` (..., rows, columns) divided by a bound of its norm, whatever its scale."""
    scaled = unit_scale(matrix, axis=(-2, -1))
    return safe_divide(scaled, spectral_norm_bound(scaled, squarings)[..., None, None])


def _phases(cubics: tuple, rows: int, columns: int) -> list:
    """Groups of steps: each group multiplies the kernel once, whatever its length."""
    # In Gram space a step costs three square products, on the kernel two of its own shape.
    lengths = _GRAM_PHASES if rows >= 2 * columns else ()
    phases, start = [], 0
    for length in (*lengths, *[1] * len(cubics)):
        if start >= len(cubics):
            break
        phases.append(cubics[start : start + length])
        start += length
    return phases


def _gram_polynomial(factor, cubics: tuple):
    """The matrix `Q` for which `factor @ Q` is `factor` after all of `cubics`."""
    identity = ops.eye(factor.shape[-1], dtype=factor.dtype)
    gram = ops.matmul(ops.swapaxes(factor, -1, -2), factor)
    product = None
    for index, (a, b) in enumerate(cubics):
        polynomial = a * identity + b * gram
        product = polynomial if product is None else ops.matmul(product, polynomial)
        if index + 1 < len(cubics):
            gram = ops.matmul(polynomial, ops.matmul(gram, polynomial))
    return product
