"""Whether any input satisfies a property, decided by smaller and smaller boxes of inputs.

For networks of ReLUs, few of whose inputs are free. Points are tried first. Then each open
conjunction is bounded from below on boxes, many at a time: a box is refuted, or shrunk to where no
inequality is known to fail, and cut in two across the input that costs its bound most. The place
where the bound is smallest is tried as a counterexample.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.search.inputs.bounds import Boxes, Relaxation, relaxed
from deel_lip_tf.verify.search.inputs.network import Network, Undecided, is_searchable
from deel_lip_tf.verify.search.inputs.points import Points, Run, descended
from deel_lip_tf.verify.search.inputs.refutation import Rows, contracted, multipliers
from deel_lip_tf.verify.search.signs.chain import Chain
from deel_lip_tf.verify.search.signs.decide import Signs
from deel_lip_tf.verify.specification.fit import check_fits, with_relations
from deel_lip_tf.verify.specification.property import Conjunction, Property

if TYPE_CHECKING:
    from deel_lip_tf.verify.search.inputs.record import Record  # which needs the package `onnx`

__all__ = ["Verdict", "decide_program"]

_FREE = 24  # inputs that are split; where more are free, the signs of neurons are
_FIRST_BATCH, _BATCH = 16, 1024  # boxes of one round, the first and the most
_ROUND_SECONDS = 0.25  # a round takes about that long, so that the clock is seen
_OPEN, _BYTES = 2**18, 2**27  # of boxes; of more, those that lack least come first, and grow fewer
_DESCENTS = (64, 30), (16, 12)  # and their steps, before the search: of small networks, of others
_SMALL = 2**12  # entries of all nodes
_BRIEF = 8  # steps of a descent, and corners that it starts from, in each round of the search
_ATTACK = 0.2  # of the time, at most
_ULPS = 2.0**-48  # more than the rounding where ends of a box are moved
_MARGIN = 2.0**-34  # of the terms of a row: what a checker may round otherwise


@dataclass(frozen=True, eq=False)
class Verdict:
    """The answer to a property.

    Attributes:
        status: "unsat" where no input satisfies it, "sat" where one was found, else "unknown".
        witness: that input, or `None`.
        outputs: of the network as it runs, flat, or `None`.
        boxes: how many boxes were bounded.
        seconds: time spent.
        distance: of the witness from the box, along the input where it is largest.
        is_final: whether more time cannot help: the exact function satisfies the property, but the
            input type has no number where inputs are fixed.
    """

    status: str
    witness: np.ndarray | None
    outputs: np.ndarray | None
    boxes: int
    seconds: float
    distance: float = 0.0
    is_final: bool = False


def decide_program(
    program: Program,
    property: Property,
    *,
    seconds: float = 60.0,
    run: Run | None = None,
    dtype: type = np.float32,
    is_nearest: bool = False,
    seed: int = 0,
    record: "Record | None" = None,
) -> Verdict:
    """Decides whether an input of a program satisfies a property, by splitting inputs.

    "unsat" is a proof about the exact function of the stored weights; what float64 rounds is
    accounted for. A witness is a number of the input type that lies in the box exactly, and whose
    outputs, as `run` returns them, satisfy every inequality exactly.

    Args:
        program: any; of other functions than ReLUs, or of very large layers, nothing is known.
        property: of as many inputs and outputs.
        seconds: the limit.
        run: the network as it runs, inputs (n, *shape) to outputs; by default, the exact function.
        dtype: type of the inputs of `run`.
        is_nearest: whether inputs also count that are the nearest of their type to a point of the
            box, as in the verification competitions; their outputs satisfy the inequalities
            exactly. `Verdict.distance` says how far they are from the box.
        seed: of the points that are tried first.
        record: of the boxes and what refutes them, to be filled. It may take more boxes: each is
            refuted by itself, and by the checker as well.

    Raises:
        ValueError: other numbers of inputs or outputs, or a property of probabilities that is not
            about their order.
    """
    check_fits(program, property)
    program = with_relations(program, property)
    points = Points(program, run, dtype, is_nearest)
    work = _Work(program, property, points, seconds, record)
    if not is_searchable(program):
        return work.verdict("unknown" if property.conjunctions else "unsat")
    with np.errstate(all="ignore"):
        try:
            return work.verdict(work.attack(seed) or work.search())
        except Undecided:
            return work.verdict("unknown")


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
        """Some of them."""
        return _Open(*(part[index] for part in self))

    def and_others(self, other: "_Open") -> "_Open":
        """All of both."""
        return _Open(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))


class _Work:
    """The question, the clock, and what is found."""

    def __init__(
        self,
        program: Program,
        property: Property,
        points: Points,
        seconds: float,
        record: "Record | None",
    ):
        self.start = time.monotonic()
        self.program, self.points, self.seconds = program, points, seconds
        self.record = record
        self.claims, self.bounded = property.conjunctions, 0
        self._outputs = property.outputs
        self.found: tuple[Conjunction, np.ndarray, np.ndarray] | None = None
        self.has_inputs = any(points.ends(claim) is not None for claim in self.claims)
        self.is_final = False

    def left(self) -> float:
        """Seconds."""
        return self.start + self.seconds - time.monotonic()

    def verdict(self, status: str) -> Verdict:
        """The answer."""
        seconds, witness, outputs, distance = time.monotonic() - self.start, None, None, 0.0
        if self.found is not None:
            claim, witness, outputs = self.found
            outputs = outputs[: self._outputs]  # without relations
            outside = np.maximum(claim.lower - witness.ravel(), witness.ravel() - claim.upper)
            distance = float(outside.max(initial=0.0))
        found = witness, outputs, self.bounded, seconds
        return Verdict(status, *found, distance, self.is_final)

    def try_points(self, claim: Conjunction, x: np.ndarray) -> bool:
        """Whether one of some points (n, inputs) is a witness.

        Raises:
            Undecided: one is, but for the input type, which has no number in any box.
        """
        if not len(x):
            return False
        if (found := self.points.witness(claim, x)) is not None:
            self.found = (claim, *found)
        elif not self.has_inputs and self.points.holds_somewhere(claim, x):
            self.is_final = True
            raise Undecided
        return found is not None

    def attack(self, seed: int) -> str | None:
        """Points of each box, and where descents from them end."""
        random = np.random.default_rng(seed)
        entries = sum(math.prod(node.shape) for node in self.program.nodes)
        starts, most = _DESCENTS[int(entries > _SMALL)]
        for claim in self.claims:
            if self.left() < (1.0 - _ATTACK) * self.seconds:
                break
            held = self.points.ends(claim) or (claim.lower, claim.upper)
            ends = [end.astype(np.float64) for end in held]
            share = random.random((starts, len(claim.lower)))
            share[0], share[1], share[2] = 0.5, 0.0, 1.0
            share[3::2] = np.round(share[3::2])  # corners, where extremes are
            x = ends[0] + share * (ends[1] - ends[0])
            steps = most if len(claim.weights) else 0
            if self.try_points(claim, x) or self.try_points(
                claim, descended(self.program, x, ends, claim, steps)
            ):
                return "sat"
        return None

    def search(self) -> str:
        """The boxes of conjunctions one after the other; those that are the same together."""
        groups: dict[bytes, list[Conjunction]] = {}
        for claim in self.claims:
            groups.setdefault(claim.lower.tobytes() + claim.upper.tobytes(), []).append(claim)
        is_left = False
        for number, claims in enumerate(groups.values()):
            end = time.monotonic() + self.left() / (len(groups) - number)
            is_of_many = np.count_nonzero(claims[0].lower < claims[0].upper) > _FREE
            if is_of_many and self.record is None:  # signs of neurons are not recorded
                status = self._by_signs(claims, end)
            else:
                status = _Group(self, claims, end).run()
            if status == "sat":
                return status
            is_left |= status != "unsat"
        return "unknown" if is_left else "unsat"

    def _by_signs(self, claims: Sequence[Conjunction], end: float) -> str:
        """The status of conjunctions of the same box, by the signs of neurons."""
        lower, upper = claims[0].lower, claims[0].upper
        free = np.flatnonzero(lower < upper)
        chain = Chain(Boxes(lower[None, free], upper[None, free]), self.program.roundoff)
        network = Network(self.program, lower, upper, end, chain)
        search = Signs(network, chain, claims, end, self._descend)
        status = search.run()
        self.bounded += search.bounded
        return status

    def _descend(self, claim: Conjunction, x: np.ndarray) -> bool:
        """Whether one of some points is a witness, or one where a brief descent from them ends."""
        if self.try_points(claim, x):
            return True
        path = descended(self.program, x, (claim.lower, claim.upper), claim, _BRIEF)
        return self.try_points(claim, path)


class _Group:
    """Conjunctions of the same box."""

    def __init__(self, work: _Work, claims: Sequence[Conjunction], end: float):
        self._work, self._claims, self._end = work, claims, end
        first = claims[0]
        self._network = Network(work.program, first.lower, first.upper, end)
        weights, offsets = _padded(claims)
        outputs = weights.shape[-1]
        self._rows = self._network.rows(weights.reshape(-1, outputs), offsets.ravel())
        self._shape = weights.shape[:2]
        self._batch = _FIRST_BATCH
        self._is_left = False

    def run(self) -> str:
        """The status."""
        free, count = self._network.free, len(self._claims)
        lower, upper = (np.repeat(end[None, free], count, axis=0) for end in self._ends)
        signs = np.zeros((count, sum(map(len, self._network.layers))), np.int8)
        record = self._work.record
        nodes = np.zeros(count, int) if record is None else record.start(self._claims)
        is_open = _Open(lower, upper, np.arange(count), np.full(count, -np.inf), signs, nodes)
        can_split = 0 < len(free) <= _FREE
        while len(is_open.claim) and time.monotonic() < self._end:
            begin = time.monotonic()
            chosen = self._chosen(is_open)
            parts = self._bound(is_open.of(chosen), can_split)
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

    def _bound(self, parts: _Open, can_split: bool) -> _Open | None:
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
        strict = np.stack([_padded_to(c.is_strict, self._shape[1], False) for c in self._claims])
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
        if not can_split:
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
            best = own[np.argsort(lowest[own], kind="stable")[:_BRIEF]]
            path = descended(self._work.program, x[best], self._ends, asked, _BRIEF)
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


def _padded(claims: Sequence[Conjunction]) -> tuple[np.ndarray, np.ndarray]:
    """(claims, rows, outputs) weights and (claims, rows) offsets, the last row repeated.

    Without a row every input is a counterexample: then one that is never positive.
    """
    count = max(1, *(len(claim.weights) for claim in claims))
    weights = [_padded_to(claim.weights, count, 0.0) for claim in claims]
    offsets = [_padded_to(claim.offsets, count, -1.0) for claim in claims]
    return np.stack(weights), np.stack(offsets)


def _padded_to(rows: np.ndarray, count: int, otherwise: float) -> np.ndarray:
    if not len(rows):
        return np.full((count, *rows.shape[1:]), otherwise, rows.dtype)
    return np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), axis=0)])


def _shrunk(boxes: Boxes, below: np.ndarray, above: np.ndarray) -> Boxes:
    """The parts of boxes between ends of `e`, rounded outward."""
    middle, half_width = boxes.middle, boxes.half_width
    outward = _ULPS * (np.abs(middle) + half_width)
    lower = np.where(below > -1.0, middle + half_width * below - outward, boxes.lower)
    upper = np.where(above < 1.0, middle + half_width * above + outward, boxes.upper)
    return Boxes(np.maximum(lower, boxes.lower), np.minimum(upper, boxes.upper))
