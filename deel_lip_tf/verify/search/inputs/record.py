"""The tree of a search, as a proof that `deel_lip_tf.checking` confirms."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deel_lip_tf._files.writing import whole_file
from deel_lip_tf.checking.network import Layer
from deel_lip_tf.checking.proof import LEAF, heading, lowest_sums
from deel_lip_tf.semantics.ir.program import Elementwise, Program
from deel_lip_tf.verify.specification.property import Conjunction, Property

__all__ = ["Record"]

Slopes = Iterable[tuple[int, np.ndarray, np.ndarray]]


class Record:
    """Nodes of a search, numbered as they come: boxes on which a conjunction is open.

    Args:
        program: what is searched.
        property: what is asked.
        layers: the program, as the checker reads it.
    """

    def __init__(self, program: Program, property: Property, layers: list[Layer]):
        self._layers, self._theorems = layers, _theorems(property)
        self._count = self._neurons = 0
        self._number = {id(claim): i for i, claim in enumerate(property.conjunctions)}
        self._roots = np.full(len(self._number), -1)
        self._first: dict[int, int] = {}  # of the neurons of each node, among those of the network
        for index, node in enumerate(program.nodes):
            if isinstance(node, Elementwise):
                # The entries of an image may stand in another order than in the file.
                self._first |= {index: self._neurons} if len(node.shape) == 1 else {}
                self._neurons += math.prod(node.shape)
        self._splits: list[tuple[np.ndarray, ...]] = []
        self._leaves: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def start(self, claims: Sequence[Conjunction]) -> np.ndarray:
        """Numbers of the roots of conjunctions."""
        roots = self._numbered(len(claims))
        self._roots[[self._number[id(claim)] for claim in claims]] = roots
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
        below = np.full((len(nodes), self._neurons), np.nan, np.float16)
        for index, entries, own in slopes:
            if index in self._first:
                below[:, self._first[index] + entries] = own
        theorem = [self._number[id(claim)] for claim in claims]
        weights, offsets = (self._theorems[name][theorem] for name in ("weights", "offsets"))
        shares = np.pad(shares, ((0, 0), (0, offsets.shape[1] - shares.shape[1])))
        signs, betas = np.zeros(below.shape, np.int8), np.zeros(below.shape)
        given = *boxes, signs, weights, offsets, shares, below, betas
        is_closed = lowest_sums(self._layers, *given) > margin
        self._leaves.append((nodes[is_closed], shares[is_closed], below[is_closed]))
        return is_closed

    def _numbered(self, count: int) -> np.ndarray:
        self._count += count
        return np.arange(self._count - count, self._count)

    @property
    def is_proof(self) -> bool:
        """Whether all conjunctions have a root, and all nodes are split or refuted."""
        done = sum(len(one[0]) for one in (*self._splits, *self._leaves))
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
        arrays |= self._certificates(order[axis[order] == LEAF])
        with whole_file(path) as file:
            np.savez_compressed(file, **arrays)

    def _certificates(self, leaves: np.ndarray) -> dict[str, np.ndarray]:
        """What refutes some leaves, in their order."""
        place = np.zeros(self._count, np.int64)
        place[leaves] = np.arange(len(leaves))
        multipliers = np.zeros((len(leaves), self._theorems["offsets"].shape[1]))
        slopes = np.zeros((len(leaves), self._neurons), np.float16)
        for nodes, shares, below in self._leaves:
            multipliers[place[nodes]], slopes[place[nodes]] = shares, below
        return {"multipliers": multipliers, "slopes": slopes, "betas": np.zeros_like(slopes)}


def _theorems(property: Property) -> dict[str, np.ndarray]:
    """The boxes of all conjunctions, and their rows: of each as many, the last one repeated."""
    claims = property.conjunctions
    rows = max([1, *(len(claim.weights) for claim in claims)])
    weights, offsets = (
        np.zeros((len(claims), rows, property.outputs)),
        np.zeros((len(claims), rows)),
    )
    ends = np.zeros((2, len(claims), property.inputs))
    for i, claim in enumerate(claims):
        ends[:, i] = claim.lower, claim.upper
        if len(claim.weights):
            own = np.minimum(np.arange(rows), len(claim.weights) - 1)
            weights[i], offsets[i] = claim.weights[own], claim.offsets[own]
    return {"lower": ends[0], "upper": ends[1], "weights": weights, "offsets": offsets}
