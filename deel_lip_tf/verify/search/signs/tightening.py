"""Tighter intervals of neurons, by slopes that are optimized for each of their ends."""

import math
import time
from collections.abc import Callable

import numpy as np

from deel_lip_tf.verify.search.signs.ascent import Ascent, Numbers, ascended
from deel_lip_tf.verify.search.signs.chain import Chain, Known, Rows, lines_of

Note = Callable[[np.ndarray, int, np.ndarray, Numbers], None]

_STEPS = 12, 4  # of climbs that begin anew, and of those that begin where others ended
_SHARE, _NEURONS = 0.45, 128  # of neurons that are tightened on a part, and most of them
_TOGETHER = 64  # neurons that climb together, each of its ends: as many as a cache holds


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
        both = _twice(known.of(np.zeros(len(chosen), np.intp)))
        alphas = first_alphas(both.low, both.high)
        numbers = Numbers(alphas, np.zeros_like(alphas), np.concatenate([shares, -shares]))
        numbers = ascended(ascent, numbers, both)
        if notes is not None:
            notes.append((chosen, numbers.alphas))
        below, above = _proven(ascent, numbers, both)
        below, above = np.maximum(low[chosen], below), np.minimum(high[chosen], above)
        # Both are sound, and miss each other by rounding alone.
        low[chosen], high[chosen] = np.minimum(below, above), np.maximum(below, above)
    return low, high


class Sharpening:
    """Tighter intervals of neurons on parts of a box, where a conjunction holds.

    A row of the conjunction is not positive there. So its multiples may be added to what a neuron
    reads, and a bound of the sum is one of the neuron. Parts differ by a few signs: a climb begins
    where the last one for the same end of the same neuron has ended, and a few steps are enough.
    What the first layer reads is a linear function of the inputs, which signs hardly bound.

    Args:
        chain: the network.
        claims: rows of all conjunctions.
    """

    def __init__(self, chain: Chain, claims: Rows):
        self._chain, self._claims = chain, claims
        self._first = first_alphas(chain.low, chain.high)
        # Lower ends of all neurons, and behind them upper ones. Memory is taken where it is
        # written, that is for neurons that are tightened.
        ends, rows = 2 * chain.neurons, len(claims.constant)
        self._is_begun = np.zeros(ends, bool)
        shapes = (ends, chain.neurons), (ends, chain.neurons), (ends, rows)
        self._numbers = Numbers(*(np.zeros(shape, np.float32) for shape in shapes))

    def sharpened(
        self,
        known: Known,
        costs: np.ndarray,
        own: np.ndarray,
        end: float,
        note: Note | None = None,
    ) -> Known:
        """What is known of n parts then.

        Where the ends of an interval cross, the conjunction holds nowhere on the part.

        Args:
            known: of the parts.
            costs: (n, neurons) those that cost most are tightened; negative ones are not.
            own: (n, rows) which are of the conjunction of a part.
            end: of the time, of the monotonic clock.
            note: called with parts, a layer, a neuron of each part, and what shows both ends.
        """
        known = Known(known.low.copy(), known.high.copy(), known.splits)
        if self._chain.layers < 2:
            return known
        start = self._chain.neurons_of(0).stop
        count = math.ceil(_SHARE * (self._chain.neurons - start))
        is_chosen = _largest(costs[:, start:], min(count, _NEURONS))
        for layer in range(1, self._chain.layers):
            place = self._chain.neurons_of(layer)
            parts, neurons = np.nonzero(is_chosen[:, place.start - start : place.stop - start])
            for first in range(0, len(parts), _TOGETHER):
                if time.monotonic() > end:
                    return known
                i, j = (index[first : first + _TOGETHER] for index in (parts, neurons))
                numbers, below, above = self._climbed(layer, j, known.of(i), own[i], end)
                at = i, j + place.start
                if note is not None:
                    note(i, layer, at[1], numbers)
                known.low[at] = np.maximum(known.low[at], below)
                known.high[at] = np.minimum(known.high[at], above)
        return known

    def _climbed(
        self, layer: int, neurons: np.ndarray, known: Known, own: np.ndarray, end: float
    ) -> tuple[Numbers, np.ndarray, np.ndarray]:
        """(n,) proven ends of neurons of a layer, each on a part, and what shows both of them."""
        chosen, position = np.unique(neurons, return_inverse=True)
        pairs = zip(self._chain.reads(layer, chosen), self._claims, strict=True)
        rows = Rows(*(np.concatenate(pair) for pair in pairs))
        signed = np.concatenate([np.eye(len(chosen)), -np.eye(len(chosen))]).astype(np.float32)
        which = np.concatenate([position, position + len(chosen)])
        ends = neurons + self._chain.neurons_of(layer).start
        ends = np.concatenate([ends, ends + self._chain.neurons])
        known, own = _twice(known), np.concatenate([own, own])
        before, is_begun = self._numbers.of(ends), self._is_begun[ends]
        alphas = np.where(is_begun[:, None], before.alphas, self._first)
        shares = np.concatenate([signed[which], np.where(own, before.shares, 0)], axis=1)
        free = np.concatenate([np.zeros((len(own), len(chosen)), bool), own], axis=1)
        steps = _STEPS[int(is_begun.all())]
        ascent = Ascent(self._chain, rows, steps, free, False, end, goal=0.0)
        found = ascended(ascent, Numbers(alphas, before.betas, shares), known)
        self._is_begun[ends] = True
        alphas = np.where(known.signs == 0, found.alphas, alphas)
        of_claims = found.shares[:, len(chosen) :]
        shares = np.where(own, of_claims, before.shares)
        self._numbers.put(ends, Numbers(alphas, found.betas, shares))
        shown = Numbers(found.alphas, found.betas, of_claims)
        return shown, *_proven(ascent, found, known)


def _largest(costs: np.ndarray, count: int) -> np.ndarray:
    """(n, neurons) whether a cost is among the largest of its part, and not negative."""
    least = -np.partition(-costs, count - 1, axis=1)[:, count - 1 : count]
    return (costs >= least) & (costs >= 0)


def _twice(known: Known) -> Known:
    return Known(*(np.concatenate([part, part]) for part in known))


def _proven(ascent: Ascent, numbers: Numbers, known: Known) -> tuple[np.ndarray, np.ndarray]:
    """(n,) ends of sums of rows, from 2 n numbers: of the sums, and of their negatives."""
    lines = lines_of(known, numbers.alphas, numbers.betas, np.float64)
    below, above = np.split(ascent.chain.proven(ascent.rows, numbers.shares, lines)[0], 2)
    return below, -above
