"""The tree of a search, as a proof that `deel_lip_tf.checking` confirms."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deel_lip_tf._files.writing import whole_file
from deel_lip_tf.checking.bounds import Bounds, Certificates
from deel_lip_tf.checking.network import Layer
from deel_lip_tf.checking.proof import LEAF, heading
from deel_lip_tf.semantics.ir.evaluation import evaluated
from deel_lip_tf.semantics.ir.program import Elementwise, Program
from deel_lip_tf.verify.specification.property import Conjunction, Property, padded

_BATCH = 32  # leaves that are bounded together

Slopes = Iterable[tuple[int, np.ndarray, np.ndarray]]


class Record:
    """Nodes of a search, numbered as they come: boxes on which a conjunction is open.

    Args:
        program: what is searched.
        property: what is asked.
        layers: the program, as the checker reads it.
    """

    def __init__(self, program: Program, property: Property, layers: list[Layer]):
        self.layers, self._theorems = layers, _theorems(property)
        self._count = 0
        self._number = {id(claim): i for i, claim in enumerate(property.conjunctions)}
        self._roots, self._kept = np.full(len(self._number), -1), np.zeros(len(self._number), bool)
        self._order = _order(program, layers)
        self.neurons = sum(len(layer.bias) for layer in layers if layer.is_relu)
        self._splits: list[tuple[np.ndarray, ...]] = []
        self.entries = 0  # of slopes, so far
        self._leaves: list[_Shown] = []
        self._lemmas: list[_Shown] = []

    @property
    def claims(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the theorems, (theorems, rows, outputs) and (theorems, rows)."""
        return self._theorems["weights"], self._theorems["offsets"]

    def theorems(self, claims: Sequence[Conjunction]) -> np.ndarray:
        """Numbers of the theorems of conjunctions."""
        return np.array([self._number[id(claim)] for claim in claims], np.intp)

    def neurons_of(self, index: int, entries: np.ndarray) -> np.ndarray | None:
        """Which neurons of the file entries of a node of the program are; None where unknown."""
        return self._order[index][entries] if index in self._order else None

    def start(self, claims: Sequence[Conjunction], is_kept: bool = False) -> np.ndarray:
        """Numbers of the roots of conjunctions.

        Args:
            claims: the conjunctions.
            is_kept: whether leaves keep what is known of neurons in their roots, and by lemmas;
                else the checker bounds each leaf anew.
        """
        roots, theorems = self._numbered(len(claims)), self.theorems(claims)
        self._roots[theorems], self._kept[theorems] = roots, is_kept
        return roots

    def split(self, nodes: np.ndarray, axis: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Numbers of the halves of nodes: all of the lower ones, then all of the upper ones.

        Args:
            nodes: (n,).
            axis: (n,) the input that is split.
            at: (n,) where.
        """
        halves = self._numbered(2 * len(nodes))
        self._splits.append((nodes, axis, at, *np.split(halves, 2)))
        return halves

    def close(
        self,
        nodes: np.ndarray,
        claims: Sequence[Conjunction],
        boxes: Sequence[np.ndarray],
        shares: np.ndarray,
        slopes: Slopes,
        margin: float,
    ) -> np.ndarray:
        """Records those nodes that the checker refutes as well, with bounds of its own.

        Args:
            nodes: (n,).
            claims: n conjunctions.
            boxes: lower and upper ends, (n, inputs).
            shares: (n, rows) multipliers of the rows.
            slopes: by layer of a network, which node of the program it is of, which of its entries
                are its neurons, and the (n, neurons) slopes of the lines below them.
            margin: how far above 0 the sum of the rows must be.

        Returns:
            (n,) whether they are refuted.
        """
        below = np.full((len(nodes), self.neurons), np.nan, np.float16)
        for index, entries, own in slopes:
            if (neurons := self.neurons_of(index, entries)) is not None:
                below[:, neurons] = own
        rows = self.claims[1].shape[1]
        shares = np.pad(shares, ((0, 0), (0, rows - shares.shape[1])))
        part, betas = np.arange(len(nodes)), np.zeros_like(below)
        given = Certificates(part, self.theorems(claims), 0 * part, shares, below, betas)
        is_closed = np.zeros(len(nodes), bool)
        for i in range(0, len(nodes), _BATCH):
            few = slice(i, i + _BATCH)
            lower, upper = (end[few] for end in boxes)
            is_closed[few] = self._lowest(lower, upper, given.of(few)) > margin
        self.add_leaves(nodes[is_closed], np.arange(self.neurons), given.of(is_closed))
        return is_closed

    def _lowest(self, lower: np.ndarray, upper: np.ndarray, given: Certificates) -> np.ndarray:
        """(n,) what the checker finds on boxes, without signs of neurons."""
        part = np.arange(len(lower))
        low = np.full((len(lower), self.neurons), -np.inf)
        high, columns = -low, np.arange(self.neurons)
        bounds = Bounds(self.layers, lower, upper, low, high, given.slopes, columns, self.claims)
        return bounds.shown(low, high, part, given._replace(part=part))

    def add_leaves(self, nodes: np.ndarray, columns: np.ndarray, given: Certificates) -> None:
        """Nodes (n,) that certificates refute, whose slopes are of some neurons."""
        self.entries += given.slopes.size
        self._leaves.append(_Shown(nodes, columns, given))

    def add_lemmas(self, places: np.ndarray, columns: np.ndarray, given: Certificates) -> None:
        """Certificates of neurons' bounds, on nodes (n,) or, from -1 on down, boxes of theorems."""
        self.entries += given.slopes.size
        self._lemmas.append(_Shown(places, columns, given))

    def _numbered(self, count: int) -> np.ndarray:
        self._count += count
        return np.arange(self._count - count, self._count)

    @property
    def is_proof(self) -> bool:
        """Whether all conjunctions have a root, and all nodes are split or refuted."""
        done = sum(len(one[0]) for one in [*self._splits, *self._leaves])
        return done == self._count and bool((self._roots >= 0).all())

    def write(self, path: str | Path, network: str | Path, property: str | Path) -> None:
        """Writes the proof, as `docs/verification.md` describes it; it must be one.

        Args:
            path: of the file to be written.
            network: path of the ONNX file.
            property: path of the VNN-LIB file.
        """
        axis, at = np.full(self._count, LEAF, np.int32), np.zeros(self._count)
        halves = np.zeros((2, self._count), np.int64)
        for nodes, axes, cuts, *both in self._splits:
            axis[nodes], at[nodes], halves[:, nodes] = axes, cuts, both
        levels = [self._roots]
        while len(levels[-1]):
            levels.append(halves[:, levels[-1][axis[levels[-1]] != LEAF]].ravel())
        order = np.concatenate(levels)
        arrays: dict[str, Any] = {"heading": np.array(heading(network, property))}
        arrays |= {"axis": axis[order], "at": at[order], **self._theorems}
        arrays |= self._certificates(order, axis[order] == LEAF)
        with whole_file(path) as file:
            np.savez_compressed(file, **arrays)

    def _certificates(self, order: np.ndarray, is_leaf: np.ndarray) -> dict[str, np.ndarray]:
        """What refutes the leaves, in the order of the file, and then what bounds neurons."""
        number = np.empty(self._count, np.int64)
        number[order] = np.arange(self._count)
        shown = [*self._leaves, *self._lemmas]
        columns = np.arange(self.neurons)
        if self._kept.any():
            columns = np.unique(np.concatenate([np.zeros(0, int), *(one.columns for one in shown)]))
        nodes = np.concatenate([np.zeros(0, int), *(one.nodes for one in shown)])
        leaves = np.flatnonzero(is_leaf)
        rank = np.argsort(number[nodes[: len(leaves)]])
        rank = np.concatenate([rank, np.arange(len(leaves), len(nodes))])
        parts = [self._packed(one, columns) for one in shown]
        slopes = np.zeros((0, len(columns)), np.float16)
        nothing = np.zeros((0, self.claims[1].shape[1])), slopes, slopes
        together = [np.concatenate(each)[rank] for each in zip(nothing, *parts, strict=True)]
        names = ("multipliers", "slopes", "betas")
        arrays: dict[str, np.ndarray] = dict(zip(names, together, strict=True))
        if not self._kept.any():
            return arrays
        at, targets = nodes[len(leaves) :], [one.given.target for one in self._lemmas]
        arrays["kept"], arrays["columns"] = self._kept, columns
        arrays["places"] = np.where(at < 0, at, number[at])
        arrays["targets"] = np.concatenate([np.zeros(0, int), *targets])
        return arrays

    def _packed(self, shown: "_Shown", columns: np.ndarray) -> tuple[np.ndarray, ...]:
        """Multipliers, slopes and betas, with those of all columns."""
        place, (nodes, _, given) = np.searchsorted(columns, shown.columns), shown
        slopes = np.full((len(nodes), len(columns)), np.nan, given.slopes.dtype)
        betas = np.zeros(slopes.shape, given.betas.dtype)
        slopes[:, place], betas[:, place] = given.slopes, given.betas
        return given.multipliers, slopes, betas


class _Shown(NamedTuple):
    """Certificates about nodes (n,), with slopes and betas of some neurons."""

    nodes: np.ndarray
    columns: np.ndarray
    given: Certificates


def _order(program: Program, layers: list[Layer]) -> dict[int, np.ndarray]:
    """Which neurons of the file the entries of each ReLU of a program are.

    Programs have the channels of an image last, and files have them first. Where values at a
    point tell neither, a node is left out.
    """
    nodes = [i for i, node in enumerate(program.nodes) if isinstance(node, Elementwise)]
    x = np.linspace(-1.0, 1.0, math.prod(program.input_shape)).reshape(1, *program.input_shape)
    values, known, begin, found = evaluated(program, x), x.ravel(), 0, {}
    for layer in layers:
        known = layer.weight @ known + layer.bias
        if not (layer.is_relu and nodes):
            continue
        known, index = np.maximum(known, 0.0), nodes.pop(0)
        shape, own = program.nodes[index].shape, values[index].ravel()
        channels_first = np.arange(math.prod(shape)).reshape(shape[-1], *shape[:-1])
        for order in (np.arange(own.size), np.moveaxis(channels_first, 0, -1).ravel()):
            if len(known) == own.size and np.allclose(known[order], own, rtol=1e-6, atol=1e-6):
                found[index] = begin + order
                break
        begin += len(known)
    return found


def _theorems(property: Property) -> dict[str, np.ndarray]:
    """The boxes of all conjunctions, and their rows: of each as many, the last one repeated."""
    claims = property.conjunctions
    rows = max([1, *(len(claim.weights) for claim in claims)])
    shape, inputs = (len(claims), rows), (len(claims), property.inputs)
    weights = [padded(claim.weights, rows) for claim in claims]
    offsets = [padded(claim.offsets, rows) for claim in claims]
    return {
        "lower": np.reshape([claim.lower for claim in claims], inputs),
        "upper": np.reshape([claim.upper for claim in claims], inputs),
        "weights": np.reshape(weights, (*shape, property.outputs)),
        "offsets": np.reshape(offsets, shape),
    }
