"""Tighter intervals of neurons, by slopes that are optimized for each of their ends."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from deel_lip_tf.verify.search.signs.ascent import Ascent, Numbers, ascended
from deel_lip_tf.verify.search.signs.chain import Chain, Known, Rows, lines_of

Note = Callable[[np.ndarray, int, np.ndarray, Numbers], None]

_STEPS = 12, 30  # of neurons of the whole box, and where they cost little
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
    steps = _STEPS[chain.is_small]
    for start in range(0, len(is_open), _TOGETHER):
        chosen = is_open[start : start + _TOGETHER]
        own = Rows(*(part[chosen] for part in rows))
        ends = np.arange(len(chosen))
        none = Rows(*(part[:0] for part in rows))
        ascent = Ascent(chain, none, steps, base=_both(own, ends), end=end, goal=0.0)
        both = _twice(known.of(0 * ends))
        alphas = first_alphas(both.low, both.high)
        shares = np.zeros((2 * len(ends), 0), np.float32)
        numbers = ascended(ascent, Numbers(alphas, np.zeros_like(alphas), shares), both)
        if notes is not None:
            notes.append((chosen, numbers.alphas))
        below, above = _proven(chain, own, ends, none, numbers, both)
        below, above = np.maximum(low[chosen], below), np.minimum(high[chosen], above)
        # Both are sound, and miss each other by rounding alone.
        low[chosen], high[chosen] = np.minimum(below, above), np.maximum(below, above)
    return low, high


class Effort(NamedTuple):
    """What is spent on the intervals of a part.

    Attributes:
        share: of the neurons that are tightened.
        most: of them.
        begun: steps of climbs that begin where others ended.
        anew: of those that do not.
    """

    share: float
    most: int
    begun: int
    anew: int


BRIEF, THOROUGH = Effort(0.45, 128, 4, 12), Effort(1.0, 192, 12, 30)
"""Of searches with many parts, and with few."""


class Sharpening:
    """Tighter intervals of neurons on parts of a box, where a conjunction holds.

    A row of the conjunction is not positive there. So its multiples may be added to what a neuron
    reads, and a bound of the sum is one of the neuron. Parts differ by a few signs: a climb begins
    where the last one for the same end of the same neuron has ended, and a few steps are enough.
    What the first layer reads is a linear function of the inputs, which signs hardly bound.

    Args:
        chain: the network.
        claims: rows of all conjunctions.
        effort: for each part.

    Attributes:
        climb: the network and the claims as they are climbed on.
    """

    def __init__(self, chain: Chain, claims: Rows, effort: Effort = BRIEF):
        self._chain, self._claims, self._effort = chain, claims, effort
        self.climb = chain.by_directions(claims)
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
        is_anew: bool = False,
    ) -> Known:
        """What is known of n parts then.

        Where the ends of an interval cross, the conjunction holds nowhere on the part.

        Args:
            known: of the parts.
            costs: (n, neurons) those that cost most are tightened; negative ones are not.
            own: (n, rows) which are of the conjunction of a part.
            end: of the time, of the monotonic clock.
            is_anew: whether no climb begins where another has ended, which may be far off.
            note: called with parts, a layer, a neuron of each part, and what shows both ends.
        """
        known = Known(known.low.copy(), known.high.copy(), known.splits)
        if self._chain.layers < 2:
            return known
        start = self._chain.neurons_of(0).stop
        count = math.ceil(self._effort.share * (self._chain.neurons - start))
        is_chosen = _largest(costs[:, start:], min(count, self._effort.most))
        for layer in range(1, self._chain.layers):
            place = self._chain.neurons_of(layer)
            parts, neurons = np.nonzero(is_chosen[:, place.start - start : place.stop - start])
            for first in range(0, len(parts), _TOGETHER):
                if time.monotonic() > end:
                    return known
                i, j = (index[first : first + _TOGETHER] for index in (parts, neurons))
                numbers, below, above = self._climbed(layer, j, known.of(i), own[i], end, is_anew)
                at = i, j + place.start
                if note is not None:
                    note(i, layer, at[1], numbers)
                known.low[at] = np.maximum(known.low[at], below)
                known.high[at] = np.minimum(known.high[at], above)
        return known

    def _climbed(
        self,
        layer: int,
        neurons: np.ndarray,
        known: Known,
        own: np.ndarray,
        end: float,
        is_anew: bool,
    ) -> tuple[Numbers, np.ndarray, np.ndarray]:
        """(n,) proven ends of neurons of a layer, each on a part, and what shows both of them."""
        chain, claims = self._chain, self._claims
        chosen, position = np.unique(neurons, return_inverse=True)
        rows = chain.reads(layer, chosen)
        ends = neurons + chain.neurons_of(layer).start
        ends = np.concatenate([ends, ends + chain.neurons])
        known, own = _twice(known), np.concatenate([own, own])
        before, is_begun = self._numbers.of(ends), self._is_begun[ends] & (not is_anew)
        alphas = np.where(is_begun[:, None], before.alphas, self._first)
        betas = np.where(is_begun[:, None], before.betas, 0)
        shares = np.where(own & is_begun[:, None], before.shares, 0)
        steps = self._effort.begun if is_begun.all() else self._effort.anew
        base = _both(self.climb[0].reads(layer, chosen), position)
        ascent = Ascent(*self.climb, steps, own, base, False, end, goal=0.0)
        found = ascended(ascent, Numbers(alphas, betas, shares), known)
        below, above = _proven(chain, rows, position, claims, found, known)
        # Where ends cross multipliers grow without bounds: no other climb can begin there.
        is_sound = np.tile(below <= above, 2)
        alphas = np.where(known.signs == 0, found.alphas, alphas)[is_sound]
        shares = np.where(own, found.shares, before.shares)[is_sound]
        self._is_begun[ends[is_sound]] = True
        self._numbers.put(ends[is_sound], Numbers(alphas, found.betas[is_sound], shares))
        return found, below, above


def _largest(costs: np.ndarray, count: int) -> np.ndarray:
    """(n, neurons) whether a cost is among the largest of its part, and not negative."""
    least = -np.partition(-costs, count - 1, axis=1)[:, count - 1 : count]
    return (costs >= least) & (costs >= 0)


def _twice(known: Known) -> Known:
    return Known(*(np.concatenate([part, part]) for part in known))


def _both(rows: Rows, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some of rows, and behind them their negatives, with their constants, in float32."""
    matrix, constant = (part[which].astype(np.float32) for part in rows[:2])
    return np.concatenate([matrix, -matrix]), np.concatenate([constant, -constant])


def _proven(
    chain: Chain, rows: Rows, which: np.ndarray, claims: Rows, numbers: Numbers, known: Known
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) ends of some of rows, from 2 n sums of claims: for the rows, and for their negatives."""
    signed = np.eye(len(rows.constant), dtype=np.float32)[which]
    shares = np.concatenate([np.concatenate([signed, -signed]), numbers.shares], axis=1)
    together = Rows(*(np.concatenate(pair) for pair in zip(rows, claims, strict=True)))
    lines = lines_of(known, numbers.alphas, numbers.betas, np.float64)
    below, above = np.split(chain.proven(together, shares, lines)[0], 2)
    return below, -above
