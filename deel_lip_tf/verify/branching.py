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
import tensorflow as tf

from deel_lip_tf.verify import alpha, lipschitz
from deel_lip_tf.verify.alpha import Free, Questions
from deel_lip_tf.verify.backward import Relaxation, relax
from deel_lip_tf.verify.coefficients import Dense
from deel_lip_tf.verify.domain import Domain
from deel_lip_tf.verify.graphs import traced
from deel_lip_tf.verify.interval import Interval
from deel_lip_tf.verify.methods import METHODS, Problem, batches, lower_bounds
from deel_lip_tf.verify.program import Program
from deel_lip_tf.verify.region import Region

__all__ = ["Branched", "branch_and_bound", "default_time", "prepare"]

_STEPS = 10  # of the optimization in each leaf
_LAST_STEPS = 400  # where nothing is left to split
_RATES = (0.1, 0.1)  # of shares, and of multipliers in units of the largest weight
_BATCH = 512  # leaves bounded together
_ENTRIES = 2**23  # of all nodes of a batch
_LEAVES = 2**30  # bytes of leaves that are kept
_GAP = 1e-7  # between a bound and a value that is reached, relative to 1 + |value|
_INWARD = 1.0 - 2.0**-20  # candidates keep inside the domain when they are rounded
_BELOW = 0.25  # weight of the gap of a line whose slope is free
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
    if alpha.free_nodes(program):
        _root_function(program, domain)
        _solver(program, domain)


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
    if not alpha.free_nodes(program):
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
        self._neurons = sum(
            math.prod(program.nodes[index].shape) for index in alpha.free_nodes(program)
        )
        entries = sum(math.prod(node.shape) for node in program.nodes)
        self._batch = max(2, min(_BATCH, _ENTRIES // entries))

    def _is_over(self) -> bool:
        too_large = self._kept * self._neurons * 9 > _LEAVES
        return too_large or self._bounded >= self._most or time.monotonic() >= self._end

    def run(self) -> None:
        """Bounds the whole domains, and then their parts."""
        if self._is_over():
            return
        self._state = _root(self._program, self._domain)
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

    def _bound(self, leaves: list[_Leaf], steps: int) -> None:
        pairs = np.array([leaf.pair for leaf in leaves])
        samples = pairs // self._each
        stacked = [np.stack([leaf[i] for leaf in leaves]) for i in (3, 4, 5, 6)]
        found = _solver(self._program, self._domain)(
            tf.constant(steps),
            tf.constant(samples),
            tf.constant(self._rows[pairs]),
            tf.constant(self._target[pairs]),
            *map(tf.constant, stacked),
            *self._state,
        )
        value, weight, shares, multipliers, choice, points, reached = (p.numpy() for p in found)
        self._bounded += len(leaves)
        self._try(samples, pairs, points, reached)
        for i, leaf in enumerate(leaves):
            # A part of a domain is not worse than the whole.
            best = max(float(value[i]), leaf.value, self._known[leaf.pair])
            free = shares[i].copy(), multipliers[i].copy()
            new = _Leaf(best, leaf.pair, int(choice[i]), weight[i], leaf.splits, *free)
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
        for leaf in (entry[-1] for leaves in self._open for entry in leaves):
            lower[leaf.pair] = min(lower[leaf.pair], leaf.value)
        # Nothing was done for the others.
        return np.maximum(np.where(lower < np.inf, lower, -np.inf), self._known)

    def result(self) -> Branched:
        """What is known at the end."""
        lower, whole = (part.reshape(-1, self._each) for part in (self._lower(), self._whole))
        return Branched(lower, whole, self._points, self._bounded)


def _root_function(program: Program, domain: Domain):
    """The function, traced once, that finds the intervals of all nodes."""
    key = ("branching", "root", domain.norm if domain.is_ball else None)
    if key not in program.compiled:
        if lipschitz.has_small_constants(program):
            lipschitz.prepare(program)
        program.compiled[key] = _traced_root(program, key[-1])
    return program.compiled[key]


def _root(program: Program, domain: Domain) -> list[tf.Tensor]:
    """The domains, and the intervals of all nodes on them, as tensors."""
    function, found = _root_function(program, domain), []
    for part in batches(program, "crown", len(domain)):
        own = domain[part]
        tensors = [own.lower, own.upper, own.center, own.radius]
        constants = [tf.constant(t, tf.float64) for t in (*tensors, *own.enclosing_ball())]
        found.append([*constants[:4], *function(*constants)])
    return [tf.concat(parts, axis=0) for parts in zip(*found, strict=True)]


def _traced_root(program: Program, norm: str | None):
    point, number = [None, *program.input_shape], [None]

    def run(lower, upper, center, radius, ball_center, ball_radius):
        problem = Problem(Region(lower, upper, center, radius, norm), ball_center, ball_radius)
        return tf.nest.flatten(METHODS["crown"].intervals(program, problem))

    shapes = (point, point, point, number, point, number)
    return traced(run, [(shape, tf.float64) for shape in shapes])


def _solver(program: Program, domain: Domain):
    """The function, traced once, that bounds a batch of leaves."""
    norm = domain.norm if domain.is_ball else None
    key = ("branching", "leaves", norm)
    if key not in program.compiled:

        def run(steps, samples, rows, targets, weights, splits, shares, multipliers, *state):
            taken = [tf.gather(part, samples) for part in state]
            region = Region(*taken[:4], norm=norm)
            intervals = [Interval(*taken[i : i + 3]) for i in range(4, len(taken), 3)]
            shape = program.nodes[program.output].shape
            rows = Dense(tf.reshape(rows, [-1, 1, *shape]), shape)
            questions = Questions(region, rows, _branched(program, intervals, splits))
            free = Free(tf.cast(shares, tf.float64), tf.cast(multipliers, tf.float64))
            return _solve(program, questions, splits, free, weights, targets, steps)

        program.compiled[key] = traced(run, _signature(program))
    return program.compiled[key]


def _signature(program: Program) -> list[tuple]:
    """Of the function that bounds leaves."""
    neurons = [None, sum(math.prod(program.nodes[i].shape) for i in alpha.free_nodes(program))]
    point, number, real = [None, *program.input_shape], [None], tf.float64
    leaves = [([], tf.int32), (number, tf.int64), ([None, program.outputs], real)]
    leaves += [(number, real), (number, real), (neurons, tf.int8)]
    leaves += [(neurons, tf.float32)] * 2
    domains = [(point, real)] * 3 + [(number, real)]
    intervals = [([None, *node.shape], real) for node in program.nodes for _ in range(3)]
    return [*leaves, *domains, *intervals]


def _branched(program: Program, intervals: list[Interval], splits: tf.Tensor) -> Relaxation:
    """The intervals cut at the kinks where they were split, and the lines on them."""
    intervals = list(intervals)
    for index, side in alpha.parts_of(program, splits).items():
        node = program.nodes[index]
        (parent,), (kink,) = node.parents, node.activation.kinks
        own = intervals[parent]
        lower = tf.where(side > 0, tf.maximum(own.lower, kink), own.lower)
        upper = tf.where(side < 0, tf.minimum(own.upper, kink), own.upper)
        intervals[parent] = own._replace(lower=lower, upper=upper)
    lines = {index: relax(program, index, intervals) for index in program.nonlinear()}
    return Relaxation(intervals, lines)


def _solve(program: Program, questions: Questions, splits, free: Free, weights, targets, steps):
    """Bounds, free numbers, the neuron to split next, and candidates with the row's value there."""
    default = alpha.default_free(program, questions.relaxation, tf.shape(splits)[0])
    start = Free(tf.where(free.shares >= 0, free.shares, default.shares), free.multipliers)
    rates = Free(tf.constant(_RATES[0], tf.float64), _RATES[1] * weights[:, None])
    endless = tf.fill(tf.shape(free.multipliers), tf.constant(np.inf, tf.float64))
    # On the right of a kink the multiplier is not positive, on the left not negative.
    limits = (tf.where(splits > 0, -endless, 0.0), tf.where(splits < 0, endless, 0.0))
    best = alpha.maximize(program, questions, start, rates, limits, steps, targets)
    value, slopes, weights = alpha.evaluate(program, questions, best)
    choice = _chosen(program, questions.relaxation, best.shares, weights)
    points = _lowest_points(questions.region, slopes)
    outputs = program.evaluate(points)[program.output]
    products = questions.rows.values[:, 0] * outputs
    reached = tf.reduce_sum(products, axis=list(range(1, len(outputs.shape))))
    small = [tf.cast(part, tf.float32) for part in best]
    return value, tf.reduce_max(tf.abs(weights), axis=1), *small, choice, points, reached


def _chosen(program: Program, relaxation: Relaxation, shares, weights) -> tf.Tensor:
    """(n,) the neuron whose lines cost the bound most, or -1 where none is left to split.

    After the score of Bunel et al. (2020, "Branch and bound for piecewise linear neural network
    verification"): the weight of the neuron times how far the line that it takes is from it.
    """
    lines, gaps = alpha.free_lines(program, relaxation, shares), {}
    parts = alpha.parts_of(program, weights)
    for index, weight in parts.items():
        node = program.nodes[index]
        interval, line = relaxation.intervals[node.parents[0]], lines[index]
        inside, left, right = alpha.kink_slopes(node.activation, interval)
        ends = [tf.where(inside, end, 0.0) for end in interval[:2]]
        places = [
            (p, node.activation.value(p)) for p in (*ends, node.activation.kinks[0] + 0.0 * ends[0])
        ]
        above = [line.upper_slope * p + line.upper_offset - value for p, value in places]
        below = [value - line.lower_slope * p - line.lower_offset for p, value in places]
        above, below = (tf.reduce_max(tf.stack(gap), axis=0) for gap in (above, below))
        # The slope on the convex side is free, which makes up for a part of its gap.
        factors = tf.where(right > left, _BELOW, 1.0), tf.where(right > left, 1.0, _BELOW)
        factors = [tf.cast(factor, tf.float64) for factor in factors]
        score = tf.nn.relu(weight) * below * factors[0] + tf.nn.relu(-weight) * above * factors[1]
        gaps[index] = tf.where(inside, score + 1e-300, -1.0)
    scores = alpha.flat_of(program, gaps, tf.shape(weights)[0])
    best = tf.argmax(scores, axis=1, output_type=tf.int32)
    return tf.where(tf.reduce_max(scores, axis=1) < 0, -1, best)


def _lowest_points(region: Region, slopes: tf.Tensor) -> tf.Tensor:
    """Where linear functions are smallest on a box; points of a ball on the way there."""
    corner = tf.where(slopes > 0, region.lower, region.upper)
    corner = tf.where(slopes == 0, region.center, corner)
    offset = (corner - region.center) * tf.constant(_INWARD, tf.float64)
    axes = list(range(1, len(slopes.shape)))
    radius = tf.reshape(region.radius, [-1, *[1] * len(axes)])
    if region.norm == "l2":
        length = tf.sqrt(tf.reduce_sum(slopes**2, axis=axes, keepdims=True))
        step = _INWARD * tf.math.divide_no_nan(radius, length) * tf.abs(slopes)
        offset = tf.sign(offset) * tf.minimum(tf.abs(offset), step)
    elif region.norm == "l1":
        length = tf.reduce_sum(tf.abs(offset), axis=axes, keepdims=True)
        offset = offset * tf.minimum(_INWARD * tf.math.divide_no_nan(radius, length), 1.0)
    return region.center + offset
