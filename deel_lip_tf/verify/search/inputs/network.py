"""A program on a box, reduced to what is not linear there.

On the box of all questions many activations read numbers of one sign only: they are linear maps, or
zeros. What remains are the entries that are not, "neurons" here, each an affine function of the
free inputs and of neurons before it:

    z = weights @ (free inputs, earlier neurons) + bias, up to `slack`; the neuron is f(z)

`slack` bounds the rounding errors of the coefficients, which are computed from those of the stored
network in float64, so that what is proven of the reduced network is proven of the program.
"""

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deel_lip_tf._rounding import TINY
from deel_lip_tf.semantics.ir.arrays import NUMPY
from deel_lip_tf.semantics.ir.program import Affine, Node, Program, left_slope
from deel_lip_tf.verify.search.inputs.bounds import Boxes, Layer, Relaxation
from deel_lip_tf.verify.search.signs.chain import Chain
from deel_lip_tf.verify.search.signs.tightening import tightened

_ENTRIES = 2**25  # of the largest array that is made
_CHAIN = 2**24  # of all matrices of neurons whose signs are split
_ULPS = 2.0**-50  # more than a few roundings of float64, relatively
_INPUTS = -1  # the free inputs as a source


class Undecided(Exception):
    """There is no answer, and there will be none in the time."""


class Note(NamedTuple):
    """How entries of a node were bounded, from below and then from above.

    Attributes:
        node: its number in the program.
        entries: (n,) which of it.
        alphas: (2n, neurons) slopes below all neurons of the chain until then.
    """

    node: int
    entries: np.ndarray
    alphas: np.ndarray


class _Columns(NamedTuple):
    """A node as an affine function of free inputs and neurons.

    Attributes:
        sources: the layers whose values it reads, the free inputs among them.
        terms: (1 + values, *shape) the constant, and the coefficient of each value.
        error: (1, *shape) how far the node may be from that function.
        size: (1, *shape) what the sum of the absolute values of all terms does not exceed.
    """

    sources: tuple[int, ...]
    terms: np.ndarray
    error: np.ndarray
    size: np.ndarray


def is_searchable(program: Program) -> bool:
    """Whether all functions are ReLUs, leaky ones too."""
    return all(
        isinstance(node, Affine) or left_slope(node) is not None for node in program.nodes[1:]
    )


class Network:
    """A program on a box.

    Args:
        program: for which `is_searchable` holds.
        lower: (inputs,) finite numbers.
        upper: (inputs,).
        end: of the time for making it, of the monotonic clock.
        chain: without a layer, of the box of the free inputs, or None. The neurons are appended to
            it, within intervals that optimized slopes make tighter.

    Attributes:
        lower: as given.
        upper: as given.
        free: positions of the inputs that are not fixed.
        layers: of neurons, in the order of computation.
        places: of each layer, the node and the entries of it that are neurons.
        notes: how entries were bounded by slopes that were optimized for them.
        roundoff: relative error of any sum of products.

    Raises:
        Undecided: it is too late, or the network is too large.
    """

    def __init__(
        self,
        program: Program,
        lower: np.ndarray,
        upper: np.ndarray,
        end: float = math.inf,
        chain: Chain | None = None,
    ):
        self.lower, self.upper, self.roundoff = lower, upper, program.roundoff
        self.free = np.flatnonzero(lower < upper)
        self.layers: list[Layer] = []
        self.places: list[tuple[int, np.ndarray]] = []
        self.notes: list[Note] = []
        self._end, self._chain = end, chain
        whole = Boxes(lower[None, self.free], upper[None, self.free])
        relaxation = Relaxation(whole, self.roundoff)
        last = {parent: i for i, node in enumerate(program.nodes) for parent in node.parents}
        nodes = {0: self._inputs(program)}
        for index, node in enumerate(program.nodes[1:], 1):
            parents = [nodes[parent] for parent in node.parents]
            if isinstance(node, Affine):
                nodes[index] = self._affine(node, parents)
            else:
                count = len(self.layers)
                nodes[index], neurons = self._activation(index, node, parents[0], relaxation)
                self.places += [(index, neurons)] * (len(self.layers) - count)
            for parent in {p for p in node.parents if last[p] == index and p != program.output}:
                del nodes[parent]
        self._output = nodes[program.output]

    def rows(self, weights: np.ndarray, offsets: np.ndarray) -> Layer:
        """Linear functions (m, outputs) of the outputs, as a layer that nothing comes after."""
        sources, terms, error, size = self._output
        flat = terms.reshape(len(terms), -1) @ weights.T
        flat[0] += offsets
        absolute = np.abs(weights)
        added = absolute @ size.ravel() + np.abs(offsets)
        slack = absolute @ error.ravel() * (1.0 + self.roundoff) + 2.0 * self.roundoff * added
        slack = slack + self._lost(sources)
        return self._layer(sources, flat, slack)

    def _reach(self, source: int) -> np.ndarray:
        """What the absolute values of the values of a source do not exceed."""
        if source != _INPUTS:
            return self.layers[source].reach
        return np.maximum(np.abs(self.lower), np.abs(self.upper))[self.free]

    def _lost(self, sources: tuple[int, ...]) -> float:
        """More than all coefficients that underflow, times the values of the sources."""
        return TINY * (1.0 + sum(float(self._reach(source).sum()) for source in sources))

    def _sized(self, sources: tuple[int, ...], terms: np.ndarray, error: np.ndarray) -> _Columns:
        if time.monotonic() > self._end:
            raise Undecided
        reach = np.concatenate([[1.0], *(self._reach(source) for source in sources)])
        flat = np.abs(terms).reshape(len(terms), -1)
        size = (reach @ flat).reshape(error.shape) * (1.0 + self.roundoff) + error
        return _Columns(sources, terms, error, size)

    def _inputs(self, program: Program) -> _Columns:
        terms = np.zeros((1 + len(self.free), len(self.lower)))
        fixed = np.setdiff1d(np.arange(len(self.lower)), self.free)
        terms[0, fixed] = self.lower[fixed]
        terms[1 + np.arange(len(self.free)), self.free] = 1.0
        shaped = terms.reshape(-1, *program.input_shape)
        return self._sized((_INPUTS,), shaped, np.zeros((1, *program.input_shape)))

    def _affine(self, node: Affine, parents: Sequence[_Columns]) -> _Columns:
        sources = tuple(sorted({source for parent in parents for source in parent.sources}))
        count = 1 + sum(len(self._reach(source)) for source in sources)
        if count * math.prod(node.shape) > _ENTRIES:
            raise Undecided
        terms = node.map.apply(NUMPY, [self._aligned(parent, sources) for parent in parents])
        rounding = 0.0 if node.is_exact else 2.0 * self.roundoff
        errors = [parent.error + rounding * parent.size for parent in parents]
        error = node.map.absolute(NUMPY, errors) * (1.0 + rounding) + self._lost(sources)
        if node.bias is not None:
            terms = np.concatenate([terms[:1] + node.bias, terms[1:]])
            error = error + 2.0 * self.roundoff * np.abs(node.bias)
        return self._sized(*self._without_zeros(sources, terms), error)

    def _aligned(self, parent: _Columns, sources: tuple[int, ...]) -> np.ndarray:
        """The terms of a node with zeros for the sources it does not read."""
        if parent.sources == sources:
            return parent.terms
        own = dict(zip(parent.sources, self._parts(parent.sources, parent.terms), strict=True))
        shape = parent.terms.shape[1:]
        others = {s: np.zeros((len(self._reach(s)), *shape)) for s in sources if s not in own}
        return np.concatenate([parent.terms[:1], *({**own, **others}[s] for s in sources)])

    def _parts(self, sources: tuple[int, ...], terms: np.ndarray) -> list[np.ndarray]:
        counts = [len(self._reach(source)) for source in sources]
        return np.split(terms[1:], np.cumsum(counts)[:-1]) if counts else []

    def _without_zeros(
        self, sources: tuple[int, ...], terms: np.ndarray
    ) -> tuple[tuple[int, ...], np.ndarray]:
        pairs = list(zip(sources, self._parts(sources, terms), strict=True))
        kept = [(source, part) for source, part in pairs if part.any()]
        if len(kept) == len(pairs):
            return sources, terms
        parts = [part for _, part in kept]
        return tuple(source for source, _ in kept), np.concatenate([terms[:1], *parts])

    def _activation(
        self, index: int, node: Node, parent: _Columns, relaxation: Relaxation
    ) -> tuple[_Columns, np.ndarray]:
        """Entries of one sign stay functions of what they read; the others are new neurons."""
        slopes = np.broadcast_to(left_slope(node), (1, *node.shape)).ravel().astype(np.float64)
        flat = parent.terms.reshape(len(parent.terms), -1)
        layer = self._layer(parent.sources, flat, parent.error.ravel())
        read = relaxation.read(layer)
        low, high = read.low[0], read.high[0]
        if self._chain is not None:
            rows = self._chain.rows(layer)
            notes: list[tuple[np.ndarray, np.ndarray]] = []
            low, high = tightened(self._chain, rows, low, high, self._end, notes)
            self.notes += [Note(index, *note) for note in notes]
        neurons = np.flatnonzero((low < 0) & (high > 0) & (slopes != 1.0))
        linear = np.where(low >= 0, 1.0, slopes)
        linear[neurons] = 0.0
        sources, terms = parent.sources, flat * linear
        error = np.abs(linear) * (parent.error.ravel() + _ULPS * parent.size.ravel())
        error = error + self._lost(sources)
        if len(neurons):
            own = layer.of(neurons, slopes[neurons], low[neurons], high[neurons])
            self.layers.append(own)
            relaxation.append(own, read.of(neurons, low, high))
            if self._chain is not None:
                self._chain.append(own, low[neurons], high[neurons])
                if self._chain.neurons * (self._chain.neurons + self._chain.inputs) > _CHAIN:
                    raise Undecided
            new = np.zeros((len(neurons), flat.shape[1]))
            new[np.arange(len(neurons)), neurons] = 1.0
            sources, terms = (*sources, len(self.layers) - 1), np.concatenate([terms, new])
        sources, terms = self._without_zeros(sources, terms)
        shaped = terms.reshape(-1, *node.shape), error.reshape(1, *node.shape)
        return self._sized(sources, *shaped), neurons

    def _layer(self, sources: tuple[int, ...], terms: np.ndarray, slack: np.ndarray) -> Layer:
        """Functions of values, (1 + values, rows), as a layer of rows."""
        parts = self._parts(sources, terms)
        weights = {s: np.ascontiguousarray(p.T) for s, p in zip(sources, parts, strict=True)}
        added = np.abs(terms[0]) + slack
        for source, matrix in weights.items():
            added = added + np.abs(matrix) @ self._reach(source)
        added = added * (1.0 + self.roundoff)
        return Layer(weights, terms[0], slack, added, np.ones(len(slack)), added)
