"""Tighter intervals of neurons, by slopes that are optimized for each of their ends."""

import math
import time
from collections.abc import Callable

import numpy as np

from deel_lip_tf.verify.search.signs.ascent import Ascent, Numbers, ascended
from deel_lip_tf.verify.search.signs.chain import Chain, Known, Rows, lines_of

__all__ = ["first_alphas", "sharpened", "tightened"]

Note = Callable[[np.ndarray, int, np.ndarray, Numbers], None]

_STEPS = 12, 10  # of rows after a chain, and of neurons on parts
_NEURONS = 64  # of a part that are tightened
_TOGETHER = 256  # neurons that climb together, each of its ends


def first_alphas(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Slopes of the lines of smallest area."""
    return (high > -low).astype(np.float32)


def tightened(
    chain: Chain,
    rows: Rows,
    low: np.ndarray,
    high: np.ndarray,
    end: float = math.inf,
    notes: list[tuple[np.ndarray, np.ndarray]] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Ends (rows,) of rows after all neurons of a chain, tighter where the sign is open.

    Args:
        chain: the network before the rows.
        rows: functions of its values.
        low: (rows,) what they do not fall below.
        high: (rows,) what they do not exceed.
        end: of the time, of the monotonic clock.
        notes: to which rows are added, and the slopes of both of their ends.
    """
    low, high = low.copy(), high.copy()
    if not chain.neurons:
        return low, high
    known = Known(chain.low[None], chain.high[None], np.zeros((1, chain.neurons), np.int8))
    is_open = np.flatnonzero((low < 0) & (high > 0))
    for start in range(0, len(is_open), _TOGETHER):
        chosen = is_open[start : start + _TOGETHER]
        own = Rows(*(part[chosen] for part in rows))
        ascent = Ascent(chain, own, _STEPS[0], end=end, goal=0.0)
        shares = np.eye(len(chosen), dtype=np.float32)
        known_of_each = known.of(np.zeros(len(chosen), np.intp))
        below, above, numbers = _ends(ascent, known_of_each, shares)
        if notes is not None:
            notes.append((chosen, numbers.alphas))
        below, above = np.maximum(low[chosen], below), np.minimum(high[chosen], above)
        # Both are sound, and miss each other by rounding alone.
        low[chosen], high[chosen] = np.minimum(below, above), np.maximum(below, above)
    return low, high


def sharpened(
    chain: Chain,
    known: Known,
    costs: np.ndarray,
    claims: Rows,
    own: np.ndarray,
    end: float,
    note: Note | None = None,
) -> Known:
    """Tighter intervals of neurons where a conjunction holds, on n parts.

    A row of the conjunction is not positive there. So its multiples may be added to what a neuron
    reads, and a bound of the sum is one of the neuron. Where the ends of an interval cross, the
    conjunction holds nowhere on the part.

    Args:
        chain: the network.
        known: of the parts.
        costs: (n, neurons) those that cost most are tightened; negative ones are not.
        claims: rows of conjunctions.
        own: (n, rows) which are of the conjunction of a part.
        end: of the time, of the monotonic clock.
        note: called with parts, a layer, a neuron of each part, and what shows both of its ends.
    """
    known = Known(known.low.copy(), known.high.copy(), known.splits)
    is_chosen = _largest(costs, _NEURONS)
    for layer in range(chain.layers):
        place = chain.neurons_of(layer)
        parts, neurons = np.nonzero(is_chosen[:, place])
        for start in range(0, len(parts), _TOGETHER):
            if time.monotonic() > end:
                return known
            i, j = (index[start : start + _TOGETHER] for index in (parts, neurons))
            chosen, position = np.unique(j, return_inverse=True)
            pairs = zip(chain.reads(layer, chosen), claims, strict=True)
            rows = Rows(*(np.concatenate(pair) for pair in pairs))
            free = np.concatenate([np.zeros((len(i), len(chosen)), bool), own[i]], axis=1)
            ascent = Ascent(chain, rows, _STEPS[1], np.tile(free, (2, 1)), False, end, goal=0.0)
            shares = np.zeros(free.shape, np.float32)
            shares[np.arange(len(i)), position] = 1.0
            below, above, numbers = _ends(ascent, known.of(i), shares)
            at = i, j + place.start
            if note is not None:
                shares = numbers.shares[:, len(chosen) :]
                note(i, layer, at[1], Numbers(numbers.alphas, numbers.betas, shares))
            known.low[at] = np.maximum(known.low[at], below)
            known.high[at] = np.minimum(known.high[at], above)
    return known


def _largest(costs: np.ndarray, count: int) -> np.ndarray:
    """(n, neurons) whether a cost is among the largest of its part, and not negative."""
    count = min(count, costs.shape[1])
    least = -np.partition(-costs, count - 1, axis=1)[:, count - 1 : count]
    return (costs >= least) & (costs >= 0)


def _ends(
    ascent: Ascent, known: Known, shares: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Numbers]:
    """(n,) proven ends of sums of rows, and the numbers that show the lower and the upper ones."""
    known = Known(*(np.concatenate([part, part]) for part in known))
    alphas = first_alphas(known.low, known.high)
    numbers = Numbers(alphas, np.zeros_like(alphas), np.concatenate([shares, -shares]))
    numbers = ascended(ascent, numbers, known)
    lines = lines_of(known, numbers.alphas, numbers.betas, np.float64)
    below, above = np.split(ascent.chain.proven(ascent.rows, numbers.shares, lines)[0], 2)
    return below, -above, numbers
