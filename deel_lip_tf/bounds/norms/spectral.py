"""Spectral norms proved from above: a guess of the eigenvalue, proved by a Cholesky factorization.

If the floating-point Cholesky factorization of a symmetric matrix A runs to completion, its factor
satisfies `R^T R = A + D` with `||D||_2 <= gamma(n+1) / (1 - gamma(n+1)) * trace(A)` (Demmel 1989;
Rump, "Verification of positive definiteness", BIT 46, 2006). `R^T R` has no negative eigenvalue, so
with `A = c I - G` every eigenvalue of G is at most `c + ||D||_2`. The guess may come from anywhere.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from deel_lip_tf._rounding import TINY, UNIT, UP, gamma, sqrt_up

# Beyond this order all eigenvalues cost more than the proof; a Krylov estimate replaces them.
_DENSE_ORDER = 1024
# From this order on a factorization costs far more than a call: one matrix at a time, so that one
# that breaks down does not cost the others.
_SINGLE_ORDER = 48


def spectral_norm_bound(matrix: np.ndarray, guess: float | None = None) -> float:
    """Returns a proven upper bound on the largest singular value of a matrix.

    Args:
        matrix: (rows, columns), real, any finite values; it is taken as exact.
        guess: what the norm may be. One that is right saves the search for it; one that is wrong
            costs time alone.

    Returns:
        A float64 not below the exact norm, and above it by less than 1e-9 of it up to an order of
        about a thousand. 0.0 for a zero or an empty matrix; `inf` where the norm itself overflows.

    Raises:
        ValueError: if the matrix is not two-dimensional or holds NaN or infinity.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"`matrix` must have two dimensions. Received: shape={matrix.shape}.")
    if not np.isfinite(matrix).all():
        raise ValueError("`matrix` must be finite. Received NaN or infinite entries.")
    largest = np.abs(matrix).max(initial=0.0)
    if largest == 0.0:
        return 0.0
    exponent = math.frexp(largest)[1]
    scaled = np.ldexp(matrix, -exponent)
    if scaled.shape[0] < scaled.shape[1]:
        scaled = scaled.T
    square = None if guess is None else math.ldexp(guess, -exponent) ** 2
    bound = sqrt_up(_largest_eigenvalue_bound(gram(scaled), square) + gram_error(scaled))
    return scaled_up(math.nextafter(bound + TINY, math.inf), exponent)


def scaled_up(value: float, exponent: int) -> float:
    """`2**exponent` times a number that is not negative, not below the exact one."""
    try:
        scaled = math.ldexp(value, exponent)
    except OverflowError:
        return math.inf
    # Only a subnormal result is rounded.
    return scaled if scaled > 1e-300 else math.nextafter(scaled, math.inf)


def gram(matrix: np.ndarray | tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """`A^H A` for a real (..., m, n) array, or for a pair (real part, imaginary part) of them."""
    if not isinstance(matrix, tuple):
        return np.swapaxes(matrix, -1, -2) @ matrix
    real, imaginary = matrix
    stacked = np.concatenate([real, imaginary], axis=-2)
    mixed = np.swapaxes(real, -1, -2) @ imaginary
    result = np.empty(mixed.shape, dtype=np.complex128)
    np.matmul(np.swapaxes(stacked, -1, -2), stacked, out=result.real)
    np.subtract(mixed, np.swapaxes(mixed, -1, -2), out=result.imag)
    return result


def frobenius_up(matrix: np.ndarray) -> float:
    """The Frobenius norm, rounded upward."""
    return float(np.sqrt(np.square(matrix).sum())) * UP


def gram_error(matrix: np.ndarray) -> float:
    """Bounds `||fl(A^T A) - A^T A||_2` for a real (m, n) matrix.

    The entries are wrong by at most `gamma(m) |A|^T |A|`, whose norm is at most both
    `||A||_F**2` and `||A||_1 ||A||_inf`.
    """
    absolute = np.abs(matrix)
    frobenius = float(np.square(absolute).sum())
    schur = float(absolute.sum(axis=0).max()) * float(absolute.sum(axis=1).max())
    # 1.01: far more than the rounding of these sums of fewer than 1e13 positive terms.
    return 1.01 * gamma(matrix.shape[0] + 2) * min(frobenius, schur) + TINY


def _largest_eigenvalue_bound(matrix: np.ndarray, guess: float | None = None) -> float:
    """Bounds the largest eigenvalue of a symmetric positive semidefinite (n, n) matrix."""
    is_given = guess is not None
    if guess is None:
        guess = float(largest_eigenvalues(matrix[None])[0])
    for excess in (1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-4, 1e-2):
        shift = np.array([guess * (1.0 + excess)])
        bound = _proved_bounds(matrix[None], shift)
        if bound is not None:
            return float(bound[0])
    if is_given:
        return _largest_eigenvalue_bound(matrix)
    # The trace of a positive semidefinite matrix bounds its eigenvalues: never reached in tests.
    return 1.01 * float(np.trace(matrix).real)


def largest_eigenvalues(matrices: np.ndarray) -> np.ndarray:
    """Estimates (not bounds) of the largest eigenvalue of each Hermitian matrix in (..., n, n)."""
    diagonal = np.diagonal(matrices, axis1=-2, axis2=-1).real
    floor = diagonal.max(axis=-1)
    if matrices.shape[-1] <= _DENSE_ORDER:
        try:
            return np.maximum(np.linalg.eigvalsh(matrices)[..., -1], floor)
        except np.linalg.LinAlgError:
            return diagonal.sum(axis=-1)
    return np.maximum(krylov_estimates(matrices), floor)


def krylov_estimates(matrices: np.ndarray) -> np.ndarray:
    """Lower estimates of the largest eigenvalue of each Hermitian matrix in (..., n, n).

    Sixty steps of Lanczos: close for isolated eigenvalues, within 1e-3 or so for crowded ones.
    """
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    found = [krylov_estimate(one.__matmul__, len(one), one.dtype) for one in flat]
    return np.array(found).reshape(matrices.shape[:-2])


def subspace_estimates(matrices: np.ndarray, width: int = 8, steps: int = 4) -> np.ndarray:
    """Rough lower estimates of the largest eigenvalue of each positive matrix in (..., n, n)."""
    vectors = np.random.default_rng(0).standard_normal((matrices.shape[-1], width))
    vectors = np.broadcast_to(vectors, (*matrices.shape[:-1], width))
    for _ in range(steps):
        images = matrices @ vectors
        vectors = images / np.maximum(np.abs(images).max(axis=(-2, -1), keepdims=True), TINY)
    basis, _ = np.linalg.qr(vectors)
    ritz = np.swapaxes(basis.conj(), -1, -2) @ (matrices @ basis)
    floor = np.diagonal(matrices, axis1=-2, axis2=-1).real.max(axis=-1)
    return np.maximum(np.linalg.eigvalsh(ritz)[..., -1], floor)


def krylov_estimate(
    apply: Callable[[np.ndarray], np.ndarray], order: int, dtype: Any = np.float64, steps: int = 60
) -> float:
    """Largest Ritz value in a Krylov space: a lower estimate, close to the largest eigenvalue.

    Args:
        apply: the product of a Hermitian matrix with a vector, and with the columns of a matrix.
        order: of the matrix.
        dtype: of its entries.
        steps: at most so many products.
    """
    basis = np.empty((order, steps), dtype=dtype)
    vector = np.random.default_rng(0).standard_normal(order).astype(dtype)
    for step in range(steps):
        for _ in range(2):  # twice is enough for orthogonality to machine precision
            known = basis[:, :step]
            vector = vector - known @ (known.conj().T @ vector)
        norm = np.linalg.norm(vector)
        if norm < 1e-12:
            basis = basis[:, :step]
            break
        basis[:, step] = vector / norm
        vector = apply(basis[:, step])
    ritz = basis.conj().T @ apply(basis)
    return float(np.linalg.eigvalsh(ritz)[-1])


def prove_at_most(grams: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Tries to prove `largest eigenvalue <= limit` for each matrix.

    Args:
        grams: (batch, n, n) Hermitian; only the lower triangle is read.
        limits: (batch,) float64.

    Returns:
        (batch,) booleans; True is a proof, False is no statement.
    """
    order = grams.shape[-1]
    if order >= _SINGLE_ORDER and len(grams) > 1:
        pairs = zip(grams, limits, strict=True)
        return np.concatenate([prove_at_most(one[None], np.array([c])) for one, c in pairs])
    # What the proof adds to the shift is at most this share of it.
    margin = 1.02 * _factor_error(order, grams.dtype) * order + 8.0 * UNIT
    bounds = _proved_bounds(grams, limits * (1.0 - margin))
    if bounds is not None:
        return bounds <= limits
    if len(grams) == 1:
        return np.array([False])
    half = len(grams) // 2
    parts = [slice(None, half), slice(half, None)]
    return np.concatenate([prove_at_most(grams[part], limits[part]) for part in parts])


def _proved_bounds(grams: np.ndarray, shifts: np.ndarray) -> np.ndarray | None:
    """Upper bounds on the largest eigenvalues, or None where a factorization breaks down."""
    order = grams.shape[-1]
    shifted = -grams
    diagonal = shifts[:, None] + np.diagonal(shifted, axis1=1, axis2=2).real
    shifted[:, range(order), range(order)] = diagonal
    if not (diagonal > 0.0).all():
        return None
    try:
        factors = np.linalg.cholesky(shifted)
    except np.linalg.LinAlgError:
        return None
    if not np.isfinite(factors).all():
        return None
    # The diagonal itself was rounded once: an error of at most `u` times its entries.
    error = _factor_error(order, grams.dtype) * 1.01 * diagonal.sum(axis=1)
    error += 2.0 * UNIT * diagonal.max(axis=1) + TINY
    return (shifts + error) * (1.0 + 4.0 * UNIT)


def _factor_error(order: int, dtype: np.dtype) -> float:
    """Demmel's constant, with room for reciprocals in place of divisions and complex products."""
    operations = 8 * order + 64 if np.issubdtype(dtype, np.complexfloating) else 2 * order + 16
    return gamma(operations) / (1.0 - gamma(operations))
