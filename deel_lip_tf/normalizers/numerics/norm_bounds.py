"""The norm of a matrix or a convolution: bounded from above (Gram), or estimated from below."""

import math
from functools import lru_cache

import numpy as np
from keras import backend, ops

from deel_lip_tf.normalizers.numerics.arithmetic import frobenius_norm, safe_divide, safe_sqrt

# By how much, relatively, bounds by Gram iteration may exceed a norm that is divided out in
# training, in the worst case, all singular values being equal.
TOLERANCE = 0.01


def smaller_gram(matrix):
    """The Gram matrix of `matrix` (rows, columns) on its smaller side."""
    rows, columns = matrix.shape[-2:]
    transposed = ops.swapaxes(matrix, -1, -2)
    return ops.matmul(transposed, matrix) if columns <= rows else ops.matmul(matrix, transposed)


def squarings_for(size: int, tolerance: float) -> int:
    """Squarings after which `spectral_norm_bound` is at most `(1 + tolerance)` times the norm.

    A Gram matrix of `size` rows has at most `size` equal eigenvalues, so the bound is at most
    `size ** (1 / 2**(t + 2))` times the norm after `t` squarings.
    """
    if size == 1:
        return 0
    return max(0, math.ceil(math.log2(math.log(size) / math.log1p(tolerance)) - 2))


def spectral_norm_bound(matrix, squarings: int):
    """An upper bound on the largest singular value by Gram iteration.

    With `G` the Gram matrix on the smaller side, `||W||_2 <= ||G**(2**t)||_F ** (1 / 2**(t+1))`
    for every `t`, and the right side decreases to `||W||_2`. It holds no state and cannot be too
    small, which power iteration always is.

    Args:
        matrix: tensor (..., rows, columns) with entries whose squares do not overflow.
        squarings: `t`, how many times the Gram matrix is squared.

    Returns:
        A tensor (...), a scalar for one matrix, differentiable in `matrix`; 0 for the zero matrix.

    Example:
        >>> matrix = np.diag([1.0, 0.9, 0.8])
        >>> for squarings in (0, 2, 4, 6):  # decreases to the norm, and never below
        ...     print(round(float(lip.normalizers.spectral_norm_bound(matrix, squarings)), 4))
        1.1989
        1.0122
        1.0
        1.0

    Source: Delattre et al., 2023, arXiv:2305.16173.
    """
    bound = safe_sqrt(gram_norm_bound(smaller_gram(matrix), squarings))
    # Rounding of the products moves the bound by a few units of the last place.
    bound = bound * (1 + 16 * unit_roundoff(matrix))
    return ops.squeeze(bound, axis=(-2, -1))


def gram_norm_bound(gram, squarings: int):
    """An upper bound, (..., 1, 1), on the largest eigenvalue of Gram matrices (..., n, n).

    Rounding aside: see `spectral_norm_bound`.
    """
    norms = [frobenius_norm(gram, axis=(-2, -1), keepdims=True)]
    for _ in range(squarings):
        gram = safe_divide(gram, norms[-1])
        gram = ops.matmul(gram, gram)
        norms.append(frobenius_norm(gram, axis=(-2, -1), keepdims=True))
    # ||G_t||_2 = n_t ||G_t / n_t||_2 = n_t ||G_{t+1}||_2^(1/2), from the innermost square outwards
    bound = norms.pop()
    while norms:
        bound = norms.pop() * safe_sqrt(bound)
    return bound


def power_iteration(matrix, u=None, eps: float = 1e-3, maxiter: int = 10):
    """An estimate of the largest singular value, from below, by power iteration.

    Good enough to watch training; nothing that claims a guarantee may use it.

    Args:
        matrix: tensor (rows, columns).
        u: start vector (1, columns), or `None` for the constant one.
        eps: stops when `u` moves by less than this.
        maxiter: largest number of iterations.

    Returns:
        `(sigma, u)`: the estimate, a scalar tensor, and the last vector (1, columns).

    Example:
        >>> matrix = np.diag([3.0, 2.0, 1.0])
        >>> for maxiter in (1, 3, 20):  # from below
        ...     sigma, u = lip.normalizers.power_iteration(matrix, eps=1e-6, maxiter=maxiter)
        ...     print(round(float(sigma), 4))
        2.8464
        2.9936
        3.0
    """
    transposed = ops.transpose(matrix)

    def normalized(vector):
        return safe_divide(vector, frobenius_norm(vector))

    def step(i, vector, _):
        following = normalized(ops.matmul(normalized(ops.matmul(vector, transposed)), matrix))
        return i + 1, following, frobenius_norm(following - vector)

    if u is None:
        u = ops.ones((1, matrix.shape[1]), dtype=matrix.dtype)
    start = (0, normalized(u), ops.cast(2 * eps + 1, matrix.dtype))
    _, u, _ = ops.while_loop(
        lambda i, _, moved: moved > eps, step, start, maximum_iterations=maxiter
    )
    u = ops.stop_gradient(u)
    return frobenius_norm(ops.matmul(u, transposed)), u


def unit_roundoff(tensor) -> float:
    """Half the distance from 1 to the next number, in the type of `tensor`."""
    return 2.0**-53 if backend.standardize_dtype(tensor.dtype) == "float64" else 2.0**-24


# Frequencies for each degree of the symbol and axis: between them it may exceed its values by at
# most 1 / cos(pi / 16), 2 %.
_PER_DEGREE = 16


def convolution_norm_bound(kernel, strides: tuple[int, ...]):
    """An upper bound on the norm of a convolution, of images of any size, with zeros around them.

    The convolution multiplies each frequency w by its symbol `K(w) = sum_t K[t] exp(i <w, t>)`;
    with strides it is that of the phases: pixels at the same place between two multiples of the
    strides are channels of their own. Its norm is the largest `||K(w)||_2` over all w, and bounds
    the convolutions of images with zeros around them, and of rings whose sizes are multiples of the
    strides. Along an axis with k taps of a phase the symbol is of degree `d = (k - 1) / 2`, so that
    `n` equal steps miss at most a factor of `cos(pi d / n)` (Bernstein, Szego). At each frequency
    stands a bound by Gram iteration. Where no two patches overlap, and for a product, there is one
    frequency, and nothing is missed.

    Args:
        kernel: tensor (*sizes, groups, inputs, outputs), any finite entries.
        strides: along each spatial axis.

    Returns:
        A scalar tensor, differentiable in `kernel`; 0 for the zero kernel.
    """
    *sizes, groups, inputs, outputs = kernel.shape
    largest = ops.stop_gradient(ops.max(ops.abs(kernel)))
    taps = ops.reshape(safe_divide(kernel, largest), (-1, groups, inputs, outputs))
    if all(k <= s for k, s in zip(sizes, strides, strict=True)):
        matrices = ops.reshape(ops.moveaxis(taps, 1, 0), (groups, -1, outputs))
        squarings = squarings_for(min(matrices.shape[1:]), TOLERANCE)
        return largest * ops.max(spectral_norm_bound(matrices, squarings))
    exact, slack = _waves(tuple(sizes), tuple(strides))
    waves = [ops.convert_to_tensor(part, dtype=taps.dtype) for part in (exact.real, exact.imag)]
    bounds = _symbol_bounds(ops.stop_gradient(taps), waves)
    # The largest one alone has a gradient, and nothing is kept for the others.
    bound, place = ops.max(bounds), ops.argmax(ops.reshape(bounds, (1, -1)), axis=-1)
    waves = [ops.take(part, place // groups, axis=0) for part in waves]
    alone = _symbol_bounds(ops.take(taps, place % groups, axis=1), waves)
    bound = bound + ops.sum(alone - ops.stop_gradient(alone))
    # Entries of a symbol are rounded sums over the taps. Its norm is at least the Frobenius norm of
    # the kernel divided by the square root of the smaller side.
    smaller = min(math.prod(strides) * inputs, outputs)
    rounding = (16 + (math.prod(sizes) * smaller) ** 0.5) * unit_roundoff(taps)
    return largest * bound * (slack * (1 + rounding))


@lru_cache(maxsize=256)
def _waves(sizes: tuple[int, ...], strides: tuple[int, ...]) -> tuple[np.ndarray, float]:
    """`exp(i <w, t>)` of the taps of each phase, (frequencies, phases, taps), and a factor.

    The factor is what the largest norm at these frequencies is to be multiplied by. Kernels are
    real: opposite frequencies have the same norms, and one of the two stands for both.
    """
    counts = [-(-k // s) for k, s in zip(sizes, strides, strict=True)]
    steps = np.array([max(1, -(-_PER_DEGREE * (count - 1) // 2)) for count in counts])
    factor = math.prod(
        1 / math.cos(math.pi * (count - 1) / 2 / n) for count, n in zip(counts, steps, strict=True)
    )
    grid = _combinations([np.arange(n) for n in steps])
    places, opposite = (np.ravel_multi_index(each.T, steps) for each in (grid, -grid % steps))
    frequencies = grid[places <= opposite] * (2 * np.pi / steps)
    taps = _combinations([np.arange(k) for k in sizes])
    angles = frequencies @ (taps // strides).T
    phases = np.ravel_multi_index((taps % strides).T, strides)
    is_there = np.arange(math.prod(strides))[:, None] == phases
    return np.exp(1j * angles)[:, None] * is_there[is_there.any(axis=1)], factor


def _combinations(axes: list) -> np.ndarray:
    """(all combinations, axes)."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def _symbol_bounds(taps, waves: list):
    """Upper bounds (frequencies, groups) on the norms of the symbol of taps (T, groups, m, n)."""
    groups, inputs, outputs = taps.shape[1:]
    symbol = [ops.einsum("wpt,tgmn->wgpmn", part, taps) for part in waves]
    rows = symbol[0].shape[2] * inputs
    real, imaginary = (ops.reshape(part, (-1, groups, rows, outputs)) for part in symbol)
    if rows < outputs:
        real, imaginary = ops.swapaxes(real, -1, -2), -ops.swapaxes(imaginary, -1, -2)
    adjoint = ops.swapaxes(real, -1, -2), ops.swapaxes(imaginary, -1, -2)
    cross = ops.matmul(adjoint[0], imaginary)
    gram = (
        ops.matmul(adjoint[0], real) + ops.matmul(adjoint[1], imaginary),
        cross - ops.swapaxes(cross, -1, -2),
    )
    squarings = squarings_for(min(rows, outputs), TOLERANCE)
    bound = safe_sqrt(_hermitian_norm_bound(*gram, squarings))
    return ops.squeeze(bound, axis=(-2, -1)) * (1 + 16 * unit_roundoff(taps))


def _hermitian_norm_bound(real, imaginary, squarings: int):
    """`gram_norm_bound` of complex matrices, given by their two parts."""
    norms: list = []
    for _ in range(squarings + 1):
        if norms:
            norm = ops.where(norms[-1] > 0, norms[-1], ops.ones_like(norms[-1]))
            real, imaginary = real / norm, imaginary / norm
            cross = ops.matmul(real, imaginary)
            real = ops.matmul(real, real) - ops.matmul(imaginary, imaginary)
            imaginary = cross - ops.swapaxes(cross, -1, -2)
        squares = ops.square(real) + ops.square(imaginary)
        norms.append(safe_sqrt(ops.sum(squares, axis=(-2, -1), keepdims=True)))
    bound = norms.pop()
    while norms:
        bound = norms.pop() * safe_sqrt(bound)
    return bound
