"""Conjunctions of the same box, decided by smaller and smaller parts of it."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deel_lip_tf.verify.search.inputs.bounds import Boxes, Relaxation, relaxed
from deel_lip_tf.verify.search.inputs.network import Network
from deel_lip_tf.verify.search.inputs.points import descended
from deel_lip_tf.verify.search.inputs.refutation import Rows, contracted, multipliers
from deel_lip_tf.verify.search.inputs.work import BRIEF, Work
from deel_lip_tf.verify.specification.property import Conjunction, padded

if TYPE_CHECKING:
    from deel_lip_tf.verify.search.inputs.record import Record  # which needs the package `onnx`


_FIRST_BATCH, _BATCH = 16, 1024  # boxes of one round, the first and the most
_ROUND_SECONDS = 0.25  # a round takes about that long, so that the clock is seen
_OPEN, _BYTES = 2**18, 2**27  # of boxes; of more, those that lack least come first, and grow fewer
_ULPS = 2.0**-48  # more than the rounding where ends of a box are moved
_MARGIN = 2.0**-34  # of the terms of a row: what a checker may round otherwise


class _Open(NamedTuple):
    """Boxes that are open.

    Attributes:
        lower: (n, f).
        upper: (n, f).
        claim: (n,) the conjunction each is open for.
        lowest: (n,) the largest bound of an inequality there; what is above 0 is refuted.
        signs: (n, neurons) what is known of the signs of neurons, 0 where nothing is.
        node: (n,) number in the record, if there is one.
    """

    lower: np.ndarray
    upper: np.ndarray
    claim: np.ndarray
    lowest: np.ndarray
    signs: np.ndarray
    node: np.ndarray

    def of(self, index: np.ndarray) -> "_Open":
        return _Open(*(part[index] for part in self))

    def and_others(self, other: "_Open") -> "_Open":
        return _Open(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))


class Group:
    """Conjunctions of the same box.

    Args:
        work: what they belong to.
        claims: one or more.
        end: of the time, of the monotonic clock.
        can_split: whether the box may be cut in parts.
    """

    def __init__(self, work: Work, claims: Sequence[Conjunction], end: float, can_split: bool):
        self._work, self._claims, self._end = work, claims, end
        first = claims[0]
        self._network = Network(work.program, first.lower, first.upper, end)
        count = max(1, *(len(claim.weights) for claim in claims))
        weights = np.stack([padded(claim.weights, count) for claim in claims])
        offsets = np.stack([padded(claim.offsets, count, -1.0) for claim in claims])
        outputs = weights.shape[-1]
        self._rows = self._network.rows(weights.reshape(-1, outputs), offsets.ravel())
        self._shape = weights.shape[:2]
        self._batch = _FIRST_BATCH
        self._is_left = False
        self._can_split = can_split and len(self._network.free) > 0

    def run(self) -> str:
        """The status."""
        free, count = self._network.free, len(self._claims)
        lower, upper = (np.repeat(end[None, free], count, axis=0) for end in self._ends)
        signs = np.zeros((count, sum(map(len, self._network.layers))), np.int8)
        record = self._work.record
        nodes = np.zeros(count, int) if record is None else record.start(self._claims)
        is_open = _Open(lower, upper, np.arange(count), np.full(count, -np.inf), signs, nodes)
        while len(is_open.claim) and time.monotonic() < self._end:
            begin = time.monotonic()
            chosen = self._chosen(is_open)
            parts = self._bound(is_open.of(chosen))
            if parts is None:
                return "sat"
            is_open = is_open.of(np.setdiff1d(np.arange(len(is_open.claim)), chosen))
            is_open = is_open.and_others(parts)
            pace = _ROUND_SECONDS / max(time.monotonic() - begin, 1e-9)
            self._batch = int(np.clip(self._batch * min(pace, 2.0), 1, _BATCH))
        return "unknown" if len(is_open.claim) or self._is_left else "unsat"

    @property
    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        return self._network.lower, self._network.upper

    def _chosen(self, is_open: _Open) -> np.ndarray:
        """The next boxes: those of the lowest bounds, where a counterexample is likeliest."""
        count, size = len(is_open.claim), self._batch
        if count <= size:
            return np.arange(count)
        if count <= min(_OPEN, _BYTES // (1 + is_open.signs.shape[1])):
            return np.argpartition(is_open.lowest, size - 1)[:size]
        return np.argpartition(-is_open.lowest, size - 1)[:size]

    def _bound(self, parts: _Open) -> _Open | None:
        """The halves of the boxes that are not refuted; None where a witness was found."""
        network, boxes = self._network, Boxes(parts.lower, parts.upper)
        self._work.bounded += len(boxes)
        relaxation = relaxed(network.layers, boxes, network.roundoff, parts.signs)
        starts, constant = self._starts(parts.claim)
        rows = Rows(*relaxation.lowest(starts, constant, np.arange(len(boxes)))[1]).finite()
        weights = multipliers(rows)
        summed = {source: np.einsum("nm,nmw->nw", weights, row) for source, row in starts.items()}
        rows = self._with_sum(relaxation, rows, summed, constant, weights)
        below, above = contracted(rows)
        strict = np.stack([padded(c.is_strict, self._shape[1]) for c in self._claims])
        touches = strict[parts.claim] & (rows.lowest[:, : self._shape[1]] >= 0)
        kept = np.flatnonzero((below <= above).all(axis=1) & ~touches.any(axis=1))
        signs = relaxation.signs
        if self._work.record is not None:
            kept = self._closed(self._work.record, parts, relaxation, rows, weights)
            signs, below, above = parts.signs, np.full_like(below, -1.0), np.ones_like(above)
        shrunk = _shrunk(boxes[kept], below[kept], above[kept])
        lowest = rows.lowest[kept].max(axis=1)
        if self._try(shrunk, rows.coefficients[kept, -1], parts.claim[kept], lowest):
            return None
        ends = shrunk.lower, shrunk.upper
        left = _Open(*ends, parts.claim[kept], lowest, signs[kept], parts.node[kept])
        if not self._can_split:
            self._is_left |= len(kept) > 0
            return left.of(np.arange(0))
        cost = np.abs(rows.coefficients[:, -1]) + relaxation.shares(summed)
        return self._split(left, (cost * (0.5 * above - 0.5 * below))[kept])

    def _closed(
        self,
        record: "Record",
        parts: _Open,
        relaxation: Relaxation,
        rows: Rows,
        weights: np.ndarray,
    ) -> np.ndarray:
        """The boxes that are left when those are recorded where a sum of rows is positive."""
        margin = _MARGIN * self._rows.added.max()
        best = rows.lowest.argmax(axis=1)
        closed = np.flatnonzero(rows.lowest.max(axis=1) > margin)
        alone = np.eye(weights.shape[1] + 1)[best, :-1]
        shares = np.where((best == weights.shape[1])[:, None], weights, alone)[closed]
        pairs = zip(self._network.places, relaxation.lines, strict=True)
        slopes = [(*place, line.below[closed]) for place, line in pairs]
        claims = [self._claims[i] for i in parts.claim[closed]]
        boxes = [self._inputs(end[closed]) for end in (parts.lower, parts.upper)]
        refuted = record.close(parts.node[closed], claims, boxes, shares, slopes, margin)
        return np.setdiff1d(np.arange(len(best)), closed[refuted])

    def _inputs(self, free: np.ndarray) -> np.ndarray:
        """Points (n, inputs) of given values of the free inputs."""
        x = np.repeat(self._network.lower[None], len(free), axis=0)
        x[:, self._network.free] = free
        return x

    def _starts(self, claim: np.ndarray) -> tuple[dict[int, np.ndarray], np.ndarray]:
        """Rows of conjunctions, (n, m, values) by source, and constants (n, m) below theirs."""
        layer = self._rows
        constant = layer.bias - layer.slack - 2.0 * self._network.roundoff * layer.added
        starts = {
            source: matrix.reshape(*self._shape, -1)[claim]
            for source, matrix in layer.weights.items()
        }
        return starts, constant.reshape(self._shape)[claim]

    def _with_sum(
        self,
        relaxation: Relaxation,
        rows: Rows,
        summed: dict[int, np.ndarray],
        constant: np.ndarray,
        weights: np.ndarray,
    ) -> Rows:
        """The rows, and last what is below their sum: what cancels in it needs no lines."""
        if weights.shape[1] == 1:
            return rows
        size = (weights * (np.abs(constant) + self._rows.added.max())).sum(axis=1)
        own = (weights * constant).sum(axis=1) - 2.0 * relaxation.roundoff * size
        start = {source: row[:, None] for source, row in summed.items()}
        found = relaxation.lowest(start, own[:, None], np.arange(len(own)))[1]
        pairs = zip(rows, Rows(*found).finite(), strict=True)
        return Rows(*(np.concatenate(pair, axis=1) for pair in pairs))

    def _try(self, boxes: Boxes, slope: np.ndarray, claim: np.ndarray, lowest: np.ndarray) -> bool:
        """Whether the corner of each box where its bound is smallest holds a witness.

        From the most promising corners a descent goes on, through the whole box.
        """
        corner = np.where(slope > 0, boxes.lower, np.where(slope < 0, boxes.upper, boxes.middle))
        x = self._inputs(corner)
        for number in np.unique(claim):
            own, asked = np.flatnonzero(claim == number), self._claims[number]
            if self._work.try_points(asked, x[own]):
                return True
            best = own[np.argsort(lowest[own], kind="stable")[:BRIEF]]
            path = descended(self._work.program, x[best], self._ends, asked, BRIEF)
            if self._work.try_points(asked, path):
                return True
        return False

    def _split(self, parts: _Open, cost: np.ndarray) -> _Open:
        """Halves across the input that costs most; what float64 cannot halve is left."""
        middle = np.clip(0.5 * parts.lower + 0.5 * parts.upper, parts.lower, parts.upper)
        can = (parts.lower < middle) & (middle < parts.upper)
        self._is_left |= bool((~can.any(axis=1)).any())
        kept = np.flatnonzero(can.any(axis=1))
        # Where nothing costs, the first that can be halved.
        axis = np.where(can, cost, -1.0)[kept].argmax(axis=1)
        first, second = parts.of(kept), parts.of(kept)
        place = (np.arange(len(kept)), axis)
        first.upper[place] = second.lower[place] = cuts = middle[kept, axis]
        halves = first.and_others(second)
        if (record := self._work.record) is None:
            return halves
        return halves._replace(node=record.split(first.node, self._network.free[axis], cuts))


def _shrunk(boxes: Boxes, below: np.ndarray, above: np.ndarray) -> Boxes:
    """The parts of boxes between ends of `e`, rounded outward."""
    middle, half_width = boxes.middle, boxes.half_width
    outward = _ULPS * (np.abs(middle) + half_width)
    lower = np.where(below > -1.0, middle + half_width * below - outward, boxes.lower)
    upper = np.where(above < 1.0, middle + half_width * above + outward, boxes.upper)
    return Boxes(np.maximum(lower, boxes.lower), np.minimum(upper, boxes.upper))
