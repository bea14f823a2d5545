"""The tree of a proof: it covers what the property allows, and each leaf is refuted."""

import gzip
import hashlib
import itertools
import zlib
from pathlib import Path
from tokenize import TokenError
from zipfile import BadZipFile

import numpy as np
from google.protobuf.message import DecodeError

from deel_lip_tf.checking.bounds import Bounds, Certificates
from deel_lip_tf.checking.network import Layer, Rejected, read_network
from deel_lip_tf.checking.property import Row, Terms, box_of, implies, read_property

FORMAT = "deel_lip_tf proof 1"
LEAF = -1  # in place of what is split
BATCH = 64  # nodes that are confirmed together
MOST_BYTES, MOST_TEXT = 2**30, 2**24  # of a network or the arrays of a proof, and of a property
MOST_NODES, MOST_ENTRIES = 2**20, 2**26  # of the tree, and of an array
MOST_TRIED = 2**22  # pairs of an alternative and a theorem
RANGES = {"multipliers": (0.0, np.inf), "betas": (0.0, np.inf), "slopes": (0.0, 1.0)}
# Axes: theorems, inputs, rows, outputs, nodes, leaves and then lemmas (s), columns, lemmas (l).
SHAPES = {"lower": "ti", "upper": "ti", "weights": "tro", "offsets": "tr", "kept": "t"}
SHAPES |= {"axis": "n", "at": "n", "multipliers": "sr", "slopes": "sc", "betas": "sc"}
SHAPES |= {"columns": "c", "places": "l", "targets": "l"}
_ARCHIVE = BadZipFile, DecodeError, EOFError, MemoryError, RuntimeError, TokenError, zlib.error
MALFORMED = ArithmeticError, AttributeError, LookupError, TypeError, ValueError, *_ARCHIVE

# Number and theorem (n,) of each node, its box, `lower` and `upper` (n, inputs), and what neurons
# read there at least and at most, `low` and `high` (n, neurons).
Nodes = list[np.ndarray]


def content(path: str | Path, most: int | None = None) -> bytes:
    """Of a file, which may be compressed; one that holds more is refused before it is unpacked."""
    most = most or MOST_BYTES
    with open(path, "rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if is_packed else open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise Rejected(f"a file holds more than {most} bytes: {path}")
    return data


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
    return read_network(content(network)), *read_property(content(property, MOST_TEXT).decode())


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
            if sum(entry.file_size for entry in given.zip.infolist()) > MOST_BYTES:
                raise Rejected(f"the proof holds more than {MOST_BYTES} bytes")
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
        self.array = array = dict(given)
        if array["axis"].size > MOST_NODES:
            raise Rejected(f"the tree has more than {MOST_NODES} nodes")
        array.setdefault("kept", np.zeros(len(array["lower"])))
        array.setdefault("columns", np.arange(neurons))
        array.setdefault("places", np.zeros(0))
        array.setdefault("targets", np.zeros(0))
        self.axis, leaves = array["axis"].astype(int), np.count_nonzero(array["axis"] == LEAF)
        size = {"i": inputs, "o": outputs, "n": self.axis.size, "c": array["columns"].size}
        size |= zip("tr", array["offsets"].shape, strict=True)
        size |= {"l": array["places"].size, "s": leaves + array["places"].size}
        for name, letters in SHAPES.items():
            found, least, most = array[name], *RANGES.get(name, (-np.inf, np.inf))
            is_known = found.dtype.kind in "biuf" and found.size <= MOST_ENTRIES
            if not is_known or [*found.shape] != [size[i] for i in letters]:
                raise Rejected(f"the array {name!r} has another shape or type")
            is_right = np.isfinite(found) & (found >= least) & (found <= most)
            if not (is_right | np.isnan(found) & (name == "slopes")).all():
                raise Rejected(f"the array {name!r} has numbers out of range")
            if name not in ("slopes", "betas"):  # of which some rows are needed at a time
                array[name] = found.astype(np.float64)
        names = "places", "targets", "columns"
        self.places, self.targets, self.columns = (array[name].astype(int) for name in names)
        self.number_of = np.cumsum(self.axis == LEAF) - 1  # of the certificate of a leaf
        self.batch = 1 + 2**25 // (inputs * max(len(one.bias) for one in layers))

    def checked(self, alternatives: list[list[Row]]) -> tuple[int, int]:
        """Confirms everything."""
        lower, upper, kept = (self.array[name] for name in ("lower", "upper", "kept"))
        count = len(lower)
        for number, rows in enumerate(alternatives):
            box, near = box_of(rows), itertools.chain(range(number, count), range(count))
            order = itertools.islice(near, MOST_TRIED // len(alternatives))
            if box and not any(self._refutes(theorem, rows, *box) for theorem in order):
                raise Rejected(f"the proof says nothing of alternative {number} of the property")
        self.halves = self._tree(count)
        groups: dict[bytes, list[int]] = {}
        for theorem in range(count):
            key = lower[theorem].tobytes() + upper[theorem].tobytes() if kept[theorem] else b""
            groups.setdefault(key, []).append(theorem)
        for key, theorems in groups.items():
            self._confirm(np.array(theorems), bool(key))
        return len(self.axis), int(np.count_nonzero(self.axis == LEAF))

    def _refutes(self, theorem: int, rows: list[Row], least: Terms, most: Terms) -> bool:
        """Whether a theorem is about the box of an alternative, and rows that it implies."""
        names = "lower", "upper", "weights", "offsets"
        lower, upper, *claims = (self.array[name][theorem].tolist() for name in names)
        return all(
            low <= least.get(f"X_{i}", -np.inf) and most.get(f"X_{i}", np.inf) <= high
            for i, (low, high) in enumerate(zip(lower, upper, strict=True))
        ) and all(implies(rows, *claim) for claim in zip(*claims, strict=True))

    def _tree(self, count: int) -> np.ndarray:
        """(2, nodes) numbers of both halves of each node that is split; roots come first."""
        halves, begin, end = np.zeros((2, len(self.axis)), int), 0, count
        while begin < end <= len(self.axis):
            split = begin + np.flatnonzero(self.axis[begin:end] != LEAF)
            begin, end = end, end + 2 * len(split)
            halves[:, split] = np.arange(begin, end).reshape(2, -1)
        if end != len(self.axis):
            raise Rejected("the tree of the proof is cut off, or there are nodes beside it")
        return halves

    def _confirm(self, theorems: np.ndarray, is_kept: bool) -> None:
        """Confirms trees from their roots on; of one box, if bounds of neurons are kept."""
        lower, upper = (self.array[name][theorems] for name in ("lower", "upper"))
        low = np.full((len(theorems), self.neurons), -np.inf)
        high, bounds = -low, None
        if is_kept:
            own = np.flatnonzero(np.isin(-1 - self.places, theorems))
            first = np.zeros(len(own), int)
            lemmas = self._certificates(own - len(self.places), first, first, self.targets[own])
            slopes = np.full((1, len(self.columns)), np.nan)
            bounds = self._bounds(lower[:1], upper[:1], low[:1], high[:1], slopes, lemmas)
            low[:], high[:] = low[0], high[0]
        nodes = [theorems, theorems, lower, upper, low, high]
        while len(nodes[0]):
            rest, nodes = [one[:-BATCH] for one in nodes], [one[-BATCH:] for one in nodes]
            if bounds is not None:
                self._improve(bounds, *nodes)
            is_leaf = self.axis[nodes[0]] == LEAF
            for i in range(0, np.count_nonzero(is_leaf), self.batch):
                self._refute(bounds, *(one[is_leaf][i : i + self.batch] for one in nodes))
            halves = self._halves([one[~is_leaf] for one in nodes])
            nodes = [np.concatenate(three) for three in zip(rest, *halves, strict=True)]

    def _bounds(self, lower, upper, low, high, slopes, lemmas=None) -> Bounds:
        shown = slopes, self.columns, (self.array["weights"], self.array["offsets"]), lemmas
        return Bounds(self.layers, lower, upper, low, high, *shown)

    def _certificates(self, index: np.ndarray, *about: np.ndarray) -> Certificates:
        """Those of leaves come first in the file; `about` are the parts, theorems and targets."""
        shown = (self.array[name][index] for name in ("multipliers", "slopes", "betas"))
        return Certificates(*about, *shown)

    def _improve(self, bounds: Bounds, number, theorem, lower, upper, low, high) -> None:
        """Narrows what neurons read on nodes, by the lemmas of each, layer by layer."""
        own = np.flatnonzero(np.isin(self.places, number))
        order = np.argsort(number)
        part = order[np.searchsorted(number, self.places[own], sorter=order)]
        about = part, theorem[part], self.targets[own]
        lemmas = self._certificates(own - len(self.places), *about)
        for k in (k for k, layer in enumerate(self.layers) if layer.is_relu):
            bounds.improve(k, low, high, np.zeros(len(low), int), lemmas)

    def _refute(self, bounds: Bounds | None, number, theorem, lower, upper, low, high) -> None:
        """Confirms that a sum of rows is positive on each leaf: then they are not all at most 0."""
        part = np.arange(len(number))
        leaves = self._certificates(self.number_of[number], part, theorem, np.zeros_like(part))
        box = part if bounds is None else np.zeros_like(part)
        if bounds is None:
            bounds = self._bounds(lower, upper, low, high, leaves.slopes)
        is_shown = bounds.shown(low, high, box, leaves) > 0
        if not (is_shown | (low > high).any(axis=1)).all():
            raise Rejected("a leaf is not refuted")

    def _halves(self, nodes: Nodes) -> tuple[Nodes, Nodes]:
        """Both sides of each split."""
        below, above = ([one.copy() for one in nodes] for _ in range(2))
        below[0], above[0] = self.halves[:, nodes[0]]
        for row, (place, cut) in enumerate(
            zip(self.axis[nodes[0]].tolist(), self.array["at"][nodes[0]].tolist(), strict=True)
        ):
            neuron = place - self.inputs
            if 0 <= place < self.inputs and nodes[2][row, place] <= cut <= nodes[3][row, place]:
                below[3][row, place] = above[2][row, place] = cut
            elif 0 <= neuron < self.neurons:
                below[5][row, neuron] = min(below[5][row, neuron], 0.0)
                above[4][row, neuron] = max(above[4][row, neuron], 0.0)
            else:
                raise Rejected("a split is of no input and no neuron, or outside of its box")
        return below, above
