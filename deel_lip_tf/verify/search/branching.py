"""Branch and bound: what one backward bound cannot prove is split at the kinks of activations.

A leaf is a row of the output on a part of a domain, where some activations with one kink (ReLU,
LeakyReLU, PReLU, and the relus that maxima and sorting are made of) read only what lies on one side
of it. There their lines are exact, and the side itself enters the bound by a multiplier (see
`alpha`). The leaves of a row together cover its domain, so that the smallest bound of them is a
bound of the row at any moment: the search can stop at any time. Leaves of all samples are bounded
in common batches. Each bound is the minimum of a linear function, whose place is tried as a
counterexample.
"""

import heapq
import itertools
import math
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.domain import Domain
from deel_lip_tf.verify.methods import domains_and_intervals, lower_bounds
from deel_lip_tf.verify.propagation.alpha import free_nodes
from deel_lip_tf.verify.search import leaves

__all__ = ["Branched", "branch_and_bound", "default_time", "prepare"]

_STEPS = 10  # of the optimization in each leaf
_LAST_STEPS = 400  # where nothing is left to split
_BATCH = 512  # leaves bounded together
_ENTRIES = 2**23  # of all nodes of a batch
_LEAVES = 2**30  # bytes of leaves that are kept
_GAP = 1e-7  # between a bound and a value that is reached, relative to 1 + |value|
_SECONDS, _MOST_SECONDS = 1.0, 60.0


@dataclass(frozen=True, eq=False)
class Branched:
    """What was found in the time.

    Attributes:
        lower: (n, m) numbers that the rows do not fall below.
        whole: (n, m) those that were known, or found without any split.
        points: (n, *shape) float64, where a row was seen at its target or below; NaN elsewhere.
            Such a point is a candidate: it was evaluated in float64 only.
        leaves: number of leaves that were bounded.
    """

    lower: np.ndarray
    whole: np.ndarray
    points: np.ndarray
    leaves: int


def default_time(samples: int) -> float:
    """Seconds that are spent where no limit is given: 1 for each sample, at most 60."""
    return min(_MOST_SECONDS, _SECONDS * samples)


def prepare(program: Program, domain: Domain) -> None:
    """Traces what `branch_and_bound` runs for a program and a kind of domain."""
    if free_nodes(program):
        domains_and_intervals(program, domain[:1])
        leaves.solver(program, domain.norm if domain.is_ball else None)


def branch_and_bound(
    program: Program,
    domain: Domain,
    rows: np.ndarray,
    target: float | None = 0.0,
    known: np.ndarray | None = None,
    time_limit: float = math.inf,
    most_leaves: float = math.inf,
) -> Branched:
    """Bounds of rows of the output on each domain, as good as the time allows.

    Args:
        program: the lowered model. Activations other than those with one kink are never split.
        domain: n of them.
        rows: (n, m, outputs).
        target: bounds above it are good enough, and a sample ends where a row reaches it;
            `None` for the minimum itself, up to a relative 1e-7.
        known: (n, m) bounds that are known already.
        time_limit: seconds after which no further batch begins.
        most_leaves: number of leaves after which no further batch begins.
    """
    if not free_nodes(program):
        found = lower_bounds(program, "crown", domain, rows)
        found = found if known is None else np.maximum(found, known)
        return Branched(found, found, np.full(domain.lower.shape, np.nan), 0)
    limits = time_limit, most_leaves
    search = _Search(program, domain, np.asarray(rows, np.float64), target, known, limits)
    search.run()
    return search.result()


class _Leaf(NamedTuple):
    """A part of a domain, as split so far; `choice` is the neuron to split next, or -1."""

    value: float
    pair: int
    choice: int
    weight: float  # the largest of an activation in the bound
    splits: np.ndarray
    shares: np.ndarray
    multipliers: np.ndarray


class _Search:
    """The open leaves, by sample, and what is known of each pair of a sample and a row."""

    def __init__(self, program, domain, rows, target, known, limits):
        self._end, self._most = time.monotonic() + limits[0], limits[1]
        self._program, self._domain = program, domain
        count, self._each, outputs = rows.shape
        self._rows = rows.reshape(-1, outputs)
        self._is_fixed = target is not None
        known = np.full((count, self._each), -np.inf) if known is None else known
        self._known = self._whole = known.astype(np.float64).reshape(-1)
        self._target = np.full(len(self._rows), target if self._is_fixed else np.inf)
        self._closed = np.full(len(self._rows), np.inf)  # smallest bound of closed leaves
        self._open = [[] for _ in range(count)]
        self._deficit = np.zeros(count)
        self._points = np.full(domain.lower.shape, np.nan)
        self._done = np.zeros(count, bool)
        self._reached = np.full(len(self._rows), np.inf)
        self._order = itertools.count()
        self._bounded = self._kept = 0
        self._neurons = leaves.neurons(program)
        entries = sum(math.prod(node.shape) for node in program.nodes)
        self._batch = max(2, min(_BATCH, _ENTRIES // entries))

    def _is_over(self) -> bool:
        too_large = self._kept * self._neurons * 9 > _LEAVES
        return too_large or self._bounded >= self._most or time.monotonic() >= self._end

    def run(self) -> None:
        """Bounds the whole domains, and then their parts."""
        if self._is_over():
            return
        self._state = domains_and_intervals(self._program, self._domain)
        pairs = np.flatnonzero(~(self._known > self._target)) if self._is_fixed else None
        pairs = np.arange(len(self._rows)) if pairs is None else pairs
        for begin in range(0, len(pairs), self._batch):
            part = pairs[begin : begin + self._batch]
            if self._is_over():
                return
            self._bound([self._first(pair) for pair in part], _STEPS)
        self._whole = self._lower()
        while any(self._open) and not self._is_over():
            self._branch()

    def _first(self, pair: int) -> _Leaf:
        nothing = np.zeros(self._neurons, np.int8)
        unset = np.full(self._neurons, -1.0, np.float32)
        return _Leaf(-np.inf, pair, -1, 0.0, nothing, unset, np.zeros(self._neurons, np.float32))

    def _branch(self) -> None:
        """Takes leaves of the samples that lack least, and bounds their halves."""
        halves, last = [], []
        for sample in np.argsort(self._deficit, kind="stable"):
            while self._open[sample] and len(halves) + len(last) < self._batch:
                leaf = self._pop(sample)
                if leaf.choice < 0:
                    last.append(leaf)
                    continue
                for side in (1, -1):
                    splits = leaf.splits.copy()
                    splits[leaf.choice] = side
                    halves.append(leaf._replace(splits=splits))
        if halves:
            self._bound(halves, _STEPS)
        if last:
            self._bound(last, _LAST_STEPS)

    def _pop(self, sample: int) -> _Leaf:
        leaf = heapq.heappop(self._open[sample])[-1]
        self._deficit[sample] -= self._lack(leaf)
        self._kept -= 1
        return leaf

    def _lack(self, leaf: _Leaf) -> float:
        return float(np.clip(self._target[leaf.pair] - leaf.value, 0.0, 1e12))

    def _bound(self, parts: list[_Leaf], steps: int) -> None:
        pairs = np.array([leaf.pair for leaf in parts])
        samples = pairs // self._each
        fixed = samples, self._rows[pairs], self._target[pairs]
        stacked = (np.stack([leaf[i] for leaf in parts]) for i in (3, 4, 5, 6))
        norm = self._domain.norm if self._domain.is_ball else None
        solve = leaves.solver(self._program, norm)
        solved = solve(steps, leaves.Leaves(*fixed, *stacked), self._state)
        found = leaves.Solved(*(part.numpy() for part in solved))
        self._bounded += len(parts)
        self._try(samples, pairs, found.points, found.reached)
        for i, leaf in enumerate(parts):
            # A part of a domain is not worse than the whole.
            best = max(float(found.values[i]), leaf.value, self._known[leaf.pair])
            free = found.shares[i].copy(), found.multipliers[i].copy()
            choice, weight = int(found.choices[i]), found.weights[i]
            new = _Leaf(best, leaf.pair, choice, weight, leaf.splits, *free)
            self._put(new, steps == _LAST_STEPS)

    def _put(self, leaf: _Leaf, is_last: bool) -> None:
        sample = leaf.pair // self._each
        if leaf.value > self._target[leaf.pair] or is_last or self._done[sample]:
            self._closed[leaf.pair] = min(self._closed[leaf.pair], leaf.value)
            return
        heapq.heappush(self._open[sample], (leaf.value, next(self._order), leaf))
        self._deficit[sample] += self._lack(leaf)
        self._kept += 1

    def _try(self, samples, pairs, points, reached) -> None:
        """Keeps points that reach the target; they end the search for their sample."""
        np.minimum.at(self._reached, pairs, reached)
        if not self._is_fixed:
            best = self._reached
            self._target = best - _GAP * (1.0 + np.abs(best))
            return
        for i in np.flatnonzero(reached <= self._target[pairs]):
            sample = samples[i]
            if not self._done[sample] and self._domain[[sample]].contains(points[i : i + 1])[0]:
                self._points[sample], self._done[sample] = points[i], True
                self._give_up(sample)

    def _give_up(self, sample: int) -> None:
        while self._open[sample]:
            leaf = self._pop(sample)
            self._closed[leaf.pair] = min(self._closed[leaf.pair], leaf.value)
        self._deficit[sample] = 0.0

    def _lower(self) -> np.ndarray:
        """The smallest bound of the leaves of each pair, open or closed."""
        lower = self._closed.copy()
        for leaf in (entry[-1] for entries in self._open for entry in entries):
            lower[leaf.pair] = min(lower[leaf.pair], leaf.value)
        # Nothing was done for the others.
        return np.maximum(np.where(lower < np.inf, lower, -np.inf), self._known)

    def result(self) -> Branched:
        """What is known at the end."""
        lower, whole = (part.reshape(-1, self._each) for part in (self._lower(), self._whole))
        return Branched(lower, whole, self._points, self._bounded)
