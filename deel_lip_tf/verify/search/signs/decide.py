"""Conjunctions of one box, decided by the signs of neurons.

A part is a box on which some neurons are of one sign each. What bounds refute is done; of another
part the intervals of the neurons that cost most are made tighter, and it becomes two, at the neuron
that gains most. The points where bounds are smallest are tried as counterexamples.
"""

import heapq
import itertools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deel_lip_tf.verify.search.inputs.network import Network
from deel_lip_tf.verify.search.signs.ascent import Ascent, Numbers, ascended
from deel_lip_tf.verify.search.signs.branching import branching_neurons, costs_of
from deel_lip_tf.verify.search.signs.chain import Chain, Known, lines_of
from deel_lip_tf.verify.search.signs.tightening import BRIEF, THOROUGH, Sharpening, first_alphas
from deel_lip_tf.verify.specification.property import Conjunction

if TYPE_CHECKING:
    from deel_lip_tf.verify.search.signs.steps import Steps  # which needs the package `onnx`


_FIRST_STEPS, _STEPS, _LAST_STEPS = 60, 15, 400  # of whole boxes, of parts, where no sign is open
_CANDIDATES = 16, 48  # neurons that are split on trial, by a brief and by a thorough search
_AGAIN, _GAIN = 0.1, 0.01  # of the time, and of the gain, for which whole boxes are bounded again
_JOINT_STEPS = 100  # where multipliers of splits count as those of rows
_DEEP = 8  # splits of a part that may contradict each other: of fewer they seldom do
_FIRST_BATCH, _BATCH = 16, 512  # parts of one round, the first and the most
_ROUND_SECONDS = 1.0  # a round takes about that long
_BYTES = 2**29  # of parts that are kept
_TRIED = 8  # points of one round
_MARGIN = 1e-5  # relative to a sum of rows: what float32 misses


class _Part(NamedTuple):
    """A part of the box of a conjunction."""

    lowest: float
    claim: int
    alphas: np.ndarray
    betas: np.ndarray
    shares: np.ndarray
    low: np.ndarray
    high: np.ndarray
    splits: np.ndarray
    node: int  # number in the proof, if one is written


class Signs:
    """The parts that are open.

    Args:
        network: on the box of the conjunctions.
        chain: its neurons.
        claims: the conjunctions.
        end: of the time, of the monotonic clock.
        is_witness: whether one of points (n, inputs), of a conjunction, satisfies it.
        steps: of a proof, to be filled. It may take more parts: what is refuted, and what is known
            of neurons, is what the checker confirms.
        looks_ahead: whether neurons are split for the intervals of later ones, too; and, of a small
            chain, fewer parts are bounded better: almost all intervals become tighter.

    Attributes:
        bounded: how many parts were bounded.
    """

    def __init__(
        self,
        network: Network,
        chain: Chain,
        claims: Sequence[Conjunction],
        end: float,
        is_witness: Callable[[Conjunction, np.ndarray], bool],
        steps: "Steps | None" = None,
        looks_ahead: bool = False,
    ):
        self._network, self._chain, self._claims = network, chain, claims
        self._end, self._is_witness, self._steps = end, is_witness, steps
        weights = np.concatenate([claim.weights for claim in claims])
        offsets = np.concatenate([claim.offsets for claim in claims])
        self._rows = self._chain.rows(network.rows(weights, offsets))
        self._looks_ahead, self._is_thorough = looks_ahead, looks_ahead and chain.is_small
        effort = THOROUGH if self._is_thorough else BRIEF
        self._sharpening = Sharpening(chain, self._rows, effort)
        self._climb = self._sharpening.climb
        counts = [len(claim.weights) for claim in claims]
        self._owner = np.repeat(np.arange(len(claims)), counts)
        self._goal = _MARGIN * float(np.abs(self._rows.constant).max(initial=0.0))
        # Without a row every input is a counterexample.
        self._is_strict = [bool(len(c.weights) and c.is_strict.all()) for c in claims]
        self._order = itertools.count()
        self._open: list[tuple[float, int, _Part]] = []
        self._is_begun = self._is_left = False
        self.bounded = 0

    def run(self, end: float | None = None) -> str:
        """The status; with a later end, a search that was cut off goes on."""
        self._end = self._end if end is None else end
        if not self._is_begun:
            self._is_begun = True
            if self._begin():
                return "sat"
        most, batch = _BYTES // (25 * self._chain.neurons + 2**10), _FIRST_BATCH
        while self._open and time.monotonic() < self._end and len(self._open) < most:
            begin = time.monotonic()
            if self._branch(batch):
                return "sat"
            pace = _ROUND_SECONDS / max(time.monotonic() - begin, 1e-9)
            batch = int(np.clip(batch * min(pace, 2.0), 2, _BATCH))
        return "unknown" if self._open or self._is_left else "unsat"

    def otherwise(self) -> "Signs":
        """Another search for the same, by neurons chosen in the other way; it fills no proof."""
        question = self._network, self._chain, self._claims, self._end, self._is_witness
        return Signs(*question, looks_ahead=not self._looks_ahead)

    @property
    def is_small(self) -> bool:
        """Whether the other search is thorough."""
        return self._chain.is_small

    @property
    def lowest(self) -> float:
        """The bound of the parts that lack most."""
        return self._open[0][0] if self._open else -np.inf

    def _whole(self) -> list[_Part]:
        """The box, for each conjunction."""
        low, high = self._chain.low, self._chain.high
        alphas, splits = first_alphas(low, high), np.zeros(len(low), np.int8)
        parts, count = [], len(self._claims)
        nodes = np.zeros(count, int) if self._steps is None else self._steps.start()
        for number, node in enumerate(nodes.tolist()):
            shares = (self._owner == number).astype(np.float32)
            shares /= max(shares.sum(), 1.0)
            numbers = alphas, np.zeros_like(alphas), shares
            parts.append(_Part(-np.inf, number, *numbers, low, high, splits, node))
        return parts

    def _begin(self) -> bool:
        """Bounds the box; again, as long as the smaller intervals make bounds much better."""
        if self._round(self._whole(), _FIRST_STEPS):
            return True
        start, lack = time.monotonic(), np.inf
        while self._is_thorough and time.monotonic() < start + _AGAIN * (self._end - start):
            parts = [part for _, _, part in self._open]
            now = -sum(part.lowest for part in parts)
            if not now < (1.0 - _GAIN) * lack:
                break
            lack, self._open = now, []
            if self._round(parts, _FIRST_STEPS):
                return True
        return False

    def _branch(self, batch: int) -> bool:
        """Takes the parts of the lowest bounds, and bounds their halves."""
        count = min(max(batch // 2, 1), len(self._open))
        parts = [heapq.heappop(self._open)[-1] for _ in range(count)]
        parts.sort(key=lambda part: part.claim)
        stacked = _stacked(parts)
        tried = _CANDIDATES[self._is_thorough], self._looks_ahead
        neurons = branching_neurons(*self._climb, *stacked, *tried)
        halves, last = [], []
        for part, neuron in zip(parts, neurons, strict=True):
            if neuron < 0:
                last.append(part)
                continue
            nodes = (0, 0) if self._steps is None else self._steps.split(part.node, int(neuron))
            for side, node in zip((1, -1), nodes[::-1], strict=True):
                splits = part.splits.copy()
                splits[neuron] = side
                halves.append(part._replace(splits=splits, node=node))
        left, _ = self._bounded(last, _LAST_STEPS)
        if time.monotonic() < self._end:
            self._is_left |= bool(left)
        else:  # they may have been cut off
            self._keep(left)
        return self._round(halves, _STEPS)

    def _round(self, parts: list[_Part], steps: int) -> bool:
        """Keeps what is not refuted; whether a counterexample was found."""
        parts = self._sharper(self._bounded(parts, steps)[0])
        parts, places = self._bounded(parts, steps)
        if self._is_thorough:
            parts, places = self._again(parts, places, steps)
        self._keep(parts)
        lowest = np.argsort([part.lowest for part in parts], kind="stable")[:_TRIED]
        return self._is_found([parts[i].claim for i in lowest], places[lowest])

    def _again(
        self, parts: list[_Part], places: np.ndarray, steps: int
    ) -> tuple[list[_Part], np.ndarray]:
        """Intervals of deep parts are made tighter again, where further splits may gain nothing.

        Before, climbs have begun where those for other parts ended, which may be far off.
        """
        is_deep = np.array([np.count_nonzero(part.splits) >= _DEEP for part in parts], bool)
        deep = [part for part, i in zip(parts, is_deep, strict=True) if i]
        others = [part for part, i in zip(parts, is_deep, strict=True) if not i]
        found = places[is_deep]
        for is_anew in (True, False):
            deep, found = self._bounded(self._sharper(deep, is_anew), steps)
        return others + deep, np.concatenate([places[~is_deep], found])

    def _keep(self, parts: list[_Part]) -> None:
        for part in parts:
            heapq.heappush(self._open, (part.lowest, next(self._order), part))

    def _bounded(self, parts: list[_Part], steps: int) -> tuple[list[_Part], np.ndarray]:
        """Those of parts that are not refuted, and (n, inputs) where their bounds are reached."""
        if not parts:
            return [], np.zeros((0, self._chain.inputs))
        self.bounded += len(parts)
        numbers, known = _stacked(parts)
        own = self._own(parts)
        free = own if (own.sum(axis=1) > 1).any() else None
        ascent = Ascent(*self._climb, steps, free, end=self._end, goal=self._goal)
        numbers = ascended(ascent, numbers, known)
        lines = lines_of(known, numbers.alphas, numbers.betas, np.float64)
        bounds, places = self._chain.proven(self._rows, numbers.shares, lines)
        is_strict = np.array([self._is_strict[part.claim] for part in parts])
        is_refuted = (bounds > 0) | (is_strict & (bounds >= 0))
        self._contradicted(is_refuted, numbers, known, own)
        if self._steps is not None and is_refuted.any():
            own = np.flatnonzero(is_refuted)
            is_refuted[own] = self._steps.close(*_named([parts[i] for i in own]), numbers.of(own))
        left = np.flatnonzero(~is_refuted)
        kept = []
        for i, part in zip(left, (parts[i] for i in left), strict=True):
            alphas, betas, shares = (array[i].copy() for array in numbers.arrays)
            lowest = max(part.lowest, float(bounds[i]))
            kept.append(part._replace(lowest=lowest, alphas=alphas, betas=betas, shares=shares))
        return kept, places[left]

    def _contradicted(
        self, is_refuted: np.ndarray, numbers: Numbers, known: Known, own: np.ndarray
    ) -> None:
        """Refutes parts whose splits contradict each other, or almost, and puts what shows it."""
        is_deep = np.count_nonzero(known.splits, axis=1) >= _DEEP
        left = np.flatnonzero(~is_refuted & is_deep)
        if not len(left):
            return
        ascent = Ascent(
            *self._climb,
            _JOINT_STEPS,
            own[left],
            is_joint=True,
            end=self._end,
            goal=self._goal,
        )
        known = known.of(left)
        found = ascended(ascent, numbers.of(left), known)
        lines = lines_of(known, found.alphas, found.betas, np.float64)
        bounds, _ = self._chain.proven(self._rows, found.shares, lines)
        gone = np.flatnonzero(bounds > 0)
        is_refuted[left[gone]] = True
        numbers.put(left[gone], found.of(gone))

    def _sharper(self, parts: list[_Part], is_anew: bool = False) -> list[_Part]:
        """The parts with tighter intervals, without those where no conjunction holds."""
        if not parts:
            return []
        numbers, known = _stacked(parts)
        costs = costs_of(*self._climb, numbers, known)
        before, own, steps = known, self._own(parts), self._steps
        nodes, claims = _named(parts)

        def note(i: np.ndarray, layer: int, neurons: np.ndarray, given: Numbers) -> None:
            if steps is not None:
                steps.bound(nodes[i], claims[i], layer, neurons, given)

        known = self._sharpening.sharpened(known, costs, own, self._end, note, is_anew)
        is_left = np.asarray((known.low <= known.high).all(axis=1))
        if steps is not None and not is_left.all():
            gone = np.flatnonzero(~is_left)
            is_left[gone] = ~steps.close(nodes[gone], claims[gone], numbers.of(gone))
            # What crosses is no interval.
            known.low[gone], known.high[gone] = before.low[gone], before.high[gone]
        left = np.flatnonzero(is_left)
        return [parts[i]._replace(low=known.low[i], high=known.high[i]) for i in left]

    def _own(self, parts: list[_Part]) -> np.ndarray:
        """(n, rows) which rows are of the conjunction of a part."""
        return self._owner == np.array([part.claim for part in parts])[:, None]

    def _is_found(self, claims: list[int], places: np.ndarray) -> bool:
        """Whether a counterexample is among `places` (n, inputs) in units of the box."""
        x = np.repeat(self._network.lower[None], len(claims), axis=0)
        x[:, self._network.free] = self._chain.point(places)
        which = np.asarray(claims, np.intp)
        return any(
            self._is_witness(self._claims[claim], x[which == claim]) for claim in np.unique(which)
        )


def _named(parts: list[_Part]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers in the proof, and conjunctions."""
    return np.array([part.node for part in parts]), np.array([part.claim for part in parts])


def _stacked(parts: list[_Part]) -> tuple[Numbers, Known]:
    arrays = [np.stack([part[i] for part in parts]) for i in range(2, 8)]
    return Numbers(*arrays[:3]), Known(*arrays[3:])
