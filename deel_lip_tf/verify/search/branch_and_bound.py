"""Branch and bound: what one backward bound cannot prove is split at breakpoints of activations.

A subdomain is an objective of the output on a part of a domain, where some activations with one
breakpoint (ReLU, LeakyReLU, PReLU, and the relus that maxima and sorting are made of) read only
what lies on one side of it. There their lines are exact, and the side itself enters the bound by a
beta (see `alpha_beta`). The subdomains of an objective together cover its domain, so that the
smallest of their bounds is a bound of the objective: the search can stop at any moment. Subdomains
of all samples are bounded in common batches. Each bound is the minimum of a linear function, whose
place is tried as a counterexample.
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
from deel_lip_tf.verify.propagation.alpha_beta import splittable_nodes
from deel_lip_tf.verify.search import subdomains

_STEPS = 10  # of the optimization in each subdomain
_LAST_STEPS = 400  # where nothing is left to split
_BATCH = 512  # subdomains bounded together
_ENTRIES = 2**23  # of all nodes of a batch
_SUBDOMAINS = 2**30  # bytes of subdomains that are kept
_GAP = 1e-7  # between a bound and a value that is reached, relative to 1 + |value|
MOST_SECONDS = 60.0
"""Of a search without a limit."""


@dataclass(frozen=True, eq=False)
class BranchAndBoundResult:
    """What was found in the time.

    Attributes:
        lower: (n, m) numbers that the objectives do not fall below.
        whole: (n, m) those that were known, or found without any split.
        points: (n, *shape) float64, where an objective was seen at its target or below; NaN
            elsewhere. Such a point is a candidate: it was evaluated in float64 only.
        subdomains: number of subdomains that were bounded.
    """

    lower: np.ndarray
    whole: np.ndarray
    points: np.ndarray
    subdomains: int


def branch_and_bound(
    program: Program,
    domain: Domain,
    objectives: np.ndarray,
    target: float | np.ndarray | None = 0.0,
    known: np.ndarray | None = None,
    time_limit: float | None = math.inf,
    max_subdomains: float = math.inf,
    each: float = 1.0,
) -> BranchAndBoundResult:
    """Bounds of objectives of the output on each domain, as good as the time allows.

    Args:
        program: the lowered model. Only activations with one breakpoint are split.
        domain: n of them.
        objectives: (n, m, outputs).
        target: bounds above it are good enough, and a sample ends where an objective reaches it;
            a number, or (n, m) numbers; `None` for the minimum itself, up to a relative 1e-7.
        known: (n, m) bounds that are known already.
        time_limit: seconds after which no further batch begins; `None` for some for each sample,
            of 60 at most, without those that tracing takes.
        each: how many, 1 by default.
        max_subdomains: number of subdomains after which no further batch begins.
    """
    if not splittable_nodes(program):
        found = lower_bounds(program, "crown", domain, objectives)
        found = found if known is None else np.maximum(found, known)
        return BranchAndBoundResult(found, found, np.full(domain.lower.shape, np.nan), 0)
    if time_limit is None:
        domains_and_intervals(program, domain[:1])
        subdomains.solver(program, domain.ball_norm)
        time_limit = min(MOST_SECONDS * each, each * len(domain))
    limits = time_limit, max_subdomains
    search = _Search(program, domain, np.asarray(objectives, np.float64), target, known, limits)
    search.run()
    return search.result()


class _Subdomain(NamedTuple):
    """A part of a domain, as split so far."""

    value: float
    pair: int
    branching_neuron: int  # to split next, or -1
    weight: float  # the largest of an activation in the bound
    splits: np.ndarray
    alphas: np.ndarray
    betas: np.ndarray


class _Search:
    """The open subdomains by sample, and what is known of pairs of a sample and an objective."""

    def __init__(self, program, domain, objectives, target, known, limits):
        self._end, self._most = time.monotonic() + limits[0], limits[1]
        self._program, self._domain = program, domain
        count, self._each, outputs = objectives.shape
        self._objectives = objectives.reshape(-1, outputs)
        self._is_fixed = target is not None
        known = np.full((count, self._each), -np.inf) if known is None else known
        self._known = self._whole = known.astype(np.float64).reshape(-1)
        target = np.inf if target is None else target
        self._target = np.array(np.broadcast_to(target, known.shape), np.float64).reshape(-1)
        self._closed = np.full(len(self._objectives), np.inf)  # smallest bound of closed subdomains
        self._open: list[list[tuple[float, int, _Subdomain]]] = [[] for _ in range(count)]
        self._deficit = np.zeros(count)
        self._points = np.full(domain.lower.shape, np.nan)
        self._done = np.zeros(count, bool)
        self._reached = np.full(len(self._objectives), np.inf)
        self._order = itertools.count()
        self._bounded = self._kept = 0
        self._neurons = subdomains.neurons(program)
        entries = sum(math.prod(node.shape) for node in program.nodes)
        self._batch = max(2, min(_BATCH, _ENTRIES // entries))

    def _is_over(self) -> bool:
        too_large = self._kept * self._neurons * 9 > _SUBDOMAINS
        return too_large or self._bounded >= self._most or time.monotonic() >= self._end

    def run(self) -> None:
        """Bounds the whole domains, and then their parts."""
        if self._is_over():
            return
        self._state = domains_and_intervals(self._program, self._domain)
        pairs = np.flatnonzero(~(self._is_fixed & (self._known > self._target)))
        for begin in range(0, len(pairs), self._batch):
            if self._is_over():
                return
            batch = pairs[begin : begin + self._batch]
            self._bound([self._first(pair) for pair in batch], _STEPS)
        self._whole = self._lower()
        while any(self._open) and not self._is_over():
            self._branch()

    def _first(self, pair: int) -> _Subdomain:
        nothing = np.zeros(self._neurons, np.int8)
        unset = np.full(self._neurons, -1.0, np.float32)
        betas = np.zeros(self._neurons, np.float32)
        return _Subdomain(-np.inf, pair, -1, 0.0, nothing, unset, betas)

    def _branch(self) -> None:
        """Takes subdomains of the samples that lack least, and bounds their halves."""
        halves: list[_Subdomain] = []
        last: list[_Subdomain] = []
        for sample in np.argsort(self._deficit, kind="stable"):
            while self._open[sample] and len(halves) + len(last) < self._batch:
                part = self._pop(sample)
                if part.branching_neuron < 0:
                    last.append(part)
                    continue
                for side in (1, -1):
                    splits = part.splits.copy()
                    splits[part.branching_neuron] = side
                    halves.append(part._replace(splits=splits))
        if halves:
            self._bound(halves, _STEPS)
        if last:
            self._bound(last, _LAST_STEPS)

    def _pop(self, sample: int) -> _Subdomain:
        part = heapq.heappop(self._open[sample])[-1]
        self._deficit[sample] -= self._lack(part)
        self._kept -= 1
        return part

    def _lack(self, part: _Subdomain) -> float:
        return float(np.clip(self._target[part.pair] - part.value, 0.0, 1e12))

    def _bound(self, parts: list[_Subdomain], steps: int) -> None:
        pairs = np.array([part.pair for part in parts])
        samples = pairs // self._each
        fixed = samples, self._objectives[pairs], self._target[pairs]
        stacked = (np.stack([part[i] for part in parts]) for i in (3, 4, 5, 6))
        solve = subdomains.solver(self._program, self._domain.ball_norm)
        solved = solve(steps, subdomains.Subdomains(*fixed, *stacked), self._state)
        found = subdomains.Solved(*(part.numpy() for part in solved))
        self._bounded += len(parts)
        self._try(samples, pairs, found.points, found.reached)
        for i, part in enumerate(parts):
            # A part of a domain is not worse than the whole.
            best = max(float(found.values[i]), part.value, self._known[part.pair])
            new = part._replace(
                value=best,
                branching_neuron=int(found.branching_neurons[i]),
                weight=found.weights[i],
                alphas=found.alphas[i].copy(),
                betas=found.betas[i].copy(),
            )
            self._put(new, steps == _LAST_STEPS)

    def _put(self, part: _Subdomain, is_last: bool) -> None:
        sample = part.pair // self._each
        if part.value > self._target[part.pair] or is_last or self._done[sample]:
            self._close(part)
            return
        heapq.heappush(self._open[sample], (part.value, next(self._order), part))
        self._deficit[sample] += self._lack(part)
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
                while self._open[sample]:
                    self._close(self._pop(sample))
                self._deficit[sample] = 0.0

    def _close(self, part: _Subdomain) -> None:
        self._closed[part.pair] = min(self._closed[part.pair], part.value)

    def _lower(self) -> np.ndarray:
        """The smallest bound of the subdomains of each pair, open or closed."""
        lower = self._closed.copy()
        for part in (entry[-1] for entries in self._open for entry in entries):
            lower[part.pair] = min(lower[part.pair], part.value)
        # Nothing was done for the others.
        return np.maximum(np.where(lower < np.inf, lower, -np.inf), self._known)

    def result(self) -> BranchAndBoundResult:
        lower, whole = (x.reshape(-1, self._each) for x in (self._lower(), self._whole))
        return BranchAndBoundResult(lower, whole, self._points, self._bounded)
