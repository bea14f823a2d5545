"""The largest singular value of a matrix of trigonometric polynomials, over all frequencies.

A convolution multiplies each frequency w by its symbol `K(w) = sum_t K[t] exp(i <w, t>)`. Let S be
the supremum of `||K(w)||_2`, attained at w* with singular vectors u, v. Along the line from w* to
any w, `Re(phase * u^H K v)` is real, bounded by S, equals S at w*, and has exponential type
`theta = sum_j d_j |w_j - w*_j|` per unit length, where `d_j = (k_j - 1) / 2` after centring. By the
inequality of Bernstein and Szego its arc cosine moves at most at that speed, so that

    ||K(w)||_2 >= S cos(theta)        (theta < pi / 2; Riesz's lemma)

Hence if sets of radius theta around centres c cover all frequencies, `S <= max ||K(c)||_2 /
cos(theta_c)`: sets may be small where the symbol is large, and wide elsewhere. In one dimension
they are intervals; in two dimensions the sets of one theta are diamonds, which tile the plane and
split into four. A further axis is cut into equal slices first: the slice next to w* has a supremum
of at least `S cos(d h)` by the same lemma, so that its factor multiplies.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from deel_lip_tf.bounds.norms.spectral import krylov_estimates, largest_eigenvalues, prove_at_most
from deel_lip_tf.bounds.norms.symbol import Symbol, half_of_grid

_FLOPS = 1.25e11  # what a bound with a budget of 1 may cost: some seconds on two cores
_FREQUENCIES = 8_000  # likewise, for kernels so small that handling the arrays costs more
_FINEST = 64.0  # points per degree of the first covering
_COARSEST = 8.0  # likewise: keeps its angles away from the pole
ACCURACY = 5e-5  # refinement stops when the bound exceeds a value that is attained by less
_MAX_ROUNDS = 14
# From this order on a few steps of Lanczos replace all eigenvalues, and a guess is 2e-5 too large
# rather than 1e-10, which saves attempts.
_LARGE_ORDER = 128


@dataclass(frozen=True)
class _Covering:
    """Diamonds (intervals, if one axis alone varies) that cover half of all frequencies.

    Attributes:
        centres: (F, axes).
        halves: (F, axes) half diameters along the axes; 0 for those that are not covered this way.
        values: (F,) estimates of the norm at the centres.
        slices: the factor for the axes cut into slices.
    """

    centres: np.ndarray
    halves: np.ndarray
    values: np.ndarray
    slices: float

    def factors(self, degrees: np.ndarray) -> np.ndarray:
        """`1 / cos(theta)` of each set, times that of the slices."""
        return self.slices / np.cos((self.halves * degrees).max(axis=1))

    def split(self, chosen: np.ndarray) -> tuple["_Covering", "_Covering"]:
        """The sets that are not chosen, and the parts of those that are, with their values."""
        kept = np.delete(np.arange(len(self.centres)), chosen)
        axes = np.flatnonzero(self.halves.any(axis=0))
        halves = self.halves[chosen] / 2.0
        moves = [sign * np.eye(self.centres.shape[1])[axis] for axis in axes for sign in (-1, 1)]
        parts = np.concatenate([self.centres[chosen] + move * halves for move in moves])
        values = np.tile(self.values[chosen], len(moves))
        children = _Covering(parts, np.tile(halves, (len(moves), 1)), values, self.slices)
        rest = _Covering(self.centres[kept], self.halves[kept], self.values[kept], self.slices)
        return rest, children

    def joined(self, other: "_Covering") -> "_Covering":
        centres = np.concatenate((self.centres, other.centres))
        halves = np.concatenate((self.halves, other.halves))
        return _Covering(centres, halves, np.concatenate((self.values, other.values)), self.slices)

    def estimated(self, symbol: Symbol) -> "_Covering":
        """The same with values of its own."""
        return replace(self, values=symbol.estimate(self.centres))


def supremum(symbol: Symbol, budget: float = 1.0, known: float = math.inf) -> float:
    """Bounds `||K(w)||_2` over all real frequencies w.

    Args:
        symbol: of norm about 1.
        budget: work that may be spent, 1 being some seconds at most.
        known: a bound that is proven already.

    Returns:
        A proven bound, usually within 1e-3 of the supremum; `known`, where the search does not
        promise a smaller one.
    """
    wanted = min(_FLOPS / symbol.flops, _FREQUENCIES) * budget
    covering = _first_covering(symbol.degrees, wanted / 5.0).estimated(symbol)
    if known <= covering.values.max() * (1.0 + ACCURACY):
        return known
    covering = _refined(symbol, covering, int(wanted))
    factors = covering.factors(symbol.degrees)
    if (covering.values * factors).max() >= known:
        return known
    return min(known, _proved(symbol, covering.centres, covering.values, factors))


def grid_maximum(symbol: Symbol, sizes: tuple[int, ...], budget: float = 1.0) -> float | None:
    """Bounds `||K(w)||_2` over the grid `w_j in 2 pi Z / sizes[j]`: exact for circular padding.

    Returns None where the grid is too fine to be worth it; the supremum is then as good.
    """
    count = (sizes[0] // 2 + 1) * math.prod(sizes[1:])
    if count > _FREQUENCIES * budget or count * symbol.flops > _FLOPS * budget:
        return None
    frequencies = half_of_grid(sizes)
    return _proved(symbol, frequencies, symbol.estimate(frequencies), np.ones(count))


def _first_covering(degrees: np.ndarray, wanted: float) -> _Covering:
    """A uniform covering of half of all frequencies by about `wanted` sets; values are zeros.

    Real kernels have the same norm at opposite frequencies.
    """
    rank, active = len(degrees), np.flatnonzero(degrees)
    adaptive = sorted(active, key=lambda axis: -degrees[axis])[:2]
    if not len(active):
        return _Covering(np.zeros((1, rank)), np.zeros((1, rank)), np.zeros(1), 1.0)
    is_plane = len(adaptive) == 2
    # Half of all frequencies, and of these every second one for diamonds.
    per_degree = (wanted * (4.0 if is_plane else 2.0) / degrees[active].prod()) ** (1 / len(active))
    per_degree = min(max(per_degree, _COARSEST), _FINEST)
    counts = np.ones(rank, dtype=int)
    counts[active] = 2 * np.maximum(np.floor(per_degree * degrees[active] / 2.0), 2)
    index = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1)
    index = index.reshape(-1, rank)
    if is_plane:
        index = index[index[:, adaptive].sum(axis=1) % 2 == 0]
    index = index[index[:, adaptive[0]] <= counts[adaptive[0]] // 2]
    steps = np.where(counts > 1, 2.0 * math.pi / counts, 0.0)
    halves = np.zeros(rank)
    halves[adaptive] = steps[adaptive] if is_plane else steps[adaptive] / 2.0
    sliced = [axis for axis in active if axis not in adaptive]
    slices = math.prod(1.0 / math.cos(degrees[axis] * steps[axis] / 2.0) for axis in sliced)
    return _Covering(index * steps, np.tile(halves, (len(index), 1)), np.zeros(len(index)), slices)


def _refined(symbol: Symbol, covering: _Covering, wanted: int) -> _Covering:
    """Splits the sets that decide the bound until it is accurate or the work is spent."""
    children_each = 2 * int(covering.halves.any(axis=0).sum())
    spent = len(covering.values) // 2
    for _ in range(_MAX_ROUNDS):
        bounds = covering.values * covering.factors(symbol.degrees)
        largest = covering.values.max() * covering.slices
        decisive = np.flatnonzero(bounds > largest * (1.0 + ACCURACY))
        if not children_each or not len(decisive):
            break
        affordable = max((wanted - spent - len(bounds)) // (children_each - 1), 0)
        if affordable < len(decisive):
            decisive = np.argsort(-bounds)[: affordable + 1]
            # Only if the rest leaves the bound lower is it worth splitting the worst ones alone;
            # the estimates of large matrices are some percent too low.
            gain = 1e-3 if symbol.taps.shape[-1] < _LARGE_ORDER else 0.05
            if bounds[decisive[-1]] > (1.0 - gain) * bounds[decisive[0]]:
                break
            decisive = decisive[:-1]
        grown = len(bounds) + (children_each - 1) * len(decisive)
        rest, children = covering.split(decisive)
        spent += len(children.values) // 2
        # The last round would be its own only use: the parents' values are near enough then.
        if spent + grown + len(children.values) <= wanted:
            children = children.estimated(symbol)
        covering = rest.joined(children)
    return covering


def _proved(symbol: Symbol, centres: np.ndarray, values: np.ndarray, factors: np.ndarray) -> float:
    """Proves `norm(centre) * factor <= bound` for every set, for the smallest bound it can."""
    values = _corrected(symbol, centres, values.copy(), factors)
    slack = 1e-10 if symbol.taps.shape[-1] < _LARGE_ORDER else 2e-5
    bound = float((values * factors).max()) * (1.0 + 2e-9) + 1e-12
    pending = np.arange(len(centres))
    for attempt in range(12):
        failed = []
        for part in symbol.chunks(len(pending)):
            chosen = pending[part]
            grams, errors = symbol.grams(centres[chosen])
            # 1e-12 covers the rounding of centres, half diameters and factors (angles up to 1.5).
            limits = (bound / factors[chosen] * (1.0 - 1e-12))[:, None]
            limits = np.square(limits) * (1.0 - 1e-15) - errors
            flat = grams.reshape(-1, *grams.shape[2:])
            proved = prove_at_most(flat, limits.reshape(-1)).reshape(limits.shape)
            failed.append(chosen[~proved.all(axis=1)])
        pending = np.concatenate(failed)
        if not len(pending):
            return bound
        values = _corrected(symbol, centres, values, factors, pending)
        grown = float((values[pending] * factors[pending]).max())
        bound = max(bound, grown * (1.0 + 1e-8)) * (1.0 + slack * 4.0**attempt) + 1e-12
    # Not reached for finite kernels; the sum of the norms of the taps bounds every K(w).
    return 1.01 * float(np.sqrt(np.square(symbol.taps).sum(axis=(1, 2, 3))).sum())


def _corrected(
    symbol: Symbol,
    centres: np.ndarray,
    values: np.ndarray,
    factors: np.ndarray,
    among: np.ndarray | None = None,
    count: int = 8,
) -> np.ndarray:
    """Accurate values in place of the estimates, at the sets that decide the bound most likely."""
    among = np.arange(len(centres)) if among is None else among
    chosen = among[np.argsort(-(values * factors)[among])[:count]]
    grams, _ = symbol.grams(centres[chosen])
    of = largest_eigenvalues if grams.shape[-1] < _LARGE_ORDER else krylov_estimates
    accurate = np.sqrt(np.maximum(of(grams).max(axis=1), 0.0))
    values[chosen] = np.maximum(accurate, values[chosen])
    return values
