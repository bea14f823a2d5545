"""The steps of a search by signs, as a proof that `deel_lip_tf.checking` confirms.

Whatever the search finds is shown to the checker, with its own bounds of neurons, at once: what is
known of a neuron is what it confirms, and a part is closed where it refutes it.
"""

from collections.abc import Sequence

import numpy as np

from deel_lip_tf.checking.bounds import Bounds, Certificates
from deel_lip_tf.checking.proof import MOST_ENTRIES
from deel_lip_tf.verify.search.inputs.network import Network, Note
from deel_lip_tf.verify.search.inputs.record import Record
from deel_lip_tf.verify.search.signs.ascent import Numbers
from deel_lip_tf.verify.specification.property import Conjunction

_GAIN = 0.02  # of the width of an interval, for which a bound is worth its place in the file
_MOST = MOST_ENTRIES // 2  # slopes of a file, half of which are left for its leaves
_MARGIN = 2.0**-40  # of the rows: what another machine may round otherwise


def steps_of(record: Record, network: Network, claims: Sequence[Conjunction]) -> "Steps | None":
    """Of a network on the box of conjunctions; None where its neurons are not those of the file."""
    parts = [record.neurons_of(*place) for place in network.places]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return Steps(record, claims, np.concatenate([np.zeros(0, np.intp), *known]), network.notes)


class Steps:
    """Parts of the box of some conjunctions, by their numbers in a record.

    Args:
        record: to be filled.
        claims: the conjunctions.
        columns: (neurons,) which neurons of the file those of the chain are.
        notes: how neurons were bounded on the whole box.
    """

    def __init__(
        self,
        record: Record,
        claims: Sequence[Conjunction],
        columns: np.ndarray,
        notes: Sequence[Note],
    ):
        self._record, self._claims, self._columns = record, claims, columns
        self._theorems = record.theorems(claims)
        begin, most = 0, record.claims[1].shape[1]
        self._own = np.full((len(claims), most), -1)  # which of all rows are those of a conjunction
        for own, claim in zip(self._own, claims, strict=True):
            own[: len(claim.weights)] = begin + np.arange(len(claim.weights))
            begin += len(claim.weights)
        self._low = np.full((1, record.neurons), -np.inf)
        self._high = -self._low
        ends = claims[0].lower[None], claims[0].upper[None], self._low, self._high
        shown = np.full((1, len(columns)), np.nan), columns, record.claims, self._noted(notes)
        self._bounds = Bounds(record.layers, *ends, *shown)
        self._ends: dict[int, np.ndarray] = {}  # (2, neurons of the chain) of each node
        self._waiting: list[tuple[int, int, float]] = []  # node, target, bound
        self._layer = -1

    def start(self) -> np.ndarray:
        """Numbers of the conjunctions' roots."""
        roots = self._record.start(self._claims, is_kept=True)
        for root in roots.tolist():
            self._ends[root] = np.concatenate([self._low, self._high])[:, self._columns]
        return roots

    def split(self, node: int, neuron: int) -> tuple[int, int]:
        """Numbers of the parts of a node where a neuron reads at most, and at least 0."""
        self._narrow()
        place = np.array([len(self._claims[0].lower) + self._columns[neuron]])
        below, above = self._record.split(np.array([node]), place, np.zeros(1)).tolist()
        ends = self._ends.pop(node)
        self._ends |= {below: ends, above: ends.copy()}
        self._ends[below][1, neuron] = min(ends[1, neuron], 0.0)
        self._ends[above][0, neuron] = max(self._ends[above][0, neuron], 0.0)
        return below, above

    def bound(
        self, nodes: np.ndarray, claim: np.ndarray, layer: int, neurons: np.ndarray, given: Numbers
    ) -> None:
        """Shows bounds of neurons of a layer on nodes, where no row is positive.

        Args:
            nodes: (n,).
            claim: (n,) conjunctions.
            layer: of the chain; layers come in their order.
            neurons: (n,) of the chain.
            given: of 2n sums, first of what the neurons read, then of its negative; shares of all
                rows.
        """
        if self._record.entries > _MOST:
            return
        if layer != self._layer:
            self._narrow()
            self._layer = layer
        nodes, claim, neurons = (np.tile(one, 2) for one in (nodes, claim, neurons))
        side = np.repeat([1, -1], len(nodes) // 2)
        target = side * (self._columns[neurons] + 1)
        lemmas = self._certificates(claim, target, given)
        found = self._shown(nodes, lemmas)
        ends = np.stack([self._ends[node] for node in nodes.tolist()])[
            np.arange(len(nodes)), :, neurons
        ]
        gain = np.where(side > 0, found - ends[:, 0], found + ends[:, 1])
        worth = np.flatnonzero(gain > _GAIN * (ends[:, 1] - ends[:, 0]))
        self._record.add_lemmas(nodes[worth], self._columns, lemmas.of(worth))
        shown = nodes[worth], (side * (neurons + 1))[worth], found[worth]
        self._waiting += zip(*(one.tolist() for one in shown), strict=True)

    def close(self, nodes: np.ndarray, claim: np.ndarray, given: Numbers) -> np.ndarray:
        """(n,) whether the checker refutes nodes as well."""
        self._narrow()
        leaves = self._certificates(claim, np.zeros(len(nodes), np.intp), given)
        weights, offsets = (rows[leaves.theorem] for rows in self._record.claims)
        size = (leaves.multipliers * (np.abs(offsets) + np.abs(weights).sum(axis=2))).sum(axis=1)
        ends = np.stack([self._ends[node] for node in nodes.tolist()])
        is_closed = (self._shown(nodes, leaves) > _MARGIN * size) | (ends[:, 0] > ends[:, 1]).any(
            axis=1
        )
        self._record.add_leaves(nodes[is_closed], self._columns, leaves.of(is_closed))
        for node in nodes[is_closed].tolist():
            del self._ends[node]
        return is_closed

    def _narrow(self) -> None:
        """Keeps the bounds of a layer: what the checker knows once it has seen all of them."""
        for node, target, found in self._waiting:
            ends, neuron = self._ends[node], abs(target) - 1
            if target > 0:
                ends[0, neuron] = max(ends[0, neuron], found)
            else:
                ends[1, neuron] = min(ends[1, neuron], -found)
        self._waiting, self._layer = [], -1

    def _shown(self, nodes: np.ndarray, given: Certificates) -> np.ndarray:
        """(n,) what the checker finds."""
        numbers, part = np.unique(nodes, return_inverse=True)
        low, high = (np.repeat(end, len(numbers), axis=0) for end in (self._low, self._high))
        ends = np.stack([self._ends[number] for number in numbers.tolist()])
        low[:, self._columns], high[:, self._columns] = ends[:, 0], ends[:, 1]
        box = np.zeros(len(numbers), np.intp)
        return self._bounds.shown(low, high, box, given._replace(part=part))

    def _certificates(self, claim: np.ndarray, target: np.ndarray, given: Numbers) -> Certificates:
        """Of the neurons of the chain alone; parts are not numbered yet."""
        own = self._own[claim]
        shares = np.where(own >= 0, np.take_along_axis(given.shares, own, axis=1), 0.0)
        slopes = np.clip(given.alphas, 0.0, 1.0).astype(np.float16)
        return Certificates(0 * target, self._theorems[claim], target, shares, slopes, given.betas)

    def _noted(self, notes: Sequence[Note]) -> Certificates:
        """Bounds on the whole box, as lemmas of the first theorem's."""
        record, count = self._record, len(self._columns)
        targets, slopes = [np.zeros(0, np.intp)], [np.zeros((0, count), np.float16)]
        for index, entries, alphas in notes:
            if (neurons := record.neurons_of(index, entries)) is not None:
                targets += [neurons + 1, -neurons - 1]
                slopes.append(np.full((2 * len(neurons), count), np.nan, np.float16))
                slopes[-1][:, : alphas.shape[1]] = np.clip(alphas, 0.0, 1.0)
        target, below = np.concatenate(targets), np.concatenate(slopes)
        shares = np.zeros((len(target), record.claims[1].shape[1]))
        part, betas = np.zeros(len(target), np.intp), np.zeros(below.shape, np.float32)
        lemmas = Certificates(part, self._theorems[part], target, shares, below, betas)
        record.add_lemmas(np.full(len(target), -1 - self._theorems[0]), self._columns, lemmas)
        return lemmas
