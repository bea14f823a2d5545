"""The largest singular value of a matrix: bounded from above (Gram), or estimated from below."""

import math

from keras import backend, ops

from deel_lip_tf.normalizers.numerics.arithmetic import frobenius_norm, safe_divide, safe_sqrt


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
