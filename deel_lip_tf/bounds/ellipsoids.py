"""What differences small changes of an input can make in the layers of a network: ellipsoids.

Let `d_0` be the difference of two inputs of a set, and d that of what some tensor is at them. A
symmetric matrix S holds if `d d' <= S ||d_0||**2` for all of them, in the order of symmetric
matrices: a combination c of the entries then changes by at most `sqrt(c' S c) ||d_0||`, for every c
at once.

* A matrix W makes `W S W'` of S, and `W W'` if it is applied to the input.
* An activation whose slopes on the set are in `[m - h, m + h]`, entry by entry, makes of S

      m (S + S (Q - S)**-1 S) m + h Q h    for each diagonal Q with  S < Q,

  where the entries with `h = 0` are left out of the inverse and of the last term.

Proof of the second. Let u be the differences before it, and `m u + h v` those after it, with
`|v| <= |u|`. From `u' S**-1 u <= ||d_0||**2` and `v' Q**-1 v <= u' Q**-1 u` follows
`u' (S**-1 - Q**-1) u + v' Q**-1 v <= ||d_0||**2`: the pairs (u, v) are in the ellipsoid of the
inverse of `S**-1 - Q**-1`, which is `S + S (Q - S)**-1 S`, and of Q. (The case of one step in the
matrix inequality of `sectors`, with weights that are chosen from layer to layer.)

Every matrix here is rounded upward, by a multiple of the identity. Q is twice the largest
eigenvalue of S, in the entries' own scales: it is guessed, and `S < Q` is proven.
"""

from __future__ import annotations

import numpy as np

from deel_lip_tf._rounding import TINY, UNIT, UP, gamma
from deel_lip_tf.bounds.norms.spectral import frobenius_up, gram, gram_error, prove_at_most

# Numbers beyond are nobody's: within, what underflows is less than `TINY`.
_LARGEST, _SMALLEST = 1e30, 1e-30
_LEAST = 1e-9  # of the largest scale of an entry
_POWERS = 12
# What is proven of the largest eigenvalue, over its guess; Q is twice the guess.
_PROVEN = 1.4
_GUESSES = 6


def first_ellipsoid(matrix: np.ndarray, error: float = 0.0) -> np.ndarray | None:
    """What a matrix makes of all differences of its input.

    Args:
        matrix: (outputs, inputs).
        error: bound of the spectral norm of what is missing in it.

    Returns:
        (outputs, outputs); None where nothing is known.
    """
    if not _is_moderate(matrix):
        return None
    missing = (2.0 * frobenius_up(matrix) + error) * error
    return _raised(gram(matrix.T), gram_error(matrix.T) + missing)


def after_matrix(ellipsoid: np.ndarray, matrix: np.ndarray, error: float = 0.0) -> np.ndarray:
    """What a matrix makes of an ellipsoid: arguments and result as of `first_ellipsoid`."""
    norm, size = frobenius_up(matrix), frobenius_up(ellipsoid)
    rounding = gamma(2 * len(ellipsoid) + 8) * norm**2 + (2.0 * norm + error) * error
    image = matrix @ ellipsoid @ matrix.T
    return _raised(image, rounding * size if _is_moderate(matrix) else np.inf)


def after_activation(
    ellipsoid: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What an activation makes of an ellipsoid.

    Args:
        ellipsoid: (n, n).
        low: (n,) the smallest slope of each entry.
        high: (n,) the largest one.

    Returns:
        `(ellipsoid, alive)`: of the entries that are not 0 everywhere, and which these are.
    """
    middle = 0.5 * low + 0.5 * high
    half = np.maximum(high - middle, middle - low) * UP
    (alive,) = np.nonzero((middle != 0.0) | (half > 0.0))
    middle, half = middle[alive], half[alive]
    ellipsoid = ellipsoid[np.ix_(alive, alive)]
    (bent,) = np.nonzero(half > 0.0)
    steepest = float(np.abs(middle).max(initial=0.0))
    if len(bent):
        gain, ends, error = _gain(ellipsoid, bent)
        ellipsoid = ellipsoid + gain
        error = error * steepest**2
    else:
        ends, error = np.zeros(0), 0.0
    result = middle[:, None] * ellipsoid * middle
    result[bent, bent] += np.square(half[bent]) * ends
    error = error + gamma(16) * frobenius_up(result)
    is_sane = max(steepest, float(half.max(initial=0.0))) < _LARGEST
    return _raised(result, error if is_sane else np.inf), alive


def combinations(ellipsoid: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(rows,) how fast the combinations `directions` (rows, n) change with the input, at most."""
    squares = ((directions @ ellipsoid) * directions).sum(axis=1)
    sizes = np.square(directions).sum(axis=1) * frobenius_up(ellipsoid)
    return np.sqrt(np.maximum(squares, 0.0) + gamma(3 * len(ellipsoid) + 8) * sizes + TINY) * UP


def _gain(ellipsoid: np.ndarray, bent: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """`S (Q - S)**-1 S` over the entries that bend, the diagonal of Q, and an error of the first.

    With any G in the place of `(Q - S)**-1 S` and `E = S - (Q - S) G` it is
    `S G + E' G + E' (Q - S)**-1 E`.
    """
    rows = ellipsoid[bent]
    inner = rows[:, bent]
    weights, least = _weights(inner)
    gap = np.diag(weights) - inner
    if not np.isfinite(gap).all():
        return np.full(ellipsoid.shape, np.nan), weights, np.inf
    solved = np.linalg.solve(gap, rows)
    size, known = frobenius_up(solved), frobenius_up(rows)
    rounding = gamma(len(rows) + 8)
    rest = frobenius_up(rows - gap @ solved) + rounding * (frobenius_up(gap) * size + known) + TINY
    error = rest * size + rest**2 / least + rounding * known * size
    # The Q of which the gap is exact, rounded upward.
    ends = (np.diagonal(gap) + np.diagonal(inner)) * (1.0 + 4.0 * UNIT)
    return rows.T @ solved, ends, error * UP


def _weights(inner: np.ndarray) -> tuple[np.ndarray, float]:
    """The diagonal of Q, and a number below all eigenvalues of `Q - inner`.

    The scales of the entries are such that to multiply one by a number changes nothing else.
    """
    own = np.sqrt(np.diagonal(inner))
    scales = own * np.sqrt(np.sqrt(np.square(inner / own).sum(axis=1)) / own)
    scales = np.maximum(scales, _LEAST * scales.max())
    scaled = inner / scales / scales[:, None]
    guess = _power_estimate(scaled)
    for _ in range(_GUESSES):
        if np.isfinite(guess) and prove_at_most(scaled[None], np.array([_PROVEN * guess]))[0]:
            squares = np.square(scales)
            # What is left of 2 is .6, of which .1 is more than the rounding of the scaled matrix.
            return 2.0 * guess * squares, 0.5 * guess * float(squares.min())
        guess *= _PROVEN
    return np.full(len(inner), np.inf), np.inf


def _power_estimate(matrix: np.ndarray) -> float:
    """A lower estimate of the largest eigenvalue of a matrix that has no negative one."""
    # A column, which the matrix does not map to 0.
    vector = matrix[np.square(matrix).sum(axis=1).argmax()]
    for _ in range(_POWERS):
        vector = matrix @ vector
        vector = vector / np.sqrt(vector @ vector)
    return float(vector @ (matrix @ vector))


def _is_moderate(matrix: np.ndarray) -> bool:
    largest = np.abs(matrix).max(initial=0.0)
    return bool(largest == 0.0 or _SMALLEST < largest < _LARGEST)


def _raised(matrix: np.ndarray, error: float) -> np.ndarray:
    """A symmetric matrix that is above all that are as near as the error."""
    matrix = 0.5 * (matrix + matrix.T)
    order = np.arange(len(matrix))
    matrix[order, order] += (error + 8.0 * UNIT * frobenius_up(matrix) + TINY) * UP
    return matrix
