"""The tree of a proof: it covers what the property allows, and each leaf is refuted."""

import gzip
import hashlib
import zlib
from pathlib import Path
from tokenize import TokenError
from zipfile import BadZipFile

import numpy as np
from google.protobuf.message import DecodeError

from deel_lip_tf.checking.bounds import TINY, Bounds
from deel_lip_tf.checking.network import Layer, Rejected, read_network
from deel_lip_tf.checking.property import Row, Terms, box_of, implies, read_property

FORMAT = "deel_lip_tf proof 1"
LEAF = -1  # in place of what is split
MOST = np.finfo(np.float64).max
RANGES = {"multipliers": (0.0, MOST), "betas": (0.0, MOST), "slopes": (0.0, 1.0)}
BATCH = 32  # leaves that are bounded together: those of a cache
_ARCHIVE = BadZipFile, DecodeError, EOFError, MemoryError, RuntimeError, TokenError, zlib.error
MALFORMED = ArithmeticError, AttributeError, LookupError, TypeError, ValueError, *_ARCHIVE

# The theorem (n,) of each node, its box, `lower` and `upper` (n, inputs), `signs` (n, neurons):
# 1 or -1 where what a neuron reads is at least or at most 0, else 0.
Nodes = list[np.ndarray]


def content(path: str | Path) -> bytes:
    """Of a file, which may be compressed."""
    data = Path(path).read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def heading(network: str | Path, property: str | Path) -> list[str]:
    """The format of a proof, and what it is about: the SHA-256 of the contents of both files."""
    return [FORMAT, *(hashlib.sha256(content(path)).hexdigest() for path in (network, property))]


def read(network: str | Path, property: str | Path) -> tuple[list[Layer], list[int], list]:
    """The layers, the numbers of inputs and outputs, and the alternatives.

    Raises:
        Rejected: they are not known here.
        MALFORMED: they are not what they should be.
        OSError: a file cannot be read.
    """
    return read_network(content(network)), *read_property(content(property).decode())


def check(network: str | Path, property: str | Path, proof: str | Path) -> tuple[int, int]:
    """Confirms that no input satisfies a property.

    Args:
        network: an ONNX file, a chain of affine maps and ReLUs.
        property: a VNN-LIB 1.0 file.
        proof: an archive of arrays, as `docs/verification.md` describes it.

    Returns:
        How many nodes the tree has, and how many of them are leaves.

    Raises:
        Rejected: that is not shown.
        OSError: a file cannot be read.
    """
    try:
        layers, counts, alternatives = read(network, property)
        with open(proof, "rb") as file, np.errstate(all="ignore"), np.load(file) as given:
            if given["heading"].tolist() != heading(network, property):
                raise Rejected("the proof is about other files, or of another format")
            return _Proof(given, layers, *counts).checked(alternatives)
    except MALFORMED as error:
        raise Rejected(f"a file is malformed: {type(error).__name__}: {error}") from error


class _Proof:
    """The arrays of a proof, once they have the shapes and ranges that they must have."""

    def __init__(self, given, layers: list[Layer], inputs: int, outputs: int):
        if (layers[0].weight.shape[1], len(layers[-1].bias)) != (inputs, outputs):
            raise Rejected("the network has other inputs or outputs than the property")
        self.layers, self.inputs = layers, inputs
        self.neurons = neurons = sum(len(layer.bias) for layer in layers if layer.is_relu)
        count, rows = given["offsets"].shape
        nodes, leaves = given["axis"].size, np.count_nonzero(given["axis"] == LEAF)
        sizes: dict = {"lower": (count, inputs), "upper": (count, inputs), "offsets": (count, rows)}
        sizes |= {"weights": (count, rows, outputs), "axis": (nodes,), "slopes": (leaves, neurons)}
        sizes |= {"at": (nodes,), "multipliers": (leaves, rows), "betas": (leaves, neurons)}
        self.array = {name: given[name].astype(np.float64) for name in sizes}
        for name, found in self.array.items():
            least, most = RANGES.get(name, (-MOST, MOST))
            is_right = (least <= found) & (found <= most) | np.isnan(found) & (name == "slopes")
            if found.shape != sizes[name] or not is_right.all():
                raise Rejected(f"the array {name!r} has another shape, or numbers out of range")

    def checked(self, alternatives: list[list[Row]]) -> tuple[int, int]:
        """Confirms everything."""
        at, lower, upper = (self.array[name] for name in ("at", "lower", "upper"))
        axis, count, reached = self.array["axis"].astype(int), len(lower), 0
        for number, rows in enumerate(alternatives):
            box, order = box_of(rows), [*range(number, count), *range(count)]
            if box and not any(self._refutes(theorem, rows, *box) for theorem in order):
                raise Rejected(f"the proof says nothing of alternative {number} of the property")
        nodes = [np.arange(count), lower, upper, np.zeros((count, self.neurons), np.int8)]
        number_of = np.cumsum(axis == LEAF) - 1
        while len(nodes[0]):
            level = slice(reached, reached := reached + len(nodes[0]))
            if reached > len(axis):
                raise Rejected("the tree of the proof is cut off")
            is_leaf = axis[level] == LEAF
            self._refute([one[is_leaf] for one in nodes], number_of[level][is_leaf])
            split = [one[~is_leaf] for one in nodes]
            nodes = self._halves(split, axis[level][~is_leaf], at[level][~is_leaf])
        if reached != len(axis):
            raise Rejected("the proof has nodes that are not in its tree")
        return reached, int(np.count_nonzero(axis == LEAF))

    def _refutes(self, theorem: int, rows: list[Row], least: Terms, most: Terms) -> bool:
        """Whether a theorem is about the box of an alternative, and rows that it implies."""
        names = "lower", "upper", "weights", "offsets"
        lower, upper, *claims = (self.array[name][theorem].tolist() for name in names)
        return all(
            low <= least.get(f"X_{i}", -np.inf) and most.get(f"X_{i}", np.inf) <= high
            for i, (low, high) in enumerate(zip(lower, upper, strict=True))
        ) and all(implies(rows, *claim) for claim in zip(*claims, strict=True))

    def _halves(self, nodes: Nodes, axis: np.ndarray, at: np.ndarray) -> Nodes:
        """Both sides of each split: all of the lower ones, then all of the upper ones."""
        below, above = ([one.copy() for one in nodes] for _ in range(2))
        for row, (place, cut) in enumerate(zip(axis.tolist(), at.tolist(), strict=True)):
            if 0 <= place < self.inputs and nodes[1][row, place] <= cut <= nodes[2][row, place]:
                below[2][row, place] = above[1][row, place] = cut
            elif self.inputs <= place < self.inputs + self.neurons:
                below[3][row, place - self.inputs] = -1
                above[3][row, place - self.inputs] = 1
            else:
                raise Rejected("a split is of no input and no neuron, or outside of its box")
        return [np.concatenate(pair) for pair in zip(below, above, strict=True)]

    def _refute(self, leaves: Nodes, number: np.ndarray) -> None:
        """Confirms that a sum of rows is positive on each leaf: then they are not all at most 0."""
        theorem, *boxes = leaves
        rows = (self.array[name][theorem] for name in ("weights", "offsets"))
        shown = (self.array[name][number] for name in ("multipliers", "slopes", "betas"))
        if not (lowest_sums(self.layers, *boxes, *rows, *shown) > 0).all():
            raise Rejected("a leaf is not refuted")


def lowest_sums(layers: list[Layer], *given: np.ndarray) -> np.ndarray:
    """Lower bounds (n,) of sums of rows on n leaves, infinite where no input has the signs.

    Args:
        layers: of the network.
        given: `lower`, `upper`, `signs`, `weights`, `offsets`, `multipliers`, `slopes`, `betas`.
    """
    parts = ([one[i : i + BATCH] for one in given] for i in range(0, len(given[0]), BATCH))
    return np.concatenate([np.zeros(0), *(_lowest_sums(layers, *part) for part in parts)])


def _lowest_sums(layers, lower, upper, signs, weights, offsets, multipliers, slopes, betas):
    bounds = Bounds(layers, lower, upper, signs, slopes)
    sizes = np.abs(offsets) + (np.abs(weights) @ bounds.reach[-1][..., None])[..., 0] + TINY
    rows, total = multipliers[:, None] @ weights, (multipliers * offsets).sum(axis=1)[:, None]
    size = (1 + offsets.shape[1]) * (multipliers * sizes).sum(axis=1)[:, None]
    return np.where(bounds.is_empty, np.inf, bounds.lowest(rows, total, size, betas=betas)[:, 0])
