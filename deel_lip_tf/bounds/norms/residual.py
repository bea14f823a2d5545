"""Convolutions that are nearly orthogonal: what is left of their Gram matrices beside `delta I`.

If `||K(w)^H K(w) - delta I||_2 <= r` at all frequencies, then `||K(w)||_2 <= sqrt(delta + r)`: of
a kernel that is orthogonal but for its rounding, r is that rounding. The difference is a
trigonometric polynomial whose exponents are at most `k - 1` along an axis of k taps. By Riesz's
lemma its supremum is at most its maximum over a grid of N points along each axis, times
`1 / cos(pi (k - 1) / N)` for each axis.
"""

import math

import numpy as np

from deel_lip_tf._rounding import gamma, sqrt_up
from deel_lip_tf.bounds.norms.symbol import Symbol, half_of_grid

_POINTS = 4  # of the grid for each exponent: the factor of an axis is then the square root of 2
_FLOPS = 2e11  # what it may cost: some seconds on two cores


def least_norm(symbol: Symbol) -> float:
    """About a lower bound of the supremum of `||K(w)||_2`; 0 where it would cost too much.

    The mean of the Gram matrices over all frequencies is the autocorrelation at shift 0.
    """
    if (autocorrelation := symbol.autocorrelation) is None:
        return 0.0
    diagonal = np.diagonal(autocorrelation.sums[0], axis1=-2, axis2=-1)
    return math.sqrt(max(float(diagonal.max()), 0.0))


def residual_bound(symbol: Symbol, budget: float = 1.0) -> float | None:
    """Bounds `||K(w)||_2` over all frequencies by the distance of the Gram matrices from `delta I`.

    Args:
        symbol: of norm about 1.
        budget: work that may be spent, 1 being some seconds at most.

    Returns:
        The bound; None where it would cost too much.
    """
    frequencies, factor = _grid(symbol.lengths)
    groups, n = symbol.taps.shape[1], symbol.taps.shape[-1]
    if 8.0 * len(frequencies) * groups * n**3 > _FLOPS * budget or symbol.autocorrelation is None:
        return None
    delta = float(np.diagonal(symbol.autocorrelation.sums[0], axis1=-2, axis2=-1).mean())
    largest = 0.0
    for part in symbol.chunks(len(frequencies)):
        grams, errors = symbol.autocorrelation.grams(frequencies[part])
        # The difference is rounded once more, by less than a unit of 2: within twice the errors.
        grams[..., range(n), range(n)] -= delta
        # `||R||_2 <= ||R^2||_F ** (1/2)` of a Hermitian R, whose square is wrong by that much.
        squares = np.linalg.norm(grams @ grams, axis=(-2, -1))
        rounding = gamma(4 * n + 16) * np.square(np.linalg.norm(grams, axis=(-2, -1)))
        largest = max(largest, float((np.sqrt(1.01 * squares + rounding) + 2.0 * errors).max()))
    return sqrt_up(delta + 1.01 * factor * largest)


def _grid(lengths: tuple[int, ...]) -> tuple[np.ndarray, float]:
    """Half of a grid of frequencies, (F, axes), and what a maximum over it is multiplied by."""
    counts = [max(_POINTS * (k - 1), 1) for k in lengths]
    factor = math.prod(
        1.0 / math.cos(math.pi * (k - 1) / n) for k, n in zip(lengths, counts, strict=True)
    )
    return half_of_grid(counts), factor
