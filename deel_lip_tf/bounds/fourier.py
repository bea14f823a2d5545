"""The largest singular value of a matrix of trigonometric polynomials, over all frequencies.

A convolution multiplies each frequency w by its symbol `K(w) = sum_t K[t] exp(i <w, t>)`. Let S be
the supremum of `||K(w)||_2`, attained at w* with singular vectors u, v. Along the line from w* to
any w, `Re(phase * u^H K v)` is real, bounded by S, equals S at w*, and has exponential type
`theta = sum_j d_j |w_j - w*_j|` per unit length, where `d_j = (k_j - 1) / 2` after centring. By the
inequality of Bernstein and Szego its arc cosine moves at most at that speed, so that

    ||K(w)||_2 >= S cos(theta)        (theta < pi / 2; Riesz's lemma)

Hence if boxes with centres c and half widths h tile all frequencies,
`S <= max over boxes of ||K(c)||_2 / cos(sum_j d_j h_j)`: boxes may be small where the symbol is
large, and wide elsewhere. On a full grid one axis after the other can be snapped to the grid, which
gives the smaller `S <= max ||K(c)||_2 * prod_j 1 / cos(d_j h_j)` (Ehlich and Zeller 1964).
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from deel_lip_tf.bounds.matrices import gram, largest_eigenvalues, prove_at_most
from deel_lip_tf.bounds.rounding import TINY, gamma

__all__ = ["Symbol", "grid_maximum", "supremum"]

_FLOPS = 2e10  # what one bound may cost: about a second on two cores
_FREQUENCIES = 20_000  # likewise, for kernels so small that handling the arrays costs more
_CHUNK_BYTES = 2**26
_ACCURACY = 1e-5  # refinement stops when the bound exceeds a value that is attained by less
_MAX_ROUNDS = 14


@dataclass(frozen=True)
class Symbol:
    """The taps of a convolution with norm about 1.

    Attributes:
        taps: (T, groups, m, n) float64 with n <= m: one block-diagonal matrix per tap.
        offsets: (T, axes) integers in [0, lengths[j]).
        lengths: number of taps along each axis.
    """

    taps: np.ndarray
    offsets: np.ndarray
    lengths: tuple[int, ...]

    @property
    def degrees(self) -> np.ndarray:
        """`(k - 1) / 2` along each axis: the exponential type of the centred symbol."""
        return (np.array(self.lengths) - 1) / 2.0

    @property
    def evaluation_error(self) -> float:
        """Bounds the Frobenius norm of `fl(K(w)) - K(w)`, per group.

        Angles are at most `pi * sum(lengths)` and so wrong by a few `u` times that; then come sums
        of T terms.
        """
        operations = 8 * len(self.taps) + 16 * sum(self.lengths) + 64
        norms = np.sqrt(np.square(self.taps).sum(axis=(2, 3))).sum(axis=0)
        return 1.5 * gamma(operations) * float(norms.max())

    @property
    def flops(self) -> float:
        """Floating-point operations to evaluate and to prove the norm at one frequency."""
        count, groups, m, n = self.taps.shape
        return groups * (4.0 * count * m * n + 14.0 * m * n * n + 60.0 * n * n + 2000.0)

    def grams(self, frequencies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`K(w)^H K(w)` as (F, groups, n, n), and bounds on their 2-norm errors as (F, groups)."""
        angles = frequencies @ self.offsets.T
        flat = self.taps.reshape(len(self.taps), -1)
        shape = (len(frequencies), *self.taps.shape[1:])
        result = gram(
            ((np.cos(angles) @ flat).reshape(shape), (np.sin(angles) @ flat).reshape(shape))
        )
        traces = np.trace(result, axis1=2, axis2=3).real
        # Complex products of length m; the trace is the squared Frobenius norm of K(w).
        return result, 2.2 * gamma(4 * shape[-2] + 16) * traces + TINY

    def chunks(self, count: int):
        """Slices of a list of frequencies that fit into memory together."""
        _, groups, m, n = self.taps.shape
        size = max(1, int(_CHUNK_BYTES / (groups * (48.0 * m * n + 64.0 * n * n))))
        return [slice(start, start + size) for start in range(0, count, size)]

    def estimate(self, frequencies: np.ndarray) -> np.ndarray:
        """Approximate norms of K(w), as (F,): they steer the search and prove nothing."""
        values = []
        for part in self.chunks(len(frequencies)):
            grams, _ = self.grams(frequencies[part])
            values.append(np.sqrt(_approximate_eigenvalues(grams).max(axis=1)))
        return np.concatenate(values)


def supremum(symbol: Symbol) -> float:
    """Bounds `||K(w)||_2` over all real frequencies w: proven, and usually within 1e-3."""
    centres, halves = _first_grid(symbol)
    values = symbol.estimate(centres)
    grid_factors = np.full(len(values), np.prod(1.0 / np.cos(symbol.degrees * halves[0])))
    boxes = _refined(symbol, centres, halves, values)
    refined_factors = _factors(symbol, boxes[1])
    if (boxes[2] * refined_factors).max() < (values * grid_factors).max():
        return _proved(symbol, boxes[0], boxes[2], refined_factors)
    return _proved(symbol, centres, values, grid_factors)


def grid_maximum(symbol: Symbol, sizes: tuple[int, ...]) -> float | None:
    """Bounds `||K(w)||_2` over the grid `w_j in 2 pi Z / sizes[j]`: exact for circular padding.

    Returns None where the grid is too fine to be worth it; the supremum is then as good.
    """
    count = (sizes[0] // 2 + 1) * math.prod(sizes[1:])
    if count > _FREQUENCIES or count * symbol.flops > _FLOPS:
        return None
    # Real kernels: opposite frequencies have the same norm.
    axes = [np.arange(sizes[0] // 2 + 1), *(np.arange(n) - n // 2 for n in sizes[1:])]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(count, len(sizes))
    frequencies = grid * (2.0 * math.pi / np.array(sizes))
    return _proved(symbol, frequencies, symbol.estimate(frequencies), np.ones(count))


def _first_grid(symbol: Symbol) -> tuple[np.ndarray, np.ndarray]:
    """Centres and half widths of a uniform grid over half of all frequencies.

    It is as fine as a third of the cost allows, and fine enough for a finite factor.
    """
    degrees = symbol.degrees
    active = degrees > 0
    if not active.any():
        return np.zeros((1, len(degrees))), np.zeros((1, len(degrees)))
    wanted = min(2.0 * _FLOPS / (3.0 * symbol.flops), _FREQUENCIES)
    per_degree = (wanted / degrees[active].prod()) ** (1.0 / active.sum())
    # pi / 5 in all keeps the sum of the angles, hence both factors, away from the pole.
    coarsest = 5.0 * active.sum()
    per_degree = min(max(per_degree, coarsest), 64.0 * 2)
    counts = np.where(active, 2 * np.ceil(per_degree * degrees / 2.0), 1).astype(int)
    halves = np.where(active, math.pi / counts, 0.0)
    axes = [(np.arange(n) + 0.5) * (2.0 * math.pi / n) - math.pi for n in counts]
    axes = [axis if on else np.zeros(1) for axis, on in zip(axes, active, strict=True)]
    first = int(np.argmax(active))
    axes[first] = axes[first][axes[first] > 0]  # the other half repeats it, conjugated
    centres = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(counts))
    return centres, np.tile(halves, (len(centres), 1))


def _factors(symbol: Symbol, halves: np.ndarray) -> np.ndarray:
    """`1 / cos(theta)` of boxes whose angle stays below `pi / 2`, infinity for the others."""
    angles = halves @ symbol.degrees
    return np.where(angles < 1.5, 1.0 / np.cos(np.minimum(angles, 1.5)), np.inf)


def _refined(symbol: Symbol, centres, halves, values):
    """Splits the boxes that decide the bound until it is accurate or the cost is spent."""
    moves = [(-0.5, 0.5) if degree > 0 else (0.0,) for degree in symbol.degrees]
    moves = np.array(list(itertools.product(*moves)))
    left = int(min(_FLOPS / (3.0 * symbol.flops), _FREQUENCIES))
    for _ in range(_MAX_ROUNDS):
        bounds = values * _factors(symbol, halves)
        decisive = np.flatnonzero(bounds > values.max() * (1.0 + _ACCURACY))
        if len(moves) == 1 or not len(decisive) or left < len(decisive) * len(moves):
            break
        children = centres[decisive, None] + moves * halves[decisive, None]
        children = children.reshape(-1, centres.shape[1])
        small = np.repeat(halves[decisive] / 2.0, len(moves), axis=0)
        left -= len(children)
        centres = np.concatenate([np.delete(centres, decisive, axis=0), children])
        halves = np.concatenate([np.delete(halves, decisive, axis=0), small])
        values = np.concatenate([np.delete(values, decisive), symbol.estimate(children)])
    return centres, halves, values


def _proved(symbol: Symbol, centres, values, factors) -> float:
    """Proves `norm(centre) * factor <= bound` for every box, for the smallest bound it can."""
    bound = float((values * factors).max()) * (1.0 + 2e-9) + 1e-12
    pending, values = np.arange(len(centres)), values.copy()
    for attempt in range(12):
        failed = []
        for part in symbol.chunks(len(pending)):
            chosen = pending[part]
            grams, errors = symbol.grams(centres[chosen])
            # 1e-12 covers the rounding of centres, half widths and factors (angles up to 1.5).
            limits = (bound / factors[chosen] * (1.0 - 1e-12) - symbol.evaluation_error)[:, None]
            limits = np.square(np.maximum(limits, 0.0)) * (1.0 - 1e-15) - errors
            flat = grams.reshape(-1, *grams.shape[2:])
            proved = prove_at_most(flat, limits.reshape(-1)).reshape(limits.shape)
            unproved = np.flatnonzero(~proved.all(axis=1))
            failed.append(chosen[unproved])
            # The estimate was too low here: correct it, for the next attempt.
            exact = largest_eigenvalues(grams[unproved]).max(axis=1, initial=0.0)
            values[chosen[unproved]] = np.sqrt(exact)
        pending = np.concatenate(failed)
        if not len(pending):
            return bound
        grown = float((values[pending] * factors[pending]).max())
        bound = max(bound, grown * (1.0 + 1e-8)) + 1e-10 * 10.0**attempt
    # Not reached for finite kernels; the sum of the norms of the taps bounds every K(w).
    return 1.01 * float(np.sqrt(np.square(symbol.taps).sum(axis=(1, 2, 3))).sum())


def _approximate_eigenvalues(grams: np.ndarray, steps: int = 10) -> np.ndarray:
    """Estimates of the largest eigenvalue of each of (..., n, n) matrices, from below."""
    order = grams.shape[-1]
    if order <= 12:
        return largest_eigenvalues(grams)
    rng = np.random.default_rng(0)
    vectors = np.broadcast_to(rng.standard_normal((order, 1)), (*grams.shape[:-1], 1))
    values = np.zeros(grams.shape[:-2])
    for _ in range(steps):
        images = grams @ vectors
        norms = np.sqrt(np.square(np.abs(images)).sum(axis=-2, keepdims=True))
        vectors = images / np.maximum(norms, TINY)
    images = grams @ vectors
    values = np.sqrt(np.square(np.abs(images)).sum(axis=(-2, -1)))
    return np.maximum(values, np.diagonal(grams, axis1=-2, axis2=-1).real.max(axis=-1))
